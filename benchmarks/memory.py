#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Time and bytes of the world memory at its capacity: fusing a frame, drawing a guide.

    python benchmarks/memory.py [--capacity 4000000] [--source 540x360] [--view 832x480]

Prints one JSON object; medians and minima in ms. The cloud is filled to its capacity first, by
views of ever new walls. Then 'same_place' fuses frames of one wall again and again with noisy
depth, 'new_place' frames of places not seen before, so that the oldest points must go each time;
'first_guide' draws a guide from a reference not used before, 'next_guide' another one from it.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from inspatio_ros.geometry.camera import PinholeCamera
from inspatio_ros.memory.world_memory import MemoryOptions, WorldMemory
from inspatio_ros.sensing.observation import Observation

WALL_DISTANCE = 10.0
REPEATS = 15


class Walls:
    """Views of walls that stand side by side, 20 m apart."""

    def __init__(self, size: str) -> None:
        width, height = map(int, size.split("x"))
        self.camera = PinholeCamera(width, height, 0.92 * width, 0.92 * width, width / 2,
                                    height / 2)
        self._rng = np.random.default_rng(0)
        self._stamp = 0

    def view(self, place: int, sideways: float = 0.0) -> Observation:
        """What a camera sees of the wall at `place`, with 5 mm of depth noise."""
        shape = (self.camera.height, self.camera.width)
        v, u = np.mgrid[:shape[0], :shape[1]]
        depth = WALL_DISTANCE + 0.4 * np.sin(u / 60) + 0.3 * np.cos(v / 40)
        depth += self._rng.normal(0, 0.005, shape)
        depth[self._rng.random(shape) < 0.1] = np.nan
        pose = np.eye(4)
        pose[0, 3] = 20.0 * place + sideways
        self._stamp += 1
        image = self._rng.integers(0, 256, (*shape, 3), dtype=np.uint8)
        return Observation(self._stamp, image, depth.astype(np.float32), self.camera, pose)


def milliseconds(times: list[float]) -> dict[str, float]:
    """Median and minimum."""
    return {"median": round(1e3 * statistics.median(times), 2),
            "min": round(1e3 * min(times), 2)}


def timed(work: Any, *arguments: Any) -> float:
    """Seconds of one call."""
    start = time.perf_counter()
    work(*arguments)
    return time.perf_counter() - start


def main() -> None:
    """Fill, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--capacity", type=int, default=4_000_000)
    parser.add_argument("--source", default="540x360", help="size of what is fused")
    parser.add_argument("--view", default="832x480", help="size of the guides")
    options = parser.parse_args()
    load_before = os.getloadavg()[0]
    walls = Walls(options.source)
    world = WorldMemory(MemoryOptions(capacity=options.capacity, max_age=1e6, max_radius=1e6))
    empty_bytes = world.nbytes
    place = 0
    while world.dropped["capacity"] == 0 and place < 500:
        world.integrate(walls.view(place))
        place += 1
    full = world.point_count
    stages: dict[str, list[float]] = {
        "fuse_same_place": [], "fuse_new_place": [], "first_guide": [], "next_guide": []}
    width, height = map(int, options.view.split("x"))
    view, _ = walls.camera.fitted(width, height)
    for repeat in range(REPEATS):
        stages["fuse_new_place"].append(timed(world.integrate, walls.view(place + repeat)))
    last = place + REPEATS - 1
    for repeat in range(REPEATS):
        seen = walls.view(last, 0.02 * repeat)
        stages["fuse_same_place"].append(timed(world.integrate, seen))
        pose = seen.world_from_camera.copy()
        pose[2, 3] += 0.5
        stages["first_guide"].append(timed(world.render, view, pose, [seen]))
        stages["next_guide"].append(timed(world.render, view, pose, [seen]))
    print(json.dumps({
        "benchmark": "memory", "must_reach": {"fuse_ms": 30.0},
        "device": {"machine": platform.machine(), "cores": os.cpu_count(),
                   "load_before": round(load_before, 2), "python": platform.python_version()},
        "capacity": options.capacity, "points_when_full": full, "points_now": world.point_count,
        "frames_to_fill": place, "source": options.source, "view": options.view,
        "megabytes": {"empty": round(empty_bytes / 1e6, 1),
                      "with_drawing_buffers": round(world.nbytes / 1e6, 1)},
        "ms": {name: milliseconds(times) for name, times in stages.items()},
        "dropped": world.dropped}, indent=2))


if __name__ == "__main__":
    main()
