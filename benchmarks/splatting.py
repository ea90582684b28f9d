#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Drawing a point cloud into a picture: ours, numpy, Open3D and the reference's formula.

    python benchmarks/splatting.py [--sizes 832x480,1280x720] [--points 0.4,2,8] [--seconds 1.5]

Prints one JSON object. Every method gets the same points, colours and camera and is timed to the
same end: a colour picture and a depth picture, and for ours the label picture too. Methods take
turns, so that whatever else the machine does hits them alike; medians and minima are in ms.

- numba, torch: `inspatio_ros.memory.splatting`; points as [3, P], as the cloud holds them.
- numba_shuffled: the same points in random order, the worst case of a map.
- numpy: `np.minimum.at` on the same packed keys.
- open3d: `PointCloud.project_to_rgbd_image` of its tensor API (CPU), when it is installed.
- reference_formula: the warper of InSpatio-World (`memory.parity.softmax_warp`) on as many frames
  of the picture's size as make up the points; it draws depth pictures, not clouds.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from inspatio_ros.geometry.camera import PinholeCamera
from inspatio_ros.memory.parity import softmax_warp
from inspatio_ros.memory.splatting import (
    NumbaSplatter,
    TorchSplatter,
    pack_colors,
    projection_matrix,
)

ROUNDS, MIN_REPEATS, MAX_REPEATS = 4, 2, 100
MUST_REACH = {"points": 400_000, "size": "832x480", "numba_ms": 2.0,
              "times_reference_formula": 20.0, "times_open3d": 5.0}


def scene(count: int, width: int, height: int) -> dict[str, Any]:
    """About `count` points: depth pictures of a wavy surface in front of the camera."""
    rng = np.random.default_rng(0)
    camera = PinholeCamera(width, height, 0.8 * width, 0.8 * width, width / 2, height / 2)
    frames = max(1, round(count / (width * height)))
    # One frame of the wanted count when it is less than the picture, else whole frames.
    columns, rows = width, height
    if count < 0.75 * width * height:
        shrink = (count / (width * height)) ** 0.5
        columns, rows = round(width * shrink), round(height * shrink)
    source = camera.resized(columns, rows)
    v, u = np.mgrid[:rows, :columns]
    depths = np.stack([3 + 0.6 * np.sin(u / columns * 13 + t) + 0.5 * np.cos(v / rows * 9 - t)
                       for t in range(frames)]).astype(np.float32)
    colors = rng.integers(0, 256, (frames, rows, columns, 3), dtype=np.uint8)
    points = np.concatenate([source.unproject(d).reshape(-1, 3) for d in depths])
    pose = np.eye(4)
    angle = 0.05
    pose[:3, :3] = [[np.cos(angle), 0, np.sin(angle)], [0, 1, 0],
                    [-np.sin(angle), 0, np.cos(angle)]]
    pose[:3, 3] = 0.1, 0.02, -0.3
    return {"camera": camera, "source": source, "pose": pose, "depths": depths, "colors": colors,
            "xyz": np.ascontiguousarray(points.T, np.float32), "rgb": colors.reshape(-1, 3)}


def with_numpy(world: dict[str, Any]) -> Callable[[], Any]:
    """Packed keys and `np.minimum.at`, as one would write it without a compiler."""
    camera, xyz = world["camera"], world["xyz"]
    matrix = projection_matrix(camera, world["pose"])
    codes = pack_colors(world["rgb"]).astype(np.uint64)
    width, height = camera.size

    def draw() -> Any:
        projected = matrix[:, :3] @ xyz + matrix[:, 3:]
        z = projected[2]
        with np.errstate(divide="ignore", invalid="ignore"):
            u, v = projected[:2] / z + np.float32(0.5)
        inside = (z > 1e-3) & (u >= 0) & (v >= 0) & (u < width) & (v < height)
        place = v[inside].astype(np.int64) * width + u[inside].astype(np.int64)
        keys = (z[inside].view(np.uint32).astype(np.uint64) << np.uint64(32)) | codes[inside]
        buffer = np.full(width * height, np.uint64(2**64 - 1))
        np.minimum.at(buffer, place, keys)
        drawn = buffer != np.uint64(2**64 - 1)
        depth = np.where(drawn, (buffer >> np.uint64(32)).astype(np.uint32).view(np.float32),
                         np.float32(np.nan))
        code = np.where(drawn, buffer, 0).astype(np.uint32)
        return code.view(np.uint8).reshape(height, width, 4)[..., :3].copy(), depth

    return draw


def with_open3d(world: dict[str, Any]) -> Callable[[], Any]:
    """Open3D's tensor point cloud; building it is not timed."""
    import open3d as o3d

    camera = world["camera"]
    cloud = o3d.t.geometry.PointCloud(np.ascontiguousarray(world["xyz"].T))
    cloud.point.colors = o3d.core.Tensor(world["rgb"].astype(np.float32) / 255)
    matrix = o3d.core.Tensor(camera.matrix)
    pose = o3d.core.Tensor(world["pose"])

    def draw() -> Any:
        return cloud.project_to_rgbd_image(camera.width, camera.height, matrix, pose,
                                           depth_scale=1.0, depth_max=100.0)

    return draw


def with_reference_formula(world: dict[str, Any]) -> Callable[[], Any]:
    """The reference's bilinear softmax warp, in torch on the CPU."""
    import torch

    frames = len(world["depths"])
    rgb = torch.from_numpy(world["colors"]).permute(0, 3, 1, 2).float() / 127.5 - 1
    depth = torch.from_numpy(world["depths"])[:, None]
    matrix = torch.from_numpy(world["source"].matrix).float().expand(frames, 3, 3)
    pose = torch.from_numpy(world["pose"]).float().expand(frames, 4, 4)
    return lambda: softmax_warp(rgb.contiguous(), depth, matrix, pose)


def methods(world: dict[str, Any]) -> tuple[dict[str, Callable[[], Any]], list[dict[str, str]]]:
    """What to time, by name, and what is left out with the reason."""
    numba, torch = NumbaSplatter(), TorchSplatter()
    codes, xyz = pack_colors(world["rgb"]), world["xyz"]
    order = np.random.default_rng(1).permutation(xyz.shape[1])
    mixed_xyz, mixed_codes = np.ascontiguousarray(xyz[:, order]), codes[order]
    camera, pose = world["camera"], world["pose"]
    todo: dict[str, Callable[[], Any]] = {
        "numba": lambda: numba.render(xyz, codes, camera, pose),
        "numba_shuffled": lambda: numba.render(mixed_xyz, mixed_codes, camera, pose),
        "torch": lambda: torch.render(xyz, codes, camera, pose),
        "numpy": with_numpy(world),
        "reference_formula": with_reference_formula(world)}
    skipped = []
    if importlib.util.find_spec("open3d") is None:
        skipped.append({"method": "open3d", "reason": "the package open3d is not installed"})
    else:
        todo["open3d"] = with_open3d(world)
    return todo, skipped


def measure(todo: dict[str, Callable[[], Any]], seconds: float) -> dict[str, dict[str, float]]:
    """Median and minimum ms of each, in rounds that take about `seconds` for each in all.

    In a round each method runs several times in a row, after a run that is not counted: threads
    of the one before may still spin for a while after its last result.
    """
    spent: dict[str, list[float]] = {name: [] for name in todo}
    for _ in range(ROUNDS):
        for name, draw in todo.items():
            draw()
            round_start = time.perf_counter()
            for repeat in range(MAX_REPEATS):
                start = time.perf_counter()
                draw()
                done = time.perf_counter()
                spent[name].append(done - start)
                if done - round_start > seconds / ROUNDS and repeat + 1 >= MIN_REPEATS:
                    break
    return {name: {"median_ms": round(1e3 * statistics.median(times), 3),
                   "min_ms": round(1e3 * min(times), 3), "repeats": len(times)}
            for name, times in spent.items()}


def agreement(world: dict[str, Any]) -> dict[str, float]:
    """Share of pixels on which the methods agree, so that no one is fast by being wrong."""
    camera, pose, codes = world["camera"], world["pose"], pack_colors(world["rgb"])
    ours = NumbaSplatter().render(world["xyz"], codes, camera, pose)
    oracle = TorchSplatter().render(world["xyz"], codes, camera, pose)
    _, depth = with_numpy(world)()
    flat = ours.depth.reshape(-1)
    same = np.isclose(flat, depth, rtol=1e-4) | (np.isnan(flat) & np.isnan(depth))
    found = {"torch_image": float((ours.image == oracle.image).all(-1).mean()),
             "numpy_depth": float(same.mean()), "drawn": float((ours.label > 0).mean())}
    if importlib.util.find_spec("open3d") is not None:
        theirs = np.asarray(with_open3d(world)().depth.as_tensor().numpy()).reshape(-1)
        same = np.isclose(np.nan_to_num(flat), theirs, rtol=1e-3)
        found["open3d_depth"] = float(same.mean())
    return {name: round(value, 5) for name, value in found.items()}


def main() -> None:
    """Time every method at every size and print the JSON."""
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", default="832x480,1280x720")
    parser.add_argument("--points", default="0.4,2,8", help="millions of points")
    parser.add_argument("--seconds", type=float, default=1.5, help="for each method and case")
    options = parser.parse_args()
    import numba
    import torch

    load_before = os.getloadavg()[0]
    runs = []
    skipped: list[dict[str, str]] = []
    for size in options.sizes.split(","):
        width, height = map(int, size.split("x"))
        for millions in map(float, options.points.split(",")):
            world = scene(round(millions * 1e6), width, height)
            todo, skipped = methods(world)
            results = measure(todo, options.seconds)
            ours = results["numba"]["median_ms"]
            runs.append({
                "size": size, "points": int(world["xyz"].shape[1]),
                "million_points_per_s": round(world["xyz"].shape[1] / ours / 1e3, 1),
                "methods": results, "agreement": agreement(world),
                "numba_is_faster_by": {name: round(other["median_ms"] / ours, 1)
                                       for name, other in results.items() if name != "numba"}})
    print(json.dumps({
        "benchmark": "splatting", "must_reach": MUST_REACH,
        "device": {
            "machine": platform.machine(), "cores": os.cpu_count(),
            "load_before": round(load_before, 2), "numba_threads": NumbaSplatter().threads,
            "torch_threads": torch.get_num_threads(),
            "threading_layer": numba.threading_layer(), "python": platform.python_version(),
            "numba": numba.__version__, "torch": torch.__version__},
        "runs": runs, "skipped": skipped}, indent=2))


if __name__ == "__main__":
    main()
