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
from inspatio_ros.imagination.exemplar_numba import (
    NOWHERE,
    carry,
    fresh_cells,
    grow,
    paint,
    parallax,
    vary,
)

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
_MOST = 1000.0  # squared grey values: what differs more is not alike
_WORN = 2.0  # a place is looked up anew when it has come to cost so many times that limit
_TURNS = 8  # frames in which every cell is checked for that once
_RIM = 1.0  # cells from what was seen to full detail
_MOST_CELLS = 4000  # all are compared with all: 64 MB, and as much for what chance decides
_AROUND = 1  # cells around one that are compared with it
# Shares of the strength that was told, of the finer and the coarser band: what is not known costs
# the square of them.
_SHARES = 0.33, 1.0
# Real detail is strong in few places; what is told of it is a mean, and more even. It is made less
# so, times this power of its ratio to so many grey values (log2).
_UNEVEN, _EVEN = 0.3, 3.0
_GAIN = 4.0  # of detail at most
_FAINT = 1.0  # grey values of detail that are no structure to make stronger
_AROUND_STRENGTH = 25  # pixels of the guess around one over which strength is measured
# The guessed depth of a place, and with it its parallax, is off by a share of how much depths
# differ in the view (the deviation of their logarithm): by this next to what was seen, and by all
# of it so many picture widths away (benchmarks/guessed_depth.py), at most by so much of it.
_DOUBT, _DOUBTFUL, _MOST_DOUBT = 0.03, 0.37, 1.5
_SLIPS = 0.4  # cells that it may slip from frame to frame until its detail is half as strong
_SPARSE = 4  # pixels of depth from one that is looked at for this to the next
_BLURRED_SMALL = 3.0  # pixels of a blur from which on half the size does


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
        coarse = _blurred(picture, self._sigma)
        finer = picture.astype(np.float32) - coarse
        self._detail: Float = np.asarray(_STRONGEST * np.tanh(finer / _STRONGEST), np.float32)
        # Its two bands; while no strength is told all of it is in the first.
        self._bands: npt.NDArray[np.int8] = np.zeros((*picture.shape[:2], 6), np.int8)
        self._bands[..., :3] = np.rint(self._detail)
        self._power: Float | None = None
        self._grid = -(-camera.height // self._cell), -(-camera.width // self._cell)
        described = self._described(coarse)
        self._example = np.ascontiguousarray(np.column_stack(
            [described, np.ones(len(described), np.float32), np.square(described).sum(axis=1)]).T)
        self._turn = np.arange(self._grid[0] * self._grid[1]).reshape(self._grid) * 5 % _TURNS
        height, width = self._grid[0] * self._cell, self._grid[1] * self._cell
        # Which pixel of the example each one shows, x NaN for none; filled up to whole cells.
        self._places: Float = np.full((height, width, 2), np.nan, np.float32)
        self._before: Pose | None = None
        self._frame = 0

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        arrays = (self._detail, self._bands, self._example, self._turn, self._places, self._power)
        return sum(array.nbytes for array in arrays if array is not None)

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
        before = self._before
        self._follow(depth, world_from_camera, wanted)
        if not empty.any():
            return picture
        coarse = _blurred(picture, self._sigma)
        self._look_up(coarse, wanted)
        # Next to what was seen the guess is good, and of thin cracks there is nothing else.
        inside = np.asarray(cv2.distanceTransform(empty.astype(np.uint8), cv2.DIST_L2, 3),
                            np.float32)
        gains = self._trust(depth, before, inside)
        if strength is not None:
            told = self._gains(empty, strength)
            gains = told * cv2.resize(gains, told.shape[1::-1])[..., None]
        else:
            gains = np.ascontiguousarray(np.broadcast_to(gains[..., None], (*gains.shape, 2)))
        detailed = np.empty_like(picture)
        paint(np.ascontiguousarray(picture), coarse, inside, 1.0 / (_RIM * self._cell),
              self._places, self._bands, gains, detailed)
        return detailed

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
        # |a - b|^2 as one product of matrices
        left = np.column_stack([colors * -2.0, np.square(colors).sum(axis=1), np.ones(
            len(colors), np.float32)]).astype(np.float32)
        left /= colors.shape[1]
        costs = left @ self._example
        rows = np.full(self._grid, -1, np.int32)
        rows[asked] = np.arange(len(colors))
        # Much that looks alike does not all show the same piece.
        varied = np.empty_like(costs)
        vary(costs, _chances(rows.size), np.flatnonzero(asked), _VARIED, varied)
        best = varied.argmin(axis=1)
        grow(rows, costs, best, _SLACK, _FLOOR, _WORN, _MOST,
             self._cell, wanted, offsets, shown, self._places)

    def _trust(self, depth: Float, before: Pose | None, inside: Float) -> Float:
        """How far detail is to be shown, by cell [h, w], (0, 1]: less of what a wrong guess of
        its depth leads far astray. inside [H, W]: pixels to what was seen."""
        moved: Float = np.zeros(self._grid, np.float32)
        if before is not None and self._before is not None:
            k = self._camera
            parallax(np.ascontiguousarray(depth, np.float32), k.fx, k.fy, k.cx, k.cy, k.width,
                     k.height, np.ascontiguousarray(rigid.invert(before) @ self._before), moved)
        reach = np.float32(_DOUBTFUL * self._camera.width)
        distance = cv2.resize(inside, self._grid[::-1], interpolation=cv2.INTER_NEAREST)
        doubt = _DOUBT + np.minimum(distance, _MOST_DOUBT * reach) / reach
        slips = moved * doubt * _spread(depth) / (_SLIPS * self._cell)
        return np.asarray(1.0 / (1.0 + np.square(slips)), np.float32)

    def _gains(self, empty: Mask, strength: Float) -> Float:
        """By what the bands of detail are multiplied to be as strong as was told, made less even
        and taken in shares: [h, w, 2].

        strength [h, w, 2]: log2 of grey values, at the size at which both are compared: what a
        blur of one pixel takes away there, and the rest.
        """
        height, width = strength.shape[:2]
        size, whole = (width, height), (empty.shape[1], empty.shape[0])
        if self._power is None or self._power.shape != strength.shape:
            self._power = self._split(size)
        places = cv2.resize(self._places[:whole[1], :whole[0]], size,
                            interpolation=cv2.INTER_NEAREST)
        places = np.nan_to_num(places, nan=NOWHERE) * np.array(
            [width / whole[0], height / whole[1]], np.float32)
        second_map: Any = None
        power = cv2.remap(self._power, places, second_map, cv2.INTER_LINEAR,
                          borderMode=cv2.BORDER_CONSTANT, borderValue=0)
        share = cv2.resize(empty.astype(np.float32), size, interpolation=cv2.INTER_AREA)
        around = (_AROUND_STRENGTH, _AROUND_STRENGTH)
        counted = np.maximum(cv2.blur(share, around), 1e-3)
        power = cv2.blur(power * share[..., None], around) / counted[..., None]
        uneven = strength + _UNEVEN * (strength - _EVEN)
        told = np.array(_SHARES, np.float32) * np.exp2(uneven)
        return np.asarray(np.minimum(told / np.sqrt(power + _FAINT**2), _GAIN), np.float32)

    def _split(self, size: tuple[int, int]) -> Float:
        """Sets apart the bands of the example's detail at this size (width, height); the squares
        of their grey values [h, w, 2] there."""
        detail = self._detail
        coarse = cv2.GaussianBlur(detail, (0, 0), detail.shape[1] / size[0])
        self._bands[..., :3] = np.rint(detail - coarse).clip(-128, 127)
        self._bands[..., 3:] = np.rint(coarse)
        greys = [cv2.resize(part.mean(axis=2), size, interpolation=cv2.INTER_AREA)
                 for part in (detail - coarse, coarse)]
        return np.ascontiguousarray(np.square(np.dstack(greys)), np.float32)

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


def _spread(depth: Float) -> float:
    """How much depths [h, w] differ: the deviation of their natural logarithm."""
    looked_at = depth[::_SPARSE, ::_SPARSE]
    known = looked_at[(looked_at > 0) & (looked_at < np.inf)]
    return float(np.log(known).std()) if len(known) else 0.0


def _blurred(picture: Image, sigma: float) -> Image:
    """`picture` blurred; widely at half the size, which is as good."""
    if sigma < _BLURRED_SMALL or min(picture.shape[:2]) < 2:
        return np.asarray(cv2.GaussianBlur(picture, (0, 0), sigma), np.uint8)
    whole = picture.shape[1], picture.shape[0]
    half = cv2.resize(picture, (whole[0] // 2, whole[1] // 2), interpolation=cv2.INTER_AREA)
    return np.asarray(cv2.resize(cv2.GaussianBlur(half, (0, 0), sigma / 2), whole), np.uint8)


@lru_cache(maxsize=2)
def _chances(cells: int) -> Float:
    """In [0, 1), the same in every run; what two cells share is the fraction of their sum."""
    return np.asarray(np.random.default_rng(0).random(cells, np.float32), np.float32)
