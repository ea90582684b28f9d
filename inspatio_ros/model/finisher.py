# SPDX-License-Identifier: Apache-2.0
"""The last step of the small model: decoded pictures joined to what geometry knows.

A codec with 48 times fewer values than pixels moves colours by more than a hole's fill is off near
the hole's rim. The finisher sees the decoded picture beside the exact one (its holes filled
classically), what of that is known, and the newest real picture, and gives what the filled picture
lacks. Decoders that are shown the unmasked pixels do the same for inpainting (Zhu et al.,
Designing a Better Asymmetric VQGAN for StableDiffusion, 2023).

Without training it gives the filled picture unchanged: it can only learn to be better than that.
Whoever must guess and is judged by squared errors blurs; of noise in the input texture is made
(Karras et al., A Style-Based Generator Architecture for GANs, 2019), where training asks for it.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from inspatio_ros.model.config import ModelError
from inspatio_ros.model.small_codec import FrameBlock, channels_last, conv

_UNSHUFFLED = 4  # pixels of a cell's side on the finest grid but the last
_FINE_UNSHUFFLED = 2  # the same on the finest grid
_PLACES = 3 + 3 + 3 + 1  # decoded, filled, seen, known


@dataclass(frozen=True)
class FinisherConfig:
    """Widths from a quarter of the side downwards, halving each time; `fine` at half the side.

    grain: whether it takes noise, at both of these sizes. hints: whether it is told where the
    filled picture shows a hint.
    """

    widths: tuple[int, ...] = (48, 80, 96, 96)
    fine: int = 16
    grain: bool = False
    hints: bool = False

    def __post_init__(self) -> None:
        if len(self.widths) < 2 or min(*self.widths, self.fine) < 1:
            raise ModelError(f"a finisher needs two or more positive widths, got {asdict(self)}")


class Finisher(nn.Module):
    """A small U-Net (Ronneberger 2015) on single frames, all but its last step at 1/4 and less."""

    def __init__(self, config: FinisherConfig | None = None) -> None:
        super().__init__()
        self.config = config or FinisherConfig()
        widths, fine = self.config.widths, self.config.fine
        self.enter = conv(_PLACES * _UNSHUFFLED**2, widths[0], kernel=1)
        self.down = nn.ModuleList(FrameBlock(width) for width in widths)
        self.narrow = nn.ModuleList(
            conv(a, b, kernel=1) for a, b in zip(widths, widths[1:], strict=False))
        self.widen = nn.ModuleList(
            conv(b, a, kernel=1) for a, b in zip(widths, widths[1:], strict=False))
        self.up = nn.ModuleList(FrameBlock(width) for width in widths[:-1])
        self.refine = conv(widths[0], 4 * fine)
        self.fine_block = FrameBlock(fine)
        self.leave = conv(fine, 3 * 4)
        if self.config.grain:
            self.grain = conv(_UNSHUFFLED**2, widths[0], kernel=1)
            self.fine_grain = conv(_FINE_UNSHUFFLED**2, fine, kernel=1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        for module in self.modules():
            if isinstance(module, FrameBlock):  # branches start small
                module.leave.weight.data *= 0.2
        if self.config.grain:
            for entry in (self.grain, self.fine_grain):
                nn.init.normal_(entry.weight, std=0.05)
        nn.init.zeros_(self.leave.weight)
        assert self.leave.bias is not None
        nn.init.zeros_(self.leave.bias)
        self.use_channels_last()

    def use_channels_last(self) -> None:
        """Lay the convolutions' weights out as the activations are; after loading new ones."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                module.weight.data = channels_last(module.weight.data)

    def grain_noise(self, height: int, width: int, seed: int) -> Tensor | None:
        """The noise `[1, 1, H, W]` of one way imagined with this seed; None without grain."""
        if not self.config.grain:
            return None
        device = self.enter.weight.device
        generator = torch.Generator(device).manual_seed(seed)
        return torch.randn(1, 1, height, width, generator=generator, device=device)

    def forward(self, decoded: Tensor, filled: Tensor, known: Tensor, seen: Tensor,
                noise: Tensor | None = None) -> Tensor:
        """Finished pictures `[T, 3, H, W]` float32 in about [-1, 1].

        decoded, filled, seen: `[T, 3, H, W]` in [-1, 1]. known: `[T, 1, H, W]`, 1 where geometry
        backs a pixel of `filled`, -1 in holes, 0 in those where `filled` shows a hint. noise
        `[T or 1, 1, H, W]`, standard normal, of a finisher with grain: the same noise gives the
        same picture. H and W are multiples of 4. Raises ModelError.
        """
        height, width = filled.shape[-2:]
        if height % _UNSHUFFLED or width % _UNSHUFFLED:
            raise ModelError(f"the finisher takes sides that are multiples of {_UNSHUFFLED}, "
                             f"got {width}x{height}")
        if self.config.grain != (noise is not None):
            raise ModelError("a finisher with grain needs noise, one without takes none")
        if not self.config.hints:
            known = torch.where(known < 0.5, -1.0, 1.0)
        dtype = self.enter.weight.dtype
        # What differs is told as a difference: most of the picture is right already.
        shown = torch.cat([decoded - filled, filled, seen, known], dim=1).to(dtype)
        x = self.enter(channels_last(F.pixel_unshuffle(shown, _UNSHUFFLED)))
        if noise is not None:
            x = x + self.grain(F.pixel_unshuffle(noise.to(dtype), _UNSHUFFLED))
        passed: list[Tensor] = []
        for index, block in enumerate(self.down):
            x = block(x)
            if index < len(self.narrow):
                passed.append(x)
                x = F.avg_pool2d(self.narrow[index](x), 2, ceil_mode=True)
        for index in reversed(range(len(self.narrow))):
            beside = passed[index]
            x = self.widen[index](F.interpolate(x, size=beside.shape[-2:], mode="nearest"))
            x = self.up[index](x + beside)
        x = channels_last(F.pixel_shuffle(self.refine(F.silu(x)), 2))
        if noise is not None:
            share = torch.sigmoid(x.mean(dim=1, keepdim=True))
            x = x + share * self.fine_grain(
                F.pixel_unshuffle(noise.to(dtype), _FINE_UNSHUFFLED))
        change = F.pixel_shuffle(self.leave(F.silu(self.fine_block(x))), 2)
        return filled.float() + change.float()
