# SPDX-License-Identifier: Apache-2.0
"""Splatting: numba, torch and triton agree, and bad points are left out."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys

import numpy as np
import numpy.typing as npt
import pytest

from inspatio_ros.geometry.camera import PinholeCamera
from inspatio_ros.memory.splatting import (
    NumbaSplatter,
    Rendered,
    Splatter,
    TorchSplatter,
    make_splatter,
    pack_colors,
)

CAMERA = PinholeCamera(64, 48, 60.0, 60.0, 31.5, 23.5)
EYE = np.eye(4)


def cloud(count: int, seed: int = 0) -> tuple[
    npt.NDArray[np.float32], npt.NDArray[np.uint32], npt.NDArray[np.float32]
]:
    rng = np.random.default_rng(seed)
    xyz = rng.normal(0, 1, (3, count)).astype(np.float32)
    xyz[2] += 2
    codes = pack_colors(rng.integers(0, 256, (count, 3), dtype=np.uint8), 170)
    return xyz, codes, rng.uniform(0.01, 0.2, count).astype(np.float32)


def assert_equal(one: Rendered, other: Rendered) -> None:
    np.testing.assert_array_equal(one.image, other.image)
    np.testing.assert_array_equal(one.label, other.label)
    np.testing.assert_array_equal(one.depth, other.depth)


@pytest.fixture(params=["numba", "torch"])
def splatter(request: pytest.FixtureRequest) -> Splatter:
    return make_splatter(request.param)


@pytest.mark.parametrize("sized", [False, True])
@pytest.mark.parametrize("threads", [1, 3])
def test_numba_equals_torch_bit_by_bit(sized: bool, threads: int) -> None:
    xyz, codes, sizes = cloud(20_000)
    pose = np.eye(4)
    pose[:3, 3] = 0.1, -0.05, 0.2
    chosen = sizes if sized else None
    ours = NumbaSplatter(threads).render(xyz, codes, CAMERA, pose, chosen)
    assert (ours.label > 0).mean() > 0.5
    assert_equal(ours, TorchSplatter().render(xyz, codes, CAMERA, pose, chosen))


def test_matches_a_plain_loop(splatter: Splatter) -> None:
    xyz, codes, _ = cloud(500, seed=3)
    drawn = splatter.render(xyz, codes, CAMERA, EYE)
    depth = np.full((48, 64), np.inf)
    code = np.zeros((48, 64), np.uint32)
    pixels, z = CAMERA.project(xyz.T)
    for i in np.flatnonzero(z > 1e-3):
        u, v = np.floor(pixels[i] + 0.5).astype(int)
        if 0 <= u < 64 and 0 <= v < 48 and z[i] < depth[v, u]:
            depth[v, u], code[v, u] = z[i], codes[i]
    same = code == pack_colors(drawn.image, 0) | (drawn.label.astype(np.uint32) << 24)
    # A coordinate that falls on a pixel border may round the other way in float32.
    assert same.mean() > 0.999
    np.testing.assert_allclose(drawn.depth[same & (code > 0)], depth[same & (code > 0)], rtol=1e-5)


def test_nearest_point_wins_and_label_follows(splatter: Splatter) -> None:
    xyz = np.array([[0, 0], [0, 0], [3, 2]], np.float32)
    codes = np.concatenate([pack_colors(np.array([[9, 8, 7]], np.uint8), 255),
                            pack_colors(np.array([[1, 2, 3]], np.uint8), 170)])
    camera = PinholeCamera(5, 5, 10, 10, 2, 2)
    drawn = splatter.render(xyz, codes, camera, EYE)
    assert drawn.image[2, 2].tolist() == [1, 2, 3]
    assert drawn.label[2, 2] == 170
    assert drawn.depth[2, 2] == 2
    assert (drawn.label > 0).sum() == 1
    assert np.isnan(drawn.depth).sum() == 24


def test_square_grows_as_the_camera_comes_near(splatter: Splatter) -> None:
    xyz = np.array([[0], [0], [4]], np.float32)
    codes, sizes = np.array([255 << 24], np.uint32), np.array([0.2], np.float32)
    camera = PinholeCamera(21, 21, 40, 40, 10, 10)
    areas = []
    for step in (0.0, 2.0, 3.0):
        pose = np.eye(4)
        pose[2, 3] = -step
        areas.append(int((splatter.render(xyz, codes, camera, pose, sizes, 8).label > 0).sum()))
    assert areas == [2 * 2, 4 * 4, 8 * 8]


@pytest.mark.parametrize(
    "bad",
    [(0, 0, 0), (0, 0, -1), (np.nan, 0, 1), (0, 0, np.nan), (np.inf, 0, 1), (0, 0, np.inf),
     (1e30, 0, 1e-2), (-1e30, 1e30, 1), (1e38, -1e38, 1e38), (3e9, 0, 1)])
@pytest.mark.parametrize("sized", [False, True])
def test_bad_points_are_left_out(
    splatter: Splatter, bad: tuple[float, float, float], sized: bool
) -> None:
    xyz, codes, sizes = cloud(50)
    good = splatter.render(xyz, codes, CAMERA, EYE, sizes if sized else None)
    with np.errstate(over="ignore"):
        xyz = np.concatenate([xyz, np.array([bad], np.float32).T], axis=1)
    codes = np.append(codes, np.uint32(0xFF010101))
    sizes = np.append(sizes, np.float32(0.1))
    assert_equal(good, splatter.render(xyz, codes, CAMERA, EYE, sizes if sized else None))


def test_empty_cloud(splatter: Splatter) -> None:
    drawn = splatter.render(np.zeros((3, 0), np.float32), np.zeros(0, np.uint32), CAMERA, EYE)
    assert not drawn.image.any()
    assert not drawn.label.any()
    assert np.isnan(drawn.depth).all()


@pytest.mark.parametrize(
    ("xyz", "codes", "sizes", "named"),
    [(np.zeros((4, 3), np.float32), np.zeros(4, np.uint32), None, "xyz"),
     (np.zeros((3, 4)), np.zeros(4, np.uint32), None, "xyz"),
     (np.zeros((3, 4), np.float32), np.zeros(5, np.uint32), None, "codes"),
     (np.zeros((3, 4), np.float32), np.zeros(4, np.int64), None, "codes"),
     (np.zeros((3, 4), np.float32), np.zeros(4, np.uint32), np.zeros(3, np.float32), "sizes")])
def test_wrong_arrays_are_named(
    splatter: Splatter, xyz: npt.NDArray[np.float32], codes: npt.NDArray[np.uint32],
    sizes: npt.NDArray[np.float32] | None, named: str,
) -> None:
    with pytest.raises(ValueError, match=named):
        splatter.render(xyz, codes, CAMERA, EYE, sizes)


def test_unknown_backend_is_named() -> None:
    with pytest.raises(ValueError, match="'opengl'.*numba, torch, triton"):
        make_splatter("opengl")


def test_triton_without_device_says_so() -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("a CUDA device is here")
    with pytest.raises(RuntimeError, match="triton"):
        make_splatter("triton")


def test_triton_kernels_name_nothing_that_its_compiler_refuses() -> None:
    """It looks annotations up as it does globals, of which it takes its own alone."""
    from inspatio_ros.memory import splatting_triton

    for kernel in (splatting_triton._splat, splatting_triton._resolve):
        assert set(kernel.__annotations__.values()) == {"tl.constexpr"}


def test_triton_equals_torch() -> None:
    """On a CUDA device for real, else in Triton's interpreter; both need triton."""
    import torch

    if importlib.util.find_spec("triton") is None:
        pytest.skip("triton is not installed")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    script = f"""
import sys
sys.path.insert(0, {os.path.dirname(__file__)!r})
from test_splatting import CAMERA, EYE, assert_equal, cloud
from inspatio_ros.memory.splatting import TorchSplatter
from inspatio_ros.memory.splatting_triton import TritonSplatter
xyz, codes, sizes = cloud(1000)
xyz[0, 5] = float("nan")
for chosen in (None, sizes):
    ours = TritonSplatter({device!r}).render(xyz, codes, CAMERA, EYE, chosen)
    assert_equal(ours, TorchSplatter({device!r}).render(xyz, codes, CAMERA, EYE, chosen))
"""
    interpret = {} if device == "cuda" else {"TRITON_INTERPRET": "1"}
    done = subprocess.run([sys.executable, "-c", script], env={**os.environ, **interpret},
                          capture_output=True, text=True, timeout=250, check=False)
    assert done.returncode == 0, done.stderr
