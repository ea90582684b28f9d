# SPDX-License-Identifier: Apache-2.0
"""Depth and cameras of a long video from a network that sees several pictures at once.

The network's memory grows with the square of the pictures, so they go through it in pieces that
overlap. Each piece comes in a frame and a unit of its own; the pictures that two pieces share tell
the similarity between them, and fade from one to the other.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from inspatio_ros.depth.depth_anything import EstimatedViews
from inspatio_ros.geometry import rigid
from inspatio_ros.geometry.camera import PinholeCamera

Array = npt.NDArray[np.float64]
Depth = npt.NDArray[np.float32]
Picture = npt.NDArray[np.uint8]

# Pixels of a picture that are enough to tell a ratio of depths.
_MIN_SHARED = 50


class JointView(NamedTuple):
    """A picture with its depth float32 [H, W], NaN unknown, its camera and world_from_camera."""

    image: Picture
    depth: Depth
    camera: PinholeCamera
    world_from_camera: Array


def joint_views(
    pictures: Iterable[Picture], estimate: Callable[[Sequence[Picture]], EstimatedViews], *,
    chunk: int = 32, overlap: int = 8,
) -> Iterator[JointView]:
    """One view a picture, in order, all in the frame and unit of the first piece.

    estimate: depth and cameras of at most `chunk` pictures. overlap: pictures that two pieces
    share. No more than chunk + overlap views are held. Raises ValueError when the pieces cannot
    be joined.
    """
    if not 1 <= overlap < chunk:
        raise ValueError(f"overlap {overlap} is not in 1..{chunk - 1}")
    held: list[JointView] = []  # the shared pictures as the piece before sees them
    waiting: list[Picture] = []
    for picture in pictures:
        waiting.append(picture)
        if len(held) + len(waiting) == chunk:
            piece = _next_piece(held, waiting, estimate)
            yield from piece[:-overlap]
            held, waiting = piece[-overlap:], []
    yield from _next_piece(held, waiting, estimate) if waiting else held


def _next_piece(held: list[JointView], waiting: list[Picture],
                estimate: Callable[[Sequence[Picture]], EstimatedViews]) -> list[JointView]:
    """The held pictures and the waiting ones, in the frame and unit of those held."""
    images = [view.image for view in held] + waiting
    views = estimate(images)
    piece = [JointView(*view) for view in zip(
        images, views.depths, views.cameras, views.world_from_cameras, strict=True)]
    if not held:
        return piece
    scale = _scale([view.depth for view in held], [view.depth for view in piece])
    piece = [view._replace(depth=np.asarray(view.depth * np.float32(scale), np.float32),
                           world_from_camera=_scaled(view.world_from_camera, scale))
             for view in piece]
    move = _mean_move([view.world_from_camera for view in held],
                      [view.world_from_camera for view in piece[:len(held)]])
    piece = [view._replace(world_from_camera=move @ view.world_from_camera) for view in piece]
    for number, before in enumerate(held):
        piece[number] = _faded(before, piece[number], (number + 1) / (len(held) + 1))
    return piece


def _scale(before: Sequence[Depth], after: Sequence[Depth]) -> float:
    """The ratio of depths of the same pictures, the median of all pixels."""
    ratios = []
    for old, new in zip(before, after, strict=False):
        known = (old > 0) & (new > 0)
        ratios.append(np.log(old[known] / new[known]))
    shared = np.concatenate(ratios)
    if len(shared) < _MIN_SHARED:
        raise ValueError("the pictures that two pieces of the video share have no depth in "
                         "common: they cannot be joined")
    return math.exp(float(np.median(shared)))


def _scaled(transform: Array, scale: float) -> Array:
    result = transform.copy()
    result[:3, 3] *= scale
    return result


def _mean_move(before: Sequence[Array], after: Sequence[Array]) -> Array:
    """The rigid motion that brings the poses `after` to those `before`, least squares."""
    turns = sum(old[:3, :3] @ new[:3, :3].T for old, new in zip(before, after, strict=True))
    left, _, right = np.linalg.svd(turns)
    sign = np.diag([1.0, 1.0, np.linalg.det(left @ right)])
    rotation = left @ sign @ right
    shift = np.mean([old[:3, 3] - rotation @ new[:3, 3]
                     for old, new in zip(before, after, strict=True)], axis=0)
    return rigid.from_rotation(rotation, shift)


def _faded(before: JointView, after: JointView, share: float) -> JointView:
    """Between two views of one picture, `share` of the second; depth as ratios."""
    old, new = before.depth, after.depth
    both = (old > 0) & (new > 0)
    with np.errstate(invalid="ignore", divide="ignore"):
        mixed = np.exp((1 - share) * np.log(old) + share * np.log(new))
    depth = np.where(both, mixed, np.where(old > 0, old, new))
    pose = rigid.interpolate(
        (0.0, 1.0), np.stack([before.world_from_camera, after.world_from_camera]), (share,))[0]
    return JointView(before.image, np.asarray(depth, np.float32), before.camera, pose)
