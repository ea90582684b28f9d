# SPDX-License-Identifier: Apache-2.0
# Copyright inspatio_ros contributors
"""The small streaming codec of the shipped model: real time on two CPU cores.

Space is traded for channels by pixel (un)shuffling, so that all but the last few convolutions run
at a quarter of the picture's side or less. Time is handled in groups of 4 frames: each frame is
compressed alone, the 4 are stacked, and memory blocks at the latent grid look at the group before.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from inspatio_ros.model.codec import CodecError, StreamState, VideoCodec

GROUP = 4  # pixel frames of one latent frame


@dataclass(frozen=True)
class SmallCodecConfig:
    """Widths (`fine` at 1/2 of the side, `frame` at 1/4, `group` at 1/8) and depths."""

    latent_channels: int = 16
    frame_width: int = 48
    group_width: int = 96
    encoder_frame_blocks: int = 2
    encoder_group_blocks: int = 2
    decoder_group_blocks: int = 3
    decoder_frame_blocks: int = 3
    decoder_fine_blocks: int = 1
    fine_width: int = 16

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if not isinstance(value, int) or value < 1:
                raise CodecError(f"{name} must be a positive integer, got {value!r}")


def conv(width_in: int, width_out: int, kernel: int = 3) -> nn.Conv2d:
    """A convolution that keeps the grid."""
    return nn.Conv2d(width_in, width_out, kernel, padding=kernel // 2)


class FrameBlock(nn.Module):
    """Residual block on single frames."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.enter = conv(width, width)
        self.leave = conv(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """x `[B, C, H, W]` -> the same."""
        return x + self.leave.forward(F.silu(self.enter(F.silu(x))))


class GroupBlock(nn.Module):
    """Residual block on one group's features and those of the group before, else zeros."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.enter = conv(2 * width, width)
        self.leave = conv(width, width)
        self.slot = ""

    def forward(self, x: Tensor, state: StreamState) -> Tensor:
        """x `[B, C, h, w]` -> the same; x becomes the memory."""
        past = state.get(self.slot)
        if past is None:
            past = torch.zeros_like(x)
        state.put(self.slot, x)
        joined = F.silu(torch.cat([x, past], dim=1))
        return x + self.leave.forward(F.silu(self.enter(joined)))


class Encoder(nn.Module):
    """One group of 4 frames to one latent frame."""

    def __init__(self, config: SmallCodecConfig) -> None:
        super().__init__()
        width = config.frame_width
        self.enter = conv(3 * 16, width)
        self.frame_blocks = nn.Sequential(
            *(FrameBlock(width) for _ in range(config.encoder_frame_blocks))
        )
        self.squeeze = conv(4 * width, width, kernel=1)
        self.merge = conv(GROUP * width, config.group_width)
        self.group_blocks = nn.ModuleList(
            GroupBlock(config.group_width) for _ in range(config.encoder_group_blocks)
        )
        self.leave = conv(config.group_width, config.latent_channels)

    def forward(self, frames: Tensor, state: StreamState) -> Tensor:
        """frames `[B, 4, 3, H, W]` -> `[B, C, H/8, W/8]`."""
        batch = frames.shape[0]
        x = self.enter(channels_last(F.pixel_unshuffle(frames.flatten(0, 1), 4)))
        x = self.frame_blocks(x)
        x = self.squeeze(channels_last(F.pixel_unshuffle(x, 2)))
        x = self.merge(channels_last(x.reshape(batch, -1, *x.shape[2:])))
        for block in self.group_blocks:
            x = block(x, state)
        return self.leave.forward(F.silu(x))


class Decoder(nn.Module):
    """One latent frame to its 4 frames."""

    def __init__(self, config: SmallCodecConfig) -> None:
        super().__init__()
        width, fine = config.frame_width, config.fine_width
        self.enter = conv(config.latent_channels, config.group_width)
        self.group_blocks = nn.ModuleList(
            GroupBlock(config.group_width) for _ in range(config.decoder_group_blocks)
        )
        self.spread = conv(config.group_width, GROUP * width)
        self.unsqueeze = conv(width, 4 * width)
        self.frame_blocks = nn.Sequential(
            *(FrameBlock(width) for _ in range(config.decoder_frame_blocks))
        )
        self.refine = conv(width, 4 * fine)
        self.fine_blocks = nn.Sequential(
            *(FrameBlock(fine) for _ in range(config.decoder_fine_blocks))
        )
        self.leave = conv(fine, 3 * 4)

    def forward(self, latent: Tensor, state: StreamState) -> Tensor:
        """latent `[B, C, h, w]` -> `[B, 4, 3, 8h, 8w]`."""
        batch = latent.shape[0]
        x = self.enter(channels_last(latent))
        for block in self.group_blocks:
            x = block(x, state)
        x = self.spread(F.silu(x))
        x = F.silu(x.reshape(batch * GROUP, -1, *x.shape[2:]))
        x = channels_last(F.pixel_shuffle(self.unsqueeze(channels_last(x)), 2))
        x = self.frame_blocks(x)
        x = channels_last(F.pixel_shuffle(self.refine(F.silu(x)), 2))
        x = self.fine_blocks(x)
        frames = F.pixel_shuffle(self.leave(F.silu(x)), 2)
        return frames.reshape(batch, GROUP, *frames.shape[1:])


def channels_last(x: Tensor) -> Tensor:
    """The layout in which CPU convolutions are up to three times faster."""
    return x.contiguous(memory_format=torch.channels_last)


class SmallCodec(VideoCodec):
    """The shipped model's codec: whole groups of 4 frames, no special first one, no look-ahead.

    A block of 12 frames is 3 latents, and the first latent of a stream already gives 4 frames, so
    that a live block is decoded as soon as it is made. Latents are normalized by statistics kept
    in the weights (`latent_mean`, `latent_std`), which training sets. Differentiable throughout;
    stream = batch bit for bit on a CPU. A clip's tail is padded by repeating its last frame.
    """

    name = "small_codec"
    temporal_stride = GROUP
    first_frames = GROUP
    first_group = GROUP

    latent_mean: Tensor
    latent_std: Tensor

    def __init__(self, config: SmallCodecConfig | None = None) -> None:
        super().__init__()
        self.config = config or SmallCodecConfig()
        self.latent_channels = self.config.latent_channels
        self.encoder = Encoder(self.config)
        self.decoder = Decoder(self.config)
        self.register_buffer("latent_mean", torch.zeros(self.latent_channels))
        self.register_buffer("latent_std", torch.ones(self.latent_channels))
        for name, module in self.named_modules():
            if isinstance(module, GroupBlock):
                module.slot = name
            elif isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        for module in self.modules():
            if isinstance(module, FrameBlock | GroupBlock):  # branches start small
                module.leave.weight.data *= 0.2
        self.use_channels_last()

    def use_channels_last(self) -> None:
        """Lays the convolutions' weights out as the activations are; after loading new ones."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                module.weight.data = channels_last(module.weight.data)

    def set_latent_statistics(self, mean: Tensor, std: Tensor) -> None:
        """Takes mean and deviation of raw latents, `[C]` each, as the normalization."""
        for name, value in (("mean", mean), ("std", std)):
            if value.shape != (self.latent_channels,) or not bool(value.isfinite().all()):
                raise CodecError(
                    f"latent {name} must be {self.latent_channels} finite numbers, got {value}"
                )
        if float(std.min()) <= 0:
            raise CodecError(f"latent std must be positive, got {float(std.min())}")
        self.latent_mean.copy_(mean)
        self.latent_std.copy_(std)

    def _encode_groups(self, state: StreamState, frames: Tensor) -> Tensor:
        raw = self.encoder(frames, state)
        latents: Tensor = (raw - column(self.latent_mean)) / column(self.latent_std)
        return latents.unsqueeze(1)

    def _decode_latents(self, state: StreamState, latents: Tensor) -> Tensor:
        raw = latents[:, 0] * column(self.latent_std) + column(self.latent_mean)
        return self.decoder.forward(raw, state)


def column(values: Tensor) -> Tensor:
    """`[C]` as `[1, C, 1, 1]`."""
    return values[None, :, None, None]
