# SPDX-License-Identifier: Apache-2.0
"""The action ~/imagine_path: goals go to the worker, its frames come back as feedback."""

from __future__ import annotations

import time
from collections.abc import Callable

from rclpy.action import ActionServer, CancelResponse, GoalResponse
from rclpy.action.server import ServerGoalHandle
from rclpy.node import Node
from rclpy.task import Future

from inspatio_ros.action import ImaginePath
from inspatio_ros.msg import ImaginedFrame
from inspatio_ros.ros.convert.stamps import to_duration
from inspatio_ros.ros.node_base import ExecutorCalls

Result = ImaginePath.Result
CANCELLED = -1


class PathGoal:
    """One goal as the worker sees it. `finish` exactly once, from any thread."""

    def __init__(self, handle: ServerGoalHandle, calls: ExecutorCalls) -> None:
        self._handle = handle
        self._calls = calls
        self._accepted = time.monotonic()
        self._supports: list[float] = []
        self._first: float | None = None
        self._last = self._accepted
        self.message: ImaginePath.Goal = handle.request
        self.request_id = bytes(handle.goal_id.uuid)
        self.done: Future = Future()

    @property
    def age(self) -> float:
        """Seconds since acceptance."""
        return time.monotonic() - self._accepted

    @property
    def cancel_requested(self) -> bool:
        """Whether the client wants it ended."""
        return bool(self._handle.is_cancel_requested)

    def published(self, frame: ImaginedFrame) -> None:
        """One frame went out: count it and tell the client."""
        self._last = time.monotonic()
        if self._first is None:
            self._first = self._last
        self._supports.append(frame.observed_ratio + frame.memory_ratio)
        feedback = ImaginePath.Feedback(last_frame=frame)
        elapsed = self._last - self._first
        feedback.frame_rate = (len(self._supports) - 1) / elapsed if elapsed > 0 else 0.0
        self._handle.publish_feedback(feedback)

    def finish(self, code: int = Result.NONE, sentence: str = "") -> None:
        """End with an error code of the action (CANCELLED: as cancelled) and its reason."""
        outcome = (code, sentence)
        self._calls.submit(lambda: self.done.done() or self.done.set_result(outcome))

    def result(self, code: int, sentence: str) -> Result:
        """The result message."""
        supports = self._supports or [0.0]
        first = self._accepted if self._first is None else self._first
        return Result(
            error_code=Result.NONE if code == CANCELLED else code, error_msg=sentence,
            frames_published=len(self._supports), mean_support=sum(supports) / len(supports),
            min_support=min(supports), first_frame_latency=to_duration(first - self._accepted),
            total_time=to_duration(self._last - self._accepted))


class ImaginePathServer:
    """Accepts every goal and hands it to `submit`, which may refuse it with (code, sentence).

    A goal that cannot be served is accepted and aborted, because a rejection carries no reason.
    """

    def __init__(self, node: Node, calls: ExecutorCalls,
                 submit: Callable[[PathGoal], tuple[int, str] | None]) -> None:
        self._node = node
        self._calls = calls
        self._submit = submit
        self._server = ActionServer(
            node, ImaginePath, "~/imagine_path", self._execute,
            goal_callback=lambda request: GoalResponse.ACCEPT,
            cancel_callback=lambda handle: CancelResponse.ACCEPT)

    async def _execute(self, handle: ServerGoalHandle) -> Result:
        goal = PathGoal(handle, self._calls)
        refused = self._submit(goal)
        code, sentence = refused if refused is not None else await goal.done
        if code == CANCELLED:
            handle.canceled()
        elif code == Result.NONE:
            handle.succeed()
        else:
            self._node.get_logger().warning(f"imagine_path goal ended: {sentence}")
            handle.abort()
        return goal.result(code, sentence)

    def destroy(self) -> None:
        """Take the action down."""
        self._server.destroy()
