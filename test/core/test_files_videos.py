# SPDX-License-Identifier: Apache-2.0
"""Videos: round trips at odd sizes and uneven times, and files that are none."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import numpy.typing as npt
import pytest

from inspatio_ros.files.videos import VideoError, VideoWriter, read_video, video_info
from support.data import data_dir

Picture = npt.NDArray[np.uint8]


def picture(height: int, width: int, shift: float = 0.0) -> Picture:
    """Smooth colors that move with `shift` and differ between the channels."""
    rows, columns = np.mgrid[:height, :width]
    waves = [np.sin((columns + 3 * shift) / 17), np.cos((rows - shift) / 11),
             np.sin((rows + columns) / 23 + shift / 5)]
    return np.stack([np.rint(127.5 + 110 * wave) for wave in waves], axis=-1).astype(np.uint8)


def psnr(one: Picture, two: Picture) -> float:
    error = np.mean((one.astype(float) - two.astype(float)) ** 2)
    return float(10 * np.log10(255.0**2 / max(error, 1e-9)))


@pytest.mark.parametrize(("height", "width"), [(64, 96), (63, 97), (65, 64), (64, 33), (2, 2),
                                               (17, 1)])
def test_pictures_come_back(tmp_path: Path, height: int, width: int) -> None:
    path = tmp_path / "video.mp4"
    written = [picture(height, width, at) for at in range(6)]
    with VideoWriter(path, 25.0, crf=10) as video:
        for image in written:
            video.write(image)
        assert video.frames == 6
    found = list(read_video(path))
    assert [frame.time for frame in found] == pytest.approx([at / 25 for at in range(6)], abs=1e-4)
    for image, frame in zip(written, found, strict=True):
        assert frame.image.dtype == np.uint8
        assert frame.image.shape == (height + height % 2, width + width % 2, 3)
        if min(height, width) > 16:  # below, a block of color is larger than the picture
            assert psnr(frame.image[:height, :width], image) > 30.0
    info = video_info(path)
    assert (info.width, info.height) == (width + width % 2, height + height % 2)
    assert info.frame_rate == pytest.approx(25.0, rel=0.01)


def test_colors_keep_their_order_and_brightness(tmp_path: Path) -> None:
    colors = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255), (0, 0, 0), (128, 128, 128)]
    with VideoWriter(tmp_path / "video.mp4", 10.0, crf=1) as video:
        for color in colors:
            video.write(np.full((32, 32, 3), color, np.uint8))
    for color, frame in zip(colors, read_video(tmp_path / "video.mp4"), strict=True):
        np.testing.assert_allclose(frame.image.reshape(-1, 3).mean(0), color, atol=8)


def test_uneven_times_survive(tmp_path: Path) -> None:
    times = [0.0, 0.04, 0.11, 0.5, 0.5123, 2.0]
    with VideoWriter(tmp_path / "video.mp4", 30.0) as video:
        for at in times:
            video.write(picture(32, 48, at * 20), at)
    found = [frame.time for frame in read_video(tmp_path / "video.mp4")]
    assert found == pytest.approx(times, abs=1e-4)


def test_a_start_that_is_not_zero_is_left_out(tmp_path: Path) -> None:
    with VideoWriter(tmp_path / "video.mp4", 10.0) as video:
        for at in (3.0, 3.2, 3.3):
            video.write(picture(32, 48, at), at)
    found = [frame.time for frame in read_video(tmp_path / "video.mp4")]
    assert found == pytest.approx([0.0, 0.2, 0.3], abs=1e-4)


@pytest.mark.parametrize("rate", [1.0, 5.0, 29.97, 30000 / 1001, 60.0])
def test_frame_rates(tmp_path: Path, rate: float) -> None:
    with VideoWriter(tmp_path / "video.mp4", rate) as video:
        for at in range(5):
            video.write(picture(32, 32, at))
    times = [frame.time for frame in read_video(tmp_path / "video.mp4")]
    assert times == pytest.approx([at / rate for at in range(5)], abs=2e-3)


def test_a_browser_can_begin_before_the_end(tmp_path: Path) -> None:
    with VideoWriter(tmp_path / "video.mp4", 10.0) as video:
        for at in range(5):
            video.write(picture(64, 64, at))
    content = (tmp_path / "video.mp4").read_bytes()
    assert content.index(b"moov") < content.index(b"mdat")
    assert b"avc1" in content


def test_a_video_without_pictures_leaves_no_file(tmp_path: Path) -> None:
    with VideoWriter(tmp_path / "video.mp4", 10.0):
        pass
    assert not (tmp_path / "video.mp4").exists()


@pytest.mark.parametrize(("image", "message"), [
    (np.zeros((32, 32, 3), np.float32), "expected uint8 .* got float32"),
    (np.zeros((32, 32), np.uint8), r"expected uint8 \[H, W, 3\], got uint8 \[32, 32\]"),
    (np.zeros((32, 32, 4), np.uint8), "expected uint8"),
    (np.zeros((32, 34, 3), np.uint8), "picture 1 is 34x32, the first was 32x32"),
])
def test_unfit_pictures_are_refused_and_the_rest_is_kept(
        tmp_path: Path, image: npt.NDArray[np.generic], message: str) -> None:
    with VideoWriter(tmp_path / "video.mp4", 10.0) as video:
        video.write(picture(32, 32))
        with pytest.raises(VideoError, match=message):
            video.write(image)  # type: ignore[arg-type]
        video.write(picture(32, 32, 1.0))
    assert len(list(read_video(tmp_path / "video.mp4"))) == 2


def test_times_must_increase(tmp_path: Path) -> None:
    with VideoWriter(tmp_path / "video.mp4", 10.0) as video:
        video.write(picture(32, 32), 1.0)
        for time in (1.0, 0.5):
            with pytest.raises(VideoError, match="is not later than the one before"):
                video.write(picture(32, 32), time)


@pytest.mark.parametrize("rate", [0.0, -1.0, float("nan")])
def test_frame_rate_must_be_positive(tmp_path: Path, rate: float) -> None:
    with pytest.raises(VideoError, match="is not positive"):
        VideoWriter(tmp_path / "video.mp4", rate)


def _empty(path: Path) -> None:
    path.write_bytes(b"")


def _garbage(path: Path) -> None:
    path.write_bytes(np.random.default_rng(1).bytes(20_000))


def _absent(path: Path) -> None:
    assert not path.exists()


def _sound_only(path: Path) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=16_000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
        frame.sample_rate = 16_000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


@pytest.mark.parametrize(("make", "message"), [
    (_absent, "no such video file"),
    (_empty, "not a video that can be read"),
    (_garbage, "not a video that can be read"),
    (_sound_only, "holds no video stream"),
])
def test_no_video_is_said_so(
        tmp_path: Path, make: Callable[[Path], None], message: str) -> None:
    path = tmp_path / "video.mp4"
    make(path)
    for read in (video_info, lambda file: list(read_video(file))):
        with pytest.raises(VideoError, match=message) as raised:
            read(path)
        assert str(path) in str(raised.value)


@pytest.mark.parametrize("share", [0.6, 0.3])
def test_a_cut_video_gives_what_is_there_and_an_error(tmp_path: Path, share: float) -> None:
    path = tmp_path / "video.mp4"
    random = np.random.default_rng(2)
    with VideoWriter(path, 10.0) as video:
        for _ in range(20):
            video.write(random.integers(0, 255, (96, 128, 3), np.uint8))
    whole = list(read_video(path))
    assert len(whole) == 20
    content = path.read_bytes()
    path.write_bytes(content[:round(len(content) * share)])
    found = []
    reading = read_video(path)
    with pytest.raises(VideoError, match=r"damaged after \d+ frames"):
        found.extend(frame for frame in reading)
    # Extending by a generator that raises keeps what came before.
    assert 20 * share - 2 <= len(found) <= 20 * share
    for one, two in zip(found, whole, strict=False):
        assert one.time == two.time
        np.testing.assert_array_equal(one.image, two.image)


def test_a_video_cut_between_pictures(tmp_path: Path) -> None:
    path = tmp_path / "video.mp4"
    random = np.random.default_rng(2)
    with VideoWriter(path, 10.0) as video:
        for _ in range(10):
            video.write(random.integers(0, 255, (96, 128, 3), np.uint8))
    with av.open(str(path)) as container:
        positions = [packet.pos for packet in container.demux(video=0) if packet.size]
    path.write_bytes(path.read_bytes()[:positions[6]])
    with pytest.raises(VideoError, match="damaged after 6 frames"):
        list(read_video(path))


def test_memory_does_not_grow_with_the_length(tmp_path: Path) -> None:
    with VideoWriter(tmp_path / "video.mp4", 30.0) as video:
        for at in range(120):
            video.write(picture(180, 320, at))
    tracemalloc.start()
    count = sum(1 for _ in read_video(tmp_path / "video.mp4"))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert count == 120
    assert peak < 10 * 180 * 320 * 3, f"{peak / 1e6:.1f} MB"


def test_a_real_clip() -> None:
    clips = sorted(data_dir("inspatio_examples").rglob("*.mp4"))
    assert clips
    info = video_info(clips[0])
    count = sum(1 for _ in read_video(clips[0]))
    assert count == info.frames > 10
