# SPDX-License-Identifier: Apache-2.0
"""Adds the data folders to the pip face of the package; everything else is in pyproject.toml."""

from __future__ import annotations

from pathlib import Path

from setuptools import setup

SHARED_FOLDERS = ("config", "launch", "rviz", "samples", "weights")


def data_files() -> list[tuple[str, list[str]]]:
    """Each data folder with its files, below share/inspatio_ros as in a ROS install."""
    folders: dict[str, list[str]] = {}
    for top in SHARED_FOLDERS:
        for path in sorted(Path(top).rglob("*")):
            if path.is_file() and "__pycache__" not in path.parts:
                target = f"share/inspatio_ros/{path.parent.as_posix()}"
                folders.setdefault(target, []).append(str(path))
    return list(folders.items())


setup(data_files=data_files())
