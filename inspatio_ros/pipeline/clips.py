# SPDX-License-Identifier: Apache-2.0
"""What can be run: videos, single pictures, folders of either, and recordings of robots."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
import numpy.typing as npt

from inspatio_ros.files.recordings import recording_name
from inspatio_ros.files.videos import VideoError, frame_times, read_video, video_info

Picture = npt.NDArray[np.uint8]
Kind = Literal["video", "images", "recording"]

VIDEO_SUFFIXES = frozenset({".mp4", ".mov", ".mkv", ".avi", ".webm", ".m4v"})
IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"})
BAG_SUFFIXES = frozenset({".mcap", ".db3", ".bag"})

# Of pictures without times, and of videos made from them.
DEFAULT_RATE = 24.0
# A video's frames are evenly spaced when no interval differs from the median by more than this.
_EVEN = 0.25
_HASH_CHUNK = 1 << 20


class ClipError(ValueError):
    """Something that cannot be run; names it and says why."""


@dataclass(frozen=True)
class Clip:
    """One thing to run. files: the pictures of kind images, in order."""

    name: str
    path: Path
    kind: Kind
    files: tuple[Path, ...] = ()


@dataclass(frozen=True)
class ClipInfo:
    """frames: that will be read; frame_rate Hz; width, height: of the pictures, pixels.

    uneven: the file's frames are not evenly spaced; each is then shown at its own time, repeated
    or left out where the even grid has more or fewer.
    """

    frames: int
    frame_rate: float
    width: int
    height: int
    uneven: bool = False


def find_clips(path: str | Path) -> list[Clip]:
    """The clips at `path`: a file, a bag, a folder of frames, of videos, of pictures or of bags.

    Names are unique. Raises ClipError when there is nothing that can be run.
    """
    place = Path(path)
    if not place.exists():
        raise ClipError(f"{place}: no such file or folder")
    if place.is_file():
        return [_file_clip(place)]
    if (place / "frames.csv").is_file() or (place / "metadata.yaml").is_file():
        return [Clip(place.resolve().name, place, "recording")]
    files = sorted(p for p in place.iterdir() if p.is_file() and not p.name.startswith("."))
    videos = [p for p in files if p.suffix.lower() in VIDEO_SUFFIXES | BAG_SUFFIXES]
    if videos:
        return _with_unique_names([_file_clip(p) for p in videos])
    pictures = tuple(p for p in files if p.suffix.lower() in IMAGE_SUFFIXES)
    if pictures:
        return [Clip(place.resolve().name, place, "images", pictures)]
    recordings = [Clip(recording_name(sub), sub, "recording") for sub in sorted(place.iterdir())
                  if (sub / "metadata.yaml").is_file() or (sub / "calib.json").is_file()]
    if recordings:
        return _with_unique_names(recordings)
    raise ClipError(f"{place}: holds no video ({' '.join(sorted(VIDEO_SUFFIXES))}), picture, bag "
                    "or frames.csv")


def _file_clip(path: Path) -> Clip:
    suffix = path.suffix.lower()
    if suffix in VIDEO_SUFFIXES:
        return Clip(path.stem, path, "video")
    if suffix in IMAGE_SUFFIXES:
        return Clip(path.stem, path, "images", (path,))
    if suffix in BAG_SUFFIXES:
        return Clip(path.stem, path, "recording")
    raise ClipError(f"{path}: neither a video, a picture nor a bag, by its name")


def _with_unique_names(clips: list[Clip]) -> list[Clip]:
    names = [clip.name for clip in clips]
    return [clip if names.count(clip.name) == 1 else replace(clip, name=clip.path.name)
            for clip in clips]


def clip_info(clip: Clip) -> ClipInfo:
    """Frames, rate and size of a video or of pictures, without decoding them all.

    Raises ClipError or VideoError when it holds no frame or cannot be read.
    """
    if clip.kind == "images":
        first = _read_picture(clip.files[0])
        return ClipInfo(len(clip.files), DEFAULT_RATE, first.shape[1], first.shape[0])
    times = frame_times(clip.path)
    if len(times) == 0:
        raise ClipError(f"{clip.path}: holds no frames")
    info = video_info(clip.path)
    if info.width < 1 or info.height < 1:
        raise ClipError(f"{clip.path}: its header gives no picture size; the file is damaged")
    if len(times) == 1:
        return ClipInfo(1, info.frame_rate or DEFAULT_RATE, info.width, info.height)
    steps = np.diff(times)
    typical = float(np.median(steps))
    if not typical > 0:
        raise ClipError(f"{clip.path}: its frames have no increasing times")
    if np.abs(steps - typical).max() <= _EVEN * typical:
        return ClipInfo(len(times), float((len(times) - 1) / times[-1]), info.width, info.height)
    rate = 1.0 / typical
    return ClipInfo(round(times[-1] * rate) + 1, rate, info.width, info.height, uneven=True)


def read_pictures(clip: Clip, info: ClipInfo, every_frame: bool = False) -> Iterator[Picture]:
    """The pictures uint8 RGB [H, W, 3], one in memory at a time, at the even rate of `info`.

    every_frame: each frame of the file once, whatever its time. Raises VideoError or ClipError
    when the file is damaged or its pictures change size.
    """
    if clip.kind == "images":
        pictures: Iterator[Picture] = (_read_picture(path) for path in clip.files)
    elif info.uneven and not every_frame:
        pictures = _evenly(clip.path, info)
    else:
        pictures = (frame.image for frame in read_video(clip.path))
    count = 0
    for picture in pictures:
        if picture.shape[:2] != (info.height, info.width):
            raise ClipError(f"{clip.path}: picture {count} is {picture.shape[1]}x"
                            f"{picture.shape[0]}, the first was {info.width}x{info.height}")
        yield picture
        count += 1
    if count < info.frames and not every_frame:
        raise VideoError(f"{clip.path}: damaged: {count} of its {info.frames} frames can be read")


def _evenly(path: Path, info: ClipInfo) -> Iterator[Picture]:
    """The picture that is shown at each instant of an even grid."""
    shown: Picture | None = None
    slot = 0
    for frame in read_video(path):
        due = round(frame.time * info.frame_rate)
        while shown is not None and slot < due:
            yield shown
            slot += 1
        shown = frame.image
    while shown is not None and slot < info.frames:
        yield shown
        slot += 1


def picture_at(clip: Clip, info: ClipInfo, index: int) -> Picture:
    """Picture `index`, read from the beginning as `read_pictures` does."""
    for number, picture in enumerate(read_pictures(clip, info)):
        if number == index:
            return picture
    raise ClipError(f"{clip.path}: has no frame {index}")


def _read_picture(path: Path) -> Picture:
    bgr = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if bgr is None:
        raise ClipError(f"{path}: no picture that can be read")
    return np.asarray(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB), np.uint8)


def content_digest(clip: Clip) -> str:
    """SHA-256 over the bytes and names of the clip's files."""
    files = clip.files or ((clip.path,) if clip.path.is_file() else tuple(
        sorted(p for p in clip.path.rglob("*") if p.is_file())))
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.name.encode())
        with file.open("rb") as stream:
            while chunk := stream.read(_HASH_CHUNK):
                digest.update(chunk)
    return digest.hexdigest()
