# SPDX-License-Identifier: Apache-2.0
"""Sizes, positions and counts that follow from one description of a model."""

from __future__ import annotations

import json
from dataclasses import FrozenInstanceError, replace

import pytest

from inspatio_ros.model.config import ModelConfig, ModelError
from inspatio_ros.model.cost import parameter_count
from inspatio_ros.model.presets import PRESETS, preset
from inspatio_ros.model.small_codec import SmallCodec

PUBLIC = preset("inspatio_world_1_3b")


def test_the_public_model_has_the_published_numbers() -> None:
    assert PUBLIC.latent_grid == (60, 104)
    assert PUBLIC.tokens_per_frame() == 1560
    assert PUBLIC.block_tokens() == 4680
    assert PUBLIC.context_tokens() == 9360
    assert PUBLIC.cache_tokens() == 14040
    assert (PUBLIC.in_dim, PUBLIC.mask_channels, PUBLIC.head_dim) == (36, 4, 128)
    assert [list(PUBLIC.group_positions(g)) for g in range(3)] == [[0, 1, 2], [3, 4, 5], [6, 7, 8]]
    assert PUBLIC.positions == 9
    assert (PUBLIC.first_block_frames, PUBLIC.block_frames) == (9, 12)
    assert preset("wan_t2v_1_3b").in_dim == 16


@pytest.mark.parametrize(
    ("frames", "latents", "blocks"),
    [
        (0, 0, 0), (1, 1, 1), (4, 1, 1), (5, 2, 1), (9, 3, 1), (10, 3, 2), (117, 30, 10),
        (121, 31, 11),
    ],
)
def test_frame_counts_of_a_codec_with_a_lone_first_frame(
    frames: int, latents: int, blocks: int
) -> None:
    assert PUBLIC.latent_frames(frames) == latents
    assert PUBLIC.blocks_for(frames) == blocks


def test_positions_and_counts_follow_the_block_layout() -> None:
    config = replace(PUBLIC, frames_per_block=2, context_groups=3)
    assert list(config.group_positions(3)) == [6, 7]
    assert config.cache_tokens() == 4 * 2 * 1560
    with pytest.raises(ModelError, match="no group 4"):
        config.group_positions(4)


def test_the_small_model_fits_its_codec_and_its_budget() -> None:
    tiny = preset("tiny")
    codec = SmallCodec()
    assert tiny.codec == codec.name
    assert tiny.latent_channels == codec.latent_channels
    assert (tiny.spatial_stride, tiny.temporal_stride) == (
        codec.spatial_stride,
        codec.temporal_stride,
    )
    assert tiny.first_frames == codec.first_frames
    for frames in (1, 4, 5, 12, 13, 24):
        assert tiny.latent_frames(frames) == codec.latent_frames(frames)
        assert tiny.pixel_frames(frames) == codec.pixel_frames(frames)
    assert tiny.height >= 120
    assert tiny.width >= 208
    total = parameter_count(tiny) + sum(p.numel() for p in codec.parameters())
    assert total <= 10_000_000
    assert replace(preset("tiny_random"), name="tiny", finished=False) == tiny


def test_the_description_is_frozen_and_survives_json() -> None:
    for config in PRESETS.values():
        assert ModelConfig.from_json(config.to_json()) == config
    with pytest.raises(FrozenInstanceError):
        PUBLIC.dim = 3  # type: ignore[misc]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{", "no JSON"),
        ("[]", "JSON object"),
        (json.dumps({"width_of_heads": 3}), "unknown names: width_of_heads"),
        (json.dumps({"dim": 1535}), "dim 1535"),
    ],
)
def test_an_unreadable_description_says_why(text: str, reason: str) -> None:
    with pytest.raises(ModelError, match=reason):
        ModelConfig.from_json(text)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"dim": 0}, "dim must be a positive integer"),
        ({"num_heads": 7}, "times an even number"),
        ({"freq_dim": 7}, "freq_dim must be even"),
        ({"patch_size": (2, 2, 2)}, "patch_size"),
        ({"first_frames": 5}, "first_frames 5 exceeds"),
        ({"denoising_steps": ()}, "denoising_steps must be 1 to 8"),
        ({"denoising_steps": (500, 750)}, "must fall"),
        ({"denoising_steps": (1001,)}, "numbers from 1 to 1000"),
        ({"height": 472}, "use 832x464"),
        ({"width": 8}, "use 16x480"),
    ],
)
def test_numbers_that_do_not_fit_together_are_refused(
    changes: dict[str, object], reason: str
) -> None:
    with pytest.raises(ModelError, match=reason):
        replace(PUBLIC, **changes)  # type: ignore[arg-type]


def test_a_wan_style_description_is_understood() -> None:
    values = {
        "model_type": "t2v", "dim": 1536, "eps": 1e-6, "ffn_dim": 8960, "freq_dim": 256,
        "in_dim": 16, "num_heads": 12, "num_layers": 30, "out_dim": 16, "text_len": 512,
    }
    assert ModelConfig.from_reference(values, name="wan_t2v_1_3b") == preset("wan_t2v_1_3b")
    assert ModelConfig.from_reference({**values, "in_dim": 36}) == PUBLIC
    with pytest.raises(ModelError, match="in_dim 33 is neither"):
        ModelConfig.from_reference({**values, "in_dim": 33})
    with pytest.raises(ModelError, match="lacks dim"):
        ModelConfig.from_reference({name: v for name, v in values.items() if name != "dim"})


def test_an_unknown_preset_names_the_others() -> None:
    with pytest.raises(ModelError, match="'huge'; there are inspatio_world_1_3b"):
        preset("huge")


def test_a_grid_that_does_not_divide_is_refused() -> None:
    with pytest.raises(ModelError, match="latent grid of 59x104"):
        PUBLIC.token_grid((59, 104))
