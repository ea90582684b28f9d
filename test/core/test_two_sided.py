# SPDX-License-Identifier: Apache-2.0
"""Looks against motion: clips for judging, figures of looks, fronts, correlations, the picture."""

from __future__ import annotations

import math
from dataclasses import replace
from xml.etree import ElementTree

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from inspatio_ros.cli.finetune import correlations_of, write_study
from inspatio_ros.evaluation.appearance import AppearanceScores, sharpness
from inspatio_ros.evaluation.dynamics import dynamic_accuracy
from inspatio_ros.evaluation.trade_off import Panel, correlation, pareto, pareto_svg
from inspatio_ros.evaluation.two_sided import (
    JudgedScene,
    SceneOptions,
    imagine_scene,
    judge,
    recorded_scenes,
    world_scene,
)
from inspatio_ros.imagination.engine import ImaginationEngine
from inspatio_ros.imagination.filler import GeometricFiller

SMALL = SceneOptions(width=112, height=64, frames=6, seen=3, starts=4)


@pytest.fixture(scope="module")
def scene() -> JudgedScene:
    return world_scene("street", 1_000_100, SMALL)


def test_a_clip_begins_with_what_was_seen_last(scene: JudgedScene) -> None:
    assert (len(scene.truth), len(scene.seen)) == (7, 3)
    last = scene.seen[-1]
    np.testing.assert_array_equal(last.image, scene.truth.images[0])
    np.testing.assert_array_equal(last.world_from_camera, scene.truth.world_from_camera[0])
    assert last.stamp_ns == pytest.approx(scene.truth.times[0] * 1e9, abs=1)
    assert any(thing.moving for thing in scene.truth.objects)
    again = world_scene("street", 1_000_100, SMALL)
    np.testing.assert_array_equal(again.truth.images, scene.truth.images)
    with pytest.raises(ValueError, match="'moon' is no world; there are street, room"):
        world_scene("moon", 0, SMALL)


def test_geometry_alone_keeps_looks_and_freezes_motion(scene: JudgedScene) -> None:
    engine = ImaginationEngine(GeometricFiller())
    floors = {}
    result = judge(engine, [scene], floors=floors)
    assert list(floors) == [scene.truth.name]
    assert result.domain == "street"
    imagined = imagine_scene(engine, scene)
    assert len(imagined) == 6
    assert result.appearance["psnr"] == pytest.approx(AppearanceScores().add(
        scene.truth, imagined)["psnr"])
    # What moves is drawn where it was last seen; what stands, where it is.
    assert result.dynamics.static["iou"] > result.dynamics.moving["iou"]
    assert result.appearance["psnr_moving"] < result.appearance["psnr_static"]
    assert result.floor.moving["iou"] > result.dynamics.moving["iou"]
    assert result.as_json()["appearance"]["fvd"] is None  # type: ignore[index]
    assert set(result.missing) == {"fid", "fvd"}


def test_clips_of_two_domains_are_not_judged_together(scene: JudgedScene) -> None:
    with pytest.raises(ValueError, match=r"\['room', 'street'\]"):
        judge(ImaginationEngine(GeometricFiller()), [scene, replace(scene, domain="room")])


def test_a_recording_gives_clips_without_things(scene: JudgedScene) -> None:
    frames = list(scene.seen) * 4
    clips = list(recorded_scenes("walk", frames, SMALL, 3))
    assert [clip.truth.name for clip in clips] == ["walk 0", "walk 2", "walk 3"]
    assert all(len(clip.truth) == 7 and clip.truth.objects == () for clip in clips)
    report = dynamic_accuracy(clips[0].truth, list(clips[0].truth.images[1:]))
    assert report.objects == ()
    with pytest.raises(ValueError, match="walk: 3 frames; one clip takes 9"):
        list(recorded_scenes("walk", frames[:3], SMALL, 1))


def test_figures_of_looks_tell_blur_and_noise_apart(scene: JudgedScene) -> None:
    truth = scene.truth
    rng = np.random.default_rng(0)
    exact = list(truth.images[1:])
    blurred = [cv2.GaussianBlur(image, (0, 0), 1.5) for image in exact]
    noisy = [np.clip(image + rng.normal(0, 20, image.shape), 0, 255).astype(np.uint8)
             for image in exact]
    scores = {}
    for name, images in (("exact", exact), ("blurred", blurred), ("noisy", noisy)):
        looks = AppearanceScores()
        looks.add(truth, images)
        scores[name] = looks.figures()
    assert scores["exact"]["psnr"] == math.inf
    assert scores["exact"]["sharpness"] == pytest.approx(1.0)
    assert scores["exact"]["spectrum_distance"] == 0.0
    assert scores["blurred"]["sharpness"] < 0.7
    assert scores["noisy"]["sharpness"] > 1.3
    for name in ("blurred", "noisy"):
        assert scores[name]["ssim"] < 0.95
        assert scores[name]["spectrum_distance"] > 0.2
    assert sharpness(np.full((8, 8, 3), 7, np.uint8)) == 0.0


# --- fronts and correlations ---------------------------------------------------------------------

POINTS = st.lists(st.tuples(st.integers(-5, 5), st.integers(-5, 5)), min_size=1, max_size=12)


@given(points=POINTS)
def test_front_is_what_none_beats_and_beats_the_rest(points: list[tuple[float, float]]) -> None:
    front = pareto(points)
    assert front

    def beats(a: tuple[float, float], b: tuple[float, float]) -> bool:
        return a[0] >= b[0] and a[1] >= b[1] and a != b

    for i, point in enumerate(points):
        beaten = any(beats(other, point) for other in points)
        assert (i in front) != beaten
    chosen = [points[i] for i in front]
    assert [x for x, _ in chosen] == sorted(x for x, _ in chosen)
    assert [y for _, y in chosen] == sorted((y for _, y in chosen), reverse=True)


def test_what_is_no_number_is_on_no_front() -> None:
    assert pareto([(1.0, math.nan), (0.5, 0.5)]) == [1]
    assert pareto([(math.nan, math.nan)]) == []


def test_correlation_by_hand() -> None:
    up = correlation([1, 2, 3, 4], [10, 20, 25, 90])
    assert (up.pairs, up.spearman) == (4, 1.0)
    assert up.pearson == pytest.approx(np.corrcoef([1, 2, 3, 4], [10, 20, 25, 90])[0, 1])
    assert correlation([1, 2, 3], [3, 2, 1]).pearson == pytest.approx(-1.0)
    assert correlation([1, 2, math.nan, 3], [3, 2, 9, 1]).pairs == 3
    assert math.isnan(correlation([1, 2], [1, 2]).pearson)
    assert math.isnan(correlation([1, 1, 1], [1, 2, 3]).pearson)
    with pytest.raises(ValueError, match="2 values against 1"):
        correlation([1, 2], [1])


def side(psnr: float | None, score: float | None, clips: list[tuple[float, float]]) -> dict:
    looks = {"psnr": psnr, "psnr_moving": psnr, "ssim": 0.5, "sharpness": 1.0,
             "spectrum_distance": None if psnr is None else -psnr}
    means = dict.fromkeys(("iou", "survival", "center_error_px", "center_error_m", "track_ate_m",
                           "motion_ratio", "heading_error"), score) | {"objects": 3.0}
    motion = {"moving": means, "static": means, "score": score,
              "background": {"false_motion_px": 0.1}}
    return {"a": {"appearance": looks, "dynamics": motion, "floor": motion | {"score": 0.9},
                  "missing": {"fid": "no network"},
                  "clips": [{"scene": "s", "appearance": looks | {"psnr": x}, "dynamics": y}
                            for x, y in clips]}}


def test_correlations_of_a_study_ignore_that_clips_are_unequally_hard() -> None:
    # Over runs looks rise while motion falls; of the clips one is harder on both sides.
    results = {str(run): side(20.0 + run, 0.8 - 0.1 * run,
                              [(20.0 + run, 0.8 - 0.1 * run), (10.0 + run, 0.4 - 0.1 * run)])
               for run in range(3)}
    found = correlations_of(results, "a")
    assert found["psnr"]["runs"].pearson == pytest.approx(-1.0)
    assert found["psnr"]["clips"].pairs == 6
    assert found["psnr"]["clips"].pearson == pytest.approx(-1.0)
    assert found["spectrum_distance"]["runs"].pearson == pytest.approx(-1.0)
    assert math.isnan(found["ssim"]["runs"].pearson)  # does not vary


def test_the_report_says_what_could_not_be_compared(tmp_path) -> None:  # type: ignore[no-untyped-def]
    results = {run: {"digest": "", "domains": side(20.0, None, [])} for run in ("before", "0")}
    write_study(tmp_path, {"domain": "a"}, results)
    report = (tmp_path / "report.md").read_text()
    assert "no moving thing was judged" in report
    assert "no FID: no network" in report
    assert "nothing to compare" in (tmp_path / "pareto.svg").read_text()


def test_the_picture_places_better_points_higher_and_further_right() -> None:
    panel = Panel("A & B", {"worse": (20.0, 0.2), "better": (25.0, 0.6)}, limit=0.9)
    root = ElementTree.fromstring(pareto_svg([panel, Panel("none", {})], "x", "y", "note"))
    space = "{http://www.w3.org/2000/svg}"
    worse, better = root.findall(f".//{space}circle")
    assert float(better.get("cx", "")) > float(worse.get("cx", ""))
    assert float(better.get("cy", "")) < float(worse.get("cy", ""))
    assert worse.get("fill") != better.get("fill")
    texts = [text.text for text in root.iter(f"{space}text")]
    assert {"A & B", "worse", "better", "true frames", "nothing to compare", "note"} <= set(texts)
    with pytest.raises(ValueError, match="no panel"):
        pareto_svg([], "x", "y")
