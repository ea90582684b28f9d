# SPDX-License-Identifier: Apache-2.0
# Copyright inspatio_ros contributors
"""Rotary positions over frame, row and column, in real float32 arithmetic.

Pairs of adjacent channels are rotated by position * theta^(-j/n). Of the c = head_dim / 2 pairs,
c - 2 floor(c/3) turn with the frame, floor(c/3) with the row and as many with the column (Wan2.1).
The angles are made in float64, because float32 angles of high positions would be off by 1e-5; the
cosines and sines are then kept in float32. No complex numbers: compilers cannot fuse them.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from inspatio_ros.model.config import ModelConfig

# Cosines and sines [N, 1, head_dim / 2], float32.
Rotation = tuple[Tensor, Tensor]


def angles(
    config: ModelConfig, positions: Sequence[int], grid: tuple[int, int], device: torch.device,
    first_column: int = 0,
) -> Tensor:
    """Angles `[N, head_dim / 2]` float64 of the tokens of frames at `positions`, in order.

    first_column: position of the leftmost column.
    """
    rows, columns = config.token_grid(grid)
    pairs = config.head_dim // 2
    share = pairs // 3
    axes = (
        (torch.tensor(list(positions), dtype=torch.float64, device=device), pairs - 2 * share),
        (torch.arange(rows, dtype=torch.float64, device=device), share),
        (first_column + torch.arange(columns, dtype=torch.float64, device=device), share),
    )
    frame, row, column = (_axis_angles(where, n, config.rope_theta) for where, n in axes)
    shape = (len(positions), rows, columns)
    return torch.cat(
        [
            frame[:, None, None].expand(*shape, -1),
            row[None, :, None].expand(*shape, -1),
            column[None, None, :].expand(*shape, -1),
        ],
        dim=-1,
    ).reshape(rows * columns * len(positions), pairs)


def _axis_angles(where: Tensor, pairs: int, theta: float) -> Tensor:
    """Angles `[n, pairs]` of positions `[n]` along one axis."""
    exponents = torch.arange(pairs, dtype=torch.float64, device=where.device) / max(pairs, 1)
    return torch.outer(where, theta**-exponents)


class RopeTables:
    """Cosines and sines of all positions of one latent grid, made once.

    `groups(first, count)` are those of `count` groups of frames from group `first` on, as views.
    """

    def __init__(self, config: ModelConfig, grid: tuple[int, int], device: torch.device) -> None:
        self.config = config
        self.grid = grid
        table = angles(config, range(config.positions), grid, device)
        self.cos = table.cos().float().unsqueeze(1)
        self.sin = table.sin().float().unsqueeze(1)

    def groups(self, first: int, count: int = 1) -> Rotation:
        """The rotation of the tokens of `count` neighboring groups."""
        tokens = self.config.block_tokens(self.grid)
        self.config.group_positions(first)
        self.config.group_positions(first + count - 1)
        window = slice(first * tokens, (first + count) * tokens)
        return self.cos[window], self.sin[window]

    @property
    def block(self) -> Rotation:
        """The rotation of the block that is made."""
        return self.groups(self.config.context_groups)


def rotate(x: Tensor, rotation: Rotation) -> Tensor:
    """x `[B, N, H, head_dim]` with its channel pairs rotated; float32 inside, dtype kept."""
    cos, sin = rotation
    even, odd = x.float().reshape(*x.shape[:-1], -1, 2).unbind(-1)
    turned = torch.stack((even * cos - odd * sin, even * sin + odd * cos), dim=-1)
    return turned.flatten(-2).to(x.dtype)
