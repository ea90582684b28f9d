# SPDX-License-Identifier: Apache-2.0
"""What is known at the moment when candidates are judged."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from inspatio_ros.geometry import rigid
from inspatio_ros.geometry.camera import PinholeCamera
from inspatio_ros.memory.world_memory import WorldMemory
from inspatio_ros.sensing.observation import Observation

Array = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class MovingBox:
    """Something that moves over the ground, as it is now.

    world_from_box: [4, 4], x along its length, origin in its middle. size: length and width, m.
    velocity: m/s in world axes, kept up from now on. yaw_rate: rad/s about the up axis.
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


@dataclass(frozen=True, eq=False)
class Situation:
    """What is known now; candidates are judged against it, and it is not changed by that.

    memory: what was seen so far. references: what is seen now, newest first. world_from_base:
    where the robot is, x forward, z up. base_from_camera: [4, 4] optical. camera: of the views
    that are drawn and imagined. speed: m/s of the robot now, None when not known. movers: what
    moves, None when nobody knows (then the newest observations are searched). route: [R, 2 or 3]
    m in the world along which progress counts; None: straight ahead of each candidate's start.
    """

    memory: WorldMemory
    references: tuple[Observation, ...]
    world_from_base: Array
    base_from_camera: Array
    camera: PinholeCamera
    speed: float | None = None
    movers: tuple[MovingBox, ...] | None = None
    route: Array | None = None

    def __post_init__(self) -> None:
        for name in ("world_from_base", "base_from_camera"):
            object.__setattr__(self, name, rigid.require_rigid(getattr(self, name), name))
        if self.route is not None:
            route = np.asarray(self.route, np.float64)
            if route.ndim != 2 or route.shape[1] not in (2, 3) or len(route) < 2 \
                    or not np.isfinite(route).all():
                raise ValueError(f"route: expected finite points [R, 2] or [R, 3], at least two, "
                                 f"got shape {route.shape}")
        if self.speed is not None and not np.isfinite(self.speed):
            raise ValueError(f"speed {self.speed} m/s is not finite")
