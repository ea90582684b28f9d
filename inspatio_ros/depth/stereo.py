# SPDX-License-Identifier: Apache-2.0
"""Metric depth from a pair of cameras by semi-global matching.

Method: Hirschmueller 2008 in OpenCV's implementation (StereoSGBM), checked from the right picture
back to the left one.
"""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from inspatio_ros.depth.rectification import CameraCalibration, Rectifier
from inspatio_ros.geometry.camera import PinholeCamera

Depth = npt.NDArray[np.float32]
Picture = npt.NDArray[np.uint8]

_MODES = {3: cv2.STEREO_SGBM_MODE_SGBM_3WAY, 4: cv2.STEREO_SGBM_MODE_HH4}


@dataclass(frozen=True)
class StereoOptions:
    """How a pair is matched.

    min_depth, max_depth: m, depth outside is unknown; min_depth sets the width of the search.
    scale: size of the pictures that are matched, (0, 1]; the result keeps the full size.
    paths: directions along which smoothness is summed, 4, or 3 for speed. On walls with little
    texture 4 gives 80 % instead of 73 % coverage of a street, without bands of wrong depth, in 1.5
    times the time at half size. block_size: odd, pixels. uniqueness: percent by which the best
    match must win. check_tolerance: pixels by which the matches left to right and right to left
    may differ; speckle_size: smallest region kept, pixels of the matched picture.
    """

    min_depth: float = 0.5
    max_depth: float = 80.0
    scale: float = 1.0
    paths: int = 4
    block_size: int = 5
    uniqueness: int = 8
    check_tolerance: float = 1.0
    speckle_size: int = 100

    def __post_init__(self) -> None:
        if not 0 < self.min_depth < self.max_depth:
            raise ValueError(f"stereo depth range {self.min_depth}..{self.max_depth} m is empty")
        if not 0 < self.scale <= 1:
            raise ValueError(f"stereo scale {self.scale} is not in (0, 1]")
        if self.paths not in _MODES:
            raise ValueError(f"stereo paths {self.paths} is not 3 or 4")
        if self.block_size < 1 or self.block_size % 2 == 0:
            raise ValueError(f"stereo block_size {self.block_size} is not odd and positive")


@dataclass(frozen=True)
class StereoGeometry:
    """The rectified left camera, the baseline in m and cx_left - cx_right in pixels."""

    camera: PinholeCamera
    baseline: float
    center_shift: float = 0.0

    def depth(self, disparity: npt.NDArray[np.floating]) -> Depth:
        """z-depth in m, NaN where the disparity is not finite or points behind infinity."""
        shifted = disparity - self.center_shift
        with np.errstate(divide="ignore", invalid="ignore"):
            depth = self.camera.fx * self.baseline / shifted
        return np.where(shifted > 0, depth, np.nan).astype(np.float32)

    def disparity(self, depth: float) -> float:
        """The disparity in pixels of a point `depth` m away."""
        return self.camera.fx * self.baseline / depth + self.center_shift


def baseline_of(left: CameraCalibration, right: CameraCalibration,
                left_from_right: npt.NDArray[np.float64] | None = None) -> float:
    """Metres from the left to the right camera.

    By ROS convention it is in the right camera's P as -fx * baseline. When P carries none, the
    transform [4, 4] between the rectified frames says it; when both do, the distances must agree
    within 2 %. Raises ValueError when neither does, when they disagree, when left and right are
    swapped, or when the pair is not side by side.
    """
    offsets = [c.projection[0, 3] / c.projection[0, 0] for c in (left, right)]
    baseline = float(offsets[0] - offsets[1])
    if abs(right.projection[1, 3]) > 1e-6 * abs(right.projection[1, 1]):
        raise ValueError("right camera_info: P[7] is not 0: cameras above each other are not "
                         "supported")
    offset = np.zeros(3) if left_from_right is None else left_from_right[:3, 3]
    distance = float(np.linalg.norm(offset))
    if distance > 1e-6 and abs(baseline) < 1e-6:
        if abs(offset[0]) < 0.98 * distance:
            raise ValueError(f"tf puts the right camera at {np.round(offset, 4).tolist()} m in "
                             "the left one: a rectified pair is side by side along x")
        baseline = float(offset[0])
    elif distance > 1e-6 and abs(distance - abs(baseline)) > 0.02 * abs(baseline):
        raise ValueError(f"baseline is {baseline:.4f} m in the right camera_info's P but "
                         f"{distance:.4f} m in tf: one of the two is wrong")
    if abs(baseline) < 1e-6:
        raise ValueError("no baseline: P[3] of the right camera_info is 0 and tf has the right "
                         "camera where the left one is; publish Tx in P or the frame in tf")
    if baseline < 0:
        raise ValueError(f"baseline is {baseline:.4f} m: left and right are swapped")
    return baseline


def geometry_of(left: CameraCalibration, right: CameraCalibration, camera: PinholeCamera,
                left_from_right: npt.NDArray[np.float64] | None = None) -> StereoGeometry:
    """The pair's geometry for a window `camera` of the rectified left picture.

    Raises ValueError when the two P differ in focal length or vertical centre.
    """
    a, b = left.projection, right.projection
    if abs(a[0, 0] - b[0, 0]) > 1e-3 * a[0, 0] or abs(a[1, 2] - b[1, 2]) > 0.5:
        raise ValueError("left and right P are not of one rectified pair: focal lengths "
                         f"{a[0, 0]:.2f} and {b[0, 0]:.2f}, vertical centres {a[1, 2]:.2f} and "
                         f"{b[1, 2]:.2f} px")
    return StereoGeometry(camera, baseline_of(left, right, left_from_right),
                          float(a[0, 2] - b[0, 2]))


def _searched(geometry: StereoGeometry, options: StereoOptions) -> tuple[int, int]:
    """Smallest disparity and number of disparities (a multiple of 16) in matched pixels."""
    # Infinity and one beyond belong to the search, else the sky takes the smallest one there is.
    low = math.floor(geometry.center_shift * options.scale) - 1
    high = math.ceil(geometry.disparity(options.min_depth) * options.scale) + 1
    limit = max(16, int(geometry.camera.width * options.scale) // 4)
    count = min(-(-(high - low) // 16) * 16, -(-limit // 16) * 16)
    return low, count


class StereoMatcher:
    """Disparity and depth of rectified pairs of one geometry.

    `nearest` is the smallest depth in m that the search can find: larger than `min_depth` when
    that would need more than a quarter of the picture's width.
    """

    def __init__(self, geometry: StereoGeometry, options: StereoOptions | None = None) -> None:
        self.geometry, self.options = geometry, options or StereoOptions()
        self._low, self._count = _searched(geometry, self.options)
        widest = (self._low + self._count) / self.options.scale
        self.nearest = max(self.options.min_depth, float(geometry.depth(np.array(widest))))
        # Weights of Hirschmueller's smoothness terms, as OpenCV's documentation recommends.
        area = self.options.block_size**2
        # One for each direction: they run at the same time and have buffers of their own.
        self._forward, self._backward = (cv2.StereoSGBM.create(
            minDisparity=self._low, numDisparities=self._count, blockSize=self.options.block_size,
            P1=8 * area, P2=32 * area, uniquenessRatio=self.options.uniqueness, preFilterCap=31,
            disp12MaxDiff=-1, speckleWindowSize=self.options.speckle_size, speckleRange=2,
            mode=_MODES[self.options.paths]) for _ in range(2))

    def disparity(self, left: Picture, right: Picture) -> Depth:
        """Disparity float32 [H, W] in full-size pixels of a rectified grey pair, NaN unknown.

        Raises ValueError when the pictures are not the camera's size or not grey uint8.
        """
        camera, scale = self.geometry.camera, self.options.scale
        for name, picture in (("left", left), ("right", right)):
            if picture.shape != (camera.height, camera.width) or picture.dtype != np.uint8:
                raise ValueError(f"{name} picture: expected grey uint8 {camera.width}x"
                                 f"{camera.height}, got {picture.dtype} {list(picture.shape)}")
        if scale < 1:
            size = round(camera.width * scale), round(camera.height * scale)
            left = cv2.resize(left, size, interpolation=cv2.INTER_AREA)  # type: ignore[assignment]
            right = cv2.resize(right, size, interpolation=cv2.INTER_AREA)  # type: ignore[assignment]
        with ThreadPoolExecutor(1) as pool:
            # The right picture's disparity is the left one's of the mirrored, swapped pair.
            mirrored = pool.submit(self._match, self._backward, right[:, ::-1], left[:, ::-1])
            forward = self._match(self._forward, left, right)
            backward = mirrored.result()[:, ::-1]
        disparity = _cross_checked(forward, backward, self.options.check_tolerance)
        if scale < 1:
            # Nearest keeps silhouettes sharp: a mean of two depths is a point in the air.
            disparity = cv2.resize(disparity, camera.size, interpolation=cv2.INTER_NEAREST)  # type: ignore[assignment]
            disparity *= camera.width / size[0]
        return disparity

    def depth(self, left: Picture, right: Picture) -> Depth:
        """z-depth float32 [H, W] m of the left picture of a rectified grey pair, NaN unknown."""
        depth = self.geometry.depth(self.disparity(left, right))
        inside = (depth >= self.options.min_depth) & (depth <= self.options.max_depth)
        return np.where(inside, depth, np.float32(np.nan))

    def _match(self, matcher: cv2.StereoSGBM, left: Picture, right: Picture) -> Depth:
        # SGBM gives up on the columns from which its search leaves the picture: pad, then cut.
        before, after = max(0, self._low + self._count), max(0, -self._low)
        padded = [np.ascontiguousarray(cv2.copyMakeBorder(
            picture, 0, 0, before, after, cv2.BORDER_REPLICATE)) for picture in (left, right)]
        width = left.shape[1]
        raw = matcher.compute(*padded)[:, before:before + width]
        disparity = raw.astype(np.float32) / 16
        partner = np.arange(width, dtype=np.float32) - disparity
        inside = (raw >= self._low * 16) & (partner >= 0) & (partner <= width - 1)
        return np.where(inside, disparity, np.float32(np.nan))


def _cross_checked(forward: Depth, backward: Depth, tolerance: float) -> Depth:
    """`forward` without pixels whose partner does not point back at them."""
    height, width = forward.shape
    partner = np.rint(np.arange(width) - np.nan_to_num(forward, nan=-1e6)).astype(np.int64)
    inside = (partner >= 0) & (partner < width)
    rows = np.arange(height)[:, None]
    difference = np.abs(backward[rows, partner.clip(0, width - 1)] - forward)
    return np.where(inside & (difference <= tolerance), forward, np.float32(np.nan))


class StereoDepth:
    """Depth of the left camera from raw or rectified pictures and the two calibrations.

    `rectified`: the pictures already are (image_rect); else they are rectified here and cropped to
    the window with content. `camera` is the camera of the depth and of the `left` pictures.
    Raises ValueError when the calibrations do not make a pair (see `geometry_of`).
    """

    def __init__(self, left: CameraCalibration, right: CameraCalibration,
                 options: StereoOptions | None = None, *, rectified: bool,
                 left_from_right: npt.NDArray[np.float64] | None = None) -> None:
        self._rectify: tuple[Rectifier, Rectifier] | None = None
        if (left.width, left.height) != (right.width, right.height):
            raise ValueError(f"left camera_info is {left.width}x{left.height}, right "
                             f"{right.width}x{right.height}: one size is needed")
        if rectified:
            camera = left.rectified_camera
        else:
            first = Rectifier(left)
            self._rectify = first, Rectifier(right, first.window)
            camera = first.camera
        self.camera = camera
        self.matcher = StereoMatcher(geometry_of(left, right, camera, left_from_right), options)

    def left(self, picture: Picture) -> Picture:
        """The left picture, grey or color, as the depth's camera sees it."""
        return self._rectify[0](picture) if self._rectify else picture

    def depth(self, left: Picture, right: Picture) -> Depth:
        """z-depth float32 [H, W] m, NaN unknown, of a pair of grey or RGB uint8 pictures."""
        if self._rectify is None:
            return self.matcher.depth(grey(left), grey(right))
        depth = self.matcher.depth(self._rectify[0](grey(left)), self._rectify[1](grey(right)))
        return np.where(self._rectify[0].valid, depth, np.float32(np.nan))


def grey(picture: Picture) -> Picture:
    """The grey picture [H, W] of a grey or RGB one."""
    if picture.ndim == 2:
        return picture
    return np.asarray(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY), dtype=np.uint8)
