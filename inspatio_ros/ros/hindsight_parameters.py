# SPDX-License-Identifier: Apache-2.0
"""The parameters of the hindsight node. The shipped YAML and the docs are made from them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from inspatio_ros.evaluation.live_hindsight import JudgeOptions, LiveOptions
from inspatio_ros.ros.parameters import group, param


@dataclass(frozen=True)
class PoseParameters:
    """Where the real camera's poses come from; as the imagination node has it."""

    source: str = param(
        "tf", "Where camera poses come from: the tf tree, or the odometry topic (the camera's "
        "place on the robot comes from tf either way)", choices=("tf", "odometry"))
    world_frame: str = param("odom", "Frame of the imagined poses: transforms.world_frame of the "
                             "imagination node")
    base_frame: str = param("base_link", "Frame that odometry without a child frame moves")
    time_offset: float = param(
        0.0, "Added to an image's stamp before its pose is looked up: positive when the poses' "
        "clock is ahead of the camera's", unit="s", minimum=-10.0, maximum=10.0, dynamic=True)
    timeout: float = param(
        0.5, "How long an image waits for its transform before it is dropped", unit="s",
        minimum=0.0, maximum=10.0, dynamic=True)


@dataclass(frozen=True)
class RealInputParameters:
    """The real camera."""

    depth: ClassVar[str] = "none"  # what CameraInput is to subscribe to beside the image
    depth_transport: ClassVar[str] = "raw"
    max_stamp_gap: ClassVar[float] = 0.0

    image_transport: str = param("raw", "Transport of camera/image_rect",
                                 choices=("raw", "compressed"))
    rectify: bool = param(
        False, "The images are raw: remove the lens distortion that camera_info describes "
        "(otherwise such a camera is refused)")
    already_rectified: bool = param(
        False, "The images are rectified although camera_info carries a distortion, as "
        "image_proc publishes it")
    observe_rate: float = param(10.0, "Real images taken up, at most so often", unit="Hz",
                                minimum=0.1, maximum=120.0, dynamic=True)
    timeout: float = param(2.0, "After so long without an input diagnostics name it", unit="s",
                           minimum=0.1, maximum=3600.0, dynamic=True)

    def check(self) -> None:
        """Raise ValueError when the values contradict each other."""
        if self.rectify and self.already_rectified:
            raise ValueError("input.rectify and input.already_rectified exclude each other")


@dataclass(frozen=True)
class MatchParameters:
    """Which imagined views wait, and which real image each is compared with."""

    horizons: tuple[float, ...] = param(
        (0.5, 1.0, 2.0, 4.0), "How far ahead views are judged; each view counts to the nearest",
        unit="s", minimum=0.05, maximum=600.0)
    per_horizon: int = param(
        24, "Views that wait for each horizon at most; the oldest leave first", unit="views",
        minimum=1, maximum=1000)
    interval: float = param(0.25, "Time between two views that are taken for one horizon",
                            unit="s", minimum=0.0, maximum=60.0)
    max_distance: float = param(
        2.0, "A real image is of the same pose when the middle of the scene lies at most so far "
        "off", unit="px", minimum=0.01, maximum=100.0)
    patience: float = param(2.0, "A view waits so long past its time for the camera to come",
                            unit="s", minimum=0.0, maximum=600.0)

    def check(self) -> None:
        """Raise ValueError when the values contradict each other."""
        self.options()

    def options(self) -> LiveOptions:
        """The core's options of these parameters."""
        return LiveOptions(tuple(self.horizons), self.per_horizon, self.interval,
                           self.max_distance, self.patience)


@dataclass(frozen=True)
class CalibrationParameters:
    """How expected errors are learnt from scores."""

    capacity: int = param(4096, "Newest scores that the calibration rests on", unit="scores",
                          minimum=8, maximum=1_000_000)
    minimum: int = param(32, "Scores before anything is calibrated", unit="scores", minimum=1,
                         maximum=100_000)
    period: float = param(1.0, "Time between two ~/calibration messages", unit="s", minimum=0.05,
                          maximum=3600.0, dynamic=True)

    def check(self) -> None:
        """Raise ValueError when the values contradict each other."""
        if self.minimum > self.capacity:
            raise ValueError(f"calibration.minimum {self.minimum} is above calibration.capacity "
                             f"{self.capacity}")


@dataclass(frozen=True)
class JudgeParameters:
    """When the scores are reported as bad."""

    window: int = param(50, "Newest scores that are judged", unit="scores", minimum=1,
                        maximum=10_000)
    minimum: int = param(5, "Scores before anything is judged", unit="scores", minimum=1,
                         maximum=10_000)
    min_horizon: float = param(
        0.3, "Scores of views less far ahead are not judged: hardly anything has moved that could "
        "be wrong", unit="s", minimum=0.0, maximum=600.0)
    max_horizon: float = param(1.5, "Scores of views farther ahead are not held against the "
                               "geometry", unit="s", minimum=0.05, maximum=600.0)
    min_moved: float = param(
        4.0, "Views between which and their source image the middle of the scene moves less are "
        "not compared with that image", unit="px", minimum=0.0, maximum=1000.0)
    warn_gain: float = param(
        0.5, "WARN when views are not by so much better than their source image in their place "
        "(median, covered pixels): the geometry is wrong", unit="dB", minimum=-100.0,
        maximum=100.0)
    error_gain: float = param(-0.5, "ERROR when the same is below", unit="dB", minimum=-100.0,
                              maximum=100.0)
    warn_psnr: float = param(12.0, "WARN when the median over covered pixels is below", unit="dB",
                             minimum=0.0, maximum=100.0)
    error_psnr: float = param(9.0, "ERROR when it is below", unit="dB", minimum=0.0,
                              maximum=100.0)
    surprise: float = param(2.0, "WARN when errors are so many times the expected ones",
                            minimum=1.0, maximum=1000.0)
    stale_after: float = param(10.0, "STALE when nothing was compared for so long", unit="s",
                               minimum=0.1, maximum=36000.0, dynamic=True)

    def check(self) -> None:
        """Raise ValueError when the values contradict each other."""
        self.options()

    def options(self) -> JudgeOptions:
        """The core's options of these parameters."""
        return JudgeOptions(self.window, self.minimum, self.min_horizon, self.max_horizon,
                            self.min_moved, self.warn_gain, self.error_gain, self.warn_psnr,
                            self.error_psnr, self.surprise)


@dataclass(frozen=True)
class HindsightParameters:
    """All parameters of the hindsight node."""

    autostart: bool = param(True, "Configure and activate without a lifecycle manager")
    transforms: PoseParameters = group(PoseParameters)
    input: RealInputParameters = group(RealInputParameters)
    match: MatchParameters = group(MatchParameters)
    calibration: CalibrationParameters = group(CalibrationParameters)
    diagnostics: JudgeParameters = group(JudgeParameters)
