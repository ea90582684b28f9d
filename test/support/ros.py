# SPDX-License-Identifier: Apache-2.0
"""A ROS graph of one's own for a test process, with waits that end: on a condition or a deadline.

Importing this module claims a domain id that no other test process of this machine holds. Programs
started from here inherit it.
"""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import rclpy
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node

ROOT = Path(__file__).resolve().parents[2]
DOMAINS = 102  # ids 0..101 keep clear of the ports that Linux gives to outgoing connections
OUTPUT_LINES = 5000


def claim_domain() -> tuple[int, IO[str]]:
    """A free domain id and the open lock file that holds it until the process ends."""
    for offset in range(DOMAINS):
        domain = (os.getpid() + offset) % DOMAINS
        path = Path(tempfile.gettempdir(), f"inspatio_ros_test_domain_{domain}.lock")
        try:
            lock = path.open("a")
        except PermissionError:  # another user's
            continue
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.close()
            continue
        return domain, lock
    raise RuntimeError(f"all {DOMAINS} ROS domain ids are claimed by running tests")


DOMAIN, _LOCK = claim_domain()
os.environ["ROS_DOMAIN_ID"] = str(DOMAIN)
os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"


class Graph:
    """One context, one node of the test and one executor, which spins only inside spin_until."""

    def __init__(self, name: str = "test_node", **node_options: Any) -> None:
        self.context = Context()
        rclpy.init(context=self.context, domain_id=DOMAIN)
        self.executor = SingleThreadedExecutor(context=self.context)
        self.node = Node(name, context=self.context, **node_options)
        self.executor.add_node(self.node)

    def add(self, node: Node) -> None:
        """Spin `node`, made with this graph's context, as well."""
        self.executor.add_node(node)

    def spin_until(
        self, condition: Callable[[], object], timeout_s: float = 20.0, what: str = "the condition"
    ) -> None:
        """Spin until `condition()` is true; AssertionError naming `what` after `timeout_s`."""
        deadline = time.monotonic() + timeout_s
        while not condition():
            if time.monotonic() > deadline:
                raise AssertionError(f"waited {timeout_s} s in vain for {what}")
            self.executor.spin_once(timeout_sec=0.05)

    def spin_for(self, duration_s: float) -> None:
        """Spin for a fixed time: only to show that something does not happen."""
        deadline = time.monotonic() + duration_s
        while (left := deadline - time.monotonic()) > 0.0:
            self.executor.spin_once(timeout_sec=min(left, 0.05))

    def result(self, future: Any, timeout_s: float = 20.0, what: str = "the answer") -> Any:
        """The result of a service or action future."""
        self.spin_until(future.done, timeout_s, what)
        return future.result()

    def call(self, service_type: Any, name: str, request: Any, timeout_s: float = 20.0) -> Any:
        """The response of a service once it is there."""
        client = self.node.create_client(service_type, name)
        try:
            self.spin_until(client.service_is_ready, timeout_s, f"service {name}")
            return self.result(client.call_async(request), timeout_s, f"the answer of {name}")
        finally:
            self.node.destroy_client(client)

    def close(self) -> None:
        """Leave the graph."""
        self.executor.shutdown()
        self.node.destroy_node()
        self.context.try_shutdown()


@contextmanager
def graph(name: str = "test_node", **node_options: Any) -> Iterator[Graph]:
    """A Graph for the length of a with statement."""
    made = Graph(name, **node_options)
    try:
        yield made
    finally:
        made.close()


def ros_arguments(
    parameters: Mapping[str, object] | None = None,
    remaps: Mapping[str, str] | None = None,
    namespace: str | None = None,
    name: str | None = None,
    params_files: Sequence[Path | str] = (),
) -> list[str]:
    """The arguments from --ros-args on; values are written as YAML would."""
    words = ["--ros-args"]
    for path in params_files:
        words += ["--params-file", str(path)]
    for key, value in (parameters or {}).items():
        text = str(value).lower() if isinstance(value, bool) else str(value)
        words += ["-p", f"{key}:={text}"]
    rules = dict(remaps or {})
    if namespace is not None:
        rules["__ns"] = namespace
    if name is not None:
        rules["__node"] = name
    for source, target in rules.items():
        words += ["-r", f"{source}:={target}"]
    return words


class NodeProcess:
    """A running program whose output can be waited for; killed when the with statement ends."""

    def __init__(self, command: Sequence[str], env: Mapping[str, str] | None = None) -> None:
        self.command = list(command)
        self._lines: deque[str] = deque(maxlen=OUTPUT_LINES)
        self._changed = threading.Condition()
        self._process = subprocess.Popen(
            self.command, cwd=ROOT, env={**os.environ, **(env or {}), "PYTHONUNBUFFERED": "1"},
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            errors="replace",
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            with self._changed:
                self._lines.append(line)
                self._changed.notify_all()
        with self._changed:
            self._changed.notify_all()

    @property
    def output(self) -> str:
        """What the program printed so far (its last lines, if there were very many)."""
        with self._changed:
            return "".join(self._lines)

    @property
    def running(self) -> bool:
        """Whether the program still runs."""
        return self._process.poll() is None

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    def wait_for_output(self, text: str, timeout_s: float = 30.0) -> None:
        """Return once `text` was printed; AssertionError with the output otherwise."""
        deadline = time.monotonic() + timeout_s
        with self._changed:
            while text not in "".join(self._lines):
                left = deadline - time.monotonic()
                if left <= 0.0 or not self._reader.is_alive():
                    shown = "".join(self._lines)
                    raise AssertionError(f"{text!r} was not printed by {self.command}:\n{shown}")
                self._changed.wait(min(left, 0.5))

    def wait_for_exit(self, timeout_s: float = 20.0) -> int:
        """The exit status; AssertionError with the output when it does not end."""
        try:
            status = self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{self.command} does not end:\n{self.output}") from None
        self._reader.join(5.0)
        return status

    def interrupt(self, timeout_s: float = 20.0) -> int:
        """Send SIGINT, as Ctrl-C and launch do, and return the exit status."""
        if self.running:
            self._process.send_signal(signal.SIGINT)
        return self.wait_for_exit(timeout_s)

    def __enter__(self) -> NodeProcess:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.running:
            self._process.kill()
        self._process.wait(10.0)
        self._reader.join(5.0)
        assert self._process.stdout is not None
        self._process.stdout.close()
        if error is not None:
            sys.stderr.write(f"--- output of {' '.join(self.command)}\n{self.output}")


def start_node(
    executable: str,
    parameters: Mapping[str, object] | None = None,
    remaps: Mapping[str, str] | None = None,
    namespace: str | None = None,
    name: str | None = None,
    params_files: Sequence[Path | str] = (),
    env: Mapping[str, str] | None = None,
) -> NodeProcess:
    """Start scripts/<executable> as launch_ros would, with this Python."""
    arguments = ros_arguments(parameters, remaps, namespace, name, params_files)
    return NodeProcess([sys.executable, str(ROOT / "scripts" / executable), *arguments], env)
