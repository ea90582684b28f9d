# SPDX-License-Identifier: Apache-2.0
"""Stage (c): joint distribution-matching distillation (JDMD) of a few-step student.

Two tasks take turns, cycle by cycle: video to video (V2V: source, render and mask are shown) and
text to video (T2V: nothing but the text is). Each has a frozen teacher, whose score says where
real clips are, and a fake score, a network that is trained to know where the student's clips are.
For a clip x that the student rolled out, noise n and a level s, with z = (1 - s) x + s n,

    f = z - s fake(z),   r = z - s teacher(z)                     (clean clips they see in z)
    g = (f - r) / mean |x - r|,   dL/dx = w g / numel             (w = lambda_ctrl for V2V, else 1)

which is the gradient of L = w/2 mean (x - sg(x - g))^2 (DMD, as Self-Forcing has it), and reaches
the weights block by block (rollout.py). The fake score minimises flow matching on the student's
clips. In a cycle of `critic_ratio` steps it is updated in each, the student in the last. Levels
are uniform, shifted as the model's schedule is, and kept within 0.02..0.98.

Guidance of the teacher, r = u + guidance (c - u) with u under the null prompt, applies where a
batch has a text. lambda_ctrl has no published value; 1 weighs both tasks equally.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from inspatio_ros.model.transformer import CausalTransformer
from inspatio_ros.training.batches import LatentBatch, Task
from inspatio_ros.training.distributed import Process
from inspatio_ros.training.draws import Draw
from inspatio_ros.training.objectives import CausalFlow, Figures, Objective, noise_levels, text_of
from inspatio_ros.training.options import TrainingOptions
from inspatio_ros.training.rollout import RolledOut, Rollout, condition_of
from inspatio_ros.training.teacher import (
    BidirectionalTransformer,
    ClipScore,
    clips_of,
    column,
)

LEVELS = (0.02, 0.98)
FAKES: dict[Task, str] = {"v2v": "fake_v2v", "t2v": "fake_t2v"}


class JointDistillation(Objective):
    """The student, two teachers and two fake scores.

    teachers: frozen, by task; may be one network for both. fakes: trained, by task, two networks
    that usually begin as the teachers.
    """

    def __init__(
        self,
        student: CausalTransformer,
        teachers: dict[Task, BidirectionalTransformer],
        fakes: dict[Task, BidirectionalTransformer],
        options: TrainingOptions,
        process: Process,
    ) -> None:
        super().__init__(student.config, options, process)
        self.networks = {"model": student, **{FAKES[task]: fakes[task] for task in FAKES}}
        self.rates = {name: options.critic_rate for name in self.networks}
        self.rates["model"] = options.learning_rate
        for teacher in teachers.values():
            teacher.to(process.device).eval().requires_grad_(False)
        self.teachers = {task: ClipScore(teachers[task]) for task in FAKES}
        self.fakes = {task: ClipScore(fakes[task]) for task in FAKES}
        self.rollout = Rollout(student, options)
        self._flow = CausalFlow(student, options, process)

    def task(self, step: int) -> Task:
        """The task of the cycle that a step belongs to: `t2v_share` of the cycles, evenly."""
        cycle, share = step // self.options.critic_ratio, self.options.t2v_share
        return "t2v" if int((cycle + 1) * share) > int(cycle * share) else "v2v"

    def updated(self, step: int) -> Sequence[str]:
        """The fake score of the step's task; in the last step of a cycle the student too."""
        fake = FAKES[self.task(step)]
        last = (step + 1) % self.options.critic_ratio == 0
        return (fake, "model") if last else (fake,)

    def suits(self, step: int, batch: LatentBatch) -> bool:
        """V2V needs a batch with conditions; T2V takes any."""
        return batch.task == "v2v" or self.task(step) == "t2v"

    def back_propagate(
        self, name: str, step: int, batch: LatentBatch, draw: Draw, scale: float
    ) -> Figures:
        """A fresh roll-out, then the fake score's or the student's gradients."""
        task = self.task(step)
        if task == "t2v":
            batch = without_conditions(batch)
        steps = len(self.config.denoising_steps)
        exit_step = steps - 1 if self.options.exit_step == "last" else draw.choose(steps)
        noise = draw.apart("rollout").normal(batch.target, (steps,))
        rolled = self.rollout.roll(batch, noise, exit_step)
        if name == "model":
            return self._student(task, batch, rolled, draw, scale)
        return {"loss": self._critic(task, batch, rolled, draw, scale)}

    @torch.no_grad()
    def validate(self, batch: LatentBatch, draw: Draw) -> Figures:
        """Those of the block-wise stage: loss and error after all steps, teacher-forced."""
        return self._flow.validate(batch, draw)

    def made(self, batch: LatentBatch, draw: Draw) -> Tensor:
        """Clips as the student makes them, each block from the clean one before."""
        return self._flow.made(batch, draw)

    def _critic(
        self, task: Task, batch: LatentBatch, rolled: RolledOut, draw: Draw, scale: float
    ) -> Tensor:
        made = replace(batch, target=rolled.clip, weight=None)
        clips = clips_of(made, draw.normal(batch.target), self._levels(draw), self.options)
        size = self.options.block_batch
        part = max(1, size // batch.blocks) if size else 0
        return self.match([clips], self.fakes[task].error, scale, part)

    def _student(
        self, task: Task, batch: LatentBatch, rolled: RolledOut, draw: Draw, scale: float
    ) -> Figures:
        slope = self.distribution_gradient(task, batch, rolled.clip, draw)
        weight = self.options.control_weight if task == "v2v" else 1.0
        self.rollout.back_propagate(batch, rolled, slope * (weight * scale / slope.numel()))
        loss = self.process.total(0.5 * slope.square().mean()) / self.process.world_size
        return {"loss": weight * loss, f"loss_{task}": loss}

    @torch.no_grad()
    def distribution_gradient(
        self, task: Task, batch: LatentBatch, clip: Tensor, draw: Draw
    ) -> Tensor:
        """g of the formulas above `[B, N, F, C, h, w]` for a clip of that shape."""
        x, level = clip.flatten(1, 2), self._levels(draw)
        sigma = column(level, x)
        z = (1 - sigma) * x + sigma * draw.normal(batch.target).flatten(1, 2)
        source = batch.source if self.options.source else None
        joined = None if source is None else source.flatten(1, 2)
        shown = condition_of(batch)
        shown = None if shown is None else shown.flatten(1, 2)
        text = text_of(batch)

        def clean(score: ClipScore, prompt: Tensor | None) -> Tensor:
            with self.cast():
                return z - sigma * score.flow(z, level, joined, shown, prompt)

        real = clean(self.teachers[task], text)
        if text is not None and self.options.guidance != 1.0:
            plain = clean(self.teachers[task], None)
            real = plain + self.options.guidance * (real - plain)
        scale = (x - real).abs().mean(dim=(1, 2, 3, 4), keepdim=True).clamp(min=1e-6)
        return ((clean(self.fakes[task], text) - real) / scale).reshape(clip.shape)

    def _levels(self, draw: Draw) -> Tensor:
        plain = replace(self.options, full_noise=0.0, listed_steps=0.0)
        return noise_levels(draw, 1, plain, self.config)[:, 0].clamp(*LEVELS)


def without_conditions(batch: LatentBatch) -> LatentBatch:
    """The batch as a text-to-video one."""
    return replace(batch, task="t2v", source=None, render=None, mask=None)
