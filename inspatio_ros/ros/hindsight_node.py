# SPDX-License-Identifier: Apache-2.0
"""The node `hindsight`: scores imagined views by what the camera sees when it comes there.

Two threads, as everywhere here: the executor's callbacks store, one worker compares and publishes.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from nav_msgs.msg import Odometry
from rclpy.clock import JumpThreshold, TimeJump
from rclpy.duration import Duration
from sensor_msgs.msg import Image
from std_msgs.msg import Header
from std_srvs.srv import Trigger

from inspatio_ros.evaluation.calibration import ErrorCalibration
from inspatio_ros.evaluation.live_hindsight import (
    ERROR,
    OK,
    WARN,
    Comparison,
    LiveHindsight,
    RealView,
    RecentScores,
)
from inspatio_ros.evaluation.report import error_picture
from inspatio_ros.msg import ErrorCalibration as CalibrationMessage
from inspatio_ros.msg import HindsightScore
from inspatio_ros.ros import diagnostics, qos
from inspatio_ros.ros.camera_input import CameraInput
from inspatio_ros.ros.camera_poses import CameraPoses
from inspatio_ros.ros.convert import calibrations, images
from inspatio_ros.ros.convert.stamps import to_ns, to_time
from inspatio_ros.ros.hindsight_parameters import HindsightParameters
from inspatio_ros.ros.imagined_input import ImaginedInput
from inspatio_ros.ros.node_base import ManagedNode, run
from inspatio_ros.ros.observations import InputRejected, ObservationDecoder
from inspatio_ros.ros.transforms import TransformListener, TransformTree
from inspatio_ros.runtime.worker import Worker
from inspatio_ros.sensing.gating import BackwardJumpDetector

_STOP_TIMEOUT = 10.0
_IDLE_TIMEOUT = 0.02
# One jump is seen by the clock, the images and the odometry within moments of each other.
_ONE_JUMP = 2.0
_LEVELS = {OK: diagnostics.OK, WARN: diagnostics.WARN, ERROR: diagnostics.ERROR}


class HindsightNode(ManagedNode[HindsightParameters]):
    """See docs/interface.md for its topics, service and parameters."""

    parameters_type = HindsightParameters

    def __init__(self, name: str = "hindsight", **options: Any) -> None:
        super().__init__(name, **options)
        self._problems = diagnostics.Problems(self.get_logger().warning)
        self._imagined: ImaginedInput | None = None
        self._camera: CameraInput | None = None
        self._worker: Worker | None = None
        self._listener: TransformListener | None = None
        self._odometry: qos.FollowingSubscription | None = None
        self._publishers_made: list[Any] = []
        self._commands: deque[Callable[[], None]] = deque(maxlen=64)
        self._make_core()
        self._image_jump, self._odometry_jump = BackwardJumpDetector(), BackwardJumpDetector()
        self._jumped_at = -float("inf")
        self._jump_handle = self.get_clock().create_jump_callback(
            JumpThreshold(min_forward=None, min_backward=Duration(nanoseconds=-1),
                          on_clock_change=False), post_callback=self._clock_jumped)
        self.create_service(Trigger, "~/reset", self._reset)
        self.diagnostics.add("input", self._report_input)
        self.diagnostics.add("score", self._report_score)
        self.diagnostics.add("calibration", self._report_calibration)

    def _make_core(self) -> None:
        values = self.values
        self.hindsight = LiveHindsight(values.match.options(), ErrorCalibration(
            values.calibration.capacity, values.calibration.minimum))
        self.recent = RecentScores(values.diagnostics.options())
        self._verdict: tuple[str, str] = self.recent.verdict()
        self._summary: dict[str, Any] = {}
        self._learnt: CalibrationMessage | None = None
        self._calibration_due = -float("inf")

    # Transitions.

    def configure(self) -> None:
        """Make the publishers and listen to tf."""
        self._problems.clear_all()
        self._make_core()
        self._tree = TransformTree()
        self._poses = CameraPoses(self.values.transforms, self._tree)  # type: ignore[arg-type]
        self._listener = TransformListener(self, self._tree)
        self._score = self.create_publisher(HindsightScore, "~/score", qos.STATE_OUTPUT)
        self._calibration = self.create_publisher(CalibrationMessage, "~/calibration", qos.LATCHED)
        self._pictures = {name: self.create_publisher(Image, f"~/{name}", qos.IMAGE_OUTPUT)
                          for name in ("imagined", "truth", "error")}
        self._publishers_made = [self._score, self._calibration, *self._pictures.values()]

    def activate(self) -> None:
        """Start the worker, then subscribe."""
        self.drops.clear()
        self._image_jump.reset()
        self._odometry_jump.reset()
        self._observed_at = -float("inf")
        self._scored_at = time.monotonic()
        self._worker = Worker(self._step, self._worker_failed, name="hindsight_worker",
                              idle_timeout=_IDLE_TIMEOUT)
        self._imagined = ImaginedInput(self, self.drops, self._worker.wake)
        self._camera = CameraInput(self, self.values.input, self.drops,  # type: ignore[arg-type]
                                   self._problems, self._image_stamp, self._worker.wake)
        self._decoder = ObservationDecoder(self._camera.topics, self._tree.lookup)
        if self.values.transforms.source == "odometry":
            self._odometry = qos.FollowingSubscription(
                self, Odometry, "odom", self._odometry_pose, qos.ODOMETRY_DEPTH)
        self._worker.start()

    def deactivate(self) -> None:
        """Unsubscribe and stop the worker; the calibration stays."""
        for following in (self._imagined, self._camera, self._odometry):
            if following is not None:
                following.destroy()
        self._imagined = self._camera = self._odometry = None
        if self._worker is not None and not self._worker.stop(_STOP_TIMEOUT):
            raise RuntimeError(f"the worker did not end within {_STOP_TIMEOUT} s")
        self._worker = None
        self.hindsight.clear()

    def release(self) -> None:
        """Destroy everything that configure made."""
        self.deactivate()
        if self._listener is not None:
            self._listener.destroy()
            self._listener = None
        for publisher in self._publishers_made:
            self.destroy_publisher(publisher)
        self._publishers_made = []

    # Subscriptions' callbacks, on the executor's thread.

    def _odometry_pose(self, message: Odometry) -> None:
        if self._odometry_jump.jumped(to_ns(message.header.stamp)):
            self._time_jumped("odometry")
        try:
            self._poses.add_odometry(message, "odom")
        except ValueError as error:
            self._reject("odometry_refused", str(error))

    def _image_stamp(self, stamp_ns: int) -> None:
        if self._image_jump.jumped(stamp_ns):
            self._time_jumped("images")

    def _clock_jumped(self, jump: TimeJump) -> None:
        self._time_jumped("the clock")

    def _time_jumped(self, witness: str) -> None:
        """Forget what belongs to the other time; the calibration holds at any time."""
        if time.monotonic() - self._jumped_at >= _ONE_JUMP:
            self._jumped_at = time.monotonic()
            self.get_logger().info(f"time jumped back ({witness}): poses, waiting images, waiting "
                                   "views and recent scores cleared")
        if self._imagined is None or self._camera is None:
            return
        self._image_jump.reset()
        self._odometry_jump.reset()
        self._poses.clear()
        self._camera.clear()
        self._imagined.clear()
        self._command(self._forget)

    def _command(self, call: Callable[[], None]) -> None:
        self._commands.append(call)
        if self._worker is not None:
            self._worker.wake()

    # The worker.

    def _step(self) -> bool:
        while self._commands:
            self._commands.popleft()()
        took = self._take_imagined()
        seen = self._take_real()
        if took or seen:
            self._note()
        return took or seen

    def _forget(self) -> None:
        self.hindsight.clear()
        self.recent.clear()

    def _unlearn(self) -> None:
        self._forget()
        self.hindsight.calibration.clear()
        self._publish_calibration()

    def _take_imagined(self) -> bool:
        source = self._imagined
        messages = source.take() if source is not None else None
        if source is None or messages is None:
            return False
        frame = messages["frame"]
        if not self.hindsight.wants(to_ns(frame.header.stamp), to_ns(frame.source_stamp),
                                    to_ns(frame.time_from_start) * 1e-9):
            return True
        try:
            view = source.view(messages, self.values.transforms.world_frame)
        except InputRejected as error:
            self._reject(error.reason, str(error))
            return True
        self.hindsight.imagined(view)
        return True

    def _take_real(self) -> bool:
        # A tenth of slack, so that a camera of just this rate loses nothing.
        due = self._observed_at + 0.9 / self.values.input.observe_rate
        if self._camera is None or time.monotonic() < due:
            return False
        taken = self._camera.take(self._poses.world_from,
                                  round(self.values.transforms.time_offset * 1e9),
                                  self.values.transforms.timeout)
        if taken is None:
            return False
        item, world_from_camera = taken
        self._observed_at = time.monotonic()
        try:
            image, camera = self._decoder.color(item, self.values.input)  # type: ignore[arg-type]
        except InputRejected as error:
            self._reject(error.reason, str(error))
            return True
        real = RealView(item.stamp_ns, image, camera, world_from_camera)
        for comparison in self.hindsight.seen(real):
            self._publish(comparison, item.frame_id)
        return True

    def _reject(self, reason: str, sentence: str) -> None:
        self.drops.count(reason)
        self._problems.report(reason, sentence)

    def _worker_failed(self, error: BaseException) -> None:
        self._reject("worker_error", f"unexpected {type(error).__name__}: {error}")

    # Publishing.

    def _publish(self, comparison: Comparison, frame_id: str) -> None:
        score = comparison.score
        self.recent.add(score)
        self._scored_at = time.monotonic()
        header = Header(stamp=to_time(score.stamp_ns), frame_id=frame_id)
        self.safe_publish(self._score, calibrations.score_message(score, header))
        error = error_picture(comparison.imagined, comparison.truth)
        error[~comparison.compared] = 0
        for name, pixels in (("imagined", comparison.imagined), ("truth", comparison.truth),
                             ("error", error)):
            self._send(name, pixels, header)
        now = time.monotonic()
        if now >= self._calibration_due:
            self._calibration_due = now + self.values.calibration.period
            self._publish_calibration()

    def _send(self, name: str, pixels: npt.NDArray[np.uint8], header: Header) -> None:
        if self._pictures[name].get_subscription_count() > 0:
            self.safe_publish(self._pictures[name], images.from_array(pixels, "rgb8", header))

    def _publish_calibration(self) -> None:
        header = Header(stamp=self.get_clock().now().to_msg(),
                        frame_id=self.values.transforms.world_frame)
        self._learnt = calibrations.calibration_message(self.hindsight.calibration, header)
        self.safe_publish(self._calibration, self._learnt)

    # The service.

    def _reset(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        response.success = self._worker is not None
        response.message = "the node is not active"
        if self._worker is not None:
            self._command(self._unlearn)
            response.message = "views, scores and calibration are forgotten"
        return response

    # Diagnostics.

    def _note(self) -> None:
        """What the executor's thread may know of the scores; replaced as a whole."""
        self._verdict = self.recent.verdict()
        self._summary = {
            "compared": self.recent.total, "waiting": self.hindsight.waiting,
            "psnr_covered": self.recent.psnr_covered, "gain": self.recent.gain,
            "surprise": self.recent.surprise,
            **{f"psnr_at_{h:g}_s": level for h, level in self.recent.by_horizon(
                self.values.match.horizons).items()},
            **{f"dropped_{reason}": n for reason, n in sorted(self.hindsight.dropped.items())}}

    def _report_input(self) -> diagnostics.Report:
        camera, imagined = self._camera, self._imagined
        if camera is None or imagined is None:
            return diagnostics.STALE, self.fault or "not active", self.drops.as_dict()
        values = {"images_hz": camera.rate.hz, "imagined_hz": imagined.rate.hz,
                  "waiting_for_pose": camera.pending,
                  **{f"dropped_{k}": v for k, v in self.drops.as_dict().items()},
                  **{f"unmatched_{k}": v for k, v in imagined.matcher.dropped.items()}}
        missing = [camera.missing(self.values.input.timeout), imagined.missing()]
        sentences = [*self._problems.current().values(), *(m for m in missing if m)]
        return (diagnostics.WARN if sentences else diagnostics.OK,
                "; ".join(sentences) or "all inputs", values)

    def _report_score(self) -> diagnostics.Report:
        verdict, summary = self._verdict, self._summary
        if self._worker is None:
            return diagnostics.STALE, self.fault or "not active", {}
        level, sentence = verdict
        silent = time.monotonic() - self._scored_at
        if silent > self.values.diagnostics.stale_after:
            last = f"; before that: {sentence}" if summary.get("compared") else ""
            return diagnostics.STALE, (
                f"nothing compared for {silent:.0f} s: {summary.get('waiting', 0)} views wait, "
                f"{summary.get('dropped_not_reached', 0)} were never reached{last}"), summary
        return _LEVELS[level], sentence, summary

    def _report_calibration(self) -> diagnostics.Report:
        learnt = self._learnt
        if learnt is None:
            return diagnostics.OK, "no score yet", {}
        ready = len(learnt.predicted) > 0
        sentence = "" if ready else (
            f"{learnt.pairs} of {self.values.calibration.minimum} scores, too few to calibrate")
        return diagnostics.OK, sentence, {
            "pairs": learnt.pairs, "gap": learnt.gap, "ause": learnt.ause}


def main(arguments: list[str] | None = None) -> int:
    """Run the node; the process' exit code."""
    return run(HindsightNode, arguments)
