# SPDX-License-Identifier: Apache-2.0
"""What the small codec promises beyond streaming: size, training, latent statistics."""

from __future__ import annotations

import pytest
import torch

from inspatio_ros.model.codec import CodecError
from inspatio_ros.model.small_codec import SmallCodec, SmallCodecConfig
from inspatio_ros.model.wan_vae import WanVAEConfig


def test_default_size() -> None:
    codec = SmallCodec()
    assert 1_000_000 < sum(p.numel() for p in codec.parameters()) < 2_000_000
    frames = torch.zeros(1, 12, 3, 128, 224)
    with torch.inference_mode():
        latents = codec.encode(frames)
        assert latents.shape == (1, 3, 16, 16, 28)
        assert codec.decode(latents).shape == frames.shape


def test_random_weights_keep_signals_in_range() -> None:
    torch.manual_seed(0)
    codec = SmallCodec()
    with torch.inference_mode():
        latents = codec.encode(torch.rand(1, 12, 3, 32, 32) * 2 - 1)
        frames = codec.decode(torch.randn(1, 3, 16, 4, 4))
    assert 0.2 < float(latents.std()) < 5
    assert 0.2 < float(frames.std()) < 5


def test_training_reduces_the_error_and_reaches_every_weight() -> None:
    torch.manual_seed(0)
    codec = SmallCodec(SmallCodecConfig(frame_width=8, group_width=16, fine_width=8))
    frames = (torch.rand(2, 8, 3, 1, 1) * 2 - 1).expand(2, 8, 3, 16, 16)
    optimizer = torch.optim.Adam(codec.parameters(), lr=3e-3)
    errors = []
    for _ in range(25):
        optimizer.zero_grad()
        error = (codec.decode(codec.encode(frames)) - frames).abs().mean()
        error.backward()
        if not errors:
            missing = [n for n, p in codec.named_parameters() if p.grad is None]
            assert not missing
        optimizer.step()
        errors.append(float(error.detach()))
    assert errors[-1] < 0.5 * errors[0]


def test_latent_statistics_normalize_and_cancel() -> None:
    torch.manual_seed(0)
    codec = SmallCodec().eval().requires_grad_(False)
    frames = torch.rand(1, 16, 3, 32, 32) * 2 - 1
    raw = codec.encode(frames)
    decoded = codec.decode(raw)
    codec.set_latent_statistics(raw.mean(dim=(0, 1, 3, 4)), raw.std(dim=(0, 1, 3, 4)))
    latents = codec.encode(frames)
    torch.testing.assert_close(latents.mean(dim=(0, 1, 3, 4)), torch.zeros(16), atol=1e-5, rtol=0)
    torch.testing.assert_close(latents.std(dim=(0, 1, 3, 4)), torch.ones(16), atol=1e-4, rtol=0)
    torch.testing.assert_close(codec.decode(latents), decoded, atol=1e-4, rtol=1e-4)
    assert {"latent_mean", "latent_std"} <= set(codec.state_dict())


@pytest.mark.parametrize(
    ("mean", "std"),
    [
        (torch.zeros(15), torch.ones(15)),
        (torch.zeros(16), torch.zeros(16)),
        (torch.full((16,), float("nan")), torch.ones(16)),
    ],
)
def test_latent_statistics_that_cannot_divide_are_refused(
    mean: torch.Tensor, std: torch.Tensor
) -> None:
    with pytest.raises(CodecError, match="latent"):
        SmallCodec().set_latent_statistics(mean, std)


def test_bad_sizes_are_refused() -> None:
    with pytest.raises(CodecError, match="group_width"):
        SmallCodecConfig(group_width=0)
    with pytest.raises(CodecError, match="latent_mean"):
        WanVAEConfig(latent_channels=4)
    with pytest.raises(CodecError, match="temporal_downsample"):
        WanVAEConfig(temporal_downsample=(True,))
    with pytest.raises(CodecError, match="positive"):
        WanVAEConfig(latent_std=(0.0,) * 16)
