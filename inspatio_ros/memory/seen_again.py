# SPDX-License-Identifier: Apache-2.0
"""How well what was seen foretells what is seen from elsewhere.

Measured geometry is wrong too, and lights and exposure change: next to what is drawn from it an
invented colour need not be better than that is. Each look tells it of those before it.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from inspatio_ros.geometry import rigid
from inspatio_ros.geometry.camera import PinholeCamera
from inspatio_ros.memory.seen_again_numba import compare
from inspatio_ros.memory.surfaces import reduce_depth
from inspatio_ros.sensing.observation import Observation

Float = npt.NDArray[np.float32]
Pose = npt.NDArray[np.float64]

OCTAVES = 8  # of parallax, the last from half of a picture's width on
_WIDTH = 104  # pixels that pictures are reduced to: coarse colours are compared
_STEP = 2  # pixels from one that is compared to the next
_ALIKE = 0.1  # relative depth within which two looks show the same place
_LEAST = 20  # places that tell something
_INTERVAL, _LONGEST = 0.45, 4.6  # s between looks that are held, and until they are forgotten
_LAGS = 0.5, 1.0, 2.0, 4.0  # s: what is so old is compared
_OFF = 0.35  # of a lag, that a look's age may differ from it
_LEAST_SHARE = 1.0 / 50.0  # of a comparison in the mean of its octave


@dataclass(frozen=True, eq=False)
class _Look:
    stamp_ns: int
    image: npt.NDArray[np.uint8]
    depth: Float
    camera: PinholeCamera
    world_from_camera: Pose

    @property
    def intrinsics(self) -> npt.NDArray[np.float64]:
        k = self.camera
        return np.array([k.fx, k.fy, k.cx, k.cy])


class SeenAgain:
    """Squared grey values by which colours were off where they were seen again, by parallax.

    A bounded number of reduced looks is held, and of each octave of parallax the mean. What all
    of a picture has in common, as a change of exposure, is no error. Not safe between threads.
    """

    def __init__(self) -> None:
        self._looks: deque[_Look] = deque(maxlen=math.ceil(_LONGEST / _INTERVAL))
        self._errors = np.zeros(OCTAVES, np.float64)
        self._counts = np.zeros(OCTAVES, np.int64)
        self._found: Float = np.empty((0, 4), np.float32)

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return self._errors.nbytes + self._counts.nbytes + self._found.nbytes + sum(
            look.image.nbytes + look.depth.nbytes for look in self._looks)

    @property
    def errors(self) -> Float | None:
        """Squared grey values [8], of parallax 1/256, 1/128... 1/2 of the width; never less for
        more of it. Octaves that nothing was seen of take those beside them; None before two
        looks were compared."""
        known = np.flatnonzero(self._counts)
        if not len(known):
            return None
        rising = np.maximum.accumulate(self._errors[known])
        return np.interp(np.arange(OCTAVES), known, rising).astype(np.float32)

    def add(self, observation: Observation) -> None:
        """Compare an observation with the looks of half a second ago, of one, two and four."""
        look = _reduced(observation)
        if self._looks and look.stamp_ns < self._looks[-1].stamp_ns:
            self._looks.clear()
        ages = np.array([look.stamp_ns - held.stamp_ns for held in self._looks]) * 1e-9
        for lag in _LAGS:
            if len(ages):
                nearest = int(np.abs(ages - lag).argmin())
                if abs(ages[nearest] - lag) <= _OFF * lag:
                    self._compare(look, self._looks[nearest])
        if not len(ages) or ages[-1] >= _INTERVAL:
            self._looks.append(look)

    def reset(self) -> None:
        """Forget everything."""
        self._looks.clear()
        self._errors[:], self._counts[:] = 0.0, 0

    def _compare(self, new: _Look, old: _Look) -> None:
        if len(self._found) < new.depth.size:
            self._found = np.empty((new.depth.size, 4), np.float32)
        count = compare(
            new.image, new.depth, new.intrinsics, old.image, old.depth, old.intrinsics,
            np.ascontiguousarray(rigid.invert(old.world_from_camera) @ new.world_from_camera),
            _STEP, _ALIKE, self._found)
        if count < _LEAST:
            return
        found = self._found[:count]
        octave = parallax_octave(float(np.median(found[:, 0])) / old.camera.width)
        number = round(min(max(octave, 0.0), OCTAVES - 1.0))
        error = float(found[:, 1:].var(axis=0).mean())
        self._counts[number] += 1
        share = max(1.0 / self._counts[number], _LEAST_SHARE)
        self._errors[number] += share * (error - self._errors[number])


def parallax_octave(share: float) -> float:
    """The place in `SeenAgain.errors` of a parallax, as a share of the picture's width."""
    return OCTAVES + math.log2(max(share, 2.0**-OCTAVES))


def _reduced(observation: Observation) -> _Look:
    camera, image, depth = observation.camera, observation.image, observation.depth
    if camera.width > _WIDTH:
        size = _WIDTH, max(1, round(camera.height * _WIDTH / camera.width))
        camera, depth = camera.resized(*size), reduce_depth(depth, size)
        image = np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)
    return _Look(observation.stamp_ns, np.array(image), np.array(depth, np.float32), camera,
                 observation.world_from_camera)
