# SPDX-License-Identifier: Apache-2.0
"""The finisher: starts as the classical fill, learns, is kept and loaded, works in the engine."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from inspatio_ros.cli.main import main
from inspatio_ros.evaluation.perceptual import WeightsMissing
from inspatio_ros.geometry.camera import PinholeCamera
from inspatio_ros.geometry.trajectory import CameraTrajectory
from inspatio_ros.imagination.backends import BackendOptions, make_backend
from inspatio_ros.imagination.denoiser import BlockDenoiser
from inspatio_ros.imagination.filler import GeometricFiller
from inspatio_ros.imagination.generator import GeneratorBackend
from inspatio_ros.imagination.request import ImaginationRequest
from inspatio_ros.memory.guide import Guide
from inspatio_ros.model.config import ModelError
from inspatio_ros.model.finisher import (
    Finisher,
    FinisherConfig,
)
from inspatio_ros.model.presets import preset
from inspatio_ros.model.small_codec import SmallCodec, SmallCodecConfig
from inspatio_ros.model.text_encoder import ConstantText
from inspatio_ros.model.transformer import CausalTransformer
from inspatio_ros.model.weights import (
    FINISHER_FILE,
    TRANSFORMER_FILE,
    WeightsError,
    file_digest,
    load_finisher,
    save_finisher,
    save_small_model,
)
from inspatio_ros.sensing.observation import Observation, Provenance
from inspatio_ros.training.clips import Clip, ClipError, ClipInfo, read_clips, write_shard
from inspatio_ros.training.finisher_trainer import (
    FeatureLoss,
    FinisherTraining,
    FrameSampler,
    finisher_figures,
    strength_difference,
    train_finisher,
)
from inspatio_ros.training.imagined_clips import read_imagined
from inspatio_ros.training.saving import save_tensors
from support.data import feature_file

SMALL = FinisherConfig(widths=(8, 8), fine=4)
TOY = replace(preset("tiny"), name="toy", dim=32, ffn_dim=64, num_heads=2, num_layers=1,
              freq_dim=16, height=64, width=96)


def toy_clip(seed: int, held_out: bool = False) -> Clip:
    """A clip whose holes hold a colour that follows from what is known around them."""
    rng = np.random.default_rng(seed)
    truth = np.zeros((12, 64, 96, 3), np.uint8)
    truth[:] = rng.integers(60, 200, 3)
    known = np.ones((12, 64, 96), np.bool_)
    known[:, 16:48, 24:72] = False
    truth[~known] = 255 - truth[0, 0, 0]
    render = np.where(known[..., None], truth, truth[0, 0, 0]).astype(np.uint8)
    return Clip(ClipInfo("v2v", "toy", f"toy-{seed}", "Apache-2.0", held_out), truth, render,
                known, truth[:1])


def tensors(count: int = 2, height: int = 32, width: int = 48) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(1)
    pictures = torch.rand(3, count, 3, height, width, generator=generator) * 2 - 1
    known = torch.where(torch.rand(count, 1, height, width, generator=generator) < 0.5, -1.0, 1.0)
    return pictures[0], pictures[1], known, pictures[2]


@pytest.mark.parametrize(("height", "width"), [(32, 48), (28, 44), (4, 8)])
def test_without_training_the_filled_picture_passes_unchanged(height: int, width: int) -> None:
    decoded, filled, known, seen = tensors(2, height, width)
    assert torch.equal(Finisher()(decoded, filled, known, seen), filled)


def test_sides_that_do_not_divide_are_refused() -> None:
    with pytest.raises(ModelError, match="multiples of 4, got 30x32"):
        Finisher(SMALL)(*tensors(1, 32, 30))
    with pytest.raises(ModelError, match="positive widths"):
        FinisherConfig(widths=(0, 8))


def test_frames_do_not_depend_on_each_other() -> None:
    finisher = Finisher(SMALL)
    torch.nn.init.normal_(finisher.leave.weight, std=0.1)
    decoded, filled, known, seen = tensors(3)
    together = finisher(decoded, filled, known, seen)
    torch.testing.assert_close(
        together[1:2], finisher(decoded[1:2], filled[1:2], known[1:2], seen[1:2]))
    assert not torch.equal(together, filled)


def test_files(tmp_path: Path) -> None:
    finisher = Finisher(SMALL)
    torch.nn.init.normal_(finisher.leave.weight)
    save_finisher(finisher, tmp_path / FINISHER_FILE)
    loaded = load_finisher(tmp_path / FINISHER_FILE)
    assert loaded.config == SMALL
    assert torch.equal(loaded(*tensors()), finisher(*tensors()))
    save_tensors(tmp_path / "other.safetensors", {"a": torch.zeros(1)})
    with pytest.raises(WeightsError, match="expected 'inspatio_ros finisher'"):
        load_finisher(tmp_path / "other.safetensors")


def test_grain_follows_from_its_seed_and_is_asked_for() -> None:
    finisher = Finisher(replace(SMALL, grain=True))
    torch.nn.init.normal_(finisher.leave.weight, std=0.1)
    noise = finisher.grain_noise(32, 48, 7)
    again, other = (finisher.grain_noise(32, 48, seed) for seed in (7, 8))
    assert noise is not None
    assert other is not None
    assert torch.equal(noise, again)
    made = finisher(*tensors(), noise)
    # Another layout in memory may take another kernel, whose sums round differently.
    torch.testing.assert_close(finisher(*tensors(), noise.expand(2, -1, -1, -1)), made)
    assert not torch.equal(made, finisher(*tensors(), other))
    assert Finisher(SMALL).grain_noise(32, 48, 7) is None
    with pytest.raises(ModelError, match="needs noise"):
        finisher(*tensors())
    with pytest.raises(ModelError, match="takes none"):
        Finisher(SMALL)(*tensors(), noise)


def test_grain_is_added_to_a_trained_finisher_without_changing_it(tmp_path: Path) -> None:
    """Training may go on from a finisher without grain: what it has learnt stays."""
    start = Finisher(SMALL)
    torch.nn.init.normal_(start.leave.weight, std=0.1)
    save_finisher(start, tmp_path / "start.safetensors")
    start = load_finisher(tmp_path / "start.safetensors")
    options = FinisherTraining(steps=1, batch=1, learning_rate=0.0, grain=True)
    trained = train_finisher([toy_clip(0)], tmp_path, options, finisher=start)
    assert trained.config == replace(SMALL, grain=True)
    for name, value in start.state_dict().items():
        assert torch.equal(trained.state_dict()[name], value), name
    with pytest.raises(ValueError, match="has grain"):
        train_finisher([toy_clip(0)], tmp_path / "b", FinisherTraining(steps=1), finisher=trained)


def test_hints_are_added_without_changing_what_it_makes(tmp_path: Path) -> None:
    start = Finisher(SMALL)
    torch.nn.init.normal_(start.leave.weight, std=0.1)
    save_finisher(start, tmp_path / "start.safetensors")
    start = load_finisher(tmp_path / "start.safetensors")
    options = FinisherTraining(steps=1, batch=1, learning_rate=0.0, hints=True)
    trained = train_finisher([toy_clip(0)], tmp_path / "a", options, finisher=start)
    assert trained.config == replace(SMALL, hints=True)
    decoded, filled, known, seen = tensors()
    assert torch.equal(start(decoded, filled, known, seen), trained(decoded, filled, known, seen))
    with pytest.raises(ValueError, match="has hints"):
        train_finisher([toy_clip(0)], tmp_path / "b", FinisherTraining(steps=1), finisher=trained)


def test_only_a_finisher_with_hints_is_told_of_them() -> None:
    decoded, filled, known, seen = tensors()
    hinted = torch.where(known < 0, torch.zeros_like(known), known)
    for hints in (False, True):
        finisher = Finisher(replace(SMALL, hints=hints))
        torch.nn.init.normal_(finisher.leave.weight, std=0.1)
        same = torch.equal(finisher(decoded, filled, known, seen),
                           finisher(decoded, filled, hinted, seen))
        assert same != hints


def test_clips_come_and_are_imagined_anew_while_it_learns() -> None:
    clips = [toy_clip(seed) for seed in range(2)]
    assert clips[0].render is not None
    options = FinisherTraining(batch=8, blind_share=0.0, grey_share=0.0)
    sampler = FrameSampler(clips[:1], {}, options)
    before = sampler.batch(0)
    assert torch.equal(before.decoded, before.filled)
    sampler.add(0, clips[0], np.full_like(clips[0].truth, 7))
    assert not torch.equal(sampler.batch(0).decoded, before.decoded)
    sampler.add(1, clips[1])
    at_once = FrameSampler(clips, {0: np.full_like(clips[0].truth, 7)}, options)
    for name in ("decoded", "filled", "known", "seen", "truth"):
        assert torch.equal(getattr(sampler.batch(3), name), getattr(at_once.batch(3), name))


def test_the_sampler_tells_hints() -> None:
    clip = toy_clip(0)
    assert clip.known is not None
    hinted = np.zeros_like(clip.known)
    hinted[:, 20:30, 30:50] = True
    clip = replace(clip, hinted=hinted)
    batch = FrameSampler([clip], {}, FinisherTraining(batch=2)).batch(0)
    assert set(batch.known.unique().tolist()) == {-1.0, 0.0, 1.0}
    assert float(batch.hole.sum()) == 2 * float((~clip.known[0]).sum())


def test_minutes_end_a_run(tmp_path: Path) -> None:
    options = FinisherTraining(steps=10**6, batch=1, minutes=1e-4)
    train_finisher([toy_clip(0)], tmp_path, options, finisher=Finisher(SMALL))
    assert load_finisher(tmp_path / FINISHER_FILE).config == SMALL


def test_features_and_their_weight_go_together(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="only go together"):
        train_finisher([toy_clip(0)], tmp_path, FinisherTraining(feature_weight=1.0))
    with pytest.raises(WeightsMissing, match="no such file"):
        train_finisher([toy_clip(0)], tmp_path, FinisherTraining(feature_weight=1.0),
                       features=tmp_path / "nothing.pth")


def test_the_feature_loss_looks_into_holes_only() -> None:
    loss = FeatureLoss(feature_file())
    clip = toy_clip(3)
    assert clip.render is not None
    sampler = FrameSampler([clip], {}, FinisherTraining(batch=2))
    batch = sampler.batch(0)
    assert float(loss(batch.truth, batch)) < 1e-3
    made = batch.filled.clone().requires_grad_()
    total = loss(made, batch)
    assert float(total.detach()) > 0.05
    total.backward()  # type: ignore[no-untyped-call]
    assert made.grad is not None
    inside = (batch.known < 0).expand_as(made)
    assert float(made.grad[~inside].abs().max()) == 0.0
    assert float(made.grad[inside].abs().max()) > 0.0


def test_strength_difference_sees_blur_and_not_place() -> None:
    generator = torch.Generator().manual_seed(0)
    sharp = torch.rand(1, 3, 64, 64, generator=generator) - 0.5
    moved = sharp.roll(7, -1)
    blurred = torch.nn.functional.avg_pool2d(sharp, 5, 1, 2)
    mask = torch.ones(1, 1, 64, 64)
    assert float(strength_difference(sharp, sharp, mask)) == 0.0
    assert float(strength_difference(moved, sharp, mask)) < 0.5
    assert float(strength_difference(blurred, sharp, mask)) > 1.5
    mask[..., :, :32] = 0
    half = sharp.clone()
    half[..., :32] = 0
    assert float(strength_difference(half, sharp, mask)) < 1e-6


def test_it_learns_what_a_classical_fill_cannot_know(tmp_path: Path) -> None:
    clips = [toy_clip(seed) for seed in range(4)]
    options = FinisherTraining(steps=60, batch=4, learning_rate=4e-3, warm_up=5, grey_share=0.0,
                               ema=0.9, bfloat16=False)
    finisher = train_finisher(clips, tmp_path, options, finisher=Finisher(SMALL))
    row = finisher_figures(finisher, clips, {})["toy"]
    assert row["psnr_finished"] > row["psnr_filled"] + 3


def test_an_interrupted_run_equals_an_undisturbed_one(tmp_path: Path) -> None:
    clips = [toy_clip(seed) for seed in range(2)]
    options = FinisherTraining(steps=6, batch=2, bfloat16=False)

    class Cut(Exception):
        pass

    def cut(step: int, losses: dict[str, float]) -> None:
        if step == 3:
            raise Cut

    def fresh() -> Finisher:
        torch.manual_seed(5)
        return Finisher(SMALL)

    whole = train_finisher(clips, tmp_path / "whole", options, finisher=fresh(), save_every=2)
    with pytest.raises(Cut):
        train_finisher(clips, tmp_path / "cut", options, finisher=fresh(), save_every=2,
                       on_step=cut)
    again = train_finisher(clips, tmp_path / "cut", options, finisher=fresh(), save_every=2)
    for name, value in whole.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name


def test_clips_without_a_guide_are_refused() -> None:
    clip = Clip(ClipInfo("t2v", "toy", "a", "MIT", False), toy_clip(0).truth)
    with pytest.raises(ClipError, match="v2v"):
        FrameSampler([clip], {}, FinisherTraining())


def test_a_model_and_its_finisher_belong_together() -> None:
    model = CausalTransformer(TOY)
    codec = SmallCodec(SmallCodecConfig())
    text = ConstantText(TOY.text_len, TOY.text_dim)
    with pytest.raises(ModelError, match="takes none"):
        GeneratorBackend("toy", BlockDenoiser(model), codec, text, fixed_size=False,
                         finisher=Finisher(SMALL))
    finished = CausalTransformer(replace(TOY, finished=True))
    with pytest.raises(ModelError, match="needs a finisher"):
        GeneratorBackend("toy", BlockDenoiser(finished), codec, text, fixed_size=False)


def test_the_whole_way_by_the_program(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Imagine packed clips, train on them, use the result."""
    clips = [toy_clip(0), toy_clip(1), toy_clip(2, held_out=True)]
    write_shard(tmp_path / "clips/toy.clips.safetensors", clips)
    torch.manual_seed(0)
    folder = tmp_path / "model"
    save_small_model(folder, CausalTransformer(TOY), SmallCodec(SmallCodecConfig()))
    imagined = tmp_path / "imagined.safetensors"
    assert main(["data", "imagine", str(tmp_path / "clips"), str(imagined), "--model",
                 str(folder), "--codec", str(folder)]) == 0
    made = read_imagined(imagined)
    assert {n: p.shape for n, p in made.items()} == {n: (12, 64, 96, 3) for n in range(3)}
    assert main(["data", "imagine", str(tmp_path / "clips"), str(imagined), "--model",
                 str(folder), "--codec", str(folder), "--without", "toy"]) != 0
    assert "no clip has a guide" in capsys.readouterr().err
    run = tmp_path / "run"
    assert main(["train", "finisher", "--run", str(run), "--data", str(tmp_path / "clips"),
                 "--imagined", str(imagined), "--steps", "3", "--batch", "2"]) == 0
    assert "toy" in json.loads((run / "finisher_figures.json").read_text())
    assert len(list(read_clips(tmp_path / "clips"))) == 3
    whole = tmp_path / "whole"
    model, codec = CausalTransformer(TOY), SmallCodec(SmallCodecConfig())
    save_small_model(whole, model, codec, finisher=load_finisher(run / FINISHER_FILE))
    backend = make_backend(BackendOptions("tiny", str(whole)))
    assert isinstance(backend, GeneratorBackend)
    assert backend.config.finished
    assert backend.digest == file_digest(whole / TRANSFORMER_FILE)
    backend.warm_up(PinholeCamera(96, 64, 80.0, 80.0, 47.5, 31.5))
    (whole / FINISHER_FILE).unlink()
    with pytest.raises(WeightsError, match="finisher.safetensors: no such file"):
        make_backend(BackendOptions("tiny", str(whole)))
    capsys.readouterr()
    assert main(["weights", "check", str(whole)]) != 0
    assert "finisher" in capsys.readouterr().out
    with pytest.raises(ClipError, match="inspatio data imagine"):
        read_imagined(tmp_path / "clips/toy.clips.safetensors")


def test_an_untrained_finisher_leaves_the_classical_fill_as_it_is_at_full_size() -> None:
    """What a finisher changes is added to the filled picture, whose detail stays."""
    backend = make_backend(BackendOptions("tiny_random"))
    assert isinstance(backend, GeneratorBackend)
    camera = PinholeCamera(416, 240, 300.0, 300.0, 207.5, 119.5)
    rng = np.random.default_rng(0)
    image = rng.integers(0, 255, (240, 416, 3)).astype(np.uint8)
    labels = np.full(image.shape[:2], Provenance.OBSERVED, np.uint8)
    labels[:, 300:] = Provenance.UNKNOWN
    guides = [Guide(image, np.full(labels.shape, 2.0, np.float32), labels)] * 12
    request = ImaginationRequest(camera, CameraTrajectory(np.eye(4)[None], np.zeros(1)), ())
    filler = GeometricFiller().begin(request)
    filler.start_fill([guides], ())
    made = backend.begin(request).fill(guides, ())
    for picture, filled in zip(made, filler.finish_fill()[0], strict=True):
        np.testing.assert_array_equal(picture, filled)
        np.testing.assert_array_equal(picture[:, :300], image[:, :300])


def toy_backend() -> GeneratorBackend:
    """With a finisher whose weights are random and strong."""
    torch.manual_seed(0)
    finisher = Finisher(replace(SMALL, grain=True))
    torch.nn.init.normal_(finisher.leave.weight, std=0.5)
    config = replace(TOY, finished=True)
    return GeneratorBackend(
        "toy", BlockDenoiser(CausalTransformer(config).prepare_for_inference()),
        SmallCodec(SmallCodecConfig()).eval(), ConstantText(TOY.text_len, TOY.text_dim),
        fixed_size=False, finisher=finisher.eval())


@pytest.mark.parametrize(("tint", "looked"), [(0, True), (60, True), (60, False)])
def test_a_camera_without_colours_will_see_none(tint: int, looked: bool) -> None:
    """And before any picture was seen nothing is known of its colours."""
    backend, camera = toy_backend(), PinholeCamera(192, 128, 160.0, 160.0, 95.5, 63.5)
    grey = np.random.default_rng(0).integers(0, 190, (128, 192, 1)).astype(np.uint8)
    image = np.repeat(grey, 3, axis=2)
    image[..., 0] += np.uint8(tint)
    labels = np.full(image.shape[:2], Provenance.OBSERVED, np.uint8)
    labels[:, 96:] = Provenance.UNKNOWN
    depth = np.full(labels.shape, 2.0, np.float32)
    seen = Observation(0, image, depth, camera, np.eye(4))
    way = CameraTrajectory(np.eye(4)[None], np.zeros(1))
    shown = np.where(labels[..., None] == Provenance.UNKNOWN, np.uint8(0), image)
    references = (seen,) if looked else ()
    session = backend.begin(ImaginationRequest(camera, way, references))
    for picture in session.fill([Guide(shown, depth, labels)] * 12, references):
        made = picture[:, 96:].astype(int)
        assert (np.ptp(made, axis=2).max() == 0) == (tint == 0)
        assert made.std() > 5


def test_grain_is_for_what_nobody_saw() -> None:
    """A hint has detail of its own; only where nothing was seen texture is made of noise."""
    backend, camera = toy_backend(), PinholeCamera(192, 128, 160.0, 160.0, 95.5, 63.5)
    image = np.random.default_rng(0).integers(0, 255, (128, 192, 3)).astype(np.uint8)
    labels = np.full(image.shape[:2], Provenance.OBSERVED, np.uint8)

    def made(hole: Provenance) -> list[np.ndarray]:
        shown = labels.copy()
        shown[32:96, 48:144] = hole
        depth = np.where(shown >= Provenance.MEMORY, np.float32(2), np.float32(np.nan))
        picture = image * (shown != Provenance.UNKNOWN)[..., None].astype(np.uint8)
        both = []
        for seed in (1, 2):
            way = CameraTrajectory(np.eye(4)[None], np.zeros(1))
            session = backend.begin(ImaginationRequest(camera, way, (), seed=seed))
            # The transformer's own noise is the same, so that only the grain can differ.
            session._lanes[0].generator.manual_seed(0)
            both.append(session.fill([Guide(picture, depth, shown)] * 12, ())[0])
        return both

    first, second = made(Provenance.IMAGINED)
    np.testing.assert_allclose(first.astype(int), second, atol=1)
    first, second = made(Provenance.UNKNOWN)
    assert np.abs(first.astype(int) - second)[48:80, 64:128].max() > 5
