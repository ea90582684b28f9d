# SPDX-License-Identifier: Apache-2.0
# Copyright inspatio_ros contributors
"""A tiny video autoencoder for Wan 2.1 latents (the `taew2_1` layout of TAEHV).

Some twenty times cheaper than the Wan VAE and made for the same latents. Key names and shapes are
those of the published `taew2_1.pth` (128 tensors). Source of the method: madebyollin/taehv.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from inspatio_ros.model.codec import StreamState, VideoCodec

TRIM = 3  # decoded frames before the first real one


class SoftClamp(nn.Module):
    """Squeezes latents smoothly into (-3, 3)."""

    def forward(self, x: Tensor) -> Tensor:
        """x, squeezed."""
        return torch.tanh(x / 3) * 3


class MemoryBlock(nn.Module):
    """Residual block on each frame together with the frame before it."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Sequential(
            nn.Conv2d(2 * width, width, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1),
        )
        self.slot = ""

    def run(self, x: Tensor, state: StreamState) -> Tensor:
        """x `[B, T, C, H, W]`; the frame before the first comes from the state, else zeros."""
        past = state.get(self.slot)
        if past is None:
            past = torch.zeros_like(x[:, :1])
        state.put(self.slot, x[:, -1:].clone())
        previous = torch.cat([past, x[:, :-1]], dim=1)
        joined = torch.cat([x, previous], dim=2).flatten(0, 1)
        mixed: Tensor = self.conv(joined)
        return F.relu(mixed.reshape(x.shape) + x)


class TimePool(nn.Module):
    """Merges each `stride` frames into one with a 1x1 convolution."""

    def __init__(self, width: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.conv = nn.Conv2d(width * stride, width, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """x `[B, T, C, H, W]` -> `[B, T / stride, C, H, W]`."""
        b, t, c, h, w = x.shape
        stacked = x.reshape(b * t // self.stride, self.stride * c, h, w)
        return self.conv.forward(stacked).reshape(b, t // self.stride, c, h, w)


class TimeGrow(nn.Module):
    """Makes `stride` frames of each one with a 1x1 convolution."""

    def __init__(self, width: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.conv = nn.Conv2d(width, width * stride, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """x `[B, T, C, H, W]` -> `[B, T stride, C, H, W]`."""
        b, t, c, h, w = x.shape
        return self.conv.forward(x.flatten(0, 1)).reshape(b, t * self.stride, c, h, w)


def conv(width_in: int, width_out: int, stride: int = 1, bias: bool = True) -> nn.Conv2d:
    """A 3x3 convolution of each frame."""
    return nn.Conv2d(width_in, width_out, 3, stride=stride, padding=1, bias=bias)


def encoder_layers(channels: int, width: int) -> nn.Sequential:
    """Frames to latents; the positions in the list are the key names of the file."""
    stages: list[nn.Module] = [conv(3, width), nn.ReLU()]
    for time_stride in (2, 2, 1):
        stages += [TimePool(width, time_stride), conv(width, width, stride=2, bias=False)]
        stages += [MemoryBlock(width) for _ in range(3)]
    return nn.Sequential(*stages, conv(width, channels))


def decoder_layers(channels: int, widths: tuple[int, int, int, int]) -> nn.Sequential:
    """Latents to frames; the positions in the list are the key names of the file."""
    stages: list[nn.Module] = [SoftClamp(), conv(channels, widths[0]), nn.ReLU()]
    for index, time_stride in enumerate((1, 2, 2)):
        width = widths[index]
        stages += [MemoryBlock(width) for _ in range(3)]
        stages += [nn.Upsample(scale_factor=2), TimeGrow(width, time_stride)]
        stages += [conv(width, widths[index + 1], bias=False)]
    return nn.Sequential(*stages, nn.ReLU(), conv(widths[3], 3))


def run_layers(layers: nn.Sequential, x: Tensor, state: StreamState) -> Tensor:
    """Passes x `[B, T, C, H, W]` through layers that know time and ones for single frames."""
    for layer in layers:
        if isinstance(layer, MemoryBlock):
            x = layer.run(x, state)
        elif isinstance(layer, TimePool | TimeGrow):
            x = layer(x)
        else:
            frames: Tensor = layer(x.flatten(0, 1))
            x = frames.reshape(*x.shape[:2], *frames.shape[1:])
    return x


class TinyVAE(VideoCodec):
    """The tiny autoencoder as a streaming codec over whole groups of 4 frames.

    Latent k reads the frames 4k..4k+3 and decodes to the frames 4k-3..4k: the first three decoded
    frames are dropped and the encoder looks `encoder_lookahead` = 3 frames ahead. A live user has
    to wait for those 3 frames; feeding it with the Wan VAE's grouping instead makes the picture
    follow the camera 3 frames late.

    `chunk_latents` latents go through at once. 1 keeps a stream bit for bit equal to a whole clip;
    more is faster on a GPU and equal up to rounding. The tail of a clip is padded by repeating its
    last frame.
    """

    name = "tiny_vae"
    first_frames = 1
    first_group = 4
    encoder_lookahead = TRIM

    def __init__(self, chunk_latents: int = 1) -> None:
        super().__init__()
        if chunk_latents < 1:
            raise ValueError(f"chunk_latents must be at least 1, got {chunk_latents}")
        self.chunk_latents = chunk_latents
        self.encoder = encoder_layers(self.latent_channels, 64)
        self.decoder = decoder_layers(self.latent_channels, (256, 128, 64, 64))
        for name, module in self.named_modules():
            if isinstance(module, MemoryBlock):
                module.slot = name

    def _encode_groups(self, state: StreamState, frames: Tensor) -> Tensor:
        return run_layers(self.encoder, (frames + 1) / 2, state)

    def _decode_latents(self, state: StreamState, latents: Tensor) -> Tensor:
        frames = run_layers(self.decoder, latents, state).clamp(0, 1) * 2 - 1
        return frames[:, TRIM:] if state.steps == 0 else frames


def from_published(state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
    """The file's tensors as the module takes them: of `decoder.7`'s 512 rows the last 256."""
    key = "decoder.7.conv.weight"
    weight = state_dict.get(key)
    if weight is None or weight.ndim != 4 or weight.shape[0] != 512:
        return state_dict
    return {**state_dict, key: weight[-256:]}
