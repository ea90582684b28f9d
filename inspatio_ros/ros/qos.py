# SPDX-License-Identifier: Apache-2.0
"""Named QoS profiles, and subscriptions that follow what the publishers offer."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from rclpy.clock import Clock, ClockType
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy
from rclpy.subscription import Subscription
from rclpy.utilities import get_rmw_implementation_identifier


def profile(depth: int, *, reliable: bool = True, latched: bool = False) -> QoSProfile:
    """A keep-last profile of this depth."""
    return QoSProfile(
        history=HistoryPolicy.KEEP_LAST, depth=depth,
        reliability=ReliabilityPolicy.RELIABLE if reliable else ReliabilityPolicy.BEST_EFFORT,
        durability=DurabilityPolicy.TRANSIENT_LOCAL if latched else DurabilityPolicy.VOLATILE)


# A reliable publisher serves best-effort readers too; depth 2 lets a reader be one frame late.
IMAGE_OUTPUT = profile(2)
# nav2's planners publish volatile plans: a transient-local reader would get nothing from them.
PLAN_INPUT = profile(1)
LATCHED = profile(1, latched=True)
STATE_OUTPUT = profile(10)
# tf2's own profiles: listeners ask for depth 100, static transforms are latched.
TF = profile(100)
TF_STATIC = profile(100, latched=True)
DIAGNOSTICS = profile(10)

IMAGE_DEPTH = 1
INFO_DEPTH = 5
ODOMETRY_DEPTH = 10


def followed(publishers: list[Any], depth: int) -> QoSProfile:
    """The strictest profile that still matches every publisher of the list.

    publishers: rclpy TopicEndpointInfo. With no publisher yet: best effort, which matches all.
    """
    offers = [info.qos_profile for info in publishers]
    return profile(
        depth,
        reliable=bool(offers) and all(
            offer.reliability == ReliabilityPolicy.RELIABLE for offer in offers),
        latched=bool(offers) and all(
            offer.durability == DurabilityPolicy.TRANSIENT_LOCAL for offer in offers))


class FollowingSubscription:
    """A subscription whose reliability and durability follow the topic's publishers.

    The graph is looked at when created and every `period` seconds of steady time; when the
    publishers' offer changes, the subscription is made anew. All on the executor's thread.
    """

    def __init__(self, node: Node, msg_type: type, topic: str, callback: Callable[[Any], None],
                 depth: int, *, period: float = 0.5, raw: bool = False) -> None:
        self._node = node
        self._msg_type = msg_type
        self._callback = callback
        self._depth = depth
        self._raw = raw
        # get_publishers_info_by_topic expands the name but does not remap it.
        self.topic: str = node.resolve_topic_name(topic)
        self._requested_name = topic
        self._subscription: Subscription | None = None
        self._offer: tuple[ReliabilityPolicy, DurabilityPolicy] | None = None
        self._timer = node.create_timer(
            period, self.follow, clock=Clock(clock_type=ClockType.STEADY_TIME))
        self.follow()

    def follow(self) -> None:
        """Subscribe anew when the publishers offer something else than we ask for."""
        publishers = self.publishers()
        if not publishers and self._subscription is not None:
            return
        wanted = followed(publishers, self._depth)
        offer = (wanted.reliability, wanted.durability)
        if offer == self._offer:
            return
        if self._subscription is not None:
            self._node.destroy_subscription(self._subscription)
            self._node.get_logger().debug(f"{self.topic}: subscribed anew as {offer}")
        self._offer = offer
        self._subscription = self._node.create_subscription(
            self._msg_type, self._requested_name, self._callback, wanted, raw=self._raw)

    def publishers(self) -> list[Any]:
        """The topic's publishers now."""
        return list(self._node.get_publishers_info_by_topic(self.topic))

    @property
    def reliable(self) -> bool:
        """Whether the subscription asks for reliable delivery now."""
        return self._offer is not None and self._offer[0] == ReliabilityPolicy.RELIABLE

    def destroy(self) -> None:
        """Unsubscribe and stop following."""
        self._node.destroy_timer(self._timer)
        if self._subscription is not None:
            self._node.destroy_subscription(self._subscription)
            self._subscription = None


# A message above this does not fit Fast DDS's default shared-memory segment several times over.
LARGE_MESSAGE_BYTES = 150_000
_PROFILE_VARIABLES = ("FASTDDS_DEFAULT_PROFILES_FILE", "FASTRTPS_DEFAULT_PROFILES_FILE",
                      "FASTDDS_BUILTIN_TRANSPORTS")


def transport_warning(message_bytes: int) -> str:
    """Why messages of this size will be slow with the transport in force; empty when they won't.

    Fast DDS by default has a 512 kB shared-memory segment: a 1.2 MB image then takes about ten
    times as long and best-effort readers get almost none (docs/benchmarks.md).
    """
    fast_dds = "fastrtps" in get_rmw_implementation_identifier()
    if message_bytes < LARGE_MESSAGE_BYTES or not fast_dds:
        return ""
    if any(os.environ.get(name) for name in _PROFILE_VARIABLES):
        return ""
    return (f"images of {message_bytes / 1e6:.1f} MB go through Fast DDS's default transport, "
            "which is slow for them and loses them for best-effort readers: start the nodes with "
            "the launch files, or set FASTRTPS_DEFAULT_PROFILES_FILE and "
            "FASTDDS_DEFAULT_PROFILES_FILE to share/inspatio_ros/config/fastdds_large_images.xml")
