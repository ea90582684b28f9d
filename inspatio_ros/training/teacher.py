# SPDX-License-Identifier: Apache-2.0
"""Stage (a): the bidirectional model of whole clips, a teacher for both tasks.

The same network, weight by weight, as the block-wise student, which can therefore begin from it.
All frames of a clip are noisy together and see each other; the source frames lie behind them along
time, clean, at timestep 0 and without mask and render, and their rotary positions continue those
of the noisy frames (the layout of the public release's non-causal class).
"""

from __future__ import annotations

import torch
from torch import Tensor

from inspatio_ros.model.config import ModelError
from inspatio_ros.model.rope import Rotation, angles
from inspatio_ros.model.transformer import CausalTransformer, Modulation, TextContext
from inspatio_ros.training.batches import LatentBatch
from inspatio_ros.training.distributed import Process
from inspatio_ros.training.draws import Draw
from inspatio_ros.training.objectives import (
    Figures,
    Objective,
    Samples,
    condition,
    noise_levels,
    project,
    text_of,
)
from inspatio_ros.training.options import TrainingOptions


class BidirectionalTransformer(CausalTransformer):
    """The transformer over all frames of a clip at once."""

    def predict_clip(
        self,
        noisy: Tensor,
        condition: Tensor | None,
        source: Tensor | None,
        modulation: Modulation,
        clean: Modulation,
        text: TextContext,
        rotation: Rotation,
    ) -> Tensor:
        """The flow `[B, M, C, h, w]` of a noisy clip of that shape.

        condition `[B, M, mask + C, h, w]` or None; source `[B, m, C, h, w]` clean frames or None.
        modulation: of the noisy frames' timesteps; clean: of the source's. rotation: of all M + m
        frames. Raises ModelError when it is of another number of tokens.
        """
        self.counters.denoise_passes += 1
        if condition is not None:
            noisy = torch.cat([noisy.to(condition.dtype), condition], dim=2)
        streams = [(self._tokens(noisy), modulation)]
        if source is not None:
            streams.append((self._tokens(source), clean))
        counts = [x.shape[1] for x, _ in streams]
        if sum(counts) != rotation[0].shape[0]:
            raise ModelError(f"{sum(counts)} tokens, but rotations of {rotation[0].shape[0]}")
        turns = list(zip(*(torch.split(part, counts) for part in rotation), strict=True))
        for index, layer in enumerate(self._layers()):
            qkv = [layer.before_attention(x, m.blocks[index], (turn[0], turn[1]))
                   for (x, m), turn in zip(streams, turns, strict=True)]
            q, k, v = (torch.cat(part, dim=1) for part in zip(*qkv, strict=True))
            found = torch.split(self.attention(q, k, v), counts, dim=1)
            streams = [
                (layer.after_attention(x, a, m.blocks[index], text.layers[index], self.attention),
                 m)
                for (x, m), a in zip(streams, found, strict=True)]
        shift, gain = modulation.head
        return self._latents(self.head.forward(streams[0][0], shift, gain), noisy)

    def clip_rotation(self, frames: int, grid: tuple[int, int]) -> Rotation:
        """The rotation of the tokens of frames 0 to `frames` - 1 of a latent grid."""
        table = angles(self.config, range(frames), grid, self.device)
        return table.cos().float().unsqueeze(1), table.sin().float().unsqueeze(1)


class ClipScore:
    """The flow of noisy clips by one network, with everything that is made once kept.

    What a teacher, and a fake score, is asked.
    """

    def __init__(self, network: BidirectionalTransformer) -> None:
        self.network = network
        self._rotations: dict[tuple[int, ...], Rotation] = {}

    def flow(
        self, noisy: Tensor, sigma: Tensor, source: Tensor | None, shown: Tensor | None,
        text: Tensor | None,
    ) -> Tensor:
        """Flow `[B, M, C, h, w]` float32 of clips at levels sigma `[B]` (CPU).

        shown: mask and render. text `[B, L, D]`, or None for the null prompt.
        """
        network, config = self.network, self.network.config
        frames = noisy.shape[1] + (0 if source is None else source.shape[1])
        key = (frames, *noisy.shape[-2:])
        if key not in self._rotations:
            grid = (noisy.shape[-2], noisy.shape[-1])
            self._rotations[key] = network.clip_rotation(frames, grid)
        return network.predict_clip(
            noisy, shown, source, network.modulation(sigma * config.train_timesteps),
            network.modulation([config.context_timestep]), project(network, text),
            self._rotations[key]).float()

    def error(self, part: Samples) -> Tensor:
        """The error of the flow of clips `[S, M, C, h, w]`, in float32."""
        sigma = column(part.sigma, part.target)
        noisy = (1 - sigma) * part.target + sigma * part.noise
        shown = condition(part.mask, part.render)
        flow = self.flow(noisy, part.sigma, part.source, shown, part.text)
        return flow - (part.noise - part.target)


def column(values: Tensor, like: Tensor) -> Tensor:
    """`[B]` as `[B, 1, 1, 1, 1]` beside latents."""
    return values.to(like.device).reshape(-1, 1, 1, 1, 1)


def clips_of(
    batch: LatentBatch, noise: Tensor, sigma: Tensor, options: TrainingOptions
) -> Samples:
    """The clips of a batch as samples `[B, N F, C, h, w]`, their blocks joined along time."""
    def joined(part: Tensor | None) -> Tensor | None:
        return None if part is None else part.flatten(1, 2)

    return Samples(
        batch.target.flatten(1, 2), joined(batch.source) if options.source else None, None,
        joined(batch.render), joined(batch.mask), joined(batch.weight), text_of(batch),
        noise.flatten(1, 2), sigma)


class TeacherFlow(Objective):
    """Flow matching of whole clips, for V2V and T2V batches alike."""

    def __init__(
        self, model: BidirectionalTransformer, options: TrainingOptions, process: Process
    ) -> None:
        super().__init__(model.config, options, process)
        self.score = ClipScore(model)
        self.networks = {"model": model}
        self.rates = {"model": options.learning_rate}

    def back_propagate(
        self, name: str, step: int, batch: LatentBatch, draw: Draw, scale: float
    ) -> Figures:
        """One pass over all clips of the batch, in parts of about `block_batch` blocks."""
        return {"loss": self._match(batch, draw, scale)}

    @torch.no_grad()
    def validate(self, batch: LatentBatch, draw: Draw) -> Figures:
        """`loss` as in training."""
        return {"loss": self._match(batch, draw, 0.0)}

    def _match(self, batch: LatentBatch, draw: Draw, scale: float) -> Tensor:
        sigma = noise_levels(draw, 1, self.options, self.config)[:, 0]
        clips = clips_of(batch, draw.normal(batch.target), sigma, self.options)
        size = self.options.block_batch
        return self.match(
            [clips], self._error, scale, max(1, size // batch.blocks) if size else 0)

    def _error(self, part: Samples) -> Tensor:
        error = self.score.error(part)
        return column(part.sigma, error) * error if self.options.loss == "clean" else error
