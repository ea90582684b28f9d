# SPDX-License-Identifier: Apache-2.0
"""Things that move, kept apart from the cloud of what stands.

Each observation is compared with one before; surfaces that moved are tracked, and cut from what
is remembered as standing. A guide shows each of them where its own motion takes it by the time
that is imagined.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from inspatio_ros.geometry import rigid
from inspatio_ros.memory import motion_numba as kernels
from inspatio_ros.memory import pieces_numba
from inspatio_ros.memory.cutouts import Array, Mask, enlarged
from inspatio_ros.memory.following import Follower
from inspatio_ros.memory.motion import Look, Motion, MotionSegmenter, look_at
from inspatio_ros.memory.rolling_cloud import RollingCloud
from inspatio_ros.memory.tracks import Patch, Track
from inspatio_ros.memory.vanished import went_away
from inspatio_ros.sensing.observation import Observation, Provenance

# Looks are compared over this many seconds at least and at most; slow things show against a look
# up to SLOW old.
SHORTEST, LONGEST, SLOW = 0.08, 1.5, 0.9
# A place is known as long as its deviation is below half the thing's size, or this, m.
LEAST_ROOM = 0.35
MAX_LOOKS = 16
# A thing was there, unnoticed, for so long before it was first seen to move; its box has this
# margin to each side when points are removed, and so much more above, where windows give no depth,
# m. Its way until then is gone over in so many steps at most.
_BEFORE_NS = 600_000_000
_BOX_MARGIN, _ABOVE = np.array([0.3, 0.3, 0.1]), 0.5
_MOST_STEPS = 16
MAX_SPLIT = 8


@dataclass(frozen=True)
class MovingOptions:
    """How things that move are treated.

    up: the world's up axis; None: the world axis nearest to the camera's up. min_speed: slower
    things stand, m/s. max_objects: the nearest so many are held. forget_after: s without a sight
    of a thing. max_share: when more of the picture than this moved, its motion is not believed
    (the pose may be wrong, or something fills the view) and no object is made of it.
    """

    up: tuple[float, float, float] | None = None
    min_speed: float = 0.4
    max_objects: int = 32
    forget_after: float = 2.0
    max_share: float = 0.6

    def __post_init__(self) -> None:
        for name in ("min_speed", "max_objects", "forget_after", "max_share"):
            if not getattr(self, name) > 0:
                raise ValueError(f"moving.{name} {getattr(self, name)} is not positive")


@dataclass(frozen=True)
class Detection:
    """A box that a detector found: world_from_box [4, 4], size [3] m along its axes, label."""

    stamp_ns: int
    world_from_box: Array
    size: Array
    label: str = ""


@dataclass(frozen=True)
class MovingObject:
    """A thing as others may know it, at a time: center [3] m, axes [3, 3] (columns heading, left,
    up), size [3] m, velocity [3] m/s, deviation m of its place."""

    number: int
    label: str
    center: Array
    axes: Array
    size: Array
    velocity: Array
    deviation: float


@dataclass(frozen=True)
class Shown:
    """A thing to draw: its patch, how it has gone since, and the label its pixels get.

    OBSERVED: seen by the references of now. MEMORY: by an earlier observation. IMAGINED: its
    place is less certain than half its size, so it is a hint and gives no depth.
    """

    patch: Patch
    motion: Array
    label: Provenance


class MovingLayer:
    """The things that move. At most `max_objects`; not safe between threads.

    dropped: counts by reason: too many objects, views filled by motion, stale detections.
    """

    def __init__(self, options: MovingOptions | None = None) -> None:
        self.options = options or MovingOptions()
        self._segmenter = MotionSegmenter(self.options.up)
        self.dropped = dict.fromkeys(("too_many", "view_filled", "detection_late"), 0)
        self._follower = Follower(self.options.min_speed, self.options.forget_after,
                                  self.options.max_objects)
        self.reset()

    def reset(self) -> None:
        """Forget all things and looks."""
        self._follower.tracks = []
        self._looks: deque[Look] = deque(maxlen=MAX_LOOKS)
        # What of each of them is not ground.
        self._standing: deque[Mask] = deque(maxlen=MAX_LOOKS)
        self._masks: deque[tuple[Observation, Mask | None]] = deque(maxlen=MAX_SPLIT)
        self._detections: deque[Detection] = deque(maxlen=64)
        self.newest_ns: int | None = None

    @property
    def tracks(self) -> list[Track]:
        """What is followed, confirmed or not."""
        return self._follower.tracks

    @property
    def things_seen(self) -> int:
        """How many tracks there have been."""
        return self._follower.numbers

    @property
    def nbytes(self) -> int:
        """Bytes of looks, patches and masks; bounded by their numbers."""
        looks = sum(x.nbytes for x in self._looks) + sum(m.nbytes for m in self._standing)
        return looks + sum(t.patch.nbytes for t in self.tracks) + sum(
            o.nbytes + (0 if m is None else m.nbytes) for o, m in self._masks)

    def detect(self, detections: Sequence[Detection]) -> None:
        """Boxes of a detector, used with the observation of their time when that comes."""
        for detection in detections:
            if self.newest_ns is not None and detection.stamp_ns <= self.newest_ns - 10**9:
                self.dropped["detection_late"] += 1
            else:
                self._detections.append(detection)

    def observe(self, observation: Observation) -> Mask | None:
        """Take in an observation; which of its pixels [H, W] show things that move, None: none.

        Observations come in order of time; one that is older than the newest is only looked up.
        """
        if self.newest_ns is not None and observation.stamp_ns <= self.newest_ns:
            return self.mask_of(observation)
        look = look_at(observation)
        before, slow = self._before(look)
        # That look may be the one that leaves now.
        stood = next((m for x, m in zip(self._looks, self._standing, strict=True) if x is slow),
                     None)
        standing = self._segmenter.standing(look)
        self._looks.append(look)
        self._standing.append(standing)
        self.newest_ns = observation.stamp_ns
        marks, counts = self._expected(look, standing)
        for track in self.tracks:
            track.advance(look.stamp_ns)
        if before is not None:
            boxes, words = self._boxes(look)
            motion = self._segmenter.compare(look, before, slow, marks, boxes, standing)
            if motion.share > self.options.max_share:
                self.dropped["view_filled"] += 1
            else:
                if slow is not None and stood is not None:
                    motion = self._with_vanished(motion, look, standing, slow, stood)
                self._follower.follow(observation, look, before, motion, marks, counts,
                                      self._segmenter.up(look.world_from_camera))
                self._name(boxes, words, marks)
        self.dropped["too_many"] += self._follower.retire(look.stamp_ns, marks)
        mask = self._mask(observation, look, marks)
        self._masks.append((observation, mask))
        return mask

    def mask_of(self, observation: Observation) -> Mask | None:
        """The moving pixels [H, W] of an observation, also of one that was never taken in."""
        for held, mask in self._masks:
            if held is observation:
                return mask
        mask = None
        if any(t.confirmed for t in self.tracks):
            look = look_at(observation)
            marks, _ = self._expected(look, self._segmenter.standing(look))
            mask = self._mask(observation, look, marks)
        self._masks.append((observation, mask))
        return mask

    def clean(self, cloud: RollingCloud) -> int:
        """Take what was fused of things that are now known to move out of the cloud.

        Nothing stands where they are, nor where they went since they were first seen.
        """
        gone = 0
        for track in self.tracks:
            if not track.confirmed:
                continue
            newest = track.trail[-1][0]
            axes, half = track.axes(newest), track.half + _BOX_MARGIN
            half[2] += _ABOVE / 2
            since = newest if track.cleaned else track.first_ns - _BEFORE_NS
            track.cleaned = True
            length = track.speed * (newest - since) * 1e-9
            steps = min(1 + int(length / half[:2].min()), _MOST_STEPS)
            for place in track.centers(np.linspace(since, newest, steps + 1)[1:].astype(np.int64)):
                gone += cloud.remove_box(place + _ABOVE / 2 * track.up, axes, half)
        return gone

    def objects(self, stamp_ns: int) -> list[MovingObject]:
        """All confirmed things where they are, or will be, at a time."""
        return [MovingObject(t.number, t.label, t.center(stamp_ns), t.axes(stamp_ns), 2 * t.half,
                             t.velocity, t.deviation(stamp_ns, t.seen_ns))
                for t in self.tracks if t.confirmed]

    def shown(self, stamp_ns: int | None, references: Sequence[Observation]) -> list[Shown]:
        """What a guide shows at a time (None: that of the newest look)."""
        if self.newest_ns is None:
            return []
        at = self.newest_ns if stamp_ns is None else stamp_ns
        now = {r.stamp_ns for r in references}
        result = []
        for track in self.tracks:
            patch = track.patch
            age = (at - patch.stamp_ns) * 1e-9
            if not track.confirmed or age < -LONGEST:
                continue
            deviation, room = track.deviation(at), max(float(track.half[:2].mean()), LEAST_ROOM)
            if deviation > 4 * room:
                continue
            label = Provenance.OBSERVED if patch.stamp_ns in now else Provenance.MEMORY
            if deviation > room:
                label = Provenance.IMAGINED
            result.append(Shown(patch, track.motion(patch.stamp_ns, at), label))
        return result

    def _with_vanished(self, motion: Motion, look: Look, standing: Mask, slow: Look,
                       stood: Mask) -> Motion:
        """The motion and what is missed where an older look showed it."""
        seconds = (look.stamp_ns - slow.stamp_ns) * 1e-9
        ways = {t.number: seconds * t.velocity for t in self.tracks if t.confirmed}
        pieces = went_away(look, standing, slow, stood, motion.labels, motion.seconds,
                           self.options.min_speed,
                           self._segmenter.up(look.world_from_camera), ways.get)
        return replace(motion, pieces=motion.pieces + pieces)

    def _before(self, look: Look) -> tuple[Look | None, Look | None]:
        """The look to compare with, and an older one against which slow things show."""
        ages = [((look.stamp_ns - x.stamp_ns) * 1e-9, x) for x in reversed(self._looks)
                if x.camera == look.camera]
        fresh = [x for age, x in ages if SHORTEST <= age <= LONGEST]
        slow = [x for age, x in ages if 0.4 <= age <= SLOW]
        before = fresh[0] if fresh else None
        return before, slow[-1] if slow and slow[-1] is not before else None

    def _expected(self, look: Look, standing: Mask
                  ) -> tuple[npt.NDArray[np.int32], dict[int, Array]]:
        """Where the look shows the known things: its labels, with the numbers of their tracks, and
        counts of their points (`kernels.mark`)."""
        marks, camera, counts = look.labels, look.camera, {}
        intrinsics = np.array([camera.fx, camera.fy, camera.cx, camera.cy], np.float32)
        view = rigid.invert(look.world_from_camera)
        for track in self.tracks:
            moved = view @ track.motion(track.patch.stamp_ns, look.stamp_ns)
            counts[track.number] = kernels.mark(
                track.patch.points, moved[:3].astype(np.float32), intrinsics, look.depth, standing,
                np.float32(0.03), track.patch.reach, np.int32(track.number), marks)
        return marks, counts

    def _name(self, boxes: npt.NDArray[np.int32] | None, words: list[str],
              marks: npt.NDArray[np.int32]) -> None:
        """Give tracks the label of the box that they lie in."""
        if boxes is None:
            return
        for track in self.tracks:
            inside = np.bincount(boxes[marks == track.number], minlength=len(words) + 1)[1:]
            if inside.any():
                track.label = words[int(np.argmax(inside))]

    def _boxes(self, look: Look) -> tuple[npt.NDArray[np.int32] | None, list[str]]:
        """Pixels [h, w] within the boxes of the look's detections, by number, and their labels;
        None: no box."""
        near = [d for d in self._detections if abs(d.stamp_ns - look.stamp_ns) < 6e7]
        if not near:
            return None, []
        self._detections = deque((d for d in self._detections if d.stamp_ns > look.stamp_ns),
                                 maxlen=self._detections.maxlen)
        points = rigid.transform_points(look.world_from_camera, look.camera.unproject(look.depth))
        boxes = np.zeros(look.depth.shape, np.int32)
        with np.errstate(invalid="ignore"):
            for number, detection in enumerate(near, 1):
                local = rigid.transform_points(rigid.invert(detection.world_from_box), points)
                boxes[(np.abs(local) <= detection.size / 2 + 0.1).all(axis=2)] = number
        return boxes, [d.label for d in near]

    def _mask(self, observation: Observation, look: Look, marks: npt.NDArray[np.int32]
              ) -> Mask | None:
        confirmed = np.zeros(self._follower.numbers + 1, np.bool_)
        confirmed[[t.number for t in self.tracks if t.confirmed]] = True
        # A little more: pixels at an outline are mixed, and depth there is often the other's.
        chosen = np.zeros(marks.shape, np.uint8)
        if not pieces_numba.chosen(marks, confirmed, chosen):
            return None
        return enlarged(chosen.view(np.bool_), observation)
