# SPDX-License-Identifier: Apache-2.0
# Copyright inspatio_ros contributors
"""Prompts to text embeddings: the umT5 encoder, stored embeddings, a constant for no text.

The encoder of Wan 2.1 (umT5-XXL, 5.7 billion parameters) is `transformers`' UMT5EncoderModel under
other key names; it gives the same numbers. It is needed once per prompt: `CachedText` keeps what
it made on disk, so that it does not stay in memory and later runs do not need it at all.
"""

from __future__ import annotations

import hashlib
import html
import logging
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

logger = logging.getLogger(__name__)


class TextError(ValueError):
    """Text that cannot be embedded, or a tokenizer or package that is missing."""


class TextSource(Protocol):
    """Anything that turns a prompt into what the transformer attends to."""

    def embed(self, prompt: str) -> Tensor:
        """Embedding `[1, L, D]` of the prompt."""
        ...


@dataclass(frozen=True)
class UMT5Sizes:
    """Sizes of a umT5 encoder; the defaults are umT5-XXL's."""

    vocabulary: int = 256384
    width: int = 4096
    attention_width: int = 4096
    feed_forward: int = 10240
    heads: int = 64
    layers: int = 24
    buckets: int = 32
    max_distance: int = 128

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if value < 1:
                raise TextError(f"{name} must be positive, got {value}")
        if self.attention_width % self.heads:
            raise TextError(f"{self.heads} heads do not divide {self.attention_width} channels")


class UMT5Encoder(nn.Module):
    """The umT5 encoder: token ids and a mask to hidden states, as `transformers` computes it."""

    def __init__(self, sizes: UMT5Sizes | None = None) -> None:
        super().__init__()
        self.sizes = sizes or UMT5Sizes()
        try:
            from transformers import UMT5Config, UMT5EncoderModel
        except ImportError as error:
            raise TextError(
                "the text encoder needs the package transformers: "
                "pip install 'inspatio_ros[text]', or use stored embeddings"
            ) from error
        config = UMT5Config(
            vocab_size=self.sizes.vocabulary,
            d_model=self.sizes.width,
            d_kv=self.sizes.attention_width // self.sizes.heads,
            d_ff=self.sizes.feed_forward,
            num_layers=self.sizes.layers,
            num_heads=self.sizes.heads,
            relative_attention_num_buckets=self.sizes.buckets,
            relative_attention_max_distance=self.sizes.max_distance,
            feed_forward_proj="gated-gelu",
            dropout_rate=0.0,
        )
        self.encoder = UMT5EncoderModel(config)

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Hidden states `[B, L, D]` of ids and mask (1 at tokens), int64 `[B, L]` each."""
        hidden: Tensor = self.encoder(input_ids=ids, attention_mask=mask).last_hidden_state
        return hidden

    def names_in_file(self) -> dict[str, str]:
        """Published key -> name of the parameter in this module; each stands for one tensor."""
        names = {
            "token_embedding.weight": "encoder.encoder.embed_tokens.weight",
            "norm.weight": "encoder.encoder.final_layer_norm.weight",
        }
        for layer in range(self.sizes.layers):
            block = f"encoder.encoder.block.{layer}"
            attention, feed_forward = f"{block}.layer.0.SelfAttention", f"{block}.layer.1"
            names |= {f"blocks.{layer}.attn.{p}.weight": f"{attention}.{p}.weight" for p in "qkvo"}
            names |= {
                f"blocks.{layer}.pos_embedding.embedding.weight": (
                    f"{attention}.relative_attention_bias.weight"
                ),
                f"blocks.{layer}.norm1.weight": f"{block}.layer.0.layer_norm.weight",
                f"blocks.{layer}.norm2.weight": f"{feed_forward}.layer_norm.weight",
                f"blocks.{layer}.ffn.gate.0.weight": f"{feed_forward}.DenseReluDense.wi_0.weight",
                f"blocks.{layer}.ffn.fc1.weight": f"{feed_forward}.DenseReluDense.wi_1.weight",
                f"blocks.{layer}.ffn.fc2.weight": f"{feed_forward}.DenseReluDense.wo.weight",
            }
        return names

    def from_published(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The file's tensors under this module's names; unknown names stay, to be seen."""
        names = self.names_in_file()
        renamed = {names.get(key, key): value for key, value in tensors.items()}
        embedding = renamed.get("encoder.encoder.embed_tokens.weight")
        if embedding is not None and "encoder.shared.weight" in self.state_dict():
            renamed["encoder.shared.weight"] = embedding  # one tensor, two names in older versions
        return renamed


def clean_prompt(prompt: str) -> str:
    """The prompt as in training: text mended, HTML unescaped twice, single spaces."""
    if not isinstance(prompt, str):
        raise TextError(f"a prompt must be text, got {type(prompt).__name__}")
    if not prompt.isascii():
        try:
            import ftfy
        except ImportError as error:
            raise TextError(
                "prompts beyond ASCII need the package ftfy: pip install 'inspatio_ros[text]'"
            ) from error
        prompt = ftfy.fix_text(prompt)
    prompt = html.unescape(html.unescape(prompt))
    return re.sub(r"\s+", " ", prompt).strip()


class PromptTokenizer:
    """Prompts to token ids of a fixed length, by the tokenizer folder of the checkpoint."""

    def __init__(self, folder: Path, length: int = 512) -> None:
        if not folder.is_dir() or not any(
            (folder / name).is_file() for name in ("tokenizer.json", "spiece.model")
        ):
            raise TextError(
                f"no tokenizer in {folder}: expected tokenizer.json or spiece.model "
                "of google/umt5-xxl"
            )
        try:
            from transformers import AutoTokenizer
        except ImportError as error:
            raise TextError(
                "the tokenizer needs the package transformers: pip install 'inspatio_ros[text]'"
            ) from error
        self.length = length
        self._tokenizer: Any = AutoTokenizer.from_pretrained(
            str(folder), local_files_only=True, trust_remote_code=False
        )

    def __call__(self, prompt: str) -> tuple[Tensor, Tensor]:
        """Token ids and mask, int64 `[1, length]` each, padded or truncated."""
        tokens = self._tokenizer(
            [clean_prompt(prompt)],
            padding="max_length",
            truncation=True,
            max_length=self.length,
            add_special_tokens=True,
            return_tensors="pt",
        )
        return tokens["input_ids"], tokens["attention_mask"]


class TextEncoder:
    """Tokenizer and umT5 together: the embedding of a prompt, zero at the positions past its end.

    The transformer attends to all positions, the zero ones included, without a mask.
    """

    def __init__(
        self, model: UMT5Encoder, tokenizer: Callable[[str], tuple[Tensor, Tensor]]
    ) -> None:
        self.model = model.eval()
        self.tokenizer = tokenizer

    @torch.inference_mode()
    def embed(self, prompt: str) -> Tensor:
        """Embedding `[1, L, D]` in the model's number format, on its device."""
        ids, mask = self.tokenizer(prompt)
        return self.embed_tokens(ids, mask)

    @torch.inference_mode()
    def embed_tokens(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Embedding `[B, L, D]` of token ids int64 `[B, L]`, zero where the mask is."""
        if ids.ndim != 2 or ids.shape != mask.shape:
            raise TextError(
                f"ids and mask must both be [B, L], got {list(ids.shape)} and {list(mask.shape)}"
            )
        if int(ids.min()) < 0 or int(ids.max()) >= self.model.sizes.vocabulary:
            raise TextError(
                f"token ids reach from {int(ids.min())} to {int(ids.max())}, the vocabulary has "
                f"{self.model.sizes.vocabulary}: tokenizer and encoder do not belong together"
            )
        device = next(self.model.parameters()).device
        ids, mask = ids.to(device), mask.to(device)
        hidden = self.model(ids, mask)
        return hidden * mask.unsqueeze(-1).to(hidden.dtype)  # type: ignore[no-any-return]


class ConstantText:
    """The same embedding for every prompt, for models without text: zeros unless given."""

    def __init__(self, length: int, width: int, value: Tensor | None = None) -> None:
        if length < 1 or width < 1:
            raise TextError(f"length and width must be positive, got {length} and {width}")
        self.value = torch.zeros(1, length, width) if value is None else value
        if self.value.shape != (1, length, width) or not bool(self.value.isfinite().all()):
            raise TextError(
                f"the constant must be finite [1, {length}, {width}], got {list(self.value.shape)}"
            )

    def embed(self, prompt: str) -> Tensor:
        """The constant `[1, L, D]`; the prompt has no effect."""
        return self.value


class EmbeddingStore:
    """Embeddings on disk, one safetensors file each, found by prompt and encoder digest.

    Holds at most `capacity` files: the ones not used for longest go first and are counted in
    `evicted`. A file that cannot be read is removed, counted in `unreadable` and reported as
    absent.
    """

    def __init__(self, folder: Path, capacity: int = 256) -> None:
        if capacity < 1:
            raise TextError(f"capacity must be at least 1, got {capacity}")
        self.folder = folder
        self.capacity = capacity
        self.evicted = 0
        self.unreadable = 0

    def path(self, prompt: str, digest: str) -> Path:
        """Where the embedding of this prompt by this encoder belongs."""
        key = hashlib.sha256(f"{digest}\n{clean_prompt(prompt)}".encode()).hexdigest()
        return self.folder / f"{key[:32]}.safetensors"

    def load(self, prompt: str, digest: str | None) -> Tensor | None:
        """The stored embedding `[1, L, D]`, or None; without a digest any encoder's newest."""
        if digest is None:
            paths = sorted(self._files(), key=_modified, reverse=True)
        else:
            paths = [self.path(prompt, digest)]
        for path in paths:
            stored = self._read(path)
            if stored is None:
                continue
            embedding, metadata = stored
            if metadata.get("prompt") == clean_prompt(prompt) and (
                digest is None or metadata.get("encoder") == digest
            ):
                os.utime(path)
                return embedding
            if digest is not None:
                raise TextError(f"{path} holds another prompt's embedding: {metadata}")
        return None

    def _read(self, path: Path) -> tuple[Tensor, dict[str, str]] | None:
        if not path.is_file():
            return None
        try:
            with safe_open(path, framework="pt") as file:
                return file.get_tensor("embedding"), dict(file.metadata() or {})
        except (SafetensorError, OSError) as error:
            logger.warning("removed unreadable embedding %s: %s", path, error)
            path.unlink(missing_ok=True)
            self.unreadable += 1
            return None

    def save(self, prompt: str, digest: str, embedding: Tensor) -> Path:
        """Stores an embedding `[1, L, D]`; returns its file."""
        if embedding.ndim != 3 or embedding.shape[0] != 1:
            raise TextError(f"an embedding must be [1, L, D], got {list(embedding.shape)}")
        if not bool(embedding.isfinite().all()):
            raise TextError(f"the embedding of {prompt!r} is not finite")
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.path(prompt, digest)
        partial = path.with_suffix(f".{os.getpid()}.partial")
        metadata = {"prompt": clean_prompt(prompt), "encoder": digest}
        save_file({"embedding": embedding.detach().cpu().contiguous()}, partial, metadata=metadata)
        partial.replace(path)
        self._evict()
        return path

    def _evict(self) -> None:
        files = sorted(self._files(), key=_modified)
        for path in files[: max(0, len(files) - self.capacity)]:
            path.unlink(missing_ok=True)
            self.evicted += 1

    def _files(self) -> list[Path]:
        return list(self.folder.glob("*.safetensors"))


def _modified(path: Path) -> int:
    return path.stat().st_mtime_ns


class CachedText:
    """Embeddings from the store; the encoder is loaded for a new prompt only, then let go.

    Without an encoder on this machine the digest may be None: any stored embedding of the prompt
    will do then.
    """

    def __init__(
        self,
        store: EmbeddingStore,
        digest: str | None,
        load_encoder: Callable[[], TextSource] | None,
    ) -> None:
        if load_encoder is not None and digest is None:
            raise TextError("an encoder needs a digest, under which its embeddings are stored")
        self.store = store
        self.digest = digest
        self.load_encoder = load_encoder

    def embed(self, prompt: str) -> Tensor:
        """Embedding `[1, L, D]`; raises TextError for a new prompt when there is no encoder."""
        stored = self.store.load(prompt, self.digest)
        if stored is not None:
            return stored
        if self.load_encoder is None or self.digest is None:
            raise TextError(
                f"no stored embedding of the prompt {prompt!r} in {self.store.folder} and no text "
                "encoder to make it"
            )
        embedding = self.load_encoder().embed(prompt).cpu()
        self.store.save(prompt, self.digest, embedding)
        return embedding
