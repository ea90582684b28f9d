# SPDX-License-Identifier: Apache-2.0
# Copyright inspatio_ros contributors
"""The block-wise video transformer of InSpatio-World, in the order in which data goes through it.

For each block of latent frames there is one pass over clean latents (`encode_context`), of which
only keys and values are kept, and a few passes over noisy ones (`predict_flow`) that attend to
those and to themselves. What does not change from pass to pass is made beforehand, once:

    text        -> TextContext    `project_text`, once per prompt
    timestep    -> Modulation     `modulation`, once per listed step
    latent grid -> RopeTables     once per picture size

Architecture: Wan2.1-T2V-1.3B with a patch embedding of 36 channels (noisy latents 16, mask 4,
render 16). Attribute names are the keys of the public checkpoint.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from inspatio_ros.model.attention import Attention
from inspatio_ros.model.cache import ContextStore
from inspatio_ros.model.config import ModelConfig, ModelError
from inspatio_ros.model.layers import (
    AffineNorm,
    CrossAttention,
    FeedForward,
    Head,
    PatchEmbedding,
    SelfAttention,
    linear,
    modulated_norm,
    sinusoid,
)
from inspatio_ros.model.rope import RopeTables, Rotation


@dataclass
class Counters:
    """How often each kind of work was done: what must not be repeated can be asserted."""

    text_projections: int = 0
    modulations: int = 0
    context_passes: int = 0
    denoise_passes: int = 0


@dataclass(frozen=True)
class TextContext:
    """Keys and values `[B or 1, L, H, d]` of the text for every layer."""

    layers: tuple[tuple[Tensor, Tensor], ...]

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return sum(t.numel() * t.element_size() for layer in self.layers for t in layer)


class LayerAddition(Protocol):
    """What a branch beside the transformer adds to the residual stream of a denoise pass."""

    def add(self, index: int, x: Tensor, q: Tensor) -> Tensor:
        """x `[B, N, D]` behind layer `index`, whose rotated queries were q `[B, N, H, d]`."""


@dataclass(frozen=True)
class Modulation:
    """Shifts, gains (one plus the scale) and gates of S timesteps.

    blocks: `[layers, 6, S, 1, D]`: shift, gain, gate of self-attention, then of the feed-forward.
    head: `[2, S, 1, D]`: shift, gain. S is 1 or the batch.
    """

    blocks: Tensor
    head: Tensor


class Block(nn.Module):
    """One layer: attention to context and block, attention to the text, feed-forward."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.eps = config.eps
        self.self_attn = SelfAttention(config)
        self.norm3 = (
            AffineNorm(config.dim, config.eps) if config.cross_attn_norm else nn.Identity()
        )
        self.cross_attn = CrossAttention(config)
        self.ffn = FeedForward(config.dim, config.ffn_dim, config.dim)
        self.modulation = nn.Parameter(torch.randn(1, 6, config.dim) / config.dim**0.5)

    def before_attention(
        self, x: Tensor, modulation: Tensor, rotation: Rotation
    ) -> tuple[Tensor, Tensor, Tensor]:
        """x `[B, N, D]`, modulation `[6, S, 1, D]` -> q, k, v `[B, N, H, d]`."""
        return self.self_attn.forward(self._normed(x, modulation), rotation)

    def keys_values(
        self, x: Tensor, modulation: Tensor, rotation: Rotation
    ) -> tuple[Tensor, Tensor]:
        """Only k, v of the above: all that is needed of the context's last layer."""
        return self.self_attn.keys_values(self._normed(x, modulation), rotation)

    def _normed(self, x: Tensor, modulation: Tensor) -> Tensor:
        y = modulated_norm(x, modulation[0], modulation[1], self.eps)
        return y.to(self.self_attn.q.weight.dtype)

    def after_attention(
        self,
        x: Tensor,
        attended: Tensor,
        modulation: Tensor,
        text: tuple[Tensor, Tensor],
        attention: Attention,
    ) -> Tensor:
        """x `[B, N, D]` with what attention found `[B, N, H, d]` -> the next layer's x."""
        gate, shift2, gain2, gate2 = modulation[2:].unbind(0)
        x = torch.addcmul(x, self.self_attn.o(attended.flatten(2)), gate)
        x = x + self._read_text(x, text, attention)
        y = modulated_norm(x, shift2, gain2, self.eps)
        return torch.addcmul(x, self.ffn(y.to(attended.dtype)), gate2)

    def _read_text(self, x: Tensor, text: tuple[Tensor, Tensor], attention: Attention) -> Tensor:
        keys, values = text
        if keys.shape[1] == 1:  # the softmax over one key is one, whatever the query
            found = values
        else:
            q = self.cross_attn.queries(self.norm3(x).to(keys.dtype))
            batch = q.shape[0]
            found = attention(q, *(t.expand(batch, -1, -1, -1) for t in (keys, values)))
        out: Tensor = self.cross_attn.o(found.flatten(2))
        return out


class CausalTransformer(nn.Module):
    """Predicts the flow of a block of noisy latents, given a context of clean ones.

    attention: name of the kernel (attention.py), picked when the weights are in place.
    float32_residual: keep modulation and the residual stream in float32 whatever the weights'
    format, as Wan2.1 does; otherwise all is in the weights' format, as the public pipeline has it.
    Weights are random until loaded; may be built on the meta device.
    """

    def __init__(
        self, config: ModelConfig, attention: str = "auto", float32_residual: bool = False
    ) -> None:
        super().__init__()
        self.config = config
        self.float32_residual = float32_residual
        self.counters = Counters()
        self._attention_name = attention
        self._compiled = False
        self._attention: tuple[torch.device, torch.dtype, Attention] | None = None

        dim = config.dim
        self.patch_embedding = PatchEmbedding(config)
        self.text_embedding = FeedForward(config.text_dim, dim, dim)
        self.time_embedding = nn.Sequential(
            nn.Linear(config.freq_dim, dim), nn.SiLU(), nn.Linear(dim, dim)
        )
        self.time_projection = nn.Sequential(nn.SiLU(), nn.Linear(dim, 6 * dim))
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.num_layers))
        self.head = Head(config)

    # --- made once -----------------------------------------------------------------------------

    def project_text(self, embedding: Tensor) -> TextContext:
        """Keys and values of a prompt for every layer.

        embedding: `[B or 1, text_len, text_dim]`; all positions count, there is no mask. Raises
        ModelError for another shape or values that are not finite.
        """
        expected = (self.config.text_len, self.config.text_dim)
        if embedding.ndim != 3 or tuple(embedding.shape[1:]) != expected:
            raise ModelError(
                f"a text embedding must be [1, {expected[0]}, {expected[1]}], "
                f"got {list(embedding.shape)}"
            )
        embedding = embedding.to(self.device, self.dtype)
        if embedding.device.type == "cpu" and not bool(embedding.isfinite().all()):
            raise ModelError("the text embedding holds NaN or infinity")
        self.counters.text_projections += 1
        text = self.text_embedding(embedding)
        return TextContext(tuple(layer.cross_attn.keys_values(text) for layer in self._layers()))

    def modulation(self, timesteps: Sequence[float] | Tensor) -> Modulation:
        """Shifts, gains and gates for timesteps `[S]` in 0..1000, S being 1 or the batch."""
        self.counters.modulations += 1
        steps = torch.as_tensor(timesteps, dtype=torch.float32).to(self.device)
        dtype = self.stream_dtype
        features = sinusoid(steps, self.config.freq_dim).to(dtype)
        first, last, projection = self._time_layers()
        embedded = linear(last, F.silu(linear(first, features)))  # [S, D]
        projected = linear(projection, F.silu(embedded)).reshape(len(steps), 6, -1)
        own = torch.cat([layer.modulation for layer in self._layers()]).to(dtype)
        blocks = own[:, :, None] + projected.transpose(0, 1)  # [layers, 6, S, D]
        head = self.head.modulation.to(dtype)[0, :, None] + embedded  # [2, S, D]
        one = torch.tensor([0, 1, 0, 0, 1, 0], device=self.device, dtype=dtype)  # scale -> gain
        return Modulation(
            (blocks + one[:, None, None]).unsqueeze(3), (head + one[:2, None, None]).unsqueeze(2)
        )

    # --- every block ---------------------------------------------------------------------------

    def encode_context(
        self,
        latents: Tensor,
        rotation: Rotation,
        modulation: Modulation,
        text: TextContext,
        store: ContextStore,
    ) -> None:
        """Leave the keys and values of clean latents `[B, F, C, h, w]` in `store`.

        Mask and render channels are zero here. The last layer's queries, attention and
        feed-forward and the head would go unused and are not computed.
        """
        self.counters.context_passes += 1
        x = self._tokens(latents)
        store.begin_context(x.shape[1])
        *layers, last = self._layers()
        for index, layer in enumerate(layers):
            q, k, v = layer.before_attention(x, modulation.blocks[index], rotation)
            store.store(index, k, v)
            attended = self.attention(q, k, v)
            x = layer.after_attention(
                x, attended, modulation.blocks[index], text.layers[index], self.attention
            )
        store.store(len(layers), *last.keys_values(x, modulation.blocks[-1], rotation))

    def predict_flow(
        self,
        noisy: Tensor,
        condition: Tensor | None,
        rotation: Rotation,
        modulation: Modulation,
        text: TextContext,
        store: ContextStore,
        additions: Sequence[LayerAddition] = (),
    ) -> Tensor:
        """The flow `[K, F, C, h, w]` of noisy latents of that shape.

        condition: mask and render `[K, F, mask + C, h, w]`; None for text to video (zeros). The
        context has the same batch, or 1: then all K candidates share it. additions: what branches
        beside the transformer add behind each layer.
        """
        self.counters.denoise_passes += 1
        if condition is not None:
            noisy = torch.cat([noisy.to(condition.dtype), condition], dim=2)
        x = self._tokens(noisy)
        for index, layer in enumerate(self._layers()):
            q, k, v = layer.before_attention(x, modulation.blocks[index], rotation)
            attended = self._attend_behind_context(index, q, k, v, store)
            x = layer.after_attention(
                x, attended, modulation.blocks[index], text.layers[index], self.attention
            )
            for addition in additions:
                x = addition.add(index, x, q)
        shift, gain = modulation.head
        return self._latents(self.head.forward(x, shift, gain), noisy)

    def _attend_behind_context(
        self, index: int, q: Tensor, k: Tensor, v: Tensor, store: ContextStore
    ) -> Tensor:
        """Attention of q, k, v `[K, N, H, d]` to the context and to themselves.

        Candidates that share a context take turns behind it: the context is neither copied nor
        computed again, and each result is the one that the candidate would have alone.
        """
        if q.shape[0] == store.batch:
            return self.attention(q, *store.extend(index, k, v))
        if store.batch != 1:
            raise ModelError(
                f"{q.shape[0]} candidates cannot share a context of batch {store.batch}"
            )
        found = []
        for one in (slice(n, n + 1) for n in range(q.shape[0])):
            keys, values = store.extend(index, k[one], v[one])
            found.append(self.attention(q[one], keys, values))
        return torch.cat(found)

    def _tokens(self, latents: Tensor) -> Tensor:
        """Tokens `[B, N, D]` in the format of the residual stream."""
        return self.patch_embedding.forward(latents.to(self.dtype)).to(self.stream_dtype)

    def _latents(self, patches: Tensor, like: Tensor) -> Tensor:
        """`[B, N, patch * C]` -> `[B, F, C, h, w]`, sized like `like`; C is last in a patch."""
        batch, frames, _, h, w = like.shape
        _, rows, columns = self.config.patch_size
        x = patches.reshape(batch, frames, h // rows, w // columns, rows, columns, -1)
        x = x.permute(0, 1, 6, 2, 4, 3, 5)
        return x.reshape(batch, frames, -1, h, w)

    # --- what it is ----------------------------------------------------------------------------

    def rope_tables(self, grid: tuple[int, int]) -> RopeTables:
        """The rotations of a latent grid (h, w) on this device."""
        return RopeTables(self.config, grid, self.device)

    @property
    def attention(self) -> Attention:
        """The kernel, picked when first asked for and again only if the weights move."""
        place = (self.device, self.dtype)
        if self._attention is None or self._attention[:2] != place:
            self._attention = (*place, Attention(self._attention_name, *place))
        return self._attention[2]

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.patch_embedding.weight.device

    @property
    def dtype(self) -> torch.dtype:
        """Number format of the weights."""
        return self.patch_embedding.weight.dtype

    @property
    def stream_dtype(self) -> torch.dtype:
        """Number format of modulation and residual stream."""
        return torch.float32 if self.float32_residual else self.dtype

    @property
    def nbytes(self) -> int:
        """Bytes of the weights."""
        return sum(p.numel() * p.element_size() for p in self.parameters())

    def prepare_for_inference(self) -> CausalTransformer:
        """Evaluation mode, no gradients, one product for q, k and v; after loading and moving."""
        self.eval().requires_grad_(False)
        for layer in self._layers():
            layer.self_attn.fuse()
        return self

    def compile_blocks(self, backend: Any = "inductor") -> CausalTransformer:
        """Let torch.compile fuse what lies on either side of attention, layer by layer.

        All layers share two compiled functions per shape; attention itself stays the picked
        kernel. The first passes of each shape take long.
        """
        if self._compiled:
            return self
        self._compiled = True
        for layer in self._layers():
            for name in ("before_attention", "after_attention"):
                function = torch.compile(getattr(layer, name), backend=backend, dynamic=False)
                setattr(layer, name, function)
        return self

    def _layers(self) -> list[Block]:
        return [layer for layer in self.blocks if isinstance(layer, Block)]

    def _time_layers(self) -> tuple[nn.Linear, nn.Linear, nn.Linear]:
        layers = (self.time_embedding[0], self.time_embedding[2], self.time_projection[1])
        first, last, projection = (layer for layer in layers if isinstance(layer, nn.Linear))
        return first, last, projection
