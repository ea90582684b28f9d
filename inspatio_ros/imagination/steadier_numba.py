# SPDX-License-Identifier: Apache-2.0
"""Compiled: pictures that go on with what the frame before showed (`Lasting`)."""

from __future__ import annotations

import numba
import numpy as np
import numpy.typing as npt

Byte = npt.NDArray[np.uint8]
Float = npt.NDArray[np.float32]
Bool = npt.NDArray[np.bool_]
FAR = 1e4  # m: what has no depth is as far away
_jit = numba.njit(cache=True, nogil=True, error_model="numpy")


@_jit
def changed(picture: Byte, added: Float, added_unseen: Float, seen: Bool, out: Float, held: Float
            ) -> None:
    """out [H, W, 3]: picture with what is added where seen [H, W] holds, and where not.

    held [H, W]: 1 where seen, else 0.
    """
    height, width = seen.shape
    for y in range(height):
        for x in range(width):
            known = seen[y, x]
            held[y, x] = np.float32(1.0) if known else np.float32(0.0)
            for c in range(3):
                more = added[y, x, c] if known else added_unseen[y, x, c]
                out[y, x, c] = np.float32(picture[y, x, c]) + more


@_jit
def last(picture: Float, seen: Bool, depth: Float, k: npt.NDArray[np.float64],
         before: Float, before_seen: Float, before_depth: Float,
         before_from_now: npt.NDArray[np.float64], kept: float, kept_seen: float, fading: float,
         alike: float, held: Float) -> None:
    """Draws into unseen pixels of picture [H, W, 3] the mean of it and what was shown before.

    seen [H, W]; depth and before_depth [h, w] m, any sizes; k: fx, fy, cx, cy. before [H, W, 3]:
    what was shown; before_seen [H, W]: how far that was seen, 0 to 1. kept: share of what was
    imagined, kept_seen of what was seen, where its depth is alike (a share of it). held [H, W]:
    how far what is shown was seen, if it is not now; less by `fading` from frame to frame.
    """
    height, width = seen.shape
    m = before_from_now
    down, right = depth.shape[0] / height, depth.shape[1] / width
    down_before, right_before = before_depth.shape[0] / height, before_depth.shape[1] / width
    one = np.float32(1.0)
    for y in range(height):
        for x in range(width):
            if seen[y, x]:
                continue
            z = float(depth[int(y * down), int(x * right)])
            if not (z > 0.0 and z < FAR):
                z = FAR
            a, b = (x - k[2]) / k[0] * z, (y - k[3]) / k[1] * z
            there = m[2, 0] * a + m[2, 1] * b + m[2, 2] * z + m[2, 3]
            if there <= 1e-3 * z:
                continue
            u = (m[0, 0] * a + m[0, 1] * b + m[0, 2] * z + m[0, 3]) / there * k[0] + k[2]
            v = (m[1, 0] * a + m[1, 1] * b + m[1, 2] * z + m[1, 3]) / there * k[1] + k[3]
            if not (u >= 0.0 and v >= 0.0 and u <= width - 1 and v <= height - 1):
                continue
            j, i = int(u + 0.5), int(v + 0.5)
            share, was = kept, before_seen[i, j]
            if was >= 1.0:
                z = float(before_depth[int(i * down_before), int(j * right_before)])
                if not (z > 0.0 and z < FAR):
                    z = FAR
                if abs(z - there) > alike * there and (z < FAR or there < 0.5 * FAR):
                    continue
                share = kept_seen
                held[y, x] = fading
            elif was > 0.0:
                share = kept + (kept_seen - kept) * was
                held[y, x] = fading * was
            left, top = int(u), int(v)
            beside, below = min(left + 1, width - 1), min(top + 1, height - 1)
            p, q = np.float32(u - left), np.float32(v - top)
            part = np.float32(share)
            for c in range(3):
                shown = ((one - q) * ((one - p) * before[top, left, c]
                                      + p * before[top, beside, c])
                         + q * ((one - p) * before[below, left, c]
                                + p * before[below, beside, c]))
                picture[y, x, c] += part * (shown - picture[y, x, c])


@_jit
def settle(picture: Float, measured: Byte, settled: Bool, shown: Byte) -> None:
    """shown: picture [H, W, 3] in whole grey values; picture itself becomes `measured` where
    settled [H, W] holds."""
    height, width = settled.shape
    for y in range(height):
        for x in range(width):
            for c in range(3):
                shown[y, x, c] = np.uint8(min(max(np.rint(picture[y, x, c]), np.float32(0.0)),
                                              np.float32(255.0)))
                if settled[y, x]:
                    picture[y, x, c] = np.float32(measured[y, x, c])
