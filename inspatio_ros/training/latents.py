# SPDX-License-Identifier: Apache-2.0
"""Clips as latents: encoded once, then drawn in batches that depend on the step alone."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from inspatio_ros.imagination.conditioning import pack_mask
from inspatio_ros.model.codec import VideoCodec, frames_from_uint8
from inspatio_ros.model.config import ModelConfig
from inspatio_ros.model.small_codec import SmallCodec
from inspatio_ros.model.weights import CODEC_FILE, load_small_codec
from inspatio_ros.training.batches import LatentBatch, Task
from inspatio_ros.training.clips import Clip, ClipError, ClipInfo, shards_of
from inspatio_ros.training.saving import save_tensors

LATENT_FORMAT = "inspatio_latents 1"
# What a known place counts beside a hole: its colour is kept from the guide in the end.
KNOWN_WEIGHT = 0.2
PARTS = ("target", "source", "render", "mask", "weight")


@dataclass(frozen=True)
class LatentClip:
    """One clip as latents; the parts of `LatentBatch` without the batch."""

    info: ClipInfo
    parts: dict[str, Tensor]

    @property
    def key(self) -> tuple[Any, ...]:
        """What clips of one batch have in common."""
        return (self.info.task, self.info.domain, tuple(self.parts["target"].shape))


@torch.no_grad()
def encode_clips(clips: Sequence[Clip], codec: VideoCodec, config: ModelConfig
                 ) -> list[LatentClip]:
    """Clips of one task and length as the engine would show them to the model, on the codec's
    device; ClipError when they are too short.

    What is left over after whole blocks is not used.
    """
    first = clips[0]
    blocks = (first.frames - config.first_block_frames) // config.block_frames + 1
    if first.frames < config.first_block_frames:
        raise ClipError(f"a clip of {first.frames} frames is shorter than a block of "
                        f"{config.first_block_frames}")
    frames = config.first_block_frames + (blocks - 1) * config.block_frames

    def encoded(pictures: Sequence[Sequence[Any]]) -> Tensor:
        batch = torch.cat([frames_from_uint8(part, codec.device) for part in pictures])
        return codec.encode(batch).float()

    parts = {"target": in_blocks(encoded([list(clip.truth[:frames]) for clip in clips]), blocks)}
    renders = [list(clip.render[:frames]) for clip in clips if clip.render is not None]
    known = [clip.known[:frames] for clip in clips if clip.known is not None]
    if renders and len(known) == len(clips):
        parts["render"] = in_blocks(encoded(renders), blocks)
        source = encoded([_last_seen(clip, config.first_block_frames) for clip in clips])
        source = source[:, None, :config.frames_per_block]
        parts["source"] = source.expand(-1, blocks, *source.shape[2:]).clone()
        plane = torch.from_numpy(np.stack(known).astype(np.float32) * 2 - 1)
        mask = pack_mask(plane, config, first=True).to(codec.device)
        parts["mask"] = in_blocks(mask, blocks)
        hole = 0.5 - 0.5 * mask.mean(dim=2, keepdim=True)
        parts["weight"] = in_blocks(KNOWN_WEIGHT + (1 - KNOWN_WEIGHT) * hole, blocks)
    return [LatentClip(clip.info, {name: part[k] for name, part in parts.items()})
            for k, clip in enumerate(clips)]


def _last_seen(clip: Clip, count: int) -> list[Any]:
    """The last `count` pictures of the source, the first repeated where there are fewer."""
    assert clip.source is not None
    seen = list(clip.source[-count:])
    return [seen[0]] * (count - len(seen)) + seen


def encode_clip(clip: Clip, codec: VideoCodec, config: ModelConfig) -> LatentClip:
    """One clip of `encode_clips`."""
    return encode_clips([clip], codec, config)[0]


def in_blocks(latents: Tensor, blocks: int) -> Tensor:
    """Latents `[B, N F, ...]` as `[B, N, F, ...]`."""
    return latents.reshape(len(latents), blocks, -1, *latents.shape[2:])


def flipped(clip: Clip) -> Clip:
    """The clip seen in a mirror."""
    def turn(part: Any) -> Any:
        return None if part is None else np.ascontiguousarray(part[:, :, ::-1])

    return Clip(clip.info, turn(clip.truth), turn(clip.render), turn(clip.known),
                turn(clip.source), turn(clip.hinted))


def encode_folder(folder: Path, codec_folder: Path, out: Path, config: ModelConfig | None = None,
                  *, on_clip: Callable[[int, int], None] | None = None) -> int:
    """Encode all clips of a folder, those to train on mirrored too, into one file; their number.

    config: of the model the latents are for, by default the shipped small one. The codec works in
    the number format in which it also will when the model is used on this machine.
    """
    from inspatio_ros.imagination.backends import compute_dtype
    from inspatio_ros.model.presets import TINY

    config = config or TINY
    codec = load_codec(codec_folder)
    codec = codec.to(codec.device, compute_dtype(codec.device))
    shards = shards_of(folder)
    total, done = sum(len(shard) for shard in shards), 0
    tensors: dict[str, Tensor] = {}
    infos: list[dict[str, Any]] = []
    for shard in shards:
        for index in range(len(shard)):
            clip = shard.clip(index)
            for version in (clip,) if clip.info.held_out else (clip, flipped(clip)):
                for name, part in encode_clip(version, codec, config).parts.items():
                    tensors[f"{len(infos):06d}.{name}"] = part.to(torch.bfloat16)
                infos.append(asdict(clip.info))
            done += 1
            if on_clip is not None:
                on_clip(done, total)
    save_tensors(out, tensors, {"format": LATENT_FORMAT, "clips": json.dumps(infos)})
    return done


def load_codec(folder: Path) -> SmallCodec:
    """The trained codec of a folder (or of a file), ready to encode; ClipError without one."""
    file = folder if folder.is_file() else folder / CODEC_FILE
    if not file.is_file():
        raise ClipError(f"{file}: no such file; `inspatio train codec` makes it")
    return load_small_codec(file).eval()


class LatentData:
    """All clips of a file in memory; batches are a function of the step (`BatchSource`).

    Every batch is of one task, one domain and one shape; which one is drawn in proportion to the
    clips. Held-out clips are only in `validation`.
    """

    def __init__(self, clips: Sequence[LatentClip], batch_size: int, seed: int) -> None:
        self._groups: dict[tuple[Any, ...], list[LatentClip]] = {}
        self._held: dict[tuple[Any, ...], list[LatentClip]] = {}
        for clip in clips:
            groups = self._held if clip.info.held_out else self._groups
            groups.setdefault(clip.key, []).append(clip)
        if not self._groups:
            raise ClipError("no clip to train on: all are held out, or there is none")
        self._batch_size = batch_size
        self._seed = seed
        self._keys = sorted(self._groups, key=repr)
        counts = np.array([len(self._groups[key]) for key in self._keys], np.float64)
        self._shares = counts / counts.sum()

    def batch(self, step: int, rank: int = 0, world_size: int = 1) -> LatentBatch:
        """The part of global batch `step` of process `rank`; ClipError when it does not divide."""
        if self._batch_size % world_size:
            raise ClipError(f"a batch of {self._batch_size} does not divide among {world_size}")
        rng = np.random.default_rng([self._seed, step])
        group = self._groups[self._keys[int(rng.choice(len(self._keys), p=self._shares))]]
        picked = rng.choice(len(group), self._batch_size, replace=len(group) < self._batch_size)
        own = np.split(picked, world_size)[rank]
        return joined([group[int(i)] for i in own])

    def validation(self) -> Iterator[LatentBatch]:
        """The held-out clips, domain after domain."""
        for key in sorted(self._held, key=repr):
            group = self._held[key]
            for start in range(0, len(group), self._batch_size):
                yield joined(group[start:start + self._batch_size])


def joined(clips: Sequence[LatentClip]) -> LatentBatch:
    """Clips of one shape as a batch, float32."""
    first = clips[0]
    stacked = {name: torch.stack([clip.parts[name] for clip in clips]).float()
               for name in first.parts}
    task: Task = "v2v" if first.info.task == "v2v" else "t2v"
    return LatentBatch(task, domain=first.info.domain, **stacked)


def open_latents(path: str | Path, config: ModelConfig, batch_size: int, seed: int) -> LatentData:
    """The latents that `inspatio data encode` wrote, as batches for the trainer.

    Raises ClipError, naming the file, when it is missing, damaged or for another model.
    """
    return LatentData(read_latents(path, config), batch_size, seed)


def read_latents(path: str | Path, config: ModelConfig) -> list[LatentClip]:
    """All clips that `inspatio data encode` wrote, held-out ones too, in order.

    Raises ClipError, naming the file, when it is missing, damaged or for another model.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    file = Path(path)
    try:
        said = _metadata(file)
        tensors = load_file(file)
    except (SafetensorError, OSError) as error:
        raise ClipError(f"{file}: not readable as latents ({error})") from None
    if said.get("format") != LATENT_FORMAT:
        raise ClipError(f"{file}: not a file of latents; `inspatio data encode` makes one")
    infos = [ClipInfo(**info) for info in json.loads(said["clips"])]
    clips = [LatentClip(info, {name: tensors[f"{index:06d}.{name}"] for name in PARTS
                               if f"{index:06d}.{name}" in tensors})
             for index, info in enumerate(infos)]
    for clip in clips:
        joined([clip]).check(config)
    return clips


def _metadata(file: Path) -> dict[str, str]:
    import safetensors

    opened: Any = safetensors.safe_open
    with opened(file, framework="pt") as held:
        return held.metadata() or {}
