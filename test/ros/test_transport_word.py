# SPDX-License-Identifier: Apache-2.0
"""Without the shipped transport profile the node works and says once why images are slow."""

from __future__ import annotations

import pytest

from inspatio_ros.geometry.camera import PinholeCamera
from inspatio_ros.ros import qos
from support.imagination import TestRobot
from support.ros import ROOT, graph, start_node

LARGE = PinholeCamera(320, 240, 240.0, 240.0, 159.5, 119.5)
WORDS = "go through Fast DDS's default transport"


def test_profile_or_word(monkeypatch: pytest.MonkeyPatch) -> None:
    if "fastrtps" not in qos.get_rmw_implementation_identifier():
        pytest.skip("another middleware than Fast DDS")
    for name in ("FASTDDS_DEFAULT_PROFILES_FILE", "FASTRTPS_DEFAULT_PROFILES_FILE",
                 "FASTDDS_BUILTIN_TRANSPORTS"):
        monkeypatch.delenv(name, raising=False)
    assert WORDS in qos.transport_warning(1_200_000)
    assert qos.transport_warning(50_000) == ""
    monkeypatch.setenv("FASTRTPS_DEFAULT_PROFILES_FILE",
                       str(ROOT / "config/fastdds_large_images.xml"))
    assert qos.transport_warning(1_200_000) == ""


def test_a_program_without_the_profile(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("FASTDDS_DEFAULT_PROFILES_FILE", "FASTRTPS_DEFAULT_PROFILES_FILE",
                 "FASTDDS_BUILTIN_TRANSPORTS"):
        monkeypatch.delenv(name, raising=False)
    parameters = {"output.width": 160, "output.height": 120, "model.preset": "geometric"}
    with graph() as made, start_node("imagination", parameters=parameters) as process:
        robot = TestRobot(made)
        ticks = [0]

        def tick() -> None:
            ticks[0] += 1
            robot.now_ns += 50_000_000
            robot.send_tf()
            robot.send_infos(LARGE)
            robot.send_pair(LARGE)
            if ticks[0] % 30 == 1:
                robot.plan.publish(robot.path())

        robot.drive_until(lambda: len(robot.frames) > 5 and WORDS in process.output, 60,
                          "frames and the word", tick)
        robot.drive_until(lambda: len(robot.frames) > 15, 30, "more frames", tick)
        assert process.output.count(WORDS) == 1
        assert process.interrupt() == 0
        assert "Traceback" not in process.output
