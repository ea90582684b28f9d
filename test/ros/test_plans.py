# SPDX-License-Identifier: Apache-2.0
"""Plans of every bad kind: refused by name or followed, and the node goes on."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from nav_msgs.msg import Path
from std_srvs.srv import Trigger

from inspatio_ros.msg import ImaginationStatus as Status
from inspatio_ros.ros.convert.stamps import to_ns, to_time
from support.imagination import Bench


@pytest.fixture(scope="module")
def bench() -> Iterator[Bench]:
    made = Bench(output__width=160, output__height=120, transforms__timeout=0.3,
                 imagination__max_frames=60)
    yield made
    made.close()


@pytest.fixture(autouse=True)
def _fresh(bench: Bench) -> None:
    bench.restart()
    robot = bench.robot
    robot.drive_until(lambda: robot.state_is(Status.IDLE, "no plan"), 20, "ready")


def refused(bench: Bench, path: Path, words: str) -> None:
    """The plan is refused in status, log and diagnostics, and a good one is then followed."""
    robot = bench.robot
    robot.plan_until(path, lambda: robot.state_is(Status.DEGRADED, words), 20, words)
    robot.drive_until(lambda: any(words in line for line in bench.logs), 20, "the log")
    robot.drive_until(lambda: int(bench.value("input", "dropped_plan_refused") or 0) >= 1
                      and words in bench.message("input"), 20, "its diagnostic")
    assert not robot.frames
    bench.until_imagining()


def test_nan_position(bench: Bench) -> None:
    path = bench.robot.path()
    path.poses[2].pose.position.y = float("nan")
    refused(bench, path, "plan refused: pose 2 of the path is not finite")


def test_no_rotation(bench: Bench) -> None:
    path = bench.robot.path()
    path.poses[3].pose.orientation.w = 0.0
    refused(bench, path, "plan refused: pose 3 of the path has the orientation (0, 0, 0, 0)")


def test_unknown_frame(bench: Bench) -> None:
    refused(bench, bench.robot.path(frame="utm"), "plan refused: tf has no frame 'utm'")


def test_no_frame(bench: Bench) -> None:
    refused(bench, bench.robot.path(frame=""), "plan refused: path names no frame")


def test_mixed_frames(bench: Bench) -> None:
    path = bench.robot.path()
    path.poses[1].header.frame_id = "map"
    refused(bench, path, "has poses in ['map']")


def test_all_in_the_past(bench: Bench) -> None:
    path = bench.robot.path()
    for i, pose in enumerate(path.poses):
        pose.header.stamp = to_time(1_000_000_000 * (i + 1))
    refused(bench, path, "plan refused: the path's last pose lies")


def test_a_refused_plan_leaves_the_one_before_in_work(bench: Bench) -> None:
    bench.until_imagining()
    robot = bench.robot
    bad = robot.path()
    bad.poses[0].pose.position.x = float("inf")
    robot.plan_until(bad, lambda: robot.state_is(Status.DEGRADED, "pose 0"), 20, "the refusal")
    count = len(robot.frames)
    robot.drive_until(lambda: len(robot.frames) > count + 5, 20, "frames of the plan before")
    bench.until_imagining()


def test_empty_path_stops(bench: Bench) -> None:
    bench.until_imagining()
    robot = bench.robot
    robot.plan_until(Path(), lambda: robot.state_is(Status.IDLE, "no plan"), 20, "stopped")
    bench.until_imagining()


def followed(bench: Bench, path: Path, frame_count: int) -> None:
    robot = bench.robot
    robot.plan_until(path, lambda: robot.frames, 20, "frames")
    assert robot.frames[0].frame_count == frame_count
    assert robot.status.state in (Status.IMAGINING, Status.DEGRADED, Status.IDLE)


def test_one_pose(bench: Bench) -> None:
    """One pose where the robot stands: one view."""
    followed(bench, bench.robot.path(count=1), 1)


def test_unit_length_is_made(bench: Bench) -> None:
    robot = bench.robot
    path = robot.path()
    for pose in path.poses:
        pose.pose.orientation.w = 2.0
    words = "plan: 5 orientations are not of unit length and were normalized"
    robot.plan_until(path, lambda: any(words in line for line in bench.logs), 20, words)
    robot.drive_until(lambda: robot.frames, 20, "frames")
    assert robot.frames[0].frame_count == 13
    q = robot.frames[-1].camera_pose.pose.orientation
    assert np.linalg.norm([q.x, q.y, q.z, q.w]) == pytest.approx(1.0)


def test_stamped_path_keeps_its_times(bench: Bench) -> None:
    robot = bench.robot
    now = bench.node.get_clock().now().nanoseconds
    path = robot.path(count=4)
    for i, pose in enumerate(path.poses):
        pose.header.stamp = to_time(now + i * 20_000_000_000)
    robot.plan_until(path, lambda: robot.frames, 20, "frames")
    # The first minute's horizon of 5 s; the robot's own 0.5 m/s would take 0.6 s in all.
    assert robot.frames[0].frame_count == 60


def test_a_hundred_thousand_poses_stall_nothing(bench: Bench) -> None:
    robot = bench.robot
    long = robot.path(count=100_000, step=0.0001)
    bench.until_imagining()
    robot.plan.publish(long)
    ticks = [0]

    def answered() -> bool:
        ticks[0] += 1
        return any(f.frame_count == 60 for f in robot.frames)

    robot.drive_until(answered, 30, "frames along the long plan")
    # The executor kept answering while the plan was read.
    assert bench.graph.call(Trigger, "imagination/clear_memory", Trigger.Request()).success
    bench.until_imagining()


def test_plan_that_waits_for_its_transform(bench: Bench) -> None:
    """The plan comes before the transform of its frame, which is not a fault."""
    robot = bench.robot
    path = robot.path(frame="map")
    path.header.stamp = robot.header(robot.now_ns + 100_000_000).stamp
    robot.plan.publish(path)
    bench.graph.spin_for(0.1)
    robot.now_ns = to_ns(path.header.stamp) - 50_000_000

    def tick() -> None:
        robot.tick()
        robot.send_tf(parent="map", child="odom")

    robot.plan_until(path, lambda: robot.frames, 20, "frames", tick)
    assert int(bench.value("input", "dropped_plan_refused") or 0) == 0
