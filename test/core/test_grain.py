# SPDX-License-Identifier: Apache-2.0
"""Grain: as strong as around, in holes only, the same for the same seed."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from inspatio_ros.evaluation.perceptual import gradient_spectrum_distance
from inspatio_ros.geometry.camera import PinholeCamera
from inspatio_ros.geometry.trajectory import CameraTrajectory
from inspatio_ros.imagination.backends import BackendOptions, make_backend
from inspatio_ros.imagination.generator import GeneratorBackend
from inspatio_ros.imagination.grain import Grain
from inspatio_ros.imagination.request import ImaginationRequest
from inspatio_ros.memory.guide import Guide
from inspatio_ros.model.finisher import Finisher, FinisherConfig
from inspatio_ros.sensing.observation import Provenance


def rough(height: int, width: int, strength: float, seed: int = 0) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(128, strength, (height, width, 1))
    return np.repeat(noise.clip(0, 255).astype(np.uint8), 3, axis=2)


def test_a_smooth_hole_in_a_rough_picture_is_made_rougher() -> None:
    truth = rough(240, 416, 20.0)
    known = np.ones(truth.shape[:2], np.bool_)
    known[60:180, 100:300] = False
    filled = np.where(known[..., None], truth, np.uint8(128)).astype(np.uint8)
    made = Grain((416, 240), 3).add(filled, known)
    np.testing.assert_array_equal(made[known], filled[known])
    before, after = (gradient_spectrum_distance(p, truth, ~known) for p in (filled, made))
    assert after < 0.5 * before
    # It says nothing about color, and hardly moves the mean.
    assert np.ptp(made.astype(int) - filled, axis=2).max() == 0
    assert abs(float(made[~known].mean()) - 128.0) < 1.0


def test_grain_is_strong_where_its_surroundings_are() -> None:
    smooth, strong = rough(160, 200, 0.5), rough(160, 200, 25.0, 1)
    picture = np.hstack([smooth, strong])
    known = np.ones(picture.shape[:2], np.bool_)
    known[60:100, 60:140] = known[60:100, 260:340] = False
    filled = np.where(known[..., None], picture, np.uint8(128)).astype(np.uint8)
    made = Grain((400, 160), 0).add(filled, known).astype(float)
    assert made[60:100, 60:140].std() < 1.5
    assert made[60:100, 260:340].std() > 4.0


def test_what_is_rough_already_stays_as_it_is() -> None:
    picture = rough(120, 160, 15.0)
    known = np.ones(picture.shape[:2], np.bool_)
    known[30:90, 40:120] = False
    made = Grain((160, 120), 0).add(picture, known)
    changed = np.abs(made.astype(int) - picture)[~known]
    assert changed.mean() < 0.3


@given(width=st.integers(1, 70), height=st.integers(1, 70), seed=st.integers(0, 3),
       share=st.floats(0, 1))
def test_every_size_and_mask(width: int, height: int, seed: int, share: float) -> None:
    rng = np.random.default_rng(seed)
    picture = rng.integers(0, 255, (height, width, 3)).astype(np.uint8)
    known = rng.uniform(size=(height, width)) < share
    made = Grain((width, height), seed).add(picture, known)
    assert made.dtype == np.uint8
    np.testing.assert_array_equal(made[known], picture[known])
    np.testing.assert_array_equal(made, Grain((width, height), seed).add(picture, known))


def test_another_size_is_refused() -> None:
    with pytest.raises(ValueError, match="cannot be added"):
        Grain((16, 12), 0).add(rough(12, 20, 1.0), np.ones((12, 20), np.bool_))


def test_a_model_that_makes_texture_has_grain_and_known_pixels_stay() -> None:
    backend = make_backend(BackendOptions("tiny_random"))
    assert isinstance(backend, GeneratorBackend)
    camera = PinholeCamera(416, 240, 300.0, 300.0, 207.5, 119.5)
    labels = np.full((240, 416), Provenance.OBSERVED, np.uint8)
    labels[:, 300:] = Provenance.UNKNOWN
    image = cv2.GaussianBlur(rough(240, 416, 60.0), (0, 0), 0.7)
    guides = [Guide(image, np.full(labels.shape, 2.0, np.float32), labels)] * 12

    def made(seed: int) -> list[np.ndarray]:
        request = ImaginationRequest(
            camera, CameraTrajectory(np.eye(4)[None], np.zeros(1)), (), seed=seed)
        return backend.begin(request).fill(guides, ())

    smooth = made(1)
    torch.manual_seed(0)
    backend.finisher = Finisher(replace(FinisherConfig(), grain=True)).to(torch.bfloat16).eval()
    grained, again, other = made(1), made(1), made(2)
    for plain, picture, same in zip(smooth, grained, again, strict=True):
        np.testing.assert_array_equal(picture, same)
        np.testing.assert_array_equal(picture[:, :300], plain[:, :300])
    assert grained[0][:, 300:].astype(float).std() > smooth[0][:, 300:].astype(float).std()
    assert not np.array_equal(grained[0], other[0])
