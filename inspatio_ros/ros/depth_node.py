# SPDX-License-Identifier: Apache-2.0
"""The node `depth`: metric depth images of the left camera of a stereo pair.

Two threads, as everywhere here: the executor's callbacks store, one worker matches and publishes.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from rclpy.clock import JumpThreshold, TimeJump
from rclpy.duration import Duration
from sensor_msgs.msg import CameraInfo, Image
from std_msgs.msg import Header

from inspatio_ros.depth.stereo import StereoOptions
from inspatio_ros.ros import diagnostics, qos
from inspatio_ros.ros.camera_input import CameraInput
from inspatio_ros.ros.convert import cameras, images
from inspatio_ros.ros.convert.stamps import to_time
from inspatio_ros.ros.node_base import ManagedNode, run
from inspatio_ros.ros.observations import ImageSet, InputRejected, ObservationDecoder
from inspatio_ros.ros.parameters import group, param
from inspatio_ros.ros.transforms import TransformListener, TransformTree, TransformUnavailable
from inspatio_ros.runtime.worker import Worker
from inspatio_ros.sensing.gating import BackwardJumpDetector
from inspatio_ros.sensing.observation import Observation

_STOP_TIMEOUT = 10.0
_IDLE_TIMEOUT = 0.02


@dataclass(frozen=True)
class StereoInputParameters:
    """The pair of cameras."""

    depth: ClassVar[str] = "stereo"  # what CameraInput is to subscribe to beside the left image
    depth_transport: ClassVar[str] = "raw"

    image_transport: str = param("raw", "Transport of left/image_rect and right/image_rect",
                                 choices=("raw", "compressed"))
    rectify: bool = param(
        False, "The images are raw: remove the lens distortion that camera_info describes "
        "(otherwise such a camera is refused)")
    already_rectified: bool = param(
        False, "The images are rectified although camera_info carries a distortion, as "
        "image_proc publishes it")
    max_stamp_gap: float = param(0.02, "Largest difference of the stamps of a pair", unit="s",
                                 minimum=0.0, maximum=1.0)
    timeout: float = param(2.0, "After so long without an input diagnostics name it", unit="s",
                           minimum=0.1, maximum=3600.0, dynamic=True)

    def check(self) -> None:
        """Raise ValueError when the values contradict each other."""
        if self.rectify and self.already_rectified:
            raise ValueError("input.rectify and input.already_rectified exclude each other")


@dataclass(frozen=True)
class StereoParameters:
    """How the pair is matched."""

    min_depth: float = param(0.5, "Nearest depth searched for; less costs time", unit="m",
                             minimum=0.01, maximum=100.0)
    max_depth: float = param(80.0, "Farther depth is taken for unknown", unit="m", minimum=0.1,
                             maximum=10000.0)
    scale: float = param(0.5, "Size at which the pair is matched, as a share of its full size",
                         minimum=0.1, maximum=1.0)
    paths: int = param(
        4, "Directions along which smoothness is summed; 3 is faster and worse where there is "
        "little texture", minimum=3, maximum=4)
    block_size: int = param(5, "Side of the blocks compared, odd", unit="px", minimum=1,
                            maximum=21)
    uniqueness: int = param(8, "Margin by which the best match must win", unit="%", minimum=0,
                            maximum=50)
    check_tolerance: float = param(
        1.0, "Difference allowed between the matches left to right and right to left", unit="px",
        minimum=0.0, maximum=10.0)
    speckle_size: int = param(100, "Smaller regions of depth are dropped", unit="px", minimum=0,
                              maximum=10000)

    def check(self) -> None:
        """Raise ValueError when the values contradict each other."""
        self.options()

    def options(self) -> StereoOptions:
        """The core's options of these parameters."""
        return StereoOptions(
            min_depth=self.min_depth, max_depth=self.max_depth, scale=self.scale,
            paths=self.paths, block_size=self.block_size, uniqueness=self.uniqueness,
            check_tolerance=self.check_tolerance, speckle_size=self.speckle_size)


@dataclass(frozen=True)
class DepthParameters:
    """All parameters of the depth node."""

    autostart: bool = param(True, "Configure and activate without a lifecycle manager")
    input: StereoInputParameters = group(StereoInputParameters)
    stereo: StereoParameters = group(StereoParameters)


class DepthNode(ManagedNode[DepthParameters]):
    """See docs/interface.md for its topics and parameters.

    depth/image_rect and depth/camera_info carry the header of the left image. The left image as
    the depth's camera sees it goes out on left_rectified/ when somebody listens: it differs from
    the input when that was raw.
    """

    parameters_type = DepthParameters

    def __init__(self, name: str = "depth", **options: Any) -> None:
        super().__init__(name, **options)
        self._problems = diagnostics.Problems(self.get_logger().warning)
        self._input: CameraInput | None = None
        self._worker: Worker | None = None
        self._listener: TransformListener | None = None
        self._publishers_made: list[Any] = []
        self._tree = TransformTree()
        self._jump = BackwardJumpDetector()
        self.rate = diagnostics.RateMeter()
        self._match_time = 0.0
        self._coverage = 0.0
        self._jump_handle = self.get_clock().create_jump_callback(
            JumpThreshold(min_forward=None, min_backward=Duration(nanoseconds=-1),
                          on_clock_change=False), post_callback=self._clock_jumped)
        self.diagnostics.add("input", self._report_input)
        self.diagnostics.add("stereo", self._report_stereo)

    # Transitions.

    def configure(self) -> None:
        """Make the publishers and listen to tf."""
        self._problems.clear_all()
        self._tree = TransformTree()
        self._listener = TransformListener(self, self._tree)
        self._depth = self.create_publisher(Image, "depth/image_rect", qos.IMAGE_OUTPUT)
        self._info = self.create_publisher(CameraInfo, "depth/camera_info", qos.STATE_OUTPUT)
        self._left = self.create_publisher(Image, "left_rectified/image_rect", qos.IMAGE_OUTPUT)
        self._left_info = self.create_publisher(CameraInfo, "left_rectified/camera_info",
                                                qos.STATE_OUTPUT)
        self._publishers_made = [self._depth, self._info, self._left, self._left_info]

    def activate(self) -> None:
        """Start the worker, then subscribe."""
        self._jump.reset()
        self._worker = Worker(self._step, self._worker_failed, name="depth_worker",
                              idle_timeout=_IDLE_TIMEOUT)
        self._input = CameraInput(self, self.values.input, self.drops, self._problems,
                                  self._image_stamp, self._worker.wake, left_folder="left")
        self._decoder = ObservationDecoder(self._input.topics, self._tree.lookup,
                                           lambda _: self.values.stereo.options())
        self._worker.start()

    def deactivate(self) -> None:
        """Unsubscribe and stop the worker."""
        if self._input is not None:
            self._input.destroy()
        if self._worker is not None and not self._worker.stop(_STOP_TIMEOUT):
            raise RuntimeError(f"the worker did not end within {_STOP_TIMEOUT} s")
        self._input = self._worker = None

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

    def _image_stamp(self, stamp_ns: int) -> None:
        if self._jump.jumped(stamp_ns):
            self._time_jumped()

    def _clock_jumped(self, jump: TimeJump) -> None:
        self._jump.reset()
        self._time_jumped()

    def _time_jumped(self) -> None:
        self.get_logger().info("time jumped back: waiting images are dropped")
        self._tree.clear_moving()
        if self._input is not None:
            self._input.clear()

    # The worker.

    def _step(self) -> bool:
        taken = None if self._input is None else self._input.take(
            lambda frame, stamp_ns: np.eye(4), 0, self.values.input.timeout)
        if taken is None:
            return False
        item, identity = taken
        begin = time.monotonic()
        try:
            seen = self._decoder.decode(item, identity, self.values.input)  # type: ignore[arg-type]
        except InputRejected as error:
            self._reject(error.reason, str(error))
            return True
        except TransformUnavailable as error:
            self._reject("tf", f"right camera: {error}; or give the baseline in the right "
                               "camera_info's P")
            return True
        self._match_time = time.monotonic() - begin
        self._coverage = seen.depth_coverage
        self._publish(item, seen)
        return True

    def _reject(self, reason: str, sentence: str) -> None:
        self.drops.count(reason)
        self._problems.report(reason, sentence)

    def _worker_failed(self, error: BaseException) -> None:
        self._reject("failed", f"a pair could not be matched: {error}")

    # Publishing.

    def _publish(self, item: ImageSet, seen: Observation) -> None:
        header = Header(stamp=to_time(item.stamp_ns), frame_id=item.frame_id)
        info = cameras.to_info(seen.camera, header)
        self.safe_publish(self._info, info)
        self.safe_publish(self._depth, images.from_array(seen.depth, "32FC1", header))
        if self._left.get_subscription_count() > 0:
            self.safe_publish(self._left_info, info)
            self.safe_publish(self._left, images.from_array(seen.image, "rgb8", header))
        self.rate.tick()

    # Diagnostics.

    def _report_input(self) -> diagnostics.Report:
        if self._input is None:
            return diagnostics.STALE, self.fault or "not active", self.drops.as_dict()
        values = {"pairs_hz": self._input.rate.hz, "pairs": self._input.matcher.pairs,
                  **{f"dropped_{k}": v for k, v in self.drops.as_dict().items()},
                  **{f"unmatched_{k}": v for k, v in self._input.matcher.dropped.items()}}
        sentences = list(self._problems.current().values())
        missing = self._input.missing(self.values.input.timeout)
        if missing or sentences:
            return diagnostics.WARN, "; ".join(sentences or [missing]), values
        return diagnostics.OK, "pairs arrive", values

    def _report_stereo(self) -> diagnostics.Report:
        values = {"depth_hz": self.rate.hz, "match_time_ms": self._match_time * 1e3,
                  "coverage": self._coverage}
        if self._input is not None and self.rate.hz > 0 and self._coverage < 0.05:
            return diagnostics.WARN, (
                f"depth for only {self._coverage:.0%} of the pixels: are left and right of one "
                "rectified pair, and is anything nearer than stereo.max_depth?"), values
        return diagnostics.OK, "", values


def main(arguments: list[str] | None = None) -> int:
    """Run the node; the process' exit code."""
    return run(DepthNode, arguments)
