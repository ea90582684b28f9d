# SPDX-License-Identifier: Apache-2.0
"""Depth and cameras of a clip's pictures, from whatever can give them."""

from __future__ import annotations

import math
from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np
import numpy.typing as npt

from inspatio_ros.depth.aligned_depth import MonocularDepth
from inspatio_ros.depth.alignment import align_inverse_depth
from inspatio_ros.depth.depth_anything import DepthAnything3
from inspatio_ros.depth.estimator import DepthEstimator
from inspatio_ros.depth.estimators import available_estimators, choose
from inspatio_ros.depth.from_motion import PosedPicture, observations_from_motion
from inspatio_ros.depth.joint_views import joint_views
from inspatio_ros.depth.motion_stereo import MotionStereoOptions
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
# Weight of the newest fit of a relative estimate to the corners placed before.
_STEADY = 0.7
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


class JointDepth:
    """Depth and cameras of many pictures at once, from a network that gives both.

    The video goes through it in overlapping pieces (`depth.joint_views`), so that memory does not
    grow with its length.
    """

    def __init__(self, name: str, estimator: DepthAnything3, *, chunk: int = 32,
                 overlap: int = 8) -> None:
        self.name = name
        self._estimator = estimator
        self.settings: dict[str, Any] = {
            "model": estimator.model_name, "chunk": chunk, "overlap": overlap}
        self.note = ""

    def observations(self, clip: ClipPictures) -> Iterator[Observation]:
        """One observation a picture, with the camera that the network found."""
        views = joint_views(
            clip.read(), self._estimator.estimate_views, chunk=self.settings["chunk"],
            overlap=self.settings["overlap"])
        for number, view in enumerate(views):
            yield Observation(stamp_of(number, clip.frame_rate), view.image, view.depth,
                              view.camera, view.world_from_camera)

    def close(self) -> None:
        """Free the network."""
        self._estimator.close()


class EstimatedDepth:
    """Depth of each picture by itself, cameras by visual odometry in the unit of that depth.

    A relative estimate gets its scale from the first picture: its nearest 1 % at 1 m, and its
    farthest at 50 m unless it is the inverse of a distance, up to its unit (`unshifted`). That
    fixes the unit, which a displacement in foreground depths does not depend on. Later estimates
    are brought to it by the corners that odometry has placed, scale and shift smoothed over time.
    A picture without a pose keeps the one before; `note` then counts them.
    """

    def __init__(self, name: str, estimator: DepthEstimator, remark: str = "", *,
                 unshifted: bool = False) -> None:
        self.name = name
        self._estimator = estimator
        self._remark = remark
        self._unshifted = unshifted
        self.settings: dict[str, Any] = {
            "metric": estimator.is_metric, "unshifted": unshifted, "steady": _STEADY}
        self.note = remark

    def observations(self, clip: ClipPictures) -> Iterator[Observation]:
        """One observation a picture."""
        odometry = VisualOdometry(clip.camera)
        steady = _SteadyDepth(self._estimator.is_metric, self._unshifted)
        pose = np.eye(4)
        for number, picture in enumerate(clip.read()):
            estimated = self._estimator.estimate(picture, clip.camera)
            tracked = odometry.track(picture)
            depth = steady.add(estimated, odometry.corners_depth())
            odometry.renew(depth)
            if tracked.world_from_camera is not None:
                pose = tracked.world_from_camera
            yield Observation(stamp_of(number, clip.frame_rate), picture, depth, clip.camera, pose)
        self.note = _joined(self._remark, _odometry_note(odometry))

    def close(self) -> None:
        """Free the estimator."""
        self._estimator.close()


class _SteadyDepth:
    """Depth in the unit of the first picture, whatever scale and shift each estimate has."""

    def __init__(self, is_metric: bool, unshifted: bool) -> None:
        self._is_metric = is_metric
        self._unshifted = unshifted
        self._scale = self._shift = float("nan")

    def add(self, estimated: Depth, placed: Depth) -> Depth:
        """z-depth float32 [H, W] of an estimate; placed: the depth of the corners, else NaN."""
        if self._is_metric:
            return np.asarray(estimated, np.float32)
        # The network's grid shows as steps that would tear surfaces apart.
        relative = np.asarray(
            cv2.medianBlur(np.ascontiguousarray(estimated, np.float32), 5), np.float32)
        if not self._scale > 0:
            self._scale, self._shift = _first_fit(relative, self._unshifted)
        else:
            self._follow(relative, placed)
        inverse = relative * np.float32(self._scale) + np.float32(self._shift)
        return np.asarray(1.0 / np.maximum(inverse, 0.5 / _RELATIVE_FAR), np.float32)

    def _follow(self, relative: Depth, placed: Depth) -> None:
        try:
            fit = align_inverse_depth(relative, placed)
        except ValueError:
            return  # too few corners: the fit of before holds
        # Scales are ratios: their mean is the geometric one.
        self._scale = math.exp(
            (1 - _STEADY) * math.log(self._scale) + _STEADY * math.log(fit.scale))
        self._shift += _STEADY * (fit.shift - self._shift)


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
        # Flat arrays: see `make_geometry`.
        numbers, known = array("d"), array("q")
        for number, picture in enumerate(clip.read()):
            pose = odometry.add(picture).world_from_camera
            if pose is not None:
                known.append(number)
                numbers.extend(pose.ravel())
        if odometry.report.success < _MIN_POSES or len(known) < 2:
            raise DepthUnavailable(
                f"no depth from the camera's motion: {odometry.report.sentence()}; a depth model "
                "is needed (--depth)")
        poses = rigid.interpolate(
            known, np.array(numbers).reshape(-1, 4, 4), range(odometry.report.frames))
        self.note = _joined("depth only where the camera's motion tells it; the unit is the "
                            "first motion", _odometry_note(odometry))
        # The first step of odometry without depth is one unit long: a baseline of any length is
        # as good as another, what counts is the parallax.
        options = MotionStereoOptions(
            min_depth=_MOTION_NEAR, max_depth=_MOTION_FAR, min_baseline=_MOTION_BASELINE)
        pictures = (
            PosedPicture(stamp_of(number, clip.frame_rate), picture, clip.camera, poses[number])
            for number, picture in enumerate(clip.read()))
        yield from observations_from_motion(pictures, lambda: MonocularDepth(None, options))

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
    if name == "depth_anything_3":
        joint = DepthAnything3(str(model_folder))
        if joint.gives_poses:
            return JointDepth(name, joint)
        joint.close()
    remark = "depth from a network that knows rooms only" if name == "fastdepth" else ""
    return EstimatedDepth(name, registry.make(name), remark, unshifted=name == "fastdepth")


def _odometry_note(odometry: VisualOdometry) -> str:
    report = odometry.report
    return "" if not report.failed else f"camera tracking: {report.sentence()}"


def _joined(*sentences: str) -> str:
    return "; ".join(sentence for sentence in sentences if sentence)


def _first_fit(first: Depth, unshifted: bool) -> tuple[float, float]:
    """Scale and shift of inverse depth that the first picture fixes."""
    known = first[np.isfinite(first)]
    if known.size == 0:
        raise DepthUnavailable("the depth estimator knows nothing of the first picture")
    far, near = (float(v) for v in np.percentile(known, _RELATIVE_RANGE))
    if unshifted:
        return 1.0 / max(near, 1e-6), 0.0
    floor = 1.0 / _RELATIVE_FAR
    scale = (1.0 - floor) / max(near - far, 1e-6)
    return scale, floor - far * scale


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
