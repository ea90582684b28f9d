# SPDX-License-Identifier: Apache-2.0
"""Hindsight: imagine along the path that was then really taken, compare with what was then seen.

At every start the memory holds what was seen until then, nothing of later. Along the poses of the
following frames the engine imagines; each imagined view is compared with the real frame of that
pose, and so are baselines that know as much.
"""

from __future__ import annotations

import hashlib
import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import islice

import numpy as np
import numpy.typing as npt

from inspatio_ros.evaluation.along import (
    Calibrated,
    Drift,
    Offset,
    Offsets,
    OnlineCalibration,
    Past,
)
from inspatio_ros.evaluation.baselines import (
    BASELINES,
    GUIDE_FILLS,
    QUICK,
    ViewBank,
    baselines,
    depth_of,
    guide_fills,
    picture_of,
)
from inspatio_ros.evaluation.calibration import (
    ErrorCalibration,
    color_error,
)
from inspatio_ros.evaluation.metrics import Mask
from inspatio_ros.evaluation.perceptual import frechet_distance
from inspatio_ros.evaluation.scores import Mean, Networks, Result, Score
from inspatio_ros.evaluation.view_checks import (
    CameraControl,
    CameraEstimator,
    Correspondence,
    HoleCause,
    correspondence,
    flicker,
    hole_causes,
)
from inspatio_ros.geometry import rigid
from inspatio_ros.geometry.camera import PinholeCamera
from inspatio_ros.geometry.trajectory import CameraTrajectory
from inspatio_ros.imagination.engine import ImaginationEngine
from inspatio_ros.imagination.filler import GeometricFiller
from inspatio_ros.imagination.request import (
    OUTPUT_MODES,
    ImaginationRequest,
    ImaginedFrame,
)
from inspatio_ros.memory.world_memory import MemoryOptions, WorldMemory
from inspatio_ros.sensing.observation import Observation, Provenance

__all__ = ["HindsightOptions", "HindsightReport", "Offset", "Result", "View", "as_json",
           "evaluate"]

Image = npt.NDArray[np.uint8]
Depth = npt.NDArray[np.float32]
Array = npt.NDArray[np.float64]

# FVD's network reads clips; shorter ones it refuses.
_CLIP_FRAMES = 10


@dataclass(frozen=True)
class HindsightOptions:
    """Where to start and how far to look.

    horizons: s after the start. stride: frames from one start to the next. warm_up: frames seen
    before the first start. width: of the pictures that are imagined and compared, pixels; the
    height keeps the aspect. skip: frames left out at the beginning. limit: frames read after
    those at most, 0 for all. fuse_interval: s between two
    frames that enter the memory. seed: of the engine's noise; more_seeds: others, whose views are
    pooled with it. methods: baselines, by name. thorough: also causes of holes, perceptual
    distances, flicker, depth, camera control, revisits, drift and offsets. offsets: starts aside
    of the real path, which have no truth: what is known there is told. mode: whether what is
    compared keeps what geometry backs, or is the model's own (`request.OUTPUT_MODES`). Raises
    ValueError.
    """

    horizons: tuple[float, ...] = (0.5, 1.0, 2.0)
    stride: int = 5
    warm_up: int = 5
    width: int = 416
    skip: int = 0
    limit: int = 0
    fuse_interval: float = 0.2
    seed: int = 0
    more_seeds: tuple[int, ...] = ()
    methods: tuple[str, ...] = QUICK
    thorough: bool = False
    offsets: tuple[Offset, ...] = ()
    mode: str = "composite"

    def __post_init__(self) -> None:
        if not self.horizons or not min(self.horizons) > 0:
            raise ValueError(f"horizons must be positive, got {self.horizons}")
        if len(set(self.horizons)) < len(self.horizons):
            raise ValueError(f"horizons must be different, got {self.horizons}")
        if self.stride < 1 or self.warm_up < 1 or self.width < 16:
            raise ValueError("stride and warm_up must be at least 1, width at least 16")
        if self.skip < 0 or self.limit < 0:
            raise ValueError("skip and limit must be at least 0")
        unknown = [name for name in self.methods if name not in (*BASELINES, *GUIDE_FILLS)]
        if unknown:
            known = ", ".join((*BASELINES, *GUIDE_FILLS))
            raise ValueError(f"methods must be of {known}, got {unknown[0]}")
        if self.mode not in OUTPUT_MODES:
            raise ValueError(f"mode must be of {', '.join(OUTPUT_MODES)}, got {self.mode}")

    @property
    def seeds(self) -> tuple[int, ...]:
        """All of them, the first first."""
        return (self.seed, *self.more_seeds)


@dataclass(frozen=True)
class View:
    """One comparison: what a method's engine imagined, and what is known of the truth.

    truth: uint8 RGB at the imagined size. pictures: every method's, by name. causes: `HoleCause`
    of each pixel. expected_error: of the frame, as calibrated by what was known at its start; NaN
    before enough was. before: the frame before it on its way, None for the first. match(): where
    its pixels were in that one, by the true depth; worked out when asked for.
    """

    method: str
    horizon: float
    seed: int
    frame: ImaginedFrame
    source: Observation
    truth: Image
    pictures: Mapping[str, Image]
    causes: npt.NDArray[np.uint8]
    expected_error: float
    before: ImaginedFrame | None
    match: Callable[[], Correspondence | None]


@dataclass
class HindsightReport:
    """What a recording gave. digest: SHA-256 of all imagined pixels, for comparing runs.

    unreached: by horizon in s, the starts that had no frame so much later. calibration: what
    `expected_error` was worth, by engine. drift, offsets, clips: tables of the thorough evaluation
    (see docs/evaluation.md).
    """

    recording: str
    camera: PinholeCamera
    starts: int
    results: list[Result]
    digest: str
    unreached: dict[float, int] = field(default_factory=dict)
    calibration: dict[str, Calibrated] = field(default_factory=dict)
    drift: list[dict[str, object]] = field(default_factory=list)
    offsets: list[dict[str, object]] = field(default_factory=list)
    clips: list[dict[str, object]] = field(default_factory=list)


OnFrames = Callable[[str, int, Sequence[ImaginedFrame]], None]
TrueDepth = Callable[[Observation], Depth | None]


def measured_depth(observation: Observation) -> Depth:
    """The observation's own depth as the truth: right where a sensor measured it."""
    return observation.depth


def evaluate(
    name: str,
    observations: Iterable[Observation],
    engine: ImaginationEngine | Sequence[ImaginationEngine],
    options: HindsightOptions,
    *,
    memory: MemoryOptions | None = None,
    true_depth: TrueDepth | None = measured_depth,
    networks: Networks | None = None,
    on_frame: Callable[[ImaginedFrame, Image, float], None] | None = None,
    on_start: Callable[[int], None] | None = None,
    on_view: Callable[[View], None] | None = None,
    on_frames: OnFrames | None = None,
) -> HindsightReport:
    """Score one or more engines and the baselines on a recording.

    true_depth(observation): what a sensor measured at that instant, [H, W] m of its camera; None
    where nothing did. on_frame(frame, truth, horizon s) sees every imagined view that is compared,
    on_view all that is known of it; on_frames(method, seed, frames) all frames of each start's
    way. Raises ValueError when the recording is too short for a single comparison; a horizon that
    a start does not reach is in the report's `unreached`.
    """
    engines = [engine] if isinstance(engine, ImaginationEngine) else list(engine)
    walk = _Walk(engines, options, memory, true_depth, networks or Networks(), on_frame, on_view,
                 on_frames)
    starts = 0
    for index, (now, later) in enumerate(_with_future(observations, options)):
        walk.see(now)
        if index + 1 < options.warm_up or (index + 1 - options.warm_up) % options.stride:
            continue
        chosen = _frames_at(now, later, options.horizons)
        walk.missed(set(options.horizons) - set(chosen))
        if not chosen:
            continue
        starts += 1
        if on_start is not None:
            on_start(starts)
        walk.start(now, later[:max(chosen.values()) + 1], chosen)
    if walk.camera is None or starts == 0:
        raise ValueError(
            f"{name}: too short: no start with {options.warm_up} frames before it and a frame "
            f"{min(options.horizons)} s after it")
    return walk.report(name, starts)


class _Walk:
    """What is carried along a recording: the memory, what was seen, and all scores."""

    def __init__(self, engines: Sequence[ImaginationEngine], options: HindsightOptions,
                 memory: MemoryOptions | None, true_depth: TrueDepth | None, networks: Networks,
                 on_frame: Callable[[ImaginedFrame, Image, float], None] | None,
                 on_view: Callable[[View], None] | None, on_frames: OnFrames | None) -> None:
        self._engines, self._options, self._networks = engines, options, networks
        self._true_depth = true_depth
        self._on_frame, self._on_view, self._on_frames = on_frame, on_view, on_frames
        self._memory = WorldMemory(memory or MemoryOptions(capacity=2_000_000))
        self._scores = _Scores()
        self._digest = hashlib.sha256()
        self._unreached: dict[float, int] = {}
        self._calibrations = {e.backend.name: OnlineCalibration() for e in engines}
        self._drift = Drift()
        self._offsets = Offsets()
        self._clips: dict[str, tuple[list[Depth], list[Depth]]] = {}
        self._past = Past()
        self._bank: ViewBank | None = None
        self._fused_ns: int | None = None
        self.camera: PinholeCamera | None = None

    def see(self, now: Observation) -> None:
        """What the camera sees next."""
        if self.camera is None:
            source, width = now.camera, self._options.width
            self.camera = source.resized(
                width, max(1, round(width * source.height / source.width)))
            self._bank = ViewBank(self.camera)
        if self._fused_ns is None or now.stamp_ns - self._fused_ns >= (
                0.9e9 * self._options.fuse_interval):
            self._memory.integrate(now)
            self._fused_ns = now.stamp_ns
        self._past.add(now)
        if self._bank is not None and "nearest_view" in self._options.methods:
            self._bank.add(now)

    def missed(self, horizons: set[float]) -> None:
        """A start has no later frame at these."""
        for horizon in horizons:
            self._unreached[horizon] = self._unreached.get(horizon, 0) + 1

    def start(self, now: Observation, later: list[Observation], chosen: dict[float, int]) -> None:
        """Imagine from here and compare."""
        assert self.camera is not None
        views = _StartViews(self.camera, now, later, self._true_depth)
        pictures: dict[tuple[int, str], Image] = {}
        for engine in self._engines:
            # Without randomness other seeds would count the same views again.
            seeds = self._options.seeds
            if isinstance(engine.backend, GeometricFiller):
                seeds = seeds[:1]
            for seed in seeds:
                request = _request(self.camera, now, later, seed, self._options.mode)
                frames = [f for block in engine.imagine(request, self._memory)
                          for f in block.frames]
                if self._on_frames is not None:
                    self._on_frames(engine.backend.name, seed, frames)
                self._compare(engine.backend.name, seed, frames, views, chosen, pictures)
        for offset in self._options.offsets:
            request = _request(self.camera, now, later, self._options.seed, self._options.mode,
                               offset)
            frames = [f for block in self._engines[0].imagine(request, self._memory)
                      for f in block.frames]
            self._offsets.add(self._engines[0].backend.name, offset, frames, chosen)

    def _compare(self, method: str, seed: int, frames: Sequence[ImaginedFrame],
                 views: _StartViews, chosen: dict[float, int],
                 drawn: dict[tuple[int, str], Image]) -> None:
        """One engine's frames; `drawn` holds the baselines' pictures, by number and name."""
        is_first = method == self._engines[0].backend.name and seed == self._options.seed
        calibration = self._calibrations[method]
        calibration.arrive(views.now.stamp_ns)
        for horizon, number in sorted(chosen.items()):
            frame, truth = frames[number], views.picture(number)
            self._digest.update(frame.image.tobytes())
            self._digest.update(frame.provenance.tobytes())
            expected = calibration.add(frame, color_error(frame.image, truth),
                                       views.later[number].stamp_ns)
            shown = {method: frame.image}
            if is_first:
                for name, picture in self._baselines(frame, views.now).items():
                    drawn[number, name] = shown[name] = picture
            parts, causes = self._parts(frame, views, number)
            for name, picture in shown.items():
                self._scores.at(horizon, name).add(picture, truth, parts)
            if is_first:
                self._scores.add_shares(horizon, parts)
            if self._options.thorough:
                self._thorough(horizon, number, shown, parts["holes"], frames, views, is_first,
                               method)
            if self._on_frame is not None and is_first:
                self._on_frame(frame, truth, horizon)
            if self._on_view is not None:
                others = {name: image for (at, name), image in drawn.items() if at == number}
                before = frames[number - 1] if number else None
                self._on_view(View(method, horizon, seed, frame, views.now, truth,
                                   {**others, **shown}, causes, expected, before,
                                   partial(views.match, number)))
        if self._options.thorough:
            self._whole_way(method, frames, views)

    def _baselines(self, frame: ImaginedFrame, now: Observation) -> dict[str, Image]:
        """The pictures of the methods of the options, in their order."""
        methods = self._options.methods
        alone = [name for name in methods if name not in GUIDE_FILLS]
        found = baselines(frame.camera, frame.world_from_camera, now, alone, self._bank)
        found.update(guide_fills(frame.guide, methods))
        return {name: found[name] for name in methods}

    def _parts(self, frame: ImaginedFrame, views: _StartViews, number: int
               ) -> tuple[dict[str, Mask], npt.NDArray[np.uint8]]:
        label = frame.provenance
        covered = label >= Provenance.MEMORY
        parts = {"covered": covered, "holes": ~covered, "observed": label == Provenance.OBSERVED,
                 "memory": label == Provenance.MEMORY, "imagined": label == Provenance.IMAGINED}
        if self._memory.moving is not None:
            moving = frame.guide.moving
            parts["moving"] = np.zeros(label.shape, np.bool_) if moving is None else moving
            parts["static"] = ~parts["moving"]
        causes = np.zeros(label.shape, np.uint8)
        if self._options.thorough or self._on_view is not None:
            causes = hole_causes(
                frame.camera, frame.world_from_camera, views.depth(number), ~covered,
                depth_of(views.now, frame.camera), views.now.world_from_camera)
        if self._options.thorough:
            parts.update({cause.name.lower(): causes == cause for cause in HoleCause
                          if cause != HoleCause.COVERED})
        return parts, causes

    def _thorough(self, horizon: float, number: int, shown: Mapping[str, Image], holes: Mask,
                  frames: Sequence[ImaginedFrame], views: _StartViews, is_first: bool,
                  method: str) -> None:
        truth, pose = views.picture(number), frames[number].world_from_camera
        wanted = rigid.invert(views.now.world_from_camera) @ pose
        match = views.match(number)
        before = {method: frames[number - 1].image} if number else {}
        if is_first and number:
            before.update(self._baselines(frames[number - 1], views.now))
        again = self._past.is_revisit(views.now.stamp_ns, pose)
        for name, picture in shown.items():
            score = self._scores.at(horizon, name)
            score.add_perceptual(picture, truth, holes, self._networks)
            if match is not None:
                score.mean("flicker", flicker(before[name], picture, match))
            score.control.add(views.estimator.estimate(picture), wanted)
            if again:
                score.add_revisit(picture, truth)
        true = views.true_depth(number)
        if true is not None:
            self._scores.at(horizon, method).depth.add(frames[number].depth, true)
        if is_first:
            floor = self._scores.floor(horizon)
            floor.control.add(views.estimator.estimate(truth), wanted)
            if match is not None:
                floor.flicker.add(flicker(views.picture(number - 1), truth, match))

    def _whole_way(self, method: str, frames: Sequence[ImaginedFrame], views: _StartViews) -> None:
        truths = [views.picture(number) for number in range(len(frames))]
        for frame, truth in zip(frames, truths, strict=True):
            self._drift.add(method, frame, truth)
        network = self._networks.fvd
        if network is not None and len(frames) >= _CLIP_FRAMES:
            ours, real = self._clips.setdefault(method, ([], []))
            ours.append(network.of_video([f.image for f in frames]))
            real.append(network.of_video(truths))

    def report(self, name: str, starts: int) -> HindsightReport:
        """All that was found."""
        assert self.camera is not None
        order = (*self._options.methods, *self._calibrations)
        clips: list[dict[str, object]] = [
            {"method": method, "clips": len(ours), "fvd": frechet_distance(ours, real)}
            for method, (ours, real) in self._clips.items()]
        return HindsightReport(
            name, self.camera, starts, self._scores.results(order), self._digest.hexdigest(),
            dict(sorted(self._unreached.items())),
            {method: c.judged for method, c in self._calibrations.items()},
            self._drift.table(), self._offsets.table(), clips)


class _StartViews:
    """What was really seen after one start, at the size of the views; made once, when asked."""

    def __init__(self, camera: PinholeCamera, now: Observation, later: Sequence[Observation],
                 true_depth: TrueDepth | None) -> None:
        self.now, self.later = now, later
        self._camera, self._measured = camera, true_depth
        self._pictures: dict[int, Image] = {}
        self._matches: dict[int, Correspondence | None] = {}
        self._estimator: CameraEstimator | None = None

    def picture(self, number: int) -> Image:
        if number not in self._pictures:
            self._pictures[number] = picture_of(self.later[number], self._camera)
        return self._pictures[number]

    def depth(self, number: int) -> Depth:
        """The true depth, else what the recording's own source of depth says."""
        true = self.true_depth(number)
        return depth_of(self.later[number], self._camera) if true is None else true

    def true_depth(self, number: int) -> Depth | None:
        later = self.later[number]
        depth = self._measured(later) if self._measured is not None else None
        if depth is None:
            return None
        return depth_of(Observation(later.stamp_ns, later.image, depth, later.camera,
                                    later.world_from_camera), self._camera)

    def match(self, number: int) -> Correspondence | None:
        """With the frame before; None for the first frame after the start."""
        if number == 0:
            return None
        if number not in self._matches:
            after, before = self.later[number], self.later[number - 1]
            self._matches[number] = correspondence(
                self._camera, after.world_from_camera, self.depth(number),
                before.world_from_camera, self.depth(number - 1))
        return self._matches[number]

    @property
    def estimator(self) -> CameraEstimator:
        if self._estimator is None:
            self._estimator = CameraEstimator(self._camera, picture_of(self.now, self._camera),
                                              depth_of(self.now, self._camera))
        return self._estimator


@dataclass
class _Floor:
    """The same figures of the real pictures."""

    control: CameraControl = field(default_factory=CameraControl)
    flicker: Mean = field(default_factory=Mean)


class _Scores:
    """Scores by horizon and method, and what is common to the methods of a horizon."""

    def __init__(self) -> None:
        self._scores: dict[tuple[float, str], Score] = {}
        self._shares: dict[float, dict[str, Mean]] = {}
        self._floors: dict[float, _Floor] = {}

    def at(self, horizon: float, method: str) -> Score:
        return self._scores.setdefault((horizon, method), Score())

    def floor(self, horizon: float) -> _Floor:
        return self._floors.setdefault(horizon, _Floor())

    def add_shares(self, horizon: float, parts: Mapping[str, Mask]) -> None:
        shares = self._shares.setdefault(horizon, {})
        for part, mask in parts.items():
            shares.setdefault(part, Mean()).add(float(mask.mean()))

    def results(self, order: Sequence[str]) -> list[Result]:
        results = []
        for horizon in sorted(self._shares):
            shares = {part: mean.value for part, mean in self._shares[horizon].items()}
            floor = self._floors.get(horizon, _Floor())
            for method in order:
                result = Result(method, horizon, 0, shares["covered"])
                for part in ("observed", "memory", "disoccluded", "out_of_view", "no_depth",
                             "other", "moving"):
                    setattr(result, f"share_{part}", shares.get(part, math.nan))
                result.flicker_truth = floor.flicker.value
                result.camera_floor_score = floor.control.score
                result.camera_floor_rotation_deg = floor.control.angle
                result.camera_floor_translation_m = floor.control.distance
                results.append(self._scores[horizon, method].fill(result))
        return results


def _with_future(
    observations: Iterable[Observation], options: HindsightOptions
) -> Iterator[tuple[Observation, list[Observation]]]:
    """Every observation with those of the following longest horizon; a bounded window."""
    reach_ns = round((max(options.horizons) + 0.5) * 1e9)
    window: deque[Observation] = deque()
    end = options.skip + options.limit if options.limit else None
    for observation in islice(observations, options.skip, end):
        window.append(observation)
        while window and observation.stamp_ns - window[0].stamp_ns > reach_ns:
            now = window.popleft()
            yield now, list(window)
    while window:
        now = window.popleft()
        yield now, list(window)


def _frames_at(now: Observation, later: Sequence[Observation], horizons: Sequence[float]
               ) -> dict[float, int]:
    """Index into `later` of the frame nearest to each horizon, where one is near enough.

    Near enough is within a quarter of the horizon, or a tenth of a second.
    """
    chosen: dict[float, int] = {}
    if not later:
        return chosen
    ages = np.array([o.stamp_ns - now.stamp_ns for o in later]) * 1e-9
    for horizon in horizons:
        number = int(np.argmin(np.abs(ages - horizon)))
        if abs(ages[number] - horizon) <= max(0.1, 0.25 * horizon):
            chosen[horizon] = number
    return chosen


def _request(camera: PinholeCamera, now: Observation, later: Sequence[Observation], seed: int,
             mode: str, offset: Offset | None = None) -> ImaginationRequest:
    times = np.array([o.stamp_ns - now.stamp_ns for o in later]) * 1e-9
    poses = np.stack([o.world_from_camera for o in later])
    if offset is not None:
        poses = poses @ offset.matrix
    return ImaginationRequest(camera, CameraTrajectory(poses, times), (now,), seed=seed,
                              mode=mode)


def as_json(report: HindsightReport) -> dict[str, object]:
    """A report as plain values; what is not a finite number becomes null."""
    return {
        "recording": report.recording, "camera": report.camera.to_dict(),
        "starts": report.starts, "digest": report.digest,
        "results": [_plain(vars(result)) for result in report.results],
        "unreached": [{"horizon_s": horizon, "starts": starts,
                       "reason": f"the recording has no frame {horizon:g} s after these starts"}
                      for horizon, starts in report.unreached.items()],
        "expected_error": {method: _calibration_json(found)
                           for method, found in report.calibration.items()},
        "drift": [_plain(row) for row in report.drift],
        "offsets": [_plain(row) for row in report.offsets],
        "clips": [_plain(row) for row in report.clips],
    }


def _plain(row: Mapping[str, object]) -> dict[str, object]:
    return {key: None if isinstance(value, float) and not math.isfinite(value) else value
            for key, value in row.items()}


def _calibration_json(found: Calibrated) -> dict[str, object]:
    def table(pairs: ErrorCalibration) -> dict[str, object]:
        curve = pairs.reliability()
        rows = zip(curve.predicted.tolist(), curve.error.tolist(), curve.count.tolist(),
                   strict=True)
        return {**_plain({"pairs": len(pairs), "gap": curve.gap, "ause": pairs.ause}),
                "reliability": [{"predicted": p, "error": e, "count": n} for p, e, n in rows]}

    return {"prior": table(found.prior), "expected": table(found.expected)}
