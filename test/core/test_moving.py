# SPDX-License-Identifier: Apache-2.0
"""Things that move: found, followed, cut from the memory, shown where they go."""

from __future__ import annotations

import functools
import importlib.util
import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inspatio_ros.evaluation.experiment import ExperimentError, load_experiment
from inspatio_ros.evaluation.hindsight import HindsightOptions, evaluate
from inspatio_ros.geometry import rigid
from inspatio_ros.geometry.camera import PinholeCamera
from inspatio_ros.imagination.engine import ImaginationEngine
from inspatio_ros.imagination.filler import GeometricFiller
from inspatio_ros.memory import vanished
from inspatio_ros.memory.following import Follower
from inspatio_ros.memory.motion import Look, MotionSegmenter, Piece, look_at
from inspatio_ros.memory.moving import Detection, MovingLayer, MovingOptions
from inspatio_ros.memory.rolling_cloud import RollingCloud
from inspatio_ros.memory.tracks import Patch, Track, heading_of, new_track, rotation_about
from inspatio_ros.memory.world_memory import MemoryOptions, WorldMemory
from inspatio_ros.sensing.observation import Observation, Provenance
from inspatio_ros.worlds.raytracing import BRICKS, CHECKER, ROAD, TEXT
from inspatio_ros.worlds.street import street
from inspatio_ros.worlds.world import (
    ConstantVelocity,
    Motion,
    Part,
    Still,
    Texture,
    View,
    World,
    WorldObject,
)
from support.data import ROOT

UP = (0.0, 0.0, 1.0)
CAMERA = PinholeCamera(240, 136, 200.0, 200.0, 119.5, 67.5)
MOUNT = rigid.from_rotation(np.eye(3), (0.0, 0.0, 1.5)) @ rigid.BODY_FROM_OPTICAL
STEP = 0.2


def box(name: str, size: tuple[float, float, float], look: Texture, motion: Motion) -> WorldObject:
    return WorldObject(name, (Part(size, np.eye(4), (look,)),), motion)


def at(x: float, y: float, z: float) -> np.ndarray:
    return rigid.from_rotation(np.eye(3), (x, y, z))


def scene(*things: WorldObject) -> World:
    """A road with a brick wall across it, 14 m ahead of the camera at the origin."""
    road = Texture(ROAD, (105.0, 105.0, 108.0), (225.0, 225.0, 220.0), 3.5, 0.8, 3)
    wall = Texture(BRICKS, (150.0, 80.0, 62.0), (195.0, 190.0, 180.0), 0.3, 0.6, 4)
    return World((box("road", (60.0, 60.0, 1.0), road, Still(at(10.0, 0.0, -0.5))),
                  box("wall", (1.0, 60.0, 12.0), wall, Still(at(14.5, 0.0, 6.0))), *things),
                 np.zeros((2, 3)))


def crossing(speed: float, distance: float = 8.0, start: float = -3.0, pattern: int = TEXT
             ) -> WorldObject:
    """A box that crosses the view from right (negative y) to left."""
    size = (1.5, 1.8, 1.6)
    look = Texture(pattern, (220.0, 210.0, 40.0), (30.0, 40.0, 160.0), 0.21, 0.6, 9)
    return box("crossing", size, look, ConstantVelocity(
        at(distance, start, size[2] / 2 + 0.05), (0.0, speed, 0.0)))


def look(world: World, time: float, pose: np.ndarray = MOUNT) -> tuple[Observation, View]:
    view = world.render(CAMERA, pose, time)
    return Observation(round(time * 1e9), view.image, view.depth, CAMERA, pose), view


def memory(moving: bool = True) -> WorldMemory:
    return WorldMemory(MemoryOptions(
        capacity=300_000, voxel_size=0.05,
        moving=MovingOptions(up=UP) if moving else None))


def phantom(depth: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Pixels that show something where nothing is."""
    with np.errstate(invalid="ignore"):
        return np.asarray(depth < 0.9 * np.where(truth > 0, truth, np.inf) - 0.2)


@functools.cache
def watched(moving: bool, pattern: int = TEXT) -> tuple[WorldMemory, World, Observation]:
    """A memory that has watched the box cross for 1.6 s, and what it saw last."""
    world, held = scene(crossing(2.5, pattern=pattern)), memory(moving)
    for number in range(9):
        seen, _ = look(world, STEP * number)
        held.integrate(seen)
    return held, world, seen


@pytest.mark.parametrize(("pattern", "error"), [(TEXT, 0.2), (CHECKER, 0.4)])
def test_a_crossing_thing_is_found_and_its_velocity_is_right(pattern: int, error: float) -> None:
    """Also that of a checkered one, whose pattern comes to lie on itself: flow alone misleads."""
    held, world, seen = watched(True, pattern)
    assert held.moving is not None
    (thing,) = held.moving.objects(seen.stamp_ns)
    np.testing.assert_allclose(thing.velocity, [0.0, 2.5, 0.0], atol=error)
    _, view = look(world, 1.6)
    mask = held.moving.mask_of(seen)
    assert mask is not None
    truth = view.ids == 2
    assert np.count_nonzero(mask & truth) > 0.95 * np.count_nonzero(truth)
    assert np.count_nonzero(mask & ~truth) < 0.25 * np.count_nonzero(truth)


@pytest.mark.parametrize("ahead", [0.0, 0.4, 0.8])
def test_it_is_shown_where_it_goes_and_leaves_no_ghost(ahead: float) -> None:
    (held, world, seen), (naive, _, last) = watched(True), watched(False)
    _, truth = look(world, 1.6 + ahead)
    stamp = seen.stamp_ns + round(ahead * 1e9)
    guide = held.render(CAMERA, MOUNT, [seen], stamp)
    plain = naive.render(CAMERA, MOUNT, [last], stamp)
    ghosts = np.count_nonzero(phantom(guide.depth, truth.depth))
    assert ghosts < 40
    if ahead:
        assert ghosts < 0.2 * np.count_nonzero(phantom(plain.depth, truth.depth))
    there = truth.ids == 2
    with np.errstate(invalid="ignore"):
        right = np.abs(guide.depth - truth.depth) < 0.1 * truth.depth
    assert np.count_nonzero(right & there) > 0.8 * np.count_nonzero(there)
    assert guide.moving is not None
    assert (guide.provenance[guide.moving] == Provenance.OBSERVED).all()


def test_what_was_fused_before_it_was_known_is_removed() -> None:
    held, _, _ = watched(True)
    naive, _, _ = watched(False)
    points, _ = held.cloud.colored_points(10**6)
    naive_points, _ = naive.cloud.colored_points(10**6)

    def ghosts(xyz: np.ndarray) -> int:
        return int(np.count_nonzero((xyz[:, 0] > 7) & (xyz[:, 0] < 9.5) & (xyz[:, 2] > 0.2)))

    assert ghosts(naive_points) > 500
    assert ghosts(points) == 0
    assert held.dropped["moved"] > 0


def test_a_still_world_gives_the_very_same_guides() -> None:
    world, held, naive = scene(), memory(), memory(moving=False)
    for number in range(6):
        pose = rigid.from_rotation(np.eye(3), (0.3 * number, 0.1 * number, 0.0)) @ MOUNT
        seen, _ = look(world, STEP * number, pose)
        held.integrate(seen)
        naive.integrate(seen)
    assert held.moving is not None
    assert not [t for t in held.moving.tracks if t.confirmed]
    for ahead in (0.0, 1.0):
        view = rigid.from_rotation(np.eye(3), (2.0, 0.5, 0.0)) @ MOUNT
        one = held.render(CAMERA, view, [seen], seen.stamp_ns + round(ahead * 1e9))
        other = naive.render(CAMERA, view, [seen])
        np.testing.assert_array_equal(one.image, other.image)
        np.testing.assert_array_equal(one.depth, other.depth)
        np.testing.assert_array_equal(one.provenance, other.provenance)


def test_it_goes_behind_what_stands_nearer() -> None:
    held, world, seen = watched(True)
    post = Texture(TEXT, (250.0, 250.0, 250.0), (10.0, 10.0, 10.0), 0.05, 0.1, 5)
    hidden = scene(crossing(2.5), box("post", (0.3, 0.5, 3.0), post, Still(at(5.0, 2.0, 1.5))))
    again = memory()
    for number in range(9):
        seen, _ = look(hidden, STEP * number)
        again.integrate(seen)
    _, truth = look(hidden, 2.4)
    guide = again.render(CAMERA, MOUNT, [seen], round(2.4e9))
    post_pixels = truth.ids == 3
    with np.errstate(invalid="ignore"):
        front = np.abs(guide.depth - truth.depth) < 0.3
    assert np.count_nonzero(front & post_pixels) > 0.95 * np.count_nonzero(post_pixels)
    assert guide.moving is not None
    assert guide.moving.any()
    assert not (guide.moving & post_pixels).sum() > 0.03 * post_pixels.sum()


def test_labels_tell_how_it_is_known() -> None:
    held, world, seen = watched(True)
    assert held.moving is not None
    newer, _ = look(world, 1.7)

    def label(stamp: float, reference: Observation) -> tuple[set[int], bool]:
        guide = held.render(CAMERA, MOUNT, [reference], round(stamp * 1e9))
        assert guide.moving is not None
        return (set(guide.provenance[guide.moving].tolist()),
                bool(np.isnan(guide.depth[guide.moving]).all()))

    assert label(1.8, seen) == ({int(Provenance.OBSERVED)}, False)
    # A reference that was never fused is cut as well; what is shown was seen before it.
    assert label(1.8, newer) == ({int(Provenance.MEMORY)}, False)
    # Far ahead its place is uncertain: a hint, without depth.
    far = held.moving.tracks[0]
    later = next(t for t in np.arange(2.0, 12.0, 0.2)
                 if far.deviation(round(t * 1e9)) > max(0.35, float(far.half[:2].mean())))
    shown = held.moving.shown(round(later * 1e9), [seen])
    assert [s.label for s in shown] == [Provenance.IMAGINED]
    assert held.moving.shown(round(1e12), [seen]) == []
    deviations = [held.moving.objects(round(t * 1e9))[0].deviation for t in (1.6, 2.0, 3.0)]
    assert deviations == sorted(deviations)
    assert deviations[0] == 0.0


def test_something_that_fills_the_view_makes_no_object_of_the_world() -> None:
    """A lorry's side passes close by: everything seen moves, and nothing is believed."""
    look_of_it = Texture(TEXT, (240.0, 235.0, 230.0), (20.0, 30.0, 90.0), 0.06, 0.6, 12)
    lorry = box("lorry", (0.5, 14.0, 8.0), look_of_it, ConstantVelocity(
        at(2.5, -20.0, 4.0), (0.0, 12.0, 0.0)))
    world, held, before = scene(lorry), memory(), memory()
    shares = []
    for number in range(16):
        seen, view = look(world, STEP * number)
        held.integrate(seen)
        shares.append(np.mean(view.ids == 2))
        if max(shares) == 0:
            before.integrate(seen)
    assert held.moving is not None
    assert max(shares) > 0.95
    assert held.moving.dropped["view_filled"] > 0
    # It has passed: the wall is where it was, and nothing of the lorry is left.
    guide = held.render(CAMERA, MOUNT, [seen], seen.stamp_ns)
    assert np.count_nonzero(phantom(guide.depth, view.depth)) < 20
    assert guide.coverage > 0.9


def test_a_detector_s_box_moves_as_one() -> None:
    world, layer = scene(crossing(2.5)), MovingLayer(MovingOptions(up=UP))
    for number in range(5):
        time = STEP * number
        seen, view = look(world, time)
        center = world.objects[2].motion.world_from_object(time)
        layer.detect([Detection(seen.stamp_ns, center, np.array([1.5, 1.8, 1.6]), "car")])
        mask = layer.observe(seen)
    assert mask is not None
    truth = view.ids == 2
    assert np.count_nonzero(mask & truth) > 0.97 * np.count_nonzero(truth)
    (thing,) = layer.objects(seen.stamp_ns)
    assert thing.label == "car"
    late = Detection(-2 * 10**9, np.eye(4), np.ones(3))
    layer.detect([late])
    assert layer.dropped["detection_late"] == 1


def test_it_is_forgotten_when_it_stops_or_stays_away() -> None:
    held = memory()
    moving, parked = scene(crossing(2.5)), scene(crossing(0.0, start=1.0))
    for number in range(9):
        seen, _ = look(moving, STEP * number)
        held.integrate(seen)
    layer = held.moving
    assert layer is not None
    assert len(layer.objects(seen.stamp_ns)) == 1
    for number in range(9, 16):
        view = parked.render(CAMERA, MOUNT, STEP * number)
        held.integrate(Observation(round(STEP * number * 1e9), view.image, view.depth, CAMERA,
                                   MOUNT))
    assert layer.objects(layer.newest_ns or 0) == []
    points, _ = held.cloud.colored_points(10**6)
    assert np.count_nonzero((points[:, 0] > 7) & (points[:, 0] < 9) & (points[:, 2] > 0.2)) > 100


def test_bounds_and_repeats() -> None:
    world = scene(crossing(2.5))
    layer = MovingLayer(MovingOptions(up=UP, max_objects=1))
    seen, _ = look(world, 0.0)
    assert layer.observe(seen) is None
    assert layer.observe(seen) is None
    first = layer.nbytes
    for number in range(1, 24):
        layer.observe(look(world, 0.05 * number)[0])
    assert len(layer.tracks) <= 1
    assert layer.nbytes < 40 * first
    layer.reset()
    assert layer.nbytes == 0
    for wrong in ("min_speed", "max_objects", "forget_after", "max_share"):
        with pytest.raises(ValueError, match=wrong):
            MovingOptions(**{wrong: 0})


def track(velocity: tuple[float, float, float], turn_rate: float = 0.0) -> Track:
    patch = Patch(0, np.zeros((1, 1, 3), np.uint8), np.ones((1, 1), np.float32), CAMERA,
                  np.eye(4), np.zeros((3, 1), np.float32))
    made = new_track(1, 0, np.zeros(3), patch, np.array(UP))
    made.mean[3:] = velocity
    made.turn_rate = turn_rate
    return made


@settings(max_examples=30, deadline=None)
@given(st.floats(-8, 8), st.floats(-8, 8), st.floats(0.05, 2.0))
def test_the_filter_follows_a_straight_way(x: float, y: float, dt: float) -> None:
    followed, velocity = track((0.0, 0.0, 0.0)), np.array([x, y, 0.0])
    for number in range(1, 12):
        followed.advance(round(number * dt * 1e9))
        followed.measure_position(velocity * number * dt, 0.05)
    np.testing.assert_allclose(followed.velocity, velocity, atol=0.1 + 0.1 / dt)
    ahead = followed.motion(followed.stamp_ns, followed.stamp_ns + 10**9)
    np.testing.assert_allclose(ahead[:3, 3], followed.velocity, atol=1e-9)


@settings(max_examples=30, deadline=None)
@given(st.floats(-1.4, 1.4), st.floats(0.05, 1.0))
def test_a_turn_goes_along_a_circle(rate: float, seconds: float) -> None:
    turning = track((3.0, 0.0, 0.0), rate)
    moved = turning.motion(0, round(seconds * 1e9))
    np.testing.assert_allclose(moved[:3, :3], rotation_about(np.array(UP), rate * seconds),
                               atol=1e-9)
    angles = rate * seconds * (np.arange(2000) + 0.5) / 2000
    fine = 3.0 * seconds * np.array([np.cos(angles).mean(), np.sin(angles).mean(), 0.0])
    np.testing.assert_allclose(moved[:3, 3], fine, atol=1e-3)
    back = turning.motion(round(seconds * 1e9), 0)
    assert np.linalg.norm(back[:3, 3]) == pytest.approx(np.linalg.norm(moved[:3, 3]), rel=1e-6)


def braking_track(braking: float, noise: float = 0.0, sights: int = 10) -> Track:
    """Seen five times a second, at first at 4 m/s."""
    made, rng = track((4.0, 0.0, 0.0)), np.random.default_rng(3)
    made.covariance[3:, 3:] = 0.2**2 * np.eye(3)
    for number in range(sights):
        made.stamp_ns = round(number * STEP * 1e9)
        made.mean[3] = 4.0 - braking * number * STEP + noise * rng.normal()
        made.follow_braking()
    return made


def test_what_brakes_goes_on_to_where_it_stands_and_no_farther() -> None:
    brakes = braking_track(1.2)
    assert 0.6 < brakes.braking < 1.2
    stands = brakes.speed / brakes.braking
    until = brakes.stamp_ns + np.round(np.linspace(0.0, 2 * stands, 60) * 1e9).astype(np.int64)
    went = np.array([brakes.motion(brakes.stamp_ns, int(t))[0, 3] for t in until])
    # Never backwards, slower and slower, and it stays.
    assert (np.diff(went) >= 0).all()
    assert (np.diff(went, 2) <= 1e-6).all()
    np.testing.assert_allclose(went[40:], brakes.speed * stands / 2, rtol=1e-6)
    second = brakes.motion(brakes.stamp_ns, brakes.stamp_ns + 10**9)[0, 3]
    assert second == pytest.approx(brakes.speed - brakes.braking / 2)
    # What it did before is not made up.
    back = brakes.motion(brakes.stamp_ns, brakes.stamp_ns - 10**9)[0, 3]
    assert back == pytest.approx(-brakes.speed)
    # The two halves of a way are the whole.
    middle = int(until[10])
    halves = brakes.motion(middle, int(until[30])) @ brakes.motion(brakes.stamp_ns, middle)
    np.testing.assert_allclose(halves, brakes.motion(brakes.stamp_ns, int(until[30])), atol=1e-9)


def test_what_brakes_in_a_turn_stays_on_its_circle() -> None:
    turning, steady = braking_track(1.2), track((4.0, 0.0, 0.0), 0.5)
    turning.turn_rate = 0.5
    steady.mean[3] = turning.speed
    as_if = turning._as_if_steady(0.8)
    assert as_if < 0.8
    at = turning.stamp_ns
    np.testing.assert_allclose(turning.motion(at, at + 8 * 10**8),
                               steady.motion(0, round(as_if * 1e9)), atol=1e-6)
    np.testing.assert_allclose(turning.axes(at + 8 * 10**8), steady.axes(round(as_if * 1e9)),
                               atol=1e-6)


@pytest.mark.parametrize(("braking", "noise", "sights"), [
    (0.0, 0.0, 10), (-1.0, 0.0, 10), (0.0, 0.2, 10), (1.2, 0.0, 4)])
def test_nothing_is_taken_to_brake_that_keeps_its_speed_or_was_just_seen(
        braking: float, noise: float, sights: int) -> None:
    assert braking_track(braking, noise, sights).braking == 0.0


def test_braking_is_forgotten_with_the_speed_and_is_bounded() -> None:
    made = braking_track(1.2)
    made.covariance[3:, 3:] = np.eye(3)
    made.follow_braking()
    assert made.braking == 0.0
    assert not made.speeds
    hard = track((0.0, 0.0, 0.0))
    hard.covariance[3:, 3:] = 0.05**2 * np.eye(3)
    for number in range(8):
        hard.stamp_ns, hard.mean[3] = round(number * STEP * 1e9), 30.0 - 3.0 * number
        hard.follow_braking()
    assert hard.braking == 6.0
    # It stands: wherever it is asked for, it is there.
    hard.mean[3:] = 0.0
    np.testing.assert_array_equal(hard.motion(hard.stamp_ns, hard.stamp_ns + 10**9), np.eye(4))


def test_points_of_other_times_and_places_stay() -> None:
    cloud = RollingCloud(capacity=10_000, voxel_size=0.05, max_radius=200.0)
    image = np.full((20, 20, 3), 90, np.uint8)
    camera = PinholeCamera(20, 20, 20.0, 20.0, 9.5, 9.5)
    for number in range(2):
        pose = rigid.from_rotation(np.eye(3), (50.0 * number, 0.0, 0.0))
        cloud.integrate(Observation(number * 10**9, image, np.full((20, 20), 4.0, np.float32),
                                    camera, pose))
    before = cloud.point_count

    def centers(stamps: np.ndarray) -> np.ndarray:
        return np.array([[0.0, 0.0, 4.0]]).repeat(len(stamps), 0)

    half = np.array([0.5, 0.5, 0.5])
    assert cloud.remove_moved(centers, np.eye(3), half, 10**9) == 0
    gone = cloud.remove_moved(centers, np.eye(3), half, 0)
    assert 0 < gone < before / 2
    assert cloud.point_count == before - gone
    cloud.integrate(Observation(2 * 10**9, image, np.full((20, 20), 4.0, np.float32), camera,
                                np.eye(4)))
    assert cloud.point_count >= before
    assert math.isfinite(float(np.nanmax(cloud.xyz)))


@pytest.mark.parametrize("seed", [0])
def test_a_street_s_traffic(seed: int) -> None:
    """Oncoming traffic seen from a moving car: right speeds, few ghosts, background the same."""
    world = street(seed)
    focal = 416 / (2 * math.tan(math.radians(36.5)))
    camera = PinholeCamera(416, 240, focal, focal, 207.5, 119.5)
    times = 5.0 + STEP * np.arange(9)
    poses = world.drive(3.0, times) @ MOUNT
    held = WorldMemory(MemoryOptions(capacity=600_000, max_radius=40.0, voxel_size=0.05,
                                     moving=MovingOptions(up=UP)))
    for pose, time in zip(poses, times, strict=True):
        view = world.render(camera, pose, float(time))
        seen = Observation(round(time * 1e9), view.image, view.depth, camera, pose)
        held.integrate(seen)
    assert held.moving is not None
    things = held.moving.objects(seen.stamp_ns)
    cars = {i: o for i, o in enumerate(world.objects) if o.name == "car"}
    errors = []
    for thing in things:
        ways = [(o.motion.world_from_object(float(times[-1]))[:3, 3],
                 o.motion.world_from_object(float(times[-1]) + 1.0)[:3, 3])
                for o in cars.values()]
        nearest = min(ways, key=lambda w: float(np.linalg.norm(w[0] - thing.center)))
        if np.linalg.norm(nearest[0] - thing.center) < 2.5:
            errors.append(float(np.linalg.norm(thing.velocity - (nearest[1] - nearest[0]))))
    assert errors
    assert min(errors) < 0.5


def test_the_benchmark_counts_both_sides() -> None:
    """A small slice of it, as a program: both memories, all horizons, still streets unchanged."""
    done = subprocess.run(
        [sys.executable, str(ROOT / "benchmarks" / "moving.py"), "--seeds", "0", "--width", "208",
         "--frames", "7"], capture_output=True, text=True, timeout=280, check=True)
    found = json.loads(done.stdout)
    assert set(found["horizons"]) == {"0.5", "1", "2"}
    for row in found["horizons"].values():
        assert row["views"] == 1
        assert row["ghost_pixels"]["layer"] <= row["ghost_pixels"]["everything"]
        assert abs(row["still_psnr"]["change"]) <= 0.05
    assert found["streets"][0]["false_things_when_still"] == 0


def test_hindsight_scores_what_moves_apart() -> None:
    world = scene(crossing(2.0))
    observations = [look(world, 0.1 * number)[0] for number in range(24)]
    report = evaluate(
        "crossing", observations, ImaginationEngine(GeometricFiller()),
        HindsightOptions(horizons=(0.5,), stride=4, warm_up=13, width=CAMERA.width,
                         methods=("last_frame",)),
        memory=MemoryOptions(capacity=300_000, voxel_size=0.05, moving=MovingOptions(up=UP)))
    ours = next(r for r in report.results if r.method == "geometric")
    last = next(r for r in report.results if r.method == "last_frame")
    assert 0.02 < ours.share_moving < 0.3
    assert ours.psnr_moving > last.psnr_moving + 3.0
    assert math.isfinite(ours.psnr_static)


def test_an_experiment_asks_for_it(tmp_path: Path) -> None:
    file = tmp_path / "street.yaml"
    file.write_text("memory: {moving: true}\n")
    assert load_experiment(file).memory.moving == MovingOptions()
    file.write_text("memory: {moving: 3}\n")
    with pytest.raises(ExperimentError, match=r"line 1: memory.moving must be true or false"):
        load_experiment(file)


def test_what_goes_away_along_the_view_is_missed_where_it_was() -> None:
    """Its picture hardly changes, and its new place was hidden by itself."""
    size, look_of_it = (1.5, 1.8, 1.6), Texture(
        TEXT, (220.0, 210.0, 40.0), (30.0, 40.0, 160.0), 0.21, 0.6, 9)
    leaving = box("leaving", size, look_of_it, ConstantVelocity(
        at(7.0, 0.0, size[2] / 2 + 0.05), (1.5, 0.0, 0.0)))
    world, held = scene(leaving), memory()
    for number in range(10):
        seen, view = look(world, STEP * number)
        held.integrate(seen)
    assert held.moving is not None
    (thing,) = held.moving.objects(seen.stamp_ns)
    np.testing.assert_allclose(thing.velocity, [1.5, 0.0, 0.0], atol=0.4)
    mask, truth = held.moving.mask_of(seen), view.ids == 2
    assert mask is not None
    assert np.count_nonzero(mask & truth) > 0.9 * np.count_nonzero(truth)


def test_a_known_thing_that_was_found_where_it_is_expected_is_not_looked_for(
        monkeypatch: pytest.MonkeyPatch) -> None:
    """What goes across the view is missed where it was as well, but needs no search for that."""
    size, look_of_it = (1.5, 1.8, 1.6), Texture(
        TEXT, (220.0, 210.0, 40.0), (30.0, 40.0, 160.0), 0.21, 0.6, 9)
    world = scene(box("crossing", size, look_of_it, ConstantVelocity(
        at(8.0, -2.5, size[2] / 2 + 0.05), (0.0, 2.0, 0.0))))
    asked, missed = [0], [0]
    search, find = vanished.DisplacementSearch, vanished.missed

    def counted(*arguments: Any) -> Any:
        asked[-1] += 1
        return search(*arguments)

    def counted_missed(*arguments: Any) -> Any:
        found = find(*arguments)
        missed[-1] += len(found)
        return found

    monkeypatch.setattr(vanished, "DisplacementSearch", counted)
    monkeypatch.setattr(vanished, "missed", counted_missed)
    held = memory()
    for number in range(10):
        seen, _ = look(world, STEP * number)
        held.integrate(seen)
        asked.append(0)
        missed.append(0)
    assert held.moving is not None
    assert len(held.moving.objects(seen.stamp_ns)) == 1
    assert sum(missed[5:]) >= 5
    assert sum(asked[5:]) == 0


def test_nothing_stands_where_a_thing_went() -> None:
    """What was fused of its inside, of its top or before it was known goes, whenever that was;
    what stands beside its way stays."""
    thing = new_track(1, 10**9, np.array([0.0, 0.0, 5.0]), track((0.0, 0.0, 0.0)).patch,
                      np.array([0.0, -1.0, 0.0]))
    thing.mean[3:] = [0.0, 0.0, 2.0]
    thing.heading = heading_of(thing.up, thing.velocity)
    thing.half, thing.confirmed = np.array([0.3, 0.8, 0.4]), True
    thing.trail.append((10**9, thing.center(10**9)))
    layer, cloud = MovingLayer(), RollingCloud(capacity=10_000, voxel_size=0.05)
    layer.tracks.append(thing)
    camera = PinholeCamera(40, 40, 40.0, 40.0, 19.5, 19.5)
    places = {"where it was": (0.0, 0.0, 4.2), "where it is": (0.2, 0.0, 5.0),
              "its top": (0.0, -0.7, 5.0), "beside": (1.5, 0.0, 4.6), "above": (0.0, -1.5, 5.0),
              "before it came": (0.0, 0.0, 2.0), "where it will be": (0.0, 0.0, 7.0)}
    for x, y, z in places.values():
        pose = rigid.from_rotation(np.eye(3), (x, y, z - 1.0))
        depth = np.full((40, 40), np.nan, np.float32)
        depth[19:21, 19:21] = 1.0
        cloud.integrate(Observation(10**9, np.full((40, 40, 3), 90, np.uint8), depth, camera,
                                    pose))
    before = points_near(cloud, places)
    assert all(before.values())
    assert layer.clean(cloud) > 0
    left = {name for name, count in points_near(cloud, places).items() if count}
    assert left == {"beside", "above", "before it came", "where it will be"}


def points_near(cloud: RollingCloud, places: dict[str, tuple[float, float, float]]
                ) -> dict[str, int]:
    xyz, _ = cloud.colored_points(10_000)
    return {name: int(np.count_nonzero(np.linalg.norm(xyz - np.array(place), axis=1) < 0.1))
            for name, place in places.items()}


def test_what_is_part_of_another_thing_is_marked_as_the_other() -> None:
    follower = Follower(0.4, 2.0, 8)
    for number in (1, 2):
        thing = new_track(number, 10**9, np.array([0.1 * number, 0.0, 5.0]),
                          track((0.0, 0.0, 0.0)).patch, np.array(UP))
        thing.half, thing.hits, thing.confirmed = np.full(3, 1.0), 3 - number, number == 1
        follower.tracks.append(thing)
    marks = np.array([[0, 1, 2], [2, 2, 0]], np.int32)
    assert follower.retire(10**9, marks) == 0
    assert [t.number for t in follower.tracks] == [1]
    np.testing.assert_array_equal(marks, [[0, 1, 1], [1, 1, 0]])


@pytest.mark.parametrize("expected", [True, False])
def test_pixels_of_a_known_thing_that_cannot_tell_do_not_speak_against_it(expected: bool) -> None:
    """A large thing whose new part alone says that it moves is taken as a whole."""
    depth = np.full((60, 100), np.nan, np.float32)
    depth[10:50, 10:90] = 5.0
    seen = look_at(Observation(0, np.zeros((60, 100, 3), np.uint8), depth,
                               PinholeCamera(100, 60, 80.0, 80.0, 49.5, 29.5), np.eye(4)))
    evidence, known = np.zeros(depth.shape, np.int8), np.zeros(depth.shape, np.int32)
    evidence[20:40, 80:86] = 1
    known[10:50, 10:80] = 7 if expected else 0
    evidence[10:50, 10:80:6] = 0 if expected else -1
    pieces = found_pieces(seen, evidence, known)
    assert len(pieces) == 1
    if expected:
        assert pieces[0].pixels > 0.9 * np.count_nonzero(depth > 0)
    else:
        assert pieces[0].pixels < 0.2 * np.count_nonzero(depth > 0)
    # Where the rest is asked and says nothing, so few are not enough.
    if not expected:
        wide = np.zeros_like(evidence)
        wide[28:32, 80:84] = 1
        assert not found_pieces(seen, wide, known)


def found_pieces(seen: Look, evidence: np.ndarray, known: np.ndarray) -> tuple[Piece, ...]:
    def unmeasured(places: np.ndarray) -> np.ndarray:
        return np.empty((3, 0), np.float32)

    return MotionSegmenter()._pieces(seen, seen.depth > 0, evidence.copy(), known, None,
                                     unmeasured)[1]


def test_what_two_pictures_bear_out_is_believed_at_its_first_sight() -> None:
    """It is missed where it was, half a second before, and found where it went."""
    size, look_of_it = (1.5, 1.8, 1.6), Texture(
        TEXT, (220.0, 210.0, 40.0), (30.0, 40.0, 160.0), 0.21, 0.6, 9)
    world = scene(box("leaving", size, look_of_it, ConstantVelocity(
        at(7.0, 0.0, size[2] / 2 + 0.05), (1.5, 0.0, 0.0))))
    held = memory()
    for number in range(6):
        seen, _ = look(world, STEP * number)
        held.integrate(seen)
        assert held.moving is not None
        if held.moving.tracks:
            break
    (thing,) = held.moving.tracks
    assert thing.hits == 1
    assert thing.confirmed
    np.testing.assert_allclose(thing.velocity, [1.5, 0.0, 0.0], atol=0.5)


def benchmark() -> Any:
    spec = importlib.util.spec_from_file_location("moving", ROOT / "benchmarks" / "moving.py")
    assert spec is not None
    assert spec.loader is not None
    moving = importlib.util.module_from_spec(spec)
    sys.modules["moving"] = moving
    spec.loader.exec_module(moving)
    return moving


def test_ghosts_beside_an_edge_of_the_true_depth_are_counted_apart() -> None:
    moving = benchmark()
    truth = np.full((9, 20), 30.0, np.float32)
    truth[:, :5], truth[4, 15] = 8.0, np.nan
    around = moving.nearest_around(truth)
    np.testing.assert_array_equal(around[0, :8], 8.0)
    np.testing.assert_array_equal(around[:, 8:], 30.0)
    tally = moving.Tally(clear={"everything": 10, "layer": 1})
    assert tally.as_json()["clear_ghost_cut"] == 0.9


def test_what_the_true_view_shows_by_itself_is_no_ghost() -> None:
    """Sparse depth that sees past an edge: errors of that are shown by no memory of old things."""
    moving = benchmark()
    camera = PinholeCamera(40, 24, 40.0, 40.0, 19.5, 11.5)
    truth = np.full((24, 40), np.nan, np.float32)
    truth[::2, ::2] = 6.0
    # Here and there a point behind it is hit.
    truth[10, 20] = 30.0
    image = np.full((24, 40, 3), 90, np.uint8)
    later = Observation(10**9, image, truth, camera, np.eye(4))
    own = moving.shown_by_the_view_itself(later, camera, truth)
    assert own[10, 20]
    assert np.count_nonzero(own & (truth > 0)) == 1
    # An old thing that stood before it all is one.
    old = truth.copy()
    old[:, 28:] = 2.0
    compared = moving.memories(None, 60.0, 0.05)
    seen = Observation(0, image, old, camera, np.eye(4))
    for memory in compared.values():
        memory.integrate(seen)
    tally = moving.Tally()
    moving._compare_recorded(compared, camera, seen, later, tally)
    ghosts, everywhere = tally.ghosts["everything"], tally.all_ghosts["everything"]
    assert ghosts > 50
    assert everywhere == ghosts + 1
    row = moving.Tally(all_ghosts={"everything": 10, "layer": 2}).as_json()
    assert row["all_ghost_cut"] == 0.8
