# SPDX-License-Identifier: Apache-2.0
"""What a robot knew at a moment of a recording: the situation in which candidates are judged."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from inspatio_ros.files.bag_observations import BagOptions, BagTopics
from inspatio_ros.files.bags import BagReader
from inspatio_ros.files.recordings import open_recording
from inspatio_ros.geometry import rigid
from inspatio_ros.memory.world_memory import MemoryOptions, WorldMemory
from inspatio_ros.planning.kinematics import level_frame
from inspatio_ros.planning.recorded_frames import FrameError, RecordedFrames
from inspatio_ros.planning.situation import Situation
from inspatio_ros.sensing.gating import FuseGate
from inspatio_ros.sensing.observation import Observation

Array = npt.NDArray[np.float64]

_SPEED_OVER_S = 0.3
_CAMERA_HEIGHT = 1.5


@dataclass(frozen=True)
class RecordedOptions:
    """How a recording becomes situations.

    base_frame: of tf. camera_height: m of the camera above the ground, for recordings of a camera
    that no base carries: the base is then the place below the camera, looking where it looks; 0:
    the base is that of tf, and 1.5 m below the camera where tf has none.
    width: of the pictures that are drawn, pixels; 0: as recorded. fuse_rate: Hz.
    """

    base_frame: str = "base_link"
    camera_height: float = 0.0
    width: int = 320
    fuse_rate: float = 5.0
    memory: MemoryOptions = field(default_factory=MemoryOptions)
    topics: BagTopics | None = None
    reading: BagOptions = field(default_factory=BagOptions)


@contextmanager
def recorded_situations(path: Path, options: RecordedOptions) -> Iterator[Iterator[Moment]]:
    """The moments of a recording, one a frame with depth, in time order.

    All share one memory, so a moment's situation holds only until the next is taken.
    Raises BagError or SequenceError naming what is missing.
    """
    frames = _frames(path, options)
    with open_recording(path, options.topics, options.reading) as observations:
        yield _moments(observations, frames, options)


@dataclass(frozen=True, eq=False)
class Moment:
    """One frame of a recording, and what was known then. time: s from the first frame."""

    time: float
    observation: Observation
    situation: Situation


def _frames(path: Path, options: RecordedOptions) -> RecordedFrames | None:
    """Where the base is, when the recording is a bag that says so."""
    if options.camera_height or (path / "frames.csv").is_file():
        return None
    with BagReader(path) as bag:
        try:
            return RecordedFrames(bag, options.reading.world_frame, options.base_frame)
        except FrameError:
            return None


def _moments(observations: Iterator[Observation], frames: RecordedFrames | None,
             options: RecordedOptions) -> Iterator[Moment]:
    memory = WorldMemory(options.memory)
    gate = FuseGate(options.fuse_rate)
    recent: deque[tuple[int, Array]] = deque(maxlen=64)
    base_from_camera: Array | None = None
    first: int | None = None
    for seen in observations:
        first = seen.stamp_ns if first is None else first
        if frames is not None and not frames.way.covers(seen.stamp_ns):
            continue
        if frames is not None:
            base = frames.way.at(seen.stamp_ns)[0]
            if base_from_camera is None:
                base_from_camera = rigid.invert(base) @ seen.world_from_camera
        else:
            base = base_below(seen.world_from_camera, options.camera_height or _CAMERA_HEIGHT)
            base_from_camera = rigid.invert(base) @ seen.world_from_camera
        recent.append((seen.stamp_ns, base))
        width = options.width or seen.camera.width
        height = max(1, round(width * seen.camera.height / seen.camera.width))
        situation = Situation(memory, (seen,), base, base_from_camera,
                              seen.camera.fitted(width, height)[0], speed=_speed(recent))
        yield Moment((seen.stamp_ns - first) * 1e-9, seen, situation)
        # Fused afterwards: as in the node, what is seen now counts as seen, not as remembered.
        if gate.admits(seen.stamp_ns, seen.world_from_camera):
            memory.integrate(seen)


def base_below(world_from_camera: Array, camera_height: float) -> Array:
    """world_from_base [4, 4] of a place on the ground below a camera, looking where it looks.

    Up is the world's z where it lies within 45° of the camera's up, else the camera's up.
    """
    body = world_from_camera @ rigid.from_rotation(rigid.OPTICAL_FROM_BODY[:3, :3])
    level = level_frame(body) @ body
    yaw = float(np.arctan2(level[1, 0], level[0, 0]))
    upright = rigid.from_euler(0.0, 0.0, yaw, level[:3, 3] - (0.0, 0.0, camera_height))
    return np.asarray(rigid.invert(level_frame(body)) @ upright, np.float64)


def _speed(recent: deque[tuple[int, Array]]) -> float | None:
    """m/s along the heading over the newest frames; None at the first."""
    now_ns, now = recent[-1]
    before_ns, before = recent[0]
    for stamp_ns, pose in recent:
        if now_ns - stamp_ns >= _SPEED_OVER_S * 1e9:
            before_ns, before = stamp_ns, pose
    if before_ns == now_ns:
        return None
    return float(now[:3, 0] @ (now[:3, 3] - before[:3, 3])) / ((now_ns - before_ns) * 1e-9)
