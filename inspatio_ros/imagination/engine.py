# SPDX-License-Identifier: Apache-2.0
"""The engine: a request in, imagined frames out, block by block.

The node, the action, the offline tools and the tests all call `ImaginationEngine.imagine`.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import cv2
import numpy as np
import numpy.typing as npt

from inspatio_ros.geometry.camera import PinholeCamera
from inspatio_ros.imagination.assessment import DriftMonitor, extrapolation, provenance_ratios
from inspatio_ros.imagination.blocks import BlockPlan, BlockSpan
from inspatio_ros.imagination.request import (
    ImaginationRequest,
    ImaginedBlock,
    ImaginedFrame,
    NoGeometry,
)
from inspatio_ros.memory.guide import Guide
from inspatio_ros.memory.imagined_points import ImaginedView
from inspatio_ros.memory.view_bank import ViewBank
from inspatio_ros.memory.world_memory import WorldMemory
from inspatio_ros.runtime.cores import shared_cores
from inspatio_ros.sensing.observation import Observation, Provenance

Image = npt.NDArray[np.uint8]

# Blocks that are in work at the same time where the backend works ahead.
BLOCKS_AT_ONCE = 2
# Width in pixels over which composite mode passes from rendered to imagined colour.
FEATHER_PX = 3


class Session(Protocol):
    """One request's state inside a backend."""

    @property
    def stage_times(self) -> Mapping[str, float]:
        """Seconds of each stage of the last `fill`."""

    def start_fill(
        self, guides: Sequence[Sequence[Guide]], references: Sequence[Observation]
    ) -> None:
        """Begin a block of each request; `guides` are the block's and the lookahead."""

    def finish_fill(self) -> list[list[Image]]:
        """Whole pictures, uint8 RGB, of the oldest block begun, for each request."""

    def close(self) -> None:
        """Free what the request held."""


@runtime_checkable
class LooksAtViews(Protocol):
    """A session whose backend may look at views of a bank."""

    bank: ViewBank | None


@runtime_checkable
class WorksAhead(Protocol):
    """A session that can make a block aside, in its share of the cores, while another is begun.

    ahead: whether it does; False unless set before the first block. meanwhile: called now and then
    in `start_fill`. made: whether the oldest block begun is, so that `finish_fill` does not wait.
    """

    ahead: bool
    meanwhile: Callable[[], None]

    @property
    def made(self) -> bool:
        """See above."""


@runtime_checkable
class RollsOut(Protocol):
    """A session that shows each block the ones before it, so that what it gets wrong may add up.

    recalled: blocks that were shown an older block than the last.
    """

    @property
    def recalled(self) -> int:
        """See above."""


@runtime_checkable
class HoldsRollouts(Protocol):
    """A backend whose roll-outs can be kept from drifting."""

    def hold_rollouts(self, reanchor: float, keyframes: int) -> None:
        """From the next request on; see LongRollout. Raises ValueError for values out of range."""


class Backend(Protocol):
    """What turns guides into pictures: the geometric filler or the diffusion transformer.

    block_frames, first_block_frames: pictures of a block. lookahead: guides beyond the block that
    its encoder must read. reference_frames: newest observations that it looks at. asynchronous:
    the host is free between `start_fill` and `finish_fill`.
    """

    name: str
    block_frames: int
    first_block_frames: int
    lookahead: int
    reference_frames: int
    asynchronous: bool

    def begin(self, request: ImaginationRequest) -> Session:
        """Start a request."""

    def warm_up(self, camera: PinholeCamera) -> None:
        """Compile and allocate for pictures of this camera, before the first request."""

    def close(self) -> None:
        """Free everything."""

    @property
    def nbytes(self) -> int:
        """Bytes held for weights and caches."""


NewestReferences = Callable[[], Sequence[Observation]]
# The observation that belongs to a frame of the trajectory, by the frame's number.
FrameReferences = Callable[[int], Observation]


class GuideSource(Protocol):
    """What guides are drawn from: a WorldMemory, or another renderer in its place."""

    @property
    def point_count(self) -> int:
        """Points remembered; 0 when only references can be drawn."""

    def render(
        self, camera: PinholeCamera, world_from_camera: npt.NDArray[np.float64],
        references: Sequence[Observation] = (), stamp_ns: int | None = None,
    ) -> Guide:
        """The guide of a view; references: what is observed now, newest first.

        stamp_ns: the time to imagine, by the clock of the observations; None: now.
        """


class ImaginationEngine:
    """Imagines views along trajectories from a memory, with one backend.

    Not safe between threads: one worker owns it (and the memory it is given).
    """

    def __init__(self, backend: Backend) -> None:
        self.backend = backend

    def imagine(
        self,
        request: ImaginationRequest,
        memory: GuideSource,
        newest: NewestReferences | None = None,
        own: FrameReferences | None = None,
    ) -> Iterator[ImaginedBlock]:
        """The frames of `request`, block by block, exactly one for each pose of its trajectory.

        newest: asked before each block for the observations to see from now on, newest first.
        Without it the request's references are held while the camera moves.
        own: each frame has a reference of its own, as when a recording is seen from another way;
        asked once for each number, in order. Then `newest` is not used.
        Stop by no longer iterating, or `close()` of the iterator: nothing is left behind and the
        next request starts clean.
        Raises NoGeometry when there is neither a reference nor a point in memory.
        """
        way = self.start(request, memory, newest, own)
        try:
            while way.begin():
                yield way.finish()
        finally:
            way.close()

    def start(
        self,
        request: ImaginationRequest,
        memory: GuideSource,
        newest: NewestReferences | None = None,
        own: FrameReferences | None = None,
        *,
        ahead: bool = False,
    ) -> ImaginedWay:
        """`request` for a caller that does other things while its blocks are made.

        newest, own: as of `imagine`. ahead: another block, of this request or the next one, may be
        begun while one is made (`ImaginedWay.ahead` says whether the backend can).
        """
        return ImaginedWay(self.backend, request, memory, newest, own, ahead)

    def hold_rollouts(self, reanchor: float, keyframes: int) -> None:
        """Keep requests to come from drifting; nothing to do where each block stands alone."""
        if isinstance(self.backend, HoldsRollouts):
            self.backend.hold_rollouts(reanchor, keyframes)

    def warm_up(self, camera: PinholeCamera) -> None:
        """Do now what the first block would otherwise wait for."""
        self.backend.warm_up(camera)

    def close(self) -> None:
        """Free the backend."""
        self.backend.close()


class ImaginedWay:
    """One request in work: its blocks are begun in their order, and finished in the same.

    ahead: whether a block may be begun before the one before is finished; known for certain once
    the first is begun.
    """

    def __init__(
        self,
        backend: Backend,
        request: ImaginationRequest,
        memory: GuideSource,
        newest: NewestReferences | None,
        own: FrameReferences | None,
        ahead: bool,
    ) -> None:
        self._backend = backend
        self._request = request
        self._memory = memory
        self._newest = newest
        self._session: Session | None = None
        self._monitor: DriftMonitor | None = None
        # What a block imagines must be kept before the next one is drawn. On a GPU the host is
        # free anyway.
        self.ahead = ahead and not backend.asynchronous and not _keeps(memory)
        self._spans = iter(BlockPlan(len(request.trajectory), backend.block_frames,
                                     backend.first_block_frames))
        self._next = next(self._spans, None)
        self._references: Sequence[Observation] = request.references
        # By frame number, drawn before their block.
        self._guides: dict[int, Guide] = {}
        self._window = _OwnReferences(own, len(request.trajectory)) if own is not None else None
        self._begun: deque[_Begun] = deque()

    @property
    def begun(self) -> int:
        """Blocks that are begun and not finished."""
        return len(self._begun)

    @property
    def made(self) -> bool:
        """Whether there is a block that `finish` does not wait for."""
        session = self._session
        return bool(self._begun) and (not isinstance(session, WorksAhead) or session.made)

    @property
    def whole(self) -> bool:
        """Whether all blocks are begun."""
        return self._next is None

    def close(self) -> None:
        """Give up what is not finished; nothing is left behind."""
        self._next = None
        self._begun.clear()
        if self._session is not None:
            self._session.close()

    def begin(self, meanwhile: Callable[[], None] | None = None) -> bool:
        """Begin the next block; False when there is none.

        meanwhile: called now and then, to finish what is made by then.
        Raises NoGeometry when there is neither a reference nor a point in memory.
        """
        span = self._next
        if span is None:
            return False
        if self._window is not None:
            self._references = self._window.newest_first(span, self._backend.lookahead)
        elif self._newest is not None:
            self._references = self._newest() or self._references
        if not self._references and self._memory.point_count == 0:
            raise NoGeometry(
                "nothing to imagine from: no observation yet and the memory is empty")
        session = self._session = self._session or self._open()
        if meanwhile is not None and isinstance(session, WorksAhead):
            session.meanwhile = meanwhile
        with shared_cores(BLOCKS_AT_ONCE) if self.ahead else nullcontext():
            self._begin(session, span, meanwhile)
        self._next = next(self._spans, None)
        return True

    def _open(self) -> Session:
        session = self._backend.begin(self._request)
        offer_bank(session, self._memory)
        self.ahead = self.ahead and isinstance(session, WorksAhead)
        if isinstance(session, WorksAhead):
            session.ahead = self.ahead
        if isinstance(session, RollsOut):
            self._monitor = DriftMonitor()
        return session

    def _begin(self, session: Session, span: BlockSpan,
               meanwhile: Callable[[], None] | None) -> None:
        start = time.perf_counter()
        request, window, guides = self._request, self._window, self._guides
        references = self._references
        last = len(request.trajectory) - 1
        numbers = [min(i, last)
                   for i in range(span.start, span.start + span.padded + self._backend.lookahead)]
        for number in [n for n in guides if n < span.start]:
            del guides[number]

        def draw(number: int) -> None:
            if number not in guides:
                pose = request.trajectory.world_from_camera[number]
                # The newest alone: what older ones saw is in the memory.
                seen = references[:1] if window is None else (window.of(number),)
                at = None if window is not None or request.start is None else (
                    request.start + round(float(request.trajectory.times[number]) * 1e9))
                guides[number] = self._memory.render(request.camera, pose, seen, at)

        for number in numbers:
            if meanwhile is not None:
                meanwhile()
            draw(number)
        guided = time.perf_counter()
        shown = [guides[number] for number in numbers]
        session.start_fill([shown], references)
        if self._backend.asynchronous and self._newest is None and window is None and (
                not _keeps(self._memory)):
            # What the next block is shown is known already: draw it while this one is made.
            for number in range(span.stop, min(span.stop + self._backend.block_frames, last + 1)):
                draw(number)
        seen = [references] * span.frames if window is None else [
            (window.of(number),) for number in numbers[:span.frames]]
        self._begun.append(_Begun(span, shown[:span.frames], seen, start, guided))

    def finish(self) -> ImaginedBlock:
        """The oldest block begun, once it is made. Raises what went wrong while it was."""
        begun, session, monitor = self._begun.popleft(), self._session, self._monitor
        assert session is not None  # it was opened before the first block
        span, guides = begun.span, begun.guides
        pictures = session.finish_fill()[0][:span.frames]
        filled = time.perf_counter()
        # Before they are mixed with the guide. The last one stands for the block: there most has
        # added up.
        drift = monitor.add(pictures[-1:], guides[-1:]) if monitor is not None else None
        if self._request.mode == "composite":
            pictures = [composite(g, p) for g, p in zip(guides, pictures, strict=True)]
        done = time.perf_counter()
        share = (done - begun.start) / span.frames
        frames = tuple(
            imagined_frame(self._request, references, span, offset, guide, picture, share)
            for offset, (references, guide, picture) in enumerate(
                zip(begun.references, guides, pictures, strict=True)))
        times = {"guide": begun.guided - begun.start, "fill": filled - begun.guided,
                 "composite": done - filled, **session.stage_times}
        block = ImaginedBlock(span.index, frames, times, drift,
                              monitor is not None and monitor.drifting)
        keep_imagined(self._memory, block)
        return block


def imagined_frame(
    request: ImaginationRequest,
    references: Sequence[Observation],
    span: BlockSpan,
    offset: int,
    guide: Guide,
    picture: Image,
    compute_time: float,
) -> ImaginedFrame:
    """A frame of a block; compute_time: s, of the block, by frame."""
    index = span.start + offset
    pose = request.trajectory.world_from_camera[index]
    provenance = np.where(guide.provenance == Provenance.UNKNOWN,
                          np.uint8(Provenance.IMAGINED), guide.provenance)
    ratios = provenance_ratios(provenance)
    observed = np.array([r.world_from_camera for r in references]).reshape(-1, 4, 4)
    distance, angle = extrapolation(pose, observed)
    return ImaginedFrame(
        image=picture,
        depth=guide.depth,
        provenance=provenance,
        guide=guide,
        camera=request.camera,
        world_from_camera=pose,
        request_id=request.request_id,
        block_index=span.index,
        frame_index=index,
        frame_count=len(request.trajectory),
        source_stamp_ns=max((r.stamp_ns for r in references), default=0),
        time_from_start=float(request.trajectory.times[index]),
        observed_ratio=ratios[Provenance.OBSERVED],
        memory_ratio=ratios[Provenance.MEMORY],
        imagined_ratio=ratios[Provenance.IMAGINED],
        expected_error=float("nan"),
        extrapolation_distance=distance,
        extrapolation_angle=angle,
        compute_time=compute_time,
    )


def offer_bank(session: Session, memory: GuideSource) -> None:
    """Let a session that can look at views have those of the memory's bank."""
    if isinstance(memory, WorldMemory) and memory.stereo is not None and isinstance(
            session, LooksAtViews):
        session.bank = memory.stereo.bank


def _keeps(memory: GuideSource) -> bool:
    return isinstance(memory, WorldMemory) and memory.imagined is not None


def keep_imagined(memory: GuideSource, block: ImaginedBlock) -> None:
    """Keep what a block imagined for the first time, where the memory's options ask for it.

    Its last frame, then of its first one what the last does not show: between them they see what
    the block saw, and no place is kept twice. Hints of the guide are left out: they come anew with
    every reference.
    """
    if not isinstance(memory, WorldMemory) or memory.imagined is None:
        return
    for frame in (block.frames[-1], *block.frames[:-1][:1]):
        guide = frame.guide
        if frame is not block.frames[-1]:
            guide = memory.render(frame.camera, frame.world_from_camera)
        known = guide.depth if guide.kept is None else np.where(
            guide.kept > 0, guide.kept, guide.depth)
        fresh = ~guide.settled & (frame.guide.provenance == Provenance.UNKNOWN)
        memory.keep(ImaginedView(frame.image, np.asarray(known, np.float32), fresh, frame.camera,
                                 frame.world_from_camera, frame.source_stamp_ns,
                                 tone=frame.guide.tone))


@dataclass(frozen=True)
class _Begun:
    """A block that a session has begun: its guides, and what was seen then, of each frame.

    start, guided: when it began and when its guides were drawn, s of `time.perf_counter`.
    """

    span: BlockSpan
    guides: Sequence[Guide]
    references: Sequence[Sequence[Observation]]
    start: float
    guided: float


class _OwnReferences:
    """The observations of the frames of one block, each asked for once."""

    def __init__(self, own: FrameReferences, count: int) -> None:
        self._own = own
        self._count = count
        self._held: dict[int, Observation] = {}

    def of(self, number: int) -> Observation:
        """That of frame `number`."""
        if number not in self._held:
            self._held[number] = self._own(number)
        return self._held[number]

    def newest_first(self, span: BlockSpan, lookahead: int) -> list[Observation]:
        """Those of a block and its lookahead, the last one repeated past the end."""
        for number in [n for n in self._held if n < span.start]:
            del self._held[number]
        last = self._count - 1
        numbers = [min(i, last) for i in range(span.start, span.start + span.padded + lookahead)]
        return [self.of(number) for number in numbers][::-1]


def composite(guide: Guide, picture: Image) -> Image:
    """The guide's colour where geometry backs it, `picture` elsewhere, feathered at the border.

    The feather lies on the known side only, so that no invented colour loses strength and no
    hole keeps the guide's black.
    """
    known = guide.settled.astype(np.uint8)
    if known.all():
        return guide.image
    inside = cv2.distanceTransform(known, cv2.DIST_L2, 3)
    weight = np.minimum(inside / (FEATHER_PX + 1), 1.0)[..., None]
    mixed = picture + weight * (guide.image.astype(np.float32) - picture)
    return np.asarray(np.rint(mixed), dtype=np.uint8)
