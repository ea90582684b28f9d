# SPDX-License-Identifier: Apache-2.0
"""rosbag2 recordings in and out, without ROS."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from rosbags.interfaces import (
    Connection,
    Qos,
    QosDurability,
    QosHistory,
    QosLiveliness,
    QosReliability,
    QosTime,
)
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer
from rosbags.typesys import Stores, get_types_from_idl, get_types_from_msg, get_typestore
from rosbags.typesys.store import Typestore

from inspatio_ros.files.bag_storage import BagError, StoredMessage, TopicInfo, open_storage
from inspatio_ros.share import share_folder

PACKAGE = "inspatio_ros"
_FALLBACK = Stores.ROS2_JAZZY


class BagReader:
    """A rosbag2 folder, .mcap or .db3 file: its topics, and its messages in order of recording.

    A recording that was cut off is read as far as it goes; `damage` then says in one sentence what
    was lost, else it is empty. Use as a context manager, or call `close`.
    Raises BagError when there is no recording or nothing in it can be read.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._storage = open_storage(self.path)
        self._types = _types_of(self._storage.topics.values())

    @property
    def topics(self) -> dict[str, TopicInfo]:
        """The topics that were recorded, by name."""
        return self._storage.topics

    @property
    def damage(self) -> str:
        """What is lost of the recording; empty when nothing is, as far as it has been read."""
        return self._storage.damage

    @property
    def start_ns(self) -> int:
        """Stamp of the first message."""
        return self._storage.start_ns

    @property
    def end_ns(self) -> int:
        """Stamp of the last message."""
        return self._storage.end_ns

    @property
    def duration(self) -> float:
        """Seconds from the first message to the last."""
        return (self.end_ns - self.start_ns) * 1e-9

    def messages(self, topics: Collection[str] = (), *, start_ns: int | None = None,
                 stop_ns: int | None = None) -> Iterator[StoredMessage]:
        """Messages of these topics (default: all) recorded in [start, stop).

        Raises BagError on a topic that was not recorded.
        """
        missing = [name for name in topics if name not in self.topics]
        if missing:
            raise BagError(f"{self.path}: no topic {', '.join(missing)}; {self.contents()}")
        return self._storage.messages(topics or self.topics.keys(), start_ns, stop_ns)

    def deserialize(self, message: StoredMessage) -> Any:
        """The message as an object with ROS's field names; arrays are numpy's.

        Raises BagError naming the topic when its bytes or its type cannot be understood.
        """
        kind = self.topics[message.topic].message_type
        try:
            return self._types.deserialize_cdr(message.data, kind)
        except Exception as error:  # rosbags lets through whatever the bytes provoke
            raise BagError(f"{self.path}: {message.topic} at {message.stamp_ns} ns is no readable "
                           f"{kind}: {error}") from error

    def contents(self) -> str:
        """The topics in words, for error messages."""
        lines = [f"{t.name} ({t.message_type}, {t.count})" for t in self.topics.values()]
        return "it has " + (", ".join(sorted(lines)) or "no topics")

    def close(self) -> None:
        """Close the files."""
        self._storage.close()

    def __enter__(self) -> BagReader:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        self.close()


def _types_of(topics: Collection[TopicInfo]) -> Typestore:
    """The recording's own definitions, so that another distribution's messages are read right."""
    store = get_typestore(_FALLBACK)
    found: dict[str, Any] = {}
    for topic in topics:
        if topic.definition:
            parse = get_types_from_idl if topic.definition_is_idl else None
            found.update(parse(topic.definition) if parse else get_types_from_msg(
                topic.definition, topic.message_type))
    if found:
        # A store of its own: definitions that differ from the fallback's must win.
        own = get_typestore(Stores.EMPTY)
        own.register({**{name: store.fielddefs[name] for name in store.fielddefs
                         if name not in found}, **found})
        return own
    return store


class BagWriter:
    """Writes a rosbag2 folder: MCAP with zstd chunks, metadata of version 9.

    The folder must not exist. definitions: text of message types beyond ROS' own and this
    package's, by name like 'pkg/msg/Name'. Use as a context manager, or call `close`, which writes
    the index. Raises BagError.
    """

    def __init__(self, path: str | Path, definitions: Mapping[str, str] | None = None) -> None:
        self.path = Path(path)
        if self.path.exists():
            raise BagError(f"{self.path} exists; a recording is never overwritten")
        self._types = get_typestore(_FALLBACK)
        for name, text in {**package_definitions(), **(definitions or {})}.items():
            self._types.register(get_types_from_msg(text, name))
        self._writer = Writer(self.path, version=9, storage_plugin=StoragePlugin.MCAP)
        self._writer.set_compression(CompressionMode.STORAGE, CompressionFormat.ZSTD)
        self._writer.open()
        self._connections: dict[str, Connection] = {}
        self.counts: dict[str, int] = {}

    def knows(self, message_type: str) -> bool:
        """Whether messages of this type can be written."""
        return message_type in self._types.fielddefs

    def add_topic(self, topic: str, message_type: str, *, latched: bool = False,
                  depth: int = 10) -> None:
        """Announce a topic. latched: offered transient local, so that players offer it again."""
        if not self.knows(message_type):
            raise BagError(f"{topic}: no definition of {message_type}")
        self._connections[topic] = self._writer.add_connection(
            topic, message_type, typestore=self._types,
            offered_qos_profiles=[_offer(latched, depth)])
        self.counts[topic] = 0

    def write(self, topic: str, stamp_ns: int, data: bytes | memoryview) -> None:
        """Add a serialised message."""
        self._writer.write(self._connections[topic], stamp_ns, data)
        self.counts[topic] += 1

    def make(self, message_type: str, **fields: Any) -> Any:
        """A message object of a known type."""
        return self._types.types[message_type](**fields)

    def serialize(self, message: Any) -> bytes:
        """The bytes of a message made with `make`."""
        return bytes(self._types.serialize_cdr(message, message.__msgtype__))

    def close(self) -> None:
        """Write index and metadata."""
        self._writer.close()

    def __enter__(self) -> BagWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        self.close()


def package_definitions() -> dict[str, str]:
    """The text of this package's own messages, by type name."""
    return {f"{PACKAGE}/msg/{path.stem}": path.read_text(encoding="utf-8")
            for path in sorted(share_folder("msg").glob("*.msg"))}


def _offer(latched: bool, depth: int) -> Qos:
    forever = QosTime(9223372036, 854775807)  # rmw's RMW_DURATION_INFINITE
    return Qos(
        history=QosHistory.KEEP_LAST, depth=depth, reliability=QosReliability.RELIABLE,
        durability=QosDurability.TRANSIENT_LOCAL if latched else QosDurability.VOLATILE,
        deadline=forever, lifespan=forever, liveliness=QosLiveliness.AUTOMATIC,
        liveliness_lease_duration=forever, avoid_ros_namespace_conventions=False)
