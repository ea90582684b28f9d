# SPDX-License-Identifier: Apache-2.0
"""Schedules stay in free space; reconstruction tells seen from imagined; files are right."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from scipy.spatial.transform import Rotation

from inspatio_ros.geometry import rigid
from inspatio_ros.geometry.camera import PinholeCamera
from inspatio_ros.memory.world_memory import MemoryOptions, WorldMemory
from inspatio_ros.scene.camera_files import Shot, read_transforms, write_colmap, write_transforms
from inspatio_ros.scene.free_space import FreeSpace
from inspatio_ros.scene.panorama import centred_camera
from inspatio_ros.scene.pictures import draw_mesh, from_above
from inspatio_ros.scene.reconstruct import (
    FusedMesh,
    RealViews,
    ReconstructionError,
    f_score,
    fuse,
    fuse_scene,
    open3d,
    write_cloud,
    write_mesh,
)
from inspatio_ros.scene.schedule import (
    KINDS,
    LEFT,
    RIGHT,
    STEP,
    STEP_ANGLE,
    TURN,
    UP,
    WANDER,
    choose_starts,
    least_known_sector,
    plan_clip,
)
from inspatio_ros.sensing.observation import Observation, Provenance
from inspatio_ros.worlds.room import room

WORLD = room(0, moving=False)
CAMERA = centred_camera(112, 72, math.radians(80))
VOXEL = 0.05


def look(x: float, y: float, yaw: float) -> npt.NDArray[np.float64]:
    return np.asarray(rigid.from_euler(0, 0, yaw, (x, y, 1.2)) @ rigid.BODY_FROM_OPTICAL)


def see(pose: npt.NDArray[np.float64], stamp: int = 0) -> Observation:
    view = WORLD.render(CAMERA, pose, 0.0)
    return Observation(stamp, view.image, view.depth, CAMERA, pose)


@pytest.fixture(scope="module")
def seen() -> list[Observation]:
    return [see(look(-1.6 + 0.1 * i, -1.5, 0.1 * i), i) for i in range(6)]


@pytest.fixture(scope="module")
def memory(seen: list[Observation]) -> WorldMemory:
    held = WorldMemory(MemoryOptions(capacity=200_000, max_age=1e9, voxel_size=0.03,
                                     keep_imagined=True, imagined_capacity=50_000))
    for observation in seen:
        held.integrate(observation)
    return held


@pytest.fixture(scope="module")
def space(seen: list[Observation], memory: WorldMemory) -> FreeSpace:
    return FreeSpace(seen, memory.colored_points(200_000)[0])


def test_unknown_space_is_not_free(space: FreeSpace, seen: list[Observation]) -> None:
    rng = np.random.default_rng(0)
    places = rng.uniform((-3.9, -2.9, 0.1), (3.9, 2.9, 2.7), (4000, 3))
    free = space.free(places)
    assert 0.03 < free.mean() < 0.7
    # The truth: far enough from everything, but for the gap between pixels and samples.
    assert (WORLD.clearance(places[free], 0.0) > 0.15).mean() > 0.995
    behind = look(-1.6, -1.5, 0.0)[:3, 3] + [-1.0, 0, 0]
    assert not space.free(behind).any()
    assert space.free(seen[0].world_from_camera[:3, 3]).all()
    assert np.allclose(space.up, [0, 0, 1], atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_clips_stay_in_free_space(kind: str, space: FreeSpace, seen: list[Observation],
                                  memory: WorldMemory) -> None:
    clip = plan_clip(kind, "x", seen[0], space, memory, CAMERA)
    assert clip is not None
    poses = clip.world_from_camera
    assert len(clip) >= 8
    assert WORLD.clearance(poses[:, :3, 3], 0.0).min() > 0.2
    assert np.allclose(poses[0], seen[0].world_from_camera, atol=1e-6)
    steps = np.linalg.norm(np.diff(poses[:, :3, 3], axis=0), axis=1)
    turns = rigid.rotation_angle(rigid.invert(poses[:-1]) @ poses[1:])
    assert steps.max() < 1.3 * STEP
    assert turns.max() < 1.3 * STEP_ANGLE
    middle = poses[len(poses) // 2]
    moved = rigid.invert(poses[0]) @ middle
    if kind == UP:
        assert middle[2, 3] > poses[0][2, 3] + 0.05
        assert moved[1, 2] > 0.02  # looks down again at what it rose above
    if kind in (LEFT, RIGHT):
        assert np.sign(moved[0, 2]) == (1 if kind == RIGHT else -1)
    if kind == TURN:
        assert moved[2, 2] < -0.99
    if kind != WANDER:
        assert np.allclose(poses[-1], poses[0], atol=1e-6)


def test_wandering_seeks_what_is_not_known(space: FreeSpace, seen: list[Observation],
                                           memory: WorldMemory) -> None:
    sector = least_known_sector(seen[0].world_from_camera, space, memory, CAMERA)
    assert sector is not None
    assert sector.unseen > 0.9
    knowing = WorldMemory(MemoryOptions(capacity=400_000, max_age=1e9))
    for number in range(12):
        for place in ((-1.4, -1.5), (1.8, 1.2)):
            knowing.integrate(see(look(*place, 2 * math.pi * number / 12), number))
    again = least_known_sector(seen[0].world_from_camera, space, knowing, CAMERA)
    assert again is None or again.unseen < sector.unseen - 0.1


def test_no_clip_of_an_unknown_kind(space: FreeSpace, seen: list[Observation],
                                    memory: WorldMemory) -> None:
    with pytest.raises(ValueError, match="loop"):
        plan_clip("loop", "x", seen[0], space, memory, CAMERA)


def test_a_camera_walled_in_gets_no_orbit(memory: WorldMemory) -> None:
    close = see(look(-3.3, -2.0, math.pi))
    near = FreeSpace([close], np.asarray(rigid.transform_points(
        close.world_from_camera, CAMERA.unproject(close.depth)).reshape(-1, 3)), clearance=0.6)
    clip = plan_clip("orbit", "x", close, near, memory, CAMERA)
    assert clip is None or WORLD.clearance(clip.world_from_camera[:, :3, 3], 0.0).min() > 0.3


def test_starts_are_far_apart(seen: list[Observation]) -> None:
    assert choose_starts(seen, 2) == [seen[0], seen[-1]]
    assert len(choose_starts([seen[0]] * 4, 3)) == 1


# --- reconstruction ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def fused(seen: list[Observation]) -> FusedMesh:
    try:
        open3d()
    except ReconstructionError as error:
        pytest.skip(str(error))
    return fuse(seen, VOXEL)


def truth_of(views: list[Observation]) -> npt.NDArray[np.float64]:
    return np.concatenate([rigid.transform_points(
        o.world_from_camera, o.camera.unproject(o.depth)[o.depth > 0]) for o in views])


def test_the_mesh_lies_where_the_room_is(fused: FusedMesh, seen: list[Observation]) -> None:
    """F-score at 5 cm of at least 0.9 where it was observed."""
    score = f_score(fused.sampled(0.03), truth_of(seen), 0.05)
    assert score["f"] >= 0.9, score
    # The true surface itself, not only pixels of the very views.
    distance = WORLD.clearance(fused.sampled(0.1), 0.0)
    assert np.median(distance) < 0.01
    assert (fused.provenance == Provenance.OBSERVED).all()


def test_colours_of_the_mesh(fused: FusedMesh, seen: list[Observation]) -> None:
    drawn = draw_mesh(fused, CAMERA, seen[2].world_from_camera)
    error = np.abs(drawn.astype(int) - seen[2].image).mean(2)
    assert np.median(error) < 20
    assert np.abs(drawn.mean((0, 1)) - seen[2].image.mean((0, 1))).max() < 15


def imagined(pose: npt.NDArray[np.float64], depth: npt.NDArray[np.float32],
             trust: float = 0.5) -> Observation:
    image = np.full((*depth.shape, 3), 200, np.uint8)
    return Observation(9, image, depth, CAMERA, pose, np.full(depth.shape, trust, np.float32))


def test_imagined_surface_is_added_where_nothing_was_seen(
        fused: FusedMesh, seen: list[Observation]) -> None:
    pose = look(-1.5, -1.4, 2.3)
    true = see(pose).depth
    observed, whole = fuse_scene(seen, [imagined(pose, true)], VOXEL)
    assert observed.area() == pytest.approx(fused.area(), rel=0.02)
    assert whole.area(Provenance.IMAGINED) > 3.0
    everything = truth_of([*seen, see(pose)])
    alone = f_score(observed.sampled(0.04), everything, 0.05)["f"]
    assert f_score(whole.sampled(0.04), everything, 0.05)["f"] > alone + 0.05
    tinted = draw_mesh(whole, CAMERA, pose, tinted=True)
    plain = draw_mesh(whole, CAMERA, pose)
    assert (tinted != plain).any(-1).mean() > 0.3


@pytest.mark.parametrize("share", [0.5, 0.97, 1.0])
def test_the_real_wins_over_imagined_depth(seen: list[Observation], share: float) -> None:
    """Imagined surface before or on what was measured there is left out."""
    pose = seen[2].world_from_camera
    wrong = (seen[2].depth * np.float32(share)).astype(np.float32)
    left = RealViews(seen).uncontradicted(imagined(pose, wrong), 0.2)
    assert (left > 0).mean() < 0.02
    farther = (seen[2].depth * np.float32(1.3)).astype(np.float32)
    assert (RealViews([seen[2]]).uncontradicted(imagined(pose, farther), 0.2) > 0).mean() > 0.8


def test_imagined_depth_without_trust_is_no_surface(seen: list[Observation]) -> None:
    pose = look(-1.5, -1.4, 2.3)
    left = RealViews(seen).uncontradicted(imagined(pose, see(pose).depth, trust=0.05), 0.2)
    assert not (left > 0).any()


def test_nothing_to_fuse_is_an_error(fused: FusedMesh) -> None:
    blind = imagined(look(0, 0, 0), np.full((CAMERA.height, CAMERA.width), np.nan, np.float32))
    with pytest.raises(ReconstructionError, match="no view has a depth"):
        fuse([blind], VOXEL)


def test_f_score_of_known_clouds() -> None:
    line = np.column_stack([np.arange(100) * 0.1, np.zeros(100), np.zeros(100)])
    assert f_score(line, line, 0.05)["f"] == 1.0
    half = f_score(line[:50], line, 0.05)
    assert half["precision"] == 1.0
    assert half["recall"] == 0.5
    assert f_score(line[:0], line, 0.05)["f"] == 0.0
    assert f_score(line + [0, 1, 0], line, 0.05)["f"] == 0.0


# --- files -------------------------------------------------------------------------------------


def test_mesh_and_cloud_are_read_by_others(fused: FusedMesh, tmp_path: Path) -> None:
    o3d = open3d()
    write_mesh(tmp_path / "mesh.ply", fused)
    read = o3d.io.read_triangle_mesh(str(tmp_path / "mesh.ply"))
    assert np.allclose(np.asarray(read.vertices), fused.vertices, atol=1e-5)
    assert np.array_equal(np.asarray(read.triangles), fused.triangles)
    assert np.allclose(np.asarray(read.vertex_colors) * 255, fused.colors, atol=1)
    write_cloud(tmp_path / "cloud.ply", fused.vertices, fused.colors, fused.provenance)
    cloud = o3d.t.io.read_point_cloud(str(tmp_path / "cloud.ply"))
    assert np.array_equal(cloud.point["provenance"].numpy()[:, 0], fused.provenance)


def test_cameras_of_nerfstudio_and_colmap(tmp_path: Path) -> None:
    camera = PinholeCamera(40, 30, 35.0, 36.0, 19.0, 15.5)
    shots = [Shot("images/a.png", camera, look(1.0, 2.0, 0.7)),
             Shot("images/b.png", camera, look(-1.0, 0.5, -2.0), 0.25)]
    write_transforms(tmp_path / "transforms.json", shots, "cloud.ply")
    content = json.loads((tmp_path / "transforms.json").read_text())
    matrix = np.array(content["frames"][0]["transform_matrix"])
    # OpenGL: the camera looks along its minus z; ours along z.
    assert np.allclose(-matrix[:3, 2], shots[0].world_from_camera[:3, 2])
    assert np.allclose(matrix[:3, 1], -shots[0].world_from_camera[:3, 1])
    assert content["frames"][0]["cx"] == 19.5
    again = read_transforms(tmp_path / "transforms.json")
    assert [s.file for s in again] == [s.file for s in shots]
    assert again[1].camera == camera
    assert np.allclose(again[1].world_from_camera, shots[1].world_from_camera)

    point = np.array([[2.0, 3.0, 1.0]])
    write_colmap(tmp_path / "0", shots, point, np.array([[1, 2, 3]], np.uint8))
    _, model, width, height, *numbers = (tmp_path / "0/cameras.txt").read_text().split()
    assert (model, int(width), int(height)) == ("PINHOLE", 40, 30)
    words = (tmp_path / "0/images.txt").read_text().splitlines()[0].split()
    w, x, y, z, *translation = map(float, words[1:8])
    inside = Rotation.from_quat([x, y, z, w]).apply(point[0]) + translation
    pixels, _ = camera.project(rigid.transform_points(
        rigid.invert(shots[0].world_from_camera), point))
    fx, fy, cx, cy = map(float, numbers)
    assert np.allclose([fx * inside[0] / inside[2] + cx, fy * inside[1] / inside[2] + cy],
                       pixels[0] + 0.5)
    assert words[-1] == "images/a.png"


def test_a_picture_from_above_shows_the_mesh(fused: FusedMesh, seen: list[Observation]) -> None:
    camera, pose = from_above(fused, np.array([0, 0, 1.0]), seen[0].world_from_camera[:3, 2], 200)
    image = draw_mesh(fused, camera, pose, behind=False)
    covered = (np.abs(image.astype(int) - (24, 24, 28)).sum(2) > 0).mean()
    assert 0.1 < covered < 0.95
    assert pose[2, 3] > 2.0
