# SPDX-License-Identifier: Apache-2.0
"""Faults of real sensors and maps, put on exact data: depth noise, missing depth, holes, exposure.

As training sets for view synthesis from point clouds do: points dropped, depth noisy and blurred,
masks grown, exposure shifted, so that the model meets in training what a robot gives it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from inspatio_ros.geometry.camera import PinholeCamera
from inspatio_ros.imagination.engine import GuideSource
from inspatio_ros.memory.guide import Guide
from inspatio_ros.sensing.observation import Observation, Provenance

Float = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Faults:
    """How bad the sensor of one clip is; every number is 0 for a perfect one.

    depth_noise: standard deviation relative to the depth. depth_blur: sigma in pixels.
    dropped_depth: share of the picture without depth, in patches. max_depth: m, beyond it
    nothing is measured. exposure: largest change of brightness between observations, relative.
    dilation: pixels by which unknown regions of the guide grow. holes: share of the guide that
    is punched out in patches.
    """

    depth_noise: float = 0.0
    depth_blur: float = 0.0
    dropped_depth: float = 0.0
    max_depth: float = float("inf")
    exposure: float = 0.0
    dilation: int = 0
    holes: float = 0.0

    @staticmethod
    def drawn(rng: np.random.Generator, outdoors: bool = False) -> Faults:
        """Faults of a random sensor, half of the kinds absent; outdoors it reaches farther."""
        def perhaps(high: float) -> float:
            return float(rng.uniform(0, high)) if rng.uniform() < 0.5 else 0.0

        return Faults(
            depth_noise=perhaps(0.02), depth_blur=perhaps(1.5), dropped_depth=perhaps(0.3),
            max_depth=((8.0 if outdoors else 1.0) * float(rng.uniform(3.0, 9.0))
                       if rng.uniform() < 0.25 else float("inf")),
            exposure=perhaps(0.15), dilation=int(rng.integers(0, 4)) if rng.uniform() < 0.5 else 0,
            holes=perhaps(0.15))


def patches(shape: tuple[int, int], share: float, rng: np.random.Generator
            ) -> npt.NDArray[np.bool_]:
    """A mask [H, W] of smooth random regions that cover about `share` of it."""
    if share <= 0.0:
        return np.zeros(shape, np.bool_)
    cell = int(rng.integers(6, 32))
    coarse = rng.normal(size=(shape[0] // cell + 2, shape[1] // cell + 2)).astype(np.float32)
    field = cv2.resize(coarse, (shape[1], shape[0]), interpolation=cv2.INTER_CUBIC)
    return np.asarray(field > np.quantile(field, 1.0 - min(share, 1.0)))


def faulty_observation(observation: Observation, faults: Faults, rng: np.random.Generator
                       ) -> Observation:
    """The observation as a sensor with `faults` would have given it."""
    depth = observation.depth.copy()
    if faults.depth_blur > 0.0:
        known = np.isfinite(depth).astype(np.float32)
        total = cv2.GaussianBlur(np.nan_to_num(depth), (0, 0), faults.depth_blur)
        share = cv2.GaussianBlur(known, (0, 0), faults.depth_blur)
        depth = np.where(known > 0, total / np.maximum(share, 1e-6), np.nan).astype(np.float32)
    if faults.depth_noise > 0.0:
        depth *= (1.0 + faults.depth_noise * rng.normal(size=depth.shape)).astype(np.float32)
    with np.errstate(invalid="ignore"):
        depth[depth > faults.max_depth] = np.nan
    depth[patches(depth.shape, faults.dropped_depth, rng)] = np.nan
    image = observation.image
    if faults.exposure > 0.0:
        gain = float(np.exp(rng.uniform(-faults.exposure, faults.exposure)))
        image = np.clip(np.rint(image * gain), 0, 255).astype(np.uint8)
    return Observation(observation.stamp_ns, image, depth, observation.camera,
                       observation.world_from_camera)


class FaultyMemory:
    """A memory whose guides have more holes than it knows of, the same ones all along a clip."""

    def __init__(self, memory: GuideSource, faults: Faults, rng: np.random.Generator) -> None:
        self._memory = memory
        self._faults = faults
        self._seed = int(rng.integers(1 << 31))

    @property
    def point_count(self) -> int:
        """Points in the memory."""
        return self._memory.point_count

    def render(
        self,
        camera: PinholeCamera,
        world_from_camera: npt.NDArray[np.float64],
        references: Sequence[Observation] = (),
        stamp_ns: int | None = None,
    ) -> Guide:
        """The memory's guide with its faults."""
        guide = self._memory.render(camera, world_from_camera, references, stamp_ns)
        lost = np.zeros(guide.provenance.shape, np.bool_)
        if self._faults.dilation:
            side = 2 * self._faults.dilation + 1
            unknown = (guide.provenance < Provenance.MEMORY).astype(np.uint8)
            lost |= cv2.dilate(unknown, np.ones((side, side), np.uint8)).astype(np.bool_)
            lost &= guide.provenance >= Provenance.MEMORY
        shape = (camera.height, camera.width)
        lost |= patches(shape, self._faults.holes, np.random.default_rng(self._seed))
        if not lost.any():
            return guide
        image, depth, labels = guide.image.copy(), guide.depth.copy(), guide.provenance.copy()
        image[lost], depth[lost], labels[lost] = 0, np.nan, Provenance.UNKNOWN
        return Guide(image, depth, labels)
