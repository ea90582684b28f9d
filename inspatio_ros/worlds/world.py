# SPDX-License-Identifier: Apache-2.0
"""A world of textured boxes, some moving, rendered exactly for any camera, pose and time.

World frame: z up, metres. Cameras: optical axes (geometry.camera). Surfaces are matt, so a surface
point keeps its color from every side; that makes depth, flow and color mutually consistent ground
truth for splatting, stereo and moving-object tests.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import numpy.typing as npt

from inspatio_ros.geometry import rigid
from inspatio_ros.geometry.camera import PinholeCamera
from inspatio_ros.worlds import raytracing

Array = npt.NDArray[np.float64]
Color = tuple[float, float, float]

SKY = -1  # object id of pixels that look at nothing


@dataclass(frozen=True)
class Texture:
    """The look of a face: a pattern of two colors with noise, both tied to metres.

    pattern: one of `raytracing`'s kinds. scale: size of a cell of the pattern, m. noise: relative
    strength of seven octaves of grain between 1.6 m and 2.5 cm. Colors are 0..255.
    """

    pattern: int
    color: Color
    second_color: Color = (0.0, 0.0, 0.0)
    scale: float = 0.2
    noise: float = 0.35
    seed: int = 0

    def row(self) -> list[float]:
        """The texture as the ray caster's table row."""
        return [self.pattern, *self.color, *self.second_color, self.scale, self.noise, self.seed]


@dataclass(frozen=True)
class Part:
    """One box of an object: full size in m, its pose in the object, one texture or six.

    Six textures are for the faces -x, +x, -y, +y, -z, +z.
    """

    size: tuple[float, float, float]
    object_from_part: Array
    textures: tuple[Texture, ...]

    def __post_init__(self) -> None:
        if len(self.textures) not in (1, 6):
            raise ValueError(f"a box has one texture or six, got {len(self.textures)}")
        if min(self.size) <= 0:
            raise ValueError(f"box size {self.size} is not positive")


class Motion(Protocol):
    """Where an object is over time."""

    def world_from_object(self, time: float) -> Array:
        """Pose [4, 4] at `time` in seconds."""


@dataclass(frozen=True)
class Still:
    """An object that stays where it is."""

    pose: Array

    def world_from_object(self, time: float) -> Array:
        """The same pose [4, 4] at every time."""
        return self.pose


@dataclass(frozen=True)
class ConstantVelocity:
    """Straight motion at `velocity` m/s (world axes) from `start`, turning at `yaw_rate` rad/s."""

    start: Array
    velocity: tuple[float, float, float]
    yaw_rate: float = 0.0

    def world_from_object(self, time: float) -> Array:
        """Pose [4, 4] at `time` in seconds."""
        pose = self.start.copy()
        if self.yaw_rate:
            turn = rigid.from_euler(0.0, 0.0, self.yaw_rate * time)
            pose[:3, :3] = turn[:3, :3] @ pose[:3, :3]
        pose[:3, 3] += np.asarray(self.velocity) * time
        return pose


class AlongPath:
    """Motion at constant speed along a polyline [N, 3] m, x axis along the path, z up.

    A closed path is driven round and round; an open one ends in standing still. Heading turns
    evenly between the middles of neighbouring segments, so that it never jumps.
    """

    def __init__(self, waypoints: npt.ArrayLike, speed: float, *, closed: bool = False,
                 offset: float = 0.0) -> None:
        points = np.asarray(waypoints, dtype=np.float64)
        if points.ndim != 2 or points.shape[1] != 3 or len(points) < 2:
            raise ValueError(f"a path needs at least two points [N, 3], got {points.shape}")
        if closed:
            points = np.concatenate([points, points[:1]])
        steps = np.diff(points, axis=0)
        lengths = np.linalg.norm(steps, axis=1)
        if lengths.min() <= 0:
            raise ValueError("a path has two equal neighbouring points")
        self.speed, self.closed, self.offset = speed, closed, offset
        self._points = points
        self._station = np.concatenate([[0.0], np.cumsum(lengths)])
        heading = np.unwrap(np.arctan2(steps[:, 1], steps[:, 0]))
        middle = (self._station[1:] + self._station[:-1]) / 2
        if closed:
            turns = heading[0] - heading[-1]
            full_turn = heading[-1] + (turns + np.pi) % (2 * np.pi) - np.pi - heading[0]
            heading = np.concatenate([[heading[-1] - full_turn], heading,
                                      [heading[0] + full_turn]])
            middle = np.concatenate([[middle[-1] - self.length], middle,
                                     [middle[0] + self.length]])
        self._heading, self._heading_station = heading, middle

    @property
    def length(self) -> float:
        """Metres along the path, the closing segment included."""
        return float(self._station[-1])

    def world_from_object(self, time: float) -> Array:
        """Pose [4, 4] at `time` in seconds."""
        return np.asarray(self.poses(np.array([time]))[0])

    def poses(self, times: npt.ArrayLike) -> Array:
        """Poses [T, 4, 4] at times [T] in seconds."""
        station = self.offset + self.speed * np.asarray(times, dtype=np.float64)
        station = station % self.length if self.closed else np.clip(station, 0.0, self.length)
        heading = np.interp(station, self._heading_station, self._heading)
        poses = np.zeros((len(station), 4, 4))
        poses[:, 0, 0] = poses[:, 1, 1] = np.cos(heading)
        poses[:, 1, 0] = np.sin(heading)
        poses[:, 0, 1] = -poses[:, 1, 0]
        poses[:, 2, 2] = poses[:, 3, 3] = 1.0
        for axis in range(3):
            poses[:, axis, 3] = np.interp(station, self._station, self._points[:, axis])
        return poses


def stadium(length: float, radius: float, height: float = 0.0, *,
            center: tuple[float, float] = (0.0, 0.0), step: float = 0.05) -> Array:
    """Points [N, 3] of a counter-clockwise closed loop: two straights along x and two half turns.

    length: of each straight, m. radius: of the turns, half the distance of the straights.
    """
    arc = np.linspace(-np.pi / 2, np.pi / 2, max(8, int(np.pi * radius / step)))
    straight = np.linspace(-length / 2, length / 2, max(2, int(length)))[1:-1]
    low = np.stack([straight, np.full_like(straight, -radius)], axis=1)
    right = np.stack([length / 2 + radius * np.cos(arc), radius * np.sin(arc)], axis=1)
    half = np.concatenate([low, right])
    loop = np.concatenate([half, -half]) + np.asarray(center)
    return np.concatenate([loop, np.full((len(loop), 1), height)], axis=1)


@dataclass(frozen=True)
class WorldObject:
    """A named thing of one or more boxes that move together."""

    name: str
    parts: tuple[Part, ...]
    motion: Motion

    @property
    def moves(self) -> bool:
        """Whether the object is ever anywhere else."""
        return not isinstance(self.motion, Still)


@dataclass(frozen=True)
class Light:
    """Sun and one lamp; `flicker` is the relative swing of the exposure with period 7 s."""

    sun_direction: tuple[float, float, float] = (0.35, 0.5, 0.8)
    sun: float = 0.55
    ambient: float = 0.55
    lamp_position: tuple[float, float, float] = (0.0, 0.0, 2.5)
    lamp: float = 0.0
    lamp_range: float = 4.0
    flicker: float = 0.0

    def row(self, time: float) -> Array:
        """The light at `time` as the ray caster reads it."""
        towards = np.asarray(self.sun_direction) / np.linalg.norm(self.sun_direction)
        exposure = 1.0 + self.flicker * np.sin(2 * np.pi * time / 7.0)
        return np.array([*towards, self.sun, self.ambient, *self.lamp_position, self.lamp,
                         self.lamp_range, exposure])


@dataclass(frozen=True)
class View:
    """What a camera sees at one time.

    image uint8 RGB [H, W, 3]; depth float32 z-depth [H, W] m, NaN for sky; ids int32 [H, W] index
    into `World.objects`, `SKY` for sky. Depth and ids belong to the pixel's centre.
    """

    image: npt.NDArray[np.uint8]
    depth: npt.NDArray[np.float32]
    ids: npt.NDArray[np.int32]
    camera: PinholeCamera
    world_from_camera: Array
    time: float


@dataclass(frozen=True)
class Flow:
    """Where each pixel of one view lies in another.

    pixels float32 [H, W, 2]: displacement (x, y); NaN behind the other camera. Sky moves with the
    rotation alone. depth float32 [H, W]: z-depth there, NaN for sky. visible bool [H, W]: inside
    the other picture and not hidden there.
    """

    pixels: npt.NDArray[np.float32]
    depth: npt.NDArray[np.float32]
    visible: npt.NDArray[np.bool_]


@dataclass(frozen=True)
class World:
    """Boxes under a light: renders, flow, ray casts and tracks.

    sky: horizon color, zenith color and seed. drive_path: a closed path through free space for a
    robot's base (x forward, z up, on the ground), m.
    """

    objects: tuple[WorldObject, ...]
    drive_path: Array
    light: Light = field(default_factory=Light)
    sky: tuple[float, ...] = (205.0, 215.0, 225.0, 95.0, 140.0, 205.0, 5.0)

    def __post_init__(self) -> None:
        parts = [(index, thing, part) for index, thing in enumerate(self.objects)
                 for part in thing.parts]
        rows: dict[tuple[float, ...], int] = {}
        faces = np.empty((len(parts), 6), dtype=np.int32)
        for p, (_, _, part) in enumerate(parts):
            for face in range(6):
                row = tuple(part.textures[face % len(part.textures)].row())
                faces[p, face] = rows.setdefault(row, len(rows))
        set_ = object.__setattr__  # frozen: these are caches derived from the fields
        set_(self, "_textures", np.array(list(rows)).reshape(-1, raytracing.TEXTURE_COLUMNS))
        set_(self, "_faces", faces)
        set_(self, "_halves", np.array([part.size for _, _, part in parts]) / 2)
        set_(self, "_part_object", np.array([i for i, _, _ in parts], dtype=np.int32))
        set_(self, "_sky_row", np.asarray(self.sky, dtype=np.float64))

    _textures: Array = field(init=False, repr=False, compare=False)
    _faces: npt.NDArray[np.int32] = field(init=False, repr=False, compare=False)
    _halves: Array = field(init=False, repr=False, compare=False)
    _part_object: npt.NDArray[np.int32] = field(init=False, repr=False, compare=False)
    _sky_row: Array = field(init=False, repr=False, compare=False)

    def world_from_objects(self, time: float) -> Array:
        """Poses [O, 4, 4] of all objects at `time` in seconds."""
        return np.stack([thing.motion.world_from_object(time) for thing in self.objects])

    def tracks(self, times: Sequence[float]) -> dict[int, Array]:
        """Poses [T, 4, 4] of every moving object over `times`, by object id."""
        return {index: np.stack([thing.motion.world_from_object(t) for t in times])
                for index, thing in enumerate(self.objects) if thing.moves}

    def render(self, camera: PinholeCamera, world_from_camera: Array, time: float = 0.0, *,
               samples: int = 1) -> View:
        """The exact view of a camera at [4, 4] at `time` in seconds.

        samples: colors are averaged over samples x samples rays a pixel, which smooths the
        silhouettes; textures are filtered in any case. Depth and ids are always the centre's.
        """
        depth, box, colors = self._shaded(camera, world_from_camera, time)
        if samples > 1:
            fine = camera.resized(camera.width * samples, camera.height * samples)
            _, _, dense = self._shaded(fine, world_from_camera, time)
            colors = dense.reshape(camera.height, samples, camera.width, samples, 3).mean((1, 3))
        image = np.clip(np.rint(colors), 0, 255).astype(np.uint8)
        ids = np.where(box >= 0, self._part_object[box], SKY).astype(np.int32)
        depth32 = np.where(np.isfinite(depth), depth, np.nan).astype(np.float32)
        return View(image, depth32, ids, camera, np.array(world_from_camera), float(time))

    def render_batch(self, camera: PinholeCamera, world_from_camera: Array,
                     times: Sequence[float], *, samples: int = 1) -> Iterator[View]:
        """Views along poses [T, 4, 4] at times [T] in seconds, one after the other."""
        if len(world_from_camera) != len(times):
            raise ValueError(f"{len(world_from_camera)} poses but {len(times)} times")
        for pose, time in zip(world_from_camera, times, strict=True):
            yield self.render(camera, pose, time, samples=samples)

    def flow(self, view: View, world_from_camera: Array, time: float,
             camera: PinholeCamera | None = None) -> Flow:
        """The exact forward flow from `view` to another pose [4, 4], time and camera.

        A surface point goes with its object. `visible` is decided by a ray from the other camera
        to the very point: true when nothing is nearer by 1 mm + 1e-4 of its depth.
        """
        other = camera or view.camera
        points, is_sky = self._points_at(view, world_from_camera, time)
        pixels, depth = other.project(points)
        grid = np.stack(np.meshgrid(np.arange(view.camera.width, dtype=np.float64),
                                    np.arange(view.camera.height, dtype=np.float64)), axis=-1)
        inside = ((pixels >= -0.5) & (pixels < np.array(other.size) - 0.5)).all(-1)
        visible: npt.NDArray[np.bool_] = np.array(inside)
        rays = points[inside] / depth[inside][:, None]
        reached, _ = self.cast(
            np.broadcast_to(world_from_camera[:3, 3], rays.shape),
            rays @ world_from_camera[:3, :3].T, time)
        expected = np.where(is_sky[inside], np.inf, depth[inside])
        visible[inside] = reached >= expected * (1 - 1e-4) - 1e-3
        return Flow((pixels - grid).astype(np.float32),
                    np.where(is_sky | (depth <= 0), np.nan, depth).astype(np.float32), visible)

    def cast(self, origins: Array, directions: Array,
             time: float) -> tuple[Array, npt.NDArray[np.int32]]:
        """Distance in units of the direction's length (inf: none) and object id of rays [P, 3]."""
        world_from_box = self._world_from_boxes(time)
        distances = np.empty(len(origins))
        box = np.empty(len(origins), dtype=np.int32)
        raytracing.cast_rays(np.ascontiguousarray(origins, dtype=np.float64),
                             np.ascontiguousarray(directions, dtype=np.float64),
                             rigid.invert(world_from_box), self._halves, distances, box)
        return distances, np.where(box >= 0, self._part_object[box], SKY).astype(np.int32)

    def clearance(self, points: Array, time: float, ignore: Sequence[int] = ()) -> Array:
        """Distance in m [P] from points [P, 3] to the nearest surface, some objects ignored."""
        keep = ~np.isin(self._part_object, list(ignore))
        box_from_world = rigid.invert(self._world_from_boxes(time)[keep])
        halves = self._halves[keep]
        local = np.einsum("bij,pj->bpi", box_from_world[:, :3, :3], points)
        local = np.abs(local + box_from_world[:, None, :3, 3]) - halves[:, None]
        outside = np.linalg.norm(np.maximum(local, 0), axis=-1)
        inside = np.minimum(local.max(-1), 0)
        return np.asarray(np.abs(outside + inside).min(0))

    def drive(self, speed: float, times: npt.ArrayLike) -> Array:
        """world_from_base [T, 4, 4] of a robot on the drive path at `speed` m/s at times [T] s."""
        return AlongPath(self.drive_path, speed, closed=True).poses(times)

    def _world_from_boxes(self, time: float) -> Array:
        poses = self.world_from_objects(time)
        offsets = np.stack([part.object_from_part for thing in self.objects
                            for part in thing.parts])
        return np.ascontiguousarray(poses[self._part_object] @ offsets)

    def _shaded(self, camera: PinholeCamera, world_from_camera: Array,
                time: float) -> tuple[Array, npt.NDArray[np.int32], Array]:
        world_from_box = self._world_from_boxes(time)
        box_from_camera = np.ascontiguousarray(rigid.invert(world_from_box) @ world_from_camera)
        intrinsics = np.array([camera.fx, camera.fy, camera.cx, camera.cy])
        shape = (camera.height, camera.width)
        depth, box = np.empty(shape), np.empty(shape, dtype=np.int32)
        face, colors = np.empty(shape, dtype=np.int8), np.empty((*shape, 3))
        raytracing.draw_boxes(camera.width, camera.height, intrinsics, box_from_camera,
                              self._halves, depth, box, face)
        raytracing.shade(intrinsics, np.ascontiguousarray(world_from_camera), box_from_camera,
                         world_from_box, self._halves, self._faces, self._textures,
                         self.light.row(time), self._sky_row, depth, box, face, colors)
        return depth, box, colors

    def _points_at(self, view: View, world_from_camera: Array,
                   time: float) -> tuple[Array, npt.NDArray[np.bool_]]:
        """View's surface points [H, W, 3] in the other camera, and which are sky (directions)."""
        camera_from_world = rigid.invert(world_from_camera)
        is_sky = view.ids == SKY
        before, after = self.world_from_objects(view.time), self.world_from_objects(time)
        moved = camera_from_world @ after @ rigid.invert(before) @ view.world_from_camera
        turned = camera_from_world @ view.world_from_camera
        turned[:3, 3] = 0.0
        table = np.concatenate([moved, turned[None]])  # SKY = -1 picks the last
        transform = table[view.ids]
        points = view.camera.unproject(np.where(is_sky, 1.0, view.depth.astype(np.float64)))
        return (np.einsum("hwij,hwj->hwi", transform[..., :3, :3], points)
                + transform[..., :3, 3], is_sky)


def right_camera(world_from_left: Array, baseline: float) -> Array:
    """world_from_right of a rectified stereo partner `baseline` m along the left camera's x."""
    return np.asarray(world_from_left @ rigid.from_rotation(np.eye(3), (baseline, 0.0, 0.0)))
