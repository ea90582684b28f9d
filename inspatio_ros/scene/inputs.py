# SPDX-License-Identifier: Apache-2.0
"""What a scene is made from: a picture, a panorama, a video or a recording, as observations."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from inspatio_ros.depth.estimators import available_estimators
from inspatio_ros.files.reference_layout import GeometryFolder
from inspatio_ros.pipeline.clips import ClipError, clip_info, content_digest, find_clips
from inspatio_ros.pipeline.depths import ClipDepth, choose_depth, stamp_of
from inspatio_ros.pipeline.geometry import GeometryOptions, frame_rate_of, make_geometry
from inspatio_ros.scene.panorama import Panorama, PanoramaError, with_estimated_ranges
from inspatio_ros.sensing.observation import Observation

Progress = Callable[[int], None]

# Horizontal field of view of the views that a panorama is cut into.
PANORAMA_VIEW = math.radians(80.0)


@dataclass(frozen=True)
class InputOptions:
    """width: px of the views. frames: of a video or recording that are used, evenly spread; 0 for
    all. panorama: the picture is a full equirectangular one; ranges: its .npy file of float32
    distances [H, W] m along the rays. depth: provider, see `pipeline.depths`; model: its folder.
    geometry: how clips are read.
    """

    width: int = 416
    frames: int = 40
    panorama: bool = False
    ranges: Path | None = None
    depth: str = "auto"
    model: Path | None = None
    geometry: GeometryOptions = GeometryOptions()


@dataclass(frozen=True)
class SceneInput:
    """observations: posed views with depth. kind: image, panorama, video or recording. digest: of
    the bytes. moves: whether depth is known well enough for the camera to leave its place."""

    name: str
    kind: str
    observations: tuple[Observation, ...]
    digest: str
    moves: bool = True
    note: str = ""


def read_input(path: Path, folder: Path, options: InputOptions,
               progress: Progress = lambda _: None) -> SceneInput:
    """The input at `path`; its geometry is made in `folder`, once.

    Raises ClipError, DepthUnavailable, PanoramaError or OSError, saying what is missing.
    """
    if options.panorama:
        return _read_panorama(path, options)
    clips = find_clips(path)
    if len(clips) != 1:
        raise ClipError(f"{path}: holds {len(clips)} clips; a scene is made from one")
    clip = clips[0]
    info = None if clip.kind == "recording" else clip_info(clip)
    depth: ClipDepth | None = None
    if info is not None:
        depth = choose_depth(options.depth, options.model, rotation_only=False,
                             pictures=info.frames)
    try:
        geometry = make_geometry(clip, info, folder / "geometry", depth, options.geometry,
                                 progress)
    finally:
        if depth is not None:
            depth.close()
    kind = "recording" if info is None else "image" if info.frames == 1 else "video"
    seen = _spread(geometry, options.frames, frame_rate_of(folder / "geometry", 24.0))
    if not any((o.depth > 0).any() for o in seen):
        raise ClipError(f"{path}: no frame has a depth")
    return SceneInput(clip.name, kind, tuple(seen), content_digest(clip),
                      moves=options.depth != "plane", note=depth.note if depth else "")


def _spread(geometry: GeometryFolder, count: int, rate: float) -> list[Observation]:
    total = len(geometry)
    count = min(count or total, total)
    numbers = np.unique(np.linspace(0, total - 1, count).round().astype(int))
    return [geometry.observation(int(n), geometry.camera.size, stamp_of(int(n), rate))
            for n in numbers]


def _read_panorama(path: Path, options: InputOptions) -> SceneInput:
    bgr = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if bgr is None:
        raise PanoramaError(f"{path}: no picture that can be read")
    image = np.asarray(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB), np.uint8)
    digest = hashlib.sha256(path.read_bytes())
    try:
        panorama = Panorama(image)  # its aspect is told before anything is estimated
        if options.ranges is not None:
            digest.update(options.ranges.read_bytes())
            panorama = Panorama(image, _read_ranges(options.ranges))
    except PanoramaError as error:
        raise PanoramaError(f"{path}: {error}") from error
    note, moves = "", True
    if panorama.ranges is None and options.depth == "plane":
        panorama = Panorama(image, np.ones(image.shape[:2], np.float32))
        note, moves = "no depth: the camera turns in place", False
    elif panorama.ranges is None:
        panorama, note = _estimated(path, panorama, options)
    width = options.width - options.width % 2
    height = round(width * 0.6) // 2 * 2
    return SceneInput(path.stem, "panorama",
                      tuple(panorama.observations(width, height, PANORAMA_VIEW)),
                      digest.hexdigest(), moves, note)


def _estimated(path: Path, panorama: Panorama, options: InputOptions) -> tuple[Panorama, str]:
    registry, missing = available_estimators(options.model)
    wanted = [n for n in registry.names if options.depth in ("auto", n)]
    if not wanted:
        why = "; ".join(f"{key}: {reason}" for key, reason in missing.items())
        raise PanoramaError(f"{path}: no depth. {why}. Give distances (--ranges FILE.npy), or "
                            "only turn in place (--depth plane)")
    estimator = registry.make(wanted[0])
    try:
        return (with_estimated_ranges(panorama, estimator),
                f"depth estimated by {wanted[0]}, its scale assumed")
    finally:
        estimator.close()


def _read_ranges(path: Path) -> npt.NDArray[np.float32]:
    try:
        ranges = np.load(path, allow_pickle=False)
    except ValueError as error:
        raise PanoramaError(f"{path}: not an array: {error}") from error
    ranges = np.asarray(ranges, np.float32)
    return np.where(ranges > 0, ranges, np.float32(np.nan))
