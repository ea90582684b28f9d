# SPDX-License-Identifier: Apache-2.0
"""Two processes: the loss curve of one, plain and sharded; the 1.3B's tables under FSDP2."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from inspatio_ros.training.distributed import Process
from inspatio_ros.training.options import TrainingError, TrainingOptions
from inspatio_ros.training.run_folder import RunFolder
from support import train_together
from support.data import ROOT


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs of two processes and of one, side by side."""
    folder = tmp_path_factory.mktemp("together")
    script = ROOT / "test" / "support" / "train_together.py"
    paths = os.pathsep.join([str(ROOT), str(ROOT / "test"), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2",
         str(script), str(folder)],
        env={**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"},
        capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    train_together.train(folder / "single", train_together.OPTIONS, Process())
    return folder


def losses(run: Path, kind: str) -> list[float]:
    key = "model/loss" if kind == "train" else "loss"
    return [line[key] for line in RunFolder(run).metrics() if line["kind"] == kind]


@pytest.mark.parametrize("kind", ["train", "validation"])
@pytest.mark.parametrize("run", ["plain", "sharded"])
def test_two_processes_give_the_loss_curve_of_one(together: Path, run: str, kind: str) -> None:
    expected, found = losses(together / "single", kind), losses(together / run, kind)
    assert len(found) == len(expected) == (4 if kind == "train" else 2)
    if kind == "train":
        assert found == pytest.approx(expected, rel=1e-3)
        assert max(expected) - min(expected) > 0.01
    else:  # each process draws other noise for the same batches
        assert found == pytest.approx(expected, rel=0.2)


@pytest.mark.parametrize("run", ["plain", "sharded"])
def test_checkpoints_are_whole_whatever_the_processes(together: Path, run: str) -> None:
    name = "checkpoints/step_00000004/{}.safetensors"
    for part in ("model", "model.average", "model.optimiser"):
        expected, found = (
            load_file(together / r / name.format(part)) for r in ("single", run))
        for key, value in expected.items():
            torch.testing.assert_close(found[key], value, rtol=1e-2, atol=2e-4)
        for key in found.keys() - expected.keys():  # FSDP gives unused weights zero gradients
            assert run == "sharded"
            assert key.endswith("|step") or not found[key].any()


def test_fsdp2_splits_the_full_tables_of_the_1_3b(together: Path) -> None:
    found = json.loads((together / "found.json").read_text())["meta"]
    assert found["tensors"] == 825
    assert found["values"] == 1_419_119_680
    assert found["own"] == pytest.approx(found["values"] / 2, rel=0.01)


def test_fsdp2_steps_its_narrow_twin(together: Path) -> None:
    loss, changed = json.loads((together / "found.json").read_text())["narrow"]
    assert 0.5 < loss < 10.0
    assert changed == 3
    assert (together / "narrow" / "model" / "transformer.safetensors").is_file()


def test_sharding_alone_or_compiled_is_refused() -> None:
    with pytest.raises(TrainingError, match="shard and compile"):
        replace(TrainingOptions(), shard=True, compile=True)
