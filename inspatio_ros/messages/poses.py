# SPDX-License-Identifier: Apache-2.0
"""Stamps, poses and transforms of messages."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from inspatio_ros.geometry import rigid

Array = npt.NDArray[np.float64]


def to_ns(stamp: Any) -> int:
    """Nanoseconds of a message's time or duration."""
    return int(stamp.sec) * 1_000_000_000 + int(stamp.nanosec)


def pose_to_matrix(pose: Any) -> Array:
    """The transform of a pose. Raises ValueError when it holds no rotation or no position."""
    p, q = pose.position, pose.orientation
    return rigid.from_quaternion((q.x, q.y, q.z, q.w), (p.x, p.y, p.z))


def transform_to_matrix(transform: Any) -> Array:
    """The 4x4 of a transform message. Raises ValueError as `pose_to_matrix`."""
    t, q = transform.translation, transform.rotation
    return rigid.from_quaternion((q.x, q.y, q.z, q.w), (t.x, t.y, t.z))
