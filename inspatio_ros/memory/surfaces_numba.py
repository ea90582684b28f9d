# SPDX-License-Identifier: Apache-2.0
# Numba unifies number types where mypy sees a reassignment.
# mypy: disable-error-code="assignment,call-overload"
"""CPU kernels on depth pictures; described where they are called, in `surfaces`."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit, prange


@njit(parallel=True, nogil=True, cache=True, error_model="numpy")
def close_gaps(depth: Any, reach: Any, tolerance: Any) -> Any:
    """Depth with narrow gaps closed: between two known pixels on opposite sides of an unknown one.

    Both within `reach` pixels and of like depth (relative `tolerance`), else they are no one
    surface. Interpolated in inverse depth, in which planes are linear; the mean over the four
    directions, nearer pairs weighing more.
    """
    rows, columns = depth.shape
    result = depth.copy()
    for row in prange(rows):
        for column in range(columns):
            if depth[row, column] > 0:
                continue
            total, weights = np.float32(0.0), np.float32(0.0)
            for direction in range(4):
                dx = np.int64(0) if direction == 1 else np.int64(1)
                dy = np.int64(0) if direction == 0 else (np.int64(-1) if direction == 3
                                                         else np.int64(1))
                before, after = np.int64(0), np.int64(0)
                for step in range(1, reach + 1):
                    y, x = row - step * dy, column - step * dx
                    if y < 0 or x < 0 or y >= rows or x >= columns:
                        break
                    if depth[y, x] > 0:
                        before = step
                        break
                if before == 0:
                    continue
                for step in range(1, reach + 1):
                    y, x = row + step * dy, column + step * dx
                    if y < 0 or x < 0 or y >= rows or x >= columns:
                        break
                    if depth[y, x] > 0:
                        after = step
                        break
                if after == 0:
                    continue
                one = depth[row - before * dy, column - before * dx]
                other = depth[row + after * dy, column + after * dx]
                if abs(one - other) > tolerance * min(one, other):
                    continue
                span = np.float32(before + after)
                weight = np.float32(1) / span
                total += weight * (np.float32(after) / one + np.float32(before) / other) / span
                weights += weight
            if weights > 0:
                result[row, column] = weights / total
    return result


@njit(parallel=True, nogil=True, cache=True, error_model="numpy")
def reduce(depth: Any, width: Any, height: Any, tolerance: Any) -> Any:
    """Depth at a lower resolution: the mean of the nearest surface in each pixel's window."""
    rows, columns = depth.shape
    result = np.full((height, width), np.nan, np.float32)
    for row in prange(height):
        top = row * rows // height
        bottom = max((row + 1) * rows // height, top + 1)
        for column in range(width):
            left = column * columns // width
            right = max((column + 1) * columns // width, left + 1)
            nearest = np.float32(np.inf)
            for y in range(top, bottom):
                for x in range(left, right):
                    if depth[y, x] > 0:
                        nearest = min(nearest, depth[y, x])
            total, count = np.float32(0.0), np.float32(0.0)
            limit = nearest * (np.float32(1.0) + tolerance)
            for y in range(top, bottom):
                for x in range(left, right):
                    if depth[y, x] > 0 and depth[y, x] <= limit:
                        total += depth[y, x]
                        count += np.float32(1.0)
            if count > 0:
                result[row, column] = total / count
    return result


@njit(parallel=True, nogil=True, cache=True, error_model="numpy")
def nearest_and_edges(depth: Any, jump: Any, nearest: Any, edges: Any) -> None:
    """3x3 minimum, and pixels beside a jump."""
    height, width = depth.shape
    for row in prange(height):
        for column in range(width):
            own = depth[row, column]
            edges[row, column] = False
            nearest[row, column] = np.float32(np.nan)
            if not own > 0:
                continue
            low, high = own, own
            for y in range(max(row - 1, 0), min(row + 2, height)):
                for x in range(max(column - 1, 0), min(column + 2, width)):
                    if depth[y, x] > 0:
                        low, high = min(low, depth[y, x]), max(high, depth[y, x])
            nearest[row, column] = low
            edges[row, column] = own - low > jump * low or high - own > jump * own


@njit(parallel=True, nogil=True, cache=True, error_model="numpy")
def tidy(
    image: Any, depth: Any, tolerance: Any, keep: Any, close: Any, out_image: Any, out_depth: Any
) -> None:
    """A drawn cloud without its lonely pixels and small holes.

    Of the 24 pixels around: one with fewer than `keep` of like depth (relative `tolerance`) is
    dropped; an empty one with at least `close` that are of like depth takes their mean.
    """
    height, width = depth.shape
    for row in prange(height):
        for column in range(width):
            top, bottom = max(row - 2, 0), min(row + 3, height)
            left, right = max(column - 2, 0), min(column + 3, width)
            own = depth[row, column]
            known = own > 0
            alike, red, green, blue = 0, 0, 0, 0
            total = np.float32(0.0)
            if known:
                band = own * tolerance
                for y in range(top, bottom):
                    for x in range(left, right):
                        alike += abs(depth[y, x] - own) <= band
                    if alike > keep:
                        break
            else:
                own, around = np.float32(np.inf), 0
                for y in range(top, bottom):
                    for x in range(left, right):
                        if depth[y, x] > 0:
                            own = min(own, depth[y, x])
                            around += 1
                if around >= close:
                    # Of the nearest surface around, which may slope a little.
                    limit = own * (np.float32(1.0) + np.float32(3.0) * tolerance)
                    for y in range(top, bottom):
                        for x in range(left, right):
                            if depth[y, x] <= limit:
                                alike += 1
                                total += depth[y, x]
                                red += np.int64(image[y, x, 0])
                                green += np.int64(image[y, x, 1])
                                blue += np.int64(image[y, x, 2])
            if known and alike > keep:
                out_depth[row, column] = depth[row, column]
                out_image[row, column, 0] = image[row, column, 0]
                out_image[row, column, 1] = image[row, column, 1]
                out_image[row, column, 2] = image[row, column, 2]
            elif not known and alike >= close:
                out_depth[row, column] = total / np.float32(alike)
                out_image[row, column, 0] = np.uint8((red + alike // 2) // alike)
                out_image[row, column, 1] = np.uint8((green + alike // 2) // alike)
                out_image[row, column, 2] = np.uint8((blue + alike // 2) // alike)
            else:
                out_depth[row, column] = np.float32(np.nan)
                out_image[row, column, 0] = 0
                out_image[row, column, 1] = 0
                out_image[row, column, 2] = 0
