# SPDX-License-Identifier: Apache-2.0
"""Similarities are found exactly, among wrong pairs too; estimated clips come to the scene."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from inspatio_ros.geometry import rigid
from inspatio_ros.geometry.camera import PinholeCamera
from inspatio_ros.geometry.similarity import Similarity, robust_similarity, umeyama
from inspatio_ros.memory.imagined_points import ImaginedView
from inspatio_ros.scene.align import aligned_clip, estimated_view
from inspatio_ros.sensing.observation import Observation
from inspatio_ros.worlds.room import room

CAMERA = PinholeCamera(64, 48, 45.0, 45.0, 31.5, 23.5)
WORLD = room(0, moving=False)


def drawn(seed: int) -> Similarity:
    rng = np.random.default_rng(seed)
    return Similarity(float(rng.uniform(0.2, 5)), Rotation.random(random_state=seed).as_matrix(),
                      rng.normal(size=3))


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), count=st.integers(4, 60))
def test_a_similarity_is_found_exactly(seed: int, count: int) -> None:
    points = np.random.default_rng(seed).normal(size=(count, 3))
    true = drawn(seed)
    found = umeyama(points, true.points(points))
    assert found.scale == pytest.approx(true.scale, rel=1e-6)
    assert np.allclose(found.rotation, true.rotation, atol=1e-6)
    assert np.linalg.det(found.rotation) == pytest.approx(1.0)
    assert np.allclose(found.points(points), true.points(points), atol=1e-6)


def test_mirrored_points_give_a_rotation_not_a_mirror() -> None:
    points = np.random.default_rng(1).normal(size=(30, 3))
    assert np.linalg.det(umeyama(points, points * [-1, 1, 1]).rotation) == pytest.approx(1.0)


def test_half_of_the_pairs_may_be_wrong() -> None:
    rng = np.random.default_rng(5)
    points, true = rng.normal(size=(400, 3)), drawn(5)
    target = true.points(points) + rng.normal(scale=1e-3, size=(400, 3))
    target[:200] = rng.normal(scale=5.0, size=(200, 3))
    found = robust_similarity(points, target, 0.02)
    assert found.scale == pytest.approx(true.scale, rel=0.01)
    assert found.inlier_ratio == pytest.approx(0.5, abs=0.03)


@pytest.mark.parametrize("count", [0, 2, 40])
def test_pairs_that_do_not_fit_are_refused(count: int) -> None:
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match="pairs"):
        robust_similarity(rng.normal(size=(count, 3)), rng.normal(size=(count, 3)), 0.01)


def look(yaw: float) -> npt.NDArray[np.float64]:
    return np.asarray(rigid.from_euler(0, 0, yaw, (-1.5, -1.3, 1.2)) @ rigid.BODY_FROM_OPTICAL)


def see(pose: npt.NDArray[np.float64]) -> Observation:
    view = WORLD.render(CAMERA, pose)
    return Observation(0, view.image, view.depth, CAMERA, pose)


def test_a_clip_in_its_own_unit_comes_to_the_scene() -> None:
    """Depth and cameras in another world at another scale, a third of the known depth wrong."""
    true = [see(look(0.2 * i)) for i in range(4)]
    own = drawn(8)
    apart = Similarity(1 / own.scale, own.rotation.T, -own.rotation.T @ own.translation
                       / own.scale)
    clip = [replace(o, depth=(o.depth / own.scale).astype(np.float32),
                    world_from_camera=apart.poses(o.world_from_camera)) for o in true]
    known = []
    for o in true:
        depth = o.depth.copy()
        depth[:, :16] *= 1.5
        depth[:, 40:] = np.nan
        known.append((depth, o.world_from_camera))
    moved, found = aligned_clip(clip, known)
    assert found.scale == pytest.approx(own.scale, rel=0.02)
    for view, o in zip(moved, true, strict=True):
        assert np.nanmedian(np.abs(view.depth / o.depth - 1)) < 0.03
        assert np.allclose(view.world_from_camera, o.world_from_camera, atol=0.08)


class Relative:
    """True inverse depth in another unit; or nonsense."""

    def __init__(self, depth: npt.NDArray[np.float32], metric: bool, good: bool = True) -> None:
        self.is_metric = metric
        self._depth = depth if good else np.random.default_rng(0).uniform(
            1, 50, depth.shape).astype(np.float32)

    def estimate(self, image: npt.NDArray[np.uint8],
                 camera: PinholeCamera) -> npt.NDArray[np.float32]:
        if self.is_metric:
            return (self._depth * 1.7).astype(np.float32)
        return (3.0 / self._depth + 0.2).astype(np.float32)

    def close(self) -> None:
        """Nothing is held."""


@pytest.mark.parametrize("metric", [False, True])
def test_estimated_depth_takes_scale_and_shift_of_what_is_known(metric: bool) -> None:
    seen = see(look(0.3))
    known = seen.depth.copy()
    known[:, 30:] = np.nan
    view = ImaginedView(seen.image, known, ~(known > 0), CAMERA, seen.world_from_camera, 0)
    found = estimated_view(view, Relative(seen.depth, metric)).estimated
    assert found is not None
    assert np.nanmedian(np.abs(found / seen.depth - 1)) < 0.02


def test_an_estimate_that_does_not_fit_is_not_used() -> None:
    seen = see(look(0.3))
    view = ImaginedView(seen.image, seen.depth, np.zeros(seen.depth.shape, np.bool_), CAMERA,
                        seen.world_from_camera, 0)
    assert estimated_view(view, Relative(seen.depth, False, good=False)).estimated is None
