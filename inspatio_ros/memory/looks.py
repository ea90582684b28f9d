# SPDX-License-Identifier: Apache-2.0
"""The depth that cameras measured lately: as far as a ray went, nothing stood.

The cloud keeps points, and ground far away has none between two lines of a picture. Whoever wants
to know whether ground was seen, as planning does, asks the pictures.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from inspatio_ros.geometry.camera import PinholeCamera
from inspatio_ros.memory.surfaces import reduce_depth
from inspatio_ros.sensing.observation import Observation

# Wider pictures are reduced to this width, pixels.
_MAX_WIDTH = 320
_INTERVAL_NS = 450_000_000


@dataclass(frozen=True, eq=False)
class DepthLook:
    """Depth float32 [H, W] m (NaN unknown) as `camera` measured it at world_from_camera [4, 4]."""

    stamp_ns: int
    depth: npt.NDArray[np.float32]
    camera: PinholeCamera
    world_from_camera: npt.NDArray[np.float64]

    @staticmethod
    def of(observation: Observation) -> DepthLook:
        """Its own copy of an observation's depth."""
        camera, depth = observation.camera, observation.depth
        if camera.width > _MAX_WIDTH:
            size = _MAX_WIDTH, max(1, round(camera.height * _MAX_WIDTH / camera.width))
            camera, depth = camera.resized(*size), reduce_depth(depth, size)
        else:
            depth = depth.copy()
        return DepthLook(observation.stamp_ns, depth, camera, observation.world_from_camera)


class RecentLooks:
    """The newest looks, at most `count`, each half a second or more after the one before.

    Raises ValueError when count is negative.
    """

    def __init__(self, count: int) -> None:
        if count < 0:
            raise ValueError(f"looks: {count} is negative")
        self._looks: deque[DepthLook] = deque(maxlen=count)

    @property
    def newest_first(self) -> tuple[DepthLook, ...]:
        """What is held."""
        return tuple(reversed(self._looks))

    @property
    def nbytes(self) -> int:
        """Bytes of what is held."""
        return sum(look.depth.nbytes for look in self._looks)

    def offer(self, observation: Observation) -> bool:
        """Hold an observation's depth unless one of the same half second is held."""
        if self._looks.maxlen == 0:
            return False
        if self._looks and 0 <= observation.stamp_ns - self._looks[-1].stamp_ns < _INTERVAL_NS:
            return False
        self._looks.append(DepthLook.of(observation))
        return True

    def clear(self) -> None:
        """Forget all."""
        self._looks.clear()
