# SPDX-License-Identifier: Apache-2.0
"""Everything the imagination node publishes about imagined frames. Used by the worker alone."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from nav_msgs.msg import Path
from rclpy.lifecycle import LifecycleNode
from rclpy.publisher import Publisher
from rclpy.qos_overriding_options import QoSOverridingOptions
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, PointCloud2
from std_msgs.msg import Header
from tf2_msgs.msg import TFMessage
from unique_identifier_msgs.msg import UUID
from visualization_msgs.msg import MarkerArray

from inspatio_ros.geometry.camera import PinholeCamera
from inspatio_ros.geometry.trajectory import CameraTrajectory
from inspatio_ros.imagination.request import ImaginedFrame as CoreFrame
from inspatio_ros.memory.moving import MovingObject
from inspatio_ros.msg import CandidateHindsight, ImaginedFrame
from inspatio_ros.planning.review import TermReview
from inspatio_ros.ros import qos
from inspatio_ros.ros.convert import cameras, clouds, images, markers, object_markers, paths
from inspatio_ros.ros.convert.stamps import to_duration, to_time
from inspatio_ros.ros.diagnostics import RateMeter
from inspatio_ros.ros.imagination_parameters import ImaginationNodeParameters
from inspatio_ros.ros.score_candidates_server import hindsight_message
from inspatio_ros.ros.transforms import stamped_transform


class ImaginationOutput:
    """The node's publishers of frames, path, frusta and cloud.

    publish(publisher, message) sends and tells whether it went out; now_ns() is the ROS time.
    Stamps of frames strictly increase until `time_jumped`. Image messages are kept and refilled.
    """

    def __init__(self, node: LifecycleNode, values: Callable[[], ImaginationNodeParameters],
                 publish: Callable[[Publisher, Any], bool]) -> None:
        self._node = node
        self._values = values
        self._publish = publish
        self._image = self._images(Image, "~/image")
        self._compressed = self._images(CompressedImage, "~/image/compressed")
        self._info = self._make(CameraInfo, "~/camera_info", qos.IMAGE_OUTPUT)
        self._depth = self._images(Image, "~/depth")
        self._provenance = self._images(Image, "~/provenance")
        self._frame = self._make(ImaginedFrame, "~/frame", qos.STATE_OUTPUT)
        self._guide_image = self._images(Image, "~/guide/image")
        self._guide_depth = self._images(Image, "~/guide/depth")
        self._path = self._make(Path, "~/camera_path", qos.LATCHED)
        self._frusta = self._make(MarkerArray, "~/frusta", qos.LATCHED)
        self._objects = self._make(MarkerArray, "~/objects", qos.STATE_OUTPUT)
        self._points = self._make(PointCloud2, "~/points", qos.IMAGE_OUTPUT)
        self._hindsight = self._make(CandidateHindsight, "~/candidate_hindsight", qos.STATE_OUTPUT)
        self._tf = self._make(TFMessage, "/tf", qos.TF)
        self._kept: dict[str, Image] = {}
        self._last_stamp_ns = 0
        self._next_cloud = 0.0
        self.frames_published = 0
        self.rate = RateMeter()

    def _make(self, msg_type: type, topic: str, profile: Any) -> Publisher:
        return self._node.create_lifecycle_publisher(msg_type, topic, profile)

    def _images(self, msg_type: type, topic: str) -> Publisher:
        return self._node.create_lifecycle_publisher(
            msg_type, topic, qos.IMAGE_OUTPUT,
            qos_overriding_options=QoSOverridingOptions.with_default_policies())

    def frame(self, frame: CoreFrame) -> ImaginedFrame:
        """Publish one imagined frame on every topic that wants it; its metadata message."""
        values = self._values()
        header = Header(stamp=to_time(self._next_stamp()),
                        frame_id=values.transforms.imagined_frame)
        self._send_transform(frame.world_from_camera, header, values.transforms.world_frame)
        self._publish(self._info, cameras.to_info(frame.camera, header))
        self._send(self._image, frame.image, "rgb8", header)
        for publisher, pixels, encoding in (
                (self._depth, frame.depth, "32FC1"), (self._provenance, frame.provenance, "mono8"),
                (self._guide_image, frame.guide.image, "rgb8"),
                (self._guide_depth, frame.guide.depth, "32FC1")):
            if publisher.get_subscription_count() > 0:
                self._send(publisher, pixels, encoding, header)
        if self._compressed.get_subscription_count() > 0:
            self._publish(self._compressed, images.encode_jpeg(
                frame.image, values.output.jpeg_quality, header))
        message = frame_message(frame, header, values.transforms.world_frame)
        self._publish(self._frame, message)
        self.frames_published += 1
        self.rate.tick()
        return message

    def _next_stamp(self) -> int:
        now = self._node.get_clock().now().nanoseconds
        self._last_stamp_ns = max(now, self._last_stamp_ns + 1)
        return self._last_stamp_ns

    def _send(self, publisher: Publisher, pixels: npt.NDArray[Any], encoding: str,
              header: Header) -> None:
        message = self._kept.setdefault(publisher.topic_name, Image())
        self._publish(publisher, images.fill_image(message, pixels, encoding, header))

    def _send_transform(self, world_from_camera: npt.NDArray[np.float64], header: Header,
                        world: str) -> None:
        in_world = Header(stamp=header.stamp, frame_id=world)
        self._publish(self._tf, TFMessage(transforms=[
            stamped_transform(in_world, header.frame_id, world_from_camera)]))

    def way(self, trajectory: CameraTrajectory, camera: PinholeCamera,
            support: npt.NDArray[np.float64] | None = None) -> None:
        """Publish the camera's way; frusta grey before it is imagined, then by `support` [T]."""
        now_ns = self._node.get_clock().now().nanoseconds
        header = Header(stamp=to_time(now_ns), frame_id=self._values().transforms.world_frame)
        if support is None:
            support = np.full(len(trajectory), np.nan)
            stamps = [now_ns + round(t * 1e9) for t in trajectory.times]
            self._publish(self._path, paths.to_path(trajectory.world_from_camera, stamps, header))
        self._publish(self._frusta, markers.frusta(
            camera, trajectory.world_from_camera, support, header))

    def no_way(self) -> None:
        """Publish an empty path and no frusta: nothing is followed."""
        header = Header(stamp=self._node.get_clock().now().to_msg(),
                        frame_id=self._values().transforms.world_frame)
        self._publish(self._path, Path(header=header))
        self._publish(self._frusta, markers.no_frusta(header))

    def objects_wanted(self) -> bool:
        """Whether ~/objects has a listener."""
        return bool(self._objects.get_subscription_count() > 0)

    def objects(self, now: Sequence[MovingObject], later: Sequence[MovingObject]) -> None:
        """Publish things that move, now and a second later, world frame."""
        header = Header(stamp=self._node.get_clock().now().to_msg(),
                        frame_id=self._values().transforms.world_frame)
        self._publish(self._objects, object_markers.objects(now, later, header))

    def hindsight(self, review: TermReview) -> None:
        """Publish what the terms of a driven candidate were worth."""
        self._publish(self._hindsight, hindsight_message(
            review, self._values().transforms.world_frame))

    def cloud_due(self) -> bool:
        """Whether ~/points has a listener and its turn."""
        return (time.monotonic() >= self._next_cloud
                and self._points.get_subscription_count() > 0)

    def cloud(self, points: npt.NDArray[np.float32], rgb: npt.NDArray[np.uint8]) -> None:
        """Publish the memory's points, world frame."""
        values = self._values()
        self._next_cloud = time.monotonic() + 1.0 / values.output.cloud_rate
        header = Header(stamp=self._node.get_clock().now().to_msg(),
                        frame_id=values.transforms.world_frame)
        self._publish(self._points, clouds.to_cloud(points, rgb, header))

    def time_jumped(self) -> None:
        """Stamps may start anew from the earlier time."""
        self._last_stamp_ns = 0

    def destroy(self) -> None:
        """Take all publishers down."""
        for publisher in (self._image, self._compressed, self._info, self._depth,
                          self._provenance, self._frame, self._guide_image, self._guide_depth,
                          self._path, self._frusta, self._objects, self._points,
                          self._hindsight, self._tf):
            self._node.destroy_lifecycle_publisher(publisher)


def frame_message(frame: CoreFrame, header: Header, world: str) -> ImaginedFrame:
    """The metadata message of an imagined frame."""
    message = ImaginedFrame(
        header=header, request_id=UUID(uuid=np.frombuffer(frame.request_id, np.uint8)),
        block_index=frame.block_index, frame_index=frame.frame_index,
        frame_count=frame.frame_count, source_stamp=to_time(frame.source_stamp_ns),
        time_from_start=to_duration(frame.time_from_start),
        observed_ratio=frame.observed_ratio, memory_ratio=frame.memory_ratio,
        imagined_ratio=frame.imagined_ratio, expected_error=frame.expected_error,
        extrapolation_distance=frame.extrapolation_distance,
        extrapolation_angle=frame.extrapolation_angle,
        compute_time=to_duration(frame.compute_time))
    message.camera_pose.header = Header(stamp=header.stamp, frame_id=world)
    message.camera_pose.pose = paths.matrix_to_pose(frame.world_from_camera)
    return message
