# SPDX-License-Identifier: Apache-2.0
"""Camera poses of a video without any, against the exact ones of an analytic world."""

from __future__ import annotations

import functools

import numpy as np
import pytest

from inspatio_ros.depth.visual_odometry import DEPTH_SCALE, UNIT_SCALE, VisualOdometry
from inspatio_ros.geometry import rigid
from inspatio_ros.geometry.camera import PinholeCamera
from inspatio_ros.worlds.room import room
from inspatio_ros.worlds.world import View

CAMERA = PinholeCamera(320, 240, 260.0, 260.0, 159.5, 119.5)
START = rigid.from_euler(0, 0.15, 2.4, (1.8, -1.2, 1.2)) @ rigid.BODY_FROM_OPTICAL


@functools.lru_cache(maxsize=2)
def views(count: int = 16) -> list[View]:
    """Views of a camera that goes sideways and forwards and turns."""
    world = room(moving=False)
    poses = [START]
    for _ in range(count - 1):
        poses.append(poses[-1] @ rigid.from_euler(0, 0.015, 0, (-0.05, 0.0, 0.02)))
    return [world.render(CAMERA, pose) for pose in poses]


def relative(view: View) -> np.ndarray:
    """The true pose in the first camera."""
    return rigid.invert(START) @ view.world_from_camera


def test_with_depth_the_poses_are_metric() -> None:
    odometry = VisualOdometry(CAMERA)
    for i, view in enumerate(views()):
        frame = odometry.add(view.image, view.depth)
        assert frame.world_from_camera is not None, f"picture {i}: {frame.reason}"
        off = rigid.invert(frame.world_from_camera) @ relative(view)
        assert np.linalg.norm(off[:3, 3]) < 0.02
        assert rigid.rotation_angle(off) < 0.01
    assert odometry.report.success == 1.0
    assert odometry.report.scale == DEPTH_SCALE


def test_depth_of_the_first_picture_alone_is_enough() -> None:
    odometry = VisualOdometry(CAMERA)
    for i, view in enumerate(views()):
        frame = odometry.add(view.image, view.depth if i == 0 else None)
    assert frame.world_from_camera is not None
    off = rigid.invert(frame.world_from_camera) @ relative(views()[-1])
    assert np.linalg.norm(off[:3, 3]) < 0.05


def test_without_depth_the_shape_of_the_way_is_right_and_the_unit_is_said() -> None:
    odometry = VisualOdometry(CAMERA)
    frames = [odometry.add(view.image) for view in views()]
    good = [(f.world_from_camera, relative(v)) for f, v in zip(frames, views(), strict=True)
            if f.world_from_camera is not None]
    assert frames[0].ok
    assert frames[-1].ok
    found, true = (np.array([p[:3, 3] for p in side]) for side in zip(*good, strict=True))
    scale = float((found * true).sum() / (found * found).sum())
    assert scale > 0
    # One camera alone drifts in scale: 5 % of the way here.
    off = np.linalg.norm(scale * found - true, axis=1)
    assert off.max() < 0.08 * np.linalg.norm(true[-1])
    waiting = odometry.report.failed.get("waiting for parallax", 0)
    assert waiting == sum(not f.ok for f in frames)
    assert UNIT_SCALE in odometry.report.sentence()


def test_a_still_camera_fails_and_says_so() -> None:
    odometry = VisualOdometry(CAMERA)
    for _ in range(40):
        frame = odometry.add(views()[0].image)
    assert not frame.ok
    assert frame.reason == "standing still"
    assert odometry.report.success < 0.1
    assert "standing still" in odometry.report.sentence()


def test_a_cut_is_a_loss_and_tracking_goes_on_after_it() -> None:
    odometry = VisualOdometry(CAMERA)
    clip = views()
    before = [odometry.add(v.image, v.depth) for v in clip[:4]]
    black = odometry.add(np.zeros((240, 320, 3), np.uint8), None)
    assert not black.ok
    assert black.reason == "lost"
    odometry.add(clip[4].image, clip[4].depth)
    after = odometry.add(clip[5].image, clip[5].depth)
    assert all(f.ok for f in before)
    assert after.ok
    assert odometry.report.losses >= 1
    assert "lost" in odometry.report.sentence()


def test_pictures_of_another_size_are_refused() -> None:
    with pytest.raises(ValueError, match="320x240"):
        VisualOdometry(CAMERA).add(np.zeros((10, 10, 3), np.uint8))
    with pytest.raises(ValueError, match="depth is 10x10"):
        VisualOdometry(CAMERA).add(views()[0].image, np.ones((10, 10), np.float32))
