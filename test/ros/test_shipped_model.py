# SPDX-License-Identifier: Apache-2.0
"""The small model that ships, in the real node: what `model.preset: auto` means without a GPU."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from inspatio_ros.imagination.backends import TINY
from inspatio_ros.msg import ImaginationStatus as Status
from support.imagination import Bench


@pytest.fixture
def bench() -> Iterator[Bench]:
    made = Bench(model__preset="auto", output__width=224, output__height=128,
                 imagination__frame_rate=6.0)
    yield made
    made.close()


@pytest.mark.skipif(torch.cuda.is_available(), reason="with a GPU auto may be another model")
def test_the_node_imagines_with_the_shipped_model(bench: Bench) -> None:
    robot = bench.robot
    assert robot.status is not None
    bench.until_imagining()
    assert robot.status.model_name == TINY
    assert robot.status.checkpoint_digest
    frame = robot.frames[-1]
    assert frame.imagined_ratio + frame.memory_ratio + frame.observed_ratio == pytest.approx(1)
    bench.graph.spin_until(lambda: robot.state_is(Status.IMAGINING), 20, "still imagining")
