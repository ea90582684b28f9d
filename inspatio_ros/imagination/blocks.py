# SPDX-License-Identifier: Apache-2.0
"""How the frames of a request are dealt into blocks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class BlockSpan:
    """Frames [start, stop) of a request, made as one block of `padded` frames.

    padded > stop - start only in the last block: the rest repeats the last frame and is not
    delivered, so that a request always yields exactly the frames asked for.
    """

    index: int
    start: int
    stop: int
    padded: int

    @property
    def frames(self) -> int:
        """Frames delivered."""
        return self.stop - self.start


@dataclass(frozen=True)
class BlockPlan:
    """The blocks of a request of `frame_count` frames.

    block_frames: frames a block makes; first_block_frames: those of the first one, which a video
    codec with a lone first frame makes shorter (Wan2.1: 1 + 4 + 4 = 9, then 12).
    Raises ValueError when a number is not positive.
    """

    frame_count: int
    block_frames: int
    first_block_frames: int

    def __post_init__(self) -> None:
        if min(self.frame_count, self.block_frames, self.first_block_frames) < 1:
            raise ValueError(
                f"a request needs at least one frame and blocks of at least one: frame_count "
                f"{self.frame_count}, block_frames {self.block_frames}, first_block_frames "
                f"{self.first_block_frames}")

    def __iter__(self) -> Iterator[BlockSpan]:
        start = index = 0
        while start < self.frame_count:
            padded = self.first_block_frames if index == 0 else self.block_frames
            stop = min(start + padded, self.frame_count)
            yield BlockSpan(index, start, stop, padded)
            start, index = stop, index + 1

    def __len__(self) -> int:
        rest = max(0, self.frame_count - self.first_block_frames)
        return 1 + -(-rest // self.block_frames)
