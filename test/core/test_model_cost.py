# SPDX-License-Identifier: Apache-2.0
"""The operation and byte counts, against published figures and PyTorch's own counter."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from inspatio_ros.imagination.denoiser import BlockDenoiser
from inspatio_ros.model import cost
from inspatio_ros.model.config import ModelConfig
from inspatio_ros.model.presets import preset
from inspatio_ros.model.transformer import CausalTransformer

PUBLIC = preset("inspatio_world_1_3b")
TERA = 1e12


@pytest.mark.parametrize(
    ("queries", "keys", "linear", "self_attention", "cross", "text", "total"),
    [
        (4680, 14040, 11.70, 12.11, 0.44, 0.15, 24.41),
        (9360, 9360, 23.41, 16.15, 0.88, 0.15, 40.60),
    ],
)
def test_one_pass_of_the_public_model(
    queries: int, keys: int, linear: float, self_attention: float, cross: float, text: float,
    total: float,
) -> None:
    flops = cost.pass_flops(PUBLIC, queries, keys)
    parts = (flops.linear, flops.self_attention, flops.cross_attention, flops.text, flops.total)
    expected = (linear, self_attention, cross, text, total)
    for part, published in zip(parts, expected, strict=True):
        assert part / TERA == pytest.approx(published, abs=0.0051)


@pytest.mark.parametrize(
    ("config", "options", "published"),
    [
        (PUBLIC, {}, 138.3),
        (PUBLIC, {"context_groups": 1}, 97.9),
        (PUBLIC, {"steps": 3}, 113.8),
        (PUBLIC, {"steps": 2}, 89.4),
        (PUBLIC, {"steps": 1}, 65.0),
        (replace(PUBLIC, frames_per_block=1), {}, 32.2),
        (PUBLIC.with_size(352, 640), {}, 62.4),
        (PUBLIC.with_size(320, 576), {}, 48.2),
        (PUBLIC.with_size(240, 416), {}, 23.0),
    ],
)
def test_one_block_as_published(
    config: ModelConfig, options: dict[str, int], published: float
) -> None:
    flops = cost.block_flops(config, as_published=True, **options)  # type: ignore[arg-type]
    assert flops.total / TERA == pytest.approx(published, abs=0.06)


def test_what_is_not_computed_twice_is_saved() -> None:
    published = cost.block_flops(PUBLIC, as_published=True).total
    ours = cost.block_flops(PUBLIC).total
    # text in five passes 0.77, last context layer 1.3
    assert (published - ours) / TERA == pytest.approx(2.0, abs=0.1)
    apart = cost.block_flops(PUBLIC, candidates=8, as_published=True).total
    shared = cost.block_flops(PUBLIC, candidates=8).total
    assert apart / shared == pytest.approx(1.36, abs=0.02)


def test_bytes_of_the_public_model() -> None:
    assert cost.parameter_count(PUBLIC) == 1_419_119_680
    assert cost.weight_bytes(PUBLIC) / 1e9 == pytest.approx(2.84, abs=0.01)
    assert cost.cache_bytes_per_token(PUBLIC) == 184_320
    assert cost.cache_bytes(PUBLIC) / 1e9 == pytest.approx(2.59, abs=0.01)
    assert cost.activation_bytes(PUBLIC, 4680, 14040) / 1e9 == pytest.approx(21, abs=0.5)
    assert cost.activation_bytes(PUBLIC, 9360, 9360) / 1e9 == pytest.approx(39, abs=0.5)


def test_roofline_of_the_public_model() -> None:
    seconds = cost.block_flops(PUBLIC, as_published=True).total / 790e12
    assert cost.frames_per_second(PUBLIC, seconds) == pytest.approx(68.6, abs=0.1)


@pytest.mark.parametrize("name", ["inspatio_world_1_3b", "wan_t2v_1_3b", "tiny"])
def test_parameters_are_counted_right(name: str) -> None:
    with torch.device("meta"):
        model = CausalTransformer(preset(name))
    counted = cost.parameter_count(preset(name))
    assert counted == sum(p.numel() for p in model.parameters())
    assert model.nbytes == cost.weight_bytes(preset(name), element_size=4)


@pytest.mark.parametrize("text_len", [1, 6])
@pytest.mark.parametrize(("candidates", "history"), [(1, True), (1, False), (3, True)])
def test_pytorch_counts_the_same_operations(
    text_len: int, candidates: int, history: bool
) -> None:
    """A whole block on the meta device: every matrix product and attention is counted."""
    config = ModelConfig(
        dim=48, ffn_dim=80, num_heads=2, num_layers=3, freq_dim=8, text_dim=12, text_len=text_len,
        height=64, width=96,
    )
    with torch.device("meta"):
        model = CausalTransformer(config, attention="math")
    denoiser = BlockDenoiser(model)
    prompt = FlopCounterMode(display=False)
    with prompt:
        denoiser.set_prompt(None)
    assert prompt.get_total_flops() == cost.text_flops(config)
    denoiser.begin()

    def latents(batch: int, channels: int = 16) -> torch.Tensor:
        return torch.empty(batch, 3, channels, *config.latent_grid, device="meta")

    with FlopCounterMode(display=False) as counter:
        denoiser.block(
            latents(1),
            latents(1) if history else None,
            latents(candidates),
            latents(candidates, 4),
            noise=latents(candidates).expand(4, -1, -1, -1, -1, -1),
        )
    expected = cost.block_flops(
        config, candidates=candidates, context_groups=2 if history else 1
    )
    counted = counter.get_total_flops()
    # Reading one constant text token is per pass, not per query: below the formula's resolution.
    assert counted == pytest.approx(expected.total, rel=2e-3 if text_len == 1 else 1e-9)
