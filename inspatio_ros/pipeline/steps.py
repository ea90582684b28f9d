# SPDX-License-Identifier: Apache-2.0
"""Steps that are done once: a result folder appears whole or not at all, with what it was made of.

A folder is built beside its place and renamed into it, its record written last. Whoever is killed
leaves a `.part` folder, which the next run throws away; a result whose record does not have the
same fingerprint is made anew.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

RECORD = "inspatio_step.json"


class StepError(ValueError):
    """A step that cannot run now; says why."""


def fingerprint(values: Mapping[str, Any]) -> str:
    """SHA-256 of plain values; equal values give equal fingerprints."""
    text = json.dumps(values, sort_keys=True, allow_nan=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def read_record(folder: Path) -> dict[str, Any] | None:
    """What a finished step noted, or None when the folder holds none that can be read."""
    try:
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except ValueError:  # cut off by a full disk or by hand: not finished
        return None
    return record if isinstance(record, dict) else None


def is_done(folder: Path, key: str) -> bool:
    """Whether `folder` holds the result of the step with this fingerprint."""
    record = read_record(folder)
    return record is not None and record.get("fingerprint") == key


def write_record(folder: Path, key: str, notes: Mapping[str, Any] | None = None) -> None:
    """Note that `folder` holds the result with this fingerprint, whole or not at all."""
    partial = folder / f"{RECORD}.part"
    with partial.open("w", encoding="utf-8") as stream:
        stream.write(json.dumps({"fingerprint": key, **(notes or {})}, indent=1, default=str)
                     + "\n")
        stream.flush()
        os.fsync(stream.fileno())
    os.replace(partial, folder / RECORD)


@contextmanager
def building(folder: Path, key: str) -> Iterator[tuple[Path, dict[str, Any]]]:
    """A new folder to write into, which takes the place of `folder` when all went well.

    Gives it with a dictionary of plain values to note. When the body raises, nothing is left.
    """
    part = folder.with_name(folder.name + ".part")
    old = folder.with_name(folder.name + ".old")
    for leftover in (part, old):
        shutil.rmtree(leftover, ignore_errors=True)
    part.mkdir(parents=True)
    notes: dict[str, Any] = {}
    try:
        yield part, notes
        write_record(part, key, notes)
        if folder.exists():
            os.replace(folder, old)
        os.replace(part, folder)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise
    shutil.rmtree(old, ignore_errors=True)


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Keep other runs away from `folder` meanwhile. Raises StepError when one is at work there."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    lock = folder.with_name(f".{folder.name}.lock")
    with lock.open("w") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StepError(f"{folder}: another run is writing there") from None
        yield
        lock.unlink(missing_ok=True)
