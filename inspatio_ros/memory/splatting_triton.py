# SPDX-License-Identifier: Apache-2.0
# The annotation tl.constexpr is Triton's own, not a type; its compiler looks other annotations up
# and refuses what it does not know, so the kernels have none.
# mypy: disable-error-code="valid-type,name-defined,no-untyped-def,no-untyped-call"
"""GPU drawing with Triton: one program a block of points, one 64-bit atomic minimum a point.

After Schuetz et al., arXiv 2104.07526: the buffer's key is read first and the atomic is issued
only by points that would win. Needs a CUDA device; `TritonSplatter` says so when there is none.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from inspatio_ros.geometry.camera import PinholeCamera
from inspatio_ros.memory.splatting import (
    NEAR,
    Codes,
    Float,
    Rendered,
    Transform,
    blank,
    check_points,
    projection_matrix,
)

# Triton comes with torch where there is CUDA. It reads the module `tl` of a kernel from here.
triton: Any = None
tl: Any = None

POINTS = 256
PIXELS = 512
# int64 minimum orders keys like the unsigned one, since the depth's sign bit is 0.
EMPTY = torch.iinfo(torch.int64).max


def _splat(
    xyz, codes, sizes, matrix, buffer, count, focal, near, width, height,
    has_sizes: tl.constexpr, max_side: tl.constexpr, block: tl.constexpr,
):
    index = tl.program_id(0) * block + tl.arange(0, block)
    here = index < count
    x = tl.load(xyz + index, here, 0.0)
    y = tl.load(xyz + count + index, here, 0.0)
    z = tl.load(xyz + 2 * count + index, here, 0.0)
    code = tl.load(codes + index, here, 0)
    depth = (tl.load(matrix + 8) * x + tl.load(matrix + 9) * y + tl.load(matrix + 10) * z
             + tl.load(matrix + 11))
    # A point that is not a number compares false here and is left out.
    front = here & (depth > near)
    inverse = 1.0 / tl.where(front, depth, 1.0)
    u = (tl.load(matrix + 0) * x + tl.load(matrix + 1) * y + tl.load(matrix + 2) * z
         + tl.load(matrix + 3)) * inverse
    v = (tl.load(matrix + 4) * x + tl.load(matrix + 5) * y + tl.load(matrix + 6) * z
         + tl.load(matrix + 7)) * inverse
    front = front & (u > -max_side) & (v > -max_side)
    front = front & (u < width + max_side) & (v < height + max_side)
    key = (depth.to(tl.int32, bitcast=True).to(tl.int64) << 32) | code
    side = tl.full([block], 1.0, tl.float32)
    if has_sizes:
        size = tl.load(sizes + index, here, 0.0)
        side = tl.minimum(tl.maximum(tl.floor(focal * size * inverse + 0.5), 1.0), max_side)
    shift = (side - 1.0) * 0.5
    left = tl.floor(tl.where(front, u, 0.0) - shift + 0.5).to(tl.int32)
    top = tl.floor(tl.where(front, v, 0.0) - shift + 0.5).to(tl.int32)
    for row in range(0, max_side if has_sizes else 1):
        for column in range(0, max_side if has_sizes else 1):
            px, py = left + column, top + row
            inside = front & (side > row) & (side > column)
            inside = inside & (px >= 0) & (py >= 0) & (px < width) & (py < height)
            place = buffer + py * width + px
            wins = inside & (key < tl.load(place, inside, 0))
            tl.atomic_min(place, key, mask=wins)


def _resolve(
    buffer, image, depth, label, count, empty: tl.constexpr, block: tl.constexpr,
):
    index = tl.program_id(0) * block + tl.arange(0, block)
    here = index < count
    key = tl.load(buffer + index, here, 0)
    drawn = key != empty
    code = tl.where(drawn, key & 0xFFFFFFFF, 0)
    far = (key >> 32).to(tl.int32).to(tl.float32, bitcast=True)
    tl.store(depth + index, tl.where(drawn, far, float("nan")), here)
    tl.store(image + 3 * index, (code & 255).to(tl.uint8), here)
    tl.store(image + 3 * index + 1, ((code >> 8) & 255).to(tl.uint8), here)
    tl.store(image + 3 * index + 2, ((code >> 16) & 255).to(tl.uint8), here)
    tl.store(label + index, ((code >> 24) & 255).to(tl.uint8), here)


def _load_triton() -> None:
    global triton, tl
    try:
        import triton as package
        import triton.language as language
    except ModuleNotFoundError as error:
        raise RuntimeError("splatting backend 'triton' needs the package triton") from error
    triton, tl = package, language


class TritonSplatter:
    """`Splatter` on a CUDA device. Raises RuntimeError when there is no device or no triton."""

    name = "triton"

    def __init__(self, device: str = "cuda") -> None:
        _load_triton()
        # On a CPU Triton can only interpret (TRITON_INTERPRET=1), which is how this is tested.
        if device != "cpu" and not torch.cuda.is_available():
            raise RuntimeError("splatting backend 'triton' needs a CUDA device and found none")
        self.device = torch.device(device)
        self._splat = triton.jit(_splat)
        self._resolve = triton.jit(_resolve)
        self._buffer = torch.empty(0, dtype=torch.int64, device=self.device)

    def render(
        self,
        xyz: Float,
        codes: Codes,
        camera: PinholeCamera,
        camera_from_points: Transform,
        sizes: Float | None = None,
        max_side: int = 8,
    ) -> Rendered:
        """See `Splatter.render`; copies to the device and back."""
        check_points(xyz, codes, sizes)
        out = blank(camera.height, camera.width)
        if xyz.shape[1] == 0:
            return out
        image, depth, label = self.render_on_device(
            torch.from_numpy(xyz).to(self.device),
            torch.from_numpy(codes.astype(np.int64)).to(self.device), camera, camera_from_points,
            None if sizes is None else torch.from_numpy(sizes).to(self.device), max_side)
        return Rendered(image.cpu().numpy(), depth.cpu().numpy(), label.cpu().numpy())

    def render_on_device(
        self,
        xyz: torch.Tensor,
        codes: torch.Tensor,
        camera: PinholeCamera,
        camera_from_points: Transform,
        sizes: torch.Tensor | None = None,
        max_side: int = 8,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """As `render` with tensors on the device: xyz float32 [3, P], codes int64 [P].

        Returns image uint8 [H, W, 3], depth float32 [H, W], label uint8 [H, W].
        """
        height, width, count = camera.height, camera.width, xyz.shape[1]
        pixels = height * width
        matrix = torch.from_numpy(projection_matrix(camera, camera_from_points)).to(self.device)
        if self._buffer.numel() != pixels:
            self._buffer = torch.empty(pixels, dtype=torch.int64, device=self.device)
        self._buffer.fill_(EMPTY)
        has_sizes = sizes is not None
        self._splat[(triton.cdiv(count, POINTS),)](
            xyz, codes, sizes if has_sizes else xyz, matrix, self._buffer, count, camera.fx, NEAR,
            width, height, has_sizes=has_sizes, max_side=max_side, block=POINTS)
        image = torch.empty(height, width, 3, dtype=torch.uint8, device=self.device)
        depth = torch.empty(height, width, dtype=torch.float32, device=self.device)
        label = torch.empty(height, width, dtype=torch.uint8, device=self.device)
        self._resolve[(triton.cdiv(pixels, PIXELS),)](
            self._buffer, image, depth, label, pixels, empty=EMPTY, block=PIXELS)
        return image, depth, label
