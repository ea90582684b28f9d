# SPDX-License-Identifier: Apache-2.0
"""Dynamic accuracy on clips whose answers are known, and its floor on true frames."""

from __future__ import annotations

import functools
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inspatio_ros.evaluation.dynamics import dynamic_accuracy, summarize
from inspatio_ros.evaluation.scene_truth import ObjectTruth, SceneTruth, scene_truth
from inspatio_ros.evaluation.tracking import box_overlap, matched, track
from inspatio_ros.geometry import rigid
from inspatio_ros.geometry.camera import PinholeCamera
from inspatio_ros.worlds.street import street

CAMERA = PinholeCamera(160, 96, 100.0, 100.0, 79.5, 47.5)
FAR, NEAR = 10.0, 5.0  # metres to the background and to the things
FRAMES = 12


def noise(height: int, width: int, seed: int) -> np.ndarray:
    """Colours with structure at several sizes."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (-(-height // 4), -(-width // 4), 3)).repeat(4, 0).repeat(4, 1)
    fine = rng.integers(0, 256, (height, width, 3))
    return ((2 * coarse[:height, :width] + fine) // 3).astype(np.uint8)


BACKGROUND, THING, OTHER = noise(96, 200, 1), noise(20, 28, 2), noise(20, 28, 3)


def picture(places: dict[int, float], pan: float = 0.0) -> np.ndarray:
    """The background moved left by `pan` px, things with their left edge at places, by row."""
    image = BACKGROUND[:, round(pan):round(pan) + CAMERA.width].copy()
    for row, left in places.items():
        column = round(left)
        image[row:row + 20, column:column + 28] = THING if row == 20 else OTHER
    return image


def scene(step: float, other: bool = False) -> SceneTruth:
    """A thing that goes `step` px a frame to the right, a still camera, maybe a still thing."""
    times = np.arange(FRAMES) / 10
    rows = {20: 10 + step * np.arange(FRAMES)} | ({60: np.full(FRAMES, 100.0)} if other else {})
    objects, depth = [], np.full((FRAMES, 96, 160), FAR, np.float32)
    movers = np.zeros((FRAMES, 96, 160), bool)
    for row, lefts in rows.items():
        boxes = np.stack([lefts - 0.5, np.full(FRAMES, row - 0.5), lefts + 27.5,
                          np.full(FRAMES, row + 19.5)], axis=1)
        middle = (boxes[:, :2] + boxes[:, 2:]) / 2
        centers = np.column_stack([(middle[:, 0] - CAMERA.cx) / 100 * NEAR,
                                   (middle[:, 1] - CAMERA.cy) / 100 * NEAR,
                                   np.full(FRAMES, NEAR)])
        objects.append(ObjectTruth(f"row {row}", row == 20, boxes, centers))
        for frame, left in enumerate(lefts):
            box = np.s_[frame, row:row + 20, round(left):round(left) + 28]
            depth[box], movers[box] = NEAR, row == 20
    images = np.stack([picture({row: lefts[frame] for row, lefts in rows.items()})
                       for frame in range(FRAMES)])
    return SceneTruth("toy", images, depth, movers, CAMERA, np.repeat(np.eye(4)[None], FRAMES, 0),
                      times, tuple(objects))


def test_the_truth_itself_is_exact() -> None:
    truth = scene(4.0, other=True)
    report = dynamic_accuracy(truth, truth.images[1:])
    for thing in report.objects:
        assert (thing.judged, thing.found, thing.survival) == (11, 11, 1.0)
        assert thing.iou > 0.97
        assert thing.center_error_px < 0.3
        assert thing.center_error_m == pytest.approx(thing.center_error_px * NEAR / 100)
        assert thing.size_ratio == pytest.approx(1.0, abs=0.02)
        assert thing.track_ate_m < 0.12
    mover, still = report.objects
    assert mover.motion_ratio == pytest.approx(1.0, abs=0.03)
    assert mover.heading_error < 0.1
    assert math.isnan(still.motion_ratio)
    assert report.background.false_motion_px < 0.15
    assert report.background.false_share < 0.02
    assert report.survivors.tolist() == [[1, 1]] * 11


def test_a_frozen_thing_stays_behind() -> None:
    truth = scene(4.0)
    mover, = dynamic_accuracy(truth, [truth.images[0]] * 11).objects
    # It is 4, 8, ... 44 px behind, 24 on average; 5 cm a pixel.
    assert mover.survival == 1.0
    assert mover.center_error_px == pytest.approx(24.0, abs=0.3)
    assert mover.center_error_m == pytest.approx(1.2, abs=0.02)
    assert mover.motion_ratio == pytest.approx(0.0, abs=0.02)
    assert math.isnan(mover.heading_error)
    overlap = [(28 - 4 * k) / (28 + 4 * k) for k in range(1, 7)]  # none from 28 px on
    assert mover.iou == pytest.approx(sum(overlap) / 11, abs=0.01)
    assert mover.track_ate_m == pytest.approx(0.05 * math.sqrt(np.mean(
        np.square(4 * np.arange(1, 12)))), rel=0.03)


def test_half_the_speed_is_half_the_motion() -> None:
    truth = scene(4.0)
    imagined = [picture({20: 10 + 2.0 * frame}) for frame in range(1, FRAMES)]
    mover, = dynamic_accuracy(truth, imagined).objects
    assert mover.survival == 1.0
    assert mover.motion_ratio == pytest.approx(0.5, abs=0.03)
    assert mover.center_error_px == pytest.approx(12.0, abs=0.3)
    assert mover.heading_error < 0.1


def test_the_wrong_way_is_half_a_turn() -> None:
    truth = scene(2.0)
    start = picture({20: 60.0})
    shifted = replace(truth, images=np.stack([start, *truth.images[1:]]), objects=tuple(
        replace(o, boxes=o.boxes + [50, 0, 50, 0], centers=o.centers + [2.5, 0, 0])
        for o in truth.objects))
    imagined = [picture({20: 60 - 2.0 * frame}) for frame in range(1, FRAMES)]
    mover, = dynamic_accuracy(shifted, imagined).objects
    assert mover.motion_ratio == pytest.approx(-1.0, abs=0.05)
    assert mover.heading_error == pytest.approx(math.pi, abs=0.15)


def test_a_vanished_thing_does_not_survive() -> None:
    truth = scene(4.0, other=True)
    kept = 4
    imagined = [picture({20: 10 + 4.0 * f, 60: 100.0} if f <= kept else {60: 100.0})
                for f in range(1, FRAMES)]
    report = dynamic_accuracy(truth, imagined)
    mover, still = report.objects
    assert mover.found == kept
    assert mover.survival == pytest.approx(kept / 11)
    assert mover.center_error_px < 0.3  # of the frames where it was
    assert mover.iou == pytest.approx(kept / 11, abs=0.03)  # lost counts as no overlap
    assert still.survival == 1.0
    assert report.survivors[:, 1].tolist() == [1] * kept + [0] * (11 - kept)


def test_a_thing_that_comes_back_is_found_again() -> None:
    truth = scene(4.0)
    imagined = [picture({} if frame == 5 else {20: 10 + 4.0 * frame})
                for frame in range(1, FRAMES)]
    mover, = dynamic_accuracy(truth, imagined).objects
    assert mover.found == 10
    assert mover.center_error_px < 0.3


def test_a_thing_painted_over_another_has_one_owner() -> None:
    truth = scene(4.0, other=True)
    # The mover is gone; the still thing remains. No track may end up on it but its own.
    report = dynamic_accuracy(truth, [picture({60: 100.0})] * 11)
    assert [thing.survival for thing in report.objects] == [0.0, 1.0]


def test_background_that_drifts_is_false_motion() -> None:
    truth = scene(0.0)
    drifting = [picture({20: 10.0}, pan=2.0 * frame) for frame in range(1, FRAMES)]
    false = dynamic_accuracy(truth, drifting).background
    true = dynamic_accuracy(truth, truth.images[1:]).background
    assert false.false_motion_px == pytest.approx(2.0, abs=0.15)
    assert false.false_share > 0.9
    assert true.false_motion_px < 0.05
    assert true.false_share < 0.01


def test_a_panning_camera_is_no_false_motion() -> None:
    still = scene(0.0)
    # 2 px a frame at 10 m: 0.2 m to the right each. The thing at 5 m would go 4 px: leave it out.
    poses = np.stack([rigid.from_rotation(np.eye(3), (0.2 * f, 0, 0)) for f in range(FRAMES)])
    truth = replace(still, world_from_camera=poses, objects=(), images=np.stack(
        [picture({}, pan=2.0 * f) for f in range(FRAMES)]),
        depth=np.full_like(still.depth, FAR), movers=np.zeros_like(still.movers))
    moving = dynamic_accuracy(truth, truth.images[1:]).background
    assert moving.false_motion_px < 0.15
    frozen = dynamic_accuracy(truth, [truth.images[0]] * 11).background
    assert frozen.false_motion_px == pytest.approx(2.0, abs=0.05)
    assert frozen.false_share > 0.95


def test_wrong_pictures_are_refused() -> None:
    truth = scene(1.0)
    with pytest.raises(ValueError, match=r"toy: 11 pictures of 160x96 .*, got 3 of 160x96"):
        dynamic_accuracy(truth, truth.images[1:4])
    with pytest.raises(ValueError, match="got 11 of 80x48"):
        dynamic_accuracy(truth, [np.zeros((48, 80, 3), np.uint8)] * 11)
    with pytest.raises(ValueError, match="no clip"):
        summarize([])
    with pytest.raises(ValueError, match="frames of 160x96"):
        replace(truth, times=truth.times[:5])


def test_summary_keeps_moving_and_static_apart() -> None:
    truth = scene(4.0, other=True)
    true, frozen = (dynamic_accuracy(truth, images)
                    for images in (truth.images[1:], [truth.images[0]] * 11))
    one, both = summarize([frozen]), summarize([true, frozen])
    assert one.moving["center_error_px"] == pytest.approx(24.0, abs=0.3)
    assert one.static["center_error_px"] < 0.3
    assert both.moving["objects"] == 2
    assert both.moving["frames"] == 22
    assert both.score == pytest.approx(
        (true.objects[0].iou + frozen.objects[0].iou) / 2)
    assert both.survival_curve == (1.0,) * 11
    plain = one.as_json()
    assert plain["moving"]["heading_error"] is None  # type: ignore[index]


# --- the tracker's parts -------------------------------------------------------------------------

BOXES = st.tuples(st.floats(-20, 20), st.floats(-20, 20), st.floats(1, 30), st.floats(1, 30)).map(
    lambda b: np.array([b[0], b[1], b[0] + b[2], b[1] + b[3]]))


@given(a=BOXES, b=BOXES, shift=st.floats(-50, 50))
def test_overlap_is_symmetric_bounded_and_does_not_move(
        a: np.ndarray, b: np.ndarray, shift: float) -> None:
    one = box_overlap(a[None], b[None])[0, 0]
    assert 0 <= one <= 1
    assert one == pytest.approx(box_overlap(b[None], a[None])[0, 0])
    assert one == pytest.approx(box_overlap(a[None] + shift, b[None] + shift)[0, 0], abs=1e-9)
    assert box_overlap(a[None], a[None])[0, 0] == pytest.approx(1.0)


@given(boxes=st.lists(BOXES, min_size=1, max_size=5), order=st.randoms())
def test_matching_takes_the_largest_total_overlap(boxes: list[np.ndarray], order) -> None:  # type: ignore[no-untyped-def]
    true = np.stack(boxes)
    places = list(range(len(boxes)))
    order.shuffle(places)
    pairs = matched(true[places], true, 0.5)
    assert len(set(pairs.values())) == len(pairs) == len(boxes)
    overlap = box_overlap(true[places], true)
    assert sum(overlap[i, j] for i, j in pairs.items()) == pytest.approx(len(boxes))


def test_lost_boxes_match_nothing() -> None:
    box = np.array([[0.0, 0, 10, 10]])
    assert matched(np.full((1, 4), np.nan), box, 0.1) == {}
    assert matched(box, box + 9.0, 0.1) == {}
    assert matched(box, box + 1.0, 0.1) == {0: 0}


@settings(max_examples=6, deadline=None)
@given(dx=st.integers(-5, 5), dy=st.integers(-3, 3))
def test_a_steady_thing_is_followed_within_half_a_pixel(dx: int, dy: int) -> None:
    def at(frame: int) -> np.ndarray:
        image = BACKGROUND[:, :160].copy()
        top, left = 38 + dy * frame, 65 + dx * frame
        image[top:top + 20, left:left + 28] = THING
        return image

    followed, = track([at(frame) for frame in range(6)], np.array([[64.5, 37.5, 92.5, 57.5]]))
    centers = (followed.boxes[:, :2] + followed.boxes[:, 2:]) / 2
    expected = np.array([78.5, 47.5]) + np.arange(6)[:, None] * [dx, dy]
    assert np.isfinite(centers).all()
    assert np.abs(centers - expected).max() < 0.5


# --- the street ----------------------------------------------------------------------------------


@functools.cache
def drive(moving: bool = True) -> SceneTruth:
    world, times = street(2, moving=moving), 2.0 + np.arange(13) / 10
    camera = PinholeCamera(224, 128, 150.0, 150.0, 111.5, 63.5)
    mount = rigid.from_rotation(np.eye(3), (0, 0, 1.5)) @ rigid.BODY_FROM_OPTICAL
    return scene_truth("street", world, camera, world.drive(3.0, times) @ mount, list(times))


def test_truth_of_a_world_has_boxes_where_the_things_are_seen() -> None:
    truth = drive()
    assert {thing.name for thing in truth.objects if thing.moving} == {"car"}
    assert sum(not thing.moving for thing in truth.objects) >= 5
    for thing in truth.objects:
        boxes = thing.boxes[thing.judged]
        assert (boxes[:, :2] >= -0.5).all()
        assert (boxes[:, 2:] <= np.array([223.5, 127.5])).all()
        for frame in np.flatnonzero(thing.judged):
            camera_from_world = rigid.invert(truth.world_from_camera[frame])
            pixel, depth = truth.camera.project(
                rigid.transform_points(camera_from_world, thing.centers[frame]))
            left, top, right, bottom = thing.boxes[frame]
            assert left < pixel[0] < right
            assert top < pixel[1] < bottom
            assert depth > 0
    assert truth.movers.any()
    assert truth.movers.mean() < 0.2


def test_the_floor_on_true_frames_is_low_and_removal_is_seen() -> None:
    truth = drive()
    floor = summarize([dynamic_accuracy(truth, truth.images[1:])])
    assert floor.moving["survival"] > 0.8
    assert floor.moving["iou"] > 0.6
    assert floor.static["survival"] > 0.95
    assert floor.static["center_error_px"] < 1.0
    assert floor.background.false_motion_px < 0.2
    emptied = summarize([dynamic_accuracy(truth, drive(moving=False).images[1:])])
    assert emptied.moving["survival"] == 0.0
    assert emptied.score == 0.0
    assert emptied.static["survival"] > 0.95
