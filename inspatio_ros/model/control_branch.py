# SPDX-License-Identifier: Apache-2.0
# Copyright inspatio_ros contributors
"""A control branch: the rendered cloud, its mask and the camera's rays, added layer by layer.

As WorldStereo and Uni3C condition their base (arXiv 2603.02049): render latents, mask and Plücker
rays are embedded, go through layers of their own, and each layer adds to one of the transformer's
through a projection that starts at zero. A second way of conditioning beside the channels of the
patch embedding; it can be switched off, and untrained it changes no bit.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from inspatio_ros.model.config import ModelConfig, ModelError
from inspatio_ros.model.layers import FeedForward

# Direction of a pixel's ray and its moment about the origin.
RAY_CHANNELS = 6


class ControlLayer(nn.Module):
    """A feed-forward layer with a residual, and what it adds to the transformer."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(config.dim, eps=config.eps)
        self.ffn = FeedForward(config.dim, 2 * config.dim, config.dim)
        self.out = nn.Linear(config.dim, config.dim)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)


class ControlBranch(nn.Module):
    """The weights of the control branch beside a transformer of `config`."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        channels = config.latent_channels + config.mask_channels + RAY_CHANNELS
        self.embedding = nn.Linear(channels * config.patch_values, config.dim)
        self.layers = nn.ModuleList(ControlLayer(config) for _ in range(config.num_layers))

    def prepare(self, render: Tensor, mask: Tensor, rays: Tensor) -> Controls:
        """What a block's denoise passes add; made once a block.

        render `[B, F, C, h, w]`, mask `[B, F, stride, h, w]` in [-1, 1], rays `[B, F, 6, h, w]`
        (see RAY_CHANNELS). Raises ModelError when they do not fit.
        """
        lead, grid = render.shape[:2], render.shape[-2:]
        for name, part, channels in (("render", render, self.config.latent_channels),
                                     ("mask", mask, self.config.mask_channels),
                                     ("rays", rays, RAY_CHANNELS)):
            expected = (*lead, channels, *grid)
            if tuple(part.shape) != expected:
                raise ModelError(f"control: {name} must be {list(expected)}, got "
                                 f"{list(part.shape)}")
        weight = self.embedding.weight
        _, rows, columns = self.config.patch_size
        shown = [part.to(weight) for part in (render, mask, rays)]
        parts = []
        for part in shown:
            batch, frames, channels, h, w = part.shape
            x = part.reshape(batch, frames, channels, h // rows, rows, w // columns, columns)
            parts.append(x.permute(0, 1, 3, 5, 2, 4, 6).reshape(
                batch, -1, channels * rows * columns))
        x = F.linear(parts[0], weight[:, :parts[0].shape[-1]], self.embedding.bias)
        start = parts[0].shape[-1]
        for part in parts[1:]:
            x = x + F.linear(part, weight[:, start:start + part.shape[-1]])
            start += part.shape[-1]
        additions = []
        for layer in self.layers:
            assert isinstance(layer, ControlLayer)
            x = x + layer.ffn(layer.norm(x))
            additions.append(layer.out(x))
        return Controls(additions)


class Controls:
    """Additions `[B, N, D]` by layer (a `LayerAddition`)."""

    def __init__(self, additions: list[Tensor]) -> None:
        self._additions = additions

    def add(self, index: int, x: Tensor, q: Tensor) -> Tensor:
        """x `[B, N, D]` with this layer's addition."""
        return x + self._additions[index].to(x)
