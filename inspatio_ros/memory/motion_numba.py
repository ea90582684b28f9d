# SPDX-License-Identifier: Apache-2.0
# Numba unifies number types where mypy sees a reassignment.
# mypy: disable-error-code="assignment,call-overload"
"""CPU kernels of motion segmentation; described where they are called, in `motion`."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

# What one pixel says of itself; EXPECTED: nothing, but a thing is expected there that moves.
STATIC, UNDECIDED, MOVING, EXPECTED = np.int8(-1), np.int8(0), np.int8(1), np.int8(2)
_NAN = np.float32(np.nan)


@njit(nogil=True, cache=True, error_model="numpy")
def extremes(depth: Any, low: Any, high: Any) -> Any:
    """Smallest and largest known depth of 3x3 pixels, NaN where any of them is unknown.

    Returns how many pixels of the picture are of known depth.
    """
    height, width = depth.shape
    column_low, column_high = np.empty(width, np.float32), np.empty(width, np.float32)
    low[0], low[height - 1], high[0], high[height - 1] = _NAN, _NAN, _NAN, _NAN
    low[:, 0], low[:, width - 1], high[:, 0], high[:, width - 1] = _NAN, _NAN, _NAN, _NAN
    for row in range(1, height - 1):
        for column in range(width):
            # Unknown counts as -1, which the smallest then is.
            a, b, c = depth[row - 1, column], depth[row, column], depth[row + 1, column]
            a = a if a > 0 else np.float32(-1)
            b = b if b > 0 else np.float32(-1)
            c = c if c > 0 else np.float32(-1)
            column_low[column] = min(a, min(b, c))
            column_high[column] = max(a, max(b, c))
        for column in range(1, width - 1):
            near = min(column_low[column - 1], min(column_low[column], column_low[column + 1]))
            far = max(column_high[column - 1], max(column_high[column], column_high[column + 1]))
            low[row, column] = near if near > 0 else _NAN
            high[row, column] = far if near > 0 else _NAN
    known = 0
    for row in range(height):
        for column in range(width):
            known += depth[row, column] > 0
    return known


@njit(nogil=True, cache=True, error_model="numpy")
def expect(
    depth: Any, rays: Any, before_from_now: Any, intrinsics: Any, places: Any, expected: Any
) -> None:
    """Where each pixel was in the earlier view if it stood still.

    depth float32 [H, W]; rays float32 [4] = 1/fx, 1/fy, cx, cy; before_from_now float32 [3, 4];
    intrinsics float32 [4] fx fy cx cy. Writes places float32 [H, W, 2] px (of unknown depth: as
    if infinitely far) and expected float32 [H, W], the depth there (NaN).
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
            far, least, should = dz, np.float32(1e-3), _NAN
            z = depth[row, column]
            if z > 0:
                dx, dy, far = dx * z + m[0, 3], dy * z + m[1, 3], dz * z + m[2, 3]
                least = np.float32(1e-2)
                should = far if far > least else _NAN
            expected[row, column] = should
            places[row, column, 0] = dx / far * intrinsics[0] + intrinsics[2] if far > least \
                else np.float32(-1e4)
            places[row, column, 1] = dy / far * intrinsics[1] + intrinsics[3] if far > least \
                else np.float32(-1e4)


@njit(inline="always")
def _parallax(row: Any, column: Any, u: Any, v: Any, m: Any, rays: Any, intrinsics: Any) -> Any:
    """How far depth moves a pixel between views, px, when it comes to lie at (u, v)."""
    x, y = (np.float32(column) - rays[2]) * rays[0], (np.float32(row) - rays[3]) * rays[1]
    dz = m[2, 0] * x + m[2, 1] * y + m[2, 2]
    far_u, far_v = np.float32(-1e4), np.float32(-1e4)
    if dz > np.float32(1e-3):
        far_u = (m[0, 0] * x + m[0, 1] * y + m[0, 2]) / dz * intrinsics[0] + intrinsics[2]
        far_v = (m[1, 0] * x + m[1, 1] * y + m[1, 2]) / dz * intrinsics[1] + intrinsics[3]
    return np.sqrt((u - far_u) ** 2 + (v - far_v) ** 2)


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
def off_by(before_depth: Any, places: Any, expected: Any, limit: Any, found: Any) -> Any:
    """By what share measured depth differs from the `expected`, at one of 32 pixels.

    Writes float32 values below `limit` into `found`; returns how many.
    """
    height, width = before_depth.shape
    count = 0
    for row in range(2, expected.shape[0], 4):
        for column in range(2, expected.shape[1], 8):
            should = expected[row, column]
            u, v = places[row, column, 0], places[row, column, 1]
            if not (should > 0 and u >= 0 and v >= 0 and u < width - 1 and v < height - 1):
                continue
            there = before_depth[np.int64(np.rint(v)), np.int64(np.rint(u))]
            off = abs(there / should - np.float32(1))
            if off < limit:
                found[count] = off
                count += 1
    return count


@njit(nogil=True, cache=True, error_model="numpy")
def count_differing(
    smooth: Any, warped: Any, standing: Any, places: Any, noise: Any, side: Any, counts: Any
) -> None:
    """Add up by cell the standing pixels that differ; described in `residual_flow`."""
    height, width = smooth.shape
    for row in range(height):
        for column in range(width):
            if not standing[row, column] or not (
                    abs(np.float32(smooth[row, column]) - np.float32(warped[row, column]))
                    > noise):
                continue
            u, v = places[row, column, 0], places[row, column, 1]
            if u >= 1 and v >= 1 and u < width - 2 and v < height - 2:
                counts[row // side, column // side] += 1


@njit(inline="always")
def _slope(gray: Any, row: Any, column: Any) -> Any:
    """Length of the gradient of grey values by Sobel's filter; mirrored at the rim."""
    height, width = gray.shape
    up, down = abs(row - 1), row + 1 if row + 1 < height else height - 2
    left, right = abs(column - 1), column + 1 if column + 1 < width else width - 2
    a, b, c = np.float32(gray[up, left]), np.float32(gray[up, column]), np.float32(gray[up, right])
    d, e = np.float32(gray[row, left]), np.float32(gray[row, right])
    f, g, h = np.float32(gray[down, left]), np.float32(gray[down, column]), np.float32(
        gray[down, right])
    two, eighth = np.float32(2), np.float32(1 / 8)
    x = ((c - a) + two * (e - d) + (h - f)) * eighth
    y = ((f - a) + two * (g - b) + (h - c)) * eighth
    return np.sqrt(x * x + y * y)


@njit(nogil=True, cache=True, error_model="numpy")
def judge(
    gray: Any, smooth: Any, warped: Any, standing: Any, flow: Any, shift: Any, places: Any,
    expected: Any, depth: Any, near: Any, far: Any, before_depth: Any, before_near: Any,
    before_labels: Any, labels: Any, rays: Any, intrinsics: Any, before_from_now: Any,
    now_from_before: Any, tolerance: Any, least_px: Any, noise: Any, max_depth: Any, evidence: Any,
) -> None:
    """What each pixel says: it stands, it moved, or it cannot tell.

    gray uint8 [H, W]: now; smooth, warped uint8 [H, W]: the same smoothed, and the earlier picture
    brought to it as if nothing moved; standing bool [H, W]: pixels that are asked; flow float32
    [H, W, 2]: from gray to warped, off by shift [2] everywhere. near, far: 3x3 extremes of depth.
    before_labels, labels int32 [H, W]: what moved in the earlier look and is expected in this one,
    by number: what another thing hid then cannot tell. tolerance: relative depth that is the same;
    least_px: flow that counts; noise: grey values; max_depth m: farther pixels say nothing. Writes
    evidence int8 [H, W].
    """
    height, width = depth.shape
    rows, columns = before_depth.shape
    half = np.float32(0.5)
    for row in range(height):
        for column in range(width):
            evidence[row, column] = UNDECIDED
            z = depth[row, column]
            if not (standing[row, column] and z <= max_depth):
                continue
            u, v = places[row, column, 0], places[row, column, 1]
            if not (u >= 1 and v >= 1 and u < columns - 2 and v < rows - 2):
                continue
            should = expected[row, column]
            at_row, at_column = np.int64(v + half), np.int64(u + half)
            margin = tolerance * should + np.float32(0.05)
            # It stands in what was seen to be empty.
            if before_near[at_row, at_column] > should + 2 * margin and (
                    far[row, column] - near[row, column] < margin):
                evidence[row, column] = MOVING
                continue
            own = np.float32(smooth[row, column])
            unlike = abs(own - np.float32(warped[row, column]))
            fx, fy = flow[row, column, 0] - shift[0], flow[row, column, 1] - shift[1]
            length = np.sqrt(fx * fx + fy * fy)
            there = before_depth[at_row, at_column]
            alike = unlike < noise and abs(there - should) < margin
            if not (alike or (unlike > noise and length > least_px)):
                continue
            limit = least_px
            if not (alike and length < half * least_px):
                # Where depth moves pixels far, errors of depth look like flow.
                limit += np.float32(0.05) * _parallax(row, column, u, v, before_from_now, rays,
                                                      intrinsics)
            if alike:
                if length < half * limit and _slope(gray, row, column) * least_px > noise:
                    evidence[row, column] = STATIC
                continue
            if not length > limit:
                continue
            match_row = np.int64(min(max(np.float32(row) + fy + half, 0), height - 1))
            match_column = np.int64(min(max(np.float32(column) + fx + half, 0), width - 1))
            better = abs(own - np.float32(warped[match_row, match_column]))
            flows = better < half * unlike
            if flows and there < should - margin:
                # Its place was hidden then. By something that moved since, or cannot be told.
                hider = before_labels[at_row, at_column]
                flows = (hider == 0 or hider == labels[row, column]) and _seen_through(
                    u, v, there, now_from_before, rays, intrinsics, depth, half * margin)
            if flows:
                evidence[row, column] = MOVING


@njit(nogil=True, cache=True, error_model="numpy")
def displacements(
    pixels: Any, smooth: Any, warped: Any, flow: Any, shift: Any, places: Any, expected: Any,
    depth: Any, before_depth: Any, before_near: Any, before_far: Any, rays: Any,
    world_from_now: Any, world_from_before: Any, tolerance: Any, noise: Any, motion: Any,
) -> Any:
    """By how much pixels moved in the world since the earlier look, by flow and both depths.

    pixels int32 [N]: flat; the rest as in `judge`. Writes float32 motion [3, N], m, those that
    could be measured first; returns how many.
    """
    height, width = depth.shape
    half, count = np.float32(0.5), 0
    w, b = world_from_now, world_from_before
    for pixel in pixels:
        row, column = pixel // width, pixel % width
        z, margin = depth[row, column], tolerance * expected[row, column] + np.float32(0.05)
        own = np.float32(smooth[row, column])
        unlike = abs(own - np.float32(warped[row, column]))
        fx, fy = flow[row, column, 0] - shift[0], flow[row, column, 1] - shift[1]
        match_row = np.int64(min(max(np.float32(row) + fy + half, 0), height - 1))
        match_column = np.int64(min(max(np.float32(column) + fx + half, 0), width - 1))
        better = abs(own - np.float32(warped[match_row, match_column]))
        mu = places[match_row, match_column, 0] + (
            np.float32(column) + fx - np.float32(match_column))
        mv = places[match_row, match_column, 1] + (np.float32(row) + fy - np.float32(match_row))
        if not (mu >= 0 and mv >= 0 and mu < width - 1 and mv < height - 1 and (
                better < noise or better < half * unlike)):
            continue
        y, x = np.int64(mv + half), np.int64(mu + half)
        was = before_depth[y, x]
        if not (was > 0 and before_far[y, x] - before_near[y, x] < 2 * margin):
            continue
        px, py = (np.float32(column) - rays[2]) * rays[0] * z, \
            (np.float32(row) - rays[3]) * rays[1] * z
        qx, qy = (mu - rays[2]) * rays[0] * was, (mv - rays[3]) * rays[1] * was
        for axis in range(3):
            motion[axis, count] = (
                w[axis, 0] * px + w[axis, 1] * py + w[axis, 2] * z + w[axis, 3]
                - b[axis, 0] * qx - b[axis, 1] * qy - b[axis, 2] * was - b[axis, 3])
        count += 1
    return count


@njit(nogil=True, cache=True, error_model="numpy")
def appeared(
    depth: Any, rays: Any, before_from_now: Any, intrinsics: Any, standing: Any, near: Any,
    far: Any, before_near: Any, tolerance: Any, max_depth: Any, evidence: Any,
) -> None:
    """Mark what stands where an earlier view saw empty space as moving; arguments as above."""
    m = before_from_now
    height, width = depth.shape
    rows, columns = before_near.shape
    half = np.float32(0.5)
    for row in range(height):
        y = (np.float32(row) - rays[3]) * rays[1]
        for column in range(width):
            if not standing[row, column] or evidence[row, column] == MOVING or not (
                    far[row, column] <= max_depth):
                continue
            x, z = (np.float32(column) - rays[2]) * rays[0], depth[row, column]
            should = (m[2, 0] * x + m[2, 1] * y + m[2, 2]) * z + m[2, 3]
            if not should > np.float32(1e-2):
                continue
            u = ((m[0, 0] * x + m[0, 1] * y + m[0, 2]) * z + m[0, 3]) / should \
                * intrinsics[0] + intrinsics[2]
            v = ((m[1, 0] * x + m[1, 1] * y + m[1, 2]) * z + m[1, 3]) / should \
                * intrinsics[1] + intrinsics[3]
            if not (u >= 1 and v >= 1 and u < columns - 2 and v < rows - 2):
                continue
            margin = tolerance * should + np.float32(0.05)
            if before_near[np.int64(v + half), np.int64(u + half)] > should + 2 * margin and (
                    far[row, column] - near[row, column] < margin):
                evidence[row, column] = MOVING


@njit(nogil=True, cache=True, error_model="numpy")
def mark(
    xyz: Any, view: Any, intrinsics: Any, depth: Any, standing: Any, tolerance: Any, reach: Any,
    number: Any, marks: Any,
) -> Any:
    """Write `number` where a depth picture shows points, up to `reach` px off where they project.

    xyz float32 [3, P]; view float32 [3, 4] camera_from_points; standing bool [H, W]: where alone
    is written; marks int32 [H, W], changed.
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
                if standing[r, c] and abs(depth[r, c] - far) < margin:
                    marks[r, c] = number
    return counts
