# SPDX-License-Identifier: Apache-2.0
"""A robot with one camera and no depth: the node makes depth from the camera's motion."""

from __future__ import annotations

import numpy as np
import pytest
from geometry_msgs.msg import TransformStamped
from tf2_msgs.msg import TFMessage

from inspatio_ros.depth.fastdepth import installed_runtime
from inspatio_ros.geometry import rigid
from inspatio_ros.geometry.camera import PinholeCamera
from inspatio_ros.msg import ImaginationStatus as Status
from inspatio_ros.ros.convert import cameras, images
from inspatio_ros.ros.convert.paths import matrix_to_transform
from inspatio_ros.worlds.room import room
from support.imagination import Bench

CAMERA = PinholeCamera(320, 240, 260.0, 260.0, 159.5, 119.5)
WORLD = room(moving=False)
# The base is the camera's carrier; the bench mounts the camera on it looking along x.
START = rigid.from_euler(0, 0.15, 2.4, (1.8, -1.2, 1.2))


class OneCamera:
    """Publishes a picture, its calibration and its pose, an instant a call; goes sideways."""

    def __init__(self, bench: Bench, step: float) -> None:
        self.robot, self.step, self.moved = bench.robot, step, 0.0
        self.views = {}

    def __call__(self) -> None:
        """One instant."""
        robot = self.robot
        robot.now_ns += 100_000_000
        # To and fro within 0.6 m, so that the camera stays in the room.
        self.moved += self.step
        if abs(self.moved) >= 0.6:
            self.step = -self.step
        key = round(self.moved, 4)
        world_from_base = START @ rigid.from_rotation(np.eye(3), (0.0, key, 0.0))
        if key not in self.views:
            self.views[key] = WORLD.render(CAMERA, world_from_base @ rigid.BODY_FROM_OPTICAL)
        robot.tf.publish(TFMessage(transforms=[TransformStamped(
            header=robot.header(None, "odom"), child_frame_id="base_link",
            transform=matrix_to_transform(world_from_base))]))
        robot.info.publish(cameras.to_info(CAMERA, robot.header()))
        robot.image.publish(images.from_array(self.views[key].image, "rgb8", robot.header()))

    def truth(self, world_from_camera: np.ndarray) -> np.ndarray:
        """True depth of a camera here."""
        return WORLD.render(CAMERA, world_from_camera).depth


@pytest.mark.parametrize("depth", [
    "motion",
    pytest.param("estimate", marks=pytest.mark.skipif(
        not installed_runtime(), reason="LiteRT is not installed")),
])
def test_one_moving_camera_is_enough(depth: str) -> None:
    bench = Bench(input__depth=depth, output__width=160, output__height=120)
    robot = bench.robot
    tick = OneCamera(bench, 0.04)
    try:
        assert "depth/image_rect" not in str(bench.node.camera.topics)
        robot.drive_until(lambda: robot.state_is(Status.IDLE, "no plan"), 60, "ready", tick)
        robot.plan_until(robot.path(), lambda: len(robot.frames) > 2, 60, "frames", tick)
        seen = bench.node.live._references[0]
        error = np.abs(seen.depth / tick.truth(seen.world_from_camera) - 1)
        known = np.isfinite(error)
        assert known.mean() > 0.5
        if depth == "motion":
            assert error[known].mean() < 0.15
        else:  # a network for rooms, on a drawn room: the scale is right, the shape is not
            assert np.median(error[known]) < 0.4
    finally:
        bench.close()


def test_a_camera_that_stands_still_is_told_to_move() -> None:
    bench = Bench(input__depth="motion")
    robot = bench.robot
    try:
        robot.drive_until(lambda: any("not moved by 0.05 m" in one.detail for one in
                                      robot.statuses), 60, "the reason", OneCamera(bench, 0.0))
        assert bench.node.drops["no_depth_yet"] > 0
        assert not robot.frames
    finally:
        bench.close()


def test_a_depth_model_that_is_none_is_named() -> None:
    bench = Bench(input__depth="estimate", input__depth_model="/nowhere")
    robot = bench.robot
    try:
        robot.drive_until(lambda: any("/nowhere: no config.json" in one.detail for one in
                                      robot.statuses), 60, "the reason", OneCamera(bench, 0.04))
    finally:
        bench.close()
