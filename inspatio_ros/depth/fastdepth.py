# SPDX-License-Identifier: Apache-2.0
"""FastDepth in eight bits (Wofk et al. 2019): a tiny network for rooms, run by LiteRT."""

from __future__ import annotations

import importlib
import importlib.util
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from inspatio_ros.depth.estimator import EstimatorError
from inspatio_ros.geometry.camera import PinholeCamera
from inspatio_ros.share import share_folder

Depth = npt.NDArray[np.float32]
Picture = npt.NDArray[np.uint8]

FOLDER, FILE = "fastdepth_int8", "fast_depth_224.tflite"
RUNTIMES = ("ai_edge_litert", "tflite_runtime")


def installed_runtime() -> str:
    """The installed package that runs TFLite models, '' when there is none."""
    return next((name for name in RUNTIMES if importlib.util.find_spec(name)), "")


class FastDepth:
    """Relative inverse depth of rooms, trained to 10 m on NYU Depth v2.

    Its metres are off by a factor that changes with camera and scene (0.7 to 1.7 measured), so
    they count as relative and have to be aligned; outdoors they are wrong. path: the TFLite file,
    by default the shipped one. Raises EstimatorError without the file or without LiteRT.
    """

    is_metric = False

    def __init__(self, path: str | Path | None = None, *, threads: int = 2) -> None:
        runtime = installed_runtime()
        if not runtime:
            raise EstimatorError("FastDepth needs LiteRT: pip install 'inspatio_ros[depth]' "
                                 "(ai-edge-litert)")
        file = Path(path) if path else share_folder("weights") / FOLDER / FILE
        if not file.is_file():
            raise EstimatorError(f"{file}: no such file; FastDepth is shipped as "
                                 f"weights/{FOLDER}/{FILE}")
        module = importlib.import_module(f"{runtime}.interpreter")
        try:
            self._network: Any = module.Interpreter(model_path=str(file), num_threads=threads)
            self._network.allocate_tensors()
        except (ValueError, RuntimeError) as error:
            raise EstimatorError(f"{file}: not a TFLite model: {error}") from error
        entry, result = self._network.get_input_details()[0], self._network.get_output_details()[0]
        if list(entry["shape"])[-1] != 3 or entry["dtype"] != np.uint8:
            raise EstimatorError(f"{file}: takes {entry['dtype'].__name__} "
                                 f"{list(entry['shape'])}, not uint8 RGB")
        self._entry, self._result = entry["index"], result["index"]
        self._side = int(entry["shape"][1])
        self._metres_per_count = float(result["quantization"][0])

    def estimate(self, image: Picture, camera: PinholeCamera) -> Depth:
        """Relative inverse depth float32 [H, W] of uint8 RGB [H, W, 3].

        The network sees squares; wide pictures are covered by squares side by side that overlap,
        blended, each with its median brought to that of the first.
        """
        if image.shape != (camera.height, camera.width, 3) or image.dtype != np.uint8:
            raise ValueError(f"picture: expected uint8 RGB {camera.width}x{camera.height}, got "
                             f"{image.dtype} {list(image.shape)}")
        height, width = image.shape[:2]
        side = min(height, width)
        total = np.zeros((height, width), np.float32)
        weights = np.zeros((height, width), np.float32)
        for y, x in _squares(height, width, side):
            inverse = self._square(image[y:y + side, x:x + side])
            ramp = np.minimum(np.arange(side) + 1, np.arange(side)[::-1] + 1).astype(np.float32)
            weight = np.minimum(ramp[:, None], ramp)
            shared = weights[y:y + side, x:x + side] > 0
            if shared.any():
                before = (total[y:y + side, x:x + side][shared]
                          / weights[y:y + side, x:x + side][shared])
                inverse *= np.float32(np.median(before) / np.median(inverse[shared]))
            total[y:y + side, x:x + side] += weight * inverse
            weights[y:y + side, x:x + side] += weight
        return np.asarray(total / weights, np.float32)

    def _square(self, image: Picture) -> Depth:
        small = cv2.resize(image, (self._side, self._side), interpolation=cv2.INTER_AREA)
        self._network.set_tensor(self._entry, small[None])
        self._network.invoke()
        counts = self._network.get_tensor(self._result)[0, ..., 0].astype(np.float32)
        metres = np.maximum(counts, 1) * np.float32(self._metres_per_count)
        return np.asarray(cv2.resize(1 / metres, (image.shape[1], image.shape[0]),
                                     interpolation=cv2.INTER_LINEAR), np.float32)

    def close(self) -> None:
        """Free the network."""
        self._network = None


def _squares(height: int, width: int, side: int) -> list[tuple[int, int]]:
    """Corners (y, x) of squares that cover the picture, overlapping by at least a third."""
    def places(length: int) -> list[int]:
        count = 1 if length == side else 1 + -(-3 * (length - side) // (2 * side))
        return [int(v) for v in np.linspace(0, length - side, count).round()]

    return [(y, x) for y in places(height) for x in places(width)]
