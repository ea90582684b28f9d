# SPDX-License-Identifier: Apache-2.0
"""What hindsight gathers along a recording beside the scores of single views."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from inspatio_ros.evaluation.baselines import scene_depth, view_angle
from inspatio_ros.evaluation.calibration import ErrorCalibration, prior_error_of
from inspatio_ros.evaluation.metrics import SquaredError
from inspatio_ros.evaluation.scores import Mean
from inspatio_ros.geometry import rigid
from inspatio_ros.imagination.request import ImaginedFrame
from inspatio_ros.sensing.observation import Observation, Provenance

Image = npt.NDArray[np.uint8]
Array = npt.NDArray[np.float64]

# A place counts as visited again when it was seen this long ago from as near (radians of view, see
# baselines.view_angle), and not since.
_REVISIT_AGE_NS = 5_000_000_000
_REVISIT_ANGLE = 0.2
# Poses of the past that are held; a pose is 128 bytes.
_MOST_POSES = 20_000


@dataclass(frozen=True)
class Offset:
    """A start aside of the real one: lateral m to the camera's right, yaw rad to its right."""

    lateral: float = 0.0
    yaw: float = 0.0

    @property
    def matrix(self) -> Array:
        """real_camera_from_offset_camera [4, 4], optical axes."""
        c, s = math.cos(self.yaw), math.sin(self.yaw)
        turn = np.array([[c, 0.0, s], [0.0, 1.0, 0.0], [-s, 0.0, c]])
        return rigid.from_rotation(turn, (self.lateral, 0.0, 0.0))


@dataclass
class Calibrated:
    """`prior`: what frames say of themselves; `expected`: the same, recalibrated by what was
    compared before each start. Both with the real mean absolute color error in [0, 1]."""

    prior: ErrorCalibration = field(default_factory=lambda: ErrorCalibration(100_000))
    expected: ErrorCalibration = field(default_factory=lambda: ErrorCalibration(100_000))


class Past:
    """Poses of what was seen, to tell a place visited again from one that never left the view."""

    def __init__(self) -> None:
        self._stamps: list[int] = []
        self._poses: list[Array] = []
        self._depths: list[float] = []

    def add(self, now: Observation) -> None:
        """Take in where the camera is."""
        if len(self._stamps) >= _MOST_POSES:
            for held in (self._stamps, self._poses, self._depths):
                del held[::2]
        self._stamps.append(now.stamp_ns)
        self._poses.append(now.world_from_camera)
        self._depths.append(scene_depth(now))

    def is_revisit(self, now_ns: int, pose: Array) -> bool:
        """Whether `pose` was near one of long ago and near none since."""
        near = view_angle(np.stack(self._poses), pose, np.array(self._depths)) <= _REVISIT_ANGLE
        old = np.array(self._stamps) <= now_ns - _REVISIT_AGE_NS
        return bool((near & old).any() and not (near & ~old).any())


class OnlineCalibration:
    """Recalibrates as a robot would: a view's error is known when its time has come."""

    def __init__(self) -> None:
        self._known = ErrorCalibration()
        self._pending: list[tuple[int, float, float]] = []
        self.judged = Calibrated()

    def arrive(self, now_ns: int) -> None:
        """Time goes on to `now_ns`."""
        for _, prior, error in (due for due in self._pending if due[0] <= now_ns):
            self._known.add(prior, error)
        self._pending = [due for due in self._pending if due[0] > now_ns]

    def add(self, frame: ImaginedFrame, error: float, seen_ns: int) -> float:
        """A view whose truth comes at `seen_ns`. Its expected error, NaN until enough is known."""
        prior = prior_error_of(frame)
        self.judged.prior.add(prior, error)
        expected = float(self._known.recalibrated(prior))
        if math.isfinite(expected):
            self.judged.expected.add(expected, error)
        self._pending.append((seen_ns, prior, error))
        return expected


class Drift:
    """Error of all imagined frames by block: does it grow along the way?"""

    def __init__(self) -> None:
        self._errors: dict[tuple[str, int], tuple[SquaredError, SquaredError]] = {}
        self._times: dict[tuple[str, int], list[float]] = {}
        self._frames: dict[tuple[str, int], int] = {}

    def add(self, method: str, frame: ImaginedFrame, truth: Image) -> None:
        """Take in a frame of a method's way."""
        key = method, frame.block_index
        everywhere, covered = self._errors.setdefault(key, (SquaredError(), SquaredError()))
        everywhere.add(frame.image, truth)
        covered.add(frame.image, truth, frame.provenance >= Provenance.MEMORY)
        span = self._times.setdefault(key, [math.inf, -math.inf])
        span[0] = min(span[0], frame.time_from_start)
        span[1] = max(span[1], frame.time_from_start)
        self._frames[key] = self._frames.get(key, 0) + 1

    def table(self) -> list[dict[str, object]]:
        """A row a method and block."""
        return [{"method": key[0], "block": key[1], "frames": self._frames[key],
                 "from_s": round(self._times[key][0], 6), "to_s": round(self._times[key][1], 6),
                 "psnr_all": everywhere.psnr, "psnr_covered": covered.psnr}
                for key, (everywhere, covered) in sorted(self._errors.items())]


class Offsets:
    """How much is known of views from aside, which have no truth."""

    def __init__(self) -> None:
        self._means: dict[tuple[str, Offset, float], dict[str, Mean]] = {}

    def add(self, method: str, offset: Offset, frames: Sequence[ImaginedFrame],
            chosen: Mapping[float, int]) -> None:
        """Take in a way; `chosen`: the numbers of its frames by horizon."""
        for horizon, number in chosen.items():
            frame = frames[number]
            means = self._means.setdefault((method, offset, horizon), {})
            for name, value in (("coverage", frame.support),
                                ("share_observed", frame.observed_ratio),
                                ("share_memory", frame.memory_ratio),
                                ("expected_error_prior", prior_error_of(frame)),
                                ("extrapolation_m", frame.extrapolation_distance),
                                ("extrapolation_rad", frame.extrapolation_angle)):
                means.setdefault(name, Mean()).add(value)

    def table(self) -> list[dict[str, object]]:
        """A row a method, offset and horizon."""
        return [{"method": method, "lateral_m": offset.lateral, "yaw_rad": offset.yaw,
                 "horizon_s": horizon, "frames": means["coverage"].count,
                 **{name: mean.value for name, mean in means.items()}}
                for (method, offset, horizon), means in self._means.items()]
