# SPDX-License-Identifier: Apache-2.0
"""Compiles and loads what moving things need before the first image waits for it."""

from __future__ import annotations

import numpy as np

from inspatio_ros.geometry.camera import PinholeCamera
from inspatio_ros.memory.moving import MovingOptions
from inspatio_ros.memory.world_memory import MemoryOptions, WorldMemory
from inspatio_ros.sensing.observation import Observation


def warm_up_moving() -> int:
    """Follow a small square before a wall; how many things were found, which is one."""
    rng = np.random.default_rng(0)
    height, width = 72, 128
    camera = PinholeCamera(width, height, 100.0, 100.0, width / 2, height / 2)
    wall = rng.integers(0, 255, (height // 4, width // 4, 3)).repeat(4, 0).repeat(4, 1)
    thing = rng.integers(0, 255, (8, 8, 3)).repeat(4, 0).repeat(4, 1)
    memory = WorldMemory(MemoryOptions(capacity=40_000, moving=MovingOptions()))
    assert memory.moving is not None
    for number in range(6):
        image, depth = wall.astype(np.uint8), np.full((height, width), 8.0, np.float32)
        window = np.s_[20:52, 10 + 8 * number:42 + 8 * number]
        image[window], depth[window] = thing, 4.0
        seen = Observation(number * 200_000_000, image, depth, camera, np.eye(4))
        memory.integrate(seen)
        memory.render(camera, np.eye(4), (seen,), seen.stamp_ns + 100_000_000)
    return len(memory.moving.objects(seen.stamp_ns))
