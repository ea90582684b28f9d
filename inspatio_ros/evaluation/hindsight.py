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
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice

import numpy as np
import numpy.typing as npt

from inspatio_ros.evaluation.baselines import BASELINES, baselines, picture_of
from inspatio_ros.evaluation.metrics import Mask, SquaredError, ssim_map
from inspatio_ros.geometry.camera import PinholeCamera
from inspatio_ros.geometry.trajectory import CameraTrajectory
from inspatio_ros.imagination.engine import ImaginationEngine
from inspatio_ros.imagination.request import ImaginationRequest, ImaginedFrame
from inspatio_ros.memory.world_memory import MemoryOptions, WorldMemory
from inspatio_ros.sensing.observation import Observation, Provenance

Image = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class HindsightOptions:
    """Where to start and how far to look.

    horizons: s after the start. stride: frames from one start to the next. warm_up: frames seen
    before the first start. width: of the pictures that are imagined and compared, pixels; the
    height keeps the aspect. skip: frames left out at the beginning. limit: frames read after
    those at most, 0 for all. fuse_interval: s between two
    frames that enter the memory. seed: of the engine's noise.
    """

    horizons: tuple[float, ...] = (0.5, 1.0, 2.0)
    stride: int = 5
    warm_up: int = 5
    width: int = 416
    skip: int = 0
    limit: int = 0
    fuse_interval: float = 0.2
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.horizons or min(self.horizons) <= 0:
            raise ValueError(f"horizons must be positive, got {self.horizons}")
        if self.stride < 1 or self.warm_up < 1 or self.width < 16:
            raise ValueError("stride and warm_up must be at least 1, width at least 16")


@dataclass
class Score:
    """Errors of one method at one horizon, pooled over all starts."""

    everywhere: SquaredError = field(default_factory=SquaredError)
    covered: SquaredError = field(default_factory=SquaredError)
    holes: SquaredError = field(default_factory=SquaredError)
    similarity: list[float] = field(default_factory=list)

    def add(self, image: Image, truth: Image, covered: Mask) -> None:
        """Take in a picture; `covered` is where measured geometry backs the imagined view."""
        self.everywhere.add(image, truth)
        self.covered.add(image, truth, covered)
        self.holes.add(image, truth, ~covered)
        self.similarity.append(float(ssim_map(image, truth).mean()))


@dataclass
class Result:
    """One method at one horizon, as it stands in reports."""

    method: str
    horizon_s: float
    frames: int
    coverage: float
    psnr_all: float
    psnr_covered: float
    psnr_holes: float
    ssim_all: float


@dataclass
class HindsightReport:
    """What a recording gave. digest: SHA-256 of all imagined pixels, for comparing runs."""

    recording: str
    camera: PinholeCamera
    starts: int
    results: list[Result]
    digest: str


def evaluate(
    name: str,
    observations: Iterable[Observation],
    engine: ImaginationEngine,
    options: HindsightOptions,
    *,
    memory: MemoryOptions | None = None,
    on_frame: Callable[[ImaginedFrame, Image, float], None] | None = None,
    on_start: Callable[[int], None] | None = None,
) -> HindsightReport:
    """Score the engine and the baselines on a recording.

    on_frame(frame, truth, horizon s) sees every imagined view that is compared. Raises ValueError
    when the recording is too short for a single comparison.
    """
    held = WorldMemory(memory or MemoryOptions(capacity=2_000_000))
    scores, digest = _Scores(), hashlib.sha256()
    camera: PinholeCamera | None = None
    fused_ns: int | None = None
    starts = 0
    for index, (now, later) in enumerate(_with_future(observations, options)):
        if camera is None:
            source = now.camera
            camera = source.resized(options.width,
                                    max(1, round(options.width * source.height / source.width)))
        if fused_ns is None or now.stamp_ns - fused_ns >= 0.9e9 * options.fuse_interval:
            held.integrate(now)
            fused_ns = now.stamp_ns
        if index + 1 < options.warm_up or (index + 1 - options.warm_up) % options.stride:
            continue
        chosen = _frames_at(now, later, options.horizons)
        if not chosen:
            continue
        starts += 1
        if on_start is not None:
            on_start(starts)
        request = _request(camera, now, later[:max(chosen.values()) + 1], options.seed)
        frames = [f for block in engine.imagine(request, held) for f in block.frames]
        for horizon, number in chosen.items():
            frame, truth = frames[number], picture_of(later[number], camera)
            digest.update(frame.image.tobytes())
            digest.update(frame.provenance.tobytes())
            pictures = baselines(camera, frame.world_from_camera, now)
            pictures[engine.backend.name] = frame.image
            scores.add(horizon, pictures, truth, frame.provenance >= Provenance.MEMORY)
            if on_frame is not None:
                on_frame(frame, truth, horizon)
    if camera is None or starts == 0:
        raise ValueError(
            f"{name}: too short: no start with {options.warm_up} frames before it and a frame "
            f"{min(options.horizons)} s after it")
    order = (*BASELINES, engine.backend.name)
    return HindsightReport(name, camera, starts, scores.results(order), digest.hexdigest())


class _Scores:
    """Scores by horizon and method, and the coverage at each horizon."""

    def __init__(self) -> None:
        self._scores: dict[tuple[float, str], Score] = {}
        self._coverage: dict[float, list[float]] = {}

    def add(self, horizon: float, pictures: dict[str, Image], truth: Image,
            covered: Mask) -> None:
        self._coverage.setdefault(horizon, []).append(float(covered.mean()))
        for method, picture in pictures.items():
            self._scores.setdefault((horizon, method), Score()).add(picture, truth, covered)

    def results(self, order: Sequence[str]) -> list[Result]:
        results = []
        for horizon, coverage in sorted(self._coverage.items()):
            for method in order:
                score = self._scores[horizon, method]
                results.append(Result(
                    method, horizon, len(coverage), float(np.mean(coverage)),
                    score.everywhere.psnr, score.covered.psnr, score.holes.psnr,
                    float(np.mean(score.similarity))))
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


def _request(camera: PinholeCamera, now: Observation, later: Sequence[Observation], seed: int
             ) -> ImaginationRequest:
    times = np.array([o.stamp_ns - now.stamp_ns for o in later]) * 1e-9
    poses = np.stack([o.world_from_camera for o in later])
    return ImaginationRequest(camera, CameraTrajectory(poses, times), (now,), seed=seed)


def as_json(report: HindsightReport) -> dict[str, object]:
    """A report as plain values; what is not a finite number becomes null."""
    def plain(value: object) -> object:
        return None if isinstance(value, float) and not math.isfinite(value) else value

    return {
        "recording": report.recording, "camera": report.camera.to_dict(),
        "starts": report.starts, "digest": report.digest,
        "results": [{k: plain(v) for k, v in vars(result).items()} for result in report.results],
    }
