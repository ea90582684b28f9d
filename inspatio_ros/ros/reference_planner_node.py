# SPDX-License-Identifier: Apache-2.0
"""The node `reference_planner`: drives `imagined_camera` along its route by what it sees.

Pure pursuit with candidates scored against the memory of what was seen; small, so that a closed
loop runs by itself and one's own planner has something to be compared with.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from geometry_msgs.msg import Twist, TwistStamped
from nav_msgs.msg import Odometry, Path
from sensor_msgs.msg import CameraInfo, Image

from inspatio_ros.messages.cameras import CameraInfoError, to_camera
from inspatio_ros.messages.images import ImageError
from inspatio_ros.planning.closed_loop import End, LoopOptions, Tick
from inspatio_ros.planning.footprint import Footprint
from inspatio_ros.planning.pursuit import PursuitOptions, PursuitPlanner, reference_scorer
from inspatio_ros.planning.route import Route
from inspatio_ros.planning.scenery import Seen
from inspatio_ros.planning.vehicles import Command, Unicycle, VehicleLimits, VehicleState
from inspatio_ros.ros import qos
from inspatio_ros.ros.convert import images
from inspatio_ros.ros.convert.paths import PathError, pose_to_matrix, read_path
from inspatio_ros.ros.convert.stamps import to_ns
from inspatio_ros.ros.diagnostics import OK, WARN, RateMeter, Report
from inspatio_ros.ros.node_base import PlainNode, run
from inspatio_ros.ros.parameters import param
from inspatio_ros.ros.transforms import TransformListener, TransformTree, TransformUnavailable
from inspatio_ros.runtime.latest import LatestSlot
from inspatio_ros.runtime.worker import Worker
from inspatio_ros.sensing.gating import BackwardJumpDetector
from inspatio_ros.sensing.matching import StampMatcher
from inspatio_ros.sensing.observation import Provenance

_ROUTE_POSES = 20_000
# A route whose ends lie so near, m, and that is longer than the second, is driven round and round.
_CLOSED_WITHIN, _CLOSED_LENGTH = 1.0, 5.0
_STREAMS = ("image", "depth", "odom")


@dataclass(frozen=True)
class ReferencePlannerParameters:
    """How the reference planner drives."""

    scored: bool = param(True, "Choose among candidates by their scores; false: follow the route "
                         "whatever comes")
    target_speed: float = param(1.5, "On a free way", unit="m/s", minimum=0.05, maximum=30.0)
    length: float = param(0.8, "Of the robot, its base in the middle", unit="m", minimum=0.05,
                          maximum=30.0)
    robot_width: float = param(0.56, "Of the robot", unit="m", minimum=0.05, maximum=10.0)
    margin: float = param(0.08, "Kept free on every side", unit="m", minimum=0.0, maximum=5.0)
    ground: float = param(0.0, "Height (z) of the ground below the base's origin", unit="m",
                          minimum=-10.0, maximum=10.0)
    max_yaw_rate: float = param(0.95, "Of the robot", unit="rad/s", minimum=0.05, maximum=10.0)
    command: str = param("twist_stamped", "Type of cmd_vel", choices=("twist_stamped", "twist"))


@dataclass(frozen=True, eq=False)
class _Moment:
    """Messages of one stamp."""

    stamp_ns: int
    image: Image
    depth: Image
    odom: Odometry


class ReferencePlannerNode(PlainNode[ReferencePlannerParameters]):
    """Image, depth, odometry and a route in; commands out. One worker plans."""

    parameters_type = ReferencePlannerParameters

    def __init__(self, **options: Any) -> None:
        super().__init__("reference_planner", **options)
        values = self.values
        half_length, half_width = values.length / 2, values.robot_width / 2
        self._loop = LoopOptions(
            target_speed=values.target_speed, footprint=Footprint(
                front=half_length, rear=half_length, left=half_width, right=half_width,
                ground=values.ground))
        self._vehicle = Unicycle(VehicleLimits(
            max_speed=max(values.target_speed, 0.1), max_yaw_rate=values.max_yaw_rate))
        self._planner: PursuitPlanner | None = None
        self._route: Route | None = None
        self._station: float | None = None
        self._info: CameraInfo | None = None
        self._jump = BackwardJumpDetector()
        self._matcher: StampMatcher[Any] = StampMatcher(_STREAMS, 0)
        self._tree = TransformTree()
        self._listener = TransformListener(self, self._tree)
        self._moments: LatestSlot[_Moment] = LatestSlot()
        self._routes: LatestSlot[Route] = LatestSlot()
        self.rate = RateMeter()
        self._problem = "waiting for image, depth, odometry and route"
        self._twist_type = TwistStamped if values.command == "twist_stamped" else Twist
        self._commands = self.create_publisher(self._twist_type, "cmd_vel", qos.profile(1))
        for kind, topic, stream in ((Image, "camera/image_rect", "image"),
                                    (Image, "depth/image_rect", "depth"),
                                    (Odometry, "odom", "odom")):
            self.create_subscription(
                kind, topic, lambda m, stream=stream: self._on_stream(stream, m), qos.profile(2))
        self.create_subscription(CameraInfo, "camera/camera_info", self._on_info, qos.profile(2))
        self.create_subscription(Path, "route", self._on_route, qos.LATCHED)
        self.diagnostics.add("planner", self._report)
        self._worker = Worker(self._work, self._on_worker_error, name="reference_planner")
        self._worker.start()

    def release(self) -> None:
        """Stop planning."""
        self._moments.close()
        self._worker.stop(5.0)

    # Subscriptions: store only.

    def _on_stream(self, stream: str, message: Any) -> None:
        stamp_ns = to_ns(message.header.stamp)
        if stream == "image" and self._jump.jumped(stamp_ns):
            self.get_logger().info("time jumped back: everything seen is forgotten")
            self._matcher.clear()
            self._planner = None
        matched = self._matcher.add(stream, stamp_ns, message)
        if matched is not None:
            self._moments.put(_Moment(stamp_ns, **matched))
            self._worker.wake()

    def _on_info(self, message: CameraInfo) -> None:
        self._info = message

    def _on_route(self, message: Path) -> None:
        try:
            places = read_path(message, _ROUTE_POSES).frame_from_pose[:, :2, 3]
            route = Route(places)
            if (np.linalg.norm(places[-1] - places[0]) < _CLOSED_WITHIN
                    and route.length > _CLOSED_LENGTH):
                route = Route(places, closed=True)
        except (PathError, ValueError) as error:
            self.drops.count("route_refused")
            self._problem = f"route refused: {error}"
            self.get_logger().warning(self._problem)
            return
        self._routes.put(route)

    # The worker.

    def _work(self) -> bool:
        moment = self._moments.take()
        if moment is None:
            return False
        newest = self._routes.take()
        if newest is not None:
            self._route, self._planner = newest, None
        if self._route is None or self._info is None:
            self._problem = "waiting for " + ("a route" if self._route is None else "camera_info")
            return True
        try:
            tick = self._tick(moment, self._route, self._info)
        except (ImageError, CameraInfoError, TransformUnavailable, ValueError) as error:
            self.drops.count("input_refused")
            self._problem = str(error)
            return True
        planner = self._planner
        if planner is None:
            planner = self._planner = PursuitPlanner(
                self._route, self._vehicle, self._loop,
                reference_scorer(self._loop, margin=self.values.margin)
                if self.values.scored else None,
                PursuitOptions(target_speed=self.values.target_speed))
        self._problem = ""
        self._publish(planner.command(tick), moment)
        self.rate.tick()
        return True

    def _tick(self, moment: _Moment, route: Route, info: CameraInfo) -> Tick:
        """The messages as the planner sees a closed loop."""
        odometry = moment.odom
        base_from_camera = self._tree.lookup(
            odometry.child_frame_id, moment.image.header.frame_id, moment.stamp_ns)
        self._loop = replace(self._loop, camera=to_camera(info, "camera/camera_info"),
                             base_from_camera=base_from_camera)
        if self._planner is not None:
            self._planner.look_through(self._loop)
        world_from_base = pose_to_matrix(odometry.pose.pose)
        twist = odometry.twist.twist
        state = VehicleState(
            float(world_from_base[0, 3]), float(world_from_base[1, 3]),
            math.atan2(world_from_base[1, 0], world_from_base[0, 0]), twist.linear.x,
            twist.angular.z)
        near = self._station if self._planner is not None else None
        self._station, _ = route.locate(state.x, state.y, near)
        rgb = images.to_rgb(moment.image)
        depth: npt.NDArray[Any] = images.to_depth(moment.depth)
        seen = Seen(rgb, depth.astype(np.float32), np.full(
            depth.shape, Provenance.OBSERVED, np.uint8), 1.0)
        return Tick(0, moment.stamp_ns * 1e-9, state, world_from_base,
                    world_from_base @ base_from_camera, seen, self._station, End.RUNNING)

    def _publish(self, command: Command, moment: _Moment) -> None:
        twist = Twist()
        twist.linear.x, twist.angular.z = float(command.speed), float(command.yaw_rate)
        if self._twist_type is Twist:
            self.safe_publish(self._commands, twist)
            return
        message = TwistStamped(twist=twist)
        message.header.stamp = moment.image.header.stamp
        message.header.frame_id = moment.odom.child_frame_id
        self.safe_publish(self._commands, message)

    def _on_worker_error(self, error: BaseException) -> None:
        self.drops.count("planning_failed")
        self._problem = f"{type(error).__name__}: {error}"
        self.get_logger().error(f"planning failed: {self._problem}", throttle_duration_sec=5.0)

    # Diagnostics.

    def _report(self) -> Report:
        values = {"commands_per_second": self.rate.hz, "moments_skipped": self._moments.dropped,
                  **{f"{name}_unmatched": count for name, count in self._matcher.dropped.items()},
                  **self.drops.as_dict()}
        return (WARN, self._problem, values) if self._problem else (OK, "drives", values)


def main(arguments: list[str] | None = None) -> int:
    """Run the node; the process' exit code."""
    return run(ReferencePlannerNode, arguments)
