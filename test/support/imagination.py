# SPDX-License-Identifier: Apache-2.0
"""A small robot for the tests of the imagination node: real publishers, real messages.

The scene is a checkered wall two metres ahead; the camera sits on the base.
"""

from __future__ import annotations

import contextlib
import itertools
import threading
from collections.abc import Callable

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from geometry_msgs.msg import PoseStamped, TransformStamped
from lifecycle_msgs.msg import State, Transition
from lifecycle_msgs.srv import ChangeState, GetState
from nav_msgs.msg import Path
from rcl_interfaces.msg import Log
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.parameter import Parameter
from sensor_msgs.msg import CameraInfo, Image
from std_msgs.msg import Header
from tf2_msgs.msg import TFMessage

# Loads torch, which must not happen in the node's thread while this one uses scipy: scipy looks
# at the half imported module.
import inspatio_ros.imagination.backends  # noqa: F401
from inspatio_ros.geometry import rigid
from inspatio_ros.geometry.camera import PinholeCamera
from inspatio_ros.msg import ImaginationStatus, ImaginedFrame
from inspatio_ros.ros import qos
from inspatio_ros.ros.convert import cameras, images
from inspatio_ros.ros.convert.paths import matrix_to_transform
from inspatio_ros.ros.convert.stamps import to_time
from inspatio_ros.ros.imagination_node import ImaginationNode
from support.ros import Graph

CAMERA = PinholeCamera(160, 120, 120.0, 120.0, 79.5, 59.5)
WALL = 2.0
FRAME = "camera_optical"


def wall_image(camera: PinholeCamera = CAMERA) -> np.ndarray:
    rays = camera.rays() * WALL
    squares = (np.floor(rays[..., 0] * 4) + np.floor(rays[..., 1] * 4)) % 2
    image = np.empty((camera.height, camera.width, 3), np.uint8)
    image[..., 0] = np.where(squares > 0, 200, 40)
    image[..., 1] = np.where(squares > 0, 60, 160)
    image[..., 2] = 90
    return image


def wall_depth(camera: PinholeCamera = CAMERA) -> np.ndarray:
    return np.full((camera.height, camera.width), WALL, np.float32)


class TestRobot:
    """Publishes what a robot with a camera publishes, one call an instant, as asked."""

    __test__ = False

    def __init__(self, graph: Graph, *, reliable: bool = True) -> None:
        self.graph = graph
        node = graph.node
        image = qos.profile(2, reliable=reliable)
        self.image = node.create_publisher(Image, "camera/image_rect", image)
        self.info = node.create_publisher(CameraInfo, "camera/camera_info", image)
        self.depth = node.create_publisher(Image, "depth/image_rect", image)
        self.depth_info = node.create_publisher(CameraInfo, "depth/camera_info", image)
        self.plan = node.create_publisher(Path, "plan", qos.PLAN_INPUT)
        self.tf = node.create_publisher(TFMessage, "/tf", qos.TF)
        self.tf_static = node.create_publisher(TFMessage, "/tf_static", qos.TF_STATIC)
        self.frames: list[ImaginedFrame] = []
        self.statuses: list[ImaginationStatus] = []
        node.create_subscription(ImaginedFrame, "imagination/frame", self.frames.append,
                                 qos.profile(200))
        node.create_subscription(ImaginationStatus, "imagination/status", self.statuses.append,
                                 qos.profile(50))
        self.now_ns = 1_000_000_000_000
        self.send_static()

    def header(self, stamp_ns: int | None = None, frame: str = FRAME) -> Header:
        return Header(stamp=to_time(self.now_ns if stamp_ns is None else stamp_ns),
                      frame_id=frame)

    def send_static(self) -> None:
        mount = TransformStamped(header=self.header(frame="base_link"), child_frame_id=FRAME,
                                 transform=matrix_to_transform(rigid.BODY_FROM_OPTICAL))
        self.tf_static.publish(TFMessage(transforms=[mount]))

    def send_tf(self, stamp_ns: int | None = None, parent: str = "odom",
                child: str = "base_link") -> None:
        self.tf.publish(TFMessage(transforms=[TransformStamped(
            header=self.header(stamp_ns, parent), child_frame_id=child,
            transform=matrix_to_transform(np.eye(4)))]))

    def send_infos(self, camera: PinholeCamera = CAMERA) -> None:
        info = cameras.to_info(camera, self.header())
        self.info.publish(info)
        self.depth_info.publish(info)

    def send_pair(self, camera: PinholeCamera = CAMERA) -> None:
        self.image.publish(images.from_array(wall_image(camera), "rgb8", self.header()))
        self.depth.publish(images.from_array(wall_depth(camera), "32FC1", self.header()))

    def tick(self, period: float = 0.05) -> None:
        """Everything of one instant, then time goes on."""
        self.now_ns += round(period * 1e9)
        self.send_tf()
        self.send_infos()
        self.send_pair()

    def path(self, count: int = 5, frame: str = "odom", step: float = 0.1) -> Path:
        path = Path(header=self.header(0, frame))
        for i in range(count):
            pose = PoseStamped(header=self.header(0, frame))
            pose.pose.position.x = i * step
            pose.pose.orientation.w = 1.0
            path.poses.append(pose)
        return path

    def drive_until(self, condition, timeout_s: float = 20.0, what: str = "the condition",
                    tick=None) -> None:
        """Publish instant after instant until the condition holds."""
        step = tick or self.tick

        def stepped() -> object:
            step()
            self.graph.executor.spin_once(timeout_sec=0.03)
            return condition()

        self.graph.spin_until(stepped, timeout_s, what)

    def plan_until(self, path: Path, condition: Callable[[], object], timeout_s: float = 20.0,
                   what: str = "the condition", tick: Callable[[], None] | None = None) -> None:
        """Drive with this plan until the condition holds.

        The plan is sent now and then: the first may come before the node's reader is known.
        """
        ticks = itertools.count()

        def planned() -> None:
            if next(ticks) % 40 == 0:
                self.plan.publish(path)
            (tick or self.tick)()

        self.drive_until(condition, timeout_s, what, planned)

    @property
    def status(self) -> ImaginationStatus | None:
        return self.statuses[-1] if self.statuses else None

    def state_is(self, state: int, text: str = "") -> bool:
        return self.status is not None and self.status.state == state and text in (
            self.status.detail)


class Bench:
    """The imagination node in a thread of its own, and a robot beside it, in one context."""

    def __init__(self, make: Callable[..., ImaginationNode] = ImaginationNode, *,
                 reliable: bool = True, **parameters: object) -> None:
        self.graph = Graph()
        # What is tested here is the node; the shipped model has a test of its own.
        parameters.setdefault("model__preset", "geometric")
        overrides = [Parameter(name.replace("__", "."), value=value)
                     for name, value in parameters.items()]
        self.node = make(context=self.graph.context, parameter_overrides=overrides)
        self.executor = SingleThreadedExecutor(context=self.graph.context)
        self.executor.add_node(self.node)
        self._ended = threading.Event()
        self.thread = threading.Thread(target=self._spin, name="imagination_executor")
        self.thread.start()
        self.robot = TestRobot(self.graph, reliable=reliable)
        self.diagnostics: dict[str, DiagnosticStatus] = {}
        self.logs: list[str] = []
        self.graph.node.create_subscription(
            DiagnosticArray, "/diagnostics", self._diagnostics, qos.DIAGNOSTICS)
        self.graph.node.create_subscription(
            Log, "/rosout", lambda m: self.logs.append(m.msg), qos.profile(100, latched=True))
        self.graph.spin_until(lambda: self.robot.statuses, 20, "the first status")

    def _spin(self) -> None:
        with contextlib.suppress(ExternalShutdownException):
            while not self._ended.is_set():
                self.executor.spin_once(timeout_sec=0.2)

    def _diagnostics(self, message: DiagnosticArray) -> None:
        for status in message.status:
            self.diagnostics[status.name.split(": ")[1]] = status

    def value(self, part: str, key: str) -> str:
        """A value of the newest diagnostics; empty when not there."""
        status = self.diagnostics.get(part)
        return next((v.value for v in status.values if v.key == key), "") if status else ""

    def message(self, part: str) -> str:
        """The sentence of the newest diagnostics; empty when not there."""
        status = self.diagnostics.get(part)
        return status.message if status else ""

    def change(self, transition: int) -> bool:
        """Ask for a lifecycle transition."""
        request = ChangeState.Request()
        request.transition.id = transition
        return bool(self.graph.call(ChangeState, "imagination/change_state", request).success)

    def state(self) -> int:
        """The lifecycle state."""
        answer = self.graph.call(GetState, "imagination/get_state", GetState.Request())
        return int(answer.current_state.id)

    def restart(self) -> None:
        """Begin anew: nothing seen, nothing wrong, no plan."""
        for needed, transition in (
                (State.PRIMARY_STATE_ACTIVE, Transition.TRANSITION_DEACTIVATE),
                (State.PRIMARY_STATE_INACTIVE, Transition.TRANSITION_CLEANUP)):
            if self.state() == needed:
                assert self.change(transition)
        assert self.change(Transition.TRANSITION_CONFIGURE)
        assert self.change(Transition.TRANSITION_ACTIVATE)
        self.graph.spin_until(lambda: self.robot.plan.get_subscription_count() == 1, 20,
                              "the node's new subscription")
        self.robot.send_static()
        self.robot.now_ns += 10_000_000_000
        self.robot.frames.clear()
        self.robot.statuses.clear()
        self.logs.clear()
        self.diagnostics.clear()

    def until_imagining(self) -> None:
        """Drive with a plan until frames come and all is well."""
        robot = self.robot
        start = len(robot.frames)
        robot.plan_until(
            robot.path(), lambda: len(robot.frames) > start + 3
            and robot.state_is(ImaginationStatus.IMAGINING), 30, "imagining again")

    def close(self) -> None:
        """End the node and leave the graph."""
        # An executor that is shut down while it prepares to wait trips over what is gone.
        self._ended.set()
        self.thread.join(10)
        self.executor.shutdown()
        self.node.release()
        self.node.destroy_node()
        self.graph.close()
