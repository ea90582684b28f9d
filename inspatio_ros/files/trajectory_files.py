# SPDX-License-Identifier: Apache-2.0
"""Camera paths from files: three-line motions, camera_from_world matrices, JSON and CSV poses.

| file | content |
| --- | --- |
| three lines | pitch, yaw (degrees) and displacement, each with its own keys (InSpatio-World) |
| 16 numbers a line | camera_from_world 4x4, row by row, one a frame (InSpatio-World 1.5) |
| .json | a list of poses, or {"poses": [...]}, see `read_trajectory` |
| .csv | head tx,ty,tz,qx,qy,qz,qw and optionally t: world_from_camera, m and s |
"""

from __future__ import annotations

import csv
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from inspatio_ros.geometry import rigid
from inspatio_ros.geometry.motions import CameraMotion, MotionFileError, read_motion

Array = npt.NDArray[np.float64]

_POSITION, _ROTATION = ("tx", "ty", "tz"), ("qx", "qy", "qz", "qw")


@dataclass(frozen=True)
class PoseList:
    """Poses of a trajectory file.

    start_from_camera: [N, 4, 4] in the frame of the recording's first camera, optical axes.
    times: [N] s from the first, increasing, or None: one a frame.
    """

    start_from_camera: Array
    times: Array | None = None


def read_trajectory(path: str | Path) -> CameraMotion | PoseList:
    """The motion or the poses of a file, told apart by its name and content.

    A JSON pose is 16 numbers or 4x4 (world_from_camera; camera_from_world where the document says
    "convention": "camera_from_world") or {"position": [3], "orientation": [x, y, z, w], "t": s}.
    "World" is the frame of the recording's first camera.
    Raises MotionFileError naming file, line and value, OSError when the file cannot be read.
    """
    file = Path(path)
    suffix = file.suffix.lower()
    try:
        if suffix == ".json":
            return _from_json(file)
        if suffix == ".csv":
            return _from_csv(file)
        matrices = _matrix_lines(file)
    except UnicodeDecodeError as error:
        raise MotionFileError(f"{file}: not a text file: {error}") from error
    return read_motion(file) if matrices is None else matrices


def _matrix_lines(file: Path) -> PoseList | None:
    """The poses of a file of matrices; None when it is not one."""
    lines = [(number, line.replace(",", " ").split()) for number, line in enumerate(
        file.read_text(encoding="utf-8-sig").splitlines(), 1) if line.strip()]
    if not lines:
        raise MotionFileError(f"{file}: holds no numbers")
    # A motion may have 16 keys a line, but its last four are not 0 0 0 1 in all three.
    first = lines[0][1]
    if len(first) != 16 or (len(lines) == 3 and not _ends_affine(first)):
        return None
    poses = []
    for number, words in lines:
        try:
            values = [float(word) for word in words]
        except ValueError as error:
            raise MotionFileError(f"{file}, line {number}: {error}") from error
        if len(values) != 16:
            raise MotionFileError(f"{file}, line {number}: {len(values)} numbers, expected 16: "
                                  "camera_from_world, row by row")
        poses.append(_rigid(np.reshape(values, (4, 4)), f"{file}, line {number}"))
    return PoseList(rigid.invert(np.array(poses)))


def _ends_affine(words: list[str]) -> bool:
    try:
        return [float(word) for word in words[12:]] == [0.0, 0.0, 0.0, 1.0]
    except ValueError:
        return False


def _from_json(file: Path) -> PoseList:
    try:
        document = json.loads(file.read_text(encoding="utf-8-sig"))
    except json.JSONDecodeError as error:
        raise MotionFileError(f"{file}: not JSON: {error}") from error
    inverse = False
    if isinstance(document, dict):
        convention = document.get("convention", "world_from_camera")
        if convention not in ("world_from_camera", "camera_from_world"):
            raise MotionFileError(f"{file}: convention '{convention}' is neither "
                                  "world_from_camera nor camera_from_world")
        inverse = convention == "camera_from_world"
        document = document.get("poses")
    if not isinstance(document, list) or not document:
        raise MotionFileError(f"{file}: expected a list of poses, or an object with 'poses'")
    poses, times = [], []
    for index, entry in enumerate(document):
        where = f"{file}, pose {index}"
        poses.append(_rigid(_json_pose(entry, where), where))
        if isinstance(entry, dict) and "t" in entry:
            times.append(_number(entry["t"], f"{where}, t"))
    matrices = np.array(poses)
    return PoseList(rigid.invert(matrices) if inverse else matrices,
                    _times(times, len(poses), file))


def _json_pose(entry: Any, where: str) -> Array:
    try:
        if isinstance(entry, dict) and "matrix" not in entry:
            return rigid.from_quaternion(entry["orientation"], entry["position"])
        values = np.asarray(entry["matrix"] if isinstance(entry, dict) else entry, np.float64)
        return values.reshape(4, 4)
    except (KeyError, TypeError, ValueError) as error:
        raise MotionFileError(
            f"{where}: neither 16 numbers nor position and orientation: {error}") from error


def _from_csv(file: Path) -> PoseList:
    with file.open(encoding="utf-8-sig", newline="") as stream:
        reader = csv.DictReader(stream)
        missing = [n for n in (*_POSITION, *_ROTATION) if n not in (reader.fieldnames or [])]
        if missing:
            raise MotionFileError(f"{file}: no column {', '.join(missing)}")
        poses, times = [], []
        for row in reader:
            where = f"{file}, line {reader.line_num}"
            position = [_number(row[name], f"{where}, {name}") for name in _POSITION]
            rotation = [_number(row[name], f"{where}, {name}") for name in _ROTATION]
            try:
                poses.append(rigid.from_quaternion(rotation, position))
            except ValueError as error:
                raise MotionFileError(f"{where}: {error}") from error
            if row.get("t"):
                times.append(_number(row["t"], f"{where}, t"))
    if not poses:
        raise MotionFileError(f"{file}: holds no poses")
    return PoseList(np.array(poses), _times(times, len(poses), file))


def _number(value: Any, where: str) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise MotionFileError(f"{where}: '{str(value)[:40]}' is not a number") from None
    if not np.isfinite(number):
        raise MotionFileError(f"{where}: {number} is not finite")
    return number


def _times(times: list[float], poses: int, file: Path) -> Array | None:
    if not times:
        return None
    if len(times) != poses:
        raise MotionFileError(f"{file}: {len(times)} of {poses} poses have a time t")
    array = np.array(times) - times[0]
    if np.any(np.diff(array) <= 0):
        raise MotionFileError(f"{file}: times t do not increase")
    return array


def _rigid(matrix: Array, where: str) -> Array:
    try:
        return rigid.require_rigid(matrix, where)
    except ValueError as error:
        raise MotionFileError(str(error)) from error
