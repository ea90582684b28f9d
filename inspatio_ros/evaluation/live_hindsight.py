# SPDX-License-Identifier: Apache-2.0
"""Hindsight while the robot drives: imagined views wait until the camera comes to their pose.

A bounded number of views waits, spread over the horizons. Each is compared with the real picture
taken from nearest to its pose, where one lies near enough for its pixels to be the same.
"""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, field

import cv2
import numpy as np
import numpy.typing as npt

from inspatio_ros.evaluation.calibration import ErrorCalibration, color_error, prior_error
from inspatio_ros.evaluation.metrics import Mask, psnr
from inspatio_ros.evaluation.recorded_run import SAME_VIEW_PX, view_distance
from inspatio_ros.geometry.camera import PinholeCamera
from inspatio_ros.imagination.assessment import provenance_ratios
from inspatio_ros.sensing.observation import Provenance

Image = npt.NDArray[np.uint8]
Array = npt.NDArray[np.float64]

# Only what is seen at least so much later than a view's source counts as seen later, ns.
_LATER_NS = 50_000_000
# A camera that stays at a view's pose is not waited for longer than this, ns.
_SETTLE_NS = 500_000_000
# A real picture so near in time to a view's source is its source, ns: the two nodes may have taken
# up different ones of a fast camera's.
_SAME_INSTANT_NS = 60_000_000
# Real pictures held for views that are published after their source was seen.
_HELD = 16
# Below this share of covered pixels their error says nothing of the geometry.
_LEAST_COVERAGE = 0.01
# Where no depth is known; the distance of a scene then only scales translations.
_UNKNOWN_DEPTH = 1.0


@dataclass(frozen=True)
class LiveOptions:
    """Which views wait, and when a real picture counts as of the same pose.

    horizons: s ahead of the source; a view waits among those of the nearest. per_horizon: views
    that wait for each at most. interval: s of publication time between two views taken for one
    horizon. max_distance: pixels by which the middle of the scene may move between the two poses.
    patience: s after its time that a view still waits for the camera.
    Raises ValueError when they make no sense.
    """

    horizons: tuple[float, ...] = (0.5, 1.0, 2.0, 4.0)
    per_horizon: int = 24
    interval: float = 0.25
    max_distance: float = SAME_VIEW_PX
    patience: float = 2.0

    def __post_init__(self) -> None:
        if not self.horizons or min(self.horizons) <= 0:
            raise ValueError(f"horizons must be positive, got {self.horizons}")
        if self.per_horizon < 1 or not self.max_distance > 0:
            raise ValueError("per_horizon must be at least 1 and max_distance positive")
        if self.interval < 0 or self.patience < 0:
            raise ValueError("interval and patience must not be negative")


@dataclass(frozen=True, eq=False)
class ImaginedView:
    """A published view: picture uint8 RGB [H, W, 3], provenance [H, W], camera, pose [4, 4].

    stamp_ns: of its publication. source_stamp_ns: newest observation it was imagined from.
    time_from_start: s after that when it would be seen. scene_depth: median of its depth, m, NaN
    when it has none. Raises ValueError when shapes disagree or a label is none.
    """

    stamp_ns: int
    source_stamp_ns: int
    time_from_start: float
    image: Image
    provenance: npt.NDArray[np.uint8]
    camera: PinholeCamera
    world_from_camera: Array
    scene_depth: float

    def __post_init__(self) -> None:
        shape = (self.camera.height, self.camera.width)
        if self.image.shape != (*shape, 3) or self.provenance.shape != shape:
            raise ValueError(
                f"image {_size(self.image)} and provenance {_size(self.provenance)} of a view are "
                f"not of its camera's size {shape[1]}x{shape[0]}")
        provenance_ratios(self.provenance)

    def distance(self, world_from_camera: Array) -> float:
        """Pixels by which the middle of the scene moves from this view to another pose."""
        depth = self.scene_depth if self.scene_depth > 0 else _UNKNOWN_DEPTH
        return view_distance(self.camera, self.world_from_camera, world_from_camera, depth)


@dataclass(frozen=True, eq=False)
class RealView:
    """What the camera really saw: picture uint8 RGB [H, W, 3] of `camera`, pose [4, 4]."""

    stamp_ns: int
    image: Image
    camera: PinholeCamera
    world_from_camera: Array


@dataclass(frozen=True)
class LiveScore:
    """One comparison. Stamps in ns, horizon in s, distance in pixels, PSNR in dB, errors [0, 1].

    psnr_*: NaN without such a pixel. psnr_last_frame: of the source picture in the view's place,
    over the covered pixels (over all where hardly any are); NaN where it was not seen. moved:
    pixels by which the middle of the scene moves from the source to the view. error: mean absolute
    colour error of all compared pixels.
    predicted_error: what the view's own measures predict. expected_error: the same calibrated by
    all earlier scores; NaN before there are enough.
    """

    stamp_ns: int
    frame_stamp_ns: int
    source_stamp_ns: int
    horizon: float
    distance: float
    coverage: float
    psnr_all: float
    psnr_covered: float
    psnr_observed: float
    psnr_memory: float
    psnr_imagined: float
    psnr_last_frame: float
    moved: float
    error: float
    predicted_error: float
    expected_error: float

    @property
    def psnr_geometry(self) -> float:
        """dB of the covered pixels; of all where hardly any are."""
        return self.psnr_covered if self.coverage >= _LEAST_COVERAGE else self.psnr_all

    @property
    def gain(self) -> float:
        """dB by which the view is better than its source picture in its place; NaN unknown."""
        return self.psnr_geometry - self.psnr_last_frame


@dataclass(frozen=True, eq=False)
class Comparison:
    """A score, its two pictures in the imagined camera, and which pixels were compared."""

    score: LiveScore
    imagined: Image
    truth: Image
    compared: Mask


@dataclass(eq=False)
class _Waiting:
    view: ImaginedView
    nearest: RealView | None = None
    distance: float = math.inf
    reached_ns: int = 0
    source: RealView | None = None

    def offer_source(self, real: RealView) -> None:
        """Keep what was really seen at the source's instant, in the view's own camera."""
        apart = abs(real.stamp_ns - self.view.source_stamp_ns)
        if apart > _SAME_INSTANT_NS or (self.source is not None and apart >= abs(
                self.source.stamp_ns - self.view.source_stamp_ns)):
            return
        image, _ = as_seen_by(real.image, real.camera, self.view.camera)
        self.source = RealView(real.stamp_ns, image, self.view.camera, real.world_from_camera)


class LiveHindsight:
    """Imagined and real views in, scores out; calibrates expected errors with every score.

    `dropped` counts views by reason: crowded (another of its horizon came just before),
    buffer_full, not_reached (the camera did not come to its pose), no_overlap, no_source.
    Bounded; one thread at a time.
    """

    def __init__(self, options: LiveOptions, calibration: ErrorCalibration) -> None:
        self.options = options
        self.calibration = calibration
        self.dropped: Counter[str] = Counter()
        self._waiting: dict[float, deque[_Waiting]] = {h: deque() for h in options.horizons}
        self._last_taken: dict[float, int] = {}
        self._held: deque[RealView] = deque(maxlen=_HELD)

    @property
    def waiting(self) -> int:
        """Views that wait for the camera."""
        return sum(len(views) for views in self._waiting.values())

    def wants(self, stamp_ns: int, source_stamp_ns: int, time_from_start: float) -> bool:
        """Whether a view with these measures would wait; refusals are counted.

        So that nobody decodes pictures in vain: ask once, then `imagined` what was wanted.
        """
        if source_stamp_ns <= 0:
            self.dropped["no_source"] += 1
            return False
        last = self._last_taken.get(self._horizon(time_from_start))
        if last is not None and 0 <= stamp_ns - last < self.options.interval * 1e9:
            self.dropped["crowded"] += 1
            return False
        return True

    def imagined(self, view: ImaginedView) -> None:
        """A view begins to wait; of too many for its horizon the oldest leaves."""
        horizon = self._horizon(view.time_from_start)
        self._last_taken[horizon] = view.stamp_ns
        views = self._waiting[horizon]
        views.append(_Waiting(view))
        for real in self._held:
            views[-1].offer_source(real)
        if len(views) > self.options.per_horizon:
            views.popleft()
            self.dropped["buffer_full"] += 1

    def seen(self, real: RealView) -> list[Comparison]:
        """The camera's next picture; the comparisons that are complete with it, oldest first."""
        found = []
        self._held.append(real)
        for views in self._waiting.values():
            for waiting in list(views):
                waiting.offer_source(real)
                if self._is_settled(waiting, real):
                    views.remove(waiting)
                    made = self._compared(waiting)
                    found += [made] if made is not None else []
        return sorted(found, key=lambda made: made.score.frame_stamp_ns)

    def clear(self) -> None:
        """Forget the views that wait, as when time jumps back; counts and calibration stay."""
        for views in self._waiting.values():
            views.clear()
        self._last_taken.clear()
        self._held.clear()

    def _horizon(self, time_from_start: float) -> float:
        """The nearest horizon, by ratio."""
        ahead = max(time_from_start, 1e-3)
        return min(self.options.horizons, key=lambda h: abs(math.log(ahead / h)))

    def _is_settled(self, waiting: _Waiting, real: RealView) -> bool:
        """Take note of a real view; whether no nearer one is to be expected."""
        view = waiting.view
        if real.stamp_ns < view.source_stamp_ns + _LATER_NS:
            return False
        distance = view.distance(real.world_from_camera)
        if distance <= self.options.max_distance and distance < waiting.distance:
            waiting.reached_ns = waiting.reached_ns or real.stamp_ns
            waiting.nearest, waiting.distance = real, distance
        if waiting.nearest is not None:
            return (distance > self.options.max_distance
                    or real.stamp_ns - waiting.reached_ns > _SETTLE_NS)
        late = view.time_from_start + self.options.patience
        return real.stamp_ns - view.source_stamp_ns > late * 1e9

    def _compared(self, waiting: _Waiting) -> Comparison | None:
        view, real = waiting.view, waiting.nearest
        if real is None:
            self.dropped["not_reached"] += 1
            return None
        truth, compared = as_seen_by(real.image, real.camera, view.camera)
        if not compared.any():
            self.dropped["no_overlap"] += 1
            return None
        ratios = provenance_ratios(view.provenance)
        predicted = float(prior_error(
            ratios[Provenance.OBSERVED], ratios[Provenance.MEMORY],
            ratios[Provenance.IMAGINED] + ratios[Provenance.UNKNOWN], view.time_from_start))
        expected = float(self.calibration.recalibrated(predicted))
        score = _score(waiting, real, truth, compared, predicted, expected)
        self.calibration.add(predicted, score.error)
        return Comparison(score, view.image, truth, compared)


def _score(waiting: _Waiting, real: RealView, truth: Image, compared: Mask, predicted: float,
           expected: float) -> LiveScore:
    view = waiting.view
    covered = view.provenance >= Provenance.MEMORY
    coverage = float(covered[compared].mean())

    def of(pixels: Mask) -> float:
        return psnr(view.image, truth, pixels & compared)

    last, moved = math.nan, math.nan
    if waiting.source is not None:
        pixels = covered if coverage >= _LEAST_COVERAGE else compared
        last = psnr(waiting.source.image, truth, pixels & compared)
        moved = view.distance(waiting.source.world_from_camera)

    return LiveScore(
        stamp_ns=real.stamp_ns, frame_stamp_ns=view.stamp_ns,
        source_stamp_ns=view.source_stamp_ns,
        horizon=(real.stamp_ns - view.source_stamp_ns) * 1e-9, distance=waiting.distance,
        coverage=coverage, psnr_all=of(compared), psnr_covered=of(covered),
        psnr_observed=of(view.provenance == Provenance.OBSERVED),
        psnr_memory=of(view.provenance == Provenance.MEMORY), psnr_imagined=of(~covered),
        psnr_last_frame=last, moved=moved,
        error=color_error(view.image[compared], truth[compared]),
        predicted_error=predicted, expected_error=expected)


def as_seen_by(image: Image, camera: PinholeCamera, target: PinholeCamera) -> tuple[Image, Mask]:
    """A picture of `camera` as `target` in its place sees it [H, W, 3], and where it reaches.

    Where `target` is a centred window of `camera`, as the imagination node's is, the picture is
    cut and resized; else it is turned into the other camera.
    """
    inside, (x, y, w, h) = camera.fitted(target.width, target.height)
    if inside.agrees_with(target):
        cut = np.ascontiguousarray(image[y:y + h, x:x + w])
        seen = cut if (w, h) == target.size else cv2.resize(
            cut, target.size, interpolation=cv2.INTER_AREA)
        return np.asarray(seen, np.uint8), np.ones((target.height, target.width), np.bool_)
    shrink = max(target.fx / camera.fx, target.fy / camera.fy)
    if shrink < 1:  # a coarser camera would skip pixels
        camera = camera.resized(max(1, round(camera.width * shrink)),
                                max(1, round(camera.height * shrink)))
        image = np.asarray(cv2.resize(image, camera.size, interpolation=cv2.INTER_AREA), np.uint8)
    source_from_target = camera.matrix @ np.linalg.inv(target.matrix)
    seen = cv2.warpPerspective(image, source_from_target, target.size,
                               flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP)
    pixels, _ = camera.project(target.rays())
    reached = ((pixels >= 0) & (pixels <= np.array(camera.size) - 1)).all(axis=-1)
    return np.asarray(seen, np.uint8), np.asarray(reached, np.bool_)


OK, WARN, ERROR = "ok", "warn", "error"


@dataclass(frozen=True)
class JudgeOptions:
    """When scores are bad.

    window: newest scores that are held. minimum: scores before anything is judged. min_horizon,
    max_horizon: s; nearer ahead nothing has moved that could be wrong, farther ahead nobody can
    know what is to be seen. warn_gain, error_gain: dB by which views are better than their source
    picture in their place, median over those that moved by min_moved pixels: right geometry is
    better anywhere, wrong geometry is not. warn_psnr, error_psnr: dB of covered pixels, median;
    how good right geometry is depends on the place. surprise: real over expected error, means.
    """

    window: int = 50
    minimum: int = 5
    min_horizon: float = 0.3
    max_horizon: float = 1.5
    min_moved: float = 4.0
    warn_gain: float = 0.5
    error_gain: float = -0.5
    warn_psnr: float = 12.0
    error_psnr: float = 9.0
    surprise: float = 2.0

    def __post_init__(self) -> None:
        if not 1 <= self.minimum <= self.window:
            raise ValueError(f"minimum {self.minimum} must be from 1 to window {self.window}")
        if self.min_horizon >= self.max_horizon:
            raise ValueError(f"min_horizon {self.min_horizon} s is not below max_horizon "
                             f"{self.max_horizon} s")
        if self.error_psnr > self.warn_psnr:
            raise ValueError(f"error_psnr {self.error_psnr} dB is above warn_psnr "
                             f"{self.warn_psnr} dB")
        if self.error_gain > self.warn_gain:
            raise ValueError(f"error_gain {self.error_gain} dB is above warn_gain "
                             f"{self.warn_gain} dB")


@dataclass
class RecentScores:
    """The newest scores, and what they say of the geometry behind the imagined views."""

    options: JudgeOptions = field(default_factory=JudgeOptions)

    def __post_init__(self) -> None:
        self._scores: deque[LiveScore] = deque(maxlen=self.options.window)
        self.total = 0

    def add(self, score: LiveScore) -> None:
        """Take in a score; the oldest of a full window leaves."""
        self._scores.append(score)
        self.total += 1

    def clear(self) -> None:
        """Judge anew, from no score on."""
        self._scores.clear()
        self.total = 0

    def _judged(self) -> list[LiveScore]:
        options = self.options
        return [s for s in self._scores if options.min_horizon <= s.horizon <= options.max_horizon]

    @property
    def psnr_covered(self) -> float:
        """Median dB of the judged views where geometry backs them; NaN while too few are there."""
        return self._median([s.psnr_geometry for s in self._judged()])

    @property
    def gain(self) -> float:
        """Median dB by which judged views that moved beat their source picture; NaN: too few."""
        return self._median([s.gain for s in self._judged()
                             if s.moved >= self.options.min_moved and not math.isnan(s.gain)])

    def _median(self, values: list[float]) -> float:
        return float(np.median(values)) if len(values) >= self.options.minimum else math.nan

    @property
    def surprise(self) -> float:
        """Mean real over mean expected error; NaN while too few views had an expectation."""
        pairs = [(s.error, s.expected_error) for s in self._scores
                 if math.isfinite(s.expected_error)]
        if len(pairs) < self.options.minimum:
            return math.nan
        error, expected = (float(np.mean(values)) for values in zip(*pairs, strict=True))
        return error / expected if expected > 0 else math.inf if error > 0 else 1.0

    def verdict(self) -> tuple[str, str]:
        """OK, WARN or ERROR, and one sentence."""
        options, level, gain = self.options, self.psnr_covered, self.gain
        blame = ("what was seen does not lie where it was imagined: check the odometry, the "
                 "camera's calibration and mount, the depth and the stamps")
        for name, least_level, least_gain in ((ERROR, options.error_psnr, options.error_gain),
                                              (WARN, options.warn_psnr, options.warn_gain)):
            if level < least_level:
                return name, f"{level:.1f} dB, below {least_level:g} dB: {blame}"
            if gain < least_gain:
                return name, f"{gain:+.1f} dB against repeating the source image: {blame}"
        if self.surprise > options.surprise:
            return WARN, (f"errors are {self.surprise:.1f} times what was expected after earlier "
                          "scores: has the place, the light or the robot changed?")
        if math.isnan(level):
            return OK, (f"{len(self._judged())} of {options.minimum} views compared that are "
                        f"{options.min_horizon:g} to {options.max_horizon:g} s ahead, too few to "
                        "judge")
        return OK, f"{level:.1f} dB where geometry backs the view"

    def by_horizon(self, horizons: Sequence[float]) -> dict[float, float]:
        """Median dB of all pixels by nearest horizon; those without a score are left out."""
        found: dict[float, list[float]] = {}
        for score in self._scores:
            nearest = min(horizons, key=lambda h: abs(math.log(max(score.horizon, 1e-3) / h)))
            found.setdefault(nearest, []).append(score.psnr_all)
        return {h: float(np.median(found[h])) for h in sorted(found)}


def _size(picture: npt.NDArray[np.uint8]) -> str:
    return "x".join(map(str, picture.shape[1::-1]))
