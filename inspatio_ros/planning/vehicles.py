# SPDX-License-Identifier: Apache-2.0
"""How a simulated robot moves on level ground at a fixed step: unicycle and bicycle."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Protocol

UNICYCLE, BICYCLE = "unicycle", "bicycle"
VEHICLES = (UNICYCLE, BICYCLE)
# Below this speed a bicycle's steering for a wanted turn rate is not asked for, m/s.
_SLOWEST_STEERING = 0.3


@dataclass(frozen=True)
class Command:
    """What is asked of the robot: speed along its heading m/s, and turn rate rad/s (left)."""

    speed: float = 0.0
    yaw_rate: float = 0.0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.speed) and math.isfinite(self.yaw_rate)):
            raise ValueError(f"command: speed {self.speed} m/s or yaw rate {self.yaw_rate} rad/s "
                             "is not finite")


@dataclass(frozen=True)
class VehicleState:
    """Place m and heading rad on the ground, speed m/s, turn rate rad/s, steering angle rad."""

    x: float
    y: float
    yaw: float
    speed: float = 0.0
    yaw_rate: float = 0.0
    steering: float = 0.0


@dataclass(frozen=True)
class VehicleLimits:
    """What the robot can do: m/s, m/s², rad/s, rad/s²; for a bicycle also m, rad and rad/s.

    max_braking: the largest deceleration. max_reverse: m/s backwards. Raises ValueError when a
    limit is not positive (max_reverse: negative).
    """

    max_speed: float = 2.0
    max_reverse: float = 0.5
    max_acceleration: float = 1.5
    max_braking: float = 2.5
    max_yaw_rate: float = 0.95
    max_yaw_acceleration: float = 1.9
    wheelbase: float = 1.0
    max_steering: float = 0.6
    max_steering_rate: float = 0.8

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            least_ok = value >= 0 if name == "max_reverse" else value > 0
            if not (math.isfinite(value) and least_ok):
                raise ValueError(f"vehicle limit {name} {value} is not positive")


class Vehicle(Protocol):
    """A model of motion."""

    name: str
    limits: VehicleLimits

    def step(self, state: VehicleState, command: Command, seconds: float) -> VehicleState:
        """The state `seconds` later, under the command and within the limits."""


class Unicycle:
    """Turns on the spot: speed and turn rate follow the command within their accelerations."""

    name = UNICYCLE

    def __init__(self, limits: VehicleLimits | None = None) -> None:
        self.limits = limits or VehicleLimits()

    def step(self, state: VehicleState, command: Command, seconds: float) -> VehicleState:
        """See Vehicle."""
        speed = _next_speed(state.speed, command.speed, self.limits, seconds)
        wanted = _clip(command.yaw_rate, self.limits.max_yaw_rate)
        change = self.limits.max_yaw_acceleration * seconds
        rate = state.yaw_rate + _clip(wanted - state.yaw_rate, change)
        return _moved(state, speed, rate, state.steering, seconds)


class Bicycle:
    """Kinematic bicycle about its rear axle: a turn rate is steered for, and needs speed."""

    name = BICYCLE

    def __init__(self, limits: VehicleLimits | None = None) -> None:
        self.limits = limits or VehicleLimits()

    def step(self, state: VehicleState, command: Command, seconds: float) -> VehicleState:
        """See Vehicle."""
        limits = self.limits
        speed = _next_speed(state.speed, command.speed, limits, seconds)
        pace = command.speed if abs(command.speed) > abs(speed) else speed
        pace = math.copysign(max(abs(pace), _SLOWEST_STEERING), pace)
        wanted = _clip(math.atan(limits.wheelbase * command.yaw_rate / pace), limits.max_steering)
        change = limits.max_steering_rate * seconds
        steering = state.steering + _clip(wanted - state.steering, change)
        rate = speed * math.tan(steering) / limits.wheelbase
        return _moved(state, speed, rate, steering, seconds)


def make_vehicle(name: str, limits: VehicleLimits | None = None) -> Vehicle:
    """The model of that name. Raises ValueError for another name."""
    if name not in VEHICLES:
        raise ValueError(f"no vehicle '{name}'; there are {', '.join(VEHICLES)}")
    return Unicycle(limits) if name == UNICYCLE else Bicycle(limits)


def _clip(value: float, bound: float) -> float:
    return min(max(value, -bound), bound)


def _next_speed(speed: float, wanted: float, limits: VehicleLimits, seconds: float) -> float:
    wanted = min(max(wanted, -limits.max_reverse), limits.max_speed)
    slower = abs(wanted) < abs(speed) or wanted * speed < 0
    change = (limits.max_braking if slower else limits.max_acceleration) * seconds
    return speed + _clip(wanted - speed, change)


def _moved(state: VehicleState, speed: float, rate: float, steering: float,
           seconds: float) -> VehicleState:
    """Along the arc of the mean speed and turn rate of the step, exactly."""
    distance = (state.speed + speed) / 2 * seconds
    turn = (state.yaw_rate + rate) / 2 * seconds
    # The chord of an arc: sin(a)/a of half the turn, which is 1 for a straight line.
    half = turn / 2
    chord = distance * (math.sin(half) / half if abs(half) > 1e-9 else 1.0)
    return replace(state, x=state.x + chord * math.cos(state.yaw + half),
                   y=state.y + chord * math.sin(state.yaw + half), yaw=state.yaw + turn,
                   speed=speed, yaw_rate=rate, steering=steering)
