# SPDX-License-Identifier: Apache-2.0
"""What keeps a model's roll-outs from drifting, and how the node says that they do."""

from __future__ import annotations

import math
from collections.abc import Iterator

import pytest
from rclpy.parameter import Parameter

from inspatio_ros.imagination.generator import GeneratorBackend
from inspatio_ros.imagination.long_rollouts import LongRollout
from support.imagination import Bench


@pytest.fixture
def bench() -> Iterator[Bench]:
    made = Bench(model__preset="tiny_random", output__width=64, output__height=48,
                 imagination__frame_rate=6.0, imagination__reanchor=0.5,
                 imagination__keyframes=2)
    yield made
    made.close()


def test_drift_is_in_the_diagnostics_and_the_options_reach_the_model(bench: Bench) -> None:
    bench.until_imagining()
    robot = bench.robot

    def measured() -> bool:
        value = bench.value("engine", "drift_color")
        return bool(value) and math.isfinite(float(value))

    robot.drive_until(measured, 120, "a drift of the roll-out")
    for key in ("drift_contrast", "drift_sharpness"):
        assert math.isfinite(float(bench.value("engine", key) or "nan"))
    assert bench.node.engine is not None
    backend = bench.node.engine.backend
    assert isinstance(backend, GeneratorBackend)
    assert backend.long_rollout == LongRollout(0.5, 2)
    done = bench.node.set_parameters([
        Parameter("imagination.reanchor", value=0.0), Parameter("imagination.keyframes", value=0)])
    assert all(result.successful for result in done)
    robot.drive_until(lambda: backend.long_rollout == LongRollout(), 60, "the new options")
    refused = bench.node.set_parameters([Parameter("imagination.reanchor", value=1.5)])
    assert not refused[0].successful
