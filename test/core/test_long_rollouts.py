# SPDX-License-Identifier: Apache-2.0
"""Long roll-outs: statistics held to the source, older blocks recalled, drift noticed."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any

import numpy as np
import pytest
import torch

from inspatio_ros.geometry import rigid
from inspatio_ros.geometry.camera import PinholeCamera
from inspatio_ros.geometry.trajectory import CameraTrajectory
from inspatio_ros.imagination.assessment import DRIFT_COLOR, Drift, DriftMonitor, DriftSummary
from inspatio_ros.imagination.denoiser import BlockDenoiser
from inspatio_ros.imagination.engine import ImaginationEngine
from inspatio_ros.imagination.filler import GeometricFiller
from inspatio_ros.imagination.generator import GeneratorBackend
from inspatio_ros.imagination.long_rollouts import LongRollout, RolloutHistory, reanchored
from inspatio_ros.imagination.request import ImaginationRequest, ImaginedBlock
from inspatio_ros.memory.guide import Guide
from inspatio_ros.memory.world_memory import MemoryOptions, WorldMemory
from inspatio_ros.model.presets import TINY
from inspatio_ros.model.small_codec import SmallCodec, SmallCodecConfig
from inspatio_ros.model.text_encoder import ConstantText
from inspatio_ros.model.transformer import CausalTransformer
from inspatio_ros.sensing.observation import Observation, Provenance

WIDE = PinholeCamera(96, 64, 80.0, 80.0, 47.5, 31.5)
SMALL = replace(TINY, dim=64, ffn_dim=128, num_heads=2, num_layers=2, height=64, width=96)


def latents(mean: float, spread: float, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return mean + spread * torch.randn(1, 3, 4, 6, 8, generator=generator)


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_statistics_move_to_the_source(share: float) -> None:
    drifted, source = latents(3.0, 1.5), latents(0.0, 1.0, 1)
    moved = reanchored(drifted, source, share)
    expected = drifted.mean() * (1 - share) + source.mean() * share
    assert float(moved.mean()) == pytest.approx(float(expected), abs=0.01)
    assert float(moved.std()) == pytest.approx(1.5 - 0.5 * share, abs=0.06)
    # The picture itself stays: every channel is only stretched and shifted.
    flat, before = moved[0, :, 0].flatten(), drifted[0, :, 0].flatten()
    assert float(torch.corrcoef(torch.stack([flat, before]))[0, 1]) > 0.999


def test_a_plain_source_does_not_flatten_a_rich_picture() -> None:
    moved = reanchored(latents(0.0, 1.0), latents(0.0, 0.01, 1), 1.0)
    assert float(moved.std()) > 0.45


def at(x: float) -> np.ndarray:
    return rigid.from_rotation(np.eye(3), (x, 0, 0))


def test_an_older_block_is_recalled_when_the_camera_comes_back() -> None:
    history = RolloutHistory(LongRollout(keyframes=4))
    assert history.choose(at(0)) is None
    for number in range(6):
        history.add(latents(float(number), 0.0), latents(0, 1), at(float(number)))
        newest = history.choose(at(float(number) + 1.0))
        assert newest is not None
        assert float(newest.mean()) == pytest.approx(number)
    back = history.choose(at(1.0))
    assert back is not None
    assert float(back.mean()) < 3
    assert history.recalled == 1


def test_history_is_bounded_and_without_keyframes_the_last_block() -> None:
    history, plain = RolloutHistory(LongRollout(keyframes=5)), RolloutHistory(LongRollout())
    for number in range(300):
        for one in (history, plain):
            one.add(latents(float(number), 1.0), latents(0, 1), at(0.1 * number))
    one_block = latents(0, 1).numel() * 4
    assert history.nbytes <= 6 * one_block
    assert plain.nbytes == one_block
    back = plain.choose(at(0.0))
    assert back is not None
    assert torch.equal(back, latents(299.0, 1.0))


@pytest.mark.parametrize("values", [{"reanchor": 1.5}, {"reanchor": -0.1}, {"keyframes": -1}])
def test_values_out_of_range_are_refused(values: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="reanchor|keyframes"):
        LongRollout(**values)  # type: ignore[arg-type]


class Watched(BlockDenoiser):
    """Notes what each block is shown as history and what it makes."""

    def __init__(self, model: CausalTransformer) -> None:
        super().__init__(model)
        self.shown: list[torch.Tensor | None] = []
        self.made: list[torch.Tensor] = []
        self.sources: list[torch.Tensor] = []

    def block(self, reference: Any, history: Any, *rest: Any, **more: Any) -> torch.Tensor:
        made = super().block(reference, history, *rest, **more)
        self.shown.append(history)
        self.sources.append(reference)
        self.made.append(made)
        return made


def rollout(options: LongRollout) -> Watched:
    """Out and back with a small model of random weights."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        denoiser = Watched(CausalTransformer(SMALL).prepare_for_inference())
        codec = SmallCodec(SmallCodecConfig(frame_width=16, group_width=16)).eval()
    backend = GeneratorBackend("small", denoiser, codec,
                               ConstantText(SMALL.text_len, SMALL.text_dim), fixed_size=False,
                               long_rollout=options)
    imagined_out_and_back(ImaginationEngine(backend))
    backend.close()
    return denoiser


def imagined_out_and_back(engine: ImaginationEngine) -> list[ImaginedBlock]:
    image = np.random.default_rng(0).integers(0, 255, (64, 96, 3)).astype(np.uint8)
    seen = Observation(0, image, np.full((64, 96), 2.0, np.float32), WIDE, np.eye(4))
    there = [at(0.1 * i) for i in range(2 * SMALL.block_frames)]
    way = CameraTrajectory.from_poses(np.array(there + there[::-1]), 12.0)
    memory = WorldMemory(MemoryOptions(capacity=20_000))
    memory.integrate(seen)
    return list(engine.imagine(ImaginationRequest(WIDE, way, (seen,), mode="composite"), memory))


def test_without_options_the_history_is_the_block_before() -> None:
    run = rollout(LongRollout())
    assert len(run.made) == 4
    assert run.shown[0] is None
    for history, before in zip(run.shown[1:], run.made, strict=False):
        assert history is not None
        assert torch.equal(history, before)


def test_the_history_is_re_anchored_when_asked() -> None:
    run = rollout(LongRollout(reanchor=0.7))
    for history, before, source in zip(run.shown[1:], run.made, run.sources, strict=False):
        assert history is not None
        assert torch.equal(history, reanchored(before, source, 0.7))
        assert not torch.equal(history, before)


def test_coming_back_shows_the_older_block() -> None:
    run = rollout(LongRollout(keyframes=8))
    assert run.shown[1] is not None
    assert torch.equal(run.shown[1], run.made[0])
    # The last block looks again at where the first one was.
    assert run.shown[3] is not None
    assert torch.equal(run.shown[3], run.made[0])


def guide() -> Guide:
    rng = np.random.default_rng(1)
    image = rng.integers(60, 180, (48, 64, 3)).astype(np.uint8)
    labels = np.full((48, 64), Provenance.MEMORY, np.uint8)
    labels[:, 40:] = Provenance.UNKNOWN
    return Guide(image, np.ones((48, 64), np.float32), labels)


@pytest.mark.parametrize(("change", "drifts"), [
    (lambda image: image, False),
    (lambda image: np.clip(image.astype(int) + 20, 0, 255), True),
    (lambda image: 120 + (image.astype(float) - 120) * 0.5, True),
    (lambda image: np.where(np.arange(64)[None, :, None] >= 40, 0, image), False),
])
def test_drift_is_noticed_after_two_blocks(change: object, drifts: bool) -> None:
    assert callable(change)
    monitor, known = DriftMonitor(), guide()
    picture = np.asarray(change(known.image)).astype(np.uint8)
    monitor.add([picture], [known])
    assert not monitor.drifting
    monitor.add([picture], [known])
    assert monitor.drifting == drifts
    monitor.add([known.image], [known])
    assert not monitor.drifting
    assert len(monitor.blocks) == 3


def test_nothing_is_said_where_nothing_is_known() -> None:
    known = guide()
    blind = Guide(known.image, known.depth, np.zeros((48, 64), np.uint8))
    drift = DriftMonitor().add([known.image], [blind])
    assert np.isnan(drift.color)
    assert not drift.far


class Darkening(GeometricFiller):
    """Each block 8 grey values darker than the one before it."""

    block_frames = first_block_frames = 3

    def begin(self, request: ImaginationRequest) -> DarkeningSession:  # type: ignore[override]
        return DarkeningSession()


class DarkeningSession:
    recalled = 0
    bank = None

    def __init__(self) -> None:
        self.stage_times: dict[str, float] = {}
        self._blocks = 0
        self._pictures: list[list[np.ndarray]] = []

    def start_fill(self, guides: Any, references: Any) -> None:
        dark = 8 * self._blocks
        self._pictures = [[np.maximum(g.image.astype(int) - dark, 0).astype(np.uint8)
                           for g in lane] for lane in guides]
        self._blocks += 1

    def finish_fill(self) -> list[list[np.ndarray]]:
        return self._pictures

    def close(self) -> None:
        pass


def test_the_engine_reports_drift_block_by_block() -> None:
    """Although composite pictures show the guide itself where it knows."""
    blocks = imagined_out_and_back(ImaginationEngine(Darkening()))
    colors = [block.drift.color for block in blocks if block.drift is not None]
    assert len(colors) == len(blocks) > 4
    assert colors[0] == 0.0
    # Black pixels stay black.
    assert 4.0 < colors[1] <= 8.0
    assert colors == sorted(colors)
    far = [color > DRIFT_COLOR for color in colors]
    assert [block.drifting for block in blocks] == [
        now and before for now, before in zip(far, [False, *far], strict=False)]
    summary = DriftSummary()
    for block in blocks:
        summary.add(block.index, block.drift, block.drifting)
    report = summary.as_dict()
    assert report["blocks_judged"] == len(blocks)
    assert report["first_drifting"] == far.index(True) + 1
    assert report["blocks_drifting"] == len(blocks) - far.index(True) - 1
    assert report["worst_color"] == round(colors[-1], 2)


def test_a_model_s_drift_is_measured_and_its_options_change_between_requests() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        denoiser = BlockDenoiser(CausalTransformer(SMALL).prepare_for_inference())
        codec = SmallCodec(SmallCodecConfig(frame_width=16, group_width=16)).eval()
    backend = GeneratorBackend("small", denoiser, codec,
                               ConstantText(SMALL.text_len, SMALL.text_dim), fixed_size=False)
    engine = ImaginationEngine(backend)
    free = [asdict(block.drift) for block in imagined_out_and_back(engine)]
    assert all(drift["color"] > 1.0 for drift in free)
    engine.hold_rollouts(0.5, 3)
    assert backend.long_rollout == LongRollout(0.5, 3)
    held = [asdict(block.drift) for block in imagined_out_and_back(engine)]
    # The order of a sum can follow from where in memory its numbers lie.
    assert held[0] == pytest.approx(free[0], rel=1e-6)
    assert any(late != pytest.approx(loose, rel=1e-6)
               for late, loose in zip(held[1:], free[1:], strict=True))
    with pytest.raises(ValueError, match="reanchor"):
        engine.hold_rollouts(2.0, 0)
    engine.close()


def test_blocks_that_stand_alone_have_no_drift() -> None:
    engine = ImaginationEngine(GeometricFiller())
    engine.hold_rollouts(0.5, 3)
    blocks = imagined_out_and_back(engine)
    assert blocks
    assert all(block.drift is None and not block.drifting for block in blocks)


def test_a_summary_keeps_the_worst_with_its_sign() -> None:
    summary = DriftSummary()
    summary.add(0, Drift(3.0, -0.4, 0.1), False)
    summary.add(1, Drift(float("nan"), float("nan"), float("nan")), False)
    summary.add(2, Drift(2.0, 0.2, -0.3), False)
    summary.add(3, None, False)
    assert summary.as_dict() == {
        "blocks_judged": 2, "blocks_drifting": 0, "first_drifting": None, "worst_color": 3.0,
        "worst_contrast": -0.4, "worst_sharpness": -0.3}
