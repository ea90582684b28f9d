# SPDX-License-Identifier: Apache-2.0
"""Both sides of an imagined clip: how it looks, and whether things go where they really went.

Judged on clips that are seen up to a moment and imagined from then on, along the way that the
camera really takes, in `model` mode: composite mode would show what was last seen of a thing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import numpy as np
import numpy.typing as npt

from inspatio_ros.evaluation.appearance import AppearanceScores
from inspatio_ros.evaluation.baselines import depth_of, picture_of
from inspatio_ros.evaluation.dynamics import (
    DynamicReport,
    DynamicSummary,
    dynamic_accuracy,
    summarize,
)
from inspatio_ros.evaluation.scene_truth import SceneTruth, movers_in_view, scene_truth
from inspatio_ros.geometry import rigid
from inspatio_ros.geometry.camera import PinholeCamera
from inspatio_ros.geometry.trajectory import CameraTrajectory
from inspatio_ros.imagination.engine import ImaginationEngine
from inspatio_ros.imagination.request import ImaginationRequest
from inspatio_ros.memory.world_memory import MemoryOptions, WorldMemory
from inspatio_ros.sensing.observation import Observation
from inspatio_ros.worlds.room import room
from inspatio_ros.worlds.street import street
from inspatio_ros.worlds.world import World

Array = npt.NDArray[np.float64]
Image = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class WorldDomain:
    """How clips are taken in a kind of world: speed m/s, camera height m, memory's bounds m."""

    make: Callable[[int], World]
    speed: float
    height: float
    max_radius: float
    voxel_size: float


WORLD_DOMAINS = {"street": WorldDomain(street, 3.0, 1.5, 100.0, 0.05),
                 "room": WorldDomain(room, 0.4, 1.0, 30.0, 0.02)}
# Worlds of seeds from a million on are never trained on (docs/training.md).
FIRST_SEED = 1_000_100
# Frames of a recording that are held at once, small, to take clips from.
_LONGEST_RECORDING = 2000


@dataclass(frozen=True)
class SceneOptions:
    """Clips for judging. width, height: pixels. field_of_view: rad, horizontal. frames: imagined
    of each clip, at frame_rate Hz; seen: frames before. starts: moments in a world's first minute
    among which the one with most things moving in view is taken."""

    width: int = 224
    height: int = 128
    field_of_view: float = math.radians(73.0)
    frames: int = 24
    frame_rate: float = 10.0
    seen: int = 12
    starts: int = 12

    @property
    def camera(self) -> PinholeCamera:
        """The camera of all clips."""
        focal = self.width / (2 * math.tan(self.field_of_view / 2))
        return PinholeCamera(self.width, self.height, focal, focal, (self.width - 1) / 2,
                             (self.height - 1) / 2)


@dataclass(frozen=True)
class JudgedScene:
    """A clip and what is known when it begins.

    seen: observations up to the clip's frame 0, oldest first; that frame is the last of them.
    """

    domain: str
    truth: SceneTruth
    seen: tuple[Observation, ...]
    memory: MemoryOptions


def world_scene(domain: str, seed: int, options: SceneOptions) -> JudgedScene:
    """The clip of one world, by its seed alone. ValueError for a domain that is no world."""
    if domain not in WORLD_DOMAINS:
        raise ValueError(f"'{domain}' is no world; there are {', '.join(WORLD_DOMAINS)}")
    kind, camera = WORLD_DOMAINS[domain], options.camera
    world = kind.make(seed)
    mount = rigid.from_rotation(np.eye(3), (0.0, 0.0, kind.height)) @ rigid.BODY_FROM_OPTICAL
    steps = np.arange(1 - options.seen, options.frames + 1) / options.frame_rate
    rng = np.random.default_rng([seed, 23])
    moments = options.seen / options.frame_rate + rng.uniform(0.0, 60.0, options.starts)

    def poses_at(start: float) -> Array:
        return np.asarray(world.drive(kind.speed, start + steps) @ mount)

    def in_view(start: float) -> int:
        later = slice(options.seen - 1, None, max(1, options.frames // 4))
        return movers_in_view(world, camera, poses_at(start)[later], start + steps[later])

    start = max((float(m) for m in moments), key=in_view)
    poses, times = poses_at(start), start + steps
    truth = scene_truth(f"{domain} {seed}", world, camera, poses[options.seen - 1:],
                        [float(t) for t in times[options.seen - 1:]])
    seen = []
    for pose, time in zip(poses[:options.seen], times[:options.seen], strict=True):
        view = world.render(camera, pose, float(time), samples=2)
        seen.append(Observation(round(time * 1e9), view.image, view.depth, camera, pose))
    memory = MemoryOptions(capacity=400_000, max_radius=kind.max_radius,
                           voxel_size=kind.voxel_size)
    return JudgedScene(domain, truth, tuple(seen), memory)


def recorded_scenes(domain: str, observations: Iterable[Observation], options: SceneOptions,
                    count: int, memory: MemoryOptions | None = None) -> Iterator[JudgedScene]:
    """At most `count` clips of a posed recording with depth, evenly over its first 2000 frames.

    Nobody has marked things in it: looks, and false motion of what is taken as static, the whole
    picture. Pictures keep their aspect at the options' width. Raises ValueError when the recording
    is shorter than one clip.
    """
    held: list[Observation] = []
    for observation in islice(observations, _LONGEST_RECORDING):
        source = observation.camera
        height = max(16, round(options.width * source.height / source.width))
        held.append(_resized(observation, source.resized(options.width, height)))
    length = options.seen + options.frames
    last = len(held) - length
    if last < 0:
        raise ValueError(f"{domain}: {len(held)} frames; one clip takes {length}")
    for start in dict.fromkeys(int(s) for s in np.linspace(0, last, count).round()):
        clip = held[start:start + length]
        later = clip[options.seen - 1:]
        depth = np.stack([o.depth for o in later])
        truth = SceneTruth(
            f"{domain} {start}", np.stack([o.image for o in later]), depth,
            np.zeros(depth.shape, np.bool_), later[0].camera,
            np.stack([o.world_from_camera for o in later]),
            np.array([o.stamp_ns for o in later]) * 1e-9, ())
        yield JudgedScene(domain, truth, tuple(clip[:options.seen]),
                          memory or MemoryOptions(capacity=400_000))


def _resized(observation: Observation, camera: PinholeCamera) -> Observation:
    return replace(observation, image=picture_of(observation, camera), camera=camera,
                   depth=depth_of(observation, camera), confidence=None)


@dataclass(frozen=True)
class ClipResult:
    """One clip's figures, for correlations: looks, and overlap of moving things (or NaN)."""

    scene: str
    appearance: dict[str, float]
    dynamics: float


@dataclass(frozen=True)
class TwoSided:
    """Both sides of one domain. floor: the tracker on the true frames. missing: why, by figure."""

    domain: str
    appearance: dict[str, float]
    dynamics: DynamicSummary
    floor: DynamicSummary
    clips: tuple[ClipResult, ...]
    missing: dict[str, str]

    def as_json(self) -> dict[str, object]:
        """Plain values; what is not a finite number becomes null."""
        return {
            "domain": self.domain, "appearance": _plain(self.appearance),
            "dynamics": self.dynamics.as_json(), "floor": self.floor.as_json(),
            "missing": self.missing,
            "clips": [{"scene": c.scene, "appearance": _plain(c.appearance),
                       **_plain({"dynamics": c.dynamics})} for c in self.clips]}


def _plain(values: dict[str, float]) -> dict[str, float | None]:
    return {key: value if math.isfinite(value) else None for key, value in values.items()}


def imagine_scene(engine: ImaginationEngine, scene: JudgedScene, *, source_mode: str = "frozen",
                  seed: int = 0) -> list[Image]:
    """What the engine imagines for the clip's frames after its first, uint8 RGB."""
    memory = WorldMemory(scene.memory)
    for observation in scene.seen:
        memory.integrate(observation)
    truth = scene.truth
    trajectory = CameraTrajectory(truth.world_from_camera[1:], truth.times[1:] - truth.times[0])
    request = ImaginationRequest(truth.camera, trajectory, scene.seen[::-1], seed=seed,
                                 mode="model", source_mode=source_mode)
    return [frame.image for block in engine.imagine(request, memory) for frame in block.frames]


def judge(engine: ImaginationEngine, scenes: Sequence[JudgedScene], *,
          floors: dict[str, DynamicReport] | None = None, source_mode: str = "frozen",
          seed: int = 0, inception: Path | None = None, i3d: Path | None = None) -> TwoSided:
    """Both sides of an engine on the clips of one domain.

    floors: what the tracker makes of the true frames, by scene; filled in, so that it is computed
    once for many engines. Raises ValueError without clips or with clips of several domains.
    """
    domains = {scene.domain for scene in scenes}
    if len(domains) != 1:
        raise ValueError(f"clips of one domain are judged together, got {sorted(domains)}")
    known = {} if floors is None else floors
    looks = AppearanceScores(inception, i3d)
    reports, clips = [], []
    for scene in scenes:
        truth = scene.truth
        if truth.name not in known:
            known[truth.name] = dynamic_accuracy(truth, list(truth.images[1:]))
        imagined = imagine_scene(engine, scene, source_mode=source_mode, seed=seed)
        own = looks.add(truth, imagined)
        reports.append(dynamic_accuracy(truth, imagined))
        clips.append(ClipResult(truth.name, own, summarize(reports[-1:]).score))
    return TwoSided(domains.pop(), looks.figures(), summarize(reports),
                    summarize([known[scene.truth.name] for scene in scenes]), tuple(clips),
                    dict(looks.missing))
