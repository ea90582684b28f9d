# SPDX-License-Identifier: Apache-2.0
"""Stamp matching, pose buffer, gates and observations."""

from __future__ import annotations

import numpy as np
import numpy.testing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from inspatio_ros.geometry import rigid
from inspatio_ros.geometry.camera import PinholeCamera
from inspatio_ros.sensing.gating import BackwardJumpDetector, FuseGate
from inspatio_ros.sensing.matching import StampMatcher
from inspatio_ros.sensing.observation import Observation
from inspatio_ros.sensing.poses import PoseBuffer, PoseUnavailable


def test_matcher_pairs_the_nearest_within_the_slop() -> None:
    matcher: StampMatcher[str] = StampMatcher(["image", "depth"], slop_ns=10)
    assert matcher.add("image", 100, "i100") is None
    assert matcher.add("image", 120, "i120") is None
    assert matcher.add("depth", 123, "d123") == {"image": "i120", "depth": "d123"}
    assert matcher.dropped == {"image": 1, "depth": 0}
    assert matcher.pairs == 1


def test_matcher_reports_the_gap_it_saw() -> None:
    matcher: StampMatcher[int] = StampMatcher(["image", "depth"], slop_ns=5)
    matcher.add("image", 100, 0)
    assert matcher.add("depth", 150, 0) is None
    assert matcher.nearest_gap_ns == 50
    assert matcher.waiting == {"image": 1, "depth": 1}


@given(st.lists(st.tuples(st.sampled_from(["a", "b"]), st.integers(0, 300)), max_size=80),
       st.integers(0, 10), st.integers(1, 5))
def test_matcher_is_bounded_and_counts_everything(
    events: list[tuple[str, int]], slop: int, capacity: int
) -> None:
    matcher: StampMatcher[int] = StampMatcher(["a", "b"], slop, capacity)
    offered = {"a": 0, "b": 0}
    for name, stamp in events:
        offered[name] += 1
        matched = matcher.add(name, stamp, stamp)
        if matched is not None:
            assert abs(matched["a"] - matched["b"]) <= slop
        assert max(matcher.waiting.values()) <= capacity
    for name, count in offered.items():
        assert count == matcher.pairs + matcher.dropped[name] + matcher.waiting[name]


def test_matcher_needs_distinct_names() -> None:
    with pytest.raises(ValueError, match="distinct"):
        StampMatcher(["a", "a"], 0)


def _at_x(x: float) -> rigid.Array:
    return rigid.from_rotation(np.eye(3), (x, 0.0, 0.0))


def test_pose_buffer_interpolates_and_says_why_not() -> None:
    buffer = PoseBuffer(max_gap_ns=1_000)
    with pytest.raises(PoseUnavailable) as empty:
        buffer.at(0)
    assert empty.value.reason == "empty"
    buffer.add(1_000, _at_x(1.0))
    buffer.add(500, _at_x(0.0))  # out of order
    npt.assert_allclose(buffer.at(750)[:3, 3], [0.5, 0, 0])
    npt.assert_allclose(buffer.at(1_000)[:3, 3], [1.0, 0, 0])
    buffer.add(9_000, _at_x(2.0))
    for stamp, reason in ((400, "too_old"), (9_001, "too_new"), (5_000, "gap")):
        with pytest.raises(PoseUnavailable) as missing:
            buffer.at(stamp)
        assert missing.value.reason == reason
    assert buffer.latest()[0] == 9_000


@given(st.lists(st.integers(0, 10_000), min_size=1, max_size=100), st.integers(2, 10))
def test_pose_buffer_is_bounded_by_capacity_and_age(stamps: list[int], capacity: int) -> None:
    buffer = PoseBuffer(max_age_ns=2_000, capacity=capacity, max_gap_ns=10_000)
    for stamp in stamps:
        buffer.add(stamp, _at_x(float(stamp)))
        assert len(buffer) <= capacity
    newest, pose = buffer.latest()
    assert newest == max(stamps)
    assert pose[0, 3] == newest
    with pytest.raises(PoseUnavailable):
        buffer.at(newest - 2_001)


def test_pose_buffer_refuses_what_is_not_rigid() -> None:
    with pytest.raises(ValueError, match="not a rotation"):
        PoseBuffer().add(0, np.diag([1.0, 1.0, 3.0, 1.0]))


def test_fuse_gate_bounds_the_rate_and_rests_while_still() -> None:
    gate = FuseGate(5.0, still_interval=1.0)
    moving = [gate.admits(int(i * 1e8), _at_x(0.1 * i)) for i in range(6)]
    assert moving == [True, False, True, False, True, False]
    gate.reset()
    still = [gate.admits(int(i * 2.5e8), _at_x(0.0)) for i in range(9)]
    assert still == [True, False, False, False, True, False, False, False, True]


def test_backward_jump_is_told_from_lateness() -> None:
    detector = BackwardJumpDetector(tolerance_ns=100)
    assert [detector.jumped(t) for t in (1_000, 950, 1_100, 999, 1_000)] == [
        False, False, False, True, False]


def test_observation_checks_shapes() -> None:
    camera = PinholeCamera(8, 6, 5.0, 5.0, 3.5, 2.5)
    image = np.zeros((6, 8, 3), np.uint8)
    depth = np.full((6, 8), np.nan, np.float32)
    depth[0] = 2.0
    observation = Observation(0, image, depth, camera, np.eye(4))
    assert observation.depth_coverage == pytest.approx(1 / 6)
    assert observation.nbytes == image.nbytes + depth.nbytes
    with pytest.raises(ValueError, match="image: expected uint8 6x8x3"):
        Observation(0, image[:5], depth, camera, np.eye(4))
    with pytest.raises(ValueError, match="depth: expected float32 6x8"):
        Observation(0, image, depth.astype(np.float64), camera, np.eye(4))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="world_from_camera"):
        Observation(0, image, depth, camera, np.zeros((4, 4)))
