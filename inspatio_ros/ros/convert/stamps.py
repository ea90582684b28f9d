# SPDX-License-Identifier: Apache-2.0
"""Between ROS times and int nanoseconds."""

from __future__ import annotations

from builtin_interfaces.msg import Duration, Time

from inspatio_ros.messages.poses import to_ns

__all__ = ["to_duration", "to_ns", "to_time"]


def to_time(stamp_ns: int) -> Time:
    """The message time of `stamp_ns` nanoseconds."""
    seconds, nanoseconds = divmod(int(stamp_ns), 1_000_000_000)
    return Time(sec=seconds, nanosec=nanoseconds)


def to_duration(seconds: float) -> Duration:
    """The message duration of a number of seconds."""
    whole, nanoseconds = divmod(round(seconds * 1e9), 1_000_000_000)
    return Duration(sec=int(whole), nanosec=int(nanoseconds))
