# SPDX-License-Identifier: Apache-2.0
"""Backends by name: what `model.preset` and `--preset` choose from."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from inspatio_ros.imagination.denoiser import BlockDenoiser
from inspatio_ros.imagination.engine import Backend
from inspatio_ros.imagination.filler import GeometricFiller
from inspatio_ros.imagination.generator import GeneratorBackend, steps_of
from inspatio_ros.imagination.long_rollouts import LongRollout
from inspatio_ros.model.branches import Branches, load_branches
from inspatio_ros.model.checkpoints import load_checkpoint
from inspatio_ros.model.config import ModelError
from inspatio_ros.model.finisher import Finisher
from inspatio_ros.model.presets import preset
from inspatio_ros.model.small_codec import SmallCodec, SmallCodecConfig
from inspatio_ros.model.text_encoder import ConstantText
from inspatio_ros.model.transformer import CausalTransformer
from inspatio_ros.model.weights import (
    CONFIG_FILE,
    FINISHER_FILE,
    TRANSFORMER_FILE,
    WeightsError,
    file_digest,
    load_finisher,
    load_small_model,
)
from inspatio_ros.share import share_folder

log = logging.getLogger(__name__)

PUBLIC = "inspatio_world_1_3b"
TINY = "tiny"
TINY_RANDOM = "tiny_random"
GEOMETRIC = GeometricFiller.name
AUTO = "auto"
BACKENDS = (AUTO, GEOMETRIC, TINY, TINY_RANDOM, PUBLIC)
TINY_FOLDER = "inspatio_tiny"


@dataclass(frozen=True)
class BackendOptions:
    """How to make a backend.

    name: one of BACKENDS. weights: the checkpoint folder of the public model, or the folder of
    another small model; empty: the shipped one. device: torch's name, empty for the first CUDA
    device, else the CPU. steps: listed denoising steps, empty for the model's own. step_count:
    instead, that many of the model's own (0: all). full_vae: the Wan VAE instead of the tiny
    autoencoder. compile, cuda_graph: see BlockDenoiser. seed: of random weights. branches: use the
    branches that lie beside the model's weights (`model/branches.py`). long_rollout: what keeps
    many blocks of a model from drifting. parts: files of
    the public model that lie elsewhere than in its folder, by the names of `checkpoints.PARTS`.
    """

    name: str = AUTO
    weights: str = ""
    device: str = ""
    steps: Sequence[int] = ()
    step_count: int = 0
    full_vae: bool = False
    compile: bool = False
    cuda_graph: bool = False
    seed: int = 0
    branches: bool = True
    long_rollout: LongRollout = LongRollout()
    parts: Mapping[str, Path] = field(default_factory=dict)


def make_backend(options: BackendOptions) -> Backend:
    """The backend that the options name, its weights loaded, its choice logged.

    'auto' is the public 1.3B model when a CUDA device and its weights are there, else the shipped
    small model, else (a checkout without weights) the geometric filler; the log says which and
    why. A name that is asked for is never replaced.
    Raises ValueError for an unknown name, WeightsError when weights are missing or wrong.
    """
    name, reason = choose_backend(options)
    log.info("imagination backend: %s (%s)", name, reason)
    if name == GEOMETRIC:
        return GeometricFiller()
    if name == PUBLIC:
        return _public(options)
    return _small(name, options)


def choose_backend(options: BackendOptions) -> tuple[str, str]:
    """The name of the backend that `make_backend` would make, and why; ValueError if unknown."""
    if options.name not in BACKENDS:
        raise ValueError(f"no backend '{options.name}'; there are {', '.join(BACKENDS)}")
    return (options.name, "asked for") if options.name != AUTO else _automatic(options)


def _automatic(options: BackendOptions) -> tuple[str, str]:
    if torch.cuda.is_available() and options.weights and _device(options).type == "cuda":
        return PUBLIC, f"a CUDA device and weights in {options.weights}"
    folder = _tiny_folder()
    if folder is not None:
        return TINY, f"no CUDA device with weights of the public model; weights in {folder}"
    return GEOMETRIC, "no weights of any model are there"


def _tiny_folder() -> Path | None:
    try:
        folder = share_folder("weights") / TINY_FOLDER
    except FileNotFoundError:
        return None
    return folder if (folder / CONFIG_FILE).is_file() else None


def _device(options: BackendOptions) -> torch.device:
    return torch.device(options.device or ("cuda" if torch.cuda.is_available() else "cpu"))


def compute_dtype(device: torch.device) -> torch.dtype:
    """bfloat16 where the device multiplies it in hardware, else float32."""
    if device.type == "cuda":
        return torch.bfloat16
    # A CPU without the instructions emulates bf16, many times slower than float32.
    return torch.bfloat16 if torch.cpu._is_avx512_bf16_supported() else torch.float32


def _public(options: BackendOptions) -> GeneratorBackend:
    if not options.weights:
        raise WeightsError(
            f"preset {PUBLIC} needs the folder of its weights (model.weights); "
            "`inspatio weights check DIR` says whether one is complete")
    device = _device(options)
    loaded = load_checkpoint(
        Path(options.weights), codec="wan_vae" if options.full_vae else "tiny_vae",
        dtype=compute_dtype(device), device=device, parts=options.parts)
    branches = _branches(Path(options.weights), loaded.generator, options)
    return GeneratorBackend(PUBLIC, _denoiser(loaded.generator, options, branches),
                            loaded.codec.eval(), loaded.text, fixed_size=True,
                            digest=loaded.digests["generator"],
                            long_rollout=options.long_rollout)


def _small(name: str, options: BackendOptions) -> GeneratorBackend:
    device = _device(options)
    finisher: Finisher | None = None
    folder: Path | None = None
    if name == TINY_RANDOM:
        model, codec, finisher = _random(options.seed)
    else:
        folder = Path(options.weights) if options.weights else _tiny_folder()
        if folder is None:
            raise WeightsError(
                f"preset {TINY} needs weights/{TINY_FOLDER}, which this installation lacks; "
                f"choose {GEOMETRIC}, or name a folder with model.weights")
        model, codec = load_small_model(folder)
        if model.config.finished:
            finisher = load_finisher(folder / FINISHER_FILE)
    model = model.to(device, compute_dtype(device))
    codec = codec.to(device, compute_dtype(device))
    if finisher is not None:
        finisher = finisher.to(device, compute_dtype(device)).eval()
        finisher.use_channels_last()
    config = model.config
    branches = Branches() if folder is None else _branches(folder, model, options)
    digest = "" if folder is None else file_digest(folder / TRANSFORMER_FILE)
    return GeneratorBackend(name, _denoiser(model, options, branches), codec.eval(),
                            ConstantText(config.text_len, config.text_dim), fixed_size=False,
                            finisher=finisher, digest=digest, long_rollout=options.long_rollout)


def _random(seed: int) -> tuple[CausalTransformer, SmallCodec, Finisher]:
    """Random weights by seed alone: the global generator is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return (CausalTransformer(preset(TINY_RANDOM)), SmallCodec(SmallCodecConfig()),
                Finisher())


def _branches(folder: Path, model: CausalTransformer, options: BackendOptions) -> Branches:
    if not options.branches:
        return Branches()
    branches = load_branches(folder, model.config).to(model.device, model.dtype)
    for kind in ("stereo", "control"):
        if getattr(branches, kind) is not None:
            log.info("%s: with its %s branch", model.config.name, kind)
    return branches


def _denoiser(model: CausalTransformer, options: BackendOptions,
              branches: Branches) -> BlockDenoiser:
    if options.steps and options.step_count:
        raise ModelError("give either steps or step_count")
    steps = tuple(options.steps) or steps_of(model.config, options.step_count or None)
    return BlockDenoiser(model.prepare_for_inference(), steps, compile=options.compile,
                         cuda_graph=options.cuda_graph, stereo=branches.stereo,
                         control=branches.control)
