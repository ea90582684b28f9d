# SPDX-License-Identifier: Apache-2.0
"""The memory of a recording as a place to drive through."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
from scipy.spatial import cKDTree

from inspatio_ros.files.bag_observations import BagObservations, BagOptions, BagTopics
from inspatio_ros.files.bags import BagReader
from inspatio_ros.geometry import rigid
from inspatio_ros.geometry.camera import PinholeCamera
from inspatio_ros.geometry.trajectory import CameraTrajectory
from inspatio_ros.imagination.assessment import extrapolation
from inspatio_ros.imagination.engine import ImaginationEngine
from inspatio_ros.imagination.request import ImaginationRequest
from inspatio_ros.memory.surfaces import reduce_depth
from inspatio_ros.memory.world_memory import MemoryOptions, WorldMemory
from inspatio_ros.planning.counterfactual import RecordedWay
from inspatio_ros.planning.footprint import Footprint
from inspatio_ros.planning.recorded_frames import RecordedFrames
from inspatio_ros.planning.route import Route
from inspatio_ros.planning.scenery import Seen
from inspatio_ros.planning.vehicles import VehicleState
from inspatio_ros.sensing.gating import FuseGate
from inspatio_ros.sensing.observation import Observation, Provenance

Array = npt.NDArray[np.float64]

# Observations that views are drawn from besides the cloud; of more every second is dropped.
MAX_VIEWS = 64
# One that was taken at this time of the recording shows others where they were then, if from near.
_REPLAY_DISTANCE, _REPLAY_ANGLE = 2.5, 0.6
# Cells of the map of what can be touched, and points that fill one.
_CELL, _FILLING = 0.1, 4
_ROUTE_STEP = 0.1
_MAP_POINTS = 4_000_000
_LEAST_WAY = 1.0


class RecordedScenery:
    """What a recording remembers, driven along its way.

    Views are imagined by the engine from the memory of the whole recording, each resting on the
    observation of that time of the recording when it was taken from near (others are so replayed
    as they moved), else on the one taken from nearest. Nothing in them is seen now: no pixel is
    labelled OBSERVED. What can be touched are the memory's points between the footprint's
    clearance and height above the ground below the recorded base: static things, as far as they
    were seen. Raises ValueError when the recording moves less than a metre or is not upright.
    """

    name = "recording"

    def __init__(self, observations: Iterable[Observation], way: RecordedWay,
                 engine: ImaginationEngine, footprint: Footprint,
                 memory: MemoryOptions | None = None) -> None:
        self._engine = engine
        self._memory = WorldMemory(memory or MemoryOptions(
            capacity=2_000_000, max_age=1e5, max_radius=1e5, voxel_size=0.04))
        self._views: list[Observation] = []
        self._remember(observations)
        poses = _thinned(way)
        if poses[:, 2, 2].min() < 0.5:
            raise ValueError("the recording's base lies down in its world frame: a closed loop "
                             "needs a base whose z points up in a world whose z does")
        self.route = Route(poses[:, :2, 3])
        if self.route.length < _LEAST_WAY:
            raise ValueError(f"the recording moves {self.route.length:.2f} m in all; a closed "
                             f"loop needs at least {_LEAST_WAY:g} m")
        self._poses = poses
        self._near = cKDTree(poses[:, :2, 3])
        self._way = way
        self._start_ns = int(way.stamps_ns[0])
        self._cells = self._occupied(footprint)

    def _remember(self, observations: Iterable[Observation]) -> None:
        gate, stride = FuseGate(5.0), 1
        for number, seen in enumerate(observations):
            if gate.admits(seen.stamp_ns, seen.world_from_camera):
                self._memory.integrate(seen)
            if number % stride == 0:
                self._views.append(seen)
            if len(self._views) > MAX_VIEWS:
                self._views, stride = self._views[::2], stride * 2
        if not self._views:
            raise ValueError("the recording has no observation")
        self._view_poses = np.stack([seen.world_from_camera for seen in self._views])
        self._view_stamps = np.array([seen.stamp_ns for seen in self._views])

    @property
    def camera(self) -> PinholeCamera:
        """The recorded camera."""
        return self._views[0].camera

    @property
    def nbytes(self) -> int:
        """Bytes of the memory and the views."""
        return self._memory.nbytes + sum(seen.nbytes for seen in self._views)

    def base_from_camera(self) -> Array:
        """Where the recorded camera sits on the base [4, 4], at the first observation."""
        seen = self._views[0]
        return np.asarray(rigid.invert(self._way.at([seen.stamp_ns])[0]) @ seen.world_from_camera)

    def reset(self, seed: int) -> VehicleState:
        """At the recording's start for seed 0, else somewhere in its first half."""
        share = 0.0 if seed == 0 else float(np.random.default_rng([seed, 7]).uniform(0.0, 0.5))
        pose = self._poses[round(share * (len(self._poses) - 1))]
        stations = self._way.station(self._way.stamps_ns)
        begun = int(np.searchsorted(stations, share * stations[-1]))
        self._start_ns = int(self._way.stamps_ns[begun])
        heading = float(np.arctan2(pose[1, 0], pose[0, 0]))
        return VehicleState(float(pose[0, 3]), float(pose[1, 3]), heading)

    def world_from_base(self, state: VehicleState) -> Array:
        """On the ground of the recorded base nearby: with its height and tilt there."""
        _, nearest = self._near.query((state.x, state.y))
        pose = self._poses[int(nearest)]
        turn = state.yaw - float(np.arctan2(pose[1, 0], pose[0, 0]))
        turned = rigid.from_euler(0.0, 0.0, turn)[:3, :3] @ pose[:3, :3]
        return rigid.from_rotation(turned, (state.x, state.y, pose[2, 3]))

    def look(self, camera: PinholeCamera, world_from_camera: Array, time: float) -> Seen:
        """The imagined view, `time` s after the start."""
        reference = self._reference(world_from_camera, self._start_ns + round(time * 1e9))
        request = ImaginationRequest(camera, CameraTrajectory(world_from_camera[None],
                                                              np.zeros(1)), (reference,))
        (frame,) = next(iter(self._engine.imagine(request, self._memory))).frames
        provenance = np.where(frame.provenance == Provenance.OBSERVED,
                              np.uint8(Provenance.MEMORY), frame.provenance)
        return Seen(frame.image, frame.depth, provenance, frame.guide.coverage)

    def _reference(self, world_from_camera: Array, stamp_ns: int) -> Observation:
        then = int(np.argmin(np.abs(self._view_stamps - stamp_ns)))
        distance, angle = extrapolation(world_from_camera, self._view_poses[then:then + 1])
        if distance < _REPLAY_DISTANCE and angle < _REPLAY_ANGLE:
            return self._views[then]
        step = rigid.invert(self._view_poses) @ world_from_camera
        away = np.linalg.norm(step[:, :3, 3], axis=1) + rigid.rotation_angle(step)
        return self._views[int(np.argmin(away))]

    def _occupied(self, footprint: Footprint) -> dict[tuple[int, int], int]:
        """Points that a robot would touch, by cell of the ground."""
        points, _ = self._memory.colored_points(_MAP_POINTS)
        _, nearest = self._near.query(points[:, :2])
        height = points[:, 2] - self._poses[nearest, 2, 3] - footprint.ground
        reached = points[(height > footprint.clearance + 0.05) & (height < footprint.height)]
        cells, counts = np.unique(np.floor(reached[:, :2] / _CELL).astype(np.int64), axis=0,
                                  return_counts=True)
        found: dict[tuple[int, int], int] = defaultdict(int)
        for (column, row), count in zip(cells, counts, strict=True):
            found[(int(column), int(row))] = int(count)
        return found

    def touched(self, corners: Array, time: float) -> str:
        """By remembered points, whatever the time."""
        low = np.floor(corners.min(0) / _CELL).astype(int)
        high = np.floor(corners.max(0) / _CELL).astype(int)
        for column in range(low[0], high[0] + 1):
            for row in range(low[1], high[1] + 1):
                if self._cells.get((column, row), 0) >= _FILLING and _inside(
                        corners, (column + 0.5) * _CELL, (row + 0.5) * _CELL):
                    return "something remembered"
        return ""


def _thinned(way: RecordedWay) -> Array:
    """Poses [N, 4, 4] of the way, one each 10 cm on the ground."""
    kept = [way.world_from_base[0]]
    for pose in way.world_from_base[1:]:
        if np.linalg.norm(pose[:2, 3] - kept[-1][:2, 3]) >= _ROUTE_STEP:
            kept.append(pose)
    if len(kept) < 2:
        kept.append(way.world_from_base[-1])
    return np.stack(kept)


def _inside(corners: Array, x: float, y: float) -> bool:
    """Whether a point lies in a convex polygon [4, 2], whichever way round its corners go."""
    edges = np.roll(corners, -1, axis=0) - corners
    away = np.array([x, y]) - corners
    side = edges[:, 0] * away[:, 1] - edges[:, 1] * away[:, 0]
    return bool((side >= 0).all() or (side <= 0).all())


def open_recorded_scenery(
    path: str | Path, engine: ImaginationEngine, footprint: Footprint, *,
    base_frame: str = "base_link", reading: BagOptions | None = None,
    topics: BagTopics | None = None, width: int = 0,
) -> RecordedScenery:
    """The scenery of a rosbag2; pictures are reduced to `width` pixels first, when not 0.

    Raises BagError, FrameError or ValueError with what is missing.
    """
    options = reading or BagOptions()
    with BagReader(path) as bag:
        frames = RecordedFrames(bag, options.world_frame, base_frame)
        observations = (_reduced(seen, width) for seen in BagObservations(bag, topics, options))
        return RecordedScenery(observations, frames.way, engine, footprint)


def _reduced(seen: Observation, width: int) -> Observation:
    if not width or width >= seen.camera.width:
        return seen
    size = width, max(1, round(seen.camera.height * width / seen.camera.width))
    image = np.asarray(cv2.resize(seen.image, size, interpolation=cv2.INTER_AREA), np.uint8)
    return replace(seen, image=image, depth=reduce_depth(seen.depth, size),
                   camera=seen.camera.resized(*size), confidence=None)
