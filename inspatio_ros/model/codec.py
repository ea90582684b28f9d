# SPDX-License-Identifier: Apache-2.0
# Copyright inspatio_ros contributors
"""What every video codec shares: shapes, checks, streaming state, tiles.

A codec turns pixel frames `[B, T, 3, H, W]` in [-1, 1] into latents `[B, F, C, h, w]` and back.
Latents are normalized: they are what the diffusion transformer reads and writes. Everything runs
one latent frame at a time over an explicit state, so that a live stream and a whole clip take the
same path and memory does not grow with the length of either.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn


class CodecError(ValueError):
    """Frames or latents that a codec cannot take; the text names the argument and the fix."""


class StreamState:
    """What one stream remembers between calls: one tensor per layer that looks back in time.

    Belongs to exactly one stream of one codec; `reset()` starts a new stream. Layers find their
    entry by name, so that a state can be inspected and its size stated. `parts` holds the states
    of a tiled codec's tiles.
    """

    def __init__(self) -> None:
        self.parts: list[StreamState] = []
        self._memory: dict[str, Tensor] = {}
        self.reset()

    def reset(self) -> None:
        """Forgets the stream: the next call starts a new one."""
        self._memory.clear()
        self.parts.clear()
        self.picture: tuple[int, int, int] | None = None  # B and the two sides, once known
        self.pending: Tensor | None = None
        self.steps = 0
        self.frames_dropped = 0

    def get(self, name: str) -> Tensor | None:
        """The tensor that the layer `name` left behind, or None at the start of a stream."""
        return self._memory.get(name)

    def put(self, name: str, value: Tensor) -> None:
        """Replaces the memory of the layer `name`."""
        self._memory[name] = value

    def bind(self, tensor: Tensor, codec: str) -> None:
        """Notes batch and picture size; raises CodecError when they change within a stream."""
        picture = (tensor.shape[0], tensor.shape[-2], tensor.shape[-1])
        if self.picture is not None and self.picture != picture:
            raise CodecError(
                f"{codec}: batch and picture {list(picture)} do not continue a stream of "
                f"{list(self.picture)}; reset() the state to start a new stream"
            )
        self.picture = picture

    @property
    def nbytes(self) -> int:
        """Bytes held by the state; constant once the stream runs."""
        tensors = list(self._memory.values()) + ([] if self.pending is None else [self.pending])
        own = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
        return own + sum(part.nbytes for part in self.parts)


class EncoderState(StreamState):
    """State of one encoding stream: layer memories and the frames of an unfinished group."""


class DecoderState(StreamState):
    """State of one decoding stream: layer memories."""


class VideoCodec(nn.Module, ABC):
    """Base of the codecs: checks and streaming are here, the arithmetic is in the subclass.

    | attribute | meaning |
    | --- | --- |
    | `latent_channels` | C of the latents |
    | `spatial_stride` | H / h = W / w |
    | `temporal_stride` | pixel frames of one latent frame in a running stream |
    | `first_frames` | pixel frames that the first latent of a stream decodes to |
    | `first_group` | pixel frames that the encoder reads for the first latent |
    | `encoder_lookahead` | frames the encoder reads beyond the last one its latent decodes to |

    `check_finite` looks for NaN and infinity in what comes in; it is done for CPU tensors only,
    because on a GPU it would make the host wait in the middle of a block.
    """

    name: str = "codec"
    latent_channels: int = 16
    spatial_stride: int = 8
    temporal_stride: int = 4
    first_frames: int = 4
    first_group: int = 4
    encoder_lookahead: int = 0
    pad_tail: bool = True
    chunk_latents: int = 1
    check_finite: bool = True

    @abstractmethod
    def _encode_groups(self, state: StreamState, frames: Tensor) -> Tensor:
        """Latents `[B, n, C, h, w]` of n whole groups of frames `[B, t, 3, H, W]`."""

    @abstractmethod
    def _decode_latents(self, state: StreamState, latents: Tensor) -> Tensor:
        """Frames `[B, t, 3, H, W]` of the latents `[B, n, C, h, w]`, n at most `chunk_latents`."""

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """Number format of the weights, and of the results."""
        return next(self.parameters()).dtype

    def latent_frames(self, frames: int) -> int:
        """Latent frames of a clip of `frames` pixel frames (tail padded or cut, see `encode`)."""
        return 0 if frames < 1 else 1 + (frames - 1) // self.temporal_stride

    def pixel_frames(self, latents: int) -> int:
        """Pixel frames that the first `latents` latent frames of a stream decode to."""
        return 0 if latents < 1 else self.first_frames + (latents - 1) * self.temporal_stride

    def source_frames(self, latents: int) -> int:
        """Pixel frames that the encoder must have been given to bring out `latents` latents."""
        return 0 if latents < 1 else self.first_group + (latents - 1) * self.temporal_stride

    def latent_size(self, height: int, width: int) -> tuple[int, int]:
        """Latent grid (h, w) of a picture; raises CodecError when a side is no whole multiple."""
        stride = self.spatial_stride
        if height < stride or width < stride or height % stride or width % stride:
            fitting = (max(width // stride, 1) * stride, max(height // stride, 1) * stride)
            raise CodecError(
                f"{self.name}: {width}x{height} pixels do not divide into cells of "
                f"{stride}x{stride}; use {fitting[0]}x{fitting[1]}"
            )
        return height // stride, width // stride

    def encoder_state(self) -> EncoderState:
        """A fresh state for one encoding stream."""
        return EncoderState()

    def decoder_state(self) -> DecoderState:
        """A fresh state for one decoding stream."""
        return DecoderState()

    def encode(self, frames: Tensor) -> Tensor:
        """Latents `[B, F, C, h, w]` of a clip `[B, T, 3, H, W]` in [-1, 1], F = latent_frames(T).

        The same path as `encode_stream` followed by `encode_finish`, hence bit for bit equal to
        any split of the clip. Raises CodecError for a wrong shape, no frames or values that are
        not finite.
        """
        if frames.ndim == 5 and frames.shape[1] == 0:
            raise CodecError(f"{self.name}: frames hold no frame (T = 0)")
        state = self.encoder_state()
        body, tail = self.encode_stream(state, frames), self.encode_finish(state)
        return torch.cat([body, tail], dim=1)

    def encode_stream(self, state: EncoderState, frames: Tensor) -> Tensor:
        """Latents `[B, n, C, h, w]` that the frames `[B, T, 3, H, W]` complete; n may be 0.

        Frames of an unfinished group wait in the state (never more than `temporal_stride` - 1).
        """
        self._check_frames(frames)
        state.bind(frames, self.name)
        frames = frames.to(device=self.device, dtype=self.dtype)
        if state.pending is not None:
            frames = torch.cat([state.pending, frames], dim=1)
        latents = []
        start = 0
        for stop in self._group_ends(state, frames.shape[1]):
            latents.append(self._encode_groups(state, frames[:, start:stop]))
            state.steps += latents[-1].shape[1]
            start = stop
        rest = frames[:, start:]
        # a copy, so that the state does not keep the whole input alive
        state.pending = rest.clone() if rest.shape[1] else None
        if latents:
            return torch.cat(latents, dim=1)
        h, w = self.latent_size(*frames.shape[-2:])
        return frames.new_empty(frames.shape[0], 0, self.latent_channels, h, w)

    def encode_finish(self, state: EncoderState) -> Tensor:
        """Latents `[B, n, C, h, w]` of what still waits at the end of a stream; n is 0 or 1.

        A codec with `pad_tail` repeats the last frame up to a whole group; the others drop the
        unfinished group and count it in `state.frames_dropped`. Raises CodecError when the stream
        never had a frame.
        """
        if state.picture is None:
            raise CodecError(f"{self.name}: encode_finish() before any frame")
        pending, state.pending = state.pending, None
        if pending is None or not self.pad_tail:
            state.frames_dropped += 0 if pending is None else pending.shape[1]
            batch, height, width = state.picture
            return torch.empty(
                (batch, 0, self.latent_channels, *self.latent_size(height, width)),
                device=self.device,
                dtype=self.dtype,
            )
        missing = self._group_size(state) - pending.shape[1]
        last = pending[:, -1:].expand(-1, missing, -1, -1, -1)
        latents = self._encode_groups(state, torch.cat([pending, last], dim=1))
        state.steps += latents.shape[1]
        return latents

    def decode(self, latents: Tensor) -> Tensor:
        """Frames `[B, T, 3, H, W]` of latents `[B, F, C, h, w]`, T = pixel_frames(F).

        Values are nominally in [-1, 1]. The same path as `decode_stream`, hence bit for bit equal
        to any split.
        """
        if latents.ndim == 5 and latents.shape[1] == 0:
            raise CodecError(f"{self.name}: latents hold no frame (F = 0)")
        return self.decode_stream(self.decoder_state(), latents)

    def decode_stream(self, state: DecoderState, latents: Tensor) -> Tensor:
        """Frames `[B, T, 3, H, W]` of the next latents `[B, n, C, h, w]` of a stream.

        The first latent of a stream gives `first_frames`, each later one `temporal_stride`.
        """
        self._check_latents(latents)
        state.bind(latents, self.name)
        latents = latents.to(device=self.device, dtype=self.dtype)
        frames = []
        for chunk in torch.split(latents, self.chunk_latents, dim=1):
            frames.append(self._decode_latents(state, chunk))
            state.steps += chunk.shape[1]
        return torch.cat(frames, dim=1)

    def _group_size(self, state: StreamState) -> int:
        return self.first_group if state.steps == 0 else self.temporal_stride

    def _group_ends(self, state: StreamState, frames: int) -> Iterator[int]:
        """Ends of the pieces that go through the encoder at once: whole groups, first alone."""
        stride, end = self.temporal_stride, 0
        if state.steps == 0:
            if frames < self.first_group:
                return
            if self.first_group != stride:
                end = self.first_group
                yield end
        while frames - end >= stride:
            end += stride * min(self.chunk_latents, (frames - end) // stride)
            yield end

    def _check_frames(self, frames: Tensor) -> None:
        self._check_tensor("frames", frames, "[B, T, 3, H, W]", channels=3)
        self.latent_size(*frames.shape[-2:])

    def _check_latents(self, latents: Tensor) -> None:
        self._check_tensor("latents", latents, "[B, F, C, h, w]", channels=self.latent_channels)
        if 0 in latents.shape:
            raise CodecError(f"{self.name}: latents {list(latents.shape)} are empty")

    def _check_tensor(self, argument: str, tensor: Tensor, shape: str, channels: int) -> None:
        if tensor.ndim != 5:
            raise CodecError(
                f"{self.name}: {argument} must be {shape}, got shape {list(tensor.shape)}"
            )
        if tensor.shape[2] != channels:
            raise CodecError(
                f"{self.name}: {argument} must have {channels} channels on axis 2 ({shape}), "
                f"got {tensor.shape[2]} in {list(tensor.shape)}"
            )
        if not tensor.is_floating_point():
            raise CodecError(
                f"{self.name}: {argument} must be floating point, got {tensor.dtype}; "
                "frames_from_uint8() converts images"
            )
        if self.check_finite and tensor.device.type == "cpu" and not bool(tensor.isfinite().all()):
            bad = int((~tensor.isfinite()).sum())
            raise CodecError(f"{self.name}: {argument} hold {bad} values that are NaN or infinite")


def uploaded(array: npt.NDArray[np.uint8], device: torch.device | str) -> Tensor:
    """The array on a device; through pinned memory on a GPU, so that the copy does not wait."""
    tensor = torch.from_numpy(array)
    if torch.device(device).type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def frames_from_uint8(
    images: Sequence[npt.NDArray[np.uint8]], device: torch.device | str = "cpu"
) -> Tensor:
    """Frames `[1, T, 3, H, W]` float32 in [-1, 1] of T images uint8 RGB `[H, W, 3]`.

    On `device`, where they are also converted: a quarter of the bytes has to travel.
    """
    if not images:
        raise CodecError("no images: at least one is needed")
    first = images[0].shape
    for index, image in enumerate(images):
        if (
            image.dtype != np.uint8
            or image.ndim != 3
            or image.shape[2] != 3
            or image.shape != first
        ):
            raise CodecError(
                f"image {index} is {image.dtype} {list(image.shape)}; "
                f"all must be uint8 [H, W, 3] like the first, {list(first)}"
            )
    stacked = uploaded(np.stack(images), device)
    return (stacked.permute(0, 3, 1, 2).float() / 127.5 - 1.0).unsqueeze(0)


def frames_to_uint8(frames: Tensor) -> list[npt.NDArray[np.uint8]]:
    """T images uint8 RGB `[H, W, 3]` of frames `[1, T, 3, H, W]`, clipped to [-1, 1]."""
    if frames.ndim != 5 or frames.shape[0] != 1 or frames.shape[2] != 3:
        raise CodecError(f"frames must be [1, T, 3, H, W], got shape {list(frames.shape)}")
    scaled = frames[0].float().clamp(-1.0, 1.0).add(1.0).mul(127.5).round().to(torch.uint8)
    array = scaled.permute(0, 2, 3, 1).contiguous().cpu().numpy()
    return list(array)


@dataclass(frozen=True)
class TileOptions:
    """Side of a tile and overlap of neighbors, in latent cells."""

    size: int = 32
    overlap: int = 8

    def __post_init__(self) -> None:
        if self.size < 2 or not 0 <= self.overlap <= self.size // 2:
            raise CodecError(
                f"tiles of {self.size} cells with overlap {self.overlap}: "
                "need size >= 2 and 0 <= overlap <= size / 2"
            )


class TiledCodec(VideoCodec):
    """Runs another codec tile by tile, for pictures too large for the memory at once.

    Neighboring tiles overlap and are blended with linear ramps. Each tile keeps its own streaming
    state, so stream = batch holds as for the codec inside. The result is close to, but not the
    same as, the untiled one wherever a layer sees further than the overlap (the Wan VAE has
    attention over the whole picture).
    """

    def __init__(self, codec: VideoCodec, options: TileOptions | None = None) -> None:
        super().__init__()
        self.codec = codec
        self.options = options or TileOptions()
        self.name = f"tiled {codec.name}"
        self.latent_channels = codec.latent_channels
        self.spatial_stride = codec.spatial_stride
        self.temporal_stride = codec.temporal_stride
        self.first_frames = codec.first_frames
        self.first_group = codec.first_group
        self.encoder_lookahead = codec.encoder_lookahead
        self.pad_tail = codec.pad_tail
        self.chunk_latents = codec.chunk_latents
        self.check_finite = codec.check_finite

    def _encode_groups(self, state: StreamState, frames: Tensor) -> Tensor:
        stride = self.spatial_stride
        grid = self.latent_size(*frames.shape[-2:])
        tiles = self._tiles(grid)
        parts = []
        for tile, inner in zip(tiles, self._inner_states(state, len(tiles)), strict=True):
            rows, columns = tile
            cut = frames[..., rows.start * stride : rows.stop * stride, :]
            cut = cut[..., columns.start * stride : columns.stop * stride]
            parts.append(self.codec._encode_groups(inner, cut))
            inner.steps += parts[-1].shape[1]
        return self._blend(tiles, parts, grid, scale=1)

    def _decode_latents(self, state: StreamState, latents: Tensor) -> Tensor:
        grid = (latents.shape[-2], latents.shape[-1])
        tiles = self._tiles(grid)
        parts = []
        for (rows, columns), inner in zip(
            tiles, self._inner_states(state, len(tiles)), strict=True
        ):
            parts.append(self.codec._decode_latents(inner, latents[..., rows, columns]))
            inner.steps += latents.shape[1]
        return self._blend(tiles, parts, grid, scale=self.spatial_stride)

    def _inner_states(self, state: StreamState, count: int) -> list[StreamState]:
        if not state.parts:
            state.parts.extend(StreamState() for _ in range(count))
        return state.parts

    def _tiles(self, grid: tuple[int, int]) -> list[tuple[slice, slice]]:
        """Row and column ranges of the tiles in latent cells; neighbors share the overlap."""
        rows, columns = (self._cuts(length) for length in grid)
        return [(row, column) for row in rows for column in columns]

    def _cuts(self, length: int) -> list[slice]:
        size, step = self.options.size, self.options.size - self.options.overlap
        if length <= size:
            return [slice(0, length)]
        starts = [*range(0, length - size, step), length - size]
        return [slice(start, start + size) for start in starts]

    def _blend(
        self,
        tiles: list[tuple[slice, slice]],
        parts: list[Tensor],
        grid: tuple[int, int],
        scale: int,
    ) -> Tensor:
        """The picture that the tiles make: weighted by ramps, divided by the weights' sum."""
        if len(tiles) == 1:
            return parts[0]
        height, width = grid[0] * scale, grid[1] * scale
        total = parts[0].new_zeros((*parts[0].shape[:3], height, width), dtype=torch.float32)
        weight = total.new_zeros(height, width)
        for (rows, columns), part in zip(tiles, parts, strict=True):
            ramp = torch.outer(
                self._ramp(rows, grid[0], scale), self._ramp(columns, grid[1], scale)
            )
            ramp = ramp.to(total.device)
            top, bottom = rows.start * scale, rows.stop * scale
            left, right = columns.start * scale, columns.stop * scale
            total[..., top:bottom, left:right] += part * ramp
            weight[top:bottom, left:right] += ramp
        return (total / weight).to(parts[0].dtype)

    def _ramp(self, cut: slice, length: int, scale: int) -> Tensor:
        """Weights along one side of a tile: 1 inside, falling towards inner borders."""
        size, overlap = (cut.stop - cut.start) * scale, self.options.overlap * scale
        position = torch.arange(size, dtype=torch.float32) + 0.5
        ramp = torch.ones(size)
        if overlap and cut.start > 0:
            ramp = torch.minimum(ramp, position / overlap)
        if overlap and cut.stop < length:
            ramp = torch.minimum(ramp, position.flip(0) / overlap)
        return ramp
