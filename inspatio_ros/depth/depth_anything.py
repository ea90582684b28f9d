# SPDX-License-Identifier: Apache-2.0
"""Depth Anything 3 through its own package: depth of one picture, or depth and cameras of several.

The package (PyPI `depth-anything-3`) and its weights are the user's to install; its models differ
in what their depth means, which the name in config.json tells.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from inspatio_ros.depth.estimator import EstimatorError
from inspatio_ros.geometry import rigid
from inspatio_ros.geometry.camera import PinholeCamera

Depth = npt.NDArray[np.float32]
Picture = npt.NDArray[np.uint8]
Array = npt.NDArray[np.float64]

# The focal length in pixels at which the metric model's result is metres (its documentation).
_METRIC_FOCAL = 300.0
_SKY = 0.3  # share from which a pixel counts as sky, as in the package's own use


@dataclass(frozen=True, eq=False)
class EstimatedViews:
    """Depth and cameras of several pictures of one scene.

    depths: float32 [H, W] each, NaN unknown. cameras: of each picture at its full size.
    world_from_cameras: [T, 4, 4]. is_metric: whether all are in m, else in one unknown unit.
    """

    depths: list[Depth]
    cameras: list[PinholeCamera]
    world_from_cameras: Array
    is_metric: bool


class DepthAnything3:
    """Depth Anything 3 of a local folder with config.json and model.safetensors.

    `da3nested-*` gives metres, `da3metric-*` metres once the focal length is known, the others
    relative depth. process_size: longer side in pixels at which the network runs. gives_poses:
    whether `estimate_views` can tell the cameras. Raises EstimatorError when the package is absent
    or cannot be imported, or the folder is incomplete.
    """

    def __init__(self, folder: str | Path, *, device: str = "", process_size: int = 504) -> None:
        root = Path(folder)
        for name in ("config.json", "model.safetensors"):
            if not (root / name).is_file():
                raise EstimatorError(f"{root}: no {name}; put a Depth Anything 3 checkpoint there")
        self.model_name = str(json.loads(
            (root / "config.json").read_text(encoding="utf-8")).get("model_name", ""))
        try:
            import torch
            from depth_anything_3.api import DepthAnything3 as Model
        except (ImportError, RuntimeError) as error:
            raise EstimatorError("Depth Anything 3 needs its package: pip install --no-deps "
                                 f"depth-anything-3, and what it imports ({error})") from error
        self._nested = "nested" in self.model_name
        self._focal = not self._nested and "metric" in self.model_name
        self.is_metric = self._nested or self._focal
        # Those of single pictures (`da3mono-*`, `da3metric-*`) have no camera head.
        self.gives_poses = self._nested or self.model_name.startswith("da3-")
        self._size = process_size
        chosen = device or ("cuda" if torch.cuda.is_available() else "cpu")
        self._model: Any = Model.from_pretrained(
            str(root), local_files_only=True).to(chosen).eval()

    def estimate(self, image: Picture, camera: PinholeCamera) -> Depth:
        """z-depth in m or relative inverse depth, float32 [H, W]; sky is NaN."""
        result = self._model.inference([image], process_res=self._size)
        depth = self._depth(result, 0, camera)
        return depth if self.is_metric else np.asarray(1 / depth, np.float32)

    def estimate_views(self, images: Sequence[Picture], cameras: Sequence[PinholeCamera] = (),
                       world_from_cameras: Array | None = None) -> EstimatedViews:
        """Depth and cameras of pictures of one scene, poses estimated unless given.

        cameras and world_from_cameras [T, 4, 4]: both or neither; with them depth takes the scale
        of the poses. Raises ValueError when their numbers differ, EstimatorError when the model
        gives no poses.
        """
        given = world_from_cameras is not None
        poses_given = 0 if world_from_cameras is None else len(world_from_cameras)
        if (given or cameras) and not len(images) == len(cameras) == poses_given:
            raise ValueError(f"{len(images)} pictures, {len(cameras)} cameras and "
                             f"{poses_given} poses: they must be as many")
        extra: dict[str, Any] = {}
        if world_from_cameras is not None:
            extra = {
                "extrinsics": rigid.invert(world_from_cameras).astype(np.float32),
                "intrinsics": np.stack([c.matrix for c in cameras]).astype(np.float32)}
        # use_ray_pose off: cameras from the pose head, as the public release takes them.
        result = self._model.inference(
            list(images), process_res=self._size, use_ray_pose=False, **extra)
        if world_from_cameras is not None:
            used, poses = list(cameras), world_from_cameras
        elif result.extrinsics is None or result.intrinsics is None:
            raise EstimatorError(f"{self.model_name}: gives no camera poses; use one of the "
                                 "any-view models")
        else:
            used = [_camera_of(matrix, result.depth.shape[1:], image)
                    for matrix, image in zip(result.intrinsics, images, strict=True)]
            poses = rigid.invert(_square(result.extrinsics))
        depths = [self._depth(result, i, camera) for i, camera in enumerate(used)]
        return EstimatedViews(depths, used, poses, self._nested or given)

    def _depth(self, result: Any, index: int, camera: PinholeCamera) -> Depth:
        small = np.asarray(result.depth[index], np.float32)
        if self._focal:
            small = small * np.float32(camera.fx * small.shape[1] / camera.width / _METRIC_FOCAL)
        if result.sky is not None:
            small = np.where(np.asarray(result.sky[index], np.float32) >= _SKY, np.nan, small)
        # Nearest keeps silhouettes and the border of the sky sharp.
        large = cv2.resize(np.asarray(small, np.float32), camera.size,
                           interpolation=cv2.INTER_NEAREST)
        return np.asarray(np.where(large > 0, large, np.nan), np.float32)

    def close(self) -> None:
        """Free weights and device memory."""
        self._model = None


def _square(extrinsics: npt.NDArray[np.floating]) -> Array:
    """Transforms [T, 4, 4] of [T, 3, 4] or [T, 4, 4]."""
    whole = np.tile(np.eye(4), (len(extrinsics), 1, 1))
    whole[:, :3, :4] = extrinsics[:, :3, :4]
    return whole


def _camera_of(matrix: npt.NDArray[np.floating], shape: tuple[int, int],
               image: Picture) -> PinholeCamera:
    small = PinholeCamera.from_matrix(matrix, shape[1], shape[0])
    return small.resized(image.shape[1], image.shape[0])
