# SPDX-License-Identifier: Apache-2.0
"""Coarse views along candidates: coverage, and agreement of what is seen with what is remembered.

Small pictures of thinned points, the same points for every candidate. They say how much of a view
geometry backs; finer ones are drawn only for the candidates that are imagined.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from inspatio_ros.geometry import rigid
from inspatio_ros.memory.splatting import PARALLEL
from inspatio_ros.planning import coarse_views_numba as kernels
from inspatio_ros.planning.candidates import Candidate
from inspatio_ros.planning.ground_map import depth_points
from inspatio_ros.planning.situation import Situation

Array = npt.NDArray[np.float64]
Float = npt.NDArray[np.float32]
Byte = npt.NDArray[np.uint8]

MAX_SIDE = 7
_DEPTH_TOLERANCE = 0.1
_COLOR_TOLERANCE = 40.0  # of 255, mean over the channels


@dataclass(frozen=True)
class ViewOptions:
    """width: of the coarse pictures, pixels. points: of the memory and of what is seen, at most,
    each. views: along a candidate at most, spread over its time. Raises ValueError below 1."""

    width: int = 64
    points: int = 12_000
    views: int = 8

    def __post_init__(self) -> None:
        if min(self.width, self.points, self.views) < 1:
            raise ValueError(f"coarse views: width {self.width}, points {self.points} and views "
                             f"{self.views} must be at least 1")


class CoarseViews:
    """The thinned points of a situation, ready to be looked at from anywhere."""

    def __init__(self, situation: Situation, options: ViewOptions) -> None:
        camera = situation.camera
        height = max(1, round(camera.height * options.width / camera.width))
        self._camera = camera.resized(options.width, height)
        self._options = options
        self._situation = situation
        # Coordinates relative to the robot: float32 then keeps its digits far from the origin.
        self._local_from_world = rigid.from_rotation(
            np.eye(3), -situation.world_from_base[:3, 3])
        self._known = self._remembered()
        self._seen = self._observed()

    def look(self, candidate: Candidate) -> tuple[float, float]:
        """(coverage, agreement) of the views along a candidate, [0, 1].

        coverage: share of the pixels that geometry backs. agreement: of those that what is seen
        now and what is remembered both back, the share that agree in depth and colour; NaN where
        there is none.
        """
        cameras = candidate.at(self._times(candidate)) @ self._situation.base_from_camera
        views = np.ascontiguousarray(
            (rigid.invert(cameras) @ rigid.invert(self._local_from_world))[:, :3], np.float32)
        counts = np.zeros((len(views), 3), np.int64)
        width, height = self._camera.size
        intrinsics = np.array([self._camera.fx, self._camera.fy, self._camera.cx,
                               self._camera.cy], np.float32)
        with PARALLEL:
            kernels.look(*self._seen, *self._known, views, intrinsics, width, height, MAX_SIDE,
                         _DEPTH_TOLERANCE, _COLOR_TOLERANCE, counts)
        backed, both, agreeing = counts.sum(0)
        return (float(backed / (len(views) * width * height)),
                float(agreeing / both) if both else math.nan)

    def _times(self, candidate: Candidate) -> Array:
        """Times of the views: the end of each of equal parts of the way."""
        count = min(self._options.views, max(1, len(candidate.times) - 1))
        steps = np.arange(1, count + 1) / count
        return np.asarray(candidate.times[0] + steps * candidate.duration, np.float64)

    def _remembered(self) -> tuple[Float, Float, Byte]:
        cloud = self._situation.memory.cloud
        total = cloud.used_points.shape[1]
        step = max(1, math.ceil(total / self._options.points))
        # Neighbours in memory are neighbours in space: every so manyth is an even sample.
        chosen = np.arange(0, total, step)
        chosen = chosen[np.isfinite(cloud.used_points[0, chosen])]
        world = rigid.transform_points(cloud.world_from_points, cloud.used_points[:, chosen].T)
        points = rigid.transform_points(self._local_from_world, world).astype(np.float32)
        sizes = cloud.sizes[chosen] * np.float32(math.sqrt(step))
        return np.ascontiguousarray(points.T), sizes, cloud.colors(chosen, cloud.tone)

    def _observed(self) -> tuple[Float, Float, Byte]:
        if not self._situation.references:
            return (np.zeros((3, 0), np.float32), np.zeros(0, np.float32),
                    np.zeros((0, 3), np.uint8))
        newest = self._situation.references[0]
        points, colors, step = depth_points(newest, self._options.points)
        local_from_camera = self._local_from_world @ newest.world_from_camera
        moved = rigid.transform_points(local_from_camera, points.T).astype(np.float32)
        sizes = points[2] * np.float32(1.5 * step / newest.camera.fx)
        return np.ascontiguousarray(moved.T), sizes, np.ascontiguousarray(colors)
