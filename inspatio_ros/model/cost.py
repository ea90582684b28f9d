# SPDX-License-Identifier: Apache-2.0
# Copyright inspatio_ros contributors
"""How much arithmetic and how many bytes a block costs, by formula from the model's sizes.

A multiply-add counts as two operations. The same formulas give the rooflines of the benchmarks;
the tests hold them against PyTorch's own operation counter.
"""

from __future__ import annotations

from dataclasses import dataclass

from inspatio_ros.model.config import ModelConfig

Grid = tuple[int, int] | None


@dataclass(frozen=True)
class Flops:
    """Floating-point operations by kind.

    linear: projections and feed-forwards. self_attention, cross_attention: scores and sums. text:
    the text's layers, keys and values. ends: patch embedding and head.
    """

    linear: float = 0.0
    self_attention: float = 0.0
    cross_attention: float = 0.0
    text: float = 0.0
    ends: float = 0.0

    @property
    def total(self) -> float:
        """All of them."""
        return (
            self.linear + self.self_attention + self.cross_attention + self.text + self.ends
        )

    def __add__(self, other: Flops) -> Flops:
        return Flops(
            self.linear + other.linear,
            self.self_attention + other.self_attention,
            self.cross_attention + other.cross_attention,
            self.text + other.text,
            self.ends + other.ends,
        )

    def times(self, count: float) -> Flops:
        """The same, `count` times."""
        return Flops(
            self.linear * count,
            self.self_attention * count,
            self.cross_attention * count,
            self.text * count,
            self.ends * count,
        )


def text_flops(config: ModelConfig) -> float:
    """Operations of one prompt: the text's two layers, keys and values of every layer."""
    per_token = config.text_dim * config.dim + config.dim**2
    per_token += config.num_layers * 2 * config.dim**2
    return 2.0 * config.text_len * per_token


def layer_flops(
    config: ModelConfig, queries: int, keys: int, as_published: bool = False
) -> Flops:
    """Operations of one layer for so many query tokens that see so many keys."""
    dim = config.dim
    # one text token needs no query and no scores, and its output is computed once for all
    reads_text = as_published or config.text_len > 1
    products = (6 if reads_text else 4) * dim**2 + 2 * dim * config.ffn_dim
    return Flops(
        linear=2.0 * queries * products + (0.0 if reads_text else 2.0 * dim**2),
        self_attention=4.0 * queries * keys * dim,
        cross_attention=4.0 * queries * config.text_len * dim if reads_text else 0.0,
    )


def pass_flops(config: ModelConfig, queries: int, keys: int) -> Flops:
    """Operations of one whole pass as the public pipeline does it: text and head included."""
    layers = layer_flops(config, queries, keys, as_published=True).times(config.num_layers)
    return layers + Flops(text=text_flops(config)) + _ends(config, queries)


def _ends(config: ModelConfig, queries: int) -> Flops:
    channels = config.in_dim + config.latent_channels
    return Flops(ends=2.0 * queries * config.dim * channels * config.patch_values)


def context_flops(config: ModelConfig, tokens: int) -> Flops:
    """Operations of our context pass: no zero channels, only keys and values in the last layer."""
    dim = config.dim
    ends = Flops(ends=2.0 * tokens * dim * config.latent_channels * config.patch_values)
    last = Flops(linear=2.0 * tokens * 2 * dim**2)
    return layer_flops(config, tokens, tokens).times(config.num_layers - 1) + last + ends


def denoise_flops(config: ModelConfig, queries: int, keys: int) -> Flops:
    """Operations of one of our denoise passes: the text is already projected."""
    return layer_flops(config, queries, keys).times(config.num_layers) + _ends(config, queries)


def block_flops(
    config: ModelConfig,
    grid: Grid = None,
    *,
    steps: int | None = None,
    context_groups: int | None = None,
    candidates: int = 1,
    as_published: bool = False,
) -> Flops:
    """Operations of one block: one context pass, then the steps for each candidate.

    context_groups: 1 for the first block, by default all. as_published: count as the public
    pipeline computes (text in every pass, a complete context pass, for each candidate).
    """
    steps = len(config.denoising_steps) if steps is None else steps
    groups = config.context_groups if context_groups is None else context_groups
    block = config.block_tokens(grid)
    context = groups * block
    if as_published:
        whole = pass_flops(config, context, context)
        whole += pass_flops(config, block, context + block).times(steps)
        return whole.times(candidates)
    denoise = denoise_flops(config, block, context + block).times(steps * candidates)
    return (context_flops(config, context) if context else Flops()) + denoise


def parameter_count(config: ModelConfig) -> int:
    """Weights of the transformer."""
    dim = config.dim

    def linear(inputs: int, outputs: int) -> int:
        return inputs * outputs + outputs

    attention = 4 * linear(dim, dim) + (2 * dim if config.qk_norm else 0)
    layer = 2 * attention + linear(dim, config.ffn_dim) + linear(config.ffn_dim, dim) + 6 * dim
    layer += 2 * dim if config.cross_attn_norm else 0
    ends = linear(config.in_dim * config.patch_values, dim) + 2 * dim
    ends += linear(dim, config.patch_values * config.latent_channels)
    text = linear(config.text_dim, dim) + linear(dim, dim)
    time = linear(config.freq_dim, dim) + linear(dim, dim) + linear(dim, 6 * dim)
    return config.num_layers * layer + ends + text + time


def weight_bytes(config: ModelConfig, element_size: int = 2) -> int:
    """Bytes of the weights."""
    return parameter_count(config) * element_size


def cache_bytes_per_token(config: ModelConfig, element_size: int = 2) -> int:
    """Bytes of one token's keys and values in all layers."""
    return 2 * config.num_layers * config.dim * element_size


def cache_bytes(config: ModelConfig, grid: Grid = None, element_size: int = 2) -> int:
    """Bytes of the key/value cache; candidates share it."""
    return config.cache_tokens(grid) * cache_bytes_per_token(config, element_size)


def activation_bytes(
    config: ModelConfig, queries: int, keys: int, element_size: int = 2
) -> float:
    """Bytes of activations that one pass must at least move when every chain of steps is fused.

    Counted in tensors of queries x dim that are read or written in one layer: norm and modulation
    2, q k v 4, norm and rotation of q and k 4, attention 2 and the keys and values, output with
    gate and residual 3; the same for the text: 2, 2, 2, 2, 3; norm and modulation 2; the two
    feed-forward layers 1 + F/D and F/D + 2.
    """
    tensors = 2 + 4 + 4 + 2 + 2 * keys / queries + 3
    tensors += 2 + 2 + 2 + 2 + 3
    tensors += 2 + 1 + config.ffn_dim / config.dim + config.ffn_dim / config.dim + 2
    return config.num_layers * tensors * queries * config.dim * element_size


def frames_per_second(config: ModelConfig, block_seconds: float) -> float:
    """Pixel frames a second when a block takes so long."""
    return config.block_frames / block_seconds
