# SPDX-License-Identifier: Apache-2.0
"""What can be done with the newest frame alone; imagined views have to beat it.

Written apart from the memory's renderers on purpose: a baseline that shares their code would share
their mistakes.
"""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from inspatio_ros.geometry import rigid
from inspatio_ros.geometry.camera import PinholeCamera
from inspatio_ros.sensing.observation import Observation

Image = npt.NDArray[np.uint8]
Float = npt.NDArray[np.float32]

LAST_FRAME, SINGLE_WARP, CLASSICAL = "last_frame", "single_warp", "classical_fill"
BASELINES = (LAST_FRAME, SINGLE_WARP, CLASSICAL)

# How strongly near points outweigh far ones that land on the same pixel, as in InSpatio-World's
# warper; and the weight below which a pixel counts as not reached.
_SHARPNESS = 50.0
_LEAST_WEIGHT = 1e-4
_INPAINT_RADIUS = 3


def baselines(camera: PinholeCamera, world_from_camera: npt.NDArray[np.float64],
              newest: Observation) -> dict[str, Image]:
    """Each baseline's picture uint8 RGB [H, W, 3] of a view, by name.

    last_frame: the newest frame again. single_warp: its pixels forward-warped by their depth
    (bilinear, near before far), unreached pixels in the mean colour of the reached ones.
    classical_fill: the same warp, unreached pixels by inpainting (Telea 2004).
    """
    last = picture_of(newest, camera)
    step = rigid.invert(world_from_camera) @ newest.world_from_camera
    warped, reached = forward_warp(last, depth_of(newest, camera), camera, step)
    plain = warped.copy()
    if reached.any():
        plain[~reached] = np.rint(warped[reached].mean(axis=0)).astype(np.uint8)
    filled = cv2.inpaint(warped, (~reached).astype(np.uint8), _INPAINT_RADIUS, cv2.INPAINT_TELEA)
    return {LAST_FRAME: last, SINGLE_WARP: plain, CLASSICAL: np.asarray(filled, dtype=np.uint8)}


def picture_of(observation: Observation, camera: PinholeCamera) -> Image:
    """An observation's picture at the size of `camera`."""
    if observation.camera.size == camera.size:
        return observation.image
    resized = cv2.resize(observation.image, camera.size, interpolation=cv2.INTER_AREA)
    return np.asarray(resized, dtype=np.uint8)


def depth_of(observation: Observation, camera: PinholeCamera) -> Float:
    """An observation's depth at the size of `camera`; nearest, since a mean of two surfaces is
    none."""
    if observation.camera.size == camera.size:
        return observation.depth
    resized = cv2.resize(observation.depth, camera.size, interpolation=cv2.INTER_NEAREST)
    return np.asarray(resized, dtype=np.float32)


def forward_warp(image: Image, depth: Float, camera: PinholeCamera,
                 target_from_source: npt.NDArray[np.float64],
                 ) -> tuple[Image, npt.NDArray[np.bool_]]:
    """`image` as seen from elsewhere by the same camera, and where a point landed.

    Every pixel with a depth is spread bilinearly over the four pixels round where it lands;
    weights fall with the logarithm of depth, so that near points hide far ones.
    """
    known = depth > 0
    points = rigid.transform_points(target_from_source, camera.unproject(depth)[known])
    pixels, z = camera.project(points)
    inside = (z > 0) & np.isfinite(pixels).all(axis=1)
    pixels, z, colors = pixels[inside], z[inside], image[known][inside].astype(np.float64)
    total = np.zeros((camera.height, camera.width, 3))
    weights = np.zeros((camera.height, camera.width))
    if z.size:
        nearness = np.exp(-_SHARPNESS * np.log1p(z) / max(float(np.log1p(z).max()), 1e-9))
        nearness = nearness / nearness.max()
        corner = np.floor(pixels).astype(np.int64)
        part = pixels - corner
        for dy in (0, 1):
            for dx in (0, 1):
                share = (part[:, 0] if dx else 1 - part[:, 0]) * (
                    part[:, 1] if dy else 1 - part[:, 1])
                _spread(total, weights, corner + (dx, dy), colors, share, nearness)
    reached = weights > 0
    mean = total / np.where(reached, weights, 1.0)[..., None]
    return np.asarray(np.rint(mean), dtype=np.uint8), reached


def _spread(total: npt.NDArray[np.float64], weights: npt.NDArray[np.float64],
            pixels: npt.NDArray[np.int64], colors: npt.NDArray[np.float64],
            share: npt.NDArray[np.float64], nearness: npt.NDArray[np.float64]) -> None:
    height, width = weights.shape
    keep = ((pixels >= 0) & (pixels < (width, height))).all(axis=1) & (share > _LEAST_WEIGHT)
    flat = pixels[keep, 1] * width + pixels[keep, 0]
    weight = share[keep] * nearness[keep]
    weights += np.bincount(flat, weight, height * width).reshape(height, width)
    for channel in range(3):
        total[..., channel] += np.bincount(
            flat, weight * colors[keep, channel], height * width).reshape(height, width)
