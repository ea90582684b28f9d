# SPDX-License-Identifier: Apache-2.0
# Numba unifies number types where mypy sees a reassignment.
# mypy: disable-error-code="assignment,call-overload"
"""CPU kernels that cut a look into surfaces; described where they are called, in `motion`."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from inspatio_ros.memory.motion_numba import EXPECTED, MOVING, UNDECIDED


@njit(inline="always")
def _flood(grid: Any, rise: Any) -> None:
    """Make each cell at most `rise` higher than its neighbours."""
    rows, columns = grid.shape
    for i in range(rows):
        for j in range(columns):
            low = grid[i, j]
            if i > 0:
                low = min(low, grid[i - 1, j] + rise)
            if j > 0:
                low = min(low, grid[i, j - 1] + rise)
            grid[i, j] = low
    for i in range(rows - 1, -1, -1):
        for j in range(columns - 1, -1, -1):
            low = grid[i, j]
            if i + 1 < rows:
                low = min(low, grid[i + 1, j] + rise)
            if j + 1 < columns:
                low = min(low, grid[i, j + 1] + rise)
            grid[i, j] = low


@njit(nogil=True, cache=True, error_model="numpy")
def off_ground(
    depth: Any, rays: Any, up: Any, right: Any, ahead: Any, cell: Any, steep: Any, least: Any,
    grid: Any, cells: Any, standing: Any,
) -> None:
    """Which pixels are of known depth and not ground.

    up, right, ahead float32 [3]: axes in the optical frame; cell m; steep: how much the ground
    may rise a metre; least: height m over the lowest seen from which a thing stands. grid float32
    [n, n] and cells int32 [H, W] are scratch: n cells ahead and across. Writes standing bool
    [H, W]; what lies beyond the grid stands.
    """
    height, width = depth.shape
    count = grid.shape[1]
    grid[:] = np.float32(np.inf)
    first, last, near, end = count, 0, grid.shape[0], 0
    for row in range(height):
        y = (np.float32(row) - rays[3]) * rays[1]
        for column in range(width):
            cells[row, column] = -1
            z = depth[row, column]
            if not z > 0:
                continue
            x = (np.float32(column) - rays[2]) * rays[0]
            i = np.int64(np.floor((ahead[0] * x + ahead[1] * y + ahead[2]) * z / cell)) + 4
            j = np.int64(np.floor((right[0] * x + right[1] * y + right[2]) * z / cell)) \
                + count // 2
            if i < 0 or j < 0 or i >= grid.shape[0] or j >= count:
                continue
            cells[row, column] = i * count + j
            grid[i, j] = min(grid[i, j], (up[0] * x + up[1] * y + up[2]) * z)
            first, last = min(first, j), max(last, j + 1)
            near, end = min(near, i), max(end, i + 1)
    _flood(grid[near:end, first:last], steep * cell)
    lowest = grid.reshape(-1)
    for row in range(height):
        y = (np.float32(row) - rays[3]) * rays[1]
        for column in range(width):
            z = depth[row, column]
            standing[row, column] = z > 0
            if cells[row, column] >= 0:
                x = (np.float32(column) - rays[2]) * rays[0]
                standing[row, column] = not (
                    (up[0] * x + up[1] * y + up[2]) * z - lowest[cells[row, column]] < least)


@njit(nogil=True, cache=True, error_model="numpy")
def spread(
    depth: Any, standing: Any, labels: Any, jump: Any, reach: Any, evidence: Any, decided: Any,
    queue: Any,
) -> None:
    """Undecided standing pixels take the word of the nearest decided one on their surface.

    standing bool [H, W]: not ground, depth known. labels int32 [H, W]: not 0 where something that
    moves is expected; what is undecided there becomes EXPECTED in evidence, and moves. jump:
    relative depth between neighbours of one surface. reach: px. Writes decided int8 [H, W]; queue
    int32 [H*W] is scratch.
    """
    height, width = depth.shape
    head, tail = 0, 0
    for row in range(height):
        for column in range(width):
            word = evidence[row, column] if standing[row, column] else UNDECIDED
            if word == UNDECIDED and labels[row, column] > 0:
                evidence[row, column], word = EXPECTED, MOVING
            decided[row, column] = word
            if word != UNDECIDED:
                queue[tail] = row << 16 | column
                tail += 1
    for _ in range(reach):
        stop = tail
        while head < stop:
            row, column = queue[head] >> 16, queue[head] & 0xFFFF
            head += 1
            word, z = decided[row, column], depth[row, column]
            for side in range(4):
                y = row + (1 if side == 0 else -1 if side == 1 else 0)
                x = column + (1 if side == 2 else -1 if side == 3 else 0)
                if y < 0 or x < 0 or y >= height or x >= width or not standing[y, x] or (
                        decided[y, x] != UNDECIDED):
                    continue
                if abs(depth[y, x] - z) < jump * z:
                    decided[y, x] = word
                    queue[tail] = y << 16 | x
                    tail += 1


@njit(nogil=True, cache=True, error_model="numpy")
def connected(depth: Any, decided: Any, jump: Any, labels: Any, queue: Any) -> Any:
    """Number the surfaces that are decided to move: labels int32 [H, W], 0 none.

    Writes their flat pixels into queue int32 [H*W], one surface after the other; returns how many
    pixels, and surfaces, there are.
    """
    height, width = depth.shape
    labels[:] = 0
    count, tail = 0, 0
    for start_row in range(height):
        for start_column in range(width):
            if decided[start_row, start_column] != MOVING or labels[start_row, start_column]:
                continue
            count += 1
            labels[start_row, start_column] = count
            head = tail
            queue[tail] = start_row << 16 | start_column
            tail += 1
            while head < tail:
                row, column = queue[head] >> 16, queue[head] & 0xFFFF
                head += 1
                z = depth[row, column]
                for side in range(8):
                    far = 2 if side > 3 else 1
                    y = row + (far if side % 4 == 0 else -far if side % 4 == 1 else 0)
                    x = column + (far if side % 4 == 2 else -far if side % 4 == 3 else 0)
                    if y < 0 or x < 0 or y >= height or x >= width or labels[y, x] or (
                            decided[y, x] != MOVING):
                        continue
                    if abs(depth[y, x] - z) < np.float32(far) * jump * z:
                        labels[y, x] = count
                        queue[tail] = y << 16 | x
                        tail += 1
    for i in range(tail):
        queue[i] = (queue[i] >> 16) * width + (queue[i] & 0xFFFF)
    return tail, count


@njit(nogil=True, cache=True, error_model="numpy")
def bounds(marks: Any) -> Any:
    """First row, row after the last, first column, column after the last of what is not 0 in
    [H, W]; all 0 where everything is."""
    height, width = marks.shape
    top, bottom, left, right = height, 0, width, 0
    for row in range(height):
        for column in range(width):
            if marks[row, column] != 0:
                top, bottom = min(top, row), row + 1
                left, right = min(left, column), max(right, column + 1)
    if bottom == 0:
        return 0, 0, 0, 0
    return top, bottom, left, right


@njit(nogil=True, cache=True, error_model="numpy")
def chosen(marks: Any, wanted: Any, out: Any) -> Any:
    """Pixels whose mark is wanted (bool by number), and their neighbours, become 1 in out uint8
    [H, W]; returns how many are wanted."""
    height, width = marks.shape
    count = 0
    for row in range(height):
        for column in range(width):
            if marks[row, column] > 0 and wanted[marks[row, column]]:
                count += 1
                for y in range(max(row - 1, 0), min(row + 2, height)):
                    for x in range(max(column - 1, 0), min(column + 2, width)):
                        out[y, x] = 1
    return count
