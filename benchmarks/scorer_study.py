#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Whether the scorer of candidates is right, in analytic streets where the truth is known.

    python benchmarks/scorer_study.py [--scenes 200] [--candidates 32] [--movers seen]

Prints one JSON object. Each scene, made by its seed: a street between walls with side streets
whose corners hide what stands in them, boxes in the way, and a box that crosses. A car with a
camera (320x180) comes 5 m along it, then judges random candidates of 4 s by what it has seen.

The truth comes from the boxes themselves: exact rectangles of footprint and things (moving ones
where they will be), the same progress and comfort, PDMS's weights. Reported:

- best_in_first_two: share of scenes whose truly best candidate the scorer ranks first or second.
- wrong_pairs: share of pairs of a colliding and a safe candidate in which the colliding one scores
  higher by more than its stated uncertainty.
- unseen_marked: of candidates that sweep over more than 0.5 m² that no camera ever saw (by rays to
  every 0.25 m of the corridor), the share whose unknown_ratio is above 0, or which something
  that was seen blocks.
- regret: by how much the true score of the scorer's choice is below the best one.

--movers: what moves is found by the memory ('seen'), or told ('told'), as a tracker would.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from inspatio_ros.geometry import rigid
from inspatio_ros.geometry.camera import PinholeCamera
from inspatio_ros.memory.moving import MovingOptions
from inspatio_ros.memory.world_memory import MemoryOptions, WorldMemory
from inspatio_ros.planning.candidates import Candidate
from inspatio_ros.planning.footprint import Footprint
from inspatio_ros.planning.kinematics import discomforts, motion_of
from inspatio_ros.planning.scores import (
    CandidateScorer,
    MovingBox,
    ScoreOptions,
    Situation,
    ranked,
)
from inspatio_ros.sensing.observation import Observation
from inspatio_ros.worlds.raytracing import BRICKS, CHECKER, ROAD, STRIPES
from inspatio_ros.worlds.world import (
    ConstantVelocity,
    Part,
    Still,
    Texture,
    World,
    WorldObject,
    stadium,
)

Array = npt.NDArray[np.float64]

CAMERA = PinholeCamera(320, 180, 200.0, 200.0, 159.5, 89.5)
CAR = Footprint(front=1.6, rear=0.8, left=0.7, right=0.7, height=1.6, clearance=0.15)
BASE_FROM_CAMERA = rigid.from_rotation(rigid.BODY_FROM_OPTICAL[:3, :3], (1.2, 0.0, 1.4))
SPEED = 3.0
HALF_STREET = 4.5
MAX_DEPTH = 30.0
APPROACH = 5.0  # m that the car has come before it judges
RATE = 10.0  # Hz
UNSEEN_AREA = 0.5  # m²
RAY_STEP = 0.25  # m
OPTIONS = ScoreOptions(target_speed=5.0)


@dataclass(frozen=True, eq=False)
class Scene:
    """A world, the car's way until now, and what moves in it at the moment of judging."""

    world: World
    moving: tuple[int, ...]


def make_scene(seed: int) -> Scene:
    """The street of a seed; the car stands at the origin at time 0, looking along x."""
    rng = np.random.default_rng(seed)

    def texture(pattern: int, scale: float) -> Texture:
        first, second = rng.uniform(50, 220, (2, 3))
        return Texture(pattern, tuple(first), tuple(second), scale, 0.5,
                       int(rng.integers(1, 1 << 20)))

    def box(name: str, size: Sequence[float], x: float, y: float, yaw: float = 0.0,
            pattern: int = CHECKER) -> WorldObject:
        pose = rigid.from_euler(0.0, 0.0, yaw, (x, y, size[2] / 2))
        return WorldObject(name, (Part(tuple(size), np.eye(4), (texture(pattern, 0.4),)),),
                           Still(pose))

    ground = (Part((80.0, 60.0, 1.0), rigid.from_rotation(np.eye(3), (20.0, 0.0, -0.5)),
                   (texture(ROAD, 3.0),)),)
    things = [WorldObject("ground", ground, Still(np.eye(4)))]
    for side in (-1.0, 1.0):
        x = -12.0
        while x < 40.0:
            length = float(rng.uniform(6.0, 14.0))
            things.append(box("wall", (length, 0.6, 3.0), x + length / 2,
                              side * (HALF_STREET + 0.3), pattern=BRICKS))
            # A side street: its corners hide what stands in it.
            x += length + float(rng.choice([0.0, 4.0, 5.0]))
        things.append(box("back", (80.0, 0.6, 4.0), 20.0, side * (HALF_STREET + 9.0),
                          pattern=BRICKS))
    things.append(box("end", (0.6, 30.0, 4.0), 36.0, 0.0, pattern=BRICKS))
    for _ in range(int(rng.integers(2, 6))):
        size = rng.uniform((0.5, 0.5, 0.6), (3.5, 1.8, 2.0))
        x, y = float(rng.uniform(6.0, 24.0)), float(rng.uniform(-4.0, 4.0))
        things.append(box("box", size, x, y, float(rng.uniform(-0.4, 0.4))))
    side = float(rng.choice([-1.0, 1.0]))
    speed = float(rng.uniform(0.8, 2.0))
    size = tuple(rng.uniform((0.6, 0.6, 1.2), (1.6, 1.2, 1.8)))
    start = rigid.from_euler(0, 0, -side * np.pi / 2, (
        float(rng.uniform(7.0, 14.0)), side * float(rng.uniform(1.0, 4.0)), size[2] / 2))
    crossing = WorldObject("crossing", (Part(size, np.eye(4), (texture(STRIPES, 0.25),)),),
                           ConstantVelocity(start, (0.0, -side * speed, 0.0)))
    things.append(crossing)
    return Scene(World(tuple(things), stadium(4.0, 1.0)), (len(things) - 1,))


def approach(scene: Scene, movers: str) -> tuple[Situation, list[Array]]:
    """What the car knows at the origin at time 0, and where its camera has been [4, 4]."""
    memory = WorldMemory(MemoryOptions(
        capacity=600_000, voxel_size=0.05, max_radius=40.0,
        moving=MovingOptions(up=(0.0, 0.0, 1.0)) if movers == "seen" else None))
    seconds = np.arange(-APPROACH / SPEED, 1e-9, 1.0 / RATE)
    seconds = seconds - seconds[-1]
    cameras = []
    seen: Observation | None = None
    for t in seconds:
        pose = rigid.from_rotation(np.eye(3), (SPEED * t, 0.0, 0.0)) @ BASE_FROM_CAMERA
        view = scene.world.render(CAMERA, pose, float(t))
        depth = np.where(view.depth < MAX_DEPTH, view.depth, np.float32(np.nan))
        seen = Observation(round((t + 100.0) * 1e9), view.image, depth, CAMERA, pose)
        memory.integrate(seen)
        cameras.append(pose)
    assert seen is not None
    told = tuple(_mover(scene.world.objects[i]) for i in scene.moving)
    return Situation(memory, (seen,), np.eye(4), BASE_FROM_CAMERA, CAMERA, speed=SPEED,
                     movers=told if movers == "told" else None), cameras


def _mover(thing: WorldObject) -> MovingBox:
    motion = thing.motion
    assert isinstance(motion, ConstantVelocity)
    return MovingBox(motion.world_from_object(0.0), thing.parts[0].size[:2], motion.velocity)


def draw_candidates(seed: int, count: int) -> list[Candidate]:
    """Random ways of 4 s: speeds change evenly, turns are of one sign or of two."""
    rng = np.random.default_rng(10_000 + seed)
    made = []
    for number in range(count):
        fine = np.arange(0.0, 4.01, 0.05)
        last = float(rng.uniform(0.0, 6.0))
        speed = SPEED + (last - SPEED) * fine / 4.0
        bends = rng.uniform(-0.12, 0.12, 2)
        curvature = np.where(fine < rng.uniform(1.0, 3.0), bends[0], bends[1])
        heading = np.concatenate([[0.0], np.cumsum((curvature * speed)[:-1] * 0.05)])
        step = speed[:-1] * 0.05
        x = np.concatenate([[0.0], np.cumsum(step * np.cos(heading[:-1]))])
        y = np.concatenate([[0.0], np.cumsum(step * np.sin(heading[:-1]))])
        poses = np.stack([x, y, heading], axis=1)[10::10]
        made.append(Candidate.from_navsim(str(number), poses, np.eye(4)))
    return made


def corners_of(x: Array, y: Array, yaw: Array, sides: Array) -> Array:
    """Corners [M, 4, 2] of the footprint along a motion."""
    front, rear, left, right = sides
    local = np.array([[front, left], [-rear, left], [-rear, -right], [front, -right]])
    turn = np.stack([np.stack([np.cos(yaw), -np.sin(yaw)], -1),
                     np.stack([np.sin(yaw), np.cos(yaw)], -1)], -2)
    return np.einsum("mij,kj->mki", turn, local) + np.stack([x, y], -1)[:, None]


def overlaps(a: Array, b: Array) -> npt.NDArray[np.bool_]:
    """Whether rectangles [M, 4, 2] and [M, B, 4, 2] meet, [M, B]: separating axes."""
    a = np.broadcast_to(a[:, None], b.shape)
    apart = np.zeros(b.shape[:2], np.bool_)
    for shape in (a, b):
        for k in (0, 1):
            axis = shape[..., (k + 1) % 4, :] - shape[..., k, :]
            along_a = np.einsum("mbki,mbi->mbk", a, axis)
            along_b = np.einsum("mbki,mbi->mbk", b, axis)
            apart |= (along_a.max(-1) < along_b.min(-1)) | (along_b.max(-1) < along_a.min(-1))
    return ~apart


def obstacles_at(scene: Scene, times: Array) -> Array:
    """Rectangles [M, B, 4, 2] of everything that stands on the ground, at times [M]."""
    made = []
    for thing in scene.world.objects[1:]:
        half = np.array(thing.parts[0].size[:2]) / 2
        local = np.array([[1, 1], [-1, 1], [-1, -1], [1, -1]]) * half
        poses = np.stack([thing.motion.world_from_object(float(t)) for t in (
            times if thing.moves else times[:1])])
        placed = np.einsum("mij,kj->mki", poses[:, :2, :2], local) + poses[:, None, :2, 3]
        made.append(np.broadcast_to(placed, (len(times), 4, 2)))
    return np.stack(made, axis=1)


def true_score(scene: Scene, candidate: Candidate, sides: Array) -> tuple[float, bool]:
    """(PDMS by the boxes themselves, whether it collides)."""
    motion = motion_of(candidate, np.eye(4), start_speed=SPEED)
    times = motion.times
    corners = corners_of(motion.x, motion.y, motion.yaw, sides)
    if overlaps(corners, obstacles_at(scene, times)).any():
        return 0.0, True
    clear = 1.0
    going = np.abs(motion.speed) >= 5e-3
    for tenth in range(10, 0, -1):
        ahead = tenth / 10 * OPTIONS.look_ahead
        moved = corners + (motion.speed * ahead)[:, None, None] * np.stack(
            [np.cos(motion.yaw), np.sin(motion.yaw)], -1)[:, None]
        if overlaps(moved, obstacles_at(scene, times + ahead))[going].any():
            clear = (tenth - 1) / 10
    gained = candidate.world_from_base[-1, 0, 3]
    progress = min(max(gained / (OPTIONS.target_speed * 4.0), 0.0), 1.0)
    comfort = 0.0 if discomforts(motion) else 1.0
    return (5 * progress + 5 * clear + 2 * comfort) / 12, False


def unseen_area(scene: Scene, candidate: Candidate, cameras: list[Array], sides: Array) -> float:
    """m² of the corridor's ground that no camera has seen, by rays."""
    motion = motion_of(candidate, np.eye(4), start_speed=SPEED)
    front, rear, left, right = sides
    along, across = np.meshgrid(np.arange(-rear, front, RAY_STEP),
                                np.arange(-right, left, RAY_STEP))
    local = np.stack([along.ravel(), across.ravel()])
    cells = set()
    for x, y, yaw in zip(motion.x[::2], motion.y[::2], motion.yaw[::2], strict=True):
        turn = np.array([[np.cos(yaw), -np.sin(yaw)], [np.sin(yaw), np.cos(yaw)]])
        points = (turn @ local).T + (x, y)
        cells |= set(map(tuple, np.floor(points / RAY_STEP).astype(int).tolist()))
    # Where the car stands and has stood nothing is unknown.
    points = np.array([((i + 0.5) * RAY_STEP, (j + 0.5) * RAY_STEP, 0.0) for i, j in cells])
    points = points[(points[:, 0] > front) | (np.abs(points[:, 1]) > left)]
    unseen = np.ones(len(points), np.bool_)
    for number, pose in enumerate(cameras):
        left_over = np.flatnonzero(unseen)
        local3 = rigid.transform_points(rigid.invert(pose), points[left_over])
        pixels, depth = CAMERA.project(local3)
        with np.errstate(invalid="ignore"):
            inside = ((pixels >= 0) & (pixels <= np.array(CAMERA.size) - 1)).all(1)
        inside &= (depth > 0) & (depth < MAX_DEPTH)
        left_over = left_over[inside]
        rays = points[left_over] + (0.0, 0.0, 0.01) - pose[:3, 3]
        if len(rays):
            time_then = (number - len(cameras) + 1) / RATE
            reached, _ = scene.world.cast(np.broadcast_to(pose[:3, 3], rays.shape), rays,
                                          time_then)
            unseen[left_over[reached >= 0.999]] = False
    return float(unseen.sum()) * RAY_STEP**2


def judge(seed: int, count: int, movers: str, with_unseen: bool = True) -> dict[str, Any]:
    """One scene: what the scorer said against the truth."""
    scene = make_scene(seed)
    situation, cameras = approach(scene, movers)
    candidates = draw_candidates(seed, count)
    scorer = CandidateScorer(CAR, OPTIONS)
    start = time.perf_counter()
    ranking = ranked(candidates, scorer.score(candidates, situation))
    seconds = time.perf_counter() - start
    truth = [true_score(scene, c, CAR.sides) for c in candidates]
    true = np.array([value for value, _ in truth])
    colliding = np.array([hit for _, hit in truth])
    scores = np.array([s.score for s in ranking.scores])
    uncertainty = np.array([s.uncertainty for s in ranking.scores])
    order = np.argsort(-scores, kind="stable")
    best = int(np.argmax(true))
    excess = scores[colliding][:, None] - scores[~colliding][None]
    wrong = excess > uncertainty[colliding][:, None]
    row: dict[str, Any] = {
        "seed": seed, "rank": int(np.flatnonzero(order == best)[0]) + 1,
        "regret": float(true[best] - true[order[0]]), "colliding": int(colliding.sum()),
        "pairs": int(wrong.size), "wrong": int(wrong.sum()), "seconds": seconds,
        "chosen_collides": bool(colliding[order[0]]),
        "best_unknown": float(ranking.scores[best].unknown_ratio),
        "all_collide": bool(colliding.all())}
    if with_unseen:
        areas = np.array([unseen_area(scene, c, cameras, CAR.sides) for c in candidates])
        through = areas > UNSEEN_AREA
        marked = np.array([s.unknown_ratio > 0 or s.terms["no_collision"] == 0
                           for s in ranking.scores])
        row |= {"through_unseen": int(through.sum()), "marked": int((through & marked).sum())}
    return row


def summary(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The figures of all scenes in which some candidate is safe."""
    judged = [r for r in rows if not r["all_collide"]]
    pairs = sum(r["pairs"] for r in judged)
    through = sum(r.get("through_unseen", 0) for r in rows)
    return {
        "scenes": len(judged), "all_collide": len(rows) - len(judged),
        "best_in_first_two": sum(r["rank"] <= 2 for r in judged) / max(len(judged), 1),
        "best_first": sum(r["rank"] == 1 for r in judged) / max(len(judged), 1),
        "wrong_pairs": sum(r["wrong"] for r in judged) / max(pairs, 1), "pairs": pairs,
        "chosen_collides": sum(r["chosen_collides"] for r in judged) / max(len(judged), 1),
        "mean_regret": float(np.mean([r["regret"] for r in judged])) if judged else None,
        "unseen_marked": sum(r.get("marked", 0) for r in rows) / through if through else None,
        "through_unseen": through,
        "colliding_share": float(np.mean([r["colliding"] for r in rows])),
        "ms_per_scene": float(np.median([r["seconds"] for r in rows])) * 1e3}


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--scenes", type=int, default=200)
    parser.add_argument("--first", type=int, default=0, help="seed of the first scene")
    parser.add_argument("--candidates", type=int, default=32)
    parser.add_argument("--movers", choices=("seen", "told"), default="seen")
    parser.add_argument("--rows", action="store_true", help="print each scene too")
    options = parser.parse_args(arguments)
    rows = [judge(seed, options.candidates, options.movers)
            for seed in range(options.first, options.first + options.scenes)]
    content: dict[str, Any] = {
        "must_reach": {"best_in_first_two": 0.95, "wrong_pairs": 0.01, "unseen_marked": 1.0},
        "candidates": options.candidates, "movers": options.movers, "figures": summary(rows)}
    if options.rows:
        content["rows"] = rows
    print(json.dumps(content, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
