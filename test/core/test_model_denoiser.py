# SPDX-License-Identifier: Apache-2.0
"""Blocks of latents: determinism, what is computed how often, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from inspatio_ros.imagination.denoiser import BlockDenoiser
from inspatio_ros.model.config import ModelConfig, ModelError
from inspatio_ros.model.transformer import CausalTransformer

SMALL = ModelConfig(
    name="small", dim=48, ffn_dim=80, num_heads=2, num_layers=2, freq_dim=8, text_dim=12,
    text_len=5, height=64, width=96, first_frames=4,
)
GRID = SMALL.latent_grid


def make(config: ModelConfig = SMALL, **options: Any) -> BlockDenoiser:
    torch.manual_seed(0)
    return BlockDenoiser(CausalTransformer(config).prepare_for_inference(), **options)


def latents(batch: int = 1, channels: int = 16, seed: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, 3, channels, *GRID, generator=generator)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def rollout(denoiser: BlockDenoiser, blocks: int = 3, seed: int = 0) -> list[Tensor]:
    generator, history, made = seeded(seed), None, []
    denoiser.begin()
    for block in range(blocks):
        history = denoiser.block(
            latents(seed=block), history, latents(seed=10 + block), latents(1, 4, 20 + block),
            generator=generator,
        )
        made.append(history)
    return made


def test_one_seed_gives_one_result_and_another_seed_another() -> None:
    denoiser = make()
    first, again, other = (rollout(denoiser, seed=seed) for seed in (0, 0, 1))
    for one, two, three in zip(first, again, other, strict=True):
        assert one.shape == (1, 3, 16, *GRID)
        assert one.dtype == torch.float32
        assert torch.equal(one, two)
        assert not torch.equal(one, three)


def test_a_request_left_in_the_middle_leaves_nothing_behind() -> None:
    denoiser = make()
    expected = rollout(denoiser)
    rollout(denoiser, blocks=2, seed=5)
    assert all(torch.equal(a, b) for a, b in zip(rollout(denoiser), expected, strict=True))


def test_nothing_is_computed_twice() -> None:
    denoiser = make()
    counters = denoiser.counters
    tables = counters.modulations
    assert tables == len(SMALL.denoising_steps) + 1
    denoiser.set_prompt(torch.randn(1, 5, 12))
    rollout(denoiser, blocks=3)
    assert counters.text_projections == 1
    assert counters.modulations == tables
    assert counters.context_passes == 3
    assert counters.denoise_passes == 3 * len(SMALL.denoising_steps)
    rollout(denoiser, blocks=1)
    assert counters.text_projections == 1
    denoiser.set_prompt(None)
    assert counters.text_projections == 2


class HostReads(TorchDispatchMode):
    """Notes every operation that reads a value back to the host or moves one between devices."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        name = str(func)
        devices = {t.device for t in (*args, out) if isinstance(t, Tensor) and t.ndim}
        if "_local_scalar_dense" in name or "item" in name or len(devices) > 1:
            self.found.append(name)
        return out


def test_a_block_reads_nothing_back_to_the_host() -> None:
    denoiser = make(check_finite=False)
    denoiser.begin()
    history = latents()
    with HostReads() as reads:
        denoiser.block(
            latents(), history, latents(), latents(1, 4), generator=seeded()
        )
    assert reads.found == []
    with HostReads() as reads:
        assert latents().sum().item() != 0.0  # the watch itself works
    assert reads.found != []


def test_a_block_runs_where_nothing_can_be_read_back() -> None:
    """On the meta device item(), tolist() and every copy to the host raise."""
    with torch.device("meta"):
        model = CausalTransformer(SMALL)
    denoiser = BlockDenoiser(model)
    denoiser.begin()
    parts = [part.to("meta") for part in (latents(), latents(), latents(), latents(1, 4))]
    noise = torch.empty(4, 1, 3, 16, *GRID, device="meta")
    made = denoiser.block(*parts, noise=noise)
    assert made.shape == (1, 3, 16, *GRID)
    assert denoiser.finite is not None
    with pytest.raises((RuntimeError, NotImplementedError)):
        made.sum().item()


def test_away_from_the_cpu_nan_is_flagged_without_waiting() -> None:
    denoiser = make(check_finite=False)
    denoiser.begin()
    render = latents()
    denoiser.block(latents(), None, render, latents(1, 4), generator=seeded())
    assert denoiser.finite is not None
    assert bool(denoiser.finite)
    render[0, 0, 0, 0, 0] = float("nan")
    denoiser.block(latents(), None, render, latents(1, 4), generator=seeded())
    assert not bool(denoiser.finite)


def test_buffers_are_allocated_once() -> None:
    denoiser = make()
    denoiser.begin()
    assert denoiser.cache is not None
    place, size = denoiser.cache.keys.data_ptr(), denoiser.nbytes
    rollout(denoiser)
    rollout(denoiser, blocks=1)
    assert denoiser.cache.keys.data_ptr() == place
    assert denoiser.nbytes == size
    assert denoiser.nbytes >= denoiser.cache.nbytes > 0
    denoiser.begin((4, 6))
    assert denoiser.nbytes < size
    denoiser.close()
    assert denoiser.nbytes == 0


def test_candidates_over_one_context_equal_requests_of_their_own() -> None:
    denoiser = make()
    denoiser.begin()
    renders, masks = latents(3, seed=3), latents(3, 4, seed=4)
    noise = torch.randn(4, 3, 3, 16, *GRID, generator=seeded())
    before = denoiser.counters.context_passes
    together = denoiser.block(latents(), latents(seed=2), renders, masks, noise=noise)
    assert denoiser.counters.context_passes == before + 1
    for one in range(3):
        own = slice(one, one + 1)
        alone = denoiser.block(
            latents(), latents(seed=2), renders[own], masks[own], noise=noise[:, own]
        )
        torch.testing.assert_close(together[own], alone, rtol=1e-4, atol=1e-5)


def test_several_contexts_run_side_by_side() -> None:
    denoiser = make()
    noise = torch.randn(4, 2, 3, 16, *GRID, generator=seeded())
    inputs = latents(2, seed=1), latents(2, seed=2), latents(2, seed=3), latents(2, 4, seed=4)
    denoiser.begin(contexts=2)
    together = denoiser.block(*inputs, noise=noise)
    denoiser.begin(contexts=1)
    for one in range(2):
        own = slice(one, one + 1)
        alone = denoiser.block(*(part[own] for part in inputs), noise=noise[:, own])
        torch.testing.assert_close(together[own], alone, rtol=1e-4, atol=1e-5)


def test_a_context_can_be_kept_for_several_calls() -> None:
    denoiser = make()
    denoiser.begin()
    noise = torch.randn(4, 1, 3, 16, *GRID, generator=seeded())
    condition = torch.cat([latents(1, 4), latents(seed=6)], dim=2)
    whole = denoiser.block(latents(), None, latents(seed=6), latents(1, 4), noise=noise)
    denoiser.encode_context(latents(), None)
    for _ in range(2):
        assert torch.equal(denoiser.denoise(condition, noise), whole)


def test_text_to_video_needs_neither_render_nor_source() -> None:
    denoiser = make()
    denoiser.begin()
    first = denoiser.block(None, None, None, None, generator=seeded())
    second = denoiser.block(None, first, None, None, generator=seeded())
    assert denoiser.counters.context_passes == 1
    assert denoiser.cache is not None
    assert denoiser.cache.length == SMALL.block_tokens()
    assert not torch.equal(first, second)
    several = denoiser.block(None, first, None, None, generator=seeded(), candidates=2)
    assert several.shape == (2, 3, 16, *GRID)


def test_history_keeps_its_position_with_and_without_a_source() -> None:
    """In text to video the history's rotation is that of group 1, as with a source."""
    denoiser = make()
    denoiser.begin()
    history = latents(seed=2)
    denoiser.encode_context(None, history)
    assert denoiser.cache is not None
    keys = denoiser.cache.context(0)[0].clone()
    denoiser.encode_context(latents(seed=9), history)
    both = denoiser.cache.context(0)[0]
    torch.testing.assert_close(keys, both[:, SMALL.block_tokens() :], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("steps", [(1000,), (1000, 500), tuple(range(1000, 200, -100))])
def test_any_number_of_steps_from_one_to_eight(steps: tuple[int, ...]) -> None:
    denoiser = make(steps=steps)
    made = rollout(denoiser, blocks=1)
    assert denoiser.counters.denoise_passes == len(steps)
    assert bool(made[0].isfinite().all())
    with pytest.raises(ModelError, match="falling numbers"):
        denoiser.set_steps((500, 1000))


def test_tables_follow_the_weights() -> None:
    denoiser = make()
    before = rollout(denoiser, blocks=1)[0]
    other = CausalTransformer(SMALL)
    denoiser.model.load_state_dict(other.state_dict())
    denoiser.refresh()
    denoiser.set_prompt(None)
    fresh = BlockDenoiser(other.prepare_for_inference())
    after = rollout(denoiser, blocks=1)[0]
    assert not torch.equal(before, after)
    torch.testing.assert_close(after, rollout(fresh, blocks=1)[0])


def test_sixteen_bit_blocks_are_close_to_single_precision() -> None:
    exact = rollout(make(), blocks=1)[0]
    torch.manual_seed(0)
    model = CausalTransformer(SMALL).bfloat16().prepare_for_inference()
    rough = rollout(BlockDenoiser(model), blocks=1)[0]
    assert rough.dtype == torch.float32
    assert (rough - exact).abs().mean() <= 0.03 * exact.abs().mean()


Change = Callable[[dict[str, Any]], None]


def setting(name: str, value: Any) -> Change:
    return lambda inputs: inputs.update({name: value})


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (setting("reference", latents()[..., :4]), r"reference must be .* \[1, 3, 16, 8, 12\]"),
        (setting("reference", latents()[:, :0]), "reference holds no frame"),
        (setting("reference", latents()[:, :2]), "reference must be"),
        (setting("reference", torch.cat([latents()] * 3, 1)), "reference must be"),
        (setting("history", latents(channels=4)), "history must be"),
        (setting("history", latents() * float("nan")), "history holds 4608 values"),
        (setting("render", latents() / 0), "render holds 4608 values that are NaN or infinite"),
        (setting("render", None), "render and mask come together"),
        (setting("render", latents(2)), "mask must be"),
        (setting("mask", latents(1, 3)), r"mask must be .* \[1, 3, 4, 8, 12\]"),
        (setting("mask", latents(1, 4).int()), "mask must be floating point"),
        (setting("noise", latents()), r"noise must be \[steps, B, F, C, h, w\]"),
        (setting("generator", None), "needs a generator, or noise"),
        (setting("candidates", 0), "must be|candidates"),
    ],
)
def test_inputs_that_do_not_fit_are_refused(change: Change, reason: str) -> None:
    denoiser = make()
    denoiser.begin()
    inputs: dict[str, Any] = {
        "reference": latents(), "history": latents(), "render": latents(), "mask": latents(1, 4),
        "generator": seeded(),
    }
    change(inputs)
    with pytest.raises(ModelError, match=reason):
        denoiser.block(**inputs)


@pytest.mark.parametrize("frames", [0, 2, 4, 9])
def test_a_context_that_the_cache_cannot_hold_is_refused(frames: int) -> None:
    denoiser = make()
    denoiser.begin()
    context = torch.zeros(1, frames, 16, *GRID)
    with pytest.raises(ModelError, match=f"context of {frames} frames: the cache holds 2 groups"):
        denoiser.encode_context(context, None)
    with pytest.raises(ModelError, match="context of 6 frames"):
        denoiser.encode_context(None, torch.zeros(1, 6, 16, *GRID))


def test_a_denoiser_that_cannot_be_is_refused() -> None:
    with pytest.raises(ModelError, match="CUDA graphs need a CUDA device"):
        make(cuda_graph=True)
    with pytest.raises(ModelError, match="begin"):
        make().block(None, None, None, None, generator=seeded())
    with pytest.raises(ModelError, match="latent grid of 7x12"):
        make().begin((7, 12))
    plain = make(replace(SMALL, conditioned=False))
    plain.begin()
    with pytest.raises(ModelError, match="takes no render"):
        plain.block(None, None, latents(), latents(1, 4), generator=seeded())
    assert plain.block(None, None, None, None, generator=seeded()).shape == (1, 3, 16, *GRID)
    two = make()
    two.begin(contexts=2)
    with pytest.raises(ModelError, match="3 candidates over contexts of batch 2"):
        two.block(latents(2), None, latents(3), latents(3, 4), generator=seeded())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="CUDA graphs need a CUDA device")
def test_a_recorded_block_equals_an_eager_one() -> None:
    eager, recorded = make(), make()
    for denoiser in (eager, recorded):
        denoiser.model.cuda()
    eager = BlockDenoiser(eager.model.prepare_for_inference())
    recorded = BlockDenoiser(recorded.model.prepare_for_inference(), cuda_graph=True)
    for _ in range(2):
        for one, two in zip(rollout(eager), rollout(recorded), strict=True):
            torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-4)
