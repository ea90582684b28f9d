# SPDX-License-Identifier: Apache-2.0
"""Runs the public InSpatio-World transformer from a checkout of its repository, for comparison.

Only its model files are imported, as they are; what they need of `diffusers` and `einops` and do
not use for inference gets small stand-ins. The loop around the model is the public one in
arithmetic: one context pass, float64 x0, noise levels looked up on the device in every step.
"""

from __future__ import annotations

import contextlib
import importlib
import sys
import types
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from inspatio_ros.model.config import ModelConfig
from inspatio_ros.model.schedule import FlowSchedule

MODEL_FILE = "wan/modules/causal_model.py"
POSITION_OF_BLOCK = 6


class CheckoutError(RuntimeError):
    """The checkout is not what was expected."""


@dataclass
class Trace:
    """What a block went through: noisy latents and flow of each step."""

    noisy: list[Tensor] = field(default_factory=list)
    flow: list[Tensor] = field(default_factory=list)


def _stand_in(name: str, **content: object) -> None:
    """A module of that name unless the real one can be imported."""
    try:
        importlib.import_module(name)
    except ImportError:
        module = types.ModuleType(name)
        module.__dict__.update(content)
        module.__path__ = []  # type: ignore[attr-defined]
        sys.modules[name] = module


def _not_for_inference(*_: object, **__: object) -> None:
    raise CheckoutError("the reference called a function that inference was not seen to need")


def import_reference(checkout: Path) -> tuple[Any, Any]:
    """The classes CausalWanModel and FlowMatchScheduler of a checkout.

    Raises CheckoutError when the folder is none.
    """
    if not (checkout / MODEL_FILE).is_file():
        raise CheckoutError(f"{checkout} has no {MODEL_FILE}: not a checkout of the reference")
    _stand_in("diffusers")
    _stand_in(
        "diffusers.configuration_utils",
        ConfigMixin=type("ConfigMixin", (), {}),
        register_to_config=lambda function: function,
    )
    _stand_in("diffusers.models")
    _stand_in(
        "diffusers.models.modeling_utils",
        ModelMixin=type("ModelMixin", (torch.nn.Module,), {}),
    )
    _stand_in("einops", rearrange=_not_for_inference, repeat=_not_for_inference)
    # Bare packages, so that their __init__ files (which want tokenizers and more) do not run.
    for name in ("wan", "wan.modules", "utils"):
        package = types.ModuleType(name)
        package.__path__ = [str(checkout / name.replace(".", "/"))]
        sys.modules[name] = package
    model = importlib.import_module("wan.modules.causal_model").CausalWanModel
    scheduler = importlib.import_module("utils.scheduler").FlowMatchScheduler
    return model, scheduler


@contextlib.contextmanager
def current_device(device: torch.device) -> Iterator[None]:
    """The reference asks CUDA for the current device: answer for the CPU in a dry run."""
    if device.type == "cuda":
        yield
        return
    asked = torch.cuda.current_device
    torch.cuda.current_device = lambda: device  # type: ignore[assignment,return-value]
    try:
        yield
    finally:
        torch.cuda.current_device = asked


class PublicReference:
    """The reference's transformer with given weights, making blocks as its pipeline does."""

    def __init__(
        self, checkout: Path, config: ModelConfig, weights: dict[str, Tensor],
        device: torch.device, dtype: torch.dtype,
    ) -> None:
        model_class, scheduler_class = import_reference(checkout)
        with torch.device("meta"):
            self.model = model_class(
                model_type="t2v", patch_size=config.patch_size, text_len=config.text_len,
                in_dim=config.in_dim, dim=config.dim, ffn_dim=config.ffn_dim,
                freq_dim=config.freq_dim, text_dim=config.text_dim,
                out_dim=config.latent_channels, num_heads=config.num_heads,
                num_layers=config.num_layers, qk_norm=config.qk_norm,
                cross_attn_norm=config.cross_attn_norm, eps=config.eps,
            )
        self.model.load_state_dict(weights, strict=True, assign=True)
        self.model.eval().requires_grad_(False)
        self.forward: Any = self.model
        self.config, self.device, self.dtype = config, device, dtype
        self.scheduler = scheduler_class(
            num_inference_steps=config.train_timesteps, shift=config.timestep_shift,
            sigma_min=0.0, extra_one_step=True,
        )
        self.timesteps = torch.tensor(
            FlowSchedule.of(config).warp(config.denoising_steps), device=device
        )
        shape = (1, config.context_tokens(), config.num_heads, config.head_dim)
        self.cache = [
            {name: torch.zeros(shape, device=device, dtype=dtype) for name in ("k", "v")}
            for _ in range(config.num_layers)
        ]

    def compile(self, mode: str = "max-autotune") -> None:
        """Compile the whole model, as the reference's --compile_dit does."""
        self.forward = torch.compile(self.model, mode=mode, dynamic=False)

    @torch.inference_mode()
    def block(
        self, text: Tensor, reference: Tensor, history: Tensor | None, render: Tensor,
        mask: Tensor, noise: Tensor, trace: Trace | None = None,
    ) -> Tensor:
        """Latents `[1, F, C, h, w]` of one block; noise `[steps, 1, F, C, h, w]`."""
        with current_device(self.device):
            shown = [part for part in (reference, history) if part is not None]
            zeros = [
                torch.zeros_like(part[:, :, :1]).expand(
                    -1, -1, self.config.condition_channels, -1, -1)
                for part in shown
            ]
            context = torch.cat(
                [torch.cat(pair, dim=2) for pair in zip(shown, zeros, strict=True)], dim=1
            )
            time = torch.zeros(context.shape[:2], device=self.device, dtype=torch.int64)
            condition = torch.cat([mask, render], dim=2)
            self._pass(context, time, text, condition, (0, -1), 0)
            tokens = len(shown) * self.config.block_tokens()
            x = noise[0]
            batch, frames = x.shape[:2]
            clean = x
            for index, step in enumerate(self.timesteps):
                ones = torch.ones([batch, frames], device=self.device, dtype=torch.int64)
                time = ones * step
                flow = self._pass(x, time, text, condition, (0, tokens), POSITION_OF_BLOCK)
                if trace is not None:
                    trace.noisy.append(x)
                    trace.flow.append(flow)
                clean = self._clean(flow, x, time)
                if index + 1 < len(self.timesteps):
                    following = self.timesteps[index + 1] * torch.ones(
                        [batch * frames], device=self.device, dtype=torch.long
                    )
                    x = self.scheduler.add_noise(
                        clean.flatten(0, 1), noise[index + 1].flatten(0, 1), following
                    ).unflatten(0, (batch, frames))
            return clean

    def _pass(
        self, x: Tensor, time: Tensor, text: Tensor, condition: Tensor,
        span: tuple[int, int], position: int,
    ) -> Tensor:
        flow: Tensor = self.forward(
            x.permute(0, 2, 1, 3, 4).contiguous(), t=time, context=text,
            seq_len=self.config.cache_tokens(), kv_cache=self.cache, kv_size=span,
            render_latent_input=condition.permute(0, 2, 1, 3, 4).contiguous(),
            freqs_offset=position,
        )
        return flow.permute(0, 2, 1, 3, 4)

    def _clean(self, flow: Tensor, x: Tensor, time: Tensor) -> Tensor:
        """x0 in float64, the noise level looked up on the device."""
        sigmas = self.scheduler.sigmas.double().to(self.device)
        entries = self.scheduler.timesteps.double().to(self.device)
        nearest = (entries[None] - time.flatten()[:, None]).abs().argmin(dim=1)
        sigma = sigmas[nearest].reshape(*time.shape, 1, 1, 1)
        return (x.double() - sigma * flow.double()).to(x.dtype)
