# SPDX-License-Identifier: Apache-2.0
"""Flat photographs standing in space: real appearance with exact colour and depth.

A background photograph fills a wall far away, cut-outs of others stand nearer. Every view is the
exact one (planes under a pinhole camera), so that warps of one view have a true answer, with real
texture, silhouettes and disocclusion.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from inspatio_ros.geometry.camera import PinholeCamera
from inspatio_ros.worlds.world import View

Image = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Billboard:
    """A photograph on a plane z = distance of the world's optical axes.

    image uint8 RGB [H, W, 3]; opacity uint8 [H, W], 0 where nothing stands, 255 where it does.
    width: m over the whole picture. center: (x, y) m of its middle. endless: whether the picture
    goes on beyond its border by reflection (a background), else there is nothing.
    """

    image: Image
    opacity: npt.NDArray[np.uint8]
    distance: float
    width: float
    center: tuple[float, float] = (0.0, 0.0)
    endless: bool = False


class PhotographWorld:
    """Billboards, drawn from the farthest to the nearest."""

    def __init__(self, billboards: list[Billboard]) -> None:
        if not billboards:
            raise ValueError("a photograph world needs at least one billboard")
        self.billboards = sorted(billboards, key=lambda b: -b.distance)

    def render(self, camera: PinholeCamera, world_from_camera: npt.NDArray[np.float64],
               time: float = 0.0) -> View:
        """The exact view of a camera [4, 4] that is in front of all billboards.

        Depth is NaN, ids -1 and colour black where no billboard stands; ids count from the
        farthest billboard. Raises ValueError when a billboard is not in front of the camera.
        """
        image = np.zeros((camera.height, camera.width, 3), np.uint8)
        depth = np.full((camera.height, camera.width), np.nan, np.float32)
        ids = np.full((camera.height, camera.width), -1, np.int32)
        rays = _rays(camera) @ world_from_camera[:3, :3].T
        origin = world_from_camera[:3, 3]
        for index, board in enumerate(self.billboards):
            ahead = board.distance - origin[2]
            if ahead <= 0.0:
                raise ValueError(f"the camera stands behind the billboard at {board.distance} m")
            towards = rays[..., 2]
            reach = np.where(towards > 1e-6, ahead / np.maximum(towards, 1e-6), np.inf)
            scale = board.image.shape[1] / board.width
            x = (origin[0] + reach * rays[..., 0] - board.center[0]) * scale
            y = (origin[1] + reach * rays[..., 1] - board.center[1]) * scale
            height, width = board.image.shape[:2]
            with np.errstate(invalid="ignore"):
                map_x = np.where(np.isfinite(x), x + width / 2 - 0.5, -1e6).astype(np.float32)
                map_y = np.where(np.isfinite(y), y + height / 2 - 0.5, -1e6).astype(np.float32)
            source, mask = _minified(board, map_x, map_y)
            factor = source.shape[1] / width
            map_x, map_y = (map_x + 0.5) * factor - 0.5, (map_y + 0.5) * factor - 0.5
            border = cv2.BORDER_REFLECT if board.endless else cv2.BORDER_CONSTANT
            colors = cv2.remap(source, map_x, map_y, cv2.INTER_LINEAR, borderMode=border)
            solid = cv2.remap(mask, map_x, map_y, cv2.INTER_LINEAR, borderMode=border)
            stands = (solid >= 128) & (towards > 1e-6)
            image[stands] = colors[stands]
            depth[stands] = reach[stands]
            ids[stands] = index
        return View(image, depth, ids, camera, np.array(world_from_camera), float(time))


def _rays(camera: PinholeCamera) -> npt.NDArray[np.float64]:
    """Directions [H, W, 3] of the pixels' centres with z = 1, so that lengths are z-depths."""
    x = (np.arange(camera.width) - camera.cx) / camera.fx
    y = (np.arange(camera.height) - camera.cy) / camera.fy
    grid_x, grid_y = np.meshgrid(x, y)
    return np.stack([grid_x, grid_y, np.ones_like(grid_x)], axis=-1)


def _minified(board: Billboard, map_x: npt.NDArray[np.float32],
              map_y: npt.NDArray[np.float32]) -> tuple[Image, npt.NDArray[np.uint8]]:
    """The picture and its opacity, made smaller by means where a pixel spans several of them."""
    step = float(np.median(np.hypot(np.diff(map_x, axis=1)[:-1], np.diff(map_y, axis=1)[:-1])))
    factor = min(1.0, 1.0 / max(step, 1e-6))
    if factor > 0.7:
        return board.image, board.opacity
    size = (max(2, round(board.image.shape[1] * factor)),
            max(2, round(board.image.shape[0] * factor)))
    return (np.asarray(cv2.resize(board.image, size, interpolation=cv2.INTER_AREA), np.uint8),
            np.asarray(cv2.resize(board.opacity, size, interpolation=cv2.INTER_AREA), np.uint8))


def photograph_world(photographs: list[Image], seed: int) -> PhotographWorld:
    """A background and up to three cut-outs, chosen and placed by `seed`.

    photographs: uint8 RGB [H, W, 3]. The cameras of `photograph_path` see it.
    """
    rng = np.random.default_rng(seed)
    background = photographs[int(rng.integers(len(photographs)))]
    distance = float(rng.uniform(3.0, 12.0))
    boards = [Billboard(background, np.full(background.shape[:2], 255, np.uint8), distance,
                        distance * float(rng.uniform(2.2, 3.6)), endless=True)]
    for _ in range(int(rng.integers(0, 4))):
        picture = photographs[int(rng.integers(len(photographs)))]
        near = float(rng.uniform(1.3, 0.75 * distance))
        width = near * float(rng.uniform(0.25, 0.8))
        center = (near * float(rng.uniform(-0.9, 0.9)), near * float(rng.uniform(-0.35, 0.45)))
        boards.append(Billboard(picture, _blob(picture.shape[:2], rng), near, width, center))
    return PhotographWorld(boards)


def _blob(shape: tuple[int, int], rng: np.random.Generator) -> npt.NDArray[np.uint8]:
    """A random closed outline: a rectangle, or a wavy round shape."""
    height, width = shape
    mask = np.zeros(shape, np.uint8)
    if rng.uniform() < 0.4:
        mask[height // 8:, width // 6:-width // 6] = 255
        return mask
    angles = np.linspace(0, 2 * np.pi, 48, endpoint=False)
    radius = 0.7 + sum(rng.uniform(0, 0.3) / k * np.cos(k * angles + rng.uniform(0, 6.3))
                       for k in range(1, 7))
    points = np.stack([width / 2 * (1 + 0.75 * radius * np.cos(angles)),
                       height / 2 * (1 + 0.75 * radius * np.sin(angles))], axis=-1)
    cv2.fillPoly(mask, [np.rint(points).astype(np.int32)], 255)
    return mask
