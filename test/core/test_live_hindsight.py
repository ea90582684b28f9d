# SPDX-License-Identifier: Apache-2.0
"""Hindsight while driving: which real picture a view is compared with, and what scores say."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inspatio_ros.evaluation.calibration import ErrorCalibration, color_error, prior_error
from inspatio_ros.evaluation.live_hindsight import (
    ERROR,
    OK,
    WARN,
    ImaginedView,
    JudgeOptions,
    LiveHindsight,
    LiveOptions,
    LiveScore,
    RealView,
    RecentScores,
    as_seen_by,
)
from inspatio_ros.evaluation.metrics import psnr
from inspatio_ros.geometry import rigid
from inspatio_ros.geometry.camera import PinholeCamera
from inspatio_ros.sensing.observation import Provenance
from inspatio_ros.worlds.room import room

S = 1_000_000_000
START = 100 * S
CAMERA = PinholeCamera(32, 20, 30.0, 30.0, 15.5, 9.5)
DEPTH = 3.0


def pose(x: float) -> np.ndarray:
    return rigid.from_rotation(np.eye(3), (x, 0.0, 0.0))


def picture(number: int, camera: PinholeCamera = CAMERA) -> np.ndarray:
    rng = np.random.default_rng(number)
    return rng.integers(0, 255, (camera.height, camera.width, 3)).astype(np.uint8)


def view(x: float, *, ahead: float = 1.0, stamp: int = START, source: int = START,
         image: np.ndarray | None = None) -> ImaginedView:
    provenance = np.full((CAMERA.height, CAMERA.width), int(Provenance.OBSERVED), np.uint8)
    provenance[:, 20:] = int(Provenance.MEMORY)
    provenance[:5] = int(Provenance.IMAGINED)
    return ImaginedView(stamp, source, ahead, picture(0) if image is None else image, provenance,
                        CAMERA, pose(x), DEPTH)


def real(seconds: float, x: float, number: int = 1) -> RealView:
    return RealView(START + round(seconds * S), picture(number), CAMERA, pose(x))


def live(**options: object) -> LiveHindsight:
    return LiveHindsight(LiveOptions(**options), ErrorCalibration(minimum=4))  # type: ignore[arg-type]


def test_the_picture_nearest_to_the_pose_is_compared() -> None:
    hindsight = live()
    hindsight.imagined(view(1.0))
    # 30 px * 0.1 m / 3 m is one pixel: 0.75 to 1.25 m lie within the two that are allowed.
    drive = [(0.5, 0.5), (0.8, 0.85), (1.0, 1.02), (1.2, 1.18), (1.4, 1.4)]
    made = [c for i, (t, x) in enumerate(drive) for c in hindsight.seen(real(t, x, i + 1))]
    (comparison,) = made
    score = comparison.score
    assert score.stamp_ns == START + S
    assert score.frame_stamp_ns == score.source_stamp_ns == START
    assert score.horizon == pytest.approx(1.0)
    assert score.distance == pytest.approx(0.2, abs=1e-6)
    np.testing.assert_array_equal(comparison.truth, picture(3))
    assert score.psnr_all == pytest.approx(psnr(picture(0), picture(3)))
    assert hindsight.waiting == 0


def test_measures_by_label() -> None:
    hindsight = live()
    wanted = view(1.0)
    hindsight.imagined(wanted)
    hindsight.seen(real(1.0, 1.0, 7))
    (comparison,) = hindsight.seen(real(1.1, 2.0))
    score, truth = comparison.score, picture(7)
    for label, value in ((Provenance.OBSERVED, score.psnr_observed),
                         (Provenance.MEMORY, score.psnr_memory),
                         (Provenance.IMAGINED, score.psnr_imagined)):
        assert value == pytest.approx(psnr(wanted.image, truth, wanted.provenance == label))
    assert score.psnr_covered == pytest.approx(
        psnr(wanted.image, truth, wanted.provenance >= Provenance.MEMORY))
    assert score.coverage == pytest.approx(0.75)
    assert score.error == pytest.approx(color_error(wanted.image, truth))
    observed, memory, imagined = 0.75 * 20 / 32, 0.75 * 12 / 32, 0.25
    assert score.predicted_error == pytest.approx(
        float(prior_error(observed, memory, imagined, 1.0)))


def test_a_view_is_not_compared_with_what_it_was_imagined_from() -> None:
    hindsight = live()
    hindsight.imagined(view(0.0, ahead=0.0))
    assert hindsight.seen(real(0.0, 0.0)) == []
    assert hindsight.seen(real(0.04, 0.0)) == []
    hindsight.seen(real(0.1, 0.0, 5))
    (comparison,) = hindsight.seen(real(0.2, 1.0))
    assert comparison.score.stamp_ns == START + S // 10


def test_a_camera_that_stays_is_not_waited_for() -> None:
    hindsight = live()
    hindsight.imagined(view(1.0))
    made = [c for i in range(12) for c in hindsight.seen(real(1.0 + 0.1 * i, 1.0, i + 1))]
    (comparison,) = made
    # All are equally near: the first counts.
    assert comparison.score.stamp_ns == START + S


def test_a_pose_never_reached_is_given_up_and_counted() -> None:
    hindsight = live(patience=1.0)
    hindsight.imagined(view(5.0, ahead=1.0))
    assert hindsight.seen(real(1.9, 0.0)) == []
    assert hindsight.waiting == 1
    assert hindsight.seen(real(2.1, 0.0)) == []
    assert hindsight.waiting == 0
    assert hindsight.dropped["not_reached"] == 1


def test_another_direction_is_another_view() -> None:
    hindsight = live()
    hindsight.imagined(view(1.0))
    turned = replace(real(1.0, 1.0), world_from_camera=pose(1.0) @ rigid.from_euler(0, 0.2, 0))
    assert hindsight.seen(turned) == []
    assert hindsight.waiting == 1


def test_the_buffer_is_bounded_and_every_view_is_accounted_for() -> None:
    hindsight = live(per_horizon=3, interval=0.0)
    for i in range(10):
        hindsight.imagined(view(5.0, ahead=1.0, stamp=START + i))
    hindsight.imagined(view(5.0, ahead=4.0))
    assert hindsight.waiting == 4
    assert hindsight.dropped["buffer_full"] == 7


def test_views_that_crowd_one_horizon_are_refused_and_counted() -> None:
    hindsight = live(interval=0.5)
    assert hindsight.wants(START, START, 1.0)
    hindsight.imagined(view(1.0))
    assert not hindsight.wants(START + S // 10, START, 1.1)
    assert hindsight.wants(START + S // 10, START, 4.2)  # another horizon
    assert hindsight.wants(START + S, START, 1.0)
    assert hindsight.wants(START - 10 * S, START, 1.0)  # the publisher's clock was set back
    assert not hindsight.wants(START + S, 0, 1.0)  # imagined from memory alone
    assert hindsight.dropped == {"crowded": 1, "no_source": 1}


@settings(max_examples=60, deadline=None)
@given(events=st.lists(st.tuples(st.booleans(), st.floats(0, 6), st.floats(-1, 1)), max_size=60),
       capacity=st.integers(1, 4))
def test_nothing_is_lost_without_a_count(events: list[tuple[bool, float, float]],
                                         capacity: int) -> None:
    hindsight = live(per_horizon=capacity, interval=0.0, patience=0.2)
    taken = compared = 0
    now = 0.0
    for is_view, ahead, x in events:
        now += 0.1
        if is_view:
            stamp = START + round(now * S)
            hindsight.imagined(view(x, ahead=ahead, stamp=stamp, source=stamp))
            taken += 1
        else:
            made = hindsight.seen(real(now, x))
            assert all(c.score.distance <= 2.0 for c in made)
            compared += len(made)
        assert hindsight.waiting <= capacity * len(hindsight.options.horizons)
    assert taken == compared + hindsight.waiting + hindsight.dropped.total()
    hindsight.clear()
    assert hindsight.waiting == 0


def test_expected_error_comes_from_earlier_scores_alone() -> None:
    hindsight = live(interval=0.0)
    scores = []
    for i in range(8):
        stamp = START + 10 * i * S
        hindsight.imagined(view(1.0, stamp=stamp, source=stamp))
        hindsight.seen(real(10 * i + 1, 1.0, i + 1))
        scores += [c.score for c in hindsight.seen(real(10 * i + 2, 9.0))]
    assert len(scores) == 8
    assert all(math.isnan(s.expected_error) for s in scores[:4])
    for i in range(4, 8):
        earlier = float(np.mean([s.error for s in scores[:i]]))
        assert scores[i].expected_error == pytest.approx(earlier)


def test_pictures_of_another_size_are_fitted_as_the_node_does() -> None:
    big = PinholeCamera(640, 480, 500.0, 500.0, 319.5, 239.5)
    small, (x, y, w, h) = big.fitted(160, 90)
    flat = np.zeros((480, 640, 3), np.uint8)
    flat[y:y + h, x:x + w] = 200
    seen, reached = as_seen_by(flat, big, small)
    assert seen.shape == (90, 160, 3)
    assert reached.all()
    assert (seen == 200).all()


def test_another_camera_sees_the_same_world() -> None:
    """Two cameras at one place: the picture of one turned into the other is the other's."""
    world = room(0, moving=False)
    wide = PinholeCamera(320, 240, 150.0, 150.0, 159.5, 119.5)
    narrow = PinholeCamera(120, 120, 140.0, 140.0, 49.0, 70.0)
    mount = rigid.from_rotation(np.eye(3), (0.1, 0.0, 0.9)) @ rigid.BODY_FROM_OPTICAL
    place = world.drive(0.4, np.array([1.0]))[0] @ mount
    truth = world.render(narrow, place, 1.0, samples=2).image
    seen, reached = as_seen_by(world.render(wide, place, 1.0, samples=2).image, wide, narrow)
    assert reached.all()
    assert psnr(seen, truth, reached) > 24
    back, covered = as_seen_by(truth, narrow, wide)
    assert 0.05 < covered.mean() < 0.4
    assert psnr(back, world.render(wide, place, 1.0, samples=2).image, covered) > 20


def test_a_view_of_another_size_than_its_camera_is_refused() -> None:
    with pytest.raises(ValueError, match="32x20"):
        ImaginedView(0, 0, 0.0, np.zeros((5, 5, 3), np.uint8), np.zeros((20, 32), np.uint8),
                     CAMERA, pose(0), 1.0)


def test_the_source_picture_in_the_views_place() -> None:
    """Whether the source was seen before the view came, or comes after it."""
    hindsight = live()
    for late in (False, True):
        hindsight.clear()
        if not late:
            hindsight.seen(real(0.01, 0.0, 21))
        hindsight.imagined(view(1.0))
        if late:
            hindsight.seen(real(0.01, 0.0, 21))
        hindsight.seen(real(0.05, 0.0, 22))  # less near to the source's instant
        hindsight.seen(real(1.0, 1.0, 7))
        (comparison,) = hindsight.seen(real(1.1, 9.0))
        score, covered = comparison.score, view(1.0).provenance >= Provenance.MEMORY
        assert score.psnr_last_frame == pytest.approx(psnr(picture(21), picture(7), covered))
        assert score.moved == pytest.approx(10.0)  # 30 px * 1 m / 3 m
        assert score.gain == pytest.approx(score.psnr_covered - score.psnr_last_frame)
    hindsight.imagined(view(1.0, stamp=START + 20 * S, source=START + 20 * S))
    hindsight.seen(real(21.0, 1.0))
    (comparison,) = hindsight.seen(real(21.1, 9.0))
    assert math.isnan(comparison.score.gain)


def score(level: float, *, horizon: float = 0.5, error: float = 0.1, expected: float = math.nan,
          coverage: float = 0.9, last: float = math.nan, moved: float = 9.0) -> LiveScore:
    return LiveScore(START, START, START, horizon, 0.1, coverage, level - 2, level, level, level,
                     level, last, moved, error, 0.1, expected)


def judged(scores: list[LiveScore], **options: object) -> tuple[str, str]:
    recent = RecentScores(JudgeOptions(**options))  # type: ignore[arg-type]
    for one in scores:
        recent.add(one)
    return recent.verdict()


def test_verdicts() -> None:
    assert judged([])[0] == OK
    assert "too few" in judged([score(5.0)] * 4)[1]
    assert judged([score(20.0)] * 5) == (OK, "20.0 dB where geometry backs the view")
    level, sentence = judged([score(11.0)] * 5)
    assert (level, "odometry" in sentence) == (WARN, True)
    assert judged([score(8.0)] * 5)[0] == ERROR
    # No better than the source picture in their place, which is too little where all moved.
    level, sentence = judged([score(22.0, last=21.8)] * 5)
    assert (level, sentence[:36]) == (WARN, "+0.2 dB against repeating the source")
    assert judged([score(22.0, last=23.0)] * 5)[0] == ERROR
    assert judged([score(22.0, last=23.0, moved=1.0)] * 5)[0] == OK
    assert judged([score(22.0, last=math.inf, moved=9.0)] * 5)[0] == ERROR
    assert judged([score(22.0, last=15.0)] * 5)[0] == OK
    assert judged([score(9.0)] * 2 + [score(20.0)] * 5)[0] == OK  # one bad view is no trend
    assert judged([score(9.0, horizon=0.1)] * 9)[0] == OK  # nothing has moved yet
    assert judged([score(9.0, horizon=4.0)] * 9)[0] == OK  # too far ahead to be held against it
    # Hardly anything is covered: the whole picture counts, 2 dB less here.
    assert judged([score(13.0, coverage=0.001)] * 5)[0] == WARN
    level, sentence = judged([score(20.0, error=0.3, expected=0.1)] * 5)
    assert (level, "3.0 times" in sentence) == (WARN, True)
    assert judged([score(20.0, error=0.1, expected=0.1)] * 5)[0] == OK


def test_the_window_forgets() -> None:
    recent = RecentScores(JudgeOptions(window=5))
    for level in [5.0] * 20 + [20.0] * 5:
        recent.add(score(level))
    assert recent.verdict()[0] == OK
    assert recent.total == 25
    recent.add(score(20.0, horizon=2.1))
    assert recent.by_horizon((0.5, 2.0)) == {0.5: 18.0, 2.0: 18.0}
    recent.clear()
    assert recent.total == 0
    assert math.isnan(recent.psnr_covered)


@pytest.mark.parametrize("wrong", [
    {"horizons": ()}, {"horizons": (0.0,)}, {"per_horizon": 0}, {"max_distance": 0.0},
    {"interval": -1.0}])
def test_options_that_make_no_sense_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="must"):
        LiveOptions(**wrong)  # type: ignore[arg-type]


def test_thresholds_that_contradict_each_other_are_refused() -> None:
    with pytest.raises(ValueError, match="above"):
        JudgeOptions(warn_psnr=5.0, error_psnr=6.0)
    with pytest.raises(ValueError, match="minimum"):
        JudgeOptions(window=3, minimum=5)
    with pytest.raises(ValueError, match="below"):
        JudgeOptions(min_horizon=2.0)
    with pytest.raises(ValueError, match="error_gain"):
        JudgeOptions(error_gain=1.0)
