# SPDX-License-Identifier: Apache-2.0
"""What is kept of the views of one method at one horizon, and the figures made of it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from inspatio_ros.evaluation.metrics import Mask, SquaredError, ssim_map
from inspatio_ros.evaluation.perceptual import (
    FeatureNetwork,
    Lpips,
    ScriptedNetwork,
    cosine_distance,
    frechet_distance,
    gradient_spectrum_distance,
)
from inspatio_ros.evaluation.view_checks import CameraControl, DepthError

Image = npt.NDArray[np.uint8]
Float = npt.NDArray[np.float32]

# Parts of a picture that have a PSNR of their own; `all` is the whole, `revisit` the whole of the
# views of places seen before.
PARTS = ("all", "covered", "holes", "observed", "memory", "imagined", "disoccluded",
         "out_of_view", "no_depth", "other", "revisit", "moving", "static")
# Features of so many pictures at most are kept for a Fréchet distance, 8 kB each.
_LEAST_FOR_FRECHET, _MOST_FOR_FRECHET = 16, 2048


@dataclass(frozen=True)
class Networks:
    """The networks that a user gave weights for; None where there are none."""

    features: FeatureNetwork | None = None
    lpips: Lpips | None = None
    fid: ScriptedNetwork | None = None
    fvd: ScriptedNetwork | None = None


@dataclass
class Result:
    """One method at one horizon, as it stands in reports. NaN: not measured or nothing to measure.

    psnr_*: dB, pooled over the pixels of that part. coverage and share_*: shares of all pixels,
    the same for every method of a horizon: share_observed and share_memory make up the coverage,
    the others are causes of holes. flicker: grey values between consecutive views, beside
    `flicker_truth` of the real ones. depth_*: of the imagined view's depth. camera_*: see
    CameraControl, beside camera_floor_* of the real pictures. gradient_holes: octaves.
    """

    method: str
    horizon_s: float
    frames: int
    coverage: float
    psnr_all: float = math.nan
    psnr_covered: float = math.nan
    psnr_holes: float = math.nan
    ssim_all: float = math.nan
    ssim_covered: float = math.nan
    ssim_holes: float = math.nan
    psnr_observed: float = math.nan
    psnr_memory: float = math.nan
    psnr_imagined: float = math.nan
    psnr_disoccluded: float = math.nan
    psnr_out_of_view: float = math.nan
    psnr_no_depth: float = math.nan
    psnr_other: float = math.nan
    share_observed: float = math.nan
    share_memory: float = math.nan
    share_disoccluded: float = math.nan
    share_out_of_view: float = math.nan
    share_no_depth: float = math.nan
    share_other: float = math.nan
    gradient_all: float = math.nan
    gradient_holes: float = math.nan
    feature_distance: float = math.nan
    lpips_all: float = math.nan
    fid: float = math.nan
    flicker: float = math.nan
    flicker_truth: float = math.nan
    depth_abs_rel: float = math.nan
    depth_farther: float = math.nan
    depth_known: float = math.nan
    camera_score: float = math.nan
    camera_rotation_deg: float = math.nan
    camera_translation_m: float = math.nan
    camera_found: float = math.nan
    camera_floor_score: float = math.nan
    camera_floor_rotation_deg: float = math.nan
    camera_floor_translation_m: float = math.nan
    revisit_frames: int = 0
    psnr_revisit: float = math.nan
    psnr_moving: float = math.nan
    psnr_static: float = math.nan
    share_moving: float = math.nan


class Mean:
    """A mean that leaves out what is not finite."""

    def __init__(self) -> None:
        self._total = 0.0
        self.count = 0

    def add(self, value: float) -> None:
        """Take in a value."""
        if math.isfinite(value):
            self._total += value
            self.count += 1

    @property
    def value(self) -> float:
        """NaN without a value."""
        return self._total / self.count if self.count else math.nan


@dataclass
class Score:
    """Errors of one method at one horizon, pooled over all starts."""

    errors: dict[str, SquaredError] = field(
        default_factory=lambda: {part: SquaredError() for part in PARTS})
    means: dict[str, Mean] = field(default_factory=dict)
    depth: DepthError = field(default_factory=DepthError)
    control: CameraControl = field(default_factory=CameraControl)
    views: int = 0
    revisits: int = 0
    _features: list[Float] = field(default_factory=list)
    _true_features: list[Float] = field(default_factory=list)

    def add(self, image: Image, truth: Image, parts: Mapping[str, Mask]) -> None:
        """Take in a picture; `parts` [H, W] by name, 'covered' and 'holes' among them."""
        self.views += 1
        self.errors["all"].add(image, truth)
        for name, mask in parts.items():
            self.errors[name].add(image, truth, mask)
        similarity = ssim_map(image, truth)
        self.mean("ssim_all", float(similarity.mean()))
        for part in ("covered", "holes"):
            if parts[part].any():
                self.mean(f"ssim_{part}", float(similarity[parts[part]].mean()))

    def mean(self, name: str, value: float) -> None:
        """Take in one view's value of a figure that is averaged over views."""
        self.means.setdefault(name, Mean()).add(value)

    def add_perceptual(self, image: Image, truth: Image, holes: Mask, networks: Networks) -> None:
        """Take in the distances that do not compare pixel with pixel."""
        self.mean("gradient_all", gradient_spectrum_distance(image, truth))
        if holes.any():
            self.mean("gradient_holes", gradient_spectrum_distance(image, truth, holes))
        if networks.features is not None:
            pair = networks.features.features([image, truth])
            self.mean("feature_distance", float(cosine_distance(pair[0], pair[1])))
        if networks.lpips is not None:
            self.mean("lpips_all", networks.lpips.distance(image, truth))
        if networks.fid is not None and len(self._features) < _MOST_FOR_FRECHET:
            self._features.append(networks.fid.of_picture(image))
            self._true_features.append(networks.fid.of_picture(truth))

    def add_revisit(self, image: Image, truth: Image) -> None:
        """Take in a view of a place that was seen before and left."""
        self.revisits += 1
        self.errors["revisit"].add(image, truth)

    def fill(self, result: Result) -> Result:
        """The figures of this score, written into `result`."""
        result.frames, result.revisit_frames = self.views, self.revisits
        for part, error in self.errors.items():
            setattr(result, f"psnr_{part}", error.psnr)
        for name, mean in self.means.items():
            setattr(result, name, mean.value)
        result.depth_abs_rel = self.depth.abs_rel
        result.depth_farther, result.depth_known = self.depth.farther, self.depth.known
        result.camera_score, result.camera_found = self.control.score, self.control.found
        result.camera_rotation_deg = self.control.angle
        result.camera_translation_m = self.control.distance
        if len(self._features) >= _LEAST_FOR_FRECHET:
            result.fid = frechet_distance(self._features, self._true_features)
        return result
