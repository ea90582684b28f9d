# SPDX-License-Identifier: Apache-2.0
"""Plays a rosbag2 recording with its own timing and /clock.

Messages go out as the bytes that were recorded; nothing is decoded.
"""

from __future__ import annotations

import importlib
import re
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from rclpy.clock import Clock, ClockType
from rclpy.duration import Duration
from rclpy.exceptions import InvalidTopicNameException
from rclpy.publisher import Publisher
from rclpy.qos import QoSProfile
from rosgraph_msgs.msg import Clock as ClockMessage
from std_srvs.srv import SetBool

from inspatio_ros.files.bag_storage import BagError, StoredMessage, TopicInfo
from inspatio_ros.files.bags import BagReader
from inspatio_ros.ros import qos
from inspatio_ros.ros.convert.stamps import to_time
from inspatio_ros.ros.diagnostics import OK, WARN, Report
from inspatio_ros.ros.node_base import ExecutorCalls, PlainNode, run
from inspatio_ros.ros.parameters import ParameterError, param
from inspatio_ros.runtime.pace import Pace
from inspatio_ros.runtime.worker import Worker

CLOCK_TOPIC = "/clock"
# Messages that go out later than this are counted.
LATE_S = 0.02
# At the end, how long readers may take to acknowledge what was sent last, all topics together.
_DELIVERY_S = 2.0
# A recording of one instant is repeated at most this often.
_MIN_PASS_NS = 100_000_000
_MAX_LATCHED = 100
# Deep enough that what is overdue goes out in a burst without loss.
_DEPTH, _LARGE_DEPTH = 100, 10
_LARGE = ("sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage",
          "sensor_msgs/msg/PointCloud2")
_TYPE_NAME = re.compile(r"([a-z][a-z0-9_]*)/msg/([A-Z][A-Za-z0-9]*)")


@dataclass(frozen=True)
class BagPlayerParameters:
    """What is played, and how."""

    bag: str = param("", "Recording: a rosbag2 folder, or one .mcap or .db3 file")
    rate: float = param(1.0, "How many times as fast as it was recorded", minimum=0.01,
                        maximum=100.0, dynamic=True)
    loop: bool = param(False, "Begin anew at the end; /clock then jumps back. Else the node ends")
    start_offset: float = param(0.0, "Where to begin, from the recording's start", unit="s",
                                minimum=0.0, maximum=1e6)
    start_paused: bool = param(False, "Wait for ~/set_paused before playing")
    clock_rate: float = param(100.0, "Messages a second on /clock; 0: none. A /clock in the "
                              "recording is left out when it is not 0", unit="Hz", minimum=0.0,
                              maximum=1000.0)
    topics: tuple[str, ...] = param(("",), "Topics to play, as named in the recording; empty: all")
    wait_for: tuple[str, ...] = param(
        ("",), "Topics of the recording that must have a subscriber before playing begins; empty: "
        "begin at once")
    wait_timeout: float = param(30.0, "Begin without those subscribers after this time, with a "
                                "warning; 0: wait on", unit="s", minimum=0.0, maximum=3600.0)


class BagPlayerNode(PlainNode[BagPlayerParameters]):
    """Plays one recording, then calls `on_end` on the executor's thread.

    exit_code: 1 when the recording could not be read to its end, else 0. One worker reads and
    publishes; services, waiting for subscribers and diagnostics stay on the executor. Raises
    ParameterError when the recording cannot be played.
    """

    parameters_type = BagPlayerParameters

    def __init__(self, **options: Any) -> None:
        super().__init__("bag_player", **options)
        self.exit_code = 0
        self.on_end: Callable[[], object] = lambda: None
        self.published = self.late = self.loops = 0
        self.worst_lateness = 0.0
        self._warned_of_damage = False
        self._open()
        self.publishers_of = self._make_publishers()
        self.pace = Pace(self._start_ns, self.values.rate)
        self._paused = self.values.start_paused
        self._begin_stream()
        self._clock_publisher = self._make_clock()
        self._clock_due = 0.0
        self._ended = threading.Event()
        self._calls = ExecutorCalls(self)
        self.create_service(SetBool, "~/set_paused", self._on_set_paused)
        self.parameters.on_change = lambda values: self.pace.set_rate(values.rate)
        self.diagnostics.add("playing", self._report)
        self._worker = Worker(self._step, self._on_worker_error, name="bag_player")
        self._wait_for_subscribers()
        self._worker.start()

    # The recording.

    def _open(self) -> None:
        if not self.values.bag:
            raise ParameterError("bag: not given; name a rosbag2 folder, .mcap or .db3 file")
        try:
            self.bag = BagReader(self.values.bag)
        except BagError as error:
            raise ParameterError(f"bag: {error}") from error
        if not any(topic.count for topic in self.bag.topics.values()):
            raise ParameterError(f"bag: {self.bag.path}: no messages; {self.bag.contents()}")
        self._start_ns = self.bag.start_ns + round(self.values.start_offset * 1e9)
        if self._start_ns > self.bag.end_ns:
            raise ParameterError(f"start_offset: {self.values.start_offset:g} s is after the end: "
                                 f"{self.bag.path} lasts {self.bag.duration:.2f} s")
        self._warn_of_damage()

    def _warn_of_damage(self) -> None:
        if self.bag.damage and not self._warned_of_damage:
            self._warned_of_damage = True
            self.get_logger().warning(f"{self.bag.path}: {self.bag.damage}")

    def _topics_to_play(self) -> list[TopicInfo]:
        wanted = [name for name in self.values.topics if name] or list(self.bag.topics)
        for parameter, names in (("topics", wanted), ("wait_for", self._awaited())):
            missing = [name for name in names if name not in self.bag.topics
                       or (parameter == "wait_for" and name not in wanted)]
            if missing:
                raise ParameterError(f"{parameter}: {self.bag.path} does not play "
                                     f"{', '.join(missing)}; {self.bag.contents()}")
        own_clock = self.values.clock_rate > 0
        return [self.bag.topics[name] for name in wanted
                if not (own_clock and name == CLOCK_TOPIC)]

    def _awaited(self) -> list[str]:
        return [name for name in self.values.wait_for if name]

    def _make_publishers(self) -> dict[str, Publisher]:
        made: dict[str, Publisher] = {}
        skipped: list[str] = []
        for topic in self._topics_to_play():
            message_type = message_class(topic.message_type)
            if message_type is None:
                skipped.append(f"{topic.name} ({topic.message_type or 'no type'})")
                continue
            try:
                made[topic.name] = self.create_publisher(message_type, topic.name,
                                                         _offer_of(topic))
            except InvalidTopicNameException:
                skipped.append(f"{topic.name} (not a topic name of ROS 2)")
        if not made:
            raise ParameterError(f"bag: {self.bag.path}: none of its message types is installed: "
                                 f"{', '.join(skipped) or 'it has only /clock'}")
        unknown = [name for name in self._awaited() if name not in made]
        if unknown:
            raise ParameterError(f"wait_for: {', '.join(unknown)} cannot be played: its message "
                                 "type is not installed")
        if skipped:
            self.get_logger().warning(
                f"left out, as their message types are not installed: {', '.join(skipped)}")
        self.skipped = skipped
        return made

    def _make_clock(self) -> Publisher | None:
        if self.values.clock_rate == 0:
            return None
        return self.create_publisher(ClockMessage, CLOCK_TOPIC, qos.STATE_OUTPUT)

    # Beginning, pausing.

    def _begin_stream(self) -> None:
        self._stream: Iterator[StoredMessage] = self.bag.messages(
            list(self.publishers_of), start_ns=self._start_ns)
        self._next = next(self._stream, None)

    def _wait_for_subscribers(self) -> None:
        self._publish_latched()
        self._waiting_since = time.monotonic()
        self._wait_timer = self.create_timer(
            0.05, self._begin_when_awaited, clock=Clock(clock_type=ClockType.STEADY_TIME))
        self._begun = False
        self._begin_when_awaited()

    def _begin_when_awaited(self) -> None:
        missing = [name for name in self._awaited()
                   if self.publishers_of[name].get_subscription_count() == 0]
        timeout = self.values.wait_timeout
        overdue = timeout > 0 and time.monotonic() - self._waiting_since >= timeout
        if missing and not overdue:
            return
        if missing:
            self.get_logger().warning(f"begins without a subscriber of {', '.join(missing)}, "
                                      f"{timeout:g} s after the start")
        self.destroy_timer(self._wait_timer)
        self._begun = True
        self._apply_pause()
        self.get_logger().info(
            f"plays {self.bag.path}: {self.bag.duration:.2f} s, {len(self.publishers_of)} topics"
            + (", paused" if self._paused else ""))

    def _publish_latched(self) -> None:
        """What was latched before the start, and every fixed transform wherever it stands."""
        for name, publisher in self.publishers_of.items():
            topic = self.bag.topics[name]
            if not _is_latched(topic):
                continue
            stop_ns = None if _is_static_tf(topic) else self._start_ns
            for message in self.bag.messages([name], stop_ns=stop_ns):
                self.safe_publish(publisher, message.data)

    def _apply_pause(self) -> None:
        if self._begun and not self._paused:
            self.pace.resume()
        else:
            self.pace.pause()

    def _on_set_paused(self, request: SetBool.Request,
                       response: SetBool.Response) -> SetBool.Response:
        self._paused = request.data
        self._apply_pause()
        position = (self.pace.now_ns() - self.bag.start_ns) * 1e-9
        response.success = True
        response.message = f"{'paused' if request.data else 'plays'} at {position:.3f} s"
        return response

    # The worker: one message, or a short wait.

    def _step(self) -> bool:
        if self._ended.is_set():
            return False
        self._publish_clock_if_due()
        due_ns = self._next.stamp_ns if self._next else self._pass_end_ns()
        wait = self.pace.seconds_until(due_ns)
        if wait > 0:
            self._ended.wait(min(wait, self._seconds_until_clock()))
        elif self._next is None:
            self._end_pass()
        else:
            self._publish(self._next, -wait)
            self._next = next(self._stream, None)
        return True

    def _publish_clock_if_due(self) -> None:
        now = time.monotonic()
        if self._clock_publisher is None or now < self._clock_due:
            return
        period = 1.0 / self.values.clock_rate
        # After a delay the clock goes on from now: it never catches up in a burst.
        self._clock_due = max(self._clock_due + period, now)
        self.safe_publish(self._clock_publisher, ClockMessage(clock=to_time(self.pace.now_ns())))

    def _seconds_until_clock(self) -> float:
        if self._clock_publisher is None:
            return 0.05
        return max(0.0, self._clock_due - time.monotonic())

    def _publish(self, message: StoredMessage, lateness: float) -> None:
        if lateness > LATE_S:
            self.late += 1
        self.worst_lateness = max(self.worst_lateness, lateness)
        if self.safe_publish(self.publishers_of[message.topic], bytes(message.data)):
            self.published += 1

    def _pass_end_ns(self) -> int:
        return max(self.bag.end_ns, self._start_ns + _MIN_PASS_NS if self.values.loop else 0)

    def _end_pass(self) -> None:
        self._warn_of_damage()
        self.loops += 1
        if not self.values.loop:
            self._end()
            return
        self.get_logger().info(f"begins anew: time jumps back (loop {self.loops})")
        self._begin_stream()
        self.pace.jump(self._start_ns)
        self._clock_due = 0.0  # readers of /clock should know before the first message comes

    def _end(self) -> None:
        """Let the readers have everything before the end."""
        deadline = time.monotonic() + _DELIVERY_S
        for publisher in self.publishers_of.values():
            publisher.wait_for_all_acked(Duration(seconds=max(0.0, deadline - time.monotonic())))
        self.get_logger().info(
            f"end: {self.published} messages, {self.late} later than {LATE_S * 1e3:.0f} ms (worst "
            f"{self.worst_lateness * 1e3:.1f} ms), {self.drops['publish_failed']} refused by the "
            "transport")
        self._stop_stepping()

    def _on_worker_error(self, error: BaseException) -> None:
        self.get_logger().error(f"{self.bag.path}: cannot be played on: {error}")
        self.exit_code = 1
        self._stop_stepping()

    def _stop_stepping(self) -> None:
        self._ended.set()
        self._calls.submit(lambda: self.on_end())

    def release(self) -> None:
        """Stop playing and close the recording."""
        self._ended.set()
        self._worker.stop(5.0)
        self.bag.close()

    # Diagnostics.

    def _report(self) -> Report:
        duration = self.bag.duration
        values = {
            "position_s": (self.pace.now_ns() - self.bag.start_ns) * 1e-9, "duration_s": duration,
            "rate": self.values.rate, "loops": self.loops, "messages_published": self.published,
            "messages_late": self.late, "worst_lateness_ms": self.worst_lateness * 1e3,
            "topics_left_out": len(self.skipped), "publish_failed": 0, **self.drops.as_dict()}
        if self._ended.is_set():
            return OK, "has ended", values
        if not self._begun:
            return OK, f"waits for subscribers of {', '.join(self._awaited())}", values
        if self._paused:
            return OK, "paused", values
        if self.bag.damage:
            return WARN, f"damaged recording: {self.bag.damage}", values
        if self.drops["publish_failed"]:
            return WARN, "the transport refuses messages", values
        return OK, f"plays {self.bag.path}", values


def message_class(name: str) -> type | None:
    """The installed class of a type like 'std_msgs/msg/Header'; None when there is none."""
    match = _TYPE_NAME.fullmatch(name)
    if match is None:
        return None
    try:
        found = getattr(importlib.import_module(f"{match[1]}.msg"), match[2], None)
    except ImportError:
        return None
    # A recording may name any module: only what rosidl made can be published.
    return found if hasattr(type(found), "__import_type_support__") else None


def _is_static_tf(topic: TopicInfo) -> bool:
    return topic.message_type == "tf2_msgs/msg/TFMessage" and topic.name.endswith("tf_static")


def _is_latched(topic: TopicInfo) -> bool:
    return topic.latched or _is_static_tf(topic)


def _offer_of(topic: TopicInfo) -> QoSProfile:
    if _is_latched(topic):
        # Several nodes may have latched one message each on the topic: late readers get them all.
        return qos.profile(min(max(topic.count, 1), _MAX_LATCHED), latched=True)
    return qos.profile(_LARGE_DEPTH if topic.message_type in _LARGE else _DEPTH)


def main(arguments: list[str] | None = None) -> int:
    """Run the node; the process' exit code: 0 at the end, 2 when there is nothing to play."""
    made: list[BagPlayerNode] = []

    def make() -> BagPlayerNode:
        node = BagPlayerNode()
        node.on_end = node.context.try_shutdown  # which ends `run`
        made.append(node)
        return node

    code = run(make, arguments)
    return code or (made[-1].exit_code if made else 0)
