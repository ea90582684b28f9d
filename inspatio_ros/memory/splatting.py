# SPDX-License-Identifier: Apache-2.0
"""Point clouds drawn into a camera: one interface, three backends.

`numba` draws on the CPU and is the default; `torch` is the oracle and the fallback and runs on any
torch device; `triton` draws on a CUDA device.
"""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from inspatio_ros.geometry.camera import PinholeCamera

log = logging.getLogger(__name__)

Float = npt.NDArray[np.float32]
Byte = npt.NDArray[np.uint8]
Codes = npt.NDArray[np.uint32]
Keys = npt.NDArray[np.uint64]
Transform = npt.NDArray[np.float64]

BACKENDS = ("numba", "torch", "triton")
MAX_THREADS = 4
NEAR = 1e-3
EMPTY_KEY = np.uint64(0xFFFFFFFFFFFFFFFF)

# Numba's simplest threading layer must not be entered by two threads at once.
PARALLEL = threading.Lock()


@dataclass(frozen=True)
class Rendered:
    """A drawn view: image uint8 [H, W, 3] (0 where nothing), depth float32 [H, W] m (NaN where
    nothing), label uint8 [H, W] (0 where nothing)."""

    image: Byte
    depth: Float
    label: Byte


class Splatter(Protocol):
    """Draws coloured points into a camera."""

    name: str

    def render(
        self,
        xyz: Float,
        codes: Codes,
        camera: PinholeCamera,
        camera_from_points: Transform,
        sizes: Float | None = None,
        max_side: int = 8,
    ) -> Rendered:
        """The view of points `xyz` float32 [3, P] m with colours `codes` (see `pack_colors`).

        Each point is one pixel, or with `sizes` [P] m a square of its projected size, 1 to
        `max_side` pixels. The nearest point wins a pixel; among equally near the smaller code.
        Coordinates are planar because eight points are projected at a time.
        Points behind the camera, outside the picture or not finite are left out.
        """


def pack_colors(rgb: Byte, label: int = 255) -> Codes:
    """Codes uint32 [...] = r | g << 8 | b << 16 | label << 24 of colours uint8 [..., 3]."""
    packed = np.empty((*rgb.shape[:-1], 4), np.uint8)
    packed[..., :3] = rgb
    packed[..., 3] = label
    return packed.view("<u4")[..., 0].astype(np.uint32, copy=False)


def projection_matrix(camera: PinholeCamera, camera_from_points: Transform) -> Float:
    """K camera_from_points as float32 [3, 4]."""
    return np.ascontiguousarray(camera.matrix @ camera_from_points[:3], dtype=np.float32)


def check_points(xyz: Float, codes: Codes, sizes: Float | None) -> None:
    """Raise ValueError unless the arrays have matching shapes and the stated dtypes."""
    if xyz.ndim != 2 or xyz.shape[0] != 3 or xyz.dtype != np.float32:
        raise ValueError(f"xyz: expected float32 [3, P], got {xyz.dtype} {xyz.shape}")
    if codes.shape != xyz.shape[1:] or codes.dtype != np.uint32:
        raise ValueError(
            f"codes: expected uint32 [{xyz.shape[1]}], got {codes.dtype} {codes.shape}")
    if sizes is not None and (sizes.shape != xyz.shape[1:] or sizes.dtype != np.float32):
        raise ValueError(
            f"sizes: expected float32 [{xyz.shape[1]}], got {sizes.dtype} {sizes.shape}")


def even_spans(count: int, pieces: int) -> npt.NDArray[np.int64]:
    """[pieces, 2] index ranges that share out `count` items."""
    edges = np.arange(pieces + 1, dtype=np.int64) * count // pieces
    return np.stack([edges[:-1], edges[1:]], axis=1)


class NumbaSplatter:
    """CPU drawing with a private z-buffer for every thread."""

    name = "numba"

    def __init__(self, threads: int | None = None) -> None:
        import numba

        self.threads = threads or min(MAX_THREADS, numba.get_num_threads())
        self._scratch: dict[str, npt.NDArray[np.generic]] = {}

    def buffers(self, pixels: int, name: str = "keys") -> Keys:
        """The threads' z-buffers uint64 [threads, pixels], kept between calls."""
        held = self._scratch.get(name)
        if held is None or held.shape != (self.threads, pixels):
            held = np.empty((self.threads, pixels), np.uint64)
            self._scratch[name] = held
        return held  # type: ignore[return-value]

    def sums(self, pixels: int) -> Float:
        """The threads' accumulators float32 [threads, pixels, 5], kept between calls."""
        held = self._scratch.get("sums")
        if held is None or held.shape != (self.threads, pixels, 5):
            held = np.empty((self.threads, pixels, 5), np.float32)
            self._scratch["sums"] = held
        return held  # type: ignore[return-value]

    @property
    def nbytes(self) -> int:
        """Bytes of scratch held."""
        return sum(array.nbytes for array in self._scratch.values())

    def render(
        self,
        xyz: Float,
        codes: Codes,
        camera: PinholeCamera,
        camera_from_points: Transform,
        sizes: Float | None = None,
        max_side: int = 8,
    ) -> Rendered:
        """See `Splatter.render`."""
        from inspatio_ros.memory import splatting_numba as kernels

        check_points(xyz, codes, sizes)
        height, width = camera.height, camera.width
        projection = projection_matrix(camera, camera_from_points)
        spans = even_spans(xyz.shape[1], self.threads)
        near = np.float32(NEAR)
        out = blank(height, width)
        # Index payloads are meant by an empty code array, so "no points" must not reach a kernel.
        if xyz.shape[1] == 0:
            return out
        with PARALLEL:
            buffers = self.buffers(height * width)
            if sizes is None:
                kernels.splat_points(
                    xyz, codes, spans, projection, near, width, height, buffers)
            else:
                kernels.splat_squares(
                    xyz, sizes, codes, spans, projection, np.float32(camera.fx), max_side, near,
                    width, height, buffers)
            kernels.resolve(buffers, out.image.reshape(-1, 3), out.depth.reshape(-1),
                            out.label.reshape(-1))
        return out

    def nearest_indices(
        self,
        xyz: Float,
        sizes: Float,
        spans: npt.NDArray[np.int64],
        camera: PinholeCamera,
        camera_from_points: Transform,
        max_side: int,
    ) -> Keys:
        """Keys uint64 [H*W] whose low half is the index of the nearest point (all ones: none)."""
        from inspatio_ros.memory import splatting_numba as kernels

        pixels = camera.height * camera.width
        keys = np.empty(pixels, np.uint64)
        with PARALLEL:
            buffers = self.buffers(pixels)
            kernels.splat_squares(
                xyz, sizes, np.empty(0, np.uint32), spans,
                projection_matrix(camera, camera_from_points), np.float32(camera.fx), max_side,
                np.float32(NEAR), camera.width, camera.height, buffers)
            kernels.merge(buffers, keys)
        return keys


def blank(height: int, width: int) -> Rendered:
    """A view with nothing drawn."""
    return Rendered(
        image=np.zeros((height, width, 3), np.uint8),
        depth=np.full((height, width), np.nan, np.float32),
        label=np.zeros((height, width), np.uint8))


class TorchSplatter:
    """The same drawing with torch's scatter-minimum on any device; bit-equal to numba on CPUs."""

    name = "torch"

    def __init__(self, device: str = "cpu") -> None:
        import torch

        self.device = torch.device(device)

    def render(
        self,
        xyz: Float,
        codes: Codes,
        camera: PinholeCamera,
        camera_from_points: Transform,
        sizes: Float | None = None,
        max_side: int = 8,
    ) -> Rendered:
        """See `Splatter.render`."""
        import torch

        check_points(xyz, codes, sizes)
        height, width = camera.height, camera.width
        p = torch.from_numpy(projection_matrix(camera, camera_from_points)).to(self.device)
        x, y, z = torch.from_numpy(xyz).to(self.device)
        payload = torch.from_numpy(codes.astype(np.int64)).to(self.device)
        # Written as separate products and sums, in the order of the numba kernel, so that no
        # fused rounding makes the two differ.
        depth = p[2, 0] * x + p[2, 1] * y + p[2, 2] * z + p[2, 3]
        inverse = torch.ones_like(depth) / depth
        u = (p[0, 0] * x + p[0, 1] * y + p[0, 2] * z + p[0, 3]) * inverse
        v = (p[1, 0] * x + p[1, 1] * y + p[1, 2] * z + p[1, 3]) * inverse
        front = depth > NEAR
        # int64 minimum orders like the unsigned one as long as the sign bit, the depth's, is 0.
        key = (depth.view(torch.int32).to(torch.int64) << 32) | payload
        empty = torch.iinfo(torch.int64).max
        buffer = torch.full((height * width,), empty, dtype=torch.int64, device=self.device)
        if sizes is None:
            side = torch.ones_like(depth)
        else:
            extent = torch.from_numpy(sizes).to(self.device)
            side = torch.clamp(torch.floor(camera.fx * extent * inverse + 0.5), 1.0, max_side)
        shift = (side - 1.0) * 0.5
        left, top = torch.floor(u - shift + 0.5), torch.floor(v - shift + 0.5)
        reach = int(side[front].max()) if bool(front.any()) else 0
        for row in range(reach):
            for column in range(reach):
                px, py = left + column, top + row
                inside = (front & (side > row) & (side > column)
                          & (px >= 0) & (py >= 0) & (px < width) & (py < height))
                pixel = py[inside].long() * width + px[inside].long()
                buffer.scatter_reduce_(0, pixel, key[inside], "amin")
        drawn = buffer != empty
        out = blank(height, width)
        code = torch.where(drawn, buffer & 0xFFFFFFFF, 0)
        for channel in range(3):
            out.image[..., channel] = (
                ((code >> (8 * channel)) & 255).to(torch.uint8).view(height, width).cpu().numpy())
        out.label[...] = (code >> 24).to(torch.uint8).view(height, width).cpu().numpy()
        far = (buffer >> 32).to(torch.int32).view(torch.float32)
        far = torch.where(drawn, far, torch.nan)
        out.depth[...] = far.view(height, width).cpu().numpy()
        return out


def make_splatter(backend: str = "numba", device: str | None = None) -> Splatter:
    """The drawing backend of that name, chosen once and logged.

    Raises ValueError on an unknown name and RuntimeError when `triton` finds no CUDA device or no
    triton: nothing is replaced silently.
    """
    splatter: Splatter
    if backend == "numba":
        splatter = NumbaSplatter()
    elif backend == "torch":
        splatter = TorchSplatter(device or "cpu")
    elif backend == "triton":
        from inspatio_ros.memory.splatting_triton import TritonSplatter

        splatter = TritonSplatter(device or "cuda")
    else:
        raise ValueError(f"splatting backend '{backend}' is not one of {', '.join(BACKENDS)}")
    log.info("splatting backend: %s", splatter.name)
    return splatter
