# SPDX-License-Identifier: Apache-2.0
"""`inspatio demo`: a recording through the real nodes; what came of it as videos and numbers."""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
import os
import shutil
import sys
import time
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from inspatio_ros.evaluation.recorded_run import METHODS, RecordedRun, RunFrame, RunScores
from inspatio_ros.evaluation.report import (
    contact_sheet,
    error_picture,
    provenance_picture,
    save_picture,
    text_table,
)
from inspatio_ros.files.bag_observations import BagObservations, BagOptions, find_topics
from inspatio_ros.files.bags import BagReader
from inspatio_ros.files.videos import VideoWriter
from inspatio_ros.imagination.backends import AUTO, BACKENDS
from inspatio_ros.share import share_folder
from inspatio_ros.viewer.page import PageOverlay, PageSeries, PageVideo, write_page

Image = npt.NDArray[np.uint8]

_MARK = "summary.json"  # a folder with this in it is an earlier demonstration's
_SHEET_ROWS = 8
_COLUMNS = ("source", "guide", "imagined", "really seen later", "provenance")
# The later frame is shown when it lies within so many pixels; only nearer ones are scored.
_SHOWN_PX = 30.0
_VIDEOS = (
    PageVideo("source", "Source", "source.mp4", "what the robot saw when it imagined"),
    PageVideo("guide", "Guide", "guide.mp4", "what geometry alone knows of the view"),
    PageVideo("imagined", "Imagined", "imagined.mp4", "the view at the planned pose"),
    PageVideo("seen", "Really seen later", "really_seen.mp4", "at the nearest pose, if any"))
_OVERLAYS = (
    PageOverlay("provenance", "Provenance (green: seen now, blue: remembered, orange: imagined)",
                "provenance.mp4", on="imagined", key="p"),
    PageOverlay("error", "Error against what was really seen (black: none or no truth)",
                "error.mp4", on="imagined", key="e"))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("--output", type=Path, default=Path("demo_out"), help="folder to write")
    parser.add_argument("--bag", type=Path, default=None,
                        help="recording with images, depth or a stereo pair, tf and a plan "
                        "(default: the sample)")
    parser.add_argument("--rate", type=float, default=1.0, help="speed of playing")
    parser.add_argument("--preset", default=AUTO, choices=BACKENDS, help="what fills the holes")
    parser.add_argument("--width", type=int, default=416, help="of the imagined images, pixels")
    parser.add_argument("--height", type=int, default=240)
    parser.add_argument("--frame-rate", type=float, default=10.0,
                        help="imagined frames a second of the way")
    parser.add_argument("--domain", type=int, default=None,
                        help="ROS domain id (default: one of its own)")


def run(args: argparse.Namespace) -> int:
    """Play, record, compare, write; 0 when all of it succeeded."""
    if importlib.util.find_spec("rclpy") is None:
        raise ValueError("no ROS 2 here (rclpy cannot be imported): `make demo` makes an "
                         "environment with it, or source your ROS installation")
    began = time.monotonic()
    recording = args.bag or share_folder("samples") / "office"
    with BagReader(recording) as reader:
        topics = find_topics(reader)
        if not topics.plan:
            raise ValueError(f"{recording}: no nav_msgs/Path to follow; {reader.contents()}")
    _prepare_folder(args.output)
    progress = Progress()
    measured, problem = _play(args, recording, topics, progress)
    progress("comparing with what was really seen")
    scores = _write_pictures(args, recording, measured)
    summary = _summary(measured, scores)
    (args.output / _MARK).write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    progress.end(f"done in {time.monotonic() - began:.0f} s")
    print(_table(summary, scores.compared))
    if not scores.compared:
        print("No imagined view lay ahead of what was seen: this machine is too busy to imagine "
              "ahead at this speed; try --rate 0.5.")
    print(f"\nOpen {(args.output / 'index.html').resolve().as_uri()}")
    if problem:
        print(f"the orbit failed: {problem}", file=sys.stderr)
    return 1 if problem else 0


def _prepare_folder(folder: Path) -> None:
    """An empty folder; an earlier demonstration in it is replaced, anything else is not."""
    if folder.exists() and any(folder.iterdir()):
        if not (folder / _MARK).exists() and not (folder / "bag").is_dir():
            raise ValueError(f"{folder} holds other things than a demonstration; choose another "
                             "--output")
        shutil.rmtree(folder)
    folder.mkdir(parents=True, exist_ok=True)


def _play(args: argparse.Namespace, recording: Path, topics: Any,
          progress: Progress) -> tuple[dict[str, Any], str]:
    from inspatio_ros.ros.demo_session import DemoSession

    overrides: Mapping[str, object] = {
        "model.preset": args.preset, "output.width": args.width, "output.height": args.height,
        "imagination.frame_rate": args.frame_rate, "imagination.on_new_plan": "finish",
        "imagination.keep_ahead": True}
    domain = args.domain if args.domain is not None else 1 + os.getpid() % 100
    with DemoSession(recording, topics, args.output, rate=args.rate, overrides=overrides,
                     domain=domain, on_progress=progress.at) as session:
        session.start()
        session.play()
        problem = session.orbit()
        return session.measured(), problem


def _write_pictures(args: argparse.Namespace, recording: Path,
                    measured: Mapping[str, Any]) -> RunScores:
    """Videos, contact sheet and page of the recorded run; its scores."""
    scores, sheet = RunScores(), _Sheet()
    coverage: list[float] = []
    errors: list[float] = []
    names = [video.file for video in _VIDEOS] + [overlay.file for overlay in _OVERLAYS]
    with ExitStack() as stack:
        source = stack.enter_context(BagReader(recording))
        run_bag = stack.enter_context(BagReader(args.output / "bag"))
        videos = [stack.enter_context(VideoWriter(args.output / name, args.frame_rate))
                  for name in names]
        options = BagOptions(min_depth=3.0 if find_topics(source).right else 0.1,
                             stereo_scale=0.5)
        for frame in RecordedRun(run_bag, BagObservations(source, options=options)):
            pictures = _pictures(frame)
            for video, picture in zip(videos, pictures, strict=True):
                video.write(picture)
            scores.add(frame)
            sheet.add(frame, pictures[:len(_COLUMNS)])
            coverage.append(frame.coverage)
            errors.append(frame.psnr)
    if not coverage:
        raise ValueError(f"{args.output / 'bag'}: no imagined frame was recorded whole")
    save_picture(args.output / "contact_sheet.png", sheet.picture())
    write_page(
        args.output, _VIDEOS, fps=args.frame_rate, frames=len(coverage),
        title="Views along the robot's way ahead, imagined live",
        subtitle=f"{recording.name}: {measured['frames']} frames along the plan at "
                 f"{measured['frame_rate']:.1f} a second, then an orbit round the last view",
        overlays=_OVERLAYS,
        series=[PageSeries("coverage", coverage, ""),
                PageSeries("PSNR against what was really seen", errors, "dB")])
    return scores


def _pictures(frame: RunFrame) -> tuple[Image, ...]:
    """In the order of the videos."""
    nearby = frame.later is not None and frame.distance <= _SHOWN_PX
    seen = frame.later.image if frame.later and nearby else np.full_like(frame.image, 24)
    return (frame.source.image, frame.guide, frame.image, seen,
            provenance_picture(frame.provenance, frame.image),
            error_picture(frame.image, frame.truth.image) if frame.truth
            else np.zeros_like(frame.image))


class _Sheet:
    """Rows of a contact sheet, spread over the run; those with a truth before all others."""

    def __init__(self) -> None:
        self._rows: list[tuple[str, tuple[Image, ...]]] = []
        self._orbit: tuple[str, tuple[Image, ...]] | None = None
        self._every, self._count = 1, 0

    def add(self, frame: RunFrame, pictures: tuple[Image, ...]) -> None:
        """Take in a frame; `pictures` in the order of the columns."""
        if not frame.following:
            if self._orbit is None or frame.time_from_start < 1.2:
                self._orbit = (f"orbit: coverage {frame.coverage:.2f}", pictures)
            return
        if frame.truth is None or frame.time_from_start < 0.4:
            return
        if self._count % self._every == 0:
            label = (f"{frame.time_from_start:.1f} s ahead: coverage {frame.coverage:.2f}, "
                     f"{frame.psnr:.1f} dB")
            self._rows.append((label, pictures))
        self._count += 1
        if len(self._rows) > _SHEET_ROWS:
            self._rows = self._rows[::2]
            self._every *= 2

    def picture(self) -> Image:
        """The sheet."""
        rows = self._rows + ([self._orbit] if self._orbit else [])
        if not rows:
            return np.zeros((16, 16, 3), np.uint8)
        return contact_sheet(_COLUMNS, rows, 300)


def _summary(measured: Mapping[str, Any], scores: RunScores) -> dict[str, Any]:
    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: plain(item) for key, item in value.items()}
        if isinstance(value, float):
            return round(value, 3) if math.isfinite(value) else None
        return value

    return dict(plain({**measured, "coverage": scores.coverage, "psnr": scores.psnr()}))


def _table(summary: Mapping[str, Any], compared: int) -> str:
    def shown(value: Any, unit: str = "") -> str:
        return "-" if value is None else f"{value:.2f}{unit}"

    latency = summary["latency_ms"]
    rows = [["frames imagined along the plan", str(summary["frames"]), ""],
            ["frames a second", shown(summary["frame_rate"]), ""],
            ["image to first frame, ms (p50, p95)", shown(latency["p50"]), shown(latency["p95"])],
            ["coverage by geometry", shown(summary["coverage"]), ""],
            [f"PSNR over {compared} frames, dB (all, covered)", "", ""],
            *([f"  {method.replace('_', ' ')}", shown(summary["psnr"][method]["all"]),
               shown(summary["psnr"][method]["covered"])] for method in METHODS)]
    return text_table(["", "", ""], rows).split("\n", 2)[2]


class Progress:
    """A bar that is redrawn on a terminal, and a line now and then elsewhere."""

    def __init__(self) -> None:
        self._live = sys.stderr.isatty()
        self._next = 0.0

    def __call__(self, what: str) -> None:
        """Say what begins now."""
        self._next = 0.0
        self.at(1.0, what)

    def at(self, done: float, what: str) -> None:
        """Show how far it is, `done` in [0, 1], and at what."""
        now = time.monotonic()
        if now < self._next:
            return
        self._next = now + (0.1 if self._live else 5.0)
        bar = "#" * round(24 * done)
        if self._live:
            print(f"\r[{bar:<24}] {what:<64}", end="", file=sys.stderr, flush=True)
        else:
            print(f"[{bar:<24}] {what}", file=sys.stderr, flush=True)

    def end(self, what: str) -> None:
        """The last line."""
        self.__call__(what)
        if self._live:
            print(file=sys.stderr)
