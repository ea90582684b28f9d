# SPDX-License-Identifier: Apache-2.0
"""Hints as sharp as their guessed depth allows."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inspatio_ros.geometry import rigid
from inspatio_ros.geometry.camera import PinholeCamera
from inspatio_ros.geometry.trajectory import CameraTrajectory
from inspatio_ros.imagination import doubt as doubt_module
from inspatio_ros.imagination.backends import BackendOptions, make_backend
from inspatio_ros.imagination.doubt import _KEPT, doubt, softened
from inspatio_ros.imagination.filler import GeometricFiller
from inspatio_ros.imagination.request import ImaginationRequest
from inspatio_ros.memory.guide import Guide
from inspatio_ros.sensing.observation import Observation, Provenance

CAMERA = PinholeCamera(96, 64, 60.0, 60.0, 47.5, 31.5)
AHEAD = rigid.from_euler(0, 0, 0, (0.6, 0, 0))


def guide(seed: int = 0, hints: slice = slice(40, 96)) -> Guide:
    """Measured at 4 and 12 m to the left, hints to the right, at the same depths."""
    image = np.random.default_rng(seed).integers(0, 256, (64, 96, 3)).astype(np.uint8)
    labels = np.full((64, 96), Provenance.OBSERVED, np.uint8)
    labels[:, hints] = Provenance.IMAGINED
    everywhere = np.full((64, 96), 4.0, np.float32)
    everywhere[:32] = 12.0
    hinted = labels == Provenance.IMAGINED
    return Guide(image, np.where(hinted, np.float32(np.nan), everywhere), labels,
                 guessed=np.where(hinted, everywhere, np.float32(np.nan)))


def roughness(picture: np.ndarray, area: tuple[slice, slice]) -> float:
    return float(np.abs(np.diff(picture[area].astype(float), axis=1)).mean())


def test_doubt_grows_with_distance_and_with_the_spread_of_depths() -> None:
    distance = np.array([[0.0, 10.0, 50.0, 500.0, 5000.0]], np.float32)
    uneven = guide().shown_depth
    told = doubt(distance, uneven, 96)[0]
    assert (np.diff(told[:4]) > 0).all()
    assert told[3] == told[4]
    assert 0 < told[0] < 0.05
    assert (doubt(distance, np.full((4, 4), 3.0, np.float32), 96) < 1e-6).all()
    assert (doubt(distance, np.full((4, 4), np.nan, np.float32), 96) == 0).all()


def test_hints_are_blurred_the_farther_they_may_be_misplaced(
        monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doubt_module, "_KEPT", 0.0)
    shown = guide()
    made = softened(shown, CAMERA, AHEAD)
    backed = shown.provenance == Provenance.OBSERVED
    np.testing.assert_array_equal(made[backed], shown.image[backed])
    near, far = (slice(40, 60), slice(80, 96)), (slice(4, 24), slice(80, 96))
    rim = (slice(40, 60), slice(41, 44))
    sharp = roughness(shown.image, near)
    assert roughness(made, near) < 0.3 * sharp  # moves 9 pixels, may err by much
    assert roughness(made, near) < 0.7 * roughness(made, far)  # moves 3
    assert roughness(made, near) < 0.7 * roughness(made, rim)  # beside what was measured
    assert abs(float(made[near].mean()) - float(shown.image[near].mean())) < 6.0


def test_of_much_blurred_detail_a_share_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = guide()
    near, far = (slice(40, 60), slice(80, 96)), (slice(4, 24), slice(80, 96))
    kept = softened(shown, CAMERA, AHEAD).astype(float)
    monkeypatch.setattr(doubt_module, "_KEPT", 0.0)
    blurred = softened(shown, CAMERA, AHEAD).astype(float)
    shares = []
    for area in (near, far):
        taken = shown.image[area].astype(float) - blurred[area]
        stays = kept[area] - blurred[area]
        shares.append(float((stays * taken).sum() / np.square(taken).sum()))
        # It is the hint's own detail.
        assert np.corrcoef(stays.ravel(), taken.ravel())[0, 1] > 0.9
    # The more is blurred the more of it.
    assert 0.0 < shares[1] < 0.9 * shares[0] < _KEPT


def test_where_nothing_can_be_misplaced_all_stays() -> None:
    shown = guide()
    np.testing.assert_array_equal(softened(shown, CAMERA, np.eye(4)), shown.image)
    turned = rigid.from_euler(0, 0.3, 0)
    np.testing.assert_array_equal(softened(shown, CAMERA, turned), shown.image)
    plain = replace(shown, guessed=None)
    assert softened(plain, CAMERA, AHEAD) is plain.image


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 1000), st.integers(0, 95), st.integers(1, 96),
       st.lists(st.floats(-2, 2), min_size=3, max_size=3))
def test_any_way_and_hints(seed: int, first: int, count: int, way: list[float]) -> None:
    shown = guide(seed, slice(first, first + count))
    made = softened(shown, CAMERA, rigid.from_euler(0, 0, 0, tuple(way)))
    assert made.shape == shown.image.shape
    assert made.dtype == np.uint8
    backed = shown.provenance == Provenance.OBSERVED
    np.testing.assert_array_equal(made[backed], shown.image[backed])
    # Means of what is there are within it.
    assert made.min() >= shown.image.min()
    assert made.max() <= shown.image.max()


def test_the_filler_shows_hints_blurred() -> None:
    shown = guide()
    seen = Observation(0, shown.image, shown.shown_depth, CAMERA, np.eye(4))
    way = CameraTrajectory(np.stack([np.eye(4), AHEAD]), np.array([0.0, 1.0]))
    session = GeometricFiller().begin(ImaginationRequest(CAMERA, way, (seen,)))
    made = []
    for _ in range(2):
        session.start_fill([[shown]], (seen,))
        made += session.finish_fill()[0]
    np.testing.assert_array_equal(made[0], shown.image)
    np.testing.assert_array_equal(made[1], softened(shown, CAMERA, AHEAD))


@pytest.mark.parametrize("preset", ["geometric", "tiny_random"])
def test_warming_up_runs_what_blurs_hints(preset: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else it would be compiled while the first frames are waited for."""
    blurred = []
    monkeypatch.setattr(doubt_module, "mip", lambda *arguments: blurred.append(arguments))
    make_backend(BackendOptions(preset)).warm_up(CAMERA)
    assert blurred
