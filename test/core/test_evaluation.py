# SPDX-License-Identifier: Apache-2.0
"""Hindsight: imagined views against what was really seen later, on a room and on recordings."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from inspatio_ros.cli.main import main
from inspatio_ros.evaluation.baselines import (
    CLASSICAL,
    GUIDE_FILLS,
    LAST_FRAME,
    SINGLE_WARP,
    baselines,
    forward_warp,
    guide_fills,
)
from inspatio_ros.evaluation.hindsight import (
    HindsightOptions,
    HindsightReport,
    Result,
    as_json,
    evaluate,
)
from inspatio_ros.evaluation.report import (
    PROVENANCE_COLORS,
    contact_sheet,
    error_picture,
    markdown_table,
    provenance_picture,
    save_picture,
    text_table,
)
from inspatio_ros.files.recordings import open_recording
from inspatio_ros.geometry import rigid
from inspatio_ros.geometry.camera import PinholeCamera
from inspatio_ros.imagination.engine import ImaginationEngine
from inspatio_ros.imagination.filler import GeometricFiller
from inspatio_ros.memory.guide import Guide
from inspatio_ros.memory.world_memory import MemoryOptions, WorldMemory
from inspatio_ros.sensing.gating import FuseGate
from inspatio_ros.sensing.observation import Observation, Provenance
from inspatio_ros.share import share_folder
from inspatio_ros.worlds.room import room
from support.data import data_dir

CAMERA = PinholeCamera(160, 96, 110.0, 110.0, 79.5, 47.5)
MOUNT = rigid.from_rotation(np.eye(3), (0.1, 0.0, 0.9)) @ rigid.BODY_FROM_OPTICAL
OPTIONS = HindsightOptions((0.4, 1.0), stride=5, warm_up=5, width=160)


def drive(seconds: float = 4.0, rate: float = 5.0) -> Iterator[Observation]:
    world = room(0, moving=False)
    times = np.arange(0.0, seconds, 1.0 / rate)
    for time, base in zip(times, world.drive(0.4, times), strict=True):
        view = world.render(CAMERA, base @ MOUNT, float(time))
        yield Observation(round(time * 1e9), view.image, view.depth, CAMERA, base @ MOUNT)


def geometric() -> ImaginationEngine:
    return ImaginationEngine(GeometricFiller())


def score(report: HindsightReport, method: str, horizon: float) -> Result:
    (found,) = [r for r in report.results if r.method == method and r.horizon_s == horizon]
    return found


def sample() -> Path:
    return share_folder("samples") / "office"


def test_in_a_room_imagination_beats_the_baselines() -> None:
    report = evaluate("room", drive(), geometric(), OPTIONS)
    assert report.starts >= 2
    for horizon in OPTIONS.horizons:
        ours = score(report, "geometric", horizon)
        assert ours.psnr_all > score(report, LAST_FRAME, horizon).psnr_all + 3
        assert ours.psnr_all > score(report, SINGLE_WARP, horizon).psnr_all
        assert 0.5 < ours.coverage <= 1.0
        assert ours.psnr_covered > ours.psnr_all


def test_nothing_of_the_future_gets_into_the_memory() -> None:
    """Frames after the first start's horizon are spoilt: what was imagined must not change."""
    frames = list(drive(5.0))

    def imagined(observations: list[Observation]) -> bytes:
        pictures: list[bytes] = []
        evaluate("room", observations, geometric(), OPTIONS,
                 on_frame=lambda frame, truth, horizon: pictures.append(frame.image.tobytes()))
        return b"".join(pictures[:len(OPTIONS.horizons)])

    black = np.zeros_like(frames[0].image)
    spoilt = [o if i < OPTIONS.warm_up else Observation(
        o.stamp_ns, black, o.depth, o.camera, o.world_from_camera) for i, o in enumerate(frames)]
    assert imagined(frames) == imagined(spoilt)


def test_the_truth_is_the_frame_of_the_imagined_pose() -> None:
    frames = {round(o.stamp_ns): o for o in drive()}
    seen = []
    evaluate("room", frames.values(), geometric(), OPTIONS,
             on_frame=lambda frame, truth, horizon: seen.append((frame, truth, horizon)))
    assert seen
    for frame, truth, horizon in seen:
        later = frames[frame.source_stamp_ns + round(horizon * 1e9)]
        np.testing.assert_array_equal(truth, later.image)
        np.testing.assert_allclose(frame.world_from_camera, later.world_from_camera, atol=1e-9)
        assert frame.time_from_start == pytest.approx(horizon)


def test_a_recording_too_short_is_refused() -> None:
    with pytest.raises(ValueError, match="brief: too short"):
        evaluate("brief", drive(0.5), geometric(), OPTIONS)


@pytest.mark.parametrize("wrong", [
    {"horizons": ()}, {"horizons": (0.0,)}, {"stride": 0}, {"warm_up": 0}, {"width": 8}])
def test_impossible_options_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="must be|at least"):
        HindsightOptions(**wrong)  # type: ignore[arg-type]


def test_skip_and_limit_choose_frames() -> None:
    stamps: list[int] = []
    evaluate("room", drive(), geometric(), HindsightOptions(
        (0.5,), stride=1, warm_up=1, width=160, skip=4, limit=6),
        on_frame=lambda frame, truth, horizon: stamps.append(frame.source_stamp_ns))
    assert min(stamps) == 800_000_000
    assert max(stamps) <= 1_800_000_000


def test_baselines_of_the_same_view_are_the_frame_itself() -> None:
    seen = next(drive())
    pictures = baselines(CAMERA, seen.world_from_camera, seen)
    np.testing.assert_array_equal(pictures[LAST_FRAME], seen.image)
    for method in (SINGLE_WARP, CLASSICAL):
        known = seen.depth > 0
        np.testing.assert_array_equal(pictures[method][known], seen.image[known])


def test_a_warp_shifts_by_disparity_and_near_hides_far() -> None:
    camera = PinholeCamera(40, 8, 20.0, 20.0, 19.5, 3.5)
    image = np.zeros((8, 40, 3), np.uint8)
    image[:, :, 1] = 100
    image[:, 10:14] = (200, 0, 0)
    depth = np.full((8, 40), 4.0, np.float32)
    depth[:, 10:14] = 1.0
    to_the_right = rigid.from_rotation(np.eye(3), (0.2, 0.0, 0.0))
    warped, reached = forward_warp(image, depth, camera, to_the_right)
    # Near moves by 4 pixels, far by 1.
    assert (warped[:, 14:18, 0] == 200).all()
    assert (warped[:, 22:, 1] == 100).all()
    assert not reached[:, 11:14].any()
    assert not reached[:, 0].any()


def test_baselines_leave_no_hole_black() -> None:
    seen = next(drive())
    aside = seen.world_from_camera @ rigid.from_rotation(np.eye(3), (0.5, 0.0, 0.0))
    pictures = baselines(CAMERA, aside, seen)
    for method in (SINGLE_WARP, CLASSICAL):
        assert (pictures[method].sum(axis=2) == 0).mean() < 0.02


def test_fills_of_the_guide_keep_what_it_knows_and_fill_the_rest() -> None:
    rng = np.random.default_rng(0)
    image = rng.integers(0, 255, (24, 32, 3)).astype(np.uint8)
    image[:] = image.mean(axis=(0, 1))
    labels = np.full((24, 32), Provenance.MEMORY, np.uint8)
    labels[:, 8] = Provenance.IMAGINED  # a hint: as good as known to a fill
    image[:, 8] = (250, 0, 0)
    labels[6:12, 16:24] = Provenance.UNKNOWN
    image[6:12, 16:24] = 0
    guide = Guide(image, np.ones((24, 32), np.float32), labels)
    fills = guide_fills(guide)
    assert tuple(fills) == GUIDE_FILLS
    wall = image[0, 0].astype(int)
    for name, fill in fills.items():
        assert np.array_equal(fill[labels != 0], image[labels != 0]), name
        assert np.abs(fill[6:12, 16:24].astype(int) - wall).max() <= 2, name
    assert guide_fills(guide, ["last_frame"]) == {}
    assert list(guide_fills(guide, ["guide_mean"])) == ["guide_mean"]


def test_hindsight_scores_fills_of_the_guide_when_asked() -> None:
    options = HindsightOptions(horizons=(0.4,), stride=5, warm_up=5, width=160,
                               methods=("last_frame", "guide_mean"))
    report = evaluate("room", drive(2.0), geometric(), options)
    rows = {row.method: row for row in report.results}
    assert list(rows) == ["last_frame", "guide_mean", "geometric"]
    # Where geometry backs the view, a fill of the guide is the guide.
    assert rows["guide_mean"].psnr_covered == pytest.approx(rows["geometric"].psnr_covered)
    with pytest.raises(ValueError, match="methods must be of"):
        HindsightOptions(methods=("guide_magic",))


def test_a_report_is_plain_json() -> None:
    report = evaluate("room", drive(), geometric(), OPTIONS)
    report.results[0].psnr_holes = math.nan
    content = json.loads(json.dumps(as_json(report), allow_nan=False))
    assert content["recording"] == "room"
    assert content["results"][0]["psnr_holes"] is None
    assert len(content["digest"]) == 64


def test_the_sample_offline_is_byte_identical() -> None:
    """Same bag, same seed: every pixel of every imagined frame."""
    options = HindsightOptions((0.4,), stride=6, warm_up=6, width=208, limit=15)

    def once() -> tuple[str, bytes]:
        frames: list[bytes] = []
        with open_recording(sample()) as observations:
            report = evaluate("office", observations, geometric(), options,
                              on_frame=lambda f, t, h: frames.append(
                                  f.image.tobytes() + f.depth.tobytes() + f.provenance.tobytes()))
        return report.digest, b"".join(frames)

    first, second = once(), once()
    assert len(first[1]) > 0
    assert first == second


def test_the_memory_is_flat_over_ten_loops_of_the_sample() -> None:
    with open_recording(sample()) as recording:
        frames = list(recording)[::3]
    options = MemoryOptions(capacity=300_000, max_age=10.0, voxel_size=0.03)
    memory, gate = WorldMemory(options), FuseGate(2.0)
    length_ns = frames[-1].stamp_ns - frames[0].stamp_ns + 200_000_000
    points, sizes = [], []
    for loop in range(10):
        for seen in frames:
            stamp_ns = seen.stamp_ns + loop * length_ns
            if gate.admits(stamp_ns, seen.world_from_camera):
                memory.integrate(Observation(stamp_ns, seen.image, seen.depth, seen.camera,
                                             seen.world_from_camera))
        points.append(memory.point_count)
        sizes.append(memory.nbytes)
    assert max(points) <= options.capacity
    # From the second loop on the memory knows the whole place; nothing grows after that.
    assert max(sizes[1:]) == min(sizes[1:])
    # Which frames the gate lets through shifts from loop to loop, so points are not quite equal.
    assert max(points[1:]) <= 1.1 * min(points[1:])
    assert max(points[4:]) <= max(points[1:4])
    assert sum(memory.dropped.values()) > 0


@pytest.mark.parametrize(("name", "folder", "options"), [
    ("holo_office_bag", "bag", []),
    ("kitti_stereo_06", "", ["--min-depth", "3", "--max-radius", "100", "--voxel-size", "0.05"]),
    ("kitti_stereo_ramp", "", ["--min-depth", "3", "--max-radius", "100", "--voxel-size", "0.05"]),
    ("kitti_city_lidar", "", ["--min-depth", "3", "--max-radius", "100", "--voxel-size", "0.05"]),
    ("kitti_residential_bag", "bag",
     ["--min-depth", "3", "--max-radius", "100", "--voxel-size", "0.05"]),
])
def test_on_recordings_imagination_beats_the_baselines(
        name: str, folder: str, options: list[str], tmp_path: Path) -> None:
    path = data_dir(name) / folder
    status = main(["evaluate", str(path), "--preset", "geometric", "--horizons", "0.5", "--stride",
                   "8", "--limit", "26", "--width", "320", *options, "--out", str(tmp_path)])
    assert status == 0
    (report,) = json.loads((tmp_path / "report.json").read_text())["reports"]
    psnr = {r["method"]: r["psnr_all"] for r in report["results"]}
    assert psnr["geometric"] > psnr[LAST_FRAME]
    assert psnr["geometric"] > psnr[SINGLE_WARP]
    assert (tmp_path / f"{name}.jpg").stat().st_size > 10_000
    assert f"| {name} | 0.5 |" in (tmp_path / "report.md").read_text()


def test_a_bad_recording_does_not_stop_the_others(
        tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status = main(["evaluate", str(tmp_path / "none"), str(sample()), "--preset", "geometric",
                   "--horizons", "0.4", "--limit", "10", "--width", "160"])
    out, err = capsys.readouterr()
    assert status == 1
    assert "none" in err
    assert "office: 1 starts" in out


def test_provenance_is_shown_in_its_colors() -> None:
    labels = np.array([[255, 170], [85, 0]], np.uint8)
    picture = provenance_picture(labels)
    for value, color in PROVENANCE_COLORS.items():
        assert tuple(picture[labels == value][0]) == color
    assert len(set(PROVENANCE_COLORS.values())) == len(Provenance)
    over = provenance_picture(labels, np.full((2, 2, 3), 255, np.uint8))
    assert (over >= picture // 2).all()


def test_error_picture_is_dark_where_right() -> None:
    truth = np.full((4, 8, 3), 100, np.uint8)
    image = truth.copy()
    image[:, 4:] = 200
    picture = error_picture(image, truth).sum(axis=2)
    assert picture[:, :4].max() < picture[:, 4:].min()


def test_contact_sheet_holds_every_picture(tmp_path: Path) -> None:
    red, blue = np.zeros((30, 40, 3), np.uint8), np.zeros((20, 40, 3), np.uint8)
    red[..., 0], blue[..., 2] = 255, 255
    sheet = contact_sheet(["a", "b"], [("first", [red, blue]), ("second", [blue, red])], 80)
    for picture, sizes in ((red, 60), (blue, 40)):
        count = (sheet == picture[0, 0]).all(axis=2).sum()
        assert count == 2 * 80 * sizes
    save_picture(tmp_path / "sheet.png", sheet)
    assert (tmp_path / "sheet.png").stat().st_size > 100
    with pytest.raises(ValueError, match="rows of 2"):
        contact_sheet(["a", "b"], [("first", [red])])


def test_tables_line_up() -> None:
    lines = text_table(["name", "dB"], [["a", "10.00"], ["longer", "9.0"]]).splitlines()
    assert lines == ["name       dB", "------  -----", "a       10.00", "longer    9.0"]
    assert markdown_table(["a", "b"], [["1", "2"]]).splitlines()[1] == "| --- | --- |"
