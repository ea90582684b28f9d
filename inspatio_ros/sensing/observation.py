# SPDX-License-Identifier: Apache-2.0
"""One posed picture with depth, and the labels that say where a pixel comes from."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import numpy as np
import numpy.typing as npt

from inspatio_ros.geometry import rigid
from inspatio_ros.geometry.camera import PinholeCamera


class Provenance(IntEnum):
    """Where an output pixel comes from; the value written to the provenance picture."""

    UNKNOWN = 0
    IMAGINED = 85
    MEMORY = 170
    OBSERVED = 255


@dataclass(frozen=True)
class Observation:
    """What a camera saw at one instant, in metric scale.

    stamp_ns: acquisition time. image: uint8 RGB [H, W, 3]. depth: float32 z-depth [H, W] m, NaN
    where unknown, registered to the image. camera: of both. world_from_camera: [4, 4] of the
    optical frame. confidence: float32 [H, W] in [0, 1] or None (all equally trusted).
    Raises ValueError when shapes or dtypes disagree.
    """

    stamp_ns: int
    image: npt.NDArray[np.uint8]
    depth: npt.NDArray[np.float32]
    camera: PinholeCamera
    world_from_camera: npt.NDArray[np.float64]
    confidence: npt.NDArray[np.float32] | None = None

    def __post_init__(self) -> None:
        shape = (self.camera.height, self.camera.width)
        if self.image.shape != (*shape, 3) or self.image.dtype != np.uint8:
            raise ValueError(
                f"image: expected uint8 {shape[0]}x{shape[1]}x3 as the camera says, got "
                f"{self.image.dtype} {'x'.join(map(str, self.image.shape))}")
        for name, picture in (("depth", self.depth), ("confidence", self.confidence)):
            if picture is not None and (picture.shape != shape or picture.dtype != np.float32):
                raise ValueError(
                    f"{name}: expected float32 {shape[0]}x{shape[1]} registered to the image, got "
                    f"{picture.dtype} {'x'.join(map(str, picture.shape))}")
        pose = rigid.require_rigid(self.world_from_camera, "world_from_camera")
        object.__setattr__(self, "world_from_camera", pose)

    @property
    def depth_coverage(self) -> float:
        """Share of pixels with a depth, [0, 1]."""
        return float(np.count_nonzero(self.depth > 0) / self.depth.size)

    @property
    def nbytes(self) -> int:
        """Bytes held by the pictures."""
        extra = 0 if self.confidence is None else self.confidence.nbytes
        return self.image.nbytes + self.depth.nbytes + extra
