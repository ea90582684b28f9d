# SPDX-License-Identifier: Apache-2.0
"""Equirectangular panoramas: cut into pinhole views, and views laid out as one.

The middle of a panorama looks along z, its columns turn right, its rows go from straight up to
straight down; x right, y down, z forward. Range is the distance along the ray, not depth.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import cv2
import numpy as np
import numpy.typing as npt

from inspatio_ros.depth.alignment import align_inverse_depth
from inspatio_ros.depth.estimator import DepthEstimator
from inspatio_ros.geometry import rigid
from inspatio_ros.geometry.camera import PinholeCamera
from inspatio_ros.sensing.observation import Observation

Image = npt.NDArray[np.uint8]
Float = npt.NDArray[np.float32]
Array = npt.NDArray[np.float64]

# By how much width / height may differ from 2.
ASPECT_TOLERANCE = 0.01
_LEAST_HEIGHT = 32
# The share of a view by which neighbours overlap.
_OVERLAP = 0.35
# Of a relative estimate of unknown scale: the distance of the middle of the first view, m.
_ASSUMED_DISTANCE = 2.5


class PanoramaError(ValueError):
    """A picture that is no full panorama; says what it is instead."""


class SharedView(Protocol):
    """A view that can be laid out in a panorama."""

    @property
    def image(self) -> Image:
        """uint8 RGB [H, W, 3]."""

    @property
    def camera(self) -> PinholeCamera:
        """Of the picture."""

    @property
    def world_from_camera(self) -> Array:
        """[4, 4]."""


@dataclass(frozen=True)
class Panorama:
    """A full equirectangular picture, uint8 RGB [H, W, 3] with W = 2 H.

    ranges: float32 [H, W] m along the rays, NaN unknown, or None. Raises PanoramaError when the
    picture is not twice as wide as high (within 1 %) or `ranges` has another shape.
    """

    image: Image
    ranges: Float | None = None

    def __post_init__(self) -> None:
        height, width = self.image.shape[:2]
        if height < _LEAST_HEIGHT or abs(width / height - 2.0) > 2.0 * ASPECT_TOLERANCE:
            raise PanoramaError(
                f"a full equirectangular panorama is twice as wide as high, this picture is "
                f"{width}x{height}; cut a partial one out with its field of view, or give it as a "
                "picture")
        if self.ranges is not None and self.ranges.shape != (height, width):
            raise PanoramaError(f"ranges {list(self.ranges.shape)} do not fit the panorama "
                                f"{[height, width]}")

    def look(self, camera: PinholeCamera, panorama_from_camera: Array) -> tuple[Image, Float]:
        """(image, z-depth float32 m, NaN unknown) of a camera at the panorama's middle."""
        rays = camera.rays()
        pixels = directions_to_pixels(rays @ panorama_from_camera[:3, :3].T, self.image.shape[:2])
        scale = camera.fx * 2 * math.pi / self.image.shape[1]  # of pixels at the view's middle
        source, places = self.image, pixels
        if scale < 0.75:
            size = (max(8, round(self.image.shape[1] * scale / 2) * 2),
                    max(4, round(self.image.shape[0] * scale)))
            source = np.asarray(cv2.resize(self.image, size, interpolation=cv2.INTER_AREA),
                                np.uint8)
            places = directions_to_pixels(rays @ panorama_from_camera[:3, :3].T, source.shape[:2])
        image = _sample(source, places, cv2.INTER_LINEAR)
        if self.ranges is None:
            return np.asarray(image, np.uint8), np.full(rays.shape[:2], np.nan, np.float32)
        ranges = _sample(self.ranges, pixels, cv2.INTER_NEAREST)
        depth = ranges / np.linalg.norm(rays, axis=-1)
        return np.asarray(image, np.uint8), np.asarray(depth, np.float32)

    def observations(self, width: int, height: int, field_of_view: float) -> list[Observation]:
        """Views that cover the whole sphere, at the panorama's middle, which is the world.

        field_of_view: horizontal, radians, below pi.
        """
        camera = centred_camera(width, height, field_of_view)
        return [self._observation(number, camera, pose)
                for number, pose in enumerate(covering_poses(camera))]

    def _observation(self, number: int, camera: PinholeCamera, pose: Array) -> Observation:
        image, depth = self.look(camera, pose)
        return Observation(number, image, depth, camera, pose)


def centred_camera(width: int, height: int, field_of_view: float) -> PinholeCamera:
    """The camera of this size and horizontal field of view in radians, centre in the middle.

    Raises ValueError for a field of view that is not between 0 and pi.
    """
    if not 0 < field_of_view < math.pi:
        raise ValueError(f"field of view {math.degrees(field_of_view):.1f} degrees is not between "
                         "0 and 180")
    focal = width / 2 / math.tan(field_of_view / 2)
    return PinholeCamera(width, height, focal, focal, (width - 1) / 2, (height - 1) / 2)


def turned(yaw: float, pitch: float) -> Array:
    """Pose [4, 4] at the origin that looks `yaw` to the right and `pitch` upwards, radians."""
    # Optical axes: y points down, so turning right is a positive turn about y.
    right = rigid.from_euler(0.0, yaw, 0.0)
    up = rigid.from_euler(pitch, 0.0, 0.0)
    return right @ up


def covering_poses(camera: PinholeCamera) -> list[Array]:
    """Poses at the origin whose views cover the sphere, beginning with the one along z.

    Rings of overlapping views from the horizon upwards and downwards, and those straight up and
    down.
    """
    wide, high = camera.field_of_view
    step = high * (1 - _OVERLAP)
    rings = [0.0]
    while rings[-1] + high / 2 < math.pi / 2 - 0.3 * high:
        rings.append(rings[-1] + step)
    poses = []
    for pitch in (rings[0], *(sign * ring for ring in rings[1:] for sign in (1, -1))):
        # Rows away from the horizon are shorter.
        around = wide * (1 - _OVERLAP) / max(math.cos(pitch), 0.2)
        count = max(3, math.ceil(2 * math.pi / around))
        poses += [turned(2 * math.pi * i / count, pitch) for i in range(count)]
    return poses + [turned(yaw, sign * math.pi / 2) for sign in (1, -1)
                    for yaw in (0.0, math.pi / 2)]


def directions_to_pixels(directions: npt.NDArray[np.floating],
                         shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
    """Pixels (x, y) float32 [..., 2] in a panorama of shape (H, W) of directions [..., 3]."""
    height, width = shape[:2]
    x, y, z = np.moveaxis(np.asarray(directions, np.float64), -1, 0)
    azimuth = np.arctan2(x, z)
    elevation = np.arctan2(-y, np.hypot(x, z))
    column = (azimuth / (2 * np.pi) + 0.5) * width - 0.5
    row = (0.5 - elevation / np.pi) * height - 0.5
    return np.stack([column, row], axis=-1).astype(np.float32)


def panorama_directions(height: int) -> Array:
    """Unit direction [H, 2 H, 3] of every pixel of a panorama."""
    azimuth = ((np.arange(2 * height) + 0.5) / (2 * height) - 0.5) * 2 * np.pi
    elevation = (0.5 - (np.arange(height) + 0.5) / height) * np.pi
    rays = np.empty((height, 2 * height, 3))
    rays[..., 0] = np.cos(elevation)[:, None] * np.sin(azimuth)
    rays[..., 1] = -np.sin(elevation)[:, None]
    rays[..., 2] = np.cos(elevation)[:, None] * np.cos(azimuth)
    return rays


def laid_out(views: Sequence[SharedView], height: int,
             pictures: Sequence[npt.NDArray[np.generic]] | None = None,
             ) -> tuple[npt.NDArray[np.generic], npt.NDArray[np.bool_]]:
    """A panorama [H, 2 H, ...] of views, as if taken from one place, and where it is covered.

    Later views win. pictures: shown instead of the views' images, [h, w] or [h, w, C] each;
    nearest pixels.
    """
    rays = panorama_directions(height)
    shown = [view.image for view in views] if pictures is None else list(pictures)
    first = shown[0]
    result = np.zeros((height, 2 * height, *first.shape[2:]), first.dtype)
    covered = np.zeros((height, 2 * height), np.bool_)
    for view, picture in zip(views, shown, strict=True):
        pixels, depth = view.camera.project(rays @ view.world_from_camera[:3, :3])
        with np.errstate(invalid="ignore"):
            inside = ((depth > 0) & (pixels >= -0.5).all(-1)
                      & (pixels < np.array(view.camera.size) - 0.5).all(-1))
        places = np.rint(pixels[inside]).astype(np.int64)
        places = places.clip(0, np.array(view.camera.size) - 1)
        result[inside] = picture[places[:, 1], places[:, 0]]
        covered |= inside
    return result, covered


def with_estimated_ranges(panorama: Panorama, estimator: DepthEstimator, width: int = 256,
                          field_of_view: float = math.radians(75.0)) -> Panorama:
    """The panorama with ranges from a depth network, view by view.

    Each view's inverse depth is brought to the views before it by robust scale and shift on their
    overlap (HY-World 2.0, arXiv 2604.14268, aligns views to its panorama's cloud likewise); a view
    that does not fit keeps the mean scale so far. A relative estimate has no scale: the middle of
    the first view is taken to be 2.5 m away. Raises PanoramaError when no view gives depth.
    """
    camera = centred_camera(width, width, field_of_view)
    height = panorama.image.shape[0]
    sums, weights = np.zeros((height, 2 * height)), np.zeros((height, 2 * height))
    rays = panorama_directions(height)
    scale, shift = 0.0, 0.0
    for pose in covering_poses(camera):
        image, _ = panorama.look(camera, pose)
        estimate = estimator.estimate(image, camera)
        if estimator.is_metric:
            depth = np.asarray(estimate, np.float32)
        else:
            so_far = _range_view(sums, weights, camera, pose)
            scale, shift = _fit(estimate, so_far, scale, shift)
            inverse = scale * estimate + shift
            depth = np.where(inverse > 1e-3, 1 / np.maximum(inverse, 1e-3), np.nan)
        _add_ranges(sums, weights, rays, camera, pose, np.asarray(depth, np.float32))
    if not (weights > 0).any():
        raise PanoramaError("the depth estimator knows nothing of the panorama")
    with np.errstate(divide="ignore", invalid="ignore"):
        ranges = np.where(weights > 0, weights / sums, np.nan)
    return Panorama(panorama.image, ranges.astype(np.float32))


def _fit(estimate: npt.NDArray[np.floating], known: Float, scale: float,
         shift: float) -> tuple[float, float]:
    """Scale and shift that bring relative inverse depth to `known` z-depth."""
    if (known > 0).any():
        try:
            fit = align_inverse_depth(estimate, known, tolerance=0.2)
        except ValueError:
            return scale, shift
        return fit.scale, fit.shift
    middle = estimate[estimate.shape[0] // 3:-estimate.shape[0] // 3]
    typical = float(np.nanmedian(middle))
    if not typical > 0:
        raise PanoramaError("the depth estimator knows nothing of the panorama's middle")
    return 1.0 / (_ASSUMED_DISTANCE * typical), 0.0


def _range_view(sums: Array, weights: Array, camera: PinholeCamera, pose: Array) -> Float:
    rays = camera.rays()
    pixels = directions_to_pixels(rays @ pose[:3, :3].T, sums.shape)
    with np.errstate(divide="ignore", invalid="ignore"):
        ranges = np.where(weights > 0, weights / sums, np.nan).astype(np.float32)
    seen = _sample(ranges, pixels, cv2.INTER_NEAREST)
    return np.asarray(seen / np.linalg.norm(rays, axis=-1), np.float32)


def _add_ranges(sums: Array, weights: Array, rays: Array, camera: PinholeCamera, pose: Array,
                depth: Float) -> None:
    """Add a view's inverse ranges; its middle counts more than its rim."""
    pixels, z = camera.project(rays @ pose[:3, :3])
    with np.errstate(invalid="ignore"):
        inside = (z > 0) & (pixels >= 0).all(-1) & (pixels <= np.array(camera.size) - 1).all(-1)
    places = np.rint(pixels[inside]).astype(np.int64)
    value = depth[places[:, 1], places[:, 0]] / z[inside]
    off = np.abs(pixels[inside] / (np.array(camera.size) - 1) - 0.5).max(-1)
    weight = np.where(value > 0, np.maximum(0.02, 0.5 - off) ** 2, 0.0)
    sums[inside] += np.where(value > 0, weight / np.where(value > 0, value, 1.0), 0.0)
    weights[inside] += weight


def _sample(picture: npt.NDArray[np.generic], pixels: npt.NDArray[np.float32],
            method: int) -> npt.NDArray[np.generic]:
    """Values of a panorama at pixels, its left edge joined to its right one."""
    pad = 2
    wrapped = np.concatenate([picture[:, -pad:], picture, picture[:, :pad]], axis=1)
    x = np.mod(pixels[..., 0] + 0.5, picture.shape[1]).astype(np.float32) - np.float32(0.5 - pad)
    y = np.clip(pixels[..., 1], 0, picture.shape[0] - 1)
    sampled = cv2.remap(np.ascontiguousarray(wrapped), x, y, method,
                        borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(sampled)
