# SPDX-License-Identifier: Apache-2.0
"""What training costs, against PyTorch's own counter and autograd's own bytes."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from inspatio_ros.model.config import ModelConfig
from inspatio_ros.model.presets import INSPATIO_WORLD_1_3B
from inspatio_ros.model.transformer import CausalTransformer
from inspatio_ros.training.budget import budget, step_bytes, step_flops, table
from inspatio_ros.training.distributed import Process
from inspatio_ros.training.draws import Draw
from inspatio_ros.training.objectives import CausalFlow, Objective
from inspatio_ros.training.options import Stage, TrainingOptions
from inspatio_ros.training.teacher import BidirectionalTransformer, TeacherFlow
from inspatio_ros.training.trainer import prepare
from support.data import ROOT
from support.training import TOY, ToySource, toy_model

WIDE = replace(TOY, dim=96, ffn_dim=384, height=64, width=64, text_len=4, num_layers=3)


@pytest.mark.parametrize("stage", ["teacher", "causal"])
def test_operations_are_those_that_pytorch_counts(stage: Stage) -> None:
    options = TrainingOptions(stage=stage, precision="float32", predicted_history=0.0)
    objective: Objective  # written-out attention, because fused kernels are not counted on CPUs
    if stage == "teacher":
        objective = TeacherFlow(BidirectionalTransformer(WIDE, "math"), options, Process())
    else:
        objective = CausalFlow(CausalTransformer(WIDE, "math"), options, Process())
    batch = ToySource(size=2, blocks=3, tasks=("v2v",), config=WIDE).batch(0)
    with FlopCounterMode(display=False) as counter:
        objective.back_propagate("model", 0, batch, Draw((1,), 2), 1.0)
    expected = step_flops(WIDE, stage, clips=2, blocks=3, recompute=False, predicted=0.0)
    # the last layer gives the source nothing to hand back: a little less
    assert counter.get_total_flops() == pytest.approx(expected, rel=0.08)


def saved_bytes(config: ModelConfig, recompute: bool) -> int:
    options = TrainingOptions(precision="float32", predicted_history=0.0, recompute=recompute)
    network = toy_model(config)
    prepare(network, options, Process())
    objective = CausalFlow(network, options, Process())
    batch = ToySource(size=1, blocks=2, tasks=("v2v",), config=config).batch(0)
    weights = {p.data_ptr() for p in network.parameters()}
    held: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            held[storage.data_ptr()] = storage.nbytes()
        return tensor.detach()

    part = objective.samples(batch, Draw((1,), 1), None)[1]
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
        error = objective.error(part)
    assert error.requires_grad
    return sum(held.values())


def test_activations_are_about_what_autograd_keeps() -> None:
    """In float32 everything but the stream is twice as large as the formula's bfloat16."""
    for recompute, factor in ((True, 20 / 12), (False, 2.0)):
        parts = step_bytes(WIDE, "causal", processes=1, blocks=2, recompute=recompute)
        found = saved_bytes(WIDE, recompute)
        assert found == pytest.approx(factor * parts["activations"], rel=0.4)
    assert saved_bytes(WIDE, True) < 0.5 * saved_bytes(WIDE, False)


def test_a_plan_scales_as_it_must() -> None:
    def plan(stage: Stage, processes: int = 64, blocks: int = 7) -> float:
        return budget(INSPATIO_WORLD_1_3B, stage, processes=processes, clips=64, blocks=blocks,
                      flops_per_second=3e14).seconds

    assert plan("causal", 32) == pytest.approx(2 * plan("causal"))
    assert plan("jdmd") > 10 * plan("causal")
    assert plan("teacher", blocks=4) < plan("teacher") * 4 / 7
    eight, many = (step_bytes(INSPATIO_WORLD_1_3B, "jdmd", processes=n, blocks=7) for n in (8, 64))
    first = "masters, gradients, moments"
    assert eight[first] == pytest.approx(8 * many[first])


@pytest.mark.parametrize("processes", [8, 64])
def test_the_documents_have_the_table(processes: int) -> None:
    text = (ROOT / "docs" / "training.md").read_text()
    assert table(INSPATIO_WORLD_1_3B, processes=processes, clips=64, rate=320e12) in text
