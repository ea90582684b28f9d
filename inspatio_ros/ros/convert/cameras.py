# SPDX-License-Identifier: Apache-2.0
"""The CameraInfo message of a camera (reading one: messages.cameras)."""

from __future__ import annotations

import numpy as np
from sensor_msgs.msg import CameraInfo
from std_msgs.msg import Header

from inspatio_ros.geometry.camera import PinholeCamera
from inspatio_ros.messages.cameras import (
    CameraInfoError,
    is_distorted,
    require_calibrated,
    to_calibration,
    to_camera,
)

__all__ = [
    "CameraInfoError", "is_distorted", "require_calibrated", "to_calibration", "to_camera",
    "to_info",
]


def to_info(camera: PinholeCamera, header: Header) -> CameraInfo:
    """The message of a rectified camera: no distortion, P = [K | 0]."""
    matrix = camera.matrix
    return CameraInfo(
        header=header, width=camera.width, height=camera.height, distortion_model="plumb_bob",
        d=[0.0] * 5, k=matrix.ravel(), r=np.eye(3).ravel(),
        p=np.hstack([matrix, np.zeros((3, 1))]).ravel())
