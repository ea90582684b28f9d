# SPDX-License-Identifier: Apache-2.0
"""How far a view lies from what was seen, and how much of it rests on geometry."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from inspatio_ros.geometry import rigid
from inspatio_ros.memory.guide import Guide
from inspatio_ros.sensing.observation import Provenance

Array = npt.NDArray[np.float64]
Image = npt.NDArray[np.uint8]

# From these deviations on, in this many blocks one after the other, a roll-out is drifting: of
# mean colour (of 255), of the logarithms of contrast and of sharpness.
DRIFT_COLOR, DRIFT_CONTRAST, DRIFT_SHARPNESS, DRIFT_BLOCKS = 12.0, 0.35, 0.7, 2
_LEAST_PIXELS = 200


def provenance_ratios(provenance: npt.NDArray[np.uint8]) -> dict[Provenance, float]:
    """Share of pixels [0, 1] of each label in a provenance picture [H, W].

    Raises ValueError when it holds a value that is no label.
    """
    counts = np.bincount(provenance.ravel(), minlength=256)
    labels = {label: int(counts[label]) for label in Provenance}
    if sum(labels.values()) != provenance.size:
        strange = sorted(set(np.flatnonzero(counts).tolist()) - {int(x) for x in Provenance})
        raise ValueError(f"provenance holds values that are no label: {strange[:8]}")
    return {label: count / provenance.size for label, count in labels.items()}


def extrapolation(
    world_from_camera: Array, observed_world_from_camera: Array
) -> tuple[float, float]:
    """Distance (m) and angle (rad) from a camera [4, 4] to the nearest observed one of [n, 4, 4].

    Nearest by metres plus radians: a metre aside and a radian turned away are about equally new.
    """
    if len(observed_world_from_camera) == 0:
        return float("inf"), float("inf")
    step = rigid.invert(observed_world_from_camera) @ world_from_camera
    distances = np.linalg.norm(step[:, :3, 3], axis=1)
    angles = rigid.rotation_angle(step)
    nearest = int(np.argmin(distances + angles))
    return float(distances[nearest]), float(angles[nearest])


@dataclass(frozen=True)
class Drift:
    """How far a block's pictures have moved from what geometry knows of them.

    color: mean absolute difference of the three channels' means, of 255; contrast, sharpness:
    logarithms of the ratios of spread and of gradients, 0 for none. NaN where too little is known.
    """

    color: float
    contrast: float
    sharpness: float

    @property
    def far(self) -> bool:
        """Whether any of the three is beyond its limit."""
        return (self.color > DRIFT_COLOR or abs(self.contrast) > DRIFT_CONTRAST
                or abs(self.sharpness) > DRIFT_SHARPNESS)


class DriftMonitor:
    """Watches a roll-out for drift, block by block.

    A backend's own pictures are compared with the guide on the pixels that measured geometry
    backs: there they should show the same. Composite pictures show the guide itself there, so it
    is the backend's picture that must be given.
    """

    def __init__(self) -> None:
        self.blocks: list[Drift] = []
        self._in_a_row = 0

    @property
    def drifting(self) -> bool:
        """Whether the last blocks were all far off."""
        return self._in_a_row >= DRIFT_BLOCKS

    def add(self, pictures: Sequence[Image], guides: Sequence[Guide]) -> Drift:
        """Take in a block: pictures uint8 [H, W, 3] and the guides that they were made from."""
        made, known = _Statistics(), _Statistics()
        for picture, guide in zip(pictures, guides, strict=True):
            backed = (guide.provenance >= Provenance.MEMORY).view(np.uint8)
            if np.count_nonzero(backed) < _LEAST_PIXELS:
                continue
            # Borders of holes are no edges of the picture.
            inner = backed[:-1, :-1] & backed[1:, :-1] & backed[:-1, 1:]
            made.add(picture, backed, inner)
            known.add(guide.image, backed, inner)
        if not made.pixels:
            drift = Drift(math.nan, math.nan, math.nan)
        else:
            drift = Drift(
                float(np.abs(made.mean - known.mean).mean()),
                _log_ratio(made.deviation, known.deviation), _log_ratio(made.edges, known.edges))
        self._in_a_row = self._in_a_row + 1 if drift.far else 0
        self.blocks.append(drift)
        return drift


class _Statistics:
    """Sums over the chosen pixels of pictures."""

    def __init__(self) -> None:
        self.pixels = 0.0
        self._sum, self._squares = np.zeros(3), np.zeros(3)
        self._edges, self._edge_pixels = 0.0, 0.0

    def add(self, image: Image, chosen: Image, inner: Image) -> None:
        """image uint8 [H, W, 3]; chosen uint8 [H, W] and inner [H - 1, W - 1]: 1 counts."""
        mean, deviation = (x.ravel() for x in cv2.meanStdDev(image, mask=chosen))
        count = np.count_nonzero(chosen)
        self.pixels += count
        self._sum += count * mean
        self._squares += count * (deviation**2 + mean**2)
        grey = np.asarray(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), np.float32)
        slope = cv2.magnitude(grey[:-1, 1:] - grey[:-1, :-1], grey[1:, :-1] - grey[:-1, :-1])
        inside = np.count_nonzero(inner)
        self._edges += inside * cv2.mean(slope, mask=inner)[0]
        self._edge_pixels += inside

    @property
    def mean(self) -> Array:
        """Of each channel [3]."""
        return self._sum / self.pixels

    @property
    def deviation(self) -> float:
        """Of the values of all channels together."""
        mean = float(self.mean.mean())
        return math.sqrt(max(float((self._squares / self.pixels).mean()) - mean**2, 0.0))

    @property
    def edges(self) -> float:
        """Mean length of the gradient of grey."""
        return self._edges / max(self._edge_pixels, 1.0)


class DriftSummary:
    """What the blocks of one roll-out said of drift. blocks: those that could be judged."""

    def __init__(self) -> None:
        self.blocks = 0
        self.drifting: list[int] = []
        self._worst = Drift(0.0, 0.0, 0.0)

    def add(self, index: int, drift: Drift | None, drifting: bool) -> None:
        """Take in block `index`; None: its backend makes each block anew."""
        if drifting:
            self.drifting.append(index)
        if drift is None or math.isnan(drift.color):
            return
        self.blocks += 1
        old = self._worst
        self._worst = Drift(max(old.color, drift.color),
                            max(old.contrast, drift.contrast, key=abs),
                            max(old.sharpness, drift.sharpness, key=abs))

    def as_dict(self) -> dict[str, float | int | None]:
        """For a report: the worst of each measure, and from which block on it drifted, if it did.
        """
        return {"blocks_judged": self.blocks, "blocks_drifting": len(self.drifting),
                "first_drifting": self.drifting[0] if self.drifting else None,
                "worst_color": round(self._worst.color, 2),
                "worst_contrast": round(self._worst.contrast, 3),
                "worst_sharpness": round(self._worst.sharpness, 3)}


def _log_ratio(a: float, b: float) -> float:
    return math.log(max(float(a), 1e-3) / max(float(b), 1e-3))
