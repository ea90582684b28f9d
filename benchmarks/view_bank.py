#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The bank of views: does it find the view of largest true overlap, and how fast?

    python benchmarks/view_bank.py [--worlds 4] [--views 160] [--targets 60] [--capacity 500]

Prints one JSON object. In analytic worlds a robot drives and looks about; the views of the first
part of its way are in the bank, those of the rest are wanted. True overlap is the intersection
over union of the surface that both views see, by the worlds' exact depth, in pixels. `found` is
the share of wanted views whose best bank view is among the first three of a ranking: by
correspondence with the wanted view's depth known ('known', as when a guide was drawn), without it
('unknown'), and by the rule of WorldStereo's public release ('frustum'). `lost` is the mean true
overlap that the first of the ranking lacks. Wanted views that no bank view overlaps by a tenth are
left out. Times are of one retrieval of two views from a full bank, ms.
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
import numpy.typing as npt

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from inspatio_ros.geometry import rigid
from inspatio_ros.geometry.camera import PinholeCamera
from inspatio_ros.memory.view_bank import BankOptions, ViewBank, intersection_over_union
from inspatio_ros.sensing.observation import Observation
from inspatio_ros.training.sources import WORLDS, drive_poses

CAMERA = PinholeCamera(160, 96, 110.0, 110.0, 79.5, 47.5)
LEAST_OVERLAP = 0.1
FIRST = 3
MUST_REACH = {"found_known": 0.95, "ms_of_500": 5.0}


def surface(seen: Observation, step: int = 4) -> npt.NDArray[np.float64]:
    """Points [P, 3] in the world of every `step`-th pixel with a depth."""
    points = seen.camera.unproject(seen.depth)[step // 2::step, step // 2::step].reshape(-1, 3)
    return rigid.transform_points(seen.world_from_camera, points[np.isfinite(points).all(1)])


def share_seen(points: npt.NDArray[np.float64], by: Observation) -> float:
    """Share of world points that a view shows: inside, and at its depth within two percent."""
    camera = by.camera
    pixels, depth = camera.project(
        rigid.transform_points(rigid.invert(by.world_from_camera), points))
    inside = (depth > 0) & (np.nan_to_num(pixels, nan=-9) > -0.5).all(1)
    inside &= (pixels[:, 0] < camera.width - 0.5) & (pixels[:, 1] < camera.height - 0.5)
    places, depth = np.rint(pixels[inside]).astype(np.int64), depth[inside]
    off = np.full(len(depth), np.inf)
    for dy in (-1, 0, 1):
        for dx in (-1, 0, 1):
            there = by.depth[np.clip(places[:, 1] + dy, 0, camera.height - 1),
                             np.clip(places[:, 0] + dx, 0, camera.width - 1)]
            off = np.fmin(off, np.abs(there - depth) / depth)
    return float((off < 0.02).sum() / max(1, len(points)))


def study(domain: str, seed: int, views: int, targets: int, tally: dict[str, Any]) -> None:
    """Rank the bank's views for `targets` wanted ones in one world."""
    world = WORLDS[domain](seed, moving=False)
    rng = np.random.default_rng([seed, sorted(WORLDS).index(domain)])
    times = np.arange(views + targets) * 0.5
    poses = drive_poses(world, domain, times, rng)
    seen = []
    for pose in poses:
        view = world.render(CAMERA, pose, 0.0)
        seen.append(Observation(len(seen), view.image, view.depth, CAMERA, pose))
    bank = ViewBank(BankOptions(capacity=500, max_width=160))
    for observation in seen[:views]:
        bank.add(observation)
    surfaces = [surface(view.observation) for view in bank.views]
    for wanted in seen[views:]:
        own = surface(wanted)
        true = intersection_over_union(
            [share_seen(own, view.observation) for view in bank.views],
            [share_seen(points, wanted) for points in surfaces])
        if true.max() < LEAST_OVERLAP:
            continue
        tally["views"] += 1
        pose = wanted.world_from_camera
        for name, scores in (("known", bank.overlaps(CAMERA, pose, wanted.depth)),
                             ("unknown", bank.overlaps(CAMERA, pose)),
                             ("frustum", bank.frustum_overlaps(CAMERA, pose))):
            order = np.argsort(-scores)
            tally["found"][name] += bool(true.argmax() in order[:FIRST])
            tally["lost"][name] += float(true.max() - true[order[0]])


def timings(capacity: int, repeats: int) -> dict[str, Any]:
    """One retrieval from a bank that is full of views of one room."""
    world = WORLDS["room"](0, moving=False)
    rng = np.random.default_rng(0)
    bank = ViewBank(BankOptions(capacity=capacity, spacing=1e-6, max_width=160))
    poses = drive_poses(world, "room", np.arange(capacity + repeats) * 0.3, rng)
    add = []
    for index, pose in enumerate(poses[:capacity]):
        view = world.render(CAMERA, pose, 0.0)
        start = time.perf_counter()
        bank.add(Observation(index, view.image, view.depth, CAMERA, pose))
        add.append(1e3 * (time.perf_counter() - start))
    find = []
    for pose in poses[capacity:]:
        depth = world.render(CAMERA, pose, 0.0).depth
        depth[:, CAMERA.width // 2:] = np.nan
        start = time.perf_counter()
        bank.retrieve(CAMERA, pose, 2, known_depth=depth)
        find.append(1e3 * (time.perf_counter() - start))
    return {"views": len(bank), "retrieve_ms_median": round(statistics.median(find), 2),
            "retrieve_ms_min": round(min(find), 2), "add_ms_median": round(
                statistics.median(add), 2), "megabytes": round(bank.nbytes / 1e6, 1)}


def main() -> None:
    """Study, time, print."""
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--worlds", type=int, default=4, help="of each kind")
    parser.add_argument("--views", type=int, default=160, help="offered to the bank in each")
    parser.add_argument("--targets", type=int, default=60, help="wanted views of each world")
    parser.add_argument("--capacity", type=int, default=500, help="views of the timed bank")
    options = parser.parse_args()
    load_before = os.getloadavg()[0]
    result: dict[str, Any] = {}
    everything: dict[str, Any] = {"views": 0, "found": dict.fromkeys(
        ("known", "unknown", "frustum"), 0.0), "lost": dict.fromkeys(
            ("known", "unknown", "frustum"), 0.0)}
    for domain in sorted(WORLDS):
        tally: dict[str, Any] = {
            "views": 0, "found": dict.fromkeys(everything["found"], 0.0),
            "lost": dict.fromkeys(everything["lost"], 0.0)}
        for seed in range(options.worlds):
            study(domain, seed, options.views, options.targets, tally)
        result[domain] = tally
        everything["views"] += tally["views"]
        for part in ("found", "lost"):
            for name in tally[part]:
                everything[part][name] += tally[part][name]
    result["all"] = everything
    for tally in result.values():
        for part in ("found", "lost"):
            tally[part] = {name: round(value / max(1, tally["views"]), 4)
                           for name, value in tally[part].items()}
    print(json.dumps({
        "benchmark": "view_bank", "must_reach": MUST_REACH,
        "device": {"machine": platform.machine(), "cores": os.cpu_count(),
                   "load_before": round(load_before, 2), "python": platform.python_version()},
        "retrieval": result, "time": timings(options.capacity, 40)}, indent=2))


if __name__ == "__main__":
    main()
