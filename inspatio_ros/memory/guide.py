# SPDX-License-Identifier: Apache-2.0
"""The guide: what geometry alone knows of a view that no camera has taken yet."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import cv2
import numpy as np
import numpy.typing as npt

from inspatio_ros.geometry import rigid
from inspatio_ros.geometry.camera import PinholeCamera
from inspatio_ros.memory import splatting_numba as kernels
from inspatio_ros.memory.exposure import IDENTITY_TONE, compose_tone, fit_tone_of_views
from inspatio_ros.memory.rolling_cloud import RollingCloud
from inspatio_ros.memory.splatting import (
    NEAR,
    PARALLEL,
    NumbaSplatter,
    Splatter,
    pack_colors,
    projection_matrix,
)
from inspatio_ros.memory.surfaces import (
    SURFACE_JUMP,
    close_gaps,
    extend_sensor_depth,
    nearest_and_edges,
    reduce_depth,
    tidy,
)
from inspatio_ros.sensing.observation import Observation, Provenance

Float = npt.NDArray[np.float32]
Byte = npt.NDArray[np.uint8]
Transform = npt.NDArray[np.float64]

MODES = ("fast", "soft")
# As SURFACE_JUMP, where a depth is guessed: guesses are smooth but may be steep.
GUESS_JUMP = 0.25
# How much nearer (relative) a remembered surface must be to stand in front of an observed one.
NEARER = 0.08
# Relative depth within which points share in a pixel's colour.
BLEND_TOLERANCE = 0.02
# A reference whose pixels are finer than the wanted view's by more than this is reduced first.
REDUCE_FROM = 1.25
MAX_REFERENCES = 3
# Largest side in pixels of a remembered point.
MAX_POINT_SIDE = 9
# Exposure of two frames is compared in a picture of about this width.
TONE_WIDTH = 160

# Where a reference's depth comes from (`_Reference.ranks`), as provenance of what is drawn.
MEASURED, REMEMBERED, GUESS = np.uint8(0), np.uint8(1), np.uint8(2)
RANK_LABELS = np.array([Provenance.OBSERVED, Provenance.MEMORY, Provenance.IMAGINED, 0], np.uint8)


@dataclass(frozen=True)
class Guide:
    """What geometry knows of one view.

    image uint8 [H, W, 3] (0 where unknown), depth float32 [H, W] m (NaN where not measured),
    provenance uint8 [H, W] of `Provenance`. MEMORY or better is backed by measured geometry.
    IMAGINED is a hint: a colour that the newest reference saw but at a guessed depth, so the
    guide's depth is NaN there; guessed float32 [H, W] m is that depth, NaN where the newest
    reference drew no hint, None without hints. kept: float32 [H, W] m, the depth of pixels that
    show what was imagined before and is kept (see ImaginedPoints), NaN elsewhere; None without
    such a memory.
    moving bool [H, W]: pixels of things that move (see MovingLayer); None without any.
    tone: float32 [6], gains and offsets (RGB, RGB) from the exposure of the memory's newest frame
    to that of the picture.
    usual_detail: grey values of the fine structure of what was seen (see UsualDetail); None: not
    known. seen_again: squared grey values float32 [8] by which it was off where it was seen again
    (see SeenAgain); None: not known.
    """

    image: Byte
    depth: Float
    provenance: Byte
    kept: Float | None = None
    moving: npt.NDArray[np.bool_] | None = None
    tone: Float = field(default_factory=lambda: IDENTITY_TONE)
    guessed: Float | None = None
    usual_detail: float | None = None
    seen_again: Float | None = None

    @property
    def shown_depth(self) -> Float:
        """Depth float32 [H, W] m of what is shown, measured, kept or guessed; NaN where nothing.

        It is as good as the worst of these: to follow colours by, not to steer by.
        """
        depth = self.depth
        for other in (self.kept, self.guessed):
            if other is not None:
                depth = np.where(depth > 0, depth, other)
        return depth

    @property
    def coverage(self) -> float:
        """Share of pixels that measured geometry backs."""
        return float(np.count_nonzero(self.provenance >= Provenance.MEMORY) / self.depth.size)

    @property
    def settled(self) -> npt.NDArray[np.bool_]:
        """Pixels that are not to be imagined now: backed by measured geometry, kept, or showing a
        thing that moves."""
        backed = self.provenance >= Provenance.MEMORY
        if self.moving is not None:
            backed = backed | self.moving
        return backed if self.kept is None else backed | (self.kept > 0)


@dataclass(frozen=True)
class _Reference:
    """An observation at the resolution of the wanted view, with a depth for every pixel.

    depth: measured, else remembered, else guessed, as `ranks` says. front: 3x3 minimum of the
    measured depth, NaN where there is none. tone: from the cloud's exposure to this one's.
    """

    image: Byte
    depth: Float
    ranks: Byte
    front: Float
    camera: PinholeCamera
    world_from_camera: Transform
    tone: Float


class GuideRenderer:
    """Draws guides from a cloud and from the observations seen now.

    mode: 'soft' draws observations as surfaces with colours sampled between pixels, and the cloud
    in two passes (nearest depth, then a blend of what lies there); 'fast' draws points and
    squares, and is the one mode for other backends than numba. guess: also draw what the newest
    reference saw without depth, as hints (soft mode only). match_exposure: draw old colours in
    the exposure of the newest reference.
    Raises ValueError on an unknown mode or one that the backend does not have.
    """

    def __init__(
        self, splatter: Splatter, mode: str = "soft", guess: bool = True,
        match_exposure: bool = True,
    ) -> None:
        if mode not in MODES:
            raise ValueError(f"guide mode '{mode}' is not one of {', '.join(MODES)}")
        if mode == "soft" and not isinstance(splatter, NumbaSplatter):
            raise ValueError(f"guide mode 'soft' needs the numba backend, not '{splatter.name}'")
        self._splatter = splatter
        self.mode = mode
        self._guess = guess and mode == "soft"
        self._match_exposure = match_exposure
        # With the number of the cloud's frame whose exposure their tone starts from.
        self._prepared: dict[tuple[int, int, int], tuple[Observation, int, _Reference]] = {}

    def render(
        self,
        camera: PinholeCamera,
        world_from_camera: Transform,
        references: Sequence[Observation],
        cloud: RollingCloud,
        imagined: RollingCloud | None = None,
        moving: Callable[[Observation], npt.NDArray[np.bool_] | None] | None = None,
    ) -> Guide:
        """The guide of a view; references newest first, at most `MAX_REFERENCES` are used.

        What the references saw wins where geometry agrees; the cloud fills holes and stands in
        front only where it is clearly nearer and the newest reference could not see that place.
        imagined: points that were imagined before; they fill what no measured surface covers.
        moving(reference): its pixels [H, W] that show things that move; they are left out.
        """
        pose = rigid.require_rigid(world_from_camera, "world_from_camera")
        prepared = [self._prepare(r, camera, cloud, moving) for r in references[:MAX_REFERENCES]]
        newest = prepared[0] if prepared else None
        guide = _close_cracks(self._draw_reference(newest, camera, pose)) if newest \
            else _empty(camera)
        for reference in prepared[1:]:
            layer = self._draw_reference(reference, camera, pose)
            observed = np.where(layer.provenance == Provenance.OBSERVED, layer.depth, np.nan)
            _lay_under(guide, layer.image, observed.astype(np.float32), Provenance.OBSERVED,
                       camera, pose, newest)
        tone = newest.tone if newest else IDENTITY_TONE
        if cloud.point_count:
            image, depth = self.draw_cloud(cloud, camera, pose, tone)
            _lay_under(guide, image, depth, Provenance.MEMORY, camera, pose, newest)
        if imagined is not None and imagined.point_count:
            guide = _with_kept(guide, *self.draw_cloud(imagined, camera, pose, tone))
        return replace(guide, tone=tone)

    def draw_cloud(
        self,
        cloud: RollingCloud,
        camera: PinholeCamera,
        world_from_camera: Transform,
        tone: Float = IDENTITY_TONE,
        mode: str | None = None,
    ) -> tuple[Byte, Float]:
        """(image uint8 [H, W, 3], depth float32 [H, W] m, NaN where nothing) of the cloud alone.

        tone: float32 [6] gains and offsets from the exposure of the cloud's newest frame to the
        wanted one. mode: instead of the renderer's own.
        """
        view = rigid.invert(world_from_camera) @ cloud.world_from_points
        curves = cloud.tone if tone is IDENTITY_TONE else compose_tone(tone, cloud.tone)
        spans = cloud.visible_spans(camera, world_from_camera)
        if not isinstance(self._splatter, NumbaSplatter):
            return self._draw_cloud_points(cloud, camera, view, curves, spans)
        height, width = camera.height, camera.width
        image = np.empty((height, width, 3), np.uint8)
        depth = np.empty((height, width), np.float32)
        nearest = self._splatter.nearest_indices(
            cloud.xyz, cloud.sizes, spans, camera, view, MAX_POINT_SIDE)
        soft = (mode or self.mode) == "soft"
        with PARALLEL:
            sums = np.empty((0, 0, 5), np.float32)
            if soft:
                sums = self._splatter.sums(height * width)
                kernels.blend_squares(
                    cloud.xyz, cloud.sizes, cloud.rgba, cloud.frames, curves, spans,
                    projection_matrix(camera, view), np.float32(camera.fx), MAX_POINT_SIDE,
                    np.float32(NEAR), np.float32(BLEND_TOLERANCE), nearest, width, height, sums)
            kernels.resolve_cloud(nearest, cloud.rgba, cloud.frames, curves, sums,
                                  image.reshape(-1, 3), depth.reshape(-1))
        return tidy(image, depth) if soft else (image, depth)

    def draw_surface(
        self, image: Byte, depth: Float, source: PinholeCamera, world_from_source: Transform,
        camera: PinholeCamera, world_from_camera: Transform,
    ) -> tuple[Byte, Float]:
        """(image uint8 [H, W, 3], depth float32 [H, W] m, NaN where nothing) of one depth picture
        alone: depth [h, w] of camera `source`, NaN where there is no surface."""
        reference = _Reference(image, depth, np.full(depth.shape, MEASURED), depth, source,
                               world_from_source, IDENTITY_TONE)
        drawn = self._draw_reference(reference, camera, world_from_camera)
        return drawn.image, drawn.depth

    def tone_between(self, cloud: RollingCloud, observation: Observation) -> Float:
        """Gains and offsets [6] from the exposure of the cloud's newest frame to observation's."""
        if cloud.point_count == 0 or not self._match_exposure:
            return IDENTITY_TONE
        source = observation.camera
        scale = min(1.0, TONE_WIDTH / source.width)
        size = (max(1, round(source.width * scale)), max(1, round(source.height * scale)))
        drawn, depth = self.draw_cloud(cloud, source.resized(*size),
                                       observation.world_from_camera, mode="fast")
        image = np.asarray(cv2.resize(observation.image, size, interpolation=cv2.INTER_AREA),
                           np.uint8)
        return fit_tone_of_views(drawn, depth, image, reduce_depth(observation.depth, size))

    def clear(self) -> None:
        """Forget prepared references."""
        self._prepared.clear()

    def _prepare(
        self, observation: Observation, camera: PinholeCamera, cloud: RollingCloud,
        moving: Callable[[Observation], npt.NDArray[np.bool_] | None] | None = None,
    ) -> _Reference:
        source = observation.camera
        ratio = max(source.fx / camera.fx, source.fy / camera.fy)
        size = source.size
        if ratio > REDUCE_FROM:
            size = (max(1, round(source.width / ratio)), max(1, round(source.height / ratio)))
        key = (id(observation), *size)
        known = self._prepared.pop(key, None)
        if known is not None and known[1] == cloud.newest_frame:
            self._prepared[key] = known
            return known[2]
        mask = moving(observation) if moving is not None else None
        reference = self._complete(observation, size, cloud, mask)
        while len(self._prepared) > MAX_REFERENCES:
            self._prepared.pop(next(iter(self._prepared)))
        # The observation is held along, so that its id is not given to another one.
        self._prepared[key] = (observation, cloud.newest_frame, reference)
        return reference

    def _complete(
        self, observation: Observation, size: tuple[int, int], cloud: RollingCloud,
        moving: npt.NDArray[np.bool_] | None = None,
    ) -> _Reference:
        image, camera = observation.image, observation.camera
        depth = close_gaps(observation.depth)
        if moving is not None:
            depth = np.where(moving, np.float32(np.nan), depth)
        if size != camera.size:
            image = np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)
            depth = reduce_depth(depth, size)
            camera = camera.resized(*size)
            if moving is not None:
                moving = cv2.resize(moving.astype(np.uint8), size,
                                    interpolation=cv2.INTER_AREA) > 0
        front, _ = nearest_and_edges(depth)
        ranks = np.where(depth > 0, MEASURED, GUESS)
        tone = IDENTITY_TONE
        if cloud.point_count:
            drawn, remembered = self.draw_cloud(cloud, camera, observation.world_from_camera,
                                                mode="fast")
            if self._match_exposure:
                tone = fit_tone_of_views(drawn, remembered, image, depth)
            _, remembered = tidy(drawn, remembered)
            filled = (ranks == GUESS) & (remembered > 0)
            depth = np.where(filled, remembered, depth)
            ranks[filled] = REMEMBERED
        if self._guess:
            depth = extend_sensor_depth(depth)
        if moving is not None:
            # Neither a guess nor the memory may carry the colours of what moves.
            depth = np.where(moving, np.float32(np.nan), depth)
        return _Reference(np.ascontiguousarray(image), depth, ranks, front, camera,
                          observation.world_from_camera, tone)

    def _draw_reference(
        self, reference: _Reference, camera: PinholeCamera, pose: Transform
    ) -> Guide:
        target_from_source = rigid.invert(pose) @ reference.world_from_camera
        if not isinstance(self._splatter, NumbaSplatter):
            return self._draw_reference_points(reference, camera, target_from_source)
        height, width = camera.height, camera.width
        source = reference.camera
        inverse_k = np.array([1 / source.fx, 1 / source.fy, source.cx, source.cy], np.float32)
        projection = projection_matrix(camera, target_from_source)
        image = np.empty((height, width, 3), np.uint8)
        depth = np.empty((height, width), np.float32)
        label = np.empty((height, width), np.uint8)
        flat = image.reshape(-1, 3), depth.reshape(-1), label.reshape(-1)
        with PARALLEL:
            buffers = self._splatter.buffers(height * width)
            if self.mode == "soft":
                # Source positions share 32 bits: as many fractions as the picture's size leaves.
                scale = np.float32(2 ** (16 - max(source.size).bit_length()))
                kernels.warp_mesh(reference.depth, reference.ranks, inverse_k, projection,
                                  np.float32(SURFACE_JUMP), np.float32(GUESS_JUMP), scale,
                                  np.float32(NEAR), width, height, buffers)
                kernels.resolve_mesh(buffers, reference.image, RANK_LABELS, scale, *flat)
            else:
                kernels.splat_depth(reference.depth, _labelled_codes(reference), inverse_k,
                                    projection, np.float32(NEAR), width, height, buffers)
                kernels.resolve(buffers, *flat)
        return Guide(image, depth, label)

    def _draw_reference_points(
        self, reference: _Reference, camera: PinholeCamera, target_from_source: Transform
    ) -> Guide:
        known = reference.depth > 0
        points = reference.camera.unproject(reference.depth)[known].astype(np.float32)
        # A little over a pixel's own size, so that no crack opens at small magnifications.
        sizes = points[:, 2] * np.float32(1.5 / reference.camera.fx)
        drawn = self._splatter.render(
            np.ascontiguousarray(points.T), _labelled_codes(reference)[known], camera,
            target_from_source, sizes, MAX_POINT_SIDE)
        return Guide(drawn.image, drawn.depth, drawn.label)

    def _draw_cloud_points(
        self, cloud: RollingCloud, camera: PinholeCamera, view: Transform, curves: Float,
        spans: npt.NDArray[np.int64],
    ) -> tuple[Byte, Float]:
        indices = np.concatenate([np.arange(a, b) for a, b in spans] or [np.arange(0)])
        codes = pack_colors(cloud.colors(indices, curves))
        drawn = self._splatter.render(
            np.ascontiguousarray(cloud.xyz[:, indices]), codes, camera, view,
            cloud.sizes[indices], MAX_POINT_SIDE)
        return drawn.image, drawn.depth


def _labelled_codes(reference: _Reference) -> npt.NDArray[np.uint32]:
    labels = RANK_LABELS[reference.ranks].astype(np.uint32)
    return pack_colors(reference.image, 0) | (labels << np.uint32(24))


def _close_cracks(guide: Guide) -> Guide:
    """The guide with gaps of a pixel or two within its measured surfaces filled by their mean.

    Depth of guessed pixels moves to `guessed` here, so that no guess closes a gap.
    """
    hints = guide.provenance == Provenance.IMAGINED
    guessed = np.where(hints, guide.depth, np.float32(np.nan)) if hints.any() else None
    guide.depth[hints] = np.nan
    image, depth = tidy(guide.image, guide.depth, min_alike=-1)
    closed = (guide.provenance == Provenance.UNKNOWN) & (depth > 0)
    guide.image[closed] = image[closed]
    guide.depth[closed] = depth[closed]
    guide.provenance[closed] = Provenance.OBSERVED
    return replace(guide, guessed=guessed)


def _empty(camera: PinholeCamera) -> Guide:
    shape = (camera.height, camera.width)
    return Guide(np.zeros((*shape, 3), np.uint8), np.full(shape, np.nan, np.float32),
                 np.zeros(shape, np.uint8))


def _with_kept(guide: Guide, image: Byte, depth: Float) -> Guide:
    """The guide with imagined points drawn where it knows nothing.

    Hints stay: their colour was seen now, which beats what was only imagined.
    """
    shown = (guide.provenance == Provenance.UNKNOWN) & (depth > 0)
    guide.image[shown] = image[shown]
    guide.provenance[shown] = Provenance.IMAGINED
    return replace(guide, kept=np.where(shown, depth, np.float32(np.nan)))


def _lay_under(
    guide: Guide, image: Byte, depth: Float, label: Provenance, camera: PinholeCamera,
    pose: Transform, newest: _Reference | None,
) -> None:
    rays = np.array([1 / camera.fx, 1 / camera.fy, camera.cx, camera.cy], np.float32)
    if newest is None:
        seen = np.full((1, 1), np.nan, np.float32)
        intrinsics, view = np.ones(4, np.float32), np.eye(4, dtype=np.float32)
    else:
        seen, source = newest.front, newest.camera
        intrinsics = np.array([source.fx, source.fy, source.cx, source.cy], np.float32)
        view = (rigid.invert(newest.world_from_camera) @ pose).astype(np.float32)
    with PARALLEL:
        kernels.compose(
            guide.image, guide.depth, guide.provenance, image, depth, np.uint8(label),
            np.float32(1 - NEARER), seen, rays, view, intrinsics, np.uint8(Provenance.IMAGINED))
