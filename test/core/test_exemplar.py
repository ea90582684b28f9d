# SPDX-License-Identifier: Apache-2.0
"""Detail by example: from where it looks alike, in holes only, standing still in the world."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from inspatio_ros.evaluation.perceptual import gradient_spectrum_distance
from inspatio_ros.geometry import rigid
from inspatio_ros.geometry.camera import PinholeCamera
from inspatio_ros.geometry.trajectory import CameraTrajectory
from inspatio_ros.imagination import exemplar as exemplar_module
from inspatio_ros.imagination.backends import BackendOptions, make_backend
from inspatio_ros.imagination.exemplar import (
    _BUDGET,
    _GROWTH,
    _UNEVEN,
    _USUAL_ERROR,
    Exemplar,
    Experience,
)
from inspatio_ros.imagination.generator import GeneratorBackend
from inspatio_ros.imagination.request import ImaginationRequest
from inspatio_ros.memory.guide import Guide
from inspatio_ros.memory.usual_detail import detail_level
from inspatio_ros.sensing.observation import Observation, Provenance

CAMERA = PinholeCamera(416, 240, 300.0, 300.0, 207.5, 119.5)
HERE = np.eye(4)
WALL = np.full((120, 208), 3.0, np.float32)
# The same wall between things far behind it: what is guessed there may be wrong by much.
UNEVEN = WALL.copy()
UNEVEN[:30] = UNEVEN[90:] = 30.0
# A wall that comes nearer in the middle, where nothing was seen of it.
BULGING = np.repeat(
    np.interp(np.arange(120), (0, 20, 30, 60, 90), (30, 9, 9, 3, 9))[:, None], 208, axis=1
).astype(np.float32)


@pytest.fixture(autouse=True)
def all_detail(monkeypatch: pytest.MonkeyPatch) -> None:
    """Detail as strong as in the example whatever it costs, but in the tests of that."""
    monkeypatch.setattr(exemplar_module, "_BUDGET", 1e9)
    monkeypatch.setattr(exemplar_module, "_SHARES", (1.0, 1.0, 1.0))


def rough(height: int, width: int, strength: float, seed: int = 0) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(128, strength, (height, width, 1))
    soft = cv2.GaussianBlur(np.repeat(noise, 3, axis=2), (0, 0), 0.8)
    return np.asarray(soft.clip(0, 255), np.uint8)


def hole(*area: slice) -> np.ndarray:
    empty = np.zeros((240, 416), np.bool_)
    empty[area] = True
    return empty


def test_a_smooth_hole_gets_the_structure_of_the_example() -> None:
    truth = rough(240, 416, 60.0)
    empty = hole(slice(60, 180), slice(100, 300))
    filled = np.where(empty[..., None], np.uint8(128), truth).astype(np.uint8)
    made = Exemplar(truth, CAMERA, 1.9).add(filled, empty, WALL, HERE)
    np.testing.assert_array_equal(made[~empty], filled[~empty])
    before, after = (gradient_spectrum_distance(p, truth, empty) for p in (filled, made))
    assert after < 0.35 * before
    assert abs(float(made[empty].mean()) - 128.0) < 4.0


def test_detail_comes_from_what_looks_alike() -> None:
    example = np.full((240, 416, 3), (40, 160, 40), np.uint8)
    example[:, 208:] = np.clip(rough(240, 208, 60.0).astype(int) + (72, -40, -40), 0, 255)
    # Both holes are elsewhere than their like in the example: it is mirrored.
    empty = hole(slice(60, 180), slice(40, 160)) | hole(slice(60, 180), slice(260, 380))
    guess = np.full((240, 416, 3), (40, 160, 40), np.uint8)
    guess[:, :208] = (200, 88, 88)
    made = Exemplar(example, CAMERA, 1.9).add(guess, empty, WALL, HERE).astype(float)
    assert made[80:160, 60:140].std(axis=(0, 1)).min() > 6.0
    assert made[80:160, 280:360].std(axis=(0, 1)).max() < 2.0


def test_of_two_that_look_alike_what_stands_level_is_taken() -> None:
    example = np.full((240, 416, 3), 128, np.uint8)
    example[120:] = rough(120, 416, 60.0)
    empty = hole(slice(20, 100), slice(100, 300)) | hole(slice(140, 220), slice(100, 300))
    guess = np.full((240, 416, 3), 128, np.uint8)
    made = Exemplar(example, CAMERA, 1.9).add(guess, empty, WALL, HERE)
    assert made[30:90, 120:280].std() < 2.0
    assert made[150:210, 120:280].std() > 6.0


def test_edges_of_the_example_are_subdued() -> None:
    example = np.full((240, 416, 3), 100, np.uint8)
    example[:, ::32] = 255  # fine lines, far above their surroundings
    empty = hole(slice(60, 180), slice(100, 300))
    guess = np.asarray(cv2.GaussianBlur(example, (0, 0), 4.0), np.uint8)
    made = Exemplar(example, CAMERA, 1.9).add(guess, empty, WALL, HERE).astype(int)
    over = (made - guess)[80:160, 120:280]
    assert 12 < over.max() <= 38


def test_detail_is_nearly_as_strong_as_is_usual_in_the_picture() -> None:
    """What comes from a faint place is made stronger, what comes from a strong one fainter."""
    example = rough(240, 416, 60.0).astype(float)
    example[:, :208] = 40 + 0.3 * (example[:, :208] - 128)
    example = np.asarray(example.clip(0, 255), np.uint8)
    empty = hole(slice(40, 200), slice(20, 396))
    guess = np.full((240, 416, 3), 40, np.uint8)
    guess[:, 208:] = 128
    made = Exemplar(example, CAMERA, 1.9).add(guess, empty, WALL, HERE)
    np.testing.assert_array_equal(made[~empty], guess[~empty])

    def fine(picture: np.ndarray, columns: slice) -> float:
        grey = picture.astype(np.float32).mean(axis=2)
        finest = grey - cv2.GaussianBlur(grey, (0, 0), 1.9)
        return float(finest[60:180, columns].std())

    faint, strong = slice(60, 180), slice(240, 360)
    own = [fine(example, columns) for columns in (faint, strong)]
    assert own[0] < 0.4 * own[1]
    usual = np.sqrt(np.mean(np.square(own)))
    for columns, strength in zip((faint, strong), own, strict=True):
        wanted = strength ** _UNEVEN * usual ** (1 - _UNEVEN)
        assert abs(fine(made, columns) - wanted) < 0.3 * wanted


def patchwork(contrast: float) -> np.ndarray:
    """Even patches of 48 pixels and the same fine noise on all of them."""
    patches = np.random.default_rng(1).uniform(-contrast, contrast, (5, 9, 1))
    coarse = np.repeat(np.repeat(patches, 48, axis=0), 48, axis=1)[:, :416]
    noise = rough(240, 416, 24.0).astype(float) - 128
    return np.asarray((128 + coarse + noise).clip(0, 255), np.uint8)


def added(example: np.ndarray, usual: float | None = None) -> np.ndarray:
    """What becomes of an even guess in the middle half of the picture, less the guess."""
    empty = hole(slice(None), slice(104, 312))
    guess = np.full((240, 416, 3), 128, np.uint8)
    made = Exemplar(example, CAMERA, 1.9, Experience(usual)).add(guess, empty, WALL, HERE)
    return made.astype(float)[:, 104:312] - 128


def test_detail_costs_a_share_of_what_the_guess_is_expected_to_be_off_by(
        monkeypatch: pytest.MonkeyPatch) -> None:
    example = patchwork(24.0)
    whole = added(example)
    monkeypatch.setattr(exemplar_module, "_BUDGET", _BUDGET)
    held = added(example)
    middle, rim = slice(72, 136), slice(8, 24)
    assert held[:, middle].std() < 0.7 * whole[:, middle].std()
    # Of patches that know nothing of each other.
    off = float(np.var(cv2.resize(example, (52, 30), interpolation=cv2.INTER_AREA)))
    price = _BUDGET * (off / _USUAL_ERROR) ** _GROWTH * off  # of each of three bands
    assert 0.5 * price < np.square(held[:, middle]).mean() < 3 * price
    # Near what was seen the guess is better.
    assert held[:, rim].std() < 0.75 * held[:, middle].std()
    assert whole[:, rim].std() > 0.85 * whole[:, middle].std()
    # The more a picture varies the less the same detail matters.
    varied = added(patchwork(90.0))[:, middle].std()
    assert varied > 1.2 * held[:, middle].std()


def test_next_to_what_was_seen_it_is_stronger_where_that_itself_is_off(
        monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exemplar_module, "_BUDGET", _BUDGET)
    example, guess = patchwork(24.0), np.full((240, 416, 3), 128, np.uint8)
    empty = hole(slice(None), slice(104, 312))
    aside = rigid.from_euler(0, 0, 0, (0.3, 0, 0))  # by 30 pixels of 416: 1/14
    errors = np.array([0, 0, 0, 0, 0, 900, 900, 900], np.float32)

    def rim(seen_again: np.ndarray | None, taken_from: np.ndarray) -> float:
        exemplar = Exemplar(example, CAMERA, 1.9, Experience(None, seen_again), taken_from)
        made = exemplar.add(guess, empty, WALL, aside)
        return float(made[:, 112:128].astype(float).std())

    good = rim(None, HERE)
    assert rim(np.zeros(8, np.float32), HERE) == good
    assert rim(errors, aside) == good  # seen from where it was taken
    assert rim(errors, HERE) > 1.3 * good


def test_a_share_of_the_picture_stays_as_it_is() -> None:
    truth, empty = rough(240, 416, 60.0), hole(slice(60, 180), slice(100, 300))
    guess = np.full((240, 416, 3), 128, np.uint8)
    made = {}
    for share in (0.0, 0.75, 1.0):
        plain = np.full(empty.shape, share, np.float32)
        made[share] = Exemplar(truth, CAMERA, 1.9).add(guess, empty, WALL, HERE, plain)
    np.testing.assert_array_equal(
        made[0.0], Exemplar(truth, CAMERA, 1.9).add(guess, empty, WALL, HERE))
    np.testing.assert_array_equal(made[1.0], guess)
    np.testing.assert_allclose(made[0.75].astype(float) - 128,
                               (made[0.0].astype(float) - 128) / 4, atol=1.0)


@pytest.mark.parametrize(("factor", "shown"), [(0.6, 0.6), (1.5, 1.5), (0.1, 0.5), (9.0, 2.0)])
def test_detail_is_as_strong_as_usual_within_a_factor(factor: float, shown: float) -> None:
    example = rough(240, 416, 12.0)
    own, made = (added(example, usual) for usual in (None, factor * detail_level(example)))
    assert abs(made.std() / own.std() - shown) < 0.15 * shown


def test_no_seam_shows_where_places_meet() -> None:
    """Coarse detail goes over from one place's to the next one's within some pixels."""
    wave = 40 * np.sin(np.arange(416) * 2 * np.pi / 60)
    example = np.asarray(np.broadcast_to((128 + wave)[None, :, None], (240, 416, 3)).round(),
                         np.uint8)
    exemplar = Exemplar(example, CAMERA, 1.9)
    rows, columns = exemplar._places.shape[:2]
    y, x = np.mgrid[:rows, :columns].astype(np.float32)
    # Every second column of 16 pixels shows what is half a wave beside it.
    x = np.where((x // 16) % 2 > 0, (x + 30) % 384, x)
    exemplar._places[:] = np.dstack([x, y])
    gains = np.ones((*exemplar._grid, 3), np.float32)
    layer = exemplar._layer(gains)[60:180, 40:340]
    band = sum(part.astype(float) for part in exemplar._bands[1:])
    hard = band[y.astype(int), x.astype(int)][60:180, 40:340]
    jumps = [float(np.abs(np.diff(picture, axis=1)).max()) for picture in (hard, layer)]
    assert layer.std() > 0.5 * hard.std()
    assert jumps[1] < 0.4 * jumps[0]


def test_it_stands_still_in_the_world() -> None:
    example = rough(240, 416, 60.0)
    empty = hole(slice(40, 200), slice(60, 380))
    guess = np.full((240, 416, 3), 128, np.uint8)
    exemplar = Exemplar(example, CAMERA, 1.9)
    first = exemplar.add(guess, empty, WALL, HERE)
    # Five steps of 2.5 pixels to the right before a wall: all of it goes 12.5 to the left.
    for step in range(1, 6):
        pose = np.eye(4)
        pose[0, 3] = step * 2.5 / 300.0 * 3.0
        last = exemplar.add(guess, empty, WALL, pose)
    shift = np.float32([[1, 0, -12.5], [0, 1, 0]])
    moved = cv2.warpAffine(first, shift, (416, 240))
    inner = (slice(60, 180), slice(80, 340))
    apart = np.abs(moved[inner].astype(int) - last[inner]).mean()
    still = np.abs(first[inner].astype(int) - last[inner]).mean()
    assert apart < 0.35 * still


def test_what_fits_no_longer_is_looked_up_anew() -> None:
    example = np.full((240, 416, 3), 60, np.uint8)
    example[:, 208:] = np.clip(rough(240, 208, 60.0).astype(int) + 60, 0, 255)
    empty = hole(slice(60, 180), slice(100, 300))
    dark, bright = (np.full((240, 416, 3), grey, np.uint8) for grey in (60, 188))
    exemplar = Exemplar(example, CAMERA, 1.9)
    smooth = exemplar.add(dark, empty, WALL, HERE)
    assert smooth[80:160, 120:280].std() < 2.0
    for _ in range(12):
        textured = exemplar.add(bright, empty, WALL, HERE)
    assert textured[80:160, 120:280].std() > 6.0


def test_what_is_like_nothing_gets_no_detail() -> None:
    example = np.clip(rough(240, 416, 40.0).astype(int) - 60, 0, 255).astype(np.uint8)
    empty = hole(slice(60, 180), slice(100, 300))
    bright = np.full((240, 416, 3), 200, np.uint8)
    exemplar = Exemplar(example, CAMERA, 1.9)
    for _ in range(3):
        np.testing.assert_array_equal(exemplar.add(bright, empty, WALL, HERE), bright)
    dark = np.full((240, 416, 3), 68, np.uint8)
    assert exemplar.add(dark, empty, WALL, HERE)[80:160, 120:280].std() > 5.0


@given(width=st.integers(1, 70), height=st.integers(1, 70), seed=st.integers(0, 5),
       share=st.floats(0, 1), coarseness=st.floats(1, 6))
def test_every_size_mask_and_way(width: int, height: int, seed: int, share: float,
                                 coarseness: float) -> None:
    rng = np.random.default_rng(seed)
    camera = PinholeCamera(width, height, 40.0, 40.0, width / 2, height / 2)
    example = rng.integers(0, 255, (height, width, 3)).astype(np.uint8)
    exemplars = [Exemplar(example, camera, coarseness) for _ in range(2)]
    held = exemplars[0].nbytes
    for _ in range(3):
        picture = rng.integers(0, 255, (height, width, 3)).astype(np.uint8)
        empty = rng.uniform(size=(height, width)) < share
        depth = rng.choice([np.nan, np.inf, 0.0, -1.0, 0.1, 5.0], (
            -(-height // 2), -(-width // 2))).astype(np.float32)
        pose = rigid.from_euler(*rng.uniform(-3, 3, 3), rng.uniform(-4, 4, 3))
        made, again = (e.add(picture, empty, depth, pose) for e in exemplars)
        assert made.dtype == np.uint8
        np.testing.assert_array_equal(made[~empty], picture[~empty])
        np.testing.assert_array_equal(made, again)
    assert exemplars[0].nbytes == held


def test_another_size_is_refused() -> None:
    picture = rough(12, 20, 1.0)
    with pytest.raises(ValueError, match="20x12 pixels does not belong"):
        Exemplar(picture, CAMERA, 2.0)
    exemplar = Exemplar(rough(240, 416, 1.0), CAMERA, 2.0)
    with pytest.raises(ValueError, match="cannot be added"):
        exemplar.add(picture, np.ones((12, 20), np.bool_), WALL, HERE)


def test_a_model_with_a_finisher_gives_detail_where_nothing_was_seen() -> None:
    backend = make_backend(BackendOptions("tiny_random"))
    assert isinstance(backend, GeneratorBackend)
    labels = np.full((240, 416), Provenance.OBSERVED, np.uint8)
    labels[:, 300:] = Provenance.UNKNOWN
    labels[:, 250:300] = Provenance.IMAGINED
    image = rough(240, 416, 60.0)
    depth = np.full(labels.shape, 2.0, np.float32)
    guides = [Guide(image, depth, labels)] * 12
    seen = (Observation(0, image, depth, CAMERA, np.eye(4)),)

    def made(references: tuple[Observation, ...]) -> list[np.ndarray]:
        request = ImaginationRequest(CAMERA, CameraTrajectory(np.eye(4)[None], np.zeros(1)),
                                     references)
        return backend.begin(request).fill(guides, references)

    smooth, detailed, again = made(()), made(seen), made(seen)
    for plain, picture, same in zip(smooth, detailed, again, strict=True):
        np.testing.assert_array_equal(picture, same)
        np.testing.assert_array_equal(picture[:, :250], plain[:, :250])
    distances = [gradient_spectrum_distance(p[0], image, labels == Provenance.UNKNOWN)
                 for p in (smooth, detailed)]
    assert distances[1] < 0.6 * distances[0]


def test_what_moves_fast_beside_the_camera_gets_little_detail() -> None:
    truth = rough(240, 416, 60.0)
    empty = hole(slice(60, 180), slice(100, 300))
    guess = np.full((240, 416, 3), 128, np.uint8)
    still, fast, turned = (Exemplar(truth, CAMERA, 1.9) for _ in range(3))
    strength = {}
    for name, exemplar, pose in (
            ("still", still, HERE), ("fast", fast, rigid.from_euler(0, 0, 0, (1.0, 0, 0))),
            ("turned", turned, rigid.from_euler(0, 0.3, 0))):
        exemplar.add(guess, empty, UNEVEN, HERE)
        made = exemplar.add(guess, empty, UNEVEN, pose)
        strength[name] = float(made[empty].std())
    # A metre beside a wall three metres off: 100 pixels. Turning is followed whatever the depth.
    assert strength["fast"] < 0.3 * strength["still"]
    assert strength["turned"] > 0.8 * strength["still"]


def test_next_to_what_was_seen_and_among_even_depths_detail_stays() -> None:
    """There the depth is guessed well, and so is the way of what moves; not where two ways of
    guessing say something else."""
    truth = rough(240, 416, 60.0)
    empty = hole(slice(60, 180), slice(0, 416))
    guess = np.full((240, 416, 3), 128, np.uint8)

    def kept(depth: np.ndarray) -> tuple[float, float]:
        made = []
        for pose in (HERE, rigid.from_euler(0, 0, 0, (0.1, 0, 0))):  # by 10 pixels
            exemplar = Exemplar(truth, CAMERA, 1.9)
            exemplar.add(guess, empty, depth, HERE)
            made.append(exemplar.add(guess, empty, depth, pose).astype(float))
        rim, middle = (made[1][rows, 30:386].std() / made[0][rows, 30:386].std()
                       for rows in (slice(68, 76), slice(112, 128)))
        return float(rim), float(middle)

    rim, middle = kept(BULGING)
    assert rim > 0.5
    assert middle < 0.5 * rim
    assert min(kept(WALL)) > 0.95
