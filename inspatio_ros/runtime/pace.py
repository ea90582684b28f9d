# SPDX-License-Identifier: Apache-2.0
"""Recorded time as it passes while a recording is played."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable


class Pace:
    """Maps recorded time to steady time: begins at `start_ns`, runs `rate` times as fast, pauses.

    Paused until `resume`. Safe between threads. steady: the steady clock in seconds.
    """

    def __init__(self, start_ns: int, rate: float = 1.0,
                 steady: Callable[[], float] = time.monotonic) -> None:
        self._lock = threading.Lock()
        self._steady = steady
        self._rate = rate
        self._stamp_ns = start_ns
        self._since: float | None = None

    def now_ns(self) -> int:
        """The recorded time now."""
        with self._lock:
            return self._now_ns()

    def seconds_until(self, stamp_ns: int) -> float:
        """Steady seconds until `stamp_ns` comes, negative once it is over; inf while paused."""
        with self._lock:
            if self._since is None:
                return math.inf
            return (stamp_ns - self._now_ns()) * 1e-9 / self._rate

    @property
    def paused(self) -> bool:
        """Whether recorded time stands still."""
        with self._lock:
            return self._since is None

    def pause(self) -> None:
        """Stand still."""
        with self._lock:
            self._stamp_ns, self._since = self._now_ns(), None

    def resume(self) -> None:
        """Go on from where it stands."""
        with self._lock:
            if self._since is None:
                self._since = self._steady()

    def jump(self, stamp_ns: int) -> None:
        """It is `stamp_ns` now; paused or not stays as it is."""
        with self._lock:
            self._stamp_ns = stamp_ns
            if self._since is not None:
                self._since = self._steady()

    def set_rate(self, rate: float) -> None:
        """From now on `rate` times as fast as it was recorded."""
        with self._lock:
            self._stamp_ns = self._now_ns()
            if self._since is not None:
                self._since = self._steady()
            self._rate = rate

    def _now_ns(self) -> int:
        if self._since is None:
            return self._stamp_ns
        return self._stamp_ns + round((self._steady() - self._since) * self._rate * 1e9)
