# SPDX-License-Identifier: Apache-2.0
"""Stages by name, with the networks that each begins from."""

from __future__ import annotations

from pathlib import Path

import torch

from inspatio_ros.model.config import ModelConfig
from inspatio_ros.model.transformer import CausalTransformer
from inspatio_ros.model.weights import TRANSFORMER_FILE, read_tensors, without_prefixes
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
) -> Objective:
    """The objective of `options.stage`, its networks on the CPU.

    start: weights that the model begins with, a file or a folder with `transformer.safetensors`;
    None is random ones that follow from the seed. Raises TrainingError for weights that do not
    fit.
    """
    if options.stage == "teacher":
        teacher = BidirectionalTransformer(config)
        begin(teacher, start, options.seed)
        return TeacherFlow(teacher, options, process)
    model = CausalTransformer(config)
    begin(model, start, options.seed)
    if options.stage == "causal":
        return CausalFlow(model, options, process)
    raise TrainingError(f"no stage {options.stage}")


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
