# SPDX-License-Identifier: Apache-2.0
"""Stage (b) and the loop: it learns, it goes on bit for bit, and it says what is wrong."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from inspatio_ros.model.config import ModelError
from inspatio_ros.model.small_codec import SmallCodec, SmallCodecConfig
from inspatio_ros.model.weights import load_generator
from inspatio_ros.training import run_folder
from inspatio_ros.training import trainer as trainer_module
from inspatio_ros.training.batches import LatentBatch
from inspatio_ros.training.distributed import Process
from inspatio_ros.training.draws import Draw
from inspatio_ros.training.objectives import CausalFlow, noise_levels
from inspatio_ros.training.options import TrainingError, TrainingOptions
from inspatio_ros.training.trainer import Average, Trainer
from support.training import TOY, ToySource, toy_model

OPTIONS = TrainingOptions(
    steps=6, warm_up=2, log_every=1, validate_every=3, checkpoint_every=3, checkpoint_minutes=0,
    average=0.9, seed=3, predicted_history=0.5, precision="float32",
)


def trainer(run: Path, source: Any = None, options: TrainingOptions = OPTIONS) -> Trainer:
    objective = CausalFlow(toy_model(), options, Process())
    return Trainer(run, objective, source or ToySource(), options)


def weights(run: Path, step: int) -> dict[str, bytes]:
    folder = run / "checkpoints" / f"step_{step:08d}"
    return {p.name: p.read_bytes() for p in folder.glob("*.safetensors")}


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_an_interrupted_run_equals_an_undisturbed_one(tmp_path: Path, precision: Any) -> None:
    options = replace(OPTIONS, precision=precision)
    whole = trainer(tmp_path / "whole", options=options)
    whole.train()
    trainer(tmp_path / "parts", options=options).train(until=4)
    again = trainer(tmp_path / "parts", options=options)
    assert again.step == 4
    again.train()
    assert weights(tmp_path / "parts", 6) == weights(tmp_path / "whole", 6)
    assert len(weights(tmp_path / "whole", 6)) == 3

    def losses(run: str) -> list[float]:
        lines = run_folder.RunFolder(tmp_path / run).metrics()
        return [line["model/loss"] for line in lines if line["kind"] == "train"]

    assert losses("parts") == losses("whole")
    assert len(losses("whole")) == 6


def test_minutes_end_a_run_with_its_rate_fallen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = itertools.count()  # a second passes whenever somebody looks
    monkeypatch.setattr(trainer_module, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    run = trainer(tmp_path, options=replace(OPTIONS, steps=10**6, minutes=1.0, warm_up=1))
    run.train()
    assert 5 <= run.step < 60
    rates = [line["model/rate"] for line in run_folder.RunFolder(tmp_path).metrics()
             if line["kind"] == "train"]
    assert rates[-1] < 0.2 * max(rates)


def test_tensorboard_gets_the_same_figures(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="tensorboard is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    trainer(tmp_path).train()
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    lines = [line for line in run_folder.RunFolder(tmp_path).metrics() if line["kind"] == "train"]
    told = [event.value for event in events.Scalars("train/model/loss")]
    assert told == pytest.approx([line["model/loss"] for line in lines], rel=1e-5)
    assert "validation/loss" in events.Tags()["scalars"]


def test_the_run_folder_says_everything(tmp_path: Path) -> None:
    trainer(tmp_path).train()
    assert TrainingOptions.from_json((tmp_path / "options.json").read_text()) == OPTIONS
    environment = json.loads((tmp_path / "environment.json").read_text())
    assert environment["packages"]["torch"] == torch.__version__
    assert len(environment["sources_sha256"]) == 64
    assert (tmp_path / "command.txt").read_text().strip()
    kinds = [line["kind"] for line in run_folder.RunFolder(tmp_path).metrics()]
    assert kinds == ["train"] * 3 + ["validation"] + ["train"] * 3 + ["validation"]
    model = load_generator(tmp_path / "model" / "transformer.safetensors", TOY)
    assert model.config == TOY
    assert len(list((tmp_path / "checkpoints").iterdir())) == 2


def test_the_average_begins_at_the_weights_and_slows_down(tmp_path: Path) -> None:
    weights = {"w": torch.nn.Parameter(torch.zeros(2))}
    average = Average(weights, 0.5)
    for count, expected in ((0, 1.0), (1, 0.9 * 2 + 0.1), (2, 9 / 11 * 3 + 2 / 11 * 1.9)):
        with torch.no_grad():
            weights["w"] += 1
        average.update(count)
        assert average.values["w"][0] == pytest.approx(expected)
    average.update(1000)
    assert average.values["w"][0] == pytest.approx((expected + 3) / 2)
    with average.applied():
        assert torch.equal(weights["w"], average.values["w"])
    assert weights["w"][0] == 3.0


def test_validations_leave_pictures(tmp_path: Path) -> None:
    torch.manual_seed(0)
    codec = SmallCodec(SmallCodecConfig(latent_channels=4))
    objective = CausalFlow(toy_model(), OPTIONS, Process())
    Trainer(tmp_path, objective, ToySource(), OPTIONS, codec=codec).train()
    files = sorted(path.name for path in (tmp_path / "pictures").iterdir())
    assert files == ["step_00000003.png", "step_00000006.png"]
    picture = np.asarray(Image.open(tmp_path / "pictures" / files[0]))
    assert picture.shape == (3 * 32, 5 * 32, 3)
    assert picture.std() > 1.0


def test_another_run_is_not_continued(tmp_path: Path) -> None:
    trainer(tmp_path).train(until=1)
    with pytest.raises(TrainingError, match=r"other options \(learning_rate 0.0003 -> 0.01\)"):
        trainer(tmp_path, options=replace(OPTIONS, learning_rate=0.01))
    wide = CausalFlow(toy_model(replace(TOY, dim=96)), OPTIONS, Process())
    with pytest.raises(TrainingError, match="another architecture: dim 48 instead of 96"):
        Trainer(tmp_path, wide, ToySource(), OPTIONS)
    assert trainer(tmp_path, options=replace(OPTIONS, steps=9, log_every=5)).step == 1


class Poisoned(ToySource):
    """A source one of whose batches holds NaN."""

    def batch(self, step: int, rank: int = 0, world_size: int = 1) -> LatentBatch:
        batch = super().batch(step, rank, world_size)
        if step == 4:
            batch.target[0, 0, 0, 0] = float("nan")
        return batch


def test_a_loss_that_is_no_number_stops_and_keeps_the_last_checkpoint(tmp_path: Path) -> None:
    reason = r"step 4, v2v batch of 'toy_v2v'.*loss is nan.*checkpoint is .*step_00000003"
    with pytest.raises(TrainingError, match=reason):
        trainer(tmp_path, Poisoned()).train()
    again = trainer(tmp_path)
    assert again.step == 3
    assert all(p.isfinite().all() for p in again.objective.networks["model"].parameters())
    again.train()


def test_a_damaged_checkpoint_is_named(tmp_path: Path) -> None:
    trainer(tmp_path).train(until=3)
    path = tmp_path / "checkpoints" / "step_00000003" / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(data)
    with pytest.raises(TrainingError, match=r"model.safetensors: damaged.*delete .*step_00000003"):
        trainer(tmp_path)
    path.unlink()
    with pytest.raises(TrainingError, match=r"model.safetensors: cannot be read"):
        trainer(tmp_path)
    (path.parent / "state.json").write_text("{")
    with pytest.raises(TrainingError, match=r"state.json: no state"):
        trainer(tmp_path)


def test_a_full_disk_leaves_the_checkpoint_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer(tmp_path).train(until=3)
    before = weights(tmp_path, 3)
    write = run_folder.save_file

    def full(tensors: Any, path: Path) -> None:
        if "optimiser" in path.name:
            path.write_bytes(b"half")
            raise OSError(28, "No space left on device")
        write(tensors, path)

    monkeypatch.setattr(run_folder, "save_file", full)
    with pytest.raises(TrainingError, match=r"No space left.*good one is .*step_00000003"):
        trainer(tmp_path).train()
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["step_00000003"]
    assert weights(tmp_path, 3) == before


def test_gradients_in_parts_are_those_of_the_whole() -> None:
    batch, found = ToySource(size=3, blocks=3).batch(0), []
    for size in (0, 2):
        options = replace(OPTIONS, block_batch=size, predicted_history=1.0)
        objective = CausalFlow(toy_model(), options, Process())
        figures = objective.back_propagate("model", 0, batch, Draw((1,), 3), 0.5)
        assert figures["loss"] == figures["loss_predicted_history"]
        found.append({n: p.grad for n, p in objective.model.named_parameters()})
    assert any(grad is not None for grad in found[0].values())
    for name, grad in found[0].items():
        torch.testing.assert_close(grad, found[1][name], rtol=1e-4, atol=1e-6)


def test_gradients_reach_the_context_pass_and_ablations_hide_parts() -> None:
    batch = ToySource(size=1, blocks=2, weighted=False).batch(0)
    assert batch.source is not None
    source, target = batch.source.requires_grad_(), batch.target.requires_grad_()

    def gradients(**changes: Any) -> tuple[bool, bool]:
        source.grad = target.grad = None
        options = replace(OPTIONS, predicted_history=0.0, **changes)
        objective = CausalFlow(toy_model(), options, Process())
        groups = objective.samples(batch, Draw((1,), 1), None)
        torch.autograd.backward(sum(objective.error(g).square().sum() for g in groups))
        before = groups[-1].history is not None
        return source.grad is not None, before

    assert gradients() == (True, True)
    assert gradients(source=False) == (False, True)
    assert gradients(history=False) == (True, False)


def test_places_without_weight_do_not_count() -> None:
    objective = CausalFlow(toy_model(), OPTIONS, Process())
    batch = ToySource(blocks=1).batch(0)
    assert batch.weight is not None
    weight = batch.weight.clone()
    weight[:, :, :, :, :2] = 0.0
    spoiled = batch.target.clone()
    spoiled[:, :, :, :, :2] += 100.0

    def loss(target: torch.Tensor) -> torch.Tensor:
        groups = objective.samples(replace(batch, target=target, weight=weight), Draw((1,), 2),
                                   None)
        return groups[0].squared(groups[0].noise - groups[0].target) / groups[0].mass

    assert loss(batch.target) == loss(spoiled)
    nothing = replace(batch, weight=weight * 0)
    with pytest.raises(TrainingError, match="weights are all zero"):
        objective.back_propagate("model", 0, nothing, Draw((1,), 2), 1.0)


def test_noise_levels_have_their_shares() -> None:
    options = replace(OPTIONS, full_noise=0.2, listed_steps=0.3)
    levels = noise_levels(Draw((1,), 100), 100, options, TOY)
    assert levels.shape == (100, 100)
    assert bool(((levels > 0) & (levels <= 1)).all())
    listed = torch.tensor([15 / 16, 5 / 6, 5 / 8])
    at_listed = (levels[..., None] - listed).abs().min(-1).values < 1e-6
    assert abs(float((levels == 1).float().mean()) - 0.275) < 0.02  # 0.2 and a quarter of 0.3
    assert abs(float(at_listed.float().mean()) - 0.225) < 0.02
    shifted = noise_levels(Draw((1,), 100), 100, replace(options, shift=1.0), TOY)
    assert shifted.mean() < levels.mean()


def test_batches_that_do_not_fit_and_options_that_cannot_be() -> None:
    with pytest.raises(ModelError, match="target must be"):
        replace(ToySource().batch(0), target=torch.zeros(2, 2, 2, 4, 4, 4)).check(TOY)
    for name, value in (("steps", 0), ("average", 1.0), ("stage", "x"), ("clip", 0.0)):
        with pytest.raises(TrainingError, match=name):
            TrainingOptions(**{name: value})
    with pytest.raises(TrainingError, match="unknown options"):
        TrainingOptions.from_json('{"step": 1}')


def test_one_clip_is_learned_by_heart(tmp_path: Path) -> None:
    """Clean latents after all steps, from pure noise: at least 30 dB of peak 2 x 3 sigma."""
    options = replace(
        OPTIONS, steps=700, learning_rate=4e-3, final_rate=0.01, average=0.98, warm_up=20,
        predicted_history=0.0, listed_steps=0.9, full_noise=0.1, loss="clean",
        log_every=100, validate_every=0, checkpoint_every=0)
    source = ToySource(size=1, blocks=1, tasks=("v2v",), clips=1, weighted=False)
    run = trainer(tmp_path, source, options)
    run.train()
    error = run.validate()["clean_error"]
    psnr = 10 * torch.log10(torch.tensor(36.0 / error))
    assert psnr >= 30.0
