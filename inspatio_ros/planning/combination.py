# SPDX-License-Identifier: Apache-2.0
"""Sub-scores to one score: multipliers times a weighted mean, as NAVSIM combines them.

PDMS: Dauner et al., NAVSIM, NeurIPS 2024, and its docs/metrics.md. EPDMS: Cao et al., Pseudo-
Simulation for Autonomous Driving, 2025 (NAVSIM v2). Both as github.com/autonomousvision/navsim has
them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

PDMS_MULTIPLIERS = ("no_at_fault_collisions", "drivable_area_compliance")
PDMS_WEIGHTS: Mapping[str, float] = {
    "ego_progress": 5.0, "time_to_collision_within_bound": 5.0, "comfort": 2.0}
EPDMS_MULTIPLIERS = ("no_at_fault_collisions", "drivable_area_compliance",
                     "driving_direction_compliance", "traffic_light_compliance")
EPDMS_WEIGHTS: Mapping[str, float] = {
    "ego_progress": 5.0, "time_to_collision_within_bound": 5.0, "lane_keeping": 2.0,
    "history_comfort": 2.0, "two_frame_extended_comfort": 2.0}
# Raw progress below this is noise: nobody is told apart by it, m.
_LEAST_PROGRESS = 5.0


def combined(
    terms: Mapping[str, float], multipliers: tuple[str, ...], weights: Mapping[str, float]
) -> float:
    """Product of the multipliers times the weighted mean of the rest, [0, 1].

    Raises ValueError naming a term that is missing or outside [0, 1], or when no weight is
    positive.
    """
    factor = 1.0
    for name in multipliers:
        factor *= _checked(terms, name)
    total = math.fsum(weights.values())
    if min(weights.values(), default=0.0) < 0 or not total > 0:
        raise ValueError(f"weights must not be negative, one must be positive: {dict(weights)}")
    return factor * math.fsum(w * _checked(terms, name) for name, w in weights.items()) / total


def _checked(terms: Mapping[str, float], name: str) -> float:
    value = terms.get(name, math.nan)
    if not 0.0 <= value <= 1.0:
        raise ValueError(f"term '{name}' is {value}, not within 0 to 1")
    return float(value)


def pdms(terms: Mapping[str, float]) -> float:
    """NAVSIM's PDM score: NC · DAC · (5 EP + 5 TTC + 2 C) / 12."""
    return combined(terms, PDMS_MULTIPLIERS, PDMS_WEIGHTS)


def epdms(terms: Mapping[str, float], human: Mapping[str, float] | None = None) -> float:
    """NAVSIM v2's extended score: NC · DAC · DDC · TLC · (5 EP + 5 TTC + 2 LK + 2 HC + 2 EC) / 16.

    human: sub-scores of the recorded driver; a term that is 0 there counts as 1, since what the
    scene forces on everybody is nobody's fault. Terms that it lacks are not filtered.
    """
    reference = human or {}
    filtered = {name: 1.0 if reference.get(name) == 0 else value for name, value in terms.items()}
    return combined(filtered, EPDMS_MULTIPLIERS, EPDMS_WEIGHTS)


def relative_progress(raw: Mapping[str, float], factors: Mapping[str, float]) -> dict[str, float]:
    """NAVSIM's ego progress of proposals by id, [0, 1].

    raw: m along the route. factors: product of each one's multipliers. Each is measured against
    the farthest that breaks nothing; when that is not above 5 m all that break nothing get 1.
    """
    kept = {id: max(metres, 0.0) * factors[id] for id, metres in raw.items()}
    farthest = max(kept.values(), default=0.0)
    if farthest > _LEAST_PROGRESS:
        return {id: metres / farthest for id, metres in kept.items()}
    return {id: 1.0 if factors[id] > 0 else 0.0 for id in kept}
