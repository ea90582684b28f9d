# SPDX-License-Identifier: Apache-2.0
"""The one thread that does the heavy work."""

from __future__ import annotations

import threading
from collections.abc import Callable


class Worker:
    """Calls `step` in its own thread, again and again, until stopped.

    step: does one bounded piece of work and returns True when there was any; after False the
    worker sleeps until `wake` or `idle_timeout` seconds. An exception out of `step` goes to
    `on_error` and the loop goes on: one bad input must not end the node.
    """

    def __init__(
        self,
        step: Callable[[], bool],
        on_error: Callable[[BaseException], None],
        *,
        name: str = "worker",
        idle_timeout: float = 0.1,
    ) -> None:
        self._step = step
        self._on_error = on_error
        self._idle_timeout = idle_timeout
        self._wake = threading.Event()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Begin; once only."""
        self._thread.start()

    def wake(self) -> None:
        """There is new work: do not wait for the idle timeout."""
        self._wake.set()

    @property
    def stopping(self) -> bool:
        """Whether `stop` was called; a long step looks here between blocks."""
        return self._stop.is_set()

    @property
    def alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread.is_alive()

    def stop(self, timeout: float | None = None) -> bool:
        """Ask the loop to end and join it; False when it did not end within `timeout` seconds."""
        self._stop.set()
        self._wake.set()
        if self._thread.ident is not None:
            self._thread.join(timeout)
        return not self._thread.is_alive()

    def _run(self) -> None:
        while not self._stop.is_set():
            self._wake.clear()
            try:
                worked = self._step()
            except Exception as error:  # noqa: BLE001 - handed on, see class docstring
                self._on_error(error)
                worked = False
            if not worked:
                self._wake.wait(self._idle_timeout)
