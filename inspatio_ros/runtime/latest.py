# SPDX-License-Identifier: Apache-2.0
"""A slot that holds the newest item only."""

from __future__ import annotations

import threading
from typing import Generic, TypeVar

T = TypeVar("T")


class LatestSlot(Generic[T]):
    """Hands the newest item from one thread to another; an item never taken is counted as dropped.

    Safe between threads. Holds at most one item.
    """

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._item: T | None = None
        self._closed = False
        self._dropped = 0

    def put(self, item: T) -> None:
        """Replace the held item; the one replaced counts as dropped. Ignored after `close`."""
        with self._condition:
            if self._closed:
                return
            if self._item is not None:
                self._dropped += 1
            self._item = item
            self._condition.notify()

    def take(self, timeout: float | None = 0.0) -> T | None:
        """The held item, emptied, or None after `timeout` seconds (None: wait) or once closed."""
        with self._condition:
            self._condition.wait_for(lambda: self._item is not None or self._closed, timeout)
            item, self._item = self._item, None
            return item

    def clear(self) -> None:
        """Forget the held item without counting it."""
        with self._condition:
            self._item = None

    def close(self) -> None:
        """Wake whoever waits; nothing is accepted any more."""
        with self._condition:
            self._closed = True
            self._item = None
            self._condition.notify_all()

    @property
    def dropped(self) -> int:
        """Items replaced before anybody took them."""
        with self._condition:
            return self._dropped

    @property
    def full(self) -> bool:
        """Whether an item waits."""
        with self._condition:
            return self._item is not None
