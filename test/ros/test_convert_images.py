# SPDX-License-Identifier: Apache-2.0
"""Image messages: every encoding, padded rows, byte order, and what is refused."""

from __future__ import annotations

import array
import sys

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header

from inspatio_ros.ros.convert import images


def message(pixels: np.ndarray, encoding: str, *, padding: int = 0,
            big_endian: bool = False) -> Image:
    """As a driver would send it, with `padding` bytes after each row."""
    stored = pixels.astype(pixels.dtype.newbyteorder(">" if big_endian else "<"))
    rows = np.ascontiguousarray(stored).view(np.uint8).reshape(pixels.shape[0], -1)
    rows = np.pad(rows, ((0, 0), (0, padding)), constant_values=0xAB)
    made = Image(height=pixels.shape[0], width=pixels.shape[1], encoding=encoding,
                 step=rows.shape[1], is_bigendian=int(big_endian))
    made.data = array.array("B", rows.tobytes())
    return made


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(sorted(images.ENCODINGS)), st.integers(1, 9), st.integers(1, 9),
       st.integers(0, 7), st.booleans(), st.integers(0, 2**31))
def test_any_layout_reads_back(encoding: str, height: int, width: int, padding: int,
                               big_endian: bool, seed: int) -> None:
    channels, dtype = images.ENCODINGS[encoding]
    rng = np.random.default_rng(seed)
    shape = (height, width) if channels == 1 else (height, width, channels)
    pixels = rng.integers(0, 255, shape).astype(dtype)
    read = images.to_array(message(pixels, encoding, padding=padding, big_endian=big_endian))
    assert read.dtype == dtype
    assert read.dtype.isnative
    np.testing.assert_array_equal(read, pixels)


@pytest.mark.parametrize(("encoding", "order"), [
    ("rgb8", [0, 1, 2]), ("bgr8", [2, 1, 0]), ("rgba8", [0, 1, 2]), ("bgra8", [2, 1, 0])])
def test_color_orders(encoding: str, order: list[int]) -> None:
    pixels = np.arange(2 * 3 * (4 if "a" in encoding else 3), dtype=np.uint8).reshape(2, 3, -1)
    np.testing.assert_array_equal(images.to_rgb(message(pixels, encoding, padding=5)),
                                  pixels[..., order])


def test_mono_becomes_grey_rgb() -> None:
    pixels = np.array([[0, 100, 255]], np.uint8)
    np.testing.assert_array_equal(images.to_rgb(message(pixels, "mono8"))[0, :, 1], [0, 100, 255])


def test_rgb8_is_a_view_of_the_message() -> None:
    made = message(np.zeros((4, 4, 3), np.uint8), "rgb8")
    read = images.to_rgb(made)
    made.data[0] = 77
    assert read[0, 0, 0] == 77


def test_short_buffer_says_what_is_missing() -> None:
    made = message(np.zeros((4, 4, 3), np.uint8), "rgb8")
    made.data = made.data[:20]
    with pytest.raises(images.ImageError, match="4x4 rgb8 with step 12 needs 12 bytes") as caught:
        images.to_rgb(made)
    assert caught.value.reason == "layout"


def test_step_smaller_than_a_row() -> None:
    made = message(np.zeros((4, 4, 3), np.uint8), "rgb8")
    made.step = 4
    with pytest.raises(images.ImageError, match="step 4"):
        images.to_rgb(made)


def test_last_row_may_end_without_padding() -> None:
    pixels = np.arange(12, dtype=np.uint8).reshape(3, 4)
    made = message(pixels, "mono8", padding=3)
    made.data = made.data[:-3]
    np.testing.assert_array_equal(images.to_array(made), pixels)


def test_rare_encoding_names_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cv_bridge", None)  # as where it is not installed
    with pytest.raises(images.ImageError, match="bayer_rggb8.*cv_bridge"):
        images.to_rgb(message(np.zeros((4, 4), np.uint8), "bayer_rggb8"))


def test_depth_on_the_color_topic_and_the_reverse() -> None:
    with pytest.raises(images.ImageError, match="'16UC1' is a depth image's"):
        images.to_rgb(message(np.zeros((4, 4), np.uint16), "16UC1"))
    with pytest.raises(images.ImageError, match="'rgb8' is not a depth image's"):
        images.to_depth(message(np.zeros((4, 4, 3), np.uint8), "rgb8"))


def test_fill_reuses_the_buffer() -> None:
    kept = Image()
    first = images.fill_image(kept, np.full((4, 5, 3), 7, np.uint8), "rgb8", Header())
    address = np.frombuffer(first.data, np.uint8).ctypes.data
    second = images.fill_image(kept, np.full((4, 5, 3), 9, np.uint8), "rgb8", Header())
    assert np.frombuffer(second.data, np.uint8).ctypes.data == address
    np.testing.assert_array_equal(images.to_rgb(second), 9)
    larger = images.fill_image(kept, np.full((8, 5, 3), 3, np.uint8), "rgb8", Header())
    np.testing.assert_array_equal(images.to_rgb(larger), 3)


def test_fill_refuses_another_dtype() -> None:
    with pytest.raises(ValueError, match="32FC1: got float64"):
        images.fill_image(Image(), np.zeros((2, 2)), "32FC1", Header())


def test_jpeg_there_and_back() -> None:
    x = np.linspace(0, 255, 64)
    picture = np.repeat(np.stack([x, x[::-1], x * 0 + 50], axis=-1)[None], 48, 0).astype(np.uint8)
    made = images.encode_jpeg(picture, 95, Header())
    assert made.format == "rgb8; jpeg compressed bgr8"
    assert np.abs(images.decode_rgb(made).astype(int) - picture).mean() < 3


def test_broken_jpeg() -> None:
    made = CompressedImage(format="jpeg", data=array.array("B", b"\xff\xd8 not a picture"))
    with pytest.raises(images.ImageError, match="16 bytes with format 'jpeg' cannot be decoded"):
        images.decode_rgb(made)


def test_png_with_one_channel_is_read_as_rgb() -> None:
    done, payload = cv2.imencode(".png", np.full((3, 4), 9, np.uint8))
    assert done
    made = CompressedImage(format="mono8; png compressed", data=array.array("B", bytes(payload)))
    np.testing.assert_array_equal(images.decode_rgb(made), np.full((3, 4, 3), 9))
