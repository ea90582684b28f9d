# SPDX-License-Identifier: Apache-2.0
"""Depth of another camera is moved into the color camera, with hidden surfaces resolved."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from inspatio_ros.depth.registration import needs_registration, register_depth
from inspatio_ros.geometry import rigid
from inspatio_ros.geometry.camera import PinholeCamera
from inspatio_ros.worlds.room import room

COLOR = PinholeCamera(320, 240, 262.5, 262.5, 159.5, 119.5)
DEPTH = PinholeCamera(256, 212, 240.0, 242.0, 126.0, 108.0)
WORLD = room()
POSE = rigid.from_euler(0.0, 0.2, 2.3, (1.8, -1.3, 1.2)) @ rigid.BODY_FROM_OPTICAL
COLOR_FROM_DEPTH = rigid.from_euler(0.004, -0.006, 0.003, (0.05, -0.004, 0.002))


def views() -> tuple[np.ndarray, np.ndarray]:
    """True depth in the color camera, and the depth camera's own picture."""
    return (WORLD.render(COLOR, POSE).depth,
            WORLD.render(DEPTH, POSE @ COLOR_FROM_DEPTH).depth)


def test_registered_depth_is_the_color_cameras_depth() -> None:
    truth, sent = views()
    depth = register_depth(sent, DEPTH, COLOR, COLOR_FROM_DEPTH)
    assert depth.shape == truth.shape
    known = depth > 0
    assert known[12:-12, 20:-20].mean() > 0.95
    relative = np.abs(depth - truth)[known] / truth[known]
    assert np.median(relative) < 0.002
    assert (relative < 0.05).mean() > 0.985


def test_ignoring_the_difference_costs_psnr() -> None:
    """The color picture is warped to a new pose through either depth: the Kinect mistake."""
    truth, sent = views()
    registered = register_depth(sent, DEPTH, COLOR, COLOR_FROM_DEPTH)
    assumed_equal = cv2.resize(sent, (320, 240), interpolation=cv2.INTER_NEAREST)
    other = POSE @ rigid.from_euler(0.0, 0.02, 0.0, (0.12, 0.03, 0.1))
    image = WORLD.render(COLOR, POSE).image
    target = WORLD.render(COLOR, other).image
    visible = WORLD.flow(WORLD.render(COLOR, POSE), other, 0.0).visible

    def psnr(depth: np.ndarray) -> float:
        points = rigid.transform_points(rigid.invert(other) @ POSE, COLOR.unproject(depth))
        pixels, _ = COLOR.project(points)
        seen = cv2.remap(target, np.nan_to_num(pixels, nan=-9).astype(np.float32), None,
                         cv2.INTER_LINEAR)
        use = visible & (registered > 0) & (assumed_equal > 0)
        return float(10 * np.log10(255**2 / ((seen - image.astype(float))[use] ** 2).mean()))

    assert psnr(registered) > psnr(assumed_equal) + 2.0
    assert psnr(registered) > psnr(truth) - 1.5


def test_equal_cameras_change_nothing() -> None:
    _, sent = views()
    sent[3, 4] = np.nan
    out = register_depth(sent, DEPTH, DEPTH, np.eye(4))
    np.testing.assert_array_equal(out, sent)
    assert out is not sent
    assert not needs_registration(DEPTH, DEPTH, np.eye(4))


def test_the_general_path_agrees_with_the_shortcut() -> None:
    _, sent = views()
    nudge = rigid.from_rotation(np.eye(3), (0.0, 0.0, 1e-8))
    np.testing.assert_allclose(register_depth(sent, DEPTH, DEPTH, nudge), sent, rtol=1e-6)


def test_the_nearer_surface_wins() -> None:
    camera = PinholeCamera(41, 41, 40.0, 40.0, 20.0, 20.0)
    depth = np.full((41, 41), 4.0, np.float32)
    depth[15:26, 15:26] = 1.0
    shift = rigid.from_rotation(np.eye(3), (0.25, 0.0, 0.0))  # near moves 10 px, far 2.5 px
    out = register_depth(depth, camera, camera, shift)
    np.testing.assert_allclose(out[15:26, 25:36], 1.0)
    assert np.isnan(out[20, 19:23]).all()  # uncovered: nobody saw it
    np.testing.assert_allclose(out[20, 38:], 4.0)


def test_a_finer_color_camera_is_covered_without_cracks() -> None:
    fine = COLOR.resized(640, 480)
    depth = np.full((240, 320), 2.0, np.float32)
    out = register_depth(depth, COLOR, fine, np.eye(4))
    assert (out > 0).all()


@pytest.mark.parametrize(("camera", "transform"), [
    (COLOR.resized(319, 240), np.eye(4)),
    (PinholeCamera(320, 240, 266.0, 262.5, 159.5, 119.5), np.eye(4)),
    (COLOR, rigid.from_rotation(np.eye(3), (0.025, 0.0, 0.0))),
    (COLOR, rigid.from_euler(0.0, 0.01, 0.0)),
])
def test_any_difference_needs_registration(camera: PinholeCamera, transform: np.ndarray) -> None:
    assert needs_registration(camera, COLOR, transform)


def test_wrong_sizes_and_transforms_are_refused() -> None:
    with pytest.raises(ValueError, match="320x240 but its camera_info says 256x212"):
        register_depth(np.ones((240, 320), np.float32), DEPTH, COLOR, np.eye(4))
    with pytest.raises(ValueError, match="color_from_depth"):
        register_depth(np.ones((212, 256), np.float32), DEPTH, COLOR, np.zeros((4, 4)))
