# SPDX-License-Identifier: Apache-2.0
"""Trajectory motions against stored results of the public release."""

from __future__ import annotations

import json

import numpy as np
import pytest

from inspatio_ros.geometry import motions
from support.fixtures import parity_fixture

PARITY = {"rtol": 0.0, "atol": 1e-6}


def _motion(keys: list[list[float]]) -> motions.CameraMotion:
    pitch, yaw, displacement = (np.array(track) for track in keys)
    return motions.CameraMotion(np.radians(pitch), np.radians(yaw), displacement)


def test_relative_poses_parity() -> None:
    fixture = parity_fixture()
    info = json.loads(fixture.metadata["traj"])
    compared = 0
    for name, keys in info["keyframes"].items():
        for key in fixture.names(f"traj/out/{name}/"):
            run = key.split("/")[3]
            frames = int(run.split("_")[0].removeprefix("n"))
            poses = motions.relative_poses(
                _motion(keys), frames, rotation_only=run.endswith("rotation_only"), parity=True)
            np.testing.assert_allclose(poses, fixture[key], **PARITY, err_msg=key)
            compared += 1
    assert compared >= 2 * len(info["keyframes"])


def test_total_angle_parity() -> None:
    info = json.loads(parity_fixture().metadata["traj"])
    for name, keys in info["keyframes"].items():
        assert np.degrees(_motion(keys).total_angle) == pytest.approx(info["total_angle"][name])


def test_source_smoothing_parity() -> None:
    fixture = parity_fixture()
    source = fixture["traj/in/source_c2w"].astype(np.float64)
    smooth = motions.smoothed_poses(source, parity=True)
    np.testing.assert_allclose(smooth, fixture["traj/out/smoothed_c2w"], **PARITY)


@pytest.mark.parametrize("rotation_only", [False, True])
@pytest.mark.parametrize("relative", [False, True])
def test_target_poses_parity(rotation_only: bool, relative: bool) -> None:
    fixture = parity_fixture()
    info = json.loads(fixture.metadata["traj"])
    source = fixture["traj/in/source_c2w"].astype(np.float64)
    name = ("relative" if relative else "absolute") + ("_tripod" if rotation_only else "")
    expected = fixture[f"traj/out/target/{name}"]
    matches = []
    for keys in info["keyframes"].values():
        start = motions.relative_poses(
            _motion(keys), len(source), rotation_only=rotation_only, parity=True)
        target = motions.target_poses(
            source, start, relative_to_source=relative, parity=True)
        matches.append(np.abs(target - expected).max())
    assert min(matches) <= 2e-6


def test_bounce_indices_parity() -> None:
    fixture = parity_fixture()
    keys = fixture.names("traj/out/bounce/")
    assert keys
    for key in keys:
        frames, wanted = map(int, key.split("/")[-1].split("_"))
        np.testing.assert_array_equal(motions.bounce_indices(frames, wanted), fixture[key])
