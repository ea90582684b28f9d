# SPDX-License-Identifier: Apache-2.0
"""Depth estimation models of the transformers library, from a local folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from inspatio_ros.depth.estimator import EstimatorError
from inspatio_ros.geometry.camera import PinholeCamera

Depth = npt.NDArray[np.float32]

# Families whose result is metres whatever their configuration says.
_METRIC_FAMILIES = frozenset({"zoedepth", "depth_pro", "chmv2"})


class TransformersDepth:
    """A `depth-estimation` model (Depth Anything, DPT, ZoeDepth, GLPN, ...) of a local folder.

    folder: config.json, preprocessor_config.json and safetensors as transformers saves them;
    nothing is downloaded and no code of the folder is run. is_metric: whether the model gives
    metres, by default what its configuration says (Depth Anything's `depth_estimation_type`; GLPN
    and DPT do not say and count as relative). device: torch's name, by default the GPU where there
    is one. Raises EstimatorError when transformers is absent or the folder is not such a model.
    """

    def __init__(self, folder: str | Path, *, is_metric: bool | None = None,
                 device: str = "") -> None:
        try:
            import torch
            from transformers import AutoImageProcessor, AutoModelForDepthEstimation
        except ImportError as error:
            raise EstimatorError("depth models need transformers: pip install "
                                 f"'inspatio_ros[depth]' ({error})") from error
        root = Path(folder)
        if not (root / "config.json").is_file():
            raise EstimatorError(f"{root}: no config.json; put a depth-estimation model in "
                                 "transformers' layout there")
        self._device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        local: Any = {"local_files_only": True, "trust_remote_code": False}
        try:
            load_processor: Any = AutoImageProcessor.from_pretrained
            self._processor: Any = load_processor(root, **local)
            model: Any = AutoModelForDepthEstimation.from_pretrained(
                root, use_safetensors=True, **local)
        except (OSError, ValueError, KeyError, ImportError) as error:
            raise EstimatorError(f"{root}: not a depth-estimation model: {error}") from error
        self._model: Any = model.to(self._device).eval()
        stated = (getattr(model.config, "depth_estimation_type", "relative") == "metric"
                  or model.config.model_type in _METRIC_FAMILIES)
        self.is_metric = stated if is_metric is None else is_metric

    def estimate(self, image: npt.NDArray[np.uint8], camera: PinholeCamera) -> Depth:
        """z-depth in m or relative inverse depth, float32 [H, W], of uint8 RGB [H, W, 3]."""
        import torch

        inputs = self._processor(images=image, return_tensors="pt").to(self._device)
        with torch.inference_mode():
            result = self._model(**inputs).predicted_depth
        small = result.reshape(result.shape[-2:]).float().cpu().numpy()
        depth = cv2.resize(small, camera.size, interpolation=cv2.INTER_LINEAR)
        if self.is_metric:
            depth = np.where(depth > 0, depth, np.nan)
        return np.asarray(depth, np.float32)

    def close(self) -> None:
        """Free weights and device memory."""
        self._model = self._processor = None
