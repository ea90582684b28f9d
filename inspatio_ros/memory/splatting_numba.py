# SPDX-License-Identifier: Apache-2.0
# Numba unifies number types where mypy sees a reassignment.
# mypy: disable-error-code="assignment,call-overload"
"""CPU kernels that draw points and depth pictures into a z-buffer of packed 64-bit keys.

key = bits of the float32 depth << 32 | a 32-bit payload (colour and label, an index, or source
coordinates). Positive floats order like their bits, so the unsigned minimum of keys is the nearest
point together with its payload, in one comparison (Schuetz et al., arXiv 2104.07526).

Every thread draws into its own buffer and the buffers are merged: a minimum does not depend on
order, so the result is the same for any number of threads. No kernel uses fast-math: a comparison
with NaN must fail, and the torch backend must agree bit by bit.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit, prange

EMPTY = np.uint64(0xFFFFFFFFFFFFFFFF)
_NAN = np.float32(np.nan)
_ZERO = np.float32(0.0)
_HALF = np.float32(0.5)
_ONE = np.float32(1.0)
_SHIFT = np.uint64(32)
_LOW = np.uint64(0xFFFFFFFF)

# Points handled at a time, so that projections stay in the nearest cache.
TILE = 512
# A triangle of neighbouring depth pixels that covers more than this many pixels across carries
# no picture any more: the camera is about to pass through it.
MAX_TRIANGLE = 48
# From this rank on a depth is a guess.
GUESSED = 2


@njit(inline="always")
def _key(depth: Any, payload: Any) -> Any:
    return (np.uint64(np.float32(depth).view(np.uint32)) << _SHIFT) | np.uint64(payload)


@njit(inline="always")
def _depth_of(key: Any) -> Any:
    return np.uint32(key >> _SHIFT).view(np.float32)


@njit(inline="always")
def _ranked_key(rank: Any, depth: Any, payload: Any) -> Any:
    # Two bits of rank above the depth's; the sign is 0 and the last bit of 24 is given up.
    high = (np.uint64(rank) << np.uint64(30)) | np.uint64(
        np.float32(depth).view(np.uint32) >> np.uint32(1))
    return (high << _SHIFT) | np.uint64(payload)


@njit(inline="always")
def _depth_of_ranked(key: Any) -> Any:
    return np.uint32(((key >> _SHIFT) & np.uint64(0x3FFFFFFF)) << np.uint64(1)).view(np.float32)


@njit(inline="always")
def _byte(value: Any) -> Any:
    return np.uint8(min(max(value, np.float32(0.0)), np.float32(255.0)) + _HALF)


@njit(nogil=True, cache=True, error_model="numpy")
def _project_tile(xs: Any, ys: Any, zs: Any, matrix: Any, us: Any, vs: Any, depths: Any) -> None:
    """Project planar coordinates; without a branch, so that it is done eight at a time."""
    a, b, c, d = matrix[0, 0], matrix[0, 1], matrix[0, 2], matrix[0, 3]
    e, f, g, h = matrix[1, 0], matrix[1, 1], matrix[1, 2], matrix[1, 3]
    m, n, o, p = matrix[2, 0], matrix[2, 1], matrix[2, 2], matrix[2, 3]
    for j in range(xs.shape[0]):
        x, y, z = xs[j], ys[j], zs[j]
        depth = m * x + n * y + o * z + p
        inverse = _ONE / depth
        us[j] = (a * x + b * y + c * z + d) * inverse
        vs[j] = (e * x + f * y + g * z + h) * inverse
        depths[j] = depth


@njit(nogil=True, cache=True, error_model="numpy")
def _pixel_tile(us: Any, vs: Any, depths: Any, near: Any, width: Any, height: Any,
                pixels: Any) -> None:
    """Index of the nearest pixel of each projection, -1 outside, behind or not a number."""
    wide, high, row = np.float32(width), np.float32(height), np.int32(width)
    for j in range(us.shape[0]):
        u, v = us[j] + _HALF, vs[j] + _HALF
        inside = (depths[j] > near) & (u >= _ZERO) & (v >= _ZERO) & (u < wide) & (v < high)
        pixel = np.int32(v) * row + np.int32(u)
        pixels[j] = pixel if inside else np.int32(-1)


@njit(parallel=True, nogil=True, cache=True, error_model="numpy")
def splat_points(
    xyz: Any, codes: Any, spans: Any, projection: Any, near: Any,
    width: Any, height: Any, buffers: Any,
) -> None:
    """Draw every point into its nearest pixel.

    xyz float32 [3, P]; codes uint32 [P]; spans int64 [S, 2] of the index ranges to draw;
    projection float32 [3, 4] = K camera_from_points; buffers uint64 [threads, H*W], overwritten.
    """
    threads = buffers.shape[0]
    for thread in prange(threads):
        buffer = buffers[thread]
        buffer[:] = EMPTY
        us, vs = np.empty(TILE, np.float32), np.empty(TILE, np.float32)
        depths, pixels = np.empty(TILE, np.float32), np.empty(TILE, np.int32)
        bits = depths.view(np.uint32)
        for s in range(thread, spans.shape[0], threads):
            for start in range(spans[s, 0], spans[s, 1], TILE):
                stop = min(start + TILE, spans[s, 1])
                count = stop - start
                _project_tile(xyz[0, start:stop], xyz[1, start:stop], xyz[2, start:stop],
                              projection, us[:count], vs[:count], depths[:count])
                _pixel_tile(us[:count], vs[:count], depths[:count], near, width, height,
                            pixels[:count])
                payload = codes[start:stop]
                for j in range(count):
                    if pixels[j] >= 0:
                        pixel = np.uint32(pixels[j])
                        key = (np.uint64(bits[j]) << _SHIFT) | np.uint64(payload[j])
                        buffer[pixel] = min(buffer[pixel], key)


@njit(parallel=True, nogil=True, cache=True, error_model="numpy")
def splat_squares(
    xyz: Any, sizes: Any, codes: Any, spans: Any, projection: Any, focal: Any, max_side: Any,
    near: Any, width: Any, height: Any, buffers: Any,
) -> None:
    """Draw every point as a square of its own size, at least one pixel.

    As `splat_points`, but an empty `codes` stands for each point's index; sizes float32 [P] m;
    focal: pixels a metre at 1 m; the side in pixels is `focal * size / depth` rounded, from 1 to
    `max_side`.
    """
    threads = buffers.shape[0]
    margin = np.float32(max_side)
    wide, high = np.float32(width) + margin, np.float32(height) + margin
    indexed = codes.shape[0] == 0
    for thread in prange(threads):
        buffer = buffers[thread]
        buffer[:] = EMPTY
        us, vs = np.empty(TILE, np.float32), np.empty(TILE, np.float32)
        depths = np.empty(TILE, np.float32)
        for s in range(thread, spans.shape[0], threads):
            for start in range(spans[s, 0], spans[s, 1], TILE):
                stop = min(start + TILE, spans[s, 1])
                count = stop - start
                _project_tile(xyz[0, start:stop], xyz[1, start:stop], xyz[2, start:stop],
                              projection, us[:count], vs[:count], depths[:count])
                for j in range(count):
                    u, v, depth = us[j], vs[j], depths[j]
                    if not (depth > near and u > -margin and v > -margin
                            and u < wide and v < high):
                        continue
                    i = start + j
                    side = focal * sizes[i] * (_ONE / depth)
                    side = min(max(np.floor(side + _HALF), _ONE), margin)
                    # A square of `side` pixels whose centre is nearest to (u, v).
                    shift = (side - _ONE) * _HALF
                    left = np.int64(np.floor(u - shift + _HALF))
                    top = np.int64(np.floor(v - shift + _HALF))
                    right = min(left + np.int64(side), width)
                    bottom = min(top + np.int64(side), height)
                    key = _key(depth, i if indexed else codes[i])
                    for row in range(max(top, 0), bottom):
                        for column in range(max(left, 0), right):
                            pixel = row * width + column
                            buffer[pixel] = min(buffer[pixel], key)


@njit(parallel=True, nogil=True, cache=True, error_model="numpy")
def splat_depth(
    depth: Any, codes: Any, inverse_k: Any, projection: Any, near: Any,
    width: Any, height: Any, buffers: Any,
) -> None:
    """Draw every pixel of a depth picture into the 2x2 pixels around its projection.

    depth float32 [H, W] m; codes uint32 [H, W]; inverse_k float32 [4] = 1/fx, 1/fy, cx, cy of the
    depth's camera; projection float32 [3, 4] = K target_from_source.
    """
    threads = buffers.shape[0]
    rows, columns = depth.shape
    for thread in prange(threads):
        buffer = buffers[thread]
        buffer[:] = EMPTY
        for row in range(rows * thread // threads, rows * (thread + 1) // threads):
            ray_y = (np.float32(row) - inverse_k[3]) * inverse_k[1]
            for column in range(columns):
                z = depth[row, column]
                if not z > 0:
                    continue
                x = (np.float32(column) - inverse_k[2]) * inverse_k[0] * z
                y = ray_y * z
                far = (projection[2, 0] * x + projection[2, 1] * y + projection[2, 2] * z
                       + projection[2, 3])
                if not far > near:
                    continue
                inverse = _ONE / far
                u = (projection[0, 0] * x + projection[0, 1] * y + projection[0, 2] * z
                     + projection[0, 3]) * inverse
                v = (projection[1, 0] * x + projection[1, 1] * y + projection[1, 2] * z
                     + projection[1, 3]) * inverse
                if not (u > -1 and v > -1 and u < width and v < height):
                    continue
                left, top = np.int64(np.floor(u)), np.int64(np.floor(v))
                key = _key(far, codes[row, column])
                pixel = top * width + left
                if top >= 0:
                    if left >= 0 and key < buffer[pixel]:
                        buffer[pixel] = key
                    if left + 1 < width and key < buffer[pixel + 1]:
                        buffer[pixel + 1] = key
                if top + 1 < height:
                    pixel += width
                    if left >= 0 and key < buffer[pixel]:
                        buffer[pixel] = key
                    if left + 1 < width and key < buffer[pixel + 1]:
                        buffer[pixel + 1] = key


@njit(inline="always")
def _joined(za: Any, zb: Any, jump: Any) -> Any:
    return abs(za - zb) <= jump * min(za, zb)


@njit(nogil=True, cache=True, error_model="numpy")
def _alone(depth: Any, row: Any, column: Any, jump: Any) -> Any:
    """Whether a pixel has no surface around it, and so is drawn as a point.

    Others are not, since a point has no back: a surface seen from behind would shine through.
    """
    own = depth[row, column]
    beside = (column > 0 and _joined(own, depth[row, column - 1], jump)) or (
        column + 1 < depth.shape[1] and _joined(own, depth[row, column + 1], jump))
    above = (row > 0 and _joined(own, depth[row - 1, column], jump)) or (
        row + 1 < depth.shape[0] and _joined(own, depth[row + 1, column], jump))
    return not (beside and above)


@njit(nogil=True, cache=True, error_model="numpy")
def _triangle(
    u0: Any, v0: Any, z0: Any, s0: Any, t0: Any,
    u1: Any, v1: Any, z1: Any, s1: Any, t1: Any,
    u2: Any, v2: Any, z2: Any, s2: Any, t2: Any,
    rank: Any, scale: Any, width: Any, height: Any, buffer: Any,
) -> None:
    """Draw one triangle; (s, t) are its corners' source pixels, `scale` their fixed point."""
    area = (u1 - u0) * (v2 - v0) - (u2 - u0) * (v1 - v0)
    # Source triangles all turn one way; one that turns the other way shows its back, unseen.
    if not area > np.float32(1e-6):
        return
    low_u, high_u = min(u0, min(u1, u2)), max(u0, max(u1, u2))
    low_v, high_v = min(v0, min(v1, v2)), max(v0, max(v1, v2))
    limit = np.float32(MAX_TRIANGLE)
    if high_u - low_u > limit or high_v - low_v > limit:
        return
    first_u, last_u = max(np.int64(np.ceil(low_u)), 0), min(np.int64(np.floor(high_u)), width - 1)
    first_v, last_v = max(np.int64(np.ceil(low_v)), 0), min(np.int64(np.floor(high_v)), height - 1)
    inverse = _ONE / area
    slack = np.float32(-1e-4)
    for row in range(first_v, last_v + 1):
        dv = np.float32(row)
        for column in range(first_u, last_u + 1):
            du = np.float32(column)
            b0 = ((u1 - du) * (v2 - dv) - (u2 - du) * (v1 - dv)) * inverse
            b1 = ((u2 - du) * (v0 - dv) - (u0 - du) * (v2 - dv)) * inverse
            b2 = _ONE - b0 - b1
            if b0 >= slack and b1 >= slack and b2 >= slack:
                z = b0 * z0 + b1 * z1 + b2 * z2
                s = np.uint64((b0 * s0 + b1 * s1 + b2 * s2) * scale + _HALF)
                t = np.uint64((b0 * t0 + b1 * t1 + b2 * t2) * scale + _HALF)
                key = _ranked_key(rank, z, (s << np.uint64(16)) | t)
                pixel = row * width + column
                if key < buffer[pixel]:
                    buffer[pixel] = key


@njit(parallel=True, nogil=True, cache=True, error_model="numpy")
def warp_mesh(
    depth: Any, ranks: Any, inverse_k: Any, projection: Any, surface_jump: Any, guess_jump: Any,
    scale: Any, near: Any,
    width: Any, height: Any, buffers: Any,
) -> None:
    """Draw a depth picture as a surface: triangles between neighbours of similar depth.

    As `splat_depth`, but the payload is the source position in fixed point (x << 16 | y, times
    `scale`), interpolated, so colours can be sampled between source pixels. Neighbours whose
    depths differ by more than `surface_jump` (relative; `guess_jump` where one of four pixels is
    a guess) are not joined: no curtain hangs between a thing and what is behind it. No crack
    opens, however near the camera comes. ranks uint8 [H, W]: 0 is the best trusted depth, 3 the
    worst; better ranks hide worse ones whatever their depth, and a triangle has the worst of its
    corners'.
    """
    threads = buffers.shape[0]
    rows, columns = depth.shape
    for thread in prange(threads):
        buffer = buffers[thread]
        buffer[:] = EMPTY
        # Projections of two rows: u, v, far; far 0 = nothing there.
        line = np.zeros((2, 3, columns), np.float32)
        first = rows * thread // threads
        last = rows * (thread + 1) // threads
        for row in range(first, min(last + 1, rows)):
            now, before = row & 1, (row + 1) & 1
            ray_y = (np.float32(row) - inverse_k[3]) * inverse_k[1]
            for column in range(columns):
                z = depth[row, column]
                line[now, 2, column] = np.float32(0.0)
                if not z > 0:
                    continue
                x = (np.float32(column) - inverse_k[2]) * inverse_k[0] * z
                y = ray_y * z
                far = (projection[2, 0] * x + projection[2, 1] * y + projection[2, 2] * z
                       + projection[2, 3])
                if not far > near:
                    continue
                inverse = _ONE / far
                u = (projection[0, 0] * x + projection[0, 1] * y + projection[0, 2] * z
                     + projection[0, 3]) * inverse
                v = (projection[1, 0] * x + projection[1, 1] * y + projection[1, 2] * z
                     + projection[1, 3]) * inverse
                if not (abs(u) < np.float32(1e6) and abs(v) < np.float32(1e6)):
                    continue
                line[now, 0, column] = u
                line[now, 1, column] = v
                line[now, 2, column] = far
                if (row < last and u >= -_HALF and v >= -_HALF and u < width - _HALF
                        and v < height - _HALF and _alone(depth, row, column, surface_jump)):
                    source = (np.uint64(np.float32(column) * scale + _HALF) << np.uint64(16)) \
                        | np.uint64(np.float32(row) * scale + _HALF)
                    key = _ranked_key(ranks[row, column], far, source)
                    pixel = np.int64(v + _HALF) * width + np.int64(u + _HALF)
                    if key < buffer[pixel]:
                        buffer[pixel] = key
            if row == first:
                continue
            t0, t1 = np.float32(row - 1), np.float32(row)
            for column in range(columns - 1):
                za, zb = line[before, 2, column], line[before, 2, column + 1]
                zc, zd = line[now, 2, column], line[now, 2, column + 1]
                missing = (za <= 0) + (zb <= 0) + (zc <= 0) + (zd <= 0)
                if missing > 1:
                    continue
                da, db = depth[row - 1, column], depth[row - 1, column + 1]
                dc, dd = depth[row, column], depth[row, column + 1]
                ua, ub = line[before, 0, column], line[before, 0, column + 1]
                uc, ud = line[now, 0, column], line[now, 0, column + 1]
                va, vb = line[before, 1, column], line[before, 1, column + 1]
                vc, vd = line[now, 1, column], line[now, 1, column + 1]
                s0, s1 = np.float32(column), np.float32(column + 1)
                ra, rb = ranks[row - 1, column], ranks[row - 1, column + 1]
                rc, rd = ranks[row, column], ranks[row, column + 1]
                guessed = max(max(ra, rb), max(rc, rd)) >= GUESSED
                jump = guess_jump if guessed else surface_jump
                ab = za > 0 and zb > 0 and _joined(da, db, jump)
                ac = za > 0 and zc > 0 and _joined(da, dc, jump)
                bd = zb > 0 and zd > 0 and _joined(db, dd, jump)
                cd = zc > 0 and zd > 0 and _joined(dc, dd, jump)
                bc = zb > 0 and zc > 0 and _joined(db, dc, jump)
                if bc and ((ab and ac) or (bd and cd)):
                    if ab and ac:
                        _triangle(ua, va, za, s0, t0, ub, vb, zb, s1, t0, uc, vc, zc, s0, t1,
                                  max(ra, max(rb, rc)), scale, width, height, buffer)
                    if bd and cd:
                        _triangle(ub, vb, zb, s1, t0, ud, vd, zd, s1, t1, uc, vc, zc, s0, t1,
                                  max(rb, max(rd, rc)), scale, width, height, buffer)
                elif za > 0 and zd > 0 and _joined(da, dd, jump):
                    if ab and bd:
                        _triangle(ua, va, za, s0, t0, ub, vb, zb, s1, t0, ud, vd, zd, s1, t1,
                                  max(ra, max(rb, rd)), scale, width, height, buffer)
                    if ac and cd:
                        _triangle(ua, va, za, s0, t0, ud, vd, zd, s1, t1, uc, vc, zc, s0, t1,
                                  max(ra, max(rd, rc)), scale, width, height, buffer)


@njit(parallel=True, nogil=True, cache=True)
def merge(buffers: Any, keys: Any) -> None:
    """The minimum over threads: keys uint64 [H*W]."""
    threads, pixels = buffers.shape
    for chunk in prange(threads):
        for pixel in range(pixels * chunk // threads, pixels * (chunk + 1) // threads):
            key = buffers[0, pixel]
            for thread in range(1, threads):
                key = min(key, buffers[thread, pixel])
            keys[pixel] = key


@njit(nogil=True, cache=True)
def _merge_tile(buffers: Any, start: Any, stop: Any, keys: Any) -> None:
    first, second = buffers[0, start:stop], buffers[min(1, buffers.shape[0] - 1), start:stop]
    for j in range(stop - start):
        keys[j] = min(first[j], second[j])
    for thread in range(2, buffers.shape[0]):
        other = buffers[thread, start:stop]
        for j in range(stop - start):
            keys[j] = min(keys[j], other[j])


@njit(parallel=True, nogil=True, cache=True)
def resolve(buffers: Any, image: Any, depth: Any, label: Any) -> None:
    """Merge buffers of colour codes and unpack them in one pass.

    image uint8 [H*W, 3], depth float32 [H*W] (NaN where nothing was drawn), label uint8 [H*W].
    """
    threads, pixels = buffers.shape
    for chunk in prange(threads):
        last = pixels * (chunk + 1) // threads
        keys = np.empty(TILE, np.uint64)
        codes = np.empty(TILE, np.uint32)
        for start in range(pixels * chunk // threads, last, TILE):
            stop = min(start + TILE, last)
            _merge_tile(buffers, start, stop, keys)
            tile_image, tile_depth = image[start:stop], depth[start:stop]
            tile_label = label[start:stop]
            for j in range(stop - start):
                # The depth bits of an empty key, all ones, are a NaN already.
                tile_depth[j] = _depth_of(keys[j])
                codes[j] = np.uint32(keys[j]) if keys[j] != EMPTY else np.uint32(0)
            for j in range(stop - start):
                code = codes[j]
                tile_image[j, 0] = np.uint8(code)
                tile_image[j, 1] = np.uint8(code >> np.uint32(8))
                tile_image[j, 2] = np.uint8(code >> np.uint32(16))
                tile_label[j] = np.uint8(code >> np.uint32(24))


@njit(parallel=True, nogil=True, cache=True, error_model="numpy")
def resolve_mesh(
    buffers: Any, source: Any, labels: Any, scale: Any, image: Any, depth: Any, label: Any,
) -> None:
    """Merge buffers of `warp_mesh` and sample the source picture bilinearly.

    source uint8 [H, W, 3]; labels uint8 [4]: of each rank; image uint8 [h*w, 3] (0 where
    nothing); depth float32 [h*w] (NaN); label uint8 [h*w] (0).
    """
    threads, pixels = buffers.shape
    rows, columns = source.shape[0], source.shape[1]
    for chunk in prange(threads):
        for pixel in range(pixels * chunk // threads, pixels * (chunk + 1) // threads):
            key = buffers[0, pixel]
            for thread in range(1, threads):
                key = min(key, buffers[thread, pixel])
            if key == EMPTY:
                image[pixel, 0] = 0
                image[pixel, 1] = 0
                image[pixel, 2] = 0
                depth[pixel] = _NAN
                label[pixel] = 0
                continue
            depth[pixel] = _depth_of_ranked(key)
            label[pixel] = labels[key >> np.uint64(62)]
            x = np.float32((key >> np.uint64(16)) & np.uint64(0xFFFF)) / scale
            y = np.float32(key & np.uint64(0xFFFF)) / scale
            left, top = min(np.int64(x), columns - 1), min(np.int64(y), rows - 1)
            fx, fy = x - np.float32(left), y - np.float32(top)
            right, bottom = min(left + 1, columns - 1), min(top + 1, rows - 1)
            for channel in range(3):
                upper = source[top, left, channel] * (_ONE - fx) + source[top, right, channel] * fx
                lower = (source[bottom, left, channel] * (_ONE - fx)
                         + source[bottom, right, channel] * fx)
                image[pixel, channel] = _byte(upper * (_ONE - fy) + lower * fy)


@njit(nogil=True, cache=True, error_model="numpy")
def _blend_square(
    u: Any, v: Any, depth: Any, side: Any, max_side: Any, color: Any, curve: Any, tolerance: Any,
    nearest: Any, width: Any, height: Any, total: Any,
) -> None:
    # Reach a little further than the opaque square, so that neighbours mix.
    reach = _HALF * min(max(side, _ONE), max_side) + _HALF
    left, top = max(np.int64(np.ceil(u - reach)), 0), max(np.int64(np.ceil(v - reach)), 0)
    right = min(np.int64(np.floor(u + reach)), width - 1)
    bottom = min(np.int64(np.floor(v + reach)), height - 1)
    if left > right or top > bottom:
        return
    red = np.float32(color & np.uint32(255)) * curve[0] + curve[3]
    green = np.float32((color >> np.uint32(8)) & np.uint32(255)) * curve[1] + curve[4]
    blue = np.float32((color >> np.uint32(16)) & np.uint32(255)) * curve[2] + curve[5]
    fall = _ONE / (reach * reach)
    for row in range(top, bottom + 1):
        dv = np.float32(row) - v
        for column in range(left, right + 1):
            pixel = row * width + column
            key = nearest[pixel]
            if key == EMPTY or depth > _depth_of(key) * (_ONE + tolerance):
                continue
            du = np.float32(column) - u
            weight = _ONE - (du * du + dv * dv) * fall
            if weight <= _ZERO:
                continue
            weight *= weight
            total[pixel, 0] += weight * red
            total[pixel, 1] += weight * green
            total[pixel, 2] += weight * blue
            total[pixel, 3] += weight * depth
            total[pixel, 4] += weight


@njit(parallel=True, nogil=True, cache=True, error_model="numpy")
def blend_squares(
    xyz: Any, sizes: Any, rgba: Any, frames: Any, tone: Any, spans: Any, projection: Any,
    focal: Any, max_side: Any, near: Any, tolerance: Any, nearest: Any, width: Any, height: Any,
    sums: Any,
) -> None:
    """Second pass of the soft z-buffer: weigh together all points near the nearest surface.

    As `splat_squares` with keys `nearest` uint64 [H*W] of that first pass. rgba uint32 [P];
    frames uint16 [P] choose the tone curve float32 [frames, 6] (three gains, three offsets) of a
    point. A point within `tolerance` (relative depth) of a pixel's nearest adds its colour with a
    weight that falls with its distance from the pixel's centre. sums float32 [threads, H*W, 5]
    of r, g, b, depth, weight; overwritten.
    """
    threads = sums.shape[0]
    margin = np.float32(max_side)
    wide, high = np.float32(width) + margin, np.float32(height) + margin
    for thread in prange(threads):
        total = sums[thread]
        total[:] = np.float32(0.0)
        us, vs = np.empty(TILE, np.float32), np.empty(TILE, np.float32)
        depths = np.empty(TILE, np.float32)
        for s in range(thread, spans.shape[0], threads):
            for start in range(spans[s, 0], spans[s, 1], TILE):
                stop = min(start + TILE, spans[s, 1])
                count = stop - start
                _project_tile(xyz[0, start:stop], xyz[1, start:stop], xyz[2, start:stop],
                              projection, us[:count], vs[:count], depths[:count])
                for j in range(count):
                    u, v, depth = us[j], vs[j], depths[j]
                    if depth > near and u > -margin and v > -margin and u < wide and v < high:
                        i = start + j
                        _blend_square(
                            u, v, depth, focal * sizes[i] / depth, margin, rgba[i],
                            tone[frames[i]], tolerance, nearest, width, height, total)


@njit(parallel=True, nogil=True, cache=True, error_model="numpy")
def resolve_cloud(
    nearest: Any, rgba: Any, frames: Any, tone: Any, sums: Any, image: Any, depth: Any,
) -> None:
    """Colours of a drawn cloud: blended where `sums` has weight, else the nearest point's own.

    nearest uint64 [H*W] keys with point indices; sums as `blend_squares` wrote it, or [0, 0, 5]
    in the fast mode; image uint8 [H*W, 3] (0 where nothing), depth float32 [H*W] (NaN).
    """
    pixels = nearest.shape[0]
    layers = sums.shape[0]
    for pixel in prange(pixels):
        key = nearest[pixel]
        if key == EMPTY:
            image[pixel, 0] = 0
            image[pixel, 1] = 0
            image[pixel, 2] = 0
            depth[pixel] = _NAN
            continue
        weight = np.float32(0.0)
        for layer in range(layers):
            weight += sums[layer, pixel, 4]
        if weight > np.float32(1e-3):
            for channel in range(3):
                value = np.float32(0.0)
                for layer in range(layers):
                    value += sums[layer, pixel, channel]
                image[pixel, channel] = _byte(value / weight)
            value = np.float32(0.0)
            for layer in range(layers):
                value += sums[layer, pixel, 3]
            depth[pixel] = value / weight
        else:
            point = np.int64(key & _LOW)
            color, curve = rgba[point], tone[frames[point]]
            for channel in range(3):
                byte = (color >> np.uint32(8 * channel)) & np.uint32(255)
                image[pixel, channel] = _byte(
                    np.float32(byte) * curve[channel] + curve[3 + channel])
            depth[pixel] = _depth_of(key)


@njit(parallel=True, nogil=True, cache=True, error_model="numpy")
def compose(
    image: Any, depth: Any, provenance: Any, layer_image: Any, layer_depth: Any, label: Any,
    nearer: Any, seen: Any, rays: Any, reference_from_camera: Any, intrinsics: Any,
    guess_label: Any,
) -> None:
    """Lay a layer under the guide: into its holes, and before it where clearly nearer.

    seen float32 [H, W]: the newest reference's depth, its 3x3 minimum (all NaN: no test). A pixel
    of the layer that this reference saw through is left out, and one that it could have seen but
    did not measure does not hide what it did. Guesses are left as they are: their colour was seen
    now, and on recordings that beats an older one.
    """
    m = reference_from_camera
    height, width = depth.shape
    for row in prange(height):
        for column in range(width):
            z = layer_depth[row, column]
            if not z > 0:
                continue
            held = provenance[row, column]
            if held == guess_label:
                continue
            if held != 0 and not z < depth[row, column] * nearer:
                continue
            x = (np.float32(column) - rays[2]) * rays[0] * z
            y = (np.float32(row) - rays[3]) * rays[1] * z
            far = m[2, 0] * x + m[2, 1] * y + m[2, 2] * z + m[2, 3]
            if far > 0:
                u = (m[0, 0] * x + m[0, 1] * y + m[0, 2] * z + m[0, 3]) / far * intrinsics[0] \
                    + intrinsics[2] + np.float32(0.5)
                v = (m[1, 0] * x + m[1, 1] * y + m[1, 2] * z + m[1, 3]) / far * intrinsics[1] \
                    + intrinsics[3] + np.float32(0.5)
                if u >= 0 and v >= 0 and u < seen.shape[1] and v < seen.shape[0]:
                    measured = seen[np.int64(v), np.int64(u)]
                    if far < measured * nearer:
                        continue
                    if held != 0 and not measured > 0:
                        continue
            image[row, column, 0] = layer_image[row, column, 0]
            image[row, column, 1] = layer_image[row, column, 1]
            image[row, column, 2] = layer_image[row, column, 2]
            depth[row, column] = z
            provenance[row, column] = label
