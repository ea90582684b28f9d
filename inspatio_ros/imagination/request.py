# SPDX-License-Identifier: Apache-2.0
"""What is asked of the engine and what it gives back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from inspatio_ros.geometry.camera import PinholeCamera
from inspatio_ros.geometry.trajectory import CameraTrajectory
from inspatio_ros.imagination.assessment import Drift
from inspatio_ros.memory.guide import Guide
from inspatio_ros.sensing.observation import Observation

# 'composite': pixels that geometry backs keep their rendered colour, the backend fills the rest.
# 'model': the backend's picture as it is, which is what the reference publishes.
OUTPUT_MODES = ("composite", "model")

# What the model's source block is made of. 'frozen': the newest observation held (time stands
# still while the camera moves). 'live': the newest frames before each block. 'anchor': the
# request's own references, for every block. 'stream': consecutive frames of a recording, each
# block's own (what the public release does with a video).
SOURCE_MODES = ("frozen", "live", "anchor", "stream")


class NoGeometry(RuntimeError):
    """There is nothing to imagine from: no observation and an empty memory."""


@dataclass(frozen=True)
class ImaginationRequest:
    """Imagine what `camera` would see along `trajectory`.

    trajectory: one pose a frame. references: observations seen now, newest first; in live mode
    the engine asks for newer ones before every block. request_id: 16 bytes, zeros when following
    the plan. seed: of every random draw, so that equal requests give equal frames. source_mode:
    one of SOURCE_MODES. start_ns: when, by the clock of the observations, the trajectory's time is
    0; None: at the newest reference. Things that move are shown where they are then, in every
    mode.
    Raises ValueError on an unknown mode or an id of another length.
    """

    camera: PinholeCamera
    trajectory: CameraTrajectory
    references: tuple[Observation, ...]
    request_id: bytes = bytes(16)
    seed: int = 0
    prompt: str = ""
    mode: str = "composite"
    source_mode: str = "frozen"
    start_ns: int | None = None

    @property
    def start(self) -> int | None:
        """Time 0 of the trajectory by the clock of the observations, ns; None: nothing tells."""
        if self.start_ns is not None or not self.references:
            return self.start_ns
        return self.references[0].stamp_ns

    def __post_init__(self) -> None:
        if self.source_mode not in SOURCE_MODES:
            raise ValueError(
                f"source_mode '{self.source_mode}' is not one of {', '.join(SOURCE_MODES)}")
        if self.mode not in OUTPUT_MODES:
            raise ValueError(f"mode '{self.mode}' is not one of {', '.join(OUTPUT_MODES)}")
        if len(self.request_id) != 16:
            raise ValueError(f"request_id has {len(self.request_id)} bytes, expected 16")


@dataclass(frozen=True)
class ImaginedFrame:
    """One imagined view with everything needed to trust or distrust it.

    image: uint8 RGB [H, W, 3]. depth: float32 [H, W] m, NaN where nothing was measured.
    provenance: uint8 [H, W] of `Provenance`. guide: what the backend was shown. camera,
    world_from_camera [4, 4]: the virtual camera. source_stamp_ns: newest observation used.
    time_from_start: s, when along the path this would be seen. *_ratio: shares of pixels by
    provenance. expected_error: calibrated mean absolute colour error in [0, 1], NaN until
    calibrated. extrapolation_distance (m) and _angle (rad): to the nearest observed camera.
    compute_time: s, the block's wall time over its frames.
    """

    image: npt.NDArray[np.uint8]
    depth: npt.NDArray[np.float32]
    provenance: npt.NDArray[np.uint8]
    guide: Guide
    camera: PinholeCamera
    world_from_camera: npt.NDArray[np.float64]
    request_id: bytes
    block_index: int
    frame_index: int
    frame_count: int
    source_stamp_ns: int
    time_from_start: float
    observed_ratio: float
    memory_ratio: float
    imagined_ratio: float
    expected_error: float
    extrapolation_distance: float
    extrapolation_angle: float
    compute_time: float

    @property
    def support(self) -> float:
        """Share of pixels that geometry backs."""
        return self.observed_ratio + self.memory_ratio


@dataclass(frozen=True)
class ImaginedBlock:
    """The frames of one block, and the seconds each stage of it took.

    drift: how far the backend's own picture has moved from what geometry knows, where its blocks
    build on each other; None where they do not. drifting: it and the block before were far off.
    """

    index: int
    frames: tuple[ImaginedFrame, ...]
    stage_times: Mapping[str, float] = field(default_factory=dict)
    drift: Drift | None = None
    drifting: bool = False
