# SPDX-License-Identifier: Apache-2.0
"""Where an imagined view can be judged: the recording itself looked from nearly the same pose."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.spatial import cKDTree

Array = npt.NDArray[np.float64]
Picture = npt.NDArray[np.uint8]

# Pixels by which a thing in the foreground may lie elsewhere in the recorded view.
SAME_VIEW_PX = 2.0
# Of pictures that are equal, which have no noise at all.
MAX_PSNR = 99.0


def recorded_views(
    world_from_camera: Array, source_frames: npt.NDArray[np.int64], recorded: Array, *,
    foreground: float, focal: float,
) -> npt.NDArray[np.int64]:
    """For each view [T, 4, 4] the frame of the recording [S, 4, 4] from its pose, -1 without one.

    source_frames: [T] the frame it is made from, which is preferred where it is as near, for
    things move. foreground: depth and `focal`: px, that turn a motion into pixels of the picture.
    """
    tree = cKDTree(_places(recorded, foreground))
    targets = _places(world_from_camera, foreground)
    reach = SAME_VIEW_PX / focal
    distance, nearest = tree.query(targets, distance_upper_bound=reach)
    own = np.linalg.norm(targets - tree.data[source_frames], axis=1)
    found = np.where(np.isfinite(distance), nearest, -1).astype(np.int64)
    return np.where(own <= np.minimum(distance + 0.1 * reach, reach), source_frames, found)


def _places(poses: Array, foreground: float) -> Array:
    """Points [N, 12] whose distance is about the angle, radians, that things seem to move by."""
    turns = poses[:, :3, :3].reshape(-1, 9) / np.sqrt(2)
    return np.concatenate([poses[:, :3, 3] / foreground, turns], axis=1)


def error_of(image: Picture, truth: Picture) -> tuple[Picture, float, float]:
    """Mean colour error of each pixel uint8 [H, W], its mean in [0, 1], and PSNR in dB."""
    off = np.abs(image.astype(np.int16) - truth)
    mean_square = float((off.astype(np.float64) ** 2).mean())
    psnr = MAX_PSNR if mean_square == 0 else min(
        MAX_PSNR, float(10 * np.log10(255.0 ** 2 / mean_square)))
    return off.mean(axis=2).round().astype(np.uint8), float(off.mean() / 255), psnr
