# SPDX-License-Identifier: Apache-2.0
"""Which frame is shown from where: counts, speeds, freezing, both conventions."""

from __future__ import annotations

import numpy as np
import pytest

from inspatio_ros.files.trajectory_files import PoseList, read_trajectory
from inspatio_ros.geometry import motions, rigid
from inspatio_ros.pipeline.camera_plan import (
    MotionOptions,
    foreground_depth,
    frame_count,
    frozen_frames,
    largest_turn,
    plan_camera,
)
from inspatio_ros.pipeline.run import resolve_trajectory

LIMIT = np.radians(0.8) + 1e-9


def _motion(name: str) -> motions.CameraMotion:
    motion = read_trajectory(resolve_trajectory(name))
    assert isinstance(motion, motions.CameraMotion)
    return motion


ORBIT, DOLLY = "x_y_circle_cycle", "zoom_out_in"


@pytest.mark.parametrize(("name", "frames", "expected"), [
    (ORBIT, 30, 301), (ORBIT, 301, 301), (ORBIT, 500, 500), (ORBIT, 1000, 801),
    (DOLLY, 30, 121), (DOLLY, 500, 500)])
def test_frame_count_of_the_release_parity(name: str, frames: int, expected: int) -> None:
    assert frame_count(_motion(name), frames, MotionOptions(parity=True)) == expected


@pytest.mark.parametrize("frames", [1, 2, 30, 247, 2000])
@pytest.mark.parametrize("rotation_only", [False, True])
def test_no_step_turns_more_than_0_8_degrees(frames: int, rotation_only: bool) -> None:
    source = np.tile(np.eye(4), (frames, 1, 1))
    plan = plan_camera(_motion(ORBIT), source, 2.0, MotionOptions(rotation_only=rotation_only))
    assert plan.largest_turn <= LIMIT
    assert len(plan) >= 301
    assert plan.source_frames.min() == 0
    assert plan.source_frames.max() == frames - 1 or len(plan) < frames
    assert np.abs(np.diff(plan.source_frames)).max(initial=0) <= max(1, frames // 100)


def test_frames_of_an_extended_clip_walk_back_and_forth_under_a_smooth_camera() -> None:
    source = np.tile(np.eye(4), (50, 1, 1))
    plan = plan_camera(_motion(DOLLY), source, 3.0, MotionOptions())
    assert len(plan) == 121
    np.testing.assert_array_equal(plan.source_frames[:100], [*range(50), *range(48, -1, -1), 1])
    # The shipped dolly ends where it began and reaches one unit once: it is not walked twice.
    z = plan.world_from_camera[:, 2, 3]
    assert z.max() == pytest.approx(3.0, rel=0.01)
    assert np.count_nonzero(np.diff(np.sign(np.diff(z)))) <= 4


def test_parity_walks_the_camera_too() -> None:
    rng = np.random.default_rng(0)
    source = np.array([rigid.from_euler(0, 0.01 * k, 0, rng.normal(size=3) * 0.01)
                       for k in range(50)])
    motion = _motion(DOLLY)
    plan = plan_camera(motion, source, 7.0, MotionOptions(parity=True))
    start = motions.relative_poses(motion, 50, parity=True)
    walk = motions.bounce_indices(50, 121)
    np.testing.assert_array_equal(plan.source_frames, walk)
    np.testing.assert_allclose(
        plan.world_from_camera, motions.target_poses(source, start, parity=True)[walk])


def test_without_adaptive_frames_there_are_as_many_as_in_the_recording() -> None:
    source = np.tile(np.eye(4), (40, 1, 1))
    for parity in (False, True):
        options = MotionOptions(adaptive=False, parity=parity, freeze_repeat=3)
        plan = plan_camera(_motion(ORBIT), source, 1.0, options)
        assert len(plan) == 43
        assert np.count_nonzero(plan.source_frames == 20) == 4


def test_freeze() -> None:
    assert frozen_frames(5, 2, None).tolist() == [0, 1, 2, 2, 2, 3, 4]
    assert frozen_frames(5, 1, 99).tolist() == [0, 1, 2, 3, 4, 4]
    assert frozen_frames(1, 0, None).tolist() == [0]
    with pytest.raises(ValueError, match="freeze_repeat -1"):
        frozen_frames(5, -1, None)


@pytest.mark.parametrize("relative", [False, True])
def test_poses_are_all_passed_and_steps_are_small(relative: bool) -> None:
    poses = np.array([rigid.from_euler(0, 0.1 * k, 0, (k, 0, 0)) for k in range(5)])
    source = np.array([rigid.from_rotation(np.eye(3), (0, 0, 0.1 * k)) for k in range(10)])
    plan = plan_camera(PoseList(poses), source, 9.0, MotionOptions(relative_to_source=relative))
    assert largest_turn(plan.world_from_camera) <= LIMIT
    base = source[plan.source_frames] if relative else source[:1]
    start = rigid.invert(base) @ plan.world_from_camera
    for pose in poses:
        assert np.abs(start - pose).max((1, 2)).min() <= 1e-6


def test_timed_poses_are_followed_at_the_frame_rate() -> None:
    poses = np.array([rigid.from_rotation(np.eye(3), (k, 0, 0)) for k in range(3)])
    path = PoseList(poses, np.array([0.0, 1.0, 3.0]))
    plan = plan_camera(path, np.eye(4)[None], 1.0, MotionOptions(frame_rate=10.0))
    assert len(plan) == 31
    np.testing.assert_allclose(plan.world_from_camera[[10, 20], 0, 3], [1.0, 1.5])


def test_foreground_is_near_but_no_speck() -> None:
    depth = np.full((100, 100), 4.0, np.float32)
    depth[:20] = 1.5
    depth[0, :5] = 0.01
    depth[50:] = np.nan
    assert foreground_depth(depth) == pytest.approx(1.5)
    with pytest.raises(ValueError, match="no frame has depth"):
        foreground_depth(np.full((2, 2), np.nan, np.float32))
