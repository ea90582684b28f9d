# SPDX-License-Identifier: Apache-2.0
"""One recording of many, scored in hindsight: what a worker of `many` does."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

import inspatio_ros
from inspatio_ros.evaluation.hindsight import HindsightOptions, as_json, evaluate
from inspatio_ros.evaluation.many import Job, Outcome
from inspatio_ros.evaluation.report import contact_sheet, error_picture, provenance_picture
from inspatio_ros.files.bag_observations import BagOptions
from inspatio_ros.files.recordings import open_recording
from inspatio_ros.imagination.engine import ImaginationEngine
from inspatio_ros.imagination.request import ImaginedFrame
from inspatio_ros.memory.world_memory import MemoryOptions

# Rows of one contact sheet; more would not be looked at.
_SHEET_ROWS = 24
_SHEET_COLUMNS = ("guide", "imagined", "really seen", "provenance", "error")


@dataclasses.dataclass(frozen=True)
class Settings:
    """How recordings are read, imagined and judged. sheet: whether to make a contact sheet."""

    preset: str
    weights: str
    hindsight: HindsightOptions
    memory: MemoryOptions
    reading: BagOptions
    sheet: bool = True

    def plain(self) -> dict[str, Any]:
        """Everything that results depend on beside the recording, as plain values."""
        weights = Path(self.weights)
        files = sorted(p for p in weights.rglob("*") if p.is_file()) if self.weights else []
        return {**dataclasses.asdict(self), "version": inspatio_ros.__version__,
                "weights": [[p.relative_to(weights).as_posix(), p.stat().st_size]
                            for p in files] or self.weights}


def score(job: Job, on_start: Callable[[int], None] | None = None) -> Outcome:
    """The hindsight report of a recording. Raises ValueError or OSError when it has none."""
    settings: Settings = job.settings
    engine = _engine(settings.preset, settings.weights)
    sheet = _Sheet()
    with open_recording(job.path, options=settings.reading) as frames:
        report = evaluate(
            job.name, frames, engine, settings.hindsight, memory=settings.memory,
            on_frame=sheet.add if settings.sheet else None, on_start=on_start)
    return Outcome(as_json(report), picture=sheet.jpeg())


@functools.lru_cache(maxsize=1)
def _engine(preset: str, weights: str) -> ImaginationEngine:
    """The same for all recordings that one process does."""
    from inspatio_ros.imagination.backends import BackendOptions, make_backend  # loads torch

    return ImaginationEngine(make_backend(BackendOptions(preset, weights)))


class _Sheet:
    """Some of the compared frames for a contact sheet; whenever it is full every second leaves."""

    def __init__(self) -> None:
        self._rows: list[tuple[str, list[npt.NDArray[np.uint8]]]] = []
        self._every, self._seen = 1, 0

    def add(self, frame: ImaginedFrame, truth: npt.NDArray[np.uint8], horizon: float) -> None:
        """Take in one comparison."""
        if self._seen % self._every == 0:
            label = (f"{frame.source_stamp_ns * 1e-9:.2f} s + {horizon:g} s: coverage "
                     f"{frame.support:.2f}")
            self._rows.append((label, [
                frame.guide.image, frame.image, truth,
                provenance_picture(frame.provenance, frame.image),
                error_picture(frame.image, truth)]))
        self._seen += 1
        if len(self._rows) > _SHEET_ROWS:
            self._rows = self._rows[::2]
            self._every *= 2

    def jpeg(self) -> bytes:
        """The sheet; empty when nothing was compared."""
        if not self._rows:
            return b""
        sheet = contact_sheet(_SHEET_COLUMNS, self._rows, 300)
        _, encoded = cv2.imencode(".jpg", cv2.cvtColor(sheet, cv2.COLOR_RGB2BGR))
        return bytes(encoded)
