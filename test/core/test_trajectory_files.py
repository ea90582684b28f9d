# SPDX-License-Identifier: Apache-2.0
"""Trajectory files of every kind, good and bad."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from inspatio_ros.files.trajectory_files import PoseList, read_trajectory
from inspatio_ros.geometry import rigid
from inspatio_ros.geometry.motions import CameraMotion, MotionFileError

POSES = np.array([rigid.from_euler(0.1 * k, -0.2 * k, 0.05, (0.1 * k, 0.2, -0.3 * k))
                  for k in range(4)])


def _write(folder: Path, name: str, text: str) -> Path:
    (folder / name).write_text(text)
    return folder / name


def _poses(path: Path) -> PoseList:
    read = read_trajectory(path)
    assert isinstance(read, PoseList)
    return read


def test_lines_may_have_unequal_numbers_of_keys(tmp_path: Path) -> None:
    motion = read_trajectory(_write(tmp_path, "m.txt", "0 10\n0 5 0\n1 1 1 1\n"))
    assert isinstance(motion, CameraMotion)
    assert [len(t) for t in (motion.pitch, motion.yaw, motion.displacement)] == [2, 3, 4]


def test_motion_of_16_keys_is_no_matrix(tmp_path: Path) -> None:
    keys = " ".join(str(k) for k in range(16))
    assert isinstance(read_trajectory(_write(tmp_path, "m.txt", f"{keys}\n" * 3)), CameraMotion)


@pytest.mark.parametrize("count", [1, 3, 4])
def test_matrices_are_camera_from_world(tmp_path: Path, count: int) -> None:
    lines = [" ".join(f"{v:.12g}" for v in rigid.invert(p).ravel()) for p in POSES[:count]]
    poses = _poses(_write(tmp_path, "p.txt", "\n".join(lines)))
    np.testing.assert_allclose(poses.start_from_camera, POSES[:count], atol=1e-9)
    assert poses.times is None


def test_json_and_csv_poses(tmp_path: Path) -> None:
    entries = [{"position": p[:3, 3].tolist(), "orientation": rigid.to_quaternion(p).tolist(),
                "t": 2.0 + 0.5 * k} for k, p in enumerate(POSES)]
    inverse = {"convention": "camera_from_world", "poses": rigid.invert(POSES).tolist()}
    flat = [p.ravel().tolist() for p in POSES]
    rows = ["t,tx,ty,tz,qx,qy,qz,qw"] + [
        ",".join(map(str, [0.5 * k, *p[:3, 3], *rigid.to_quaternion(p)]))
        for k, p in enumerate(POSES)]
    timed = _poses(_write(tmp_path, "a.json", json.dumps(entries)))
    table = _poses(_write(tmp_path, "d.csv", "\n".join(rows)))
    for poses in (timed, table, _poses(_write(tmp_path, "b.json", json.dumps(inverse))),
                  _poses(_write(tmp_path, "c.json", json.dumps(flat)))):
        np.testing.assert_allclose(poses.start_from_camera, POSES, atol=1e-9)
    for poses in (timed, table):
        assert poses.times is not None
        np.testing.assert_allclose(poses.times, [0.0, 0.5, 1.0, 1.5])


@pytest.mark.parametrize(("name", "text", "message"), [
    ("m.txt", "", "no numbers"),
    ("m.txt", "0 1\n\n1\n", "2 lines"),
    ("m.txt", "0 1\n0 x\n1\n", r"line 2 \(yaw\): 'x'"),
    ("m.txt", "0 nan\n0 1\n1\n", "line 1 .*not finite"),
    ("p.txt", " ".join("1000010000100001") + "\n1 0 0\n", "line 2: 3 numbers"),
    ("p.txt", "2 0 0 0 0 2 0 0 0 0 2 0 0 0 0 1\n" * 4, "line 1.*not a rotation"),
    ("p.json", "{", "not JSON"),
    ("p.json", "[]", "list of poses"),
    ("p.json", "[[1, 2]]", "pose 0"),
    ("p.json", '{"convention": "c2w", "poses": [[1]]}', "convention 'c2w'"),
    ("p.csv", "tx,ty,tz\n1,2,3\n", "no column qx"),
    ("p.csv", "tx,ty,tz,qx,qy,qz,qw\n1,2,3,0,0,0,zero\n", "line 2, qw: 'zero'"),
    ("p.csv", "tx,ty,tz,qx,qy,qz,qw\n1,2,3,0,0,0,0\n", "not a rotation"),
    ("p.csv", "tx,ty,tz,qx,qy,qz,qw\n", "no poses"),
    ("p.csv", "t,tx,ty,tz,qx,qy,qz,qw\n1,0,0,0,0,0,0,1\n1,0,0,0,0,0,0,1\n", "do not increase"),
])
def test_bad_files_are_named_with_line_and_value(
    tmp_path: Path, name: str, text: str, message: str
) -> None:
    with pytest.raises(MotionFileError, match=message) as caught:
        read_trajectory(_write(tmp_path, name, text))
    assert name in str(caught.value)


def test_binary_file_is_no_trajectory(tmp_path: Path) -> None:
    (tmp_path / "m.txt").write_bytes(b"\xff\xfe\x00\x81" * 10)
    with pytest.raises(MotionFileError, match="not a text file"):
        read_trajectory(tmp_path / "m.txt")
