# SPDX-License-Identifier: Apache-2.0
"""Views of the bank in the holes of guides: right colours, right labels, nothing else touched."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from inspatio_ros.geometry.camera import PinholeCamera
from inspatio_ros.memory.imagined_points import ImaginedView
from inspatio_ros.memory.stereo_memory import StereoOptions
from inspatio_ros.memory.view_bank import BankOptions
from inspatio_ros.memory.world_memory import MemoryOptions, WorldMemory
from inspatio_ros.sensing.observation import Observation, Provenance
from support.data import ROOT

CAMERA = PinholeCamera(96, 72, 80.0, 80.0, 47.5, 35.5)
# So short that the cloud has forgotten what was seen a second ago; the bank has not.
FORGETFUL = {"capacity": 20_000, "max_age": 0.5, "guess": False}
BANK = StereoOptions(BankOptions(capacity=16, spacing=0.1))


def moved(x: float = 0.0, z: float = 0.0) -> np.ndarray:
    pose = np.eye(4)
    pose[0, 3], pose[2, 3] = x, z
    return pose


def color(points: np.ndarray) -> np.ndarray:
    """A smooth texture fixed in the world."""
    waves = [np.sin(3 * points[..., 0]), np.sin(4 * points[..., 1]),
             np.cos(2 * points[..., 0] + points[..., 1])]
    return 128 + 80 * np.stack(waves, axis=-1)


def look(x: float = 0.0, distance: float = 3.0, second: float = 0.0, gain: float = 1.0
         ) -> Observation:
    """A view of the textured wall at z = `distance`."""
    depth = np.full((72, 96), distance, np.float32)
    points = CAMERA.unproject(depth) + (x, 0.0, 0.0)
    image = np.clip(np.rint(color(points) * gain), 0, 255).astype(np.uint8)
    return Observation(round(second * 1e9), image, depth, CAMERA, moved(x))


def test_what_the_cloud_forgot_the_bank_still_shows() -> None:
    memory = WorldMemory(MemoryOptions(**FORGETFUL, stereo=BANK))
    plain = WorldMemory(MemoryOptions(**FORGETFUL))
    for second, x in enumerate((2.0, 4.5, 7.0, 9.5)):
        memory.integrate(look(x, second=second))
        plain.integrate(look(x, second=second))
    now = look(9.5, second=3)
    before = plain.render(CAMERA, moved(2.3), [now])
    assert before.coverage == 0.0
    guide = memory.render(CAMERA, moved(2.3), [now])
    assert guide.coverage > 0.85
    known = guide.provenance == Provenance.MEMORY
    truth = look(2.3).image.astype(np.float64)
    error = np.abs(guide.image - truth)[known].mean()
    assert error < 3.0, error
    assert np.nanmax(np.abs(guide.depth - 3.0)) < 0.01
    assert set(np.unique(guide.provenance)) <= {0, 170}


def test_backed_pixels_are_never_touched() -> None:
    memory = WorldMemory(MemoryOptions(capacity=50_000, guess=False, stereo=BANK))
    plain = WorldMemory(MemoryOptions(capacity=50_000, guess=False))
    for second, x in enumerate((0.0, 0.5, 3.0)):
        memory.integrate(look(x, second=second))
        plain.integrate(look(x, second=second))
    for x in (-0.5, 1.7, 3.3):
        seen = [look(3.0, second=2)]
        with_bank, without = memory.render(CAMERA, moved(x), seen), plain.render(
            CAMERA, moved(x), seen)
        backed = without.provenance >= Provenance.MEMORY
        assert (with_bank.image[backed] == without.image[backed]).all()
        assert (with_bank.provenance[backed] == without.provenance[backed]).all()
        assert (with_bank.depth[backed] == without.depth[backed]).all()


def test_an_empty_bank_changes_nothing() -> None:
    memory, plain = WorldMemory(MemoryOptions(stereo=BANK, capacity=20_000)), WorldMemory(
        MemoryOptions(capacity=20_000))
    seen = [look()]
    one, other = memory.render(CAMERA, moved(0.4), seen), plain.render(CAMERA, moved(0.4), seen)
    for name in ("image", "depth", "provenance"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))


def test_what_the_newest_saw_through_stays_empty() -> None:
    memory = WorldMemory(MemoryOptions(**FORGETFUL, stereo=BANK))
    memory.integrate(look(0.0, distance=1.5))
    # The near wall is gone: now the far one is seen through its place.
    now = look(0.0, distance=6.0, second=5)
    memory.integrate(now)
    guide = memory.render(CAMERA, moved(0.3), [now])
    shown = guide.depth[np.isfinite(guide.depth)]
    assert shown.min() > 5.0
    # A bank that was never told, asked without a newest observation, would show it.
    alone = WorldMemory(MemoryOptions(**FORGETFUL, stereo=BANK))
    alone.integrate(look(0.0, distance=1.5))
    alone.cloud.reset()
    assert np.nanmin(alone.render(CAMERA, moved(0.3)).depth) < 2.0


def test_imagined_views_are_shown_as_imagined_and_give_way() -> None:
    memory = WorldMemory(MemoryOptions(**FORGETFUL, keep_imagined=True, stereo=BANK))
    memory.integrate(look(9.5))
    fake = look(2.0)
    fresh = np.zeros((72, 96), bool)
    memory.keep(ImaginedView(np.full_like(fake.image, 9), fake.depth, fresh, CAMERA,
                             fake.world_from_camera, 0))
    now = [look(9.5)]
    guide = memory.render(CAMERA, moved(2.0), now)
    assert guide.kept is not None
    assert guide.coverage == 0.0
    shown = guide.kept > 0
    assert shown.mean() > 0.85
    assert (guide.provenance[shown] == Provenance.IMAGINED).all()
    assert (guide.image[shown] == 9).all()
    assert guide.settled[shown].all()
    memory.integrate(look(2.0, second=1))
    memory.integrate(look(9.5, second=2))
    guide = memory.render(CAMERA, moved(2.0), [look(9.5, second=2)])
    assert guide.coverage > 0.85
    assert (guide.image[guide.provenance == Provenance.MEMORY] != 9).any(axis=-1).all()
    assert guide.kept is None or not (guide.kept[guide.provenance >= Provenance.MEMORY] > 0).any()


def test_moving_things_do_not_enter_the_bank() -> None:
    memory = WorldMemory(MemoryOptions(**FORGETFUL, stereo=BANK))
    assert memory.stereo is not None
    moving = np.zeros((72, 96), bool)
    moving[:, 30:60] = True
    memory.stereo.add(look(0.0), moving)
    held = memory.stereo.bank.views[0].observation.depth
    assert np.isnan(held[:, 31:59]).all()
    assert np.isfinite(held[:, :28]).all()


@pytest.mark.parametrize("match", [False, True])
def test_exposure_is_matched_when_asked(match: bool) -> None:
    memory = WorldMemory(MemoryOptions(**FORGETFUL, stereo=StereoOptions(
        BankOptions(capacity=16, spacing=0.1), match_exposure=match)))
    memory.integrate(look(0.0, gain=0.6))
    now = look(1.2, second=5)
    memory.integrate(now)
    guide = memory.render(CAMERA, moved(0.6), [now])
    filled = guide.provenance == Provenance.MEMORY
    assert filled.mean() > 0.1
    ratio = float(guide.image[filled].sum() / look(0.6).image[filled].sum())
    assert ratio == pytest.approx(1.0 if match else 0.6, abs=0.06)


def test_bytes_are_flat_and_clearing_forgets() -> None:
    memory = WorldMemory(MemoryOptions(**FORGETFUL, stereo=BANK))
    sizes = set()
    for step in range(60):
        memory.integrate(look(0.5 * step, second=step))
        memory.render(CAMERA, moved(0.5 * step + 0.3), [look(0.5 * step, second=step)])
        if step >= 30:
            sizes.add(memory.nbytes)
    assert memory.stereo is not None
    assert len(memory.stereo.bank) == 16
    assert len(sizes) == 1, sizes
    memory.clear()
    assert len(memory.stereo.bank) == 0


def test_views_must_be_asked_for() -> None:
    with pytest.raises(ValueError, match="views 0"):
        StereoOptions(views=0)


def test_benchmark_tells_what_each_memory_adds() -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "benchmarks" / "memories.py"),
         str(ROOT / "samples" / "office"), "--limit", "15", "--stride", "5", "--reach", "0.8",
         "--width", "48", "--max-age", "0.5"],
        capture_output=True, text=True, check=True, timeout=300)
    result = json.loads(done.stdout)[0]
    assert result["bank_views"] >= 1
    for way in ("ahead", "back"):
        assert result[way]["frames"] > 0
        assert result[way]["stereo_memory"]["backed"] >= result[way]["seen"]["backed"]


def test_benchmark_sends_a_robot_through_worlds() -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "benchmarks" / "memories.py"), "--rooms", "1000300",
         "--streets", "1000300", "--frames", "15", "--stride", "5", "--reach", "1.5",
         "--width", "48"], capture_output=True, text=True, check=True, timeout=300)
    room, street, last = json.loads(done.stdout)
    assert [room["sequence"], street["sequence"]] == ["room_1000300", "street_1000300"]
    for way in ("ahead", "back"):
        mean = last["mean"][way]["seen"]["psnr_all"]
        assert mean == pytest.approx((room[way]["seen"]["psnr_all"]
                                      + street[way]["seen"]["psnr_all"]) / 2, abs=0.01)
    assert room["back"]["seen"]["psnr_all"] > room["back"]["single"]["psnr_all"]


@pytest.mark.parametrize("blind", [False, True])
@pytest.mark.parametrize("by_newest", [False, True])
def test_what_stands_before_a_place_and_gives_no_depth_is_not_drawn_over(
        blind: bool, by_newest: bool) -> None:
    """The newest observation, or another view found, sees a black thing that gives no depth."""
    memory = WorldMemory(MemoryOptions(**FORGETFUL, stereo=BANK))
    black = np.s_[20:50, 40:60]

    def hide(seen: Observation) -> Observation:
        image, depth = seen.image.copy(), seen.depth.copy()
        if blind:
            image[black], depth[black] = 0, np.nan
        return replace(seen, image=image, depth=depth)

    memory.integrate(look(0.0))
    second = look(0.6, second=1)
    memory.integrate(second if by_newest else hide(second))
    far = look(9.5, second=3)
    now = far
    if by_newest:
        # The newest knows no depth at all but where it looks at the thing it differs.
        now = hide(look(0.6, second=3))
        now = replace(now, depth=np.full_like(now.depth, np.nan))
    memory.integrate(far)
    # From 0.4 m farther right, where neither view shows all, it appears 11 px to the left.
    x, window = (0.6, np.s_[21:49, 41:59]) if by_newest else (1.0, np.s_[21:49, 31:47])
    guide = memory.render(CAMERA, moved(x), [now])
    shown = (guide.provenance[window] == Provenance.MEMORY).mean()
    assert (guide.provenance[20:50, 65:80] == Provenance.MEMORY).mean() > 0.9
    assert shown < 0.1 if blind else shown > 0.9
