# SPDX-License-Identifier: Apache-2.0
"""Bringing items of several streams together by stamp."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from typing import Generic, TypeVar

T = TypeVar("T")


class StampMatcher(Generic[T]):
    """Pairs items of named streams whose stamps lie within a slop of each other.

    Every stream waits in a buffer of `capacity` items; the oldest leaves first and is counted.
    A match takes one item of each stream and drops (and counts) what is older in any of them, so
    matches come out in stamp order. `slop_ns` 0 matches equal stamps only. Safe between threads.
    """

    def __init__(self, names: Sequence[str], slop_ns: int, capacity: int = 8) -> None:
        if len(set(names)) != len(names) or len(names) < 1:
            raise ValueError(f"stream names must be distinct and given: {list(names)}")
        if slop_ns < 0 or capacity < 1:
            raise ValueError(f"slop_ns {slop_ns} and capacity {capacity} must not be negative")
        self._slop_ns = slop_ns
        self._capacity = capacity
        self._lock = threading.Lock()
        self._waiting: dict[str, OrderedDict[int, T]] = {name: OrderedDict() for name in names}
        self._dropped = dict.fromkeys(names, 0)
        self._pairs = 0
        self._nearest_gap_ns: int | None = None

    def add(self, name: str, stamp_ns: int, item: T) -> dict[str, T] | None:
        """Offer an item; the matched items by stream name, or None while one is missing.

        A second item with the stamp of a waiting one replaces it (and counts it as dropped).
        """
        with self._lock:
            waiting = self._waiting[name]
            if stamp_ns in waiting:
                self._dropped[name] += 1
                del waiting[stamp_ns]
            waiting[stamp_ns] = item
            while len(waiting) > self._capacity:
                del waiting[min(waiting)]
                self._dropped[name] += 1
            return self._match(stamp_ns)

    def _match(self, stamp_ns: int) -> dict[str, T] | None:
        chosen: dict[str, int] = {}
        for name, waiting in self._waiting.items():
            if not waiting:
                return None
            nearest = min(waiting, key=lambda other: abs(other - stamp_ns))
            chosen[name] = nearest
        gap = max(chosen.values()) - min(chosen.values())
        self._nearest_gap_ns = gap
        if gap > self._slop_ns:
            return None
        self._pairs += 1
        matched = {}
        for name, stamp in chosen.items():
            waiting = self._waiting[name]
            matched[name] = waiting.pop(stamp)
            for old in [other for other in waiting if other < stamp]:
                del waiting[old]
                self._dropped[name] += 1
        return matched

    def clear(self) -> None:
        """Forget everything that waits (not the counts)."""
        with self._lock:
            for waiting in self._waiting.values():
                waiting.clear()
            self._nearest_gap_ns = None

    @property
    def dropped(self) -> dict[str, int]:
        """Per stream: items that left unmatched."""
        with self._lock:
            return dict(self._dropped)

    @property
    def pairs(self) -> int:
        """Matches made."""
        with self._lock:
            return self._pairs

    @property
    def nearest_gap_ns(self) -> int | None:
        """Spread of the stamps at the last try with an item in every stream; None before it."""
        with self._lock:
            return self._nearest_gap_ns

    @property
    def waiting(self) -> dict[str, int]:
        """Per stream: items waiting now."""
        with self._lock:
            return {name: len(items) for name, items in self._waiting.items()}
