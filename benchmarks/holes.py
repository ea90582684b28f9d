#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What fills holes how well: a small model, its parts and variants, beside classical fills.

    .venv/bin/python benchmarks/holes.py CLIPS --weights DIR [NAME=DIR ...] [--features FILE]

CLIPS: packed clips (`inspatio data pack`); only those that are held out are used. All methods see
the same guide and the same known pixels, and all keep these (composite mode). Prints JSON: by
domain and method the PSNR in holes (dB, pooled), of all pixels, the gradient spectrum distance in
holes (octaves) and, with --features, the cosine distance of EfficientNet-Lite0's features.

Variants of the first model: `decoded` (without its finisher), `blind` (the finisher without the
transformer's picture), `no_history`, `no_source`, `four_steps` (those of the preset), `two_steps`,
`one_step` (of its own). NAME=DIR: further models, with their own finisher or, without one, with
the first's. --by-block: also the PSNR in holes of each block, for long clips (`inspatio data pack
... --frames 240`); --picture: a sheet of the first clip of each domain, of blocks along the way:
guide, model, truth.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from inspatio_ros.evaluation.baselines import classical_fills  # noqa: E402
from inspatio_ros.evaluation.perceptual import (  # noqa: E402
    FeatureNetwork,
    gradient_spectrum_distance,
)
from inspatio_ros.imagination.backends import compute_dtype  # noqa: E402
from inspatio_ros.imagination.generator import steps_of  # noqa: E402
from inspatio_ros.model.config import ModelConfig  # noqa: E402
from inspatio_ros.model.finisher import Finisher  # noqa: E402
from inspatio_ros.model.presets import TINY  # noqa: E402
from inspatio_ros.model.schedule import FlowSchedule  # noqa: E402
from inspatio_ros.model.small_codec import SmallCodec  # noqa: E402
from inspatio_ros.model.transformer import CausalTransformer  # noqa: E402
from inspatio_ros.model.weights import (  # noqa: E402
    CODEC_FILE,
    CONFIG_FILE,
    FINISHER_FILE,
    TRANSFORMER_FILE,
    load_finisher,
    load_generator,
    load_small_codec,
    read_config,
)
from inspatio_ros.training.clips import Clip, read_clips  # noqa: E402
from inspatio_ros.training.draws import Draw  # noqa: E402
from inspatio_ros.training.latents import LatentClip, encode_clip, joined  # noqa: E402
from inspatio_ros.training.options import TrainingOptions  # noqa: E402
from inspatio_ros.training.rollout import Rollout  # noqa: E402

Image = npt.NDArray[np.uint8]
EVERY = 4  # frames of a clip from one that is scored to the next
TOGETHER = 8


def main() -> None:
    """Score every method on every held-out clip."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("clips", type=Path)
    parser.add_argument("--weights", required=True, type=Path)
    parser.add_argument("--others", nargs="*", default=[], metavar="NAME=DIR")
    parser.add_argument("--variants", nargs="*", default=[
        "decoded", "blind", "no_history", "no_source", "four_steps", "two_steps", "one_step"])
    parser.add_argument("--features", type=Path, help="EfficientNet-Lite0's state dict")
    parser.add_argument("--limit", type=int, default=0, help="clips of a domain at most")
    parser.add_argument("--by-block", action="store_true")
    parser.add_argument("--picture", type=Path, metavar="PNG")
    args = parser.parse_args()
    clips = chosen(args.clips, args.limit)
    network = None if args.features is None else FeatureNetwork(args.features)
    model = Parts(args.weights)
    methods: dict[str, list[Image]] = model.methods(clips, args.variants)
    for word in args.others:
        name, _, folder = word.partition("=")
        methods[name] = Parts(Path(folder), model).finished(clips)
    for name, pictures in fills(clips).items():
        methods[name] = pictures
    if args.picture is not None:
        draw(args.picture, clips, methods["model"], model.config)
    blocks = by_block(clips, methods, model.config) if args.by_block else []
    print(json.dumps({
        "clips": str(args.clips), "weights": str(args.weights),
        "threads": torch.get_num_threads(), "blocks": blocks,
        "results": score(clips, methods, network)}, indent=1))


def chosen(folder: Path, limit: int) -> list[Clip]:
    """Held-out v2v clips, `limit` of a domain."""
    found: list[Clip] = []
    counts: dict[str, int] = {}
    for clip in read_clips(folder):
        if not clip.info.held_out or clip.info.task != "v2v":
            continue
        counts[clip.info.domain] = counts.get(clip.info.domain, 0) + 1
        if not limit or counts[clip.info.domain] <= limit:
            found.append(clip)
    if not found:
        raise SystemExit(f"{folder}: no held-out clip with a guide")
    return found


class Parts:
    """A small model's transformer, codec and finisher."""

    def __init__(self, folder: Path, base: Parts | None = None) -> None:
        self.config = read_config(folder / CONFIG_FILE)
        dtype = compute_dtype(torch.device("cpu"))
        self.model: CausalTransformer = load_generator(
            folder / TRANSFORMER_FILE, self.config).to(dtype=dtype).prepare_for_inference()
        self.codec: SmallCodec
        if base is None or (folder / CODEC_FILE).is_file():
            self.codec = load_small_codec(folder / CODEC_FILE).to(dtype=dtype).eval()
        else:
            self.codec = base.codec
        self.finisher: Finisher | None = None if base is None else base.finisher
        if (folder / FINISHER_FILE).is_file():
            self.finisher = load_finisher(folder / FINISHER_FILE).to(dtype=dtype).eval()
            self.finisher.use_channels_last()

    def methods(self, clips: Sequence[Clip], variants: Sequence[str]) -> dict[str, list[Image]]:
        """Pictures of the model and of its variants, by name."""
        latents = [encode_clip(clip, self.codec, self.config) for clip in clips]
        decoded = self.rolled(latents, TrainingOptions(precision="float32"), self.config)
        found = {"model": self.joined(clips, decoded)}
        own = {
            "decoded": lambda: decoded,
            "blind": lambda: self.joined(clips, None),
            "no_history": lambda: self.joined(clips, self.rolled(
                latents, TrainingOptions(precision="float32", history=False), self.config)),
            "no_source": lambda: self.joined(clips, self.rolled(
                latents, TrainingOptions(precision="float32", source=False), self.config)),
        }
        for name, listed in (("four_steps", TINY.denoising_steps),
                             ("two_steps", steps_of(self.config, 2)),
                             ("one_step", steps_of(self.config, 1))):
            steps = replace(self.config, denoising_steps=listed)
            own[name] = lambda steps=steps: self.joined(clips, self.rolled(  # type: ignore[misc]
                latents, TrainingOptions(precision="float32"), steps))
        for name in variants:
            found[name] = own[name]()
        return found

    def finished(self, clips: Sequence[Clip]) -> list[Image]:
        """Pictures of the model alone."""
        latents = [encode_clip(clip, self.codec, self.config) for clip in clips]
        return self.joined(clips, self.rolled(
            latents, TrainingOptions(precision="float32"), self.config))

    @torch.no_grad()
    def rolled(self, latents: Sequence[LatentClip], options: TrainingOptions, config: ModelConfig
               ) -> list[Image]:
        """The transformer's pictures [T, H, W, 3] of each clip, block after block."""
        timesteps = FlowSchedule.of(config).warp(config.denoising_steps)
        rollout = Rollout(self.model, options)
        rollout.timesteps, rollout.sigmas = timesteps, FlowSchedule.of(config).sigma_of(timesteps)
        pictures: list[Image] = []
        for start in range(0, len(latents), TOGETHER):
            part = latents[start:start + TOGETHER]
            batch = joined(part)
            noise = Draw((0, start), batch.size).normal(batch.target, (len(timesteps),))
            for clip in rollout.roll(batch, noise, len(timesteps) - 1).clip.flatten(1, 2):
                frames = self.codec.decode(clip[None])[0].float().clamp(-1, 1)
                whole = frames.add(1).mul(127.5).round().to(torch.uint8).permute(0, 2, 3, 1)
                pictures.append(np.ascontiguousarray(whole.numpy()))
        return pictures

    @torch.no_grad()
    def joined(self, clips: Sequence[Clip], decoded: Sequence[Image] | None) -> list[Image]:
        """Finished pictures; without a finisher the decoded ones."""
        if self.finisher is None:
            if decoded is None:
                raise SystemExit("variant blind needs a finisher")
            return list(decoded)
        pictures = []
        for number, clip in enumerate(clips):
            assert clip.render is not None
            assert clip.known is not None
            assert clip.source is not None
            filled = tensor(clip.render)
            made = filled if decoded is None else tensor(decoded[number])
            count = min(len(made), len(filled))
            known = torch.from_numpy(clip.told[:count, None].astype(np.float32))
            seen = tensor(clip.source[-1:]).expand_as(filled[:count])
            out = self.finisher.forward(made[:count], filled[:count], known, seen,
                                        self.finisher.grain_noise(*known.shape[-2:], 0))
            whole = out.clamp(-1, 1).add(1).mul(127.5).round().to(torch.uint8)
            pictures.append(np.ascontiguousarray(whole.permute(0, 2, 3, 1).numpy()))
        return pictures


def tensor(pictures: Image) -> torch.Tensor:
    """uint8 [T, H, W, 3] as [T, 3, H, W] in [-1, 1]."""
    return torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 127.5 - 1.0


def fills(clips: Sequence[Clip]) -> dict[str, list[Image]]:
    """Classical fills of the same guides, and the package's own filler, by name."""
    found: dict[str, list[Image]] = {}
    for clip in clips:
        assert clip.render is not None
        assert clip.known is not None
        rows: dict[str, list[Image]] = {"geometric": list(clip.render)}
        for image, known in zip(clip.render, clip.known, strict=True):
            for name, picture in classical_fills(image, known).items():
                rows.setdefault(name, []).append(picture)
        for name, pictures in rows.items():
            found.setdefault(name, []).append(np.stack(pictures))
    return found


def score(clips: Sequence[Clip], methods: dict[str, list[Image]],
          network: FeatureNetwork | None) -> list[dict[str, Any]]:
    """Figures by domain and method."""
    results = []
    for domain in sorted({clip.info.domain for clip in clips}):
        mine = [n for n, clip in enumerate(clips) if clip.info.domain == domain]
        for name, pictures in methods.items():
            holes, everything, spectrum, features = [0.0, 0.0], [0.0, 0.0], [], []
            for n in mine:
                clip = clips[n]
                assert clip.render is not None
                assert clip.known is not None
                for t in range(EVERY - 1, min(clip.frames, len(pictures[n])), EVERY):
                    hole = ~clip.known[t]
                    image = np.where(hole[..., None], pictures[n][t], clip.render[t])
                    error = (image.astype(np.float64) - clip.truth[t]) ** 2
                    holes[0] += float(error[hole].sum())
                    holes[1] += 3.0 * np.count_nonzero(hole)
                    everything[0] += float(error.sum())
                    everything[1] += error.size
                    image = image.astype(np.uint8)
                    distance = gradient_spectrum_distance(image, clip.truth[t], hole)
                    if np.isfinite(distance):
                        spectrum.append(distance)
                    if network is not None:
                        a, b = network.features([image, clip.truth[t]]).astype(np.float64)
                        features.append(1 - a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))
            results.append({
                "domain": domain, "method": name, "clips": len(mine),
                "hole_share": round(holes[1] / everything[1], 4),
                "psnr_holes": psnr(holes), "psnr_all": psnr(everything),
                "gradient_holes": round(float(np.mean(spectrum)), 4) if spectrum else None,
                "feature_distance": round(float(np.mean(features)), 5) if features else None})
    return results


def by_block(clips: Sequence[Clip], methods: dict[str, list[Image]], config: ModelConfig
             ) -> list[dict[str, Any]]:
    """PSNR in holes (dB, pooled over all clips) of every block, by method."""
    results = []
    count = config.blocks_for(min(clip.frames for clip in clips))
    for block in range(count):
        window = slice(block * config.block_frames, (block + 1) * config.block_frames)
        row: dict[str, Any] = {"block": block + 1}
        for name in ("model", "geometric", "guide_mean"):
            sums = [0.0, 0.0]
            for clip, pictures in zip(clips, methods[name], strict=True):
                assert clip.known is not None
                hole = ~clip.known[window]
                error = (pictures[window].astype(np.float64) - clip.truth[window]) ** 2
                sums[0] += float(error[hole].sum())
                sums[1] += 3.0 * np.count_nonzero(hole)
            row[name] = psnr(sums)
        row["hole_share"] = round(float(np.mean(
            [1 - clip.known[window].mean() for clip in clips if clip.known is not None])), 4)
        results.append(row)
    return results


def draw(path: Path, clips: Sequence[Clip], pictures: Sequence[Image], config: ModelConfig
         ) -> None:
    """The last frames of some blocks of a clip of each domain: guide, model, truth."""
    rows = []
    for domain in sorted({clip.info.domain for clip in clips}):
        n = next(n for n, clip in enumerate(clips) if clip.info.domain == domain)
        clip = clips[n]
        assert clip.render is not None
        assert clip.known is not None
        blocks = len(pictures[n]) // config.block_frames
        shown = sorted({0, *(round(b) for b in np.linspace(1, blocks - 1, min(5, blocks)))})
        numbers = [(b + 1) * config.block_frames - 1 for b in shown]
        guide = [np.where(clip.known[t][..., None], clip.render[t], 0) for t in numbers]
        made = [np.where(clip.known[t][..., None], clip.render[t], pictures[n][t])
                for t in numbers]
        rows += [np.hstack(row) for row in (guide, made, [clip.truth[t] for t in numbers])]
    sheet = np.vstack(rows).astype(np.uint8)
    if not cv2.imwrite(str(path), cv2.cvtColor(sheet, cv2.COLOR_RGB2BGR)):
        raise SystemExit(f"{path}: cannot be written")


def psnr(sums: Sequence[float]) -> float:
    """dB of a sum of squared errors and its number of values."""
    return round(float(10 * np.log10(255.0**2 * sums[1] / max(sums[0], 1e-9))), 3)


if __name__ == "__main__":
    main()
