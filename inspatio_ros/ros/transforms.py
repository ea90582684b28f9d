# SPDX-License-Identifier: Apache-2.0
"""/tf and /tf_static: a listener that feeds a `TransformTree`, and the messages to broadcast."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from geometry_msgs.msg import TransformStamped
from rclpy.node import Node
from std_msgs.msg import Header
from tf2_msgs.msg import TFMessage

from inspatio_ros.messages.poses import to_ns
from inspatio_ros.messages.transforms import MAX_FRAMES, TransformTree, TransformUnavailable
from inspatio_ros.ros import qos
from inspatio_ros.ros.convert.paths import matrix_to_transform

__all__ = [
    "MAX_FRAMES", "TransformListener", "TransformTree", "TransformUnavailable",
    "stamped_transform",
]

Array = npt.NDArray[np.float64]


class TransformListener:
    """Feeds /tf and /tf_static into a tree. `on_stamp(stamp_ns)` sees every moving stamp."""

    def __init__(self, node: Node, tree: TransformTree,
                 on_stamp: Callable[[int], None] | None = None) -> None:
        self._node = node
        self._tree = tree
        self._on_stamp = on_stamp
        self._subscriptions = [
            node.create_subscription(TFMessage, "/tf", self._moving, qos.TF),
            node.create_subscription(TFMessage, "/tf_static", self._static, qos.TF_STATIC)]

    def _moving(self, message: TFMessage) -> None:
        for transform in message.transforms:
            if self._on_stamp is not None:
                self._on_stamp(to_ns(transform.header.stamp))
            self._tree.add(transform)

    def _static(self, message: TFMessage) -> None:
        for transform in message.transforms:
            self._tree.add(transform, static=True)

    def destroy(self) -> None:
        """Unsubscribe."""
        for subscription in self._subscriptions:
            self._node.destroy_subscription(subscription)


def stamped_transform(header: Header, child: str, parent_from_child: Array) -> TransformStamped:
    """The message that says where `child` is in header.frame_id."""
    return TransformStamped(header=header, child_frame_id=child,
                            transform=matrix_to_transform(parent_from_child))
