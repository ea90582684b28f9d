# SPDX-License-Identifier: Apache-2.0
"""The imagination node's parameters of the robot's footprint and of scored candidates."""

from __future__ import annotations

from dataclasses import dataclass

from inspatio_ros.planning.footprint import Footprint
from inspatio_ros.planning.ground_map import GroundOptions
from inspatio_ros.planning.kinematics import ComfortBounds
from inspatio_ros.planning.terms import ScoreOptions
from inspatio_ros.ros.parameters import param


@dataclass(frozen=True)
class FootprintParameters:
    """The space that the robot takes up, in transforms.base_frame."""

    front: float = param(0.35, "From the base to the front", unit="m", minimum=0.01, maximum=100.0)
    rear: float = param(0.35, "From the base to the rear", unit="m", minimum=0.01, maximum=100.0)
    left: float = param(0.25, "From the base to the left side", unit="m", minimum=0.01,
                        maximum=100.0)
    right: float = param(0.25, "From the base to the right side", unit="m", minimum=0.01,
                         maximum=100.0)
    height: float = param(1.2, "Of the robot above the ground", unit="m", minimum=0.05,
                          maximum=100.0)
    ground: float = param(0.0, "Height of the ground in the base's frame: minus the wheels' "
                          "radius where the base lies in the axle", unit="m", minimum=-10.0,
                          maximum=10.0)
    clearance: float = param(0.1, "What rises less above the ground is driven over", unit="m",
                             minimum=0.0, maximum=10.0)
    margin: float = param(0.05, "Kept free on every side", unit="m", minimum=0.0, maximum=10.0)

    def check(self) -> None:
        """Raise ValueError when the values contradict each other."""
        self.footprint()

    def footprint(self) -> Footprint:
        """The core's footprint of these parameters."""
        return Footprint(self.front, self.rear, self.left, self.right, self.height, self.ground,
                         self.clearance, self.margin)


@dataclass(frozen=True)
class ScoringParameters:
    """How candidates of ~/score_candidates are judged: docs/planners.md."""

    target_speed: float = param(1.0, "Speed along the plan (without one: straight ahead) that "
                                "counts as full progress", unit="m/s", minimum=0.01, maximum=100.0)
    imagined: int = param(4, "Candidates that views are imagined along, the best ones", minimum=1,
                          maximum=64)
    views: int = param(8, "Views along each of them, where the goal does not say", minimum=2,
                       maximum=64)
    look_ahead: float = param(1.0, "A collision that follows within so long at even speed and "
                              "heading counts against time_to_collision", unit="s", minimum=0.1,
                              maximum=30.0)
    max_unknown: float = param(0.5, "A candidate is UNSUPPORTED when more of its corridor was "
                               "never seen", minimum=0.0, maximum=1.0)
    radius: float = param(25.0, "The ground is mapped so far around the robot", unit="m",
                          minimum=1.0, maximum=200.0)
    cell: float = param(0.0, "Edge of the map's cells; 0: a sixth of the footprint's width, at "
                        "most 0.1", unit="m", minimum=0.0, maximum=2.0)
    min_acceleration: float = param(-4.05, "Hardest comfortable braking", unit="m/s²",
                                    minimum=-100.0, maximum=-0.001)
    max_acceleration: float = param(2.4, "Comfortable acceleration along the way, at most",
                                    unit="m/s²", minimum=0.001, maximum=100.0)
    max_lateral_acceleration: float = param(4.89, "The same across it", unit="m/s²",
                                            minimum=0.001, maximum=100.0)
    max_yaw_rate: float = param(0.95, "Comfortable rate of turn, at most", unit="rad/s",
                                minimum=0.001, maximum=100.0)
    weight_time_to_collision: float = param(5.0, "Weight of the term", minimum=0.0, maximum=1e6)
    weight_progress: float = param(5.0, "Weight of the term", minimum=0.0, maximum=1e6)
    weight_comfort: float = param(2.0, "Weight of the term", minimum=0.0, maximum=1e6)
    weight_coverage: float = param(0.1, "Weight of the term", minimum=0.0, maximum=1e6)
    weight_agreement: float = param(0.1, "Weight of the term", minimum=0.0, maximum=1e6)
    weight_future_consistency: float = param(0.3, "Weight of the term", minimum=0.0, maximum=1e6)
    waiting_goals: int = param(8, "Goals that wait for their turn at most; more are refused",
                               minimum=1, maximum=256)

    def check(self) -> None:
        """Raise ValueError when the values contradict each other."""
        self.options()

    def options(self) -> ScoreOptions:
        """The core's options of these parameters."""
        weights = {name: getattr(self, f"weight_{name}") for name in (
            "time_to_collision", "progress", "comfort", "coverage", "agreement",
            "future_consistency")}
        return ScoreOptions(
            weights=weights, target_speed=self.target_speed, look_ahead=self.look_ahead,
            max_unknown=self.max_unknown, ground=GroundOptions(radius=self.radius, cell=self.cell),
            comfort=ComfortBounds(
                min_longitudinal_acceleration=self.min_acceleration,
                max_longitudinal_acceleration=self.max_acceleration,
                max_lateral_acceleration=self.max_lateral_acceleration,
                max_yaw_rate=self.max_yaw_rate))
