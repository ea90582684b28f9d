# SPDX-License-Identifier: Apache-2.0
"""Scores checked later: which candidate was driven, what its terms were worth, trust."""

from __future__ import annotations

import math

import numpy as np
import pytest

from inspatio_ros.geometry import rigid
from inspatio_ros.planning.candidates import Candidate
from inspatio_ros.planning.review import CandidateReview, ReviewOptions
from inspatio_ros.planning.scores import CandidateScorer, Ranking, Score, Situation, State
from inspatio_ros.planning.terms import TERMS
from support.corridor import CART, OPTIONS, ahead, blocked_corridor, situation

START_NS = 100 * 10**9


@pytest.fixture(scope="module")
def known() -> Situation:
    return situation(blocked_corridor())


@pytest.fixture(scope="module")
def scorer() -> CandidateScorer:
    return CandidateScorer(CART, OPTIONS)


def drive(review: CandidateReview, way: Candidate, start_ns: int = START_NS,
          offset: float = 0.0) -> None:
    """The base follows a way, `offset` m beside it."""
    for t in np.arange(0.0, way.times[-1] + 0.3, 0.05):
        pose = way.at([t])[0] @ rigid.from_rotation(np.eye(3), (0.0, offset, 0.0))
        review.moved(start_ns + round(t * 1e9), pose)


def test_the_candidate_that_was_followed_is_judged(
    known: Situation, scorer: CandidateScorer
) -> None:
    review = CandidateReview(scorer)
    candidates = [ahead("slow", 0.3), ahead("right", 1.2, -1.5), ahead("into", 1.2)]
    ranking = scorer.rank(candidates, known)
    review.scored(START_NS, candidates, ranking, known)
    assert review.judge(known) == []
    drive(review, candidates[1], offset=0.05)
    (made,) = review.judge(known)
    assert made.id == "right"
    assert made.duration == pytest.approx(4.0)
    assert 0.02 < made.deviation < 0.1
    assert made.predicted == ranking.of("right").terms
    assert made.real["no_collision"] == made.real["drivable"] == 1.0
    assert made.real["progress"] == pytest.approx(made.predicted["progress"], abs=0.02)
    assert math.isnan(made.real["future_consistency"])
    assert made.error["progress"] < 0.02
    assert set(made.trust.values()) == {1.0}
    assert review.judge(known) == []


def test_what_nobody_drove_is_counted_and_not_judged(
    known: Situation, scorer: CandidateScorer
) -> None:
    review = CandidateReview(scorer, ReviewOptions(calls=2))
    candidates = [ahead("slow", 0.3)]
    ranking = scorer.rank(candidates, known)
    for number in range(3):
        review.scored(START_NS + number, candidates, ranking, known)
    assert review.dropped["crowded_out"] == 1
    drive(review, ahead("other", 1.2, -1.5))
    assert review.judge(known) == []
    assert review.dropped["not_driven"] == 2
    review.scored(START_NS - 10**10, candidates, ranking, known)
    assert review.judge(known) == []
    assert review.dropped["pose_gap"] == 1


def claimed(candidate: Candidate, **terms: float) -> Ranking:
    """A ranking that says this of a candidate."""
    named = dict.fromkeys(TERMS, 1.0) | terms
    return Ranking((Score(candidate.id, State.COMPLETE, 0.9, terms=named),), candidate.id)


def test_a_term_that_is_wrong_loses_its_weight_and_a_multiplier_does_not(
    known: Situation, scorer: CandidateScorer
) -> None:
    review = CandidateReview(scorer, ReviewOptions(minimum=3))
    way = ahead("a", 0.3)  # a fifth of the progress that is claimed
    for number in range(3):
        start = START_NS + number * 10**10
        review.scored(start, [way], claimed(way, no_collision=0.0), known)
        drive(review, way, start)
        (made,) = review.judge(known)
        assert made.trust["progress"] == (1.0 if number < 2 else 0.0)
    assert made.judged == 3
    assert made.error["progress"] == pytest.approx(0.8, abs=0.02)
    assert made.error["no_collision"] == 1.0
    assert made.trust["no_collision"] == 1.0
    assert made.trust["comfort"] == 1.0


def test_errors_of_views_tell_what_future_consistency_was_worth(
    known: Situation, scorer: CandidateScorer
) -> None:
    review = CandidateReview(scorer)
    way = ahead("a", 0.5)
    review.scored(START_NS, [way], claimed(way), known)
    for stamp in (1, 2, 3):
        review.shown(stamp, "a")
    assert review.view_error(1, 0.04)
    assert review.view_error(2, 0.08)
    assert review.view_error(3, math.nan)
    assert not review.view_error(1, 0.5)  # each counts once
    assert not review.view_error(99, 0.5)
    drive(review, way)
    (made,) = review.judge(known)
    assert made.real["future_consistency"] == pytest.approx(1 - 0.06 / 0.2)
    assert made.error["future_consistency"] == pytest.approx(0.3)


def test_time_that_jumps_back_forgets_calls_but_not_what_was_learnt(
    known: Situation, scorer: CandidateScorer
) -> None:
    review = CandidateReview(scorer)
    way = ahead("a", 0.5)
    review.scored(START_NS, [way], claimed(way), known)
    drive(review, way)
    review.judge(known)
    learnt = review.errors
    review.scored(START_NS, [way], claimed(way), known)
    review.reset()
    assert review.judge(known) == []
    assert repr(review.errors) == repr(learnt)


@pytest.mark.parametrize("wrong", [{"calls": 0}, {"horizon": 0.0}, {"tolerated": 0.9}])
def test_options_that_make_no_sense_are_refused(wrong: dict) -> None:
    with pytest.raises(ValueError, match="must"):
        ReviewOptions(**wrong)
