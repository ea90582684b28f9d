# SPDX-License-Identifier: Apache-2.0
# Copyright inspatio_ros contributors
"""The parts of a transformer block; their names are the keys of the public weights (Wan2.1)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from inspatio_ros.model.config import ModelConfig
from inspatio_ros.model.rope import Rotation, rotate


class RMSNorm(nn.Module):
    """Root-mean-square norm over all D channels; float32 inside, rounded before the gain."""

    def __init__(self, dim: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        """x `[..., D]` -> the same."""
        return F.rms_norm(x.float(), x.shape[-1:], eps=self.eps).to(x.dtype) * self.weight


class PatchEmbedding(nn.Module):
    """Latent patches to tokens: the public convolution, computed as one matrix product."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.patch = config.patch_size
        shape = (config.dim, config.in_dim, *config.patch_size)
        self.weight = nn.Parameter(torch.empty(shape))
        self.bias = nn.Parameter(torch.zeros(config.dim))
        nn.init.xavier_uniform_(self.weight.flatten(1))

    def forward(self, latents: Tensor) -> Tensor:
        """latents `[B, F, C, h, w]` -> tokens `[B, N, D]`, frame by frame, row by row.

        With fewer channels than the weights have, the missing last ones count as zero.
        """
        _, rows, columns = self.patch
        batch, frames, channels, h, w = latents.shape
        x = latents.reshape(batch, frames, channels, h // rows, rows, w // columns, columns)
        x = x.permute(0, 1, 3, 5, 2, 4, 6).reshape(batch, -1, channels * rows * columns)
        return F.linear(x, self.weight[:, :channels].flatten(1), self.bias)


class QKV(nn.Module):
    """Queries, keys, values and output of one attention: the layers of the public weights."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        dim = config.dim
        self.heads = config.num_heads
        self.q, self.k = nn.Linear(dim, dim), nn.Linear(dim, dim)
        self.v, self.o = nn.Linear(dim, dim), nn.Linear(dim, dim)
        self.norm_q = RMSNorm(dim, config.eps) if config.qk_norm else nn.Identity()
        self.norm_k = RMSNorm(dim, config.eps) if config.qk_norm else nn.Identity()

    def split(self, x: Tensor) -> Tensor:
        """`[B, N, D]` as heads `[B, N, H, d]`."""
        return x.reshape(*x.shape[:-1], self.heads, -1)


class SelfAttention(QKV):
    """Queries and keys are normed over all channels, then rotated by position."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.fused: tuple[Tensor, Tensor] | None = None

    def forward(self, x: Tensor, rotation: Rotation) -> tuple[Tensor, Tensor, Tensor]:
        """x `[B, N, D]` -> q, k, v `[B, N, H, d]` each."""
        if self.fused is None:
            q, k, v = self.q(x), self.k(x), self.v(x)
        else:
            q, k, v = F.linear(x, *self.fused).chunk(3, dim=-1)
        q = rotate(self.split(self.norm_q(q)), rotation)
        k = rotate(self.split(self.norm_k(k)), rotation)
        return q, k, self.split(v)

    def keys_values(self, x: Tensor, rotation: Rotation) -> tuple[Tensor, Tensor]:
        """x `[B, N, D]` -> k, v `[B, N, H, d]` each, where nothing will be asked."""
        if self.fused is None:
            k, v = self.k(x), self.v(x)
        else:
            weight, bias = (part[x.shape[-1] :] for part in self.fused)
            k, v = F.linear(x, weight, bias).chunk(2, dim=-1)
        return rotate(self.split(self.norm_k(k)), rotation), self.split(v)

    def fuse(self) -> None:
        """Lay the three weights side by side, so that one product makes q, k and v.

        q.weight and the others become views of the joint tensor: the state dictionary stays the
        public one and nothing is held twice. For inference, after the weights are in place.
        """
        parts = (self.q, self.k, self.v)
        weight = torch.cat([part.weight.detach() for part in parts])
        bias = torch.cat([part.bias.detach() for part in parts])
        for part, w, b in zip(parts, weight.chunk(3), bias.chunk(3), strict=True):
            part.weight = nn.Parameter(w, requires_grad=False)
            part.bias = nn.Parameter(b, requires_grad=False)
        self.fused = (weight, bias)

    # Moving, casting or loading replaces the weights and would leave the joint tensor behind.

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> SelfAttention:
        self.fused = None
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        return self

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        self.fused = None
        super()._load_from_state_dict(*args, **kwargs)


class CrossAttention(QKV):
    """Attention to the text; no positions."""

    def keys_values(self, text: Tensor) -> tuple[Tensor, Tensor]:
        """text `[B, L, D]` -> k, v `[B, L, H, d]`."""
        return self.split(self.norm_k(self.k(text))), self.split(self.v(text))

    def queries(self, x: Tensor) -> Tensor:
        """x `[B, N, D]` -> q `[B, N, H, d]`."""
        return self.split(self.norm_q(self.q(x)))


class AffineNorm(nn.LayerNorm):
    """Layer norm with weights, computed in the format of its input."""

    def forward(self, x: Tensor) -> Tensor:
        """x `[..., D]` -> the same."""
        weight, bias = self.weight.to(x.dtype), self.bias.to(x.dtype)
        return F.layer_norm(x, self.normalized_shape, weight, bias, self.eps)


class FeedForward(nn.Sequential):
    """Two linear layers with a tanh-approximated GELU between them."""

    def __init__(self, width: int, hidden: int, out: int) -> None:
        gelu = nn.GELU(approximate="tanh")
        super().__init__(nn.Linear(width, hidden), gelu, nn.Linear(hidden, out))


class Head(nn.Module):
    """Tokens to the flow of their patch."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.eps = config.eps
        self.head = nn.Linear(config.dim, config.patch_values * config.latent_channels)
        self.modulation = nn.Parameter(torch.randn(1, 2, config.dim) / config.dim**0.5)

    def forward(self, x: Tensor, shift: Tensor, gain: Tensor) -> Tensor:
        """x `[B, N, D]`, shift and gain `[B, 1, D]` -> `[B, N, patch * C]`."""
        return linear(self.head, modulated_norm(x, shift, gain, self.eps))


def modulated_norm(x: Tensor, shift: Tensor, gain: Tensor, eps: float) -> Tensor:
    """Layer norm of x `[B, N, D]` without weights, times gain plus shift, `[B, 1, D]` each."""
    return torch.addcmul(shift, F.layer_norm(x, x.shape[-1:], eps=eps), gain)


def linear(layer: nn.Linear, x: Tensor) -> Tensor:
    """A linear layer computed in the format of x, whatever that of its weights."""
    return F.linear(x, layer.weight.to(x.dtype), layer.bias.to(x.dtype))


def sinusoid(timesteps: Tensor, width: int) -> Tensor:
    """Features `[S, width]` float64 of timesteps `[S]`: cosines, then sines.

    Angle i is t * 10000^(-i / half).
    """
    half = width // 2
    rates = 10000.0 ** -(torch.arange(half, dtype=torch.float64, device=timesteps.device) / half)
    turns = torch.outer(timesteps.double(), rates)
    return torch.cat([turns.cos(), turns.sin()], dim=1)
