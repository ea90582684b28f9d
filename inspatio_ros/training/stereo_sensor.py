# SPDX-License-Identifier: Apache-2.0
"""Depth as a stereo pair gives it: the errors of matching instead of errors drawn by chance.

What was seen next to an edge, on walls without texture and far away gets a wrong depth, and so a
wrong place in other views; a model that has only met exact depth trusts such colours too far.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
import numpy.typing as npt

from inspatio_ros.depth.stereo import StereoGeometry, StereoMatcher, StereoOptions, grey
from inspatio_ros.geometry.camera import PinholeCamera
from inspatio_ros.sensing.observation import Observation
from inspatio_ros.worlds.world import View

Pose = npt.NDArray[np.float64]

# Pictures of a pair beside those of the clip: matching at a clip's few pixels sees no distance.
_FINER = 2.5
_NOISE = 0.5, 2.5  # grey values, of each pixel
# Metres from eye to eye, and the nearest depth that is believed.
_OUTDOORS, _INDOORS = (0.25, 0.6, 2.0), (0.05, 0.15, 0.3)


class Renderable(Protocol):
    """Anything with an exact view from everywhere."""

    def render(self, camera: PinholeCamera, world_from_camera: Pose, time: float = 0.0) -> View:
        """The view of a camera at a time."""
        ...


class StereoSensor:
    """Two cameras side by side, of random baseline and noise; what the left one sees has depth.

    camera: of the clip, whose aspect and field of view the finer pictures have.
    """

    def __init__(self, camera: PinholeCamera, rng: np.random.Generator, outdoors: bool) -> None:
        self._rng = rng
        near, far, nearest = _OUTDOORS if outdoors else _INDOORS
        self._baseline = float(rng.uniform(near, far))
        self._noise = float(rng.uniform(*_NOISE))
        self.camera = camera.resized(round(camera.width * _FINER), round(camera.height * _FINER))
        self._matcher = StereoMatcher(
            StereoGeometry(self.camera, self._baseline), StereoOptions(min_depth=nearest))

    def observe(self, world: Renderable, world_from_camera: Pose, time: float) -> Observation:
        """What the left camera sees at `time` s, with the depth that matching finds."""
        right = world_from_camera.copy()
        right[:3, 3] += self._baseline * world_from_camera[:3, 0]
        pictures = []
        for pose in (world_from_camera, right):
            image = world.render(self.camera, pose, time).image
            noise = self._rng.normal(0.0, self._noise, image.shape)
            pictures.append(np.clip(np.rint(image + noise), 0, 255).astype(np.uint8))
        depth = self._matcher.depth(grey(pictures[0]), grey(pictures[1]))
        return Observation(round(time * 1e9), pictures[0], depth, self.camera, world_from_camera)
