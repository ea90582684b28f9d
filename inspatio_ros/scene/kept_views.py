# SPDX-License-Identifier: Apache-2.0
"""A memory that can be brought to where it was: what it kept of the imagined, on disk."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from inspatio_ros.geometry.camera import PinholeCamera
from inspatio_ros.memory.imagined_points import LEAST_FRESH, ImaginedView
from inspatio_ros.memory.world_memory import MemoryOptions, WorldMemory

KEPT = "kept.npz"


class SceneMemory(WorldMemory):
    """A world memory that notes every view it keeps; the same views in the same order give the
    same memory again, bit by bit.

    estimate: gives a view its depth, estimated from the picture; None: it is carried on from what
    is known.
    """

    def __init__(self, options: MemoryOptions,
                 estimate: Callable[[ImaginedView], ImaginedView] | None = None) -> None:
        super().__init__(options)
        self.estimate = estimate
        self._noted: list[ImaginedView] = []

    def keep(self, view: ImaginedView) -> int:
        """Keep what is new in a view, and note it: also one that adds no point may move some.

        A view with next to nothing new is left out altogether, of the bank of views too.
        """
        if view.fresh.mean() < LEAST_FRESH:
            return 0
        if self.estimate is not None:
            view = self.estimate(view)
        self._noted.append(view)
        return super().keep(view)

    def take_noted(self) -> list[ImaginedView]:
        """The views kept since the last call."""
        noted, self._noted = self._noted, []
        return noted

    def replay(self, views: Sequence[ImaginedView]) -> None:
        """Keep views that were noted before."""
        for view in views:
            super().keep(view)


def write_kept(path: Path, views: Sequence[ImaginedView]) -> None:
    """Write views of one camera; nothing but arrays. Raises OSError."""
    arrays: dict[str, np.ndarray] = {"count": np.array(len(views))}
    if views:
        camera = views[0].camera
        arrays["camera"] = np.array([camera.width, camera.height, camera.fx, camera.fy,
                                     camera.cx, camera.cy])
        arrays["image"] = np.stack([v.image for v in views])
        arrays["depth"] = np.stack([v.depth for v in views])
        # An estimate that did not fit leaves none; NaN then, which keeps as none does.
        arrays["estimated"] = np.stack([
            np.full_like(v.depth, np.nan) if v.estimated is None else v.estimated for v in views])
        arrays["fresh"] = np.packbits(np.stack([v.fresh for v in views]), axis=-1)
        arrays["pose"] = np.stack([v.world_from_camera for v in views])
        arrays["tone"] = np.stack([v.tone for v in views])
        arrays["stamp_ns"] = np.array([v.stamp_ns for v in views], np.int64)
    with path.open("wb") as file:
        np.savez_compressed(file, **arrays)  # type: ignore[arg-type]


def read_kept(path: Path) -> list[ImaginedView]:
    """What `write_kept` wrote. Raises ValueError when the file is none of it."""
    try:
        with np.load(path, allow_pickle=False) as stored:
            if int(stored["count"]) == 0:
                return []
            width, height, *numbers = stored["camera"].tolist()
            camera = PinholeCamera(int(width), int(height), *numbers)
            fresh = np.unpackbits(stored["fresh"], axis=-1, count=camera.width).astype(np.bool_)
            return [ImaginedView(image, depth, new, camera, pose, int(stamp), estimated, tone)
                    for image, depth, new, pose, stamp, estimated, tone in zip(
                        stored["image"], stored["depth"], fresh, stored["pose"],
                        stored["stamp_ns"], stored["estimated"], stored["tone"], strict=True)]
    except (KeyError, zipfile.BadZipFile, EOFError) as error:
        raise ValueError(f"{path}: not the kept views of a scene: {error!r}") from error
