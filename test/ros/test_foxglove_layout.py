# SPDX-License-Identifier: Apache-2.0
"""The Foxglove layout: its panels, and its topics against what the imagination node publishes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from support.launch_evaluation import evaluate
from support.published import Publication, publications
from support.ros import ROOT

# ImageViewPanel is read by Foxglove Studio 1.x and by Lichtblick; later Foxglove converts it.
PANELS = {"3D", "ImageViewPanel", "RawMessages"}
IMAGES = {"sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage"}
IN_3D = IMAGES | {"sensor_msgs/msg/PointCloud2", "sensor_msgs/msg/CameraInfo",
                  "nav_msgs/msg/Path", "visualization_msgs/msg/MarkerArray"}


@pytest.fixture(scope="module")
def layout() -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((ROOT / "config" / "foxglove_layout.json").read_text())
    return loaded


@pytest.fixture(scope="module")
def published() -> dict[str, Publication]:
    (node,) = evaluate("imagination.launch.py").nodes
    awaited = {"/imagination/image", "/imagination/points", "/imagination/frusta"}
    return publications(node, awaited.issubset)


def leaves(tree: Any) -> Iterator[str]:
    if isinstance(tree, str):
        yield tree
        return
    assert tree["direction"] in ("row", "column")
    assert 0 < tree["splitPercentage"] < 100
    yield from leaves(tree["first"])
    yield from leaves(tree["second"])


def robot_topics() -> set[str]:
    """Return the topics of the sample recording that the replay feeds to the node."""
    node = evaluate("replay.launch.py", bag="any").nodes[0]
    return {target for target in node.remappings.values() if target.startswith("/")}


def test_every_panel_is_configured_once_and_of_a_known_kind(layout: dict[str, Any]) -> None:
    shown = list(leaves(layout["layout"]))
    assert sorted(shown) == sorted(layout["configById"])
    assert {panel.split("!")[0] for panel in shown} <= PANELS


def test_images_exist(layout: dict[str, Any], published: dict[str, Publication]) -> None:
    shown = {settings["cameraTopic"] for panel, settings in layout["configById"].items()
             if panel.startswith("ImageViewPanel!")}
    ours = {topic for topic in shown if topic.startswith("/imagination/")}
    assert "/imagination/image" in ours
    assert all(published[topic].message_type in IMAGES for topic in ours)
    assert shown - ours
    assert shown - ours <= robot_topics()


def test_3d_topics_exist_and_can_be_drawn(
        layout: dict[str, Any], published: dict[str, Publication]) -> None:
    for settings in layout["configById"].values():
        for topic in settings.get("topics", {}):
            if topic.startswith("/imagination/"):
                assert published[topic].message_type in IN_3D, topic
            else:
                assert topic in robot_topics()
    assert {"/imagination/points", "/imagination/frusta", "/plan"} <= set(
        layout["configById"]["3D!world"]["topics"])


def test_status_and_frames_are_those_of_the_node(
        layout: dict[str, Any], published: dict[str, Publication]) -> None:
    status = layout["configById"]["RawMessages!status"]["topicPath"]
    assert published[status].message_type == "inspatio_ros/msg/ImaginationStatus"
    (node,) = evaluate("imagination.launch.py").nodes
    assert layout["configById"]["3D!world"]["followTf"] == node.parameters["transforms.base_frame"]
