# SPDX-License-Identifier: Apache-2.0
"""A hall of random boxes, walls and boards: every seed looks different."""

from __future__ import annotations

import numpy as np

from inspatio_ros.geometry import rigid
from inspatio_ros.worlds import raytracing
from inspatio_ros.worlds.world import (
    AlongPath,
    Color,
    Light,
    Part,
    Still,
    Texture,
    World,
    WorldObject,
    stadium,
)

PATTERNS = (raytracing.PLAIN, raytracing.BRICKS, raytracing.CHECKER, raytracing.STRIPES,
            raytracing.TILES, raytracing.TEXT, raytracing.WINDOWS)


def clutter(seed: int = 0, *, moving: bool = True) -> World:
    """A hall 6 to 14 m long with 10 to 24 boxes round a free loop, some hanging, a few moving.

    z = 0 is the floor. Colors, patterns, sizes, light and the loop are drawn from the seed; the
    same seed gives the same world to the last pixel.
    """
    rng = np.random.default_rng(seed)

    def color(low: float, high: float) -> Color:
        r, g, b = rng.uniform(low, high) + rng.uniform(-35, 35, 3)
        return (float(np.clip(r, 5, 250)), float(np.clip(g, 5, 250)), float(np.clip(b, 5, 250)))

    def look(low: float = 25.0, high: float = 225.0) -> Texture:
        pattern = int(rng.choice(PATTERNS))
        return Texture(pattern, color(low, high), color(15.0, 235.0),
                       float(np.exp(rng.uniform(np.log(0.04), np.log(0.8)))),
                       float(rng.uniform(0.05, 1.0)), int(rng.integers(1, 1 << 20)))

    length, width = float(rng.uniform(6, 14)), float(rng.uniform(5, 10))
    height = float(rng.uniform(2.4, 4.5))
    calm = Texture(raytracing.PLAIN, color(120, 235), noise=float(rng.uniform(0.05, 0.5)),
                   seed=int(rng.integers(1, 1 << 20)))
    faces = tuple(look() if rng.uniform() < 0.5 else calm for _ in range(6))
    things = [WorldObject("walls", (Part((length, width, height), np.eye(4), faces),),
                          Still(rigid.from_rotation(np.eye(3), (0, 0, height / 2))))]
    straight = max(0.5, length - width + 0.5)
    radius = max(0.6, width / 2 - 1.9)
    for _ in range(int(rng.integers(10, 25))):
        size = tuple(float(s) for s in np.exp(rng.uniform(np.log(0.15), np.log(1.5), 3)))
        tall = (size[0], size[1], min(size[2], height - 0.1))
        x = float(rng.uniform(-length / 2, length / 2))
        inner = max(0.05, radius - 0.55 - max(size[:2]) / 2)
        outer = radius + 0.55 + max(size[:2]) / 2
        if rng.uniform() < 0.35 and abs(x) < straight / 2:
            y = float(rng.uniform(-inner, inner))
        else:
            y = float(rng.choice([-1.0, 1.0])) * float(rng.uniform(outer, max(outer, width / 2)))
            if abs(x) > straight / 2:
                x = float(np.sign(x)) * (straight / 2 + radius + 0.55 + size[0])
        z = tall[2] / 2 if rng.uniform() < 0.8 else height - tall[2] / 2
        pose = rigid.from_euler(0.0, 0.0, float(rng.uniform(0, 3.14)), (x, y, z))
        textures = (look(),) if rng.uniform() < 0.6 else tuple(look() for _ in range(6))
        things.append(WorldObject("box", (Part(tall, np.eye(4), textures),), Still(pose)))
    if moving:
        for _ in range(int(rng.integers(0, 3))):
            walk = stadium(float(rng.uniform(0.3, 2.0)), 0.15,
                           center=(float(rng.uniform(-straight / 2, straight / 2)), 0.0))
            path = AlongPath(walk, float(rng.uniform(0.2, 1.0)), closed=True)
            offset = rigid.from_rotation(np.eye(3), (0.0, 0.0, 0.5))
            things.append(WorldObject("mover", (Part((0.3, 0.3, 1.0), offset, (look(),)),), path))
    lamp = (float(rng.uniform(-1, 1)), float(rng.uniform(-1, 1)), height - 0.4)
    light = Light(sun=float(rng.uniform(0, 0.3)), ambient=float(rng.uniform(0.35, 0.7)),
                  lamp=float(rng.uniform(0.2, 1.0)), lamp_position=lamp, lamp_range=3.0)
    return World(tuple(things), stadium(straight, radius), light)
