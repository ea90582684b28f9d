# SPDX-License-Identifier: Apache-2.0
"""The imagination node on a robot's camera, depth and plan topics."""

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
    "image": ("camera/image_rect", "colour image; /compressed is appended for jpeg"),
    "camera_info": ("camera/camera_info", "calibration of the colour camera"),
    "depth": ("depth/image_rect", "depth image; /compressedDepth is appended for png"),
    "depth_info": ("depth/camera_info", "calibration of the depth camera"),
    "right": ("right/image_rect", "right image of a stereo pair"),
    "right_info": ("right/camera_info", "calibration of the right camera"),
    "odom": ("odom", "odometry, read when transforms.source is odometry"),
    "plan": ("plan", "planned path of the base"),
}
COMPRESSED = {"image": "/compressed", "depth": "/compressedDepth", "right": "/compressed"}


def generate_launch_description() -> LaunchDescription:
    share = FindPackageShare("inspatio_ros")
    remappings = [(topic, LaunchConfiguration(name)) for name, (topic, _) in INPUTS.items()]
    remappings += [(INPUTS[name][0] + suffix, [LaunchConfiguration(name), suffix])
                   for name, suffix in COMPRESSED.items()]
    return LaunchDescription([
        DeclareLaunchArgument("namespace", default_value="",
                              description="namespace of the node, its topics and its tf"),
        DeclareLaunchArgument("use_sim_time", default_value="false", choices=SWITCH,
                              description="take the time from /clock"),
        DeclareLaunchArgument("params_file", description="parameters of the node", default_value=(
            PathJoinSubstitution([share, "config", "imagination.yaml"]))),
        DeclareLaunchArgument("autostart", default_value="true", choices=SWITCH,
                              description="configure and activate the node on its own"),
        DeclareLaunchArgument("log_level", default_value="info", choices=LEVELS,
                              description="lowest severity that is logged"),
        *(DeclareLaunchArgument(name, default_value=topic, description=f"topic: {text}")
          for name, (topic, text) in INPUTS.items()),
        IncludeLaunchDescription(PythonLaunchDescriptionSource(
            PathJoinSubstitution([share, "launch", "transport.launch.py"]))),
        Node(package="inspatio_ros", executable="imagination", name="imagination",
             namespace=LaunchConfiguration("namespace"), output="screen",
             sigterm_timeout="20",  # the block in work is finished first
             parameters=[LaunchConfiguration("params_file"), {
                 name: ParameterValue(LaunchConfiguration(name), value_type=bool)
                 for name in ("use_sim_time", "autostart")}],
             remappings=[("/tf", "tf"), ("/tf_static", "tf_static"), *remappings],
             ros_arguments=["--log-level", LaunchConfiguration("log_level")]),
    ])
