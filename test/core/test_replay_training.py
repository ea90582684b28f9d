# SPDX-License-Identifier: Apache-2.0
"""Replay: the mix is exact, a function of the step, and leaves every domain's stream whole."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from inspatio_ros.model.config import ModelError
from inspatio_ros.training.batches import LatentBatch
from inspatio_ros.training.replay import ReplaySource


class Numbered:
    """Batches that hold their own number, split among processes."""

    def __init__(self, base: int, clips: int = 4) -> None:
        self.base, self.clips = base, clips

    def batch(self, step: int, rank: int = 0, world_size: int = 1) -> LatentBatch:
        numbers = torch.arange(self.clips)[rank::world_size] + self.base + step * self.clips
        return LatentBatch("t2v", numbers.float().reshape(-1, 1, 1, 1, 1, 1))

    def validation(self) -> Iterator[LatentBatch]:
        yield LatentBatch("t2v", torch.full((1, 1, 1, 1, 1, 1), -1.0 - self.base))


RATIOS = st.integers(0, 99).map(lambda hundredths: hundredths / 100)


def mixed(ratio: float, domains: int = 2) -> ReplaySource:
    others = {f"domain{i}": Numbered(10_000 * (i + 1)) for i in range(domains)}
    return ReplaySource("main", Numbered(0), others, ratio)


@given(ratio=RATIOS, domains=st.integers(1, 4), steps=st.integers(0, 500))
def test_every_beginning_has_the_share_asked_for(ratio: float, domains: int, steps: int) -> None:
    source = mixed(ratio, domains)
    seen = [source.turn(step)[0] for step in range(steps)]
    counts = {name: seen.count(name) for name in source.domains}
    assert source.counts(steps) == counts
    replays = steps - counts["main"]
    exact = Fraction(round(ratio * 100), 100) * steps
    assert 0 <= exact - replays < 1
    others = [counts[name] for name in source.domains[1:]]
    assert max(others) - min(others) <= 1
    assert sum(mixed(ratio, domains).counts(1000).values()) == 1000
    assert 1000 - source.counts(1000)["main"] == round(ratio * 1000)


@given(ratio=RATIOS, domains=st.integers(1, 4))
def test_each_domain_is_read_in_order_without_a_gap(ratio: float, domains: int) -> None:
    source = mixed(ratio, domains)
    following = dict.fromkeys(source.domains, 0)
    for step in range(300):
        name, place = source.turn(step)
        assert place == following[name]
        following[name] += 1


@given(ratio=RATIOS, steps=st.lists(st.integers(0, 10_000), min_size=1, max_size=20))
def test_a_batch_depends_on_its_step_alone(ratio: float, steps: list[int]) -> None:
    first, second = mixed(ratio), mixed(ratio)
    for step in reversed(steps):
        first.batch(step)
    for step in steps:
        a, b = first.batch(step), second.batch(step)
        assert a.domain == b.domain == first.turn(step)[0]
        assert torch.equal(a.target, b.target)


@given(ratio=RATIOS, step=st.integers(0, 1000), world_size=st.integers(1, 4))
def test_processes_share_a_batch_of_one_domain(ratio: float, step: int, world_size: int) -> None:
    source = mixed(ratio)
    parts = [source.batch(step, rank, world_size) for rank in range(world_size)]
    assert len({part.domain for part in parts}) == 1
    together = torch.cat([part.target for part in parts]).flatten().sort().values
    assert torch.equal(together, source.batch(step).target.flatten())


@given(low=RATIOS, high=RATIOS)
def test_another_ratio_shows_the_same_clips_of_the_domain_only_fewer(
        low: float, high: float) -> None:
    low, high = sorted((low, high))

    def of_main(ratio: float) -> list[float]:
        source = mixed(ratio)
        batches = (source.batch(step) for step in range(40))
        return [float(n) for b in batches if b.domain == "main" for n in b.target.flatten()]

    many, few = of_main(low), of_main(high)
    assert few == many[:len(few)]


def test_without_replay_it_is_the_domain_itself() -> None:
    source = ReplaySource("main", Numbered(0), {}, 0.0)
    assert source.counts(7) == {"main": 7}
    for step in range(5):
        assert torch.equal(source.batch(step).target, Numbered(0).batch(step).target)


def test_decimals_are_meant_as_written() -> None:
    assert mixed(0.29, 1).counts(100)["domain0"] == 29  # 0.29 * 100 is 28.999... in binary


def test_validation_names_every_domain() -> None:
    assert [b.domain for b in mixed(0.1).validation()] == ["main", "domain0", "domain1"]


def test_what_makes_no_mix_is_refused() -> None:
    with pytest.raises(ValueError, match=r"1\.0 is not in \[0, 1\)"):
        mixed(1.0)
    with pytest.raises(ValueError, match=r"-0\.1 is not in"):
        mixed(-0.1)
    with pytest.raises(ValueError, match="no domain to replay"):
        ReplaySource("main", Numbered(0), {}, 0.1)
    with pytest.raises(ValueError, match="into itself"):
        ReplaySource("main", Numbered(0), {"main": Numbered(1)}, 0.1)
    with pytest.raises(ValueError, match="negative"):
        mixed(0.1).turn(-1)


def test_batches_of_unequal_size_are_refused() -> None:
    source = ReplaySource("main", Numbered(0), {"other": Numbered(1, clips=3)}, 0.5)
    source.batch(0)
    with pytest.raises(ModelError, match="'other' has 3 clips, one of 'main' 4"):
        source.batch(1)
