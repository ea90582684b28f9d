#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""How well depth is guessed where a view shows nothing measured.

    .venv/bin/python benchmarks/guessed_depth.py [--worlds 1000000:1000004] [--ahead 0.4 2.0]

A robot's way through analytic worlds (as in fills.py). From every fifth picture the guide of a
view ahead is drawn, its depth carried on where it is unknown, and compared with the true one: mean
absolute error of the natural logarithm, for the nearest known depth and for planes
(`extend_depth`), and the milliseconds that the planes took. Prints JSON.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import defaultdict
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

from fills import CAMERA, PERIOD, drive  # noqa: E402

from inspatio_ros.evaluation.experiment import load_experiment  # noqa: E402
from inspatio_ros.evaluation.view_checks import nearest_known  # noqa: E402
from inspatio_ros.memory.surfaces import extend_depth  # noqa: E402
from inspatio_ros.memory.world_memory import WorldMemory  # noqa: E402

STRIDE = 5
DOMAINS = ("clutter", "room", "street")


def main() -> None:
    """Compare on every world."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--worlds", default="1000000:1000004", metavar="FIRST:LAST")
    parser.add_argument("--ahead", type=float, nargs="+", default=[0.4, 2.0], metavar="S")
    args = parser.parse_args()
    errors: dict[tuple[str, float, str], list[float]] = defaultdict(list)
    taken: list[float] = []
    for domain in DOMAINS:
        experiment = load_experiment(
            ROOT / f"samples/experiments/{'street' if domain == 'street' else 'indoor'}.yaml")
        for seed in range(*map(int, args.worlds.split(":"))):
            way = list(drive(domain, seed))
            memory = WorldMemory(experiment.memory)
            for number, seen in enumerate(way):
                memory.integrate(seen)
                if number % STRIDE:
                    continue
                for ahead in args.ahead:
                    there = number + round(ahead / PERIOD)
                    if there >= len(way):
                        continue
                    later = way[there]
                    depth = memory.render(CAMERA, later.world_from_camera, [seen]).depth
                    began = time.perf_counter()
                    planes = extend_depth(depth)
                    taken.append(1e3 * (time.perf_counter() - began))
                    judged = ~(depth > 0) & (later.depth > 0) & (planes > 0)
                    if judged.any():
                        for name, guess in (("nearest", nearest_known(depth)),
                                            ("planes", planes)):
                            errors[domain, ahead, name].append(float(np.abs(np.log(
                                guess[judged] / later.depth[judged])).mean()))
    print(json.dumps({
        "worlds": args.worlds, "pixels": [CAMERA.width, CAMERA.height],
        "milliseconds": round(float(np.median(taken)), 2),
        "results": [{"domain": domain, "ahead_s": ahead, "method": name, "views": len(values),
                     "log_error": round(float(np.mean(values)), 3)}
                    for (domain, ahead, name), values in errors.items()]}, indent=1))


if __name__ == "__main__":
    main()
