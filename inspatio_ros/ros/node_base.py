# SPDX-License-Identifier: Apache-2.0
"""What every node of this package shares: parameters, transitions, diagnostics, a clean end."""

from __future__ import annotations

import signal
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, ClassVar, Generic, TypeVar

import rclpy
from rclpy._rclpy_pybind11 import RCLError
from rclpy.clock import Clock, ClockType
from rclpy.context import Context
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.node import Node
from rclpy.publisher import Publisher
from rclpy.signals import SignalHandlerOptions
from rclpy.subscription import Subscription
from rclpy.timer import Timer

from inspatio_ros.ros.diagnostics import Diagnostics, DropCounter
from inspatio_ros.ros.parameters import ParameterError, Parameters

P = TypeVar("P")

# A Python signal handler runs only between two waits of the executor.
_SIGNAL_LATENCY_S = 0.1
# Where messages come at least this often, services, actions and events are looked after only so
# many seconds after the last time.
_BUSY_S, _SERVED_S = 0.02, 0.05


class _Shared(Generic[P]):
    """Parameters, diagnostics, drop counts and safe publication, for both kinds of node."""

    parameters_type: ClassVar[type]
    parameters: Parameters[P]
    diagnostics: Diagnostics
    drops: DropCounter

    def _set_up_shared(self) -> None:
        assert isinstance(self, Node)
        self.parameters = Parameters(self, self.parameters_type)
        self.drops = DropCounter()
        self.diagnostics = Diagnostics(self)

    @property
    def values(self) -> P:
        """The current parameters."""
        return self.parameters.values

    def safe_publish(self, publisher: Publisher, message: Any) -> bool:
        """Publish; False and a counted drop when the transport refuses (it may be overfull)."""
        assert isinstance(self, Node)
        try:
            publisher.publish(message)
        except RCLError as error:
            self.drops.count("publish_failed")
            self.get_logger().warning(
                f"{publisher.topic_name}: the transport refused a message: {error}",
                throttle_duration_sec=5.0)
            return False
        return True


class PlainNode(_Shared[P], Node, Generic[P]):
    """An unmanaged node with typed parameters (`parameters_type`) and diagnostics.

    Raises ParameterError on bad parameters.
    """

    def __init__(self, name: str, **options: Any) -> None:
        Node.__init__(self, name, **options)
        self._set_up_shared()


class ManagedNode(_Shared[P], LifecycleNode, Generic[P]):
    """A lifecycle node with typed parameters (`parameters_type`) and diagnostics.

    Derived nodes override `configure`, `activate`, `deactivate` and `release` (which undoes
    configure; also called on error and shutdown, and must do with a half configured node). What
    they raise is logged with its reason, and the node goes through error processing back to
    unconfigured: rclpy alone would swallow it. When the parameters dataclass has a true
    `autostart`, the node configures and activates itself once it spins.
    """

    def __init__(self, name: str, **options: Any) -> None:
        LifecycleNode.__init__(self, name, **options)
        self._set_up_shared()
        self.fault = ""
        self._guard_transitions()
        if getattr(self.values, "autostart", False):
            self._autostart_timer = self.create_timer(
                0.0, self._autostart, clock=Clock(clock_type=ClockType.STEADY_TIME))

    def _guard_transitions(self) -> None:
        """A transition that the state does not have is answered with false.

        rclpy's service raises there, which would end the executor and with it the node.
        """
        change = self._service_change_state.callback

        def guarded(request: Any, response: Any) -> Any:
            try:
                return change(request, response)
            except RCLError as error:
                self.get_logger().warning(f"change_state: {error}")
                response.success = False
                return response

        self._service_change_state.callback = guarded

    def configure(self) -> None:
        """Allocate what needs parameters: publishers, models, caches."""

    def activate(self) -> None:
        """Begin: subscribe, start the worker."""

    def deactivate(self) -> None:
        """Stop what `activate` began; keep what `configure` allocated."""

    def release(self) -> None:
        """Free everything, from any state."""

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Configure, see `configure`."""
        self.fault = ""
        return self._transition("configure", self.configure, super().on_configure, state)

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Activate, see `activate`."""
        return self._transition("activate", self.activate, super().on_activate, state)

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Deactivate, or go to error processing after `fail`."""
        if self.fault:
            return TransitionCallbackReturn.ERROR
        return self._transition("deactivate", self.deactivate, super().on_deactivate, state)

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Back to unconfigured, see `release`."""
        return self._transition("clean up", self.release, super().on_cleanup, state)

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Release everything for good."""
        return self._transition("shut down", self.release, super().on_shutdown, state)

    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Release everything; the node is unconfigured then."""
        return self._transition("recover", self.release, super().on_error, state)

    def fail(self, reason: str) -> None:
        """End an active node's work through lifecycle error processing; it stays up, unconfigured.

        On the executor's thread only. The reason stays in `fault` until configured again.
        """
        self.fault = reason
        self.get_logger().error(f"fault: {reason}; configure and activate the node to go on")
        self.trigger_deactivate()

    def _transition(self, verb: str, step: Callable[[], None],
                    managed: Callable[[LifecycleState], TransitionCallbackReturn],
                    state: LifecycleState) -> TransitionCallbackReturn:
        try:
            step()
        except Exception as error:  # noqa: BLE001 - logged, and the lifecycle goes to error
            self.fault = f"cannot {verb}: {error}"
            self.get_logger().error(self.fault)
            self.get_logger().debug(traceback.format_exc())
            return TransitionCallbackReturn.ERROR
        self.get_logger().info(f"{verb}: done")
        return managed(state)

    def _autostart(self) -> None:
        self.destroy_timer(self._autostart_timer)
        if self.trigger_configure() == TransitionCallbackReturn.SUCCESS:
            self.trigger_activate()


class ExecutorCalls:
    """Runs functions on the executor's thread that other threads hand over. Bounded.

    Entities may only be made, destroyed and taken through transitions there.
    """

    def __init__(self, node: Node, capacity: int = 256) -> None:
        self._calls: deque[Callable[[], None]] = deque(maxlen=capacity)
        self._guard = node.create_guard_condition(self._run)

    def submit(self, call: Callable[[], None]) -> None:
        """Run `call` soon on the executor's thread."""
        self._calls.append(call)
        self._guard.trigger()

    def _run(self) -> None:
        while self._calls:
            self._calls.popleft()()


class _Streams:
    """What brings data to a node: all that a busy executor waits for at every turn."""

    clients: tuple[()] = ()
    services: tuple[()] = ()
    waitables: tuple[()] = ()

    def __init__(self, node: Node) -> None:
        self._node = node

    # A node gives iterators, new ones each time.

    @property
    def subscriptions(self) -> Iterator[Subscription]:
        return self._node.subscriptions

    @property
    def timers(self) -> Iterator[Timer]:
        return self._node.timers

    @property
    def guards(self) -> Iterator[Any]:
        return self._node.guards

    def __eq__(self, other: object) -> bool:
        return (other._node if isinstance(other, _Streams) else other) is self._node

    def __hash__(self) -> int:
        return hash(self._node)


class StreamExecutor(SingleThreadedExecutor):
    """A single-threaded executor that messages at a high rate cost less.

    rclpy prepares every wait in Python for each entity of a node, most of them services and QoS
    events: milliseconds in which no other thread of the process runs. While messages come in
    quickly most turns are for subscriptions, timers and guard conditions alone; all else waits
    up to `_SERVED_S`, or `_SIGNAL_LATENCY_S` where they suddenly stop.
    """

    def __init__(self, *, context: Context | None = None) -> None:
        super().__init__(context=context)
        self._turned = self._served = 0.0

    def get_nodes(self) -> list[Any]:
        """What the next turn is for."""
        nodes = super().get_nodes()
        now, before = time.monotonic(), self._turned
        self._turned = now
        if now - before < _BUSY_S and now - self._served < _SERVED_S:
            return [_Streams(node) for node in nodes]
        self._served = now
        return nodes


def run(make_node: Callable[[], Node], arguments: list[str] | None = None) -> int:
    """Spin one node until it is told to end; the process' exit code.

    0 after SIGINT, SIGTERM or a shutdown from outside; 2 when the parameters are wrong, with the
    reason on the error stream.
    """
    # rclpy's own handler would end the context under the executor and the worker, which then fail.
    ended = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: ended.set())
    rclpy.init(args=arguments, signal_handler_options=SignalHandlerOptions.NO)
    node: Node | None = None
    executor = StreamExecutor()
    try:
        node = make_node()
        executor.add_node(node)
        while rclpy.ok() and not ended.is_set():
            executor.spin_once(timeout_sec=_SIGNAL_LATENCY_S)
    except ParameterError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    finally:
        executor.shutdown()
        if node is not None:
            close = getattr(node, "release", None)
            if close is not None:
                close()
            node.destroy_node()
        rclpy.try_shutdown()
    return 0
