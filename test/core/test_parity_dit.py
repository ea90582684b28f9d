# SPDX-License-Identifier: Apache-2.0
"""Transformer, schedule and mask packing against tensors made by the reference's own modules."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from inspatio_ros.imagination.conditioning import condition_channels, pack_mask
from inspatio_ros.imagination.denoiser import BlockDenoiser
from inspatio_ros.model.config import ModelConfig
from inspatio_ros.model.layers import sinusoid
from inspatio_ros.model.presets import preset
from inspatio_ros.model.rope import angles, rotate
from inspatio_ros.model.schedule import FlowSchedule
from inspatio_ros.model.transformer import CausalTransformer
from support.fixtures import ParityFixture, parity_fixture, parity_fixture_path

TOLERANCE = 1e-5


def close(ours: Tensor, theirs: Tensor, tolerance: float = TOLERANCE) -> None:
    assert ours.shape == theirs.shape
    difference = (ours.double() - theirs.double()).abs().max()
    assert difference <= tolerance, f"largest difference {float(difference):.2e}"


class Piece:
    """One piece of the fixture, as torch tensors."""

    def __init__(self, fixture: ParityFixture, name: str) -> None:
        self._fixture, self._name = fixture, name
        if not fixture.names(f"{name}/"):
            pytest.skip(f"the fixture has no piece '{name}'")
        self.about = json.loads(fixture.metadata[name])

    def __getitem__(self, key: str) -> Tensor:
        return torch.from_numpy(np.array(self._fixture[f"{self._name}/{key}"]))

    def keys(self, prefix: str) -> list[str]:
        start = len(self._name) + 1
        return [name[start:] for name in self._fixture.names(f"{self._name}/{prefix}")]


@dataclass
class Dit:
    """The small transformer of the fixture with its weights."""

    piece: Piece
    model: CausalTransformer
    grid: tuple[int, int]
    blocks: int

    @property
    def config(self) -> ModelConfig:
        return self.model.config

    def span(self, block: int) -> slice:
        frames = self.config.frames_per_block
        return slice(block * frames, (block + 1) * frames)


@pytest.fixture(scope="module", params=["as loaded", "fused"])
def dit(request: pytest.FixtureRequest) -> Dit:
    piece = Piece(parity_fixture(), "dit")
    h, w = piece.about["latent_grid"]
    blocks = len(piece.keys("out/block")) // len(piece.keys("out/block0/"))
    frames = piece["out/block0/prediction"].shape[1]
    stride = ModelConfig().spatial_stride
    config = ModelConfig.from_reference(
        piece.about["config"],
        height=h * stride,
        width=w * stride,
        frames_per_block=frames,
    )
    model = CausalTransformer(config)
    weights = {key.removeprefix("state/"): piece[key] for key in piece.keys("state/")}
    model.load_state_dict(weights, strict=True)
    model.eval()
    if request.param == "fused":
        model.prepare_for_inference()
    return Dit(piece, model, (h, w), blocks)


def listed_steps(timesteps: Tensor, config: ModelConfig) -> list[int]:
    """The listed steps that the schedule warps to these timesteps: its formula, inverted."""
    level = timesteps.double() / config.train_timesteps
    shift = config.timestep_shift
    even = level / (shift - (shift - 1) * level)
    listed: list[int] = (even * config.train_timesteps).round().int().tolist()
    return listed


@torch.inference_mode()
def test_dit_parity_rope(dit: Dit) -> None:
    h, w = dit.grid
    frames = dit.config.frames_per_block
    for name, positions in (
        (f"context_{frames}f", range(frames)),
        (f"context_{2 * frames}f", range(2 * frames)),
        (f"denoise_{frames}f", range(2 * frames, 3 * frames)),
    ):
        table = angles(dit.config, positions, (h, w), torch.device("cpu"))
        close(table.cos(), dit.piece[f"out/rope/{name}_cos"], 1e-12)
        close(table.sin(), dit.piece[f"out/rope/{name}_sin"], 1e-12)
    tables = dit.model.rope_tables(dit.grid)
    kept = tables.block[0].squeeze(1)
    assert kept.dtype == torch.float32
    close(kept, dit.piece[f"out/rope/denoise_{frames}f_cos"], 1e-7)
    close(
        rotate(dit.piece["in/rope_q"], tables.block), dit.piece["out/rope_q_rotated"], TOLERANCE
    )


def test_dit_parity_time_features(dit: Dit) -> None:
    features = sinusoid(dit.piece["in/timesteps"], dit.config.freq_dim)
    close(features, dit.piece["out/time_features"], 1e-9)


@torch.inference_mode()
def test_dit_parity_passes(dit: Dit) -> None:
    """Context keys and values, and the flow of every step from the reference's own x_t."""
    denoiser = BlockDenoiser(dit.model)
    denoiser.set_prompt(dit.piece["in/text"])
    denoiser.begin(dit.grid)
    channels = dit.config.latent_channels
    for block in range(dit.blocks):
        shown = dit.piece[f"in/block{block}/context"]
        assert shown[:, :, channels:].abs().max() == 0.0
        clean = shown[:, :, :channels]
        reference = clean[:, : dit.config.frames_per_block]
        history = clean[:, dit.config.frames_per_block :] if block else None
        denoiser.encode_context(reference, history)
        assert denoiser.cache is not None
        for layer in range(dit.config.num_layers):
            keys, values = denoiser.cache.context(layer)
            close(keys, dit.piece[f"out/block{block}/context_k"][layer])
            close(values, dit.piece[f"out/block{block}/context_v"][layer])
        condition = dit.piece[f"in/block{block}/condition"]
        rope, cache, text = denoiser._ready()
        steps = dit.piece[f"out/block{block}/t"]
        for step in range(len(steps)):
            timestep = steps[step].flatten()[:1]
            noisy = dit.piece[f"out/block{block}/x_t"][step]
            modulation = dit.model.modulation(timestep)
            flow = dit.model.predict_flow(noisy, condition, rope.block, modulation, text, cache)
            close(flow, dit.piece[f"out/block{block}/flow"][step])
            clean = denoiser.schedule.clean_from_flow(flow, noisy, timestep)
            close(clean, dit.piece[f"out/block{block}/x0"][step])


@torch.inference_mode()
def test_dit_parity_noise_levels(dit: Dit) -> None:
    """x_t of every step from the reference's own x0 and draws."""
    schedule = FlowSchedule.of(dit.config)
    timesteps = dit.piece["in/timesteps"].tolist()
    close(torch.tensor(schedule.sigma_of(timesteps)), torch.tensor(dit.piece.about["step_sigmas"]))
    for block in range(dit.blocks):
        clean = dit.piece[f"out/block{block}/x0"]
        for step in range(1, len(clean)):
            noise = dit.piece[f"in/block{block}/renoise"][step - 1].reshape(clean[0].shape)
            timestep = dit.piece[f"out/block{block}/t"][step].flatten()[:1]
            noisy = schedule.add_noise(clean[step - 1], noise, timestep)
            close(noisy, dit.piece[f"out/block{block}/x_t"][step])


@torch.inference_mode()
def test_dit_parity_rollout(dit: Dit) -> None:
    """All blocks from start to end, each with our own previous prediction as history."""
    timesteps = dit.piece["in/timesteps"]
    denoiser = BlockDenoiser(dit.model, listed_steps(timesteps, dit.config))
    assert denoiser.timesteps == pytest.approx(timesteps.tolist(), abs=1e-4)
    denoiser.set_prompt(dit.piece["in/text"])
    denoiser.begin(dit.grid)
    history = None
    for block in range(dit.blocks):
        frames = dit.span(block)
        mask, render = dit.piece["in/mask"][:, frames], dit.piece["in/render"][:, frames]
        close(
            condition_channels(mask, render), dit.piece[f"in/block{block}/condition"], tolerance=0
        )
        start = dit.piece["in/noise"][:, frames]
        draws = dit.piece[f"in/block{block}/renoise"].reshape(-1, *start.shape)
        history = denoiser.block(
            dit.piece["in/ref"][:, frames],
            history,
            render,
            mask,
            noise=torch.cat([start[None], draws]),
        )
        close(history, dit.piece[f"out/block{block}/prediction"])
    assert denoiser.counters.text_projections >= 1


def test_scheduler_parity() -> None:
    piece = Piece(parity_fixture(), "scheduler")
    schedule = FlowSchedule(piece.about["shift"], piece.about["steps"])
    close(schedule.sigmas, piece["out/sigmas"], 1e-6)
    close(schedule.timesteps / schedule.steps, piece["out/timesteps"] / schedule.steps, 1e-6)
    close(schedule.training_weights(), piece["out/train_weights"], 1e-6)
    warped = torch.tensor(schedule.warp(piece.about["listed"]))
    close(warped / schedule.steps, piece["out/warped"] / schedule.steps, 1e-6)
    clean, noise, t = piece["in/x0"], piece["in/eps"], piece["in/t"]
    noisy = schedule.add_noise(clean, noise, t)
    close(noisy, piece["out/add_noise"], 1e-6)
    close(schedule.flow_from_clean(clean, noisy, t), piece["out/flow_from_x0"], 1e-6)
    close(schedule.step(noise, clean, t), piece["out/step"], 1e-6)
    close(schedule.clean_from_flow(piece["out/flow_from_x0"], noisy, t), clean, 1e-5)


def test_mask_parity() -> None:
    piece = Piece(parity_fixture(), "mask")
    video = piece["in/video"][:, 0]
    packed = piece["out/latent"]
    config = ModelConfig(height=video.shape[2], width=video.shape[3])
    assert torch.equal(pack_mask(video, config, first=True), packed)


def key_tables() -> dict[str, dict[str, list[int]]]:
    candidates = (
        parity_fixture_path().with_name("reference_state_dict_keys.json"),
        Path(__file__).resolve().parents[3] / "shared/fixtures/reference_state_dict_keys.json",
    )
    for path in candidates:
        if path.is_file():
            return {name: table["shapes"] for name, table in json.loads(path.read_text()).items()}
    pytest.skip(f"no table of the public keys at {candidates[0]}")


def test_state_parity_of_the_public_model() -> None:
    """All 825 keys and shapes of the public checkpoint, and those of the plain base model."""
    tables = key_tables()
    table = next(shapes for name, shapes in tables.items() if "patch_embedding.weight" in shapes)
    with torch.device("meta"):
        ours = CausalTransformer(preset("inspatio_world_1_3b"))
        plain = CausalTransformer(preset("wan_t2v_1_3b"))
    assert {name: list(t.shape) for name, t in ours.state_dict().items()} == table
    base = dict(table)
    base["patch_embedding.weight"] = [*table["patch_embedding.weight"]]
    base["patch_embedding.weight"][1] = preset("wan_t2v_1_3b").latent_channels
    assert {name: list(t.shape) for name, t in plain.state_dict().items()} == base
