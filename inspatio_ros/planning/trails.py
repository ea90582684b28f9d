# SPDX-License-Identifier: Apache-2.0
"""What a moving thing has left in the memory on its way: points of it that nothing has wiped away.

A camera wipes away what it sees through. Where nothing is measured behind a thing, as in front of
the sky or of what is out of range, its old sides would stand there for good.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numba
import numpy as np
import numpy.typing as npt

from inspatio_ros.planning.movers import MovingBox

Array = npt.NDArray[np.float64]
Float = npt.NDArray[np.float32]

# A thing is taken to have come as it goes for so long, s; slower ones leave no trail, m/s.
_LOOK_BACK = 3.0
_SLOWEST = 0.05
# By this a thing's points may lie outside of its box, m.
_MARGIN = 0.12


def without_trails(
    points: Float, map_from_points: Array, frames: npt.NDArray[np.uint16],
    stamps_ns: npt.NDArray[np.int64], movers: Sequence[MovingBox], map_from_world: Array,
    now_ns: int, above: float,
) -> Float:
    """The points [3, P], NaN where one was a mover's when it was taken; the same if none was.

    frames [P]: row of `stamps_ns` [F] at which each was taken. movers: as they are at `now_ns`.
    above: m of the map's z; what lies lower is ground.
    """
    places = _places(movers, stamps_ns, map_from_world, now_ns)
    if not np.isfinite(places).any():
        return points
    half = np.array([mover.size for mover in movers]) / 2 + _MARGIN
    passed = np.zeros(points.shape[1], np.bool_)
    _passed(points, map_from_points, frames, places, half, above, passed)
    if not passed.any():
        return points
    left = points.copy()
    left[:, passed] = np.nan
    return left


def _places(movers: Sequence[MovingBox], stamps_ns: npt.NDArray[np.int64],
            map_from_world: Array, now_ns: int) -> Array:
    """x, y and heading in the map at each stamp, [B, F, 3]; NaN where that is not known."""
    places = np.full((len(movers), len(stamps_ns), 3), np.nan)
    ago = (now_ns - stamps_ns) * 1e-9
    lately = (ago >= -_LOOK_BACK) & (ago <= _LOOK_BACK)
    for place, mover in zip(places, movers, strict=True):
        velocity = map_from_world[:3, :3] @ np.asarray(mover.velocity)
        if math.hypot(velocity[0], velocity[1]) < _SLOWEST:
            continue
        box = map_from_world @ mover.world_from_box
        place[lately, :2] = box[:2, 3] - ago[lately, None] * velocity[:2]
        place[lately, 2] = math.atan2(box[1, 0], box[0, 0]) - ago[lately] * mover.yaw_rate
    return places


@numba.njit(cache=True, nogil=True, error_model="numpy")
def _passed(points: Float, transform: Array, frames: npt.NDArray[np.uint16], places: Array,
            half: Array, above: float, passed: npt.NDArray[np.bool_]) -> None:
    """Mark the points that lay in one of the boxes when they were taken."""
    t = transform
    for i in range(points.shape[1]):
        x, y, z = points[0, i], points[1, i], points[2, i]
        if not t[2, 0] * x + t[2, 1] * y + t[2, 2] * z + t[2, 3] > above:
            continue
        u = t[0, 0] * x + t[0, 1] * y + t[0, 2] * z + t[0, 3]
        v = t[1, 0] * x + t[1, 1] * y + t[1, 2] * z + t[1, 3]
        for b in range(places.shape[0]):
            place = places[b, frames[i]]
            dx, dy = u - place[0], v - place[1]
            reach = half[b, 0] + half[b, 1]
            if not (abs(dx) <= reach and abs(dy) <= reach):
                continue
            cosine, sine = math.cos(place[2]), math.sin(place[2])
            if abs(cosine * dx + sine * dy) <= half[b, 0] \
                    and abs(cosine * dy - sine * dx) <= half[b, 1]:
                passed[i] = True
