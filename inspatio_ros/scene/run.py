# SPDX-License-Identifier: Apache-2.0
"""A whole scene from one input: clips, one after the other, then its reconstruction.

    DIR/input/          geometry of the input, made once
    DIR/clips/NN_kind/  one imagined clip each, made once: killed, the next run goes on after it
    DIR/scene/          mesh, cloud, cameras, coverage, pictures and page

Every part is done once and appears whole or not at all (`pipeline.steps`). A clip depends on the
one before it by what that left in memory, which is brought back from disk bit by bit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt

from inspatio_ros.depth.estimator import DepthEstimator, EstimatorError
from inspatio_ros.depth.estimators import available_estimators
from inspatio_ros.geometry import rigid
from inspatio_ros.geometry.camera import PinholeCamera
from inspatio_ros.geometry.trajectory import CameraTrajectory
from inspatio_ros.imagination.backends import BackendOptions, choose_backend, make_backend
from inspatio_ros.imagination.blocks import BlockPlan
from inspatio_ros.imagination.engine import ImaginationEngine
from inspatio_ros.imagination.request import ImaginationRequest, ImaginedFrame
from inspatio_ros.memory.imagined_points import ImaginedView
from inspatio_ros.memory.stereo_memory import StereoOptions
from inspatio_ros.memory.world_memory import MemoryOptions
from inspatio_ros.pipeline.steps import alone, building, fingerprint, is_done
from inspatio_ros.scene.align import estimated_view
from inspatio_ros.scene.clip_files import ClipFolder, ClipWriter, imagined_only
from inspatio_ros.scene.free_space import FreeSpace
from inspatio_ros.scene.inputs import InputOptions, SceneInput, read_input
from inspatio_ros.scene.kept_views import KEPT, SceneMemory, read_kept, write_kept
from inspatio_ros.scene.result import SceneResult, write_result
from inspatio_ros.scene.schedule import (
    LEFT,
    ORBIT,
    RIGHT,
    TURN,
    UP,
    WANDER,
    SceneClip,
    choose_starts,
    plan_clip,
)
from inspatio_ros.sensing.observation import Observation

Float = npt.NDArray[np.float32]

FRAME_RATE = 12.0
CARRIED, ESTIMATED = "carried", "estimated"
# Recordings see the scene from several places: that many are started from.
_STARTS = 3
# Frames of a clip whose imagined depth is fused, and the least share that must be imagined.
_SURFACES, _LEAST_IMAGINED = 30, 0.01


@dataclass(frozen=True)
class SceneOptions:
    """clips: kinds in order, empty for the default of the input's kind. wander: how many ways to
    wander at the end. voxel_size: m, of memory and mesh. max_depth: m. clearance: m. seed: of
    every random draw. mode: see OUTPUT_MODES. imagined_depth: 'carried' on from what is known, or
    'estimated' from the pictures by the depth model of `reading`. splats: also Gaussian splats.
    """

    reading: InputOptions = field(default_factory=InputOptions)
    backend: BackendOptions = field(default_factory=BackendOptions)
    clips: tuple[str, ...] = ()
    wander: int = 4
    voxel_size: float = 0.03
    max_depth: float = 20.0
    clearance: float = 0.25
    seed: int = 0
    prompt: str = ""
    mode: str = "composite"
    imagined_depth: str = CARRIED
    splats: bool = False


def make_scene(path: Path, folder: Path, options: SceneOptions,
               say: Callable[[str], None] = lambda _: None) -> SceneResult:
    """The scene of the input at `path` in `folder`; goes on where an earlier run was stopped.

    Raises ValueError or OSError with a sentence for the user.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with alone(folder / "scene"):
        source = read_input(path, folder / "input", options.reading)
        if source.note:
            say(source.note)
        return scene_of(source, folder, options, say)


def scene_of(source: SceneInput, folder: Path, options: SceneOptions,
             say: Callable[[str], None] = lambda _: None) -> SceneResult:
    """As `make_scene`, of an input that is read already."""
    scene = _Scene(source, folder, options, say)
    clips = list(scene.clips())
    return write_result(folder / "scene", scene.key, source, clips, scene.memory,
                        voxel_size=options.voxel_size, max_depth=options.max_depth,
                        splats=options.splats, say=say)


def schedule_of(source: SceneInput, options: SceneOptions) -> list[tuple[str, Observation | None]]:
    """Kinds of clips, each with the observation to start from; None: where the last one ended."""
    first = source.observations[0]
    if options.clips:
        return [(kind, first) for kind in options.clips]
    if not source.moves:
        return [(TURN, first)]
    if source.kind == "image":
        plan = [(kind, first) for kind in (ORBIT, UP, RIGHT, LEFT)]
    elif source.kind == "panorama":
        level = [o for o in source.observations if abs(o.world_from_camera[1, 2]) < 0.1]
        plan = [(kind, start) for start in level[::max(1, len(level) // 3)][:3]
                for kind in (ORBIT, UP)]
    else:
        plan = [(kind, start) for start in choose_starts(source.observations, _STARTS)
                for kind in (ORBIT, UP, RIGHT, LEFT)]
    return [*plan, *((WANDER, None) for _ in range(options.wander))]


class _Scene:
    """The scene's memory and the clips that lead through it."""

    def __init__(self, source: SceneInput, folder: Path, options: SceneOptions,
                 say: Callable[[str], None]) -> None:
        self._source, self._folder, self._options, self._say = source, folder, options, say
        self._engine: ImaginationEngine | None = None
        # The choice, not the word 'auto': another backend makes another scene.
        self._backend_name, _ = choose_backend(options.backend)
        self.key = fingerprint({
            "input": source.digest, "kind": source.kind, "reading": asdict(options.reading),
            "backend": [self._backend_name, options.backend.weights, options.backend.steps,
                        options.backend.step_count, asdict(options.backend.long_rollout)],
            "clips": options.clips,
            "wander": options.wander, "voxel_size": options.voxel_size, "seed": options.seed,
            "max_depth": options.max_depth, "clearance": options.clearance,
            "prompt": options.prompt, "mode": options.mode,
            "imagined_depth": options.imagined_depth})
        estimator = _estimator(options) if options.imagined_depth == ESTIMATED else None
        self.memory = SceneMemory(MemoryOptions(
            capacity=3_000_000, max_age=1e9, max_radius=1e5, voxel_size=options.voxel_size,
            max_depth=options.max_depth, keep_imagined=True, imagined_capacity=2_000_000,
            stereo=StereoOptions()),
            None if estimator is None else partial(estimated_view, estimator=estimator))
        for observation in source.observations:
            self.memory.integrate(observation)
        points, _ = self.memory.colored_points(400_000)
        self._space = FreeSpace(source.observations, points, options.clearance)

    def clips(self) -> Iterator[ClipFolder]:
        """The clips of the schedule, made now unless they are there already."""
        last = self._source.observations[0]
        before = self.key
        for number, (kind, start) in enumerate(schedule_of(self._source, self._options)):
            name = f"{number:02d}_{kind}"
            place = self._folder / "clips" / name
            key = fingerprint({"before": before, "name": name})
            if is_done(place, key):
                self.memory.replay(read_kept(place / KEPT))
                self._say(f"{name}: is there")
            else:
                clip = plan_clip(kind, name, start or last, self._space, self.memory,
                                 self._camera)
                if clip is None:
                    self._say(f"{name}: left out: no free way, or nothing left to find")
                    continue
                self._make(clip, kind, place, key)
            before = key
            made = ClipFolder(place)
            last = self._end_of(made)
            yield made
        if self._engine is not None:
            self._engine.close()

    @property
    def _camera(self) -> PinholeCamera:
        return self._source.observations[0].camera

    def _end_of(self, made: ClipFolder) -> Observation:
        """Where the next way may begin: a clip's last pose, with what is seen from there."""
        pose = made.record.world_from_camera[-1]
        guide = self.memory.render(self._camera, pose)
        return Observation(0, guide.image, guide.depth, self._camera, pose)

    def _make(self, clip: SceneClip, kind: str, place: Path, key: str) -> None:
        if self._engine is None:
            self._engine = ImaginationEngine(make_backend(self._options.backend))
        place.parent.mkdir(parents=True, exist_ok=True)
        self.memory.take_noted()
        with building(place, key) as (part, notes):
            writer = ClipWriter(part, clip.name, kind)
            every = max(1, len(clip) // _SURFACES)
            for number, frame in enumerate(self._imagined(self._engine, clip)):
                depth = trust = None
                if number % every == 0 and frame.imagined_ratio >= _LEAST_IMAGINED:
                    depth, trust = self._imagined_depth(frame)
                writer.write(frame, depth, trust)
            writer.finish()
            write_kept(part / KEPT, self.memory.take_noted())
            notes["frames"] = len(clip)
        self._say(f"{clip.name}: {len(clip)} frames")

    def _imagined(self, engine: ImaginationEngine, clip: SceneClip) -> Iterator[ImaginedFrame]:
        poses = clip.world_from_camera
        blocks = iter(BlockPlan(len(clip), engine.backend.block_frames,
                                engine.backend.first_block_frames))

        def nearest() -> Sequence[Observation]:
            span = next(blocks)
            return (_nearest(self._source.observations, poses[(span.start + span.stop) // 2]),)

        request = ImaginationRequest(
            self._camera, CameraTrajectory.from_poses(poses, FRAME_RATE), (),
            seed=self._options.seed, prompt=self._options.prompt, mode=self._options.mode)
        for block in engine.imagine(request, self.memory, nearest):
            yield from block.frames

    def _imagined_depth(self, frame: ImaginedFrame) -> tuple[Float, Float]:
        """Depth of a frame's imagined pixels, NaN elsewhere, and its trust."""
        guide, imagined = frame.guide, self.memory.imagined
        assert imagined is not None
        view = ImaginedView(frame.image, guide.depth, imagined_only(frame), frame.camera,
                            frame.world_from_camera, frame.source_stamp_ns)
        if self.memory.estimate is not None:
            view = self.memory.estimate(view)
        depth, trust = imagined.depth_of(view, self.memory.cloud)
        if guide.kept is not None:
            depth = np.where(guide.kept > 0, guide.kept, depth)
        return (np.where(view.fresh, depth, np.float32(np.nan)).astype(np.float32),
                np.where(view.fresh, trust, np.float32(0)).astype(np.float32))


def _estimator(options: SceneOptions) -> DepthEstimator:
    registry, missing = available_estimators(options.reading.model)
    if not registry.names:
        why = "; ".join(f"{key}: {reason}" for key, reason in missing.items())
        raise EstimatorError(f"imagined depth cannot be estimated. {why}")
    wanted = options.reading.depth
    return registry.make(wanted if wanted in registry.names else registry.names[0])


def _nearest(observations: Sequence[Observation],
             pose: npt.NDArray[np.float64]) -> Observation:
    step = rigid.invert(np.stack([o.world_from_camera for o in observations])) @ pose
    away = np.linalg.norm(step[:, :3, 3], axis=1) + rigid.rotation_angle(step)
    return observations[int(np.argmin(away))]
