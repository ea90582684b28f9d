# SPDX-License-Identifier: Apache-2.0
"""The bag player, over DDS: bytes, timing, /clock, latched topics, pause, loop, bad recordings."""

from __future__ import annotations

import random
import shutil
import string
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.parameter import Parameter
from rclpy.serialization import deserialize_message
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CompressedImage
from std_msgs.msg import String
from std_srvs.srv import SetBool
from tf2_msgs.msg import TFMessage

from inspatio_ros.files.bags import BagReader, BagWriter
from inspatio_ros.messages.poses import to_ns
from inspatio_ros.ros import qos
from inspatio_ros.ros.bag_player_node import BagPlayerNode, message_class
from inspatio_ros.ros.parameters import ParameterError
from inspatio_ros.share import share_folder
from support.bags import MS, START_NS, cut, text_bytes, transform_bytes, write_texts
from support.ros import Graph, start_node

WORDS = "/words"
Play = Callable[..., BagPlayerNode]


@pytest.fixture
def talk(tmp_path: Path) -> Path:
    """One second of words, one each 20 ms."""
    return write_texts(tmp_path / "talk", {WORDS: [(at, f"{at}") for at in range(0, 1001, 20)]})


class Listener:
    """What came on one topic: (steady seconds, bytes)."""

    def __init__(self, ros: Graph, topic: str, kind: type, *, latched: bool = False) -> None:
        self.kind = kind
        self.got: list[tuple[float, bytes]] = []
        ros.node.create_subscription(
            kind, topic, lambda data: self.got.append((time.monotonic(), bytes(data))),
            qos.profile(500, latched=latched), raw=True)

    @property
    def messages(self) -> list[Any]:
        return [deserialize_message(data, self.kind) for _, data in self.got]

    @property
    def texts(self) -> list[str]:
        return [message.data for message in self.messages]


def is_same(data: bytes, recorded: bytes) -> bool:
    """Whether this came of that: DDS puts up to three zeros behind it."""
    rest = data[len(recorded):]
    return data.startswith(recorded) and len(rest) < 4 and not any(rest)


@pytest.fixture
def play(ros: Graph) -> Iterator[Play]:
    """Makes players in this process, which end with the test."""
    made: list[BagPlayerNode] = []

    def make(**values: Any) -> BagPlayerNode:
        node = BagPlayerNode(context=ros.context, parameter_overrides=[
            Parameter(name, value=str(value) if isinstance(value, Path) else value)
            for name, value in values.items()])
        made.append(node)
        ros.add(node)
        return node

    yield make
    for node in made:
        node.release()


def noise(length: int, seed: int) -> str:
    """Text that hardly compresses."""
    return "".join(random.Random(seed).choices(string.ascii_letters, k=length))


def set_paused(ros: Graph, paused: bool) -> Any:
    return ros.call(SetBool, "/bag_player/set_paused", SetBool.Request(data=paused))


def stamps(clock: Listener) -> list[int]:
    return [to_ns(message.clock) for message in clock.messages]


def jumps(clock: Listener) -> int:
    """How often time went back."""
    times = stamps(clock)
    return sum(later < sooner for sooner, later in zip(times, times[1:], strict=False))


def test_everything_comes_as_recorded_in_real_time_and_the_program_ends_with_0(
        ros: Graph, talk: Path) -> None:
    words, clock = Listener(ros, WORDS, String), Listener(ros, "/clock", Clock)
    with start_node("bag_player", {"bag": talk, "wait_for": f"['{WORDS}']"}) as process:
        ros.spin_until(lambda: not process.running, 40.0, "the end")
        assert process.wait_for_exit() == 0, process.output
        assert "end: 51 messages" in process.output
    with BagReader(talk) as bag:
        recorded = list(bag.messages())
    assert len(words.got) == len(recorded)
    for (_, data), message in zip(words.got, recorded, strict=True):
        assert is_same(data, message.data)
    # A busy machine delays some; the least delayed of each half tell how time passed.
    delays = [when - (message.stamp_ns - START_NS) * 1e-9
              for (when, _), message in zip(words.got, recorded, strict=True)]
    assert min(delays[26:]) == pytest.approx(min(delays[:26]), abs=0.15), delays
    times = stamps(clock)
    assert times == sorted(times)
    assert START_NS <= times[0] < START_NS + 500 * MS
    assert START_NS + 900 * MS < times[-1] <= START_NS + 1100 * MS


def test_clock_passes_at_the_rate(ros: Graph, play: Play, talk: Path) -> None:
    clock, words = Listener(ros, "/clock", Clock), Listener(ros, WORDS, String)
    play(bag=talk, rate=0.25, clock_rate=50.0, wait_for=[WORDS])
    ros.spin_until(lambda: words.got and len(clock.got) > 40, what="clock")
    moving = [(when, stamp) for (when, _), stamp in zip(clock.got, stamps(clock), strict=True)
              if stamp > START_NS]
    passed = (moving[-1][1] - moving[0][1]) * 1e-9 / (moving[-1][0] - moving[0][0])
    assert passed == pytest.approx(0.25, rel=0.2)
    rate = (len(moving) - 1) / (moving[-1][0] - moving[0][0])
    assert 25.0 < rate < 55.0


def test_pause_stops_clock_and_messages_until_resumed(ros: Graph, play: Play, talk: Path) -> None:
    clock, words = Listener(ros, "/clock", Clock), Listener(ros, WORDS, String)
    play(bag=talk, wait_for=[WORDS])
    ros.spin_until(lambda: len(words.got) > 5, what="words")
    answer = set_paused(ros, True)
    assert answer.success
    assert answer.message.startswith("paused at ")
    ros.spin_for(0.2)
    count, stood = len(words.got), stamps(clock)[-1]
    ros.spin_for(0.5)
    assert len(words.got) == count
    assert stamps(clock)[-1] == stood
    set_paused(ros, False)
    ros.spin_until(lambda: len(words.got) == 51, what="the rest")
    assert words.texts == [str(at) for at in range(0, 1001, 20)]
    assert stamps(clock) == sorted(stamps(clock))


def test_starts_paused_and_at_the_offset(ros: Graph, play: Play, talk: Path) -> None:
    words, clock = Listener(ros, WORDS, String), Listener(ros, "/clock", Clock)
    play(bag=talk, start_paused=True, start_offset=0.5)
    ros.spin_until(lambda: len(clock.got) > 20, what="clock")
    assert set(stamps(clock)) == {START_NS + 500 * MS}
    assert not words.got
    set_paused(ros, False)
    ros.spin_until(lambda: len(words.got) == 26, what="the second half")
    assert words.texts[0] == "500"


def test_the_rate_may_change_while_playing(ros: Graph, play: Play, talk: Path) -> None:
    words = Listener(ros, WORDS, String)
    node = play(bag=talk, rate=0.05, wait_for=[WORDS])
    ros.spin_until(lambda: len(words.got) > 0, what="the first word")
    node.set_parameters([Parameter("rate", value=10.0)])
    begin = time.monotonic()
    ros.spin_until(lambda: len(words.got) == 51, what="the rest")
    assert time.monotonic() - begin < 5.0  # 20 s at the first rate


def test_who_comes_late_gets_all_fixed_transforms(ros: Graph, play: Play, tmp_path: Path) -> None:
    with BagWriter(tmp_path / "tf") as bag:
        bag.add_topic("/tf_static", "tf2_msgs/msg/TFMessage", latched=True)
        bag.add_topic("/map_name", "std_msgs/msg/String", latched=True)
        bag.add_topic(WORDS, "std_msgs/msg/String")
        bag.write("/map_name", START_NS, text_bytes(bag, "office"))
        for at, child in ((0, "camera"), (10, "lidar"), (900, "gripper")):
            bag.write("/tf_static", START_NS + at * MS,
                      transform_bytes(bag, START_NS, "base_link", child))
        bag.write(WORDS, START_NS + 1000 * MS, text_bytes(bag, "end"))
    play(bag=tmp_path / "tf", start_offset=0.5, start_paused=True)
    ros.spin_for(0.3)
    fixed = Listener(ros, "/tf_static", TFMessage, latched=True)
    name = Listener(ros, "/map_name", String, latched=True)
    ros.spin_until(lambda: len(fixed.got) == 3 and name.got, what="latched messages")
    children = {message.transforms[0].child_frame_id for message in fixed.messages}
    assert children == {"camera", "lidar", "gripper"}
    assert name.texts == ["office"]


def test_a_loop_begins_anew_with_time_jumping_back(ros: Graph, talk: Path) -> None:
    words, clock = Listener(ros, WORDS, String), Listener(ros, "/clock", Clock)
    with start_node("bag_player", {"bag": talk, "loop": True, "rate": 4.0,
                                   "wait_for": f"['{WORDS}']"}) as process:
        ros.spin_until(lambda: words.texts.count("0") == 3 and jumps(clock) == 2, 40.0,
                       "the third loop")
        assert process.interrupt() == 0
        assert "begins anew" in process.output
    assert words.texts[:102] == [str(at) for at in range(0, 1001, 20)] * 2

def test_a_loop_over_one_message_does_not_flood(ros: Graph, play: Play, tmp_path: Path) -> None:
    bag = write_texts(tmp_path / "one", {WORDS: [(0, "only")]})
    words = Listener(ros, WORDS, String)
    play(bag=bag, loop=True, clock_rate=0.0, wait_for=[WORDS])
    ros.spin_until(lambda: len(words.got) >= 2, what="two loops")
    ros.spin_for(1.0)
    assert len(words.got) <= 14


def test_chosen_topics_and_the_clock_of_the_recording(
        ros: Graph, play: Play, tmp_path: Path) -> None:
    with BagWriter(tmp_path / "bag") as bag:
        for topic in ("/a", "/b"):
            bag.add_topic(topic, "std_msgs/msg/String")
        bag.add_topic("/clock", "rosgraph_msgs/msg/Clock")
        time_42 = bag.make("builtin_interfaces/msg/Time", sec=42, nanosec=0)
        for at in range(0, 300, 100):
            for topic in ("/a", "/b"):
                bag.write(topic, START_NS + at * MS, text_bytes(bag, topic))
            bag.write("/clock", START_NS + at * MS, bag.serialize(
                bag.make("rosgraph_msgs/msg/Clock", clock=time_42)))
    heard = {topic: Listener(ros, topic, String) for topic in ("/a", "/b")}
    clock = Listener(ros, "/clock", Clock)
    first = play(bag=tmp_path / "bag", topics=["/b", "/clock"], wait_for=["/b"])
    ros.spin_until(lambda: len(heard["/b"].got) == 3, what="/b")
    assert not heard["/a"].got
    assert min(stamps(clock)) >= START_NS  # its own, not the recorded one
    first.release()
    ros.executor.remove_node(first)
    play(bag=tmp_path / "bag", clock_rate=0.0, wait_for=["/clock"])
    ros.spin_until(lambda: stamps(clock).count(42 * 10**9) == 3, what="the recorded clock")
    assert stamps(clock)[-3:] == [42 * 10**9] * 3


def test_begins_without_subscribers_when_they_do_not_come(ros: Graph, talk: Path) -> None:
    with start_node("bag_player", {"bag": talk, "wait_for": f"['{WORDS}']", "rate": 10.0,
                                   "wait_timeout": 0.3}) as process:
        assert process.wait_for_exit() == 0
        assert f"begins without a subscriber of {WORDS}, 0.3 s" in process.output


def test_diagnostics_count(ros: Graph, play: Play, talk: Path) -> None:
    found: dict[str, str] = {}

    def keep(array: DiagnosticArray) -> None:
        for status in array.status:
            if status.name == "bag_player: playing":
                found.update({pair.key: pair.value for pair in status.values},
                             message=status.message)

    ros.node.create_subscription(DiagnosticArray, "/diagnostics", keep, qos.DIAGNOSTICS)
    node = play(bag=talk, start_paused=True)
    ros.spin_until(lambda: found.get("message") == "paused", what="paused")
    assert float(found["duration_s"]) == 1.0
    assert found["messages_published"] == "0"
    set_paused(ros, False)
    ros.spin_until(lambda: node.published == 51, what="all messages")
    node.diagnostics.publish()
    ros.spin_until(lambda: found["messages_published"] == "51", what="the count")
    assert set(found) >= {"messages_late", "worst_lateness_ms", "publish_failed", "position_s"}


def test_late_messages_are_counted(ros: Graph, play: Play, talk: Path) -> None:
    node = play(bag=talk, start_paused=True)
    # As after a machine that slept: half of the recording is overdue at once.
    node.pace.jump(START_NS + 510 * MS)
    set_paused(ros, False)
    ros.spin_until(lambda: node.published == 51, what="all messages")
    assert node.late >= 24
    assert node.worst_lateness > 0.5


def test_a_cut_recording_is_played_as_far_as_it_goes(ros: Graph, tmp_path: Path) -> None:
    with BagWriter(tmp_path / "whole") as bag:
        bag.add_topic(WORDS, "std_msgs/msg/String")
        for number in range(100):
            # Several chunks in all, so that some are whole.
            bag.write(WORDS, START_NS + number * 20 * MS,
                      text_bytes(bag, f"{number} " + noise(60_000, number)))
    broken = cut(tmp_path / "whole", tmp_path / "broken", 0.6)
    words = Listener(ros, WORDS, String)
    with start_node("bag_player", {"bag": broken, "loop": True,
                                   "wait_for": f"['{WORDS}']"}) as process:
        ros.spin_until(lambda: sum(data[8:10] == b"0 " for _, data in words.got) == 3, 40.0,
                       "the third loop")
        assert process.interrupt() == 0
        assert process.output.count("[WARN]") == 1, process.output
        assert "messages over" in process.output
    numbers = [int(text.split()[0]) for text in words.texts]
    played = numbers.index(0, 1)
    assert 20 < played < 90
    assert numbers == [*range(played), *range(played), 0]


def test_types_that_are_not_installed_are_left_out_with_one_warning(
        ros: Graph, tmp_path: Path) -> None:
    with BagWriter(tmp_path / "bag", {"alien_msgs/msg/Thing": "int32 x\n"}) as bag:
        bag.add_topic("/thing", "alien_msgs/msg/Thing")
        bag.add_topic(WORDS, "std_msgs/msg/String")
        for at in range(3):
            bag.write("/thing", START_NS + at * MS,
                      bag.serialize(bag.make("alien_msgs/msg/Thing", x=at)))
            bag.write(WORDS, START_NS + at * MS, text_bytes(bag, "word"))
    words = Listener(ros, WORDS, String)
    with start_node("bag_player", {"bag": tmp_path / "bag",
                                   "wait_for": f"['{WORDS}']"}) as process:
        ros.spin_until(lambda: not process.running, 40.0, "the end")
        assert process.wait_for_exit() == 0
        assert process.output.count("[WARN]") == 1
        assert "/thing (alien_msgs/msg/Thing)" in process.output
    assert len(words.got) == 3


def test_a_missing_recording_ends_the_program_with_2_and_one_line() -> None:
    with start_node("bag_player", {"bag": "/nowhere/at/all"}) as process:
        assert process.wait_for_exit() == 2
        assert process.output.strip() == "error: bag: /nowhere/at/all: no such recording"


def _no_messages(folder: Path) -> Path:
    return write_texts(folder / "empty", {WORDS: []})


def _alien(folder: Path) -> Path:
    with BagWriter(folder / "alien", {"alien_msgs/msg/Thing": "int32 x\n"}) as bag:
        bag.add_topic("/thing", "alien_msgs/msg/Thing")
        bag.write("/thing", START_NS, bag.serialize(bag.make("alien_msgs/msg/Thing", x=1)))
    return folder / "alien"


def _garbage(folder: Path) -> Path:
    (folder / "bag.mcap").write_bytes(b"not a recording at all" * 20)
    return folder / "bag.mcap"


def _text_file(folder: Path) -> Path:
    (folder / "notes.txt").write_text("hello")
    return folder / "notes.txt"


def _words(folder: Path) -> Path:
    return write_texts(folder / "words", {WORDS: [(0, "a"), (100, "b")]})


@pytest.mark.parametrize(("make", "values", "message"), [
    (_no_messages, {}, "no messages; it has /words"),
    (_alien, {}, r"none of its message types is installed: /thing \(alien_msgs/msg/Thing\)"),
    (_garbage, {}, "nothing can be read"),
    (_text_file, {}, "not a rosbag2"),
    (_words, {"start_offset": 2.0}, "2 s is after the end: .* lasts 0.10 s"),
    (_words, {"topics": ["/word"]}, r"topics: .* /word; it has /words"),
    (_words, {"wait_for": ["/image"]}, r"wait_for: .* /image; it has /words"),
    (lambda folder: "", {}, "bag: not given"),
    (_words, {"rate": 0.0}, "rate: 0.0 is outside"),
    (_words, {"lop": True}, "did you mean 'loop'"),
])
def test_what_cannot_be_played_is_refused(
        play: Play, tmp_path: Path, make: Callable[[Path], Any], values: dict[str, Any],
        message: str) -> None:
    with pytest.raises(ParameterError, match=message) as raised:
        play(bag=make(tmp_path), **values)
    assert "\n" not in str(raised.value)


def test_only_message_types_are_imported() -> None:
    assert message_class("std_msgs/msg/String") is String
    for name in ("antigravity/msg/Thing", "std_msgs/msg/Strin", "os/path/join", "", "String",
                 "std_msgs/msg/__doc__", "nowhere_msgs/msg/Thing"):
        assert message_class(name) is None, name


def test_the_sample_recording_plays_whole(ros: Graph) -> None:
    sample = share_folder("samples") / "office"
    image = "/camera/color/image_raw/compressed"
    pictures = Listener(ros, image, CompressedImage)
    with start_node("bag_player", {"bag": sample, "rate": 6.0,
                                   "wait_for": f"['{image}']"}) as process:
        ros.spin_until(lambda: not process.running, 60.0, "the end")
        assert process.wait_for_exit() == 0
        assert "[WARN]" not in process.output
    ros.spin_for(0.2)
    assert len(pictures.got) >= 88  # depth 2 at six times the speed: a slow reader may miss some
    with BagReader(sample) as bag:
        recorded = [message.data for message in bag.messages([image])]
    assert all(any(is_same(data, one) for one in recorded) for _, data in pictures.got)


def test_the_folder_may_be_a_file(ros: Graph, play: Play, talk: Path, tmp_path: Path) -> None:
    (data,) = talk.glob("*.mcap")
    alone = Path(shutil.copy(data, tmp_path / "alone.mcap"))
    words = Listener(ros, WORDS, String)
    play(bag=alone, rate=20.0, wait_for=[WORDS])
    ros.spin_until(lambda: len(words.got) == 51, what="all words")
