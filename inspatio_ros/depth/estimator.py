# SPDX-License-Identifier: Apache-2.0
"""What an estimator of depth from single pictures is, and how one is chosen by name."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from typing import Protocol

import numpy as np
import numpy.typing as npt

from inspatio_ros.geometry.camera import PinholeCamera


class EstimatorError(RuntimeError):
    """An estimator that cannot be loaded or run; names the file or package, and the fix."""


class DepthEstimator(Protocol):
    """Depth of a single color picture.

    is_metric: `estimate` gives z-depth in m; else relative inverse depth, which
    `alignment.align_inverse_depth` brings to metres.
    """

    is_metric: bool

    def estimate(self, image: npt.NDArray[np.uint8],
                 camera: PinholeCamera) -> npt.NDArray[np.float32]:
        """Depth or relative inverse depth float32 [H, W], NaN unknown, of uint8 RGB [H, W, 3]."""

    def close(self) -> None:
        """Free weights and device memory."""


class EstimatorRegistry:
    """Estimators by name, made only when asked for, so that their packages may be absent."""

    def __init__(self) -> None:
        self._factories: dict[str, Callable[[], DepthEstimator]] = {}

    def register(self, name: str, factory: Callable[[], DepthEstimator]) -> None:
        """Offer an estimator under `name`. Raises ValueError when the name is taken."""
        if name in self._factories:
            raise ValueError(f"a depth estimator '{name}' is registered already")
        self._factories[name] = factory

    @property
    def names(self) -> tuple[str, ...]:
        """All names, sorted."""
        return tuple(sorted(self._factories))

    def make(self, name: str) -> DepthEstimator:
        """A new estimator. Raises ValueError naming those there are when `name` is not one."""
        if name not in self._factories:
            close = difflib.get_close_matches(name, self.names, 1)
            hint = f"did you mean '{close[0]}'?" if close else (
                f"there are: {', '.join(self.names) or 'none'}")
            raise ValueError(f"no depth estimator '{name}': {hint}")
        return self._factories[name]()
