# SPDX-License-Identifier: Apache-2.0
"""Causes of holes, flicker, depth, camera control and the baselines, with known answers."""

from __future__ import annotations

import math

import numpy as np
import pytest

from inspatio_ros.evaluation.baselines import (
    BASELINES,
    CLASSICAL,
    HOMOGRAPHY,
    MEAN_FILL,
    NEAREST_VIEW,
    SINGLE_WARP,
    ViewBank,
    baselines,
    forward_warp,
    planar_warp,
)
from inspatio_ros.evaluation.metrics import psnr
from inspatio_ros.evaluation.view_checks import (
    CameraControl,
    CameraEstimator,
    DepthError,
    HoleCause,
    correspondence,
    flicker,
    hole_causes,
    nearest_known,
)
from inspatio_ros.geometry import rigid
from inspatio_ros.geometry.camera import PinholeCamera
from inspatio_ros.sensing.observation import Observation
from inspatio_ros.worlds.room import room

CAMERA = PinholeCamera(40, 20, 20.0, 20.0, 19.5, 9.5)
AT_ORIGIN = np.eye(4)
WORLD = room(0, moving=False)
LARGE = PinholeCamera(240, 160, 160.0, 160.0, 119.5, 79.5)


def moved(x: float = 0.0, z: float = 0.0, yaw: float = 0.0) -> np.ndarray:
    c, s = math.cos(yaw), math.sin(yaw)
    return rigid.from_rotation([[c, 0, s], [0, 1, 0], [-s, 0, c]], (x, 0.0, z))


def seen(pose: np.ndarray, stamp_ns: int = 0) -> Observation:
    view = WORLD.render(LARGE, pose, 0.0)
    return Observation(stamp_ns, view.image, view.depth, LARGE, pose)


def in_room(forward: float = 0.0, right: float = 0.0) -> np.ndarray:
    base = WORLD.drive(0.4, np.array([1.0]))[0] @ rigid.from_rotation(
        np.eye(3), (0.1 + forward, -right, 0.9))
    return base @ rigid.BODY_FROM_OPTICAL


def test_each_hole_of_a_post_before_a_wall_has_its_cause() -> None:
    """A post 1 m ahead before a wall at 4 m, without depth in one corner; camera 0.4 m right."""
    source = np.full((20, 40), 4.0, np.float32)
    source[:, 18:22] = 1.0
    source[:4, 22:28] = np.nan
    pose = moved(x=0.4)
    # From there the wall shows 2 pixels further left and the post 8.
    truth = np.full((20, 40), 4.0, np.float32)
    truth[:, 10:14] = 1.0
    holes = np.ones((20, 40), bool)
    holes[:, 30:36] = False
    causes = hole_causes(CAMERA, pose, truth, holes, source, AT_ORIGIN)
    assert (causes[~holes] == HoleCause.COVERED).all()
    # Source column of a wall pixel is two to the right: behind the post lie columns 16 to 19.
    assert (causes[:, 16:20] == HoleCause.DISOCCLUDED).all()
    assert (causes[:, 38:] == HoleCause.OUT_OF_VIEW).all()
    assert (causes[:4, 20:26] == HoleCause.NO_DEPTH).all()
    assert (causes[4:, 20:26] == HoleCause.OTHER).all()
    # The post itself was seen: no reason for a hole.
    assert (causes[:, 10:14] == HoleCause.OTHER).all()


def test_without_holes_there_is_no_cause_and_behind_the_source_is_out_of_view() -> None:
    depth = np.full((20, 40), 2.0, np.float32)
    none = np.zeros((20, 40), bool)
    assert not hole_causes(CAMERA, AT_ORIGIN, depth, none, depth, AT_ORIGIN).any()
    back = moved(yaw=math.pi)
    assert (hole_causes(CAMERA, back, depth, ~none, depth, AT_ORIGIN)
            == HoleCause.OUT_OF_VIEW).all()


def test_unknown_depth_takes_the_nearest_known() -> None:
    depth = np.full((4, 6), np.nan, np.float32)
    depth[0, 0], depth[3, 5] = 2.0, 5.0
    filled = nearest_known(depth)
    assert filled[1, 1] == 2.0
    assert filled[2, 4] == 5.0
    assert (nearest_known(np.full((2, 2), np.nan, np.float32)) == 1.0).all()


def test_identical_views_do_not_flicker_and_a_brighter_one_does_by_its_difference() -> None:
    view = seen(in_room())
    match = correspondence(LARGE, view.world_from_camera, view.depth, view.world_from_camera,
                           view.depth)
    assert match.seen.mean() > 0.95
    assert flicker(view.image, view.image, match) == 0.0
    darker = view.image // 2
    assert flicker(darker, darker + 7, match) == 7.0


def test_motion_of_the_camera_is_no_flicker() -> None:
    before, after = seen(in_room()), seen(in_room(forward=0.05, right=0.05))
    match = correspondence(LARGE, after.world_from_camera, after.depth, before.world_from_camera,
                           before.depth)
    still = flicker(before.image, after.image, match)
    repeated = float(np.abs(before.image.astype(int) - after.image).mean())
    assert still < 0.4 * repeated
    far = seen(in_room() @ moved(yaw=math.pi))
    apart = correspondence(LARGE, far.world_from_camera, far.depth, before.world_from_camera,
                           before.depth)
    assert math.isnan(flicker(before.image, far.image, apart))


def test_depth_errors_are_those_made() -> None:
    truth = np.full((10, 10), 2.0, np.float32)
    depth = truth.copy()
    depth[:2] *= 1.5
    depth[2:4] *= 0.75
    depth[9] = np.nan
    truth[8] = np.nan
    error = DepthError()
    error.add(depth, truth)
    assert error.count == 80
    assert error.abs_rel == pytest.approx((20 * 0.5 + 20 * 0.25) / 80)
    assert error.farther == pytest.approx(20 / 80)
    assert error.known == pytest.approx(80 / 90)
    assert math.isnan(DepthError().abs_rel)


def test_camera_control_of_true_frames_is_near_its_floor() -> None:
    source, control = seen(in_room()), CameraControl()
    estimator = CameraEstimator(LARGE, source.image, source.depth)
    for forward, right in ((0.1, 0.0), (0.2, 0.1), (0.3, -0.1)):
        pose = in_room(forward, right)
        wanted = rigid.invert(source.world_from_camera) @ pose
        control.add(estimator.estimate(seen(pose).image), wanted)
    assert control.found == 1.0
    assert control.angle < 0.3
    assert control.distance < 0.03
    assert control.score > 95


def test_a_repeated_frame_is_as_far_off_as_the_camera_moved() -> None:
    source = seen(in_room())
    estimator, control = CameraEstimator(LARGE, source.image, source.depth), CameraControl()
    wanted = rigid.invert(source.world_from_camera) @ in_room(forward=0.3)
    control.add(estimator.estimate(source.image), wanted)
    assert control.distance == pytest.approx(0.3, abs=0.02)
    assert control.score == pytest.approx(100 * math.sqrt(1 - 0.3 / 0.5), abs=3)


def test_a_blank_picture_has_no_pose() -> None:
    source, control = seen(in_room()), CameraControl()
    estimator = CameraEstimator(LARGE, source.image, source.depth)
    control.add(estimator.estimate(np.full_like(source.image, 90)), np.eye(4))
    assert control.found == 0.0
    assert math.isnan(control.score)


def test_the_formula_of_the_score() -> None:
    control = CameraControl()
    control.add(moved(x=0.25, yaw=math.radians(7.5)), np.eye(4))
    assert control.score == pytest.approx(50.0)
    control.add(moved(x=9.0), np.eye(4))
    assert control.score == 0.0


def test_a_wall_across_the_view_is_warped_exactly() -> None:
    """A homography is right for the wall it assumes."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (10, 20, 3), dtype=np.uint8).astype(np.float32)
    import cv2

    wall = np.asarray(cv2.resize(coarse, (400, 200), interpolation=cv2.INTER_CUBIC).clip(0, 255),
                      np.uint8)

    def render(pose: np.ndarray) -> np.ndarray:
        points = rigid.transform_points(pose, CAMERA.rays())
        direction = points - pose[:3, 3]
        hit = pose[:3, 3] + direction * ((2.0 - pose[2, 3]) / direction[..., 2])[..., None]
        x, y = hit[..., 0] * 60 + 200, hit[..., 1] * 60 + 100
        return cv2.remap(wall, x.astype(np.float32), y.astype(np.float32), cv2.INTER_LINEAR)

    depth = np.full((20, 40), 2.0, np.float32)
    for pose in (moved(x=0.2), moved(z=0.5), moved(x=-0.1, z=0.2, yaw=0.1)):
        warped = planar_warp(render(AT_ORIGIN), depth, CAMERA, rigid.invert(pose))
        inner = np.s_[4:-4, 10:-10]
        assert psnr(warped[inner], render(pose)[inner]) > 30
    # Turned right round, nothing of the picture is ahead.
    behind = planar_warp(render(AT_ORIGIN), depth, CAMERA, rigid.invert(moved(yaw=math.pi)))
    assert len(np.unique(behind.reshape(-1, 3), axis=0)) == 1


def test_the_bank_gives_the_nearest_view_and_stays_bounded() -> None:
    bank = ViewBank(LARGE, capacity=8)
    with pytest.raises(ValueError, match="empty"):
        bank.nearest(in_room())
    views = [seen(in_room(forward=0.05 * i), i) for i in range(24)]
    for view in views:
        bank.add(view)
    assert len(bank) <= 9
    np.testing.assert_array_equal(bank.nearest(views[-1].world_from_camera), views[-1].image)
    near_first = bank.nearest(views[0].world_from_camera)
    np.testing.assert_array_equal(near_first, views[0].image)
    again = Observation(99, 255 - views[-1].image, views[-1].depth, LARGE,
                        views[-1].world_from_camera)
    count = len(bank)
    for _ in range(5):
        bank.add(again)
    assert len(bank) <= count + 1
    np.testing.assert_array_equal(bank.nearest(views[-1].world_from_camera), again.image)


def test_all_baselines_are_there_and_known_pixels_are_shared() -> None:
    source = seen(in_room())
    pose = in_room(forward=0.1, right=0.3)
    bank = ViewBank(LARGE)
    bank.add(source)
    pictures = baselines(LARGE, pose, source, BASELINES, bank)
    assert tuple(pictures) == BASELINES
    np.testing.assert_array_equal(pictures[NEAREST_VIEW], source.image)
    assert len({picture.tobytes() for picture in pictures.values()}) == len(BASELINES) - 1
    truth = seen(pose).image
    _, reached = forward_warp(source.image, source.depth, LARGE,
                              rigid.invert(pose) @ source.world_from_camera)
    for name in (SINGLE_WARP, CLASSICAL, MEAN_FILL):
        np.testing.assert_array_equal(pictures[name][reached], pictures[SINGLE_WARP][reached])
    assert psnr(pictures[HOMOGRAPHY], truth) > psnr(source.image, truth)
    with pytest.raises(ValueError, match="no baseline 'first_frame'"):
        baselines(LARGE, pose, source, ("first_frame",))
