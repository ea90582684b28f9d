# SPDX-License-Identifier: Apache-2.0
"""What a launched node publishes: the types and QoS of its topics, read from the running graph."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass

from rclpy.qos import (
    DurabilityPolicy,
    QoSCompatibility,
    QoSProfile,
    ReliabilityPolicy,
    qos_check_compatible,
)

from support.launch_evaluation import LaunchedNode
from support.ros import ROOT, NodeProcess, graph


@dataclass(frozen=True)
class Publication:
    """One topic as published."""

    message_type: str
    qos: QoSProfile


def publications(
    node: LaunchedNode, awaited: Callable[[set[str]], bool]
) -> dict[str, Publication]:
    """Start the node, return its publications by full topic name once `awaited(names)` is true."""
    command = [sys.executable, str(ROOT / "scripts" / node.executable), *node.command[1:]]
    found: dict[str, Publication] = {}
    with NodeProcess(command, env=node.environment) as process, graph() as ros:

        def names() -> set[str]:
            if not process.running:
                raise AssertionError(f"{node.executable} ended:\n{process.output}")
            if (node.name, node.namespace) not in ros.node.get_node_names_and_namespaces():
                return set()
            listed = ros.node.get_publisher_names_and_types_by_node(node.name, node.namespace)
            return {name for name, _ in listed}

        ros.spin_until(lambda: awaited(names()), 60.0, f"the topics of {node.full_name}")
        for name in names():
            for info in ros.node.get_publishers_info_by_topic(name):
                if (info.node_name, info.node_namespace) == (node.name, node.namespace):
                    found[name] = Publication(info.topic_type, info.qos_profile)
        assert process.interrupt() == 0, process.output
    return found


def reader_problem(publication: Publication, reliability: str, durability: str) -> str | None:
    """Return why a reader with these policies (like 'Best Effort') would get nothing, or None."""
    reader = QoSProfile(
        depth=1, reliability=ReliabilityPolicy[reliability.upper().replace(" ", "_")],
        durability=DurabilityPolicy[durability.upper().replace(" ", "_")])
    compatibility, reason = qos_check_compatible(publication.qos, reader)
    return str(reason) if compatibility == QoSCompatibility.ERROR else None
