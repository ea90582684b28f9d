# SPDX-License-Identifier: Apache-2.0
"""The hindsight node: scores, pictures, calibration, verdicts, and bad input."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from diagnostic_msgs.msg import DiagnosticStatus
from lifecycle_msgs.msg import State, Transition
from lifecycle_msgs.srv import ChangeState, GetState
from nav_msgs.msg import Odometry
from sensor_msgs.msg import Image
from std_msgs.msg import Header
from std_srvs.srv import Trigger

from inspatio_ros.geometry import rigid
from inspatio_ros.geometry.camera import PinholeCamera
from inspatio_ros.msg import ErrorCalibration, ImaginedFrame
from inspatio_ros.ros import qos
from inspatio_ros.ros.convert import cameras, images
from inspatio_ros.ros.convert.calibrations import to_map
from inspatio_ros.ros.convert.paths import matrix_to_pose
from inspatio_ros.ros.convert.stamps import to_ns, to_time
from inspatio_ros.ros.hindsight_node import HindsightNode
from inspatio_ros.ros.imagination_node import ImaginationNode
from inspatio_ros.ros.interface import HINDSIGHT
from support.hindsight import CAMERA, SPEED, TICK, HindsightBench, SteppedImagination
from support.ros import Graph

S = 1_000_000_000
QUICK: dict[str, Any] = {"input__observe_rate": 120.0, "match__interval": 0.0,
                         "calibration__minimum": 8, "calibration__period": 0.05}


@pytest.fixture
def make() -> Iterator[Callable[..., HindsightBench]]:
    made: list[HindsightBench] = []

    def bench(**parameters: Any) -> HindsightBench:
        made.append(HindsightBench(**{**QUICK, **parameters}))
        return made[-1]

    yield bench
    for one in made:
        one.close()


def drive(bench: HindsightBench, condition: Callable[[], object], what: str,
          before: Callable[[], object] | None = None, timeout: float = 30.0,
          tick: Callable[[], object] | None = None) -> None:
    """Tick by tick until the condition holds."""

    def step() -> object:
        if before is not None:
            before()
        (tick or bench.robot.tick)()
        # All that waits: an executor asked with another timeout begins with its first entity anew.
        for _ in range(10):
            bench.graph.executor.spin_once(timeout_sec=0.0)
        return condition()

    bench.graph.spin_until(step, timeout, what)


def test_a_view_is_scored_when_the_camera_comes_to_its_pose(make: Any) -> None:
    bench = make()
    fake = bench.fake()
    pictures: dict[str, list[Image]] = {name: [] for name in ("imagined", "truth", "error")}
    for name, held in pictures.items():
        bench.graph.node.create_subscription(Image, f"hindsight/{name}", held.append,
                                             qos.profile(50))
    bench.graph.spin_until(lambda: all(
        p.get_subscription_count() for p in bench.node._pictures.values()), 20, "the listeners")
    stamps: list[int] = []
    drive(bench, lambda: len(bench.scores) >= 5 and all(len(p) >= 5 for p in pictures.values()),
          "five scores", lambda: stamps.append(fake.send(bench.robot, 5 * TICK)))
    for score in bench.scores:
        assert to_ns(score.frame_stamp) in stamps
        assert score.horizon == pytest.approx(0.5, abs=0.15)
        assert score.distance < 0.5
        # The view is what the camera sees there, when the very frame was received.
        assert score.psnr_all > (60 if score.distance < 1e-3 else 15)
        assert math.isinf(score.psnr_all) or score.psnr_memory == pytest.approx(score.psnr_all)
        assert math.isnan(score.psnr_observed)
        assert math.isnan(score.psnr_imagined)
        assert score.coverage == 1.0
        assert score.header.frame_id == "camera_optical"
    exact = [s for s in bench.scores if s.distance < 1e-3]
    assert exact, "no frame of the very pose was received"
    assert all(s.error == 0.0 for s in exact)
    by_stamp = {to_ns(m.header.stamp): images.to_rgb(m) for m in pictures["truth"]}
    shown = {to_ns(m.header.stamp): images.to_rgb(m) for m in pictures["imagined"]}
    same = [t for t in by_stamp if t in shown and t == to_ns(exact[0].header.stamp)]
    for stamp in same:
        np.testing.assert_array_equal(by_stamp[stamp], shown[stamp])
    drive(bench, lambda: bench.level("score") == DiagnosticStatus.OK
          and int(bench.value("score", "compared") or 0) >= 5, "a good verdict",
          lambda: fake.send(bench.robot, 5 * TICK))


def test_bad_views_are_an_error_and_reset_forgets_them(make: Any) -> None:
    bench = make()
    fake = bench.fake()
    drive(bench, lambda: bench.level("score") == DiagnosticStatus.ERROR, "the verdict",
          lambda: fake.send(bench.robot, 5 * TICK, wrong=True))
    assert "odometry" in bench.message("score")
    drive(bench, lambda: bench.calibrations and bench.calibrations[-1].predicted,
          "a calibration", lambda: fake.send(bench.robot, 5 * TICK, wrong=True))
    learnt = bench.calibrations[-1]
    assert learnt.pairs >= 8
    assert sum(learnt.reliability_count) == learnt.pairs
    assert max(learnt.expected) > 0.2
    late: list[ErrorCalibration] = []
    bench.graph.node.create_subscription(ErrorCalibration, "hindsight/calibration", late.append,
                                         qos.LATCHED)
    bench.graph.spin_until(lambda: late, 20, "the calibration, for whoever comes later")
    answer = bench.graph.call(Trigger, "hindsight/reset", Trigger.Request())
    assert answer.success
    bench.graph.spin_until(lambda: bench.calibrations[-1].pairs == 0, 20, "an empty calibration")
    assert to_map(bench.calibrations[-1]) is None
    drive(bench, lambda: bench.level("score") == DiagnosticStatus.OK
          and "too few" not in bench.message("score"), "a good verdict after the reset",
          lambda: fake.send(bench.robot, 5 * TICK))


def imagine_along(bench: HindsightBench) -> Callable[[], None]:
    """The imagination node beside, with the robot's way ahead as plan; what to do each tick."""
    bench.add(ImaginationNode, model__preset="geometric", output__width=CAMERA.width,
              output__height=CAMERA.height, imagination__frame_rate=10.0,
              imagination__speed=SPEED * bench.robot.odometry_scale, imagination__horizon=1.2,
              imagination__source="frozen", input__observe_rate=120.0)
    ticks = iter(range(10**9))
    began, pause = time.monotonic(), threading.Event()

    def plan() -> None:
        number = next(ticks)
        if number % 40 == 0:
            bench.robot.plan.publish(bench.robot.path_ahead(8.0))
        # The robot drives in real time: the node is not asked for more than on a robot.
        while time.monotonic() < began + number * TICK:
            bench.graph.executor.spin_once(timeout_sec=0.0)
            pause.wait(0.002)

    return plan


def test_the_real_node_is_judged_good_and_learns_what_to_expect(make: Any) -> None:
    bench = make()
    plan = imagine_along(bench)
    drive(bench, lambda: bench.level("score") == DiagnosticStatus.OK and int(
        bench.value("score", "compared") or 0) >= 8, "scores of the imagination node", plan, 60)
    drive(bench, lambda: float(bench.value("score", "gain") or "nan") > 5, "a gain", plan, 60)
    assert float(bench.value("score", "psnr_covered")) > 25
    assert bench.level("score") == DiagnosticStatus.OK
    # What was learnt comes back with the frames.
    frames: list[ImaginedFrame] = bench.robot.frames
    drive(bench, lambda: frames and math.isfinite(frames[-1].expected_error), "expected errors",
          plan, 60)
    learnt = [to_map(c) for c in bench.calibrations]
    assert any(m is not None for m in learnt)
    low = min(m.y.min() for m in learnt if m is not None)
    high = max(m.y.max() for m in learnt if m is not None)
    assert low - 1e-6 <= frames[-1].expected_error <= high + 1e-6
    bench.graph.call(Trigger, "hindsight/reset", Trigger.Request())
    count = len(frames)
    drive(bench, lambda: any(math.isnan(f.expected_error) for f in frames[count:]),
          "frames that expect nothing again", plan, 60)


@pytest.mark.parametrize("wrong", [
    {"mount_error": rigid.from_euler(0.0, 0.9, 0.0)},  # the camera's mount is 50 degrees off
    {"odometry_scale": 3.0},
], ids=["mount", "odometry"])
def test_a_wrong_calibration_is_found_out(make: Any, wrong: dict[str, Any]) -> None:
    bench = make(robot={**wrong, "straight": True}, diagnostics__window=10)
    imagination = SteppedImagination(bench.fake(), bench.robot, 5 * TICK)
    bad = (DiagnosticStatus.WARN, DiagnosticStatus.ERROR)
    drive(bench, lambda: bench.level("score") in bad, "the verdict", imagination.step, 60)
    assert "odometry" in bench.message("score")


def test_right_poses_are_not_blamed_where_wrong_ones_are(make: Any) -> None:
    bench = make(robot={"straight": True}, diagnostics__window=10)
    imagination = SteppedImagination(bench.fake(), bench.robot, 5 * TICK)
    drive(bench, lambda: int(bench.value("score", "compared") or 0) >= 20, "twenty scores",
          imagination.step, 60)
    assert bench.level("score") == DiagnosticStatus.OK
    assert float(bench.value("score", "gain")) > 5


def test_time_that_jumps_back_clears_and_the_node_goes_on(make: Any) -> None:
    bench = make()
    fake = bench.fake()
    drive(bench, lambda: len(bench.scores) >= 3, "scores",
          lambda: fake.send(bench.robot, 5 * TICK))
    drive(bench, lambda: bench.node.hindsight.waiting > 0, "a view that waits",
          lambda: fake.send(bench.robot, 9 * TICK))
    bench.robot.now_ns -= 100 * S
    bench.robot.seconds -= 1.0
    drive(bench, lambda: any("time jumped back" in line for line in bench.logs), "the word")
    drive(bench, lambda: bench.value("score", "compared") == "0", "no score of the other time")
    assert bench.node.hindsight.waiting == 0
    count = len(bench.scores)
    drive(bench, lambda: len(bench.scores) > count + 3, "new scores",
          lambda: fake.send(bench.robot, 5 * TICK))
    assert sum("time jumped back" in line for line in bench.logs) == 1


def test_missing_inputs_are_named(make: Any) -> None:
    bench = make(input__timeout=0.3, diagnostics__stale_after=0.5)

    def says(text: str) -> Callable[[], bool]:
        return lambda: (bench.level("input") == DiagnosticStatus.WARN
                        and text in bench.message("input"))

    graph, robot = bench.graph, bench.robot
    graph.spin_until(says("/imagination/frame: nobody publishes it"), 20, "no frames")
    graph.spin_until(says("/camera/image_rect: 1 publisher, but nothing arrives"), 20, "no image")
    graph.spin_until(lambda: bench.level("score") == DiagnosticStatus.STALE, 20, "stale")
    assert "nothing compared" in bench.message("score")
    fake = bench.fake()

    def image_alone() -> None:
        robot.now_ns += round(TICK * 1e9)
        robot.image.publish(images.from_array(robot.view().image, "rgb8", robot.header()))

    drive(bench, says("/camera/camera_info: 1 publisher, but nothing"), "no camera_info",
          tick=image_alone)

    def without_pose() -> None:
        robot.send_infos(CAMERA)
        image_alone()

    drive(bench, says("no pose for the image"), "no tf", tick=without_pose)
    drive(bench, lambda: bench.level("input") == DiagnosticStatus.OK and len(bench.scores) > 0,
          "all well", lambda: fake.send(bench.robot, 5 * TICK))
    graph.spin_until(says("/camera/image_rect: nothing for"), 20, "the camera went silent")


def test_late_transforms_are_waited_for(make: Any) -> None:
    bench = make(transforms__timeout=5.0)
    fake = bench.fake()
    robot = bench.robot
    held: list[tuple[int, float]] = []

    def late() -> None:
        """An image now, its transform two images later."""
        fake.send(robot, 5 * TICK)
        robot.now_ns += round(TICK * 1e9)
        robot.seconds += TICK
        held.append((robot.now_ns, robot.seconds))
        robot.send_infos(CAMERA)
        robot.image.publish(images.from_array(robot.view().image, "rgb8", robot.header()))
        if len(held) > 2:
            now, seconds = robot.now_ns, robot.seconds
            robot.now_ns, robot.seconds = held.pop(0)
            robot.send_base()
            robot.now_ns, robot.seconds = now, seconds

    drive(bench, lambda: len(bench.scores) >= 3, "scores", tick=late)
    exact = [s for s in bench.scores if s.distance < 1e-3]
    assert all(s.error == 0.0 for s in exact)


def test_odometry_instead_of_tf(make: Any) -> None:
    bench = make(transforms__source="odometry")
    fake = bench.fake()
    robot = bench.robot
    publisher = bench.graph.node.create_publisher(Odometry, "odom", qos.STATE_OUTPUT)

    def odometry() -> None:
        fake.send(robot, 5 * TICK)
        now, seconds = robot.now_ns + round(TICK * 1e9), robot.seconds + TICK
        message = Odometry(header=Header(stamp=to_time(now), frame_id="odom"),
                           child_frame_id="base_link")
        message.pose.pose = matrix_to_pose(robot.told(seconds))
        publisher.publish(message)

    drive(bench, lambda: len(bench.scores) >= 3, "scores", odometry)


def test_images_of_another_size_and_field_of_view(make: Any) -> None:
    """The robot's camera is larger and wider than the imagined one, which is off its middle."""
    bench = make()
    fake = bench.fake()
    bench.robot.camera = PinholeCamera(240, 200, 100.0, 100.0, 119.5, 99.5)
    drive(bench, lambda: [s for s in bench.scores if s.distance < 1e-3], "scores",
          lambda: fake.send(bench.robot, 5 * TICK))
    score = next(s for s in bench.scores if s.distance < 1e-3)
    # Not 60: the pictures are resampled.
    assert 18 < score.psnr_all < 60


def test_frames_that_cannot_be_used_are_refused_by_name(make: Any) -> None:
    bench = make()
    fake = bench.fake()

    def refused(key: str, text: str) -> Callable[[], bool]:
        return lambda: bool(bench.value("input", f"dropped_{key}")) and text in bench.message(
            "input")

    drive(bench, refused("other_world", "'map'"), "another world",
          lambda: fake.send(bench.robot, 0.5, world="map"))
    drive(bench, refused("imagined_refused", "no label"), "labels that are none",
          lambda: fake.send(bench.robot, 0.5, labels=7))
    drive(bench, lambda: bench.scores, "scores all the same", lambda: fake.send(bench.robot, 0.5))


def test_a_camera_info_of_another_size_is_refused(make: Any) -> None:
    bench = make()
    bench.fake()
    robot = bench.robot

    def tick() -> None:
        robot.now_ns += round(TICK * 1e9)
        robot.send_base()
        robot.info.publish(cameras.to_info(CAMERA.resized(80, 48), robot.header()))
        robot.image.publish(images.from_array(robot.view().image, "rgb8", robot.header()))

    drive(bench, lambda: "says 80x48" in bench.message("input"), "the contradiction", tick=tick)
    assert bench.level("input") == DiagnosticStatus.WARN


def change(bench: HindsightBench, transition: int) -> bool:
    request = ChangeState.Request()
    request.transition.id = transition
    return bool(bench.graph.call(ChangeState, "hindsight/change_state", request).success)


def test_lifecycle(make: Any) -> None:
    bench = make()
    fake = bench.fake()
    drive(bench, lambda: bench.scores, "a score", lambda: fake.send(bench.robot, 5 * TICK))
    assert change(bench, Transition.TRANSITION_DEACTIVATE)
    assert not bench.graph.call(Trigger, "hindsight/reset", Trigger.Request()).success
    bench.graph.spin_until(lambda: bench.message("score") == "not active", 20, "not active")
    assert bench.level("score") == DiagnosticStatus.STALE
    assert change(bench, Transition.TRANSITION_CLEANUP)
    assert change(bench, Transition.TRANSITION_CONFIGURE)
    assert change(bench, Transition.TRANSITION_ACTIVATE)
    state = bench.graph.call(GetState, "hindsight/get_state", GetState.Request())
    assert state.current_state.id == State.PRIMARY_STATE_ACTIVE
    bench.scores.clear()
    drive(bench, lambda: bench.scores, "a score again",
          lambda: fake.send(bench.robot, 5 * TICK))


def test_the_interface_is_what_the_table_says(ros: Graph) -> None:
    # In a namespace of its own: nodes of earlier tests leave the graph when they like.
    node = HindsightNode(context=ros.context, namespace="/own")
    ros.add(node)

    def resolved(name: str) -> str:
        own = name.replace("~", "/own/hindsight") if name.startswith("~") else "/own/" + name
        return name if name.startswith("/") else own

    def topics(listed: Callable[[str, str], list[Any]]) -> dict[str, list[str]]:
        return {name: types for name, types in listed("hindsight", "/own")
                if not name.endswith(("/transition_event", "/clock", "/parameter_events",
                                      "/rosout"))}

    published = {resolved(e.name): [e.type] for e in HINDSIGHT.publishes}
    subscribed = {resolved(e.name): [e.type] for e in HINDSIGHT.subscribes
                  if e.name not in ("camera/image_rect/compressed", "odom")}
    try:
        ros.spin_until(
            lambda: topics(node.get_publisher_names_and_types_by_node) == published
            and topics(node.get_subscriber_names_and_types_by_node) == subscribed, 20,
            "just the topics of the table")
        services = dict(node.get_service_names_and_types_by_node("hindsight", "/own"))
        assert services["/own/hindsight/reset"] == ["std_srvs/srv/Trigger"]
    finally:
        node.release()
        node.destroy_node()
