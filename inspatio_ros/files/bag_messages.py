# SPDX-License-Identifier: Apache-2.0
"""ROS messages for recordings that are written without ROS."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from inspatio_ros.depth.sensor_depth import encode_compressed_depth
from inspatio_ros.files.bags import BagWriter
from inspatio_ros.geometry import rigid
from inspatio_ros.geometry.camera import PinholeCamera

Array = npt.NDArray[np.float64]

_STD, _SENSOR, _GEOMETRY = "std_msgs/msg/", "sensor_msgs/msg/", "geometry_msgs/msg/"


class MessageMaker:
    """Makes messages of the types a `BagWriter` knows, from arrays and 4x4 transforms.

    Images are taken as they are: [H, W] or [H, W, C], of the dtype that the encoding says.
    """

    def __init__(self, bag: BagWriter) -> None:
        self._bag = bag

    def time(self, stamp_ns: int, kind: str = "Time") -> Any:
        """A builtin_interfaces Time or Duration."""
        return self._bag.make(f"builtin_interfaces/msg/{kind}", sec=stamp_ns // 10**9,
                              nanosec=stamp_ns % 10**9)

    def header(self, stamp_ns: int, frame_id: str) -> Any:
        """A std_msgs/Header."""
        return self._bag.make(_STD + "Header", stamp=self.time(stamp_ns), frame_id=frame_id)

    def image(self, header: Any, encoding: str, picture: npt.NDArray[Any]) -> Any:
        """A sensor_msgs/Image."""
        pixels = np.ascontiguousarray(picture)
        return self._bag.make(
            _SENSOR + "Image", header=header, height=pixels.shape[0], width=pixels.shape[1],
            encoding=encoding, is_bigendian=0, step=pixels.strides[0],
            data=pixels.view(np.uint8).ravel())

    def jpeg(self, header: Any, rgb: npt.NDArray[np.uint8], quality: int = 95) -> Any:
        """A sensor_msgs/CompressedImage of a uint8 RGB picture, with image_transport's format."""
        done, payload = cv2.imencode(".jpg", cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR),
                                     [cv2.IMWRITE_JPEG_QUALITY, quality])
        if not done:
            raise ValueError(f"cannot encode a picture of shape {rgb.shape} as jpeg")
        return self._bag.make(_SENSOR + "CompressedImage", header=header,
                              format="rgb8; jpeg compressed bgr8", data=payload.ravel())

    def compressed_depth(self, header: Any, depth: npt.NDArray[np.float32]) -> Any:
        """A compressedDepth message, 16UC1 millimetres, of depth float32 [H, W] m (NaN: 0)."""
        counts = np.nan_to_num(depth.astype(np.float64)) * 1000.0
        counts = np.where(counts < 65535.5, np.rint(counts), 0).astype(np.uint16)
        data, kind = encode_compressed_depth(counts, "16UC1")
        return self._bag.make(_SENSOR + "CompressedImage", header=header, format=kind,
                              data=np.frombuffer(data, np.uint8))

    def camera_info(self, header: Any, camera: PinholeCamera) -> Any:
        """The sensor_msgs/CameraInfo of a rectified camera: no distortion, P = [K | 0]."""
        matrix = camera.matrix
        projection = np.concatenate([matrix, np.zeros((3, 1))], axis=1)
        roi = self._bag.make(_SENSOR + "RegionOfInterest", x_offset=0, y_offset=0, height=0,
                             width=0, do_rectify=False)
        return self._bag.make(
            _SENSOR + "CameraInfo", header=header, height=camera.height, width=camera.width,
            distortion_model="plumb_bob", d=np.zeros(5), k=matrix.ravel(), r=np.eye(3).ravel(),
            p=projection.ravel(), binning_x=0, binning_y=0, roi=roi)

    def orientation(self, pose: Array) -> Any:
        """A geometry_msgs/Quaternion of a transform's rotation."""
        x, y, z, w = map(float, rigid.to_quaternion(pose))
        return self._bag.make(_GEOMETRY + "Quaternion", x=x, y=y, z=z, w=w)

    def pose(self, pose: Array) -> Any:
        """A geometry_msgs/Pose."""
        x, y, z = map(float, pose[:3, 3])
        return self._bag.make(
            _GEOMETRY + "Pose", orientation=self.orientation(pose),
            position=self._bag.make(_GEOMETRY + "Point", x=x, y=y, z=z))

    def pose_stamped(self, header: Any, pose: Array) -> Any:
        """A geometry_msgs/PoseStamped."""
        return self._bag.make(_GEOMETRY + "PoseStamped", header=header, pose=self.pose(pose))

    def transform(self, pose: Array) -> Any:
        """A geometry_msgs/Transform."""
        x, y, z = map(float, pose[:3, 3])
        return self._bag.make(
            _GEOMETRY + "Transform", rotation=self.orientation(pose),
            translation=self._bag.make(_GEOMETRY + "Vector3", x=x, y=y, z=z))

    def transforms(self, stamp_ns: int, parent: str, child: str, parent_from_child: Array) -> Any:
        """A tf2_msgs/TFMessage of one transform."""
        return self._bag.make("tf2_msgs/msg/TFMessage", transforms=[self._bag.make(
            _GEOMETRY + "TransformStamped", header=self.header(stamp_ns, parent),
            child_frame_id=child, transform=self.transform(parent_from_child))])

    def path(self, header: Any, stamps_ns: Sequence[int], poses: Array) -> Any:
        """A nav_msgs/Path of poses [N, 4, 4] in the header's frame, one stamp each."""
        return self._bag.make("nav_msgs/msg/Path", header=header, poses=[
            self.pose_stamped(self.header(int(stamp), header.frame_id), pose)
            for stamp, pose in zip(stamps_ns, poses, strict=True)])
