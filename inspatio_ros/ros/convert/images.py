# SPDX-License-Identifier: Apache-2.0
"""Image messages of arrays, without copies where possible (reading: messages.images)."""

from __future__ import annotations

import array
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header

from inspatio_ros.messages.images import (
    COLOR_ENCODINGS,
    DEPTH_ENCODINGS,
    ENCODINGS,
    ImageError,
    decode_rgb,
    to_array,
    to_depth,
    to_rgb,
)

__all__ = [
    "COLOR_ENCODINGS", "DEPTH_ENCODINGS", "ENCODINGS", "ImageError", "decode_rgb", "encode_jpeg",
    "fill_image", "from_array", "to_array", "to_depth", "to_rgb",
]


def fill_image(message: Image, pixels: npt.NDArray[Any], encoding: str, header: Header) -> Image:
    """Put pixels into a message that is kept and reused: no allocation while the size stays.

    Only safe because publish() copies. pixels: [H, W] or [H, W, C] of the encoding's dtype.
    Raises ValueError when they are not what the encoding says.
    """
    channels, dtype = ENCODINGS[encoding]
    shape = pixels.shape if pixels.ndim == 3 else (*pixels.shape, 1)
    if pixels.dtype != dtype or len(shape) != 3 or shape[2] != channels:
        raise ValueError(f"{encoding}: got {pixels.dtype} {pixels.shape}")
    message.header = header
    message.encoding = encoding
    message.height, message.width = pixels.shape[:2]
    message.step = message.width * channels * dtype.itemsize
    message.is_bigendian = 0
    contiguous = np.ascontiguousarray(pixels.astype(dtype.newbyteorder("<"), copy=False))
    if len(message.data) == contiguous.nbytes:
        np.frombuffer(message.data, np.uint8)[:] = contiguous.view(np.uint8).ravel()
    else:
        data = array.array("B")
        data.frombytes(memoryview(contiguous).cast("B"))
        message.data = data
    return message


def from_array(pixels: npt.NDArray[Any], encoding: str, header: Header) -> Image:
    """A new image message with these pixels, see `fill_image`."""
    return fill_image(Image(), pixels, encoding, header)


def encode_jpeg(
    rgb: npt.NDArray[np.uint8], quality: int, header: Header
) -> CompressedImage:
    """A JPEG message of a uint8 RGB picture, with image_transport's format string."""
    done, payload = cv2.imencode(
        ".jpg", cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, quality])
    if not done:
        raise ValueError(f"cannot encode a picture of shape {rgb.shape} as jpeg")
    message = CompressedImage(header=header, format="rgb8; jpeg compressed bgr8")
    message.data = array.array("B", payload.tobytes())
    return message
