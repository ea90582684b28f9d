# SPDX-License-Identifier: Apache-2.0
"""Draws things that move into a guide, each behind what stands nearer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import cv2
import numpy as np
import numpy.typing as npt

from inspatio_ros.geometry import rigid
from inspatio_ros.geometry.camera import PinholeCamera
from inspatio_ros.memory.guide import REDUCE_FROM, Guide, GuideRenderer
from inspatio_ros.memory.moving import Shown
from inspatio_ros.memory.surfaces import reduce_depth, tidy
from inspatio_ros.memory.tracks import Patch
from inspatio_ros.sensing.observation import Provenance

Float = npt.NDArray[np.float32]
Transform = npt.NDArray[np.float64]
Window = tuple[int, int, int, int]

# Relative depth by which what stands must be nearer to hide a thing.
NEARER = 0.03
_MARGIN_PX = 3


def draw_moving(
    renderer: GuideRenderer, guide: Guide, camera: PinholeCamera, world_from_camera: Transform,
    things: Sequence[Shown],
) -> Guide:
    """The guide with things drawn into it (its pictures are changed), by depth and certainty.

    A thing whose place is uncertain gives its colours, but no depth.
    """
    moving = np.zeros(guide.depth.shape, np.bool_)
    behind = np.where(guide.depth > 0, guide.depth, np.float32(np.inf))
    for thing in things:
        window = _window(thing, camera, world_from_camera)
        if window is None:
            continue
        x, y, width, height = window
        patch = _reduced(thing.patch, camera)
        image, depth = renderer.draw_surface(
            patch.image, patch.depth, patch.camera, thing.motion @ patch.world_from_camera,
            camera.cropped(x, y, width, height), world_from_camera)
        image, depth = tidy(image, depth, min_alike=-1)
        part = np.s_[y:y + height, x:x + width]
        with np.errstate(invalid="ignore"):
            shown = depth * (1 - NEARER) < behind[part]
        behind[part][shown] = depth[shown]
        moving[part] |= shown
        guide.image[part][shown] = image[shown]
        guide.provenance[part][shown] = thing.label
        sure = thing.label != Provenance.IMAGINED
        guide.depth[part][shown] = depth[shown] if sure else np.nan
        if guide.kept is not None:
            guide.kept[part][shown] = np.nan
    return replace(guide, moving=moving) if moving.any() else guide


def _window(thing: Shown, camera: PinholeCamera, world_from_camera: Transform) -> Window | None:
    """Where in the view (x, y, width, height) a thing may be seen; None: nowhere."""
    step = rigid.invert(world_from_camera) @ thing.motion
    points = rigid.transform_points(step, thing.patch.points.T.astype(np.float64))
    if not (points[:, 2] > 0.05).any():
        return None
    pixels, _ = camera.project(points[points[:, 2] > 0.05])
    # The points are a share of the surface: their neighbours may lie a little further out.
    low = np.floor(np.clip(pixels.min(axis=0), -1e5, 1e5)).astype(int) - _MARGIN_PX
    high = np.ceil(np.clip(pixels.max(axis=0), -1e5, 1e5)).astype(int) + _MARGIN_PX + 1
    if (points[:, 2] <= 0.05).any():
        low, high = np.zeros(2, int), np.array(camera.size)
    low, high = np.maximum(low, 0), np.minimum(high, camera.size)
    if (high <= low).any():
        return None
    return int(low[0]), int(low[1]), int(high[0] - low[0]), int(high[1] - low[1])


def _reduced(patch: Patch, camera: PinholeCamera) -> Patch:
    """The patch at about the resolution of the view, as references are."""
    source = patch.camera
    ratio = max(source.fx / camera.fx, source.fy / camera.fy)
    if ratio <= REDUCE_FROM:
        return patch
    size = (max(1, round(source.width / ratio)), max(1, round(source.height / ratio)))
    image = np.asarray(cv2.resize(patch.image, size, interpolation=cv2.INTER_AREA), np.uint8)
    return replace(patch, image=image, depth=reduce_depth(patch.depth, size),
                   camera=source.resized(*size))
