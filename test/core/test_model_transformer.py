# SPDX-License-Identifier: Apache-2.0
"""The transformer and its parts: kernels agree, nothing is done twice, nothing waits."""

from __future__ import annotations

import logging
import sys
import types
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from inspatio_ros.model import attention as kernels
from inspatio_ros.model.attention import Attention
from inspatio_ros.model.cache import DifferentiableContext, KVCache
from inspatio_ros.model.config import ModelConfig, ModelError
from inspatio_ros.model.layers import RMSNorm, SelfAttention
from inspatio_ros.model.rope import RopeTables, rotate
from inspatio_ros.model.schedule import FlowSchedule
from inspatio_ros.model.transformer import CausalTransformer, TextContext

CPU = torch.device("cpu")
SMALL = ModelConfig(
    name="small", dim=48, ffn_dim=80, num_heads=2, num_layers=3, freq_dim=8, text_dim=12,
    text_len=5, height=64, width=96,
)
GRID = SMALL.latent_grid


def make(config: ModelConfig = SMALL, seed: int = 0, **options: bool) -> CausalTransformer:
    torch.manual_seed(seed)
    return CausalTransformer(config, **options).eval().requires_grad_(False)


def latents(*lead: int, channels: int = SMALL.latent_channels, seed: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*lead, channels, *GRID, generator=generator)


def text_of(model: CausalTransformer) -> TextContext:
    shape = (1, model.config.text_len, model.config.text_dim)
    return model.project_text(torch.randn(shape, generator=torch.Generator().manual_seed(3)))


def flow_after_context(model: CausalTransformer, candidates: int = 1) -> Tensor:
    cache = KVCache(model.config, 1, model.config.cache_tokens(), CPU, model.dtype)
    rope, text = model.rope_tables(GRID), text_of(model)
    model.encode_context(latents(1, 6), rope.groups(0, 2), model.modulation([0.0]), text, cache)
    condition = latents(candidates, 3, channels=20, seed=5)
    return model.predict_flow(
        latents(candidates, 3, seed=4), condition, rope.block, model.modulation([937.5]), text,
        cache,
    )


# --- attention -------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("head_dim", [24, 64])
def test_every_kernel_that_runs_here_gives_the_same(dtype: torch.dtype, head_dim: int) -> None:
    generator = torch.Generator().manual_seed(0)
    q = torch.randn(2, 40, 3, head_dim, generator=generator).to(dtype)
    k, v = (torch.randn(2, 130, 3, head_dim, generator=generator).to(dtype) for _ in range(2))
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    names = kernels.available(device, dtype)
    assert {"sdpa", "math"} <= set(names)
    expected = kernels.math(q, k, v)
    for name in names:
        found = Attention(name, device, dtype)(*(part.to(device) for part in (q, k, v))).cpu()
        assert found.shape == q.shape
        tolerance = 1e-5 if dtype == torch.float32 else 1e-2
        torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)


def test_the_written_out_kernel_is_a_softmax_over_keys() -> None:
    q = torch.zeros(1, 2, 1, 4)
    k, v = torch.randn(1, 5, 1, 4), torch.randn(1, 5, 1, 4)
    torch.testing.assert_close(kernels.math(q, k, v), v.mean(1, keepdim=True).expand(1, 2, 1, 4))


def test_a_kernel_is_picked_by_name_and_the_choice_is_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.INFO):
        assert Attention("auto", CPU, torch.float32).name == "sdpa"
        assert Attention("math", CPU, torch.float32).name == "math"
    assert "attention: sdpa on cpu" in caplog.text
    assert "attention: math" in caplog.text
    with pytest.raises(ModelError, match="'flash3' cannot run on cpu .* one of math, sdpa"):
        Attention("flash3", CPU, torch.float32)


@pytest.mark.parametrize("with_lse", [True, False])
def test_flash_attention_is_found_by_its_modules(
    monkeypatch: pytest.MonkeyPatch, with_lse: bool
) -> None:
    """A stand-in module with the calling convention of both FlashAttention releases."""

    def flash_attn_func(q: Tensor, k: Tensor, v: Tensor) -> object:
        out = kernels.math(q, k, v)
        return (out, None) if with_lse else out

    module = types.ModuleType("fa3_fwd_interface")
    module.flash_attn_func = flash_attn_func  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "flash_attn_interface", None)
    monkeypatch.setitem(sys.modules, "fa3_fwd_interface", module)
    monkeypatch.setitem(sys.modules, "flash_attn", None)
    assert kernels.flash2() is None
    found = kernels.flash3()
    assert found is not None
    q = torch.randn(1, 3, 2, 8)
    torch.testing.assert_close(found(q, q, q), kernels.math(q, q, q))


@pytest.mark.parametrize(
    ("capability", "dtype", "names", "expected"),
    [
        ((9, 0), torch.bfloat16, {"sdpa", "cudnn", "flash2", "flash3"}, "flash3"),
        ((9, 0), torch.bfloat16, {"sdpa", "cudnn"}, "cudnn"),
        ((10, 0), torch.bfloat16, {"sdpa", "cudnn", "flash2"}, "cudnn"),
        ((8, 9), torch.bfloat16, {"sdpa", "cudnn", "flash2"}, "sdpa"),
        ((9, 0), torch.float32, {"sdpa", "cudnn"}, "sdpa"),
    ],
)
def test_the_preferred_kernel_of_a_gpu(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], dtype: torch.dtype,
    names: set[str], expected: str,
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    name, reason = kernels.preferred(torch.device("cuda"), dtype, names)
    assert name == expected
    assert reason


# --- rope ------------------------------------------------------------------------------------


def test_rotation_keeps_lengths_and_depends_on_distance_only() -> None:
    tables = RopeTables(SMALL, GRID, CPU)
    assert tables.cos.dtype == torch.float32
    tokens = SMALL.block_tokens()
    q, k = torch.randn(1, tokens, 2, 24), torch.randn(1, tokens, 2, 24)
    torch.testing.assert_close(rotate(q, tables.block).norm(dim=-1), q.norm(dim=-1))
    near = (rotate(q, tables.groups(1)) * rotate(k, tables.groups(0))).sum(-1)
    far = (rotate(q, tables.groups(2)) * rotate(k, tables.groups(1))).sum(-1)
    torch.testing.assert_close(near, far, rtol=1e-4, atol=1e-4)
    other = (rotate(q, tables.groups(2)) * rotate(k, tables.groups(0))).sum(-1)
    assert (far - other).abs().max() > 0.1


def test_rotation_has_no_complex_numbers_and_keeps_the_format() -> None:
    tables = RopeTables(SMALL, GRID, CPU)
    q = torch.randn(1, SMALL.block_tokens(), 2, 24)
    cos, sin = tables.block
    pairs = torch.view_as_complex(q.double().reshape(*q.shape[:-1], -1, 2))
    turned = torch.view_as_real(pairs * torch.complex(cos.double(), sin.double())).flatten(-2)
    torch.testing.assert_close(rotate(q, tables.block).double(), turned, rtol=1e-5, atol=1e-6)
    assert rotate(q.bfloat16(), tables.block).dtype == torch.bfloat16


def test_positions_beyond_the_block_do_not_exist() -> None:
    with pytest.raises(ModelError, match="no group 3"):
        RopeTables(SMALL, GRID, CPU).groups(1, 3)


# --- cache -----------------------------------------------------------------------------------


def test_the_cache_is_allocated_once_and_nothing_is_concatenated() -> None:
    cache = KVCache(SMALL, 1, 10, CPU, torch.float32)
    shape = (1, 4, SMALL.num_heads, SMALL.head_dim)
    first, second = torch.randn(shape), torch.randn(shape)
    before = cache.keys.data_ptr(), cache.values.data_ptr(), cache.nbytes
    cache.begin_context(4)
    cache.store(1, first, -first)
    keys, values = cache.extend(1, second, -second)
    assert keys.data_ptr() == cache.keys[1].data_ptr()
    assert torch.equal(keys, torch.cat([first, second], dim=1))
    assert torch.equal(values, -keys)
    keys, _ = cache.extend(1, first, first)
    assert torch.equal(keys[:, 4:], first)
    assert torch.equal(cache.context(1)[0], first)
    assert (cache.keys.data_ptr(), cache.values.data_ptr(), cache.nbytes) == before
    assert cache.device == CPU
    assert cache.nbytes == 2 * SMALL.num_layers * 10 * SMALL.dim * 4
    cache.reset()
    assert cache.length == 0


def test_a_context_longer_than_the_cache_is_refused() -> None:
    cache = KVCache(SMALL, 1, 10, CPU, torch.float32)
    with pytest.raises(ModelError, match="context of 11 tokens does not fit into a cache of 10"):
        cache.begin_context(11)
    cache.begin_context(8)
    own = torch.zeros(1, 3, SMALL.num_heads, SMALL.head_dim)
    with pytest.raises(ModelError, match="3 tokens behind a context of 8"):
        cache.extend(0, own, own)
    with pytest.raises(ModelError, match="holds nothing"):
        KVCache(SMALL, 0, 10, CPU, torch.float32)
    model = make()
    small = KVCache(SMALL, 1, SMALL.block_tokens(), CPU, torch.float32)
    rope, text = model.rope_tables(GRID), text_of(model)
    with pytest.raises(ModelError, match="does not fit into a cache"):
        model.encode_context(
            latents(1, 6), rope.groups(0, 2), model.modulation([0.0]), text, small
        )


def test_the_differentiable_context_gives_the_same_and_lets_gradients_through() -> None:
    model = make()
    rope, text, modulation = model.rope_tables(GRID), text_of(model), model.modulation([625.0])
    context = latents(1, 3).requires_grad_()
    results = []
    for store in (KVCache(SMALL, 1, SMALL.cache_tokens(), CPU, torch.float32),
                  DifferentiableContext(1)):
        with torch.set_grad_enabled(isinstance(store, DifferentiableContext)):
            model.encode_context(context, rope.groups(0), modulation, text, store)
            results.append(model.predict_flow(
                latents(1, 3, seed=2), None, rope.block, modulation, text, store))
    torch.testing.assert_close(results[0], results[1])
    results[1].square().sum().backward()
    assert context.grad is not None
    assert context.grad.abs().max() > 0
    alone = DifferentiableContext(1)
    keys = torch.randn(1, 2, 2, 24)
    assert alone.extend(0, keys, keys)[0] is keys


# --- schedule --------------------------------------------------------------------------------


@pytest.mark.parametrize("steps", [[1000], [1000, 500], [1000, 750, 500, 250],
                                   [1000, 900, 800, 700, 600, 500, 400, 300]])
def test_any_list_of_one_to_eight_steps_is_warped(steps: list[int]) -> None:
    schedule = FlowSchedule.of(SMALL)
    timesteps = schedule.warp(steps)
    even = [step / 1000 for step in steps]
    expected = [1000 * 5 * u / (1 + 4 * u) for u in even]
    assert timesteps == pytest.approx(expected, abs=1e-3)
    assert schedule.sigma_of(timesteps) == pytest.approx([t / 1000 for t in expected], abs=1e-6)


@pytest.mark.parametrize("steps", [[], [0], [1001], [500, 750], [500, 500], list(range(9, 0, -1))])
def test_a_list_of_steps_that_cannot_be_is_refused(steps: list[int]) -> None:
    with pytest.raises(ModelError, match="steps must be 1 to 8 falling numbers"):
        FlowSchedule.of(SMALL).warp(steps)


def test_noise_and_flow_are_inverse() -> None:
    schedule = FlowSchedule.of(SMALL)
    clean, noise = latents(2, 3, seed=7), latents(2, 3, seed=8)
    t = torch.tensor([937.5, 625.0])
    noisy = schedule.add_noise(clean, noise, t)
    torch.testing.assert_close(schedule.clean_from_flow(noise - clean, noisy, t), clean)
    torch.testing.assert_close(
        schedule.flow_from_clean(clean, noisy, t), noise - clean, rtol=1e-4, atol=1e-5
    )
    assert float(schedule.training_weights().mean()) == pytest.approx(1.0)
    with pytest.raises(ModelError, match="shift > 0"):
        FlowSchedule(shift=0.0)


# --- the whole -------------------------------------------------------------------------------


def test_candidates_share_one_context_and_each_gets_its_own_result() -> None:
    model = make()
    together = flow_after_context(model, candidates=3)
    assert model.counters.context_passes == 1
    assert model.counters.denoise_passes == 1
    rope, text = model.rope_tables(GRID), text_of(model)
    cache = KVCache(SMALL, 1, SMALL.cache_tokens(), CPU, torch.float32)
    model.encode_context(latents(1, 6), rope.groups(0, 2), model.modulation([0.0]), text, cache)
    held = cache.nbytes
    noisy, condition = latents(3, 3, seed=4), latents(3, 3, channels=20, seed=5)
    for one in range(3):
        alone = model.predict_flow(
            noisy[one : one + 1], condition[one : one + 1], rope.block, model.modulation([937.5]),
            text, cache,
        )
        torch.testing.assert_close(together[one : one + 1], alone, rtol=1e-5, atol=1e-5)
    assert cache.nbytes == held
    two = KVCache(SMALL, 2, SMALL.cache_tokens(), CPU, torch.float32)
    with pytest.raises(ModelError, match="3 candidates cannot share a context of batch 2"):
        model.predict_flow(noisy, condition, rope.block, model.modulation([937.5]), text, two)


def test_without_a_condition_the_missing_channels_count_as_zeros() -> None:
    model = make()
    rope, text, modulation = model.rope_tables(GRID), text_of(model), model.modulation([833.0])
    store = DifferentiableContext(1)
    zeros = torch.zeros(1, 3, SMALL.condition_channels, *GRID)
    missing = model.predict_flow(latents(1, 3), None, rope.block, modulation, text, store)
    padded = model.predict_flow(latents(1, 3), zeros, rope.block, modulation, text, store)
    torch.testing.assert_close(missing, padded, rtol=1e-5, atol=1e-6)


def test_the_joint_projection_is_the_same_and_never_stale() -> None:
    model, fused = make(), make().prepare_for_inference()
    torch.testing.assert_close(flow_after_context(fused), flow_after_context(model))
    assert list(fused.state_dict()) == list(model.state_dict())
    layer = fused.blocks[0].self_attn
    assert isinstance(layer, SelfAttention)
    assert layer.fused is not None
    assert layer.q.weight.data_ptr() == layer.fused[0].data_ptr()
    other = make(seed=9)
    fused.load_state_dict(other.state_dict())
    torch.testing.assert_close(flow_after_context(fused), flow_after_context(other))
    fused.prepare_for_inference().double()
    assert layer.fused is None
    assert flow_after_context(fused).dtype == torch.float64


def test_one_text_token_takes_the_short_way_to_the_same_result() -> None:
    one = replace(SMALL, text_len=1)
    model = make(one)
    expected_model = make(one)
    short = flow_after_context(model)
    text = text_of(expected_model)
    doubled = (tuple(part.repeat(1, 2, 1, 1) for part in layer) for layer in text.layers)
    twice = TextContext(tuple((keys, values) for keys, values in doubled))
    cache = KVCache(one, 1, one.cache_tokens(), CPU, torch.float32)
    rope = expected_model.rope_tables(GRID)
    expected_model.encode_context(
        latents(1, 6), rope.groups(0, 2), expected_model.modulation([0.0]), twice, cache
    )
    long = expected_model.predict_flow(
        latents(1, 3, seed=4), latents(1, 3, channels=20, seed=5), rope.block,
        expected_model.modulation([937.5]), twice, cache,
    )
    torch.testing.assert_close(short, long, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("float32_residual", [False, True])
def test_sixteen_bit_stays_close_to_single_precision(float32_residual: bool) -> None:
    exact = flow_after_context(make())
    model = make(float32_residual=float32_residual).bfloat16().prepare_for_inference()
    found = flow_after_context(model)
    assert model.stream_dtype == (torch.float32 if float32_residual else torch.bfloat16)
    assert found.dtype == model.stream_dtype
    assert (found.float() - exact).abs().mean() <= 0.02 * exact.abs().mean()


def test_float32_modulation_is_more_exact_than_pure_sixteen_bit() -> None:
    exact = flow_after_context(make())
    errors = [
        (flow_after_context(make(float32_residual=wide).bfloat16()).float() - exact).abs().mean()
        for wide in (True, False)
    ]
    assert errors[0] < errors[1]


def test_modulation_of_a_batch_is_that_of_each_timestep() -> None:
    model = make()
    both = model.modulation([1000.0, 625.0])
    for index, timestep in enumerate((1000.0, 625.0)):
        one = model.modulation([timestep])
        torch.testing.assert_close(both.blocks[:, :, index : index + 1], one.blocks)
        torch.testing.assert_close(both.head[:, index : index + 1], one.head)


def test_the_norm_rounds_before_the_gain() -> None:
    norm = RMSNorm(64, 1e-6).bfloat16()
    norm.weight.data.uniform_(0.5, 2.0)
    x = torch.randn(3, 64).bfloat16()
    wide = x.float()
    plain = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + 1e-6)
    assert torch.equal(norm.forward(x), plain.bfloat16() * norm.weight)


@pytest.mark.parametrize("shape", [(1, 4, 12), (1, 5, 13), (5, 12)])
def test_a_text_embedding_of_another_shape_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ModelError, match=r"must be \[1, 5, 12\]"):
        make().project_text(torch.zeros(shape))


def test_a_text_embedding_that_is_not_finite_is_refused() -> None:
    with pytest.raises(ModelError, match="NaN"):
        make().project_text(torch.full((1, 5, 12), float("nan")))


def test_layers_share_what_is_compiled() -> None:
    """Two functions per shape, not two per layer; the result stays the same."""
    graphs = []

    def backend(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> object:
        graphs.append(graph)
        return graph.forward

    torch._dynamo.reset()
    expected = flow_after_context(make())
    model = make().compile_blocks(backend=backend)
    torch.testing.assert_close(flow_after_context(model), expected)
    assert len(graphs) <= 2 * 2  # context and denoise shapes
    assert model.compile_blocks() is model
    torch._dynamo.reset()
