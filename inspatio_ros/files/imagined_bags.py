# SPDX-License-Identifier: Apache-2.0
"""Imagined frames as a recording, with the topics of the node `imagination`."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from inspatio_ros.files.bags import BagWriter
from inspatio_ros.geometry import rigid
from inspatio_ros.geometry.camera import PinholeCamera
from inspatio_ros.imagination.request import ImaginedFrame

OPTICAL_FRAME = "imagined_camera_optical"
_STD, _SENSOR, _GEOMETRY = "std_msgs/msg/", "sensor_msgs/msg/", "geometry_msgs/msg/"
# Between two frames of one request; stamps must increase strictly.
_STEP_NS = 1_000


class ImaginedBagWriter:
    """Writes imagined frames: `~/image`, `~/camera_info`, `~/depth`, `~/provenance`, `~/frame`.

    prefix: of the topics. world_frame: of the poses, which also go to /tf. A frame is stamped with
    its source's stamp and a microsecond for each frame before it: `source_stamp` and
    `time_from_start` in `~/frame` say the rest. Frames must come by source stamp, then by number.
    Raises BagError when the folder exists. Use as a context manager.
    """

    def __init__(self, path: str | Path, world_frame: str, prefix: str = "/imagination") -> None:
        self._bag = BagWriter(path)
        self._world, self._prefix = world_frame, prefix
        self._last_ns = 0
        for name, kind in (("image", _SENSOR + "Image"), ("camera_info", _SENSOR + "CameraInfo"),
                           ("depth", _SENSOR + "Image"), ("provenance", _SENSOR + "Image"),
                           ("frame", "inspatio_ros/msg/ImaginedFrame")):
            self._bag.add_topic(f"{prefix}/{name}", kind)
        self._bag.add_topic("/tf", "tf2_msgs/msg/TFMessage")

    @property
    def counts(self) -> dict[str, int]:
        """Messages written, by topic."""
        return self._bag.counts

    def write(self, frame: ImaginedFrame) -> None:
        """Add a frame."""
        # Two requests of one start (other seeds, other backends) share their source.
        stamp = max(frame.source_stamp_ns + frame.frame_index * _STEP_NS, self._last_ns + 1)
        self._last_ns = stamp
        header = self._header(stamp, OPTICAL_FRAME)
        parts = {
            "image": self._image(header, "rgb8", frame.image),
            "camera_info": self._info(header, frame.camera),
            "depth": self._image(header, "32FC1", frame.depth),
            "provenance": self._image(header, "mono8", frame.provenance),
            "frame": self._frame(header, frame)}
        for name, message in parts.items():
            self._bag.write(f"{self._prefix}/{name}", stamp, self._bag.serialize(message))
        self._bag.write("/tf", stamp, self._bag.serialize(self._transform(
            stamp, frame.world_from_camera)))

    def _header(self, stamp_ns: int, frame_id: str) -> Any:
        return self._bag.make(_STD + "Header", stamp=self._time(stamp_ns), frame_id=frame_id)

    def _time(self, stamp_ns: int, kind: str = "Time") -> Any:
        return self._bag.make(f"builtin_interfaces/msg/{kind}", sec=stamp_ns // 10**9,
                              nanosec=stamp_ns % 10**9)

    def _image(self, header: Any, encoding: str, picture: npt.NDArray[Any]) -> Any:
        pixels = np.ascontiguousarray(picture)
        return self._bag.make(
            _SENSOR + "Image", header=header, height=pixels.shape[0], width=pixels.shape[1],
            encoding=encoding, is_bigendian=0, step=pixels.strides[0],
            data=pixels.view(np.uint8).ravel())

    def _info(self, header: Any, camera: PinholeCamera) -> Any:
        matrix = camera.matrix
        projection = np.concatenate([matrix, np.zeros((3, 1))], axis=1)
        roi = self._bag.make(_SENSOR + "RegionOfInterest", x_offset=0, y_offset=0, height=0,
                             width=0, do_rectify=False)
        return self._bag.make(
            _SENSOR + "CameraInfo", header=header, height=camera.height, width=camera.width,
            distortion_model="plumb_bob", d=np.zeros(5), k=matrix.ravel(), r=np.eye(3).ravel(),
            p=projection.ravel(), binning_x=0, binning_y=0, roi=roi)

    def _orientation(self, pose: npt.NDArray[np.float64]) -> Any:
        x, y, z, w = map(float, rigid.to_quaternion(pose))
        return self._bag.make(_GEOMETRY + "Quaternion", x=x, y=y, z=z, w=w)

    def _frame(self, header: Any, frame: ImaginedFrame) -> Any:
        pose = frame.world_from_camera
        x, y, z = map(float, pose[:3, 3])
        stamped = self._bag.make(
            _GEOMETRY + "PoseStamped",
            header=self._bag.make(_STD + "Header", stamp=header.stamp, frame_id=self._world),
            pose=self._bag.make(
                _GEOMETRY + "Pose", orientation=self._orientation(pose),
                position=self._bag.make(_GEOMETRY + "Point", x=x, y=y, z=z)))
        request = self._bag.make("unique_identifier_msgs/msg/UUID",
                                 uuid=np.frombuffer(frame.request_id, np.uint8))
        return self._bag.make(
            "inspatio_ros/msg/ImaginedFrame", header=header, request_id=request,
            block_index=frame.block_index, frame_index=frame.frame_index,
            frame_count=frame.frame_count, source_stamp=self._time(frame.source_stamp_ns),
            time_from_start=self._time(round(frame.time_from_start * 1e9), "Duration"),
            camera_pose=stamped, observed_ratio=frame.observed_ratio,
            memory_ratio=frame.memory_ratio, imagined_ratio=frame.imagined_ratio,
            expected_error=frame.expected_error,
            extrapolation_distance=frame.extrapolation_distance,
            extrapolation_angle=frame.extrapolation_angle,
            # Left out: the same replay is to give the same bytes.
            compute_time=self._time(0, "Duration"))

    def _transform(self, stamp_ns: int, pose: npt.NDArray[np.float64]) -> Any:
        x, y, z = map(float, pose[:3, 3])
        transform = self._bag.make(
            _GEOMETRY + "Transform", rotation=self._orientation(pose),
            translation=self._bag.make(_GEOMETRY + "Vector3", x=x, y=y, z=z))
        return self._bag.make("tf2_msgs/msg/TFMessage", transforms=[self._bag.make(
            _GEOMETRY + "TransformStamped", header=self._header(stamp_ns, self._world),
            child_frame_id=OPTICAL_FRAME, transform=transform)])

    def close(self) -> None:
        """Write index and metadata."""
        self._bag.close()

    def __enter__(self) -> ImaginedBagWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        self.close()
