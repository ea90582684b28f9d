# SPDX-License-Identifier: Apache-2.0
"""Folders of frames: pictures, a table of poses (frames.csv) and a calibration (calib.json).

frames.csv: a row a frame with `index`, `stamp` (s), file names relative to the folder in `rgb` or
`left`, optionally `right`, `depth` or `lidar_depth`, and the pose of the camera's optical frame in
the world, tx ty tz (m) qx qy qz qw. calib.json: `cameras`, each with width, height, K = [fx, fy,
cx, cy] in pixels, D, for depth `depth_scale_m` (metres of one count) and for the right camera
`x_in_left_m`.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from inspatio_ros.depth.rectification import CameraCalibration, Rectifier
from inspatio_ros.depth.sensor_depth import DepthOptions, decode_depth
from inspatio_ros.depth.stereo import StereoDepth, StereoOptions
from inspatio_ros.geometry import rigid
from inspatio_ros.geometry.camera import PinholeCamera
from inspatio_ros.sensing.observation import Observation

Array = npt.NDArray[np.float64]
Picture = npt.NDArray[np.uint8]
Depth = npt.NDArray[np.float32]

_COLOR, _DEPTH = ("rgb", "left"), ("depth", "lidar_depth")
# Rows of lidar lie up to this many pixels apart; between them its surfaces are closed.
_LIDAR_CLOSE_RADIUS = 6


class SequenceError(ValueError):
    """A folder of frames that cannot be read; names file, row and value."""


@dataclass(frozen=True)
class SequenceOptions:
    """How depth is made: limits in m, and the size at which a pair is matched, (0, 1]."""

    min_depth: float = 0.1
    max_depth: float = 80.0
    flying_pixel_jump: float = 0.08
    stereo_scale: float = 0.5


@dataclass(frozen=True)
class SequenceFrame:
    """One row of the table. files: path by kind (rgb, left, right, depth, lidar_depth)."""

    index: int
    stamp_ns: int
    files: dict[str, Path]
    world_from_camera: Array


class Sequence:
    """A folder of frames. `frames` [N] is its table; pictures are read when asked for.

    camera: of the rectified pictures. Raises SequenceError.
    """

    def __init__(self, folder: str | Path, options: SequenceOptions | None = None) -> None:
        self.folder = Path(folder)
        self.options = options or SequenceOptions()
        self.frames = _read_table(self.folder / "frames.csv")
        calibration = _read_json(self.folder / "calib.json")
        kinds = self.frames[0].files
        self.color = next((kind for kind in _COLOR if kind in kinds), "")
        self.depth_kind = next((kind for kind in _DEPTH if kind in kinds), "")
        if not self.color:
            raise SequenceError(f"{self.folder}/frames.csv: no column rgb or left")
        cameras = calibration.get("cameras", {})
        self._calibration = _camera_of(cameras, self.color, self.folder)
        self._rectifier = Rectifier(self._calibration) if self._calibration.is_distorted else None
        self.camera: PinholeCamera = (
            self._rectifier.camera if self._rectifier else self._calibration.rectified_camera)
        self._depth_scale = float(cameras[self.color].get("depth_scale_m", 0.001))
        self._stereo = self._pair(cameras) if "right" in kinds else None

    def __len__(self) -> int:
        return len(self.frames)

    @property
    def has_depth(self) -> bool:
        """Whether frames become observations: with depth pictures or a right camera."""
        return bool(self.depth_kind) or self._stereo is not None

    @property
    def has_right(self) -> bool:
        """Whether there is a right camera to match."""
        return self._stereo is not None

    def image(self, index: int) -> Picture:
        """The rectified picture of frame `index`, uint8 RGB [H, W, 3]."""
        picture = self._read(self.frames[index].files[self.color])
        return self._rectifier(picture) if self._rectifier else picture

    def depth(self, index: int) -> Depth:
        """z-depth float32 [H, W] m of frame `index`, NaN unknown. Raises SequenceError."""
        files = self.frames[index].files
        if self.depth_kind:
            return self._sensor_depth(files[self.depth_kind])
        if self._stereo is None:
            raise SequenceError(f"{self.folder}: no column depth, lidar_depth or right: its "
                                "frames have no depth")
        return self._stereo.depth(self._read(files["left"]), self._read(files["right"]))

    def observation(self, index: int) -> Observation:
        """Frame `index` with its depth."""
        frame = self.frames[index]
        return Observation(frame.stamp_ns, self.image(index), self.depth(index), self.camera,
                           frame.world_from_camera)

    def __iter__(self) -> Iterator[Observation]:
        return (self.observation(index) for index in range(len(self.frames)))

    def _sensor_depth(self, path: Path) -> Depth:
        counts = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        if counts is None or counts.dtype != np.uint16 or counts.ndim != 2:
            raise SequenceError(f"{path}: not a 16 bit grey picture")
        self._require_size(path, counts)
        sparse = self.depth_kind == "lidar_depth"
        depth = decode_depth(counts, "16UC1", DepthOptions(
            unit=self._depth_scale, min_depth=self.options.min_depth,
            max_depth=self.options.max_depth,
            # Between two rows of lidar there is nothing: every point would pass for flying.
            flying_pixel_jump=0.0 if sparse else self.options.flying_pixel_jump,
            close_radius=_LIDAR_CLOSE_RADIUS if sparse else 0))
        return self._rectifier.depth(depth) if self._rectifier else depth

    def _pair(self, cameras: dict[str, Any]) -> StereoDepth:
        right = _camera_of(cameras, "right", self.folder)
        baseline = cameras["right"].get("x_in_left_m")
        if not isinstance(baseline, int | float):
            raise SequenceError(f"{self.folder}/calib.json: camera right has no x_in_left_m")
        projection = right.projection.copy()
        projection[0, 3] = -projection[0, 0] * baseline
        right = CameraCalibration(right.width, right.height, right.distortion_model,
                                  right.distortion, right.matrix, right.rectification, projection)
        options = StereoOptions(
            min_depth=max(self.options.min_depth, 1e-3), max_depth=self.options.max_depth,
            scale=self.options.stereo_scale)
        return StereoDepth(self._calibration, right, options,
                           rectified=not self._calibration.is_distorted)

    def _read(self, path: Path) -> Picture:
        picture = cv2.imread(str(path), cv2.IMREAD_COLOR)
        if picture is None:
            raise SequenceError(f"{path}: no picture that can be read")
        self._require_size(path, picture)
        return np.asarray(cv2.cvtColor(picture, cv2.COLOR_BGR2RGB), dtype=np.uint8)

    def _require_size(self, path: Path, picture: npt.NDArray[Any]) -> None:
        size = self._calibration.width, self._calibration.height
        if (picture.shape[1], picture.shape[0]) != size:
            raise SequenceError(f"{path}: {picture.shape[1]}x{picture.shape[0]}, calib.json says "
                                f"{size[0]}x{size[1]}")


def _read_table(path: Path) -> list[SequenceFrame]:
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
    except FileNotFoundError:
        raise SequenceError(f"{path}: no such file: not a folder of frames") from None
    if not rows:
        raise SequenceError(f"{path}: no rows")
    frames = [_read_row(row, path, number) for number, row in enumerate(rows, start=2)]
    for before, after in zip(frames, frames[1:], strict=False):
        if after.stamp_ns <= before.stamp_ns:
            raise SequenceError(f"{path}: stamp of frame {after.index} is not later than that of "
                                f"frame {before.index}")
    return frames


def _read_row(row: dict[str, str], path: Path, line: int) -> SequenceFrame:
    try:
        position = [float(row[key]) for key in ("tx", "ty", "tz")]
        turn = [float(row[key]) for key in ("qx", "qy", "qz", "qw")]
        index, stamp = int(row["index"]), float(row["stamp"])
        pose = rigid.from_quaternion(turn, position)
    except (KeyError, TypeError, ValueError) as error:
        raise SequenceError(f"{path}, line {line}: {error}") from error
    kinds = (*_COLOR, "right", *_DEPTH)
    files = {kind: path.parent / row[kind] for kind in kinds if row.get(kind)}
    return SequenceFrame(index, round(stamp * 1e9), files, pose)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise SequenceError(f"{path}: no such file: not a folder of frames") from None
    except ValueError as error:
        raise SequenceError(f"{path}: not JSON: {error}") from error
    if not isinstance(content, dict):
        raise SequenceError(f"{path}: not an object")
    return content


def _camera_of(cameras: dict[str, Any], name: str, folder: Path) -> CameraCalibration:
    where = f"{folder}/calib.json: camera {name}"
    try:
        camera = cameras[name]
        fx, fy, cx, cy = (float(value) for value in camera["K"])
        matrix = np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1.0]])
        projection = np.concatenate([matrix, np.zeros((3, 1))], axis=1)
        distortion = tuple(float(value) for value in camera.get("D", ()))
        return CameraCalibration(int(camera["width"]), int(camera["height"]), "plumb_bob",
                                 distortion, matrix, np.eye(3), projection)
    except KeyError as error:
        raise SequenceError(f"{where}: no {error}") from error
    except (TypeError, ValueError) as error:
        raise SequenceError(f"{where}: {error}") from error
