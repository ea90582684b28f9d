# SPDX-License-Identifier: Apache-2.0
"""A furnished room with two things moving on the floor."""

from __future__ import annotations

import numpy as np

from inspatio_ros.geometry import rigid
from inspatio_ros.worlds.raytracing import BRICKS, CHECKER, PLAIN, STRIPES, TEXT, TILES
from inspatio_ros.worlds.world import (
    AlongPath,
    Color,
    Light,
    Motion,
    Part,
    Still,
    Texture,
    World,
    WorldObject,
    stadium,
)

SIZE = (8.0, 6.0, 2.8)  # metres; the floor is z = 0, the centre of the floor the origin


def _box(name: str, size: tuple[float, float, float], xyz: tuple[float, float, float],
         *textures: Texture, yaw: float = 0.0, motion: Motion | None = None) -> WorldObject:
    """An object of one box; without a motion it stands at `xyz`."""
    still = Still(rigid.from_euler(0.0, 0.0, yaw, xyz))
    offset = np.eye(4) if motion is None else rigid.from_rotation(np.eye(3), xyz)
    return WorldObject(name, (Part(size, offset, textures),), motion or still)


def room(seed: int = 0, *, moving: bool = True) -> World:
    """A room 8 x 6 x 2.8 m with furniture, printed pages, pictures and, if `moving`, two movers.

    The drive path is a closed loop round the table in the middle, at least 0.3 m from everything
    up to a height of 1 m. The same seed gives the same world to the last pixel.
    """
    rng = np.random.default_rng(seed)

    def texture(pattern: int, color: Color, second: Color = (0.0, 0.0, 0.0), scale: float = 0.2,
                noise: float = 0.35) -> Texture:
        shift = rng.uniform(-12.0, 12.0, 3)
        tinted = tuple(float(np.clip(c + s, 5, 250)) for c, s in zip(color, shift, strict=True))
        return Texture(pattern, (tinted[0], tinted[1], tinted[2]), second, scale, noise,
                       int(rng.integers(1, 1 << 20)))

    wood = texture(TILES, (150, 105, 70), (90, 60, 40), 0.35, 0.5)
    walls = Part(SIZE, np.eye(4), (
        texture(BRICKS, (165, 90, 70), (205, 200, 190), 0.12),
        texture(STRIPES, (205, 195, 160), (150, 170, 150), 0.3),
        texture(PLAIN, (190, 200, 205), noise=0.6),
        texture(TILES, (175, 185, 195), (110, 120, 130), 0.25),
        wood,
        texture(TILES, (215, 215, 210), (170, 170, 165), 0.6, 0.2)))
    things = [
        WorldObject("walls", (walls,), Still(rigid.from_rotation(np.eye(3), (0, 0, SIZE[2] / 2)))),
        _box("table", (1.6, 0.9, 0.75), (0.0, 0.0, 0.375),
             texture(TILES, (140, 85, 50), (80, 45, 25), 0.3, 0.6)),
        _box("page", (0.3, 0.42, 0.01), (0.3, 0.1, 0.755),
             texture(TEXT, (240, 238, 230), (30, 30, 35), 0.008, 0.05), yaw=0.4),
        _box("crate", (0.35, 0.35, 0.3), (-0.4, -0.1, 0.9),
             texture(CHECKER, (60, 90, 160), (210, 210, 90), 0.05), yaw=0.7),
        _box("shelf", (0.4, 2.2, 2.0), (-3.75, 1.3, 1.0),
             texture(STRIPES, (70, 50, 120), (215, 170, 60), 0.13, 0.7)),
        _box("cabinet", (1.2, 0.5, 1.1), (2.6, 2.7, 0.55),
             texture(TILES, (85, 120, 95), (40, 60, 45), 0.4, 0.5)),
        _box("sofa", (2.0, 0.7, 0.7), (0.3, -2.6, 0.35),
             texture(CHECKER, (150, 45, 50), (95, 30, 45), 0.11, 0.5)),
        _box("poster", (1.4, 0.03, 1.0), (-1.2, 2.98, 1.6),
             texture(TEXT, (235, 225, 190), (140, 20, 25), 0.025, 0.1)),
        _box("picture", (0.03, 1.2, 0.9), (3.98, -0.6, 1.6),
             texture(PLAIN, (120, 140, 90), noise=1.2)),
        _box("pillar", (0.3, 0.3, SIZE[2]), (3.3, -2.4, SIZE[2] / 2),
             texture(BRICKS, (120, 120, 130), (60, 60, 65), 0.1), yaw=0.5),
        _box("lamp", (0.5, 0.5, 0.25), (0.0, 0.0, 2.6),
             texture(STRIPES, (250, 240, 200), (230, 190, 110), 0.05, 0.1), yaw=0.3),
    ]
    if moving:
        cart_path = stadium(3.6, 0.25, center=(0.2, 1.95))
        things += [
            _box("cart", (0.5, 0.35, 0.6), (0.0, 0.0, 0.3),
                 texture(CHECKER, (40, 160, 90), (230, 240, 220), 0.09, 0.4),
                 motion=AlongPath(cart_path, 0.4, closed=True)),
            _box("parcel", (0.4, 0.3, 0.5), (0.0, 0.0, 0.25),
                 texture(TEXT, (230, 150, 50), (60, 30, 10), 0.02, 0.3),
                 motion=AlongPath(stadium(1.2, 0.2, center=(-2.6, -2.45)), 0.3, closed=True)),
        ]
    light = Light(sun=0.15, ambient=0.45, lamp=0.9, lamp_position=(0.0, 0.0, 2.2), lamp_range=3.0)
    return World(tuple(things), stadium(1.2, 1.15), light)
