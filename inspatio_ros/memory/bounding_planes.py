# SPDX-License-Identifier: Apache-2.0
"""The planes that bound what was seen: floors, walls, ceilings; where unseen surface likely lies.

Planes by RANSAC (Fischler and Bolles 1981). One bounds the scene when nearly everything lies on
one side of it; inside such planes the first one that a ray meets is the surface to expect.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.spatial import cKDTree

from inspatio_ros.geometry.camera import PinholeCamera

Float = npt.NDArray[np.float32]
Array = npt.NDArray[np.float64]

MAX_PLANES = 8
# Points that planes are fitted to, and samples drawn for each plane.
_POINTS = 4000
_SAMPLES = 150
# Distance from a plane up to which a point lies on it: relative to the scene's spread, and at
# least m.
_THICKNESS, _LEAST_THICKNESS = 0.006, 0.03
# Shares of the points: that a plane needs on it, and that may lie beyond a bounding one.
_SUPPORT, _BEYOND = 0.03, 0.03
# Side of the cells in which the support of a plane is remembered, relative to the spread.
_CELL = 0.05


@dataclass(frozen=True)
class BoundingPlane:
    """normal . x = offset in the world, the scene on the side of the smaller values.

    support: [P, 3] points on it, one a cell.
    """

    normal: Array
    offset: float
    support: Array


def bounding_planes(points: npt.NDArray[np.floating], inside: npt.ArrayLike = (),
                    seed: int = 0) -> list[BoundingPlane]:
    """Up to 8 planes that bound points [P, 3] m of the world; the same points give the same ones.

    inside: [C, 3] places, such as those of the cameras, that must lie on the scene's side.
    Empty for fewer than 200 points.
    """
    cameras = np.asarray(inside, np.float64).reshape(-1, 3)
    xyz = np.asarray(points, np.float64)
    xyz = xyz[np.isfinite(xyz).all(1)]
    if len(xyz) < 200:
        return []
    rng = np.random.default_rng(seed)
    if len(xyz) > _POINTS:
        xyz = xyz[rng.choice(len(xyz), _POINTS, replace=False)]
    spread = float(np.linalg.norm(np.percentile(xyz, 95, axis=0) - np.percentile(xyz, 5, axis=0)))
    thickness = max(_LEAST_THICKNESS, _THICKNESS * spread)
    planes: list[BoundingPlane] = []
    left = xyz
    for _ in range(2 * MAX_PLANES):
        if len(left) < max(_SUPPORT * len(xyz), 50) or len(planes) == MAX_PLANES:
            break
        normal, offset = _best_plane(left, thickness, rng)
        on = np.abs(left @ normal - offset) < thickness
        if on.sum() < _SUPPORT * len(xyz):
            break
        normal, offset = _refined(left[on])
        on = np.abs(left @ normal - offset) < 1.5 * thickness
        heights = xyz @ normal - offset
        # The scene's side is that of most of the points off the plane.
        if (heights > 2 * thickness).sum() > (heights < -2 * thickness).sum():
            normal, offset, heights = -normal, -offset, -heights
        if ((heights > 2 * thickness).mean() <= _BEYOND
                and (cameras @ normal < offset).all()):
            planes.append(BoundingPlane(normal, offset, _cells(left[on], _CELL * spread)))
        left = left[~on]
    return planes


def plane_depth(
    planes: list[BoundingPlane], camera: PinholeCamera, world_from_camera: Array
) -> tuple[Float, Float]:
    """(depth, reach) float32 [H, W] m of the first bounding plane that each pixel's ray meets.

    reach: how far from the plane's seen part the ray meets it. NaN and infinite where it meets
    none.
    """
    shape = (camera.height, camera.width)
    depth = np.full(shape, np.inf)
    which = np.full(shape, -1)
    rays = camera.rays() @ world_from_camera[:3, :3].T
    center = world_from_camera[:3, 3]
    for number, plane in enumerate(planes):
        along = rays @ plane.normal
        gap = plane.offset - float(center @ plane.normal)
        with np.errstate(divide="ignore", invalid="ignore"):
            z = np.where((along > 1e-6) & (gap > 0), gap / along, np.inf)
        nearer = z < depth
        depth[nearer], which[nearer] = z[nearer], number
    reach = np.full(shape, np.inf)
    for number, plane in enumerate(planes):
        mine = which == number
        if not mine.any():
            continue
        hits = center + rays[mine] * depth[mine][:, None]
        reach[mine] = cKDTree(plane.support).query(hits)[0]
    depth[which < 0] = np.nan
    return depth.astype(np.float32), reach.astype(np.float32)


def _best_plane(points: Array, thickness: float,
                rng: np.random.Generator) -> tuple[Array, float]:
    chosen = points[rng.integers(0, len(points), (_SAMPLES, 3))]
    normals = np.cross(chosen[:, 1] - chosen[:, 0], chosen[:, 2] - chosen[:, 0])
    lengths = np.linalg.norm(normals, axis=1)
    normals = normals[lengths > 1e-9] / lengths[lengths > 1e-9, None]
    offsets = np.einsum("ij,ij->i", normals, chosen[lengths > 1e-9, 0])
    if len(normals) == 0:
        return np.array([0.0, 0.0, 1.0]), float("inf")
    counts = (np.abs(points @ normals.T - offsets) < thickness).sum(0)
    best = int(np.argmax(counts))
    return normals[best], float(offsets[best])


def _refined(points: Array) -> tuple[Array, float]:
    middle = points.mean(0)
    normal = np.linalg.svd(points - middle, full_matrices=False)[2][2]
    return normal, float(middle @ normal)


def _cells(points: Array, size: float) -> Array:
    _, first = np.unique(np.floor(points / size).astype(np.int64), axis=0, return_index=True)
    return points[first]
