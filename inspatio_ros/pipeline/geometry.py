# SPDX-License-Identifier: Apache-2.0
"""The second step: every picture of a clip with depth and camera, in the release's folder."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from inspatio_ros.files.bag_observations import BagOptions
from inspatio_ros.files.recordings import open_recording
from inspatio_ros.files.reference_layout import GeometryFolder, GeometryWriter, write_extrinsics
from inspatio_ros.geometry.motions import smoothed_poses
from inspatio_ros.pipeline.clips import (
    Clip,
    ClipError,
    ClipInfo,
    Picture,
    content_digest,
    read_pictures,
)
from inspatio_ros.pipeline.depths import (
    ClipDepth,
    ClipPictures,
    assumed_camera,
    in_first_camera,
    resized_observation,
    resized_picture,
)
from inspatio_ros.pipeline.steps import building, fingerprint, is_done, read_record
from inspatio_ros.sensing.observation import Observation

Progress = Callable[[int], None]

# The size the public release works at, whatever the recording's.
RELEASE_SIZE = (832, 480)


@dataclass(frozen=True)
class GeometryOptions:
    """size: (width, height) px of the result, None for as many pixels as the release's with the
    recording's aspect. field_of_view: horizontal, radians, of cameras that nothing is known of.
    parity: the release's size, every frame whatever its time, smoothed poses. point_clouds: also
    a cloud a frame. reading: how recordings of robots are read.
    """

    size: tuple[int, int] | None = None
    field_of_view: float = float(np.radians(60.0))
    parity: bool = False
    point_clouds: bool = False
    reading: BagOptions = BagOptions()


def working_size(width: int, height: int, options: GeometryOptions) -> tuple[int, int]:
    """(width, height) of the result for pictures of this size; even, enlarged only if asked."""
    if options.parity:
        return RELEASE_SIZE
    if options.size is not None and options.size[0] > 0:
        wide, high = options.size
        high = high or round(wide * height / width)
    else:
        pixels = RELEASE_SIZE[0] * RELEASE_SIZE[1]
        scale = min(1.0, (pixels / (width * height)) ** 0.5)
        wide, high = round(width * scale), round(height * scale)
    return max(2, wide - wide % 2), max(2, high - high % 2)


def make_geometry(
    clip: Clip, info: ClipInfo | None, folder: Path, depth: ClipDepth | None,
    options: GeometryOptions, progress: Progress,
) -> GeometryFolder:
    """The clip's geometry in `folder`, made now unless it is there already.

    info: of videos and pictures, None for a recording, which has its own depth and cameras.
    """
    key = fingerprint({
        "content": content_digest(clip), "depth": depth.name if depth else "recording",
        "settings": depth.settings if depth else options.reading,
        "size": options.size, "parity": options.parity, "clouds": options.point_clouds,
        "field_of_view": options.field_of_view if depth else None})
    if is_done(folder, key):
        return GeometryFolder(folder)
    with building(folder, key) as (part, notes):
        writer = GeometryWriter(part, point_clouds=options.point_clouds)
        poses, stamps = [], []
        try:
            for seen in _observations(clip, info, depth, options):
                writer.write(seen)
                poses.append(seen.world_from_camera)
                stamps.append(seen.stamp_ns)
                progress(writer.frames)
        finally:
            writer.close()
        if not poses:
            raise ClipError(f"{clip.path}: holds no frames")
        if options.parity and len(poses) > 1:
            write_extrinsics(part, smoothed_poses(np.array(poses), parity=True))
        notes["frame_rate"] = info.frame_rate if info else _rate_of(stamps)
        notes["depth"] = depth.name if depth else "recording"
        notes["note"] = depth.note if depth else ""
    return GeometryFolder(folder)


def frame_rate_of(folder: Path, otherwise: float) -> float:
    """The rate in Hz that a geometry folder of ours notes, else `otherwise`."""
    record = read_record(folder)
    return float(record["frame_rate"]) if record and "frame_rate" in record else otherwise


def _observations(clip: Clip, info: ClipInfo | None, depth: ClipDepth | None,
                  options: GeometryOptions) -> Iterator[Observation]:
    if info is None or depth is None:
        with open_recording(clip.path, options=options.reading) as seen:
            size: tuple[int, int] | None = None
            for observation in in_first_camera(seen):
                size = size or working_size(*observation.camera.size, options)
                yield resized_observation(observation, size)
        return
    size = working_size(info.width, info.height, options)

    def read() -> Iterator[Picture]:
        return (resized_picture(picture, size)
                for picture in read_pictures(clip, info, every_frame=options.parity))

    camera = assumed_camera(info.width, info.height, options.field_of_view).resized(*size)
    yield from in_first_camera(
        depth.observations(ClipPictures(read, camera, info.frame_rate)))


def _rate_of(stamps: list[int]) -> float:
    """The typical rate in Hz of a recording's frames."""
    if len(stamps) < 2:
        return 24.0
    return float(np.clip(1e9 / max(1.0, float(np.median(np.diff(stamps)))), 1.0, 240.0))
