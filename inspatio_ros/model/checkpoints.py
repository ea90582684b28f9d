# SPDX-License-Identifier: Apache-2.0
# Copyright inspatio_ros contributors
"""A checkpoint folder: what it holds, whether this machine can run it, and loading it.

The folder is the reference's own:

    InSpatio-World-1.3B/
        InSpatio-World-1.3B.safetensors             the generator, or
        InSpatio-World-1.5-1.3B.safetensors         its successor
    Wan2.1-T2V-1.3B/
        config.json                                 sizes of the generator
        Wan2.1_VAE.pth                              the VAE
        models_t5_umt5-xxl-enc-bf16.pth             the text encoder
        google/umt5-xxl/                            its tokenizer
        diffusion_pytorch_model.safetensors         where the generator began (training only)
    taehv/taew2_1.pth                               the tiny autoencoder
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import torch
from torch import nn

from inspatio_ros.model import weights
from inspatio_ros.model.codec import VideoCodec
from inspatio_ros.model.config import ModelConfig
from inspatio_ros.model.presets import INSPATIO_WORLD_1_3B
from inspatio_ros.model.text_encoder import CachedText, EmbeddingStore, TextSource, UMT5Encoder
from inspatio_ros.model.tiny_vae import TinyVAE
from inspatio_ros.model.transformer import CausalTransformer
from inspatio_ros.model.wan_vae import WanVAE
from inspatio_ros.model.weights import Shapes, WeightsError

GIB = 2**30
BF16, FP32 = 2, 4  # bytes of a weight while the model runs: the 1.3B, the small ones
USABLE = 0.9  # share of the free memory that a plan may take

Decision = Literal["allow", "degrade", "deny"]
State = Literal["ok", "missing", "wrong"]


@dataclass(frozen=True)
class Part:
    """One thing in the folder: where it may lie, best place first, and what it must hold."""

    name: str
    title: str
    places: tuple[str, ...]
    expected: Callable[[], Shapes] | None = None
    check: Callable[[Path], object] | None = None
    convert: Callable[[Shapes], Shapes] = dict


def _on_meta(build: Callable[[], nn.Module]) -> Shapes:
    with torch.device("meta"):
        return weights.shapes_of(build())


def _text_shapes() -> Shapes:
    with torch.device("meta"):
        encoder = UMT5Encoder()
    shapes = weights.shapes_of(encoder)
    return {published: shapes[name] for published, name in encoder.names_in_file().items()}


def _taew_rows(found: Shapes) -> Shapes:
    """The published tiny autoencoder has 512 rows where 256 count."""
    key = "decoder.7.conv.weight"
    if found.get(key, ())[:1] != (512,):
        return found
    return {**found, key: (256, *found[key][1:])}


def _plain(found: Shapes) -> Shapes:
    return {plain: found[name] for name, plain in weights.plain_names(found).items()}


WAN = "Wan2.1-T2V-1.3B"
PARTS: tuple[Part, ...] = (
    Part(
        "generator",
        "InSpatio-World 1.3B generator",
        (
            "InSpatio-World-1.3B/InSpatio-World-1.3B.safetensors",
            "InSpatio-World-1.3B/InSpatio-World-1.5-1.3B.safetensors",
            "InSpatio-World-1.3B/InSpatio-World-1.3B.pth",
        ),
        weights.generator_shapes,
        convert=_plain,
    ),
    Part(
        "generator_config",
        "sizes of the generator",
        (f"{WAN}/config.json",),
        check=weights.generator_config,
    ),
    Part(
        "tiny_vae",
        "tiny autoencoder (taew2_1)",
        (
            "taehv/taew2_1.pth",
            "taehv/taew2_1.safetensors",
            "taehv/safetensors/taew2_1.safetensors",
        ),
        lambda: _on_meta(TinyVAE),
        convert=_taew_rows,
    ),
    Part(
        "wan_vae",
        "Wan 2.1 VAE",
        (f"{WAN}/Wan2.1_VAE.safetensors", f"{WAN}/Wan2.1_VAE.pth"),
        lambda: _on_meta(WanVAE),
    ),
    Part(
        "text_encoder",
        "umT5-XXL text encoder",
        (
            f"{WAN}/models_t5_umt5-xxl-enc-bf16.safetensors",
            f"{WAN}/models_t5_umt5-xxl-enc-bf16.pth",
        ),
        _text_shapes,
    ),
    Part("tokenizer", "its tokenizer", (f"{WAN}/google/umt5-xxl",)),
    Part(
        "base",
        "Wan 2.1 T2V 1.3B (training only)",
        (f"{WAN}/diffusion_pytorch_model.safetensors",),
        weights.base_shapes,
    ),
)


def find_parts(folder: Path) -> dict[str, Path]:
    """Name of the part -> file or folder, for all that is there.

    `folder` may also be the one that contains `checkpoints/`. Raises WeightsError when the folder
    is missing.
    """
    if not folder.is_dir():
        raise WeightsError(f"{folder}: no such folder")
    inner = folder / "checkpoints"
    root = inner if inner.is_dir() else folder
    found = {}
    for part in PARTS:
        there = [root / place for place in part.places if (root / place).exists()]
        if there:
            found[part.name] = there[0]
    return found


@dataclass(frozen=True)
class PartReport:
    """One part as it was found: `detail` says what is missing or wrong."""

    name: str
    title: str
    state: State
    path: str = ""
    detail: str = ""
    nbytes: int = 0
    tensors: int = 0
    parameters: int = 0
    sha256: str = ""


def inspect_part(part: Part, path: Path | None, *, digest: bool = True) -> PartReport:
    """A report on one part; names and shapes are compared, values are not read."""
    if path is None:
        places = " or ".join(part.places)
        return PartReport(part.name, part.title, "missing", detail=f"expected {places}")
    if path.is_dir():
        return _inspect_tokenizer(part, path, digest=digest)
    report = PartReport(
        part.name,
        part.title,
        "ok",
        str(path),
        nbytes=path.stat().st_size,
        sha256=weights.file_digest(path) if digest else "",
    )
    try:
        if part.check is not None:
            part.check(path)
        found = {} if part.expected is None else part.convert(weights.read_shapes(path))
        expected = {} if part.expected is None else part.expected()
    except WeightsError as error:
        return replace(report, state="wrong", detail=str(error))
    wrong = "; ".join(weights.differences(found, expected))
    parameters = sum(torch.Size(shape).numel() for shape in found.values())
    state: State = "wrong" if wrong else "ok"
    return replace(report, state=state, detail=wrong, tensors=len(found), parameters=parameters)


def _inspect_tokenizer(part: Part, path: Path, *, digest: bool) -> PartReport:
    """The folder's report; its digest is the SHA-256 over its files' names and digests."""
    files = sorted(file for file in path.iterdir() if file.is_file())
    sums = [f"{file.name} {weights.file_digest(file)}" for file in files] if digest else []
    sha256 = hashlib.sha256("\n".join(sums).encode()).hexdigest() if digest else ""
    there = any(file.name in ("tokenizer.json", "spiece.model") for file in files)
    return PartReport(
        part.name,
        part.title,
        "ok" if there else "wrong",
        str(path),
        "" if there else "holds neither tokenizer.json nor spiece.model",
        sum(file.stat().st_size for file in files),
        sha256=sha256,
    )


@dataclass(frozen=True)
class Machine:
    """Where the model would run and what is free there, in bytes."""

    device: str
    free: int
    host_free: int

    @staticmethod
    def here() -> Machine:
        """This machine: its first CUDA device, else the CPU."""
        host = free_host_memory()
        if not torch.cuda.is_available():
            return Machine("cpu", host, host)
        free, _ = torch.cuda.mem_get_info(0)
        return Machine(torch.cuda.get_device_name(0), free, host)


def free_host_memory() -> int:
    """Bytes that this process may still take, within its control group."""
    page = os.sysconf("SC_PAGE_SIZE")
    free = os.sysconf("SC_AVPHYS_PAGES") * page
    for line in _lines(Path("/proc/meminfo")):
        if line.startswith("MemAvailable:"):
            free = int(line.split()[1]) * 1024
    limit, used = (
        "".join(_lines(Path("/sys/fs/cgroup") / name)) for name in ("memory.max", "memory.current")
    )
    if limit.isdigit() and used.isdigit():
        free = min(free, max(0, int(limit) - int(used)))
    return free


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except OSError:  # not Linux, or no control group: nothing to read
        return []


@dataclass(frozen=True)
class Verdict:
    """Whether the machine can run what was found: decision, sum, and what is given up."""

    decision: Decision
    reason: str
    device: str
    free: int
    needed: int
    terms: dict[str, int] = field(default_factory=dict)
    given_up: tuple[str, ...] = ()


GENERATOR = INSPATIO_WORLD_1_3B
KEY_VALUE_BYTES = GENERATOR.cache_tokens() * GENERATOR.num_layers * 2 * GENERATOR.dim * BF16
# Estimates of activations in bf16 at 480x832: of a block; of a codec, the Wan VAE in tiles of 256
# pixels when lean.
ACTIVATION_BYTES = int(0.6e9)
# Weights of what must be there, as published.
PUBLISHED = {"generator": 1_419_119_680, "tiny_vae": 11_315_539}
TINY_CODEC_BYTES = int(1.5e9)
WAN_CODEC_BYTES = int(4.0e9)
TILED_WAN_CODEC_BYTES = int(1.5e9)
SMALL_ACTIVATION_BYTES = int(0.3e9)


def judge(parameters: Mapping[str, int], machine: Machine) -> Verdict:
    """Allow, degrade or deny: `parameters` counts the weights of each usable part by its name.

    Allow: everything stays on the device. Degrade: the cheaper codec, and the text encoder only
    while a prompt is new, on the host, or stored embeddings where there is none. Deny: not even
    that fits, or a part is missing; the sum then counts the published size of what is missing.
    """
    lacking = _lacking(parameters)
    counted = {**PUBLISHED, **parameters} if lacking else dict(parameters)
    full, lean = _full_plan(counted), _lean_plan(counted)
    if lacking:
        return _verdict("deny", f"missing: {', '.join(lacking)}", machine, lean)
    budget = int(machine.free * USABLE)
    cuts = _cuts(full, lean, parameters, machine, rest=budget - sum(lean.values()))
    cuda = machine.device != "cpu"
    if cuda and "text_encoder" in full and sum(full.values()) <= budget:
        return _verdict("allow", "everything stays on the device", machine, full)
    if sum(lean.values()) > budget:
        short = sum(lean.values()) - budget
        reason = f"{short / GIB:.1f} GiB more would have to be free, even with every cut"
        return _verdict("deny", reason, machine, lean, cuts)
    plan = full if cuda and sum(full.values()) <= budget else lean
    return _verdict("degrade", "fits with cuts", machine, plan, cuts)


def _verdict(
    decision: Decision,
    reason: str,
    machine: Machine,
    terms: dict[str, int],
    given_up: tuple[str, ...] = (),
) -> Verdict:
    needed = sum(terms.values())
    return Verdict(decision, reason, machine.device, machine.free, needed, terms, given_up)


def _lacking(parameters: Mapping[str, int]) -> list[str]:
    lacking = [] if "generator" in parameters else ["generator"]
    if "tiny_vae" not in parameters and "wan_vae" not in parameters:
        lacking.append("tiny_vae or wan_vae")
    return lacking


def _cuts(
    full: Mapping[str, int],
    lean: Mapping[str, int],
    parameters: Mapping[str, int],
    machine: Machine,
    *,
    rest: int,
) -> tuple[str, ...]:
    """What a degraded plan gives up; `rest` bytes of the device's budget are left beside it."""
    cuda = machine.device != "cpu"
    cuts = [] if cuda else ["speed: no CUDA device, a block takes minutes"]
    room = machine.host_free if cuda else rest
    if "text_encoder" not in full:
        cuts.append("new prompts: no text encoder with its tokenizer, only stored embeddings")
        return tuple(cuts)
    if parameters["text_encoder"] * BF16 > room:
        cuts.append("new prompts: the text encoder does not fit, only stored embeddings")
    else:
        cuts.append("a resident text encoder: it is loaded for a new prompt only")
    if "wan_vae" in full:
        cuts.append("the untiled Wan VAE" if "wan_vae" in lean else "the Wan VAE")
    return tuple(cuts)


def _full_plan(parameters: Mapping[str, int]) -> dict[str, int]:
    plan = _common_plan(parameters)
    for name, activations in (("wan_vae", WAN_CODEC_BYTES), ("tiny_vae", TINY_CODEC_BYTES)):
        if name in parameters:
            plan[name] = parameters[name] * BF16
            plan[f"{name} activations"] = activations
            break
    if "text_encoder" in parameters and "tokenizer" in parameters:
        plan["text_encoder"] = parameters["text_encoder"] * BF16
    return plan


def _lean_plan(parameters: Mapping[str, int]) -> dict[str, int]:
    plan = _common_plan(parameters)
    name, activations = "tiny_vae", TINY_CODEC_BYTES
    if name not in parameters:
        name, activations = "wan_vae", TILED_WAN_CODEC_BYTES
    plan[name] = parameters[name] * BF16
    plan[f"{name} activations"] = activations
    return plan


def _common_plan(parameters: Mapping[str, int]) -> dict[str, int]:
    return {
        "generator": parameters["generator"] * BF16,
        "key-value cache": KEY_VALUE_BYTES,
        "activations": ACTIVATION_BYTES,
    }


@dataclass(frozen=True)
class FolderReport:
    """A whole folder: its parts and the verdict on this machine."""

    folder: str
    parts: tuple[PartReport, ...]
    verdict: Verdict

    @property
    def wrong(self) -> bool:
        """True when a file is there but is not what it should be."""
        return any(part.state == "wrong" for part in self.parts)


def inspect_folder(folder: Path, machine: Machine, *, digest: bool = True) -> FolderReport:
    """What is in the folder, what is missing or wrong, and whether `machine` can run it.

    The folder is the reference's or a small model's own.
    """
    if (folder / weights.TRANSFORMER_FILE).is_file():
        return _inspect_small_model(folder, machine, digest=digest)
    found = find_parts(folder)
    parts = tuple(inspect_part(part, found.get(part.name), digest=digest) for part in PARTS)
    usable = {part.name: part.parameters for part in parts if part.state == "ok"}
    return FolderReport(str(folder), parts, judge(usable, machine))


def _inspect_small_model(folder: Path, machine: Machine, *, digest: bool) -> FolderReport:
    description = folder / weights.CONFIG_FILE
    small: tuple[Part, ...] = (
        Part("config", "sizes", (weights.CONFIG_FILE,), check=weights.read_config),
        Part(
            "transformer",
            "small model",
            (weights.TRANSFORMER_FILE,),
            lambda: weights.generator_shapes(weights.read_config(description)),
        ),
        Part(
            "codec",
            "small codec",
            (weights.CODEC_FILE,),
            lambda: weights.small_codec_shapes(folder / weights.CODEC_FILE),
        ),
    )
    if description.is_file() and weights.is_finished(description):
        small += (Part("finisher", "finisher", (weights.FINISHER_FILE,),
                       lambda: weights.finisher_shapes(folder / weights.FINISHER_FILE)),)
    places = {part.name: folder / part.places[0] for part in small}
    parts = tuple(
        inspect_part(part, path if path.is_file() else None, digest=digest)
        for part, path in zip(small, places.values(), strict=True)
    )
    lacking = [part.name for part in parts if part.state != "ok"]
    if lacking:
        verdict = _verdict("deny", f"missing or wrong: {', '.join(lacking)}", machine, {})
        return FolderReport(str(folder), parts, verdict)
    return FolderReport(
        str(folder), parts, _judge_small_model(parts, weights.read_config(description), machine)
    )


def _judge_small_model(
    parts: tuple[PartReport, ...], config: ModelConfig, machine: Machine
) -> Verdict:
    terms = {part.name: part.parameters * FP32 for part in parts if part.parameters}
    terms["key-value cache"] = config.cache_tokens() * config.num_layers * 2 * config.dim * FP32
    terms["activations"] = SMALL_ACTIVATION_BYTES
    if sum(terms.values()) <= machine.free * USABLE:
        return _verdict("allow", "everything fits", machine, terms)
    return _verdict("deny", "too little memory is free", machine, terms)


@dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint folder brings to run: `digests` holds SHA-256 by part."""

    config: ModelConfig
    generator: CausalTransformer
    codec: VideoCodec
    text: TextSource
    digests: dict[str, str]


def load_checkpoint(
    folder: Path,
    *,
    codec: Literal["tiny_vae", "wan_vae"] = "tiny_vae",
    reference_cache: bool = False,
    dtype: torch.dtype = torch.bfloat16,
    device: torch.device | str = "cpu",
    embeddings: Path | None = None,
    parts: Mapping[str, Path] | None = None,
) -> Checkpoint:
    """Generator, codec and text of the reference's folder, on `device` in `dtype`.

    The text encoder is only loaded for a prompt without a stored embedding (`embeddings`: their
    folder, else below the cache). `parts`: files that lie elsewhere, by name.
    Raises WeightsError when a needed part is missing or wrong.
    """
    found = {**find_parts(folder), **(parts or {})}
    lacking = [name for name in ("generator", codec) if name not in found]
    if lacking:
        raise WeightsError(f"{folder}: missing {', '.join(lacking)}; see inspatio weights check")
    config = GENERATOR
    if "generator_config" in found:
        config = weights.generator_config(found["generator_config"])
    generator = weights.load_generator(found["generator"], config, dtype=dtype, device=device)
    loaded: VideoCodec
    if codec == "tiny_vae":
        chunk = 1 if torch.device(device).type == "cpu" else config.frames_per_block
        loaded = weights.load_tiny_vae(
            found[codec], chunk_latents=chunk, dtype=dtype, device=device
        )
    else:
        loaded = weights.load_wan_vae(
            found[codec], reference_cache=reference_cache, dtype=dtype, device=device
        )
    used: list[str] = [name for name in ("generator", codec, "text_encoder") if name in found]
    digests = {name: weights.file_digest(found[name]) for name in used}
    store = EmbeddingStore(embeddings or weights.cache_folder() / "embeddings")
    text = _text_source(found, digests, store, config, dtype=dtype, device=device)
    return Checkpoint(replace(config, codec=codec), generator, loaded, text, digests)


def _text_source(
    found: Mapping[str, Path],
    digests: Mapping[str, str],
    store: EmbeddingStore,
    config: ModelConfig,
    *,
    dtype: torch.dtype,
    device: torch.device | str,
) -> CachedText:
    if "text_encoder" not in found or "tokenizer" not in found:
        return CachedText(store, digests.get("text_encoder"), None)

    def load() -> TextSource:
        return weights.load_text_encoder(
            found["text_encoder"],
            found["tokenizer"],
            length=config.text_len,
            dtype=dtype,
            device=device,
        )

    return CachedText(store, digests["text_encoder"], load)
