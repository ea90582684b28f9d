# SPDX-License-Identifier: Apache-2.0
"""What keeps a long roll-out from drifting: statistics held to the source, older keyframes shown.

A block-wise model sees the block before as its history, so small errors of colour and contrast add
up. Two remedies, both off by default: the history's latents are given the source's statistics, as
adaptive instance normalisation does for style (Huang and Belongie 2017); and when the camera comes
back to where an older block was made, that one takes the history's place.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from inspatio_ros.geometry import rigid

Array = npt.NDArray[np.float64]

# The most by which a channel's spread is changed.
_LEAST_RATIO, _MOST_RATIO = 0.5, 2.0
# How much nearer (m + rad) than the last block an older one must be to take its place.
_CLEARLY_NEARER = 0.25


@dataclass(frozen=True)
class LongRollout:
    """reanchor: share [0, 1] of the way to the source's statistics; 0 leaves the history as it is.
    keyframes: older blocks that are remembered for when the camera comes back; 0: none.

    Raises ValueError for values out of range.
    """

    reanchor: float = 0.0
    keyframes: int = 0

    def __post_init__(self) -> None:
        if not 0.0 <= self.reanchor <= 1.0:
            raise ValueError(f"reanchor {self.reanchor} is not in [0, 1]")
        if self.keyframes < 0:
            raise ValueError(f"keyframes {self.keyframes} is negative")


@dataclass(frozen=True)
class _Block:
    latents: Tensor
    pose: Array


class RolloutHistory:
    """The blocks that a request has made, and which of them the next one is shown.

    Holds the last block and `keyframes` older ones, spread evenly over the way: when there are too
    many, every second leaves and the spacing doubles.
    """

    def __init__(self, options: LongRollout) -> None:
        self._options = options
        self._last: _Block | None = None
        self._older: deque[_Block] = deque()
        self._every = 1
        self._count = 0
        self.recalled = 0

    @property
    def nbytes(self) -> int:
        """Bytes of latents held."""
        held = [*self._older, *([self._last] if self._last is not None else [])]
        return sum(b.latents.numel() * b.latents.element_size() for b in held)

    def choose(self, pose: Array) -> Tensor | None:
        """History latents for a block whose middle is at `pose` [4, 4]; None before the first."""
        if self._last is None:
            return None
        best, least = self._last, _away(self._last.pose, pose) - _CLEARLY_NEARER
        for block in self._older:
            away = _away(block.pose, pose)
            if away < least:
                best, least = block, away
        self.recalled += best is not self._last
        return best.latents

    def add(self, latents: Tensor, source: Tensor, pose: Array) -> None:
        """Note a block [B, F, C, h, w], `pose` its middle's; source: latents of what is seen."""
        if self._options.reanchor > 0:
            latents = reanchored(latents, source, self._options.reanchor)
        if self._options.keyframes and self._last is not None:
            if self._count % self._every == 0:
                self._older.append(self._last)
            if len(self._older) > self._options.keyframes:
                self._older = deque(list(self._older)[::2])
                self._every *= 2
            self._count += 1
        self._last = _Block(latents, pose)

    def reset(self) -> None:
        """Forget everything."""
        self._last, self._every, self._count, self.recalled = None, 1, 0, 0
        self._older.clear()


def reanchored(latents: Tensor, source: Tensor, share: float) -> Tensor:
    """Latents [B, F, C, h, w] whose mean and spread by channel are moved to the source's.

    source: [b, F, C, h, w], b 1 or B. share: [0, 1] of the way. A spread changes by a factor of
    two at most, so that a plain picture does not turn a rich one grey.
    """
    axes = (1, 3, 4)
    mean, spread = latents.mean(axes, keepdim=True), latents.std(axes, keepdim=True)
    wanted_mean, wanted = source.mean(axes, keepdim=True), source.std(axes, keepdim=True)
    ratio = (wanted / spread.clamp_min(1e-6)).clamp(_LEAST_RATIO, _MOST_RATIO)
    target = (latents - mean) * ratio + wanted_mean.to(latents.dtype)
    return torch.lerp(latents, target.to(latents.dtype), share)


def _away(a: Array, b: Array) -> float:
    step = rigid.invert(a) @ b
    return float(np.linalg.norm(step[:3, 3])) + float(rigid.rotation_angle(step))
