# SPDX-License-Identifier: Apache-2.0
"""Which recorded frame shows what an imagined one should."""

from __future__ import annotations

import numpy as np

from inspatio_ros.geometry import rigid
from inspatio_ros.pipeline.truth import MAX_PSNR, SAME_VIEW_PX, error_of, recorded_views

FOCAL, FOREGROUND = 400.0, 2.0


def found(targets: list[np.ndarray], sources: list[int], recorded: list[np.ndarray]) -> list[int]:
    return recorded_views(np.array(targets), np.array(sources), np.array(recorded),
                          foreground=FOREGROUND, focal=FOCAL).tolist()


def moved(x: float, yaw: float = 0.0) -> np.ndarray:
    return rigid.from_euler(0, 0, yaw, (x, 0, 0))


def test_the_nearest_recorded_view_within_two_pixels() -> None:
    recorded = [moved(0.1 * k, 0.02 * k) for k in range(10)]
    reach = SAME_VIEW_PX / FOCAL
    assert found([moved(0.301, 0.06), moved(0.5, 0.1)], [0, 9], recorded) == [3, 5]
    just, beyond = 0.9 * reach, 1.1 * reach
    assert found([moved(0.3, 0.06 + just), moved(0.3, 0.06 + beyond)], [0, 0], recorded) == [3, -1]
    assert found([moved(0.3 + just * FOREGROUND, 0.06), moved(0.3 + beyond * FOREGROUND, 0.06)],
                 [0, 0], recorded) == [3, -1]


def test_the_frame_it_is_made_from_is_preferred_when_as_near() -> None:
    still = [np.eye(4)] * 50
    assert found([np.eye(4)] * 3, [7, 0, 49], still) == [7, 0, 49]


def test_error_of_pictures() -> None:
    truth = np.full((4, 6, 3), 100, np.uint8)
    picture, mean, psnr = error_of(truth, truth)
    assert (picture.max(), mean, psnr) == (0, 0.0, MAX_PSNR)
    other = truth.copy()
    other[0, 0] = (70, 100, 130)
    picture, mean, psnr = error_of(other, truth)
    assert picture[0, 0] == 20
    assert picture.sum() == 20
    assert mean == np.float64(60 / 72 / 255)
    assert abs(psnr - 10 * np.log10(255**2 / (1800 / 72))) < 1e-9
