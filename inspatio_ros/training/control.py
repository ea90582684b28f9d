# SPDX-License-Identifier: Apache-2.0
"""The objective of the project's seed article: flow matching plus a control loss.

    L = L_flow(V2V and T2V) + lambda_ctrl L_ctrl(V2V)

L_ctrl says how far generated frames deviate from the commanded motion of the camera. Where
geometry backs a pixel, the guide (the memory drawn from the commanded pose) shows what must be
seen there; a camera that moved otherwise shows it elsewhere. So the generated frames are
registered to the guide and the displacement is the deviation. With r the guide's and g the
generated frame's gray values in [0, 1], M the known pixels (one pixel off every hole), at scales s
= 4, 2, 1 and in cells of 8 x 8 pixels of each scale:

    A = mean_cell M grad r grad r^T + eps I,    b = mean_cell M grad r (g - r),    u = - s A^-1 b
    L_shift = sum c (sqrt(|u|^2 + 0.01) - 0.1) / sum c,      c = min eigenvalue of A - eps
    L_rest  = sum M |g - r + grad r . u / s| / sum M         (what no displacement explains)
    L_ctrl  = mean over scales of (L_shift + residual L_rest)

u, in pixels of the picture, is one step of Lucas and Kanade (1981), differentiable in g; the
coarser scales reach further. Frames come from the clean latents that the flow implies, x_s - s
flow, through the codec; the guide goes through the codec as well, so that its losses cancel. A
sample counts with 1 - s, because little of the picture is decided at pure noise. The article
publishes no formula: this is ours.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from inspatio_ros.model.codec import VideoCodec
from inspatio_ros.model.transformer import CausalTransformer
from inspatio_ros.training.batches import LatentBatch
from inspatio_ros.training.distributed import Process
from inspatio_ros.training.draws import Draw
from inspatio_ros.training.objectives import CausalFlow, Figures, Samples, backward
from inspatio_ros.training.options import TrainingError, TrainingOptions

SCALES = (4, 2, 1)
CELL = 8
EPS = 1e-4
GRAY = (0.299, 0.587, 0.114)  # ITU-R BT.601


def deviation(frames: Tensor, guide: Tensor, known: Tensor, residual: float = 0.1) -> Tensor:
    """L_ctrl `[B]` of frames against their guide, both `[B, T, 3, H, W]` in [-1, 1].

    known `[B, T, 1, H, W]`: 1 where geometry backs the guide, else 0. A clip without a known cell
    has no deviation. Differentiable in `frames`.
    """
    batch = frames.shape[0]
    made, shown = (_gray(part.flatten(0, 1)) for part in (frames, guide))
    # a pixel whose neighbor is a hole has no gradient that could be trusted
    mask = -F.max_pool2d(-known.flatten(0, 1).float(), 3, stride=1, padding=1)
    terms = []
    for scale in SCALES:
        g, r = (F.avg_pool2d(part, scale) for part in (made, shown))
        m = -F.max_pool2d(-mask, scale)
        shift, rest = _registered(g, r, m, scale, batch)
        terms.append(shift + residual * rest)
    return torch.stack(terms).mean(dim=0)


def _registered(
    g: Tensor, r: Tensor, m: Tensor, scale: int, batch: int
) -> tuple[Tensor, Tensor]:
    """L_shift and L_rest `[batch]` at one scale, of gray pictures `[B T, 1, H, W]`."""
    rx, ry = _slopes(r)
    difference = g - r
    parts = torch.cat([rx * rx, rx * ry, ry * ry, rx * difference, ry * difference], dim=1) * m
    xx, xy, yy, bx, by = F.avg_pool2d(parts, CELL, ceil_mode=True).unbind(1)
    xx, yy = xx + EPS, yy + EPS
    determinant = xx * yy - xy * xy
    ux, uy = -(yy * bx - xy * by) / determinant, -(xx * by - xy * bx) / determinant
    spread = (0.25 * (xx - yy).square() + xy.square()).sqrt()
    trust = (0.5 * (xx + yy) - spread - EPS).clamp(min=0.0)
    length = ((ux.square() + uy.square()) * scale**2 + 0.01).sqrt() - 0.1

    fine = F.interpolate(torch.stack([ux, uy], dim=1), scale_factor=CELL, mode="nearest")
    fine = fine[..., : r.shape[-2], : r.shape[-1]]
    left = (difference + rx * fine[:, :1] + ry * fine[:, 1:]).abs()

    def mean(values: Tensor, weights: Tensor) -> Tensor:
        top, mass = ((part.reshape(batch, -1)).sum(1) for part in (values * weights, weights))
        return top / mass.clamp(min=1e-9)

    return mean(length, trust), mean(left, m)


def _gray(pictures: Tensor) -> Tensor:
    """Gray values `[N, 1, H, W]` in [0, 1] of pictures `[N, 3, H, W]` in [-1, 1]."""
    weights = pictures.new_tensor(GRAY).reshape(1, 3, 1, 1)
    return ((pictures.float() + 1) * 0.5 * weights).sum(1, keepdim=True)


def _slopes(r: Tensor) -> tuple[Tensor, Tensor]:
    """Central differences along x and y, of the same shape; zero slope beyond the border."""
    wide = F.pad(r, (1, 1, 1, 1), mode="replicate")
    return (0.5 * (wide[..., 1:-1, 2:] - wide[..., 1:-1, :-2]),
            0.5 * (wide[..., 2:, 1:-1] - wide[..., :-2, 1:-1]))


def known_pixels(mask: Tensor, codec: VideoCodec) -> Tensor:
    """Known pixels `[B, T, 1, H, W]` of 0 and 1 of packed masks `[B, F, stride, h, w]` of a block.

    T are the frames that its latents decode to. A pixel is known when its whole latent cell is.
    """
    first = mask[:, :1].amin(dim=2).expand(-1, codec.first_frames, -1, -1)
    if codec.first_frames == mask.shape[2]:
        first = mask[:, 0]
    frames = torch.cat([first, mask[:, 1:].flatten(1, 2)], dim=1)
    known = (frames > 0.99).float()
    known = F.interpolate(known, scale_factor=codec.spatial_stride, mode="nearest")
    return known.unsqueeze(2)


class ArticleFlow(CausalFlow):
    """Flow matching on both tasks and, for V2V, `control_weight` times the control loss."""

    def __init__(
        self, model: CausalTransformer, codec: VideoCodec, options: TrainingOptions,
        process: Process,
    ) -> None:
        super().__init__(model, options, process)
        if codec.name != model.config.codec:
            raise TrainingError(
                f"the model is made for the codec {model.config.codec}, got {codec.name}")
        self.codec = codec.to(process.device).eval().requires_grad_(False)

    def back_propagate(
        self, name: str, step: int, batch: LatentBatch, draw: Draw, scale: float
    ) -> Figures:
        """One pass over all blocks of the batch, in parts of `block_batch`."""
        groups = self.samples(batch, draw, self.histories(batch, draw))
        count = sum(group.size for group in groups)
        mass, share = self.mass(groups), self.process.world_size * scale
        sums = torch.zeros(2, device=self.process.device)
        for part in (p for group in groups for p in group.parts(self.options.block_batch)):
            with self.cast():
                flow, noisy = self.flow(part)
            loss = part.squared(self.off(part, flow)) / mass
            off = self.control(part, flow, noisy) / count
            backward(share * loss + scale * self.options.control_weight * off)
            sums += torch.stack([loss.detach(), off.detach() / self.process.world_size])
        matched, control = self.process.total(sums)
        figures = {"loss": matched + self.options.control_weight * control,
                   "loss_flow": matched}
        return figures if batch.render is None else figures | {"loss_control": control}

    def control(self, part: Samples, flow: Tensor, noisy: Tensor) -> Tensor:
        """The sum of (1 - s) L_ctrl over samples; 0 for text to video."""
        if part.render is None or part.mask is None:
            return flow.new_zeros(())
        sigma = part.sigma.to(flow.device)
        clean = noisy - sigma.reshape(-1, 1, 1, 1, 1) * flow
        with torch.no_grad():
            guide = self.codec.decode(part.render)
        off = deviation(self.codec.decode(clean), guide, known_pixels(part.mask, self.codec),
                        self.options.control_residual)
        return ((1 - sigma) * off).sum()
