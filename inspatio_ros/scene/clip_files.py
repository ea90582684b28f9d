# SPDX-License-Identifier: Apache-2.0
"""One imagined clip on disk: pictures, labels, imagined depth with its trust, and kept views."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from inspatio_ros.files.reference_layout import read_depth_png, write_depth_png
from inspatio_ros.geometry.camera import PinholeCamera
from inspatio_ros.imagination.request import ImaginedFrame
from inspatio_ros.sensing.observation import Observation, Provenance

Float = npt.NDArray[np.float32]
Image = npt.NDArray[np.uint8]

CLIP = "clip.json"


@dataclass(frozen=True)
class ClipRecord:
    """What a clip is: its way, and of each frame the shares seen and imagined."""

    name: str
    kind: str
    camera: PinholeCamera
    world_from_camera: npt.NDArray[np.float64]
    backed: list[float]

    def __len__(self) -> int:
        return len(self.world_from_camera)


class ClipWriter:
    """Writes a clip's frames into a folder; `finish` ends it. Raises OSError."""

    def __init__(self, folder: Path, name: str, kind: str) -> None:
        self._folder, self._name, self._kind = folder, name, kind
        self._poses: list[list[list[float]]] = []
        self._backed: list[float] = []
        self._camera: PinholeCamera | None = None

    def write(self, frame: ImaginedFrame, depth: Float | None, trust: Float | None) -> None:
        """Add a frame; depth: of its imagined pixels m, NaN elsewhere, and how far to trust it."""
        number = f"{len(self._poses):04d}"
        _write(self._folder / f"{number}.png", frame.image[..., ::-1])
        _write(self._folder / f"{number}_labels.png", frame.provenance)
        if depth is not None and trust is not None:
            write_depth_png(self._folder / f"{number}_depth.png", depth)
            _write(self._folder / f"{number}_trust.png", np.rint(trust * 255).astype(np.uint8))
        self._camera = frame.camera
        self._poses.append(frame.world_from_camera.tolist())
        self._backed.append(frame.support)

    def finish(self) -> None:
        """Write clip.json."""
        assert self._camera is not None
        content = {"name": self._name, "kind": self._kind, "camera": self._camera.to_dict(),
                   "world_from_camera": self._poses, "backed": self._backed}
        (self._folder / CLIP).write_text(json.dumps(content) + "\n", encoding="utf-8")


class ClipFolder:
    """A clip that `ClipWriter` wrote. Raises ValueError when it is none."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        try:
            content: dict[str, Any] = json.loads((folder / CLIP).read_text(encoding="utf-8"))
            self.record = ClipRecord(
                content["name"], content["kind"], PinholeCamera.from_dict(content["camera"]),
                np.array(content["world_from_camera"]), content["backed"])
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{folder / CLIP}: not the record of a clip: {error!r}") from error

    def image(self, number: int) -> Image:
        """Frame `number`, uint8 RGB [H, W, 3]."""
        return np.ascontiguousarray(_read(self.folder / f"{number:04d}.png")[..., ::-1])

    def labels(self, number: int) -> Image:
        """Provenance of frame `number`, uint8 [H, W]."""
        return _read(self.folder / f"{number:04d}_labels.png")

    def surfaces(self) -> Iterator[Observation]:
        """The frames with imagined depth, its trust as confidence."""
        for number in range(len(self.record)):
            path = self.folder / f"{number:04d}_depth.png"
            if path.is_file():
                trust = _read(self.folder / f"{number:04d}_trust.png").astype(np.float32) / 255
                yield Observation(number, self.image(number), read_depth_png(path),
                                  self.record.camera, self.record.world_from_camera[number],
                                  trust.astype(np.float32))


def imagined_only(frame: ImaginedFrame) -> npt.NDArray[np.bool_]:
    """The pixels of a frame that nothing measured backs."""
    return np.asarray(frame.provenance < Provenance.MEMORY)


def _write(path: Path, picture: npt.NDArray[Any]) -> None:
    # Through our own file: OpenCV says only that it failed, not why.
    done, data = cv2.imencode(".png", np.ascontiguousarray(picture),
                              [cv2.IMWRITE_PNG_COMPRESSION, 3])
    if not done:
        raise OSError(f"{path}: cannot be encoded")
    path.write_bytes(data.tobytes())


def _read(path: Path) -> Image:
    picture = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    if picture is None:
        raise ValueError(f"{path}: no picture that can be read")
    return np.asarray(picture, np.uint8)
