# SPDX-License-Identifier: Apache-2.0
"""What the imagination node says of itself: its status message and its parts' diagnostics."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import asdict
from typing import TYPE_CHECKING

from inspatio_ros.msg import ImaginationStatus
from inspatio_ros.ros.diagnostics import ERROR, OK, WARN, Report

if TYPE_CHECKING:
    from inspatio_ros.ros.imagination_node import ImaginationNode

# Counted with the drops of observations, but something else.
_NOT_OBSERVATIONS = ("plan_refused", "plan_superseded", "publish_failed", "out_of_memory",
                     "engine_error", "worker_error", "odometry_refused", "calibration_refused",
                     "detections_refused")


def status_message(node: ImaginationNode) -> ImaginationStatus:
    """The status now."""
    message = ImaginationStatus(
        state=node.node_state.state, detail=node.node_state.detail, source_age=float("nan"),
        observations_dropped=observations_dropped(node), device_memory=device_memory())
    message.header.stamp = node.get_clock().now().to_msg()
    message.header.frame_id = node.values.transforms.world_frame
    if node.engine is not None:
        message.model_name = node.engine.backend.name
        message.checkpoint_digest = getattr(node.engine.backend, "digest", "")
    if node.live is not None and node.output is not None:
        progress = node.live.progress
        stages = node.live.stages.summary()
        message.frame_rate = node.output.rate.hz
        message.block_latency = stages.get("block", {}).get("median", 0.0)
        message.source_age = progress.source_age
        message.cloud_points = progress.cloud_points
        message.frames_published = node.output.frames_published
        message.plans_superseded = progress.plans_superseded
    return message


def observations_dropped(node: ImaginationNode) -> int:
    """Images and sets of them that were dropped since activation, for all reasons together."""
    unmatched = sum(node.camera.matcher.dropped.values()) if node.camera is not None else 0
    return node.drops.total_but(*_NOT_OBSERVATIONS) + unmatched


def device_memory() -> int:
    """Bytes held on the CUDA device; 0 where torch is not in use or has none."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available():
        return 0
    return int(torch.cuda.memory_allocated())


def report_input(node: ImaginationNode) -> Report:
    """Streams, matching, and everything that was dropped."""
    camera = node.camera
    if camera is None:
        return OK, "not active", node.drops.as_dict()
    missing = camera.missing(node.values.input.timeout)
    sentences = [*node.problems.current().values(), *([missing] if missing else [])]
    return WARN if sentences else OK, "; ".join(sentences) or "all inputs", {
        "sets_per_second": camera.rate.hz, "pairs": camera.matcher.pairs,
        "waiting_for_pose": camera.pending,
        **{f"unmatched_{k}": v for k, v in camera.matcher.dropped.items()},
        **{f"dropped_{k}": v for k, v in node.drops.as_dict().items()},
        "dropped_tf_invalid": node.tree.dropped}


def report_geometry(node: ImaginationNode) -> Report:
    """The memory."""
    if node.live is None:
        return OK, "not active", {}
    progress = node.live.progress
    sentence = "" if progress.cloud_points else "nothing in memory yet"
    stereo = node.memory.stereo
    bank = {} if stereo is None else {
        "bank_views": len(stereo.bank),
        **{f"bank_{k}": v for k, v in stereo.bank.dropped.items()}}
    return WARN if sentence else OK, sentence, {
        "points": progress.cloud_points, "bytes": progress.memory_bytes, **bank,
        **{f"forgotten_{k}": v for k, v in node.memory.dropped.items()}}


def report_engine(node: ImaginationNode) -> Report:
    """The backend, and how long each stage takes."""
    if node.live is None or node.engine is None:
        return (ERROR, node.fault, {}) if node.fault else (OK, "not active", {})
    stages = {f"{name}_{key}_ms": 1e3 * value
              for name, times in node.live.stages.summary().items()
              for key, value in times.items() if key != "count"}
    degraded = node.node_state.state == ImaginationStatus.DEGRADED
    progress, drift = node.live.progress, {}
    if progress.drift is not None:
        drift = {f"drift_{name}": value for name, value in asdict(progress.drift).items()}
    sentence = node.node_state.name
    if progress.drifting:
        sentence += ("; imagined pictures drift away from what is seen in colour, contrast or "
                     "sharpness (imagination.reanchor)")
    return WARN if degraded or progress.drifting else OK, sentence, {
        "backend": node.engine.backend.name, **drift, **stages}


def report_output(node: ImaginationNode) -> Report:
    """What goes out, and how old its source is."""
    if node.live is None or node.output is None:
        return OK, "not active", {}
    age, limit = node.live.progress.source_age, node.values.diagnostics.max_source_age
    old = node.live.progress.imagining and age > limit
    sentence = f"imagined from an image {age:.2f} s old, more than {limit} s" if old else ""
    return WARN if old else OK, sentence, {
        "frames_per_second": node.output.rate.hz, "source_age_s": age,
        "frames_published": node.output.frames_published,
        "publish_failed": node.drops["publish_failed"]}


PARTS: dict[str, Callable[[ImaginationNode], Report]] = {
    "input": report_input, "geometry": report_geometry, "engine": report_engine,
    "output": report_output}
