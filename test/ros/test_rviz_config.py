# SPDX-License-Identifier: Apache-2.0
"""The RViz configurations and the recording QoS against what the nodes publish."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from support.launch_evaluation import evaluate
from support.published import Publication, publications, reader_problem
from support.ros import ROOT

# rviz_default_plugins of Jazzy and Kilted: what a configuration may name.
MESSAGE_OF_DISPLAY = {
    "Camera": "sensor_msgs/msg/Image", "Image": "sensor_msgs/msg/Image",
    "MarkerArray": "visualization_msgs/msg/MarkerArray", "Path": "nav_msgs/msg/Path",
    "PointCloud2": "sensor_msgs/msg/PointCloud2", "Odometry": "nav_msgs/msg/Odometry",
    "Marker": "visualization_msgs/msg/Marker", "Pose": "geometry_msgs/msg/PoseStamped",
}
DISPLAYS_WITHOUT_TOPIC = {"Axes", "Grid", "TF"}
TOOLS = {"MoveCamera", "Select", "FocusCamera", "Measure", "SetInitialPose", "SetGoal",
         "PublishPoint", "Interact"}
VIEWS = {"Orbit", "FPS", "TopDownOrtho", "XYOrbit", "ThirdPersonFollower"}
PANELS = {"Displays", "Help", "Selection", "Tool Properties", "Views", "Time", "Transformation"}
# Topics of the robot, not of ours: what the displays must be able to read of them.
# RViz takes the transport from the end of an image topic's name.
ROBOT_TOPICS = {"/camera/image_rect": "Image", "/camera/image_rect/compressed": "Image",
                "/plan": "Path"}
OUTPUTS = {"/imagination/image", "/imagination/camera_info", "/imagination/points",
           "/imagination/camera_path", "/imagination/frusta", "/tf"}
HINDSIGHT_OUTPUTS = {"/hindsight/score", "/hindsight/calibration", "/hindsight/imagined",
                     "/hindsight/truth", "/hindsight/error"}


@pytest.fixture(scope="module", params=["imagination", "hindsight"])
def configuration(request: pytest.FixtureRequest) -> dict[str, Any]:
    path = ROOT / "rviz" / f"{request.param}.rviz"
    loaded: dict[str, Any] = yaml.safe_load(path.read_text())
    return {**loaded, "name": request.param}


@pytest.fixture(scope="module")
def published() -> dict[str, Publication]:
    (node,) = evaluate("imagination.launch.py").nodes
    (hindsight,) = evaluate("hindsight.launch.py").nodes
    return {**publications(node, OUTPUTS.issubset),
            **publications(hindsight, HINDSIGHT_OUTPUTS.issubset)}


def displays(configuration: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (class without package, display), groups opened."""
    queue = list(configuration["Visualization Manager"]["Displays"])
    while queue:
        display = queue.pop(0)
        package, _, name = display["Class"].partition("/")
        if display["Class"] == "rviz_common/Group":
            queue += display["Displays"]
            continue
        assert package == "rviz_default_plugins", display["Class"]
        yield name, display


def test_the_view_shows_what_is_promised(configuration: dict[str, Any]) -> None:
    shown = {(kind, display.get("Topic", {}).get("Value")) for kind, display
             in displays(configuration) if display["Enabled"]}
    promised = {
        "imagination": {("Image", "/camera/image_rect"), ("Image", "/imagination/image"),
                        ("Camera", "/imagination/image"), ("PointCloud2", "/imagination/points")},
        "hindsight": {("Image", "/hindsight/imagined"), ("Image", "/hindsight/truth"),
                      ("Image", "/hindsight/error"), ("Image", "/camera/image_rect")}}
    assert promised[configuration["name"]] <= shown
    assert {("Path", "/plan"), ("MarkerArray", "/imagination/frusta"), ("TF", None)} <= shown


def test_every_class_is_known_to_rviz(configuration: dict[str, Any]) -> None:
    for kind, display in displays(configuration):
        assert kind in MESSAGE_OF_DISPLAY or kind in DISPLAYS_WITHOUT_TOPIC, kind
        assert display["Enabled"] == display["Value"], display["Name"]
    manager = configuration["Visualization Manager"]
    tools = {tool["Class"].removeprefix("rviz_default_plugins/") for tool in manager["Tools"]}
    panels = {panel["Class"].removeprefix("rviz_common/") for panel in configuration["Panels"]}
    assert tools <= TOOLS
    assert panels <= PANELS
    assert manager["Views"]["Current"]["Class"].removeprefix("rviz_default_plugins/") in VIEWS


def test_display_names_are_unique_and_overlays_name_them(configuration: dict[str, Any]) -> None:
    names = [display["Name"] for _, display in displays(configuration)]
    assert len(names) == len(set(names))
    for kind, display in displays(configuration):
        if kind == "Camera":
            assert set(display["Visibility"]) - {"Value"} <= set(names)


def test_topics_are_published_with_the_type_and_qos_of_the_display(
        configuration: dict[str, Any], published: dict[str, Publication]) -> None:
    for kind, display in displays(configuration):
        if kind in DISPLAYS_WITHOUT_TOPIC:
            continue
        topic = display["Topic"]
        assert {"Value", "Depth", "History Policy", "Reliability Policy",
                "Durability Policy"} <= set(topic), display["Name"]
        if topic["Value"] in ROBOT_TOPICS:
            assert ROBOT_TOPICS[topic["Value"]] == kind
            # A robot's publisher may offer the least there is.
            assert topic["Durability Policy"] == "Volatile"
            continue
        publication = published[topic["Value"]]
        assert publication.message_type == MESSAGE_OF_DISPLAY[kind], display["Name"]
        problem = reader_problem(publication, topic["Reliability Policy"],
                                 topic["Durability Policy"])
        assert problem is None, f"{display['Name']}: {problem}"


def test_camera_displays_find_camera_info_beside_the_image(
        configuration: dict[str, Any], published: dict[str, Publication]) -> None:
    cameras = [display for kind, display in displays(configuration) if kind == "Camera"]
    assert cameras or configuration["name"] == "hindsight"
    for display in cameras:
        beside = display["Topic"]["Value"].rsplit("/", 1)[0] + "/camera_info"
        assert published[beside].message_type == "sensor_msgs/msg/CameraInfo"


def test_the_fixed_frame_is_the_world_frame_of_the_node(configuration: dict[str, Any]) -> None:
    (node,) = evaluate("imagination.launch.py").nodes
    fixed = configuration["Visualization Manager"]["Global Options"]["Fixed Frame"]
    assert fixed == node.parameters["transforms.world_frame"]


def test_rviz_launch_remaps_every_topic_that_is_shown(configuration: dict[str, Any]) -> None:
    (node,) = evaluate("rviz.launch.py", namespace="robot1", image="/front/image").nodes
    assert node.remappings["/camera/image_rect"] == "/front/image"
    for kind, display in displays(configuration):
        if kind not in DISPLAYS_WITHOUT_TOPIC:
            assert not node.remappings[display["Topic"]["Value"]].startswith(
                ("/imagination", "/hindsight"))


def test_recording_qos_fits_the_publishers(published: dict[str, Publication]) -> None:
    overrides = yaml.safe_load((ROOT / "config" / "record_qos.yaml").read_text())
    ours = {topic for topic in published if topic.startswith(("/imagination/", "/hindsight/"))}
    recordable = {topic for topic in ours if "/_action/" not in topic
                  and not topic.endswith("/transition_event")}
    assert recordable <= set(overrides), "topics without an entry in config/record_qos.yaml"
    for topic, override in overrides.items():
        assert set(override) == {"reliability", "durability", "history", "depth"}, topic
        if topic in published:
            problem = reader_problem(published[topic], override["reliability"],
                                     override["durability"])
            assert problem is None, f"{topic}: {problem}"
        elif topic.startswith(("/imagination/", "/hindsight/")):
            pytest.fail(f"{topic} is recorded but not published")
    assert overrides["/tf_static"]["durability"] == "transient_local"
