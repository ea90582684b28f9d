# SPDX-License-Identifier: Apache-2.0
"""A coloured point cloud of the recent past that never grows beyond its bounds."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from inspatio_ros.geometry import rigid
from inspatio_ros.geometry.camera import PinholeCamera
from inspatio_ros.memory import moved_points_numba as moved
from inspatio_ros.memory import rolling_cloud_numba as kernels
from inspatio_ros.memory.exposure import IDENTITY_TONE
from inspatio_ros.memory.splatting import MAX_THREADS, PARALLEL, pack_colors
from inspatio_ros.memory.surfaces import close_gaps, nearest_and_edges
from inspatio_ros.sensing.observation import Observation

Float = npt.NDArray[np.float32]

# Frames are numbered up to this; the oldest is dropped (as too old) before its number returns.
FRAME_NUMBERS = 8192
# The origin of the stored coordinates follows the camera when it is this far away, m: float32
# then keeps 0.03 mm however far the robot has gone.
REBASE_DISTANCE = 256.0
# A point stays when what is seen of its surface now is coarser than it by more than this factor.
KEEP_FINER = 2.0

# Why points leave or are not taken; also the order of the sweep's counts.
SWEEP_REASONS = ("age", "capacity", "radius", "free_space", "replaced")
REASONS = (*SWEEP_REASONS, "reset", "same_voxel", "table_full", "low_confidence", "out_of_range",
           "edge", "moved")


class RollingCloud:
    """Coloured points of what was seen lately, in world axes, in memory that never grows.

    capacity: points. voxel_size: m, at most one point in each voxel. max_age: s behind the newest
    observation. max_radius: m around the newest camera. min_confidence in [0, 1]. max_depth: m,
    farther depths are not taken. tolerance: relative depth difference that still is the same
    surface. Raises ValueError on a bound that is not positive.

    A new observation removes the points that it sees through, replaces those that it sees anew
    and adds the rest of its own. Not safe between threads.
    """

    def __init__(
        self,
        capacity: int = 4_000_000,
        voxel_size: float = 0.02,
        max_age: float = 30.0,
        max_radius: float = 30.0,
        min_confidence: float = 0.0,
        max_depth: float = float("inf"),
        tolerance: float = 0.04,
    ) -> None:
        for name, bound in (("capacity", capacity), ("voxel_size", voxel_size),
                            ("max_age", max_age), ("max_radius", max_radius),
                            ("max_depth", max_depth), ("tolerance", tolerance)):
            if not bound > 0:
                raise ValueError(f"{name} {bound} is not positive")
        self.capacity = int(capacity)
        self.voxel_size = float(voxel_size)
        self.max_age_ns = int(min(max_age * 1e9, 2**62))
        self.max_radius = float(max_radius)
        self.max_depth = float(max_depth)
        self.tolerance = float(tolerance)
        self._min_trust = round(255 * min(max(min_confidence, 0.0), 1.0))
        blocks = -(-self.capacity // kernels.BLOCK)
        slots = 1 << max((2 * self.capacity - 1).bit_length(), 6)
        self.xyz: Float = np.full((3, self.capacity), np.nan, np.float32)
        self.rgba = np.zeros(self.capacity, np.uint32)
        self.sizes: Float = np.zeros(self.capacity, np.float32)
        self.frames = np.zeros(self.capacity, np.uint16)
        self._confidence = np.zeros(self.capacity, np.uint8)
        self._slots = np.full(self.capacity, -1, np.int32)
        self._table = np.full(slots, kernels.FREE, np.int64)
        self._owners = np.zeros(slots, np.int32)
        self._bounds: Float = np.zeros((blocks, 6), np.float32)
        self._block_oldest = np.zeros(blocks, np.int64)
        self._free = np.zeros(blocks * kernels.BLOCK, np.int32)
        self._free_counts = np.zeros(blocks, np.int32)
        self._counts = np.zeros((blocks, len(SWEEP_REASONS)), np.int64)
        self.stamps = np.zeros(FRAME_NUMBERS, np.int64)
        self.tone: Float = np.zeros((FRAME_NUMBERS, 6), np.float32)
        self._frame_points = np.zeros(FRAME_NUMBERS, np.int32)
        self._frame_losses = np.zeros((MAX_THREADS, FRAME_NUMBERS), np.int32)
        self.dropped: dict[str, int] = dict.fromkeys(REASONS, 0)
        self.offered = 0
        self._start_empty()

    def _start_empty(self) -> None:
        self._used = 0
        self._live = 0
        self._frame = 0
        self._newest_ns: int | None = None
        self._origin_voxels = np.zeros(3, np.int64)

    @property
    def point_count(self) -> int:
        """Points held."""
        return self._live

    @property
    def nbytes(self) -> int:
        """Bytes held; constant."""
        return sum(value.nbytes for value in vars(self).values() if isinstance(value, np.ndarray))

    @property
    def newest_frame(self) -> int:
        """Number of the frame fused last: its row of `tone` is the identity."""
        return self._frame

    @property
    def world_from_points(self) -> npt.NDArray[np.float64]:
        """[4, 4]: where the origin of the stored coordinates lies."""
        return rigid.from_rotation(np.eye(3), self._origin_voxels * self.voxel_size)

    def reset(self) -> None:
        """Forget every point; the counts of drops stay."""
        self.xyz[:, :self._used] = np.nan
        self._slots[:self._used] = -1
        self._table.fill(kernels.FREE)
        self._free_counts.fill(0)
        self._frame_points.fill(0)
        self.dropped["reset"] += self._live
        self._start_empty()

    def integrate(self, observation: Observation, tone: Float = IDENTITY_TONE,
                  moving: npt.NDArray[np.bool_] | None = None) -> None:
        """Fuse an observation. One without any depth changes nothing but the age of the rest.

        moving [H, W]: pixels of things that move; they hide and free space but are not taken up.

        tone: float32 [6], gains and offsets (RGB, RGB) that carry colours of the newest frame so
        far to this one's exposure; colours stay as they were taken, and
        every frame's curve to the newest is kept in `tone`.
        """
        depth = close_gaps(observation.depth)
        candidates = int(np.count_nonzero(depth > 0))
        self.offered += candidates
        newest = max(observation.stamp_ns, self._newest_ns or observation.stamp_ns)
        self._newest_ns = newest
        self._follow(observation.world_from_camera[:3, 3])
        self._frame = (self._frame + 1) % FRAME_NUMBERS
        nearest, edges = nearest_and_edges(depth)
        self._sweep(observation, depth, nearest, self._fates(newest, candidates),
                    self.tolerance, KEEP_FINER)
        self.stamps[self._frame] = observation.stamp_ns
        self.follow_exposure(tone)
        self.tone[self._frame] = IDENTITY_TONE
        if moving is not None:
            self.dropped["moved"] += int(np.count_nonzero(moving & (depth > 0)))
            depth = np.where(moving, np.float32(np.nan), depth)
        if candidates:
            self._insert(observation, depth, edges)

    def remove_moved(self, centers_at: Callable[[npt.NDArray[np.int64]], npt.NDArray[np.float64]],
                     axes: npt.NDArray[np.float64], half: npt.NDArray[np.float64], since_ns: int
                     ) -> int:
        """Remove what was taken up of a thing while it moved: how many points that were.

        centers_at(stamps [F] ns): middle of its box then, [F, 3] m in the world; axes [3, 3]
        (columns) and half sides [3] m of the box. Frames from `since_ns` on are looked at.
        """
        recent = np.flatnonzero((self._frame_points > 0) & (self.stamps >= since_ns))
        if recent.size == 0:
            return 0
        centers = np.full((FRAME_NUMBERS, 3), np.nan, np.float32)
        own = centers_at(self.stamps[recent]) - self.world_from_points[:3, 3]
        centers[recent] = own
        around = np.abs(axes) @ half
        reach = np.concatenate([own.min(0) - around, own.max(0) + around]).astype(np.float32)
        gone = int(moved.remove_moved(
            self.xyz, self.frames, self._slots, self._table, self._used, centers,
            axes.astype(np.float32), half.astype(np.float32), reach, self._bounds, self._free,
            self._free_counts, self._frame_points))
        self._live -= gone
        self.dropped["moved"] += gone
        return gone

    def remove_box(self, center: npt.NDArray[np.float64], axes: npt.NDArray[np.float64],
                   half: npt.NDArray[np.float64]) -> int:
        """Remove what lies where a thing that moves is or was: how many points that were.

        center [3] m in the world, axes [3, 3] (columns) and half sides [3] m of the box.
        """
        return self.remove_moved(lambda stamps: np.repeat(center[None], len(stamps), axis=0), axes,
                                 half, -2**62)

    def give_way(self, observation: Observation, behind: float = 0.25) -> None:
        """Remove every point that an observation contradicts or shows itself; add none.

        Those in front of what it measured, those on it at whatever resolution, and those up to
        `behind` of their depth behind it: points of lower rank never stand beside measured ones.
        """
        if self._live == 0:
            return
        depth = close_gaps(observation.depth)
        nearest, _ = nearest_and_edges(depth)
        self._sweep(observation, depth, nearest, np.zeros(FRAME_NUMBERS, np.uint8), behind,
                    float("inf"))

    def follow_exposure(self, tone: Float) -> None:
        """Carry the colours of all frames so far to a new exposure; tone: see `integrate`."""
        self.tone[:, 3:] = self.tone[:, 3:] * tone[:3] + tone[3:]
        self.tone[:, :3] *= tone[:3]

    def _follow(self, center: npt.NDArray[np.float64]) -> None:
        target = np.rint(center / self.voxel_size).astype(np.int64)
        shift = target - self._origin_voxels
        if self._live == 0:
            self._origin_voxels = target
        elif np.abs(shift).max() * self.voxel_size > REBASE_DISTANCE:
            metres = (shift * self.voxel_size).astype(np.float32)
            self.xyz[:, :self._used] -= metres[:, None]
            self._bounds -= np.tile(metres, 2)
            self._origin_voxels = target

    def _fates(self, newest_ns: int, incoming: int) -> npt.NDArray[np.uint8]:
        """What becomes of the points of each frame: 0 stay, 1 too old, 2 make room."""
        fate = np.zeros(FRAME_NUMBERS, np.uint8)
        fate[newest_ns - self.stamps > self.max_age_ns] = 1
        fate[self._frame] = 1
        excess = self._live + incoming - self.capacity
        if excess > 0:
            oldest_first = (np.arange(FRAME_NUMBERS) + self._frame) % FRAME_NUMBERS
            freed = np.cumsum(self._frame_points[oldest_first])
            last = int(np.searchsorted(freed, min(excess, int(freed[-1]))))
            leaving = oldest_first[:last + 1]
            fate[leaving[fate[leaving] == 0]] = 2
        return fate

    def _sweep(
        self, observation: Observation, depth: Float, nearest: Float,
        fate: npt.NDArray[np.uint8], behind: float, coarsest: float,
    ) -> None:
        if self._live == 0:
            return
        camera = observation.camera
        points_from_world = rigid.invert(self.world_from_points)
        center = (points_from_world @ observation.world_from_camera)[:3, 3].astype(np.float32)
        view = rigid.invert(observation.world_from_camera) @ self.world_from_points
        blocks = -(-self._used // kernels.BLOCK)
        # When room must be made, or a frame's number comes round again, every block is looked at.
        doomed = bool((fate == 2).any() or self._frame_points[self._frame])
        safe_after = 2**62 if doomed else (self._newest_ns or 0) - self.max_age_ns
        with PARALLEL:
            kernels.sweep(
                self.xyz, self.sizes, self.frames, self._slots, self._table, self._used, fate,
                center, np.float32(self.max_radius), view[:3].astype(np.float32),
                np.array([camera.fx, camera.fy, camera.cx, camera.cy], np.float32),
                depth, nearest, np.float32(self.tolerance), np.float32(behind),
                np.float32(coarsest), self.stamps, np.int64(safe_after), self._bounds,
                self._block_oldest, self._free, self._free_counts, self._counts,
                self._frame_losses)
        self._frame_points -= self._frame_losses.sum(0)
        for reason, count in zip(SWEEP_REASONS, self._counts[:blocks].sum(0), strict=True):
            self.dropped[reason] += int(count)
            self._live -= int(count)

    def _insert(
        self, observation: Observation, depth: Float, edges: npt.NDArray[np.bool_]
    ) -> None:
        camera = observation.camera
        pose = rigid.invert(self.world_from_points) @ observation.world_from_camera
        counts = np.zeros(8, np.int64)
        if observation.confidence is None:
            trust = np.full(depth.shape, 255, np.uint8)
        else:
            # A confidence that is not a number is none.
            scaled = np.nan_to_num(np.clip(observation.confidence, 0, 1), nan=0.0) * 255
            trust = np.rint(scaled).astype(np.uint8)
        roomy = self._used + depth.size <= self.capacity
        min_free = kernels.BLOCK // 4 if roomy else 1
        self._used = int(kernels.insert(
            depth, pack_colors(observation.image), trust, self._min_trust, edges,
            np.float32(self.max_depth), pose[:3].astype(np.float32),
            np.array([1 / camera.fx, 1 / camera.fy, camera.cx, camera.cy], np.float32),
            np.float32(self.voxel_size), self._origin_voxels, np.uint16(self._frame),
            np.float32(self.max_radius), self.xyz, self.rgba, self.sizes, self._confidence,
            self.frames, self._slots, self._table, self._owners, self.stamps,
            self._frame_points, self._bounds, self._block_oldest, self._free, self._free_counts,
            min_free, self._used, counts))
        self._live += int(counts[0] - counts[3])
        for reason, count in zip(("capacity", "same_voxel", "table_full", "low_confidence",
                                  "out_of_range", "edge"), counts[1:7], strict=True):
            self.dropped[reason] += int(count)

    @property
    def used_points(self) -> Float:
        """float32 [3, P], from `world_from_points`; a view that the next change invalidates.

        NaN where a point has left.
        """
        return self.xyz[:, :self._used]

    def visible_spans(
        self, camera: PinholeCamera, world_from_camera: npt.NDArray[np.float64]
    ) -> npt.NDArray[np.int64]:
        """Index ranges [S, 2] of the points that may be in view: blocks outside are left out."""
        blocks = -(-self._used // kernels.BLOCK)
        if blocks == 0:
            return np.zeros((0, 2), np.int64)
        box = self._bounds[:blocks].astype(np.float64)
        view = rigid.invert(world_from_camera) @ self.world_from_points
        filled = np.isfinite(box).all(1)
        box[~filled] = 0
        center, half = (box[:, :3] + box[:, 3:]) / 2, (box[:, 3:] - box[:, :3]) / 2
        left, right = camera.cx + 1, camera.width - camera.cx
        top, bottom = camera.cy + 1, camera.height - camera.cy
        # Inward normals of the four sides and the front, in the optical frame.
        planes = np.array([[camera.fx, 0, left], [-camera.fx, 0, right], [0, camera.fy, top],
                           [0, -camera.fy, bottom], [0, 0, 1.0]])
        normals = planes @ view[:3, :3]
        offsets = planes @ view[:3, 3]
        reach = center @ normals.T + half @ np.abs(normals).T + offsets
        seen = np.flatnonzero(filled & (reach > 0).all(1))
        starts = seen * kernels.BLOCK
        return np.stack([starts, np.minimum(starts + kernels.BLOCK, self._used)], axis=1)

    def colored_points(
        self, max_points: int
    ) -> tuple[Float, npt.NDArray[np.uint8]]:
        """(xyz float32 [P, 3] m in the world, rgb uint8 [P, 3]) of at most `max_points`, spread.

        Colours carry the exposure of the newest frame.
        """
        alive = np.flatnonzero(self._slots[:self._used] >= 0)
        if len(alive) > max_points:
            alive = alive[np.linspace(0, len(alive) - 1, max_points).astype(np.int64)]
        xyz = self.xyz[:, alive].T + self.world_from_points[:3, 3]
        return xyz.astype(np.float32), self.colors(alive, self.tone)

    def colors(self, indices: npt.NDArray[np.int64], tone: Float) -> npt.NDArray[np.uint8]:
        """Colours uint8 [P, 3] of points by index, through curves `tone` [frames, 6]."""
        raw = self.rgba[indices, None] >> np.array([0, 8, 16], np.uint32) & 255
        curves = tone[self.frames[indices]]
        rgb = np.clip(np.rint(raw * curves[:, :3] + curves[:, 3:]), 0, 255)
        return np.asarray(rgb, np.uint8)
