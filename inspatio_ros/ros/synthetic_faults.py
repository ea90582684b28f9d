# SPDX-License-Identifier: Apache-2.0
"""Faults that the synthetic robot commits on purpose, and when."""

from __future__ import annotations

import array
import copy
import difflib
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from nav_msgs.msg import Path
from sensor_msgs.msg import CameraInfo, Image

FAULTS = {
    "image_missing": "no color images",
    "image_encoding": "color images say bayer_rggb8",
    "image_padded": "rows of color and depth images are padded: step is larger than the row",
    "image_truncated": "the data of color images end in the middle",
    "info_missing": "no camera_info of the color camera",
    "info_uncalibrated": "camera_info with K, R and P all zero",
    "info_distorted": "camera_info with lens distortion",
    "info_size": "camera_info of half the image's size",
    "two_cameras": "every other color image comes from another frame_id",
    "depth_missing": "no depth images",
    "depth_nan": "depth without a single valid pixel",
    "depth_unit": "depth in a wrong unit: 32FC1 in mm, 16UC1 in dm",
    "depth_encoding": "depth images say 8UC1",
    "depth_big_endian": "depth images in big-endian byte order, and say so",
    "depth_size": "depth images of another size than their camera_info",
    "right_missing": "no images of the right camera",
    "tf_missing": "neither tf nor odometry",
    "tf_late": "tf and odometry 0.3 s late",
    "time_jump": "time and robot jump back by 5 s, once",
    "plan_missing": "no plan",
    "plan_empty": "a plan without poses",
    "plan_one_pose": "a plan of one pose",
    "plan_unstamped": "plan poses without stamps",
    "plan_nan": "a plan with a NaN position",
    "plan_not_unit": "plan quaternions of length 2",
    "plan_zero_quaternion": "plan quaternions of length 0",
    "plan_unknown_frame": "a plan in the frame 'nowhere'",
    "plan_huge": "a plan of 100 000 poses",
}
TF_DELAY_S = 0.3
TIME_JUMP_S = 5.0
HUGE_PLAN = 100_000


@dataclass(frozen=True)
class Fault:
    """One kind of fault from `begin` until `end`, seconds since the robot started."""

    kind: str
    begin: float
    end: float


class FaultScript:
    """Faults by time. Raises ValueError on a line that names no fault or no time span."""

    def __init__(self, lines: Sequence[str]) -> None:
        self.faults = tuple(_parsed(line) for line in lines if line.strip())

    def active(self, kind: str, elapsed: float) -> bool:
        """Whether a kind of fault is on `elapsed` seconds after the start."""
        if kind not in FAULTS:
            raise KeyError(kind)
        return any(f.kind == kind and f.begin <= elapsed < f.end for f in self.faults)

    def all_active(self, elapsed: float) -> list[str]:
        """The kinds of fault that are on, in the order of FAULTS."""
        return [kind for kind in FAULTS if self.active(kind, elapsed)]


def _parsed(line: str) -> Fault:
    """A fault from 'kind', 'kind begin' or 'kind begin end'."""
    kind, *times = line.split()
    if kind not in FAULTS:
        close = difflib.get_close_matches(kind, FAULTS, 1)
        hint = f"did you mean '{close[0]}'?" if close else f"known are {', '.join(FAULTS)}"
        raise ValueError(f"faults: no fault '{kind}': {hint}")
    try:
        numbers = [float(time) for time in times]
    except ValueError as error:
        raise ValueError(f"faults: '{line}': expected 'kind [begin [end]]' in seconds") from error
    begin, end = [*numbers, *([0.0, math.inf][len(numbers):])][:2]
    if len(numbers) > 2 or not 0 <= begin < end:
        raise ValueError(f"faults: '{line}': expected 'kind [begin [end]]' with begin < end")
    return Fault(kind, begin, end)


def padded(message: Image, padding: int = 13) -> Image:
    """The image with `padding` bytes of noise after each row."""
    rows = np.frombuffer(message.data, np.uint8).reshape(message.height, message.step)
    wide = np.full((message.height, message.step + padding), 0xA5, np.uint8)
    wide[:, :message.step] = rows
    changed = _with_data(message, wide.tobytes())
    changed.step = message.step + padding
    return changed


def big_endian(message: Image) -> Image:
    """The 16UC1 or 32FC1 image with the bytes of each value turned round."""
    size = {"16UC1": 2, "32FC1": 4}[message.encoding]
    turned = np.frombuffer(message.data, f"u{size}").byteswap().tobytes()
    changed = _with_data(message, turned)
    changed.is_bigendian = 1
    return changed


def truncated(message: Image) -> Image:
    """The image with half of its data."""
    return _with_data(message, bytes(message.data[:len(message.data) // 2]))


def renamed(message: Image, encoding: str) -> Image:
    """The image with another encoding written on it."""
    changed = _with_data(message, bytes(message.data))
    changed.encoding = encoding
    return changed


def _with_data(message: Image, data: bytes) -> Image:
    changed = Image(
        header=message.header, height=message.height, width=message.width, step=message.step,
        encoding=message.encoding, is_bigendian=message.is_bigendian)
    changed.data = array.array("B", data)
    return changed


def faulty_info(info: CameraInfo, kinds: Sequence[str]) -> CameraInfo:
    """The camera_info as these faults leave it."""
    changed = copy.deepcopy(info)
    if "info_uncalibrated" in kinds:
        changed.k, changed.r, changed.p, changed.d = [0.0] * 9, [0.0] * 9, [0.0] * 12, []
    if "info_distorted" in kinds:
        changed.d = [-0.3, 0.1, 0.001, -0.001, 0.0]
    if "info_size" in kinds:
        changed.width, changed.height = info.width // 2, info.height // 2
    return changed


def faulty_image(image: Image, kinds: Sequence[str], count: int) -> Image:
    """The color image number `count` as these faults leave it."""
    if "two_cameras" in kinds and count % 2:
        image.header = copy.deepcopy(image.header)
        image.header.frame_id = "other_camera_optical"
    if "image_padded" in kinds:
        image = padded(image)
    if "image_encoding" in kinds:
        image = renamed(image, "bayer_rggb8")
    if "image_truncated" in kinds:
        image = truncated(image)
    return image


def faulty_depth(image: Image, kinds: Sequence[str]) -> Image:
    """The depth image as these faults leave it; 'depth_nan' and 'depth_unit' are earlier."""
    if "depth_big_endian" in kinds:
        image = big_endian(image)
    if "image_padded" in kinds:
        image = padded(image)
    if "depth_encoding" in kinds:
        image = renamed(image, "8UC1")
    return image


def faulty_plan(plan: Path, kinds: Sequence[str]) -> Path:
    """The plan as these faults leave it."""
    if "plan_empty" in kinds:
        plan.poses = []
    if "plan_one_pose" in kinds:
        plan.poses = plan.poses[:1]
    if "plan_unknown_frame" in kinds:
        plan.header.frame_id = "nowhere"
    if "plan_nan" in kinds and plan.poses:
        plan.poses[len(plan.poses) // 2].pose.position.x = math.nan
    for stamped in plan.poses:
        if "plan_unknown_frame" in kinds:
            stamped.header.frame_id = "nowhere"
        if "plan_unstamped" in kinds:
            stamped.header.stamp.sec = stamped.header.stamp.nanosec = 0
        q = stamped.pose.orientation
        factor = 0.0 if "plan_zero_quaternion" in kinds else (
            2.0 if "plan_not_unit" in kinds else 1.0)
        q.x, q.y, q.z, q.w = q.x * factor, q.y * factor, q.z * factor, q.w * factor
    if "plan_huge" in kinds and plan.poses:
        repeats = -(-HUGE_PLAN // len(plan.poses))
        plan.poses = [stamped for stamped in plan.poses for _ in range(repeats)][:HUGE_PLAN]
    return plan
