#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""How long judging candidates takes: geometry, imagined views, deadlines, shared context.

    python benchmarks/scoring.py [--parts geometry,deadline,overrun,shared] [--preset tiny]

Prints one JSON object. The situation is a car in the analytic street (320x180, what it has seen
over 3 s), the candidates are 64 arcs of NAVSIM's 8 poses.

- geometry: median and 95th percentile of a whole call without views, and of its first score;
  whether the values equal those of one call for each candidate.
- deadline: the same with views along the best 4 under a deadline of 2 s.
- overrun: --calls calls of random size, with and without views, deadlines of 0.1 to 2 s; share of
  calls whose overrun exceeds a tenth of the deadline, and the largest.
- shared: candidates per second of 8 requests together and of 8 one after the other through
  --preset (on --device, torch's name), and the largest difference of their first blocks.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from inspatio_ros.geometry import rigid
from inspatio_ros.geometry.camera import PinholeCamera
from inspatio_ros.imagination.engine import ImaginationEngine
from inspatio_ros.imagination.filler import GeometricFiller
from inspatio_ros.imagination.request import ImaginationRequest
from inspatio_ros.imagination.together import imagine_together
from inspatio_ros.memory.world_memory import MemoryOptions, WorldMemory
from inspatio_ros.planning.candidates import Candidate, fan
from inspatio_ros.planning.footprint import Footprint
from inspatio_ros.planning.imagining import CandidateViews
from inspatio_ros.planning.scores import CandidateScorer, ScoreOptions, Situation
from inspatio_ros.sensing.observation import Observation
from inspatio_ros.worlds.street import street

CAMERA = PinholeCamera(320, 180, 200.0, 200.0, 159.5, 89.5)
CAR = Footprint(front=3.6, rear=1.0, left=0.95, right=0.95, height=1.8, clearance=0.1)
BASE_FROM_CAMERA = rigid.from_rotation(rigid.BODY_FROM_OPTICAL[:3, :3], (1.0, 0.0, 1.5))
SPEED = 5.0
MUST_REACH = {"geometry_ms": 300.0, "first_ms": 300.0, "deadline_s": 2.0, "overrun_share": 0.1,
              "shared_times": 1.25}
PARTS = ("geometry", "deadline", "overrun", "shared")


def make_situation() -> Situation:
    """What a car has seen after 3 s in the street."""
    world = street(0, moving=False)
    memory = WorldMemory(MemoryOptions(capacity=1_000_000, max_radius=40.0))
    seen = None
    base = np.eye(4)
    for t in np.arange(0.0, 3.01, 0.2):
        base = world.drive(SPEED, [t])[0]
        view = world.render(CAMERA, base @ BASE_FROM_CAMERA, float(t))
        depth = np.where(view.depth < 35.0, view.depth, np.float32(np.nan))
        seen = Observation(round(t * 1e9), view.image, depth, CAMERA, base @ BASE_FROM_CAMERA)
        memory.integrate(seen)
    assert seen is not None
    return Situation(memory, (seen,), base, BASE_FROM_CAMERA, CAMERA, speed=SPEED, movers=())


def spread(seconds: list[float]) -> dict[str, float]:
    """Median and 95th percentile in milliseconds."""
    return {"p50": round(float(np.median(seconds)) * 1e3, 1),
            "p95": round(float(np.percentile(seconds, 95)) * 1e3, 1)}


def timed(scorer: CandidateScorer, candidates: Sequence[Candidate], situation: Situation,
          deadline: float | None, imagine: int) -> tuple[float, float]:
    """Seconds until the first score and until the end."""
    start = time.monotonic()
    first = 0.0
    for _ in scorer.score(candidates, situation, imagine=imagine,
                          deadline=None if deadline is None else start + deadline):
        first = first or time.monotonic() - start
    return first, time.monotonic() - start


def geometry(scorer: CandidateScorer, situation: Situation, candidates: list[Candidate],
             options: argparse.Namespace) -> dict[str, Any]:
    """64 candidates without views."""
    pairs = [timed(scorer, candidates, situation, None, 0) for _ in range(options.repeats)]
    together = scorer.rank(candidates, situation)
    alone = [scorer.rank([c], situation).scores[0] for c in candidates]
    return {"total_ms": spread([total for _, total in pairs]),
            "first_ms": spread([first for first, _ in pairs]),
            "equal_one_by_one": all(repr(a) == repr(b)
                                    for a, b in zip(together.scores, alone, strict=True))}


def deadline(scorer: CandidateScorer, situation: Situation, candidates: list[Candidate],
             options: argparse.Namespace) -> dict[str, Any]:
    """The best 4 imagined within 2 s."""
    pairs = [timed(scorer, candidates, situation, 2.0, 4) for _ in range(options.repeats)]
    last = scorer.rank(candidates, situation, deadline=time.monotonic() + 2.0, imagine=4)
    return {"total_ms": spread([total for _, total in pairs]),
            "first_ms": spread([first for first, _ in pairs]),
            "frames": sorted((s.frames_imagined for s in last.scores), reverse=True)[:4]}


def overrun(scorer: CandidateScorer, situation: Situation, candidates: list[Candidate],
            options: argparse.Namespace) -> dict[str, Any]:
    """Random calls against random deadlines."""
    rng = np.random.default_rng(0)
    shares = []
    for _ in range(options.calls):
        count, limit = int(rng.integers(1, 65)), float(rng.uniform(0.1, 2.0))
        imagine = int(rng.choice([0, 1, 2, 4]))
        _, total = timed(scorer, candidates[:count], situation, limit, imagine)
        shares.append(max(0.0, total / limit - 1.0))
    return {"calls": len(shares), "above_a_tenth": float(np.mean(np.array(shares) > 0.1)),
            "largest": float(np.max(shares)), "p95": float(np.percentile(shares, 95))}


def shared(situation: Situation, candidates: list[Candidate],
           options: argparse.Namespace) -> dict[str, Any]:
    """8 requests together against 8 alone, one block each."""
    from inspatio_ros.imagination.backends import BackendOptions, make_backend

    engine = ImaginationEngine(make_backend(BackendOptions(options.preset, device=options.device)))
    backend = engine.backend
    count = backend.first_block_frames
    requests = []
    for candidate in candidates[:8]:
        times = np.linspace(0.0, 2.0, count)
        way = Candidate(candidate.id, candidate.at(times), times).camera_trajectory(
            situation.base_from_camera)
        requests.append(ImaginationRequest(situation.camera, way, situation.references,
                                           mode="model"))
    engine.warm_up(situation.camera)

    def clock(work: Callable[[], Any]) -> tuple[float, Any]:
        start = time.perf_counter()
        made = work()
        return time.perf_counter() - start, made

    def together() -> list[Any]:
        return [block.frames for block in next(imagine_together(engine, requests,
                                                                situation.memory))]

    def alone() -> list[Any]:
        return [next(engine.imagine(request, situation.memory)).frames for request in requests]

    together()
    alone()
    rounds = [(clock(together), clock(alone)) for _ in range(options.rounds)]
    joint = float(np.median([a[0] for a, _ in rounds]))
    single = float(np.median([b[0] for _, b in rounds]))
    frames, others = rounds[-1][0][1], rounds[-1][1][1]
    difference = max(int(np.abs(x.image.astype(int) - y.image).max())
                     for a, b in zip(frames, others, strict=True)
                     for x, y in zip(a, b, strict=True))
    engine.close()
    return {"preset": backend.name, "frames_each": count,
            "together_per_s": round(8 / joint, 3), "alone_per_s": round(8 / single, 3),
            "times": round(single / joint, 3), "largest_difference": difference}


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--parts", default=",".join(PARTS))
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--calls", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=3, help="of the shared part")
    parser.add_argument("--preset", default="tiny_random", help="of the shared part")
    parser.add_argument("--device", default="", help="of the shared part")
    options = parser.parse_args(arguments)
    parts = options.parts.split(",")
    strange = sorted(set(parts) - set(PARTS))
    if strange:
        parser.error(f"unknown parts {strange}; they are {', '.join(PARTS)}")
    situation = make_situation()
    candidates = fan(situation.world_from_base, 64, SPEED)
    scorer = CandidateScorer(CAR, ScoreOptions(target_speed=SPEED),
                             CandidateViews(ImaginationEngine(GeometricFiller()), 8))
    content: dict[str, Any] = {
        "machine": {"cpus": os.cpu_count(), "load": os.getloadavg()[0],
                    "python": platform.python_version()},
        "must_reach": MUST_REACH, "points": situation.memory.point_count}
    if set(parts) - {"shared"}:
        scorer.rank(candidates[:8], situation, imagine=2)  # compiled code is loaded
    for name, part in (("geometry", geometry), ("deadline", deadline), ("overrun", overrun)):
        if name in parts:
            content[name] = part(scorer, situation, candidates, options)
    if "shared" in parts:
        content["shared"] = shared(situation, candidates, options)
    print(json.dumps(content, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
