# SPDX-License-Identifier: Apache-2.0
"""What a look shows of one thing: its pixels, its points, its picture."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from inspatio_ros.memory.motion import Look
from inspatio_ros.memory.tracks import Patch, Track, box_axes
from inspatio_ros.sensing.observation import Observation

Array = npt.NDArray[np.float64]
Float = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]

# Points of a thing's surface that are carried to find it again.
PATCH_POINTS = 2000
# Height below what is seen to stand out, m, in which feet and wheels reach the ground.
_FEET = 0.2


@dataclass(frozen=True)
class Cutout:
    """Pixels of a look: mask bool [h, w] is the smallest window that holds them, `top` rows below
    and `left` columns right of the look's corner. At least one pixel is chosen."""

    top: int
    left: int
    mask: Mask

    @property
    def window(self) -> tuple[slice, slice]:
        """Where in the look it lies."""
        height, width = self.mask.shape
        return np.s_[self.top:self.top + height, self.left:self.left + width]

    def at_rim(self, shape: tuple[int, ...]) -> bool:
        """Whether the rim of a look of this shape cuts it off."""
        rows, columns = self.window
        return bool(rows.start == 0 or rows.stop == shape[0] or columns.start < 2
                    or columns.stop > shape[1] - 2)


def cutout(places: npt.NDArray[np.int32], width: int) -> Cutout:
    """The cutout of flat pixels [P > 0] of a look of this width."""
    rows, columns = np.divmod(places, np.int32(width))
    top, left = int(rows.min()), int(columns.min())
    mask = np.zeros((int(rows.max()) - top + 1, int(columns.max()) - left + 1), np.bool_)
    mask[rows - top, columns - left] = True
    return Cutout(top, left, mask)


def points_of(look: Look, cut: Cutout) -> Array:
    """World points [P, 3] of the chosen pixels of known depth."""
    return _points(look, cut, None)[0]


def sample_of(look: Look, cut: Cutout) -> tuple[Array, int]:
    """Of the world points [P, 3] every so manyth, that they are about PATCH_POINTS, and which."""
    return _points(look, cut, PATCH_POINTS)


def _points(look: Look, cut: Cutout, wanted: int | None) -> tuple[Array, int]:
    depth = look.depth[cut.window]
    rows, columns = np.nonzero(cut.mask & (depth > 0))
    step = max(1, len(rows) // wanted) if wanted else 1
    rows, columns = rows[::step], columns[::step]
    camera, z = look.camera, depth[rows, columns].astype(np.float64)
    local = np.stack([(columns + (cut.left - camera.cx)) / camera.fx * z,
                      (rows + (cut.top - camera.cy)) / camera.fy * z, z])
    pose = look.world_from_camera
    return np.asarray((pose[:3, :3] @ local + pose[:3, 3:]).T), step


def middle_of(points: Array) -> Array:
    """Median [3] of points [P, 3]."""
    return np.median(np.ascontiguousarray(points.T), axis=1)


def extent(points: Array) -> tuple[Array, Array]:
    """Low and high end [3] of points [P, 3] along each axis, without the outermost hundredths."""
    count = len(points)
    ends = [0.01 * (count - 1), 0.99 * (count - 1)]
    whole = [int(e) for e in ends]
    kth = sorted({k for w in whole for k in (w, min(w + 1, count - 1))})
    ordered = np.partition(np.ascontiguousarray(points.T), kth, axis=1)
    low, high = (ordered[:, w] + (e - w) * (ordered[:, min(w + 1, count - 1)] - ordered[:, w])
                 for e, w in zip(ends, whole, strict=True))
    return low, high


def with_feet(track: Track, look: Look, cut: Cutout) -> Cutout:
    """The cutout and pixels below it, too low to stand out from the ground, within its outline."""
    height, width = cut.mask.shape
    present = np.flatnonzero(cut.mask.any(axis=1))
    more = min(max(2, round(0.3 * height)), look.depth.shape[0] - cut.top - height)
    grown = np.zeros((height + more, width), np.bool_)
    grown[:height] = cut.mask
    from_row = int(present[len(present) // 2])
    below = Cutout(cut.top + from_row, cut.left, ~grown[from_row:])
    depth = look.depth[below.window]
    below.mask[:] &= depth > 0
    points = points_of(look, below)
    local = (points - track.mean[:3] - track.middle) @ box_axes(track.up, track.heading)
    within = (np.abs(local[:, :2]) <= track.half[:2] + 0.05).all(axis=1)
    grown[from_row:][below.mask] = (
        within & (local[:, 2] < 0) & (local[:, 2] > -track.half[2] - _FEET))
    last = int(np.flatnonzero(grown.any(axis=1))[-1]) + 1
    return Cutout(cut.top, cut.left, grown[:last])


def patch_of(observation: Observation, look: Look, cut: Cutout) -> Patch:
    """The window of the observation that shows a cutout of its look, and some of its points."""
    rows, columns = cut.window
    height, width = look.depth.shape
    scale_x, scale_y = observation.camera.width / width, observation.camera.height / height
    left, right = int(columns.start * scale_x), int(np.ceil(columns.stop * scale_x))
    top, bottom = int(rows.start * scale_y), int(np.ceil(rows.stop * scale_y))
    window = np.s_[top:bottom, left:right]
    depth, inside, near = observation.depth[window], cut.mask, look.depth[cut.window]
    if inside.shape != depth.shape:
        size = (right - left, bottom - top)
        inside = cv2.resize(inside.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST) > 0
        near = np.asarray(cv2.resize(near, size, interpolation=cv2.INTER_NEAREST), np.float32)
    # Gaps that the look has closed stay closed here.
    depth = np.where(depth > 0, depth, near)
    depth[~inside] = np.nan
    points, step = sample_of(look, cut)
    return Patch(observation.stamp_ns, observation.image[window].copy(),
                 np.asarray(depth, np.float32),
                 observation.camera.cropped(left, top, right - left, bottom - top),
                 observation.world_from_camera,
                 np.ascontiguousarray(points.T, np.float32), round(step**0.5 / 2))


def enlarged(mask: Mask, observation: Observation) -> Mask:
    """A mask of a look in the size of its observation."""
    if mask.shape == observation.depth.shape:
        return mask
    full = cv2.resize(mask.astype(np.uint8), observation.camera.size,
                      interpolation=cv2.INTER_NEAREST)
    return np.asarray(full > 0)
