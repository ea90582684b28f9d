# SPDX-License-Identifier: Apache-2.0
"""A recording, played with its own /clock, imagined and judged; topics as in the sample."""

from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument, IncludeLaunchDescription
from launch.conditions import IfCondition
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration, PathJoinSubstitution
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue
from launch_ros.substitutions import FindPackageShare

SWITCH = {"choices": ["true", "false"]}
TOPICS = {  # argument of imagination.launch.py: topic of the recording
    "image": "/camera/color/image_raw", "camera_info": "/camera/color/camera_info",
    "depth": "/camera/aligned_depth_to_color/image_raw",
    "depth_info": "/camera/aligned_depth_to_color/camera_info",
    "odom": "/odom", "plan": "/plan",
}


def generate_launch_description() -> LaunchDescription:
    share = FindPackageShare("inspatio_ros")
    overlays = PathJoinSubstitution([share, "config", "overlays"])
    imagined = PathJoinSubstitution([overlays, "compressed.yaml"])

    def included(name: str, **options: object) -> IncludeLaunchDescription:
        return IncludeLaunchDescription(PythonLaunchDescriptionSource(
            PathJoinSubstitution([share, "launch", name])), **options)

    options = (  # argument, default, meaning, choices
        ("rate", "1.0", "speed of playing", {}),
        ("loop", "false", "begin anew at the end of the recording", SWITCH),
        ("hindsight", "true", "compare with what is really seen later", SWITCH),
        ("namespace", "", "namespace of the nodes, their topics and their tf", {}),
        ("use_sim_time", "true", "take the time from the /clock of the recording", SWITCH),
        ("params_file", imagined, "parameters of the imagination node", {}),
        ("autostart", "true", "configure and activate the nodes", SWITCH),
        ("log_level", "info", "lowest severity that is logged",
         {"choices": ["debug", "info", "warn", "error", "fatal"]}),
        *((name, topic, f"topic: {name} input", {}) for name, topic in TOPICS.items()))
    played = {name: ParameterValue(LaunchConfiguration(name), value_type=kind)
              for name, kind in (("bag", str), ("rate", float), ("loop", bool))}
    played["wait_for"] = ParameterValue(
        ["[", LaunchConfiguration("camera_info"), "]"], value_type=list[str])
    return LaunchDescription([
        DeclareLaunchArgument("bag", description="rosbag2 folder, or one .mcap or .db3 file"),
        *(DeclareLaunchArgument(name, default_value=default, description=text, **choices)
          for name, default, text, choices in options),
        included("imagination.launch.py"),
        Node(package="inspatio_ros", executable="bag_player", name="bag_player",
             namespace=LaunchConfiguration("namespace"), output="screen", parameters=[played],
             remappings=[("/tf", "tf"), ("/tf_static", "tf_static")],
             ros_arguments=["--log-level", LaunchConfiguration("log_level")]),
        # Last: its parameter file would stay in force for what follows.
        included("hindsight.launch.py", condition=IfCondition(LaunchConfiguration("hindsight")),
                 launch_arguments=[("params_file", PathJoinSubstitution(
                     [overlays, "hindsight_compressed.yaml"]))]),
    ])
