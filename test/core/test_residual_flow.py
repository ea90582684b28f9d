# SPDX-License-Identifier: Apache-2.0
"""Flow is sought where two pictures differ, and only there."""

from __future__ import annotations

import cv2
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from inspatio_ros.memory.residual_flow import (
    CELL_PX,
    LEAST_COUNT,
    ResidualFlow,
    count_differing,
    windows_of,
)

SIZE = (416, 240)


def texture(shape: tuple[int, int], seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    noise = rng.uniform(0, 255, shape).astype(np.float32)
    return np.clip((cv2.GaussianBlur(noise, (0, 0), 2.0) - 127) * 5 + 127, 0, 255).astype(np.uint8)


def two_pictures(shift: int) -> tuple[np.ndarray, np.ndarray]:
    """A square that has moved to the right before a background that stands."""
    now, before = texture((240, 416), 1), texture((240, 416), 1)
    thing = texture((60, 60), 2)
    now[90:150, 200:260] = thing
    before[90:150, 200 - shift:260 - shift] = thing
    return now, before


def places() -> np.ndarray:
    return np.stack(np.meshgrid(np.arange(416.0), np.arange(240.0)), -1).astype(np.float32)


def test_flow_is_found_where_something_moved_and_nothing_is_made_elsewhere() -> None:
    now, before = two_pictures(6)
    standing = np.ones(now.shape, np.bool_)
    counts = count_differing(now, before, standing, places(), 7.0)
    flow = ResidualFlow()(now, before, counts)
    inside = flow[100:140, 210:250]
    np.testing.assert_allclose(np.median(inside, axis=(0, 1)), [-6.0, 0.0], atol=0.3)
    assert not flow[:, :120].any()
    assert not flow[:, 340:].any()


def test_equal_pictures_and_what_does_not_stand_ask_for_nothing() -> None:
    now, before = two_pictures(6)
    standing = np.ones(now.shape, np.bool_)
    assert not count_differing(now, now, standing, places(), 7.0).any()
    assert not count_differing(now, before, ~standing, places(), 7.0).any()
    # Nor what the earlier picture did not show.
    assert not count_differing(now, before, standing, places() - 500, 7.0).any()
    assert not ResidualFlow()(now, before, np.zeros((30, 52), np.uint8)).any()


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 29), st.integers(0, 51)), max_size=6))
def test_windows_hold_all_cells_and_do_not_overlap(cells: list[tuple[int, int]]) -> None:
    counts = np.zeros((30, 52), np.uint8)
    for cell in cells:
        counts[cell] = LEAST_COUNT
    covered = np.zeros(SIZE[::-1], np.int32)
    for x, y, width, height in windows_of(counts, SIZE):
        assert min(x, y) >= 0
        assert x + width <= SIZE[0]
        assert y + height <= SIZE[1]
        covered[y:y + height, x:x + width] += 1
    assert covered.max(initial=0) <= 1
    for row, column in cells:
        assert covered[row * CELL_PX:(row + 1) * CELL_PX,
                       column * CELL_PX:(column + 1) * CELL_PX].all()
