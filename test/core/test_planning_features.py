# SPDX-License-Identifier: Apache-2.0
"""Features for a learned scorer: arrays, file, embedding, and the worked example."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path

import numpy as np
import pytest

from inspatio_ros.imagination.engine import ImaginationEngine
from inspatio_ros.imagination.filler import GeometricFiller
from inspatio_ros.model.weights import load_small_codec
from inspatio_ros.planning.features import CandidateFeatures, candidate_features, view_embedding
from inspatio_ros.planning.imagining import CandidateViews
from inspatio_ros.planning.scores import CandidateScorer
from inspatio_ros.planning.terms import TERMS
from support.corridor import CART, OPTIONS, ahead, blocked_corridor, situation
from support.data import ROOT


@pytest.fixture(scope="module")
def made() -> CandidateFeatures:
    codec = load_small_codec(ROOT / "weights/inspatio_tiny/codec.safetensors").eval()
    scorer = CandidateScorer(CART, OPTIONS,
                             CandidateViews(ImaginationEngine(GeometricFiller()), 4))
    views: dict = {}
    scorer.on_views = lambda m: views.update({m.candidate.id: m.frames})
    candidates = [ahead("slow", 0.3), ahead("into", 1.2), ahead("right", 1.2, -1.5)]
    ranking = scorer.rank(candidates, situation(blocked_corridor()), imagine=2)
    features = candidate_features(candidates, ranking, views, codec)
    again = view_embedding(views["slow"], codec)
    np.testing.assert_array_equal(features.embedding[0], again)
    return features


def test_features_say_what_the_scores_say(made: CandidateFeatures) -> None:
    assert made.ids == ("slow", "into", "right")
    assert made.poses.shape == (3, 8, 3)
    assert made.poses[2, -1, 0] == pytest.approx(4.8, abs=1e-5)
    assert made.terms[1, TERMS.index("no_collision")] == 0.0
    assert np.argmax(made.score) == 2
    # Two were imagined; the one that hits the box was not.
    assert np.isfinite(made.embedding[[0, 2]]).all()
    assert np.isnan(made.embedding[1]).all()
    assert np.abs(made.embedding[0] - made.embedding[2]).max() > 0.01


def test_the_file_gives_back_what_was_written(made: CandidateFeatures, tmp_path: Path) -> None:
    made.write(tmp_path / "f.npz")
    read = CandidateFeatures.read(tmp_path / "f.npz")
    for name, value in vars(made).items():
        np.testing.assert_array_equal(getattr(read, name), value)
    np.savez(tmp_path / "other.npz", ids=np.array(["a"]))
    with pytest.raises(ValueError, match=r"other\.npz"):
        CandidateFeatures.read(tmp_path / "other.npz")


def test_arrays_of_other_lengths_are_refused(made: CandidateFeatures) -> None:
    with pytest.raises(ValueError, match="terms"):
        CandidateFeatures(made.ids, made.poses, made.terms[:2], made.uncertainty,
                          made.unknown_ratio, made.score, made.embedding)


def test_the_worked_example_learns_on_counterfactual_recordings(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    monkeypatch.delitem(sys.modules, "learned_scorer", raising=False)
    learned = importlib.import_module("learned_scorer")
    assert learned.main(["--rooms", "2", "--held-out-rooms", "1", "--seconds", "5", "--every", "6",
                         "--candidates", "7", "--features", str(tmp_path)]) == 0
    content = json.loads(capsys.readouterr().out)
    figures = content["mean_distance_to_label_m"]
    assert content["moments"]["held_out"] >= 1
    assert figures["best_of_fan"] <= min(figures.values()) + 1e-9
    assert figures["learnt_terms_poses"] < figures["chance"]
    files = sorted(tmp_path.glob("train_*.npz"))
    assert len(files) == content["moments"]["train"]
    assert np.isfinite(CandidateFeatures.read(files[0]).embedding).all()
