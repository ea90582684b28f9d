# SPDX-License-Identifier: Apache-2.0
"""Guide pictures and masks as tensors, and the counts of frames."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from inspatio_ros.imagination.blocks import BlockPlan
from inspatio_ros.imagination.conditioning import (
    condition_channels,
    context_frames,
    guide_tensors,
    pack_mask,
    pad_tail,
    padded_frames,
)
from inspatio_ros.model.config import ModelError
from inspatio_ros.model.presets import preset

WAN, TINY = preset("inspatio_world_1_3b"), preset("tiny")


def test_unknown_pixels_are_black_and_the_mask_is_plus_or_minus_one() -> None:
    image = np.full((4, 6, 3), 255, np.uint8)
    image[0] = 0
    known = np.ones((4, 6), bool)
    known[3] = False
    render, mask = guide_tensors([image, image], [known, ~known])
    assert render.shape == (1, 2, 3, 4, 6)
    assert mask.shape == (1, 2, 4, 6)
    assert render[0, 0, :, 1].eq(1.0).all()
    assert render[0, 0, :, 0].eq(-1.0).all()
    assert render[0, 0, :, 3].eq(-1.0).all()
    assert render[0, 1, :, 1].eq(-1.0).all()
    assert torch.equal(mask[0, 0], torch.from_numpy(known).float() * 2 - 1)
    assert torch.equal(mask[0, 1], -mask[0, 0])


def test_guides_and_masks_must_belong_together() -> None:
    image, known = np.zeros((4, 6, 3), np.uint8), np.ones((4, 6), bool)
    with pytest.raises(ModelError, match="0 guide pictures, 0 masks"):
        guide_tensors([], [])
    with pytest.raises(ModelError, match="1 guide pictures, 2 masks"):
        guide_tensors([image], [known, known])
    with pytest.raises(ModelError, match="mask 0 is uint8"):
        guide_tensors([image], [known.astype(np.uint8)])
    with pytest.raises(ModelError, match=r"bool \[4, 5\], expected bool \[4, 6\]"):
        guide_tensors([image], [known[:, :5]])


def test_four_frames_become_the_channels_of_one_latent_frame() -> None:
    levels = torch.linspace(-1, 1, 12)
    mask = levels[None, :, None, None].expand(1, 12, 64, 96)
    packed = pack_mask(mask, TINY, first=True)
    assert packed.shape == (1, 3, 4, 8, 12)
    torch.testing.assert_close(packed[0, :, :, 0, 0].flatten(), levels)
    assert torch.equal(pack_mask(mask, WAN, first=False), packed)


def test_a_lone_first_frame_fills_its_group() -> None:
    levels = torch.linspace(-1, 1, 9)
    packed = pack_mask(levels[None, :, None, None].expand(1, 9, 64, 96), WAN, first=True)
    expected = torch.cat([levels[:1].expand(4), levels[1:]])
    torch.testing.assert_close(packed[0, :, :, 0, 0].flatten(), expected)


@pytest.mark.parametrize(
    ("shape", "first", "reason"),
    [
        ((1, 0, 64, 96), True, "T >= 1"),
        ((4, 64, 96), True, r"\[B, T, H, W\]"),
        ((1, 10, 64, 96), True, r"whole groups of 4 \(1 in the first\); pad the tail"),
        ((1, 9, 64, 96), False, "whole groups of 4; pad"),
        ((1, 9, 60, 96), True, "96x60 pixels do not divide"),
    ],
)
def test_masks_that_do_not_fit_are_refused(
    shape: tuple[int, ...], first: bool, reason: str
) -> None:
    with pytest.raises(ModelError, match=reason):
        pack_mask(torch.zeros(shape), WAN, first)


def test_channels_and_context_are_in_the_public_order() -> None:
    mask, render = torch.full((1, 3, 4, 2, 2), 4.0), torch.full((1, 3, 16, 2, 2), 16.0)
    both = condition_channels(mask, render)
    assert both.shape == (1, 3, 20, 2, 2)
    assert both[0, 0, :, 0, 0].tolist() == [4.0] * 4 + [16.0] * 16
    reference, history = torch.zeros(1, 3, 16, 2, 2), torch.ones(1, 3, 16, 2, 2)
    frames, group = context_frames(reference, history)
    assert frames is not None
    assert frames[0, :, 0, 0, 0].tolist() == [0, 0, 0, 1, 1, 1]
    assert group == 0
    assert context_frames(None, history) == (history, 1)
    assert context_frames(reference, None) == (reference, 0)
    assert context_frames(None, None)[0] is None


@given(st.integers(1, 400), st.sampled_from([WAN, TINY]))
def test_padding_makes_whole_blocks_and_loses_no_frame(frames: int, config: object) -> None:
    assert config in (WAN, TINY)
    model = WAN if config == WAN else TINY
    padded = padded_frames(model, frames)
    plan = list(BlockPlan(frames, model.block_frames, model.first_block_frames))
    assert len(plan) == model.blocks_for(frames)
    assert sum(span.frames for span in plan) == frames
    assert sum(span.padded for span in plan) == padded
    assert padded - frames < model.block_frames
    assert model.latent_frames(padded) == model.blocks_for(frames) * model.frames_per_block


def test_the_tail_repeats_the_last_frame() -> None:
    frames = torch.arange(3.0)[None, :, None]
    assert pad_tail(frames, 5).flatten().tolist() == [0, 1, 2, 2, 2]
    assert pad_tail(frames, 3) is frames
    with pytest.raises(ModelError, match="pad 0 frames"):
        pad_tail(frames[:, :0], 3)
    with pytest.raises(ModelError, match="pad 3 frames to 2"):
        pad_tail(frames, 2)
    with pytest.raises(ModelError, match="zero frames"):
        padded_frames(WAN, 0)
