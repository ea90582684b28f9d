# SPDX-License-Identifier: Apache-2.0
"""Compiled: following pixels along the camera's motion (`carry`, for the steadier too), how
patches of detail by example are found and grow, how their detail is added, and colours as blurred
as is asked of each pixel (`parallax` and `mip`, for `doubt` too)."""

from __future__ import annotations

import numba
import numpy as np
import numpy.typing as npt

Float = npt.NDArray[np.float32]
Bool = npt.NDArray[np.bool_]
# A place outside of every example.
NOWHERE = -1e4
_jit = numba.njit(cache=True, nogil=True, error_model="numpy")


@_jit
def carry(places: Float, wanted: Bool, depth: Float, fx: float, fy: float, cx: float, cy: float,
          before_from_now: npt.NDArray[np.float64], out: Float) -> None:
    """What each pixel showed of the example, followed along the camera's motion.

    places [H, W, 2]: pixels (x, y) of the example, x NaN for none. depth [h, w]: m now, any size;
    what has none is taken as far away. out: the same for now, none outside of wanted [H, W].
    """
    height, width = wanted.shape
    m = before_from_now
    down, right = depth.shape[0] / height, depth.shape[1] / width
    for y in range(height):
        for x in range(width):
            out[y, x, 0] = np.nan
            if not wanted[y, x]:
                continue
            z = float(depth[int(y * down), int(x * right)])
            if not (z > 0.0 and z < 1e4):
                z = 1e4
            a, b = (x - cx) / fx * z, (y - cy) / fy * z
            z_before = m[2, 0] * a + m[2, 1] * b + m[2, 2] * z + m[2, 3]
            if z_before <= 1e-3 * z:
                continue
            x_before = (m[0, 0] * a + m[0, 1] * b + m[0, 2] * z + m[0, 3]) / z_before * fx + cx
            y_before = (m[1, 0] * a + m[1, 1] * b + m[1, 2] * z + m[1, 3]) / z_before * fy + cy
            if not (-0.5 < x_before < width - 0.5 and -0.5 < y_before < height - 0.5):
                continue
            i, j = int(y_before + 0.5), int(x_before + 0.5)
            u = places[i, j, 0] + (x_before - j)
            v = places[i, j, 1] + (y_before - i)
            if u >= 0.0 and v >= 0.0 and u <= width - 1 and v <= height - 1:
                out[y, x, 0] = u
                out[y, x, 1] = v


@_jit
def parallax(depth: Float, fx: float, fy: float, cx: float, cy: float, width: int, height: int,
             before_from_now: npt.NDArray[np.float64], out: Float) -> None:
    """By how many pixels each place moved since the frame before for not being far away.

    depth [h, w]: as in `carry`. width, height: of the camera. out [H, W]: of any size.
    """
    rows, columns = out.shape
    m = before_from_now
    for i in range(rows):
        v = (i + 0.5) / rows
        for j in range(columns):
            u = (j + 0.5) / columns
            z = float(depth[int(v * depth.shape[0]), int(u * depth.shape[1])])
            out[i, j] = 0.0
            if not (z > 0.0 and z < 1e4):
                continue
            a, b = (u * width - 0.5 - cx) / fx, (v * height - 0.5 - cy) / fy
            x = m[0, 0] * a + m[0, 1] * b + m[0, 2]
            y = m[1, 0] * a + m[1, 1] * b + m[1, 2]
            w = m[2, 0] * a + m[2, 1] * b + m[2, 2]
            here = w + m[2, 3] / z
            if w <= 1e-3 or here <= 1e-3:
                continue
            right = fx * ((x + m[0, 3] / z) / here - x / w)
            down = fy * ((y + m[1, 3] / z) / here - y / w)
            out[i, j] = np.sqrt(right * right + down * down)


@_jit
def fresh_cells(places: Float, wanted: Bool, cell: int, offsets: Float, shown: Bool,
                fresh: Bool) -> None:
    """Of every cell [h, w] of cell x cell pixels: whether a wanted pixel has no place yet
    (fresh), whether one has (shown), and how far from it that place is (offsets [h, w, 2])."""
    height, width = fresh.shape
    for row in range(height):
        for column in range(width):
            fresh[row, column] = False
            shown[row, column] = False
            for y in range(row * cell, (row + 1) * cell):
                for x in range(column * cell, (column + 1) * cell):
                    if not wanted[y, x]:
                        continue
                    if np.isnan(places[y, x, 0]):
                        fresh[row, column] = True
                    elif not shown[row, column]:
                        shown[row, column] = True
                        offsets[row, column, 0] = places[y, x, 0] - x
                        offsets[row, column, 1] = places[y, x, 1] - y


@_jit
def grow(rows: npt.NDArray[np.int32], costs: Float, best: npt.NDArray[np.int64], slack: float,
         floor: float, worn: float, most: float, cell: int, wanted: Bool, offsets: Float,
         shown: Bool, places: Float) -> None:
    """Places in the example for the cells of `rows` [h, w] (-1: not asked for).

    rows: which row of costs [N, h w] belongs to a cell. A cell goes on with what it or its
    neighbour shows (left, above, right, below, in four passes) where that fits nearly as well as
    the best: up to slack times its cost and floor. What is shown stays unless it costs more than
    worn times that. A cell whose best costs more than most is like nothing: it shows NOWHERE.
    Writes offsets, shown, and places of the pixels that have none; rows of cells that are done
    become -1.
    """
    height, width = rows.shape
    for row in range(height):
        for column in range(width):
            n = rows[row, column]
            if n < 0:
                continue
            if shown[row, column]:
                u = column + int(np.rint(offsets[row, column, 0] / cell))
                v = row + int(np.rint(offsets[row, column, 1] / cell))
                if (0 <= u < width and 0 <= v < height and costs[n, v * width + u]
                        <= worn * (slack * costs[n, best[n]] + floor)):
                    continue
                for y in range(row * cell, (row + 1) * cell):
                    for x in range(column * cell, (column + 1) * cell):
                        places[y, x, 0] = np.nan
                shown[row, column] = False
            if costs[n, best[n]] > most:
                rows[row, column] = -1
                for y in range(row * cell, (row + 1) * cell):
                    for x in range(column * cell, (column + 1) * cell):
                        if np.isnan(places[y, x, 0]):
                            places[y, x, 0] = places[y, x, 1] = NOWHERE
                continue
            offsets[row, column, 0] = (best[n] % width - column) * cell
            offsets[row, column, 1] = (best[n] // width - row) * cell
    for turn in range(4):
        back = 1 if turn < 2 else -1
        for step in range(height * width):
            number = step if turn < 2 else height * width - 1 - step
            row, column = number // width, number % width
            n = rows[row, column]
            if n < 0 or shown[row, column]:
                continue
            i = row - back if turn % 2 else row
            j = column if turn % 2 else column - back
            if not (0 <= i < height and 0 <= j < width) or (rows[i, j] < 0 and not shown[i, j]):
                continue
            u = column + int(np.rint(offsets[i, j, 0] / cell))
            v = row + int(np.rint(offsets[i, j, 1] / cell))
            if (0 <= u < width and 0 <= v < height
                    and costs[n, v * width + u] <= slack * costs[n, best[n]] + floor):
                offsets[row, column, 0] = offsets[i, j, 0]
                offsets[row, column, 1] = offsets[i, j, 1]
    for row in range(height):
        for column in range(width):
            if rows[row, column] < 0:
                continue
            shown[row, column] = True
            for y in range(row * cell, (row + 1) * cell):
                for x in range(column * cell, (column + 1) * cell):
                    if wanted[y, x] and np.isnan(places[y, x, 0]):
                        places[y, x, 0] = x + offsets[row, column, 0]
                        places[y, x, 1] = y + offsets[row, column, 1]


@_jit
def vary(costs: Float, chances: Float, cells: npt.NDArray[np.int64], most: float,
         varied: Float) -> None:
    """costs [N, M], row n of cell cells[n], and up to `most` by chance: the fraction of what the
    cells of row and column drew (chances [M])."""
    rows, columns = costs.shape
    for n in range(rows):
        own = chances[columns - 1 - cells[n]]
        for m in range(columns):
            both = own + chances[m]
            both -= np.float32(both >= np.float32(1.0))
            varied[n, m] = costs[n, m] + np.float32(most) * both


@_jit
def sample(places: Float, band: npt.NDArray[np.int8], gains: Float, step: int, out: Float
           ) -> None:
    """A band of detail [H, W, 3] at each pixel's place in the example, times the gains [h, w].

    places: see `grow`, at least [H, W, 2]. step: one pixel of out [H / step, W / step, 3], rounded
    up, stands for so many. 0 where there is no place.
    """
    height, width = band.shape[0], band.shape[1]
    rows, columns = out.shape[0], out.shape[1]
    one = np.float32(1.0)
    for i in range(rows):
        y = min(i * step + step // 2, places.shape[0] - 1)
        row = i * gains.shape[0] // rows
        for j in range(columns):
            x = min(j * step + step // 2, places.shape[1] - 1)
            s, t = places[y, x, 0], places[y, x, 1]
            if not (s >= 0 and t >= 0 and s <= width - 1 and t <= height - 1):
                out[i, j, 0] = out[i, j, 1] = out[i, j, 2] = 0.0
                continue
            gain = gains[row, j * gains.shape[1] // columns]
            left, top = int(s), int(t)
            a, b = s - np.float32(left), t - np.float32(top)
            beside, below = min(left + 1, width - 1), min(top + 1, height - 1)
            for c in range(3):
                out[i, j, c] = gain * (
                    (one - b) * ((one - a) * np.float32(band[top, left, c])
                                 + a * np.float32(band[top, beside, c]))
                    + b * ((one - a) * np.float32(band[below, left, c])
                           + a * np.float32(band[below, beside, c])))


@_jit
def paint(picture: npt.NDArray[np.uint8], coarse: npt.NDArray[np.uint8], inside: Float,
          by_pixel: float, layer: Float, places: Float, band: npt.NDArray[np.int8], gains: Float,
          plain: Float, out: npt.NDArray[np.uint8]) -> None:
    """`coarse` [H, W, 3], a layer of detail and that of each pixel's place in the example, where
    inside is positive, elsewhere `picture`.

    inside [H, W]: pixels to the next one that is not to be painted; detail fades in by `by_pixel`
    of it. layer [H, W, 3]: grey values. places: see `grow`, at least [H, W, 2]. band [H, W, 3]:
    detail that the gains [h, w], of any size, multiply. plain [H, W]: share of `picture` as it is.
    """
    height, width = inside.shape
    rows, columns = gains.shape
    down, right = rows / height, columns / width
    one = np.float32(1.0)
    for y in range(height):
        v = np.float32(min(max((y + 0.5) * down - 0.5, 0.0), rows - 1.0))
        i = int(v)
        q, i_next = v - np.float32(i), min(i + 1, rows - 1)
        for x in range(width):
            if not inside[y, x] > 0:
                for c in range(3):
                    out[y, x, c] = picture[y, x, c]
                continue
            weight = min(inside[y, x] * np.float32(by_pixel), one)
            s, t = places[y, x, 0], places[y, x, 1]
            known = s >= 0 and t >= 0 and s <= width - 1 and t <= height - 1
            if not known:
                s, t = np.float32(0.0), np.float32(0.0)
            u = np.float32(min(max((x + 0.5) * right - 0.5, 0.0), columns - 1.0))
            j = int(u)
            p, j_next = u - np.float32(j), min(j + 1, columns - 1)
            fine = weight * ((one - q) * ((one - p) * gains[i, j] + p * gains[i, j_next])
                             + q * ((one - p) * gains[i_next, j] + p * gains[i_next, j_next]))
            if not known:
                fine = np.float32(0.0)
            left, top = int(s), int(t)
            a, b = s - np.float32(left), t - np.float32(top)
            beside, below = min(left + 1, width - 1), min(top + 1, height - 1)
            for c in range(3):
                value = np.float32(coarse[y, x, c]) + weight * layer[y, x, c]
                value += fine * (
                    (one - b) * ((one - a) * np.float32(band[top, left, c])
                                 + a * np.float32(band[top, beside, c]))
                    + b * ((one - a) * np.float32(band[below, left, c])
                           + a * np.float32(band[below, beside, c])))
                value += plain[y, x] * (np.float32(picture[y, x, c]) - value)
                out[y, x, c] = np.uint8(min(max(value + np.float32(0.5), np.float32(0.0)),
                                            np.float32(255.0)))


@_jit
def mip(pyramid: tuple[Float, ...], levels: Float, where: Bool, kept: Float,
        out: npt.NDArray[np.uint8]) -> None:
    """Colours of a pyramid at the level of each pixel, between pixels and levels.

    pyramid: [H, W, 4], then half as large each: RGB times a weight, and the weight. levels
    [H, W]: 0 is the finest. where [H, W]: pixels of out [H, W, 3] that are written; they keep the
    share `kept` [H, W] of what they were.
    """
    height, width = where.shape
    total = np.zeros(4, np.float32)
    for y in range(height):
        for x in range(width):
            if not where[y, x] or not levels[y, x] > 0.0:
                continue
            first = min(int(levels[y, x]), len(pyramid) - 1)
            share = np.float32(levels[y, x] - first)
            total[:] = 0.0
            for level in (first, min(first + 1, len(pyramid) - 1)):
                part = share if level > first else np.float32(1.0) - share
                grid = pyramid[level]
                rows, columns = grid.shape[0], grid.shape[1]
                # cv2.pyrDown keeps every other pixel: pixel (0, 0) stays where it is.
                v, u = min(y / 2.0**level, rows - 1.0), min(x / 2.0**level, columns - 1.0)
                i, j = int(v), int(u)
                q, p = np.float32(v - i), np.float32(u - j)
                below, beside = min(i + 1, rows - 1), min(j + 1, columns - 1)
                for c in range(4):
                    total[c] += part * (
                        (1 - q) * ((1 - p) * grid[i, j, c] + p * grid[i, beside, c])
                        + q * ((1 - p) * grid[below, j, c] + p * grid[below, beside, c]))
            if total[3] > 1e-3:
                for c in range(3):
                    value = total[c] / total[3]
                    value += kept[y, x] * (np.float32(out[y, x, c]) - value)
                    out[y, x, c] = np.uint8(min(max(value + np.float32(0.5), np.float32(0.0)),
                                                np.float32(255.0)))
