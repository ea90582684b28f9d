# SPDX-License-Identifier: Apache-2.0
"""The node `imagination`: camera, depth and plan in, imagined views along the plan out.

Two threads: the executor's, whose callbacks only store, and one worker, which alone decodes,
fuses, imagines and publishes frames (`live.py`). Latest-wins slots lie between them.
"""

from __future__ import annotations

import time
from functools import partial
from typing import Any

from nav_msgs.msg import Odometry, Path
from rclpy.clock import Clock, ClockType, JumpThreshold, TimeJump
from rclpy.duration import Duration
from std_srvs.srv import SetBool, Trigger

from inspatio_ros.geometry.camera import PinholeCamera
from inspatio_ros.imagination.engine import ImaginationEngine
from inspatio_ros.imagination.filler import GeometricFiller
from inspatio_ros.memory.moving import MovingOptions
from inspatio_ros.memory.moving_warm_up import warm_up_moving
from inspatio_ros.memory.stereo_memory import StereoOptions
from inspatio_ros.memory.view_bank import BankOptions
from inspatio_ros.memory.world_memory import MemoryOptions, WorldMemory
from inspatio_ros.msg import ErrorCalibration, HindsightScore, ImaginationStatus
from inspatio_ros.ros import diagnostics, qos, states
from inspatio_ros.ros import imagination_reports as reports
from inspatio_ros.ros.camera_input import CameraInput
from inspatio_ros.ros.camera_poses import CameraPoses
from inspatio_ros.ros.convert.calibrations import to_map
from inspatio_ros.ros.convert.detections import detections_message
from inspatio_ros.ros.convert.paths import trajectory_to_path_poses
from inspatio_ros.ros.convert.stamps import to_ns
from inspatio_ros.ros.imagination_output import ImaginationOutput
from inspatio_ros.ros.imagination_parameters import ImaginationNodeParameters
from inspatio_ros.ros.imagine_path_server import ImaginePathServer, PathGoal, Result
from inspatio_ros.ros.live import LiveImagination, warm_up
from inspatio_ros.ros.node_base import ExecutorCalls, ManagedNode, run
from inspatio_ros.ros.plans import PendingPlan
from inspatio_ros.ros.score_candidates_server import ScoreCandidatesServer, ScoreGoal
from inspatio_ros.ros.transforms import TransformListener, TransformTree
from inspatio_ros.ros.virtual_rig import VirtualRig
from inspatio_ros.runtime.worker import Worker
from inspatio_ros.sensing.gating import BackwardJumpDetector
from inspatio_ros.srv import SetPrompt

try:  # from common_interfaces of October 2025 on
    from nav_msgs.msg import Trajectory
except ImportError:
    Trajectory = None

_STATUS_PERIOD = 1.0
_STATE_CHECK_PERIOD = 0.1
# One jump is seen by the clock, the images and the odometry within moments of each other.
_ONE_JUMP = 2.0
_IDLE_TIMEOUT = 0.01
_STOP_TIMEOUT = 30.0


class ImaginationNode(ManagedNode[ImaginationNodeParameters]):
    """See docs/interface.md for its topics, services, action and parameters."""

    parameters_type = ImaginationNodeParameters

    def __init__(self, name: str = "imagination", **options: Any) -> None:
        # Kilted's context destroys a node whose making failed as well.
        self._path_server: ImaginePathServer | None = None
        self._score_server: ScoreCandidatesServer | None = None
        super().__init__(name, **options)
        self._calls = ExecutorCalls(self)
        self.problems = diagnostics.Problems(self.get_logger().warning)
        self.engine: ImaginationEngine | None = None
        self.camera: CameraInput | None = None
        self.live: LiveImagination | None = None
        self.output: ImaginationOutput | None = None
        self.rig: VirtualRig | None = None
        self._worker: Worker | None = None
        self._listener: TransformListener | None = None
        self._detections_type: type | None = None
        self._odometry: qos.FollowingSubscription | None = None
        self._subscriptions_made: list[Any] = []
        self.node_state = states.NodeState(ImaginationStatus.IDLE, "not active")
        self._status_due = 0.0
        self._jumped_at = -float("inf")
        self._status = self.create_publisher(ImaginationStatus, "~/status", qos.STATE_OUTPUT)
        self._state_timer = self.create_timer(
            _STATE_CHECK_PERIOD, self._check_state, clock=Clock(clock_type=ClockType.STEADY_TIME))
        self._jump_handle = self.get_clock().create_jump_callback(
            JumpThreshold(min_forward=None, min_backward=Duration(nanoseconds=-1),
                          on_clock_change=False), post_callback=self._clock_jumped)
        # In every state, so that whoever asks is told that the node is not active.
        self.create_service(SetBool, "~/set_following", self._set_following)
        self.create_service(Trigger, "~/clear_memory", self._clear_memory)
        self.create_service(SetPrompt, "~/set_prompt", self._set_prompt)
        self._path_server = ImaginePathServer(self, self._calls, self._submit_goal)
        self._score_server = ScoreCandidatesServer(self, self._calls, self._submit_scores)
        for part, report in reports.PARTS.items():
            self.diagnostics.add(part, partial(report, self))

    # Transitions.

    def configure(self) -> None:
        """Make the backend, the memory and the publishers; listen to tf."""
        values = self.values
        self.problems.clear_all()
        moving = values.moving
        self._detections_type = detections_message() if (
            moving.enabled and moving.detections) else None
        self.tree = TransformTree()
        self.poses = CameraPoses(values.transforms, self.tree)
        self.engine = self.make_engine()
        self.memory = self.make_memory()
        self.output = ImaginationOutput(self, lambda: self.values, self.safe_publish)
        if values.rig.enabled:
            self.rig = VirtualRig(self, lambda: self.values, self.safe_publish,
                                  self.poses.base_from)
        # Listening from now on, so that transforms are there when the first image comes.
        self._listener = TransformListener(self, self.tree)
        self.get_logger().info(f"backend: {self.engine.backend.name} "
                               f"(model.preset: {values.model.preset})")

    def make_engine(self) -> ImaginationEngine:
        """The engine with the backend of model.preset."""
        from inspatio_ros.imagination.backends import BackendOptions, make_backend  # loads torch

        model, imagination = self.values.model, self.values.imagination
        engine = ImaginationEngine(make_backend(BackendOptions(
            model.preset, model.weights, model.device,
            () if imagination.denoising_steps == (0,) else tuple(imagination.denoising_steps),
            full_vae=model.full_vae, compile=model.compile, cuda_graph=model.cuda_graph)))
        width, height = self.values.output.width or 320, self.values.output.height or 180
        warm_up(engine, PinholeCamera(width, height, float(width), float(width), width / 2,
                                      height / 2))
        return engine

    def make_memory(self) -> WorldMemory:
        """The memory within the bounds of the parameters."""
        memory, bank = self.values.memory, self.values.bank
        stereo = StereoOptions(BankOptions(bank.capacity, bank.spacing, bank.max_width),
                               bank.views, bank.match_exposure) if bank.enabled else None
        return WorldMemory(MemoryOptions(
            capacity=memory.capacity, max_age=memory.max_age, max_radius=memory.max_radius,
            voxel_size=memory.voxel_size, stereo=stereo, moving=self._moving_options(),
            keep_imagined=memory.keep_imagined, imagined_capacity=memory.imagined_capacity))

    def _moving_options(self) -> MovingOptions | None:
        """Of the layer of things that move; the world's z is up (REP 103)."""
        moving = self.values.moving
        if not moving.enabled:
            return None
        warm_up_moving()
        return MovingOptions((0.0, 0.0, 1.0), moving.min_speed, moving.max_objects,
                             moving.forget_after, moving.max_share)

    def activate(self) -> None:
        """Start the worker, then subscribe."""
        assert self.engine is not None
        assert self.output is not None
        self.drops.clear()
        self.output.frames_published = 0
        self._image_jump = BackwardJumpDetector()
        self._odometry_jump = BackwardJumpDetector()
        self.camera = CameraInput(self, self.values.input, self.drops, self.problems,
                                  self._image_stamp, self._wake)
        self.live = LiveImagination(
            self.engine, self.memory, lambda: self.values, self.camera, self.poses,
            self.output, self.drops, self.problems, self._now_ns, self._report_fault,
            self.get_logger().info)
        self.live.rig = self.rig
        self._worker = Worker(self.live.step, self._worker_failed, name="imagination_worker",
                              idle_timeout=_IDLE_TIMEOUT)
        self._subscribe()
        self._transport_checked = False
        self._worker.start()

    def _subscribe(self) -> None:
        self._subscriptions_made = [self.create_subscription(
            Path, "plan", self._plan, qos.PLAN_INPUT, raw=True)]
        self._subscriptions_made.append(self.create_subscription(
            ErrorCalibration, "hindsight/calibration", self._calibration, qos.LATCHED))
        self._subscriptions_made.append(self.create_subscription(
            HindsightScore, "hindsight/score", self._view_score, qos.STATE_OUTPUT))
        if self._detections_type is not None:
            self._subscriptions_made.append(self.create_subscription(
                self._detections_type, "detections", self._detected,
                qos.profile(5, reliable=False)))
        if Trajectory is not None:
            self._subscriptions_made.append(self.create_subscription(
                Trajectory, "trajectory", self._trajectory, qos.PLAN_INPUT))
        if self.values.transforms.source == "odometry":
            self._odometry = qos.FollowingSubscription(
                self, Odometry, "odom", self._odometry_pose, qos.ODOMETRY_DEPTH)

    def deactivate(self) -> None:
        """Unsubscribe and stop the worker; the memory stays."""
        self._unsubscribe()
        if self._worker is not None:
            if not self._worker.stop(_STOP_TIMEOUT):
                raise RuntimeError(f"the worker did not end within {_STOP_TIMEOUT} s")
            self._worker = None
        if self.live is not None:
            self.live.close()
            self.live = None

    def destroy_node(self) -> None:
        """Take the actions down before the node."""
        for server in (self._path_server, self._score_server):
            if server is not None:
                server.destroy()
        super().destroy_node()

    def _unsubscribe(self) -> None:
        for following in (self.camera, self._odometry):
            if following is not None:
                following.destroy()
        self.camera = self._odometry = None
        for subscription in self._subscriptions_made:
            self.destroy_subscription(subscription)
        self._subscriptions_made = []

    def release(self) -> None:
        """Stop and free everything `configure` and `activate` made."""
        self.deactivate()
        for made in (self.output, self.rig, self._listener):
            if made is not None:
                made.destroy()
        self.output = self.rig = self._listener = None
        engine, self.engine = self.engine, None
        if engine is not None:
            engine.close()

    # Subscriptions: store only.

    def _plan(self, serialized: bytes) -> None:
        if self.live is not None:
            self.live.plans.put(PendingPlan.serialized(serialized))
            self._wake()

    def _trajectory(self, message: Any) -> None:
        if self.live is not None:
            self.live.plans.put(PendingPlan(lambda: trajectory_to_path_poses(message)))
            self._wake()

    def _detected(self, message: Any) -> None:
        if self.live is not None:
            self.live.detections.put(message)

    def _calibration(self, message: ErrorCalibration) -> None:
        try:
            learnt = to_map(message)
        except ValueError as error:
            self.drops.count("calibration_refused")
            self.problems.report("calibration", f"hindsight/calibration: {error}")
            return
        if self.live is not None:
            self.live.set_calibration(learnt)

    def _view_score(self, message: HindsightScore) -> None:
        if self.live is not None:
            self.live.scoring.view_error(to_ns(message.frame_stamp), message.error)

    def _odometry_pose(self, message: Odometry) -> None:
        if self._odometry_jump.jumped(to_ns(message.header.stamp)):
            self._time_jumped("odometry")
        try:
            self.poses.add_odometry(message, "odom")
        except ValueError as error:
            self.drops.count("odometry_refused")
            self.problems.report("odometry", str(error))

    def _image_stamp(self, stamp_ns: int) -> None:
        if self._image_jump.jumped(stamp_ns):
            self._time_jumped("images")

    def _clock_jumped(self, jump: TimeJump) -> None:
        self._time_jumped("the clock")

    def _time_jumped(self, witness: str) -> None:
        """Forget what belongs to the other time: once per jump with a word, then silently."""
        again = time.monotonic() - self._jumped_at < _ONE_JUMP
        if not again:
            self._jumped_at = time.monotonic()
            self.get_logger().info(
                f"time jumped back ({witness}): poses, waiting images, memory and plan cleared")
        if self.camera is None or self.live is None:
            self._forget_inactive()
            return
        self._image_jump.reset()
        self._odometry_jump.reset()
        self.poses.clear()
        self.camera.clear()
        self.live.clear(everything=True)

    def _forget_inactive(self) -> None:
        if self.engine is not None:
            self.poses.clear()
            self.memory.clear()

    # The worker.

    def _wake(self) -> None:
        if self._worker is not None:
            self._worker.wake()

    def _now_ns(self) -> int:
        return int(self.get_clock().now().nanoseconds)

    def _worker_failed(self, error: BaseException) -> None:
        self.drops.count("worker_error")
        self.problems.report("worker", f"unexpected {type(error).__name__}: {error}")

    def _report_fault(self, reason: str) -> None:
        self._calls.submit(lambda: self.fail(reason))

    # Services and the action.

    def _set_following(self, request: SetBool.Request,
                       response: SetBool.Response) -> SetBool.Response:
        response.success = self.live is not None
        response.message = "the node is not active"
        if self.live is not None:
            self.live.set_following(request.data)
            self._wake()
            response.message = ("following the plan" if request.data else
                                "no longer following the plan")
        return response

    def _clear_memory(self, request: Trigger.Request,
                      response: Trigger.Response) -> Trigger.Response:
        response.success = self.live is not None
        response.message = "the node is not active"
        if self.live is not None:
            self.live.clear(everything=False)
            self._wake()
            response.message = "memory cleared before the next block"
        return response

    def _set_prompt(self, request: SetPrompt.Request,
                    response: SetPrompt.Response) -> SetPrompt.Response:
        response.success = self.live is not None and self.engine is not None
        response.message = "the node is not active"
        if self.live is not None and self.engine is not None:
            self.live.set_prompt(request.prompt)
            unused = (" (the geometric backend does not use it)"
                      if self.engine.backend.name == GeometricFiller.name else "")
            response.message = f"prompt in force: '{request.prompt}'{unused}"
        return response

    def _submit_goal(self, goal: PathGoal) -> tuple[int, str] | None:
        if self.live is None:
            return Result.NOT_READY, "the node is not active"
        self.live.goals.put(goal)
        self._wake()
        return None

    def _submit_scores(self, goal: ScoreGoal) -> tuple[int, str] | None:
        if self.live is None:
            return Result.NOT_READY, "the node is not active"
        refused = self.live.scoring.put(goal)
        self._wake()
        return refused

    # Status and diagnostics.

    def _check_state(self) -> None:
        """Publish the status when the state changed, and once a second."""
        state = self._decide_state()
        changed = state.state != self.node_state.state
        if changed:
            self.get_logger().info(f"{state.name}{': ' if state.detail else ''}{state.detail}")
        now = time.monotonic()
        if changed or state.detail != self.node_state.detail or now >= self._status_due:
            self.node_state = state
            self._status_due = now + _STATUS_PERIOD
            self.safe_publish(self._status, reports.status_message(self))
        self._check_transport()

    def _decide_state(self) -> states.NodeState:
        live, camera = self.live, self.camera
        if live is None or camera is None:
            return states.decide(fault=self.fault, active=False, observed=False, missing="",
                                 problems={}, imagining=False, following=False, has_plan=False)
        progress = live.progress
        return states.decide(
            fault=self.fault, active=True, observed=progress.observed,
            missing=camera.missing(self.values.input.timeout),
            problems=self.problems.current(), imagining=progress.imagining,
            following=progress.following, has_plan=progress.plan_poses > 0)

    def _check_transport(self) -> None:
        """Say once why images are slow, as soon as their size is known."""
        if self.camera is None or self._transport_checked or not self.camera.largest_bytes:
            return
        self._transport_checked = True
        warning = qos.transport_warning(self.camera.largest_bytes)
        if warning:
            self.get_logger().warning(warning)


def main() -> int:
    """Run the node until told to end."""
    return run(ImaginationNode)
