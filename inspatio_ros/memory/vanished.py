# SPDX-License-Identifier: Apache-2.0
"""What stood before in places that are now seen to be empty, and where it went.

A thing that goes away along the view hardly changes its picture, and its new place was hidden
behind itself. But the place that it left is seen through. The surface that is missed there is
looked for, and where both looks bear it out, what it is now moved.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from inspatio_ros.geometry import rigid
from inspatio_ros.memory import motion_numba as kernels
from inspatio_ros.memory import pieces_numba
from inspatio_ros.memory.cutouts import Array, Mask, cutout, points_of
from inspatio_ros.memory.displacement import Displacement, DisplacementSearch
from inspatio_ros.memory.motion import (
    MAX_DEPTH,
    SURFACE_JUMP,
    TOLERANCE,
    Look,
    Piece,
    kernel_numbers,
)

Labels = npt.NDArray[np.int32]

# Smaller surfaces are not missed; so many of them, the largest, are looked for in a look.
LEAST_PIXELS, MOST_SEARCHED = 50, 2
# A way is believed up to this cost, when another is so much worse, and standing is too.
MOST_COST, LEAST_DOUBT, STAND_MARGIN = 0.2, 0.05, 0.1
# How far it is looked for, m; around what is expected of a known thing, m.
REACH, NEAR = 6.0, 0.8
# Pixels over which its surface is followed beyond what was missed.
SPREAD_PX = 6

# The way [3] m that a known thing, by its number in the earlier look, is expected to have gone.
Expected = Callable[[int], Array | None]


def missed(earlier: Look, standing: Mask, now: Look) -> list[npt.NDArray[np.int32]]:
    """Surfaces of the earlier look, as flat pixels, that the look of now sees through.

    standing bool [h, w]: of the earlier look, what is not ground. The largest first.
    """
    rays, intrinsics = kernel_numbers(earlier.camera)
    forward = rigid.invert(now.world_from_camera) @ earlier.world_from_camera
    through = np.zeros(earlier.depth.shape, np.int8)
    kernels.appeared(earlier.depth, rays, forward[:3].astype(np.float32), intrinsics, standing,
                     earlier.near, earlier.far, now.near, np.float32(TOLERANCE),
                     np.float32(MAX_DEPTH), through)
    labels, queue = np.empty(through.shape, np.int32), np.empty(through.size, np.int32)
    found, count = pieces_numba.connected(earlier.depth, through, np.float32(SURFACE_JUMP), labels,
                                          queue)
    sizes = np.bincount(labels.reshape(-1)[queue[:found]], minlength=count + 1)
    starts = np.concatenate([[0], np.cumsum(sizes[1:])])
    large = [k for k in np.argsort(-sizes[1:]) if sizes[k + 1] >= LEAST_PIXELS]
    return [queue[starts[k]:starts[k + 1]].copy() for k in large]


def went_away(now: Look, standing: Mask, earlier: Look, earlier_standing: Mask, labels: Labels,
              seconds: float, min_speed: float, up: Array, expected: Expected
              ) -> tuple[Piece, ...]:
    """Pieces of the look of now that are missed where they were in an earlier one.

    labels int32 [h, w]: pieces found otherwise; the new ones are added, by numbers above theirs.
    seconds: over which their displacement is told. up [3]: of the world.
    """
    pieces: list[Piece] = []
    between = (now.stamp_ns - earlier.stamp_ns) * 1e-9
    searched, number = 0, int(labels.max())
    for places in missed(earlier, earlier_standing, now):
        if searched == MOST_SEARCHED:
            break
        known = np.bincount(earlier.labels.reshape(-1)[places])
        guess = expected(int(np.argmax(known)))
        searched += guess is None
        points = points_of(earlier, cutout(places, earlier.depth.shape[1]))
        # Most known things have been found otherwise where they are expected.
        if guess is not None and len(_left(_pixels(now, standing, points + guess), labels)
                                     ) < LEAST_PIXELS:
            continue
        found = _way(now, earlier, points, up, guess)
        if found is None or np.linalg.norm(found.vector) < min_speed * between:
            continue
        own = _left(_pixels(now, standing, points - found.vector), labels)
        if len(own) < LEAST_PIXELS:
            continue
        number += 1
        labels.reshape(-1)[own] = number
        distance = float(np.linalg.norm(points.mean(axis=0) - now.world_from_camera[:3, 3]))
        pieces.append(Piece(number, len(own), len(own), -found.vector * (seconds / between),
                            np.full(3, 0.005 * distance * seconds / between), own, borne_out=True))
    return tuple(pieces)


def _way(now: Look, earlier: Look, points: Array, up: Array, guess: Array | None
         ) -> Displacement | None:
    """From now back to the earlier look [3] m; None where none is borne out."""
    step = max(1, len(points) // 500)
    search = DisplacementSearch(earlier, now, points[::step], None, up)
    found = search.best(np.zeros(3), REACH) if guess is None else search.best(-guess, NEAR)
    if found is None or found.cost > MOST_COST or (guess is None and found.doubt < LEAST_DOUBT):
        return None
    return found if found.cost + STAND_MARGIN < search.cost(np.zeros(3)) else None


def _left(places: npt.NDArray[np.int32], labels: Labels) -> npt.NDArray[np.int32]:
    """Those of some flat pixels that belong to no piece yet."""
    free: npt.NDArray[np.bool_] = labels.reshape(-1)[places] == 0
    return np.asarray(places[free], np.int32)


def _pixels(now: Look, standing: Mask, points: Array) -> npt.NDArray[np.int32]:
    """Flat pixels that show points [P, 3], and the rest of their surface near by."""
    _, intrinsics = kernel_numbers(now.camera)
    marks = np.zeros(now.depth.shape, np.int32)
    kernels.mark(np.ascontiguousarray(points.T, np.float32),
                 rigid.invert(now.world_from_camera)[:3].astype(np.float32), intrinsics, now.depth,
                 standing, np.float32(0.03), 1, np.int32(1), marks)
    # Only so far round them the surface is followed.
    top, bottom, left, right = pieces_numba.bounds(marks)
    top, left = max(top - SPREAD_PX, 0), max(left - SPREAD_PX, 0)
    part = np.s_[top:bottom + SPREAD_PX, left:right + SPREAD_PX]
    evidence: npt.NDArray[np.int8] = marks[part].astype(np.int8)
    decided = np.empty_like(evidence)
    pieces_numba.spread(np.ascontiguousarray(now.depth[part]),
                        np.ascontiguousarray(standing[part]), np.zeros(evidence.shape, np.int32),
                        np.float32(SURFACE_JUMP), SPREAD_PX, evidence, decided,
                        np.empty(evidence.size, np.int32))
    within = np.flatnonzero(decided == kernels.MOVING)
    rows, columns = within // len(evidence[0]), within % len(evidence[0])
    return np.asarray((rows + top) * len(marks[0]) + columns + left, np.int32)
