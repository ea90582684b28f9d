# SPDX-License-Identifier: Apache-2.0
"""Guesses along a way: steadier from frame to frame, in the world and not in the picture."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from inspatio_ros.geometry import rigid
from inspatio_ros.geometry.camera import PinholeCamera
from inspatio_ros.imagination.steadier import Steadier

CAMERA = PinholeCamera(64, 40, 50.0, 50.0, 31.5, 19.5)
WALL = np.full((20, 32), 2.0, np.float32)
HERE = np.eye(4)


def test_the_first_guess_is_taken_as_it_is_and_even_ones_stay() -> None:
    guess = np.full((40, 64, 3), 7.0, np.float32)
    steadier = Steadier(CAMERA)
    np.testing.assert_array_equal(steadier.add(guess, WALL, HERE), guess)
    np.testing.assert_allclose(steadier.add(guess, WALL, HERE), guess)


def test_guesses_that_differ_at_random_differ_less() -> None:
    rng = np.random.default_rng(0)
    guesses = rng.normal(0, 10, (30, 40, 64, 3)).astype(np.float32)
    steadier = Steadier(CAMERA)
    made = np.stack([steadier.add(guess, WALL, HERE) for guess in guesses])
    # An exponential mean with 0.8 kept: deviations 0.33, differences 0.15 as large.
    assert made[10:].std() < 0.36 * guesses.std()
    assert np.diff(made[10:], axis=0).std() < 0.17 * np.diff(guesses, axis=0).std()


def test_it_follows_what_it_sees() -> None:
    edge = np.zeros((40, 64, 1), np.float32)
    edge[:, 32:] = 100.0
    steadier = Steadier(CAMERA)
    steadier.add(edge, WALL, HERE)
    aside = np.eye(4)
    aside[0, 3] = 10 / 50.0 * 2.0  # the wall goes ten pixels to the left
    moved = np.zeros_like(edge)
    moved[:, 22:] = 100.0
    made = steadier.add(moved, WALL, aside)
    np.testing.assert_allclose(made[:, :53], moved[:, :53], atol=1e-3)


@given(seed=st.integers(0, 30), channels=st.sampled_from([1, 3]))
def test_it_stays_between_its_guesses(seed: int, channels: int) -> None:
    rng = np.random.default_rng(seed)
    steadier = Steadier(CAMERA)
    for _ in range(4):
        guess = rng.uniform(-50, 50, (40, 64, channels)).astype(np.float32)
        depth = rng.choice([np.nan, np.inf, 0.0, -1.0, 0.1, 5.0], (20, 32)).astype(np.float32)
        pose = rigid.from_euler(*rng.uniform(-3, 3, 3), rng.uniform(-4, 4, 3))
        made = steadier.add(guess, depth, pose)
        assert made.shape == guess.shape
        assert made.dtype == np.float32
        assert np.isfinite(made).all()
        assert np.abs(made).max() <= 50.0 + 1e-3
    assert steadier.nbytes < 100_000


def test_another_size_is_refused() -> None:
    with pytest.raises(ValueError, match="a guess of 32x20 pixels"):
        Steadier(CAMERA).add(np.zeros((20, 32, 3), np.float32), WALL, HERE)
