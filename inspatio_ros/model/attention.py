# SPDX-License-Identifier: Apache-2.0
# Copyright inspatio_ros contributors
"""Attention behind one call, with the kernel picked once, by name.

| name | kernel |
| --- | --- |
| `sdpa` | PyTorch's own choice; the only one besides `math` on a CPU |
| `cudnn` | PyTorch, cuDNN first: about 1.7 times as fast as `sdpa` on Hopper |
| `flash3` | FlashAttention-3 (`flash_attn_interface` or `fa3_fwd_interface`), Hopper, 16 bit |
| `flash2` | FlashAttention-2 (`flash_attn`), 16 bit |
| `math` | written out in float32: what the others are tested against |
"""

from __future__ import annotations

import importlib
import logging
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from inspatio_ros.model.config import ModelError

logger = logging.getLogger(__name__)

# q, k, v [B, N, H, d], [B, M, H, d], [B, M, H, d] -> [B, N, H, d]; every query sees every key.
AttentionFunction = Callable[[Tensor, Tensor, Tensor], Tensor]

FLASH3_MODULES = ("flash_attn_interface", "fa3_fwd_interface")
FLASH2_MODULES = ("flash_attn",)
CUDNN_ORDER = [
    SDPBackend.CUDNN_ATTENTION,
    SDPBackend.FLASH_ATTENTION,
    SDPBackend.EFFICIENT_ATTENTION,
    SDPBackend.MATH,
]


def sdpa(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """PyTorch's scaled dot-product attention with its own choice of kernel.

    Under autocast in its number format: rotations leave q and k in float32, and the mixture would
    be taken to float32, which on a CPU takes a third longer with gradients, thrice without.
    """
    kind = q.device.type
    if kind != "meta" and torch.is_autocast_enabled(kind):
        q, k, v = (t.to(torch.get_autocast_dtype(kind)) for t in (q, k, v))
    out = F.scaled_dot_product_attention(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2))
    return out.transpose(1, 2)


def cudnn(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """PyTorch's attention, cuDNN's kernel wherever it can run."""
    with sdpa_kernel(CUDNN_ORDER, set_priority=True):
        return sdpa(q, k, v)


def math(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """softmax(q k^T / sqrt(d)) v written out in float32."""
    scores = torch.einsum("bnhd,bmhd->bhnm", q.float(), k.float()) * q.shape[-1] ** -0.5
    return torch.einsum("bhnm,bmhd->bnhd", scores.softmax(-1), v.float()).to(q.dtype)


def _flash(modules: tuple[str, ...]) -> AttentionFunction | None:
    """flash_attn_func of the first module that can be imported, or None."""
    for name in modules:
        try:
            return _first_result(importlib.import_module(name).flash_attn_func)
        except (ImportError, AttributeError) as error:
            logger.debug("attention: %s cannot be used: %s", name, error)
    return None


def _first_result(function: Callable[..., Any]) -> AttentionFunction:
    """Some releases of FlashAttention-3 return the log-sum-exp as well: leave it out."""

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        out = function(q, k, v)
        result: Tensor = out[0] if isinstance(out, tuple) else out
        return result

    return attend


def flash2() -> AttentionFunction | None:
    """FlashAttention-2 when it is installed."""
    return _flash(FLASH2_MODULES)


def flash3() -> AttentionFunction | None:
    """FlashAttention-3 when it is installed."""
    return _flash(FLASH3_MODULES)


def available(device: torch.device, dtype: torch.dtype) -> dict[str, AttentionFunction]:
    """Name -> function of everything that runs on this device in this number format."""
    functions: dict[str, AttentionFunction] = {"sdpa": sdpa, "math": math}
    if device.type != "cuda":
        return functions
    functions["cudnn"] = cudnn
    if dtype not in (torch.float16, torch.bfloat16):
        return functions
    capability = torch.cuda.get_device_capability(device)
    second = flash2() if capability >= (8, 0) else None
    third = flash3() if capability[0] == 9 else None
    if second is not None:
        functions["flash2"] = second
    if third is not None:
        functions["flash3"] = third
    return functions


def preferred(device: torch.device, dtype: torch.dtype, names: set[str]) -> tuple[str, str]:
    """(name, reason) of what `auto` means among the `names` that are available."""
    if device.type != "cuda":
        return "sdpa", f"the choice on {device.type}"
    if dtype not in (torch.float16, torch.bfloat16):
        return "sdpa", f"{dtype} has no other fast kernel"
    if torch.cuda.get_device_capability(device)[0] < 9:
        return "sdpa", "before Hopper its kernels are as fast as cuDNN's"
    if "flash3" in names:
        return "flash3", "FlashAttention-3 is installed and this is a Hopper device"
    return "cudnn", "the fastest of PyTorch's kernels from Hopper on"


class Attention:
    """A picked attention kernel, to be called with q, k and v.

    name: `auto` or one of the table above. The choice is made here and logged with its reason.
    Raises ModelError when the named kernel does not exist or cannot run here.
    """

    def __init__(self, name: str, device: torch.device, dtype: torch.dtype) -> None:
        functions = available(device, dtype)
        reason = "as asked"
        if name == "auto":
            name, reason = preferred(device, dtype, set(functions))
        if name not in functions:
            raise ModelError(
                f"attention '{name}' cannot run on {device} in {dtype}; "
                f"use auto or one of {', '.join(sorted(functions))}"
            )
        self.name = name
        self.function = functions[name]
        logger.info("attention: %s on %s in %s (%s)", name, device, dtype, reason)

    def __call__(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """q `[B, N, H, d]`, k and v `[B, M, H, d]` -> `[B, N, H, d]`."""
        return self.function(q, k, v)
