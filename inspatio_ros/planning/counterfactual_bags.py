# SPDX-License-Identifier: Apache-2.0
"""A recording turned into one of a robot that drove beside its path or looked from elsewhere."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from inspatio_ros import __version__
from inspatio_ros.files.bag_messages import MessageMaker
from inspatio_ros.files.bag_observations import (
    CAMERA_INFO,
    COMPRESSED,
    IMAGE,
    ODOMETRY,
    PATH,
    TF,
    BagObservations,
    BagOptions,
    BagTopics,
)
from inspatio_ros.files.bag_storage import BagError
from inspatio_ros.files.bags import BagReader, BagWriter
from inspatio_ros.geometry import rigid
from inspatio_ros.imagination.engine import ImaginationEngine
from inspatio_ros.imagination.request import ImaginedFrame
from inspatio_ros.memory.world_memory import MemoryOptions, WorldMemory
from inspatio_ros.messages.poses import pose_to_matrix, to_ns
from inspatio_ros.planning.counterfactual import (
    CounterfactualOptions,
    Labels,
    imagined_views,
    labels_at,
)
from inspatio_ros.planning.recorded_frames import RecordedFrames, shifted_twist
from inspatio_ros.sensing.observation import Observation

Array = npt.NDArray[np.float64]

SIDECAR = "counterfactual.json"
PREFIX = "/counterfactual"
PROVENANCE, FUTURE, RECOVERY = (f"{PREFIX}/{name}" for name in (
    "provenance", "future_path", "recovery_path"))
# Where depth goes when the recording has none of its own.
DEPTH, DEPTH_INFO = f"{PREFIX}/depth/image_rect", f"{PREFIX}/depth/camera_info"

Progress = Callable[[int, int], None]


def write_counterfactual(
    source: str | Path, target: str | Path, options: CounterfactualOptions,
    engine: ImaginationEngine, *, topics: BagTopics | None = None,
    reading: BagOptions | None = None, memory: MemoryOptions | None = None,
    base_frame: str = "base_link", width: int = 0, seed: int = 0,
    on_frame: Progress | None = None,
) -> dict[str, Any]:
    """The sidecar's content, after writing the recording `target` and the sidecar inside it.

    The new recording has the old one's topics of image, depth, camera_info, tf, odometry and
    paths, as if the robot had driven or seen as `options` say, and `/counterfactual/...` with
    provenance and labels. Frames below the coverage limit are left out and counted; other topics
    are left out and named. width: of the pictures, pixels; 0 as recorded. on_frame(kept, seen).
    Raises BagError, FrameError and ValueError with what is wrong; a target that exists is refused.
    """
    with BagReader(source) as bag:
        reading = reading or BagOptions()
        observations = BagObservations(bag, topics, reading)
        frames = RecordedFrames(bag, reading.world_frame, base_frame)
        if frames.way.length < options.min_motion:
            raise BagError(
                f"{bag.path}: '{base_frame}' moves {frames.way.length:.2f} m in all; labels need "
                f"at least {options.min_motion:g} m (a recording that drives, or a smaller "
                "--min-motion)")
        writer = BagWriter(target)
        try:
            with writer:
                job = _Job(bag, writer, observations, frames, options, width,
                           round(reading.time_offset * 1e9))
                content = job.run(engine, WorldMemory(memory or MemoryOptions(
                    max_radius=60.0, voxel_size=0.03)), seed, on_frame)
        except BaseException:
            # Half a recording would pass for a whole one.
            shutil.rmtree(target)
            raise
    content = {"inspatio_ros": __version__, "source": str(source), "base_frame": base_frame,
               "world_frame": reading.world_frame, "depth_from": observations.options.depth,
               "backend": engine.backend.name, "seed": seed, **content}
    (Path(target) / SIDECAR).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    return content


class _Job:
    """One recording in work: what is copied, what is changed, what is made."""

    def __init__(self, bag: BagReader, writer: BagWriter, observations: BagObservations,
                 frames: RecordedFrames, options: CounterfactualOptions, width: int,
                 offset_ns: int) -> None:
        self._bag, self._writer, self._frames = bag, writer, frames
        self._observations, self._options = observations, options
        self._width, self._offset_ns = width, offset_ns
        self._make = MessageMaker(writer)
        self._counts: Counter[str] = Counter()
        self._rows: list[dict[str, Any]] = []
        self._last_log_ns = 0
        self._next_ns: int | None = None
        t = observations.topics
        self._camera_frame, self._log_from_stamp = self._look_at_first(t.image)
        if self._camera_frame == frames.base_frame:
            raise BagError(f"{bag.path}: '{frames.base_frame}' is the camera's optical frame; a "
                           "shift is told in a body frame (x forward, y left): --base-frame")
        self._mounted = self._mount_changes()
        self._depth = (t.depth, t.depth_info) if t.depth else (DEPTH, DEPTH_INFO)
        self._copied, self._left_out = self._sort_topics()
        self._announce()

    def _look_at_first(self, topic: str) -> tuple[str, int]:
        """The image's frame, and what its log time has ahead of its stamps."""
        stored = next(iter(self._bag.messages([topic])), None)
        if stored is None:
            raise BagError(f"{self._bag.path}: {topic} has no messages")
        header = self._bag.deserialize(stored).header
        return header.frame_id.lstrip("/"), stored.stamp_ns - to_ns(header.stamp)

    def _mount_changes(self) -> tuple[str, Array] | None:
        """(parent, parent_from_base) of the camera's link when it is carried elsewhere."""
        if self._options.mount is None and self._options.height == 0:
            return None
        return self._frames.parent_from_base(self._camera_frame)

    def _sort_topics(self) -> tuple[dict[str, str], dict[str, str]]:
        """Topics that are copied with changes, by what they are; those left out, and why."""
        t = self._observations.topics
        made = {t.image, t.image_info, *self._depth}
        copied: dict[str, str] = {}
        left_out: dict[str, str] = {}
        for name, info in self._bag.topics.items():
            if name in made:
                continue
            if info.message_type in (TF, ODOMETRY, PATH):
                copied[name] = info.message_type
            elif info.message_type in (IMAGE, COMPRESSED, CAMERA_INFO):
                left_out[name] = "of a camera that is not imagined"
            else:
                left_out[name] = "holds for the recorded place only"
        return copied, left_out

    def _announce(self) -> None:
        t, topics = self._observations.topics, self._bag.topics
        for name, kind in self._copied.items():
            latched = topics[name].latched or name in self._frames.static_topics
            self._writer.add_topic(name, kind, latched=latched)
        self._writer.add_topic(t.image, topics[t.image].message_type)
        self._writer.add_topic(t.image_info, CAMERA_INFO)
        depth_kind = topics[self._depth[0]].message_type if t.depth else IMAGE
        self._writer.add_topic(self._depth[0], depth_kind)
        if self._depth[1] != t.image_info:
            self._writer.add_topic(self._depth[1], CAMERA_INFO)
        self._writer.add_topic(PROVENANCE, IMAGE)
        for name in (FUTURE, RECOVERY):
            self._writer.add_topic(name, PATH)

    def run(self, engine: ImaginationEngine, memory: WorldMemory, seed: int,
            on_frame: Progress | None) -> dict[str, Any]:
        """Everything of the recording; what was chosen, counted and measured."""
        source = iter(self._observations)
        first = next(source)
        camera = self._options.camera(first.camera, self._width)
        copies = self._copies()
        pending = next(copies, None)
        views = imagined_views(engine, memory, _again(first, source), self._world_from_view,
                               camera, wanted=self._wanted, seed=seed)
        for observation, frame in views:
            row = self._judged(observation, frame)
            self._rows.append(row)
            if row["kept"]:
                stamp_ns = observation.stamp_ns + self._offset_ns
                while pending is not None and pending[0] <= stamp_ns + self._log_from_stamp:
                    self._put(*pending)
                    pending = next(copies, None)
                self._write(stamp_ns, frame, labels_at(self._frames.way, stamp_ns, self._options))
            if on_frame is not None:
                on_frame(self._counts["kept"], len(self._rows))
        while pending is not None:
            self._put(*pending)
            pending = next(copies, None)
        if not self._counts["kept"]:
            raise BagError(f"{self._bag.path}: no frame is left: {dict(self._counts)}; the shift "
                           "is too large for what was seen, or lower --min-coverage")
        return self._content(camera.to_dict())

    # Which frames.

    def _wanted(self, observation: Observation) -> bool:
        stamp_ns = observation.stamp_ns + self._offset_ns
        if self._next_ns is not None and stamp_ns < self._next_ns:
            self._counts["thinned"] += 1
            return False
        way = self._frames.way
        if not way.covers(stamp_ns):
            self._counts["no_base_pose"] += 1
            return False
        if stamp_ns + round(self._options.interval * 1e9) > way.stamps_ns[-1]:
            self._counts["no_future"] += 1
            return False
        if self._options.rate:
            self._next_ns = stamp_ns + round(0.95e9 / self._options.rate)
        return True

    def _judged(self, observation: Observation, frame: ImaginedFrame) -> dict[str, Any]:
        coverage = frame.guide.coverage
        kept = coverage >= self._options.min_coverage
        self._counts["kept" if kept else "below_coverage"] += 1
        return {"stamp_ns": observation.stamp_ns + self._offset_ns, "kept": kept,
                "coverage": round(coverage, 4), "observed": round(frame.observed_ratio, 4),
                "memory": round(frame.memory_ratio, 4), "imagined": round(frame.imagined_ratio, 4)}

    # Where things are.

    def _shifted_base(self, stamp_ns: int) -> Array:
        return np.asarray(self._frames.way.at([stamp_ns])[0] @ self._options.base_from_shifted)

    def _world_from_view(self, observation: Observation) -> Array:
        stamp_ns = observation.stamp_ns + self._offset_ns
        recorded = rigid.invert(self._frames.way.at([stamp_ns])[0]) @ observation.world_from_camera
        return np.asarray(self._shifted_base(stamp_ns) @ self._options.base_from_camera(recorded))

    # What is copied.

    def _copies(self) -> Iterator[tuple[int, str, bytes]]:
        """(log time, topic, bytes) of everything that goes over, changed where it must be."""
        change = {TF: self._changed_tf, ODOMETRY: self._changed_odometry, PATH: self._changed_path}
        if not self._copied:
            return
        for stored in self._bag.messages(list(self._copied)):
            message = self._bag.deserialize(stored)
            changed = change[self._copied[stored.topic]](message)
            data = bytes(stored.data) if changed is None else self._writer.serialize(changed)
            yield stored.stamp_ns, stored.topic, data

    def _changed_tf(self, message: Any) -> Any | None:
        """Base and camera links moved; None when nothing in it is."""
        moved = False
        for transform in message.transforms:
            child = transform.child_frame_id.lstrip("/")
            if child == self._frames.base_frame:
                matrix = self._matrix(transform.transform) @ self._options.base_from_shifted
            elif child == self._camera_frame and self._mounted is not None:
                _, parent_from_base = self._mounted
                recorded = rigid.invert(parent_from_base) @ self._matrix(transform.transform)
                matrix = parent_from_base @ self._options.base_from_camera(recorded)
            else:
                continue
            transform.transform = self._make.transform(matrix)
            moved = True
        return message if moved else None

    @staticmethod
    def _matrix(transform: Any) -> Array:
        t, q = transform.translation, transform.rotation
        return rigid.from_quaternion((q.x, q.y, q.z, q.w), (t.x, t.y, t.z))

    def _changed_odometry(self, message: Any) -> Any | None:
        child = message.child_frame_id.lstrip("/")
        if child not in ("", self._frames.base_frame):
            return None
        try:
            pose = pose_to_matrix(message.pose.pose)
        except ValueError:
            self._counts["odometry_invalid"] += 1
            return None
        shift = self._options.base_from_shifted
        message.pose.pose = self._make.pose(pose @ shift)
        twist = message.twist.twist
        linear, angular = shifted_twist(
            np.array([twist.linear.x, twist.linear.y, twist.linear.z]),
            np.array([twist.angular.x, twist.angular.y, twist.angular.z]), shift)
        for vector, values in ((twist.linear, linear), (twist.angular, angular)):
            vector.x, vector.y, vector.z = map(float, values)
        return message

    def _changed_path(self, message: Any) -> Any | None:
        """A path told in the robot's own frames is told in the shifted ones."""
        frame = message.header.frame_id.lstrip("/")
        if frame != self._frames.base_frame:
            return None
        shifted_from_base = rigid.invert(self._options.base_from_shifted)
        for stamped in message.poses:
            stamped.pose = self._make.pose(shifted_from_base @ pose_to_matrix(stamped.pose))
        return message

    # What is made.

    def _write(self, stamp_ns: int, frame: ImaginedFrame, labels: Labels) -> None:
        make, t = self._make, self._observations.topics
        header = make.header(stamp_ns, self._camera_frame)
        log_ns = stamp_ns + self._log_from_stamp
        if self._frames.source == "tf" and self._frames.moving_topics:
            # Exactly at the picture: between two poses aside of the recorded ones, straight
            # interpolation would cut the corner.
            parent = self._frames.parents[self._frames.base_frame]
            if parent == self._frames.world_frame:
                self._put(log_ns, self._frames.moving_topics[0], self._writer.serialize(
                    make.transforms(stamp_ns, parent, self._frames.base_frame,
                                    self._shifted_base(stamp_ns))))
        compressed = self._bag.topics[t.image].message_type == COMPRESSED
        depth_compressed = bool(t.depth) and self._bag.topics[t.depth].message_type == COMPRESSED
        ego = make.header(stamp_ns, self._frames.base_frame)
        stamps = [int(stamp) for stamp in labels.stamps_ns]
        info = make.camera_info(header, frame.camera)
        messages = {
            t.image: make.jpeg(header, frame.image) if compressed
            else make.image(header, "rgb8", frame.image),
            t.image_info: info,
            self._depth[0]: make.compressed_depth(header, frame.depth) if depth_compressed
            else make.image(header, "32FC1", frame.depth),
            self._depth[1]: info,
            PROVENANCE: make.image(header, "mono8", frame.provenance),
            FUTURE: make.path(ego, stamps, labels.future),
            RECOVERY: make.path(ego, stamps, labels.recovery)}
        for topic, message in messages.items():
            self._put(log_ns, topic, self._writer.serialize(message))

    def _put(self, log_ns: int, topic: str, data: bytes) -> None:
        # Players send in the order of the log.
        self._last_log_ns = max(self._last_log_ns, log_ns)
        self._writer.write(topic, self._last_log_ns, data)

    def _content(self, camera: dict[str, float]) -> dict[str, Any]:
        options = asdict(self._options)
        t = self._observations.topics
        return {
            "options": options, "camera": camera, "camera_frame": self._camera_frame,
            "topics": {"image": t.image, "camera_info": t.image_info, "depth": self._depth[0],
                       "provenance": PROVENANCE, "future_path": FUTURE, "recovery_path": RECOVERY,
                       "copied": sorted(self._copied)},
            "topics_left_out": self._left_out,
            "frames": {**dict(self._counts),
                       "not_observed": dict(self._observations.statistics.dropped)},
            "labels": {"frame": self._frames.base_frame, "interval_s": self._options.interval,
                       "horizon_s": self._options.horizon, "way_m": self._frames.way.length},
            "per_frame": self._rows}


def _again(first: Observation, rest: Iterator[Observation]) -> Iterator[Observation]:
    yield first
    yield from rest
