# SPDX-License-Identifier: Apache-2.0
"""A closed street between facades, with parked cars, traffic and people."""

from __future__ import annotations

import numpy as np

from inspatio_ros.geometry import rigid
from inspatio_ros.worlds.raytracing import (
    BRICKS,
    CHECKER,
    PLAIN,
    ROAD,
    STRIPES,
    TEXT,
    TILES,
    WINDOWS,
)
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

LENGTH = 80.0  # metres of the straight part, along x, the middle at the origin
LANE = 3.5
KERB = 2 * LANE + 2.2  # half the road: two lanes and parking on each side
FACADE = KERB + 3.0


class _Maker:
    """Draws colors, seeds and sizes from one random stream, in a fixed order."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)

    def texture(self, pattern: int, color: Color, second: Color = (0.0, 0.0, 0.0),
                scale: float = 0.2, noise: float = 0.35) -> Texture:
        return Texture(pattern, color, second, scale, noise, int(self.rng.integers(1, 1 << 20)))

    def color(self, low: float = 40.0, high: float = 220.0) -> Color:
        r, g, b = self.rng.uniform(low, high, 3)
        return float(r), float(g), float(b)

    def block(self, name: str, size: tuple[float, float, float], x: float, y: float,
              z: float = 0.0, *, texture: Texture, yaw: float = 0.0) -> WorldObject:
        """A standing box whose underside is at height z."""
        pose = rigid.from_euler(0.0, 0.0, yaw, (x, y, z + size[2] / 2))
        return WorldObject(name, (Part(size, np.eye(4), (texture,)),), Still(pose))

    def car(self, name: str, motion: Motion) -> WorldObject:
        """A car of body, cabin and two axles, x forward, origin on the ground."""
        paint = self.color()
        length = float(self.rng.uniform(3.8, 4.7))
        body = self.texture(STRIPES, paint, tuple(0.75 * c for c in paint), 0.8, 0.25)  # type: ignore[arg-type]
        glass = self.texture(WINDOWS, paint, (35.0, 45.0, 60.0), 0.62, 0.2)
        wheel = self.texture(CHECKER, (25.0, 25.0, 28.0), (70.0, 70.0, 75.0), 0.12, 0.2)
        plate = self.texture(TEXT, (225.0, 225.0, 215.0), (25.0, 25.0, 40.0), 0.02, 0.1)

        def part(size: tuple[float, float, float], x: float, z: float, look: Texture) -> Part:
            return Part(size, rigid.from_rotation(np.eye(3), (x, 0.0, z)), (look,))

        return WorldObject(name, (
            part((length, 1.75, 0.6), 0.0, 0.6, body),
            part((length * 0.5, 1.55, 0.55), -0.2, 1.17, glass),
            part((0.6, 1.8, 0.6), length * 0.3, 0.3, wheel),
            part((0.6, 1.8, 0.6), -length * 0.3, 0.3, wheel),
            part((length + 0.04, 0.5, 0.13), 0.0, 0.55, plate)), motion)

    def person(self, name: str, motion: Motion) -> WorldObject:
        """A walker of legs, trunk and head, x forward, origin on the ground."""
        looks = [self.texture(STRIPES, self.color(), self.color(), 0.12, 0.5),
                 self.texture(CHECKER, self.color(), self.color(), 0.1, 0.5),
                 self.texture(PLAIN, (215.0, 165.0, 135.0), noise=0.4)]
        sizes = [(0.3, 0.35, 0.8), (0.28, 0.48, 0.6), (0.22, 0.2, 0.26)]
        heights = [0.4, 1.1, 1.55]
        return WorldObject(name, tuple(
            Part(size, rigid.from_rotation(np.eye(3), (0.0, 0.0, height)), (look,))
            for size, height, look in zip(sizes, heights, looks, strict=True)), motion)


def _facades(maker: _Maker) -> list[WorldObject]:
    """Houses with gaps along both sides, and one across each end."""
    things = []
    for side in (-1.0, 1.0):
        x = -LENGTH / 2 - 25.0
        while x < LENGTH / 2 + 25.0:
            width, depth = float(maker.rng.uniform(9, 16)), float(maker.rng.uniform(8, 12))
            height = float(maker.rng.uniform(6, 13))
            if maker.rng.uniform() < 0.75:
                look = maker.texture(WINDOWS, maker.color(110, 225), (45.0, 55.0, 70.0),
                                     float(maker.rng.uniform(1.7, 2.6)), 0.45)
            else:
                look = maker.texture(BRICKS, (150.0, 80.0, 62.0), (195.0, 190.0, 180.0), 0.16, 0.5)
            setback = float(maker.rng.uniform(0, 1.5))
            things.append(maker.block("house", (width, depth, height), x + width / 2,
                                      side * (FACADE + setback + depth / 2), texture=look))
            x += width + float(maker.rng.choice([0.0, 0.0, 3.0]))
        for x in np.arange(-LENGTH / 2, LENGTH / 2 + 1, 16.0):
            sign = maker.texture(TEXT, maker.color(150, 245), maker.color(0, 70), 0.07, 0.1)
            things.append(maker.block("sign", (2.6, 0.1, 0.8), float(x) + 5.0,
                                      side * (FACADE - 0.1), 2.7, texture=sign))
    for end in (-1.0, 1.0):
        look = maker.texture(WINDOWS, maker.color(120, 220), (45.0, 55.0, 70.0), 2.2, 0.45)
        things.append(maker.block("house", (10.0, 2 * FACADE + 20, 11.0),
                                  end * (LENGTH / 2 + 22.0), 0.0, texture=look))
    return things


def _furniture(maker: _Maker) -> list[WorldObject]:
    """Trees, lamp posts and parked cars on both sides."""
    things = []
    for side in (-1.0, 1.0):
        for x in np.arange(-LENGTH / 2, LENGTH / 2 + 1, 13.0):
            trunk = maker.texture(STRIPES, (95.0, 70.0, 50.0), (60.0, 45.0, 35.0), 0.07, 0.8)
            leaves = maker.texture(PLAIN, (85.0, 130.0, 55.0), noise=1.6)
            y = side * (KERB + 0.7)
            things.append(maker.block("tree", (0.25, 0.25, 2.4), float(x), y, texture=trunk,
                                      yaw=0.4))
            crown = float(maker.rng.uniform(1.5, 2.2))
            things.append(maker.block("tree", (crown, crown, crown), float(x), y, 2.2,
                                      texture=leaves, yaw=float(maker.rng.uniform(0, 1.5))))
        for x in np.arange(-LENGTH / 2 + 6.0, LENGTH / 2, 21.0):
            post = maker.texture(STRIPES, (70.0, 75.0, 80.0), (150.0, 155.0, 150.0), 0.3, 0.3)
            things.append(maker.block("post", (0.15, 0.15, 5.0), float(x), side * (KERB + 0.4),
                                      texture=post))
        for x in np.arange(-LENGTH / 2, LENGTH / 2, 5.6):
            if maker.rng.uniform() < 0.65:
                pose = rigid.from_euler(0, 0, float(maker.rng.normal(0, 0.03)),
                                        (float(x), side * (KERB - 1.0), 0.0))
                things.append(maker.car("parked car", Still(pose)))
    return things


def _traffic(maker: _Maker) -> list[WorldObject]:
    """Cars on a loop round the robot's, and people walking up and down the pavements."""
    loop = stadium(LENGTH, 1.5 * LANE)
    length = AlongPath(loop, 1.0, closed=True).length
    things = [maker.car("car", AlongPath(loop, 7.0, closed=True, offset=length * share))
              for share in (0.08, 0.23, 0.45, 0.62, 0.8)]
    for side in (-1.0, 1.0):
        for x in (-25.0, -5.0, 18.0):
            walk = stadium(14.0, 0.4, 0.12, center=(x, side * (KERB + 1.8)))
            offset = float(maker.rng.uniform(0, 20))
            things.append(maker.person("person", AlongPath(walk, 1.3, closed=True, offset=offset)))
    return things


def street(seed: int = 0, *, moving: bool = True) -> World:
    """A street 80 m long between facades, with parked cars and, if `moving`, traffic and people.

    z = 0 is the road. The drive path is a closed loop on the two inner lanes; traffic circles on
    the outer ones, so nothing ever comes nearer to its centre line than 1.5 m. The same seed gives
    the same world to the last pixel.
    """
    maker = _Maker(seed)
    road = maker.texture(ROAD, (105.0, 105.0, 108.0), (225.0, 225.0, 220.0), LANE, 0.55)
    pavement = maker.texture(TILES, (165.0, 160.0, 150.0), (110.0, 105.0, 100.0), 0.5, 0.4)
    things = [maker.block("road", (LENGTH + 60, 2 * KERB, 1.0), 0.0, 0.0, -1.0, texture=road)]
    things += [maker.block("pavement", (LENGTH + 60, 20.0, 1.12), 0.0, side * (KERB + 10.0), -1.0,
                           texture=pavement) for side in (-1.0, 1.0)]
    things += _facades(maker) + _furniture(maker)
    if moving:
        things += _traffic(maker)
    return World(tuple(things), stadium(LENGTH, LANE / 2), Light())
