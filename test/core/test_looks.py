# SPDX-License-Identifier: Apache-2.0
"""Depth of the last seconds, and what moving things leave behind: what the ground map makes of
both."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from inspatio_ros.geometry.camera import PinholeCamera
from inspatio_ros.memory.looks import RecentLooks
from inspatio_ros.memory.world_memory import MemoryOptions, WorldMemory
from inspatio_ros.planning.ground_map import (
    GROUND,
    OBSTACLE,
    UNKNOWN,
    GroundMap,
    GroundOptions,
    ground_map,
)
from inspatio_ros.planning.movers import MovingBox, tracked_boxes
from inspatio_ros.planning.scores import CandidateScorer
from inspatio_ros.planning.situation import Situation
from inspatio_ros.sensing.observation import Observation
from inspatio_ros.worlds.raytracing import PLAIN
from inspatio_ros.worlds.world import ConstantVelocity, World, WorldObject, stadium
from support.corridor import BASE_FROM_CAMERA, CAMERA, CART, OPTIONS, ahead, box

HALF_SECOND = 500_000_000


def observation(stamp_ns: int, width: int = 40, depth: float = 2.0) -> Observation:
    camera = PinholeCamera(width, width // 2, 0.7 * width, 0.7 * width, (width - 1) / 2,
                           (width // 2 - 1) / 2)
    shape = (camera.height, camera.width)
    return Observation(stamp_ns, np.zeros((*shape, 3), np.uint8),
                       np.full(shape, depth, np.float32), camera, np.eye(4))


def test_a_look_is_held_each_half_second_and_the_newest_stay() -> None:
    looks = RecentLooks(3)
    held = [looks.offer(observation(round(k * 1e8))) for k in range(31)]
    assert held == [k % 5 == 0 for k in range(31)]
    assert [look.stamp_ns for look in looks.newest_first] == [3_000_000_000, 2_500_000_000,
                                                              2_000_000_000]
    assert looks.nbytes == 3 * 40 * 20 * 4
    # After a jump back nothing is too early.
    assert looks.offer(observation(0))
    looks.clear()
    assert looks.newest_first == ()
    assert looks.nbytes == 0
    assert not RecentLooks(0).offer(observation(0))
    with pytest.raises(ValueError, match="negative"):
        RecentLooks(-1)


def test_a_look_is_a_small_copy() -> None:
    looks = RecentLooks(2)
    wide, small = observation(0, 640), observation(HALF_SECOND)
    assert looks.offer(wide)
    assert looks.offer(small)
    small.depth[:] = 9.0
    newer, older = looks.newest_first
    assert (newer.depth == 2.0).all()
    assert older.depth.shape == (160, 320)
    assert older.camera.size == (320, 160)
    assert older.camera.fx == pytest.approx(0.7 * 320)
    np.testing.assert_allclose(older.depth, 2.0)


def test_the_memory_holds_and_forgets_looks() -> None:
    memory = WorldMemory(MemoryOptions(capacity=2_000, looks=2))
    before = memory.nbytes
    for k in range(4):
        memory.integrate(observation(k * HALF_SECOND))
    assert [look.stamp_ns for look in memory.looks.newest_first] == [3 * HALF_SECOND,
                                                                     2 * HALF_SECOND]
    assert memory.looks.nbytes == 2 * 40 * 20 * 4
    assert memory.nbytes >= before + memory.looks.nbytes
    memory.clear()
    assert memory.looks.newest_first == ()


SIZE = (0.5, 0.5, 1.4)


def passing(speed: float, place: tuple[float, float]) -> World:
    """Open ground with a thing that at time 0 is at `place` and goes to the left, and a post."""
    moving = box("moving", SIZE, *place)
    pose = moving.motion.world_from_object(0.0)
    return World((box("ground", (80.0, 60.0, 1.0), 20.0, 0.0, -1.0, PLAIN),
                  box("post", (0.3, 0.3, 1.4), 6.0, -2.6),
                  WorldObject("moving", moving.parts,
                              ConstantVelocity(pose, (0.0, speed, 0.0)))), stadium(4.0, 1.0))


def seen(world: World, *, reach: float, seconds: float = 2.0, looks: int = 6
         ) -> tuple[WorldMemory, Observation]:
    """What a cart that stands at the origin has seen of it until time 0."""
    memory = WorldMemory(MemoryOptions(capacity=300_000, voxel_size=0.04, max_radius=30.0,
                                       looks=looks))
    for number, t in enumerate(np.arange(-seconds, 0.01, 0.2)):
        view = world.render(CAMERA, BASE_FROM_CAMERA, float(t))
        depth = np.where(view.depth < reach, view.depth, np.float32(np.nan))
        last = Observation((number + 50) * 200_000_000, view.image, depth, CAMERA,
                           BASE_FROM_CAMERA)
        memory.integrate(last)
    return memory, last


def mover_of(world: World) -> MovingBox:
    thing = world.objects[-1]
    assert isinstance(thing.motion, ConstantVelocity)
    return MovingBox(thing.motion.world_from_object(0.0), SIZE[:2], thing.motion.velocity)


def made_map(memory: WorldMemory, last: Observation, movers: tuple[MovingBox, ...]) -> GroundMap:
    return ground_map(memory, (last,), np.eye(4), np.eye(4), CART, GroundOptions(radius=20.0),
                      movers)


def test_where_a_told_thing_has_been_nothing_stands() -> None:
    world = passing(1.0, (6.0, 0.3))
    # Nothing is measured behind it, so nothing wipes its old sides away.
    memory, last = seen(world, reach=6.6)
    way = np.array([[5.76, y, 0.0] for y in (-1.4, -1.2, -1.0, -0.8, -0.6)])
    assert (made_map(memory, last, ()).at(way) == OBSTACLE).any()
    told = made_map(memory, last, (mover_of(world),))
    assert not (told.at(way) == OBSTACLE).any()
    # The post beside its way stands.
    post = np.array([[5.86, y, 0.0] for y in (-2.7, -2.6, -2.5)])
    assert (told.at(post) == OBSTACLE).any()
    # Told of the wrong way, its old sides stay.
    wrong = MovingBox(mover_of(world).world_from_box, SIZE[:2], (0.0, -1.0, 0.0))
    assert (made_map(memory, last, (wrong,)).at(way) == OBSTACLE).any()


def test_ground_that_was_seen_before_something_hid_it_is_known() -> None:
    world = passing(2.0, (9.0, 0.0))
    behind = np.array([[x, 0.0, 0.0] for x in np.arange(11.0, 17.0, 0.1)])
    known = {}
    for looks in (0, 6):
        memory, last = seen(world, reach=30.0, looks=looks)
        state = made_map(memory, last, (mover_of(world),)).at(behind)
        assert set(state.tolist()) <= {GROUND, UNKNOWN}
        known[looks] = float(np.mean(state == GROUND))
    assert known[6] == 1.0
    assert known[0] < 0.9


def test_a_thing_counts_as_far_as_its_points_reach_not_as_its_cells() -> None:
    # Its near side lies anywhere in a cell: the gap that is left decides, to a centimetre or two.
    for edge in (0.61, 0.64, 0.67, 0.7):
        world = World((box("ground", (80.0, 60.0, 1.0), 20.0, 0.0, -1.0, PLAIN),
                       box("long", (6.0, 0.4, 1.4), 5.0, edge + 0.2)), stadium(4.0, 1.0))
        memory, last = seen(world, reach=30.0, seconds=0.4)
        around = Situation(memory, (last,), np.eye(4), BASE_FROM_CAMERA, CAMERA, speed=1.0,
                           movers=())
        for gap, hits in ((0.03, False), (-0.03, True)):
            cart = replace(CART, left=edge - gap)
            score = CandidateScorer(cart, OPTIONS).rank([ahead("a", 1.0)], around).scores[0]
            assert (score.terms["no_collision"] == 0.0) == hits, (edge, gap)


def test_what_stands_close_to_a_moving_thing_stays() -> None:
    world = passing(1.0, (6.0, 0.3))
    beside = box("beside", (0.4, 0.4, 1.4), 6.0, 0.9)  # 0.15 m from it
    memory, last = seen(World((*world.objects[:-1], beside, world.objects[-1]),
                              world.drive_path), reach=30.0)
    state = made_map(memory, last, (mover_of(world),))
    front = np.array([[(5.75, y, 0.0), (5.85, y, 0.0)] for y in (0.75, 0.85, 0.95, 1.05)])
    assert (state.at(front.reshape(-1, 3)) == OBSTACLE).reshape(4, 2).any(1).all()
    # Below the moving thing itself is ground, and behind it nobody knows.
    assert state.at(np.array([[6.0, 0.3, 0.0]])) == GROUND


def test_the_wall_behind_a_moving_thing_is_no_part_of_it() -> None:
    rng = np.random.default_rng(0)
    side = rng.uniform((5.0, -0.6, 0.2), (5.02, 0.6, 1.5), (400, 3))
    wall = rng.uniform((5.2, 1.6, 0.2), (9.0, 1.62, 1.5), (150, 3))
    points = np.concatenate([side, wall]).T.astype(np.float32)
    track = SimpleNamespace(
        confirmed=True, velocity=np.array([0.0, 1.0, 0.0]), turn_rate=0.0,
        patch=SimpleNamespace(points=points, stamp_ns=0),
        motion=lambda since, until: np.eye(4), axes=lambda at: np.eye(3))
    (found,) = tracked_boxes(SimpleNamespace(tracks=[track]), 0, np.eye(4), np.eye(4))
    # Three quarters as deep as it is wide, away from the camera.
    np.testing.assert_allclose(found.size, (0.9, 1.2), atol=0.05)
    np.testing.assert_allclose(found.world_from_box[:2, 3], (5.45, 0.0), atol=0.05)


def test_the_narrow_shadow_of_a_post_stays_unknown() -> None:
    world = World((box("ground", (80.0, 60.0, 1.0), 20.0, 0.0, -1.0, PLAIN),
                   box("post", (0.2, 0.2, 2.0), 5.0, 0.0)), stadium(4.0, 1.0))
    memory, last = seen(world, reach=30.0, seconds=1.0)
    made = made_map(memory, last, ())
    # 0.25 to 0.4 m wide: narrower than what is bridged between the lines of a picture.
    shadow = np.array([[x, 0.0, 0.0] for x in np.arange(6.0, 9.0, 0.1)])
    assert (made.at(shadow) == UNKNOWN).mean() > 0.9
    beside = shadow + (0.0, 0.8, 0.0)
    assert (made.at(beside) == GROUND).all()
