# SPDX-License-Identifier: Apache-2.0
"""The imagined camera and the reference planner: a closed loop over real DDS, and bad input."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path as FilePath
from typing import Any

import numpy as np
import pytest
from geometry_msgs.msg import Twist, TwistStamped
from lifecycle_msgs.msg import State
from nav_msgs.msg import Odometry, Path
from rclpy.parameter import Parameter
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CameraInfo, Image
from std_msgs.msg import Header, String
from std_srvs.srv import SetBool, Trigger
from tf2_msgs.msg import TFMessage

# Loads torch in this thread: see support.imagination.
import inspatio_ros.imagination.backends  # noqa: F401
from inspatio_ros.geometry import rigid
from inspatio_ros.planning.closed_loop import End
from inspatio_ros.planning.scenery import StreetScenery
from inspatio_ros.ros import qos
from inspatio_ros.ros.convert import cameras, images
from inspatio_ros.ros.convert.paths import pose_to_matrix, to_path, transform_to_matrix
from inspatio_ros.ros.convert.stamps import to_ns
from inspatio_ros.ros.imagined_camera_node import CLOCK_START_S, ImaginedCameraNode
from inspatio_ros.ros.reference_planner_node import ReferencePlannerNode
from support.driven import write_drive
from support.ros import Graph, graph, start_node

SMALL: dict[str, Any] = {"camera.width": 64, "camera.height": 40, "scenery.seed": 1,
                         "loop.lockstep": True, "loop.rate": 0.0}
START_NS = round(CLOCK_START_S * 1e9)
TOPICS: dict[str, type] = {
    "camera/image_rect": Image, "camera/camera_info": CameraInfo, "depth/image_rect": Image,
    "odom": Odometry, "/tf": TFMessage, "/clock": Clock, "imagined_camera/provenance": Image}


def stamp_of(message: Any) -> int:
    if isinstance(message, Clock):
        return to_ns(message.clock)
    if isinstance(message, TFMessage):
        return to_ns(message.transforms[0].header.stamp)
    return to_ns(message.header.stamp)


class Bench:
    """The node under test, everything it published, and somebody who commands it."""

    def __init__(self, ros: Graph, values: dict[str, Any]) -> None:
        self.ros = ros
        self.got: dict[str, list[Any]] = {}
        for topic, kind in TOPICS.items():
            self.listen(topic, kind, qos.profile(100))
        self.listen("/tf_static", TFMessage, qos.TF_STATIC)
        self.listen("imagined_camera/episode", String, qos.LATCHED)
        self.listen("imagined_camera/route", Path, qos.LATCHED)
        self.node = ImaginedCameraNode(context=ros.context, parameter_overrides=[
            Parameter(name, value=value) for name, value in {**SMALL, **values}.items()])
        ros.add(self.node)
        plain = values.get("loop.command") == "twist"
        self.commands = ros.node.create_publisher(Twist if plain else TwistStamped, "cmd_vel",
                                                  qos.profile(1))
        self.plans = ros.node.create_publisher(Path, "plan", qos.PLAN_INPUT)

    def listen(self, topic: str, kind: type, profile: Any) -> None:
        held = self.got.setdefault(topic, [])
        self.ros.node.create_subscription(kind, topic, held.append, profile)

    def wait(self, condition: Callable[[], object], what: str, timeout_s: float = 30.0) -> None:
        self.ros.spin_until(condition, timeout_s, what)

    def send(self, speed: float, yaw_rate: float = 0.0) -> None:
        twist = Twist()
        twist.linear.x, twist.angular.z = speed, yaw_rate
        kind = self.commands.msg_type
        self.commands.publish(twist if kind is Twist else TwistStamped(twist=twist))

    def ready(self) -> None:
        """The first picture is there, and the node hears commands."""
        self.wait(lambda: all(self.got[topic] for topic in TOPICS), "the first moment")
        self.wait(lambda: self.commands.get_subscription_count()
                  or self.plans.get_subscription_count(), "a reader of the commands")

    def step(self, speed: float, yaw_rate: float = 0.0) -> Odometry:
        """One command in lockstep, and the odometry that answers it."""
        before = stamp_of(self.got["odom"][-1])
        self.send(speed, yaw_rate)
        self.wait(lambda: stamp_of(self.got["odom"][-1]) > before, "a step")
        return self.got["odom"][-1]

    def call(self, service: str, data: bool | None = None) -> Any:
        kind = Trigger if data is None else SetBool
        request = Trigger.Request() if data is None else SetBool.Request(data=data)
        return self.ros.call(kind, f"imagined_camera/{service}", request)

    def of_stamp(self, stamp_ns: int) -> dict[str, Any]:
        """The message of each topic with this stamp."""
        def found() -> dict[str, Any]:
            return {topic: next((m for m in reversed(self.got[topic])
                                 if stamp_of(m) == stamp_ns), None) for topic in TOPICS}
        self.wait(lambda: all(m is not None for m in found().values()), "all of one stamp")
        return found()

    def close(self) -> None:
        self.node.release()
        self.node.destroy_node()


@pytest.fixture
def bench(request: pytest.FixtureRequest) -> Iterator[Bench]:
    values = getattr(request, "param", {})
    with graph() as ros:
        made = Bench(ros, values)
        try:
            made.ready()
            yield made
        finally:
            made.close()


def test_what_is_published_is_of_one_moment_of_one_world(bench: Bench) -> None:
    odometry = bench.step(1.0)
    got = bench.of_stamp(stamp_of(odometry))
    seconds = (stamp_of(odometry) - START_NS) * 1e-9
    assert seconds == pytest.approx(0.1)
    world_from_base = pose_to_matrix(odometry.pose.pose)
    transform = got["/tf"].transforms[0]
    assert (transform.header.frame_id, transform.child_frame_id) == ("odom", "base_link")
    np.testing.assert_allclose(transform_to_matrix(transform.transform), world_from_base)
    bench.wait(lambda: bench.got["/tf_static"], "static tf")
    mount = bench.got["/tf_static"][-1].transforms[0]
    assert mount.child_frame_id == got["camera/image_rect"].header.frame_id
    pose = world_from_base @ transform_to_matrix(mount.transform)
    street = StreetScenery()
    street.reset(1)
    view = street.look(cameras.to_camera(got["camera/camera_info"], "info"), pose, seconds)
    np.testing.assert_array_equal(images.to_rgb(got["camera/image_rect"]), view.image)
    np.testing.assert_array_equal(images.to_depth(got["depth/image_rect"]), view.depth)
    assert np.unique(images.to_array(got["imagined_camera/provenance"])).tolist() == [255]
    (x, y), heading = street.route.at(bench.node.loop.log.first_station)[0], 1
    first = bench.got["imagined_camera/route"][-1].poses[0].pose.position
    assert (first.x, first.y) == pytest.approx((x, y), abs=0.01)
    assert heading


def test_in_lockstep_each_command_is_one_step(bench: Bench) -> None:
    for number in range(1, 9):
        odometry = bench.step(1.0)
        assert stamp_of(odometry) == START_NS + number * 100_000_000
    # The acceleration's limit is 1.5 m/s^2: 0.67 s to full speed.
    assert odometry.twist.twist.linear.x == pytest.approx(1.0)
    start, end = (pose_to_matrix(bench.got["odom"][i].pose.pose) for i in (0, -1))
    driven = rigid.invert(start) @ end
    assert driven[0, 3] == pytest.approx(0.8 - 1.0 / 3.0, abs=0.02)
    # Without a command time stands still, and the moment is sent again for whoever lost it.
    count = len(bench.got["camera/image_rect"])
    bench.wait(lambda: len(bench.got["camera/image_rect"]) > count, "the moment again")
    assert stamp_of(bench.got["camera/image_rect"][-1]) == stamp_of(odometry)


@pytest.mark.parametrize("bench", [{"loop.lockstep": False, "loop.rate": 2.0,
                                    "loop.command": "twist"}], indirect=True)
def test_freely_it_runs_no_faster_than_asked_and_brakes_without_commands(bench: Bench) -> None:
    before, began = stamp_of(bench.got["odom"][-1]), time.monotonic()
    bench.wait(lambda: (bench.send(1.0), bench.got["odom"][-1].twist.twist.linear.x > 0.5)[1],
               "speed")
    elapsed = time.monotonic() - began
    assert (stamp_of(bench.got["odom"][-1]) - before) * 1e-9 <= 2.0 * elapsed + 0.5
    bench.wait(lambda: bench.got["odom"][-1].twist.twist.linear.x == 0.0, "standing still")
    (changed,) = bench.node.set_parameters([Parameter("loop.rate", value=0.0)])
    assert changed.successful


def test_pause_step_and_reset(bench: Bench) -> None:
    refused = bench.call("step")
    assert (refused.success, "not paused" in refused.message) == (False, True)
    first = images.to_rgb(bench.got["camera/image_rect"][0])
    bench.step(1.0)
    assert bench.call("set_paused", True).success
    before = stamp_of(bench.got["odom"][-1])
    bench.send(1.0)
    bench.ros.spin_for(0.3)
    assert stamp_of(bench.got["odom"][-1]) == before
    answer = bench.call("step")
    assert (answer.success, answer.message) == (True, "0.200 s, running")
    assert bench.call("set_paused", False).success
    again = bench.call("reset")
    assert again.success
    assert "episode 2 begins, seed 1" in again.message
    bench.wait(lambda: stamp_of(bench.got["/clock"][-1]) == START_NS, "time at its beginning")
    bench.wait(lambda: stamp_of(bench.got["camera/image_rect"][-1]) == START_NS, "its picture")
    np.testing.assert_array_equal(images.to_rgb(bench.got["camera/image_rect"][-1]), first)


@pytest.mark.parametrize("bench", [{"loop.duration": 0.3}], indirect=True)
def test_an_episode_ends_with_its_scores_and_the_same_commands_end_the_same(bench: Bench) -> None:
    ends = []
    for _ in range(2):
        for _ in range(3):
            odometry = bench.step(1.5, 0.4)
        ends.append(pose_to_matrix(odometry.pose.pose))
        bench.wait(lambda: len(bench.got["imagined_camera/episode"]) == len(ends), "the episode")
        assert bench.call("reset").success
    np.testing.assert_array_equal(*ends)
    one, two = (json.loads(m.data) for m in bench.got["imagined_camera/episode"])
    assert one == two
    assert (one["end"], one["seconds"]) == ("completed", 0.3)
    assert 0.0 < one["scores"]["pdm_score"] <= 1.0
    for _ in range(3):
        bench.step(1.0)
    bench.call("set_paused", True)
    refused = bench.call("step")
    assert (refused.success, "has ended" in refused.message) == (False, True)


def test_what_is_no_command_is_counted(bench: Bench) -> None:
    bench.send(math.nan)
    bench.wait(lambda: bench.node.drops["command_refused"] == 1, "the refusal")
    assert bench.node.loop.tick.index == 0
    bench.step(1.0)


@pytest.mark.parametrize("bench", [{"loop.command": "plan", "loop.lockstep": False,
                                    "loop.rate": 0.0}], indirect=True)
def test_a_plan_is_driven_to_its_end(bench: Bench) -> None:
    start = pose_to_matrix(bench.got["odom"][-1].pose.pose)
    ahead = np.stack([rigid.from_euler(0, 0, 0, (x, 0.0, 0.0)) for x in np.linspace(0, 2.0, 9)])
    lost = to_path(ahead, [0] * 9, Header(frame_id="moon"))
    bench.wait(lambda: (bench.plans.publish(lost), bench.node.drops["plan_refused"])[1],
               "the refusal")
    plan = to_path(start @ ahead, [0] * 9, Header(frame_id="odom"))

    def standing_ahead() -> bool:
        newest = bench.got["odom"][-1]
        way = rigid.invert(start) @ pose_to_matrix(newest.pose.pose)
        return bool(way[0, 3] > 1.6 and newest.twist.twist.linear.x < 0.05)

    bench.plans.publish(plan)
    bench.wait(standing_ahead, "the end of the plan", 60.0)
    way = rigid.invert(start) @ pose_to_matrix(bench.got["odom"][-1].pose.pose)
    assert way[0, 3] == pytest.approx(2.0, abs=0.3)
    assert abs(way[1, 3]) < 0.1


def test_through_a_recording_whoever_turns_away_ends_unsupported(tmp_path: FilePath) -> None:
    bag = write_drive(tmp_path / "bag")
    with graph() as ros:
        bench = Bench(ros, {"scenery.bag": str(bag), "loop.min_coverage": 0.5})
        try:
            bench.ready()
            labels = images.to_array(bench.got["imagined_camera/provenance"][0])
            assert set(np.unique(labels)) <= {170, 85}
            for _ in range(40):  # 4 s of turning: each command after the answer to the last
                bench.step(0.0, -0.9)
                assert bench.node.loop.tick is not None
                if bench.node.loop.tick.end is not End.RUNNING:
                    break
            bench.wait(lambda: bench.got["imagined_camera/episode"], "the end")
            content = json.loads(bench.got["imagined_camera/episode"][-1].data)
            assert content["end"] == "unsupported"
            assert content["scores"]["pdm_score"] == 0.0
        finally:
            bench.close()


def test_a_recording_that_is_not_there_is_named(tmp_path: FilePath) -> None:
    with graph() as ros:
        node = ImaginedCameraNode(context=ros.context, parameter_overrides=[
            Parameter("scenery.bag", value=str(tmp_path / "nothing"))])
        ros.add(node)
        try:
            ros.spin_until(lambda: node.fault, 30.0, "the fault")
            assert f"{tmp_path / 'nothing'}: no such recording" in node.fault
            state = node._state_machine.current_state[0]
            assert state == State.PRIMARY_STATE_UNCONFIGURED
            answer = ros.call(Trigger, "imagined_camera/reset", Trigger.Request())
            assert (answer.success, answer.message) == (False, "not active")
        finally:
            node.release()
            node.destroy_node()


def test_the_reference_planner_drives_it_by_itself() -> None:
    with graph() as ros:
        planner = ReferencePlannerNode(context=ros.context, cli_args=[
            "--ros-args", "-r", "route:=imagined_camera/route"])
        ros.add(planner)
        bench = Bench(ros, {"loop.duration": 2.5, "camera.width": 96, "camera.height": 60})
        try:
            bench.wait(lambda: bench.got["imagined_camera/episode"], "the end", 90.0)
            content = json.loads(bench.got["imagined_camera/episode"][-1].data)
            assert content["end"] == "completed"
            assert content["gained_m"] > 0.5
            first = bench.got["odom"][-1]
            assert bench.call("reset").success
            bench.wait(lambda: len(bench.got["imagined_camera/episode"]) == 2, "the second", 90.0)
            assert stamp_of(bench.got["odom"][-1]) == stamp_of(first)
            assert planner.drops.total == 0
        finally:
            planner.release()
            planner.destroy_node()
            bench.close()


@pytest.mark.parametrize("name", ["imagined_camera", "reference_planner"])
def test_the_programs_start_and_end(name: str, ros: Graph) -> None:
    with start_node(name, namespace="/alone") as process:
        topic = {"imagined_camera": "/alone/camera/image_rect",
                 "reference_planner": "/alone/cmd_vel"}[name]
        # Its first entity is there before it listens to signals; its last one is not.
        ros.spin_until(lambda: ros.node.count_publishers(topic) or not process.running, 60.0,
                       f"the node {name}")
        assert process.interrupt() == 0, process.output
