# SPDX-License-Identifier: Apache-2.0
"""What a run of the imagination node was worth, from the recording of everything it published.

Imagined views along the plan are compared with the frame really seen later from nearest to the
same pose, where one lies near enough for its pixels to be the same.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from inspatio_ros.evaluation.baselines import LAST_FRAME, SINGLE_WARP, baselines
from inspatio_ros.evaluation.metrics import SquaredError, psnr
from inspatio_ros.files.bag_observations import BagObservations
from inspatio_ros.files.bags import BagReader
from inspatio_ros.geometry import rigid
from inspatio_ros.geometry.camera import PinholeCamera
from inspatio_ros.messages.images import to_array
from inspatio_ros.messages.poses import pose_to_matrix, to_ns
from inspatio_ros.sensing.observation import Observation, Provenance

Image = npt.NDArray[np.uint8]
Array = npt.NDArray[np.float64]

IMAGINED = "imagined"
METHODS = (IMAGINED, LAST_FRAME, SINGLE_WARP)

# How far apart, in pixels at the middle of the scene, two views of "the same pose" may lie.
SAME_VIEW_PX = 2.0
# Only what is seen at least so much later counts as seen later, ns.
_LATER_NS = 50_000_000
_PARTS = ("frame", "image", "guide", "provenance")
_PENDING = 64


@dataclass(frozen=True)
class RunFrame:
    """One published frame: pictures uint8 [H, W, 3], provenance [H, W], pose, and its source.

    source: the observation it was imagined from, in the imagined camera. later: the frame really
    seen later from nearest to its pose, `distance` pixels away; None at the recording's end.
    following: along the plan, else for a request. coverage: share of pixels that geometry backs.
    """

    stamp_ns: int
    image: Image
    guide: Image
    provenance: npt.NDArray[np.uint8]
    world_from_camera: Array
    time_from_start: float
    coverage: float
    following: bool
    source: Observation
    later: Observation | None
    distance: float

    @property
    def truth(self) -> Observation | None:
        """The later frame, when it shows the same view; None else."""
        return self.later if self.distance <= SAME_VIEW_PX else None

    @property
    def covered(self) -> npt.NDArray[np.bool_]:
        """Where measured geometry backs the picture."""
        return self.provenance >= Provenance.MEMORY

    @property
    def psnr(self) -> float:
        """Against the truth, dB; NaN without one."""
        return psnr(self.image, self.truth.image) if self.truth is not None else float("nan")


def fitted(observation: Observation, width: int, height: int) -> Observation:
    """The observation in the width x height camera of its largest centred window of that aspect.

    As the imagination node makes its camera (`PinholeCamera.fitted`).
    """
    camera, (x, y, w, h) = observation.camera.fitted(width, height)
    image = cv2.resize(observation.image[y:y + h, x:x + w], (width, height),
                       interpolation=cv2.INTER_AREA)
    depth = cv2.resize(observation.depth[y:y + h, x:x + w], (width, height),
                       interpolation=cv2.INTER_NEAREST)
    return Observation(observation.stamp_ns, np.asarray(image, np.uint8),
                       np.asarray(depth, np.float32), camera, observation.world_from_camera)


def view_distance(camera: PinholeCamera, a: Array, b: Array, depth: float) -> float:
    """By how many pixels the middle of a scene `depth` m away moves between two poses, at most."""
    step = rigid.invert(a) @ b
    shift = float(np.linalg.norm(step[:3, 3])) / max(depth, 1e-3)
    return camera.fx * (float(rigid.rotation_angle(step)) + shift)


class RecordedRun:
    """The frames of a recorded run, in the order in which they were published.

    prefix: of the node's topics. horizon: s that a frame may lie ahead. `dropped` counts frames
    whose parts were not all recorded. Memory holds the source pictures of one horizon.
    """

    def __init__(self, reader: BagReader, source: BagObservations, *,
                 prefix: str = "/imagination", horizon: float = 6.0) -> None:
        self._reader = reader
        self._source = source
        self._horizon_ns = round(horizon * 1e9)
        self._streams = {f"{prefix}/frame": "frame", f"{prefix}/image": "image",
                         f"{prefix}/guide/image": "guide", f"{prefix}/provenance": "provenance"}
        self.dropped: Counter[str] = Counter()

    def __iter__(self) -> Iterator[RunFrame]:
        window: _SourceWindow | None = None
        for parts in self._complete():
            frame = parts["frame"]
            image = to_array(parts["image"])
            if window is None:
                window = _SourceWindow(iter(self._source), image.shape[1], image.shape[0])
            source_ns = to_ns(frame.source_stamp)
            window.advance(source_ns, self._horizon_ns)
            source = window.at(source_ns)
            if source is None:
                self.dropped["no_source"] += 1
                continue
            pose = pose_to_matrix(frame.camera_pose.pose)
            yield RunFrame(
                to_ns(frame.header.stamp), image, to_array(parts["guide"]),
                to_array(parts["provenance"]), pose, to_ns(frame.time_from_start) * 1e-9,
                float(frame.observed_ratio + frame.memory_ratio),
                not np.any(frame.request_id.uuid), source, *window.seen_later(source, pose))

    def _complete(self) -> Iterator[dict[str, Any]]:
        """The four messages of each frame; they carry one stamp."""
        pending: dict[int, dict[str, Any]] = {}
        for stored in self._reader.messages(list(self._streams)):
            message = self._reader.deserialize(stored)
            stamp = to_ns(message.header.stamp)
            parts = pending.setdefault(stamp, {})
            parts[self._streams[stored.topic]] = message
            if len(parts) == len(_PARTS):
                yield pending.pop(stamp)
            elif len(pending) > _PENDING:
                del pending[next(iter(pending))]
                self.dropped["incomplete"] += 1
        self.dropped["incomplete"] += len(pending)


class _SourceWindow:
    """The source's observations from the one imagined from to a horizon later."""

    def __init__(self, source: Iterator[Observation], width: int, height: int) -> None:
        self._source = source
        self._size = width, height
        self._held: deque[Observation] = deque()
        self._depths: deque[float] = deque()
        self._ended = False

    def advance(self, stamp_ns: int, horizon_ns: int) -> None:
        """Read ahead to a horizon after `stamp_ns`; forget what lies well before it."""
        while not self._ended and (
                not self._held or self._held[-1].stamp_ns < stamp_ns + horizon_ns):
            seen = next(self._source, None)
            if seen is None:
                self._ended = True
                return
            self._held.append(fitted(seen, *self._size))
            known = self._held[-1].depth[self._held[-1].depth > 0]
            self._depths.append(float(np.median(known)) if known.size else 1.0)
        # Frames of two requests may be published in turns: their sources are close in time.
        while self._held[0].stamp_ns < stamp_ns - 2_000_000_000:
            self._held.popleft()
            self._depths.popleft()

    def at(self, stamp_ns: int) -> Observation | None:
        """The observation with this stamp."""
        return next((o for o in self._held if o.stamp_ns == stamp_ns), None)

    def seen_later(self, source: Observation, pose: Array) -> tuple[Observation | None, float]:
        """What was seen later than `source` from nearest to `pose`, and how many pixels away."""
        candidates = [
            (view_distance(o.camera, o.world_from_camera, pose, depth), i)
            for i, (o, depth) in enumerate(zip(self._held, self._depths, strict=True))
            if o.stamp_ns > source.stamp_ns + _LATER_NS]
        distance, number = min(candidates, default=(float("inf"), -1))
        return (self._held[number] if candidates else None), distance


class RunScores:
    """Pooled errors of the imagined views and of two baselines, over the frames with a truth."""

    def __init__(self) -> None:
        self._errors = {method: (SquaredError(), SquaredError()) for method in METHODS}
        self._coverage: list[float] = []
        self.compared = 0

    def add(self, frame: RunFrame) -> None:
        """Take in a frame; only those along the plan count."""
        if not frame.following:
            return
        self._coverage.append(frame.coverage)
        if frame.truth is None:
            return
        self.compared += 1
        pictures = baselines(frame.source.camera, frame.world_from_camera, frame.source,
                             (LAST_FRAME, SINGLE_WARP))
        pictures[IMAGINED] = frame.image
        for method, (everywhere, covered) in self._errors.items():
            everywhere.add(pictures[method], frame.truth.image)
            covered.add(pictures[method], frame.truth.image, frame.covered)

    @property
    def coverage(self) -> float:
        """Mean share of pixels that geometry backs, over all frames along the plan."""
        return float(np.mean(self._coverage)) if self._coverage else float("nan")

    def psnr(self) -> dict[str, dict[str, float]]:
        """dB by method, over all pixels and over the covered ones."""
        return {method: {"all": everywhere.psnr, "covered": covered.psnr}
                for method, (everywhere, covered) in self._errors.items()}
