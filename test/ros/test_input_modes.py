# SPDX-License-Identifier: Apache-2.0
"""Every way in: compressed topics, odometry, stereo, a depth camera of its own, raw lenses."""

from __future__ import annotations

import array
from collections.abc import Callable

import cv2
import numpy as np
import pytest
from geometry_msgs.msg import TransformStamped
from nav_msgs.msg import Odometry
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from std_msgs.msg import Header
from tf2_msgs.msg import TFMessage

from inspatio_ros.depth.sensor_depth import encode_compressed_depth
from inspatio_ros.geometry import rigid
from inspatio_ros.geometry.camera import PinholeCamera
from inspatio_ros.msg import ImaginationStatus as Status
from inspatio_ros.ros import qos
from inspatio_ros.ros.convert import cameras, images
from inspatio_ros.ros.convert.paths import matrix_to_pose, matrix_to_transform
from inspatio_ros.ros.convert.stamps import to_ns
from inspatio_ros.sensing.observation import Observation
from inspatio_ros.worlds.room import room
from inspatio_ros.worlds.world import right_camera
from support.imagination import CAMERA, FRAME, WALL, Bench, wall_depth, wall_image


def observed(bench: Bench, tick: Callable[[], None]) -> Observation:
    """The first observation once frames come; the node is closed."""
    robot = bench.robot
    try:
        robot.drive_until(lambda: robot.state_is(Status.IDLE, "no plan"), 30, "ready", tick)
        robot.plan_until(robot.path(), lambda: len(robot.frames) > 2, 20, "frames", tick)
        assert robot.frames[-1].observed_ratio > 0.3
        seen: Observation = bench.node.live._references[0]
        return seen
    finally:
        bench.close()


def test_jpeg_and_compressed_depth() -> None:
    bench = Bench(input__image_transport="compressed", input__depth_transport="compressedDepth",
                  output__width=0, output__height=0)
    robot, node = bench.robot, bench.graph.node
    color = node.create_publisher(CompressedImage, "camera/image_rect/compressed", 2)
    depth = node.create_publisher(CompressedImage, "depth/image_rect/compressedDepth", 2)

    def tick() -> None:
        robot.now_ns += 50_000_000
        robot.send_tf()
        robot.send_infos()
        color.publish(images.encode_jpeg(wall_image(), 95, robot.header()))
        data, text = encode_compressed_depth(
            (wall_depth() * 1000).astype(np.uint16), "16UC1")
        depth.publish(CompressedImage(header=robot.header(), format=text,
                                      data=array.array("B", data)))

    seen = observed(bench, tick)
    assert np.abs(seen.image.astype(int) - wall_image()).mean() < 12
    np.testing.assert_array_equal(seen.depth, WALL)


def test_odometry_gives_poses_and_time_offset_shifts_them() -> None:
    """The base moves at 1 m/s along x; the odometry's clock is 0.1 s ahead of the camera's."""
    bench = Bench(transforms__source="odometry", transforms__time_offset=0.1,
                  output__width=160, output__height=120)
    robot = bench.robot
    odometry = bench.graph.node.create_publisher(Odometry, "odom", qos.profile(
        10, reliable=False))
    start = robot.now_ns

    def tick() -> None:
        robot.now_ns += 50_000_000
        for ahead in (100_000_000, 150_000_000):
            stamp = robot.now_ns + ahead
            pose = rigid.from_euler(0, 0, 0, ((stamp - start) * 1e-9, 0, 0))
            message = Odometry(header=robot.header(stamp, "odom"), child_frame_id="base_link")
            message.pose.pose = matrix_to_pose(pose)
            odometry.publish(message)
        robot.send_infos()
        robot.send_pair()

    robot.drive_until(lambda: bench.node.live and bench.node.live._references, 30, "seen", tick)
    seen = bench.node.live._references[0]
    bench.close()
    assert seen.world_from_camera[0, 3] == pytest.approx((seen.stamp_ns - start) * 1e-9 + 0.1,
                                                         abs=1e-6)


def test_odometry_in_another_frame_is_refused_by_name() -> None:
    bench = Bench(transforms__source="odometry", output__width=160, output__height=120)
    robot = bench.robot
    odometry = bench.graph.node.create_publisher(Odometry, "odom", qos.profile(10))

    def send(frame: str) -> None:
        robot.now_ns += 50_000_000
        message = Odometry(header=robot.header(frame=frame), child_frame_id="base_link")
        message.pose.pose.orientation.w = 1.0
        odometry.publish(message)
        robot.send_infos()
        robot.send_pair()

    words = "odom: frame 'map' is not transforms.world_frame 'odom'"
    try:
        robot.drive_until(lambda: robot.state_is(Status.WAITING_FOR_INPUT, words), 20, words,
                          lambda: send("map"))
        robot.drive_until(
            lambda: int(bench.value("input", "dropped_odometry_refused") or 0) > 0, 20,
            "the count", lambda: send("map"))
        robot.drive_until(lambda: robot.state_is(Status.IDLE, "no plan"), 20, "well again",
                          lambda: send("odom"))
    finally:
        bench.close()


def test_a_depth_camera_of_its_own_is_registered() -> None:
    """Half the size, 5 cm to the right of the color camera, looking at the same wall."""
    bench = Bench(output__width=0, output__height=0)
    robot = bench.robot
    camera = PinholeCamera(80, 60, 50.0, 50.0, 39.5, 29.5)
    color_from_depth = rigid.from_euler(0, 0, 0, (0.05, 0, 0))
    mount = TransformStamped(header=Header(frame_id=FRAME), child_frame_id="depth_optical",
                             transform=matrix_to_transform(color_from_depth))
    robot.tf_static.publish(TFMessage(transforms=[mount, TransformStamped(
        header=Header(frame_id="base_link"), child_frame_id=FRAME,
        transform=matrix_to_transform(rigid.BODY_FROM_OPTICAL))]))

    def tick() -> None:
        robot.now_ns += 50_000_000
        robot.send_tf()
        robot.info.publish(cameras.to_info(CAMERA, robot.header()))
        robot.image.publish(images.from_array(wall_image(), "rgb8", robot.header()))
        header = robot.header(frame="depth_optical")
        robot.depth_info.publish(cameras.to_info(camera, header))
        robot.depth.publish(images.from_array(wall_depth(camera), "32FC1", header))

    seen = observed(bench, tick)
    assert seen.camera == CAMERA
    # The depth camera sees the wall from x = 0.05 - 1.6 to 0.05 + 1.6 m, the color one +-1.33 m.
    inside = seen.depth[20:100, 20:140]
    np.testing.assert_allclose(inside[np.isfinite(inside)], WALL, rtol=1e-5)
    assert np.isfinite(inside).mean() > 0.95


def test_stereo_pair_of_the_room() -> None:
    camera = PinholeCamera(320, 240, 200.0, 200.0, 159.5, 119.5)
    baseline = 0.12
    world = room(0)
    lifted = rigid.from_rotation(np.eye(3), (0.0, 0.0, 1.0))
    pose = world.drive(0.4, [0.0])[0] @ lifted @ rigid.BODY_FROM_OPTICAL
    left = world.render(camera, pose, 0.0)
    right = world.render(camera, right_camera(pose, baseline), 0.0)
    bench = Bench(input__depth="stereo", input__stereo_scale=1.0, input__min_depth=0.5,
                  input__max_depth=20.0, output__width=160, output__height=120)
    robot, node = bench.robot, bench.graph.node
    right_image = node.create_publisher(Image, "right/image_rect", 2)
    right_info = node.create_publisher(CameraInfo, "right/camera_info", 2)

    def tick() -> None:
        robot.now_ns += 200_000_000
        robot.send_tf()
        info = cameras.to_info(camera, robot.header())
        robot.info.publish(info)
        robot.image.publish(images.from_array(left.image, "rgb8", robot.header()))
        other = cameras.to_info(camera, robot.header())
        other.p[3] = -camera.fx * baseline
        right_info.publish(other)
        right_image.publish(images.from_array(right.image, "rgb8", robot.header()))

    seen = observed(bench, tick)
    known = seen.depth > 0
    assert known.mean() > 0.5
    error = np.abs(seen.depth - left.depth)[known] / left.depth[known]
    assert np.median(error) < 0.03


def test_raw_lens_is_rectified_where_asked() -> None:
    """A barrel-distorted picture of the wall; the node sees straight lines again."""
    distortion = np.array([-0.2, 0.05, 0.0, 0.0, 0.0])
    ys, xs = np.mgrid[0:CAMERA.height, 0:CAMERA.width].astype(np.float64)
    raw = np.stack([xs.ravel(), ys.ravel()], axis=-1)[:, None]
    ideal = cv2.undistortPoints(raw, CAMERA.matrix, distortion, P=CAMERA.matrix)[:, 0]
    big = CAMERA.cropped(-80, -60, 320, 240)
    maps = (ideal + [80, 60]).reshape(CAMERA.height, CAMERA.width, 2).astype(np.float32)
    distorted = cv2.remap(wall_image(big), maps[..., 0], maps[..., 1], cv2.INTER_LINEAR)
    bench = Bench(input__rectify=True, output__width=0, output__height=0)
    robot = bench.robot

    def tick() -> None:
        robot.now_ns += 50_000_000
        robot.send_tf()
        info = cameras.to_info(CAMERA, robot.header())
        info.d = distortion.tolist()
        robot.info.publish(info)
        robot.depth_info.publish(info)
        robot.image.publish(images.from_array(distorted, "rgb8", robot.header()))
        robot.depth.publish(images.from_array(wall_depth(), "32FC1", robot.header()))

    seen = observed(bench, tick)
    expected = wall_image(seen.camera)
    wrong = (np.abs(seen.image.astype(int) - expected).max(axis=-1) > 60).mean()
    assert wrong < 0.08  # edges of the squares are smoothed, no more


def test_trajectory_topic_or_its_absence() -> None:
    """Where the distribution has nav_msgs/Trajectory, it is followed with its own times."""
    try:
        from nav_msgs.msg import Trajectory, TrajectoryPoint
    except ImportError:
        pytest.skip("this ROS distribution has no nav_msgs/Trajectory")
    bench = Bench(output__width=160, output__height=120)
    robot = bench.robot
    publisher = bench.graph.node.create_publisher(Trajectory, "trajectory", qos.PLAN_INPUT)
    try:
        robot.drive_until(lambda: robot.state_is(Status.IDLE, "no plan"), 30, "ready")
        now = bench.node.get_clock().now().nanoseconds
        message = Trajectory(header=robot.header(now, "odom"))
        for i in range(3):
            point = TrajectoryPoint()
            point.time_from_start.sec = i * 10
            point.pose.position.x = i * 0.5
            point.pose.orientation.w = 1.0
            message.points.append(point)
        publisher.publish(message)
        robot.drive_until(lambda: robot.frames, 20, "frames")
        assert to_ns(robot.frames[-1].time_from_start) >= 0
    finally:
        bench.close()


def test_best_effort_camera() -> None:
    bench = Bench(reliable=False, output__width=160, output__height=120)
    robot = bench.robot
    try:
        bench.until_imagining()
        assert not bench.node.camera.subscriptions["image"].reliable
    finally:
        bench.close()
    assert robot.frames
