# SPDX-License-Identifier: Apache-2.0
"""Closed loop: a planner drives a simulated robot through a scenery, step by step.

One class for `inspatio loop`, the node `imagined_camera`, the benchmark and the tests. Everything
follows from scenery, options, seed and commands: the same episode is the same twice.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import numpy as np
import numpy.typing as npt

from inspatio_ros.geometry import rigid
from inspatio_ros.geometry.camera import PinholeCamera
from inspatio_ros.planning.combination import pdms
from inspatio_ros.planning.footprint import Footprint
from inspatio_ros.planning.kinematics import Motion, discomforts
from inspatio_ros.planning.mounting import camera_of_view
from inspatio_ros.planning.scenery import Scenery, Seen
from inspatio_ros.planning.vehicles import Command, Unicycle, Vehicle, VehicleState

Array = npt.NDArray[np.float64]

# Moments ahead at which a collision at even speed and turn rate is looked for, s.
_LOOK_AHEAD = (0.5, 1.0)
# Comfort is judged over pieces of this length, s, as NAVSIM's trajectories have.
_COMFORT_WINDOW = 4.0
# An open route is driven to its end when no more than this is left, m.
_ROUTE_END = 0.5
MAX_STEPS = 200_000


class End(StrEnum):
    """How an episode ended. Only COMPLETED is a success."""

    RUNNING = "running"
    COMPLETED = "completed"
    COLLISION = "collision"
    STUCK = "stuck"
    OFF_ROUTE = "off_route"
    UNSUPPORTED = "unsupported"


@dataclass(frozen=True)
class LoopOptions:
    """How an episode is run.

    step: s of one step. duration: s after which an episode is completed, when the route has not
    ended before. camera and base_from_camera [4, 4] (optical): what the robot looks with.
    footprint. min_coverage: below it an episode ends as unsupported, as soon as `patience` steps
    one after the other are. trust_radius: m from the route beyond which nothing is known of a
    recording (unsupported), and a robot in a world is lost (off_route). stuck_after: s without
    half a metre gained. target_speed: m/s that full progress takes. Raises ValueError.
    """

    step: float = 0.1
    duration: float = 60.0
    camera: PinholeCamera = field(default_factory=lambda: camera_of_view(128, 80, 1.75))
    base_from_camera: Array = field(default_factory=lambda: default_mount())
    footprint: Footprint = field(default_factory=lambda: Footprint(
        front=0.4, rear=0.4, left=0.28, right=0.28, height=1.2))
    min_coverage: float = 0.35
    patience: int = 3
    trust_radius: float = 3.0
    stuck_after: float = 25.0
    target_speed: float = 1.5

    def __post_init__(self) -> None:
        for name in ("step", "duration", "trust_radius", "stuck_after", "target_speed"):
            if not getattr(self, name) > 0:
                raise ValueError(f"loop: {name} {getattr(self, name)} is not positive")
        if self.duration / self.step > MAX_STEPS:
            raise ValueError(f"loop: {self.duration} s at {self.step} s a step are more than "
                             f"{MAX_STEPS} steps")
        if not 0 <= self.min_coverage <= 1 or self.patience < 1:
            raise ValueError(f"loop: min_coverage {self.min_coverage} must lie in [0, 1] and "
                             f"patience {self.patience} be at least 1")
        rigid.require_rigid(self.base_from_camera, "base_from_camera")


def default_mount() -> Array:
    """base_from_camera of a small robot: 1 m up, 0.45 rad down, so that it sees its next steps."""
    return np.asarray(rigid.from_euler(0.0, 0.45, 0.0, (0.3, 0.0, 1.0))
                      @ rigid.BODY_FROM_OPTICAL)


@dataclass(frozen=True, eq=False)
class Tick:
    """One moment of an episode: where the robot is, and what it sees."""

    index: int
    time: float
    state: VehicleState
    world_from_base: Array
    world_from_camera: Array
    seen: Seen
    station: float
    end: End
    detail: str = ""


class ClosedLoop:
    """One episode at a time. Bounded: what is logged ends with the episode's duration.

    Call `reset(seed)`, then `step(command)` until `tick.end` is not RUNNING. Raises ValueError on
    a step before a reset or after the end.
    """

    def __init__(self, scenery: Scenery, options: LoopOptions | None = None,
                 vehicle: Vehicle | None = None) -> None:
        self.scenery = scenery
        self.options = options or LoopOptions()
        self.vehicle: Vehicle = vehicle or Unicycle()
        self.tick: Tick | None = None
        self.log = EpisodeLog(self.options, 0, 0.0)
        self._unsupported = 0

    def reset(self, seed: int = 0) -> Tick:
        """Begin a new episode; nothing of the one before remains."""
        state = self.scenery.reset(seed)
        station, offset = self.scenery.route.locate(state.x, state.y)
        length = math.inf if self.scenery.route.closed else self.scenery.route.length - station
        self.log = EpisodeLog(self.options, seed, station, length)
        self._unsupported = 0
        self.tick = self._tick(0, state, station, offset)
        return self.tick

    def step(self, command: Command) -> Tick:
        """The moment one step later, driving as commanded."""
        before = self.tick
        if before is None:
            raise ValueError("no episode: reset it first")
        if before.end is not End.RUNNING:
            raise ValueError(f"the episode has ended ({before.end}: {before.detail}); reset it")
        state = self.vehicle.step(before.state, command, self.options.step)
        station, offset = self.scenery.route.locate(state.x, state.y, before.station)
        self.tick = self._tick(before.index + 1, state, station, offset)
        return self.tick

    def _tick(self, index: int, state: VehicleState, station: float, offset: float) -> Tick:
        options = self.options
        time = index * options.step
        world_from_base = self.scenery.world_from_base(state)
        world_from_camera = world_from_base @ options.base_from_camera
        seen = self.scenery.look(options.camera, world_from_camera, time)
        low = seen.coverage < options.min_coverage
        self._unsupported = self._unsupported + 1 if low else 0
        corners = options.footprint.corners(state.x, state.y, state.yaw)
        touched = self.scenery.touched(corners, time)
        self.log.add(time, state, station, offset, seen.coverage,
                     not touched and self._clear_ahead(state, time))
        end, detail = self._ended(time, station, offset, touched, seen)
        self.log.end, self.log.detail = end, detail
        return Tick(index, time, state, world_from_base, world_from_camera, seen, station, end,
                    detail)

    def _clear_ahead(self, state: VehicleState, time: float) -> bool:
        """Whether nothing is touched within a second at even speed and turn rate."""
        for ahead in _LOOK_AHEAD:
            turn = state.yaw_rate * ahead
            x = state.x + state.speed * ahead * math.cos(state.yaw + turn / 2)
            y = state.y + state.speed * ahead * math.sin(state.yaw + turn / 2)
            corners = self.options.footprint.corners(x, y, state.yaw + turn)
            if self.scenery.touched(corners, time + ahead):
                return False
        return True

    def _ended(self, time: float, station: float, offset: float, touched: str,
               seen: Seen) -> tuple[End, str]:
        options, log = self.options, self.log
        if touched:
            return End.COLLISION, f"touches {touched}"
        if self._unsupported >= options.patience:
            return End.UNSUPPORTED, (f"only {seen.coverage:.0%} of the view rests on what was "
                                     f"seen (limit {options.min_coverage:.0%})")
        if abs(offset) > options.trust_radius:
            known = self.scenery.name == "street"
            return (End.OFF_ROUTE if known else End.UNSUPPORTED,
                    f"{abs(offset):.1f} m from the route (limit {options.trust_radius:g} m)")
        left = log.route_left - (station - log.first_station)
        if left <= _ROUTE_END or time >= options.duration - options.step / 2:
            return End.COMPLETED, "the end of the route" if left <= _ROUTE_END else "time is over"
        if log.seconds_without_gain >= options.stuck_after:
            return End.STUCK, f"no half metre gained in {options.stuck_after:g} s"
        return End.RUNNING, ""


class EpisodeLog:
    """What happened in one episode, and its sub-scores."""

    def __init__(self, options: LoopOptions, seed: int, first_station: float,
                 route_left: float = math.inf) -> None:
        self.seed = seed
        self.first_station, self.route_left = first_station, route_left
        self.end, self.detail = End.RUNNING, ""
        self.states: list[VehicleState] = []
        self.coverage: list[float] = []
        self.offsets: list[float] = []
        self.times: list[float] = []
        self._options = options
        self._clear = 0
        self._farthest = first_station
        self._gained_at, self._gained_station = 0.0, first_station

    def add(self, time: float, state: VehicleState, station: float, offset: float,
            coverage: float, clear: bool) -> None:
        """Take in one moment."""
        self.times.append(time)
        self.states.append(state)
        self.coverage.append(coverage)
        self.offsets.append(offset)
        self._clear += clear
        self._farthest = max(self._farthest, station)
        if station >= self._gained_station + 0.5:
            self._gained_at, self._gained_station = time, station

    @property
    def seconds_without_gain(self) -> float:
        """Seconds since half a metre of the route was gained."""
        return self.times[-1] - self._gained_at

    @property
    def gained(self) -> float:
        """Metres of the route gained, at the farthest."""
        return self._farthest - self.first_station

    def scores(self) -> dict[str, float]:
        """Sub-scores in [0, 1]: NAVSIM's, over the whole episode, and their PDM score.

        no_at_fault_collisions: 0 after a collision, whoever's fault. drivable_area_compliance: 1
        unless the robot left the route's surroundings. time_to_collision_within_bound: share of
        moments from which nothing is touched within a second at even speed and turn rate.
        ego_progress: metres gained over those at the target speed for the whole duration, or to
        the route's end. comfort: share of 4 s pieces within NAVSIM's bounds. coverage: mean.
        """
        options = self._options
        wanted = min(options.target_speed * options.duration, self.route_left)
        terms = {
            "no_at_fault_collisions": 0.0 if self.end is End.COLLISION else 1.0,
            "drivable_area_compliance": 0.0 if self.end in (End.OFF_ROUTE, End.UNSUPPORTED)
            else 1.0,
            "time_to_collision_within_bound": self._clear / max(len(self.times), 1),
            "ego_progress": min(max(self.gained / wanted, 0.0), 1.0) if wanted > 0 else 1.0,
            "comfort": self._comfort()}
        return {**terms, "pdm_score": pdms(terms), "coverage": float(np.mean(self.coverage))}

    def _comfort(self) -> float:
        count = round(_COMFORT_WINDOW / self._options.step)
        rows = np.array([(s.x, s.y, s.yaw, s.speed, s.yaw_rate) for s in self.states])
        fine = total = 0
        for first in range(0, len(rows) - count, count):
            x, y, yaw, speed, rate = rows[first:first + count + 1].T
            times = np.asarray(np.arange(len(x)) * self._options.step, np.float64)
            acceleration = np.asarray(np.gradient(speed, times), np.float64)
            motion = Motion(times, x, y, yaw, speed, acceleration, speed * rate)
            fine += not discomforts(motion)
            total += 1
        return fine / total if total else 1.0

    def as_json(self, *, steps: bool = False) -> dict[str, Any]:
        """Plain values; with `steps` every moment too."""
        content: dict[str, Any] = {
            "seed": self.seed, "end": str(self.end), "detail": self.detail,
            "seconds": round(self.times[-1], 3) if self.times else 0.0,
            "gained_m": round(self.gained, 3),
            "largest_offset_m": round(float(np.abs(self.offsets).max()), 3),
            "lowest_coverage": round(min(self.coverage), 4),
            "scores": {name: round(value, 4) for name, value in self.scores().items()}}
        if steps:
            content["steps"] = [
                {"time": round(t, 3), "x": round(s.x, 4), "y": round(s.y, 4),
                 "yaw": round(s.yaw, 5), "speed": round(s.speed, 4),
                 "yaw_rate": round(s.yaw_rate, 4), "offset": round(o, 3),
                 "coverage": round(c, 3)}
                for t, s, o, c in zip(self.times, self.states, self.offsets, self.coverage,
                                      strict=True)]
        return content
