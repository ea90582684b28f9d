# SPDX-License-Identifier: Apache-2.0
"""Folders of frames: what is read, and what each mistake in one is called."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest

from inspatio_ros.files.bag_observations import BagOptions
from inspatio_ros.files.recordings import open_recording
from inspatio_ros.files.sequences import Sequence, SequenceError, SequenceOptions
from inspatio_ros.geometry import rigid
from inspatio_ros.geometry.camera import PinholeCamera
from inspatio_ros.worlds.room import room
from inspatio_ros.worlds.world import View, right_camera
from support.data import data_dir

CAMERA = PinholeCamera(96, 64, 60.0, 60.0, 47.5, 31.5)
BASELINE = 0.3
POSE_KEYS = ("tx", "ty", "tz", "qx", "qy", "qz", "qw")


def poses() -> npt.NDArray[np.float64]:
    """Three places in the room [3, 4, 4]."""
    base_from_camera = rigid.from_rotation(np.eye(3), (0.0, 0.0, 0.9)) @ rigid.BODY_FROM_OPTICAL
    return np.asarray(room(1, moving=False).drive(0.4, [0.0, 0.5, 1.0]) @ base_from_camera)


def view(pose: npt.NDArray[np.float64], camera: PinholeCamera = CAMERA) -> View:
    return room(1, moving=False).render(camera, pose, samples=2)


class Folder:
    """A folder of frames to be written, after the test has spoilt it."""

    def __init__(self, path: Path, color: str = "rgb", second: str = "depth") -> None:
        self.path = path
        camera = {"width": CAMERA.width, "height": CAMERA.height, "K": [60.0, 60.0, 47.5, 31.5],
                  "D": [], "depth_scale_m": 0.001}
        self.calibration: dict[str, Any] = {"cameras": {color: camera}}
        self.rows: list[dict[str, Any]] = []
        for number, pose in enumerate(poses()):
            seen = view(pose)
            quaternion = rigid.to_quaternion(pose)
            self.rows.append({
                "index": number, "stamp": f"{number * 0.5:.4f}", color: f"c{number}.png",
                **dict(zip(POSE_KEYS, [*pose[:3, 3], *quaternion], strict=True))})
            self.picture(f"c{number}.png", seen.image[..., ::-1])
            if second == "right":
                self.rows[-1]["right"] = f"r{number}.png"
                self.picture(f"r{number}.png",
                             view(right_camera(pose, BASELINE)).image[..., ::-1])
                self.calibration["cameras"]["right"] = {**camera, "x_in_left_m": BASELINE}
            elif second:
                self.rows[-1][second] = f"d{number}.png"
                counts = np.nan_to_num(seen.depth * 1000.0)
                self.picture(f"d{number}.png", np.rint(counts).astype(np.uint16))

    def picture(self, name: str, image: npt.NDArray[Any]) -> None:
        self.path.mkdir(exist_ok=True)
        assert cv2.imwrite(str(self.path / name), np.ascontiguousarray(image))

    def write(self) -> Path:
        with (self.path / "frames.csv").open("w", newline="") as file:
            table = csv.DictWriter(file, list(self.rows[0]) if self.rows else ["index"])
            table.writeheader()
            table.writerows(self.rows)
        (self.path / "calib.json").write_text(json.dumps(self.calibration))
        return self.path


def test_frames_come_back_as_observations(tmp_path: Path) -> None:
    sequence = Sequence(Folder(tmp_path / "frames").write())
    assert len(sequence) == 3
    assert sequence.has_depth
    assert sequence.camera == CAMERA
    for pose, observation, number in zip(poses(), sequence, range(3), strict=True):
        truth = view(pose)
        assert observation.stamp_ns == number * 500_000_000
        np.testing.assert_array_equal(observation.image, truth.image)
        np.testing.assert_allclose(observation.world_from_camera, pose, atol=1e-9)
        known = np.isfinite(observation.depth)
        assert known.mean() > 0.8  # silhouettes are taken out
        np.testing.assert_allclose(observation.depth[known], truth.depth[known], atol=6e-4)


def test_depth_limits_and_unit(tmp_path: Path) -> None:
    folder = Folder(tmp_path / "frames")
    folder.calibration["cameras"]["rgb"]["depth_scale_m"] = 0.002
    depth = Sequence(folder.write(), SequenceOptions(min_depth=3.0, max_depth=5.0)).depth(0)
    known = np.isfinite(depth)
    assert 0 < known.sum() < depth.size
    assert depth[known].min() >= 3.0
    assert depth[known].max() <= 5.0
    truth = view(poses()[0]).depth * 2.0
    np.testing.assert_allclose(depth[known], truth[known], atol=2e-3)


def test_a_pair_gives_metric_depth(tmp_path: Path) -> None:
    sequence = Sequence(Folder(tmp_path / "frames", "left", "right").write(),
                        SequenceOptions(stereo_scale=1.0))
    depth, truth = sequence.depth(0), view(poses()[0]).depth
    known = np.isfinite(depth)
    assert known.mean() > 0.08
    assert np.median(np.abs(depth[known] - truth[known]) / truth[known]) < 0.05


def test_a_distorted_camera_is_rectified(tmp_path: Path) -> None:
    folder = Folder(tmp_path / "frames", second="")
    folder.calibration["cameras"]["rgb"]["D"] = [-0.2, 0.05, 0.0, 0.0, 0.0]
    sequence = Sequence(folder.write())
    image = sequence.image(0)
    assert image.shape == (sequence.camera.height, sequence.camera.width, 3)
    assert not np.array_equal(image, view(poses()[0]).image)


def test_frames_without_depth_have_pictures_only(tmp_path: Path) -> None:
    path = Folder(tmp_path / "frames", second="").write()
    sequence = Sequence(path)
    assert not sequence.has_depth
    assert sequence.image(1).shape == (64, 96, 3)
    with pytest.raises(SequenceError, match="no column depth, lidar_depth or right"):
        sequence.depth(0)
    for asked, column in (("sensor", "depth or lidar_depth"), ("stereo", "right")):
        with pytest.raises(SequenceError, match=f"no depth '{asked}'.*no column {column}"), \
                open_recording(path, options=BagOptions(depth=asked)):
            pass


def test_frames_without_depth_get_it_from_motion(tmp_path: Path) -> None:
    folder = Folder(tmp_path / "frames", second="")
    with open_recording(folder.write()) as observations:
        found = list(observations)
    assert [o.stamp_ns for o in found] == [0, 500_000_000, 1_000_000_000]
    for observation, pose in zip(found, poses(), strict=True):
        truth = view(pose).depth
        known = observation.depth > 0
        # The first one too: later pictures say how far it saw.
        assert known.mean() > 0.08
        assert np.median(np.abs(observation.depth[known] / truth[known] - 1)) < 0.15


def test_frames_of_a_camera_standing_still_have_no_depth(tmp_path: Path) -> None:
    folder = Folder(tmp_path / "frames", second="")
    for row in folder.rows:
        row.update(tx=0, ty=0, tz=0)
    with open_recording(folder.write()) as observations, \
            pytest.raises(SequenceError, match="does the camera move"):
        list(observations)


def test_open_recording_reads_a_folder_with_the_options_of_bags(tmp_path: Path) -> None:
    path = Folder(tmp_path / "frames").write()
    with open_recording(path, options=BagOptions(max_depth=3.0)) as observations:
        found = list(observations)
    assert len(found) == 3
    assert max(np.nanmax(o.depth) for o in found) <= 3.0




def _row(number: int, **values: Any) -> Callable[[Folder], object]:
    return lambda folder: folder.rows[number].update(values)


def _without(column: str) -> Callable[[Folder], object]:
    return lambda folder: [row.pop(column) for row in folder.rows]


def _camera(**values: Any) -> Callable[[Folder], object]:
    return lambda folder: folder.calibration["cameras"]["rgb"].update(values)


@pytest.mark.parametrize(("spoilt", "message"), [
    (lambda folder: folder.rows.clear(), "frames.csv: no rows"),
    (_row(1, tx="far"), "frames.csv, line 3: could not convert string to float: 'far'"),
    (_row(1, tx="nan"), "frames.csv, line 3: "),
    (_row(2, qx=0, qy=0, qz=0, qw=0), "frames.csv, line 4: "),
    (_row(1, stamp=""), "frames.csv, line 3: "),
    (_row(2, stamp="0.5"), "stamp of frame 2 is not later than that of frame 1"),
    (_without("qw"), "frames.csv, line 2: 'qw'"),
    (_without("rgb"), "frames.csv: no column rgb or left"),
    (lambda folder: folder.calibration.clear(), "calib.json: camera rgb: no 'rgb'"),
    (_camera(K=[60.0, 60.0, 47.5]), "calib.json: camera rgb: not enough values"),
    (_camera(width="wide"), "calib.json: camera rgb: "),
])
def test_a_bad_table_or_calibration_names_file_and_place(
        tmp_path: Path, spoilt: Callable[[Folder], object], message: str) -> None:
    folder = Folder(tmp_path / "frames")
    spoilt(folder)
    with pytest.raises(SequenceError, match=message):
        Sequence(folder.write())


@pytest.mark.parametrize(("name", "content", "message"), [
    ("calib.json", "{not json", "calib.json: not JSON"),
    ("calib.json", "[]", "calib.json: not an object"),
    ("calib.json", None, "calib.json: no such file: not a folder of frames"),
    ("frames.csv", None, "frames.csv: no such file: not a folder of frames"),
])
def test_missing_or_unreadable_files(
        tmp_path: Path, name: str, content: str | None, message: str) -> None:
    path = Folder(tmp_path / "frames").write()
    if content is None:
        (path / name).unlink()
    else:
        (path / name).write_text(content)
    with pytest.raises(SequenceError, match=message):
        Sequence(path)


def test_a_right_camera_without_baseline(tmp_path: Path) -> None:
    folder = Folder(tmp_path / "frames", "left", "right")
    del folder.calibration["cameras"]["right"]["x_in_left_m"]
    with pytest.raises(SequenceError, match="camera right has no x_in_left_m"):
        Sequence(folder.write())


def _remove(folder: Path) -> None:
    (folder / "c1.png").unlink()


def _scramble(folder: Path) -> None:
    (folder / "c1.png").write_bytes(b"\x89PNG and then nothing of the kind")


def _resize(folder: Path) -> None:
    cv2.imwrite(str(folder / "c1.png"), np.zeros((32, 48, 3), np.uint8))


def _shallow_depth(folder: Path) -> None:
    cv2.imwrite(str(folder / "d1.png"), np.zeros((64, 96), np.uint8))


@pytest.mark.parametrize(("spoilt", "message"), [
    (_remove, "c1.png: no picture that can be read"),
    (_scramble, "c1.png: no picture that can be read"),
    (_resize, "c1.png: 48x32, calib.json says 96x64"),
    (_shallow_depth, "d1.png: not a 16 bit grey picture"),
])
def test_a_bad_picture_is_named_and_the_others_still_read(
        tmp_path: Path, spoilt: Callable[[Path], None], message: str) -> None:
    path = Folder(tmp_path / "frames").write()
    spoilt(path)
    sequence = Sequence(path)
    with pytest.raises(SequenceError, match=message):
        sequence.observation(1)
    assert sequence.observation(0).stamp_ns == 0
    assert sequence.observation(2).stamp_ns == 1_000_000_000


def test_depth_of_another_size_is_refused(tmp_path: Path) -> None:
    path = Folder(tmp_path / "frames").write()
    cv2.imwrite(str(path / "d0.png"), np.full((32, 48), 1000, np.uint16))
    with pytest.raises(SequenceError, match="d0.png: 48x32, calib.json says 96x64"):
        Sequence(path).observation(0)


@pytest.mark.parametrize(("name", "least"), [
    ("holo_office", 0.4), ("kitti_stereo_06", 0.4), ("kitti_city_lidar", 0.1)])
def test_real_folders(name: str, least: float) -> None:
    sequence = Sequence(data_dir(name))
    observation = sequence.observation(1)
    assert observation.depth_coverage > least
    assert len(sequence) > 50
