#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""How well depth is guessed where a view shows nothing measured.

    .venv/bin/python benchmarks/guessed_depth.py [--worlds 1000000:1000004] [--ahead 0.4 2.0]

A robot's way through analytic worlds (as in fills.py). From every fifth picture the guide of a
view ahead is drawn, its depth carried on where it is unknown, and compared with the true one: mean
absolute error of the natural logarithm, for the nearest known depth and for planes
(`extend_depth`), and the milliseconds that the planes took. Of the planes also, by domain, the
median relative error of inverse depth (so of parallax) by the distance in pixels from what is
known, and by how much the nearest known depth says otherwise (both as shares of the parallax
by planes), and the median deviation of the views' logarithm of depth. Prints JSON.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import defaultdict
from pathlib import Path

import cv2
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
DISTANCES = (0, 4, 8, 16, 32, 64, 128)
OTHERWISE = (0.0, 0.05, 0.1, 0.2, 0.4, 0.8)  # shares of parallax


def main() -> None:
    """Compare on every world."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--worlds", default="1000000:1000004", metavar="FIRST:LAST")
    parser.add_argument("--ahead", type=float, nargs="+", default=[0.4, 2.0], metavar="S")
    args = parser.parse_args()
    errors: dict[tuple[str, float, str], list[float]] = defaultdict(list)
    taken: list[float] = []
    spread: dict[str, list[float]] = defaultdict(list)
    astray: dict[tuple[str, int], list[np.ndarray]] = defaultdict(list)
    told: dict[tuple[str, float], list[np.ndarray]] = defaultdict(list)
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
                    if (planes > 0).any():
                        spread[domain].append(float(np.nanstd(np.log(planes[::4, ::4]))))
                    apart = cv2.distanceTransform((~(depth > 0)).astype(np.uint8),
                                                  cv2.DIST_L2, 3)
                    for low, high in zip(DISTANCES, DISTANCES[1:], strict=False):
                        chosen = judged & (apart >= low) & (apart < high)
                        astray[domain, low].append(
                            np.abs(later.depth[chosen] / planes[chosen] - 1)[::7])
                    if judged.any():
                        nearest, planned = nearest_known(depth)[judged], planes[judged]
                        other = np.abs(planned / nearest - 1)
                        for low, high in zip(OTHERWISE, (*OTHERWISE[1:], np.inf), strict=True):
                            told[domain, low].append(np.abs(planned / later.depth[judged] - 1)[
                                (other >= low) & (other < high)][::7])
                        for name, guess in (("nearest", nearest_known(depth)),
                                            ("planes", planes)):
                            errors[domain, ahead, name].append(float(np.abs(np.log(
                                guess[judged] / later.depth[judged])).mean()))
    print(json.dumps({
        "worlds": args.worlds, "pixels": [CAMERA.width, CAMERA.height],
        "milliseconds": round(float(np.median(taken)), 2),
        "results": [{"domain": domain, "ahead_s": ahead, "method": name, "views": len(values),
                     "log_error": round(float(np.mean(values)), 3)}
                    for (domain, ahead, name), values in errors.items()],
        "spread": {domain: round(float(np.median(spread[domain])), 2) for domain in DOMAINS},
        "parallax where the nearest depth says otherwise by": {
            domain: {low: round(float(np.median(np.concatenate(told[domain, low]))), 3)
                     for low in OTHERWISE} for domain in DOMAINS},
        "parallax": {domain: {low: round(float(np.median(np.concatenate(astray[domain, low]))), 3)
                              for low in DISTANCES[:-1]} for domain in DOMAINS}}, indent=1))


if __name__ == "__main__":
    main()
