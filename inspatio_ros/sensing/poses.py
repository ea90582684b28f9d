# SPDX-License-Identifier: Apache-2.0
"""Where something was at a stamp, from a stream of stamped poses."""

from __future__ import annotations

import bisect
import threading

import numpy as np
import numpy.typing as npt

from inspatio_ros.geometry import rigid

Array = npt.NDArray[np.float64]


class PoseUnavailable(LookupError):
    """No pose can be given at a stamp.

    reason: 'empty', 'too_new' (wait for more poses), 'too_old' (forgotten) or 'gap' (the poses
    round the stamp lie too far apart to trust what is between them).
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class PoseBuffer:
    """Interpolated poses over the last `max_age_ns` of a stamped stream.

    Holds at most `capacity` poses, oldest out first. Poses may come out of order; one with a stamp
    already held replaces it. `max_gap_ns`: between two poses further apart than this nothing is
    interpolated. Interpolation is linear in translation and slerp in rotation, as tf2's. Safe
    between threads.
    """

    def __init__(
        self,
        max_age_ns: int = 30_000_000_000,
        capacity: int = 10_000,
        max_gap_ns: int = 1_000_000_000,
    ) -> None:
        if max_age_ns <= 0 or capacity < 2 or max_gap_ns <= 0:
            raise ValueError("max_age_ns and max_gap_ns must be positive, capacity at least 2")
        self._max_age_ns = max_age_ns
        self._capacity = capacity
        self._max_gap_ns = max_gap_ns
        self._lock = threading.Lock()
        self._stamps: list[int] = []
        self._poses: list[Array] = []
        self._dropped = 0

    def add(self, stamp_ns: int, world_from_base: Array) -> None:
        """Hold a pose. Raises ValueError when it is not rigid."""
        pose = rigid.require_rigid(world_from_base, "world_from_base")
        with self._lock:
            index = bisect.bisect_left(self._stamps, stamp_ns)
            if index < len(self._stamps) and self._stamps[index] == stamp_ns:
                self._poses[index] = pose
                return
            self._stamps.insert(index, stamp_ns)
            self._poses.insert(index, pose)
            self._forget_old()

    def _forget_old(self) -> None:
        oldest_kept = bisect.bisect_left(self._stamps, self._stamps[-1] - self._max_age_ns)
        first = max(oldest_kept, len(self._stamps) - self._capacity)
        if first > 0:
            del self._stamps[:first], self._poses[:first]
            self._dropped += first

    def at(self, stamp_ns: int) -> Array:
        """The pose [4, 4] at `stamp_ns`. Raises PoseUnavailable with the reason."""
        with self._lock:
            if not self._stamps:
                raise PoseUnavailable("empty", "no pose received yet")
            first, last = self._stamps[0], self._stamps[-1]
            if stamp_ns > last:
                raise PoseUnavailable(
                    "too_new", f"newest pose is {(stamp_ns - last) * 1e-9:.3f} s older")
            if stamp_ns < first:
                raise PoseUnavailable(
                    "too_old", f"oldest pose is {(first - stamp_ns) * 1e-9:.3f} s newer")
            after = bisect.bisect_left(self._stamps, stamp_ns)
            if self._stamps[after] == stamp_ns:
                return self._poses[after]
            before = after - 1
            gap = self._stamps[after] - self._stamps[before]
            pair = np.stack([self._poses[before], self._poses[after]])
            part = (stamp_ns - self._stamps[before]) / gap
        if gap > self._max_gap_ns:
            raise PoseUnavailable("gap", f"the poses around it are {gap * 1e-9:.3f} s apart")
        return np.asarray(rigid.interpolate([0.0, 1.0], pair, [part])[0])

    def latest(self) -> tuple[int, Array]:
        """Stamp and pose of the newest entry. Raises PoseUnavailable when empty."""
        with self._lock:
            if not self._stamps:
                raise PoseUnavailable("empty", "no pose received yet")
            return self._stamps[-1], self._poses[-1]

    def clear(self) -> None:
        """Forget all poses (not the count)."""
        with self._lock:
            self._stamps.clear()
            self._poses.clear()

    def __len__(self) -> int:
        with self._lock:
            return len(self._stamps)

    @property
    def dropped(self) -> int:
        """Poses forgotten for age or capacity."""
        with self._lock:
            return self._dropped
