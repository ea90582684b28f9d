# SPDX-License-Identifier: Apache-2.0
"""Metric depth images from a stereo pair, for robots without a depth camera."""

from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument, IncludeLaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration, PathJoinSubstitution
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue
from launch_ros.substitutions import FindPackageShare

SWITCH = ["true", "false"]
LEVELS = ["debug", "info", "warn", "error", "fatal"]
INPUTS = {  # launch argument: the node's topic, what it carries
    "left": ("left/image_rect", "left image of the pair; /compressed is appended for jpeg"),
    "left_info": ("left/camera_info", "calibration of the left camera"),
    "right": ("right/image_rect", "right image of the pair; /compressed is appended for jpeg"),
    "right_info": ("right/camera_info", "calibration of the right camera"),
}


def generate_launch_description() -> LaunchDescription:
    share = FindPackageShare("inspatio_ros")
    remappings = [(topic, LaunchConfiguration(name)) for name, (topic, _) in INPUTS.items()]
    remappings += [(f"{side}/image_rect/compressed", [LaunchConfiguration(side), "/compressed"])
                   for side in ("left", "right")]
    return LaunchDescription([
        DeclareLaunchArgument("namespace", default_value="",
                              description="namespace of the node, its topics and its tf"),
        DeclareLaunchArgument("use_sim_time", default_value="false", choices=SWITCH,
                              description="take the time from /clock"),
        DeclareLaunchArgument("params_file", description="parameters of the node", default_value=(
            PathJoinSubstitution([share, "config", "depth.yaml"]))),
        DeclareLaunchArgument("autostart", default_value="true", choices=SWITCH,
                              description="configure and activate the node on its own"),
        DeclareLaunchArgument("log_level", default_value="info", choices=LEVELS,
                              description="lowest severity that is logged"),
        *(DeclareLaunchArgument(name, default_value=topic, description=f"topic: {text}")
          for name, (topic, text) in INPUTS.items()),
        IncludeLaunchDescription(PythonLaunchDescriptionSource(
            PathJoinSubstitution([share, "launch", "transport.launch.py"]))),
        Node(package="inspatio_ros", executable="depth", name="depth",
             namespace=LaunchConfiguration("namespace"), output="screen",
             sigterm_timeout="20",  # the block in work is finished first
             parameters=[LaunchConfiguration("params_file"), {
                 name: ParameterValue(LaunchConfiguration(name), value_type=bool)
                 for name in ("use_sim_time", "autostart")}],
             remappings=[("/tf", "tf"), ("/tf_static", "tf_static"), *remappings],
             ros_arguments=["--log-level", LaunchConfiguration("log_level")]),
    ])
