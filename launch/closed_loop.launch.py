# SPDX-License-Identifier: Apache-2.0
"""A closed loop: the imagined camera in place of the robot, and a planner that drives it."""

from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument, IncludeLaunchDescription
from launch.conditions import IfCondition
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration, PathJoinSubstitution
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue
from launch_ros.substitutions import FindPackageShare

SWITCH = {"choices": ["true", "false"]}


def generate_launch_description() -> LaunchDescription:
    share = FindPackageShare("inspatio_ros")
    options = (  # argument, default, meaning, choices
        ("bag", "", "recording to drive through; empty: the analytic street", {}),
        ("seed", "0", "of the first episode", {}),
        ("rate", "1.0", "times as fast as real time, at most; 0: as fast as it can", {}),
        ("lockstep", "true", "each step waits for the planner's command", SWITCH),
        ("planner", "true", "start the reference planner; false: your own drives", SWITCH),
        ("namespace", "", "namespace of the nodes, their topics and their tf", {}),
        ("use_sim_time", "true", "take the time from the /clock that the loop publishes", SWITCH),
        ("params_file", PathJoinSubstitution([share, "config", "imagined_camera.yaml"]),
         "parameters of the imagined camera", {}),
        ("autostart", "true", "configure and activate the imagined camera", SWITCH),
        ("log_level", "info", "lowest severity that is logged",
         {"choices": ["debug", "info", "warn", "error", "fatal"]}))

    def value(name: str, kind: type) -> ParameterValue:
        return ParameterValue(LaunchConfiguration(name), value_type=kind)

    common = {
        "package": "inspatio_ros", "namespace": LaunchConfiguration("namespace"),
        "output": "screen", "ros_arguments": ["--log-level", LaunchConfiguration("log_level")]}
    tf = [("/tf", "tf"), ("/tf_static", "tf_static")]
    return LaunchDescription([
        *(DeclareLaunchArgument(name, default_value=default, description=text, **choices)
          for name, default, text, choices in options),
        IncludeLaunchDescription(PythonLaunchDescriptionSource(
            PathJoinSubstitution([share, "launch", "transport.launch.py"]))),
        Node(executable="imagined_camera", name="imagined_camera", sigterm_timeout="20",
             parameters=[LaunchConfiguration("params_file"), {
                 "scenery.bag": value("bag", str), "scenery.seed": value("seed", int),
                 "loop.rate": value("rate", float), "loop.lockstep": value("lockstep", bool),
                 "use_sim_time": value("use_sim_time", bool),
                 "autostart": value("autostart", bool)}],
             remappings=tf, **common),
        Node(executable="reference_planner", name="reference_planner",
             condition=IfCondition(LaunchConfiguration("planner")),
             parameters=[{"use_sim_time": value("use_sim_time", bool)}],
             remappings=[*tf, ("route", "imagined_camera/route")], **common),
    ])
