# SPDX-License-Identifier: Apache-2.0
# Copyright inspatio_ros contributors
"""One block of latents: one context pass, then a few denoise passes that predict clean latents.

    context   keys and values of [reference | history], clean
    steps     flow = model([x | mask | render]);  x0 = x - s flow;  x = (1 - s') x0 + s' n'

with fresh noise n' before every further step and x0 of the last one as the result (Self-Forcing).
Nothing inside a block waits for the device: noise levels are numbers, tables are made beforehand.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from inspatio_ros.imagination.conditioning import condition_channels, context_frames
from inspatio_ros.model.cache import ContextStore, KVCache
from inspatio_ros.model.config import ModelError
from inspatio_ros.model.control_branch import ControlBranch
from inspatio_ros.model.rope import RopeTables
from inspatio_ros.model.schedule import FlowSchedule
from inspatio_ros.model.stereo import RetrievedViews, StereoBranch
from inspatio_ros.model.transformer import (
    CausalTransformer,
    Counters,
    LayerAddition,
    Modulation,
    TextContext,
)

logger = logging.getLogger(__name__)

GRAPH_WARM_UPS = 3


class BlockDenoiser:
    """Makes blocks of latents with one model; one request at a time.

        denoiser.set_prompt(embedding)            once per prompt
        denoiser.begin(grid)                      once per request
        latents = denoiser.block(reference, history, render, mask, generator=generator)

    steps: listed steps, falling, by default the model's own. compile: let torch.compile fuse what
    lies around attention. cuda_graph: record whole blocks as CUDA graphs and replay them; one per
    combination of inputs (CUDA only). check_finite: look for NaN in what comes in; None means on
    the CPU, because elsewhere the host would have to wait: there `finite` tells after the block.
    stereo, control: branches beside the model; without them a block takes no views and no rays.
    Raises ModelError for steps or inputs that do not fit the model.
    """

    def __init__(
        self,
        model: CausalTransformer,
        steps: Sequence[int] | None = None,
        *,
        compile: bool = False,
        cuda_graph: bool = False,
        check_finite: bool | None = None,
        stereo: StereoBranch | None = None,
        control: ControlBranch | None = None,
    ) -> None:
        self.model = model
        self.stereo, self.control = stereo, control
        self.config = model.config
        if cuda_graph and model.device.type != "cuda":
            raise ModelError(f"CUDA graphs need a CUDA device, the model is on {model.device}")
        self.check_finite = model.device.type == "cpu" if check_finite is None else check_finite
        self.finite: Tensor | None = None
        self.schedule = FlowSchedule.of(self.config)
        self.text: TextContext | None = None
        self.grid: tuple[int, int] | None = None
        self.rope: RopeTables | None = None
        self.cache: KVCache | None = None
        self._cuda_graph = cuda_graph
        self._graphs: dict[tuple[object, ...], CapturedBlock] = {}
        if compile:
            model.compile_blocks()
        self.set_steps(self.config.denoising_steps if steps is None else steps)

    # --- once ----------------------------------------------------------------------------------

    @torch.no_grad()
    def set_steps(self, steps: Sequence[int]) -> None:
        """Use these listed steps from now on; makes their tables."""
        self.steps = tuple(steps)
        self.timesteps = self.schedule.warp(steps)
        self.sigmas = self.schedule.sigma_of(self.timesteps)
        self.refresh()

    @torch.no_grad()
    def refresh(self) -> None:
        """Make the tables of all timesteps again, after the weights have changed."""
        self._step_modulations = [self.model.modulation([t]) for t in self.timesteps]
        self._context_modulation = self.model.modulation([self.config.context_timestep])
        self._graphs.clear()

    @torch.no_grad()
    def set_prompt(self, embedding: Tensor | None) -> None:
        """Project a prompt's embedding `[1, text_len, text_dim]`; None: the null prompt, zeros."""
        if embedding is None:
            embedding = torch.zeros(1, self.config.text_len, self.config.text_dim)
        self.text = self.model.project_text(embedding)
        self._graphs.clear()

    @torch.no_grad()
    def begin(self, grid: tuple[int, int] | None = None, contexts: int = 1) -> None:
        """Get ready for blocks on a latent grid (h, w), by default the model's own.

        contexts: batch of the context, 1 for one request with any number of candidates. Buffers
        are kept when neither changes. A prompt that was set stays; without one it is the null one.
        """
        grid = self.config.latent_grid if grid is None else (int(grid[0]), int(grid[1]))
        tokens = self.config.cache_tokens(grid)
        if self.text is None:
            self.set_prompt(None)
        if self.rope is None or grid != self.grid:
            self.grid, self.rope = grid, self.model.rope_tables(grid)
            self.cache = None
        if self.cache is None or self.cache.batch != contexts:
            place = (self.model.device, self.model.dtype)
            self.cache = KVCache(self.config, contexts, tokens, *place)
            self._graphs.clear()
        self.cache.reset()
        self.finite = None

    def close(self) -> None:
        """Free caches, tables and graphs; the model stays."""
        self._graphs.clear()
        self.cache = self.rope = self.grid = self.text = self.finite = None

    @property
    def counters(self) -> Counters:
        """What the model has computed so far."""
        return self.model.counters

    @property
    def nbytes(self) -> int:
        """Bytes held besides the weights: the cache and the text's keys and values."""
        held = (self.cache, self.text)
        return sum(part.nbytes for part in held if part is not None)

    # --- every block ---------------------------------------------------------------------------

    @torch.inference_mode()
    def block(
        self,
        reference: Tensor | None,
        history: Tensor | None,
        render: Tensor | None,
        mask: Tensor | None,
        *,
        generator: torch.Generator | None = None,
        noise: Tensor | None = None,
        candidates: int | None = None,
        views: RetrievedViews | None = None,
        rays: Tensor | None = None,
    ) -> Tensor:
        """Clean latents `[K, F, C, h, w]` float32 of one block; F is frames_per_block.

        reference, history: `[B, F, C, h, w]`, source latents aligned in time and the block made
        before; either may be None. render `[K, F, C, h, w]`, mask `[K, F, stride, h, w]`: both, or
        neither for text to video. K is B, or B is 1 and K candidates share the context. Noise is
        drawn from `generator`, or given as `[steps, K, F, C, h, w]`. candidates: K, needed only
        for text to video with several candidates. views: what the stereo branch looks at; rays
        `[K, F, 6, h, w]`: for the control branch (see `RAY_CHANNELS`).
        Raises ModelError for inputs that do not fit or are not finite.
        """
        batch = self._check(reference, history, render, mask, candidates)
        if noise is None:
            noise = self._draw(batch, generator)
        self._check_shape("noise", noise, self.config.latent_channels, batch, len(self.steps))
        self._check_branches(views, rays, render, batch)
        extra = (None,) * 5 if views is None else views.tensors()
        inputs = tuple(
            None if part is None else part.to(self.model.device, non_blocking=True)
            for part in (reference, history, render, mask, noise, rays, *extra)
        )
        if not self.check_finite:
            self.finite = _all_finite(inputs)
        if self._cuda_graph:
            return self._replay(inputs)
        return self._run(*inputs)

    def _run(
        self,
        reference: Tensor | None,
        history: Tensor | None,
        render: Tensor | None,
        mask: Tensor | None,
        noise: Tensor | None,
        rays: Tensor | None = None,
        *views: Tensor | None,
    ) -> Tensor:
        """The block as a function of tensors alone, so that it can be recorded."""
        assert noise is not None
        self.encode_context(reference, history)
        additions: list[LayerAddition] = []
        given = tuple(part for part in views if part is not None)
        if self.stereo is not None and given:
            _, _, text = self._ready()
            additions.append(self.stereo.prepare(
                self.model, RetrievedViews(*given), self._context_modulation, text))
        if self.control is not None and None not in (rays, render, mask):
            assert rays is not None
            assert render is not None
            assert mask is not None
            additions.append(self.control.prepare(render, mask, rays))
        condition = None
        if render is not None and mask is not None:
            condition = condition_channels(mask, render)
        return self.denoise(condition, noise, additions)

    @torch.inference_mode()
    def encode_context(self, reference: Tensor | None, history: Tensor | None) -> None:
        """The context pass alone: what `denoise` attends to until the next one.

        Raises ModelError when the frames are no whole groups, or more than the cache has room for.
        """
        rope, cache, text = self._ready()
        frames, group = context_frames(reference, history)
        cache.reset()
        if frames is not None:
            groups, rest = divmod(frames.shape[1], self.config.frames_per_block)
            if rest or not 1 <= groups <= self.config.context_groups - group:
                raise ModelError(
                    f"a context of {frames.shape[1]} frames: the cache holds "
                    f"{self.config.context_groups} groups of {self.config.frames_per_block}"
                )
            self.model.encode_context(
                frames, rope.groups(group, groups), self._context_modulation, text, cache
            )

    @torch.inference_mode()
    def denoise(self, condition: Tensor | None, noise: Tensor,
                additions: Sequence[LayerAddition] = ()) -> Tensor:
        """The steps alone, over the context of the last `encode_context`.

        condition: `[K, F, stride + C, h, w]` or None. noise: `[steps, K, F, C, h, w]`.
        """
        rope, cache, text = self._ready()
        return run_steps(
            self.model, self._step_modulations, self.sigmas, condition, noise, rope, text, cache,
            additions,
        )

    def _ready(self) -> tuple[RopeTables, KVCache, TextContext]:
        if self.rope is None or self.cache is None or self.text is None:
            raise ModelError("begin() comes before the first block")
        return self.rope, self.cache, self.text

    def _draw(self, batch: int, generator: torch.Generator | None) -> Tensor:
        """Noise `[steps, K, F, C, h, w]` float32: the start, then one draw per further step."""
        if generator is None:
            raise ModelError("a block needs a generator, or noise, so that it can be repeated")
        assert self.grid is not None
        shape = (len(self.steps), batch, self.config.frames_per_block)
        return torch.randn(
            *shape, self.config.latent_channels, *self.grid,
            generator=generator, device=generator.device, dtype=torch.float32,
        )

    def graph_pool(self) -> Any:
        """The memory pool of the graphs recorded so far."""
        return next((recorded.graph.pool() for recorded in self._graphs.values()), None)

    def _replay(self, inputs: tuple[Tensor | None, ...]) -> Tensor:
        key = tuple(None if part is None else (part.shape, part.dtype) for part in inputs)
        if key not in self._graphs:
            self._graphs[key] = CapturedBlock(self, inputs)
        return self._graphs[key](inputs)

    # --- what does not fit ---------------------------------------------------------------------

    def _check(
        self,
        reference: Tensor | None,
        history: Tensor | None,
        render: Tensor | None,
        mask: Tensor | None,
        candidates: int | None,
    ) -> int:
        """The number of candidates, after looking at everything that was given."""
        _, cache, _ = self._ready()
        channels = self.config.latent_channels
        if (render is None) != (mask is None):
            raise ModelError("render and mask come together; neither is text to video")
        if render is not None and not self.config.conditioned:
            raise ModelError(f"{self.config.name} takes no render: it is a text-to-video model")
        for name, part in (("reference", reference), ("history", history)):
            if part is not None:
                self._check_shape(name, part, channels, cache.batch)
        batch = cache.batch if candidates is None else candidates
        if render is not None and mask is not None:
            batch = render.shape[0] if render.ndim == 5 and candidates is None else batch
            self._check_shape("render", render, channels, batch)
            self._check_shape("mask", mask, self.config.mask_channels, batch)
        if batch < 1 or cache.batch not in (1, batch):
            raise ModelError(
                f"{batch} candidates over contexts of batch {cache.batch}: give one context or "
                "as many contexts as candidates"
            )
        return batch

    def _check_branches(self, views: RetrievedViews | None, rays: Tensor | None,
                        render: Tensor | None, batch: int) -> None:
        assert self.grid is not None
        if views is not None:
            if self.stereo is None:
                raise ModelError(f"{self.config.name} has no stereo branch to look at views with")
            views.check(self.config, batch, self.grid)
        if rays is not None and (self.control is None or render is None):
            raise ModelError(f"{self.config.name}: rays need a control branch and a render")

    def _check_shape(
        self, name: str, part: Tensor, channels: int, batch: int, steps: int | None = None
    ) -> None:
        assert self.grid is not None
        leading = () if steps is None else (steps,)
        expected = (*leading, batch, self.config.frames_per_block, channels, *self.grid)
        letters = "[B, F, C, h, w]" if steps is None else "[steps, B, F, C, h, w]"
        if part.ndim == len(expected) and 0 in part.shape:
            raise ModelError(f"{name} holds no frame: {letters} is {list(part.shape)}")
        if tuple(part.shape) != expected:
            raise ModelError(
                f"{name} must be {letters} = {list(expected)} for this model and grid, "
                f"got {list(part.shape)}"
            )
        if not part.is_floating_point():
            raise ModelError(f"{name} must be floating point, got {part.dtype}")
        if self.check_finite and not bool(part.isfinite().all()):
            count = int((~part.isfinite()).sum())
            raise ModelError(f"{name} holds {count} values that are NaN or infinite")


def run_steps(
    model: CausalTransformer,
    modulations: Sequence[Modulation],
    sigmas: Sequence[float],
    condition: Tensor | None,
    noise: Tensor,
    rope: RopeTables,
    text: TextContext,
    store: ContextStore,
    additions: Sequence[LayerAddition] = (),
) -> Tensor:
    """x0 `[K, F, C, h, w]` float32 after all steps, from noise `[steps, K, F, C, h, w]`.

    Also the trainer's rollout: gradients flow where they are enabled. The x0 arithmetic is in
    float32, whatever the model's format.
    """
    x = noise[0].float()
    clean = x
    for step, sigma in enumerate(sigmas):
        if step:
            x = (1.0 - sigma) * clean + sigma * noise[step].float()
        flow = model.predict_flow(x, condition, rope.block, modulations[step], text, store,
                                  additions)
        clean = x - sigma * flow.float()
    return clean


def _all_finite(parts: tuple[Tensor | None, ...]) -> Tensor:
    """A 0-d bool tensor on the device: nothing waits for it here."""
    flags = [part.isfinite().all() for part in parts if part is not None]
    return torch.stack(flags).all()


class CapturedBlock:
    """A recorded block: copies its inputs into place and replays it (CUDA only).

    Captured after a few warm-up runs on a side stream, as PyTorch's documentation asks. The cache,
    tables and weights that it was recorded with must stay where they are; the denoiser drops its
    graphs whenever one of them changes.
    """

    def __init__(self, denoiser: BlockDenoiser, inputs: tuple[Tensor | None, ...]) -> None:
        self.inputs = tuple(None if part is None else part.clone() for part in inputs)
        current = torch.cuda.current_stream()
        side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        side.wait_stream(current)
        with torch.cuda.stream(side):
            for _ in range(GRAPH_WARM_UPS):
                denoiser._run(*self.inputs)
        current.wait_stream(side)
        self.graph = torch.cuda.CUDAGraph()
        # replayed one at a time, with outputs copied out: all graphs can share their workspace
        with torch.cuda.graph(self.graph, pool=denoiser.graph_pool()):
            self.output = denoiser._run(*self.inputs)
        logger.info("recorded a block of %s as a CUDA graph", denoiser.config.name)

    def __call__(self, inputs: tuple[Tensor | None, ...]) -> Tensor:
        """The block's latents for new inputs of the same shapes."""
        for place, part in zip(self.inputs, inputs, strict=True):
            if place is not None and part is not None:
                place.copy_(part, non_blocking=True)
        self.graph.replay()
        return self.output.clone()
