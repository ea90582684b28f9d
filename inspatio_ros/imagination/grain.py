# SPDX-License-Identifier: Apache-2.0
"""Fine texture for invented pixels, as film grain is given back to a cleaned film.

Whoever guesses and is judged by squared errors draws smooth surfaces, and a small model's pictures
are enlarged besides. The grain brings back a share of the strength that the finest octaves have in
the known pixels around (by octaves: Heeger and Bergen, Pyramid-Based Texture Analysis/Synthesis,
1995; by place: AV1's film grain). Only known pixels are measured, and only unknown ones change.
"""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

Image = npt.NDArray[np.uint8]
Known = npt.NDArray[np.bool_]
Plane = npt.NDArray[np.float32]

_OCTAVES = 3
# Share of the power around that is aimed at: noise has no edges, and much of the power is edges'.
_SHARE = 0.6
_CELL = 4  # pixels of a side of the places at which strengths are told; 2 ** (_OCTAVES - 1)
_ENOUGH = 0.25  # share of a place's pixels from which on their mean is taken as it is


class Grain:
    """The grain of one imagined way: the same pattern in each of its pictures.

    size: (width, height) in pixels. seed: equal seeds give equal grain.
    """

    def __init__(self, size: tuple[int, int], seed: int) -> None:
        width, height = size
        noise: Plane = np.random.default_rng(seed).standard_normal((height, width), np.float32)
        self._bands: list[Plane] = []
        for _ in range(_OCTAVES):
            band = _band(noise)
            self._bands.append(band / max(float(band.std()), 1e-6))
            noise = np.asarray(cv2.pyrDown(noise), np.float32)

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return sum(band.nbytes for band in self._bands)

    def add(self, picture: Image, known: Known) -> Image:
        """A uint8 RGB [H, W, 3] picture with grain where bool `known` [H, W] is False.

        Raises ValueError for another size than that of the grain.
        """
        if picture.shape[:2] != self._bands[0].shape or known.shape != picture.shape[:2]:
            raise ValueError(f"grain of {self._bands[0].shape} pixels cannot be added to a "
                             f"picture of {picture.shape} with known pixels of {known.shape}")
        if known.all() or not known.any():
            return picture
        grey: Plane = np.asarray(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY), np.float32)
        inner = known.astype(np.uint8)
        strengths: list[Plane] = []
        for octave in range(_OCTAVES):
            power = np.square(_band(grey))
            # Blurs and bands reach one and two pixels far: no filled pixel has part in the known.
            whole = cv2.erode(inner, np.ones((3, 3), np.uint8))
            strengths.append(_missing(power, whole.astype(np.float32), 1.0 - inner,
                                      max(1, _CELL >> octave)))
            if octave + 1 < _OCTAVES:
                grey = np.asarray(cv2.pyrDown(grey), np.float32)
                inner = np.asarray(
                    cv2.erode(inner, np.ones((5, 5), np.uint8))[::2, ::2], np.uint8)
        total: Plane = np.zeros((1, 1), np.float32)
        for strength, band in zip(reversed(strengths), reversed(self._bands), strict=True):
            size = (band.shape[1], band.shape[0])
            total = _resized(total, size) + _resized(strength, size) * band
        total[known] = 0.0
        added = cv2.merge([total] * 3)
        return np.asarray(cv2.add(picture, added, dtype=cv2.CV_8U), np.uint8)


def _band(grey: Plane) -> Plane:
    """What a blur of three pixels takes away."""
    return np.asarray(grey - cv2.GaussianBlur(grey, (3, 3), 0), np.float32)


def _missing(power: Plane, known: Plane, hole: Plane, cell: int) -> Plane:
    """Root of the power that the holes lack, by place of `cell` pixels of an octave a side."""
    size = (max(1, power.shape[1] // cell), max(1, power.shape[0] // cell))
    means = [np.asarray(cv2.resize(plane, size, interpolation=cv2.INTER_AREA), np.float32)
             for plane in (power * known, known, power * hole, np.asarray(hole, np.float32))]
    around = _spread(means[0], means[1])
    there, share = (cv2.blur(mean, (5, 5)) for mean in means[2:])
    return np.sqrt(np.maximum(_SHARE * around - there / np.maximum(share, 1e-3), 0.0))


def _spread(sums: Plane, weights: Plane) -> Plane:
    """sums / weights where there are weights, and smoothly on from there: push and pull."""
    levels = [(sums, weights)]
    while min(levels[-1][0].shape) > 2:
        levels.append(tuple(np.asarray(cv2.pyrDown(plane), np.float32)  # type: ignore[arg-type]
                            for plane in levels[-1]))
    total, weight = levels[-1]
    spread = np.full_like(total, float(total.sum()) / max(float(weight.sum()), 1e-6))
    for total, weight in reversed(levels):
        trust = np.minimum(weight / _ENOUGH, 1.0)
        spread = (trust * total / np.maximum(weight, 1e-6)
                  + (1.0 - trust) * _resized(spread, (total.shape[1], total.shape[0])))
    return spread


def _resized(plane: Plane, size: tuple[int, int]) -> Plane:
    return np.asarray(cv2.resize(plane, size, interpolation=cv2.INTER_LINEAR), np.float32)
