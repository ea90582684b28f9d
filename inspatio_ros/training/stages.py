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
from inspatio_ros.training.options import TrainingError, TrainingOptions
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
        begin(teacher, start, options.seed)
        return TeacherFlow(teacher, options, process)
    model = CausalTransformer(config)
    begin(model, start, options.seed)
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


def begin(network: CausalTransformer, start: Path | None, seed: int) -> None:
    """Give a network its first weights."""
    if start is None:
        fresh(network, seed)
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
