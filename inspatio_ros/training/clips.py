# SPDX-License-Identifier: Apache-2.0
"""Clips for training, and the shards that hold them: pictures as video, masks packed to bits.

A shard is one safetensors file: bytes and numbers only, nothing that could run. Each clip says
which recording it was cut from, under what licence, and how it was made, so that a training set
can be judged without its makers.
"""

from __future__ import annotations

import io
import json
import os
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import av
import numpy as np
import numpy.typing as npt

Image = npt.NDArray[np.uint8]
SHARD_FORMAT = "inspatio_clips 1"
SUFFIX = ".clips.safetensors"


class ClipError(ValueError):
    """A clip or shard that cannot be used; the text names the file and what is wrong."""


@dataclass(frozen=True)
class ClipInfo:
    """Where a clip comes from.

    task: 'v2v' (source, guide and true view) or 't2v' (true view alone). domain: name of the kind
    of data, for mixing and for figures. recording: what it was cut from; a split never divides
    one. licence: SPDX name or a phrase. held_out: whether it may only be used to judge.
    """

    task: str
    domain: str
    recording: str
    licence: str
    held_out: bool = False

    def __post_init__(self) -> None:
        if self.task not in ("v2v", "t2v"):
            raise ClipError(f"task '{self.task}' is neither v2v nor t2v")


@dataclass(frozen=True)
class Clip:
    """T pictures along a camera path.

    truth: uint8 RGB [T, H, W, 3], what was really there. For v2v also render [T, H, W, 3], the
    guide with its holes filled classically; known bool [T, H, W], where geometry backs it; source
    [S, H, W, 3], the observation imagined from, or several, oldest first. hinted bool [T, H, W]:
    where render shows what was seen at a guessed depth; None when that was not kept.
    Raises ClipError when shapes disagree.
    """

    info: ClipInfo
    truth: Image
    render: Image | None = None
    known: npt.NDArray[np.bool_] | None = None
    source: Image | None = None
    hinted: npt.NDArray[np.bool_] | None = None

    def __post_init__(self) -> None:
        if self.truth.ndim != 4 or self.truth.shape[-1] != 3 or self.truth.dtype != np.uint8:
            raise ClipError(f"truth must be uint8 [T, H, W, 3], got {self.truth.dtype} "
                            f"{list(self.truth.shape)}")
        parts = (self.render, self.known, self.source)
        if any((part is None) == (self.info.task == "v2v") for part in parts):
            raise ClipError(f"a {self.info.task} clip has "
                            f"{'no ' if self.info.task == 't2v' else ''}render, mask and source")
        for name, part, shape in (("render", self.render, self.truth.shape),
                                  ("known", self.known, self.truth.shape[:3]),
                                  ("hinted", self.hinted, self.truth.shape[:3])):
            if part is not None and part.shape != shape:
                raise ClipError(f"{name} is {list(part.shape)}, expected {list(shape)}")
        if self.source is not None and self.source.shape[1:] != self.truth.shape[1:]:
            raise ClipError(f"source is {list(self.source.shape)}, its pictures must be "
                            f"{list(self.truth.shape[1:])}")

    @property
    def told(self) -> npt.NDArray[np.int8]:
        """int8 [T, H, W], as a finisher is told: 1 where geometry backs a pixel, 0 where a hint
        is shown, -1 in other holes. ClipError for a t2v clip."""
        if self.known is None:
            raise ClipError(f"{self.info.recording}: a t2v clip has no guide")
        told = self.known.astype(np.int8) * 2 - 1
        if self.hinted is not None:
            told[self.hinted & ~self.known] = 0
        return told

    @property
    def frames(self) -> int:
        """Number of pictures."""
        return len(self.truth)


# --- pictures as bytes --------------------------------------------------------------------------


def compress(pictures: Image, quality: int = 18) -> bytes:
    """H.264 (4:4:4) of uint8 RGB [T, H, W, 3]; quality: constant rate factor, 0 is lossless."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.height, stream.width = pictures.shape[1:3]
        stream.pix_fmt = "yuv444p"
        stream.options = {"crf": str(quality), "preset": "medium"}
        for picture in pictures:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    return buffer.getvalue()


def decompress(data: bytes) -> Image:
    """The pictures that `compress` was given, nearly; ClipError when the bytes are no video."""
    try:
        with av.open(io.BytesIO(data), "r") as container:
            pictures = [f.to_ndarray(format="rgb24") for f in container.decode(video=0)]
    except (av.error.FFmpegError, IndexError, ValueError) as error:
        raise ClipError(f"pictures cannot be decoded: {error}") from error
    if not pictures:
        raise ClipError("pictures cannot be decoded: the video is empty")
    return np.stack(pictures).astype(np.uint8)


def pack_bits(mask: npt.NDArray[np.bool_]) -> bytes:
    """A bool array as deflated bits."""
    return zlib.compress(np.packbits(mask).tobytes(), 6)


def unpack_bits(data: bytes, shape: tuple[int, ...]) -> npt.NDArray[np.bool_]:
    """The bool array of `shape` that `pack_bits` was given; ClipError when it is another."""
    count = int(np.prod(shape))
    try:
        bits = np.unpackbits(np.frombuffer(zlib.decompress(data), np.uint8))
    except zlib.error as error:
        raise ClipError(f"a mask cannot be unpacked: {error}") from error
    if not count <= len(bits) < count + 8:
        raise ClipError(f"a mask of {len(bits)} bits is not {shape}")
    return np.asarray(bits[:count].reshape(shape).astype(np.bool_))


# --- shards -------------------------------------------------------------------------------------


def write_shard(path: Path, clips: Iterable[Clip], quality: int = 18) -> int:
    """Write clips to one shard, whole or not at all; the number of clips.

    Raises ClipError when there is none, OSError when the disk is full (nothing is left behind).
    """
    import torch
    from safetensors.torch import save_file

    tensors: dict[str, Any] = {}
    infos: list[dict[str, Any]] = []
    for index, clip in enumerate(clips):
        parts: dict[str, bytes] = {"truth": compress(clip.truth, quality)}
        if clip.render is not None and clip.known is not None and clip.source is not None:
            parts["render"] = compress(clip.render, quality)
            parts["source"] = compress(clip.source, quality)
            parts["known"] = pack_bits(clip.known)
            if clip.hinted is not None:
                parts["hinted"] = pack_bits(clip.hinted)
        for name, data in parts.items():
            tensors[f"{index:06d}.{name}"] = torch.frombuffer(bytearray(data), dtype=torch.uint8)
        infos.append({**asdict(clip.info), "shape": list(clip.truth.shape)})
    if not infos:
        raise ClipError(f"{path}: no clip to write")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".part")
    try:
        save_file(tensors, temporary, {"format": SHARD_FORMAT, "clips": json.dumps(infos)})
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return len(infos)


class Shard:
    """A shard opened for reading: `len()`, `info(i)` without decoding, `clip(i)`."""

    def __init__(self, path: str | Path) -> None:
        import safetensors
        from safetensors import SafetensorError

        self.path = Path(path)
        opened: Any = safetensors.safe_open
        try:
            self._file: Any = opened(self.path, framework="np")
            said: dict[str, str] = self._file.metadata() or {}
        except (SafetensorError, OSError) as error:
            raise ClipError(
                f"{self.path}: not a readable shard ({error}); pack it again") from None
        if said.get("format") != SHARD_FORMAT:
            raise ClipError(f"{self.path}: not a shard of clips (format {said.get('format')!r}, "
                            f"expected {SHARD_FORMAT!r})")
        self._said = json.loads(said["clips"])
        self._names = frozenset(self._file.keys())
        if not self._said:
            raise ClipError(f"{self.path}: the shard holds no clip")

    def __len__(self) -> int:
        return len(self._said)

    def info(self, index: int) -> ClipInfo:
        """Where clip `index` comes from."""
        said = dict(self._said[index])
        del said["shape"]
        return ClipInfo(**said)

    def shape(self, index: int) -> tuple[int, ...]:
        """(T, H, W, 3) of clip `index`."""
        return tuple(self._said[index]["shape"])

    def clip(self, index: int) -> Clip:
        """Clip `index`, decoded; ClipError names shard and clip when it is damaged."""
        info, shape = self.info(index), self.shape(index)
        try:
            parts = {"truth": decompress(self._bytes(index, "truth"))}
            if info.task == "t2v":
                return Clip(info, parts["truth"])
            parts["render"] = decompress(self._bytes(index, "render"))
            parts["source"] = decompress(self._bytes(index, "source"))
            known = unpack_bits(self._bytes(index, "known"), shape[:3])
            hinted = None
            if f"{index:06d}.hinted" in self._names:
                hinted = unpack_bits(self._bytes(index, "hinted"), shape[:3])
            return Clip(info, parts["truth"], parts["render"], known, parts["source"], hinted)
        except ClipError as error:
            raise ClipError(f"{self.path}: clip {index}: {error}") from error

    def _bytes(self, index: int, name: str) -> bytes:
        from safetensors import SafetensorError

        try:
            data: bytes = self._file.get_tensor(f"{index:06d}.{name}").tobytes()
        except SafetensorError as error:
            raise ClipError(f"{name} is missing ({error})") from None
        return data


def shards_of(folder: str | Path) -> list[Shard]:
    """The shards of a folder, by name, or the one file; ClipError when there is none."""
    path = Path(folder)
    files = [path] if path.is_file() else sorted(path.glob(f"*{SUFFIX}"))
    if not files:
        raise ClipError(f"{path}: no *{SUFFIX} there; `inspatio data pack` makes them")
    return [Shard(file) for file in files]


def read_clips(folder: str | Path) -> Iterator[Clip]:
    """All clips of a folder's shards, in order."""
    for shard in shards_of(folder):
        for index in range(len(shard)):
            yield shard.clip(index)
