# SPDX-License-Identifier: Apache-2.0
# Copyright inspatio_ros contributors
"""One description of a model, from which every size, position and count derives."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

MAX_STEPS = 8


class ModelError(ValueError):
    """Sizes, tensors or settings that a model cannot take; the text names them and the fix."""


@dataclass(frozen=True)
class ModelConfig:
    """Every number of a model: the transformer, its block layout, its codec's strides.

    The defaults are those of the public 1.3B model at 480x832. Latents are `[B, F, C, h, w]` with
    C = latent_channels and a grid h x w that follows from the pixel size and the codec's stride.

    Blocks: `frames_per_block` latent frames are made at a time; they see up to `context_groups`
    groups of as many clean frames. The temporal positions of the groups are fixed: the first one
    (source) starts at 0, the second (history) behind it, the block that is made behind them all.

    conditioned: whether the patch embedding takes the mask and the render besides the noisy
    latents. A model that does not (the plain text-to-video base) only has the first channels.
    fill_render: whether the holes of the render are filled classically before it is encoded, a
    first guess that the model mends; otherwise they are black, as in the public models.
    finished: whether a finisher (finisher.py) joins the decoded pictures to the filled render.
    first_frames: pixel frames of the first latent frame (1 for the Wan VAE and its tiny twin).
    denoising_steps: listed steps, which the shift of the schedule moves (schedule.py).
    codec: name of the codec the latents belong to.
    Raises ModelError when numbers do not fit together.
    """

    name: str = "inspatio_world_1_3b"
    # transformer
    dim: int = 1536
    ffn_dim: int = 8960
    num_heads: int = 12
    num_layers: int = 30
    freq_dim: int = 256
    text_dim: int = 4096
    text_len: int = 512
    eps: float = 1e-6
    qk_norm: bool = True
    cross_attn_norm: bool = True
    patch_size: tuple[int, int, int] = (1, 2, 2)
    rope_theta: float = 10000.0
    conditioned: bool = True
    fill_render: bool = False
    finished: bool = False
    # blocks
    frames_per_block: int = 3
    context_groups: int = 2
    # sampling
    denoising_steps: tuple[int, ...] = (1000, 750, 500, 250)
    timestep_shift: float = 5.0
    train_timesteps: int = 1000
    context_timestep: float = 0.0
    # picture and codec
    height: int = 480
    width: int = 832
    latent_channels: int = 16
    spatial_stride: int = 8
    temporal_stride: int = 4
    first_frames: int = 1
    codec: str = "wan_vae"

    def __post_init__(self) -> None:
        counts = (
            "dim", "ffn_dim", "num_heads", "num_layers", "freq_dim", "text_dim", "text_len",
            "frames_per_block", "context_groups", "train_timesteps", "height", "width",
            "latent_channels", "spatial_stride", "temporal_stride", "first_frames",
        )
        for name in counts:
            value = getattr(self, name)
            if not isinstance(value, int) or value < 1:
                raise ModelError(f"{name} must be a positive integer, got {value!r}")
        if self.dim % self.num_heads or self.head_dim % 2:
            raise ModelError(
                f"dim {self.dim} must be num_heads {self.num_heads} times an even number"
            )
        if self.freq_dim % 2:
            raise ModelError(f"freq_dim must be even, got {self.freq_dim}")
        if len(self.patch_size) != 3 or self.patch_size[0] != 1 or min(self.patch_size) < 1:
            raise ModelError(f"patch_size must be (1, rows, columns), got {self.patch_size}")
        if self.first_frames > self.temporal_stride:
            raise ModelError(
                f"first_frames {self.first_frames} exceeds temporal_stride {self.temporal_stride}"
            )
        steps = self.denoising_steps
        if not 1 <= len(steps) <= MAX_STEPS or any(
            not 1 <= step <= self.train_timesteps for step in steps
        ):
            raise ModelError(
                f"denoising_steps must be 1 to {MAX_STEPS} numbers from 1 to "
                f"{self.train_timesteps}, got {list(steps)}"
            )
        if any(after >= before for before, after in zip(steps, steps[1:], strict=False)):
            raise ModelError(f"denoising_steps must fall, got {list(steps)}")
        self.grid_of(self.height, self.width)

    # --- channels ------------------------------------------------------------------------------

    @property
    def head_dim(self) -> int:
        """Channels of one attention head."""
        return self.dim // self.num_heads

    @property
    def mask_channels(self) -> int:
        """Channels of the packed mask: the pixel frames of one latent frame."""
        return self.temporal_stride

    @property
    def condition_channels(self) -> int:
        """Channels behind the noisy latents: mask, then render."""
        return self.mask_channels + self.latent_channels if self.conditioned else 0

    @property
    def in_dim(self) -> int:
        """Channels that the patch embedding takes."""
        return self.latent_channels + self.condition_channels

    @property
    def patch_values(self) -> int:
        """Values of one channel in one patch."""
        return self.patch_size[1] * self.patch_size[2]

    # --- grids and tokens ----------------------------------------------------------------------

    def grid_of(self, height: int, width: int) -> tuple[int, int]:
        """Latent grid (h, w) of a picture; ModelError when a side is no multiple of a patch."""
        rows = self.spatial_stride * self.patch_size[1]
        columns = self.spatial_stride * self.patch_size[2]
        if height < rows or width < columns or height % rows or width % columns:
            fitting = (max(width // columns, 1) * columns, max(height // rows, 1) * rows)
            raise ModelError(
                f"{self.name}: {width}x{height} pixels do not divide into patches of "
                f"{columns}x{rows}; use {fitting[0]}x{fitting[1]}"
            )
        return height // self.spatial_stride, width // self.spatial_stride

    @property
    def latent_grid(self) -> tuple[int, int]:
        """Latent grid (h, w) of the default picture."""
        return self.grid_of(self.height, self.width)

    def token_grid(self, grid: tuple[int, int] | None = None) -> tuple[int, int]:
        """Patches (rows, columns) of a latent grid; ModelError when it does not divide."""
        h, w = self.latent_grid if grid is None else grid
        if h < 1 or w < 1 or h % self.patch_size[1] or w % self.patch_size[2]:
            raise ModelError(
                f"{self.name}: a latent grid of {h}x{w} does not divide into patches of "
                f"{self.patch_size[1]}x{self.patch_size[2]}"
            )
        return h // self.patch_size[1], w // self.patch_size[2]

    def tokens_per_frame(self, grid: tuple[int, int] | None = None) -> int:
        """Tokens of one latent frame."""
        rows, columns = self.token_grid(grid)
        return rows * columns

    def block_tokens(self, grid: tuple[int, int] | None = None) -> int:
        """Tokens of the block that is made."""
        return self.frames_per_block * self.tokens_per_frame(grid)

    def context_tokens(self, grid: tuple[int, int] | None = None) -> int:
        """Tokens of a full context."""
        return self.context_groups * self.block_tokens(grid)

    def cache_tokens(self, grid: tuple[int, int] | None = None) -> int:
        """Tokens whose keys and values are held at once: full context and the block itself."""
        return self.context_tokens(grid) + self.block_tokens(grid)

    # --- positions -----------------------------------------------------------------------------

    def group_positions(self, group: int) -> range:
        """Temporal positions of a group; `context_groups` is the block that is made."""
        if not 0 <= group <= self.context_groups:
            raise ModelError(f"there is no group {group}, the block is {self.context_groups}")
        return range(group * self.frames_per_block, (group + 1) * self.frames_per_block)

    @property
    def positions(self) -> int:
        """How many temporal positions there are."""
        return (self.context_groups + 1) * self.frames_per_block

    # --- frames --------------------------------------------------------------------------------

    def pixel_frames(self, latent_frames: int) -> int:
        """Pixel frames that the first `latent_frames` of a stream decode to."""
        if latent_frames < 1:
            return 0
        return self.first_frames + (latent_frames - 1) * self.temporal_stride

    def latent_frames(self, pixel_frames: int) -> int:
        """Latent frames that begin within `pixel_frames`: T -> 1 + floor((T - 1) / stride)."""
        return 0 if pixel_frames < 1 else 1 + (pixel_frames - 1) // self.temporal_stride

    @property
    def first_block_frames(self) -> int:
        """Pixel frames of the first block."""
        return self.pixel_frames(self.frames_per_block)

    @property
    def block_frames(self) -> int:
        """Pixel frames of every later block."""
        return self.frames_per_block * self.temporal_stride

    def blocks_for(self, pixel_frames: int) -> int:
        """Blocks that cover `pixel_frames`, the last one padded."""
        if pixel_frames < 1:
            return 0
        rest = max(0, pixel_frames - self.first_block_frames)
        return 1 + -(-rest // self.block_frames)

    # --- variants and files --------------------------------------------------------------------

    def with_size(self, height: int, width: int) -> ModelConfig:
        """The same model at another picture size."""
        return replace(self, height=height, width=width)

    def to_json(self) -> str:
        """The numbers as JSON, for config.json beside the weights."""
        return json.dumps(asdict(self), indent=2)

    @staticmethod
    def from_json(text: str) -> ModelConfig:
        """The model that `to_json` wrote; ModelError for other content, unknown names included."""
        try:
            values = json.loads(text)
        except ValueError as error:
            raise ModelError(f"the model's description is no JSON: {error}") from error
        if not isinstance(values, dict):
            raise ModelError("the model's description must be a JSON object")
        known = {field.name for field in fields(ModelConfig)}
        unknown = sorted(set(values) - known)
        if unknown:
            raise ModelError(f"the model's description has unknown names: {', '.join(unknown)}")
        for name in ("patch_size", "denoising_steps"):
            if name in values:
                values[name] = tuple(values[name])
        return ModelConfig(**values)

    @staticmethod
    def from_reference(values: Mapping[str, Any], **others: Any) -> ModelConfig:
        """The model that a Wan-style config.json describes (dim, ffn_dim, in_dim, out_dim, ...).

        others: any further field, for example height and width. in_dim decides whether the model
        is conditioned; anything but the plain or the conditioned width raises ModelError.
        """
        same = ("dim", "ffn_dim", "num_heads", "num_layers", "freq_dim", "text_len", "eps")
        optional = ("text_dim", "qk_norm", "cross_attn_norm")
        missing = [name for name in (*same, "in_dim", "out_dim") if name not in values]
        if missing:
            raise ModelError(f"the model's description lacks {', '.join(missing)}")
        taken = {name: values[name] for name in (*same, *optional) if name in values}
        if "patch_size" in values:
            taken["patch_size"] = tuple(values["patch_size"])
        taken["latent_channels"] = values["out_dim"]
        conditioned = values["in_dim"] != values["out_dim"]
        config = ModelConfig(**{**taken, "conditioned": conditioned, **others})
        if config.in_dim != values["in_dim"]:
            raise ModelError(
                f"in_dim {values['in_dim']} is neither {config.latent_channels} (plain) nor "
                f"{config.latent_channels} + mask {config.mask_channels} + render "
                f"{config.latent_channels}"
            )
        return config
