# SPDX-License-Identifier: Apache-2.0
"""Counterfactual recordings: exact labels and poses, true views, and refusals that say why."""

from __future__ import annotations

import importlib
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inspatio_ros.cli.main import main
from inspatio_ros.evaluation.metrics import psnr
from inspatio_ros.files.bag_observations import BagObservations, find_topics
from inspatio_ros.files.bags import BagReader
from inspatio_ros.geometry import rigid
from inspatio_ros.geometry.camera import PinholeCamera
from inspatio_ros.imagination.engine import ImaginationEngine
from inspatio_ros.imagination.filler import GeometricFiller
from inspatio_ros.messages.images import to_array
from inspatio_ros.messages.poses import pose_to_matrix, to_ns
from inspatio_ros.messages.transforms import TransformTree
from inspatio_ros.planning.counterfactual import CounterfactualOptions, RecordedWay, labels_at
from inspatio_ros.planning.counterfactual_bags import (
    FUTURE,
    PROVENANCE,
    RECOVERY,
    SIDECAR,
    write_counterfactual,
)
from inspatio_ros.planning.mounting import Mount, MountError, camera_of_view, read_mount
from inspatio_ros.planning.recorded_frames import shifted_twist
from inspatio_ros.sensing.observation import Observation, Provenance
from support.data import ROOT, data_dir
from support.driven import BASE_FROM_CAMERA, CAMERA, SPEED, START_NS, WORLD, base_at, write_drive

OPTIONS = CounterfactualOptions(lateral=0.2, yaw=math.radians(6.0), height=0.05,
                                min_coverage=0.3, horizon=2.0)


def made(source: Path, target: Path, options: CounterfactualOptions,
         **arguments: Any) -> dict[str, Any]:
    return write_counterfactual(source, target, options, ImaginationEngine(GeometricFiller()),
                                **arguments)


@pytest.fixture(scope="module")
def drive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_drive(tmp_path_factory.mktemp("drive") / "bag")


@pytest.fixture(scope="module")
def shifted(drive: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("shifted") / "bag"
    made(drive, target, OPTIONS)
    return target


def seen_in(path: Path) -> list[Observation]:
    with BagReader(path) as bag:
        return list(BagObservations(bag))


def tree_of(bag: BagReader) -> TransformTree:
    tree = TransformTree()
    for topic, static in (("/tf_static", True), ("/tf", False)):
        for stored in bag.messages([topic]):
            for transform in bag.deserialize(stored).transforms:
                tree.add(transform, static=static)
    return tree


def messages_of(bag: BagReader, topic: str) -> list[Any]:
    return [bag.deserialize(stored) for stored in bag.messages([topic])]


def seconds(stamp_ns: int) -> float:
    return (stamp_ns - START_NS) * 1e-9


def test_the_new_recording_has_the_old_ones_topics(drive: Path, shifted: Path) -> None:
    with BagReader(drive) as old, BagReader(shifted) as new:
        kinds = {name: info.message_type for name, info in new.topics.items()}
        for name, info in old.topics.items():
            if name != "/note":
                assert kinds[name] == info.message_type
        assert {PROVENANCE, FUTURE, RECOVERY} <= set(kinds)
        assert find_topics(new) == find_topics(old)
        assert new.topics["/tf_static"].latched
        stamps = [stored.stamp_ns for stored in new.messages()]
        assert stamps == sorted(stamps)
    content = json.loads((shifted / SIDECAR).read_text())
    assert content["topics_left_out"] == {"/note": "holds for the recorded place only"}
    assert content["options"]["lateral"] == 0.2
    assert content["backend"] == "geometric"


def test_poses_of_the_views_follow_from_the_new_tf(shifted: Path) -> None:
    observations = seen_in(shifted)
    assert len(observations) >= 10
    for seen in observations:
        base = base_at([seconds(seen.stamp_ns)])[0]
        raised = rigid.from_rotation(np.eye(3), (0.0, 0.0, 0.05)) @ BASE_FROM_CAMERA
        wanted = base @ rigid.from_euler(0, 0, math.radians(6.0), (0.0, 0.2, 0.0)) @ raised
        np.testing.assert_allclose(seen.world_from_camera, wanted, atol=1e-6)


def test_labels_are_where_the_robot_really_went(shifted: Path) -> None:
    with BagReader(shifted) as bag:
        tree = tree_of(bag)
        paths = messages_of(bag, FUTURE)
    worst_m = worst_rad = 0.0
    for path in paths:
        assert path.header.frame_id == "base_link"
        now = tree.lookup("odom", "base_link", to_ns(path.header.stamp))
        for stamped in path.poses:
            truth = base_at([seconds(to_ns(stamped.header.stamp))])[0]
            error = rigid.invert(truth) @ now @ pose_to_matrix(stamped.pose)
            worst_m = max(worst_m, float(np.linalg.norm(error[:3, 3])))
            worst_rad = max(worst_rad, float(rigid.rotation_angle(error)))
    assert len(paths) >= 10
    assert worst_m < 1e-3
    assert worst_rad < math.radians(0.01)


def test_views_are_those_of_the_world_from_there(shifted: Path) -> None:
    with BagReader(shifted) as bag:
        labels = [to_array(message) for message in messages_of(bag, PROVENANCE)]
        depths = [to_array(message) for message in messages_of(bag, "/depth/image_rect")]
    for seen, provenance, depth in list(zip(seen_in(shifted), labels, depths, strict=True))[3:]:
        truth = WORLD.render(seen.camera, seen.world_from_camera)
        backed = provenance >= Provenance.MEMORY
        assert backed.mean() > 0.3
        assert set(np.unique(provenance)) <= {int(label) for label in Provenance}
        assert psnr(seen.image, truth.image, backed) > 22.0
        error = np.abs(depth - truth.depth) / truth.depth
        assert np.nanmedian(error) < 0.01
        assert np.isnan(depth[~backed]).all()


def test_without_a_change_the_picture_is_the_recorded_one(drive: Path, tmp_path: Path) -> None:
    made(drive, tmp_path / "same", CounterfactualOptions(horizon=1.0))
    recorded = {seen.stamp_ns: seen for seen in seen_in(drive)}
    for seen in seen_in(tmp_path / "same"):
        old = recorded[seen.stamp_ns]
        np.testing.assert_allclose(seen.world_from_camera, old.world_from_camera, atol=1e-6)
        assert psnr(seen.image, old.image) > 30.0


def test_the_same_call_gives_the_same_messages(drive: Path, shifted: Path, tmp_path: Path) -> None:
    made(drive, tmp_path / "again", OPTIONS)
    with BagReader(shifted) as one, BagReader(tmp_path / "again") as other:
        assert list(one.messages()) == list(other.messages())


def test_paths_and_odometry_are_told_by_the_shifted_robot(drive: Path, shifted: Path) -> None:
    with BagReader(drive) as old, BagReader(shifted) as new:
        before, after = (messages_of(bag, "/plan") for bag in (old, new))
        assert pose_to_matrix(after[2].poses[1].pose) == pytest.approx(
            pose_to_matrix(before[2].poses[1].pose))  # told in odom, which has not moved
        local = messages_of(new, "/local_plan")[2]
        tree = tree_of(new)
        stamp = to_ns(local.header.stamp)
        in_world = tree.lookup("odom", "base_link", stamp) @ pose_to_matrix(local.poses[1].pose)
        np.testing.assert_allclose(in_world, base_at([seconds(stamp) + 0.5])[0], atol=1e-6)
        odometry = messages_of(new, "/odom")[8]
        np.testing.assert_allclose(
            pose_to_matrix(odometry.pose.pose),
            tree.lookup("odom", "base_link", to_ns(odometry.header.stamp)), atol=1e-6)
        turned = odometry.twist.twist.linear
        assert math.hypot(turned.x, turned.y) == pytest.approx(SPEED)
        assert turned.y == pytest.approx(-SPEED * math.sin(math.radians(6.0)))


def test_the_twist_of_a_shifted_robot_is_the_derivative_of_its_way() -> None:
    shift = rigid.from_euler(0.0, 0.0, 0.3, (0.0, 0.8, 0.0))
    linear, angular, step = np.array([1.2, 0.1, 0.0]), np.array([0.0, 0.0, 0.7]), 1e-5
    moved = rigid.from_euler(0.0, 0.0, angular[2] * step, linear * step)
    own = rigid.invert(shift) @ moved @ shift
    got_linear, got_angular = shifted_twist(linear, angular, shift)
    np.testing.assert_allclose(got_linear, own[:3, 3] / step, atol=1e-4)
    assert got_angular[2] == pytest.approx(0.7)


def test_frames_below_the_limit_are_left_out_and_counted(
        drive: Path, shifted: Path, tmp_path: Path) -> None:
    rows = json.loads((shifted / SIDECAR).read_text())["per_frame"]
    limit = float(np.median([row["coverage"] for row in rows]))
    content = made(drive, tmp_path / "some", replace(OPTIONS, min_coverage=limit))
    below = [row for row in content["per_frame"] if row["coverage"] < limit - 1e-4]
    assert 0 < len(below) < len(rows)
    assert not any(row["kept"] for row in below)
    kept = [row["stamp_ns"] for row in content["per_frame"] if row["kept"]]
    assert content["frames"]["kept"] == len(kept)
    assert content["frames"]["below_coverage"] == len(rows) - len(kept)
    assert content["frames"]["no_future"] == 3  # the last half second, 5 Hz, both ends
    with BagReader(tmp_path / "some") as bag:
        assert [to_ns(m.header.stamp) for m in messages_of(bag, FUTURE)] == kept


def test_when_no_frame_is_left_nothing_is_left_behind(drive: Path, tmp_path: Path) -> None:
    options = CounterfactualOptions(lateral=40.0, min_coverage=0.9)
    with pytest.raises(ValueError, match="no frame is left.*below_coverage"):
        made(drive, tmp_path / "none", options)
    assert not (tmp_path / "none").exists()


def test_the_rate_and_width_asked_for(drive: Path, tmp_path: Path) -> None:
    content = made(drive, tmp_path / "thin", CounterfactualOptions(rate=1.0, min_coverage=0.0),
                   width=48)
    assert content["frames"]["kept"] == 4
    assert content["frames"]["thinned"] > 10
    assert seen_in(tmp_path / "thin")[0].camera.size == (48, 32)


def test_a_recording_with_odometry_alone(tmp_path: Path) -> None:
    source = write_drive(tmp_path / "bag", tf=False, seconds=2.0)
    made(source, tmp_path / "out", OPTIONS)
    seen = seen_in(tmp_path / "out")[1]
    wanted = (base_at([seconds(seen.stamp_ns)])[0] @ OPTIONS.base_from_shifted
              @ OPTIONS.base_from_camera(BASE_FROM_CAMERA))
    np.testing.assert_allclose(seen.world_from_camera, wanted, atol=1e-6)


@pytest.mark.parametrize(("drive_with", "options", "arguments", "words"), [
    ({"speed": 0.0}, OPTIONS, {}, r"moves 0.00 m in all.*--min-motion"),
    ({}, OPTIONS, {"base_frame": "chassis"}, r"'chassis'.*camera_optical.*--base-frame"),
    ({}, OPTIONS, {"base_frame": "camera_optical"}, "optical frame; a shift is told in a body"),
    ({"joint": True}, OPTIONS, {}, "moving joint 'camera_optical'"),
    ({"tf": False, "odometry": False}, OPTIONS, {}, "neither tf nor odometry says where"),
])
def test_what_cannot_be_done_says_why(
        tmp_path: Path, drive_with: dict[str, Any], options: CounterfactualOptions,
        arguments: dict[str, Any], words: str) -> None:
    source = write_drive(tmp_path / "bag", seconds=1.5, **drive_with)
    with pytest.raises(ValueError, match=words):
        made(source, tmp_path / "out", options, **arguments)
    assert not (tmp_path / "out").exists()


def test_a_recording_is_never_overwritten(drive: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with pytest.raises(ValueError, match="never overwritten"):
        made(drive, tmp_path / "out", OPTIONS)


@pytest.mark.parametrize(("values", "words"), [
    ({"yaw": 1.2}, "yaw 68.* degrees"), ({"lateral": math.nan}, "lateral nan is not finite"),
    ({"min_coverage": 1.5}, "min_coverage 1.5"), ({"horizon": 0.1}, "at least one interval"),
    ({"rate": -1.0}, "rate -1.0 is negative"),
])
def test_options_that_make_no_sense_are_refused(values: dict[str, float], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        CounterfactualOptions(**values)


# Labels.


def straight_way(speed: float = 2.0) -> RecordedWay:
    stamps = np.arange(0, 20_000_000_000, 100_000_000)
    poses = np.tile(np.eye(4), (len(stamps), 1, 1))
    poses[:, 0, 3] = speed * stamps * 1e-9
    return RecordedWay(stamps, poses)


@settings(max_examples=40)
@given(lateral=st.floats(-3.0, 3.0), yaw=st.floats(-0.35, 0.35), speed=st.floats(0.5, 15.0))
def test_a_recovery_starts_as_the_shifted_robot_stands_and_ends_on_the_path(
        lateral: float, yaw: float, speed: float) -> None:
    options = CounterfactualOptions(lateral=lateral, yaw=yaw, horizon=6.0, interval=0.01,
                                    recovery_distance=max(2.0, 4.5 * speed))
    labels = labels_at(straight_way(speed), 1_000_000_000, options)
    np.testing.assert_allclose(labels.recovery[0], np.eye(4), atol=1e-9)
    np.testing.assert_allclose(labels.recovery[-1], labels.future[-1], atol=1e-9)
    # It drives the way it points, from the first moment on.
    steps = np.diff(labels.recovery[:, :2, 3], axis=0)
    pointing = np.unwrap(np.arctan2(labels.recovery[:, 1, 0], labels.recovery[:, 0, 0]))
    moving = np.arctan2(steps[:, 1], steps[:, 0])
    assert np.abs(moving - (pointing[:-1] + pointing[1:]) / 2).max() < 2e-3


def test_a_robot_that_stands_does_not_slide_sideways() -> None:
    stamps = np.array([0, 10_000_000_000, 10_100_000_000])
    poses = np.tile(np.eye(4), (3, 1, 1))
    poses[2, 0, 3] = 1.0
    labels = labels_at(RecordedWay(stamps, poses), 1_000_000_000,
                       CounterfactualOptions(lateral=1.0))
    np.testing.assert_allclose(labels.recovery, np.tile(np.eye(4), (9, 1, 1)), atol=1e-9)
    assert labels.future[0, 1, 3] == pytest.approx(-1.0)


def test_labels_end_with_the_recording() -> None:
    labels = labels_at(straight_way(), 18_000_000_000, CounterfactualOptions())
    assert len(labels.stamps_ns) == 4  # 18.0, 18.5, 19.0 and 19.5 s of 19.9


# Mountings.


def test_a_mount_beside_the_camera_is_its_stereo_partner() -> None:
    right = Mount(position=(0.0, -0.54, 0.0)).base_from_camera(BASE_FROM_CAMERA)
    np.testing.assert_allclose(right, BASE_FROM_CAMERA @ rigid.from_rotation(
        np.eye(3), (0.54, 0.0, 0.0)), atol=1e-12)


def test_a_mount_on_the_base_looks_where_it_is_turned() -> None:
    left = Mount("base", (0.0, 0.3, 1.0), (0.0, 0.0, math.pi / 2)).base_from_camera(np.eye(4))
    np.testing.assert_allclose(left[:3, 2], (0.0, 1.0, 0.0), atol=1e-12)
    np.testing.assert_allclose(left[:3, 1], (0.0, 0.0, -1.0), atol=1e-12)
    np.testing.assert_allclose(left[:3, 3], (0.0, 0.3, 1.0))


def test_a_mount_file(tmp_path: Path) -> None:
    path = tmp_path / "camera.yaml"
    path.write_text("relative_to: base\nposition: [0.2, 0, 1.5]\nrotation_deg: [0, 10, 0]\n"
                    "camera: {width: 64, height: 48, field_of_view_deg: 90}\n")
    mount = read_mount(path)
    assert mount.position == (0.2, 0.0, 1.5)
    assert mount.rotation[1] == pytest.approx(math.radians(10))
    assert mount.camera == camera_of_view(64, 48, math.pi / 2)
    path.write_text("camera: {width: 64, height: 48, fx: 50, fy: 51, cx: 31, cy: 23}\n")
    assert read_mount(path) == Mount(camera=PinholeCamera(64, 48, 50.0, 51.0, 31.0, 23.0))


@pytest.mark.parametrize(("text", "words"), [
    ("place: [0, 0, 0]", "unknown key 'place'"), ("position: [0, 0]", "three numbers"),
    ("position: [0, 0, .nan]", "finite"), ("relative_to: roof", "relative_to 'roof'"),
    ("camera: {width: 64}", "needs width and height"), ("- 1", "expected keys"),
    ("camera: {width: 64, height: 48, fx: 50}", "either fx"), ("a: [", "not YAML"),
    ("camera: {width: 64, height: 48, field_of_view_deg: 200}", "field of view"),
])
def test_a_mount_file_that_is_wrong_is_named(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "camera.yaml"
    path.write_text(text)
    with pytest.raises(MountError, match=words) as refused:
        read_mount(path)
    assert str(path) in str(refused.value)


def test_the_program(drive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mount = tmp_path / "camera.yaml"
    mount.write_text("position: [0, -0.1, 0]\n")
    target = tmp_path / "out"
    assert main(["counterfactual", str(drive), str(target), "--lateral", "0.1", "--yaw", "3",
                 "--height", "0.02", "--mount", str(mount), "--rate", "2",
                 "--min-coverage", "0.4"]) == 0
    assert "left out /note" in capsys.readouterr().out
    seen = seen_in(target)[0]
    options = CounterfactualOptions(lateral=0.1, yaw=math.radians(3), height=0.02,
                                    mount=Mount(position=(0.0, -0.1, 0.0)))
    wanted = (base_at([seconds(seen.stamp_ns)])[0] @ options.base_from_shifted
              @ options.base_from_camera(BASE_FROM_CAMERA))
    np.testing.assert_allclose(seen.world_from_camera, wanted, atol=1e-6)
    assert seen.camera == CAMERA
    assert main(["counterfactual", str(drive), str(target)]) == 1
    assert "never overwritten" in capsys.readouterr().err


def test_the_benchmark_compares_the_right_camera_with_the_truth(
        monkeypatch: pytest.MonkeyPatch) -> None:
    folder = data_dir("kitti_stereo_06")
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    benchmark = importlib.import_module("counterfactual")
    found = benchmark.rig_pair(folder, "stereo", stride=2, limit=2, width=320)
    assert found["views"] == 1
    assert found["coverage"] > 0.6
    assert found["imagined_all"] > found["single_warp_all"]
    assert found["imagined_all"] > found["last_frame_all"] + 3
    assert "| kitti_stereo_06 | stereo | 1 |" in benchmark.table({"rig": [found]})
