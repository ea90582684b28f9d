# SPDX-License-Identifier: Apache-2.0
"""Rigid transforms, pinhole camera, trajectories and motion files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.testing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from inspatio_ros.geometry import motions, rigid
from inspatio_ros.geometry.camera import PinholeCamera
from inspatio_ros.geometry.trajectory import (
    MAX_PLAN_POSES,
    CameraTrajectory,
    EmptyPath,
    plan_to_trajectory,
)

coordinates = st.floats(-100.0, 100.0)
vectors = st.tuples(coordinates, coordinates, coordinates)
rotation_vectors = st.tuples(*[st.floats(-3.0, 3.0)] * 3)


@st.composite
def transforms(draw: st.DrawFn) -> rigid.Array:
    matrix = Rotation.from_rotvec(draw(rotation_vectors)).as_matrix()
    return rigid.from_rotation(matrix, draw(vectors))


@st.composite
def cameras(draw: st.DrawFn) -> PinholeCamera:
    width, height = draw(st.integers(8, 400)), draw(st.integers(8, 400))
    return PinholeCamera(
        width, height, draw(st.floats(20, 900)), draw(st.floats(20, 900)),
        draw(st.floats(0, width - 1.0)), draw(st.floats(0, height - 1.0)))


@given(transforms())
def test_inverse_undoes_a_transform(transform: rigid.Array) -> None:
    npt.assert_allclose(rigid.invert(transform) @ transform, np.eye(4), atol=1e-9)


@given(transforms())
def test_quaternion_round_trip(transform: rigid.Array) -> None:
    back = rigid.from_quaternion(rigid.to_quaternion(transform), transform[:3, 3])
    npt.assert_allclose(back, transform, atol=1e-9)


@pytest.mark.parametrize("bad", [[0, 0, 0, 0], [np.nan, 0, 0, 1], [1e-9, 0, 0, 0]])
def test_quaternion_without_rotation_is_refused(bad: list[float]) -> None:
    with pytest.raises(ValueError, match="not a rotation"):
        rigid.from_quaternion(bad)


def test_quaternions_agree_with_transforms3d() -> None:
    quaternions = pytest.importorskip("transforms3d.quaternions")
    transform = rigid.from_euler(0.3, -0.7, 2.1)
    wxyz = quaternions.mat2quat(transform[:3, :3])
    npt.assert_allclose(rigid.to_quaternion(transform), [*wxyz[1:], wxyz[0]], atol=1e-12)


def test_optical_axes_follow_rep_103() -> None:
    forward, left, up = np.eye(3)
    turn = rigid.OPTICAL_FROM_BODY[:3, :3]
    npt.assert_array_equal(turn @ forward, [0, 0, 1])
    npt.assert_array_equal(turn @ left, [-1, 0, 0])
    npt.assert_array_equal(turn @ up, [0, -1, 0])


@given(st.floats(1e-9, np.pi - 1e-6))
def test_rotation_angle(angle: float) -> None:
    assert rigid.rotation_angle(rigid.from_euler(0, angle, 0)) == pytest.approx(angle, abs=1e-12)


@given(transforms(), transforms(), st.floats(0.0, 1.0))
def test_interpolation_stays_rigid_and_hits_its_ends(
    first: rigid.Array, last: rigid.Array, part: float
) -> None:
    pair = np.stack([first, last])
    result = rigid.interpolate([2.0, 5.0], pair, [1.0, 2.0, 2.0 + 3.0 * part, 5.0, 9.0])
    rigid.require_rigid(result, "result")
    npt.assert_allclose(result[[0, 1]], [first, first], atol=1e-9)
    npt.assert_allclose(result[[3, 4]], [last, last], atol=1e-9)
    expected = first[:3, 3] + part * (last[:3, 3] - first[:3, 3])
    npt.assert_allclose(result[2, :3, 3], expected, atol=1e-9)


def test_require_rigid_names_what_is_wrong() -> None:
    with pytest.raises(ValueError, match="tf: the 3x3 part is not a rotation"):
        rigid.require_rigid(np.diag([2.0, 1.0, 1.0, 1.0]), "tf")
    with pytest.raises(ValueError, match="tf: holds a value that is not finite"):
        rigid.require_rigid(np.full((4, 4), np.nan), "tf")
    with pytest.raises(ValueError, match="tf: expected 4x4"):
        rigid.require_rigid(np.eye(3), "tf")


@given(cameras(), st.floats(0.1, 50.0))
def test_projection_inverts_unprojection(camera: PinholeCamera, depth: float) -> None:
    picture = np.full((camera.height, camera.width), depth)
    pixels, z = camera.project(camera.unproject(picture))
    columns, rows = np.meshgrid(np.arange(camera.width), np.arange(camera.height))
    npt.assert_allclose(pixels[..., 0], columns, atol=1e-6)
    npt.assert_allclose(pixels[..., 1], rows, atol=1e-6)
    npt.assert_allclose(z, depth)


def test_points_behind_the_camera_have_no_pixel() -> None:
    camera = PinholeCamera(10, 10, 5, 5, 4.5, 4.5)
    pixels, z = camera.project(np.array([[0.0, 0.0, -1.0], [0.0, 0.0, 0.0], [0.0, 0.0, 2.0]]))
    assert np.isnan(pixels[:2]).all()
    assert np.isfinite(pixels[2]).all()
    npt.assert_array_equal(z, [-1.0, 0.0, 2.0])


@given(cameras(), st.integers(1, 4), st.integers(1, 4))
def test_binning_equals_resizing_to_whole_bins(camera: PinholeCamera, bx: int, by: int) -> None:
    binned = camera.binned(bx, by)
    whole = camera.cropped(0, 0, binned.width * bx, binned.height * by)
    expected = whole.resized(binned.width, binned.height)
    assert binned.agrees_with(expected, 1e-6)


@given(cameras(), st.integers(-3, 3), st.integers(-3, 3))
def test_cropping_shifts_pixels(camera: PinholeCamera, x: int, y: int) -> None:
    crop = camera.cropped(x, y, camera.width, camera.height)
    point = np.array([[0.3, -0.2, 2.0]])
    npt.assert_allclose(crop.project(point)[0], camera.project(point)[0] - [x, y], atol=1e-9)


@given(cameras(), st.integers(8, 300), st.integers(8, 300))
def test_fitting_keeps_the_window_inside_and_the_view(
    camera: PinholeCamera, width: int, height: int
) -> None:
    fitted, (x, y, w, h) = camera.fitted(width, height)
    assert fitted.size == (width, height)
    assert x >= 0
    assert y >= 0
    assert x + w <= camera.width
    assert y + h <= camera.height
    assert w == camera.width or h == camera.height
    # The centre of the window is the centre of the fitted picture.
    centre = camera.cropped(x, y, w, h)
    ray = np.array([[((w - 1) / 2 - centre.cx) / centre.fx,
                     ((h - 1) / 2 - centre.cy) / centre.fy, 1.0]])
    npt.assert_allclose(fitted.project(ray)[0], [[(width - 1) / 2, (height - 1) / 2]], atol=1e-6)


def test_field_of_view_of_a_square_camera() -> None:
    camera = PinholeCamera(100, 100, 50.0, 50.0, 49.5, 49.5)
    npt.assert_allclose(camera.field_of_view, np.pi / 2)


@pytest.mark.parametrize("fx", [0.0, -1.0, np.nan, np.inf])
def test_uncalibrated_camera_is_refused(fx: float) -> None:
    with pytest.raises(ValueError, match="not calibrated"):
        PinholeCamera(10, 10, fx, 5.0, 4.0, 4.0)


def test_skew_is_refused() -> None:
    with pytest.raises(ValueError, match="skew"):
        PinholeCamera.from_matrix([[5, 1, 4], [0, 5, 4], [0, 0, 1]], 8, 8)


def test_camera_dictionary_round_trip() -> None:
    camera = PinholeCamera(10, 12, 5.5, 6.5, 4.25, 5.75)
    assert PinholeCamera.from_dict(camera.to_dict()) == camera


# --- trajectories ------------------------------------------------------------------------------


def _along_x(count: int, spacing: float = 0.1) -> rigid.Array:
    poses = np.tile(np.eye(4), (count, 1, 1))
    poses[:, 0, 3] = np.arange(count) * spacing
    return poses


def test_trajectory_refuses_nonsense() -> None:
    with pytest.raises(EmptyPath):
        CameraTrajectory(np.zeros((0, 4, 4)), np.zeros(0))
    with pytest.raises(ValueError, match="strictly increase"):
        CameraTrajectory(_along_x(2), np.array([0.0, 0.0]))
    with pytest.raises(ValueError, match="not finite"):
        CameraTrajectory(np.full((1, 4, 4), np.nan), np.zeros(1))


def test_resampling_keeps_the_last_pose_of_whole_frames() -> None:
    trajectory = CameraTrajectory.from_poses(_along_x(11), 10.0)
    assert trajectory.length == pytest.approx(1.0)
    again = trajectory.resampled(20.0)
    assert len(again) == 21
    npt.assert_allclose(again.world_from_camera[:, 0, 3], np.arange(21) * 0.05, atol=1e-12)
    assert len(trajectory.resampled(20.0, max_frames=3)) == 3
    assert len(trajectory.cut(0.35)) == 4


def _plan(poses: rigid.Array, stamps: np.ndarray | None = None, **options: object
          ) -> CameraTrajectory:
    arguments: dict[str, object] = {
        "start_ns": 0, "current_world_from_base": None, "speed": 0.5, "frame_rate": 10.0,
        "horizon": 5.0, "max_frames": 1000} | options
    return plan_to_trajectory(poses, stamps, np.eye(4), **arguments)  # type: ignore[arg-type]


def test_plan_without_stamps_is_driven_at_the_given_speed() -> None:
    trajectory = _plan(_along_x(11), speed=0.5)
    assert trajectory.duration == pytest.approx(2.0)
    npt.assert_allclose(np.diff(trajectory.world_from_camera[:, 0, 3]), 0.05, atol=1e-12)


def test_equal_stamps_count_as_none() -> None:
    same = np.full(11, 7, np.int64)
    assert len(_plan(_along_x(11), same)) == len(_plan(_along_x(11)))


def test_plan_with_stamps_keeps_their_timing_and_starts_now() -> None:
    stamps = (np.arange(11) * 2e8).astype(np.int64)
    trajectory = _plan(_along_x(11), stamps, start_ns=int(5e8))
    assert trajectory.times[0] == 0.0
    assert trajectory.world_from_camera[0, 0, 3] == pytest.approx(0.25)
    assert trajectory.duration == pytest.approx(1.5)


def test_plan_of_the_future_starts_later() -> None:
    stamps = (np.arange(3) * 1e9).astype(np.int64)
    trajectory = _plan(_along_x(3), stamps, start_ns=int(-1e9))
    assert trajectory.times[0] == pytest.approx(1.0)


def test_plan_of_the_past_is_empty() -> None:
    stamps = (np.arange(3) * 1e9).astype(np.int64)
    with pytest.raises(EmptyPath, match="1.00 s in the past"):
        _plan(_along_x(3), stamps, start_ns=int(3e9))


def test_passed_poses_are_dropped() -> None:
    current = np.eye(4)
    current[0, 3] = 0.43
    trajectory = _plan(_along_x(11), current_world_from_base=current)
    x = trajectory.world_from_camera[:, 0, 3]
    assert x[0] == pytest.approx(0.43)
    assert np.all(np.diff(x) > 0)
    assert x[-1] == pytest.approx(1.0, abs=0.05)


def test_turn_on_the_spot_takes_time() -> None:
    poses = np.stack([rigid.from_euler(0, 0, yaw) for yaw in np.linspace(0, 1.0, 5)])
    assert _plan(poses, speed=0.5).duration == pytest.approx(2.0)


def test_camera_is_attached_to_the_base() -> None:
    base_from_camera = rigid.from_euler(0, 0, 0, (0.2, 0.0, 1.0)) @ rigid.BODY_FROM_OPTICAL
    trajectory = plan_to_trajectory(
        _along_x(3), None, base_from_camera, start_ns=0, current_world_from_base=None, speed=1.0,
        frame_rate=10.0, horizon=1.0, max_frames=10)
    npt.assert_allclose(trajectory.world_from_camera[0, :3, 3], [0.2, 0.0, 1.0])
    # The camera's z axis is the way the base drives.
    npt.assert_allclose(trajectory.world_from_camera[0, :3, 2], [1.0, 0.0, 0.0], atol=1e-12)


def test_one_pose_gives_one_frame() -> None:
    assert len(_plan(_along_x(1))) == 1


def test_empty_and_broken_plans_are_refused() -> None:
    with pytest.raises(EmptyPath, match="no poses"):
        _plan(np.zeros((0, 4, 4)))
    with pytest.raises(ValueError, match="path: holds a value that is not finite"):
        _plan(np.full((2, 4, 4), np.nan))
    with pytest.raises(ValueError, match="speed"):
        _plan(_along_x(2), speed=0.0)


def test_huge_plan_is_thinned_and_bounded() -> None:
    trajectory = _plan(_along_x(5 * MAX_PLAN_POSES, 0.001), horizon=2.0, max_frames=16)
    assert len(trajectory) == 16


@given(st.integers(1, 50), st.floats(0.05, 3.0), st.floats(1.0, 30.0), st.integers(1, 40),
       st.floats(0.1, 10.0))
def test_plan_respects_horizon_and_frame_limit(
    count: int, speed: float, rate: float, max_frames: int, horizon: float
) -> None:
    trajectory = _plan(_along_x(count), speed=speed, frame_rate=rate, horizon=horizon,
                       max_frames=max_frames)
    assert 1 <= len(trajectory) <= max_frames
    assert trajectory.times[-1] <= horizon + 1e-6


# --- motions -----------------------------------------------------------------------------------


def _orbit() -> motions.CameraMotion:
    pitch = np.radians([0.0, 10.0, 20.0, 10.0, 0.0, -10.0, 0.0])
    return motions.CameraMotion(pitch, np.radians([0.0, 5.0, 15.0, 0.0, 9.0]), np.ones(6) * 2.0)


def test_interpolating_motion_passes_through_every_key() -> None:
    motion = _orbit()
    frames = 6 * 4 * 5 + 1  # every key of every track falls on a frame
    poses = motions.relative_poses(motion, frames)
    # The view direction gives pitch and yaw back.
    view = poses[:, :3, 2]
    pitch, yaw = np.arcsin(view[:, 1]), np.arctan2(view[:, 0], view[:, 2])
    npt.assert_allclose(pitch[:: (frames - 1) // 6], motion.pitch, atol=1e-6)
    npt.assert_allclose(yaw[:: (frames - 1) // 4], motion.yaw, atol=1e-6)


def test_orbit_looks_at_its_pivot() -> None:
    poses = motions.relative_poses(_orbit(), 50)
    pivot = np.array([0.0, 0.0, 2.0])
    to_pivot = pivot - poses[:, :3, 3]
    npt.assert_allclose(np.linalg.norm(to_pivot, axis=1), 2.0, atol=1e-9)
    npt.assert_allclose(to_pivot / 2.0, poses[:, :3, 2], atol=1e-9)


def test_positive_pitch_raises_and_positive_yaw_moves_left() -> None:
    up = motions.CameraMotion(np.radians([0.0, 20.0]), np.zeros(2), np.ones(2))
    left = motions.CameraMotion(np.zeros(2), np.radians([0.0, 20.0]), np.ones(2))
    assert motions.relative_poses(up, 2)[-1, 1, 3] < 0
    assert motions.relative_poses(left, 2)[-1, 0, 3] < 0


def test_dolly_moves_along_the_view_and_rotation_only_stays() -> None:
    dolly = motions.CameraMotion(np.zeros(2), np.zeros(2), np.array([0.0, 3.0]))
    npt.assert_allclose(motions.relative_poses(dolly, 4)[:, 2, 3], [0, 1, 2, 3])
    turn = motions.relative_poses(_orbit(), 9, rotation_only=True)
    npt.assert_array_equal(turn[:, :3, 3], 0.0)


def test_frame_limits_of_a_full_orbit() -> None:
    keys = np.radians(np.linspace(0.0, 240.0, 9))
    assert motions.CameraMotion(keys, np.zeros(2), np.ones(2)).frame_limits() == (301, 801)


def test_motion_file_round_trip(tmp_path: Path) -> None:
    motions.write_motion(tmp_path / "orbit.txt", _orbit())
    back = motions.read_motion(tmp_path / "orbit.txt")
    npt.assert_allclose(back.pitch, _orbit().pitch, atol=1e-9)
    npt.assert_allclose(back.yaw, _orbit().yaw, atol=1e-9)
    npt.assert_allclose(back.displacement, _orbit().displacement)


@pytest.mark.parametrize(("text", "message"), [
    ("", "0 lines with numbers, expected 3"),
    ("0 1\n0 1\n", "2 lines with numbers"),
    ("0 1\n0 x1\n1 1\n", r"line 2 \(yaw\): 'x1' is not a number"),
    ("0 1\n0 1\n1 nan\n", r"line 3 \(displacement\): holds a value that is not finite"),
])
def test_broken_motion_file_names_line_and_value(
    tmp_path: Path, text: str, message: str
) -> None:
    path = tmp_path / "motion.txt"
    path.write_text(text)
    with pytest.raises(motions.MotionFileError, match=message):
        motions.read_motion(path)


@given(st.integers(1, 20), st.integers(1, 100))
def test_bounce_walks_without_jumps(frames: int, wanted: int) -> None:
    indices = motions.bounce_indices(frames, wanted)
    assert len(indices) == wanted
    assert indices.min() >= 0
    assert indices.max() < frames
    if wanted > frames:
        assert np.abs(np.diff(indices)).max(initial=0) <= 1


def test_smoothing_survives_a_full_turn() -> None:
    yaw = np.linspace(0.0, 2 * np.pi, 60)
    poses = np.stack([rigid.from_euler(0, 0, angle) for angle in yaw])
    smooth = motions.smoothed_poses(poses)
    steps = rigid.rotation_angle(rigid.invert(smooth[:-1]) @ smooth[1:])
    assert steps.max() < 0.15


def test_target_poses_compose_with_the_first_source_pose() -> None:
    source = np.stack([rigid.from_euler(0.1, 0.2, 0.3, (i, 2.0, 3.0)) for i in range(5)])
    still = np.tile(np.eye(4), (5, 1, 1))
    npt.assert_allclose(motions.target_poses(source, still, relative_to_source=True), source)
    npt.assert_allclose(motions.target_poses(source, still), np.tile(source[0], (5, 1, 1)))
