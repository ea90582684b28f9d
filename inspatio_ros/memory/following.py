# SPDX-License-Identifier: Apache-2.0
"""Gives surfaces that moved to the things that they belong to, and learns how those go."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from inspatio_ros.memory import motion_numba as kernels
from inspatio_ros.memory.cutouts import (
    Array,
    Cutout,
    cutout,
    extent,
    middle_of,
    patch_of,
    sample_of,
    with_feet,
)
from inspatio_ros.memory.displacement import Displacement, DisplacementSearch
from inspatio_ros.memory.motion import LEAST_TOLD, Look, Motion, Piece
from inspatio_ros.memory.tracks import MIDDLE_NOISE, Track, box_axes, heading_of, new_track
from inspatio_ros.sensing.observation import Observation

Marks = npt.NDArray[np.int32]

# A piece belongs to a track when it lies on this share of where the track is expected.
OVERLAP = 0.2
# Things that were seen to stand, or through which was seen, so often are given up.
STILL_LIMIT, THROUGH_LIMIT = 3, 2
# A thing moves, however fast, when so many and so large a share of its pixels said so, so often.
SURE_PIXELS, SURE_SHARE, SURE_SIGHTS = 60, 0.6, 2
# Else when its speed is so many of its standard deviations.
CLEAR = 2.5
# Error of flow that is the same for all pixels of a thing, px.
FLOW_BIAS_PX = 0.3
# Deviation of a velocity by flow that nothing else confirms, m/s; falls with the sights.
UNCHECKED_FLOW = 2.0
# Farther than this across the picture flow may take one part of a thing for another, px. A thing
# that the rim cuts off may have come by so much since the earlier look, m.
FLOW_REACH_PX, RIM_SPEED = 24.0, 1.0
# Such a thing is looked for, if it has so many points, up to so fast, m/s, over so long a time, s;
# near its expected place when its speed is known so well, m/s.
SEARCH_PIXELS, FASTEST, SEARCH_SECONDS, SEARCH_DEVIATION = 120, 15.0, 0.45, 1.5
# Cost from which a way is not believed; how much worse another way must be; error of the way, px.
SEARCH_COST, LEAST_DOUBT, SEARCH_PX = 0.35, 0.05, 1.0
# With so many points or more a thing may only be taken to move when its way explains what both
# looks show by so much better than that it stands.
SEARCH_LEAST, STAND_MARGIN = 30, 0.03


class Follower:
    """The tracks, and how sights change them.

    min_speed: slower things stand, m/s. forget_after: s without a sight of a confirmed thing.
    max_objects: so many are held. numbers: of the tracks that there have been.
    """

    def __init__(self, min_speed: float, forget_after: float, max_objects: int) -> None:
        self.tracks: list[Track] = []
        self.numbers = 0
        self._min_speed, self._forget_after = min_speed, forget_after
        self._max_objects = max_objects

    def follow(self, observation: Observation, look: Look, before: Look, motion: Motion,
               marks: Marks, counts: dict[int, Array], up: Array) -> None:
        """Give each piece to a track or a new one, and look after tracks without a piece.

        before: the look that the motion is since. marks int32 [h, w]: where the tracks are
        expected, by number; changed to where they are.
        counts: of their points, by number (`kernels.mark`). up [3]: of the world.
        """
        owners = self._owners(look, motion, marks)
        by_number = {t.number: t for t in self.tracks}
        flat, evidence = marks.reshape(-1), motion.evidence.reshape(-1)
        for number, pieces in owners.items():
            places = np.concatenate([p.places for p in pieces])
            if number > 0:
                # What is expected of it and does not contradict belongs to it as well.
                own = np.flatnonzero(flat == number).astype(np.int32)
                places = np.concatenate([places, own[evidence[own] != kernels.STATIC]])
            cut = cutout(places, look.depth.shape[1])
            if number > 0:
                cut = self._seen(by_number[number], observation, look, before, cut, pieces, motion)
            else:
                self._begin(observation, look, before, cut, pieces, motion, up)
            marks[cut.window][cut.mask] = self.tracks[-1].number if number <= 0 else number
        for track in by_number.values():
            if track.number not in owners:
                self._unseen(track, motion, marks, counts[track.number], look)

    def retire(self, stamp_ns: int, marks: Marks) -> int:
        """Give up what stands, is gone, was not seen for long; how many were too many.

        marks int32 [h, w]: where the tracks are, by number; what a track showed that is part of
        another is the other's.
        """
        self.tracks = [
            t for t in self.tracks
            if t.still < STILL_LIMIT and t.through < THROUGH_LIMIT
            and (stamp_ns - t.seen_ns) * 1e-9 <= (self._forget_after if t.confirmed else 0.5)]
        # Of two that are one thing the one seen more often stays.
        for one in sorted(self.tracks, key=lambda t: (t.hits, t.number)):
            whole = next((t for t in self.tracks if t is not one and _same(one, t)), None)
            if whole is not None:
                self.tracks.remove(one)
                if one.seen_ns == stamp_ns:
                    marks[marks == one.number] = whole.number
        too_many = max(0, len(self.tracks) - self._max_objects)
        if too_many:
            self.tracks.sort(key=lambda t: (not t.confirmed, -t.patch.points.shape[1]))
            del self.tracks[self._max_objects:]
        return too_many

    def _owners(self, look: Look, motion: Motion, marks: Marks) -> dict[int, list[Piece]]:
        """Pieces by the number of their track; new ones by negative numbers."""
        owners: dict[int, list[Piece]] = {}
        flat = marks.reshape(-1)
        for piece in motion.pieces:
            found = np.bincount(flat[piece.places])
            found[0] = 0
            owner = int(np.argmax(found))
            if found[owner] < OVERLAP * piece.pixels:
                middle = middle_of(sample_of(look, cutout(piece.places, look.depth.shape[1]))[0])
                gates = [(float(np.linalg.norm(t.mean[:3] - middle)), t) for t in self.tracks
                         if _goes_with(piece, t, motion.seconds)]
                near = [(d, t.number) for d, t in gates if d < 0.5 + float(t.half.max())
                        + min(2.0, 2 * float(np.sqrt(t.covariance[0, 0])))]
                owner = min(near)[1] if near else -piece.number
            owners.setdefault(owner, []).append(piece)
        return owners

    def _begin(self, observation: Observation, look: Look, before: Look, cut: Cutout,
               pieces: list[Piece], motion: Motion, up: Array) -> None:
        points, _ = sample_of(look, cut)
        self.numbers += 1
        middle = middle_of(points)
        track = new_track(self.numbers, look.stamp_ns, middle,
                          patch_of(observation, look, cut), up)
        self.tracks.append(track)
        _measure(track, look, before, cut, points, pieces, motion)
        _fit_box(track, points)
        track.trail.append((look.stamp_ns, track.center(look.stamp_ns)))
        if not cut.at_rim(look.depth.shape):
            track.sights.append((look.stamp_ns, middle))
        if all(p.borne_out for p in pieces):
            self._judge(track, pieces)

    def _judge(self, track: Track, pieces: list[Piece]) -> None:
        """Whether it is now certain that a thing moves."""
        said, pixels = sum(p.said for p in pieces), sum(p.pixels for p in pieces)
        track.sure += said >= SURE_PIXELS and said >= SURE_SHARE * pixels
        deviation = float(np.sqrt(np.linalg.eigvalsh(track.covariance[3:, 3:])[-1]))
        # That it does not stand may be plain before it is known how it goes.
        if track.speed > max(self._min_speed, CLEAR * deviation) or (
                track.sure >= SURE_SIGHTS):
            track.confirmed = True

    def _seen(self, track: Track, observation: Observation, look: Look, before: Look,
              cut: Cutout, pieces: list[Piece], motion: Motion) -> Cutout:
        """Learn from a sight of a track; what of the look is its own."""
        points, _ = sample_of(look, cut)
        known = track.confirmed
        velocity, seconds = track.velocity.copy(), (look.stamp_ns - track.seen_ns) * 1e-9
        # What is seen of a thing changes: its middle is worth less than its flow, and nothing
        # when the picture's rim cuts it off.
        if not cut.at_rim(look.depth.shape):
            middle = middle_of(points)
            track.measure_position(middle, MIDDLE_NOISE)
            track.sights.append((look.stamp_ns, middle))
        else:
            track.sights.clear()
        _measure(track, look, before, cut, points, pieces, motion)
        if track.hits > 2:
            track.follow_turn(velocity, seconds)
        track.follow_braking()
        track.hits += 1
        track.still = track.through = 0
        track.seen_ns = look.stamp_ns
        _fit_box(track, points)
        cut = with_feet(track, look, cut)
        track.patch = patch_of(observation, look, cut)
        track.trail.append((look.stamp_ns, track.center(look.stamp_ns)))
        self._judge(track, pieces)
        if track.confirmed and not known and not any(p.borne_out for p in pieces):
            track.confirmed = _borne_out(track, look, before, points, motion.seconds)
        return cut

    @staticmethod
    def _unseen(track: Track, motion: Motion, marks: Marks, counts: Array, look: Look) -> None:
        """No piece is its own: it stands now, is hidden, or is not where it was expected."""
        own = np.flatnonzero(marks == track.number).astype(np.int32)
        standing = int(np.count_nonzero(motion.evidence.reshape(-1)[own] == kernels.STATIC))
        if standing > 0.15 * len(own):
            track.still += 1
            track.measure_velocity(np.zeros(3), 0.3**2 * np.eye(3))
            track.measure_position(middle_of(sample_of(look, cutout(own, marks.shape[1]))[0]),
                                   MIDDLE_NOISE)
        in_view, _, through = (int(c) for c in counts)
        if in_view and through > 0.5 * in_view:
            track.through += 1


def _goes_with(piece: Piece, track: Track, seconds: float) -> bool:
    """Whether a piece may be part of a thing by how it goes, where both are known well."""
    if not (piece.borne_out and track.confirmed):
        return True
    unsure = float(np.sqrt(np.linalg.eigvalsh(track.covariance[3:, 3:])[-1]))
    apart = float(np.linalg.norm(piece.displacement / seconds - track.velocity))
    return apart < 0.7 + 2 * unsure


def _measure(track: Track, look: Look, before: Look, cut: Cutout, points: Array,
             pieces: list[Piece], motion: Motion) -> None:
    """How fast it goes: by flow, or, near by, where flow fails, by looking for it."""
    found = None
    if _too_far_for_flow(track, look, cut, pieces, points):
        found = _looked_for(track, look, before, points, motion.seconds)
    if found is None:
        _take_velocity(track, look, pieces, motion)
        return
    ray = points.mean(axis=0) - look.world_from_camera[:3, 3]
    distance = float(np.linalg.norm(ray))
    ray /= distance
    noise = (SEARCH_PX * distance / look.camera.fx) ** 2 * np.eye(3) + (
        0.01 * distance) ** 2 * np.outer(ray, ray)
    noise /= motion.seconds**2
    if found.doubt < LEAST_DOUBT:
        noise += UNCHECKED_FLOW**2 * np.eye(3)
    track.measure_velocity(found.vector / motion.seconds, noise)
    track.keep_level()


def _too_far_for_flow(track: Track, look: Look, cut: Cutout, pieces: list[Piece], points: Array
                      ) -> bool:
    """Whether it may have gone so far across the picture that flow takes it for another."""
    if len(points) < SEARCH_PIXELS:
        return False
    scale = look.camera.fx / max(float(np.linalg.norm(
        points.mean(axis=0) - look.world_from_camera[:3, 3])), 0.1)
    ways = [p.displacement for p in pieces if np.isfinite(p.displacement).all()]
    fastest = max((float(np.linalg.norm(w)) for w in ways), default=0.0) * scale
    return fastest > FLOW_REACH_PX or (
        cut.at_rim(look.depth.shape) and RIM_SPEED * scale > FLOW_REACH_PX)


def _borne_out(track: Track, look: Look, before: Look, points: Array, seconds: float) -> bool:
    """Whether both looks speak for its way rather than for that it stood: depth and flow err.

    What is too small, or was not seen for too long, is believed.
    """
    if seconds > SEARCH_SECONDS or len(points) < SEARCH_LEAST:
        return True
    search = _search(track, look, before, points)
    went = search.cost(track.velocity * seconds)
    return went + STAND_MARGIN < search.cost(np.zeros(3))


def _search(track: Track, look: Look, before: Look, points: Array) -> DisplacementSearch:
    earlier = np.flatnonzero(before.labels == track.number).astype(np.int32)
    if not len(earlier):
        return DisplacementSearch(look, before, points, None, track.up)
    own, _ = sample_of(before, cutout(earlier, before.depth.shape[1]))
    return DisplacementSearch(look, before, points, own.T.astype(np.float32), track.up)


def _looked_for(track: Track, look: Look, before: Look, points: Array, seconds: float
                ) -> Displacement | None:
    """Its way since the earlier look, near what is expected of it or, where that is not borne
    out, anywhere."""
    if seconds > SEARCH_SECONDS:
        return None
    search = _search(track, look, before, points)
    deviation = float(np.sqrt(np.linalg.eigvalsh(track.covariance[3:, 3:])[-1]))
    if track.hits > 1 and deviation < SEARCH_DEVIATION:
        found = search.best(track.velocity * seconds, (0.5 + 3 * deviation) * seconds)
        if found is not None and found.cost < SEARCH_COST:
            return found
    found = search.best(np.zeros(3), FASTEST * seconds)
    return found if found is not None and found.cost < SEARCH_COST else None


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
        # A few pixels of a large thing do not tell how all of it went.
        spread *= max(1.0, LEAST_TOLD * piece.pixels / piece.said)
        noise = np.diag(spread**2) + (0.01 * distance) ** 2 * np.outer(ray, ray)
        velocity = piece.displacement / motion.seconds
        noise /= motion.seconds**2
        # Flow takes one period of a pattern for another; the way of the whole does not.
        way = track.way_of_sights()
        if way is None:
            # Cut off by the rim, or new: nothing to hold the flow against.
            noise += 0.0 if piece.borne_out else UNCHECKED_FLOW**2 / track.hits * np.eye(3)
        else:
            off = np.abs(velocity - way[0])
            noise += np.diag(np.where(off > 3 * way[1] + 0.4, off, 0.0) ** 2)
            track.measure_velocity(way[0], (3 * way[1]) ** 2 * np.eye(3))
        track.measure_velocity(velocity, noise)
    track.keep_level()


def _fit_box(track: Track, points: Array) -> None:
    """The box round what is seen; sides shrink slowly, as parts of a thing get hidden."""
    if track.speed > 0.7:
        track.heading = heading_of(track.up, track.velocity)
    axes = box_axes(track.up, track.heading)
    low, high = extent((points - track.mean[:3]) @ axes)
    track.half = np.maximum(np.maximum((high - low) / 2, 0.9 * track.half), 0.1)
    track.middle = axes @ ((low + high) / 2)


def _same(one: Track, other: Track) -> bool:
    """Whether a track lies within another's box and goes with it."""
    apart = one.mean[:3] + one.middle - other.mean[:3] - other.middle
    # Farther than a box reaches in any direction.
    if apart @ apart > (float(np.linalg.norm(other.half)) + 0.4) ** 2:
        return False
    offset = apart @ box_axes(other.up, other.heading)
    faster = float(np.linalg.norm(one.velocity - other.velocity))
    unsure = float(np.sqrt(one.covariance[3, 3] + other.covariance[3, 3]))
    return bool((np.abs(offset) <= other.half + 0.2).all() and faster < 1.0 + 2 * unsure)
