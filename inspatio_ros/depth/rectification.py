# SPDX-License-Identifier: Apache-2.0
"""Rectified pictures from raw, distorted ones, as camera_info describes it."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from inspatio_ros.geometry.camera import PinholeCamera

Array = npt.NDArray[np.float64]

# How many parameters each of the ROS distortion models has at most in OpenCV.
_MODELS = {"plumb_bob": 5, "rational_polynomial": 14, "equidistant": 4, "fisheye": 4}


@dataclass(frozen=True)
class CameraCalibration:
    """What a sensor_msgs/CameraInfo says of a camera, for its full-resolution raw picture.

    matrix K [3, 3] and distortion D: raw pixels. rectification R [3, 3]: rectified from raw
    optical axes. projection P [3, 4]: rectified pixels, P[0, 3] = -fx * baseline for the right
    camera of a pair, m. Raises ValueError for an uncalibrated camera or an unknown model.
    """

    width: int
    height: int
    distortion_model: str
    distortion: tuple[float, ...]
    matrix: Array
    rectification: Array
    projection: Array

    def __post_init__(self) -> None:
        for name, shape in (("matrix", (3, 3)), ("rectification", (3, 3)), ("projection", (3, 4))):
            value = np.asarray(getattr(self, name), dtype=np.float64).reshape(shape)
            if not np.isfinite(value).all():
                raise ValueError(f"camera_info {name} is not finite")
            object.__setattr__(self, name, value)
        if self.matrix[0, 0] <= 0 or self.matrix[1, 1] <= 0:
            raise ValueError("camera_info is uncalibrated (K[0] is 0): calibrate the camera or "
                             "fix its camera_info publisher")
        if not self.rectification.any():  # left empty by drivers that do not rectify
            object.__setattr__(self, "rectification", np.eye(3))
        if not self.projection[:, :3].any():
            projection = np.concatenate([self.matrix, np.zeros((3, 1))], axis=1)
            object.__setattr__(self, "projection", projection)
        elif self.projection[0, 0] <= 0 or self.projection[1, 1] <= 0:
            raise ValueError("camera_info P holds no focal length (P[0] is 0)")
        if self.is_distorted and self.distortion_model not in _MODELS:
            raise ValueError(f"distortion model '{self.distortion_model}' is not supported: use "
                             f"{', '.join(_MODELS)} or rectify with image_proc")
        if self.is_distorted and len(self.distortion) > _MODELS[self.distortion_model]:
            raise ValueError(f"{len(self.distortion)} distortion parameters are too many for "
                             f"'{self.distortion_model}'")

    @staticmethod
    def of(camera: PinholeCamera, baseline: float = 0.0) -> CameraCalibration:
        """The calibration of a rectified camera; `baseline` m right of the left one of a pair."""
        projection = np.zeros((3, 4))
        projection[:, :3] = camera.matrix
        projection[0, 3] = -camera.fx * baseline
        return CameraCalibration(camera.width, camera.height, "plumb_bob", (), camera.matrix,
                                 np.eye(3), projection)

    @property
    def is_distorted(self) -> bool:
        """Whether any distortion parameter is other than zero."""
        return any(value != 0.0 for value in self.distortion)

    @property
    def rectified_camera(self) -> PinholeCamera:
        """The camera of the rectified picture at the raw picture's size."""
        return PinholeCamera.from_matrix(self.projection[:, :3], self.width, self.height)


class Rectifier:
    """Turns raw pictures of one camera into rectified ones.

    window: (x, y, width, height) of the rectified picture to keep; by default what is left after
    cutting off sides until no pixel is without content, since P often belongs to a smaller picture
    than the raw one (KITTI: raw 1392x512, rectified 1242x375). `camera` is the camera of that
    window, `valid` bool [H, W] where the raw picture has content.
    """

    def __init__(self, calibration: CameraCalibration,
                 window: tuple[int, int, int, int] | None = None) -> None:
        self.calibration = calibration
        maps = _maps(calibration)
        self.window = window or _content(maps, calibration)
        x, y, width, height = self.window
        self.camera = calibration.rectified_camera.cropped(x, y, width, height)
        maps = _shifted_maps(calibration, self.window)
        self.valid = _inside(maps, calibration)
        self._maps = cv2.convertMaps(maps[0], maps[1], cv2.CV_16SC2)

    def __call__(self, picture: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """The rectified picture [h, w] or [h, w, C], black outside `valid`.

        Raises ValueError when the picture has another size than its calibration.
        """
        size = picture.shape[1], picture.shape[0]
        expected = self.calibration.width, self.calibration.height
        if size != expected:
            raise ValueError(f"picture is {size[0]}x{size[1]} but camera_info says "
                             f"{expected[0]}x{expected[1]}")
        return np.asarray(cv2.remap(picture, *self._maps, cv2.INTER_LINEAR), dtype=np.uint8)

    def depth(self, picture: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """The rectified z-depth [h, w] m of a raw depth picture float32 [H, W]; NaN outside.

        Nearest pixels: depth must not be mixed across silhouettes. Raises ValueError on another
        size, or when rectification turns the camera, which would change z.
        """
        if not np.allclose(self.calibration.rectification, np.eye(3), atol=1e-6):
            raise ValueError("depth of a camera with a rectifying rotation: rectify it upstream")
        if picture.shape != (self.calibration.height, self.calibration.width):
            raise ValueError(
                f"depth is {picture.shape[1]}x{picture.shape[0]} but camera_info says "
                f"{self.calibration.width}x{self.calibration.height}")
        return np.asarray(cv2.remap(picture, *self._maps, cv2.INTER_NEAREST,
                                    borderValue=float("nan")), dtype=np.float32)


Maps = tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]


def _maps(calibration: CameraCalibration) -> Maps:
    """Raw pixel of every rectified pixel at raw size."""
    return _shifted_maps(calibration, (0, 0, calibration.width, calibration.height))


def _shifted_maps(calibration: CameraCalibration, window: tuple[int, int, int, int]) -> Maps:
    x, y, width, height = window
    projection = calibration.projection[:, :3].copy()
    projection[0, 2] -= x
    projection[1, 2] -= y
    distortion = np.asarray(calibration.distortion, dtype=np.float64)
    matrix, rotation = calibration.matrix, calibration.rectification
    size, kind = (width, height), cv2.CV_32FC1
    if calibration.is_distorted and calibration.distortion_model in ("equidistant", "fisheye"):
        maps = cv2.fisheye.initUndistortRectifyMap(matrix, distortion, rotation, projection, size,
                                                   kind)
    else:
        distortion = distortion if calibration.is_distorted else np.zeros(5)
        maps = cv2.initUndistortRectifyMap(matrix, distortion, rotation, projection, size, kind)
    return np.asarray(maps[0], dtype=np.float32), np.asarray(maps[1], dtype=np.float32)


def _inside(maps: Maps, calibration: CameraCalibration) -> npt.NDArray[np.bool_]:
    rounding = 1e-3  # pixels; the maps are float32
    return np.asarray((maps[0] >= -rounding) & (maps[0] <= calibration.width - 1 + rounding)
                      & (maps[1] >= -rounding) & (maps[1] <= calibration.height - 1 + rounding))


def _content(maps: Maps, calibration: CameraCalibration) -> tuple[int, int, int, int]:
    inside = _inside(maps, calibration)
    if not inside.any():
        raise ValueError("camera_info: no rectified pixel falls into the raw picture: K, D, R and "
                         "P do not belong together")
    left, top, bottom, right = 0, 0, *inside.shape
    while not (window := inside[top:bottom, left:right]).all():
        # Give up the side that is emptiest, until no empty pixel is left.
        sides = window[:, 0], window[0], window[:, -1], window[-1]
        empty = [1.0 - side.mean() for side in sides]
        worst = int(np.argmax(empty))
        if empty[worst] == 0.0:
            break  # a hole in the middle: nothing that cutting can mend
        left, top = left + (worst == 0), top + (worst == 1)
        right, bottom = right - (worst == 2), bottom - (worst == 3)
    return left, top, right - left, bottom - top
