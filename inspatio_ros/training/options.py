# SPDX-License-Identifier: Apache-2.0
"""Every number of a training run in one place, kept beside its results."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal, get_args

Stage = Literal["teacher", "causal", "jdmd", "article"]
Precision = Literal["bfloat16", "float32"]
Loss = Literal["flow", "clean"]
ExitStep = Literal["last", "random"]
Begin = Literal["zero", "render"]


class TrainingError(ValueError):
    """A run that cannot begin or go on; the text names the file or step, the reason, the fix."""


def _option(default: Any, help: str) -> Any:
    return field(default=default, metadata={"help": help})


@dataclass(frozen=True)
class TrainingOptions:
    """What a run does, besides its model and its data; every stage and size takes the same.

    Raises TrainingError for values that cannot be.
    """

    stage: Stage = _option("causal", "which objective")
    begin: Begin = _option("zero", "flow of weights that begin from nothing: none, or the one "
                           "that leads from the noise to the render (conditioned models)")
    # the loop
    steps: int = _option(10000, "optimiser steps in all")
    minutes: float = _option(0.0, "the run ends by then, its learning rate fallen, if not by "
                             "steps before; 0: by steps alone")
    seed: int = _option(0, "every random number follows from it and the step")
    accumulate: int = _option(1, "batches for one optimiser step")
    block_batch: int = _option(0, "blocks in one forward pass; 0: all of a batch")
    precision: Precision = _option("bfloat16", "of products; weights and sums stay in float32")
    compile: bool = _option(False, "fuse the layers with torch.compile")
    recompute: bool = _option(False, "recompute activations in the backward pass, saving memory")
    shard: bool = _option(False, "FSDP2: split optimiser, gradients and masters among processes")
    # the optimiser
    learning_rate: float = _option(3e-4, "AdamW's, after the warm-up")
    critic_rate: float = _option(1e-4, "the fake scores' learning rate (jdmd)")
    beta1: float = _option(0.9, "AdamW's first; Self-Forcing distils with 0")
    beta2: float = _option(0.99, "AdamW's second")
    weight_decay: float = _option(0.01, "AdamW's")
    warm_up: int = _option(200, "steps of linear warm-up")
    final_rate: float = _option(0.05, "share of the learning rate that the cosine ends at")
    clip: float = _option(1.0, "norm that gradients are cut to")
    average: float = _option(0.999, "decay of the weights' moving average; 0: none")
    average_start: int = _option(0, "update at which the moving average begins")
    # what is kept and told
    log_every: int = _option(10, "steps between lines in metrics.jsonl")
    validate_every: int = _option(500, "steps between validations; 0: none")
    validation_batches: int = _option(8, "batches of a validation at most")
    checkpoint_every: int = _option(500, "steps between checkpoints; 0: by time")
    checkpoint_minutes: float = _option(10.0, "minutes between checkpoints; 0: only by steps")
    keep: int = _option(2, "checkpoints that are kept")
    # flow matching
    shift: float = _option(0.0, "of the noise levels towards noise; 0: the model's own")
    full_noise: float = _option(0.1, "share of samples that begin at pure noise")
    listed_steps: float = _option(0.0, "share of samples at the model's own denoising steps")
    loss: Loss = _option("flow", "error of the flow, or of the clean latents that follow from it")
    predicted_history: float = _option(0.25, "share of steps with a history of its own making")
    history: bool = _option(True, "show the block made before (false: for ablation)")
    source: bool = _option(True, "show the source (false: for ablation)")
    # distribution matching
    critic_ratio: int = _option(5, "critic steps for one step of the student")
    control_weight: float = _option(1.0, "lambda_ctrl: weight of the video-to-video part")
    t2v_share: float = _option(0.5, "share of steps that hide all conditions: text to video")
    exit_step: ExitStep = _option("last", "denoising step whose output is judged")
    history_gradient: bool = _option(False, "let gradients into blocks made before")
    guidance: float = _option(1.0, "teacher's classifier-free guidance where a text is given")
    control_residual: float = _option(0.1, "weight of what no shift explains (article)")

    def __post_init__(self) -> None:
        choices = {"stage": Stage, "precision": Precision, "loss": Loss, "exit_step": ExitStep,
                   "begin": Begin}
        for name, kind in choices.items():
            if getattr(self, name) not in get_args(kind):
                raise TrainingError(
                    f"{name} must be one of {', '.join(get_args(kind))}, "
                    f"got {getattr(self, name)}")
        for name in ("steps", "accumulate", "log_every", "keep", "critic_ratio",
                     "validation_batches"):
            self._check(name, getattr(self, name) >= 1, "at least 1")
        for name in ("block_batch", "warm_up", "validate_every", "checkpoint_every", "seed",
                     "average_start", "checkpoint_minutes", "weight_decay", "shift", "minutes",
                     "control_weight", "control_residual"):
            self._check(name, getattr(self, name) >= 0, "zero or more")
        for name in ("learning_rate", "critic_rate", "clip"):
            self._check(name, getattr(self, name) > 0, "more than zero")
        for name in ("final_rate", "full_noise", "listed_steps", "predicted_history",
                     "t2v_share"):
            self._check(name, 0 <= getattr(self, name) <= 1, "from 0 to 1")
        for name in ("average", "beta1", "beta2"):
            self._check(name, 0 <= getattr(self, name) < 1, "from 0 to below 1")
        self._check("full_noise + listed_steps", self.full_noise + self.listed_steps <= 1,
                    "1 at most")
        if self.shard and self.compile:
            raise TrainingError("shard and compile do not go together yet; leave one out")

    def _check(self, name: str, good: bool, rule: str) -> None:
        if not good:
            raise TrainingError(f"{name} must be {rule}, got {getattr(self, name, 'more')}")

    # --- files ---------------------------------------------------------------------------------

    def to_json(self) -> str:
        """The options as JSON."""
        return json.dumps(asdict(self), indent=2)

    @staticmethod
    def from_json(text: str) -> TrainingOptions:
        """The options that `to_json` wrote; TrainingError for other content."""
        try:
            values = json.loads(text)
        except ValueError as error:
            raise TrainingError(f"the options are no JSON: {error}") from error
        known = {item.name for item in fields(TrainingOptions)}
        if not isinstance(values, dict) or set(values) - known:
            extra = sorted(set(values) - known) if isinstance(values, dict) else [values]
            raise TrainingError(f"unknown options: {extra}")
        return TrainingOptions(**values)

    def differences(self, other: TrainingOptions) -> list[str]:
        """Names of options that change the course of a run and differ; cadences do not count."""
        free = {"steps", "minutes", "log_every", "validate_every", "validation_batches",
                "checkpoint_every", "checkpoint_minutes", "keep"}
        return [item.name for item in fields(self) if item.name not in free
                and getattr(self, item.name) != getattr(other, item.name)]

    # --- schedules -----------------------------------------------------------------------------

    def rate(self, step: int, steps: int | None = None) -> float:
        """Share of the learning rate at a step: linear warm-up, then a cosine that ends at
        `steps`, by default all."""
        if step < self.warm_up:
            return (step + 1) / self.warm_up
        last = self.steps if steps is None else steps
        way = min(1.0, (step - self.warm_up) / max(1, last - self.warm_up))
        return self.final_rate + (1 - self.final_rate) * 0.5 * (1 + math.cos(math.pi * way))
