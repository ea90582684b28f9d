# SPDX-License-Identifier: Apache-2.0
"""Kernel of the coarse views: how much of each is backed, and whether its sources agree."""

from __future__ import annotations

import math

import numba
import numpy as np
from numpy.typing import NDArray

Float = NDArray[np.float32]

NOTHING = np.uint64(0xFFFFFFFFFFFFFFFF)


@numba.njit(cache=True, nogil=True, error_model="numpy")
def _draw(points: Float, sizes: Float, camera: Float, fx: float, fy: float, cx: float, cy: float,
          max_side: int, keys: NDArray[np.uint64]) -> None:
    """Nearest point of each pixel as depth (mm) << 32 | index into keys [h, w]."""
    height, width = keys.shape
    for i in range(points.shape[1]):
        x, y, z = points[0, i], points[1, i], points[2, i]
        d = camera[2, 0] * x + camera[2, 1] * y + camera[2, 2] * z + camera[2, 3]
        if not d > 0.05:
            continue
        u = (camera[0, 0] * x + camera[0, 1] * y + camera[0, 2] * z + camera[0, 3]) / d * fx + cx
        v = (camera[1, 0] * x + camera[1, 1] * y + camera[1, 2] * z + camera[1, 3]) / d * fy + cy
        if not (-max_side < u < width + max_side and -max_side < v < height + max_side):
            continue
        side = min(max(sizes[i] * fx / d, 1.0), float(max_side))
        left, top = int(math.floor(u - 0.5 * side + 1.0)), int(math.floor(v - 0.5 * side + 1.0))
        count = int(side + 0.5)
        key = (np.uint64(d * 1000.0) << np.uint64(32)) | np.uint64(i)
        for row in range(max(top, 0), min(top + count, height)):
            for column in range(max(left, 0), min(left + count, width)):
                if key < keys[row, column]:
                    keys[row, column] = key


@numba.njit(cache=True, nogil=True, error_model="numpy", parallel=True)
def look(seen: Float, seen_sizes: Float, seen_colors: NDArray[np.uint8], known: Float,
         known_sizes: Float, known_colors: NDArray[np.uint8], cameras: Float, intrinsics: Float,
         width: int, height: int, max_side: int, depth_tolerance: float, color_tolerance: float,
         counts: NDArray[np.int64]) -> None:
    """Draw what is seen now and what is remembered into V views and compare.

    seen, known [3, P] m of one frame; cameras [V, 3, 4] camera from that frame; colours [P, 3].
    counts [V, 3]: pixels that either backs, that both back at the same depth or where what is seen
    lies behind what is remembered, and of these those that agree in depth and colour.
    """
    for view in numba.prange(cameras.shape[0]):
        first = np.full((height, width), NOTHING)
        second = np.full((height, width), NOTHING)
        fx, fy, cx, cy = intrinsics[0], intrinsics[1], intrinsics[2], intrinsics[3]
        _draw(seen, seen_sizes, cameras[view], fx, fy, cx, cy, max_side, first)
        _draw(known, known_sizes, cameras[view], fx, fy, cx, cy, max_side, second)
        backed = both = agreeing = 0
        for row in range(height):
            for column in range(width):
                a, b = first[row, column], second[row, column]
                if a != NOTHING or b != NOTHING:
                    backed += 1
                if a == NOTHING or b == NOTHING:
                    continue
                near, far = np.float64(a >> np.uint64(32)), np.float64(b >> np.uint64(32))
                # What is seen hides what is remembered behind it: no contradiction.
                if far > near * (1.0 + depth_tolerance):
                    continue
                both += 1
                i, j = int(a & np.uint64(0xFFFFFFFF)), int(b & np.uint64(0xFFFFFFFF))
                difference = 0.0
                for k in range(3):
                    difference += abs(float(seen_colors[i, k]) - float(known_colors[j, k]))
                if near <= far * (1.0 + depth_tolerance) and difference <= 3.0 * color_tolerance:
                    agreeing += 1
        counts[view, 0], counts[view, 1], counts[view, 2] = backed, both, agreeing
