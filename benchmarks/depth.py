# SPDX-License-Identifier: Apache-2.0
"""How good and how fast depth without a depth camera is, on recordings with depth; prints JSON.

For each recording: mean and median relative error (AbsRel) of the pixels called valid, the share
of pixels with true depth that are called valid, the share of those farther than 25 % off, and the
rate with the CPU time of both threads. Recordings are folders of frames (frames.csv, calib.json)
with depth, lidar or a right camera.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np

from inspatio_ros.depth.motion_stereo import MotionStereo, MotionStereoOptions
from inspatio_ros.files.sequences import Sequence, SequenceOptions


def measure(folder: Path, *, stride: int, limit: int, max_depth: float) -> dict[str, object]:
    """The figures of motion stereo on one recording, every `stride`-th frame."""
    sequence = Sequence(folder, SequenceOptions(max_depth=max_depth))
    motion = MotionStereo(MotionStereoOptions(max_depth=max_depth))
    errors, shares, seconds, busy, baselines, skipped = [], [], [], [], [], 0
    for index in range(0, len(sequence), stride)[:limit]:
        frame = sequence.frames[index]
        image = sequence.image(index)
        began, began_busy = time.perf_counter(), time.process_time()
        depth = motion.add(frame.stamp_ns, image, sequence.camera, frame.world_from_camera)
        if depth is None:
            skipped += 1
            continue
        seconds.append(time.perf_counter() - began)
        busy.append(time.process_time() - began_busy)
        baselines.append(motion.status.baselines[0])
        truth = sequence.depth(index)
        known = truth > 0
        valid = known & (depth > 0)
        shares.append(valid.sum() / max(1, known.sum()))
        errors.append(np.abs(depth[valid] / truth[valid] - 1))
    if not errors:
        return {"set": folder.name, "frames": 0, "without_depth": skipped}
    everything = np.concatenate(errors)
    return {
        "set": folder.name, "size": list(sequence.camera.size), "stride": stride,
        "frames": len(errors), "without_depth": skipped,
        "abs_rel": round(float(everything.mean()), 4),
        "abs_rel_median": round(float(np.median(everything)), 4),
        "over_25_percent": round(float((everything > 0.25).mean()), 4),
        "validity": round(float(np.mean(shares)), 4),
        "validity_10_90": [round(float(v), 3) for v in np.percentile(shares, [10, 90])],
        "baseline_m": round(float(np.median(baselines)), 3),
        "hz": round(1 / float(np.median(seconds[1:] or seconds)), 2),
        "cpu_ms": round(1e3 * float(np.median(busy[1:] or busy)), 1),
    }


def main() -> None:
    """Measure the recordings named on the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", nargs="+", type=Path)
    parser.add_argument("--stride", type=int, default=1, help="take every n-th frame")
    parser.add_argument("--limit", type=int, default=1_000_000, help="frames at most")
    parser.add_argument("--max-depth", type=float, default=80.0, help="m")
    options = parser.parse_args()
    for folder in options.folder:
        print(json.dumps(measure(folder, stride=options.stride, limit=options.limit,
                                 max_depth=options.max_depth)), flush=True)


if __name__ == "__main__":
    main()
