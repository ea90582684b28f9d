# SPDX-License-Identifier: Apache-2.0
"""The terms of a candidate's score, their weights, and how they become one number.

Formulas and sources of the terms: docs/planners.md.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum

from inspatio_ros.planning.coarse_views import ViewOptions
from inspatio_ros.planning.combination import combined
from inspatio_ros.planning.ground_map import GroundOptions
from inspatio_ros.planning.kinematics import ComfortBounds

NO_COLLISION, DRIVABLE = "no_collision", "drivable"
TIME_TO_COLLISION, PROGRESS, COMFORT = "time_to_collision", "progress", "comfort"
COVERAGE, AGREEMENT, FUTURE = "coverage", "agreement", "future_consistency"
MULTIPLIERS = (NO_COLLISION, DRIVABLE)
# In this order everywhere.
TERMS = (NO_COLLISION, DRIVABLE, TIME_TO_COLLISION, PROGRESS, COMFORT, COVERAGE, AGREEMENT, FUTURE)
WEIGHTS: Mapping[str, float] = {
    TIME_TO_COLLISION: 5.0, PROGRESS: 5.0, COMFORT: 2.0, COVERAGE: 0.1, AGREEMENT: 0.1,
    FUTURE: 0.3}


class State(IntEnum):
    """How far a candidate was judged; the values of CandidateScore.msg."""

    COMPLETE = 0
    PARTIAL = 1
    UNSUPPORTED = 2
    FAILED = 3


@dataclass(frozen=True)
class ScoreOptions:
    """How candidates are judged.

    weights: of the terms that are no multipliers. prior: what a term counts that was not
    evaluated. target_speed: m/s of full progress. look_ahead: s over which a collision at even
    speed and heading counts against time_to_collision. max_unknown: a candidate is UNSUPPORTED
    when more of its corridor was never seen. hidden_area: m² of unseen ground that may hide
    something. near: m; position_error of the map, a cell when 0. drift: m/s by which the speed of
    something that moves may be wrong. comfort, ground, views: of those parts.
    Raises ValueError on values that make no sense.
    """

    weights: Mapping[str, float] = field(default_factory=lambda: dict(WEIGHTS))
    prior: float = 0.5
    target_speed: float = 1.0
    look_ahead: float = 1.0
    max_unknown: float = 0.5
    hidden_area: float = 0.1
    near: float = 0.0
    drift: float = 0.3
    comfort: ComfortBounds = field(default_factory=ComfortBounds)
    ground: GroundOptions = field(default_factory=GroundOptions)
    views: ViewOptions = field(default_factory=ViewOptions)

    def __post_init__(self) -> None:
        strange = sorted(set(self.weights) - set(WEIGHTS))
        if strange:
            raise ValueError(f"weights: no term is called {', '.join(strange)}; they are "
                             f"{', '.join(WEIGHTS)}")
        if min(self.weights.values(), default=0) < 0 or not sum(self.weights.values()) > 0:
            raise ValueError("weights must not be negative and one must be positive")
        for name in ("target_speed", "look_ahead", "hidden_area"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} {getattr(self, name)} is not positive")
        for name in ("prior", "max_unknown"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} {getattr(self, name)} is not within 0 to 1")
        if self.near < 0 or self.drift < 0:
            raise ValueError("near and drift must not be negative")


@dataclass(frozen=True)
class Score:
    """The verdict on one candidate.

    score: [0, 1], higher is better. uncertainty: [0, 1], by how much of it a hidden obstacle, a
    close call or a mover's change of speed may take away: score - uncertainty is certain. terms:
    by name of TERMS, [0, 1], NaN where not evaluated. unknown_ratio: share of the swept corridor
    never seen. frames_imagined: for this candidate. first_hit: s to the first collision, inf
    without one. doubt: [0, 1] share of the score that is uncertain. detail: why it FAILED or is
    PARTIAL or UNSUPPORTED, else empty.
    """

    id: str
    state: State
    score: float = 0.0
    uncertainty: float = 0.0
    terms: Mapping[str, float] = field(default_factory=lambda: dict.fromkeys(TERMS, math.nan))
    unknown_ratio: float = 1.0
    frames_imagined: int = 0
    first_hit: float = math.inf
    doubt: float = 1.0
    detail: str = ""


def combine(terms: Mapping[str, float], options: ScoreOptions,
            trust: Mapping[str, float] | None = None) -> float:
    """Product of the multipliers times the weighted mean of the other terms.

    trust: [0, 1] by term, which scales its weight; of multipliers nothing is taken away. Terms
    that are NaN count as the prior, but future_consistency as the coverage: what geometry backs is
    consistent. Multipliers that are NaN make the score 0.
    """
    if any(math.isnan(terms[name]) for name in MULTIPLIERS):
        return 0.0
    filled = {name: options.prior if math.isnan(value) else value
              for name, value in terms.items()}
    if math.isnan(terms[FUTURE]):
        filled[FUTURE] = filled[COVERAGE]
    trusted = trust or {}
    weights = {name: weight * trusted.get(name, 1.0) for name, weight in options.weights.items()}
    if not sum(weights.values()) > 0:
        weights = dict(options.weights)
    return combined(filled, MULTIPLIERS, weights)
