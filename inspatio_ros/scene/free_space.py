# SPDX-License-Identifier: Apache-2.0
"""Where a camera may go: space that was seen to be free, away from every surface."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import numpy.typing as npt
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import dijkstra
from scipy.spatial import cKDTree

from inspatio_ros.geometry import rigid
from inspatio_ros.geometry.camera import PinholeCamera
from inspatio_ros.sensing.observation import Observation

Array = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]

MAX_VIEWS = 64
_MAX_POINTS = 200_000
# Views are looked up at this width.
_WIDTH = 80


class FreeSpace:
    """Space that observations saw to be free: unknown space is not.

    clearance: m that a place must keep from every known surface. A place is free when some view
    measured something beyond it, or a camera was within the clearance of it, and no surface is
    near.
    """

    def __init__(self, observations: Sequence[Observation], points: npt.NDArray[np.floating],
                 clearance: float = 0.25) -> None:
        if not observations:
            raise ValueError("free space needs at least one observation")
        step = -(-len(observations) // MAX_VIEWS)
        self.clearance = clearance
        self._views = [_small(o) for o in observations[::step]]
        self.cameras = np.stack([o.world_from_camera[:3, 3] for o in observations])
        self._cameras = cKDTree(self.cameras)
        kept = np.asarray(points, np.float64)[::max(1, len(points) // _MAX_POINTS)]
        self._surfaces = cKDTree(kept) if len(kept) else None
        ups = -np.stack([o.world_from_camera[:3, 1] for o in observations])
        up = ups.mean(0)
        self.up: Array = up / max(float(np.linalg.norm(up)), 1e-9)

    def free(self, positions: npt.ArrayLike) -> Mask:
        """Which of positions [P, 3] m are free, bool [P]."""
        places = np.asarray(positions, np.float64).reshape(-1, 3)
        been, _ = self._cameras.query(places)
        seen: Mask = been < self.clearance
        for depth, view, camera_from_world in self._views:
            pixels, z = view.project(rigid.transform_points(camera_from_world, places))
            with np.errstate(invalid="ignore"):
                inside = ((z > 0) & (pixels >= -0.5).all(-1)
                          & (pixels < np.array(view.size) - 0.5).all(-1))
            at = np.rint(pixels[inside]).astype(np.int64).clip(0, np.array(view.size) - 1)
            beyond = depth[at[:, 1], at[:, 0]] > z[inside] + self.clearance
            seen[np.flatnonzero(inside)[beyond]] = True
        if self._surfaces is not None:
            near, _ = self._surfaces.query(places)
            # Where the camera has been it may be again, however narrow the place.
            seen &= (near >= self.clearance) | (been < 0.2 * self.clearance)
        return seen

    def free_part(self, poses: Array, spacing: float = 0.05) -> Array:
        """The beginning of poses [T, 4, 4] up to where the way leaves free space; at least one."""
        centers = poses[:, :3, 3]
        for number in range(1, len(poses)):
            gap = float(np.linalg.norm(centers[number] - centers[number - 1]))
            count = max(1, int(np.ceil(gap / spacing)))
            shares = np.arange(1, count + 1)[:, None] / count
            between = centers[number - 1] + shares * (centers[number] - centers[number - 1])
            if not self.free(between).all():
                return poses[:number]
        return poses

    def reachable(self, start: npt.ArrayLike, spacing: float = 0.3,
                  reach: float = 4.0, limit: int = 400) -> Ways:
        """Free places on a grid at the height of `start`, [3] m, and the ways to them."""
        origin = np.asarray(start, np.float64)
        first = np.cross(self.up, [1.0, 0, 0] if abs(self.up[0]) < 0.9 else [0, 0, 1.0])
        first /= np.linalg.norm(first)
        second = np.cross(self.up, first)
        count = int(reach / spacing)
        grid = np.stack(np.meshgrid(np.arange(-count, count + 1), np.arange(-count, count + 1)),
                        axis=-1).reshape(-1, 2)
        grid = grid[np.argsort(np.abs(grid).sum(1), kind="stable")]
        places = origin + spacing * (grid[:, :1] * first + grid[:, 1:] * second)
        free = self.free(places)
        free[0] = True  # the camera stands there
        places = places[free][:limit]
        rows, columns = _neighbours(places, 1.5 * spacing)
        middles = np.stack([places[rows] * (1 - s) + places[columns] * s
                            for s in (0.25, 0.5, 0.75)], axis=1)
        open_ways = self.free(middles.reshape(-1, 3)).reshape(-1, 3).all(1)
        rows, columns = rows[open_ways], columns[open_ways]
        lengths = np.linalg.norm(places[rows] - places[columns], axis=1)
        graph = coo_matrix((lengths, (rows, columns)), shape=(len(places),) * 2).tocsr()
        distances, before = dijkstra(graph, directed=False, indices=0, return_predecessors=True)
        return Ways(places, distances, before)


class Ways:
    """Places [P, 3] with the length [P] of the shortest free way to each, infinite where none."""

    def __init__(self, places: Array, lengths: Array, before: npt.NDArray[np.int32]) -> None:
        self.places, self.lengths = places, lengths
        self._before = before

    def way_to(self, number: int) -> Array:
        """Points [N, 3] from the start to place `number`."""
        way = [number]
        while way[-1] != 0:
            way.append(int(self._before[way[-1]]))
            if way[-1] < 0:
                raise ValueError(f"place {number} cannot be reached")
        return self.places[way[::-1]]


def _neighbours(places: Array, reach: float) -> tuple[npt.NDArray[np.int64],
                                                      npt.NDArray[np.int64]]:
    pairs = cKDTree(places).query_pairs(reach, output_type="ndarray")
    return pairs[:, 0].astype(np.int64), pairs[:, 1].astype(np.int64)


def _small(observation: Observation) -> tuple[Array, PinholeCamera, Array]:
    """Nearest depth around each pixel at a low resolution, its camera, and camera_from_world."""
    source = observation.camera
    factor = max(1, source.width // _WIDTH)
    filled = np.where(observation.depth > 0, observation.depth, np.float32(0))
    # An unknown pixel beside a known one is no free space: the minimum counts it as none.
    lowest = cv2.erode(filled, np.ones((factor, factor), np.uint8))
    width, height = source.width // factor, source.height // factor
    small = cv2.resize(lowest, (width, height), interpolation=cv2.INTER_NEAREST)
    return (np.asarray(small, np.float64), source.resized(width, height),
            rigid.invert(observation.world_from_camera))
