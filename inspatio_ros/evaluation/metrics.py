# SPDX-License-Identifier: Apache-2.0
"""How alike two pictures are."""

from __future__ import annotations

import math

import cv2
import numpy as np
import numpy.typing as npt

Image = npt.NDArray[np.uint8]
Mask = npt.NDArray[np.bool_]

# Wang et al. 2004: window sigma and the two stabilising constants for 8-bit pictures.
SSIM_SIGMA = 1.5
SSIM_C1 = (0.01 * 255.0) ** 2
SSIM_C2 = (0.03 * 255.0) ** 2


class SquaredError:
    """Pooled squared colour error of many pictures; `psnr` in dB of all pixels together.

    Pooling over pixels rather than averaging pictures' PSNR keeps one perfect picture from hiding
    many bad ones.
    """

    def __init__(self) -> None:
        self.total = 0.0
        self.count = 0

    def add(self, image: Image, truth: Image, mask: Mask | None = None) -> None:
        """Take in a picture [H, W, 3] against the truth, where `mask` [H, W] holds."""
        _check(image, truth, mask)
        difference = image.astype(np.int32) - truth
        if mask is not None:
            difference = difference[mask]
        # In integers: sums of floats would depend on their order.
        self.total += float((difference * difference).sum(dtype=np.int64))
        self.count += int(difference.size)

    @property
    def psnr(self) -> float:
        """dB; NaN without a pixel, infinite without an error."""
        if self.count == 0:
            return math.nan
        if self.total == 0:
            return math.inf
        return 10.0 * math.log10(255.0**2 * self.count / self.total)


def psnr(image: Image, truth: Image, mask: Mask | None = None) -> float:
    """Peak signal-to-noise ratio in dB of uint8 [H, W, 3] pictures, where `mask` [H, W] holds."""
    error = SquaredError()
    error.add(image, truth, mask)
    return error.psnr


def ssim_map(image: Image, truth: Image) -> npt.NDArray[np.float64]:
    """Structural similarity [H, W] in [-1, 1], mean over the channels (Wang et al. 2004)."""
    _check(image, truth, None)
    a, b = image.astype(np.float64), truth.astype(np.float64)

    def blur(x: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        smooth = cv2.GaussianBlur(x, (11, 11), SSIM_SIGMA, borderType=cv2.BORDER_REFLECT)
        return np.asarray(smooth, dtype=np.float64)

    mean_a, mean_b = blur(a), blur(b)
    variance_a, variance_b = blur(a * a) - mean_a**2, blur(b * b) - mean_b**2
    covariance = blur(a * b) - mean_a * mean_b
    similarity = ((2 * mean_a * mean_b + SSIM_C1) * (2 * covariance + SSIM_C2)) / (
        (mean_a**2 + mean_b**2 + SSIM_C1) * (variance_a + variance_b + SSIM_C2))
    return np.asarray(similarity.mean(axis=2))


def ssim(image: Image, truth: Image, mask: Mask | None = None) -> float:
    """Mean structural similarity of uint8 [H, W, 3] pictures; NaN when `mask` is empty."""
    similarity = ssim_map(image, truth)
    if mask is None:
        return float(similarity.mean())
    return float(similarity[mask].mean()) if mask.any() else math.nan


def _check(image: Image, truth: Image, mask: Mask | None) -> None:
    if image.shape != truth.shape or image.dtype != np.uint8 or truth.dtype != np.uint8:
        raise ValueError(f"pictures differ: {image.dtype} {image.shape}, {truth.dtype} "
                         f"{truth.shape}; both must be uint8 of one shape")
    if mask is not None and (mask.shape != image.shape[:2] or mask.dtype != np.bool_):
        raise ValueError(f"mask: expected bool {image.shape[:2]}, got {mask.dtype} {mask.shape}")
