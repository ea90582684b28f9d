# SPDX-License-Identifier: Apache-2.0
"""What a scene leaves behind: mesh, cloud, cameras, coverage, videos, pictures and a page.

    mesh.ply observed_mesh.ply cloud.ply    provenance per vertex: 255 observed, 85 imagined
    images/ transforms.json sparse/0/       for nerfstudio, gsplat and COLMAP
    walk.mp4 labels.mp4 player.html         all clips one after the other
    coverage.json coverage.png above.png above_provenance.png index.html
"""

from __future__ import annotations

import html
import json
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from inspatio_ros.files.videos import VideoWriter
from inspatio_ros.geometry import rigid
from inspatio_ros.memory.world_memory import WorldMemory
from inspatio_ros.pipeline.steps import building, fingerprint, is_done, read_record
from inspatio_ros.scene.camera_files import Shot, write_colmap, write_transforms
from inspatio_ros.scene.clip_files import ClipFolder
from inspatio_ros.scene.inputs import SceneInput
from inspatio_ros.scene.panorama import centred_camera, covering_poses, laid_out
from inspatio_ros.scene.pictures import draw_mesh, from_above
from inspatio_ros.scene.reconstruct import (
    FusedMesh,
    fuse_scene,
    write_cloud,
    write_mesh,
)
from inspatio_ros.sensing.observation import Observation, Provenance
from inspatio_ros.viewer.page import PageOverlay, PageSeries, PageVideo, write_page

Image = npt.NDArray[np.uint8]

PAGE, PLAYER, COVERAGE, MESH = "index.html", "player.html", "coverage.json", "mesh.ply"
FRAME_RATE = 12.0
# Rows of the coverage picture, and points of COLMAP's file.
_PANORAMA_HEIGHT, _COLMAP_POINTS = 256, 50_000
_COLORS = {Provenance.OBSERVED: (0, 158, 115), Provenance.MEMORY: (86, 180, 233),
           Provenance.IMAGINED: (230, 159, 0), Provenance.UNKNOWN: (0, 0, 0)}


@dataclass(frozen=True)
class SceneResult:
    """folder of the result; coverage: what coverage.json says; done: made now, else found."""

    folder: Path
    coverage: dict[str, Any]
    made_now: bool


def write_result(
    folder: Path, key: str, source: SceneInput, clips: Sequence[ClipFolder], memory: WorldMemory,
    *, voxel_size: float, max_depth: float, splats: bool, say: Callable[[str], None],
) -> SceneResult:
    """The scene's result in `folder`, made now unless it is there already.

    Raises ReconstructionError, ValueError or OSError.
    """
    whole_key = fingerprint({"scene": key, "clips": [c.record.name for c in clips],
                             "splats": splats})
    if is_done(folder, whole_key):
        record = read_record(folder) or {}
        return SceneResult(folder, dict(record.get("coverage", {})), False)
    with building(folder, whole_key) as (part, notes):
        say("fusing")
        surfaces = [view for clip in clips for view in clip.surfaces()]
        observed, mesh = fuse_scene(source.observations, surfaces, voxel_size, max_depth)
        write_mesh(part / "observed_mesh.ply", observed)
        write_mesh(part / MESH, mesh)
        write_cloud(part / "cloud.ply", mesh.vertices, mesh.colors, mesh.provenance)
        shots = _shots(part, source.observations, clips)
        write_transforms(part / "transforms.json", shots, "cloud.ply")
        chosen = np.unique(np.linspace(0, max(0, len(mesh.vertices) - 1), _COLMAP_POINTS).astype(
            np.int64))[:len(mesh.vertices)]
        write_colmap(part / "sparse" / "0", shots, mesh.vertices[chosen], mesh.colors[chosen])
        coverage, picture = _coverage(source, clips, memory, observed, mesh)
        _write(part / "coverage.png", picture)
        _pictures(part, source, mesh)
        _videos(part, source.name, clips)
        if splats:
            from inspatio_ros.scene.splats import train_splats

            coverage["splats"] = train_splats(part, shots, mesh.vertices, mesh.colors, say=say)
        (part / COVERAGE).write_text(json.dumps(coverage, indent=1) + "\n", encoding="utf-8")
        (part / PAGE).write_text(_page(source, clips, coverage), encoding="utf-8")
        notes["coverage"] = coverage
    return SceneResult(folder, coverage, True)


def _shots(part: Path, real: Sequence[Observation], clips: Sequence[ClipFolder]) -> list[Shot]:
    """The pictures of the scene in images/, the real ones first."""
    images = part / "images"
    images.mkdir()
    shots = []
    for number, seen in enumerate(real):
        name = f"images/real_{number:04d}.png"
        _write(part / name, seen.image)
        shots.append(Shot(name, seen.camera, seen.world_from_camera))
    for clip in clips:
        record = clip.record
        for number in range(len(record)):
            name = f"images/{record.name}_{number:04d}.png"
            _link(clip.folder / f"{number:04d}.png", part / name)
            shots.append(Shot(name, record.camera, record.world_from_camera[number],
                              1.0 - record.backed[number]))
    return shots


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # another disk, or one without links
        shutil.copyfile(source, target)


def _coverage(source: SceneInput, clips: Sequence[ClipFolder], memory: WorldMemory,
              observed: FusedMesh, mesh: FusedMesh) -> tuple[dict[str, Any], Image]:
    """Figures, and a panorama of labels round the middle of the input's cameras."""
    centers = np.stack([o.world_from_camera[:3, 3] for o in source.observations])
    middle = centers[int(np.argmin(np.linalg.norm(centers - centers.mean(0), axis=1)))]
    axes = source.observations[0].world_from_camera[:3, :3]
    camera = centred_camera(128, 128, np.pi / 2)
    views = [rigid.from_rotation(axes, middle) @ pose for pose in covering_poses(camera)]
    labels = []
    for view in views:
        guide = memory.render(camera, view)
        labels.append(np.where(guide.settled, guide.provenance, np.uint8(0)).astype(np.uint8))
    spread = [_Placed(label, camera, pose) for label, pose in zip(
        labels, covering_poses(camera), strict=True)]
    around = laid_out(spread, _PANORAMA_HEIGHT, labels)[0].astype(np.uint8)
    elevation = (0.5 - (np.arange(_PANORAMA_HEIGHT) + 0.5) / _PANORAMA_HEIGHT) * np.pi
    weights = np.broadcast_to(np.cos(elevation)[:, None], around.shape)
    total = float(weights.sum())
    share = {name: round(float(weights[mask].sum()) / total, 4) for name, mask in (
        ("seen", around >= Provenance.MEMORY), ("imagined", around == Provenance.IMAGINED),
        ("unknown", around == Provenance.UNKNOWN))}
    colors = np.zeros((*around.shape, 3), np.uint8)
    for label, color in _COLORS.items():
        colors[around == label] = color
    return {
        "input": {"name": source.name, "kind": source.kind, "views": len(source.observations),
                  "note": source.note},
        "sphere": share,
        "clips": [{"name": c.record.name, "frames": len(c.record),
                   "backed": round(float(np.mean(c.record.backed)), 4),
                   "least_backed": round(float(np.min(c.record.backed)), 4)} for c in clips],
        "surface_m2": {"observed": round(observed.area(), 2), "whole": round(mesh.area(), 2),
                       "imagined": round(mesh.area(Provenance.IMAGINED), 2)},
        "vertices": len(mesh.vertices), "triangles": len(mesh.triangles),
    }, colors


@dataclass(frozen=True)
class _Placed:
    image: Image
    camera: Any
    world_from_camera: npt.NDArray[np.float64]


def _pictures(part: Path, source: SceneInput, mesh: FusedMesh) -> None:
    first = source.observations[0]
    up = -np.stack([o.world_from_camera[:3, 1] for o in source.observations]).mean(0)
    up /= np.linalg.norm(up)
    camera, pose = from_above(mesh, up, first.world_from_camera[:3, 2])
    _write(part / "above.png", draw_mesh(mesh, camera, pose, behind=False))
    _write(part / "above_provenance.png",
           draw_mesh(mesh, camera, pose, tinted=True, behind=False))
    _write(part / "input_view.png", draw_mesh(mesh, first.camera, first.world_from_camera))


def _videos(part: Path, name: str, clips: Sequence[ClipFolder]) -> None:
    if not clips:
        return
    with VideoWriter(part / "walk.mp4", FRAME_RATE) as walk, \
            VideoWriter(part / "labels.mp4", FRAME_RATE, crf=10) as labels:
        for clip in clips:
            for number in range(len(clip.record)):
                walk.write(clip.image(number))
                labels.write(np.repeat(clip.labels(number)[..., None], 3, axis=2))
    backed = [share for clip in clips for share in clip.record.backed]
    write_page(part, [PageVideo("walk", "Imagined", "walk.mp4")], fps=FRAME_RATE,
               frames=len(backed), title=name, subtitle="all clips, one after the other",
               overlays=[PageOverlay("labels", "Provenance", "labels.mp4", "walk", "p", "labels")],
               series=[PageSeries("backed by geometry", backed)], name=PLAYER)


def _page(source: SceneInput, clips: Sequence[ClipFolder], coverage: dict[str, Any]) -> str:
    rows = "".join(
        f"<tr><td>{html.escape(c['name'])}</td><td>{c['frames']}</td>"
        f"<td>{100 * c['backed']:.0f} %</td></tr>" for c in coverage["clips"])
    sphere, area = coverage["sphere"], coverage["surface_m2"]
    note = f"<p>{html.escape(source.note)}</p>" if source.note else ""
    player = ('<p><a href="player.html">All clips, with provenance</a></p>' if clips else "")
    return f"""<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>{html.escape(source.name)}</title>
<style>body{{font:15px/1.5 sans-serif;max-width:1000px;margin:2em auto;padding:0 1em}}
img{{max-width:100%;display:block;margin:.5em 0}}td,th{{padding:.1em 1em .1em 0;text-align:left}}
figure{{margin:1em 0}}</style></head><body>
<h1>{html.escape(source.name)}</h1>
<p>From {coverage['input']['views']} views ({html.escape(source.kind)}).
Around the middle of the cameras {100 * sphere['seen']:.0f} % was seen,
{100 * sphere['imagined']:.0f} % imagined, {100 * sphere['unknown']:.0f} % is unknown.
Surface: {area['observed']:.1f} m&sup2; observed, {area['imagined']:.1f} m&sup2; imagined.</p>
{note}{player}
<figure><img src="above.png" alt="the mesh from above"><figcaption>The mesh.</figcaption></figure>
<figure><img src="above_provenance.png" alt="the mesh, imagined surface in orange">
<figcaption>Imagined surface in orange.</figcaption></figure>
<figure><img src="coverage.png" alt="coverage"><figcaption>All round: seen blue, imagined orange,
unknown black.</figcaption></figure>
<table><tr><th>clip</th><th>frames</th><th>backed by what was seen</th></tr>{rows}</table>
<p>Files: <a href="mesh.ply">mesh.ply</a>, <a href="observed_mesh.ply">observed_mesh.ply</a>,
<a href="cloud.ply">cloud.ply</a>, <a href="transforms.json">transforms.json</a>, sparse/0,
<a href="coverage.json">coverage.json</a></p>
</body></html>
"""


def _write(path: Path, image: Image) -> None:
    done, data = cv2.imencode(".png", np.ascontiguousarray(image[..., ::-1]))
    if not done:
        raise OSError(f"{path}: cannot be encoded")
    path.write_bytes(data.tobytes())
