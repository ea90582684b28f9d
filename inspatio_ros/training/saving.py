# SPDX-License-Identifier: Apache-2.0
"""Training states on disk: whole or not at all, read back without running anything in them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn


def save_tensors(path: Path, tensors: Mapping[str, Tensor],
                 metadata: dict[str, str] | None = None) -> None:
    """Write tensors as safetensors, whole or not at all."""
    from safetensors.torch import save_file

    part = path.with_name(path.name + ".part")
    try:
        save_file({k: v.detach().cpu().contiguous().clone() for k, v in tensors.items()}, part,
                  metadata)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def save_state(path: Path, step: int, model: nn.Module, optimizer: torch.optim.Optimizer,
               averaged: Mapping[str, Tensor]) -> None:
    """Write what is needed to go on after `step` steps, whole or not at all."""
    part = path.with_name(path.name + ".part")
    try:
        torch.save({"step": step, "model": model.state_dict(), "averaged": dict(averaged),
                    "optimizer": optimizer.state_dict()}, part)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def load_state(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer,
               averaged: dict[str, Tensor]) -> int:
    """Put a state of `save_state` back; the number of steps that were done."""
    held = torch.load(path, weights_only=True, map_location="cpu")
    model.load_state_dict(held["model"])
    optimizer.load_state_dict(held["optimizer"])
    for name, value in held["averaged"].items():
        averaged[name].copy_(value)
    return int(held["step"])
