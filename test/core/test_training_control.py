# SPDX-License-Identifier: Apache-2.0
"""The control loss: pixels of misregistration against the guide."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from inspatio_ros.model.small_codec import SmallCodec, SmallCodecConfig
from inspatio_ros.training.control import ArticleFlow, deviation, known_pixels
from inspatio_ros.training.distributed import Process
from inspatio_ros.training.draws import Draw
from inspatio_ros.training.options import TrainingError, TrainingOptions
from inspatio_ros.training.trainer import Trainer
from support.training import TOY, ToySource, toy_model

SIZE = 64
CONFIG = replace(TOY, codec="small_codec")


def pictures(dx: float | Tensor = 0.0, dy: float = 0.0) -> Tensor:
    """Smooth texture `[1, 1, 3, 64, 64]` moved by dx, dy pixels."""
    y, x = torch.meshgrid(torch.arange(SIZE) - dy, torch.arange(SIZE) + 0.0, indexing="ij")
    x = x - dx
    waves = (torch.sin(0.31 * x + 0.17 * y) + torch.sin(0.11 * x - 0.37 * y + 1)
             + torch.sin(0.23 * y + 0.05 * x))
    return (waves / 3).expand(1, 1, 3, SIZE, SIZE)


EVERYWHERE = torch.ones(1, 1, 1, SIZE, SIZE)


def test_the_same_picture_does_not_deviate() -> None:
    assert deviation(pictures(), pictures(), EVERYWHERE).abs().max() < 1e-4


@settings(max_examples=20, deadline=None)
@given(st.floats(-1.5, 1.5), st.floats(-1.5, 1.5))
def test_a_shift_is_measured_in_pixels(dx: float, dy: float) -> None:
    length = (dx**2 + dy**2) ** 0.5
    found = float(deviation(pictures(dx, dy), pictures(), EVERYWHERE, residual=0.0))
    assert found == pytest.approx((length**2 + 0.01) ** 0.5 - 0.1, abs=0.1 + 0.15 * length)


def test_brightness_and_what_lies_in_holes_is_no_deviation() -> None:
    known = EVERYWHERE.clone()
    known[..., 24:44, 24:44] = 0.0
    spoiled = pictures().clone()
    spoiled[..., 24:44, 24:44] = 1.0
    assert deviation(spoiled, pictures(), known).abs().max() < 1e-4
    assert deviation(spoiled, pictures(), EVERYWHERE) > 0.1
    assert deviation(spoiled, pictures(), torch.zeros_like(known)) == 0.0


def test_its_gradient_leads_back_to_the_commanded_view() -> None:
    offset = torch.tensor(1.5, requires_grad=True)
    optimiser = torch.optim.Adam([offset], lr=0.1)
    for _ in range(60):
        optimiser.zero_grad()
        torch.autograd.backward(deviation(pictures(offset), pictures(), EVERYWHERE).sum())
        optimiser.step()
    assert abs(float(offset.detach())) < 0.1


def test_known_pixels_of_packed_masks() -> None:
    codec = SmallCodec(SmallCodecConfig(latent_channels=4))
    mask = torch.full((1, 3, 4, 2, 2), -1.0)
    mask[0, 1, 2, 0, 1] = 1.0
    mask[0, 0, 0, 1, 1] = 0.5  # partly known is not known
    known = known_pixels(mask, codec)
    assert known.shape == (1, 12, 1, 16, 16)
    assert known[0, 6, 0, :8, 8:].all()
    assert known.sum() == 64
    codec.first_frames = 1
    assert known_pixels(mask, codec).shape == (1, 9, 1, 16, 16)


def objective(weight: float) -> ArticleFlow:
    torch.manual_seed(0)
    codec = SmallCodec(SmallCodecConfig(
        latent_channels=4, frame_width=8, group_width=8, encoder_frame_blocks=1,
        encoder_group_blocks=1, decoder_group_blocks=1, decoder_frame_blocks=1, fine_width=4))
    options = TrainingOptions(
        stage="article", control_weight=weight, precision="float32", steps=80, warm_up=1,
        learning_rate=3e-3, full_noise=0.0, checkpoint_every=0, validate_every=0, average=0.0)
    return ArticleFlow(toy_model(CONFIG), codec, options, Process())


def test_it_counts_on_renders_only_and_with_its_weight() -> None:
    batch = ToySource(size=1).batch(0)
    figures, slopes = [], []
    for weight in (0.0, 2.0):
        stage = objective(weight)
        figures.append(stage.back_propagate("model", 0, batch, Draw((1,), 1), 1.0))
        slopes.append(stage.model.head.head.weight.grad)
    assert figures[0]["loss_flow"] == figures[1]["loss_flow"] == figures[0]["loss"]
    assert figures[1]["loss_control"] > 0.01
    torch.testing.assert_close(
        figures[1]["loss"], figures[1]["loss_flow"] + 2 * figures[1]["loss_control"])
    assert not torch.allclose(slopes[0], slopes[1])
    assert "loss_control" not in stage.back_propagate(
        "model", 0, ToySource(size=1).batch(1), Draw((1,), 1), 1.0)
    wrong = SmallCodec()
    wrong.name = "other"
    with pytest.raises(TrainingError, match="made for the codec small_codec, got other"):
        ArticleFlow(toy_model(CONFIG), wrong, stage.options, Process())


def test_it_trains(tmp_path: Path) -> None:
    stage = objective(5.0)
    source = ToySource(size=1, blocks=1, tasks=("v2v",), clips=1)
    batch, draw = source.batch(0), Draw((1,), 1)
    before = stage.back_propagate("model", 0, batch, draw, 1.0)["loss_control"]
    Trainer(tmp_path, stage, source, stage.options).train()
    after = stage.back_propagate("model", 0, batch, Draw((1,), 1), 1.0)["loss_control"]
    assert after < 0.8 * before
