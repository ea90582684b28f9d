# SPDX-License-Identifier: Apache-2.0
"""Training of the branches beside a transformer: flow matching with retrieved views and rays.

    L = sum w |model(x_s, s, render, mask, views, rays; context) - (n - x0)|^2 / sum w

The transformer stays as it is unless `train_model` is set, so that its own checkpoint is still the
one that the branches are for. A share of the samples has no views, so that a frame without one is
made as before.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from inspatio_ros.imagination.conditioning import condition_channels
from inspatio_ros.model.branches import save_branch
from inspatio_ros.model.control_branch import ControlBranch
from inspatio_ros.model.rope import RopeTables
from inspatio_ros.model.schedule import FlowSchedule
from inspatio_ros.model.stereo import StereoBranch
from inspatio_ros.model.transformer import CausalTransformer, LayerAddition
from inspatio_ros.model.weights import CONFIG_FILE, TRANSFORMER_FILE
from inspatio_ros.training.clips import ClipError
from inspatio_ros.training.codec_trainer import rate_at
from inspatio_ros.training.objectives import project, remember
from inspatio_ros.training.saving import load_state, save_state, save_tensors
from inspatio_ros.training.view_pairs import PairedClip, views_of

STATE_FILE = "branches_state.pt"


@dataclass(frozen=True)
class BranchTraining:
    """Everything that decides the outcome besides the data and the weights begun with.

    stereo: layout of that branch, or '' for none. control: train a control branch. train_model:
    the transformer too. steps, batch (blocks); learning_rate falls by a cosine to a twentieth
    after `warm_up` steps. drop: samples without views. ema: of the weights kept.
    """

    stereo: str = "offset"
    control: bool = False
    train_model: bool = False
    steps: int = 2000
    batch: int = 8
    learning_rate: float = 5e-4
    warm_up: int = 100
    drop: float = 0.1
    ema: float = 0.998
    seed: int = 0
    bfloat16: bool = False

    def __post_init__(self) -> None:
        if min(self.steps, self.batch) < 1:
            raise ValueError("steps and batch must be positive")
        if not self.stereo and not self.control:
            raise ValueError("neither a stereo nor a control branch is asked for")


class BranchModel(nn.Module):
    """The transformer with its branches, as one flow of blocks."""

    def __init__(self, model: CausalTransformer, options: BranchTraining) -> None:
        super().__init__()
        self.model = model
        self.stereo = StereoBranch(model.config, options.stereo) if options.stereo else None
        self.control = ControlBranch(model.config) if options.control else None
        self._ropes: dict[tuple[int, int], RopeTables] = {}
        model.requires_grad_(options.train_model)

    def trained(self) -> dict[str, nn.Parameter]:
        """The parameters that learn, by name."""
        return {name: p for name, p in self.named_parameters() if p.requires_grad}

    def flow(self, parts: dict[str, Tensor], history: Tensor | None, noisy: Tensor, sigma: Tensor,
             with_views: bool = True) -> Tensor:
        """The flow `[S, F, C, h, w]` of noisy blocks; parts as `PairedClip`'s, `[S, F, ...]`."""
        model, config = self.model, self.model.config
        grid = (noisy.shape[-2], noisy.shape[-1])
        if grid not in self._ropes:
            self._ropes[grid] = model.rope_tables(grid)
        rope, text = self._ropes[grid], project(model, None)
        store = remember(model, parts["source"], history, rope, text, len(noisy))
        additions: list[LayerAddition] = []
        if self.stereo is not None and with_views:
            clean = model.modulation([config.context_timestep])
            additions.append(self.stereo.prepare(model, views_of(parts), clean, text))
        if self.control is not None:
            additions.append(self.control.prepare(parts["render"], parts["mask"], parts["rays"]))
        return model.predict_flow(
            noisy, condition_channels(parts["mask"], parts["render"]), rope.block,
            model.modulation(sigma * config.train_timesteps), text, store, additions).float()


class BlockSampler:
    """Random blocks of clips with pairs, a function of seed and step alone."""

    def __init__(self, clips: Sequence[PairedClip], options: BranchTraining, sigmas: Tensor
                 ) -> None:
        self._clips = [clip for clip in clips if clip.info.task == "v2v"]
        if not self._clips:
            raise ClipError("no clip with pairs to train on")
        self._options, self._sigmas = options, sigmas

    def batch(self, step: int) -> tuple[dict[str, Tensor], Tensor | None, Tensor, Tensor]:
        """Parts, histories (None: first blocks), noise and noise levels of step `step`."""
        o = self._options
        g = torch.Generator().manual_seed((o.seed * 1_000_003 + step) % 2**62)
        first = bool(torch.rand((), generator=g) < 0.5)
        able = [c for c in self._clips if first or c.parts["target"].shape[0] > 1] or self._clips
        shape = able[int(torch.randint(len(able), (), generator=g))].parts["target"].shape[1:]
        able = [c for c in able if c.parts["target"].shape[1:] == shape]
        chosen, histories = [], []
        for _ in range(o.batch):
            parts = able[int(torch.randint(len(able), (), generator=g))].parts
            blocks = parts["target"].shape[0]
            block = 0 if first or blocks == 1 else 1 + int(
                torch.randint(blocks - 1, (), generator=g))
            own = {name: part[block] for name, part in parts.items()}
            if bool(torch.rand((), generator=g) < o.drop):
                own["view_valid"] = torch.zeros_like(own["view_valid"])
            chosen.append(own)
            histories.append(parts["target"][block - 1] if block else None)
        stacked = {name: torch.stack([one[name] for one in chosen]) for name in chosen[0]}
        known = [part for part in histories if part is not None]
        history = torch.stack(known) if len(known) == len(histories) else None
        noise = torch.randn(stacked["target"].shape, generator=g)
        sigma = self._sigmas[torch.randint(len(self._sigmas), (o.batch,), generator=g)]
        return stacked, history, noise, sigma


def branch_loss(model: BranchModel, batch: tuple[dict[str, Tensor], Tensor | None, Tensor, Tensor],
                with_views: bool = True) -> Tensor:
    """The weighted mean square of the flow's error."""
    parts, history, noise, sigma = batch
    level = sigma.reshape(-1, 1, 1, 1, 1)
    noisy = (1 - level) * parts["target"] + level * noise
    flow = model.flow(parts, history, noisy, sigma, with_views)
    error = (flow - (noise - parts["target"])).square() * parts["weight"]
    mass = parts["weight"].sum() * parts["target"].shape[2]
    return error.sum() / mass.clamp_min(1e-6)


def train_branches(
    clips: Sequence[PairedClip], model: CausalTransformer, folder: Path,
    options: BranchTraining | None = None, *, save_every: int = 200,
    on_step: Callable[[int, dict[str, float]], None] | None = None,
) -> BranchModel:
    """Train branches for a transformer and write them to `folder`; goes on where a run stopped.

    Raises ClipError for unusable clips, FloatingPointError when the loss is no longer finite (the
    last saved state stays).
    """
    o = options or BranchTraining()
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "branches_options.json").write_text(json.dumps(asdict(o), indent=2))
    torch.manual_seed(o.seed)
    whole = BranchModel(model, o).train()
    learnt = whole.trained()
    averaged = {name: p.detach().clone() for name, p in learnt.items()}
    holder = _Holder(learnt)
    optimiser = torch.optim.AdamW(learnt.values(), lr=o.learning_rate, betas=(0.9, 0.98),
                                  weight_decay=0.01)
    sampler = BlockSampler([c for c in clips if not c.info.held_out], o, levels(model))
    state = folder / STATE_FILE
    start = load_state(state, holder, optimiser, averaged) if state.is_file() else 0
    began = time.monotonic()
    for step in range(start, o.steps):
        for group in optimiser.param_groups:
            group["lr"] = o.learning_rate * rate_at(step, o.steps, o.warm_up)
        with torch.autocast("cpu", torch.bfloat16, enabled=o.bfloat16):
            loss = branch_loss(whole, sampler.batch(step))
        if not bool(loss.isfinite()):
            raise FloatingPointError(
                f"training of branches: the loss is not finite at step {step}; {state} holds the "
                "last good state, start again from it with a lower learning_rate")
        optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(learnt.values(), 1.0)
        optimiser.step()
        decay = min(o.ema, (1 + step) / (10 + step))
        for name, value in learnt.items():
            averaged[name].lerp_(value.detach(), 1 - decay)
        if on_step is not None:
            on_step(step, {"loss": float(loss.detach()), "seconds": time.monotonic() - began})
        if (step + 1) % save_every == 0 or step + 1 == o.steps:
            save_state(state, step + 1, holder, optimiser, averaged)
    with torch.no_grad():
        for name, value in learnt.items():
            value.copy_(averaged[name])
    write(whole.eval(), folder, o)
    return whole


class _Holder(nn.Module):
    """The parameters that learn, as a module whose state can be saved."""

    def __init__(self, learnt: dict[str, nn.Parameter]) -> None:
        super().__init__()
        for name, parameter in learnt.items():
            self.register_parameter(name.replace(".", "|"), parameter)


def write(whole: BranchModel, folder: Path, options: BranchTraining) -> None:
    """Write the branches, and the transformer where it was trained too."""
    for branch in (whole.stereo, whole.control):
        if branch is not None:
            save_branch(branch, folder)
    if options.train_model:
        save_tensors(folder / TRANSFORMER_FILE, dict(whole.model.state_dict()))
        (folder / CONFIG_FILE).write_text(whole.model.config.to_json() + "\n")


def levels(model: CausalTransformer) -> Tensor:
    """The noise levels of the model's denoising steps."""
    schedule = FlowSchedule.of(model.config)
    return torch.tensor(schedule.sigma_of(schedule.warp(model.config.denoising_steps)))


@torch.no_grad()
def branch_figures(whole: BranchModel, clips: Sequence[PairedClip], options: BranchTraining,
                   batches: int = 16) -> dict[str, float]:
    """Loss on clips with their views, without views, and with the views of other frames.

    What the branch reads of its views is the second less the first; what it takes from any view
    at all, the third less the first.
    """
    sampler = BlockSampler(clips, options, levels(whole.model))
    sums = {"with_views": 0.0, "without_views": 0.0, "other_views": 0.0}
    for step in range(batches):
        parts, history, noise, sigma = sampler.batch(50_000_000 + step)
        others = {name: part.roll(1, 0) if name.startswith("view") or name == "frame_points"
                  else part for name, part in parts.items()}
        for name, given, views in (("with_views", parts, True), ("without_views", parts, False),
                                   ("other_views", others, True)):
            loss = branch_loss(whole, (given, history, noise, sigma), views)
            sums[name] += float(loss) / batches
    return sums
