# SPDX-License-Identifier: Apache-2.0
"""Panoramas: right cameras for their views, no seam, other pictures refused, full turns closed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pytest

from inspatio_ros.evaluation.metrics import psnr
from inspatio_ros.geometry import rigid
from inspatio_ros.geometry.camera import PinholeCamera
from inspatio_ros.geometry.trajectory import CameraTrajectory
from inspatio_ros.imagination.engine import ImaginationEngine
from inspatio_ros.imagination.filler import GeometricFiller
from inspatio_ros.imagination.request import ImaginationRequest, ImaginedFrame
from inspatio_ros.memory.world_memory import MemoryOptions, WorldMemory
from inspatio_ros.scene.panorama import (
    Panorama,
    PanoramaError,
    centred_camera,
    covering_poses,
    directions_to_pixels,
    laid_out,
    panorama_directions,
    turned,
    with_estimated_ranges,
)
from inspatio_ros.sensing.observation import Observation
from inspatio_ros.worlds.room import room

WORLD = room(0, moving=False)
HERE = rigid.from_euler(0, 0, 0.2, (-1.5, -1.2, 1.3)) @ rigid.BODY_FROM_OPTICAL
HEIGHT = 256


class Look(NamedTuple):
    image: npt.NDArray[np.uint8]
    camera: PinholeCamera
    world_from_camera: npt.NDArray[np.float64]


def see(camera: PinholeCamera, pose: npt.NDArray[np.float64]) -> Observation:
    view = WORLD.render(camera, HERE @ pose, samples=2)
    return Observation(0, view.image, view.depth, camera, pose)


@pytest.fixture(scope="module")
def panorama() -> Panorama:
    """The room from one place, exact, made of rays by way of cubes' faces."""
    camera = centred_camera(300, 300, math.radians(92))
    seen = [see(camera, turned(yaw, pitch)) for yaw, pitch in (
        *((i * math.pi / 2, 0.0) for i in range(4)), (0.0, math.pi / 2), (0.0, -math.pi / 2))]
    length = np.linalg.norm(camera.rays(), axis=-1)
    looks = [Look(o.image, o.camera, o.world_from_camera) for o in seen]
    image, covered = laid_out(looks, HEIGHT)
    ranges, _ = laid_out(looks, HEIGHT, [(o.depth * length).astype(np.float32) for o in seen])
    assert covered.all()
    return Panorama(image.astype(np.uint8), ranges.astype(np.float32))


@pytest.mark.parametrize(("yaw", "pitch"), [(0.0, 0.0), (math.pi, 0.0), (2.0, 0.5), (-1.0, -0.9)])
def test_views_have_the_right_camera(panorama: Panorama, yaw: float, pitch: float) -> None:
    camera = centred_camera(96, 64, math.radians(70))
    image, depth = panorama.look(camera, turned(yaw, pitch))
    real = see(camera, turned(yaw, pitch))
    assert psnr(image, real.image) > 24.0
    # A camera whose focal length is 8 % off shows another picture.
    other = see(centred_camera(96, 64, math.radians(75)), turned(yaw, pitch))
    assert psnr(image, real.image) > psnr(image, other.image) + 3.0
    assert np.nanmedian(np.abs(depth / real.depth - 1)) < 0.01


def test_directions_and_pixels_are_inverse() -> None:
    pixels = directions_to_pixels(panorama_directions(32), (32, 64))
    columns, rows = np.meshgrid(np.arange(64), np.arange(32))
    assert np.allclose(pixels, np.stack([columns, rows], -1), atol=1e-3)
    # Right is right, up is up.
    assert directions_to_pixels(np.array([1.0, 0, 0.1]), (32, 64))[0] > 32
    assert directions_to_pixels(np.array([0.0, -1, 0.1]), (32, 64))[1] < 8


def test_no_seam_behind(panorama: Panorama) -> None:
    """The picture's two ends meet in a view backwards: no column differs more than elsewhere."""
    camera = centred_camera(120, 60, math.radians(60))
    image, _ = panorama.look(camera, turned(math.pi, 0.0))
    steps = np.abs(np.diff(image.astype(np.float64), axis=1)).mean((0, 2))
    assert steps[58:61].max() < 2.0 * np.median(steps) + 5.0


@pytest.mark.parametrize("shape", [(100, 100, 3), (100, 150, 3), (100, 240, 3), (10, 20, 3)])
def test_pictures_of_another_aspect_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(PanoramaError, match=f"{shape[1]}x{shape[0]}"):
        Panorama(np.zeros(shape, np.uint8))


def test_ranges_of_another_size_are_refused() -> None:
    with pytest.raises(PanoramaError, match="ranges"):
        Panorama(np.zeros((64, 128, 3), np.uint8), np.zeros((64, 64), np.float32))


@pytest.mark.parametrize("degrees", [40.0, 75.0, 100.0])
def test_the_views_cover_the_sphere(degrees: float) -> None:
    camera = centred_camera(64, 48, math.radians(degrees))
    blank = np.zeros((48, 64, 3), np.uint8)
    looks = [Look(blank, camera, pose) for pose in covering_poses(camera)]
    _, covered = laid_out(looks, 64)
    assert covered.mean() > 0.97
    assert covered[24:40].all()


def test_a_full_turn_from_a_panorama_closes(panorama: Panorama) -> None:
    camera = centred_camera(96, 64, math.radians(70))
    memory = WorldMemory(MemoryOptions(capacity=300_000, max_age=1e9))
    for observation in panorama.observations(96, 96, math.radians(80)):
        memory.integrate(observation)
    frames = full_turn(memory, camera, 24, ())
    truth = see(camera, np.eye(4)).image
    first, last = psnr(frames[0].image, truth), psnr(frames[-1].image, truth)
    assert first > 20.0
    assert abs(first - last) <= 1.0
    behind = see(camera, turned(math.pi, 0.0)).image
    assert psnr(frames[12].image, behind) > first - 3.0


def test_a_full_turn_from_one_view_closes() -> None:
    """Most of it is imagined; the start is found again, and every view on a second turn."""
    camera = centred_camera(96, 64, math.radians(70))
    start = see(camera, np.eye(4))
    memory = WorldMemory(MemoryOptions(capacity=100_000, max_age=1e9, keep_imagined=True,
                                       imagined_capacity=200_000))
    memory.integrate(start)
    first = full_turn(memory, camera, 36, (start,))
    assert abs(psnr(first[-1].image, start.image) - psnr(first[0].image, start.image)) <= 1.0
    second = full_turn(memory, camera, 36, (start,))
    for number in (6, 18, 30):
        assert psnr(second[number].image, first[number].image) > 30.0
    unseen = full_turn(memory, camera, 36, ())  # nothing is seen any more
    assert psnr(unseen[-1].image, start.image) > psnr(unseen[0].image, start.image) - 1.0


def full_turn(memory: WorldMemory, camera: PinholeCamera, count: int,
              seen: Sequence[Observation]) -> list[ImaginedFrame]:
    poses = np.array([turned(2 * math.pi * i / count, 0.0) for i in range(count + 1)])
    request = ImaginationRequest(camera, CameraTrajectory.from_poses(poses, 12.0), tuple(seen))
    engine = ImaginationEngine(GeometricFiller())
    return [frame for block in engine.imagine(request, memory) for frame in block.frames]


class InverseRange:
    """The true inverse depth of whatever it is shown, in another unit for every view."""

    is_metric = False

    def __init__(self, panorama: Panorama) -> None:
        self._panorama = panorama
        self._poses = iter(covering_poses(centred_camera(64, 64, math.radians(75))))
        self._calls = 0

    def estimate(self, image: npt.NDArray[np.uint8],
                 camera: PinholeCamera) -> npt.NDArray[np.float32]:
        _, depth = self._panorama.look(camera, next(self._poses))
        self._calls += 1
        return np.asarray((1 / depth) * (1 + 0.3 * self._calls) + 0.05 * self._calls, np.float32)

    def close(self) -> None:
        """Nothing is held."""


def test_estimated_views_are_brought_to_one_scale(panorama: Panorama) -> None:
    plain = Panorama(panorama.image)
    found = with_estimated_ranges(plain, InverseRange(panorama), width=64).ranges
    assert found is not None
    assert panorama.ranges is not None
    ratio = found / panorama.ranges
    known = ratio > 0
    assert known.mean() > 0.95
    scale = np.median(ratio[known])
    assert np.median(np.abs(ratio[known] / scale - 1)) < 0.06
