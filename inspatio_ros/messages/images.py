# SPDX-License-Identifier: Apache-2.0
"""The pixels of sensor_msgs/Image and CompressedImage messages."""

from __future__ import annotations

import importlib
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

# encoding: (channels, dtype of one value); the ones with an own path.
ENCODINGS: dict[str, tuple[int, np.dtype[Any]]] = {
    "rgb8": (3, np.dtype(np.uint8)), "bgr8": (3, np.dtype(np.uint8)),
    "rgba8": (4, np.dtype(np.uint8)), "bgra8": (4, np.dtype(np.uint8)),
    "mono8": (1, np.dtype(np.uint8)), "8UC1": (1, np.dtype(np.uint8)),
    "16UC1": (1, np.dtype(np.uint16)), "mono16": (1, np.dtype(np.uint16)),
    "32FC1": (1, np.dtype(np.float32)),
}
COLOR_ENCODINGS = ("rgb8", "bgr8", "rgba8", "bgra8", "mono8")
DEPTH_ENCODINGS = ("16UC1", "32FC1")

_RGB_FROM = {"bgr8": cv2.COLOR_BGR2RGB, "rgba8": cv2.COLOR_RGBA2RGB,
             "bgra8": cv2.COLOR_BGRA2RGB, "mono8": cv2.COLOR_GRAY2RGB}


class ImageError(ValueError):
    """An image message that cannot be read.

    reason: 'encoding' or 'layout', under which the drop is counted.
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


def to_array(message: Any) -> npt.NDArray[Any]:
    """The pixels, [H, W] or [H, W, C] in native byte order; a view of the message if possible.

    Honours `step` (padded rows) and `is_bigendian`. Raises ImageError when the encoding is not in
    ENCODINGS or the buffer is too short for its size.
    """
    if message.encoding not in ENCODINGS:
        raise ImageError("encoding", f"encoding '{message.encoding}' is not one of "
                                     f"{', '.join(ENCODINGS)}")
    channels, dtype = ENCODINGS[message.encoding]
    height, width, step = message.height, message.width, message.step
    row = width * channels * dtype.itemsize
    data = np.frombuffer(message.data, np.uint8)
    if height < 1 or width < 1 or step < row or data.size < step * (height - 1) + row:
        raise ImageError(
            "layout", f"{width}x{height} {message.encoding} with step {step} needs {row} bytes a "
            f"row and {max(0, step * (height - 1) + row)} in all, the message has {data.size}")
    if data.size < step * height:
        data = np.concatenate([data, np.zeros(step * height - data.size, np.uint8)])
    rows = data[:step * height].reshape(height, step)[:, :row]
    if step != row and (dtype.itemsize > 1 or channels == 1):
        rows = np.ascontiguousarray(rows)
    stored = dtype.newbyteorder(">" if message.is_bigendian else "<")
    pixels = rows.view(stored) if dtype.itemsize > 1 else rows
    if not stored.isnative:
        pixels = pixels.astype(dtype)
    return pixels if channels == 1 else pixels.reshape(height, width, channels)


def to_rgb(message: Any) -> npt.NDArray[np.uint8]:
    """The picture as uint8 RGB [H, W, 3]; a view of the message for rgb8.

    Encodings beyond COLOR_ENCODINGS go through cv_bridge where that is installed. Raises
    ImageError otherwise, naming what to install.
    """
    if message.encoding not in COLOR_ENCODINGS:
        return _through_cv_bridge(message)
    pixels = to_array(message)
    if message.encoding == "rgb8":
        return pixels
    return np.asarray(cv2.cvtColor(pixels, _RGB_FROM[message.encoding]), dtype=np.uint8)


def _through_cv_bridge(message: Any) -> npt.NDArray[np.uint8]:
    if message.encoding in DEPTH_ENCODINGS:
        raise ImageError("encoding", f"encoding '{message.encoding}' is a depth image's, expected "
                                     f"a colour image: {', '.join(COLOR_ENCODINGS)}")
    try:
        bridge = importlib.import_module("cv_bridge").CvBridge()
    except ImportError as error:
        raise ImageError(
            "encoding", f"encoding '{message.encoding}' is not one of "
            f"{', '.join(COLOR_ENCODINGS)}; others need the package cv_bridge "
            "(apt install ros-$ROS_DISTRO-cv-bridge)") from error
    try:
        return np.ascontiguousarray(bridge.imgmsg_to_cv2(message, "rgb8"), dtype=np.uint8)
    except Exception as error:
        raise ImageError("encoding", f"cv_bridge cannot convert encoding '{message.encoding}': "
                                     f"{error}") from error


def to_depth(message: Any) -> npt.NDArray[Any]:
    """The depth picture as stored: uint16 [H, W] (mm, 0 unknown) or float32 [H, W] (m).

    Raises ImageError on other encodings (REP 118 allows these two).
    """
    encoding = "16UC1" if message.encoding == "mono16" else message.encoding
    if encoding not in DEPTH_ENCODINGS:
        raise ImageError("encoding", f"encoding '{message.encoding}' is not a depth image's: "
                                     f"expected {' (mm) or '.join(DEPTH_ENCODINGS)} (m)")
    return to_array(message)


def decode_rgb(message: Any) -> npt.NDArray[np.uint8]:
    """The picture of a JPEG or PNG message as uint8 RGB [H, W, 3]. Raises ImageError."""
    picture = cv2.imdecode(np.frombuffer(message.data, np.uint8), cv2.IMREAD_COLOR)
    if picture is None:
        raise ImageError("layout", f"compressed image of {len(message.data)} bytes with format "
                                   f"'{message.format}' cannot be decoded")
    return np.asarray(cv2.cvtColor(picture, cv2.COLOR_BGR2RGB), dtype=np.uint8)


def is_compressed(message: Any) -> bool:
    """Whether this is a CompressedImage (else an Image)."""
    return hasattr(message, "format")
