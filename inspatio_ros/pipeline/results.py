# SPDX-License-Identifier: Apache-2.0
"""A result folder: videos, facts of each frame, and the page that plays them."""

from __future__ import annotations

import csv
import json
import math
from array import array
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt

from inspatio_ros.files.videos import VideoWriter
from inspatio_ros.memory.guide import Guide
from inspatio_ros.pipeline.truth import error_of
from inspatio_ros.sensing.observation import Provenance
from inspatio_ros.viewer.page import PageOverlay, PageSeries, PageVideo, write_page

Picture = npt.NDArray[np.uint8]

SOURCE, RENDER, MASK = "source.mp4", "render.mp4", "mask.mp4"
PREDICTION, PROVENANCE, ERROR = "prediction.mp4", "provenance.mp4", "error.mp4"
PAGE, FRAMES, POSES = "index.html", "frames.csv", "poses.json"
COLUMNS = ("frame", "source_frame", "observed", "memory", "imagined", "truth_frame", "error",
           "psnr")
_WHOLE = ("frame", "source_frame", "truth_frame")
# Labels are flat areas: a lower constant costs little and keeps them apart after decoding.
_LABEL_CRF = 10


def mean_coverage(folder: Path) -> float | None:
    """Share of all pixels of a result that geometry backs; None where it has no frames.csv."""
    try:
        with (folder / FRAMES).open(newline="") as file:
            shares = [float(row["observed"]) + float(row["memory"])
                      for row in csv.DictReader(file)]
    except FileNotFoundError:
        return None
    return sum(shares) / len(shares) if shares else None


class ResultWriter:
    """Writes the videos of one clip, frame by frame, then the page; use as a context manager.

    predict: also prediction and provenance. judge: also the error of the prediction. Raises
    OSError when the disk is full.
    """

    def __init__(self, folder: Path, frame_rate: float, *, predict: bool,
                 judge: bool = False) -> None:
        self.folder = folder
        self.frame_rate = frame_rate
        self.frames = 0
        self._rows = array("d")  # COLUMNS of each frame
        names = (SOURCE, RENDER, MASK) + ((PREDICTION, PROVENANCE) if predict else ())
        names += (ERROR,) if judge else ()
        self._videos: dict[str, VideoWriter] = {}
        self._open: list[VideoWriter] = []
        try:
            for name in names:
                crf = 18 if name in (SOURCE, RENDER, PREDICTION) else _LABEL_CRF
                self._videos[name] = VideoWriter(folder / name, frame_rate, crf=crf)
                self._open.append(self._videos[name])
        except BaseException:
            self._close()
            raise

    def write(self, source_frame: int, source: Picture, guide: Guide,
              prediction: Picture | None = None,
              provenance: Picture | None = None,
              truth: tuple[int, Picture] | None = None) -> None:
        """Add a frame: uint8 RGB pictures, provenance as labels [H, W].

        truth: a frame of the recording from the same pose, its number and picture.
        """
        known = guide.provenance >= Provenance.MEMORY
        pictures = {SOURCE: source, RENDER: guide.image,
                    MASK: _grey(np.where(known, np.uint8(255), np.uint8(0)))}
        labels = guide.provenance if provenance is None else provenance
        if prediction is not None:
            pictures[PREDICTION], pictures[PROVENANCE] = prediction, _grey(labels)
        judged = (math.nan, math.nan, math.nan)
        if truth is not None and prediction is not None:
            error, mean, psnr = error_of(prediction, truth[1])
            pictures[ERROR], judged = _grey(error), (truth[0], mean, psnr)
        elif ERROR in self._videos:
            pictures[ERROR] = np.zeros_like(source)
        for name, picture in pictures.items():
            self._videos[name].write(picture)
        shares = [float(np.count_nonzero(labels == label) / labels.size) for label in (
            Provenance.OBSERVED, Provenance.MEMORY, Provenance.IMAGINED)]
        self._rows.extend([self.frames, source_frame, *shares, *judged])
        self.frames += 1

    def finish(self, title: str, subtitle: str, poses: npt.NDArray[np.float64],
               camera: dict[str, float]) -> None:
        """Close the videos and write the tables and the page."""
        self._close()
        with (self.folder / FRAMES).open("w", encoding="utf-8", newline="") as stream:
            writer = csv.writer(stream)
            writer.writerow(COLUMNS)
            rows = np.frombuffer(self._rows).reshape(-1, len(COLUMNS))
            writer.writerows([_cell(name, value) for name, value in zip(COLUMNS, row, strict=True)]
                             for row in rows)
        # Row by row: a list of all numbers would take more memory than the pictures.
        with (self.folder / POSES).open("w", encoding="utf-8") as stream:
            stream.write('{"convention": "world_from_camera", "camera": '
                         f'{json.dumps(camera)}, "poses": [')
            for number, pose in enumerate(poses):
                values = ", ".join(f"{value:.9g}" for value in pose.ravel())
                stream.write(f"{',' if number else ''}\n[{values}]")
            stream.write("\n]}\n")
        self._write_page(title, subtitle, dict(zip(COLUMNS, rows.T, strict=True)))

    def _write_page(self, title: str, subtitle: str,
                    columns: Mapping[str, npt.NDArray[np.float64]]) -> None:
        videos = [PageVideo("source", "Source", SOURCE),
                  PageVideo("guide", "Guide", RENDER, "what geometry knows")]
        overlays = [PageOverlay("mask", "Mask", MASK, "guide", "m")]
        series = [PageSeries("backed by geometry", list(columns["observed"] + columns["memory"]))]
        if PREDICTION in self._videos:
            videos.append(PageVideo("prediction", "Prediction", PREDICTION))
            overlays.append(PageOverlay(
                "provenance", "Provenance", PROVENANCE, "prediction", "p", "labels"))
            series.append(PageSeries("imagined", list(columns["imagined"])))
        if ERROR in self._videos:
            overlays.append(PageOverlay(
                "error", "Error where the recording looked from here too", ERROR, "prediction",
                "e", "heat"))
            series += [PageSeries("error against the recording", list(columns["error"])),
                       PageSeries("PSNR against the recording", list(columns["psnr"]), "dB")]
        write_page(self.folder, videos, fps=self.frame_rate, frames=self.frames, title=title,
                   subtitle=subtitle, overlays=overlays, series=series)

    def _close(self) -> None:
        while self._open:
            self._open.pop().close()

    def __enter__(self) -> ResultWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            self._close()


def _cell(name: str, value: float) -> str:
    if not math.isfinite(value):
        return ""
    return str(int(value)) if name in _WHOLE else f"{value:.4f}"


def _grey(labels: Picture) -> Picture:
    return np.repeat(labels[..., None], 3, axis=2)
