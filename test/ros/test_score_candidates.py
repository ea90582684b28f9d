# SPDX-License-Identifier: Apache-2.0
"""The action score_candidates: scores, deadlines, cancelling, several clients, bad input."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from action_msgs.msg import GoalStatus
from geometry_msgs.msg import TransformStamped
from lifecycle_msgs.msg import Transition
from rclpy.action import ActionClient
from std_msgs.msg import Header
from std_srvs.srv import Trigger
from tf2_msgs.msg import TFMessage

from inspatio_ros.action import ScoreCandidates
from inspatio_ros.geometry import rigid
from inspatio_ros.geometry.camera import PinholeCamera
from inspatio_ros.msg import Candidate, CandidateHindsight, CandidateScore
from inspatio_ros.planning.terms import TERMS
from inspatio_ros.ros import qos
from inspatio_ros.ros.convert import images
from inspatio_ros.ros.convert.paths import matrix_to_transform, to_path
from inspatio_ros.ros.convert.stamps import to_duration, to_ns
from support.corridor import BASE_FROM_CAMERA, CAMERA, CART, ahead, seen_from
from support.imagination import FRAME, Bench, TestRobot

Result = ScoreCandidates.Result
STEP = 0.25  # m that the cart comes on from instant to instant


class Cart(TestRobot):
    """Comes along the blocked corridor from -3 m to the origin and stays there."""

    x = -3.0
    limit = 0.0

    def send_static(self) -> None:
        mount = TransformStamped(header=self.header(frame="base_link"), child_frame_id=FRAME,
                                 transform=matrix_to_transform(BASE_FROM_CAMERA))
        self.tf_static.publish(TFMessage(transforms=[mount]))

    def send_tf(self, *_: Any, **__: Any) -> None:
        self.tf.publish(TFMessage(transforms=[TransformStamped(
            header=self.header(frame="odom"), child_frame_id="base_link",
            transform=matrix_to_transform(rigid.from_rotation(np.eye(3), (self.x, 0, 0))))]))

    def send_infos(self, camera: PinholeCamera = CAMERA) -> None:
        super().send_infos(camera)

    def send_pair(self, camera: PinholeCamera = CAMERA) -> None:
        view = seen_from(round(self.x, 3))
        self.image.publish(images.from_array(view.image, "rgb8", self.header()))
        self.depth.publish(images.from_array(view.depth, "32FC1", self.header()))

    def tick(self, period: float = 0.25) -> None:
        self.x = min(self.limit, self.x + STEP)
        super().tick(period)


class Client:
    """One client of the action."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.feedback: list[Any] = []
        self.client = ActionClient(bench.graph.node, ScoreCandidates,
                                   "imagination/score_candidates")

    def send(self, candidates: list[Candidate], *, deadline: float = 0.0, **fields: Any) -> Any:
        """The accepted goal's handle."""
        self.bench.graph.spin_until(self.client.server_is_ready, 20, "the action server")
        goal = ScoreCandidates.Goal(candidates=candidates, deadline=to_duration(deadline),
                                    **fields)
        handle = self.bench.graph.result(self.client.send_goal_async(
            goal, feedback_callback=lambda m: self.feedback.append(m.feedback)), 30)
        assert handle.accepted
        return handle

    def outcome(self, handle: Any) -> tuple[int, Any]:
        """Status and result."""
        answer = self.bench.graph.result(handle.get_result_async(), 60)
        return answer.status, answer.result

    def ask(self, candidates: list[Candidate], **fields: Any) -> tuple[int, Any]:
        """Status and result of a goal."""
        return self.outcome(self.send(candidates, **fields))


def message(id: str, speed: float, lateral: float = 0.0, frame: str = "odom") -> Candidate:
    """A candidate from the origin."""
    made = ahead(id, speed, lateral)
    stamps = [10**9 + round(t * 1e9) for t in made.times]
    return Candidate(id=id, path=to_path(made.world_from_base, stamps, Header(frame_id=frame)))


GOOD = [("slow", 0.3, 0.0), ("into", 1.2, 0.0), ("right", 1.2, -1.5)]


def good() -> list[Candidate]:
    return [message(*parts) for parts in GOOD]


@pytest.fixture(scope="module")
def bench() -> Iterator[Bench]:
    made = Bench(
        output__width=160, output__height=90, transforms__timeout=0.3,
        input__observe_rate=120.0, input__fuse_rate=60.0, footprint__front=CART.front,
        footprint__rear=CART.rear, footprint__left=CART.left, footprint__right=CART.right,
        footprint__height=CART.height, footprint__margin=0.0, scoring__radius=12.0,
        scoring__target_speed=1.5, scoring__imagined=2, scoring__waiting_goals=3)
    for publisher in (made.robot.tf_static,):
        made.graph.node.destroy_publisher(publisher)
    made.robot = Cart(made.graph)
    come_along(made)
    yield made
    made.close()


def come_along(bench: Bench) -> None:
    """The cart drives up to the origin and looks ahead for a while."""
    robot = bench.robot
    assert isinstance(robot, Cart)
    robot.x = -3.0
    robot.drive_until(lambda: robot.x == 0.0 and int(bench.value("geometry", "points") or 0) > 0
                      or robot.x == 0.0 and robot.status is not None
                      and robot.status.cloud_points > 3000, 40, "the corridor in memory")
    for _ in range(3):
        robot.drive_until(lambda: True, 5)


@pytest.fixture
def client(bench: Bench) -> Iterator[Client]:
    made = Client(bench)
    yield made
    made.client.destroy()


def test_scores_feedback_and_result(client: Client) -> None:
    for _ in range(3):
        client.feedback.clear()
        status, result = client.ask(good())
        # Feedback and result travel apart: the last word may come after the result, and the first
        # before the reader of feedback is known; then it is asked again.
        client.bench.graph.spin_for(1.0)
        if len(client.feedback) >= 3:
            break
    assert status == GoalStatus.STATUS_SUCCEEDED
    assert (result.error_code, result.error_msg, result.best_id) == (Result.NONE, "", "right")
    assert [s.id for s in result.scores] == ["slow", "into", "right"]
    assert [m.latest.id for m in client.feedback] == ["right", "slow", "into"]
    assert [m.done for m in client.feedback] == [1, 2, 3]
    slow, into, right = result.scores
    assert list(right.term_names) == list(TERMS)
    terms = dict(zip(into.term_names, into.terms, strict=True))
    assert terms["no_collision"] == 0.0
    assert math.isnan(terms["future_consistency"])
    assert right.state == slow.state == CandidateScore.COMPLETE
    assert right.score > slow.score > into.score == 0.0
    assert to_ns(result.total_time) > 0


def test_the_best_are_imagined(client: Client) -> None:
    status, result = client.ask(good(), imagine=True)
    assert status == GoalStatus.STATUS_SUCCEEDED
    assert {s.id: s.frames_imagined for s in result.scores} == {"slow": 12, "into": 0, "right": 12}
    assert result.best_id == "right"
    terms = dict(zip(result.scores[2].term_names, result.scores[2].terms, strict=True))
    assert terms["future_consistency"] > 0.5


def test_the_goal_says_how_many_views(client: Client) -> None:
    _, result = client.ask(good(), imagine=True, frame_rate=1.0)
    assert {s.frames_imagined for s in result.scores} == {0, 6}  # two coarse, four fine


def test_a_deadline_is_kept_and_what_is_there_is_partial(bench: Bench, client: Client) -> None:
    many = [message(str(k), 0.2 + 0.004 * k, -1.0) for k in range(300)]
    client.ask(good())
    status, result = client.ask(many, deadline=0.15)
    assert status in (GoalStatus.STATUS_SUCCEEDED, GoalStatus.STATUS_ABORTED)
    assert len(result.scores) == 300
    states = [s.state for s in result.scores]
    assert CandidateScore.PARTIAL in states
    assert to_ns(result.total_time) < 2e9
    assert (result.error_code == Result.TIMEOUT) == (
        states.count(CandidateScore.PARTIAL) == len(states))


def test_a_deadline_in_the_past_gives_everything_partial(client: Client) -> None:
    status, result = client.ask(good(), deadline=-1.0)
    assert status == GoalStatus.STATUS_ABORTED
    assert result.error_code == Result.TIMEOUT
    assert [s.state for s in result.scores] == [CandidateScore.PARTIAL] * 3
    assert result.best_id == ""


def test_cancelled_while_it_waits_and_while_it_works(bench: Bench, client: Client) -> None:
    many = [message(str(k), 0.2 + 0.002 * k, -1.0) for k in range(400)]
    first = client.send(many, imagine=True)
    second = client.send(good())
    bench.graph.result(second.cancel_goal_async())
    bench.graph.result(first.cancel_goal_async())
    start = time.monotonic()
    for handle in (first, second):
        status, result = client.outcome(handle)
        assert status == GoalStatus.STATUS_CANCELED
        assert result.error_code == Result.NONE
    assert time.monotonic() - start < 5.0
    assert client.ask(good())[1].best_id == "right"


def test_cancelled_while_it_imagines(bench: Bench, client: Client) -> None:
    handle = client.send(good(), imagine=True, frame_rate=15.0)
    bench.graph.spin_until(lambda: any(m.latest.frames_imagined for m in client.feedback), 30,
                           "the first imagined score")
    bench.graph.result(handle.cancel_goal_async())
    status, result = client.outcome(handle)
    assert status == GoalStatus.STATUS_CANCELED
    assert len(result.scores) == 3
    assert result.best_id == "right"


def test_two_clients_get_the_same_scores(bench: Bench, client: Client) -> None:
    other = Client(bench)
    handles = [client.send(good()), other.send(good()[::-1])]
    (_, mine), (_, theirs) = client.outcome(handles[0]), other.outcome(handles[1])
    assert mine.best_id == theirs.best_id == "right"
    assert [s.score for s in mine.scores] == [s.score for s in theirs.scores][::-1]
    other.client.destroy()


def test_more_goals_than_may_wait_are_refused(client: Client) -> None:
    many = [message(str(k), 0.2 + 0.002 * k, -1.0) for k in range(300)]
    handles = [client.send(many if k == 0 else good()) for k in range(5)]
    results = [client.outcome(handle)[1] for handle in handles]
    refused = [r for r in results if r.error_code == Result.GOAL_REJECTED]
    assert refused
    assert "scoring.waiting_goals" in refused[0].error_msg
    assert results[0].error_code == Result.NONE


@pytest.mark.parametrize(("wrong", "code", "sentence"), [
    ([], Result.EMPTY_PATH, "no candidates"),
    ([message("a", 1.0), message("b", 0.5), message("a", 0.3)], Result.GOAL_REJECTED,
     "'a' comes 2 times"),
    ([message("a", 1.0, frame="nowhere")], Result.TF_ERROR, "nowhere"),
])
def test_goals_that_make_no_sense_say_why(
    client: Client, wrong: list[Candidate], code: int, sentence: str
) -> None:
    status, result = client.ask(wrong)
    assert status == GoalStatus.STATUS_ABORTED
    assert result.error_code == code
    assert sentence in result.error_msg


def test_one_broken_candidate_does_not_spoil_the_others(client: Client) -> None:
    nan, empty, untimed = message("nan", 1.0), Candidate(id="empty"), message("untimed", 1.0)
    nan.path.poses[2].pose.position.y = math.nan
    for pose in untimed.path.poses:
        pose.header.stamp.sec = 0
        pose.header.stamp.nanosec = 0
    untimed.speed = math.nan
    _, result = client.ask([nan, *good(), empty, untimed])
    assert result.error_code == Result.NONE
    assert result.best_id == "right"
    states = {s.id: s.state for s in result.scores}
    assert [i for i, s in states.items() if s == CandidateScore.FAILED] == [
        "nan", "empty", "untimed"]
    assert "not finite" in result.scores[0].detail


def test_a_candidate_outside_the_memory_is_unsupported(client: Client) -> None:
    far = message("far", 1.0)
    for pose in far.path.poses:
        pose.pose.position.x += 300.0
    _, result = client.ask([far, *good()])
    assert result.scores[0].state == CandidateScore.UNSUPPORTED
    assert result.scores[0].unknown_ratio == 1.0
    assert result.best_id == "right"


def test_a_thousand_candidates(client: Client) -> None:
    many = [message(str(k), 0.2 + 0.001 * k, -1.0) for k in range(1000)]
    status, result = client.ask(many)
    assert status == GoalStatus.STATUS_SUCCEEDED
    assert len(result.scores) == 1000
    done = [m.done for m in client.feedback]
    assert done == sorted(done)
    assert done[-1] > 900  # of a thousand in a moment the transport may lose some


def test_memory_cleared_during_a_call(bench: Bench, client: Client) -> None:
    handle = client.send(good(), imagine=True, frame_rate=15.0)
    bench.graph.spin_until(lambda: client.feedback, 30, "the first score")
    assert bench.graph.call(Trigger, "imagination/clear_memory", Trigger.Request()).success
    status, result = client.outcome(handle)
    assert status == GoalStatus.STATUS_SUCCEEDED
    cleared = [s for s in result.scores if s.detail == "the memory was cleared"]
    assert cleared
    assert all(s.state == CandidateScore.PARTIAL for s in cleared)
    come_along(bench)
    assert client.ask(good())[1].best_id == "right"


def test_before_the_first_image_and_before_activation(bench: Bench, client: Client) -> None:
    bench.restart()
    status, result = client.ask([message("a", 1.0, frame="odom")])
    assert status == GoalStatus.STATUS_ABORTED
    assert result.error_code == Result.NO_GEOMETRY
    assert bench.change(Transition.TRANSITION_DEACTIVATE)
    status, result = client.ask(good())
    assert status == GoalStatus.STATUS_ABORTED
    assert result.error_code == Result.NOT_READY
    assert bench.change(Transition.TRANSITION_ACTIVATE)


def test_what_was_driven_is_judged_again(bench: Bench, client: Client) -> None:
    robot = bench.robot
    assert isinstance(robot, Cart)
    come_along(bench)
    reviews: list[CandidateHindsight] = []
    bench.graph.node.create_subscription(
        CandidateHindsight, "imagination/candidate_hindsight", reviews.append, qos.STATE_OUTPUT)
    robot.frames.clear()
    # At 0.25 m an instant and four instants a second the cart goes on at 1 m/s.
    status, result = client.ask([message("fast", 1.0), message("slow", 0.2)], imagine=True)
    assert status == GoalStatus.STATUS_SUCCEEDED
    best = next(s for s in result.scores if s.id == result.best_id)
    assert best.frames_imagined >= 8
    robot.limit, start = 5.0, robot.x
    robot.drive_until(lambda: reviews and len(robot.frames) >= 8, 40,
                      "the best candidate's views and the review")
    assert robot.x > start + 2.0
    (review,) = reviews
    assert review.id == "fast"
    assert review.duration == pytest.approx(4.0, abs=0.3)
    assert review.deviation < 0.45
    terms = dict(zip(review.term_names, review.real, strict=True))
    assert terms["no_collision"] == terms["drivable"] == 1.0
    assert terms["progress"] == pytest.approx(1.0 / 1.5, abs=0.1)
    assert list(review.trust) == [1.0] * len(TERMS)
    assert review.judged == 1
    robot.limit, robot.x = 0.0, 0.0
