# SPDX-License-Identifier: Apache-2.0
"""Run by torchrun: trains the toy in two processes, plain and sharded, into the given folder."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import torch

from inspatio_ros.model.presets import INSPATIO_WORLD_1_3B
from inspatio_ros.model.transformer import CausalTransformer
from inspatio_ros.training.distributed import Process, process, shard, whole
from inspatio_ros.training.objectives import CausalFlow
from inspatio_ros.training.options import TrainingOptions
from inspatio_ros.training.trainer import Trainer
from support.training import ToySource, toy_model

OPTIONS = TrainingOptions(
    steps=4, warm_up=2, log_every=1, validate_every=2, checkpoint_every=3, checkpoint_minutes=5,
    average=0.9, precision="float32", predicted_history=0.5, block_batch=3, accumulate=2)
SOURCE = ToySource(size=4, blocks=3)
# every layer, head, table and position of the 1.3B, at a fraction of its width and picture
NARROW = replace(INSPATIO_WORLD_1_3B, name="narrow", dim=48, ffn_dim=64, text_dim=32, text_len=4,
                 num_heads=4, height=32, width=32)


def train(run: Path, options: TrainingOptions, here: Process, until: int | None = None) -> None:
    objective = CausalFlow(toy_model(), options, here)
    Trainer(run, objective, SOURCE, options, here).train(until)


def meta_tables(here: Process) -> dict[str, int]:
    """The sizes of the 1.3B as FSDP2 splits it, without any of its numbers."""
    with torch.device("meta"):
        network = CausalTransformer(INSPATIO_WORLD_1_3B)
    shard(network, here, torch.bfloat16)
    parts = list(network.parameters())
    return {"tensors": len(parts), "values": sum(p.numel() for p in parts),
            "own": sum(p.to_local().numel() for p in parts)}  # type: ignore[attr-defined]


def narrow_step(here: Process) -> list[float]:
    """One sharded bfloat16 step, with recomputation, of the narrow twin of the 1.3B."""
    options = TrainingOptions(shard=True, recompute=True, predicted_history=0.0, seed=1)
    torch.manual_seed(0)
    objective = CausalFlow(CausalTransformer(NARROW), options, here)
    source = ToySource(size=2, blocks=2, tasks=("v2v",), config=NARROW)
    run = Trainer(Path(sys.argv[1]) / "narrow", objective, source, options, here)

    def head() -> list[float]:
        return [float(whole(p).sum()) for p in objective.model.head.parameters()]

    before = head()
    figures = run.train(until=1)
    after = head()
    return [figures["model/loss"], sum(a != b for a, b in zip(after, before, strict=True))]


def main() -> None:
    folder = Path(sys.argv[1])
    torch.set_num_threads(1)
    with process("cpu") as here:
        train(folder / "plain", OPTIONS, here)
        sharded = replace(OPTIONS, shard=True)
        train(folder / "sharded", sharded, here, until=3)
        train(folder / "sharded", sharded, here)
        found = {"meta": meta_tables(here), "narrow": narrow_step(here)}
        if here.first:
            (folder / "found.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main()
