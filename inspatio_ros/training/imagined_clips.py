# SPDX-License-Identifier: Apache-2.0
"""What a model makes of packed clips: the pictures that its finisher is trained on."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from inspatio_ros.model.codec import VideoCodec
from inspatio_ros.model.config import ModelConfig
from inspatio_ros.model.schedule import FlowSchedule
from inspatio_ros.model.transformer import CausalTransformer
from inspatio_ros.training.clips import Clip, ClipError, compress, decompress
from inspatio_ros.training.draws import Draw
from inspatio_ros.training.latents import LatentClip, encode_clip, joined
from inspatio_ros.training.options import TrainingOptions
from inspatio_ros.training.rollout import Rollout
from inspatio_ros.training.saving import save_tensors

Image = npt.NDArray[np.uint8]

IMAGINED_FORMAT = "inspatio_imagined 1"
_TOGETHER = 8  # clips rolled out at once


def imagine_clips(clips: Iterator[Clip], model: CausalTransformer, codec: VideoCodec, out: Path,
                  *, without: Collection[str] = (), quality: int = 18, seed: int = 0,
                  on_clip: Callable[[int], None] | None = None) -> int:
    """Roll the model out over every v2v clip, as it is used, and write its pictures to a file.

    Each block follows the one that the model made before. Pictures are kept by the clip's number
    among `clips`. without: domains that are left out: what the model has learnt from it knows by
    heart, and a finisher would trust it too far. Returns the number of clips imagined; ClipError
    when none has a guide.
    """
    config = model.config
    model = model.to(codec.device, codec.dtype).prepare_for_inference()
    tensors: dict[str, Tensor] = {}
    waiting: list[tuple[int, LatentClip]] = []

    def flush() -> None:
        for index, pictures in zip((i for i, _ in waiting), roll_out(
                [latent for _, latent in waiting], model, codec, seed), strict=True):
            data = compress(pictures, quality)
            tensors[f"{index:06d}"] = torch.frombuffer(bytearray(data), dtype=torch.uint8)
        waiting.clear()

    for number, clip in enumerate(clips):
        if clip.info.task == "v2v" and clip.info.domain not in without:
            latent = encode_clip(clip, codec, config)
            if waiting and latent.key[2] != waiting[0][1].key[2]:
                flush()
            waiting.append((number, latent))
            if len(waiting) == _TOGETHER:
                flush()
        if on_clip is not None:
            on_clip(number + 1)
    if waiting:
        flush()
    if not tensors:
        raise ClipError("no clip has a guide to imagine from")
    save_tensors(out, tensors, {"format": IMAGINED_FORMAT, "config": json.dumps(config.name)})
    return len(tensors)


@torch.no_grad()
def roll_out(latents: list[LatentClip], model: CausalTransformer, codec: VideoCodec, seed: int
          ) -> list[Image]:
    """What a model makes of clips of one shape: pictures uint8 [T, H, W, 3] of each.

    model: prepared for inference, with the codec's device and number format.
    """
    config = model.config
    steps = _step_count(config)
    batch = joined(latents)
    noise = Draw((seed, latents[0].info.recording), batch.size).normal(batch.target, (steps,))
    # The weights' own format is that of the products.
    rollout = Rollout(model, TrainingOptions(precision="float32"))
    made = rollout.roll(batch, noise, steps - 1).clip.flatten(1, 2)
    pictures = []
    for clip in made:
        frames = codec.decode(clip[None])[0].float().clamp(-1, 1).add(1).mul(127.5).round()
        pictures.append(np.ascontiguousarray(
            frames.to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()))
    return pictures


def _step_count(config: ModelConfig) -> int:
    return len(FlowSchedule.of(config).warp(config.denoising_steps))


def read_imagined(path: Path) -> dict[int, Image]:
    """Pictures uint8 [T, H, W, 3] by number of the clip, as `imagine_clips` wrote them.

    Raises ClipError, naming the file, when it is missing, damaged or something else.
    """
    import safetensors
    from safetensors import SafetensorError

    opened = safetensors.safe_open
    try:
        with opened(path, framework="np") as file:
            if (file.metadata() or {}).get("format") != IMAGINED_FORMAT:
                raise ClipError(f"{path}: holds no imagined clips; `inspatio data imagine` makes "
                                "such a file")
            keys = list(file.keys())
            return {int(key): decompress(file.get_tensor(key).tobytes()) for key in keys}
    except (SafetensorError, OSError) as error:
        raise ClipError(f"{path}: not readable ({error}); make it again with "
                        "`inspatio data imagine`") from None
