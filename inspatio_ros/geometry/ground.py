# SPDX-License-Identifier: Apache-2.0
"""The ground as the floor of the world: a plane fitted to points of it, laid at y = 0.

Method: planes through three points (RANSAC, Fischler and Bolles 1981) with a tolerance that
shrinks, as the public InSpatio-World release does it; axes are optical, so up is -y.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from inspatio_ros.geometry import rigid

Array = npt.NDArray[np.float64]

_DRAWS = 2000
_TOLERANCES = (0.1, 0.075, 0.05)  # of the unit of the points
_MIN_SHARE = 0.2
_MIN_POINTS = 10
_MAX_POINTS = 20_000  # more do not make the plane better, only slower
_PARALLEL = 0.9999


def ground_alignment(points: Array, *, seed: int = 0) -> Array:
    """aligned_from_world [4, 4] that turns the plane through points [N, 3] to y = 0, up being -y.

    The identity when the ground has fewer than 10 points. The same input gives the same result.
    """
    known = points[np.isfinite(points).all(axis=1)]
    if len(known) < _MIN_POINTS:
        return np.eye(4)
    rng = np.random.default_rng(seed)
    if len(known) > _MAX_POINTS:
        known = known[rng.choice(len(known), _MAX_POINTS, replace=False)]
    normal = _plane_normal(known, rng)
    if normal[1] > 0:
        normal = -normal
    up = np.array([0.0, -1.0, 0.0])
    rotation = np.eye(3) if abs(normal @ up) > _PARALLEL else _turn(normal, up)
    return rigid.from_rotation(rotation, (0.0, -float((rotation @ known.mean(axis=0))[1]), 0.0))


def _plane_normal(points: Array, rng: np.random.Generator) -> Array:
    best, best_count, best_error = np.zeros(3), 0, np.inf
    for tolerance in _TOLERANCES:
        for _ in range(_DRAWS // len(_TOLERANCES)):
            first, second, third = points[rng.integers(0, len(points), 3)]
            normal = np.cross(second - first, third - first)
            length = np.linalg.norm(normal)
            if length < 1e-10:
                continue
            normal /= length
            off = np.abs((points - first) @ normal)
            inside = off < tolerance
            count = int(inside.sum())
            error = float(off[inside].mean())
            if count > best_count or (count == best_count and error < best_error):
                best, best_count, best_error = normal, count, error
        if best_count >= _MIN_SHARE * len(points):
            return best
    # No plane that enough agree with: the one with the least squared distances.
    return np.asarray(np.linalg.svd(points - points.mean(axis=0))[2][-1], np.float64)


def _turn(start: Array, end: Array) -> Array:
    """The smallest rotation from one unit vector to another that is not opposite."""
    axis = np.cross(start, end)
    cross = np.array([[0, -axis[2], axis[1]], [axis[2], 0, -axis[0]], [-axis[1], axis[0], 0]])
    return np.asarray(np.eye(3) + cross + cross @ cross / (1.0 + start @ end), np.float64)
