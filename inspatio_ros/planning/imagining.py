# SPDX-License-Identifier: Apache-2.0
"""Imagines views along the best candidates, coarse before fine, within what time is left."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from inspatio_ros.geometry.camera import PinholeCamera
from inspatio_ros.geometry.trajectory import CameraTrajectory
from inspatio_ros.imagination.engine import ImaginationEngine
from inspatio_ros.imagination.request import ImaginationRequest, ImaginedFrame
from inspatio_ros.imagination.together import imagine_together
from inspatio_ros.planning.candidates import Candidate
from inspatio_ros.planning.situation import Situation

Array = npt.NDArray[np.float64]

# A piece of work is begun when it would end before the deadline if it took this much longer than
# the one before.
_SLACK = 1.3
COARSE_SCALE = 0.5


@dataclass(frozen=True, eq=False)
class Imagined:
    """Views along one candidate, in mode 'model'. finished: all of the level's were made."""

    candidate: Candidate
    frames: tuple[ImaginedFrame, ...]
    level: int
    finished: bool


class Pace:
    """Seconds of one block of one candidate by picture size: the less of the last two.

    A single slow block, as when code is compiled or the machine stalls, must not be what is
    reckoned with from then on: nothing would be begun, so nothing would be measured anew.
    """

    def __init__(self) -> None:
        self._lately: dict[tuple[int, int], tuple[float, ...]] = {}

    def expected(self, camera: PinholeCamera, lanes: int) -> float:
        """Seconds that a block of so many candidates may take, 0 before two were measured."""
        lately = self._lately.get(camera.size, ())
        return _SLACK * lanes * min(lately) if len(lately) == 2 else 0.0

    def note(self, camera: PinholeCamera, lanes: int, seconds: float) -> None:
        """One block took so long."""
        lately = self._lately.get(camera.size, ())
        self._lately[camera.size] = (*lately, seconds / lanes)[-2:]


class CandidateViews:
    """Views of candidates from one situation.

    engine: with any backend. views: along each candidate, evenly in time; may be changed between
    calls. seed, prompt: of the requests.
    """

    def __init__(self, engine: ImaginationEngine, views: int, *, seed: int = 0,
                 prompt: str = "") -> None:
        self._engine = engine
        self.views = views
        self._seed = seed
        self._prompt = prompt
        self.pace = Pace()

    @property
    def levels(self) -> tuple[tuple[float, int], ...]:
        """Scale of the pictures and number of views of each level, the finest last."""
        whole = (1.0, self.views)
        if self.views <= self._engine.backend.first_block_frames:
            return (whole,)
        return (COARSE_SCALE, max(2, self.views // 2)), whole

    def along(
        self, candidates: Sequence[Candidate], situation: Situation,
        time_left: Callable[[], float],
    ) -> Iterator[Imagined | None]:
        """Views of the candidates, first coarse, then fine; None after a piece of work.

        Coarse: half the size and half the views, for backends that are faster then; one whose
        blocks hold all views is not. time_left: s; work that would not fit is not begun, so the
        last ones may be missing or unfinished. All candidates are made together, as far as they
        fit.
        """
        for number, (scale, count) in enumerate(self.levels):
            camera = situation.camera
            if scale < 1.0:
                camera = camera.resized(max(16, round(camera.width * scale)),
                                        max(16, round(camera.height * scale)))
            waiting = list(candidates)
            while waiting:
                lanes = self._fitting(camera, len(waiting), count, time_left())
                if lanes == 0:
                    return
                together, waiting = waiting[:lanes], waiting[lanes:]
                yield from self._level(together, situation, camera, count, number, time_left)

    def _fitting(self, camera: PinholeCamera, most: int, count: int, left: float) -> int:
        """How many candidates can be made together before the time is up."""
        backend = self._engine.backend
        blocks = 1 + max(0, -(-(count - backend.first_block_frames) // backend.block_frames))
        each = self.pace.expected(camera, 1) * blocks
        if each == 0.0:  # hardly measured: one is enough to find out
            return 1 if left > 0 else 0
        return min(most, int(max(left, 0.0) / each)) if left < float("inf") else most

    def _level(
        self, candidates: Sequence[Candidate], situation: Situation, camera: PinholeCamera,
        count: int, number: int, time_left: Callable[[], float],
    ) -> Iterator[Imagined | None]:
        requests = [self._request(candidate, situation, camera, count)
                    for candidate in candidates]
        frames: list[list[ImaginedFrame]] = [[] for _ in candidates]
        blocks = imagine_together(self._engine, requests, situation.memory)
        try:
            while len(frames[0]) < count:
                if time_left() <= self.pace.expected(camera, len(candidates)):
                    break
                start = time.perf_counter()
                for own, block in zip(frames, next(blocks), strict=True):
                    own += block.frames
                self.pace.note(camera, len(candidates), time.perf_counter() - start)
                yield None
        finally:
            blocks.close()  # type: ignore[attr-defined]
        for candidate, own in zip(candidates, frames, strict=True):
            yield Imagined(candidate, tuple(own), number, len(own) == count)

    def _request(self, candidate: Candidate, situation: Situation, camera: PinholeCamera,
                 count: int) -> ImaginationRequest:
        steps = np.arange(1, count + 1) / count
        duration = candidate.duration or 1e-3 * count  # a candidate that stands still
        times = candidate.times[0] + steps * duration
        way = CameraTrajectory(candidate.at(times) @ situation.base_from_camera, times)
        return ImaginationRequest(
            camera, way, situation.references, seed=self._seed, prompt=self._prompt, mode="model")
