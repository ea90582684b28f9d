# SPDX-License-Identifier: Apache-2.0
"""Kernels of the ground map and of the swept footprint."""

from __future__ import annotations

import math

import numba
import numpy as np
from numpy.typing import NDArray

Float = NDArray[np.float32]
Array = NDArray[np.float64]

UNKNOWN, GROUND, OBSTACLE, DROP = 0, 1, 2, 3
NO_TIME = np.inf
STANDING = 5e-3  # m/s; slower than this nothing is run into (NAVSIM stopped_speed_threshold)

_jit = numba.njit(cache=True, nogil=True, error_model="numpy")


@_jit
def lowest(points: Float, transform: Array, cell: float, low: Float) -> None:
    """Lower `low` [H, W] to the lowest of the points [3, P] in each cell.

    transform [4, 4]: from the points to the map (x right along columns, y along rows, z up; the
    corner of the first cell is the origin). Points that are not finite are left out.
    """
    height, width = low.shape
    for i in range(points.shape[1]):
        x, y, z = points[0, i], points[1, i], points[2, i]
        u = transform[0, 0] * x + transform[0, 1] * y + transform[0, 2] * z + transform[0, 3]
        v = transform[1, 0] * x + transform[1, 1] * y + transform[1, 2] * z + transform[1, 3]
        h = transform[2, 0] * x + transform[2, 1] * y + transform[2, 2] * z + transform[2, 3]
        if not (u >= 0.0 and v >= 0.0):
            continue
        column, row = int(u / cell), int(v / cell)
        if column < width and row < height and h < low[row, column]:
            low[row, column] = h


@_jit
def spread_ground(low: Float, seeds: NDArray[np.int64], seed_height: float, step: float,
                  top: float, ground: Float, state: NDArray[np.uint8]) -> None:
    """Follow the ground outwards from where the robot stands.

    seeds [S]: flat indices of cells under the robot. From cell to neighbouring cell the ground may
    rise or fall by `step` m. ground [H, W]: its height, NaN where it was not reached; carried on
    through cells without a point, or with none lower than `top` above it. state: GROUND where a
    lowest point fits, DROP where it lies below, UNKNOWN where there is none or only something
    higher, which stops the ground.
    """
    height, width = low.shape
    queue = np.empty(height * width, np.int64)
    head = tail = 0
    for seed in seeds:
        row, column = seed // width, seed % width
        ground[row, column] = seed_height
        state[row, column] = GROUND
        queue[tail] = seed
        tail += 1
    while head < tail:
        at = queue[head]
        head += 1
        row, column = at // width, at % width
        here = ground[row, column]
        for k in range(4):
            r = row + (1 if k == 0 else -1 if k == 1 else 0)
            c = column + (1 if k == 2 else -1 if k == 3 else 0)
            if r < 0 or c < 0 or r >= height or c >= width or not math.isnan(ground[r, c]):
                continue
            lowest_here = low[r, c]
            if lowest_here - here > top:
                lowest_here = np.float32(np.inf)
            expected = here
            if lowest_here < np.inf:
                rise = lowest_here - here
                if rise < -step:
                    state[r, c] = DROP
                elif rise <= step:
                    # A little inertia, so that one stray point does not lead the ground away.
                    expected = np.float32(here + np.float32(0.5) * rise)
                    state[r, c] = GROUND
            ground[r, c] = expected
            if lowest_here < np.inf and lowest_here - here > step:
                continue
            queue[tail] = r * width + c
            tail += 1


@_jit
def count_above(points: Float, transform: Array, cell: float, ground: Float, clearance: float,
                top: float, step: float, counts: NDArray[np.uint16],
                level: NDArray[np.uint16], outline: Float) -> None:
    """Count in each cell the points that rise more than `clearance` and less than `top` above it.

    level: those within `step` of its ground. Where the ground was not reached nothing counts.
    outline [H, W, 4, 2]: of the counted points of a cell those of least and largest x and of least
    and largest y; not written where nothing counts.
    """
    height, width = ground.shape
    for i in range(points.shape[1]):
        x, y, z = points[0, i], points[1, i], points[2, i]
        u = transform[0, 0] * x + transform[0, 1] * y + transform[0, 2] * z + transform[0, 3]
        v = transform[1, 0] * x + transform[1, 1] * y + transform[1, 2] * z + transform[1, 3]
        if not (u >= 0.0 and v >= 0.0):
            continue
        column, row = int(u / cell), int(v / cell)
        if column >= width or row >= height:
            continue
        h = transform[2, 0] * x + transform[2, 1] * y + transform[2, 2] * z + transform[2, 3]
        above = h - ground[row, column]
        if above > clearance and above < top and counts[row, column] < 65535:
            corners = outline[row, column]
            first = counts[row, column] == 0
            counts[row, column] += 1
            for k in range(4):
                farther = (u < corners[0, 0] if k == 0 else u > corners[1, 0] if k == 1
                           else v < corners[2, 1] if k == 2 else v > corners[3, 1])
                if first or farther:
                    corners[k, 0], corners[k, 1] = u, v
        if abs(above) <= step and level[row, column] < 65535:
            level[row, column] += 1


@_jit
def see_ground(state: NDArray[np.uint8], ground: Float, cell: float, camera_from_map: Array,
               intrinsics: Array, depth: Float, tolerance: float, rise: float,
               rise_per_metre: float, hidden: NDArray[np.bool_]) -> None:
    """Turn UNKNOWN cells into GROUND where a camera [4, 4] measured the ground that is expected.

    depth [h, w] m. A cell's middle must lie in the picture, and what the pixel there measured must
    lie within `tolerance` of its distance and within `rise`, where it lies behind the cell plus
    rise_per_metre times the distance, of its height. hidden [H, W]: set where it measured
    something clearly nearer instead.
    """
    rows, columns = depth.shape
    fx, fy, cx, cy = intrinsics[0], intrinsics[1], intrinsics[2], intrinsics[3]
    for row in range(state.shape[0]):
        for column in range(state.shape[1]):
            if state[row, column] != UNKNOWN or math.isnan(ground[row, column]):
                continue
            x, y, z = (column + 0.5) * cell, (row + 0.5) * cell, ground[row, column]
            t = camera_from_map
            d = t[2, 0] * x + t[2, 1] * y + t[2, 2] * z + t[2, 3]
            if d < 0.05:
                continue
            px = (t[0, 0] * x + t[0, 1] * y + t[0, 2] * z + t[0, 3]) / d
            py = (t[1, 0] * x + t[1, 1] * y + t[1, 2] * z + t[1, 3]) / d
            u, v = int(math.floor(px * fx + cx + 0.5)), int(math.floor(py * fy + cy + 0.5))
            if u < 0 or v < 0 or u >= columns or v >= rows:
                continue
            measured = depth[v, u]
            if not measured > 0:
                continue
            along = measured - d
            if along < -tolerance * d:
                hidden[row, column] = True
                continue
            # How far the measured point lies above the cell: along the ray by `along`.
            higher = along * (t[0, 2] * px + t[1, 2] * py + t[2, 2])
            # Nearer than the cell it may be the foot of what hides the cell.
            slack = rise + rise_per_metre * d if along > 0.0 else rise
            if abs(along) <= tolerance * d and abs(higher) <= slack:
                state[row, column] = GROUND


@_jit
def close_ground(state: NDArray[np.uint8], ground: Float, hidden: NDArray[np.bool_], reach: int
                 ) -> NDArray[np.uint8]:
    """`state` with gaps of at most `reach` UNKNOWN cells between GROUND filled.

    hidden [H, W]: cells that stay unknown: not between the lines of a picture, but behind
    something.
    """
    closed = state.copy()
    height, width = state.shape
    for row in range(height):
        for column in range(width):
            if state[row, column] != UNKNOWN or hidden[row, column] \
                    or math.isnan(ground[row, column]):
                continue
            for k in range(4):
                dr = 0 if k == 0 else 1
                dc = 1 if k == 0 else 0 if k == 1 else 1 if k == 2 else -1
                sides = 0
                across = -1
                for sign in (-1, 1):
                    for step in range(1, reach + 1):
                        r, c = row + sign * step * dr, column + sign * step * dc
                        if r < 0 or c < 0 or r >= height or c >= width:
                            break
                        if state[r, c] == GROUND:
                            sides += 1
                            across += step
                            break
                        if state[r, c] != UNKNOWN:
                            break
                if sides == 2 and across <= reach:
                    closed[row, column] = GROUND
                    break
    return closed


@_jit
def _overlap(ax: float, ay: float, ayaw: float, a: Array, box: Array, time: float) -> bool:
    """Whether a footprint `a` (front, rear, left, right) meets a box that moves (movers' row)."""
    turn = box[2] + box[7] * time
    bx, by = box[0] + box[5] * time, box[1] + box[6] * time
    half_length, half_width = box[3], box[4]
    ca, sa, cb, sb = math.cos(ayaw), math.sin(ayaw), math.cos(turn), math.sin(turn)
    # The footprint's middle and half sizes.
    mx, my = 0.5 * (a[0] - a[1]), 0.5 * (a[2] - a[3])
    al, aw = 0.5 * (a[0] + a[1]), 0.5 * (a[2] + a[3])
    dx = bx - (ax + ca * mx - sa * my)
    dy = by - (ay + sa * mx + ca * my)
    c, s = abs(ca * cb + sa * sb), abs(sa * cb - ca * sb)
    # Separating axes of two rectangles: their own four sides.
    if abs(ca * dx + sa * dy) > al + half_length * c + half_width * s:
        return False
    if abs(ca * dy - sa * dx) > aw + half_length * s + half_width * c:
        return False
    if abs(cb * dx + sb * dy) > half_length + al * c + aw * s:
        return False
    return not abs(cb * dy - sb * dx) > half_width + al * s + aw * c


@_jit
def _columns(cosine: float, sine: float, dy: float, sides: Array, grow: float
             ) -> tuple[float, float]:
    """First and last x, from the base, at which a row `dy` m above it crosses the footprint."""
    low, high = -np.inf, np.inf
    front, rear = sides[0] + grow, sides[1] + grow
    left, right = sides[2] + grow, sides[3] + grow
    if abs(cosine) > 1e-9:
        a, b = (-rear - sine * dy) / cosine, (front - sine * dy) / cosine
        low, high = max(low, min(a, b)), min(high, max(a, b))
    elif not -rear <= sine * dy <= front:
        return 1.0, 0.0
    if abs(sine) > 1e-9:
        a, b = (cosine * dy + right) / sine, (cosine * dy - left) / sine
        low, high = max(low, min(a, b)), min(high, max(a, b))
    elif not -right <= cosine * dy <= left:
        return 1.0, 0.0
    return low, high


@_jit
def _free_around(x: float, y: float, cosine: float, sine: float, sides: Array, grow: float,
                 cell: float, clearance: Float) -> bool:
    """Whether the circle around the footprint holds no OBSTACLE cell."""
    along, across = 0.5 * (sides[0] - sides[1]), 0.5 * (sides[2] - sides[3])
    column = int(math.floor((x + cosine * along - sine * across) / cell))
    row = int(math.floor((y + sine * along + cosine * across) / cell))
    if row < 0 or column < 0 or row >= clearance.shape[0] or column >= clearance.shape[1]:
        return False
    half = math.hypot(0.5 * (sides[0] + sides[1]), 0.5 * (sides[2] + sides[3]))
    return bool(clearance[row, column] > half + grow + 1.5 * cell)


@_jit
def _holds(x: float, y: float, cosine: float, sine: float, sides: Array, grow: float,
           outline: Float) -> bool:
    """Whether a point of an outline [4, 2] lies within a footprint grown by `grow`."""
    for k in range(4):
        dx, dy = outline[k, 0] - x, outline[k, 1] - y
        along, across = cosine * dx + sine * dy, cosine * dy - sine * dx
        if -sides[1] - grow <= along <= sides[0] + grow \
                and -sides[3] - grow <= across <= sides[2] + grow:
            return True
    return False


@_jit
def _hits(x: float, y: float, cosine: float, sine: float, sides: Array, grow: float, cell: float,
          state: NDArray[np.uint8], clearance: Float, outline: Float) -> bool:
    """Whether points of an OBSTACLE cell lie within a footprint grown by `grow`."""
    if _free_around(x, y, cosine, sine, sides, grow, cell, clearance):
        return False
    height, width = state.shape
    # Cells whose middle lies outside may reach in by half their diagonal.
    wide = grow + 0.71 * cell
    reach = math.sqrt(max(sides[0], sides[1]) ** 2 + max(sides[2], sides[3]) ** 2) + 1.5 * wide
    first, last = math.floor((y - reach) / cell), math.floor((y + reach) / cell)
    for row in range(max(int(first), 0), min(int(last), height - 1) + 1):
        low, high = _columns(cosine, sine, (row + 0.5) * cell - y, sides, wide)
        left = max(int(math.ceil((x + low) / cell - 0.5)), 0) if low <= high else 0
        right = min(int(math.floor((x + high) / cell - 0.5)), width - 1) if low <= high else -1
        for column in range(left, right + 1):
            if state[row, column] == OBSTACLE and _holds(
                    x, y, cosine, sine, sides, grow, outline[row, column]):
                return True
    return False


@_jit
def sweep(times: Array, x: Array, y: Array, yaw: Array, speed: Array, sides: Array, cell: float,
          state: NDArray[np.uint8], clearance: Float, outline: Float,
          visited: NDArray[np.int32], mark: int, movers: Array, look_ahead: Array,
          near: float, drift: float, out: Array) -> None:
    """Drive a footprint over the map.

    x, y [M] in the map. clearance [H, W]: m from a cell to the nearest OBSTACLE cell. outline
    [H, W, 4, 2]: see count_above. visited [H, W]: cells that this candidate, `mark`, has been
    over. movers [B, 8]: x, y, yaw, half
    length, half width at time 0, then x and y velocity and yaw rate. look_ahead [L] s, rising.
    near: m; drift: m/s: something standing within `near`, or moving within near + drift times the
    time, is a close call.
    out [7]: time of the first hit of something standing (inf: none), of something moving; cells
    swept, unknown, drops (outside the map is unknown; once per visit, as nothing marks it); least
    time to collision over the samples (inf: none within look_ahead); whether there was a close
    call.
    """
    height, width = state.shape
    hit_still = hit_moving = least = np.inf
    swept = unknown = drops = close = 0.0
    grow = 0.5 * cell
    reach = math.sqrt(max(sides[0], sides[1]) ** 2 + max(sides[2], sides[3]) ** 2) + cell
    wide = np.empty(4)
    for m in range(len(times)):
        cosine, sine = math.cos(yaw[m]), math.sin(yaw[m])
        for row in range(int(math.floor((y[m] - reach) / cell)),
                         int(math.floor((y[m] + reach) / cell)) + 1):
            low, high = _columns(cosine, sine, (row + 0.5) * cell - y[m], sides, grow)
            if low > high:
                continue
            first = int(math.ceil((x[m] + low) / cell - 0.5))
            last = int(math.floor((x[m] + high) / cell - 0.5))
            for column in range(first, last + 1):
                if row < 0 or column < 0 or row >= height or column >= width:
                    swept += 1.0
                    unknown += 1.0
                elif visited[row, column] != mark:
                    visited[row, column] = mark
                    swept += 1.0
                    if state[row, column] == UNKNOWN:
                        unknown += 1.0
                    elif state[row, column] == DROP:
                        drops += 1.0
        if hit_still == np.inf and _hits(x[m], y[m], cosine, sine, sides, 0.0, cell, state,
                                         clearance, outline):
            hit_still = times[m]
        if close == 0.0 and _hits(x[m], y[m], cosine, sine, sides, near, cell, state,
                                   clearance, outline):
            close = 1.0
        wide[:] = sides + near + drift * times[m]
        for b in range(movers.shape[0]):
            if close == 0.0 and _overlap(x[m], y[m], yaw[m], wide, movers[b], times[m]):
                close = 1.0
            if times[m] < hit_moving and _overlap(x[m], y[m], yaw[m], sides, movers[b], times[m]):
                hit_moving = times[m]
        if abs(speed[m]) < STANDING:
            continue
        for k in range(len(look_ahead)):
            ahead = look_ahead[k]
            if ahead >= least:
                break
            fx = x[m] + cosine * speed[m] * ahead
            fy = y[m] + sine * speed[m] * ahead
            met = _hits(fx, fy, cosine, sine, sides, 0.0, cell, state, clearance, outline)
            for b in range(movers.shape[0]):
                met = met or _overlap(fx, fy, yaw[m], sides, movers[b], times[m] + ahead)
            if met:
                least = ahead
    out[0], out[1], out[2], out[3], out[4], out[5], out[6] = (
        hit_still, hit_moving, swept, unknown, drops, least, close)
