# SPDX-License-Identifier: Apache-2.0
"""How far a view lies from what was seen, and how much of it rests on geometry."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from inspatio_ros.geometry import rigid
from inspatio_ros.sensing.observation import Provenance

Array = npt.NDArray[np.float64]


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
