# SPDX-License-Identifier: Apache-2.0
"""A corridor with things in it, a cart that has come along it, and ways it could take."""

from __future__ import annotations

from functools import cache

import numpy as np

from inspatio_ros.geometry import rigid
from inspatio_ros.geometry.camera import PinholeCamera
from inspatio_ros.memory.world_memory import MemoryOptions, WorldMemory
from inspatio_ros.planning.candidates import Candidate
from inspatio_ros.planning.footprint import Footprint
from inspatio_ros.planning.ground_map import GroundOptions
from inspatio_ros.planning.scores import MovingBox, ScoreOptions, Situation
from inspatio_ros.sensing.observation import Observation
from inspatio_ros.worlds.raytracing import CHECKER, PLAIN
from inspatio_ros.worlds.world import Part, Still, Texture, View, World, WorldObject, stadium

CAMERA = PinholeCamera(160, 90, 100.0, 100.0, 79.5, 44.5)
BASE_FROM_CAMERA = rigid.from_rotation(rigid.BODY_FROM_OPTICAL[:3, :3], (0.2, 0.0, 1.2))
CART = Footprint(front=0.4, rear=0.4, left=0.3, right=0.3, height=1.3)
OPTIONS = ScoreOptions(target_speed=1.5, ground=GroundOptions(radius=12.0))


def box(name: str, size: tuple[float, float, float], x: float, y: float, z: float = 0.0,
        pattern: int = CHECKER) -> WorldObject:
    """A standing box whose underside is at height z."""
    look = Texture(pattern, (200.0, 120.0, 60.0), (60.0, 60.0, 160.0), 0.4, 0.4, 3)
    pose = rigid.from_rotation(np.eye(3), (x, y, z + size[2] / 2))
    return WorldObject(name, (Part(size, np.eye(4), (look,)),), Still(pose))


def corridor(*things: WorldObject) -> World:
    """Flat ground with walls 3 m to both sides, and what is given."""
    return World((box("ground", (60.0, 20.0, 1.0), 10.0, 0.0, -1.0, PLAIN),
                  box("wall", (40.0, 0.2, 2.5), 10.0, 3.0),
                  box("wall", (40.0, 0.2, 2.5), 10.0, -3.0), *things), stadium(4.0, 1.0))


def blocked_corridor() -> World:
    """A box stands 4 m ahead, another hides the ground behind itself on the left."""
    return corridor(box("box", (0.6, 0.6, 1.0), 4.0, -0.2),
                    box("screen", (0.3, 1.6, 2.2), 5.0, 2.0))


@cache
def seen_from(x: float, camera: PinholeCamera = CAMERA) -> View:
    """The blocked corridor from x m along it."""
    return blocked_corridor().render(
        camera, rigid.from_rotation(np.eye(3), (x, 0.0, 0.0)) @ BASE_FROM_CAMERA)


def situation(world: World, movers: tuple[MovingBox, ...] = (), **extra: object) -> Situation:
    """The cart has come 3 m along x to the origin, looking ahead."""
    memory = WorldMemory(MemoryOptions(capacity=300_000, voxel_size=0.04, max_radius=20.0))
    seen = None
    for number, x in enumerate(np.arange(-3.0, 0.01, 0.5)):
        pose = rigid.from_rotation(np.eye(3), (x, 0.0, 0.0)) @ BASE_FROM_CAMERA
        view = world.render(CAMERA, pose)
        seen = Observation(number * 10**8, view.image, view.depth, CAMERA, pose)
        memory.integrate(seen)
    assert seen is not None
    values: dict = {"speed": 1.0, **extra}
    return Situation(memory, (seen,), np.eye(4), BASE_FROM_CAMERA, CAMERA, movers=movers, **values)


def ahead(id: str, speed: float, lateral: float = 0.0) -> Candidate:
    """Four seconds straight ahead, moving over to `lateral` m on the way."""
    t = np.arange(1, 9) * 0.5
    share = np.clip(t / 2.0, 0, 1)
    y = lateral * share**2 * (3 - 2 * share)
    slope = np.gradient(y, t) / max(speed, 1e-6)
    return Candidate.from_navsim(id, np.stack([speed * t, y, np.arctan(slope)], 1), np.eye(4))
