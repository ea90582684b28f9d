# SPDX-License-Identifier: Apache-2.0
"""Cross-domain replay: batches of one domain with a share of batches of others mixed in.

The plain form of rehearsal in continual learning (Robins 1995), as a sampler only: neither the
objective nor the model knows of it. For video generators see Chang et al. 2025, arXiv 2508.16512.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from fractions import Fraction

from inspatio_ros.model.config import ModelError
from inspatio_ros.training.batches import BatchSource, LatentBatch


class ReplaySource:
    """A BatchSource that is domain `name` with the share `ratio` of its batches from `replayed`.

    Every batch is of one domain, since domains may differ in task and picture size; batches have
    equally many clips, so that the share of batches is the share of clips. Of the first n batches
    floor(n ratio) are replayed, at even distances, and the replayed domains take turns: the mix is
    a function of the step alone, without a random draw, and exact at every length to one batch.
    Each domain's own stream is read from its beginning without a gap, whatever the ratio; so two
    runs that differ in the ratio alone see the same clips in the same order, only fewer of them.

    main: batches of domain `name`. replayed: the others, by name. ratio in [0, 1); 0 needs none.
    Raises ValueError for a ratio out of range or without anything to replay.
    """

    def __init__(self, name: str, main: BatchSource, replayed: Mapping[str, BatchSource],
                 ratio: float) -> None:
        if not 0.0 <= ratio < 1.0:
            raise ValueError(f"replay ratio {ratio} is not in [0, 1)")
        if ratio > 0 and not replayed:
            raise ValueError(f"replay ratio {ratio}, but no domain to replay")
        if name in replayed:
            raise ValueError(f"domain '{name}' cannot be replayed into itself")
        # Of the decimal that was written, not of the nearest binary number: 0.29 * 100 is 29.
        self._ratio = Fraction(str(ratio))
        self._name = name
        self._sources: dict[str, BatchSource] = {name: main, **replayed}
        self._replayed = tuple(replayed)
        self._size: dict[tuple[int, int], tuple[str, int]] = {}

    @property
    def ratio(self) -> float:
        """Share of replayed clips."""
        return float(self._ratio)

    @property
    def domains(self) -> tuple[str, ...]:
        """The trained domain, then those that are replayed into it."""
        return tuple(self._sources)

    def turn(self, step: int) -> tuple[str, int]:
        """Domain of batch `step` and its place in the domain's own stream, both counted from 0."""
        if step < 0:
            raise ValueError(f"step {step} is negative")
        before, after = self._replays(step), self._replays(step + 1)
        if after == before:
            return self._name, step - before
        count = len(self._replayed)
        return self._replayed[before % count], before // count

    def counts(self, steps: int) -> dict[str, int]:
        """Batches of each domain among the first `steps`."""
        replays, count = self._replays(steps), len(self._replayed)
        taken = {name: replays // count + (place < replays % count)
                 for place, name in enumerate(self._replayed)}
        return {self._name: steps - replays, **taken}

    def batch(self, step: int, rank: int = 0, world_size: int = 1) -> LatentBatch:
        """The part of batch `step` for process `rank` of `world_size`, named after its domain.

        Raises ModelError when its number of clips is not that of the batches before, since the
        ratio would not be one of clips.
        """
        name, place = self.turn(step)
        batch = self._sources[name].batch(place, rank, world_size)
        other, size = self._size.setdefault((rank, world_size), (name, batch.size))
        if batch.size != size:
            raise ModelError(
                f"a batch of domain '{name}' has {batch.size} clips, one of '{other}' {size}: "
                "open all domains with one batch size, or the ratio is not a share of clips")
        return replace(batch, domain=name)

    def validation(self) -> Iterator[LatentBatch]:
        """The validation batches of the trained domain, then of those replayed."""
        for name, source in self._sources.items():
            for batch in source.validation():
                yield replace(batch, domain=name)

    def _replays(self, steps: int) -> int:
        """Replayed batches among the first `steps`."""
        return steps * self._ratio.numerator // self._ratio.denominator
