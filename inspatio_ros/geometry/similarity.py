# SPDX-License-Identifier: Apache-2.0
"""Similarities: scale, rotation and translation that bring one set of points to another."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]

_SAMPLES = 200
_REFINEMENTS = 5
_MOST = 20_000


@dataclass(frozen=True)
class Similarity:
    """target = scale * rotation @ source + translation.

    rotation [3, 3], translation [3]; inlier_ratio: share of the pairs that agree, [0, 1].
    """

    scale: float
    rotation: Array
    translation: Array
    inlier_ratio: float = 1.0

    def points(self, source: npt.NDArray[np.floating]) -> Array:
        """Points [..., 3] brought to the target."""
        return np.asarray(self.scale * (source @ self.rotation.T) + self.translation)

    def poses(self, world_from_camera: Array) -> Array:
        """Camera poses [..., 4, 4] brought to the target; the cameras keep looking as they did."""
        moved = world_from_camera.copy()
        moved[..., :3, :3] = self.rotation @ world_from_camera[..., :3, :3]
        moved[..., :3, 3] = self.points(world_from_camera[..., :3, 3])
        return moved


def umeyama(source: npt.NDArray[np.floating], target: npt.NDArray[np.floating]) -> Similarity:
    """The similarity with the least squared error between pairs [N, 3] (Umeyama 1991).

    Raises ValueError with fewer than three pairs or when `source` is a single point.
    """
    a, b = np.asarray(source, np.float64), np.asarray(target, np.float64)
    if a.shape != b.shape or a.ndim != 2 or a.shape[1] != 3 or len(a) < 3:
        raise ValueError(f"a similarity needs three pairs of points or more, got {a.shape} and "
                         f"{b.shape}")
    mean_a, mean_b = a.mean(0), b.mean(0)
    variance = float(((a - mean_a) ** 2).sum(1).mean())
    if variance <= 0:
        raise ValueError("a similarity needs points that differ")
    u, values, vt = np.linalg.svd((b - mean_b).T @ (a - mean_a) / len(a))
    signs = np.ones(3)
    if np.linalg.det(u) * np.linalg.det(vt) < 0:
        signs[2] = -1.0
    rotation = u @ np.diag(signs) @ vt
    scale = float((values * signs).sum() / variance)
    return Similarity(scale, rotation, mean_b - scale * rotation @ mean_a)


def robust_similarity(source: npt.NDArray[np.floating], target: npt.NDArray[np.floating],
                      tolerance: npt.ArrayLike, *, min_inlier_ratio: float = 0.3,
                      seed: int = 0) -> Similarity:
    """As `umeyama`, of pairs many of which are wrong (RANSAC, Fischler and Bolles 1981).

    tolerance: distance in the target up to which a pair agrees, a number or one a pair [N]. The
    same input gives the same result. Raises ValueError when too few pairs agree.
    """
    a, b = np.asarray(source, np.float64), np.asarray(target, np.float64)
    limit = np.broadcast_to(np.asarray(tolerance, np.float64), (len(a),))
    rng = np.random.default_rng(seed)
    if len(a) > _MOST:
        chosen = rng.choice(len(a), _MOST, replace=False)
        a, b, limit = a[chosen], b[chosen], limit[chosen]
    best, most = np.zeros(len(a), np.bool_), -1
    for _ in range(_SAMPLES if len(a) >= 3 else 0):
        picked = rng.choice(len(a), 3, replace=False)
        try:
            found = umeyama(a[picked], b[picked])
        except ValueError:
            continue
        agree = np.linalg.norm(found.points(a) - b, axis=1) <= limit
        if found.scale > 0 and int(agree.sum()) > most:
            best, most = agree, int(agree.sum())
    for _ in range(_REFINEMENTS):
        if best.sum() < 3:
            break
        found = umeyama(a[best], b[best])
        best = np.linalg.norm(found.points(a) - b, axis=1) <= limit
    ratio = float(best.mean()) if len(a) else 0.0
    if ratio < min_inlier_ratio or best.sum() < 3:
        raise ValueError(f"no similarity: {ratio:.0%} of {len(a)} pairs agree")
    return Similarity(found.scale, found.rotation, found.translation, ratio)
