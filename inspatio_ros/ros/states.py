# SPDX-License-Identifier: Apache-2.0
"""Which state the imagination node is in, and the one sentence that says why."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from inspatio_ros.msg import ImaginationStatus as Status

NAMES = {Status.IDLE: "IDLE", Status.WAITING_FOR_INPUT: "WAITING_FOR_INPUT",
         Status.IMAGINING: "IMAGINING", Status.DEGRADED: "DEGRADED", Status.FAULT: "FAULT"}


@dataclass(frozen=True)
class NodeState:
    """One constant of ImaginationStatus and its sentence."""

    state: int
    detail: str

    @property
    def name(self) -> str:
        """The constant's name."""
        return NAMES[self.state]


def decide(*, fault: str, active: bool, observed: bool, missing: str,
           problems: Mapping[str, str], imagining: bool, following: bool,
           has_plan: bool) -> NodeState:
    """The state of these facts; the gravest wins.

    fault: of the lifecycle. missing: the input that is absent or silent. observed: anything to
    imagine from has been seen. problems: what is wrong now, by key.
    """
    if fault:
        return NodeState(Status.FAULT, fault)
    if not active:
        return NodeState(Status.IDLE, "not active")
    sentences = list(problems.values())
    if not observed:
        why = "; ".join(sentences) or missing or "waiting for the first image with depth and pose"
        return NodeState(Status.WAITING_FOR_INPUT, why)
    if missing:
        sentences.append(f"{missing}; imagining from memory")
    if sentences:
        return NodeState(Status.DEGRADED, "; ".join(sentences))
    if imagining:
        return NodeState(Status.IMAGINING, "")
    if not following:
        return NodeState(Status.IDLE, "not following the plan (~/set_following)")
    return NodeState(Status.IDLE, "" if has_plan else "no plan")
