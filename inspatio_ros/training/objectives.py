# SPDX-License-Identifier: Apache-2.0
"""What a step minimises; here: flow matching, block by block, with a teacher-forced context.

    x_s = (1 - s) x0 + s n,   flow = n - x0                       (rectified flow)
    L = sum w |model(x_s, s, render, mask; context) - flow|^2 / sum w

The context (source and history) is encoded with gradients, as in the published training. All
blocks of a clip are samples of one batch, because their histories are known: the clean block
before, or what the model itself makes of that place, so that it learns to go on from its own
errors (Self-Forcing).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from inspatio_ros.imagination.conditioning import condition_channels, context_frames
from inspatio_ros.imagination.denoiser import run_steps
from inspatio_ros.model.cache import DifferentiableContext
from inspatio_ros.model.config import ModelConfig
from inspatio_ros.model.rope import RopeTables
from inspatio_ros.model.schedule import FlowSchedule
from inspatio_ros.model.transformer import CausalTransformer, TextContext
from inspatio_ros.training.batches import LatentBatch
from inspatio_ros.training.distributed import Process
from inspatio_ros.training.draws import Draw
from inspatio_ros.training.options import TrainingError, TrainingOptions

Figures = dict[str, Tensor]  # 0-d float32, means over all processes


class Objective(ABC):
    """Networks that are trained together, and how a batch becomes their gradients.

    networks: by name; `model` is the one that the run is for. rates: their learning rates.
    """

    networks: dict[str, CausalTransformer]
    rates: dict[str, float]

    def __init__(self, config: ModelConfig, options: TrainingOptions, process: Process) -> None:
        self.config = config
        self.options = options
        self.process = process

    def updated(self, step: int) -> Sequence[str]:
        """Networks that this step updates, in order."""
        return tuple(self.networks)

    @abstractmethod
    def back_propagate(
        self, name: str, step: int, batch: LatentBatch, draw: Draw, scale: float
    ) -> Figures:
        """Add `scale` times the gradients of network `name`; figures carry a `loss`."""

    def suits(self, step: int, batch: LatentBatch) -> bool:
        """Whether this step can work on that batch; else the source's next one is taken."""
        return True

    def made(self, batch: LatentBatch, draw: Draw) -> Tensor | None:
        """Clips `[B, N, F, C, h, w]` as `model` makes them of a batch; None if it makes none."""
        return None

    @abstractmethod
    def validate(self, batch: LatentBatch, draw: Draw) -> Figures:
        """Figures of `model` on a batch that it was not trained on, without gradients."""

    def match(
        self, groups: Sequence[Samples], error: Callable[[Samples], Tensor], scale: float,
        part_size: int,
    ) -> Tensor:
        """Back-propagate `scale` times the weighted mean square of `error`, part by part.

        The mean over all values of the global batch, returned too: whatever the number of parts
        and processes. Without gradients nothing is back-propagated.
        """
        mass = self.mass(groups)
        found = torch.zeros((), device=self.process.device)
        for part in (p for group in groups for p in group.parts(part_size)):
            with self.cast():
                off = error(part)
            loss = part.squared(off)
            if loss.requires_grad:
                backward(loss * (scale * self.process.world_size / mass))
            found += loss.detach()
        return self.process.total(found) / mass

    def mass(self, groups: Sequence[Samples]) -> float:
        """The weight of all values of the global batch; TrainingError when nothing counts."""
        own = torch.tensor(sum(group.mass for group in groups), device=self.process.device)
        mass = float(self.process.total(own))
        if not mass > 0.0:
            raise TrainingError("a batch whose weights are all zero: no place of it has a truth")
        return mass

    def cast(self) -> AbstractContextManager[None]:
        """Where products are in the options' precision. Never nested: leaving it drops copies of
        the weights, which must not outlive a step or a change of gradient mode.
        """
        if self.options.precision == "float32":
            return nullcontext()
        return torch.autocast(self.process.device.type, torch.bfloat16)


@dataclass(frozen=True)
class Samples:
    """S blocks as one batch; parts `[S, F, C, h, w]`, or None where there is none.

    noise: of the target's shape. sigma `[S]` float32 on the CPU: noise levels in (0, 1]. weight
    `[S, F, 1, h, w]`, text `[S, L, D]`. fresh `[S, K, F, C, h, w]`: noise of K further steps.
    """

    target: Tensor
    source: Tensor | None
    history: Tensor | None
    render: Tensor | None
    mask: Tensor | None
    weight: Tensor | None
    text: Tensor | None
    noise: Tensor
    sigma: Tensor
    fresh: Tensor | None = None

    @property
    def size(self) -> int:
        """Blocks."""
        return self.target.shape[0]

    @property
    def mass(self) -> float:
        """Sum of the weights of all values."""
        if self.weight is None:
            return float(self.target.numel())
        return float(self.weight.sum()) * self.target.shape[2]

    def parts(self, size: int) -> Iterator[Samples]:
        """The same in parts of `size` blocks at most (0: in one)."""
        for start in range(0, self.size, size or self.size):
            window = slice(start, start + (size or self.size))
            cut: dict[str, Any] = {}
            for item in fields(self):
                value = getattr(self, item.name)
                cut[item.name] = None if value is None else value[window]
            yield Samples(**cut)

    def squared(self, error: Tensor) -> Tensor:
        """The weighted sum of squares of an error of the target's shape, float32."""
        squares = error.float().square()
        return (squares if self.weight is None else squares * self.weight).sum()


def noise_levels(draw: Draw, count: int, options: TrainingOptions, config: ModelConfig) -> Tensor:
    """Levels `[B, count]` float32 in (0, 1].

    Uniform u, shifted: k u / (1 + (k - 1) u); of all samples a share is at pure noise (what every
    block begins with) and a share at one of the model's listed steps.
    """
    u, kind, which = draw.uniform(3, count).unbind(1)
    shift = options.shift or config.timestep_shift
    u = 1.0 - u
    levels = shift * u / (1 + (shift - 1) * u)
    schedule = FlowSchedule.of(config)
    listed = torch.tensor(schedule.sigma_of(schedule.warp(config.denoising_steps)))
    at_step = listed[(which * len(listed)).long()]
    levels = torch.where(kind < options.full_noise + options.listed_steps, at_step, levels)
    return torch.where(kind < options.full_noise, torch.ones(()), levels)


def first_clip(batch: LatentBatch) -> LatentBatch:
    """The first clip of a batch."""
    def cut(part: Tensor | None) -> Tensor | None:
        return None if part is None else part[:1]

    return replace(batch, target=batch.target[:1], source=cut(batch.source), text=cut(batch.text),
                   render=cut(batch.render), mask=cut(batch.mask), weight=cut(batch.weight))


def first_blocks(batch: LatentBatch, count: int) -> LatentBatch:
    """The first `count` blocks of every clip."""
    def cut(part: Tensor | None) -> Tensor | None:
        return None if part is None else part[:, :count]

    return replace(batch, target=batch.target[:, :count], source=cut(batch.source),
                   render=cut(batch.render), mask=cut(batch.mask), weight=cut(batch.weight))


def text_of(batch: LatentBatch, blocks: int = 1) -> Tensor | None:
    """The text of each of a clip's blocks `[B blocks, L, D]`, or None for the null prompt."""
    return None if batch.text is None else batch.text.repeat_interleave(blocks, dim=0)


def project(network: CausalTransformer, text: Tensor | None) -> TextContext:
    """Keys and values of a text `[B, L, D]`; None is the null prompt, zeros."""
    if text is None:
        text = torch.zeros(1, network.config.text_len, network.config.text_dim)
    return network.project_text(text)


def backward(loss: Tensor) -> None:
    """Add a loss' gradients to the weights."""
    torch.autograd.backward(loss)


class Grids:
    """Rotations, made once for each grid and network."""

    def __init__(self) -> None:
        self._tables: dict[tuple[int, ...], RopeTables] = {}

    def of(self, network: CausalTransformer, latents: Tensor) -> RopeTables:
        """Those of latents `[..., h, w]`."""
        grid = (latents.shape[-2], latents.shape[-1])
        if grid not in self._tables:
            self._tables[grid] = RopeTables(network.config, grid, latents.device)
        return self._tables[grid]


def remember(
    network: CausalTransformer,
    source: Tensor | None,
    history: Tensor | None,
    rope: RopeTables,
    text: TextContext,
    batch: int,
) -> DifferentiableContext:
    """The context pass over source and history `[B, F, C, h, w]`, with gradients if enabled."""
    store = DifferentiableContext(batch)
    frames, group = context_frames(source, history)
    if frames is not None:
        count = frames.shape[1] // network.config.frames_per_block
        clean = network.modulation([network.config.context_timestep])
        network.encode_context(frames, rope.groups(group, count), clean, text, store)
    return store


def condition(mask: Tensor | None, render: Tensor | None) -> Tensor | None:
    """What a denoise pass is shown, or None for text to video."""
    return None if mask is None or render is None else condition_channels(mask, render)


class CausalFlow(Objective):
    """Stage (b): block-wise flow matching with clean or predicted history."""

    def __init__(
        self,
        model: CausalTransformer,
        options: TrainingOptions,
        process: Process,
    ) -> None:
        super().__init__(model.config, options, process)
        self.model = model
        self.networks = {"model": model}
        self.rates = {"model": options.learning_rate}
        self._grids = Grids()
        schedule = FlowSchedule.of(model.config)
        self._timesteps = schedule.warp(model.config.denoising_steps)
        self._sigmas = schedule.sigma_of(self._timesteps)

    def back_propagate(
        self, name: str, step: int, batch: LatentBatch, draw: Draw, scale: float
    ) -> Figures:
        """One pass over all blocks of the batch, in parts of `block_batch`."""
        history = self.histories(batch, draw)
        groups = self.samples(batch, draw, history)
        figures = {"loss": self.match(groups, self.error, scale, self.options.block_batch)}
        kind = "clean" if history is None else "predicted"
        return figures | {f"loss_{kind}_history": figures["loss"]}

    def histories(self, batch: LatentBatch, draw: Draw) -> Tensor | None:
        """Histories of the model's own making, for their share of the steps; None: clean ones."""
        own = self.options.history and batch.blocks > 1
        if own and draw.decide(self.options.predicted_history):
            return self.predict(batch, draw.apart("history"))
        return None

    @torch.no_grad()
    def validate(self, batch: LatentBatch, draw: Draw) -> Figures:
        """`loss` as in training with clean history; `clean_error`: mean squared error of the
        latents after all denoising steps.
        """
        groups = self.samples(batch, draw, None, len(self._sigmas))
        mass = self.mass(groups)
        sums = torch.zeros(2, device=self.process.device)
        for part in (p for group in groups for p in group.parts(self.options.block_batch)):
            with self.cast():
                sums[0] += part.squared(self.error(part))
                made = self.imagine(part, len(self._sigmas))
            sums[1] += part.squared(made - part.target)
        loss, clean = self.process.total(sums) / mass
        return {"loss": loss, "clean_error": clean}

    def predict(self, batch: LatentBatch, draw: Draw) -> Tensor:
        """All blocks but the last `[B, N - 1, F, C, h, w]` as the model makes them.

        Each from the clean block before, in as many denoising steps as chance decides.
        """
        steps = 1 + draw.choose(len(self._sigmas))
        return self.made(first_blocks(batch, batch.blocks - 1), draw, steps)

    @torch.no_grad()
    def made(self, batch: LatentBatch, draw: Draw, steps: int = 0) -> Tensor:
        """All blocks `[B, N, F, C, h, w]`, each from the clean block before, in `steps` steps."""
        steps = steps or len(self._sigmas)
        groups = self.samples(batch, draw, None, steps)
        made = []
        for group in groups:
            parts = []
            for part in group.parts(self.options.block_batch):
                with self.cast():
                    parts.append(self.imagine(part, steps))
            made.append(torch.cat(parts).reshape(batch.size, -1, *batch.target.shape[2:]))
        return torch.cat(made, dim=1)

    def samples(
        self, batch: LatentBatch, draw: Draw, history: Tensor | None, steps: int = 1
    ) -> list[Samples]:
        """The blocks of a batch: the first ones, which have no history, and all others.

        history: `[B, N - 1, F, C, h, w]` instead of the clean blocks. steps: how many need noise.
        """
        noise = draw.normal(batch.target.unsqueeze(2).expand(-1, -1, steps, -1, -1, -1, -1))
        sigma = noise_levels(draw, batch.blocks, self.options, self.config)
        if not self.options.history:
            history = None
        elif history is None:
            history = batch.target[:, :-1]
        cut = batch.blocks if history is None else 1
        groups = []
        for window, before in ((slice(0, cut), None), (slice(cut, None), history)):
            def of(part: Tensor | None, window: slice = window) -> Tensor | None:
                return None if part is None else part[:, window].flatten(0, 1)

            target = batch.target[:, window]
            if target.shape[1]:
                groups.append(Samples(
                    target.flatten(0, 1), of(batch.source) if self.options.source else None,
                    None if before is None else before.flatten(0, 1), of(batch.render),
                    of(batch.mask), of(batch.weight),
                    text_of(batch, target.shape[1]), noise[:, window, 0].flatten(0, 1),
                    sigma[:, window].flatten(), noise[:, window, 1:].flatten(0, 1)))
        return groups

    def error(self, part: Samples) -> Tensor:
        """The error of the flow (or of the clean latents) of samples, in float32."""
        return self.off(part, self.flow(part)[0])

    def off(self, part: Samples, flow: Tensor) -> Tensor:
        """The same of a flow that is known already."""
        error = flow - (part.noise - part.target)
        if self.options.loss == "flow":
            return error
        return part.sigma.to(error.device).reshape(-1, 1, 1, 1, 1) * error

    def flow(self, part: Samples) -> tuple[Tensor, Tensor]:
        """The flow of samples and what it was predicted from, `[S, F, C, h, w]` float32."""
        network, device = self.model, part.target.device
        rope, text = self._grids.of(network, part.target), project(network, part.text)
        store = remember(network, part.source, part.history, rope, text, part.size)
        sigma = part.sigma.to(device).reshape(-1, 1, 1, 1, 1)
        noisy = (1 - sigma) * part.target + sigma * part.noise
        flow = network.predict_flow(
            noisy, condition(part.mask, part.render), rope.block,
            network.modulation(part.sigma * self.config.train_timesteps), text, store)
        return flow.float(), noisy

    def imagine(self, part: Samples, steps: int) -> Tensor:
        """Clean latents `[S, F, C, h, w]` after the first `steps` denoising steps."""
        network = self.model
        assert part.fresh is not None
        rope, text = self._grids.of(network, part.target), project(network, part.text)
        store = remember(network, part.source, part.history, rope, text, part.size)
        noise = torch.cat([part.noise[None], part.fresh.transpose(0, 1)[: steps - 1]])
        return run_steps(
            network, [network.modulation([t]) for t in self._timesteps[:steps]],
            self._sigmas[:steps], condition(part.mask, part.render), noise, rope, text, store)

