# SPDX-License-Identifier: Apache-2.0
# Numba unifies number types where mypy sees a reassignment.
# mypy: disable-error-code="assignment,call-overload"
"""CPU kernels of the rolling cloud."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit, prange

# Points are kept, swept and culled in blocks of this many neighbours.
BLOCK = 4096
# Side in pixels of the tiles in which a picture is walked, so that a block is compact in space.
TILE = 64
# Slots of the voxel table that may hold one voxel; when all are taken the oldest point goes.
WINDOW = 32
# Slots in one line of the processor's cache; a search starts at the beginning of one.
LINE = 8

FREE = np.int64(-1)
_MASK = np.int64((1 << 21) - 1)


@njit(nogil=True, cache=True, error_model="numpy")
def _out_of_sight(
    box: Any, view: Any, intrinsics: Any, width: Any, height: Any, center: Any, max_radius: Any
) -> Any:
    """Whether a box lies wholly outside the view but within `max_radius` of the camera."""
    farthest = np.float32(0.0)
    for axis in range(3):
        reach = max(abs(box[axis] - center[axis]), abs(box[axis + 3] - center[axis]))
        farthest += reach * reach
    if not farthest < max_radius * max_radius:
        return False
    # One side of the view, or the camera's own plane, has all eight corners on its outer side.
    behind, left, right, above, below = 0, 0, 0, 0, 0
    for corner in range(8):
        x, y = box[0 if corner & 1 else 3], box[1 if corner & 2 else 4]
        z = box[2 if corner & 4 else 5]
        far = view[2, 0] * x + view[2, 1] * y + view[2, 2] * z + view[2, 3]
        u = (view[0, 0] * x + view[0, 1] * y + view[0, 2] * z + view[0, 3]) * intrinsics[0]
        v = (view[1, 0] * x + view[1, 1] * y + view[1, 2] * z + view[1, 3]) * intrinsics[1]
        behind += far < 0
        left += u < -(intrinsics[2] + 1) * far
        right += u > (width - intrinsics[2]) * far
        above += v < -(intrinsics[3] + 1) * far
        below += v > (height - intrinsics[3]) * far
    return max(max(max(left, right), max(above, below)), behind) == 8


@njit(parallel=True, nogil=True, cache=True, error_model="numpy")
def sweep(
    xyz: Any, sizes: Any, frames: Any, slots: Any, table: Any, used: Any, fate: Any, center: Any,
    max_radius: Any, view: Any, intrinsics: Any, depth: Any, front: Any, tolerance: Any,
    behind: Any, coarsest: Any, stamps: Any, safe_after: Any, bounds: Any, block_oldest: Any,
    free: Any, free_counts: Any, counts: Any, frame_losses: Any,
) -> None:
    """Remove points that are too old or far, that were seen through, or that were seen anew.

    fate uint8 [frames]: 0 keep, 1 too old, 2 capacity. view float32 [3, 4] camera_from_points;
    intrinsics float32 [4] fx fy cx cy; depth float32 [H, W] and front, its 3x3 minimum.
    behind: relative depth up to which a point behind the measured surface counts as that surface;
    coarsest: how many times coarser the new view may be and still replace a point.
    Writes bounds float32 [blocks, 6] of what is left, the oldest stamp and the dead slots of each
    block, counts int64 [blocks, reasons], frame_losses int32 [threads, frames]. A block out of
    view, within reach and with no point older than `safe_after` (ns) is left as it is.
    """
    threads = frame_losses.shape[0]
    blocks = (used + BLOCK - 1) // BLOCK
    height, width = depth.shape
    for thread in prange(threads):
        losses = frame_losses[thread]
        losses[:] = 0
        for block in range(thread, blocks, threads):
            counts[block, :] = 0
            if block_oldest[block] >= safe_after and _out_of_sight(
                    bounds[block], view, intrinsics, width, height, center, max_radius):
                continue
            block_oldest[block] = np.int64(2**62)
            low = np.full(3, np.inf, np.float32)
            high = np.full(3, -np.inf, np.float32)
            dead = 0
            for i in range(block * BLOCK, min((block + 1) * BLOCK, used)):
                if slots[i] < 0:
                    free[block * BLOCK + dead] = i
                    dead += 1
                    continue
                x, y, z = xyz[0, i], xyz[1, i], xyz[2, i]
                dx, dy, dz = x - center[0], y - center[1], z - center[2]
                reason = np.int64(fate[frames[i]]) - 1
                if reason < 0 and dx * dx + dy * dy + dz * dz > max_radius * max_radius:
                    reason = 2
                if reason < 0:
                    far = view[2, 0] * x + view[2, 1] * y + view[2, 2] * z + view[2, 3]
                    if far > 0:
                        u = (view[0, 0] * x + view[0, 1] * y + view[0, 2] * z + view[0, 3]) \
                            / far * intrinsics[0] + intrinsics[2] + np.float32(0.5)
                        v = (view[1, 0] * x + view[1, 1] * y + view[1, 2] * z + view[1, 3]) \
                            / far * intrinsics[1] + intrinsics[3] + np.float32(0.5)
                        if u >= 0 and v >= 0 and u < width and v < height:
                            row, column = np.int64(v), np.int64(u)
                            margin = tolerance * far + sizes[i]
                            measured = depth[row, column]
                            if far < front[row, column] - margin:
                                reason = 3
                            elif (far >= measured - margin
                                  and far <= measured + behind * far + sizes[i]
                                  and measured <= coarsest * sizes[i] * intrinsics[0]):
                                # Seen anew, and not at a much lower resolution.
                                reason = 4
                if reason >= 0:
                    counts[block, reason] += 1
                    losses[frames[i]] += 1
                    table[slots[i]] = FREE
                    slots[i] = -1
                    xyz[0, i] = np.nan
                    free[block * BLOCK + dead] = i
                    dead += 1
                    continue
                block_oldest[block] = min(block_oldest[block], stamps[frames[i]])
                low[0], low[1], low[2] = min(low[0], x), min(low[1], y), min(low[2], z)
                high[0], high[1], high[2] = max(high[0], x), max(high[1], y), max(high[2], z)
            free_counts[block] = dead
            bounds[block, :3] = low
            bounds[block, 3:] = high


@njit(inline="always")
def _place(kx: Any, ky: Any, kz: Any, mask: Any) -> Any:
    """Where in the table the search for a voxel starts: the same for a cube of 2x2x2."""
    # Finaliser of a 64-bit mix (Stafford's variant 13), as splitmix64 uses it.
    cube = ((kx >> 1) & _MASK) | (((ky >> 1) & _MASK) << 21) | (((kz >> 1) & _MASK) << 42)
    mixed = np.uint64(cube)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return (np.int64(mixed ^ (mixed >> np.uint64(31))) * LINE) & mask


@njit(nogil=True, cache=True, error_model="numpy")
def insert(
    depth: Any, codes: Any, trust: Any, min_trust: Any, edges: Any, max_depth: Any, pose: Any,
    rays: Any, voxel: Any, origin: Any, frame: Any, max_radius: Any,
    xyz: Any, rgba: Any, sizes: Any, confidence: Any, frames: Any, slots: Any,
    table: Any, owners: Any, stamps: Any, frame_points: Any, bounds: Any, block_oldest: Any,
    free: Any, free_counts: Any, min_free: Any, used: Any, counts: Any,
) -> Any:
    """Take up one depth picture; returns how many slots are in use now.

    pose float32 [3, 4] points_from_camera; rays float32 [4] = 1/fx, 1/fy, cx, cy; origin int64 [3]
    in voxels; min_free: blocks with fewer dead slots are not refilled, so that a block stays
    compact; counts int64 [8]: taken, capacity, same voxel, table full (an older point), low
    confidence, out of range, edge; the last entry is scratch.
    """
    height, width = depth.shape
    capacity, mask = rgba.shape[0], table.shape[0] - 1
    inverse = np.float32(1.0) / voxel
    block, entered = 0, False
    blocks = (used + BLOCK - 1) // BLOCK
    columns, keys = np.empty(TILE, np.int64), np.empty(TILE, np.int64)
    points, starts = np.empty((TILE, 3), np.float32), np.empty(TILE, np.int64)
    for corner_y in range(0, height, TILE):
        for corner_x in range(0, width, TILE):
            for row in range(corner_y, min(corner_y + TILE, height)):
                # First all places of a short row, so that the waits for the table overlap.
                taken, touched = 0, np.int64(0)
                for column in range(corner_x, min(corner_x + TILE, width)):
                    z = depth[row, column]
                    if not z > 0:
                        continue
                    cx = (np.float32(column) - rays[2]) * rays[0] * z
                    cy = (np.float32(row) - rays[3]) * rays[1] * z
                    if not (z <= max_depth
                            and cx * cx + cy * cy + z * z <= max_radius * max_radius):
                        counts[5] += 1
                        continue
                    if edges[row, column]:
                        counts[6] += 1
                        continue
                    if trust[row, column] < min_trust:
                        counts[4] += 1
                        continue
                    x = pose[0, 0] * cx + pose[0, 1] * cy + pose[0, 2] * z + pose[0, 3]
                    y = pose[1, 0] * cx + pose[1, 1] * cy + pose[1, 2] * z + pose[1, 3]
                    w = pose[2, 0] * cx + pose[2, 1] * cy + pose[2, 2] * z + pose[2, 3]
                    kx = np.int64(np.floor(x * inverse)) + origin[0]
                    ky = np.int64(np.floor(y * inverse)) + origin[1]
                    kz = np.int64(np.floor(w * inverse)) + origin[2]
                    start = _place(kx, ky, kz, mask)
                    for line in range(0, WINDOW, LINE):
                        touched += table[(start + line) & mask]
                    columns[taken] = column
                    points[taken, 0], points[taken, 1], points[taken, 2] = x, y, w
                    keys[taken] = (kx & _MASK) | ((ky & _MASK) << 21) | ((kz & _MASK) << 42)
                    starts[taken] = start
                    taken += 1
                counts[7] ^= touched
                for candidate in range(taken):
                    column, key, start = columns[candidate], keys[candidate], starts[candidate]
                    x, y, w = points[candidate, 0], points[candidate, 1], points[candidate, 2]
                    z = depth[row, column]
                    vacant = np.int64(-1)
                    point = np.int64(-1)
                    for step in range(WINDOW):
                        slot = (start + step) & mask
                        held = table[slot]
                        if held == key:
                            point = owners[slot]
                            break
                        if held == FREE and vacant < 0:
                            vacant = slot
                    if point >= 0:
                        # One voxel, one point: the newest, or of one picture the most trusted.
                        counts[2] += 1
                        if frames[point] == frame and trust[row, column] <= confidence[point]:
                            continue
                        frame_points[frames[point]] -= 1
                    else:
                        oldest = np.int64(-1)
                        if vacant < 0:
                            vacant = start
                            for step in range(1, WINDOW):
                                slot = (start + step) & mask
                                if stamps[frames[owners[slot]]] < stamps[frames[owners[vacant]]]:
                                    vacant = slot
                            oldest = np.int64(owners[vacant])
                            table[vacant] = FREE
                            slots[oldest] = -1
                            xyz[0, oldest] = np.nan
                            frame_points[frames[oldest]] -= 1
                            home = oldest // BLOCK
                            free[home * BLOCK + free_counts[home]] = oldest
                            free_counts[home] += 1
                            counts[3] += 1
                        while block < blocks and free_counts[block] < (1 if entered else min_free):
                            block += 1
                            entered = False
                        entered = True
                        if block < blocks:
                            free_counts[block] -= 1
                            point = free[block * BLOCK + free_counts[block]]
                        elif used < capacity:
                            point = used
                            used += 1
                            if point % BLOCK == 0:
                                free_counts[point // BLOCK] = 0
                                bounds[point // BLOCK, :3] = np.float32(np.inf)
                                bounds[point // BLOCK, 3:] = np.float32(-np.inf)
                                block_oldest[point // BLOCK] = stamps[frame]
                        elif oldest >= 0:
                            point = oldest
                            free_counts[oldest // BLOCK] -= 1
                        else:
                            counts[1] += 1
                            continue
                        counts[0] += 1
                        table[vacant] = key
                        owners[vacant] = point
                        slots[point] = vacant
                    xyz[0, point], xyz[1, point], xyz[2, point] = x, y, w
                    rgba[point] = codes[row, column]
                    sizes[point] = max(voxel, z * rays[0])
                    confidence[point] = trust[row, column]
                    frames[point] = frame
                    frame_points[frame] += 1
                    box = bounds[point // BLOCK]
                    block_oldest[point // BLOCK] = min(block_oldest[point // BLOCK], stamps[frame])
                    box[0], box[3] = min(box[0], x), max(box[3], x)
                    box[1], box[4] = min(box[1], y), max(box[4], y)
                    box[2], box[5] = min(box[2], w), max(box[5], w)
    return used
