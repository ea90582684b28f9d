# SPDX-License-Identifier: Apache-2.0
"""Fine-tunes a model on one domain with others replayed: one run of a study of the ratio."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from inspatio_ros.model.config import ModelConfig
from inspatio_ros.model.weights import (
    CODEC_FILE,
    CONFIG_FILE,
    FINISHER_FILE,
    load_small_codec,
    read_config,
)
from inspatio_ros.training.batches import Task
from inspatio_ros.training.distributed import Process
from inspatio_ros.training.latents import LatentData, read_latents
from inspatio_ros.training.options import TrainingError, TrainingOptions
from inspatio_ros.training.replay import ReplaySource
from inspatio_ros.training.stages import make_stage
from inspatio_ros.training.trainer import Trainer

MIX_FILE = "mix.json"


@dataclass(frozen=True)
class Mix:
    """What a fine-tuning is made of. data: file of latents. start: folder of the small model that
    it begins with, whose codec made the latents. domain: fine-tuned on; replay: mixed in, the
    share `ratio` of the clips; batch_size: clips of a batch."""

    data: Path
    start: Path
    domain: str
    replay: tuple[str, ...]
    ratio: float
    batch_size: int

    def to_json(self) -> str:
        """As it lies in the run's folder."""
        return json.dumps({
            "data": str(self.data), "start": str(self.start), "domain": self.domain,
            "replay": list(self.replay), "ratio": self.ratio, "batch_size": self.batch_size},
            indent=2)


def open_mix(mix: Mix, config: ModelConfig, seed: int) -> ReplaySource:
    """The batches of a mix. The streams of the domains are the same at every ratio.

    Raises ValueError for a domain that the data lacks, ClipError for unreadable data.
    """
    clips = read_latents(mix.data, config)
    there = sorted({clip.info.domain for clip in clips})

    def source(name: str) -> LatentData:
        if name not in there:
            raise ValueError(f"{mix.data}: no domain '{name}'; there are {', '.join(there)}")
        return LatentData([c for c in clips if c.info.domain == name], mix.batch_size, seed)

    replayed = {name: source(name) for name in mix.replay}
    return ReplaySource(mix.domain, source(mix.domain), replayed, mix.ratio)


def finetune(run: Path, mix: Mix, options: TrainingOptions, process: Process, *,
             teachers: Mapping[Task, Path] | None = None) -> Path:
    """Train to the last step, or go on from where the run stopped; the folder of the result.

    That folder holds config, transformer and codec: a small model that `--weights` takes.
    teachers: of stage jdmd, by task. Raises TrainingError when `run` is the folder of another mix
    or the stage makes no such model, and what the trainer raises.
    """
    if options.stage == "teacher":
        raise TrainingError("stage teacher makes no model that imagines block by block; fine-tune "
                            "with causal, jdmd or article")
    _begin(run, mix, process)
    config = read_config(mix.start / CONFIG_FILE)
    source = open_mix(mix, config, options.seed)
    codec = load_small_codec(mix.start / CODEC_FILE) if options.stage == "article" else None
    objective = make_stage(config, options, process, start=mix.start, teachers=teachers,
                           codec=codec)
    Trainer(run, objective, source, options, process).train()
    model = run / "model"
    if process.first:
        shutil.copyfile(mix.start / CODEC_FILE, model / CODEC_FILE)
        if config.finished:
            shutil.copyfile(mix.start / FINISHER_FILE, model / FINISHER_FILE)
    process.wait()
    return model


def _begin(run: Path, mix: Mix, process: Process) -> None:
    path = run / MIX_FILE
    if not process.first:
        return
    if path.is_file() and path.read_text().strip() != mix.to_json():
        raise TrainingError(f"{run} is a run of another mix (see {path}); give another --run")
    if not (mix.start / CODEC_FILE).is_file():
        raise TrainingError(f"{mix.start}: no {CODEC_FILE}; --start takes the folder of a whole "
                            "small model: config, transformer and codec")
    run.mkdir(parents=True, exist_ok=True)
    path.write_text(mix.to_json() + "\n")


def check_ratios(ratios: Sequence[float]) -> tuple[float, ...]:
    """The ratios of a study, ascending; ValueError when one is out of range or given twice."""
    if not ratios or any(not 0 <= ratio < 1 for ratio in ratios):
        raise ValueError(f"replay ratios must lie in [0, 1), got {list(ratios)}")
    if len(set(ratios)) != len(ratios):
        raise ValueError(f"a replay ratio is given twice: {list(ratios)}")
    return tuple(sorted(ratios))
