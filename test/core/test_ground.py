# SPDX-License-Identifier: Apache-2.0
"""The ground becomes the plane y = 0 with up at -y."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inspatio_ros.geometry import rigid
from inspatio_ros.geometry.ground import ground_alignment

SMALL = st.floats(-0.6, 0.6)


def ground(pitch: float, roll: float, height: float, outliers: int) -> np.ndarray:
    """Points on a tilted plane `height` m below the camera, and some that are not."""
    rng = np.random.default_rng(0)
    flat = np.stack([rng.uniform(-3, 3, 800), np.full(800, height), rng.uniform(1, 6, 800)], 1)
    tilted = rigid.transform_points(rigid.from_euler(roll, pitch, 0.0), flat)
    return np.concatenate([tilted, rng.uniform(-3, 3, (outliers, 3))])


@settings(max_examples=12, deadline=None)
@given(SMALL, SMALL, st.floats(0.5, 2.0), st.integers(0, 300))
def test_the_ground_lies_flat(pitch: float, roll: float, height: float, outliers: int) -> None:
    points = ground(pitch, roll, height, outliers)
    alignment = ground_alignment(points)
    aligned = rigid.transform_points(alignment, points)
    # The method takes a plane from which most points lie within 0.1 on either side.
    assert np.percentile(np.abs(aligned[:800, 1] - np.median(aligned[:800, 1])), 80) < 0.1
    # The shift is that of the mean of all points of the mask, as in the public release.
    assert abs(aligned[:, 1].mean()) < 1e-9
    # Things above the ground have smaller y: up stays up.
    above = rigid.from_euler(roll, pitch, 0.0)[:3, :3] @ np.array([0.0, -1.0, 0.0])
    assert (alignment[:3, :3] @ above)[1] < -0.9


def test_flat_ground_is_only_shifted_and_too_little_is_left_alone() -> None:
    flat = ground_alignment(ground(0.0, 0.0, 1.5, 0))
    np.testing.assert_allclose(flat, rigid.from_rotation(np.eye(3), (0, -1.5, 0)), atol=1e-9)
    np.testing.assert_array_equal(ground_alignment(np.zeros((9, 3))), np.eye(4))


def test_scattered_points_get_the_plane_of_least_squares() -> None:
    rng = np.random.default_rng(3)
    scattered = rng.uniform(-50, 50, (400, 3)) * (1.0, 0.4, 1.0)
    turn = ground_alignment(scattered)
    aligned = rigid.transform_points(turn, scattered)
    assert aligned[:, 1].std() == pytest.approx(aligned.std(axis=0).min(), rel=0.02)
