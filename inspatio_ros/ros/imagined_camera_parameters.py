# SPDX-License-Identifier: Apache-2.0
"""The parameters of the node `imagined_camera`: its shipped YAML and docs are made from them."""

from __future__ import annotations

import math
from dataclasses import dataclass

from inspatio_ros.planning.vehicles import BICYCLE, UNICYCLE, VehicleLimits
from inspatio_ros.ros.imagination_parameters import PRESETS
from inspatio_ros.ros.parameters import group, param

_LIMITS = VehicleLimits()


@dataclass(frozen=True)
class SceneryParameters:
    """What is driven through."""

    bag: str = param("", "Recording whose memory is driven through: a rosbag2 folder, or one "
                     ".mcap or .db3 file; empty: the analytic street with obstacles")
    seed: int = param(0, "Seed of the next episode: street, obstacles and start; of a recording "
                      "the start (0: its first pose)", minimum=0, maximum=2**31 - 1, dynamic=True)
    width: int = param(240, "Width of a recording's pictures, which are reduced to it",
                       unit="pixels", minimum=16, maximum=4096)
    world_frame: str = param("odom", "Frame at rest: of the recording's tf, and of the poses")
    base_frame: str = param("base_link", "The robot's frame, in the recording and published")
    camera_frame: str = param("imagined_camera_optical", "Frame of the camera, published")
    preset: str = param("geometric", "What fills the holes of a recording's views: as "
                        "model.preset of `imagination`", choices=PRESETS)
    weights: str = param("", "Folder of the preset's weights; empty: those that are shipped")


@dataclass(frozen=True)
class VehicleParameters:
    """How the robot moves."""

    model: str = param(UNICYCLE, "Motion: turns on the spot, or steers",
                       choices=(UNICYCLE, BICYCLE))
    max_speed: float = param(_LIMITS.max_speed, "Largest speed", unit="m/s", minimum=0.01,
                             maximum=50.0)
    max_acceleration: float = param(_LIMITS.max_acceleration, "Largest acceleration", unit="m/s^2",
                                    minimum=0.01, maximum=50.0)
    max_braking: float = param(_LIMITS.max_braking, "Largest deceleration", unit="m/s^2",
                               minimum=0.01, maximum=50.0)
    max_yaw_rate: float = param(_LIMITS.max_yaw_rate, "Largest turn rate", unit="rad/s",
                                minimum=0.01, maximum=10.0)
    wheelbase: float = param(_LIMITS.wheelbase, "Of the bicycle", unit="m", minimum=0.05,
                             maximum=20.0)
    max_steering: float = param(_LIMITS.max_steering, "Of the bicycle", unit="rad", minimum=0.01,
                                maximum=1.5)
    length: float = param(0.8, "Of the robot, its base in the middle", unit="m", minimum=0.05,
                          maximum=30.0)
    robot_width: float = param(0.56, "Of the robot", unit="m", minimum=0.05, maximum=10.0)
    ground: float = param(0.0, "Height (z) of the ground below the base's origin", unit="m",
                          minimum=-10.0, maximum=10.0)


@dataclass(frozen=True)
class LoopParameters:
    """How episodes run."""

    step: float = param(0.1, "Of the simulation, and between two pictures", unit="s",
                        minimum=0.01, maximum=1.0)
    duration: float = param(60.0, "After which an episode is completed", unit="s", minimum=0.1,
                            maximum=36000.0)
    min_coverage: float = param(
        0.35, "An episode ends as unsupported when less of three views one after the other rests "
        "on what was seen", minimum=0.0, maximum=1.0)
    trust_radius: float = param(3.0, "An episode ends farther from the route than this", unit="m",
                                minimum=0.1, maximum=1000.0)
    target_speed: float = param(1.5, "That full progress takes; and of a followed plan that "
                                "carries no times", unit="m/s", minimum=0.01, maximum=50.0)
    command: str = param(
        "twist_stamped", "What drives: cmd_vel as TwistStamped or Twist, or the plan topic, "
        "which is then pursued", choices=("twist_stamped", "twist", "plan"))
    command_timeout: float = param(0.5, "Without a newer command for so long, by /clock, the "
                                   "robot brakes", unit="s", minimum=0.01, maximum=3600.0)
    rate: float = param(1.0, "Times as fast as real time, at most; 0: as fast as it can",
                        minimum=0.0, maximum=1000.0, dynamic=True)
    lockstep: bool = param(False, "Step only when a command came for the picture that was sent: "
                           "the consumer then sets the pace, up to `rate`. Until one comes the "
                           "picture is sent again each second", dynamic=True)
    start_paused: bool = param(False, "Wait for ~/set_paused or ~/step")
    repeat: bool = param(False, "Begin the next episode by itself, with the next seed")


@dataclass(frozen=True)
class StreetCameraParameters:
    """The camera in the street; with a recording it is the recorded one."""

    width: int = param(320, "Image width", unit="pixels", minimum=16, maximum=1920)
    height: int = param(200, "Image height", unit="pixels", minimum=16, maximum=1200)
    field_of_view: float = param(1.75, "Horizontal opening angle", unit="rad", minimum=0.2,
                                 maximum=2.6)
    position: tuple[float, ...] = param((0.3, 0.0, 1.0), "Of the camera on the base: x, y, z",
                                        unit="m", minimum=-10.0, maximum=10.0)
    pitch: float = param(0.45, "Downwards", unit="rad", minimum=-1.5, maximum=1.5)

    def check(self) -> None:
        """Raise ValueError when the position is not three numbers."""
        if len(self.position) != 3 or not all(map(math.isfinite, self.position)):
            raise ValueError(f"camera.position {list(self.position)}: expected x, y, z")


@dataclass(frozen=True)
class ImaginedCameraParameters:
    """All parameters of the node `imagined_camera`."""

    autostart: bool = param(True, "Configure and activate without a lifecycle manager")
    scenery: SceneryParameters = group(SceneryParameters)
    vehicle: VehicleParameters = group(VehicleParameters)
    loop: LoopParameters = group(LoopParameters)
    camera: StreetCameraParameters = group(StreetCameraParameters)
