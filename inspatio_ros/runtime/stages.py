# SPDX-License-Identifier: Apache-2.0
"""How long each stage takes."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np


class StageTimer:
    """Wall times of named stages: the last `window` of each, with median and 95th percentile.

    Safe between threads.
    """

    def __init__(self, window: int = 200) -> None:
        self._window = window
        self._lock = threading.Lock()
        self._times: dict[str, deque[float]] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time the body as one run of stage `name`."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.add(name, time.perf_counter() - start)

    def add(self, name: str, seconds: float) -> None:
        """Record one run of stage `name`."""
        with self._lock:
            self._times.setdefault(name, deque(maxlen=self._window)).append(seconds)

    def summary(self) -> dict[str, dict[str, float]]:
        """Per stage: `median`, `p95` in seconds and `count` within the window."""
        with self._lock:
            copies = {name: list(times) for name, times in self._times.items()}
        return {
            name: {"median": float(np.median(times)), "p95": float(np.percentile(times, 95)),
                   "count": float(len(times))}
            for name, times in copies.items()
        }

    def reset(self) -> None:
        """Forget all times."""
        with self._lock:
            self._times.clear()
