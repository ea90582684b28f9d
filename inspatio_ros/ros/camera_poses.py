# SPDX-License-Identifier: Apache-2.0
"""Where cameras and the base are in the world frame, from tf or from odometry."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from nav_msgs.msg import Odometry

from inspatio_ros.ros.convert.paths import pose_to_matrix
from inspatio_ros.ros.convert.stamps import to_ns
from inspatio_ros.ros.imagination_parameters import TransformParameters
from inspatio_ros.ros.transforms import TransformTree, TransformUnavailable
from inspatio_ros.sensing.poses import PoseBuffer, PoseUnavailable

Array = npt.NDArray[np.float64]


class CameraPoses:
    """Hides 'tf or odometry' from everybody else. Safe between threads.

    With odometry its poses give the moving part, and tf only what is fixed on the robot. All
    lookups raise TransformUnavailable with the reason.
    """

    def __init__(self, options: TransformParameters, tree: TransformTree) -> None:
        self._options = options
        self.tree = tree
        self._odometry = PoseBuffer() if options.source == "odometry" else None
        self._child = ""

    def add_odometry(self, message: Odometry, topic: str) -> None:
        """Hold one odometry pose. Raises ValueError naming `topic` when it cannot be used."""
        if self._odometry is None:
            raise ValueError(f"{topic}: transforms.source is not odometry")
        frame = message.header.frame_id.lstrip("/")
        if frame != self._options.world_frame:
            raise ValueError(f"{topic}: frame '{frame}' is not transforms.world_frame "
                             f"'{self._options.world_frame}'")
        try:
            pose = pose_to_matrix(message.pose.pose)
        except ValueError as error:
            raise ValueError(f"{topic}: {error}") from error
        self._child = message.child_frame_id.lstrip("/") or self._options.base_frame
        self._odometry.add(to_ns(message.header.stamp), pose)

    def world_from(self, frame: str, stamp_ns: int) -> Array:
        """world_from_frame [4, 4] at `stamp_ns`."""
        if self._odometry is None:
            return self.tree.lookup(self._options.world_frame, frame, stamp_ns)
        try:
            world_from_child = self._odometry.at(stamp_ns)
        except PoseUnavailable as error:
            raise TransformUnavailable(error.reason, f"odometry: {error}") from error
        return world_from_child @ self.tree.lookup(self._child, frame, stamp_ns)

    def current_base(self) -> Array:
        """world_from_base [4, 4] at the newest stamp known."""
        base = self._options.base_frame
        return self.world_from(base, self.newest_stamp())

    def newest_stamp(self) -> int:
        """The newest stamp for which the base's pose is known; 0 when it never moves."""
        if self._odometry is None:
            stamp = self.tree.latest_stamp(self._options.world_frame, self._options.base_frame)
            return 0 if stamp is None else stamp
        try:
            return self._odometry.latest()[0]
        except PoseUnavailable as error:
            raise TransformUnavailable(error.reason, f"odometry: {error}") from error

    def base_from(self, frame: str, stamp_ns: int) -> Array:
        """base_from_frame [4, 4] at `stamp_ns`."""
        return self.tree.lookup(self._options.base_frame, frame, stamp_ns)

    def world_from_plan(self, frame: str, stamp_ns: int) -> Array:
        """world_from_frame for a plan's frame at its stamp; at the newest when it has none."""
        world = self._options.world_frame
        if frame == world:
            return np.eye(4)
        if stamp_ns == 0:
            stamp_ns = self.tree.latest_stamp(world, frame) or 0
        return self.tree.lookup(world, frame, stamp_ns)

    def clear(self) -> None:
        """Forget all moving poses: time jumped."""
        self.tree.clear_moving()
        if self._odometry is not None:
            self._odometry.clear()
