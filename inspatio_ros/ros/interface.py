# SPDX-License-Identifier: Apache-2.0
"""The public ROS interface as tables: what docs/interface.md is made from and tests check."""

from __future__ import annotations

import importlib
from dataclasses import dataclass


@dataclass(frozen=True)
class Endpoint:
    """One topic, service or action: name relative to the node, type, QoS, and what it is for."""

    name: str
    type: str
    qos: str
    note: str


@dataclass(frozen=True)
class NodeInterface:
    """All of one node. parameters: 'module:class' of its parameters dataclass."""

    summary: str
    parameters: str
    subscribes: tuple[Endpoint, ...] = ()
    publishes: tuple[Endpoint, ...] = ()
    services: tuple[Endpoint, ...] = ()
    actions: tuple[Endpoint, ...] = ()
    lifecycle: bool = False

    def parameters_type(self) -> type:
        """The parameters dataclass."""
        module, name = self.parameters.split(":")
        found: type = getattr(importlib.import_module(module), name)
        return found


_FOLLOWS_1 = "follows the publisher, depth 1"
_FOLLOWS_5 = "follows the publisher, depth 5"
_IMAGE = "reliable, volatile, 2"
_LATCHED = "reliable, transient local, 1"

IMAGINATION = NodeInterface(
    "Camera, depth and plan in, imagined views along the plan out.",
    "inspatio_ros.ros.imagination_parameters:ImaginationNodeParameters",
    subscribes=(
        Endpoint("camera/image_rect", "sensor_msgs/msg/Image", _FOLLOWS_1,
                 "rgb8 bgr8 rgba8 bgra8 mono8; others where cv_bridge is installed"),
        Endpoint("camera/image_rect/compressed", "sensor_msgs/msg/CompressedImage", _FOLLOWS_1,
                 "instead, when `input.image_transport` is compressed"),
        Endpoint("camera/camera_info", "sensor_msgs/msg/CameraInfo", _FOLLOWS_5,
                 "rectified: P, binning and region of interest count. A distorted camera is "
                 "refused unless `input.rectify` or `input.already_rectified` is set. The frame "
                 "is that of the rectified camera"),
        Endpoint("depth/image_rect", "sensor_msgs/msg/Image", _FOLLOWS_1,
                 "32FC1 metres or 16UC1 millimetres; another camera than the color one is "
                 "registered through tf"),
        Endpoint("depth/image_rect/compressedDepth", "sensor_msgs/msg/CompressedImage",
                 _FOLLOWS_1, "instead, when `input.depth_transport` is compressedDepth; png"),
        Endpoint("depth/camera_info", "sensor_msgs/msg/CameraInfo", _FOLLOWS_5, "of the depth"),
        Endpoint("right/image_rect", "sensor_msgs/msg/Image", _FOLLOWS_1,
                 "instead of depth, when `input.depth` is stereo; `camera` is the left one"),
        Endpoint("right/image_rect/compressed", "sensor_msgs/msg/CompressedImage", _FOLLOWS_1,
                 "instead, when `input.image_transport` is compressed"),
        Endpoint("right/camera_info", "sensor_msgs/msg/CameraInfo", _FOLLOWS_5,
                 "with the baseline in P, or a frame of its own in tf"),
        Endpoint("odom", "nav_msgs/msg/Odometry", "follows the publisher, depth 10",
                 "when `transforms.source` is odometry"),
        Endpoint("plan", "nav_msgs/msg/Path", "reliable, volatile, 1",
                 "way of the base; latest wins, empty stops; stamps may be absent"),
        Endpoint("trajectory", "nav_msgs/msg/Trajectory", "reliable, volatile, 1",
                 "the same with times, where the distribution has the message"),
        Endpoint("hindsight/calibration", "inspatio_ros/msg/ErrorCalibration", _LATCHED,
                 "what frames' expected_error comes from, see `imagination.calibrate`"),
        Endpoint("hindsight/score", "inspatio_ros/msg/HindsightScore", "reliable, volatile, 10",
                 "what the views of a scored candidate were worth, see ~/candidate_hindsight"),
        Endpoint("detections", "vision_msgs/msg/Detection3DArray", "best effort, volatile, 5",
                 "when `moving.detections` is set and vision_msgs is installed: boxes that move "
                 "as a whole; a box of the stamp of an image is used with it"),
        Endpoint("/tf", "tf2_msgs/msg/TFMessage", "reliable, volatile, 100", ""),
        Endpoint("/tf_static", "tf2_msgs/msg/TFMessage", "reliable, transient local, 100", ""),
    ),
    publishes=(
        Endpoint("~/image", "sensor_msgs/msg/Image", _IMAGE, "rgb8, each imagined frame"),
        Endpoint("~/image/compressed", "sensor_msgs/msg/CompressedImage", _IMAGE,
                 "jpeg, if subscribed"),
        Endpoint("~/camera_info", "sensor_msgs/msg/CameraInfo", _IMAGE,
                 "of the imagined camera, same header"),
        Endpoint("~/depth", "sensor_msgs/msg/Image", _IMAGE,
                 "32FC1 metres, NaN where unknown, if subscribed"),
        Endpoint("~/provenance", "sensor_msgs/msg/Image", _IMAGE,
                 "mono8: 255 observed, 170 memory, 85 imagined, 0 unknown, if subscribed"),
        Endpoint("~/frame", "inspatio_ros/msg/ImaginedFrame", "reliable, volatile, 10",
                 "metadata of each frame, same header"),
        Endpoint("~/guide/image", "sensor_msgs/msg/Image", _IMAGE,
                 "what the model was shown, rgb8, if subscribed"),
        Endpoint("~/guide/depth", "sensor_msgs/msg/Image", _IMAGE, "32FC1, if subscribed"),
        Endpoint("~/rig/image", "sensor_msgs/msg/Image", _IMAGE,
                 "rgb8, when `rig.enabled`: each new camera image from another mounting, with "
                 "its stamp, at most at `rig.rate`"),
        Endpoint("~/rig/camera_info", "sensor_msgs/msg/CameraInfo", _IMAGE,
                 "of the virtual camera; `rig.frame` hangs on the camera's frame or the base"),
        Endpoint("~/rig/depth", "sensor_msgs/msg/Image", _IMAGE,
                 "32FC1 metres, NaN where unknown, if subscribed"),
        Endpoint("~/rig/provenance", "sensor_msgs/msg/Image", _IMAGE, "mono8, if subscribed"),
        Endpoint("~/camera_path", "nav_msgs/msg/Path", _LATCHED,
                 "way of the imagined camera, each accepted plan"),
        Endpoint("~/frusta", "visualization_msgs/msg/MarkerArray", _LATCHED,
                 "gray when planned; red to green by support once imagined"),
        Endpoint("~/objects", "visualization_msgs/msg/MarkerArray", "reliable, volatile, 10",
                 "things that move, with each fused image, if subscribed: box, name and speed, "
                 "arrow to where it is a second later, disc of that place's uncertainty"),
        Endpoint("~/points", "sensor_msgs/msg/PointCloud2", _IMAGE,
                 "the memory, at `output.cloud_rate`, if subscribed"),
        Endpoint("~/candidate_hindsight", "inspatio_ros/msg/CandidateHindsight",
                 "reliable, volatile, 10",
                 "of each call the candidate that was then driven: its terms as they turned out, "
                 "their errors, and the trust that they keep"),
        Endpoint("~/status", "inspatio_ros/msg/ImaginationStatus", "reliable, volatile, 10",
                 "1 Hz and on change"),
        Endpoint("/diagnostics", "diagnostic_msgs/msg/DiagnosticArray", "reliable, volatile, 10",
                 "1 Hz: input, geometry, engine, output"),
        Endpoint("/tf", "tf2_msgs/msg/TFMessage", "reliable, volatile, 100",
                 "world to imagined_camera_optical with each frame, at its stamp"),
    ),
    services=(
        Endpoint("~/set_following", "std_srvs/srv/SetBool", "", "follow the plan topic or not"),
        Endpoint("~/clear_memory", "std_srvs/srv/Trigger", "", "forget what was seen"),
        Endpoint("~/set_prompt", "inspatio_ros/srv/SetPrompt", "",
                 "describe the scene to the model"),
    ),
    actions=(
        Endpoint("~/imagine_path", "inspatio_ros/action/ImaginePath", "",
                 "imagine one path; images go out on ~/image, feedback carries the metadata. A "
                 "newer goal supersedes the one in work"),
        Endpoint("~/score_candidates", "inspatio_ros/action/ScoreCandidates", "",
                 "judge candidate paths by a deadline (planners.md); feedback carries each score "
                 "as it is made, the best first. Goals are served in order; meanwhile nothing is "
                 "imagined along the plan"),
    ),
    lifecycle=True,
)

DEPTH = NodeInterface(
    "Metric depth images of the left camera of a stereo pair.",
    "inspatio_ros.ros.depth_node:DepthParameters",
    subscribes=(
        Endpoint("left/image_rect", "sensor_msgs/msg/Image", _FOLLOWS_1,
                 "rgb8 bgr8 rgba8 bgra8 mono8; raw images with `input.rectify`"),
        Endpoint("left/image_rect/compressed", "sensor_msgs/msg/CompressedImage", _FOLLOWS_1,
                 "instead, when `input.image_transport` is compressed"),
        Endpoint("left/camera_info", "sensor_msgs/msg/CameraInfo", _FOLLOWS_5,
                 "a distorted camera is refused unless `input.rectify` or "
                 "`input.already_rectified` is set"),
        Endpoint("right/image_rect", "sensor_msgs/msg/Image", _FOLLOWS_1, "as left"),
        Endpoint("right/image_rect/compressed", "sensor_msgs/msg/CompressedImage", _FOLLOWS_1,
                 "instead, when `input.image_transport` is compressed"),
        Endpoint("right/camera_info", "sensor_msgs/msg/CameraInfo", _FOLLOWS_5,
                 "the baseline is in P, or in tf when the right camera has its own frame"),
        Endpoint("/tf", "tf2_msgs/msg/TFMessage", "reliable, volatile, 100", ""),
        Endpoint("/tf_static", "tf2_msgs/msg/TFMessage", "reliable, transient local, 100", ""),
    ),
    publishes=(
        Endpoint("depth/image_rect", "sensor_msgs/msg/Image", _IMAGE,
                 "32FC1 metres, NaN where unknown, with the left image's header"),
        Endpoint("depth/camera_info", "sensor_msgs/msg/CameraInfo", "reliable, volatile, 10",
                 "of the depth, rectified; of raw images: without the sides that have no content"),
        Endpoint("left_rectified/image_rect", "sensor_msgs/msg/Image", _IMAGE,
                 "rgb8, the left image as the depth's camera sees it, if subscribed"),
        Endpoint("left_rectified/camera_info", "sensor_msgs/msg/CameraInfo",
                 "reliable, volatile, 10", "the same as depth/camera_info, with the image"),
        Endpoint("/diagnostics", "diagnostic_msgs/msg/DiagnosticArray", "reliable, volatile, 10",
                 "1 Hz: input, stereo"),
    ),
    lifecycle=True,
)

_FOLLOWS_16 = "follows the publisher, depth 16"
_FOLLOWS_64 = "follows the publisher, depth 64"

HINDSIGHT = NodeInterface(
    "Scores imagined views by what the camera sees when it comes to their poses, and learns from "
    "that what errors to expect.",
    "inspatio_ros.ros.hindsight_parameters:HindsightParameters",
    subscribes=(
        Endpoint("imagination/frame", "inspatio_ros/msg/ImaginedFrame", _FOLLOWS_64,
                 "the imagined frames: these five topics of one stamp make one"),
        Endpoint("imagination/image", "sensor_msgs/msg/Image", _FOLLOWS_16, ""),
        Endpoint("imagination/provenance", "sensor_msgs/msg/Image", _FOLLOWS_16, ""),
        Endpoint("imagination/depth", "sensor_msgs/msg/Image", _FOLLOWS_16,
                 "its median tells how far a pose may be off"),
        Endpoint("imagination/camera_info", "sensor_msgs/msg/CameraInfo", _FOLLOWS_64, ""),
        Endpoint("camera/image_rect", "sensor_msgs/msg/Image", _FOLLOWS_1,
                 "the real camera, of any size"),
        Endpoint("camera/image_rect/compressed", "sensor_msgs/msg/CompressedImage", _FOLLOWS_1,
                 "instead, when `input.image_transport` is compressed"),
        Endpoint("camera/camera_info", "sensor_msgs/msg/CameraInfo", _FOLLOWS_5,
                 "a distorted camera is refused unless `input.rectify` or "
                 "`input.already_rectified` is set"),
        Endpoint("odom", "nav_msgs/msg/Odometry", "follows the publisher, depth 10",
                 "when `transforms.source` is odometry"),
        Endpoint("/tf", "tf2_msgs/msg/TFMessage", "reliable, volatile, 100", ""),
        Endpoint("/tf_static", "tf2_msgs/msg/TFMessage", "reliable, transient local, 100", ""),
    ),
    publishes=(
        Endpoint("~/score", "inspatio_ros/msg/HindsightScore", "reliable, volatile, 10",
                 "each comparison, with the real image's header"),
        Endpoint("~/calibration", "inspatio_ros/msg/ErrorCalibration", _LATCHED,
                 "what errors to expect, with its reliability curve; every "
                 "`calibration.period` while views are compared"),
        Endpoint("~/imagined", "sensor_msgs/msg/Image", _IMAGE,
                 "rgb8, the view that was compared, if subscribed"),
        Endpoint("~/truth", "sensor_msgs/msg/Image", _IMAGE,
                 "rgb8, what was really seen there, in the imagined camera, if subscribed"),
        Endpoint("~/error", "sensor_msgs/msg/Image", _IMAGE,
                 "rgb8, their difference: black none, white 100 of 255, if subscribed"),
        Endpoint("/diagnostics", "diagnostic_msgs/msg/DiagnosticArray", "reliable, volatile, 10",
                 "1 Hz: input, score (WARN or ERROR by the thresholds, STALE when nothing is "
                 "compared), calibration"),
    ),
    services=(
        Endpoint("~/reset", "std_srvs/srv/Trigger", "",
                 "forget waiting views, scores and the calibration"),
    ),
    lifecycle=True,
)

SYNTHETIC_ROBOT = NodeInterface(
    "A robot that drives through an analytic room or street, with scripted faults.",
    "inspatio_ros.ros.synthetic_robot_node:SyntheticRobotParameters",
    publishes=(
        Endpoint("camera/image_rect", "sensor_msgs/msg/Image", _IMAGE, "`image_encoding`"),
        Endpoint("camera/image_rect/compressed", "sensor_msgs/msg/CompressedImage", _IMAGE,
                 "jpeg, if subscribed"),
        Endpoint("camera/camera_info", "sensor_msgs/msg/CameraInfo", "reliable, volatile, 10", ""),
        Endpoint("depth/image_rect", "sensor_msgs/msg/Image", _IMAGE, "`depth_encoding`, exact"),
        Endpoint("depth/camera_info", "sensor_msgs/msg/CameraInfo", "reliable, volatile, 10", ""),
        Endpoint("right/image_rect", "sensor_msgs/msg/Image", _IMAGE,
                 "when `stereo_baseline` is set"),
        Endpoint("right/camera_info", "sensor_msgs/msg/CameraInfo", "reliable, volatile, 10",
                 "when `stereo_baseline` is set"),
        Endpoint("odom", "nav_msgs/msg/Odometry", "reliable, volatile, 10",
                 "odom to base_link, exact"),
        Endpoint("plan", "nav_msgs/msg/Path", "reliable, volatile, 1",
                 "where it will be during `plan_horizon`, stamped"),
        Endpoint("/tf", "tf2_msgs/msg/TFMessage", "reliable, volatile, 100", "odom to base_link"),
        Endpoint("/tf_static", "tf2_msgs/msg/TFMessage", "reliable, transient local, 100",
                 "base_link to camera_optical, and to depth_optical and right_optical"),
        Endpoint("/clock", "rosgraph_msgs/msg/Clock", "reliable, volatile, 10",
                 "when `publish_clock` is set"),
        Endpoint("/diagnostics", "diagnostic_msgs/msg/DiagnosticArray", "reliable, volatile, 10",
                 "1 Hz: drive, with the faults that are on"),
    ),
)

BAG_PLAYER = NodeInterface(
    "Plays a rosbag2 recording with its own timing and ends, with exit code 0.",
    "inspatio_ros.ros.bag_player_node:BagPlayerParameters",
    publishes=(
        Endpoint("each topic of the recording", "as recorded", "reliable; latched as recorded",
                 "under its recorded name; the bytes that were recorded. Topics of message types "
                 "that are not installed are left out, with one warning"),
        Endpoint("/clock", "rosgraph_msgs/msg/Clock", "reliable, volatile, 10",
                 "the recorded time at `clock_rate`; stands still while paused"),
        Endpoint("/diagnostics", "diagnostic_msgs/msg/DiagnosticArray", "reliable, volatile, 10",
                 "1 Hz: playing, with counts of late and refused messages"),
    ),
    services=(
        Endpoint("~/set_paused", "std_srvs/srv/SetBool", "", "pause, or play on"),
    ),
)

IMAGINED_CAMERA = NodeInterface(
    "Takes the place of a robot and its camera driver: commands in, imagined sensors out, in "
    "closed loop.",
    "inspatio_ros.ros.imagined_camera_parameters:ImaginedCameraParameters",
    subscribes=(
        Endpoint("cmd_vel", "geometry_msgs/msg/TwistStamped", "reliable, volatile, 1",
                 "or geometry_msgs/Twist, by `loop.command`: linear.x and angular.z"),
        Endpoint("plan", "nav_msgs/msg/Path", "reliable, volatile, 1",
                 "instead, when `loop.command` is plan: pursued at `loop.target_speed`; in the "
                 "world's or the base's frame; empty stops"),
    ),
    publishes=(
        Endpoint("/clock", "rosgraph_msgs/msg/Clock", "reliable, volatile, 10",
                 "1000 s at the beginning of each episode, then a step each time"),
        Endpoint("camera/image_rect", "sensor_msgs/msg/Image", _IMAGE, "rgb8, each step"),
        Endpoint("camera/camera_info", "sensor_msgs/msg/CameraInfo", "reliable, volatile, 10", ""),
        Endpoint("depth/image_rect", "sensor_msgs/msg/Image", _IMAGE,
                 "32FC1 metres, NaN where nothing was ever measured"),
        Endpoint("depth/camera_info", "sensor_msgs/msg/CameraInfo", "reliable, volatile, 10", ""),
        Endpoint("odom", "nav_msgs/msg/Odometry", "reliable, volatile, 10",
                 "world to base, exact, with its twist"),
        Endpoint("~/provenance", "sensor_msgs/msg/Image", _IMAGE,
                 "mono8: 255 the street's truth, 170 the recording's memory, 85 imagined"),
        Endpoint("~/route", "nav_msgs/msg/Path", _LATCHED,
                 "to be driven, from the start on; a closed one all round"),
        Endpoint("~/episode", "std_msgs/msg/String", _LATCHED,
                 "JSON of the episode that has ended: how, and its sub-scores"),
        Endpoint("/tf", "tf2_msgs/msg/TFMessage", "reliable, volatile, 100", "world to base"),
        Endpoint("/tf_static", "tf2_msgs/msg/TFMessage", "reliable, transient local, 100",
                 "base to camera"),
        Endpoint("/diagnostics", "diagnostic_msgs/msg/DiagnosticArray", "reliable, volatile, 10",
                 "1 Hz: episode"),
    ),
    services=(
        Endpoint("~/reset", "std_srvs/srv/Trigger", "",
                 "begin the episode of `scenery.seed`; time jumps back"),
        Endpoint("~/set_paused", "std_srvs/srv/SetBool", "", "pause, or run on"),
        Endpoint("~/step", "std_srvs/srv/Trigger", "", "one step while paused"),
    ),
    lifecycle=True,
)

REFERENCE_PLANNER = NodeInterface(
    "Drives `imagined_camera` along its route: pure pursuit, with candidates scored by what is "
    "seen.",
    "inspatio_ros.ros.reference_planner_node:ReferencePlannerParameters",
    subscribes=(
        Endpoint("camera/image_rect", "sensor_msgs/msg/Image", "reliable, volatile, 2", ""),
        Endpoint("camera/camera_info", "sensor_msgs/msg/CameraInfo", "reliable, volatile, 2", ""),
        Endpoint("depth/image_rect", "sensor_msgs/msg/Image", "reliable, volatile, 2", ""),
        Endpoint("odom", "nav_msgs/msg/Odometry", "reliable, volatile, 2",
                 "image, depth and odometry of one stamp make a moment"),
        Endpoint("route", "nav_msgs/msg/Path", _LATCHED,
                 "driven round and round when its ends meet"),
        Endpoint("/tf", "tf2_msgs/msg/TFMessage", "reliable, volatile, 100", ""),
        Endpoint("/tf_static", "tf2_msgs/msg/TFMessage", "reliable, transient local, 100",
                 "the camera's place on the base"),
    ),
    publishes=(
        Endpoint("cmd_vel", "geometry_msgs/msg/TwistStamped", "reliable, volatile, 1",
                 "with the image's stamp; or geometry_msgs/Twist, by `command`"),
        Endpoint("/diagnostics", "diagnostic_msgs/msg/DiagnosticArray", "reliable, volatile, 10",
                 "1 Hz: planner"),
    ),
)

NODES: dict[str, NodeInterface] = {
    "imagination": IMAGINATION, "depth": DEPTH, "hindsight": HINDSIGHT,
    "synthetic_robot": SYNTHETIC_ROBOT, "bag_player": BAG_PLAYER,
    "imagined_camera": IMAGINED_CAMERA, "reference_planner": REFERENCE_PLANNER}
