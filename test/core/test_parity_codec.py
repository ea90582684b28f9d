# SPDX-License-Identifier: Apache-2.0
"""The codecs against tensors that the reference's own modules made."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
import torch

from inspatio_ros.model.tiny_vae import TinyVAE, from_published
from inspatio_ros.model.wan_vae import WanVAE, WanVAEConfig
from support.fixtures import ParityFixture, parity_fixture


def tensor(fixture: ParityFixture, name: str) -> torch.Tensor:
    return torch.from_numpy(np.array(fixture[name]))


def wan_vae(fixture: ParityFixture, reference_cache: bool) -> WanVAE:
    stored: dict[str, Any] = json.loads(fixture.metadata["vae"])["config"]
    config = WanVAEConfig(
        dim=stored["dim"],
        latent_channels=stored["z_dim"],
        multipliers=tuple(stored["dim_mult"]),
        res_blocks=stored["num_res_blocks"],
        temporal_downsample=tuple(stored["temperal_downsample"]),
        latent_mean=tuple(fixture["vae/in/mean"].tolist()),
        latent_std=tuple(fixture["vae/in/std"].tolist()),
        reference_cache=reference_cache,
    )
    prefix = "vae/state/"
    codec = WanVAE(config).eval().requires_grad_(False)
    codec.load_state_dict(
        {n.removeprefix(prefix): tensor(fixture, n) for n in fixture.names(prefix)}, strict=True
    )
    return codec


def decoded_one_by_one(codec: WanVAE | TinyVAE, latents: torch.Tensor) -> torch.Tensor:
    state = codec.decoder_state()
    steps = [codec.decode_stream(state, latents[:, i : i + 1]) for i in range(latents.shape[1])]
    return torch.cat(steps, dim=1)


@pytest.mark.parametrize("reference_cache", [False, True])
def test_wan_vae_encoder_parity(reference_cache: bool) -> None:
    fixture = parity_fixture()
    codec = wan_vae(fixture, reference_cache)
    latents = codec.encode(tensor(fixture, "vae/in/video").transpose(1, 2))
    expected = tensor(fixture, "vae/out/latent").transpose(1, 2)
    torch.testing.assert_close(latents, expected, rtol=0, atol=1e-5)


def test_wan_vae_decoder_parity_with_the_reference_cache() -> None:
    fixture = parity_fixture()
    codec = wan_vae(fixture, reference_cache=True)
    latents = tensor(fixture, "vae/out/latent").transpose(1, 2)
    for name in ("decoded", "decoded_streamed"):
        expected = tensor(fixture, f"vae/out/{name}").transpose(1, 2)
        torch.testing.assert_close(codec.decode(latents), expected, rtol=0, atol=1e-5)
        streamed = decoded_one_by_one(codec, latents)
        torch.testing.assert_close(streamed, expected, rtol=0, atol=1e-5)


def test_wan_vae_cache_rules_part_at_frame_nine_parity() -> None:
    fixture = parity_fixture()
    latents = tensor(fixture, "vae/out/latent").transpose(1, 2)
    expected = tensor(fixture, "vae/out/decoded").transpose(1, 2)
    decoded = wan_vae(fixture, reference_cache=False).decode(latents)
    difference = (decoded - expected).abs().amax(dim=(0, 2, 3, 4))
    assert float(difference[:9].max()) <= 1e-5
    assert all(float(frame) > 1e-3 for frame in difference[9:])


def sine_weights(codec: TinyVAE) -> dict[str, torch.Tensor]:
    """Parameter n, element i: sin(0.7 n + 0.37 i) sqrt(2 / fan in); biases times 0.05."""
    weights = {}
    for number, (name, value) in enumerate(codec.state_dict().items(), start=1):
        wave = torch.sin(0.7 * number + 0.37 * torch.arange(value.numel(), dtype=torch.float64))
        gain = 0.05 if name.endswith("bias") else math.sqrt(2 / value[0].numel())
        weights[name] = (wave * gain).float().reshape(value.shape)
    return weights


@pytest.fixture(scope="module")
def tiny() -> TinyVAE:
    codec = TinyVAE().eval().requires_grad_(False)
    codec.load_state_dict(sine_weights(codec))
    return codec


def test_tiny_vae_keys_parity(tiny: TinyVAE) -> None:
    stored = json.loads(parity_fixture().metadata["taehv"])
    assert list(tiny.state_dict()) == stored["keys"]


def test_tiny_vae_encoder_parity(tiny: TinyVAE) -> None:
    fixture = parity_fixture()
    latents = tiny.encode(tensor(fixture, "taehv/in/video") * 2 - 1)
    expected = tensor(fixture, "taehv/out/latent")
    torch.testing.assert_close(latents, expected, rtol=0, atol=1e-4)


def test_tiny_vae_decoder_parity(tiny: TinyVAE) -> None:
    fixture = parity_fixture()
    latents = tensor(fixture, "taehv/in/latent")
    for name in ("rgb", "rgb_sequential"):
        expected = tensor(fixture, f"taehv/out/{name}")
        for frames in (tiny.decode(latents), decoded_one_by_one(tiny, latents)):
            torch.testing.assert_close((frames + 1) / 2, expected, rtol=0, atol=1e-4)


def test_tiny_vae_parallel_equals_sequential_parity(tiny: TinyVAE) -> None:
    parallel = TinyVAE(chunk_latents=5).eval().requires_grad_(False)
    parallel.load_state_dict(tiny.state_dict())
    frames = torch.rand(1, 19, 3, 16, 24, generator=torch.Generator().manual_seed(1)) * 2 - 1
    latents = tiny.encode(frames)
    torch.testing.assert_close(parallel.encode(frames), latents, rtol=0, atol=1e-5)
    torch.testing.assert_close(parallel.decode(latents), tiny.decode(latents), rtol=0, atol=1e-5)


def test_tiny_vae_latent_reads_three_frames_ahead(tiny: TinyVAE) -> None:
    frames = torch.rand(1, 8, 3, 16, 24, generator=torch.Generator().manual_seed(1)) * 2 - 1
    assert tiny.encoder_lookahead == 3
    assert tiny.pixel_frames(2) == 5
    assert tiny.source_frames(2) == 5 + tiny.encoder_lookahead
    state = tiny.encoder_state()
    assert tiny.encode_stream(state, frames[:, :7]).shape[1] == 1
    assert tiny.encode_stream(state, frames[:, 7:]).shape[1] == 1


def test_tiny_vae_takes_the_last_half_of_the_published_rows(tiny: TinyVAE) -> None:
    key = "decoder.7.conv.weight"
    published = dict(tiny.state_dict())
    published[key] = torch.cat([torch.full_like(published[key], 9.0), published[key]])
    assert published[key].shape[0] == 512
    adapted = from_published(published)
    assert torch.equal(adapted[key], tiny.state_dict()[key])
    assert from_published(adapted) is adapted
