# SPDX-License-Identifier: Apache-2.0
"""Things that move: what the layer apart from the cloud is worth. Prints JSON.

    .venv/bin/python benchmarks/moving.py --seeds 1000100 1000101 1000102
    .venv/bin/python benchmarks/moving.py --recording FOLDER_OR_BAG [--limit 80]

Two memories see the same, one takes all for standing ('everything'), one has the layer ('layer').
At moments along the way both draw the view that is really seen 0.5, 1 and 2 s later.

ghosts: pixels at which a view shows a surface more than 10 % + 0.3 m before the true one; on
streets without those that a memory of the same street without traffic shows too, in recordings
without those that a memory of nothing but the view that is compared with shows too: nothing old is
in it, so they are errors of its depth. all_ghost_pixels: with those. found: of the
pixels that show moving things then, those drawn at the right depth (10 %). static_psnr: of pixels
that show no moving thing and both views cover. still_psnr: the same on the street without traffic,
where the layer must change nothing. center_m: of things followed, how far their centre, carried by
the layer, is from the true one; constant_m: how far it is if they stay. In recordings nobody knows
the truth: there the centre is compared with where the layer itself sees the thing later, of things
that the picture's rim cuts off neither then nor now. clear_ghost_pixels: there, those without any
measured depth as near within 3 px: lidar sees past edges, where its depth is not the picture's.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

import cv2
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from inspatio_ros.evaluation.baselines import depth_of, picture_of
from inspatio_ros.evaluation.metrics import SquaredError
from inspatio_ros.evaluation.scene_truth import movers_in_view
from inspatio_ros.files.recordings import open_recording
from inspatio_ros.geometry import rigid
from inspatio_ros.geometry.camera import PinholeCamera
from inspatio_ros.imagination.filler import fill_holes
from inspatio_ros.memory.guide import Guide
from inspatio_ros.memory.moving import MovingOptions
from inspatio_ros.memory.tracks import Track
from inspatio_ros.memory.world_memory import MemoryOptions, WorldMemory
from inspatio_ros.sensing.observation import Observation, Provenance
from inspatio_ros.worlds.street import street
from inspatio_ros.worlds.world import View, World

HORIZONS = (0.5, 1.0, 2.0)
FUSE = 0.2
SPEED, HEIGHT, FIELD_OF_VIEW = 3.0, 1.5, math.radians(73.0)
MUST_REACH = {"ghost_cut": 0.8, "center_ratio": 0.5, "still_psnr_change": 0.05,
              "observe_ms": 15.0}


@dataclass
class Tally:
    """What is counted at one horizon."""

    ghosts: dict[str, int] = field(default_factory=lambda: {"everything": 0, "layer": 0})
    all_ghosts: dict[str, int] = field(default_factory=lambda: {"everything": 0, "layer": 0})
    clear: dict[str, int] = field(default_factory=lambda: {"everything": 0, "layer": 0})
    found: dict[str, int] = field(default_factory=lambda: {"everything": 0, "layer": 0})
    moving_pixels: int = 0
    views: int = 0
    static: dict[str, SquaredError] = field(default_factory=dict)
    still: dict[str, SquaredError] = field(default_factory=dict)
    whole: dict[str, SquaredError] = field(default_factory=dict)
    coverage: dict[str, float] = field(default_factory=lambda: {"everything": 0.0, "layer": 0.0})
    center: list[float] = field(default_factory=list)
    constant: list[float] = field(default_factory=list)

    def error(self, group: str, name: str) -> SquaredError:
        held: dict[str, SquaredError] = getattr(self, group)
        return held.setdefault(name, SquaredError())

    def as_json(self) -> dict[str, Any]:
        def share(a: float, b: float) -> float | None:
            return round(a / b, 4) if b else None

        def psnr(group: str) -> dict[str, float] | None:
            held: dict[str, SquaredError] = getattr(self, group)
            known = {n: round(e.psnr, 3) for n, e in held.items() if e.count and e.total}
            if len(known) == 2:
                known["change"] = round(known["layer"] - known["everything"], 3)
            return known or None

        mean = statistics.fmean(self.center) if self.center else None
        stay = statistics.fmean(self.constant) if self.constant else None
        return {
            "views": self.views, "ghost_pixels": self.ghosts,
            "ghost_cut": share(self.ghosts["everything"] - self.ghosts["layer"],
                               self.ghosts["everything"]),
            "all_ghost_pixels": self.all_ghosts,
            "all_ghost_cut": share(self.all_ghosts["everything"] - self.all_ghosts["layer"],
                                   self.all_ghosts["everything"]),
            "clear_ghost_pixels": self.clear,
            "clear_ghost_cut": share(self.clear["everything"] - self.clear["layer"],
                                     self.clear["everything"]),
            "found": {n: share(c, self.moving_pixels) for n, c in self.found.items()},
            "moving_pixels": self.moving_pixels, "static_psnr": psnr("static"),
            "still_psnr": psnr("still"), "whole_psnr": psnr("whole"),
            "coverage": {n: share(c, self.views) for n, c in self.coverage.items()},
            "things": len(self.center), "center_m": mean and round(mean, 3),
            "center_median_m": round(statistics.median(self.center), 3) if self.center else None,
            "constant_m": stay and round(stay, 3),
            "center_ratio": share(mean, stay) if mean is not None and stay else None}


def memories(up: tuple[float, float, float] | None, max_radius: float, voxel: float,
             capacity: int = 1_000_000) -> dict[str, WorldMemory]:
    """The two that are compared."""
    return {name: WorldMemory(MemoryOptions(
        capacity=capacity, max_radius=max_radius, voxel_size=voxel, moving=moving))
        for name, moving in (("everything", None), ("layer", MovingOptions(up=up)))}


def ghosts(guide: Guide, truth: np.ndarray) -> np.ndarray:
    """Where a guide shows something before the true surface; truth NaN: nothing is there."""
    with np.errstate(invalid="ignore"):
        return np.asarray(guide.depth < 0.9 * np.where(truth > 0, truth, np.inf) - 0.3)


def nearest_around(truth: np.ndarray) -> np.ndarray:
    """The nearest known depth up to 3 px off each pixel; infinite where there is none."""
    far = np.where(truth > 0, truth, np.inf).astype(np.float32)
    return np.asarray(cv2.erode(far, np.ones((7, 7), np.uint8), borderType=cv2.BORDER_REPLICATE))


def right(guide: Guide, truth: np.ndarray) -> np.ndarray:
    """Where a guide's depth is the true one."""
    with np.errstate(invalid="ignore"):
        return np.asarray(np.abs(guide.depth - truth) < 0.1 * truth)


# --- streets -------------------------------------------------------------------------------------


def street_camera(width: int) -> PinholeCamera:
    """16:9.2, as the node's pictures are."""
    focal = width / (2 * math.tan(FIELD_OF_VIEW / 2))
    height = round(width * 240 / 416)
    return PinholeCamera(width, height, focal, focal, (width - 1) / 2, (height - 1) / 2)


def poses_at(world: World, times: np.ndarray) -> np.ndarray:
    """Of the camera on the drive path."""
    mount = rigid.from_rotation(np.eye(3), (0.0, 0.0, HEIGHT)) @ rigid.BODY_FROM_OPTICAL
    return np.asarray(world.drive(SPEED, times) @ mount)


def busiest(world: World, camera: PinholeCamera, seed: int, seconds: float) -> float:
    """Of twelve moments of the first minute the one after which most moving things are in view."""
    moments = np.random.default_rng([seed, 31]).uniform(0.0, 60.0, 12)

    def count(start: float) -> int:
        times = start + np.linspace(0.0, seconds, 6)
        return movers_in_view(world, camera, poses_at(world, times), times)

    return max((float(m) for m in moments), key=count)


def score_street(seed: int, width: int, frames: int, tallies: dict[float, Tally]
                 ) -> dict[str, Any]:
    """Drive through one street; what is there to see is added to the tallies."""
    world, empty = street(seed), street(seed, moving=False)
    camera = street_camera(width)
    start = busiest(world, camera, seed, frames * FUSE)
    times = start + FUSE * np.arange(frames)
    moving = [i for i, thing in enumerate(world.objects) if thing.moves]
    seen, still = memories((0.0, 0.0, 1.0), 40.0, 0.05), memories((0.0, 0.0, 1.0), 40.0, 0.05)
    for number, (pose, now) in enumerate(zip(poses_at(world, times), times, strict=True)):
        view = world.render(camera, pose, float(now))
        bare = empty.render(camera, pose, float(now))
        observations = [Observation(round(now * 1e9), v.image, v.depth, camera, pose)
                        for v in (view, bare)]
        for group, observation in ((seen, observations[0]), (still, observations[1])):
            for memory in group.values():
                memory.integrate(observation)
        if number < 6 or number % 3:
            continue
        for horizon, tally in tallies.items():
            later = float(now) + horizon
            there = poses_at(world, np.array([later]))[0]
            truth = world.render(camera, there, later)
            stamp = observations[0].stamp_ns + round(horizon * 1e9)
            _compare_street(world, empty, truth, moving, seen, still, observations, stamp, tally)
            layer = seen["layer"].moving
            assert layer is not None
            for track in layer.tracks:
                if track.confirmed and track.patch.stamp_ns == observations[0].stamp_ns:
                    _center_error(track, world, view, later, stamp, moving, tally)
    layer = still["layer"].moving
    assert layer is not None
    return {"seed": seed, "start_s": round(start, 2),
            "false_things_when_still": sum(t.confirmed for t in layer.tracks)}


def _compare_street(world: World, empty: World, truth: View, moving: list[int],
                    seen: dict[str, WorldMemory], still: dict[str, WorldMemory],
                    observations: list[Observation], stamp: int, tally: Tally) -> None:
    camera, pose = truth.camera, truth.world_from_camera
    guides = {n: m.render(camera, pose, [observations[0]], stamp) for n, m in seen.items()}
    bare = {n: m.render(camera, pose, [observations[1]], stamp) for n, m in still.items()}
    without = empty.render(camera, pose, truth.time)
    known = ghosts(bare["everything"], without.depth)
    there = np.isin(truth.ids, moving)
    near_moving = cv2.dilate(there.astype(np.uint8), np.ones((5, 5), np.uint8)) > 0
    both = (guides["everything"].provenance >= Provenance.MEMORY) & (
        guides["layer"].provenance >= Provenance.MEMORY)
    tally.views += 1
    tally.moving_pixels += int(np.count_nonzero(there))
    for name, guide in guides.items():
        shown = ghosts(guide, truth.depth)
        tally.ghosts[name] += int(np.count_nonzero(shown & ~known))
        tally.all_ghosts[name] += int(np.count_nonzero(shown))
        tally.found[name] += int(np.count_nonzero(right(guide, truth.depth) & there))
        tally.error("static", name).add(guide.image, truth.image, both & ~near_moving)
        tally.error("whole", name).add(
            fill_holes(guide.image, guide.provenance != Provenance.UNKNOWN), truth.image)
        tally.coverage[name] += guide.coverage
        drawn = bare[name]
        tally.error("still", name).add(
            fill_holes(drawn.image, drawn.provenance != Provenance.UNKNOWN), without.image)


def _center_error(track: Track, world: World, view: View, later: float, stamp: int,
                  moving: list[int], tally: Tally) -> None:
    """The error of the thing that most of the track's points lie on."""
    camera = view.camera
    pixels, _ = camera.project(rigid.transform_points(
        rigid.invert(view.world_from_camera), track.patch.points.T.astype(np.float64)))
    at = np.rint(pixels).astype(int)
    inside = ((at >= 0) & (at < np.array(camera.size))).all(axis=1)
    ids = view.ids[at[inside, 1], at[inside, 0]]
    ids = ids[np.isin(ids, moving)]
    if not len(ids):
        return
    thing = world.objects[int(np.bincount(ids).argmax())].motion
    now, then = (thing.world_from_object(t)[:3, 3] for t in (view.time, later))
    carried = rigid.transform_points(track.motion(track.patch.stamp_ns, stamp), now)
    tally.center.append(float(np.linalg.norm(carried - then)))
    tally.constant.append(float(np.linalg.norm(then - now)))


# --- recordings ----------------------------------------------------------------------------------


def score_recording(path: Path, width: int, limit: int, stride: int,
                    tallies: dict[float, Tally]) -> dict[str, Any]:
    """Walk a recording as hindsight does; the true depth is what is measured then."""
    compared = memories(None, 60.0, 0.05, 2_000_000)
    layer = compared["layer"].moving
    assert layer is not None
    fused_ns, number, observe_ms = -10**18, 0, []
    waiting: list[tuple[float, Track]] = []
    with open_recording(path) as observations:
        for now, later in _windows(islice(observations, limit or None)):
            number += 1
            if now.stamp_ns - fused_ns >= 0.9e9 * FUSE:
                fused_ns = now.stamp_ns
                began = time.perf_counter()
                compared["layer"].integrate(now)
                observe_ms.append(1e3 * (time.perf_counter() - began))
                compared["everything"].integrate(now)
                waiting = _judge_waiting(waiting, layer.tracks, now.stamp_ns, tallies)
            if fused_ns == now.stamp_ns and number >= 8:
                waiting += [(h, replace(t, mean=t.mean.copy())) for t in layer.tracks
                            if t.confirmed and _whole(t, now.stamp_ns) for h in tallies]
            if number < 8 or number % stride:
                continue
            camera = now.camera.resized(width, round(width * now.camera.height
                                                     / now.camera.width))
            for horizon, tally in tallies.items():
                found = [o for o in later
                         if abs((o.stamp_ns - now.stamp_ns) * 1e-9 - horizon) < 0.06]
                if found:
                    _compare_recorded(compared, camera, now, found[0], tally)
    return {"recording": path.name, "frames": number, "things_seen": layer.things_seen,
            "dropped": layer.dropped,
            "fuse_with_layer_ms_median": round(statistics.median(observe_ms), 1)}


def _windows(observations: Iterator[Observation]) -> Iterator[tuple[Observation,
                                                                   list[Observation]]]:
    held: list[Observation] = []
    for observation in observations:
        held.append(observation)
        while held[-1].stamp_ns - held[0].stamp_ns > (max(HORIZONS) + 0.3) * 1e9:
            yield held[0], held[1:]
            held.pop(0)
    while held:
        yield held[0], held[1:]
        held.pop(0)


def _compare_recorded(compared: dict[str, WorldMemory], camera: PinholeCamera, now: Observation,
                      later: Observation, tally: Tally) -> None:
    truth, picture = depth_of(later, camera), picture_of(later, camera)
    known, around = truth > 0, nearest_around(truth)
    no_ghosts = shown_by_the_view_itself(later, camera, truth)
    tally.views += 1
    for name, memory in compared.items():
        guide = memory.render(camera, later.world_from_camera, [now], later.stamp_ns)
        shown = ghosts(guide, truth) & known
        tally.ghosts[name] += int(np.count_nonzero(shown & ~no_ghosts))
        tally.all_ghosts[name] += int(np.count_nonzero(shown))
        tally.clear[name] += int(np.count_nonzero(ghosts(guide, around) & known))
        tally.error("whole", name).add(
            fill_holes(guide.image, guide.provenance != Provenance.UNKNOWN), picture)
        tally.coverage[name] += guide.coverage


def shown_by_the_view_itself(later: Observation, camera: PinholeCamera, truth: np.ndarray
                             ) -> np.ndarray:
    """Where a guide shows something before the true surface that holds the true view alone."""
    alone = memories(None, 60.0, 0.05, 2_000_000)["everything"]
    alone.integrate(later)
    return ghosts(alone.render(camera, later.world_from_camera, [later], later.stamp_ns), truth)


def _whole(track: Track, stamp_ns: int) -> bool:
    """Whether it is seen at that time, and no rim cuts it off: else its middle is another."""
    return bool(track.sights) and track.sights[-1][0] == stamp_ns


def _judge_waiting(waiting: list[tuple[float, Track]], tracks: list[Track], stamp_ns: int,
                   tallies: dict[float, Tally]) -> list[tuple[float, Track]]:
    """Where a thing was expected against where it is seen, once it is."""
    by_number = {t.number: t for t in tracks}
    left = []
    for horizon, then in waiting:
        age = (stamp_ns - then.stamp_ns) * 1e-9
        track = by_number.get(then.number)
        if age < horizon - 0.06:
            left.append((horizon, then))
        elif age < horizon + 0.15 and track is not None and _whole(track, stamp_ns):
            seen, stood = track.mean[:3], then.mean[:3]
            carried = rigid.transform_points(then.motion(then.stamp_ns, stamp_ns), stood)
            tally = tallies[horizon]
            tally.center.append(float(np.linalg.norm(carried - seen)))
            tally.constant.append(float(np.linalg.norm(stood - seen)))
    return left


def layer_milliseconds(width: int, frames: int) -> dict[str, float]:
    """What the layer itself takes of one fused observation, on one core when it is alone."""
    from inspatio_ros.memory.moving import MovingLayer

    world, camera = street(0), street_camera(width)
    layer, took = MovingLayer(MovingOptions(up=(0.0, 0.0, 1.0))), []
    times = 33.0 + FUSE * np.arange(frames)
    for pose, now in zip(poses_at(world, times), times, strict=True):
        view = world.render(camera, pose, float(now))
        seen = Observation(round(now * 1e9), view.image, view.depth, camera, pose)
        began = time.process_time()
        layer.observe(seen)
        took.append(1e3 * (time.process_time() - began))
    own = took[3:] or took
    return {"median": round(statistics.median(own), 2), "min": round(min(own), 2),
            "max": round(max(own), 2)}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="*", help="of streets; 1000100 to 1000102 "
                        "unless something else is asked for")
    parser.add_argument("--recording", type=Path)
    parser.add_argument("--width", type=int, default=416)
    parser.add_argument("--frames", type=int, default=15, help="of each street, 5 a second")
    parser.add_argument("--limit", type=int, default=0, help="frames of the recording, 0 all")
    parser.add_argument("--stride", type=int, default=4, help="frames from start to start")
    parser.add_argument("--timing", action="store_true", help="milliseconds of the layer alone")
    options = parser.parse_args()
    cv2.setNumThreads(1)
    tallies = {horizon: Tally() for horizon in HORIZONS}
    result: dict[str, Any] = {"benchmark": "moving", "must_reach": MUST_REACH,
                              "device": {"cores": os.cpu_count(),
                                         "load_before": round(os.getloadavg()[0], 2)}}
    if options.seeds is None:
        asked = options.recording or options.timing
        options.seeds = [] if asked else [1000100, 1000101, 1000102]
    if options.seeds:
        result["streets"] = [score_street(seed, options.width, options.frames, tallies)
                             for seed in options.seeds]
    if options.recording:
        result["recording"] = score_recording(options.recording, options.width, options.limit,
                                              options.stride, tallies)
    if options.seeds or options.recording:
        result["horizons"] = {f"{h:g}": tally.as_json() for h, tally in tallies.items()}
    if options.timing:
        result["observe_ms_one_core"] = layer_milliseconds(options.width, 12)
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
