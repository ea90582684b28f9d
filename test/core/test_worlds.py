# SPDX-License-Identifier: Apache-2.0
"""The analytic worlds are exact: depth, ids, flow and color agree with each other."""

from __future__ import annotations

import time
from dataclasses import replace

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inspatio_ros.geometry import rigid
from inspatio_ros.geometry.camera import PinholeCamera
from inspatio_ros.worlds.raytracing import PLAIN
from inspatio_ros.worlds.room import room
from inspatio_ros.worlds.street import street
from inspatio_ros.worlds.world import (
    SKY,
    AlongPath,
    ConstantVelocity,
    Part,
    Still,
    Texture,
    World,
    WorldObject,
    right_camera,
    stadium,
)

CAMERA = PinholeCamera(160, 96, 110.0, 112.0, 80.3, 47.1)
ROOM, STREET = room(), street()
WORLDS = pytest.mark.parametrize("world", [ROOM, STREET], ids=["room", "street"])
GREY = Texture(PLAIN, (120.0, 120.0, 120.0), noise=0.0)


def looking(position: tuple[float, float, float], yaw: float = 0.0,
            pitch: float = 0.0) -> np.ndarray:
    """world_from_camera at a position, heading and pitch (down positive)."""
    return rigid.from_euler(0.0, pitch, yaw, position) @ rigid.BODY_FROM_OPTICAL


def oracle_cast(world: World, origins: np.ndarray, directions: np.ndarray,
                at: float) -> tuple[np.ndarray, np.ndarray]:
    """Brute-force numpy ray casting, written apart from the compiled one."""
    best = np.full(len(origins), np.inf)
    ids = np.full(len(origins), SKY)
    for index, thing in enumerate(world.objects):
        for part in thing.parts:
            box = np.linalg.inv(thing.motion.world_from_object(at) @ part.object_from_part)
            o = origins @ box[:3, :3].T + box[:3, 3]
            d = directions @ box[:3, :3].T
            half = np.array(part.size) / 2
            a, b = (-half - o) / d, (half - o) / d
            enter, leave = np.minimum(a, b).max(1), np.maximum(a, b).min(1)
            hit = np.where(enter >= 1e-3, enter, leave)
            hit = np.where((enter <= leave) & (leave >= 1e-3), hit, np.inf)
            ids = np.where(hit < best, index, ids)
            best = np.minimum(hit, best)
    return best, ids


@WORLDS
@settings(max_examples=15, deadline=None)
@given(x=st.floats(-3, 3), y=st.floats(-2.5, 2.5), z=st.floats(0.2, 2.5),
       yaw=st.floats(-3.1, 3.1), pitch=st.floats(-1.2, 1.2), at=st.floats(0, 50))
def test_depth_and_ids_equal_brute_force_from_anywhere(
        world: World, x: float, y: float, z: float, yaw: float, pitch: float, at: float) -> None:
    pose = looking((x, y, z), yaw, pitch)
    view = world.render(CAMERA, pose, at)
    rays = CAMERA.rays().reshape(-1, 3) @ pose[:3, :3].T
    depth, ids = oracle_cast(world, np.broadcast_to(pose[:3, 3], rays.shape), rays, at)
    expected = np.where(np.isinf(depth), np.nan, depth).reshape(view.depth.shape)
    agree = np.isclose(view.depth, expected, rtol=1e-5, equal_nan=True)
    # A ray that grazes an edge or a seam of two boxes may go either way in the last bit.
    assert agree.mean() > 0.998
    assert (view.ids.ravel() == ids).mean() > 0.995


def test_wall_depth_and_sky_by_hand() -> None:
    wall = WorldObject("wall", (Part((0.2, 2.0, 2.0), np.eye(4), (GREY,)),),
                       Still(rigid.from_rotation(np.eye(3), (5.1, 0.0, 0.0))))
    world = World((wall,), stadium(1.0, 1.0))
    view = world.render(PinholeCamera(101, 101, 100.0, 100.0, 50.0, 50.0), looking((0, 0, 0)))
    assert view.image.dtype == np.uint8
    assert view.depth.dtype == np.float32
    assert view.image.shape == (101, 101, 3)
    # The wall spans +-1 m at 5 m: 20 pixels either side of the centre.
    assert (view.ids[50] == 0).sum() == 41
    assert np.all(view.depth[view.ids == 0] == np.float32(5.0))  # z-depth, not range
    assert np.isnan(view.depth[view.ids == SKY]).all()
    assert (view.ids == SKY).sum() == 101 * 101 - 41 * 41


@WORLDS
def test_flow_carries_colors_also_of_moving_things(world: World) -> None:
    camera = PinholeCamera(320, 180, 200.0, 200.0, 159.5, 89.5)
    if world is ROOM:
        start, later = looking((-2.2, 0.7, 0.9), 0.35), looking((-2.1, 0.75, 0.9), 0.33)
    else:
        start, later = world.drive(3.0, [2.0, 2.4]) @ looking((0.0, 0.0, 1.5))
    first = world.render(camera, start, 2.0, samples=2)
    second = world.render(camera, later, 2.4, samples=2)
    flow = world.flow(first, later, 2.4)
    grid = np.stack(np.meshgrid(np.arange(320), np.arange(180)), -1).astype(np.float32)
    target = grid + flow.pixels
    warped = cv2.remap(second.image, target, None, cv2.INTER_LINEAR)
    error = (warped.astype(float) - first.image) ** 2
    still = (second.image.astype(float) - first.image) ** 2
    moving = np.isin(first.ids, list(world.tracks([0.0]))) & flow.visible
    assert flow.visible.mean() > 0.7
    assert moving.sum() > 100
    assert error[flow.visible].mean() * 8 < still[flow.visible].mean()
    assert error[moving].mean() * 2 < still[moving].mean()
    nearest = np.rint(target[flow.visible]).astype(int).clip(0, [319, 179])
    same = second.ids[nearest[:, 1], nearest[:, 0]] == first.ids[flow.visible]
    assert same.mean() > 0.97


def test_hidden_pixels_are_not_visible() -> None:
    far = WorldObject("far", (Part((0.1, 20.0, 20.0), np.eye(4), (GREY,)),),
                      Still(rigid.from_rotation(np.eye(3), (10.0, 0.0, 0.0))))
    near = WorldObject("near", (Part((0.1, 1.0, 1.0), np.eye(4), (GREY,)),),
                       ConstantVelocity(rigid.from_rotation(np.eye(3), (5.0, -2.0, 0.0)),
                                        (0.0, 2.0, 0.0)))
    world = World((far, near), stadium(1.0, 1.0))
    camera = PinholeCamera(101, 101, 100.0, 100.0, 50.0, 50.0)
    view = world.render(camera, looking((0, 0, 0)), 0.0)
    flow = world.flow(view, looking((0, 0, 0)), 1.0)
    assert view.ids[50, 50] == 0
    assert not flow.visible[50, 50]
    np.testing.assert_allclose(flow.pixels[50, 50], 0.0, atol=1e-4)
    moved = (view.ids == 1) & (view.depth == np.float32(4.95))  # its front; a side shows too
    assert flow.visible[moved].all()
    np.testing.assert_allclose(flow.pixels[moved][:, 0], -2.0 / 4.95 * 100, rtol=1e-4)
    np.testing.assert_allclose(flow.pixels[moved][:, 1], 0.0, atol=1e-4)


@WORLDS
def test_stereo_partner_sees_disparity_of_the_depth(world: World) -> None:
    left = looking((0.0, 1.2, 1.0), 0.3)
    view = world.render(CAMERA, left, 1.0)
    flow = world.flow(view, right_camera(left, 0.12), 1.0)
    known = view.ids != SKY
    np.testing.assert_allclose(-flow.pixels[known][:, 0], CAMERA.fx * 0.12 / view.depth[known],
                               rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(flow.pixels[known][:, 1], 0.0, atol=1e-4)
    if not known.all():
        np.testing.assert_allclose(flow.pixels[~known], 0.0, atol=1e-4)
        assert np.isnan(flow.depth[~known]).all()


@WORLDS
def test_drive_path_is_free_at_all_times(world: World) -> None:
    robot = np.array([0.0, 0.0, 0.5])
    floor = [i for i, thing in enumerate(world.objects)
             if thing.name in ("walls", "road", "pavement")]
    speed, margin = (0.5, 0.3) if world is ROOM else (5.0, 1.5)
    for at in np.arange(0.0, 60.0, 0.7):
        base = world.drive(speed, [at])[0]
        everywhere = world.drive_path + robot if world is ROOM else base[None, :3, 3] + robot
        assert world.clearance(everywhere, at, ignore=floor).min() > margin


def test_same_seed_same_pixels_other_seed_not() -> None:
    pose = looking((-20.0, -1.75, 1.5))
    one, two, other = (street(seed).render(CAMERA, pose, 3.0) for seed in (7, 7, 8))
    assert np.array_equal(one.image, two.image)
    assert np.array_equal(one.depth, two.depth, equal_nan=True)
    assert not np.array_equal(one.image, other.image)


@WORLDS
def test_pictures_have_detail_but_do_not_alias(world: World) -> None:
    pose = world.drive(0.5, [1.0])[0] @ looking((0, 0, 1.0))
    one = world.render(CAMERA, pose).image.astype(float)
    fine = world.render(CAMERA, pose, samples=4).image.astype(float)
    detail = np.abs(np.diff(fine, axis=1)).mean()
    assert detail > 4.0  # neighbouring pixels differ: there is something to match
    inner = np.abs(one - fine).mean()
    assert inner < 0.6 * detail


def test_light_swings_with_time_when_asked() -> None:
    flickering = replace(ROOM, light=replace(ROOM.light, flicker=0.2))
    pose = looking((1.0, 1.15, 1.0), 2.0)
    dark, bright = (flickering.render(CAMERA, pose, t).image.mean() for t in (5.25, 1.75))
    assert bright > 1.3 * dark


def test_paths_keep_speed_and_turn_smoothly() -> None:
    path = AlongPath(stadium(4.0, 1.0), 0.8, closed=True)
    times = np.arange(0.0, path.length / 0.8 * 2, 0.05)
    poses = path.poses(times)
    steps = np.linalg.norm(np.diff(poses[:, :3, 3], axis=0), axis=1)
    np.testing.assert_allclose(steps, 0.04, rtol=0.02)
    turns = rigid.rotation_angle(rigid.invert(poses[:-1]) @ poses[1:])
    assert turns.max() < 0.06  # 0.04 m on a radius of 1 m, never a jump
    forward = np.diff(poses[:, :3, 3], axis=0) / steps[:, None]
    assert (forward * poses[:-1, :3, 0]).sum(1).min() > 0.99
    np.testing.assert_allclose(path.world_from_object(path.length / 0.8), poses[0], atol=1e-6)
    stop = AlongPath([[0, 0, 0], [1, 0, 0]], 1.0)
    np.testing.assert_allclose(stop.world_from_object(5.0)[:3, 3], [1, 0, 0])


def test_tracks_follow_the_motion() -> None:
    tracks = ROOM.tracks([0.0, 1.0])
    assert {ROOM.objects[i].name for i in tracks} == {"cart", "parcel"}
    for index, poses in tracks.items():
        assert poses.shape == (2, 4, 4)
        np.testing.assert_array_equal(poses[1], ROOM.objects[index].motion.world_from_object(1.0))
        assert np.linalg.norm(poses[1, :3, 3] - poses[0, :3, 3]) > 0.1
    assert not room(moving=False).tracks([0.0])


def test_batch_equals_single_views_and_checks_lengths() -> None:
    poses = ROOM.drive(0.5, [0.0, 1.0]) @ looking((0, 0, 1.0))
    views = list(ROOM.render_batch(CAMERA, poses, [0.0, 1.0]))
    assert np.array_equal(views[1].image, ROOM.render(CAMERA, poses[1], 1.0).image)
    with pytest.raises(ValueError, match="2 poses but 1 times"):
        list(ROOM.render_batch(CAMERA, poses, [0.0]))


def test_wrong_boxes_and_paths_are_refused() -> None:
    with pytest.raises(ValueError, match="not positive"):
        Part((1.0, 0.0, 1.0), np.eye(4), (GREY,))
    with pytest.raises(ValueError, match="one texture or six"):
        Part((1.0, 1.0, 1.0), np.eye(4), (GREY, GREY))
    with pytest.raises(ValueError, match="at least two points"):
        AlongPath([[0, 0, 0]], 1.0)
    with pytest.raises(ValueError, match="equal neighbouring"):
        AlongPath([[0, 0, 0], [0, 0, 0]], 1.0)


@WORLDS
def test_ten_frames_a_second_at_320x180(world: World) -> None:
    camera = PinholeCamera(320, 180, 200.0, 200.0, 159.5, 89.5)
    pose = world.drive(0.5, [0.0])[0] @ looking((0, 0, 1.0))
    seconds = []
    for _ in range(8):
        begin = time.process_time()  # of this process alone, on one core
        world.render(camera, pose)
        seconds.append(time.process_time() - begin)
    assert min(seconds) < 0.1
