# SPDX-License-Identifier: Apache-2.0
"""Depth of one camera seen from another: a depth picture moved into the color camera."""

from __future__ import annotations

import math

import numba
import numpy as np
import numpy.typing as npt

from inspatio_ros.geometry import rigid
from inspatio_ros.geometry.camera import PinholeCamera

Depth = npt.NDArray[np.float32]


def needs_registration(depth_camera: PinholeCamera, color_camera: PinholeCamera,
                       color_from_depth: npt.NDArray[np.float64], *,
                       tolerance_px: float = 0.5, tolerance_m: float = 1e-3) -> bool:
    """Whether depth and color pictures differ in size, rays (by pixels) or place (by metres)."""
    if not depth_camera.agrees_with(color_camera, tolerance_px):
        return True
    offset = float(np.linalg.norm(color_from_depth[:3, 3]))
    turn_px = float(rigid.rotation_angle(color_from_depth)) * color_camera.fx
    return offset > tolerance_m or turn_px > tolerance_px


@numba.njit(cache=True, nogil=True)
def _splat(depth: Depth, source: npt.NDArray[np.float64], target: npt.NDArray[np.float64],
           transform: npt.NDArray[np.float64], out: Depth) -> None:
    fx, fy, cx, cy = source
    tx, ty, ox, oy = target
    height, width = out.shape
    for y in range(depth.shape[0]):
        b = (y - cy) / fy
        for x in range(depth.shape[1]):
            z = depth[y, x]
            if not z > 0:
                continue
            a = (x - cx) / fx
            pz = (transform[2, 0] * a + transform[2, 1] * b + transform[2, 2]) * z
            pz += transform[2, 3]
            if pz <= 1e-3:
                continue
            px = (transform[0, 0] * a + transform[0, 1] * b + transform[0, 2]) * z
            py = (transform[1, 0] * a + transform[1, 1] * b + transform[1, 2]) * z
            u = (px + transform[0, 3]) / pz * tx + ox
            v = (py + transform[1, 3]) / pz * ty + oy
            # Half the size of the source pixel in the target, at least half a target pixel, so
            # that a finer target is covered without cracks.
            half_u = 0.5 * max(1.0, tx / fx * z / pz) + 1e-6
            half_v = 0.5 * max(1.0, ty / fy * z / pz) + 1e-6
            if not (-half_u <= u <= width + half_u and -half_v <= v <= height + half_v):
                continue
            left, right = max(0, math.ceil(u - half_u)), min(width, math.ceil(u + half_u - 2e-6))
            top, bottom = max(0, math.ceil(v - half_v)), min(height, math.ceil(v + half_v - 2e-6))
            for row in range(top, bottom):
                for column in range(left, right):
                    if not out[row, column] <= pz:  # nearest wins; NaN is overwritten
                        out[row, column] = pz


def register_depth(depth: Depth, depth_camera: PinholeCamera, color_camera: PinholeCamera,
                   color_from_depth: npt.NDArray[np.float64]) -> Depth:
    """Depth float32 [H, W] m as the color camera sees it, NaN where unknown.

    depth: float32 z-depth of depth_camera in m. color_from_depth: [4, 4] between the two optical
    frames. Each pixel becomes a rectangle of its size in the color picture; the nearest wins.
    Raises ValueError when depth and depth_camera differ in size.
    """
    if depth.shape != (depth_camera.height, depth_camera.width):
        raise ValueError(f"depth picture is {depth.shape[1]}x{depth.shape[0]} but its camera_info "
                         f"says {depth_camera.width}x{depth_camera.height}")
    transform = rigid.require_rigid(color_from_depth, "color_from_depth")
    if not needs_registration(depth_camera, color_camera, transform, tolerance_px=1e-6,
                              tolerance_m=1e-9):
        return depth.copy()
    out = np.full((color_camera.height, color_camera.width), np.nan, dtype=np.float32)
    cameras = [np.array([c.fx, c.fy, c.cx, c.cy]) for c in (depth_camera, color_camera)]
    _splat(np.ascontiguousarray(depth, dtype=np.float32), cameras[0], cameras[1],
           np.ascontiguousarray(transform), out)
    return out
