# SPDX-License-Identifier: Apache-2.0
"""Training of the small codec: reconstruction at several scales, steady in time, tame latents.

The latents are those of an autoencoder with a fixed posterior width: noise of `latent_noise` is
added before decoding and large latents are punished, which is the Kullback-Leibler term of a
variational autoencoder (Kingma and Welling 2013) with a constant variance. Sharpness comes from
gradients compared at several scales, not from a network of others' training.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from inspatio_ros.model.codec import frames_from_uint8
from inspatio_ros.model.small_codec import GROUP, SmallCodec
from inspatio_ros.model.weights import CODEC_FILE, save_small_codec
from inspatio_ros.training.clips import Clip, ClipError

Image = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class CodecTraining:
    """Everything that decides the outcome besides the data.

    steps, batch (clips), groups (of 4 frames each) and crop (pixels, a multiple of 16) of a
    sample; learning_rate falls by a cosine to a twentieth after `warm_up` steps. gradient_weight,
    temporal_weight, latent_weight: of the losses beside the absolute error. guide_share: samples
    cut from guides instead of true views. ema: of the weights that are kept.
    """

    steps: int = 6000
    batch: int = 8
    groups: int = 2
    crop: int = 128
    learning_rate: float = 1.5e-3
    warm_up: int = 100
    gradient_weight: float = 1.0
    temporal_weight: float = 0.5
    latent_weight: float = 2e-4
    latent_noise: float = 0.1
    guide_share: float = 0.25
    ema: float = 0.998
    seed: int = 0
    bfloat16: bool = True

    def __post_init__(self) -> None:
        if self.crop % 16 or min(self.steps, self.batch, self.groups, self.crop) < 1:
            raise ValueError("steps, batch, groups must be positive, crop a multiple of 16")


class ClipSampler:
    """Random cuts of clips, a function of seed and step alone."""

    def __init__(self, clips: Sequence[Clip], options: CodecTraining) -> None:
        frames = options.groups * GROUP
        self._views = [clip.truth for clip in clips if clip.frames >= frames]
        self._guides = [clip.render for clip in clips
                        if clip.render is not None and clip.frames >= frames]
        if not self._views:
            raise ClipError(f"no clip has the {frames} frames of a sample")
        self._options = options

    def batch(self, step: int) -> Tensor:
        """Pictures `[B, T, 3, S, S]` in [-1, 1] of step `step`."""
        o = self._options
        rng = np.random.default_rng([o.seed, step])
        return torch.stack([self._cut(rng) for _ in range(o.batch)])

    def _cut(self, rng: np.random.Generator) -> Tensor:
        o = self._options
        guide = self._guides and rng.uniform() < o.guide_share
        pool = self._guides if guide else self._views
        pictures = pool[int(rng.integers(len(pool)))]
        frames = o.groups * GROUP
        start = int(rng.integers(len(pictures) - frames + 1))
        y = int(rng.integers(max(1, pictures.shape[1] - o.crop + 1)))
        x = int(rng.integers(max(1, pictures.shape[2] - o.crop + 1)))
        cut = pictures[start:start + frames, y:y + o.crop, x:x + o.crop]
        if rng.uniform() < 0.5:
            cut = cut[:, :, ::-1]
        if rng.uniform() < 0.5:
            cut = cut[::-1]
        tensor = frames_from_uint8([np.ascontiguousarray(c) for c in cut], "cpu")[0]
        gain, shift = float(rng.uniform(0.75, 1.25)), float(rng.uniform(-0.15, 0.15))
        return (tensor * gain + shift).clamp(-1, 1)


def codec_losses(codec: SmallCodec, frames: Tensor, options: CodecTraining,
                 generator: torch.Generator) -> dict[str, Tensor]:
    """The losses of pictures `[B, T, 3, H, W]` in [-1, 1]; 'total' is their weighted sum."""
    latents = codec.encode(frames)
    noise = torch.randn(latents.shape, generator=generator)
    made = codec.decode(latents + options.latent_noise * noise).float()
    losses = {
        "absolute": (made - frames).abs().mean(),
        "gradient": gradient_difference(made.flatten(0, 1), frames.flatten(0, 1)),
        "temporal": (made.diff(dim=1) - frames.diff(dim=1)).abs().mean(),
        "latent": latents.float().square().mean(),
    }
    losses["total"] = (losses["absolute"] + options.gradient_weight * losses["gradient"]
                       + options.temporal_weight * losses["temporal"]
                       + options.latent_weight * losses["latent"])
    return losses


def gradient_difference(a: Tensor, b: Tensor, scales: int = 3) -> Tensor:
    """Mean absolute difference of the gradients of pictures `[N, C, H, W]` over scales."""
    total = a.new_zeros(())
    for _ in range(scales):
        error = a - b
        total = total + error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean()
        a, b = F.avg_pool2d(a, 2), F.avg_pool2d(b, 2)
    return total / scales


def train_codec(
    clips: Sequence[Clip],
    folder: Path,
    options: CodecTraining | None = None,
    *,
    codec: SmallCodec | None = None,
    save_every: int = 500,
    on_step: Callable[[int, dict[str, float]], None] | None = None,
) -> SmallCodec:
    """Train the codec on clips and write it to `folder`; goes on where a run there stopped.

    Returns the averaged weights with latent statistics set, which is also what
    `folder/codec.safetensors` holds. Raises ClipError for unusable clips, FloatingPointError when
    the loss is no longer finite (the last saved state stays).
    """
    from inspatio_ros.training.saving import load_state, save_state

    o = options or CodecTraining()
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "codec_options.json").write_text(json.dumps(asdict(o), indent=2))
    torch.manual_seed(o.seed)
    model = codec or SmallCodec()
    averaged = {k: v.clone().float() for k, v in model.state_dict().items()}
    optimizer = torch.optim.AdamW(model.parameters(), lr=o.learning_rate, betas=(0.9, 0.98),
                                  weight_decay=0.01, fused=True)
    sampler = ClipSampler(clips, o)
    state_file = folder / "codec_state.pt"
    first = load_state(state_file, model, optimizer, averaged) if state_file.is_file() else 0
    began = time.monotonic()
    for step in range(first, o.steps):
        for group in optimizer.param_groups:
            group["lr"] = o.learning_rate * rate_at(step, o.steps, o.warm_up)
        frames = sampler.batch(step)
        generator = torch.Generator().manual_seed(o.seed * 1_000_003 + step)
        with torch.autocast("cpu", torch.bfloat16, enabled=o.bfloat16):
            losses = codec_losses(model, frames, o, generator)
        if not bool(losses["total"].isfinite()):
            raise FloatingPointError(
                f"codec training: the loss is not finite at step {step}; {state_file} holds the "
                "last good state, start again from it with a lower learning_rate")
        optimizer.zero_grad(set_to_none=True)
        losses["total"].backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        decay = min(o.ema, (1 + step) / (10 + step))
        for name, value in model.state_dict().items():
            averaged[name].lerp_(value.float(), 1 - decay)
        if on_step is not None:
            said = {name: float(value.detach()) for name, value in losses.items()}
            on_step(step, {**said, "seconds": time.monotonic() - began})
        if (step + 1) % save_every == 0 or step + 1 == o.steps:
            save_state(state_file, step + 1, model, optimizer, averaged)
    model.load_state_dict(averaged)
    model.use_channels_last()
    _set_statistics(model, sampler)
    save_small_codec(model, folder / CODEC_FILE)
    return model.eval()


def rate_at(step: int, steps: int, warm_up: int, floor: float = 0.05) -> float:
    """Share of the learning rate at a step: a linear rise, then a cosine to `floor`."""
    if step < warm_up:
        return (step + 1) / warm_up
    progress = (step - warm_up) / max(1, steps - warm_up)
    return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


@torch.no_grad()
def _set_statistics(model: SmallCodec, sampler: ClipSampler, batches: int = 24) -> None:
    """Mean and deviation of the raw latents become the codec's normalization."""
    channels = model.latent_channels
    model.set_latent_statistics(torch.zeros(channels), torch.ones(channels))
    raw = torch.cat([model.encode(sampler.batch(10_000_000 + i)).float().transpose(1, 2).flatten(2)
                     .transpose(0, 1).flatten(1) for i in range(batches)], dim=1)
    model.set_latent_statistics(raw.mean(dim=1), raw.std(dim=1).clamp(min=1e-3))


@torch.no_grad()
def codec_figures(codec: SmallCodec, clips: Sequence[Clip]) -> dict[str, dict[str, float]]:
    """By domain: PSNR of the reconstruction (dB, pooled), of frame differences, and clips."""
    sums: dict[str, list[float]] = {}
    for clip in clips:
        frames = frames_from_uint8(list(clip.truth), "cpu")
        made = codec.decode(codec.encode(frames))[:, :frames.shape[1]].float().clamp(-1, 1)
        error = float((made - frames).square().mean()) / 4
        flicker = float((made.diff(dim=1) - frames.diff(dim=1)).square().mean()) / 4
        held = sums.setdefault(clip.info.domain, [0.0, 0.0, 0.0])
        for place, value in enumerate((error, flicker, 1.0)):
            held[place] += value
    figures: dict[str, Any] = {}
    for domain, (error, flicker, count) in sorted(sums.items()):
        figures[domain] = {"psnr": -10 * math.log10(error / count), "clips": count,
                           "psnr_of_differences": -10 * math.log10(flicker / count)}
    return figures
