# SPDX-License-Identifier: Apache-2.0
# Numba unifies number types where mypy sees a reassignment.
# mypy: disable-error-code="assignment,call-overload"
"""CPU kernels of the bank of views; described where they are called, in `view_bank`."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

_HALF = np.float32(0.5)
_ONE = np.float32(1.0)
# A point of a view is drawn at most this many target cells wide.
MAX_SIDE = 4


@njit(nogil=True, cache=True, error_model="numpy")
def sample_depth(depth: Any, samples: Any) -> None:
    """The known depth nearest to the middle of each cell of a picture [H, W]; NaN where none is.

    samples float32 [rows, columns].
    """
    height, width = depth.shape
    rows, columns = samples.shape
    for row in range(rows):
        top = height * row // rows
        bottom = max(height * (row + 1) // rows, top + 1)
        for column in range(columns):
            left = width * column // columns
            right = max(width * (column + 1) // columns, left + 1)
            best, found = np.float32(np.inf), np.float32(np.nan)
            for y in range(top, min(bottom, height)):
                for x in range(left, min(right, width)):
                    z = depth[y, x]
                    if z > 0 and z < np.float32(np.inf):
                        off = abs(2 * y + 1 - top - bottom) + abs(2 * x + 1 - left - right)
                        if off < best:
                            best, found = off, z
            samples[row, column] = found


@njit(nogil=True, cache=True, error_model="numpy")
def surface_points(samples: Any, intrinsics: Any, stride: Any, jump: Any, points: Any) -> None:
    """Every `stride`-th sample of a depth grid as a point with its normal and its width.

    points float32 [P, 7]: x y z in the view's frame (z 0: none), unit normal towards the camera
    (zeros: not known, where neighbours differ by more than `jump`, relative), width in m.
    """
    rows, columns = samples.shape
    fx, fy, cx, cy = intrinsics[0], intrinsics[1], intrinsics[2], intrinsics[3]
    index = 0
    for row in range(stride // 2, rows, stride):
        for column in range(stride // 2, columns, stride):
            point = points[index]
            index += 1
            point[:] = 0
            z = samples[row, column]
            if not z > 0:
                continue
            point[0] = (np.float32(column) - cx) / fx * z
            point[1] = (np.float32(row) - cy) / fy * z
            point[2] = z
            point[6] = np.float32(stride) / fx * z
            if row == 0 or column == 0 or row + 1 == rows or column + 1 == columns:
                continue
            left, right = samples[row, column - 1], samples[row, column + 1]
            above, below = samples[row - 1, column], samples[row + 1, column]
            if not (abs(left - z) < jump * z and abs(right - z) < jump * z
                    and abs(above - z) < jump * z and abs(below - z) < jump * z):
                continue
            rx, ry = (np.float32(column) - cx) / fx, (np.float32(row) - cy) / fy
            # Differences along the row (a) and along the column (b), in the view's frame.
            az = right - left
            ax, ay = rx * az + (right + left) / fx, ry * az
            bz = below - above
            bx, by = rx * bz, ry * bz + (below + above) / fy
            nx, ny, nz = by * az - bz * ay, bz * ax - bx * az, bx * ay - by * ax
            length = np.sqrt(nx * nx + ny * ny + nz * nz)
            if length > 0:
                point[3], point[4], point[5] = nx / length, ny / length, nz / length


@njit(nogil=True, cache=True, error_model="numpy")
def draw_points(
    points: Any, target_from_view: Any, target: Any, zbuffer: Any, reached: Any,
) -> None:
    """Draw the points of every view into the target's grid, nearest in front.

    points float32 [V, P, 7] (see `surface_points`); target_from_view float32 [V, 3, 4]; target
    float32 [4] fx fy cx cy in cells. Points seen from their back are left out. zbuffer float32
    [h, w] starts at infinity; reached int32 [V]: points of each view that fell into the grid.
    """
    views, count = points.shape[0], points.shape[1]
    height, width = zbuffer.shape
    for view in range(views):
        m = target_from_view[view]
        hits = 0
        for index in range(count):
            point = points[view, index]
            x, y, z = point[0], point[1], point[2]
            if not z > 0:
                continue
            far = m[2, 0] * x + m[2, 1] * y + m[2, 2] * z + m[2, 3]
            if not far > np.float32(1e-3):
                continue
            right = m[0, 0] * x + m[0, 1] * y + m[0, 2] * z + m[0, 3]
            down = m[1, 0] * x + m[1, 1] * y + m[1, 2] * z + m[1, 3]
            u = right / far * target[0] + target[2] + _HALF
            v = down / far * target[1] + target[3] + _HALF
            if not (u >= 0 and v >= 0 and u < width and v < height):
                continue
            n0 = m[0, 0] * point[3] + m[0, 1] * point[4] + m[0, 2] * point[5]
            n1 = m[1, 0] * point[3] + m[1, 1] * point[4] + m[1, 2] * point[5]
            n2 = m[2, 0] * point[3] + m[2, 1] * point[4] + m[2, 2] * point[5]
            if n0 * right + n1 * down + n2 * far > 0:
                continue
            hits += 1
            side: Any = np.int64(point[6] / far * target[0] + _HALF)
            side = min(max(side, 1), MAX_SIDE)
            left, top = np.int64(u) - (side - 1) // 2, np.int64(v) - (side - 1) // 2
            for j in range(max(top, 0), min(top + side, height)):
                for i in range(max(left, 0), min(left + side, width)):
                    if far < zbuffer[j, i]:
                        zbuffer[j, i] = far
        reached[view] = hits


@njit(nogil=True, cache=True, error_model="numpy")
def _shows(samples: Any, u: Any, v: Any, depth: Any, tolerance: Any, jump: Any) -> Any:
    """Whether a depth grid [rows, columns] has a surface at `depth` at (u, v), cell centres at
    integers.
    """
    rows, columns = samples.shape
    left, top = np.int64(np.floor(u)), np.int64(np.floor(v))
    low, high = np.float32(np.inf), np.float32(0)
    for dy in range(2):
        row = min(max(top + dy, 0), rows - 1)
        for dx in range(2):
            z = samples[row, min(max(left + dx, 0), columns - 1)]
            if z > 0:
                if abs(z - depth) <= tolerance * depth:
                    return True
                low, high = min(low, z), max(high, z)
    # On a slanted surface the point lies between its neighbours.
    return depth >= low and depth <= high and high - low <= jump * low


@njit(nogil=True, cache=True, error_model="numpy")
def seen_points(
    points: Any, target_from_view: Any, target: Any, depth: Any, reached: Any, tolerance: Any,
    jump: Any, shares: Any,
) -> None:
    """Share of each view's points that the target sees: in its grid, at its `depth` [h, w] there.

    As `draw_points`; shares float32 [V].
    """
    views, count = points.shape[0], points.shape[1]
    height, width = depth.shape
    for view in range(views):
        shares[view] = 0
        if reached[view] == 0:
            continue
        m = target_from_view[view]
        known, seen = 0, 0
        for index in range(count):
            x, y, z = points[view, index, 0], points[view, index, 1], points[view, index, 2]
            if not z > 0:
                continue
            known += 1
            far = m[2, 0] * x + m[2, 1] * y + m[2, 2] * z + m[2, 3]
            if not far > np.float32(1e-3):
                continue
            u = (m[0, 0] * x + m[0, 1] * y + m[0, 2] * z + m[0, 3]) / far * target[0] + target[2]
            v = (m[1, 0] * x + m[1, 1] * y + m[1, 2] * z + m[1, 3]) / far * target[1] + target[3]
            if not (u >= -_HALF and v >= -_HALF and u < width - _HALF and v < height - _HALF):
                continue
            if _shows(depth, u, v, far, tolerance, jump):
                seen += 1
        if known > 0:
            shares[view] = np.float32(seen) / np.float32(known)


@njit(nogil=True, cache=True, error_model="numpy")
def common_points(
    points: Any, centers: Any, view_from_target: Any, intrinsics: Any, scales: Any,
    target_scale: Any, samples: Any, reached: Any, tolerance: Any, jump: Any, least_cosine: Any,
    shares: Any, counts: Any,
) -> None:
    """How well every view shows each of the target's points.

    points float32 [P, 7] in the target's frame (see `surface_points`); centers [V, 3] of the
    views' cameras there; view_from_target [V, 3, 4]; intrinsics [V, 4] in cells; scales [V] and
    target_scale: focal lengths in pixels; samples [V, rows, columns] of depth; reached [V]: views
    with 0 are left out. A point counts when it is inside the view, at a depth that was measured
    there (see `_shows`), and seen from its front at an angle whose cosine is at least
    `least_cosine`. shares float32 [V, P]: 0, or up to 1 where the view is as close and as frontal
    as the target; counts int32 [V]: plain numbers.
    """
    views, rows, columns = samples.shape
    for view in range(views):
        counts[view] = 0
        if reached[view] == 0:
            continue
        m, grid = view_from_target[view], samples[view]
        fx, fy, cx, cy = (intrinsics[view, 0], intrinsics[view, 1], intrinsics[view, 2],
                          intrinsics[view, 3])
        right, bottom = np.float32(columns) - _HALF, np.float32(rows) - _HALF
        m00, m01, m02, m03 = m[0, 0] * fx, m[0, 1] * fx, m[0, 2] * fx, m[0, 3] * fx
        m10, m11, m12, m13 = m[1, 0] * fy, m[1, 1] * fy, m[1, 2] * fy, m[1, 3] * fy
        m20, m21, m22, m23 = m[2, 0], m[2, 1], m[2, 2], m[2, 3]
        for index in range(points.shape[0]):
            x, y, z = points[index, 0], points[index, 1], points[index, 2]
            if not z > 0:
                continue
            depth = m20 * x + m21 * y + m22 * z + m23
            if not depth > np.float32(1e-3):
                continue
            inverse = _ONE / depth
            u = (m00 * x + m01 * y + m02 * z + m03) * inverse + cx
            v = (m10 * x + m11 * y + m12 * z + m13) * inverse + cy
            if not (u >= -_HALF and v >= -_HALF and u < right and v < bottom):
                continue
            if not _shows(grid, u, v, depth, tolerance, jump):
                continue
            dx, dy, dz = (centers[view, 0] - x, centers[view, 1] - y, centers[view, 2] - z)
            distance = np.sqrt(dx * dx + dy * dy + dz * dz)
            own = np.sqrt(x * x + y * y + z * z)
            n0, n1, n2 = points[index, 3], points[index, 4], points[index, 5]
            frontal = _ONE
            if n0 != 0 or n1 != 0 or n2 != 0:
                facing = (n0 * dx + n1 * dy + n2 * dz) / distance
                if facing < least_cosine:
                    continue
                wanted = -(n0 * x + n1 * y + n2 * z) / own
                frontal = min(_ONE, facing / max(wanted, np.float32(0.05)))
            finer = min(_ONE, scales[view] / depth * z / target_scale)
            # From another side the same point may look different: half of it at a right angle.
            between = -(x * dx + y * dy + z * dz) / (own * distance)
            shares[view, index] = frontal * finer * (_HALF + _HALF * max(between, np.float32(0)))
            counts[view] += 1


@njit(nogil=True, cache=True, error_model="numpy", inline="always")
def _in_other(rays: Any, column: Any, row: Any, z: Any, m: Any, intrinsics: Any) -> Any:
    """Column and row (by their corner) and depth in another camera of a pixel at depth z.

    rays float32 [4]: 1/fx, 1/fy, cx, cy; m [3, 4]: other from this camera; intrinsics [4] of it.
    """
    x = (np.float32(column) - rays[2]) * rays[0] * z
    y = (np.float32(row) - rays[3]) * rays[1] * z
    far = m[2, 0] * x + m[2, 1] * y + m[2, 2] * z + m[2, 3]
    u = (m[0, 0] * x + m[0, 1] * y + m[0, 2] * z + m[0, 3]) / far * intrinsics[0] \
        + intrinsics[2] + _HALF
    v = (m[1, 0] * x + m[1, 1] * y + m[1, 2] * z + m[1, 3]) / far * intrinsics[1] \
        + intrinsics[3] + _HALF
    return u, v, far


@njit(nogil=True, cache=True, error_model="numpy")
def lay_into_holes(
    image: Any, depth: Any, provenance: Any, layer_image: Any, layer_depth: Any, tone: Any,
    label: Any, backed: Any, nearer: Any, seen: Any, rays: Any, reference_from_camera: Any,
    intrinsics: Any,
) -> Any:
    """Write a layer into the pixels whose provenance is below `backed`; how many.

    tone float32 [6]: gains and offsets of its colours. As `splatting_numba.compose`, a pixel that
    the newest reference saw through is left out, but hints give way.
    """
    m = reference_from_camera
    height, width = depth.shape
    written = 0
    for row in range(height):
        for column in range(width):
            z = layer_depth[row, column]
            if not z > 0 or provenance[row, column] >= backed:
                continue
            u, v, far = _in_other(rays, column, row, z, m, intrinsics)
            if (far > 0 and u >= 0 and v >= 0 and u < seen.shape[1] and v < seen.shape[0]
                    and far < seen[np.int64(v), np.int64(u)] * nearer):
                continue
            for channel in range(3):
                value = layer_image[row, column, channel] * tone[channel] + tone[3 + channel]
                image[row, column, channel] = np.uint8(min(max(value + _HALF, np.float32(0)),
                                                           np.float32(255)))
            depth[row, column] = z
            provenance[row, column] = label
            written += 1
    return written


@njit(nogil=True, cache=True, error_model="numpy")
def leave_hidden(
    layer_image: Any, layer_depth: Any, provenance: Any, backed: Any, tone: Any, rays: Any,
    other_from_camera: Any, intrinsics: Any, other_image: Any, other_depth: Any, limit: Any,
) -> Any:
    """Make depth of a layer NaN where another observation shows another colour without depth.

    Asked are pixels whose provenance is below `backed`; tone float32 [6]: gains and offsets of the
    layer's colours; limit: mean difference of the channels. Returns how many pixels went.
    """
    m = other_from_camera
    height, width = layer_depth.shape
    gone = 0
    for row in range(height):
        for column in range(width):
            z = layer_depth[row, column]
            if not z > 0 or provenance[row, column] >= backed:
                continue
            u, v, far = _in_other(rays, column, row, z, m, intrinsics)
            if not (far > np.float32(0.05) and u >= 0 and v >= 0 and u < other_depth.shape[1]
                    and v < other_depth.shape[0]):
                continue
            i, j = np.int64(v), np.int64(u)
            if other_depth[i, j] > 0:
                continue
            off = np.float32(0)
            for channel in range(3):
                value = layer_image[row, column, channel] * tone[channel] + tone[3 + channel]
                off += abs(value - np.float32(other_image[i, j, channel]))
            if off > np.float32(3) * limit:
                layer_depth[row, column] = np.float32(np.nan)
                gone += 1
    return gone
