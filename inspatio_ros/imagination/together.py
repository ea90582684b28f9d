# SPDX-License-Identifier: Apache-2.0
"""Several requests imagined in step, with one context where the backend can share it."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any

from inspatio_ros.imagination.blocks import BlockPlan, BlockSpan
from inspatio_ros.imagination.engine import (
    Backend,
    GuideSource,
    Image,
    ImaginationEngine,
    Session,
    composite,
    imagined_frame,
    offer_bank,
)
from inspatio_ros.imagination.request import ImaginationRequest, ImaginedBlock, NoGeometry
from inspatio_ros.memory.guide import Guide
from inspatio_ros.sensing.observation import Observation


def imagine_together(
    engine: ImaginationEngine, requests: Sequence[ImaginationRequest], memory: GuideSource
) -> Iterator[list[ImaginedBlock]]:
    """The next block of every request, block by block; the requests hold their references.

    A generator's context does not depend on the way, so before the first block it is made once for
    all; other backends make the requests one after the other. A block has the frames that
    `ImaginationEngine.imagine` gives for its request alone.
    Raises ValueError when the requests differ in camera, references, prompt, modes or length, and
    NoGeometry when there is neither a reference nor a point in memory.
    """
    first = requests[0]
    for request in requests:
        if _shared_part(request) != _shared_part(first):
            raise ValueError("requests that are imagined together must share camera, references, "
                             "prompt, modes and number of frames")
    if not first.references and memory.point_count == 0:
        raise NoGeometry("nothing to imagine from: no observation yet and the memory is empty")
    backend = engine.backend
    lanes = _Lanes(backend, requests, memory)
    try:
        held: list[dict[int, Guide]] = [{} for _ in requests]
        for span in BlockPlan(len(first.trajectory), backend.block_frames,
                              backend.first_block_frames):
            yield _blocks(backend, requests, memory, lanes, span, held)
    finally:
        lanes.close()


def _shared_part(request: ImaginationRequest) -> tuple[object, ...]:
    return (request.camera, request.prompt, request.mode, request.source_mode,
            len(request.trajectory), *map(id, request.references))


class _Lanes:
    """One session for all requests, or one for each."""

    def __init__(self, backend: Backend, requests: Sequence[ImaginationRequest],
                 memory: GuideSource) -> None:
        together: Any = getattr(backend, "begin_together", None)
        self.shared = together is not None
        self._sessions: list[Session] = (
            [together(requests)] if self.shared else [backend.begin(r) for r in requests])
        for session in self._sessions:
            offer_bank(session, memory)

    def fill(self, guides: list[list[Guide]],
             references: Sequence[Observation]) -> list[list[Image]]:
        """Pictures of the block, for each request."""
        groups = [guides] if self.shared else [[lane] for lane in guides]
        pictures: list[list[Image]] = []
        for session, lanes in zip(self._sessions, groups, strict=True):
            session.start_fill(lanes, references)
            pictures += session.finish_fill()
        return pictures

    def close(self) -> None:
        for session in self._sessions:
            session.close()


def _blocks(
    backend: Backend, requests: Sequence[ImaginationRequest], memory: GuideSource, lanes: _Lanes,
    span: BlockSpan, held: list[dict[int, Guide]],
) -> list[ImaginedBlock]:
    start = time.perf_counter()
    first = requests[0]
    last = len(first.trajectory) - 1
    numbers = [min(i, last)
               for i in range(span.start, span.start + span.padded + backend.lookahead)]
    for request, guides in zip(requests, held, strict=True):
        for number in [n for n in guides if n < span.start]:
            del guides[number]
        for number in numbers:
            if number not in guides:
                at = None if request.start is None else (
                    request.start + round(float(request.trajectory.times[number]) * 1e9))
                guides[number] = memory.render(
                    request.camera, request.trajectory.world_from_camera[number],
                    first.references[:1], at)
    guided = time.perf_counter()
    pictures = lanes.fill([[guides[n] for n in numbers] for guides in held], first.references)
    done = time.perf_counter()
    share = (done - start) / (span.frames * len(requests))
    times = {"guide": guided - start, "fill": done - guided}
    made = []
    for request, guides, images in zip(requests, held, pictures, strict=True):
        own = [guides[n] for n in numbers[:span.frames]]
        images = images[:span.frames]
        if request.mode == "composite":
            images = [composite(g, p) for g, p in zip(own, images, strict=True)]
        made.append(ImaginedBlock(span.index, tuple(
            imagined_frame(request, request.references, span, offset, guide, image,
                                     share)
            for offset, (guide, image) in enumerate(zip(own, images, strict=True))), times))
    return made
