# SPDX-License-Identifier: Apache-2.0
"""A small slice of the benchmarks of revisits and of scenes."""

from __future__ import annotations

import importlib.util
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from inspatio_ros.scene.reconstruct import ReconstructionError, open3d
from support.data import ROOT


def script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"benchmark_{name}",
                                                  ROOT / f"benchmarks/{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_with_the_memory_what_was_imagined_is_found_again() -> None:
    revisit = script("revisit")
    found: dict[str, Any] = revisit.run(revisit.parse([
        "--loops", "3", "--frames", "32", "--width", "64", "--worlds", "11"]))
    room = found["room_11"]
    kept = room["geometric"]
    assert kept["return_minus_first"] >= -0.5
    assert abs(kept["last_loop_minus_first_loop"]) <= 0.5
    assert len(set(kept["bytes"][1:])) == 1
    assert kept["unchanged"] > room["none"]["unchanged"] + 3.0
    assert kept["first"] > room["none"]["first"]
    assert 0.3 < kept["contrast"] < 1.3


def test_revisits_tell_what_holds_a_model_to_its_source() -> None:
    revisit = script("revisit")
    words = ["--preset", "tiny", "--loops", "1", "--frames", "36", "--width", "64",
             "--worlds", "11", "--memories", "seen"]
    plain = revisit.run(revisit.parse(words))
    held = revisit.run(revisit.parse([*words, "--reanchor", "1", "--keyframes", "4"]))
    assert (held["reanchor"], held["keyframes"]) == (1.0, 4)
    assert held["room_11"]["seen"] != plain["room_11"]["seen"]


def test_a_scene_of_the_room_scores() -> None:
    try:
        open3d()
    except ReconstructionError as error:
        pytest.skip(str(error))
    scenes = script("scenes")
    options = scenes.parse(["--width", "80", "--voxel", "0.05", "--trusts", "0.4",
                            "--wander", "0"])
    views = scenes.room_views(4, 80)  # turning to the left; the first one is the input
    found: dict[str, Any] = scenes.measure("room", views, 4, options, ("left",))
    assert found["scene_trust_0.4"]["recall"] > found["input_alone"]["recall"]
    assert found["input_alone"]["precision"] > 0.85
    # Points behind the camera or hidden are not judged, those on the surface are.
    behind = np.array([[-3.5, -1.4, 1.2]])
    assert not scenes.judgeable(behind, views, 0.05).any()
    on = views[0].camera.unproject(views[0].depth)[20:30, 20:60].reshape(-1, 3)
    world = on @ views[0].world_from_camera[:3, :3].T + views[0].world_from_camera[:3, 3]
    assert scenes.judgeable(world, views, 0.05).all()
