# SPDX-License-Identifier: Apache-2.0
"""Whether a run can end well on this machine: allow, degrade or deny, said before it begins."""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from inspatio_ros.geometry.camera import PinholeCamera
from inspatio_ros.imagination.backends import (
    PUBLIC,
    TINY,
    TINY_FOLDER,
    TINY_RANDOM,
    BackendOptions,
    choose_backend,
)
from inspatio_ros.imagination.engine import Backend
from inspatio_ros.model.checkpoints import Machine, inspect_folder
from inspatio_ros.model.cost import parameter_count
from inspatio_ros.model.presets import preset
from inspatio_ros.share import share_folder

Decision = Literal["allow", "degrade", "deny"]

GIB = 2**30
# Peak of a run with the geometric filler, measured at 208 and 832 pixels of width: 0.44 GB and
# 660 bytes for each pixel of the result; rounded up. Weights come on top.
_PROGRAM_BYTES = 500_000_000
_BYTES_PER_PIXEL = 800
# On disk, per pixel and frame: at most depth as float bytes and a picture; five videos.
_STORED_BYTES = 4.6
_VIDEO_BYTES = 0.6
_USABLE = 0.9
# A small model's caches and activations, measured (112 MB with its weights, 208 pixels of width).
_SMALL_BUFFERS = 120_000_000
# Weights are stored in two bytes a value and computed with in four.
_LOADED_FACTOR = 2.0
_WEIGHT_SUFFIXES = frozenset({".safetensors", ".tflite", ".bin", ".pth"})


@dataclass(frozen=True)
class Preflight:
    """decision and why; memory and disk in bytes with what is free; seconds, None unknown."""

    decision: Decision
    reasons: tuple[str, ...]
    backend: str
    frames: int
    size: tuple[int, int]
    memory: float
    memory_free: float
    disk: float
    disk_free: float
    seconds: float | None = None

    def line(self) -> str:
        """One line for the user."""
        time_needed = "" if self.seconds is None else f", about {duration(self.seconds)}"
        why = f": {'; '.join(self.reasons)}" if self.reasons else ""
        return (f"preflight: {self.decision}{why} [{self.backend}, {self.frames} frames of "
                f"{self.size[0]}x{self.size[1]}{time_needed}, memory {self.memory / GIB:.1f} of "
                f"{self.memory_free / GIB:.1f} GiB free, disk {self.disk / GIB:.2f} of "
                f"{self.disk_free / GIB:.1f} GiB free]")


def duration(seconds: float) -> str:
    """Seconds in words: 45 s, 12 min, 3.4 h."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def check(
    backend: BackendOptions, output: Path, frames: int, stored_frames: int,
    size: tuple[int, int], notes: Sequence[str], seconds_a_frame: float | None,
    machine: Machine | None = None, models: Sequence[Path] = (),
) -> Preflight:
    """The verdict for making `frames` of `size`, with `stored_frames` of geometry still to store.

    notes: what is already given up (each degrades). models: folders or files of the weights of
    other steps, of which one at a time is in memory.
    """
    here = machine or Machine.here()
    name, reason = choose_backend(backend)
    reasons, decision = list(notes), "degrade" if notes else "allow"
    pixels = size[0] * size[1]
    weights = max([_small_model_bytes(backend, name), *map(_loaded_bytes, models)])
    memory = _PROGRAM_BYTES + _BYTES_PER_PIXEL * pixels + weights
    disk = pixels * (stored_frames * _STORED_BYTES + frames * _VIDEO_BYTES)
    disk_free = shutil.disk_usage(_existing(output)).free
    if name == PUBLIC:
        cpu = here.device == "cpu"
        if cpu and backend.device != "cpu":
            decision = "deny"
            reasons.append(f"preset {PUBLIC} needs a CUDA device and there is none; take --preset "
                           "tiny or geometric, or --device cpu (hours a clip)")
        elif backend.weights:
            verdict = inspect_folder(Path(backend.weights), here, digest=False).verdict
            if verdict.decision == "deny" and not backend.parts:
                decision = "deny"
            elif verdict.decision == "degrade" and decision == "allow":
                decision = "degrade"
            if verdict.decision != "allow":
                reasons += [verdict.reason, *(f"without {cut}" for cut in verdict.given_up)]
            memory += verdict.needed if cpu else 0
    if backend.name != name:
        reasons.append(reason)
        decision = "degrade" if decision == "allow" and name != PUBLIC else decision
    if memory > here.host_free * _USABLE:
        decision = "deny"
        reasons.append("too little memory is free")
    if disk > disk_free:
        decision = "deny"
        reasons.append(f"too little room in {_existing(output)}")
    seconds = None if seconds_a_frame is None else frames * seconds_a_frame
    return Preflight(decision, tuple(reasons), name, frames, size, memory, here.host_free,  # type: ignore[arg-type]
                     disk, disk_free, seconds)


def _small_model_bytes(backend: BackendOptions, name: str) -> float:
    """What a small model takes in memory; 0 for the filler and the public model."""
    if name == TINY_RANDOM:
        return 4 * parameter_count(preset(TINY_RANDOM)) + _SMALL_BUFFERS
    if name != TINY:
        return 0.0
    try:
        folder = Path(backend.weights) if backend.weights else share_folder(
            "weights") / TINY_FOLDER
    except FileNotFoundError:
        return _SMALL_BUFFERS
    return _loaded_bytes(folder) + _SMALL_BUFFERS


def _loaded_bytes(place: Path) -> float:
    """Bytes in memory of the weights in a folder or file; 0 when it is not there."""
    files = [place] if place.is_file() else place.glob("*") if place.is_dir() else []
    stored = [file.stat().st_size for file in files if file.suffix in _WEIGHT_SUFFIXES]
    return _LOADED_FACTOR * sum(stored)


def seconds_a_frame(backend: Backend, camera: PinholeCamera) -> float:
    """Seconds that a frame takes: two blocks, measured once everything is compiled."""
    backend.warm_up(camera)
    start = time.perf_counter()
    backend.warm_up(camera)
    return (time.perf_counter() - start) / (backend.first_block_frames + backend.block_frames)


def _existing(folder: Path) -> Path:
    place = folder.resolve()
    while not place.exists():
        place = place.parent
    return place
