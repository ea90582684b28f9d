# SPDX-License-Identifier: Apache-2.0
"""How a candidate moves on the ground, and whether that is comfortable.

Comfort is NAVSIM's (`pdm_comfort_metrics.py`, after nuPlan): six quantities at 10 Hz, smoothed by
Savitzky-Golay filters, each within its bounds. NAVSIM takes accelerations from a simulated
vehicle that follows the poses; here a cubic spline through the poses is followed exactly.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from scipy.interpolate import CubicSpline
from scipy.signal import savgol_filter

from inspatio_ros.geometry import rigid
from inspatio_ros.planning.candidates import Candidate

Array = npt.NDArray[np.float64]

INTERVAL = 0.1  # s between the samples of a motion
MAX_SAMPLES = 512
_DECIMALS = 8
COMFORT_NAMES = ("longitudinal_acceleration", "lateral_acceleration", "jerk",
                 "longitudinal_jerk", "yaw_acceleration", "yaw_rate")


@dataclass(frozen=True)
class ComfortBounds:
    """Largest comfortable values, NAVSIM's by default: m/s², m/s³, rad/s, rad/s².

    Raises ValueError when a bound is not positive (min_longitudinal_acceleration: negative).
    """

    min_longitudinal_acceleration: float = -4.05
    max_longitudinal_acceleration: float = 2.40
    max_lateral_acceleration: float = 4.89
    max_jerk: float = 8.37
    max_longitudinal_jerk: float = 4.13
    max_yaw_rate: float = 0.95
    max_yaw_acceleration: float = 1.93

    def __post_init__(self) -> None:
        if not self.min_longitudinal_acceleration < 0:
            raise ValueError("min_longitudinal_acceleration must be negative")
        for name, value in vars(self).items():
            if name.startswith("max_") and not value > 0:
                raise ValueError(f"{name} {value} is not positive")


@dataclass(frozen=True, eq=False)
class Motion:
    """A candidate on level ground, evenly sampled in time.

    times [M] s; x, y [M] m and yaw [M] rad (unwrapped) in the level frame; speed [M] m/s along
    the heading; acceleration, lateral [M] m/s² along and across it.
    """

    times: Array
    x: Array
    y: Array
    yaw: Array
    speed: Array
    acceleration: Array
    lateral: Array


def motion_of(
    candidate: Candidate, level_from_world: Array, *, start_speed: float | None = None,
    interval: float = INTERVAL,
) -> Motion:
    """The motion of a candidate in a frame [4, 4] whose z is up.

    Cubic splines through its poses. start_speed: m/s along the heading that the robot has at the
    first pose; None: whatever the poses say.
    """
    poses = level_from_world @ candidate.world_from_base
    heading = np.unwrap(np.arctan2(poses[:, 1, 0], poses[:, 0, 0]))
    knots = np.column_stack([poses[:, 0, 3], poses[:, 1, 3], heading])
    if len(knots) == 1:
        zero = np.zeros(1)
        return Motion(candidate.times, knots[:, 0], knots[:, 1], knots[:, 2], zero, zero, zero)
    start: object = "not-a-knot"
    # Two poses are a straight line at an even speed: nothing can be asked of its beginning.
    if start_speed is not None and len(knots) > 2:
        rate = (heading[1] - heading[0]) / (candidate.times[1] - candidate.times[0])
        start = (1, start_speed * np.array([np.cos(heading[0]), np.sin(heading[0]), 0.0])
                 + (0.0, 0.0, rate))
    spline = CubicSpline(candidate.times, knots, bc_type=(start, "not-a-knot"))
    count = min(max(2, round(candidate.duration / interval) + 1), MAX_SAMPLES)
    times = np.linspace(candidate.times[0], candidate.times[-1], count)
    x, y, yaw = spline(times).T
    dx, dy, _ = spline(times, 1).T
    ddx, ddy, _ = spline(times, 2).T
    cosine, sine = np.cos(yaw), np.sin(yaw)
    return Motion(times, x, y, yaw, dx * cosine + dy * sine, ddx * cosine + ddy * sine,
                  ddy * cosine - ddx * sine)


def discomforts(motion: Motion, bounds: ComfortBounds | None = None) -> tuple[str, ...]:
    """Names of the bounds (of COMFORT_NAMES) that a motion breaks; none: it is comfortable.

    A motion of less than five samples is too short to say and breaks none.
    """
    count = len(motion.times)
    if count < 5:
        return ()
    b = bounds or ComfortBounds()
    step = float(motion.times[1] - motion.times[0])
    total = np.hypot(motion.acceleration, motion.lateral)

    def smooth(values: Array, window: int) -> Array:
        return np.round(_filter(count, window, 2, 0, 1.0) @ values, _DECIMALS)

    def slope(values: Array, order: int, degree: int) -> Array:
        return np.round(_filter(count, count, degree, order, step) @ values, _DECIMALS)

    measured = (
        (smooth(motion.acceleration, count), b.min_longitudinal_acceleration,
         b.max_longitudinal_acceleration),
        (smooth(motion.lateral, count), -b.max_lateral_acceleration, b.max_lateral_acceleration),
        (slope(smooth(total, 8), 1, 2), -b.max_jerk, b.max_jerk),
        (slope(smooth(motion.acceleration, 8), 1, 2), -b.max_longitudinal_jerk,
         b.max_longitudinal_jerk),
        (slope(motion.yaw, 2, 3), -b.max_yaw_acceleration, b.max_yaw_acceleration),
        (slope(motion.yaw, 1, 2), -b.max_yaw_rate, b.max_yaw_rate),
    )
    return tuple(name for name, (values, low, high) in zip(COMFORT_NAMES, measured, strict=True)
                 if not ((values > low) & (values < high)).all())


@lru_cache(maxsize=256)
def _filter(count: int, window: int, degree: int, order: int, step: float) -> Array:
    """The Savitzky-Golay filter of `count` samples as a matrix: it is linear."""
    window = min(window, count)
    return np.asarray(savgol_filter(np.eye(count), window, min(degree, window - 1), deriv=order,
                                    delta=step, axis=0), np.float64)


def level_frame(world_from_base: Array) -> Array:
    """level_from_world [4, 4]: the world itself where its z is up, else turned upright.

    Up is the base's z. A world whose z lies within 45° of it is taken to be upright (REP 105);
    else, as where the first camera is the world, the world is turned so that the base stands.
    """
    if world_from_base[2, 2] > np.cos(np.pi / 4):
        return np.eye(4)
    return rigid.from_rotation(world_from_base[:3, :3].T)
