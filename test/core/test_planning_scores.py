# SPDX-License-Identifier: Apache-2.0
"""The map under the candidates and their scores, against an analytic street."""

from __future__ import annotations

import math
import time

import numpy as np
import pytest

from inspatio_ros.geometry import rigid
from inspatio_ros.imagination.engine import ImaginationEngine
from inspatio_ros.imagination.filler import GeometricFiller
from inspatio_ros.memory.world_memory import MemoryOptions, WorldMemory
from inspatio_ros.planning.candidates import Candidate, RefusedCandidate
from inspatio_ros.planning.ground_map import (
    DROP,
    GROUND,
    OBSTACLE,
    UNKNOWN,
    ground_map,
)
from inspatio_ros.planning.imagining import CandidateViews, Pace
from inspatio_ros.planning.scores import (
    CandidateScorer,
    MovingBox,
    ScoreOptions,
    Situation,
    State,
    ranked,
)
from inspatio_ros.planning.terms import TERMS, combine
from inspatio_ros.worlds.raytracing import PLAIN
from inspatio_ros.worlds.world import World, stadium
from support.corridor import (
    BASE_FROM_CAMERA,
    CAMERA,
    CART,
    OPTIONS,
    ahead,
    blocked_corridor,
    box,
    corridor,
    situation,
)


@pytest.fixture(scope="module")
def blocked() -> Situation:
    return situation(blocked_corridor())


@pytest.fixture(scope="module")
def scorer() -> CandidateScorer:
    return CandidateScorer(CART, OPTIONS)


def test_the_map_knows_ground_walls_boxes_and_what_it_never_saw(blocked: Situation) -> None:
    made = ground_map(blocked.memory, blocked.references, np.eye(4), np.eye(4), CART,
                      OPTIONS.ground)
    ground = np.array([[1.0, 0.0, 0], [2.5, 1.5, 0], [6.0, -1.5, 0], [0.0, 0.0, 0]])
    assert (made.at(ground) == GROUND).all()
    front = np.array([[3.71, y, 0] for y in (-0.4, -0.2, 0.0)])
    assert (made.at(front) == OBSTACLE).all()
    assert (made.at(np.array([[4.0, 2.91, 0], [2.0, -2.91, 0]])) == OBSTACLE).all()
    unseen = np.array([[6.5, 2.3, 0], [8.0, 3.5, 0], [-9.0, 0.0, 0], [4.8, -0.3, 0], [50.0, 0, 0]])
    assert (made.at(unseen) == UNKNOWN).all()
    assert 0.05 < made.known_ratio < 0.6


def test_a_pit_is_a_drop_and_a_kerb_no_ground() -> None:
    world = World((box("near", (12.0, 20.0, 1.0), -3.0, 0.0, -1.0, PLAIN),
                   box("pit", (4.0, 20.0, 1.0), 5.0, 0.0, -1.6, PLAIN),
                   box("kerb", (8.0, 4.0, 1.2), 0.0, 4.0, -1.0, PLAIN)), stadium(4.0, 1.0))
    seen = situation(world)
    made = ground_map(seen.memory, seen.references, np.eye(4), np.eye(4), CART, OPTIONS.ground)
    assert made.at(np.array([[4.6, 0.0, 0]])) == DROP
    assert made.at(np.array([[2.0, 2.3, 0]])) in (OBSTACLE, UNKNOWN)
    assert made.at(np.array([[2.0, 0.0, 0]])) == GROUND
    score = CandidateScorer(CART, OPTIONS).rank([ahead("in", 1.4)], seen).scores[0]
    assert score.terms["drivable"] == 0.0
    assert score.score == 0.0


def test_collisions_and_free_ways_are_told_apart(
    blocked: Situation, scorer: CandidateScorer
) -> None:
    ranking = scorer.rank([ahead("into", 1.2), ahead("right", 1.2, -1.5), ahead("stop", 0.2),
                           ahead("wall", 1.2, 3.0)], blocked)
    into, right, stop, wall = ranking.scores
    assert into.terms["no_collision"] == 0.0
    assert into.score == 0.0
    # The box's front is 3.7 m away, the cart's 0.4 m before its base.
    assert into.first_hit == pytest.approx(3.3 / 1.2, abs=0.25)
    assert wall.terms["no_collision"] == 0.0
    assert right.terms["no_collision"] == 1.0
    assert right.state == State.COMPLETE
    assert stop.terms["no_collision"] == 1.0
    assert stop.terms["progress"] == pytest.approx(0.2 / 1.5, abs=0.01)
    assert ranking.best_id == "right"
    assert ranking.of("stop").score < right.score


def test_time_to_collision_counts_quarters_of_a_second(
    blocked: Situation, scorer: CandidateScorer
) -> None:
    # At the end the cart stands before the box and would reach it after (gap / speed).
    def straight(speed: float) -> float:
        return scorer.rank([ahead("a", speed)], blocked).scores[0].terms["time_to_collision"]

    # Gap at 4 s: 3.3 - 4 v.
    assert straight(0.5) == 1.0  # 1.3 m at 0.5 m/s
    assert 0.0 < straight(0.72) < 1.0  # 0.42 m at 0.72 m/s: a little more than half a second
    assert straight(0.9) == 0.0  # it has hit


def test_unseen_ground_is_never_free(blocked: Situation, scorer: CandidateScorer) -> None:
    behind_screen = ahead("hidden", 1.8, 2.0)
    ranking = scorer.rank([behind_screen, ahead("seen", 1.0, -1.4)], blocked)
    hidden, seen = ranking.scores
    assert hidden.unknown_ratio > 0.1 or hidden.terms["no_collision"] == 0.0
    assert seen.unknown_ratio < 0.02
    backwards = Candidate.from_navsim(
        "back", np.stack([-1.5 * np.arange(1, 9), np.zeros(8), np.zeros(8)], 1), np.eye(4))
    blind = scorer.rank([backwards], blocked)
    assert blind.scores[0].state == State.UNSUPPORTED
    assert "never seen" in blind.scores[0].detail
    assert blind.scores[0].uncertainty == blind.scores[0].score


def test_a_candidate_outside_the_memory_is_unsupported(
    blocked: Situation, scorer: CandidateScorer
) -> None:
    far = Candidate("far", rigid.from_rotation(np.eye(3), (500.0, 0.0, 0.0))
                    @ ahead("a", 1.0).world_from_base, np.arange(9) * 0.5)
    score = scorer.rank([far], blocked).scores[0]
    assert score.state == State.UNSUPPORTED
    assert score.unknown_ratio == 1.0
    assert score.score == 0.0


def test_something_that_moves_is_met_where_it_will_be(scorer: CandidateScorer) -> None:
    pose = rigid.from_rotation(np.eye(3), (3.0, 2.4, 0.0))
    crossing = MovingBox(pose, (0.5, 0.5), (0.0, -1.0, 0.0))
    # It is on the middle line after 2.4 s; whoever is 3 m ahead then is hit.
    seen = situation(corridor(), (crossing,))
    meets, passes, waits = scorer.rank(
        [ahead("meets", 1.25), ahead("passes", 2.2), ahead("waits", 0.3)], seen).scores
    assert meets.terms["no_collision"] == 0.0
    assert meets.first_hit == pytest.approx(2.0, abs=0.4)
    assert passes.terms["no_collision"] == 1.0
    assert waits.terms["no_collision"] == 1.0
    standing = situation(corridor(), (MovingBox(pose, (0.5, 0.5), (0.0, 0.0, 0.0)),))
    assert scorer.rank([ahead("meets", 1.25)], standing).scores[0].terms["no_collision"] == 1.0


def test_progress_counts_along_the_route(scorer: CandidateScorer) -> None:
    route = np.array([[0.0, 0.0], [2.0, 0.0], [2.0, 2.0]])
    seen = situation(corridor(), route=route)
    score = scorer.rank([ahead("a", 1.5)], seen).scores[0]
    # Straight on only the first 2 m lie along it.
    assert score.terms["progress"] == pytest.approx(2.0 / 6.0, abs=1e-6)


def test_views_say_what_geometry_backs(blocked: Situation, scorer: CandidateScorer) -> None:
    on, turned = scorer.rank([ahead("on", 0.5), Candidate.from_navsim(
        "turned", np.stack([np.zeros(8), np.zeros(8), 0.39 * np.arange(1, 9)], 1), np.eye(4))],
        blocked).scores
    assert on.terms["coverage"] > 0.7
    assert on.terms["agreement"] > 0.8
    assert turned.terms["coverage"] < on.terms["coverage"] - 0.2


def test_one_by_one_gives_the_very_same_values(
    blocked: Situation, scorer: CandidateScorer
) -> None:
    rng = np.random.default_rng(1)
    candidates = [ahead(str(k), float(rng.uniform(0.1, 2)), float(rng.uniform(-3, 3)))
                  for k in range(12)]
    together = scorer.rank(candidates, blocked)
    again = CandidateScorer(CART, OPTIONS).rank(candidates[::-1], blocked)
    for candidate, score in zip(candidates, together.scores, strict=True):
        alone = scorer.rank([candidate], blocked).scores[0]
        assert repr(alone) == repr(score) == repr(again.of(candidate.id))


def test_partial_scores_come_best_first_and_refused_ones_at_once(
    blocked: Situation, scorer: CandidateScorer
) -> None:
    candidates = [ahead("slow", 0.3), RefusedCandidate("nan", "pose 2 is not finite"),
                  ahead("into", 1.2), ahead("right", 1.2, -1.5)]
    given = list(scorer.score(candidates, blocked))
    assert given[0].id == "nan"
    assert given[0].state == State.FAILED
    assert [s.id for s in given[1:]] == ["right", "slow", "into"]
    ranking = ranked(candidates, given)
    assert [s.id for s in ranking.scores] == ["slow", "nan", "into", "right"]
    assert ranking.best_id == "right"


def test_a_deadline_that_has_passed_gives_everything_partial(
    blocked: Situation, scorer: CandidateScorer
) -> None:
    ranking = scorer.rank([ahead("a", 1.0), ahead("b", 0.5)], blocked,
                          deadline=time.monotonic() - 1.0)
    assert [s.state for s in ranking.scores] == [State.PARTIAL] * 2
    assert all(math.isnan(v) for s in ranking.scores for v in s.terms.values())
    assert ranking.best_id == ""


@pytest.mark.parametrize("after", [0, 1, 4, 9])
def test_an_interrupted_call_gives_what_it_has(
    blocked: Situation, scorer: CandidateScorer, after: int
) -> None:
    candidates = [ahead(str(k), 0.2 + 0.1 * k) for k in range(6)]
    asked = 0

    def interrupted() -> bool:
        nonlocal asked
        asked += 1
        return asked > after

    whole = scorer.rank(candidates, blocked)
    cut = ranked(candidates, scorer.score(candidates, blocked, interrupted=interrupted))
    assert len(cut.scores) == 6
    assert any(s.state == State.PARTIAL for s in cut.scores)
    for made, full in zip(cut.scores, whole.scores, strict=True):
        for name in TERMS:
            assert math.isnan(made.terms[name]) or made.terms[name] == full.terms[name]


def test_no_candidate_and_equal_ids_are_refused(
    blocked: Situation, scorer: CandidateScorer
) -> None:
    with pytest.raises(ValueError, match="no candidate"):
        scorer.rank([], blocked)
    with pytest.raises(ValueError, match="comes 2 times"):
        scorer.rank([ahead("a", 1.0), ahead("a", 1.1)], blocked)


def test_a_thousand_candidates_are_scored(blocked: Situation, scorer: CandidateScorer) -> None:
    rng = np.random.default_rng(0)
    many = [ahead(str(k), *rng.uniform((0.1, -2.0), (2.0, 2.0))) for k in range(1000)]
    ranking = scorer.rank(many, blocked)
    assert len(ranking.scores) == 1000
    assert {s.state for s in ranking.scores} <= {State.COMPLETE, State.UNSUPPORTED}
    assert ranking.of(ranking.best_id).score == max(
        s.score for s in ranking.scores if s.state == State.COMPLETE)


def test_an_empty_memory_supports_nothing(scorer: CandidateScorer) -> None:
    nothing = Situation(WorldMemory(MemoryOptions(capacity=1000)), (), np.eye(4),
                        BASE_FROM_CAMERA, CAMERA)
    score = scorer.rank([ahead("a", 1.0)], nothing).scores[0]
    assert score.state == State.UNSUPPORTED
    assert score.unknown_ratio > 0.7
    assert score.terms["coverage"] == 0.0


def test_trust_takes_weight_from_a_term_and_nothing_from_a_multiplier() -> None:
    terms = dict.fromkeys(TERMS, 1.0) | {"progress": 0.0}
    assert combine(terms, OPTIONS) == pytest.approx(7.5 / 12.5)
    assert combine(terms, OPTIONS, {"progress": 0.0}) == 1.0
    assert combine(terms, OPTIONS, {"no_collision": 0.0}) == pytest.approx(7.5 / 12.5)
    assert combine(terms | {"no_collision": 0.0}, OPTIONS, {"no_collision": 0.0}) == 0.0
    assert combine(terms | {"drivable": math.nan}, OPTIONS) == 0.0
    assert combine(terms | {"agreement": math.nan}, OPTIONS) == pytest.approx(7.45 / 12.5)
    unseen = {"coverage": 0.4, "future_consistency": math.nan}
    assert combine(terms | unseen, OPTIONS) == pytest.approx((7.1 + 0.4 * 0.4) / 12.5)


@pytest.mark.parametrize(("wrong", "word"), [
    ({"weights": {"luck": 1.0}}, "no term is called luck"),
    ({"weights": {"progress": 0.0}}, "one must be positive"),
    ({"target_speed": 0.0}, "target_speed"),
    ({"prior": 2.0}, "prior"),
])
def test_options_that_make_no_sense_are_named(wrong: dict, word: str) -> None:
    with pytest.raises(ValueError, match=word):
        ScoreOptions(**wrong)


@pytest.fixture(scope="module")
def imaginer() -> CandidateScorer:
    return CandidateScorer(CART, OPTIONS, CandidateViews(ImaginationEngine(GeometricFiller()), 8))


def test_the_best_are_imagined_coarse_before_fine(
    blocked: Situation, imaginer: CandidateScorer
) -> None:
    candidates = [ahead("slow", 0.3), ahead("into", 1.2), ahead("right", 1.2, -1.5),
                  ahead("half", 0.6, -0.8)]
    given = list(imaginer.score(candidates, blocked, imagine=2))
    views = [s for s in given if s.frames_imagined]
    assert [s.id for s in given[:4]] == ["right", "half", "slow", "into"]
    assert {s.id for s in views} == {"right", "half"}
    assert [s.frames_imagined for s in views if s.id == "right"] == [4, 12]
    assert [s.state for s in views if s.id == "right"] == [State.PARTIAL, State.COMPLETE]
    ranking = ranked(candidates, given)
    assert ranking.best_id == "right"
    for score in ranking.scores:
        assert math.isnan(score.terms["future_consistency"]) == (score.frames_imagined == 0)
    # The geometric filler leaves backed pixels as they are.
    assert ranking.of("right").terms["future_consistency"] > 0.8


def test_imagined_values_are_the_same_each_time_and_alone(
    blocked: Situation, imaginer: CandidateScorer
) -> None:
    candidates = [ahead("right", 1.2, -1.5), ahead("half", 0.6, -0.8)]
    both = imaginer.rank(candidates, blocked, imagine=2)
    again = imaginer.rank(candidates, blocked, imagine=2)
    assert repr(both) == repr(again)
    for candidate, score in zip(candidates, both.scores, strict=True):
        assert repr(imaginer.rank([candidate], blocked, imagine=1).scores[0]) == repr(score)


def test_what_cannot_be_imagined_in_time_is_partial(
    blocked: Situation, imaginer: CandidateScorer
) -> None:
    candidates = [ahead("right", 1.2, -1.5), ahead("half", 0.6, -0.8)]
    views = imaginer.views
    assert views is not None
    cameras = [blocked.camera.resized(round(blocked.camera.width * scale),
                                      round(blocked.camera.height * scale))
               for scale, _ in views.levels]
    for camera in cameras * 2:
        views.pace.note(camera, 1, 1e3)
    start = time.monotonic()
    ranking = imaginer.rank(candidates, blocked, imagine=2, deadline=start + 60.0)
    assert time.monotonic() - start < 30.0
    assert [s.state for s in ranking.scores] == [State.PARTIAL] * 2
    assert all(s.frames_imagined == 0 and s.score > 0 for s in ranking.scores)
    views.pace = Pace()


def test_one_slow_block_is_not_reckoned_with_for_good(
    blocked: Situation, imaginer: CandidateScorer
) -> None:
    views = imaginer.views
    assert views is not None
    views.pace = Pace()
    assert views.pace.expected(blocked.camera, 1) == 0.0
    for seconds in (0.02, 30.0):  # the second one waited for a compiler
        views.pace.note(blocked.camera, 2, seconds)
    assert views.pace.expected(blocked.camera, 2) == pytest.approx(1.3 * 0.02)
    ranking = imaginer.rank([ahead("right", 1.2, -1.5)], blocked, imagine=1,
                            deadline=time.monotonic() + 60.0)
    assert ranking.scores[0].state == State.COMPLETE
    # Slow twice is slow.
    for seconds in (30.0, 40.0):
        views.pace.note(blocked.camera, 1, seconds)
    assert views.pace.expected(blocked.camera, 1) == pytest.approx(1.3 * 30.0)
    views.pace = Pace()


def test_views_without_an_engine_are_refused(blocked: Situation, scorer: CandidateScorer) -> None:
    with pytest.raises(ValueError, match="without `views`"):
        scorer.rank([ahead("a", 1.0)], blocked, imagine=1)
