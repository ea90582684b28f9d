# SPDX-License-Identifier: Apache-2.0
"""What training costs: operations and bytes by formula, for plans and for the documentation.

Operations come from model/cost.py. A pass with gradients costs three forward passes, with
recomputation four. Bytes per process under FSDP2: master weights, gradients and AdamW's two
moments in float32 and the moving average, divided by the processes; gathered weights and their
gradients in bfloat16; frozen teachers whole, in float32; activations of one forward pass, which
with recomputation are what lies between the halves of each layer (its input, q, k, v, attention).
"""

from __future__ import annotations

from dataclasses import dataclass

from inspatio_ros.model.config import ModelConfig
from inspatio_ros.model.cost import (
    block_flops,
    denoise_flops,
    layer_flops,
    parameter_count,
)
from inspatio_ros.training.options import Stage

GIB = 2**30
FORWARD, BACKWARD = 1.0, 2.0


@dataclass(frozen=True)
class Budget:
    """One stage on a cluster.

    flops: of one optimiser step of the model, all clips, critic steps included. seconds: of that
    step. nbytes: by part, of one process.
    """

    stage: Stage
    flops: float
    seconds: float
    nbytes: dict[str, float]

    @property
    def peak(self) -> float:
        """Bytes of one process."""
        return sum(self.nbytes.values())


def clip_forward(config: ModelConfig, blocks: int, source: bool = True) -> float:
    """Operations of the bidirectional model on one clip of so many blocks, source included."""
    tokens = blocks * config.block_tokens()
    seen = 2 * tokens if source else tokens
    layers = layer_flops(config, seen, seen).times(config.num_layers)
    ends = denoise_flops(config, tokens, seen).ends
    return layers.total + ends


def rollout_forward(config: ModelConfig, blocks: int, steps: int | None = None) -> float:
    """Operations of the student's roll-out of one clip."""
    first = block_flops(config, steps=steps, context_groups=1).total
    later = block_flops(config, steps=steps).total
    return first + (blocks - 1) * later


def step_flops(
    config: ModelConfig, stage: Stage, *, clips: int, blocks: int, recompute: bool = True,
    critic_ratio: int = 5, predicted: float = 0.25,
) -> float:
    """Operations of one optimiser step of the model over `clips` clips of `blocks` blocks."""
    learn = FORWARD + BACKWARD + (FORWARD if recompute else 0.0)
    one_step = rollout_forward(config, blocks, 1)
    if stage == "teacher":
        return clips * learn * clip_forward(config, blocks)
    if stage in ("causal", "article"):
        half = (len(config.denoising_steps) + 1) / 2  # steps of a predicted history, on average
        histories = predicted * (rollout_forward(config, blocks - 1, 1)
                                 + (half - 1) * (blocks - 1) * _denoise(config))
        return clips * (learn * one_step + (histories if blocks > 1 else 0.0))
    made, judged = rollout_forward(config, blocks), clip_forward(config, blocks)
    critic = made + learn * judged
    student = made + 2 * judged + learn * one_step
    return clips * (critic_ratio * critic + student)


def _denoise(config: ModelConfig) -> float:
    block = config.block_tokens()
    return denoise_flops(config, block, config.context_tokens() + block).total


def step_bytes(
    config: ModelConfig, stage: Stage, *, processes: int, blocks: int, parts: int = 1,
    recompute: bool = True,
) -> dict[str, float]:
    """Bytes of one process that works on one clip (teacher, jdmd) or `parts` blocks at a time."""
    weights = parameter_count(config)
    trained = 3 if stage == "jdmd" else 1
    if stage in ("teacher", "jdmd"):
        tokens = 2.0 * blocks * config.block_tokens()
    else:
        tokens = parts * (config.context_tokens() + config.block_tokens())
    held = 12.0 if recompute else 34.0 + 4.0 * config.ffn_dim / config.dim
    found = {
        "masters, gradients, moments": 16.0 * weights * trained / processes,
        "moving average": 4.0 * weights / processes,
        "gathered weights and gradients": 4.0 * weights + 2.0 * weights * (trained - 1),
        "activations": held * tokens * config.dim * config.num_layers,
    }
    if stage == "jdmd":
        found["frozen teachers"] = 2 * 4.0 * weights
    return found


def budget(
    config: ModelConfig, stage: Stage, *, processes: int, clips: int, blocks: int,
    flops_per_second: float, recompute: bool = True,
) -> Budget:
    """A stage on so many processes, each at a rate that it keeps up in practice."""
    flops = step_flops(config, stage, clips=clips, blocks=blocks, recompute=recompute)
    nbytes = step_bytes(
        config, stage, processes=processes, blocks=blocks, recompute=recompute)
    return Budget(stage, flops, flops / (processes * flops_per_second), nbytes)


def table(config: ModelConfig, *, processes: int, clips: int, rate: float) -> str:
    """Stages of a 1.3B-like plan as a Markdown table; rate in operations a second a process."""
    plan: tuple[tuple[Stage, int, int], ...] = (
        ("teacher", 7, 5000), ("causal", 7, 3000), ("jdmd", 4, 300), ("jdmd", 7, 300))
    lines = ["| stage | blocks | steps | PFLOP a step | s a step | hours | GiB a process |",
             "|---|---|---|---|---|---|---|"]
    for stage, blocks, steps in plan:
        one = budget(config, stage, processes=processes, clips=clips, blocks=blocks,
                     flops_per_second=rate)
        lines.append(
            f"| `{stage}` | {blocks} | {steps} | {one.flops / 1e15:.0f} | {one.seconds:.1f} | "
            f"{one.seconds * steps / 3600:.1f} | {one.peak / GIB:.0f} |")
    return "\n".join(lines)
