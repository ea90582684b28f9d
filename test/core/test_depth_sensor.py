# SPDX-License-Identifier: Apache-2.0
"""Sensor depth: units, REP 117 values, wrong units, flying pixels, holes, compressed transport."""

from __future__ import annotations

import struct

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from inspatio_ros.depth.sensor_depth import (
    DepthError,
    DepthOptions,
    decode_compressed_depth,
    decode_depth,
    encode_compressed_depth,
    to_metres,
    with_closed_holes,
    without_flying_pixels,
)
from inspatio_ros.geometry import rigid
from inspatio_ros.geometry.camera import PinholeCamera
from inspatio_ros.worlds.room import room

RAW = DepthOptions(flying_pixel_jump=0.0, close_radius=0)
NAN = np.float32(np.nan)


def test_16uc1_is_millimetres_and_zero_unknown() -> None:
    depth = decode_depth(np.array([[0, 1500, 2000]], np.uint16), "16UC1", RAW)
    np.testing.assert_allclose(depth, [[NAN, 1.5, 2.0]], rtol=1e-6)
    assert depth.dtype == np.float32


def test_32fc1_knows_rep_117() -> None:
    sent = np.array([[np.nan, np.inf, -np.inf, 0.0, -1.0, 0.05, 2.0, 90.0]], np.float32)
    depth = decode_depth(sent, "32FC1", RAW)
    np.testing.assert_array_equal(np.isfinite(depth[0]), [0, 0, 0, 0, 0, 0, 1, 0])


def test_unit_is_applied() -> None:
    depth = decode_depth(np.array([[15000]], np.uint16), "16UC1",
                         DepthOptions(unit=1e-4, flying_pixel_jump=0.0))
    np.testing.assert_allclose(depth, 1.5)


@pytest.mark.parametrize(("picture", "encoding"), [
    (np.full((4, 4), 20, np.uint16), "16UC1"),  # centimetres or a scaled 8-bit picture
    (np.full((4, 4), 2300.0, np.float32), "32FC1"),  # millimetres as float
])
def test_wrong_unit_is_named(picture: np.ndarray, encoding: str) -> None:
    with pytest.raises(DepthError, match=r"median of .* m.*set input\.depth_unit") as caught:
        decode_depth(picture, encoding)
    assert caught.value.reason == "unit"


@pytest.mark.parametrize(("picture", "encoding"), [
    (np.zeros((4, 4), np.uint16), "16UC1"),
    (np.full((4, 4), np.nan, np.float32), "32FC1"),
    (np.full((4, 4), np.inf, np.float32), "32FC1"),
])
def test_a_picture_without_depth_is_an_error(picture: np.ndarray, encoding: str) -> None:
    with pytest.raises(DepthError, match=r"4x4.*no valid pixel") as caught:
        decode_depth(picture, encoding)
    assert caught.value.reason == "empty"


def test_wrong_encoding_and_dtype_are_named() -> None:
    with pytest.raises(DepthError, match="'rgb8' is not supported.*32FC1") as caught:
        decode_depth(np.ones((2, 2), np.uint16), "rgb8")
    assert caught.value.reason == "encoding"
    with pytest.raises(DepthError, match=r"expected uint16 \[H, W\], got float32 \[2, 2, 1\]"):
        decode_depth(np.ones((2, 2, 1), np.float32), "16UC1")


def room_depth() -> np.ndarray:
    camera = PinholeCamera(320, 240, 260.0, 260.0, 159.5, 119.5)
    pose = rigid.from_euler(0.0, 0.3, 2.2, (1.7, -1.2, 1.3)) @ rigid.BODY_FROM_OPTICAL
    return room().render(camera, pose).depth


def test_flying_pixels_go_and_true_ones_stay() -> None:
    clean = room_depth()
    # A sensor mixes the light of what lies on both sides of a silhouette.
    mixed = cv2.GaussianBlur(clean, (3, 3), 0)
    edge = cv2.dilate(clean, np.ones((3, 3))) / cv2.erode(clean, np.ones((3, 3))) > 1.25
    flying = edge & (np.abs(mixed - clean) > 0.08 * clean)
    sent = np.where(flying, mixed, clean).astype(np.float32)
    assert flying.sum() > 200
    kept = without_flying_pixels(sent, 0.08) > 0
    assert kept[flying].mean() < 0.35
    assert kept[~edge].mean() > 0.998
    # Of all depths that are wrong by much, most are gone.
    wrong = np.abs(sent - clean) > 0.08 * clean
    assert (wrong & kept).sum() < 0.35 * wrong.sum()


def test_an_exact_picture_keeps_its_pixels() -> None:
    depth = room_depth()
    assert (without_flying_pixels(depth, 0.08) > 0).mean() > 0.995


def test_speckles_go_and_a_thin_pole_in_front_stays() -> None:
    depth = np.full((9, 9), 4.0, np.float32)
    depth[2, 2] = 1.0  # one pixel that nothing supports
    depth[:, 6] = 1.5  # a pole one pixel wide
    out = without_flying_pixels(depth, 0.08)
    assert np.isnan(out[2, 2])
    assert np.all(out[:, 6] == 1.5)
    assert np.isnan(out).sum() == 1


def test_pixels_between_unknown_and_another_surface_go() -> None:
    row = np.array([NAN, NAN, 2.0, 1.0, 1.0, 1.0], np.float32)
    depth = np.repeat(row[None], 5, 0)
    out = without_flying_pixels(depth, 0.08)
    assert np.isnan(out[:, 2]).all()
    assert np.all(out[:, 3:] == 1.0)


def test_ring_holes_close_on_a_surface_and_not_across_a_step() -> None:
    rays = 1.0 / np.linspace(1.0, 0.8, 30)  # a slanted plane
    plane = np.repeat(rays[None].astype(np.float32), 30, 0)
    holed = plane.copy()
    yy, xx = np.mgrid[:30, :30]
    ring = np.abs(np.hypot(yy - 15, xx - 15) - 7) < 0.8
    holed[ring] = NAN
    closed = with_closed_holes(holed, 2, 0.05)
    assert (closed > 0).all()
    np.testing.assert_allclose(closed, plane, rtol=0.01)
    step = plane.copy()
    step[:, 15:] += 2.0
    step[10:20, 14:16] = NAN
    assert np.isnan(with_closed_holes(step, 2, 0.05)[10:20, 14:16]).all()
    open_border = plane.copy()
    open_border[:, :3] = NAN  # nothing on the other side: not a hole
    assert np.isnan(with_closed_holes(open_border, 2, 0.05)[:, :3]).all()


def test_decode_applies_cleaning_options() -> None:
    picture = np.full((9, 9), 2000, np.uint16)
    picture[4, 4] = 0
    picture[1, 1] = 900
    depth = decode_depth(picture, "16UC1", DepthOptions(close_radius=1))
    assert depth[4, 4] == pytest.approx(2.0)
    assert depth[1, 1] == pytest.approx(2.0)  # a speckle, removed, then closed


@pytest.mark.parametrize("options", [
    {"unit": -1.0}, {"min_depth": 3.0, "max_depth": 2.0}, {"flying_pixel_jump": -0.1}])
def test_impossible_options_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="not possible|not be negative"):
        DepthOptions(**options)


@settings(max_examples=30, deadline=None)
@given(hnp.arrays(np.uint16, hnp.array_shapes(min_dims=2, max_dims=2, max_side=20)))
def test_compressed_16uc1_round_trips(picture: np.ndarray) -> None:
    data, text = encode_compressed_depth(picture, "16UC1")
    back, encoding = decode_compressed_depth(data, text)
    assert (encoding, text) == ("16UC1", "16UC1; compressedDepth png")
    np.testing.assert_array_equal(back, picture)


@settings(max_examples=30, deadline=None)
@given(hnp.arrays(np.float32, (5, 7), elements=st.floats(0.25, 12.0, width=32)))
def test_compressed_32fc1_round_trips_within_its_step(picture: np.ndarray) -> None:
    picture[0, 0] = NAN
    data, text = encode_compressed_depth(picture, "32FC1", max_depth=10.0)
    back, encoding = decode_compressed_depth(data, text)
    assert encoding == "32FC1"
    assert back.dtype == np.float32
    near = picture <= 10.0
    np.testing.assert_array_equal(back > 0, near)
    step = picture**2 / 10100
    assert np.all(np.abs(back - picture)[near] <= 0.51 * step[near] + 1e-5)


def test_compressed_reads_the_published_layout() -> None:
    # As compressed_depth_image_transport writes it: {int32 format, float a, float b} then PNG.
    counts = np.array([[0, 1000, 20000]], np.uint16)
    a, b = 10100.0, -1009.0
    data = struct.pack("<iff", 1, a, b) + cv2.imencode(".png", counts)[1].tobytes()
    depth, encoding = decode_compressed_depth(data, "32FC1; compressedDepth")
    assert encoding == "32FC1"
    np.testing.assert_allclose(depth, [[np.nan, a / (1000 - b), a / (20000 - b)]], rtol=1e-6)


def test_damaged_compressed_depth_is_refused() -> None:
    good, text = encode_compressed_depth(np.ones((8, 8), np.uint16), "16UC1")
    huge = bytearray(good)
    huge[12 + 16:12 + 24] = struct.pack(">II", 1 << 30, 1 << 30)
    wrong_depth = bytes(12) + cv2.imencode(".png", np.ones((4, 4), np.uint8))[1].tobytes()
    for data, image_format, message in (
            (b"", text, "cut short"), (good[:40], text, "damaged|pixels"),
            (good[:12] + b"\0" * 50, "16UC1; compressedDepth rvl", "RVL"),
            (bytes(huge), text, "claims"), (wrong_depth, text, "16 bit"),
            (good, "32FC1; compressedDepth png", "expected inverse depth"),
            (good, "bgr8; jpeg", "not supported")):
        with pytest.raises(DepthError, match=message):
            decode_compressed_depth(data, image_format)


def test_uint16_in_metres_does_not_overflow() -> None:
    assert to_metres(np.array([[65535]], np.uint16), "16UC1")[0, 0] == pytest.approx(65.535)
