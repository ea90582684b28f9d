# SPDX-License-Identifier: Apache-2.0
"""The small model that ships, in the real node: what `model.preset: auto` means without a GPU."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from inspatio_ros.imagination.backends import TINY, TINY_RANDOM
from inspatio_ros.model.presets import preset
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


@pytest.fixture
def small() -> Iterator[Bench]:
    made = Bench(model__preset=TINY_RANDOM, output__width=96, output__height=64,
                 imagination__horizon=8.0)
    yield made
    made.close()


def test_a_way_that_gives_way_to_a_newer_plan_ends_with_a_whole_block(small: Bench) -> None:
    """Blocks are begun ahead, of the next way too: frames of two ways do not mix."""
    robot = small.robot
    small.until_imagining()
    assert robot.status is not None
    superseded, steps = robot.status.plans_superseded, iter(range(1, 1000))

    def change() -> None:
        robot.tick()
        number = next(steps)
        if number % 10 == 0:
            robot.plan.publish(robot.path(40, step=0.1 + 0.001 * number))

    robot.drive_until(lambda: robot.status.plans_superseded >= superseded + 4, 60,
                      "plans superseded", change)
    block = preset(TINY_RANDOM).block_frames
    frames = [(f.frame_index, f.frame_count) for f in robot.frames]
    starts = [k for k, (index, _) in enumerate(frames) if index == 0]
    assert len(starts) > 3
    for start, stop in zip(starts, starts[1:], strict=False):
        way = frames[start:stop]
        assert [index for index, _ in way] == list(range(len(way)))
        assert len(way) % block == 0 or len(way) == way[0][1]
