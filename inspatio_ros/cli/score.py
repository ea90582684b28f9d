# SPDX-License-Identifier: Apache-2.0
"""`inspatio score`: candidate paths judged at a moment of a recording."""

from __future__ import annotations

import argparse
import json
import math
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from inspatio_ros.evaluation.report import text_table
from inspatio_ros.files.bag_observations import BagOptions, BagTopics
from inspatio_ros.imagination.backends import BACKENDS, GEOMETRIC, BackendOptions, make_backend
from inspatio_ros.imagination.engine import ImaginationEngine
from inspatio_ros.planning.candidates import (
    Candidate,
    RefusedCandidate,
    fan,
    read_navsim,
    write_navsim,
)
from inspatio_ros.planning.footprint import Footprint
from inspatio_ros.planning.ground_map import GroundOptions, ground_map
from inspatio_ros.planning.imagining import CandidateViews
from inspatio_ros.planning.kinematics import level_frame
from inspatio_ros.planning.pictures import map_picture
from inspatio_ros.planning.recorded_situation import (
    Moment,
    RecordedOptions,
    recorded_situations,
)
from inspatio_ros.planning.scores import CandidateScorer, Ranking, ScoreOptions, State
from inspatio_ros.planning.terms import TERMS

SCORES, MAP, CANDIDATES = "scores.json", "map.png", "candidates.json"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("recording", type=Path, metavar="BAG_OR_SEQUENCE")
    parser.add_argument("--candidates", type=Path, metavar="FILE",
                        help="NAVSIM poses in the ego frame: .json, .npz or .npy "
                        "(docs/planners.md); without it a fan of arcs is judged")
    parser.add_argument("--fan", type=int, default=32, metavar="K",
                        help="arcs of the fan (default %(default)s)")
    parser.add_argument("--speed", type=float, default=1.0, metavar="M/S",
                        help="of the fan, and of full progress (default %(default)s)")
    parser.add_argument("--at", type=float, metavar="S",
                        help="moment, seconds after the first frame (default: the last frame)")
    parser.add_argument("--deadline", type=float, default=0.0, metavar="S",
                        help="give what there is after so long; 0: take the time")
    parser.add_argument("--imagine", type=int, default=0, metavar="N",
                        help="imagine views along the N best (default: geometry only)")
    parser.add_argument("--views", type=int, default=8, help="along each (default %(default)s)")
    parser.add_argument("--out", type=Path, metavar="DIR",
                        help=f"write {SCORES}, {CANDIDATES} and {MAP}")
    robot = parser.add_argument_group("the robot")
    robot.add_argument("--footprint", type=float, nargs=5, default=(0.35, 0.35, 0.25, 0.25, 1.2),
                       metavar=("FRONT", "REAR", "LEFT", "RIGHT", "HEIGHT"),
                       help="from the base to its sides, and its height, m")
    robot.add_argument("--ground", type=float, default=0.0, metavar="M",
                       help="height of the ground in the base's frame")
    robot.add_argument("--clearance", type=float, default=0.1, metavar="M",
                       help="what rises less is driven over (default %(default)s)")
    robot.add_argument("--radius", type=float, default=25.0, metavar="M",
                       help="of the map around the robot (default %(default)s)")
    read = parser.add_argument_group("how the recording is read")
    read.add_argument("--preset", choices=BACKENDS, default=GEOMETRIC,
                      help="what imagines (default %(default)s)")
    read.add_argument("--weights", default="", help="folder of the preset's weights")
    read.add_argument("--width", type=int, default=320, help="of the views, pixels")
    read.add_argument("--base-frame", default="base_link", help="the robot's frame in tf")
    read.add_argument("--world-frame", default="odom", help="a frame at rest in tf")
    read.add_argument("--camera-height", type=float, default=0.0, metavar="M",
                      help="a camera so high above the ground that no base carries; without it "
                      "the base is that of tf")
    read.add_argument("--max-depth", type=float, default=80.0, metavar="M")
    for name in ("image", "depth", "right"):
        read.add_argument(f"--{name}-topic", default="", help="instead of the one found")


def run(args: argparse.Namespace) -> int:
    """Judge, print a table, write; 0 when a candidate could be chosen."""
    front, rear, left, right, height = args.footprint
    footprint = Footprint(front, rear, left, right, height, args.ground, args.clearance)
    options = ScoreOptions(target_speed=args.speed, ground=GroundOptions(radius=args.radius))
    reading = RecordedOptions(
        base_frame=args.base_frame, camera_height=args.camera_height, width=args.width,
        topics=BagTopics(image=args.image_topic, depth=args.depth_topic, right=args.right_topic),
        reading=BagOptions(world_frame=args.world_frame, max_depth=args.max_depth))
    engine = ImaginationEngine(make_backend(BackendOptions(args.preset, args.weights))) \
        if args.imagine else None
    views = CandidateViews(engine, args.views) if engine is not None else None
    scorer = CandidateScorer(footprint, options, views)
    with recorded_situations(args.recording, reading) as moments:
        moment = None
        for moment in moments:
            if args.at is not None and moment.time >= args.at - 1e-6:
                break
        if moment is None:
            raise ValueError(f"{args.recording}: no frame with depth and a pose")
        candidates = _candidates(args, moment)
        start = time.monotonic()
        deadline = start + args.deadline if args.deadline else None
        ranking = scorer.rank(candidates, moment.situation, deadline=deadline,
                              imagine=args.imagine)
        seconds = time.monotonic() - start
        if args.out is not None:
            _write(args.out, moment, candidates, ranking, scorer, seconds)
    if engine is not None:
        engine.close()
    print(_table(ranking))
    print(f"\nat {moment.time:.2f} s, {len(candidates)} candidates in {seconds:.2f} s; best: "
          f"{ranking.best_id or 'none'}" + (f"; written {args.out}" if args.out else ""))
    return 0 if ranking.best_id else 1


def _candidates(args: argparse.Namespace,
                moment: Moment) -> list[Candidate | RefusedCandidate]:
    base = moment.situation.world_from_base
    if args.candidates is not None:
        return read_navsim(args.candidates, base)
    if args.fan < 1 or not args.speed > 0:
        raise ValueError(f"--fan {args.fan} and --speed {args.speed} must be positive")
    return list(fan(base, args.fan, args.speed))


def _write(out: Path, moment: Moment, candidates: list[Candidate | RefusedCandidate],
           ranking: Ranking, scorer: CandidateScorer, seconds: float) -> None:
    out.mkdir(parents=True, exist_ok=True)
    content: dict[str, Any] = {
        "stamp_ns": moment.observation.stamp_ns, "best_id": ranking.best_id, "seconds": seconds,
        "scores": [{
            "id": s.id, "state": s.state.name, "score": s.score, "uncertainty": s.uncertainty,
            "terms": {name: None if math.isnan(v) else v for name, v in s.terms.items()},
            "unknown_ratio": s.unknown_ratio, "frames_imagined": s.frames_imagined,
            "first_hit_s": None if math.isinf(s.first_hit) else s.first_hit, "detail": s.detail,
        } for s in ranking.scores]}
    (out / SCORES).write_text(json.dumps(content, indent=1) + "\n")
    good = [c for c in candidates if isinstance(c, Candidate)]
    write_navsim(out / CANDIDATES, good)
    situation = moment.situation
    ground = ground_map(
        situation.memory, situation.references, situation.world_from_base,
        level_frame(situation.world_from_base), scorer.footprint, scorer.options.ground)
    picture = map_picture(ground, candidates, ranking, scorer.footprint,
                          situation.world_from_base)
    cv2.imwrite(str(out / MAP), np.ascontiguousarray(picture[..., ::-1]))


def _table(ranking: Ranking) -> str:
    head = ["id", "state", "score", "±", *(name.replace("_", " ") for name in TERMS), "unknown"]
    rows = [[s.id, s.state.name, f"{s.score:.3f}", f"{s.uncertainty:.3f}",
             *("-" if math.isnan(s.terms[name]) else f"{s.terms[name]:.2f}" for name in TERMS),
             f"{s.unknown_ratio:.2f}"]
            for s in sorted(ranking.scores, key=lambda s: -s.score) if s.state != State.FAILED]
    rows += [[s.id, s.state.name, s.detail, *[""] * (len(head) - 3)] for s in ranking.scores
             if s.state == State.FAILED]
    return text_table(head, rows)
