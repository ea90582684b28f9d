# SPDX-License-Identifier: Apache-2.0
"""Depth of a recording of one posed camera: which source, and the pictures before it knows any."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from inspatio_ros.depth.aligned_depth import AlignmentOptions, MonocularDepth
from inspatio_ros.depth.estimator import DepthEstimator, EstimatorError
from inspatio_ros.depth.estimators import ESTIMATORS, available_estimators
from inspatio_ros.depth.motion_stereo import MotionStereoOptions
from inspatio_ros.geometry.camera import PinholeCamera
from inspatio_ros.sensing.observation import Observation

log = logging.getLogger(__name__)

Depth = npt.NDArray[np.float32]

MOTION, ESTIMATE = "motion", "estimate"
# Depth of one camera and its poses alone.
MONOCULAR = (MOTION, ESTIMATE)
# Pictures held while nothing is known of the first ones: 58 MB at 832x480.
LEAD = 48


@dataclass(frozen=True, eq=False)
class PosedPicture:
    """A picture uint8 RGB [H, W, 3] of `camera`, taken at stamp_ns from world_from_camera."""

    stamp_ns: int
    image: npt.NDArray[np.uint8]
    camera: PinholeCamera
    world_from_camera: npt.NDArray[np.float64]


def scaling_estimator(model_folder: str = "") -> DepthEstimator:
    """The best estimator of single pictures that is there, or that of `model_folder`.

    Raises EstimatorError saying what is missing.
    """
    registry, missing = available_estimators(model_folder or None)
    name = next((name for name in ESTIMATORS if name in registry.names), "")
    if not name:
        raise EstimatorError("no depth model: " + "; ".join(
            f"{name}: {reason}" for name, reason in sorted(missing.items())))
    log.info("depth estimated by %s, scaled by the camera's motion", name)
    return registry.make(name)


def monocular_depth(estimator: DepthEstimator | None, min_depth: float, max_depth: float,
                    flying_pixel_jump: float) -> MonocularDepth:
    """Depth from motion within limits in m, or an estimator scaled by it."""
    low = max(min_depth, 1e-3)
    motion = MotionStereoOptions(min_depth=low, max_depth=max_depth)
    if estimator is None:
        return MonocularDepth(None, motion)
    return MonocularDepth(estimator, motion, AlignmentOptions(
        low, max_depth, silhouette_jump=flying_pixel_jump))


def observations_from_motion(
    pictures: Iterable[PosedPicture], make: Callable[[], MonocularDepth], *, lead: int = LEAD
) -> Iterator[Observation]:
    """One observation a picture, in order; depth is NaN where it stays unknown.

    A recording is known to its end: the first pictures, which have none before them to be matched
    with, are matched with those that come after. At most `lead` pictures wait for that.
    """
    forward = make()
    waiting: list[tuple[PosedPicture, Depth | None]] = []
    without = 0  # pictures up to the last one that has no depth yet
    for picture in pictures:
        depth = forward.add(
            picture.stamp_ns, picture.image, picture.camera, picture.world_from_camera)
        if lead <= 0:
            yield _observation(picture, depth)
            continue
        waiting.append((picture, depth))
        if depth is None:
            without = len(waiting)
        # As many pictures again as have none: the last of those then have enough motion too.
        if len(waiting) >= min(lead, 2 * without):
            yield from _known_from_behind(waiting, without, make)
            waiting, lead = [], 0
    yield from _known_from_behind(waiting, without, make)


def _known_from_behind(
    waiting: list[tuple[PosedPicture, Depth | None]], without: int,
    make: Callable[[], MonocularDepth],
) -> Iterator[Observation]:
    """The waiting pictures, those without depth being matched with later ones."""
    found: dict[int, Depth | None] = {}
    if without:
        backward = make()
        for number in range(len(waiting) - 1, -1, -1):
            picture = waiting[number][0]
            found[number] = backward.add(
                -picture.stamp_ns, picture.image, picture.camera, picture.world_from_camera)
    for number, (picture, depth) in enumerate(waiting):
        yield _observation(picture, found[number] if depth is None else depth)


def _observation(picture: PosedPicture, depth: Depth | None) -> Observation:
    if depth is None:
        depth = np.full((picture.camera.height, picture.camera.width), np.nan, np.float32)
    return Observation(picture.stamp_ns, picture.image, depth, picture.camera,
                       picture.world_from_camera)
