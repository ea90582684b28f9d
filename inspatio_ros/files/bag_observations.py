# SPDX-License-Identifier: Apache-2.0
"""From a recording to posed observations: finding the camera's topics, poses, decoding."""

from __future__ import annotations

import logging
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from inspatio_ros.depth.estimators import choose
from inspatio_ros.files.bag_storage import BagError, StoredMessage
from inspatio_ros.files.bags import BagReader
from inspatio_ros.messages.observations import ImageSet, InputRejected, ObservationDecoder
from inspatio_ros.messages.poses import pose_to_matrix, to_ns
from inspatio_ros.messages.transforms import TransformTree, TransformUnavailable
from inspatio_ros.sensing.matching import StampMatcher
from inspatio_ros.sensing.observation import Observation
from inspatio_ros.sensing.poses import PoseBuffer, PoseUnavailable

log = logging.getLogger(__name__)
Array = npt.NDArray[np.float64]

IMAGE = "sensor_msgs/msg/Image"
COMPRESSED = "sensor_msgs/msg/CompressedImage"
CAMERA_INFO = "sensor_msgs/msg/CameraInfo"
ODOMETRY = "nav_msgs/msg/Odometry"
PATH = "nav_msgs/msg/Path"
TF = "tf2_msgs/msg/TFMessage"

# Image sets that wait for their pose; a recording's tf is never later than this many pictures.
MAX_WAITING = 64


@dataclass(frozen=True)
class BagTopics:
    """Which topic is what. Empty where the recording has none.

    image, depth, right: Image or CompressedImage; *_info: their CameraInfo.
    """

    image: str = ""
    image_info: str = ""
    depth: str = ""
    depth_info: str = ""
    right: str = ""
    right_info: str = ""
    odom: str = ""
    plan: str = ""


def find_topics(bag: BagReader, chosen: BagTopics | None = None, *,
                need_depth: bool = True) -> BagTopics:
    """Which topics to imagine from: those chosen, the others found by type and name.

    A colour image before a left one before any other; depth by name; a right image beside a left
    one; each image's info beside it. Raises BagError, listing what the bag has, when there is no
    image with calibration, neither depth nor a right image while `need_depth`, or a chosen topic
    is not there.
    """
    chosen = chosen or BagTopics()
    topics = {name: info.message_type for name, info in bag.topics.items()}
    for item in fields(BagTopics):
        name = getattr(chosen, item.name)
        if name and name not in topics:
            raise BagError(f"{bag.path}: no topic {name}; {bag.contents()}")
    pictures = [t for t, kind in topics.items() if kind in (IMAGE, COMPRESSED)]
    counts = {name: info.count for name, info in bag.topics.items()}
    depth = chosen.depth or _best(pictures, counts, lambda name: "depth" in name)
    # Provenance beside an imagined picture is a picture of labels.
    colors = [t for t in pictures if "depth" not in t.lower() and "provenance" not in t.lower()]
    left = _best(colors, counts, lambda name: "left" in name)
    image = chosen.image or (left if not depth and left else "") or _best(
        colors, counts, lambda name: "right" not in name)
    right = chosen.right
    if not right and not depth and image:
        twin = image.replace("left", "right")
        right = twin if twin != image and twin in topics else ""
    found = replace(
        chosen, image=image, image_info=chosen.image_info or _info_of(image, topics),
        depth=depth, depth_info=chosen.depth_info or _info_of(depth, topics), right=right,
        right_info=chosen.right_info or _info_of(right, topics),
        odom=chosen.odom or _first(topics, ODOMETRY), plan=chosen.plan or _first(topics, PATH))
    missing = []
    if not found.image:
        missing.append("an image")
    elif not found.image_info:
        missing.append(f"a CameraInfo beside {found.image}")
    if need_depth and not (found.depth and found.depth_info) and not (
            found.right and found.right_info):
        missing.append("a depth image, or a right image, with its CameraInfo")
    if missing:
        raise BagError(f"{bag.path}: lacks {' and '.join(missing)}; {bag.contents()}")
    return found


def _best(names: list[str], counts: Mapping[str, int], wanted: Callable[[str], bool]) -> str:
    fitting = [name for name in names if wanted(name.lower())]
    return max(fitting, key=lambda name: (counts.get(name, 0), -len(name)), default="")


def _first(topics: Mapping[str, str], kind: str) -> str:
    return min((t for t, k in topics.items() if k == kind), default="", key=len)


def _info_of(image: str, topics: Mapping[str, str]) -> str:
    """The CameraInfo beside an image topic, as image_transport has it."""
    if not image:
        return ""
    parts = image.split("/")
    for depth in range(len(parts) - 1, 0, -1):
        name = "/".join(parts[:depth]) + "/camera_info"
        if topics.get(name) == CAMERA_INFO:
            return name
    return ""


@dataclass(frozen=True)
class BagOptions:
    """How a recording is read; the names and defaults are those of the node's `input.*`.

    world_frame, base_frame: of tf; the poses come from tf where it connects world and camera, else
    from odometry and the static transforms. time_offset: s added to picture stamps before the pose
    is looked up. slop: s by which pictures of one set may differ. depth: sensor, stereo, motion,
    estimate, or auto: the first of sensor, stereo and motion that there are topics for.
    depth_model: folder of the model for estimate; empty: the shipped one.
    """

    depth: str = "auto"
    rectify: bool = True
    already_rectified: bool = False
    depth_unit: float = 0.0
    min_depth: float = 0.1
    max_depth: float = 80.0
    flying_pixel_jump: float = 0.08
    stereo_scale: float = 1.0
    world_frame: str = "odom"
    time_offset: float = 0.0
    slop: float = 0.02
    depth_model: str = ""


@dataclass
class BagStatistics:
    """What became of a recording's pictures: `observations` made, the others by reason."""

    observations: int = 0
    dropped: Counter[str] = field(default_factory=Counter)


class BagObservations:
    """The posed observations of a recording, in time order; memory does not grow with length.

    Iterate once or again; `statistics` is of the last time. Raises BagError when needed topics
    are missing, listing what is there, and, at the end, when no picture at all became an
    observation, saying why.
    """

    def __init__(self, bag: BagReader, topics: BagTopics | None = None,
                 options: BagOptions | None = None) -> None:
        self._bag = bag
        given = options or BagOptions()
        self.topics = find_topics(bag, topics, need_depth=given.depth in ("sensor", "stereo"))
        kind = given.depth
        if kind == "auto":
            kind = choose(sensor=bool(self.topics.depth and self.topics.depth_info),
                          right_camera=bool(self.topics.right and self.topics.right_info),
                          poses=True).name
        # REP 118 and image_pipeline: what is called image_rect is rectified, whatever D says.
        named_rect = "rect" in self.topics.image.split("/")[-1 - self._is_compressed()]
        self.options = replace(given, depth=kind,
                               already_rectified=given.already_rectified or named_rect)
        self._second = {"stereo": "right", "sensor": "depth"}.get(kind, "")
        self._streams = ("image", self._second) if self._second else ("image",)
        tf = [name for name, info in bag.topics.items() if info.message_type == TF]
        if not tf and not self.topics.odom:
            raise BagError(f"{bag.path}: neither tf nor odometry, so that no picture has a pose; "
                           f"{bag.contents()}")
        self._static = [name for name in tf if name.endswith("tf_static")]
        self._moving = [name for name in tf if name not in self._static]
        self._begin()

    def _is_compressed(self) -> bool:
        return self._bag.topics[self.topics.image].message_type == COMPRESSED

    def _begin(self) -> None:
        self.statistics = BagStatistics()
        self._reason = ""
        self._tree = TransformTree()
        self._odometry: dict[str, PoseBuffer] = {}
        self._infos: dict[str, Any] = {}
        self._matcher: StampMatcher[Any] = StampMatcher(
            self._streams, round(self.options.slop * 1e9), MAX_WAITING)
        names = {item.name: getattr(self.topics, item.name) for item in fields(BagTopics)}
        self._decoder = ObservationDecoder(names, self._tree.lookup,
                                           depth_model=self.options.depth_model)
        self._waiting: deque[dict[str, Any]] = deque()

    def __iter__(self) -> Iterator[Observation]:
        self._begin()
        t = self.topics
        streams = {t.image: "image"}
        infos: dict[str, tuple[str, ...]] = {t.image_info: ("image",)}
        if self._second:
            streams[getattr(t, self._second)] = self._second
            second_info = getattr(t, f"{self._second}_info")
            infos[second_info] = (*infos.get(second_info, ()), self._second)
        if self._static:
            # What is latched was there before the recording began, wherever it stands in it.
            for stored in self._bag.messages(self._static):
                self._add_transforms(stored, static=True)
        wanted = {*streams, *infos, *self._moving} | ({t.odom} if t.odom else set())
        for stored in self._bag.messages(wanted):
            topic = stored.topic
            if topic in self._moving:
                self._add_transforms(stored, static=False)
                yield from self._ready(final=False)
                continue
            message = self._bag.deserialize(stored)
            if topic == t.odom:
                self._add_odometry(message)
            elif topic in infos:
                self._infos.update(dict.fromkeys(infos[topic], message))
            else:
                self._add_picture(streams[topic], message)
            yield from self._ready(final=False)
        yield from self._ready(final=True)
        self._finish()

    def _finish(self) -> None:
        for name, count in self._matcher.dropped.items():
            self._drop(f"{name}_unmatched", "", count)
        for name, count in self._matcher.waiting.items():
            self._drop(f"{name}_unmatched", "", count)
        if self._bag.damage:
            log.warning("%s: %s", self._bag.path, self._bag.damage)
        if self.statistics.observations == 0:
            gap = self._matcher.nearest_gap_ns
            reason = self._reason or (
                f"stamps of image and {self._second} are {gap * 1e-9:.3f} s apart at best" if gap
                else f"{self.topics.image} and its {self._second} image never came together")
            raise BagError(f"{self._bag.path}: none of its pictures became an observation: "
                           f"{reason}")

    def _drop(self, reason: str, sentence: str, count: int = 1) -> None:
        if count:
            self.statistics.dropped[reason] += count
            self._reason = sentence or self._reason

    def _add_transforms(self, stored: StoredMessage, *, static: bool) -> None:
        for transform in self._bag.deserialize(stored).transforms:
            self._tree.add(transform, static=static)

    def _add_odometry(self, message: Any) -> None:
        try:
            pose = pose_to_matrix(message.pose.pose)
        except ValueError as error:
            self._drop("odometry_invalid", f"{self.topics.odom}: {error}")
            return
        child = message.child_frame_id.lstrip("/") or "base_link"
        buffer = self._odometry.setdefault(child, PoseBuffer())
        buffer.add(to_ns(message.header.stamp), pose)

    def _add_picture(self, stream: str, message: Any) -> None:
        matched = self._matcher.add(stream, to_ns(message.header.stamp), message)
        if matched is None:
            return
        self._waiting.append(matched)
        while len(self._waiting) > MAX_WAITING:
            self._waiting.popleft()
            self._drop("waited_for_pose", "")

    def _ready(self, final: bool) -> Iterator[Observation]:
        while self._waiting:
            # Calibration and pose may be written after the picture; at the end nothing more comes.
            if not set(self._streams) <= set(self._infos):
                if not final:
                    return
                self._waiting.popleft()
                self._drop("no_camera_info", f"{self.topics.image}: no camera_info came")
                continue
            matched = self._waiting[0]
            header = matched["image"].header
            item = ImageSet(to_ns(header.stamp), header.frame_id.lstrip("/"), matched,
                            dict(self._infos), 0.0)
            try:
                pose = self._pose(item)
            except (TransformUnavailable, PoseUnavailable) as error:
                self._reason = str(error)
                if not final and error.reason in ("too_new", "empty", "unknown_frame",
                                                  "not_connected"):
                    return
                self._waiting.popleft()
                self._drop(f"pose_{error.reason}", str(error))
                continue
            self._waiting.popleft()
            try:
                observation = self._decoder.decode(item, pose, self.options)
            except TransformUnavailable as error:
                self._drop(f"depth_pose_{error.reason}", str(error))
                continue
            except InputRejected as error:
                if error.reason in ("uncalibrated", "distorted", "stereo"):
                    raise BagError(f"{self._bag.path}: {error}") from error
                self._drop(error.reason, str(error))
                continue
            self.statistics.observations += 1
            yield observation

    def _pose(self, item: ImageSet) -> Array:
        stamp = item.stamp_ns + round(self.options.time_offset * 1e9)
        try:
            return self._tree.lookup(self.options.world_frame, item.frame_id, stamp)
        except TransformUnavailable as error:
            if error.reason not in ("unknown_frame", "not_connected") or not self._odometry:
                raise
        child = next(iter(self._odometry))
        base_from_camera = self._tree.lookup(child, item.frame_id, stamp)
        return np.asarray(self._odometry[child].at(stamp) @ base_from_camera)
