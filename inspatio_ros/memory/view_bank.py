# SPDX-License-Identifier: Apache-2.0
"""A bounded bank of posed views, and which of them show what a wanted view needs.

Retrieval is by 3D correspondence, as WorldStereo (arXiv 2603.02049) describes its spatial-stereo
memory: points of the map that the wanted view sees are looked up in every view of the bank, and
those that are inside, not hidden and seen from their front count. The rule of its public release,
overlap of frusta with a penalty on the angle, is here for comparison (`frustum_overlaps`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import cv2
import numpy as np
import numpy.typing as npt

from inspatio_ros.geometry import rigid
from inspatio_ros.geometry.camera import PinholeCamera
from inspatio_ros.memory import view_bank_numba as kernels
from inspatio_ros.memory.surfaces import close_gaps, nearest_and_edges, reduce_depth
from inspatio_ros.sensing.observation import Observation

Array = npt.NDArray[np.float64]
Float = npt.NDArray[np.float32]
Byte = npt.NDArray[np.uint8]
Transform = npt.NDArray[np.float64]

# Depth of a view is looked up in so many rows and columns of cells.
ROWS, COLUMNS = 60, 80
# Every so many cells of a view are drawn to find what the wanted view sees.
STRIDE = 4
POINTS = len(range(STRIDE // 2, ROWS, STRIDE)) * len(range(STRIDE // 2, COLUMNS, STRIDE))
# Columns of the grid of the wanted view; its rows follow from the aspect.
TARGET_COLUMNS = 24
# Relative depth within which a view's measured depth is the point's own.
TOLERANCE = 0.05
# Cosine of the flattest angle at which a surface is still well seen.
LEAST_COSINE = 0.1
# Relative depth step between neighbouring cells over which no surface is assumed.
CELL_JUMP = 0.25
# What a part of the wanted view counts that is known already.
KNOWN_WORTH = 0.05
# A view that adds less than this share of what is needed is not worth having.
LEAST_GAIN = 0.005
# A picture of the same place replaces the held one when its quality is at least so much of it.
SAME_QUALITY = 0.95
# Worth of a view of low quality, and of an imagined one, against the best.
LEAST_QUALITY, IMAGINED_WORTH = 0.7, 0.5
# The public rule: frusta from near to far, m; degrees up to which an angle costs nothing; decay.
FRUSTUM_NEAR, FRUSTUM_FAR, FREE_ANGLE, ANGLE_DECAY = 0.1, 10.0, 90.0, 5.0

REASONS = ("near_duplicate", "replaced", "redundant", "imagined_full", "no_depth", "reset")


@dataclass(frozen=True)
class BankOptions:
    """Bounds of the bank. capacity: views. spacing: by how many radians of view two must differ
    (turn plus shift over depth). max_width: pixels that a kept picture is reduced to.

    Raises ValueError when one is not positive.
    """

    capacity: int = 128
    spacing: float = 0.15
    max_width: int = 416

    def __post_init__(self) -> None:
        if self.capacity < 1 or not self.spacing > 0 or self.max_width < 16:
            raise ValueError(
                f"bank: capacity {self.capacity} must be at least 1, spacing {self.spacing} above "
                f"0, max_width {self.max_width} at least 16")


@dataclass(frozen=True)
class BankView:
    """A view held. serial: unique number. quality: see `picture_quality`. imagined: not seen."""

    serial: int
    observation: Observation
    quality: float
    imagined: bool


@dataclass(frozen=True)
class Retrieved:
    """A view found for a wanted one. overlap: share of the wanted view's points that it shows.

    gain: share of what is needed that it shows and no view found before it does.
    """

    view: BankView
    overlap: float
    gain: float


class ViewBank:
    """At most `capacity` views, spread over the poses; real ones never give way to imagined ones.

    A view nearer than `spacing` to one held takes its place if it is as good (the newest look of
    a place is the one worth having), else it is not taken. When the bank is full, of the two
    views that are nearest to each other an imagined one leaves, else that of lower quality.
    Not safe between threads.
    """

    def __init__(self, options: BankOptions | None = None) -> None:
        self.options = options or BankOptions()
        capacity = self.options.capacity
        self._views: list[BankView] = []
        self._next = 0
        self._poses: Array = np.tile(np.eye(4), (capacity, 1, 1))
        # Where the first view of a place was taken: replacing it must not let the place drift.
        self._anchors: Array = np.tile(np.eye(4), (capacity, 1, 1))
        self._depths: Array = np.ones(capacity)
        self._samples: Float = np.full((capacity, ROWS, COLUMNS), np.nan, np.float32)
        self._points: Float = np.zeros((capacity, POINTS, 7), np.float32)
        self._intrinsics: Float = np.ones((capacity, 4), np.float32)
        self._scales: Float = np.ones(capacity, np.float32)
        self.dropped: dict[str, int] = dict.fromkeys(REASONS, 0)

    def __len__(self) -> int:
        return len(self._views)

    @property
    def views(self) -> tuple[BankView, ...]:
        """All views held."""
        return tuple(self._views)

    @property
    def nbytes(self) -> int:
        """Bytes held: tables of a constant size, and the pictures."""
        tables = sum(v.nbytes for v in vars(self).values() if isinstance(v, np.ndarray))
        return tables + sum(view.observation.nbytes for view in self._views)

    def reset(self) -> None:
        """Forget all views; the counts of drops stay."""
        self.dropped["reset"] += len(self._views)
        self._views.clear()

    # --- keeping -------------------------------------------------------------------------------

    def add(self, observation: Observation, *, imagined: bool = False) -> bool:
        """Offer a view; whether it is held now. One without any depth cannot be found again."""
        reduced = reduced_observation(observation, self.options.max_width)
        known = reduced.depth[reduced.depth > 0]
        if known.size == 0:
            self.dropped["no_depth"] += 1
            return False
        depth = float(np.median(known))
        view = BankView(self._next, reduced, picture_quality(reduced.image), imagined)
        self._next += 1
        count = len(self._views)
        apart = _view_angles(self._anchors[:count], reduced.world_from_camera,
                             np.minimum(self._depths[:count], depth))
        nearest = int(np.argmin(apart)) if count else -1
        if count and apart[nearest] < self.options.spacing:
            held = self._views[nearest]
            better = (view.quality >= SAME_QUALITY * held.quality if held.imagined == imagined
                      else held.imagined)
            self.dropped["replaced" if better else "near_duplicate"] += 1
            if better:
                self._put(nearest, view, depth)
            return better
        if count == self.options.capacity and not self._make_room(imagined):
            return False
        slot = len(self._views)
        self._views.append(view)
        self._anchors[slot] = reduced.world_from_camera
        self._put(slot, view, depth)
        return True

    def _put(self, slot: int, view: BankView, depth: float) -> None:
        seen = view.observation
        grid = seen.camera.resized(COLUMNS, ROWS)
        self._views[slot] = view
        self._poses[slot] = seen.world_from_camera
        self._depths[slot] = depth
        self._intrinsics[slot] = grid.fx, grid.fy, grid.cx, grid.cy
        self._scales[slot] = seen.camera.fx
        kernels.sample_depth(seen.depth, self._samples[slot])
        kernels.surface_points(self._samples[slot], self._intrinsics[slot], STRIDE,
                               np.float32(CELL_JUMP), self._points[slot])

    def _make_room(self, for_imagined: bool) -> bool:
        """Let one view leave; False when only real ones are there for an imagined one."""
        imagined = np.array([view.imagined for view in self._views])
        if for_imagined and not imagined.any():
            self.dropped["imagined_full"] += 1
            return False
        apart = _all_view_angles(self._anchors[:len(self._views)], self._depths)
        nearest = apart.min(axis=1)
        if imagined.any():
            leaving = int(np.argmin(np.where(imagined, nearest, np.inf)))
        else:
            one = int(np.argmin(nearest))
            other = int(np.argmin(apart[one]))
            leaving = one if self._views[one].quality < self._views[other].quality else other
        last = len(self._views) - 1
        for table in (self._poses, self._anchors, self._depths, self._samples, self._points,
                      self._intrinsics, self._scales):
            table[leaving] = table[last]
        self._views[leaving] = self._views[last]
        self._views.pop()
        self.dropped["redundant"] += 1
        return True

    # --- finding -------------------------------------------------------------------------------

    def retrieve(
        self, camera: PinholeCamera, world_from_camera: Transform, count: int = 2, *,
        known_depth: Float | None = None,
    ) -> list[Retrieved]:
        """At most `count` views that together show most of a wanted view, best first.

        known_depth: float32 [H, W] m of the wanted view where it is known already, NaN in its
        holes: then the holes are what is needed. Views that add next to nothing are left out, so
        that those found are different; of equal ones the sharper, and a real one before an
        imagined one.
        """
        if not self._views or count < 1:
            return []
        correspondence = self._correspond(camera, world_from_camera, known_depth)
        worth, shares = correspondence.worth, correspondence.shares
        needed = float(worth.sum())
        if needed <= 0:
            return []
        quality = np.array([view.quality for view in self._views], np.float32)
        best = max(float(quality.max()), 1e-6)
        trust = LEAST_QUALITY + (1 - LEAST_QUALITY) * np.clip(quality / best, 0, 1)
        trust *= np.where([view.imagined for view in self._views], IMAGINED_WORTH, 1.0)
        shown = shares * trust[:, None].astype(np.float32)
        covered = np.zeros(shares.shape[1], np.float32)
        found: list[Retrieved] = []
        for _ in range(count):
            gains = np.maximum(shown - covered, 0) @ worth
            chosen = int(np.argmax(gains))
            gain = float(gains[chosen]) / needed
            if gain < LEAST_GAIN:
                break
            found.append(Retrieved(self._views[chosen], float(
                correspondence.counts[chosen]) / correspondence.seen, gain))
            covered = np.maximum(covered, shown[chosen])
        return found

    def overlaps(
        self, camera: PinholeCamera, world_from_camera: Transform,
        known_depth: Float | None = None,
    ) -> Float:
        """How much each view and a wanted one have in common, float32 [views] in [0, 1].

        Intersection over union of what both see, in points: 1 / (1 / a + 1 / b - 1) with a the
        share of the wanted view's points that the view shows, b the converse.
        """
        if not self._views:
            return np.zeros(0, np.float32)
        found = self._correspond(camera, world_from_camera, known_depth)
        count = len(self._views)
        converse = np.zeros(count, np.float32)
        kernels.seen_points(
            self._points[:count], found.target_from_view, found.target, found.depth,
            found.reached, np.float32(TOLERANCE), np.float32(CELL_JUMP), converse)
        return intersection_over_union(found.counts / found.seen, converse)

    def frustum_overlaps(self, camera: PinholeCamera, world_from_camera: Transform) -> Float:
        """What the public release ranks views by, float32 [views]; it looks at no depth.

        Intersection over union of the axis-aligned boxes of the frusta, times
        clip(exp(5 (90 - angle) / 180), 0, 1) of the angle in degrees between the cameras.
        """
        count = len(self._views)
        boxes = np.stack([_frustum_box(v.observation.camera, v.observation.world_from_camera)
                          for v in self._views]).reshape(count, 2, 3)
        own = _frustum_box(camera, world_from_camera)
        inner = np.minimum(boxes[:, 1], own[1]) - np.maximum(boxes[:, 0], own[0])
        shared = np.prod(np.maximum(inner, 0), axis=1)
        union = np.prod(boxes[:, 1] - boxes[:, 0], axis=1) + np.prod(own[1] - own[0]) - shared
        angle = np.degrees(_angles(self._poses[:count], world_from_camera))
        penalty = np.clip(np.exp(ANGLE_DECAY * (FREE_ANGLE - angle) / 180), 0, 1)
        return np.asarray(shared / union * penalty, np.float32)

    def _correspond(
        self, camera: PinholeCamera, world_from_camera: Transform, known_depth: Float | None
    ) -> _Correspondence:
        count = len(self._views)
        rows = max(1, round(TARGET_COLUMNS * camera.height / camera.width))
        grid = camera.resized(TARGET_COLUMNS, rows)
        target = np.array([grid.fx, grid.fy, grid.cx, grid.cy], np.float32)
        pose = rigid.require_rigid(world_from_camera, "world_from_camera")
        # In the wanted camera's frame, where float32 is enough wherever the world's origin lies.
        exact = rigid.invert(pose) @ self._poses[:count]
        view_from_target = np.ascontiguousarray(_inverted(exact)[:, :3], np.float32)
        target_from_view: Float = np.ascontiguousarray(exact[:, :3], np.float32)
        zbuffer = np.full((rows, TARGET_COLUMNS), np.inf, np.float32)
        reached = np.zeros(count, np.int32)
        kernels.draw_points(self._points[:count], target_from_view, target, zbuffer, reached)
        depth = np.where(np.isfinite(zbuffer), zbuffer, 0).astype(np.float32)
        worth = np.ones(zbuffer.size, np.float32)
        if known_depth is not None:
            depth, worth = _with_known(depth, np.ascontiguousarray(known_depth, np.float32))
        worth[depth.reshape(-1) <= 0] = 0
        points = np.zeros((depth.size, 7), np.float32)
        kernels.surface_points(depth, target, 1, np.float32(CELL_JUMP), points)
        shares = np.zeros((count, len(points)), np.float32)
        counts = np.zeros(count, np.int32)
        kernels.common_points(
            points, target_from_view[:, :, 3].copy(), view_from_target, self._intrinsics[:count],
            self._scales[:count], np.float32(camera.fx), self._samples[:count], reached,
            np.float32(TOLERANCE), np.float32(CELL_JUMP), np.float32(LEAST_COSINE), shares,
            counts)
        seen = max(1, int(np.count_nonzero(points[:, 2] > 0)))
        return _Correspondence(target, depth, seen, worth, shares, counts, target_from_view,
                               reached)


@dataclass(frozen=True)
class _Correspondence:
    """What the views show of a wanted one.

    target [4]: its grid's intrinsics, in cells. depth [h, w] of its cells, 0 for none, of which
    `seen` are not. worth [P]: how much each is needed. shares [V, P], counts [V]: what each view
    shows of them. target_from_view [V, 3, 4]. reached [V]: points of each view that fell into it.
    """

    target: Float
    depth: Float
    seen: int
    worth: Float
    shares: Float
    counts: npt.NDArray[np.int32]
    target_from_view: Float
    reached: npt.NDArray[np.int32]


def intersection_over_union(a: npt.ArrayLike, b: npt.ArrayLike) -> Float:
    """1 / (1 / a + 1 / b - 1) of the shares that two views show of each other; 0 where one is."""
    one, other = np.asarray(a, np.float64), np.asarray(b, np.float64)
    both = one * other
    return np.asarray(both / np.maximum(one + other - both, 1e-12), np.float32)


def reduced_observation(observation: Observation, max_width: int) -> Observation:
    """The observation at no more than `max_width` pixels of width, its arrays its own.

    Colours are means, depth that of the nearest surface with narrow gaps closed and without
    silhouettes, whose pixels mix two surfaces; confidence is left out.
    """
    camera = observation.camera
    depth = close_gaps(observation.depth)
    _, edges = nearest_and_edges(depth)
    depth[edges] = np.nan
    if camera.width <= max_width:
        return replace(observation, image=observation.image.copy(), depth=depth, confidence=None)
    size = (max_width, max(1, round(camera.height * max_width / camera.width)))
    image = np.asarray(cv2.resize(observation.image, size, interpolation=cv2.INTER_AREA), np.uint8)
    return Observation(observation.stamp_ns, image, reduce_depth(depth, size),
                       camera.resized(*size), observation.world_from_camera)


def sampled_depth(depth: Float, grid: tuple[int, int]) -> Float:
    """Depth at the middle of each cell of a grid (rows, columns), NaN where none is known.

    Of a cell's known pixels [H, W] the one nearest to its middle.
    """
    samples = np.empty(grid, np.float32)
    kernels.sample_depth(np.ascontiguousarray(depth, np.float32), samples)
    return samples


def picture_quality(image: Byte) -> float:
    """How much a picture shows: sharp, varied, contrasty ones are high.

    0.4 log(1 + variance of the Laplacian) + 0.3 entropy of the gray values (bits) + 0.3 deviation
    of the gray values / 128, as the public release of WorldStereo weighs them.
    """
    gray = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    sharpness = float(cv2.Laplacian(gray, cv2.CV_32F).var())
    counts = np.bincount(gray.reshape(-1), minlength=256) / gray.size
    filled = counts[counts > 0]
    entropy = float(-(filled * np.log2(filled)).sum())
    return 0.4 * float(np.log1p(sharpness)) + 0.3 * entropy + 0.3 * float(gray.std()) / 128


def _with_known(drawn: Float, known: Float) -> tuple[Float, Float]:
    """Depth of each cell and what it is worth: known where at least half of the cell is."""
    rows, columns = drawn.shape
    sampled = sampled_depth(known, (rows, columns))
    share = cv2.resize((known > 0).astype(np.float32), (columns, rows),
                       interpolation=cv2.INTER_AREA)
    hole = np.asarray(1 - share, np.float32)
    depth = np.where((hole < 0.5) & (sampled > 0), sampled, drawn)
    return np.asarray(depth, np.float32), (KNOWN_WORTH + (1 - KNOWN_WORTH) * hole).reshape(-1)


def _inverted(transforms: Array) -> Array:
    """Inverses of rigid transforms [V, 4, 4]."""
    inverse = np.tile(np.eye(4), (len(transforms), 1, 1))
    turned = transforms[:, :3, :3].transpose(0, 2, 1)
    inverse[:, :3, :3] = turned
    inverse[:, :3, 3] = -np.einsum("vij,vj->vi", turned, transforms[:, :3, 3])
    return inverse


def _angles(poses: Array, pose: Transform) -> Array:
    """Angles between rotations [V] and one, rad."""
    trace = np.einsum("vij,ij->v", poses[:, :3, :3], pose[:3, :3])
    return np.asarray(np.arccos(np.clip((trace - 1) / 2, -1, 1)))


def _view_angles(poses: Array, pose: Transform, depths: Array) -> Array:
    """By how many radians a scene `depths` m away moves between poses [V, 4, 4] and one."""
    shift = np.linalg.norm(poses[:, :3, 3] - pose[:3, 3], axis=1)
    return np.asarray(_angles(poses, pose) + shift / np.maximum(depths, 1e-3))


def _all_view_angles(poses: Array, depths: Array) -> Array:
    """The same between all pairs, [V, V]; infinite on the diagonal."""
    count = len(poses)
    flat = poses[:, :3, :3].reshape(count, 9)
    angle = np.arccos(np.clip((flat @ flat.T - 1) / 2, -1, 1))
    centers = poses[:, :3, 3]
    shift = np.linalg.norm(centers[:, None] - centers[None], axis=-1)
    nearer = np.minimum(depths[:count, None], depths[None, :count])
    apart = angle + shift / np.maximum(nearer, 1e-3)
    np.fill_diagonal(apart, np.inf)
    return np.asarray(apart)


def _frustum_box(camera: PinholeCamera, world_from_camera: Transform) -> Array:
    """[2, 3]: least and largest world coordinates of a frustum's eight corners."""
    edges = np.array([[x, y] for x in (-0.5, camera.width - 0.5)
                      for y in (-0.5, camera.height - 0.5)])
    rays = np.stack([(edges[:, 0] - camera.cx) / camera.fx, (edges[:, 1] - camera.cy) / camera.fy,
                     np.ones(4)], axis=-1)
    corners = np.concatenate([rays * FRUSTUM_NEAR, rays * FRUSTUM_FAR])
    world = rigid.transform_points(world_from_camera, corners)
    return np.stack([world.min(axis=0), world.max(axis=0)])
