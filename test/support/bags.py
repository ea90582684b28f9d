# SPDX-License-Identifier: Apache-2.0
"""Small recordings for tests."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from inspatio_ros.files.bags import BagReader, BagWriter

START_NS = 1_600_000_000 * 10**9
MS = 1_000_000


def time_of(bag: BagWriter, stamp_ns: int) -> Any:
    """A builtin_interfaces/Time."""
    return bag.make("builtin_interfaces/msg/Time", sec=stamp_ns // 10**9, nanosec=stamp_ns % 10**9)


def header_of(bag: BagWriter, stamp_ns: int, frame_id: str) -> Any:
    """A std_msgs/Header."""
    return bag.make("std_msgs/msg/Header", stamp=time_of(bag, stamp_ns), frame_id=frame_id)


def transform_bytes(bag: BagWriter, stamp_ns: int, parent: str, child: str,
                    translation: Iterable[float] = (0.0, 0.0, 0.0),
                    rotation: Iterable[float] = (0.0, 0.0, 0.0, 1.0)) -> bytes:
    """A serialised TFMessage with one transform."""
    x, y, z = translation
    qx, qy, qz, qw = rotation
    transform = bag.make(
        "geometry_msgs/msg/Transform",
        translation=bag.make("geometry_msgs/msg/Vector3", x=x, y=y, z=z),
        rotation=bag.make("geometry_msgs/msg/Quaternion", x=qx, y=qy, z=qz, w=qw))
    return bag.serialize(bag.make("tf2_msgs/msg/TFMessage", transforms=[bag.make(
        "geometry_msgs/msg/TransformStamped", header=header_of(bag, stamp_ns, parent),
        child_frame_id=child, transform=transform)]))


def text_bytes(bag: BagWriter, text: str) -> bytes:
    """A serialised std_msgs/String."""
    return bag.serialize(bag.make("std_msgs/msg/String", data=text))


def write_texts(path: Path, topics: Mapping[str, Iterable[tuple[int, str]]], *,
                latched: Iterable[str] = ()) -> Path:
    """A recording of std_msgs/String: by topic, (milliseconds from START_NS, text)."""
    with BagWriter(path) as bag:
        stored = [(at, topic, text) for topic, texts in topics.items() for at, text in texts]
        for topic in topics:
            bag.add_topic(topic, "std_msgs/msg/String", latched=topic in set(latched))
        for at, topic, text in sorted(stored):
            bag.write(topic, START_NS + at * MS, text_bytes(bag, text))
    return path


def cut(bag: Path, target: Path, share: float) -> Path:
    """A copy of a recording whose data file ends after `share` of its bytes."""
    shutil.copytree(bag, target)
    (data,) = target.glob("*.mcap")
    whole = data.read_bytes()
    data.write_bytes(whole[:round(len(whole) * share)])
    return target


def copy_part(source: Path, target: Path, topics: Iterable[str] = (), *, start: float = 0.0,
              stop: float = float("inf")) -> Path:
    """A recording of the messages of `topics` (default: all) from `start` to `stop` seconds.

    What is latched is taken whole.
    """
    with BagReader(source) as bag, BagWriter(target) as writer:
        names = list(topics) or list(bag.topics)
        for name in names:
            info = bag.topics[name]
            writer.add_topic(name, info.message_type, latched=info.latched)
        for message in bag.messages(names):
            at = (message.stamp_ns - bag.start_ns) * 1e-9
            if start <= at < stop or bag.topics[message.topic].latched:
                writer.write(message.topic, message.stamp_ns, message.data)
    return target
