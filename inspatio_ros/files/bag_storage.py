# SPDX-License-Identifier: Apache-2.0
"""The files of a rosbag2: whole ones through `rosbags`, cut-off ones as far as they go.

A recorder that was killed, a full disk or an interrupted copy leave an MCAP without its index or a
database with missing pages. Both hold their messages in order, so everything before the cut can
be read. Formats: mcap.dev/spec and the rosbag2_storage_sqlite3 schema.
"""

from __future__ import annotations

import io
import sqlite3
import struct
import sys
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, Protocol

from lz4.frame import decompress as lz4_decompress
from rosbags.interfaces import Connection, MessageDefinitionFormat, QosDurability
from rosbags.rosbag2 import Reader, ReaderError

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

MAGIC = b"\x89MCAP0\r\n"
_HEADER, _FOOTER, _SCHEMA, _CHANNEL, _MESSAGE, _CHUNK, _DATA_END = 1, 2, 3, 4, 5, 6, 15
# No recorder makes chunks near this size; a forged one must not fill the memory.
_MAX_RECORD = 1 << 30
SUFFIXES = (".mcap", ".db3")

# What reading damaged data raises: rosbags, zstd, lz4 and struct each have their own.
DAMAGE = (ReaderError, zstd.ZstdError, RuntimeError, struct.error, EOFError, sqlite3.Error,
          UnicodeDecodeError, IndexError, OverflowError)


class BagError(ValueError):
    """A recording that cannot be used; names the path and says what it has."""


@dataclass(frozen=True)
class TopicInfo:
    """One topic of a recording.

    latched: offered transient local. definition, definition_is_idl: of the message type as the
    recording has it; empty when it does not.
    """

    name: str
    message_type: str
    count: int
    latched: bool = False
    best_effort: bool = False
    definition: str = ""
    definition_is_idl: bool = False


class StoredMessage(NamedTuple):
    """A serialised message and when it was recorded."""

    topic: str
    stamp_ns: int
    data: bytes


class Storage(Protocol):
    """An opened recording. damage: one sentence on what is lost, empty when nothing is."""

    topics: dict[str, TopicInfo]
    start_ns: int
    end_ns: int
    damage: str

    def messages(self, topics: Collection[str], start_ns: int | None,
                 stop_ns: int | None) -> Iterator[StoredMessage]:
        """Messages of these topics within [start, stop), in order of recording."""

    def close(self) -> None:
        """Close the files."""


def open_storage(path: Path) -> Storage:
    """The recording at `path`: a rosbag2 folder, or one .mcap or .db3 file.

    Raises BagError when there is none or nothing in it can be read.
    """
    if not path.exists():
        raise BagError(f"{path}: no such recording")
    if path.is_dir() and not (path / "metadata.yaml").exists():
        files = sorted(f for f in path.iterdir() if f.suffix in SUFFIXES)
        if not files:
            raise BagError(f"{path}: not a rosbag2: no metadata.yaml, no .mcap and no .db3 file")
        # A recorder writes the metadata at its end: this one did not come to it.
        return _Recovered(files, "it has no metadata.yaml (the recorder did not end properly)")
    if path.is_file() and path.suffix not in SUFFIXES:
        raise BagError(f"{path}: not a rosbag2 folder, .mcap or .db3 file")
    try:
        return _Whole(path)
    except DAMAGE as error:
        files = [path] if path.is_file() else sorted(
            f for f in path.iterdir() if f.suffix in SUFFIXES)
        return _Recovered(files, str(error).rstrip("."))


class _Whole:
    """A recording with its index, through rosbags."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._reader = Reader(path)
        self._reader.open()
        self.damage = ""
        self.topics: dict[str, TopicInfo] = {}
        for connection in self._reader.connections:
            _add_topic(self.topics, _topic_of(connection))
        self.start_ns = self._reader.start_time if self._reader.message_count else 0
        self.end_ns = self._reader.end_time - 1 if self._reader.message_count else 0

    def messages(self, topics: Collection[str], start_ns: int | None,
                 stop_ns: int | None) -> Iterator[StoredMessage]:
        connections = [c for c in self._reader.connections if c.topic in topics]
        if not connections:
            return
        last_ns = self.start_ns
        try:
            for connection, last_ns, data in self._reader.messages(
                    connections, start_ns, stop_ns):
                yield StoredMessage(connection.topic, last_ns, data)
        except DAMAGE as error:
            self.damage = (f"damaged {(last_ns - self.start_ns) * 1e-9:.2f} s after its start, "
                           f"what follows is lost: {error}")

    def close(self) -> None:
        if self._reader.is_open:
            self._reader.close()


class _Recovered:
    """Recordings without an index, read from the start to where they break off.

    Read once through on opening, to know topics and times; one chunk in memory at a time.
    """

    def __init__(self, files: list[Path], reason: str) -> None:
        self._files = files
        self.topics: dict[str, TopicInfo] = {}
        self.damage = ""
        self.start_ns = self.end_ns = 0
        counts: Counter[str] = Counter()
        first = last = None
        for message in self.messages((), None, None):
            counts[message.topic] += 1
            first = message.stamp_ns if first is None else min(first, message.stamp_ns)
            last = message.stamp_ns if last is None else max(last, message.stamp_ns)
        if first is None or last is None:
            raise BagError(f"{', '.join(map(str, files))}: nothing can be read: {reason}; "
                           f"{self.damage or 'no message in it'}")
        self.topics = {name: TopicInfo(
            name, info.message_type, counts[name], info.latched, info.best_effort,
            info.definition, info.definition_is_idl)
            for name, info in self.topics.items() if counts[name]}
        self.start_ns, self.end_ns = first, last
        lost = self.damage or "every message could be read"
        self.damage = (f"{reason}; {sum(counts.values())} messages over "
                       f"{(last - first) * 1e-9:.2f} s were recovered; {lost}")

    def messages(self, topics: Collection[str], start_ns: int | None,
                 stop_ns: int | None) -> Iterator[StoredMessage]:
        summary = self.damage
        for path in self._files:
            scan = _scan_mcap if path.suffix == ".mcap" else _scan_sqlite
            for message in scan(path, self):
                inside = ((start_ns is None or message.stamp_ns >= start_ns)
                          and (stop_ns is None or message.stamp_ns < stop_ns))
                if inside and (not topics or message.topic in topics):
                    yield message
        # The scan has told of the break again; what was found on opening says more.
        self.damage = summary or self.damage

    def close(self) -> None:
        """Nothing stays open."""


def _add_topic(topics: dict[str, TopicInfo], info: TopicInfo) -> None:
    held = topics.get(info.name)
    if held is not None and held.message_type == info.message_type:
        info = TopicInfo(info.name, info.message_type, held.count + info.count,
                         held.latched or info.latched, held.best_effort and info.best_effort,
                         held.definition or info.definition, held.definition_is_idl)
    topics[info.name] = info


def _topic_of(connection: Connection) -> TopicInfo:
    offers = getattr(connection.ext, "offered_qos_profiles", [])
    return TopicInfo(
        connection.topic, connection.msgtype, connection.msgcount,
        any(offer.durability == QosDurability.TRANSIENT_LOCAL for offer in offers),
        bool(offers) and all(offer.reliability.name == "BEST_EFFORT" for offer in offers),
        connection.msgdef.data, connection.msgdef.format == MessageDefinitionFormat.IDL)


def _scan_mcap(path: Path, found: _Recovered) -> Iterator[StoredMessage]:
    """Messages of an MCAP up to where it breaks off; topics and damage go into `found`."""
    size = path.stat().st_size
    schemas: dict[int, tuple[str, str, bool]] = {}
    channels: dict[int, str] = {}
    with path.open("rb") as file:
        if file.read(len(MAGIC)) != MAGIC:
            found.damage = f"{path.name} is not an MCAP file"
            return
        read_to = file.tell()
        try:
            for opcode, record in _records(file):
                if opcode in (_FOOTER, _DATA_END):
                    return
                if opcode == _CHUNK:
                    inner = list(_records(io.BytesIO(_unpacked(record))))
                else:
                    inner = [(opcode, record)]
                yield from _messages_of(inner, schemas, channels, found.topics)
                read_to = file.tell()
        except DAMAGE as error:
            found.damage = (f"{path.name} breaks off at byte {read_to} of {size}: the "
                            f"{size - read_to} bytes that follow are lost ({error})")


def _records(file: BinaryIO) -> Iterator[tuple[int, bytes]]:
    while head := file.read(9):
        if len(head) < 9:
            raise EOFError("cut in a record's head")
        opcode, length = struct.unpack("<BQ", head)
        if length > _MAX_RECORD:
            raise EOFError(f"a record claims {length} bytes")
        record = file.read(length)
        if len(record) < length:
            raise EOFError("cut in a record")
        yield opcode, record


def _unpacked(chunk: bytes) -> bytes:
    _, _, size, _ = struct.unpack_from("<QQQI", chunk)
    compression, at = _text(chunk, 28)
    (length,) = struct.unpack_from("<Q", chunk, at)
    data = chunk[at + 8:at + 8 + length]
    if size > _MAX_RECORD:
        raise EOFError(f"a chunk claims {size} bytes")
    if compression == "":
        return data
    unpack = {"zstd": zstd.decompress, "lz4": lz4_decompress}.get(compression)
    if unpack is None:
        raise EOFError(f"a chunk with unknown compression '{compression[:20]}'")
    unpacked: bytes = unpack(data)
    return unpacked


def _text(data: bytes, at: int) -> tuple[str, int]:
    (length,) = struct.unpack_from("<I", data, at)
    return data[at + 4:at + 4 + length].decode(), at + 4 + length


def _messages_of(records: list[tuple[int, bytes]], schemas: dict[int, tuple[str, str, bool]],
                 channels: dict[int, str], topics: dict[str, TopicInfo],
                 ) -> list[StoredMessage]:
    """The messages among these records, by time; schemas and channels are taken note of."""
    messages: list[StoredMessage] = []
    for opcode, record in records:
        if opcode == _SCHEMA:
            name, at = _text(record, 2)
            encoding, at = _text(record, at)
            definition, _ = _text(record, at)
            schemas[struct.unpack_from("<H", record)[0]] = (name, definition, "idl" in encoding)
        elif opcode == _CHANNEL:
            number, schema = struct.unpack_from("<HH", record)
            topic, at = _text(record, 4)
            _, at = _text(record, at)
            qos = record[at:]
            name, definition, is_idl = schemas.get(schema, ("", "", False))
            channels[number] = topic
            topics.setdefault(topic, TopicInfo(
                topic, name, 0, b"transient_local" in qos or b"durability: 1" in qos,
                b"best_effort" in qos, definition, is_idl))
        elif opcode == _MESSAGE:
            number, _, stamp_ns = struct.unpack_from("<HIQ", record)
            if number in channels:
                messages.append(StoredMessage(channels[number], stamp_ns, record[22:]))
    return sorted(messages, key=lambda message: message.stamp_ns)


def _scan_sqlite(path: Path, found: _Recovered) -> Iterator[StoredMessage]:
    """Messages of a database up to its first damaged page; topics and damage go into `found`."""
    count = 0
    database = sqlite3.connect(f"file:{path}?mode=ro&immutable=1", uri=True)
    try:
        # Else nothing at all is read of a file with fewer pages than its head says.
        database.execute("PRAGMA writable_schema=ON")
        topics: dict[int, str] = {}
        definitions = _sqlite_definitions(database)
        for row in database.execute("SELECT id, name, type, offered_qos_profiles FROM topics"):
            number, name, kind, qos = row
            topics[number] = name
            definition, is_idl = definitions.get(kind, ("", False))
            found.topics.setdefault(name, TopicInfo(
                name, kind, 0, "transient_local" in qos or "durability: 1" in qos,
                "best_effort" in qos, definition, is_idl))
        rows = database.execute("SELECT topic_id, timestamp, data FROM messages ORDER BY id")
        for number, stamp_ns, data in rows:
            count += 1
            if number in topics:
                yield StoredMessage(topics[number], stamp_ns, data)
    except sqlite3.Error as error:
        found.damage = f"{path.name} breaks off after {count} messages ({error})"
    finally:
        database.close()


def _sqlite_definitions(database: sqlite3.Connection) -> dict[str, tuple[str, bool]]:
    tables = {row[0] for row in database.execute("SELECT name FROM sqlite_master")}
    if "message_definitions" not in tables:  # before rosbag2 of Iron
        return {}
    rows: list[Any] = database.execute(
        "SELECT topic_type, encoding, encoded_message_definition FROM message_definitions"
    ).fetchall()
    return {kind: (text, "idl" in encoding) for kind, encoding, text in rows}
