# SPDX-License-Identifier: Apache-2.0
"""Bad camera, depth and tf input: a clear word, the right state, a count, and life goes on."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pytest
from lifecycle_msgs.msg import State
from sensor_msgs.msg import CameraInfo, Image

from inspatio_ros.geometry.camera import PinholeCamera
from inspatio_ros.msg import ImaginationStatus as Status
from inspatio_ros.ros import qos
from inspatio_ros.ros.convert import cameras, images
from support.imagination import CAMERA, FRAME, Bench, TestRobot, wall_depth, wall_image
from support.ros import start_node


@pytest.fixture(scope="module")
def bench() -> Iterator[Bench]:
    made = Bench(output__width=160, output__height=120, input__timeout=0.5,
                 transforms__timeout=0.3)
    yield made
    made.close()


@pytest.fixture(autouse=True)
def _fresh(bench: Bench) -> None:
    bench.restart()


Pixels = tuple[np.ndarray, str]


def send(robot: TestRobot, *, image: Pixels | None = None, depth: Pixels | None = None,
         info: CameraInfo | None = None, tf: bool = True) -> None:
    """One instant in which something differs from what a good robot sends."""
    robot.now_ns += 50_000_000
    if tf:
        robot.send_tf()
    good = cameras.to_info(CAMERA, robot.header())
    robot.info.publish(info or good)
    robot.depth_info.publish(good)
    for publisher, (pixels, encoding) in ((robot.image, image or (wall_image(), "rgb8")),
                                          (robot.depth, depth or (wall_depth(), "32FC1"))):
        publisher.publish(images.from_array(pixels, encoding, robot.header()))


def expect(bench: Bench, tick: Callable[[], None], state: int, words: str, counter: str) -> None:
    """The fault is told in status, log and diagnostics and counted; afterwards all is well."""
    robot = bench.robot
    robot.drive_until(lambda: robot.state_is(state, words), 20, f"state {state}: {words}", tick)
    robot.drive_until(lambda: any(words in line for line in bench.logs), 20, "the log", tick)

    def counted() -> bool:
        return (int(bench.value("input", f"dropped_{counter}") or 0) > 0
                and words in bench.message("input")
                and robot.status.observations_dropped > 0)

    robot.drive_until(counted, 20, f"the diagnostic and its count of {counter}", tick)
    bench.until_imagining()


def test_uncalibrated_camera(bench: Bench) -> None:
    info = CameraInfo(width=CAMERA.width, height=CAMERA.height)
    info.header.frame_id = FRAME
    expect(bench, lambda: send(bench.robot, info=info), Status.WAITING_FOR_INPUT,
           "/camera/camera_info: camera 'camera_optical' is not calibrated (K[0] = 0)",
           "uncalibrated")


def test_distorted_camera(bench: Bench) -> None:
    info = cameras.to_info(CAMERA, bench.robot.header())
    info.d = [-0.3, 0.1, 0.0, 0.0, 0.0]
    expect(bench, lambda: send(bench.robot, info=info), Status.WAITING_FOR_INPUT,
           "has lens distortion; rectify it with image_proc", "distorted")


def test_image_and_info_of_different_size(bench: Bench) -> None:
    info = cameras.to_info(CAMERA.resized(320, 240), bench.robot.header())
    expect(bench, lambda: send(bench.robot, info=info), Status.WAITING_FOR_INPUT,
           "/camera/image_rect is 160x120 but /camera/camera_info says 320x240", "size")


def test_depth_and_info_of_different_size(bench: Bench) -> None:
    small = wall_depth(CAMERA.resized(80, 60))
    expect(bench, lambda: send(bench.robot, depth=(small, "32FC1")), Status.WAITING_FOR_INPUT,
           "/depth/image_rect is 80x60 but /depth/camera_info says 160x120", "size")


def test_wrong_image_encoding(bench: Bench) -> None:
    wrong = np.zeros((120, 160), np.uint16)
    expect(bench, lambda: send(bench.robot, image=(wrong, "16UC1")), Status.WAITING_FOR_INPUT,
           "/camera/image_rect: encoding '16UC1' is a depth image's", "encoding")


def test_wrong_depth_encoding(bench: Bench) -> None:
    expect(bench, lambda: send(bench.robot, depth=(wall_image(), "rgb8")),
           Status.WAITING_FOR_INPUT, "/depth/image_rect: encoding 'rgb8' is not a depth image's",
           "encoding")


def test_image_cut_short(bench: Bench) -> None:
    def tick() -> None:
        robot = bench.robot
        robot.now_ns += 50_000_000
        robot.send_tf()
        robot.send_infos()
        short = images.from_array(wall_image(), "rgb8", robot.header())
        short.data = short.data[:1000]
        robot.image.publish(short)
        robot.depth.publish(images.from_array(wall_depth(), "32FC1", robot.header()))

    expect(bench, tick, Status.WAITING_FOR_INPUT, "the message has 1000", "layout")


def test_all_nan_depth(bench: Bench) -> None:
    nothing = np.full((120, 160), np.nan, np.float32)
    expect(bench, lambda: send(bench.robot, depth=(nothing, "32FC1")), Status.WAITING_FOR_INPUT,
           "/depth/image_rect: depth picture (32FC1, 160x120) has no valid pixel", "empty")


def test_depth_in_the_wrong_unit(bench: Bench) -> None:
    millimetres = wall_depth() * 1000
    expect(bench, lambda: send(bench.robot, depth=(millimetres, "32FC1")),
           Status.WAITING_FOR_INPUT, "set input.depth_unit", "unit")


def test_padded_rows_and_big_endian_are_just_read(bench: Bench) -> None:
    robot = bench.robot

    def tick() -> None:
        robot.now_ns += 50_000_000
        robot.send_tf()
        robot.send_infos()
        image = Image(header=robot.header(), height=120, width=160, encoding="bgr8", step=500)
        padded = np.full((120, 500), 0xAB, np.uint8)
        padded[:, :480] = wall_image()[..., ::-1].reshape(120, 480)
        image.data = padded.tobytes()
        robot.image.publish(image)
        depth = Image(header=robot.header(), height=120, width=160, encoding="16UC1", step=330,
                      is_bigendian=1)
        rows = np.zeros((120, 165), ">u2")
        rows[:, :160] = 2000
        depth.data = rows.tobytes()
        robot.depth.publish(depth)

    robot.plan_until(robot.path(), lambda: len(robot.frames) > 3, 20, "frames", tick)
    assert robot.frames[-1].observed_ratio > 0.5
    seen = bench.node.live._references[0]
    np.testing.assert_array_equal(seen.image, wall_image())
    assert np.nanmedian(seen.depth) == 2.0


def test_depth_without_tf(bench: Bench) -> None:
    expect(bench, lambda: send(bench.robot, tf=False), Status.WAITING_FOR_INPUT,
           "no pose for the image", "tf_unknown_frame")


def test_late_tf_is_waited_for(bench: Bench) -> None:
    """The transform of each image comes 100 ms of steady time after it: nothing is lost."""
    robot = bench.robot
    due: list[int] = []

    def tick() -> None:
        send(robot, tf=False)
        due.append(robot.now_ns)
        if len(due) > 3:
            robot.send_tf(due.pop(0))

    robot.plan_until(robot.path(), lambda: len(robot.frames) > 5, 20, "frames with late tf", tick)
    assert int(bench.value("input", "dropped_tf_too_new") or 0) == 0


def test_tf_that_stops(bench: Bench) -> None:
    bench.until_imagining()
    expect(bench, lambda: send(bench.robot, tf=False), Status.DEGRADED, "no pose for the image",
           "tf_too_new")


def test_image_without_depth_for_seconds(bench: Bench) -> None:
    robot = bench.robot
    bench.until_imagining()

    def tick() -> None:
        robot.now_ns += 50_000_000
        robot.send_tf()
        robot.send_infos()
        robot.image.publish(images.from_array(wall_image(), "rgb8", robot.header()))

    robot.drive_until(lambda: robot.state_is(Status.DEGRADED, "/depth/image_rect: nothing for"),
                      20, "the silent depth", tick)
    robot.drive_until(
        lambda: "/depth/image_rect: nothing for" in bench.message("input")
        and int(bench.value("input", "unmatched_image")) > 0, 20, "its diagnostic", tick)
    bench.until_imagining()


def test_stamps_that_never_meet(bench: Bench) -> None:
    robot = bench.robot

    def tick() -> None:
        robot.now_ns += 200_000_000
        robot.send_tf()
        robot.send_infos()
        robot.image.publish(images.from_array(wall_image(), "rgb8", robot.header()))
        robot.depth.publish(images.from_array(
            wall_depth(), "32FC1", robot.header(robot.now_ns + 100_000_000)))

    words = "do not come in pairs: nearest stamps are 0.100 s apart; raise input.max_stamp_gap"
    robot.drive_until(lambda: robot.state_is(Status.WAITING_FOR_INPUT, words), 20, words, tick)
    robot.drive_until(lambda: words in bench.message("input"), 20, "diagnostic", tick)
    bench.until_imagining()


def test_two_cameras_on_one_topic(bench: Bench) -> None:
    robot = bench.robot
    bench.until_imagining()
    other = bench.graph.node.create_publisher(Image, "camera/image_rect", qos.profile(2))

    def tick() -> None:
        robot.tick()
        other.publish(images.from_array(wall_image(), "rgb8", robot.header(
            robot.now_ns + 7, "other_optical")))

    try:
        expect(bench, tick, Status.DEGRADED,
               "images of camera 'other_optical' among those of 'camera_optical'", "other_camera")
    finally:
        bench.graph.node.destroy_publisher(other)
    assert robot.frames[-1].observed_ratio > 0.5


def test_the_camera_changes_its_size_while_running(bench: Bench) -> None:
    """No fault: a driver set to another mode sends another calibration with its pictures."""
    robot = bench.robot
    bench.until_imagining()
    larger = PinholeCamera(200, 150, 150.0, 150.0, 99.5, 74.5)

    def tick() -> None:
        robot.now_ns += 50_000_000
        robot.send_tf()
        robot.send_infos(larger)
        robot.send_pair(larger)

    robot.drive_until(lambda: bench.node.live._references
                      and bench.node.live._references[0].camera.size == (200, 150), 20,
                      "the new size", tick)
    count = len(robot.frames)
    robot.drive_until(lambda: len(robot.frames) > count + 3, 20, "frames", tick)


def test_invalid_tf_is_counted(bench: Bench) -> None:
    robot = bench.robot

    def tick() -> None:
        robot.send_tf(child="loose", parent="loose")
        robot.tick()

    robot.drive_until(lambda: int(bench.value("input", "dropped_tf_invalid") or 0) > 0, 20,
                      "the count", tick)
    bench.until_imagining()


def test_after_everything_the_node_is_still_the_same(bench: Bench) -> None:
    bench.until_imagining()
    assert bench.state() == State.PRIMARY_STATE_ACTIVE
    assert int(bench.value("input", "dropped_worker_error") or 0) == 0


@pytest.mark.parametrize(("name", "value", "words"), [
    ("input.fuse_raet", 4.0, "no parameter 'input.fuse_raet': did you mean 'input.fuse_rate'"),
    ("memory.capacity", 3, "memory.capacity: 3 is outside 1000 .. 1e+08 points")])
def test_a_wrong_parameter_ends_the_program_with_a_word(name: str, value: object,
                                                        words: str) -> None:
    with start_node("imagination", parameters={name: value}) as process:
        assert process.wait_for_exit(60) == 2
        assert words in process.output
        assert "Traceback" not in process.output
