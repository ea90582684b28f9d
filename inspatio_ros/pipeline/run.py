# SPDX-License-Identifier: Apache-2.0
"""The whole pipeline over many clips: captions, geometry, imagination, each done once."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from av import FFmpegError

from inspatio_ros.captioning import CaptionCache, Captioner, CaptionError
from inspatio_ros.depth.estimator import EstimatorError
from inspatio_ros.files.reference_layout import (
    CAPTIONS,
    GEOMETRY,
    GeometryFolder,
    read_caption_entries,
    read_captions,
    write_captions,
)
from inspatio_ros.files.trajectory_files import read_trajectory
from inspatio_ros.geometry.motions import CameraMotion
from inspatio_ros.imagination.backends import (
    PUBLIC,
    TINY_RANDOM,
    BackendOptions,
    choose_backend,
    make_backend,
)
from inspatio_ros.imagination.engine import ImaginationEngine
from inspatio_ros.imagination.request import NoGeometry
from inspatio_ros.pipeline.camera_plan import (
    CameraPlan,
    MotionOptions,
    foreground_depth,
    frame_count,
    plan_camera,
)
from inspatio_ros.pipeline.clips import Clip, ClipInfo, clip_info, picture_at
from inspatio_ros.pipeline.depths import ClipDepth
from inspatio_ros.pipeline.geometry import (
    RELEASE_SIZE,
    GeometryOptions,
    frame_rate_of,
    make_geometry,
    working_size,
)
from inspatio_ros.pipeline.guides import WARPER
from inspatio_ros.pipeline.imagine import (
    ImagineOptions,
    export_scene,
    imagine_clip,
    seconds_to_show,
)
from inspatio_ros.pipeline.preflight import Preflight, check, seconds_a_frame
from inspatio_ros.pipeline.steps import alone, building, fingerprint, is_done, read_record
from inspatio_ros.share import share_folder

log = logging.getLogger(__name__)

# What a clip may fail with while the others go on; anything else is a defect and ends the run.
CLIP_ERRORS = (ValueError, OSError, FFmpegError, CaptionError, EstimatorError, NoGeometry)
RELEASE_RATE = 24.0
# Blocks from which on it is worth measuring how long they take.
_PACED_BLOCKS = 5
# Files up to this size are told apart by content, larger ones by size and time.
_HASHED_BYTES = 64 << 20


class Denied(ValueError):
    """The preflight refuses: the run could not end well."""


@dataclass(frozen=True)
class RunOptions:
    """Everything a run depends on. The names of flags of the public release keep their meaning.

    trajectory: file. output: folder of the results, one folder a clip. work: folder of captions
    and geometry. release_folders: also write what the release's last step reads. skip: steps (1
    captions, 2 geometry, 3 imagination) that are not done; what they made before is used.
    florence: caption model's folder, None for no captions. depth_model: folder of the depth
    model, for the preflight. prompt: for all clips instead.
    frame_rate: Hz of the results, None for the recording's. mode: 'auto' is 'model' for the public
    model and in parity, else 'composite'. only: this step alone.
    """

    trajectory: Path
    output: Path
    work: Path
    release_folders: bool = False
    skip: frozenset[int] = frozenset()
    florence: Path | None = None
    depth_model: Path | None = None
    prompt: str | None = None
    motion: MotionOptions = field(default_factory=MotionOptions)
    geometry: GeometryOptions = field(default_factory=GeometryOptions)
    backend: BackendOptions = field(default_factory=BackendOptions)
    render_backend: str = WARPER
    remember: bool = False
    mode: str = "auto"
    frame_rate: float | None = None
    seed: int = 0
    device: str = ""
    only: int | None = None

    @property
    def parity(self) -> bool:
        """Whether the release's own conventions hold."""
        return self.motion.parity


class Listener:
    """What is told of a run; does nothing by itself."""

    @contextmanager
    def bar(self, label: str, total: int) -> Iterator[Callable[[int], None]]:
        """A progress bar; what it gives is called with the number done so far."""
        yield lambda done: None

    def say(self, text: str) -> None:
        """A line for the user."""

    def failed(self, clip: str, reason: str) -> None:
        """A clip that is skipped from now on."""


@dataclass
class RunResult:
    """What became of each clip: its folder, or the reason why there is none."""

    folders: dict[str, Path] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)


def resolve_trajectory(name: str | Path) -> Path:
    """The trajectory file of this path, or the shipped motion of this name.

    Raises FileNotFoundError naming the shipped ones.
    """
    path = Path(name)
    if path.is_file():
        return path
    shipped = {p.stem: p for p in sorted((share_folder("samples") / "motions").glob("*.txt"))}
    if str(name) in shipped:
        return shipped[str(name)]
    raise FileNotFoundError(
        f"{name}: no such trajectory file; shipped motions: {', '.join(shipped)}")


class Pipeline:
    """Runs clips through all steps; a clip that fails is reported and left out of the others.

    make_depth: gives the depth provider for pictures, asked for once and only when needed.
    """

    def __init__(self, clips: Sequence[Clip], options: RunOptions,
                 make_depth: Callable[[], ClipDepth], listener: Listener | None = None) -> None:
        self.options = options
        self.listener = listener or Listener()
        self.result = RunResult()
        self._clips = list(clips)
        self._make_depth = make_depth
        self._infos: dict[str, ClipInfo | None] = {}
        self._path = read_trajectory(options.trajectory)

    def run(self) -> RunResult:
        """All steps. Raises Denied, or what makes every clip impossible (weights, trajectory)."""
        for clip in self._alive():
            with self._guard(clip):
                self._infos[clip.name] = None if clip.kind == "recording" else clip_info(clip)
        only = self.options.only
        self._refuse_what_cannot_end()
        prompts = self._captions() if only in (None, 1, 3) else {}
        if only in (None, 2):
            self._geometry()
        if only in (None, 3):
            self._imagine(prompts)
        return self.result

    def _refuse_what_cannot_end(self) -> None:
        """The preflight's first word, before anything is computed. Raises Denied."""
        options = self.options
        if 3 in options.skip or options.only in (1, 2):
            return
        frames = stored = 0
        size = RELEASE_SIZE
        for clip in self._alive():
            info = self._infos[clip.name]
            if info is None:
                continue
            size = working_size(info.width, info.height, options.geometry)
            stored += 0 if self.geometry_folder(clip).is_dir() else info.frames
            shown = info.frames + max(0, options.motion.freeze_repeat)
            frames += shown if not isinstance(self._path, CameraMotion) else frame_count(
                self._path, shown, options.motion)
        verdict = check(options.backend, options.output, frames, stored, size, (), None,
                        models=[place for place in (options.florence, options.depth_model)
                                if place is not None])
        if verdict.decision == "deny":
            raise Denied(verdict.line())
        if stored:
            self.listener.say(f"before depth: {verdict.line()}")

    def _alive(self) -> list[Clip]:
        return [clip for clip in self._clips if clip.name not in self.result.failures]

    @contextmanager
    def _guard(self, clip: Clip) -> Iterator[None]:
        try:
            yield
        except CLIP_ERRORS as error:
            log.debug("%s failed", clip.path, exc_info=True)
            self.result.failures[clip.name] = str(error)
            self.listener.failed(clip.name, str(error))

    # Step 1

    def _captions(self) -> dict[str, str]:
        """The prompt of each clip."""
        options = self.options
        file = options.work / CAPTIONS
        known = read_captions(file) if file.is_file() else {}
        if options.prompt is not None:
            self._keep_captions(file, {clip.name: known.get(clip.path.name) or options.prompt
                                       for clip in self._clips})
            return {clip.name: options.prompt for clip in self._clips}
        prompts = {clip.name: known.get(clip.path.name, "") for clip in self._clips}
        wanting = [clip for clip in self._alive()
                   if not prompts[clip.name] and clip.kind != "recording"]
        if 1 in options.skip or options.only == 3 or options.florence is None or not wanting:
            self._keep_captions(file, prompts)
            return prompts
        captioner = Captioner(options.florence, device=options.device or None)
        model = fingerprint({"files": file_identity(options.florence)})
        options.work.mkdir(parents=True, exist_ok=True)
        cache = CaptionCache(options.work / "caption_cache.json", model)
        with self.listener.bar("captions", len(wanting)) as progress:
            for number, clip in enumerate(wanting, 1):
                with self._guard(clip):
                    prompts[clip.name] = self._caption(clip, captioner, cache)
                progress(number)
        self._keep_captions(file, prompts)
        return prompts

    def _keep_captions(self, file: Path, texts: Mapping[str, str]) -> None:
        """Write new.json for videos with captions and, for the release's steps, for those without.

        Entries of videos that are not run now stay.
        """
        rows = {clip.path.name: (clip.path, texts[clip.name]) for clip in self._clips
                if clip.kind != "recording"}
        release = self.options.release_folders
        if (not release and not any(text for _, text in rows.values())) or (
                1 in self.options.skip) or self.options.only == 3:
            return
        if file.is_file():
            for path, text in read_caption_entries(file):
                rows.setdefault(path.name, (path, text))
        file.parent.mkdir(parents=True, exist_ok=True)
        write_captions(file, list(rows.values()))

    def _caption(self, clip: Clip, captioner: Captioner, cache: CaptionCache) -> str:
        info = self._infos[clip.name]
        assert info is not None
        picture = picture_at(clip, info, info.frames // 2)
        caption = cache.get(picture)
        if caption is None:
            caption = captioner.caption([picture])[0]
            cache.put(picture, caption)
        return caption

    # Step 2

    def geometry_folder(self, clip: Clip) -> Path:
        """Where the clip's geometry lies."""
        return self.options.work / GEOMETRY / f"{clip.name}_da3_tmp"

    def _geometry(self) -> None:
        depth: ClipDepth | None = None
        try:
            for clip in self._alive():
                with self._guard(clip):
                    folder = self.geometry_folder(clip)
                    if self._is_given(folder):
                        GeometryFolder(folder)  # says what is missing
                        continue
                    if clip.kind != "recording":
                        depth = depth or self._make_depth()
                    self._make_geometry(clip, folder, depth)
        finally:
            if depth is not None:
                depth.close()

    def _is_given(self, folder: Path) -> bool:
        """Whether to take the folder as it is: asked to, or another program made it."""
        if 2 in self.options.skip:
            return True
        given = (folder / "extrinsic.txt").is_file() and read_record(folder) is None
        if given:
            self.listener.say(f"{folder}: made by another program, taken as it is")
        return given

    def _make_geometry(self, clip: Clip, folder: Path, depth: ClipDepth | None) -> None:
        info = self._infos[clip.name]
        with alone(folder), self.listener.bar(
                f"{clip.name}: depth", info.frames if info else 0) as progress:
            make_geometry(clip, info, folder, depth if info else None, self.options.geometry,
                          progress)
        if info and info.uneven and not self.options.parity:
            self.listener.say(f"{clip.name}: uneven frame times, shown at an even "
                              f"{info.frame_rate:.2f} Hz")

    # Step 3

    def _imagine(self, prompts: Mapping[str, str]) -> None:
        plans: dict[str, tuple[GeometryFolder, CameraPlan, ImagineOptions, str]] = {}
        for clip in self._alive():
            with self._guard(clip):
                plans[clip.name] = self._planned(clip, prompts[clip.name])
        waiting = [clip for clip in self._alive() if not is_done(
            self.options.output / clip.name, plans[clip.name][3])]
        for clip in self._alive():
            if clip not in waiting:
                self.listener.say(f"{clip.name}: done before")
                self.result.folders[clip.name] = self.options.output / clip.name
        engine = self._engine_for([plans[clip.name] for clip in waiting]) if waiting else None
        try:
            for clip in waiting:
                with self._guard(clip):
                    self._imagine_one(clip, *plans[clip.name], engine)
        finally:
            if engine is not None:
                engine.close()
        if self.options.release_folders:
            for clip in self._alive():
                with self._guard(clip):
                    self._export(clip, plans[clip.name][0], plans[clip.name][2])

    def _planned(
        self, clip: Clip, prompt: str
    ) -> tuple[GeometryFolder, CameraPlan, ImagineOptions, str]:
        options = self.options
        folder = self.geometry_folder(clip)
        geometry = GeometryFolder(folder)
        recording_rate = frame_rate_of(folder, RELEASE_RATE)
        rate = options.frame_rate or (RELEASE_RATE if options.parity else recording_rate)
        motion = replace(options.motion, frame_rate=rate)
        unit = self._unit(geometry)
        plan = plan_camera(self._path, geometry.world_from_camera, unit, motion)
        if options.parity:
            plan = plan.whole_blocks()
        name, _ = choose_backend(options.backend)
        mode = options.mode
        if mode == "auto":
            mode = "model" if options.parity or name == PUBLIC else "composite"
        imagine = ImagineOptions(
            working_size(*geometry.camera.size, options.geometry), rate, options.seed, prompt,
            mode, options.render_backend, options.remember, options.parity)
        key = fingerprint({
            "geometry": _geometry_identity(folder), "plan": _plan_identity(plan),
            "imagine": asdict(imagine), "recording_rate": recording_rate,
            "backend": None if 3 in options.skip else _backend_identity(options.backend, name)})
        return geometry, plan, imagine, key

    def _unit(self, geometry: GeometryFolder) -> float:
        """What a displacement of one is, in the unit of the geometry."""
        options = self.options
        if (isinstance(self._path, CameraMotion) and not options.parity
                and not options.motion.rotation_only and self._path.displacement.any()):
            return _foreground(geometry)
        return 1.0

    def _export(self, clip: Clip, geometry: GeometryFolder, imagine: ImagineOptions) -> None:
        """Leave what the release's last step reads: it walks the frames by itself."""
        motion = replace(self.options.motion, adaptive=False, frame_rate=imagine.frame_rate)
        unit = self._unit(geometry)
        plan = plan_camera(self._path, geometry.world_from_camera, unit, motion)
        shown = replace(imagine, size=RELEASE_SIZE)
        key = fingerprint({
            "geometry": _geometry_identity(geometry.folder), "imagine": asdict(shown),
            "plan": _plan_identity(plan)})
        rate = frame_rate_of(geometry.folder, RELEASE_RATE)
        scene = self.options.work / GEOMETRY / clip.name
        if not export_scene(geometry, plan, rate, shown, scene, key):
            self.listener.say(f"{scene}: made by another program, left as it is")

    def _engine_for(
        self, plans: Sequence[tuple[GeometryFolder, CameraPlan, ImagineOptions, str]]
    ) -> ImaginationEngine | None:
        """The engine, after the preflight's word; None when nothing is imagined."""
        if 3 in self.options.skip:
            return None
        frames = sum(len(plan) for _, plan, _, _ in plans)
        size = plans[0][2].size
        notes = self._notes(plans)
        verdict = self._verdict(frames, size, notes, None)
        if verdict.decision == "deny":
            raise Denied(verdict.line())
        backend = make_backend(self.options.backend)
        pace = None
        if frames > _PACED_BLOCKS * backend.block_frames:
            geometry, plan, imagine, _ = plans[0]
            pace = seconds_a_frame(backend, geometry.camera.resized(*size)) + seconds_to_show(
                geometry, plan, frame_rate_of(geometry.folder, RELEASE_RATE), imagine)
        self.listener.say(self._verdict(frames, size, notes, pace).line())
        return ImaginationEngine(backend)

    def _verdict(self, frames: int, size: tuple[int, int], notes: Sequence[str],
                 pace: float | None) -> Preflight:
        return check(self.options.backend, self.options.output, frames, 0, size, notes, pace)

    def _notes(
        self, plans: Sequence[tuple[GeometryFolder, CameraPlan, ImagineOptions, str]]
    ) -> list[str]:
        """What is given up, once each."""
        notes = [str((read_record(geometry.folder) or {}).get("note") or "")
                 for geometry, _, _, _ in plans]
        name, _ = choose_backend(self.options.backend)
        if name == PUBLIC and not all(imagine.prompt for _, _, imagine, _ in plans):
            notes.append("a clip has no caption: the model gets an empty prompt")
        return list(dict.fromkeys(note for note in notes if note))

    def _imagine_one(
        self, clip: Clip, geometry: GeometryFolder, plan: CameraPlan, imagine: ImagineOptions,
        key: str, engine: ImaginationEngine | None,
    ) -> None:
        folder = self.options.output / clip.name
        rate = frame_rate_of(geometry.folder, RELEASE_RATE)
        with (alone(folder), building(folder, key) as (part, notes),
              self.listener.bar(f"{clip.name}: imagine", len(plan)) as progress):
            notes |= imagine_clip(
                clip.name, geometry, plan, engine, part, rate, imagine, progress)
            notes["frame_rate"] = imagine.frame_rate
            notes["largest_turn_degrees"] = round(plan.largest_turn * 57.29577951308232, 6)
        self.result.folders[clip.name] = folder


def _foreground(geometry: GeometryFolder) -> float:
    """The foreground depth of the first frame that has any. Raises ValueError without one."""
    for number in range(len(geometry) - 1):
        depth = geometry.depth(number)
        if (depth > 0).any():
            return foreground_depth(depth)
    return foreground_depth(geometry.depth(len(geometry) - 1))


def file_identity(place: Path) -> list[list[object]]:
    """What tells a file, or the files of a folder, apart: name, size and content or time."""
    files = [place] if place.is_file() else sorted(p for p in place.rglob("*") if p.is_file())
    rows: list[list[object]] = []
    for file in files:
        stat = file.stat()
        small = stat.st_size <= _HASHED_BYTES
        mark: object = (hashlib.sha256(file.read_bytes()).hexdigest() if small
                        else stat.st_mtime_ns)
        rows.append([str(file.relative_to(place) if file != place else file.name),
                     stat.st_size, mark])
    return rows


def _plan_identity(plan: CameraPlan) -> str:
    return hashlib.sha256(
        plan.world_from_camera.tobytes() + plan.source_frames.tobytes()).hexdigest()


def _geometry_identity(folder: Path) -> object:
    record = read_record(folder)
    if record is not None:
        return record.get("fingerprint")
    texts = [hashlib.sha256((folder / name).read_bytes()).hexdigest()
             for name in ("intrinsic.txt", "extrinsic.txt")]
    pictures = [[p.name, p.stat().st_size, p.stat().st_mtime_ns]
                for kind in ("depth", "frames") for p in sorted((folder / kind).iterdir())]
    return [texts, pictures]


def _backend_identity(options: BackendOptions, name: str) -> dict[str, object]:
    """What of the backend decides its pictures."""
    weights: list[object] = []
    if options.weights:
        weights = [file_identity(Path(options.weights))]
    elif name not in (PUBLIC, TINY_RANDOM):
        shipped = _shipped_weights(name)
        weights = [file_identity(shipped)] if shipped else []
    return {"name": name, "weights": weights, "steps": list(options.steps),
            **{k: v for k, v in asdict(options.long_rollout).items() if v},
            "step_count": options.step_count, "full_vae": options.full_vae, "seed": options.seed,
            "parts": {k: file_identity(v) for k, v in options.parts.items()}}


def _shipped_weights(name: str) -> Path | None:
    try:
        folder = share_folder("weights") / f"inspatio_{name}"
    except FileNotFoundError:
        return None
    return folder if folder.is_dir() else None
