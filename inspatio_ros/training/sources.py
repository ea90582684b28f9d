# SPDX-License-Identifier: Apache-2.0
"""Where clips come from: analytic worlds, photographs, posed recordings, videos.

A v2v clip is made by the package itself: observations enter a memory, the engine draws the guide
along the path with the geometric filler, and the true view is what the world, or a later frame
of the recording, shows from there. What the model is trained on is therefore what it meets.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
import numpy.typing as npt

from inspatio_ros.geometry import rigid
from inspatio_ros.geometry.camera import PinholeCamera
from inspatio_ros.geometry.trajectory import CameraTrajectory
from inspatio_ros.imagination.engine import ImaginationEngine
from inspatio_ros.imagination.filler import GeometricFiller
from inspatio_ros.imagination.generator import (
    hinted_pixels,
    resized_guide,
    resized_picture,
)
from inspatio_ros.imagination.request import ImaginationRequest
from inspatio_ros.memory.world_memory import MemoryOptions, WorldMemory
from inspatio_ros.sensing.observation import Observation
from inspatio_ros.training.augment import Faults, FaultyMemory, faulty_observation
from inspatio_ros.training.clips import Clip, ClipInfo
from inspatio_ros.training.stereo_sensor import Renderable, StereoSensor
from inspatio_ros.worlds.clutter import clutter
from inspatio_ros.worlds.photographs import photograph_world
from inspatio_ros.worlds.room import room
from inspatio_ros.worlds.street import street
from inspatio_ros.worlds.world import World

Image = npt.NDArray[np.uint8]
Array = npt.NDArray[np.float64]

# Seeds from here on are never trained on.
HELD_OUT_SEED = 1_000_000
# What a block of the model holds at most; older pictures would never be shown.
_SOURCE_FRAMES = 12
_STREET_SPEED, _PAIR_SPEED = (2.0, 9.0), (4.0, 16.0)  # m/s, of a robot and of a car with a pair
WORLDS = {"room": room, "street": street, "clutter": clutter}


@dataclass(frozen=True)
class ClipSize:
    """Pictures of a clip: width and height in pixels, frames in whole blocks of the model."""

    width: int
    height: int
    frames: int


class ClipMaker:
    """Turns observations and true later views into clips, with the engine's own guide."""

    def __init__(self, size: ClipSize) -> None:
        self.size = size
        self._engine = ImaginationEngine(GeometricFiller())

    def clip(self, info: ClipInfo, memory: WorldMemory, seen: Sequence[Observation], poses: Array,
             times: npt.NDArray[np.float64], truth: Sequence[Image], camera: PinholeCamera,
             faults: Faults, rng: np.random.Generator) -> Clip:
        """The clip along `poses` [T, 4, 4] at `times` s, imagined from the last of `seen`.

        seen: observations, oldest first. Half of the clips show the model only the last one, held
        (source mode 'frozen'), half the last ones in a row ('live'). truth: the true views at
        `camera`. Pictures are brought to the clip's size.
        """
        now = seen[-1]
        shown_seen = seen[-_SOURCE_FRAMES:] if rng.uniform() < 0.5 else seen[-1:]
        request = ImaginationRequest(camera, CameraTrajectory(poses, times), (now,))
        shown = FaultyMemory(memory, faults, rng)
        frames = [f for block in self._engine.imagine(request, shown) for f in block.frames]
        size = (self.size.width, self.size.height)
        known = np.stack([resized_guide(frame.guide, size)[1] for frame in frames])
        hinted = np.stack([hinted_pixels(frame.guide, size) for frame in frames])
        return Clip(info, np.stack([resized_picture(t, size) for t in truth]),
                    np.stack([resized_picture(f.image, size) for f in frames]),
                    known, np.stack([resized_picture(o.image, size) for o in shown_seen]),
                    hinted & ~known)


# --- worlds -------------------------------------------------------------------------------------


def world_clip(maker: ClipMaker, domain: str, seed: int, *, faults: bool = True,
               stereo: bool = False) -> Clip:
    """A clip in the world `domain` of `seed`; seeds from HELD_OUT_SEED on are held out.

    stereo: depth comes from matching a pair (the domain is then called `DOMAIN stereo`), and
    streets are driven faster.
    """
    rng = np.random.default_rng([seed, sorted(WORLDS).index(domain), *([1] * stereo)])
    world = WORLDS[domain](seed)
    camera = _random_camera(maker.size, rng)
    period = float(rng.choice([0.07, 0.1, 0.2]))
    seen = int(rng.integers(1, 7))
    start = float(rng.uniform(0, 60))
    times = start + np.concatenate([0.2 * np.arange(-seen + 1, 1),
                                    period * np.arange(1, maker.size.frames + 1)])
    poses = drive_poses(world, domain, times, rng, _PAIR_SPEED if stereo else None)
    name = f"{domain} stereo" if stereo else domain
    return _rendered_clip(maker, ClipInfo("v2v", name, f"{name}-{seed}".replace(" ", "-"),
                                          "Apache-2.0", seed >= HELD_OUT_SEED),
                          world, camera, poses, times, seen, rng, faults,
                          outdoors=domain == "street", stereo=stereo)


def photograph_clip(maker: ClipMaker, photographs: list[Image], seed: int, licence: str, *,
                    faults: bool = True) -> Clip:
    """A clip among standing photographs; seeds from HELD_OUT_SEED on are held out."""
    rng = np.random.default_rng([seed, 7])
    world = photograph_world(photographs, seed)
    camera = _random_camera(maker.size, rng)
    seen = int(rng.integers(1, 5))
    times = 0.1 * np.arange(seen + maker.size.frames, dtype=np.float64)
    reach = 0.25 * min(b.distance for b in world.billboards)
    poses = _look_around(len(times), rng, reach)
    return _rendered_clip(maker, ClipInfo("v2v", "photographs", f"photographs-{seed}", licence,
                                          seed >= HELD_OUT_SEED),
                          world, camera, poses, times, seen, rng, faults)


def _rendered_clip(maker: ClipMaker, info: ClipInfo, world: Renderable, camera: PinholeCamera,
                   poses: Array, times: npt.NDArray[np.float64], seen: int,
                   rng: np.random.Generator, faults: bool, *, outdoors: bool = False,
                   stereo: bool = False) -> Clip:
    sensor = Faults.drawn(rng, outdoors) if faults else Faults()
    memory = WorldMemory(MemoryOptions(capacity=400_000, max_radius=100.0 if outdoors else 30.0,
                                       voxel_size=0.05 if outdoors else 0.02))
    observed: list[Observation] = []
    pair = StereoSensor(camera, rng, outdoors) if stereo else None
    if pair is not None:  # its own errors are enough
        sensor = replace(sensor, depth_noise=0.0, depth_blur=0.0, dropped_depth=0.0)
    for pose, time in zip(poses[:seen], times[:seen], strict=True):
        if pair is not None:
            exact = pair.observe(world, pose, float(time))
        else:
            view = world.render(camera, pose, time)
            exact = Observation(round(time * 1e9), view.image, view.depth, camera, pose)
        observed.append(faulty_observation(exact, replace(sensor, exposure=0.0), rng))
        memory.integrate(faulty_observation(observed[-1], Faults(exposure=sensor.exposure), rng))
    truth = [world.render(camera, pose, time).image
             for pose, time in zip(poses[seen:], times[seen:], strict=True)]
    return maker.clip(info, memory, observed, poses[seen:], times[seen:] - times[seen - 1], truth,
                      camera, sensor, rng)


def _random_camera(size: ClipSize, rng: np.random.Generator) -> PinholeCamera:
    focal = size.width / (2.0 * np.tan(np.radians(float(rng.uniform(50.0, 95.0))) / 2.0))
    return PinholeCamera(size.width, size.height, focal, focal, (size.width - 1) / 2,
                         (size.height - 1) / 2)


def _swing(times: npt.NDArray[np.float64], rng: np.random.Generator, degrees: float) -> Array:
    """A smooth random angle over time, rad: three sines of at most `degrees` together."""
    parts = rng.uniform(-1, 1, 3) * np.radians(degrees) / 2
    rates = rng.uniform(0.15, 1.1, 3) * 2 * np.pi / 3.0
    phases = rng.uniform(0, 2 * np.pi, 3)
    return np.asarray(sum(a * np.sin(r * times + p)
                          for a, r, p in zip(parts, rates, phases, strict=True)))


def drive_poses(world: World, domain: str, times: npt.NDArray[np.float64],
                rng: np.random.Generator, street_speed: tuple[float, float] | None = None
                ) -> Array:
    """Camera poses of a robot on the world's drive path that looks about.

    street_speed: m/s, the range out of which the speed on a street is drawn.
    """
    outdoors = domain == "street"
    speed = float(rng.uniform(*(street_speed or _STREET_SPEED)) if outdoors
                  else rng.uniform(0.15, 0.8))
    height = float(rng.uniform(1.0, 2.0) if outdoors else rng.uniform(0.4, 1.7))
    base = world.drive(speed, times)
    yaw = float(rng.choice([0.0, 0.0, np.pi])) + _swing(times, rng, 12.0 if outdoors else 55.0)
    pitch = _swing(times, rng, 3.0 if outdoors else 25.0)
    poses = np.empty_like(base)
    for index in range(len(times)):
        turn = rigid.from_euler(0.0, float(pitch[index]), float(yaw[index]), (0.0, 0.0, height))
        poses[index] = base[index] @ turn @ rigid.BODY_FROM_OPTICAL
    return poses


def _look_around(count: int, rng: np.random.Generator, reach: float) -> Array:
    """Camera poses [count, 4, 4] in optical axes that turn, shift and approach, all small."""
    times = 0.1 * np.arange(count, dtype=np.float64)
    yaw, pitch = _swing(times, rng, 55.0), _swing(times, rng, 25.0)
    roll = _swing(times, rng, 8.0)
    shift = np.stack([_swing(times, rng, 57.3 * reach * s) for s in (2.0, 1.0, 2.0)], axis=-1)
    return np.stack([rigid.from_euler(float(p), float(y), float(r), s)
                     for p, y, r, s in zip(pitch, yaw, roll, shift, strict=True)])


# --- recordings ---------------------------------------------------------------------------------


def recording_clips(maker: ClipMaker, observations: Sequence[Observation], name: str, licence: str,
                    domain: str, *, stride: int, held_out: bool, seed: int = 0,
                    memory_options: MemoryOptions | None = None) -> Iterator[Clip]:
    """Clips of a posed recording with depth: at every `stride`-th frame, along what then came.

    Forwards and backwards in time. The memory holds a random number of the frames before.
    """
    frames = maker.size.frames
    for backwards in (False, True):
        ordered = list(observations)[::-1] if backwards else list(observations)
        for start in range(1, len(ordered) - frames, stride):
            rng = np.random.default_rng([seed, start, int(backwards)])
            faults = replace(Faults.drawn(rng), depth_blur=0.0, exposure=0.0)
            if held_out:
                faults = Faults()
            seen = min(start + 1, int(rng.integers(1, 25)))
            memory = WorldMemory(memory_options or MemoryOptions(capacity=1_000_000))
            observed = [faulty_observation(o, faults, rng)
                        for o in ordered[start + 1 - seen:start + 1]]
            for observation in observed:
                memory.integrate(observation)
            now = observed[-1]
            later = ordered[start + 1:start + 1 + frames]
            camera = _at_most(now.camera, 416)
            times = np.abs([o.stamp_ns - now.stamp_ns for o in later]) * 1e-9
            yield maker.clip(
                ClipInfo("v2v", domain, name, licence, held_out), memory, observed,
                np.stack([o.world_from_camera for o in later]), times,
                [resized_picture(o.image, camera.size) for o in later], camera, faults, rng)


def _at_most(camera: PinholeCamera, width: int) -> PinholeCamera:
    if camera.width <= width:
        return camera
    return camera.resized(width, round(width * camera.height / camera.width))


# --- pictures and videos ------------------------------------------------------------------------


def picture_clip(size: ClipSize, photographs: list[Image], seed: int, licence: str) -> Clip:
    """A t2v clip: a camera that moves among standing photographs."""
    rng = np.random.default_rng([seed, 11])
    world = photograph_world(photographs, seed)
    camera = _random_camera(size, rng)
    reach = 0.25 * min(b.distance for b in world.billboards)
    poses = _look_around(size.frames, rng, reach)
    truth = np.stack([world.render(camera, pose).image for pose in poses])
    return Clip(ClipInfo("t2v", "photographs", f"photographs-{seed}", licence,
                         seed >= HELD_OUT_SEED), truth)


def video_clips(size: ClipSize, pictures: Iterator[Image], name: str, licence: str, domain: str,
                held_out: bool) -> Iterator[Clip]:
    """T2v clips of consecutive pictures uint8 RGB [H, W, 3]; what is left over is dropped."""
    held: list[Image] = []
    for picture in pictures:
        held.append(cropped(picture, size))
        if len(held) == size.frames:
            yield Clip(ClipInfo("t2v", domain, name, licence, held_out), np.stack(held))
            held = []


def cropped(picture: Image, size: ClipSize) -> Image:
    """The middle of the picture in the aspect of `size`, brought to it by means."""
    height, width = picture.shape[:2]
    scale = max(size.width / width, size.height / height)
    bigger = (max(size.width, round(width * scale)), max(size.height, round(height * scale)))
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    resized = np.asarray(cv2.resize(picture, bigger, interpolation=method), np.uint8)
    x, y = (bigger[0] - size.width) // 2, (bigger[1] - size.height) // 2
    return np.ascontiguousarray(resized[y:y + size.height, x:x + size.width])
