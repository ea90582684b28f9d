# SPDX-License-Identifier: Apache-2.0
"""The package finds the files that came with it, in a checkout and in an installation."""

from __future__ import annotations

from pathlib import Path

import pytest

from inspatio_ros import share


def test_a_checkout_uses_its_own_folder() -> None:
    assert (share.share_folder("config") / "fastdds_large_images.xml").is_file()


def test_an_installation_is_found_by_the_ament_prefix(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed = tmp_path / "share/inspatio_ros/weights"
    installed.mkdir(parents=True)
    monkeypatch.setattr(share, "__file__", str(tmp_path / "lib/inspatio_ros/share.py"))
    monkeypatch.setenv("AMENT_PREFIX_PATH", f"/nowhere:{tmp_path}")
    assert share.share_folder("weights") == installed


def test_a_missing_folder_names_the_places() -> None:
    with pytest.raises(FileNotFoundError, match="folder nothing is in none of: .*/inspatio_ros"):
        share.share_folder("nothing")
