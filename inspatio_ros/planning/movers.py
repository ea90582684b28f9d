# SPDX-License-Identifier: Apache-2.0
"""Boxes on the ground of the things that the memory knows to move."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from inspatio_ros.geometry import rigid
from inspatio_ros.memory.moving import MovingLayer
from inspatio_ros.memory.tracks import Track

Array = npt.NDArray[np.float64]

# Lower than this above the ground a thing's points may be the ground beside it, m.
_ABOVE_GROUND = 0.15
_QUANTILES = (0.01, 0.99)
_FEWEST_POINTS = 12
# Points hang together when they are nearer than this over the ground, m, and m per m of distance.
_APART, _APART_PER_METRE = 0.15, 0.015
_MOST_CELLS = 1_000_000
# How far a thing of which only a side is seen reaches behind it, of that side's width.
_DEPTH_OF_WIDTH = 0.75


@dataclass(frozen=True, eq=False)
class MovingBox:
    """Something that moves over the ground, as it is now.

    world_from_box: [4, 4], x along its length, origin in its middle. size: length and width, m.
    velocity: m/s in world axes, kept up from now on. yaw_rate: rad/s about the up axis.
    Raises ValueError on a size that is not positive or a value that is not finite.
    """

    world_from_box: Array
    size: tuple[float, float]
    velocity: tuple[float, float, float]
    yaw_rate: float = 0.0

    def __post_init__(self) -> None:
        rigid.require_rigid(self.world_from_box, "world_from_box")
        numbers = (*self.size, *self.velocity, self.yaw_rate)
        if not np.isfinite(numbers).all() or min(self.size) <= 0:
            raise ValueError(f"moving box: size {self.size} m must be positive, velocity "
                             f"{self.velocity} m/s and yaw rate finite")


def tracked_boxes(
    layer: MovingLayer, now_ns: int, world_from_ground: Array, world_from_camera: Array
) -> tuple[MovingBox, ...]:
    """The confirmed things of a layer at a time, by the clock of the observations.

    world_from_ground: [4, 4] with z up, its origin on the ground. A box holds the points of the
    thing that rise above the ground and hang together. Only sides that face the camera [4, 4] are
    seen, so away from it a thing is taken to be three quarters as deep as it is wide.
    """
    found = []
    for track in layer.tracks:
        if track.confirmed:
            box = _box(track, now_ns, world_from_ground, world_from_camera)
            velocity = track.velocity
            found.append(MovingBox(
                *box, (float(velocity[0]), float(velocity[1]), float(velocity[2])),
                float(track.turn_rate)))
    return tuple(found)


def _box(track: Track, now_ns: int, world_from_ground: Array,
         world_from_camera: Array) -> tuple[Array, tuple[float, float]]:
    """(world_from_box [4, 4], size) of a track."""
    patch = track.patch
    points = rigid.transform_points(track.motion(patch.stamp_ns, now_ns), patch.points.T)
    axes = np.asarray(track.axes(now_ns), np.float64)
    height = rigid.transform_points(rigid.invert(world_from_ground), points)[:, 2]
    high = _largest_piece(points[height > _ABOVE_GROUND], world_from_camera[:3, 3])
    if len(high) < _FEWEST_POINTS:
        size = 2.0 * np.maximum(track.half[:2], 0.05)
        return (rigid.from_rotation(axes, track.center(now_ns)),
                (float(size[0]), float(size[1])))
    low, top = np.quantile(high @ axes, _QUANTILES, axis=0)
    away = (low + top) / 2 - world_from_camera[:3, 3] @ axes
    widest = float(np.max(top[:2] - low[:2]))
    for k in range(2):
        missing = max(0.0, _DEPTH_OF_WIDTH * widest - float(top[k] - low[k]))
        if away[k] > 0:
            top[k] += missing
        else:
            low[k] -= missing
    size = np.maximum(top - low, 0.1)
    return rigid.from_rotation(axes, axes @ ((low + top) / 2)), (float(size[0]), float(size[1]))


def _largest_piece(points: Array, camera: Array) -> Array:
    """The points [P, 3] of those that hang together over the ground and are most.

    What a picture's outline takes in of the wall behind lies apart from the thing itself.
    """
    if len(points) == 0:
        return points
    spacing = max(_APART, _APART_PER_METRE * float(np.linalg.norm(np.median(points, 0) - camera)))
    cells = np.floor(points[:, :2] / spacing).astype(np.int64)
    cells -= cells.min(axis=0)
    if int(np.prod(cells.max(axis=0) + 1)) > _MOST_CELLS:
        return points
    taken = np.zeros(cells.max(axis=0) + 1, np.uint8)
    taken[cells[:, 0], cells[:, 1]] = 1
    pieces = cv2.connectedComponents(taken, connectivity=8)[1][cells[:, 0], cells[:, 1]]
    return np.asarray(points[pieces == np.argmax(np.bincount(pieces))])
