# SPDX-License-Identifier: Apache-2.0
"""benchmarks/gpu.py: its logic, and a dry run on the CPU."""

from __future__ import annotations

import importlib
import json
import re
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest
import torch

from inspatio_ros.model.presets import preset
from support.data import ROOT


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    monkeypatch.delitem(sys.modules, "gpu", raising=False)
    return importlib.import_module("gpu")


def test_without_a_gpu_it_says_so_and_fails(
    gpu: ModuleType, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert gpu.main([]) != 0
    assert "no CUDA device" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--stages", "dit,dream"], "unknown stages \\['dream'\\]"),
        (["--stages", ""], "unknown stages"),
        (["--repeats", "0"], "must be positive"),
        (["--budget", "-1"], "must be positive"),
        (["--candidates", "0,2"], "must be positive"),
        (["--candidates", "two"], "invalid literal"),
        (["--device", "abacus"], "abacus"),
        (["--reference", "/nonexistent"], "has no wan/modules/causal_model.py"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(
    gpu: ModuleType, arguments: list[str], reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        gpu.parse(arguments)
    assert re.search(reason, capsys.readouterr().err)


def test_the_defaults_are_the_true_size_in_sixteen_bit(gpu: ModuleType) -> None:
    options = gpu.parse([])
    assert options.dtype == torch.bfloat16
    assert options.compile
    assert not options.tiny
    assert options.stages == tuple(gpu.STAGES)
    dry = gpu.parse(["--device", "cpu", "--tiny", "--candidates", "1,3"])
    assert dry.dtype == torch.float32
    assert not dry.compile
    assert dry.candidates == (1, 3)


def test_variants_take_turns(gpu: ModuleType) -> None:
    order: list[str] = []
    works = {"a": lambda: order.append("a"), "b": lambda: order.append("b")}

    def watch(work: object) -> float:
        assert callable(work)
        work()
        return float(len(order))

    times = gpu.in_turns(works, watch, 3)
    assert order == ["a", "b"] * 3
    assert times == {"a": [1.0, 3.0, 5.0], "b": [2.0, 4.0, 6.0]}


def test_summaries_and_ratios(gpu: ModuleType) -> None:
    found = gpu.summary([float(value) for value in range(1, 12)])
    assert found == {"median_ms": 6.0, "p10_ms": 2.0, "p90_ms": 10.0, "runs": 11}
    assert gpu.summary([3.0]) == {"median_ms": 3.0, "runs": 1}
    times = {
        "ours eager cudnn": [100.0], "ours eager cudnn again": [102.0], "ours graph": [80.0],
        "reference eager default": [200.0], "reference compiled cudnn": [120.0],
    }
    assert gpu.noise_floor(times) == 0.02
    assert gpu.noise_floor({"one": [1.0]}) is None
    assert gpu.ratios(times) == {
        "against reference eager default": 2.5,
        "against reference compiled cudnn": 1.5,
        "against the fastest reference": 1.5,
        "eager against eager": 2.0,
    }
    assert gpu.ratios({"ours": [1.0]}) == {}
    ones = torch.ones(8)
    assert gpu.relative_error(ones * 1.01, ones) == pytest.approx(0.01, rel=1e-4)


def test_the_budget_runs_down(gpu: ModuleType) -> None:
    now = [100.0]
    budget = gpu.Budget(60.0, clock=lambda: now[0])
    assert budget.left == 60.0
    now[0] += 45.0
    assert budget.left == 15.0


def test_every_part_is_written_at_once(gpu: ModuleType, tmp_path: Path) -> None:
    path = tmp_path / "gpu.json"
    report = gpu.Report(path)
    report.put(dit=[1])
    assert json.loads(path.read_text())["dit"] == [1]
    report.skip("codec", "no time")
    written = json.loads(path.read_text())
    assert written["dit"] == [1]
    assert written["skipped"] == [{"what": "codec", "reason": "no time"}]
    assert "speed and numerics only" in written["note"]


def test_a_variant_that_fails_is_listed_with_its_reason(gpu: ModuleType, tmp_path: Path) -> None:
    options = gpu.parse(["--device", "cpu", "--tiny"])
    report = gpu.Report(tmp_path / "gpu.json")
    bench = gpu.Bench(options, report, gpu.Budget(10.0))

    def broken() -> None:
        raise RuntimeError("no such kernel")

    assert bench.warmed("broken", broken) is None
    assert report.content["skipped"] == [
        {"what": "broken", "reason": "RuntimeError: no such kernel"}
    ]


def test_a_stage_without_time_is_skipped(gpu: ModuleType) -> None:
    options = gpu.parse(["--device", "cpu", "--tiny", "--budget", "1e-9", "--stages", "dit"])
    report = gpu.run(options)
    assert [part["what"] for part in report.content["skipped"]] == ["dit"]
    assert "dit" not in report.content


def test_a_dry_run_on_the_cpu_fills_the_report(
    gpu: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    small = replace(preset("tiny"), num_layers=1, height=64, width=96)
    monkeypatch.setattr(gpu, "preset", lambda name: small)
    path = tmp_path / "gpu.json"
    quick = ["--repeats", "1", "--warm-ups", "1", "--candidates", "2"]
    assert gpu.main(["--device", "cpu", "--tiny", *quick, "--out", str(path)]) == 0
    found = json.loads(path.read_text())
    assert json.loads(capsys.readouterr().out) == found
    assert found["skipped"] == []
    assert {"machine", "ceilings", "attn", "dit", "noise_floor", "ratios", "first_block_ms",
            "codec", "render", "batch", "pipeline"} <= set(found)
    assert {row["variant"] for row in found["dit"]} == {
        "ours eager sdpa", "ours eager sdpa again"
    }
    assert found["pipeline"]["fps"] > 0
    assert found["batch"][0]["candidates"] == 2
    assert found["attn"][0]["median_ms"] > 0
