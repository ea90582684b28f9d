# SPDX-License-Identifier: Apache-2.0
"""What is known at the moment when candidates are judged."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from inspatio_ros.geometry import rigid
from inspatio_ros.geometry.camera import PinholeCamera
from inspatio_ros.memory.world_memory import WorldMemory
from inspatio_ros.planning.movers import MovingBox, tracked_boxes
from inspatio_ros.sensing.observation import Observation

__all__ = ["MovingBox", "Situation"]

Array = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Situation:
    """What is known now; candidates are judged against it, and it is not changed by that.

    memory: what was seen so far. references: what is seen now, newest first. world_from_base:
    where the robot is, x forward, z up. base_from_camera: [4, 4] optical. camera: of the views
    that are drawn and imagined. speed: m/s of the robot now, None when not known. movers: what
    moves, None when nobody says (then what the memory keeps apart as moving). route: [R, 2 or 3]
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

    def moving_boxes(self, ground: float = 0.0) -> tuple[MovingBox, ...]:
        """The movers that were given, else those that the memory keeps apart, as they are now.

        ground: z of the ground in the base's frame, m.
        """
        if self.movers is not None:
            return self.movers
        layer = self.memory.moving
        if layer is None or layer.newest_ns is None:
            return ()
        now = self.references[0].stamp_ns if self.references else layer.newest_ns
        below = self.world_from_base @ rigid.from_rotation(np.eye(3), (0.0, 0.0, ground))
        return tracked_boxes(layer, now, below, self.world_from_base @ self.base_from_camera)
