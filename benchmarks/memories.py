# SPDX-License-Identifier: Apache-2.0
"""What each memory adds to imagined views of recordings; prints JSON.

    python benchmarks/memories.py RECORDING... [--preset geometric] [--last 80]
    python benchmarks/memories.py --rooms 1000300 1000301 --streets 1000300

Two ways from each start, along poses that the camera really had, so that its pictures are the
truth. 'ahead': the poses that follow, up to --reach seconds. 'back': the poses of the seconds
before, newest first, with only every second frame remembered and the others imagined: coming back
to a place from which the camera has looked away. PSNR is pooled over all pixels of all
frames; holes are the pixels that the single-frame guide does not back, bank those that the cloud
does not back but a view of the bank has seen; both the same for all methods. With --capacity or
--max-age the cloud forgets, as it does on a long way; the bank does not. --features adds the
distance of EfficientNet-Lite0's features over whole pictures. --rooms, --streets: seeds of
analytic worlds without movers, in which a robot goes round on its loop and looks about.

    single     guide from the newest frame alone
    seen       guide from the cloud of all frames so far
    geometric memory: seen, and what was imagined is kept
    stereo memory: seen, and views of a bank are warped into the holes

The mean at the end is over the sequences, ahead and back apart.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from inspatio_ros.evaluation.metrics import SquaredError
from inspatio_ros.evaluation.perceptual import (
    FeatureNetwork,
    default_feature_network,
    feature_distance,
)
from inspatio_ros.evaluation.recorded_run import fitted
from inspatio_ros.files.bag_observations import BagOptions
from inspatio_ros.files.recordings import open_recording, recording_name
from inspatio_ros.geometry import rigid
from inspatio_ros.geometry.camera import PinholeCamera
from inspatio_ros.geometry.trajectory import CameraTrajectory
from inspatio_ros.imagination.backends import BACKENDS, GEOMETRIC, BackendOptions, make_backend
from inspatio_ros.imagination.engine import ImaginationEngine
from inspatio_ros.imagination.request import ImaginationRequest, ImaginedFrame
from inspatio_ros.memory.stereo_memory import StereoOptions
from inspatio_ros.memory.world_memory import MemoryOptions, WorldMemory
from inspatio_ros.sensing.observation import Observation, Provenance
from inspatio_ros.worlds.room import room
from inspatio_ros.worlds.street import street
from inspatio_ros.worlds.world import World

SINGLE, SEEN, GEOMETRIC_MEMORY = "single", "seen", "geometric_memory"
STEREO_MEMORY = "stereo_memory"
METHODS = (SINGLE, SEEN, GEOMETRIC_MEMORY, STEREO_MEMORY)
WAYS = ("ahead", "back")
# Of the robot in a world: pictures a second, its camera's height, m, how far and how often, s, it
# looks to the sides, rad; speed by world, m/s.
RATE, CAMERA_HEIGHT, LOOK_ABOUT, LOOK_SECONDS = 3.0, 1.0, 0.7, 9.0
SPEEDS = {"room": 0.5, "street": 2.0}


class Table:
    """Pooled errors by way and method."""

    def __init__(self, network: FeatureNetwork | None = None) -> None:
        self.network = network
        self.distances: dict[tuple[str, str], list[float]] = {}
        self.errors: dict[tuple[str, str, str], SquaredError] = {}
        self.frames: dict[str, int] = {}
        self.known: dict[tuple[str, str], list[float]] = {}

    def add(self, way: str, method: str, frames: list[ImaginedFrame], truth: list[Observation],
            holes: list[np.ndarray], bank: list[np.ndarray]) -> None:
        """One start's frames."""
        self.frames[way] = self.frames.get(way, 0) + (len(frames) if method == SINGLE else 0)
        for frame, real, hole, shown in zip(frames, truth, holes, bank, strict=True):
            if self.network is not None:
                self.distances.setdefault((way, method), []).append(
                    feature_distance(frame.image, real.image, self.network))
            for part, mask in (("all", None), ("holes", hole), ("bank", shown)):
                error = self.errors.setdefault((way, method, part), SquaredError())
                error.add(frame.image, real.image, mask)
            self.known.setdefault((way, method), []).append(frame.support)

    def figures(self) -> dict[str, object]:
        """PSNR in dB and coverage."""
        found: dict[str, object] = {}
        for way, count in self.frames.items():
            found[way] = {"frames": count, **{
                method: {"psnr_all": round(self.errors[way, method, "all"].psnr, 2),
                         "psnr_holes": round(self.errors[way, method, "holes"].psnr, 2),
                         "psnr_bank": round(self.errors[way, method, "bank"].psnr, 2),
                         **({} if self.network is None else {"features": round(
                             float(np.mean(self.distances[way, method])), 4)}),
                         "backed": round(float(np.mean(self.known[way, method])), 3)}
                for method in METHODS}}
        return found


def measure(name: str, seen: list[Observation], options: argparse.Namespace) -> dict[str, object]:
    """The figures of one sequence."""
    engine = ImaginationEngine(make_backend(BackendOptions(options.preset)))
    bounds = {"capacity": options.capacity, "max_age": options.max_age,
              "max_radius": options.max_radius, "voxel_size": options.voxel_size}
    table = Table(default_feature_network() if options.features else None)
    for way in WAYS:
        first = len(seen) - options.last if options.last else len(seen) // 3
        # On the way back every second frame, from the first, is remembered.
        first -= first % 2
        memories = {SINGLE: WorldMemory(MemoryOptions(**{**bounds, "capacity": 1})),
                    SEEN: WorldMemory(MemoryOptions(**bounds)),
                    GEOMETRIC_MEMORY: WorldMemory(MemoryOptions(**bounds, keep_imagined=True)),
                    STEREO_MEMORY: WorldMemory(MemoryOptions(**bounds, stereo=StereoOptions()))}
        for number, now in enumerate(seen):
            if way == "ahead" or number % 2 == 0:
                for method in METHODS[1:]:
                    memories[method].integrate(now)
            if number < first or (number - first) % options.stride or (
                    way == "back" and number % 2):
                continue
            targets = _targets(seen, number, way, options.reach)
            if not targets:
                continue
            made = {method: _imagine(engine, memories[method], now, targets)
                    for method in METHODS}
            empty = {method: [frame.provenance < Provenance.MEMORY for frame in frames]
                     for method, frames in made.items()}
            bank = [hole & ~filled for hole, filled in zip(
                empty[SEEN], empty[STEREO_MEMORY], strict=True)]
            for method, frames in made.items():
                table.add(way, method, frames, targets, empty[SINGLE], bank)
            kept = memories[GEOMETRIC_MEMORY].imagined
            if kept is not None:
                kept.reset()
    engine.close()
    held = memories[STEREO_MEMORY].stereo
    return {"sequence": name, "preset": options.preset,
            "bank_views": 0 if held is None else len(held.bank), **table.figures()}


def wander(kind: str, seed: int, frames: int, width: int) -> list[Observation]:
    """What a robot sees that goes round on the loop of a world and looks about."""
    world: World = {"room": room, "street": street}[kind](seed, moving=False)
    focal, height = 0.6 * width, round(0.58 * width)
    camera = PinholeCamera(width, height, focal, focal, (width - 1) / 2, (height - 1) / 2)
    times = np.arange(frames) / RATE
    seen = []
    for time, base in zip(times, world.drive(SPEEDS[kind], times), strict=True):
        yaw = LOOK_ABOUT * np.sin(2 * np.pi * time / LOOK_SECONDS)
        pose = base @ rigid.from_euler(0.0, 0.0, yaw, (0.0, 0.0, CAMERA_HEIGHT)) @ (
            rigid.BODY_FROM_OPTICAL)
        view = world.render(camera, pose, float(time), samples=2)
        seen.append(Observation(round(time * 1e9), view.image, view.depth, camera, pose))
    return seen


def mean(found: list[dict[str, Any]]) -> dict[str, object]:
    """The mean over sequences of each figure, by way and method."""
    result: dict[str, object] = {}
    for way in WAYS:
        held = [f[way] for f in found if way in f]
        if held:
            result[way] = {method: {key: round(float(np.mean([h[method][key] for h in held])), 3)
                                    for key in held[0][method]} for method in METHODS}
    return result


def _frames(path: Path, options: argparse.Namespace) -> Iterator[Observation]:
    with open_recording(path, options=BagOptions(min_depth=options.min_depth)) as observations:
        for number, observation in enumerate(observations):
            if options.limit and number >= options.limit:
                return
            source = observation.camera
            height = max(2, round(options.width * source.height / source.width))
            yield fitted(observation, options.width, height)


def _targets(seen: list[Observation], start: int, way: str, reach: float) -> list[Observation]:
    limit = round(reach * 1e9)
    if way == "ahead":
        return [o for o in seen[start + 1:] if o.stamp_ns - seen[start].stamp_ns <= limit]
    return [seen[i] for i in range(start - 1, -1, -1)
            if i % 2 and seen[start].stamp_ns - seen[i].stamp_ns <= limit]


def _imagine(engine: ImaginationEngine, memory: WorldMemory, now: Observation,
             targets: list[Observation]) -> list[ImaginedFrame]:
    times = np.abs([(o.stamp_ns - now.stamp_ns) * 1e-9 for o in targets])
    way = CameraTrajectory(np.stack([o.world_from_camera for o in targets]), times)
    request = ImaginationRequest(now.camera, way, (now,))
    return [frame for block in engine.imagine(request, memory) for frame in block.frames]


def parse(words: list[str] | None = None) -> argparse.Namespace:
    """The arguments."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("recordings", nargs="*", type=Path)
    parser.add_argument("--rooms", type=int, nargs="*", default=[], help="seeds of worlds")
    parser.add_argument("--streets", type=int, nargs="*", default=[], help="seeds of worlds")
    parser.add_argument("--frames", type=int, default=120, help="seen in each world")
    parser.add_argument("--preset", default=GEOMETRIC, choices=BACKENDS)
    parser.add_argument("--last", type=int, default=0,
                        help="starts among the last so many frames only (0: the last two thirds)")
    parser.add_argument("--stride", type=int, default=6, help="frames from start to start")
    parser.add_argument("--reach", type=float, default=4.0, help="s")
    parser.add_argument("--limit", type=int, default=0, help="frames read, 0 for all")
    parser.add_argument("--capacity", type=int, default=2_000_000, help="points of the cloud")
    parser.add_argument("--max-age", type=float, default=1e6, help="s, of its points")
    parser.add_argument("--features", action="store_true",
                        help="EfficientNet-Lite0's distance too (slow)")
    parser.add_argument("--width", type=int, default=208, help="px")
    parser.add_argument("--max-radius", type=float, default=30.0, help="m")
    parser.add_argument("--voxel-size", type=float, default=0.02, help="m")
    parser.add_argument("--min-depth", type=float, default=0.1, help="m")
    return parser.parse_args(words)


def main() -> None:
    """Print the figures of all recordings."""
    options = parse()
    found = [measure(recording_name(path), list(_frames(path, options)), options)
             for path in options.recordings]
    for kind, seeds in (("room", options.rooms), ("street", options.streets)):
        found += [measure(f"{kind}_{seed}", wander(kind, seed, options.frames, options.width),
                          options) for seed in seeds]
    if not found:
        raise SystemExit("nothing to measure: name recordings, --rooms or --streets")
    print(json.dumps([*found, {"mean": mean(found)}] if len(found) > 1 else found, indent=1))


if __name__ == "__main__":
    main()
