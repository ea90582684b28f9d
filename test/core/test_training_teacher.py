# SPDX-License-Identifier: Apache-2.0
"""Stage (a): whole clips at once, with the student's weights."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from inspatio_ros.model.cache import DifferentiableContext
from inspatio_ros.model.config import ModelError
from inspatio_ros.model.presets import preset
from inspatio_ros.training.batches import Task
from inspatio_ros.training.distributed import Process
from inspatio_ros.training.draws import Draw
from inspatio_ros.training.objectives import project
from inspatio_ros.training.options import TrainingError, TrainingOptions
from inspatio_ros.training.stages import make_stage
from inspatio_ros.training.teacher import BidirectionalTransformer, ClipScore, TeacherFlow
from inspatio_ros.training.trainer import Trainer
from support.training import TOY, ToySource, toy_model

OPTIONS = TrainingOptions(
    stage="teacher", steps=300, warm_up=10, learning_rate=4e-3, validate_every=0, average=0.9,
    checkpoint_every=0, precision="float32", final_rate=0.01)


def teacher(seed: int = 0) -> BidirectionalTransformer:
    network = BidirectionalTransformer(TOY)
    network.load_state_dict(toy_model(seed=seed).state_dict())
    return network


def test_one_block_alone_is_what_the_student_makes_of_it() -> None:
    """Rotary attention only knows differences of positions: 0..2 or 6..8 are the same."""
    batch = ToySource(size=2, blocks=1).batch(0)
    student, sigma = toy_model(), torch.tensor([0.3, 0.9])
    shown = torch.cat([batch.mask[:, 0], batch.render[:, 0]], dim=2)  # type: ignore[index]
    with torch.no_grad():
        expected = student.predict_flow(
            batch.target[:, 0], shown, student.rope_tables(TOY.latent_grid).block,
            student.modulation(sigma * 1000), project(student, None), DifferentiableContext(2))
        found = ClipScore(teacher()).flow(batch.target[:, 0], sigma, None, shown, None)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_every_frame_sees_every_frame_and_the_source() -> None:
    batch = ToySource(size=1, blocks=2).batch(0)
    assert batch.source is not None
    source = batch.source.flatten(1, 2).requires_grad_()
    noisy = batch.target.flatten(1, 2).requires_grad_()
    flow = ClipScore(teacher()).flow(noisy, torch.tensor([0.5]), source, None, None)
    assert flow.shape == noisy.shape
    torch.autograd.backward(flow[:, 0].square().sum())
    for part in (source, noisy):
        assert part.grad is not None
        assert bool((part.grad.abs().amax(dim=(0, 2, 3, 4)) > 0).all())
    short = teacher().clip_rotation(3, TOY.latent_grid)
    network = teacher()
    step = network.modulation([1.0])
    with pytest.raises(ModelError, match="tokens, but rotations of"):
        network.predict_clip(noisy, None, None, step, step, project(network, None), short)


@pytest.mark.parametrize("task", ["v2v", "t2v"])
def test_it_learns_a_clip(tmp_path: Path, task: Task) -> None:
    source = ToySource(size=1, tasks=(task,), clips=1, weighted=False)
    objective = TeacherFlow(teacher(), OPTIONS, Process())
    run = Trainer(tmp_path, objective, source, OPTIONS)
    before = run.validate()["loss"]
    run.train(until=120 if task == "v2v" else 250)
    after = run.validate()["loss"]
    assert after < (0.25 if task == "v2v" else 0.6) * before


def test_parts_and_the_student_that_begins_from_it(tmp_path: Path) -> None:
    batch, grads = ToySource(size=3).batch(0), []
    for size in (0, 2):
        objective = TeacherFlow(teacher(), replace(OPTIONS, block_batch=size), Process())
        objective.back_propagate("model", 0, batch, Draw((1,), 3), 1.0)
        grads.append(objective.networks["model"].patch_embedding.weight.grad)
    torch.testing.assert_close(grads[0], grads[1], rtol=1e-4, atol=1e-6)

    run = Trainer(tmp_path, objective, ToySource(), OPTIONS)
    run.train(until=1)
    causal = replace(OPTIONS, stage="causal")
    student = make_stage(TOY, causal, Process(), start=tmp_path / "model").networks["model"]
    assert type(student) is not BidirectionalTransformer
    averaged = run._average_weights()
    for name, value in student.named_parameters():
        assert torch.equal(value, averaged[name]), name
    with pytest.raises(TrainingError, match="does not fit the model"):
        make_stage(replace(TOY, dim=96), causal, Process(), start=tmp_path / "model")


def test_the_seed_decides_the_first_weights() -> None:
    first, again, other = (
        make_stage(TOY, replace(OPTIONS, seed=seed), Process()).networks["model"].state_dict()
        for seed in (0, 0, 1))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["patch_embedding.weight"], other["patch_embedding.weight"])
    assert not first["head.head.weight"].any()


def test_weights_that_lead_to_the_render() -> None:
    """What they make of noise is the render, nearly; zero flow makes the noise itself."""
    config = replace(preset("tiny"), name="toy", num_layers=2, height=64, width=96)
    options = TrainingOptions(stage="causal", begin="render", seed=4)
    model = make_stage(config, options, Process()).networks["model"]
    generator = torch.Generator().manual_seed(0)
    shape = (1, config.frames_per_block, config.latent_channels, *config.latent_grid)
    noise, render = (torch.randn(shape, generator=generator) for _ in range(2))
    mask = torch.ones(1, config.frames_per_block, config.mask_channels, *config.latent_grid)
    with torch.no_grad():
        flow = model.predict_flow(
            noise, torch.cat([mask, render], dim=2), model.rope_tables(config.latent_grid).block,
            model.modulation([1000.0]), model.project_text(torch.zeros(1, 1, config.text_dim)),
            DifferentiableContext(1))
    made = noise - flow
    assert float((made - render).square().mean()) < 0.2
    assert float((made - noise).square().mean()) > 1.0


def test_weights_that_cannot_lead_to_a_render() -> None:
    options = TrainingOptions(stage="causal", begin="render")
    with pytest.raises(TrainingError, match="conditioned model of width 128"):
        make_stage(replace(preset("tiny"), dim=64, num_heads=2), options, Process())
    with pytest.raises(TrainingError, match="begin must be one of zero, render"):
        TrainingOptions(begin="other")  # type: ignore[arg-type]
