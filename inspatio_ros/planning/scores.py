# SPDX-License-Identifier: Apache-2.0
"""Judges candidate paths by what is known and what would be seen along each of them."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from inspatio_ros.geometry import rigid
from inspatio_ros.planning import ground_map_numba as kernels
from inspatio_ros.planning.candidates import Candidate, RefusedCandidate, require_unique
from inspatio_ros.planning.coarse_views import CoarseViews
from inspatio_ros.planning.consistency import future_consistency
from inspatio_ros.planning.footprint import Footprint
from inspatio_ros.planning.ground_map import GroundMap, ground_map
from inspatio_ros.planning.imagining import CandidateViews, Imagined
from inspatio_ros.planning.kinematics import Motion, discomforts, level_frame, motion_of
from inspatio_ros.planning.movers import MovingBox
from inspatio_ros.planning.situation import Situation
from inspatio_ros.planning.terms import (
    AGREEMENT,
    COMFORT,
    COVERAGE,
    DRIVABLE,
    FUTURE,
    NO_COLLISION,
    PROGRESS,
    TERMS,
    TIME_TO_COLLISION,
    Score,
    ScoreOptions,
    State,
    combine,
)

__all__ = ["CandidateScorer", "MovingBox", "Ranking", "Score", "ScoreOptions", "Situation",
           "State", "ranked"]

Array = npt.NDArray[np.float64]

_LOOK_STEPS = 10
_SLACK = 1.3
_DEADLINE = "the deadline came first"


@dataclass(frozen=True)
class Ranking:
    """Scores in the order of the candidates, and the best one's id (empty when none counts)."""

    scores: tuple[Score, ...]
    best_id: str

    def of(self, id: str) -> Score:
        """The score of one candidate; KeyError when there is none."""
        for score in self.scores:
            if score.id == id:
                return score
        raise KeyError(id)


def ranked(candidates: Sequence[Candidate | RefusedCandidate],
           scores: Iterable[Score]) -> Ranking:
    """The newest score of each candidate; one without any is PARTIAL with no term.

    Best is the highest score above 0 of those that are COMPLETE or PARTIAL, of equal ones the
    first of the candidates; where there is none, of those that are UNSUPPORTED.
    """
    newest = {score.id: score for score in scores}
    listed = tuple(newest.get(c.id) or Score(c.id, State.PARTIAL, detail=_DEADLINE)
                   for c in candidates)
    for states in ((State.COMPLETE, State.PARTIAL), (State.UNSUPPORTED,)):
        best = max((s for s in listed if s.state in states), key=lambda s: s.score, default=None)
        if best is not None and best.score > 0:
            return Ranking(listed, best.id)
    return Ranking(listed, "")


class CandidateScorer:
    """Scores candidates for one robot.

    footprint: the space it takes up. options: terms and weights. views: imagine along candidates
    (future_consistency); None: geometry only. trust: [0, 1] by term, to be replaced when
    hindsight finds a term wrong.
    One thread at a time. Nothing is kept from call to call but how long views take.
    """

    def __init__(self, footprint: Footprint, options: ScoreOptions | None = None,
                 views: CandidateViews | None = None) -> None:
        self.footprint = footprint
        self.options = options or ScoreOptions()
        self.views = views
        self.trust: Mapping[str, float] = {}
        self._judging_seconds: tuple[float, ...] = (0.0, 0.0)
        # Called with the views of each candidate as they are made.
        self.on_views: Callable[[Imagined], None] | None = None

    def rank(
        self, candidates: Sequence[Candidate | RefusedCandidate], situation: Situation, *,
        deadline: float | None = None, imagine: int = 0,
    ) -> Ranking:
        """All that can be said by the deadline (s of time.monotonic; None: take the time)."""
        return ranked(candidates, self.score(candidates, situation, deadline=deadline,
                                             imagine=imagine))

    def score(
        self, candidates: Sequence[Candidate | RefusedCandidate], situation: Situation, *,
        deadline: float | None = None, imagine: int = 0,
        interrupted: Callable[[], bool] = lambda: False,
    ) -> Iterator[Score]:
        """Scores as they come, most useful first; a later one of the same candidate replaces it.

        Refused candidates are FAILED at once. Then come all, by geometry, the best first; then the
        `imagine` best again, with views. At the deadline, or once `interrupted`, everything that
        is not finished is given as it is, PARTIAL. Geometry's values do not depend on which other
        candidates are asked about.
        Raises ValueError when there is no candidate, too many, or an id comes twice, or when views
        are wanted without a `views`.
        """
        for made in self.steps(candidates, situation, deadline=deadline, imagine=imagine,
                               interrupted=interrupted):
            if made is not None:
                yield made

    def steps(
        self, candidates: Sequence[Candidate | RefusedCandidate], situation: Situation, *,
        deadline: float | None = None, imagine: int = 0,
        interrupted: Callable[[], bool] = lambda: False,
    ) -> Iterator[Score | None]:
        """`score` in pieces of bounded work: None where a piece gave no score."""
        require_unique(candidates)
        if imagine > 0 and self.views is None:
            raise ValueError("views are wanted, but the scorer was made without `views`")

        def time_left() -> float:
            if interrupted():
                return -math.inf
            return math.inf if deadline is None else deadline - time.monotonic()

        return self._steps(candidates, situation, imagine, time_left)

    def _steps(
        self, candidates: Sequence[Candidate | RefusedCandidate], situation: Situation,
        imagine: int, time_left: Callable[[], float],
    ) -> Iterator[Score | None]:
        def over() -> bool:
            return time_left() <= 0

        for candidate in candidates:
            if isinstance(candidate, RefusedCandidate):
                yield Score(candidate.id, State.FAILED, detail=candidate.reason)
        wanted = [c for c in candidates if isinstance(c, Candidate)]
        drafts: dict[str, Score] = {}
        if wanted and not over():
            yield None
            geometry = _Geometry(situation, self.footprint, self.options)
            for index, candidate in enumerate(wanted):
                if over():
                    break
                drafts[candidate.id] = self._finished(geometry.judge(candidate, index))
                yield None
            views = None if over() else CoarseViews(situation, self.options.views)
            for candidate in _by_score(wanted, drafts):
                if views is None or over():
                    break
                coverage, agreement = views.look(candidate)
                draft = drafts[candidate.id]
                terms = {**draft.terms, COVERAGE: coverage, AGREEMENT: agreement}
                drafts[candidate.id] = self._finished(replace(draft, terms=terms))
                yield None
        for candidate in _by_score(wanted, drafts):
            yield drafts[candidate.id]
        for candidate in wanted:
            if candidate.id not in drafts:
                yield Score(candidate.id, State.PARTIAL, detail=_DEADLINE)
        worth = [c for c in _by_score(wanted, drafts)
                 if drafts[c.id].score > 0 and drafts[c.id].state != State.UNSUPPORTED]
        yield from self._imagined(worth[:imagine], drafts, situation, time_left)

    def _imagined(
        self, best: list[Candidate], drafts: dict[str, Score], situation: Situation,
        time_left: Callable[[], float],
    ) -> Iterator[Score | None]:
        """Scores of the best candidates with future_consistency, each better than the last."""
        if not best:
            return
        assert self.views is not None
        done: set[str] = set()

        def left() -> float:
            # What is made must be judged too; a single slow judgement is no measure, see Pace.
            return time_left() - _SLACK * min(self._judging_seconds) * len(best)

        for made in self.views.along(best, situation, left):
            if made is None or len(made.frames) < 2:
                yield None
                continue
            if self.on_views is not None:
                self.on_views(made)
            id = made.candidate.id
            draft = drafts[id]
            start = time.perf_counter()
            terms = {**draft.terms, FUTURE: future_consistency(made.frames)}
            self._judging_seconds = self._judging_seconds[-1], time.perf_counter() - start
            drafts[id] = replace(draft, terms=terms,
                                 frames_imagined=draft.frames_imagined + len(made.frames))
            if made.finished and made.level == len(self.views.levels) - 1:
                done.add(id)
            yield self._finished(drafts[id], id in done)
        for candidate in best:
            if candidate.id not in done:
                yield self._finished(drafts[candidate.id], False)

    def _finished(self, draft: Score, complete: bool = True) -> Score:
        """The draft with its score, uncertainty and state by its terms."""
        value = combine(draft.terms, self.options, self.trust)
        state, detail = State.COMPLETE, ""
        if not complete or math.isnan(draft.terms[COVERAGE]):
            state, detail = State.PARTIAL, _DEADLINE
        if draft.unknown_ratio > self.options.max_unknown:
            state = State.UNSUPPORTED
            detail = f"{draft.unknown_ratio:.0%} of its corridor was never seen"
        return replace(draft, score=value, state=state, detail=detail,
                       uncertainty=draft.doubt * value)


def _by_score(candidates: Sequence[Candidate], drafts: Mapping[str, Score]) -> list[Candidate]:
    judged = [c for c in candidates if c.id in drafts]
    return sorted(judged, key=lambda c: -drafts[c.id].score)


class _Geometry:
    """The terms that need no view: ground, collisions, time to collision, progress, comfort."""

    def __init__(self, situation: Situation, footprint: Footprint,
                 options: ScoreOptions) -> None:
        self._situation = situation
        self._options = options
        self._sides = footprint.sides
        self._level_from_world = level_frame(situation.world_from_base)
        movers = situation.moving_boxes(footprint.ground)
        self.map: GroundMap = ground_map(
            situation.memory, situation.references, situation.world_from_base,
            self._level_from_world, footprint, options.ground, movers)
        self._visited = np.full(self.map.state.shape, -1, np.int32)
        self._movers = np.array([self._row(mover) for mover in movers]).reshape(-1, 8)
        self._look_ahead = options.look_ahead * np.arange(1, _LOOK_STEPS + 1) / _LOOK_STEPS
        route = situation.route
        self._route = None if route is None else _Route(route)

    def judge(self, candidate: Candidate, number: int) -> Score:
        """A draft with these terms; `number` is its own among the candidates."""
        start = self._situation.speed
        motion = motion_of(candidate, self._level_from_world, start_speed=start)
        out = self._swept(motion, number)
        hit = float(min(out[0], out[1]))
        swept = max(out[2], 1.0)
        unknown_ratio = float(out[3] / swept)
        area = float(out[3]) * self.map.cell**2
        doubt = 1.0 if out[6] else min(1.0, area / self._options.hidden_area)
        terms = dict.fromkeys(TERMS, math.nan)
        terms[NO_COLLISION] = 0.0 if math.isfinite(hit) else 1.0
        terms[DRIVABLE] = 0.0 if out[4] else 1.0 - unknown_ratio
        terms[TIME_TO_COLLISION] = 0.0 if math.isfinite(hit) else float(
            min(1.0, (out[5] - self._look_ahead[0]) / self._options.look_ahead))
        terms[PROGRESS] = self._progress(candidate)
        terms[COMFORT] = 0.0 if discomforts(motion, self._options.comfort) else 1.0
        return Score(candidate.id, State.PARTIAL, terms=terms, unknown_ratio=unknown_ratio,
                     first_hit=hit, doubt=doubt)

    def _swept(self, motion: Motion, number: int) -> Array:
        shift = self.map.map_from_world @ rigid.invert(self._level_from_world)
        out = np.zeros(7)
        options = self._options
        kernels.sweep(
            motion.times, motion.x + shift[0, 3], motion.y + shift[1, 3], motion.yaw,
            motion.speed, self._sides, self.map.cell, self.map.state, self.map.clearance,
            self.map.outline, self._visited, number, self._movers, self._look_ahead,
            options.near or self.map.cell, options.drift, out)
        return out

    def _row(self, mover: MovingBox) -> list[float]:
        box = self.map.map_from_world @ mover.world_from_box
        velocity = self._level_from_world[:3, :3] @ np.asarray(mover.velocity)
        return [box[0, 3], box[1, 3], math.atan2(box[1, 0], box[0, 0]), mover.size[0] / 2,
                mover.size[1] / 2, velocity[0], velocity[1], mover.yaw_rate]

    def _progress(self, candidate: Candidate) -> float:
        """Metres gained along the route over those at the target speed."""
        first, last = candidate.world_from_base[[0, -1]]
        if self._route is not None:
            gained = self._route.station(last[:3, 3]) - self._route.station(first[:3, 3])
        else:
            gained = float(first[:3, 0] @ (last[:3, 3] - first[:3, 3]))
        wanted = self._options.target_speed * candidate.duration
        return min(max(gained / wanted, 0.0), 1.0) if wanted > 0 else 0.0


class _Route:
    """Places along a polyline."""

    def __init__(self, points: Array) -> None:
        self._points = points[:, :2]
        self._steps = np.diff(self._points, axis=0)
        self._lengths = np.linalg.norm(self._steps, axis=1)
        self._stations = np.concatenate([[0.0], np.cumsum(self._lengths)])

    def station(self, point: Array) -> float:
        """Metres along the route of its place nearest to a point."""
        offset = point[:2] - self._points[:-1]
        square = np.maximum(self._lengths**2, 1e-12)
        share = np.clip((offset * self._steps).sum(1) / square, 0.0, 1.0)
        distance = np.linalg.norm(offset - share[:, None] * self._steps, axis=1)
        nearest = int(np.argmin(distance))
        return float(self._stations[nearest] + share[nearest] * self._lengths[nearest])
