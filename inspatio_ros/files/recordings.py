# SPDX-License-Identifier: Apache-2.0
"""One way to open whatever holds posed pictures with depth: a bag or a sequence folder."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from inspatio_ros.files.bag_observations import BagObservations, BagOptions, BagTopics
from inspatio_ros.files.bags import BagReader
from inspatio_ros.files.sequences import Sequence, SequenceError, SequenceOptions
from inspatio_ros.sensing.observation import Observation


@contextmanager
def open_recording(
    path: str | Path, topics: BagTopics | None = None, options: BagOptions | None = None
) -> Iterator[Iterator[Observation]]:
    """The observations of a bag or of a folder with frames.csv, in time order.

    Raises BagError or SequenceError, naming what is missing, before the first observation.
    """
    folder = Path(path)
    if (folder / "frames.csv").is_file():
        reading = options or BagOptions()
        sequence = Sequence(folder, SequenceOptions(
            reading.min_depth, reading.max_depth, reading.flying_pixel_jump,
            reading.stereo_scale))
        if not sequence.has_depth:
            raise SequenceError(f"{folder}: has neither depth pictures nor a right camera")
        yield iter(sequence)
        return
    with BagReader(folder) as bag:
        yield iter(BagObservations(bag, topics, options))


def recording_name(path: str | Path) -> str:
    """A short name for tables: the folder's, or its parent's when it is just called bag."""
    folder = Path(path).resolve()
    return folder.parent.name if folder.stem == "bag" else folder.stem
