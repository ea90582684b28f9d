# SPDX-License-Identifier: Apache-2.0
"""Views of the bank as the stereo branch takes them, and rays for the control branch.

Lengths are in units of the scene: the median depth of the frame that is made, as far as it is
known, so that a room and a street look alike to the branches.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from inspatio_ros.geometry import rigid
from inspatio_ros.geometry.camera import PinholeCamera
from inspatio_ros.memory.guide import Guide
from inspatio_ros.memory.view_bank import ViewBank, sampled_depth
from inspatio_ros.model.codec import VideoCodec, frames_from_uint8
from inspatio_ros.model.config import ModelConfig
from inspatio_ros.model.stereo import POINT_CHANNELS, POSE_VALUES, RetrievedViews
from inspatio_ros.sensing.observation import Observation

Float = npt.NDArray[np.float32]
Array = npt.NDArray[np.float64]

# Points beyond this many units are drawn in logarithmically, as the public release contracts them.
CONTRACT_FROM = 8.0
# Views whose latents are kept for the blocks to come.
KEPT_STILLS = 16


def scene_scale(depth: Float, fallback: float = 1.0) -> float:
    """Median of what is known of a depth picture, m; `fallback` when nothing is."""
    known = depth[depth > 0]
    return float(np.median(known)) if known.size else fallback


def pose_code(frame_from_view: Array, scale: float) -> Float:
    """[7]: quaternion (w, x, y, z), w not negative, and translation over `scale`."""
    x, y, z, w = rigid.to_quaternion(frame_from_view)
    turn = np.array([w, x, y, z])
    return np.concatenate([turn if w >= 0 else -turn, frame_from_view[:3, 3] / scale]).astype(
        np.float32)


def point_map(depth: Float, camera: PinholeCamera, frame_from_camera: Array,
              grid: tuple[int, int], scale: float) -> Float:
    """float32 [4, h, w]: x, y, z over `scale` in the frame's camera, then 1 where depth is known.

    depth [H, W] m of `camera`, sampled at the middle of each cell of the grid (h, w).
    """
    rows, columns = grid
    sampled = sampled_depth(depth, grid)
    known = sampled > 0
    points = camera.resized(columns, rows).unproject(np.where(known, sampled, 1.0))
    moved = rigid.transform_points(frame_from_camera, points.reshape(-1, 3)) / scale
    length = np.maximum(np.linalg.norm(moved, axis=1, keepdims=True), 1e-9)
    drawn_in = CONTRACT_FROM * (1 + np.log(np.maximum(length / CONTRACT_FROM, 1)))
    moved = np.where(length > CONTRACT_FROM, moved / length * drawn_in, moved)
    result = np.zeros((POINT_CHANNELS, rows, columns), np.float32)
    result[:3] = np.where(known, moved.reshape(rows, columns, 3).transpose(2, 0, 1), 0)
    result[3] = known
    return result


def plucker_rays(camera: PinholeCamera, origin_from_camera: Array, grid: tuple[int, int],
                 scale: float) -> Float:
    """float32 [6, h, w]: unit direction of each cell's ray, and its moment o x d, o over `scale`.

    origin_from_camera: the camera's pose in the frame that rays are told in.
    """
    rows, columns = grid
    rays = camera.resized(columns, rows).rays() @ origin_from_camera[:3, :3].T
    rays = rays / np.linalg.norm(rays, axis=-1, keepdims=True)
    moment = np.cross(origin_from_camera[:3, 3] / scale, rays)
    return np.concatenate([rays, moment], axis=-1).transpose(2, 0, 1).astype(np.float32)


def latent_frame_numbers(config: ModelConfig, first: bool) -> list[int]:
    """The last pixel frame of each latent frame of a block, counted from the block's first."""
    begin = config.first_frames if first else config.temporal_stride
    return [begin - 1 + config.temporal_stride * f for f in range(config.frames_per_block)]


def paired(view: Observation, camera: PinholeCamera, world_from_camera: Array, frame_depth: Float,
           grid: tuple[int, int]) -> tuple[Float, Float, Float]:
    """(pose code [7], the view's points [4, h, w], the frame's points [4, h, w]) of a pair."""
    scale = scene_scale(frame_depth, scene_scale(view.depth))
    frame_from_view = rigid.invert(world_from_camera) @ view.world_from_camera
    return (pose_code(frame_from_view, scale),
            point_map(view.depth, view.camera, frame_from_view, grid, scale),
            point_map(frame_depth, camera, np.eye(4), grid, scale))


class ViewReader:
    """Retrieves a view for each latent frame and encodes it, each view once."""

    def __init__(self, codec: VideoCodec, config: ModelConfig, device: torch.device) -> None:
        self._codec, self._config, self._device = codec, config, device
        self._stills: OrderedDict[tuple[int, int, int], Tensor] = OrderedDict()

    def read(self, bank: ViewBank, camera: PinholeCamera,
             lanes: Sequence[tuple[Sequence[Array], Sequence[Guide]]], size: tuple[int, int]
             ) -> RetrievedViews:
        """Views for the latent frames of a block, of each request.

        lanes: for each request the poses [4, 4] of its latent frames and their guides. size:
        width and height that the model works at.
        """
        config = self._config
        grid = config.grid_of(size[1], size[0])
        count, frames = len(lanes), config.frames_per_block
        latents = torch.zeros(count, frames, config.latent_channels, *grid, device=self._device)
        poses = np.zeros((count, frames, POSE_VALUES), np.float32)
        points = np.zeros((2, count, frames, POINT_CHANNELS, *grid), np.float32)
        valid = np.zeros((count, frames), np.float32)
        for lane, (way, guides) in enumerate(lanes):
            for frame, (pose, guide) in enumerate(zip(way, guides, strict=True)):
                found = bank.retrieve(camera, pose, 1, known_depth=guide.depth)
                if not found:
                    continue
                seen = found[0].view.observation
                latents[lane, frame] = self._still(found[0].view.serial, seen, size)
                code, theirs, own = paired(seen, camera, pose, guide.depth, grid)
                poses[lane, frame], points[0, lane, frame], points[1, lane, frame] = (
                    code, theirs, own)
                valid[lane, frame] = 1
        return RetrievedViews(latents, *(torch.from_numpy(part).to(self._device) for part in (
            poses, points[0], points[1], valid)))

    def _still(self, serial: int, seen: Observation, size: tuple[int, int]) -> Tensor:
        key = (serial, *size)
        if key not in self._stills:
            self._stills[key] = still_latent(self._codec, seen.image, size, self._device)
            while len(self._stills) > KEPT_STILLS:
                self._stills.popitem(last=False)
        self._stills.move_to_end(key)
        return self._stills[key]


def still_latent(codec: VideoCodec, image: npt.NDArray[np.uint8], size: tuple[int, int],
                 device: torch.device) -> Tensor:
    """Latent `[C, h, w]` float32 of a picture that stands still, at (width, height)."""
    from inspatio_ros.imagination.generator import resized_picture

    pictures = [resized_picture(image, size)] * (codec.first_frames + codec.encoder_lookahead)
    with torch.no_grad():
        return codec.encode(frames_from_uint8(pictures, device))[0, 0].float()
