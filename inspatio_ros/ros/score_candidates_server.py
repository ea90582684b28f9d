# SPDX-License-Identifier: Apache-2.0
"""The action ~/score_candidates: goals go to the worker, scores come back as they are made."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence

from rclpy.action import ActionServer, CancelResponse, GoalResponse
from rclpy.action.server import ServerGoalHandle
from rclpy.node import Node
from rclpy.task import Future
from std_msgs.msg import Header

from inspatio_ros.action import ScoreCandidates
from inspatio_ros.msg import CandidateHindsight, CandidateScore
from inspatio_ros.planning.review import TermReview
from inspatio_ros.planning.scores import Ranking, Score
from inspatio_ros.planning.terms import TERMS
from inspatio_ros.ros.convert.stamps import to_duration, to_ns, to_time
from inspatio_ros.ros.node_base import ExecutorCalls

Result = ScoreCandidates.Result
CANCELLED = -1


class ScoreGoal:
    """One goal as the worker sees it. `finish` exactly once, from any thread.

    deadline: s of time.monotonic, None without one.
    """

    def __init__(self, handle: ServerGoalHandle, calls: ExecutorCalls) -> None:
        self._handle = handle
        self._calls = calls
        self._accepted = time.monotonic()
        self._done: set[str] = set()
        self.message: ScoreCandidates.Goal = handle.request
        self.request_id = bytes(handle.goal_id.uuid)
        seconds = to_ns(self.message.deadline) * 1e-9
        self.deadline = self._accepted + seconds if seconds else None
        self.outcome: Future = Future()

    @property
    def overdue(self) -> bool:
        """Whether the deadline has passed."""
        return self.deadline is not None and time.monotonic() >= self.deadline

    @property
    def cancel_requested(self) -> bool:
        """Whether the client wants it ended."""
        return bool(self._handle.is_cancel_requested)

    def scored(self, score: Score) -> None:
        """One more score: tell the client."""
        self._done.add(score.id)
        self._handle.publish_feedback(ScoreCandidates.Feedback(
            latest=score_message(score), done=len(self._done)))

    def finish(self, code: int, sentence: str, ranking: Ranking | None = None) -> None:
        """End with an error code of the action (CANCELLED: as cancelled), its reason, scores."""
        ended = (code, sentence, ranking)
        self._calls.submit(lambda: self.outcome.done() or self.outcome.set_result(ended))

    def result(self, code: int, sentence: str, ranking: Ranking | None) -> Result:
        """The result message."""
        scores: Sequence[Score] = ranking.scores if ranking is not None else ()
        return Result(
            scores=[score_message(score) for score in scores],
            best_id=ranking.best_id if ranking is not None else "",
            error_code=Result.NONE if code == CANCELLED else code, error_msg=sentence,
            total_time=to_duration(time.monotonic() - self._accepted))


def score_message(score: Score) -> CandidateScore:
    """The message of a score."""
    return CandidateScore(
        id=score.id, state=int(score.state), score=score.score, uncertainty=score.uncertainty,
        term_names=list(TERMS), terms=[score.terms[name] for name in TERMS],
        unknown_ratio=score.unknown_ratio, frames_imagined=score.frames_imagined,
        detail=score.detail)


def hindsight_message(review: TermReview, world_frame: str) -> CandidateHindsight:
    """The message of a candidate that was driven and judged again."""
    def listed(values: Mapping[str, float]) -> list[float]:
        return [values[name] for name in TERMS]

    end_ns = review.stamp_ns + round(review.duration * 1e9)
    return CandidateHindsight(
        header=Header(stamp=to_time(end_ns), frame_id=world_frame), id=review.id,
        duration=review.duration, deviation=review.deviation, term_names=list(TERMS),
        predicted=listed(review.predicted), real=listed(review.real), error=listed(review.error),
        trust=listed(review.trust), judged=review.judged)


class ScoreCandidatesServer:
    """Accepts every goal and hands it to `submit`, which may refuse it with (code, sentence).

    A goal that cannot be served is accepted and aborted, because a rejection carries no reason.
    """

    def __init__(self, node: Node, calls: ExecutorCalls,
                 submit: Callable[[ScoreGoal], tuple[int, str] | None]) -> None:
        self._node = node
        self._calls = calls
        self._submit = submit
        self._server = ActionServer(
            node, ScoreCandidates, "~/score_candidates", self._execute,
            goal_callback=lambda request: GoalResponse.ACCEPT,
            cancel_callback=lambda handle: CancelResponse.ACCEPT)

    async def _execute(self, handle: ServerGoalHandle) -> Result:
        goal = ScoreGoal(handle, self._calls)
        refused = self._submit(goal)
        code, sentence, ranking = (
            (*refused, None) if refused is not None else await goal.outcome)
        if code == CANCELLED:
            handle.canceled()
        elif code == Result.NONE:
            handle.succeed()
        else:
            self._node.get_logger().warning(f"score_candidates goal ended: {sentence}")
            handle.abort()
        return goal.result(code, sentence, ranking)

    def destroy(self) -> None:
        """Take the action down."""
        self._server.destroy()
