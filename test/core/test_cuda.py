# SPDX-License-Identifier: Apache-2.0
"""What only a GPU can show; skipped without one."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from inspatio_ros.geometry import rigid
from inspatio_ros.geometry.camera import PinholeCamera
from inspatio_ros.geometry.trajectory import CameraTrajectory
from inspatio_ros.imagination.backends import BackendOptions, make_backend
from inspatio_ros.imagination.engine import ImaginationEngine
from inspatio_ros.imagination.request import ImaginationRequest
from inspatio_ros.memory.world_memory import WorldMemory
from inspatio_ros.sensing.observation import Observation
from inspatio_ros.training.draws import Draw
from inspatio_ros.worlds.street import street

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


def imagined(device: str) -> np.ndarray:
    """Pictures of the small model along a street, its own pixels everywhere."""
    world = street(3)
    camera = PinholeCamera(320, 192, 230.0, 230.0, 159.5, 95.5)
    times = np.arange(13) * 0.1
    mast = rigid.from_euler(0.0, 0.0, 0.0, (0.0, 0.0, 1.4)) @ rigid.BODY_FROM_OPTICAL
    poses = world.drive(4.0, times) @ mast
    view = world.render(camera, poses[0])
    seen = Observation(0, view.image, view.depth, camera, poses[0])
    memory = WorldMemory()
    memory.integrate(seen)
    engine = ImaginationEngine(make_backend(BackendOptions("tiny", device=device)))
    request = ImaginationRequest(
        camera, CameraTrajectory(poses[1:], times[1:]), (seen,), mode="model")
    frames = [frame.image for block in engine.imagine(request, memory) for frame in block.frames]
    return np.stack(frames).astype(np.float64)


def test_the_small_model_shows_the_same_as_on_a_cpu() -> None:
    """Noise differs between devices, and half precision is rounded elsewhere: nearly the same."""
    error = np.square(imagined("cuda") - imagined("cpu")).mean()
    assert 10 * np.log10(255**2 / error) > 25.0


def test_draws_follow_from_their_key() -> None:
    like = torch.empty(3, 2, 4, device="cuda")
    first, again = (Draw((1, "x"), 3).normal(like, (2,)) for _ in range(2))
    assert first.device.type == "cuda"
    assert first.shape == (2, 3, 2, 4)
    assert torch.equal(first, again)
    # A clip's numbers do not depend on its place among the processes.
    assert torch.equal(Draw((1, "x"), 1, first=2).normal(like[:1], (2,))[:, 0], first[:, 2])
