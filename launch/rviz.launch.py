# SPDX-License-Identifier: Apache-2.0
"""RViz on what the imagination and hindsight nodes publish, under any namespace."""

from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument, IncludeLaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration, PathJoinSubstitution
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue
from launch_ros.substitutions import FindPackageShare

OUTPUTS = ("image", "camera_info", "depth", "provenance", "guide/image", "points", "camera_path",
           "frusta", "objects")
HINDSIGHT = ("imagined", "truth", "error")


def generate_launch_description() -> LaunchDescription:
    share = FindPackageShare("inspatio_ros")
    return LaunchDescription([
        DeclareLaunchArgument("namespace", default_value="",
                              description="namespace of the imagination node to look at"),
        DeclareLaunchArgument("use_sim_time", default_value="false", choices=["true", "false"],
                              description="take the time from /clock"),
        DeclareLaunchArgument("rviz_config", description="RViz configuration file", default_value=(
            PathJoinSubstitution([share, "rviz", "imagination.rviz"]))),
        DeclareLaunchArgument("log_level", default_value="info",
                              choices=["debug", "info", "warn", "error", "fatal"],
                              description="lowest severity that is logged"),
        DeclareLaunchArgument("image", default_value="camera/image_rect",
                              description="topic: colour image of the robot"),
        DeclareLaunchArgument("plan", default_value="plan",
                              description="topic: planned path of the base"),
        IncludeLaunchDescription(PythonLaunchDescriptionSource(
            PathJoinSubstitution([share, "launch", "transport.launch.py"]))),
        # The configuration has absolute names, because RViz looks for a Camera display's
        # camera_info at the root when the image's name is relative; the rules bring them into the
        # namespace.
        Node(package="rviz2", executable="rviz2", name="rviz",
             namespace=LaunchConfiguration("namespace"), output="screen",
             arguments=["--display-config", LaunchConfiguration("rviz_config")],
             parameters=[{"use_sim_time": ParameterValue(LaunchConfiguration("use_sim_time"),
                                                         value_type=bool)}],
             remappings=[("/tf", "tf"), ("/tf_static", "tf_static"),
                         ("/camera/image_rect", LaunchConfiguration("image")),
                         ("/camera/image_rect/compressed",
                          [LaunchConfiguration("image"), "/compressed"]),
                         ("/plan", LaunchConfiguration("plan")),
                         *((f"/imagination/{name}", f"imagination/{name}") for name in OUTPUTS),
                         *((f"/hindsight/{name}", f"hindsight/{name}") for name in HINDSIGHT)],
             ros_arguments=["--log-level", LaunchConfiguration("log_level")]),
    ])
