# SPDX-License-Identifier: Apache-2.0
# Copyright inspatio_ros contributors
"""Models by name."""

from __future__ import annotations

from dataclasses import replace

from inspatio_ros.model.config import ModelConfig, ModelError

# The public InSpatio-World 1.3B: sizes of Wan2.1-T2V-1.3B, patch embedding of 36 channels.
INSPATIO_WORLD_1_3B = ModelConfig()

# What it was made from: text to video, 16 channels, same everything else.
WAN_T2V_1_3B = replace(INSPATIO_WORLD_1_3B, name="wan_t2v_1_3b", conditioned=False)

# The shipped small model, sized for two CPU cores (docs/benchmarks.md): one constant text token,
# latents of the small codec, which has no lone first frame.
TINY = ModelConfig(
    name="tiny",
    dim=256,
    ffn_dim=1024,
    num_heads=4,
    num_layers=6,
    freq_dim=128,
    text_dim=16,
    text_len=1,
    height=128,
    width=224,
    first_frames=4,
    codec="small_codec",
    fill_render=True,
)

PRESETS = {
    "inspatio_world_1_3b": INSPATIO_WORLD_1_3B,
    "wan_t2v_1_3b": WAN_T2V_1_3B,
    "tiny": TINY,
    # As shipped, with the finisher that is trained behind the stages of TINY.
    "tiny_random": replace(TINY, name="tiny_random", finished=True),
}


def preset(name: str) -> ModelConfig:
    """The description of a named model; ModelError lists the names when it is unknown."""
    if name not in PRESETS:
        raise ModelError(f"no model preset '{name}'; there are {', '.join(PRESETS)}")
    return PRESETS[name]
