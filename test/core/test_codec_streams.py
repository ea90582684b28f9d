# SPDX-License-Identifier: Apache-2.0
"""Every codec: stream = batch bit for bit, counts of frames, bounded memory, bad input."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from inspatio_ros.model.codec import (
    CodecError,
    TiledCodec,
    TileOptions,
    VideoCodec,
    frames_from_uint8,
    frames_to_uint8,
)
from inspatio_ros.model.small_codec import SmallCodec, SmallCodecConfig
from inspatio_ros.model.tiny_vae import TinyVAE
from inspatio_ros.model.wan_vae import WanVAE, WanVAEConfig

HEIGHT, WIDTH = 16, 24
SPLITS = settings(
    max_examples=6,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


def wan(reference_cache: bool = False) -> WanVAE:
    return WanVAE(
        WanVAEConfig(
            dim=4,
            latent_channels=4,
            multipliers=(1, 2, 2, 2),
            res_blocks=1,
            latent_mean=(0.1, -0.2, 0.3, 0.0),
            latent_std=(1.5, 0.7, 1.1, 2.0),
            reference_cache=reference_cache,
        )
    )


def small() -> SmallCodec:
    return SmallCodec(SmallCodecConfig(frame_width=8, group_width=16, fine_width=8))


CODECS: dict[str, Callable[[], VideoCodec]] = {
    "wan": wan,
    "wan_reference": lambda: wan(reference_cache=True),
    "tiny": TinyVAE,
    "small": small,
    "tiled_small": lambda: TiledCodec(small(), TileOptions(size=2, overlap=1)),
    "tiled_wan": lambda: TiledCodec(wan(), TileOptions(size=2, overlap=1)),
}


@pytest.fixture(params=CODECS, scope="module")
def codec(request: pytest.FixtureRequest) -> VideoCodec:
    torch.manual_seed(3)
    return CODECS[request.param]().eval().requires_grad_(False)


def clip(frames: int, seed: int = 0, batch: int = 1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(batch, frames, 3, HEIGHT, WIDTH, generator=generator) * 2 - 1


def pieces(tensor: torch.Tensor, cuts: list[int]) -> list[torch.Tensor]:
    stops = sorted({0, tensor.shape[1], *(cut % tensor.shape[1] for cut in cuts)})
    return [tensor[:, a:b] for a, b in zip(stops[:-1], stops[1:], strict=True)]


@SPLITS
@given(length=st.integers(1, 18), cuts=st.lists(st.integers(0, 30), max_size=5))
def test_encoding_a_stream_equals_the_batch(
    codec: VideoCodec, length: int, cuts: list[int]
) -> None:
    frames = clip(length)
    state = codec.encoder_state()
    parts = [codec.encode_stream(state, piece) for piece in pieces(frames, cuts)]
    parts.append(codec.encode_finish(state))
    batch = codec.encode(frames)
    assert batch.shape == (1, codec.latent_frames(length), codec.latent_channels, 2, 3)
    assert torch.equal(torch.cat(parts, dim=1), batch)


@SPLITS
@given(length=st.integers(1, 5), cuts=st.lists(st.integers(0, 9), max_size=3))
def test_decoding_a_stream_equals_the_batch(
    codec: VideoCodec, length: int, cuts: list[int]
) -> None:
    latents = torch.randn(
        1, length, codec.latent_channels, 2, 3, generator=torch.Generator().manual_seed(length)
    )
    state = codec.decoder_state()
    parts = [codec.decode_stream(state, piece) for piece in pieces(latents, cuts)]
    batch = codec.decode(latents)
    assert batch.shape == (1, codec.pixel_frames(length), 3, HEIGHT, WIDTH)
    assert torch.equal(torch.cat(parts, dim=1), batch)


def test_time_matters_to_each_codec(codec: VideoCodec) -> None:
    # else stream = batch would hold for a codec without any memory
    frames = clip(9)
    changed = frames.clone()
    changed[:, 0] = -changed[:, 0]
    last = codec.encode(frames)[:, -1]
    assert not torch.equal(codec.encode(changed)[:, -1], last)
    latents = codec.encode(frames)
    other = latents.clone()
    other[:, 0] += 1
    assert not torch.equal(codec.decode(other)[:, -1], codec.decode(latents)[:, -1])


def test_the_past_never_changes(codec: VideoCodec) -> None:
    frames, longer = clip(17), clip(17)
    longer[:, 13:] = 0
    known = 3 if codec.first_group == 4 else 4
    assert codec.source_frames(known) <= 13 < codec.source_frames(known + 1)
    assert torch.equal(codec.encode(frames)[:, :known], codec.encode(longer)[:, :known])


def test_state_does_not_grow_and_resets(codec: VideoCodec) -> None:
    encoder, decoder = codec.encoder_state(), codec.decoder_state()
    sizes = []
    for step in range(10):
        latents = codec.encode_stream(encoder, clip(4, seed=step))
        if latents.shape[1]:
            codec.decode_stream(decoder, latents)
        sizes.append((encoder.nbytes, decoder.nbytes))
    assert sizes[0] != (0, 0)
    assert len(set(sizes[2:])) == 1
    encoder.reset()
    decoder.reset()
    assert encoder.nbytes == decoder.nbytes == 0
    fresh = codec.encode_stream(codec.encoder_state(), clip(5))
    assert torch.equal(codec.encode_stream(encoder, clip(5)), fresh)


def test_streams_do_not_share_anything(codec: VideoCodec) -> None:
    one, two = codec.encoder_state(), codec.encoder_state()
    mixed = []
    for step in range(3):
        mixed.append(codec.encode_stream(one, clip(5, seed=step)))
        codec.encode_stream(two, clip(5, seed=50 + step))
    alone_state = codec.encoder_state()
    alone = [codec.encode_stream(alone_state, clip(5, seed=step)) for step in range(3)]
    assert torch.equal(torch.cat(mixed, dim=1), torch.cat(alone, dim=1))


def test_a_batch_is_its_members(codec: VideoCodec) -> None:
    frames = torch.cat([clip(9, seed=1), clip(9, seed=2)])
    together = codec.encode(frames)
    alone = torch.cat([codec.encode(frames[:1]), codec.encode(frames[1:])])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)


def test_frame_counts_of_a_clip(codec: VideoCodec) -> None:
    assert [codec.latent_frames(n) for n in (0, 1, 4, 5, 12, 13)] == [0, 1, 1, 2, 3, 4]
    first = codec.first_frames
    assert [codec.pixel_frames(n) for n in (0, 1, 2, 3)] == [0, first, first + 4, first + 8]


def test_the_tail_is_padded_or_counted(codec: VideoCodec) -> None:
    state = codec.encoder_state()
    codec.encode_stream(state, clip(codec.first_group + 3))
    tail = codec.encode_finish(state)
    if codec.pad_tail:
        assert (tail.shape[1], state.frames_dropped) == (1, 0)
    else:
        assert (tail.shape[1], state.frames_dropped) == (0, 3)


BAD_FRAMES = {
    "channels on axis 2": torch.zeros(1, 4, 4, HEIGHT, WIDTH),
    r"\[B, T, 3, H, W\]": torch.zeros(4, 3, HEIGHT, WIDTH),
    "use 16x16": torch.zeros(1, 4, 3, HEIGHT, 20),
    "no frame": torch.zeros(1, 0, 3, HEIGHT, WIDTH),
    "floating point": torch.zeros(1, 4, 3, HEIGHT, WIDTH, dtype=torch.uint8),
    "1 values that are NaN": torch.zeros(1, 4, 3, HEIGHT, WIDTH).index_put_(
        (torch.tensor(0),) * 5, torch.tensor(float("nan"))
    ),
}


@pytest.mark.parametrize("message", BAD_FRAMES)
def test_bad_frames_are_refused(codec: VideoCodec, message: str) -> None:
    with pytest.raises(CodecError, match=message):
        codec.encode(BAD_FRAMES[message])


def test_bad_latents_are_refused(codec: VideoCodec) -> None:
    good = torch.zeros(1, 1, codec.latent_channels, 2, 3)
    with pytest.raises(CodecError, match="channels"):
        codec.decode(torch.zeros(1, 1, codec.latent_channels + 1, 2, 3))
    with pytest.raises(CodecError, match="no frame"):
        codec.decode(good[:, :0])
    with pytest.raises(CodecError, match="NaN or infinite"):
        codec.decode(good + float("inf"))
    with pytest.raises(CodecError, match="empty"):
        codec.decode(good[..., :0])


def test_a_stream_keeps_its_picture_size(codec: VideoCodec) -> None:
    state = codec.encoder_state()
    codec.encode_stream(state, clip(2))
    with pytest.raises(CodecError, match="reset"):
        codec.encode_stream(state, torch.zeros(1, 2, 3, HEIGHT * 2, WIDTH))
    with pytest.raises(CodecError, match="before any frame"):
        codec.encode_finish(codec.encoder_state())


def test_images_round_trip_exactly() -> None:
    values = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 3), dtype=np.uint8)
    frames = frames_from_uint8(list(values))
    assert frames.shape == (1, 3, 3, 8, 8)
    assert (float(frames.min()), float(frames.max())) >= (-1.0, 1.0)
    assert np.array_equal(np.stack(frames_to_uint8(frames)), values)
    assert frames_to_uint8(frames * 9)[0].max() == 255


def test_images_of_another_size_or_kind_are_refused() -> None:
    image = np.zeros((8, 8, 3), np.uint8)
    with pytest.raises(CodecError, match="image 1 is uint8"):
        frames_from_uint8([image, np.zeros((8, 16, 3), np.uint8)])
    with pytest.raises(CodecError, match="image 0 is float64"):
        frames_from_uint8([image.astype(np.float64)])  # type: ignore[list-item]
    with pytest.raises(CodecError, match="no images"):
        frames_from_uint8([])
    with pytest.raises(CodecError, match=r"\[1, T, 3, H, W\]"):
        frames_to_uint8(torch.zeros(2, 1, 3, 8, 8))


def test_one_tile_is_the_codec_itself() -> None:
    torch.manual_seed(0)
    inner = small().eval()
    tiled = TiledCodec(inner, TileOptions(size=8, overlap=2))
    with torch.inference_mode():
        assert torch.equal(tiled.encode(clip(8)), inner.encode(clip(8)))


def test_tiles_agree_with_the_whole_picture_away_from_the_cuts() -> None:
    torch.manual_seed(0)
    inner = small().eval()
    tiled = TiledCodec(inner, TileOptions(size=12, overlap=6))
    latents = torch.randn(1, 2, 16, 4, 18)
    with torch.inference_mode():
        whole, cut = inner.decode(latents), tiled.decode(latents)
    assert cut.shape == whole.shape
    # the left end lies in one tile only and further from its border than most layers see
    difference = (cut - whole).abs().amax(dim=(0, 1, 2, 3))
    assert float(difference[:8].max()) < 1e-3 * float(whole.abs().max())
    assert float((cut - whole).abs().mean()) < 0.05 * float(whole.abs().mean())


@pytest.mark.parametrize("make", [small, wan])
def test_tiles_bound_the_activations(make: Callable[[], VideoCodec]) -> None:
    sizes: list[int] = []

    def note(module: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        sizes.append(inputs[0].numel())

    inner = make().eval()
    for module in inner.modules():
        if isinstance(module, torch.nn.Conv2d):
            module.register_forward_pre_hook(note)
    tiled = TiledCodec(inner, TileOptions(size=4, overlap=1))
    largest = []
    with torch.inference_mode():
        for codec, width in ((inner, 128), (tiled, 128), (tiled, 256)):
            sizes.clear()
            codec.decode(codec.encode(torch.zeros(1, 5, 3, 32, width)))
            largest.append(max(sizes))
    whole, cut, cut_wider = largest
    assert cut == cut_wider < whole / 3


@pytest.mark.parametrize(("size", "overlap"), [(1, 0), (8, 5), (8, -1)])
def test_tiles_that_cannot_blend_are_refused(size: int, overlap: int) -> None:
    with pytest.raises(CodecError, match="overlap"):
        TileOptions(size, overlap)
