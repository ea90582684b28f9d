# SPDX-License-Identifier: Apache-2.0
"""Does a predicted error say how large the real one is, and how to make it say so.

Reliability as in Guo et al. 2017 for values instead of classes, sparsification error as in Ilg et
al. 2018, recalibration by isotonic regression (pool adjacent violators, Barlow et al. 1972; for
predictions Zadrozny and Elkan 2002).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from inspatio_ros.imagination.request import ImaginedFrame

Array = npt.NDArray[np.float64]

# Mean absolute colour error in [0, 1] by origin of a pixel at the start of the way, and its growth
# a second of it: what a frame is expected to be off by before anything was compared. Round values
# from recordings (office, streets); recalibration replaces them as soon as pairs are there.
PRIOR_ERROR = {"observed": 0.02, "memory": 0.05, "imagined": 0.14}
PRIOR_GROWTH = 0.25


@dataclass(frozen=True)
class ReliabilityCurve:
    """Mean prediction and mean real error of equally filled bins, from the smallest prediction on.

    predicted, error: [bins]. count [bins]: pairs in each. gap: mean |predicted - error| over the
    bins, weighted by count (the expected calibration error), in the unit of the errors.
    """

    predicted: Array
    error: Array
    count: npt.NDArray[np.int64]

    @property
    def gap(self) -> float:
        """Expected calibration error; NaN without pairs."""
        total = int(self.count.sum())
        if total == 0:
            return math.nan
        return float((np.abs(self.predicted - self.error) * self.count).sum() / total)


@dataclass(frozen=True)
class Sparsification:
    """Mean error of what remains when the worst pairs are left out, over mean error of all.

    removed [n]: shares left out, 0 to below 1. by_prediction, by_error [n]: the worst by
    prediction and (the best any prediction could do) by the error itself. ause: area between the
    two; 0 when the prediction sorts as the errors do.
    """

    removed: Array
    by_prediction: Array
    by_error: Array

    @property
    def ause(self) -> float:
        """Area under the sparsification error; NaN without pairs or without any error."""
        if self.removed.size == 0 or not np.isfinite(self.by_error).all():
            return math.nan
        between = self.by_prediction - self.by_error
        return float(((between[1:] + between[:-1]) / 2 * np.diff(self.removed)).sum())


@dataclass(frozen=True)
class MonotoneMap:
    """A non-decreasing, piecewise linear function, held at its ends. x strictly increases.

    Raises ValueError when it is none.
    """

    x: Array
    y: Array

    def __post_init__(self) -> None:
        if (self.x.ndim != 1 or self.x.shape != self.y.shape or self.x.size == 0
                or not np.isfinite(self.x).all() or not np.isfinite(self.y).all()
                or np.any(np.diff(self.x) <= 0) or np.any(np.diff(self.y) < 0)):
            raise ValueError("a monotone map needs finite x that increase and y that do not "
                             f"decrease, one for each, got x {self.x} and y {self.y}")

    def __call__(self, value: npt.ArrayLike) -> Array:
        """y at `value` (any shape); NaN stays."""
        return np.asarray(np.interp(np.asarray(value, np.float64), self.x, self.y))

    def to_dict(self) -> dict[str, list[float]]:
        """Plain numbers, for JSON."""
        return {"x": self.x.tolist(), "y": self.y.tolist()}

    @staticmethod
    def from_dict(values: Mapping[str, npt.ArrayLike]) -> MonotoneMap:
        """The map that `to_dict` wrote."""
        x, y = (np.asarray(values[name], np.float64) for name in ("x", "y"))
        return MonotoneMap(x, y)

    @staticmethod
    def fitted(predicted: npt.ArrayLike, error: npt.ArrayLike, min_block: int = 1) -> MonotoneMap:
        """The non-decreasing function nearest to the pairs [n] in the sum of squares.

        min_block: pairs that make a step at least, so that no single pair bends the ends. Raises
        ValueError without a pair or when one is not finite.
        """
        x, y = np.asarray(predicted, np.float64).ravel(), np.asarray(error, np.float64).ravel()
        if x.size == 0 or x.shape != y.shape or not np.isfinite(x).all() or not np.isfinite(
                y).all():
            raise ValueError(f"isotonic regression needs finite pairs, got {x.size} and {y.size}")
        order = np.argsort(x, kind="stable")
        blocks: list[tuple[float, float, int]] = []  # sums of x and of y, pairs
        for sum_x, sum_y, count in _grouped(x[order], y[order], min_block):
            while blocks and blocks[-1][1] / blocks[-1][2] >= sum_y / count:
                before = blocks.pop()
                sum_x, sum_y, count = sum_x + before[0], sum_y + before[1], count + before[2]
            blocks.append((sum_x, sum_y, count))
        return MonotoneMap(np.array([sx / n for sx, _, n in blocks]),
                           np.array([sy / n for _, sy, n in blocks]))


def _grouped(x: Array, y: Array, least: int) -> list[tuple[float, float, int]]:
    """Sums of sorted pairs: at least `least` a group, equal x in one group."""
    groups: list[tuple[float, float, int]] = []
    begin = 0
    for end in range(1, x.size + 1):
        full = end - begin >= least and x.size - end >= least
        if end == x.size or (full and x[end] > x[end - 1]):
            groups.append((float(x[begin:end].sum()), float(y[begin:end].sum()), end - begin))
            begin = end
    return groups


class ErrorCalibration:
    """Pairs of a predicted and a real error, the newest `capacity` of them, and what they tell.

    Errors are non-negative, in any one unit (mean absolute colour error in [0, 1] for
    `ImaginedFrame.expected_error`). The oldest pairs leave when it is full, so that a robot that
    comes into another place is judged by that place. `seen` counts the pairs ever taken, `refused`
    those that were not finite or negative. minimum: pairs before anything is recalibrated.
    Not safe between threads. Raises ValueError on a capacity below the minimum.
    """

    def __init__(self, capacity: int = 4096, minimum: int = 32) -> None:
        if minimum < 1 or capacity < minimum:
            raise ValueError(f"capacity {capacity} must be at least minimum {minimum} and that 1")
        self._pairs = np.empty((capacity, 2))
        self._minimum = minimum
        self._map: MonotoneMap | None = None
        self._stale = True
        self.seen = 0
        self.refused = 0

    def __len__(self) -> int:
        return min(self.seen, len(self._pairs))

    @property
    def capacity(self) -> int:
        """Pairs held at most."""
        return len(self._pairs)

    @property
    def pairs(self) -> Array:
        """The pairs held [n, 2], oldest first: predicted, real."""
        if self.seen <= self.capacity:
            return self._pairs[:self.seen].copy()
        return np.roll(self._pairs, -(self.seen % self.capacity), axis=0)

    def add(self, predicted: npt.ArrayLike, error: npt.ArrayLike) -> None:
        """Take in one pair or arrays of one shape. Raises ValueError when shapes differ."""
        x, y = np.asarray(predicted, np.float64), np.asarray(error, np.float64)
        if x.shape != y.shape:
            raise ValueError(f"{x.shape} predictions for {y.shape} errors")
        pairs = np.stack([x.ravel(), y.ravel()], axis=1)
        good = np.isfinite(pairs).all(axis=1) & (pairs >= 0).all(axis=1)
        self.refused += int(np.count_nonzero(~good))
        new = pairs[good]
        # Of more than fit, the last ones stay: as if they had come one by one.
        places = (self.seen + np.arange(len(new)))[-self.capacity:] % self.capacity
        self._pairs[places] = new[-self.capacity:]
        self.seen += len(new)
        self._stale = self._stale or len(new) > 0

    def clear(self) -> None:
        """Forget all pairs; the counts begin anew."""
        self.seen = self.refused = 0
        self._map, self._stale = None, True

    @property
    def is_ready(self) -> bool:
        """Whether there are pairs enough to recalibrate."""
        return len(self) >= self._minimum

    def recalibrated(self, predicted: npt.ArrayLike) -> Array:
        """Expected errors, the shape of `predicted`; NaN until there are pairs enough.

        Never decreases with the prediction.
        """
        value = np.asarray(predicted, np.float64)
        if not self.is_ready:
            return np.full(value.shape, np.nan)
        if self._stale:
            pairs = self.pairs
            self._map = MonotoneMap.fitted(pairs[:, 0], pairs[:, 1],
                                           min_block=max(1, self._minimum // 4))
            self._stale = False
        assert self._map is not None
        return self._map(value)

    @property
    def map(self) -> MonotoneMap | None:
        """What `recalibrated` applies; None until there are pairs enough."""
        self.recalibrated(0.0)
        return self._map if self.is_ready else None

    def reliability(self, bins: int = 10) -> ReliabilityCurve:
        """Predictions against errors in at most `bins` bins of equally many pairs."""
        pairs = self.pairs
        pairs = pairs[np.argsort(pairs[:, 0], kind="stable")]
        parts = [part for part in np.array_split(pairs, bins) if len(part)]
        return ReliabilityCurve(np.array([part[:, 0].mean() for part in parts]),
                                np.array([part[:, 1].mean() for part in parts]),
                                np.array([len(part) for part in parts], np.int64))

    def sparsification(self) -> Sparsification:
        """How well the prediction sorts the pairs by their error."""
        pairs = self.pairs
        return sparsification(pairs[:, 0], pairs[:, 1])

    @property
    def ause(self) -> float:
        """Area under the sparsification error of the pairs held, relative to their mean error."""
        return self.sparsification().ause


def sparsification(predicted: npt.ArrayLike, error: npt.ArrayLike) -> Sparsification:
    """The curves of pairs [n]; pairs of equal prediction count as sorted at random."""
    x, y = np.asarray(predicted, np.float64).ravel(), np.asarray(error, np.float64).ravel()
    if x.size == 0:
        return Sparsification(np.empty(0), np.empty(0), np.empty(0))
    removed = np.arange(x.size) / x.size
    mean = float(y.mean())
    if mean == 0:
        flat = np.full(x.size, np.nan)
        return Sparsification(removed, flat, flat)
    # In the mean over all orders of a tie each place holds the tie's mean error.
    _, group, count = np.unique(x, return_inverse=True, return_counts=True)
    expected = (np.bincount(group, y) / count)[group]
    remaining = np.arange(x.size, 0, -1)

    def curve(ascending: Array) -> Array:
        return np.asarray(np.cumsum(ascending)[::-1] / remaining / mean)

    return Sparsification(removed, curve(expected[np.argsort(x, kind="stable")]),
                          curve(np.sort(y)))


def prior_error(observed_ratio: npt.ArrayLike, memory_ratio: npt.ArrayLike,
                imagined_ratio: npt.ArrayLike, time_from_start: npt.ArrayLike) -> Array:
    """What a frame is off by as far as its own measures tell, before any recalibration.

    Mean absolute colour error in [0, 1] from shares of pixels by provenance and from seconds
    along the way. Only its order matters once it is recalibrated.
    """
    share = (PRIOR_ERROR["observed"] * np.asarray(observed_ratio, np.float64)
             + PRIOR_ERROR["memory"] * np.asarray(memory_ratio, np.float64)
             + PRIOR_ERROR["imagined"] * np.asarray(imagined_ratio, np.float64))
    later = np.maximum(np.asarray(time_from_start, np.float64), 0.0)
    return np.asarray(np.minimum(share * (1.0 + PRIOR_GROWTH * later), 1.0))


def prior_error_of(frame: ImaginedFrame) -> float:
    """`prior_error` of an imagined frame."""
    return float(prior_error(frame.observed_ratio, frame.memory_ratio, frame.imagined_ratio,
                             frame.time_from_start))


def color_error(image: npt.NDArray[np.uint8], truth: npt.NDArray[np.uint8]) -> float:
    """Mean absolute colour error in [0, 1] of uint8 pictures of one shape: the real error."""
    if image.shape != truth.shape:
        raise ValueError(f"pictures differ: {image.shape}, {truth.shape}")
    # In integers: a sum of floats would depend on its order.
    return float(np.abs(image.astype(np.int16) - truth).sum(dtype=np.int64) / 255.0 / image.size)
