# SPDX-License-Identifier: Apache-2.0
"""Videos in and out, frame by frame, with PyAV."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

import av
import numpy as np
import numpy.typing as npt

Picture = npt.NDArray[np.uint8]

# H.264 in yuv420p halves the colour planes: sizes must be even.
_CODEC, _PIXELS = "libx264", "yuv420p"
# Stamps of videos are counted in this fraction of a second; it divides all common frame rates.
_TIME_BASE = Fraction(1, 90_000)


class VideoError(ValueError):
    """A video that cannot be read or written; names the file."""


class VideoFrame(NamedTuple):
    """One picture of a video, uint8 RGB [H, W, 3], and its time in seconds from the first."""

    image: Picture
    time: float


class VideoWriter:
    """An H.264 mp4 that plays in browsers, written one picture at a time.

    The size is that of the first picture; odd sizes get their last row or column twice, since
    yuv420p has even sizes only. crf: x264's quality, 0 (lossless) to 51. Use as a context manager,
    or call `close`. Raises VideoError when a picture has another size or type, or when times do
    not increase.
    """

    def __init__(self, path: str | Path, frame_rate: float, *, crf: int = 18) -> None:
        if not frame_rate > 0:
            raise VideoError(f"{path}: frame_rate {frame_rate} Hz is not positive")
        self.path = Path(path)
        self.frames = 0
        self._rate = Fraction(frame_rate).limit_denominator(1001)
        self._crf = crf
        self._shape: tuple[int, ...] | None = None
        self._last_pts = -1
        self._container = av.open(str(self.path), "w", options={"movflags": "+faststart"})
        self._stream: av.VideoStream | None = None

    def write(self, image: Picture, time: float | None = None) -> None:
        """Add a picture uint8 RGB [H, W, 3]; `time` s from the start, by default the next one."""
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
            raise VideoError(f"{self.path}: expected uint8 [H, W, 3], got {image.dtype} "
                             f"{list(image.shape)}")
        if self._stream is None:
            self._stream = self._make_stream(image)
        if image.shape != self._shape:
            raise VideoError(f"{self.path}: picture {self.frames} is {image.shape[1]}x"
                             f"{image.shape[0]}, the first was "
                             f"{self._shape[1]}x{self._shape[0]}")  # type: ignore[index]
        seconds = Fraction(time).limit_denominator(10**6) if time is not None else (
            self.frames / self._rate)
        pts = round(seconds / _TIME_BASE)
        if pts <= self._last_pts:
            raise VideoError(f"{self.path}: time {float(seconds):.6f} s of picture {self.frames} "
                             "is not later than the one before")
        odd_rows, odd_columns = image.shape[0] % 2, image.shape[1] % 2
        if odd_rows or odd_columns:
            image = np.pad(image, ((0, odd_rows), (0, odd_columns), (0, 0)), mode="edge")
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
        frame.pts, frame.time_base = pts, _TIME_BASE
        self._container.mux(self._stream.encode(frame))
        self._last_pts = pts
        self.frames += 1

    def _make_stream(self, image: Picture) -> av.VideoStream:
        self._shape = image.shape
        stream = self._container.add_stream(_CODEC, rate=self._rate)
        assert isinstance(stream, av.VideoStream)
        stream.height = image.shape[0] + image.shape[0] % 2
        stream.width = image.shape[1] + image.shape[1] % 2
        stream.pix_fmt = _PIXELS
        stream.codec_context.time_base = _TIME_BASE
        # One keyframe a second: seeking in the player page stays quick.
        stream.codec_context.gop_size = max(1, round(self._rate))
        # Without mbtree: x264's lookahead for it reads memory that it never wrote, so that the
        # same pictures give other bytes now and then.
        stream.options = {"crf": str(self._crf), "preset": "veryfast", "x264-params": "mbtree=0"}
        return stream

    def close(self) -> None:
        """Finish the file. A video without pictures is removed."""
        if self._stream is not None:
            self._container.mux(self._stream.encode(None))
        self._container.close()
        if self._stream is None:
            self.path.unlink(missing_ok=True)

    def __enter__(self) -> VideoWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        self.close()


class VideoInfo(NamedTuple):
    """Size in pixels, nominal frame rate in Hz and number of frames (0: the file does not say)."""

    width: int
    height: int
    frame_rate: float
    frames: int


def video_info(path: str | Path) -> VideoInfo:
    """What the file's header says. Raises VideoError when it holds no video."""
    with _opened(path) as container:
        stream = container.streams.video[0]
        rate = stream.average_rate or stream.guessed_rate or 0
        return VideoInfo(stream.codec_context.width, stream.codec_context.height, float(rate),
                         stream.frames)


def read_video(path: str | Path) -> Iterator[VideoFrame]:
    """The video's pictures in the order shown, one in memory at a time.

    Times are the file's own, so a variable frame rate survives. Raises VideoError when the file
    cannot be read or ends in the middle of a picture (after the pictures before it).
    """
    with _opened(path) as container:
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        first: float | None = None
        count = 0
        try:
            for frame in _decoded(container, stream):
                time = (float(frame.pts * stream.time_base)
                        if frame.pts is not None and stream.time_base is not None
                        else count / float(stream.average_rate or 1))
                first = time if first is None else first
                image = np.asarray(frame.to_ndarray(format="rgb24"), dtype=np.uint8)
                yield VideoFrame(image, time - first)
                count += 1
        except av.FFmpegError as error:
            raise VideoError(f"{path}: damaged after {count} frames: {error}") from error
        except EOFError as error:
            raise VideoError(f"{path}: damaged after {count} frames, {error}") from error


def _decoded(container: av.container.InputContainer,
             stream: av.VideoStream) -> Iterator[av.VideoFrame]:
    """The stream's frames. Raises EOFError after the last when the file was cut off."""
    packets = 0
    end = 0
    for packet in container.demux(stream):
        if packet.is_corrupt:
            # The decoder's threads still hold frames from before.
            yield from stream.codec_context.decode(None)
            raise EOFError("in the middle of a picture")
        packets += packet.size > 0
        end = max(end, (packet.pts or 0) + (packet.duration or 0))
        yield from packet.decode()
    # Fewer than the head says is usual in edited videos, but those do not end early too.
    duration = stream.duration or 0
    if 0 < packets < stream.frames and (end - (stream.start_time or 0)) < 0.95 * duration:
        raise EOFError(f"of the {stream.frames} that it should have")


def _opened(path: str | Path) -> av.container.InputContainer:
    if not Path(path).is_file():
        raise VideoError(f"{path}: no such video file")
    try:
        container = av.open(str(path))
    except av.FFmpegError as error:
        raise VideoError(f"{path}: not a video that can be read: {error}") from error
    if not container.streams.video:
        container.close()
        raise VideoError(f"{path}: holds no video stream")
    return container


def frame_times(path: str | Path) -> npt.NDArray[np.float64]:
    """When each picture is shown, s from the first [T], read without decoding any.

    Raises VideoError when the file cannot be read or its packets carry no times.
    """
    with _opened(path) as container:
        stream = container.streams.video[0]
        try:
            # Some containers keep only the order of decoding; what is cut away is not shown.
            stamps = [packet.dts if packet.pts is None else packet.pts
                      for packet in container.demux(stream)
                      if packet.size and not packet.is_discard]
        except av.FFmpegError as error:
            raise VideoError(f"{path}: damaged: {error}") from error
        base = float(stream.time_base or 0)
    known = np.array([stamp for stamp in stamps if stamp is not None], np.float64)
    if len(known) != len(stamps) or not base > 0:
        raise VideoError(f"{path}: its pictures carry no times")
    return (np.sort(known) - (known.min() if len(known) else 0.0)) * base
