# SPDX-License-Identifier: Apache-2.0
"""Closed loops: motion within limits, true contact, honest ends, episodes that leave nothing."""

from __future__ import annotations

import importlib
import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inspatio_ros.cli.main import main
from inspatio_ros.geometry import rigid
from inspatio_ros.geometry.camera import PinholeCamera
from inspatio_ros.imagination.engine import ImaginationEngine
from inspatio_ros.imagination.filler import GeometricFiller
from inspatio_ros.planning import scenery as scenery_module
from inspatio_ros.planning.closed_loop import ClosedLoop, End, LoopOptions
from inspatio_ros.planning.footprint import Footprint
from inspatio_ros.planning.mounting import camera_of_view
from inspatio_ros.planning.pursuit import PursuitOptions, PursuitPlanner, reference_scorer
from inspatio_ros.planning.recorded_scenery import RecordedScenery, open_recorded_scenery
from inspatio_ros.planning.route import Route
from inspatio_ros.planning.scenery import Seen, StreetScenery, rectangles_touch
from inspatio_ros.planning.vehicles import (
    VEHICLES,
    Bicycle,
    Command,
    Unicycle,
    VehicleLimits,
    VehicleState,
    make_vehicle,
)
from inspatio_ros.sensing.observation import Provenance
from inspatio_ros.worlds.world import Part, Still, Texture, WorldObject
from support.data import ROOT
from support.driven import CAMERA, write_drive

SMALL = camera_of_view(48, 32, 1.75)
Array = npt.NDArray[np.float64]


# Motion.


@settings(max_examples=60)
@given(name=st.sampled_from(VEHICLES), commands=st.lists(
    st.tuples(st.floats(-9, 9), st.floats(-9, 9)), min_size=1, max_size=12))
def test_a_robot_stays_within_its_limits(name: str, commands: list[tuple[float, float]]) -> None:
    limits = VehicleLimits()
    vehicle, state = make_vehicle(name, limits), VehicleState(0.0, 0.0, 0.0)
    for speed, rate in commands:
        after = vehicle.step(state, Command(speed, rate), 0.1)
        assert -limits.max_reverse - 1e-9 <= after.speed <= limits.max_speed + 1e-9
        assert abs(after.speed - state.speed) <= 0.1 * limits.max_braking + 1e-9
        assert math.hypot(after.x - state.x, after.y - state.y) <= 0.1 * limits.max_speed + 1e-9
        if name == "unicycle":
            assert abs(after.yaw_rate) <= limits.max_yaw_rate + 1e-9
        else:
            assert abs(after.steering) <= limits.max_steering + 1e-9
        state = after


def test_a_steady_turn_is_a_circle_whatever_the_step() -> None:
    vehicle = Unicycle()
    state = VehicleState(0.0, 0.0, 0.0, speed=1.0, yaw_rate=0.5)
    for _ in range(int(round(math.pi / 0.5 / 0.1 * 10)) // 10):
        state = vehicle.step(state, Command(1.0, 0.5), 0.1)
    # Radius 2 m about (0, 2): every point lies on it.
    assert math.hypot(state.x, state.y - 2.0) == pytest.approx(2.0, abs=1e-9)


def test_a_bicycle_cannot_turn_on_the_spot_and_steers_for_the_turn_asked_for() -> None:
    vehicle, still = Bicycle(), VehicleState(0.0, 0.0, 0.0)
    for _ in range(20):
        still = vehicle.step(still, Command(0.0, 0.9), 0.1)
    assert still.yaw == 0.0
    moving = VehicleState(0.0, 0.0, 0.0, speed=1.0)
    for _ in range(30):
        moving = vehicle.step(moving, Command(1.0, 0.3), 0.1)
    assert moving.yaw_rate == pytest.approx(0.3)


def test_what_is_no_command_or_vehicle_is_refused() -> None:
    with pytest.raises(ValueError, match="not finite"):
        Command(math.nan, 0.0)
    with pytest.raises(ValueError, match="no vehicle 'hovercraft'"):
        make_vehicle("hovercraft")
    with pytest.raises(ValueError, match="max_speed 0"):
        VehicleLimits(max_speed=0.0)


# Places.


@settings(max_examples=40)
@given(station=st.floats(2.0, 28.0), offset=st.floats(-1.0, 1.0))
def test_a_place_on_a_route_is_found_again(station: float, offset: float) -> None:
    bend = np.linspace(0, math.pi / 2, 60)
    points = np.concatenate([np.stack([np.linspace(0, 10, 40), np.zeros(40)], 1),
                             np.stack([10 + 8 * np.sin(bend), 8 - 8 * np.cos(bend)], 1)[1:],
                             np.stack([np.full(20, 18.0), np.linspace(8, 20, 20)], 1)[1:]])
    route = Route(points)
    x, y = route.at(station, offset)[0]
    found, left = route.locate(x, y)
    assert found == pytest.approx(station, abs=0.06)
    assert left == pytest.approx(offset, abs=0.03)
    quick, left = route.locate_quickly(x, y, station + 0.4)
    assert quick == pytest.approx(station, abs=0.1)
    assert left == pytest.approx(offset, abs=0.06)
    np.testing.assert_allclose(route.pose(station)[:2], route.at(station)[0], atol=5e-3)


def test_a_closed_route_is_counted_round_by_round() -> None:
    square = Route([(0, 0), (4, 0), (4, 4), (0, 4)], closed=True)
    assert square.length == pytest.approx(16.0)
    station, _ = square.locate(0.5, 0.0, near=15.8)
    assert station == pytest.approx(16.5, abs=0.05)
    with pytest.raises(ValueError, match="two different points"):
        Route([(1, 1), (1, 1)])


def rectangle(x: float, y: float, yaw: float, half_length: float, half_width: float) -> Array:
    return Footprint(front=half_length, rear=half_length, left=half_width,
                     right=half_width).corners(x, y, yaw)


@pytest.mark.parametrize(("other", "touches"), [
    ((0.0, 0.0, 0.0, 2.0, 0.1), True),      # a cross: no corner of either lies in the other
    ((1.6, 0.0, 0.0, 0.5, 0.5), False), ((1.4, 0.0, 0.0, 0.5, 0.5), True),
    ((1.45, 0.0, math.pi / 4, 0.5, 0.5), True), ((1.75, 0.0, math.pi / 4, 0.5, 0.5), False),
    ((1.2, 1.2, math.pi / 4, 0.1, 0.1), False), ((0.0, 0.0, 0.3, 0.1, 0.1), True),
])
def test_rectangles_touch_when_they_do(other: tuple[float, ...], touches: bool) -> None:
    square = rectangle(0, 0, math.pi / 2, 1.0, 1.0)
    assert rectangles_touch(square, np.array([other]))[0] == touches


@settings(max_examples=60)
@given(x=st.floats(-3, 3), y=st.floats(-3, 3), a=st.floats(-4, 4), b=st.floats(-4, 4),
       sizes=st.tuples(*[st.floats(0.1, 1.5)] * 4))
def test_touching_is_mutual_and_sees_every_common_point(
        x: float, y: float, a: float, b: float, sizes: tuple[float, ...]) -> None:
    one, other = np.array([[0.0, 0.0, a, *sizes[:2]]]), np.array([[x, y, b, *sizes[2:]]])
    touch = bool(rectangles_touch(rectangle(*one[0]), other)[0])
    assert touch == bool(rectangles_touch(rectangle(*other[0]), one)[0])
    grid = np.stack(np.meshgrid(*[np.linspace(-1, 1, 15)] * 2), -1).reshape(-1, 2)
    turn = np.array([[math.cos(a), -math.sin(a)], [math.sin(a), math.cos(a)]])
    inside = (grid * sizes[:2]) @ turn.T - (x, y)
    back = np.array([[math.cos(b), math.sin(b)], [-math.sin(b), math.cos(b)]])
    if (np.abs(inside @ back.T) <= np.array(sizes[2:]) - 1e-9).all(1).any():
        assert touch


# Episodes.


class Scripted:
    """A straight road whose views and obstacles are what the test says."""

    name = "recording"

    def __init__(self, coverage: Callable[[float], float] = lambda time: 1.0,
                 wall: float = math.inf, length: float = 100.0) -> None:
        self.route = Route([(0.0, 0.0), (length, 0.0)])
        self._coverage, self._wall = coverage, wall

    def reset(self, seed: int) -> VehicleState:
        return VehicleState(0.0, 0.0, 0.0)

    def world_from_base(self, state: VehicleState) -> Array:
        return rigid.from_euler(0.0, 0.0, state.yaw, (state.x, state.y, 0.0))

    def look(self, camera: PinholeCamera, world_from_camera: Array, time: float) -> Seen:
        shape = (camera.height, camera.width)
        return Seen(np.zeros((*shape, 3), np.uint8), np.full(shape, np.nan, np.float32),
                    np.full(shape, Provenance.MEMORY, np.uint8), self._coverage(time))

    def touched(self, corners: Array, time: float) -> str:
        return "wall" if corners[:, 0].max() >= self._wall else ""


def driven(scenery: Scripted, command: Command, **values: float) -> ClosedLoop:
    options = replace(LoopOptions(camera=SMALL, duration=10.0), **values)
    loop = ClosedLoop(scenery, options)
    tick = loop.reset()
    while tick.end is End.RUNNING:
        tick = loop.step(command)
    return loop


@pytest.mark.parametrize(("scenery", "command", "values", "end", "words"), [
    (Scripted(wall=3.0), Command(1.5), {}, End.COLLISION, "touches wall"),
    (Scripted(lambda t: 1.0 if t < 2 else 0.2), Command(1.0), {}, End.UNSUPPORTED,
     "20% of the view"),
    (Scripted(), Command(2.0, 0.5), {"trust_radius": 1.0}, End.UNSUPPORTED, "from the route"),
    (Scripted(), Command(0.0), {"stuck_after": 3.0}, End.STUCK, "no half metre"),
    (Scripted(length=5.0), Command(2.0), {}, End.COMPLETED, "end of the route"),
    (Scripted(), Command(1.0), {}, End.COMPLETED, "time is over"),
])
def test_an_episode_ends_as_what_it_is(scenery: Scripted, command: Command,
                                       values: dict[str, float], end: End, words: str) -> None:
    loop = driven(scenery, command, **values)
    assert (loop.log.end, loop.tick and loop.tick.end) == (end, end)
    assert words in loop.log.detail
    scores = loop.log.scores()
    assert all(0.0 <= value <= 1.0 for value in scores.values())
    bad = end in (End.COLLISION, End.UNSUPPORTED)
    assert (scores["pdm_score"] == 0.0) == bad
    with pytest.raises(ValueError, match="has ended.*reset it"):
        loop.step(command)


def test_a_world_is_left_where_a_recording_is_unsupported() -> None:
    scenery = Scripted()
    scenery.name = "street"
    assert driven(scenery, Command(2.0, 0.5), trust_radius=1.0).log.end is End.OFF_ROUTE


def test_one_bad_view_is_forgiven_and_three_are_not() -> None:
    flicker = Scripted(lambda t: 0.2 if round(t * 10) % 3 == 0 else 1.0)
    assert driven(flicker, Command(1.0)).log.end is End.COMPLETED
    assert driven(Scripted(lambda t: 0.2), Command(1.0)).log.times[-1] == pytest.approx(0.2)


def test_scores_of_a_known_episode() -> None:
    log = driven(Scripted(wall=12.0), Command(1.5), duration=7.0).log
    scores = log.scores()
    assert scores["ego_progress"] == pytest.approx(log.gained / 10.5)
    # From 1.5 m before the wall on something lies within a second's way.
    clear = [t for t, s in zip(log.times, log.states, strict=True) if s.x + s.speed + 0.4 < 12.0]
    assert scores["time_to_collision_within_bound"] == pytest.approx(
        len(clear) / len(log.times), abs=0.03)
    assert scores["comfort"] == 1.0
    assert scores["pdm_score"] == pytest.approx(
        (5 * scores["ego_progress"] + 5 * scores["time_to_collision_within_bound"] + 2) / 12)


def test_a_step_needs_an_episode() -> None:
    with pytest.raises(ValueError, match="reset it first"):
        ClosedLoop(Scripted()).step(Command())


@pytest.mark.parametrize("values", [{"step": 0.0}, {"duration": 1e9}, {"patience": 0},
                                    {"min_coverage": 2.0}])
def test_options_that_make_no_sense_are_refused(values: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="loop:"):
        LoopOptions(**values)  # type: ignore[arg-type]


# The street, and the reference planner in it.


def one_box(station_ahead: float) -> Callable[..., list[WorldObject]]:
    def obstacles(route: Route, start: float, rng: object, *, crossing: bool) -> list[WorldObject]:
        (x, y) = route.at(start + station_ahead, 0.1)[0]
        pose = rigid.from_rotation(np.eye(3), (float(x), float(y), 0.4))
        part = Part((0.6, 0.6, 0.8), np.eye(4), (Texture(1, (200.0, 30.0, 30.0)),))
        return [WorldObject("box", (part,), Still(pose))]
    return obstacles


def episode(options: LoopOptions, scenery: StreetScenery, seed: int, *, scored: bool,
            planner: PursuitPlanner | None = None) -> ClosedLoop:
    loop = ClosedLoop(scenery, options)
    tick = loop.reset(seed)
    driver = planner or PursuitPlanner(scenery.route, loop.vehicle, options,
                                       reference_scorer(options) if scored else None)
    driver.reset(scenery.route)
    while tick.end is End.RUNNING:
        tick = loop.step(driver.command(tick))
    return loop


def test_scoring_goes_round_what_the_route_alone_runs_into(
        monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scenery_module, "_obstacles", one_box(5.0))
    options = LoopOptions(duration=7.0)
    scenery = StreetScenery(moving=False)
    seed = 1  # starts on a straight
    plain = episode(options, scenery, seed, scored=False).log
    assert (plain.end, plain.detail) == (End.COLLISION, "touches box")
    scored = episode(options, scenery, seed, scored=True).log
    assert scored.end is End.COMPLETED
    assert scored.gained > 7.0
    assert max(abs(offset) for offset in scored.offsets) > 0.4


def test_an_episode_is_the_same_twice_and_nothing_leaks_over_a_hundred() -> None:
    options = LoopOptions(camera=SMALL, duration=0.2)
    short = replace(options, duration=0.1)
    scenery = StreetScenery()
    planner = PursuitPlanner(scenery.route, Unicycle(), options, reference_scorer(options))
    plain = PursuitPlanner(scenery.route, Unicycle(), options)
    first = episode(options, scenery, 5, scored=True, planner=planner)
    expected = first.log.as_json(steps=True)
    picture = first.tick and first.tick.seen.image.copy()
    bytes_held = planner.nbytes
    for seed in range(100):
        driver = plain if seed % 5 else planner
        log = episode(short, scenery, seed, scored=True, planner=driver).log
        assert len(log.states) == 2
    again = episode(options, scenery, 5, scored=True, planner=planner)
    assert again.log.as_json(steps=True) == expected
    assert again.tick is not None
    np.testing.assert_array_equal(again.tick.seen.image, picture)
    assert planner.nbytes == bytes_held


def test_streets_differ_by_seed_and_tell_of_what_moves() -> None:
    scenery = StreetScenery()
    options = LoopOptions(camera=camera_of_view(96, 60, 1.75))
    starts, movers = set(), []
    for seed in range(6):
        tick = ClosedLoop(scenery, options).reset(seed)
        starts.add((round(tick.state.x, 3), round(tick.state.y, 3)))
        assert tick.end is End.RUNNING  # nobody starts in an obstacle
        movers += list(tick.seen.movers or ())
    assert len(starts) == 6
    assert movers
    assert all(0.2 < math.hypot(*mover.velocity[:2]) < 8.0 for mover in movers)


# Through a recording.


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> RecordedScenery:
    path = write_drive(tmp_path_factory.mktemp("drive") / "bag", seconds=8.0)
    return open_recorded_scenery(path, ImaginationEngine(GeometricFiller()), Footprint())


def test_the_recorded_way_is_driven_through_its_memory(recorded: RecordedScenery) -> None:
    options = LoopOptions(camera=CAMERA, base_from_camera=recorded.base_from_camera(),
                          duration=5.0, target_speed=0.5)
    loop = ClosedLoop(recorded, options)
    tick = loop.reset(0)
    planner = PursuitPlanner(recorded.route, loop.vehicle, options,
                             options=PursuitOptions(target_speed=0.5))
    while tick.end is End.RUNNING:
        tick = loop.step(planner.command(tick))
        assert not (tick.seen.provenance == Provenance.OBSERVED).any()
    assert loop.log.end is End.COMPLETED
    assert loop.log.gained > 2.0
    assert float(np.mean(loop.log.coverage)) > 0.6


def test_who_leaves_what_was_seen_ends_unsupported(recorded: RecordedScenery) -> None:
    options = LoopOptions(camera=CAMERA, base_from_camera=recorded.base_from_camera(),
                          min_coverage=0.5)
    loop = ClosedLoop(recorded, options)
    tick = loop.reset(0)
    while tick.end is End.RUNNING:
        tick = loop.step(Command(0.0, -0.9))  # turns its back on it
    assert tick.end is End.UNSUPPORTED
    assert "rests on what was seen" in tick.detail
    assert abs(tick.state.yaw - loop.log.states[0].yaw) > 0.3


def test_a_recording_that_stands_still_is_no_loop(tmp_path: Path) -> None:
    path = write_drive(tmp_path / "bag", seconds=1.0, speed=0.0)
    with pytest.raises(ValueError, match="two different|moves 0.00 m"):
        open_recorded_scenery(path, ImaginationEngine(GeometricFiller()), Footprint())


def test_the_program(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    assert main(["loop", "--duration", "0.4", "--episodes", "2", "--seed", "3", "--planner",
                 "plain", "--out", str(out), "--video"]) == 0
    assert "episode 4: completed (time is over)" in capsys.readouterr().out
    logs = json.loads((out / "episodes.json").read_text())
    assert [log["seed"] for log in logs] == [3, 4]
    assert len(logs[0]["steps"]) == 5
    assert (out / "episode_3.mp4").stat().st_size > 0
    assert main(["loop", "--video"]) == 1
    assert "--video needs --out" in capsys.readouterr().err


def test_the_benchmark_drives_both_planners(
        monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    benchmark = importlib.import_module("closed_loop")
    assert benchmark.main(["--episodes", "1", "--seconds", "0.3", "--first-seed", "2"]) == 0
    result = json.loads(capsys.readouterr().out)
    for name in ("scored", "plain"):
        assert result[name]["completed"] == 1.0
        assert result[name]["deterministic"] is True
        assert result[name]["episodes"][0]["seed"] == 2
    assert "| scored | 1 | 100% | 0 | 0 |" in benchmark.table(result)
