# SPDX-License-Identifier: Apache-2.0
"""`inspatio replay`: what imagination was worth on a recording, as JSON, CSV, HTML and a bag."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from inspatio_ros.evaluation.experiment import PROVIDERS, Experiment, checked, load_experiment
from inspatio_ros.evaluation.replay import PAGE, replay, results_table
from inspatio_ros.evaluation.report import text_table
from inspatio_ros.files.recordings import recording_name
from inspatio_ros.imagination.backends import BACKENDS


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("recording", type=Path, metavar="BAG_OR_SEQUENCE",
                        help="bag, or folder with frames.csv and calib.json")
    parser.add_argument("--experiment", type=Path, metavar="FILE.yaml",
                        help="what to do; every key of it may be left out (docs/evaluation.md)")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR",
                        help="folder for report.json, results.csv, report.html and the bag")
    parser.add_argument("--table", action="store_true",
                        help="print the results as a Markdown table")
    group = parser.add_argument_group("instead of what the experiment says")
    group.add_argument("--preset", nargs="+", choices=BACKENDS, help="what fills the holes")
    group.add_argument("--weights", type=Path, help="folder of the preset's weights")
    group.add_argument("--depth", choices=PROVIDERS, help="where depth comes from")
    group.add_argument("--features", type=Path, metavar="FILE",
                       help="EfficientNet-Lite0's weights, for the feature distance")
    group.add_argument("--horizons", type=float, nargs="+", metavar="S",
                       help="seconds after the start that are judged")
    group.add_argument("--seeds", type=int, nargs="+", help="of the preset's noise")
    group.add_argument("--stride", type=int, help="frames from start to start")
    group.add_argument("--skip", type=int, help="frames left out at the beginning")
    group.add_argument("--limit", type=int, help="frames read at most (0: all)")
    group.add_argument("--width", type=int, help="width of the pictures, pixels")


def run(args: argparse.Namespace) -> int:
    """Replay, write, and print the figures; 0 when all of it succeeded."""
    experiment = _experiment(args)
    name = recording_name(args.recording)
    content = replay(args.recording, experiment, args.out, on_start=_progress(name))
    if args.table:
        print(results_table([content]))
    else:
        print(_text(content))
    for row in content["unreached"]:
        print(f"{row['horizon_s']:g} s: {row['starts']} starts left out: {row['reason']}")
    for figure, reason in content["missing"].items():
        print(f"no {figure}: {reason}", file=sys.stderr)
    print(f"\n{content['starts']} starts, sha256 {content['digest'][:16]}; open "
          f"{(args.out / PAGE).resolve().as_uri()}", file=sys.stderr)
    return 0


def _experiment(args: argparse.Namespace) -> Experiment:
    """The experiment's file, or the defaults, with what the command line says instead."""
    experiment = load_experiment(args.experiment) if args.experiment else Experiment()
    changes: dict[str, Any] = {
        key: getattr(args, key) for key in ("stride", "skip", "limit", "width")
        if getattr(args, key) is not None}
    for key in ("preset", "horizons", "seeds"):
        if getattr(args, key) is not None:
            changes[key] = tuple(getattr(args, key))
    if args.weights is not None:
        changes["weights"] = str(args.weights)
    if args.depth is not None:
        changes["depth"] = replace(experiment.depth, provider=args.depth)
    if args.features is not None:
        changes["networks"] = replace(experiment.networks, features=str(args.features))
    return checked(replace(experiment, **changes))


def _text(content: dict[str, Any]) -> str:
    head = ["method", "horizon s", "frames", "coverage", "PSNR all", "covered", "holes", "SSIM",
            "flicker", "camera"]
    rows = [[r["method"], f"{r['horizon_s']:g}", str(r["frames"]), *(
        "-" if r[key] is None else f"{r[key]:.{digits}f}" for key, digits in (
            ("coverage", 2), ("psnr_all", 2), ("psnr_covered", 2), ("psnr_holes", 2),
            ("ssim_all", 3), ("flicker", 1), ("camera_score", 0)))] for r in content["results"]]
    return text_table(head, rows)


def _progress(name: str) -> Callable[[int], None]:
    def show(starts: int) -> None:
        if sys.stderr.isatty():
            print(f"\r{name}: start {starts}", end="", file=sys.stderr, flush=True)
    return show
