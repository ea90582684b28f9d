# SPDX-License-Identifier: Apache-2.0
"""A hindsight node under test: a robot that drives through a room, and what imagines for it."""

from __future__ import annotations

import contextlib
import threading
from typing import Any

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from geometry_msgs.msg import PoseStamped, TransformStamped
from nav_msgs.msg import Path
from rcl_interfaces.msg import Log
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node
from rclpy.parameter import Parameter
from sensor_msgs.msg import CameraInfo, Image
from tf2_msgs.msg import TFMessage

from inspatio_ros.geometry import rigid
from inspatio_ros.geometry.camera import PinholeCamera
from inspatio_ros.geometry.trajectory import CameraTrajectory
from inspatio_ros.imagination.engine import ImaginationEngine
from inspatio_ros.imagination.filler import GeometricFiller
from inspatio_ros.imagination.request import ImaginationRequest
from inspatio_ros.imagination.request import ImaginedFrame as Imagined
from inspatio_ros.memory.world_memory import WorldMemory
from inspatio_ros.msg import ErrorCalibration, HindsightScore, ImaginedFrame
from inspatio_ros.ros import qos
from inspatio_ros.ros.convert import cameras, images
from inspatio_ros.ros.convert.paths import matrix_to_pose, matrix_to_transform
from inspatio_ros.ros.convert.stamps import to_duration, to_time
from inspatio_ros.ros.hindsight_node import HindsightNode
from inspatio_ros.sensing.observation import Observation, Provenance
from inspatio_ros.worlds.room import room
from support.imagination import FRAME, TestRobot
from support.ros import Graph

CAMERA = PinholeCamera(160, 96, 110.0, 110.0, 79.5, 47.5)
MOUNT = rigid.from_rotation(np.eye(3), (0.1, 0.0, 0.9)) @ rigid.BODY_FROM_OPTICAL
SPEED = 0.4
TICK = 0.1
# The room's loop is straight from here on for so many seconds, and turns before and after.
BEGIN, STRAIGHT = 9.0, 3.0


class DrivingRobot(TestRobot):
    """Drives through a room, or to and fro where its loop is `straight`.

    Poses may be wrong: mount_error, odometry_scale are what tf says.
    """

    __test__ = False

    def __init__(self, graph: Graph, *, mount_error: np.ndarray | None = None,
                 odometry_scale: float = 1.0, straight: bool = False) -> None:
        self.straight = straight
        self.world = room(0, moving=False)
        self.camera = CAMERA
        self.mount_error = np.eye(4) if mount_error is None else mount_error
        self.odometry_scale = odometry_scale
        self.seconds = BEGIN
        super().__init__(graph)

    def base(self, seconds: float) -> np.ndarray:
        if self.straight:
            along = (seconds - BEGIN) % (2 * STRAIGHT)
            seconds = BEGIN + min(along, 2 * STRAIGHT - along)
        return np.asarray(self.world.drive(SPEED, [seconds])[0])

    def told(self, seconds: float) -> np.ndarray:
        """Where odometry says that the base is."""
        base = self.base(seconds)
        base[:3, 3] *= self.odometry_scale
        return base

    def send_static(self) -> None:
        mount = TransformStamped(header=self.header(frame="base_link"), child_frame_id=FRAME,
                                 transform=matrix_to_transform(MOUNT @ self.mount_error))
        self.tf_static.publish(TFMessage(transforms=[mount]))

    def send_base(self) -> None:
        self.tf.publish(TFMessage(transforms=[TransformStamped(
            header=self.header(frame="odom"), child_frame_id="base_link",
            transform=matrix_to_transform(self.told(self.seconds)))]))

    def view(self) -> Any:
        return self.world.render(self.camera, self.base(self.seconds) @ MOUNT, self.seconds)

    def tick(self, period: float = TICK) -> None:
        self.now_ns += round(period * 1e9)
        self.seconds += period
        self.send_base()
        self.send_infos(self.camera)
        view = self.view()
        self.image.publish(images.from_array(view.image, "rgb8", self.header()))
        self.depth.publish(images.from_array(view.depth, "32FC1", self.header()))

    def path_ahead(self, horizon: float = 1.5) -> Path:
        """Where the base will be, as odometry will tell it; without stamps."""
        path = Path(header=self.header(0, "odom"))
        for ahead in np.arange(0.0, horizon + 1e-6, TICK):
            path.poses.append(PoseStamped(header=self.header(0, "odom"), pose=matrix_to_pose(
                self.told(self.seconds + ahead))))
        return path


class FakeImagination:
    """Publishes imagined frames as the imagination node does, with any content."""

    def __init__(self, node: Node) -> None:
        self.frame = node.create_publisher(ImaginedFrame, "imagination/frame", qos.STATE_OUTPUT)
        self.info = node.create_publisher(CameraInfo, "imagination/camera_info", qos.IMAGE_OUTPUT)
        self.pictures = {name: node.create_publisher(Image, f"imagination/{name}",
                                                     qos.IMAGE_OUTPUT)
                         for name in ("image", "depth", "provenance")}

    @property
    def connected(self) -> bool:
        return all(p.get_subscription_count() for p in (
            self.frame, self.info, *self.pictures.values()))

    def send(self, robot: DrivingRobot, ahead: float, *, world: str = "odom",
             wrong: bool = False, camera: PinholeCamera = CAMERA, labels: int | None = None,
             source_seconds: float | None = None, imagined: Imagined | None = None) -> int:
        """The perfect view `ahead` seconds later (noise where `wrong`), or `imagined`; its stamp.
        """
        seconds = (robot.seconds if source_seconds is None else source_seconds) + ahead
        view = robot.world.render(camera, robot.base(seconds) @ MOUNT, seconds)
        image = view.image
        if wrong:
            image = np.random.default_rng(0).integers(0, 255, image.shape).astype(np.uint8)
        header = robot.header(robot.now_ns + round(ahead * 1e9), "imagined_camera_optical")
        provenance = np.full(image.shape[:2], Provenance.MEMORY if labels is None else labels,
                             np.uint8)
        depth = view.depth
        if imagined is not None:
            image, depth, provenance = imagined.image, imagined.depth, imagined.provenance
        message = ImaginedFrame(
            header=header, source_stamp=to_time(robot.now_ns), time_from_start=to_duration(ahead),
            memory_ratio=1.0, expected_error=float("nan"))
        message.camera_pose.header = robot.header(frame=world)
        message.camera_pose.pose = matrix_to_pose(robot.told(seconds) @ MOUNT @ robot.mount_error)
        self.info.publish(cameras.to_info(camera, header))
        self.pictures["image"].publish(images.from_array(image, "rgb8", header))
        self.pictures["depth"].publish(images.from_array(depth, "32FC1", header))
        self.pictures["provenance"].publish(images.from_array(provenance, "mono8", header))
        self.frame.publish(message)
        return robot.now_ns + round(ahead * 1e9)


class SteppedImagination:
    """Imagines from what tf says, as the imagination node does, but in step with the robot."""

    def __init__(self, fake: FakeImagination, robot: DrivingRobot, ahead: float) -> None:
        self._fake, self._robot, self._ahead = fake, robot, ahead
        self._memory = WorldMemory()
        self._engine = ImaginationEngine(GeometricFiller())

    def step(self) -> None:
        """Fuse what the camera saw last and send the view `ahead` seconds later."""
        robot = self._robot
        view = robot.view()
        seen = Observation(robot.now_ns, view.image, view.depth, CAMERA, self._pose(0.0))
        self._memory.integrate(seen)
        way = CameraTrajectory(self._pose(self._ahead)[None], np.array([self._ahead]))
        request = ImaginationRequest(CAMERA, way, (seen,))
        block = next(iter(self._engine.imagine(request, self._memory)))
        self._fake.send(robot, self._ahead, imagined=block.frames[0])

    def _pose(self, ahead: float) -> np.ndarray:
        robot = self._robot
        return robot.told(robot.seconds + ahead) @ MOUNT @ robot.mount_error


class Spun:
    """A node in a thread of its own."""

    def __init__(self, node: Any) -> None:
        self.node = node
        self._executor = SingleThreadedExecutor(context=node.context)
        self._executor.add_node(node)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._spin)
        self._thread.start()

    def _spin(self) -> None:
        with contextlib.suppress(ExternalShutdownException):
            while not self._ended.is_set():
                self._executor.spin_once(timeout_sec=0.2)

    def close(self) -> None:
        # An executor that is shut down while it prepares to wait trips over what is gone.
        self._ended.set()
        self._thread.join(10)
        self._executor.shutdown()
        self.node.release()
        self.node.destroy_node()


class HindsightBench:
    """A hindsight node in a thread of its own, and beside it a robot, in one context."""

    def __init__(self, *, robot: dict[str, Any] | None = None, **parameters: object) -> None:
        self.graph = Graph()
        self.spun: list[Spun] = []
        self.node: HindsightNode = self.add(HindsightNode, **parameters)
        self.robot = DrivingRobot(self.graph, **(robot or {}))
        self.scores: list[HindsightScore] = []
        self.calibrations: list[ErrorCalibration] = []
        self.diagnostics: dict[str, DiagnosticStatus] = {}
        self.logs: list[str] = []
        node = self.graph.node
        node.create_subscription(HindsightScore, "hindsight/score", self.scores.append,
                                 qos.profile(200))
        node.create_subscription(ErrorCalibration, "hindsight/calibration",
                                 self.calibrations.append, qos.LATCHED)
        node.create_subscription(DiagnosticArray, "/diagnostics", self._diagnostics,
                                 qos.DIAGNOSTICS)
        node.create_subscription(Log, "/rosout", lambda m: self.logs.append(m.msg),
                                 qos.profile(100, latched=True))
        self.graph.spin_until(lambda: self.robot.image.get_subscription_count() and self.level(
            "input") is not None, 20, "the node's subscriptions")

    def add(self, make: Any, **parameters: object) -> Any:
        """Another node, spun beside."""
        overrides = [Parameter(name.replace("__", "."), value=value)
                     for name, value in parameters.items()]
        node = make(context=self.graph.context, parameter_overrides=overrides)
        self.spun.append(Spun(node))
        return node

    def fake(self) -> FakeImagination:
        """What imagines in place of the imagination node, once the node listens to it."""
        made = FakeImagination(self.graph.node)
        self.graph.spin_until(lambda: made.connected, 20, "the node's subscriptions")
        # Made anew when the publishers' offer is seen; what is sent meanwhile is lost.
        self.graph.spin_until(lambda: all(
            s.reliable for s in self.node._imagined.subscriptions.values()), 20, "reliable ones")
        return made

    def _diagnostics(self, message: DiagnosticArray) -> None:
        for status in message.status:
            name, part = status.name.split(": ")
            if name == "hindsight":
                self.diagnostics[part] = status

    def level(self, part: str) -> bytes | None:
        """The level of the newest diagnostics; None before."""
        status = self.diagnostics.get(part)
        return status.level if status else None

    def message(self, part: str) -> str:
        """Its sentence."""
        status = self.diagnostics.get(part)
        return status.message if status else ""

    def value(self, part: str, key: str) -> str:
        """One of its values."""
        status = self.diagnostics.get(part)
        return next((v.value for v in status.values if v.key == key), "") if status else ""

    def close(self) -> None:
        """End the nodes and leave the graph."""
        for spun in reversed(self.spun):
            spun.close()
        self.graph.close()
