# SPDX-License-Identifier: Apache-2.0
"""What a training step is given: latents of one task, whatever they came from."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor

from inspatio_ros.model.config import ModelConfig, ModelError

Task = Literal["v2v", "t2v"]


@dataclass(frozen=True)
class LatentBatch:
    """Clips of whole blocks as normalized latents; N blocks of F latent frames each.

    target `[B, N, F, C, h, w]`: the true view. v2v also has source `[B, N, F, C, h, w]` (the
    reference block that goes with each block, as the engine's source mode gives it), render
    `[B, N, F, C, h, w]` and mask `[B, N, F, stride, h, w]` in [-1, 1]; t2v has none of them.
    text `[B, text_len, text_dim]`, or None for the null prompt. weight `[B, N, F, 1, h, w]`: how
    much each place of the target counts, or None for 1 everywhere (places without truth get 0).
    domain: name of the data set, for figures and for mixing.
    """

    task: Task
    target: Tensor
    source: Tensor | None = None
    render: Tensor | None = None
    mask: Tensor | None = None
    text: Tensor | None = None
    weight: Tensor | None = None
    domain: str = ""

    @property
    def size(self) -> int:
        """Clips in the batch."""
        return self.target.shape[0]

    @property
    def blocks(self) -> int:
        """Blocks of each clip."""
        return self.target.shape[1]

    def check(self, config: ModelConfig) -> None:
        """Raises ModelError, naming the part, when a shape does not fit the model or its task."""
        grid = self.target.shape[-2:]
        lead = (self.size, self.blocks, config.frames_per_block)
        parts = {"target": (self.target, config.latent_channels)}
        given = {"source": (self.source, config.latent_channels),
                 "render": (self.render, config.latent_channels),
                 "mask": (self.mask, config.mask_channels)}
        for name, (part, channels) in given.items():
            if (part is None) != (self.task == "t2v"):
                raise ModelError(f"a {self.task} batch with{'out' if part is None else ''} {name}")
            if part is not None:
                parts[name] = (part, channels)
        for name, (part, channels) in parts.items():
            expected = (*lead, channels, *grid)
            if tuple(part.shape) != expected:
                raise ModelError(
                    f"{name} must be [B, N, F, C, h, w] = {list(expected)}, got "
                    f"{list(part.shape)}")

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> LatentBatch:
        """The same batch on a device, in a format."""
        def moved(part: Tensor | None) -> Tensor | None:
            return None if part is None else part.to(device, dtype, non_blocking=True)

        target = moved(self.target)
        assert target is not None
        return LatentBatch(self.task, target, moved(self.source), moved(self.render),
                           moved(self.mask), moved(self.text), moved(self.weight), self.domain)


class BatchSource(Protocol):
    """An endless, seekable stream of batches: batch `step` is a function of the step alone.

    That makes an interrupted run equal to an undisturbed one. rank and world_size split a global
    batch among processes without overlap.
    """

    def batch(self, step: int, rank: int = 0, world_size: int = 1) -> LatentBatch:
        """The part of global batch `step` that process `rank` of `world_size` works on."""
        ...

    def validation(self) -> Iterator[LatentBatch]:
        """Batches that are never trained on, in a fixed order."""
        ...
