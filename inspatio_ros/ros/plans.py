# SPDX-License-Identifier: Apache-2.0
"""From plan messages and goals to ways of the camera in the world frame."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from inspatio_ros.geometry.trajectory import (
    MAX_PLAN_POSES,
    CameraTrajectory,
    plan_to_trajectory,
)
from inspatio_ros.ros.camera_poses import CameraPoses
from inspatio_ros.ros.convert.paths import PathPoses, read_serialized_path
from inspatio_ros.ros.imagination_parameters import ImaginationNodeParameters
from inspatio_ros.ros.transforms import TransformUnavailable

Array = npt.NDArray[np.float64]

# A goal's path is imagined to its end, however long that takes to drive; seconds.
_WHOLE_PATH = 1e6


@dataclass(frozen=True, eq=False)
class Plan:
    """A plan in the world frame.

    world_from_pose: [N, 4, 4] of the base, or of the camera when `of_camera`. stamps_ns: [N] or
    None.
    """

    world_from_pose: Array
    stamps_ns: npt.NDArray[np.int64] | None
    of_camera: bool = False

    def same_as(self, other: Plan | None) -> bool:
        """Whether the other plan says the same: planners repeat themselves."""
        return (other is not None and self.of_camera == other.of_camera
                and np.array_equal(self.world_from_pose, other.world_from_pose)
                and (self.stamps_ns is None) == (other.stamps_ns is None)
                and (self.stamps_ns is None or np.array_equal(self.stamps_ns, other.stamps_ns)))


@dataclass(eq=False)
class PendingPlan:
    """A plan message that is not yet in the world frame.

    read: makes its poses; raises PathError. arrived: steady seconds.
    """

    read: Callable[[], PathPoses]
    arrived: float = field(default_factory=time.monotonic)
    poses: PathPoses | None = None

    @staticmethod
    def serialized(data: bytes) -> PendingPlan:
        """Of a serialised nav_msgs/Path."""
        return PendingPlan(lambda: read_serialized_path(data, MAX_PLAN_POSES))

    def resolve(self, camera_poses: CameraPoses, timeout: float, *,
                of_camera: bool = False) -> Plan | None:
        """The plan in the world frame; None while its transform may still come.

        Raises PathError, or TransformUnavailable once `timeout` seconds have passed.
        """
        if self.poses is None:
            self.poses = self.read()
        if len(self.poses.frame_from_pose) == 0:
            return Plan(np.zeros((0, 4, 4)), None, of_camera)
        try:
            world_from_plan = camera_poses.world_from_plan(self.poses.frame_id,
                                                           self.poses.stamp_ns)
        except TransformUnavailable:
            if time.monotonic() - self.arrived < timeout:
                return None
            raise
        return Plan(world_from_plan @ self.poses.frame_from_pose, self.poses.stamps_ns, of_camera)


def way_of_camera(
    plan: Plan, values: ImaginationNodeParameters, camera_poses: CameraPoses,
    camera_frame: str, stamp_ns: int, now_ns: int, *, speed: float = 0.0,
    frame_rate: float = 0.0, max_frames: int = 0, from_here: bool = True,
) -> CameraTrajectory:
    """The camera's way along a plan from now on, one pose a frame.

    camera_frame, stamp_ns: of the source image, whose camera is attached to the base. speed,
    frame_rate, max_frames: 0 for the node's own. from_here: drop what the base has passed.
    Raises EmptyPath, ValueError, TransformUnavailable.
    """
    options = values.imagination
    current: Array | None = None
    if plan.of_camera:
        base_from_camera = np.eye(4)
    else:
        base_from_camera = camera_poses.base_from(camera_frame, stamp_ns)
        current = camera_poses.current_base() if from_here else None
    frames = min(max_frames, options.max_frames) if max_frames else options.max_frames
    stamps = plan.stamps_ns if from_here else _from_first(plan.stamps_ns, now_ns)
    return plan_to_trajectory(
        plan.world_from_pose, stamps, base_from_camera, start_ns=now_ns,
        current_world_from_base=current, speed=speed or options.speed,
        frame_rate=frame_rate or options.frame_rate,
        horizon=options.horizon if from_here else _WHOLE_PATH, max_frames=frames)


def _from_first(stamps: npt.NDArray[np.int64] | None,
                now_ns: int) -> npt.NDArray[np.int64] | None:
    """A goal asks for its whole path whenever that lies: its first pose is now."""
    return None if stamps is None or len(stamps) == 0 else stamps - stamps[0] + now_ns

