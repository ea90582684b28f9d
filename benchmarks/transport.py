#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Latency and loss of one image hop: default Fast DDS against the shipped profile.

    python benchmarks/transport.py [--seconds 10] [--rate 30] [--width 832] [--height 480]

Prints one JSON object. Each run starts a talker and a listener process; the talker sends rgb8
images at the rate with a reliable publisher (what our nodes use), the listener reads them as
RELIABLE or as BEST_EFFORT. Latency is from the moment before the pixels are copied into the
message to the reader's callback, on the machine's monotonic clock. Every image sent counts for
loss; the images of the first half second do not count for latency (first use of fresh memory).
"""

from __future__ import annotations

import argparse
import array
import json
import math
import os
import platform
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

PROFILE = Path(__file__).resolve().parents[1] / "config" / "fastdds_large_images.xml"
PROFILE_VARIABLES = ("FASTDDS_DEFAULT_PROFILES_FILE", "FASTRTPS_DEFAULT_PROFILES_FILE")
MALLOC_VARIABLES = ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_")
MALLOC_BYTES = 268435456
TRANSPORTS = ("default", "profile")
READERS = ("RELIABLE", "BEST_EFFORT")
DISCOVERY_TIMEOUT_S = 20.0
WARM_UP_S = 0.5


def environment(transport: str, domain: int) -> dict[str, str]:
    """Return the environment of a talker or listener under 'default' or 'profile' transport."""
    unset = (*PROFILE_VARIABLES, *MALLOC_VARIABLES, "FASTDDS_BUILTIN_TRANSPORTS")
    variables = {name: value for name, value in os.environ.items() if name not in unset}
    variables["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
    variables["ROS_DOMAIN_ID"] = str(domain)
    if transport == "profile":
        variables.update({name: str(PROFILE) for name in PROFILE_VARIABLES})
        variables.update({name: str(MALLOC_BYTES) for name in MALLOC_VARIABLES})
    return variables


def talk(options: argparse.Namespace) -> dict[str, Any]:
    """Send the images once the listener has said that it is ready; return what was sent."""
    import rclpy
    from rclpy.duration import Duration
    from rclpy.executors import SingleThreadedExecutor
    from rclpy.qos import DurabilityPolicy, QoSProfile
    from sensor_msgs.msg import Image
    from std_msgs.msg import Empty

    rclpy.init()
    node = rclpy.create_node("transport_talker")
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    publisher = node.create_publisher(Image, "transport/image", QoSProfile(depth=2))
    ready: list[Empty] = []
    latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
    node.create_subscription(Empty, "transport/ready", ready.append, latched)
    deadline = time.monotonic() + DISCOVERY_TIMEOUT_S
    while not ready or publisher.get_subscription_count() == 0:
        executor.spin_once(timeout_sec=0.05)
        if time.monotonic() > deadline:
            raise SystemExit(f"no listener answered within {DISCOVERY_TIMEOUT_S:.0f} s")

    pixels = np.random.default_rng(0).integers(
        0, 256, (options.height, options.width, 3), dtype=np.uint8)
    message = Image(height=options.height, width=options.width, encoding="rgb8",
                    step=3 * options.width)
    message.data = array.array("B", pixels.tobytes())
    view = np.frombuffer(message.data, np.uint8)
    count = round(options.seconds * options.rate)
    failed = 0
    begin = time.monotonic()
    for index in range(count):
        time.sleep(max(0.0, begin + index / options.rate - time.monotonic()))
        sent = time.monotonic_ns()
        message.header.frame_id = str(index)
        message.header.stamp.sec, message.header.stamp.nanosec = divmod(sent, 10**9)
        view[:] = pixels.ravel()
        try:
            publisher.publish(message)
        except RuntimeError:  # rclpy raises its RCLError when the transport is overfull
            failed += 1
    elapsed = time.monotonic() - begin
    publisher.wait_for_all_acked(Duration(seconds=2.0))
    time.sleep(0.3)  # a best-effort reader acknowledges nothing: let the last image arrive
    executor.shutdown()
    node.destroy_node()
    rclpy.try_shutdown()
    return {"sent": count, "publish_failed": failed, "rate_hz": round((count - 1) / elapsed, 2)}


def listen(options: argparse.Namespace) -> dict[str, Any]:
    """Receive until SIGINT; return the number received and the latency of each in ms, in order."""
    import rclpy
    from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
    from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
    from sensor_msgs.msg import Image
    from std_msgs.msg import Empty

    rclpy.init()
    node = rclpy.create_node("transport_listener")
    received: dict[int, float] = {}

    def on_image(message: Image) -> None:
        now = time.monotonic_ns()
        stamp = message.header.stamp
        received[int(message.header.frame_id)] = (now - stamp.sec * 10**9 - stamp.nanosec) * 1e-6

    # Deep enough that only the transport loses images, not a reader that is late once.
    profile = QoSProfile(depth=30, reliability=ReliabilityPolicy[options.reader])
    node.create_subscription(Image, "transport/image", on_image, profile)
    latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
    announcer = node.create_publisher(Empty, "transport/ready", latched)
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    announced = False
    try:
        while rclpy.ok():
            executor.spin_once(timeout_sec=0.1)
            if not announced and node.count_publishers("transport/image"):
                announcer.publish(Empty())
                announced = True
    except (KeyboardInterrupt, ExternalShutdownException):
        pass  # the parent ends the run with SIGINT
    executor.shutdown()
    node.destroy_node()
    rclpy.try_shutdown()
    order = sorted(received)
    return {"received": len(order), "index": order,
            "latency_ms": [received[index] for index in order]}


def percentile(values: list[float], share: float) -> float | None:
    """Return the nearest-rank percentile of the values in ms, None when there are none."""
    if not values:
        return None
    ordered = sorted(values)
    return round(ordered[max(0, math.ceil(share * len(ordered)) - 1)], 3)


def measure(transport: str, reader: str, options: argparse.Namespace) -> dict[str, Any]:
    """Run one talker and one listener process; return counts and latency percentiles."""
    command = [sys.executable, str(Path(__file__).resolve()), "--seconds", str(options.seconds),
               "--rate", str(options.rate), "--width", str(options.width),
               "--height", str(options.height), "--reader", reader]
    variables = environment(transport, options.domain)
    listener = subprocess.Popen([*command, "--role", "listener"], env=variables,
                                stdout=subprocess.PIPE, text=True)
    try:
        talker = subprocess.run([*command, "--role", "talker"], env=variables, text=True,
                                stdout=subprocess.PIPE, check=True,
                                timeout=DISCOVERY_TIMEOUT_S + options.seconds + 30)
        listener.send_signal(signal.SIGINT)
        heard = json.loads(listener.communicate(timeout=30)[0])
    finally:
        if listener.poll() is None:
            listener.kill()
            listener.wait()
    sent = json.loads(talker.stdout)
    first = math.ceil(WARM_UP_S * options.rate)
    latency = [value for index, value in zip(heard["index"], heard["latency_ms"], strict=True)
               if index >= first]
    return {"transport": transport, "reader": reader, **sent, "received": heard["received"],
            "lost": sent["sent"] - heard["received"],
            "latency_ms": {"p50": percentile(latency, 0.50), "p99": percentile(latency, 0.99),
                           "max": percentile(latency, 1.0)}}


def main() -> None:
    """Measure each transport with each kind of reader and print the JSON."""
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--rate", type=float, default=30.0, help="images per second")
    parser.add_argument("--width", type=int, default=832)
    parser.add_argument("--height", type=int, default=480)
    parser.add_argument("--domain", type=int, default=90, help="ROS_DOMAIN_ID of the run")
    parser.add_argument("--reader", choices=READERS, help="only this reader (default: both)")
    parser.add_argument("--transport", choices=TRANSPORTS, help="only this one (default: both)")
    parser.add_argument("--role", choices=("talker", "listener"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.role:
        print(json.dumps((talk if options.role == "talker" else listen)(options)))
        return
    transports = (options.transport,) if options.transport else TRANSPORTS
    readers = (options.reader,) if options.reader else READERS
    load_before = os.getloadavg()[0]
    runs = [measure(transport, reader, options) for reader in readers for transport in transports]
    print(json.dumps({
        "benchmark": "transport",
        "image": f"{options.width}x{options.height} rgb8", "rate_hz": options.rate,
        "seconds": options.seconds,
        "device": {"machine": platform.machine(), "cores": os.cpu_count(),
                   "load_before": round(load_before, 2), "python": platform.python_version(),
                   "ros_distro": os.environ.get("ROS_DISTRO", "unknown")},
        "runs": runs}, indent=2))


if __name__ == "__main__":
    main()
