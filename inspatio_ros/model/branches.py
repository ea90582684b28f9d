# SPDX-License-Identifier: Apache-2.0
# Copyright inspatio_ros contributors
"""Branches beside a transformer, in files of their own: its own checkpoint loads unchanged.

A model's folder may hold `stereo.safetensors` and `control.safetensors`; their headers say for
which layout and which sizes they are. Names and shapes must match exactly.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from inspatio_ros.model.config import ModelConfig
from inspatio_ros.model.control_branch import ControlBranch
from inspatio_ros.model.stereo import StereoBranch
from inspatio_ros.model.weights import (
    WeightsError,
    differences,
    read_metadata,
    read_tensors,
    shapes_of,
)

STEREO_FILE, CONTROL_FILE = "stereo.safetensors", "control.safetensors"
FORMAT = "inspatio_branch 1"


@dataclass
class Branches:
    """What goes with a transformer; None where there is none."""

    stereo: StereoBranch | None = None
    control: ControlBranch | None = None

    def to(self, device: torch.device, dtype: torch.dtype) -> Branches:
        """The same on a device, in a format, ready to be used."""
        for branch in (self.stereo, self.control):
            if branch is not None:
                branch.to(device, dtype).eval().requires_grad_(False)
        return self

    @property
    def nbytes(self) -> int:
        """Bytes of the weights."""
        return sum(p.numel() * p.element_size() for branch in (self.stereo, self.control)
                   if branch is not None for p in branch.parameters())


def save_branch(branch: StereoBranch | ControlBranch, folder: Path,
                dtype: torch.dtype = torch.float32) -> Path:
    """Write a branch beside its transformer; the file."""
    from safetensors.torch import save_file

    stereo = isinstance(branch, StereoBranch)
    said = {"format": FORMAT, "kind": "stereo" if stereo else "control",
            "model": branch.config.name}
    if isinstance(branch, StereoBranch):
        said["layout"] = branch.layout
    path = folder / (STEREO_FILE if stereo else CONTROL_FILE)
    folder.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    try:
        save_file({name: value.detach().cpu().to(dtype).contiguous()
                   for name, value in branch.state_dict().items()}, part, said)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    return path


def load_branches(folder: Path, config: ModelConfig) -> Branches:
    """The branches of a folder, those that are there.

    Raises WeightsError, naming the file, when one is damaged or for another model.
    """
    found = Branches()
    stereo, control = folder / STEREO_FILE, folder / CONTROL_FILE
    if stereo.is_file():
        layout = _said(stereo, "stereo").get("layout", "")
        found.stereo = StereoBranch(config, layout)
        _load(found.stereo, stereo)
    if control.is_file():
        _said(control, "control")
        found.control = ControlBranch(config)
        _load(found.control, control)
    return found


def _said(path: Path, kind: str) -> dict[str, str]:
    said = read_metadata(path)
    if said.get("format") != FORMAT or said.get("kind") != kind:
        raise WeightsError(f"{path}: not a {kind} branch (format {said.get('format')!r}, kind "
                           f"{said.get('kind')!r}); train it anew or take the file away")
    return said


def _load(branch: nn.Module, path: Path) -> None:
    tensors = read_tensors(path)
    wrong = differences({n: tuple(t.shape) for n, t in tensors.items()}, shapes_of(branch))
    if wrong:
        raise WeightsError(f"{path}: does not fit the model: {'; '.join(wrong)}")
    branch.load_state_dict(tensors, strict=True)
