# SPDX-License-Identifier: Apache-2.0
"""The folder of a run: all that is needed to repeat it, go on with it and use its result.

    options.json model.json command.txt environment.json   how it was made
    metrics.jsonl, tensorboard/, pictures/                  what was measured
    checkpoints/step_00000500/                              where it can go on
    model/config.json transformer.safetensors               the result (averaged weights)

A checkpoint holds, per network, `NAME.safetensors` (float32 weights), `NAME.average.safetensors`
and `NAME.optimiser.safetensors` (moments), and `state.json` with the step, the model's sizes and
each file's SHA-256. It is written under another name and renamed when it is whole, so that a
checkpoint with its final name is complete.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import platform
import shlex
import shutil
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

from inspatio_ros import __version__
from inspatio_ros.model.config import ModelConfig, ModelError
from inspatio_ros.model.weights import (
    CONFIG_FILE,
    TRANSFORMER_FILE,
    WeightsError,
    read_tensors,
)
from inspatio_ros.training.options import TrainingError, TrainingOptions

CHECKPOINTS, PARTIAL = "checkpoints", ".partial"
REPORTED = ("torch", "numpy", "safetensors", "opencv-python-headless", "av", "scipy")
Tensors = dict[str, Tensor]


@dataclass(frozen=True)
class Checkpoint:
    """One moment of a run: tensors by file (`model`, `model.average`, `model.optimiser`, ...)."""

    step: int
    files: Mapping[str, Tensors]


class RunFolder:
    """Reads and writes the files above; one process writes."""

    def __init__(self, path: Path) -> None:
        self.path = path

    # --- how it was made -----------------------------------------------------------------------

    def begin(self, options: TrainingOptions, config: ModelConfig) -> None:
        """Write what the run is, or compare with what it was.

        Raises TrainingError when the folder belongs to a run that would take another course.
        """
        known = self.path / "options.json"
        if known.is_file():
            before = TrainingOptions.from_json(known.read_text())
            changed = before.differences(options)
            if changed:
                told = ", ".join(
                    f"{n} {getattr(before, n)} -> {getattr(options, n)}" for n in changed)
                raise TrainingError(
                    f"{self.path} is a run with other options ({told}); give another --run")
            self.check_architecture(config)
        try:
            (self.path / CHECKPOINTS).mkdir(parents=True, exist_ok=True)
            known.write_text(options.to_json() + "\n")
            (self.path / "model.json").write_text(config.to_json() + "\n")
            with (self.path / "command.txt").open("a") as file:
                file.write(shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]) + "\n")
            text = json.dumps(environment(), indent=2)
            (self.path / "environment.json").write_text(text + "\n")
        except OSError as error:
            raise TrainingError(f"cannot write the run folder {self.path}: {error}") from error

    def check_architecture(self, config: ModelConfig) -> None:
        """TrainingError when the folder's model is another one."""
        path = self.path / "model.json"
        try:
            before = ModelConfig.from_json(path.read_text())
        except (OSError, ModelError) as error:
            raise TrainingError(f"{path}: no description of a model ({error})") from error
        compare_architectures(asdict(before), config, path)

    def log(self, figures: Mapping[str, Any]) -> None:
        """One line in metrics.jsonl."""
        try:
            with (self.path / "metrics.jsonl").open("a") as file:
                file.write(json.dumps(dict(figures)) + "\n")
        except OSError as error:
            raise TrainingError(f"cannot write {self.path / 'metrics.jsonl'}: {error}") from error

    def write_picture(self, step: int, picture: Tensor) -> None:
        """`pictures/step_N.png` of a picture uint8 RGB `[3, H, W]`."""
        folder = self.path / "pictures"
        try:
            folder.mkdir(exist_ok=True)
            Image.fromarray(picture.permute(1, 2, 0).numpy()).save(folder / f"step_{step:08d}.png")
        except OSError as error:
            raise TrainingError(f"cannot write into {folder}: {error}") from error

    def metrics(self) -> list[dict[str, Any]]:
        """All lines of metrics.jsonl."""
        path = self.path / "metrics.jsonl"
        lines = path.read_text().splitlines() if path.is_file() else []
        return [json.loads(line) for line in lines if line.strip()]

    # --- checkpoints ---------------------------------------------------------------------------

    def forget_after(self, step: int) -> None:
        """Drop what was measured after a step: the run goes on from there."""
        kept = [line for line in self.metrics() if line["step"] <= step]
        text = "".join(json.dumps(line) + "\n" for line in kept)
        (self.path / "metrics.jsonl").write_text(text)

    def checkpoints(self) -> list[Path]:
        """Complete checkpoints, oldest first."""
        found = (self.path / CHECKPOINTS).glob("step_*")
        return sorted(p for p in found if p.is_dir() and p.suffix != PARTIAL)

    def save(self, checkpoint: Checkpoint, config: ModelConfig, keep: int) -> Path:
        """Write a checkpoint, then delete all but the newest `keep`.

        Raises TrainingError when the disk is full or the folder cannot be written; checkpoints
        that were there stay.
        """
        final = self.path / CHECKPOINTS / f"step_{checkpoint.step:08d}"
        partial = final.with_name(final.name + PARTIAL)
        needed = sum(t.numel() * t.element_size() for f in checkpoint.files.values()
                     for t in f.values())
        try:
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
            self._check_space(needed)
            digests = {}
            for name, tensors in checkpoint.files.items():
                path = partial / f"{name}.safetensors"
                save_file({n: t.contiguous() for n, t in tensors.items()}, path)
                digests[path.name] = _digest(path)
            state = {"step": checkpoint.step, "model": asdict(config), "sha256": digests,
                     "version": __version__, "written": time.strftime("%Y-%m-%dT%H:%M:%S%z")}
            (partial / "state.json").write_text(json.dumps(state, indent=2) + "\n")
            shutil.rmtree(final, ignore_errors=True)
            partial.rename(final)
        except OSError as error:
            shutil.rmtree(partial, ignore_errors=True)
            last = self.checkpoints()
            kept = f"the last good one is {last[-1]}" if last else "there is none before it"
            raise TrainingError(
                f"cannot write checkpoint {final} of {needed / 2**20:.1f} MiB: {error}; {kept}"
            ) from error
        for old in self.checkpoints()[:-keep]:
            shutil.rmtree(old)
        return final

    def _check_space(self, needed: int) -> None:
        free = shutil.disk_usage(self.path).free
        if free < needed:
            raise OSError(28, f"no space left: {free / 2**20:.1f} MiB are free")

    def newest(self, config: ModelConfig) -> Checkpoint | None:
        """The newest checkpoint, or None.

        Raises TrainingError when a file of it is missing or damaged or it is of another model.
        """
        found = self.checkpoints()
        return read_checkpoint(found[-1], config) if found else None

    def write_model(self, config: ModelConfig, weights: Tensors) -> Path:
        """The result: a folder with the model's sizes and weights."""
        folder = self.path / "model"
        folder.mkdir(exist_ok=True)
        (folder / CONFIG_FILE).write_text(config.to_json() + "\n")
        save_file({n: t.contiguous() for n, t in weights.items()}, folder / TRANSFORMER_FILE)
        return folder


def read_checkpoint(path: Path, config: ModelConfig) -> Checkpoint:
    """A checkpoint, after comparing its sizes and digests.

    Raises TrainingError that names the damaged file, or how its model differs from `config`.
    """
    try:
        state = json.loads((path / "state.json").read_text())
        step, digests, model = int(state["step"]), dict(state["sha256"]), dict(state["model"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise TrainingError(f"{path / 'state.json'}: no state of a run ({error})") from error
    compare_architectures(model, config, path)
    files = {}
    for name, expected in digests.items():
        file = path / name
        try:
            if _digest(file) != expected:
                raise TrainingError(
                    f"{file}: damaged, its SHA-256 is not the one it was written with; delete "
                    f"{path} to go on from the checkpoint before")
            files[file.stem] = read_tensors(file)
        except (OSError, WeightsError) as error:
            raise TrainingError(
                f"{file}: cannot be read ({error}); delete {path} to go on from the checkpoint "
                "before") from error
    return Checkpoint(step, files)


def compare_architectures(found: Mapping[str, Any], config: ModelConfig, place: Path) -> None:
    """TrainingError that lists where `found`, a description of sizes, differs from the model."""
    plain = json.loads(config.to_json())
    before = json.loads(json.dumps(dict(found)))
    free = {"name", "height", "width", "denoising_steps", "timestep_shift"}
    changed = [f"{n} {before.get(n)} instead of {plain.get(n)}"
               for n in sorted(set(plain) | set(before))
               if n not in free and before.get(n) != plain.get(n)]
    if changed:
        raise TrainingError(f"{place}: a checkpoint of another architecture: {'; '.join(changed)}")


def environment() -> dict[str, Any]:
    """Machine and versions, and a digest of this package's sources."""
    versions = {}
    for name in REPORTED:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {
        "inspatio_ros": __version__, "sources_sha256": _sources_digest(),
        "python": platform.python_version(), "system": platform.platform(),
        "processor": platform.machine(), "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "gpu": gpu, "packages": versions, "processes": int(os.environ.get("WORLD_SIZE", "1")),
    }


def _sources_digest() -> str:
    """SHA-256 over the package's Python files: which code it was, with or without git."""
    root = Path(__file__).resolve().parent.parent
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        digest.update(str(path.relative_to(root)).encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
