#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Trains the small model from nothing: data, codec, student, teacher, distillation, finisher.

    .venv/bin/python tools/train_tiny.py WORK --office RECORDING [--photographs DIR]

WORK: a folder for clips, latents and runs; everything there goes on where it stopped. RECORDING:
the office sequence that samples/office/README.md names, of which the first 200 frames are learnt
from. Without --photographs the Debian packages below are fetched with `apt-get download`.
At the end WORK/inspatio_tiny is a folder that `--weights` takes.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

PROGRAM = [sys.executable, "-m", "inspatio_ros.cli.main"]
SUFFIX = ".clips.safetensors"

# Free photographs: package -> pictures in it that are photographs of places and things.
PACKAGES: dict[str, tuple[str, ...]] = {
    "lomiri-wallpapers-16.04": ("usr/share/backgrounds/*_by_*.jpg",),
    "mate-backgrounds": tuple(
        f"usr/share/backgrounds/mate/nature/{name}.jpg"
        for name in ("Dune", "Garden", "GreenMeadow", "LadyBird", "Storm", "TwoWings", "Wood",
                     "YellowFlower")),
    "plasma-workspace-wallpapers": tuple(
        f"usr/share/wallpapers/{name}/contents/images/2560x1600.jpg"
        for name in ("Autumn", "BytheWater", "ColorfulCups", "DarkestHour", "EveningGlow",
                     "FallenLeaf", "Grey", "Kite", "PastelHills", "Path")),
    "stellarium-data": tuple(
        f"usr/share/stellarium/landscapes/{name}/*.png"
        for name in ("garching", "grossmugl", "guereins", "hurricane", "trees")),
}
PHOTOGRAPH_LICENCES = "GPL-2.0-or-later and CC-BY-SA-4.0 (Debian packages)"
SMALLEST_PICTURE = 150_000  # bytes; below are masks and thumbnails

# Shard -> the words of `inspatio data pack` after its name: what codec and student learn from.
SHARDS: dict[str, list[str]] = {
    "clutter": ["world", "clutter", "--seeds", "0:240"],
    "room": ["world", "room", "--seeds", "0:90"],
    "street": ["world", "street", "--seeds", "0:150"],
    "held": ["world", "clutter", "room", "street", "--seeds", "1000000:1000012"],
}
PHOTOGRAPH_SHARDS: dict[str, list[str]] = {
    "photographs": ["photographs", "--seeds", "0:260"],
    "pictures": ["pictures", "--seeds", "5000:5080"],
}
OFFICE = ["--licence", "MIT", "--domain", "office", "--limit", "200", "--stride", "3"]
# Teacher, distillation and finisher learn from clips that the student has not seen, and so does
# not know by heart.
FINISHER_SHARDS: dict[str, list[str]] = {
    "clutter": ["world", "clutter", "--seeds", "300:1260"],
    "room": ["world", "room", "--seeds", "100:1160"],
    "street": ["world", "street", "--seeds", "200:1160"],
    "held": SHARDS["held"],
}
FINISHER_PHOTOGRAPH_SHARDS = {"photographs": ["photographs", "--seeds", "300:1200"]}
FINISHER_OFFICE = [*OFFICE[:-1], "2"]

CODEC = ["--steps", "2200", "--batch", "16", "--crop", "64", "--groups", "2",
         "--learning-rate", "2e-3"]
STUDENT = ["--stage", "causal", "--begin", "render", "--batch-size", "4", "--steps", "2000",
           "--learning-rate", "6e-4", "--warm-up", "100", "--full-noise", "0.35",
           "--listed-steps", "0.35", "--loss", "clean", "--predicted-history", "0.2",
           "--average", "0.998", "--compile"]
STEPS = (1000, 250)  # denoising steps of the model that ships
FINISHER = ["--batch", "24", "--steps", "19000", "--learning-rate", "8e-4",
            "--absolute-weight", "0.1", "--gradient-weight", "0.1", "--hints"]
TEACHER = ["--stage", "teacher", "--batch-size", "4", "--steps", "300", "--learning-rate", "3e-4",
           "--warm-up", "30", "--average", "0.98", "--compile"]
DISTILLED = ["--stage", "jdmd", "--batch-size", "2", "--steps", "400", "--learning-rate", "2e-5",
             "--critic-rate", "4e-5", "--beta1", "0", "--warm-up", "5", "--average", "0.98"]


def main() -> None:
    """Run the stages one after the other; each finds what it has done already."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("work", type=Path)
    parser.add_argument("--office", type=Path, required=True)
    parser.add_argument("--photographs", type=Path)
    parser.add_argument("--until", choices=("data", "codec", "student", "distilled", "finisher"),
                        default="finisher")
    args = parser.parse_args()
    work: Path = args.work
    photographs = args.photographs or fetch(work / "photographs")
    pack(work / "clips", {**SHARDS, **of_photographs(PHOTOGRAPH_SHARDS, photographs),
                          "office": ["recording", str(args.office), *OFFICE]})
    if args.until == "data":
        return
    inspatio("train", "codec", "--run", work / "codec", "--data", work / "clips", *CODEC)
    latents = work / "latents.safetensors"
    if not latents.is_file():
        inspatio("data", "encode", work / "clips", latents, "--codec", work / "codec")
    if args.until == "codec":
        return
    stage(work, "student", STUDENT, latents)
    if args.until == "student":
        return
    clips = work / "finisher_clips"
    pack(clips, {
        **FINISHER_SHARDS, **of_photographs(FINISHER_PHOTOGRAPH_SHARDS, photographs),
        "office": ["recording", str(args.office), *FINISHER_OFFICE]})
    distil(work, clips)
    if args.until == "distilled":
        return
    assemble(work / "inspatio_tiny", work / "distilled/model", work / "codec",
             finish(work, clips))


def distil(work: Path, clips: Path) -> None:
    """The student distilled (jdmd) with a teacher that begins from it."""
    latents = work / "finisher_latents.safetensors"
    if not latents.is_file():
        inspatio("data", "encode", clips, latents, "--codec", work / "codec")
    start = ["--start", str(work / "student/model")]
    stage(work, "teacher", [*TEACHER, *start], latents)
    teacher = str(work / "teacher/model")
    stage(work, "distilled", [*DISTILLED, *start, "--teacher-v2v", teacher,
                              "--teacher-t2v", teacher], latents)


def finish(work: Path, clips: Path) -> Path:
    """The finisher's run, on what the distilled student makes of its clips."""
    imagined = work / "imagined.safetensors"
    if not imagined.is_file():
        inspatio("data", "imagine", clips, imagined, "--model", work / "distilled/model",
                 "--codec", work / "codec", "--without", "office")
    inspatio("train", "finisher", "--run", work / "finisher", "--data", clips,
             "--imagined", imagined, *FINISHER)
    return work / "finisher"


def inspatio(*words: object) -> None:
    """Run the program; stop with its status when it fails."""
    command = [*PROGRAM, *map(str, words)]
    print("+", *command[2:], flush=True)
    status = subprocess.run(command, check=False).returncode
    if status:
        raise SystemExit(status)


def stage(work: Path, name: str, words: list[str], latents: Path) -> None:
    """One stage of training, into a run folder of its own."""
    inspatio("train", "stage", "--run", work / name, "--data", latents, *words)


def pack(clips: Path, shards: Mapping[str, list[str]]) -> None:
    """Every shard that is not there yet."""
    for name, words in shards.items():
        shard = clips / f"{name}{SUFFIX}"
        if not shard.is_file():
            inspatio("data", "pack", shard, *words)


def of_photographs(shards: Mapping[str, list[str]], folder: Path) -> dict[str, list[str]]:
    """The words of shards that are made of the photographs in `folder`."""
    return {name: [kind, str(folder), *rest, "--licence", PHOTOGRAPH_LICENCES]
            for name, (kind, *rest) in shards.items()}


def fetch(folder: Path) -> Path:
    """The photographs of the Debian packages, unpacked into one folder."""
    if folder.is_dir():
        return folder
    if shutil.which("apt-get") is None or shutil.which("dpkg-deb") is None:
        raise SystemExit("no apt-get here: give a folder of photographs with --photographs "
                         f"(used so far: the Debian packages {', '.join(PACKAGES)})")
    part = folder.with_name(folder.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    for package, patterns in PACKAGES.items():
        subprocess.run(["apt-get", "download", package], cwd=part, check=True)
        archive = next(part.glob("*.deb"))
        subprocess.run(["dpkg-deb", "-x", archive, part / package], check=True)
        archive.unlink()
        for pattern in patterns:
            for picture in sorted((part / package).glob(pattern)):
                if picture.stat().st_size >= SMALLEST_PICTURE:
                    name = "-".join(picture.relative_to(part).parts[-4:])
                    shutil.copy(picture, part / f"{package}-{name}")
        shutil.rmtree(part / package)
    part.rename(folder)
    return folder


def assemble(out: Path, transformer: Path, codec: Path, finisher: Path) -> None:
    """The folder that `--weights` takes, of the folders that hold its parts: sizes, transformer,
    codec and finisher, as bfloat16."""
    import torch

    from inspatio_ros.model.presets import TINY
    from inspatio_ros.model.weights import (
        CODEC_FILE,
        FINISHER_FILE,
        TRANSFORMER_FILE,
        load_finisher,
        load_generator,
        load_small_codec,
        save_small_model,
    )

    sizes = replace(TINY, denoising_steps=STEPS)
    save_small_model(
        out, load_generator(transformer / TRANSFORMER_FILE, sizes),
        load_small_codec(codec / CODEC_FILE), torch.bfloat16,
        load_finisher(finisher / FINISHER_FILE))
    print(f"the model is in {out}", flush=True)


if __name__ == "__main__":
    main()
