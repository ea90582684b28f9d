# SPDX-License-Identifier: Apache-2.0
"""Random numbers that are a function of seed, step and clip: no state to save, none to split."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor


def generator_of(*key: object) -> torch.Generator:
    """A CPU generator seeded by what it is for."""
    digest = hashlib.sha256(repr(key).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)


class Draw:
    """The random numbers of one batch.

    Each clip has a stream of its own, so that a clip gets the same numbers whichever process works
    on it; decisions about the whole batch come from one further stream, equal in all processes.
    key: seed, step and purpose. first: number of this process' first clip in the global batch.
    """

    def __init__(self, key: Sequence[object], clips: int, first: int = 0) -> None:
        self._key = tuple(key)
        self._first = first
        self._shared = generator_of("batch", *self._key)
        self._clips = [generator_of("clip", *self._key, first + n) for n in range(clips)]

    def apart(self, purpose: str) -> Draw:
        """Other numbers for the same clips."""
        return Draw((*self._key, purpose), len(self._clips), self._first)

    def decide(self, share: float) -> bool:
        """True for this share of the batches; equal in all processes."""
        return bool(torch.rand((), generator=self._shared) < share)

    def choose(self, count: int) -> int:
        """A number below `count`; equal in all processes."""
        return int(torch.randint(count, (), generator=self._shared))

    def normal(self, like: Tensor, lead: Sequence[int] = ()) -> Tensor:
        """Gaussian noise `[*lead, *like.shape]` float32 on its device; like is `[B, ...]`.

        A GPU draws its own: other numbers than a CPU's, and as much a function of the key.
        """
        shape, device = (*lead, *like.shape[1:]), like.device
        if device.type == "cpu":
            parts = [torch.randn(shape, generator=g) for g in self._clips]
        else:
            parts = [torch.randn(shape, generator=_drawn_on(device, g), device=device)
                     for g in self._clips]
        return torch.stack(parts, dim=len(lead))

    def uniform(self, *shape: int) -> Tensor:
        """Numbers in [0, 1) `[B, *shape]` float32 on the CPU."""
        return torch.stack([torch.rand(shape, generator=g) for g in self._clips])


def _drawn_on(device: torch.device, generator: torch.Generator) -> torch.Generator:
    """A generator of a device whose numbers follow from where the given one is."""
    seed = int(torch.randint(2**62, (), generator=generator))
    return torch.Generator(device).manual_seed(seed)
