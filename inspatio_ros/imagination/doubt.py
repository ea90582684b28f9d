# SPDX-License-Identifier: Apache-2.0
"""How far guessed depth leads astray, and colours that are as sharp as that allows.

The error of a guess is a share of how much depths differ in the view, by distance from what was
measured (benchmarks/guessed_depth.py). What the camera's motion makes of it is an error in pixels:
by as much what is drawn at a guessed depth may be beside its true place.
"""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from inspatio_ros.geometry.camera import PinholeCamera
from inspatio_ros.imagination.exemplar_numba import mip, parallax
from inspatio_ros.memory.guide import Guide
from inspatio_ros.sensing.observation import Provenance

Image = npt.NDArray[np.uint8]
Float = npt.NDArray[np.float32]
Pose = npt.NDArray[np.float64]

# The guessed depth of a place, and with it its parallax, is off by a share of how much depths
# differ in the view (the deviation of their logarithm): by this next to what was seen, and by all
# of it so many picture widths away, at most by so much of it.
_DOUBT, _DOUBTFUL, _MOST_DOUBT = 0.03, 0.37, 1.5
_SPARSE = 4  # pixels of depth from one that is looked at for the spread to the next
# Pixels of blur (one deviation) for each pixel that a hint is expected to be beside its place.
_SOFTENED = 0.3
# Of what that takes away a share stays, in proportion to the level of blur up to this share and
# level: wrong detail costs the square of it, and the more octaves are gone the more it is worth.
_KEPT, _KEPT_LEVEL = 0.85, 2.8
_LEVELS = 5  # of a pyramid: a blur of 9 pixels at most
_PARALLAX_CELL = 4  # pixels for which parallax is told once


def doubt(distance: Float, depth: Float, width: int) -> Float:
    """By what share of it the parallax of places may be off, [h, w].

    distance [h, w]: pixels from what was measured, of a picture so many pixels wide. depth: m,
    the view's, of any size; NaN where it is not known.
    """
    reach = np.float32(_DOUBTFUL * width)
    share = _DOUBT + np.minimum(distance, _MOST_DOUBT * reach) / reach
    return np.asarray(share * np.float32(_spread(depth)), np.float32)


def softened(guide: Guide, camera: PinholeCamera, seen_from_now: Pose) -> Image:
    """The guide's picture uint8 [H, W, 3], its hints blurred as far as they may be misplaced.

    What may be beside its place is expected best as the mean of what is around it; some of its own
    detail is left. All else is as it was. camera: of the guide. seen_from_now [4, 4]: from the
    view to the one that the hints were seen from.
    """
    if guide.guessed is None or not (guide.guessed > 0).any():
        return guide.image
    hints = (guide.provenance == Provenance.IMAGINED) & (guide.guessed > 0)
    size = camera.width, camera.height
    depth = np.ascontiguousarray(guide.shown_depth, np.float32)
    cells = -(-camera.height // _PARALLAX_CELL), -(-camera.width // _PARALLAX_CELL)
    moved: Float = np.zeros(cells, np.float32)
    parallax(depth, camera.fx, camera.fy, camera.cx, camera.cy, *size,
             np.ascontiguousarray(seen_from_now), moved)
    unmeasured = (guide.provenance < Provenance.MEMORY).astype(np.uint8)
    distance = np.asarray(cv2.distanceTransform(unmeasured, cv2.DIST_L2, 3), np.float32)
    sigma = np.float32(_SOFTENED) * np.asarray(cv2.resize(moved, size), np.float32) * doubt(
        distance, depth, camera.width)
    # A pyramid's level k is blurred by sqrt((4^k - 1) / 3) pixels.
    levels = np.minimum(0.5 * np.log2(1.0 + 3.0 * np.square(sigma)), _LEVELS - 1.0)
    drawn = (hints | (unmeasured == 0)).astype(np.float32)
    finest: Float = np.empty((*drawn.shape, 4), np.float32)
    np.multiply(guide.image, drawn[..., None], out=finest[..., :3])
    finest[..., 3] = drawn
    pyramid = [finest]
    while len(pyramid) < _LEVELS:
        pyramid.append(np.asarray(cv2.pyrDown(pyramid[-1]), np.float32))
    picture = guide.image.copy()
    levels = np.asarray(levels, np.float32)
    kept = np.minimum(levels * np.float32(_KEPT / _KEPT_LEVEL), np.float32(_KEPT))
    mip(tuple(pyramid), levels, hints, kept, picture)
    return picture


def _spread(depth: Float) -> float:
    """How much depths [h, w] differ: the deviation of their natural logarithm."""
    looked_at = depth[::_SPARSE, ::_SPARSE]
    known = looked_at[(looked_at > 0) & (looked_at < np.inf)]
    return float(np.log(known).std()) if len(known) else 0.0
