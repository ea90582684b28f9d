# SPDX-License-Identifier: Apache-2.0
"""Compiled: what one look shows of another one's measured places (`SeenAgain`)."""

from __future__ import annotations

import numba
import numpy as np
import numpy.typing as npt

Float = npt.NDArray[np.float32]


@numba.njit(cache=True, nogil=True, error_model="numpy")
def compare(picture: npt.NDArray[np.uint8], depth: Float, k: npt.NDArray[np.float64],
            older: npt.NDArray[np.uint8], older_depth: Float, older_k: npt.NDArray[np.float64],
            older_from_new: npt.NDArray[np.float64], step: int, alike: float, found: Float
            ) -> int:
    """How the colours of measured places differ between two looks, and how many were compared.

    picture [H, W, 3] and depth [H, W] m of the newer look, of the older one [h, w, 3] and [h, w];
    k: fx, fy, cx, cy of each. Every step-th pixel is looked at; a place counts where the older
    look measured it too, within this share of its depth. found [N, 4]: pixels of the older look
    by which the place lies elsewhere for not being far away, and the differences of R, G and B.
    """
    height, width = depth.shape
    rows, columns = older_depth.shape
    m = older_from_new
    count = 0
    for i in range(step // 2, height, step):
        for j in range(step // 2, width, step):
            z = float(depth[i, j])
            if not (z > 0.0 and z < np.inf) or count >= len(found):
                continue
            a, b = (j - k[2]) / k[0], (i - k[3]) / k[1]
            x = m[0, 0] * a + m[0, 1] * b + m[0, 2]
            y = m[1, 0] * a + m[1, 1] * b + m[1, 2]
            w = m[2, 0] * a + m[2, 1] * b + m[2, 2]
            here = w + m[2, 3] / z
            if w <= 1e-3 or here <= 1e-3:
                continue
            u = older_k[0] * (x + m[0, 3] / z) / here + older_k[2]
            v = older_k[1] * (y + m[1, 3] / z) / here + older_k[3]
            if not (u >= 0.0 and v >= 0.0 and u < columns - 1 and v < rows - 1):
                continue
            left, top = int(u), int(v)
            there = older_depth[int(v + 0.5), int(u + 0.5)]
            if not abs(there - here * z) <= alike * here * z:
                continue
            right = u - (older_k[0] * x / w + older_k[2])
            down = v - (older_k[1] * y / w + older_k[3])
            found[count, 0] = np.sqrt(right * right + down * down)
            p, q = u - left, v - top
            for c in range(3):
                was = ((1 - q) * ((1 - p) * older[top, left, c] + p * older[top, left + 1, c])
                       + q * ((1 - p) * older[top + 1, left, c]
                              + p * older[top + 1, left + 1, c]))
                found[count, 1 + c] = picture[i, j, c] - was
            count += 1
    return count
