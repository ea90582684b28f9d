# SPDX-License-Identifier: Apache-2.0
"""Things that move, kept apart from the cloud of what stands.

Each observation is compared with one before; surfaces that moved are tracked, and cut from what
is remembered as standing. A guide shows each of them where its own motion takes it by the time
that is imagined.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from inspatio_ros.geometry import rigid
from inspatio_ros.memory import motion_numba as kernels
from inspatio_ros.memory.motion import Look, Motion, MotionSegmenter, Piece, look_at
from inspatio_ros.memory.rolling_cloud import RollingCloud
from inspatio_ros.memory.tracks import (
    MIDDLE_NOISE,
    Patch,
    Track,
    box_axes,
    heading_of,
    new_track,
)
from inspatio_ros.sensing.observation import Observation, Provenance

Array = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]

# Looks are compared over this many seconds at least and at most; slow things show against a look
# up to SLOW old.
SHORTEST, LONGEST, SLOW = 0.08, 1.5, 0.9
# A piece belongs to a track when it lies on this share of where the track is expected.
OVERLAP = 0.2
# Things that were seen to stand, or through which was seen, so often are given up.
STILL_LIMIT, THROUGH_LIMIT = 3, 2
# A thing moves, however fast, when so many and so large a share of its pixels said so, so often.
SURE_PIXELS, SURE_SHARE, SURE_SIGHTS = 60, 0.6, 2
# Else when its speed is so many of its standard deviations.
CLEAR = 2.5
# Points of a thing's surface that are carried to find it again.
PATCH_POINTS = 2000
# Error of flow that is the same for all pixels of a thing, px.
FLOW_BIAS_PX = 0.3
# Deviation of a velocity by flow that nothing else confirms, m/s; falls with the sights.
UNCHECKED_FLOW = 2.0
# A place is known as long as its deviation is below half the thing's size, or this, m.
LEAST_ROOM = 0.35
MAX_LOOKS = 16
# A thing was there, unnoticed, for so long before it was first seen to move; its box has this
# margin along and across when points are removed, and none below, m.
_BEFORE_NS = 600_000_000
_BOX_MARGIN = np.array([0.3, 0.3, 0.1])
# Height below what is seen to stand out, m, in which feet and wheels reach the ground.
_FEET = 0.2
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
        self._numbers = 0
        self.reset()

    def reset(self) -> None:
        """Forget all things and looks."""
        self.tracks: list[Track] = []
        self._looks: deque[Look] = deque(maxlen=MAX_LOOKS)
        self._masks: deque[tuple[Observation, Mask | None]] = deque(maxlen=MAX_SPLIT)
        self._detections: deque[Detection] = deque(maxlen=64)
        self.newest_ns: int | None = None

    @property
    def nbytes(self) -> int:
        """Bytes of looks, patches and masks; bounded by their numbers."""
        looks = sum(x.gray.nbytes + 3 * x.depth.nbytes for x in self._looks)
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
        self._looks.append(look)
        self.newest_ns = observation.stamp_ns
        standing = self._segmenter.standing(look)
        marks, counts = self._expected(look, standing)
        for track in self.tracks:
            track.advance(look.stamp_ns)
        if before is not None:
            boxes, words = self._boxes(look)
            motion = self._segmenter.compare(look, before, slow, marks, boxes, standing)
            if motion.share > self.options.max_share:
                self.dropped["view_filled"] += 1
            else:
                self._follow(observation, look, motion, marks, counts)
                self._name(boxes, words, marks)
        look.labels[:] = marks
        self._retire(look.stamp_ns)
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
        """Take what was fused of things that are now known to move out of the cloud."""
        gone = 0
        for track in self.tracks:
            if not track.confirmed:
                continue
            newest = track.trail[-1][0]
            # All of its past when it has just been understood, later what its outline has left.
            since = newest if track.cleaned else track.first_ns - _BEFORE_NS
            track.cleaned = True
            half = track.half + _BOX_MARGIN
            gone += cloud.remove_moved(track.centers, track.axes(newest), half, since)
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
        """Where the look shows the known things: the number of their track [h, w], 0 elsewhere."""
        marks = np.zeros(look.depth.shape, np.int32)
        camera, counts = look.camera, {}
        intrinsics = np.array([camera.fx, camera.fy, camera.cx, camera.cy], np.float32)
        view = rigid.invert(look.world_from_camera)
        for track in self.tracks:
            moved = view @ track.motion(track.patch.stamp_ns, look.stamp_ns)
            counts[track.number] = kernels.mark(
                track.patch.points, moved[:3].astype(np.float32), intrinsics, look.depth,
                np.float32(0.03), track.patch.reach, np.int32(track.number), marks)
        marks[~standing] = 0
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

    def _follow(self, observation: Observation, look: Look, motion: Motion,
                marks: npt.NDArray[np.int32], counts: dict[int, Array]) -> None:
        """Give each piece to a track or a new one, and look after tracks without a piece."""
        owners = self._owners(look, motion, marks)
        by_number = {t.number: t for t in self.tracks}
        for number, pieces in owners.items():
            chosen = np.isin(motion.labels, [p.number for p in pieces])
            if number > 0:
                # What is expected of it and does not contradict belongs to it as well.
                chosen |= (marks == number) & (motion.evidence != kernels.STATIC)
                self._seen(by_number[number], observation, look, chosen, pieces, motion)
            else:
                self._begin(observation, look, chosen, pieces, motion)
            marks[chosen] = self.tracks[-1].number if number <= 0 else number
        for track in by_number.values():
            if track.number not in owners:
                self._unseen(track, motion, marks, counts[track.number], look)

    def _owners(self, look: Look, motion: Motion, marks: npt.NDArray[np.int32]
                ) -> dict[int, list[Piece]]:
        """Pieces by the number of their track; new ones by negative numbers."""
        owners: dict[int, list[Piece]] = {}
        points: Array | None = None
        for piece in motion.pieces:
            own = motion.labels == piece.number
            numbers, found = np.unique(marks[own], return_counts=True)
            known = numbers > 0
            owner = 0
            if known.any() and found[known].max() >= OVERLAP * piece.pixels:
                owner = int(numbers[known][np.argmax(found[known])])
            else:
                if points is None:
                    points = rigid.transform_points(
                        look.world_from_camera, look.camera.unproject(look.depth))
                middle = np.median(points[own], axis=0)
                gates = [(float(np.linalg.norm(t.mean[:3] - middle)), t) for t in self.tracks]
                near = [(d, t.number) for d, t in gates if d < 0.5 + float(t.half.max())
                        + min(2.0, 2 * float(np.sqrt(t.covariance[0, 0])))]
                owner = min(near)[1] if near else -piece.number
            owners.setdefault(owner, []).append(piece)
        return owners

    def _begin(self, observation: Observation, look: Look, chosen: Mask, pieces: list[Piece],
               motion: Motion) -> None:
        up = self._segmenter.up(look.world_from_camera)
        points = _points(look, chosen)
        self._numbers += 1
        track = new_track(self._numbers, look.stamp_ns, np.median(points, axis=0),
                          _patch(observation, look, chosen, points), up)
        self.tracks.append(track)
        self._take_velocity(track, look, pieces, motion)
        self._fit_box(track, points)
        track.trail.append((look.stamp_ns, track.center(look.stamp_ns)))
        if not _at_rim(chosen):
            track.sights.append((look.stamp_ns, np.median(points, axis=0)))

    def _judge(self, track: Track, pieces: list[Piece]) -> None:
        """Whether it is now certain that a thing moves: never at the first sight."""
        said, pixels = sum(p.said for p in pieces), sum(p.pixels for p in pieces)
        track.sure += said >= SURE_PIXELS and said >= SURE_SHARE * pixels
        deviation = float(np.sqrt(np.linalg.eigvalsh(track.covariance[3:, 3:])[-1]))
        # That it does not stand may be plain before it is known how it goes.
        if track.speed > max(self.options.min_speed, CLEAR * deviation) or (
                track.sure >= SURE_SIGHTS):
            track.confirmed = True

    def _seen(self, track: Track, observation: Observation, look: Look, chosen: Mask,
              pieces: list[Piece], motion: Motion) -> None:
        points = _points(look, chosen)
        before, seconds = track.velocity.copy(), (look.stamp_ns - track.seen_ns) * 1e-9
        # What is seen of a thing changes: its middle is worth less than its flow, and nothing
        # when the picture's rim cuts it off.
        middle = np.median(points, axis=0)
        if not _at_rim(chosen):
            track.measure_position(middle, MIDDLE_NOISE)
            track.sights.append((look.stamp_ns, middle))
        else:
            track.sights.clear()
        self._take_velocity(track, look, pieces, motion)
        if track.hits > 2:
            track.follow_turn(before, seconds)
        track.hits += 1
        track.still = track.through = 0
        track.seen_ns = look.stamp_ns
        self._fit_box(track, points)
        chosen |= _feet(track, look, chosen)
        track.patch = _patch(observation, look, chosen, _points(look, chosen))
        track.trail.append((look.stamp_ns, track.center(look.stamp_ns)))
        self._judge(track, pieces)

    def _unseen(self, track: Track, motion: Motion, marks: npt.NDArray[np.int32], counts: Array,
                look: Look) -> None:
        """No piece is its own: it stands now, is hidden, or is not where it was expected."""
        own = marks == track.number
        standing = int(np.count_nonzero(motion.evidence[own] == kernels.STATIC))
        if own.any() and standing > 0.15 * np.count_nonzero(own):
            track.still += 1
            track.measure_velocity(np.zeros(3), 0.3**2 * np.eye(3))
            track.measure_position(np.median(_points(look, own), axis=0), MIDDLE_NOISE)
        in_view, _, through = (int(c) for c in counts)
        if in_view and through > 0.5 * in_view:
            track.through += 1

    def _retire(self, stamp_ns: int) -> None:
        options = self.options
        self.tracks = [
            t for t in self.tracks
            if t.still < STILL_LIMIT and t.through < THROUGH_LIMIT
            and (stamp_ns - t.seen_ns) * 1e-9 <= (options.forget_after if t.confirmed else 0.5)]
        # Of two that are one thing the one seen more often stays.
        for one in sorted(self.tracks, key=lambda t: (t.hits, t.number)):
            if any(_same(one, other) for other in self.tracks if other is not one):
                self.tracks.remove(one)
        if len(self.tracks) > options.max_objects:
            self.dropped["too_many"] += len(self.tracks) - options.max_objects
            self.tracks.sort(key=lambda t: (not t.confirmed, -t.patch.points.shape[1]))
            del self.tracks[options.max_objects:]

    @staticmethod
    def _take_velocity(track: Track, look: Look, pieces: list[Piece], motion: Motion) -> None:
        ray = track.mean[:3] - look.world_from_camera[:3, 3]
        distance = float(np.linalg.norm(ray))
        ray = ray / max(distance, 1e-6)
        for piece in pieces:
            if not np.isfinite(piece.displacement).all():
                continue
            across = FLOW_BIAS_PX * distance / look.camera.fx
            # Flow errs alike over a thing: many pixels do not make it better than their spread.
            spread = np.maximum(1.5 * piece.spread, across)
            noise = np.diag(spread**2) + (0.01 * distance) ** 2 * np.outer(ray, ray)
            velocity = piece.displacement / motion.seconds
            noise /= motion.seconds**2
            # Flow takes one period of a pattern for another; the way of the whole does not.
            way = track.way_of_sights()
            if way is None:
                # Cut off by the rim, or new: nothing to hold the flow against.
                noise += UNCHECKED_FLOW**2 / track.hits * np.eye(3)
            else:
                off = np.abs(velocity - way[0])
                noise += np.diag(np.where(off > 3 * way[1] + 0.4, off, 0.0) ** 2)
                track.measure_velocity(way[0], (3 * way[1]) ** 2 * np.eye(3))
            track.measure_velocity(velocity, noise)
        track.keep_level()

    @staticmethod
    def _fit_box(track: Track, points: Array) -> None:
        """The box round what is seen; sides shrink slowly, as parts of a thing get hidden."""
        if track.speed > 0.7:
            track.heading = heading_of(track.up, track.velocity)
        axes = box_axes(track.up, track.heading)
        local = (points - track.mean[:3]) @ axes
        low, high = np.percentile(local, [1, 99], axis=0)
        track.half = np.maximum(np.maximum((high - low) / 2, 0.9 * track.half), 0.1)
        track.middle = axes @ ((low + high) / 2)

    def _mask(self, observation: Observation, look: Look, marks: npt.NDArray[np.int32]
              ) -> Mask | None:
        confirmed = [t.number for t in self.tracks if t.confirmed]
        chosen = np.isin(marks, confirmed)
        if not chosen.any():
            return None
        # A little more: pixels at an outline are mixed, and depth there is often the other's.
        grown = cv2.dilate(chosen.astype(np.uint8), np.ones((3, 3), np.uint8))
        return _enlarged(grown > 0, observation)


def _same(one: Track, other: Track) -> bool:
    """Whether a track lies within another's box and goes with it."""
    offset = (one.mean[:3] + one.middle - other.mean[:3] - other.middle) @ box_axes(
        other.up, other.heading)
    apart = float(np.linalg.norm(one.velocity - other.velocity))
    unsure = float(np.sqrt(one.covariance[3, 3] + other.covariance[3, 3]))
    return bool((np.abs(offset) <= other.half + 0.2).all() and apart < 1.0 + 2 * unsure)


def _feet(track: Track, look: Look, chosen: Mask) -> Mask:
    """Pixels [h, w] below a thing, too low to stand out from the ground, within its outline."""
    rows, columns = np.flatnonzero(chosen.any(axis=1)), np.flatnonzero(chosen.any(axis=0))
    below = rows[-1] + 1 + max(2, round(0.3 * (rows[-1] - rows[0] + 1)))
    window = np.zeros_like(chosen)
    window[rows[len(rows) // 2]:below, columns[0]:columns[-1] + 1] = True
    window &= ~chosen & (look.depth > 0)
    points = _points(look, window)
    local = (points - track.mean[:3] - track.middle) @ box_axes(track.up, track.heading)
    within = (np.abs(local[:, :2]) <= track.half[:2] + 0.05).all(axis=1)
    window[window] = within & (local[:, 2] < 0) & (local[:, 2] > -track.half[2] - _FEET)
    return window


def _at_rim(chosen: Mask) -> bool:
    return bool(chosen[0].any() or chosen[-1].any() or chosen[:, :2].any()
                or chosen[:, -2:].any())


def _enlarged(mask: Mask, observation: Observation) -> Mask:
    if mask.shape == observation.depth.shape:
        return mask
    full = cv2.resize(mask.astype(np.uint8), observation.camera.size,
                      interpolation=cv2.INTER_NEAREST)
    return np.asarray(full > 0)


def _points(look: Look, chosen: Mask) -> Array:
    """World points [P, 3] of chosen pixels."""
    rows, columns = np.nonzero(chosen & (look.depth > 0))
    camera, z = look.camera, look.depth[rows, columns].astype(np.float64)
    local = np.stack([(columns - camera.cx) / camera.fx * z, (rows - camera.cy) / camera.fy * z,
                      z], axis=1)
    return np.asarray(rigid.transform_points(look.world_from_camera, local))


def _patch(observation: Observation, look: Look, chosen: Mask, points: Array) -> Patch:
    """The window of the observation that shows the chosen pixels of its look."""
    rows, columns = np.flatnonzero(chosen.any(axis=1)), np.flatnonzero(chosen.any(axis=0))
    height, width = chosen.shape
    scale_x, scale_y = observation.camera.width / width, observation.camera.height / height
    left, right = int(columns[0] * scale_x), int(np.ceil((columns[-1] + 1) * scale_x))
    top, bottom = int(rows[0] * scale_y), int(np.ceil((rows[-1] + 1) * scale_y))
    window = np.s_[top:bottom, left:right]
    depth = observation.depth[window].copy()
    inside = chosen[rows[0]:rows[-1] + 1, columns[0]:columns[-1] + 1]
    near = look.depth[rows[0]:rows[-1] + 1, columns[0]:columns[-1] + 1]
    if inside.shape != depth.shape:
        size = (right - left, bottom - top)
        inside = cv2.resize(inside.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST) > 0
        near = np.asarray(cv2.resize(near, size, interpolation=cv2.INTER_NEAREST), np.float32)
    # Gaps that the look has closed stay closed here.
    depth = np.where(depth > 0, depth, near)
    depth[~inside] = np.nan
    step = max(1, len(points) // PATCH_POINTS)
    return Patch(observation.stamp_ns, observation.image[window].copy(),
                 np.asarray(depth, np.float32),
                 observation.camera.cropped(left, top, right - left, bottom - top),
                 observation.world_from_camera,
                 np.ascontiguousarray(points[::step].T, np.float32), round(step**0.5 / 2))
