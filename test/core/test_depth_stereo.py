# SPDX-License-Identifier: Apache-2.0
"""Stereo: rectification from camera_info, metric depth, both conventions, real pictures."""

from __future__ import annotations

import json

import cv2
import numpy as np
import pytest

from inspatio_ros.depth.rectification import CameraCalibration, Rectifier
from inspatio_ros.depth.stereo import (
    StereoDepth,
    StereoOptions,
    baseline_of,
    geometry_of,
    grey,
)
from inspatio_ros.geometry import rigid
from inspatio_ros.geometry.camera import PinholeCamera
from inspatio_ros.worlds.street import street
from inspatio_ros.worlds.world import right_camera
from support.data import data_dir

CAMERA = PinholeCamera(400, 240, 300.0, 300.0, 199.5, 119.5)
BASELINE = 0.4
WORLD = street()
LEFT = WORLD.drive(4.0, [3.0])[0] @ rigid.from_rotation(np.eye(3), (0, 0, 1.5)) @ (
    rigid.BODY_FROM_OPTICAL)
OPTIONS = StereoOptions(min_depth=2.0, max_depth=60.0)


def pair(camera: PinholeCamera = CAMERA,
         right: PinholeCamera | None = None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Left picture, right picture and true left depth."""
    one = WORLD.render(camera, LEFT, 3.0, samples=2)
    two = WORLD.render(right or camera, right_camera(LEFT, BASELINE), 3.0, samples=2)
    return one.image, two.image, one.depth


def assert_good(depth: np.ndarray, truth: np.ndarray, coverage: float = 0.75,
                share_wrong: float = 0.05, median: float = 0.02,
                farthest: float = 40.0) -> None:
    near = truth < farthest
    known = near & (depth > 0)
    relative = np.abs(depth - truth)[known] / truth[known]
    assert known.sum() > coverage * near.sum()
    assert np.median(relative) < median
    assert (relative > 0.1).mean() < share_wrong


def test_rectified_pair_gives_metric_depth() -> None:
    left, right, truth = pair()
    stereo = StereoDepth(CameraCalibration.of(CAMERA), CameraCalibration.of(CAMERA, BASELINE),
                         OPTIONS, rectified=True)
    depth = stereo.depth(left, right)
    assert depth.dtype == np.float32
    assert depth.shape == (240, 400)
    assert stereo.camera == CAMERA
    assert_good(depth, truth)
    assert np.isnan(depth[np.isnan(truth)]).mean() > 0.9  # the sky has no depth


def test_half_scale_keeps_size_and_metric_scale() -> None:
    left, right, truth = pair()
    options = StereoOptions(min_depth=2.0, max_depth=60.0, scale=0.5, paths=3)
    stereo = StereoDepth(CameraCalibration.of(CAMERA), CameraCalibration.of(CAMERA, BASELINE),
                         options, rectified=True)
    # Half a pixel of the small pictures is 10 % of the depth 12 m away.
    assert_good(stereo.depth(left, right), truth, share_wrong=0.08, median=0.025, farthest=12.0)


def test_right_camera_with_its_own_principal_point() -> None:
    right_pinhole = PinholeCamera(400, 240, 300.0, 300.0, 214.0, 119.5)
    left, right, truth = pair(right=right_pinhole)
    stereo = StereoDepth(CameraCalibration.of(CAMERA),
                         CameraCalibration.of(right_pinhole, BASELINE), OPTIONS, rectified=True)
    assert_good(stereo.depth(left, right), truth)


def test_both_conventions_of_the_right_frame() -> None:
    left, with_tx = CameraCalibration.of(CAMERA), CameraCalibration.of(CAMERA, BASELINE)
    in_tf = rigid.from_rotation(np.eye(3), (BASELINE, 0.0, 0.0))
    assert baseline_of(left, with_tx) == pytest.approx(BASELINE)
    assert baseline_of(left, left, in_tf) == pytest.approx(BASELINE)
    assert baseline_of(left, with_tx, in_tf) == pytest.approx(BASELINE)
    assert baseline_of(left, with_tx, np.eye(4)) == pytest.approx(BASELINE)  # in left's frame
    # KITTI's color cameras: both P are relative to a third camera.
    assert baseline_of(CameraCalibration.of(CAMERA, -0.06), CameraCalibration.of(CAMERA, 0.47)
                       ) == pytest.approx(0.53)


@pytest.mark.parametrize(("left", "right", "tf", "message"), [
    (0.0, 0.0, None, "no baseline"),
    (0.0, -0.4, None, "swapped"),
    (0.0, 0.4, (0.2, 0.0, 0.0), "0.4000 m in the right camera_info's P but 0.2000 m in tf"),
    (0.0, 0.0, (0.0, 0.3, 0.0), "side by side"),
])
def test_impossible_baselines_are_explained(left: float, right: float,
                                            tf: tuple[float, float, float] | None,
                                            message: str) -> None:
    transform = None if tf is None else rigid.from_rotation(np.eye(3), tf)
    with pytest.raises(ValueError, match=message):
        baseline_of(CameraCalibration.of(CAMERA, left), CameraCalibration.of(CAMERA, right),
                    transform)


def test_cameras_that_are_no_pair_are_refused() -> None:
    other = CameraCalibration.of(PinholeCamera(400, 240, 310.0, 310.0, 199.5, 119.5), BASELINE)
    with pytest.raises(ValueError, match="not of one rectified pair"):
        geometry_of(CameraCalibration.of(CAMERA), other, CAMERA)
    small = CameraCalibration.of(CAMERA.resized(200, 120), BASELINE)
    with pytest.raises(ValueError, match="400x240, right 200x120"):
        StereoDepth(CameraCalibration.of(CAMERA), small, rectified=True)


@pytest.mark.parametrize("values", [
    {"paths": 5}, {"scale": 0.0}, {"block_size": 4}, {"min_depth": 3.0, "max_depth": 2.0}])
def test_impossible_options_are_refused(values: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"stereo .*(not|empty)"):
        StereoOptions(**values)  # type: ignore[arg-type]


def test_pictures_of_another_size_are_refused() -> None:
    stereo = StereoDepth(CameraCalibration.of(CAMERA), CameraCalibration.of(CAMERA, BASELINE),
                         OPTIONS, rectified=True)
    good, wrong = np.zeros((240, 400), np.uint8), np.zeros((240, 401), np.uint8)
    with pytest.raises(ValueError, match=r"right picture.*400x240.*\[240, 401\]"):
        stereo.depth(good, wrong)


def distorting_calibration(model: str, coefficients: tuple[float, ...], turn: float,
                           baseline: float) -> CameraCalibration:
    """A raw camera, slightly turned and off centre, that rectifies to CAMERA."""
    matrix = np.array([[310.0, 0, 205.0], [0, 308.0, 117.0], [0, 0, 1]])
    rectification = rigid.from_euler(turn, -turn, turn)[:3, :3]
    projection = CameraCalibration.of(CAMERA, baseline).projection
    return CameraCalibration(400, 240, model, coefficients, matrix, rectification, projection)


def raw_picture(rectified_wide: np.ndarray, wide: PinholeCamera,
                calibration: CameraCalibration) -> np.ndarray:
    """What the raw camera would have seen, sampled from a wider rectified picture."""
    grid = np.stack(np.meshgrid(np.arange(400.0), np.arange(240.0)), -1).reshape(-1, 1, 2)
    fisheye = calibration.distortion_model == "equidistant"
    project = cv2.fisheye.projectPoints if fisheye else cv2.projectPoints
    focal = np.diag(calibration.matrix)[:2]
    rays = np.zeros((len(grid), 1, 3))
    rays[..., 2] = 1.0
    for _ in range(30):  # invert the distortion by fixed point iteration
        args = (rays, np.zeros(3), np.zeros(3), calibration.matrix,
                np.array(calibration.distortion))
        rays[..., :2] += (grid - project(*args)[0].reshape(grid.shape)) / focal
    pixels, _ = wide.project(rays @ calibration.rectification.T)
    maps = pixels.reshape(240, 400, 2).astype(np.float32)
    return cv2.remap(rectified_wide, maps, None, cv2.INTER_CUBIC)


@pytest.mark.parametrize(("model", "coefficients"), [
    ("plumb_bob", (-0.25, 0.08, 0.001, -0.0008, 0.0)),
    ("rational_polynomial", (-0.2, 0.05, 0.0005, 0.0, 0.01, 0.02, 0.005, 0.0)),
    ("equidistant", (-0.02, 0.01, -0.003, 0.0)),
])
def test_raw_pair_is_rectified_first(model: str, coefficients: tuple[float, ...]) -> None:
    wide = PinholeCamera(800, 560, 300.0, 300.0, 399.5, 279.5)
    one = WORLD.render(wide, LEFT, 3.0, samples=2)
    two = WORLD.render(wide, right_camera(LEFT, BASELINE), 3.0, samples=2)
    left = distorting_calibration(model, coefficients, 0.01, 0.0)
    right = distorting_calibration(model, coefficients, -0.008, BASELINE)
    raw_left, raw_right = (raw_picture(view.image, wide, calibration)
                           for view, calibration in ((one, left), (two, right)))
    stereo = StereoDepth(left, right, OPTIONS, rectified=False)
    depth = stereo.depth(raw_left, raw_right)
    camera = stereo.camera
    assert depth.shape == (camera.height, camera.width)
    truth = WORLD.render(camera, LEFT, 3.0)
    assert_good(depth, truth.depth, share_wrong=0.08)
    seen = stereo.left(raw_left)
    inner = np.abs(seen.astype(float) - truth.image)[20:-20, 20:-20].mean()
    assert inner < 8
    # K on the raw picture, as if there were no distortion, is much worse.
    naive = StereoDepth(CameraCalibration.of(CAMERA), CameraCalibration.of(CAMERA, BASELINE),
                        OPTIONS, rectified=True).depth(raw_left, raw_right)
    direct = WORLD.render(CAMERA, LEFT, 3.0).depth
    both = (naive > 0) & (direct < 40)
    good = (np.abs(naive - direct)[both] < 0.1 * direct[both]).sum() / (direct < 40).sum()
    assert good < 0.6


def test_rectifier_checks_the_size_and_the_calibration() -> None:
    rectifier = Rectifier(CameraCalibration.of(CAMERA))
    assert rectifier.camera == CAMERA
    assert rectifier.valid.all()
    picture = np.random.default_rng(0).integers(0, 255, (240, 400, 3), np.uint8)
    np.testing.assert_array_equal(rectifier(picture), picture)
    with pytest.raises(ValueError, match="picture is 400x200 but camera_info says 400x240"):
        rectifier(picture[:200])
    for change, message in (
            ({"matrix": np.zeros((3, 3))}, "uncalibrated"),
            ({"distortion_model": "kannala", "distortion": (0.1,)}, "'kannala' is not supported"),
            ({"matrix": np.full((3, 3), np.nan)}, "not finite"),
            ({"distortion": (0.1,) * 6}, "too many"),
            ({"projection": np.diag([-1.0, 1.0, 1.0, 0.0])[:3]}, "no focal length")):
        values = {**vars(CameraCalibration.of(CAMERA)), **change}
        with pytest.raises(ValueError, match=message):
            CameraCalibration(**values)


def test_motorcycle_true_disparity() -> None:
    """Real picture pair with dense ground truth: at most 5 % of the pixels off by 2 or more."""
    folder = data_dir("motorcycle_stereo")
    left, right = (cv2.imread(str(folder / f"im{i}.png"))[..., ::-1] for i in (0, 1))
    truth = cv2.imread(str(folder / "disp0.png"), -1).astype(np.float32) / 256
    seen = cv2.imread(str(folder / "mask0nocc.png"), 0) == 255
    cameras = [PinholeCamera(741, 497, 999.421, 999.421, cx, 252.932)
               for cx in (294.182, 326.96)]
    stereo = StereoDepth(CameraCalibration.of(cameras[0]),
                         CameraCalibration.of(cameras[1], 0.193001),
                         StereoOptions(min_depth=1.5, max_depth=8.0), rectified=True)
    disparity = stereo.matcher.disparity(grey(left), grey(right))
    known = seen & (truth > 0) & np.isfinite(disparity)
    assert known.sum() > 0.88 * (seen & (truth > 0)).sum()
    assert (np.abs(disparity - truth)[known] > 2).mean() < 0.05
    depth = stereo.depth(left, right)
    true_depth = 999.421 * 0.193001 / (truth + 32.778)
    known &= depth > 0
    assert np.mean(np.abs(depth - true_depth)[known] / true_depth[known]) < 0.015


def test_kitti_depth_predicts_the_next_frame() -> None:
    """Depth of a real street is metric: warped by the true motion it predicts the next picture."""
    folder = data_dir("kitti_stereo_06")
    calibration = json.loads((folder / "calib.json").read_text())
    camera = PinholeCamera(1226, 370, *calibration["cameras"]["left"]["K"])
    stereo = StereoDepth(CameraCalibration.of(camera),
                         CameraCalibration.of(camera, calibration["baseline_m"]),
                         StereoOptions(min_depth=4.0, scale=0.5), rectified=True)
    rows = np.loadtxt(folder / "frames.csv", delimiter=",", skiprows=1,
                      usecols=(4, 5, 6, 7, 8, 9, 10))
    poses = [rigid.from_quaternion(row[3:], row[:3]) for row in rows[25:27]]
    left = [cv2.imread(str(folder / f"left/{i:04d}.jpg"), 0) for i in (25, 26)]
    right = cv2.imread(str(folder / "right/0025.jpg"), 0)
    depth = stereo.depth(left[0], right)
    assert (depth > 0).mean() > 0.6

    def psnr(scale: float) -> float:
        points = rigid.transform_points(rigid.invert(poses[1]) @ poses[0],
                                        camera.unproject(depth * np.float32(scale)))
        pixels, _ = camera.project(points)
        inside = ((pixels >= 0) & (pixels <= np.array(camera.size) - 1)).all(-1)
        warped = cv2.remap(left[1], np.nan_to_num(pixels, nan=-1).astype(np.float32), None,
                           cv2.INTER_LINEAR)
        seen, then = warped[inside].astype(float), left[0][inside].astype(float)
        gain, offset = np.polyfit(seen, then, 1)  # the exposure changes between frames
        error = seen * gain + offset - then
        return float(10 * np.log10(255**2 / (error**2).mean()))

    assert psnr(1.0) > 22.0
    assert psnr(1.0) > max(psnr(0.9), psnr(1.1)) + 1.5


def test_kitti_raw_distorted_pair_agrees_with_the_lidar() -> None:
    """A raw pair whose P belongs to a smaller picture: rectified, matched, checked by a lidar."""
    folder = data_dir("kitti_residential_bag") / "bag"
    from rosbags.highlevel import AnyReader

    wanted = {f"/{side}/{leaf}" for side in ("left", "right")
              for leaf in ("camera_info", "image_raw/compressed")} | {"/velodyne_points"}
    base_from: dict[str, np.ndarray] = {}
    newest: dict[str, object] = {}
    with AnyReader([folder]) as reader:
        connections = [c for c in reader.connections if c.topic in wanted | {"/tf_static"}]
        for connection, _, data in reader.messages(connections):
            message = reader.deserialize(data, connection.msgtype)
            if connection.topic == "/tf_static":
                for link in message.transforms:
                    t, q = link.transform.translation, link.transform.rotation
                    base_from[link.child_frame_id] = rigid.from_quaternion(
                        (q.x, q.y, q.z, q.w), (t.x, t.y, t.z))
                continue
            newest[connection.topic] = message
            if len(newest) == len(wanted) and (
                    newest["/left/image_raw/compressed"].header.stamp
                    == newest["/right/image_raw/compressed"].header.stamp):
                break
    calibrations = [CameraCalibration(
        info.width, info.height, info.distortion_model, tuple(info.d), info.k, info.r, info.p)
        for info in (newest["/left/camera_info"], newest["/right/camera_info"])]
    pictures = [cv2.imdecode(newest[f"/{side}/image_raw/compressed"].data, 0)
                for side in ("left", "right")]
    options = StereoOptions(min_depth=4.0)
    stereo = StereoDepth(*calibrations, options, rectified=False)
    assert abs(stereo.camera.width - 1242) < 12  # KITTI's own cut is 1242 x 375
    assert abs(stereo.camera.height - 375) < 12
    depth = stereo.depth(*pictures)
    in_tf = rigid.invert(base_from["left_optical"]) @ base_from["right_optical"]
    assert baseline_of(*calibrations, in_tf) == pytest.approx(stereo.matcher.geometry.baseline)

    cloud = newest["/velodyne_points"]
    points = np.frombuffer(cloud.data, np.uint8).reshape(-1, cloud.point_step)[:, :12].copy()
    points = points.view("<f4").astype(float)
    camera_from_lidar = rigid.invert(base_from["left_optical"]) @ base_from["velodyne"]
    pixels, z = stereo.camera.project(rigid.transform_points(camera_from_lidar, points))
    size = np.array(stereo.camera.size)
    inside = ((pixels >= 0) & (pixels <= size - 1)).all(-1) & (z < 40)
    column, row = np.rint(pixels[inside]).astype(int).T
    matched = depth[row, column]
    known = matched > 0
    assert known.sum() > 2000
    relative = np.abs(matched - z[inside])[known] / z[inside][known]
    assert np.median(relative) < 0.06
