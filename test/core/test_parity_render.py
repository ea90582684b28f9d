# SPDX-License-Identifier: Apache-2.0
"""The reference's two render modes against stored results of the reference itself."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch

from inspatio_ros.memory.parity import render_point_cloud, scaled_intrinsics, softmax_warp
from support.fixtures import ParityFixture, parity_fixture


def piece(name: str) -> tuple[ParityFixture, dict[str, Any]]:
    fixture = parity_fixture()
    if name not in fixture.metadata:
        pytest.skip(f"the parity fixture has no piece '{name}'")
    return fixture, json.loads(fixture.metadata[name])


def tensor(fixture: ParityFixture, name: str) -> torch.Tensor:
    return torch.from_numpy(np.array(fixture[name]))


def warp(fixture: ParityFixture, depth: str, target: str) -> tuple[torch.Tensor, torch.Tensor]:
    source_w2c = tensor(fixture, "warper/in/source_w2c")
    target_w2c = tensor(fixture, f"warper/in/{target}")
    return softmax_warp(
        tensor(fixture, "warper/in/rgb"), tensor(fixture, f"warper/in/{depth}"),
        tensor(fixture, "warper/in/K"), target_w2c @ torch.linalg.inv(source_w2c))


@pytest.mark.parametrize(
    ("case", "depth", "target", "tolerance", "share", "mask_pixels"),
    [("moved", "depth", "target_w2c", 1e-3, 0.99, 2),
     ("same_pose", "depth", "source_w2c", 1e-4, 1.0, 0),
     # A rounding of 1e-6 at a depth edge may flip a pixel: the weights span e^50.
     ("rough", "depth_rough", "target_w2c", 1e-3, 0.97, 30)],
)
def test_warper_parity(
    case: str, depth: str, target: str, tolerance: float, share: float, mask_pixels: int
) -> None:
    fixture, _ = piece("warper")
    rgb, known = warp(fixture, depth, target)
    error = (rgb - tensor(fixture, f"warper/out/{case}/rgb")).abs().amax(1)
    differing = (known != tensor(fixture, f"warper/out/{case}/known")).sum()
    assert (error <= tolerance).float().mean() >= share
    assert differing <= mask_pixels


def test_intrinsics_parity() -> None:
    fixture, _ = piece("warper")
    np.testing.assert_allclose(
        scaled_intrinsics(np.asarray(fixture["warper/in/K_for_scaling"], np.float32)),
        fixture["warper/out/K_scaled_832x480"], rtol=1e-6)


def test_point_cloud_parity() -> None:
    fixture, config = piece("ply")
    image, mask = render_point_cloud(
        fixture["ply/in/points"], fixture["ply/in/colors"], fixture["ply/in/K"],
        fixture["ply/in/c2w"], config["height"], config["width"],
        point_size=config["point_size"], supersample=config["supersample"],
        min_depth=config["min_depth"], z_epsilon=config["z_epsilon"])
    np.testing.assert_array_equal(mask, fixture["ply/out/mask"])
    expected = np.asarray(fixture["ply/out/bgr"])[..., ::-1].astype(int)
    alike = np.abs(image.astype(int) - expected).max(-1) <= 2
    assert alike.mean() >= 0.99
