# SPDX-License-Identifier: Apache-2.0
"""What guides are drawn with: the package's own renderer, or the public release's two."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from inspatio_ros.files.reference_layout import GeometryFolder
from inspatio_ros.geometry import rigid
from inspatio_ros.geometry.camera import PinholeCamera
from inspatio_ros.imagination.engine import GuideSource
from inspatio_ros.memory.guide import Guide
from inspatio_ros.memory.parity import WARP_SATURATION, render_point_cloud, softmax_warp
from inspatio_ros.memory.world_memory import MemoryOptions, WorldMemory
from inspatio_ros.pipeline.camera_plan import CameraPlan
from inspatio_ros.sensing.observation import Observation, Provenance

Array = npt.NDArray[np.float64]

WARPER, PLY = "warper", "ply"
RENDER_BACKENDS = (WARPER, PLY)


def make_guides(
    backend: str, geometry: GeometryFolder, plan: CameraPlan, size: tuple[int, int], *,
    recording_rate: float, parity: bool, remember: bool
) -> GuideSource:
    """The renderer that the options name.

    warper: surfaces, or in parity the release's forward warp. ply: points. remember: keep a
    memory of all frames seen so far (not in parity). recording_rate: Hz, by which a stamp tells
    the frame. Raises ValueError on another name.
    """
    if backend not in RENDER_BACKENDS:
        raise ValueError(
            f"render_backend '{backend}' is not one of {', '.join(RENDER_BACKENDS)}")
    if not parity:
        options = MemoryOptions() if remember else MemoryOptions(capacity=1)
        mode = "soft" if backend == WARPER else "fast"
        return WorldMemory(MemoryOptions(
            options.capacity, mode=mode, max_age=float("inf"), guess=mode == "soft"))
    if backend == PLY:
        return ReleasePoints(geometry, recording_rate)
    return ReleaseWarper(_largest_log_depth(geometry, plan, size))


def _largest_log_depth(
    geometry: GeometryFolder, plan: CameraPlan, size: tuple[int, int]
) -> float:
    """The release's normaliser: over all frames, of log(1 + z) in the target camera."""
    largest = 0.0
    for number, pose in zip(plan.source_frames, plan.world_from_camera, strict=True):
        depth = geometry.depth(int(number))
        camera = geometry.camera.resized(depth.shape[1], depth.shape[0])
        view = rigid.invert(pose) @ geometry.world_from_camera[int(number)]
        z = camera.unproject(depth) @ view[2, :3] + view[2, 3]
        known = z[np.isfinite(z)]
        if known.size:
            largest = max(largest, float(np.log1p(np.clip(known.max(), 0, WARP_SATURATION))))
    return largest


class ReleaseWarper:
    """The release's default renderer, one frame at a time; see `memory.parity.softmax_warp`."""

    point_count = 0

    def __init__(self, largest_log_depth: float) -> None:
        self._largest = largest_log_depth

    def render(self, camera: PinholeCamera, world_from_camera: Array,
               references: Sequence[Observation] = (),
               stamp_ns: int | None = None) -> Guide:
        """The guide from the newest reference alone."""
        import torch

        seen = references[0]
        view = rigid.invert(world_from_camera) @ seen.world_from_camera
        rgb = torch.from_numpy(seen.image.astype(np.float32) / 127.5 - 1.0).permute(2, 0, 1)
        warped, known = softmax_warp(
            rgb[None], torch.from_numpy(seen.depth)[None, None],
            torch.from_numpy(_centred(camera))[None],
            torch.from_numpy(view.astype(np.float32))[None], self._largest)
        image = ((warped[0].permute(1, 2, 0).numpy() + 1.0) * 127.5).round().astype(np.uint8)
        return _guide(image, known[0, 0].numpy() > 0)


class ReleasePoints:
    """The release's other renderer; see `memory.parity.render_point_cloud`.

    It draws the clouds of the geometry folder, whose cameras are not smoothed, seen with cameras
    that are.
    """

    point_count = 0

    def __init__(self, geometry: GeometryFolder, recording_rate: float) -> None:
        self._geometry = geometry
        self._rate = recording_rate

    def render(self, camera: PinholeCamera, world_from_camera: Array,
               references: Sequence[Observation] = (),
               stamp_ns: int | None = None) -> Guide:
        """The guide from the newest reference alone, whose number its stamp tells."""
        points, colors = self._geometry.cloud(round(references[0].stamp_ns * self._rate / 1e9))
        image, mask = render_point_cloud(
            points.astype(np.float64), colors / 255.0, camera.matrix, world_from_camera,
            camera.height, camera.width)
        return _guide(image, mask > 0)


def _centred(camera: PinholeCamera) -> npt.NDArray[np.float32]:
    matrix = camera.matrix.astype(np.float32)
    matrix[0, 2], matrix[1, 2] = camera.width / 2, camera.height / 2
    return matrix


def _guide(image: npt.NDArray[np.uint8], known: npt.NDArray[np.bool_]) -> Guide:
    labels = np.where(known, np.uint8(Provenance.OBSERVED), np.uint8(Provenance.UNKNOWN))
    return Guide(np.where(known[..., None], image, np.uint8(0)),
                 np.full(known.shape, np.nan, np.float32), labels.astype(np.uint8))
