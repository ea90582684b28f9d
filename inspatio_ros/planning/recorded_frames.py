# SPDX-License-Identifier: Apache-2.0
"""The frames of a recording: who hangs on whom, and where the robot's base was all along."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from inspatio_ros.files.bag_observations import ODOMETRY, TF
from inspatio_ros.files.bags import BagReader
from inspatio_ros.geometry import rigid
from inspatio_ros.messages.poses import pose_to_matrix, to_ns
from inspatio_ros.messages.transforms import TransformTree, TransformUnavailable
from inspatio_ros.planning.counterfactual import RecordedWay

Array = npt.NDArray[np.float64]


class FrameError(ValueError):
    """A recording whose frames do not say what is needed; names them and the option to change."""


class RecordedFrames:
    """Links of a recording's tf, and the way of its base in the world.

    Read once through tf (else odometry) on construction. parents: by child. Raises FrameError when
    the recording does not say where `base_frame` is in `world_frame`.
    """

    def __init__(self, bag: BagReader, world_frame: str, base_frame: str) -> None:
        self.world_frame, self.base_frame = world_frame, base_frame
        self.parents: dict[str, str] = {}
        self._fixed: dict[str, Array] = {}
        self._moving: set[str] = set()
        names = [name for name, info in bag.topics.items() if info.message_type == TF]
        self.static_topics = [name for name in names if name.endswith("tf_static")]
        self.moving_topics = [name for name in names if name not in self.static_topics]
        self.odometry_topics = [name for name, info in bag.topics.items()
                                if info.message_type == ODOMETRY]
        self._tree = TransformTree()
        stamps, poses = self._of_tf(bag)
        self.source = "tf"
        if len(stamps) < 2:
            stamps, poses = self._of_odometry(bag)
            self.source = "odometry"
        if len(stamps) < 2:
            raise FrameError(
                f"{bag.path}: neither tf nor odometry says where '{base_frame}' is in "
                f"'{world_frame}' (tf has: {', '.join(self._tree.frames()[:12]) or 'no frame'}); "
                "name others with --base-frame and --world-frame")
        self.way = RecordedWay(np.array(stamps, np.int64), np.stack(poses))

    def _of_tf(self, bag: BagReader) -> tuple[list[int], list[Array]]:
        for message in self._messages(bag, self.static_topics):
            for transform in message.transforms:
                self._add(transform, static=True)
        stamps: list[int] = []
        poses: list[Array] = []
        for message in self._messages(bag, self.moving_topics):
            for transform in message.transforms:
                self._add(transform, static=False)
            try:
                newest = self._tree.latest_stamp(self.world_frame, self.base_frame)
                if newest is not None and (not stamps or newest > stamps[-1]):
                    pose = self._tree.lookup(self.world_frame, self.base_frame, newest)
                    stamps.append(newest)
                    poses.append(pose)
            except TransformUnavailable:
                continue
        return stamps, poses

    def _of_odometry(self, bag: BagReader) -> tuple[list[int], list[Array]]:
        found: list[tuple[int, Array]] = []
        for message in self._messages(bag, self.odometry_topics[:1]):
            if (message.child_frame_id.lstrip("/") or self.base_frame) != self.base_frame:
                continue
            try:
                found.append((to_ns(message.header.stamp), pose_to_matrix(message.pose.pose)))
            except ValueError:
                continue
        return [stamp for stamp, _ in found], [pose for _, pose in found]

    def _add(self, transform: Any, *, static: bool) -> None:
        child, parent = transform.child_frame_id.lstrip("/"), transform.header.frame_id.lstrip("/")
        self._tree.add(transform, static=static)
        self.parents[child] = parent
        if not static:
            self._moving.add(child)

    @staticmethod
    def _messages(bag: BagReader, topics: list[str]) -> Iterator[Any]:
        if topics:
            for stored in bag.messages(topics):
                yield bag.deserialize(stored)

    def ancestors(self, frame: str) -> list[str]:
        """The frame, its parent, and so on."""
        chain = [frame]
        while chain[-1] in self.parents and len(chain) <= len(self.parents):
            chain.append(self.parents[chain[-1]])
        return chain

    def hangs_on_base(self, frame: str) -> bool:
        """Whether the frame moves with the base."""
        return self.base_frame in self.ancestors(frame.lstrip("/"))

    def parent_from_base(self, frame: str) -> tuple[str, Array]:
        """(parent, parent_from_base [4, 4]) of a frame that is fixed on the base.

        Raises FrameError when it is not, or is the base itself.
        """
        chain = self.ancestors(frame)
        if frame == self.base_frame or self.base_frame not in chain:
            raise FrameError(f"camera frame '{frame}' does not hang on '{self.base_frame}' in tf: "
                             "its mounting cannot be changed; name another --base-frame")
        moving = [f for f in chain[:chain.index(self.base_frame)] if f in self._moving]
        if moving:
            raise FrameError(f"camera frame '{frame}' sits on the moving joint '{moving[0]}': its "
                             "mounting cannot be changed")
        parent = self.parents[frame]
        return parent, self._tree.lookup(parent, self.base_frame, 0)


def shifted_twist(linear: Array, angular: Array, base_from_shifted: Array) -> tuple[Array, Array]:
    """The velocity [3] m/s and turn rate [3] rad/s of the shifted base, in its own axes."""
    shifted_from_base = rigid.invert(base_from_shifted)[:3, :3]
    moved = linear + np.cross(angular, base_from_shifted[:3, 3])
    return shifted_from_base @ moved, shifted_from_base @ angular
