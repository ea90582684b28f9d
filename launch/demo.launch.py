# SPDX-License-Identifier: Apache-2.0
"""The sample recording through the imagination node, and RViz on what comes out."""

from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument, IncludeLaunchDescription
from launch.conditions import IfCondition
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration, PathJoinSubstitution
from launch_ros.substitutions import FindPackageShare

SWITCH = ["true", "false"]


def generate_launch_description() -> LaunchDescription:
    share = FindPackageShare("inspatio_ros")

    def included(name: str, **options: object) -> IncludeLaunchDescription:
        return IncludeLaunchDescription(PythonLaunchDescriptionSource(
            PathJoinSubstitution([share, "launch", name])), **options)

    return LaunchDescription([
        DeclareLaunchArgument("bag", description="recording to play", default_value=(
            PathJoinSubstitution([share, "samples", "office"]))),
        DeclareLaunchArgument("rate", default_value="1.0", description="speed of playing"),
        DeclareLaunchArgument("loop", default_value="true", choices=SWITCH,
                              description="begin anew at the end of the recording"),
        DeclareLaunchArgument("rviz", default_value="true", choices=SWITCH,
                              description="open RViz"),
        DeclareLaunchArgument("namespace", default_value="",
                              description="namespace of the nodes, their topics and their tf"),
        DeclareLaunchArgument("use_sim_time", default_value="true", choices=SWITCH,
                              description="take the time from the /clock of the recording"),
        DeclareLaunchArgument("params_file", description="parameters of the imagination node",
                              default_value=PathJoinSubstitution(
                                  [share, "config", "overlays", "sample_bag.yaml"])),
        DeclareLaunchArgument("autostart", default_value="true", choices=SWITCH,
                              description="configure and activate the imagination node"),
        DeclareLaunchArgument("log_level", default_value="info",
                              choices=["debug", "info", "warn", "error", "fatal"],
                              description="lowest severity that is logged"),
        # First, so that without RViz launch ends before it has started, and would orphan, a node.
        included("rviz.launch.py", condition=IfCondition(LaunchConfiguration("rviz")),
                 launch_arguments=[("image", "/camera/color/image_raw"), ("plan", "/plan")]),
        included("replay.launch.py", launch_arguments=[("bag", LaunchConfiguration("bag")),
                                                       ("hindsight", "false")]),
    ])
