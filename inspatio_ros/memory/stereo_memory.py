# SPDX-License-Identifier: Apache-2.0
"""Spatial-stereo memory without a network: views of the bank warped into a guide's holes.

The cloud is bounded by points and age and coarser than a picture. What it has lost or never held
finely, a view of the bank may still show: the best ones are found by 3D correspondence and drawn
as surfaces.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from inspatio_ros.geometry import rigid
from inspatio_ros.geometry.camera import PinholeCamera
from inspatio_ros.memory import view_bank_numba as kernels
from inspatio_ros.memory.exposure import IDENTITY_TONE, MIN_PIXELS, SAME_DEPTH, fit_tone_of_views
from inspatio_ros.memory.guide import Guide, GuideRenderer
from inspatio_ros.memory.surfaces import nearest_and_edges, tidy
from inspatio_ros.memory.view_bank import BankOptions, Retrieved, ViewBank
from inspatio_ros.sensing.observation import Observation, Provenance

Float = npt.NDArray[np.float32]
Byte = npt.NDArray[np.uint8]
Transform = npt.NDArray[np.float64]

# Share of a guide's pixels that must be holes before views are looked for.
LEAST_HOLES = 0.002
# As in `guide`: how much nearer (relative) a place must be to have been seen through.
NEARER = 0.08
# Grey values by which a colour differs from another surface's.
OTHER_COLOR = 36.0
# Exposures remembered, one for each view: bounded, the oldest leave.
MAX_TONES = 512


@dataclass(frozen=True)
class StereoOptions:
    """The bank's bounds (see BankOptions), and how many views fill a guide's holes at most.

    match_exposure: carry their colours to the exposure of what is observed now. By default they
    stay as they were taken: a camera that sets its own exposure takes the same view so again.
    Raises ValueError when `views` is less than 1.
    """

    bank: BankOptions = BankOptions()
    views: int = 3
    match_exposure: bool = False

    def __post_init__(self) -> None:
        if self.views < 1:
            raise ValueError(f"bank: views {self.views} must be at least 1")


class StereoMemory:
    """A bank of views and the drawing of them into guides.

    Not safe between threads.
    """

    def __init__(self, options: StereoOptions, renderer: GuideRenderer) -> None:
        self.options = options
        self.bank = ViewBank(options.bank)
        self._renderer = renderer
        self._tones: OrderedDict[int, tuple[int, int, Float]] = OrderedDict()
        self._front: tuple[Observation, Float] | None = None

    @property
    def nbytes(self) -> int:
        """Bytes of the bank."""
        return self.bank.nbytes

    def reset(self) -> None:
        """Forget all views."""
        self.bank.reset()
        self._tones.clear()
        self._front = None

    def add(self, observation: Observation, moving: npt.NDArray[np.bool_] | None = None) -> None:
        """Offer the bank what is seen; moving [H, W]: pixels of things that move, left out."""
        if moving is not None:
            depth = np.where(moving, np.float32(np.nan), observation.depth)
            observation = replace(observation, depth=depth)
        self.bank.add(observation)

    def complete(
        self, guide: Guide, camera: PinholeCamera, world_from_camera: Transform,
        newest: Observation | None,
    ) -> Guide:
        """The guide with its holes filled from the bank where a view has seen them.

        Pixels filled from real views are MEMORY; from imagined ones IMAGINED, with their depth in
        `kept`. What measured geometry backs stays; hints and what was kept of the imagined give
        way to real views. A place that the newest observation saw through stays empty, and so
        does one where it, or another of the views found, saw another colour without depth:
        something that gives no depth, dark or shiny, stands before it.
        """
        holes = guide.provenance < Provenance.MEMORY
        if np.count_nonzero(holes) < LEAST_HOLES * holes.size or len(self.bank) == 0:
            return guide
        pose = rigid.require_rigid(world_from_camera, "world_from_camera")
        known = np.where(holes, np.float32(np.nan), guide.depth)
        found = self.bank.retrieve(camera, pose, self.options.views, known_depth=known)
        # Real views first: what they fill is not for imagined ones.
        for item in sorted(found, key=lambda item: item.view.imagined):
            others = [f.view.observation for f in found if f is not item]
            guide = self._lay(guide, item, camera, pose, newest, others)
        return guide

    def _lay(self, guide: Guide, item: Retrieved, camera: PinholeCamera, pose: Transform,
             newest: Observation | None, others: Sequence[Observation]) -> Guide:
        seen = item.view.observation
        image, depth = self._renderer.draw_surface(
            seen.image, seen.depth, seen.camera, seen.world_from_camera, camera, pose)
        image, depth = tidy(image, depth, min_alike=-1)
        tone = self._tone(item.view.serial, image, depth, guide, newest)
        rays = np.array([1 / camera.fx, 1 / camera.fy, camera.cx, camera.cy], np.float32)
        for other in (others if newest is None else (newest, *others)):
            source = other.camera
            kernels.leave_hidden(
                image, depth, guide.provenance, np.uint8(Provenance.MEMORY), tone, rays,
                (rigid.invert(other.world_from_camera) @ pose)[:3].astype(np.float32),
                np.array([source.fx, source.fy, source.cx, source.cy], np.float32),
                other.image, other.depth, np.float32(OTHER_COLOR))
        front, intrinsics, view = self._seen_through(newest, pose)
        if not item.view.imagined:
            kernels.lay_into_holes(
                guide.image, guide.depth, guide.provenance, image, depth, tone,
                np.uint8(Provenance.MEMORY), np.uint8(Provenance.MEMORY), np.float32(1 - NEARER),
                front, rays, view, intrinsics)
            if guide.kept is None:
                return guide
            backed = guide.provenance >= Provenance.MEMORY
            return replace(guide, kept=np.where(backed, np.float32(np.nan), guide.kept))
        kept = guide.kept.copy() if guide.kept is not None else np.full(
            guide.depth.shape, np.nan, np.float32)
        # What is kept already stays: only pixels without any colour, and hints, are filled.
        taken = guide.provenance.copy()
        taken[kept > 0] = Provenance.MEMORY
        labels = taken.copy()
        kernels.lay_into_holes(
            guide.image, kept, labels, image, depth, tone, np.uint8(Provenance.MEMORY),
            np.uint8(Provenance.MEMORY), np.float32(1 - NEARER), front, rays, view, intrinsics)
        guide.provenance[labels != taken] = Provenance.IMAGINED
        return replace(guide, kept=kept)

    def _tone(self, serial: int, image: Byte, depth: Float, guide: Guide,
              newest: Observation | None) -> Float:
        """Gains and offsets that carry a view's colours to those of what is observed now.

        Fitted where both show the same surface; kept for the frames to come until more of it is
        seen in common, so that colours do not flicker. Where they share too little the colours
        stay as they were taken.
        """
        if not self.options.match_exposure:
            return IDENTITY_TONE
        stamp = -1 if newest is None else newest.stamp_ns
        with np.errstate(invalid="ignore"):
            common = int(np.count_nonzero(
                (guide.provenance == Provenance.OBSERVED)
                & (np.abs(depth - guide.depth) < SAME_DEPTH * depth)))
        held = self._tones.get(serial)
        if held is not None and held[0] == stamp and held[1] * 2 >= common:
            return held[2]
        tone = IDENTITY_TONE
        if common >= MIN_PIXELS:
            observed = np.where(guide.provenance == Provenance.OBSERVED, guide.depth,
                                np.float32(np.nan))
            tone = fit_tone_of_views(image, depth, guide.image, observed)
        self._tones[serial] = (stamp, common, tone)
        self._tones.move_to_end(serial)
        while len(self._tones) > MAX_TONES:
            self._tones.popitem(last=False)
        return tone

    def _seen_through(self, newest: Observation | None, pose: Transform
                      ) -> tuple[Float, Float, Float]:
        """Depth in front of which the newest observation saw nothing, its camera and place."""
        if newest is None:
            return (np.full((1, 1), np.nan, np.float32), np.ones(4, np.float32),
                    np.eye(4, dtype=np.float32))
        if self._front is None or self._front[0] is not newest:
            self._front = (newest, nearest_and_edges(newest.depth)[0])
        source = newest.camera
        intrinsics = np.array([source.fx, source.fy, source.cx, source.cy], np.float32)
        view = (rigid.invert(newest.world_from_camera) @ pose).astype(np.float32)
        return self._front[1], intrinsics, view
