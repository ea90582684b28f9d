# SPDX-License-Identifier: Apache-2.0
"""What is wrong with a view: why its holes are holes, flicker, depth, and where it was taken from.

All of it is geometry of known poses; no network takes part.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import IntEnum

import cv2
import numpy as np
import numpy.typing as npt

from inspatio_ros.geometry import rigid
from inspatio_ros.geometry.camera import PinholeCamera

Image = npt.NDArray[np.uint8]
Mask = npt.NDArray[np.bool_]
Depth = npt.NDArray[np.float32]
Array = npt.NDArray[np.float64]

# By how much (relative) a surface must stand in front of a point to hide it.
OCCLUDED = 0.08
# Relative depth beyond which an imagined surface counts as farther than the true one.
FARTHER = 0.10


class HoleCause(IntEnum):
    """Why a pixel of a view rests on no geometry; the value in the picture of causes."""

    COVERED = 0
    DISOCCLUDED = 1
    OUT_OF_VIEW = 2
    NO_DEPTH = 3
    OTHER = 4


def hole_causes(camera: PinholeCamera, world_from_camera: Array, depth: Depth, holes: Mask,
                source_depth: Depth, world_from_source: Array) -> npt.NDArray[np.uint8]:
    """For each hole [H, W] of a view why it is one, seen from the newest frame ("source").

    depth: what is truly there, z-depth [H, W] m of the view; where it is unknown the nearest known
    depth stands in. source_depth: of the newest frame, by the same `camera`. out_of_view: the
    point lies outside the source's picture. no_depth: the source saw that way but measured
    nothing. disoccluded: the source saw a surface in front of it. other: none of these (a crack at
    a grazing view, something that moved). Returns `HoleCause` uint8 [H, W].
    """
    causes = np.zeros(holes.shape, np.uint8)
    if not holes.any():
        return causes
    points = camera.unproject(nearest_known(depth))[holes]
    source_from_view = rigid.invert(world_from_source) @ world_from_camera
    pixels, z = camera.project(rigid.transform_points(source_from_view, points))
    places = np.rint(np.nan_to_num(pixels, nan=-1.0).clip(-1e6, 1e6)).astype(np.int64)
    inside = (z > 0) & ((places >= 0) & (places < camera.size)).all(axis=1)
    seen = np.full(len(z), np.nan)
    seen[inside] = source_depth[places[inside, 1], places[inside, 0]]
    cause = np.full(len(z), HoleCause.OTHER, np.uint8)
    cause[seen < (1 - OCCLUDED) * z] = HoleCause.DISOCCLUDED
    cause[inside & ~(seen > 0)] = HoleCause.NO_DEPTH
    cause[~inside] = HoleCause.OUT_OF_VIEW
    causes[holes] = cause
    return causes


def nearest_known(depth: Depth) -> Depth:
    """Depth with every unknown pixel taking that of the nearest known one; 1 m when none is."""
    known = depth > 0
    if known.all():
        return depth
    if not known.any():
        return np.ones_like(depth)
    _, labels = cv2.distanceTransformWithLabels(
        (~known).astype(np.uint8), cv2.DIST_L2, 3, labelType=cv2.DIST_LABEL_PIXEL)
    values = np.zeros(int(labels.max()) + 1, np.float32)
    values[labels[known]] = depth[known]
    return np.asarray(values[labels], np.float32)


@dataclass(frozen=True)
class Correspondence:
    """Where each pixel of a view was in another one. places: float32 [H, W, 2] pixels; seen: the
    pixels [H, W] that both views see."""

    places: npt.NDArray[np.float32]
    seen: Mask


def correspondence(camera: PinholeCamera, world_from_after: Array, depth_after: Depth,
                   world_from_before: Array, depth_before: Depth) -> Correspondence:
    """Of a static scene, from the true depth [H, W] m of both views."""
    before_from_after = rigid.invert(world_from_before) @ world_from_after
    points = rigid.transform_points(before_from_after,
                                    camera.unproject(depth_after).reshape(-1, 3))
    pixels, z = camera.project(points)
    places = np.nan_to_num(pixels, nan=-1.0).clip(-1e6, 1e6)
    nearest = np.rint(places).astype(np.int64)
    inside = (z > 0) & ((places >= 0) & (places <= np.subtract(camera.size, 1))).all(axis=1)
    seen = np.full(len(z), np.nan)
    seen[inside] = depth_before[nearest[inside, 1], nearest[inside, 0]]
    with np.errstate(invalid="ignore"):
        same = np.abs(seen - z) <= OCCLUDED * z
    shape = (camera.height, camera.width)
    return Correspondence(places.astype(np.float32).reshape(*shape, 2), same.reshape(shape))


def flicker(before: Image, after: Image, match: Correspondence) -> float:
    """Mean absolute colour difference, grey values 0 to 255, of what two pictures both see.

    The earlier picture is brought to the later pose first, so that motion of the camera is no
    flicker. NaN when they share no pixel.
    """
    if not match.seen.any():
        return math.nan
    moved = cv2.remap(before, match.places[..., 0], match.places[..., 1], cv2.INTER_LINEAR,
                      borderMode=cv2.BORDER_REPLICATE)
    difference = np.abs(moved.astype(np.int16) - after)[match.seen]
    return float(difference.sum(dtype=np.int64) / difference.size)


class DepthError:
    """Pooled errors of depth pictures: `abs_rel`, and the share that lies `farther` than true."""

    def __init__(self) -> None:
        self._relative = 0.0
        self._farther = 0
        self.count = 0
        self.total = 0

    def add(self, depth: Depth, truth: Depth) -> None:
        """Take in z-depth [H, W] m against the true one; compared where both are known."""
        known = (depth > 0) & (truth > 0)
        ratio = depth[known].astype(np.float64) / truth[known]
        self._relative += float(np.abs(ratio - 1).sum())
        self._farther += int(np.count_nonzero(ratio > 1 + FARTHER))
        self.count += int(ratio.size)
        self.total += int(np.count_nonzero(truth > 0))

    @property
    def abs_rel(self) -> float:
        """Mean |depth - true| / true; NaN without a pixel."""
        return self._relative / self.count if self.count else math.nan

    @property
    def farther(self) -> float:
        """Share of compared pixels more than a tenth farther than true: the dangerous side."""
        return self._farther / self.count if self.count else math.nan

    @property
    def known(self) -> float:
        """Share of the pixels with a true depth that have one."""
        return self.count / self.total if self.total else math.nan


# Inliers that make a pose; reprojection error (pixels) of an inlier; Lowe's ratio of matches.
_LEAST_INLIERS = 12
_INLIER_PX = 2.5
_RATIO = 0.8
_FEATURES = 1500


class CameraEstimator:
    """Where a picture was taken from: SIFT matches with the newest frame, whose depth is known,
    then PnP with RANSAC. In metres, since the depth is; so no scale is fitted.

    image uint8 RGB [H, W, 3] and z-depth [H, W] m of the newest frame, by `camera`.
    """

    def __init__(self, camera: PinholeCamera, image: Image, depth: Depth) -> None:
        self._camera = camera
        self._sift = cv2.SIFT.create(nfeatures=_FEATURES)
        self._matcher = cv2.BFMatcher(cv2.NORM_L2)
        places, self._descriptors = self._detect(image)
        pixels = np.rint(places).astype(np.int64)
        self._points = camera.unproject(depth)[pixels[:, 1], pixels[:, 0]]
        usable = np.isfinite(self._points).all(axis=1)
        self._points, self._descriptors = self._points[usable], self._descriptors[usable]

    def _detect(self, image: Image) -> tuple[Array, npt.NDArray[np.float32]]:
        keypoints, descriptors = self._sift.detectAndCompute(
            cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), None)
        if descriptors is None:
            return np.empty((0, 2)), np.empty((0, 128), np.float32)
        places = np.array([k.pt for k in keypoints]).clip(
            0, np.subtract(self._camera.size, 1))
        return places, np.asarray(descriptors, np.float32)

    def estimate(self, image: Image) -> Array | None:
        """newest_from_camera [4, 4] of a picture of the same camera; None when none is found."""
        places, descriptors = self._detect(image)
        if len(descriptors) < 2 or len(self._descriptors) < _LEAST_INLIERS:
            return None
        pairs = self._matcher.knnMatch(descriptors, self._descriptors, k=2)
        good = [p[0] for p in pairs if len(p) == 2 and p[0].distance < _RATIO * p[1].distance]
        if len(good) < _LEAST_INLIERS:
            return None
        points = self._points[[m.trainIdx for m in good]]
        pixels = places[[m.queryIdx for m in good]]
        k, none = self._camera.matrix, np.zeros(4)
        found, turn, shift, inliers = cv2.solvePnPRansac(
            points, pixels, k, none, reprojectionError=_INLIER_PX, iterationsCount=300,
            confidence=0.999, flags=cv2.SOLVEPNP_EPNP)
        if not found or inliers is None or len(inliers) < _LEAST_INLIERS:
            return None
        chosen = inliers[:, 0]
        turn, shift = cv2.solvePnPRefineLM(points[chosen], pixels[chosen], k, none, turn, shift)
        camera_from_newest = np.eye(4)
        camera_from_newest[:3, :3] = cv2.Rodrigues(turn)[0]
        camera_from_newest[:3, 3] = np.ravel(shift)
        if not np.isfinite(camera_from_newest).all():
            return None
        return rigid.invert(camera_from_newest)


class CameraControl:
    """Pooled error of where pictures seem to be taken from, against where they should be.

    score: the formula of WorldScore (Duan et al. 2025), 0 to 100, of the mean angle (15 degrees
    give 0) and the mean distance (0.5, here metres, give 0). Theirs comes from DROID-SLAM with a
    fitted scale, so figures compare only with those of the same estimator.
    """

    def __init__(self) -> None:
        self._angles: list[float] = []
        self._distances: list[float] = []
        self.tried = 0

    def add(self, estimated: Array | None, wanted: Array) -> None:
        """Take in a pose [4, 4] against the wanted one; None where none was found."""
        self.tried += 1
        if estimated is None:
            return
        step = rigid.invert(wanted) @ estimated
        self._angles.append(math.degrees(float(rigid.rotation_angle(step))))
        self._distances.append(float(np.linalg.norm(step[:3, 3])))

    @property
    def found(self) -> float:
        """Share of pictures whose pose was found."""
        return len(self._angles) / self.tried if self.tried else math.nan

    @property
    def angle(self) -> float:
        """Mean angle to the wanted orientation, degrees; NaN when no pose was found."""
        return float(np.mean(self._angles)) if self._angles else math.nan

    @property
    def distance(self) -> float:
        """Mean distance to the wanted place, m; NaN when no pose was found."""
        return float(np.mean(self._distances)) if self._distances else math.nan

    @property
    def score(self) -> float:
        """100 for no error, 0 from 15 degrees or half a metre on; NaN when no pose was found."""
        if not self._angles:
            return math.nan
        return 100.0 * math.sqrt(max(0.0, 1 - self.angle / 15) * max(0.0, 1 - self.distance / 0.5))
