# SPDX-License-Identifier: Apache-2.0
"""`inspatio evaluate`: hindsight scores of recordings, beside baselines."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from inspatio_ros.evaluation.hindsight import (
    HindsightOptions,
    HindsightReport,
    Result,
    as_json,
    evaluate,
)
from inspatio_ros.evaluation.report import (
    contact_sheet,
    error_picture,
    markdown_table,
    provenance_picture,
    save_picture,
    text_table,
)
from inspatio_ros.files.bag_observations import BagOptions
from inspatio_ros.files.recordings import open_recording, recording_name
from inspatio_ros.imagination.backends import AUTO, BACKENDS, BackendOptions, make_backend
from inspatio_ros.imagination.engine import ImaginationEngine
from inspatio_ros.imagination.request import ImaginedFrame
from inspatio_ros.memory.world_memory import MemoryOptions

# Rows of one contact sheet; more would not be looked at.
_SHEET_ROWS = 24
_SHEET_COLUMNS = ("guide", "imagined", "really seen", "provenance", "error")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("recordings", nargs="+", type=Path, metavar="RECORDING",
                        help="bag, or folder with frames.csv and calib.json")
    parser.add_argument("--out", type=Path,
                        help="folder for report.json, report.md and a contact sheet a recording")
    parser.add_argument("--preset", default=AUTO, choices=BACKENDS, help="what fills the holes")
    parser.add_argument("--weights", default="", help="folder of the preset's weights")
    parser.add_argument("--horizons", type=float, nargs="+", default=[0.5, 1.0, 2.0],
                        metavar="S", help="seconds after the start that are judged")
    parser.add_argument("--stride", type=int, default=5, help="frames from start to start")
    parser.add_argument("--skip", type=int, default=0, help="frames left out at the beginning")
    parser.add_argument("--limit", type=int, default=0, help="frames read at most (0: all)")
    parser.add_argument("--width", type=int, default=416, help="width of the pictures, pixels")
    parser.add_argument("--seed", type=int, default=0)
    reading = parser.add_argument_group("what the camera sees and the memory holds")
    reading.add_argument("--min-depth", type=float, default=0.1, metavar="M")
    reading.add_argument("--max-depth", type=float, default=80.0, metavar="M")
    reading.add_argument("--stereo-scale", type=float, default=0.5,
                         help="size at which stereo pairs are matched")
    reading.add_argument("--world-frame", default="odom", help="of a bag's tf")
    reading.add_argument("--time-offset", type=float, default=0.0, metavar="S",
                         help="added to image stamps before their pose is looked up")
    reading.add_argument("--max-radius", type=float, default=30.0, metavar="M")
    reading.add_argument("--voxel-size", type=float, default=0.02, metavar="M")


def run(args: argparse.Namespace) -> int:
    """Evaluate each recording; a bad one is reported, the others go on, the status says so."""
    engine = ImaginationEngine(make_backend(BackendOptions(args.preset, args.weights)))
    options = HindsightOptions(tuple(args.horizons), args.stride, width=args.width,
                               skip=args.skip, limit=args.limit, seed=args.seed)
    memory = MemoryOptions(capacity=2_000_000, max_radius=args.max_radius,
                           voxel_size=args.voxel_size)
    reading = BagOptions(min_depth=args.min_depth, max_depth=args.max_depth,
                         stereo_scale=args.stereo_scale, world_frame=args.world_frame,
                         time_offset=args.time_offset)
    reports, failed = [], 0
    for path in args.recordings:
        name = recording_name(path)
        sheet = _Sheet()
        try:
            with open_recording(path, options=reading) as frames:
                report = evaluate(name, frames, engine, options, memory=memory,
                                  on_frame=sheet.add, on_start=_progress(name))
        except (ValueError, OSError) as error:
            print(f"\r{name}: {error}", file=sys.stderr)
            failed += 1
            continue
        print(f"\r{name}: {report.starts} starts, {report.camera.width}x{report.camera.height}, "
              f"sha256 {report.digest[:16]}")
        print(text_table(*_by_method(report)) + "\n", flush=True)
        reports.append(report)
        if args.out:
            args.out.mkdir(parents=True, exist_ok=True)
            sheet.save(args.out / f"{name}.jpg")
    engine.close()
    if args.out and reports:
        _write(args.out, options, reports)
    return 1 if failed else 0


def _write(folder: Path, options: HindsightOptions, reports: Sequence[HindsightReport]) -> None:
    content = {"options": vars(options), "reports": [as_json(report) for report in reports]}
    (folder / "report.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    (folder / "report.md").write_text(summary(reports) + "\n", encoding="utf-8")


def _progress(name: str) -> Callable[[int], None]:
    def show(starts: int) -> None:
        if sys.stderr.isatty():
            print(f"\r{name}: start {starts}", end="", file=sys.stderr, flush=True)
    return show


def _by_method(report: HindsightReport) -> tuple[list[str], list[list[str]]]:
    """Head and rows: one row a horizon and method."""
    head = ["method", "horizon s", "frames", "coverage", "PSNR all", "covered", "holes", "SSIM"]
    return head, [[
        r.method, f"{r.horizon_s:g}", str(r.frames), f"{r.coverage:.2f}", f"{r.psnr_all:.2f}",
        f"{r.psnr_covered:.2f}", f"{r.psnr_holes:.2f}", f"{r.ssim_all:.3f}"]
        for r in report.results]


def summary(reports: Sequence[HindsightReport]) -> str:
    """All recordings in one Markdown table: PSNR over all pixels, and over the covered ones."""
    methods = list(dict.fromkeys(r.method for report in reports for r in report.results))
    head = ["recording", "s", "frames", "coverage", *(f"{m}, all" for m in methods),
            *(f"{m}, covered" for m in methods), *(f"{m}, SSIM" for m in methods[-1:])]
    rows = []
    for report in reports:
        for horizon in dict.fromkeys(r.horizon_s for r in report.results):
            by: dict[str, Result] = {
                r.method: r for r in report.results if r.horizon_s == horizon}
            best = max(methods, key=lambda m: by[m].psnr_all)
            rows.append([
                report.recording, f"{horizon:g}", str(by[methods[0]].frames),
                f"{by[methods[0]].coverage:.2f}",
                *(f"**{by[m].psnr_all:.2f}**" if m == best else f"{by[m].psnr_all:.2f}"
                  for m in methods),
                *(f"{by[m].psnr_covered:.2f}" for m in methods),
                *(f"{by[m].ssim_all:.3f}" for m in methods[-1:])])
    return markdown_table(head, rows)


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

    def save(self, path: Path) -> None:
        """Write the sheet."""
        if self._rows:
            save_picture(path, contact_sheet(_SHEET_COLUMNS, self._rows, 300))
