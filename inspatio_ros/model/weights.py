# SPDX-License-Identifier: Apache-2.0
# Copyright inspatio_ros contributors
"""Strict loading of the public weights and of our own, and digests of files.

A file is `.safetensors` or a torch file read with `weights_only=True`, so that nothing in it can
run. Keys and shapes must be exactly the module's; otherwise one error lists what differs. Any
floating-point format is accepted and cast.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import pickle
import zipfile
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from inspatio_ros.model.config import ModelConfig
from inspatio_ros.model.finisher import Finisher, FinisherConfig
from inspatio_ros.model.presets import INSPATIO_WORLD_1_3B, WAN_T2V_1_3B
from inspatio_ros.model.small_codec import SmallCodec, SmallCodecConfig
from inspatio_ros.model.text_encoder import PromptTokenizer, TextEncoder, UMT5Encoder, UMT5Sizes
from inspatio_ros.model.tiny_vae import TinyVAE, from_published
from inspatio_ros.model.transformer import CausalTransformer
from inspatio_ros.model.wan_vae import WanVAE, WanVAEConfig

logger = logging.getLogger(__name__)

LISTED = 8  # keys of one kind that an error names
DIGESTS_KEPT = 256
FSDP = "_fsdp_wrapped_module."
WRAPPER = "model."

Module = TypeVar("Module", bound=nn.Module)
Shapes = Mapping[str, tuple[int, ...]]


class WeightsError(ValueError):
    """A weights file that is missing, unreadable, unsafe or not the one that is needed."""


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Every tensor of a `.safetensors` or torch file, on the CPU, by its name in the file.

    Raises WeightsError when the file is missing, cut off, not such a file, or a pickle that does
    more than tensors.
    """
    if path.suffix == ".safetensors":
        _check_present(path)
        try:
            return load_file(path, device="cpu")
        except (SafetensorError, OSError) as error:
            raise WeightsError(f"{path}: not a complete safetensors file ({error})") from error
    return _read_torch_file(path, device="cpu")


def read_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Name -> shape of every tensor of a file, without reading the values."""
    if path.suffix == ".safetensors":
        _check_present(path)
        try:
            with safe_open(path, framework="pt") as file:
                names = list(file.keys())
                return {name: tuple(file.get_slice(name).get_shape()) for name in names}
        except (SafetensorError, OSError) as error:
            raise WeightsError(f"{path}: not a complete safetensors file ({error})") from error
    return {name: tuple(t.shape) for name, t in _read_torch_file(path, device="meta").items()}


def read_metadata(path: Path) -> dict[str, str]:
    """The text that a `.safetensors` file carries about itself."""
    _check_present(path)
    try:
        with safe_open(path, framework="pt") as file:
            return dict(file.metadata() or {})
    except (SafetensorError, OSError) as error:
        raise WeightsError(f"{path}: not a complete safetensors file ({error})") from error


def _check_present(path: Path) -> None:
    if not path.is_file():
        raise WeightsError(f"{path}: no such file")


def _read_torch_file(path: Path, device: str) -> dict[str, Tensor]:
    _check_present(path)
    try:
        # mapped into memory where the file's format allows: only what is used is read
        mapped = device == "cpu" and zipfile.is_zipfile(path)
        content = torch.load(path, map_location=device, weights_only=True, mmap=mapped)
    except pickle.UnpicklingError as error:
        reason = str(error).splitlines()[0]
        raise WeightsError(
            f"{path}: refused, it holds more than tensors or is no torch file ({reason})"
        ) from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, TypeError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise WeightsError(f"{path}: not a complete torch file ({reason})") from error
    return _tensors_of(content, path)


def _tensors_of(content: object, path: Path) -> dict[str, Tensor]:
    """The dictionary of tensors, unwrapped where it lies under `state_dict` or `model`."""
    for key in ("state_dict", "model"):
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping):
        raise WeightsError(f"{path}: holds a {type(content).__name__}, expected named tensors")
    others = [name for name, value in content.items() if not isinstance(value, Tensor)]
    if others or not content:
        raise WeightsError(
            f"{path}: {len(others)} entries are no tensors{_some(map(str, others))}"
        )
    return {str(name): value for name, value in content.items()}


def plain_names(names: Iterable[str]) -> dict[str, str]:
    """Name in the file -> name without the prefixes of training.

    `_fsdp_wrapped_module.` goes wherever it is, `model.` in front if all names have it. Raises
    WeightsError when two names become one.
    """
    plain = {name: name.replace(FSDP, "") for name in names}
    if plain and all(name.startswith(WRAPPER) for name in plain.values()):
        plain = {name: short.removeprefix(WRAPPER) for name, short in plain.items()}
    if len(set(plain.values())) < len(plain):
        twice = [name for name, count in Counter(plain.values()).items() if count > 1]
        raise WeightsError(f"{len(twice)} keys occur twice under different prefixes{_some(twice)}")
    return plain


def without_prefixes(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors under their plain names."""
    return {plain: tensors[name] for name, plain in plain_names(tensors).items()}


def differences(found: Shapes, expected: Shapes) -> list[str]:
    """What is wrong with the tensors found, one sentence per kind; empty when nothing is."""
    missing = [name for name in expected if name not in found]
    extra = [name for name in found if name not in expected]
    wrong = [
        f"{name} is {list(found[name])} instead of {list(shape)}"
        for name, shape in expected.items()
        if name in found and tuple(found[name]) != tuple(shape)
    ]
    kinds = (("missing", missing), ("not expected", extra), ("of another shape", wrong))
    return [f"{len(names)} {kind}{_some(names)}" for kind, names in kinds if names]


def shapes_of(module: nn.Module) -> dict[str, tuple[int, ...]]:
    """Name -> shape of a module's state, also when it is on the meta device."""
    return _shapes(module.state_dict())


def _is_finite(tensor: Tensor) -> bool:
    wide = tensor.bfloat16() if tensor.element_size() == 1 else tensor  # float8 has no isfinite
    return bool(wide.isfinite().all())


def _shapes(tensors: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def _some(names: Iterable[str]) -> str:
    """The first few names as a list, with the number of those left out."""
    listed = list(names)
    if not listed:
        return ""
    more = f", and {len(listed) - LISTED} more" if len(listed) > LISTED else ""
    return ": " + ", ".join(listed[:LISTED]) + more


def load_strict(
    module: Module,
    tensors: Mapping[str, Tensor],
    source: object,
    *,
    dtype: torch.dtype | None = torch.float32,
    device: torch.device | str = "cpu",
) -> Module:
    """The module with these tensors as its weights, ready to run.

    It is on `device`, in `dtype`, in evaluation mode, without gradients. The module may be on the
    meta device (nothing is allocated twice then). `dtype` None keeps the file's. Raises
    WeightsError, naming `source`, when names or shapes differ or a tensor is not floating point or
    not finite.
    """
    wrong = differences(_shapes(tensors), shapes_of(module))
    integers = [f"{name} ({t.dtype})" for name, t in tensors.items() if not t.is_floating_point()]
    if integers:
        wrong.append(f"{len(integers)} not floating point{_some(integers)}")
    if wrong:
        raise WeightsError(f"{source}: does not fit {type(module).__name__}: " + "; ".join(wrong))
    cast = {name: t.to(device=device, dtype=dtype or t.dtype) for name, t in tensors.items()}
    infinite = [name for name, t in cast.items() if not _is_finite(t)]
    if infinite:
        raise WeightsError(
            f"{source}: {len(infinite)} tensors hold NaN or infinity{_some(infinite)}"
        )
    module.load_state_dict(cast, strict=True, assign=True)
    unset = [name for name, buffer in module.named_buffers() if buffer.is_meta]
    if unset:
        raise WeightsError(
            f"{type(module).__name__} left {len(unset)} buffers on the meta device{_some(unset)}"
        )
    return module.to(device).eval().requires_grad_(False)


def generator_config(path: Path, *, conditioned: bool = True) -> ModelConfig:
    """The sizes in a Wan folder's `config.json`; conditioned: with mask and render channels.

    The file describes the plain text-to-video model, the generator has wider patches.
    """
    _check_present(path)
    try:
        values = json.loads(path.read_text())
        plain = ModelConfig.from_reference(values)
    except (OSError, UnicodeDecodeError, ValueError, TypeError, AttributeError) as error:
        raise WeightsError(f"{path}: no description of a Wan model ({error})") from error
    return replace(plain, conditioned=conditioned)


def generator_shapes(config: ModelConfig = INSPATIO_WORLD_1_3B) -> dict[str, tuple[int, ...]]:
    """Name -> shape of a generator's weights (825 for the 1.3B)."""
    with torch.device("meta"):
        return shapes_of(CausalTransformer(config))


def base_shapes() -> dict[str, tuple[int, ...]]:
    """Name -> shape of the weights of Wan2.1-T2V-1.3B."""
    return generator_shapes(WAN_T2V_1_3B)


def load_generator(
    path: Path,
    config: ModelConfig = INSPATIO_WORLD_1_3B,
    *,
    dtype: torch.dtype | None = torch.bfloat16,
    device: torch.device | str = "cpu",
) -> CausalTransformer:
    """The generator of an InSpatio-World file, 1.0 or 1.5, with or without training prefixes."""
    tensors = without_prefixes(read_tensors(path))
    with torch.device("meta"):
        model = CausalTransformer(config)
    return load_strict(model, tensors, path, dtype=dtype, device=device)


def load_base(
    path: Path,
    config: ModelConfig = WAN_T2V_1_3B,
    *,
    dtype: torch.dtype | None = torch.bfloat16,
    device: torch.device | str = "cpu",
) -> CausalTransformer:
    """The text-to-video model of `diffusion_pytorch_model.safetensors`.

    With a conditioned `config` the patch embedding gets zero weights for mask and render: the
    start of training a generator, which gives the plain model's results.
    """
    tensors = without_prefixes(read_tensors(path))
    plain = replace(config, conditioned=False)
    wrong = differences(_shapes(tensors), generator_shapes(plain))
    if wrong:
        raise WeightsError(f"{path}: does not fit CausalTransformer: " + "; ".join(wrong))
    name = "patch_embedding.weight"
    added = config.in_dim - plain.in_dim
    tensors[name] = torch.nn.functional.pad(tensors[name], (0, 0, 0, 0, 0, 0, 0, added))
    with torch.device("meta"):
        model = CausalTransformer(config)
    return load_strict(model, tensors, path, dtype=dtype, device=device)


def load_wan_vae(
    path: Path,
    *,
    reference_cache: bool = False,
    dtype: torch.dtype | None = torch.float32,
    device: torch.device | str = "cpu",
) -> WanVAE:
    """The Wan 2.1 VAE of `Wan2.1_VAE.pth` (194 tensors)."""
    with torch.device("meta"):
        codec = WanVAE(WanVAEConfig(reference_cache=reference_cache))
    return load_strict(codec, read_tensors(path), path, dtype=dtype, device=device)


def load_tiny_vae(
    path: Path,
    *,
    chunk_latents: int = 1,
    dtype: torch.dtype | None = torch.float32,
    device: torch.device | str = "cpu",
) -> TinyVAE:
    """The tiny autoencoder of `taew2_1.pth` or its safetensors twin (128 tensors)."""
    with torch.device("meta"):
        codec = TinyVAE(chunk_latents)
    return load_strict(codec, from_published(read_tensors(path)), path, dtype=dtype, device=device)


def load_text_encoder(
    path: Path,
    tokenizer: Path,
    *,
    length: int = 512,
    dtype: torch.dtype | None = torch.bfloat16,
    device: torch.device | str = "cpu",
    sizes: UMT5Sizes | None = None,
) -> TextEncoder:
    """The umT5 encoder (242 tensors for the default sizes) with the tokenizer of a folder."""
    tokens = PromptTokenizer(tokenizer, length)
    with torch.device("meta"):
        encoder = UMT5Encoder(sizes)
    tensors = encoder.from_published(read_tensors(path))
    return TextEncoder(load_strict(encoder, tensors, path, dtype=dtype, device=device), tokens)


SMALL_CODEC_KIND = "inspatio_ros small_codec"


def save_small_codec(codec: SmallCodec, path: Path, dtype: torch.dtype = torch.float32) -> None:
    """Writes the codec's weights in `dtype`, with its sizes, into one safetensors file.

    The latents' statistics stay in float32.
    """
    metadata = {"kind": SMALL_CODEC_KIND, "config": json.dumps(asdict(codec.config))}
    tensors = _stored(codec, dtype) | {n: t.detach().cpu() for n, t in codec.named_buffers()}
    save_file(tensors, path, metadata=metadata)


def load_small_codec(
    path: Path,
    *,
    dtype: torch.dtype | None = torch.float32,
    device: torch.device | str = "cpu",
) -> SmallCodec:
    """The codec that `save_small_codec` wrote."""
    codec = _small_codec_on_meta(path)
    load_strict(codec, read_tensors(path), path, dtype=dtype, device=device)
    codec.use_channels_last()
    return codec


def small_codec_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Name -> shape that a small codec's file must hold by its own sizes."""
    return shapes_of(_small_codec_on_meta(path))


def _small_codec_on_meta(path: Path) -> SmallCodec:
    metadata = read_metadata(path)
    if metadata.get("kind") != SMALL_CODEC_KIND:
        raise WeightsError(f"{path}: is {metadata.get('kind')!r}, expected {SMALL_CODEC_KIND!r}")
    try:
        config = SmallCodecConfig(**json.loads(metadata["config"]))
    except (KeyError, TypeError, ValueError) as error:
        raise WeightsError(f"{path}: no readable sizes of a small codec ({error})") from error
    with torch.device("meta"):
        return SmallCodec(config)


CONFIG_FILE, TRANSFORMER_FILE, CODEC_FILE = (
    "config.json",
    "transformer.safetensors",
    "codec.safetensors",
)
FINISHER_FILE = "finisher.safetensors"
FINISHER_KIND = "inspatio_ros finisher"


def save_finisher(finisher: Finisher, path: Path, dtype: torch.dtype = torch.float32) -> None:
    """Writes the finisher's weights in `dtype`, with its sizes, into one safetensors file."""
    metadata = {"kind": FINISHER_KIND, "config": json.dumps(asdict(finisher.config))}
    save_file(_stored(finisher, dtype), path, metadata=metadata)


def load_finisher(
    path: Path,
    *,
    dtype: torch.dtype | None = torch.float32,
    device: torch.device | str = "cpu",
) -> Finisher:
    """The finisher that `save_finisher` wrote; WeightsError for another or a damaged file."""
    finisher = _finisher_on_meta(path)
    load_strict(finisher, read_tensors(path), path, dtype=dtype, device=device)
    finisher.use_channels_last()
    return finisher


def finisher_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Name -> shape that a finisher's file must hold by its own sizes."""
    return shapes_of(_finisher_on_meta(path))


def is_finished(path: Path) -> bool:
    """Whether a small model's config says that it has a finisher; no for an unreadable one."""
    try:
        return read_config(path).finished
    except WeightsError:
        return False


def _finisher_on_meta(path: Path) -> Finisher:
    metadata = read_metadata(path)
    if metadata.get("kind") != FINISHER_KIND:
        raise WeightsError(f"{path}: is {metadata.get('kind')!r}, expected {FINISHER_KIND!r}")
    try:
        sizes = json.loads(metadata["config"])
        config = FinisherConfig(**{**sizes, "widths": tuple(sizes["widths"])})
    except (KeyError, TypeError, ValueError) as error:
        raise WeightsError(f"{path}: no readable sizes of a finisher ({error})") from error
    with torch.device("meta"):
        return Finisher(config)


def save_small_model(
    folder: Path, model: CausalTransformer, codec: SmallCodec, dtype: torch.dtype = torch.float32,
    finisher: Finisher | None = None,
) -> None:
    """Writes a small model's folder: its config, transformer, codec, and finisher if it has one.

    The weights are stored in `dtype`; float16 halves the size. Raises WeightsError when model and
    codec do not belong together.
    """
    if model.config.codec != codec.name or model.config.latent_channels != codec.latent_channels:
        raise WeightsError(
            f"the model is made for {model.config.codec} with {model.config.latent_channels} "
            f"channels, the codec is {codec.name} with {codec.latent_channels}"
        )
    folder.mkdir(parents=True, exist_ok=True)
    config = replace(model.config, finished=finisher is not None)
    (folder / CONFIG_FILE).write_text(config.to_json() + "\n")
    save_file(_stored(model, dtype), folder / TRANSFORMER_FILE)
    save_small_codec(codec, folder / CODEC_FILE, dtype)
    if finisher is not None:
        save_finisher(finisher, folder / FINISHER_FILE, dtype)


def _stored(module: nn.Module, dtype: torch.dtype) -> dict[str, Tensor]:
    return {n: p.detach().to("cpu", dtype).contiguous() for n, p in module.named_parameters()}


def read_config(path: Path) -> ModelConfig:
    """The sizes that `save_small_model` wrote; WeightsError for other content."""
    _check_present(path)
    try:
        return ModelConfig.from_json(path.read_text())
    except (OSError, UnicodeDecodeError, ValueError, TypeError) as error:
        raise WeightsError(f"{path}: no description of a model ({error})") from error


def load_small_model(
    folder: Path,
    *,
    dtype: torch.dtype | None = torch.float32,
    device: torch.device | str = "cpu",
) -> tuple[CausalTransformer, SmallCodec]:
    """Transformer and codec that `save_small_model` wrote; the config is `model.config`."""
    config = read_config(folder / CONFIG_FILE)
    model = load_generator(folder / TRANSFORMER_FILE, config, dtype=dtype, device=device)
    codec = load_small_codec(folder / CODEC_FILE, dtype=dtype, device=device)
    if codec.latent_channels != config.latent_channels:
        raise WeightsError(
            f"{folder}: the codec has {codec.latent_channels} latent channels, the model "
            f"{config.latent_channels}"
        )
    return model, codec


def file_digest(path: Path, cache: Path | None = None) -> str:
    """SHA-256 of a file in hexadecimal, cached by path, size and modification time."""
    _check_present(path)
    cache = cache or cache_folder() / "digests.json"
    stat = path.stat()
    key = f"{path.resolve()}|{stat.st_size}|{stat.st_mtime_ns}"
    known = _known_digests(cache)
    if key not in known:
        with path.open("rb") as file:
            known[key] = hashlib.file_digest(file, "sha256").hexdigest()
        _write_digests(cache, known)
    return known[key]


def cache_folder() -> Path:
    """Where digests and embeddings are kept: below XDG_CACHE_HOME or ~/.cache."""
    root = os.environ.get("XDG_CACHE_HOME")
    return (Path(root) if root else Path.home() / ".cache") / "inspatio_ros"


def _known_digests(cache: Path) -> dict[str, str]:
    try:
        known = json.loads(cache.read_text())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        logger.warning("ignored the unreadable digest cache %s: %s", cache, error)
        return {}
    return dict(known) if isinstance(known, dict) else {}


def _write_digests(cache: Path, known: dict[str, str]) -> None:
    kept = dict(list(known.items())[-DIGESTS_KEPT:])
    partial = cache.with_suffix(f".{os.getpid()}.partial")
    try:
        cache.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(json.dumps(kept))
        partial.replace(cache)
    except OSError as error:
        logger.warning("could not keep digests in %s: %s", cache, error)
