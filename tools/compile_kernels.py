# SPDX-License-Identifier: Apache-2.0
"""Compiles what a node compiles at its first start, so that the first start is a quick one.

The compiled code is kept beside the sources; it takes half a minute on two cores.
"""

from __future__ import annotations

from inspatio_ros.geometry.camera import PinholeCamera
from inspatio_ros.imagination.backends import BackendOptions, make_backend
from inspatio_ros.imagination.engine import ImaginationEngine
from inspatio_ros.ros.live import warm_up

camera = PinholeCamera(320, 180, 320.0, 320.0, 160.0, 90.0)
for preset in ("geometric", "tiny"):
    warm_up(ImaginationEngine(make_backend(BackendOptions(preset))), camera)
