# SPDX-License-Identifier: Apache-2.0
"""Depth and cameras of a clip's pictures, from whatever can give them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np
import numpy.typing as npt

from inspatio_ros.depth.estimator import DepthEstimator
from inspatio_ros.depth.estimators import available_estimators, choose
from inspatio_ros.depth.motion_stereo import MotionStereo, MotionStereoOptions
from inspatio_ros.depth.visual_odometry import VisualOdometry
from inspatio_ros.geometry import rigid
from inspatio_ros.geometry.camera import PinholeCamera
from inspatio_ros.sensing.observation import Observation

Picture = npt.NDArray[np.uint8]
Depth = npt.NDArray[np.float32]

AUTO = "auto"
DEPTHS = (AUTO, "depth_anything_3", "transformers", "fastdepth", "motion", "plane")

# Share of pictures that must have a pose for depth from motion.
_MIN_POSES = 0.5
# Of motion stereo where the unit is the first motion, which is some centimetres as a rule.
_MOTION_NEAR, _MOTION_FAR, _MOTION_BASELINE = 1.0, 2000.0, 0.5
# Depths, in units of the nearest, that a relative estimate of unknown scale is spread over.
_RELATIVE_FAR = 50.0
# Percentiles of the first picture's relative inverse depth that become nearest and farthest.
_RELATIVE_RANGE = (1.0, 99.0)


class DepthUnavailable(ValueError):
    """No depth can be had for a clip; says what would give it."""


@dataclass(frozen=True)
class ClipPictures:
    """The pictures of a clip at the working size, all of one camera, and their rate in Hz.

    read: begins anew each time it is called.
    """

    read: Callable[[], Iterator[Picture]]
    camera: PinholeCamera
    frame_rate: float


class ClipDepth(Protocol):
    """What turns a clip's pictures into observations, frame by frame.

    name and settings: everything the result depends on, for the fingerprint. note: one sentence
    for the user when something is assumed; else empty.
    """

    name: str
    settings: dict[str, Any]
    note: str

    def observations(self, clip: ClipPictures) -> Iterator[Observation]:
        """One observation a picture; the first camera is the world."""

    def close(self) -> None:
        """Free weights."""


class PlaneDepth:
    """One plane facing the camera, which stands still: exact where only the view turns."""

    name = "plane"

    def __init__(self, distance: float = 1.0) -> None:
        if not distance > 0:
            raise ValueError(f"plane depth {distance} m is not positive")
        self.settings: dict[str, Any] = {"distance": distance}
        self.note = f"every pixel is taken to lie {distance:g} m ahead of a camera standing still"

    def observations(self, clip: ClipPictures) -> Iterator[Observation]:
        """One observation a picture."""
        depth = np.full((clip.camera.height, clip.camera.width),
                        self.settings["distance"], np.float32)
        for number, picture in enumerate(clip.read()):
            yield Observation(stamp_of(number, clip.frame_rate), picture, depth, clip.camera,
                              np.eye(4))

    def close(self) -> None:
        """Nothing is held."""


class EstimatedDepth:
    """Depth of each picture by itself, cameras by visual odometry in the unit of that depth.

    A relative estimate gets its scale from the first picture: its nearest 1 % at 1 m, and its
    farthest at 50 m unless it is the inverse of a distance, up to its unit (`unshifted`). That
    fixes the unit, which a displacement in foreground depths does not depend on. A picture without
    a pose keeps the one before; `note` then counts them.
    """

    def __init__(self, name: str, estimator: DepthEstimator, remark: str = "", *,
                 unshifted: bool = False) -> None:
        self.name = name
        self._estimator = estimator
        self._remark = remark
        self._unshifted = unshifted
        self.settings: dict[str, Any] = {"metric": estimator.is_metric, "unshifted": unshifted}
        self.note = remark

    def observations(self, clip: ClipPictures) -> Iterator[Observation]:
        """One observation a picture."""
        to_depth: Callable[[Depth], Depth] | None = None
        odometry = VisualOdometry(clip.camera)
        pose = np.eye(4)
        for number, picture in enumerate(clip.read()):
            depth = self._estimator.estimate(picture, clip.camera)
            if not self._estimator.is_metric:
                to_depth = to_depth or _relative_to_depth(depth, self._unshifted)
                depth = to_depth(depth)
            tracked = odometry.add(picture, np.asarray(depth, np.float32))
            if tracked.world_from_camera is not None:
                pose = tracked.world_from_camera
            yield Observation(stamp_of(number, clip.frame_rate), picture,
                              np.asarray(depth, np.float32), clip.camera, pose)
        self.note = _joined(self._remark, _odometry_note(odometry))

    def close(self) -> None:
        """Free the estimator."""
        self._estimator.close()


class MotionDepth:
    """Cameras by visual odometry, depth from the camera's own motion; no weights.

    The unit is the first motion. Pictures are read twice: poses first. Raises DepthUnavailable
    when most pictures get no pose, which is so when the camera stands still.
    """

    name = "motion"

    def __init__(self) -> None:
        self.settings: dict[str, Any] = {}
        self.note = ""

    def observations(self, clip: ClipPictures) -> Iterator[Observation]:
        """One observation a picture."""
        odometry = VisualOdometry(clip.camera)
        found = [odometry.add(picture).world_from_camera for picture in clip.read()]
        known = [number for number, pose in enumerate(found) if pose is not None]
        if odometry.report.success < _MIN_POSES or len(known) < 2:
            raise DepthUnavailable(
                f"no depth from the camera's motion: {odometry.report.sentence()}; a depth model "
                "is needed (--depth)")
        poses = rigid.interpolate(
            known, np.array([pose for pose in found if pose is not None]), range(len(found)))
        self.note = _joined("depth only where the camera's motion tells it; the unit is the "
                            "first motion", _odometry_note(odometry))
        # The first step of odometry without depth is one unit long: a baseline of any length is
        # as good as another, what counts is the parallax.
        stereo = MotionStereo(MotionStereoOptions(
            min_depth=_MOTION_NEAR, max_depth=_MOTION_FAR, min_baseline=_MOTION_BASELINE))
        for number, picture in enumerate(clip.read()):
            stamp = stamp_of(number, clip.frame_rate)
            depth = stereo.add(stamp, picture, clip.camera, poses[number])
            if depth is None:
                depth = np.full((clip.camera.height, clip.camera.width), np.nan, np.float32)
            yield Observation(stamp, picture, depth, clip.camera, poses[number])

    def close(self) -> None:
        """Nothing is held."""


def choose_depth(
    name: str, model_folder: Path | None, *, rotation_only: bool, pictures: int
) -> ClipDepth:
    """The provider of this name, or for 'auto' the best that is there.

    model_folder: of Depth Anything 3 or of a depth model in transformers' layout. pictures: of the
    shortest clip. Raises DepthUnavailable saying what is missing.
    """
    if name not in DEPTHS:
        raise DepthUnavailable(f"no depth provider '{name}'; there are {', '.join(DEPTHS)}")
    if name == "plane":
        return PlaneDepth()
    if name == "motion":
        return MotionDepth()
    registry, missing = available_estimators(model_folder)
    if name == AUTO:
        if registry.names:
            name = choose(estimators=registry.names).name
        elif rotation_only:
            return PlaneDepth()
        elif pictures > 1:
            return MotionDepth()
    if name not in registry.names:
        why = "; ".join(f"{key}: {reason}" for key, reason in missing.items())
        raise DepthUnavailable(
            f"no depth for pictures. {why}. A moving camera needs none (--depth motion), and "
            "--rotation_only neither (--depth plane)")
    remark = "depth from a network that knows rooms only" if name == "fastdepth" else ""
    return EstimatedDepth(name, registry.make(name), remark, unshifted=name == "fastdepth")


def _odometry_note(odometry: VisualOdometry) -> str:
    report = odometry.report
    return "" if not report.failed else f"camera tracking: {report.sentence()}"


def _joined(*sentences: str) -> str:
    return "; ".join(sentence for sentence in sentences if sentence)


def _relative_to_depth(first: Depth, unshifted: bool) -> Callable[[Depth], Depth]:
    known = first[np.isfinite(first)]
    if known.size == 0:
        raise DepthUnavailable("the depth estimator knows nothing of the first picture")
    far, near = (float(v) for v in np.percentile(known, _RELATIVE_RANGE))
    floor = 0.0 if unshifted else 1.0 / _RELATIVE_FAR
    origin = 0.0 if unshifted else far
    scale = (1.0 - floor) / max(near - origin, 1e-6)

    def convert(relative: Depth) -> Depth:
        # The network's grid shows as steps that would tear surfaces apart.
        smooth = cv2.medianBlur(np.ascontiguousarray(relative, np.float32), 5)
        inverse = (np.asarray(smooth, np.float32) - origin) * scale + floor
        return np.asarray(1.0 / np.maximum(inverse, 0.5 / _RELATIVE_FAR), np.float32)

    return convert


def stamp_of(number: int, frame_rate: float) -> int:
    """Nanoseconds from the first frame to frame `number`."""
    return round(number / frame_rate * 1e9)


def assumed_camera(width: int, height: int, field_of_view: float) -> PinholeCamera:
    """A camera of this size with a horizontal `field_of_view` in radians, centre in the middle."""
    focal = width / 2 / np.tan(field_of_view / 2)
    return PinholeCamera(width, height, focal, focal, (width - 1) / 2, (height - 1) / 2)


def resized_picture(picture: Picture, size: tuple[int, int]) -> Picture:
    """`picture` at size (width, height): means when it shrinks, cubic when it grows."""
    if (picture.shape[1], picture.shape[0]) == size:
        return picture
    method = cv2.INTER_AREA if size[0] < picture.shape[1] else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(picture, size, interpolation=method), np.uint8)


def resized_observation(seen: Observation, size: tuple[int, int]) -> Observation:
    """An observation at size (width, height); depth takes the nearest value."""
    if seen.camera.size == size:
        return seen
    depth = np.asarray(cv2.resize(seen.depth, size, interpolation=cv2.INTER_NEAREST), np.float32)
    return replace(seen, image=resized_picture(seen.image, size), depth=depth,
                   camera=seen.camera.resized(*size), confidence=None)


def in_first_camera(observations: Iterator[Observation]) -> Iterator[Observation]:
    """The same observations with the first one's camera as the world."""
    first_from_world: npt.NDArray[np.float64] | None = None
    for seen in observations:
        if first_from_world is None:
            first_from_world = rigid.invert(seen.world_from_camera)
        yield replace(seen, world_from_camera=first_from_world @ seen.world_from_camera)
