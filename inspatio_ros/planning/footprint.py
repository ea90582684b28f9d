# SPDX-License-Identifier: Apache-2.0
"""The space a robot takes up: a box on the ground around its base."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Footprint:
    """A box around the base, in its frame (x forward, y left, z up), metres.

    front, rear, left, right: from the base's origin to each side, all positive. height: of the
    robot above the ground. ground: z of the ground below the base's origin (0: the origin lies on
    it, as base_footprint does; a base_link at axle height has minus the wheels' radius).
    clearance: what rises less above the ground is driven over. margin: kept free on every side.
    Raises ValueError on a size that is not positive or a clearance above the height.
    """

    front: float = 0.35
    rear: float = 0.35
    left: float = 0.25
    right: float = 0.25
    height: float = 1.2
    ground: float = 0.0
    clearance: float = 0.1
    margin: float = 0.0

    def __post_init__(self) -> None:
        for name in ("front", "rear", "left", "right", "height"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise ValueError(f"footprint {name} {value} m is not positive")
        if not 0 <= self.clearance < self.height:
            raise ValueError(f"footprint clearance {self.clearance} m is not between 0 and the "
                             f"height {self.height} m")
        if not (math.isfinite(self.margin) and self.margin >= 0 and math.isfinite(self.ground)):
            raise ValueError(f"footprint margin {self.margin} m is negative or ground "
                             f"{self.ground} m not finite")

    @property
    def length(self) -> float:
        """Metres from the rear to the front, without the margin."""
        return self.front + self.rear

    @property
    def width(self) -> float:
        """Metres from the right to the left, without the margin."""
        return self.left + self.right

    @property
    def sides(self) -> Array:
        """(front, rear, left, right) with the margin, m."""
        return np.array([self.front, self.rear, self.left, self.right]) + self.margin

    def corners(self, x: float, y: float, yaw: float) -> Array:
        """Corners [4, 2] m around a base at (x, y) that looks along `yaw`, margin included."""
        front, rear, left, right = self.sides
        local = np.array([[front, left], [-rear, left], [-rear, -right], [front, -right]])
        turn = np.array([[math.cos(yaw), -math.sin(yaw)], [math.sin(yaw), math.cos(yaw)]])
        return np.asarray(local @ turn.T + (x, y), np.float64)
