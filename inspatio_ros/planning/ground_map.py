# SPDX-License-Identifier: Apache-2.0
"""The ground around the robot in cells: seen and drivable, blocked, dropping off, or never seen.

An elevation map in the sense of Stanley's (Thrun et al., Stanley: The Robot that Won the DARPA
Grand Challenge, 2006): what rises above the lowest ground of its cell blocks it. The ground is
followed outwards from where the robot stands. A cell nobody has seen is unknown, never free.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from inspatio_ros.geometry import rigid
from inspatio_ros.memory.looks import DepthLook
from inspatio_ros.memory.world_memory import WorldMemory
from inspatio_ros.planning import ground_map_numba as kernels
from inspatio_ros.planning.footprint import Footprint
from inspatio_ros.planning.ground_map_numba import DROP, GROUND, OBSTACLE, UNKNOWN
from inspatio_ros.planning.movers import MovingBox
from inspatio_ros.planning.trails import without_trails
from inspatio_ros.sensing.observation import Observation

__all__ = ["DROP", "GROUND", "OBSTACLE", "UNKNOWN", "GroundMap", "GroundOptions", "ground_map"]

Array = npt.NDArray[np.float64]
Float = npt.NDArray[np.float32]

MAX_CELLS = 4_000_000
# Depth pixels of a reference that are taken as points, at most.
_REFERENCE_POINTS = 120_000
# Where a camera measured the ground: relative distance, and m per m of distance in height.
_DEPTH_TOLERANCE = 0.15
_HEIGHT_PER_METRE = 0.01


@dataclass(frozen=True)
class GroundOptions:
    """How the ground is mapped.

    radius: m around the robot; farther away everything is unknown. cell: m; 0: a sixth of the
    footprint's width, at most 0.1. step: m that the ground may rise or fall from cell to cell; the
    footprint's clearance when 0. gap: m of unseen ground between seen ground that is bridged,
    which is what lies between the lines of a picture. min_points: that block a cell. Raises
    ValueError on values that make no map.
    """

    radius: float = 25.0
    cell: float = 0.0
    step: float = 0.0
    gap: float = 0.45
    min_points: int = 2

    def __post_init__(self) -> None:
        if not 0 < self.radius < math.inf or not 0 <= self.cell < self.radius:
            raise ValueError(f"ground map: radius {self.radius} m or cell {self.cell} m is wrong")
        if not (self.step >= 0 and self.gap >= 0 and self.min_points >= 1):
            raise ValueError("ground map: step and gap must not be negative and min_points at "
                             "least 1")

    def cell_for(self, footprint: Footprint) -> float:
        """Metres of a cell."""
        cell = self.cell or min(0.1, footprint.width / 6)
        if (2 * self.radius / cell) ** 2 > MAX_CELLS:
            raise ValueError(f"ground map: cells of {cell:.3f} m in a radius of {self.radius} m "
                             f"are more than {MAX_CELLS}: choose larger cells or a smaller radius")
        return cell


@dataclass(frozen=True, eq=False)
class GroundMap:
    """Cells around the robot.

    state: uint8 [H, W] of UNKNOWN, GROUND, OBSTACLE, DROP; rows along y, columns along x of the
    level frame. ground: float32 [H, W] its height there in m, NaN where it was not followed to.
    clearance: float32 [H, W] m from a cell to the nearest OBSTACLE cell. outline: float32
    [H, W, 4, 2] m, x and y of the outermost points that block an OBSTACLE cell, so that it counts
    only as far as it is filled; anything elsewhere. map_from_world: [4, 4]; z up, the corner of
    the first cell is the origin. cell: m.
    """

    state: npt.NDArray[np.uint8]
    ground: Float
    clearance: Float
    outline: Float
    map_from_world: Array
    cell: float

    def at(self, world_points: Array) -> npt.NDArray[np.uint8]:
        """State [P] below points [P, 3] of the world; UNKNOWN outside the map."""
        local = rigid.transform_points(self.map_from_world, world_points)
        columns, rows = np.floor(local[:, :2] / self.cell).astype(np.int64).T
        height, width = self.state.shape
        inside = (rows >= 0) & (columns >= 0) & (rows < height) & (columns < width)
        found = np.full(len(local), UNKNOWN, np.uint8)
        found[inside] = self.state[rows[inside], columns[inside]]
        return found

    @property
    def known_ratio(self) -> float:
        """Share of the cells that were seen."""
        return float(np.count_nonzero(self.state != UNKNOWN) / self.state.size)


def ground_map(
    memory: WorldMemory, references: Sequence[Observation], world_from_base: Array,
    level_from_world: Array, footprint: Footprint, options: GroundOptions,
    movers: Sequence[MovingBox] = (),
) -> GroundMap:
    """The cells around a robot at `world_from_base` [4, 4], from what it remembers and sees.

    level_from_world: [4, 4], z up. movers: stand on ground and are no part of the map. The map
    lies on a lattice of the level frame, so that the same place is the same cell wherever the
    robot stands.
    """
    cell = options.cell_for(footprint)
    count = math.ceil(2 * options.radius / cell)
    base = level_from_world @ world_from_base
    corner = np.floor(base[:2, 3] / cell) * cell - (count // 2) * cell
    floor = float(base[2, 3]) + footprint.ground
    map_from_level = rigid.from_rotation(np.eye(3), (-corner[0], -corner[1], -floor))
    map_from_world = map_from_level @ level_from_world
    clouds = _clouds(memory, references, movers, map_from_world, footprint.clearance)
    low = np.full((count, count), np.inf, np.float32)
    for points, transform in clouds:
        kernels.lowest(points, transform, cell, low)
    ground = np.full(low.shape, np.nan, np.float32)
    state = np.zeros(low.shape, np.uint8)
    under = _covered(map_from_world @ world_from_base, footprint.sides, cell, count)
    step = options.step or footprint.clearance
    kernels.spread_ground(low, under, 0.0, step, footprint.height, ground, state)
    counts, level = np.zeros(low.shape, np.uint16), np.zeros(low.shape, np.uint16)
    outline = np.empty((*low.shape, 4, 2), np.float32)
    for points, transform in clouds:
        kernels.count_above(points, transform, cell, ground, footprint.clearance,
                            footprint.height, step, counts, level, outline)
    # A stray point below ground that was seen is a reflection, no drop.
    state[(state == DROP) & (level >= options.min_points)] = GROUND
    state[counts >= options.min_points] = OBSTACLE
    looks: list[Observation | DepthLook] = [*references[:3], *memory.looks.newest_first]
    hidden = np.zeros(state.shape, np.bool_)
    for look in looks:
        camera = look.camera
        kernels.see_ground(
            state, ground, cell, rigid.invert(map_from_world @ look.world_from_camera),
            np.array([camera.fx, camera.fy, camera.cx, camera.cy]), look.depth,
            _DEPTH_TOLERANCE, footprint.clearance / 2, _HEIGHT_PER_METRE, hidden)
    state = kernels.close_ground(state, ground, hidden, max(1, round(options.gap / cell)))
    state.reshape(-1)[under] = GROUND
    for mover in movers:
        # It stands on ground; what else stands there stays.
        sides = np.array([mover.size[0], mover.size[0], mover.size[1], mover.size[1]]) / 2
        below = _covered(map_from_world @ mover.world_from_box, sides, cell, count)
        flat = state.reshape(-1)
        flat[below[flat[below] == UNKNOWN]] = GROUND
    return GroundMap(state, ground, _clearance(state, cell), outline, map_from_world, cell)


def _clearance(state: npt.NDArray[np.uint8], cell: float) -> Float:
    free = (state != OBSTACLE).astype(np.uint8)
    if free.all():
        return np.full(state.shape, np.inf, np.float32)
    distance = cv2.distanceTransform(free, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    return np.asarray(distance * np.float32(cell), np.float32)


def _clouds(
    memory: WorldMemory, references: Sequence[Observation], movers: Sequence[MovingBox],
    map_from_world: Array, above: float,
) -> list[tuple[Float, Array]]:
    """(points float32 [3, P], map_from_points [4, 4]) of the memory and of the newest reference.

    Without what the movers were, there and then; nothing lower than `above` is taken for theirs.
    """
    cloud = memory.cloud
    now_ns = references[0].stamp_ns if references else int(cloud.stamps[cloud.newest_frame])
    clouds = []
    if memory.point_count:
        points, transform = cloud.used_points, map_from_world @ cloud.world_from_points
        clouds.append((without_trails(
            points, transform, cloud.frames[:points.shape[1]], cloud.stamps, movers,
            map_from_world, now_ns, above), transform))
    if references:
        newest = references[0]
        moving = memory.moving.mask_of(newest) if memory.moving is not None else None
        points = depth_points(newest, _REFERENCE_POINTS, moving)[0]
        transform = map_from_world @ newest.world_from_camera
        clouds.append((without_trails(
            points, transform, np.zeros(points.shape[1], np.uint16), np.array([now_ns]), movers,
            map_from_world, now_ns, above), transform))
    return clouds


def depth_points(
    observation: Observation, limit: int, left_out: npt.NDArray[np.bool_] | None = None
) -> tuple[Float, npt.NDArray[np.uint8], int]:
    """(points float32 [3, P] m in the camera, colours uint8 [P, 3], step), about `limit` at most.

    Every `step`-th pixel of every `step`-th row that has a depth and is not `left_out` [H, W].
    """
    step = max(1, math.ceil(math.sqrt(observation.depth.size / limit)))
    depth = observation.depth[::step, ::step]
    known = depth > 0
    if left_out is not None:
        known &= ~left_out[::step, ::step]
    rows, columns = np.nonzero(known)
    z = depth[rows, columns]
    camera = observation.camera
    x = (columns * step - camera.cx) / camera.fx * z
    y = (rows * step - camera.cy) / camera.fy * z
    points = np.stack([x, y, z]).astype(np.float32)
    return points, observation.image[::step, ::step][rows, columns], step


def _covered(map_from_box: Array, sides: Array, cell: float,
             count: int) -> npt.NDArray[np.int64]:
    """Flat indices of the cells within a box: sides front, rear, left, right in m."""
    if not (np.abs(map_from_box[:2, 3]) < 4 * count * cell).all():
        return np.zeros(0, np.int64)
    middle = int(map_from_box[0, 3] / cell), int(map_from_box[1, 3] / cell)
    reach = math.ceil((float(sides.max()) * math.sqrt(2)) / cell) + 1
    columns, rows = np.meshgrid(np.arange(middle[0] - reach, middle[0] + reach + 1),
                                np.arange(middle[1] - reach, middle[1] + reach + 1))
    dx = (columns + 0.5) * cell - map_from_box[0, 3]
    dy = (rows + 0.5) * cell - map_from_box[1, 3]
    heading = math.atan2(map_from_box[1, 0], map_from_box[0, 0])
    along = math.cos(heading) * dx + math.sin(heading) * dy
    across = math.cos(heading) * dy - math.sin(heading) * dx
    front, rear, left, right = sides + 0.5 * cell
    inside = (along <= front) & (along >= -rear) & (across <= left) & (across >= -right)
    inside &= (rows >= 0) & (columns >= 0) & (rows < count) & (columns < count)
    return np.asarray((rows * count + columns)[inside], np.int64)
