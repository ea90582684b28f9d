# SPDX-License-Identifier: Apache-2.0
"""`inspatio scene` from end to end: resumed bit by bit, bad input refused, nothing half done."""

from __future__ import annotations

import csv
import hashlib
import json
import math
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import pytest

from inspatio_ros.cli.main import main
from inspatio_ros.geometry import rigid
from inspatio_ros.scene.clip_files import ClipFolder
from inspatio_ros.scene.kept_views import read_kept
from inspatio_ros.scene.panorama import centred_camera, panorama_directions
from inspatio_ros.scene.reconstruct import ReconstructionError, in_order, open3d
from inspatio_ros.worlds.room import room
from support.data import ROOT

WORLD = room(0, moving=False)
CAMERA = centred_camera(80, 54, math.radians(80))
QUICK = ["--preset", "geometric", "--width", "80", "--voxel", "0.06", "--frames", "0"]
CLIPS = ["--clips", "right", "up", "wander", "--wander", "0"]


@pytest.fixture(scope="module", autouse=True)
def _with_open3d() -> None:
    try:
        open3d()
    except ReconstructionError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four posed RGB-D frames of the room, as a folder of frames."""
    folder = tmp_path_factory.mktemp("data") / "room"
    (folder / "rgb").mkdir(parents=True)
    (folder / "depth").mkdir()
    with (folder / "frames.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["index", "stamp", "rgb", "depth", "tx", "ty", "tz", "qx", "qy", "qz",
                        "qw"])
        for number in range(4):
            pose = rigid.from_euler(0, 0, 0.15 * number, (-1.6 + 0.1 * number, -1.5, 1.2)) \
                @ rigid.BODY_FROM_OPTICAL
            view = WORLD.render(CAMERA, pose)
            names = f"rgb/{number}.png", f"depth/{number}.png"
            cv2.imwrite(str(folder / names[0]), view.image[..., ::-1])
            cv2.imwrite(str(folder / names[1]), np.rint(view.depth * 1000).astype(np.uint16))
            table.writerow([number, 0.2 * number, *names, *pose[:3, 3],
                            *rigid.to_quaternion(pose)])
    matrix = [CAMERA.fx, CAMERA.fy, CAMERA.cx, CAMERA.cy]
    (folder / "calib.json").write_text(json.dumps({"cameras": {"rgb": {
        "width": 80, "height": 54, "K": matrix, "D": [], "depth_scale_m": 0.001}}}))
    return folder


@pytest.fixture(scope="module")
def scene(recording: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole scene, not interrupted."""
    folder = tmp_path_factory.mktemp("scene")
    assert main(["scene", str(recording), "--out", str(folder), *QUICK, *CLIPS]) == 0
    return folder


def digests(folder: Path) -> dict[str, str]:
    """Of everything but notes and the lock's name."""
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest()
            for p in sorted(folder.rglob("*")) if p.is_file()}


def test_a_scene_has_all_its_files(scene: Path) -> None:
    result = scene / "scene"
    for name in ("mesh.ply", "observed_mesh.ply", "cloud.ply", "transforms.json", "index.html",
                 "player.html", "walk.mp4", "labels.mp4", "coverage.json", "coverage.png",
                 "above.png", "above_provenance.png", "sparse/0/cameras.txt",
                 "sparse/0/images.txt", "sparse/0/points3D.txt"):
        assert (result / name).stat().st_size > 0, name
    coverage = json.loads((result / "coverage.json").read_text())
    assert sum(coverage["sphere"].values()) == pytest.approx(1.0, abs=0.001)
    assert coverage["sphere"]["imagined"] > 0.05
    assert coverage["surface_m2"]["whole"] > coverage["surface_m2"]["observed"] > 5.0
    names = [clip["name"] for clip in coverage["clips"]]
    assert names == ["00_right", "01_up", "02_wander"]
    frames = json.loads((result / "transforms.json").read_text())["frames"]
    assert all((result / frame["file_path"]).is_file() for frame in frames)
    assert len(frames) == 4 + sum(clip["frames"] for clip in coverage["clips"])


def test_imagined_surface_lies_where_the_room_is(scene: Path) -> None:
    """The imagined depth that is fused, against the true room."""
    error = []
    for folder in sorted((scene / "clips").iterdir()):
        for view in ClipFolder(folder).surfaces():
            first = rigid.from_euler(0, 0, 0.0, (-1.6, -1.5, 1.2)) @ rigid.BODY_FROM_OPTICAL
            truth = WORLD.render(view.camera, first @ view.world_from_camera).depth
            assert view.confidence is not None
            trusted = (view.depth > 0) & (view.confidence > 0.3)
            error.append(np.abs(view.depth / truth - 1)[trusted])
    everything = np.concatenate(error)
    assert len(everything) > 3000
    assert np.median(everything) < 0.06


def test_a_second_run_makes_nothing_anew(scene: Path, recording: Path) -> None:
    before = {p: p.stat().st_mtime_ns for p in scene.rglob("*") if p.is_file()}
    assert main(["scene", str(recording), "--out", str(scene), *QUICK, *CLIPS]) == 0
    assert {p: p.stat().st_mtime_ns for p in before} == before


def test_a_killed_run_goes_on_to_the_same_scene(scene: Path, recording: Path,
                                                tmp_path: Path) -> None:
    """Killed after the first clip, by SIGKILL: the rest follows, equal byte by byte."""
    command = [sys.executable, "-m", "inspatio_ros.cli.main", "scene", str(recording), "--out",
               str(tmp_path), *QUICK, *CLIPS]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, env=env) as process:
        deadline = time.monotonic() + 240
        first = tmp_path / "clips/00_right/inspatio_step.json"
        while not first.is_file() and time.monotonic() < deadline and process.poll() is None:
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
    assert first.is_file()
    assert not (tmp_path / "scene").exists()
    written = first.stat().st_mtime_ns
    assert main(["scene", str(recording), "--out", str(tmp_path), *QUICK, *CLIPS]) == 0
    assert first.stat().st_mtime_ns == written
    whole, resumed = digests(scene), digests(tmp_path)
    assert whole.keys() == resumed.keys()
    assert [name for name in whole if whole[name] != resumed[name]] == []


def test_a_mesh_has_an_order_of_its_own() -> None:
    rng = np.random.default_rng(0)
    vertices = rng.normal(size=(20, 3))
    colors = rng.integers(0, 255, (20, 3)).astype(np.uint8)
    triangles = np.stack([rng.permutation(20)[:3] for _ in range(30)]).astype(np.int64)
    order = rng.permutation(20)
    place = np.argsort(order)
    shuffled = np.roll(place[triangles], 1, axis=1)[rng.permutation(30)]
    once = in_order(vertices, colors, triangles)
    again = in_order(vertices[order], colors[order], shuffled)
    for a, b in zip(once, again, strict=True):
        np.testing.assert_array_equal(a, b)
    corners = once[0][once[2]].sum(axis=1)
    assert np.allclose(np.sort(corners, axis=0),
                       np.sort(vertices[triangles].sum(axis=1), axis=0))


def test_a_full_disk_is_reported_and_leaves_nothing_half_done(
        recording: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    try:
        status = main(["scene", str(recording), "--out", str(tmp_path), *QUICK, *CLIPS])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)
    assert status == 1
    assert "inspatio scene" in capsys.readouterr().err
    assert not (tmp_path / "scene").exists()
    assert not list(tmp_path.rglob("*.part"))


# --- panoramas and pictures --------------------------------------------------------------------


def panorama_picture(path: Path, height: int = 96) -> npt.NDArray[np.float32]:
    """A panorama of the room, by rays; its ranges [H, 2 H]."""
    pose = rigid.from_euler(0, 0, 0.3, (-1.0, -1.5, 1.3)) @ rigid.BODY_FROM_OPTICAL
    rays = panorama_directions(height).reshape(-1, 3) @ pose[:3, :3].T
    ranges, ids = WORLD.cast(np.broadcast_to(pose[:3, 3], rays.shape), rays, 0.0)
    places = pose[:3, 3] + rays * ranges[:, None]
    color = np.stack([40 * (ids % 6), 60 + 40 * (np.floor(places[:, 0] * 2) % 4),
                      60 + 40 * (np.floor(places[:, 2] * 2 + places[:, 1]) % 4)], axis=-1)
    cv2.imwrite(str(path), color.reshape(height, 2 * height, 3).astype(np.uint8))
    return np.asarray(ranges.reshape(height, 2 * height), np.float32)


def test_a_panorama_with_ranges_becomes_a_scene(tmp_path: Path) -> None:
    ranges = panorama_picture(tmp_path / "room.png")
    np.save(tmp_path / "room.npy", ranges)
    out = tmp_path / "out"
    assert main(["scene", str(tmp_path / "room.png"), "--panorama", "--ranges",
                 str(tmp_path / "room.npy"), "--out", str(out), *QUICK,
                 "--clips", "turn"]) == 0
    coverage = json.loads((out / "scene/coverage.json").read_text())
    assert coverage["sphere"]["seen"] > 0.75
    turn = ClipFolder(out / "clips/00_turn")
    first, last = turn.image(0), turn.image(len(turn.record) - 1)
    assert np.abs(first.astype(int) - last).mean() < 3.0  # a full turn closes


def test_a_panorama_without_depth_turns_in_place_only(tmp_path: Path) -> None:
    panorama_picture(tmp_path / "room.png")
    out = tmp_path / "out"
    assert main(["scene", str(tmp_path / "room.png"), "--panorama", "--depth", "plane", "--out",
                 str(out), *QUICK]) == 0
    coverage = json.loads((out / "scene/coverage.json").read_text())
    assert [clip["name"] for clip in coverage["clips"]] == ["00_turn"]
    assert "turns in place" in coverage["input"]["note"]


@pytest.mark.parametrize(("size", "words", "said"), [
    ((80, 100), ["--panorama"], "80x100"),
    ((100, 80), ["--panorama", "--depth", "plane"], "twice as wide as high"),
    ((96, 64), ["--depth", "motion"], "a depth model is needed"),
    ((96, 64), ["--depth", "transformers"], "no depth for pictures"),
])
def test_bad_pictures_are_refused(size: tuple[int, int], words: list[str], said: str,
                                  tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A wrong aspect; one picture without anything that knows its depth."""
    path = tmp_path / "picture.png"
    cv2.imwrite(str(path), np.full((size[1], size[0], 3), 90, np.uint8))
    out = tmp_path / "out"
    assert main(["scene", str(path), "--out", str(out), *QUICK, *words]) == 1
    assert said in capsys.readouterr().err
    assert not (out / "scene").exists()


def test_ranges_that_do_not_fit_are_refused(tmp_path: Path,
                                            capsys: pytest.CaptureFixture[str]) -> None:
    panorama_picture(tmp_path / "room.png")
    np.save(tmp_path / "room.npy", np.ones((4, 8), np.float32))
    assert main(["scene", str(tmp_path / "room.png"), "--panorama", "--ranges",
                 str(tmp_path / "room.npy"), "--out", str(tmp_path / "out"), *QUICK]) == 1
    assert "do not fit" in capsys.readouterr().err


def test_imagined_depth_can_be_estimated(recording: Path, tmp_path: Path) -> None:
    """By the shipped network, brought to what is known; resumed from what was kept of it."""
    pytest.importorskip("ai_edge_litert")
    words = ["scene", str(recording), "--out", str(tmp_path), *QUICK, "--clips", "right",
             "--wander", "0", "--imagined-depth", "estimated"]
    assert main(words) == 0
    views = read_kept(tmp_path / "clips/00_right/kept.npz")
    assert any(view.estimated is not None and (view.estimated > 0).any() for view in views)
