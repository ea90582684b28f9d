# SPDX-License-Identifier: Apache-2.0
"""Replay experiments: the YAML, every output, determinism, providers of depth, bad input."""

from __future__ import annotations

import csv
import json
import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from inspatio_ros.cli.main import main
from inspatio_ros.evaluation.baselines import BASELINES
from inspatio_ros.evaluation.experiment import (
    Experiment,
    ExperimentError,
    checked,
    load_experiment,
)
from inspatio_ros.evaluation.hindsight import HindsightOptions, Offset, View, evaluate
from inspatio_ros.evaluation.replay import replay, results_table
from inspatio_ros.evaluation.replay_input import open_replay
from inspatio_ros.evaluation.replay_page import Line, line_plot, ticks
from inspatio_ros.evaluation.view_checks import CameraControl, flicker
from inspatio_ros.files.bags import BagReader
from inspatio_ros.geometry import rigid
from inspatio_ros.geometry.camera import PinholeCamera
from inspatio_ros.imagination.backends import BackendOptions, make_backend
from inspatio_ros.imagination.engine import ImaginationEngine
from inspatio_ros.imagination.filler import GeometricFiller
from inspatio_ros.imagination.request import ImaginedFrame
from inspatio_ros.memory.world_memory import MemoryOptions
from inspatio_ros.messages.images import to_array, to_rgb
from inspatio_ros.sensing.observation import Observation, Provenance
from inspatio_ros.worlds.room import room
from support.bags import write_texts
from support.data import ROOT

CAMERA = PinholeCamera(160, 96, 110.0, 110.0, 79.5, 47.5)
MOUNT = rigid.from_rotation(np.eye(3), (0.1, 0.0, 0.9)) @ rigid.BODY_FROM_OPTICAL
WORLD = room(0, moving=False)
SMALL = Experiment(horizons=(0.4, 1.0), width=160, stride=4, memory=MemoryOptions(
    capacity=300_000))


def drive(count: int = 16, back: bool = False) -> list[Observation]:
    times = np.arange(count) / 5.0
    poses = WORLD.drive(0.4, times) @ MOUNT
    if back:
        poses = np.concatenate([poses, poses[::-1][1:]])
    views = [WORLD.render(CAMERA, pose, 0.0) for pose in poses]
    return [Observation(round(i * 2e8), v.image, v.depth, CAMERA, pose)
            for i, (v, pose) in enumerate(zip(views, poses, strict=True))]


def write_sequence(folder: Path, frames: list[Observation], *, depth: bool = True) -> Path:
    """A folder of frames in the layout of `files.sequences`."""
    (folder / "rgb").mkdir(parents=True)
    (folder / "depth").mkdir()
    columns = ["index", "stamp", "rgb", *(["depth"] if depth else []),
               "tx", "ty", "tz", "qx", "qy", "qz", "qw"]
    rows = []
    for i, seen in enumerate(frames):
        cv2.imwrite(str(folder / f"rgb/{i:04d}.png"), seen.image[..., ::-1])
        counts = np.nan_to_num(seen.depth * 1000).round().astype(np.uint16)
        cv2.imwrite(str(folder / f"depth/{i:04d}.png"), counts)
        x, y, z = seen.world_from_camera[:3, 3]
        rows.append([i, f"{seen.stamp_ns * 1e-9:.3f}", f"rgb/{i:04d}.png",
                     *([f"depth/{i:04d}.png"] if depth else []), x, y, z,
                     *rigid.to_quaternion(seen.world_from_camera)])
    with (folder / "frames.csv").open("w", newline="") as file:
        csv.writer(file).writerows([columns, *rows])
    camera = {"width": CAMERA.width, "height": CAMERA.height, "D": [], "depth_scale_m": 0.001,
              "K": [CAMERA.fx, CAMERA.fy, CAMERA.cx, CAMERA.cy]}
    (folder / "calib.json").write_text(json.dumps({"cameras": {"rgb": camera}}))
    return folder


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_sequence(tmp_path_factory.mktemp("rooms") / "room", drive())


@pytest.fixture(scope="module")
def replayed(recording: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("out")
    replay(recording, replace(SMALL, offsets=(Offset(lateral=0.3),)), out)
    return out


def report_of(out: Path) -> dict[str, Any]:
    return dict(json.loads((out / "report.json").read_text()))


def at(report: dict[str, Any], method: str, horizon: float) -> dict[str, Any]:
    (found,) = [r for r in report["results"]
                if (r["method"], r["horizon_s"]) == (method, horizon)]
    return dict(found)


def test_the_report_has_every_method_at_every_horizon(replayed: Path) -> None:
    report = report_of(replayed)
    assert [(r["method"], r["horizon_s"]) for r in report["results"]] == [
        (method, horizon) for horizon in (0.4, 1.0) for method in (*BASELINES, "geometric")]
    for result in report["results"]:
        assert {"frames", "coverage", "psnr_all", "psnr_covered", "psnr_holes", "ssim_all",
                "psnr_disoccluded", "psnr_out_of_view", "psnr_no_depth", "psnr_observed",
                "psnr_memory", "psnr_imagined", "flicker", "gradient_holes"} <= set(result)
        assert result["frames"] >= 2
        shares = [result[f"share_{name}"] for name in (
            "observed", "memory", "disoccluded", "out_of_view", "no_depth", "other")]
        assert sum(shares) == pytest.approx(1.0)
        assert result["share_observed"] + result["share_memory"] == pytest.approx(
            result["coverage"])


def test_in_a_room_with_true_depth_the_figures_are_what_they_should_be(replayed: Path) -> None:
    report = report_of(replayed)
    for horizon in (0.4, 1.0):
        ours, last = at(report, "geometric", horizon), at(report, "last_frame", horizon)
        assert ours["psnr_all"] > at(report, "homography", horizon)["psnr_all"]
        assert ours["psnr_all"] > at(report, "nearest_view", horizon)["psnr_all"]
        # Depth comes from the world itself: what is imagined lies where it is.
        assert ours["depth_abs_rel"] < 0.02
        assert ours["depth_farther"] < 0.01
        assert 0.5 < ours["depth_known"] <= 1.0
        assert ours["flicker"] < 0.5 * last["flicker"]
        assert ours["camera_floor_score"] > 90
        assert ours["camera_score"] > ours["camera_floor_score"] - 10
        assert last["depth_abs_rel"] is None
    assert report["depth"] == {"provider": "sensor", "truth": "sensor"}
    assert set(report["missing"]) == {"feature_distance", "lpips_all", "fid", "fvd",
                                      "psnr_revisit"}


def test_twice_gives_the_same_bytes(recording: Path, replayed: Path, tmp_path: Path) -> None:
    replay(recording, replace(SMALL, offsets=(Offset(lateral=0.3),)), tmp_path / "again")
    first, second = report_of(replayed), report_of(tmp_path / "again")
    assert first.pop("timings").keys() == second.pop("timings").keys() == {"load_s", "replay_s"}
    assert json.dumps(first) == json.dumps(second)
    for name in ("results.csv", "report.html"):
        assert (replayed / name).read_bytes() == (tmp_path / "again" / name).read_bytes()
    bags = [next((out / "imagined").glob("*.mcap")) for out in (replayed, tmp_path / "again")]
    assert bags[0].read_bytes() == bags[1].read_bytes()


def test_the_table_is_the_report(replayed: Path) -> None:
    with (replayed / "results.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    results = report_of(replayed)["results"]
    assert len(rows) == len(results)
    for row, result in zip(rows, results, strict=True):
        assert list(row) == list(result)
        assert float(row["psnr_all"]) == result["psnr_all"]
        assert row["lpips_all"] == ""
    markdown = results_table([report_of(replayed)]).splitlines()
    assert markdown[2].startswith("| room | 0.4 | ")
    assert markdown[2].count("**") == 2


def test_the_page_stands_alone_and_shows_best_and_worst(replayed: Path) -> None:
    page = (replayed / "report.html").read_text()
    assert not re.search(r"(src|href)=\"(?!data:)", page)
    assert "http" not in page.replace("http-equiv", "")
    assert page.count("<svg") >= 6
    assert page.count("data:image/jpeg;base64,") >= 6
    for word in ("Best views", "Worst views", "Left out, and why", "lpips_all", "disoccluded"):
        assert word in page


def test_a_view_knows_the_frame_before_it_and_where_its_pixels_were(recording: Path) -> None:
    views: list[View] = []
    with open_replay(recording, SMALL) as source:
        evaluate("room", source.observations, ImaginationEngine(GeometricFiller()),
                 SMALL.hindsight, memory=SMALL.memory, on_view=views.append)
    assert views
    for view in views:
        assert view.before is not None
        assert view.before.frame_index == view.frame.frame_index - 1
        match = view.match()
        assert match is not None
        seen = match.seen & (view.frame.provenance >= Provenance.MEMORY)
        assert seen.mean() > 0.3
        # The true depth brings the frame before to this one; left where it is it does not fit.
        still = np.abs(view.before.image.astype(int) - view.frame.image)[seen].mean()
        assert flicker(view.before.image, view.frame.image, replace(match, seen=seen)) < still


def test_the_bag_holds_the_compared_views(recording: Path, tmp_path: Path) -> None:
    out, frames = tmp_path / "out", []
    replay(recording, SMALL, out)
    with open_replay(recording, SMALL) as source:
        evaluate("room", source.observations, ImaginationEngine(GeometricFiller()),
                 SMALL.hindsight, memory=SMALL.memory, on_view=lambda v: frames.append(v.frame))
    with BagReader(out / "imagined") as bag:
        assert {name: info.count for name, info in bag.topics.items()} == {
            "/tf": len(frames), **{f"/imagination/{part}": len(frames) for part in (
                "image", "camera_info", "depth", "provenance", "frame")}}
        by = {topic: [bag.deserialize(m) for m in bag.messages([topic])] for topic in bag.topics}
    stamps = [m.header.stamp.sec * 10**9 + m.header.stamp.nanosec
              for m in by["/imagination/image"]]
    assert stamps == sorted(set(stamps))
    for i, frame in enumerate(frames):
        np.testing.assert_array_equal(to_rgb(by["/imagination/image"][i]), frame.image)
        np.testing.assert_array_equal(to_array(by["/imagination/depth"][i]), frame.depth)
        np.testing.assert_array_equal(to_array(by["/imagination/provenance"][i]),
                                      frame.provenance)
        message, info = by["/imagination/frame"][i], by["/imagination/camera_info"][i]
        assert message.frame_index == frame.frame_index
        assert message.observed_ratio == pytest.approx(frame.observed_ratio)
        assert message.camera_pose.pose.position.x == frame.world_from_camera[0, 3]
        assert (info.width, info.k[0]) == (frame.camera.width, frame.camera.fx)
        assert message.header == by["/imagination/image"][i].header


def test_all_frames_or_none_can_be_written(recording: Path, tmp_path: Path) -> None:
    content = replay(recording, replace(SMALL, frames_in_bag="all", limit=12), tmp_path / "all")
    with BagReader(tmp_path / "all/imagined") as bag:
        assert bag.topics["/imagination/image"].count == sum(
            row["frames"] for row in content["drift"])
    replay(recording, replace(SMALL, frames_in_bag="none", limit=12), tmp_path / "all")
    assert not (tmp_path / "all/imagined").exists()


def test_offsets_and_drift_are_told(replayed: Path) -> None:
    report = report_of(replayed)
    assert {row["lateral_m"] for row in report["offsets"]} == {0.3}
    for row in report["offsets"]:
        assert 0.2 < row["coverage"] <= 1.0
        assert row["extrapolation_m"] > 0.25
    blocks = [row["block"] for row in report["drift"]]
    assert blocks == list(range(5))
    assert report["drift"][0]["psnr_all"] > report["drift"][-1]["psnr_all"]


def test_a_horizon_that_no_start_reaches_is_stated(
        recording: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status = main(["replay", str(recording), "--out", str(tmp_path), "--horizons", "0.4", "60",
                   "--width", "160", "--limit", "10"])
    assert status == 0
    out, _ = capsys.readouterr()
    assert "60 s: 2 starts left out: the recording has no frame 60 s after" in out
    (row,) = [r for r in report_of(tmp_path)["unreached"] if r["horizon_s"] == 60]
    assert row["starts"] == 2
    assert {r["horizon_s"] for r in report_of(tmp_path)["results"]} == {0.4}


def test_a_recording_too_short_for_all_horizons_is_refused(
        recording: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["replay", str(recording), "--out", str(tmp_path / "out"), "--limit", "3"]) == 1
    assert "too short: no start with 5 frames before it" in capsys.readouterr().err
    assert not (tmp_path / "out/report.json").exists()


def test_a_place_seen_before_counts_as_revisited() -> None:
    """Forward and back: late starts see early places again."""
    frames = drive(26, back=True)
    options = HindsightOptions((1.0,), stride=2, width=80, methods=("last_frame", "nearest_view"),
                               thorough=True)
    turned = [Observation(o.stamp_ns, *_turned(o)) for o in frames]
    report = evaluate("loop", turned, ImaginationEngine(GeometricFiller()), options)
    by = {result.method: result for result in report.results}
    assert 0 < by["geometric"].revisit_frames < by["geometric"].frames
    assert by["nearest_view"].psnr_revisit > by["last_frame"].psnr_revisit


def _turned(seen: Observation) -> tuple[Any, ...]:
    """What the camera of `seen` sees when it looks the way it goes: to the left on the way back,
    so that places leave the view in between."""
    late = seen.stamp_ns > 5.2e9
    angle = 0.06 * (seen.stamp_ns * 1e-9 / 0.2 if not late else 51 - seen.stamp_ns * 1e-9 / 0.2)
    c, s = math.cos(angle), math.sin(angle)
    pose = seen.world_from_camera @ rigid.from_rotation([[c, 0, s], [0, 1, 0], [-s, 0, c]])
    view = WORLD.render(CAMERA, pose, 0.0)
    return view.image, view.depth, CAMERA, pose


def test_expected_errors_are_calibrated_by_earlier_views_only() -> None:
    options = HindsightOptions((0.2, 0.4, 0.6), stride=1, warm_up=3, width=64, methods=(),
                               thorough=False)
    report = evaluate("room", drive(22), ImaginationEngine(GeometricFiller()), options)
    found = report.calibration["geometric"]
    assert len(found.prior) == sum(r.frames for r in report.results)
    # 32 pairs have to be known before a view gets an expected error.
    assert 0 < len(found.expected) <= len(found.prior) - 32
    assert found.expected.reliability().gap < found.prior.reliability().gap


def test_without_depth_the_camera_s_motion_gives_it(recording: Path, tmp_path: Path) -> None:
    blind = write_sequence(tmp_path / "blind", drive(), depth=False)
    report = replay(blind, replace(SMALL, frames_in_bag="none"), tmp_path / "out")
    assert report["depth"] == {"provider": "motion_stereo", "truth": None}
    assert "nothing measured depth" in report["missing"]["depth_abs_rel"]
    assert at(report, "geometric", 0.4)["depth_abs_rel"] is None
    with pytest.raises(ValueError, match=r"no depth 'sensor'.*motion"), \
            open_replay(blind, replace(SMALL, depth=replace(SMALL.depth, provider="sensor"))):
        pass


def test_motion_stereo_is_judged_by_the_sensor(recording: Path, tmp_path: Path) -> None:
    motion = replace(SMALL, depth=replace(SMALL.depth, provider="motion_stereo"),
                     frames_in_bag="none")
    report = replay(recording, motion, tmp_path)
    assert report["depth"] == {"provider": "motion_stereo", "truth": "sensor"}
    ours = at(report, "geometric", 0.4)
    assert 1e-4 < ours["depth_abs_rel"] < 0.2


def test_depth_of_files_is_that_of_the_files(recording: Path, tmp_path: Path) -> None:
    choice = replace(SMALL.depth, provider="file", folder=str(recording / "depth"))
    content = replay(recording, replace(SMALL, depth=choice, frames_in_bag="none"),
                     tmp_path / "out")
    assert content["depth"] == {"provider": "file", "truth": "sensor"}
    assert at(content, "geometric", 0.4)["depth_abs_rel"] < 0.02
    few = tmp_path / "few"
    few.mkdir()
    (few / "0000.png").write_bytes((recording / "depth/0000.png").read_bytes())
    with pytest.raises(ExperimentError, match="1 depth pictures .* for the 16 frames"), \
            open_replay(recording, replace(SMALL, depth=replace(choice, folder=str(few)))):
        pass


def test_a_preset_stands_beside_the_geometric_filler(recording: Path, tmp_path: Path) -> None:
    experiment = replace(SMALL, preset=("tiny_random",), horizons=(0.4,), steps=(1,), limit=9,
                         width=64, methods=("last_frame",), seeds=(0, 1), frames_in_bag="none")
    content = replay(recording, experiment, tmp_path)
    frames = {r["method"]: r["frames"] for r in content["results"]}
    # Two seeds give two views of the preset, and one of what has no randomness.
    assert frames == {"last_frame": 1, "geometric": 1, "tiny_random": 2}


def test_in_model_mode_known_pixels_are_the_model_s_own(recording: Path) -> None:
    engine = ImaginationEngine(make_backend(BackendOptions("tiny")))
    frames: dict[str, list[ImaginedFrame]] = {"composite": [], "model": []}
    for mode, seen in frames.items():
        options = replace(SMALL.hindsight, horizons=(0.4,), limit=9, width=64, mode=mode)
        with open_replay(recording, SMALL) as source:
            evaluate("room", source.observations, engine, options, memory=SMALL.memory,
                     on_view=lambda v, seen=seen: seen.append(v.frame))
    for composite, own in zip(*frames.values(), strict=True):
        inside = cv2.erode((composite.provenance >= Provenance.MEMORY).astype(np.uint8),
                           np.ones((9, 9), np.uint8)) > 0
        np.testing.assert_array_equal(composite.image[inside], composite.guide.image[inside])
        # The finisher leaves known pixels nearly alone: a grey value or two of rounding.
        change = np.abs(own.image[inside].astype(int) - own.guide.image[inside])
        assert 0 < change.mean() < 2.0


def test_a_bag_without_pictures_names_what_it_has(
        tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bag = write_texts(tmp_path / "texts", {"/talk": [(0, "a"), (10, "b")]})
    assert main(["replay", str(bag), "--out", str(tmp_path / "out")]) == 1
    error = capsys.readouterr().err
    assert "lacks an image" in error
    assert "/talk (std_msgs/msg/String, 2)" in error
    assert not (tmp_path / "out").exists()


def test_a_topic_that_is_not_there_is_named(tmp_path: Path) -> None:
    bag = write_texts(tmp_path / "texts", {"/talk": [(0, "a")]})
    file = tmp_path / "e.yaml"
    file.write_text("topics:\n  image: /camera/color\n")
    with pytest.raises(ValueError, match=r"no topic /camera/color; it has /talk"), \
            open_replay(bag, load_experiment(file)):
        pass


def test_other_things_in_the_folder_are_left_alone(recording: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(ExperimentError, match="holds other things"):
        replay(recording, SMALL, tmp_path)
    assert (tmp_path / "thesis.tex").read_text() == "precious"


def test_weights_that_are_not_there_are_named_before_anything_runs(
        recording: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status = main(["replay", str(recording), "--out", str(tmp_path / "out"), "--features",
                   str(tmp_path / "none.pth")])
    assert status == 1
    assert f"{tmp_path / 'none.pth'}: no such file" in capsys.readouterr().err


def test_an_empty_experiment_is_the_default(tmp_path: Path) -> None:
    file = tmp_path / "empty.yaml"
    file.write_text("# nothing\n")
    assert load_experiment(file) == Experiment() == checked(Experiment())
    assert Experiment().horizons == (0.5, 1.0, 2.0, 4.0)


def test_every_key_can_be_given(tmp_path: Path) -> None:
    file = tmp_path / "all.yaml"
    file.write_text("""
topics: {image: /left/image, image_info: /left/camera_info}
depth: {provider: file, folder: depths, min: 0.5, max: 60, unit: 0.01}
preset: [geometric, tiny]
steps: [1000, 500]
horizons: 1
offsets:
  - {lateral_m: -0.5}
  - {yaw_deg: 90}
seeds: [3, 4]
stride: 7
warm_up: 6
width: 320
skip: 2
limit: 40
methods: [last_frame, mean_fill]
memory: {max_radius: 100, voxel_size: 0.05}
world_frame: map
time_offset: -0.1
networks: {features: ../lite0.pth}
frames_in_bag: all
mode: model
""")
    e = load_experiment(file)
    assert (e.topics.image, e.depth.provider, e.depth.max) == ("/left/image", "file", 60.0)
    assert e.depth.folder == str(tmp_path / "depths")
    assert (e.horizons, e.seeds, e.engines) == ((1.0,), (3, 4), ("geometric", "tiny"))
    assert e.offsets == (Offset(-0.5), Offset(0.0, math.pi / 2))
    assert e.hindsight.more_seeds == (4,)
    assert e.hindsight.mode == "model"
    assert (e.memory.max_radius, e.memory.capacity) == (100.0, 2_000_000)
    assert e.networks.features.endswith("lite0.pth")
    assert json.loads(json.dumps(e.to_dict()))["offsets"][0]["lateral"] == -0.5
    file.write_text("depth: stereo\n")
    assert load_experiment(file).depth.provider == "stereo"


@pytest.mark.parametrize(("text", "error"), [
    ("stride: 2\nhorizon: [1]\n", r"e.yaml, line 2: key 'horizon'.*did you mean 'horizons'"),
    ("depth:\n  provider: sensor\n  minimum: 1\n",
     r"line 3: key 'depth.minimum' is not .*'min'|line 3: key 'depth.minimum' is not one of"),
    ("preset: geometrik\n", "line 1: preset: 'geometrik' .*did you mean 'geometric'"),
    ("depth: stereoo\n", "line 1: depth provider: 'stereoo' .*did you mean 'stereo'"),
    ("width: 320\nstride: five\n", "line 2: stride must be a whole number, got 'five'"),
    ("stride: 2.5\n", "line 1: stride must be a whole number, got 2.5"),
    ("stride: true\n", "line 1: stride must be a whole number, got True"),
    ("horizons: [1, .nan]\n", "line 1: horizons must be a number, got nan"),
    ("horizons: [1, -1]\n", "line 1: horizons must be positive"),
    ("horizons: []\n", "horizons must be positive"),
    ("horizons: [1, 1]\n", "horizons must be different"),
    ("width: 4\n", "width at least 16"),
    ("seeds: [1, 1]\n", "line 1: seeds must be different"),
    ("stride: 1\nstride: 2\n", "line 2: key 'stride' stands twice"),
    ("- stride\n", "line 1: an experiment must be a table"),
    ("topics: /image\n", "line 1: topics must be a table"),
    ("stride: [1\n", "not YAML.*line 2"),
    ("offsets: [{lateral: 1}]\n", "line 1: key 'offsets.lateral'.*did you mean 'lateral_m'"),
    ("depth: {min: 5, max: 2}\n", "line 1: depth from 5 m to 2 m is empty"),
    ("depth: file\n", "line 1: depth: provider file needs folder"),
    ("depth: transformers\n", "line 1: depth: provider transformers needs model"),
    ("skip: -1\n", "skip and limit must be at least 0"),
    ("methods: [first]\n", "line 1: methods must be of"),
    ("frames_in_bag: some\n", "line 1: frames_in_bag: 'some' is not one of compared, all, none"),
    ("mode: both\n", "line 1: mode must be of composite, model, got both"),
    ("memory: {voxel_size: 0}\n", "line 1: memory: capacity and voxel_size must be positive"),
])
def test_a_bad_experiment_says_where_and_what(tmp_path: Path, text: str, error: str) -> None:
    file = tmp_path / "e.yaml"
    file.write_text(text)
    with pytest.raises(ExperimentError, match=error) as raised:
        load_experiment(file)
    assert str(raised.value).startswith(str(file))


def test_an_experiment_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ExperimentError, match=r"none\.yaml: cannot be read"):
        load_experiment(tmp_path / "none.yaml")


def test_ticks_are_round_and_enclose() -> None:
    assert ticks([0.0, 10.0]) == [0.0, 2.0, 4.0, 6.0, 8.0, 10.0]
    for values in ([3.0, 3.0], [0.013, 0.021], [-7.0, 922.0], [0.0, 0.0]):
        found = ticks(values)
        assert found[0] <= min(values)
        assert max(values) <= found[-1]
        assert 2 <= len(found) <= 8


def test_a_plot_of_nothing_is_nothing_and_names_are_escaped() -> None:
    assert line_plot("empty", [Line("a", [], "#000")], "s") == ""
    assert "&lt;b&gt;" in line_plot("<b>", [Line("<i>", [(0, 1), (1, 2)], "#000")], "s")
    assert "<i>" not in line_plot("x", [Line("<i>", [(0, 1), (1, 2)], "#000")], "s")


def test_no_pose_at_all_has_no_score() -> None:
    assert math.isnan(CameraControl().score)
    assert math.isnan(CameraControl().found)


def test_the_table_of_the_document_is_made_by_one_command(
        tmp_path: Path, capsys: pytest.CaptureFixture[str],
        monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    import evaluation_table

    write_sequence(tmp_path / "data/holo_office", drive(12))
    command = ["--out", str(tmp_path / "reports"), "--data", str(tmp_path / "data"), "--only",
               "holo_office", "fox_handheld"]
    assert evaluation_table.main(command) == 0
    table, told = capsys.readouterr()
    assert "| holo_office | 0.5 | 2 | " in table
    assert "fox_handheld: not there" in told
    report = tmp_path / "reports/holo_office/report.json"
    made = report.stat().st_mtime_ns
    assert evaluation_table.main(command) == 0
    assert report.stat().st_mtime_ns == made
    assert capsys.readouterr().out == table
    document = (ROOT / "docs/evaluation.md").read_text()
    changed = evaluation_table.replaced(document, "| a |")
    assert f"{evaluation_table.BEGIN}\n| a |\n{evaluation_table.END}" in changed
    assert len(changed) < len(document)


@pytest.mark.parametrize("name", ["indoor", "street"])
def test_the_experiments_that_come_along_can_be_read(name: str) -> None:
    experiment = load_experiment(ROOT / f"samples/experiments/{name}.yaml")
    assert experiment.horizons == (0.5, 1.0, 2.0, 4.0)
    assert (experiment.depth.min, len(experiment.offsets)) == (
        (3.0, 0) if name == "street" else (0.1, 2))


def test_the_experiment_of_the_document_is_the_default(tmp_path: Path) -> None:
    document = (ROOT / "docs/evaluation.md").read_text()
    (text,) = re.findall(r"```yaml\n(.*?)```", document, re.DOTALL)
    file = tmp_path / "document.yaml"
    file.write_text(text)
    found = load_experiment(file)
    assert found == Experiment()
    keys = set(re.findall(r"^(\w+):", text, re.MULTILINE))
    assert keys == set(vars(Experiment()))


def test_frames_in_the_bag_carry_their_expected_error(recording: Path, tmp_path: Path) -> None:
    """Once 32 views have been compared; NaN before."""
    dense = replace(SMALL, horizons=(0.2, 0.4, 0.6, 0.8), stride=1, width=64, methods=())
    content = replay(recording, dense, tmp_path / "out")
    with BagReader(tmp_path / "out/imagined") as bag:
        values = [bag.deserialize(m).expected_error for m in bag.messages(["/imagination/frame"])]
    known = [value for value in values if math.isfinite(value)]
    assert math.isnan(values[0])
    assert len(known) == content["expected_error"]["geometric"]["expected"]["pairs"] > 0
    assert all(0.0 < value < 0.5 for value in known)


def test_a_device_that_is_not_there_is_named(
        recording: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(ExperimentError, match="device: cuda:0, but torch finds no CUDA device"):
        replay(recording, replace(SMALL, device="cuda:0"), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_preset_without_its_weights_is_refused(
        recording: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status = main(["replay", str(recording), "--out", str(tmp_path / "out"), "--preset",
                   "inspatio_world_1_3b"])
    assert status == 1
    assert "needs the folder of its weights" in capsys.readouterr().err


def test_a_recording_that_is_not_there_is_named(
        tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["replay", str(tmp_path / "none"), "--out", str(tmp_path / "out")]) == 1
    assert f"{tmp_path / 'none'}: no such recording" in capsys.readouterr().err
