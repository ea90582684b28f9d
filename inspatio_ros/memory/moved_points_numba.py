# SPDX-License-Identifier: Apache-2.0
# Numba unifies number types where mypy sees a reassignment.
# mypy: disable-error-code="assignment,call-overload"
"""CPU kernel that takes points of a moving thing out of the rolling cloud."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from inspatio_ros.memory.rolling_cloud_numba import BLOCK, FREE


@njit(nogil=True, cache=True, error_model="numpy")
def remove_moved(
    xyz: Any, frames: Any, slots: Any, table: Any, used: Any, centers: Any, axes: Any, half: Any,
    reach: Any, bounds: Any, free: Any, free_counts: Any, frame_points: Any,
) -> Any:
    """Remove points that lie in a thing's box as it was when their frame was taken.

    centers float32 [frames, 3]: of the box at each frame's time, NaN where it is not to be
    touched; axes float32 [3, 3] (columns) and half float32 [3]: of the box; reach float32 [6]: low
    and high corner round all boxes. Returns how many went.
    """
    gone = 0
    for block in range((used + BLOCK - 1) // BLOCK):
        box = bounds[block]
        apart = False
        for axis in range(3):
            apart = apart or not (box[axis] <= reach[axis + 3] and box[axis + 3] >= reach[axis])
        if apart:
            continue
        for i in range(block * BLOCK, min((block + 1) * BLOCK, used)):
            if slots[i] < 0:
                continue
            frame = frames[i]
            dx = xyz[0, i] - centers[frame, 0]
            dy = xyz[1, i] - centers[frame, 1]
            dz = xyz[2, i] - centers[frame, 2]
            inside = True
            for axis in range(3):
                along = axes[0, axis] * dx + axes[1, axis] * dy + axes[2, axis] * dz
                inside = inside and abs(along) <= half[axis]
            if inside:
                gone += 1
                frame_points[frame] -= 1
                table[slots[i]] = FREE
                slots[i] = -1
                xyz[0, i] = np.nan
                free[block * BLOCK + free_counts[block]] = i
                free_counts[block] += 1
    return gone
