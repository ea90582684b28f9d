# SPDX-License-Identifier: Apache-2.0
"""How far colours are off where they are seen again: exact, wrong and no geometry."""

from __future__ import annotations

import cv2
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from inspatio_ros.geometry import rigid
from inspatio_ros.geometry.camera import PinholeCamera
from inspatio_ros.memory.seen_again import OCTAVES, SeenAgain, parallax_octave
from inspatio_ros.memory.world_memory import MemoryOptions, WorldMemory
from inspatio_ros.sensing.observation import Observation

CAMERA = PinholeCamera(208, 120, 150.0, 150.0, 103.5, 59.5)
WIDE = cv2.GaussianBlur(
    np.random.default_rng(0).normal(128, 400, (120, 1200, 3)), (0, 0), 5.0
).clip(0, 255).astype(np.uint8)
STEP = 12  # pixels from look to look before a wall 3 m away


def look(number: int, depth: float = 3.0, brighter: float = 0.0, seconds: float = 0.5
         ) -> Observation:
    """Of a camera that goes sideways before a wall; depth: what it takes its distance for."""
    image = WIDE[:, 100 + STEP * number:308 + STEP * number].astype(float) + brighter * number
    pose = rigid.from_euler(0, 0, 0, (number * STEP * 3.0 / 150.0, 0, 0))
    return Observation(round(number * seconds * 1e9), image.clip(0, 255).astype(np.uint8),
                       np.full((120, 208), depth, np.float32), CAMERA, pose)


def told(*looks: Observation) -> np.ndarray | None:
    seen = SeenAgain()
    for one in looks:
        seen.add(one)
    return seen.errors


def test_with_exact_geometry_hardly_anything_is_off() -> None:
    errors = told(*(look(n) for n in range(6)))
    assert errors is not None
    assert errors.max() < 30


def test_with_wrong_geometry_more_is_the_more_parallax_there_is() -> None:
    errors = told(*(look(n, depth=2.0) for n in range(10)))
    assert errors is not None
    assert errors.dtype == np.float32
    # Looks are 12 pixels apart, 18 of a wall 2 m off: octaves 4.5, 5.5, 6.5 and 7.5 of 208.
    assert errors[4] > 100
    assert errors[5] > 1.5 * errors[4]
    assert errors[0] == errors[4]


def test_exposure_is_no_error() -> None:
    errors = told(*(look(n, brighter=-6.0) for n in range(5)))
    assert errors is not None
    assert errors.max() < 40


def test_nothing_is_told_before_there_is_something_to_compare() -> None:
    assert told() is None
    assert told(look(0)) is None
    blind = [Observation(one.stamp_ns, one.image, np.full_like(one.depth, np.nan), CAMERA,
                         one.world_from_camera) for one in (look(0), look(1))]
    assert told(*blind) is None
    # Too near in time, and too far apart.
    assert told(look(0), look(1, seconds=0.1)) is None
    assert told(look(0), look(1, seconds=60.0)) is None


def test_time_that_jumps_back_begins_anew() -> None:
    seen = SeenAgain()
    for number in (8, 9, 0):
        seen.add(look(number, depth=2.0))
    before = seen.errors
    assert before is not None
    seen.add(look(1, depth=2.0))
    assert seen.errors is not None
    seen.reset()
    assert seen.errors is None


def test_what_is_held_is_bounded() -> None:
    seen = SeenAgain()
    for number in range(12):
        seen.add(look(number))
    held = seen.nbytes
    for number in range(12, 60):
        seen.add(look(number))
    assert seen.nbytes == held < 2_000_000


@settings(deadline=None, max_examples=30)
@given(st.lists(st.tuples(st.floats(0.5, 30.0), st.floats(-0.4, 0.4)), min_size=2, max_size=8),
       st.integers(8, 300))
def test_errors_are_finite_and_never_less_for_more_parallax(
        ways: list[tuple[float, float]], width: int) -> None:
    camera = CAMERA.resized(width, max(4, width // 2))
    seen, random = SeenAgain(), np.random.default_rng(0)
    for number, (depth, turn) in enumerate(ways):
        depths = np.full((camera.height, camera.width), depth, np.float32)
        depths[random.random(depths.shape) < 0.2] = np.nan
        seen.add(Observation(number * 500_000_000, random.integers(
            0, 256, (*depths.shape, 3), np.uint8), depths, camera,
            rigid.from_euler(0, turn, 0, (0.1 * number, 0, 0))))
    errors = seen.errors
    if errors is not None:
        assert errors.shape == (OCTAVES,)
        assert np.isfinite(errors).all()
        assert (np.diff(errors) >= 0).all()


def test_octaves_of_parallax() -> None:
    assert parallax_octave(0.5) == OCTAVES - 1
    assert parallax_octave(2.0**-8) == 0
    assert parallax_octave(0.0) == 0


def test_a_guide_tells_it_until_the_memory_is_cleared() -> None:
    memory = WorldMemory(MemoryOptions(capacity=100_000))
    memory.integrate(look(0, depth=2.0))
    assert memory.render(CAMERA, np.eye(4)).seen_again is None
    memory.integrate(look(1, depth=2.0))
    again, alone = memory.render(CAMERA, np.eye(4)).seen_again, told(
        look(0, depth=2.0), look(1, depth=2.0))
    assert again is not None
    assert alone is not None
    np.testing.assert_array_equal(again, alone)
    memory.clear()
    assert memory.render(CAMERA, np.eye(4)).seen_again is None
