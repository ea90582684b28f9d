# SPDX-License-Identifier: Apache-2.0
"""Pieces of a video, each in a frame and unit of its own, become one."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from inspatio_ros.depth.depth_anything import EstimatedViews
from inspatio_ros.depth.joint_views import joint_views
from inspatio_ros.geometry import rigid
from inspatio_ros.geometry.camera import PinholeCamera
from inspatio_ros.pipeline.depths import ClipPictures, EstimatedDepth, JointDepth, choose_depth

CAMERA = PinholeCamera(40, 30, 35.0, 35.0, 19.5, 14.5)
PICTURES = 23

# The package's own interface (`depth_anything_3.api`), with a network that knows the truth: the
# picture's first pixel is its number. It answers in another frame and unit each time.
STANDIN = '''
import numpy as np
calls = []
class Prediction: pass
class DepthAnything3:
    @classmethod
    def from_pretrained(cls, folder, **kwargs):
        return cls()
    def to(self, device): return self
    def eval(self): return self
    def inference(self, image, extrinsics=None, intrinsics=None, align_to_input_ext_scale=True,
                  infer_gs=False, use_ray_pose=False, process_res=504,
                  process_res_method="upper_bound_resize", export_dir=None):
        assert use_ray_pose is False
        numbers = [int(picture[0, 0, 0]) for picture in image]
        calls.append(numbers)
        unit = 1.0 + 0.5 * len(calls)
        p, n = Prediction(), len(image)
        p.depth = np.stack([np.full((15, 20), (2.0 + 0.1 * k) / unit) for k in numbers])
        p.sky = None
        p.extrinsics = np.tile(np.eye(4)[:3], (n, 1, 1))
        p.extrinsics[:, 0, 3] = [-0.2 * (k - numbers[0]) / unit for k in numbers]
        p.intrinsics = np.tile(np.array([[17.5, 0, 9.5], [0, 17.5, 7.0], [0, 0, 1]]), (n, 1, 1))
        return p
'''


def picture(number: int) -> np.ndarray:
    return np.full((CAMERA.height, CAMERA.width, 3), number, np.uint8)


def truth(number: int) -> np.ndarray:
    return rigid.from_euler(0, 0.02 * number, 0.01 * number, (0.1 * number, 0.0, 0.05 * number))


def estimator(pieces: list[int], noise: float = 0.0):
    """The truth in a frame and unit that change with each piece, and its size noted."""
    rng = np.random.default_rng(1)

    def estimate(images: Sequence[np.ndarray]) -> EstimatedViews:
        pieces.append(len(images))
        unit = 1.0 if len(pieces) == 1 else float(rng.uniform(0.3, 3.0))
        frame = np.eye(4) if len(pieces) == 1 else rigid.from_euler(*rng.uniform(-1, 1, 3),
                                                                      rng.uniform(-2, 2, 3))
        numbers = [int(image[0, 0, 0]) for image in images]
        depths, poses = [], []
        for number in numbers:
            depth = np.full((CAMERA.height, CAMERA.width), 2.0 + 0.1 * number, np.float32) / unit
            depth[:5] = np.nan
            depths.append(np.asarray(depth * np.exp(noise * rng.normal(size=depth.shape)),
                                     np.float32))
            pose = frame @ truth(number)
            pose[:3, 3] /= unit
            poses.append(pose)
        return EstimatedViews(depths, [CAMERA] * len(images), np.array(poses), False)

    return estimate


@pytest.mark.parametrize("count", [1, 7, 8, 9, PICTURES])
def test_pieces_are_joined_into_one_frame_and_unit(count: int) -> None:
    pieces: list[int] = []
    views = list(joint_views(map(picture, range(count)), estimator(pieces, 0.05), chunk=8,
                             overlap=3))
    assert [int(view.image[0, 0, 0]) for view in views] == list(range(count))
    assert len(pieces) == max(1, math.ceil((count - 3) / 5))
    assert max(pieces) <= 8
    for number, view in enumerate(views):
        off = rigid.invert(view.world_from_camera) @ truth(number)
        assert rigid.rotation_angle(off) < 1e-6
        assert np.linalg.norm(off[:3, 3]) < 0.02
        assert np.isnan(view.depth[:5]).all()
        np.testing.assert_allclose(np.median(view.depth[5:]), 2.0 + 0.1 * number, rtol=0.02)


def test_pieces_without_common_depth_cannot_be_joined() -> None:
    def blind(images: Sequence[np.ndarray]) -> EstimatedViews:
        nothing = np.full((CAMERA.height, CAMERA.width), np.nan, np.float32)
        return EstimatedViews([nothing] * len(images), [CAMERA] * len(images),
                              np.tile(np.eye(4), (len(images), 1, 1)), False)

    with pytest.raises(ValueError, match="cannot be joined"):
        list(joint_views(map(picture, range(9)), blind, chunk=8, overlap=3))
    with pytest.raises(ValueError, match="overlap 8 is not"):
        list(joint_views([], blind, chunk=8, overlap=8))


@pytest.fixture
def weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for weights, beside an importable stand-in of the package."""
    package = tmp_path / "lib/depth_anything_3"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "api.py").write_text(STANDIN)
    monkeypatch.syspath_prepend(str(tmp_path / "lib"))
    for name in [n for n in sys.modules if n.startswith("depth_anything_3")]:
        monkeypatch.delitem(sys.modules, name)
    folder = tmp_path / "weights"
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(b"")
    return folder


def test_models_with_cameras_see_the_video_in_pieces(weights: Path) -> None:
    pytest.importorskip("torch")
    (weights / "config.json").write_text(json.dumps({"model_name": "da3nested-giant-large"}))
    depth = choose_depth("auto", weights, rotation_only=False, pictures=70)
    assert isinstance(depth, JointDepth)
    clip = ClipPictures(lambda: map(picture, range(70)), CAMERA, 10.0)
    found = list(depth.observations(clip))
    assert [o.stamp_ns for o in found] == [k * 10**8 for k in range(70)]
    np.testing.assert_allclose([o.world_from_camera[0, 3] for o in found],
                               [0.2 * k / 1.5 for k in range(70)], atol=1e-6)
    np.testing.assert_allclose([np.median(o.depth) for o in found],
                               [(2 + 0.1 * k) / 1.5 for k in range(70)], rtol=1e-5)
    from depth_anything_3.api import calls
    assert max(map(len, calls)) == depth.settings["chunk"]


def test_models_of_single_pictures_get_cameras_from_odometry(weights: Path) -> None:
    pytest.importorskip("torch")
    (weights / "config.json").write_text(json.dumps({"model_name": "da3metric-large"}))
    assert isinstance(choose_depth("auto", weights, rotation_only=False, pictures=5),
                      EstimatedDepth)
