# SPDX-License-Identifier: Apache-2.0
"""Whether imagined views hold together: with what is remembered, and from view to view."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from inspatio_ros.geometry import rigid
from inspatio_ros.geometry.camera import PinholeCamera
from inspatio_ros.imagination.request import ImaginedFrame
from inspatio_ros.memory.guide import Guide
from inspatio_ros.memory.surfaces import extend_depth
from inspatio_ros.sensing.observation import Provenance

# Mean absolute colour error, of 1, at which nothing is consistent any more.
WORST_ERROR = 0.2
# A surface is the same in two views when its depths agree within this share.
_SAME_SURFACE = 0.15
# Pictures are compared at this width or less, pixels.
_WIDTH = 160


def future_consistency(frames: Sequence[ImaginedFrame]) -> float:
    """How far views imagined along one way agree, [0, 1]; NaN when nothing can be compared.

    frames: in order, in mode 'model', so that backed pixels show what the backend made of them.
    Two errors, mean absolute colour in [0, 1]: of backed pixels against the guide (what memory
    shows there), and of filled pixels against the view before in which the same place lies. Each
    pixel counts once, in pictures wider than 160 those of every so manyth row and column; the
    result falls from 1 at no error to 0 at 0.2.
    """
    frames = [_sampled(frame) for frame in frames]
    error, pixels = 0.0, 0
    for frame in frames:
        backed = frame.guide.provenance >= Provenance.MEMORY
        total, count = _difference(frame.image, frame.guide.image, backed)
        error, pixels = error + total, pixels + count
    depths = [extend_depth(frame.guide.shown_depth) for frame in frames]
    for index in range(1, len(frames)):
        total, count = _carried(frames[index - 1], depths[index - 1], frames[index],
                                depths[index])
        error, pixels = error + total, pixels + count
    if pixels == 0:
        return math.nan
    return float(max(0.0, 1.0 - error / pixels / WORST_ERROR))


def _sampled(frame: ImaginedFrame) -> ImaginedFrame:
    """Every so manyth pixel of a frame: what is compared is the same, several times as fast."""
    step = math.ceil(frame.camera.width / _WIDTH)
    if step == 1:
        return frame
    guide, c = frame.guide, frame.camera

    def every(pixels: npt.NDArray[Any]) -> npt.NDArray[Any]:
        return np.ascontiguousarray(pixels[::step, ::step])

    image = every(frame.image)
    camera = PinholeCamera(image.shape[1], image.shape[0], c.fx / step, c.fy / step, c.cx / step,
                           c.cy / step)
    # The depth of what is shown: nothing else is asked of it.
    return replace(frame, image=image, camera=camera, guide=Guide(
        every(guide.image), every(guide.shown_depth), every(guide.provenance)))


def _difference(a: npt.NDArray[np.uint8], b: npt.NDArray[np.uint8],
                where: npt.NDArray[np.bool_]) -> tuple[float, int]:
    """Sum over pixels of the mean absolute colour difference, in [0, 1] each, and their number."""
    difference = cv2.absdiff(a, b)[where]
    return float(difference.sum(dtype=np.int64)) / 765.0, len(difference)


def _carried(
    before: ImaginedFrame, before_depth: npt.NDArray[np.float32], after: ImaginedFrame,
    after_depth: npt.NDArray[np.float32],
) -> tuple[float, int]:
    """The same of the filled pixels of a view against the view before."""
    filled = after.guide.provenance < Provenance.MEMORY
    if not filled.any():
        return 0.0, 0
    rows, columns = np.nonzero(filled)
    points = after.camera.rays()[rows, columns] * after_depth[rows, columns, None]
    step = rigid.invert(before.world_from_camera) @ after.world_from_camera
    moved = rigid.transform_points(step, points)
    pixels, depth = before.camera.project(moved)
    height, width = before_depth.shape
    with np.errstate(invalid="ignore"):
        inside = ((pixels >= 0) & (pixels <= (width - 1, height - 1))).all(axis=1)
    u, v = np.rint(pixels[inside]).astype(np.int64).T
    same = np.abs(before_depth[v, u] - depth[inside]) <= _SAME_SURFACE * depth[inside]
    u, v = u[same], v[same]
    here = after.image[rows[inside][same], columns[inside][same]]
    there = before.image[v, u]
    if len(here) == 0:
        return 0.0, 0
    return _difference(here[None], there[None], np.ones((1, len(here)), np.bool_))
