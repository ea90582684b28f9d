# SPDX-License-Identifier: Apache-2.0
"""The depth node turns a robot's stereo pair into its true depth, whatever goes wrong."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import yaml
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from lifecycle_msgs.msg import State, Transition
from lifecycle_msgs.srv import ChangeState, GetState
from rclpy.parameter import Parameter
from sensor_msgs.msg import CameraInfo, Image

from inspatio_ros.depth.rectification import Rectifier
from inspatio_ros.ros import qos
from inspatio_ros.ros.convert import cameras, images
from inspatio_ros.ros.convert.stamps import to_ns
from inspatio_ros.ros.depth_node import DepthNode, DepthParameters
from inspatio_ros.ros.parameters import ParameterError, describe
from inspatio_ros.ros.synthetic_robot_node import SyntheticRobotNode
from support.data import ROOT
from support.ros import Graph, graph, start_node

ROBOT = {"world": "room", "width": 200, "height": 120, "rate": 8.0, "stereo_baseline": 0.2,
         "plan_rate": 0.0}
DEPTH = {"stereo.min_depth": 0.6, "stereo.max_depth": 20.0, "stereo.scale": 1.0,
         "input.timeout": 0.7}
REMAPS = {"camera/image_rect": "left/image_rect", "camera/camera_info": "left/camera_info",
          "camera/image_rect/compressed": "left/image_rect/compressed",
          "depth/image_rect": "truth/image_rect", "depth/camera_info": "truth/camera_info"}


def overrides(values: dict[str, Any]) -> list[Parameter]:
    return [Parameter(name, value=value) for name, value in values.items()]


class Setting:
    """A robot, the depth node and what both last published."""

    def __init__(self, ros: Graph, robot: dict[str, Any], depth: dict[str, Any]) -> None:
        self.ros = ros
        words = ["--ros-args", *(w for a, b in REMAPS.items() for w in ("-r", f"{a}:={b}"))]
        self.robot = SyntheticRobotNode(
            context=ros.context, cli_args=words, parameter_overrides=overrides({**ROBOT, **robot}))
        self.node = DepthNode(context=ros.context,
                              parameter_overrides=overrides({**DEPTH, **depth}))
        self.got: dict[str, list[Any]] = {}
        for topic, kind in (("depth/image_rect", Image), ("depth/camera_info", CameraInfo),
                            ("truth/image_rect", Image), ("/diagnostics", DiagnosticArray)):
            self.listen(topic, kind)
        ros.add(self.robot)
        ros.add(self.node)

    def listen(self, topic: str, kind: type) -> None:
        held = self.got.setdefault(topic, [])

        def keep(message: Any) -> None:
            held.append(message)
            del held[:-100]

        self.ros.node.create_subscription(kind, topic, keep, qos.profile(10))

    def wait(self, topic: str, wanted: Callable[[Any], object] = lambda _: True,
             timeout_s: float = 20.0, what: str = "") -> Any:
        """The first message from now on for which `wanted` is true."""
        self.got[topic].clear()
        found: list[Any] = []

        def arrived() -> bool:
            found.extend(m for m in list(self.got[topic]) if wanted(m))
            return bool(found)

        self.ros.spin_until(arrived, timeout_s, what or f"a certain message on {topic}")
        return found[0]

    def wait_for_status(self, part: str, level: bytes, text: str) -> DiagnosticStatus:
        """The node's diagnostic of this part, level and text."""
        def matching(array: DiagnosticArray) -> list[DiagnosticStatus]:
            return [s for s in array.status if s.name == f"depth: {part}" and s.level == level
                    and text in s.message]

        return matching(self.wait("/diagnostics", matching, what=f"'{text}' in diagnostics"))[0]

    def set_faults(self, *lines: str) -> None:
        (result,) = self.robot.set_parameters([Parameter("faults", value=list(lines) or [""])])
        assert result.successful, result.reason

    def together(self) -> tuple[Image, CameraInfo, Image]:
        """Depth, its camera_info and the true depth of one stamp."""
        found: list[tuple[Image, CameraInfo, Image]] = []

        def arrived() -> bool:
            for depth in self.got["depth/image_rect"]:
                for info in self.got["depth/camera_info"]:
                    for truth in self.got["truth/image_rect"]:
                        if depth.header.stamp == info.header.stamp == truth.header.stamp:
                            found.append((depth, info, truth))
            return bool(found)

        self.ros.spin_until(arrived, 30.0, "depth, info and truth of one stamp")
        return found[-1]

    def close(self) -> None:
        self.node.release()
        self.robot.release()
        self.node.destroy_node()
        self.robot.destroy_node()


def made(robot: dict[str, Any] | None = None,
         depth: dict[str, Any] | None = None) -> Iterator[Setting]:
    with graph() as ros:
        setting = Setting(ros, robot or {}, depth or {})
        try:
            yield setting
        finally:
            setting.close()


@pytest.fixture(scope="module")
def shared() -> Iterator[Setting]:
    yield from made()


@pytest.fixture
def setting(shared: Setting) -> Iterator[Setting]:
    yield shared
    shared.set_faults()


@pytest.fixture
def own(request: pytest.FixtureRequest) -> Iterator[Setting]:
    yield from made(*request.param)


def assert_true_depth(message: Image, truth: Image) -> None:
    depth, true_depth = images.to_depth(message), images.to_depth(truth)
    known = depth > 0
    assert known.mean() > 0.4
    assert np.median(np.abs(depth - true_depth)[known] / true_depth[known]) < 0.05


def test_depth_is_the_true_depth_with_the_left_header(setting: Setting) -> None:
    message, info, truth = setting.together()
    assert message.encoding == "32FC1"
    assert message.header.frame_id == info.header.frame_id == "camera_optical"
    camera = cameras.to_camera(info, "depth/camera_info")
    assert camera.agrees_with(setting.robot.values.camera, 0.01)
    assert_true_depth(message, truth)
    # Problems of the first moments fade after three seconds.
    status = setting.wait_for_status("input", DiagnosticStatus.OK, "pairs arrive")
    assert float({v.key: v.value for v in status.values}["pairs_hz"]) > 1


@pytest.mark.parametrize("own", [
    ({"right_frame": "own"},),
    ({"image_encoding": "mono8"}, {"stereo.scale": 0.75}),
    ({"image_encoding": "bgra8", "publish_clock": True}, {"use_sim_time": True}),
], indirect=True, ids=["right frame in tf", "mono8, scaled", "bgra8, sim time"])
def test_other_pairs_work_alike(own: Setting) -> None:
    message, _, truth = own.together()
    assert_true_depth(message, truth)


@pytest.mark.parametrize("own", [({}, {"input.rectify": True})], indirect=True)
def test_raw_pair_is_rectified_here(own: Setting) -> None:
    own.set_faults("info_distorted")
    for topic, kind in (("left_rectified/image_rect", Image), ("left/image_rect", Image),
                        ("left/camera_info", CameraInfo)):
        own.listen(topic, kind)
    distorted = own.wait("left/camera_info", cameras.is_distorted)
    rectifier = Rectifier(cameras.to_calibration(distorted, ""))
    left = own.wait("left_rectified/image_rect",
                    lambda m: to_ns(m.header.stamp) > to_ns(distorted.header.stamp))
    raw = next(m for m in own.got["left/image_rect"] if m.header.stamp == left.header.stamp)
    expected = rectifier(images.to_rgb(raw))
    np.testing.assert_array_equal(images.to_rgb(left), expected)
    assert np.abs(expected.astype(float) - images.to_rgb(raw)).mean() > 3
    info = own.wait("depth/camera_info")
    assert not cameras.is_distorted(info)
    assert cameras.to_camera(info, "") == rectifier.camera


@pytest.mark.parametrize(("fault", "reason"), [
    ("info_distorted", "left/camera_info: camera 'camera_optical' has lens distortion; rectify it "
     "with image_proc and set input.already_rectified, or set input.rectify"),
    ("info_uncalibrated", "left/camera_info: camera 'camera_optical' is not calibrated"),
    ("info_size", "left/image_rect is 200x120 but /left/camera_info says 100x60"),
    ("image_encoding", "left/image_rect: encoding 'bayer_rggb8' is not one of rgb8"),
    ("image_truncated", "left/image_rect: 200x120 rgb8 with step 600 needs"),
    ("two_cameras", "two cameras share one topic"),
    ("right_missing", "right/image_rect: nothing for"),
    ("image_missing", "left/image_rect: nothing for"),
])
def test_bad_input_is_named_and_survived(setting: Setting, fault: str, reason: str) -> None:
    setting.wait("depth/image_rect")
    setting.set_faults(fault)
    setting.wait_for_status("input", DiagnosticStatus.WARN, reason)
    setting.set_faults()
    depth = setting.wait("depth/image_rect")
    assert np.nanmedian(images.to_depth(depth)) > 0.5


def test_padded_rows_are_read(setting: Setting) -> None:
    setting.set_faults("image_padded")
    setting.ros.spin_for(0.5)
    setting.got["depth/image_rect"].clear()
    setting.got["truth/image_rect"].clear()
    message, _, truth = setting.together()
    assert_true_depth(message, truth)


def test_time_jump_is_survived(setting: Setting) -> None:
    setting.ros.spin_until(lambda: setting.robot.now().world_time > 5.5, 30.0, "5.5 s of drive")
    before = to_ns(setting.wait("depth/image_rect").header.stamp)
    setting.set_faults("time_jump")
    after = setting.wait("depth/image_rect", lambda m: to_ns(m.header.stamp) < before)
    assert np.isfinite(images.to_depth(after)).mean() > 0.3


@pytest.mark.parametrize("own", [
    ({"right_frame": "own", "faults": ["tf_missing"]}, {"autostart": False})], indirect=True)
def test_lifecycle(own: Setting) -> None:
    def state() -> int:
        return own.ros.call(GetState, "/depth/get_state", GetState.Request()).current_state.id

    def change(transition: int) -> None:
        request = ChangeState.Request()
        request.transition.id = transition
        assert own.ros.call(ChangeState, "/depth/change_state", request).success

    assert state() == State.PRIMARY_STATE_UNCONFIGURED
    own.wait_for_status("input", DiagnosticStatus.STALE, "not active")
    for _ in range(2):
        change(Transition.TRANSITION_CONFIGURE)
        change(Transition.TRANSITION_ACTIVATE)
        own.wait("depth/image_rect")
        change(Transition.TRANSITION_DEACTIVATE)
        own.ros.spin_for(0.3)
        own.got["depth/image_rect"].clear()
        own.ros.spin_for(0.5)
        assert not own.got["depth/image_rect"]
        change(Transition.TRANSITION_CLEANUP)
        assert state() == State.PRIMARY_STATE_UNCONFIGURED


@pytest.mark.parametrize(("values", "message"), [
    ({"stereo.blocksize": 5}, "did you mean 'stereo.block_size'"),
    ({"stereo.block_size": 4}, "not odd"),
    ({"stereo.min_depth": 90.0}, "is empty"),
    ({"stereo.scale": 1.5}, "stereo.scale: 1.5 is outside"),
    ({"input.rectify": True, "input.already_rectified": True}, "exclude each other"),
])
def test_bad_parameters_are_refused(setting: Setting, values: dict[str, Any],
                                    message: str) -> None:
    with pytest.raises(ParameterError, match=message):
        DepthNode("other", context=setting.ros.context, parameter_overrides=overrides(values))


def test_shipped_parameters_are_the_defaults() -> None:
    shipped = yaml.safe_load((ROOT / "config/depth.yaml").read_text())["/**"]["ros__parameters"]

    def flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key, value in values.items():
            found |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {
                f"{prefix}{key}": value}
        return found

    assert flat(shipped) == {info.name: info.default for info in describe(DepthParameters)}


def test_program_says_what_it_waits_for_and_ends_cleanly() -> None:
    remaps = {"left/image_rect": "nobody/image"}
    with start_node("depth", remaps=remaps) as process, graph() as ros:
        seen: list[str] = []

        def keep(message: DiagnosticArray) -> None:
            seen.extend(status.message for status in message.status)

        ros.node.create_subscription(DiagnosticArray, "/diagnostics", keep, 10)
        ros.spin_until(lambda: any("waiting for /nobody/image: nobody publishes it" in s
                                   for s in seen), 60.0, "the input it waits for")
        assert process.interrupt() == 0, process.output
