# SPDX-License-Identifier: Apache-2.0
"""The tf tree: lookups across links, at stamps, with reasons; and over real topics."""

from __future__ import annotations

import numpy as np
import pytest
from geometry_msgs.msg import TransformStamped
from hypothesis import given, settings
from hypothesis import strategies as st
from std_msgs.msg import Header
from tf2_msgs.msg import TFMessage

from inspatio_ros.geometry import rigid
from inspatio_ros.ros import qos
from inspatio_ros.ros.convert.stamps import to_time
from inspatio_ros.ros.transforms import (
    TransformListener,
    TransformTree,
    TransformUnavailable,
    stamped_transform,
)
from support.ros import graph

S = 1_000_000_000


def link(parent: str, child: str, matrix: np.ndarray, stamp_ns: int = 0) -> TransformStamped:
    return stamped_transform(Header(stamp=to_time(stamp_ns), frame_id=parent), child, matrix)


def random_pose(rng: np.random.Generator) -> np.ndarray:
    return rigid.from_euler(*rng.uniform(-3, 3, 3), rng.uniform(-5, 5, 3))


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**31))
def test_lookup_through_a_common_ancestor(seed: int) -> None:
    rng = np.random.default_rng(seed)
    map_from_odom, odom_from_base, base_from_camera = (random_pose(rng) for _ in range(3))
    odom_from_other = random_pose(rng)
    tree = TransformTree()
    tree.add(link("map", "odom", map_from_odom), static=True)
    tree.add(link("odom", "base", odom_from_base, 5 * S))
    tree.add(link("base", "camera", base_from_camera), static=True)
    tree.add(link("odom", "other", odom_from_other), static=True)
    found = tree.lookup("other", "camera", 5 * S)
    expected = rigid.invert(odom_from_other) @ odom_from_base @ base_from_camera
    np.testing.assert_allclose(found, expected, atol=1e-9)
    np.testing.assert_allclose(tree.lookup("camera", "other", 5 * S), rigid.invert(expected),
                               atol=1e-9)
    np.testing.assert_allclose(tree.lookup("map", "camera", 5 * S),
                               map_from_odom @ odom_from_base @ base_from_camera, atol=1e-9)


def test_interpolates_between_stamps() -> None:
    tree = TransformTree()
    tree.add(link("odom", "base", rigid.from_euler(0, 0, 0.0, (0, 0, 0)), 10 * S))
    tree.add(link("odom", "base", rigid.from_euler(0, 0, 1.0, (2, 0, 0)), 10 * S + S // 2))
    middle = tree.lookup("odom", "base", 10 * S + S // 4)
    np.testing.assert_allclose(middle, rigid.from_euler(0, 0, 0.5, (1, 0, 0)), atol=1e-9)


def test_leading_slashes_are_the_same_frame() -> None:
    tree = TransformTree()
    tree.add(link("/odom", "/base", np.eye(4)), static=True)
    np.testing.assert_array_equal(tree.lookup("odom", "base", 1), np.eye(4))


@pytest.mark.parametrize(("stamp_ns", "reason"), [
    (9 * S, "too_old"), (20 * S, "too_new"), (10 * S + 1, None)])
def test_reasons_of_time(stamp_ns: int, reason: str | None) -> None:
    tree = TransformTree()
    for stamp in (10 * S, 10 * S + S // 10):
        tree.add(link("odom", "base", np.eye(4), stamp))
    if reason is None:
        tree.lookup("odom", "base", stamp_ns)
        return
    with pytest.raises(TransformUnavailable, match="'odom' from 'base'") as caught:
        tree.lookup("odom", "base", stamp_ns)
    assert caught.value.reason == reason


def test_unknown_frame_lists_what_there_is() -> None:
    tree = TransformTree()
    tree.add(link("odom", "base", np.eye(4)), static=True)
    with pytest.raises(TransformUnavailable, match="no frame 'cam' \\(it has: base, odom\\)") as e:
        tree.lookup("odom", "cam", 0)
    assert e.value.reason == "unknown_frame"


def test_two_trees_are_not_connected() -> None:
    tree = TransformTree()
    tree.add(link("a", "b", np.eye(4)), static=True)
    tree.add(link("c", "d", np.eye(4)), static=True)
    with pytest.raises(TransformUnavailable, match="does not connect 'b' and 'd'") as caught:
        tree.lookup("b", "d", 0)
    assert caught.value.reason == "not_connected"


def test_a_loop_of_frames_ends() -> None:
    tree = TransformTree()
    tree.add(link("a", "b", np.eye(4)), static=True)
    tree.add(link("b", "a", np.eye(4)), static=True)
    tree.add(link("x", "y", np.eye(4)), static=True)
    with pytest.raises(TransformUnavailable):
        tree.lookup("a", "y", 0)


@pytest.mark.parametrize("parent", ["", "base"])
def test_invalid_transforms_are_counted(parent: str) -> None:
    tree = TransformTree()
    tree.add(link(parent, "base", np.eye(4)))
    assert tree.dropped == 1
    assert tree.frames() == []


def test_nan_and_zero_rotations_are_counted() -> None:
    tree = TransformTree()
    bad = link("odom", "base", np.eye(4))
    bad.transform.translation.x = float("nan")
    tree.add(bad)
    zero = link("odom", "base", np.eye(4))
    zero.transform.rotation.w = 0.0
    tree.add(zero)
    assert tree.dropped == 2


def test_number_of_frames_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("inspatio_ros.messages.transforms.MAX_FRAMES", 10)
    tree = TransformTree()
    for i in range(30):
        tree.add(link("odom", f"f{i}", np.eye(4)), static=True)
    assert len(tree.frames()) == 11
    assert tree.dropped == 20


def test_clearing_keeps_what_is_static() -> None:
    tree = TransformTree()
    tree.add(link("odom", "base", np.eye(4), 10 * S))
    tree.add(link("base", "camera", np.eye(4)), static=True)
    tree.clear_moving()
    np.testing.assert_array_equal(tree.lookup("base", "camera", 0), np.eye(4))
    tree.add(link("odom", "base", np.eye(4), 2 * S))
    tree.lookup("odom", "camera", 2 * S)


def test_a_straggler_of_the_other_time_does_no_harm() -> None:
    tree = TransformTree()
    tree.add(link("odom", "base", np.eye(4), 100 * S))
    for stamp in (50 * S, 50 * S + S // 10):
        tree.add(link("odom", "base", np.eye(4), stamp))
    tree.lookup("odom", "base", 50 * S + S // 20)
    with pytest.raises(TransformUnavailable, match="older"):
        tree.lookup("odom", "base", 60 * S)


def test_a_new_parent_forgets_the_old_one() -> None:
    tree = TransformTree()
    tree.add(link("odom", "base", rigid.from_euler(0, 0, 0, (1, 0, 0)), 1 * S))
    tree.add(link("map", "base", rigid.from_euler(0, 0, 0, (2, 0, 0)), 2 * S))
    assert tree.lookup("map", "base", 2 * S)[0, 3] == 2
    with pytest.raises(TransformUnavailable):
        tree.lookup("map", "base", 1 * S)


def test_newest_stamp_is_that_of_the_slowest_link() -> None:
    tree = TransformTree()
    tree.add(link("map", "odom", np.eye(4), 3 * S))
    tree.add(link("odom", "base", np.eye(4), 5 * S))
    tree.add(link("base", "camera", np.eye(4)), static=True)
    assert tree.latest_stamp("map", "camera") == 3 * S
    assert tree.latest_stamp("odom", "camera") == 5 * S
    assert tree.latest_stamp("base", "camera") is None


def test_over_real_topics() -> None:
    with graph("tf_test") as made:
        tree = TransformTree()
        stamps: list[int] = []
        latched = made.node.create_publisher(TFMessage, "/tf_static", qos.TF_STATIC)
        latched.publish(TFMessage(transforms=[link("base", "camera", rigid.BODY_FROM_OPTICAL)]))
        listener = TransformListener(made.node, tree, stamps.append)
        moving = made.node.create_publisher(TFMessage, "/tf", qos.TF)

        def known() -> bool:
            moving.publish(TFMessage(transforms=[link("odom", "base", np.eye(4), 7 * S)]))
            return tree.frames() == ["base", "camera", "odom"]

        made.spin_until(known, 20, "both kinds of transform")
        np.testing.assert_allclose(tree.lookup("odom", "camera", 7 * S), rigid.BODY_FROM_OPTICAL)
        assert set(stamps) == {7 * S}
        listener.destroy()
