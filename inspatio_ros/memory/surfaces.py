# SPDX-License-Identifier: Apache-2.0
"""Depth pictures mended: gaps closed, edges found, sizes reduced, the unmeasured guessed."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from inspatio_ros.memory import surfaces_numba as kernels
from inspatio_ros.memory.splatting import PARALLEL

Float = npt.NDArray[np.float32]
Byte = npt.NDArray[np.uint8]

# Relative depth difference up to which neighbouring depth pixels are one surface.
SURFACE_JUMP = 0.05
# Pixels at a larger jump than this may mix two surfaces and are not remembered.
EDGE_JUMP = 0.08
# Gaps in a depth picture up to twice as wide, less one, are closed, pixels.
GAP_REACH = 4
# Share of the picture's width over which the guess above everything measured becomes "far".
FAR_REACH = 0.02
# A fitted slope counts as much as a coarser one when what it rests on is so many cells squared.
RIDGE = 0.005
# The guess comes at most so many times nearer than nearly everything measured.
NEARER = 4.0
# Neighbours of like depth, of 24, that a drawn pixel needs to stay and an empty one to be filled.
MIN_ALIKE, FILL_ALIKE = 8, 12
ALIKE = 0.03


def close_gaps(depth: Float, reach: int = GAP_REACH, jump: float = SURFACE_JUMP) -> Float:
    """A depth picture with narrow gaps closed: between known pixels on opposite sides of a hole.

    Both within `reach` pixels and of like depth (relative `jump`), else they are no one surface.
    Interpolated in inverse depth, in which planes are linear; the mean over the four directions,
    nearer pairs weighing more. Unknown (NaN or not positive) stays where no pair agrees.
    """
    with PARALLEL:
        closed: Float = kernels.close_gaps(np.ascontiguousarray(depth), reach, np.float32(jump))
    return closed


def reduce_depth(depth: Float, size: tuple[int, int], jump: float = SURFACE_JUMP) -> Float:
    """Depth at a lower resolution (width, height): the mean of each window's nearest surface."""
    with PARALLEL:
        reduced: Float = kernels.reduce(np.ascontiguousarray(depth), *size, np.float32(jump))
    return reduced


def nearest_and_edges(
    depth: Float, jump: float = EDGE_JUMP
) -> tuple[Float, npt.NDArray[np.bool_]]:
    """The 3x3 minimum of known depths (NaN where the pixel itself is unknown), and the edges.

    An edge pixel has one of its 8 neighbours at a depth that differs by more than `jump`.
    """
    nearest = np.empty(depth.shape, np.float32)
    edges = np.empty(depth.shape, np.bool_)
    with PARALLEL:
        kernels.nearest_and_edges(np.ascontiguousarray(depth), np.float32(jump), nearest, edges)
    return nearest, edges


def tidy(image: Byte, depth: Float, min_alike: int = MIN_ALIKE) -> tuple[Byte, Float]:
    """A drawn view (image [H, W, 3], depth [H, W]) without lonely pixels and small holes.

    min_alike: a pixel with no more neighbours of like depth, of 24, goes; -1 keeps them all.
    """
    tidy_image, tidy_depth = np.empty_like(image), np.empty_like(depth)
    with PARALLEL:
        kernels.tidy(image, depth, np.float32(ALIKE), min_alike, FILL_ALIKE, tidy_image,
                     tidy_depth)
    return tidy_image, tidy_depth


def extend_depth(depth: Float) -> Float:
    """The depth of a drawn view without unknown pixels: a guess where nothing is shown.

    Surfaces go on as planes, whose inverse depth is linear in the picture: weighted fits over a
    pyramid, wide ones bringing their slopes to narrow ones, from the farthest known depth to
    `NEARER` times nearer than the nearest. All unknown stays so.
    """
    known = depth > 0
    if known.all() or not known.any():
        return depth
    inverse = np.where(known, 1 / np.where(known, depth, 1), 0).astype(np.float32)
    guess = np.empty_like(inverse)
    kernels.planes(inverse, RIDGE, guess)
    ends = inverse[known]
    margin = len(ends) // 50
    far, near = np.partition(ends, (margin, len(ends) - 1 - margin))[[margin, -1 - margin]]
    guess = np.clip(guess, far, near * NEARER)
    return np.where(known, depth, 1 / np.maximum(guess, 1e-4)).astype(np.float32)


def extend_sensor_depth(depth: Float) -> Float:
    """A sensor's own depth picture without unknown pixels: a smooth guess where it measured none.

    Inverse depth is carried into the unknown by weighted means over a pyramid: slopes of measured
    depth are too noisy to carry planes on, as `extend_depth` does. Above everything measured in
    its column, where lidar and stereo see sky and far roofs, the guess soon becomes the farthest
    depth measured. All unknown stays so.
    """
    known = depth > 0
    if known.all() or not known.any():
        return depth
    inverse = np.where(known, 1 / np.where(known, depth, 1), 0).astype(np.float32)
    levels = [(inverse, known.astype(np.float32))]
    while min(levels[-1][0].shape) > 1:
        values, weights = levels[-1]
        size = (-(-values.shape[1] // 2), -(-values.shape[0] // 2))
        mass = cv2.resize(weights, size, interpolation=cv2.INTER_AREA)
        mean = cv2.resize(values * weights, size, interpolation=cv2.INTER_AREA)
        levels.append((np.asarray(mean / np.maximum(mass, 1e-12), np.float32),
                       np.asarray(np.minimum(1.0, 4.0 * mass), np.float32)))
    guess = levels.pop()[0]
    for values, weights in reversed(levels):
        size = (values.shape[1], values.shape[0])
        guess = values * weights + (1 - weights) * cv2.resize(guess, size)
    below = np.maximum.accumulate(known, axis=0)
    if not below.all():
        far = np.partition(inverse[known], known.sum() // 50)[known.sum() // 50]
        distance = cv2.distanceTransform((~known).astype(np.uint8), cv2.DIST_L2, 3)
        near_share = np.exp(distance * (-1.0 / (FAR_REACH * depth.shape[1])))
        guess = np.where(below, guess, far + near_share * (guess - far))
    return np.where(known, depth, 1 / np.maximum(guess, 1e-4)).astype(np.float32)
