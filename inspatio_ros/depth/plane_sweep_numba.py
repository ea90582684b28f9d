# SPDX-License-Identifier: Apache-2.0
# Numba unifies number types where mypy sees a reassignment.
# mypy: disable-error-code="assignment"
"""CPU kernels of the plane sweep; described where they are called, in `motion_stereo`.

Every kernel works on a span of rows or columns and releases the GIL, so that plain threads share
the work.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

OUTSIDE = np.uint32(0x80000000)  # a census code of a pixel that the picture does not have
MAX_COST = 24  # bits of a census code
COST_OF_BIT = 12  # divisible by 1, 2, 3 and 4, the numbers of pictures compared
_RADIUS = 2


@njit(cache=True, nogil=True, error_model="numpy")
def census(grey: Any, mask: Any, codes: Any, first: int, last: int) -> None:
    """Census codes (Zabih and Woodfill 1994) of 5 x 5 windows, rows first..last."""
    height, width = grey.shape
    for y in range(first, last):
        for x in range(width):
            if (y < _RADIUS or x < _RADIUS or y >= height - _RADIUS or x >= width - _RADIUS
                    or mask[y, x] == 0):
                codes[y, x] = OUTSIDE
                continue
            here = grey[y, x]
            code = np.uint32(0)
            for dy in range(-_RADIUS, _RADIUS + 1):
                for dx in range(-_RADIUS, _RADIUS + 1):
                    if dx != 0 or dy != 0:
                        code = np.uint32(code << np.uint32(1)) | np.uint32(
                            grey[y + dy, x + dx] < here)
            codes[y, x] = code


@njit(cache=True, nogil=True, inline="always")
def _bits(value: Any) -> Any:
    """Number of bits set; every step is cast back, for Numba widens sums and products."""
    one = np.uint32(value - ((value >> np.uint32(1)) & np.uint32(0x55555555)))
    two = np.uint32((one & np.uint32(0x33333333))
                    + ((one >> np.uint32(2)) & np.uint32(0x33333333)))
    four = np.uint32(np.uint32(two + (two >> np.uint32(4))) & np.uint32(0x0F0F0F0F))
    return np.uint32(np.uint32(four * np.uint32(0x01010101)) >> np.uint32(24))


@njit(cache=True, nogil=True, error_model="numpy")
def sweep(own: Any, others: Any, maps: Any, cost: Any, first: int, last: int) -> None:
    """Mean census distance [rows, W, D] int16 of rows first..last, COST_OF_BIT a bit.

    own uint32 [H, W]; others uint32 [P, H, W], at most 4; maps float32 [P, D, 3]: plane d puts
    pixel (u, v) of `own` at (maps 0 * u + maps 1, maps 0 * v + maps 2) of another.
    """
    height, width = own.shape
    count, planes = maps.shape[0], maps.shape[1]
    unknown = np.int16(COST_OF_BIT * MAX_COST // 2)
    total = np.zeros(planes, dtype=np.int16)
    seen = np.zeros(planes, dtype=np.int8)
    # COST_OF_BIT over the number of pictures that see the pixel, without a division a cell.
    share = np.array([0, COST_OF_BIT, COST_OF_BIT // 2, COST_OF_BIT // 3, COST_OF_BIT // 4],
                     dtype=np.int16)
    for y in range(first, last):
        for x in range(width):
            code = own[y, x]
            if code == OUTSIDE:
                cost[y, x] = unknown
                continue
            total[:] = 0
            seen[:] = 0
            for p in range(count):
                for d in range(planes):
                    scale = maps[p, d, 0]
                    u = np.int32(scale * np.float32(x) + maps[p, d, 1] + np.float32(0.5))
                    v = np.int32(scale * np.float32(y) + maps[p, d, 2] + np.float32(0.5))
                    if u < 0 or v < 0 or u >= width or v >= height:
                        continue
                    other = others[p, v, u]
                    if other != OUTSIDE:
                        total[d] += np.int16(_bits(np.uint32(code ^ other)))
                        seen[d] += np.int8(1)
            for d in range(planes):
                cost[y, x, d] = np.int16(total[d] * share[seen[d]]) if seen[d] > 0 else unknown


@njit(cache=True, nogil=True, error_model="numpy")
def _step(cost: Any, before: Any, lowest: Any, small: Any, large: Any, here: Any,
          total: Any) -> Any:
    """One step along a path of semi-global matching; returns the smallest value of `here`."""
    planes = cost.shape[0]
    jump = np.int16(lowest + large)
    for d in range(1, planes - 1):
        best = min(min(before[d], jump), np.int16(min(before[d - 1], before[d + 1]) + small))
        here[d] = np.int16(cost[d] + best - lowest)
    here[0] = np.int16(
        cost[0] + min(min(before[0], jump), np.int16(before[1] + small)) - lowest)
    end = planes - 1
    here[end] = np.int16(
        cost[end] + min(min(before[end], jump), np.int16(before[end - 1] + small)) - lowest)
    smallest = here[0]
    for d in range(planes):
        total[d] = np.int16(total[d] + here[d])
        smallest = min(smallest, here[d])
    return smallest


@njit(cache=True, nogil=True, error_model="numpy")
def along_rows(cost: Any, grey: Any, small: Any, large: Any, total: Any, first: int,
               last: int) -> None:
    """Both horizontal paths of semi-global matching, rows first..last; sets `total`."""
    _, width, planes = cost.shape
    two = np.zeros((2, planes), dtype=np.int16)
    for y in range(first, last):
        for direction in range(2):
            lowest = np.int16(0)
            two[:] = 0
            if direction == 0:
                total[y] = 0
            for i in range(width):
                x = i if direction == 0 else width - 1 - i
                previous = x - 1 if direction == 0 else x + 1
                step = 0 if i == 0 else abs(np.int32(grey[y, x]) - np.int32(grey[y, previous]))
                adapted = np.int16(max(np.int16(small + COST_OF_BIT),
                                   np.int16(large // (1 + step // 8))))
                lowest = _step(cost[y, x], two[i % 2], lowest, small, adapted,
                               two[(i + 1) % 2], total[y, x])


@njit(cache=True, nogil=True, error_model="numpy")
def along_columns(cost: Any, grey: Any, small: Any, large: Any, total: Any, first: int,
                  last: int) -> None:
    """Both vertical paths of semi-global matching, columns first..last; adds to `total`."""
    height, _, planes = cost.shape
    width = last - first
    lines = np.zeros((2, width, planes), dtype=np.int16)
    lowest = np.zeros(width, dtype=np.int16)
    for direction in range(2):
        lines[:] = 0
        lowest[:] = 0
        for i in range(height):
            y = i if direction == 0 else height - 1 - i
            previous = y - 1 if direction == 0 else y + 1
            for k in range(width):
                x = first + k
                step = 0 if i == 0 else abs(np.int32(grey[y, x]) - np.int32(grey[previous, x]))
                adapted = np.int16(max(np.int16(small + COST_OF_BIT),
                                   np.int16(large // (1 + step // 8))))
                lowest[k] = _step(cost[y, x], lines[i % 2, k], lowest[k], small, adapted,
                                  lines[(i + 1) % 2, k], total[y, x])


@njit(cache=True, nogil=True, error_model="numpy")
def choose(total: Any, cost: Any, uniqueness: Any, max_cost: Any, planes_out: Any, first: int,
           last: int) -> None:
    """The winning plane of each pixel with its fraction, NaN where it does not win clearly."""
    _, width, planes = total.shape
    for y in range(first, last):
        for x in range(width):
            best = np.int64(0)
            for d in range(1, planes):
                if total[y, x, d] < total[y, x, best]:
                    best = d
            planes_out[y, x] = np.float32(np.nan)
            if best < 1 or best >= planes - 1 or cost[y, x, best] > max_cost:
                continue
            second = np.int32(32767)
            for d in range(planes):
                if abs(d - best) > 2:
                    second = min(second, np.int32(total[y, x, d]))
            if second < uniqueness * np.float32(total[y, x, best]):
                continue
            left, mid, right = (np.float32(total[y, x, best - 1]), np.float32(total[y, x, best]),
                                np.float32(total[y, x, best + 1]))
            curve = left + right - 2 * mid
            fraction = (left - right) / (2 * curve) if curve > 0 else np.float32(0)
            planes_out[y, x] = np.float32(best) + fraction


@njit(cache=True, nogil=True, error_model="numpy")
def drop_hidden(planes: Any, move: Any, tolerance: Any, nearest: Any, kept: Any) -> None:
    """`planes` without pixels that a nearer surface hides from the other picture.

    move float32 [5]: plane i puts pixel (u, v) of one picture at ((u - move 3 + i * move 0) / z +
    move 3, (v - move 4 + i * move 1) / z + move 4) of the other with z = 1 + i * move 2.
    nearest: scratch float32 [H, W]. tolerance: planes.
    """
    height, width = planes.shape
    nearest[:] = np.float32(-1)
    for attempt in range(2):
        for y in range(height):
            for x in range(width):
                plane = planes[y, x]
                if attempt == 1:
                    kept[y, x] = plane
                if not plane > 0:
                    continue
                z = np.float32(1) + move[2] * plane
                u = np.int32((x - move[3] + move[0] * plane) / z + move[3] + np.float32(0.5))
                v = np.int32((y - move[4] + move[1] * plane) / z + move[4] + np.float32(0.5))
                if z <= 0 or u < 0 or v < 0 or u >= width or v >= height:
                    continue
                there = plane / z
                if attempt == 0:
                    nearest[v, u] = max(nearest[v, u], there)
                elif there < nearest[v, u] - tolerance:
                    kept[y, x] = np.float32(np.nan)


@njit(cache=True, nogil=True, error_model="numpy")
def fill_holes(planes: Any, filled: Any, radius: Any, needed: Any, spread: Any, first: int,
               last: int) -> None:
    """`planes` with each unknown pixel set to the mean of its window, rows first..last.

    Only where at least `needed` pixels of the window are known and all lie within `spread` planes
    of each other: one surface, not the gap between two.
    """
    height, width = planes.shape
    for y in range(first, last):
        for x in range(width):
            filled[y, x] = planes[y, x]
            if planes[y, x] > 0:
                continue
            lowest, highest = np.float32(1e9), np.float32(0)
            total, count = np.float32(0), 0
            for v in range(max(0, y - radius), min(height, y + radius + 1)):
                for u in range(max(0, x - radius), min(width, x + radius + 1)):
                    plane = planes[v, u]
                    if plane > 0:
                        lowest, highest = min(lowest, plane), max(highest, plane)
                        total += plane
                        count += 1
            if count >= needed and highest - lowest <= spread:
                filled[y, x] = total / np.float32(count)


@njit(cache=True, nogil=True, error_model="numpy")
def moments(planes: Any, sums: Any, first: Any, last: Any) -> None:
    """Moments [rows, W, 10] of known planes over their places, of each pixel alone.

    1, x, y, xx, xy, yy, d, dx, dy, dd with x, y from the middle in units of 100 px; 0 if unknown.
    """
    height, width = planes.shape
    for row in range(first, last):
        y = np.float32((row - height / 2) / 100)
        for column in range(width):
            d = planes[row, column]
            if not d > 0:
                sums[row, column] = 0
                continue
            x = np.float32((column - width / 2) / 100)
            here = sums[row, column]
            here[0], here[1], here[2] = 1, x, y
            here[3], here[4], here[5] = x * x, x * y, y * y
            here[6], here[7], here[8], here[9] = d, d * x, d * y, d * d


@njit(cache=True, nogil=True, error_model="numpy")
def spread_rows(sums: Any, weights: Any, first: Any, last: Any) -> None:
    """Add to each pixel those of its row, rows first..last in place, fading by `weights` a step.

    weights float32 [H, W]: what passes between a pixel and the one before it.
    """
    width, channels = sums.shape[1], sums.shape[2]
    own = np.empty((width, channels), np.float32)
    run = np.empty(channels, np.float32)
    for row in range(first, last):
        own[:] = sums[row]
        for x in range(1, width):
            for c in range(channels):
                sums[row, x, c] += weights[row, x] * sums[row, x - 1, c]
        run[:] = 0
        for x in range(width - 2, -1, -1):
            for c in range(channels):
                run[c] = weights[row, x + 1] * (run[c] + own[x + 1, c])
                sums[row, x, c] += run[c]


@njit(cache=True, nogil=True, error_model="numpy")
def spread_columns(sums: Any, weights: Any, first: Any, last: Any) -> None:
    """As `spread_rows`, along columns first..last."""
    height, channels = sums.shape[0], sums.shape[2]
    own = np.empty((height, channels), np.float32)
    run = np.empty(channels, np.float32)
    for x in range(first, last):
        own[:] = sums[:, x]
        for row in range(1, height):
            for c in range(channels):
                sums[row, x, c] += weights[row, x] * sums[row - 1, x, c]
        run[:] = 0
        for row in range(height - 2, -1, -1):
            for c in range(channels):
                run[c] = weights[row + 1, x] * (run[c] + own[row + 1, c])
                sums[row, x, c] += run[c]


@njit(cache=True, nogil=True, error_model="numpy")
def fill_surfaces(planes: Any, sums: Any, near: Any, support: Any, spread: Any, filled: Any,
                  first: Any, last: Any) -> None:
    """`planes` with unknown pixels set to the plane that spread moments fit, rows first..last.

    Only where `near` [H, W] is set, the weights sum to `support`, and the known planes lie within
    the share `spread` of the fit.
    """
    height, width = planes.shape
    ridge = np.float64(1e-3)
    for row in range(first, last):
        y = (row - height / 2) / 100
        for column in range(width):
            filled[row, column] = planes[row, column]
            here = sums[row, column]
            count = np.float64(here[0])
            if planes[row, column] > 0 or near[row, column] == 0 or count < support:
                continue
            x = (column - width / 2) / 100
            mx, my, md = here[1] / count, here[2] / count, here[6] / count
            xx, yy = here[3] / count - mx * mx + ridge, here[5] / count - my * my + ridge
            xy = here[4] / count - mx * my
            dx, dy = here[7] / count - mx * md, here[8] / count - my * md
            area = xx * yy - xy * xy
            if area <= 0:
                continue
            a, b = (dx * yy - dy * xy) / area, (dy * xx - dx * xy) / area
            fit = md + a * (x - mx) + b * (y - my)
            rest = here[9] / count - md * md - a * dx - b * dy
            if fit > 0 and rest < (spread * fit) ** 2:
                filled[row, column] = fit
