# SPDX-License-Identifier: Apache-2.0
"""A robot with a camera that drives through an analytic world, with scripted faults.

The source of the tests on bad input, and a robot for whoever has none at hand.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from geometry_msgs.msg import PoseStamped
from nav_msgs.msg import Odometry, Path
from rclpy.clock import Clock, ClockType
from rosgraph_msgs.msg import Clock as ClockMessage
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from std_msgs.msg import Header
from tf2_msgs.msg import TFMessage

from inspatio_ros.geometry import rigid
from inspatio_ros.geometry.camera import PinholeCamera
from inspatio_ros.ros import qos
from inspatio_ros.ros import synthetic_faults as faults
from inspatio_ros.ros.convert import cameras, images
from inspatio_ros.ros.convert.paths import matrix_to_pose
from inspatio_ros.ros.convert.stamps import to_time
from inspatio_ros.ros.diagnostics import OK, WARN, RateMeter, Report
from inspatio_ros.ros.node_base import PlainNode, run
from inspatio_ros.ros.parameters import param
from inspatio_ros.ros.transforms import stamped_transform
from inspatio_ros.runtime.latest import LatestSlot
from inspatio_ros.runtime.worker import Worker
from inspatio_ros.worlds.room import room
from inspatio_ros.worlds.street import street
from inspatio_ros.worlds.world import View, World, right_camera

Array = npt.NDArray[np.float64]

WORLD_FRAME, BASE_FRAME, CAMERA_FRAME = "odom", "base_link", "camera_optical"
DEPTH_FRAME, RIGHT_FRAME = "depth_optical", "right_optical"
# With its own clock the robot's time begins here, seconds.
CLOCK_START_S = 1000.0
# Where the separate depth camera sits in the color camera's optical frame.
COLOR_FROM_DEPTH = rigid.from_euler(0.0, 0.01, 0.0, (-0.05, 0.0, 0.0))
_TF_BACKLOG = 1000
_PLAN_STEP_S = 0.25


@dataclass(frozen=True)
class SyntheticRobotParameters:
    """What the robot drives through, carries and does wrong."""

    world: str = param("room", "World to drive through", choices=("room", "street"))
    seed: int = param(0, "Seed of the world's textures and sizes", minimum=0, maximum=2**31 - 1)
    moving_objects: bool = param(True, "Whether other things move too")
    speed: float = param(0.0, "Speed along the world's loop; 0: 0.4 in the room, 4 in the street",
                         unit="m/s", minimum=0.0, maximum=30.0)
    rate: float = param(10.0, "Images a second", unit="Hz", minimum=0.1, maximum=60.0)
    width: int = param(320, "Image width", unit="px", minimum=16, maximum=1920)
    height: int = param(180, "Image height", unit="px", minimum=16, maximum=1200)
    field_of_view: float = param(1.4, "Horizontal opening angle of the camera", unit="rad",
                                 minimum=0.2, maximum=2.6)
    camera_height: float = param(0.0, "Camera above ground; 0: 0.9 in the room, 1.5 in the street",
                                 unit="m", minimum=0.0, maximum=2.5)
    samples: int = param(1, "Rays a pixel along each axis; 2 smooths silhouettes", minimum=1,
                         maximum=4)
    image_encoding: str = param("rgb8", "Encoding of color images",
                                choices=("rgb8", "bgr8", "rgba8", "bgra8", "mono8"))
    depth_encoding: str = param("32FC1", "Encoding of depth images", choices=("32FC1", "16UC1"))
    separate_depth_camera: bool = param(
        False, "Depth comes from a camera of its own, 5 cm aside, 2/3 of the size, frame "
        f"{DEPTH_FRAME}")
    stereo_baseline: float = param(0.0, "Distance of a right camera; 0: none", unit="m",
                                   minimum=0.0, maximum=2.0)
    right_frame: str = param(
        "left", "Frame of the right camera: the left one's with the baseline in P, or its own "
        "with the baseline in tf", choices=("left", "own"))
    odometry_rate: float = param(50.0, "Odometry, tf and clock messages a second", unit="Hz",
                                 minimum=1.0, maximum=500.0)
    plan_rate: float = param(1.0, "Plans a second; 0: none", unit="Hz", minimum=0.0, maximum=20.0)
    plan_horizon: float = param(5.0, "Length of the plan", unit="s", minimum=0.5, maximum=60.0)
    publish_clock: bool = param(False, "Publish /clock, which begins at 1000 s")
    faults: tuple[str, ...] = param(
        ("",), "What goes wrong and when, each 'kind [begin [end]]' in seconds from the start: "
        + ", ".join(faults.FAULTS), dynamic=True)

    def check(self) -> None:
        """Raise ValueError when a fault is unknown or has no time span."""
        faults.FaultScript(self.faults)

    @property
    def camera(self) -> PinholeCamera:
        """The color camera."""
        focal = self.width / 2 / math.tan(self.field_of_view / 2)
        return PinholeCamera(self.width, self.height, focal, focal, (self.width - 1) / 2,
                             (self.height - 1) / 2)

    @property
    def depth_camera(self) -> PinholeCamera:
        """The depth camera: the color camera unless it is separate."""
        if not self.separate_depth_camera:
            return self.camera
        return self.camera.resized(self.width * 2 // 3, self.height * 2 // 3)


@dataclass(frozen=True)
class Moment:
    """One instant of the drive: seconds since the start, the same minus jumps back, the stamp."""

    elapsed: float
    world_time: float
    stamp_ns: int


class SyntheticRobotNode(PlainNode[SyntheticRobotParameters]):
    """Publishes what a robot would: images, depth, camera_info, tf, odometry, plan, clock.

    Odometry, tf, clock and plan come from timers; one worker renders and publishes images. When
    rendering is slower than `rate`, images are skipped and counted, never late.
    """

    parameters_type = SyntheticRobotParameters

    def __init__(self, **options: Any) -> None:
        super().__init__("synthetic_robot", **options)
        values = self.values
        self.world: World = {"room": room, "street": street}[values.world](
            values.seed, moving=values.moving_objects)
        indoor = values.world == "room"
        self.speed = values.speed or (0.4 if indoor else 4.0)
        height = values.camera_height or (0.9 if indoor else 1.5)
        self.base_from_camera = (rigid.from_rotation(np.eye(3), (0.1, 0.0, height))
                                 @ rigid.BODY_FROM_OPTICAL)
        self.script = faults.FaultScript(values.faults)
        self.parameters.on_change = self._on_parameters
        # Compiles the renderer when it is the first time on this machine, before the clock starts.
        self.world.render(values.camera, self.world_from_base(0.0) @ self.base_from_camera)
        self._start_ns = int(CLOCK_START_S * 1e9) if values.publish_clock else (
            self.get_clock().now().nanoseconds)
        self._started = time.monotonic()
        self._jumped_s = 0.0
        self._jump_was_active = False
        self._late: deque[tuple[float, Callable[[], object]]] = deque(maxlen=_TF_BACKLOG)
        self._image_count = 0
        self.rate = RateMeter()
        self._make_publishers()
        self.diagnostics.add("drive", self._report)
        self._due: LatestSlot[Moment] = LatestSlot()
        self._worker = Worker(self._work, self._on_worker_error, name="synthetic_robot_camera")
        self._make_timers()
        self._worker.start()

    def _make_publishers(self) -> None:
        def image_pair(folder: str) -> tuple[Any, Any]:
            return (self.create_publisher(Image, f"{folder}/image_rect", qos.IMAGE_OUTPUT),
                    self.create_publisher(CameraInfo, f"{folder}/camera_info", qos.STATE_OUTPUT))

        self._color, self._color_info = image_pair("camera")
        self._jpeg = self.create_publisher(CompressedImage, "camera/image_rect/compressed",
                                           qos.IMAGE_OUTPUT)
        self._depth, self._depth_info = image_pair("depth")
        if self.values.stereo_baseline > 0:
            self._right, self._right_info = image_pair("right")
        self._odometry = self.create_publisher(Odometry, "odom", qos.STATE_OUTPUT)
        self._plan = self.create_publisher(Path, "plan", qos.PLAN_INPUT)
        self._tf = self.create_publisher(TFMessage, "/tf", qos.TF)
        self._tf_static = self.create_publisher(TFMessage, "/tf_static", qos.TF_STATIC)
        if self.values.publish_clock:
            self._clock_out = self.create_publisher(ClockMessage, "/clock", qos.STATE_OUTPUT)

    def _make_timers(self) -> None:
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        self._publish_static_transforms()
        self.create_timer(1 / self.values.odometry_rate, self._on_odometry_timer, clock=steady)
        self.create_timer(1 / self.values.rate, self._on_image_timer, clock=steady)
        if self.values.plan_rate > 0:
            self.create_timer(1 / self.values.plan_rate, self._on_plan_timer, clock=steady)

    def release(self) -> None:
        """Stop rendering."""
        self._due.close()
        self._worker.stop(5.0)

    # Time and place.

    def now(self) -> Moment:
        """The present instant of the drive."""
        elapsed = time.monotonic() - self._started
        world_time = elapsed - self._jumped_s
        return Moment(elapsed, world_time, self._start_ns + round(world_time * 1e9))

    def world_from_base(self, world_time: float) -> Array:
        """The robot's true place [4, 4] in the odom frame."""
        return np.asarray(self.world.drive(self.speed, [world_time])[0])

    def _active(self, moment: Moment) -> list[str]:
        return self.script.all_active(moment.elapsed)

    def _on_parameters(self, values: SyntheticRobotParameters) -> None:
        self.script = faults.FaultScript(values.faults)
        self.get_logger().info(f"faults: {', '.join(values.faults) or 'none'}")

    def _jump_if_due(self) -> None:
        active = self.script.active("time_jump", time.monotonic() - self._started)
        if active and not self._jump_was_active:
            self._jumped_s += faults.TIME_JUMP_S
            self.get_logger().info(f"time jumps back by {faults.TIME_JUMP_S:g} s")
        self._jump_was_active = active

    # Timers, on the executor's thread.

    def _on_odometry_timer(self) -> None:
        self._jump_if_due()
        moment = self.now()
        if self.values.publish_clock:
            self.safe_publish(self._clock_out, ClockMessage(clock=to_time(moment.stamp_ns)))
        active = self._active(moment)
        if "tf_missing" not in active:
            odometry, transform = self._odometry_messages(moment)
            delay = faults.TF_DELAY_S if "tf_late" in active else 0.0
            self._late.append((moment.elapsed + delay, lambda: (
                self.safe_publish(self._odometry, odometry),
                self.safe_publish(self._tf, transform))))
        while self._late and self._late[0][0] <= moment.elapsed:
            self._late.popleft()[1]()

    def _on_image_timer(self) -> None:
        self._due.put(self.now())
        self._worker.wake()

    def _on_plan_timer(self) -> None:
        moment = self.now()
        active = self._active(moment)
        if "plan_missing" not in active:
            self.safe_publish(self._plan, faults.faulty_plan(self._path_ahead(moment), active))

    # The worker: images.

    def _work(self) -> bool:
        moment = self._due.take()
        if moment is None:
            return False
        world_from_camera = self.world_from_base(moment.world_time) @ self.base_from_camera
        view = self._render(self.values.camera, world_from_camera, moment)
        active = self._active(moment)
        self._publish_color(view, moment, active)
        self._publish_depth(view, moment, active)
        if self.values.stereo_baseline > 0:
            self._publish_right(world_from_camera, moment, active)
        self.rate.tick()
        return True

    def _render(self, camera: PinholeCamera, world_from_camera: Array, moment: Moment) -> View:
        return self.world.render(camera, world_from_camera, moment.world_time,
                                 samples=self.values.samples)

    def _on_worker_error(self, error: BaseException) -> None:
        self.drops.count("render_failed")
        self.get_logger().error(f"an image could not be made: {error}", throttle_duration_sec=5.0)

    # Publishing.

    def _publish_color(self, view: View, moment: Moment, active: list[str]) -> None:
        header = Header(stamp=to_time(moment.stamp_ns), frame_id=CAMERA_FRAME)
        self._image_count += 1
        if "image_missing" not in active:
            image = self._image(view.image, header)
            self.safe_publish(self._color, faults.faulty_image(image, active, self._image_count))
            if self._jpeg.get_subscription_count() > 0:
                self.safe_publish(self._jpeg, images.encode_jpeg(view.image, 90, header))
        if "info_missing" not in active:
            info = cameras.to_info(view.camera, header)
            self.safe_publish(self._color_info, faults.faulty_info(info, active))

    def _publish_depth(self, view: View, moment: Moment, active: list[str]) -> None:
        if "depth_missing" in active:
            return
        frame = CAMERA_FRAME
        if self.values.separate_depth_camera:
            frame = DEPTH_FRAME
            view = self._render(self.values.depth_camera,
                                view.world_from_camera @ COLOR_FROM_DEPTH, moment)
        header = Header(stamp=to_time(moment.stamp_ns), frame_id=frame)
        pixels = self._depth_pixels(view.depth, active)
        image = images.from_array(pixels, self.values.depth_encoding, header)
        self.safe_publish(self._depth, faults.faulty_depth(image, active))
        self.safe_publish(self._depth_info, cameras.to_info(view.camera, header))

    def _depth_pixels(self, depth: npt.NDArray[np.float32],
                      active: list[str]) -> npt.NDArray[Any]:
        if "depth_nan" in active:
            depth = np.full_like(depth, np.nan)
        if "depth_size" in active:
            depth = np.ascontiguousarray(depth[: len(depth) // 2])
        wrong_unit = "depth_unit" in active
        if self.values.depth_encoding == "32FC1":
            return depth * np.float32(1000.0) if wrong_unit else depth
        counts = np.nan_to_num(depth) * (10.0 if wrong_unit else 1000.0)
        return np.where(counts < 65535.5, np.rint(counts), 0).astype(np.uint16)

    def _publish_right(self, world_from_camera: Array, moment: Moment, active: list[str]) -> None:
        baseline = self.values.stereo_baseline
        view = self._render(self.values.camera, right_camera(world_from_camera, baseline), moment)
        own = self.values.right_frame == "own"
        header = Header(stamp=to_time(moment.stamp_ns),
                        frame_id=RIGHT_FRAME if own else CAMERA_FRAME)
        info = cameras.to_info(view.camera, header)
        if not own:
            info.p[3] = -view.camera.fx * baseline
        if "right_missing" not in active:
            self.safe_publish(self._right, self._image(view.image, header))
        self.safe_publish(self._right_info, faults.faulty_info(info, active))

    def _image(self, rgb: npt.NDArray[np.uint8], header: Header) -> Image:
        encoding = self.values.image_encoding
        if encoding == "mono8":
            pixels = np.rint(rgb @ np.array([0.299, 0.587, 0.114])).astype(np.uint8)
        else:
            pixels = rgb[..., ::-1] if encoding.startswith("bgr") else rgb
            if encoding.endswith("a8"):
                pixels = np.concatenate([pixels, np.full_like(pixels[..., :1], 255)], axis=-1)
        return images.from_array(np.ascontiguousarray(pixels), encoding, header)

    def _odometry_messages(self, moment: Moment) -> tuple[Odometry, TFMessage]:
        header = Header(stamp=to_time(moment.stamp_ns), frame_id=WORLD_FRAME)
        world_from_base = self.world_from_base(moment.world_time)
        odometry = Odometry(header=header, child_frame_id=BASE_FRAME)
        odometry.pose.pose = matrix_to_pose(world_from_base)
        odometry.twist.twist.linear.x = self.speed
        transform = stamped_transform(header, BASE_FRAME, world_from_base)
        return odometry, TFMessage(transforms=[transform])

    def _publish_static_transforms(self) -> None:
        stamp = to_time(self._start_ns)
        links = [(BASE_FRAME, CAMERA_FRAME, self.base_from_camera)]
        if self.values.separate_depth_camera:
            links.append((CAMERA_FRAME, DEPTH_FRAME, COLOR_FROM_DEPTH))
        if self.values.stereo_baseline > 0:
            offset = rigid.from_rotation(np.eye(3), (self.values.stereo_baseline, 0.0, 0.0))
            links.append((CAMERA_FRAME, RIGHT_FRAME, offset))
        self.safe_publish(self._tf_static, TFMessage(transforms=[
            stamped_transform(Header(stamp=stamp, frame_id=parent), child, transform)
            for parent, child, transform in links]))

    def _path_ahead(self, moment: Moment) -> Path:
        header = Header(stamp=to_time(moment.stamp_ns), frame_id=WORLD_FRAME)
        ahead = np.arange(0.0, self.values.plan_horizon + 1e-6, _PLAN_STEP_S)
        poses = self.world.drive(self.speed, moment.world_time + ahead)
        return Path(header=header, poses=[
            PoseStamped(header=Header(stamp=to_time(moment.stamp_ns + round(later * 1e9)),
                                      frame_id=WORLD_FRAME), pose=matrix_to_pose(pose))
            for later, pose in zip(ahead, poses, strict=True)])

    # Diagnostics.

    def _report(self) -> Report:
        active = self._active(self.now())
        values = {"image_rate_hz": self.rate.hz, "images_skipped": self._due.dropped,
                  "faults": ", ".join(active) or "none", **self.drops.as_dict()}
        if active:
            return WARN, f"faults on purpose: {', '.join(active)}", values
        return OK, f"drives through the {self.values.world}", values


def main(arguments: list[str] | None = None) -> int:
    """Run the node; the process' exit code."""
    return run(SyntheticRobotNode, arguments)
