# SPDX-License-Identifier: Apache-2.0
# Copyright inspatio_ros contributors
"""Retrieved views for the transformer: each frame that is made may look at one view of its place.

WorldStereo's spatial-stereo memory (arXiv 2603.02049; 2.0 in arXiv 2604.14268) in two layouts:

    offset         as in its public release: the views go through the transformer's own layers,
                   at the temporal position of their frame and at columns W .. 2 W - 1
    side_by_side   as in the paper: the pair lies side by side, H x 2 W tokens, in a branch of its
                   own weights

In both a frame sees its own view and no other. The release lets all attend to all; here the pair
stays a pair, which is the paper's rule, and the views' keys and values are made once a block, as
the context's are. What is found is added behind each layer through a projection that starts at
zero, so that an untrained branch changes no bit. Its weights are a module and a file of their own
(`branches.py`): the transformer's keys stay those of the public checkpoint.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from inspatio_ros.model.config import ModelConfig, ModelError
from inspatio_ros.model.layers import QKV
from inspatio_ros.model.rope import Rotation, angles, rotate
from inspatio_ros.model.transformer import (
    Block,
    CausalTransformer,
    LayerAddition,
    Modulation,
    TextContext,
)

LAYOUTS = ("offset", "side_by_side")
# Quaternion (w, x, y, z) and place of the view's camera in its frame's, in units of the scene.
POSE_VALUES = 7
# A point map's x, y, z in the frame's camera, in units of the scene, and whether it is known.
POINT_CHANNELS = 4


@dataclass(frozen=True)
class RetrievedViews:
    """One view for each latent frame of a block.

    latents `[B, F, C, h, w]`: each encoded as a still. poses `[B, F, 7]` (see POSE_VALUES). points
    `[B, F, 4, h, w]`: point maps of the views, and frame_points of the frames that are made (see
    POINT_CHANNELS; zeros where not known). valid `[B, F]`: 1, or 0 for a frame without a view.
    """

    latents: Tensor
    poses: Tensor
    points: Tensor
    frame_points: Tensor
    valid: Tensor

    def tensors(self) -> tuple[Tensor, ...]:
        """All parts, in the order of the constructor."""
        return tuple(getattr(self, item.name) for item in fields(self))

    def check(self, config: ModelConfig, batch: int, grid: tuple[int, int]) -> None:
        """Raises ModelError, naming the part, when a shape does not fit or is not finite."""
        lead = (batch, config.frames_per_block)
        expected = {"latents": (*lead, config.latent_channels, *grid),
                    "poses": (*lead, POSE_VALUES), "points": (*lead, POINT_CHANNELS, *grid),
                    "frame_points": (*lead, POINT_CHANNELS, *grid), "valid": lead}
        for name, shape in expected.items():
            part: Tensor = getattr(self, name)
            if tuple(part.shape) != shape:
                raise ModelError(f"retrieved views: {name} must be {list(shape)}, got "
                                 f"{list(part.shape)}")
            if part.device.type == "cpu" and not bool(part.isfinite().all()):
                raise ModelError(f"retrieved views: {name} holds NaN or infinity; unknown places "
                                 "must be 0")


class PairLayer(nn.Module):
    """Of one layer of the transformer: how a frame reads its view.

    attention: own queries, keys and values for the side-by-side layout (its output is the view's
    half), else None.
    """

    def __init__(self, config: ModelConfig, own: bool) -> None:
        super().__init__()
        self.eps = config.eps
        self.attention = QKV(config) if own else None
        self.out = nn.Linear(config.dim, config.dim)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)


class StereoBranch(nn.Module):
    """The weights of the spatial-stereo memory beside a transformer of `config`.

    layout: one of LAYOUTS. Raises ModelError on another.
    """

    def __init__(self, config: ModelConfig, layout: str = "offset") -> None:
        super().__init__()
        if layout not in LAYOUTS:
            raise ModelError(f"stereo layout '{layout}' is not one of {', '.join(LAYOUTS)}")
        self.config = config
        self.layout = layout
        dim = config.dim
        self.pose = nn.Sequential(nn.Linear(POSE_VALUES, dim), nn.SiLU(), nn.Linear(dim, dim),
                                  nn.SiLU(), nn.Linear(dim, dim))
        self.points = nn.Linear(POINT_CHANNELS * config.patch_values, dim)
        last = self.pose[-1]
        assert isinstance(last, nn.Linear)
        for layer in (last, self.points):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
        own = layout == "side_by_side"
        self.layers = nn.ModuleList(PairLayer(config, own) for _ in range(config.num_layers))
        self._rotations: dict[tuple[object, ...], tuple[Rotation, Rotation]] = {}

    def prepare(self, model: CausalTransformer, views: RetrievedViews, modulation: Modulation,
                text: TextContext) -> LayerAddition:
        """What a block's denoise passes read of its views; made once a block.

        modulation: of clean latents, as the context has it. text: of the block.
        """
        batch, frames, _, *grid = views.latents.shape
        views.check(self.config, batch, (grid[0], grid[1]))
        tokens = self._tokens(model, views)
        own, beside = self._pair_rotations(frames, (grid[0], grid[1]), tokens)
        valid = views.valid.flatten().to(tokens).reshape(-1, 1, 1)
        if self.layout == "offset":
            return self._offset(model, tokens, beside, valid, modulation, text, batch)
        frame_code = self._point_code(views.frame_points)
        rotation = (torch.cat([own[0], beside[0]], dim=1), torch.cat([own[1], beside[1]], dim=1))
        return _SideBySide(self, model, tokens, frame_code, rotation, valid)

    def _tokens(self, model: CausalTransformer, views: RetrievedViews) -> Tensor:
        """Tokens `[B F, n, D]` of the views with their codes."""
        flat = views.latents.flatten(0, 1).unsqueeze(1)
        tokens = model.patch_embedding.forward(flat.to(model.dtype))
        pose = self.pose(views.poses.flatten(0, 1).to(self.points.weight))
        tokens = tokens + pose.to(tokens).unsqueeze(1) + self._point_code(views.points).to(tokens)
        made: Tensor = tokens.to(model.stream_dtype)
        return made

    def _point_code(self, points: Tensor) -> Tensor:
        """Point maps `[B, F, 4, h, w]` as codes `[B F, n, D]`."""
        _, rows, columns = self.config.patch_size
        x = points.flatten(0, 1)
        count, channels, h, w = x.shape
        x = x.reshape(count, channels, h // rows, rows, w // columns, columns)
        x = x.permute(0, 2, 4, 1, 3, 5).reshape(count, -1, channels * rows * columns)
        code: Tensor = self.points(x.to(self.points.weight))
        return code

    def _offset(self, model: CausalTransformer, x: Tensor, rotation: Rotation, valid: Tensor,
                modulation: Modulation, text: TextContext, batch: int) -> _Offset:
        frames = x.shape[0] // batch
        held = []
        *layers, last = (layer for layer in model.blocks if isinstance(layer, Block))
        for index, layer in enumerate(layers):
            q, k, v = layer.before_attention(x, modulation.blocks[index], rotation)
            held.append((k, v))
            keys, values = text.layers[index]
            if keys.shape[0] > 1:
                keys, values = (t.repeat_interleave(frames, dim=0) for t in (keys, values))
            attended = model.attention(q, k, v)
            x = layer.after_attention(x, attended, modulation.blocks[index], (keys, values),
                                      model.attention)
        held.append(last.keys_values(x, modulation.blocks[-1], rotation))
        return _Offset(self, model, held, valid)

    def _pair_rotations(self, frames: int, grid: tuple[int, int], like: Tensor
                        ) -> tuple[Rotation, Rotation]:
        """Rotations of a block's frames and of the views beside them, `[B F, n, 1, d / 2]`."""
        batch = like.shape[0] // frames
        key = (batch, grid, like.device)
        if key not in self._rotations:
            positions = self.config.group_positions(self.config.context_groups)
            width = self.config.token_grid(grid)[1]
            made = []
            for start in (0, width):
                table = angles(self.config, positions, grid, like.device, first_column=start)
                table = table.reshape(frames, -1, 1, table.shape[-1]).repeat(batch, 1, 1, 1)
                made.append((table.cos().float(), table.sin().float()))
            self._rotations = {key: (made[0], made[1])}
        return self._rotations[key]

    def layer(self, index: int) -> PairLayer:
        """The weights that go with one layer of the transformer."""
        layer = self.layers[index]
        assert isinstance(layer, PairLayer)
        return layer


class _Offset:
    """Keys and values of the views by layer; the frames ask with the transformer's own queries."""

    def __init__(self, branch: StereoBranch, model: CausalTransformer,
                 held: Sequence[tuple[Tensor, Tensor]], valid: Tensor) -> None:
        self._branch, self._model, self._held, self._valid = branch, model, held, valid

    def add(self, index: int, x: Tensor, q: Tensor) -> Tensor:
        keys, values = self._held[index]
        count, tokens = keys.shape[:2]
        asked = q.reshape(count, tokens, *q.shape[2:])
        found = self._model.attention(asked, keys, values).flatten(2)
        out = self._branch.layer(index).out(found.to(self._branch.points.weight.dtype))
        added: Tensor = (out * self._valid).to(x).reshape(x.shape)
        return x + added


class _SideBySide:
    """The pair in a branch of its own; the views' half is carried from layer to layer."""

    def __init__(self, branch: StereoBranch, model: CausalTransformer, tokens: Tensor,
                 frame_code: Tensor, rotation: Rotation, valid: Tensor) -> None:
        self._branch, self._model = branch, model
        self._first, self._view = tokens, tokens
        self._frame_code, self._rotation, self._valid = frame_code, rotation, valid

    def add(self, index: int, x: Tensor, q: Tensor) -> Tensor:
        layer = self._branch.layer(index)
        attention = layer.attention
        assert attention is not None
        if index == 0:  # every pass begins with the views as they were embedded
            self._view = self._first
        dtype = attention.q.weight.dtype
        count, tokens = self._view.shape[:2]
        frame = x.reshape(count, tokens, -1)
        frame = F.layer_norm(frame, frame.shape[-1:], eps=layer.eps).to(dtype) + self._frame_code
        view = F.layer_norm(self._view, self._view.shape[-1:], eps=layer.eps).to(dtype)
        pair = torch.cat([frame, view], dim=1)
        queries = rotate(attention.split(attention.norm_q(attention.q(pair))), self._rotation)
        keys = rotate(attention.split(attention.norm_k(attention.k(pair))), self._rotation)
        values = attention.split(attention.v(pair))
        found = self._model.attention(queries, keys, values).flatten(2)
        self._view = self._view + attention.o(found[:, tokens:]).to(self._view)
        out = layer.out(found[:, :tokens])
        added: Tensor = (out * self._valid).to(x).reshape(x.shape)
        return x + added
