# SPDX-License-Identifier: Apache-2.0
"""Metrics against their definitions."""

from __future__ import annotations

import math

import numpy as np
import pytest

from inspatio_ros.evaluation.metrics import SquaredError, psnr, ssim, ssim_map


def pictures() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 256, (40, 60, 3), dtype=np.uint8)
    image = np.clip(truth.astype(int) + rng.integers(-30, 31, truth.shape), 0, 255)
    return image.astype(np.uint8), truth


def test_psnr_is_its_definition() -> None:
    image, truth = pictures()
    mse = np.mean((image.astype(float) - truth) ** 2)
    assert psnr(image, truth) == pytest.approx(10 * math.log10(255**2 / mse), abs=1e-12)


def test_a_difference_does_not_wrap_round() -> None:
    black, white = np.zeros((4, 4, 3), np.uint8), np.full((4, 4, 3), 255, np.uint8)
    assert psnr(black, white) == pytest.approx(0.0)
    assert psnr(white, black) == pytest.approx(0.0)


def test_equal_pictures_are_infinitely_alike() -> None:
    _, truth = pictures()
    assert psnr(truth, truth) == math.inf
    assert ssim(truth, truth) == pytest.approx(1.0)


def test_a_mask_counts_its_pixels_only() -> None:
    image, truth = pictures()
    mask = np.zeros(truth.shape[:2], bool)
    mask[:10, :20] = True
    assert psnr(image, truth, mask) == pytest.approx(psnr(image[:10, :20], truth[:10, :20]))
    assert ssim(image, truth, mask) == pytest.approx(ssim_map(image, truth)[:10, :20].mean())
    changed = image.copy()
    changed[~mask] = 0
    assert psnr(changed, truth, mask) == psnr(image, truth, mask)


def test_an_empty_mask_gives_no_number() -> None:
    image, truth = pictures()
    nothing = np.zeros(truth.shape[:2], bool)
    assert math.isnan(psnr(image, truth, nothing))
    assert math.isnan(ssim(image, truth, nothing))


def test_pooling_weighs_pixels_and_not_pictures() -> None:
    image, truth = pictures()
    pooled = SquaredError()
    pooled.add(image, truth)
    pooled.add(truth, truth)
    assert pooled.psnr == pytest.approx(psnr(image, truth) + 10 * math.log10(2), abs=1e-9)


def test_ssim_of_flat_pictures_is_the_luminance_term() -> None:
    a, b = np.full((32, 32, 3), 100, np.uint8), np.full((32, 32, 3), 120, np.uint8)
    c1 = (0.01 * 255) ** 2
    expected = (2 * 100 * 120 + c1) / (100**2 + 120**2 + c1)
    assert ssim(a, b) == pytest.approx(expected, abs=1e-6)


def test_ssim_falls_with_blur_and_psnr_alone_does_not_see_it() -> None:
    rng = np.random.default_rng(1)
    truth = np.repeat(rng.integers(0, 256, (64, 64, 1), dtype=np.uint8), 3, axis=2)
    brighter = np.clip(truth.astype(int) + 40, 0, 255).astype(np.uint8)
    shuffled = rng.permutation(truth.reshape(-1, 3)).reshape(truth.shape)
    assert ssim(brighter, truth) > 0.7 > 0.2 > ssim(shuffled, truth)


@pytest.mark.parametrize("wrong", [
    np.zeros((4, 5, 3), np.uint8), np.zeros((4, 4, 3), np.float32), np.zeros((4, 4), np.uint8)])
def test_pictures_that_cannot_be_compared_are_refused(wrong: np.ndarray) -> None:
    with pytest.raises(ValueError, match="pictures differ"):
        psnr(wrong, np.zeros((4, 4, 3), np.uint8))


def test_a_mask_of_another_size_is_refused() -> None:
    image, truth = pictures()
    with pytest.raises(ValueError, match="mask"):
        psnr(image, truth, np.ones((3, 3), bool))
