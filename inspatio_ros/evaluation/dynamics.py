# SPDX-License-Identifier: Apache-2.0
"""Do things in an imagined clip go where they really went, and does the rest stay in its place?

Every thing that can be seen in the last true frame is followed through the imagined frames from
its true box (`tracking`, no detector) and compared with where it really was. What that tracker
makes of the true frames themselves is the floor under all figures: `dynamic_accuracy(truth,
truth.images[1:])`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field

import cv2
import numpy as np
import numpy.typing as npt

from inspatio_ros.evaluation.scene_truth import ObjectTruth, SceneTruth
from inspatio_ros.evaluation.tracking import (
    Float,
    TrackerOptions,
    box_overlap,
    matched,
    track,
    video_flow,
)
from inspatio_ros.geometry import rigid

Array = npt.NDArray[np.float64]
Image = npt.NDArray[np.uint8]

# Overlap with another thing's true box from which on a track counts as having gone over to it.
_TAKEN_OVER = 0.5
# Share of its true speed that a thing must go with for its heading to be compared.
_LEAST_MOTION = 0.25
# Pixels a frame by which background that moves wrongly differs from how it should.
FALSE_MOTION_PX = 1.0
# Pixels round moving things in which flow is a mixture, and relative depth by which a surface is
# another one.
_MARGIN_PX = 4
_OTHER_DEPTH = 0.02


@dataclass(frozen=True)
class ObjectScore:
    """One thing in one clip. Frames before which it was never seen do not count.

    judged: imagined frames in which the truth can be judged. found: those in which the tracker
    still has it and it is not on another thing's place. survival = found / judged. Over judged
    frames: iou with the true box, 0 where lost. Over found frames, means: center_error_px,
    center_error_m (at the thing's true distance), size_ratio (found over true side). From
    positions in the world (the place in the picture, and distance from the size): track_ate_m,
    root mean square; of straight lines fitted through them over time, for things that move:
    heading_error rad, and motion_ratio, the found velocity along the true one over that: 0 for a
    thing that stands, 1 for one that goes as it should, negative for one that goes backwards.
    NaN where there is nothing to compare.
    """

    name: str
    moving: bool
    judged: int
    found: int
    survival: float
    iou: float
    center_error_px: float
    center_error_m: float
    size_ratio: float
    track_ate_m: float
    heading_error: float
    motion_ratio: float


@dataclass(frozen=True)
class BackgroundScore:
    """Flow of the static background against how the camera makes it flow.

    pixels: compared, over all pairs of frames. false_motion_px: mean length of the difference a
    frame. false_share: share of the pixels that differ by more than FALSE_MOTION_PX.
    """

    pixels: int
    false_motion_px: float
    false_share: float


@dataclass(frozen=True)
class DynamicReport:
    """A clip's things and its background. survivors [T - 1]: moving things (judged, found)."""

    scene: str
    objects: tuple[ObjectScore, ...]
    background: BackgroundScore
    survivors: npt.NDArray[np.int64] = field(repr=False)


def dynamic_accuracy(truth: SceneTruth, imagined: Sequence[Image],
                     options: TrackerOptions | None = None) -> DynamicReport:
    """How well the imagined frames, uint8 RGB, that follow the clip's first one keep its motion.

    Raises ValueError when there are not as many as the clip has after its first, or of other size.
    """
    if len(imagined) != len(truth) - 1 or any(
            image.shape != truth.images[0].shape for image in imagined):
        raise ValueError(
            f"{truth.name}: {len(truth) - 1} pictures of {truth.camera.width}x"
            f"{truth.camera.height} are to be judged, got {len(imagined)}"
            + (f" of {imagined[0].shape[1]}x{imagined[0].shape[0]}" if len(imagined) else ""))
    video = [truth.images[0], *imagined]
    flow = video_flow(video)
    found = np.zeros((0, len(truth), 4))
    if truth.objects:
        first = np.stack([thing.boxes[0] for thing in truth.objects])
        found = np.stack([t.boxes for t in track(video, first, options, flow)])
        _lose_those_taken_over(found, truth.objects)
    scores = tuple(_score(thing, boxes, truth)
                   for thing, boxes in zip(truth.objects, found, strict=True))
    return DynamicReport(truth.name, scores, _background(truth, [pair[0] for pair in flow]),
                         _survivors(truth.objects, found))


def _lose_those_taken_over(found: Array, things: Sequence[ObjectTruth]) -> None:
    """A track that has ended up on another thing's true box has lost its own."""
    true = np.stack([thing.boxes for thing in things])
    for frame in range(1, found.shape[1]):
        for one, other in matched(found[:, frame], true[:, frame], _TAKEN_OVER).items():
            own = box_overlap(found[one, frame][None], true[one, frame][None])[0, 0]
            if one != other and own < _TAKEN_OVER:
                found[one, frame] = np.nan


def _score(thing: ObjectTruth, boxes: Array, truth: SceneTruth) -> ObjectScore:
    judged = thing.judged.copy()
    judged[0] = False
    seen = judged & np.isfinite(boxes).all(axis=1)
    frames = np.flatnonzero(seen)
    count, total = len(frames), int(judged.sum())
    values = dict.fromkeys(("center_error_px", "center_error_m", "size_ratio", "track_ate_m",
                            "heading_error", "motion_ratio"), math.nan)
    overlap = 0.0
    if count:
        found, true = boxes[frames], thing.boxes[frames]
        overlap = float(sum(box_overlap(a[None], b[None])[0, 0]
                            for a, b in zip(found, true, strict=True)))
        shift = _centers(found) - _centers(true)
        ratio = _sides(found) / _sides(true)
        depth = _depths(thing.centers[frames], truth.world_from_camera[frames])
        focal = np.array([truth.camera.fx, truth.camera.fy])
        places = _places(thing, truth, frames, shift, depth / ratio)
        error = np.linalg.norm(places - thing.centers[frames], axis=1)
        values.update(
            center_error_px=float(np.linalg.norm(shift, axis=1).mean()),
            center_error_m=float(np.linalg.norm(shift / focal * depth[:, None], axis=1).mean()),
            size_ratio=float(ratio.mean()), track_ate_m=float(np.sqrt((error**2).mean())))
        if thing.moving:
            values.update(_motion(truth.times[frames], places, thing.centers[frames]))
    return ObjectScore(
        thing.name, thing.moving, total, count, count / total if total else math.nan,
        overlap / total if total else math.nan, **values)


def _places(thing: ObjectTruth, truth: SceneTruth, frames: npt.NDArray[np.int64], shift: Array,
            depth: Array) -> Array:
    """World positions [N, 3] of a thing seen `shift` px [N, 2] off its true place, at depths."""
    places = np.empty((len(frames), 3))
    for row, frame in enumerate(frames):
        world_from_camera = truth.world_from_camera[frame]
        center = rigid.transform_points(rigid.invert(world_from_camera), thing.centers[frame])
        pixel = truth.camera.project(center)[0] + shift[row]
        ray = np.array([(pixel[0] - truth.camera.cx) / truth.camera.fx,
                        (pixel[1] - truth.camera.cy) / truth.camera.fy, 1.0])
        places[row] = rigid.transform_points(world_from_camera, ray * depth[row])
    return places


def _motion(times: Array, found: Array, true: Array) -> dict[str, float]:
    """Heading error (rad) and motion ratio of positions [N, 3]; empty when too few or too slow."""
    if len(times) < 3:
        return {}
    centered = times - times.mean()
    going, should = ((centered @ (p - p.mean(axis=0))) / (centered @ centered)
                     for p in (found, true))
    speed = float(np.linalg.norm(should))
    if speed < 1e-6:
        return {}
    ratio = float(going @ should) / speed**2
    result = {"motion_ratio": ratio}
    length = float(np.linalg.norm(going))
    if length >= _LEAST_MOTION * speed:
        result["heading_error"] = math.acos(max(-1.0, min(1.0, ratio * speed / length)))
    return result


def _centers(boxes: Array) -> Array:
    return np.asarray((boxes[:, :2] + boxes[:, 2:]) / 2)


def _sides(boxes: Array) -> Array:
    """Side [N] of the square of a box's area."""
    return np.asarray(np.sqrt((boxes[:, 2:] - boxes[:, :2]).prod(axis=1)))


def _depths(points: Array, world_from_camera: Array) -> Array:
    camera_from_world = rigid.invert(world_from_camera)
    depth = np.einsum("ni,ni->n", camera_from_world[:, 2, :3], points)
    return np.asarray(depth + camera_from_world[:, 2, 3])


def _survivors(things: Sequence[ObjectTruth], found: Array) -> npt.NDArray[np.int64]:
    counts = np.zeros((found.shape[1] - 1, 2), np.int64)
    for thing, boxes in zip(things, found, strict=True):
        if thing.moving:
            judged = thing.judged[1:]
            counts += np.stack([judged, judged & np.isfinite(boxes[1:]).all(axis=1)], axis=1)
    return counts


def _background(truth: SceneTruth, flow: Sequence[Float]) -> BackgroundScore:
    total, wrong, count = 0.0, 0, 0
    for frame, moved in enumerate(flow):
        expected, static = _static_flow(truth, frame)
        error = np.linalg.norm(moved - expected, axis=2)[static]
        total += float(error.sum(dtype=np.float64))
        wrong += int(np.count_nonzero(error > FALSE_MOTION_PX))
        count += error.size
    if count == 0:
        return BackgroundScore(0, math.nan, math.nan)
    return BackgroundScore(count, total / count, wrong / count)


def _static_flow(truth: SceneTruth, frame: int) -> tuple[Float, npt.NDArray[np.bool_]]:
    """How what stands flows [H, W, 2] to the next frame, and where [H, W] it is seen in both."""
    camera = truth.camera
    step = rigid.invert(truth.world_from_camera[frame + 1]) @ truth.world_from_camera[frame]
    points = rigid.transform_points(step, camera.unproject(truth.depth[frame]))
    pixels, depth = camera.project(points)
    grid = np.stack(np.meshgrid(np.arange(camera.width), np.arange(camera.height)), axis=-1)
    limit = np.array(camera.size) - 1
    known = np.asarray(np.isfinite(pixels).all(axis=2))
    inside = known & (pixels >= 0).all(axis=2) & (pixels <= limit).all(axis=2)
    nearest = np.rint(np.where(inside[..., None], pixels, 0)).astype(np.int64)
    there = truth.depth[frame + 1][nearest[..., 1], nearest[..., 0]]
    same = np.asarray(np.abs(there - depth) < _OTHER_DEPTH * np.where(known, depth, np.inf))
    kernel = np.ones((2 * _MARGIN_PX + 1,) * 2, np.uint8)
    near = np.stack([np.asarray(cv2.dilate(truth.movers[f].astype(np.uint8), kernel)) > 0
                     for f in (frame, frame + 1)])
    near_there = near[1, nearest[..., 1], nearest[..., 0]]
    static: npt.NDArray[np.bool_] = inside & same & ~near[0] & ~near_there
    return np.asarray(np.nan_to_num(pixels - grid), np.float32), static


# --- many clips ----------------------------------------------------------------------------------

# The measures of ObjectScore that are averaged, each over the things that have it.
MEASURES = ("survival", "iou", "center_error_px", "center_error_m", "size_ratio", "track_ate_m",
            "heading_error", "motion_ratio")


@dataclass(frozen=True)
class DynamicSummary:
    """Means over the things of many clips, moving and static ones apart, and their background.

    moving, static: `MEASURES`, `objects` (how many) and `frames` (judged). survival_curve: share
    of the moving things still found in each imagined frame; NaN where none could be judged.
    """

    clips: int
    moving: dict[str, float]
    static: dict[str, float]
    background: BackgroundScore
    survival_curve: tuple[float, ...]

    @property
    def score(self) -> float:
        """One number for plots: overlap of moving things with the truth, 0 where lost; [0, 1]."""
        return self.moving["iou"]

    def as_json(self) -> dict[str, object]:
        """Plain values; what is not a number becomes null."""
        def plain(value: object) -> object:
            if isinstance(value, dict):
                return {key: plain(v) for key, v in value.items()}
            if isinstance(value, tuple | list):
                return [plain(v) for v in value]
            return None if isinstance(value, float) and not math.isfinite(value) else value

        content = plain({**asdict(self), "score": self.score})
        assert isinstance(content, dict)
        return content


def summarize(reports: Iterable[DynamicReport]) -> DynamicSummary:
    """The reports of many clips together. Raises ValueError when there is none."""
    held = list(reports)
    if not held:
        raise ValueError("no clip was judged")
    things = [score for report in held for score in report.objects if score.judged]
    longest = max(len(report.survivors) for report in held)
    survivors = np.zeros((longest, 2), np.int64)
    for report in held:
        survivors[:len(report.survivors)] += report.survivors
    curve = tuple(float(found / judged) if judged else math.nan for judged, found in survivors)
    return DynamicSummary(len(held), _means([s for s in things if s.moving]),
                          _means([s for s in things if not s.moving]),
                          _pooled([report.background for report in held]), curve)


def _means(scores: Sequence[ObjectScore]) -> dict[str, float]:
    means: dict[str, float] = {"objects": float(len(scores)),
                               "frames": float(sum(score.judged for score in scores))}
    for name in MEASURES:
        values = np.array([getattr(score, name) for score in scores], np.float64)
        known = values[np.isfinite(values)]
        means[name] = float(known.mean()) if known.size else math.nan
    return means


def _pooled(parts: Sequence[BackgroundScore]) -> BackgroundScore:
    known = [part for part in parts if part.pixels]
    pixels = sum(part.pixels for part in known)
    if pixels == 0:
        return BackgroundScore(0, math.nan, math.nan)
    return BackgroundScore(pixels,
                           sum(part.false_motion_px * part.pixels for part in known) / pixels,
                           sum(part.false_share * part.pixels for part in known) / pixels)
