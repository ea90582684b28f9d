# SPDX-License-Identifier: Apache-2.0
"""/diagnostics at 1 Hz (REP 107), counters of what was dropped, and rates."""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rclpy.clock import Clock, ClockType
from rclpy.node import Node

from inspatio_ros.ros import qos

OK = DiagnosticStatus.OK
WARN = DiagnosticStatus.WARN
ERROR = DiagnosticStatus.ERROR
STALE = DiagnosticStatus.STALE

# One part of a node reports (level, one sentence, values).
Report = tuple[bytes, str, Mapping[str, Any]]


class DropCounter:
    """Counts what was dropped, by reason. Safe between threads; the reasons are a fixed few."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()

    def count(self, reason: str, number: int = 1) -> None:
        """Count `number` items dropped for `reason`."""
        with self._lock:
            self._counts[reason] += number

    def clear(self) -> None:
        """Count from zero."""
        with self._lock:
            self._counts.clear()

    def total_but(self, *reasons: str) -> int:
        """All drops together, those of `reasons` left out."""
        with self._lock:
            return sum(n for reason, n in self._counts.items() if reason not in reasons)

    def __getitem__(self, reason: str) -> int:
        with self._lock:
            return self._counts[reason]

    @property
    def total(self) -> int:
        """All drops together."""
        with self._lock:
            return sum(self._counts.values())

    def as_dict(self) -> dict[str, int]:
        """Counts by reason, sorted."""
        with self._lock:
            return dict(sorted(self._counts.items()))


class RateMeter:
    """Events per second over the last `window` seconds of steady time. Safe between threads."""

    def __init__(self, window: float = 3.0, capacity: int = 512) -> None:
        self._window = window
        self._lock = threading.Lock()
        self._times: deque[float] = deque(maxlen=capacity)

    def tick(self) -> None:
        """Note one event."""
        with self._lock:
            self._times.append(time.monotonic())

    @property
    def hz(self) -> float:
        """The rate now, 0 with fewer than two events in the window."""
        oldest = time.monotonic() - self._window
        with self._lock:
            recent = [t for t in self._times if t >= oldest]
        if len(recent) < 2 or recent[-1] <= recent[0]:
            return 0.0
        return (len(recent) - 1) / (recent[-1] - recent[0])


class Diagnostics:
    """Publishes one DiagnosticStatus a part, once a second of steady time, from construction on.

    Named "<node>: <part>". A part that raises is reported as ERROR with what it raised.
    """

    def __init__(self, node: Node, hardware_id: str = "") -> None:
        self._node = node
        self._hardware_id = hardware_id
        self._parts: dict[str, Callable[[], Report]] = {}
        self._publisher = node.create_publisher(DiagnosticArray, "/diagnostics", qos.DIAGNOSTICS)
        self._timer = node.create_timer(
            1.0, self.publish, clock=Clock(clock_type=ClockType.STEADY_TIME))

    def add(self, part: str, report: Callable[[], Report]) -> None:
        """Report this part from now on."""
        self._parts[part] = report

    def publish(self) -> None:
        """Publish all parts now."""
        array = DiagnosticArray()
        array.header.stamp = self._node.get_clock().now().to_msg()
        array.status = [self._status(part, report) for part, report in self._parts.items()]
        self._publisher.publish(array)

    def _status(self, part: str, report: Callable[[], Report]) -> DiagnosticStatus:
        try:
            level, message, values = report()
        except Exception as error:  # noqa: BLE001 - a broken report must not end the node
            level, message, values = ERROR, f"cannot report: {error}", {}
        return DiagnosticStatus(
            level=level, name=f"{self._node.get_name()}: {part}", message=message,
            hardware_id=self._hardware_id,
            values=[KeyValue(key=key, value=_text(value)) for key, value in values.items()])


def _text(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


class Problems:
    """What is wrong right now, one sentence per key, and its warnings. Safe between threads.

    A transient problem fades `hold` seconds of steady time after it was last reported; a lasting
    one stays until cleared. A key is logged at most every `log_interval` seconds, every second
    when its sentence changes. The keys are a fixed few.
    """

    def __init__(self, log: Callable[[str], object], *, hold: float = 3.0,
                 log_interval: float = 5.0) -> None:
        self._log = log
        self._hold = hold
        self._log_interval = log_interval
        self._lock = threading.Lock()
        self._held: dict[str, tuple[str, float]] = {}
        self._logged: dict[str, tuple[str, float]] = {}

    def report(self, key: str, sentence: str, *, lasting: bool = False) -> None:
        """Note a problem, replacing the key's earlier one, and log it."""
        now = time.monotonic()
        until = float("inf") if lasting else now + self._hold
        with self._lock:
            self._held[key] = (sentence, until)
            said, when = self._logged.get(key, ("", -float("inf")))
            due = now - when >= (self._log_interval if said == sentence else 1.0)
            if due:
                self._logged[key] = (sentence, now)
        if due:
            self._log(sentence)

    def clear(self, key: str) -> None:
        """The problem is solved."""
        with self._lock:
            self._held.pop(key, None)

    def clear_all(self) -> None:
        """Start anew."""
        with self._lock:
            self._held.clear()
            self._logged.clear()

    def current(self) -> dict[str, str]:
        """The problems that hold now, in the order in which they first came."""
        now = time.monotonic()
        with self._lock:
            self._held = {k: held for k, held in self._held.items() if held[1] > now}
            return {key: sentence for key, (sentence, _) in self._held.items()}
