# SPDX-License-Identifier: Apache-2.0
"""The public release's folders, read and written."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from inspatio_ros.files import reference_layout as layout
from inspatio_ros.geometry import rigid
from inspatio_ros.geometry.camera import PinholeCamera
from inspatio_ros.sensing.observation import Observation
from support.fixtures import parity_fixture

CAMERA = PinholeCamera(40, 24, 30.0, 31.0, 19.5, 11.5)


def _observation(index: int) -> Observation:
    rng = np.random.default_rng(index)
    image = np.full((24, 40, 3), 40 * (index + 1), np.uint8)
    depth = rng.uniform(0.5, 9.0, (24, 40)).astype(np.float32)
    depth[0] = np.nan
    pose = rigid.from_euler(0.0, 0.1 * index, 0.02, (0.3 * index, 0.0, 1.0))
    return Observation(index, image, depth, CAMERA, pose)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    writer = layout.GeometryWriter(tmp_path / "clip_da3_tmp", point_clouds=True)
    for index in range(3):
        writer.write(_observation(index))
    writer.close()
    return writer.folder


def test_depth_png_parity() -> None:
    fixture = parity_fixture()
    depth = fixture["depth_png/in/depth"].astype(np.float32)
    rgba = fixture["depth_png/out/rgba"].astype(np.uint8)
    np.testing.assert_array_equal(layout.depth_to_rgba(depth), rgba)
    decoded = layout.rgba_to_depth(rgba)
    np.testing.assert_array_equal(
        decoded.view(np.uint32),
        fixture["depth_png/out/decoded"].astype(np.float32).view(np.uint32))


def test_depth_png_survives_the_file_bit_by_bit(tmp_path: Path) -> None:
    depth = _observation(0).depth
    layout.write_depth_png(tmp_path / "a.png", depth)
    read = layout.read_depth_png(tmp_path / "a.png")
    np.testing.assert_array_equal(read.view(np.uint32)[1:], depth.view(np.uint32)[1:])
    assert np.isnan(read[0]).all()


def test_a_picture_of_another_kind_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"no picture")
    with pytest.raises(layout.LayoutError, match=r"a\.png"):
        layout.read_depth_png(tmp_path / "a.png")


def test_geometry_folder_gives_back_what_was_written(folder: Path) -> None:
    read = layout.GeometryFolder(folder)
    assert len(read) == 3
    for index in range(3):
        given, got = _observation(index), read.observation(index, (40, 24))
        np.testing.assert_allclose(got.world_from_camera, given.world_from_camera, atol=1e-8)
        np.testing.assert_array_equal(got.depth, given.depth)
        assert np.abs(got.image.astype(int) - given.image).max() <= 2
        assert got.camera.agrees_with(CAMERA, 1e-6)
    small = read.observation(1, (20, 12))
    assert small.camera.agrees_with(CAMERA.resized(20, 12), 1e-6)
    assert small.depth.shape == (12, 20)


def test_clouds_lie_where_the_depth_says(folder: Path) -> None:
    raw = (folder / "frames_pcd" / "0001.ply").read_bytes()
    head, body = raw.split(b"end_header\n", 1)
    count = int(head.split(b"element vertex ")[1].split()[0])
    rows = np.frombuffer(body, np.dtype([("xyz", "<f4", 3), ("n", "<f4", 3), ("rgb", "u1", 3)]))
    given = _observation(1)
    known = given.depth > 0
    assert count == len(rows) == np.count_nonzero(known)
    world = rigid.transform_points(given.world_from_camera,
                                   CAMERA.unproject(given.depth)[known])
    np.testing.assert_allclose(rows["xyz"], world, atol=1e-5)
    np.testing.assert_array_equal(rows["rgb"], given.image[known])


@pytest.mark.parametrize(("name", "text", "message"), [
    ("extrinsic.txt", "1 0 0 0\n0 1 0 0\n", "three for each frame"),
    ("extrinsic.txt", "1 0 0 x\n" * 9, "line 1"),
    ("intrinsic.txt", "1 0 0 0\n" * 9, "expected 3 finite numbers"),
    ("intrinsic.txt", "30 0 20\n0 30 12\n0 0 1\n", "intrinsic.txt 1"),
])
def test_damaged_folder_is_named(folder: Path, name: str, text: str, message: str) -> None:
    (folder / name).write_text(text)
    with pytest.raises(layout.LayoutError, match=message):
        layout.GeometryFolder(folder)


def test_missing_depth_is_named(folder: Path) -> None:
    (folder / "depth" / "0002.png").unlink()
    with pytest.raises(layout.LayoutError, match="depth 2, frames 3"):
        layout.GeometryFolder(folder)


def test_scene_folder(folder: Path, tmp_path: Path) -> None:
    layout.write_scene(tmp_path / "clip", layout.GeometryFolder(folder))
    low, high = map(float, (tmp_path / "clip/metadata.txt").read_text().split())
    depth = _observation(0).depth
    np.testing.assert_allclose([low, high], [np.nanmin(depth), np.nanmax(depth)], rtol=1e-6)
    views = [json.loads(line) for line in (tmp_path / "clip/extrinsics.txt").read_text().split(
        "\n") if line]
    assert np.shape(views) == (3, 3, 4)
    np.testing.assert_allclose(
        views[2], rigid.invert(_observation(2).world_from_camera)[:3], atol=1e-7)


def test_captions_are_kept_by_video(tmp_path: Path) -> None:
    videos = [(tmp_path / "b.mp4", "a bar"), (tmp_path / "a.mp4", "ein Kaffee, süß")]
    layout.write_captions(tmp_path / "new.json", videos)
    assert layout.read_captions(tmp_path / "new.json") == {"b.mp4": "a bar",
                                                           "a.mp4": "ein Kaffee, süß"}
    entries = json.loads((tmp_path / "new.json").read_text(encoding="utf-8"))
    assert [Path(e["video_path"]).name for e in entries] == ["a.mp4", "b.mp4"]
    assert entries[0]["vggt_depth_path"] == str(tmp_path / "new_vggt" / "a")
    (tmp_path / "new.json").write_text('{"not": "a list"}')
    with pytest.raises(layout.LayoutError, match=r"new\.json"):
        layout.read_captions(tmp_path / "new.json")


def test_clouds_come_back_and_foreign_files_are_named(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    points = rng.normal(size=(7, 3)).astype(np.float32)
    colors = rng.integers(0, 255, (7, 3)).astype(np.uint8)
    layout.write_ply(tmp_path / "a.ply", points, colors)
    back, painted = layout.read_ply(tmp_path / "a.ply")
    np.testing.assert_array_equal(back, points)
    np.testing.assert_array_equal(painted, colors)
    cut = (tmp_path / "a.ply").read_bytes()[:-5]
    for content in (b"", b"ply\nformat ascii 1.0\nend_header\n1 2 3\n", cut):
        (tmp_path / "b.ply").write_bytes(content)
        with pytest.raises(layout.LayoutError, match=r"b\.ply: not a cloud"):
            layout.read_ply(tmp_path / "b.ply")


def test_ground_mask_names_its_frame(tmp_path: Path) -> None:
    assert layout.ground_mask_of(tmp_path) is None
    (tmp_path / "ground_mask_12.png").write_bytes(b"")
    assert layout.ground_mask_of(tmp_path) == (12, tmp_path / "ground_mask_12.png")
    (tmp_path / "ground_mask_12.png").rename(tmp_path / "ground_mask_a.png")
    with pytest.raises(layout.LayoutError, match="'a' is not the number of a frame"):
        layout.ground_mask_of(tmp_path)
