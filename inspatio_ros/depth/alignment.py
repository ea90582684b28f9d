# SPDX-License-Identifier: Apache-2.0
"""Relative depth of an estimator brought to metres by sparse metric depth.

Monocular networks give inverse depth up to a scale and a shift (MiDaS, Ranftl et al. 2020). Both
are found by sampling pairs of points (RANSAC, Fischler and Bolles 1981), then by least squares on
the inliers.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Depth = npt.NDArray[np.float32]

_MIN_POINTS = 20
_MAX_POINTS = 20_000  # more do not make the fit better, only slower
_SAMPLES = 200
_REFINEMENTS = 5


@dataclass(frozen=True)
class Alignment:
    """1 / depth = scale * relative + shift, in 1/m.

    inlier_ratio: share of the metric points that agree; error: their median relative depth error.
    """

    scale: float
    shift: float
    inlier_ratio: float
    error: float

    def depth(self, relative: npt.NDArray[np.floating]) -> Depth:
        """z-depth float32 [H, W] m, NaN where the fit puts a pixel at or beyond infinity."""
        inverse = self.scale * relative.astype(np.float64) + self.shift
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(inverse > 0, 1.0 / inverse, np.nan).astype(np.float32)


def align_inverse_depth(relative: npt.NDArray[np.floating], metric_depth: Depth, *,
                        tolerance: float = 0.1, min_inlier_ratio: float = 0.3,
                        seed: int = 0) -> Alignment:
    """The scale and shift that bring relative inverse depth [H, W] to metric depth [H, W] m.

    metric_depth: NaN where unknown, as sparse as it is. tolerance: relative depth error of an
    inlier. The same input gives the same result. Raises ValueError with fewer than 20 common
    points, when too few of them agree, or when the best fit has depth growing with `relative`.
    """
    if relative.shape != metric_depth.shape:
        raise ValueError(f"relative depth {list(relative.shape)} and metric depth "
                         f"{list(metric_depth.shape)} differ in size")
    known = (metric_depth > 0) & np.isfinite(relative) & np.isfinite(metric_depth)
    x, inverse = relative[known].astype(np.float64), 1.0 / metric_depth[known].astype(np.float64)
    if len(x) < _MIN_POINTS:
        raise ValueError(f"only {len(x)} points with relative and metric depth, at least "
                         f"{_MIN_POINTS} are needed")
    rng = np.random.default_rng(seed)
    if len(x) > _MAX_POINTS:
        chosen = rng.choice(len(x), _MAX_POINTS, replace=False)
        x, inverse = x[chosen], inverse[chosen]
    scale, shift = _best_of_samples(x, inverse, tolerance, rng)
    for _ in range(_REFINEMENTS):
        inlier = _agrees(x, inverse, scale, shift, tolerance)
        if inlier.sum() < 2:
            break
        # Weights 1 / inverse make the residual a relative depth error.
        weight = 1.0 / inverse[inlier]
        design = np.stack([x[inlier], np.ones(int(inlier.sum()))], axis=1) * weight[:, None]
        scale, shift = map(float, np.linalg.lstsq(design, inverse[inlier] * weight, rcond=None)[0])
    inlier = _agrees(x, inverse, scale, shift, tolerance)
    ratio = float(inlier.mean())
    if ratio < min_inlier_ratio or scale <= 0:
        raise ValueError(f"relative depth does not fit the metric depth: scale {scale:.4g}, "
                         f"{ratio:.0%} of {len(x)} points agree within {tolerance:.0%}")
    error = np.abs(inverse[inlier] / (scale * x[inlier] + shift) - 1.0)
    return Alignment(scale, shift, ratio, float(np.median(error)))


def _agrees(x: npt.NDArray[np.float64], inverse: npt.NDArray[np.float64], scale: float,
            shift: float, tolerance: float) -> npt.NDArray[np.bool_]:
    return np.asarray(np.abs(scale * x + shift - inverse) <= tolerance * inverse)


def _best_of_samples(x: npt.NDArray[np.float64], inverse: npt.NDArray[np.float64],
                     tolerance: float, rng: np.random.Generator) -> tuple[float, float]:
    """Scale and shift of the pair of points that most others agree with."""
    best, best_count = (0.0, float(np.median(inverse))), -1
    for i, j in rng.integers(0, len(x), (_SAMPLES, 2)):
        if abs(x[i] - x[j]) < 1e-12:
            continue
        scale = float((inverse[i] - inverse[j]) / (x[i] - x[j]))
        shift = float(inverse[i] - scale * x[i])
        count = int(_agrees(x, inverse, scale, shift, tolerance).sum())
        if count > best_count and scale > 0:
            best, best_count = (scale, shift), count
    return best
