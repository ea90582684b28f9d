# SPDX-License-Identifier: Apache-2.0
"""What really happens in a clip: pictures, depth, and every object with its box and position."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from inspatio_ros.geometry import rigid
from inspatio_ros.geometry.camera import PinholeCamera
from inspatio_ros.worlds.world import View, World, WorldObject

Array = npt.NDArray[np.float64]
Image = npt.NDArray[np.uint8]

# An object is judged in a frame when its box lies within the picture, is this many pixels wide and
# high and at most that share of the picture's sides, and when what is seen of it fills the box.
_LEAST_SIDE_PX = 6.0
_LARGEST_SHARE = 0.6
_LEAST_SEEN = 0.6
# Metres that an object's centre goes during a clip, from which on it counts as moving.
_MOVES_FROM_M = 0.1


@dataclass(frozen=True)
class ObjectTruth:
    """One object over the T frames of a clip.

    boxes [T, 4]: left, top, right, bottom in pixels (centres at integers), of its whole extent;
    NaN where it is not to be judged: outside the picture, hidden for a good part, too small.
    centers [T, 3]: its centre in the world, m. moving: whether it goes anywhere during the clip.
    """

    name: str
    moving: bool
    boxes: Array
    centers: Array

    @property
    def judged(self) -> npt.NDArray[np.bool_]:
        """Frames [T] in which it has a box."""
        return np.asarray(np.isfinite(self.boxes).all(axis=1))


@dataclass(frozen=True)
class SceneTruth:
    """A clip of T frames with its truth. Frame 0 was really seen; the others are to be imagined.

    images: uint8 RGB [T, H, W, 3]. depth: float32 z-depth [T, H, W] m, NaN for sky. movers bool
    [T, H, W]: pixels of moving objects. world_from_camera [T, 4, 4], times [T] s. objects: those
    that can be judged in frame 0. Raises ValueError when shapes disagree.
    """

    name: str
    images: Image
    depth: npt.NDArray[np.float32]
    movers: npt.NDArray[np.bool_]
    camera: PinholeCamera
    world_from_camera: Array
    times: Array
    objects: tuple[ObjectTruth, ...]

    def __post_init__(self) -> None:
        count = len(self.times)
        shape = (count, self.camera.height, self.camera.width)
        found = (self.images.shape[:3], self.depth.shape, self.movers.shape)
        if count < 2 or any(part != shape for part in found) or any(
                o.boxes.shape != (count, 4) or o.centers.shape != (count, 3)
                for o in self.objects) or self.world_from_camera.shape != (count, 4, 4):
            raise ValueError(f"{self.name}: pictures, depth, poses and objects must be of "
                             f"{count} >= 2 frames of {shape[2]}x{shape[1]} pixels")

    def __len__(self) -> int:
        return len(self.times)


def scene_truth(name: str, world: World, camera: PinholeCamera, world_from_camera: Array,
                times: Sequence[float], *, samples: int = 2) -> SceneTruth:
    """The truth of a camera's way [T, 4, 4] at times [T] s through a world."""
    views = list(world.render_batch(camera, world_from_camera, times, samples=samples))
    objects: dict[int, ObjectTruth] = {}
    for index, thing in enumerate(world.objects):
        if np.any(views[0].ids == index):
            truth = _object_truth(index, thing, views)
            if truth.judged[0]:
                objects[index] = truth
    moving = [index for index, thing in enumerate(world.objects) if thing.moves]
    return SceneTruth(
        name, np.stack([view.image for view in views]), np.stack([view.depth for view in views]),
        np.stack([np.isin(view.ids, moving) for view in views]), camera,
        np.asarray(world_from_camera, np.float64), np.asarray(times, np.float64),
        tuple(objects.values()))


def movers_in_view(world: World, camera: PinholeCamera, world_from_camera: Array,
                   times: npt.NDArray[np.float64]) -> int:
    """How often the box of a moving thing lies whole in the picture, over poses [T, 4, 4] at
    times [T] s; what hides it is not looked at."""
    count = 0
    for thing in world.objects:
        if thing.moves:
            corners = np.concatenate(list(_corners(thing)))
            for pose, time in zip(world_from_camera, times, strict=True):
                box = _box_of(thing, corners, camera, pose, float(time))
                count += box is not None and _fits(box, camera.width, camera.height)
    return count


def _object_truth(index: int, thing: WorldObject, views: Sequence[View]) -> ObjectTruth:
    corners = np.concatenate(list(_corners(thing)))
    middle = (corners.min(axis=0) + corners.max(axis=0)) / 2
    boxes, centers = np.full((len(views), 4), np.nan), np.empty((len(views), 3))
    for frame, view in enumerate(views):
        centers[frame] = rigid.transform_points(thing.motion.world_from_object(view.time), middle)
        box = _box_of(thing, corners, view.camera, view.world_from_camera, view.time)
        if box is not None and _is_plain(box, view.ids == index):
            boxes[frame] = box
    way = float(np.linalg.norm(centers - centers[0], axis=1).max())
    return ObjectTruth(thing.name, way > _MOVES_FROM_M, boxes, centers)


def _corners(thing: WorldObject) -> Iterator[Array]:
    signs = np.array(np.meshgrid(*[(-0.5, 0.5)] * 3)).reshape(3, -1).T
    for part in thing.parts:
        yield rigid.transform_points(part.object_from_part, signs * np.asarray(part.size))


def _box_of(thing: WorldObject, corners: Array, camera: PinholeCamera, world_from_camera: Array,
            time: float) -> Array | None:
    """The box [4] round a thing's corners in a picture; None when one is behind the camera."""
    camera_from_object = rigid.invert(world_from_camera) @ thing.motion.world_from_object(time)
    pixels, _ = camera.project(rigid.transform_points(camera_from_object, corners))
    if not np.isfinite(pixels).all():
        return None
    return np.concatenate([pixels.min(axis=0), pixels.max(axis=0)])


def _fits(box: Array, width: int, height: int) -> bool:
    """Whether a box lies within the picture and is neither too small nor too large."""
    picture, sides = np.array([width, height]), box[2:] - box[:2]
    return bool((sides >= _LEAST_SIDE_PX).all() and (sides <= _LARGEST_SHARE * picture).all()
                and (box[:2] >= -0.5).all() and (box[2:] <= picture - 0.5).all())


def _is_plain(box: Array, seen: npt.NDArray[np.bool_]) -> bool:
    """Whether an object with this box, seen at these pixels [H, W], can be judged."""
    rows, columns = np.flatnonzero(seen.any(axis=1)), np.flatnonzero(seen.any(axis=0))
    if rows.size == 0 or not _fits(box, seen.shape[1], seen.shape[0]):
        return False
    extent = np.array([columns[-1] - columns[0] + 1, rows[-1] - rows[0] + 1])
    return bool(extent.prod() >= _LEAST_SEEN * (box[2:] - box[:2]).prod())
