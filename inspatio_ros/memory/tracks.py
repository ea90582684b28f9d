# SPDX-License-Identifier: Apache-2.0
"""One moving thing: where it is, how it moves, what it looks like."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from inspatio_ros.geometry import rigid
from inspatio_ros.geometry.camera import PinholeCamera

Array = npt.NDArray[np.float64]
Float = npt.NDArray[np.float32]

# White acceleration of what moves, (m/s²)² s: its speed changes by 1 m/s within a second.
ACCELERATION = 1.0
# Standard deviation of a new thing's speed, m/s, and of the middle of what is seen of a thing, m.
UNKNOWN_SPEED = 8.0
MIDDLE_NOISE = 0.4
# Turning is followed from this speed on, m/s, and at most so fast, rad/s.
TURNING_SPEED, FASTEST_TURN = 1.5, 1.5
# Speeds that its braking is told by, if they are known so well, m/s, over so long at least, s; the
# deviation of a thing's acceleration before anything is known of it, and the most that is
# believed, m/s².
SPEEDS, KNOWN_SPEED, BRAKING_SECONDS = 8, 0.5, 1.0
USUAL_BRAKING, HARDEST_BRAKING = 1.0, 6.0
# Squared, in standard deviations: 3 dimensions exceed it once in a thousand times.
SURPRISE = 16.3
# Things keep to the ground: deviation of their vertical speed, m/s.
CLIMB = 0.1
TRAIL = 32
# Sights that the way of its middle is fitted to, and the error of a middle among them, m.
SIGHTS, SIGHT_NOISE = 5, 0.12


@dataclass(frozen=True)
class Patch:
    """What was seen of a thing: a window of an observation, its depth NaN where it is not.

    image uint8 [h, w, 3], depth float32 [h, w] m, camera of the window, world_from_camera [4, 4].
    points float32 [3, P] m in the world: a share of its surface; each stands for the pixels up to
    `reach` off its own.
    """

    stamp_ns: int
    image: npt.NDArray[np.uint8]
    depth: Float
    camera: PinholeCamera
    world_from_camera: Array
    points: Float
    reach: int = 0

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return self.image.nbytes + self.depth.nbytes + self.points.nbytes


@dataclass
class Track:
    """A thing with a Kalman filter over position and velocity (constant velocity, white
    acceleration), a slowly followed rate of turn and how hard it brakes.

    mean [6]: m and m/s in the world, covariance [6, 6], at stamp_ns. middle: offset [3] of the
    box from the filter's position. half [3]: half sides of the box along heading, across, up.
    heading: rad about `up`. sights: times and middles of what was seen of it, when no rim of a
    picture cut it off. speeds: times, speeds and their deviations at its sights. braking: m/s²,
    0 unless its speed falls; it goes on until the thing stands. confirmed: that it moves is
    certain (`Follower`).
    """

    number: int
    stamp_ns: int
    mean: Array
    covariance: Array
    patch: Patch
    half: Array
    up: Array
    middle: Array = field(default_factory=lambda: np.zeros(3))
    heading: float = 0.0
    turn_rate: float = 0.0
    braking: float = 0.0
    hits: int = 1
    sure: int = 0
    still: int = 0
    through: int = 0
    confirmed: bool = False
    cleaned: bool = False
    first_ns: int = 0
    seen_ns: int = 0
    label: str = ""
    trail: deque[tuple[int, Array]] = field(default_factory=lambda: deque(maxlen=TRAIL))
    sights: deque[tuple[int, Array]] = field(default_factory=lambda: deque(maxlen=SIGHTS))
    speeds: deque[tuple[int, float, float]] = field(default_factory=lambda: deque(maxlen=SPEEDS))

    @property
    def velocity(self) -> Array:
        """m/s [3] in the world."""
        return np.asarray(self.mean[3:])

    @property
    def speed(self) -> float:
        """m/s."""
        return float(np.linalg.norm(self.mean[3:]))

    def advance(self, stamp_ns: int) -> None:
        """Carry the filter to a later time."""
        dt = (stamp_ns - self.stamp_ns) * 1e-9
        if dt <= 0:
            return
        step = np.eye(6)
        step[:3, 3:] = dt * np.eye(3)
        self.mean[3:] = self._turned(dt) @ self.mean[3:]
        self.mean = step @ self.mean
        self.covariance = step @ self.covariance @ step.T + _noise(dt)
        self.stamp_ns = stamp_ns

    def measure_position(self, position: Array, deviation: float) -> None:
        """Take in where the middle of what is seen of it is, [3] m."""
        self._update(np.eye(3, 6), position, deviation**2 * np.eye(3))

    def way_of_sights(self) -> tuple[Array, float] | None:
        """Velocity [3] m/s by the middles of what was seen, whole, lately, and its deviation."""
        if len(self.sights) < 2:
            return None
        times = np.array([s for s, _ in self.sights], np.float64) * 1e-9
        times -= times.mean()
        places = np.stack([p for _, p in self.sights])
        weight = float(times @ times)
        return np.asarray(times @ (places - places.mean(axis=0)) / weight), float(
            SIGHT_NOISE / np.sqrt(weight))

    def measure_velocity(self, velocity: Array, covariance: Array) -> None:
        """Take in how fast it goes, [3] m/s with covariance [3, 3].

        What does not fit at all shows that it brakes or turns: then less is believed of before.
        """
        surprise = velocity - self.mean[3:]
        expected = self.covariance[3:, 3:] + covariance
        if surprise @ np.linalg.solve(expected, surprise) > SURPRISE:
            self.covariance[3:, 3:] += np.diag(surprise**2)
        rows = np.zeros((3, 6))
        rows[:, 3:] = np.eye(3)
        self._update(rows, velocity, covariance)

    def _update(self, rows: Array, value: Array, noise: Array) -> None:
        cross = self.covariance @ rows.T
        gain = cross @ np.linalg.inv(rows @ cross + noise)
        self.mean = self.mean + gain @ (value - rows @ self.mean)
        kept = np.eye(6) - gain @ rows
        self.covariance = kept @ self.covariance @ kept.T + gain @ noise @ gain.T

    def keep_level(self) -> None:
        """Take in that it neither climbs nor falls."""
        rows = np.concatenate([np.zeros(3), self.up])[None]
        self._update(rows, np.zeros(1), np.full((1, 1), CLIMB**2))

    def follow_turn(self, before: Array, seconds: float) -> None:
        """Take in how much the velocity has turned since it was `before` [3]."""
        across_before, across = (v - (v @ self.up) * self.up for v in (before, self.mean[3:]))
        if min(np.linalg.norm(across_before), np.linalg.norm(across)) < TURNING_SPEED or (
                seconds <= 0):
            self.turn_rate *= 0.5
            return
        angle = np.arctan2(_cross(across_before, across) @ self.up, across_before @ across)
        rate = float(np.clip(angle / seconds, -FASTEST_TURN, FASTEST_TURN))
        self.turn_rate += 0.3 * (rate - self.turn_rate)

    def follow_braking(self) -> None:
        """Take in its speed of now, and how that has changed lately.

        The slope of its speeds counts as far as it is surer than what things usually do; only
        what exceeds its own deviation is called braking.
        """
        deviation = float(np.sqrt(np.linalg.eigvalsh(self.covariance[3:, 3:])[-1]))
        if deviation < KNOWN_SPEED:
            self.speeds.append((self.stamp_ns, self.speed, deviation))
        else:
            self.speeds.clear()
        self.braking = 0.0
        if len(self.speeds) < 3 or (
                self.speeds[-1][0] - self.speeds[0][0]) * 1e-9 < BRAKING_SECONDS:
            return
        stamps, speeds, deviations = (np.array(c) for c in zip(*self.speeds, strict=True))
        times, weights = (stamps - stamps[-1]) * 1e-9, 1.0 / np.maximum(deviations, 1e-3) ** 2
        times -= weights @ times / weights.sum()
        known = float(weights @ times**2)
        slope = float(weights @ (times * speeds)) / known
        share = USUAL_BRAKING**2 / (USUAL_BRAKING**2 + 1.0 / known)
        self.braking = float(np.clip(
            -share * slope - np.sqrt(share / known), 0.0, HARDEST_BRAKING))

    def _turned(self, seconds: float) -> Array:
        return np.asarray(rotation_about(self.up, self.turn_rate * seconds))

    def motion(self, from_ns: int, to_ns: int) -> Array:
        """later_from_earlier [4, 4] in the world: how its points go from one time to another.

        Along a circle while it turns, which is not trusted beyond a second, and, while it brakes,
        no farther than to where it stands.
        """
        later, earlier = (self._since((t - self.stamp_ns) * 1e-9) for t in (to_ns, from_ns))
        return np.asarray(later @ rigid.invert(earlier))

    def _as_if_steady(self, dt: float) -> float:
        """Seconds over which it would go as far, from the filter's time, without braking."""
        if dt <= 0 or not self.braking:
            return dt
        until_it_stands = self.speed / self.braking
        dt = min(dt, until_it_stands)
        return dt - dt**2 / (2 * until_it_stands) if dt > 0 else 0.0

    def _since(self, dt: float) -> Array:
        """The motion [4, 4] of its points since the filter's time, s."""
        velocity, dt = self.mean[3:], self._as_if_steady(dt)
        turning = float(np.clip(dt, -1.0, 1.0))
        angle = self.turn_rate * turning
        if abs(angle) < 1e-6:
            return rigid.from_rotation(np.eye(3), velocity * dt)
        # A body that turns at a constant rate, then goes straight on.
        rotation = rotation_about(self.up, angle)
        chord = np.sin(angle / 2) / (self.turn_rate / 2)
        shift = (rotation_about(self.up, angle / 2) @ velocity * chord
                 + rotation @ velocity * (dt - turning))
        return rigid.from_rotation(rotation, self.mean[:3] + shift - rotation @ self.mean[:3])

    def deviation(self, to_ns: int, from_ns: int | None = None) -> float:
        """Standard deviation of where it is drawn at a time, m: grows with the time that its
        appearance is carried."""
        dt = abs(to_ns - (self.patch.stamp_ns if from_ns is None else from_ns)) * 1e-9
        speed = float(np.linalg.eigvalsh(self.covariance[3:, 3:])[-1])
        return float(np.sqrt(max(speed, 0.0) * dt**2 + ACCELERATION * dt**3 / 3))

    def center(self, stamp_ns: int) -> Array:
        """Middle of its box [3] m in the world at a time."""
        return np.asarray(rigid.transform_points(
            self.motion(self.stamp_ns, stamp_ns), self.mean[:3] + self.middle))

    def centers(self, stamps_ns: npt.NDArray[np.int64]) -> Array:
        """Middle of its box [N, 3] m at earlier times [N]: where it was seen, and between and
        before that by its motion."""
        stamps = np.array([s for s, _ in self.trail], np.float64)
        places = np.stack([p for _, p in self.trail])
        at = np.asarray(stamps_ns, np.float64)
        inside = np.stack([np.interp(at, stamps, places[:, axis]) for axis in range(3)], axis=1)
        beyond = np.minimum(at - stamps[0], 0) + np.maximum(at - stamps[-1], 0)
        return np.asarray(inside + 1e-9 * beyond[:, None] * self.mean[3:])

    def axes(self, stamp_ns: int) -> Array:
        """Rotation [3, 3] whose columns are the box's heading, left and up in the world."""
        dt = self._as_if_steady((stamp_ns - self.stamp_ns) * 1e-9)
        turning = float(np.clip(dt, -1.0, 1.0))
        return box_axes(self.up, self.heading + self.turn_rate * turning)


def box_axes(up: Array, heading: float) -> Array:
    """Columns heading, left, up [3, 3]; heading 0 is the first axis that is not along up."""
    first = -up[int(np.argmin(np.abs(up)))] * up
    first[int(np.argmin(np.abs(up)))] += 1.0
    first /= np.linalg.norm(first)
    across = _cross(up, first)
    cos, sin = np.cos(heading), np.sin(heading)
    return np.stack([cos * first + sin * across, cos * across - sin * first, up], axis=1)


def _cross(a: Array, b: Array) -> Array:
    """numpy's takes ten times as long for two vectors [3]."""
    return np.array([a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2],
                     a[0] * b[1] - a[1] * b[0]])


def heading_of(up: Array, direction: Array) -> float:
    """The angle for `box_axes` that looks along a direction [3]."""
    axes = box_axes(up, 0.0)
    return float(np.arctan2(direction @ axes[:, 1], direction @ axes[:, 0]))


def rotation_about(axis: Array, angle: float) -> Array:
    """Rotation [3, 3] by an angle, rad, about a unit axis (Rodrigues)."""
    x, y, z = axis
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.asarray(np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross)


def _noise(dt: float) -> Array:
    eye = ACCELERATION * np.eye(3)
    return np.block([[eye * dt**3 / 3, eye * dt**2 / 2], [eye * dt**2 / 2, eye * dt]])


def new_track(number: int, stamp_ns: int, position: Array, patch: Patch, up: Array) -> Track:
    """A track that has been seen once and may go anywhere."""
    covariance = np.diag([MIDDLE_NOISE**2] * 3 + [UNKNOWN_SPEED**2] * 3)
    return Track(number, stamp_ns, np.concatenate([position, np.zeros(3)]), covariance, patch,
                 np.full(3, 0.3), up, first_ns=stamp_ns, seen_ns=stamp_ns)
