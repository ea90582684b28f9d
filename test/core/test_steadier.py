# SPDX-License-Identifier: Apache-2.0
"""Guesses along a way: steadier from frame to frame, in the world and not in the picture."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inspatio_ros.geometry import rigid
from inspatio_ros.geometry.camera import PinholeCamera
from inspatio_ros.imagination.steadier import Lasting, Steadier

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
    # An exponential mean with 0.7 kept: deviations 0.42, differences 0.23 as large.
    assert made[10:].std() < 0.45 * guesses.std()
    assert np.diff(made[10:], axis=0).std() < 0.26 * np.diff(guesses, axis=0).std()


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


NOTHING = np.zeros((40, 64, 3), np.float32)
PICTURE = np.full((40, 64, 3), 100, np.uint8)


def all_but(*area: slice) -> np.ndarray:
    seen = np.ones((40, 64), np.bool_)
    if area:
        seen[area] = False
    return seen


def aside(pixels: float) -> np.ndarray:
    """Where the wall goes so many pixels to the left."""
    pose = np.eye(4)
    pose[0, 3] = pixels / 50.0 * 2.0
    return pose


def striped() -> np.ndarray:
    """What is seen of the wall: stripes that no filler would draw."""
    picture = PICTURE.copy()
    picture[:, ::2] = 140
    return picture


def test_a_crack_goes_on_showing_what_was_seen_there() -> None:
    lasting, everything, crack = Lasting(CAMERA), all_but(), all_but(slice(None), slice(20, 26))
    lasting.add(striped(), (NOTHING, NOTHING), everything, everything, WALL, HERE)
    shown, held = lasting.add(PICTURE, (NOTHING, NOTHING), crack, crack, WALL, aside(4))
    wanted = np.where(np.arange(20, 26) % 2, 100, 130)[None, :, None]  # three quarters of 40
    np.testing.assert_array_equal(shown[:, 20:26], np.broadcast_to(wanted, (40, 6, 3)))
    np.testing.assert_allclose(held[:, 20:26], 0.8)
    # It fades the longer it is not seen.
    for _ in range(20):
        shown, held = lasting.add(PICTURE, (NOTHING, NOTHING), crack, crack, WALL, aside(4))
    assert np.abs(shown[:, 20:26].astype(int) - 100).max() <= 3
    assert held[:, 20:26].max() < 0.02


def test_what_stood_nearer_is_not_drawn_into_what_it_hid() -> None:
    lasting, everything, gap = Lasting(CAMERA), all_but(), all_but(slice(None), slice(20, 26))
    near = np.full((20, 32), 1.0, np.float32)
    lasting.add(striped(), (NOTHING, NOTHING), everything, everything, near, HERE)
    shown, held = lasting.add(PICTURE, (NOTHING, NOTHING), gap, gap, WALL, HERE)
    np.testing.assert_array_equal(shown, PICTURE)
    assert not held[:, 20:26].any()


def test_what_was_imagined_lasts_longer_than_the_frame() -> None:
    lasting, nothing_seen = Lasting(CAMERA), np.zeros((40, 64), np.bool_)
    bright = np.full((40, 64, 3), 40.0, np.float32)
    first, _ = lasting.add(PICTURE, (NOTHING, bright), nothing_seen, nothing_seen, WALL, HERE)
    second, held = lasting.add(PICTURE, (bright, NOTHING), nothing_seen, nothing_seen, WALL, HERE)
    assert (first == 140).all()
    assert (second == 134).all()
    assert not held.any()


def test_what_is_seen_is_never_touched() -> None:
    lasting, everything = Lasting(CAMERA), all_but()
    more = np.full((40, 64, 3), 5.0, np.float32)
    for pose in (HERE, aside(3)):
        shown, held = lasting.add(striped(), (more, NOTHING), everything, everything, WALL, pose)
        np.testing.assert_array_equal(shown, striped() + np.uint8(5))
        assert (held == 1).all()


def test_a_hint_leaves_what_was_made_of_it_and_the_settled_what_is_shown() -> None:
    more = np.full((40, 64, 3), 20.0, np.float32)
    everything, nothing = all_but(), np.zeros((40, 64), np.bool_)
    for settled, wanted in ((everything, 100), (nothing, 115)):
        lasting = Lasting(CAMERA)
        lasting.add(PICTURE, (more, NOTHING), everything, settled, WALL, HERE)
        shown, _ = lasting.add(PICTURE, (NOTHING, NOTHING), nothing, nothing, WALL, HERE)
        assert (shown == wanted).all()


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 1000))
def test_pictures_stay_between_what_was_drawn_whatever_the_depth(seed: int) -> None:
    rng = np.random.default_rng(seed)
    lasting = Lasting(CAMERA)
    for _ in range(4):
        picture = rng.integers(50, 200, (40, 64, 3), np.uint8)
        added = rng.uniform(-20, 20, (2, 40, 64, 3)).astype(np.float32)
        seen = rng.random((40, 64)) < 0.5
        depth = rng.choice([np.nan, np.inf, 0.0, -1.0, 0.1, 5.0], (20, 32)).astype(np.float32)
        pose = rigid.from_euler(*rng.uniform(-3, 3, 3), rng.uniform(-4, 4, 3))
        shown, held = lasting.add(picture, (added[0], added[1]), seen, seen, depth, pose)
        assert shown.dtype == np.uint8
        assert shown.min() >= 29
        assert shown.max() <= 220
        assert (held[seen] == 1).all()
        assert ((held >= 0) & (held <= 1)).all()
    assert lasting.nbytes < 100_000


def test_pictures_of_another_size_are_refused() -> None:
    small = np.zeros((20, 32, 3), np.float32)
    with pytest.raises(ValueError, match="a picture of 32x20 pixels"):
        Lasting(CAMERA).add(small.astype(np.uint8), (small, small), np.ones((20, 32), np.bool_),
                            np.ones((20, 32), np.bool_), WALL, HERE)


def test_depth_of_another_size_and_pictures_of_a_single_row_are_followed_too() -> None:
    camera = PinholeCamera(64, 1, 50.0, 50.0, 31.5, 0.0)
    row, nothing = np.full((1, 64, 3), 100, np.uint8), np.zeros((1, 64, 3), np.float32)
    bright, unseen = nothing + 40, np.zeros((1, 64), np.bool_)
    lasting = Lasting(camera)
    for added, depth, wanted in ((bright, np.full((1, 64), 2.0, np.float32), 140),
                                 (nothing, np.full((1, 16), 2.0, np.float32), 134)):
        shown, _ = lasting.add(row, (nothing, added), unseen, unseen, depth, HERE)
        assert (shown == wanted).all()
