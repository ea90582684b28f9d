# SPDX-License-Identifier: Apache-2.0
"""inspatio run from end to end on small clips, good and bad."""

from __future__ import annotations

import contextlib
import csv
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import tracemalloc
from pathlib import Path

import cv2
import numpy as np
import pytest

from inspatio_ros.cli import main as cli
from inspatio_ros.cli import view
from inspatio_ros.files.reference_layout import (
    GeometryFolder,
    GeometryWriter,
    read_ply,
    write_captions,
)
from inspatio_ros.files.videos import VideoWriter, read_video
from inspatio_ros.geometry.camera import PinholeCamera
from inspatio_ros.pipeline import clips
from inspatio_ros.pipeline.results import mean_coverage
from inspatio_ros.sensing.observation import Observation
from support.data import ROOT

WIDTH, HEIGHT, RATE = 64, 48, 10.0
VIDEOS = ("source.mp4", "render.mp4", "mask.mp4", "prediction.mp4", "provenance.mp4")
MOTION = "0 0\n0 4\n1 1\n"


def picture(index: int, width: int = WIDTH, height: int = HEIGHT) -> np.ndarray:
    """A smooth picture that drifts, so that frames differ and compress."""
    y, x = np.mgrid[:height, :width]
    return np.stack([x * 3 + index, y * 4, (x + y) * 2 + 2 * index], -1).astype(np.uint8)


def write_clip(path: Path, frames: int, width: int = WIDTH, height: int = HEIGHT,
               times: list[float] | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with VideoWriter(path, RATE) as video:
        for index in range(frames):
            video.write(picture(index, width, height), None if times is None else times[index])
    return path


def run(*words: object) -> int:
    return cli.main(["run", *map(str, words), "--preset", "geometric", "--depth", "plane"])


@pytest.fixture
def motion(tmp_path: Path) -> Path:
    (tmp_path / "turn.txt").write_text(MOTION)
    return tmp_path / "turn.txt"


@pytest.fixture
def fixed(motion: Path) -> tuple[object, ...]:
    """Flags under which a clip has as many frames as its video."""
    return "--traj_txt_path", motion, "--disable_adaptive_frame"


def frame_counts(folder: Path) -> set[int]:
    return {sum(1 for _ in read_video(folder / name)) for name in VIDEOS}


def contents(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes()
            for p in sorted(folder.rglob("*")) if p.is_file()}


def test_video_to_videos_and_page(tmp_path: Path, fixed: tuple[object, ...],
                                  capsys: pytest.CaptureFixture[str]) -> None:
    write_clip(tmp_path / "in/clip.mp4", 7)
    assert run("--input_dir", tmp_path / "in", "--output_folder", tmp_path / "out", *fixed) == 0
    said = capsys.readouterr().out
    assert "preflight: degrade" in said
    assert "every pixel is taken to lie 1 m ahead" in said
    out = tmp_path / "out/clip"
    assert frame_counts(out) == {7}
    with (out / "frames.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert [int(row["source_frame"]) for row in rows] == list(range(7))
    assert float(rows[0]["observed"]) > 0.9
    assert json.loads((out / "inspatio_step.json").read_text())["frame_rate"] == RATE
    assert (out / "index.html").is_file()
    first = next(iter(read_video(out / "prediction.mp4"))).image
    assert np.abs(first.astype(int) - picture(0)).mean() < 6
    # What the public release's own programs read.
    assert len(GeometryFolder(tmp_path / "in/new_vggt/clip_da3_tmp")) == 7
    scene = tmp_path / "in/new_vggt/clip"
    for name in ("render/render_offline.mp4", "render/mask_offline.mp4", "metadata.txt",
                 "extrinsics.txt", "intrinsics.txt", "depth/000000.png"):
        assert (scene / name).stat().st_size > 0
    assert view.pages(tmp_path / "out") == ["clip/index.html"]


def test_done_steps_are_not_done_again(tmp_path: Path, fixed: tuple[object, ...],
                                       capsys: pytest.CaptureFixture[str]) -> None:
    clip = write_clip(tmp_path / "clip.mp4", 4)
    words = (clip, "--out", tmp_path / "out", *fixed)
    assert run(*words) == 0
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "out").rglob("*") if p.is_file()}
    capsys.readouterr()
    assert run(*words) == 0
    assert "clip: done before" in capsys.readouterr().out
    assert before == {p: p.stat().st_mtime_ns
                      for p in (tmp_path / "out").rglob("*") if p.is_file()}
    assert run(*words, "--fps", 5) == 0
    made = json.loads((tmp_path / "out/clip/inspatio_step.json").read_text())
    assert made["frame_rate"] == 5.0
    depth = tmp_path / "out/work/new_vggt/clip_da3_tmp/depth/0000.png"
    assert depth.stat().st_mtime_ns == before[depth]


# Kills itself when a step has made so many frames, or before so many-th file or folder is put in
# its place: then all is written, and nothing of it counts yet.
SUICIDAL = """
import os, signal, sys
from contextlib import contextmanager
from inspatio_ros.cli import run as command
from inspatio_ros.cli.main import main
what, number = sys.argv[1], int(sys.argv[2])
die = lambda: os.kill(os.getpid(), signal.SIGKILL)
@contextmanager
def bar(self, label, total):
    yield lambda done: die() if label.endswith(what) and done == number else None
command.Bars.bar = bar
replace, calls = os.replace, []
def counted(*places):
    calls.append(places)
    if what == "replace" and len(calls) == number:
        die()
    replace(*places)
os.replace = counted
main(sys.argv[3:])
"""


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An input folder and the result of a run that nothing disturbed."""
    place = tmp_path_factory.mktemp("undisturbed")
    write_clip(place / "in/clip.mp4", 14)
    (place / "turn.txt").write_text(MOTION)
    assert run("--input_dir", place / "in", "--out", place / "out", "--traj_txt_path",
               place / "turn.txt", "--disable_adaptive_frame", "--prompt", "a bar") == 0
    return place


@pytest.mark.parametrize(("what", "number"), [
    ("depth", 1), ("depth", 14), ("imagine", 3), ("imagine", 14), ("replace", 1), ("replace", 2),
    ("replace", 3), ("replace", 5), ("replace", 8), ("replace", 10)])
def test_killed_and_started_again_is_as_undisturbed(
    tmp_path: Path, undisturbed: Path, what: str, number: int
) -> None:
    (tmp_path / "in").mkdir()
    shutil.copyfile(undisturbed / "in/clip.mp4", tmp_path / "in/clip.mp4")
    words = ["--input_dir", "in", "--out", "out", "--traj_txt_path",
             str(undisturbed / "turn.txt"), "--disable_adaptive_frame", "--prompt", "a bar"]
    command = ["run", *words, "--preset", "geometric", "--depth", "plane"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", SUICIDAL, what, str(number), *command], cwd=tmp_path, timeout=200,
        env=environment, capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    with contextlib.chdir(tmp_path):
        assert run(*words) == 0
    for part in ("out", "in/new_vggt"):
        assert contents(tmp_path / part) == contents(undisturbed / part)
    assert not [p for p in tmp_path.rglob("*") if p.name.endswith((".part", ".old", ".lock"))
                or p.name.startswith("part.")]


def test_bad_videos_are_skipped_and_the_status_says_so(
    tmp_path: Path, fixed: tuple[object, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "in"
    write_clip(folder / "good.mp4", 5)
    write_clip(folder / "odd.mp4", 4, 61, 47)
    write_clip(folder / "one.mp4", 1)
    write_clip(folder / "uneven.mp4", 6, times=[0.0, 0.1, 0.2, 0.3, 0.4, 0.9])
    (folder / "empty.mp4").write_bytes(b"")
    whole = write_clip(folder / "cut.mp4", 60).read_bytes()
    (folder / "cut.mp4").write_bytes(whole[:len(whole) // 2])
    garbage = bytearray(whole)
    garbage[:64] = os.urandom(64)
    (folder / "corrupt.mp4").write_bytes(bytes(garbage))
    assert run("--input_dir", folder, "--out", tmp_path / "out", *fixed) == 1
    said = capsys.readouterr()
    for name in ("empty", "cut", "corrupt"):
        assert f"{name}: skipped: " in said.err
        assert str(folder / f"{name}.mp4") in said.err
        assert not (tmp_path / "out" / name).exists()
    assert "3 of 7 clips failed" in said.err
    for name, frames in (("good", 5), ("odd", 4), ("one", 1), ("uneven", 10)):
        assert frame_counts(tmp_path / "out" / name) == {frames}, name
    assert "uneven: uneven frame times" in said.out


def test_zero_frame_video_is_named(tmp_path: Path, fixed: tuple[object, ...],
                                   capsys: pytest.CaptureFixture[str]) -> None:
    import av

    with av.open(str(tmp_path / "none.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        container.start_encoding()
    assert run(tmp_path / "none.mp4", "--out", tmp_path / "out", *fixed) == 1
    assert re.search(r"none\.mp4: (holds no|not a video)", capsys.readouterr().err)


def test_uneven_times_keep_what_is_shown_when(tmp_path: Path) -> None:
    write_clip(tmp_path / "u.mp4", 6, times=[0.0, 0.1, 0.2, 0.3, 0.4, 0.9])
    clip, = clips.find_clips(tmp_path / "u.mp4")
    info = clips.clip_info(clip)
    assert (info.frames, info.uneven) == (10, True)
    assert info.frame_rate == pytest.approx(10.0)
    shown = [p.mean() for p in clips.read_pictures(clip, info)]
    assert len(shown) == 10
    assert shown[4:9] == [shown[4]] * 5
    assert shown[9] > shown[8]
    assert sum(1 for _ in clips.read_pictures(clip, info, every_frame=True)) == 6


def test_full_disk_is_reported_and_leaves_nothing_half_done(
    tmp_path: Path, fixed: tuple[object, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    clip = write_clip(tmp_path / "clip.mp4", 5)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (900, hard))
    try:
        status = run(clip, "--out", tmp_path / "out", *fixed)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert status == 1
    assert "File too large" in capsys.readouterr().err
    assert not (tmp_path / "out/clip").exists()
    assert run(clip, "--out", tmp_path / "out", *fixed) == 0
    assert frame_counts(tmp_path / "out/clip") == {5}


def test_disk_that_fills_while_imagining(
    tmp_path: Path, fixed: tuple[object, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    clip = write_clip(tmp_path / "clip.mp4", 5)
    words = (clip, "--out", tmp_path / "out", *fixed)
    assert run(*words, "--skip_step3") == 0
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (900, hard))
    try:
        status = run(*words)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert status == 1
    assert "clip: skipped: " in capsys.readouterr().err
    # The result of before is whole.
    assert (tmp_path / "out/clip/render.mp4").is_file()
    assert not (tmp_path / "out/clip/prediction.mp4").exists()


def test_trajectory_that_cannot_be_read_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    clip = write_clip(tmp_path / "clip.mp4", 2)
    (tmp_path / "bad.txt").write_text("0 1\n0 one\n1\n")
    assert run(clip, "--traj_txt_path", tmp_path / "bad.txt", "--out", tmp_path / "o") == 1
    assert "line 2 (yaw): 'one' is not a number" in capsys.readouterr().err
    assert run(clip, "--traj_txt_path", "spiral", "--out", tmp_path / "o") == 1
    assert "shipped motions: x_y_circle_cycle, zoom_out_in" in capsys.readouterr().err


def test_missing_weights_and_gpu_are_named(
    tmp_path: Path, motion: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import torch

    clip = write_clip(tmp_path / "clip.mp4", 2)
    words = ["run", str(clip), "--trajectory", str(motion), "--out", str(tmp_path / "o"),
             "--depth", "plane"]
    checkpoint = tmp_path / "ckpt/InSpatio-World-1.3B/InSpatio-World-1.3B.safetensors"
    assert cli.main([*words, "--checkpoint_path", str(checkpoint)]) == 1
    error = capsys.readouterr().err
    assert str(checkpoint) in error
    assert "GitHub repository inspatio/inspatio-world says where InSpatio-World-1.3B" in error
    if not torch.cuda.is_available():
        assert cli.main([*words, "--preset", "inspatio_world_1_3b"]) == 1
        error = capsys.readouterr().err
        assert "deny" in error
        assert "needs a CUDA device" in error
    assert cli.main([*words, "--preset", "geometric", "--florence_model_path",
                     str(tmp_path / "florence")]) == 1
    assert str(tmp_path / "florence") in capsys.readouterr().err


def test_steps_that_are_skipped(tmp_path: Path, fixed: tuple[object, ...],
                                capsys: pytest.CaptureFixture[str]) -> None:
    clip = write_clip(tmp_path / "clip.mp4", 3)
    words = (clip, "--out", tmp_path / "out", *fixed)
    assert run(*words, "--skip_step2") == 1
    assert "run the depth step first" in capsys.readouterr().err
    assert run(*words, "--skip_step3") == 0
    assert {p.name for p in (tmp_path / "out/clip").glob("*.mp4")} == set(VIDEOS[:3])
    assert run(*words, "--skip_step1", "--skip_step2") == 0
    assert frame_counts(tmp_path / "out/clip") == {3}


def test_folders_of_the_release_are_continued(tmp_path: Path, fixed: tuple[object, ...],
                                              capsys: pytest.CaptureFixture[str]) -> None:
    """Depth and captions that another program made are used, at whatever size they are."""
    folder = tmp_path / "in"
    clip = write_clip(folder / "clip.mp4", 3)
    write_captions(folder / "new.json", [(clip, "a drifting gradient")])
    writer = GeometryWriter(folder / "new_vggt/clip_da3_tmp")
    camera = PinholeCamera(32, 24, 30.0, 30.0, 15.5, 11.5)
    for index in range(3):
        image = cv2.resize(picture(index), camera.size, interpolation=cv2.INTER_AREA)
        writer.write(Observation(index, image, np.full((24, 32), 2.0, np.float32), camera,
                                 np.eye(4)))
    writer.close()
    assert run("--input_dir", folder, "--out", tmp_path / "out", *fixed) == 0
    assert "made by another program" in capsys.readouterr().out
    assert frame_counts(tmp_path / "out/clip") == {3}


@pytest.mark.parametrize("backend", ["warper", "ply"])
def test_parity_conventions_end_to_end(tmp_path: Path, fixed: tuple[object, ...],
                                       backend: str) -> None:
    clip = write_clip(tmp_path / "clip.mp4", 2)
    out = tmp_path / "out"
    assert run(clip, "--out", out, *fixed, "--parity", "--render_backend", backend,
               "--skip_step3") == 0
    frame = next(iter(read_video(out / "clip/render.mp4"))).image
    assert frame.shape == (480, 832, 3)
    assert json.loads((out / "clip/inspatio_step.json").read_text())["frame_rate"] == 24.0
    mask = next(iter(read_video(out / "clip/mask.mp4"))).image
    assert mask.mean() > 200
    clouds = list((out / "work/new_vggt/clip_da3_tmp").glob("frames_pcd/*.ply"))
    assert len(clouds) == (2 if backend == "ply" else 0)


def test_the_release_s_last_step_can_go_on(tmp_path: Path, motion: Path,
                                            capsys: pytest.CaptureFixture[str]) -> None:
    """What it reads has a frame for each of the video's, for it walks them by itself."""
    folder = tmp_path / "in"
    write_clip(folder / "clip.mp4", 6)
    words = ("--input_dir", folder, "--traj_txt_path", motion, "--out", tmp_path / "out",
             "--prompt", "a bar", "--freeze_repeat", "2")
    assert run(*words) == 0
    assert frame_counts(tmp_path / "out/clip") == {121}
    scene = folder / "new_vggt/clip"
    for name in ("render", "mask"):
        frames = [f.image for f in read_video(scene / f"render/{name}_offline.mp4")]
        assert len(frames) == 8
        assert frames[0].shape == (480, 832, 3)
    entry, = json.loads((folder / "new.json").read_text())
    assert entry["text"] == "a bar"
    assert entry["vggt_depth_path"] == str(scene)
    before = (scene / "render/render_offline.mp4").stat().st_mtime_ns
    assert run(*words) == 0
    assert (scene / "render/render_offline.mp4").stat().st_mtime_ns == before
    # A caption that is there already is not replaced, nor what another program rendered.
    write_captions(folder / "new.json", [(folder / "clip.mp4", "a caption"),
                                         (folder / "other.mp4", "another")])
    (scene / "inspatio_step.json").unlink()
    capsys.readouterr()
    assert run(*words) == 0
    assert "clip: made by another program, left as it is" in capsys.readouterr().out
    assert (scene / "render/render_offline.mp4").stat().st_mtime_ns == before
    assert {e["text"] for e in json.loads((folder / "new.json").read_text())} == {
        "a caption", "another"}


def test_parity_loses_the_frames_that_fill_no_block(tmp_path: Path, motion: Path) -> None:
    clip = write_clip(tmp_path / "clip.mp4", 26)
    out = tmp_path / "out"
    assert run(clip, "--out", out, "--trajectory", motion, "--disable_adaptive_frame", "--parity",
               "--skip_step3") == 0
    assert sum(1 for _ in read_video(out / "clip/render.mp4")) == 21


def test_parity_lays_the_ground_flat(tmp_path: Path, fixed: tuple[object, ...],
                                     capsys: pytest.CaptureFixture[str]) -> None:
    clip = write_clip(tmp_path / "clip.mp4", 2)
    out = tmp_path / "out"
    geometry = out / "work/new_vggt/clip_da3_tmp"
    geometry.mkdir(parents=True)
    mask = np.zeros((24, 32), np.uint8)
    mask[12:] = 255
    cv2.imwrite(str(geometry / "ground_mask_1.png"), mask)
    words = (clip, "--out", out, *fixed, "--parity", "--render_backend", "ply", "--skip_step3")
    assert run(*words) == 0
    # All that is seen is a wall facing the camera: it becomes the floor under it.
    made = GeometryFolder(geometry)
    for number in range(2):
        points, _ = made.cloud(number)
        np.testing.assert_allclose(points[:, 1], 0.0, atol=1e-5)
    down = made.world_from_camera[0, :3, 2]
    np.testing.assert_allclose(np.abs(down), (0, 1, 0), atol=1e-6)
    boxes = np.loadtxt(geometry / "frame_bboxes.txt")
    assert boxes.shape == (2, 6)
    np.testing.assert_allclose(boxes[:, [1, 4]], 0.0, atol=1e-5)
    first, _ = read_ply(geometry / "point_cloud.ply")
    np.testing.assert_allclose(first[:, 2], 1.0, atol=1e-6)
    assert (geometry / "ground_mask_1.png").is_file()
    cv2.imwrite(str(geometry / "ground_mask_7.png"), mask)
    (geometry / "ground_mask_1.png").unlink()
    assert run(*words) == 1
    assert "ground_mask_7.png: there is no frame 7" in capsys.readouterr().err


def test_the_recording_s_own_way_is_judged(tmp_path: Path, fixed: tuple[object, ...]) -> None:
    """Where the recording looked from the new pose, its picture is the truth."""
    clip = write_clip(tmp_path / "clip.mp4", 5)
    still = tmp_path / "still.txt"
    still.write_text("0 0\n0 0\n0 0\n")
    out = tmp_path / "out"
    assert run(clip, "--out", out, "--traj_txt_path", still, "--disable_adaptive_frame") == 0
    with (out / "clip/frames.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert [row["truth_frame"] for row in rows] == ["0", "1", "2", "3", "4"]
    assert min(float(row["psnr"]) for row in rows) > 35
    assert sum(1 for _ in read_video(out / "clip/error.mp4")) == 5
    page = (out / "clip/player_data.js").read_text()
    assert "error.mp4" in page
    assert "PSNR against the recording" in page
    # Turned away from where the recording looked, there is no truth but at the start.
    assert run(clip, "--out", tmp_path / "away", *fixed) == 0
    with (tmp_path / "away/clip/frames.csv").open() as stream:
        truths = [row["truth_frame"] for row in csv.DictReader(stream)]
    assert (truths[0], truths[3:]) == ("0", ["", ""])


def test_random_model_streams_the_recording(tmp_path: Path, fixed: tuple[object, ...]) -> None:
    clip = write_clip(tmp_path / "clip.mp4", 14)
    words = ["run", str(clip), "--out", str(tmp_path / "out"), *map(str, fixed), "--preset",
             "tiny_random", "--depth", "plane", "--mode", "model"]
    assert cli.main(words) == 0
    assert frame_counts(tmp_path / "out/clip") == {14}
    record = json.loads((tmp_path / "out/clip/inspatio_step.json").read_text())
    assert record["drift"]["blocks_judged"] > 1
    # Other options of long roll-outs are another result.
    assert cli.main([*words, "--reanchor", "0.5", "--keyframes", "2"]) == 0
    held = json.loads((tmp_path / "out/clip/inspatio_step.json").read_text())
    assert held["fingerprint"] != record["fingerprint"]
    assert held["drift"]["blocks_judged"] == record["drift"]["blocks_judged"]


def test_pictures_and_recordings(tmp_path: Path, motion: Path) -> None:
    folder = tmp_path / "shots"
    folder.mkdir()
    for index in range(3):
        cv2.imwrite(str(folder / f"{index}.png"), picture(index))
    assert run(folder, "--trajectory", motion, "--out", tmp_path / "out",
               "--disable_adaptive_frame") == 0
    assert frame_counts(tmp_path / "out/shots") == {3}
    assert run(folder / "0.png", "--trajectory", motion, "--out", tmp_path / "out") == 0
    assert frame_counts(tmp_path / "out/0") == {121}


def test_recording_brings_its_own_depth_and_cameras(tmp_path: Path, motion: Path) -> None:
    folder = tmp_path / "walk"
    folder.mkdir()
    rows = ["index,stamp,rgb,depth,tx,ty,tz,qx,qy,qz,qw"]
    for index in range(4):
        cv2.imwrite(str(folder / f"{index}.png"), picture(index))
        cv2.imwrite(str(folder / f"{index}d.png"), np.full((HEIGHT, WIDTH), 2000, np.uint16))
        rows.append(f"{index},{index * 0.2},{index}.png,{index}d.png,5,{index * 0.1},0,0,0,0,1")
    (folder / "frames.csv").write_text("\n".join(rows) + "\n")
    (folder / "calib.json").write_text(json.dumps({"cameras": {"rgb": {
        "width": WIDTH, "height": HEIGHT, "K": [60, 60, 31.5, 23.5], "D": [0, 0, 0, 0, 0],
        "depth_scale_m": 0.001}}}))
    assert run(folder, "--trajectory", motion, "--out", tmp_path / "out",
               "--disable_adaptive_frame", "--relative_to_source", "--remember") == 0
    assert frame_counts(tmp_path / "out/walk") == {4}
    assert json.loads((tmp_path / "out/walk/inspatio_step.json").read_text())["frame_rate"] == 5.0
    geometry = GeometryFolder(tmp_path / "out/work/new_vggt/walk_da3_tmp")
    np.testing.assert_allclose(geometry.world_from_camera[:, :3, 3],
                               [[0, 0.1 * k, 0] for k in range(4)], atol=1e-9)


def test_flags_of_the_release_keep_their_names(tmp_path: Path, motion: Path) -> None:
    clip = write_clip(tmp_path / "in/clip.mp4", 2)
    words = ["--input_dir", clip.parent, "--traj_txt_path", motion, "--output_folder",
             tmp_path / "out", "--da3_model_path", tmp_path, "--step1_gpus", "0", "--step2_gpus",
             "0", "--step3_gpus", "0", "--step3_nproc", "1", "--master_port", "29600",
             "--skip_step1", "--relative_to_source", "--rotation_only", "--render_backend",
             "warper", "--disable_adaptive_frame", "--freeze_repeat", "2", "--freeze_frame", "1",
             "--use_tae", "--compile_dit", "--seed", "3", "--prompt", "a bar"]
    assert run(*words) == 0
    assert frame_counts(tmp_path / "out/clip") == {4}


def test_memory_does_not_grow_with_the_clip(tmp_path: Path, fixed: tuple[object, ...]) -> None:
    short = write_clip(tmp_path / "short.mp4", 30)
    long = write_clip(tmp_path / "long.mp4", 300)
    run(short, "--out", tmp_path / "warm", *fixed)  # compiles, imports
    peaks = []
    for clip in (short, long):
        tracemalloc.start()
        assert run(clip, "--out", tmp_path / "out", *fixed) == 0
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    # Poses and shares of each frame stay: ten minutes at 30 Hz then hold 18 MB at most, beside the
    # 700 MB that the program takes with its libraries.
    assert (peaks[1] - peaks[0]) / 270 <= 1000, peaks


def test_a_folder_around_a_bag_is_that_bag(tmp_path: Path) -> None:
    for name in ("b/bag", "a/one", "a/two"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "metadata.yaml").write_text("")
    assert [(c.name, c.kind) for c in clips.find_clips(tmp_path / "b")] == [("b", "recording")]
    assert [c.name for c in clips.find_clips(tmp_path / "a")] == ["one", "two"]


def test_nothing_to_run_is_named(tmp_path: Path, motion: Path,
                                 capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "void").mkdir()
    assert run(tmp_path / "void", "--trajectory", motion) == 1
    assert "holds no video" in capsys.readouterr().err
    assert run(tmp_path / "absent.mp4", "--trajectory", motion) == 1
    assert "no such file" in capsys.readouterr().err
    assert run("--trajectory", motion) == 1
    assert "name one input" in capsys.readouterr().err
    with pytest.raises(FileNotFoundError, match="no index.html"):
        view.pages(tmp_path)


def test_a_way_that_leaves_the_recording_is_said(tmp_path: Path,
                                                 capsys: pytest.CaptureFixture[str]) -> None:
    clip = write_clip(tmp_path / "clip.mp4", 6)
    (tmp_path / "away.txt").write_text("0 0\n0 179\n0 0\n")
    (tmp_path / "still.txt").write_text("0 0\n0 0\n0 0\n")
    for name, leaves in (("still", False), ("away", True)):
        out = tmp_path / name
        assert run(clip, "--out", out, "--traj_txt_path", tmp_path / f"{name}.txt") == 0
        said = capsys.readouterr().out
        share = mean_coverage(out / "clip")
        assert share is not None
        assert f"({100 * share:.0f} % of the pixels backed by what was seen)" in said
        assert (share < 0.5) == leaves
    (tmp_path / "away.txt").write_text("0 0\n170 179\n0 0\n")
    assert run(clip, "--out", tmp_path / "far", "--traj_txt_path", tmp_path / "away.txt") == 0
    assert "--relative_to_source carries" in capsys.readouterr().out
    assert mean_coverage(tmp_path) is None
