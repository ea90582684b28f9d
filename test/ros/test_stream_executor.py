# SPDX-License-Identifier: Apache-2.0
"""The nodes' executor: cheap turns while messages stream in, and all else in time."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest
from rclpy.node import Node
from std_msgs.msg import Header
from std_srvs.srv import Trigger

from inspatio_ros.ros.node_base import StreamExecutor, _Streams
from support.ros import Graph, graph


class Server:
    """A node with a stream, a service, a guard condition and a coroutine, spun by a thread."""

    def __init__(self, other: Graph) -> None:
        self.node = Node("server", context=other.context)
        self.executor = StreamExecutor(context=other.context)
        self.executor.add_node(self.node)
        self.heard: list[float] = []
        self.turns: list[bool] = []  # whether one was for streams alone
        self.woken = threading.Event()
        self.node.create_subscription(Header, "stream", self._hear, 10)
        self.node.create_service(Trigger, "ask", self._answer)
        self.guard = self.node.create_guard_condition(self.woken.set)
        looked_up = self.executor.get_nodes

        def get_nodes() -> list[object]:
            nodes = looked_up()
            self.turns.append(isinstance(nodes[0], _Streams) if nodes else False)
            return nodes

        self.executor.get_nodes = get_nodes
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._spin)
        self._thread.start()

    def _hear(self, _: Header) -> None:
        self.heard.append(time.monotonic())

    def _answer(self, _: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        response.success = True
        return response

    def _spin(self) -> None:
        while not self._ended.is_set():
            self.executor.spin_once(timeout_sec=0.1)

    def close(self) -> None:
        self._ended.set()
        self._thread.join()
        self.executor.shutdown()
        self.node.destroy_node()


@pytest.fixture
def pair() -> Iterator[tuple[Graph, Server]]:
    with graph() as other:
        server = Server(other)
        try:
            yield other, server
        finally:
            server.close()


def test_streams_are_served_cheaply_and_services_all_the_same(
        pair: tuple[Graph, Server]) -> None:
    other, server = pair
    publisher = other.node.create_publisher(Header, "stream", 10)
    other.spin_until(lambda: publisher.get_subscription_count() == 1, what="the subscription")
    timer = other.node.create_timer(0.005, lambda: publisher.publish(Header()))
    other.spin_until(lambda: len(server.heard) > 100, what="the stream")
    server.turns.clear()
    first = len(server.heard)
    for _ in range(5):
        assert other.call(Trigger, "ask", Trigger.Request()).success
        server.guard.trigger()
        other.spin_until(server.woken.is_set, 5.0, "the guard condition")
        server.woken.clear()
    assert len(server.heard) > first
    # Most turns are cheap, yet some are for everything.
    assert 0.3 < sum(server.turns) / len(server.turns) < 1.0
    # Cheap turns hear the stream too: rclpy makes two for each message.
    server.turns.clear()
    first = len(server.heard)
    other.spin_until(lambda: len(server.heard) - first > 100, what="more of the stream")
    assert len(server.turns) < 3 * (len(server.heard) - first)
    timer.cancel()


def test_without_messages_every_turn_is_for_everything(pair: tuple[Graph, Server]) -> None:
    other, server = pair
    other.spin_until(lambda: len(server.turns) > 3, what="turns")
    server.turns.clear()
    assert other.call(Trigger, "ask", Trigger.Request()).success
    other.spin_until(lambda: len(server.turns) > 6, what="more turns")
    # All but those right after the service's own messages.
    assert sum(server.turns) < len(server.turns) / 2


def test_a_coroutine_goes_on_in_turns_of_either_kind(pair: tuple[Graph, Server]) -> None:
    other, server = pair
    asked = other.node.create_service(Trigger, "far", server._answer)
    client = server.node.create_client(Trigger, "far")
    other.spin_until(client.service_is_ready, what="the far service")
    done = threading.Event()

    async def ask() -> None:
        answer = await client.call_async(Trigger.Request())
        assert answer.success
        done.set()

    publisher = other.node.create_publisher(Header, "stream", 10)
    timer = other.node.create_timer(0.005, lambda: publisher.publish(Header()))
    other.spin_until(lambda: len(server.heard) > 20, what="the stream")
    server.executor.create_task(ask)
    other.spin_until(done.is_set, what="the coroutine's end")
    timer.cancel()
    other.node.destroy_service(asked)


def test_a_node_stands_for_itself() -> None:
    class Plain:
        subscriptions = timers = guards = ()

    one, other = Plain(), Plain()
    assert one in [_Streams(one)]
    assert other not in [_Streams(one)]
    assert _Streams(one) == _Streams(one) != _Streams(other)
    assert len({_Streams(one), _Streams(one)}) == 1
