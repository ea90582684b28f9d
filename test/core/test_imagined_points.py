# SPDX-License-Identifier: Apache-2.0
"""What is imagined is kept as imagined, gives way to what is seen, and stays within bounds."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inspatio_ros.evaluation.metrics import psnr
from inspatio_ros.geometry import rigid
from inspatio_ros.geometry.camera import PinholeCamera
from inspatio_ros.geometry.trajectory import CameraTrajectory
from inspatio_ros.imagination.engine import ImaginationEngine, keep_imagined
from inspatio_ros.imagination.filler import GeometricFiller
from inspatio_ros.imagination.request import ImaginationRequest, ImaginedBlock, ImaginedFrame
from inspatio_ros.memory.bounding_planes import bounding_planes, plane_depth
from inspatio_ros.memory.imagined_points import (
    MOST_CONFIDENCE,
    ImaginedView,
    complete_depth,
    inliers,
)
from inspatio_ros.memory.world_memory import MemoryOptions, WorldMemory
from inspatio_ros.sensing.observation import Observation, Provenance
from inspatio_ros.worlds.room import room

CAMERA = PinholeCamera(96, 64, 60.0, 60.0, 47.5, 31.5)
SHAPE = (CAMERA.height, CAMERA.width)
GREEN, RED = (20, 200, 40), (220, 30, 30)
WORLD = room(0, moving=False)


def keeping(**options: object) -> WorldMemory:
    return WorldMemory(MemoryOptions(**{  # type: ignore[arg-type]
        "capacity": 60_000, "max_age": 1e6, "keep_imagined": True, "imagined_capacity": 40_000,
        **options}))


def wall(distance: float, color: tuple[int, int, int], stamp: int = 0) -> Observation:
    image = np.broadcast_to(np.array(color, np.uint8), (*SHAPE, 3)).copy()
    return Observation(stamp, image, np.full(SHAPE, distance, np.float32), CAMERA, np.eye(4))


def imagined_wall(distance: float) -> ImaginedView:
    """A green wall, all of it new, whose depth is known at one corner."""
    seen = wall(distance, GREEN)
    known = np.full(SHAPE, np.nan, np.float32)
    known[:4, :4] = distance
    return ImaginedView(seen.image, known, np.ones(SHAPE, np.bool_), CAMERA, np.eye(4), 0)


def look(x: float, y: float, yaw: float) -> npt.NDArray[np.float64]:
    return np.asarray(rigid.from_euler(0, 0, yaw, (x, y, 1.2)) @ rigid.BODY_FROM_OPTICAL)


def see(pose: npt.NDArray[np.float64], stamp: int = 0) -> Observation:
    view = WORLD.render(CAMERA, pose, 0.0)
    return Observation(stamp, view.image, view.depth, CAMERA, pose)


def turn(count: int, angle: float) -> CameraTrajectory:
    """Away by `angle` and back."""
    there = [look(-1.0, -1.2, 0.2 + angle * i / (count - 1)) for i in range(count)]
    return CameraTrajectory.from_poses(np.array(there + there[::-1]), 12.0)


def imagine(memory: WorldMemory, way: CameraTrajectory,
            seen: tuple[Observation, ...]) -> list[ImaginedFrame]:
    request = ImaginationRequest(CAMERA, way, seen)
    engine = ImaginationEngine(GeometricFiller())
    return [frame for block in engine.imagine(request, memory) for frame in block.frames]


def test_kept_points_are_drawn_and_stay_imagined() -> None:
    memory = keeping()
    assert memory.keep(imagined_wall(3.0)) > 2000
    guide = memory.render(CAMERA, np.eye(4))
    assert guide.kept is not None
    middle = (slice(8, -8), slice(8, -8))
    assert np.allclose(guide.kept[middle], 3.0, atol=0.1)
    assert (guide.image[middle] == GREEN).all()
    assert (guide.provenance[middle] == Provenance.IMAGINED).all()
    assert np.isnan(guide.depth).all()  # nothing was measured
    assert guide.coverage == 0.0
    assert guide.settled[middle].all()


@pytest.mark.parametrize("distance", [2.0, 2.9, 3.0, 3.1, 4.5])
def test_the_real_wins(distance: float) -> None:
    """Whether it lies before, on or behind what was imagined."""
    memory = keeping()
    memory.keep(imagined_wall(3.0))
    memory.integrate(wall(distance, RED, 1))
    assert memory.imagined is not None
    # Far behind a nearer wall the imagined one may stand on; nowhere else.
    if distance > 2.5:
        assert memory.imagined.point_count == 0
    guide = memory.render(CAMERA, np.eye(4))
    middle = (slice(4, -4), slice(4, -4))
    assert (guide.image[middle] == RED).all()
    assert (guide.provenance[middle] == Provenance.MEMORY).all()


def test_the_real_wins_from_aside_too() -> None:
    memory = keeping()
    memory.keep(imagined_wall(3.0))
    memory.integrate(wall(3.3, RED, 1))
    aside = rigid.from_euler(0, 0.3, 0, (-0.8, 0, 0))
    guide = memory.render(CAMERA, aside)
    assert not ((guide.image == GREEN).all(-1)).any()


def test_imagined_points_never_replace_seen_ones() -> None:
    memory = keeping()
    memory.integrate(wall(3.0, RED))
    before = memory.render(CAMERA, np.eye(4))
    memory.keep(imagined_wall(2.0))
    after = memory.render(CAMERA, np.eye(4))
    assert np.array_equal(before.image, after.image)
    assert np.array_equal(before.provenance, after.provenance)


def test_without_being_asked_nothing_is_kept_and_nothing_changes() -> None:
    plain, way = WorldMemory(MemoryOptions(capacity=60_000)), turn(5, 0.6)
    seen = see(way.world_from_camera[0])
    plain.integrate(seen)
    frames = imagine(plain, way, (seen,))
    assert plain.imagined is None
    assert all(frame.guide.kept is None for frame in frames)
    with pytest.raises(ValueError, match="keep_imagined"):
        plain.keep(imagined_wall(2.0))


def test_what_was_imagined_is_there_again_loop_after_loop() -> None:
    """Out and back, five times: the same pictures, the same points, the same bytes."""
    way = turn(12, 1.6)
    seen = see(way.world_from_camera[0])
    sharp: dict[bool, float] = {}
    for keep in (False, True):
        memory = keeping(keep_imagined=keep)
        memory.integrate(seen)
        loops = [imagine(memory, way, (seen,))]
        held = memory.nbytes
        loops += [imagine(memory, way, (seen,)) for _ in range(4)]
        there, back = loops[0][7], loops[0][-8]
        assert np.allclose(there.world_from_camera, back.world_from_camera)
        sharp[keep] = psnr(back.image, there.image)
        assert memory.nbytes == held
        if memory.imagined is not None:
            first, last = loops[1][9], loops[4][9]
            assert psnr(last.image, first.image) > 38.0
            count = memory.imagined.point_count
            imagine(memory, way, (seen,))
            assert abs(memory.imagined.point_count - count) < 0.02 * count
        # Never anything but imagined where no measurement is.
        for frame in loops[4]:
            claimed = frame.provenance >= Provenance.MEMORY
            assert np.array_equal(claimed, frame.guide.depth > 0)
    assert sharp[True] > max(sharp[False] + 1.0, 40.0)


def test_exposure_is_not_applied_again_and_again() -> None:
    """The picture seen now is brighter than what the memory holds; loops must not add to it."""
    way = turn(10, 1.4)
    dark = see(way.world_from_camera[0])
    memory = keeping()
    memory.integrate(dark)
    bright = replace(dark, image=np.clip(dark.image * 1.3 + 5, 0, 255).astype(np.uint8))
    means = [np.mean([f.image.mean() for f in imagine(memory, way, (bright,))])
             for _ in range(4)]
    assert abs(means[3] - means[0]) < 2.0
    guide = memory.render(CAMERA, way.world_from_camera[0], (bright,))
    assert guide.tone[0] > 1.1  # the exposures were told apart


def test_the_imagined_cloud_is_bounded() -> None:
    memory = keeping(imagined_capacity=3000)
    assert memory.imagined is not None
    for x in range(6):
        view = imagined_wall(3.0)
        moved = ImaginedView(view.image, view.depth, view.fresh, CAMERA,
                             rigid.from_rotation(np.eye(3), (4.0 * x, 0, 0)), 0)
        memory.keep(moved)
        assert memory.imagined.point_count <= 3000
    dropped = memory.imagined.dropped
    assert dropped["capacity"] > 0
    assert memory.imagined.cloud.offered == memory.imagined.point_count + sum(
        dropped.values()) - dropped["outlier"]


def test_clear_forgets_the_imagined_too() -> None:
    memory = keeping()
    memory.keep(imagined_wall(3.0))
    memory.clear()
    assert memory.imagined is not None
    assert memory.imagined.point_count == 0
    assert memory.render(CAMERA, np.eye(4)).kept is None


def test_a_block_keeps_no_place_twice() -> None:
    way = turn(6, 0.8)
    seen = see(way.world_from_camera[0])
    memory = keeping(voxel_size=0.002)
    memory.integrate(seen)
    block = tuple(imagine(WorldMemory(MemoryOptions(capacity=60_000)), way, (seen,))[:6])
    keep_imagined(memory, ImaginedBlock(0, block))
    assert memory.imagined is not None
    once = memory.imagined.point_count
    assert once > 300
    assert once < 1.3 * np.count_nonzero(~block[-1].guide.settled)


def test_statistical_outliers() -> None:
    rng = np.random.default_rng(3)
    plane = np.column_stack([rng.uniform(-1, 1, (3000, 2)), np.full(3000, 2.0)])
    stray = rng.uniform((-1, -1, 0.5), (1, 1, 1.5), (20, 3))
    good = inliers(np.concatenate([plane, stray]))
    assert good[:3000].mean() > 0.97
    assert good[3000:].sum() == 0
    assert inliers(plane[:5]).all()


def test_bounding_planes_of_a_room_tell_the_depth_of_what_was_not_seen() -> None:
    memory = keeping()
    for number in range(5):
        memory.integrate(see(look(-1.0 + 0.2 * number, -1.2, 0.3 * number), number))
    planes = bounding_planes(memory.cloud.colored_points(20_000)[0])
    assert 3 <= len(planes) <= 8
    aside = look(-0.6, -1.2, 2.4)  # most of it not seen so far
    truth = WORLD.render(CAMERA, aside, 0.0).depth
    depth, reach = plane_depth(planes, CAMERA, aside)
    known = memory.render(CAMERA, aside).depth
    unseen = ~(known > 0)
    assert unseen.mean() > 0.3
    error = np.abs(depth - truth)[unseen] / truth[unseen]
    assert np.nanmedian(error) < 0.05
    assert np.isfinite(reach[depth > 0]).all()


def test_no_planes_of_little_or_of_chaos() -> None:
    rng = np.random.default_rng(0)
    assert bounding_planes(rng.normal(size=(100, 3))) == []
    assert bounding_planes(rng.normal(size=(5000, 3))) == []


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), share=st.floats(0.0, 1.0))
def test_completed_depth_keeps_what_is_known(seed: int, share: float) -> None:
    rng = np.random.default_rng(seed)
    depth = np.where(rng.random(SHAPE) < share, rng.uniform(0.5, 9, SHAPE), np.nan)
    depth = depth.astype(np.float32)
    filled, trust = complete_depth(depth, [], CAMERA, np.eye(4))
    known = depth > 0
    assert np.array_equal(filled[known], depth[known])
    assert (trust[known] == 1).all()
    assert (trust[~known] <= MOST_CONFIDENCE).all()
    if known.any():
        assert (filled > 0).all()
    else:
        assert (trust == 0).all()


def test_an_estimate_takes_the_place_of_what_is_carried() -> None:
    depth = np.full(SHAPE, np.nan, np.float32)
    depth[:, :40] = 2.0
    estimated = np.full(SHAPE, 5.0, np.float32)
    estimated[:10] = np.nan
    filled, _ = complete_depth(depth, [], CAMERA, np.eye(4), estimated)
    assert (filled[:, :40] == 2.0).all()
    assert (filled[10:, 40:] == 5.0).all()
    assert (filled[:10, 40:] < 3.0).all()
