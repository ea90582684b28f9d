# SPDX-License-Identifier: Apache-2.0
"""The bank of views: its bounds, and that it finds what shows the wanted."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inspatio_ros.geometry import rigid
from inspatio_ros.geometry.camera import PinholeCamera
from inspatio_ros.memory.view_bank import (
    BankOptions,
    ViewBank,
    intersection_over_union,
    picture_quality,
)
from inspatio_ros.sensing.observation import Observation
from support.data import ROOT

CAMERA = PinholeCamera(64, 48, 48.0, 48.0, 31.5, 23.5)
RNG = np.random.default_rng(0)
IMAGE = RNG.integers(0, 255, (48, 64, 3)).astype(np.uint8)


def at(x: float = 0.0, y: float = 0.0, z: float = 0.0, yaw: float = 0.0) -> np.ndarray:
    """Pose of an optical frame, turned about its y axis."""
    turn = np.array([[np.cos(yaw), 0, np.sin(yaw)], [0, 1, 0], [-np.sin(yaw), 0, np.cos(yaw)]])
    return rigid.from_rotation(turn, (x, y, z))


def wall(pose: np.ndarray, distance: float = 2.0, stamp: int = 0,
         image: np.ndarray = IMAGE) -> Observation:
    """What a camera sees of a wall that fills its view."""
    return Observation(stamp, image, np.full((48, 64), distance, np.float32), CAMERA, pose)


def facing_wall(pose: np.ndarray, plane_z: float) -> Observation:
    """What a camera sees of the endless wall z = plane_z of the world."""
    rays = CAMERA.rays() @ pose[:3, :3].T
    with np.errstate(divide="ignore", invalid="ignore"):
        depth = (plane_z - pose[2, 3]) / rays[..., 2]
    depth[~(depth > 0)] = np.nan
    return Observation(0, IMAGE, depth.astype(np.float32), CAMERA, pose)


def test_identical_views_are_one() -> None:
    bank = ViewBank(BankOptions(capacity=50))
    size = None
    for stamp in range(200):
        assert bank.add(wall(at(), stamp=stamp))
        assert size in (None, bank.nbytes)
        size = bank.nbytes
    assert len(bank) == 1
    assert bank.views[0].observation.stamp_ns == 199, "the newest look is kept"
    assert bank.dropped["replaced"] == 199
    found = bank.retrieve(CAMERA, at(), 5)
    assert len(found) == 1
    assert found[0].overlap > 0.95


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 12), st.integers(0, 40))
def test_bounds_hold_and_real_views_stay(seed: int, capacity: int, offered: int) -> None:
    rng = np.random.default_rng(seed)
    bank = ViewBank(BankOptions(capacity=capacity, spacing=0.05, max_width=32))
    most = capacity * (32 * 24 * 7) + ViewBank(BankOptions(capacity=capacity)).nbytes
    real = 0
    for stamp in range(offered):
        pose = at(*rng.uniform(-3, 3, 3), yaw=float(rng.uniform(-3, 3)))
        imagined = bool(rng.random() < 0.5)
        held = bank.add(wall(pose, stamp=stamp), imagined=imagined)
        assert len(bank) <= capacity
        assert bank.nbytes <= most
        assert held == any(v.observation.stamp_ns == stamp for v in bank.views)
        now = sum(not v.imagined for v in bank.views)
        assert not imagined or now == real, "an imagined view never pushes a real one out"
        real = now
        if offered and not imagined and real < capacity:
            assert held
    serials = [v.serial for v in bank.views]
    assert len(set(serials)) == len(serials)
    gone = sum(bank.dropped[r] for r in ("near_duplicate", "replaced", "redundant",
                                         "imagined_full"))
    assert len(bank) + gone == offered
    bank.reset()
    assert len(bank) == 0
    assert bank.retrieve(CAMERA, at(), 3) == []


def test_a_slow_camera_still_fills_the_bank() -> None:
    bank = ViewBank(BankOptions(capacity=50, spacing=0.2))
    for step in range(200):
        bank.add(wall(at(x=0.02 * step), stamp=step))
    # 4 m at 2 m from the wall are 2 rad: a place every 0.2.
    assert 8 <= len(bank) <= 11


def test_a_full_bank_stays_spread() -> None:
    bank = ViewBank(BankOptions(capacity=8, spacing=0.01))
    for step in range(64):
        bank.add(wall(at(x=0.1 * step), stamp=step))
    places = sorted(v.observation.world_from_camera[0, 3] for v in bank.views)
    assert places[0] < 0.9
    assert places[-1] > 5.4
    assert max(np.diff(places)) < 2.2, places


def test_real_replaces_imagined_and_not_the_other_way() -> None:
    bank = ViewBank()
    assert bank.add(wall(at(), stamp=1), imagined=True)
    assert bank.add(wall(at(), stamp=2))
    assert not bank.add(wall(at(), stamp=3), imagined=True)
    assert [v.observation.stamp_ns for v in bank.views] == [2]
    assert bank.dropped["near_duplicate"] == 1


def test_a_blurred_look_does_not_replace_a_sharp_one() -> None:
    bank = ViewBank()
    gray = np.full_like(IMAGE, 128)
    assert picture_quality(gray) < picture_quality(IMAGE)
    bank.add(wall(at(), stamp=1))
    assert not bank.add(wall(at(), stamp=2, image=gray))
    assert bank.views[0].observation.stamp_ns == 1


def test_what_is_kept_is_its_own() -> None:
    image, depth = IMAGE.copy(), np.full((48, 64), 2.0, np.float32)
    bank = ViewBank()
    bank.add(Observation(0, image, depth, CAMERA, at()))
    image[:], depth[:] = 0, 9.0
    held = bank.views[0].observation
    assert (held.image == IMAGE).all()
    assert (held.depth == 2.0).all()


def test_without_depth_nothing_is_kept() -> None:
    bank = ViewBank()
    nothing = np.full((48, 64), np.nan, np.float32)
    assert not bank.add(Observation(0, IMAGE, nothing, CAMERA, at()))
    assert len(bank) == 0
    assert bank.dropped["no_depth"] == 1
    assert bank.overlaps(CAMERA, at()).shape == (0,)


@pytest.mark.parametrize("wrong", [{"capacity": 0}, {"spacing": 0.0}, {"max_width": 3}])
def test_wrong_options_are_named(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        BankOptions(**wrong)  # type: ignore[arg-type]


def test_overlap_is_intersection_over_union() -> None:
    assert intersection_over_union([1.0, 0.5, 0.0], [1.0, 0.5, 1.0]) == pytest.approx(
        [1.0, 1 / 3, 0.0])
    bank = ViewBank(BankOptions(spacing=0.01))
    # The wall is 64 / 48 * 2 m wide in the picture; half a picture aside half of it is shared.
    width = 2.0 * 64 / 48
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        bank.add(wall(at(x=width * share)))
    expected = [1.0, 0.6, 1 / 3, 1 / 7, 0.0]
    assert bank.overlaps(CAMERA, at()) == pytest.approx(expected, abs=0.04)
    assert bank.overlaps(CAMERA, at(), wall(at()).depth) == pytest.approx(expected, abs=0.04)


def test_what_is_hidden_does_not_count() -> None:
    bank = ViewBank()
    # One camera before a wall, one far behind it that sees another wall through the same cone.
    bank.add(facing_wall(at(z=0.0), 2.0))
    bank.add(facing_wall(at(z=3.0), 9.0))
    wanted = facing_wall(at(x=0.1), 2.0)
    overlaps = bank.overlaps(CAMERA, wanted.world_from_camera, wanted.depth)
    assert overlaps[0] > 0.8
    assert overlaps[1] == 0.0
    frusta = bank.frustum_overlaps(CAMERA, wanted.world_from_camera)
    assert frusta[1] > 0.3, "the public rule cannot know"
    found = bank.retrieve(CAMERA, wanted.world_from_camera, 2, known_depth=wanted.depth)
    assert [f.view.serial for f in found] == [0]


def test_a_surface_seen_from_behind_does_not_count() -> None:
    bank = ViewBank()
    bank.add(facing_wall(at(z=4.0, yaw=np.pi), 2.0))
    wanted = facing_wall(at(), 2.0)
    assert bank.overlaps(CAMERA, at(), wanted.depth)[0] == 0.0
    assert bank.retrieve(CAMERA, at(), 1, known_depth=wanted.depth) == []


def test_holes_decide_and_found_views_differ() -> None:
    bank = ViewBank(BankOptions(spacing=0.01))
    for x in (-1.6, -1.5, 0.0, 0.1, 1.5, 1.6):
        bank.add(wall(at(x=x)))
    known = wall(at()).depth.copy()
    known[:, :16] = np.nan
    left = bank.retrieve(CAMERA, at(), 1, known_depth=known)
    known = wall(at()).depth.copy()
    known[:, 48:] = np.nan
    right = bank.retrieve(CAMERA, at(), 1, known_depth=known)
    assert left[0].gain > 0.5
    assert right[0].gain > 0.5
    # The middle views show either hole best of all; without them the two sides are told apart.
    bank.reset()
    for x in (-1.6, -1.5, 1.5, 1.6):
        bank.add(wall(at(x=x)))
    known = wall(at()).depth.copy()
    known[:, :16] = known[:, 48:] = np.nan
    found = bank.retrieve(CAMERA, at(), 4, known_depth=known)
    places = [f.view.observation.world_from_camera[0, 3] for f in found]
    assert len(found) == 2, places
    assert places[0] * places[1] < 0, places


def test_gains_fall() -> None:
    bank = ViewBank(BankOptions(spacing=0.01))
    for x in np.linspace(-2, 2, 30):
        bank.add(wall(at(x=float(x))))
    gains = [f.gain for f in bank.retrieve(CAMERA, at(x=0.07), 6)]
    assert gains == sorted(gains, reverse=True)
    assert sum(gains) <= 1.0 + 1e-5


@pytest.mark.parametrize("origin", [(0.0, 0.0, 0.0), (5e5, -4e6, 120.0)])
def test_far_from_the_origin_nothing_changes(origin: tuple[float, float, float]) -> None:
    bank, shift = ViewBank(BankOptions(spacing=0.05)), np.eye(4)
    shift[:3, 3] = origin
    for x in np.linspace(-2, 2, 9):
        seen = facing_wall(at(x=float(x), yaw=0.1 * float(x)), 2.0)
        bank.add(Observation(0, seen.image, seen.depth, CAMERA, shift @ seen.world_from_camera))
    overlaps = bank.overlaps(CAMERA, shift @ at(x=0.4))
    assert int(np.argmax(overlaps)) == 5
    assert overlaps[5] > 0.8


def test_the_public_rule() -> None:
    bank = ViewBank(BankOptions(spacing=0.001))
    bank.add(wall(at()))
    bank.add(wall(at(yaw=np.pi)))
    same, behind = bank.frustum_overlaps(CAMERA, at())
    assert same == pytest.approx(1.0)
    # Boxes that touch at the cameras only, times exp(5 (90 - 180) / 180).
    assert behind == pytest.approx(0.0, abs=1e-6)
    bank.reset()
    bank.add(wall(at(yaw=np.radians(60))))
    pose = at(yaw=np.radians(-60))
    lonely = ViewBank(BankOptions(spacing=0.001))
    lonely.add(wall(at(yaw=np.radians(60))))
    value = float(lonely.frustum_overlaps(CAMERA, pose)[0])
    corners = []
    for yaw in (60, -60):
        rays = np.array([[x, y, 48.0] for x in (-32, 32) for y in (-24, 24)]) / 48.0
        points = np.concatenate([0.1 * rays, 10 * rays]) @ at(yaw=np.radians(yaw))[:3, :3].T
        corners.append((points.min(0), points.max(0)))
    (a0, a1), (b0, b1) = corners
    inner = np.prod(np.clip(np.minimum(a1, b1) - np.maximum(a0, b0), 0, None))
    union = np.prod(a1 - a0) + np.prod(b1 - b0) - inner
    assert value == pytest.approx(inner / union * np.exp(5 * (90 - 120) / 180), rel=1e-4)


def test_benchmark_finds_the_best_view_in_analytic_worlds() -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "benchmarks" / "view_bank.py"), "--worlds", "1", "--views",
         "40", "--targets", "12", "--capacity", "40"],
        capture_output=True, text=True, check=True, timeout=300)
    result = json.loads(done.stdout)
    assert result["retrieval"]["all"]["views"] >= 18
    assert result["retrieval"]["all"]["found"]["known"] >= 0.95
    assert result["retrieval"]["all"]["lost"]["known"] < 0.02
    assert result["time"]["views"] == 40
