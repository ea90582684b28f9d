# SPDX-License-Identifier: Apache-2.0
"""A result folder: five videos, facts of each frame, and the page that plays them."""

from __future__ import annotations

import csv
import json
from array import array
from pathlib import Path

import numpy as np
import numpy.typing as npt

from inspatio_ros.files.videos import VideoWriter
from inspatio_ros.memory.guide import Guide
from inspatio_ros.sensing.observation import Provenance
from inspatio_ros.viewer.page import PageOverlay, PageSeries, PageVideo, write_page

Picture = npt.NDArray[np.uint8]

SOURCE, RENDER, MASK = "source.mp4", "render.mp4", "mask.mp4"
PREDICTION, PROVENANCE = "prediction.mp4", "provenance.mp4"
PAGE, FRAMES, POSES = "index.html", "frames.csv", "poses.json"
COLUMNS = ("frame", "source_frame", "observed", "memory", "imagined")
# Labels are flat areas: a lower constant costs little and keeps them apart after decoding.
_LABEL_CRF = 10


class ResultWriter:
    """Writes the videos of one clip, frame by frame, then the page; use as a context manager.

    predict: also prediction and provenance. Raises OSError when the disk is full.
    """

    def __init__(self, folder: Path, frame_rate: float, *, predict: bool) -> None:
        self.folder = folder
        self.frame_rate = frame_rate
        self.frames = 0
        self._rows = array("d")  # COLUMNS of each frame
        names = (SOURCE, RENDER, MASK) + ((PREDICTION, PROVENANCE) if predict else ())
        self._videos: dict[str, VideoWriter] = {}
        self._open: list[VideoWriter] = []
        try:
            for name in names:
                crf = _LABEL_CRF if name in (MASK, PROVENANCE) else 18
                self._videos[name] = VideoWriter(folder / name, frame_rate, crf=crf)
                self._open.append(self._videos[name])
        except BaseException:
            self._close()
            raise

    def write(self, source_frame: int, source: Picture, guide: Guide,
              prediction: Picture | None = None,
              provenance: Picture | None = None) -> None:
        """Add a frame: uint8 RGB pictures, provenance as labels [H, W]."""
        known = guide.provenance >= Provenance.MEMORY
        pictures = {SOURCE: source, RENDER: guide.image,
                    MASK: _grey(np.where(known, np.uint8(255), np.uint8(0)))}
        labels = guide.provenance if provenance is None else provenance
        if prediction is not None:
            pictures[PREDICTION], pictures[PROVENANCE] = prediction, _grey(labels)
        for name, picture in pictures.items():
            self._videos[name].write(picture)
        shares = [float(np.count_nonzero(labels == label) / labels.size) for label in (
            Provenance.OBSERVED, Provenance.MEMORY, Provenance.IMAGINED)]
        self._rows.extend([self.frames, source_frame, *shares])
        self.frames += 1

    def finish(self, title: str, subtitle: str, poses: npt.NDArray[np.float64],
               camera: dict[str, float]) -> None:
        """Close the videos and write the tables and the page."""
        self._close()
        with (self.folder / FRAMES).open("w", encoding="utf-8", newline="") as stream:
            writer = csv.writer(stream)
            writer.writerow(COLUMNS)
            rows = np.frombuffer(self._rows).reshape(-1, len(COLUMNS))
            writer.writerows((int(n), int(s), f"{a:.4f}", f"{b:.4f}", f"{c:.4f}")
                             for n, s, a, b, c in rows)
        # Row by row: a list of all numbers would take more memory than the pictures.
        with (self.folder / POSES).open("w", encoding="utf-8") as stream:
            stream.write('{"convention": "world_from_camera", "camera": '
                         f'{json.dumps(camera)}, "poses": [')
            for number, pose in enumerate(poses):
                values = ", ".join(f"{value:.9g}" for value in pose.ravel())
                stream.write(f"{',' if number else ''}\n[{values}]")
            stream.write("\n]}\n")
        videos = [PageVideo("source", "Source", SOURCE),
                  PageVideo("guide", "Guide", RENDER, "what geometry knows")]
        overlays = [PageOverlay("mask", "Mask", MASK, "guide", "m")]
        if PREDICTION in self._videos:
            videos.append(PageVideo("prediction", "Prediction", PREDICTION))
            overlays.append(
                PageOverlay("provenance", "Provenance", PROVENANCE, "prediction", "p"))
        write_page(
            self.folder, videos, fps=self.frame_rate, frames=self.frames, title=title,
            subtitle=subtitle, overlays=overlays,
            series=[PageSeries("backed by geometry", list(rows[:, 2] + rows[:, 3]))])

    def _close(self) -> None:
        while self._open:
            self._open.pop().close()

    def __enter__(self) -> ResultWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            self._close()


def _grey(labels: Picture) -> Picture:
    return np.repeat(labels[..., None], 3, axis=2)
