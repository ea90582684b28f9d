# SPDX-License-Identifier: Apache-2.0
"""Candidates judged at a moment of a recording: situations, the fan, and `inspatio score`."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from inspatio_ros.cli.main import main
from inspatio_ros.geometry import rigid
from inspatio_ros.planning.candidates import fan, write_navsim
from inspatio_ros.planning.recorded_situation import base_below
from support.driven import write_drive


@pytest.fixture(scope="module")
def drive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_drive(tmp_path_factory.mktemp("drive") / "bag", seconds=3.0)


@pytest.mark.parametrize("world", [np.eye(4), rigid.OPTICAL_FROM_BODY])
def test_the_base_lies_upright_below_its_camera(world: np.ndarray) -> None:
    body = rigid.from_euler(0.05, 0.3, 0.7, (2.0, 1.0, 1.6))
    base = rigid.invert(world) @ base_below(world @ body @ rigid.BODY_FROM_OPTICAL, 1.6)
    if world is not rigid.OPTICAL_FROM_BODY:
        np.testing.assert_allclose(base, rigid.from_euler(0, 0, 0.7, (2.0, 1.0, 0.0)), atol=0.03)
    else:  # nothing says what is upright but the camera
        np.testing.assert_allclose(base[:3, 2], body[:3, 2], atol=1e-9)
        np.testing.assert_allclose(base[:3, 3], body[:3, 3] - 1.6 * body[:3, 2], atol=1e-9)


def test_a_fan_is_symmetric_and_named_by_its_ways() -> None:
    made = fan(np.eye(4), 9, 2.0)
    assert len({c.id for c in made}) == 9
    ends = np.stack([c.world_from_base[-1, :2, 3] for c in made])
    np.testing.assert_allclose(ends[:5, 1], -ends[4::-1, 1], atol=1e-9)
    np.testing.assert_allclose(ends[2], (8.0, 0.0), atol=1e-9)
    lengths = [np.linalg.norm(np.diff(c.world_from_base[:, :3, 3], axis=0), axis=1).sum()
               for c in made]
    np.testing.assert_allclose(lengths[:5], 8.0, rtol=2e-3)
    np.testing.assert_allclose(lengths[5:], 4.0, rtol=2e-3)
    assert len(fan(np.eye(4), 1, 1.0)) == 1


def test_inspatio_score_judges_a_fan_and_a_file(
    drive: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    arguments = ["score", str(drive), "--radius", "6", "--speed", "0.4", "--at", "2.5",
                 "--width", "96"]
    assert main([*arguments, "--fan", "6", "--imagine", "1", "--out", str(tmp_path)]) == 0
    scores = json.loads((tmp_path / "scores.json").read_text())
    assert len(scores["scores"]) == 6
    best = next(s for s in scores["scores"] if s["id"] == scores["best_id"])
    assert best["frames_imagined"] == 12
    assert 0 < best["terms"]["future_consistency"] <= 1
    picture = cv2.imread(str(tmp_path / "map.png"))
    assert picture.shape == (800, 800, 3)
    assert len(np.unique(picture.reshape(-1, 3), axis=0)) > 10
    out = capsys.readouterr().out
    assert f"best: {scores['best_id']}" in out
    # The candidates that were written are the same ones, read again; one is spoilt.
    content = json.loads((tmp_path / "candidates.json").read_text())
    content["candidates"][0]["poses"][1][0] = float("nan")
    (tmp_path / "again.json").write_text(json.dumps(content))
    assert main([*arguments, "--candidates", str(tmp_path / "again.json"), "--out",
                 str(tmp_path / "again")]) == 0
    again = json.loads((tmp_path / "again" / "scores.json").read_text())["scores"]
    assert again[0]["state"] == "FAILED"
    for before, after in zip(scores["scores"][1:], again[1:], strict=True):
        assert after["terms"]["progress"] == pytest.approx(before["terms"]["progress"], abs=1e-5)


def test_inspatio_score_says_what_is_wrong(
    drive: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    assert main(["score", str(tmp_path / "none")]) == 1
    assert "none" in capsys.readouterr().err
    write_navsim(tmp_path / "no.json", [])
    short = ["--radius", "6", "--at", "0"]
    assert main(["score", str(drive), *short, "--candidates", str(tmp_path / "no.json")]) == 1
    assert "no candidate" in capsys.readouterr().err
    assert main(["score", str(drive), *short, "--speed", "0"]) == 1
    assert "positive" in capsys.readouterr().err
