# SPDX-License-Identifier: Apache-2.0
"""The imagination node on a recording, played with the recording's own times on /clock.

The topic defaults are those of the sample recording.
"""

from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument, IncludeLaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration, PathJoinSubstitution
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue
from launch_ros.substitutions import FindPackageShare

SWITCH = ["true", "false"]
TOPICS = {  # argument of imagination.launch.py: topic of the recording
    "image": "/camera/color/image_raw", "camera_info": "/camera/color/camera_info",
    "depth": "/camera/aligned_depth_to_color/image_raw",
    "depth_info": "/camera/aligned_depth_to_color/camera_info",
    "odom": "/odom", "plan": "/plan",
}


def generate_launch_description() -> LaunchDescription:
    share = FindPackageShare("inspatio_ros")
    return LaunchDescription([
        DeclareLaunchArgument("bag", description="rosbag2 folder, or one .mcap or .db3 file"),
        DeclareLaunchArgument("rate", default_value="1.0", description="speed of playing"),
        DeclareLaunchArgument("loop", default_value="false", choices=SWITCH,
                              description="begin anew at the end of the recording"),
        DeclareLaunchArgument("namespace", default_value="",
                              description="namespace of the nodes, their topics and their tf"),
        DeclareLaunchArgument("use_sim_time", default_value="true", choices=SWITCH,
                              description="take the time from the /clock of the recording"),
        DeclareLaunchArgument("params_file", description="parameters of the imagination node",
                              default_value=PathJoinSubstitution(
                                  [share, "config", "overlays", "compressed.yaml"])),
        DeclareLaunchArgument("autostart", default_value="true", choices=SWITCH,
                              description="configure and activate the imagination node"),
        DeclareLaunchArgument("log_level", default_value="info",
                              choices=["debug", "info", "warn", "error", "fatal"],
                              description="lowest severity that is logged"),
        *(DeclareLaunchArgument(name, default_value=topic, description=f"topic: {name} input")
          for name, topic in TOPICS.items()),
        IncludeLaunchDescription(PythonLaunchDescriptionSource(
            PathJoinSubstitution([share, "launch", "imagination.launch.py"]))),
        Node(package="inspatio_ros", executable="bag_player", name="bag_player",
             namespace=LaunchConfiguration("namespace"), output="screen",
             parameters=[{
                 "bag": ParameterValue(LaunchConfiguration("bag"), value_type=str),
                 "rate": ParameterValue(LaunchConfiguration("rate"), value_type=float),
                 "loop": ParameterValue(LaunchConfiguration("loop"), value_type=bool),
                 "wait_for": ParameterValue(["[", LaunchConfiguration("camera_info"), "]"],
                                            value_type=list[str])}],
             remappings=[("/tf", "tf"), ("/tf_static", "tf_static")],
             ros_arguments=["--log-level", LaunchConfiguration("log_level")]),
    ])
