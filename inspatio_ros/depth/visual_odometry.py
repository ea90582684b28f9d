# SPDX-License-Identifier: Apache-2.0
"""Camera poses of a video without any, by tracking corners.

Method: corners (Shi and Tomasi 1994) are tracked forth and back (Lucas and Kanade 1981). Two views
are related by the essential matrix (Nister 2004), later ones to the map by PnP with RANSAC. With a
depth picture the first view is the map, and everything is in its unit; without, the first motion
is one unit long. No loop closing: it drifts, and says when it fails.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import cv2
import numpy as np
import numpy.typing as npt

from inspatio_ros.depth.stereo import grey
from inspatio_ros.geometry import rigid
from inspatio_ros.geometry.camera import PinholeCamera

Array = npt.NDArray[np.float64]
Depth = npt.NDArray[np.float32]
Picture = npt.NDArray[np.uint8]
Points = npt.NDArray[np.float32]

UNIT_SCALE, DEPTH_SCALE = "first motion is 1", "unit of the depth"


@dataclass(frozen=True)
class OdometryOptions:
    """How cameras are tracked.

    corners: tracked at once. check: pixels by which a corner tracked forth and back may be off.
    inlier: pixels of reprojection error of an inlier. min_inliers: corners that must agree.
    min_parallax: median pixels of motion, beyond the turn, before two views are triangulated.
    renew_below: share of `corners` still tracked below which new ones are taken. max_wait:
    pictures without enough parallax before the camera is called standing still.
    """

    corners: int = 800
    check: float = 1.0
    inlier: float = 2.0
    min_inliers: int = 25
    min_parallax: float = 8.0
    renew_below: float = 0.6
    max_wait: int = 30


@dataclass(frozen=True, eq=False)
class TrackedFrame:
    """One picture's pose world_from_camera [4, 4], None when it failed, and why.

    inliers: corners that agree with the pose. error: their median reprojection error in pixels.
    """

    world_from_camera: Array | None
    reason: str
    inliers: int = 0
    error: float = float("nan")

    @property
    def ok(self) -> bool:
        """Whether there is a pose."""
        return self.world_from_camera is not None


@dataclass
class OdometryReport:
    """What became of a video: frames in all, those that failed by reason, losses, and the unit.

    After a loss without depth the new map has a unit of its own.
    """

    frames: int = 0
    failed: dict[str, int] = field(default_factory=dict)
    scale: str = UNIT_SCALE
    losses: int = 0

    @property
    def success(self) -> float:
        """Share of pictures with a pose, [0, 1]."""
        return 1 - sum(self.failed.values()) / max(1, self.frames)

    def sentence(self) -> str:
        """For the user: how many frames have a pose, why others have none, the unit."""
        lost = ", ".join(f"{count} {reason}" for reason, count in sorted(self.failed.items()))
        return (f"{self.frames - sum(self.failed.values())} of {self.frames} pictures have a pose"
                + (f" (without: {lost})" if lost else "") + f"; {self.scale}"
                + (f", anew after each of {self.losses} losses"
                   if self.losses and self.scale == UNIT_SCALE else ""))


class VisualOdometry:
    """Poses of a moving camera, picture by picture; the first camera is the world.

    Failure is never hidden: a picture without a pose has the reason in its TrackedFrame and counts
    in `report`. After a loss the next picture begins a new map at the last good pose. z-depth
    given with a picture puts everything into its unit. The same input gives the same result.
    """

    def __init__(self, camera: PinholeCamera, options: OdometryOptions | None = None) -> None:
        self.camera, self.options = camera, options or OdometryOptions()
        self.report = OdometryReport()
        self._matrix = camera.matrix
        self._before: Picture | None = None
        self._pose = np.eye(4)
        self._velocity = np.eye(4)
        self._pixels: Points = np.empty((0, 2), np.float32)
        self._points: Array = np.empty((0, 3))  # NaN until triangulated
        self._anchors: Points = np.empty((0, 2), np.float32)
        self._anchor_poses: Array = np.empty((0, 4, 4))
        self._waited = 0
        self._has_map = False
        self._wants_corners = True

    def add(self, image: Picture, depth: Depth | None = None) -> TrackedFrame:
        """The pose of the next picture, uint8 RGB or grey; depth: its z-depth or None.

        Raises ValueError when picture or depth is not of the camera's size.
        """
        frame = self.track(image)
        self.renew(depth)
        return frame

    def track(self, image: Picture) -> TrackedFrame:
        """The pose of the next picture, from what is known already; `renew` has to follow.

        Raises ValueError when the picture is not of the camera's size.
        """
        self._require_size("picture", image)
        here = grey(image)
        self.report.frames += 1
        frame = self._first() if self._before is None else self._next(here)
        if frame.world_from_camera is None:
            self.report.failed[frame.reason] = self.report.failed.get(frame.reason, 0) + 1
            if frame.reason == "lost":
                self.report.losses += 1
                self._forget()
        else:
            self._velocity = rigid.invert(self._pose) @ frame.world_from_camera
            self._pose = frame.world_from_camera
        self._wants_corners = frame.ok or frame.reason == "lost"
        self._before = here
        return frame

    def corners_depth(self) -> Depth:
        """z-depth float32 [H, W] of the corners that have a place, NaN elsewhere."""
        depth = np.full((self.camera.height, self.camera.width), np.nan, np.float32)
        known = np.isfinite(self._points[:, 0])
        x, y = self._pixels[known].round().astype(int).T
        z = rigid.transform_points(rigid.invert(self._pose), self._points[known])[:, 2]
        depth[y, x] = np.where(z > 0, z, np.nan)
        return depth

    def renew(self, depth: Depth | None = None) -> None:
        """Take new corners in the picture just tracked, where z-depth tells their place.

        Raises ValueError when depth is not of the camera's size.
        """
        if depth is not None:
            self._require_size("depth", depth)
            self.report.scale = DEPTH_SCALE
        if self._wants_corners and self._before is not None:
            self._renew(self._before, depth)

    def _require_size(self, name: str, picture: npt.NDArray[np.generic]) -> None:
        if picture.shape[:2] != (self.camera.height, self.camera.width):
            raise ValueError(f"{name} is {picture.shape[1]}x{picture.shape[0]}, the camera "
                             f"{self.camera.width}x{self.camera.height}")

    def _first(self) -> TrackedFrame:
        return TrackedFrame(self._pose, "first", 0, 0.0)

    def _next(self, here: Picture) -> TrackedFrame:
        self._track(here)
        if len(self._pixels) < self.options.min_inliers:
            return TrackedFrame(None, "lost", len(self._pixels))
        if not self._has_map:
            return self._start()
        known = np.isfinite(self._points[:, 0])
        if int(known.sum()) < self.options.min_inliers:
            return TrackedFrame(None, "lost", int(known.sum()))
        return self._against_map(known)

    def _track(self, here: Picture) -> None:
        """Follow the corners into the new picture and drop those that do not come back."""
        if self._before is None or not len(self._pixels):
            return
        moved, found = _followed(self._before, here, self._pixels)
        back, returned = _followed(here, self._before, moved)
        off = np.abs(back - self._pixels).max(-1)
        size = np.array(self.camera.size) - 1
        inside = ((moved >= 0) & (moved <= size)).all(-1)
        good = found & returned & (off < self.options.check) & inside
        self._pixels = np.asarray(moved, np.float32)
        self._select(good)

    def _select(self, good: npt.NDArray[np.bool_]) -> None:
        self._pixels, self._points = self._pixels[good], self._points[good]
        self._anchors, self._anchor_poses = self._anchors[good], self._anchor_poses[good]

    def _start(self) -> TrackedFrame:
        """Two views without depth: the essential matrix, the baseline being one unit."""
        motion = float(np.median(np.linalg.norm(self._pixels - self._anchors, axis=1)))
        if motion < self.options.min_parallax:
            self._waited += 1
            if self._waited >= self.options.max_wait:
                return TrackedFrame(None, "standing still", len(self._pixels))
            return TrackedFrame(None, "waiting for parallax", len(self._pixels))
        cv2.setRNGSeed(0)
        essential, mask = cv2.findEssentialMat(
            self._anchors, self._pixels, self._matrix, cv2.RANSAC, 0.999, 1.0)
        if essential is None or essential.shape != (3, 3):
            return TrackedFrame(None, "waiting for parallax", 0)
        count, rotation, direction, mask = cv2.recoverPose(
            essential, self._anchors, self._pixels, self._matrix, mask=mask)
        turned = self.camera.matrix @ rotation @ np.linalg.inv(self.camera.matrix)
        still = cv2.perspectiveTransform(self._anchors[:, None].astype(np.float64), turned)[:, 0]
        parallax = float(np.median(np.linalg.norm(self._pixels - still, axis=1)))
        if count < self.options.min_inliers or parallax < self.options.min_parallax:
            return TrackedFrame(None, "waiting for parallax", int(count))
        step = rigid.invert(rigid.from_rotation(rotation, direction[:, 0]))
        pose = self._anchor_poses[0] @ step
        self._has_map = True
        self._triangulate(pose)
        known = np.isfinite(self._points[:, 0])
        if int(known.sum()) < self.options.min_inliers:
            self._has_map = False
            return TrackedFrame(None, "waiting for parallax", int(known.sum()))
        return TrackedFrame(pose, "started", int(count), self._error(pose, known))

    def _against_map(self, known: npt.NDArray[np.bool_]) -> TrackedFrame:
        guess = rigid.invert(self._pose @ self._velocity)
        turn, _ = cv2.Rodrigues(guess[:3, :3])
        cv2.setRNGSeed(0)
        found, turn, shift, inliers = cv2.solvePnPRansac(
            self._points[known], self._pixels[known].astype(np.float64), self._matrix, None,
            turn, guess[:3, 3:].copy(), True, 200, self.options.inlier, 0.999)
        count = 0 if inliers is None else len(inliers)
        if not found or count < max(self.options.min_inliers, 0.3 * known.sum()):
            return TrackedFrame(None, "lost", count)
        chosen = np.flatnonzero(known)[inliers[:, 0]]
        turn, shift = cv2.solvePnPRefineLM(
            self._points[chosen], self._pixels[chosen].astype(np.float64), self._matrix, None,
            turn, shift)
        pose = rigid.invert(rigid.from_rotation(cv2.Rodrigues(turn)[0], shift[:, 0]))
        agrees = np.zeros(len(known), dtype=bool)
        agrees[chosen] = True
        self._select(agrees | ~known)
        self._triangulate(pose)
        return TrackedFrame(pose, "tracked", count,
                            self._error(pose, np.isfinite(self._points[:, 0])))

    def _triangulate(self, pose: Array) -> None:
        """Give corners a place once they have moved enough beyond the turn since first seen."""
        waiting = np.flatnonzero(~np.isfinite(self._points[:, 0]))
        if not len(waiting):
            return
        here_from_world = rigid.invert(pose)
        inverse = np.linalg.inv(self._matrix)
        ones = np.ones((len(waiting), 1))
        first = np.concatenate([self._anchors[waiting], ones], 1) @ inverse.T
        second = np.concatenate([self._pixels[waiting], ones], 1) @ inverse.T
        moves = here_from_world @ self._anchor_poses[waiting]
        # depth * (R first) + t is parallel to `second`: least squares for the depth along `first`.
        turned = np.einsum("nij,nj->ni", moves[:, :3, :3], first)
        a, b = np.cross(second, turned), np.cross(second, moves[:, :3, 3])
        depth = -(a * b).sum(1) / np.maximum((a * a).sum(1), 1e-12)
        points = turned * depth[:, None] + moves[:, :3, 3]
        pixels, z = self.camera.project(points)
        far, _ = self.camera.project(turned)
        with np.errstate(invalid="ignore"):
            error = np.linalg.norm(pixels - self._pixels[waiting], axis=1)
            moved = np.linalg.norm(self._pixels[waiting] - far, axis=1)
            good = ((depth > 0) & (z > 0) & (error < self.options.inlier)
                    & (moved > self.options.min_parallax / 2))
        self._points[waiting[good]] = rigid.transform_points(pose, points[good])

    def _error(self, pose: Array, known: npt.NDArray[np.bool_]) -> float:
        pixels, _ = self.camera.project(rigid.transform_points(
            rigid.invert(pose), self._points[known]))
        return float(np.nanmedian(np.linalg.norm(pixels - self._pixels[known], axis=1)))

    def _renew(self, here: Picture, depth: Depth | None) -> None:
        """Take new corners where there are none, with the place that the depth gives them."""
        room = self.options.corners - len(self._pixels)
        if self._has_map and len(self._pixels) > self.options.renew_below * self.options.corners:
            return
        if room <= 0:
            return
        mask = np.full(here.shape, 255, np.uint8)
        for x, y in self._pixels.astype(int):
            cv2.circle(mask, (int(x), int(y)), 8, 0, -1)
        found = cv2.goodFeaturesToTrack(here, room, 0.005, 8, mask=mask)
        if found is None:
            return
        new = np.asarray(found[:, 0], np.float32)
        points = np.full((len(new), 3), np.nan)
        if depth is not None:
            x, y = new.round().astype(int).T
            rays = np.concatenate([new, np.ones((len(new), 1))], 1) @ np.linalg.inv(
                self._matrix).T
            points = rigid.transform_points(self._pose, rays * depth[y, x, None])
            points[~(depth[y, x] > 0)] = np.nan
            self._has_map = True
        self._pixels = np.concatenate([self._pixels, new])
        self._points = np.concatenate([self._points, points])
        self._anchors = np.concatenate([self._anchors, new])
        self._anchor_poses = np.concatenate([
            self._anchor_poses, np.broadcast_to(self._pose, (len(new), 4, 4))])

    def _forget(self) -> None:
        self._select(np.zeros(len(self._pixels), dtype=bool))
        self._has_map, self._waited = False, 0
        self._velocity = np.eye(4)


def _followed(before: Picture, here: Picture,
              pixels: Points) -> tuple[Points, npt.NDArray[np.bool_]]:
    """Where the corners [N, 2] went, and which were found."""
    moved, found, _ = cv2.calcOpticalFlowPyrLK(
        before, here, pixels, None, winSize=(21, 21), maxLevel=4)  # type: ignore[call-overload]
    return np.asarray(moved, np.float32), np.asarray(found[:, 0] > 0)
