# SPDX-License-Identifier: Apache-2.0
"""Which frame of a recording is shown from where, decided for the whole clip beforehand."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from inspatio_ros.files.trajectory_files import PoseList
from inspatio_ros.geometry import rigid
from inspatio_ros.geometry.motions import (
    MAX_ANGLE_PER_FRAME,
    CameraMotion,
    bounce_indices,
    relative_poses,
    target_poses,
)

Array = npt.NDArray[np.float64]

# The public release never makes fewer frames: its model was trained on clips.
MIN_FRAMES = 121
# Of a motion that turns less than this (radians, 0.001 degree) only the least number counts.
_STILL = math.radians(1e-3)
# Percentile of the first depth picture that stands for the foreground: near, but no speck.
FOREGROUND_PERCENTILE = 10.0


@dataclass(frozen=True)
class MotionOptions:
    """How a trajectory file is followed; the names are those of the public release's flags.

    adaptive: choose the number of frames by the angle turned. frame_rate: Hz, for poses with
    times. parity: the release's own conventions, defects included.
    """

    relative_to_source: bool = False
    rotation_only: bool = False
    adaptive: bool = True
    freeze_repeat: int = 0
    freeze_frame: int | None = None
    frame_rate: float = 24.0
    parity: bool = False


@dataclass(frozen=True)
class CameraPlan:
    """source_frames: [T] number of the recording's frame shown. world_from_camera: [T, 4, 4]."""

    source_frames: npt.NDArray[np.int64]
    world_from_camera: Array

    def __len__(self) -> int:
        return len(self.source_frames)

    def whole_blocks(self) -> CameraPlan:
        """Without the frames at the end that fill no block, which the public release loses.

        Its model makes blocks of three latents, the first latent one frame, the others four.
        Clips shorter than one block are kept.
        """
        latents = (1 + (len(self) - 1) // 4) // 3 * 3
        kept = 4 * latents - 3 if latents else len(self)
        return CameraPlan(self.source_frames[:kept], self.world_from_camera[:kept])

    @property
    def largest_turn(self) -> float:
        """Most radians that the view turns between two frames."""
        return largest_turn(self.world_from_camera)


def foreground_depth(depth: npt.NDArray[np.floating]) -> float:
    """How far the foreground is, m: a low percentile of the known depth [H, W].

    Raises ValueError when nothing is known.
    """
    known = depth[depth > 0]
    if known.size == 0:
        raise ValueError("no frame has depth: a displacement relative to the foreground has no "
                         "meaning (--parity takes it in metres)")
    return float(np.percentile(known, FOREGROUND_PERCENTILE))


def frozen_frames(frames: int, repeat: int, frame: int | None) -> npt.NDArray[np.int64]:
    """Frame numbers with one shown `repeat` more times: the given one, else the middle."""
    if repeat < 0:
        raise ValueError(f"freeze_repeat {repeat} is negative")
    chosen = frames // 2 if frame is None else frame
    chosen = min(max(chosen, 0), frames - 1)
    numbers = np.arange(frames)
    return np.concatenate([numbers[:chosen + 1], np.full(repeat, chosen), numbers[chosen + 1:]])


def plan_camera(
    path: CameraMotion | PoseList,
    source_world_from_camera: Array,
    foreground: float,
    options: MotionOptions,
) -> CameraPlan:
    """The frames and cameras of the whole result.

    source_world_from_camera: [S, 4, 4] of the recording. foreground: m, unit of a motion's
    displacement (1 for metres).
    """
    numbers = frozen_frames(
        len(source_world_from_camera), options.freeze_repeat, options.freeze_frame)
    if options.parity and isinstance(path, CameraMotion):
        return _parity_plan(path, source_world_from_camera, numbers, options)
    if isinstance(path, PoseList):
        start = _through_poses(path, options)
    else:
        count = frame_count(path, len(numbers), options) if options.adaptive else len(numbers)
        scaled = CameraMotion(path.pitch, path.yaw, path.displacement * foreground)
        start = relative_poses(scaled, count, rotation_only=options.rotation_only)
    if options.rotation_only:
        start[:, :3, 3] = 0.0
    chosen = numbers[bounce_indices(len(numbers), len(start))]
    poses = target_poses(source_world_from_camera[chosen], start,
                         relative_to_source=options.relative_to_source, parity=options.parity)
    return CameraPlan(chosen, poses)


def frame_count(motion: CameraMotion, frames: int, options: MotionOptions) -> int:
    """Frames for a motion over a clip of `frames`: 0.3 to 0.8 degrees each, at least 121.

    Parity counts as the release does, from the keys alone. Else no single step turns more than
    0.8 degrees, however uneven the motion is.
    """
    fewest, most = motion.frame_limits()
    still = motion.total_angle <= _STILL
    if options.parity:
        if frames < max(fewest, MIN_FRAMES):
            return max(fewest, MIN_FRAMES)
        return frames if still else min(frames, most)
    count = max(frames, MIN_FRAMES)
    if still:
        return count
    count = max(min(count, max(most, MIN_FRAMES)), fewest)
    while (turn := largest_turn(relative_poses(motion, count, rotation_only=True))
           ) > MAX_ANGLE_PER_FRAME:
        # The step shrinks about as the number of steps grows.
        count = 1 + max(count, math.ceil((count - 1) * turn / MAX_ANGLE_PER_FRAME))
    return count


def largest_turn(world_from_camera: Array) -> float:
    """Most radians between two successive poses [T, 4, 4]; 0 for one."""
    if len(world_from_camera) < 2:
        return 0.0
    steps = rigid.invert(world_from_camera[:-1]) @ world_from_camera[1:]
    return float(rigid.rotation_angle(steps).max())


def _parity_plan(
    motion: CameraMotion, source: Array, numbers: npt.NDArray[np.int64], options: MotionOptions
) -> CameraPlan:
    """The release's order: cameras for every frame first, then the same walk over both."""
    start = relative_poses(
        motion, len(numbers), rotation_only=options.rotation_only, parity=True)
    poses = target_poses(
        source[numbers], start, relative_to_source=options.relative_to_source, parity=True)
    walk = np.arange(len(numbers))
    if options.adaptive:
        walk = bounce_indices(len(numbers), frame_count(motion, len(numbers), options))
    return CameraPlan(numbers[walk], poses[walk])


def _through_poses(path: PoseList, options: MotionOptions) -> Array:
    """Poses a frame: at their times if they have them, through each of them in any case."""
    poses = path.start_from_camera
    if len(poses) == 1:
        return poses.copy()
    times = np.arange(len(poses)) / options.frame_rate if path.times is None else path.times
    grid = np.arange(math.floor(times[-1] * options.frame_rate + 1e-6) + 1) / options.frame_rate
    if path.times is None:
        grid = times
    dense = rigid.interpolate(times, poses, grid)
    if not options.adaptive or options.parity:
        return dense
    split = max(1, math.ceil(largest_turn(dense) / MAX_ANGLE_PER_FRAME - 1e-9))
    finer = np.linspace(grid[0], grid[-1], (len(grid) - 1) * split + 1)
    return rigid.interpolate(times, poses, finer)
