# SPDX-License-Identifier: Apache-2.0
"""Candidates, NAVSIM's arrays, motion and comfort, and NAVSIM's combination of sub-scores."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from inspatio_ros.geometry import rigid
from inspatio_ros.geometry.trajectory import EmptyPath
from inspatio_ros.planning.candidates import (
    MAX_POSES,
    Candidate,
    RefusedCandidate,
    read_navsim,
    require_unique,
    write_navsim,
)
from inspatio_ros.planning.combination import combined, epdms, pdms, relative_progress
from inspatio_ros.planning.footprint import Footprint
from inspatio_ros.planning.kinematics import (
    ComfortBounds,
    discomforts,
    level_frame,
    motion_of,
)

WORLD_FROM_EGO = rigid.from_euler(0.0, 0.0, 1.1, (4.0, -3.0, 0.2))


def driven(speed: float, curvature: float = 0.0, count: int = 8) -> np.ndarray:
    """NAVSIM poses [count, 3] of an arc at even speed."""
    length = speed * 0.5 * np.arange(1, count + 1)
    heading = curvature * length
    if curvature == 0:
        return np.stack([length, 0 * length, heading], axis=1)
    return np.stack([np.sin(heading) / curvature, (1 - np.cos(heading)) / curvature, heading], 1)


@given(st.lists(st.tuples(*[st.floats(-50, 50)] * 2, st.floats(-3, 3)), min_size=8, max_size=8),
       st.floats(-3.1, 3.1), st.floats(-100, 100))
def test_navsim_poses_survive_any_ego_frame(poses: list, yaw: float, x: float) -> None:
    world_from_ego = rigid.from_euler(0.0, 0.0, yaw, (x, 3.0, 0.5))
    candidate = Candidate.from_navsim("a", poses, world_from_ego)
    assert len(candidate.times) == 9
    assert candidate.times[0] == 0.0
    assert candidate.duration == 4.0
    np.testing.assert_allclose(candidate.to_navsim(), np.array(poses), atol=2e-5)


def test_navsim_axes_are_forward_left_and_counterclockwise() -> None:
    left = Candidate.from_navsim("a", [[2.0, 1.0, math.pi / 2]], WORLD_FROM_EGO)
    expected = WORLD_FROM_EGO @ rigid.from_euler(0, 0, math.pi / 2, (2.0, 1.0, 0.0))
    np.testing.assert_allclose(left.world_from_base[1], expected, atol=1e-12)


@pytest.mark.parametrize("ending", [".json", ".npz"])
def test_navsim_files_give_back_what_was_written(tmp_path: Path, ending: str) -> None:
    written = [Candidate.from_navsim(f"c{k}", driven(2.0 + k, 0.05 * k), WORLD_FROM_EGO)
               for k in range(3)]
    path = tmp_path / f"candidates{ending}"
    write_navsim(path, written)
    read = read_navsim(path, WORLD_FROM_EGO)
    assert [c.id for c in read] == ["c0", "c1", "c2"]
    for a, b in zip(written, read, strict=True):
        assert isinstance(b, Candidate)
        np.testing.assert_allclose(b.world_from_base, a.world_from_base, atol=1e-5)


def test_plain_arrays_of_navsim_are_read(tmp_path: Path) -> None:
    np.save(tmp_path / "many.npy", np.stack([driven(1.0), driven(2.0)]).astype(np.float32))
    np.save(tmp_path / "one.npy", driven(3.0))
    assert [c.id for c in read_navsim(tmp_path / "many.npy", np.eye(4))] == ["0", "1"]
    (only,) = read_navsim(tmp_path / "one.npy", np.eye(4))
    assert isinstance(only, Candidate)
    assert only.world_from_base[-1, 0, 3] == pytest.approx(12.0)


def test_a_broken_candidate_of_a_file_keeps_its_place(tmp_path: Path) -> None:
    path = tmp_path / "c.json"
    poses = driven(2.0).tolist()
    broken = [row[:] for row in poses]
    broken[3][1] = math.nan
    path.write_text(json.dumps({"candidates": [
        {"id": "good", "poses": poses}, {"id": "nan", "poses": broken},
        {"id": "short", "poses": [[1.0, 2.0]]}, {"id": "none", "poses": []}]}))
    good, nan, short, none = read_navsim(path, np.eye(4))
    assert isinstance(good, Candidate)
    assert isinstance(nan, RefusedCandidate)
    assert "pose 3 is not finite" in nan.reason
    assert isinstance(short, RefusedCandidate)
    assert isinstance(none, RefusedCandidate)


@pytest.mark.parametrize("content", ["{}", "[1]", "{\"candidates\": [{\"id\": 1}]}", "nothing"])
def test_a_file_of_something_else_is_named(tmp_path: Path, content: str) -> None:
    path = tmp_path / "c.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=r"c\.json"):
        read_navsim(path, np.eye(4))
    with pytest.raises(ValueError, match="expected a .json"):
        read_navsim(tmp_path / "c.csv", np.eye(4))


def test_paths_are_timed_by_stamps_or_by_speed() -> None:
    poses = np.tile(np.eye(4), (4, 1, 1))
    poses[:, 0, 3] = [0.0, 1.0, 1.0, 3.0]
    stamped = Candidate.from_path("a", poses, np.array([5, 6, 7, 9]) * 10**9, 0.0)
    np.testing.assert_allclose(stamped.times, [0, 1, 2, 4])
    by_speed = Candidate.from_path("a", poses, np.array([5, 5, 5, 5]) * 10**9, 2.0)
    np.testing.assert_allclose(by_speed.times, [0.0, 0.5, 1.5])
    with pytest.raises(ValueError, match="nothing times the path"):
        Candidate.from_path("a", poses, None, 0.0)
    with pytest.raises(EmptyPath):
        Candidate.from_path("a", poses[:0], None, 1.0)


def test_long_candidates_are_thinned_and_keep_their_ends() -> None:
    poses = np.tile(np.eye(4), (5000, 1, 1))
    poses[:, 0, 3] = np.arange(5000) * 0.01
    candidate = Candidate.from_path("a", poses, None, 1.0)
    assert len(candidate.times) == MAX_POSES
    assert candidate.world_from_base[-1, 0, 3] == pytest.approx(49.99)


def test_ids_must_be_unique_and_some_must_be_there() -> None:
    one = Candidate.from_navsim("a", driven(1.0), np.eye(4))
    with pytest.raises(ValueError, match="'a' comes 2 times"):
        require_unique([one, RefusedCandidate("a", "why")])
    with pytest.raises(ValueError, match="no candidate"):
        require_unique([])


@pytest.mark.parametrize("wrong", [{"front": 0.0}, {"height": math.nan}, {"clearance": 2.0},
                                   {"margin": -1.0}])
def test_a_footprint_that_is_none_is_refused(wrong: dict) -> None:
    with pytest.raises(ValueError, match="footprint"):
        Footprint(**wrong)


def test_motion_along_an_arc_has_its_speed_and_its_lateral_acceleration() -> None:
    candidate = Candidate.from_navsim("a", driven(6.0, 0.05), WORLD_FROM_EGO)
    motion = motion_of(candidate, np.eye(4))
    assert len(motion.times) == 41
    np.testing.assert_allclose(motion.speed, 6.0, rtol=2e-3)
    np.testing.assert_allclose(motion.lateral[5:-5], 36 * 0.05, rtol=0.02)
    assert np.abs(motion.acceleration[5:-5]).max() < 0.05


@pytest.mark.parametrize(("speed", "curvature", "broken"), [
    (6.0, 0.05, set()),
    (10.0, 0.055, {"lateral_acceleration"}),  # 5.5 m/s², 0.55 rad/s
    (4.0, 0.25, {"yaw_rate"}),  # 1 rad/s, 4 m/s²
])
def test_the_bound_that_a_turn_breaks_is_named(
    speed: float, curvature: float, broken: set[str]
) -> None:
    candidate = Candidate.from_navsim("a", driven(speed, curvature), np.eye(4))
    assert set(discomforts(motion_of(candidate, np.eye(4)))) == broken


@pytest.mark.parametrize(("acceleration", "broken"), [
    (2.3, set()), (2.5, {"longitudinal_acceleration"}),
    (-4.0, set()), (-4.2, {"longitudinal_acceleration"})])
def test_accelerations_are_held_against_navsims_bounds(
    acceleration: float, broken: set[str]
) -> None:
    t = np.arange(9) * 0.5
    poses = np.zeros((9, 3))
    poses[:, 0] = 20.0 * t + acceleration * t**2 / 2
    candidate = Candidate.from_navsim("a", poses[1:], np.eye(4))
    assert set(discomforts(motion_of(candidate, np.eye(4)))) == broken
    assert not discomforts(motion_of(candidate, np.eye(4)), ComfortBounds(
        min_longitudinal_acceleration=-9.0, max_longitudinal_acceleration=9.0))


def test_a_start_at_another_speed_is_uncomfortable() -> None:
    candidate = Candidate.from_navsim("a", driven(8.0), np.eye(4))
    assert not discomforts(motion_of(candidate, np.eye(4), start_speed=8.0))
    assert "longitudinal_jerk" in discomforts(motion_of(candidate, np.eye(4), start_speed=0.0))


def test_one_pose_is_standing_still() -> None:
    motion = motion_of(Candidate("a", WORLD_FROM_EGO[None], np.zeros(1)), np.eye(4))
    assert motion.speed.tolist() == [0.0]
    assert not discomforts(motion)


def test_a_world_of_optical_axes_is_stood_up() -> None:
    np.testing.assert_array_equal(level_frame(WORLD_FROM_EGO), np.eye(4))
    optical = level_frame(rigid.OPTICAL_FROM_BODY @ WORLD_FROM_EGO)
    up = optical[:3, :3] @ (0.0, -1.0, 0.0)
    np.testing.assert_allclose(up, (0.0, 0.0, 1.0), atol=1e-12)


SUB_SCORES = {"no_at_fault_collisions": 1.0, "drivable_area_compliance": 1.0,
              "ego_progress": 0.8, "time_to_collision_within_bound": 1.0, "comfort": 0.0}
EXTENDED = {"no_at_fault_collisions": 1.0, "drivable_area_compliance": 1.0,
            "driving_direction_compliance": 0.5, "traffic_light_compliance": 1.0,
            "ego_progress": 0.6, "time_to_collision_within_bound": 0.0, "lane_keeping": 1.0,
            "history_comfort": 1.0, "two_frame_extended_comfort": 0.0}


@pytest.mark.parametrize(("changes", "expected"), [
    ({}, 9 / 12),
    ({"comfort": 1.0}, 11 / 12),
    ({"comfort": 1.0, "ego_progress": 1.0}, 1.0),
    ({"no_at_fault_collisions": 0.5}, 4.5 / 12),
    ({"no_at_fault_collisions": 0.0, "comfort": 1.0}, 0.0),
    ({"drivable_area_compliance": 0.0}, 0.0),
    ({"time_to_collision_within_bound": 0.0}, 4 / 12),
])
def test_pdms_by_hand(changes: dict[str, float], expected: float) -> None:
    assert pdms({**SUB_SCORES, **changes}) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(("changes", "human", "expected"), [
    ({}, None, 0.5 * (3 + 2 + 2) / 16),
    ({"driving_direction_compliance": 1.0}, None, 7 / 16),
    ({}, {"driving_direction_compliance": 0.0}, 7 / 16),
    ({}, {"driving_direction_compliance": 1.0}, 3.5 / 16),
    ({}, {"time_to_collision_within_bound": 0.0}, 0.5 * 12 / 16),
    ({"traffic_light_compliance": 0.0}, {"traffic_light_compliance": 0.0}, 3.5 / 16),
    ({"traffic_light_compliance": 0.0}, {}, 0.0),
])
def test_epdms_by_hand(changes: dict, human: dict | None, expected: float) -> None:
    assert epdms({**EXTENDED, **changes}, human) == pytest.approx(expected, abs=1e-12)


def test_progress_is_measured_against_the_farthest_that_breaks_nothing() -> None:
    raw = {"a": 20.0, "b": 10.0, "c": 40.0, "d": -3.0}
    factors = {"a": 1.0, "b": 1.0, "c": 0.0, "d": 1.0}
    assert relative_progress(raw, factors) == {"a": 1.0, "b": 0.5, "c": 0.0, "d": 0.0}
    slow = {"a": 4.0, "b": 0.0}
    assert relative_progress(slow, {"a": 1.0, "b": 0.0}) == {"a": 1.0, "b": 0.0}


@given(st.dictionaries(st.sampled_from(["x", "y", "z"]), st.floats(0, 1), min_size=3),
       st.floats(0.1, 10), st.floats(0.1, 10))
def test_a_combination_lies_between_its_terms(terms: dict, first: float, second: float) -> None:
    value = combined(terms, ("x",), {"y": first, "z": second})
    low, high = sorted((terms["y"], terms["z"]))
    assert terms["x"] * low - 1e-12 <= value <= terms["x"] * high + 1e-12


def test_terms_that_are_missing_or_no_share_are_named() -> None:
    with pytest.raises(ValueError, match="'comfort' is nan"):
        pdms({k: v for k, v in SUB_SCORES.items() if k != "comfort"})
    with pytest.raises(ValueError, match="'ego_progress' is 1.5"):
        pdms({**SUB_SCORES, "ego_progress": 1.5})
