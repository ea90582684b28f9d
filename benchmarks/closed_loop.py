#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The reference planner in the analytic street, with and without scoring of candidates.

    python benchmarks/closed_loop.py [--episodes 50] [--seconds 60] [--first-seed 0]
        [--planners scored,plain] [--vehicle unicycle] [--table]

Prints one JSON object. Episodes are seeded: street, obstacles, people who cross and start follow
from the seed. 'plain' is pure pursuit of the route, 'scored' chooses among candidates by their
score. An episode counts as completed when its time is over (or the route ends) without a
collision, without leaving the route's surroundings and without standing still for 25 s.
'deterministic': the first episode, driven twice, is the same to the last digit.
'steps_per_second': of simulation and planner together, on this machine, whatever else it does.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from inspatio_ros.planning.closed_loop import ClosedLoop, End, LoopOptions
from inspatio_ros.planning.pursuit import PursuitPlanner, reference_scorer
from inspatio_ros.planning.scenery import StreetScenery
from inspatio_ros.planning.vehicles import VEHICLES, make_vehicle

PLAIN, SCORED = "plain", "scored"


def main(arguments: list[str] | None = None) -> int:
    """Drive the episodes and print what came of them."""
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--episodes", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--planners", default=f"{SCORED},{PLAIN}", help="with commas")
    parser.add_argument("--vehicle", default="unicycle", choices=VEHICLES)
    parser.add_argument("--table", action="store_true", help="as Markdown")
    args = parser.parse_args(arguments)
    drivers = {name: Driver(name, args.seconds, args.vehicle)
               for name in args.planners.split(",")}
    result: dict[str, Any] = {"seconds": args.seconds, "vehicle": args.vehicle}
    for name, driver in drivers.items():
        seeds = range(args.first_seed, args.first_seed + args.episodes)
        began = time.perf_counter()
        episodes = [driver.drive(seed) for seed in seeds]
        elapsed = time.perf_counter() - began
        again = driver.drive(args.first_seed, steps=True) == driver.drive(
            args.first_seed, steps=True)
        result[name] = {**summary(episodes), "deterministic": again,
                        "steps_per_second": round(driver.steps / elapsed, 1),
                        "episodes": episodes}
    print(table(result) if args.table else json.dumps(result, indent=1))
    return 0


class Driver:
    """One planner, one street after the other."""

    def __init__(self, planner: str, seconds: float, vehicle: str) -> None:
        self._options = LoopOptions(duration=seconds)
        self._scenery = StreetScenery()
        self._loop = ClosedLoop(self._scenery, self._options, make_vehicle(vehicle))
        self._planner = PursuitPlanner(
            self._scenery.route, self._loop.vehicle, self._options,
            reference_scorer(self._options) if planner == SCORED else None)
        self.steps = 0

    def drive(self, seed: int, *, steps: bool = False) -> dict[str, Any]:
        """One episode's log."""
        tick = self._loop.reset(seed)
        self._planner.reset(self._scenery.route)
        while tick.end is End.RUNNING:
            tick = self._loop.step(self._planner.command(tick))
        self.steps += tick.index
        log = self._loop.log.as_json(steps=steps)
        print(f"{seed}: {log['end']} {log['detail']}, {log['gained_m']} m in "
              f"{log['seconds']} s", file=sys.stderr, flush=True)
        return log


def summary(episodes: list[dict[str, Any]]) -> dict[str, Any]:
    """Shares and means."""
    ends = Counter(str(episode["end"]) for episode in episodes)
    return {"completed": ends[End.COMPLETED] / len(episodes), "ends": dict(ends),
            "mean_gained_m": round(float(np.mean([e["gained_m"] for e in episodes])), 2),
            "mean_scores": {name: round(float(np.mean([e["scores"][name] for e in episodes])), 4)
                            for name in episodes[0]["scores"]}}


def table(result: dict[str, Any]) -> str:
    """The summaries as Markdown."""
    lines = ["| planner | episodes | completed | collisions | stuck | mean way, m | progress | "
             "comfort | PDM score |", "|" + "---|" * 9]
    for name in (SCORED, PLAIN):
        if name in result:
            r = result[name]
            scores = r["mean_scores"]
            lines.append(
                f"| {name} | {len(r['episodes'])} | {r['completed']:.0%} | "
                f"{r['ends'].get('collision', 0)} | {r['ends'].get('stuck', 0)} | "
                f"{r['mean_gained_m']} | {scores['ego_progress']:.2f} | {scores['comfort']:.2f} | "
                f"{scores['pdm_score']:.3f} |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
