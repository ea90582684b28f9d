# SPDX-License-Identifier: Apache-2.0
"""Roll-outs of the student as it is used, and their gradients one block at a time.

A roll-out makes block after block with the denoiser of inference, each seeing its source and the
block made before (Self-Forcing). Its output x is judged as a whole by some loss L; the gradient
dL/dx is then carried into the weights chunk-wise, as in the published training:

1. the roll-out without gradients; of each block only its history and the input of its last step
   are kept;
2. block by block, the context pass and the last step again with gradients, and a backward pass
   from that block's slice of dL/dx.

Activations of one block are held at a time, however long the roll-out is. Gradients stop at the
earlier steps and, by default, at the history; with `history_gradient` the blocks are taken in
reverse order and the gradient of each one's history joins the slice of the block before, which is
exactly back-propagation through the whole roll-out, at the same memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor

from inspatio_ros.imagination.denoiser import run_steps
from inspatio_ros.model.schedule import FlowSchedule
from inspatio_ros.model.transformer import CausalTransformer
from inspatio_ros.training.batches import LatentBatch
from inspatio_ros.training.objectives import Grids, condition, project, remember
from inspatio_ros.training.options import TrainingOptions


@dataclass(frozen=True)
class RolledOut:
    """A roll-out without gradients.

    clip `[B, N, F, C, h, w]` float32: what was made. inputs: as many, the noisy latents that each
    block's last step began with. exit_step: index of that step among the denoising steps.
    """

    clip: Tensor
    inputs: tuple[Tensor, ...]
    exit_step: int


class Rollout:
    """Makes clips with a student, and brings gradients with respect to them into its weights."""

    def __init__(self, student: CausalTransformer, options: TrainingOptions) -> None:
        self.student = student
        self.options = options
        schedule = FlowSchedule.of(student.config)
        self.timesteps = schedule.warp(student.config.denoising_steps)
        self.sigmas = schedule.sigma_of(self.timesteps)
        self._grids = Grids()

    def cast(self) -> AbstractContextManager[None]:
        """Where products are in the options' precision; see Objective.cast."""
        if self.options.precision == "float32":
            return nullcontext()
        return torch.autocast(self.student.device.type, torch.bfloat16)

    @torch.no_grad()
    def roll(self, batch: LatentBatch, noise: Tensor, exit_step: int) -> RolledOut:
        """The clip that the student makes of a batch's conditions.

        noise: `[steps, B, N, F, C, h, w]`. exit_step: index of the step after which a block is
        taken as made; with the last one this is inference.
        """
        made: list[Tensor] = []
        inputs: list[Tensor] = []
        for index in range(batch.blocks):
            with self.cast():
                before = made[-1] if made else None
                last, begun = self._block(batch, index, before, noise[:, :, index], exit_step)
            made.append(last)
            inputs.append(begun)
        return RolledOut(torch.stack(made, dim=1), tuple(inputs), exit_step)

    def back_propagate(self, batch: LatentBatch, rolled: RolledOut, gradient: Tensor) -> None:
        """Add to the weights' gradients what `gradient` `[B, N, F, C, h, w]` of the clip asks for.

        batch: the one of the roll-out, the weights unchanged since.
        """
        carried: Tensor | None = None
        for index in reversed(range(batch.blocks)):
            slope = gradient[:, index]
            if carried is not None:
                slope = slope + carried
            before = None
            if index and self.options.history:
                before = rolled.clip[:, index - 1].detach()
                before.requires_grad_(self.options.history_gradient)
            with self.cast():
                clean = self.last_step(
                    batch, index, before, rolled.inputs[index], rolled.exit_step)
            torch.autograd.backward(clean, slope.to(clean.dtype))
            carried = None if before is None else before.grad

    def last_step(
        self, batch: LatentBatch, index: int, before: Tensor | None, begun: Tensor, step: int
    ) -> Tensor:
        """Context pass and one step of one block: its clean latents `[B, F, C, h, w]` float32.

        before: the block made before, or None. begun: the noisy latents that the step begins with.
        """
        return self._steps(batch, index, before, [begun], range(step, step + 1))

    def _block(
        self, batch: LatentBatch, index: int, before: Tensor | None, noise: Tensor, exit_step: int
    ) -> tuple[Tensor, Tensor]:
        """One block, and the noisy latents that its last step began with."""
        before = before if self.options.history else None
        if exit_step == 0:
            begun = noise[0].float()
        else:
            early = self._steps(batch, index, before, list(noise), range(exit_step))
            sigma = self.sigmas[exit_step]
            begun = (1.0 - sigma) * early + sigma * noise[exit_step].float()
        return self.last_step(batch, index, before, begun, exit_step), begun

    def _steps(
        self, batch: LatentBatch, index: int, before: Tensor | None, noise: Sequence[Tensor],
        steps: range,
    ) -> Tensor:
        student = self.student
        shown, source = (None if p is None else p[:, index] for p in (
            None if batch.mask is None else condition_of(batch), batch.source))
        if not self.options.source:
            source = None
        rope, text = self._grids.of(student, batch.target), project(student, batch.text)
        store = remember(student, source, before, rope, text, batch.size)
        return run_steps(
            student, [student.modulation([self.timesteps[step]]) for step in steps],
            [self.sigmas[step] for step in steps], shown,
            torch.stack(list(noise[: len(steps)])), rope, text, store)


def condition_of(batch: LatentBatch) -> Tensor | None:
    """Mask and render of all blocks `[B, N, F, stride + C, h, w]`, or None for text to video."""
    if batch.mask is None or batch.render is None:
        return None
    joined = condition(batch.mask.flatten(0, 1), batch.render.flatten(0, 1))
    assert joined is not None
    return joined.reshape(batch.size, batch.blocks, *joined.shape[1:])
