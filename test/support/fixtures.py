# SPDX-License-Identifier: Apache-2.0
"""Stored tensors of the reference algorithm to compare with."""

from __future__ import annotations

import functools
import os
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from safetensors import safe_open

REPOSITORY = Path(__file__).resolve().parents[2]
DEFAULT_FIXTURE = REPOSITORY.parent / "shared" / "fixtures" / "reference_parity.safetensors"


class ParityFixture:
    """Tensors by name, and one JSON document per piece in `metadata`."""

    def __init__(self, path: Path) -> None:
        self._file = safe_open(path, framework="np")
        self._names: list[str] = list(self._file.keys())
        self.metadata: dict[str, str] = self._file.metadata()

    def names(self, prefix: str = "") -> list[str]:
        """Sorted names that begin with `prefix`."""
        return sorted(name for name in self._names if name.startswith(prefix))

    def __getitem__(self, name: str) -> npt.NDArray[np.generic]:
        return np.asarray(self._file.get_tensor(name))


def parity_fixture_path() -> Path:
    """The file that INSPATIO_PARITY_FIXTURE names, else the default; skips when it is absent."""
    path = Path(os.environ.get("INSPATIO_PARITY_FIXTURE", DEFAULT_FIXTURE))
    if not path.is_file():
        pytest.skip(f"no parity fixture at {path}: set INSPATIO_PARITY_FIXTURE")
    return path


@functools.cache
def _load(path: Path) -> ParityFixture:
    return ParityFixture(path)


def parity_fixture() -> ParityFixture:
    """The stored tensors; skips the test when the file is absent."""
    return _load(parity_fixture_path())
