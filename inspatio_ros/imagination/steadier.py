# SPDX-License-Identifier: Apache-2.0
"""Guesses that hold from frame to frame, though each is made from its own frame alone."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from inspatio_ros.geometry import rigid
from inspatio_ros.geometry.camera import PinholeCamera
from inspatio_ros.imagination.exemplar_numba import carry

Float = npt.NDArray[np.float32]
Pose = npt.NDArray[np.float64]

_KEPT = 0.9  # share of the mean so far; the rest is the frame's own


class Steadier:
    """The mean of what is guessed along one way, taken where it stands in the world.

    An exponential mean of values that were brought to the present view by depth and motion of the
    camera (as temporal anti-aliasing does: Karis, High-Quality Temporal Supersampling, 2014).
    camera: of the guesses, which may be smaller than the pictures.
    """

    def __init__(self, camera: PinholeCamera) -> None:
        self._camera = camera
        grid = np.meshgrid(np.arange(camera.width, dtype=np.float32),
                           np.arange(camera.height, dtype=np.float32))
        self._grid: Float = np.dstack(grid).astype(np.float32)
        self._all = np.ones((camera.height, camera.width), np.bool_)
        self._before: tuple[Float, Pose] | None = None

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        held = 0 if self._before is None else self._before[0].nbytes
        return self._grid.nbytes + self._all.nbytes + held

    def add(self, guess: Float, depth: Float, world_from_camera: Pose) -> Float:
        """The mean float32 [H, W, C] up to a frame's guess of that shape.

        Calls follow the way. depth [h, w], any size of the same aspect, m; NaN where it is not
        known. world_from_camera [4, 4]. What the frame before did not show is the guess itself.
        Raises ValueError for another size.
        """
        if guess.shape[:2] != self._all.shape:
            raise ValueError(f"a guess of {guess.shape[1]}x{guess.shape[0]} pixels does not "
                             f"belong to a camera of {self._camera.width}x{self._camera.height}")
        steady = guess
        if self._before is not None:
            former, pose = self._before
            k, places = self._camera, np.empty_like(self._grid)
            carry(self._grid, self._all, np.ascontiguousarray(depth, np.float32), k.fx, k.fy,
                  k.cx, k.cy, np.ascontiguousarray(rigid.invert(pose) @ world_from_camera),
                  places)
            seen = np.isfinite(places[..., 0])
            places[~seen] = 0.0
            second_map: Any = None
            moved = cv2.remap(former, places, second_map, cv2.INTER_LINEAR)
            kept = np.where(seen, np.float32(_KEPT), np.float32(0.0))[..., None]
            steady = np.asarray(guess + kept * (moved.reshape(guess.shape) - guess), np.float32)
        self._before = steady, world_from_camera
        return steady
