# SPDX-License-Identifier: Apache-2.0
"""What the camera would see from another mounting. Used by the imagination node's worker alone."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
from rclpy.lifecycle import LifecycleNode
from rclpy.publisher import Publisher
from sensor_msgs.msg import CameraInfo, Image
from std_msgs.msg import Header
from tf2_msgs.msg import TFMessage

from inspatio_ros.geometry import rigid
from inspatio_ros.geometry.trajectory import CameraTrajectory
from inspatio_ros.imagination.engine import ImaginationEngine
from inspatio_ros.imagination.filler import GeometricFiller
from inspatio_ros.imagination.request import ImaginationRequest, ImaginedFrame
from inspatio_ros.memory.world_memory import WorldMemory
from inspatio_ros.planning.mounting import ON_BASE
from inspatio_ros.ros import qos
from inspatio_ros.ros.convert import cameras, images
from inspatio_ros.ros.convert.stamps import to_time
from inspatio_ros.ros.imagination_parameters import ImaginationNodeParameters
from inspatio_ros.ros.transforms import stamped_transform
from inspatio_ros.sensing.observation import Observation


class VirtualRig:
    """Re-renders each new observation from the mounting of `rig.*`, at its rate.

    Holes are filled by the geometric filler whatever the node's backend: one view at once, at
    rate. Stamps are those of the real images; the frame hangs on the real camera's, or on the
    base. base_from(frame, stamp_ns) gives the real camera's place on the base.
    """

    def __init__(self, node: LifecycleNode, values: Callable[[], ImaginationNodeParameters],
                 publish: Callable[[Publisher, Any], bool],
                 base_from: Callable[[str, int], Any]) -> None:
        self._node, self._values, self._publish = node, values, publish
        self._base_from = base_from
        self._engine = ImaginationEngine(GeometricFiller())
        self._last_ns = 0
        self._due = 0.0

        def made(kind: type, topic: str, profile: Any) -> Publisher:
            return node.create_lifecycle_publisher(kind, topic, profile)

        self._image = made(Image, "~/rig/image", qos.IMAGE_OUTPUT)
        self._info = made(CameraInfo, "~/rig/camera_info", qos.IMAGE_OUTPUT)
        self._depth = made(Image, "~/rig/depth", qos.IMAGE_OUTPUT)
        self._provenance = made(Image, "~/rig/provenance", qos.IMAGE_OUTPUT)
        self._tf = made(TFMessage, "/tf", qos.TF)

    def due(self, references: tuple[Observation, ...]) -> bool:
        """Whether a new observation is there and its turn has come."""
        return (bool(references) and references[0].stamp_ns != self._last_ns
                and time.monotonic() >= self._due)

    def show(self, seen: Observation, memory: WorldMemory, camera_frame: str) -> None:
        """Publish the view that belongs to an observation.

        Raises TransformUnavailable when the real camera's place on the base is needed and unknown.
        """
        options = self._values().rig
        # A tenth of slack, so that a camera of just this rate loses nothing.
        self._due = time.monotonic() + 0.9 / options.rate
        self._last_ns = seen.stamp_ns
        parent = camera_frame
        parent_from_seen = np.eye(4)
        if options.relative_to == ON_BASE:
            parent = self._values().transforms.base_frame
            parent_from_seen = self._base_from(camera_frame, seen.stamp_ns)
        parent_from_view = options.mount.base_from_camera(parent_from_seen)
        world_from_view = (seen.world_from_camera @ rigid.invert(parent_from_seen)
                           @ parent_from_view)
        request = ImaginationRequest(
            options.camera(seen.camera), CameraTrajectory(world_from_view[None], np.zeros(1)),
            (seen,))
        block = next(iter(self._engine.imagine(request, memory)))
        self._send(block.frames[0], seen.stamp_ns, parent, parent_from_view)

    def _send(self, frame: ImaginedFrame, stamp_ns: int, parent: str,
              parent_from_view: Any) -> None:
        name = self._values().rig.frame
        header = Header(stamp=to_time(stamp_ns), frame_id=name)
        self._publish(self._tf, TFMessage(transforms=[stamped_transform(
            Header(stamp=header.stamp, frame_id=parent), name, parent_from_view)]))
        self._publish(self._info, cameras.to_info(frame.camera, header))
        self._publish(self._image, images.from_array(frame.image, "rgb8", header))
        for publisher, pixels, encoding in ((self._depth, frame.depth, "32FC1"),
                                            (self._provenance, frame.provenance, "mono8")):
            if publisher.get_subscription_count() > 0:
                self._publish(publisher, images.from_array(
                    np.ascontiguousarray(pixels), encoding, header))

    def time_jumped(self) -> None:
        """Stamps may start anew."""
        self._last_ns = 0

    def destroy(self) -> None:
        """Take the publishers down."""
        for publisher in (self._image, self._info, self._depth, self._provenance, self._tf):
            self._node.destroy_lifecycle_publisher(publisher)
        self._engine.close()
