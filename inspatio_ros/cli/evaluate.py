# SPDX-License-Identifier: Apache-2.0
"""`inspatio evaluate`: hindsight scores of recordings, beside baselines."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from inspatio_ros.evaluation import many
from inspatio_ros.evaluation.hindsight import HindsightOptions
from inspatio_ros.evaluation.report import markdown_table, text_table
from inspatio_ros.evaluation.scored import Settings, score
from inspatio_ros.files.bag_observations import BagOptions
from inspatio_ros.imagination.backends import AUTO, BACKENDS
from inspatio_ros.memory.world_memory import MemoryOptions


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("recordings", nargs="+", metavar="RECORDING",
                        help="bag, folder with frames.csv and calib.json, or a quoted pattern of "
                        "them like 'bags/**'")
    parser.add_argument("--out", type=Path,
                        help="folder for report.json, report.csv, report.md and a contact sheet a "
                        "recording; recordings whose result is there are not done again")
    spread = parser.add_argument_group("many recordings")
    spread.add_argument("--engine", default=many.AUTO, choices=many.ENGINES,
                        help="where recordings are done: one after the other, in processes, on a "
                        "Ray cluster; auto: processes when there are several")
    spread.add_argument("--workers", type=int, default=0, metavar="N",
                        help="recordings at once (0: one a processor core)")
    spread.add_argument("--ray-address", default="", metavar="ADDRESS",
                        help="of a running Ray cluster (default: one of this machine)")
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
    settings = _settings(args)
    jobs = many.make_jobs(many.find_recordings(args.recordings), settings)
    engine = many.Engine(args.engine, args.workers, ray_address=args.ray_address)
    merged = many.evaluate_many(jobs, score, engine, settings.plain(), args.out, on_done=_tell,
                                say=_say)
    if merged.resumed:
        _say(f"{merged.resumed} of {len(jobs)} recordings were done before")
    if args.out and merged.reports:
        (args.out / "report.md").write_text(summary(merged.reports) + "\n", encoding="utf-8")
    if merged.errors:
        _say(f"{len(merged.errors)} of {len(jobs)} recordings could not be evaluated: "
             + ", ".join(merged.errors))
    return 1 if merged.errors else 0


def _settings(args: argparse.Namespace) -> Settings:
    return Settings(
        args.preset, args.weights,
        HindsightOptions(tuple(args.horizons), args.stride, width=args.width, skip=args.skip,
                         limit=args.limit, seed=args.seed),
        MemoryOptions(capacity=2_000_000, max_radius=args.max_radius, voxel_size=args.voxel_size),
        BagOptions(min_depth=args.min_depth, max_depth=args.max_depth,
                   stereo_scale=args.stereo_scale, world_frame=args.world_frame,
                   time_offset=args.time_offset),
        sheet=args.out is not None)


def _say(sentence: str) -> None:
    print(sentence, file=sys.stderr, flush=True)


def _tell(job: many.Job, outcome: many.Outcome) -> None:
    """One recording is done."""
    if outcome.report is None:
        _say(f"{job.name}: {outcome.error}")
        return
    report = outcome.report
    camera = report["camera"]
    print(f"{job.name}: {report['starts']} starts, {camera['width']}x{camera['height']}, "
          f"sha256 {report['digest'][:16]}")
    print(text_table(*_by_method(report)) + "\n", flush=True)


def _by_method(report: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Head and rows: one row a horizon and method."""
    head = ["method", "horizon s", "frames", "coverage", "PSNR all", "covered", "holes", "SSIM"]
    return head, [[
        r["method"], f"{r['horizon_s']:g}", str(r["frames"]), _number(r["coverage"]),
        _number(r["psnr_all"]), _number(r["psnr_covered"]), _number(r["psnr_holes"]),
        _number(r["ssim_all"], 3)] for r in report["results"]]


def _number(value: float | None, digits: int = 2) -> str:
    return "nan" if value is None else f"{value:.{digits}f}"


def summary(reports: Sequence[Mapping[str, Any]]) -> str:
    """All recordings in one Markdown table: PSNR over all pixels, and over the covered ones."""
    methods = list(dict.fromkeys(r["method"] for report in reports for r in report["results"]))
    head = ["recording", "s", "frames", "coverage", *(f"{m}, all" for m in methods),
            *(f"{m}, covered" for m in methods), *(f"{m}, SSIM" for m in methods[-1:])]
    rows = []
    for report in reports:
        for horizon in dict.fromkeys(r["horizon_s"] for r in report["results"]):
            by = {r["method"]: r for r in report["results"] if r["horizon_s"] == horizon}
            first = by[next(iter(by))]
            best = max(by, key=lambda m: by[m]["psnr_all"] or 0.0)
            everywhere = [_number(by[m]["psnr_all"]) if m in by else "" for m in methods]
            rows.append([
                report["recording"], f"{horizon:g}", str(first["frames"]),
                _number(first["coverage"]),
                *(f"**{text}**" if m == best else text
                  for m, text in zip(methods, everywhere, strict=True)),
                *(_number(by[m]["psnr_covered"]) if m in by else "" for m in methods),
                *(_number(by[m]["ssim_all"], 3) if m in by else "" for m in methods[-1:])])
    return markdown_table(head, rows)
