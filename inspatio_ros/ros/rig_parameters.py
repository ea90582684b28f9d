# SPDX-License-Identifier: Apache-2.0
"""The parameters of the imagination node's virtual rig."""

from __future__ import annotations

import math
from dataclasses import dataclass

from inspatio_ros.geometry.camera import PinholeCamera
from inspatio_ros.planning.mounting import ON_BASE, ON_CAMERA, Mount, camera_of_view
from inspatio_ros.ros.parameters import param


@dataclass(frozen=True)
class RigParameters:
    """The camera carried elsewhere: its pictures re-rendered from another mounting, live."""

    enabled: bool = param(False, "Show what the camera would see from another mounting, on ~/rig/")
    rate: float = param(10.0, "At most so often, and never without a new image", unit="Hz",
                        minimum=0.1, maximum=120.0, dynamic=True)
    relative_to: str = param(ON_CAMERA, "What the mounting is told in: the real camera (its view, "
                             "left and up), or the base", choices=(ON_CAMERA, ON_BASE))
    position: tuple[float, ...] = param(
        (0.0, 0.0, 0.0), "Of the virtual camera: x forward, y left, z up", unit="m",
        minimum=-100.0, maximum=100.0)
    rotation: tuple[float, ...] = param(
        (0.0, 0.0, 0.0), "Of the virtual camera: roll, pitch, yaw about these axes", unit="rad",
        minimum=-6.3, maximum=6.3)
    width: int = param(0, "Width of its images; 0: the real camera's", unit="pixels", minimum=0,
                       maximum=8192)
    height: int = param(0, "Height of its images; 0: the real camera's", unit="pixels", minimum=0,
                        maximum=8192)
    field_of_view: float = param(0.0, "Horizontal opening angle; 0: the real camera's lens",
                                 unit="rad", minimum=0.0, maximum=3.0)
    frame: str = param("rig_camera_optical", "Frame of the virtual camera, published on /tf")

    def check(self) -> None:
        """Raise ValueError when the values contradict each other."""
        for name in ("position", "rotation"):
            if len(getattr(self, name)) != 3:
                raise ValueError(f"rig.{name} {list(getattr(self, name))}: expected three numbers")
        if (self.width == 0) != (self.height == 0):
            raise ValueError(f"rig.width {self.width} and rig.height {self.height}: both or "
                             "neither must be 0")
        if self.field_of_view and not self.width:
            raise ValueError("rig.field_of_view needs rig.width and rig.height")

    @property
    def mount(self) -> Mount:
        """The mounting."""
        (x, y, z), (roll, pitch, yaw) = self.position, self.rotation
        return Mount(self.relative_to, (x, y, z), (roll, pitch, yaw))

    def camera(self, real: PinholeCamera) -> PinholeCamera:
        """The virtual camera's lens."""
        if not self.width:
            return real
        if math.isclose(self.field_of_view, 0.0):
            return real.fitted(self.width, self.height)[0]
        return camera_of_view(self.width, self.height, self.field_of_view)
