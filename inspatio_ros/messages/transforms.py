# SPDX-License-Identifier: Apache-2.0
"""The tf tree: a bounded buffer of transforms between named frames.

tf2_ros' Python buffer is not there on every system this runs on, does not notice time jumping
back (ros2/geometry2#606) and costs more than the few frames asked for here; this one looks up by
stamp only, never waits, and says why it cannot answer.
"""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import numpy.typing as npt

from inspatio_ros.geometry import rigid
from inspatio_ros.messages.poses import to_ns, transform_to_matrix
from inspatio_ros.sensing.poses import PoseBuffer, PoseUnavailable

Array = npt.NDArray[np.float64]

MAX_FRAMES = 1000
_BUFFER_NS = 30_000_000_000
# A transform this much older than the newest of its frame is not late: time jumped back.
_JUMP_NS = 1_000_000_000
_BUFFER_CAPACITY = 6_000


class TransformUnavailable(LookupError):
    """No transform at this stamp.

    reason: 'unknown_frame', 'not_connected', 'too_new' (later data may bring it), 'too_old' or
    'gap'.
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class TransformTree:
    """Transforms between named frames at a stamp, interpolated as tf2 does. Safe between threads.

    Bounded: MAX_FRAMES frames, and of each the last 30 s. `dropped` counts transforms refused for
    being invalid or over the limit.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._parents: dict[str, str] = {}
        self._moving: dict[str, PoseBuffer] = {}
        self._fixed: dict[str, Array] = {}
        self.dropped = 0

    def add(self, message: Any, *, static: bool = False) -> None:
        """Hold one transform; an invalid one is counted and otherwise ignored, as tf2 does."""
        parent = message.header.frame_id.lstrip("/")
        child = message.child_frame_id.lstrip("/")
        with self._lock:
            full = child not in self._parents and len(self._parents) >= MAX_FRAMES
            try:
                parent_from_child = transform_to_matrix(message.transform)
            except ValueError:
                parent_from_child = None
            if parent_from_child is None or full or not parent or not child or parent == child:
                self.dropped += 1
                return
            if self._parents.get(child, parent) != parent:
                # Re-parented: what was known in the old parent says nothing about the new one.
                self._moving.pop(child, None)
            self._parents[child] = parent
            if static:
                self._fixed[child] = parent_from_child
            else:
                buffer = self._moving.setdefault(child, PoseBuffer(
                    max_age_ns=_BUFFER_NS, capacity=_BUFFER_CAPACITY))
                if len(buffer) and to_ns(message.header.stamp) < buffer.latest()[0] - _JUMP_NS:
                    # Time jumped, or a straggler of the other time came after the jump: what is
                    # held says nothing about now.
                    buffer.clear()
                buffer.add(to_ns(message.header.stamp), parent_from_child)

    def lookup(self, target: str, source: str, stamp_ns: int) -> Array:
        """target_from_source [4, 4] at `stamp_ns`. Raises TransformUnavailable with the reason."""
        target, source = target.lstrip("/"), source.lstrip("/")
        with self._lock:
            if target == source:
                return np.eye(4)
            up_source, up_target = self._ancestors(source), self._ancestors(target)
            common = next((frame for frame in up_source if frame in up_target), None)
            if common is None:
                raise self._no_connection(target, source)
            common_from_source = self._climb(up_source, common, stamp_ns)
            common_from_target = self._climb(up_target, common, stamp_ns)
        return rigid.invert(common_from_target) @ common_from_source

    def latest_stamp(self, target: str, source: str) -> int | None:
        """The newest stamp at which `lookup` works; None when all links are static.

        Raises TransformUnavailable when the frames are not connected.
        """
        with self._lock:
            up_source = self._ancestors(source.lstrip("/"))
            up_target = self._ancestors(target.lstrip("/"))
            common = next((frame for frame in up_source if frame in up_target), None)
            if common is None:
                raise self._no_connection(target, source)
            links = [frame for chain in (up_source, up_target)
                     for frame in chain[:chain.index(common)] if frame not in self._fixed]
            return min((self._moving[frame].latest()[0] for frame in links), default=None)

    def frames(self) -> list[str]:
        """All frames known, sorted."""
        with self._lock:
            return sorted(set(self._parents) | set(self._parents.values()))

    def clear_moving(self) -> None:
        """Forget everything but the static transforms: time jumped."""
        with self._lock:
            self._moving.clear()
            self._parents = {c: p for c, p in self._parents.items() if c in self._fixed}

    def _ancestors(self, frame: str) -> list[str]:
        chain = [frame]
        while frame in self._parents and len(chain) <= MAX_FRAMES:
            frame = self._parents[frame]
            chain.append(frame)
        return chain

    def _climb(self, chain: list[str], top: str, stamp_ns: int) -> Array:
        top_from_frame = np.eye(4)
        for frame in chain[:chain.index(top)]:
            top_from_frame = self._parent_from(frame, stamp_ns) @ top_from_frame
        return top_from_frame

    def _parent_from(self, frame: str, stamp_ns: int) -> Array:
        if frame in self._fixed:
            return self._fixed[frame]
        try:
            return self._moving[frame].at(stamp_ns)
        except PoseUnavailable as error:
            raise TransformUnavailable(
                error.reason, f"tf '{self._parents[frame]}' from '{frame}': {error}") from error

    def _no_connection(self, target: str, source: str) -> TransformUnavailable:
        known = set(self._parents) | set(self._parents.values())
        missing = [frame for frame in (target, source) if frame not in known]
        if missing:
            names = ", ".join(sorted(known)[:12]) or "no frame at all yet"
            return TransformUnavailable(
                "unknown_frame", f"tf has no frame '{missing[0]}' (it has: {names})")
        return TransformUnavailable(
            "not_connected", f"tf does not connect '{target}' and '{source}'")
