# SPDX-License-Identifier: Apache-2.0
"""Out and back, again and again: is what was imagined found unchanged? Prints JSON.

    python benchmarks/revisit.py [--preset geometric] [--loops 10] [--frames 240] [--worlds 11 12]

In the analytic room the camera sees a few frames, then imagines a way that turns to where nothing
was seen and comes back along the same poses, `--loops` times. Truth is rendered. For each memory:

    none       no memory: what a block is drawn from is the last picture that was imagined
    seen       the cloud of what was seen
    geometric  the global-geometric memory: seen, and what was imagined is kept

first and return: PSNR against the truth, pooled over the way out and the way back of a loop.
unchanged: PSNR between the two pictures of each pose, out and back. loops: first of each loop.
bytes: of the memory after each loop. --reanchor, --keyframes: what holds the blocks of a model to
the source (`LongRollout`); the geometric filler has no use for them. contrast: standard deviation
of the last loop's pictures over that of the truth, which drift takes away.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence

import numpy as np

from inspatio_ros.evaluation.metrics import SquaredError
from inspatio_ros.geometry import rigid
from inspatio_ros.geometry.camera import PinholeCamera
from inspatio_ros.geometry.trajectory import CameraTrajectory
from inspatio_ros.imagination.backends import BACKENDS, GEOMETRIC, BackendOptions, make_backend
from inspatio_ros.imagination.engine import ImaginationEngine
from inspatio_ros.imagination.long_rollouts import LongRollout
from inspatio_ros.imagination.request import ImaginationRequest, ImaginedFrame
from inspatio_ros.memory.imagined_points import complete_depth
from inspatio_ros.memory.world_memory import MemoryOptions, WorldMemory
from inspatio_ros.sensing.observation import Observation
from inspatio_ros.worlds.room import room
from inspatio_ros.worlds.world import World

NONE, SEEN, GEOMETRIC_MEMORY = "none", "seen", "geometric"
MEMORIES = (NONE, SEEN, GEOMETRIC_MEMORY)
_RATE = 12.0
_SEEN_FRAMES = 5


class Scene:
    """A room, the frames seen in it, the way out and back, and the truth along it."""

    def __init__(self, seed: int, frames: int, width: int) -> None:
        rng = np.random.default_rng(seed)
        self.world: World = room(seed, moving=False)
        focal = 0.55 * width
        height = round(width * 0.58)
        self.camera = PinholeCamera(width, height, focal, focal, (width - 1) / 2,
                                    (height - 1) / 2)
        x, y, yaw = rng.uniform(-2.2, -1.2), rng.uniform(-1.5, -1.1), rng.uniform(0.0, 0.5)
        turn = rng.uniform(1.6, 2.2)
        self.seen = [self._see(_pose(x + 0.08 * i, y, yaw), i) for i in range(_SEEN_FRAMES)]
        x += 0.08 * (_SEEN_FRAMES - 1)
        there = [_pose(x + 1.3 * u, y + 0.2 * u, yaw + turn * u)
                 for u in np.linspace(0, 1, frames // 2)]
        self.half = len(there)
        self.way = CameraTrajectory.from_poses(np.array(there + there[::-1]), _RATE)
        self.truth = [self._see(pose).image for pose in there]

    def _see(self, pose: np.ndarray, number: int = 0) -> Observation:
        view = self.world.render(self.camera, pose, 0.0, samples=2)
        return Observation(round(number * 1e9 / _RATE), view.image, view.depth, self.camera, pose)


def _pose(x: float, y: float, yaw: float) -> np.ndarray:
    return np.asarray(rigid.from_euler(0.0, 0.0, yaw, (x, y, 1.2)) @ rigid.BODY_FROM_OPTICAL)


def measure(scene: Scene, engine: ImaginationEngine, memory_name: str, loops: int,
            ) -> dict[str, object]:
    """The figures of one memory in one room."""
    memory = WorldMemory(MemoryOptions(
        capacity=1 if memory_name == NONE else 400_000, max_age=1e6,
        keep_imagined=memory_name == GEOMETRIC_MEMORY, imagined_capacity=400_000))
    if memory_name != NONE:
        for observation in scene.seen:
            memory.integrate(observation)
    last = scene.seen[-1]
    firsts, returns, unchanged, held = [], [], [], []
    for _ in range(loops):
        frames, last = _loop(scene, engine, memory, last, chained=memory_name == NONE)
        out, back = frames[:scene.half], frames[:scene.half - 1:-1]
        firsts.append(_pooled(out, scene.truth))
        returns.append(_pooled(back, scene.truth))
        unchanged.append(_pooled(back, [frame.image for frame in out]))
        held.append(memory.nbytes)
    spread = [float(np.std(pictures)) for pictures in (
        [frame.image for frame in out], scene.truth)]
    return {
        "first": firsts[0], "return": returns[0], "unchanged": unchanged[0], "loops": firsts,
        "return_minus_first": round(returns[0] - firsts[0], 2),
        "last_loop_minus_first_loop": round(firsts[-1] - firsts[0], 2),
        "contrast": round(spread[0] / spread[1], 3), "bytes": held,
        "kept_points": memory.imagined.point_count if memory.imagined is not None else 0}


def _loop(scene: Scene, engine: ImaginationEngine, memory: WorldMemory, last: Observation, *,
          chained: bool) -> tuple[list[ImaginedFrame], Observation]:
    """One loop's frames; chained: each block is drawn from the last imagined picture alone."""
    newest = [last]
    request = ImaginationRequest(scene.camera, scene.way, (last,))
    frames: list[ImaginedFrame] = []
    blocks = engine.imagine(request, memory, (lambda: newest) if chained else None)
    for block in blocks:
        frames.extend(block.frames)
        if chained:
            newest = [_as_seen(block.frames[-1])]
    return frames, newest[0]


def _as_seen(frame: ImaginedFrame) -> Observation:
    """An imagined frame as if it were a real one: what a model without a memory goes on from."""
    depth, _ = complete_depth(frame.depth, [], frame.camera, frame.world_from_camera)
    return Observation(frame.source_stamp_ns, frame.image, depth, frame.camera,
                       frame.world_from_camera)


def _pooled(frames: Sequence[ImaginedFrame], truth: Sequence[np.ndarray]) -> float:
    error = SquaredError()
    for frame, image in zip(frames, truth, strict=True):
        error.add(frame.image, image)
    return round(error.psnr, 2)


def parse(words: list[str] | None = None) -> argparse.Namespace:
    """The arguments."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--preset", default=GEOMETRIC, choices=BACKENDS)
    parser.add_argument("--loops", type=int, default=10)
    parser.add_argument("--frames", type=int, default=240, help="of one loop, out and back")
    parser.add_argument("--width", type=int, default=208)
    parser.add_argument("--worlds", type=int, nargs="+", default=[11, 12], help="seeds")
    parser.add_argument("--reanchor", type=float, default=0.0, help="share, 0 to 1")
    parser.add_argument("--keyframes", type=int, default=0, help="blocks")
    parser.add_argument("--memories", nargs="+", default=list(MEMORIES), choices=MEMORIES)
    return parser.parse_args(words)


def run(options: argparse.Namespace) -> dict[str, object]:
    """All figures."""
    engine = ImaginationEngine(make_backend(BackendOptions(
        options.preset, long_rollout=LongRollout(options.reanchor, options.keyframes))))
    found: dict[str, object] = {
        "preset": options.preset, "frames": options.frames, "reanchor": options.reanchor,
        "keyframes": options.keyframes,
        "blocks": options.frames // engine.backend.block_frames}
    for seed in options.worlds:
        scene = Scene(seed, options.frames, options.width)
        found[f"room_{seed}"] = {
            name: measure(scene, engine, name, options.loops) for name in options.memories}
    engine.close()
    return found


if __name__ == "__main__":
    print(json.dumps(run(parse()), indent=1))
