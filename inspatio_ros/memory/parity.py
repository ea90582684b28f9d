# SPDX-License-Identifier: Apache-2.0
"""The two ways in which InSpatio-World renders its guides, for comparison with it.

Written from the description of its arithmetic; `GuideRenderer` is what the package itself uses.
The reference's weaknesses are kept on purpose: weights that span e^50 and are normalised over the
whole batch, no test of disocclusion, no closing of cracks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import torch

WARP_DEPTH_RANGE = (1e-4, 1e4)
WARP_SATURATION = 1000.0
WARP_SHARPNESS = 50.0
WARP_UNKNOWN = -1.0


def scaled_intrinsics(
    intrinsics: npt.NDArray[np.floating], width: int = 832, height: int = 480
) -> npt.NDArray[np.float32]:
    """The reference's camera matrix [3, 3] for a width x height picture.

    Scaled as if the principal point were the middle of the picture, then centred there.
    """
    matrix = np.array(intrinsics, np.float32)
    matrix[0] *= width / 2 / matrix[0, 2]
    matrix[1] *= height / 2 / matrix[1, 2]
    return matrix


def softmax_warp(
    rgb: torch.Tensor,
    depth: torch.Tensor,
    intrinsics: torch.Tensor,
    target_from_source: torch.Tensor,
    largest_log_depth: float | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Forward-warped pictures and their masks, as the reference's default renderer gives them.

    rgb [T, 3, H, W] in [-1, 1], depth [T, 1, H, W] m, intrinsics [T, 3, 3], target_from_source
    [T, 4, 4], all float32. Returns rgb [T, 3, H, W] (-1 where unknown) and known [T, 1, H, W]
    of 0 and 1. Every source pixel spreads bilinearly over four, weighted by
    exp(-50 log(1 + z) / max log(1 + z)), the maximum being over all frames: those given, or of a
    longer clip whose `largest_log_depth` is given.
    """
    import torch

    frames, _, height, width = rgb.shape
    device = rgb.device
    y, x = torch.meshgrid(torch.arange(height, dtype=torch.float32, device=device),
                          torch.arange(width, dtype=torch.float32, device=device), indexing="ij")
    # In float64: weights span e^50, so that a place off by the 1e-6 by which float32 products
    # differ from one processor to another can show another point.
    pixels = torch.stack([x, y, torch.ones_like(x)]).reshape(3, -1).double()
    distance = depth.clamp(*WARP_DEPTH_RANGE).reshape(frames, 1, -1).double()
    motion, matrix = target_from_source.double(), intrinsics.double()
    source = torch.linalg.inv(matrix) @ pixels * distance
    projected = matrix @ (motion[:, :3, :3] @ source + motion[:, :3, 3:])
    z = projected[:, 2].float()
    u, v = ((projected[:, axis] / projected[:, 2] + 1).float() for axis in (0, 1))

    log_depth = torch.log1p(z.clamp(0, WARP_SATURATION))
    largest = float(log_depth.max()) if largest_log_depth is None else largest_log_depth
    nearness = torch.exp(log_depth * (-WARP_SHARPNESS) / largest) * (z >= 0)

    # One more pixel all around takes what falls outside; it is cut off at the end.
    canvas_height, canvas_width = height + 2, width + 2
    u, v = u.clamp(0, canvas_width - 1), v.clamp(0, canvas_height - 1)
    colors = torch.cat([rgb.reshape(frames, 3, -1), torch.ones_like(z)[:, None]], dim=1)
    total = torch.zeros(frames, 4, canvas_height * canvas_width, device=device)
    for column in (torch.floor(u), torch.ceil(u)):
        for row in (torch.floor(v), torch.ceil(v)):
            weight = (1 - (u - column).abs()) * (1 - (v - row).abs()) * nearness
            place = (row * canvas_width + column).nan_to_num(0.0).long()
            share = (colors * weight[:, None]).nan_to_num(0.0)
            total.scatter_add_(2, place[:, None].expand(-1, 4, -1), share)
    total = total.reshape(frames, 4, canvas_height, canvas_width)[:, :, 1:-1, 1:-1]
    weights = total[:, 3:]
    known = weights > 0
    mean = torch.where(known, total[:, :3] / torch.where(known, weights, 1.0), WARP_UNKNOWN)
    return mean.clamp(-1, 1), known.to(rgb.dtype)


def render_point_cloud(
    points: npt.NDArray[np.floating],
    colors: npt.NDArray[np.floating],
    intrinsics: npt.NDArray[np.floating],
    world_from_camera: npt.NDArray[np.floating],
    height: int,
    width: int,
    *,
    point_size: float = 2.0,
    supersample: int = 2,
    min_depth: float = 0.1,
    z_epsilon: float = 1e-4,
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    """A cloud drawn as squares, as the reference's other renderer gives it.

    points [P, 3] m in the world, colors [P, 3] RGB in [0, 1], intrinsics [3, 3] of the
    height x width picture. Returns rgb uint8 [H, W, 3] on black and mask uint8 [H, W], 255 where
    drawn. Points within `z_epsilon` m of a pixel's nearest are drawn, the last one on top.
    """
    import torch

    scaled = torch.from_numpy(np.asarray(intrinsics, np.float32)).clone()
    scaled[:2] *= supersample
    camera_from_world = torch.linalg.inv(
        torch.from_numpy(np.asarray(world_from_camera, np.float32)))
    world = torch.from_numpy(np.asarray(points, np.float32))
    camera = world @ camera_from_world[:3, :3].T + camera_from_world[:3, 3]
    front = camera[:, 2] > min_depth
    camera, paint = camera[front], torch.from_numpy(np.asarray(colors, np.float32))[front]
    projected = camera @ scaled.T
    u, v = projected[:, 0] / projected[:, 2], projected[:, 1] / projected[:, 2]
    z = camera[:, 2]

    side = int(point_size * supersample)
    side += 1 - side % 2
    offsets = torch.arange(side, dtype=torch.float32) - side // 2
    rows, columns = height * supersample, width * supersample
    x = torch.round(u[:, None, None] + offsets[None, None, :]).expand(-1, side, side)
    y = torch.round(v[:, None, None] + offsets[None, :, None]).expand(-1, side, side)
    inside = (x >= 0) & (x < columns) & (y >= 0) & (y < rows)
    place = (y[inside] * columns + x[inside]).long()
    depth = z[:, None, None].expand(-1, side, side)[inside]
    source = torch.arange(len(z))[:, None, None].expand(-1, side, side)[inside]

    nearest = torch.full((rows * columns,), torch.inf).scatter_reduce_(0, place, depth, "amin")
    top = depth <= nearest[place] + z_epsilon
    last = torch.full((rows * columns,), -1).scatter_reduce_(0, place[top], source[top], "amax")
    drawn = last >= 0
    canvas = torch.zeros(rows * columns, 3)
    canvas[drawn] = paint[last[drawn]]
    large = (canvas.reshape(rows, columns, 3).numpy() * 255).astype(np.uint8)
    mask = np.where(drawn.reshape(rows, columns).numpy(), 255, 0).astype(np.uint8)
    if supersample == 1:
        return large, mask
    image = cv2.resize(large, (width, height), interpolation=cv2.INTER_AREA)
    small = cv2.resize(mask, (width, height), interpolation=cv2.INTER_NEAREST)
    return np.asarray(image, np.uint8), np.asarray(small, np.uint8)
