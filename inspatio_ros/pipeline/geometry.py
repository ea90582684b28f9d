# SPDX-License-Identifier: Apache-2.0
"""The second step: every picture of a clip with depth and camera, in the release's folder."""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from inspatio_ros.files.bag_observations import BagOptions
from inspatio_ros.files.recordings import open_recording
from inspatio_ros.files.reference_layout import (
    GeometryFolder,
    GeometryWriter,
    ground_mask_of,
    write_extrinsics,
)
from inspatio_ros.geometry import rigid
from inspatio_ros.geometry.ground import ground_alignment
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
    ground = _Ground.of(folder) if options.parity else None
    key = fingerprint({
        "content": content_digest(clip), "depth": depth.name if depth else "recording",
        "settings": depth.settings if depth else options.reading,
        "size": options.size, "parity": options.parity, "clouds": options.point_clouds,
        "field_of_view": options.field_of_view if depth else None,
        "ground": [ground.name, hashlib.sha256(ground.picture).hexdigest()] if ground else []})
    if is_done(folder, key):
        return GeometryFolder(folder)
    with building(folder, key) as (part, notes):
        writer = GeometryWriter(part, point_clouds=options.point_clouds)
        # Flat arrays: small objects that stay, made between pictures that go, tear the heap into
        # pieces that grow with the clip.
        numbers, stamps = array("d"), array("q")
        try:
            for seen in _observations(clip, info, depth, options):
                writer.write(seen)
                if ground and ground.frame == len(stamps):
                    ground.fit(seen)
                numbers.extend(seen.world_from_camera.ravel())
                stamps.append(seen.stamp_ns)
                progress(writer.frames)
        finally:
            writer.close()
        if not stamps:
            raise ClipError(f"{clip.path}: holds no frames")
        if options.parity:
            _finish_as_the_release(
                part, writer, np.array(numbers).reshape(-1, 4, 4), ground)
        else:
            writer.finish_clouds(np.eye(4))
        notes["frame_rate"] = info.frame_rate if info else _rate_of(stamps)
        notes["depth"] = depth.name if depth else "recording"
        notes["note"] = depth.note if depth else ""
    return GeometryFolder(folder)


class _Ground:
    """The mask of the ground that lies in a geometry folder, and the turn that lays it flat."""

    def __init__(self, frame: int, name: str, picture: bytes) -> None:
        self.frame, self.name, self.picture = frame, name, picture
        self.aligned_from_world: npt.NDArray[np.float64] | None = None

    @staticmethod
    def of(folder: Path) -> _Ground | None:
        """That of the folder. Raises LayoutError on a name without a frame number."""
        found = ground_mask_of(folder)
        return _Ground(found[0], found[1].name, found[1].read_bytes()) if found else None

    def fit(self, seen: Observation) -> None:
        """Find the turn from the masked pixels. Raises ClipError when it is no picture."""
        grey = cv2.imdecode(np.frombuffer(self.picture, np.uint8), cv2.IMREAD_GRAYSCALE)
        if grey is None:
            raise ClipError(f"{self.name}: no picture that can be read")
        mask = cv2.resize(grey, seen.camera.size, interpolation=cv2.INTER_NEAREST) >= 128
        points = seen.camera.unproject(seen.depth)[mask & (seen.depth > 0)]
        self.aligned_from_world = ground_alignment(
            rigid.transform_points(seen.world_from_camera, points))


def _finish_as_the_release(part: Path, writer: GeometryWriter, poses: npt.NDArray[np.float64],
                           ground: _Ground | None) -> None:
    """Cameras smoothed, then turned to the ground; clouds turned only, as the release has them."""
    turn = np.eye(4)
    if ground is not None:
        if ground.aligned_from_world is None:
            raise ClipError(f"{ground.name}: there is no frame {ground.frame}, the clip has "
                            f"{len(poses)}")
        turn = ground.aligned_from_world
        (part / ground.name).write_bytes(ground.picture)
    smooth = smoothed_poses(poses, parity=True) if len(poses) > 1 else poses
    write_extrinsics(part, turn @ smooth)
    writer.finish_clouds(turn)


def frame_rate_of(folder: Path, otherwise: float) -> float:
    """The rate in Hz that a geometry folder of ours notes, else `otherwise`."""
    record = read_record(folder)
    return float(record["frame_rate"]) if record and "frame_rate" in record else otherwise


def _observations(clip: Clip, info: ClipInfo | None, depth: ClipDepth | None,
                  options: GeometryOptions) -> Iterator[Observation]:
    if info is None or depth is None:
        with open_recording(clip.path, options=options.reading, keep_all=True) as seen:
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


def _rate_of(stamps: Sequence[int]) -> float:
    """The typical rate in Hz of a recording's frames."""
    if len(stamps) < 2:
        return 24.0
    return float(np.clip(1e9 / max(1.0, float(np.median(np.diff(stamps)))), 1.0, 240.0))
