# SPDX-License-Identifier: Apache-2.0
"""The synthetic robot publishes a consistent drive, and each scripted fault when told to."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import yaml
from diagnostic_msgs.msg import DiagnosticArray
from nav_msgs.msg import Odometry, Path
from rclpy.parameter import Parameter
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from tf2_msgs.msg import TFMessage

from inspatio_ros.depth.stereo import StereoDepth, StereoOptions
from inspatio_ros.geometry import rigid
from inspatio_ros.geometry.camera import PinholeCamera
from inspatio_ros.ros import qos
from inspatio_ros.ros.convert import cameras, images
from inspatio_ros.ros.convert.paths import pose_to_matrix, transform_to_matrix
from inspatio_ros.ros.convert.stamps import to_ns
from inspatio_ros.ros.imagination_parameters import InputParameters
from inspatio_ros.ros.observations import ImageSet, ObservationDecoder
from inspatio_ros.ros.parameters import ParameterError, describe
from inspatio_ros.ros.synthetic_faults import FAULTS, HUGE_PLAN, FaultScript
from inspatio_ros.ros.synthetic_robot_node import SyntheticRobotNode, SyntheticRobotParameters
from inspatio_ros.ros.transforms import TransformTree
from inspatio_ros.worlds.room import room
from support.data import ROOT
from support.ros import Graph, graph, start_node

TOPICS: dict[str, type] = {
    "camera/image_rect": Image, "camera/camera_info": CameraInfo, "depth/image_rect": Image,
    "depth/camera_info": CameraInfo, "odom": Odometry, "plan": Path, "/tf": TFMessage}
SMALL = {"width": 96, "height": 64, "rate": 20.0, "plan_rate": 10.0}


class Robot:
    """The node under test and what it last published by topic."""

    def __init__(self, ros: Graph, values: dict[str, Any], extra: dict[str, type]) -> None:
        self.ros = ros
        self.node = SyntheticRobotNode(context=ros.context, parameter_overrides=[
            Parameter(name, value=value) for name, value in {**SMALL, **values}.items()])
        ros.add(self.node)
        self.got: dict[str, list[Any]] = {}
        for topic, kind in {**TOPICS, **extra}.items():
            self.listen(topic, kind)

    def listen(self, topic: str, kind: type) -> None:
        held = self.got.setdefault(topic, [])

        def keep(message: Any) -> None:
            held.append(message)
            del held[:-200]

        latched = topic == "/tf_static"
        self.ros.node.create_subscription(kind, topic, keep, qos.profile(50, latched=latched))

    def wait(self, topic: str, wanted: Callable[[Any], object] = lambda _: True,
             timeout_s: float = 20.0) -> Any:
        """The first message from now on for which `wanted` is true."""
        self.got[topic].clear()
        found: list[Any] = []

        def arrived() -> bool:
            found.extend(m for m in list(self.got[topic]) if wanted(m))
            return bool(found)

        self.ros.spin_until(arrived, timeout_s, f"a certain message on {topic}")
        return found[0]

    def wait_together(self) -> dict[str, Any]:
        """Image, info, depth and depth info of one stamp."""
        names = ("camera/image_rect", "camera/camera_info", "depth/image_rect",
                 "depth/camera_info")
        result: dict[str, Any] = {}

        def complete() -> bool:
            for image in reversed(self.got[names[0]]):
                same = {n: next((m for m in self.got[n] if m.header.stamp == image.header.stamp),
                                None) for n in names}
                if all(same.values()):
                    result.update(same)
                    return True
            return False

        self.ros.spin_until(complete, what="image, depth and infos of one stamp")
        return result

    def set_faults(self, *lines: str) -> None:
        (result,) = self.node.set_parameters([Parameter("faults", value=list(lines) or [""])])
        assert result.successful, result.reason

    def close(self) -> None:
        self.node.release()
        self.node.destroy_node()


def made(values: dict[str, Any] | None = None,
         extra: dict[str, type] | None = None) -> Iterator[Robot]:
    with graph() as ros:
        robot = Robot(ros, values or {}, extra or {})
        try:
            yield robot
        finally:
            robot.close()


@pytest.fixture(scope="module")
def shared() -> Iterator[Robot]:
    yield from made()


@pytest.fixture
def robot(shared: Robot) -> Iterator[Robot]:
    yield shared
    shared.set_faults()


@pytest.fixture
def own(request: pytest.FixtureRequest) -> Iterator[Robot]:
    yield from made(*request.param)


def test_image_depth_and_pose_are_of_one_world(robot: Robot) -> None:
    message = robot.wait_together()
    camera = cameras.to_camera(message["camera/camera_info"], "camera/camera_info")
    stamp_ns = to_ns(message["camera/image_rect"].header.stamp)
    elapsed = (stamp_ns - robot.node._start_ns) * 1e-9
    pose = robot.node.world_from_base(elapsed) @ robot.node.base_from_camera
    view = room().render(camera, pose, elapsed)
    np.testing.assert_array_equal(images.to_rgb(message["camera/image_rect"]), view.image)
    np.testing.assert_array_equal(images.to_depth(message["depth/image_rect"]), view.depth)
    assert message["camera/image_rect"].header.frame_id == "camera_optical"


def test_odometry_tf_and_plan_agree(robot: Robot) -> None:
    plan = robot.wait("plan")
    assert plan.header.frame_id == "odom"
    assert len(plan.poses) == 21
    end = plan.poses[4]
    later = robot.wait("odom", lambda m: to_ns(m.header.stamp) >= to_ns(end.header.stamp))
    gap_s = (to_ns(later.header.stamp) - to_ns(end.header.stamp)) * 1e-9
    distance = np.linalg.norm(pose_to_matrix(later.pose.pose)[:3, 3]
                              - pose_to_matrix(end.pose)[:3, 3])
    assert distance <= 0.4 * gap_s + 1e-3  # the robot comes by where its plan said
    same = robot.wait("/tf", lambda m: to_ns(m.transforms[0].header.stamp) >= to_ns(
        later.header.stamp))
    transform = same.transforms[0]
    assert (transform.header.frame_id, transform.child_frame_id) == ("odom", "base_link")
    assert transform_to_matrix(transform.transform)[2, 3] == pytest.approx(0.0)


def is_nan_plan(plan: Path) -> bool:
    return any(math.isnan(p.pose.position.x) for p in plan.poses)


FAULT_CHECKS: dict[str, tuple[str, Callable[[Any], object]]] = {
    "image_encoding": ("camera/image_rect", lambda m: m.encoding == "bayer_rggb8"),
    "image_padded": ("camera/image_rect", lambda m: m.step > m.width * 3
                     and images.to_rgb(m).std() > 5),
    "image_truncated": ("camera/image_rect", lambda m: len(m.data) < m.step * m.height),
    "info_uncalibrated": ("camera/camera_info", lambda m: not any(m.k)),
    "info_distorted": ("camera/camera_info", cameras.is_distorted),
    "info_size": ("camera/camera_info", lambda m: (m.width, m.height) == (48, 32)),
    "depth_nan": ("depth/image_rect", lambda m: np.isnan(images.to_depth(m)).all()),
    "depth_unit": ("depth/image_rect", lambda m: np.nanmedian(images.to_depth(m)) > 500),
    "depth_encoding": ("depth/image_rect", lambda m: m.encoding == "8UC1"),
    "depth_size": ("depth/image_rect", lambda m: m.height == 32),
    "depth_big_endian": ("depth/image_rect", lambda m: m.is_bigendian
                         and 0.5 < np.nanmedian(images.to_depth(m)) < 10),
    "plan_empty": ("plan", lambda m: len(m.poses) == 0),
    "plan_one_pose": ("plan", lambda m: len(m.poses) == 1),
    "plan_unstamped": ("plan", lambda m: all(to_ns(p.header.stamp) == 0 for p in m.poses)),
    "plan_nan": ("plan", is_nan_plan),
    "plan_not_unit": ("plan", lambda m: np.hypot(
        m.poses[0].pose.orientation.z, m.poses[0].pose.orientation.w) == pytest.approx(2.0)),
    "plan_zero_quaternion": ("plan", lambda m: m.poses[0].pose.orientation.w == 0.0
                             and m.poses[0].pose.orientation.z == 0.0),
    "plan_unknown_frame": ("plan", lambda m: m.header.frame_id == "nowhere"),
}
SILENCED = {"image_missing": "camera/image_rect", "info_missing": "camera/camera_info",
            "depth_missing": "depth/image_rect", "tf_missing": "/tf", "plan_missing": "plan"}
OTHER_TESTS = {"two_cameras", "right_missing", "tf_late", "time_jump", "plan_huge"}


def test_every_fault_is_tested() -> None:
    assert {*FAULT_CHECKS, *SILENCED, *OTHER_TESTS} == set(FAULTS)


@pytest.mark.parametrize("kind", FAULT_CHECKS)
def test_fault_shows_and_ends(robot: Robot, kind: str) -> None:
    topic, shows = FAULT_CHECKS[kind]
    robot.wait(topic, lambda m: not shows(m))
    robot.set_faults(kind)
    robot.wait(topic, shows)
    robot.set_faults()
    robot.wait(topic, lambda m: not shows(m))


@pytest.mark.parametrize("kind", SILENCED)
def test_silenced_topic_falls_silent_and_comes_back(robot: Robot, kind: str) -> None:
    topic = SILENCED[kind]
    robot.wait(topic)
    robot.set_faults(kind)
    robot.ros.spin_for(0.3)  # what is under way
    robot.got[topic].clear()
    robot.ros.spin_for(0.5)
    assert not robot.got[topic]
    robot.set_faults()
    robot.wait(topic)


def test_two_cameras_share_a_topic(robot: Robot) -> None:
    robot.set_faults("two_cameras")
    robot.wait("camera/image_rect", lambda m: m.header.frame_id == "other_camera_optical")
    robot.wait("camera/image_rect", lambda m: m.header.frame_id == "camera_optical")


def test_late_tf_keeps_its_stamp(robot: Robot) -> None:
    robot.set_faults("tf_late")
    robot.ros.spin_for(0.5)
    message = robot.wait("/tf")
    age = robot.node.now().stamp_ns - to_ns(message.transforms[0].header.stamp)
    assert age * 1e-9 >= 0.29


def test_time_jumps_back_once(robot: Robot) -> None:
    robot.wait("odom", lambda m: robot.node.now().world_time > 5.5, 30.0)
    before = to_ns(robot.wait("odom").header.stamp)
    robot.set_faults("time_jump")
    after = robot.wait("odom", lambda m: to_ns(m.header.stamp) < before - 3_000_000_000)
    first = to_ns(after.header.stamp)
    robot.ros.spin_for(0.4)
    stamps = [to_ns(m.header.stamp) for m in robot.got["odom"]]
    assert min(stamps[-5:]) > first  # it goes on from there, no second jump
    image = robot.wait("camera/image_rect")
    assert to_ns(image.header.stamp) < before


def test_huge_plan(robot: Robot) -> None:
    robot.set_faults("plan_huge")
    plan = robot.wait("plan", lambda m: len(m.poses) == HUGE_PLAN, 60.0)
    assert plan.header.frame_id == "odom"


@pytest.mark.parametrize("own", [({"faults": ["depth_missing 0.0 1.0"]},)], indirect=True)
def test_faults_keep_their_time(own: Robot) -> None:
    first = own.wait("depth/image_rect")
    begin_s = (to_ns(first.header.stamp) - own.node._start_ns) * 1e-9
    assert begin_s >= 1.0
    assert own.got["camera/image_rect"]


@pytest.mark.parametrize("own", [(
    {"separate_depth_camera": True, "depth_encoding": "16UC1"}, {"/tf_static": TFMessage},
)], indirect=True)
def test_separate_depth_camera_registers_by_its_tf(own: Robot) -> None:
    message = own.wait_together()
    assert message["depth/image_rect"].encoding == "16UC1"
    own.ros.spin_until(lambda: own.got["/tf_static"], what="static tf")
    links = {t.child_frame_id: t for t in own.got["/tf_static"][-1].transforms}
    link = links[message["depth/image_rect"].header.frame_id]
    assert link.header.frame_id == "camera_optical"
    assert message["depth/camera_info"].width == 64
    tree = TransformTree()
    for transform in links.values():
        tree.add(transform, static=True)
    topics = {s: s for s in ("image", "image_info", "depth", "depth_info")}
    stamp_ns = to_ns(message["camera/image_rect"].header.stamp)
    seen = ObservationDecoder(topics, tree.lookup).decode(ImageSet(
        stamp_ns, "camera_optical",
        {"image": message["camera/image_rect"], "depth": message["depth/image_rect"]},
        {"image": message["camera/camera_info"], "depth": message["depth/camera_info"]}, 0.0),
        np.eye(4), InputParameters())
    elapsed = (stamp_ns - own.node._start_ns) * 1e-9
    truth = room().render(seen.camera, own.node.world_from_base(elapsed)
                          @ own.node.base_from_camera, elapsed).depth
    known = seen.depth > 0
    assert known.mean() > 0.8
    assert np.median(np.abs(seen.depth - truth)[known] / truth[known]) < 0.01


@pytest.mark.parametrize("own", [(
    {"stereo_baseline": 0.1, "width": 160, "height": 96, "image_encoding": "mono8",
     "right_frame": "left"},
    {"right/image_rect": Image, "right/camera_info": CameraInfo, "/tf_static": TFMessage},
)], indirect=True)
def test_stereo_pair_gives_the_published_depth(own: Robot) -> None:
    message = own.wait_together()
    stamp = message["camera/image_rect"].header.stamp
    right = next((m for m in own.got["right/image_rect"] if m.header.stamp == stamp), None)
    assert right is not None or own.wait(
        "right/image_rect", lambda m: m.header.stamp == stamp) is not None
    right = right or own.got["right/image_rect"][-1]
    info = own.wait("right/camera_info")
    assert info.header.frame_id == "camera_optical"
    calibrations = [cameras.to_calibration(i, "") for i in (message["camera/camera_info"], info)]
    stereo = StereoDepth(*calibrations, StereoOptions(min_depth=0.6, max_depth=20.0),
                         rectified=True)
    depth = stereo.depth(images.to_array(message["camera/image_rect"]), images.to_array(right))
    truth = images.to_depth(message["depth/image_rect"])
    known = depth > 0
    assert known.mean() > 0.4
    assert np.median(np.abs(depth - truth)[known] / truth[known]) < 0.06
    own.set_faults("right_missing")
    own.ros.spin_for(0.3)
    own.got["right/image_rect"].clear()
    own.ros.spin_for(0.4)
    assert not own.got["right/image_rect"]


@pytest.mark.parametrize("own", [(
    {"publish_clock": True, "world": "street", "image_encoding": "bgr8"},
    {"/clock": Clock, "camera/image_rect/compressed": CompressedImage})], indirect=True)
def test_own_clock_and_jpeg(own: Robot) -> None:
    clock = own.wait("/clock")
    assert 1000 <= clock.clock.sec < 1060
    image = own.wait("camera/image_rect")
    assert image.encoding == "bgr8"
    assert 1000 <= image.header.stamp.sec < 1060
    jpeg = own.wait("camera/image_rect/compressed")
    same = next(m for m in own.got["camera/image_rect"] if m.header.stamp == jpeg.header.stamp)
    difference = images.decode_rgb(jpeg).astype(float) - images.to_rgb(same)
    assert np.abs(difference).mean() < 6


def test_diagnostics_name_the_faults(robot: Robot) -> None:
    if "/diagnostics" not in robot.got:
        robot.listen("/diagnostics", DiagnosticArray)
    robot.set_faults("depth_nan", "plan_nan")
    robot.wait("/diagnostics", lambda m: any(
        s.name == "synthetic_robot: drive" and "depth_nan, plan_nan" in s.message
        for s in m.status))


def test_fault_lines_are_checked(robot: Robot) -> None:
    for lines, message in ((["depth_man"], "did you mean 'depth_nan'"),
                           (["depth_nan 5 3"], "begin < end"), (["depth_nan x"], "in seconds"),
                           (["depth_nan 1 2 3"], "begin < end")):
        (result,) = robot.node.set_parameters([Parameter("faults", value=lines)])
        assert not result.successful
        assert message in result.reason
        with pytest.raises(ValueError, match=message):
            FaultScript(lines)
    with pytest.raises(ParameterError, match="no fault 'no_such"):
        SyntheticRobotNode(context=robot.ros.context,
                           parameter_overrides=[Parameter("faults", value=["no_such_thing 1"])])
    script = FaultScript(["depth_nan 1 2", "tf_late 1.5"])
    assert script.all_active(1.7) == ["depth_nan", "tf_late"]
    assert script.all_active(2.0) == ["tf_late"]
    with pytest.raises(KeyError):
        script.active("depth_man", 0.0)


def test_shipped_parameters_are_the_defaults() -> None:
    shipped = yaml.safe_load((ROOT / "config/synthetic_robot.yaml").read_text())
    values = shipped["/**"]["ros__parameters"]
    expected = {info.name: list(info.default) if isinstance(info.default, tuple) else info.default
                for info in describe(SyntheticRobotParameters)}
    assert values == expected


def test_camera_looks_forward(robot: Robot) -> None:
    forward = robot.node.base_from_camera @ np.array([0.0, 0.0, 1.0, 0.0])
    np.testing.assert_allclose(forward, [1.0, 0.0, 0.0, 0.0], atol=1e-12)
    assert isinstance(robot.node.values.camera, PinholeCamera)
    assert rigid.rotation_angle(robot.node.base_from_camera) > 1.0


def test_program_runs_and_ends_cleanly() -> None:
    with start_node("synthetic_robot", {"rate": 5.0}) as process, graph() as ros:
        seen: list[Image] = []
        ros.node.create_subscription(Image, "camera/image_rect", seen.append, qos.profile(1))
        ros.spin_until(lambda: seen, 60.0, "an image of the program")
        assert process.interrupt() == 0, process.output
