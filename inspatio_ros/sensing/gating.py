# SPDX-License-Identifier: Apache-2.0
"""Which observations are worth fusing, and whether time still runs forward."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from inspatio_ros.geometry import rigid


class FuseGate:
    """Lets observations through at a bounded rate, and rarely while the camera stands still.

    max_rate: Hz, at most so often. still_interval: s between two while the camera, since the last
    one let through, has moved less than `min_translation` m and turned less than `min_rotation`.
    """

    def __init__(
        self,
        max_rate: float,
        *,
        still_interval: float = 1.0,
        min_translation: float = 0.01,
        min_rotation: float = 0.01,
    ) -> None:
        if not max_rate > 0:
            raise ValueError(f"max_rate {max_rate} Hz is not positive")
        self._min_interval_ns = int(1e9 / max_rate)
        self._still_interval_ns = int(still_interval * 1e9)
        self._min_translation = min_translation
        self._min_rotation = min_rotation
        self._last: tuple[int, npt.NDArray[np.float64]] | None = None

    def admits(self, stamp_ns: int, world_from_camera: npt.NDArray[np.float64]) -> bool:
        """Whether to fuse this one; if so it becomes the one that the next is measured against."""
        if self._last is not None:
            last_ns, last_pose = self._last
            elapsed = stamp_ns - last_ns
            # A tenth of slack: a 5 Hz camera that jitters must not fall to 2.5 Hz.
            if elapsed < 0.9 * self._min_interval_ns:
                return False
            step = rigid.invert(last_pose) @ world_from_camera
            still = (np.linalg.norm(step[:3, 3]) < self._min_translation
                     and float(rigid.rotation_angle(step)) < self._min_rotation)
            if still and elapsed < self._still_interval_ns:
                return False
        self._last = (stamp_ns, world_from_camera)
        return True

    def reset(self) -> None:
        """Forget the last one."""
        self._last = None


class BackwardJumpDetector:
    """Tells when stamps jump back: a bag that loops, a simulator that was reset.

    A stamp up to `tolerance_ns` older than the newest is late, not a jump.
    """

    def __init__(self, tolerance_ns: int = 1_000_000_000) -> None:
        self._tolerance_ns = tolerance_ns
        self._newest: int | None = None

    def jumped(self, stamp_ns: int) -> bool:
        """Take note of a stamp; True when time has jumped back (and starts anew from it)."""
        if self._newest is not None and stamp_ns < self._newest - self._tolerance_ns:
            self._newest = stamp_ns
            return True
        self._newest = stamp_ns if self._newest is None else max(self._newest, stamp_ns)
        return False

    def reset(self) -> None:
        """Forget the newest stamp."""
        self._newest = None
