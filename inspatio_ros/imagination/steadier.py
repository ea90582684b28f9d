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
from inspatio_ros.imagination.steadier_numba import changed, last, settle

Image = npt.NDArray[np.uint8]
Mask = npt.NDArray[np.bool_]
Float = npt.NDArray[np.float32]
Pose = npt.NDArray[np.float64]

_KEPT = 0.7  # share of the mean so far; the rest is the frame's own
# The same of pictures: of what was imagined, and of what was seen and no longer is.
_LASTS, _SEEN_LASTS = 0.85, 0.75
_FADES = 0.8  # from frame to frame, how far a place that is seen no longer counts as seen
_ALIKE = 0.05  # relative depth within which it is the same place


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


class Lasting:
    """Pictures of one way whose unseen pixels go on with what was shown there before.

    An exponential mean as `Steadier`, but of whole pictures: a crack that opens in what was seen
    goes on showing it, and what is imagined anew comes in by and by. camera: of the pictures.
    """

    def __init__(self, camera: PinholeCamera) -> None:
        self._intrinsics = np.array([camera.fx, camera.fy, camera.cx, camera.cy])
        self._shape = camera.height, camera.width
        self._before: tuple[Float, Float, Float, Pose] | None = None

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return sum(part.nbytes for part in self._before or ())

    def add(self, picture: Image, added: tuple[Float, Float], seen: Mask, settled: Mask,
            depth: Float, world_from_camera: Pose) -> tuple[Image, Float]:
        """(picture uint8 [H, W, 3], how far what it shows was seen float32 [H, W], 0 to 1).

        Calls follow the way. picture uint8 [H, W, 3], as large as the camera's; added float32
        [H, W, 3]: to it where seen [H, W] holds, which stays so, and where not, which goes on with
        what was shown. settled [H, W]: pixels of which the picture is what is shown in the end.
        depth [h, w], any size of the same aspect, m; NaN where it is not known. world_from_camera
        [4, 4]. Raises ValueError for another size.
        """
        if picture.shape[:2] != self._shape or seen.shape != self._shape:
            raise ValueError(f"a picture of {picture.shape[1]}x{picture.shape[0]} pixels does not "
                             f"belong to a camera of {self._shape[1]}x{self._shape[0]}")
        drawn: Float = np.empty(picture.shape, np.float32)
        held: Float = np.empty(self._shape, np.float32)
        changed(picture, *added, seen, drawn, held)
        depth = np.ascontiguousarray(depth, np.float32)
        if self._before is not None:
            before, before_seen, before_depth, pose = self._before
            last(drawn, seen, depth, self._intrinsics, before, before_seen, before_depth,
                 np.ascontiguousarray(rigid.invert(pose) @ world_from_camera), _LASTS,
                 _SEEN_LASTS, _FADES, _ALIKE, held)
        shown = np.empty_like(picture)
        settle(drawn, picture, settled, shown)
        self._before = drawn, held, depth, world_from_camera
        return shown, held
