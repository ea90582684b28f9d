# SPDX-License-Identifier: Apache-2.0
"""Training of splats with another rasteriser in gsplat's place: that one needs a CUDA device."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from inspatio_ros.geometry.camera import PinholeCamera
from inspatio_ros.scene import splats
from inspatio_ros.scene.camera_files import Shot
from inspatio_ros.scene.reconstruct import ReconstructionError

CAMERA = PinholeCamera(24, 16, 20.0, 20.0, 11.5, 7.5)


def soft_rasterize(means: Any, quats: Any, scales: Any, opacities: Any, colors: Any,
                   viewmats: Any, matrices: Any, width: int, height: int) -> Any:
    """Round Gaussians, added up; differentiable, any device."""
    inside = means @ viewmats[0, :3, :3].T + viewmats[0, :3, 3]
    pixels = (inside @ matrices[0].T)
    pixels = pixels[:, :2] / pixels[:, 2:].clamp_min(0.1)
    y, x = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    reach = (scales.mean(1) * matrices[0, 0, 0] / inside[:, 2].clamp_min(0.1)).clamp_min(0.5)
    square = (x[None] - pixels[:, 0, None, None]) ** 2 + (y[None] - pixels[:, 1, None, None]) ** 2
    weight = opacities[:, None, None] * torch.exp(-square / (2 * reach[:, None, None] ** 2))
    total = weight.sum(0)[..., None] + 1e-3
    return ((weight[..., None] * colors[:, None, None]).sum(0) / total)[None], total, {}


def test_splats_come_nearer_to_the_pictures(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    (tmp_path / "images").mkdir()
    picture = cv2.resize(rng.integers(0, 255, (4, 6, 3)).astype(np.uint8), (24, 16))
    cv2.imwrite(str(tmp_path / "images/a.png"), picture)
    shots = [Shot("images/a.png", CAMERA, np.eye(4)), Shot("images/a.png", CAMERA, np.eye(4), 1.0)]
    depth = np.full((16, 24), 2.0)
    points = CAMERA.unproject(depth).reshape(-1, 3)[::3]
    grey = np.full((len(points), 3), 128, np.uint8)
    said: list[str] = []
    found = splats.train_splats(tmp_path, shots, points, grey, say=said.append, steps=500,
                                rasterize=soft_rasterize, device="cpu")
    assert found["last_error"] < 0.6 * found["first_error"]
    assert found["count"] == len(points)
    assert said
    body = (tmp_path / splats.SPLATS).read_bytes()
    head, _, rows = body.partition(b"end_header\n")
    assert f"element vertex {len(points)}" in head.decode()
    table = np.frombuffer(rows, "<f4").reshape(len(points), 17)
    assert np.abs(table[:, :3] - points).max() < 0.2
    assert np.isfinite(table).all()


def test_missing_parts_are_named(tmp_path: Path) -> None:
    with pytest.raises(ReconstructionError, match="no points"):
        splats.train_splats(tmp_path, [], np.zeros((0, 3)), np.zeros((0, 3), np.uint8),
                            say=print, rasterize=soft_rasterize, device="cpu")
    if not torch.cuda.is_available():
        with pytest.raises(ReconstructionError, match="CUDA"):
            splats.require_gsplat()
