# SPDX-License-Identifier: Apache-2.0
"""The imagination node at work: what it publishes, its states, services and lifecycle."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from geometry_msgs.msg import TransformStamped
from lifecycle_msgs.msg import State, Transition
from nav_msgs.msg import Path
from rclpy.parameter import Parameter
from rclpy.qos import DurabilityPolicy, ReliabilityPolicy
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, PointCloud2
from std_srvs.srv import SetBool, Trigger
from tf2_msgs.msg import TFMessage
from visualization_msgs.msg import MarkerArray

from inspatio_ros.msg import ImaginationStatus as Status
from inspatio_ros.ros import qos
from inspatio_ros.ros.convert import cameras, images
from inspatio_ros.ros.convert.paths import pose_to_matrix, transform_to_matrix
from inspatio_ros.ros.convert.stamps import to_ns
from inspatio_ros.ros.interface import IMAGINATION
from inspatio_ros.sensing.observation import Provenance
from inspatio_ros.srv import SetPrompt
from support.imagination import Bench


@pytest.fixture(scope="module")
def bench() -> Iterator[Bench]:
    made = Bench(output__width=160, output__height=120)
    yield made
    made.close()


@pytest.fixture(autouse=True)
def _fresh(bench: Bench) -> None:
    bench.restart()


class Collected:
    """The newest messages of one topic."""

    def __init__(self, bench: Bench, msg_type: type, topic: str, profile: Any = None) -> None:
        self.messages: list[Any] = []
        self._bench = bench
        self._subscription = bench.graph.node.create_subscription(
            msg_type, topic, self.messages.append, profile or qos.profile(50))

    def close(self) -> None:
        self._bench.graph.node.destroy_subscription(self._subscription)


@pytest.fixture
def collect(bench: Bench) -> Iterator[Any]:
    made: list[Collected] = []

    def collected(msg_type: type, topic: str, profile: Any = None) -> list[Any]:
        made.append(Collected(bench, msg_type, topic, profile))
        return made[-1].messages

    yield collected
    for one in made:
        one.close()


def test_every_output_of_a_frame_carries_one_header(bench: Bench, collect: Any) -> None:
    topics = {name: collect(kind, f"imagination/{name}") for name, kind in (
        ("image", Image), ("image/compressed", CompressedImage), ("camera_info", CameraInfo),
        ("depth", Image), ("provenance", Image), ("guide/image", Image), ("guide/depth", Image))}
    tf = collect(TFMessage, "/tf", qos.TF)
    bench.until_imagining()
    robot = bench.robot
    robot.drive_until(lambda: all(topics.values()) and robot.frames, 20, "all outputs")

    def complete() -> Any:
        stamps = [{to_ns(m.header.stamp): m for m in messages} for messages in topics.values()]
        moved = {to_ns(t.header.stamp): t for m in tf for t in m.transforms
                 if t.child_frame_id == "imagined_camera_optical"}
        return [(f, moved[s], {n: held[s] for n, held in zip(topics, stamps, strict=True)})
                for f in robot.frames if (s := to_ns(f.header.stamp)) in moved
                and all(s in held for held in stamps)]

    robot.drive_until(complete, 20, "one frame on every topic")
    frame, transform, messages = complete()[-1]
    assert {m.header.frame_id for m in messages.values()} == {"imagined_camera_optical"}
    assert transform.header.frame_id == "odom"
    np.testing.assert_allclose(transform_to_matrix(transform.transform),
                               pose_to_matrix(frame.camera_pose.pose), atol=1e-9)
    camera = cameras.to_camera(messages["camera_info"], "imagination/camera_info")
    assert camera.size == (160, 120)
    picture = images.to_rgb(messages["image"])
    assert picture.shape == (120, 160, 3)
    jpeg = images.decode_rgb(messages["image/compressed"])
    assert np.abs(jpeg.astype(int) - picture).mean() < 12
    provenance = images.to_array(messages["provenance"])
    labels = {label: float((provenance == label).mean()) for label in Provenance}
    assert labels[Provenance.OBSERVED] == pytest.approx(frame.observed_ratio, abs=1e-6)
    assert labels[Provenance.MEMORY] == pytest.approx(frame.memory_ratio, abs=1e-6)
    assert labels[Provenance.IMAGINED] == pytest.approx(frame.imagined_ratio, abs=1e-6)
    depth = images.to_depth(messages["depth"])
    backed = provenance >= Provenance.MEMORY
    # The wall stands 2 m ahead of the start; the imagined camera has driven towards it.
    ahead = 2.0 - frame.camera_pose.pose.position.x
    assert np.nanmedian(depth[backed]) == pytest.approx(ahead, rel=0.02)
    assert np.isnan(depth[provenance == Provenance.IMAGINED]).all()
    assert frame.observed_ratio > 0.5
    assert images.to_rgb(messages["guide/image"])[backed].mean() > 30


def test_stamps_are_publication_times_and_increase(bench: Bench) -> None:
    bench.until_imagining()
    robot = bench.robot
    robot.drive_until(lambda: len(robot.frames) > 20, 20, "20 frames")
    stamps = [to_ns(f.header.stamp) for f in robot.frames]
    assert all(a < b for a, b in zip(stamps, stamps[1:], strict=False))
    now = bench.node.get_clock().now().nanoseconds
    assert stamps[-1] <= now
    # The images carry the robot's own clock, which the frames name as their source.
    assert to_ns(robot.frames[-1].source_stamp) <= robot.now_ns
    assert to_ns(robot.frames[-1].source_stamp) > robot.now_ns - 5_000_000_000


def test_a_pass_covers_the_plan_frame_by_frame(bench: Bench) -> None:
    bench.until_imagining()
    robot = bench.robot
    robot.drive_until(
        lambda: any(f.frame_index == f.frame_count - 1 for f in robot.frames[1:]), 20, "a pass")
    last = next(i for i, f in enumerate(robot.frames) if i and f.frame_index == f.frame_count - 1)
    one = robot.frames[max(0, last - robot.frames[last].frame_index):last + 1]
    assert [f.frame_index for f in one] == list(range(one[0].frame_index, len(one)
                                                      + one[0].frame_index))
    # 0.4 m at 0.5 m/s is 0.8 s: 13 poses at 15 Hz.
    assert one[-1].frame_count == 13
    assert to_ns(one[-1].time_from_start) == pytest.approx(0.8e9, abs=1e6)
    assert one[-1].camera_pose.pose.position.x == pytest.approx(0.4, abs=0.01)


def test_way_and_frusta_are_latched_for_late_listeners(bench: Bench, collect: Any) -> None:
    bench.until_imagining()
    ways = collect(Path, "imagination/camera_path", qos.LATCHED)
    frusta = collect(MarkerArray, "imagination/frusta", qos.LATCHED)
    bench.graph.spin_until(lambda: ways and frusta, 20, "the latched way")
    assert ways[0].header.frame_id == "odom"
    assert len(ways[0].poses) == 13
    assert len(frusta[0].markers) == 14
    robot = bench.robot
    robot.drive_until(lambda: any(m.markers[-1].color.g > 0.65 > m.markers[-1].color.b + 0.3
                                  for m in frusta), 20, "frusta colored by support")


def test_cloud_only_while_somebody_listens(bench: Bench, collect: Any) -> None:
    bench.until_imagining()
    clouds = collect(PointCloud2, "imagination/points")
    bench.robot.drive_until(lambda: clouds, 20, "the cloud")
    cloud = clouds[0]
    assert cloud.header.frame_id == "odom"
    points = np.frombuffer(cloud.data, "<f4").reshape(-1, 4)[:, :3]
    np.testing.assert_allclose(points[:, 0], 2.0, atol=0.05)


def test_states_from_waiting_to_imagining_and_back(bench: Bench) -> None:
    robot = bench.robot
    bench.graph.spin_until(
        lambda: robot.state_is(Status.WAITING_FOR_INPUT, "/camera/image_rect: 1 publisher, but "
                               "nothing arrives"), 20, "naming the silent image")
    robot.drive_until(lambda: robot.state_is(Status.WAITING_FOR_INPUT, "camera_info"), 20,
                      "naming the missing camera_info", tick=robot.send_pair)
    robot.drive_until(lambda: robot.state_is(Status.IDLE, "no plan"), 20, "idle")
    assert not robot.frames
    bench.until_imagining()
    robot.plan.publish(Path(header=robot.header(0, "odom")))  # an empty path is stop
    robot.drive_until(lambda: robot.state_is(Status.IDLE, "no plan"), 20, "stopped")
    count = len(robot.frames)
    for _ in range(10):
        robot.tick()
        bench.graph.spin_for(0.03)
    assert len(robot.frames) == count


def test_set_following(bench: Bench) -> None:
    bench.until_imagining()
    robot = bench.robot
    answer = bench.graph.call(SetBool, "imagination/set_following", SetBool.Request(data=False))
    assert answer.success
    robot.drive_until(lambda: robot.state_is(Status.IDLE, "not following"), 20, "not following")
    answer = bench.graph.call(SetBool, "imagination/set_following", SetBool.Request(data=True))
    assert answer.success
    robot.drive_until(lambda: robot.state_is(Status.IMAGINING), 20, "following again")


def test_clear_memory(bench: Bench) -> None:
    bench.until_imagining()
    robot = bench.robot
    robot.drive_until(lambda: robot.status.cloud_points > 0, 20, "points")
    bench.graph.spin_until(lambda: robot.state_is(Status.DEGRADED, "nothing for"), 20,
                           "everything under way having arrived")
    answer = bench.graph.call(Trigger, "imagination/clear_memory", Trigger.Request())
    assert answer.success
    bench.graph.spin_until(lambda: robot.status.cloud_points == 0, 20, "an empty memory")
    bench.until_imagining()


def test_prompt_says_what_it_is_worth(bench: Bench) -> None:
    answer = bench.graph.call(SetPrompt, "imagination/set_prompt",
                              SetPrompt.Request(prompt="an office"))
    assert answer.success
    assert answer.message == "prompt in force: 'an office' (the geometric backend does not use it)"


def test_a_plan_in_map_is_converted_once_at_its_stamp(bench: Bench) -> None:
    robot = bench.robot
    bench.until_imagining()
    # map lies a metre to the side of odom from now on.
    moved = robot.header(frame="map")
    stamped = TransformStamped(header=moved, child_frame_id="odom")
    stamped.transform.translation.y = -1.0
    stamped.transform.rotation.w = 1.0
    path = robot.path(count=5, frame="map")
    path.header.stamp = moved.stamp
    for pose in path.poses:
        pose.pose.position.y = -1.0
    robot.tf.publish(TFMessage(transforms=[stamped]))
    robot.plan.publish(path)
    count = len(robot.frames)
    robot.drive_until(lambda: len(robot.frames) > count + 15, 20, "frames along the map's plan")
    assert abs(robot.frames[-1].camera_pose.pose.position.y) < 1e-6


def test_repeated_plan_is_not_superseded_and_a_new_one_is(bench: Bench) -> None:
    bench.until_imagining()
    robot = bench.robot
    before = robot.status.plans_superseded
    for _ in range(5):
        robot.plan.publish(robot.path())
        robot.tick()
        bench.graph.spin_for(0.05)
    robot.drive_until(lambda: robot.frames, 10, "frames")
    assert robot.status.plans_superseded == before
    length = iter(range(6, 1000))

    def changing() -> None:
        robot.plan.publish(robot.path(count=next(length)))
        robot.tick()

    robot.drive_until(lambda: robot.status.plans_superseded > before, 20, "a superseded plan",
                      tick=changing)


def test_pacing_holds_the_frame_rate(bench: Bench) -> None:
    robot = bench.robot
    assert bench.node.set_parameters([Parameter("output.pacing", value="paced"),
                                      Parameter("imagination.frame_rate", value=5.0)])
    try:
        bench.until_imagining()
        robot.frames.clear()
        robot.drive_until(lambda: len(robot.frames) >= 12, 20, "12 frames")
        times = np.array([to_ns(f.header.stamp) for f in robot.frames]) * 1e-9
        within = [b - a for a, b, f in zip(times, times[1:], robot.frames[1:], strict=False)
                  if f.frame_index > 0]
        assert len(within) > 5
        assert np.median(within) > 0.19  # in bursts it is a tenth of that
    finally:
        bench.node.set_parameters([Parameter("output.pacing", value="burst"),
                                   Parameter("imagination.frame_rate", value=15.0)])


def test_lifecycle_and_silence_when_inactive(bench: Bench) -> None:
    bench.until_imagining()
    robot = bench.robot
    assert bench.change(Transition.TRANSITION_DEACTIVATE)
    bench.graph.spin_until(lambda: robot.state_is(Status.IDLE, "not active"), 20, "inactive")
    count = len(robot.frames)
    for _ in range(5):
        robot.tick()
        bench.graph.spin_for(0.05)
    assert len(robot.frames) == count
    assert not bench.graph.call(Trigger, "imagination/clear_memory", Trigger.Request()).success
    assert bench.change(Transition.TRANSITION_ACTIVATE)
    bench.until_imagining()
    assert bench.state() == State.PRIMARY_STATE_ACTIVE


def test_impossible_transition_is_answered_with_false(bench: Bench) -> None:
    assert not bench.change(Transition.TRANSITION_ACTIVATE)
    assert not bench.change(Transition.TRANSITION_CLEANUP)
    assert not bench.change(99)
    bench.until_imagining()


def test_diagnostics_report_every_part(bench: Bench) -> None:
    bench.until_imagining()
    robot = bench.robot
    robot.drive_until(lambda: float(bench.value("output", "frames_published") or 0) > 0
                      and float(bench.value("geometry", "points") or 0) > 0, 20, "diagnostics")
    assert set(bench.diagnostics) == {"input", "geometry", "engine", "output"}
    assert bench.diagnostics["input"].name == "imagination: input"
    for part, key in (("input", "sets_per_second"), ("input", "pairs"), ("engine", "backend"),
                      ("engine", "block_median_ms"), ("engine", "fuse_median_ms"),
                      ("engine", "decode_p95_ms"), ("engine", "image_to_frame_p95_ms"),
                      ("output", "frames_per_second")):
        assert bench.value(part, key), f"{part} has no {key}"


def test_interface_is_as_documented(bench: Bench) -> None:
    node = bench.graph.node
    infos = {
        "in": dict(node.get_subscriber_names_and_types_by_node("imagination", "/")),
        "out": dict(node.get_publisher_names_and_types_by_node("imagination", "/"))}

    def resolved(name: str) -> str:
        return name.replace("~", "/imagination") if name[0] in "~/" else f"/{name}"

    # The virtual rig is off here; test_virtual_rig.py has it.
    endpoints = [e for e in IMAGINATION.publishes if not e.name.startswith("~/rig/")]
    published = {resolved(e.name): [e.type] for e in endpoints}
    assert {k: v for k, v in infos["out"].items() if k in published} == published
    own = {k for k in infos["out"] if k.startswith("/imagination/")
           and not k.endswith(("/transition_event",)) and "_action" not in k}
    assert own <= set(published)
    subscribed = {resolved(e.name): [e.type] for e in IMAGINATION.subscribes}
    strangers = {k for k in infos["in"] if k not in subscribed and k not in (
        "/parameter_events", "/clock")}
    assert not strangers
    assert {"/camera/image_rect", "/camera/camera_info", "/depth/image_rect", "/plan", "/tf",
            "/tf_static"} <= set(infos["in"])
    services = dict(node.get_service_names_and_types_by_node("imagination", "/"))
    for service in IMAGINATION.services:
        assert services[resolved(service.name)] == [service.type]
    for endpoint in endpoints:
        offered = [i for i in node.get_publishers_info_by_topic(resolved(endpoint.name))
                   if i.node_name == "imagination"][0].qos_profile
        assert ("reliable" in endpoint.qos) == (
            offered.reliability == ReliabilityPolicy.RELIABLE), endpoint.name
        assert ("transient local" in endpoint.qos) == (
            offered.durability == DurabilityPolicy.TRANSIENT_LOCAL), endpoint.name


def test_subscriptions_follow_the_publishers_reliability(bench: Bench) -> None:
    """The robot of this module is reliable; a best-effort camera comes beside it and leaves."""
    node, robot = bench.graph.node, bench.robot
    bench.until_imagining()
    bench.graph.spin_until(lambda: bench.node.camera.subscriptions["image"].reliable, 20,
                           "a reliable subscription")
    other = node.create_publisher(Image, "camera/image_rect", qos.profile(1, reliable=False))
    bench.graph.spin_until(lambda: not bench.node.camera.subscriptions["image"].reliable, 20,
                           "a best-effort subscription")
    bench.until_imagining()
    node.destroy_publisher(other)
    bench.graph.spin_until(lambda: bench.node.camera.subscriptions["image"].reliable, 20,
                           "a reliable subscription again")
    robot.drive_until(lambda: robot.state_is(Status.IMAGINING), 20, "still imagining")
