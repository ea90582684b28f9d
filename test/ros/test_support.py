# SPDX-License-Identifier: Apache-2.0
"""The test support itself: a graph of one's own, bounded waits, processes and interfaces."""

from __future__ import annotations

import subprocess
import sys

import pytest

from support.ros import DOMAIN, ROOT, Graph, NodeProcess, ros_arguments


def test_two_test_processes_have_different_domains() -> None:
    done = subprocess.run(
        [sys.executable, "-c", "from support.ros import DOMAIN; print(DOMAIN)"],
        capture_output=True, text=True, check=True, cwd=ROOT / "test",
    )
    assert 0 <= int(done.stdout) <= 101
    assert int(done.stdout) != DOMAIN


def test_our_messages_travel_over_dds(ros: Graph) -> None:
    from inspatio_ros.msg import CandidateScore

    received: list[CandidateScore] = []
    ros.node.create_subscription(CandidateScore, "score", received.append, 1)
    publisher = ros.node.create_publisher(CandidateScore, "score", 1)
    ros.spin_until(publisher.get_subscription_count, what="the subscription")
    publisher.publish(CandidateScore(id="a", state=CandidateScore.PARTIAL, terms=[0.25, 0.5]))
    ros.spin_until(lambda: received, what="the message")
    assert received[0].state == 1
    assert list(received[0].terms) == [0.25, 0.5]


def test_tf_has_the_type_hash_of_ros_2(ros: Graph) -> None:
    from tf2_msgs.msg import TFMessage

    ros.node.create_publisher(TFMessage, "/tf", 1)
    ros.spin_until(lambda: ros.node.get_publishers_info_by_topic("/tf"), what="the publisher")
    type_hash = str(ros.node.get_publishers_info_by_topic("/tf")[0].topic_type_hash)
    # Of tf2_msgs in Jazzy and Kilted; a robot's own tf would not match another one.
    assert type_hash.endswith("e369d0f05a23ae52508854b66f6aa0437f3449d652e8cbf22d5abe85d020f087")


def test_a_wait_ends_at_its_deadline_and_names_what_was_missing(ros: Graph) -> None:
    with pytest.raises(AssertionError, match="vain for a miracle"):
        ros.spin_until(lambda: False, timeout_s=0.2, what="a miracle")


def test_a_process_that_prints_something_else_fails_with_its_output() -> None:
    with NodeProcess([sys.executable, "-c", "print('other')"]) as process:
        with pytest.raises(AssertionError, match="other"):
            process.wait_for_output("ready", timeout_s=20.0)
        assert process.wait_for_exit() == 0


def test_arguments_are_those_of_launch_ros() -> None:
    assert ros_arguments({"a.b": True, "c": [1, 2]}, {"odom": "/o"}, "robot", "eye") == [
        "--ros-args", "-p", "a.b:=true", "-p", "c:=[1, 2]",
        "-r", "odom:=/o", "-r", "__ns:=robot", "-r", "__node:=eye",
    ]
