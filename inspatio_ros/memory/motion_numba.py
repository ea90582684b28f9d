# SPDX-License-Identifier: Apache-2.0
# Numba unifies number types where mypy sees a reassignment.
# mypy: disable-error-code="assignment,call-overload"
"""CPU kernels of motion segmentation; described where they are called, in `motion`."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

# What one pixel says of itself.
STATIC, UNDECIDED, MOVING = np.int8(-1), np.int8(0), np.int8(1)
_NAN = np.float32(np.nan)


@njit(nogil=True, cache=True, error_model="numpy")
def extremes(depth: Any, low: Any, high: Any) -> None:
    """Smallest and largest known depth of 3x3 pixels; NaN where any of them is unknown."""
    height, width = depth.shape
    for row in range(height):
        for column in range(width):
            near, far = np.float32(np.inf), np.float32(0.0)
            whole = 0 < row < height - 1 and 0 < column < width - 1
            if whole:
                for y in range(row - 1, row + 2):
                    for x in range(column - 1, column + 2):
                        z = depth[y, x]
                        whole = whole and z > 0
                        near, far = min(near, z), max(far, z)
            low[row, column] = near if whole else _NAN
            high[row, column] = far if whole else _NAN


@njit(nogil=True, cache=True, error_model="numpy")
def expect(
    depth: Any, rays: Any, before_from_now: Any, intrinsics: Any, places: Any, expected: Any,
    parallax: Any,
) -> None:
    """Where each pixel was in the earlier view if it stood still.

    depth float32 [H, W]; rays float32 [4] = 1/fx, 1/fy, cx, cy; before_from_now float32 [3, 4];
    intrinsics float32 [4] fx fy cx cy. Writes places float32 [H, W, 2] px (of unknown depth: as
    if infinitely far), expected float32 [H, W], the depth there (NaN), and parallax float32
    [H, W], how far depth moves the pixel, px.
    """
    m = before_from_now
    height, width = depth.shape
    for row in range(height):
        y = (np.float32(row) - rays[3]) * rays[1]
        for column in range(width):
            x = (np.float32(column) - rays[2]) * rays[0]
            dx = m[0, 0] * x + m[0, 1] * y + m[0, 2]
            dy = m[1, 0] * x + m[1, 1] * y + m[1, 2]
            dz = m[2, 0] * x + m[2, 1] * y + m[2, 2]
            u, v = np.float32(-1e4), np.float32(-1e4)
            if dz > np.float32(1e-3):
                u = dx / dz * intrinsics[0] + intrinsics[2]
                v = dy / dz * intrinsics[1] + intrinsics[3]
            expected[row, column] = _NAN
            parallax[row, column] = 0
            z = depth[row, column]
            if z > 0:
                far = dz * z + m[2, 3]
                if far > np.float32(1e-2):
                    own_u = (dx * z + m[0, 3]) / far * intrinsics[0] + intrinsics[2]
                    own_v = (dy * z + m[1, 3]) / far * intrinsics[1] + intrinsics[3]
                    parallax[row, column] = np.sqrt((own_u - u) ** 2 + (own_v - v) ** 2)
                    u, v = own_u, own_v
                    expected[row, column] = far
                else:
                    u, v = np.float32(-1e4), np.float32(-1e4)
            places[row, column, 0] = u
            places[row, column, 1] = v


@njit(inline="always")
def _seen_through(
    u: Any, v: Any, z: Any, transform: Any, rays: Any, intrinsics: Any, depth: Any, margin: Any
) -> Any:
    """Whether a depth picture sees past a point at pixel (u, v), depth z of another view."""
    m = transform
    x, y = (u - rays[2]) * rays[0] * z, (v - rays[3]) * rays[1] * z
    far = m[2, 0] * x + m[2, 1] * y + m[2, 2] * z + m[2, 3]
    if not far > np.float32(1e-2):
        return False
    column = np.int64((m[0, 0] * x + m[0, 1] * y + m[0, 2] * z + m[0, 3]) / far * intrinsics[0]
                      + intrinsics[2] + np.float32(0.5))
    row = np.int64((m[1, 0] * x + m[1, 1] * y + m[1, 2] * z + m[1, 3]) / far * intrinsics[1]
                   + intrinsics[3] + np.float32(0.5))
    if row < 0 or column < 0 or row >= depth.shape[0] or column >= depth.shape[1]:
        return False
    return depth[row, column] > far + margin


@njit(nogil=True, cache=True, error_model="numpy")
def judge(
    gray: Any, warped: Any, slope: Any, flow: Any, places: Any, expected: Any, parallax: Any,
    depth: Any, near: Any, far: Any, before_depth: Any, before_near: Any, before_far: Any,
    before_labels: Any, labels: Any, rays: Any, intrinsics: Any, world_from_now: Any,
    world_from_before: Any, now_from_before: Any, tolerance: Any, least_px: Any, noise: Any,
    max_depth: Any, evidence: Any, motion: Any,
) -> None:
    """What each pixel says: it stands, it moved, or it cannot tell; and by how much it moved.

    gray, warped float32 [H, W]: now, and the earlier picture brought to it as if nothing moved;
    slope float32 [H, W]: length of gray's gradient; flow float32 [H, W, 2]: from gray to warped.
    near, far: 3x3 extremes of depth. before_labels, labels int32 [H, W]: what moved in the earlier
    look and is expected in this one, by number: what another thing hid then cannot tell.
    tolerance: relative depth that is the same; least_px: flow that counts; noise: grey values;
    max_depth m: farther pixels say nothing. Writes evidence int8 [H, W] and motion float32
    [H, W, 3], m in the world since then (NaN where not measured).
    """
    height, width = depth.shape
    rows, columns = before_depth.shape
    half = np.float32(0.5)
    w, b, n = world_from_now, world_from_before, now_from_before
    for row in range(height):
        for column in range(width):
            evidence[row, column] = UNDECIDED
            motion[row, column, 0] = motion[row, column, 1] = motion[row, column, 2] = _NAN
            z = depth[row, column]
            if not (z > 0 and z <= max_depth):
                continue
            u, v = places[row, column, 0], places[row, column, 1]
            if not (u >= 1 and v >= 1 and u < columns - 2 and v < rows - 2):
                continue
            fx, fy = flow[row, column, 0], flow[row, column, 1]
            length = np.sqrt(fx * fx + fy * fy)
            limit = least_px + np.float32(0.05) * parallax[row, column]
            should = expected[row, column]
            at_row, at_column = np.int64(v + half), np.int64(u + half)
            there = before_depth[at_row, at_column]
            margin = tolerance * should + np.float32(0.05)
            unlike = abs(gray[row, column] - warped[row, column])
            # It stands in what was seen to be empty.
            appeared = (before_near[at_row, at_column] > should + 2 * margin
                        and far[row, column] - near[row, column] < margin)
            same_depth = abs(there - should) < margin
            match_row = np.int64(min(max(np.float32(row) + fy + half, 0), height - 1))
            match_column = np.int64(min(max(np.float32(column) + fx + half, 0), width - 1))
            better = abs(gray[row, column] - warped[match_row, match_column])
            flows = length > limit and unlike > noise and better < half * unlike
            if flows and there < should - margin:
                # Its place was hidden then. By something that moved since, or cannot be told.
                hider = before_labels[at_row, at_column]
                flows = (hider == 0 or hider == labels[row, column]) and _seen_through(
                    u, v, there, n, rays, intrinsics, depth, half * margin)
            mu = places[match_row, match_column, 0] + (
                np.float32(column) + fx - np.float32(match_column))
            mv = places[match_row, match_column, 1] + (
                np.float32(row) + fy - np.float32(match_row))
            was = _NAN
            if mu >= 0 and mv >= 0 and mu < columns - 1 and mv < rows - 1:
                y, x = np.int64(mv + half), np.int64(mu + half)
                if before_far[y, x] - before_near[y, x] < 2 * margin:
                    was = before_depth[y, x]
            if was > 0 and (better < noise or better < half * unlike):
                px, py = (np.float32(column) - rays[2]) * rays[0] * z, \
                    (np.float32(row) - rays[3]) * rays[1] * z
                qx, qy = (mu - rays[2]) * rays[0] * was, (mv - rays[3]) * rays[1] * was
                for axis in range(3):
                    motion[row, column, axis] = (
                        w[axis, 0] * px + w[axis, 1] * py + w[axis, 2] * z + w[axis, 3]
                        - b[axis, 0] * qx - b[axis, 1] * qy - b[axis, 2] * was - b[axis, 3])
            if appeared or flows:
                evidence[row, column] = MOVING
            elif same_depth and length < half * limit and unlike < noise and (
                    slope[row, column] * least_px > noise):
                evidence[row, column] = STATIC


@njit(nogil=True, cache=True, error_model="numpy")
def appeared(
    places: Any, expected: Any, near: Any, far: Any, before_near: Any, tolerance: Any,
    max_depth: Any, evidence: Any,
) -> None:
    """Mark what stands where an earlier view (`expect`ed there) saw empty space as moving."""
    height, width = expected.shape
    rows, columns = before_near.shape
    half = np.float32(0.5)
    for row in range(height):
        for column in range(width):
            if evidence[row, column] == MOVING or not far[row, column] <= max_depth:
                continue
            u, v = places[row, column, 0], places[row, column, 1]
            if not (u >= 1 and v >= 1 and u < columns - 2 and v < rows - 2):
                continue
            should = expected[row, column]
            margin = tolerance * should + np.float32(0.05)
            if before_near[np.int64(v + half), np.int64(u + half)] > should + 2 * margin and (
                    far[row, column] - near[row, column] < margin):
                evidence[row, column] = MOVING


@njit(nogil=True, cache=True, error_model="numpy")
def mark(
    xyz: Any, view: Any, intrinsics: Any, depth: Any, tolerance: Any, reach: Any, number: Any,
    marks: Any,
) -> Any:
    """Write `number` where a depth picture shows points, up to `reach` px off where they project.

    xyz float32 [3, P]; view float32 [3, 4] camera_from_points; marks int32 [H, W], changed.
    Returns int64 [3]: points in view and of known depth, hidden behind something, seen through.
    """
    height, width = depth.shape
    counts = np.zeros(3, np.int64)
    for i in range(xyz.shape[1]):
        x, y, z = xyz[0, i], xyz[1, i], xyz[2, i]
        far = view[2, 0] * x + view[2, 1] * y + view[2, 2] * z + view[2, 3]
        if not far > np.float32(0.05):
            continue
        u = (view[0, 0] * x + view[0, 1] * y + view[0, 2] * z + view[0, 3]) / far \
            * intrinsics[0] + intrinsics[2]
        v = (view[1, 0] * x + view[1, 1] * y + view[1, 2] * z + view[1, 3]) / far \
            * intrinsics[1] + intrinsics[3]
        if not (u > -0.5 and v > -0.5 and u < width - 0.5 and v < height - 0.5):
            continue
        row, column = np.int64(v + np.float32(0.5)), np.int64(u + np.float32(0.5))
        margin = tolerance * far + np.float32(0.1)
        if depth[row, column] > 0:
            counts[0] += 1
            counts[1] += depth[row, column] < far - margin
            counts[2] += depth[row, column] > far + margin
        for r in range(max(row - reach, 0), min(row + reach + 1, height)):
            for c in range(max(column - reach, 0), min(column + reach + 1, width)):
                if abs(depth[r, c] - far) < margin:
                    marks[r, c] = number
    return counts


@njit(nogil=True, cache=True, error_model="numpy")
def ground_heights(
    depth: Any, rays: Any, up: Any, right: Any, ahead: Any, cell: Any, steep: Any, heights: Any,
    grid: Any,
) -> None:
    """Height of each pixel over the ground below it.

    up, right, ahead float32 [3]: axes in the optical frame; cell m; steep: how much the ground
    may rise a metre; grid float32 [n, 2 n], scratch, `n` cells to each side and 2 n ahead. Writes
    heights float32 [H, W] m, NaN where unknown or beyond the grid.
    """
    height, width = depth.shape
    count = grid.shape[1]
    grid[:] = np.float32(np.inf)
    for turn in range(2):
        if turn == 1:
            rise = steep * cell
            for _ in range(2):
                for i in range(grid.shape[0]):
                    for j in range(count):
                        low = grid[i, j]
                        if i > 0:
                            low = min(low, grid[i - 1, j] + rise)
                        if j > 0:
                            low = min(low, grid[i, j - 1] + rise)
                        grid[i, j] = low
                for i in range(grid.shape[0] - 1, -1, -1):
                    for j in range(count - 1, -1, -1):
                        low = grid[i, j]
                        if i + 1 < grid.shape[0]:
                            low = min(low, grid[i + 1, j] + rise)
                        if j + 1 < count:
                            low = min(low, grid[i, j + 1] + rise)
                        grid[i, j] = low
        for row in range(height):
            y = (np.float32(row) - rays[3]) * rays[1]
            for column in range(width):
                z = depth[row, column]
                if turn == 1:
                    heights[row, column] = _NAN
                if not z > 0:
                    continue
                x = (np.float32(column) - rays[2]) * rays[0]
                i = np.int64(np.floor((ahead[0] * x + ahead[1] * y + ahead[2]) * z / cell)) + 4
                j = np.int64(np.floor((right[0] * x + right[1] * y + right[2]) * z / cell)) \
                    + count // 2
                if i < 0 or j < 0 or i >= grid.shape[0] or j >= count:
                    continue
                over = (up[0] * x + up[1] * y + up[2]) * z
                if turn == 0:
                    grid[i, j] = min(grid[i, j], over)
                else:
                    heights[row, column] = over - grid[i, j]


@njit(nogil=True, cache=True, error_model="numpy")
def spread(
    depth: Any, standing: Any, evidence: Any, jump: Any, reach: Any, decided: Any, queue: Any
) -> None:
    """Undecided standing pixels take the word of the nearest decided one on their surface.

    standing bool [H, W]: not ground, depth known. jump: relative depth between neighbours of one
    surface. reach: px. Writes decided int8 [H, W]; queue int32 [H*W] is scratch.
    """
    height, width = depth.shape
    head, tail = 0, 0
    for row in range(height):
        for column in range(width):
            decided[row, column] = evidence[row, column] if standing[row, column] else UNDECIDED
            if decided[row, column] != UNDECIDED:
                queue[tail] = row * width + column
                tail += 1
    for _ in range(reach):
        stop = tail
        while head < stop:
            row, column = queue[head] // width, queue[head] % width
            head += 1
            for side in range(4):
                y = row + (1 if side == 0 else -1 if side == 1 else 0)
                x = column + (1 if side == 2 else -1 if side == 3 else 0)
                if y < 0 or x < 0 or y >= height or x >= width or not standing[y, x] or (
                        decided[y, x] != UNDECIDED):
                    continue
                if abs(depth[y, x] - depth[row, column]) < jump * depth[row, column]:
                    decided[y, x] = decided[row, column]
                    queue[tail] = y * width + x
                    tail += 1


@njit(nogil=True, cache=True, error_model="numpy")
def connected(depth: Any, member: Any, jump: Any, labels: Any, queue: Any) -> Any:
    """Number the surfaces of member pixels: labels int32 [H, W], 0 none; returns how many."""
    height, width = depth.shape
    labels[:] = 0
    count = 0
    for start in range(height * width):
        if not member[start // width, start % width] or labels[start // width, start % width]:
            continue
        count += 1
        labels[start // width, start % width] = count
        queue[0] = start
        head, tail = 0, 1
        while head < tail:
            row, column = queue[head] // width, queue[head] % width
            head += 1
            for side in range(8):
                far = 2 if side > 3 else 1
                y = row + (far if side % 4 == 0 else -far if side % 4 == 1 else 0)
                x = column + (far if side % 4 == 2 else -far if side % 4 == 3 else 0)
                if y < 0 or x < 0 or y >= height or x >= width or not member[y, x] or labels[y, x]:
                    continue
                if abs(depth[y, x] - depth[row, column]) < np.float32(far) * jump * depth[
                        row, column]:
                    labels[y, x] = count
                    queue[tail] = y * width + x
                    tail += 1
    return count
