# SPDX-License-Identifier: Apache-2.0
"""How far a thing went, where flow does not reach: tried and judged by both looks."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from inspatio_ros.geometry.camera import PinholeCamera
from inspatio_ros.memory import displacement_numba as kernels
from inspatio_ros.memory.displacement import MOST_DOUBT, DisplacementSearch
from inspatio_ros.memory.motion import Look, look_at
from inspatio_ros.sensing.observation import Observation

CAMERA = PinholeCamera(416, 240, 280.0, 280.0, 207.5, 119.5)
UP = np.array([0.0, -1.0, 0.0])
WALL = 10.0
# Sides of the thing, m.
WIDTH, HEIGHT = 2.0, 1.4


def texture(seed: int) -> np.ndarray:
    noise = np.random.default_rng(seed).uniform(0, 255, (512, 512)).astype(np.float32)
    return np.clip((cv2.GaussianBlur(noise, (0, 0), 4.0) - 127) * 10 + 127, 0, 255)


WALL_TEXTURE, TEXTURE = texture(1), texture(2)


def look(x: float, z: float, stamp_s: float) -> tuple[Look, np.ndarray]:
    """A wall, and before it a board with its middle at (x, 0, z) m; which pixels show it."""
    v, u = np.mgrid[0:240, 0:416].astype(np.float64)
    right, down = (u - CAMERA.cx) / CAMERA.fx, (v - CAMERA.cy) / CAMERA.fy

    def at(picture: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return picture[(b * 60).astype(int) % 512, (a * 60).astype(int) % 512]

    along, across = right * z - x, down * z
    thing = (np.abs(along) <= WIDTH / 2) & (np.abs(across) <= HEIGHT / 2)
    gray = np.where(thing, at(TEXTURE, along + 20, across + 20),
                    at(WALL_TEXTURE, right * WALL + 40, down * WALL + 40))
    depth = np.where(thing, z, WALL).astype(np.float32)
    image = np.repeat(gray.astype(np.uint8)[..., None], 3, axis=2)
    return look_at(Observation(round(stamp_s * 1e9), image, depth, CAMERA, np.eye(4))), thing


def points(of: Look, where: np.ndarray) -> np.ndarray:
    rows, columns = np.nonzero(where)
    z = of.depth[rows, columns].astype(np.float64)
    return np.stack([(columns - CAMERA.cx) / CAMERA.fx * z, (rows - CAMERA.cy) / CAMERA.fy * z,
                     z], axis=1)


@pytest.mark.parametrize(("dx", "dz"), [(1.2, 0.0), (-1.4, 0.5), (0.0, -1.0), (0.03, 0.0)])
@pytest.mark.parametrize("both", [False, True])
def test_the_way_is_found(dx: float, dz: float, both: bool) -> None:
    """Up to 85 px across the picture."""
    before, there = look(-dx / 2, 4.5 - dz, 0.0)
    now, here = look(dx / 2, 4.5, 0.2)
    earlier = np.ascontiguousarray(points(before, there).T, np.float32) if both else None
    search = DisplacementSearch(now, before, points(now, here), earlier, UP)
    found = search.best(np.zeros(3), 2.0)
    assert found is not None
    np.testing.assert_allclose(found.vector, [dx, 0.0, dz], atol=0.05)
    assert found.cost < 0.15
    assert found.doubt > 0.1
    assert found.cost <= search.cost(np.array([dx, 0.0, dz])) + 0.03


def test_what_comes_into_view_is_found_by_the_part_that_was_seen() -> None:
    before, there = look(-3.7, 4.5, 0.0)
    now, here = look(-2.4, 4.5, 0.2)
    assert 0 < np.count_nonzero(there) < 0.4 * np.count_nonzero(here)
    earlier = np.ascontiguousarray(points(before, there).T, np.float32)
    found = DisplacementSearch(now, before, points(now, here), earlier, UP).best(np.zeros(3), 2.0)
    assert found is not None
    np.testing.assert_allclose(found.vector, [1.3, 0.0, 0.0], atol=0.05)


def test_nothing_is_found_of_what_was_not_there() -> None:
    before, _ = look(-9.0, 4.5, 0.0)
    now, here = look(0.0, 4.5, 0.2)
    assert DisplacementSearch(now, before, points(now, here), None, UP).best(
        np.zeros(3), 2.0) is None


def test_standing_explains_what_stands_best() -> None:
    before, there = look(0.5, 4.5, 0.0)
    now, _ = look(0.5, 4.5, 0.2)
    search = DisplacementSearch(now, before, points(now, there), None, UP)
    stood = search.cost(np.zeros(3))
    assert stood < 0.05
    assert search.cost(np.array([0.3, 0.0, 0.0])) > stood + 0.1
    assert search.cost(np.array([0.0, 0.0, 1.0])) > stood + 0.1


def test_ways_that_are_clearly_worse_are_not_judged_to_their_end() -> None:
    """The best way and all that come near it are the same as if every way were."""
    before, _ = look(-0.6, 4.5, 0.0)
    now, here = look(0.6, 4.5, 0.2)
    xyz = np.ascontiguousarray(points(now, here)[::40].T, np.float32)
    values = np.full(xyz.shape[1], 128.0, np.float32)
    x, z = np.meshgrid(np.arange(-2, 2, 0.05), np.arange(-0.4, 0.4, 0.1))
    shifts = np.stack([x.ravel(), 0 * x.ravel(), z.ravel()], axis=1).astype(np.float32)
    numbers = np.array([CAMERA.fx, CAMERA.fy, CAMERA.cx, CAMERA.cy], np.float32)

    def costs(slack: float) -> np.ndarray:
        found, agreeing = np.zeros(len(shifts), np.float32), np.zeros(len(shifts), np.int32)
        kernels.disagreement(xyz, values, shifts, numbers, before.smoothed(3), before.depth,
                             np.float32(0.03), found, agreeing, np.float32(12),
                             np.float32(slack))
        return found

    slack = MOST_DOUBT * len(values)
    whole, short = costs(np.inf), costs(slack)
    near = whole <= whole.min() + slack
    assert 0 < np.count_nonzero(near) < 0.5 * len(whole)
    np.testing.assert_array_equal(short[near], whole[near])
    assert (short[~near] >= whole.min() + slack).all()
    assert (short <= whole).all()
    assert short.sum() < 0.9 * whole.sum()
