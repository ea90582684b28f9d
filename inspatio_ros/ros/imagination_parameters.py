# SPDX-License-Identifier: Apache-2.0
"""The parameters of the imagination node. The shipped YAML and the docs are made from them."""

from __future__ import annotations

from dataclasses import dataclass

from inspatio_ros.ros.parameters import group, param
from inspatio_ros.ros.rig_parameters import RigParameters
from inspatio_ros.ros.scoring_parameters import FootprintParameters, ScoringParameters

# The backends by name, equal to imagination.backends.BACKENDS: importing those loads torch, which
# takes seconds and must not stand between a wrong parameter and its word.
PRESETS = ("auto", "geometric", "tiny", "tiny_random", "inspatio_world_1_3b")


@dataclass(frozen=True)
class TransformParameters:
    """Frames, and where poses come from."""

    source: str = param(
        "tf", "Where camera poses come from: the tf tree, or the odometry topic (the camera's "
        "place on the robot comes from tf either way)", choices=("tf", "odometry"))
    world_frame: str = param(
        "odom", "Frame in which memory and imagined poses live; must be continuous (REP 105)")
    base_frame: str = param("base_link", "Frame whose way the plan describes")
    imagined_frame: str = param(
        "imagined_camera_optical", "Frame of the imagined camera, published on /tf")
    time_offset: float = param(
        0.0, "Added to an image's stamp before its pose is looked up: positive when the poses' "
        "clock is ahead of the camera's", unit="s", minimum=-10.0, maximum=10.0, dynamic=True)
    timeout: float = param(
        0.5, "How long an image or a plan waits for its transform before it is dropped",
        unit="s", minimum=0.0, maximum=10.0, dynamic=True)


@dataclass(frozen=True)
class InputParameters:
    """Camera and depth input."""

    image_transport: str = param(
        "raw", "Transport of camera/image_rect and right/image_rect",
        choices=("raw", "compressed"))
    depth: str = param(
        "sensor", "Where depth comes from: the depth topic, the right camera of a stereo pair, "
        "the motion of the one camera, or a depth model scaled by that motion",
        choices=("sensor", "stereo", "motion", "estimate"))
    depth_model: str = param(
        "", "Folder of the model for depth `estimate` (transformers or Depth Anything 3); empty: "
        "the shipped FastDepth, for rooms only")
    depth_transport: str = param(
        "raw", "Transport of depth/image_rect", choices=("raw", "compressedDepth"))
    depth_unit: float = param(
        0.0, "Metres of one count of the depth image; 0: by its encoding (16UC1 millimetres, "
        "32FC1 metres)", unit="m", minimum=0.0, maximum=1000.0, dynamic=True)
    min_depth: float = param(0.1, "Nearer depth is taken for unknown", unit="m", minimum=0.0,
                             maximum=100.0, dynamic=True)
    max_depth: float = param(30.0, "Farther depth is taken for unknown", unit="m", minimum=0.1,
                             maximum=10000.0, dynamic=True)
    flying_pixel_jump: float = param(
        0.08, "Relative depth step that marks a silhouette, whose mixed pixels are removed; 0 "
        "keeps them", minimum=0.0, maximum=10.0, dynamic=True)
    rectify: bool = param(
        False, "The images are raw: remove the lens distortion that camera_info describes "
        "(otherwise such a camera is refused)")
    already_rectified: bool = param(
        False, "The images are rectified although camera_info carries a distortion, as "
        "image_proc publishes it")
    stereo_scale: float = param(
        0.5, "Size at which a stereo pair is matched, as a share of its full size", minimum=0.1,
        maximum=1.0)
    max_stamp_gap: float = param(
        0.02, "Largest difference of stamps within one set of image and depth", unit="s",
        minimum=0.0, maximum=1.0)
    observe_rate: float = param(
        10.0, "Images taken up, at most so often: each is decoded, and frames from then on rest "
        "on it", unit="Hz", minimum=0.1, maximum=120.0, dynamic=True)
    fuse_rate: float = param(
        5.0, "Observations fused into memory, at most so often", unit="Hz", minimum=0.1,
        maximum=60.0, dynamic=True)
    timeout: float = param(
        2.0, "After so long without an input the node is degraded and names it", unit="s",
        minimum=0.1, maximum=3600.0, dynamic=True)

    def check(self) -> None:
        """Raise ValueError when the values contradict each other."""
        if self.min_depth >= self.max_depth:
            raise ValueError(f"input.min_depth {self.min_depth} m is not below input.max_depth "
                             f"{self.max_depth} m")
        if self.rectify and self.already_rectified:
            raise ValueError("input.rectify and input.already_rectified exclude each other")


@dataclass(frozen=True)
class MemoryParameters:
    """The bounded memory of what was seen."""

    capacity: int = param(4_000_000, "Points held at most; the oldest leave first",
                          unit="points", minimum=1_000, maximum=100_000_000)
    max_age: float = param(30.0, "Points seen longer ago are forgotten", unit="s", minimum=0.1,
                           maximum=1e6)
    max_radius: float = param(30.0, "Points farther from the camera are forgotten", unit="m",
                              minimum=0.5, maximum=1e5)
    voxel_size: float = param(0.02, "One point is held per cube of this edge", unit="m",
                              minimum=0.001, maximum=10.0)
    keep_imagined: bool = param(
        False, "Keep what is imagined as points of the lowest rank, so that it is there again "
        "when the imagined camera comes back; whatever is seen overrides it, and it stays "
        "imagined")
    imagined_capacity: int = param(
        1_000_000, "Imagined points held at most", unit="points", minimum=1_000,
        maximum=100_000_000)


@dataclass(frozen=True)
class BankParameters:
    """The bank of posed views that fills what the cloud has lost."""

    enabled: bool = param(
        False, "Keep posed views besides the cloud, and warp those that fit into the holes of "
        "imagined views: what the cloud has forgotten is still there")
    capacity: int = param(128, "Views held at most; of two that are alike one leaves",
                          unit="views", minimum=1, maximum=10_000)
    spacing: float = param(0.15, "Two views held differ by at least this much: turn plus shift "
                           "over depth", unit="rad", minimum=0.001, maximum=3.0)
    max_width: int = param(416, "Wider pictures are reduced to this before they are kept",
                           unit="pixels", minimum=16, maximum=8192)
    views: int = param(3, "Views that fill the holes of one imagined view, at most",
                       unit="views", minimum=1, maximum=16)
    match_exposure: bool = param(
        False, "Carry their colors to the exposure of what is seen now; otherwise they stay as "
        "they were taken")


@dataclass(frozen=True)
class MovingParameters:
    """Things that move, kept apart from the memory of what stands."""

    enabled: bool = param(
        False, "Find things that move, keep them out of the memory, and show them where their own "
        "motion takes them by the time that is imagined; false: all that is seen stands still. "
        "Each observation costs some 13 ms of one core. Measured depth only: with input.depth "
        "estimate, whose depth changes from picture to picture, still things seem to move")
    min_speed: float = param(0.4, "Slower things count as standing", unit="m/s", minimum=0.05,
                             maximum=50.0)
    max_objects: int = param(32, "Things followed at most", unit="objects", minimum=1,
                             maximum=1000)
    forget_after: float = param(2.0, "A thing that was not seen for so long is forgotten",
                                unit="s", minimum=0.1, maximum=60.0)
    max_share: float = param(
        0.6, "When more of the picture than this seems to move, it is not believed: the pose may "
        "be wrong, or something fills the view. No thing is made of it, and what is known stays",
        minimum=0.05, maximum=1.0)
    detections: bool = param(
        False, "Also use the boxes of a detector, on the topic detections; needs the package "
        "vision_msgs")
    min_score: float = param(0.3, "Detections scored lower are left out", minimum=0.0,
                             maximum=1.0)


@dataclass(frozen=True)
class ModelParameters:
    """What fills the pixels that geometry does not back."""

    preset: str = param(
        "auto", "Backend: inspatio_world_1_3b is the public model and needs its weights and a "
        "CUDA device; tiny the shipped small model; tiny_random the same with random weights, "
        "for tests; geometric fills holes by smooth continuation; auto takes the first of "
        "inspatio_world_1_3b, tiny and geometric that is there", choices=PRESETS)
    weights: str = param("", "Folder of the preset's weights; empty: those that are shipped")
    device: str = param("", "Torch's name of the device; empty: the first CUDA device, else cpu")
    full_vae: bool = param(False, "Decode the public model with the Wan VAE instead of the tiny "
                           "autoencoder: sharper, many times slower")
    compile: bool = param(False, "Compile the model when the node is configured (minutes)")
    cuda_graph: bool = param(False, "Record blocks as CUDA graphs")


@dataclass(frozen=True)
class ImaginationParameters:
    """How a plan becomes a way of the camera."""

    frame_rate: float = param(15.0, "Imagined frames per second of the way ahead", unit="Hz",
                              minimum=0.1, maximum=120.0, dynamic=True)
    keep_ahead: bool = param(
        False, "Imagine the way coarser than imagination.frame_rate while the backend makes fewer "
        "than twice as many frames a second, so that views come before the robot is there",
        dynamic=True)
    work_ahead: bool = param(
        True, "On a CPU, begin a block while the one before is made: 1.4 times as many frames a "
        "second, each up to 1.4 times as old (the small model on two cores). Where the memory "
        "keeps what is imagined, each block waits for the one before all the same", dynamic=True)
    horizon: float = param(5.0, "How far ahead along the plan is imagined", unit="s",
                           minimum=0.05, maximum=600.0, dynamic=True)
    max_frames: int = param(600, "Frames of one request at most", unit="frames", minimum=1,
                            maximum=100_000, dynamic=True)
    speed: float = param(0.5, "Speed along plans whose poses carry no increasing stamps",
                         unit="m/s", minimum=0.001, maximum=100.0, dynamic=True)
    on_new_plan: str = param(
        "next_block", "A new plan is taken up after the block in work, or after the way in work "
        "has been imagined to its end", choices=("next_block", "finish"), dynamic=True)
    following: bool = param(True, "Imagine along the plan topic from the start on; "
                            "~/set_following changes it")
    denoising_steps: tuple[int, ...] = param(
        (0,), "Steps of the diffusion model, falling, 1 to 8 of them: fewer are faster and "
        "coarser; 0 alone: the model's own ([1000, 750, 500, 250] of the public one)", minimum=0,
        maximum=1000)
    source: str = param(
        "live", "What the model takes as seen while the plan is followed. Live: the newest images "
        "before each block; frozen: the newest one, as if time stood still; anchor: the images of "
        "the beginning of the way, for every block. Goals of ~/imagine_path are always frozen",
        choices=("live", "frozen", "anchor"), dynamic=True)
    reanchor: float = param(
        0.0, "How far a model's history is held to the colour statistics of what is seen, so that "
        "long ways do not drift; 0 leaves it as it was made", minimum=0.0, maximum=1.0,
        dynamic=True)
    keyframes: int = param(
        0, "Older blocks of a way that a model is shown again where the camera comes back to them",
        unit="blocks", minimum=0, maximum=256, dynamic=True)
    calibrate: bool = param(
        True, "Give frames the expected_error that hindsight/calibration has learnt; NaN without "
        "a hindsight node, and until it has scores enough", dynamic=True)
    seed: int = param(0, "Of every random draw", minimum=0, maximum=2**31 - 1, dynamic=True)
    goal_timeout: float = param(120.0, "A goal of ~/imagine_path is ended after so long",
                                unit="s", minimum=0.1, maximum=36000.0, dynamic=True)


@dataclass(frozen=True)
class OutputParameters:
    """The imagined camera and what is published of it."""

    width: int = param(416, "Width of the imagined images; 0: the source camera's",
                       unit="pixels", minimum=0, maximum=8192)
    height: int = param(240, "Height of the imagined images; 0: the source camera's",
                        unit="pixels", minimum=0, maximum=8192)
    mode: str = param(
        "auto", "Composite: observed pixels keep their rendered color; model: the model's image "
        "as it is; auto: what suits the backend", choices=("auto", "composite", "model"))
    pacing: str = param("burst", "Frames go out as soon as they are made, or at "
                        "imagination.frame_rate", choices=("burst", "paced"), dynamic=True)
    jpeg_quality: int = param(90, "Quality of ~/image/compressed", minimum=1, maximum=100,
                              dynamic=True)
    cloud_rate: float = param(1.0, "Rate of ~/points while somebody listens", unit="Hz",
                              minimum=0.01, maximum=30.0, dynamic=True)
    cloud_points: int = param(500_000, "Points in one ~/points message at most", unit="points",
                              minimum=1, maximum=10_000_000, dynamic=True)

    def check(self) -> None:
        """Raise ValueError when the values contradict each other."""
        if (self.width == 0) != (self.height == 0):
            raise ValueError(f"output.width {self.width} and output.height {self.height}: both "
                             "or neither must be 0")


@dataclass(frozen=True)
class DiagnosticsParameters:
    """When something is reported as wrong."""

    max_source_age: float = param(
        1.0, "WARN when the newest observation is older than this at publication", unit="s",
        minimum=0.01, maximum=3600.0, dynamic=True)


@dataclass(frozen=True)
class ImaginationNodeParameters:
    """All parameters of the node `imagination`."""

    autostart: bool = param(True, "Configure and activate without a lifecycle manager")
    transforms: TransformParameters = group(TransformParameters)
    input: InputParameters = group(InputParameters)
    memory: MemoryParameters = group(MemoryParameters)
    moving: MovingParameters = group(MovingParameters)
    bank: BankParameters = group(BankParameters)
    model: ModelParameters = group(ModelParameters)
    imagination: ImaginationParameters = group(ImaginationParameters)
    output: OutputParameters = group(OutputParameters)
    footprint: FootprintParameters = group(FootprintParameters)
    scoring: ScoringParameters = group(ScoringParameters)
    rig: RigParameters = group(RigParameters)
    diagnostics: DiagnosticsParameters = group(DiagnosticsParameters)
