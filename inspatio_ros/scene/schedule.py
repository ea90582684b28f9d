# SPDX-License-Identifier: Apache-2.0
"""Which ways the camera takes through a scene, one clip after the other, all in free space.

The order of WorldStereo's release for pictures (orbit, up, right, left) and of HY-World 2.0's
planner for wandering (arXiv 2604.14268: the farthest node of the widest unseen of 8 sectors); here
the sector is chosen by what the memory does not know of it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from inspatio_ros.geometry import rigid
from inspatio_ros.geometry.camera import PinholeCamera
from inspatio_ros.memory.world_memory import WorldMemory
from inspatio_ros.scene.free_space import FreeSpace
from inspatio_ros.sensing.observation import Observation

Array = npt.NDArray[np.float64]

ORBIT, UP, LEFT, RIGHT, WANDER, TURN = "orbit", "up", "left", "right", "wander", "turn"
KINDS = (ORBIT, UP, LEFT, RIGHT, WANDER, TURN)
SECTORS = 8
# Most that the camera moves (m) and turns (rad) between two frames.
STEP, STEP_ANGLE = 0.06, math.radians(3.0)
_ORBIT_ANGLE, _UP_ANGLE, _SIDE_ANGLE = math.radians(25.0), math.radians(20.0), math.radians(70.0)
# Share of the distance to the point looked at that an orbit goes nearer; shares of its full
# angle that are tried.
_DOLLY, _SHARES = 0.3, (1.0, 0.75, 0.55, 0.4, 0.3, 0.2)
_LEAST_FRAMES = 8
# Places looked round from when a way to wander is chosen, and the width of those looks.
_LOOKOUTS, _LOOK_WIDTH = 24, 64
# A sector that is known but for this share is not worth a way; metres of way weigh little.
_LEAST_UNSEEN, _WAY_COST = 0.08, 0.02


@dataclass(frozen=True)
class SceneClip:
    """One clip: its name and the camera's way, world_from_camera [T, 4, 4]."""

    name: str
    world_from_camera: Array

    def __len__(self) -> int:
        return len(self.world_from_camera)


@dataclass(frozen=True)
class Sector:
    """The place [3] m, the heading rad and the unseen share [0, 1] of the least known sector."""

    place: Array
    heading: float
    unseen: float
    way: Array


def plan_clip(kind: str, name: str, start: Observation, space: FreeSpace, memory: WorldMemory,
              camera: PinholeCamera) -> SceneClip | None:
    """The clip of a kind from where `start` was seen; None when there is no room or no need.

    Raises ValueError for an unknown kind.
    """
    pose, up = start.world_from_camera, space.up
    pivot = pivot_distance(start)
    if kind in (ORBIT, UP):
        return _widest(name, space, lambda share: orbit(pose, up, pivot, share * _ORBIT_ANGLE)
                       if kind == ORBIT else rise(pose, pivot, share * _UP_ANGLE))
    if kind in (LEFT, RIGHT):
        sign = 1.0 if kind == RIGHT else -1.0
        poses = there_and_back(lambda s: heading_turned(pose, up, sign * s * _SIDE_ANGLE))
    elif kind == TURN:
        poses = np.array([heading_turned(pose, up, angle)
                          for angle in np.linspace(0, 2 * math.pi, 72 + 1)])
    elif kind == WANDER:
        sector = least_known_sector(pose, space, memory, camera)
        if sector is None:
            return None
        poses = wander(pose, up, sector)
    else:
        raise ValueError(f"no clip '{kind}'; there are {', '.join(KINDS)}")
    free = space.free_part(evenly(poses))
    return SceneClip(name, free) if len(free) >= _LEAST_FRAMES else None


def _widest(name: str, space: FreeSpace, way: Callable[[float], Array]) -> SceneClip | None:
    """The clip along `way(share)` with the largest share of its full angle that is all free."""
    for share in _SHARES:
        poses = evenly(way(share))
        if len(poses) >= _LEAST_FRAMES and len(space.free_part(poses)) == len(poses):
            return SceneClip(name, poses)
    return None


def pivot_distance(seen: Observation) -> float:
    """How far what the camera looks at is, m: the median of the picture's middle; 2 if unknown."""
    height, width = seen.depth.shape
    middle = seen.depth[height // 4:-height // 4, width // 4:-width // 4]
    known = middle[middle > 0]
    if known.size == 0:
        known = seen.depth[seen.depth > 0]
    return float(np.median(known)) if known.size else 2.0


def heading_turned(pose: Array, up: Array, angle: float) -> Array:
    """The pose turned in place by `angle` rad to the right about `up` [3]."""
    turned = pose.copy()
    turned[:3, :3] = _rotation(up, -angle) @ pose[:3, :3]
    return turned


def orbit(pose: Array, up: Array, pivot: float, angle: float, frames: int = 96) -> Array:
    """Right, left and back about the point `pivot` m ahead, looking at it.

    Nearer to it meanwhile: beside the camera nothing was seen, before it there was.
    """
    middle = pose[:3, 3] + pivot * pose[:3, 2]
    return np.array([
        _about(_ahead(pose, pivot, s), middle, up, angle * math.sin(2 * math.pi * s))
        for s in np.linspace(0, 1, frames)])


def rise(pose: Array, pivot: float, angle: float, frames: int = 64) -> Array:
    """Up by `angle` rad about the point `pivot` m ahead, looking at it, nearer to it, and back."""
    middle = pose[:3, 3] + pivot * pose[:3, 2]
    return np.array([
        _about(_ahead(pose, pivot, s), middle, pose[:3, 0], -angle * math.sin(math.pi * s) ** 2)
        for s in np.linspace(0, 1, frames)])


def _ahead(pose: Array, pivot: float, share: float) -> Array:
    forward = _DOLLY * pivot * math.sqrt(max(0.0, math.sin(math.pi * share)))
    return _moved(pose, pose[:3, 3] + forward * pose[:3, 2])


def there_and_back(way: Callable[[float], Array], frames: int = 64) -> Array:
    """Poses of `way(s)`, s from 0 to 1 and back."""
    return np.array([way(math.sin(math.pi * s)) for s in np.linspace(0, 1, frames)])


def wander(pose: Array, up: Array, sector: Sector) -> Array:
    """Along the free way to a place, turning towards a sector on the way, then looking round."""
    way = sector.way
    lengths = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(way, axis=0), axis=1))])
    total = float(lengths[-1])
    count = max(2, math.ceil(total / STEP) + 1)
    stations = np.linspace(0, total, count)
    centers = np.stack([np.interp(stations, lengths, way[:, axis]) for axis in range(3)], axis=-1)
    level = _level(pose, up)
    turn = _wrapped(sector.heading - _heading(level, up))
    poses = []
    for center, share in zip(centers, np.linspace(0, 1, count), strict=True):
        poses.append(heading_turned(_moved(level, center), up, turn * share))
    last = poses[-1]
    half = math.pi / SECTORS * 1.5
    for angle in half * np.sin(np.linspace(0, 2 * math.pi, 40)):
        poses.append(heading_turned(last, up, float(angle)))
    return np.array([pose, *poses])


def least_known_sector(pose: Array, space: FreeSpace, memory: WorldMemory,
                       camera: PinholeCamera) -> Sector | None:
    """Of all free places that can be reached, the sector of which the memory knows least.

    None when nothing is unknown enough to be worth a way.
    """
    ways = space.reachable(pose[:3, 3])
    reached = np.flatnonzero(np.isfinite(ways.lengths))
    if len(reached) > _LOOKOUTS:
        # Spread over the places: near ones come first in their order.
        reached = reached[np.unique(np.linspace(0, len(reached) - 1, _LOOKOUTS).astype(int))]
    small = camera.resized(_LOOK_WIDTH, max(8, round(_LOOK_WIDTH * camera.height / camera.width)))
    level = _level(pose, space.up)
    best, best_value = None, -math.inf
    for number in reached:
        place = ways.places[number]
        for sector in range(SECTORS):
            angle = 2 * math.pi * sector / SECTORS
            view = heading_turned(_moved(level, place), space.up, angle)
            unseen = float(1.0 - memory.render(small, view).settled.mean())
            value = unseen - _WAY_COST * float(ways.lengths[number])
            if unseen >= _LEAST_UNSEEN and value > best_value:
                heading = _heading(view, space.up)
                best, best_value = Sector(place, heading, unseen, ways.way_to(int(number))), value
    return best


def evenly(poses: Array) -> Array:
    """The same way in steps of at most STEP m and STEP_ANGLE rad."""
    steps = np.linalg.norm(np.diff(poses[:, :3, 3], axis=0), axis=1) / STEP
    turns = rigid.rotation_angle(rigid.invert(poses[:-1]) @ poses[1:]) / STEP_ANGLE
    effort = np.concatenate([[0.0], np.cumsum(np.maximum(steps, turns) + 1e-9)])
    count = max(2, math.ceil(float(effort[-1])) + 1)
    return rigid.interpolate(effort, poses, np.linspace(0, effort[-1], count))


def choose_starts(observations: Sequence[Observation], count: int) -> list[Observation]:
    """Up to `count` observations to start from, far apart: the first, then the farthest each."""
    chosen = [0]
    poses = np.stack([o.world_from_camera for o in observations])
    nearest = np.full(len(observations), np.inf)
    while len(chosen) < min(count, len(observations)):
        step = rigid.invert(poses[chosen[-1]]) @ poses
        away = np.linalg.norm(step[:, :3, 3], axis=1) + rigid.rotation_angle(step)
        nearest = np.minimum(nearest, away)
        if nearest.max() < 1e-6:
            break
        chosen.append(int(np.argmax(nearest)))
    return [observations[i] for i in chosen]


def _about(pose: Array, middle: Array, axis: Array, angle: float) -> Array:
    turn = _rotation(axis, angle)
    moved = pose.copy()
    moved[:3, :3] = turn @ pose[:3, :3]
    moved[:3, 3] = middle + turn @ (pose[:3, 3] - middle)
    return moved


def _rotation(axis: Array, angle: float) -> Array:
    x, y, z = axis / np.linalg.norm(axis)
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.asarray(np.eye(3) + math.sin(angle) * cross
                      + (1 - math.cos(angle)) * cross @ cross)


def _moved(pose: Array, center: Array) -> Array:
    moved = pose.copy()
    moved[:3, 3] = center
    return moved


def _level(pose: Array, up: Array) -> Array:
    """The pose turned so that it looks along the ground."""
    forward = pose[:3, 2] - up * float(pose[:3, 2] @ up)
    if np.linalg.norm(forward) < 1e-3:
        forward = pose[:3, 1] - up * float(pose[:3, 1] @ up)
    forward /= np.linalg.norm(forward)
    right = np.cross(forward, up)
    return rigid.from_rotation(np.stack([right, -up, forward], axis=1), pose[:3, 3])


def _heading(pose: Array, up: Array) -> float:
    """The angle of the view about `up`, rightwards, from a fixed direction."""
    first = np.cross(up, [1.0, 0, 0] if abs(up[0]) < 0.9 else [0, 0, 1.0])
    first /= np.linalg.norm(first)
    return math.atan2(float(pose[:3, 2] @ np.cross(first, up)), float(pose[:3, 2] @ first))


def _wrapped(angle: float) -> float:
    return (angle + math.pi) % (2 * math.pi) - math.pi
