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
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from inspatio_ros.geometry import rigid
from inspatio_ros.geometry.camera import PinholeCamera
from inspatio_ros.imagination.doubt import doubt
from inspatio_ros.imagination.exemplar_numba import (
    carry,
    fresh_cells,
    grow,
    paint,
    parallax,
    sample,
    vary,
)
from inspatio_ros.memory.guide import Guide
from inspatio_ros.memory.seen_again import parallax_octave
from inspatio_ros.memory.usual_detail import detail_level

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
_WORN = 4.0  # a place is looked up anew when it has come to cost so many times that limit
_TURNS = 8  # frames in which every cell is checked for that once
_RIM = 1.0  # cells from what was seen over which detail begins
_MOST_CELLS = 4000  # all are compared with all: 64 MB, and as much for what chance decides
_AROUND = 1  # cells around one that are compared with it
# Shares of the example's own strength that bands are shown with at most, finest first: edges are
# subdued, and every step from the example to the picture smooths. The coarsest costs the most.
_SHARES = 1.5, 1.8, 1.2
# What is not known costs its square. Each band may cost this share of the squared error that
# guesses of the picture have anyway some cells from what was seen, if that is so many squared grey
# values; a greater share, by a power of it, where it is greater: there a guess is smooth because
# nothing is known. Within a picture it goes with another power of the error of each place: the
# more even, the more detail there is for the same cost, but next to what was seen little is asked.
_BUDGET, _USUAL_ERROR, _CELLS_AWAY, _GROWTH, _WITHIN = 0.055, 500.0, 8, 0.6, 0.5
# A guess errs at least so many times as much as what was seen does where it is seen again.
_NO_BETTER = 3.0
_BROAD = 2.0  # what is coarser than so many times the blur of the guess is no detail
# Detail of a place is as strong as where it is from to this power times what is usual in the
# picture: hardly more can be told of how strong it should be.
_UNEVEN = 0.7
_GAIN = 4.0  # of detail at most
_FAINT = 1.0  # grey values of detail that are no structure to make stronger
_AROUND_POWER = 5  # cells around one over which strength is measured
_FACTOR = 2.0  # by which the example's strength may differ from what is usual
# Cells that a place may slip from frame to frame until the detail of a band is half as strong.
_SLIPS = 0.4, 0.45, 0.8
# By how much it may slip: what its guessed depth and that of the nearest place seen differ by,
# and this share of what guesses are off by at such a distance (see `doubt`).
_DOUBTED = 0.5
_BLURRED_SMALL = 3.0  # pixels of a blur from which on half the size does


@dataclass(frozen=True, eq=False)
class Experience:
    """What a memory tells of all it saw: `Guide.usual_detail` and `Guide.seen_again`."""

    usual_detail: float | None = None
    seen_again: Float | None = None

    @staticmethod
    def of(guide: Guide) -> Experience:
        """Told by a guide."""
        return Experience(guide.usual_detail, guide.seen_again)


class Exemplar:
    """The detail of one imagined way.

    picture: uint8 RGB [H, W, 3], the real one, as large as the camera's. coarseness: how many
    pixels of it one pixel of the guess stands for; detail is what is finer than four of these.
    experience: how strong detail usually is (else the picture's own counts), and how far what was
    seen is off where it is seen again (else not at all), which needs the pose that the picture was
    taken from, world_from_camera [4, 4]. Raises ValueError when sizes differ.
    """

    def __init__(self, picture: Image, camera: PinholeCamera, coarseness: float,
                 experience: Experience | None = None,
                 world_from_camera: Pose | None = None) -> None:
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
        finer = picture.astype(np.float32) - _blurred(picture, self._sigma * _BROAD)
        detail: Float = np.asarray(_STRONGEST * np.tanh(finer / _STRONGEST), np.float32)
        # Bands: what a blur of one pixel of the guess takes away, what one of half a cell does,
        # the rest.
        broad = [np.asarray(cv2.GaussianBlur(detail, (0, 0), sigma), np.float32)
                 for sigma in (max(coarseness, 0.5), self._sigma)]
        bands = [detail - broad[0], broad[0] - broad[1], broad[1]]
        self._bands: list[npt.NDArray[np.int8]] = [
            np.rint(band).clip(-128, 127).astype(np.int8) for band in bands]
        self._grid = -(-camera.height // self._cell), -(-camera.width // self._cell)
        described = self._described(coarse)
        self._example = np.ascontiguousarray(np.column_stack(
            [described, np.ones(len(described), np.float32), np.square(described).sum(axis=1)]).T)
        greys = [self._cells(band.mean(axis=2) ** 2) for band in bands]
        self._power: Float = np.ascontiguousarray(np.dstack(greys), np.float32)
        self._errors = _expected_errors(self._cells(coarse))
        usual = None if experience is None else experience.usual_detail
        factor = 1.0 if usual is None else usual / detail_level(picture)
        self._shares = np.array(_SHARES, np.float32) * np.float32(
            min(max(factor, 1.0 / _FACTOR), _FACTOR))
        self._turn = np.arange(self._grid[0] * self._grid[1]).reshape(self._grid) * 5 % _TURNS
        height, width = self._grid[0] * self._cell, self._grid[1] * self._cell
        # Which pixel of the example each one shows, x NaN for none; filled up to whole cells.
        self._places: Float = np.full((height, width, 2), np.nan, np.float32)
        self._before: Pose | None = None
        self._frame = 0
        self._again = None if experience is None else experience.seen_again
        self._taken_from = world_from_camera

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return sum(array.nbytes for array in (
            *self._bands, self._example, self._turn, self._places, self._power, self._errors,
            self._shares))

    def add(self, picture: Image, empty: Mask, depth: Float, world_from_camera: Pose,
            plain: Float | None = None) -> Image:
        """The uint8 RGB [H, W, 3] picture with detail where bool `empty` [H, W] holds.

        Calls follow the way. depth [h, w], any size of the same aspect: m, by which what was
        shown is followed from the frame before; NaN where it is not known. world_from_camera
        [4, 4]: where the picture is seen from. plain float32 [H, W]: share of it that stays as it
        is, in [0, 1]; 0 when not given. Raises ValueError for another size.
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
        inside = np.asarray(cv2.distanceTransform(empty.astype(np.uint8), cv2.DIST_L2, 3),
                            np.float32)
        gains = self._gains(around) * self._trust(
            np.ascontiguousarray(depth, np.float32), before, inside)
        detailed = np.empty_like(picture)
        paint(np.ascontiguousarray(picture), coarse, inside, 1.0 / (_RIM * self._cell),
              self._layer(gains), self._places, self._bands[0],
              np.ascontiguousarray(gains[..., 0]),
              np.zeros(empty.shape, np.float32) if plain is None else plain, detailed)
        return detailed

    def _layer(self, gains: Float) -> Float:
        """All bands of detail but the finest, float32 [H, W, 3]; gains [h, w, 3].

        Drawn at a half and a quarter of the size and smoothed, so that no seam shows where two
        places meet.
        """
        layer: Float = np.zeros((1, 1, 3), np.float32)
        for band, step in ((2, 4), (1, 2)):
            size = [-(-side // step) for side in self._places.shape[:2]]
            drawn: Float = np.empty((*size, 3), np.float32)
            sample(self._places, self._bands[band], np.ascontiguousarray(gains[..., band]), step,
                   drawn)
            drawn = np.asarray(cv2.GaussianBlur(drawn, (3, 3), 0), np.float32)
            layer = drawn + cv2.resize(layer, drawn.shape[1::-1])
        whole = cv2.resize(layer, self._places.shape[1::-1])
        return np.ascontiguousarray(whole[:self._camera.height, :self._camera.width], np.float32)

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
        """How far detail is to be shown, by cell and band [h, w, 3], (0, 1]: less where the guess
        is good, and of what a wrong guess of its depth leads far astray. inside [H, W]: pixels to
        what was seen."""
        distance: Float = np.asarray(cv2.resize(
            inside, self._grid[::-1], interpolation=cv2.INTER_NEAREST), np.float32)
        slips = self._slips(depth, before, inside, distance)[..., None] / (
            np.array(_SLIPS, np.float32) * self._cell)
        errors = self._errors
        typical = float(errors[min(_CELLS_AWAY, len(errors) - 1)])
        error = np.interp(distance / self._cell, np.arange(len(errors)), errors)
        error = error + self._seen_error(depth, distance <= 0)
        budget = _BUDGET * typical * (typical / _USUAL_ERROR) ** _GROWTH * (
            error / typical) ** _WITHIN
        cost = np.square(self._shares) * self._power.mean(axis=(0, 1))
        shown = 1.0 / np.sqrt(1.0 + cost / budget[..., None])
        return np.asarray(shown / (1.0 + np.square(slips)), np.float32)

    def _slips(self, depth: Float, before: Pose | None, inside: Float, distance: Float) -> Float:
        """Pixels by which places may slip from the frame before to this one, by cell [h, w]."""
        if before is None or self._before is None:
            return np.zeros(self._grid, np.float32)
        k, now = self._camera, np.ascontiguousarray(rigid.invert(before) @ self._before)
        moved, nearest = (self._moved(d, now) for d in (depth, _nearest_seen(depth, inside)))
        return np.asarray(np.abs(moved - nearest) + _DOUBTED * np.maximum(
            moved, nearest) * doubt(distance, depth, k.width), np.float32)

    def _moved(self, depth: Float, then_from_now: Pose) -> Float:
        """Pixels by which each cell [h, w] moved for not being far away."""
        k, moved = self._camera, np.zeros(self._grid, np.float32)
        parallax(depth, k.fx, k.fy, k.cx, k.cy, k.width, k.height, then_from_now, moved)
        return moved

    def _seen_error(self, depth: Float, seen: Mask) -> float:
        """Squared grey values by which a guess errs next to what was seen (seen [h, w])."""
        if self._again is None or self._taken_from is None or self._before is None:
            return 0.0
        octave = float(len(self._again))
        if seen.any():
            moved = self._moved(depth, np.ascontiguousarray(
                rigid.invert(self._taken_from) @ self._before))
            octave = parallax_octave(float(np.median(moved[seen])) / self._camera.width)
        return _NO_BETTER * float(np.interp(octave, np.arange(len(self._again)), self._again))

    def _gains(self, around: npt.NDArray[Any]) -> Float:
        """By what the bands of detail are multiplied, by cell [h, w, 3]. around [H, W]: 1 where
        detail is wanted."""
        middle, (rows, columns) = self._cell // 2, self._grid
        places = self._places[middle::self._cell, middle::self._cell]
        shown = places[..., 0] >= 0
        places = np.where(shown[..., None], places, np.float32(0.0))
        i = (places[..., 1] / self._cell).astype(np.int32).clip(0, rows - 1)
        j = (places[..., 0] / self._cell).astype(np.int32).clip(0, columns - 1)
        counted = self._cells(around) * shown
        side = (_AROUND_POWER, _AROUND_POWER)
        share = np.maximum(cv2.blur(counted, side), 1e-3)[..., None]
        power = cv2.blur(self._power[i, j] * counted[..., None], side) / share
        usual = self._power.mean(axis=(0, 1))
        evened = ((usual + _FAINT**2) / (power + _FAINT**2)) ** ((1.0 - _UNEVEN) / 2.0)
        return np.asarray(np.minimum(self._shares * evened, _GAIN), np.float32)

    def _cells(self, values: npt.NDArray[Any]) -> Float:
        """Means float32 [h, w] or [h, w, 3] of each cell's values [H, W] or [H, W, 3]."""
        (height, width), cell = self._grid, self._cell
        whole = cv2.copyMakeBorder(
            values, 0, height * cell - values.shape[0], 0, width * cell - values.shape[1],
            cv2.BORDER_REPLICATE).astype(np.float32)
        return np.asarray(cv2.resize(whole, (width, height), interpolation=cv2.INTER_AREA),
                          np.float32)

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


def _expected_errors(cells: Float) -> Float:
    """Squared grey values [N] by which a guess is off, 0, 1, 2... cells from what was seen.

    Half the mean squared difference of what is so far apart in a picture of cells [h, w, 3] (its
    structure function): that of a place and the best mean of such as are all so far away. Never
    0, and never less farther away.
    """
    height, width = cells.shape[:2]
    apart = []
    for count in range(1, width // 2):
        pairs = [np.square(cells[:, count:] - cells[:, :-count])]
        if count < height // 2:
            pairs.append(np.square(cells[count:] - cells[:-count]))
        apart.append(0.5 * float(np.mean([pair.mean() for pair in pairs])))
    apart = apart or [float(np.var(cells, axis=(0, 1)).mean())]
    # A cell's own width is not looked at: a straight line is drawn from next to nothing.
    apart.insert(0, apart[0] / 4.0)
    return np.asarray(np.maximum.accumulate(np.maximum(apart, 1e-3)), np.float32)


def _nearest_seen(depth: Float, inside: Float) -> Float:
    """At every place the depth [h, w] of the nearest one seen, where inside [H, W] is 0; NaN
    without any."""
    seen = cv2.resize(inside, depth.shape[::-1], interpolation=cv2.INTER_NEAREST) <= 0
    if not seen.any():
        return np.full_like(depth, np.nan)
    _, labels = cv2.distanceTransformWithLabels(
        (~seen).astype(np.uint8), cv2.DIST_L2, 3, labelType=cv2.DIST_LABEL_PIXEL)
    depths = np.full(int(labels.max()) + 1, np.nan, np.float32)
    depths[labels[seen]] = depth[seen]
    return np.asarray(depths[labels], np.float32)


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
