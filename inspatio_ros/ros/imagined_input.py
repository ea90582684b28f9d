# SPDX-License-Identifier: Apache-2.0
"""The imagination node's output as input: the messages of one frame, brought together by stamp.

Callbacks run on the executor's thread and only store; the worker takes from here.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any

import numpy as np
from rclpy.node import Node
from sensor_msgs.msg import CameraInfo, Image

from inspatio_ros.evaluation.live_hindsight import ImaginedView
from inspatio_ros.msg import ImaginedFrame
from inspatio_ros.ros import qos
from inspatio_ros.ros.convert import cameras, images
from inspatio_ros.ros.convert.paths import pose_to_matrix
from inspatio_ros.ros.convert.stamps import to_ns
from inspatio_ros.ros.diagnostics import DropCounter, RateMeter
from inspatio_ros.ros.observations import InputRejected
from inspatio_ros.sensing.matching import StampMatcher

FOLDER = "imagination"
# Frames come in bursts, a block at a time.
_IMAGE_DEPTH, _FRAME_DEPTH = 16, 64
_MATCH_CAPACITY, _PENDING = 32, 64
_STREAMS: dict[str, tuple[type, int]] = {
    "frame": (ImaginedFrame, _FRAME_DEPTH), "camera_info": (CameraInfo, _FRAME_DEPTH),
    "image": (Image, _IMAGE_DEPTH), "depth": (Image, _IMAGE_DEPTH),
    "provenance": (Image, _IMAGE_DEPTH)}


class ImaginedInput:
    """The streams of imagined frames; on_set() is called when a whole frame came to wait."""

    def __init__(self, node: Node, drops: DropCounter, on_set: Callable[[], None]) -> None:
        self._drops = drops
        self._on_set = on_set
        self.matcher: StampMatcher[Any] = StampMatcher(tuple(_STREAMS), 0, _MATCH_CAPACITY)
        self._lock = threading.Lock()
        self._pending: deque[dict[str, Any]] = deque()
        self._last_arrival: dict[str, float] = {}
        self.rate = RateMeter()
        self.subscriptions = {
            name: qos.FollowingSubscription(
                node, kind, f"{FOLDER}/{name}",
                lambda message, name=name: self._message(name, message), depth)
            for name, (kind, depth) in _STREAMS.items()}

    def _message(self, name: str, message: Any) -> None:
        self._last_arrival[name] = time.monotonic()
        matched = self.matcher.add(name, to_ns(message.header.stamp), message)
        if matched is None:
            return
        self.rate.tick()
        with self._lock:
            self._pending.append(matched)
            if len(self._pending) > _PENDING:
                self._pending.popleft()
                self._drops.count("imagined_superseded")
        self._on_set()

    def take(self) -> dict[str, Any] | None:
        """The messages of the oldest whole frame that waits, by stream; None without one."""
        with self._lock:
            return self._pending.popleft() if self._pending else None

    def clear(self) -> None:
        """Forget everything that waits."""
        self.matcher.clear()
        with self._lock:
            self._pending.clear()

    def missing(self) -> str:
        """One sentence on a stream that never came; empty if none.

        That frames stop coming is no fault: nothing is imagined without a plan.
        """
        for name, subscription in self.subscriptions.items():
            if name not in self._last_arrival:
                count = len(subscription.publishers())
                what = "nobody publishes it" if count == 0 else (
                    f"{count} publisher{'s' if count > 1 else ''}, but nothing arrives")
                return f"waiting for {subscription.topic}: {what}"
        if self.rate.hz == 0 and self.matcher.pairs == 0:
            return (f"{self.subscriptions['frame'].topic} and its images have no stamp in common: "
                    "they are not of one node")
        return ""

    def view(self, messages: dict[str, Any], world_frame: str) -> ImaginedView:
        """The view that these messages describe.

        Raises InputRejected naming the topic when they contradict each other or lie in another
        world than `world_frame`.
        """
        frame, info = messages["frame"], messages["camera_info"]
        topic = self.subscriptions["frame"].topic
        world = frame.camera_pose.header.frame_id.lstrip("/")
        if world != world_frame:
            raise InputRejected("other_world", f"{topic}: poses are in '{world}' but "
                                f"transforms.world_frame is '{world_frame}': set both nodes alike")
        try:
            depth = images.to_depth(messages["depth"])
            known = depth[depth > 0]
            return ImaginedView(
                to_ns(frame.header.stamp), to_ns(frame.source_stamp),
                to_ns(frame.time_from_start) * 1e-9, images.to_rgb(messages["image"]),
                images.to_array(messages["provenance"]),
                cameras.to_camera(info, self.subscriptions["camera_info"].topic),
                pose_to_matrix(frame.camera_pose.pose),
                float(np.median(known)) if known.size else float("nan"))
        except ValueError as error:
            raise InputRejected("imagined_refused", f"{topic}: {error}") from error

    def destroy(self) -> None:
        """Unsubscribe from everything."""
        for subscription in self.subscriptions.values():
            subscription.destroy()
