# SPDX-License-Identifier: Apache-2.0
"""Depth of one camera in metres and steady over time: an estimator tied to what motion measures.

Learned depth is dense but of unknown scale, motion stereo is metric but has gaps. Each picture's
scale and shift come from the pixels that both know, smoothed over time.
"""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from inspatio_ros.depth.alignment import Alignment, align_inverse_depth
from inspatio_ros.depth.estimator import DepthEstimator
from inspatio_ros.depth.motion_stereo import MotionStereo, MotionStereoOptions
from inspatio_ros.depth.sensor_depth import without_flying_pixels
from inspatio_ros.geometry.camera import PinholeCamera

log = logging.getLogger(__name__)

Depth = npt.NDArray[np.float32]
Picture = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class AlignmentOptions:
    """How estimated depth becomes metric.

    min_depth, max_depth: m, depth outside is unknown; the sky, which lies at or beyond infinity
    after alignment, falls out by it. smoothing: weight of the newest fit, (0, 1]. silhouette_jump:
    relative step whose mixed pixels are removed; 0 keeps them. sudden_change: ratio of scales
    above which a new fit replaces the old ones at once, as after a cut.
    """

    min_depth: float = 0.1
    max_depth: float = 80.0
    smoothing: float = 0.3
    silhouette_jump: float = 0.08
    sudden_change: float = 2.0

    def __post_init__(self) -> None:
        if not 0 < self.smoothing <= 1:
            raise ValueError(f"smoothing {self.smoothing} is not in (0, 1]")
        if not 0 < self.min_depth < self.max_depth:
            raise ValueError(f"depth range {self.min_depth}..{self.max_depth} m is empty")


class AlignedDepth:
    """Metric depth of an estimator's pictures, scale and shift smoothed exponentially.

    alignment: in force, None before the first fit. misfits: pictures whose metric depth did not
    fit, which keep the alignment of those before; `last_misfit` says why.
    """

    def __init__(self, estimator: DepthEstimator, options: AlignmentOptions | None = None) -> None:
        self.estimator = estimator
        self.options = options or AlignmentOptions()
        self.alignment: Alignment | None = None
        self.misfits = 0
        self.last_misfit = ""

    def add(self, image: Picture, camera: PinholeCamera, metric: Depth | None) -> Depth | None:
        """z-depth float32 [H, W] m, NaN unknown, of uint8 RGB [H, W, 3]; None before a first fit.

        metric: z-depth [H, W] m, NaN unknown, as sparse as it is; None when there is none. An
        estimator that gives metres needs none, and is scaled by it where there is some.
        """
        relative = self.estimator.estimate(image, camera)
        if self.estimator.is_metric:
            relative = np.asarray(1 / relative, np.float32)
        if metric is not None:
            self._fit(relative, metric)
        if self.alignment is None and not self.estimator.is_metric:
            return None
        depth = 1 / relative if self.alignment is None else self.alignment.depth(relative)
        return self._trusted(np.asarray(depth, np.float32))

    def _fit(self, relative: Depth, metric: Depth) -> None:
        try:
            new = align_inverse_depth(relative, metric)
        except ValueError as error:
            self.misfits += 1
            self.last_misfit = str(error)
            log.debug("depth keeps its alignment: %s", error)
            return
        old, weight = self.alignment, self.options.smoothing
        change = math.inf if old is None else abs(math.log(new.scale / old.scale))
        if old is None or change > math.log(self.options.sudden_change):
            self.alignment = new
            return
        # Scales are ratios: their mean is the geometric one.
        scale = math.exp((1 - weight) * math.log(old.scale) + weight * math.log(new.scale))
        shift = (1 - weight) * old.shift + weight * new.shift
        self.alignment = Alignment(scale, shift, new.inlier_ratio, new.error)

    def _trusted(self, depth: Depth) -> Depth:
        options = self.options
        with np.errstate(invalid="ignore"):
            inside = (depth >= options.min_depth) & (depth <= options.max_depth)
        depth = np.where(inside, depth, np.float32(np.nan))
        if options.silhouette_jump > 0:
            depth = without_flying_pixels(depth, options.silhouette_jump)
        return depth

    def clear(self) -> None:
        """Forget the alignment: time jumped or the camera is another."""
        self.alignment = None

    def close(self) -> None:
        """Free the estimator."""
        self.estimator.close()


class MonocularDepth:
    """Depth of one moving camera with poses: motion stereo, or an estimator scaled by it.

    Without an estimator the result is motion stereo's own, with its gaps.
    """

    def __init__(self, estimator: DepthEstimator | None = None,
                 motion: MotionStereoOptions | None = None,
                 alignment: AlignmentOptions | None = None) -> None:
        self.motion = MotionStereo(motion)
        self.aligned = AlignedDepth(estimator, alignment) if estimator else None

    def add(self, stamp_ns: int, image: Picture, camera: PinholeCamera,
            world_from_camera: npt.NDArray[np.float64]) -> Depth | None:
        """z-depth float32 [H, W] m, NaN unknown; None with `reason` while the scale is unknown."""
        metric = self.motion.add(stamp_ns, image, camera, world_from_camera)
        if self.motion.status.reason == "first" and self.aligned is not None:
            self.aligned.clear()
        return metric if self.aligned is None else self.aligned.add(image, camera, metric)

    @property
    def reason(self) -> str:
        """One sentence on why the last picture has no depth."""
        return {
            "first": "the first picture: depth from motion needs a second one",
            "no_baseline": "the camera has not moved by "
                           f"{self.motion.options.min_baseline:g} m yet: depth from motion needs "
                           "a moving camera",
            "turned": "the camera turned too far between two pictures",
            "matched": "the estimated depth does not fit what motion measures",
        }[self.motion.status.reason]

    def close(self) -> None:
        """Free the estimator."""
        if self.aligned is not None:
            self.aligned.close()
