# SPDX-License-Identifier: Apache-2.0
"""The node `imagined_camera`: takes the place of a camera driver and of the robot.

Commands or a plan in; the robot moves at a fixed step through an analytic street or the memory of
a recording; clock, tf, odometry, image, depth and calibration out. Two threads: the executor's,
whose callbacks only store, and one worker, which alone steps, imagines and publishes.
"""

from __future__ import annotations

import json
import time
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from geometry_msgs.msg import Twist, TwistStamped
from nav_msgs.msg import Odometry, Path
from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.publisher import Publisher
from rclpy.task import Future
from rosgraph_msgs.msg import Clock as ClockMessage
from sensor_msgs.msg import CameraInfo, Image
from std_msgs.msg import Header, String
from std_srvs.srv import SetBool, Trigger
from tf2_msgs.msg import TFMessage

from inspatio_ros.files.bag_observations import BagOptions
from inspatio_ros.geometry import rigid
from inspatio_ros.planning.closed_loop import ClosedLoop, End, LoopOptions, Tick
from inspatio_ros.planning.footprint import Footprint
from inspatio_ros.planning.mounting import camera_of_view
from inspatio_ros.planning.pursuit import PursuitOptions, PursuitPlanner
from inspatio_ros.planning.route import Route
from inspatio_ros.planning.scenery import Scenery, StreetScenery
from inspatio_ros.planning.vehicles import Command, VehicleLimits, make_vehicle
from inspatio_ros.ros import qos
from inspatio_ros.ros.convert import cameras, images
from inspatio_ros.ros.convert.paths import (
    PathError,
    PathPoses,
    matrix_to_pose,
    read_path,
    to_path,
)
from inspatio_ros.ros.convert.stamps import to_time
from inspatio_ros.ros.diagnostics import OK, WARN, RateMeter, Report
from inspatio_ros.ros.imagined_camera_parameters import ImaginedCameraParameters
from inspatio_ros.ros.node_base import ExecutorCalls, ManagedNode, run
from inspatio_ros.ros.transforms import stamped_transform
from inspatio_ros.runtime.latest import LatestSlot
from inspatio_ros.runtime.worker import Worker

# Time of each episode begins here, seconds: a reset is a jump back, on which consumers clear.
CLOCK_START_S = 1000.0
_STOP_TIMEOUT = 30.0
_IDLE = 0.01
# In lockstep, s without a command after which the same moment is sent again.
_REMIND_AFTER = 1.0
_PLAN_POSES = 2_000
_ROUTE_STEP, _ROUTE_LENGTH = 0.5, 1_000.0


class ImaginedCameraNode(ManagedNode[ImaginedCameraParameters]):
    """See docs/interface.md for its topics, services and parameters."""

    parameters_type = ImaginedCameraParameters

    def __init__(self, name: str = "imagined_camera", **options: Any) -> None:
        super().__init__(name, **options)
        self.loop: ClosedLoop | None = None
        self.episodes = 0
        self.rate = RateMeter()
        self._engine: Any = None
        self._worker: Worker | None = None
        self._made: list[Publisher] = []
        self._subscription: Any = None
        self._paused = False
        self._due = self._sent_at = 0.0
        self._calls = ExecutorCalls(self)
        self._requests: deque[tuple[str, Future]] = deque(maxlen=16)
        self._commands: LatestSlot[Command] = LatestSlot()
        self._plans: LatestSlot[PathPoses] = LatestSlot()
        # A call that awaits the worker would bar its whole group, the answer's way included.
        waiting = ReentrantCallbackGroup()
        self.create_service(Trigger, "~/reset", self._on_reset, callback_group=waiting)
        self.create_service(Trigger, "~/step", self._on_step, callback_group=waiting)
        self.create_service(SetBool, "~/set_paused", self._on_set_paused)
        self.diagnostics.add("episode", self._report)

    # Transitions.

    def configure(self) -> None:
        """Make the scenery (a recording is read and remembered whole) and the publishers."""
        values = self.values
        options = self._loop_options()
        scenery: Scenery
        if values.scenery.bag:
            scenery, options = self._recorded(options)
        else:
            scenery = StreetScenery()
        limits = VehicleLimits(
            max_speed=values.vehicle.max_speed, max_acceleration=values.vehicle.max_acceleration,
            max_braking=values.vehicle.max_braking, max_yaw_rate=values.vehicle.max_yaw_rate,
            wheelbase=values.vehicle.wheelbase, max_steering=values.vehicle.max_steering)
        self.loop = ClosedLoop(scenery, options, make_vehicle(values.vehicle.model, limits))
        self._pursuit: PursuitPlanner | None = None
        self._make_publishers()

    def _loop_options(self) -> LoopOptions:
        values = self.values
        half_length, half_width = values.vehicle.length / 2, values.vehicle.robot_width / 2
        camera = values.camera
        mount = rigid.from_euler(0.0, camera.pitch, 0.0, camera.position) @ rigid.BODY_FROM_OPTICAL
        return LoopOptions(
            step=values.loop.step, duration=values.loop.duration,
            camera=camera_of_view(camera.width, camera.height, camera.field_of_view),
            base_from_camera=mount, min_coverage=values.loop.min_coverage,
            trust_radius=values.loop.trust_radius, target_speed=values.loop.target_speed,
            footprint=Footprint(front=half_length, rear=half_length, left=half_width,
                                right=half_width, ground=values.vehicle.ground))

    def _recorded(self, options: LoopOptions) -> tuple[Scenery, LoopOptions]:
        # Loads torch, which takes seconds and must not stand before a wrong parameter's word.
        from inspatio_ros.imagination.backends import BackendOptions, make_backend
        from inspatio_ros.imagination.engine import ImaginationEngine
        from inspatio_ros.planning.recorded_scenery import open_recorded_scenery

        values = self.values.scenery
        self.get_logger().info(f"reading {values.bag}")
        self._engine = ImaginationEngine(make_backend(BackendOptions(
            values.preset, values.weights)))
        scenery = open_recorded_scenery(
            values.bag, self._engine, options.footprint, base_frame=values.base_frame,
            reading=BagOptions(world_frame=values.world_frame), width=values.width)
        self.get_logger().info(f"remembered {scenery.nbytes / 1e6:.0f} MB, a way of "
                               f"{scenery.route.length:.1f} m")
        return scenery, replace(options, camera=scenery.camera,
                                base_from_camera=scenery.base_from_camera())

    def _make_publishers(self) -> None:
        def made(kind: type, topic: str, profile: Any) -> Publisher:
            publisher = self.create_lifecycle_publisher(kind, topic, profile)
            self._made.append(publisher)
            return publisher

        self._clock_out = made(ClockMessage, "/clock", qos.STATE_OUTPUT)
        self._tf = made(TFMessage, "/tf", qos.TF)
        self._tf_static = made(TFMessage, "/tf_static", qos.TF_STATIC)
        self._odometry = made(Odometry, "odom", qos.STATE_OUTPUT)
        self._image = made(Image, "camera/image_rect", qos.IMAGE_OUTPUT)
        self._info = made(CameraInfo, "camera/camera_info", qos.STATE_OUTPUT)
        self._depth = made(Image, "depth/image_rect", qos.IMAGE_OUTPUT)
        self._depth_info = made(CameraInfo, "depth/camera_info", qos.STATE_OUTPUT)
        self._provenance = made(Image, "~/provenance", qos.IMAGE_OUTPUT)
        self._route = made(Path, "~/route", qos.LATCHED)
        self._episode = made(String, "~/episode", qos.LATCHED)

    def activate(self) -> None:
        """Listen for commands and begin the first episode."""
        self._paused = self.values.loop.start_paused
        self._due = 0.0
        self._begin_next: int | None = self.values.scenery.seed
        topics: dict[str, tuple[type, str, Callable[[Any], None], Any]] = {
            "twist_stamped": (TwistStamped, "cmd_vel", lambda m: self._on_twist(m.twist),
                              qos.profile(1)),
            "twist": (Twist, "cmd_vel", self._on_twist, qos.profile(1)),
            "plan": (Path, "plan", self._on_plan, qos.PLAN_INPUT)}
        self._subscription = self.create_subscription(*topics[self.values.loop.command])
        self._worker = Worker(self._work, self._on_worker_error, name="imagined_camera",
                              idle_timeout=_IDLE)
        self._worker.start()

    def deactivate(self) -> None:
        """Stop; the scenery stays."""
        if self._subscription is not None:
            self.destroy_subscription(self._subscription)
            self._subscription = None
        if self._worker is not None:
            if not self._worker.stop(_STOP_TIMEOUT):
                raise RuntimeError(f"the worker did not end within {_STOP_TIMEOUT} s")
            self._worker = None
        while self._requests:
            self._answer(self._requests.popleft()[1], False, "the node was deactivated")

    def release(self) -> None:
        """Free everything."""
        self.deactivate()
        for publisher in self._made:
            self.destroy_lifecycle_publisher(publisher)
        self._made = []
        self.loop = None
        engine, self._engine = self._engine, None
        if engine is not None:
            engine.close()

    # Subscriptions and services: store only.

    def _on_twist(self, twist: Twist) -> None:
        try:
            command = Command(twist.linear.x, twist.angular.z)
        except ValueError as error:
            self.drops.count("command_refused")
            self.get_logger().warning(f"cmd_vel: {error}", throttle_duration_sec=5.0)
            return
        self._commands.put(command)
        self._wake()

    def _on_plan(self, message: Path) -> None:
        try:
            poses = read_path(message, _PLAN_POSES)
        except PathError as error:
            self.drops.count("plan_refused")
            self.get_logger().warning(f"plan: {error}", throttle_duration_sec=5.0)
            return
        self._plans.put(poses)
        self._wake()

    def _wake(self) -> None:
        if self._worker is not None:
            self._worker.wake()

    async def _on_reset(self, request: Trigger.Request,
                        response: Trigger.Response) -> Trigger.Response:
        return await self._asked("reset", response)

    async def _on_step(self, request: Trigger.Request,
                       response: Trigger.Response) -> Trigger.Response:
        if not self._paused:
            response.success, response.message = False, "not paused: ~/set_paused first"
            return response
        return await self._asked("step", response)

    async def _asked(self, what: str, response: Trigger.Response) -> Trigger.Response:
        """Have the worker do it, and say what came of it; the executor goes on meanwhile."""
        if self._worker is None or len(self._requests) == self._requests.maxlen:
            busy = "too many calls wait" if self._worker is not None else "not active"
            response.success, response.message = False, busy
            return response
        done: Future = Future()
        self._requests.append((what, done))
        self._wake()
        response.success, response.message = await done
        return response

    def _answer(self, done: Future, success: bool, sentence: str) -> None:
        self._calls.submit(lambda: done.done() or done.set_result((success, sentence)))

    def _on_set_paused(self, request: SetBool.Request,
                       response: SetBool.Response) -> SetBool.Response:
        self._paused = request.data
        self._due = 0.0
        self._wake()
        response.success, response.message = True, "paused" if request.data else "runs"
        return response

    # The worker.

    def _work(self) -> bool:
        loop = self.loop
        if loop is None:
            return False
        if self._requests:
            self._serve(loop, *self._requests.popleft())
            return True
        if self._begin_next is not None:
            seed, self._begin_next = self._begin_next, None
            self._begin(loop, seed)
            return True
        tick = loop.tick
        if tick is None or self._paused or tick.end is not End.RUNNING:
            return False
        now = time.monotonic()
        if self.values.loop.lockstep and not self._command_waits():
            return self._remind(tick, now)
        if now < self._due:
            return False
        rate = self.values.loop.rate
        period = loop.options.step / rate if rate > 0 else 0.0
        # After a delay it goes on from now: the consumer must never be run over by a burst.
        self._due = max(self._due + period, now)
        self._advance(loop)
        return True

    def _serve(self, loop: ClosedLoop, what: str, done: Future) -> None:
        try:
            if what == "reset":
                self._begin(loop, self.values.scenery.seed)
                sentence = f"episode {self.episodes} begins, seed {loop.log.seed}"
            else:
                self._advance(loop)
                sentence = f"{loop.log.times[-1]:.3f} s, {loop.log.end}"
        except Exception as error:  # noqa: BLE001 - whoever called is told, the node stays up
            self._answer(done, False, str(error))
        else:
            self._answer(done, True, sentence)

    def _begin(self, loop: ClosedLoop, seed: int) -> None:
        tick = loop.reset(seed)
        self.episodes += 1
        self._commands.clear()
        self._plans.clear()
        self._held, self._held_at = Command(), -float("inf")
        self._pursuit = None
        self._due = 0.0
        self.get_logger().info(f"episode {self.episodes} begins, seed {seed}")
        self._publish_fixed(loop)
        self._publish(tick)

    def _remind(self, tick: Tick, now: float) -> bool:
        """Whoever came late, or lost an image, would wait for ever: the moment is sent again."""
        if now - self._sent_at < _REMIND_AFTER:
            return False
        self._publish(tick)
        return True

    def _command_waits(self) -> bool:
        by_plan = self.values.loop.command == "plan"
        return self._plans.full or self._pursuit is not None if by_plan else self._commands.full

    def _advance(self, loop: ClosedLoop) -> None:
        before = loop.tick
        if before is None:
            raise ValueError("no episode yet")
        tick = loop.step(self._command(loop, before))
        self._publish(tick)
        self.rate.tick()
        if tick.end is End.RUNNING:
            return
        content = loop.log.as_json()
        self.get_logger().info(f"episode {self.episodes} ends: {tick.end} ({tick.detail})")
        self.safe_publish(self._episode, String(data=json.dumps(content)))
        if self.values.loop.repeat:
            self._begin_next = loop.log.seed + 1

    def _command(self, loop: ClosedLoop, tick: Tick) -> Command:
        newest = self._commands.take()
        if newest is not None:
            self._held, self._held_at = newest, tick.time
        if self.values.loop.command == "plan":
            return self._pursued(loop, tick)
        timeout = self.values.loop.command_timeout
        return self._held if tick.time - self._held_at <= timeout + 1e-9 else Command()

    def _pursued(self, loop: ClosedLoop, tick: Tick) -> Command:
        """Along the newest plan, told in the world's or the base's frame; an empty one stops."""
        poses = self._plans.take()
        if poses is not None:
            self._pursuit = self._follow(loop, tick, poses)
        if self._pursuit is None:
            return Command()
        return self._pursuit.towards(tick.state)

    def _follow(self, loop: ClosedLoop, tick: Tick, poses: PathPoses) -> PursuitPlanner | None:
        if len(poses.frame_from_pose) == 0:
            return None
        frames = self.values.scenery
        if poses.frame_id == frames.base_frame:
            places = (tick.world_from_base @ poses.frame_from_pose)[:, :2, 3]
        elif poses.frame_id == frames.world_frame:
            places = poses.frame_from_pose[:, :2, 3]
        else:
            self.drops.count("plan_refused")
            self.get_logger().warning(
                f"plan in frame '{poses.frame_id}': expected '{frames.world_frame}' or "
                f"'{frames.base_frame}'", throttle_duration_sec=5.0)
            return self._pursuit
        try:
            route = Route(places)
        except ValueError:
            return None
        return PursuitPlanner(route, loop.vehicle, loop.options, options=PursuitOptions(
            target_speed=loop.options.target_speed))

    def _on_worker_error(self, error: BaseException) -> None:
        self.drops.count("step_failed")
        self.get_logger().error(f"a step failed: {type(error).__name__}: {error}",
                                throttle_duration_sec=5.0)

    # Publishing.

    def _stamp(self, tick: Tick) -> Any:
        return to_time(round(CLOCK_START_S * 1e9) + round(tick.time * 1e9))

    def _publish_fixed(self, loop: ClosedLoop) -> None:
        """The camera's place on the robot, and the route, at the beginning of an episode."""
        frames = self.values.scenery
        stamp = to_time(round(CLOCK_START_S * 1e9))
        self.safe_publish(self._tf_static, TFMessage(transforms=[stamped_transform(
            Header(stamp=stamp, frame_id=frames.base_frame), frames.camera_frame,
            loop.options.base_from_camera)]))
        route = loop.scenery.route
        start = loop.log.first_station
        length = min(_ROUTE_LENGTH, route.length if route.closed else route.length - start)
        stations = start + np.arange(0.0, max(length, _ROUTE_STEP), _ROUTE_STEP)
        poses = np.stack([rigid.from_euler(0.0, 0.0, heading, (x, y, 0.0))
                          for x, y, heading in map(route.pose, map(float, stations))])
        header = Header(stamp=stamp, frame_id=frames.world_frame)
        self.safe_publish(self._route, to_path(poses, [0] * len(poses), header))

    def _publish(self, tick: Tick) -> None:
        self._sent_at = time.monotonic()
        frames = self.values.scenery
        stamp = self._stamp(tick)
        assert self.loop is not None
        camera = self.loop.options.camera
        in_world = Header(stamp=stamp, frame_id=frames.world_frame)
        self.safe_publish(self._clock_out, ClockMessage(clock=stamp))
        self.safe_publish(self._tf, TFMessage(transforms=[stamped_transform(
            in_world, frames.base_frame, tick.world_from_base)]))
        odometry = Odometry(header=in_world, child_frame_id=frames.base_frame)
        odometry.pose.pose = matrix_to_pose(tick.world_from_base)
        odometry.twist.twist.linear.x = tick.state.speed
        odometry.twist.twist.angular.z = tick.state.yaw_rate
        self.safe_publish(self._odometry, odometry)
        header = Header(stamp=stamp, frame_id=frames.camera_frame)
        info = cameras.to_info(camera, header)
        self.safe_publish(self._info, info)
        self.safe_publish(self._depth_info, info)
        for publisher, pixels, encoding in (
                (self._depth, tick.seen.depth, "32FC1"), (self._image, tick.seen.image, "rgb8"),
                (self._provenance, tick.seen.provenance, "mono8")):
            self.safe_publish(publisher, images.from_array(
                np.ascontiguousarray(pixels), encoding, header))

    # Diagnostics.

    def _report(self) -> Report:
        loop = self.loop
        tick = None if loop is None else loop.tick
        if loop is None or tick is None:
            return OK, "no episode", {}
        values = {"episode": self.episodes, "seed": loop.log.seed, "seconds": tick.time,
                  "gained_m": loop.log.gained, "coverage": tick.seen.coverage,
                  "steps_per_second": self.rate.hz, "paused": self._paused,
                  "end": str(tick.end), **self.drops.as_dict()}
        if tick.end in (End.RUNNING, End.COMPLETED):
            return OK, "paused" if self._paused else str(tick.end), values
        return WARN, f"{tick.end}: {tick.detail}; ~/reset begins anew", values


def main(arguments: list[str] | None = None) -> int:
    """Run the node; the process' exit code."""
    return run(ImaginedCameraNode, arguments)
