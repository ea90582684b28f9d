# SPDX-License-Identifier: Apache-2.0
"""How good the geometry of whole scenes is; prints JSON.

    python benchmarks/scenes.py [RECORDING] [--last 80] [--every 8] [--preset geometric]

A recording with measured depth: every n-th of its last frames is the input of a scene. The truth
is the surface fused from all of those frames. F-scores at --distance m of the scene's mesh and of
the mesh fused from the input frames alone, against it. Only points that the recording can judge
count for the precision: those that some frame of it looks at, before or on what it measured; what
lies outside its pictures or hidden in all of them is neither right nor wrong. Then the analytic
room: the same with its exact depth, and the F-score of what was observed. At last a full turn in
place from a single view: PSNR against the truth of its first and its last picture.
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from inspatio_ros.evaluation.metrics import psnr
from inspatio_ros.evaluation.recorded_run import fitted
from inspatio_ros.files.recordings import open_recording, recording_name
from inspatio_ros.geometry import rigid
from inspatio_ros.geometry.trajectory import CameraTrajectory
from inspatio_ros.imagination.backends import BACKENDS, GEOMETRIC, BackendOptions, make_backend
from inspatio_ros.imagination.engine import ImaginationEngine
from inspatio_ros.imagination.request import ImaginationRequest
from inspatio_ros.memory.world_memory import MemoryOptions, WorldMemory
from inspatio_ros.scene.clip_files import ClipFolder
from inspatio_ros.scene.inputs import SceneInput
from inspatio_ros.scene.panorama import centred_camera, turned
from inspatio_ros.scene.reconstruct import FusedMesh, f_score, fuse, fuse_scene
from inspatio_ros.scene.run import SceneOptions, scene_of
from inspatio_ros.sensing.observation import Observation, Provenance
from inspatio_ros.worlds.room import room


def measure(name: str, everything: Sequence[Observation], every: int,
            options: argparse.Namespace, clips: tuple[str, ...]) -> dict[str, object]:
    """F-scores of a scene from every n-th observation against the surface of all of them."""
    chosen = everything[::every]
    source = SceneInput(name, "recording", tuple(chosen), digest=f"{name}{every}")
    scene = SceneOptions(backend=BackendOptions(options.preset), clips=clips,
                         voxel_size=options.voxel, max_depth=options.max_depth,
                         wander=options.wander)
    truth = fuse(everything, options.voxel, options.max_depth).sampled(options.voxel)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        result = scene_of(source, folder, scene)
        made = [ClipFolder(p) for p in sorted((folder / "clips").iterdir())]
        surfaces = [view for clip in made for view in clip.surfaces()]
        figures: dict[str, object] = {
            "recording": name, "frames": len(everything), "input_frames": len(chosen),
            "clips": len(made), "surface_m2": result.coverage["surface_m2"],
            "sphere": result.coverage["sphere"]}
        for trust in options.trusts:
            observed, whole = fuse_scene(chosen, surfaces, options.voxel, options.max_depth,
                                         trust)
            figures["input_alone"] = _score(observed, truth, everything, options.distance)
            imagined = whole.sampled(options.voxel, label=Provenance.IMAGINED)
            judged = judgeable(imagined, everything, options.distance)
            figures[f"scene_trust_{trust:g}"] = {
                **_score(whole, truth, everything, options.distance),
                "imagined_judged": round(float(judged.mean()) if len(judged) else 0.0, 4),
                "imagined_precision": round(f_score(
                    imagined[judged], truth, options.distance)["precision"], 4)}
    return figures


def _score(mesh: FusedMesh, truth: np.ndarray, views: Sequence[Observation],
           distance: float) -> dict[str, float]:
    points = mesh.sampled(0.02)
    found = f_score(points[judgeable(points, views, distance)], truth, distance)
    return {name: round(value, 4) for name, value in found.items()}


def judgeable(points: np.ndarray, views: Sequence[Observation], distance: float) -> np.ndarray:
    """Which points [P, 3] some view looks at, before or on what it measured, bool [P]."""
    judged = np.zeros(len(points), np.bool_)
    for view in views:
        pixels, z = view.camera.project(
            rigid.transform_points(rigid.invert(view.world_from_camera), points))
        with np.errstate(invalid="ignore"):
            inside = ((z > 0) & (pixels >= -0.5).all(-1)
                      & (pixels < np.array(view.camera.size) - 0.5).all(-1))
        at = np.rint(pixels[inside]).astype(np.int64).clip(0, np.array(view.camera.size) - 1)
        measured = view.depth[at[:, 1], at[:, 0]]
        judged[np.flatnonzero(inside)[z[inside] <= measured + distance]] = True
    return judged


def room_views(count: int, width: int) -> list[Observation]:
    """A walk in the analytic room."""
    world, camera = room(21, moving=False), centred_camera(width, width * 5 // 8, 1.3)
    seen = []
    for number, share in enumerate(np.linspace(0, 1, count)):
        pose = rigid.from_euler(0, 0, 1.2 * share, (-1.8 + 1.4 * share, -1.4, 1.2)) \
            @ rigid.BODY_FROM_OPTICAL
        view = world.render(camera, pose)
        seen.append(Observation(number, view.image, view.depth, camera, pose))
    return seen


def full_turn(options: argparse.Namespace) -> dict[str, float]:
    """First and last picture of a full turn in place from one view of the room."""
    start = room_views(2, options.width)[0]
    memory = WorldMemory(MemoryOptions(capacity=500_000, max_age=1e9, keep_imagined=True))
    memory.integrate(start)
    poses = np.array([start.world_from_camera @ turned(2 * math.pi * i / 96, 0.0)
                      for i in range(97)])
    engine = ImaginationEngine(make_backend(BackendOptions(options.preset)))
    request = ImaginationRequest(start.camera, CameraTrajectory.from_poses(poses, 12.0), (start,))
    frames = [f for block in engine.imagine(request, memory) for f in block.frames]
    engine.close()
    return {"first_db": round(psnr(frames[0].image, start.image), 2),
            "last_db": round(psnr(frames[-1].image, start.image), 2)}


def parse(words: list[str] | None = None) -> argparse.Namespace:
    """The arguments."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("recording", nargs="?", type=Path)
    parser.add_argument("--preset", default=GEOMETRIC, choices=BACKENDS)
    parser.add_argument("--last", type=int, default=80, help="frames; 0 for all")
    parser.add_argument("--every", type=int, default=8)
    parser.add_argument("--width", type=int, default=208, help="px")
    parser.add_argument("--voxel", type=float, default=0.03, help="m")
    parser.add_argument("--distance", type=float, default=0.05, help="m")
    parser.add_argument("--max-depth", type=float, default=8.0, help="m")
    parser.add_argument("--wander", type=int, default=2)
    parser.add_argument("--trusts", type=float, nargs="+", default=[0.2, 0.3, 0.4])
    return parser.parse_args(words)


def run(options: argparse.Namespace) -> dict[str, object]:
    """All figures."""
    found: dict[str, object] = {"preset": options.preset}
    if options.recording is not None:
        with open_recording(options.recording) as observations:
            seen = [fitted(o, options.width, round(options.width * o.camera.height
                                                   / o.camera.width)) for o in observations]
        found["recording"] = measure(recording_name(options.recording), seen[-options.last:],
                                     options.every, options, ())
    views = room_views(32, options.width)
    found["room"] = measure("room", views, options.every, options, ())
    exact = np.concatenate([rigid.transform_points(
        o.world_from_camera, o.camera.unproject(o.depth)[o.depth > 0]) for o in views[::4]])
    found["room_observed"] = _score(fuse(views, options.voxel, options.max_depth), exact, views,
                                    options.distance)
    found["full_turn"] = full_turn(options)
    return found


if __name__ == "__main__":
    print(json.dumps(run(parse()), indent=1))
