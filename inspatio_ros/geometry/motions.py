# SPDX-License-Identifier: Apache-2.0
"""Camera motions relative to a scene: three-line trajectory files, orbits and dollies.

A motion moves a camera round a pivot straight ahead of it. Files are InSpatio-World's: line 1
pitch in degrees, line 2 yaw in degrees, line 3 displacement; every line has its own number of
keys, spread evenly over the clip. Positive pitch raises the camera, positive yaw moves it left.

Two ways of reading one: ours passes through every key; parity mode reproduces the public
release (inspatio/inspatio-world), whose smoothing splines miss the keys by up to 2.3 degrees.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy.interpolate import CubicSpline, UnivariateSpline
from scipy.ndimage import gaussian_filter1d
from scipy.spatial.transform import Rotation

from inspatio_ros.geometry import rigid

Array = npt.NDArray[np.float64]

LINE_NAMES = ("pitch", "yaw", "displacement")

# Keys up to this number are joined by straight lines in either mode.
LINEAR_KEYS = 3

# Most degrees (here radians) the view may turn between two frames, and the least worth a frame.
MAX_ANGLE_PER_FRAME = np.radians(0.8)
MIN_ANGLE_PER_FRAME = np.radians(0.3)


class MotionFileError(ValueError):
    """A trajectory file that cannot be read; names file, line and value."""


@dataclass(frozen=True)
class CameraMotion:
    """Keys of a motion, each track spread evenly over the clip.

    pitch, yaw: [n] radians. displacement: [n] pivot distance of an orbit, or the way forward of a
    pure dolly; in metres, or in multiples of the foreground depth, as whoever calls decides.
    """

    pitch: Array
    yaw: Array
    displacement: Array

    @property
    def total_angle(self) -> float:
        """Radians the view turns over the clip: the larger of pitch and yaw, summed over keys."""
        return float(max(np.abs(np.diff(self.pitch)).sum(), np.abs(np.diff(self.yaw)).sum()))

    def frame_limits(self) -> tuple[int, int]:
        """Fewest and most frames that keep the turn within 0.3 to 0.8 degrees a frame."""
        angle = self.total_angle
        # Rounded before ceil/floor: 240 degrees are exactly 300 steps of 0.8, whatever the last
        # digit of the radians says.
        fewest = int(np.ceil(round(angle / MAX_ANGLE_PER_FRAME, 9))) + 1
        most = int(np.floor(round(angle / MIN_ANGLE_PER_FRAME, 9))) + 1
        return fewest, most


def read_motion(path: str | Path) -> CameraMotion:
    """The motion of a three-line trajectory file.

    Raises MotionFileError naming file, line and value when a line is missing, empty, or holds
    something that is not a finite number, and OSError when the file cannot be read.
    """
    text = Path(path).read_text(encoding="utf-8-sig")
    lines = [line for line in text.splitlines() if line.strip()]
    if len(lines) != len(LINE_NAMES):
        raise MotionFileError(
            f"{path}: {len(lines)} lines with numbers, expected 3: pitch (degrees), yaw "
            "(degrees), displacement")
    pitch, yaw, displacement = (
        _numbers(line, f"{path}, line {i + 1} ({LINE_NAMES[i]})") for i, line in enumerate(lines))
    return CameraMotion(np.radians(pitch), np.radians(yaw), displacement)


def _numbers(line: str, where: str) -> Array:
    values = []
    for word in line.replace(",", " ").split():
        try:
            values.append(float(word))
        except ValueError:
            raise MotionFileError(f"{where}: '{word[:40]}' is not a number") from None
    if not np.isfinite(values).all():
        raise MotionFileError(f"{where}: holds a value that is not finite")
    return np.array(values)


def write_motion(path: str | Path, motion: CameraMotion) -> None:
    """Write a motion as a three-line trajectory file."""
    tracks = (np.degrees(motion.pitch), np.degrees(motion.yaw), motion.displacement)
    lines = [" ".join(f"{value:.10g}" for value in track) for track in tracks]
    Path(path).write_text("\n".join(lines) + "\n", encoding="utf-8")


def relative_poses(
    motion: CameraMotion, frames: int, *, rotation_only: bool = False, parity: bool = False
) -> Array:
    """start_from_camera [frames, 4, 4]: where the camera is, in the frame it starts in.

    With all angles zero the motion is a dolly along the view; else an orbit round the point
    `displacement` ahead, always looking at it; with `rotation_only` the camera turns in place.
    Without parity the poses are those of the keys exactly; the first need not be the identity.
    """
    if frames < 1:
        raise ValueError(f"a motion needs at least one frame, got {frames}")
    sample = _smoothing_track if parity else _interpolating_track
    # The smoothing budget depends on the unit: parity needs degrees.
    pitch = np.radians(sample(np.degrees(motion.pitch), frames))
    yaw = np.radians(sample(np.degrees(motion.yaw), frames))
    radius = sample(motion.displacement, frames)
    if parity and len(motion.displacement) > LINEAR_KEYS:
        radius[0], radius[-1] = motion.displacement[0], motion.displacement[-1]
    poses = np.tile(np.eye(4), (frames, 1, 1))
    if not pitch.any() and not yaw.any():
        poses[:, 2, 3] = radius
        return poses
    poses[:, :3, :3] = _orbit_rotations(pitch, yaw)
    if not rotation_only:
        poses[:, 0, 3] = -radius * np.cos(pitch) * np.sin(yaw)
        poses[:, 1, 3] = -radius * np.sin(pitch)
        poses[:, 2, 3] = radius - radius * np.cos(pitch) * np.cos(yaw)
    return poses


def _orbit_rotations(pitch: Array, yaw: Array) -> Array:
    about_y = Rotation.from_rotvec(np.outer(yaw, [0.0, 1.0, 0.0])).as_matrix()
    about_x = Rotation.from_rotvec(np.outer(-pitch, [1.0, 0.0, 0.0])).as_matrix()
    return np.asarray(about_y @ about_x)


def _linear_track(keys: Array, frames: int) -> Array:
    return np.interp(np.linspace(0.0, 1.0, frames), np.linspace(0.0, 1.0, len(keys)), keys)


def _interpolating_track(keys: Array, frames: int) -> Array:
    """C2 through every key, at rest at both ends."""
    if len(keys) <= LINEAR_KEYS or np.ptp(keys) == 0.0:
        return _linear_track(keys, frames)
    spline = CubicSpline(np.linspace(0.0, 1.0, len(keys)), keys, bc_type="clamped")
    return np.asarray(spline(np.linspace(0.0, 1.0, frames)))


def _smoothing_track(keys: Array, frames: int) -> Array:
    """FITPACK's smoothing spline with its default budget (squared residuals <= number of keys)."""
    if len(keys) <= LINEAR_KEYS:
        return _linear_track(keys, frames)
    spline = UnivariateSpline(np.linspace(0.0, 1.0, len(keys)), keys)
    return np.asarray(spline(np.linspace(0.0, 1.0, frames)))


def target_poses(
    source_world_from_camera: Array,
    start_from_camera: Array,
    *,
    relative_to_source: bool = False,
    parity: bool = False,
) -> Array:
    """world_from_camera [T, 4, 4] of the target camera.

    source_world_from_camera: [T, 4, 4], the recording's camera. start_from_camera: [T, 4, 4], the
    motion. Absolute: the motion starts at the source's first pose and ignores the source's own
    movement. relative_to_source: the motion is an offset carried along with the source camera.

    Parity reproduces the public release, which composes with the inverse of the first pose in
    place of the pose; both are the same when the first pose is the identity.
    """
    first = source_world_from_camera[0]
    if parity:
        offset = rigid.invert(first) @ start_from_camera
        if not relative_to_source:
            return np.asarray(offset)
        return np.asarray(rigid.invert(first) @ source_world_from_camera @ offset)
    if relative_to_source:
        return np.asarray(source_world_from_camera @ start_from_camera)
    return np.asarray(first @ start_from_camera)


def smoothed_poses(world_from_camera: Array, sigma: float = 2.0, *, parity: bool = False) -> Array:
    """Poses [T, 4, 4] after a Gaussian over `sigma` frames, reflecting at the ends.

    Quaternion components are averaged and renormalised. Parity leaves their signs as they come out
    of the matrices, so that a turn beyond about 240 degrees breaks; without it they are made
    continuous first.
    """
    quaternions = Rotation.from_matrix(world_from_camera[:, :3, :3]).as_quat()
    if not parity:
        flips = np.sign((quaternions[1:] * quaternions[:-1]).sum(1))
        flips[flips == 0] = 1.0
        quaternions[1:] *= np.cumprod(flips)[:, None]
    smooth = gaussian_filter1d(quaternions, sigma, axis=0)
    smooth /= np.linalg.norm(smooth, axis=1, keepdims=True)
    result = np.tile(np.eye(4), (len(world_from_camera), 1, 1))
    result[:, :3, :3] = Rotation.from_quat(smooth).as_matrix()
    result[:, :3, 3] = gaussian_filter1d(world_from_camera[:, :3, 3], sigma, axis=0)
    return result


def bounce_indices(frames: int, wanted: int) -> npt.NDArray[np.int64]:
    """Frame numbers [wanted] that walk 0..frames-1 forward, backward, forward, ... .

    When fewer are wanted than there are, evenly spread ones, rounded down.
    """
    if frames < 1 or wanted < 1:
        raise ValueError(f"cannot pick {wanted} of {frames} frames")
    if wanted <= frames:
        return np.linspace(0, frames - 1, wanted).astype(np.int64)
    if frames == 1:
        return np.zeros(wanted, np.int64)
    period = 2 * (frames - 1)
    phase = np.arange(wanted) % period
    return np.where(phase < frames, phase, period - phase)
