# SPDX-License-Identifier: Apache-2.0
"""Imagined frames as a recording, with the topics of the node `imagination`."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from inspatio_ros.files.bag_messages import MessageMaker
from inspatio_ros.files.bags import BagWriter
from inspatio_ros.imagination.request import ImaginedFrame

OPTICAL_FRAME = "imagined_camera_optical"
_STD, _SENSOR = "std_msgs/msg/", "sensor_msgs/msg/"
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
        self._make = MessageMaker(self._bag)
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
        make = self._make
        header = make.header(stamp, OPTICAL_FRAME)
        parts = {
            "image": make.image(header, "rgb8", frame.image),
            "camera_info": make.camera_info(header, frame.camera),
            "depth": make.image(header, "32FC1", frame.depth),
            "provenance": make.image(header, "mono8", frame.provenance),
            "frame": self._frame(header, frame)}
        for name, message in parts.items():
            self._bag.write(f"{self._prefix}/{name}", stamp, self._bag.serialize(message))
        self._bag.write("/tf", stamp, self._bag.serialize(make.transforms(
            stamp, self._world, OPTICAL_FRAME, frame.world_from_camera)))

    def _frame(self, header: Any, frame: ImaginedFrame) -> Any:
        make = self._make
        stamped = make.pose_stamped(
            self._bag.make(_STD + "Header", stamp=header.stamp, frame_id=self._world),
            frame.world_from_camera)
        request = self._bag.make("unique_identifier_msgs/msg/UUID",
                                 uuid=np.frombuffer(frame.request_id, np.uint8))
        return self._bag.make(
            "inspatio_ros/msg/ImaginedFrame", header=header, request_id=request,
            block_index=frame.block_index, frame_index=frame.frame_index,
            frame_count=frame.frame_count, source_stamp=make.time(frame.source_stamp_ns),
            time_from_start=make.time(round(frame.time_from_start * 1e9), "Duration"),
            camera_pose=stamped, observed_ratio=frame.observed_ratio,
            memory_ratio=frame.memory_ratio, imagined_ratio=frame.imagined_ratio,
            expected_error=frame.expected_error,
            extrapolation_distance=frame.extrapolation_distance,
            extrapolation_angle=frame.extrapolation_angle,
            # Left out: the same replay is to give the same bytes.
            compute_time=make.time(0, "Duration"))

    def close(self) -> None:
        """Write index and metadata."""
        self._bag.close()

    def __enter__(self) -> ImaginedBagWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        self.close()
