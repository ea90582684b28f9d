# SPDX-License-Identifier: Apache-2.0
"""A camera carried elsewhere: where on the robot, and with which lens."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import yaml

from inspatio_ros.geometry import rigid
from inspatio_ros.geometry.camera import PinholeCamera

Array = npt.NDArray[np.float64]

ON_BASE, ON_CAMERA = "base", "camera"
# What a mounting file may say; see `read_mount`.
_KEYS = ("relative_to", "position", "rotation_deg", "camera")
_LENS = ("fx", "fy", "cx", "cy")


class MountError(ValueError):
    """A mounting that cannot be used; names the file, the key and the value."""


@dataclass(frozen=True)
class Mount:
    """Where a virtual camera sits, and its lens.

    relative_to: ON_BASE, or ON_CAMERA: the recorded camera. position m and rotation rad
    (fixed-axis roll, pitch, yaw), both in body axes (x forward, y left, z up) of what it is
    relative to; of the camera these are its view direction, left and up. camera: its lens; None:
    the recorded one.
    """

    relative_to: str = ON_CAMERA
    position: tuple[float, float, float] = (0.0, 0.0, 0.0)
    rotation: tuple[float, float, float] = (0.0, 0.0, 0.0)
    camera: PinholeCamera | None = None

    def __post_init__(self) -> None:
        if self.relative_to not in (ON_BASE, ON_CAMERA):
            raise MountError(f"relative_to '{self.relative_to}' is neither {ON_BASE} nor "
                             f"{ON_CAMERA}")
        for name in ("position", "rotation"):
            values = getattr(self, name)
            if len(values) != 3 or not np.isfinite(values).all():
                raise MountError(f"{name} {values}: expected three finite numbers")

    def base_from_camera(self, base_from_recorded: Array) -> Array:
        """base_from_optical [4, 4] of the virtual camera, given that of the recorded one."""
        body = rigid.from_euler(*self.rotation, self.position)
        if self.relative_to == ON_BASE:
            return np.asarray(body @ rigid.BODY_FROM_OPTICAL)
        return np.asarray(base_from_recorded @ rigid.OPTICAL_FROM_BODY @ body
                          @ rigid.BODY_FROM_OPTICAL)


def read_mount(path: str | Path) -> Mount:
    """The mounting of a YAML file.

    Keys, all optional: relative_to (base or camera), position [x, y, z] m, rotation_deg [roll,
    pitch, yaw], camera {width, height and either fx, fy, cx, cy in pixels or field_of_view_deg,
    the horizontal opening angle}. Raises MountError naming file, key and value.
    """
    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise MountError(f"{path}: {error.strerror or error}") from error
    except yaml.YAMLError as error:
        raise MountError(f"{path}: not YAML: {error}") from error
    if not isinstance(content, Mapping):
        raise MountError(f"{path}: expected keys {', '.join(_KEYS)}")
    unknown = [key for key in content if key not in _KEYS]
    if unknown:
        raise MountError(f"{path}: unknown key '{unknown[0]}'; there are {', '.join(_KEYS)}")
    try:
        rotation = [math.radians(v) for v in _three(content, "rotation_deg")]
        lens = content.get("camera")
        return Mount(str(content.get("relative_to", ON_CAMERA)), _three(content, "position"),
                     (rotation[0], rotation[1], rotation[2]),
                     None if lens is None else _lens(lens))
    except ValueError as error:
        raise MountError(f"{path}: {error}") from error


def camera_of_view(width: int, height: int, field_of_view: float) -> PinholeCamera:
    """The camera with this horizontal opening angle, rad, square pixels, centre in the middle."""
    if not 0 < field_of_view < math.pi:
        raise ValueError(f"field of view {field_of_view} rad is not between 0 and pi")
    focal = width / 2 / math.tan(field_of_view / 2)
    return PinholeCamera(width, height, focal, focal, (width - 1) / 2, (height - 1) / 2)


def _three(content: Mapping[str, Any], key: str) -> tuple[float, float, float]:
    values = content.get(key, (0.0, 0.0, 0.0))
    if not isinstance(values, list | tuple) or len(values) != 3 or not all(
            isinstance(v, int | float) and not isinstance(v, bool) for v in values):
        raise MountError(f"{key} {values}: expected three numbers")
    return float(values[0]), float(values[1]), float(values[2])


def _lens(values: Any) -> PinholeCamera:
    wanted = {"width", "height"}
    if not isinstance(values, Mapping) or not wanted <= set(values):
        raise MountError(f"camera {values}: needs width and height")
    given = set(values) - wanted
    try:
        if given == set(_LENS):
            return PinholeCamera.from_dict(dict(values))
        if given == {"field_of_view_deg"}:
            return camera_of_view(int(values["width"]), int(values["height"]),
                                  math.radians(float(values["field_of_view_deg"])))
    except (TypeError, ValueError) as error:
        raise MountError(f"camera: {error}") from error
    raise MountError(f"camera {dict(values)}: beside width and height either "
                     f"{', '.join(_LENS)} or field_of_view_deg")
