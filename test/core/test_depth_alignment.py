# SPDX-License-Identifier: Apache-2.0
"""Relative depth is brought to metres by few and partly wrong metric points."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inspatio_ros.depth.alignment import align_inverse_depth
from inspatio_ros.depth.estimator import EstimatorRegistry
from inspatio_ros.geometry import rigid
from inspatio_ros.geometry.camera import PinholeCamera
from inspatio_ros.worlds.room import room

CAMERA = PinholeCamera(160, 120, 130.0, 130.0, 79.5, 59.5)
TRUTH = room().render(CAMERA, rigid.from_euler(0, 0.2, 2.2, (1.8, -1.2, 1.3))
                      @ rigid.BODY_FROM_OPTICAL).depth


def sparse(rng: np.random.Generator, share: float, wrong: float) -> np.ndarray:
    """True depth at a share of the pixels, some of it nonsense."""
    metric = np.where(rng.random(TRUTH.shape) < share, TRUTH, np.nan).astype(np.float32)
    nonsense = rng.random(TRUTH.shape) < wrong
    metric[nonsense] *= rng.uniform(0.3, 3.0, int(nonsense.sum())).astype(np.float32)
    return metric


@settings(max_examples=25, deadline=None)
@given(scale=st.floats(0.05, 50.0), shift=st.floats(-0.15, 0.5), seed=st.integers(0, 1000))
def test_scale_and_shift_are_found_among_outliers(scale: float, shift: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    noise = 1 + rng.normal(0, 0.01, TRUTH.shape)
    relative = ((1 / TRUTH - shift) / scale * noise).astype(np.float32)
    metric = sparse(rng, 0.02, 0.3)
    aligned = align_inverse_depth(relative, metric)
    error = np.abs(aligned.depth(relative) - TRUTH) / TRUTH
    assert np.median(error) < 0.03
    assert aligned.inlier_ratio > 0.6
    # Least squares over all points, which outliers pull, is what this must beat.
    known = metric > 0
    a, b = np.polyfit(relative[known], 1 / metric[known], 1)
    with np.errstate(divide="ignore"):
        naive = np.abs(1 / (a * relative + b) - TRUTH) / TRUTH
    assert np.median(error) < np.median(naive)


def test_same_input_same_result() -> None:
    metric = sparse(np.random.default_rng(0), 0.5, 0.2)
    assert align_inverse_depth(1 / TRUTH, metric) == align_inverse_depth(1 / TRUTH, metric)


def test_beyond_infinity_is_unknown() -> None:
    aligned = align_inverse_depth(1 / TRUTH + 0.1, TRUTH)
    assert aligned.shift == pytest.approx(-0.1, abs=1e-4)
    np.testing.assert_array_equal(aligned.depth(np.array([[0.05, 0.1 + 0.25]])) > 0, [[0, 1]])


def test_hopeless_input_is_refused() -> None:
    rng = np.random.default_rng(1)
    with pytest.raises(ValueError, match="differ in size"):
        align_inverse_depth(TRUTH[1:], TRUTH)
    with pytest.raises(ValueError, match="only 0 points"):
        align_inverse_depth(1 / TRUTH, np.full_like(TRUTH, np.nan))
    with pytest.raises(ValueError, match="does not fit"):
        align_inverse_depth(rng.random(TRUTH.shape), rng.uniform(0.1, 50, TRUTH.shape).astype(
            np.float32))
    with pytest.raises(ValueError, match="does not fit"):
        align_inverse_depth(TRUTH, TRUTH)  # depth where inverse depth is expected


def test_estimators_are_chosen_by_name() -> None:
    class Flat:
        is_metric = True

        def estimate(self, image: np.ndarray, camera: PinholeCamera) -> np.ndarray:
            return np.full(image.shape[:2], 2.0, np.float32)

        def close(self) -> None:
            pass

    registry = EstimatorRegistry()
    with pytest.raises(ValueError, match="no depth estimator 'flat': there are: none"):
        registry.make("flat")
    registry.register("flat", Flat)
    estimator = registry.make("flat")
    assert estimator.estimate(np.zeros((2, 3, 3), np.uint8), CAMERA).shape == (2, 3)
    with pytest.raises(ValueError, match="did you mean 'flat'"):
        registry.make("flatt")
    with pytest.raises(ValueError, match="already"):
        registry.register("flat", Flat)
    assert registry.names == ("flat",)
