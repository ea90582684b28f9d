# SPDX-License-Identifier: Apache-2.0
"""What was imagined, kept as points beside what was seen; the seen always overrides it.

The second half of WorldStereo's global-geometric memory (arXiv 2603.02049: the cloud grows by the
views that were generated), with the depth of imagined pixels carried by the guide's geometry, and
statistical outlier removal as in its release (20 neighbours, 2 sigma).
"""

from __future__ import annotations

from dataclasses import dataclass, field

import cv2
import numpy as np
import numpy.typing as npt
from scipy.spatial import cKDTree

from inspatio_ros.geometry.camera import PinholeCamera
from inspatio_ros.memory.bounding_planes import BoundingPlane, bounding_planes, plane_depth
from inspatio_ros.memory.exposure import IDENTITY_TONE, inverse_tone
from inspatio_ros.memory.rolling_cloud import RollingCloud
from inspatio_ros.memory.surfaces import extend_sensor_depth
from inspatio_ros.sensing.observation import Observation

Float = npt.NDArray[np.float32]
Byte = npt.NDArray[np.uint8]
Mask = npt.NDArray[np.bool_]
Array = npt.NDArray[np.float64]

# Confidence of an imagined point beside known surface; it falls with the distance from there.
# Measured points have up to 1.
MOST_CONFIDENCE = 0.5
# Distances over which it falls by e: across the picture (of its width), and along a bounding
# plane from its seen part, m.
_PICTURE_REACH, _PLANE_REACH = 0.25, 4.0
# Holes no pixel of which is farther from known ones than this share of the width, and whose rim is
# one surface (its depths within this ratio), are carried from it, not from a bounding plane.
_SMALL, _ONE_SURFACE = 0.04, 1.15
# Statistical outlier removal.
_NEIGHBOURS, _SIGMAS = 20, 2.0
# Places of cameras that are remembered; when there are more, every second goes.
_CAMERAS = 256
# A view adds nothing when less than this share of it is new.
LEAST_FRESH = 0.001
# Planes are fitted anew when the seen cloud has changed by more than this share.
_CHANGED = 0.1


@dataclass(frozen=True)
class ImaginedView:
    """One imagined picture, and what of it was imagined in it for the first time.

    image uint8 RGB [H, W, 3]; depth float32 [H, W] m of whatever was known of the view, seen or
    kept, NaN elsewhere; fresh bool [H, W]. estimated: float32 [H, W] m, a depth estimated from the
    picture and aligned to `depth`, or None: it is then carried from the geometry around.
    stamp_ns: of the newest observation it was imagined from. tone: of the picture, see Guide.
    """

    image: Byte
    depth: Float
    fresh: Mask
    camera: PinholeCamera
    world_from_camera: Array
    stamp_ns: int
    estimated: Float | None = None
    tone: Float = field(default_factory=lambda: IDENTITY_TONE)


class ImaginedPoints:
    """A bounded cloud of imagined points, none of which stands where something was seen.

    capacity points, voxel_size m, max_age s, max_radius m as RollingCloud. min_confidence: less
    trusted imagined points are not kept. A pixel is kept the first time it is imagined only:
    drawing kept points and keeping them again would smear them a little more with every pass.
    Not safe between threads.
    """

    def __init__(self, capacity: int, voxel_size: float, max_age: float, max_radius: float,
                 min_confidence: float = 0.0) -> None:
        self.cloud = RollingCloud(capacity, voxel_size, max_age, max_radius, min_confidence)
        self.outliers = 0
        self._cameras: list[Array] = []
        self._planes: list[BoundingPlane] = []
        self._planes_of = 0

    @property
    def point_count(self) -> int:
        """Points held."""
        return self.cloud.point_count

    @property
    def nbytes(self) -> int:
        """Bytes held; constant."""
        return self.cloud.nbytes

    @property
    def dropped(self) -> dict[str, int]:
        """Points not kept or gone, by reason."""
        return {**self.cloud.dropped, "outlier": self.outliers}

    def reset(self) -> None:
        """Forget every point; the counts of drops stay."""
        self.cloud.reset()
        self._cameras = []
        self._planes, self._planes_of = [], 0

    def give_way(self, observation: Observation, tone: Float) -> None:
        """Drop what an observation contradicts, and follow its exposure."""
        self._cameras.append(observation.world_from_camera[:3, 3])
        if len(self._cameras) > _CAMERAS:
            self._cameras = self._cameras[::2]
        self.cloud.give_way(observation)
        self.cloud.follow_exposure(tone)

    def keep(self, view: ImaginedView, seen: RollingCloud) -> int:
        """Keep what is new in a view; how many points that adds. seen: the cloud of the real."""
        if view.fresh.mean() < LEAST_FRESH:
            return 0
        depth, confidence = self.depth_of(view, seen)
        depth = np.where(view.fresh, depth, np.float32(np.nan))
        known = depth > 0
        good = inliers(view.camera.unproject(depth)[known])
        self.outliers += int(len(good) - good.sum())
        places = np.flatnonzero(known)[~good]
        depth.reshape(-1)[places] = np.nan
        before = self.cloud.point_count
        self.cloud.integrate(Observation(
            view.stamp_ns, view.image, depth, view.camera, view.world_from_camera, confidence))
        # Without this a picture's exposure would be applied once more each time it is drawn.
        self.cloud.tone[self.cloud.newest_frame] = inverse_tone(view.tone)
        return self.cloud.point_count - before

    def depth_of(self, view: ImaginedView, seen: RollingCloud) -> tuple[Float, Float]:
        """Depth m and confidence [0, 1] float32 [H, W] of every pixel of a view."""
        self._update_planes(seen)
        return complete_depth(view.depth, self._planes, view.camera, view.world_from_camera,
                              view.estimated)

    def _update_planes(self, seen: RollingCloud) -> None:
        count = seen.point_count
        if abs(count - self._planes_of) > _CHANGED * max(self._planes_of, 1):
            self._planes = bounding_planes(seen.colored_points(20_000)[0], self._cameras)
            self._planes_of = count


def complete_depth(
    depth: Float, planes: list[BoundingPlane], camera: PinholeCamera, world_from_camera: Array,
    estimated: Float | None = None,
) -> tuple[Float, Float]:
    """A depth picture with every pixel filled, and how far each is to be trusted, [0, 1].

    Known pixels stay, with confidence 1. Others take the estimate where there is one; else small
    holes are carried on from their rim, large ones take the first bounding plane, and what meets
    none is carried on. All NaN when nothing is known and there is no plane.
    """
    known = depth > 0
    carried = extend_sensor_depth(depth)
    if known.any():
        away = np.asarray(cv2.distanceTransform((~known).astype(np.uint8), cv2.DIST_L2, 3))
    else:
        away = np.full(depth.shape, np.inf, np.float32)
    away = away / np.float32(camera.width)
    trust = np.exp(-away / _PICTURE_REACH)
    filled = carried.copy()
    if planes:
        plane, reach = plane_depth(planes, camera, world_from_camera)
        on_plane = plane > 0
        small = _gaps_in_surfaces(depth, away)
        # Of two wrong depths the farther does less harm: what is seen hides it.
        filled = np.where(on_plane, np.where(small, np.fmin(filled, plane), plane), filled)
        trust = np.where(on_plane & ~small, np.exp(-reach / _PLANE_REACH), trust)
    if estimated is not None:
        there = estimated > 0
        filled = np.where(there, estimated, filled)
        trust = np.where(there, np.exp(-away / _PICTURE_REACH), trust)
    filled = np.where(known, depth, filled).astype(np.float32)
    trust = np.where(known, 1.0, MOST_CONFIDENCE * np.where(filled > 0, trust, 0.0))
    return filled, trust.astype(np.float32)


def _gaps_in_surfaces(depth: Float, away: Float) -> Mask:
    """Unknown pixels of small holes within one surface.

    A strip along the picture's border is no such hole: it goes on outside. Nor is one between a
    near surface and a far one: what it hides lies behind the near one.
    """
    known = depth > 0
    count, found = cv2.connectedComponents((~known).astype(np.uint8), connectivity=4)
    labels = np.asarray(found, np.int64)
    deepest = np.zeros(count, np.float32)
    np.maximum.at(deepest, labels.reshape(-1), away.reshape(-1).astype(np.float32))
    border = np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]])
    deepest[np.unique(border)] = np.inf
    small = deepest < _SMALL
    nearest, farthest = np.full(count, np.inf), np.zeros(count)
    for rim, hole in ((np.s_[1:], np.s_[:-1]), (np.s_[:-1], np.s_[1:])):
        for a, b in (((rim, np.s_[:]), (hole, np.s_[:])), ((np.s_[:], rim), (np.s_[:], hole))):
            there = known[a] & ~known[b]
            np.minimum.at(nearest, labels[b][there], depth[a][there])
            np.maximum.at(farthest, labels[b][there], depth[a][there])
    return np.asarray((small & (farthest < _ONE_SURFACE * nearest))[labels] & ~known)


def inliers(points: npt.NDArray[np.floating]) -> Mask:
    """Which of points [P, 3] are no statistical outliers, bool [P].

    An outlier is farther from its 20 neighbours, in the mean, than the mean of all plus two
    deviations. Distances are relative to the distance from the origin (the camera), because a
    picture's points lie wider apart the farther they are.
    """
    if len(points) <= _NEIGHBOURS:
        return np.ones(len(points), np.bool_)
    # Most of the time goes into the tree: a part of the points says how wide apart they lie.
    step = max(1, len(points) // 20_000)
    tree = cKDTree(points[::step])
    distances = tree.query(points, _NEIGHBOURS + 1)[0][:, 1:].mean(1)
    relative = distances / np.maximum(np.linalg.norm(points, axis=1), 1e-6)
    return np.asarray(relative <= relative.mean() + _SIGMAS * relative.std())
