# SPDX-License-Identifier: Apache-2.0
"""How strong fine structure usually is, of one picture and of all that a memory saw."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from inspatio_ros.geometry.camera import PinholeCamera
from inspatio_ros.memory.usual_detail import UsualDetail, detail_level
from inspatio_ros.memory.world_memory import MemoryOptions, WorldMemory
from inspatio_ros.sensing.observation import Observation


def noise(strength: float, height: int = 60, width: int = 208) -> np.ndarray:
    grey = np.random.default_rng(0).normal(128, strength, (height, width, 1))
    return np.repeat(grey, 3, axis=2).clip(0, 255).astype(np.uint8)


def test_fine_structure_alone_counts() -> None:
    assert 5.0 < detail_level(noise(6.0)) < 7.0
    ramp = np.broadcast_to(np.linspace(0, 255, 208)[None, :, None], (60, 208, 3))
    assert detail_level(ramp.astype(np.uint8)) < 1.2
    assert detail_level(cv2.GaussianBlur(noise(40.0), (0, 0), 6.0)) < 1.5
    assert detail_level(np.full((1, 1, 3), 77, np.uint8)) == pytest.approx(0.5)


def test_it_hardly_depends_on_the_size() -> None:
    small = cv2.GaussianBlur(noise(60.0), (0, 0), 1.0)
    large = cv2.resize(small, (832, 240), interpolation=cv2.INTER_CUBIC)
    assert detail_level(large) == pytest.approx(detail_level(small), rel=0.15)


@given(st.lists(st.floats(1.0, 60.0), min_size=1, max_size=12))
def test_the_mean_is_between_the_pictures_and_forgotten(strengths: list[float]) -> None:
    usual = UsualDetail()
    assert usual.level is None
    pictures = [noise(strength, 12, 20) for strength in strengths]
    for picture in pictures:
        usual.add(picture)
    levels = [detail_level(picture) for picture in pictures]
    assert usual.level is not None
    assert usual.level == pytest.approx(float(np.exp(np.mean(np.log(levels)))))
    usual.reset()
    assert usual.level is None


def test_old_pictures_fade_at_last() -> None:
    usual = UsualDetail()
    for picture in [noise(40.0, 12, 20)] * 150 + [noise(2.0, 12, 20)] * 600:
        usual.add(picture)
    assert usual.level == pytest.approx(detail_level(noise(2.0, 12, 20)), rel=0.1)


def test_a_guide_tells_what_the_memory_saw() -> None:
    camera = PinholeCamera(40, 24, 30.0, 30.0, 19.5, 11.5)
    memory = WorldMemory(MemoryOptions(capacity=4000))
    assert memory.render(camera, np.eye(4)).usual_detail is None
    pictures = [noise(strength, 24, 40) for strength in (4.0, 36.0)]
    for number, picture in enumerate(pictures):
        memory.integrate(Observation(number, picture, np.full((24, 40), 2.0, np.float32), camera,
                                     np.eye(4)))
    levels = [detail_level(picture) for picture in pictures]
    told = memory.render(camera, np.eye(4)).usual_detail
    assert told == pytest.approx(np.sqrt(levels[0] * levels[1]))
    memory.clear()
    assert memory.render(camera, np.eye(4)).usual_detail is None
