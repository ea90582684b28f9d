# SPDX-License-Identifier: Apache-2.0
"""The third step: a clip with geometry, seen from another way, as videos and a page."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from inspatio_ros.files.reference_layout import GeometryFolder, write_scene
from inspatio_ros.files.videos import VideoWriter
from inspatio_ros.geometry.camera import PinholeCamera
from inspatio_ros.geometry.trajectory import CameraTrajectory
from inspatio_ros.imagination.assessment import DriftSummary
from inspatio_ros.imagination.engine import GuideSource, ImaginationEngine
from inspatio_ros.imagination.request import ImaginationRequest
from inspatio_ros.memory.guide import Guide
from inspatio_ros.memory.world_memory import WorldMemory
from inspatio_ros.pipeline.camera_plan import CameraPlan, foreground_depth
from inspatio_ros.pipeline.depths import resized_picture, stamp_of
from inspatio_ros.pipeline.guides import WARPER, make_guides
from inspatio_ros.pipeline.results import ResultWriter
from inspatio_ros.pipeline.steps import is_done, read_record, write_record
from inspatio_ros.pipeline.truth import recorded_views
from inspatio_ros.sensing.observation import Observation, Provenance

Progress = Callable[[int], None]

# Frames by which the time of a run is estimated, and videos with a prediction to those without.
_TIMED = 8
_VIDEOS_RATIO = 5 / 3
# Of the release's folders.
EXPORTED_RENDER, EXPORTED_MASK = "render_offline.mp4", "mask_offline.mp4"

# Of the page and of the tables; a path of the user's machine would make results differ.
SUBTITLE = "recording, what geometry knows of the new view, imagined view"


@dataclass(frozen=True)
class ImagineOptions:
    """size: (width, height) px of the result. frame_rate: Hz of the result. mode: see
    OUTPUT_MODES. render_backend: see RENDER_BACKENDS. remember: draw holes from what earlier
    frames saw.
    """

    size: tuple[int, int]
    frame_rate: float
    seed: int = 0
    prompt: str = ""
    mode: str = "composite"
    render_backend: str = WARPER
    remember: bool = False
    parity: bool = False


class Imagined(NamedTuple):
    """A frame of the result: pictures uint8 RGB, provenance as labels [H, W]."""

    source: npt.NDArray[np.uint8]
    guide: Guide
    image: npt.NDArray[np.uint8]
    provenance: npt.NDArray[np.uint8]


class FrameObservations:
    """The recording's frame of each frame of the result; the last one used is kept."""

    def __init__(self, geometry: GeometryFolder, plan: CameraPlan, size: tuple[int, int],
                 recording_rate: float, memory: WorldMemory | None) -> None:
        self._geometry = geometry
        self._plan = plan
        self._size = size
        self._rate = recording_rate
        self._memory = memory
        self._last: tuple[int, Observation] | None = None

    def __call__(self, number: int) -> Observation:
        """The observation of frame `number` of the result, remembered if asked to."""
        frame = int(self._plan.source_frames[number])
        if self._last is None or self._last[0] != frame:
            seen = self._geometry.observation(frame, self._size, stamp_of(frame, self._rate))
            if self._memory is not None:
                self._memory.integrate(seen)
            self._last = (frame, seen)
        return self._last[1]


def imagine_clip(
    name: str, geometry: GeometryFolder, plan: CameraPlan, engine: ImaginationEngine | None,
    folder: Path, recording_rate: float, options: ImagineOptions, progress: Progress,
) -> dict[str, Any]:
    """Write the result of one clip into `folder`; its number of `frames`, and of a backend whose
    blocks build on each other, their `drift` (DriftSummary).

    Without an engine only what geometry knows: source, render and mask. Memory does not grow with
    the length of the clip.
    """
    with _guides(geometry, plan, recording_rate, options) as guides:
        memory = guides if options.remember and isinstance(guides, WorldMemory) else None
        frames = FrameObservations(geometry, plan, options.size, recording_rate, memory)
        camera = geometry.camera.resized(*options.size)
        real, drift = _recorded_views(geometry, plan, camera), DriftSummary()
        with ResultWriter(folder, options.frame_rate, predict=engine is not None,
                          judge=engine is not None and bool((real >= 0).any())) as result:
            if engine is None:
                for number in range(len(plan)):
                    seen = frames(number)
                    pose = plan.world_from_camera[number]
                    result.write(int(plan.source_frames[number]), seen.image,
                                 guides.render(camera, pose, (seen,)))
                    progress(result.frames)
            else:
                for made in _imagined(engine, guides, plan, camera, frames, options,
                                      drift):
                    number = result.frames
                    result.write(int(plan.source_frames[number]), *made, _truth(
                        geometry, int(real[number]), int(plan.source_frames[number]), made.source))
                    progress(result.frames)
            result.finish(name, SUBTITLE, plan.world_from_camera, camera.to_dict())
            notes: dict[str, Any] = {"frames": result.frames}
            return notes | ({"drift": drift.as_dict()} if drift.blocks else {})


def _recorded_views(geometry: GeometryFolder, plan: CameraPlan,
                    camera: PinholeCamera) -> npt.NDArray[np.int64]:
    """The recording's frame from the pose of each frame, -1 where there is none."""
    depth = geometry.depth(0)
    foreground = foreground_depth(depth) if (depth > 0).any() else 1.0
    return recorded_views(plan.world_from_camera, plan.source_frames, geometry.world_from_camera,
                          foreground=foreground, focal=camera.fx)


def _truth(geometry: GeometryFolder, frame: int, source_frame: int,
           source: npt.NDArray[np.uint8]) -> tuple[int, npt.NDArray[np.uint8]] | None:
    if frame < 0:
        return None
    if frame == source_frame:
        return frame, source
    return frame, resized_picture(geometry.image(frame), (source.shape[1], source.shape[0]))


def _imagined(
    engine: ImaginationEngine, guides: GuideSource, plan: CameraPlan, camera: PinholeCamera,
    frames: FrameObservations, options: ImagineOptions, drift: DriftSummary,
) -> Iterator[Imagined]:
    trajectory = CameraTrajectory.from_poses(plan.world_from_camera, options.frame_rate)
    sources: dict[int, Observation] = {}

    def own(number: int) -> Observation:
        sources[number] = frames(number)
        return sources[number]

    request = ImaginationRequest(
        camera, trajectory, (frames(0),), seed=options.seed, prompt=options.prompt,
        mode=options.mode, source_mode="stream")
    for block in engine.imagine(request, guides, own=own):
        drift.add(block.index, block.drift, block.drifting)
        for frame in block.frames:
            source = sources.pop(frame.frame_index)
            yield Imagined(source.image, frame.guide, frame.image, frame.provenance)


@contextmanager
def _guides(geometry: GeometryFolder, plan: CameraPlan, recording_rate: float,
            options: ImagineOptions) -> Iterator[GuideSource]:
    guides = make_guides(
        options.render_backend, geometry, plan, options.size, recording_rate=recording_rate,
        parity=options.parity, remember=options.remember)
    try:
        yield guides
    finally:
        if isinstance(guides, WorldMemory):
            guides.clear()


def seconds_to_show(geometry: GeometryFolder, plan: CameraPlan, recording_rate: float,
                    options: ImagineOptions) -> float:
    """Seconds that reading, drawing and writing a frame take, without imagining; measured."""
    few = CameraPlan(plan.source_frames[:_TIMED], plan.world_from_camera[:_TIMED])
    seconds = 0.0
    with TemporaryDirectory() as place:
        for number in range(2):  # the first time, things are compiled
            folder = Path(place) / str(number)
            folder.mkdir()
            start = time.perf_counter()
            imagine_clip("", geometry, few, None, folder, recording_rate, options, lambda _: None)
            seconds = time.perf_counter() - start
    return seconds * _VIDEOS_RATIO / len(few)


def export_scene(geometry: GeometryFolder, plan: CameraPlan, recording_rate: float,
                 options: ImagineOptions, scene: Path, key: str) -> bool:
    """Write the folder that the public release's last step reads; False when it is not ours.

    plan: the cameras of the recording's own frames, for that step itself walks them forth and back
    when they are too few. Done once for a fingerprint `key`; its note is written last.
    """
    if is_done(scene, key):
        return True
    if (scene / "render" / EXPORTED_RENDER).is_file() and read_record(scene) is None:
        return False
    scene.mkdir(parents=True, exist_ok=True)
    write_record(scene, "")  # ours from now on, whoever is killed before the end
    write_scene(scene, geometry)
    camera = geometry.camera.resized(*options.size)
    frames = FrameObservations(geometry, plan, options.size, recording_rate, None)
    parts = [scene / "render" / f"part.{name}" for name in (EXPORTED_RENDER, EXPORTED_MASK)]
    with _guides(geometry, plan, recording_rate, replace(options, remember=False)) as guides, \
            VideoWriter(parts[0], options.frame_rate) as render, \
            VideoWriter(parts[1], options.frame_rate) as mask:
        for number, pose in enumerate(plan.world_from_camera):
            guide = guides.render(camera, pose, (frames(number),))
            render.write(guide.image)
            known = guide.provenance >= Provenance.MEMORY
            mask.write(np.repeat(np.where(known, np.uint8(255), np.uint8(0))[..., None], 3, 2))
    for part in parts:
        os.replace(part, part.with_name(part.name.removeprefix("part.")))
    write_record(scene, key)
    return True
