# SPDX-License-Identifier: Apache-2.0
"""Detail by example: invented surfaces get the fine structure of a real picture.

Whoever guesses and is judged by squared errors draws smooth surfaces. What such a guess looks like
coarsely is looked up in the newest real picture, and what that picture has beyond the coarse is
added, its edges subdued (Freeman, Jones and Pasztor, Example-Based Super-Resolution, 2002; patches
that go on where their neighbours' do: Ashikhmin, Synthesizing Natural Textures, 2001). What a
place shows is followed through the frames by depth and motion of the camera, so that it stands
still in the world.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from inspatio_ros.geometry import rigid
from inspatio_ros.geometry.camera import PinholeCamera
from inspatio_ros.imagination.exemplar_numba import carry, fresh_cells, grow

Image = npt.NDArray[np.uint8]
Mask = npt.NDArray[np.bool_]
Float = npt.NDArray[np.float32]
Pose = npt.NDArray[np.float64]

# Grey values that detail approaches at most: edges of the example seldom fall where the truth has
# some, and cost the most where they do not.
_STRONGEST = 36.0
# Grey values that count as much as all the picture's height between two places: what stands
# level is seen from as far and as steeply.
_LEVEL = 25.0
# A neighbour's place is good enough up to so many times the best cost, and squared grey values.
_SLACK, _FLOOR = 1.5, 200.0
_VARIED = 100.0  # squared grey values by which chance decides between what is alike
_MOST = 400.0  # squared grey values: what differs more is not alike
_WORN = 2.0  # a place is looked up anew when it has come to cost so many times that limit
_TURNS = 8  # frames in which every cell is checked for that once
_RIM = 1.0  # cells from what was seen to full detail
_MOST_CELLS = 4000  # all are compared with all: 64 MB, and as much for what chance decides
_AROUND = 1  # cells around one that are compared with it
# Shares of the strength that was told, of the finer and the coarser band: what is not known costs
# the square of them.
_SHARES = 0.3, 0.9
_GAIN = 3.0  # of detail at most
_GREY = np.full((1, 3), 1.0 / 3.0, np.float32)
_FAINT = 1.0  # grey values of detail that are no structure to make stronger
_AROUND_STRENGTH = 25  # pixels of the guess around one over which strength is measured
_MIDDLE = 128  # grey value that stands for no detail


class Exemplar:
    """The detail of one imagined way.

    picture: uint8 RGB [H, W, 3], the real one, as large as the camera's. coarseness: how many
    pixels of it one pixel of the guess stands for; detail is what is finer than two of these.
    Raises ValueError when sizes differ.
    """

    def __init__(self, picture: Image, camera: PinholeCamera, coarseness: float) -> None:
        if picture.shape[:2] != (camera.height, camera.width):
            raise ValueError(f"an example of {picture.shape[1]}x{picture.shape[0]} pixels does "
                             f"not belong to a camera of {camera.width}x{camera.height}")
        self._camera = camera
        cell = max(2, 2 * round(2.0 * coarseness),
                   math.ceil(math.sqrt(camera.width * camera.height / _MOST_CELLS)))
        # Pictures of few pixels still have several cells.
        self._cell = max(1, min(cell, camera.width // 4, camera.height // 4))
        self._sigma = max(self._cell / 2.0, 0.5)
        coarse: Image = np.asarray(cv2.GaussianBlur(picture, (0, 0), self._sigma), np.uint8)
        finer = picture.astype(np.float32) - coarse
        self._detail: Image = np.asarray(
            np.rint(_MIDDLE + _STRONGEST * np.tanh(finer / _STRONGEST)), np.uint8)
        self._grid = -(-camera.height // self._cell), -(-camera.width // self._cell)
        self._example = self._described(coarse)
        self._weight = np.square(self._example).sum(axis=1)
        self._turn = np.arange(self._grid[0] * self._grid[1]).reshape(self._grid) * 5 % _TURNS
        height, width = self._grid[0] * self._cell, self._grid[1] * self._cell
        # Which pixel of the example each one shows, x NaN for none; filled up to whole cells.
        self._places: Float = np.full((height, width, 2), np.nan, np.float32)
        self._before: Pose | None = None
        self._frame = 0

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        arrays = (self._detail, self._example, self._weight, self._turn, self._places)
        return sum(array.nbytes for array in arrays)

    def add(self, picture: Image, empty: Mask, depth: Float, world_from_camera: Pose,
            strength: Float | None = None) -> Image:
        """The uint8 RGB [H, W, 3] picture with detail where bool `empty` [H, W] holds.

        Calls follow the way. depth [h, w], any size of the same aspect: m, by which what was
        shown is followed from the frame before; NaN where it is not known. world_from_camera
        [4, 4]: where the picture is seen from. strength [h, w, 2], of the guess: how strong detail
        should be, log2 of grey values in two bands (model.finisher.detail_strength); None: as
        strong as the example's. Raises ValueError for another size.
        """
        camera = self._camera
        if picture.shape[:2] != (camera.height, camera.width) or (
                empty.shape != picture.shape[:2]):
            raise ValueError(f"detail for {camera.width}x{camera.height} pixels cannot be added "
                             f"to a picture of {picture.shape} with holes of {empty.shape}")
        # Some way beyond the holes too, where they will be next.
        around = cv2.dilate(empty.astype(np.uint8), np.ones((3, 3), np.uint8),
                            iterations=self._cell // 2)
        below, right = np.subtract(self._places.shape[:2], empty.shape)
        wanted = np.pad(around > 0, ((0, below), (0, right)), mode="edge")
        self._follow(depth, world_from_camera, wanted)
        if not empty.any():
            return picture
        coarse: Image = np.asarray(cv2.GaussianBlur(picture, (0, 0), self._sigma), np.uint8)
        self._look_up(coarse, wanted)
        places = self._places[:camera.height, :camera.width]
        second_map: Any = None
        shown = cv2.remap(self._detail, places, second_map, cv2.INTER_LINEAR,
                          borderMode=cv2.BORDER_CONSTANT, borderValue=(_MIDDLE,) * 3)
        if strength is None:
            detailed = cv2.addWeighted(coarse, 1.0, shown, 1.0, -_MIDDLE)
        else:
            detail = _as_strong(shown.astype(np.float32) - _MIDDLE, empty, strength)
            detailed = np.asarray(np.rint(coarse + detail).clip(0, 255), np.uint8)
        # Next to what was seen the guess is good, and of thin cracks there is nothing else.
        inside = cv2.distanceTransform(empty.astype(np.uint8), cv2.DIST_L2, 3)
        weight = np.minimum(inside / (_RIM * self._cell), 1.0)
        inner = cv2.blendLinear(detailed, coarse, weight, 1.0 - weight)
        return np.asarray(np.where(empty[..., None], inner, picture), np.uint8)

    def _follow(self, depth: Float, world_from_camera: Pose, wanted: Mask) -> None:
        """What was shown in the frame before, where it is now; the rest is forgotten."""
        before, self._before = self._before, world_from_camera
        if before is None:
            return
        k, places = self._camera, np.empty_like(self._places)
        carry(self._places, wanted, np.ascontiguousarray(depth, np.float32), k.fx, k.fy, k.cx,
              k.cy, np.ascontiguousarray(rigid.invert(before) @ world_from_camera), places)
        self._places = places

    def _look_up(self, coarse: Image, wanted: Mask) -> None:
        """Places in the example for what shows nothing yet, or what fits no longer."""
        offsets: Float = np.zeros((*self._grid, 2), np.float32)
        fresh, shown = np.zeros(self._grid, np.bool_), np.zeros(self._grid, np.bool_)
        fresh_cells(self._places, wanted, self._cell, offsets, shown, fresh)
        asked = fresh | (shown & (self._turn == self._frame % _TURNS))
        self._frame += 1
        if not asked.any():
            return
        colors = self._described(coarse)[asked.ravel()]
        costs = colors @ self._example.T
        costs *= -2.0
        costs += self._weight
        costs += np.square(colors).sum(axis=1)[:, None]
        np.maximum(costs, 0.0, out=costs)
        costs /= colors.shape[1]
        rows = np.full(self._grid, -1, np.int32)
        rows[asked] = np.arange(len(colors))
        # Much that looks alike does not all show the same piece.
        best = (costs + _chances(rows.size)[asked.ravel()]).argmin(axis=1)
        grow(rows, costs, best, _SLACK, _FLOOR, _WORN, _MOST,
             self._cell, wanted, offsets, shown, self._places)

    def _described(self, coarse: Image) -> Float:
        """Colours of every cell and those around it, and its height: [h w, 28], grey values."""
        height, width = self._grid
        cell = self._cell
        whole = cv2.copyMakeBorder(
            coarse, 0, height * cell - coarse.shape[0], 0, width * cell - coarse.shape[1],
            cv2.BORDER_REPLICATE)
        small = cv2.resize(whole, (width, height), interpolation=cv2.INTER_AREA)
        side = 2 * _AROUND + 1
        wide = cv2.copyMakeBorder(small, *(_AROUND,) * 4, cv2.BORDER_REPLICATE)
        windows = np.lib.stride_tricks.sliding_window_view(wide, (side, side), axis=(0, 1))
        colors = windows.reshape(height * width, -1).astype(np.float32)
        # Costs are means over the columns.
        level = np.float32(_LEVEL * math.sqrt(colors.shape[1] + 1) / height)
        rows = np.repeat(level * np.arange(height, dtype=np.float32), width)
        return np.ascontiguousarray(np.column_stack([colors, rows]))


def _as_strong(detail: Float, empty: Mask, strength: Float) -> Float:
    """Detail [H, W, 3] made as strong as was told, band by band and place by place.

    strength [h, w, 2]: log2 of grey values, at the size at which both are compared: what a blur of
    one pixel takes away there, and the rest.
    """
    size, whole = (strength.shape[1], strength.shape[0]), (detail.shape[1], detail.shape[0])
    coarse = cv2.GaussianBlur(detail, (0, 0), whole[0] / size[0])
    share = cv2.resize(empty.astype(np.float32), size, interpolation=cv2.INTER_AREA)
    around = (_AROUND_STRENGTH, _AROUND_STRENGTH)
    counted = np.maximum(cv2.blur(share, around), 1e-3)
    greys = [cv2.resize(cv2.transform(part, _GREY), size, interpolation=cv2.INTER_AREA)
             for part in (detail, coarse)]
    gains = []
    for band, (grey, kept) in enumerate(zip((greys[0] - greys[1], greys[1]), _SHARES,
                                            strict=True)):
        power = cv2.blur(np.square(grey) * share, around) / counted
        gain = kept * np.exp2(strength[..., band]) / np.sqrt(power + _FAINT**2)
        gains.append(cv2.resize(np.minimum(gain, _GAIN).astype(np.float32), whole,
                                interpolation=cv2.INTER_LINEAR))
    # fine * gain + coarse * gain, as fine is detail - coarse
    detail *= gains[0][..., None]
    coarse *= (gains[1] - gains[0])[..., None]
    return np.asarray(detail + coarse, np.float32)


@lru_cache(maxsize=2)
def _chances(cells: int) -> Float:
    """Squared grey values [cells, cells] by chance, the same in every run."""
    chance = np.random.default_rng(0).random(cells, np.float32)
    both = np.add.outer(chance, chance[::-1])
    return np.asarray(_VARIED * (both - np.floor(both)), np.float32)
