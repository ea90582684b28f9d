# SPDX-License-Identifier: Apache-2.0
"""Training pairs for the branches: clips whose latent frames have a retrieved view each.

As WorldStereo 2.0 makes its pairs (arXiv 2604.14268): a view of the same scene, misaligned in
time, that overlaps the frame by 30 to 90 percent. Its depth is degraded as there (half of the
views bilinearly reduced, a tenth with Gaussian noise), its picture blurred and its colours
changed, so that a branch learns where to look and not to copy. A file of pairs is a file of
latents with more parts; the plain trainer reads it as any other.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from inspatio_ros.geometry import rigid
from inspatio_ros.geometry.camera import PinholeCamera
from inspatio_ros.imagination.retrieved import (
    latent_frame_numbers,
    paired,
    plucker_rays,
    scene_scale,
    still_latent,
)
from inspatio_ros.memory.view_bank import BankOptions, ViewBank
from inspatio_ros.memory.world_memory import WorldMemory
from inspatio_ros.model.codec import VideoCodec
from inspatio_ros.model.config import ModelConfig
from inspatio_ros.model.stereo import POINT_CHANNELS, POSE_VALUES, RetrievedViews
from inspatio_ros.sensing.observation import Observation
from inspatio_ros.training.augment import Faults
from inspatio_ros.training.clips import Clip, ClipError, ClipInfo
from inspatio_ros.training.latents import LATENT_FORMAT, PARTS, encode_clip, in_blocks
from inspatio_ros.training.saving import save_tensors
from inspatio_ros.training.sources import WORLDS, ClipMaker, ClipSize, recording_clips, world_clip

Image = npt.NDArray[np.uint8]
Array = npt.NDArray[np.float64]
Float = npt.NDArray[np.float32]

LEAST_OVERLAP, MOST_OVERLAP = 0.3, 0.9
# Views rendered beside the way in a world, from which pairs are drawn.
POOL = 12
PAIR_PARTS = ("views", "view_poses", "view_points", "frame_points", "view_valid", "rays")


@dataclass(frozen=True)
class PairedClip:
    """A clip's latents with what the branches are given; parts `[N, F, ...]` of N blocks.

    Those of `LatentClip`, then views [.., C, h, w], view_poses [.., 7], view_points and
    frame_points [.., 4, h, w], view_valid [..], rays [.., 6, h, w].
    """

    info: ClipInfo
    parts: dict[str, Tensor]


class _Recorder(ClipMaker):
    """Makes clips, and keeps what the last one was made from."""

    def __init__(self, size: ClipSize) -> None:
        super().__init__(size)
        self.memory: WorldMemory | None = None
        self.seen: Sequence[Observation] = ()
        self.poses: Array = np.empty((0, 4, 4))
        self.times: npt.NDArray[np.float64] = np.empty(0)
        self.camera: PinholeCamera | None = None

    def clip(self, info: ClipInfo, memory: WorldMemory, seen: Sequence[Observation], poses: Array,
             times: npt.NDArray[np.float64], truth: Sequence[Image], camera: PinholeCamera,
             faults: Faults, rng: np.random.Generator) -> Clip:
        """See `ClipMaker.clip`."""
        self.memory, self.seen, self.poses, self.times = memory, seen, poses, times
        self.camera = camera
        return super().clip(info, memory, seen, poses, times, truth, camera, faults, rng)


class PairMaker:
    """Turns worlds and recordings into clips with pairs, as latents of `codec` for `config`."""

    def __init__(self, codec: VideoCodec, config: ModelConfig, size: ClipSize) -> None:
        self._codec, self._config = codec, config
        self._size = size
        self._maker = _Recorder(size)
        config.grid_of(size.height, size.width)

    def world(self, domain: str, seed: int, *, faults: bool = True) -> PairedClip:
        """A clip in an analytic world (see `world_clip`), and views from beside its way."""
        clip = world_clip(self._maker, domain, seed, faults=faults)
        rng = np.random.default_rng([seed, sorted(WORLDS).index(domain), 77])
        world = WORLDS[domain](seed)
        maker = self._maker
        assert maker.camera is not None
        camera, start = maker.camera, maker.seen[-1].stamp_ns * 1e-9
        scale = scene_scale(maker.seen[-1].depth, 2.0)
        pool = list(maker.seen)
        for _ in range(POOL):
            near = maker.poses[int(rng.integers(len(maker.poses)))]
            turn, nod = rng.normal(0, 0.25), rng.normal(0, 0.08)
            shift = rng.normal(0, 0.08 * scale, 3) * (1.0, 0.2, 1.0)
            pose = near @ rigid.from_euler(float(nod), float(turn), 0.0, shift)
            time = start + float(rng.uniform(-1.0, 2.0))
            view = world.render(camera, pose, time)
            pool.append(Observation(round(time * 1e9), view.image, view.depth, camera, pose))

        def true_depth(number: int) -> Float:
            return world.render(camera, maker.poses[number],
                                start + float(maker.times[number])).depth

        return self._paired(clip, pool, true_depth, rng)

    def recording(self, observations: Sequence[Observation], name: str, licence: str, domain: str,
                  *, stride: int, held_out: bool) -> Iterator[PairedClip]:
        """Clips of a posed recording (see `recording_clips`), and other frames of it as views."""
        for number, clip in enumerate(recording_clips(
                self._maker, observations, name, licence, domain, stride=stride,
                held_out=held_out)):
            maker = self._maker
            own = {pose.tobytes() for pose in maker.poses}
            by_pose = {o.world_from_camera.tobytes(): o for o in observations}
            pool = [o for o in observations if o.world_from_camera.tobytes() not in own]

            def true_depth(at: int, maker: _Recorder = maker,
                           by_pose: dict[bytes, Observation] = by_pose) -> Float:
                return by_pose[maker.poses[at].tobytes()].depth

            yield self._paired(clip, pool, true_depth, np.random.default_rng([number, 78]))

    def _paired(self, clip: Clip, pool: Sequence[Observation],
                true_depth: Callable[[int], Float], rng: np.random.Generator) -> PairedClip:
        maker, config = self._maker, self._config
        assert maker.camera is not None
        assert maker.memory is not None
        camera, size = maker.camera, (self._size.width, self._size.height)
        grid = config.grid_of(self._size.height, self._size.width)
        parts = encode_clip(clip, self._codec, config).parts
        blocks = parts["target"].shape[0]
        numbers = _frame_numbers(config, blocks)
        bank = ViewBank(BankOptions(capacity=max(1, len(pool)), spacing=1e-6,
                                    max_width=max(16, size[0])))
        for observation in pool:
            bank.add(observation)
        origin = maker.seen[-1].world_from_camera
        source_scale = scene_scale(maker.seen[-1].depth)
        views = torch.zeros(len(numbers), config.latent_channels, *grid)
        poses = np.zeros((len(numbers), POSE_VALUES), np.float32)
        points = np.zeros((2, len(numbers), POINT_CHANNELS, *grid), np.float32)
        valid, rays = np.zeros(len(numbers), np.float32), []
        for place, number in enumerate(numbers):
            pose = maker.poses[number]
            rays.append(plucker_rays(camera, rigid.invert(origin) @ pose, grid, source_scale))
            view = chosen_view(bank, camera, pose, true_depth(number), rng)
            if view is None:
                continue
            view = degraded(view, rng)
            shown = maker.memory.render(camera, pose, maker.seen[-1:]).depth
            poses[place], points[0, place], points[1, place] = paired(
                view, camera, pose, shown, grid)
            views[place] = still_latent(self._codec, view.image, size, self._codec.device)
            valid[place] = 1
        extra = (views, *map(torch.from_numpy, (poses, points[0], points[1], valid,
                                                np.stack(rays))))
        return PairedClip(clip.info, {**parts, **{
            name: in_blocks(part[None], blocks)[0]
            for name, part in zip(PAIR_PARTS, extra, strict=True)}})


def _frame_numbers(config: ModelConfig, blocks: int) -> list[int]:
    """The picture of a clip that each latent frame stands for."""
    numbers, start = [], 0
    for block in range(blocks):
        numbers += [start + n for n in latent_frame_numbers(config, first=block == 0)]
        start += config.first_block_frames if block == 0 else config.block_frames
    return numbers


def chosen_view(bank: ViewBank, camera: PinholeCamera, pose: Array, depth: Float,
                rng: np.random.Generator) -> Observation | None:
    """One of the views that overlap a frame by 30 to 90 percent; None when there is none.

    depth: the frame's true one. The picture of a surface counts, not the frusta.
    """
    size = (depth.shape[1], depth.shape[0])
    overlaps = bank.overlaps(camera.resized(*size), pose, depth)
    suiting = np.flatnonzero((overlaps >= LEAST_OVERLAP) & (overlaps <= MOST_OVERLAP))
    if suiting.size == 0:
        return None
    return bank.views[int(rng.choice(suiting))].observation


def degraded(view: Observation, rng: np.random.Generator) -> Observation:
    """A view as a worse sensor, at another time, would have it."""
    kind = rng.uniform()
    depth = view.depth.copy()
    size = (view.camera.width, view.camera.height)
    if kind < 0.5:
        factor = int(rng.integers(2, 5))
        small = cv2.resize(depth, (max(1, size[0] // factor), max(1, size[1] // factor)),
                           interpolation=cv2.INTER_NEAREST)
        depth = np.asarray(cv2.resize(small, size, interpolation=cv2.INTER_LINEAR), np.float32)
    elif kind < 0.6:
        depth *= rng.normal(1.0, 0.02, depth.shape).astype(np.float32)
    image: Float = view.image.astype(np.float32)
    if rng.uniform() < 0.3:
        blurred = cv2.GaussianBlur(image, (0, 0), float(rng.uniform(0.5, 1.5)))
        image = np.asarray(blurred, np.float32)
    image = image * float(rng.uniform(0.85, 1.15)) + float(rng.uniform(-12, 12))
    return replace(view, image=np.clip(np.rint(image), 0, 255).astype(np.uint8), depth=depth)


def write_pairs(path: Path, clips: Iterable[PairedClip]) -> int:
    """Write clips with pairs as a file of latents; their number. ClipError when there is none."""
    tensors: dict[str, Tensor] = {}
    infos: list[dict[str, Any]] = []
    for clip in clips:
        for name, part in clip.parts.items():
            tensors[f"{len(infos):06d}.{name}"] = part.to(torch.bfloat16)
        infos.append(asdict(clip.info))
    if not infos:
        raise ClipError(f"{path}: no clip with pairs to write")
    path.parent.mkdir(parents=True, exist_ok=True)
    save_tensors(path, tensors, {"format": LATENT_FORMAT, "clips": json.dumps(infos)})
    return len(infos)


def read_pairs(path: Path) -> list[PairedClip]:
    """All clips of a file of `write_pairs`, float32.

    Raises ClipError, naming the file, when it is missing, damaged or has no pairs.
    """
    import safetensors
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    opened: Any = safetensors.safe_open
    try:
        with opened(path, framework="pt") as held:
            said = held.metadata() or {}
        tensors = load_file(path)
    except (SafetensorError, OSError) as error:
        raise ClipError(f"{path}: not readable as latents ({error})") from None
    if said.get("format") != LATENT_FORMAT:
        raise ClipError(f"{path}: not a file of latents; `inspatio data pairs` makes one")
    clips = []
    for index, info in enumerate(json.loads(said["clips"])):
        names = (*PARTS, *PAIR_PARTS)
        missing = [name for name in names if f"{index:06d}.{name}" not in tensors]
        if missing:
            raise ClipError(f"{path}: clip {index} has no {missing[0]}; `inspatio data pairs` "
                            "makes latents with pairs")
        clips.append(PairedClip(ClipInfo(**info), {
            name: tensors[f"{index:06d}.{name}"].float() for name in names}))
    return clips


def views_of(parts: dict[str, Tensor]) -> RetrievedViews:
    """What the stereo branch takes, of parts `[S, F, ...]`."""
    return RetrievedViews(*(parts[name] for name in PAIR_PARTS[:5]))
