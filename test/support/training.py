# SPDX-License-Identifier: Apache-2.0
"""A toy model and endless toy latents for tests of training."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from inspatio_ros.model.config import ModelConfig
from inspatio_ros.model.transformer import CausalTransformer
from inspatio_ros.training.batches import LatentBatch, Task
from inspatio_ros.training.draws import generator_of

TOY = ModelConfig(
    name="toy", dim=48, ffn_dim=96, num_heads=4, num_layers=2, freq_dim=16, text_dim=8,
    text_len=1, height=32, width=32, latent_channels=4, first_frames=4,
)


def toy_model(config: ModelConfig = TOY, seed: int = 0) -> CausalTransformer:
    torch.manual_seed(seed)
    return CausalTransformer(config)


class ToySource:
    """Clips that are a function of their number; `clips` different ones, in turn."""

    def __init__(
        self, size: int = 2, blocks: int = 2, tasks: Sequence[Task] = ("v2v", "t2v"),
        clips: int = 1000, config: ModelConfig = TOY, weighted: bool = True,
    ) -> None:
        self.size, self.blocks, self.tasks, self.clips = size, blocks, tuple(tasks), clips
        self.config, self.weighted = config, weighted

    def clip(self, number: int) -> dict[str, Tensor]:
        config, generator = self.config, generator_of("toy", number % self.clips)
        lead, grid = (self.blocks, config.frames_per_block), config.latent_grid

        def normal(channels: int) -> Tensor:
            return torch.randn(*lead, channels, *grid, generator=generator)

        target = normal(config.latent_channels)
        mask = normal(config.mask_channels).sign()
        known = (mask.mean(2, keepdim=True) > 0).float()
        return {
            "target": target, "source": 0.5 * (target + normal(config.latent_channels)),
            "render": target * known, "mask": mask, "weight": 0.25 + known,
        }

    def batch(self, step: int, rank: int = 0, world_size: int = 1) -> LatentBatch:
        task = self.tasks[step % len(self.tasks)]
        share = self.size // world_size
        first = step * self.size + rank * share
        clips = [self.clip(first + n) for n in range(share)]
        joint = {name: torch.stack([clip[name] for clip in clips]) for name in clips[0]}
        if not self.weighted:
            joint.pop("weight")
        if task == "t2v":
            joint = {name: joint[name] for name in ("target", "weight") if name in joint}
        return LatentBatch(task, domain=f"toy_{task}", **joint)

    def validation(self) -> Iterator[LatentBatch]:
        for number in range(2):
            yield self.batch(100_000 + number)
