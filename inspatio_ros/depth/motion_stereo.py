# SPDX-License-Identifier: Apache-2.0
"""Metric depth of one moving camera whose poses are known, without learned weights.

Method: the newest picture is swept by planes (Collins 1996) against a few earlier ones that are
turned to its orientation, so that every plane is a scaling and a shift of the picture. Windows are
compared by census codes (Zabih and Woodfill 1994), smoothness comes from semi-global matching
(Hirschmueller 2008). What moves by itself, is hidden or has no parallax is unknown; gaps within a
surface get the plane of what is known around them, reached without crossing an edge of the picture
(recursive edge-aware weights, Gastal and Oliveira 2011).
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from inspatio_ros.depth import plane_sweep_numba as kernels
from inspatio_ros.depth.stereo import grey
from inspatio_ros.geometry import rigid
from inspatio_ros.geometry.camera import PinholeCamera

Array = npt.NDArray[np.float64]
Depth = npt.NDArray[np.float32]
Picture = npt.NDArray[np.uint8]

_NEAR_MARGIN = 0.6  # the sweep begins at this share of the nearest depth seen before
_NEAR_PERCENTILE = 2.0
_SPECKLE_PLANES = 2.0
_HOLE_RADIUS = 2
_HOLE_KNOWN = 8
_HOLE_SPREAD = 2.0
# Gaps: how fast weights fade, in px of way and in grey levels of edges crossed; what has to arrive
# and how well it has to lie on a plane.
_REACH, _EDGE = 70.0, 16.0
_SUPPORT, _SPREAD = 2.5, 0.17


@dataclass(frozen=True)
class MotionStereoOptions:
    """How depth is made from motion.

    min_depth, max_depth: m, depth outside is unknown. min_baseline: m that the camera must have
    moved. max_rotation: radians that a partner may be turned. partners: earlier pictures matched
    at once. capacity: earlier pictures held. pixels: size of the matched picture; the result keeps
    the full size. planes: depths tried. min_parallax: pixels of the matched picture by which a
    point must have moved between the two; the relative error of depth is about 0.4 over it.
    uniqueness: ratio by which the best depth must win. max_cost: census bits, of 24, that may
    differ. speckle_size: smallest region kept, pixels of a picture of `pixels`. consistency:
    relative difference to an earlier depth picture above which depth is dropped. gap: pixels of
    the matched picture, at most so far from what was measured a surface is continued; 0 leaves
    gaps. max_age: s after which a picture is no partner any more (things move, odometry drifts).
    """

    min_depth: float = 0.3
    max_depth: float = 80.0
    min_baseline: float = 0.05
    max_rotation: float = 0.5
    partners: int = 4
    capacity: int = 16
    pixels: int = 80_000
    planes: int = 64
    min_parallax: float = 2.5
    uniqueness: float = 1.02
    max_cost: float = 9.0
    speckle_size: int = 400
    consistency: float = 0.08
    gap: float = 24.0
    max_age: float = 30.0

    def __post_init__(self) -> None:
        if not 0 < self.min_depth < self.max_depth:
            raise ValueError(f"motion stereo depth range {self.min_depth}..{self.max_depth} m is "
                             "empty")
        for name, low in (("min_baseline", 1e-6), ("max_rotation", 1e-6), ("partners", 1),
                          ("capacity", 2), ("pixels", 1_000), ("planes", 8), ("max_age", 1e-6)):
            if getattr(self, name) < low:
                raise ValueError(f"motion stereo {name} {getattr(self, name)} is below {low}")
        if self.partners > 4:
            raise ValueError(f"motion stereo partners {self.partners} is above 4")


@dataclass(frozen=True, eq=False)
class _View:
    stamp_ns: int
    grey: Picture
    world_from_camera: Array
    depth: Depth | None


@dataclass(frozen=True)
class MotionStereoStatus:
    """Why the last picture has depth or none: one word, and the baselines of its partners in m.

    reason: 'matched', 'first', 'no_baseline' (the camera has not moved enough), 'turned' (it
    turned too far).
    """

    reason: str
    baselines: tuple[float, ...] = ()


class MotionStereo:
    """Depth of the newest picture of a moving camera.

    `status` says what became of the last picture. One thread at a time; two are used within.
    """

    def __init__(self, options: MotionStereoOptions | None = None) -> None:
        self.options = options or MotionStereoOptions()
        self.status = MotionStereoStatus("first")
        self._views: deque[_View] = deque(maxlen=self.options.capacity)
        self._camera: PinholeCamera | None = None
        self._near = 0.0

    def clear(self) -> None:
        """Forget all pictures: time or odometry jumped."""
        self._views.clear()
        self._camera, self._near = None, 0.0
        self.status = MotionStereoStatus("first")

    def add(self, stamp_ns: int, image: Picture, camera: PinholeCamera,
            world_from_camera: Array) -> Depth | None:
        """z-depth float32 [H, W] m, NaN unknown, of an RGB or grey uint8 picture, or None.

        None while no earlier picture is far enough away; `status` says why. A stamp that is not
        later than the last, or another camera, begins anew. Raises ValueError when the picture is
        not the camera's size or the pose [4, 4] not rigid.
        """
        if image.shape[:2] != (camera.height, camera.width) or image.dtype != np.uint8:
            raise ValueError(f"picture: expected uint8 {camera.width}x{camera.height}, got "
                             f"{image.dtype} {list(image.shape)}")
        pose = rigid.require_rigid(world_from_camera, "world_from_camera")
        if self._camera != camera or (self._views and stamp_ns <= self._views[-1].stamp_ns):
            self.clear()
            self._camera = camera
        small = self._matched_camera(camera)
        picture = np.asarray(cv2.resize(grey(image), small.size, interpolation=cv2.INTER_AREA),
                             dtype=np.uint8)
        view = _View(stamp_ns, picture, pose, None)
        partners = self._partners(view, small)
        inverse = None
        if partners:
            inverse = self._inverse_depth(view, partners, small)
            view = _View(stamp_ns, picture, pose, inverse)
        self._keep(view, small)
        if inverse is None:
            return None
        # What is filled in here is no measurement that later pictures are checked against.
        return self._full_size(self._without_gaps(inverse, picture), camera)

    def _matched_camera(self, camera: PinholeCamera) -> PinholeCamera:
        scale = min(1.0, math.sqrt(self.options.pixels / (camera.width * camera.height)))
        return camera.resized(max(8, round(camera.width * scale)),
                              max(8, round(camera.height * scale)))

    def _reach(self, small: PinholeCamera) -> float:
        """The baseline in m at which the nearest surface moves through all planes."""
        near = self._near or 4 * self.options.min_depth
        return max(self.options.min_baseline, self.options.planes * near / small.fx)

    def _partners(self, view: _View, small: PinholeCamera) -> list[_View]:
        """Earlier pictures at about the full, half and quarter of the widest useful baseline."""
        options = self.options
        fresh = [v for v in self._views if view.stamp_ns - v.stamp_ns <= options.max_age * 1e9]
        moves = [rigid.invert(v.world_from_camera) @ view.world_from_camera for v in fresh]
        baselines = np.array([np.linalg.norm(m[:3, 3]) for m in moves])
        moved = baselines >= options.min_baseline
        straight = np.array([rigid.rotation_angle(m) <= options.max_rotation for m in moves],
                            dtype=bool)
        usable = np.flatnonzero(moved & straight)
        if not len(usable):
            reason = "first" if not fresh else "turned" if moved.any() else "no_baseline"
            self.status = MotionStereoStatus(reason)
            return []
        reach, chosen = self._reach(small), []
        for part in range(options.partners):
            index = int(usable[np.argmin(np.abs(np.log(
                baselines[usable] / max(reach / 2**part, options.min_baseline))))])
            if index not in chosen:
                chosen.append(index)
        chosen.sort(key=lambda index: -baselines[index])
        self.status = MotionStereoStatus(
            "matched", tuple(float(baselines[index]) for index in chosen))
        return [fresh[index] for index in chosen]

    def _keep(self, view: _View, small: PinholeCamera) -> None:
        """Hold the picture when it is far enough from the last one held."""
        if self._views:
            moved = float(np.linalg.norm(
                view.world_from_camera[:3, 3] - self._views[-1].world_from_camera[:3, 3]))
            turned = rigid.rotation_angle(
                rigid.invert(self._views[-1].world_from_camera) @ view.world_from_camera)
            # Spread so that all held pictures together reach the widest useful baseline.
            spacing = max(self.options.min_baseline / 2,
                          1.2 * self._reach(small) / self.options.capacity)
            if moved < spacing and turned < self.options.max_rotation / 4:
                return
        self._views.append(view)

    def _inverse_depth(self, view: _View, partners: list[_View], small: PinholeCamera) -> Depth:
        """1 / z in 1/m at the matched size, NaN unknown."""
        options = self.options
        turned = [_turned(partner, view, small) for partner in partners]
        step = self._plane_step(turned[0][2], small)
        inside = np.ones(view.grey.shape, np.uint8)
        own = _census(view.grey, inside)
        others = np.stack([_census(picture, mask) for picture, mask, _ in turned])
        maps = np.stack([_plane_maps(offset, step, options.planes, small)
                         for _, _, offset in turned])
        planes = self._match(view.grey, own, others, maps)
        offset = turned[0][2]
        planes = self._without_hidden(planes, offset, step, small)
        planes[_parallax(planes, offset, step, small) < options.min_parallax] = np.nan
        planes = _without_speckles(
            planes, round(options.speckle_size * planes.size / options.pixels))
        planes = _without_holes(planes)
        inverse = planes * np.float32(step)
        inverse = self._consistent(inverse, view, partners, small)
        with np.errstate(invalid="ignore"):
            inside_range = (inverse >= 1 / options.max_depth) & (inverse <= 1 / options.min_depth)
        inverse = np.where(inside_range, inverse, np.float32(np.nan))
        self._remember_near(inverse)
        return inverse

    def _plane_step(self, offset: Array, small: PinholeCamera) -> float:
        """Inverse depth between two planes: one pixel of motion where the picture moves most."""
        corners = np.array([[0, 0], [small.width - 1, 0], [0, small.height - 1],
                            [small.width - 1, small.height - 1]], dtype=np.float64)
        motion = np.stack([
            small.fx * offset[0] - (corners[:, 0] - small.cx) * offset[2],
            small.fy * offset[1] - (corners[:, 1] - small.cy) * offset[2]], axis=1)
        fastest = float(np.linalg.norm(motion, axis=1).max())
        nearest = 1 / max(self._near * _NEAR_MARGIN, self.options.min_depth)
        if not self._near:
            nearest = min(nearest, self.options.planes / fastest)
        return nearest / (self.options.planes - 1)

    def _remember_near(self, inverse: Depth) -> None:
        known = inverse[np.isfinite(inverse)]
        if known.size < inverse.size // 50:
            return
        near = 1 / float(np.percentile(known, 100 - _NEAR_PERCENTILE))
        self._near = near if not self._near else 0.5 * (self._near + near)

    def _match(self, picture: Picture, own: npt.NDArray[np.uint32],
               others: npt.NDArray[np.uint32], maps: Depth) -> Depth:
        """The winning plane of each pixel with its fraction, NaN unknown."""
        options = self.options
        height, width = picture.shape
        cost = np.empty((height, width, options.planes), np.int16)
        total = np.empty_like(cost)
        winner = np.empty((height, width), np.float32)
        small, large = np.int16(5 * kernels.COST_OF_BIT), np.int16(45 * kernels.COST_OF_BIT)
        _in_two(height, lambda a, b: kernels.sweep(own, others, maps, cost, a, b))
        _in_two(height, lambda a, b: kernels.along_rows(cost, picture, small, large, total, a, b))
        _in_two(width, lambda a, b: kernels.along_columns(
            cost, picture, small, large, total, a, b))
        _in_two(height, lambda a, b: kernels.choose(
            total, cost, options.uniqueness, options.max_cost * kernels.COST_OF_BIT, winner, a, b))
        return winner

    def _without_hidden(self, planes: Depth, offset: Array, step: float,
                        small: PinholeCamera) -> Depth:
        move = np.array([small.fx * offset[0] * step, small.fy * offset[1] * step,
                         offset[2] * step, small.cx, small.cy], dtype=np.float32)
        kept, scratch = np.empty_like(planes), np.empty_like(planes)
        kernels.drop_hidden(planes, move, np.float32(1.5), scratch, kept)
        return kept

    def _consistent(self, inverse: Depth, view: _View, partners: list[_View],
                    small: PinholeCamera) -> Depth:
        """Drop what an earlier depth picture contradicts: it moves by itself or was mismatched."""
        against = np.zeros(inverse.shape, np.int8)
        for partner in partners:
            if partner.depth is None:
                continue
            there = rigid.invert(partner.world_from_camera) @ view.world_from_camera
            points = small.unproject(1 / inverse.astype(np.float64))
            pixels, z = small.project(rigid.transform_points(there, points))
            before = cv2.remap(partner.depth, pixels.astype(np.float32), None,  # type: ignore[call-overload]
                               cv2.INTER_NEAREST, borderValue=float("nan"))
            with np.errstate(invalid="ignore"):
                ratio = before * z
                agrees = np.abs(ratio - 1) <= self.options.consistency
                against += np.where(np.isfinite(ratio), np.where(agrees, -1, 1), 0).astype(np.int8)
        return np.where(against > 0, np.float32(np.nan), inverse)

    def _without_gaps(self, inverse: Depth, picture: Picture) -> Depth:
        """`inverse` with its surfaces continued into gaps; inverse depth of a plane is linear."""
        if self.options.gap <= 0 or not np.isfinite(inverse).any():
            return inverse
        height, width = inverse.shape
        unknown = np.isnan(inverse).astype(np.uint8)
        distance = cv2.distanceTransform(unknown, cv2.DIST_L2, 3)
        near = (distance <= self.options.gap).astype(np.uint8)
        # In units of the nearest: the moments are sums of squares in float32.
        unit = np.float32(np.nanmax(inverse))
        known = inverse / unit
        sums = np.empty((height, width, 10), np.float32)
        along, down = _passing(picture)
        _in_two(height, lambda a, b: kernels.moments(known, sums, a, b))
        _in_two(height, lambda a, b: kernels.spread_rows(sums, along, a, b))
        _in_two(width, lambda a, b: kernels.spread_columns(sums, down, a, b))
        filled = np.empty_like(inverse)
        _in_two(height, lambda a, b: kernels.fill_surfaces(
            known, sums, near, np.float32(_SUPPORT), np.float32(_SPREAD), filled, a, b))
        filled *= unit
        low, high = 1 / self.options.max_depth, 1 / self.options.min_depth
        with np.errstate(invalid="ignore"):
            return np.where((filled >= low) & (filled <= high), filled, np.float32(np.nan))

    def _full_size(self, inverse: Depth, camera: PinholeCamera) -> Depth:
        # Nearest keeps silhouettes sharp: a mean of two depths is a point in the air.
        large = cv2.resize(inverse, camera.size, interpolation=cv2.INTER_NEAREST)
        return np.asarray(1 / large, dtype=np.float32)


def _in_two(length: int, work: Callable[[int, int], None]) -> None:
    """`work(first, last)` on both halves at the same time."""
    with ThreadPoolExecutor(1) as pool:
        other = pool.submit(work, length // 2, length)
        work(0, length // 2)
        other.result()


def _census(picture: Picture, mask: Picture) -> npt.NDArray[np.uint32]:
    codes = np.empty(picture.shape, np.uint32)
    _in_two(len(picture), lambda a, b: kernels.census(picture, mask, codes, a, b))
    return codes


def _turned(partner: _View, view: _View, small: PinholeCamera) -> tuple[Picture, Picture, Array]:
    """The partner's picture turned to the view's orientation, its mask, and the view's place.

    The place [3] in m is the origin of the view in axes parallel to its own at the partner.
    """
    partner_from_view = rigid.invert(partner.world_from_camera) @ view.world_from_camera
    rotation = partner_from_view[:3, :3]
    homography = small.matrix @ rotation @ np.linalg.inv(small.matrix)
    # The map from turned to stored pixels is given, so that OpenCV need not invert it.
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    picture = cv2.warpPerspective(partner.grey, homography, small.size, flags=flags)
    mask = cv2.warpPerspective(np.ones_like(partner.grey), homography, small.size,
                               flags=cv2.INTER_NEAREST | cv2.WARP_INVERSE_MAP)
    mask = cv2.erode(mask, np.ones((5, 5), np.uint8), borderValue=1)
    return (np.asarray(picture, np.uint8), np.asarray(mask, np.uint8),
            rotation.T @ partner_from_view[:3, 3])


def _plane_maps(offset: Array, step: float, planes: int, small: PinholeCamera) -> Depth:
    """Scale and shifts [D, 3] that put the view's pixels on plane d into the turned partner."""
    inverse = np.arange(planes) * step
    z = 1 + offset[2] * inverse
    scale = np.where(z > 0.05, 1 / np.maximum(z, 0.05), 1e6)
    return np.stack([
        scale, small.cx + scale * (small.fx * offset[0] * inverse - small.cx),
        small.cy + scale * (small.fy * offset[1] * inverse - small.cy)], axis=1).astype(np.float32)


def _passing(picture: Picture) -> tuple[Depth, Depth]:
    """Weights [H, W] that pass from the pixel to the left, and from the one above."""
    grey = picture.astype(np.float32)
    along, down = np.zeros_like(grey), np.zeros_like(grey)
    along[:, 1:] = np.abs(np.diff(grey, axis=1))
    down[1:] = np.abs(np.diff(grey, axis=0))
    return (np.exp(-1 / np.float32(_REACH) - along / np.float32(_EDGE)),
            np.exp(-1 / np.float32(_REACH) - down / np.float32(_EDGE)))


def _parallax(planes: Depth, offset: Array, step: float, small: PinholeCamera) -> Depth:
    """Pixels by which each point moved beyond the turn of the camera."""
    inverse = planes * np.float32(step)
    u = (np.arange(small.width) - small.cx).astype(np.float32)
    v = (np.arange(small.height) - small.cy).astype(np.float32)[:, None]
    share = inverse / (1 + np.float32(offset[2]) * inverse)
    x = np.float32(small.fx * offset[0]) - u * np.float32(offset[2])
    y = np.float32(small.fy * offset[1]) - v * np.float32(offset[2])
    return np.asarray(np.abs(share) * np.sqrt(x * x + y * y), dtype=np.float32)


def _without_speckles(planes: Depth, size: int) -> Depth:
    """`planes` without small regions of their own."""
    fixed = np.where(np.isfinite(planes), planes * 16, -16).astype(np.int16)
    cv2.filterSpeckles(fixed, -16, size, int(_SPECKLE_PLANES * 16))
    return np.where(fixed == -16, np.float32(np.nan), planes)


def _without_holes(planes: Depth) -> Depth:
    """`planes` with the small holes within one surface closed."""
    filled = np.empty_like(planes)
    _in_two(len(planes), lambda a, b: kernels.fill_holes(
        planes, filled, _HOLE_RADIUS, _HOLE_KNOWN, np.float32(_HOLE_SPREAD), a, b))
    return filled
