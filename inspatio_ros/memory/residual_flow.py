# SPDX-License-Identifier: Apache-2.0
"""Flow that is left once the camera's motion is taken out, where two pictures differ at all.

Most of a picture then lies on itself: flow is sought only in windows round what does not.
"""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from inspatio_ros.memory import motion_numba as kernels

Float = npt.NDArray[np.float32]
Gray = npt.NDArray[np.uint8]
Window = tuple[int, int, int, int]

# Side of the cells in which differing pixels are counted, px; so many of them ask for flow, in
# windows that reach so many cells farther, and are as large at least, px.
CELL_PX, LEAST_COUNT, MARGIN_CELLS, LEAST_SIDE = 8, 8, 1, 64
# Windows that cover more than this share of the picture are the whole picture.
MOST = 0.75


class ResidualFlow:
    """Flow by DIS (Kroeger 2016, OpenCV's) from a picture to one that was brought to it."""

    def __init__(self) -> None:
        self._flow = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_ULTRAFAST)
        self._flow.setFinestScale(1)

    def __call__(self, gray: Gray, warped: Gray, differing: Gray) -> Float:
        """Flow float32 [H, W, 2] px; 0 outside of the windows round `differing` cells."""
        windows = windows_of(differing, (gray.shape[1], gray.shape[0]))
        flow = np.zeros((*gray.shape, 2), np.float32)
        for x, y, width, height in windows:
            part = np.s_[y:y + height, x:x + width]
            # The stubs do not know that no first guess may be given.
            flow[part] = self._flow.calc(  # type: ignore[call-overload]
                np.ascontiguousarray(gray[part]), np.ascontiguousarray(warped[part]), None)
        return flow


def windows_of(differing: Gray, size: tuple[int, int]) -> list[Window]:
    """Windows (x, y, width, height) of a picture (width, height) that do not overlap and hold all
    cells [h, w] with enough `differing` pixels (`count_differing`)."""
    width, height = size
    asked = (differing >= LEAST_COUNT).astype(np.uint8)
    grown = cv2.dilate(asked, np.ones((2 * MARGIN_CELLS + 1,) * 2, np.uint8))
    _, _, stats, _ = cv2.connectedComponentsWithStats(grown, connectivity=8)
    windows = [_fitted(tuple(int(v) * CELL_PX for v in row[:4]), size) for row in stats[1:]]
    merged = True
    while merged:
        merged = False
        for i, one in enumerate(windows):
            for other in windows[i + 1:]:
                if _overlap(one, other):
                    windows.remove(one)
                    windows[windows.index(other)] = _around(one, other)
                    merged = True
                    break
            if merged:
                break
    if sum(w * h for _, _, w, h in windows) > MOST * width * height:
        return [(0, 0, width, height)]
    return windows


def _fitted(window: tuple[int, ...], size: tuple[int, int]) -> Window:
    """A window that is large enough for flow and lies within the picture."""
    starts, sides = [], []
    for start, side, whole in zip(window[:2], window[2:], size, strict=True):
        wanted = min(max(side, LEAST_SIDE), whole)
        start = min(max(start - (wanted - side) // 2, 0), whole - wanted)
        starts.append(start)
        sides.append(wanted)
    return starts[0], starts[1], sides[0], sides[1]


def _overlap(one: Window, other: Window) -> bool:
    return all(one[k] < other[k] + other[k + 2] and other[k] < one[k] + one[k + 2] for k in (0, 1))


def _around(one: Window, other: Window) -> Window:
    low = [min(one[k], other[k]) for k in (0, 1)]
    high = [max(one[k] + one[k + 2], other[k] + other[k + 2]) for k in (0, 1)]
    return low[0], low[1], high[0] - low[0], high[1] - low[1]


def count_differing(smooth: Gray, warped: Gray, standing: npt.NDArray[np.bool_], places: Float,
                    noise: float) -> Gray:
    """Pixels by cell that stand and differ from the earlier picture, which showed their place."""
    height, width = smooth.shape
    counts = np.zeros((-(-height // CELL_PX), -(-width // CELL_PX)), np.uint8)
    kernels.count_differing(smooth, warped, standing, places, np.float32(noise), CELL_PX, counts)
    return counts
