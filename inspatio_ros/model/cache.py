# SPDX-License-Identifier: Apache-2.0
# Copyright inspatio_ros contributors
"""Keys and values of the context: allocated once, overwritten every block."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from inspatio_ros.model.config import ModelConfig, ModelError


class ContextStore(Protocol):
    """Where the context pass leaves keys and values, and the denoise passes find them."""

    batch: int

    def begin_context(self, tokens: int) -> None:
        """Forget the last context; the next one has `tokens` tokens (0: there is none)."""

    def store(self, layer: int, keys: Tensor, values: Tensor) -> None:
        """Keep one layer's keys and values `[B, N, H, d]` of the context."""

    def extend(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Context and then `keys`, `values` `[B, n, H, d]`: `[B, N + n, H, d]` each."""


class KVCache:
    """Keys and values `[B, N, H, d]` of every layer in two buffers of a fixed size.

    The context lies in the first slots; the block that is made is written behind it, so that one
    view covers both and nothing is ever concatenated. What was there before is overwritten.
    """

    def __init__(
        self,
        config: ModelConfig,
        batch: int,
        tokens: int,
        device: torch.device | str,
        dtype: torch.dtype,
    ) -> None:
        if batch < 1 or tokens < 1:
            raise ModelError(f"a cache of batch {batch} and {tokens} tokens holds nothing")
        shape = (config.num_layers, batch, tokens, config.num_heads, config.head_dim)
        self.keys = torch.zeros(shape, device=device, dtype=dtype)
        self.values = torch.zeros(shape, device=device, dtype=dtype)
        self.batch = batch
        self.tokens = tokens
        self.length = 0

    def reset(self) -> None:
        """Forget the context."""
        self.length = 0

    @property
    def device(self) -> torch.device:
        """Where the buffers are."""
        return self.keys.device

    @property
    def nbytes(self) -> int:
        """Bytes of both buffers; constant."""
        return 2 * self.keys.numel() * self.keys.element_size()

    def begin_context(self, tokens: int) -> None:
        """Forget the last context; the next one has `tokens` tokens. ModelError when too long."""
        if not 0 <= tokens <= self.tokens:
            raise ModelError(
                f"a context of {tokens} tokens does not fit into a cache of {self.tokens}; "
                "begin() the denoiser for this grid, or give fewer frames"
            )
        self.length = tokens

    def store(self, layer: int, keys: Tensor, values: Tensor) -> None:
        """Keep one layer's keys and values `[B, N, H, d]` of the context."""
        self.keys[layer, :, : self.length].copy_(keys)
        self.values[layer, :, : self.length].copy_(values)

    def extend(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Views `[B, N + n, H, d]` of the context with these `[B, n, H, d]` written behind it."""
        end = self.length + keys.shape[1]
        if end > self.tokens:
            raise ModelError(
                f"{keys.shape[1]} tokens behind a context of {self.length} do not fit into a "
                f"cache of {self.tokens}"
            )
        self.keys[layer, :, self.length : end].copy_(keys)
        self.values[layer, :, self.length : end].copy_(values)
        return self.keys[layer, :, :end], self.values[layer, :, :end]

    def context(self, layer: int) -> tuple[Tensor, Tensor]:
        """Views `[B, N, H, d]` of one layer's context."""
        return self.keys[layer, :, : self.length], self.values[layer, :, : self.length]


class DifferentiableContext:
    """The same for training: nothing is overwritten, so gradients reach the context pass."""

    def __init__(self, batch: int) -> None:
        self.batch = batch
        self._layers: dict[int, tuple[Tensor, Tensor]] = {}

    def begin_context(self, tokens: int) -> None:
        """Forget the last context."""
        self._layers.clear()

    def store(self, layer: int, keys: Tensor, values: Tensor) -> None:
        """Keep one layer's keys and values `[B, N, H, d]` of the context."""
        self._layers[layer] = (keys, values)

    def extend(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Context and then `keys`, `values`, as new tensors; just these without a context."""
        if layer not in self._layers:
            return keys, values
        context_keys, context_values = self._layers[layer]
        return (
            torch.cat([context_keys, keys], dim=1),
            torch.cat([context_values, values], dim=1),
        )
