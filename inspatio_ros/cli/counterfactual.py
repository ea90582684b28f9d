# SPDX-License-Identifier: Apache-2.0
"""`inspatio counterfactual`: a recording as if the robot had driven or looked otherwise."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable
from pathlib import Path

from inspatio_ros.files.bag_observations import BagOptions, BagTopics
from inspatio_ros.imagination.backends import BACKENDS, GEOMETRIC, BackendOptions, make_backend
from inspatio_ros.imagination.engine import ImaginationEngine
from inspatio_ros.planning.counterfactual import CounterfactualOptions
from inspatio_ros.planning.counterfactual_bags import SIDECAR, write_counterfactual
from inspatio_ros.planning.mounting import read_mount

_DEFAULTS = CounterfactualOptions()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("source", type=Path, metavar="IN",
                        help="recording: rosbag2 folder or file")
    parser.add_argument("target", type=Path, metavar="OUT", help="recording to write; must not "
                        f"exist; {SIDECAR} in it tells every choice")
    shift = parser.add_argument_group("what is changed")
    shift.add_argument("--lateral", type=float, default=0.0, metavar="M",
                       help="drive so far to the left of the recorded path (negative: right)")
    shift.add_argument("--yaw", type=float, default=0.0, metavar="DEGREES",
                       help="turned so far to the left against the recorded heading")
    shift.add_argument("--height", type=float, default=0.0, metavar="M",
                       help="carry the camera so much higher")
    shift.add_argument("--mount", type=Path, metavar="FILE.yaml",
                       help="carry the camera elsewhere, perhaps with another lens: keys "
                       "relative_to, position, rotation_deg, camera (docs/planners.md)")
    kept = parser.add_argument_group("frames and labels")
    kept.add_argument("--min-coverage", type=float, default=_DEFAULTS.min_coverage,
                      help="share of pixels that must rest on what was seen; frames below are "
                      "left out and counted (default %(default)s)")
    kept.add_argument("--horizon", type=float, default=_DEFAULTS.horizon, metavar="S",
                      help="length of the labels (default %(default)s)")
    kept.add_argument("--interval", type=float, default=_DEFAULTS.interval, metavar="S",
                      help="time between two poses of a label (default %(default)s)")
    kept.add_argument("--recovery-distance", type=float, default=0.0, metavar="M",
                      help="driven until the recovery path has joined the recorded one "
                      "(default: by shift and speed)")
    kept.add_argument("--min-motion", type=float, default=_DEFAULTS.min_motion, metavar="M",
                      help="refuse a recording that drives less (default %(default)s)")
    kept.add_argument("--rate", type=float, default=0.0, metavar="HZ",
                      help="frames made at most so often (default: all)")
    _add_reading(parser.add_argument_group("how it is read and imagined"))


def _add_reading(read: argparse._ArgumentGroup) -> None:
    read.add_argument("--preset", choices=BACKENDS, default=GEOMETRIC,
                      help="what fills the holes (default %(default)s)")
    read.add_argument("--weights", default="", help="folder of the preset's weights")
    read.add_argument("--seed", type=int, default=0, help="of the preset's noise")
    read.add_argument("--width", type=int, default=0, help="of the pictures; 0: as recorded")
    read.add_argument("--base-frame", default="base_link", help="the robot's frame in tf")
    read.add_argument("--world-frame", default="odom", help="a frame at rest in tf")
    read.add_argument("--depth", default="auto",
                      choices=("auto", "sensor", "stereo", "motion", "estimate"),
                      help="where depth comes from")
    read.add_argument("--max-depth", type=float, default=80.0, metavar="M",
                      help="farther depth is taken for unknown")
    for name in ("image", "depth", "right"):
        read.add_argument(f"--{name}-topic", default="", help="instead of the one found")


def run(args: argparse.Namespace) -> int:
    """Write the recording; print what was kept and what was left out."""
    options = CounterfactualOptions(
        lateral=args.lateral, yaw=math.radians(args.yaw), height=args.height,
        mount=read_mount(args.mount) if args.mount else None, min_coverage=args.min_coverage,
        horizon=args.horizon, interval=args.interval, recovery_distance=args.recovery_distance,
        min_motion=args.min_motion, rate=args.rate)
    engine = ImaginationEngine(make_backend(BackendOptions(args.preset, args.weights)))
    try:
        content = write_counterfactual(
            args.source, args.target, options, engine,
            topics=BagTopics(image=args.image_topic, depth=args.depth_topic,
                             right=args.right_topic),
            reading=BagOptions(depth=args.depth, world_frame=args.world_frame,
                               max_depth=args.max_depth),
            base_frame=args.base_frame, width=args.width, seed=args.seed, on_frame=_progress())
    finally:
        engine.close()
    counts = content["frames"]
    kept = [row["coverage"] for row in content["per_frame"] if row["kept"]]
    print(f"{counts['kept']} frames, mean coverage {sum(kept) / len(kept):.2f}; left out: "
          f"{counts.get('below_coverage', 0)} below coverage {options.min_coverage:g}, "
          f"{counts.get('no_future', 0)} without a future, "
          f"{counts.get('no_base_pose', 0)} without a pose, {counts.get('thinned', 0)} by --rate")
    for topic, reason in sorted(content["topics_left_out"].items()):
        print(f"left out {topic}: {reason}")
    print(f"written {args.target}; every choice: {args.target / SIDECAR}")
    return 0


def _progress() -> Callable[[int, int], None] | None:
    if not sys.stderr.isatty():
        return None

    def show(kept: int, seen: int) -> None:
        print(f"\r{seen} frames, {kept} kept", end="", file=sys.stderr, flush=True)
    return show
