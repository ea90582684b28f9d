# SPDX-License-Identifier: Apache-2.0
"""Camera topics in: subscriptions, matching by stamp, and the sets that wait for their pose.

Callbacks run on the executor's thread and only store; the worker takes from here.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from rclpy.node import Node
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from inspatio_ros.ros import qos
from inspatio_ros.ros.convert.stamps import to_ns
from inspatio_ros.ros.diagnostics import DropCounter, Problems, RateMeter
from inspatio_ros.ros.imagination_parameters import InputParameters
from inspatio_ros.ros.observations import ImageSet
from inspatio_ros.ros.transforms import TransformUnavailable
from inspatio_ros.sensing.matching import StampMatcher

Array = npt.NDArray[np.float64]

# Sets that wait for their pose; at 30 Hz this is half a second.
_PENDING = 16
_MATCH_CAPACITY = 8
# Another camera takes the topic over once the first has been silent for so long, seconds.
_OWNER_SILENCE = 2.0
_FRAMES_PER_STREAM = 4
# These only need more tf data; anything else will not get better by waiting.
_WAITING_HELPS = ("empty", "too_new", "unknown_frame", "not_connected")


class CameraInput:
    """The camera's streams, matched into image sets.

    on_stamp(stamp_ns) sees the stamp of every image (to notice time jumping back); on_set() is
    called when a set came to wait. left_folder: where the (left) image's topics are.
    """

    def __init__(self, node: Node, options: InputParameters, drops: DropCounter,
                 problems: Problems, on_stamp: Callable[[int], None],
                 on_set: Callable[[], None], left_folder: str = "camera") -> None:
        self._node = node
        self._left_folder = left_folder
        self._drops = drops
        self._problems = problems
        self._on_stamp = on_stamp
        self._on_set = on_set
        second = {"stereo": "right", "sensor": "depth"}.get(options.depth, "")
        streams = ("image", second) if second else ("image",)
        self.matcher: StampMatcher[Any] = StampMatcher(
            streams, int(options.max_stamp_gap * 1e9), _MATCH_CAPACITY)
        self._lock = threading.Lock()
        self._pending: deque[ImageSet] = deque()
        self._infos: dict[str, dict[str, CameraInfo]] = {}
        self._owner: dict[str, tuple[str, float]] = {}
        self._last_arrival: dict[str, float] = {}
        self._started = time.monotonic()
        self.rate = RateMeter()
        self.largest_bytes = 0
        self.subscriptions = self._subscribe(options, streams)
        self.topics = {name: s.topic for name, s in self.subscriptions.items()}

    def _subscribe(self, options: InputParameters,
                   streams: tuple[str, ...]) -> dict[str, qos.FollowingSubscription]:
        transports = {"image": options.image_transport, "right": options.image_transport,
                      "depth": options.depth_transport}
        folders = {"image": self._left_folder, "right": "right", "depth": "depth"}
        made = {}
        for stream in streams:
            transport, folder = transports[stream], folders[stream]
            topic = f"{folder}/image_rect" + ("" if transport == "raw" else f"/{transport}")
            made[stream] = qos.FollowingSubscription(
                self._node, Image if transport == "raw" else CompressedImage, topic,
                lambda message, stream=stream: self._image(stream, message), qos.IMAGE_DEPTH)
            made[f"{stream}_info"] = qos.FollowingSubscription(
                self._node, CameraInfo, f"{folder}/camera_info",
                lambda message, stream=stream: self._info(stream, message), qos.INFO_DEPTH)
        return made

    def _info(self, stream: str, message: CameraInfo) -> None:
        self._last_arrival[f"{stream}_info"] = time.monotonic()
        held = self._infos.setdefault(stream, {})
        held[message.header.frame_id.lstrip("/")] = message
        while len(held) > _FRAMES_PER_STREAM:
            del held[next(iter(held))]

    def _image(self, stream: str, message: Any) -> None:
        self._last_arrival[stream] = time.monotonic()
        self.largest_bytes = max(self.largest_bytes, len(message.data))
        if not self._is_owner(stream, message.header.frame_id.lstrip("/")):
            return
        stamp_ns = to_ns(message.header.stamp)
        if stream == "image":
            self._on_stamp(stamp_ns)
        matched = self.matcher.add(stream, stamp_ns, message)
        if matched is not None:
            self._matched(matched)

    def _is_owner(self, stream: str, frame: str) -> bool:
        now = time.monotonic()
        owner, seen = self._owner.get(stream, (frame, now))
        if frame != owner and now - seen < _OWNER_SILENCE:
            self._drops.count("other_camera")
            publishers = len(self.subscriptions[stream].publishers())
            self._problems.report(
                "other_camera", f"{self.topics[stream]}: images of camera '{frame}' among those "
                f"of '{owner}' ({publishers} publishers): two cameras share one topic, remap one "
                "of them")
            return False
        self._owner[stream] = (frame, now)
        return True

    def _matched(self, messages: dict[str, Any]) -> None:
        infos = {stream: self._info_of(stream, message) for stream, message in messages.items()}
        missing = [stream for stream, info in infos.items() if info is None]
        if missing:
            self._drops.count("no_camera_info")
            return
        header = messages["image"].header
        self.rate.tick()
        item = ImageSet(to_ns(header.stamp), header.frame_id.lstrip("/"), messages, infos,
                        time.monotonic())
        with self._lock:
            self._pending.append(item)
            if len(self._pending) > _PENDING:
                self._pending.popleft()
                self._drops.count("superseded")
        self._on_set()

    def _info_of(self, stream: str, message: Any) -> CameraInfo | None:
        held = self._infos.get(stream, {})
        if len(held) == 1:
            return next(iter(held.values()))
        return held.get(message.header.frame_id.lstrip("/"))

    def take(self, world_from: Callable[[str, int], Array], offset_ns: int,
             timeout: float) -> tuple[ImageSet, Array] | None:
        """The newest waiting set whose pose is known, with world_from_camera; None without one.

        Older sets leave with it, counted as superseded. A set whose pose does not come within
        `timeout` seconds, or cannot come any more, is dropped and counted by reason.
        """
        with self._lock:
            waiting = list(self._pending)
        for item in reversed(waiting):
            try:
                pose = world_from(item.frame_id, item.stamp_ns + offset_ns)
            except TransformUnavailable as error:
                late = time.monotonic() - item.arrived > timeout
                if late or error.reason not in _WAITING_HELPS:
                    self._give_up(item, error)
                continue
            self._remove_up_to(item)
            self._problems.clear("transform")
            return item, pose
        return None

    def _give_up(self, item: ImageSet, error: TransformUnavailable) -> None:
        with self._lock:
            if item not in self._pending:
                return
            self._pending.remove(item)
        self._drops.count(f"tf_{error.reason}")
        self._problems.report(
            "transform", f"{self.topics['image']}: no pose for the image of "
            f"{item.stamp_ns * 1e-9:.3f} s in frame '{item.frame_id}': {error}")

    def _remove_up_to(self, item: ImageSet) -> None:
        with self._lock:
            while self._pending and self._pending[0] is not item:
                self._pending.popleft()
                self._drops.count("superseded")
            if self._pending:
                self._pending.popleft()

    def clear(self) -> None:
        """Forget everything that waits: time jumped."""
        self.matcher.clear()
        with self._lock:
            self._pending.clear()

    @property
    def pending(self) -> int:
        """Sets that wait for their pose."""
        with self._lock:
            return len(self._pending)

    def missing(self, timeout: float) -> str:
        """One sentence on the input that is missing or silent for `timeout` s; empty if none."""
        now = time.monotonic()
        for name, subscription in self.subscriptions.items():
            last = self._last_arrival.get(name)
            if last is None:
                count = len(subscription.publishers())
                what = "nobody publishes it" if count == 0 else (
                    f"{count} publisher{'s' if count > 1 else ''}, but nothing arrives")
                return f"waiting for {subscription.topic}: {what}"
            if not name.endswith("_info") and now - last > timeout:
                return f"{subscription.topic}: nothing for {now - last:.1f} s"
        return self._unmatched(now, timeout)

    def _unmatched(self, now: float, timeout: float) -> str:
        if self.rate.hz > 0 or self.pending or now - self._started < timeout:
            return ""
        gap = self.matcher.nearest_gap_ns
        if gap is None or self.matcher.pairs:
            return ""
        streams = [self.topics[s] for s in ("image", "depth", "right") if s in self.topics]
        return (f"{' and '.join(streams)} do not come in pairs: nearest stamps are "
                f"{gap * 1e-9:.3f} s apart; raise input.max_stamp_gap")

    def destroy(self) -> None:
        """Unsubscribe from everything."""
        for subscription in self.subscriptions.values():
            subscription.destroy()
