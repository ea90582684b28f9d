#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Goes on with the small model on one GPU for some minutes, clips being made meanwhile.

    python tools/train_tiny_gpu.py WORK --clips DIR [--photographs DIR] [--minutes 7] [--workers N]

What tools/train_tiny.py makes from nothing (by default the model that ships) is trained further:
workers render new clips of the worlds and among photographs into WORK/spool, without end; the
transformer learns from all there are so far (stage causal, then a teacher and `jdmd` from it) and
draws them all anew; beside it, in a process of its own, the finisher learns from clips and
drawings, to the end. Nothing is repeated, so nothing can be learnt by heart, and a run does not
repeat bit for bit: what has been rendered when depends on the machine. DIR: shards of `inspatio
data pack` to begin with, the office among them. At the end WORK/inspatio_tiny is a folder that
`--weights` takes.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from train_tiny import PHOTOGRAPH_LICENCES, STEPS, assemble

from inspatio_ros.training.clips import Clip, ClipInfo, read_clips

DOMAINS = ("clutter", "room", "street", "photographs", "clutter", "room", "street", "pictures")
FIRST_SEED = 10_000  # clips with smaller seeds belong to tools/train_tiny.py
PARTS = ("truth", "render", "known", "source", "hinted")  # of a clip, in its own order
# Shares of the minutes at which the transformer's stages end; the finisher has them all.
CAUSAL, TEACHER, DISTILLED = 0.5, 0.57, 0.64
LOOK_EVERY_S = 2.0
TOGETHER = 32
KNOWN_BY_HEART = "office"  # the transformer has learnt all there is of it

CAUSAL_OPTIONS: dict[str, Any] = {
    "stage": "causal", "learning_rate": 6e-4, "warm_up": 50, "full_noise": 0.35,
    "listed_steps": 0.35, "loss": "clean", "predicted_history": 0.2, "average": 0.998}
TEACHER_OPTIONS: dict[str, Any] = {
    "stage": "teacher", "learning_rate": 3e-4, "warm_up": 20, "average": 0.98}
DISTILLED_OPTIONS: dict[str, Any] = {
    "stage": "jdmd", "learning_rate": 2e-5, "critic_rate": 4e-5, "beta1": 0.0, "warm_up": 5,
    "average": 0.98}
BATCHES = {"causal": 64, "teacher": 64, "jdmd": 32}
FINISHER_OPTIONS: dict[str, Any] = {
    "batch": 128, "learning_rate": 1e-3, "absolute_weight": 0.1, "gradient_weight": 0.1,
    "hints": True}


def main() -> None:
    """Start the workers and the finisher, train the transformer, join the parts."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("work", type=Path)
    parser.add_argument("--clips", type=Path, required=True, metavar="DIR")
    parser.add_argument("--photographs", type=Path, metavar="DIR")
    parser.add_argument("--minutes", type=float, default=7.0)
    parser.add_argument("--workers", type=int, default=max(1, (os.cpu_count() or 4) - 3))
    parser.add_argument("--weights", type=Path, default=Path("weights/inspatio_tiny"))
    parser.add_argument("--device", default="cuda")
    args = parser.parse_args()
    args.end = time.time() + 60.0 * args.minutes
    for name in ("spool", "drawn"):
        (args.work / name).mkdir(parents=True, exist_ok=True)
    spawn = multiprocessing.get_context("spawn")
    # One core a worker, of which there are as many as cores to spare.
    os.environ.update(NUMBA_NUM_THREADS="1", OMP_NUM_THREADS="1")
    workers = [spawn.Process(target=work, args=(args, k), daemon=True)
               for k in range(args.workers)]
    for worker in workers:
        worker.start()
    finisher = spawn.Process(target=finish, args=(args,))
    finisher.start()
    distilled = transform(args)
    finisher.join()
    for worker in workers:
        worker.terminate()
    if finisher.exitcode:
        raise SystemExit(f"the finisher ended with {finisher.exitcode}")
    assemble(args.work / "inspatio_tiny", distilled, args.weights, args.work / "finisher")


# --- clips --------------------------------------------------------------------------------------


def work(args: argparse.Namespace, number: int) -> None:
    """Render clips into the spool until told to stop: this worker's seeds, domain by domain."""
    import cv2

    from inspatio_ros.cli.data import read_photographs
    from inspatio_ros.training.sources import (
        ClipMaker,
        ClipSize,
        photograph_clip,
        picture_clip,
        world_clip,
    )

    cv2.setNumThreads(1)
    size = ClipSize(224, 128, 24)
    maker = ClipMaker(size)
    photographs = [] if args.photographs is None else read_photographs(args.photographs)
    domains = [d for d in DOMAINS if photographs or d not in ("photographs", "pictures")]
    seed = FIRST_SEED + number
    while time.time() < args.end:
        for domain in domains:
            if domain == "pictures":
                clip = picture_clip(size, photographs, seed, PHOTOGRAPH_LICENCES)
            elif domain == "photographs":
                clip = photograph_clip(maker, photographs, seed, PHOTOGRAPH_LICENCES)
            else:
                clip = world_clip(maker, domain, seed)
            write(args.work / "spool" / f"{domain}-{seed}.npz", clip)
            seed += args.workers


def write(path: Path, clip: Clip) -> None:
    """One clip as it is, uncompressed: it is read by two and then never again."""
    parts = {name: getattr(clip, name) for name in PARTS}
    part = path.with_suffix(".part")
    with part.open("wb") as file:
        np.savez(file, allow_pickle=False, info=np.array(json.dumps(asdict(clip.info))),
                 **{name: value for name, value in parts.items() if value is not None})
    part.rename(path)


def read(path: Path) -> Clip:
    """The clip that `write` wrote."""
    with np.load(path, allow_pickle=False) as file:
        info = ClipInfo(**json.loads(str(file["info"])))
        return Clip(info, *(file[name] if name in file.files else None for name in PARTS))


class Arrivals:
    """Names and clips of a folder of shards, then of the spool as they come."""

    def __init__(self, args: argparse.Namespace) -> None:
        self._begun = enumerate(read_clips(args.clips))
        self._spool = args.work / "spool"
        self._taken: set[str] = set()
        self._looked = 0.0
        self._waiting: list[Path] = []

    def begun(self) -> Iterator[tuple[str, Clip]]:
        """The clips of the shards that may be learnt from."""
        for number, clip in self._begun:
            if not clip.info.held_out:
                yield f"shard-{number}", clip

    def new(self, most: int) -> list[tuple[str, Clip]]:
        """Some of those that have come since."""
        if not self._waiting and time.time() > self._looked + LOOK_EVERY_S:
            self._looked = time.time()
            self._waiting = [p for p in sorted(self._spool.glob("*.npz"))
                             if p.stem not in self._taken]
            self._taken.update(p.stem for p in self._waiting)
        now, self._waiting = self._waiting[:most], self._waiting[most:]
        return [(path.stem, read(path)) for path in now]


# --- the transformer ----------------------------------------------------------------------------


class GrowingLatents:
    """Batches for the trainer out of what has come so far (`BatchSource`)."""

    def __init__(self, args: argparse.Namespace, codec: Any, config: Any) -> None:
        self._codec, self._config = codec, config
        self._arrivals = Arrivals(args)
        self._queue: list[tuple[str, Clip]] = []
        self.latents: dict[str, list[Any]] = {}  # a clip's own, and its mirror image's
        self._batch_size = 1
        self._data: Any = None
        for named in self._arrivals.begun():
            self._take([named])
        self._flush(everything=True)

    def begin(self, batch_size: int) -> None:
        """Give batches of this many clips from now on."""
        self._batch_size, self._data = batch_size, None

    def _take(self, clips: list[tuple[str, Clip]]) -> None:
        self._queue += clips
        if len(self._queue) >= TOGETHER:
            self._flush()

    def _flush(self, everything: bool = False) -> None:
        """Encode what waits, clips of one task at a time; the rest waits on."""
        from inspatio_ros.training.latents import encode_clips, flipped

        for task in ("v2v", "t2v"):
            ready = [(n, c) for n, c in self._queue if c.info.task == task]
            if not ready or (len(ready) < TOGETHER // 4 and not everything):
                continue
            names = {n for n, _ in ready}
            self._queue = [(n, c) for n, c in self._queue if n not in names]
            for start in range(0, len(ready), TOGETHER):
                part = ready[start:start + TOGETHER]
                pairs = [encode_clips([turn(c) for _, c in part], self._codec, self._config)
                         for turn in (lambda c: c, flipped)]
                for (name, _), *both in zip(part, *pairs, strict=True):
                    self.latents[name] = both
            self._data = None

    def batch(self, step: int, rank: int = 0, world_size: int = 1) -> Any:
        """Batch `step` of what there is by now."""
        from inspatio_ros.training.latents import LatentData

        new = self._arrivals.new(TOGETHER)
        if new:
            self._take(new)
        if self._data is None:
            self._data = LatentData([one for both in self.latents.values() for one in both],
                                    self._batch_size, 0)
        return self._data.batch(step, rank, world_size)

    def validation(self) -> Iterator[Any]:
        """None: all time goes into training."""
        return iter(())

    def catch_up(self) -> None:
        """Take in all that has come."""
        while new := self._arrivals.new(TOGETHER):
            self._take(new)
        self._flush(everything=True)


def transform(args: argparse.Namespace) -> Path:
    """Train and distil the transformer, draw all clips with it; the folder it is in."""
    import torch

    from inspatio_ros.imagination.backends import compute_dtype
    from inspatio_ros.model.presets import TINY
    from inspatio_ros.training.distributed import Process
    from inspatio_ros.training.latents import load_codec
    from inspatio_ros.training.options import TrainingOptions
    from inspatio_ros.training.stages import make_stage
    from inspatio_ros.training.trainer import Trainer

    device = torch.device(args.device)
    config = replace(TINY, denoising_steps=STEPS)
    codec = load_codec(args.weights)
    codec = codec.to(device, compute_dtype(device))
    codec.check_finite = False
    source = GrowingLatents(args, codec, config)
    print(f"{len(source.latents)} clips to begin with, {args.end - time.time():.0f} s left",
          flush=True)
    draw(args, source, args.weights, codec, config)
    begun = args.end - 60.0 * args.minutes
    start, teacher = args.weights, None
    for name, options, share in (("causal", CAUSAL_OPTIONS, CAUSAL),
                                 ("teacher", TEACHER_OPTIONS, TEACHER),
                                 ("jdmd", DISTILLED_OPTIONS, DISTILLED)):
        left = begun + 60.0 * args.minutes * share - time.time()
        o = TrainingOptions(steps=10**6, minutes=max(left, 1.0) / 60.0, validate_every=0,
                            checkpoint_every=0, checkpoint_minutes=0.0, log_every=100, **options)
        source.begin(BATCHES[name])
        teachers = {"v2v": teacher, "t2v": teacher} if name == "jdmd" else None
        here = Process(device=device)
        trainer = Trainer(args.work / name, make_stage(config, o, here, start=start,
                                                       teachers=teachers), source, o, here)
        figures = trainer.train()
        print(f"{name}: {trainer.step} steps of {BATCHES[name]} clips, {len(source.latents)} "
              f"different ones, {figures}, {args.end - time.time():.0f} s left", flush=True)
        if name == "teacher":
            teacher = args.work / name / "model"
        else:
            start = args.work / name / "model"
        del trainer
    source.catch_up()
    draw(args, source, start, codec, config)
    return start


def draw(args: argparse.Namespace, source: GrowingLatents, model_folder: Path, codec: Any,
         config: Any) -> None:
    """What a transformer makes of every clip with a guide, for the finisher."""
    from inspatio_ros.model.weights import TRANSFORMER_FILE, load_generator
    from inspatio_ros.training.imagined_clips import roll_out

    model = load_generator(model_folder / TRANSFORMER_FILE, config)
    model = model.to(codec.device, codec.dtype).prepare_for_inference()
    named = [(name, both[0]) for name, both in source.latents.items()
             if both[0].info.task == "v2v" and both[0].info.domain != KNOWN_BY_HEART]
    for start in range(0, len(named), TOGETHER):
        part = named[start:start + TOGETHER]
        for (name, _), pictures in zip(part, roll_out([one for _, one in part], model, codec, 0),
                                       strict=True):
            partial = args.work / "drawn" / f"{name}.part"
            with partial.open("wb") as file:
                np.save(file, pictures, allow_pickle=False)
            partial.rename(partial.with_suffix(".npy"))
    print(f"drew {len(named)} clips, {args.end - time.time():.0f} s left", flush=True)


# --- the finisher -------------------------------------------------------------------------------


def finish(args: argparse.Namespace) -> None:
    """Train the finisher to the end, with what comes meanwhile."""
    from inspatio_ros.model.weights import FINISHER_FILE, load_finisher
    from inspatio_ros.training.finisher_trainer import (
        FinisherTraining,
        FrameSampler,
        train_finisher,
    )

    arrivals = Arrivals(args)
    first = list(arrivals.begun())
    options = FinisherTraining(steps=10**6, **FINISHER_OPTIONS)
    sampler = FrameSampler([clip for _, clip in first], {}, options, args.device)
    names = {name: number for number, (name, _) in enumerate(first)}
    clips = dict(first)
    drawn: dict[str, float] = {}
    folder = args.work / "finisher"
    folder.mkdir(parents=True, exist_ok=True)
    state = {"looked": 0.0}

    def come(step: int, losses: dict[str, float]) -> None:
        for name, clip in arrivals.new(4):
            names[name] = len(names)
            clips[name] = Clip(clip.info, clip.truth[:1]) if clip.render is None else clip
            sampler.add(names[name], clip)
        if time.time() > state["looked"]:
            fresh = [(entry.name[:-4], entry.stat().st_mtime)
                     for entry in os.scandir(args.work / "drawn") if entry.name.endswith(".npy")]
            fresh = [(n, m) for n, m in fresh if n in names and drawn.get(n) != m]
            state["looked"] = time.time() + (0.0 if len(fresh) > 16 else LOOK_EVERY_S)
            for name, modified in fresh[:16]:
                drawn[name] = modified
                sampler.add(names[name], clips[name],
                            np.load(args.work / "drawn" / f"{name}.npy", allow_pickle=False))
        if step % 500 == 0:
            line = {"step": step, "clips": len(names), "drawn": len(drawn), **losses}
            with (folder / "finisher_metrics.jsonl").open("a") as log:
                log.write(json.dumps(line) + "\n")
            print(f"finisher {line}", flush=True)

    options = replace(options, minutes=max(args.end - time.time() - 8.0, 1.0) / 60.0)
    train_finisher([], folder, options, sampler=sampler, device=args.device, on_step=come,
                   finisher=load_finisher(args.weights / FINISHER_FILE), save_every=10**9)


if __name__ == "__main__":
    main()
