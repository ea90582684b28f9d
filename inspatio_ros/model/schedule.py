# SPDX-License-Identifier: Apache-2.0
# Copyright inspatio_ros contributors
"""The flow-matching schedule: noise levels, listed steps, and the arithmetic between them.

x_t = (1 - s) x0 + s n and flow = n - x0, with s = t / 1000 in (0, 1]. Levels are pushed towards
noise by a shift: s(u) = k u / (1 + (k - 1) u), k = 5 in the public model (Self-Forcing, Wan2.1).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from inspatio_ros.model.config import MAX_STEPS, ModelConfig, ModelError


class FlowSchedule:
    """Noise levels `sigmas` and `timesteps` `[S]` float32, falling, on the CPU, of S steps."""

    def __init__(self, shift: float = 5.0, steps: int = 1000) -> None:
        if shift <= 0.0 or steps < 1:
            raise ModelError(f"a schedule needs shift > 0 and steps >= 1, got {shift}, {steps}")
        self.steps = steps
        even = torch.linspace(1.0, 0.0, steps + 1, device="cpu")[:-1]
        self.sigmas = shift * even / (1 + (shift - 1) * even)
        self.timesteps = self.sigmas * steps

    @staticmethod
    def of(config: ModelConfig) -> FlowSchedule:
        """The schedule that a model was made for."""
        return FlowSchedule(config.timestep_shift, config.train_timesteps)

    def warp(self, listed: Sequence[int]) -> list[float]:
        """Timesteps of the listed steps: step l is the entry S - l, so 750 becomes 937.5.

        listed: 1 to 8 falling numbers from 1 to S. ModelError otherwise.
        """
        if (
            not 1 <= len(listed) <= MAX_STEPS
            or any(not 1 <= step <= self.steps for step in listed)
            or any(after >= before for before, after in zip(listed, listed[1:], strict=False))
        ):
            raise ModelError(
                f"steps must be 1 to {MAX_STEPS} falling numbers from 1 to {self.steps}, "
                f"got {list(listed)}"
            )
        timesteps: list[float] = self.timesteps[[self.steps - step for step in listed]].tolist()
        return timesteps

    def sigma_of(self, timesteps: Sequence[float]) -> list[float]:
        """Noise levels of timesteps: those of the nearest entries."""
        nearest = self._nearest(torch.tensor(timesteps, device="cpu"))
        sigmas: list[float] = self.sigmas[nearest].tolist()
        return sigmas

    def add_noise(self, clean: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """x_t `[B, ...]` of clean latents and noise `[B, ...]` at timesteps `[B]`."""
        sigma = self._sigma(timesteps, clean)
        return ((1 - sigma) * clean + sigma * noise).to(clean.dtype)

    def clean_from_flow(self, flow: Tensor, noisy: Tensor, timesteps: Tensor) -> Tensor:
        """x0 `[B, ...]` from flow and x_t `[B, ...]` at timesteps `[B]`."""
        return (noisy - self._sigma(timesteps, noisy) * flow).to(noisy.dtype)

    def flow_from_clean(self, clean: Tensor, noisy: Tensor, timesteps: Tensor) -> Tensor:
        """The flow `[B, ...]` that leads from x_t to x0, both `[B, ...]`, at timesteps `[B]`."""
        return ((noisy - clean) / self._sigma(timesteps, noisy)).to(noisy.dtype)

    def step(self, flow: Tensor, noisy: Tensor, timesteps: Tensor) -> Tensor:
        """x `[B, ...]` one entry of the schedule further on (Euler); noise-free after the last."""
        index = self._nearest(timesteps)
        levels = torch.cat([self.sigmas, self.sigmas.new_zeros(1)])
        change = levels[index + 1] - levels[index]
        return (noisy + flow * self._column(change, noisy)).to(noisy.dtype)

    def training_weights(self) -> Tensor:
        """Loss weight `[S]` of every entry: a Gaussian bump around the middle, mean 1."""
        bump = torch.exp(-2 * ((self.timesteps - self.steps / 2) / self.steps) ** 2)
        bump = bump - bump.min()
        return bump * (self.steps / bump.sum())

    def _nearest(self, timesteps: Tensor) -> Tensor:
        distance = (self.timesteps[None] - timesteps.cpu()[:, None]).abs()
        return distance.argmin(dim=1)

    def _sigma(self, timesteps: Tensor, like: Tensor) -> Tensor:
        return self._column(self.sigmas[self._nearest(timesteps)], like)

    @staticmethod
    def _column(values: Tensor, like: Tensor) -> Tensor:
        """`[B]` as `[B, 1, ...]` beside a tensor `[B, ...]`."""
        return values.to(like.device).reshape(-1, *[1] * (like.ndim - 1))
