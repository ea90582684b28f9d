# SPDX-License-Identifier: Apache-2.0
"""Depth of pictures, GPU lists and the preflight, apart from the whole pipeline."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from inspatio_ros.geometry import rigid
from inspatio_ros.geometry.camera import PinholeCamera
from inspatio_ros.imagination.backends import BackendOptions
from inspatio_ros.model.checkpoints import Machine
from inspatio_ros.pipeline.depths import (
    ClipPictures,
    DepthUnavailable,
    EstimatedDepth,
    MotionDepth,
    PlaneDepth,
    assumed_camera,
    choose_depth,
)
from inspatio_ros.pipeline.preflight import check, duration
from inspatio_ros.pipeline.workers import GpuLists
from inspatio_ros.worlds.room import room
from inspatio_ros.worlds.world import View

CAMERA = PinholeCamera(80, 60, 70.0, 70.0, 39.5, 29.5)


class Ramp:
    """Inverse depth that falls from left to right, in an unknown unit with an unknown shift."""

    is_metric = False

    def estimate(self, image: npt.NDArray[np.uint8],
                 camera: PinholeCamera) -> npt.NDArray[np.float32]:
        return np.tile(np.linspace(9.0, 5.0, camera.width, dtype=np.float32), (camera.height, 1))

    def close(self) -> None:
        pass


def _still(count: int = 4) -> ClipPictures:
    picture = np.random.default_rng(0).integers(0, 255, (60, 80, 3)).astype(np.uint8)

    def read() -> Iterator[npt.NDArray[np.uint8]]:
        return iter([picture] * count)

    return ClipPictures(read, CAMERA, 10.0)


def test_relative_depth_gets_a_fixed_scale() -> None:
    shifted = list(EstimatedDepth("ramp", Ramp()).observations(_still()))
    assert [s.stamp_ns for s in shifted] == [0, 10**8, 2 * 10**8, 3 * 10**8]
    near, far = shifted[0].depth[30, 5], shifted[0].depth[30, -5]
    assert 0.9 < near < 1.3
    assert 10 < far < 60
    np.testing.assert_allclose(shifted[0].depth, shifted[3].depth, rtol=0.02)
    np.testing.assert_allclose(shifted[3].world_from_camera, np.eye(4), atol=1e-3)
    straight = next(iter(EstimatedDepth("ramp", Ramp(), unshifted=True).observations(_still())))
    ratio = straight.depth[30, -10] / straight.depth[30, 10]
    assert ratio == pytest.approx((9 - 4 * 10 / 79) / (9 - 4 * 70 / 79), rel=0.02)


def test_a_camera_standing_still_has_no_depth_from_motion() -> None:
    with pytest.raises(DepthUnavailable, match="standing still|parallax"):
        list(MotionDepth().observations(_still(40)))


def test_depth_that_is_not_there_is_named() -> None:
    with pytest.raises(DepthUnavailable, match="no depth provider 'magic'"):
        choose_depth("magic", None, rotation_only=False, pictures=2)
    with pytest.raises(DepthUnavailable, match="transformers: no folder"):
        choose_depth("transformers", None, rotation_only=False, pictures=2)
    assert isinstance(choose_depth("plane", None, rotation_only=False, pictures=1), PlaneDepth)
    with pytest.raises(ValueError, match="not positive"):
        PlaneDepth(0.0)


def test_assumed_camera_has_the_field_of_view() -> None:
    camera = assumed_camera(640, 360, np.radians(60))
    assert np.degrees(camera.field_of_view[0]) == pytest.approx(60.0, abs=0.01)


def test_gpu_lists() -> None:
    assert not GpuLists.of("0", "", "0", 1).many
    lists = GpuLists.of("0", "1", "0,1,2", 2)
    assert lists.many
    assert lists.steps == ((0,), (1,), (0, 1))
    with pytest.raises(ValueError, match="'zero' is not a list"):
        GpuLists.of("zero", "", "", 0)
    with pytest.raises(ValueError, match="step3_nproc 4 is more"):
        GpuLists.of("", "", "0,1", 4)


def test_preflight_counts_memory_and_disk(tmp_path: Path) -> None:
    def verdict(frames: int, host_free: int) -> str:
        return check(BackendOptions("geometric"), tmp_path / "a/b", frames, frames, (832, 480), (),
                     0.1, Machine("cpu", host_free, host_free)).line()

    good = verdict(100, 8 << 30)
    assert good.startswith("preflight: allow [geometric, 100 frames of 832x480, about 10 s")
    assert "deny: too little memory" in verdict(100, 1 << 29)
    assert "too little room" in verdict(10**12, 8 << 30)
    gpu_only = check(BackendOptions("inspatio_world_1_3b"), tmp_path, 10, 0, (832, 480), (), None,
                     Machine("cpu", 64 << 30, 64 << 30))
    assert gpu_only.decision == "deny"
    assert "needs a CUDA device" in gpu_only.line()


def test_preflight_counts_the_weights_of_every_step(tmp_path: Path) -> None:
    def memory(preset: str, *models: Path, weights: str = "") -> float:
        return check(BackendOptions(preset, weights), tmp_path, 10, 0, (208, 120), (), None,
                     Machine("cpu", 8 << 30, 8 << 30), models).memory

    base = memory("geometric")
    assert 100e6 < memory("tiny_random") - base < 400e6
    for name, size in (("small", 10_000_000), ("depth", 30_000_000), ("caption", 900_000_000)):
        (tmp_path / name).mkdir()
        with (tmp_path / name / "model.safetensors").open("wb") as file:
            file.truncate(size)
    # One step's model at a time: the largest counts.
    assert memory("geometric", tmp_path / "depth") - base == 60_000_000
    assert memory("geometric", tmp_path / "depth", tmp_path / "caption") - base == 1.8e9
    assert memory("tiny", weights=str(tmp_path / "small")) - base == pytest.approx(140e6)
    denied = check(BackendOptions("geometric"), tmp_path, 10, 0, (208, 120), (), None,
                   Machine("cpu", 2 << 30, 2 << 30), [tmp_path / "caption"])
    assert denied.decision == "deny"


def test_durations_are_readable() -> None:
    assert [duration(s) for s in (12.2, 600.0, 9000.0)] == ["12 s", "10 min", "2.5 h"]


MOVING = PinholeCamera(160, 120, 130.0, 130.0, 79.5, 59.5)


@functools.lru_cache(maxsize=1)
def _walk(count: int = 14) -> tuple[View, ...]:
    """A camera going sideways through a room."""
    world = room(moving=False)
    pose = rigid.from_euler(0, 0.15, 2.4, (1.8, -1.2, 1.2)) @ rigid.BODY_FROM_OPTICAL
    return tuple(world.render(MOVING, pose @ rigid.from_euler(0, 0.01 * i, 0, (0.06 * i, 0, 0)))
                 for i in range(count))


def _walked() -> ClipPictures:
    return ClipPictures(lambda: (view.image for view in _walk()), MOVING, 10.0)


def test_depth_from_motion_knows_the_first_picture_too() -> None:
    provider = MotionDepth()
    found = list(provider.observations(_walked()))
    assert len(found) == len(_walk())
    assert "the unit is the first motion" in provider.note
    units = []
    for seen, view in zip(found, _walk(), strict=True):
        known = seen.depth > 0
        assert known.mean() > 0.15
        units.append(np.median(seen.depth[known] / view.depth[known]))
        assert np.median(np.abs(seen.depth[known] / view.depth[known] / units[-1] - 1)) < 0.1
    np.testing.assert_allclose(units, units[0], rtol=0.1)


class Drifting(Ramp):
    """The room's inverse depth with a scale and a shift that change from picture to picture."""

    def __init__(self) -> None:
        self._views = {view.image.tobytes(): (number, view.depth)
                       for number, view in enumerate(_walk())}

    def estimate(self, image: npt.NDArray[np.uint8],
                 camera: PinholeCamera) -> npt.NDArray[np.float32]:
        number, depth = self._views[image.tobytes()]
        return np.asarray((1 + 0.02 * number) / depth + 0.01 * number, np.float32)


def test_relative_depth_stays_in_one_unit() -> None:
    found = list(EstimatedDepth("drifting", Drifting()).observations(_walked()))
    near = [view.depth < 2.0 for view in _walk()]
    unit = [float(np.median(view.depth[n] / seen.depth[n]))
            for seen, view, n in zip(found, _walk(), near, strict=True)]
    # Without the corners placed before, the last is 60 % off.
    assert max(unit) / min(unit) < 1.15
