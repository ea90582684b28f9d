# SPDX-License-Identifier: Apache-2.0
"""Whether a long video runs in the memory of a short one; prints JSON.

Makes two videos of the same size and runs `inspatio run` on each in a process of its own, with the
geometric preset. `peak_mb` is the process's largest resident set, `ratio` the long one's over the
short one's.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np

from inspatio_ros.files.videos import VideoWriter

# Two layers of texture that go past at different speeds, so that there is motion to measure.
_NEAR, _FAR = 3.0, 1.0
_LAYER = 4096


def make_video(path: Path, seconds: float, rate: float, size: tuple[int, int]) -> int:
    """A camera going sideways before two layers of blobs; the number of frames."""
    width, height = size
    rng = np.random.default_rng(0)
    layers = [cv2.GaussianBlur(rng.integers(0, 255, (height, _LAYER, 3)).astype(np.uint8), (0, 0),
                               sigma) for sigma in (1.5, 1.0)]
    layers = [cv2.normalize(layer, None, 0, 255, cv2.NORM_MINMAX)  # type: ignore[call-overload]
              for layer in layers]
    frames = round(seconds * rate)
    with VideoWriter(path, rate) as video:
        for index in range(frames):
            far, near = (np.roll(layer, -round(speed * index), axis=1)[:, :width].copy()
                         for layer, speed in zip(layers, (_FAR, _NEAR), strict=True))
            far[height // 2:] = near[height // 2:]
            video.write(far)
    return frames


def measure(video: Path, work: Path, arguments: list[str]) -> dict[str, float | int]:
    """Peak memory and time of one run."""
    began = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "inspatio_ros.cli.main", "run", str(video), "--out", str(work),
         "--preset", "geometric", "--disable_adaptive_frame", *arguments],
        stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status != 0:
        raise RuntimeError(f"inspatio run {video} ended with {os.waitstatus_to_exitcode(status)}")
    rows = len((work / video.stem / "frames.csv").read_text().splitlines()) - 1
    return {"frames": rows, "peak_mb": round(usage.ru_maxrss / 1024, 1),
            "seconds": round(time.perf_counter() - began, 1)}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--short", type=float, default=10.0, help="s")
    parser.add_argument("--long", type=float, default=600.0, help="s")
    parser.add_argument("--rate", type=float, default=24.0, help="Hz of the videos")
    parser.add_argument("--size", type=int, nargs=2, default=(160, 96), metavar="PX")
    parser.add_argument("--depth", default="plane", choices=("plane", "motion"))
    parser.add_argument("--trajectory", default="x_y_circle_cycle")
    options = parser.parse_args()
    arguments = ["--trajectory", options.trajectory, "--depth", options.depth]
    with tempfile.TemporaryDirectory() as place:
        result: dict[str, object] = {
            "size": list(options.size), "rate_hz": options.rate, "depth": options.depth,
            "load_before": round(os.getloadavg()[0], 1)}
        peaks = []
        for name, seconds in (("short", options.short), ("long", options.long)):
            video = Path(place) / f"{name}.mp4"
            make_video(video, seconds, options.rate, tuple(options.size))
            run = measure(video, Path(place) / f"{name}_out", arguments)
            result[name] = {"video_s": seconds, **run}
            peaks.append(float(run["peak_mb"]))
        result["ratio"] = round(peaks[1] / peaks[0], 3)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
