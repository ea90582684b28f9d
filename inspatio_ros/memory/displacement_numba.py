# SPDX-License-Identifier: Apache-2.0
# Numba unifies number types where mypy sees a reassignment.
# mypy: disable-error-code="assignment,call-overload"
"""CPU kernel that tells how badly shifted points agree with a picture and its depth."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

# What a point costs that lies outside of the picture or where depth is unknown, or behind
# something; and grey values of difference that cost as much as being seen through, which is 1.
OUTSIDE, HIDDEN, GRAY = np.float32(0.4), np.float32(0.5), np.float32(48.0)
# Ways are judged every so manyth first, so that a good one is known early.
STRIDE = 13


@njit(nogil=True, cache=True, error_model="numpy")
def disagreement(
    xyz: Any, values: Any, shifts: Any, intrinsics: Any, gray: Any, depth: Any, tolerance: Any,
    costs: Any, agreeing: Any, least: Any, slack: Any,
) -> None:
    """Add up what each shift costs.

    xyz float32 [3, P]: points in the camera's frame; values float32 [P]: their grey; shifts
    float32 [N, 3]: in that frame; intrinsics float32 [4]; gray uint8, depth float32 [H, W];
    tolerance: relative depth that is the same. Adds to costs float32 [N], and to agreeing
    int32 [N] the number of points that are seen at their depth. A way that costs by `slack` more
    than the best one with `least` or more of these is not judged to its end: its cost is then only
    known to be so much at least.
    """
    height, width = depth.shape
    best = np.float32(np.inf)
    rows = (shifts.shape[0] + STRIDE - 1) // STRIDE
    for k in range(rows * STRIDE):
        n = k % rows * STRIDE + k // rows
        if n >= shifts.shape[0]:
            continue
        total, count, limit = np.float32(0.0), 0, best + slack - costs[n]
        for i in range(xyz.shape[1]):
            if total > limit:
                break
            z = xyz[2, i] + shifts[n, 2]
            if not z > np.float32(0.1):
                total += OUTSIDE
                continue
            u = (xyz[0, i] + shifts[n, 0]) / z * intrinsics[0] + intrinsics[2] + np.float32(0.5)
            v = (xyz[1, i] + shifts[n, 1]) / z * intrinsics[1] + intrinsics[3] + np.float32(0.5)
            if not (u >= 0 and v >= 0 and u < width and v < height):
                total += OUTSIDE
                continue
            row, column = np.int64(v), np.int64(u)
            there, margin = depth[row, column], tolerance * z + np.float32(0.05)
            if not there > 0:
                total += OUTSIDE
            elif there > z + margin:
                total += np.float32(1.0)
            elif there < z - margin:
                total += HIDDEN
            else:
                count += 1
                total += min(abs(np.float32(gray[row, column]) - values[i]) / GRAY,
                             np.float32(1.0))
        costs[n] += total
        agreeing[n] += count
        if agreeing[n] >= least:
            best = min(best, costs[n])
