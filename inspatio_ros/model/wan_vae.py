# SPDX-License-Identifier: Apache-2.0
# Copyright inspatio_ros contributors
"""The Wan 2.1 video VAE: causal 3-D convolutions, 8x8 in space, 4 in time, first frame alone.

Key names and shapes are those of the published `Wan2.1_VAE.pth` (194 tensors). Source of the
method: Wan-Video/Wan2.1 and the paper "Wan: Open and Advanced Large-Scale Video Generative Models"
(2025).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from inspatio_ros.model.codec import CodecError, StreamState, VideoCodec

# Statistics of the published VAE's latents, per channel; they are not in the file.
WAN_LATENT_MEAN = (
    -0.7571, -0.7089, -0.9113, 0.1075, -0.1745, 0.9653, -0.1517, 1.5508,
    0.4134, -0.0715, 0.5517, -0.3632, -0.1922, -0.9497, 0.2503, -0.2921,
)  # fmt: skip
WAN_LATENT_STD = (
    2.8184, 1.4541, 2.3275, 2.6558, 1.2196, 1.7708, 2.6052, 2.0743,
    3.2687, 2.1526, 2.8652, 1.5579, 1.6382, 1.1253, 2.8251, 1.9160,
)  # fmt: skip


@dataclass(frozen=True)
class WanVAEConfig:
    """Sizes of the VAE; the defaults are the published one's.

    `reference_cache` reproduces the decoder of InSpatio-World, whose first temporal upsampler
    remembers the current frame twice instead of the last two. It equals Wan's up to pixel frame 8
    and differs from frame 9 on.
    """

    dim: int = 96
    latent_channels: int = 16
    multipliers: tuple[int, ...] = (1, 2, 4, 4)
    res_blocks: int = 2
    temporal_downsample: tuple[bool, ...] = (False, True, True)
    latent_mean: tuple[float, ...] = WAN_LATENT_MEAN
    latent_std: tuple[float, ...] = WAN_LATENT_STD
    reference_cache: bool = False

    def __post_init__(self) -> None:
        if len(self.temporal_downsample) != len(self.multipliers) - 1:
            raise CodecError(
                f"temporal_downsample has {len(self.temporal_downsample)} entries, "
                f"needs one fewer than multipliers ({len(self.multipliers)})"
            )
        for name, values in (("latent_mean", self.latent_mean), ("latent_std", self.latent_std)):
            if len(values) != self.latent_channels:
                raise CodecError(
                    f"{name} has {len(values)} entries, "
                    f"needs latent_channels = {self.latent_channels}"
                )
        if min(self.latent_std) <= 0:
            raise CodecError(f"latent_std must be positive, got {min(self.latent_std)}")


@runtime_checkable
class StreamLayer(Protocol):
    """A layer that looks back in time; its memory lies in the state under its own name, `slot`."""

    def run(self, x: Tensor, state: StreamState) -> Tensor:
        """x `[B, C, T, H, W]` through the layer; the state's memory moves on."""
        ...


class ChannelNorm(nn.Module):
    """Unit length over the channels, times sqrt(C) and a gain per channel."""

    def __init__(self, channels: int, dims: int) -> None:
        super().__init__()
        self.scale = math.sqrt(channels)
        self.gamma = nn.Parameter(torch.ones(channels, *(1,) * dims))

    def forward(self, x: Tensor) -> Tensor:
        """x `[B, C, ...]`, normalized."""
        normalized: Tensor = F.normalize(x, dim=1)
        return normalized * self.gamma * self.scale


class CausalConv(nn.Conv3d):
    """3-D convolution that sees current and past frames; 3 taps keep the last two inputs."""

    def __init__(self, width_in: int, width_out: int, kernel: tuple[int, int, int]) -> None:
        padding = (0, kernel[1] // 2, kernel[2] // 2)
        super().__init__(width_in, width_out, kernel, padding=padding)
        self.slot = ""

    def run(self, x: Tensor, state: StreamState) -> Tensor:
        """x `[B, C, T, H, W]`, convolved; T stays."""
        history = self.kernel_size[0] - 1
        if not history:
            return self.forward(x)
        past = state.get(self.slot)
        if past is None:
            past = x.new_zeros(x.shape[0], x.shape[1], history, *x.shape[3:])
        joined = torch.cat([past, x], dim=2)
        state.put(self.slot, joined[:, :, -history:].clone())
        return self.forward(joined)


class ResidualBlock(nn.Module):
    """Two normalized causal convolutions around a shortcut."""

    def __init__(self, width_in: int, width_out: int) -> None:
        super().__init__()
        self.residual = nn.Sequential(
            ChannelNorm(width_in, dims=3),
            nn.SiLU(),
            CausalConv(width_in, width_out, (3, 3, 3)),
            ChannelNorm(width_out, dims=3),
            nn.SiLU(),
            nn.Identity(),  # dropout in the published layout, unused
            CausalConv(width_out, width_out, (3, 3, 3)),
        )
        same = width_in == width_out
        self.shortcut = nn.Identity() if same else CausalConv(width_in, width_out, (1, 1, 1))

    def run(self, x: Tensor, state: StreamState) -> Tensor:
        """x `[B, C, T, H, W]` -> the same with `width_out` channels."""
        shortcut: Tensor = self.shortcut(x)
        return shortcut + run_layers(self.residual, x, state)


class FrameAttention(nn.Module):
    """Single-head attention among the pixels of each frame."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = ChannelNorm(width, dims=2)
        self.to_qkv = nn.Conv2d(width, 3 * width, 1)
        self.proj = nn.Conv2d(width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        """x `[B, C, T, H, W]`, each frame mixed within itself."""
        b, c, t, h, w = x.shape
        frames = x.transpose(1, 2).reshape(b * t, c, h, w)
        qkv = self.to_qkv(self.norm(frames)).reshape(b * t, 1, 3 * c, h * w)
        q, k, v = qkv.transpose(2, 3).contiguous().chunk(3, dim=-1)
        mixed = F.scaled_dot_product_attention(q, k, v)
        mixed = mixed.squeeze(1).transpose(1, 2).reshape(b * t, c, h, w)
        projected: Tensor = self.proj(mixed)
        return x + projected.reshape(b, t, c, h, w).transpose(1, 2)


class Resample(nn.Module):
    """Base of the resamplers: a 2-D convolution per frame."""

    resample: nn.Sequential

    def per_frame(self, x: Tensor) -> Tensor:
        """x `[B, C, T, H, W]` with each frame resampled."""
        b, c, t, h, w = x.shape
        frames: Tensor = self.resample(x.transpose(1, 2).reshape(b * t, c, h, w))
        return frames.reshape(b, t, *frames.shape[1:]).transpose(1, 2)


class Downsample(Resample):
    """Halves the picture, and the frames when `temporal`; a stream's first frame stays alone."""

    def __init__(self, width: int, temporal: bool) -> None:
        super().__init__()
        self.resample = nn.Sequential(
            nn.ZeroPad2d((0, 1, 0, 1)), nn.Conv2d(width, width, 3, stride=2)
        )
        self.slot = ""
        if temporal:
            self.time_conv = nn.Conv3d(width, width, (3, 1, 1), stride=(2, 1, 1))
        self.temporal = temporal

    def run(self, x: Tensor, state: StreamState) -> Tensor:
        """x `[B, C, T, H, W]` -> `[B, C, T or T / 2, H / 2, W / 2]`."""
        x = self.per_frame(x)
        if not self.temporal:
            return x
        past = state.get(self.slot)
        state.put(self.slot, x[:, :, -1:].clone())
        if past is None:
            return x
        return self.time_conv.forward(torch.cat([past, x], dim=2))


class Upsample(Resample):
    """Doubles the picture, and the frames when `temporal`; a stream's first latent stays one."""

    def __init__(self, width: int, temporal: bool, reference_cache: bool) -> None:
        super().__init__()
        self.resample = nn.Sequential(
            nn.Upsample(scale_factor=2.0, mode="nearest-exact"),
            nn.Conv2d(width, width // 2, 3, padding=1),
        )
        self.slot = ""
        if temporal:
            self.time_conv = nn.Conv3d(width, 2 * width, (3, 1, 1))
        self.temporal = temporal
        self.reference_cache = reference_cache

    def run(self, x: Tensor, state: StreamState) -> Tensor:
        """x `[B, C, T, H, W]` -> `[B, C / 2, T or 2 T, 2 H, 2 W]`."""
        if self.temporal:
            x = self._double(x, state)
        return self.per_frame(x)

    def _double(self, x: Tensor, state: StreamState) -> Tensor:
        past = state.get(self.slot)
        if past is None:  # the first latent passes once and is never seen by the time convolution
            state.put(self.slot, x.new_zeros(x.shape[0], x.shape[1], 2, *x.shape[3:]))
            return x
        joined = torch.cat([past, x], dim=2)
        state.put(self.slot, self._next_memory(joined, x, state))
        b, c, t, h, w = x.shape
        pairs = self.time_conv.forward(joined).reshape(b, 2, c, t, h, w)
        return pairs.permute(0, 2, 3, 1, 4, 5).reshape(b, c, 2 * t, h, w)

    def _next_memory(self, joined: Tensor, x: Tensor, state: StreamState) -> Tensor:
        """The last two inputs; the reference repeats a single new one after the second step."""
        if self.reference_cache and x.shape[2] == 1 and state.steps > 1:
            return torch.cat([x, x], dim=2)
        return joined[:, :, -2:].clone()


def run_layers(layers: Iterable[nn.Module], x: Tensor, state: StreamState) -> Tensor:
    """Passes x through layers in order, the state to those that look back in time."""
    for layer in layers:
        x = layer.run(x, state) if isinstance(layer, StreamLayer) else layer(x)
    return x


class Encoder(nn.Module):
    """Frames to twice the latent channels (mean and log variance)."""

    def __init__(self, config: WanVAEConfig) -> None:
        super().__init__()
        widths = [config.dim * m for m in (1, *config.multipliers)]
        self.conv1 = CausalConv(3, widths[0], (3, 3, 3))
        stages: list[nn.Module] = []
        for index, (width_in, width_out) in enumerate(zip(widths[:-1], widths[1:], strict=True)):
            for block in range(config.res_blocks):
                stages.append(ResidualBlock(width_in if block == 0 else width_out, width_out))
            if index < len(config.temporal_downsample):
                stages.append(Downsample(width_out, config.temporal_downsample[index]))
        self.downsamples = nn.Sequential(*stages)
        self.middle = middle(widths[-1])
        self.head = head(widths[-1], 2 * config.latent_channels)

    def run(self, x: Tensor, state: StreamState) -> Tensor:
        """x `[B, 3, T, H, W]` -> `[B, 2 C, t, h, w]`."""
        x = self.conv1.run(x, state)
        for layers in (self.downsamples, self.middle, self.head):
            x = run_layers(layers, x, state)
        return x


class Decoder(nn.Module):
    """Latents to frames."""

    def __init__(self, config: WanVAEConfig) -> None:
        super().__init__()
        widths = [config.dim * m for m in (config.multipliers[-1], *config.multipliers[::-1])]
        temporal = config.temporal_downsample[::-1]
        self.conv1 = CausalConv(config.latent_channels, widths[0], (3, 3, 3))
        self.middle = middle(widths[0])
        stages: list[nn.Module] = []
        for index, (width_in, width_out) in enumerate(zip(widths[:-1], widths[1:], strict=True)):
            width_in = width_in // 2 if index else width_in  # each upsampler halves the channels
            for block in range(config.res_blocks + 1):
                stages.append(ResidualBlock(width_in if block == 0 else width_out, width_out))
            if index < len(temporal):
                stages.append(Upsample(width_out, temporal[index], config.reference_cache))
        self.upsamples = nn.Sequential(*stages)
        self.head = head(widths[-1], 3)

    def run(self, x: Tensor, state: StreamState) -> Tensor:
        """x `[B, C, t, h, w]` -> `[B, 3, T, H, W]`."""
        x = self.conv1.run(x, state)
        for layers in (self.middle, self.upsamples, self.head):
            x = run_layers(layers, x, state)
        return x


def middle(width: int) -> nn.Sequential:
    """The stage at the smallest grid."""
    return nn.Sequential(
        ResidualBlock(width, width), FrameAttention(width), ResidualBlock(width, width)
    )


def head(width: int, channels: int) -> nn.Sequential:
    """The last convolution with its norm."""
    return nn.Sequential(
        ChannelNorm(width, dims=3), nn.SiLU(), CausalConv(width, channels, (3, 3, 3))
    )


class WanVAE(VideoCodec):
    """The Wan 2.1 VAE as a streaming codec: 1 frame is the first latent, each 4 more another.

    Encoding takes the mean of the posterior. A tail of fewer than 4 frames is dropped, as in the
    published code.
    """

    name = "wan_vae"
    first_frames = 1
    first_group = 1
    pad_tail = False

    latent_mean: Tensor
    latent_std: Tensor

    def __init__(self, config: WanVAEConfig | None = None) -> None:
        super().__init__()
        self.config = config or WanVAEConfig()
        self.latent_channels = self.config.latent_channels
        self.spatial_stride = 2 ** len(self.config.temporal_downsample)
        self.temporal_stride = 2 ** sum(self.config.temporal_downsample)
        self.encoder = Encoder(self.config)
        self.conv1 = CausalConv(2 * self.latent_channels, 2 * self.latent_channels, (1, 1, 1))
        self.conv2 = CausalConv(self.latent_channels, self.latent_channels, (1, 1, 1))
        self.decoder = Decoder(self.config)
        # on the CPU even under a meta device: they are constants, no checkpoint brings them
        shape = (1, -1, 1, 1, 1)
        mean = torch.tensor(self.config.latent_mean, device="cpu").reshape(shape)
        std = torch.tensor(self.config.latent_std, device="cpu").reshape(shape)
        self.register_buffer("latent_mean", mean, persistent=False)
        self.register_buffer("latent_std", std, persistent=False)
        for name, module in self.named_modules():
            if hasattr(module, "slot"):
                module.slot = name

    def _encode_groups(self, state: StreamState, frames: Tensor) -> Tensor:
        moments = self.conv1(self.encoder.run(frames.transpose(1, 2), state))
        mean = moments[:, : self.latent_channels]
        shift, scale = self.latent_mean.to(mean.dtype), self.latent_std.to(mean.dtype)
        latents: Tensor = (mean - shift) * (1.0 / scale)
        return latents.transpose(1, 2)

    def _decode_latents(self, state: StreamState, latents: Tensor) -> Tensor:
        shift, scale = self.latent_mean.to(latents.dtype), self.latent_std.to(latents.dtype)
        x = latents.transpose(1, 2) / (1.0 / scale) + shift
        return self.decoder.run(self.conv2(x), state).transpose(1, 2)
