# SPDX-License-Identifier: Apache-2.0
"""The camera of a sensor_msgs/CameraInfo message."""

from __future__ import annotations

from typing import Any

import numpy as np

from inspatio_ros.depth.rectification import CameraCalibration
from inspatio_ros.geometry.camera import PinholeCamera


class CameraInfoError(ValueError):
    """A calibration that cannot be used.

    reason: 'uncalibrated' or 'distorted' or 'size', under which the drop is counted.
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


def is_distorted(info: Any) -> bool:
    """Whether the calibration carries a lens distortion or a rectifying rotation."""
    rotation = np.asarray(info.r, dtype=np.float64).reshape(3, 3)
    turned = rotation.any() and not np.allclose(rotation, np.eye(3), atol=1e-9)
    return bool(turned or any(abs(value) > 1e-12 for value in info.d))


def require_calibrated(info: Any, topic: str) -> None:
    """Raise CameraInfoError naming `topic` unless the message carries a calibration."""
    if not info.k[0] > 0 or not np.isfinite(np.asarray(info.k)).all():
        raise CameraInfoError(
            "uncalibrated", f"{topic}: camera '{info.header.frame_id}' is not calibrated "
            f"(K[0] = {info.k[0]:g}); calibrate it and load the result in its driver")
    if info.width < 1 or info.height < 1:
        raise CameraInfoError(
            "uncalibrated", f"{topic}: camera '{info.header.frame_id}' says its picture is "
            f"{info.width}x{info.height}")


def to_camera(info: Any, topic: str) -> PinholeCamera:
    """The rectified camera of the picture that comes with this message, binning and ROI applied.

    From the left 3x3 of P (K where P is not filled). Raises CameraInfoError naming `topic` when
    uncalibrated. Whether the picture is rectified is the caller's question, see `is_distorted`.
    """
    require_calibrated(info, topic)
    projection = np.asarray(info.p, dtype=np.float64).reshape(3, 4)[:, :3]
    matrix = projection if projection[0, 0] > 0 else np.asarray(info.k).reshape(3, 3)
    try:
        full = PinholeCamera.from_matrix(matrix, info.width, info.height)
    except ValueError as error:
        raise CameraInfoError("uncalibrated", f"{topic}: {error}") from error
    return _window(info, full)


def _window(info: Any, full: PinholeCamera) -> PinholeCamera:
    """Region of interest (in full-resolution pixels; all zero means everything), then binning."""
    roi = info.roi
    if roi.width and roi.height:
        full = full.cropped(roi.x_offset, roi.y_offset, roi.width, roi.height)
    return full.binned(info.binning_x, info.binning_y)


def to_calibration(info: Any, topic: str) -> CameraCalibration:
    """Everything the message says of the raw picture. Raises CameraInfoError naming `topic`.

    Binning and ROI are refused: rectify such pictures with image_proc.
    """
    require_calibrated(info, topic)
    if max(info.binning_x, info.binning_y) > 1 or info.roi.width or info.roi.height:
        raise CameraInfoError("distorted", f"{topic}: raw pictures with binning or a region of "
                                           "interest are not rectified here; run image_proc")
    try:
        return CameraCalibration(
            info.width, info.height, info.distortion_model, tuple(info.d),
            np.asarray(info.k, dtype=np.float64).reshape(3, 3),
            np.asarray(info.r, dtype=np.float64).reshape(3, 3),
            np.asarray(info.p, dtype=np.float64).reshape(3, 4))
    except ValueError as error:
        raise CameraInfoError("uncalibrated", f"{topic}: {error}") from error
