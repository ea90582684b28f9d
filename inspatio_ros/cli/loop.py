# SPDX-License-Identifier: Apache-2.0
"""`inspatio loop`: a planner drives through imagined views, episode by episode."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path

from inspatio_ros.files.bag_observations import BagOptions
from inspatio_ros.files.videos import VideoWriter
from inspatio_ros.imagination.backends import BACKENDS, GEOMETRIC, BackendOptions, make_backend
from inspatio_ros.imagination.engine import ImaginationEngine
from inspatio_ros.planning.closed_loop import ClosedLoop, End, LoopOptions
from inspatio_ros.planning.footprint import Footprint
from inspatio_ros.planning.pursuit import PursuitOptions, PursuitPlanner, reference_scorer
from inspatio_ros.planning.recorded_scenery import open_recorded_scenery
from inspatio_ros.planning.scenery import Scenery, StreetScenery
from inspatio_ros.planning.vehicles import VEHICLES, make_vehicle

PLANNERS = ("scored", "plain")
_DEFAULTS = LoopOptions()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("bag", type=Path, nargs="?", metavar="BAG",
                        help="recording to drive through (default: the analytic street)")
    parser.add_argument("--out", type=Path, metavar="DIR",
                        help="folder for episodes.json with every moment, and videos")
    parser.add_argument("--video", action="store_true", help="write what was seen, with --out")
    parser.add_argument("--episodes", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0, help="of the first episode")
    parser.add_argument("--planner", choices=PLANNERS, default="scored",
                        help="choose among scored candidates, or follow the route")
    parser.add_argument("--vehicle", choices=VEHICLES, default=VEHICLES[0])
    parser.add_argument("--duration", type=float, default=_DEFAULTS.duration, metavar="S")
    parser.add_argument("--step", type=float, default=_DEFAULTS.step, metavar="S",
                        help="of the simulation (default %(default)s)")
    parser.add_argument("--speed", type=float, default=_DEFAULTS.target_speed, metavar="M/S",
                        help="target speed (default %(default)s)")
    parser.add_argument("--min-coverage", type=float, default=_DEFAULTS.min_coverage,
                        help="an episode ends as unsupported below it (default %(default)s)")
    group = parser.add_argument_group("with a recording")
    group.add_argument("--preset", choices=BACKENDS, default=GEOMETRIC,
                       help="what fills the holes (default %(default)s)")
    group.add_argument("--weights", default="", help="folder of the preset's weights")
    group.add_argument("--width", type=int, default=240, help="of the views, pixels")
    group.add_argument("--base-frame", default="base_link")
    group.add_argument("--world-frame", default="odom")
    group.add_argument("--ground", type=float, default=0.0, metavar="M",
                       help="z of the ground below the base's origin (a camera carried at 1.4 m: "
                       "-1.4)")


def run(args: argparse.Namespace) -> int:
    """Drive, print a line an episode, write; 0 whatever happened in the episodes."""
    if args.episodes < 1:
        raise ValueError(f"--episodes {args.episodes}: at least one")
    if args.video and args.out is None:
        raise ValueError("--video needs --out")
    if args.out is not None:
        args.out.mkdir(parents=True, exist_ok=True)
    options = replace(_DEFAULTS, duration=args.duration, step=args.step, target_speed=args.speed,
                      min_coverage=args.min_coverage,
                      footprint=replace(_DEFAULTS.footprint, ground=args.ground))
    engine: ImaginationEngine | None = None
    scenery: Scenery = StreetScenery()
    if args.bag is not None:
        engine = ImaginationEngine(make_backend(BackendOptions(args.preset, args.weights)))
        recorded = open_recorded_scenery(
            args.bag, engine, _without_margin(options.footprint), base_frame=args.base_frame,
            reading=BagOptions(world_frame=args.world_frame), width=args.width)
        options = replace(options, camera=recorded.camera,
                          base_from_camera=recorded.base_from_camera())
        scenery = recorded
    try:
        logs = [_drive(args, scenery, options, args.seed + k) for k in range(args.episodes)]
    finally:
        if engine is not None:
            engine.close()
    if args.out is not None:
        (args.out / "episodes.json").write_text(json.dumps(logs, indent=1) + "\n",
                                                encoding="utf-8")
        print(f"written {args.out / 'episodes.json'}", file=sys.stderr)
    return 0


def _without_margin(footprint: Footprint) -> Footprint:
    return replace(footprint, margin=0.0)


def _drive(args: argparse.Namespace, scenery: Scenery, options: LoopOptions,
           seed: int) -> dict[str, object]:
    loop = ClosedLoop(scenery, options, make_vehicle(args.vehicle))
    tick = loop.reset(seed)
    planner = PursuitPlanner(
        scenery.route, loop.vehicle, options,
        reference_scorer(options) if args.planner == "scored" else None,
        PursuitOptions(target_speed=options.target_speed))
    video = VideoWriter(args.out / f"episode_{seed}.mp4", 1 / options.step) if args.video else None
    try:
        while tick.end is End.RUNNING:
            if video is not None:
                video.write(tick.seen.image)
            tick = loop.step(planner.command(tick))
    finally:
        if video is not None:
            video.close()
    log = loop.log.as_json(steps=args.out is not None)
    scores = " ".join(f"{name} {value:.2f}" for name, value in log["scores"].items())
    print(f"episode {seed}: {log['end']} ({log['detail']}) after {log['seconds']:g} s, "
          f"{log['gained_m']:.1f} m; {scores}", flush=True)
    return log
