# SPDX-License-Identifier: Apache-2.0
"""Where the tests find the large recordings that the repository does not hold."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def data_root() -> Path:
    """The folder of the large recordings: $INSPATIO_DATA, or shared/data beside the checkout."""
    return Path(os.environ.get("INSPATIO_DATA") or ROOT.parent / "shared/data")


def data_dir(name: str) -> Path:
    """One recording's folder; skips the calling test, with the reason, where it is absent."""
    folder = data_root() / name
    if not folder.is_dir():
        pytest.skip(f"no recording {name} in {data_root()} (INSPATIO_DATA names the folder)")
    return folder


def feature_file() -> Path:
    """EfficientNet-Lite0's weights; skips the calling test, with the reason, without them."""
    name = "efficientnet-lite0-57934424.pth"
    path = Path(os.environ.get("INSPATIO_FEATURES")
                or ROOT.parent / "shared/weights/efficientnet_lite0" / name)
    if not path.is_file():
        pytest.skip(f"no {path} (INSPATIO_FEATURES names EfficientNet-Lite0's weights)")
    return path
