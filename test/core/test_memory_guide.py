# SPDX-License-Identifier: Apache-2.0
"""Guides: right colours at the right places with the right labels."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from inspatio_ros.geometry.camera import PinholeCamera
from inspatio_ros.memory.exposure import compose_tone, fit_tone
from inspatio_ros.memory.guide import Guide, GuideRenderer
from inspatio_ros.memory.splatting import TorchSplatter
from inspatio_ros.memory.surfaces import (
    NEARER,
    close_gaps,
    extend_depth,
    extend_sensor_depth,
    nearest_and_edges,
    reduce_depth,
)
from inspatio_ros.memory.world_memory import MemoryOptions, WorldMemory
from inspatio_ros.sensing.observation import Observation, Provenance

CAMERA = PinholeCamera(80, 60, 80.0, 80.0, 39.5, 29.5)
SMALL = 50_000
Float = npt.NDArray[np.float32]


def moved(x: float = 0.0, y: float = 0.0, z: float = 0.0) -> npt.NDArray[np.float64]:
    pose = np.eye(4)
    pose[:3, 3] = x, y, z
    return pose


def wall_color(points: npt.NDArray[np.float64]) -> npt.NDArray[np.uint8]:
    """A smooth texture fixed in the world, from its x and y."""
    waves = [np.sin(3 * points[..., 0]), np.sin(4 * points[..., 1]),
             np.cos(2 * points[..., 0] + points[..., 1])]
    return np.rint(128 + 80 * np.stack(waves, axis=-1)).astype(np.uint8)


def look(
    pose: npt.NDArray[np.float64], depth: float = 3.0, stamp_ns: int = 0, gain: float = 1.0,
    camera: PinholeCamera = CAMERA, hole: tuple[slice, slice] | None = None,
) -> Observation:
    """A view of the textured wall at z = `depth` of the world."""
    picture = np.full((camera.height, camera.width), depth - pose[2, 3], np.float32)
    points = camera.unproject(picture) @ pose[:3, :3].T + pose[:3, 3]
    image = np.clip(wall_color(points) * gain, 0, 255).astype(np.uint8)
    if hole is not None:
        picture[hole] = np.nan
    return Observation(stamp_ns, image, picture, camera, pose)


def memory(**options: object) -> WorldMemory:
    return WorldMemory(MemoryOptions(capacity=SMALL, **options))  # type: ignore[arg-type]


def error(guide: Guide, truth: Observation, mask: npt.NDArray[np.bool_]) -> float:
    difference = np.abs(guide.image.astype(float) - truth.image)[mask]
    return float(difference.mean())


def test_same_view_gives_the_picture_back() -> None:
    seen = look(moved())
    guide = memory().render(CAMERA, moved(), [seen])
    np.testing.assert_array_equal(guide.image, seen.image)
    np.testing.assert_allclose(guide.depth, seen.depth, rtol=1e-5)
    assert (guide.provenance == Provenance.OBSERVED).all()
    assert guide.coverage == 1.0


@pytest.mark.parametrize("mode", ["soft", "fast"])
@pytest.mark.parametrize("step", [(0.3, 0, 0), (0, 0.2, 0), (0, 0, 1.0), (0.1, -0.1, -0.5)])
def test_moved_view_shows_what_is_really_there(
    mode: str, step: tuple[float, float, float]
) -> None:
    pose = moved(*step)
    guide = memory(mode=mode).render(CAMERA, pose, [look(moved())])
    truth = look(pose)
    covered = guide.provenance == Provenance.OBSERVED
    expected = 1.0 if step[2] > 0 else 0.6
    assert covered.mean() >= expected
    assert error(guide, truth, covered) < (1.5 if mode == "soft" else 6)
    np.testing.assert_allclose(guide.depth[covered], truth.depth[covered], rtol=1e-3)


def test_no_cracks_however_near_the_camera_comes() -> None:
    guide = memory().render(CAMERA, moved(z=2.5), [look(moved())])
    assert (guide.provenance == Provenance.OBSERVED).all()


def test_surface_is_not_drawn_from_behind() -> None:
    behind = np.diag([-1.0, 1.0, -1.0, 1.0])
    behind[2, 3] = 6.0
    guide = memory().render(CAMERA, behind, [look(moved())])
    assert (guide.provenance == Provenance.UNKNOWN).all()


def test_no_curtain_between_a_thing_and_what_is_behind_it() -> None:
    depth = np.full((60, 80), 4.0, np.float32)
    depth[:, 30:50] = 1.5
    image = np.zeros((60, 80, 3), np.uint8)
    image[:, 30:50] = 200
    seen = Observation(0, image, depth, CAMERA, moved())
    guide = memory().render(CAMERA, moved(x=0.3), [seen])
    known = guide.provenance == Provenance.OBSERVED
    assert not known.all()
    near = np.abs(guide.depth[known] - 1.5) < 0.01
    far = np.abs(guide.depth[known] - 4.0) < 0.01
    assert (near | far).all()
    assert set(np.unique(guide.image[known])) == {0, 200}


def test_memory_fills_what_the_newest_frame_does_not_see() -> None:
    world = memory(voxel_size=0.02)
    world.integrate(look(moved(x=-1.0), stamp_ns=0))
    newest = look(moved(x=1.0), stamp_ns=1)
    guide = world.render(CAMERA, moved(), [newest])
    remembered = guide.provenance == Provenance.MEMORY
    observed = guide.provenance == Provenance.OBSERVED
    assert remembered.mean() > 0.2
    assert observed.mean() > 0.4
    truth = look(moved())
    assert error(guide, truth, remembered) < 8
    np.testing.assert_allclose(guide.depth[remembered], 3.0, atol=0.05)


def test_memory_gives_depth_where_the_newest_frame_has_none() -> None:
    world = memory()
    world.integrate(look(moved()))
    hole = (slice(20, 40), slice(30, 55))
    newest = look(moved(), stamp_ns=1, hole=hole)
    guide = world.render(CAMERA, moved(), [newest])
    # The rim of the hole, four pixels wide, is near enough to measured depth in corners.
    assert (guide.provenance[hole] == Provenance.MEMORY).mean() > 0.8
    assert (guide.provenance >= Provenance.MEMORY).all()
    np.testing.assert_array_equal(guide.image[hole], newest.image[hole])


def test_stale_surface_that_the_newest_frame_sees_through_is_not_drawn() -> None:
    world = memory()
    world.integrate(look(moved(), depth=1.5))
    newest = look(moved(), depth=3.0, stamp_ns=1)
    guide = world.render(CAMERA, moved(x=0.1), [newest])
    assert np.nanmin(guide.depth) > 2.9


def test_remembered_occluder_outside_the_newest_view_is_drawn_in_front() -> None:
    world = memory(voxel_size=0.01)
    # A board at 1 m, seen from two metres to the left, where the newest frame does not look.
    depth = np.full((60, 80), np.nan, np.float32)
    depth[:, 35:45] = 1.0
    board = Observation(0, np.full((60, 80, 3), 7, np.uint8), depth, CAMERA, moved(x=-2.0))
    world.integrate(board)
    newest = look(moved(x=0.5), stamp_ns=1)
    guide = world.render(CAMERA, moved(x=-1.8), [newest])
    drawn = np.abs(guide.depth - 1.0) < 0.05
    assert drawn.sum() > 300
    assert (guide.provenance[drawn] == Provenance.MEMORY).all()
    assert (guide.image[drawn] == 7).all()


def test_colour_without_depth_is_a_hint_not_an_observation() -> None:
    hole = (slice(0, 30), slice(0, 80))
    seen = look(moved(), hole=hole)
    guide = memory().render(CAMERA, moved(z=0.2), [seen])
    hinted = guide.provenance == Provenance.IMAGINED
    assert hinted[:20].mean() > 0.9
    assert np.isnan(guide.depth[hinted]).all()
    assert guide.guessed is not None
    assert np.isfinite(guide.guessed[hinted]).all()
    assert np.isnan(guide.guessed[~hinted]).all()
    shown = guide.shown_depth
    np.testing.assert_array_equal(shown[~hinted], guide.depth[~hinted])
    np.testing.assert_array_equal(shown[hinted], guide.guessed[hinted])
    assert guide.coverage == pytest.approx(1 - hinted.mean(), abs=0.05)
    without = memory(guess=False).render(CAMERA, moved(z=0.2), [seen])
    assert not (without.provenance == Provenance.IMAGINED).any()
    assert without.guessed is None
    assert (without.image[without.provenance == Provenance.UNKNOWN] == 0).all()


def test_guess_never_hides_measured_depth() -> None:
    depth = np.full((60, 80), np.nan, np.float32)
    depth[:, :40] = 4.0
    depth[:, 60:] = 0.8
    seen = Observation(0, np.zeros((60, 80, 3), np.uint8), depth, CAMERA, moved())
    pose = moved(x=0.5)
    guide = memory().render(CAMERA, pose, [seen])
    without = memory(guess=False).render(CAMERA, pose, [seen])
    observed = without.provenance == Provenance.OBSERVED
    assert observed.any()
    np.testing.assert_array_equal(guide.provenance[observed], without.provenance[observed])
    np.testing.assert_array_equal(guide.depth[observed], without.depth[observed])


def test_cracks_close_from_measured_pixels_only() -> None:
    seen = look(moved())
    ragged = seen.depth.copy()
    ragged[:, ::2] = np.nan
    ragged[:30] = np.nan
    # Too sparse for a surface to be joined, but not for its gaps to be closed.
    sparse = Observation(0, seen.image, ragged, CAMERA, moved())
    guide = memory().render(CAMERA, moved(z=1.0), [sparse])
    below = guide.provenance[35:]
    assert (below == Provenance.OBSERVED).mean() > 0.95
    assert (guide.provenance[:20] == Provenance.IMAGINED).mean() > 0.9
    assert (guide.provenance[:20] == Provenance.OBSERVED).sum() == 0
    assert (np.isfinite(guide.depth) == (guide.provenance >= Provenance.MEMORY)).all()


def test_older_references_fill_in() -> None:
    left, right = look(moved(x=-1.0)), look(moved(x=1.0), stamp_ns=1)
    one = memory().render(CAMERA, moved(), [right])
    both = memory().render(CAMERA, moved(), [right, left])
    assert (both.provenance == Provenance.OBSERVED).mean() \
        > (one.provenance == Provenance.OBSERVED).mean() + 0.2
    covered = both.provenance == Provenance.OBSERVED
    assert error(both, look(moved()), covered) < 3


def test_old_colours_take_the_exposure_of_the_newest_frame() -> None:
    errors = {}
    for match in (True, False):
        world = memory(match_exposure=match)
        world.integrate(look(moved(x=-0.7), stamp_ns=0, gain=0.6))
        newest = look(moved(x=0.7), stamp_ns=1)
        guide = world.render(CAMERA, moved(), [newest])
        remembered = guide.provenance == Provenance.MEMORY
        assert remembered.mean() > 0.05
        errors[match] = error(guide, look(moved()), remembered)
    assert errors[True] < 0.5 * errors[False]


def test_exposure_is_matched_anew_when_a_frame_was_fused_since() -> None:
    """A reference is often shown before it is fused and again after."""
    world = memory()
    world.integrate(look(moved(x=-0.7), stamp_ns=0, gain=0.6))
    newest = look(moved(x=0.7), stamp_ns=1)
    world.render(CAMERA, moved(), [newest])
    world.integrate(newest)
    guide = world.render(CAMERA, moved(), [newest])
    remembered = guide.provenance == Provenance.MEMORY
    assert remembered.mean() > 0.05
    assert error(guide, look(moved()), remembered) < 12


def test_exposure_survives_several_changes() -> None:
    world = memory()
    for step, gain in enumerate((1.0, 0.7, 0.5, 0.8, 1.0)):
        world.integrate(look(moved(x=0.3 * step), stamp_ns=step, gain=gain))
    guide = world.render(CAMERA, moved(x=-0.3), [look(moved(x=1.2), stamp_ns=4)])
    remembered = guide.provenance == Provenance.MEMORY
    assert remembered.mean() > 0.2
    assert error(guide, look(moved(x=-0.3)), remembered) < 12


def test_memory_alone_without_references() -> None:
    world = memory()
    world.integrate(look(moved()))
    guide = world.render(CAMERA, moved(), [])
    assert (guide.provenance == Provenance.MEMORY).mean() > 0.95
    assert error(guide, look(moved()), guide.provenance > 0) < 8


@pytest.mark.parametrize("mode", ["soft", "fast"])
def test_nothing_known_gives_an_unknown_guide(mode: str) -> None:
    blind = look(moved(), hole=(slice(None), slice(None)))
    for references in ([], [blind]):
        guide = memory(mode=mode).render(CAMERA, moved(), references)
        assert not guide.provenance.any()
        assert not guide.image.any()
        assert np.isnan(guide.depth).all()


def test_finer_reference_is_reduced_to_the_view() -> None:
    fine = CAMERA.resized(320, 240)
    seen = look(moved(), camera=fine)
    guide = memory().render(CAMERA, moved(x=0.1), [seen])
    covered = guide.provenance == Provenance.OBSERVED
    assert covered.mean() > 0.9
    assert error(guide, look(moved(x=0.1)), covered) < 2


def test_equal_inputs_give_equal_bytes() -> None:
    guides = []
    for _ in range(2):
        world = memory()
        for step in range(3):
            world.integrate(look(moved(x=0.2 * step), stamp_ns=step))
        guides.append(world.render(CAMERA, moved(x=0.9), [look(moved(x=0.4), stamp_ns=3)]))
    assert guides[0].image.tobytes() == guides[1].image.tobytes()
    assert guides[0].depth.tobytes() == guides[1].depth.tobytes()
    assert guides[0].provenance.tobytes() == guides[1].provenance.tobytes()


def test_clear_forgets_and_bytes_stay_bounded() -> None:
    world = memory()
    world.integrate(look(moved()))
    world.render(CAMERA, moved(), [look(moved())])
    held = world.nbytes
    for step in range(10):
        seen = look(moved(x=0.1 * step), stamp_ns=step)
        world.integrate(seen)
        world.render(CAMERA, moved(), [seen])
    assert world.nbytes == held
    world.clear()
    assert world.point_count == 0
    assert not world.render(CAMERA, moved(), []).provenance.any()


def test_torch_backend_draws_the_same_scene() -> None:
    seen = look(moved(), hole=(slice(10, 20), slice(10, 20)))
    guides = []
    for backend in ("numba", "torch"):
        world = memory(mode="fast", backend=backend)
        world.integrate(look(moved(x=-0.5)))
        guides.append(world.render(CAMERA, moved(x=0.2), [seen]))
    ours, theirs = guides
    assert (ours.provenance == theirs.provenance).mean() > 0.9
    both = (ours.provenance == Provenance.OBSERVED) & (theirs.provenance == Provenance.OBSERVED)
    assert np.abs(ours.image[both].astype(int) - theirs.image[both]).mean() < 5


def test_soft_mode_needs_numba() -> None:
    with pytest.raises(ValueError, match="'soft' needs the numba backend, not 'torch'"):
        GuideRenderer(TorchSplatter(), "soft")
    with pytest.raises(ValueError, match="'sharp' is not one of fast, soft"):
        memory(mode="sharp")


@pytest.mark.parametrize("pose", [np.full((4, 4), np.nan), np.zeros((4, 4)), np.eye(3)])
def test_bad_pose_is_named(pose: npt.NDArray[np.float64]) -> None:
    with pytest.raises(ValueError, match="world_from_camera"):
        memory().render(CAMERA, pose, [look(moved())])


def test_gaps_close_only_within_a_surface() -> None:
    depth = np.full((20, 20), 2.0, np.float32)
    depth[:, 8:11] = np.nan
    np.testing.assert_allclose(close_gaps(depth), 2.0)
    depth[:, 11:] = 4.0
    assert np.isnan(close_gaps(depth)[:, 8:11]).all()
    wide = np.full((20, 40), 2.0, np.float32)
    wide[:, 5:30] = np.nan
    assert np.isnan(close_gaps(wide)[:, 12:20]).all()


def two_walls() -> npt.NDArray[np.float32]:
    """Depth of the lower half, to the left and right of nothing known."""
    depth = np.full((32, 48), np.nan, np.float32)
    depth[16:, :10] = 2.0
    depth[16:, 40:] = 4.0
    return depth


def test_extended_depth_keeps_the_measured_and_guesses_between() -> None:
    depth = two_walls()
    full = extend_depth(depth)
    assert np.isfinite(full).all()
    np.testing.assert_array_equal(full[depth > 0], depth[depth > 0])
    assert 2.0 < full[24, 25] < 4.0
    assert full.min() > 1.9
    assert full.max() <= 4.0
    nothing = np.full((4, 4), np.nan, np.float32)
    assert np.isnan(extend_depth(nothing)).all()
    one = nothing.copy()
    one[2, 1] = 3.0
    np.testing.assert_allclose(extend_depth(one), 3.0, rtol=1e-5)


@given(st.floats(-1.0, 1.0), st.floats(-1.0, 1.0), st.floats(0.1, 2.0), st.integers(0, 30),
       st.integers(0, 40), st.booleans())
def test_planes_go_on_where_they_are_not_seen(
        right: float, down: float, middle: float, top: int, left: int, sparse: bool) -> None:
    y, x = np.mgrid[:64, :80]
    # Inverse depth is linear in the picture, and nowhere behind the camera.
    inverse = middle * (1.0 + 0.45 * right * (x / 40 - 1) + 0.45 * down * (y / 32 - 1))
    depth = np.full(inverse.shape, np.nan, np.float32)
    seen = np.s_[top:top + 24, left:left + 30]
    depth[seen] = 1.0 / inverse[seen]
    if sparse:
        depth[1::2] = np.nan
    found = 1.0 / extend_depth(depth)
    measured = 1.0 / depth[depth > 0]
    expected = inverse.clip(np.quantile(measured, 0.02), NEARER * np.quantile(measured, 0.98))
    np.testing.assert_allclose(found, expected, rtol=0.15)


def test_a_sensor_s_own_picture_has_sky_above_what_it_measured() -> None:
    depth = two_walls()
    full = extend_sensor_depth(depth)
    assert np.isfinite(full).all()
    np.testing.assert_array_equal(full[depth > 0], depth[depth > 0])
    assert 2.0 < full[24, 25] <= 4.0
    assert full[0].min() > 3.5
    nothing = np.full((4, 4), np.nan, np.float32)
    assert np.isnan(extend_sensor_depth(nothing)).all()


def test_reduced_depth_takes_the_nearest_surface() -> None:
    depth = np.array([[1.0, 9.0, np.nan, np.nan], [1.02, 9.0, np.nan, 5.0]], np.float32)
    reduced = reduce_depth(depth, (2, 1))
    np.testing.assert_allclose(reduced, [[1.01, 5.0]], rtol=1e-6)


def test_edges_lie_on_both_sides_of_a_jump() -> None:
    depth = np.full((5, 6), 2.0, np.float32)
    depth[:, 3:] = 3.0
    nearest, edges = nearest_and_edges(depth)
    assert edges.sum(0).tolist() == [0, 0, 5, 5, 0, 0]
    assert nearest[2].tolist() == [2, 2, 2, 2, 3, 3]


def test_tone_fit_is_robust_and_composes() -> None:
    rng = np.random.default_rng(0)
    old = rng.integers(20, 150, (2000, 3)).astype(np.uint8)
    new = np.rint(old * np.array([1.2, 0.8, 1.0]) + np.array([5, 10, 0])).astype(np.uint8)
    new[:300] = rng.integers(0, 255, (300, 3))
    tone = fit_tone(old, new)
    carried = old[300:] * tone[:3] + tone[3:]
    assert np.abs(carried - new[300:]).mean() < 4
    twice = compose_tone(tone, tone)
    np.testing.assert_allclose(carried * tone[:3] + tone[3:], old[300:] * twice[:3] + twice[3:],
                               rtol=1e-4)
    assert fit_tone(old[:50], new[:50]).tolist() == [1, 1, 1, 0, 0, 0]
