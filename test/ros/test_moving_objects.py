# SPDX-License-Identifier: Apache-2.0
"""Things that move at the node: markers, a detector's boxes, and what is said when they cannot be
read."""

from __future__ import annotations

import importlib.util
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from geometry_msgs.msg import Pose
from std_msgs.msg import Header
from visualization_msgs.msg import Marker, MarkerArray

from inspatio_ros.geometry import rigid
from inspatio_ros.memory.moving import MovingObject
from inspatio_ros.ros import qos
from inspatio_ros.ros.convert import images, object_markers
from inspatio_ros.ros.convert.detections import (
    MAX_DETECTIONS,
    DetectionsMissing,
    detections_message,
    to_detections,
)
from support.imagination import CAMERA, Bench, wall_depth

HAS_VISION_MSGS = importlib.util.find_spec("vision_msgs") is not None


def thing(number: int, x: float, deviation: float = 0.0) -> MovingObject:
    return MovingObject(number, "car", np.array([x, 1.0, 0.5]), np.eye(3),
                        np.array([4.0, 2.0, 1.0]), np.array([3.0, 0.0, 0.0]), deviation)


def test_markers_of_a_thing() -> None:
    made = object_markers.objects([thing(4, 1.0), thing(5, 9.0)], [thing(4, 4.0, 0.6)],
                                  Header(frame_id="odom")).markers
    assert made[0].action == Marker.DELETEALL
    by = {(m.ns, m.id): m for m in made[1:]}
    assert set(by) == {("boxes", 4), ("names", 4), ("ways", 4), ("uncertainty", 4), ("boxes", 5),
                       ("names", 5)}
    assert {m.header.frame_id for m in made} == {"odom"}
    box, way, disc = by["boxes", 4], by["ways", 4], by["uncertainty", 4]
    assert (box.scale.x, box.scale.y, box.scale.z) == (4.0, 2.0, 1.0)
    assert box.pose.position.x == 1.0
    assert [p.x for p in way.points] == [1.0, 4.0]
    assert disc.scale.x == pytest.approx(1.2)
    assert disc.pose.position.x == 4.0
    assert "car 4: 3.0 m/s" in by["names", 4].text
    assert by["boxes", 4].color != by["boxes", 5].color


def array(*boxes: Any, frame: str = "camera", stamp: int = 7) -> Any:
    """What a Detection3DArray looks like from its fields."""
    return SimpleNamespace(header=stamped(frame, stamp), detections=list(boxes))


def stamped(frame: str, sec: int) -> Header:
    header = Header(frame_id=frame)
    header.stamp.sec = sec
    return header


def found(x: float, size: tuple[float, float, float], score: float, name: str = "person") -> Any:
    center = Pose()
    center.position.x, center.orientation.w = x, 1.0
    return SimpleNamespace(
        header=Header(), bbox=SimpleNamespace(center=center, size=SimpleNamespace(
            x=size[0], y=size[1], z=size[2])),
        results=[SimpleNamespace(hypothesis=SimpleNamespace(score=score, class_id=name))])


def test_boxes_are_brought_to_the_world() -> None:
    asked: list[tuple[str, int]] = []

    def world_from(frame: str, stamp_ns: int) -> np.ndarray:
        asked.append((frame, stamp_ns))
        return rigid.from_rotation(np.eye(3), (0.0, 5.0, 0.0))

    message = array(found(2.0, (1.0, 0.5, 1.8), 0.9), found(3.0, (1.0, 1.0, 1.0), 0.1))
    (box,) = to_detections(message, world_from, 0.3)
    assert asked == [("camera", 7_000_000_000)]
    assert box.stamp_ns == 7_000_000_000
    assert box.label == "person"
    np.testing.assert_allclose(box.world_from_box[:3, 3], [2.0, 5.0, 0.0])
    np.testing.assert_allclose(box.size, [1.0, 0.5, 1.8])


def test_boxes_that_are_none_are_refused() -> None:
    def world_from(frame: str, stamp_ns: int) -> np.ndarray:
        return np.eye(4)

    for size in ((0.0, 1.0, 1.0), (float("nan"), 1.0, 1.0), (-1.0, 1.0, 1.0)):
        with pytest.raises(ValueError, match="a box has the size"):
            to_detections(array(found(1.0, size, 0.9)), world_from, 0.3)
    many = array(*[found(1.0, (1.0, 1.0, 1.0), 0.9)] * (MAX_DETECTIONS + 1))
    with pytest.raises(ValueError, match="501 boxes in one message"):
        to_detections(many, world_from, 0.3)


@pytest.mark.skipif(HAS_VISION_MSGS, reason="vision_msgs is installed here")
def test_a_missing_message_package_is_named() -> None:
    with pytest.raises(DetectionsMissing, match="vision-msgs, or set moving.detections to false"):
        detections_message()
    bench = Bench(moving__enabled=True, moving__detections=True, model__preset="geometric")
    try:
        bench.graph.spin_until(
            lambda: any("moving.detections is true, but the package vision_msgs is not installed"
                        in line for line in bench.logs), 20, "the reason")
    finally:
        bench.close()


def test_the_node_shows_what_moves() -> None:
    rng = np.random.default_rng(0)
    wall = rng.integers(0, 255, (30, 40, 3)).repeat(4, 0).repeat(4, 1).astype(np.uint8)
    square = rng.integers(0, 255, (12, 9, 3)).repeat(4, 0).repeat(4, 1).astype(np.uint8)
    bench = Bench(moving__enabled=True, model__preset="geometric", output__width=160,
                  output__height=120)
    robot, shown = bench.robot, []
    bench.graph.node.create_subscription(
        MarkerArray, "imagination/objects", shown.append, qos.profile(10))
    began = robot.now_ns

    def tick() -> None:
        robot.now_ns += 100_000_000
        # 20 px in 0.2 s, a metre away: 0.83 m/s to the right, which is -y, and back again.
        way = int((robot.now_ns - began) // 10_000_000) % 200
        column = way if way <= 100 else 200 - way
        image, depth = wall.copy(), wall_depth()
        image[30:78, column + 12:column + 48] = square
        depth[30:78, column + 12:column + 48] = 1.0
        robot.send_tf()
        robot.send_infos()
        robot.image.publish(images.from_array(image, "rgb8", robot.header()))
        robot.depth.publish(images.from_array(depth, "32FC1", robot.header()))

    try:
        def seen() -> list[Marker]:
            return [m for message in shown for m in message.markers if m.ns == "boxes"]

        robot.drive_until(seen, 40, "a marker of what moves", tick)
        box = seen()[-1]
        assert box.header.frame_id == "odom"
        assert box.pose.position.x == pytest.approx(1.0, abs=0.15)
        assert abs(box.pose.position.y) < CAMERA.width / CAMERA.fx
    finally:
        bench.close()
