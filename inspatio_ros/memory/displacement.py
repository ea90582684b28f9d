# SPDX-License-Identifier: Apache-2.0
"""How far a thing went between two looks, where it went too far for flow.

Ways over the ground are tried, and each is judged by what both looks then say of the thing's
points: the other look must show them, at their depth and in their grey, and must not see through
them. What the rim of the picture cut off then, or another thing hid, speaks neither for nor
against.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from inspatio_ros.geometry import rigid
from inspatio_ros.memory import displacement_numba as kernels
from inspatio_ros.memory.motion import Look

Array = npt.NDArray[np.float64]
Float = npt.NDArray[np.float32]

# Points that are asked in the first and in the second, finer, round.
COARSE_POINTS, FINE_POINTS = 60, 250
# Steps of both rounds across the view, px, and along it, relative to the distance.
COARSE_PX, FINE_PX, COARSE_DEPTH, FINE_DEPTH = 3.0, 0.5, 0.03, 0.004
# Steps of the finer round to each side of what the first one found.
FINE_STEPS = 7
# Two ways are told apart when they lie so many coarse steps from each other.
APART = 3
# At least so many points, and so large a share of them, must be seen again.
LEAST_AGREE, LEAST_SHARE = 12, 0.2
# Doubt is told up to this.
MOST_DOUBT = 0.15
# Relative depth that is the same; more hypotheses than this are not tried.
TOLERANCE, MOST_TRIED = 0.03, 12_000


@dataclass(frozen=True)
class Displacement:
    """vector [3] m over the ground from the earlier to the later look. cost: [0, 1], 0 when all
    is seen again as it was. doubt: how little worse another way is: its cost less this one's, at
    most MOST_DOUBT."""

    vector: Array
    cost: float
    doubt: float


class DisplacementSearch:
    """What two looks say of one thing's ways.

    points [P, 3] m in the world: seen of it in the later look; earlier_points [3, E]: in the
    earlier one, where it is known which those are. up [3]: of the world.
    """

    def __init__(self, now: Look, before: Look, points: Array, earlier_points: Float | None,
                 up: Array) -> None:
        middle = np.median(points, axis=0)
        ray = middle - now.world_from_camera[:3, 3]
        self._distance = float(np.linalg.norm(ray))
        level = ray - (ray @ up) * up
        along = level / max(float(np.linalg.norm(level)), 1e-6)
        across = np.array([up[1] * along[2] - up[2] * along[1],
                           up[2] * along[0] - up[0] * along[2],
                           up[0] * along[1] - up[1] * along[0]])
        self._axes = np.stack([along, across])
        self._focal = now.camera.fx
        self._sides = [_Side(now, before, points, -1.0)]
        if earlier_points is not None and earlier_points.shape[1] >= LEAST_AGREE:
            self._sides.append(_Side(before, now, earlier_points.T.astype(np.float64), 1.0))

    def cost(self, vector: Array) -> float:
        """That of one way [3] m; infinite where too little of the thing would be seen again."""
        return float(self._costs(vector[None], FINE_POINTS, 3)[0])

    def best(self, guess: Array, reach: float) -> Displacement | None:
        """The best way within `reach` m of a guess [3]; None where none is borne out."""
        steps = np.array([max(COARSE_DEPTH * self._distance, reach / 20),
                          COARSE_PX * self._distance / self._focal])
        counts = np.ceil(reach / steps).astype(int)
        while np.prod(2 * counts + 1) > MOST_TRIED:
            steps, counts = 1.2 * steps, np.ceil(reach / (1.2 * steps)).astype(int)
        tried, grid = self._grid(guess, steps, counts)
        costs = self._costs(tried, COARSE_POINTS, 5)
        first = int(np.argmin(costs))
        if not np.isfinite(costs[first]):
            return None
        away = np.abs(grid - grid[first]).max(axis=1) > APART
        doubt = float(costs[away].min() - costs[first]) if away.any() else MOST_DOUBT
        fine = np.array([FINE_DEPTH * self._distance, FINE_PX * self._distance / self._focal])
        tried, _ = self._grid(tried[first], fine, np.full(2, FINE_STEPS))
        costs = self._costs(tried, FINE_POINTS, 3)
        finest = int(np.argmin(costs))
        if not np.isfinite(costs[finest]):
            return None
        return Displacement(tried[finest], float(costs[finest]), min(doubt, MOST_DOUBT))

    def _grid(self, middle: Array, steps: Array, counts: npt.NDArray[np.int64]
              ) -> tuple[Array, Array]:
        """Ways [N, 3] round one, and where they lie in the grid [N, 2]."""
        grid = np.stack(np.meshgrid(*(np.arange(-c, c + 1.0) for c in counts), indexing="ij"),
                        axis=-1).reshape(-1, 2)
        return middle + (grid * steps) @ self._axes, grid

    def _costs(self, tried: Array, wanted: int, blur: int) -> Array:
        costs, agreeing = np.zeros(len(tried), np.float32), np.zeros(len(tried), np.int32)
        points = sum(side.asked(wanted, blur) for side in self._sides)
        least, last = max(LEAST_AGREE, LEAST_SHARE * points), self._sides[-1]
        for side in self._sides:
            # How good the best way is shows with the last of them.
            slack = 1.01 * MOST_DOUBT * points if side is last else np.inf
            side.judge(tried, wanted, blur, costs, agreeing, least, slack)
        return np.where(agreeing >= least, costs.astype(np.float64) / points, np.inf)


class _Side:
    """Points [P, 3] of one look, looked for in the other, shifted by `sign` times the way."""

    def __init__(self, own: Look, other: Look, points: Array, sign: float) -> None:
        self._own, self._other, self._points, self._sign = own, other, points, sign
        self._view = rigid.invert(other.world_from_camera)
        self._asked: dict[int, tuple[Float, Float, npt.NDArray[np.uint8]]] = {}

    def asked(self, wanted: int, blur: int) -> int:
        """How many points are asked when about so many are wanted."""
        if wanted not in self._asked:
            self._asked[wanted] = self._ask(wanted, blur)
        return len(self._asked[wanted][1])

    def judge(self, tried: Array, wanted: int, blur: int, costs: Float,
              agreeing: npt.NDArray[np.int32], least: float, slack: float) -> None:
        """Add to costs and agreeing [N] of the ways (`kernels.disagreement`)."""
        self.asked(wanted, blur)
        points, values, gray = self._asked[wanted]
        camera = self._other.camera
        kernels.disagreement(
            points, values,
            np.ascontiguousarray(self._sign * tried @ self._view[:3, :3].T, np.float32),
            np.array([camera.fx, camera.fy, camera.cx, camera.cy], np.float32), gray,
            self._other.depth, np.float32(TOLERANCE), costs, agreeing, np.float32(least),
            np.float32(slack))

    def _ask(self, wanted: int, blur: int) -> tuple[Float, Float, npt.NDArray[np.uint8]]:
        """Points [3, P] in the other camera, their grey values, the other picture, smoothed."""
        own, points = self._own, self._points[::max(1, len(self._points) // wanted)]
        seen = rigid.transform_points(rigid.invert(own.world_from_camera), points)
        at = np.clip(np.rint(own.camera.project(seen)[0]).astype(int), 0,
                     np.array(own.camera.size) - 1)
        values = own.smoothed(blur)[at[:, 1], at[:, 0]].astype(np.float32)
        return (np.ascontiguousarray(rigid.transform_points(self._view, points).T, np.float32),
                values, self._other.smoothed(blur))
