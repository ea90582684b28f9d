# SPDX-License-Identifier: Apache-2.0
"""A small slice of the study of the scorer, and a dry run of its timings."""

from __future__ import annotations

import importlib
import json
import sys
from types import ModuleType

import numpy as np
import pytest

from support.data import ROOT


def load(name: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    monkeypatch.delitem(sys.modules, name, raising=False)
    return importlib.import_module(name)


@pytest.fixture
def study(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    return load("scorer_study", monkeypatch)


def test_in_known_streets_the_scorer_is_right(
    study: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    assert study.main(["--scenes", "4", "--movers", "told"]) == 0
    figures = json.loads(capsys.readouterr().out)["figures"]
    assert figures["scenes"] >= 3
    assert figures["best_in_first_two"] >= 0.75
    assert figures["pairs"] > 500
    assert figures["wrong_pairs"] <= 0.01
    assert figures["through_unseen"] > 20
    assert figures["unseen_marked"] == 1.0
    assert figures["chosen_collides"] == 0.0


def test_what_moves_is_found_where_it_is(study: ModuleType) -> None:
    scene = study.make_scene(10)
    situation, _ = study.approach(scene, "seen")
    (found,) = situation.moving_boxes()
    true = study._mover(scene.world.objects[scene.moving[0]])
    place = found.world_from_box[:2, 3] - true.world_from_box[:2, 3]
    assert np.linalg.norm(place) < 0.5
    assert np.abs(np.subtract(found.velocity, true.velocity)).max() < 0.3
    assert 0.4 < found.size[0] < 1.8


def test_the_truth_knows_a_collision(study: ModuleType) -> None:
    scene = study.make_scene(0)
    into_the_end = study.Candidate.from_navsim(
        "a", np.stack([10.0 * np.arange(1, 9), np.zeros(8), np.zeros(8)], 1), np.eye(4))
    assert study.true_score(scene, into_the_end, study.CAR.sides) == (0.0, True)
    standing = study.Candidate.from_navsim("b", np.zeros((8, 3)), np.eye(4))
    value, hit = study.true_score(scene, standing, study.CAR.sides)
    assert not hit
    assert 0 < value < 1


def test_timings_print_their_figures(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    scoring = load("scoring", monkeypatch)
    assert scoring.main(["--parts", "geometry,overrun", "--repeats", "1", "--calls", "2"]) == 0
    content = json.loads(capsys.readouterr().out)
    assert content["geometry"]["equal_one_by_one"] is True
    assert content["geometry"]["total_ms"]["p50"] > 0
    assert content["overrun"]["calls"] == 2
    assert "shared" not in content
