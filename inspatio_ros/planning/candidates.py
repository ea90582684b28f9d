# SPDX-License-Identifier: Apache-2.0
"""Paths that a planner considers, and NAVSIM's arrays of them.

NAVSIM (Dauner et al. 2024, github.com/autonomousvision/navsim, `Trajectory`): N poses (x, y,
heading) in the ego frame at t = 0 (x forward, y left), one every half second, the first half a
second ahead; 8 of them are 4 s.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from inspatio_ros.geometry import rigid
from inspatio_ros.geometry.trajectory import CameraTrajectory, EmptyPath

Array = npt.NDArray[np.float64]

NAVSIM_POSES = 8
NAVSIM_INTERVAL = 0.5
# Scored in one call at most.
MAX_CANDIDATES = 4096
# A denser candidate is thinned: its sweep is sampled in time anyway.
MAX_POSES = 512


@dataclass(frozen=True, eq=False)
class Candidate:
    """Timed poses of the base that a planner considers.

    id: the planner's name for it. world_from_base: [N, 4, 4], base x forward, z up, m. times: [N]
    s from now, the first >= 0, strictly increasing; the first pose is where the robot is then.
    Raises EmptyPath without a pose, ValueError on poses that are not rigid or times that do not
    increase.
    """

    id: str
    world_from_base: Array
    times: Array

    def __post_init__(self) -> None:
        # The same checks that a camera's way has.
        checked = CameraTrajectory(self.world_from_base, self.times)
        keep = np.arange(len(checked))
        if len(keep) > MAX_POSES:
            keep = np.unique(np.linspace(0, len(keep) - 1, MAX_POSES).astype(np.int64))
        object.__setattr__(self, "world_from_base", checked.world_from_camera[keep])
        object.__setattr__(self, "times", checked.times[keep])

    @staticmethod
    def from_path(
        id: str, world_from_base: Array, stamps_ns: npt.NDArray[np.int64] | None, speed: float
    ) -> Candidate:
        """A path [N, 4, 4] timed by its stamps [N] where they increase, else by `speed` m/s.

        Time starts with the first pose. Poses that repeat the one before carry no time of their
        own and are left out. Raises EmptyPath, or ValueError on a speed that is not positive.
        """
        if len(world_from_base) == 0:
            raise EmptyPath("the path has no poses")
        poses = rigid.require_rigid(world_from_base, "path")
        if stamps_ns is not None and len(stamps_ns) > 1 and np.all(np.diff(stamps_ns) > 0):
            return Candidate(id, poses, (stamps_ns - stamps_ns[0]).astype(np.float64) * 1e-9)
        if not speed > 0 or not np.isfinite(speed):
            raise ValueError(f"the stamps do not increase and the speed {speed} m/s is not "
                             "positive: nothing times the path")
        steps = np.linalg.norm(np.diff(poses[:, :3, 3], axis=0), axis=1)
        turns = rigid.rotation_angle(rigid.invert(poses[:-1]) @ poses[1:])
        # A turn on the spot takes time too: a radian as long as a metre, as plans are timed.
        seconds = np.maximum(steps, turns) / speed
        keep = np.concatenate([[True], seconds > 1e-6])
        times = np.concatenate([[0.0], np.cumsum(seconds)])
        return Candidate(id, poses[keep], times[keep])

    @staticmethod
    def from_navsim(
        id: str, poses: npt.ArrayLike, world_from_ego: Array, interval: float = NAVSIM_INTERVAL
    ) -> Candidate:
        """NAVSIM's poses [N, 3] (x, y m, heading rad, ego frame), the ego itself before them.

        Raises ValueError on another shape, a value that is not finite or an interval that is not
        positive.
        """
        rows = np.asarray(poses, dtype=np.float64)
        if rows.ndim != 2 or rows.shape[1] != 3 or len(rows) == 0:
            raise ValueError(f"candidate '{id}': expected poses [N, 3] of x, y, heading, got "
                             f"shape {rows.shape}")
        if not np.isfinite(rows).all():
            raise ValueError(f"candidate '{id}': pose {int(np.argmin(np.isfinite(rows).all(1)))} "
                             "is not finite")
        ego_from_base = np.tile(np.eye(4), (len(rows) + 1, 1, 1))
        cosine, sine = np.cos(rows[:, 2]), np.sin(rows[:, 2])
        ego_from_base[1:, 0, 0] = ego_from_base[1:, 1, 1] = cosine
        ego_from_base[1:, 1, 0], ego_from_base[1:, 0, 1] = sine, -sine
        ego_from_base[1:, :2, 3] = rows[:, :2]
        if not interval > 0:
            raise ValueError(f"interval {interval} s is not positive")
        times = interval * np.arange(len(rows) + 1, dtype=np.float64)
        return Candidate(id, world_from_ego @ ego_from_base, times)

    def to_navsim(
        self, count: int = NAVSIM_POSES, interval: float = NAVSIM_INTERVAL
    ) -> npt.NDArray[np.float32]:
        """float32 [count, 3]: x, y, heading in the frame of the first pose, at NAVSIM's times.

        Held at its last pose when the candidate ends before.
        """
        times = self.times[0] + interval * np.arange(1, count + 1)
        ego_from_base = rigid.invert(self.world_from_base[0]) @ self.at(times)
        heading = np.arctan2(ego_from_base[:, 1, 0], ego_from_base[:, 0, 0])
        return np.stack([ego_from_base[:, 0, 3], ego_from_base[:, 1, 3], heading],
                        axis=1).astype(np.float32)

    def at(self, times: npt.ArrayLike) -> Array:
        """world_from_base [n, 4, 4] at `times` s, held at the ends."""
        asked = np.atleast_1d(np.asarray(times, np.float64))
        nearest = np.minimum(np.searchsorted(self.times, asked), len(self.times) - 1)
        if (self.times[nearest] == asked).all():
            # Poses of its own, as views at NAVSIM's times are: nothing lies between them.
            return self.world_from_base[nearest]
        return rigid.interpolate(self.times, self.world_from_base, asked)

    @property
    def duration(self) -> float:
        """Seconds from the first to the last pose."""
        return float(self.times[-1] - self.times[0])

    def camera_trajectory(self, base_from_camera: Array) -> CameraTrajectory:
        """The way of a camera [4, 4] (optical) that sits on the base."""
        return CameraTrajectory(self.world_from_base @ base_from_camera, self.times)


@dataclass(frozen=True)
class RefusedCandidate:
    """A candidate that cannot be scored, and why; it keeps its place among the others."""

    id: str
    reason: str


def require_unique(candidates: Sequence[Candidate | RefusedCandidate]) -> None:
    """Raise ValueError when there is none, more than MAX_CANDIDATES, or an id comes twice."""
    if not candidates:
        raise ValueError("no candidate")
    if len(candidates) > MAX_CANDIDATES:
        raise ValueError(f"{len(candidates)} candidates are more than {MAX_CANDIDATES} in one "
                         "call; send them in parts")
    id, count = Counter(candidate.id for candidate in candidates).most_common(1)[0]
    if count > 1:
        raise ValueError(f"candidate id '{id}' comes {count} times; ids must be unique")


def read_navsim(path: Path, world_from_ego: Array) -> list[Candidate | RefusedCandidate]:
    """Candidates of a file of NAVSIM poses: `.json`, `.npz` or `.npy`.

    JSON: {"interval_s": 0.5, "candidates": [{"id": "a", "poses": [[x, y, heading], ...]}]}.
    npz: `poses` [K, N, 3], and where they differ from 0.5 s and 0, 1, ...: `interval_s` and `ids`.
    npy: [K, N, 3] or [N, 3]. A candidate that is wrong in itself is refused by name.
    Raises ValueError naming the file when it holds something else.
    """
    interval = NAVSIM_INTERVAL
    try:
        if path.suffix == ".json":
            content = json.loads(path.read_text())
            interval = float(content.get("interval_s", interval))
            ids = [str(entry["id"]) for entry in content["candidates"]]
            rows: Sequence[npt.ArrayLike] = [entry["poses"] for entry in content["candidates"]]
        elif path.suffix in (".npz", ".npy"):
            loaded = np.load(path, allow_pickle=False)
            stacked = np.asarray(loaded if path.suffix == ".npy" else loaded["poses"], np.float64)
            rows = list(stacked[None] if stacked.ndim == 2 else stacked)
            ids = [str(index) for index in range(len(rows))]
            if path.suffix == ".npz":
                interval = float(loaded["interval_s"]) if "interval_s" in loaded else interval
                ids = [str(id) for id in loaded["ids"]] if "ids" in loaded else ids
        else:
            raise ValueError("expected a .json, .npz or .npy file")
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: no candidates: {type(error).__name__}: {error}") from error
    if len(ids) != len(rows):
        raise ValueError(f"{path}: {len(ids)} ids for {len(rows)} candidates")
    read: list[Candidate | RefusedCandidate] = []
    for id, poses in zip(ids, rows, strict=True):
        try:
            read.append(Candidate.from_navsim(id, poses, world_from_ego, interval))
        except (TypeError, ValueError) as error:
            read.append(RefusedCandidate(id, str(error)))
    return read


def write_navsim(
    path: Path, candidates: Iterable[Candidate], count: int = NAVSIM_POSES,
    interval: float = NAVSIM_INTERVAL,
) -> None:
    """Write candidates as NAVSIM poses, `.json` or `.npz`; raises ValueError on another ending."""
    held = list(candidates)
    poses = [candidate.to_navsim(count, interval) for candidate in held]
    if path.suffix == ".json":
        entries = [{"id": c.id, "poses": p.tolist()} for c, p in zip(held, poses, strict=True)]
        path.write_text(json.dumps({"interval_s": interval, "candidates": entries}, indent=1)
                        + "\n")
    elif path.suffix == ".npz":
        stacked = np.stack(poses) if poses else np.zeros((0, count, 3), np.float32)
        np.savez(path, poses=stacked, interval_s=np.float64(interval),
                 ids=np.array([c.id for c in held], dtype=np.str_))
    else:
        raise ValueError(f"{path}: NAVSIM poses are written as .json or .npz")


def fan(world_from_base: Array, count: int, speed: float, *, widest: float = 1.0,
        poses: int = NAVSIM_POSES, interval: float = NAVSIM_INTERVAL) -> list[Candidate]:
    """`count` arcs ahead of a base [4, 4]: evenly spread turns, each at full and at half speed.

    speed: m/s. widest: rad by which the sharpest have turned at their end at full speed. Named by
    number, turn to the left in rad/m and speed, so that a name says the way.
    """
    made = []
    times = interval * np.arange(1, poses + 1)
    half = count // 2
    for number in range(count):
        slow = number >= count - half
        of = half if slow else count - half
        index = number - (count - half) if slow else number
        share = 2.0 * index / (of - 1) - 1.0 if of > 1 else 0.0
        own = speed / 2 if slow else speed
        curvature = share * widest / (speed * times[-1])
        heading = curvature * own * times
        length = own * times
        # sin(a) / a and (1 - cos(a)) / a stay exact for straight ways.
        x = length * np.sinc(heading / np.pi)
        y = length * np.sin(heading / 2) * np.sinc(heading / 2 / np.pi)
        made.append(Candidate.from_navsim(
            f"{number}: {curvature:+.3f} {own:.2f}", np.stack([x, y, heading], axis=1),
            world_from_base, interval))
    return made
