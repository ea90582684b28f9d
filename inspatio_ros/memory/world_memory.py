# SPDX-License-Identifier: Apache-2.0
"""The memory of what was seen: one object that takes observations and gives guides."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from inspatio_ros.geometry.camera import PinholeCamera
from inspatio_ros.memory.guide import Guide, GuideRenderer
from inspatio_ros.memory.imagined_points import ImaginedPoints, ImaginedView
from inspatio_ros.memory.looks import RecentLooks
from inspatio_ros.memory.moving import MovingLayer, MovingOptions
from inspatio_ros.memory.moving_drawing import draw_moving
from inspatio_ros.memory.rolling_cloud import RollingCloud
from inspatio_ros.memory.seen_again import SeenAgain
from inspatio_ros.memory.splatting import NumbaSplatter, make_splatter
from inspatio_ros.memory.stereo_memory import StereoMemory, StereoOptions
from inspatio_ros.memory.usual_detail import UsualDetail
from inspatio_ros.sensing.observation import Observation


@dataclass(frozen=True)
class MemoryOptions:
    """Bounds of the memory and how it is drawn.

    capacity: points. max_age s. max_radius m. voxel_size m. min_confidence [0, 1]. max_depth m.
    mode: 'soft' or 'fast' (see GuideRenderer). backend: 'numba', 'torch' or 'triton'.
    guess: hint at what the newest reference saw without depth ('soft' only; see Guide).
    match_exposure: draw old colours in the exposure of the newest reference.
    keep_imagined: what is imagined is kept too, as points of the lowest rank (see ImaginedPoints),
    so that it is there again when the camera comes back. imagined_capacity: of those, points.
    moving: things that move are kept apart and drawn where they go (see MovingLayer); None: all
    that is seen is taken to stand.
    stereo: posed views are kept too, and warped into what the cloud leaves empty (see
    StereoMemory); None: no views are kept.
    looks: depth pictures of the last seconds that are kept, by which planning knows ground that
    was seen between the lines of a picture (see RecentLooks).
    """

    capacity: int = 4_000_000
    max_age: float = 30.0
    max_radius: float = 30.0
    voxel_size: float = 0.02
    min_confidence: float = 0.0
    max_depth: float = float("inf")
    mode: str = "soft"
    backend: str = "numba"
    guess: bool = True
    match_exposure: bool = True
    keep_imagined: bool = False
    imagined_capacity: int = 1_000_000
    moving: MovingOptions | None = None
    stereo: StereoOptions | None = None
    looks: int = 6


class WorldMemory:
    """A rolling cloud, its renderer, and the exposure that ties its colours together.

    imagined: what was imagined and is kept, None unless the options ask for it. looks: the depth
    of the last seconds.

    Not safe between threads: one worker owns it.
    """

    def __init__(self, options: MemoryOptions | None = None) -> None:
        self.options = options or MemoryOptions()
        o = self.options
        self.cloud = RollingCloud(o.capacity, o.voxel_size, o.max_age, o.max_radius,
                                  o.min_confidence, o.max_depth)
        self.imagined = ImaginedPoints(
            o.imagined_capacity, o.voxel_size, o.max_age, o.max_radius) if o.keep_imagined \
            else None
        self.moving = MovingLayer(o.moving) if o.moving is not None else None
        self.looks = RecentLooks(o.looks)
        self._detail = UsualDetail()
        self._again = SeenAgain()
        self._splatter = make_splatter(o.backend)
        self._renderer = GuideRenderer(self._splatter, o.mode, o.guess, o.match_exposure)
        self.stereo = StereoMemory(o.stereo, self._renderer) if o.stereo is not None else None

    @property
    def point_count(self) -> int:
        """Points in the cloud."""
        return self.cloud.point_count

    @property
    def nbytes(self) -> int:
        """Bytes of all that is kept and of the drawing buffers."""
        scratch = self._splatter.nbytes if isinstance(self._splatter, NumbaSplatter) else 0
        imagined = self.imagined.nbytes if self.imagined is not None else 0
        moving = self.moving.nbytes if self.moving is not None else 0
        stereo = self.stereo.nbytes if self.stereo is not None else 0
        return (self.cloud.nbytes + scratch + imagined + moving + stereo + self.looks.nbytes
                + self._again.nbytes)

    @property
    def dropped(self) -> dict[str, int]:
        """Points that were not taken or have left, by reason."""
        return dict(self.cloud.dropped)

    def integrate(self, observation: Observation) -> None:
        """Fuse an observation into the cloud."""
        tone = self._renderer.tone_between(self.cloud, observation)
        moving = self.moving.observe(observation) if self.moving is not None else None
        self.cloud.integrate(observation, tone, moving)
        if self.moving is not None:
            self.moving.clean(self.cloud)
        if self.imagined is not None:
            self.imagined.give_way(observation, tone)
        if self.stereo is not None:
            self.stereo.add(observation, moving)
        self.looks.offer(observation)
        self._detail.add(observation.image)
        self._again.add(observation)

    def keep(self, view: ImaginedView) -> int:
        """Keep what is new in an imagined view; how many points that adds.

        Raises ValueError when the options do not ask for it (keep_imagined).
        """
        if self.imagined is None:
            raise ValueError("this memory keeps nothing imagined: set memory.keep_imagined")
        if self.stereo is not None:
            self.stereo.bank.add(Observation(view.stamp_ns, view.image, view.depth, view.camera,
                                             view.world_from_camera), imagined=True)
        return self.imagined.keep(view, self.cloud)

    def render(
        self,
        camera: PinholeCamera,
        world_from_camera: npt.NDArray[np.float64],
        references: Sequence[Observation] = (),
        stamp_ns: int | None = None,
    ) -> Guide:
        """The guide of a view; references: what is observed now, newest first.

        stamp_ns: the time that is imagined, by the clock of the observations; what moves is drawn
        where it is then. None: where it was seen last.
        """
        kept = self.imagined.cloud if self.imagined is not None else None
        layer = self.moving
        guide = self._renderer.render(camera, world_from_camera, references, self.cloud, kept,
                                      layer.mask_of if layer is not None else None)
        if self.stereo is not None:
            guide = self.stereo.complete(guide, camera, world_from_camera,
                                         references[0] if references else None)
        if layer is not None:
            guide = draw_moving(self._renderer, guide, camera, world_from_camera,
                                layer.shown(stamp_ns, references))
        return replace(guide, usual_detail=self._detail.level, seen_again=self._again.errors)

    def clear(self) -> None:
        """Forget everything but the counts of drops."""
        self.cloud.reset()
        if self.imagined is not None:
            self.imagined.reset()
        if self.moving is not None:
            self.moving.reset()
        if self.stereo is not None:
            self.stereo.reset()
        self.looks.clear()
        self._detail.reset()
        self._again.reset()
        self._renderer.clear()

    def colored_points(
        self, max_points: int
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.uint8]]:
        """(xyz float32 [P, 3] m in the world, rgb uint8 [P, 3]) of at most `max_points`."""
        return self.cloud.colored_points(max_points)
