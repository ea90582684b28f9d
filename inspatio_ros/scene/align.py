# SPDX-License-Identifier: Apache-2.0
"""Estimated depth of imagined pictures brought to the depth that is known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from inspatio_ros.depth.alignment import align_inverse_depth
from inspatio_ros.depth.estimator import DepthEstimator
from inspatio_ros.geometry import rigid
from inspatio_ros.geometry.similarity import Similarity, robust_similarity
from inspatio_ros.memory.imagined_points import ImaginedView
from inspatio_ros.sensing.observation import Observation

Float = npt.NDArray[np.float32]

# Relative depth error up to which an estimated pixel agrees with the known one.
_TOLERANCE = 0.1
# Pixels of each view that a clip is aligned by.
_PIXELS = 2000


def estimated_view(view: ImaginedView, estimator: DepthEstimator) -> ImaginedView:
    """The view with depth estimated from its picture, at the scale and shift of its known depth.

    Robust scale and shift in inverse depth, as HY-World 2.0 aligns views to its cloud (arXiv
    2604.14268). The view as it is when the estimate does not fit what is known.
    """
    estimate = estimator.estimate(view.image, view.camera)
    relative = 1 / np.maximum(estimate, 1e-6) if estimator.is_metric else estimate
    try:
        fit = align_inverse_depth(relative, view.depth, tolerance=_TOLERANCE)
    except ValueError:
        return view
    return replace(view, estimated=fit.depth(relative))


def aligned_clip(
    estimated: Sequence[Observation], known: Sequence[tuple[Float, npt.NDArray[np.float64]]],
) -> tuple[list[Observation], Similarity]:
    """A clip whose depth and cameras were estimated together, brought to where the scene knows it.

    estimated: views in a world and a unit of their own. known: of each view the depth float32
    [H, W] m that the scene knows, NaN elsewhere, and the pose in the scene that the view was made
    for. One similarity for the whole clip (Umeyama 1991) from the pixels that both know, as
    WorldStereo merges what it generated (arXiv 2603.02049). Returns the views in the scene, and
    it. Raises ValueError when they do not fit.
    """
    sources, targets, limits = [], [], []
    for view, (depth, pose) in zip(estimated, known, strict=True):
        both = np.flatnonzero((view.depth > 0) & (depth > 0))
        both = both[::max(1, len(both) // _PIXELS)]
        sources.append(rigid.transform_points(
            view.world_from_camera, view.camera.unproject(view.depth).reshape(-1, 3)[both]))
        targets.append(rigid.transform_points(
            pose, view.camera.unproject(depth).reshape(-1, 3)[both]))
        limits.append(_TOLERANCE * depth.reshape(-1)[both])
    found = robust_similarity(np.concatenate(sources), np.concatenate(targets),
                              np.concatenate(limits))
    moved = [replace(view, depth=(view.depth * np.float32(found.scale)),
                     world_from_camera=found.poses(view.world_from_camera))
             for view in estimated]
    return moved, found
