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


# A cell whose share of known pixels is one of so many has a fit that replaces the coarser one.
_ENOUGH = 16.0


@njit(nogil=True, cache=True, error_model="numpy")
def planes(inverse: Any, ridge: Any, out: Any) -> None:
    """Inverse depth [H, W] (0 where unknown) with planes where it is unknown.

    Sums of weight, place and value over a pyramid of 2x2 cells give each cell, with its 8
    neighbours, a fit of a plane; ridge times its squared side draws its slope towards the coarser
    one's. From the coarsest on, planes replace what is carried down as far as cells are known.
    """
    height, width = inverse.shape
    rows, columns = (height + 1) // 2, (width + 1) // 2
    starts = [0]
    sizes = [(rows, columns)]
    total = rows * columns
    while rows > 1 or columns > 1:
        starts.append(total)
        rows, columns = (rows + 1) // 2, (columns + 1) // 2
        sizes.append((rows, columns))
        total += rows * columns
    sums = np.zeros((total, 9), np.float32)
    unit = np.float32(1.0 / max(height, width))
    columns = sizes[0][1]
    for y in range(height):
        b = np.float32(y) * unit - np.float32(0.5)
        for x in range(width):
            v = inverse[y, x]
            if v > 0:
                a = np.float32(x) * unit - np.float32(0.5)
                s = sums[(y // 2) * columns + x // 2]
                s[0] += np.float32(1)
                s[1] += a
                s[2] += b
                s[3] += v
                s[4] += a * a
                s[5] += a * b
                s[6] += b * b
                s[7] += a * v
                s[8] += b * v
    for level in range(1, len(sizes)):
        finer, coarser = starts[level - 1], starts[level]
        for y in range(sizes[level - 1][0]):
            for x in range(sizes[level - 1][1]):
                s = sums[coarser + (y // 2) * sizes[level][1] + x // 2]
                t = sums[finer + y * sizes[level - 1][1] + x]
                for i in range(9):
                    s[i] += t[i]
    fits = np.zeros((total, 3), np.float32)
    m = np.zeros(9, np.float32)
    up = np.zeros(3, np.float32)
    for back in range(len(sizes)):
        level = len(sizes) - 1 - back
        rows, columns = sizes[level]
        pixels = np.float32(4.0 ** (level + 1))
        drawn = np.float32(ridge) * unit * unit * pixels
        for y in range(rows):
            for x in range(columns):
                up[:] = 0
                if back:
                    _between(fits, starts[level + 1], sizes[level + 1], y, x, up)
                m[:] = 0
                cells = 0
                for j in range(max(y - 1, 0), min(y + 2, rows)):
                    for i in range(max(x - 1, 0), min(x + 2, columns)):
                        t = sums[starts[level] + j * columns + i]
                        cells += 1
                        if t[0] > 0:
                            for k in range(9):
                                m[k] += t[k]
                fit = fits[starts[level] + y * columns + x]
                if m[0] <= 0:
                    fit[:] = up
                    continue
                for k in range(1, 9):
                    m[k] /= m[0]
                xx = m[4] - m[1] * m[1] + drawn
                xy = m[5] - m[1] * m[2]
                yy = m[6] - m[2] * m[2] + drawn
                xv = m[7] - m[1] * m[3] + drawn * up[0]
                yv = m[8] - m[2] * m[3] + drawn * up[1]
                det = xx * yy - xy * xy
                a = (yy * xv - xy * yv) / det
                b = (xx * yv - xy * xv) / det
                c = m[3] - a * m[1] - b * m[2]
                share = min(np.float32(1.0), np.float32(_ENOUGH) * m[0] / (pixels * cells))
                if back == 0:
                    share = np.float32(1.0)
                fit[0] = up[0] + share * (a - up[0])
                fit[1] = up[1] + share * (b - up[1])
                fit[2] = up[2] + share * (c - up[2])
    for y in range(height):
        b = np.float32(y) * unit - np.float32(0.5)
        for x in range(width):
            v = inverse[y, x]
            if not v > 0:
                _between(fits, 0, sizes[0], y, x, up)
                v = up[0] * (np.float32(x) * unit - np.float32(0.5)) + up[1] * b + up[2]
            out[y, x] = v


@njit(nogil=True, cache=True, error_model="numpy")
def _between(fits: Any, start: Any, size: Any, y: Any, x: Any, out: Any) -> None:
    """Cell (y, x) of a grid twice as fine: out [3] between the nearest four of fits [n, 3]."""
    rows, columns = size
    v, u = 0.5 * y - 0.25, 0.5 * x - 0.25
    j, i = int(np.floor(v)), int(np.floor(u))
    q, p = np.float32(v - j), np.float32(u - i)
    top, bottom = start + max(j, 0) * columns, start + min(j + 1, rows - 1) * columns
    left, right = max(i, 0), min(i + 1, columns - 1)
    one = np.float32(1.0)
    for k in range(3):
        out[k] = ((one - q) * ((one - p) * fits[top + left, k] + p * fits[top + right, k])
                  + q * ((one - p) * fits[bottom + left, k] + p * fits[bottom + right, k]))
