# SPDX-License-Identifier: Apache-2.0
"""Camera trajectories: timed camera poses, their resampling, and the way from a plan to one."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from inspatio_ros.geometry import rigid

Array = npt.NDArray[np.float64]

# A path of more poses is thinned before anything is computed: planners publish metres of
# centimetre spacing, and a hostile or broken one publishes millions.
MAX_PLAN_POSES = 20_000


class EmptyPath(ValueError):
    """A path with nothing left to drive."""


@dataclass(frozen=True)
class CameraTrajectory:
    """Camera poses over time.

    world_from_camera: [T, 4, 4], optical camera frame, metres.
    times: [T] seconds from the start of the trajectory, the first >= 0, strictly increasing.
    Raises ValueError when empty, not rigid, not finite, or when times do not increase.
    """

    world_from_camera: Array
    times: Array

    def __post_init__(self) -> None:
        poses = rigid.require_rigid(self.world_from_camera, "world_from_camera")
        times = np.asarray(self.times, dtype=np.float64)
        if poses.ndim != 3 or len(poses) == 0:
            raise EmptyPath("a camera trajectory needs at least one pose")
        if times.shape != (len(poses),):
            raise ValueError(f"times: expected {len(poses)} values, got shape {times.shape}")
        if not np.isfinite(times).all() or times[0] < 0 or np.any(np.diff(times) <= 0):
            raise ValueError("times must be finite, start at 0 or later and strictly increase")
        object.__setattr__(self, "world_from_camera", poses)
        object.__setattr__(self, "times", times)

    @staticmethod
    def from_poses(world_from_camera: Array, frame_rate: float) -> CameraTrajectory:
        """One pose a frame at `frame_rate` Hz, the first at time 0."""
        return CameraTrajectory(world_from_camera, np.arange(len(world_from_camera)) / frame_rate)

    def __len__(self) -> int:
        return len(self.times)

    @property
    def duration(self) -> float:
        """Seconds from the first to the last pose."""
        return float(self.times[-1] - self.times[0])

    @property
    def length(self) -> float:
        """Metres along the camera's way."""
        steps = np.diff(self.world_from_camera[:, :3, 3], axis=0)
        return float(np.linalg.norm(steps, axis=1).sum())

    def at(self, times: npt.ArrayLike) -> Array:
        """Poses [n, 4, 4] at `times` seconds, held at the ends."""
        return rigid.interpolate(self.times, self.world_from_camera, np.atleast_1d(times))

    def resampled(self, frame_rate: float, max_frames: int | None = None) -> CameraTrajectory:
        """Poses at `frame_rate` Hz from the first time on; the last interval may be cut short.

        At least one pose; at most `max_frames`.
        """
        if not frame_rate > 0:
            raise ValueError(f"frame_rate {frame_rate} Hz is not positive")
        # The tolerance keeps the last pose when the duration is a whole number of frames.
        count = int(np.floor(self.duration * frame_rate + 1e-6)) + 1
        if max_frames is not None:
            count = min(count, max_frames)
        times = self.times[0] + np.arange(count) / frame_rate
        return CameraTrajectory(self.at(times), times)

    def cut(self, horizon: float) -> CameraTrajectory:
        """The poses within `horizon` seconds of the first; at least that one."""
        keep = self.times <= self.times[0] + horizon + 1e-9
        return CameraTrajectory(self.world_from_camera[keep], self.times[keep])


def plan_to_trajectory(
    world_from_base: Array,
    stamps_ns: npt.NDArray[np.int64] | None,
    base_from_camera: Array,
    *,
    start_ns: int,
    current_world_from_base: Array | None,
    speed: float,
    frame_rate: float,
    horizon: float,
    max_frames: int,
) -> CameraTrajectory:
    """The camera's way when the base drives a plan, one pose a frame.

    Poses already passed are dropped, the camera is attached to the base, time comes from the
    stamps where they increase and else from `speed`, then the way is resampled to `frame_rate` and
    cut to `horizon` and `max_frames`. One function for topic, action, file and bag.

    world_from_base [N, 4, 4]; stamps_ns [N] or None; base_from_camera [4, 4], optical camera.
    start_ns: "now" on the plan's clock. current_world_from_base: where the base is, or None (then
    nothing is dropped by position). speed: m/s along the path, for plans without stamps.
    The trajectory's times count from `start_ns`.

    Raises EmptyPath when no pose is given or all lie in the past, ValueError on poses that are not
    finite, a speed or frame rate that is not positive.
    """
    if len(world_from_base) == 0:
        raise EmptyPath("the path has no poses")
    if not speed > 0 or not frame_rate > 0 or not horizon > 0 or max_frames < 1:
        raise ValueError(f"speed {speed} m/s, frame_rate {frame_rate} Hz, horizon {horizon} s and "
                         f"max_frames {max_frames} must all be positive")
    poses, stamps = _thinned(rigid.require_rigid(world_from_base, "path"), stamps_ns)
    if _timed(stamps):
        assert stamps is not None
        times, poses = _times_from_stamps(stamps, poses, start_ns)
    else:
        times, poses = _times_from_speed(poses, current_world_from_base, speed)
    cameras = CameraTrajectory(poses @ base_from_camera, times)
    frames_in_horizon = int(np.floor(horizon * frame_rate + 1e-6)) + 1
    return cameras.resampled(frame_rate, min(max_frames, frames_in_horizon))


def _thinned(
    poses: Array, stamps: npt.NDArray[np.int64] | None
) -> tuple[Array, npt.NDArray[np.int64] | None]:
    if len(poses) > MAX_PLAN_POSES:
        keep = np.unique(np.linspace(0, len(poses) - 1, MAX_PLAN_POSES).astype(np.int64))
        return poses[keep], None if stamps is None else stamps[keep]
    return poses, stamps


def _timed(stamps: npt.NDArray[np.int64] | None) -> bool:
    """Whether the stamps carry timing: more than one, and strictly increasing."""
    return stamps is not None and len(stamps) > 1 and bool(np.all(np.diff(stamps) > 0))


def _times_from_stamps(
    stamps: npt.NDArray[np.int64], poses: Array, start_ns: int
) -> tuple[Array, Array]:
    times = (stamps - np.int64(start_ns)).astype(np.float64) * 1e-9
    if times[-1] < 0:
        raise EmptyPath(f"the path's last pose lies {-times[-1]:.2f} s in the past")
    if times[0] >= 0:
        return times, poses
    # The way begins now, between the last passed pose and the next one.
    ahead = times > 1e-9
    first = rigid.interpolate(times, poses, [0.0])
    return (np.concatenate([[0.0], times[ahead]]), np.concatenate([first, poses[ahead]]))


def _times_from_speed(
    poses: Array, current: Array | None, speed: float
) -> tuple[Array, Array]:
    if current is not None:
        poses = np.concatenate([current[None], poses[_first_pose_ahead(poses, current):]])
    steps = np.linalg.norm(np.diff(poses[:, :3, 3], axis=0), axis=1)
    turns = rigid.rotation_angle(rigid.invert(poses[:-1]) @ poses[1:])
    # A turn on the spot takes time too: one metre of path for one radian, else two poses with the
    # same position would share one time.
    seconds = np.maximum(steps, turns) / speed
    keep = np.concatenate([[True], seconds > 1e-6])
    times = np.concatenate([[0.0], np.cumsum(seconds)])[keep]
    return times, poses[keep]


def _first_pose_ahead(poses: Array, current: Array) -> int:
    """Index of the first pose not yet passed: after the closest one, unless that lies ahead."""
    position = current[:3, 3]
    closest = int(np.argmin(np.linalg.norm(poses[:, :3, 3] - position, axis=1)))
    if closest + 1 >= len(poses):
        return closest
    along = poses[closest + 1, :3, 3] - poses[closest, :3, 3]
    passed = float(np.dot(position - poses[closest, :3, 3], along)) >= 0.0
    return closest + 1 if passed else closest
