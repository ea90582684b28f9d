# SPDX-License-Identifier: Apache-2.0
"""Time jumps back, by the images or by the clock: everything of the other time goes, one word."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from rosgraph_msgs.msg import Clock

from inspatio_ros.msg import ImaginationStatus as Status
from inspatio_ros.ros import qos
from inspatio_ros.ros.convert.stamps import to_ns, to_time
from support.imagination import Bench

S = 1_000_000_000
JUMP = "time jumped back"


def jumps(bench: Bench) -> list[str]:
    return [line for line in bench.logs if JUMP in line]


@pytest.fixture
def bench() -> Iterator[Bench]:
    made = Bench(output__width=160, output__height=120)
    yield made
    made.close()


def test_a_bag_that_loops(bench: Bench) -> None:
    bench.restart()
    robot = bench.robot
    robot.drive_until(lambda: robot.state_is(Status.IDLE, "no plan"), 20, "ready")
    # The status of before, also idle, must not pass for the one of after the jump.
    robot.plan_until(robot.path(), lambda: len(robot.frames) > 5
                     and robot.state_is(Status.IMAGINING)
                     and robot.status.cloud_points > 0, 20, "frames")
    node = bench.node
    before = to_ns(robot.frames[-1].source_stamp)
    robot.now_ns -= 20 * S
    looped = robot.now_ns
    robot.drive_until(lambda: jumps(bench), 20, "the word about the jump")
    # Nothing newer than the new time is left: neither pose, nor reference, nor plan.
    robot.drive_until(lambda: robot.state_is(Status.IDLE, "no plan"), 20, "the plan gone")
    robot.drive_until(lambda: node.live._references, 20, "references of the new time")
    assert all(r.stamp_ns < before for r in node.live._references)
    assert node.poses.newest_stamp() <= robot.now_ns
    bench.until_imagining()
    assert looped < to_ns(robot.frames[-1].source_stamp) < before
    assert len(jumps(bench)) == 1
    stamps = [to_ns(f.header.stamp) for f in robot.frames]
    assert stamps == sorted(stamps)


def test_a_late_image_is_no_jump(bench: Bench) -> None:
    bench.restart()
    robot = bench.robot
    bench.until_imagining()
    robot.now_ns -= S // 2
    for _ in range(20):
        robot.tick()
        bench.graph.spin_for(0.02)
    assert not jumps(bench)
    bench.until_imagining()


def test_the_clock_of_a_simulator_that_is_reset() -> None:
    bench = Bench(output__width=160, output__height=120, use_sim_time=True)
    try:
        robot = bench.robot
        clock = bench.graph.node.create_publisher(Clock, "/clock", qos.profile(1))

        def tick() -> None:
            robot.tick()
            clock.publish(Clock(clock=to_time(robot.now_ns)))

        robot.drive_until(lambda: robot.state_is(Status.IDLE, "no plan"), 20, "ready", tick)
        robot.plan_until(robot.path(), lambda: len(robot.frames) > 5
                         and robot.state_is(Status.IMAGINING), 20, "frames", tick)
        assert robot.now_ns - S < to_ns(robot.frames[-1].header.stamp) <= robot.now_ns + S // 10
        robot.now_ns -= 50 * S
        later = robot.now_ns
        robot.drive_until(lambda: jumps(bench), 20, "the word about the jump", tick)
        robot.drive_until(lambda: robot.state_is(Status.IDLE, "no plan"), 20, "cleared", tick)
        count = len(robot.frames)
        robot.plan_until(robot.path(), lambda: len(robot.frames) > count + 5, 20, "frames again",
                         tick)
        assert later < to_ns(robot.frames[-1].header.stamp) < later + 45 * S
        assert len(jumps(bench)) == 1
    finally:
        bench.close()
