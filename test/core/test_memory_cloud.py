# SPDX-License-Identifier: Apache-2.0
"""The rolling cloud stays within its bounds and accounts for every point."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inspatio_ros.geometry import rigid
from inspatio_ros.geometry.camera import PinholeCamera
from inspatio_ros.memory.rolling_cloud import REBASE_DISTANCE, RollingCloud
from inspatio_ros.sensing.observation import Observation

CAMERA = PinholeCamera(40, 30, 40.0, 40.0, 19.5, 14.5)
SECOND = 1_000_000_000


def observation(
    depth: float | npt.NDArray[np.float32], stamp_ns: int = 0,
    world_from_camera: npt.NDArray[np.float64] | None = None, color: int = 100,
    confidence: npt.NDArray[np.float32] | None = None, camera: PinholeCamera = CAMERA,
) -> Observation:
    shape = (camera.height, camera.width)
    picture = np.broadcast_to(np.asarray(depth, np.float32), shape).copy()
    image = np.full((*shape, 3), color, np.uint8)
    pose = np.eye(4) if world_from_camera is None else world_from_camera
    return Observation(stamp_ns, image, picture, camera, pose, confidence)


def at(
    x: float = 0.0, y: float = 0.0, z: float = 0.0, yaw: float = 0.0
) -> npt.NDArray[np.float64]:
    # Turning about the optical y axis looks left and right.
    pose = np.eye(4)
    pose[:3, :3] = [[np.cos(yaw), 0, np.sin(yaw)], [0, 1, 0], [-np.sin(yaw), 0, np.cos(yaw)]]
    pose[:3, 3] = x, y, z
    return pose


def accounts_balance(cloud: RollingCloud) -> bool:
    alive = int(np.count_nonzero(np.isfinite(cloud.xyz[0])))
    return cloud.offered == cloud.point_count + sum(cloud.dropped.values()) \
        and alive == cloud.point_count


def test_points_lie_where_they_were_seen() -> None:
    cloud = RollingCloud(10_000, voxel_size=0.001)
    pose = at(3.0, -2.0, 5.0, 0.3)
    seen = observation(2.0, world_from_camera=pose)
    cloud.integrate(seen)
    xyz, rgb = cloud.colored_points(10_000)
    expected = rigid.transform_points(pose, CAMERA.unproject(seen.depth).reshape(-1, 3))
    assert cloud.point_count == CAMERA.width * CAMERA.height
    nearest = np.abs(xyz[:, None] - expected[None, ::17]).max(-1).min(0)
    assert nearest.max() < 1e-4
    assert (rgb == 100).all()


def test_one_point_a_voxel() -> None:
    cloud = RollingCloud(10_000, voxel_size=0.5)
    cloud.integrate(observation(2.0))
    xyz, _ = cloud.colored_points(10_000)
    voxels = np.floor(xyz / 0.5).astype(int)
    assert len(np.unique(voxels, axis=0)) == cloud.point_count < 50
    assert cloud.dropped["same_voxel"] == 1200 - cloud.point_count
    assert accounts_balance(cloud)


def test_the_same_view_twice_replaces() -> None:
    cloud = RollingCloud(10_000, voxel_size=0.001)
    cloud.integrate(observation(2.0, 0, color=10))
    cloud.integrate(observation(2.0, SECOND, color=20))
    assert cloud.point_count == 1200
    assert cloud.dropped["replaced"] == 1200
    assert (cloud.colored_points(10_000)[1] == 20).all()
    assert accounts_balance(cloud)


def test_points_that_are_seen_through_go() -> None:
    cloud = RollingCloud(10_000, voxel_size=0.001)
    cloud.integrate(observation(2.0, 0))
    cloud.integrate(observation(4.0, SECOND))
    xyz, _ = cloud.colored_points(10_000)
    # The rim is not looked at again: 3x3 minimum and all, nothing in the middle may stay.
    assert cloud.dropped["free_space"] == 1200
    assert np.allclose(xyz[:, 2], 4.0)


def test_points_behind_a_surface_stay() -> None:
    cloud = RollingCloud(10_000, voxel_size=0.001)
    cloud.integrate(observation(4.0, 0))
    cloud.integrate(observation(2.0, SECOND))
    assert cloud.point_count == 2400


def test_unmeasured_depth_removes_nothing() -> None:
    cloud = RollingCloud(10_000, voxel_size=0.001)
    cloud.integrate(observation(2.0, 0))
    cloud.integrate(observation(np.nan, SECOND))
    assert cloud.point_count == 1200
    assert cloud.offered == 1200


def test_a_coarse_view_from_afar_does_not_replace_a_fine_one() -> None:
    cloud = RollingCloud(10_000, voxel_size=0.001, max_radius=1000)
    cloud.integrate(observation(2.0, 0))
    cloud.integrate(observation(12.0, SECOND, at(z=-10.0)))
    fine = cloud.sizes[np.isfinite(cloud.xyz[0])] < 0.1
    assert fine.sum() == 1200


def test_age() -> None:
    cloud = RollingCloud(10_000, voxel_size=0.001, max_age=5.0)
    cloud.integrate(observation(2.0, 0))
    cloud.integrate(observation(2.0, 4 * SECOND, at(yaw=3.0)))
    assert cloud.dropped["age"] == 0
    cloud.integrate(observation(np.nan, 6 * SECOND))
    assert cloud.dropped["age"] == 1200
    assert cloud.point_count == 1200
    assert accounts_balance(cloud)


def test_radius() -> None:
    cloud = RollingCloud(10_000, voxel_size=0.001, max_radius=10.0)
    cloud.integrate(observation(20.0, 0))
    assert cloud.point_count == 0
    assert cloud.dropped["out_of_range"] == 1200
    cloud.integrate(observation(2.0, 1))
    cloud.integrate(observation(np.nan, 2, at(x=30.0)))
    assert cloud.dropped["radius"] == 1200
    assert accounts_balance(cloud)


def test_capacity_drops_the_oldest() -> None:
    cloud = RollingCloud(3000, voxel_size=0.001)
    for turn in range(4):
        cloud.integrate(observation(2.0, turn * SECOND, at(yaw=turn * np.pi / 2), color=turn))
        assert cloud.point_count <= 3000
        assert accounts_balance(cloud)
    assert cloud.dropped["capacity"] == 2400
    assert set(cloud.colored_points(10_000)[1][:, 0]) == {2, 3}


def test_more_pixels_than_capacity() -> None:
    cloud = RollingCloud(500, voxel_size=0.001)
    cloud.integrate(observation(2.0))
    assert cloud.point_count == 500
    assert cloud.dropped["capacity"] + cloud.dropped["table_full"] == 700
    assert accounts_balance(cloud)


def test_confidence_and_depth_limits() -> None:
    confidence = np.full((30, 40), 0.2, np.float32)
    confidence[:, 20:] = 0.9
    confidence[0, 20] = np.nan
    cloud = RollingCloud(10_000, voxel_size=0.001, min_confidence=0.5)
    cloud.integrate(observation(2.0, confidence=confidence))
    assert cloud.point_count == 599
    assert cloud.dropped["low_confidence"] == 601
    near = RollingCloud(10_000, voxel_size=0.001, max_depth=1.5)
    near.integrate(observation(2.0))
    assert near.dropped["out_of_range"] == 1200


def test_depth_jumps_are_not_remembered() -> None:
    depth = np.full((30, 40), 2.0, np.float32)
    depth[:, 20:] = 4.0
    cloud = RollingCloud(10_000, voxel_size=0.001)
    cloud.integrate(observation(depth))
    assert cloud.dropped["edge"] == 2 * 30


@pytest.mark.parametrize("depth", [np.nan, 0.0, -1.0, np.inf])
def test_useless_depth_is_not_taken(depth: float) -> None:
    cloud = RollingCloud(1000)
    cloud.integrate(observation(depth))
    assert cloud.point_count == 0
    assert accounts_balance(cloud)


def test_kilometres_away_keeps_millimetres() -> None:
    cloud = RollingCloud(10_000, voxel_size=0.001, max_radius=50)
    for step in range(3):
        pose = at(x=5000.0 + step * REBASE_DISTANCE * 0.1, z=-3000.0, yaw=0.2)
        cloud.integrate(observation(2.0, step, pose))
    pose = at(x=5000.0 + REBASE_DISTANCE * 0.2, z=-3000.0, yaw=0.2)
    newest = cloud.frames == cloud.newest_frame
    newest &= np.isfinite(cloud.xyz[0])
    world = cloud.xyz[:, newest].T.astype(np.float64) + cloud.world_from_points[:3, 3]
    local = rigid.transform_points(rigid.invert(pose), world)
    assert len(local) == 1200
    assert np.abs(local[:, 2] - 2.0).max() < 1e-3


def test_rebase_moves_no_point() -> None:
    cloud = RollingCloud(10_000, voxel_size=0.01, max_radius=2000, max_age=1e6)
    cloud.integrate(observation(2.0, 0))
    before, _ = cloud.colored_points(10_000)
    cloud.integrate(observation(np.nan, 1, at(x=REBASE_DISTANCE * 2)))
    after, _ = cloud.colored_points(10_000)
    assert cloud.world_from_points[0, 3] > REBASE_DISTANCE
    np.testing.assert_allclose(after, before, atol=1e-4)


def test_memory_is_flat_and_reset_empties() -> None:
    cloud = RollingCloud(5000, voxel_size=0.001)
    held = cloud.nbytes
    for turn in range(20):
        cloud.integrate(observation(2.0, turn * SECOND, at(yaw=turn * 0.7)))
        assert cloud.nbytes == held
    cloud.reset()
    assert cloud.point_count == 0
    assert accounts_balance(cloud)
    cloud.integrate(observation(2.0, 0))
    assert cloud.point_count == 1200
    assert accounts_balance(cloud)


def test_late_observation_is_taken_and_ages_by_its_own_stamp() -> None:
    cloud = RollingCloud(10_000, voxel_size=0.001, max_age=5.0)
    cloud.integrate(observation(2.0, 10 * SECOND))
    cloud.integrate(observation(2.0, 8 * SECOND, at(yaw=3.0)))
    assert cloud.point_count == 2400
    cloud.integrate(observation(np.nan, 14 * SECOND, at(yaw=1.5)))
    assert cloud.point_count == 1200


def test_blocks_out_of_view_are_left_out_of_drawing() -> None:
    cloud = RollingCloud(10_000, voxel_size=0.001)
    cloud.integrate(observation(2.0, 0))
    assert len(cloud.visible_spans(CAMERA, at())) == 1
    assert len(cloud.visible_spans(CAMERA, at(yaw=np.pi))) == 0


@pytest.mark.parametrize("name", ["capacity", "voxel_size", "max_age", "max_radius", "max_depth"])
def test_bounds_must_be_positive(name: str) -> None:
    with pytest.raises(ValueError, match=name):
        RollingCloud(**{name: 0})  # type: ignore[arg-type]


STEPS = st.lists(
    st.tuples(st.floats(0.3, 8.0), st.floats(-6.3, 6.3), st.floats(-40, 40), st.floats(0, 1),
              st.integers(-3, 12)),
    min_size=1, max_size=8)


@given(steps=STEPS, capacity=st.integers(1, 2500), voxel=st.sampled_from([0.001, 0.05, 1.0]))
@settings(max_examples=40, deadline=None)
def test_never_over_any_bound(
    steps: list[tuple[float, float, float, float, int]], capacity: int, voxel: float
) -> None:
    cloud = RollingCloud(capacity, voxel_size=voxel, max_age=10.0, max_radius=25.0)
    held, stamp, newest = cloud.nbytes, 0, -(2**62)
    for depth, yaw, x, missing, seconds in steps:
        rng = np.random.default_rng(abs(hash((depth, yaw, x))) % 2**32)
        picture = np.full((30, 40), depth, np.float32) + rng.normal(0, 0.05, (30, 40))
        picture[rng.random((30, 40)) < missing] = np.nan
        stamp += seconds * SECOND
        newest = max(newest, stamp)
        cloud.integrate(observation(picture.astype(np.float32), stamp, at(x=x, yaw=yaw)))
        assert cloud.point_count <= capacity
        assert cloud.nbytes == held
        assert accounts_balance(cloud)
        xyz, _ = cloud.colored_points(capacity)
        if len(xyz):
            assert np.linalg.norm(xyz - (x, 0, 0), axis=1).max() <= 25.1
        assert (cloud.stamps[cloud.frames[np.isfinite(cloud.xyz[0])]]
                >= newest - 10 * SECOND).all()
