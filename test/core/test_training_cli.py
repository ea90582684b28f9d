# SPDX-License-Identifier: Apache-2.0
"""`inspatio train stage` from latents on disk to a student that was distilled."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from inspatio_ros.cli.main import main
from inspatio_ros.model.presets import TINY
from inspatio_ros.model.weights import load_generator
from inspatio_ros.training.clips import ClipInfo
from inspatio_ros.training.latents import LATENT_FORMAT

CALM = ["--warm-up", "1", "--batch-size", "1", "--steps", "1", "--device", "cpu"]


@pytest.fixture
def latents(tmp_path: Path) -> Path:
    """Small pictures' latents of both tasks, one clip of each held out."""
    infos, tensors = [], {}
    for index in range(4):
        task = "v2v" if index % 2 else "t2v"
        infos.append(ClipInfo(task, "noise", f"r{index}", "CC0-1.0", held_out=index > 1))
        parts = ("target", "source", "render", "mask") if task == "v2v" else ("target",)
        for name in parts:
            channels = TINY.mask_channels if name == "mask" else TINY.latent_channels
            tensors[f"{index:06d}.{name}"] = torch.randn(2, 3, channels, 4, 4)
    path = tmp_path / "latents.safetensors"
    said = {"format": LATENT_FORMAT, "clips": json.dumps([asdict(info) for info in infos])}
    save_file(tensors, path, metadata=said)
    return path


def test_the_stages_one_after_the_other(latents: Path, tmp_path: Path) -> None:
    def stage(name: str, *words: str) -> int:
        return main(["train", "stage", "--run", str(tmp_path / name), "--data", str(latents),
                     "--stage", name, *CALM, *words])

    assert stage("teacher", "--validate-every", "1") == 0
    teacher = str(tmp_path / "teacher" / "model")
    assert stage("causal", "--start", teacher, "--no-history") == 0
    student = str(tmp_path / "causal" / "model")
    assert stage("jdmd", "--start", student, "--teacher-v2v", teacher, "--teacher-t2v", teacher,
                 "--critic-ratio", "1") == 0
    made = load_generator(tmp_path / "jdmd" / "model" / "transformer.safetensors", TINY)
    assert made.config == TINY
    lines = (tmp_path / "teacher" / "metrics.jsonl").read_text().splitlines()
    checked = json.loads(lines[-1])
    assert checked["kind"] == "validation"
    assert {"loss", "v2v/loss", "t2v/loss", "noise/loss"} <= checked.keys()


def test_what_cannot_be_is_one_line(
    latents: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    start = ["train", "stage", "--run", str(tmp_path / "run"), "--data", str(latents), *CALM]
    for words, reason in (
        (["--stage", "jdmd"], "needs two teachers"),
        (["--stage", "article"], "give it the codec"),
        (["--learning-rate", "0"], "learning_rate must be more than zero"),
        (["--start", str(tmp_path)], "no such file"),
    ):
        assert main([*start, *words]) == 1
        error = capsys.readouterr().err
        assert reason in error
        assert error.count("\n") == 1
    assert main(["train", "budget", "--processes", "2"]) == 0
    assert "| `teacher` | 7 |" in capsys.readouterr().out
