# SPDX-License-Identifier: Apache-2.0
"""Goals of ~/score_candidates in the worker: one bounded piece of one goal at a time."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from inspatio_ros.geometry.camera import PinholeCamera
from inspatio_ros.geometry.trajectory import EmptyPath
from inspatio_ros.imagination.engine import ImaginationEngine, composite
from inspatio_ros.imagination.request import ImaginedFrame
from inspatio_ros.memory.world_memory import WorldMemory
from inspatio_ros.planning.candidates import (
    MAX_CANDIDATES,
    MAX_POSES,
    Candidate,
    RefusedCandidate,
    require_unique,
)
from inspatio_ros.planning.imagining import CandidateViews, Imagined
from inspatio_ros.planning.review import CandidateReview, TermReview
from inspatio_ros.planning.scores import (
    CandidateScorer,
    Ranking,
    Score,
    Situation,
    State,
    ranked,
)
from inspatio_ros.ros.camera_poses import CameraPoses
from inspatio_ros.ros.convert.paths import PathError, read_path
from inspatio_ros.ros.imagination_parameters import ImaginationNodeParameters
from inspatio_ros.ros.score_candidates_server import CANCELLED, Result, ScoreGoal
from inspatio_ros.ros.transforms import TransformUnavailable
from inspatio_ros.sensing.observation import Observation

Array = npt.NDArray[np.float64]

# The robot's speed is that of its newest poses over so long, ns.
_SPEED_OVER_NS = 200_000_000
# The base's pose is noted for hindsight this often, s.
_REVIEW_PERIOD = 0.05
_VIEW_ERRORS = 256


@dataclass(frozen=True, eq=False)
class Sight:
    """What the worker sees now: references newest first, their frame, the imagined camera, and
    the plan's points in the world, if there is a plan."""

    references: tuple[Observation, ...]
    camera_frame: str
    camera: PinholeCamera
    route: Array | None


@dataclass
class _Job:
    goal: ScoreGoal
    arrived: float = field(default_factory=time.monotonic)
    candidates: list[Candidate | RefusedCandidate] | None = None
    pieces: Iterator[Score | None] | None = None
    scores: list[Score] = field(default_factory=list)
    interrupted: str = ""
    situation: Situation | None = None
    stamp_ns: int = 0


class LiveScoring:
    """Goals wait their turn, in order; each is worked on piece by piece. The worker's thread only,
    but for `put` and `view_error`. sight: what is seen now, None before the first observation.
    show: publishes a view of the best candidate and gives its stamp, ns. reviewed: called with
    each candidate that was driven and judged again.
    """

    def __init__(self, engine: ImaginationEngine, memory: WorldMemory,
                 values: Callable[[], ImaginationNodeParameters], poses: CameraPoses,
                 sight: Callable[[], Sight | None], show: Callable[[ImaginedFrame], int],
                 reviewed: Callable[[TermReview], None]) -> None:
        self._memory = memory
        self._values = values
        self._poses = poses
        self._sight = sight
        scoring = values().scoring
        self._views = CandidateViews(engine, scoring.views, seed=values().imagination.seed)
        self.scorer = CandidateScorer(values().footprint.footprint(), scoring.options(),
                                      self._views)
        self._waiting: deque[_Job] = deque()
        self._show = show
        self._reviewed = reviewed
        self.review = CandidateReview(self.scorer)
        self._made: dict[str, Imagined] = {}
        self.scorer.on_views = lambda made: self._made.update({made.candidate.id: made})
        self._view_errors: deque[tuple[int, float]] = deque(maxlen=_VIEW_ERRORS)
        self._review_due = 0.0

    def view_error(self, frame_stamp_ns: int, error: float) -> None:
        """What hindsight says of a published frame: mean absolute colour error, of 1."""
        self._view_errors.append((frame_stamp_ns, error))

    def put(self, goal: ScoreGoal) -> tuple[int, str] | None:
        """A goal waits from now on; refused (code, sentence) when too many do."""
        limit = self._values().scoring.waiting_goals
        if len(self._waiting) >= limit:
            return Result.GOAL_REJECTED, f"{limit} goals wait already (scoring.waiting_goals)"
        self._waiting.append(_Job(goal))
        return None

    @property
    def busy(self) -> bool:
        """Whether a goal waits or is in work."""
        return bool(self._waiting)

    def interrupt(self, reason: str) -> None:
        """What the goals in work rest on is gone: they end with what they have, as PARTIAL."""
        for job in self._waiting:
            if job.pieces is not None:
                job.interrupted = reason

    def end_all(self, code: int, sentence: str) -> None:
        """End every goal with an error code and what it has."""
        while self._waiting:
            self._end(self._waiting.popleft(), code, sentence)

    def forget(self) -> None:
        """Time jumped back: calls and poses that wait to be judged are gone."""
        self.review.reset()

    def step(self) -> bool:
        """One piece of the first goal; whether there was any."""
        if not self._waiting:
            self._check_later()
            return False
        job = self._waiting[0]
        try:
            ended = self._advance(job)
        except TransformUnavailable as error:
            ended = (Result.TF_ERROR, str(error))
        except EmptyPath as error:
            ended = (Result.EMPTY_PATH, str(error))
        except ValueError as error:
            ended = (Result.GOAL_REJECTED, str(error))
        except MemoryError as error:
            ended = (Result.OUT_OF_MEMORY, f"out of memory while scoring: {error}".rstrip(": "))
        except Exception as error:  # noqa: BLE001 - a goal always gets its result
            code = (Result.OUT_OF_MEMORY if type(error).__name__ == "OutOfMemoryError"
                    else Result.UNKNOWN)
            ended = (code, f"{type(error).__name__}: {error}")
        if ended is not None:
            self._waiting.popleft()
            self._end(job, *ended)
        return True

    def _advance(self, job: _Job) -> tuple[int, str] | None:
        """One piece; how it ended (code, sentence), or None when it goes on."""
        if job.goal.cancel_requested:
            return CANCELLED, "cancelled"
        if job.candidates is None:
            self._refuse_nonsense(job.goal)
            job.candidates = self._candidates(job)
            return None
        if job.pieces is None:
            begun = self._begin(job, job.candidates)
            return begun
        score = next(job.pieces, _END)
        if isinstance(score, Score):
            if job.interrupted and score.state == State.PARTIAL:
                score = replace(score, detail=job.interrupted)
            job.scores.append(score)
            job.goal.scored(score)
        elif score is _END:
            late = job.goal.overdue and not any(
                s.state in (State.COMPLETE, State.UNSUPPORTED) for s in job.scores)
            return (Result.TIMEOUT, "nothing could be finished by the deadline") if late else (
                Result.NONE, "")
        return None

    @staticmethod
    def _refuse_nonsense(goal: ScoreGoal) -> None:
        count = len(goal.message.candidates)
        if count == 0:
            raise EmptyPath("the goal has no candidates")
        if count > MAX_CANDIDATES:
            raise ValueError(f"{count} candidates are more than {MAX_CANDIDATES} in one goal")
        if not 0 <= goal.message.frame_rate < float("inf"):
            raise ValueError(f"frame_rate {goal.message.frame_rate} Hz is negative or not finite")

    def _candidates(self, job: _Job) -> list[Candidate | RefusedCandidate] | None:
        """The goal's candidates in the world; None while a transform may still come."""
        made: list[Candidate | RefusedCandidate] = []
        transforms: dict[tuple[str, int], Array] = {}
        speed = self._values().imagination.speed
        for message in job.goal.message.candidates:
            try:
                path = read_path(message.path, MAX_POSES)
                if len(path.frame_from_pose) == 0:
                    raise EmptyPath("the path has no poses")
                key = (path.frame_id, path.stamp_ns)
                if key not in transforms:
                    transforms[key] = self._poses.world_from_plan(*key)
                made.append(Candidate.from_path(
                    message.id, transforms[key] @ path.frame_from_pose, path.stamps_ns,
                    message.speed or speed))
            except (PathError, EmptyPath, ValueError) as error:
                made.append(RefusedCandidate(message.id, str(error)))
            except TransformUnavailable:
                waited = time.monotonic() - job.arrived
                if waited < self._values().transforms.timeout and not job.goal.overdue:
                    return None
                raise
        require_unique(made)
        return made

    def _begin(self, job: _Job,
               candidates: list[Candidate | RefusedCandidate]) -> tuple[int, str] | None:
        sight = self._sight()
        if sight is None:
            return Result.NO_GEOMETRY, "no observation yet: nothing to judge by"
        message, scoring = job.goal.message, self._values().scoring
        stamp_ns = sight.references[0].stamp_ns
        situation = Situation(
            self._memory, sight.references, self._poses.current_base(),
            self._poses.base_from(sight.camera_frame, stamp_ns), sight.camera,
            speed=self._speed(), route=sight.route)
        if message.imagine and message.frame_rate > 0:
            longest = max((c.duration for c in candidates if isinstance(c, Candidate)), default=0)
            self._views.views = min(max(2, round(longest * message.frame_rate)), 64)
        else:
            self._views.views = scoring.views
        self._made.clear()
        job.situation, job.stamp_ns = situation, self._poses.newest_stamp()
        job.pieces = self.scorer.steps(
            candidates, situation, deadline=job.goal.deadline,
            imagine=scoring.imagined if message.imagine else 0,
            interrupted=lambda: bool(job.interrupted))
        return None

    def _speed(self) -> float | None:
        """m/s along the base's heading lately; None when its poses do not tell."""
        base = self._values().transforms.base_frame
        newest = self._poses.newest_stamp()
        try:
            now = self._poses.world_from(base, newest)
            before = self._poses.world_from(base, newest - _SPEED_OVER_NS)
        except TransformUnavailable:
            return None
        return float(now[:3, 0] @ (now[:3, 3] - before[:3, 3])) / (_SPEED_OVER_NS * 1e-9)

    def _end(self, job: _Job, code: int, sentence: str) -> None:
        close = getattr(job.pieces, "close", None)
        if close is not None:
            close()
        made = job.candidates
        ranking = None if made is None else ranked(made, job.scores)
        if code == Result.NONE and made is not None and ranking is not None \
                and job.situation is not None:
            self.review.scored(job.stamp_ns, made, ranking, job.situation)
            self._show_best(job, ranking)
        job.goal.finish(code, sentence, ranking)

    def _show_best(self, job: _Job, ranking: Ranking) -> None:
        """The best candidate's views go out as frames, so that hindsight judges them."""
        best = self._made.get(ranking.best_id)
        self._made.clear()
        if best is None:
            return
        for frame in best.frames:
            stamp_ns = self._show(replace(
                frame, request_id=job.goal.request_id,
                image=composite(frame.guide, frame.image)))
            self.review.shown(stamp_ns, ranking.best_id)

    def _check_later(self) -> None:
        """Now and then: where the base is, and the calls whose time has passed."""
        while self._view_errors:
            self.review.view_error(*self._view_errors.popleft())
        now = time.monotonic()
        if now < self._review_due:
            return
        self._review_due = now + _REVIEW_PERIOD
        try:
            base, stamp_ns = self._poses.current_base(), self._poses.newest_stamp()
        except TransformUnavailable:
            return
        self.review.moved(stamp_ns, base)
        sight = self._sight() if self.review.due else None
        if sight is None:
            return
        try:
            mount = self._poses.base_from(sight.camera_frame, sight.references[0].stamp_ns)
        except TransformUnavailable:
            return
        for review in self.review.judge(Situation(
                self._memory, sight.references, base, mount, sight.camera)):
            self._reviewed(review)
        self.scorer.trust = self.review.trust


_END = object()
