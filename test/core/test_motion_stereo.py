# SPDX-License-Identifier: Apache-2.0
"""Depth of one moving camera against the exact depth of an analytic world, and on recordings."""

from __future__ import annotations

import functools

import numpy as np
import pytest

from inspatio_ros.depth.motion_stereo import MotionStereo, MotionStereoOptions
from inspatio_ros.files.sequences import Sequence, SequenceOptions
from inspatio_ros.geometry import rigid
from inspatio_ros.geometry.camera import PinholeCamera
from inspatio_ros.worlds.room import room
from inspatio_ros.worlds.world import View
from support.data import data_dir

CAMERA = PinholeCamera(320, 240, 260.0, 260.0, 159.5, 119.5)
WORLD = room(moving=False)
START = rigid.from_euler(0, 0.15, 2.4, (1.8, -1.2, 1.2)) @ rigid.BODY_FROM_OPTICAL
STEP_NS = 100_000_000


@functools.lru_cache(maxsize=8)
def drive(step: tuple[float, float, float], count: int = 6, yaw: float = 0.0) -> list[View]:
    """Views of a camera that moves by `step` m along its optical axes and turns by `yaw` rad."""
    move = rigid.from_euler(0, yaw, 0, step)
    poses = [START]
    for _ in range(count - 1):
        poses.append(poses[-1] @ move)
    return [WORLD.render(CAMERA, pose) for pose in poses]


def errors(depth: np.ndarray, truth: np.ndarray) -> tuple[float, float]:
    """Mean relative error of the valid pixels and their share."""
    valid = depth > 0
    return float(np.abs(depth[valid] / truth[valid] - 1).mean()), float(valid.mean())


def run(views: list[View], motion: MotionStereo) -> list[np.ndarray | None]:
    """The depth of every view."""
    return [motion.add(i * STEP_NS, view.image, CAMERA, view.world_from_camera)
            for i, view in enumerate(views)]


@pytest.mark.parametrize(("step", "yaw", "least"), [
    ((0.05, 0.0, 0.0), 0.0, 0.5),
    ((0.0, 0.05, 0.0), 0.0, 0.5),
    ((-0.05, 0.0, 0.03), 0.02, 0.5),
    ((0.0, 0.0, 0.08), 0.0, 0.3),
], ids=["sideways", "downwards", "turning", "forwards"])
def test_depth_is_metric_and_dense(step: tuple[float, float, float], yaw: float,
                                   least: float) -> None:
    views = drive(step, yaw=yaw)
    depth = run(views, MotionStereo())[-1]
    assert depth is not None
    assert depth.dtype == np.float32
    error, share = errors(depth, views[-1].depth)
    assert error <= 0.08
    assert share >= least


def test_scaled_poses_scale_the_depth() -> None:
    views = drive((0.05, 0.0, 0.0))
    motion = MotionStereo()
    depth = None
    for i, view in enumerate(views):
        pose = view.world_from_camera.copy()
        pose[:3, 3] *= 2
        depth = motion.add(i * STEP_NS, view.image, CAMERA, pose)
    assert depth is not None
    assert 1.9 < float(np.nanmedian(depth / views[-1].depth)) < 2.1


def test_wrong_poses_do_not_pass_for_depth() -> None:
    views = drive((0.05, 0.0, 0.0))
    motion = MotionStereo()
    right = errors(run(views, MotionStereo())[-1], views[-1].depth)[1]
    depth = None
    for i, view in enumerate(views):
        pose = view.world_from_camera.copy()
        pose[2, 3] += 0.05 * i  # odometry says up, the camera went sideways
        depth = motion.add(i * STEP_NS, view.image, CAMERA, pose)
    assert depth is not None
    assert (depth > 0).mean() < right / 2


def test_no_depth_without_motion_and_the_reason_is_said() -> None:
    view = WORLD.render(CAMERA, START)
    motion = MotionStereo()
    assert motion.add(0, view.image, CAMERA, START) is None
    assert motion.status.reason == "first"
    for i in range(1, 30):
        assert motion.add(i * STEP_NS, view.image, CAMERA, START) is None
        assert motion.status.reason == "no_baseline"
    away = START @ rigid.from_euler(0, 0.9, 0, (0.2, 0, 0))
    assert motion.add(40 * STEP_NS, view.image, CAMERA, away) is None
    assert motion.status.reason == "turned"


def test_memory_is_bounded_and_baselines_are_at_least_the_least() -> None:
    views = drive((0.03, 0.0, 0.0), 16)
    motion = MotionStereo(MotionStereoOptions(capacity=5, pixels=5_000))
    for i, view in enumerate(views):
        motion.add(i * STEP_NS, view.image, CAMERA, view.world_from_camera)
        assert all(b >= 0.05 for b in motion.status.baselines)
        assert len(motion._views) <= 5


def test_time_jumping_back_or_another_camera_begins_anew() -> None:
    views = drive((0.05, 0.0, 0.0), 3)
    motion = MotionStereo()
    assert run(views, motion)[-1] is not None
    assert motion.add(STEP_NS, views[0].image, CAMERA, views[0].world_from_camera) is None
    assert motion.status.reason == "first"
    run(views, motion)
    other = PinholeCamera(320, 240, 200.0, 200.0, 159.5, 119.5)
    assert motion.add(9 * STEP_NS, views[2].image, other, views[2].world_from_camera) is None


def test_same_input_same_depth() -> None:
    views = drive((0.05, 0.0, 0.0), 4)
    one, two = (run(views, MotionStereo())[-1] for _ in range(2))
    assert one is not None
    assert two is not None
    assert one.tobytes() == two.tobytes()


def test_bad_input_is_refused() -> None:
    motion = MotionStereo()
    with pytest.raises(ValueError, match="320x240"):
        motion.add(0, np.zeros((10, 10, 3), np.uint8), CAMERA, START)
    with pytest.raises(ValueError, match="world_from_camera"):
        motion.add(0, np.zeros((240, 320, 3), np.uint8), CAMERA, 2 * START)
    with pytest.raises(ValueError, match="range"):
        MotionStereoOptions(min_depth=2.0, max_depth=1.0)
    with pytest.raises(ValueError, match="planes"):
        MotionStereoOptions(planes=2)


@pytest.mark.parametrize(("name", "start", "count", "validity"), [
    ("holo_office", 0, 12, 0.5),
    ("kitti_stereo_06", 0, 8, 0.5),
    ("kitti_stereo_ramp", 0, 8, 0.5),
    # Half of what lidar hits there drives: no static scene to measure against.
    ("kitti_city_lidar", 8, 14, 0.35),
])
def test_recordings(name: str, start: int, count: int, validity: float) -> None:
    sequence = Sequence(data_dir(name), SequenceOptions(max_depth=80.0))
    motion = MotionStereo()
    found, shares = [], []
    for index in range(start, start + count):
        frame = sequence.frames[index]
        depth = motion.add(frame.stamp_ns, sequence.image(index), sequence.camera,
                           frame.world_from_camera)
        if depth is None or index < start + count - 4:
            continue
        truth = sequence.depth(index)
        known = truth > 0
        valid = known & (depth > 0)
        shares.append(valid.sum() / known.sum())
        found.append(np.abs(depth[valid] / truth[valid] - 1))
    assert float(np.concatenate(found).mean()) <= 0.15
    assert float(np.mean(shares)) >= validity


def test_gaps_are_closed_within_surfaces_only() -> None:
    views = drive((0.05, 0.0, 0.0))
    left = run(views, MotionStereo(MotionStereoOptions(gap=0.0)))[-1]
    closed = run(views, MotionStereo())[-1]
    assert left is not None
    assert closed is not None
    # What was measured stays, what is new is as good as can be expected.
    measured = left > 0
    np.testing.assert_allclose(closed[measured], left[measured], rtol=1e-5)
    new = (closed > 0) & ~measured
    assert new.mean() > 0.02
    truth = views[-1].depth
    assert np.median(np.abs(closed[new] / truth[new] - 1)) < 0.05
    assert np.mean(np.abs(closed[new] / truth[new] - 1)) < 0.15


def test_a_surface_is_not_continued_over_an_edge_of_the_picture() -> None:
    motion = MotionStereo()
    picture = np.full((60, 80), 60, np.uint8)
    picture[:, 40:] = 200
    inverse = np.full((60, 80), np.nan, np.float32)
    inverse[:, 10:38] = (0.2 + 0.002 * np.arange(10, 38))[None]
    closed = motion._without_gaps(inverse, picture)
    np.testing.assert_allclose(closed[:, :40], (0.2 + 0.002 * np.arange(40))[None].repeat(60, 0),
                               rtol=0.04)
    assert np.isnan(closed[:, 40:]).all()
    # Nor farther than the gap, where there is no edge.
    far = motion._without_gaps(np.where(np.arange(80) < 20, np.float32(0.2), np.float32(np.nan))
                               * np.ones((60, 1), np.float32), np.full((60, 80), 60, np.uint8))
    assert np.isfinite(far[:, 20:43]).all()
    assert np.isnan(far[:, 46:]).all()
