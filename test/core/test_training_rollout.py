# SPDX-License-Identifier: Apache-2.0
"""Roll-outs: inference's own blocks, and gradients block by block that are those of the whole."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from inspatio_ros.imagination.denoiser import BlockDenoiser
from inspatio_ros.training.batches import LatentBatch
from inspatio_ros.training.draws import Draw
from inspatio_ros.training.options import TrainingOptions
from inspatio_ros.training.rollout import Rollout
from support.training import TOY, ToySource, toy_model

STEPS = len(TOY.denoising_steps)


def noise_of(batch: LatentBatch) -> Tensor:
    return Draw(("noise",), batch.size).normal(batch.target, (STEPS,))


def rollout(**changes: Any) -> Rollout:
    options = TrainingOptions(**{"precision": "float32", **changes})
    return Rollout(toy_model(), options)


@pytest.mark.parametrize("task", ["v2v", "t2v"])
def test_a_roll_out_is_inference(task: Any) -> None:
    batch = ToySource(size=2, blocks=3, tasks=(task,)).batch(0)
    noise = noise_of(batch)
    made = rollout().roll(batch, noise, STEPS - 1)
    denoiser = BlockDenoiser(toy_model().prepare_for_inference())
    denoiser.begin(contexts=2)
    history = None

    def of(part: Tensor | None, block: int) -> Tensor | None:
        return None if part is None else part[:, block]

    for block in range(3):
        history = denoiser.block(
            of(batch.source, block), history, of(batch.render, block), of(batch.mask, block),
            noise=noise[:, :, block])
        torch.testing.assert_close(made.clip[:, block], history, rtol=1e-5, atol=1e-5)


def full_gradients(
    roll: Rollout, batch: LatentBatch, noise: Tensor, exit_step: int, slope: Tensor
) -> dict[str, Tensor]:
    """One graph over the whole roll-out: context passes and last steps of all blocks."""
    with torch.no_grad():
        inputs = roll.roll(batch, noise, exit_step).inputs
    clip: list[Tensor] = []
    for block in range(batch.blocks):
        before = clip[-1] if clip else None
        if before is not None and not roll.options.history_gradient:
            before = before.detach()
        clip.append(roll.last_step(batch, block, before, inputs[block], exit_step))
    torch.autograd.backward((torch.stack(clip, dim=1) * slope).sum())
    return collected(roll)


def collected(roll: Rollout) -> dict[str, Tensor]:
    found = {n: p.grad.clone() for n, p in roll.student.named_parameters() if p.grad is not None}
    roll.student.zero_grad(set_to_none=True)
    return found


@pytest.mark.parametrize("history_gradient", [False, True])
@pytest.mark.parametrize("exit_step", [0, STEPS - 1])
@pytest.mark.parametrize("task", ["v2v", "t2v"])
def test_block_by_block_equals_the_whole(
    history_gradient: bool, exit_step: int, task: Any
) -> None:
    batch = ToySource(size=2, blocks=4, tasks=(task,)).batch(0)
    roll, noise = rollout(history_gradient=history_gradient), noise_of(batch)
    slope = torch.randn(batch.target.shape, generator=torch.Generator().manual_seed(1))
    expected = full_gradients(roll, batch, noise, exit_step, slope)
    rolled = roll.roll(batch, noise, exit_step)
    assert not rolled.clip.requires_grad
    roll.back_propagate(batch, rolled, slope)
    found = collected(roll)
    assert found.keys() == expected.keys()
    largest = max(float(g.abs().max()) for g in expected.values())
    assert largest > 0.1
    for name, gradient in expected.items():
        assert float((found[name] - gradient).abs().max()) <= 1e-5 * largest, name


def test_gradients_reach_the_keys_of_the_context_and_history_counts() -> None:
    batch = ToySource(size=1, blocks=3, tasks=("v2v",)).batch(0)
    noise, slope = noise_of(batch), torch.ones_like(batch.target)
    found = []
    for history_gradient in (False, True):
        roll = rollout(history_gradient=history_gradient)
        roll.back_propagate(batch, roll.roll(batch, noise, 0), slope)
        found.append(collected(roll)["blocks.0.self_attn.k.weight"])
    assert not torch.allclose(found[0], found[1])
    roll = rollout(history=False)
    roll.back_propagate(batch, roll.roll(batch, noise, 0), slope)


def peak_of_saved_bytes(blocks: int, history_gradient: bool, chunked: bool) -> int:
    """The most bytes that autograd holds at once."""
    batch = ToySource(size=1, blocks=blocks, tasks=("v2v",)).batch(0)
    roll, noise = rollout(history_gradient=history_gradient), noise_of(batch)
    held = {"now": 0, "peak": 0}

    class Saved:
        def __init__(self, tensor: Tensor) -> None:
            self.tensor = tensor.detach()  # a node's own output would keep the node alive
            self.size = tensor.numel() * tensor.element_size()
            held["now"] += self.size
            held["peak"] = max(held["peak"], held["now"])

        def __del__(self) -> None:
            held["now"] -= self.size

    with torch.autograd.graph.saved_tensors_hooks(Saved, lambda saved: saved.tensor):
        if chunked:
            rolled = roll.roll(batch, noise, 1)
            roll.back_propagate(batch, rolled, torch.ones_like(batch.target))
        else:
            full_gradients(roll, batch, noise, 1, torch.ones_like(batch.target))
    assert held["now"] == 0
    return held["peak"]


@pytest.mark.parametrize("history_gradient", [False, True])
def test_memory_does_not_grow_with_the_roll_out(history_gradient: bool) -> None:
    short, long = (peak_of_saved_bytes(n, history_gradient, True) for n in (2, 8))
    assert short > 100_000
    assert long == short
    assert peak_of_saved_bytes(8, history_gradient, False) > 4 * short
