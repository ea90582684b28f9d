# SPDX-License-Identifier: Apache-2.0
"""The engine with the geometric filler, in the analytic room."""

from __future__ import annotations

import numpy as np
import numpy.testing as npt
import pytest

from inspatio_ros.evaluation.metrics import psnr
from inspatio_ros.geometry import rigid
from inspatio_ros.geometry.camera import PinholeCamera
from inspatio_ros.geometry.trajectory import CameraTrajectory
from inspatio_ros.imagination.engine import ImaginationEngine, composite
from inspatio_ros.imagination.filler import GeometricFiller
from inspatio_ros.imagination.request import ImaginationRequest, ImaginedFrame, NoGeometry
from inspatio_ros.memory.guide import Guide
from inspatio_ros.memory.world_memory import MemoryOptions, WorldMemory
from inspatio_ros.sensing.observation import Observation, Provenance
from inspatio_ros.worlds.room import room

CAMERA = PinholeCamera(160, 96, 120.0, 120.0, 79.5, 47.5)
FRAMES = 7


def _poses() -> rigid.Array:
    world_from_base = room(0, moving=False).drive(0.5, np.arange(30) * 0.2)
    lift = rigid.from_rotation(np.eye(3), (0.0, 0.0, 1.0)) @ rigid.BODY_FROM_OPTICAL
    return np.asarray(world_from_base @ lift)


def _observation(index: int) -> Observation:
    pose = _poses()[index]
    view = room(0, moving=False).render(CAMERA, pose, 0.0)
    return Observation(int(index * 2e8), view.image, view.depth, CAMERA, pose)


@pytest.fixture(scope="module")
def seen() -> list[Observation]:
    return [_observation(i) for i in range(0, 12, 2)]


@pytest.fixture
def memory(seen: list[Observation]) -> WorldMemory:
    held = WorldMemory(MemoryOptions(capacity=200_000))
    for observation in seen:
        held.integrate(observation)
    return held


def _request(seen: list[Observation], **options: object) -> ImaginationRequest:
    trajectory = CameraTrajectory.from_poses(_poses()[10:10 + FRAMES], 5.0)
    return ImaginationRequest(CAMERA, trajectory, (seen[-1],), **options)  # type: ignore[arg-type]


def _frames(engine: ImaginationEngine, request: ImaginationRequest, memory: WorldMemory
            ) -> list[ImaginedFrame]:
    return [frame for block in engine.imagine(request, memory) for frame in block.frames]


def test_one_frame_a_pose_with_its_facts(seen: list[Observation], memory: WorldMemory) -> None:
    request = _request(seen, request_id=bytes(range(16)))
    frames = _frames(ImaginationEngine(GeometricFiller()), request, memory)
    assert [f.frame_index for f in frames] == list(range(FRAMES))
    for frame in frames:
        assert frame.image.shape == (CAMERA.height, CAMERA.width, 3)
        assert frame.image.dtype == np.uint8
        total = frame.observed_ratio + frame.memory_ratio + frame.imagined_ratio
        assert total == pytest.approx(1.0)
        npt.assert_array_equal(frame.provenance == Provenance.IMAGINED, ~(frame.depth > 0))
        assert frame.request_id == bytes(range(16))
        assert frame.source_stamp_ns == seen[-1].stamp_ns
        assert frame.frame_count == FRAMES
        assert np.isnan(frame.expected_error)
    assert frames[0].extrapolation_distance == pytest.approx(0.0, abs=1e-9)
    assert frames[-1].extrapolation_distance > 0.1
    assert frames[3].time_from_start == pytest.approx(0.6)


def test_views_are_right(seen: list[Observation], memory: WorldMemory) -> None:
    frames = _frames(ImaginationEngine(GeometricFiller()), _request(seen), memory)
    truths = [room(0, moving=False).render(CAMERA, f.world_from_camera, 0.0) for f in frames]
    for frame, truth in zip(frames, truths, strict=True):
        measured = frame.provenance >= Provenance.MEMORY
        error = np.abs(frame.depth - truth.depth)[measured]
        assert np.median(error / truth.depth[measured]) < 0.01
    imagined = np.mean([psnr(f.image, t.image) for f, t in zip(frames[2:], truths[2:],
                                                                 strict=True)])
    repeated = np.mean([psnr(seen[-1].image, t.image) for t in truths[2:]])
    assert imagined > repeated + 3.0


def test_same_request_gives_the_same_bytes(seen: list[Observation], memory: WorldMemory) -> None:
    first = _frames(ImaginationEngine(GeometricFiller()), _request(seen), memory)
    second = _frames(ImaginationEngine(GeometricFiller()), _request(seen), memory)
    for a, b in zip(first, second, strict=True):
        npt.assert_array_equal(a.image, b.image)
        npt.assert_array_equal(a.provenance, b.provenance)


def test_stopping_midway_leaves_the_engine_clean(
    seen: list[Observation], memory: WorldMemory
) -> None:
    engine = ImaginationEngine(GeometricFiller())
    expected = _frames(engine, _request(seen), memory)
    blocks = engine.imagine(_request(seen), memory)
    next(blocks)
    next(blocks)
    blocks.close()  # type: ignore[attr-defined]
    again = _frames(engine, _request(seen), memory)
    for a, b in zip(expected, again, strict=True):
        npt.assert_array_equal(a.image, b.image)


def test_live_mode_sees_what_is_newest(seen: list[Observation], memory: WorldMemory) -> None:
    fresh = iter([_observation(11), _observation(12)])
    asked: list[int] = []

    def newest() -> list[Observation]:
        asked.append(1)
        item = next(fresh, None)
        return [] if item is None else [item]

    blocks = ImaginationEngine(GeometricFiller()).imagine(_request(seen), memory, newest)
    stamps = [block.frames[0].source_stamp_ns for block in blocks]
    assert len(asked) == FRAMES
    assert stamps[0] == int(11 * 2e8)
    assert set(stamps[1:]) == {int(12 * 2e8)}


def test_nothing_to_imagine_from(seen: list[Observation]) -> None:
    request = _request(seen)
    empty = ImaginationRequest(CAMERA, request.trajectory, ())
    with pytest.raises(NoGeometry, match="nothing to imagine from"):
        next(iter(ImaginationEngine(GeometricFiller()).imagine(empty, WorldMemory())))


def test_request_refuses_unknown_modes_and_short_ids(seen: list[Observation]) -> None:
    with pytest.raises(ValueError, match="mode 'dream'"):
        _request(seen, mode="dream")
    with pytest.raises(ValueError, match="3 bytes"):
        _request(seen, request_id=b"abc")


def test_composite_keeps_rendered_colors_and_feathers_on_the_known_side() -> None:
    image = np.full((20, 40, 3), 200, np.uint8)
    provenance = np.full((20, 40), Provenance.OBSERVED, np.uint8)
    provenance[:, 20:] = Provenance.UNKNOWN
    guide = Guide(image, np.ones((20, 40), np.float32), provenance)
    mixed = composite(guide, np.full((20, 40, 3), 100, np.uint8))
    npt.assert_array_equal(mixed[:, :16], 200)
    npt.assert_array_equal(mixed[:, 20:], 100)
    edge = mixed[10, 15:21, 0].astype(int)
    assert np.all(np.diff(edge) <= 0)


def test_filling_stands_still_in_the_world(seen: list[Observation]) -> None:
    """A camera that sways without new observations must see the same filling again."""
    half = seen[-1]
    depth = half.depth.copy()
    depth[:, 80:] = np.nan
    reference = Observation(half.stamp_ns, half.image, depth, CAMERA, half.world_from_camera)
    sway = [half.world_from_camera @ rigid.from_rotation(np.eye(3), (x, 0.0, 0.0))
            for x in (0.0, 0.02, 0.04, 0.02, 0.0)]
    trajectory = CameraTrajectory.from_poses(np.stack(sway), 5.0)
    request = ImaginationRequest(CAMERA, trajectory, (reference,))
    frames = _frames(ImaginationEngine(GeometricFiller()), request, WorldMemory())
    assert psnr(frames[0].image, frames[-1].image) > 30.0


def test_each_frame_from_its_own_reference(seen: list[Observation]) -> None:
    asked: list[int] = []

    def own(number: int) -> Observation:
        asked.append(number)
        return seen[number % len(seen)]

    poses = np.array([seen[n % len(seen)].world_from_camera for n in range(FRAMES)])
    request = ImaginationRequest(CAMERA, CameraTrajectory.from_poses(poses, 5.0), (seen[0],),
                                 source_mode="stream")
    frames = [frame for block in ImaginationEngine(GeometricFiller()).imagine(
        request, WorldMemory(MemoryOptions(capacity=1000)), own=own) for frame in block.frames]
    assert asked == list(range(FRAMES))
    for number, frame in enumerate(frames):
        reference = seen[number % len(seen)]
        assert frame.source_stamp_ns == reference.stamp_ns
        assert frame.extrapolation_distance == pytest.approx(0.0, abs=1e-9)
        assert psnr(frame.image, reference.image) > 30


def test_a_view_of_nothing_known_keeps_the_depth_of_the_one_before() -> None:
    """What follows places by depth goes on; the colours begin anew."""
    shape = (CAMERA.height, CAMERA.width)
    image = np.full((*shape, 3), 200, np.uint8)
    some = np.full(shape, Provenance.OBSERVED, np.uint8)
    some[:, 80:] = Provenance.UNKNOWN
    empty = np.full(shape, Provenance.UNKNOWN, np.uint8)
    depth = np.where(some > 0, np.float32(3.0), np.float32(np.nan))
    nothing = np.full(shape, np.nan, np.float32)
    away = rigid.from_euler(0.0, np.pi, 0.0, (0.0, 0.0, 0.0))  # nothing carried is in view
    request = ImaginationRequest(CAMERA, CameraTrajectory(
        np.stack([np.eye(4), away, away]), np.arange(3.0)), ())
    session = GeometricFiller().begin(request)
    session.start_fill([[Guide(image, depth, some)] + [Guide(image * 0, nothing, empty)] * 2], ())
    first, second, third = session.depths
    assert np.isfinite(first).all()
    npt.assert_array_equal(second, first)
    npt.assert_array_equal(third, first)
    pictures = session.finish_fill()[0]
    assert (pictures[0][:, :70] == 200).all()
    assert (pictures[1] == 128).all()


def test_without_anything_known_there_is_no_depth() -> None:
    shape = (CAMERA.height, CAMERA.width)
    guide = Guide(np.zeros((*shape, 3), np.uint8), np.full(shape, np.nan, np.float32),
                  np.full(shape, Provenance.UNKNOWN, np.uint8))
    request = ImaginationRequest(CAMERA, CameraTrajectory(np.eye(4)[None], np.zeros(1)), ())
    session = GeometricFiller().begin(request)
    session.start_fill([[guide]], ())
    assert np.isnan(session.depths[0]).all()
