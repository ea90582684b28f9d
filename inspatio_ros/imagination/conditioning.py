# SPDX-License-Identifier: Apache-2.0
# Copyright inspatio_ros contributors
"""What a block is shown: guide pictures and masks as tensors, packed and laid out for the model.

Render: colors in [-1, 1], -1 (black) where nothing is known. Mask: +1 known, -1 unknown. The mask
is brought to the latent grid and the pixel frames of one latent frame become its channels, which
is the layout of Wan2.1's image-to-video model; the public pipeline puts it between the noisy and
the render latents.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from inspatio_ros.model.codec import frames_from_uint8, uploaded
from inspatio_ros.model.config import ModelConfig, ModelError


def padded_frames(config: ModelConfig, pixel_frames: int) -> int:
    """Frames of the whole blocks that cover `pixel_frames`; ModelError when there are none."""
    if pixel_frames < 1:
        raise ModelError("a clip of zero frames has no block")
    blocks = config.blocks_for(pixel_frames)
    return config.first_block_frames + (blocks - 1) * config.block_frames


def pad_tail(frames: Tensor, count: int) -> Tensor:
    """Frames `[B, count, ...]`: those given `[B, T, ...]`, then the last one repeated.

    Raises ModelError when there is no frame or T exceeds count.
    """
    missing = count - frames.shape[1]
    if frames.shape[1] == 0 or missing < 0:
        raise ModelError(f"cannot pad {frames.shape[1]} frames to {count}")
    if missing == 0:
        return frames
    return torch.cat([frames, frames[:, -1:].expand(-1, missing, *frames.shape[2:])], dim=1)


def guide_tensors(
    images: Sequence[npt.NDArray[np.uint8]],
    known: Sequence[npt.NDArray[np.bool_]],
    device: torch.device | str = "cpu",
) -> tuple[Tensor, Tensor]:
    """Render `[1, T, 3, H, W]` in [-1, 1] and mask `[1, T, H, W]` of -1 and +1, on `device`.

    images: T pictures uint8 RGB `[H, W, 3]`. known: T masks bool `[H, W]`, true where geometry
    backs the pixel; all others become black. Raises ModelError when they do not belong together.
    """
    if len(images) != len(known) or not images:
        raise ModelError(f"{len(images)} guide pictures, {len(known)} masks: need as many, >= 1")
    for index, (image, mask) in enumerate(zip(images, known, strict=True)):
        if mask.dtype != np.bool_ or mask.shape != image.shape[:2]:
            raise ModelError(
                f"mask {index} is {mask.dtype} {list(mask.shape)}, expected bool "
                f"{list(image.shape[:2])} like its picture"
            )
    visible = uploaded(np.stack(known).view(np.uint8), device).bool().unsqueeze(0)
    render = frames_from_uint8(images, device)
    render = torch.where(visible.unsqueeze(2), render, torch.full_like(render[:1, :1, :1], -1.0))
    return render, visible.float() * 2.0 - 1.0


def pack_mask(mask: Tensor, config: ModelConfig, first: bool) -> Tensor:
    """Mask channels `[B, F, stride, h, w]` of masks `[B, T, H, W]` in [-1, 1].

    Each frame is reduced bilinearly to the latent grid. `first`: the frames begin a stream, whose
    first latent frame stands for fewer pixel frames (Wan: 1 instead of 4); frame 0 is repeated to
    fill it. Raises ModelError for sizes that do not divide or a last group that is not whole.
    """
    if mask.ndim != 4 or mask.shape[1] == 0:
        raise ModelError(f"masks must be [B, T, H, W] with T >= 1, got {list(mask.shape)}")
    stride = config.temporal_stride
    repeated = stride - config.first_frames if first else 0
    if (mask.shape[1] + repeated) % stride:
        raise ModelError(
            f"{mask.shape[1]} mask frames do not make whole groups of {stride}"
            + (f" ({config.first_frames} in the first)" if first else "")
            + "; pad the tail with pad_tail()"
        )
    grid = config.grid_of(mask.shape[2], mask.shape[3])
    small = F.interpolate(mask, size=grid, mode="bilinear", align_corners=False)
    small = torch.cat([small[:, :1].expand(-1, repeated, -1, -1), small], dim=1)
    return small.reshape(mask.shape[0], -1, stride, *grid)


def condition_channels(mask_latents: Tensor, render_latents: Tensor) -> Tensor:
    """`[B, F, stride + C, h, w]`: mask `[B, F, stride, h, w]`, then render `[B, F, C, h, w]`."""
    return torch.cat([mask_latents.to(render_latents.dtype), render_latents], dim=2)


def context_frames(reference: Tensor | None, history: Tensor | None) -> tuple[Tensor | None, int]:
    """The context's latents `[B, F or 2 F, C, h, w]` and the group that its positions begin with.

    Source frames first, then the block made before; without a source (text to video) the history
    keeps its own positions.
    """
    if reference is None:
        return history, 1
    if history is None:
        return reference, 0
    return torch.cat([reference, history.to(reference.dtype)], dim=1), 0
