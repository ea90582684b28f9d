# SPDX-License-Identifier: Apache-2.0
"""Where the files are that come with the package: config, launch, rviz, samples, weights."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def share_folder(name: str) -> Path:
    """The folder `name` (config, launch, rviz, samples or weights) that came with this package.

    It is the checkout's own when the package runs from one, else the one of the ROS workspace in
    AMENT_PREFIX_PATH, else the one that pip installed. FileNotFoundError says where it was looked
    for.
    """
    checkout = Path(__file__).resolve().parent.parent
    places = [checkout / name] if (checkout / "package.xml").exists() else []
    prefixes = [p for p in os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep) if p]
    places += [Path(p, "share/inspatio_ros", name) for p in (*prefixes, sys.prefix)]
    for place in places:
        if place.is_dir():
            return place
    looked = ", ".join(map(str, places))
    raise FileNotFoundError(f"the package's folder {name} is in none of: {looked}")
