# SPDX-License-Identifier: Apache-2.0
"""The loop: for every stage, every size, one process or many.

Weights, optimiser and sums are float32; products are bfloat16 if asked. All randomness is a
function of seed, step and clip (draws.py) and a batch one of its step, so a run that was
interrupted goes on as if it had not been: bit for bit on a CPU with as many threads.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import AdamW
from torch.utils.checkpoint import checkpoint as recomputed

from inspatio_ros.model.codec import VideoCodec
from inspatio_ros.model.transformer import CausalTransformer
from inspatio_ros.model.weights import differences
from inspatio_ros.training.batches import BatchSource, LatentBatch
from inspatio_ros.training.distributed import Process, like_sharded, own, put_back, shard, whole
from inspatio_ros.training.draws import Draw
from inspatio_ros.training.objectives import Objective, first_clip
from inspatio_ros.training.options import TrainingError, TrainingOptions
from inspatio_ros.training.run_folder import Checkpoint, RunFolder, Tensors

logger = logging.getLogger(__name__)

ALONE = Process()
SEARCHED = 64  # batches that are looked through for one that suits
SHOWN = 5  # frames of a picture
MOMENTS = ("exp_avg", "exp_avg_sq", "step")


class Average:
    """The exponential moving average of a network's weights, in float32.

    The decay after the k-th update is at most k / (9 + k), so that a short run is not an average
    of its first weights.
    """

    def __init__(self, weights: Mapping[str, nn.Parameter], decay: float) -> None:
        self.decay = decay
        self.values = {name: p.detach().clone() for name, p in weights.items()}
        self._weights = [own(p) for p in weights.values()]
        self._values = [own(value) for value in self.values.values()]

    @torch.no_grad()
    def update(self, count: int) -> None:
        """Take in the weights after their `count`-th update; at 0 the average just equals them."""
        decay = min(self.decay, count / (9.0 + count))
        torch._foreach_lerp_(self._values, self._weights, 1.0 - decay)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """The network has the averaged weights while inside, and exactly its own afterwards."""
        before = [p.clone() for p in self._weights]
        torch._foreach_copy_(self._weights, self._values)
        try:
            yield
        finally:
            torch._foreach_copy_(self._weights, before)


class Trainer:
    """Runs an objective over a source of batches into a folder; goes on where that one stopped.

    codec: that of the latents; with it each validation leaves a picture of the first batch's
    first clip in `pictures/` and in TensorBoard: guide, what the model makes of it, truth.
    Raises TrainingError when the folder belongs to another run or its newest checkpoint is damaged
    or of another architecture.
    """

    def __init__(
        self,
        run: Path,
        objective: Objective,
        source: BatchSource,
        options: TrainingOptions,
        process: Process = ALONE,
        codec: VideoCodec | None = None,
    ) -> None:
        self.folder = RunFolder(run)
        self.objective = objective
        self.source = source
        self.options = options
        self.process = process
        self.config = objective.config
        self.codec = None if codec is None else codec.to(process.device).eval()
        self.step = 0
        self._saved_at = time.monotonic()
        self._steps = options.steps
        self._board: Any = None
        if process.first:
            self.folder.begin(options, self.config)
        process.wait()
        newest = self.folder.newest(self.config)
        for network in objective.networks.values():
            prepare(network, options, process)
        # looked up once: while a sharded network works, it shows other tensors
        self.weights = {
            name: dict(network.named_parameters())
            for name, network in objective.networks.items()}
        self.optimisers = {
            name: AdamW(
                weights.values(), lr=objective.rates[name],
                betas=(options.beta1, options.beta2), weight_decay=options.weight_decay,
                fused=not options.shard)
            for name, weights in self.weights.items()
        }
        self.average = (
            Average(self.weights["model"], options.average) if options.average else None)
        if newest is not None:
            self._restore(newest)
            if process.first:
                self.folder.forget_after(self.step)
            logger.info("going on from step %d of %s", self.step, run)

    # --- the loop ------------------------------------------------------------------------------

    def train(self, until: int | None = None) -> dict[str, float]:
        """Train until a step (default: the options' last); figures of the last step.

        Leaves a checkpoint and the folder `model/` at the end. Raises TrainingError when a loss or
        a gradient is not finite: the last good checkpoint stays, and the text says where it is.
        """
        last = self.options.steps if until is None else until
        figures: dict[str, float] = {}
        began, seen = time.monotonic(), 0
        first, start = self.step, began
        while self.step < last:
            if self.options.minutes > 0 and self.step > first:
                passed = torch.tensor(
                    float(time.monotonic() - start), device=self.process.device)
                # The mean, so that all processes have one learning rate and one end.
                share = float(self.process.total(passed)) / self.process.world_size
                share /= 60.0 * self.options.minutes
                if share >= 1.0:
                    break
                # as many as there will be time for, as it seems now
                self._steps = min(last, first + round((self.step - first) / share))
            figures, clips = self._update(self.step)
            seen += clips
            self.step += 1
            if self.step % self.options.log_every == 0 or self.step == last:
                elapsed = time.monotonic() - began
                self._log("train", figures | {"clips_per_second": seen / max(elapsed, 1e-9)})
                began, seen = time.monotonic(), 0
            if self.options.validate_every and self.step % self.options.validate_every == 0:
                self.validate()
            if self.step < last and self._is_time_to_save():
                self.save()
        self.save()
        self._write_model()
        if self._board is not None:
            self._board.flush()
        return figures

    def _update(self, step: int) -> tuple[dict[str, float], int]:
        """One optimiser step of every network that is due; figures and clips worked on."""
        figures: dict[str, float] = {}
        clips = 0
        for name in self.objective.updated(step):
            weights, optimiser = self.weights[name], self.optimisers[name]
            optimiser.zero_grad(set_to_none=True)
            for part in range(self.options.accumulate):
                number = step * self.options.accumulate + part
                batch = self._batch(step, number)
                clips += batch.size * self.process.world_size
                draw = self._draw(batch, number, name)
                found = self.objective.back_propagate(
                    name, step, batch, draw, 1.0 / self.options.accumulate)
                for key, value in found.items():
                    share = value.item() / self.options.accumulate
                    figures[f"{name}/{key}"] = figures.get(f"{name}/{key}", 0.0) + share
                self._check_finite(step, name, batch, figures)
            self._put_back()
            self.process.average_gradients(weights.values())
            norm = torch.nn.utils.clip_grad_norm_(weights.values(), self.options.clip)
            figures[f"{name}/gradient_norm"] = float(whole(norm))
            self._check_finite(step, name, batch, figures)
            rate = self.objective.rates[name] * self.options.rate(step, self._steps)
            for group in optimiser.param_groups:
                group["lr"] = rate
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
            figures[f"{name}/rate"] = rate
            if name == "model" and self.average is not None:
                updates = int(next(iter(optimiser.state.values()))["step"])
                self.average.update(max(0, updates - self.options.average_start))
        return figures, clips

    def _batch(self, step: int, number: int) -> LatentBatch:
        for later in range(SEARCHED):
            batch = self.source.batch(
                number + later, self.process.rank, self.process.world_size)
            if self.objective.suits(step, batch):
                batch.check(self.config)
                return batch.to(self.process.device, torch.float32)
        raise TrainingError(
            f"step {step} of stage {self.options.stage} needs a v2v batch, but {SEARCHED} batches "
            f"from number {number} on are {batch.task}; give it data with renders")

    def _draw(self, batch: LatentBatch, number: int, purpose: str) -> Draw:
        key = (self.options.seed, number, purpose)
        return Draw(key, batch.size, self.process.rank * batch.size)

    def _check_finite(
        self, step: int, name: str, batch: LatentBatch, figures: Mapping[str, float]
    ) -> None:
        wrong = {key: value for key, value in figures.items() if not math.isfinite(value)}
        if not wrong:
            return
        told = ", ".join(f"{key} is {value}" for key, value in wrong.items())
        last = self.folder.checkpoints()
        kept = f"the last good checkpoint is {last[-1]}" if last else "there is no checkpoint yet"
        bad = [n for n, p in self.weights[name].items()
               if p.grad is not None and not bool(whole(p.grad).isfinite().all())]
        where = f"; first gradients that are not finite: {', '.join(bad[:3])}" if bad else ""
        raise TrainingError(
            f"step {step}, {batch.task} batch of '{batch.domain or 'no name'}': {told}{where}. "
            f"Stopped; {kept}. Lower the learning rate, or look at that batch")

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """Figures of the averaged weights over the source's validation batches, per domain too."""
        sums: dict[str, list[float]] = {}
        with self._averaged():
            for number, batch in enumerate(self.source.validation()):
                if number >= self.options.validation_batches:
                    break
                batch.check(self.config)
                batch = batch.to(self.process.device, torch.float32)
                if number == 0:
                    self._show(batch)
                draw = self._draw(batch, number, "validation")
                for key, value in self.objective.validate(batch, draw).items():
                    for label in {key, f"{batch.task}/{key}", f"{batch.domain}/{key}"}:
                        sums.setdefault(label.lstrip("/"), []).append(value.item())
        figures = {key: sum(values) / len(values) for key, values in sorted(sums.items())}
        self._log("validation", figures)
        return figures

    def _show(self, batch: LatentBatch) -> None:
        """A row each for guide, made and true view of one clip, a few frames side by side."""
        if self.codec is None:
            return
        clip = first_clip(batch)
        made = self.objective.made(clip, Draw((self.options.seed, "picture"), 1))
        if made is None or not self.process.first:
            return
        rows = []
        for latents in (clip.render, made, clip.target):
            if latents is not None:
                frames = self.codec.decode(latents.flatten(1, 2).float())[0]
                shown = torch.linspace(0, len(frames) - 1, SHOWN).long()
                rows.append(torch.cat(list(frames[shown]), dim=2))
        picture = ((torch.cat(rows, dim=1) + 1) / 2).clamp(0, 1).cpu()
        self.folder.write_picture(self.step, (picture * 255).round().byte())
        self._writer().add_image("validation/clip", picture, self.step)

    @contextmanager
    def _averaged(self) -> Iterator[None]:
        if self.average is None:
            yield
            return
        with self.average.applied():
            yield
            self._put_back()

    def _put_back(self) -> None:
        for network in self.objective.networks.values():
            put_back(network)

    def _log(self, kind: str, figures: Mapping[str, float]) -> None:
        if not self.process.first:
            return
        self.folder.log({"kind": kind, "step": self.step, **figures})
        shown = "  ".join(f"{key} {value:.4g}" for key, value in figures.items())
        logger.info("%s step %d: %s", kind, self.step, shown)
        for key, value in figures.items():
            self._writer().add_scalar(f"{kind}/{key}", value, self.step)

    def _writer(self) -> Any:
        if self._board is None:
            self._board = board(self.folder.path / "tensorboard")
        return self._board

    # --- keeping and going on ------------------------------------------------------------------

    def _is_time_to_save(self) -> bool:
        options = self.options
        due = bool(options.checkpoint_every) and self.step % options.checkpoint_every == 0
        late = bool(options.checkpoint_minutes) and (
            time.monotonic() - self._saved_at > 60.0 * options.checkpoint_minutes)
        return self.process.agreed(due or late) if options.checkpoint_minutes else due

    def save(self) -> None:
        """Write a checkpoint of this moment."""
        files: dict[str, Tensors] = {}
        for name, named in self.weights.items():
            files[name] = {n: whole(p).cpu() for n, p in named.items()}
            moments = self.optimisers[name].state
            files[f"{name}.optimiser"] = {
                f"{n}|{kind}": whole(moments[p][kind]).cpu()
                for n, p in named.items() if p in moments for kind in MOMENTS}
        if self.average is not None:
            files["model.average"] = self._average_weights()
        if self.process.first:
            self.folder.save(Checkpoint(self.step, files), self.config, self.options.keep)
        self.process.wait()
        self._saved_at = time.monotonic()

    def _average_weights(self) -> Tensors:
        """The averaged weights, or those there are, on the CPU."""
        values = self.weights["model"] if self.average is None else self.average.values
        return {name: whole(value).cpu() for name, value in values.items()}

    def _write_model(self) -> None:
        weights = self._average_weights()
        if self.process.first:
            self.folder.write_model(self.config, weights)

    @torch.no_grad()
    def _restore(self, checkpoint: Checkpoint) -> None:
        for name, named in self.weights.items():
            tensors = self._file(checkpoint, name)
            found = {n: tuple(t.shape) for n, t in tensors.items()}
            wrong = differences(found, {n: tuple(p.shape) for n, p in named.items()})
            if wrong:
                raise TrainingError(
                    f"{self.folder.path}: {name} does not fit the model: {'; '.join(wrong)}")
            for n, parameter in named.items():
                parameter.copy_(like_sharded(tensors[n], parameter))
            state = self.optimisers[name].state
            for key, value in self._file(checkpoint, f"{name}.optimiser").items():
                n, kind = key.rsplit("|", 1)
                like = named[n]
                state[like][kind] = value if kind == "step" else like_sharded(value, like)
        if self.average is not None:
            averages = self._file(checkpoint, "model.average")
            for name, value in self.average.values.items():
                value.copy_(like_sharded(averages[name], value))
        self.step = checkpoint.step

    def _file(self, checkpoint: Checkpoint, name: str) -> Tensors:
        if name not in checkpoint.files:
            raise TrainingError(
                f"{self.folder.path}: the checkpoint has no {name}; it is of another stage")
        return dict(checkpoint.files[name])


def prepare(network: CausalTransformer, options: TrainingOptions, process: Process) -> None:
    """Bring a network to where it is trained: device, float32, compiled, recomputed, sharded."""
    network.to(process.device, torch.float32).train().requires_grad_(True)
    network.float32_residual = True
    if options.compile:
        network.compile_blocks()
    if options.recompute:
        recompute_layers(network)
    if options.shard:
        low = torch.bfloat16 if options.precision == "bfloat16" else torch.float32
        shard(network, process, low)


def recompute_layers(network: CausalTransformer) -> None:
    """Keep only what lies between the layers' halves; recompute the rest in the backward pass."""
    for layer in network.blocks:
        for name in ("before_attention", "after_attention", "keys_values"):
            function = getattr(layer, name)

            def again(*inputs: Any, function: Any = function) -> Any:
                return recomputed(function, *inputs, use_reentrant=False)

            setattr(layer, name, again)


class _NoBoard:
    """Where TensorBoard is not installed: metrics.jsonl has it all."""

    def add_scalar(self, name: str, value: float, step: int) -> None:
        """Nothing."""

    def add_image(self, name: str, picture: Tensor, step: int) -> None:
        """Nothing."""

    def flush(self) -> None:
        """Nothing."""


def board(path: Path) -> Any:
    """A TensorBoard writer, or one that does nothing where it is not installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        logger.info("tensorboard is not installed (extra `train`): figures only in metrics.jsonl")
        return _NoBoard()
    return SummaryWriter(str(path))


def load_weights(network: CausalTransformer, tensors: Mapping[str, Tensor], place: Path) -> None:
    """Give a network weights by name; TrainingError when names or shapes differ."""
    shapes = {n: tuple(t.shape) for n, t in tensors.items()}
    own = {n: tuple(p.shape) for n, p in network.named_parameters()}
    wrong = differences(shapes, own)
    if wrong:
        raise TrainingError(f"{place}: does not fit the model: {'; '.join(wrong)}")
    network.load_state_dict(dict(tensors), strict=True)
