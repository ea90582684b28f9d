# SPDX-License-Identifier: Apache-2.0
"""The hindsight node beside an imagination node: imagined views against what is really seen."""

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
    "odom": ("odom", "odometry, read when transforms.source is odometry"),
}
IMAGINED = ("frame", "image", "depth", "provenance", "camera_info")


def generate_launch_description() -> LaunchDescription:
    share = FindPackageShare("inspatio_ros")
    remappings = [(topic, LaunchConfiguration(name)) for name, (topic, _) in INPUTS.items()]
    remappings.append(("camera/image_rect/compressed",
                       [LaunchConfiguration("image"), "/compressed"]))
    remappings += [(f"imagination/{name}", [LaunchConfiguration("imagination"), f"/{name}"])
                   for name in IMAGINED]
    return LaunchDescription([
        DeclareLaunchArgument("namespace", default_value="",
                              description="namespace of the node, its topics and its tf"),
        DeclareLaunchArgument("use_sim_time", default_value="false", choices=SWITCH,
                              description="take the time from /clock"),
        DeclareLaunchArgument("params_file", description="parameters of the node", default_value=(
            PathJoinSubstitution([share, "config", "hindsight.yaml"]))),
        DeclareLaunchArgument("autostart", default_value="true", choices=SWITCH,
                              description="configure and activate the node on its own"),
        DeclareLaunchArgument("log_level", default_value="info", choices=LEVELS,
                              description="lowest severity that is logged"),
        DeclareLaunchArgument("imagination", default_value="imagination",
                              description="topics: name of the imagination node that is judged"),
        *(DeclareLaunchArgument(name, default_value=topic, description=f"topic: {text}")
          for name, (topic, text) in INPUTS.items()),
        IncludeLaunchDescription(PythonLaunchDescriptionSource(
            PathJoinSubstitution([share, "launch", "transport.launch.py"]))),
        Node(package="inspatio_ros", executable="hindsight", name="hindsight",
             namespace=LaunchConfiguration("namespace"), output="screen",
             parameters=[LaunchConfiguration("params_file"), {
                 name: ParameterValue(LaunchConfiguration(name), value_type=bool)
                 for name in ("use_sim_time", "autostart")}],
             remappings=[("/tf", "tf"), ("/tf_static", "tf_static"), *remappings],
             ros_arguments=["--log-level", LaunchConfiguration("log_level")]),
    ])
