# SPDX-License-Identifier: Apache-2.0
"""The reference planner: pure pursuit of a route, with or without scoring of candidates.

Pure pursuit after Coulter (Implementation of the Pure Pursuit Path Tracking Algorithm, CMU 1992):
steer along the arc to a point ahead. With a scorer, ways at several offsets from the route and
several speeds are rolled out with the robot's own motion model, scored against what was seen, and
the best is driven; without one the route is simply followed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from inspatio_ros.geometry import rigid
from inspatio_ros.memory.world_memory import MemoryOptions, WorldMemory
from inspatio_ros.planning.candidates import Candidate
from inspatio_ros.planning.closed_loop import LoopOptions, Tick
from inspatio_ros.planning.coarse_views import ViewOptions
from inspatio_ros.planning.ground_map import GroundOptions
from inspatio_ros.planning.route import Route
from inspatio_ros.planning.scores import CandidateScorer, Ranking
from inspatio_ros.planning.situation import MovingBox, Situation
from inspatio_ros.planning.terms import ScoreOptions, State
from inspatio_ros.planning.vehicles import Command, Vehicle, VehicleState
from inspatio_ros.sensing.gating import FuseGate
from inspatio_ros.sensing.observation import Observation

Array = npt.NDArray[np.float64]

_REVERSE = "back"
# Step of the rollouts, s.
_ROLL = 0.2
# The ground is mapped as far as a candidate leads, m.
_MAP_RADIUS = 9.0


@dataclass(frozen=True)
class PursuitOptions:
    """How the reference planner drives.

    target_speed m/s. offsets m: of candidate ways to the left of the route; speeds: shares of the
    target speed that are tried with each (0: stop). interval s: between two choices. horizon s: of
    a candidate. caution [0, 1]: how much of a score's uncertainty is taken off. loyalty: what the
    way in use gets on top, so that equal ways do not alternate. remember s: how long a moving
    thing out of view is still reckoned with. lateral m/s²: in bends.
    """

    target_speed: float = 1.5
    offsets: tuple[float, ...] = (0.0, 0.45, -0.45, 0.9, -0.9, 1.3, -1.3)
    speeds: tuple[float, ...] = (1.0, 0.6, 0.3)
    interval: float = 0.4
    horizon: float = 4.0
    caution: float = 0.4
    loyalty: float = 0.04
    remember: float = 1.5
    lateral: float = 1.0


@dataclass(frozen=True)
class _Way:
    """What is pursued: offset from the route m, and speed m/s (negative: back up)."""

    offset: float = 0.0
    speed: float = 0.0

    @property
    def id(self) -> str:
        """Its candidate's name."""
        return _REVERSE if self.speed < 0 else f"{self.offset:+.2f} m, {self.speed:.2f} m/s"


class PursuitPlanner:
    """Turns ticks of a closed loop into commands.

    scorer: None to follow the route whatever comes. One thread; `reset` before each episode, after
    which nothing of the one before remains.
    """

    def __init__(self, route: Route, vehicle: Vehicle, loop: LoopOptions,
                 scorer: CandidateScorer | None = None,
                 options: PursuitOptions | None = None) -> None:
        self.options = options or PursuitOptions()
        self._route, self._vehicle, self._loop, self._scorer = route, vehicle, loop, scorer
        self._memory = WorldMemory(MemoryOptions(
            capacity=150_000, voxel_size=0.05, max_age=30.0, max_radius=20.0, max_depth=15.0,
            mode="fast", guess=False, match_exposure=False))
        self.reset(route)

    @property
    def nbytes(self) -> int:
        """Bytes of what is remembered; constant."""
        return self._memory.nbytes

    def reset(self, route: Route | None = None) -> None:
        """Forget everything; drive along `route` (default: the same one) from now on."""
        self._route = route or self._route
        self._memory.clear()
        self._gate = FuseGate(4.0)
        self._references: tuple[Observation, ...] = ()
        self._tracked: list[tuple[float, MovingBox]] = []
        self._way = _Way(0.0, self.options.target_speed)
        self._chosen_at = -math.inf
        self._moved_at: float | None = None
        self.ranking: Ranking | None = None

    def look_through(self, loop: LoopOptions) -> None:
        """Take camera, mounting and footprint from these options from now on."""
        self._loop = loop

    def command(self, tick: Tick) -> Command:
        """What to do until the next tick."""
        if self._scorer is not None:
            self._observe(tick)
            if tick.time - self._chosen_at >= self.options.interval - 1e-6:
                self._chosen_at = tick.time
                self._way = self._choose(tick, self._scorer)
        return self._pursue(tick.state, self._way, tick.station)[0]

    def towards(self, state: VehicleState) -> Command:
        """Along the route at the target speed, wherever the robot is; stops at an open end."""
        station, _ = self._route.locate(state.x, state.y)
        left = math.inf if self._route.closed else self._route.length - station
        # No faster than what can be braked off before the end.
        braking = math.sqrt(2 * 0.5 * self._vehicle.limits.max_braking * max(left, 0.0))
        speed = min(self.options.target_speed, braking) if left > 0.05 else 0.0
        command, _ = self._pursue(state, _Way(0.0, speed), station)
        return command if speed > 0 else Command()

    # What is known.

    def _observe(self, tick: Tick) -> None:
        seen, loop = tick.seen, self._loop
        now = Observation(round(tick.time * 1e9), seen.image, seen.depth, loop.camera,
                          tick.world_from_camera)
        self._references = (now, *self._references)[:2]
        if self._gate.admits(now.stamp_ns, now.world_from_camera):
            self._memory.integrate(now)
        if seen.movers is not None:
            kept = [(t, m) for t, m in self._tracked if tick.time - t < self.options.remember
                    and not _any_near(_moved(m, tick.time - t), seen.movers)]
            self._tracked = [(tick.time, mover) for mover in seen.movers] + kept

    def _movers(self, time: float) -> tuple[MovingBox, ...]:
        return tuple(_moved(mover, time - t) for t, mover in self._tracked)

    # What is chosen.

    def _choose(self, tick: Tick, scorer: CandidateScorer) -> _Way:
        options = self.options
        ways = {way.id: way for way in (
            *(_Way(o, s * options.target_speed) for s in options.speeds for o in options.offsets),
            _Way(self._way.offset, 0.0))}
        if self._moved_at is None or abs(tick.state.speed) > 0.15:
            self._moved_at = tick.time
        waited = tick.time - self._moved_at
        if waited > 4.0:
            # Standing before something for long: make room to turn.
            ways[_REVERSE] = _Way(0.0, -0.4)
        candidates = [self._candidate(way, tick) for way in ways.values()]
        ahead = self._route.ahead(tick.station - 3.0,
                                  options.target_speed * options.horizon + 6.0)
        situation = Situation(
            self._memory, self._references, tick.world_from_base, self._loop.base_from_camera,
            self._loop.camera, tick.state.speed,
            self._movers(tick.time) if tick.seen.movers is not None else None, ahead)
        self.ranking = scorer.rank(candidates, situation)
        values = {}
        for score in self.ranking.scores:
            value = score.score - options.caution * score.uncertainty
            if score.state not in (State.COMPLETE, State.PARTIAL):
                value = 0.1 * value
            if score.id == self._way.id:
                value += options.loyalty
            # Waiting is no way to live for good.
            if ways[score.id].speed == 0.0:
                value -= min(0.02 * waited, 0.3)
            values[score.id] = value if score.score > 0 else -1.0
        best = max(values, key=lambda id: values[id])
        return ways[best] if values[best] > -0.5 else _Way(self._way.offset, 0.0)

    def _candidate(self, way: _Way, tick: Tick) -> Candidate:
        """The way as the robot would really drive it, a pose each half second."""
        state, station = tick.state, tick.station
        states, times = [state], [0.0]
        for step in range(1, round(self.options.horizon / _ROLL) + 1):
            command, station = self._pursue(state, way, station)
            state = self._vehicle.step(state, command, _ROLL)
            if step % 2 == 0:
                states.append(state)
                times.append(step * _ROLL)
        # In the world's plane: the base's height and tilt stay those of now.
        poses = tick.world_from_base @ (rigid.invert(_flat(states[:1])) @ _flat(states))
        return Candidate(way.id, poses, np.array(times))

    def _pursue(self, state: VehicleState, way: _Way, near: float) -> tuple[Command, float]:
        """The command towards a way, and the route's station at the robot."""
        station, _ = self._route.locate_quickly(state.x, state.y, near)
        if way.speed < 0:
            return Command(way.speed, 0.0), station
        reach = min(max(1.0, 0.8 * abs(state.speed) + 0.4), 4.0)
        x, y, heading = self._route.pose(station + reach)
        dx = x - way.offset * math.sin(heading) - state.x
        dy = y + way.offset * math.cos(heading) - state.y
        ahead = math.cos(state.yaw) * dx + math.sin(state.yaw) * dy
        left = -math.sin(state.yaw) * dx + math.cos(state.yaw) * dy
        square = max(dx * dx + dy * dy, 1e-6)
        limits = self._vehicle.limits
        if ahead < 0:
            # The point lies behind: turn towards it first.
            return Command(min(way.speed, 0.3), math.copysign(limits.max_yaw_rate, left)), station
        curvature = 2 * left / square
        bend = max(abs(curvature), 1e-6)
        speed = min(way.speed, math.sqrt(self.options.lateral / bend),
                    0.9 * limits.max_yaw_rate / bend)
        return Command(speed, curvature * max(abs(state.speed), 0.2)), station


def reference_scorer(loop: LoopOptions, *, margin: float = 0.08) -> CandidateScorer:
    """The scorer that the reference planner is shipped with: near ground, geometry terms first.

    margin: m kept free around the footprint.
    """
    return CandidateScorer(
        replace(loop.footprint, margin=margin),
        ScoreOptions(target_speed=loop.target_speed, ground=GroundOptions(radius=_MAP_RADIUS),
                     views=ViewOptions(width=24, points=2_000, views=1)))


def _flat(states: Sequence[VehicleState]) -> Array:
    """Poses [N, 4, 4] on the plane z = 0."""
    x, y, yaw = np.array([(state.x, state.y, state.yaw) for state in states]).T
    poses = np.zeros((len(states), 4, 4))
    poses[:, 0, 0] = poses[:, 1, 1] = np.cos(yaw)
    poses[:, 1, 0] = np.sin(yaw)
    poses[:, 0, 1] = -poses[:, 1, 0]
    poses[:, 2, 2] = poses[:, 3, 3] = 1.0
    poses[:, 0, 3], poses[:, 1, 3] = x, y
    return poses


def _moved(mover: MovingBox, seconds: float) -> MovingBox:
    pose = mover.world_from_box.copy()
    pose[:3, 3] += np.asarray(mover.velocity) * seconds
    return replace(mover, world_from_box=pose)


def _any_near(mover: MovingBox, others: tuple[MovingBox, ...]) -> bool:
    place = mover.world_from_box[:2, 3]
    return any(float(np.linalg.norm(other.world_from_box[:2, 3] - place)) < 1.0
               for other in others)
