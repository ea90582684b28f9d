# SPDX-License-Identifier: Apache-2.0
"""The virtual rig of the imagination node: the camera from another mounting, live."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from sensor_msgs.msg import CameraInfo, Image
from tf2_msgs.msg import TFMessage

from inspatio_ros.geometry import rigid
from inspatio_ros.ros import qos
from inspatio_ros.ros.convert import cameras, images
from inspatio_ros.ros.convert.paths import transform_to_matrix
from inspatio_ros.ros.convert.stamps import to_ns
from inspatio_ros.ros.imagination_parameters import ImaginationNodeParameters
from inspatio_ros.ros.parameters import build
from support.imagination import CAMERA, FRAME, WALL, Bench, wall_image

RIG: dict[str, Any] = {"rig__enabled": True, "rig__rate": 120.0, "input__observe_rate": 120.0,
                       "rig__position": [0.0, -0.2, 0.0]}


class Rig:
    """The node with a virtual rig, and what it shows."""

    def __init__(self, **parameters: Any) -> None:
        self.bench = Bench(**{**RIG, **parameters})
        self.got: dict[str, list[Any]] = {}
        node = self.bench.graph.node
        for name, kind in (("image", Image), ("depth", Image), ("provenance", Image),
                           ("camera_info", CameraInfo)):
            held = self.got.setdefault(name, [])
            node.create_subscription(kind, f"imagination/rig/{name}", held.append, qos.profile(50))
        self.transforms: list[Any] = []
        node.create_subscription(
            TFMessage, "/tf", lambda m: self.transforms.extend(
                t for t in m.transforms if t.child_frame_id == "rig_camera_optical"),
            qos.profile(100))

    def until_shown(self, count: int = 3) -> None:
        self.bench.robot.drive_until(
            lambda: all(len(held) >= count for held in self.got.values()) and self.transforms,
            30.0, "pictures of the rig")

    def newest(self) -> dict[str, Any]:
        """The newest message of each topic that all have the stamp of."""
        by_stamp = {name: {to_ns(m.header.stamp): m for m in held}
                    for name, held in self.got.items()}
        stamp = max(set.intersection(*map(set, by_stamp.values())))
        return {name: held[stamp] for name, held in by_stamp.items()}


@pytest.fixture
def make() -> Iterator[Any]:
    made: list[Rig] = []

    def rig(**parameters: Any) -> Rig:
        made.append(Rig(**parameters))
        return made[-1]

    yield rig
    for one in made:
        one.bench.close()


def test_the_wall_is_seen_from_beside_the_camera(make: Any) -> None:
    rig = make()
    rig.until_shown()
    same = rig.newest()
    image = same["image"]
    camera = cameras.to_camera(same["camera_info"], "rig")
    assert camera == CAMERA
    assert image.header.frame_id == "rig_camera_optical"
    # 20 cm to the right of a camera 2 m before a wall: all moves left by f * 0.2 / 2 pixels.
    shift = round(CAMERA.fx * 0.2 / WALL)
    inside = np.s_[4:-4, 4:-shift - 4]
    difference = np.abs(images.to_rgb(image)[inside].astype(int)
                        - wall_image()[:, shift:][4:-4, 4:-4][:, :CAMERA.width - shift - 8])
    assert np.median(difference) <= 2
    assert difference.mean() < 12
    np.testing.assert_allclose(images.to_depth(same["depth"])[inside], WALL, atol=0.01)
    labels = images.to_array(same["provenance"])
    assert (labels[inside] == 255).all()
    assert (labels[:, -shift + 2:] == 85).mean() > 0.9  # beyond the real picture's right edge
    link = rig.transforms[-1]
    assert link.header.frame_id == FRAME
    np.testing.assert_allclose(transform_to_matrix(link.transform)[:3, 3], (0.2, 0, 0), atol=1e-9)
    stamps = {to_ns(m.header.stamp) for m in rig.got["image"]}
    assert len(stamps) == len(rig.got["image"])


def test_a_mounting_on_the_base_with_another_lens(make: Any) -> None:
    rig = make(rig__relative_to="base", rig__position=[0.5, 0.0, 0.1],
               rig__rotation=[0.0, 0.0, 0.3], rig__width=64, rig__height=48,
               rig__field_of_view=1.2)
    rig.until_shown()
    camera = cameras.to_camera(rig.got["camera_info"][-1], "rig")
    assert camera.size == (64, 48)
    assert camera.field_of_view[0] == pytest.approx(1.2)
    link = rig.transforms[-1]
    assert link.header.frame_id == "base_link"
    np.testing.assert_allclose(
        transform_to_matrix(link.transform),
        rigid.from_euler(0, 0, 0.3, (0.5, 0, 0.1)) @ rigid.BODY_FROM_OPTICAL, atol=1e-6)
    depth = images.to_depth(rig.got["depth"][-1])
    # The wall stands 1.5 m ahead of it, turned by 0.3 rad.
    assert np.nanmedian(depth[20:28, 28:36]) == pytest.approx(1.5 / math.cos(0.3), rel=0.02)


def test_without_being_asked_for_there_is_no_rig(make: Any) -> None:
    rig = make(rig__enabled=False)
    rig.bench.until_imagining()
    assert rig.bench.node.rig is None
    assert not rig.bench.graph.node.get_publishers_info_by_topic("/imagination/rig/image")


@pytest.mark.parametrize(("values", "words"), [
    ({"rig.position": [0.0, 1.0]}, "rig.position"), ({"rig.width": 64}, "both or neither"),
    ({"rig.field_of_view": 1.0}, "needs rig.width"),
])
def test_what_is_wrong_with_a_rig_is_said(values: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        build(ImaginationNodeParameters, values)
