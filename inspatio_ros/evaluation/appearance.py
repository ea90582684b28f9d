# SPDX-License-Identifier: Apache-2.0
"""How imagined clips look beside the true ones, whatever moves in them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from inspatio_ros.evaluation.metrics import SquaredError, ssim
from inspatio_ros.evaluation.perceptual import (
    ScriptedNetwork,
    frechet_distance,
    gradient_spectrum_distance,
)
from inspatio_ros.evaluation.scene_truth import SceneTruth

Image = npt.NDArray[np.uint8]

# Frames that the video network of FVD needs at least.
_LEAST_VIDEO = 10


def sharpness(image: Image) -> float:
    """Root mean square of the Laplacian of a uint8 RGB picture's grey values."""
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float64)
    laplacian = np.asarray(cv2.Laplacian(grey, cv2.CV_64F))
    return float(np.sqrt((laplacian**2).mean()))


class AppearanceScores:
    """Looks of many imagined clips, pooled.

    inception, i3d: TorchScript files of the networks of FID and FVD; without one its figure is
    missing and `missing` says why. Raises WeightsMissing for a file that is no such network.
    """

    def __init__(self, inception: Path | None = None, i3d: Path | None = None) -> None:
        self._everywhere, self._movers, self._rest = (SquaredError() for _ in range(3))
        self._ssim: list[float] = []
        self._spectrum: list[float] = []
        self._sharp: list[float] = []
        self._inception = ScriptedNetwork(inception) if inception else None
        self._i3d = ScriptedNetwork(i3d) if i3d else None
        self._features: dict[str, tuple[list[Any], list[Any]]] = {"fid": ([], []), "fvd": ([], [])}
        self.missing: dict[str, str] = {}
        if self._inception is None:
            self.missing["fid"] = "no Inception network was named (--inception)"
        if self._i3d is None:
            self.missing["fvd"] = "no I3D network was named (--i3d)"

    def add(self, truth: SceneTruth, imagined: Sequence[Image]) -> dict[str, float]:
        """Take in the imagined frames that follow the clip's first one; the clip's own figures."""
        own = SquaredError()
        spectrum, similar, sharp = [], [], []
        for image, true, movers in zip(imagined, truth.images[1:], truth.movers[1:], strict=True):
            for error, mask in ((own, None), (self._everywhere, None), (self._movers, movers),
                                (self._rest, ~movers)):
                error.add(image, true, mask)
            similar.append(ssim(image, true))
            spectrum.append(gradient_spectrum_distance(image, true))
            sharp.append(sharpness(image) / max(sharpness(true), 1e-9))
        self._ssim += similar
        self._spectrum += spectrum
        self._sharp += sharp
        self._add_features(list(truth.images[1:]), imagined)
        return {"psnr": own.psnr, "ssim": float(np.mean(similar)),
                "sharpness": float(np.mean(sharp)), "spectrum_distance": float(np.mean(spectrum))}

    def _add_features(self, true: Sequence[Image], imagined: Sequence[Image]) -> None:
        if self._inception is not None:
            for kept, images in zip(self._features["fid"], (imagined, true), strict=True):
                kept += [self._inception.of_picture(image) for image in images]
        if self._i3d is not None:
            if len(imagined) < _LEAST_VIDEO:
                self.missing["fvd"] = f"a clip has fewer than {_LEAST_VIDEO} frames"
                return
            for kept, images in zip(self._features["fvd"], (imagined, true), strict=True):
                kept.append(self._i3d.of_video(images))

    def figures(self) -> dict[str, float]:
        """All clips together.

        psnr, psnr_moving, psnr_static in dB, pooled over pixels. ssim. sharpness: Laplacian over
        the true one, 1 is as sharp. spectrum_distance: octaves, 0 is alike. fid, fvd: NaN where
        `missing` says why.
        """
        mean = {"ssim": self._ssim, "sharpness": self._sharp, "spectrum_distance": self._spectrum}
        found = {"psnr": self._everywhere.psnr, "psnr_moving": self._movers.psnr,
                 "psnr_static": self._rest.psnr}
        found |= {key: float(np.mean(values)) if values else math.nan
                  for key, values in mean.items()}
        return found | {key: math.nan if key in self.missing else frechet_distance(*pair)
                        for key, pair in self._features.items()}
