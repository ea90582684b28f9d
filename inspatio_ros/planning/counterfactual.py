# SPDX-License-Identifier: Apache-2.0
"""Counterfactual data: what a recording would have shown from beside its path, with its labels.

Views are imagined from the recording's own memory; labels are geometry alone, and exact: the
future that was really driven, in the frame of the shifted robot, and a way back to it. The idea
(a shifted start, the same future) is that of NAVSIM's second stage and of SimScale's synthetic
views; see docs/planners.md.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice

import numpy as np
import numpy.typing as npt

from inspatio_ros.geometry import rigid
from inspatio_ros.geometry.camera import PinholeCamera
from inspatio_ros.geometry.trajectory import CameraTrajectory
from inspatio_ros.imagination.engine import ImaginationEngine
from inspatio_ros.imagination.request import ImaginationRequest, ImaginedFrame
from inspatio_ros.memory.world_memory import WorldMemory
from inspatio_ros.planning.mounting import Mount
from inspatio_ros.sensing.gating import FuseGate
from inspatio_ros.sensing.observation import Observation

Array = npt.NDArray[np.float64]
Stamps = npt.NDArray[np.int64]

# Observations held at once while views are imagined.
CHUNK = 48
# Beyond this a shifted robot would look across its path: no recovery along it makes sense.
MAX_YAW = math.radians(60.0)
# Steepest slope of a recovery against the recorded path, as the tangent of an angle of 25 degrees.
_RECOVERY_SLOPE = math.tan(math.radians(25.0))
# Largest slope of the minimum-jerk curve from 1 to 0 over a length of 1.
_JERK_CURVE_SLOPE = 1.875
_SHORTEST_RECOVERY = 1.0


@dataclass(frozen=True)
class CounterfactualOptions:
    """What is changed against the recording, and what a frame must have.

    lateral m (left is positive) and yaw rad: of the robot beside its path, in its base frame.
    height m: the camera higher on the robot. mount: the camera elsewhere, before height is added.
    min_coverage: share of pixels that must rest on measured geometry. horizon s and interval s:
    of the labels' poses. recovery_distance m: over which the recovery path joins the recorded one;
    0: by the size of the shift and the speed (3 s of driving, no steeper than 25 degrees).
    min_motion m: a recording that moves less than this is refused. rate Hz: views made, at most so
    often; 0: every frame. Raises ValueError naming the option.
    """

    lateral: float = 0.0
    yaw: float = 0.0
    height: float = 0.0
    mount: Mount | None = None
    min_coverage: float = 0.6
    horizon: float = 4.0
    interval: float = 0.5
    recovery_distance: float = 0.0
    min_motion: float = 0.5
    rate: float = 0.0

    def __post_init__(self) -> None:
        numbers = {name: value for name, value in vars(self).items() if isinstance(value, float)}
        for name, value in numbers.items():
            if not math.isfinite(value):
                raise ValueError(f"{name} {value} is not finite")
        if abs(self.yaw) >= MAX_YAW:
            raise ValueError(f"yaw {math.degrees(self.yaw):g} degrees: less than "
                             f"{math.degrees(MAX_YAW):g} to either side is possible")
        if not 0.0 <= self.min_coverage <= 1.0:
            raise ValueError(f"min_coverage {self.min_coverage} is not between 0 and 1")
        if not self.interval > 0 or self.horizon < self.interval:
            raise ValueError(f"horizon {self.horizon} s and interval {self.interval} s: at least "
                             "one interval must fit")
        for name in ("recovery_distance", "min_motion", "rate"):
            if numbers[name] < 0:
                raise ValueError(f"{name} {numbers[name]} is negative")

    @property
    def base_from_shifted(self) -> Array:
        """Where the shifted base is in the recorded one [4, 4]."""
        return rigid.from_euler(0.0, 0.0, self.yaw, (0.0, self.lateral, 0.0))

    def base_from_camera(self, recorded: Array) -> Array:
        """base_from_optical [4, 4] of the virtual camera, given the recorded one's."""
        moved = recorded if self.mount is None else self.mount.base_from_camera(recorded)
        return np.asarray(rigid.from_rotation(np.eye(3), (0.0, 0.0, self.height)) @ moved)

    def camera(self, recorded: PinholeCamera, width: int = 0) -> PinholeCamera:
        """The virtual camera's lens, `width` pixels wide (0: as it is), its aspect kept."""
        lens = recorded if self.mount is None or self.mount.camera is None else self.mount.camera
        if not width or width == lens.width:
            return lens
        return lens.resized(width, max(1, round(lens.height * width / lens.width)))


class RecordedWay:
    """Where the base was over a recording: poses at strictly increasing stamps, interpolated.

    stamps_ns [N], world_from_base [N, 4, 4]. Raises ValueError with fewer than two poses.
    """

    def __init__(self, stamps_ns: Stamps, world_from_base: Array) -> None:
        if len(stamps_ns) < 2:
            raise ValueError("a recorded way needs at least two poses of the base")
        order = np.argsort(stamps_ns, kind="stable")
        stamps = np.asarray(stamps_ns, np.int64)[order]
        keep = np.concatenate([np.diff(stamps) > 0, [True]])
        self.stamps_ns: Stamps = stamps[keep]
        self.world_from_base = rigid.require_rigid(world_from_base, "recorded way")[order][keep]
        if len(self.stamps_ns) < 2:
            raise ValueError("a recorded way needs poses at two different times")
        steps = np.linalg.norm(np.diff(self.world_from_base[:, :3, 3], axis=0), axis=1)
        self._station = np.concatenate([[0.0], np.cumsum(steps)])

    @property
    def length(self) -> float:
        """Metres driven."""
        return float(self._station[-1])

    def covers(self, stamp_ns: int) -> bool:
        """Whether the stamp lies between the first and the last pose."""
        return bool(self.stamps_ns[0] <= stamp_ns <= self.stamps_ns[-1])

    def at(self, stamps_ns: npt.ArrayLike) -> Array:
        """world_from_base [n, 4, 4] at stamps, linear and slerp between poses as tf does."""
        seconds = (self.stamps_ns - self.stamps_ns[0]) * 1e-9
        asked = (np.atleast_1d(np.asarray(stamps_ns, np.int64)) - self.stamps_ns[0]) * 1e-9
        return rigid.interpolate(seconds, self.world_from_base, asked)

    def station(self, stamps_ns: npt.ArrayLike) -> Array:
        """Metres driven since the first pose [n], at stamps."""
        asked = np.atleast_1d(np.asarray(stamps_ns, np.int64))
        return np.asarray(np.interp(asked, self.stamps_ns, self._station), np.float64)


@dataclass(frozen=True)
class Labels:
    """What a planner is taught at one moment, in the shifted base frame (x forward).

    stamps_ns [n]: the moment itself, then every interval while the recording lasts.
    future [n, 4, 4]: where the robot really went. recovery [n, 4, 4]: from the shifted start
    smoothly back to it, its heading right to first order of the recorded path's curvature.
    """

    stamps_ns: Stamps
    future: Array
    recovery: Array


def labels_at(way: RecordedWay, stamp_ns: int, options: CounterfactualOptions) -> Labels:
    """The labels of the moment `stamp_ns`; shorter than the horizon where the recording ends."""
    count = int(math.floor(options.horizon / options.interval + 1e-9))
    step_ns = round(options.interval * 1e9)
    stamps = np.array([stamp_ns + k * step_ns for k in range(count + 1)], np.int64)
    stamps = stamps[stamps <= way.stamps_ns[-1]]
    if len(stamps) == 0:
        raise ValueError(f"stamp {stamp_ns} ns lies after the recording's last pose")
    recorded = way.at(stamps)
    shifted_from_world = rigid.invert(recorded[0] @ options.base_from_shifted)
    recovered = recorded @ _recovery_offsets(way, stamps, options)
    return Labels(stamps, shifted_from_world @ recorded, shifted_from_world @ recovered)


def _recovery_offsets(way: RecordedWay, stamps: Stamps, options: CounterfactualOptions) -> Array:
    """Where the recovering base is in the recorded one [n, 4, 4].

    The distance from the recorded path falls along it as a quintic with the shift's heading and no
    curvature at its start and none of either at its end. By distance, not time: a robot that
    stands does not slide sideways.
    """
    station = way.station(stamps)
    driven = station - station[0]
    length = options.recovery_distance
    if not length:
        seconds = max((stamps[-1] - stamps[0]) * 1e-9, 1e-9)
        # The offset falls by lateral, and first runs on along the shift's heading.
        length = max(3.0 * driven[-1] / seconds, _SHORTEST_RECOVERY,
                     abs(options.lateral) * _JERK_CURVE_SLOPE / _RECOVERY_SLOPE)
    s = np.clip(driven / length, 0.0, 1.0)
    slope = math.tan(options.yaw)
    # Quintics: 1 -> 0, and one with slope 1 at its start, both flat at their ends.
    fade = 1 - 10 * s**3 + 15 * s**4 - 6 * s**5
    fade_slope = (-30 * s**2 + 60 * s**3 - 30 * s**4) / length
    run = length * (s - 6 * s**3 + 8 * s**4 - 3 * s**5)
    run_slope = 1 - 18 * s**2 + 32 * s**3 - 15 * s**4
    aside = options.lateral * fade + slope * run
    heading = np.arctan(options.lateral * fade_slope + slope * run_slope)
    return np.stack([rigid.from_euler(0.0, 0.0, float(angle), (0.0, float(offset), 0.0))
                     for angle, offset in zip(heading, aside, strict=True)])


PoseOf = Callable[[Observation], Array]


def imagined_views(
    engine: ImaginationEngine, memory: WorldMemory, observations: Iterable[Observation],
    world_from_view: PoseOf, camera: PinholeCamera, *, wanted: Callable[[Observation], bool],
    fuse_rate: float = 10.0, seed: int = 0,
) -> Iterator[tuple[Observation, ImaginedFrame]]:
    """Each wanted observation with its view from elsewhere, in order.

    A view rests on its own observation and on the memory of those before it (with a backend that
    imagines blocks, of those before its block's end). world_from_view(observation): the virtual
    camera's pose [4, 4]. At most CHUNK observations are held. memory is filled on the way.
    """
    gate = FuseGate(fuse_rate)

    def fuse(observation: Observation) -> None:
        if gate.admits(observation.stamp_ns, observation.world_from_camera):
            memory.integrate(observation)

    source = iter(observations)
    while chunk := list(islice(source, CHUNK)):
        chosen = [index for index, seen in enumerate(chunk) if wanted(seen)]
        if chosen:
            yield from _chunk_views(engine, memory, chunk, chosen, world_from_view, camera, fuse,
                                    seed)
        else:
            for observation in chunk:
                fuse(observation)


def _chunk_views(
    engine: ImaginationEngine, memory: WorldMemory, chunk: list[Observation], chosen: list[int],
    world_from_view: PoseOf, camera: PinholeCamera, fuse: Callable[[Observation], None], seed: int,
) -> Iterator[tuple[Observation, ImaginedFrame]]:
    start_ns = chunk[chosen[0]].stamp_ns
    trajectory = CameraTrajectory(
        np.stack([world_from_view(chunk[index]) for index in chosen]),
        np.array([(chunk[index].stamp_ns - start_ns) * 1e-9 for index in chosen]))
    fused = 0

    def own(number: int) -> Observation:
        """Observation `number` of the chosen ones; what came before it is fused by then."""
        nonlocal fused
        while fused < chosen[number]:
            fuse(chunk[fused])
            fused += 1
        return chunk[chosen[number]]

    request = ImaginationRequest(camera, trajectory, (chunk[chosen[0]],), seed=seed,
                                 source_mode="stream")
    for block in engine.imagine(request, memory, own=own):
        for frame in block.frames:
            yield chunk[chosen[frame.frame_index]], frame
    for observation in chunk[fused:]:
        fuse(observation)
