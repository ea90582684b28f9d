# SPDX-License-Identifier: Apache-2.0
"""The pinhole camera: optical axes (x right, y down, z forward), pixel centres at integers."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class PinholeCamera:
    """A rectified camera: size and focal lengths and principal point in pixels.

    Raises ValueError when a size or focal length is not positive and finite: `fx == 0` is how ROS
    writes an uncalibrated camera (sensor_msgs/CameraInfo).
    """

    width: int
    height: int
    fx: float
    fy: float
    cx: float
    cy: float

    def __post_init__(self) -> None:
        if self.width < 1 or self.height < 1:
            raise ValueError(f"camera size {self.width}x{self.height} is not positive")
        numbers = (self.fx, self.fy, self.cx, self.cy)
        if not all(math.isfinite(x) for x in numbers) or self.fx <= 0 or self.fy <= 0:
            raise ValueError(f"camera is not calibrated: fx, fy, cx, cy = {numbers}")

    @staticmethod
    def from_matrix(matrix: npt.ArrayLike, width: int, height: int) -> PinholeCamera:
        """The camera with this 3x3 matrix (skew is refused) and picture size."""
        k = np.asarray(matrix, dtype=np.float64)
        if k.shape != (3, 3):
            raise ValueError(f"camera matrix: expected 3x3, got {k.shape}")
        if abs(k[0, 1]) > 1e-6 * max(abs(float(k[0, 0])), 1e-12):
            raise ValueError(f"camera matrix has skew {k[0, 1]}: rectify the picture first")
        return PinholeCamera(int(width), int(height), *map(float, (k[0, 0], k[1, 1])),
                             *map(float, (k[0, 2], k[1, 2])))

    @staticmethod
    def from_dict(values: dict[str, float]) -> PinholeCamera:
        """The camera that `to_dict` wrote."""
        return PinholeCamera(int(values["width"]), int(values["height"]),
                             *(float(values[k]) for k in ("fx", "fy", "cx", "cy")))

    def to_dict(self) -> dict[str, float]:
        """Plain numbers, for JSON."""
        return asdict(self)

    @property
    def matrix(self) -> Array:
        """K [3, 3], pixels from optical coordinates."""
        return np.array([[self.fx, 0.0, self.cx], [0.0, self.fy, self.cy], [0.0, 0.0, 1.0]])

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) in pixels."""
        return self.width, self.height

    @property
    def field_of_view(self) -> tuple[float, float]:
        """Horizontal and vertical opening angle, radians, outer pixel edge to outer pixel edge."""
        return tuple(  # type: ignore[return-value]
            math.atan((size - 0.5 - centre) / focal) + math.atan((centre + 0.5) / focal)
            for size, centre, focal in (
                (self.width, self.cx, self.fx), (self.height, self.cy, self.fy))
        )

    def resized(self, width: int, height: int) -> PinholeCamera:
        """The camera of this picture resized to width x height (area kept, edges on edges)."""
        sx, sy = width / self.width, height / self.height
        return PinholeCamera(width, height, self.fx * sx, self.fy * sy,
                             (self.cx + 0.5) * sx - 0.5, (self.cy + 0.5) * sy - 0.5)

    def cropped(self, x: int, y: int, width: int, height: int) -> PinholeCamera:
        """The camera of the window whose upper left pixel is (x, y); it may reach outside."""
        return PinholeCamera(width, height, self.fx, self.fy, self.cx - x, self.cy - y)

    def binned(self, binning_x: int, binning_y: int) -> PinholeCamera:
        """The camera after merging binning_x x binning_y pixels into one.

        sensor_msgs/CameraInfo: 0 means no binning. The centre convention is ours (pixel centres
        at integers), so a bin's centre lies between the pixels it merges.
        """
        bx, by = max(1, binning_x), max(1, binning_y)
        width, height = self.width // bx, self.height // by
        return PinholeCamera(width, height, self.fx / bx, self.fy / by,
                             (self.cx + 0.5) / bx - 0.5, (self.cy + 0.5) / by - 0.5)

    def fitted(self, width: int, height: int) -> tuple[PinholeCamera, tuple[int, int, int, int]]:
        """The width x height camera of the largest centred window of that aspect, and the window.

        Returns (camera, (x, y, w, h)): crop the picture to the window, then resize it to
        width x height. Nothing is stretched by more than half a pixel's rounding.
        """
        scale = min(self.width / width, self.height / height)
        w = min(self.width, max(1, round(width * scale)))
        h = min(self.height, max(1, round(height * scale)))
        x, y = (self.width - w) // 2, (self.height - h) // 2
        return self.cropped(x, y, w, h).resized(width, height), (x, y, w, h)

    def rays(self) -> npt.NDArray[np.float64]:
        """Direction of every pixel with z = 1, optical axes, [H, W, 3]."""
        x = (np.arange(self.width) - self.cx) / self.fx
        y = (np.arange(self.height) - self.cy) / self.fy
        rays = np.ones((self.height, self.width, 3))
        rays[..., 0] = x
        rays[..., 1] = y[:, None]
        return rays

    def unproject(self, depth: npt.NDArray[np.floating]) -> Array:
        """Points in the optical frame, [H, W, 3] m, of a z-depth picture [H, W] m (NaN stays)."""
        if depth.shape != (self.height, self.width):
            raise ValueError(
                f"depth is {depth.shape[1]}x{depth.shape[0]}, camera {self.width}x{self.height}")
        return self.rays() * depth[..., None]

    def project(self, points: npt.NDArray[np.floating]) -> tuple[Array, Array]:
        """Pixels [..., 2] and z-depth [...] of points [..., 3] in the optical frame.

        Points at or behind the camera plane get NaN pixels; their depth is returned as it is.
        """
        z = np.asarray(points[..., 2], dtype=np.float64)
        front = np.where(z > 0, z, np.nan)
        pixels = np.stack([self.fx * points[..., 0] / front + self.cx,
                           self.fy * points[..., 1] / front + self.cy], axis=-1)
        return pixels, z

    def agrees_with(self, other: PinholeCamera, tolerance_px: float = 0.5) -> bool:
        """Whether both see every pixel within `tolerance_px` of the same place."""
        if self.size != other.size:
            return False
        corners = np.array([[0, 0], [self.width - 1, 0], [0, self.height - 1],
                            [self.width - 1, self.height - 1]], dtype=np.float64)
        rays = np.stack([(corners[:, 0] - self.cx) / self.fx, (corners[:, 1] - self.cy) / self.fy,
                         np.ones(4)], axis=-1)
        pixels, _ = other.project(rays)
        return bool(np.abs(pixels - corners).max() <= tolerance_px)
