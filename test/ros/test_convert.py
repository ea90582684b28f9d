# SPDX-License-Identifier: Apache-2.0
"""Calibrations, paths, clouds, stamps and markers between messages and arrays."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from builtin_interfaces.msg import Time
from geometry_msgs.msg import PoseStamped
from hypothesis import given, settings
from hypothesis import strategies as st
from nav_msgs.msg import Path
from rclpy.serialization import serialize_message
from sensor_msgs.msg import CameraInfo
from std_msgs.msg import Header

from inspatio_ros.geometry import rigid
from inspatio_ros.geometry.camera import PinholeCamera
from inspatio_ros.ros.convert import cameras, clouds, markers, paths, stamps

CAMERA = PinholeCamera(640, 480, 500.0, 505.0, 321.5, 239.25)


def test_camera_info_there_and_back() -> None:
    info = cameras.to_info(CAMERA, Header(frame_id="cam"))
    assert cameras.to_camera(info, "camera/camera_info") == CAMERA
    assert not cameras.is_distorted(info)


def test_rectified_uses_p_not_k() -> None:
    info = cameras.to_info(CAMERA, Header())
    info.k = np.array([999.0, 0, 1, 0, 999.0, 1, 0, 0, 1])
    assert cameras.to_camera(info, "t") == CAMERA


def test_k_where_p_is_not_filled() -> None:
    info = cameras.to_info(CAMERA, Header())
    info.p = np.zeros(12)
    assert cameras.to_camera(info, "t") == CAMERA


def test_region_of_interest_then_binning() -> None:
    info = cameras.to_info(CAMERA, Header())
    info.roi.x_offset, info.roi.y_offset, info.roi.width, info.roi.height = 100, 50, 200, 100
    info.binning_x = info.binning_y = 2
    camera = cameras.to_camera(info, "t")
    assert camera.size == (100, 50)
    # A point seen at full-resolution pixel (160.5, 90.5) lies between the four merged pixels
    # (160..161, 90..91): binned pixel (30, 20) of the window.
    point = np.array([(160.5 - CAMERA.cx) / CAMERA.fx, (90.5 - CAMERA.cy) / CAMERA.fy, 1.0])
    np.testing.assert_allclose(camera.project(point)[0], [30.0, 20.0], atol=1e-9)


def test_uncalibrated_is_refused_by_name() -> None:
    info = CameraInfo(width=640, height=480)
    info.header.frame_id = "usb_cam"
    with pytest.raises(cameras.CameraInfoError, match="left/camera_info: camera 'usb_cam'") as e:
        cameras.to_camera(info, "left/camera_info")
    assert e.value.reason == "uncalibrated"


def test_distortion_and_rectifying_rotation_count() -> None:
    info = cameras.to_info(CAMERA, Header())
    info.d = [0.0, 0.0, 0.001, 0.0, 0.0]
    assert cameras.is_distorted(info)
    info.d = [0.0] * 5
    info.r = rigid.from_euler(0.0, 0.01, 0.0)[:3, :3].ravel()
    assert cameras.is_distorted(info)
    info.r = np.zeros(9)
    assert not cameras.is_distorted(info)


@given(st.integers(-(2**31) * 10**9, 2**31 * 10**9 - 1))
def test_stamps_there_and_back(stamp_ns: int) -> None:
    assert stamps.to_ns(stamps.to_time(stamp_ns)) == stamp_ns


def test_durations() -> None:
    assert stamps.to_ns(stamps.to_duration(1.25)) == 1_250_000_000
    assert stamps.to_ns(stamps.to_duration(0.9999999999)) == 1_000_000_000


def path_of(poses: list[list[float]], *, frame: str = "map", pose_frame: str | None = None,
            stamps_s: list[int] | None = None) -> Path:
    path = Path(header=Header(frame_id=frame, stamp=Time(sec=3)))
    for index, values in enumerate(poses):
        stamped = PoseStamped()
        stamped.header.frame_id = frame if pose_frame is None else pose_frame
        if stamps_s is not None:
            stamped.header.stamp.sec = stamps_s[index]
        p, q = stamped.pose.position, stamped.pose.orientation
        p.x, p.y, p.z, q.x, q.y, q.z, q.w = values
        path.poses.append(stamped)
    return path


UNIT = [0.0, 0.0, 0.0, 1.0]


@settings(max_examples=80, deadline=None)
@given(st.integers(0, 30), st.text(st.characters(min_codepoint=97, max_codepoint=122), min_size=1,
                                   max_size=11), st.booleans(), st.booleans())
def test_serialized_path_equals_rclpy(count: int, frame: str, own_frames: bool,
                                      stamped: bool) -> None:
    rng = np.random.default_rng(count)
    path = path_of(rng.normal(size=(count, 7)).tolist(), frame=frame,
                   pose_frame=None if own_frames else "",
                   stamps_s=list(range(5, 5 + count)) if stamped else None)
    data = bytes(serialize_message(path))
    fast = paths._read_cdr(data, 20)
    slow = paths.read_path(path, 20)
    assert fast is not None, "the fast way was not taken"
    assert (fast.frame_id, fast.stamp_ns, fast.normalized) == (
        slow.frame_id, slow.stamp_ns, slow.normalized)
    np.testing.assert_array_equal(fast.frame_from_pose, slow.frame_from_pose)
    assert (fast.stamps_ns is None) == (slow.stamps_ns is None)
    if fast.stamps_ns is not None:
        np.testing.assert_array_equal(fast.stamps_ns, slow.stamps_ns)


def test_serialized_path_of_mixed_frames_is_refused_like_any() -> None:
    path = path_of([[0, 0, 0, *UNIT]] * 3)
    path.poses[1].header.frame_id = "somewhere_else"
    with pytest.raises(paths.PathError, match="'map' has poses in \\['somewhere_else'\\]"):
        paths.read_serialized_path(bytes(serialize_message(path)), 100)


@given(st.binary(max_size=120))
def test_serialized_garbage_never_passes(data: bytes) -> None:
    try:
        read = paths._read_cdr(b"\x00\x01\x00\x00" + data, 10)
    except paths.PathError:
        return
    assert read is None or len(read.frame_from_pose) <= 10


def test_unstamped_path_has_no_stamps() -> None:
    read = paths.read_path(path_of([[0, 0, 0, *UNIT], [1, 0, 0, *UNIT]]), 10)
    assert read.stamps_ns is None
    assert read.stamp_ns == 3_000_000_000
    np.testing.assert_allclose(read.frame_from_pose[1, :3, 3], [1, 0, 0])


def test_quaternions_are_normalized_and_counted() -> None:
    read = paths.read_path(path_of([[0, 0, 0, 0, 0, 2.0, 2.0], [0, 0, 0, *UNIT]]), 10)
    assert read.normalized == 1
    np.testing.assert_allclose(read.frame_from_pose[0, :3, :3],
                               rigid.from_euler(0, 0, np.pi / 2)[:3, :3], atol=1e-12)


@pytest.mark.parametrize(("values", "words"), [
    ([0, float("nan"), 0, *UNIT], "pose 1 of the path is not finite"),
    ([0, 0, float("inf"), *UNIT], "pose 1 of the path is not finite"),
    ([0, 0, 0, 0, 0, 0, 0], "pose 1 of the path has the orientation \\(0, 0, 0, 0\\)")])
def test_bad_poses_are_named(values: list[float], words: str) -> None:
    with pytest.raises(paths.PathError, match=words):
        paths.read_path(path_of([[0, 0, 0, *UNIT], values]), 10)


def test_path_without_frame() -> None:
    with pytest.raises(paths.PathError, match="names no frame"):
        paths.read_path(path_of([[0, 0, 0, *UNIT]], frame=""), 10)


def test_long_path_is_thinned_with_its_ends() -> None:
    read = paths.read_path(path_of([[i, 0, 0, *UNIT] for i in range(1000)]), 50)
    assert len(read.frame_from_pose) == 50
    assert read.frame_from_pose[-1, 0, 3] == 999


def test_cloud_layout() -> None:
    points = np.array([[1, 2, 3], [np.nan, 0, 0], [4, 5, 6]], np.float32)
    rgb = np.array([[255, 0, 1], [9, 9, 9], [0, 128, 255]], np.uint8)
    cloud = clouds.to_cloud(points, rgb, Header())
    assert (cloud.width, cloud.height, cloud.point_step, cloud.is_dense) == (2, 1, 16, True)
    raw = np.frombuffer(cloud.data, np.dtype([("xyz", "<f4", 3), ("rgb", "<u4")]))
    np.testing.assert_array_equal(raw["xyz"], points[[0, 2]])
    assert raw["rgb"].tolist() == [0xFF0001, 0x0080FF]
    assert [f.name for f in cloud.fields] == ["x", "y", "z", "rgb"]


def test_empty_cloud() -> None:
    cloud = clouds.to_cloud(np.zeros((0, 3), np.float32), np.zeros((0, 3), np.uint8), Header())
    assert cloud.width == 0
    assert len(cloud.data) == 0


def test_frusta_open_along_the_view_and_tell_support() -> None:
    poses = np.tile(np.eye(4), (3, 1, 1))
    poses[:, 0, 3] = [0.0, 1.0, 2.0]
    array = markers.frusta(CAMERA, poses, [1.0, 0.0, float("nan")], Header(), size=0.2)
    assert array.markers[0].action == array.markers[0].DELETEALL
    green, red, gray = (m.color for m in array.markers[1:])
    assert green.g > green.r
    assert red.r > red.g
    assert gray.r == gray.g
    corners = np.array([[p.x, p.y, p.z] for p in array.markers[2].points])
    assert corners[:, 2].max() == pytest.approx(0.2)
    assert corners[:, 0].min() < 1.0 < corners[:, 0].max()


def test_frusta_are_bounded() -> None:
    poses = np.tile(np.eye(4), (1000, 1, 1))
    array = markers.frusta(CAMERA, poses, [0.5] * 1000, Header())
    assert len(array.markers) == markers.MAX_FRUSTA + 1


def test_trajectory_is_timed_by_its_points() -> None:
    """Fields as in nav_msgs/Trajectory, which this distribution may not have."""
    path = path_of([[0, 0, 0, *UNIT], [1, 0, 0, *UNIT], [2, 0, 0, *UNIT]])
    points = [SimpleNamespace(pose=stamped.pose, time_from_start=stamps.to_duration(0.5 * i))
              for i, stamped in enumerate(path.poses)]
    read = paths.trajectory_to_path_poses(SimpleNamespace(header=path.header, points=points))
    assert read.stamps_ns is not None
    assert read.stamps_ns.tolist() == [3_000_000_000, 3_500_000_000, 4_000_000_000]
    np.testing.assert_allclose(read.frame_from_pose[2, :3, 3], [2, 0, 0])
