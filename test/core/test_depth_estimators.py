# SPDX-License-Identifier: Apache-2.0
"""Depth models behind one interface, brought to metres and kept steady."""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path

import numpy as np
import pytest

from inspatio_ros.depth.aligned_depth import AlignedDepth, AlignmentOptions, MonocularDepth
from inspatio_ros.depth.depth_anything import DepthAnything3
from inspatio_ros.depth.estimator import EstimatorError
from inspatio_ros.depth.estimators import available_estimators, choose
from inspatio_ros.depth.fastdepth import FastDepth, installed_runtime
from inspatio_ros.depth.transformers_depth import TransformersDepth
from inspatio_ros.files.sequences import Sequence
from inspatio_ros.geometry import rigid
from inspatio_ros.geometry.camera import PinholeCamera
from inspatio_ros.worlds.room import room
from support.data import data_dir

CAMERA = PinholeCamera(160, 120, 130.0, 130.0, 79.5, 59.5)
START = rigid.from_euler(0, 0.15, 2.4, (1.8, -1.2, 1.2)) @ rigid.BODY_FROM_OPTICAL
VIEW = room(moving=False).render(CAMERA, START)


class Known:
    """An estimator that knows the inverse depth up to a scale and shift."""

    is_metric = False

    def __init__(self, scale: float = 0.25, shift: float = 0.1) -> None:
        self.scale, self.shift, self.depth = scale, shift, VIEW.depth

    def estimate(self, image: np.ndarray, camera: PinholeCamera) -> np.ndarray:
        """Relative inverse depth."""
        return ((1 / self.depth - self.shift) / self.scale).astype(np.float32)

    def close(self) -> None:
        """Nothing is held."""


def sparse() -> np.ndarray:
    """True depth at every 25th pixel."""
    depth = np.full_like(VIEW.depth, np.nan)
    depth[::5, ::5] = VIEW.depth[::5, ::5]
    return depth


def error(depth: np.ndarray) -> float:
    """Median relative error."""
    return float(np.nanmedian(np.abs(depth / VIEW.depth - 1)))


def test_relative_depth_becomes_metric_and_stays_so_without_new_metric_points() -> None:
    aligned = AlignedDepth(Known())
    assert aligned.add(VIEW.image, CAMERA, None) is None
    first = aligned.add(VIEW.image, CAMERA, sparse())
    assert first is not None
    assert error(first) < 0.01
    later = aligned.add(VIEW.image, CAMERA, None)
    assert later is not None
    assert later.tobytes() == first.tobytes()


def test_alignment_is_smooth_and_a_misfit_keeps_it() -> None:
    known = Known()
    aligned = AlignedDepth(known, AlignmentOptions(smoothing=0.25))
    aligned.add(VIEW.image, CAMERA, sparse())
    start = aligned.alignment
    known.scale *= 1 / 1.2  # the estimator breathes
    aligned.add(VIEW.image, CAMERA, sparse())
    assert start is not None
    assert aligned.alignment is not None
    assert aligned.alignment.scale == pytest.approx(start.scale * (1 / 1.2) ** 0.25, rel=0.02)
    held = aligned.alignment
    noise = np.random.default_rng(0).uniform(0.1, 50, VIEW.depth.shape).astype(np.float32)
    assert aligned.add(VIEW.image, CAMERA, noise) is not None
    assert aligned.alignment == held
    assert aligned.misfits == 1
    assert aligned.last_misfit


def test_a_sudden_change_of_scale_is_taken_at_once() -> None:
    known = Known()
    aligned = AlignedDepth(known)
    aligned.add(VIEW.image, CAMERA, sparse())
    known.scale *= 5
    depth = aligned.add(VIEW.image, CAMERA, sparse())
    assert depth is not None
    assert error(depth) < 0.02


def test_sky_and_silhouettes_are_unknown() -> None:
    known = Known()
    known.depth = VIEW.depth.copy()
    known.depth[:30] = 1e6
    depth = AlignedDepth(known).add(VIEW.image, CAMERA, sparse())
    assert depth is not None
    assert np.isnan(depth[:29]).all()
    flying = AlignmentOptions(silhouette_jump=0.0)
    kept = AlignedDepth(Known(), flying).add(VIEW.image, CAMERA, sparse())
    removed = AlignedDepth(Known()).add(VIEW.image, CAMERA, sparse())
    assert kept is not None
    assert removed is not None
    assert np.isnan(removed).sum() > np.isnan(kept).sum()


def test_estimated_depth_of_a_moving_camera_gets_its_scale_from_motion() -> None:
    class Moving(Known):
        def estimate(self, image: np.ndarray, camera: PinholeCamera) -> np.ndarray:
            self.depth = truth[image.tobytes()]
            return super().estimate(image, camera)

    world = room(moving=False)
    views = [world.render(CAMERA, START @ rigid.from_rotation(np.eye(3), (0.05 * i, 0, 0)))
             for i in range(4)]
    truth = {view.image.tobytes(): view.depth for view in views}
    monocular = MonocularDepth(Moving())
    depths = [monocular.add(i * 100_000_000, view.image, CAMERA, view.world_from_camera)
              for i, view in enumerate(views)]
    assert depths[0] is None
    assert depths[-1] is not None
    assert float(np.nanmedian(np.abs(depths[-1] / views[-1].depth - 1))) < 0.1
    assert np.isfinite(depths[-1]).mean() > 0.9
    assert "fit" in monocular.reason


@pytest.mark.skipif(not installed_runtime(), reason="LiteRT is not installed")
def test_fastdepth_ranks_an_office_and_its_scale_is_aligned() -> None:
    sequence = Sequence(data_dir("holo_office"))
    estimator = FastDepth(threads=1)
    assert not estimator.is_metric
    aligned, found = AlignedDepth(estimator), []
    for index in (10, 12, 60, 61, 120, 121):
        truth = sequence.depth(index)
        metric = np.full_like(truth, np.nan)
        metric[::9, ::9] = truth[::9, ::9]
        depth = aligned.add(sequence.image(index), sequence.camera, metric)
        if depth is not None:
            found.append(np.nanmedian(np.abs(depth / truth - 1)))
    assert len(found) >= 4
    assert float(np.median(found)) < 0.2


@pytest.mark.skipif(not installed_runtime(), reason="LiteRT is not installed")
def test_fastdepth_covers_wide_and_tall_pictures() -> None:
    estimator = FastDepth(threads=1)
    for width, height in ((300, 100), (100, 260), (128, 128)):
        camera = PinholeCamera(width, height, 100.0, 100.0, width / 2, height / 2)
        image = np.random.default_rng(0).integers(0, 255, (height, width, 3), dtype=np.uint8)
        inverse = estimator.estimate(image, camera)
        assert inverse.shape == (height, width)
        assert np.isfinite(inverse).all()
        assert inverse.min() > 0


@pytest.mark.skipif(not installed_runtime(), reason="LiteRT is not installed")
def test_fastdepth_names_a_missing_or_broken_file(tmp_path: Path) -> None:
    with pytest.raises(EstimatorError, match=r"nothing\.tflite: no such file"):
        FastDepth(tmp_path / "nothing.tflite")
    (tmp_path / "broken.tflite").write_bytes(b"not a model" * 40)
    with pytest.raises(EstimatorError, match="not a TFLite model"):
        FastDepth(tmp_path / "broken.tflite")


@pytest.fixture(scope="module")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny randomly initialised Depth Anything in transformers' layout."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    backbone = transformers.Dinov2Config(
        hidden_size=16, num_hidden_layers=4, num_attention_heads=2, mlp_ratio=2, image_size=56,
        patch_size=14, out_features=["stage1", "stage2", "stage3", "stage4"],
        reshape_hidden_states=False)
    config = transformers.DepthAnythingConfig(
        backbone_config=backbone, reassemble_hidden_size=16, neck_hidden_sizes=[4, 4, 8, 8],
        fusion_hidden_size=8, head_hidden_size=4, reassemble_factors=[4, 2, 1, 0.5])
    folder = tmp_path_factory.mktemp("depth_model")
    transformers.DepthAnythingForDepthEstimation(config).save_pretrained(folder)
    transformers.DPTImageProcessor(
        size={"height": 56, "width": 56}, ensure_multiple_of=14).save_pretrained(folder)
    return folder


def test_transformers_model_of_a_local_folder(tiny_model: Path) -> None:
    estimator = TransformersDepth(tiny_model, device="cpu")
    assert not estimator.is_metric
    one, two = (estimator.estimate(VIEW.image, CAMERA) for _ in range(2))
    assert one.shape == (120, 160)
    assert one.dtype == np.float32
    assert one.tobytes() == two.tobytes()
    assert TransformersDepth(tiny_model, is_metric=True, device="cpu").is_metric


def test_transformers_folder_that_is_none(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    with pytest.raises(EstimatorError, match=r"no config\.json"):
        TransformersDepth(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(EstimatorError, match="not a depth-estimation model"):
        TransformersDepth(tmp_path)


# The package itself is not run here: it needs a CUDA build of torchvision.
STANDIN = '''
import numpy as np
class Prediction: pass
class DepthAnything3:
    @classmethod
    def from_pretrained(cls, folder, **kwargs):
        assert kwargs == {"local_files_only": True}
        return cls()
    def to(self, device): return self
    def eval(self): return self
    def inference(self, image, extrinsics=None, intrinsics=None, use_ray_pose=False,
                  process_res=504):
        p, n = Prediction(), len(image)
        p.depth = np.full((n, 60, 80), 3.0, np.float32)
        p.sky = np.zeros((n, 60, 80), np.float32)
        p.sky[:, :10] = 1.0
        p.extrinsics = np.tile(np.eye(4)[:3], (n, 1, 1))
        p.extrinsics[:, 0, 3] = -np.arange(n)
        p.intrinsics = np.tile(np.array([[65.0, 0, 39.5], [0, 65, 29.5], [0, 0, 1]]), (n, 1, 1))
        return p
'''


@pytest.fixture
def depth_anything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
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


@pytest.mark.parametrize(("name", "metric", "expected"), [
    ("da3nested-giant-large", True, 3.0), ("da3metric-large", True, 3.0 * 65 / 300),
    ("da3-small", False, 1 / 3.0)])
def test_depth_anything_knows_what_its_models_give(
        depth_anything: Path, name: str, metric: bool, expected: float) -> None:
    pytest.importorskip("torch")
    (depth_anything / "config.json").write_text(json.dumps({"model_name": name}))
    estimator = DepthAnything3(depth_anything, device="cpu")
    assert estimator.is_metric == metric
    depth = estimator.estimate(VIEW.image, CAMERA)
    assert depth.shape == (120, 160)
    assert np.isnan(depth[:20]).all()
    np.testing.assert_allclose(depth[21:], expected, rtol=1e-5)


def test_depth_anything_gives_cameras(depth_anything: Path) -> None:
    pytest.importorskip("torch")
    (depth_anything / "config.json").write_text('{"model_name": "da3-small"}')
    estimator = DepthAnything3(depth_anything, device="cpu")
    views = estimator.estimate_views([VIEW.image] * 3)
    assert views.cameras[0].agrees_with(CAMERA, 0.6)
    np.testing.assert_allclose(views.world_from_cameras[:, 0, 3], [0, 1, 2])
    assert not views.is_metric
    assert estimator.estimate_views(
        [VIEW.image] * 2, [CAMERA] * 2, np.tile(np.eye(4), (2, 1, 1))).is_metric
    with pytest.raises(ValueError, match="as many"):
        estimator.estimate_views([VIEW.image], [CAMERA] * 2, np.tile(np.eye(4), (2, 1, 1)))
    registry, missing = available_estimators(depth_anything)
    assert "depth_anything_3" in registry.names
    assert "transformers" in missing


def test_what_is_there_is_offered_and_what_is_not_has_a_reason(
        tiny_model: Path, tmp_path: Path) -> None:
    registry, missing = available_estimators(tiny_model)
    assert "transformers" in registry.names
    assert set(registry.names) | set(missing) == {"depth_anything_3", "transformers", "fastdepth"}
    with pytest.raises(EstimatorError, match=r"no config\.json"):
        available_estimators(tmp_path)


def test_the_choice_is_by_what_is_there_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        assert choose(sensor=True, right_camera=True, poses=True).name == "sensor"
    assert "measured depth" in caplog.text
    assert choose(right_camera=True, poses=True).name == "stereo"
    assert choose(poses=True).name == "motion"
    assert choose(poses=True, estimators=("fastdepth",)).name == "motion"
    dense = choose(poses=True, estimators=("transformers",))
    assert (dense.name, "motion" in dense.reason) == ("transformers", True)
    rooms = choose(estimators=("fastdepth",))
    assert "rooms only" in rooms.reason
    assert "not metric" in rooms.reason
    with pytest.raises(ValueError, match="no depth: neither"):
        choose()
