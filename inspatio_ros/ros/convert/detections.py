# SPDX-License-Identifier: Apache-2.0
"""vision_msgs/Detection3DArray as boxes in the world. The package is optional: installed or not,
the node runs; only `moving.detections` needs it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from inspatio_ros.memory.moving import Detection
from inspatio_ros.ros.convert.paths import pose_to_matrix
from inspatio_ros.ros.convert.stamps import to_ns

# More boxes in one message than this are no detections.
MAX_DETECTIONS = 500


class DetectionsMissing(RuntimeError):
    """moving.detections is asked for, but its message type is not installed."""


def detections_message() -> type:
    """vision_msgs/msg/Detection3DArray. Raises DetectionsMissing where it is not installed."""
    try:
        from vision_msgs.msg import Detection3DArray
    except ImportError as error:
        raise DetectionsMissing(
            "moving.detections is true, but the package vision_msgs is not installed: "
            "apt install ros-$ROS_DISTRO-vision-msgs, or set moving.detections to false"
        ) from error
    found: type = Detection3DArray
    return found


def to_detections(message: Any, world_from: Callable[[str, int], npt.NDArray[np.float64]],
                  min_score: float) -> list[Detection]:
    """The boxes of a Detection3DArray in the world; those scored below `min_score` are left out.

    world_from(frame, stamp_ns) gives [4, 4]. A box without a stamp or frame takes the array's.
    Raises ValueError on a size or pose that is not finite, or too many boxes.
    """
    if len(message.detections) > MAX_DETECTIONS:
        raise ValueError(f"detections: {len(message.detections)} boxes in one message, at most "
                         f"{MAX_DETECTIONS}")
    boxes = []
    for found in message.detections:
        best = max(found.results, key=lambda r: r.hypothesis.score, default=None)
        if best is not None and best.hypothesis.score < min_score:
            continue
        header = found.header if found.header.frame_id else message.header
        stamp_ns = to_ns(header.stamp) or to_ns(message.header.stamp)
        size = np.array([found.bbox.size.x, found.bbox.size.y, found.bbox.size.z])
        if not (np.isfinite(size).all() and (size > 0).all()):
            raise ValueError(f"detections: a box has the size {size.tolist()} m")
        pose = pose_to_matrix(found.bbox.center)
        boxes.append(Detection(stamp_ns, world_from(header.frame_id.lstrip("/"), stamp_ns) @ pose,
                               size, "" if best is None else str(best.hypothesis.class_id)))
    return boxes
