# SPDX-License-Identifier: Apache-2.0
"""A route on the ground: places along it, and how far a robot has come."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]

# A robot is looked for so far before and behind the place where it was last, m.
_SEARCH = 5.0
_TABLE_STEP = 0.05


class Route:
    """A polyline on the ground, perhaps closed.

    points: [N, 2 or 3] m in the world, the height ignored. Raises ValueError with fewer than two
    different points or values that are not finite.
    """

    def __init__(self, points: npt.ArrayLike, *, closed: bool = False) -> None:
        given = np.asarray(points, np.float64)
        if given.ndim != 2 or given.shape[1] not in (2, 3) or not np.isfinite(given).all():
            raise ValueError(f"route: expected finite points [N, 2] or [N, 3], got {given.shape}")
        flat = given[:, :2]
        if closed:
            flat = np.concatenate([flat, flat[:1]])
        steps = np.linalg.norm(np.diff(flat, axis=0), axis=1)
        keep = np.concatenate([[True], steps > 1e-6])
        self.points: Array = flat[keep]
        if len(self.points) < 2:
            raise ValueError("route: needs at least two different points")
        self.closed = closed
        lengths = np.linalg.norm(np.diff(self.points, axis=0), axis=1)
        self._stations = np.concatenate([[0.0], np.cumsum(lengths)])
        # One place of a planner's inner loop asks often, for single stations: from a fine table.
        count = max(2, math.ceil(self.length / _TABLE_STEP) + 1)
        fine = np.linspace(0.0, self.length, count)
        self._table_step = self.length / (count - 1)
        heading = np.unwrap(self.heading(fine))
        self._table: list[tuple[float, float, float]] = [
            (float(x), float(y), float(h))
            for (x, y), h in zip(self._place(fine), heading, strict=True)]

    @property
    def length(self) -> float:
        """Metres from the first point to the last (of a closed one: all round)."""
        return float(self._stations[-1])

    def at(self, station: npt.ArrayLike, offset: npt.ArrayLike = 0.0) -> Array:
        """Points [n, 2] at stations m, `offset` m to the left of the route. Held at open ends."""
        s = self._wrapped(np.atleast_1d(np.asarray(station, np.float64)))
        place = self._place(s)
        heading = self.heading(s)
        left = np.stack([-np.sin(heading), np.cos(heading)], axis=1)
        return np.asarray(place + np.asarray(offset)[..., None] * left)

    def heading(self, station: npt.ArrayLike) -> Array:
        """Directions [n] rad at stations, over half a metre of the route."""
        s = np.atleast_1d(np.asarray(station, np.float64))
        step = self._place(self._wrapped(s + 0.25)) - self._place(self._wrapped(s - 0.25))
        return np.arctan2(step[:, 1], step[:, 0])

    def locate(self, x: float, y: float, near: float | None = None) -> tuple[float, float]:
        """(station m, offset m to the left) of the route's point nearest to (x, y).

        near: only within 5 m of this station, so that a route that passes twice is not confused.
        Of a closed route the station goes on counting round by round.
        """
        if near is None:
            s = self._stations
        else:
            s = near + np.arange(-_SEARCH, _SEARCH + 0.01, 0.25)
            if not self.closed:
                s = np.clip(s, 0.0, self.length)
        places = self._place(self._wrapped(s))
        target = np.array([x, y])
        best = int(np.argmin(((places - target) ** 2).sum(1)))
        low, high = s[max(best - 1, 0)], s[min(best + 1, len(s) - 1)]
        fine = np.linspace(low, high, 41)
        places = self._place(self._wrapped(fine))
        best = int(np.argmin(((places - target) ** 2).sum(1)))
        heading = float(self.heading([fine[best]])[0])
        away = target - places[best]
        left = -np.sin(heading) * away[0] + np.cos(heading) * away[1]
        return float(fine[best]), float(left)

    def pose(self, station: float) -> tuple[float, float, float]:
        """x m, y m and heading rad at a station: `at` and `heading` to a few mm, but fast."""
        if self.closed:
            station %= self.length
        at = min(max(station, 0.0), self.length) / self._table_step
        index = min(int(at), len(self._table) - 2)
        part = at - index
        x0, y0, h0 = self._table[index]
        x1, y1, h1 = self._table[index + 1]
        return x0 + part * (x1 - x0), y0 + part * (y1 - y0), h0 + part * (h1 - h0)

    def locate_quickly(self, x: float, y: float, near: float) -> tuple[float, float]:
        """`locate` for a robot that is within a metre or two of station `near`.

        By steps along the route's direction: exact on straights, a few cm off in bends.
        """
        station, offset = near, 0.0
        for _ in range(3):
            px, py, heading = self.pose(station)
            cosine, sine = math.cos(heading), math.sin(heading)
            ahead = cosine * (x - px) + sine * (y - py)
            offset = -sine * (x - px) + cosine * (y - py)
            station += ahead
            if not self.closed:
                station = min(max(station, 0.0), self.length)
            if abs(ahead) < 0.01:
                break
        return station, offset

    def ahead(self, station: float, length: float, step: float = 0.5) -> Array:
        """Points [n, 2] from a station on over `length` m."""
        return self.at(station + np.arange(0.0, length + step / 2, step))

    def _wrapped(self, station: Array) -> Array:
        if self.closed:
            return np.asarray(station % self.length)
        return np.clip(station, 0.0, self.length)

    def _place(self, station: Array) -> Array:
        return np.stack([np.interp(station, self._stations, self.points[:, axis])
                         for axis in (0, 1)], axis=1)
