# SPDX-License-Identifier: Apache-2.0
"""Stages by name, with the networks that each begins from."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch

from inspatio_ros.model.codec import VideoCodec
from inspatio_ros.model.config import ModelConfig
from inspatio_ros.model.transformer import CausalTransformer
from inspatio_ros.model.weights import (
    TRANSFORMER_FILE,
    read_tensors,
    without_prefixes,
)
from inspatio_ros.training.batches import Task
from inspatio_ros.training.control import ArticleFlow
from inspatio_ros.training.distillation import FAKES, JointDistillation
from inspatio_ros.training.distributed import Process
from inspatio_ros.training.objectives import CausalFlow, Objective
from inspatio_ros.training.options import Begin, TrainingError, TrainingOptions
from inspatio_ros.training.teacher import BidirectionalTransformer, TeacherFlow
from inspatio_ros.training.trainer import load_weights


def make_stage(
    config: ModelConfig,
    options: TrainingOptions,
    process: Process,
    *,
    start: Path | None = None,
    teachers: Mapping[Task, Path] | None = None,
    codec: VideoCodec | None = None,
) -> Objective:
    """The objective of `options.stage`, its networks on the CPU.

    start: weights that the model begins with, a file or a folder with `transformer.safetensors`;
    None is random ones that follow from the seed. teachers: weights by task, for `jdmd`. codec:
    the latents' own, for `article`. Raises TrainingError for what is missing or does not fit.
    """
    _check_given(options, start, teachers, codec)
    if options.stage == "teacher":
        teacher = BidirectionalTransformer(config)
        begin(teacher, start, options.seed, options.begin)
        return TeacherFlow(teacher, options, process)
    model = CausalTransformer(config)
    begin(model, start, options.seed, options.begin)
    if options.stage == "causal":
        return CausalFlow(model, options, process)
    if options.stage == "article":
        assert codec is not None
        return ArticleFlow(model, codec, options, process)
    assert teachers
    return JointDistillation(
        model, _scores(config, teachers), _scores(config, teachers), options, process)


def _check_given(
    options: TrainingOptions, start: Path | None, teachers: Mapping[Task, Path] | None,
    codec: VideoCodec | None,
) -> None:
    if options.stage == "article" and codec is None:
        raise TrainingError("stage article looks at pictures: give it the codec")
    if options.stage != "jdmd":
        return
    if set(teachers or ()) != set(FAKES):
        raise TrainingError("stage jdmd needs two teachers, for v2v and for t2v")
    if start is None:
        raise TrainingError("stage jdmd begins with a trained student: give its weights")


def _scores(
    config: ModelConfig, teachers: Mapping[Task, Path]
) -> dict[Task, BidirectionalTransformer]:
    networks: dict[Task, BidirectionalTransformer] = {}
    for task in FAKES:
        networks[task] = BidirectionalTransformer(config)
        begin(networks[task], teachers[task], 0)
    return networks


def begin(network: CausalTransformer, start: Path | None, seed: int, flow: Begin = "zero") -> None:
    """Give a network its first weights: those of `start`, or random ones with that flow."""
    if start is None:
        fresh(network, seed)
        if flow == "render":
            lead_to_render(network)
        return
    path = start / TRANSFORMER_FILE if start.is_dir() else start
    load_weights(network, without_prefixes(read_tensors(path)), path)


def fresh(network: CausalTransformer, seed: int) -> None:
    """Random weights that follow from a seed.

    Linear layers and modulations as PyTorch makes them; the head's output begins at zero flow, as
    is usual for diffusion transformers, and mask and render channels begin unseen.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        again = CausalTransformer(network.config)
        torch.nn.init.zeros_(again.head.head.weight)
    network.load_state_dict(again.state_dict())


@torch.no_grad()
def lead_to_render(network: CausalTransformer) -> None:
    """Let a fresh network's flow lead from the noise to the render, nearly.

    The first channels of a token become its noisy values, the next ones its rendered values, and
    the head takes one from the other: at pure noise the clean latents are then the render. What a
    classical fill knows need not be learnt, which is most of what a short training would learn.
    Raises TrainingError for a model without a render or too narrow for both.
    """
    config = network.config
    values = config.patch_values * config.latent_channels
    if not config.conditioned or config.dim < 2 * values:
        raise TrainingError(f"begin=render needs a conditioned model of width {2 * values} at "
                            f"least; {config.name} has {config.dim}")
    weight = network.patch_embedding.weight.flatten(1)  # columns: channel, row, column of a patch
    weight[:2 * values] = 0.0
    own = torch.arange(values)
    weight[own, own] = 1.0
    weight[values + own, (config.latent_channels + config.mask_channels) * config.patch_values
           + own] = 1.0
    network.patch_embedding.weight.copy_(weight.reshape(network.patch_embedding.weight.shape))
    # The head's output has the channel last within a patch.
    out = own.reshape(config.latent_channels, -1).t().flatten()
    head = network.head.head.weight
    head.zero_()
    head[own, out], head[own, values + out] = 1.0, -1.0
    for name, parameter in network.named_parameters():  # all layers begin with small gates
        if name.endswith("modulation") or name == "time_projection.1.weight":
            parameter.mul_(0.1)
