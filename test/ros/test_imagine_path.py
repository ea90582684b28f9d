# SPDX-License-Identifier: Apache-2.0
"""The action imagine_path: frames and feedback, cancel, supersede, and every error code."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest
from action_msgs.msg import GoalStatus
from lifecycle_msgs.msg import Transition
from nav_msgs.msg import Path
from rclpy.action import ActionClient
from rclpy.parameter import Parameter

from inspatio_ros.action import ImaginePath
from inspatio_ros.imagination.engine import ImaginationEngine
from inspatio_ros.imagination.filler import GeometricFiller
from inspatio_ros.msg import ImaginationStatus as Status
from inspatio_ros.ros.convert import cameras
from inspatio_ros.ros.convert.stamps import to_ns
from inspatio_ros.ros.imagination_node import ImaginationNode
from support.imagination import CAMERA, Bench

Result = ImaginePath.Result


class FailingFiller(GeometricFiller):
    """The geometric filler, which raises what it is told to, once each."""

    def __init__(self) -> None:
        super().__init__()
        self.raises: list[BaseException] = []

    def begin(self, request: Any) -> Any:
        if self.raises:
            raise self.raises.pop(0)
        return super().begin(request)


class FailingNode(ImaginationNode):
    filler = FailingFiller()

    def make_engine(self) -> ImaginationEngine:
        return ImaginationEngine(self.filler)


class Client:
    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.feedback: list[Any] = []
        self.client = ActionClient(bench.graph.node, ImaginePath, "imagination/imagine_path")

    def send(self, path: Path, **fields: Any) -> Any:
        """The accepted goal's handle."""
        self.bench.graph.spin_until(self.client.server_is_ready, 20, "the action server")
        goal = ImaginePath.Goal(path=path, **fields)
        handle = self.bench.graph.result(self.client.send_goal_async(
            goal, feedback_callback=lambda m: self.feedback.append(m.feedback)))
        assert handle.accepted
        return handle

    def outcome(self, handle: Any, *, drive: bool = True) -> tuple[int, Any]:
        """Status and result."""
        future = handle.get_result_async()
        robot = self.bench.robot
        if drive:
            robot.drive_until(future.done, 30, "the result")
        answer = self.bench.graph.result(future, 30)
        return answer.status, answer.result


@pytest.fixture(scope="module")
def bench() -> Iterator[Bench]:
    made = Bench(FailingNode, output__width=160, output__height=120, transforms__timeout=0.3)
    yield made
    made.close()


@pytest.fixture(scope="module")
def client(bench: Bench) -> Client:
    return Client(bench)


@pytest.fixture(autouse=True)
def _fresh(bench: Bench, client: Client) -> None:
    FailingNode.filler.raises.clear()
    bench.restart()
    client.feedback.clear()
    robot = bench.robot
    robot.drive_until(lambda: robot.state_is(Status.IDLE, "no plan"), 20, "ready")


def test_frames_feedback_and_result(bench: Bench, client: Client) -> None:
    robot = bench.robot
    handle = client.send(robot.path())
    status, result = client.outcome(handle)
    assert status == GoalStatus.STATUS_SUCCEEDED
    assert (result.error_code, result.error_msg) == (Result.NONE, "")
    assert result.frames_published == 13
    robot.drive_until(lambda: len(robot.frames) >= 13, 10, "the frames")
    goal_id = bytes(handle.goal_id.uuid)
    assert [f.frame_index for f in robot.frames] == list(range(13))
    assert {bytes(f.request_id.uuid) for f in robot.frames} == {goal_id}
    assert [m.last_frame.frame_index for m in client.feedback] == list(range(13))
    assert client.feedback[-1].frame_rate > 0
    assert 0.5 < result.min_support <= result.mean_support <= 1.0
    assert 0 < to_ns(result.first_frame_latency) <= to_ns(result.total_time)


def test_fields_of_the_goal_count(bench: Bench, client: Client) -> None:
    robot = bench.robot
    camera = CAMERA.resized(80, 60)
    handle = client.send(robot.path(), speed=0.1, frame_rate=2.0, max_frames=5,
                         camera_info=cameras.to_info(camera, robot.header()), seed=7)
    status, result = client.outcome(handle)
    assert status == GoalStatus.STATUS_SUCCEEDED
    assert result.frames_published == 5
    robot.drive_until(lambda: len(robot.frames) >= 5, 10, "the frames")
    times = [to_ns(f.time_from_start) * 1e-9 for f in robot.frames[:5]]
    assert times == pytest.approx([0, 0.5, 1.0, 1.5, 2.0])
    assert robot.frames[4].camera_pose.pose.position.x == pytest.approx(0.2, abs=1e-6)


def test_path_of_the_camera_itself(bench: Bench, client: Client) -> None:
    robot = bench.robot
    path = robot.path(count=3)
    for pose in path.poses:  # optical axes: looking along x of odom
        q = pose.pose.orientation
        q.x, q.y, q.z, q.w = -0.5, 0.5, -0.5, 0.5
        pose.pose.position.z = 0.1
    status, result = client.outcome(client.send(path, pose_of=ImaginePath.Goal.POSE_OF_CAMERA))
    assert status == GoalStatus.STATUS_SUCCEEDED
    robot.drive_until(lambda: robot.frames, 10, "frames")
    assert robot.frames[-1].camera_pose.pose.position.z == pytest.approx(0.1, abs=1e-6)
    assert result.mean_support > 0.5


def test_cancel_within_a_block(bench: Bench, client: Client) -> None:
    robot = bench.robot
    handle = client.send(robot.path(count=200), speed=0.05, frame_rate=30.0)
    robot.drive_until(lambda: client.feedback, 20, "the first frame")
    start = time.monotonic()
    answer = bench.graph.result(handle.cancel_goal_async())
    assert len(answer.goals_canceling) == 1
    status, result = client.outcome(handle, drive=False)
    assert status == GoalStatus.STATUS_CANCELED
    assert time.monotonic() - start < 2.0
    assert result.error_code == Result.NONE
    assert 0 < result.frames_published < 500
    bench.until_imagining()


def test_newer_goal_supersedes(bench: Bench, client: Client) -> None:
    robot = bench.robot
    first = client.send(robot.path(count=200), speed=0.05, frame_rate=30.0)
    robot.drive_until(lambda: client.feedback, 20, "the first frame")
    second = client.send(robot.path())
    status, result = client.outcome(first)
    assert status == GoalStatus.STATUS_ABORTED
    assert (result.error_code, result.error_msg) == (Result.SUPERSEDED, "a newer goal came")
    assert client.outcome(second)[0] == GoalStatus.STATUS_SUCCEEDED


def test_following_goes_on_after_a_goal(bench: Bench, client: Client) -> None:
    bench.until_imagining()
    robot = bench.robot
    assert client.outcome(client.send(robot.path()))[0] == GoalStatus.STATUS_SUCCEEDED
    count = len(robot.frames)
    robot.drive_until(lambda: any(not any(f.request_id.uuid) for f in robot.frames[count:]), 20,
                      "frames of the plan again")


@pytest.mark.parametrize(("frame", "count", "change", "code", "words"), [
    ("odom", 0, {}, Result.EMPTY_PATH, "no poses"),
    ("utm", 3, {}, Result.TF_ERROR, "tf has no frame 'utm'"),
    ("odom", 3, {"speed": -1.0}, Result.GOAL_REJECTED, "speed -1.0 m/s"),
    ("odom", 3, {"frame_rate": -2.0}, Result.GOAL_REJECTED, "frame_rate -2.0 Hz"),
    ("", 3, {}, Result.GOAL_REJECTED, "path names no frame"),
])
def test_error_codes(bench: Bench, client: Client, frame: str, count: int,
                     change: dict[str, Any], code: int, words: str) -> None:
    status, result = client.outcome(client.send(bench.robot.path(count, frame), **change))
    assert status == GoalStatus.STATUS_ABORTED
    assert result.error_code == code
    assert words in result.error_msg
    assert client.outcome(client.send(bench.robot.path()))[0] == GoalStatus.STATUS_SUCCEEDED


def test_uncalibrated_camera_in_the_goal(bench: Bench, client: Client) -> None:
    info = cameras.to_info(CAMERA, bench.robot.header())
    info.k[0] = 0.0
    _, result = client.outcome(client.send(bench.robot.path(), camera_info=info))
    assert result.error_code == Result.GOAL_REJECTED
    assert "goal's camera_info" in result.error_msg


def test_nan_path(bench: Bench, client: Client) -> None:
    path = bench.robot.path()
    path.poses[1].pose.position.x = float("nan")
    _, result = client.outcome(client.send(path))
    assert result.error_code == Result.GOAL_REJECTED
    assert "pose 1 of the path is not finite" in result.error_msg


def test_nothing_seen_yet(bench: Bench, client: Client) -> None:
    assert bench.change(Transition.TRANSITION_DEACTIVATE)
    assert bench.change(Transition.TRANSITION_ACTIVATE)
    bench.graph.spin_for(0.2)
    _, result = client.outcome(client.send(bench.robot.path()), drive=False)
    assert result.error_code == Result.NO_GEOMETRY


def test_not_active(bench: Bench, client: Client) -> None:
    assert bench.change(Transition.TRANSITION_DEACTIVATE)
    status, result = client.outcome(client.send(bench.robot.path()), drive=False)
    assert status == GoalStatus.STATUS_ABORTED
    assert (result.error_code, result.error_msg) == (Result.NOT_READY, "the node is not active")
    assert bench.change(Transition.TRANSITION_ACTIVATE)


def test_deactivated_in_the_middle(bench: Bench, client: Client) -> None:
    handle = client.send(bench.robot.path(count=200), speed=0.05, frame_rate=30.0)
    bench.robot.drive_until(lambda: client.feedback, 20, "the first frame")
    assert bench.change(Transition.TRANSITION_DEACTIVATE)
    _, result = client.outcome(handle, drive=False)
    assert result.error_code == Result.NOT_READY
    assert bench.change(Transition.TRANSITION_ACTIVATE)


def test_out_of_memory_fails_the_goal_and_the_second_time_the_node(bench: Bench,
                                                                   client: Client) -> None:
    robot = bench.robot
    FailingNode.filler.raises = [MemoryError("no room"), MemoryError("no room")]
    _, result = client.outcome(client.send(robot.path()))
    assert result.error_code == Result.OUT_OF_MEMORY
    assert "no room" in result.error_msg
    robot.drive_until(lambda: robot.state_is(Status.DEGRADED, "out of memory"), 20, "degraded")
    _, result = client.outcome(client.send(robot.path()), drive=False)
    assert result.error_code == Result.OUT_OF_MEMORY
    robot.drive_until(lambda: robot.state_is(Status.FAULT, "(a second time)"), 20, "fault")
    robot.drive_until(lambda: "second time" in bench.message("engine"), 20,
                      "the diagnostic")
    assert bench.change(Transition.TRANSITION_CONFIGURE)
    assert bench.change(Transition.TRANSITION_ACTIVATE)
    robot.send_static()
    bench.until_imagining()


def test_engine_error_fails_the_goal_only(bench: Bench, client: Client) -> None:
    FailingNode.filler.raises = [ZeroDivisionError("by design")]
    _, result = client.outcome(client.send(bench.robot.path()))
    assert result.error_code == Result.UNKNOWN
    assert "ZeroDivisionError: by design" in result.error_msg
    assert client.outcome(client.send(bench.robot.path()))[0] == GoalStatus.STATUS_SUCCEEDED


def test_timeout(bench: Bench, client: Client) -> None:
    bench.node.set_parameters([Parameter("imagination.goal_timeout", value=0.3)])
    try:
        handle = client.send(bench.robot.path(count=200), speed=0.05, frame_rate=60.0)
        _, result = client.outcome(handle)
    finally:
        bench.node.set_parameters([Parameter("imagination.goal_timeout", value=120.0)])
    assert result.error_code == Result.TIMEOUT
    assert "imagination.goal_timeout" in result.error_msg
