# SPDX-License-Identifier: Apache-2.0
"""How strong the fine structure of pictures is, and usually was in those of a memory.

One picture may show a bare wall or be blurred by a turn; what comes into view is expected to be
as rich in detail as what was seen on the mean.
"""

from __future__ import annotations

import math

import cv2
import numpy as np
import numpy.typing as npt

Image = npt.NDArray[np.uint8]

_WIDTH = 208  # pixels that a picture is reduced to
_COARSE = 2.0  # pixels of a blur: what it takes away is fine
_FLOOR = 0.5  # grey values: what 8 bits add to any structure
_LEAST_SHARE = 1.0 / 150.0  # of a picture in the mean, however many there were


def detail_level(picture: Image) -> float:
    """Grey values (root mean square) of what is finer than a hundredth of the width or so.

    picture: uint8 RGB [H, W, 3].
    """
    height, width = picture.shape[:2]
    size = min(width, _WIDTH), max(1, round(height * min(1.0, _WIDTH / width)))
    small = cv2.resize(picture, size, interpolation=cv2.INTER_AREA).astype(np.float32)
    grey = small.mean(axis=2)
    fine = grey - cv2.GaussianBlur(grey, (0, 0), _COARSE)
    return math.sqrt(float(np.square(fine).mean()) + _FLOOR**2)


class UsualDetail:
    """The geometric mean of pictures' `detail_level`, newer ones counting as much as older ones
    until there are many, then somewhat more."""

    def __init__(self) -> None:
        self._octaves = 0.0
        self._count = 0

    @property
    def level(self) -> float | None:
        """Grey values; None before a picture was seen."""
        return 2.0**self._octaves if self._count else None

    def add(self, picture: Image) -> None:
        """Take in a picture uint8 RGB [H, W, 3]."""
        self._count += 1
        share = max(1.0 / self._count, _LEAST_SHARE)
        self._octaves += share * (math.log2(detail_level(picture)) - self._octaves)

    def reset(self) -> None:
        """Forget all pictures."""
        self._octaves, self._count = 0.0, 0
