# SPDX-License-Identifier: Apache-2.0
"""Scores checked later: what terms of the driven candidate were worth, and how far to trust them.

Of every call the candidate that the robot then followed is judged again, along the way it really
took and by all that has been seen since. Terms that are often wrong lose weight.
"""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from inspatio_ros.geometry import rigid
from inspatio_ros.planning.candidates import Candidate, RefusedCandidate
from inspatio_ros.planning.consistency import WORST_ERROR
from inspatio_ros.planning.scores import CandidateScorer, Ranking, Situation
from inspatio_ros.planning.terms import (
    COMFORT,
    DRIVABLE,
    FUTURE,
    MULTIPLIERS,
    NO_COLLISION,
    PROGRESS,
    TERMS,
    TIME_TO_COLLISION,
)

Array = npt.NDArray[np.float64]

_MAX_POSES = 4096
_MAX_VIEWS = 256
# Poses of the base nearer in time than this are not held, ns.
_POSE_EVERY_NS = 20_000_000


@dataclass(frozen=True)
class ReviewOptions:
    """calls: that wait to be judged, at most; the oldest leave. window: judged candidates that
    trust rests on; minimum: before any is taken away. horizon: s of a candidate that are compared.
    tolerance: m, and share: of its length, by which what was driven may differ. tolerated: mean
    error that costs no trust; lost: at which all of it is gone. Raises ValueError when they make
    no sense."""

    calls: int = 16
    window: int = 32
    minimum: int = 5
    horizon: float = 4.0
    tolerance: float = 0.25
    share: float = 0.05
    tolerated: float = 0.1
    lost: float = 0.5

    def __post_init__(self) -> None:
        if min(self.calls, self.window, self.minimum) < 1 or not self.horizon > 0:
            raise ValueError("calls, window and minimum must be at least 1, horizon positive")
        if not 0 <= self.tolerated < self.lost or self.tolerance < 0 or self.share < 0:
            raise ValueError(f"tolerated {self.tolerated} must lie below lost {self.lost}, and no "
                             "tolerance may be negative")


@dataclass(frozen=True)
class TermReview:
    """One driven candidate. predicted, real: terms by name, NaN where not known; error: mean
    absolute error of each term lately, NaN before the first; trust: share of its weight that it
    keeps. duration s and deviation m of what was driven; judged: candidates these rest on."""

    id: str
    stamp_ns: int
    duration: float
    deviation: float
    predicted: Mapping[str, float]
    real: Mapping[str, float]
    error: Mapping[str, float]
    trust: Mapping[str, float]
    judged: int


@dataclass(eq=False)
class _Call:
    stamp_ns: int
    candidates: list[Candidate]
    ranking: Ranking
    speed: float | None
    route: Array | None
    view_errors: dict[str, list[float]] = field(default_factory=dict)


class CandidateReview:
    """Remembers calls and where the base went, and judges what was driven. Bounded; one thread.

    dropped counts calls that were never judged: crowded_out, not_driven (no candidate was
    followed), pose_gap.
    """

    def __init__(self, scorer: CandidateScorer, options: ReviewOptions | None = None) -> None:
        self.options = options or ReviewOptions()
        self._scorer = scorer
        self.dropped: Counter[str] = Counter()
        self._errors: dict[str, deque[float]] = {
            name: deque(maxlen=self.options.window) for name in TERMS}
        self.judged = 0
        self.reset()

    def reset(self) -> None:
        """Forget calls and poses, as when time jumps back; errors and trust stay."""
        self._calls: deque[_Call] = deque()
        self._poses: deque[tuple[int, Array]] = deque(maxlen=_MAX_POSES)
        self._views: dict[int, tuple[_Call, str]] = {}

    def scored(self, stamp_ns: int, candidates: Sequence[Candidate | RefusedCandidate],
               ranking: Ranking, situation: Situation) -> None:
        """Remember a call: candidates begin at `stamp_ns` by the clock of the poses."""
        if len(self._calls) >= self.options.calls:
            self._forget(self._calls.popleft())
            self.dropped["crowded_out"] += 1
        self._calls.append(_Call(
            stamp_ns, [c for c in candidates if isinstance(c, Candidate)], ranking,
            situation.speed, situation.route))

    def shown(self, frame_stamp_ns: int, id: str) -> None:
        """A view of a candidate of the newest call went out as the frame of this stamp."""
        if self._calls:
            while len(self._views) >= _MAX_VIEWS:
                self._views.pop(next(iter(self._views)))
            self._views[frame_stamp_ns] = (self._calls[-1], id)

    def view_error(self, frame_stamp_ns: int, error: float) -> bool:
        """What a frame's mean absolute colour error, of 1, was found to be; False: not ours."""
        found = self._views.pop(frame_stamp_ns, None)
        if found is None or not math.isfinite(error):
            return found is not None
        found[0].view_errors.setdefault(found[1], []).append(error)
        return True

    def moved(self, stamp_ns: int, world_from_base: Array) -> None:
        """Where the base is; stamps rise, older ones are left out."""
        if not self._poses or stamp_ns - self._poses[-1][0] >= _POSE_EVERY_NS:
            self._poses.append((stamp_ns, world_from_base))

    @property
    def due(self) -> bool:
        """Whether a call's time has passed."""
        return bool(self._calls and self._poses and self._due(self._calls[0]))

    def judge(self, now: Situation) -> list[TermReview]:
        """The calls whose time has passed, each with the candidate that was followed."""
        made = []
        while self.due:
            call = self._calls.popleft()
            self._forget(call)
            review = self._review(call, now)
            if review is not None:
                made.append(review)
        return made

    def _due(self, call: _Call) -> bool:
        longest = max((c.times[-1] for c in call.candidates), default=0.0)
        seconds = (self._poses[-1][0] - call.stamp_ns) * 1e-9
        return bool(seconds >= min(longest, self.options.horizon))

    def _forget(self, call: _Call) -> None:
        for stamp in [s for s, (owner, _) in self._views.items() if owner is call]:
            del self._views[stamp]

    def _review(self, call: _Call, now: Situation) -> TermReview | None:
        stamps = np.array([stamp for stamp, _ in self._poses], np.int64)
        if stamps[0] > call.stamp_ns:
            self.dropped["pose_gap"] += 1
            return None
        seconds = (stamps - call.stamp_ns).astype(np.float64) * 1e-9
        poses = np.stack([pose for _, pose in self._poses])
        followed = self._followed(call, seconds, poses)
        if followed is None:
            self.dropped["not_driven"] += 1
            return None
        candidate, deviation = followed
        times = candidate.times[candidate.times <= seconds[-1] + 1e-6]
        driven = Candidate(candidate.id, rigid.interpolate(seconds, poses, times), times)
        predicted = call.ranking.of(candidate.id).terms
        real = self._real(call, driven, now)
        for name in TERMS:
            if not math.isnan(predicted[name]) and not math.isnan(real[name]):
                self._errors[name].append(abs(predicted[name] - real[name]))
        self.judged += 1
        return TermReview(candidate.id, call.stamp_ns, driven.duration, deviation, predicted,
                          real, self.errors, self.trust, self.judged)

    def _followed(self, call: _Call, seconds: Array,
                  poses: Array) -> tuple[Candidate, float] | None:
        best: tuple[float, Candidate] | None = None
        for candidate in call.candidates:
            times = candidate.times[candidate.times <= min(seconds[-1], self.options.horizon)]
            if len(times) < 2:
                continue
            way = rigid.interpolate(seconds, poses, times)[:, :3, 3]
            planned = candidate.at(times)[:, :3, 3]
            apart = float(np.linalg.norm(way - planned, axis=1).max())
            length = float(np.linalg.norm(np.diff(planned, axis=0), axis=1).sum())
            allowed = self.options.tolerance + self.options.share * length
            if apart <= allowed and (best is None or apart < best[0]):
                best = (apart, candidate)
        return None if best is None else (best[1], best[0])

    def _real(self, call: _Call, driven: Candidate, now: Situation) -> dict[str, float]:
        """What the terms should have said. The robot came through, so nothing was in its way."""
        later = replace(now, speed=call.speed, route=call.route, movers=())
        judged = self._scorer.rank([driven], later).scores[0].terms
        real = dict.fromkeys(TERMS, math.nan)
        real[NO_COLLISION] = real[DRIVABLE] = 1.0
        for name in (TIME_TO_COLLISION, PROGRESS, COMFORT):
            real[name] = judged[name]
        errors = call.view_errors.get(driven.id)
        if errors:
            real[FUTURE] = max(0.0, 1.0 - float(np.mean(errors)) / WORST_ERROR)
        return real

    @property
    def errors(self) -> dict[str, float]:
        """Mean absolute error of each term over the window, NaN before the first."""
        return {name: float(np.mean(held)) if held else math.nan
                for name, held in self._errors.items()}

    @property
    def trust(self) -> dict[str, float]:
        """[0, 1] of each term: 1 up to the tolerated error, falling to 0 at the lost one.

        Multipliers keep 1: a candidate that seems to collide is not driven on trust.
        """
        o = self.options
        found = {}
        for name, held in self._errors.items():
            error = float(np.mean(held)) if len(held) >= o.minimum else 0.0
            share = 1.0 - (error - o.tolerated) / (o.lost - o.tolerated)
            found[name] = 1.0 if name in MULTIPLIERS else min(max(share, 0.0), 1.0)
        return found
