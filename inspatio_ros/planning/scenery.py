# SPDX-License-Identifier: Apache-2.0
"""What a closed loop drives through: what is seen from a place, and what is touched there.

A scenery is an analytic street with obstacles, whose truth is known exactly, or (see
recorded_scenery) the memory of a recording.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from inspatio_ros.geometry import rigid
from inspatio_ros.geometry.camera import PinholeCamera
from inspatio_ros.planning.route import Route
from inspatio_ros.planning.situation import MovingBox
from inspatio_ros.planning.vehicles import VehicleState
from inspatio_ros.sensing.observation import Provenance
from inspatio_ros.worlds.raytracing import CHECKER
from inspatio_ros.worlds.street import street
from inspatio_ros.worlds.world import (
    AlongPath,
    Part,
    Still,
    Texture,
    World,
    WorldObject,
    stadium,
)

Array = npt.NDArray[np.float64]

# A robot rolls over what is lower, and passes below what hangs higher, m.
_ROLLS_OVER, _PASSES_BELOW = 0.13, 1.3
# Pixels of a moving thing that must be seen before it is told of.
_SEEN_PIXELS = 6
_SPEED_STEP = 0.05
# Obstacles on the street: from one to the next, and kept clear of the start, m.
_SPACING, _START_CLEAR = 11.0, 7.0
_CROSSING_SHARE = 0.35
# Of so many moments it is known where what moves is.
_MOMENTS = 32


@dataclass(frozen=True, eq=False)
class Seen:
    """What the robot's camera shows at one time.

    image uint8 RGB [H, W, 3]; depth float32 [H, W] m, NaN unknown; provenance uint8 [H, W] of
    `Provenance`. coverage: share of pixels that rest on what is really there. movers: what moves
    and is in view, as a tracker would tell; None when nobody tells.
    """

    image: npt.NDArray[np.uint8]
    depth: npt.NDArray[np.float32]
    provenance: npt.NDArray[np.uint8]
    coverage: float
    movers: tuple[MovingBox, ...] | None = None


class Scenery(Protocol):
    """A place to drive through. After `reset(seed)` everything follows from the seed."""

    name: str
    route: Route

    def reset(self, seed: int) -> VehicleState:
        """Begin anew; where the robot starts."""

    def world_from_base(self, state: VehicleState) -> Array:
        """The robot's pose [4, 4] in the world."""

    def look(self, camera: PinholeCamera, world_from_camera: Array, time: float) -> Seen:
        """What a camera shows `time` s after the reset."""

    def touched(self, corners: Array, time: float) -> str:
        """Name of what a footprint [4, 2] touches then; empty when nothing."""


class StreetScenery:
    """The analytic street with things in the robot's lane: boxes to pass, people who cross.

    Boxes stand or move within the lane so that a robot 0.6 m wide can always pass on one side.
    The truth is exact: pictures are rendered, contact is that of the boxes themselves.
    """

    name = "street"

    def __init__(self, *, moving: bool = True) -> None:
        self._moving = moving
        self.reset(0)

    def reset(self, seed: int) -> VehicleState:
        """A street, its obstacles and a start, all by the seed."""
        plain = street(seed, moving=self._moving)
        self.route = Route(plain.drive_path, closed=True)
        rng = np.random.default_rng([seed, 6])
        start = float(rng.uniform(0.0, self.route.length))
        things = _obstacles(self.route, start, rng, crossing=self._moving)
        self.world = World((*plain.objects, *things), plain.drive_path, plain.light)
        self._boxes = _Boxes(self.world)
        (x, y), heading = self.route.at(start)[0], self.route.heading(start)[0]
        return VehicleState(float(x), float(y), float(heading))

    def world_from_base(self, state: VehicleState) -> Array:
        """On the level road."""
        return rigid.from_euler(0.0, 0.0, state.yaw, (state.x, state.y, 0.0))

    def look(self, camera: PinholeCamera, world_from_camera: Array, time: float) -> Seen:
        """The exact picture, with the moving things in it."""
        view = self.world.render(camera, world_from_camera, time)
        provenance = np.full(view.depth.shape, Provenance.OBSERVED, np.uint8)
        counts = np.bincount(view.ids[view.ids >= 0].ravel(), minlength=len(self.world.objects))
        shown = [int(i) for i in np.flatnonzero(counts >= _SEEN_PIXELS)
                 if self.world.objects[i].moves]
        return Seen(view.image, view.depth, provenance, 1.0,
                    tuple(self._boxes.mover(i, time) for i in shown))

    def touched(self, corners: Array, time: float) -> str:
        """By the boxes of the world themselves."""
        return self._boxes.touched(corners, time)


def _obstacles(route: Route, start: float, rng: np.random.Generator, *,
               crossing: bool) -> list[WorldObject]:
    """Standing boxes and crossing people along the straights of a route."""
    things: list[WorldObject] = []
    for station in np.arange(0.0, route.length - _SPACING / 2, _SPACING):
        station = float(station + rng.uniform(-2.5, 2.5))
        crosses = crossing and rng.uniform() < _CROSSING_SHARE
        size = rng.uniform((0.4, 0.4, 0.6), (0.9, 0.9, 1.2))
        offset, speed, phase = rng.uniform((-0.9, 0.6, 0.0), (0.9, 1.2, 9.0))
        colors = rng.uniform(40, 230, (2, 3))
        gap = abs((station - start + route.length / 2) % route.length - route.length / 2)
        turning = np.ptp(np.unwrap(route.heading(station + np.linspace(-3, 3, 7)))) > 0.1
        if gap < _START_CLEAR or turning:
            continue
        (r, g, b), (r2, g2, b2) = colors.tolist()
        look = Texture(CHECKER, (r, g, b), (r2, g2, b2), 0.15, 0.4, int(1000 * station) + 1)
        (x, y), heading = route.at(station)[0], float(route.heading(station)[0])
        if crosses:
            person = (0.45, 0.45, 1.6)
            way = stadium(4.4, 0.12)[:, :2] @ _turned(heading + np.pi / 2).T + (x, y)
            motion = AlongPath(np.column_stack([way, np.zeros(len(way))]), speed, closed=True,
                               offset=phase)
            things.append(WorldObject("crossing person", (Part(
                person, rigid.from_rotation(np.eye(3), (0, 0, person[2] / 2)), (look,)),), motion))
        else:
            (x, y) = route.at(station, offset)[0]
            pose = rigid.from_euler(0.0, 0.0, heading + float(rng.normal(0, 0.3)),
                                    (float(x), float(y), float(size[2]) / 2))
            things.append(WorldObject("box", (Part(
                (float(size[0]), float(size[1]), float(size[2])), np.eye(4), (look,)),),
                Still(pose)))
    return things


def _turned(angle: float) -> Array:
    return np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])


class _Boxes:
    """The rectangles on the ground of a world's boxes that a robot can touch."""

    def __init__(self, world: World) -> None:
        self._world = world
        standing: list[tuple[int, Array, Array]] = []
        self._movers: list[tuple[int, Array, Array]] = []
        self._placed: dict[float, tuple[list[int], Array]] = {}
        for index, thing in enumerate(world.objects):
            for part in thing.parts:
                size = np.asarray(part.size)
                if thing.moves:
                    self._movers.append((index, part.object_from_part, size))
                else:
                    pose = thing.motion.world_from_object(0.0) @ part.object_from_part
                    standing.append((index, pose, size))
        reached = [(i, pose, size) for i, pose, size in standing if _in_reach(pose, size)]
        self._names = [world.objects[i].name for i, _, _ in reached]
        self._standing = _rectangles([(pose, size) for _, pose, size in reached])

    def touched(self, corners: Array, time: float) -> str:
        """Name of what a rectangle [4, 2] touches; empty when nothing."""
        hit = rectangles_touch(corners, self._standing)
        if hit.any():
            return self._names[int(np.argmax(hit))]
        indices, rectangles = self._moving_at(time)
        hit = rectangles_touch(corners, rectangles)
        return self._world.objects[indices[int(np.argmax(hit))]].name if hit.any() else ""

    def _moving_at(self, time: float) -> tuple[list[int], Array]:
        """(objects, their rectangles) of what moves; a moment ahead is asked for again later."""
        key = round(time, 6)
        if key not in self._placed:
            if len(self._placed) >= _MOMENTS:
                del self._placed[next(iter(self._placed))]
            poses = {i: self._world.objects[i].motion.world_from_object(key)
                     for i in {i for i, _, _ in self._movers}}
            placed = [(i, poses[i] @ part, size) for i, part, size in self._movers]
            placed = [(i, pose, size) for i, pose, size in placed if _in_reach(pose, size)]
            self._placed[key] = ([i for i, _, _ in placed],
                                 _rectangles([(pose, size) for _, pose, size in placed]))
        return self._placed[key]

    def mover(self, index: int, time: float) -> MovingBox:
        """A moving thing as it is at `time`."""
        motion = self._world.objects[index].motion
        pose = motion.world_from_object(time)
        later = motion.world_from_object(time + _SPEED_STEP)
        velocity = (later[:3, 3] - pose[:3, 3]) / _SPEED_STEP
        corners = np.concatenate([part[:2, 3] + np.array([[-1, -1], [1, 1]]) * size[:2] / 2
                                  for i, part, size in self._movers if i == index])
        size = corners.max(0) - corners.min(0)
        middle = rigid.from_rotation(np.eye(3), (*(corners.max(0) + corners.min(0)) / 2, 0.0))
        return MovingBox(pose @ middle, (float(size[0]), float(size[1])),
                         (float(velocity[0]), float(velocity[1]), float(velocity[2])))


def _in_reach(pose: Array, size: Array) -> bool:
    low, high = pose[2, 3] - size[2] / 2, pose[2, 3] + size[2] / 2
    return bool(high > _ROLLS_OVER and low < _PASSES_BELOW)


def _rectangles(boxes: list[tuple[Array, Array]]) -> Array:
    """Rows [N, 5] x, y, heading, half length, half width of upright boxes."""
    return np.array([(pose[0, 3], pose[1, 3], np.arctan2(pose[1, 0], pose[0, 0]), size[0] / 2,
                      size[1] / 2) for pose, size in boxes]).reshape(-1, 5)


def rectangles_touch(corners: Array, rectangles: Array) -> npt.NDArray[np.bool_]:
    """Whether a rectangle [4, 2] (corners in order) overlaps each of [N, 5] x, y, heading, half
    length, half width.

    By separating axes: two convex shapes are apart exactly when an edge's normal separates them.
    """
    if len(rectangles) == 0:
        return np.zeros(0, np.bool_)
    x, y, heading, half_length, half_width = rectangles.T
    along = np.stack([np.cos(heading), np.sin(heading)], axis=1)
    across = np.stack([-along[:, 1], along[:, 0]], axis=1)
    center = np.stack([x, y], axis=1)
    apart = np.zeros(len(rectangles), np.bool_)
    for axis, half in ((along, half_length), (across, half_width)):
        reach = np.einsum("nd,cd->nc", axis, corners) - (axis * center).sum(1)[:, None]
        apart |= (reach.min(1) > half) | (reach.max(1) < -half)
    for edge in (corners[1] - corners[0], corners[2] - corners[1]):
        normal = np.array([-edge[1], edge[0]]) / np.linalg.norm(edge)
        own = corners @ normal
        middle = center @ normal
        spread = np.abs(along @ normal) * half_length + np.abs(across @ normal) * half_width
        apart |= (middle - spread > own.max()) | (middle + spread < own.min())
    return ~apart
