# SPDX-License-Identifier: Apache-2.0
"""Records topics as the bytes that arrive, without decoding them."""

from __future__ import annotations

import struct
import time
from collections.abc import Callable
from typing import Any

from rclpy.node import Node
from rclpy.serialization import deserialize_message
from rosgraph_msgs.msg import Clock

from inspatio_ros.files.bags import BagWriter
from inspatio_ros.ros import qos
from inspatio_ros.ros.bag_player_node import message_class
from inspatio_ros.ros.convert.stamps import to_ns, to_time
from inspatio_ros.ros.diagnostics import DropCounter

# One look at a message: its bytes and the steady time of its arrival.
Watcher = Callable[[bytes, float], None]

_LARGE_DEPTH, _SMALL_DEPTH, _LATCHED_DEPTH = 8, 100, 100


class Recorder:
    """Writes the topics of `record` into a rosbag2, stamped with the time of /clock.

    Between two clock messages, and after the last one, time goes on with the steady clock, so that
    stamps have no steps. What comes before the first /clock waits for it (bounded, drops counted).
    On the executor's thread.
    """

    def __init__(self, node: Node, writer: BagWriter, waiting: int = 1000) -> None:
        self._node = node
        self._writer = writer
        self._waiting: list[tuple[str, bytes]] = []
        self._capacity = waiting
        self._watchers: dict[str, Watcher] = {}
        self._clock: tuple[int, float] | None = None
        self._last_ns = 0
        self._subscriptions: list[Any] = []
        self._clock_subscription: Any
        self.drops = DropCounter()
        self._clock_subscription = node.create_subscription(
            Clock, "/clock", self._on_clock, qos.profile(10), raw=True)

    def record(self, topic: str, message_type: str, *, latched: bool = False,
               watcher: Watcher | None = None) -> bool:
        """Record a topic from now on; False, and counted, when its type is not installed."""
        kind = message_class(message_type)
        if kind is None or not self._writer.knows(message_type):
            self.drops.count("unknown_type")
            return False
        self._writer.add_topic(topic, message_type, latched=latched)
        if watcher is not None:
            self._watchers[topic] = watcher
        large = message_type.endswith(("Image", "PointCloud2"))
        depth = _LATCHED_DEPTH if latched else _LARGE_DEPTH if large else _SMALL_DEPTH
        self._subscriptions.append(self._node.create_subscription(
            kind, topic, lambda data: self._on_message(topic, data),
            qos.profile(depth, latched=latched), raw=True))
        return True

    @property
    def now_ns(self) -> int:
        """The recording's time; 0 before the first /clock."""
        if self._clock is None:
            return 0
        clock_ns, arrived = self._clock
        return clock_ns + round((time.monotonic() - arrived) * 1e9)

    def take_over_clock(self) -> Callable[[], Clock]:
        """Time goes on by the steady clock from now; the function gives it as /clock message.

        For when nobody publishes /clock any more and somebody has to.
        """
        self._node.destroy_subscription(self._clock_subscription)
        self._clock_subscription = None
        return lambda: Clock(clock=to_time(self.now_ns))

    def _on_clock(self, data: bytes) -> None:
        stamp_ns = to_ns(deserialize_message(data, Clock).clock)
        first = self._clock is None
        self._clock = (stamp_ns, time.monotonic())
        if first:
            for topic, message in self._waiting:
                self._write(topic, message)
            self._waiting.clear()

    def _on_message(self, topic: str, data: bytes) -> None:
        watcher = self._watchers.get(topic)
        if watcher is not None:
            watcher(data, time.monotonic())
        if self._clock is not None:
            self._write(topic, data)
        elif len(self._waiting) < self._capacity:
            self._waiting.append((topic, data))
        else:
            self.drops.count("before_clock")

    def _write(self, topic: str, data: bytes) -> None:
        self._last_ns = max(self._last_ns, self.now_ns)
        self._writer.write(topic, self._last_ns, data)

    def close(self) -> None:
        """Unsubscribe; the writer stays open."""
        for subscription in (*self._subscriptions, self._clock_subscription):
            if subscription is not None:
                self._node.destroy_subscription(subscription)
        self._subscriptions.clear()


def stamp_of(data: bytes) -> int:
    """The header stamp in ns of a serialised message that begins with a std_msgs/Header."""
    order = "<" if data[1] & 1 else ">"  # CDR encapsulation: little endian or big
    seconds, nanoseconds = struct.unpack_from(order + "iI", data, 4)
    return int(seconds) * 1_000_000_000 + int(nanoseconds)


def frame_of(data: bytes) -> str:
    """The header frame_id of such a message, without a leading slash."""
    order = "<" if data[1] & 1 else ">"
    (length,) = struct.unpack_from(order + "I", data, 12)
    return bytes(data[16:16 + length]).rstrip(b"\0").decode().lstrip("/")
