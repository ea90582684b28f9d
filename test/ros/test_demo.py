# SPDX-License-Identifier: Apache-2.0
"""`inspatio demo` end to end: the first seconds of the sample through the real nodes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pytest

from inspatio_ros.cli.main import main
from inspatio_ros.files.bags import BagReader, BagWriter
from inspatio_ros.files.videos import read_video
from inspatio_ros.ros.recorder import frame_of, stamp_of
from inspatio_ros.share import share_folder
from support.data import ROOT
from support.ros import DOMAIN

SECONDS = 4.0
VIDEOS = ("source.mp4", "guide.mp4", "imagined.mp4", "really_seen.mp4", "provenance.mp4")


def shorten(source: Path, target: Path, seconds: float, leave_out: str = "") -> None:
    with BagReader(source) as reader, BagWriter(target) as writer:
        kept = [t for t in reader.topics.values() if t.name != leave_out]
        for topic in kept:
            writer.add_topic(topic.name, topic.message_type, latched=topic.latched)
        stop_ns = reader.start_ns + round(seconds * 1e9)
        for stored in reader.messages([t.name for t in kept], stop_ns=stop_ns):
            writer.write(stored.topic, stored.stamp_ns, stored.data)


@dataclass(frozen=True)
class Demo:
    folder: Path
    status: int
    output: str


def run_demo(*arguments: str) -> Demo:
    program = subprocess.run(
        [sys.executable, str(ROOT / "scripts/inspatio"), "demo", *arguments], cwd=ROOT,
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=280, check=False,
        env={**os.environ, "PYTHONUNBUFFERED": "1"})
    return Demo(Path(arguments[1]), program.returncode, program.stdout + program.stderr)


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Demo:
    folder = tmp_path_factory.mktemp("demo")
    shorten(share_folder("samples") / "office", folder / "short", SECONDS)
    # Half speed: imagines ahead even where the tests share the machine.
    done = run_demo("--output", str(folder / "out"), "--bag", str(folder / "short"),
                    "--preset", "geometric", "--width", "208", "--height", "120",
                    "--rate", "0.5", "--domain", str(DOMAIN))
    assert done.status == 0, done.output
    return done


def test_the_summary_has_its_keys(demo: Demo) -> None:
    summary = json.loads((demo.folder / "summary.json").read_text())
    assert set(summary) == {"frames", "frame_rate", "latency_ms", "coverage", "psnr"}
    assert set(summary["latency_ms"]) == {"p50", "p95"}
    assert set(summary["psnr"]) == {"imagined", "last_frame", "single_warp"}
    assert all(set(v) == {"all", "covered"} for v in summary["psnr"].values())
    assert summary["frames"] >= 5
    assert summary["frame_rate"] > 0
    assert 0 < summary["latency_ms"]["p50"] <= summary["latency_ms"]["p95"]
    assert 0.3 < summary["coverage"] <= 1.0
    if summary["psnr"]["imagined"]["all"] is None:  # a machine too slow to look ahead says so
        assert "try --rate" in demo.output
    else:
        assert summary["psnr"]["imagined"]["all"] > summary["psnr"]["last_frame"]["all"]


def test_the_terminal_gets_a_table_and_the_page(demo: Demo) -> None:
    assert "frames imagined along the plan" in demo.output
    assert (demo.folder / "index.html").resolve().as_uri() in demo.output


def test_videos_are_in_step_and_show_something(demo: Demo) -> None:
    counts = set()
    for name in VIDEOS:
        frames = [frame.image for frame in read_video(demo.folder / name)]
        counts.add(len(frames))
        assert frames[0].shape == (120, 208, 3)
        assert np.std(frames[0]) > 5 or name == "really_seen.mp4"
    assert len(counts) == 1
    summary = json.loads((demo.folder / "summary.json").read_text())
    assert counts.pop() > summary["frames"]  # the orbit's frames follow those of the plan


def test_provenance_is_colored(demo: Demo) -> None:
    frame = next(iter(read_video(demo.folder / "provenance.mp4"))).image
    mean = frame.reshape(-1, 3).mean(axis=0)
    assert max(mean) - min(mean) > 15  # no grey picture


def test_the_page_plays_from_its_folder(demo: Demo) -> None:
    data = (demo.folder / "player_data.js").read_text()
    for name in VIDEOS:
        assert f'"file": "{name}"' in data
    assert "player_data.js" in (demo.folder / "index.html").read_text()
    sheet = cv2.imread(str(demo.folder / "contact_sheet.png"))
    assert sheet.shape[1] > 1000


def test_everything_published_is_in_the_bag(demo: Demo) -> None:
    with BagReader(demo.folder / "bag") as reader:
        assert reader.damage == ""
        topics = reader.topics
        for name in ("image", "frame", "depth", "provenance", "guide/image", "camera_info"):
            assert topics[f"/imagination/{name}"].count > 5
        for name in ("/plan", "/tf", "/odom", "/camera/color/image_raw/compressed",
                     "/imagination/camera_path", "/imagination/status", "/diagnostics"):
            assert topics[name].count > 0
        assert topics["/tf_static"].latched
        assert topics["/imagination/camera_path"].latched
        stamps = [m.stamp_ns for m in reader.messages(["/imagination/frame"])]
        assert stamps == sorted(stamps)
        assert stamps[0] > 1_600_000_000 * 10**9  # the recording's time, not the wall's
        requests = {bytes(reader.deserialize(m).request_id.uuid)
                    for m in reader.messages(["/imagination/frame"])}
    assert len(requests) == 2  # along the plan, and the orbit


def test_headers_are_read_without_decoding(demo: Demo) -> None:
    with BagReader(demo.folder / "bag") as reader:
        stored = next(iter(reader.messages(["/imagination/image"])))
        header = reader.deserialize(stored).header
    assert stamp_of(stored.data) == header.stamp.sec * 10**9 + header.stamp.nanosec
    assert frame_of(stored.data) == header.frame_id == "imagined_camera_optical"


def test_an_earlier_demonstration_is_replaced_but_nothing_else(
        tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    assert main(["demo", "--output", str(tmp_path)]) == 1
    assert "holds other things" in capsys.readouterr().err
    assert (tmp_path / "thesis.txt").exists()


def test_a_recording_without_a_plan_is_refused(
        tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shorten(share_folder("samples") / "office", tmp_path / "short", 1.0, leave_out="/plan")
    assert main(["demo", "--output", str(tmp_path / "out"), "--bag",
                 str(tmp_path / "short")]) == 1
    message = capsys.readouterr().err
    assert "no nav_msgs/Path" in message
    assert "/camera/color/camera_info" in message
