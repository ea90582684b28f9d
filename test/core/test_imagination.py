# SPDX-License-Identifier: Apache-2.0
"""Block plan, filler, assessment and the engine on an analytic room."""

from __future__ import annotations

import numpy as np
import numpy.testing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from inspatio_ros.geometry import rigid
from inspatio_ros.imagination.assessment import extrapolation, provenance_ratios
from inspatio_ros.imagination.blocks import BlockPlan
from inspatio_ros.imagination.filler import fill_holes, nearest_blurred, push_pull
from inspatio_ros.sensing.observation import Provenance

counts = st.integers(1, 60)


@given(st.integers(1, 500), counts, counts)
def test_block_plan_delivers_every_frame_once(frames: int, block: int, first: int) -> None:
    plan = BlockPlan(frames, block, first)
    spans = list(plan)
    assert len(spans) == len(plan)
    assert [f for s in spans for f in range(s.start, s.stop)] == list(range(frames))
    assert [s.index for s in spans] == list(range(len(spans)))
    assert all(s.frames == s.padded for s in spans[:-1])
    assert spans[-1].frames <= spans[-1].padded
    assert spans[0].padded == first
    assert all(s.padded == block for s in spans[1:])


@pytest.mark.parametrize("numbers", [(0, 1, 1), (1, 0, 1), (1, 1, 0)])
def test_block_plan_refuses_empty(numbers: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match="at least one"):
        BlockPlan(*numbers)


@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 2**32 - 1))
def test_push_pull_keeps_what_is_known_and_stays_in_range(h: int, w: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    values = rng.uniform(10, 200, (h, w, 2)).astype(np.float32)
    weights = (rng.random((h, w)) < 0.3).astype(np.float32)
    weights[rng.integers(h), rng.integers(w)] = 1.0
    known = weights > 0
    filled = push_pull(np.where(known[..., None], values, np.nan_to_num(np.nan)), weights)
    npt.assert_allclose(filled[known], values[known], rtol=1e-5)
    low, high = values[known].min(axis=0), values[known].max(axis=0)
    assert np.all(filled >= low - 1e-2)
    assert np.all(filled <= high + 1e-2)


def test_nearest_takes_the_closest_color() -> None:
    image = np.zeros((20, 40, 3), np.uint8)
    image[:, :5] = (200, 0, 0)
    image[:, 35:] = (0, 0, 200)
    known = np.zeros((20, 40), bool)
    known[:, :5] = known[:, 35:] = True
    filled = nearest_blurred(image, known, sigma=1.0)
    npt.assert_allclose(filled[10, 8], (200, 0, 0), atol=2)
    npt.assert_allclose(filled[10, 32], (0, 0, 200), atol=2)
    npt.assert_array_equal(filled[known], image[known])


def test_filling_changes_nothing_that_is_known_and_is_deterministic() -> None:
    rng = np.random.default_rng(0)
    image = rng.integers(0, 255, (48, 64, 3)).astype(np.uint8)
    known = rng.random((48, 64)) < 0.5
    first, second = fill_holes(image, known), fill_holes(image.copy(), known.copy())
    npt.assert_array_equal(first, second)
    npt.assert_array_equal(first[known], image[known])
    npt.assert_array_equal(fill_holes(image, np.ones_like(known)), image)
    assert np.all(fill_holes(image, np.zeros_like(known)) == 128)


def test_ratios_add_up_and_strange_labels_are_refused() -> None:
    labels = np.array([[0, 85, 170, 255], [255, 255, 255, 255]], np.uint8)
    ratios = provenance_ratios(labels)
    assert ratios[Provenance.OBSERVED] == pytest.approx(5 / 8)
    assert sum(ratios.values()) == pytest.approx(1.0)
    with pytest.raises(ValueError, match=r"no label: \[7\]"):
        provenance_ratios(np.full((2, 2), 7, np.uint8))


def test_extrapolation_is_to_the_nearest_camera() -> None:
    seen = np.stack([rigid.from_euler(0, 0, 0, (0, 0, 0)), rigid.from_euler(0, 0, 0, (5, 0, 0))])
    distance, angle = extrapolation(rigid.from_euler(0, 0, 0.2, (4.5, 0, 0)), seen)
    assert distance == pytest.approx(0.5)
    assert angle == pytest.approx(0.2)
    assert extrapolation(np.eye(4), np.zeros((0, 4, 4))) == (float("inf"), float("inf"))
