# SPDX-License-Identifier: Apache-2.0
"""Distances of pictures: known answers without weights, properties with random ones."""

from __future__ import annotations

import math
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from inspatio_ros.evaluation.perceptual import (
    FeatureNetwork,
    Lpips,
    ScriptedNetwork,
    WeightsMissing,
    cosine_distance,
    feature_distance,
    frechet_distance,
    gradient_spectrum,
    gradient_spectrum_distance,
)
from support.data import feature_file


def textured(seed: int = 0, shape: tuple[int, int] = (120, 160)) -> np.ndarray:
    noise = np.random.default_rng(seed).integers(0, 256, (*shape, 3), dtype=np.uint8)
    return np.asarray(cv2.GaussianBlur(noise, (0, 0), 1.0))


def test_equal_pictures_have_equal_spectra_and_position_does_not_count() -> None:
    image = textured()
    assert gradient_spectrum_distance(image, image) == 0.0
    assert gradient_spectrum_distance(image, image[:, ::-1].copy()) < 0.02
    assert gradient_spectrum_distance(textured(1), textured(2)) < 0.25


def test_the_distance_grows_with_the_blur() -> None:
    image = textured()
    blurred = [gradient_spectrum_distance(image, cv2.GaussianBlur(image, (0, 0), sigma))
               for sigma in (0.7, 1.5, 3.0, 6.0)]
    assert blurred == sorted(blurred)
    assert blurred[0] > 0.1
    assert blurred[-1] > 1.5


def test_contrast_halved_is_one_octave_at_every_scale() -> None:
    wide = textured().astype(np.float64)
    strong = np.clip(128 + (wide - 128) * 1.5, 0, 255).astype(np.uint8)
    weak = np.rint(128 + (strong.astype(np.float64) - 128) / 2).astype(np.uint8)
    assert gradient_spectrum_distance(strong, weak) == pytest.approx(1.0, abs=0.15)


def test_what_lies_outside_the_mask_has_no_effect_at_all() -> None:
    image = textured()
    mask = np.zeros(image.shape[:2], bool)
    mask[20:100, 30:120] = True
    other = image.copy()
    other[~mask] = 255 - other[~mask]
    np.testing.assert_array_equal(gradient_spectrum(image, mask), gradient_spectrum(other, mask))
    assert gradient_spectrum_distance(image, other, mask) == 0.0
    assert gradient_spectrum_distance(image, cv2.GaussianBlur(image, (0, 0), 3), mask) > 1.0


def test_a_mask_too_small_has_no_spectrum() -> None:
    image = textured()
    mask = np.zeros(image.shape[:2], bool)
    mask[10:14, 10:14] = True
    assert math.isnan(gradient_spectrum_distance(image, image, mask))
    with pytest.raises(ValueError, match="mask"):
        gradient_spectrum_distance(image, image, mask.astype(np.uint8))  # type: ignore[arg-type]


def test_frechet_distance_of_known_gaussians() -> None:
    rng = np.random.default_rng(0)
    a = rng.normal(size=(4000, 3))
    assert frechet_distance(a, a) == pytest.approx(0.0, abs=1e-9)
    assert frechet_distance(a, a + [3.0, 4.0, 0.0]) == pytest.approx(25.0, abs=1e-9)
    # One covariance four times the other: (2 - 1)^2 of each axis' deviation.
    centred = a - a.mean(axis=0)
    expected = float((centred.var(axis=0, ddof=1)).sum())
    assert frechet_distance(centred, 2 * centred) == pytest.approx(expected, rel=1e-9)
    assert math.isnan(frechet_distance(a[:1], a))


def test_cosine_distance_of_known_angles() -> None:
    a = np.array([[1.0, 0.0], [1.0, 0.0], [1.0, 0.0]], np.float32)
    b = np.array([[2.0, 0.0], [0.0, 3.0], [-1.0, 0.0]], np.float32)
    np.testing.assert_allclose(cosine_distance(a, b), [0.0, 1.0, 2.0])


def test_features_tell_small_changes_from_large_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    network = FeatureNetwork(feature_file())
    image = textured(3, (140, 210))
    near = feature_distance(image, np.roll(image, 2, axis=1), network)
    far = feature_distance(image, cv2.GaussianBlur(image, (0, 0), 6), network)
    assert feature_distance(image, image, network) == pytest.approx(0.0, abs=1e-6)
    assert near < 0.5 * far
    assert network.features([image]).shape == (1, 1280)
    monkeypatch.setenv("INSPATIO_FEATURES", str(feature_file()))
    assert feature_distance(image, np.roll(image, 2, axis=1)) == pytest.approx(near, abs=1e-6)


def test_the_network_names_what_it_sees() -> None:
    """The layers are in the right order with the right padding: a real street is a street."""
    from support.data import data_dir

    picture = cv2.imread(str(data_dir("kitti_city_lidar") / "rgb/0000.jpg"))[:, 375:750, ::-1]
    network = FeatureNetwork(feature_file())
    weights = torch.load(feature_file(), weights_only=True)
    features = torch.from_numpy(network.features([np.ascontiguousarray(picture)]))
    scores = (features @ weights["_fc.weight"].T + weights["_fc.bias"])[0]
    best = set(scores.topk(5).indices.tolist())
    assert best & {468, 656, 920}  # cab, minivan, traffic light


def test_missing_and_foreign_weights_are_named(tmp_path: Path,
                                               monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(WeightsMissing, match="no such file"):
        FeatureNetwork(tmp_path / "none.pth")
    torch.save({"a": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(WeightsMissing, match="lacks _conv_stem"):
        FeatureNetwork(tmp_path / "other.pth")
    (tmp_path / "text.pth").write_text("no weights")
    with pytest.raises(WeightsMissing, match="cannot be read"):
        FeatureNetwork(tmp_path / "text.pth")
    with pytest.raises(WeightsMissing, match="no TorchScript"):
        ScriptedNetwork(tmp_path / "text.pth")
    monkeypatch.delenv("INSPATIO_FEATURES", raising=False)
    with pytest.raises(WeightsMissing, match="INSPATIO_FEATURES"):
        feature_distance(textured(), textured())


def alexnet_files(folder: Path) -> tuple[Path, Path]:
    """Random weights in the shapes of AlexNet's convolutions and of LPIPS' heads."""
    torch.manual_seed(0)
    backbone, heads, before = {}, {}, 3
    shapes = (("0", 64, 11), ("3", 192, 5), ("6", 384, 3), ("8", 256, 3), ("10", 256, 3))
    for layer, (number, channels, kernel) in enumerate(shapes):
        backbone[f"features.{number}.weight"] = 0.05 * torch.randn(channels, before, kernel,
                                                                   kernel)
        backbone[f"features.{number}.bias"] = torch.zeros(channels)
        heads[f"lin{layer}.model.1.weight"] = torch.rand(1, channels, 1, 1)
        before = channels
    torch.save(backbone, folder / "alexnet.pth")
    torch.save(heads, folder / "heads.pth")
    return folder / "alexnet.pth", folder / "heads.pth"


def test_lpips_is_zero_for_equal_pictures_symmetric_and_grows(tmp_path: Path) -> None:
    lpips = Lpips(*alexnet_files(tmp_path))
    image = textured()
    blurs = [lpips.distance(image, cv2.GaussianBlur(image, (0, 0), s)) for s in (0.6, 1.5, 4.0)]
    assert lpips.distance(image, image) == 0.0
    assert 0 < blurs[0] < blurs[1] < blurs[2]
    soft = cv2.GaussianBlur(image, (0, 0), 4.0)
    assert lpips.distance(soft, image) == pytest.approx(blurs[2], rel=1e-5)


def test_a_scripted_network_gives_features(tmp_path: Path) -> None:
    class Colors(torch.nn.Module):
        def forward(self, x: torch.Tensor, return_features: bool) -> torch.Tensor:
            return x.float().mean(dim=(2, 3))

    torch.jit.script(Colors()).save(str(tmp_path / "colors.pt"))
    image = np.full((20, 30, 3), (10, 20, 30), np.uint8)
    np.testing.assert_allclose(ScriptedNetwork(tmp_path / "colors.pt").of_picture(image),
                               [10, 20, 30])
