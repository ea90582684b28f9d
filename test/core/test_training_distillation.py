# SPDX-License-Identifier: Apache-2.0
"""Stage (c): whose turn it is, which way the gradient points, and that it goes on bit for bit."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from inspatio_ros.model.weights import read_tensors
from inspatio_ros.training.batches import Task
from inspatio_ros.training.distillation import JointDistillation, without_conditions
from inspatio_ros.training.distributed import Process
from inspatio_ros.training.draws import Draw
from inspatio_ros.training.options import TrainingError, TrainingOptions
from inspatio_ros.training.stages import make_stage
from inspatio_ros.training.teacher import BidirectionalTransformer, TeacherFlow, column
from inspatio_ros.training.trainer import Trainer, load_weights
from support.training import TOY, ToySource, toy_model

OPTIONS = TrainingOptions(
    stage="jdmd", steps=4, critic_ratio=2, warm_up=0, precision="float32", average=0.9,
    validate_every=0, log_every=1, checkpoint_every=0, learning_rate=1e-3, critic_rate=1e-3)
TASKS: tuple[Task, ...] = ("v2v", "t2v")


def network(seed: int) -> BidirectionalTransformer:
    made = BidirectionalTransformer(TOY)
    made.load_state_dict(toy_model(seed=seed).state_dict())
    return made


def stage(same: bool = False, **changes: Any) -> JointDistillation:
    options = replace(OPTIONS, **changes)
    teachers = {task: network(1) for task in TASKS}
    fakes = {task: network(1 if same else 2) for task in TASKS}
    return JointDistillation(toy_model(), teachers, fakes, options, Process())


def test_tasks_and_networks_take_turns() -> None:
    five = stage(critic_ratio=5)
    turns = [five.updated(step) for step in range(10)]
    assert turns == [("fake_v2v",)] * 4 + [("fake_v2v", "model")] + (
        [("fake_t2v",)] * 4 + [("fake_t2v", "model")])
    assert {stage(t2v_share=0.0).task(step) for step in range(20)} == {"v2v"}
    quarter = stage(t2v_share=0.25)
    assert sum(quarter.task(step) == "t2v" for step in range(80)) == 20


def test_the_gradient_is_the_difference_of_the_scores() -> None:
    batch = ToySource(size=2, tasks=("v2v",)).batch(0)
    clip = batch.target * 0.5
    assert not stage(same=True).distribution_gradient("v2v", batch, clip, Draw((1,), 2)).any()
    made = stage()
    found = made.distribution_gradient("v2v", batch, clip, Draw((1,), 2))
    draw = Draw((1,), 2)
    level = made._levels(draw)
    assert bool(((level >= 0.02) & (level <= 0.98)).all())
    x, sigma = clip.flatten(1, 2), column(level, clip)
    z = (1 - sigma) * x + sigma * draw.normal(batch.target).flatten(1, 2)
    assert batch.source is not None
    assert batch.mask is not None
    assert batch.render is not None
    shown = torch.cat([batch.mask, batch.render], dim=3).flatten(1, 2)
    with torch.no_grad():
        fake, real = (z - sigma * s["v2v"].flow(z, level, batch.source.flatten(1, 2), shown, None)
                      for s in (made.fakes, made.teachers))
    scale = (x - real).abs().flatten(1).mean(1).reshape(-1, 1, 1, 1, 1)
    torch.testing.assert_close(found.flatten(1, 2), (fake - real) / scale)
    half = stage(control_weight=0.5)
    losses = [s.back_propagate("model", 1, batch, Draw((1,), 2), 1.0) for s in (made, half)]
    assert losses[0]["loss"] == losses[0]["loss_v2v"] == 2 * losses[1]["loss"]
    slopes = [s.networks["model"].head.head.weight.grad for s in (made, half)]
    torch.testing.assert_close(slopes[0], 2 * slopes[1])


def test_guidance_needs_a_text() -> None:
    batch = without_conditions(ToySource(size=1).batch(0))
    clip, results = batch.target * 0.5, []
    text = torch.randn(1, 1, 8, generator=torch.Generator().manual_seed(0))
    for guidance in (1.0, 3.0):
        made = stage(guidance=guidance)
        results.append([
            made.distribution_gradient("t2v", replace(batch, text=given), clip, Draw((1,), 1))
            for given in (None, text)])
    assert torch.equal(results[0][0], results[1][0])
    assert not torch.allclose(results[0][1], results[1][1])


def test_only_the_network_whose_turn_it_is_gets_gradients() -> None:
    made = stage(exit_step="random", block_batch=2)
    batch = ToySource(size=2).batch(0)
    for name, step in (("fake_v2v", 0), ("model", 1), ("fake_t2v", 2), ("model", 3)):
        made.back_propagate(name, step, batch, Draw((1,), 2), 1.0)
        for other, candidate in made.networks.items():
            touched = any(p.grad is not None for p in candidate.parameters())
            assert touched == (other == name)
            candidate.zero_grad(set_to_none=True)
    teachers = [p for score in made.teachers.values() for p in score.network.parameters()]
    assert all(p.grad is None and not p.requires_grad for p in teachers)


def test_an_interrupted_distillation_equals_an_undisturbed_one(tmp_path: Path) -> None:
    def run(name: str, until: int) -> Trainer:
        made = Trainer(tmp_path / name, stage(), ToySource(size=1), OPTIONS)
        made.train(until)
        return made

    whole = run("whole", 4)
    run("parts", 3)
    parts = run("parts", 4)
    assert whole.objective.networks.keys() == {"model", "fake_v2v", "fake_t2v"}
    start = {"model": toy_model(), "fake_v2v": network(2), "fake_t2v": network(2)}
    for name, one in whole.objective.networks.items():
        other, first = parts.objective.networks[name].state_dict(), start[name].state_dict()
        assert all(torch.equal(value, other[n]) for n, value in one.state_dict().items())
        assert not torch.equal(one.head.head.weight, first["head.head.weight"])


def test_data_without_renders_is_refused(tmp_path: Path) -> None:
    only_text = ToySource(size=1, tasks=("t2v",))
    with pytest.raises(TrainingError, match="needs a v2v batch"):
        Trainer(tmp_path, stage(), only_text, OPTIONS).train()
    with pytest.raises(TrainingError, match="needs two teachers"):
        make_stage(TOY, OPTIONS, Process(), start=tmp_path)
    with pytest.raises(TrainingError, match="begins with a trained student"):
        make_stage(TOY, OPTIONS, Process(), teachers={task: tmp_path for task in TASKS})
    with pytest.raises(TrainingError, match="give it the codec"):
        make_stage(TOY, replace(OPTIONS, stage="article"), Process())


def test_a_student_comes_to_make_what_its_teacher_knows(tmp_path: Path) -> None:
    """A teacher that knows one clip by heart teaches it to a student that never saw it."""
    source = ToySource(size=1, blocks=2, tasks=("v2v",), clips=1, weighted=False)
    know = replace(OPTIONS, stage="teacher", steps=250, learning_rate=4e-3, final_rate=0.02)
    Trainer(tmp_path / "teacher", TeacherFlow(network(0), know, Process()), source, know).train()
    learn = replace(
        OPTIONS, steps=100, t2v_share=0.0, learning_rate=3e-3, beta1=0.0, final_rate=0.3)
    path = tmp_path / "teacher" / "model" / "transformer.safetensors"
    scores: list[dict[Task, BidirectionalTransformer]] = []
    for _ in range(2):
        scores.append({task: network(0) for task in TASKS})
        for score in scores[-1].values():
            load_weights(score, read_tensors(path), path)
    made = JointDistillation(toy_model(seed=5), *scores, learn, Process())
    run = Trainer(tmp_path / "student", made, source, learn)
    before = run.validate()["clean_error"]
    run.train()
    assert run.validate()["clean_error"] < 0.5 * before
