#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""From a recording to imagined frames: time per stage, offline and in the node.

    python benchmarks/engine.py [--preset geometric] [--bag samples/office] [--part all]

Prints one JSON object. `offline`: one process without ROS decodes and fuses the recording at 5 Hz
and imagines along the path really taken; medians per stage and frames per second. `node`: plays
the recording through bag_player and the imagination node over DDS with the shipped transport
profile, and measures at a reader: imagined frames per second, image age (publication minus
arrival of the newest observation, of the first frame made from it), and how many callbacks an
unrelated 200 Hz topic of the same graph keeps.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
PROFILE = ROOT / "config" / "fastdds_large_images.xml"
MALLOC_BYTES = "268435456"
FUSE_INTERVAL_S = 0.2
# Recorded topics of the sample by the node's names.
REMAPS = {
    "camera/image_rect/compressed": "/camera/color/image_raw/compressed",
    "camera/camera_info": "/camera/color/camera_info",
    "depth/image_rect/compressedDepth":
        "/camera/aligned_depth_to_color/image_raw/compressedDepth",
    "depth/camera_info": "/camera/aligned_depth_to_color/camera_info",
    "odom": "/odom",
    "plan": "/plan",
}
PROBE_RATE_HZ = 200.0
IDLE_GAP_S = 0.5


def percentiles(seconds: list[float]) -> dict[str, float]:
    """Median and 95th percentile in milliseconds."""
    if not seconds:
        return {}
    return {"p50": round(float(np.median(seconds)) * 1e3, 2),
            "p95": round(float(np.percentile(seconds, 95)) * 1e3, 2)}


def offline(options: argparse.Namespace) -> dict[str, Any]:
    """Time every stage of the recording in this process."""
    from inspatio_ros.files.bag_observations import BagObservations
    from inspatio_ros.files.bags import BagReader
    from inspatio_ros.geometry.trajectory import CameraTrajectory
    from inspatio_ros.imagination.backends import BackendOptions, make_backend
    from inspatio_ros.imagination.engine import ImaginationEngine
    from inspatio_ros.imagination.request import ImaginationRequest
    from inspatio_ros.memory.world_memory import WorldMemory

    with BagReader(options.bag) as bag:
        decode: list[float] = []
        frames = []
        source = iter(BagObservations(bag))
        while True:
            start = time.perf_counter()
            observation = next(source, None)
            if observation is None:
                break
            decode.append(time.perf_counter() - start)
            frames.append(observation)
    engine = ImaginationEngine(make_backend(BackendOptions(options.preset)))
    camera = frames[0].camera.fitted(options.width, options.height)[0]
    start = time.perf_counter()
    engine.warm_up(camera)
    warm_up = time.perf_counter() - start
    memory = WorldMemory()
    # The first fusing and drawing compile kernels or load them from the cache.
    memory.integrate(frames[0])
    memory.render(camera, frames[0].world_from_camera, frames[:1])
    memory.clear()
    stages: dict[str, list[float]] = {"decode": decode, "fuse": []}
    imagined, spent, fused_ns = 0, 0.0, None
    ahead = 2 * engine.backend.block_frames if engine.backend.block_frames > 1 else 10
    for index in range(0, len(frames) - 1):
        now = frames[index]
        if fused_ns is None or now.stamp_ns - fused_ns >= 0.9e9 * FUSE_INTERVAL_S:
            start = time.perf_counter()
            memory.integrate(now)
            stages["fuse"].append(time.perf_counter() - start)
            fused_ns = now.stamp_ns
        if index % options.every or index < 5:
            continue
        later = frames[index:index + 12]
        times = np.array([o.stamp_ns - now.stamp_ns for o in later]) * 1e-9
        way = CameraTrajectory(np.stack([o.world_from_camera for o in later]), times)
        way = way.resampled(15.0, ahead)
        request = ImaginationRequest(camera, way, (now,))
        start = time.perf_counter()
        for block in engine.imagine(request, memory):
            for stage, seconds in block.stage_times.items():
                stages.setdefault(stage, []).append(seconds / len(block.frames))
            imagined += len(block.frames)
        spent += time.perf_counter() - start
    return {
        "frames": imagined, "frames_per_second": round(imagined / spent, 2),
        "ms_per_frame": {name: percentiles(values) for name, values in stages.items()},
        "warm_up_s": round(warm_up, 2), "cloud_points": memory.point_count,
        "memory_mib": round(memory.nbytes / 2**20, 1),
    }


def environment(domain: int) -> dict[str, str]:
    """The variables that the launch files set."""
    variables = dict(os.environ)
    variables.update(
        ROS_AUTOMATIC_DISCOVERY_RANGE="LOCALHOST", ROS_DOMAIN_ID=str(domain),
        FASTDDS_DEFAULT_PROFILES_FILE=str(PROFILE), FASTRTPS_DEFAULT_PROFILES_FILE=str(PROFILE),
        MALLOC_MMAP_THRESHOLD_=MALLOC_BYTES, MALLOC_TRIM_THRESHOLD_=MALLOC_BYTES)
    return variables


def node(options: argparse.Namespace) -> dict[str, Any]:
    """Measure the node from outside, in a process of its own that has the same transport."""
    command = [sys.executable, __file__, "--probe", "--bag", str(options.bag),
               "--preset", options.preset, "--width", str(options.width),
               "--height", str(options.height)]
    result = subprocess.run(command, env=environment(options.domain), capture_output=True,
                            text=True, timeout=600, check=False)
    if result.returncode != 0:
        return {"failed": result.stderr[-2000:]}
    answer: dict[str, Any] = json.loads(result.stdout.splitlines()[-1])
    return answer


def probe(options: argparse.Namespace) -> dict[str, Any]:
    """Start the nodes, listen until the recording ends, and report."""
    import rclpy
    from rclpy.executors import SingleThreadedExecutor
    from rclpy.qos import QoSProfile
    from std_msgs.msg import Header

    from inspatio_ros.msg import ImaginationStatus, ImaginedFrame

    rclpy.init()
    reader = rclpy.create_node("engine_benchmark")
    executor = SingleThreadedExecutor()
    executor.add_node(reader)
    frames: list[tuple[float, int, int]] = []  # arrival, publication stamp, source stamp
    states: list[tuple[float, int]] = []
    ticks: list[float] = []
    sent = [0]
    deep = QoSProfile(depth=100)

    def on_frame(message: ImaginedFrame) -> None:
        frames.append((time.monotonic(), _ns(message.header.stamp), _ns(message.source_stamp)))

    def on_status(message: ImaginationStatus) -> None:
        states.append((time.monotonic(), int(message.state)))

    def tick() -> None:
        sent[0] += 1
        publisher.publish(Header())

    publisher = reader.create_publisher(Header, "unrelated", deep)
    reader.create_subscription(Header, "unrelated", lambda _: ticks.append(time.monotonic()), deep)
    reader.create_subscription(ImaginedFrame, "/imagination/frame", on_frame, deep)
    reader.create_subscription(ImaginationStatus, "/imagination/status", on_status, deep)
    remaps = [word for name, topic in REMAPS.items() for word in ("-r", f"{name}:={topic}")]
    scripts = ROOT / "scripts"
    processes = [subprocess.Popen(command, stdout=sys.stderr) for command in (
        [sys.executable, str(scripts / "imagination"), "--ros-args", *remaps,
         "--params-file", str(ROOT / "config" / "overlays" / "sample_bag.yaml"),
         "-p", "use_sim_time:=true", "-p", f"model.preset:={options.preset}",
         "-p", f"output.width:={options.width}", "-p", f"output.height:={options.height}"],
        [sys.executable, str(scripts / "bag_player"), "--ros-args",
         "-p", f"bag:={options.bag}", "-p", "loop:=false",
         "-p", "wait_for:=['/camera/color/image_raw/compressed']", "-p", "wait_timeout:=120.0"],
    )]
    player = processes[1]
    began = None
    try:
        deadline = time.monotonic() + 300
        while player.poll() is None and time.monotonic() < deadline:
            executor.spin_once(timeout_sec=0.002)
            if began is None and len(frames) >= 10:  # the graph is up, the node imagines
                began = time.monotonic()
                ticks.clear()
                sent[0] = 0
                frames.clear()
                timer = reader.create_timer(1.0 / PROBE_RATE_HZ, tick)
        ended = time.monotonic()
    finally:
        for process in processes:
            if process.poll() is None:
                process.send_signal(signal.SIGINT)
        for process in processes:
            process.wait(30)
        executor.shutdown()
    if began is None:
        raise SystemExit("the node imagined nothing; see its log above")
    timer.cancel()
    rclpy.try_shutdown()
    seconds = ended - began
    # Where the recording gives the node nothing to imagine (before the first plan, behind the
    # last), the pause is no measure of its speed. It is long, and the node says so.
    arrivals = np.array([arrival for arrival, _, _ in frames])
    gaps = np.diff(arrivals)
    resting = [at for at, state in states if state != ImaginationStatus.IMAGINING]
    rested = np.histogram(resting, arrivals)[0] > 0
    busy = gaps[~((gaps > IDLE_GAP_S) & rested)]
    first: dict[int, float] = {}
    ages = []
    for _, published, source in frames:
        ages.append((published - source) * 1e-9)
        first.setdefault(source, (published - source) * 1e-9)
    return {
        "seconds": round(seconds, 1), "frames": len(frames),
        "frames_per_second": round(len(busy) / float(busy.sum()), 2),
        "ms_between_frames": percentiles(busy.tolist()),
        "idle_s": round(float(gaps.sum() - busy.sum()), 2),
        "first_frame_age_ms": percentiles(list(first.values())),
        "all_frames_age_ms": percentiles(ages),
        "unrelated_topic": {
            "sent": sent[0], "asked_hz": PROBE_RATE_HZ,
            "expected": round(seconds * PROBE_RATE_HZ),
            "received_of_expected": round(len(ticks) / (seconds * PROBE_RATE_HZ), 3)},
        "states_seen": sorted({state for _, state in states}),
    }


def _ns(stamp: Any) -> int:
    return int(stamp.sec) * 1_000_000_000 + int(stamp.nanosec)


def main() -> int:
    """Run the parts that were asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bag", type=Path, default=ROOT / "samples" / "office")
    parser.add_argument("--preset", default="geometric")
    parser.add_argument("--part", choices=("all", "offline", "node"), default="all")
    parser.add_argument("--width", type=int, default=416)
    parser.add_argument("--height", type=int, default=240)
    parser.add_argument("--every", type=int, default=10, help="frames from request to request")
    parser.add_argument("--domain", type=int, default=91)
    parser.add_argument("--probe", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.probe:
        print(json.dumps(probe(options)))
        return 0
    report: dict[str, Any] = {
        "benchmark": "engine", "preset": options.preset, "bag": options.bag.name,
        "picture": [options.width, options.height],
        "machine": {"processor": platform.processor() or platform.machine(),
                    "cores": os.cpu_count(), "load": os.getloadavg()[0]},
    }
    if options.part in ("all", "offline"):
        report["offline"] = offline(options)
    if options.part in ("all", "node"):
        report["node"] = node(options)
    print(json.dumps(report, indent=1))
    return 0 if "failed" not in report.get("node", {}) else 1


if __name__ == "__main__":
    sys.exit(main())
