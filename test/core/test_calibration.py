# SPDX-License-Identifier: Apache-2.0
"""Predicted against real errors: known reliabilities, sorting, recalibration, bounds."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from inspatio_ros.evaluation.calibration import (
    ErrorCalibration,
    MonotoneMap,
    color_error,
    prior_error,
    sparsification,
)

errors = st.floats(0.0, 1.0, allow_nan=False)
many_pairs = st.lists(st.tuples(errors, errors), min_size=1, max_size=60)


def filled(pairs: list[tuple[float, float]], capacity: int = 4096) -> ErrorCalibration:
    calibration = ErrorCalibration(capacity, minimum=1)
    for predicted, error in pairs:
        calibration.add(predicted, error)
    return calibration


def test_a_true_prediction_is_reliable_and_sorts_perfectly() -> None:
    values = np.linspace(0.01, 0.5, 200)
    calibration = ErrorCalibration()
    calibration.add(values, values)
    curve = calibration.reliability(10)
    np.testing.assert_allclose(curve.predicted, curve.error)
    assert curve.gap == pytest.approx(0.0, abs=1e-12)
    assert calibration.ause == pytest.approx(0.0, abs=1e-12)
    assert curve.count.tolist() == [20] * 10


def test_a_prediction_that_is_half_too_small_has_that_gap_but_sorts_well() -> None:
    values = np.linspace(0.1, 0.5, 100)
    calibration = ErrorCalibration()
    calibration.add(values / 2, values)
    assert calibration.reliability().gap == pytest.approx(0.15)
    assert calibration.ause == pytest.approx(0.0, abs=1e-12)
    np.testing.assert_allclose(calibration.recalibrated([0.1, 0.2]), [0.2, 0.4], rtol=0.03)


def test_the_worst_order_and_no_order_have_their_known_areas() -> None:
    # Half of the errors 0, half 1: perfect order leaves 2 (0.5 - r) / (1 - r) of the mean.
    error = np.repeat([0.0, 1.0], 500)
    random = sparsification(np.zeros(1000), error)
    np.testing.assert_allclose(random.by_prediction, 1.0)
    perfect_area = 2 * (0.5 - 0.5 * math.log(2))  # integral of (1 - 2r) / (1 - r) to 1/2
    assert random.ause == pytest.approx(1 - perfect_area, abs=5e-3)
    worst = sparsification(1 - error, error)
    assert worst.ause > 1.5 * random.ause
    assert sparsification(error, error).ause == 0.0


def test_recalibration_waits_for_pairs() -> None:
    calibration = ErrorCalibration(minimum=8)
    calibration.add(np.full(7, 0.1), np.full(7, 0.3))
    assert math.isnan(float(calibration.recalibrated(0.1)))
    assert calibration.map is None
    calibration.add(0.1, 0.3)
    assert float(calibration.recalibrated(0.9)) == pytest.approx(0.3)
    assert calibration.map is not None


def test_memory_is_bounded_and_the_oldest_leave() -> None:
    calibration = ErrorCalibration(capacity=10, minimum=1)
    for number in range(25):
        calibration.add(number / 100, number / 100)
    assert (len(calibration), calibration.seen) == (10, 25)
    np.testing.assert_allclose(calibration.pairs[:, 0], np.arange(15, 25) / 100)
    at_once = ErrorCalibration(capacity=10, minimum=1)
    at_once.add(np.arange(25) / 100, np.arange(25) / 100)
    np.testing.assert_array_equal(at_once.pairs, calibration.pairs)
    calibration.clear()
    assert len(calibration) == 0
    assert math.isnan(calibration.ause)
    assert math.isnan(calibration.reliability().gap)


def test_what_is_no_error_is_refused_and_counted() -> None:
    calibration = ErrorCalibration()
    calibration.add([0.1, np.nan, 0.1, -0.1, np.inf], [0.1, 0.1, np.nan, 0.1, 0.1])
    assert (len(calibration), calibration.refused) == (1, 4)
    with pytest.raises(ValueError, match="predictions"):
        calibration.add([0.1, 0.2], [0.1])
    with pytest.raises(ValueError, match="capacity 3"):
        ErrorCalibration(capacity=3, minimum=4)


@given(many_pairs)
def test_recalibration_never_decreases_and_keeps_the_range(
        pairs: list[tuple[float, float]]) -> None:
    calibration = filled(pairs)
    values = calibration.recalibrated(np.linspace(0, 1, 50))
    assert (np.diff(values) >= 0).all()
    real = np.array(pairs)[:, 1]
    assert values.min() >= real.min() - 1e-12
    assert values.max() <= real.max() + 1e-12


@given(st.lists(errors, min_size=1, max_size=25))
def test_isotonic_regression_is_the_minimax_of_means(real: list[float]) -> None:
    """Its closed form: the greatest over beginnings of the least over ends of the mean."""
    y = np.array(real)
    expected = [max(min(y[j:k + 1].mean() for k in range(i, len(y))) for j in range(i + 1))
                for i in range(len(y))]
    fitted = MonotoneMap.fitted(np.arange(len(y)), y)
    # Between two blocks the map is a line, so that its steps are looked up at the blocks' middles.
    steps = [expected[int(x)] for x in fitted.x]
    np.testing.assert_allclose(fitted.y, steps, atol=1e-9)
    assert len(fitted.y) >= len({round(value, 9) for value in expected})


@given(many_pairs)
def test_the_area_is_never_negative_and_blind_to_scale(pairs: list[tuple[float, float]]) -> None:
    x, y = np.array(pairs).T
    if y.mean() <= 1e-9:
        return
    area = sparsification(x, y).ause
    assert area >= -1e-9
    assert sparsification(x, 0.5 * y).ause == pytest.approx(area, abs=1e-9)


def test_a_map_survives_json_and_refuses_nonsense() -> None:
    made = MonotoneMap.fitted([0.1, 0.2, 0.3, 0.4], [0.1, 0.3, 0.2, 0.4])
    np.testing.assert_allclose(made([0.25, 9.0]), [0.25, 0.4])
    again = MonotoneMap.from_dict(json.loads(json.dumps(made.to_dict())))
    np.testing.assert_array_equal(again.x, made.x)
    with pytest.raises(ValueError, match="monotone map"):
        MonotoneMap(np.array([0.0, 1.0]), np.array([1.0, 0.0]))
    with pytest.raises(ValueError, match="finite pairs"):
        MonotoneMap.fitted([], [])


def test_the_prior_grows_with_what_is_imagined_and_with_time() -> None:
    seen, invented = prior_error(1, 0, 0, 0.5), prior_error(0, 0, 1, 0.5)
    assert 0 < seen < prior_error(0, 1, 0, 0.5) < invented < 1
    assert prior_error(0.5, 0.2, 0.3, 2.0) > prior_error(0.5, 0.2, 0.3, 1.0)
    assert prior_error(0, 0, 1, 1e9) == 1.0


def test_the_real_error_is_a_share_of_the_range() -> None:
    black, white = np.zeros((4, 6, 3), np.uint8), np.full((4, 6, 3), 255, np.uint8)
    assert color_error(black, white) == 1.0
    assert color_error(white, white) == 0.0
    with pytest.raises(ValueError, match="pictures differ"):
        color_error(black, white[:2])
