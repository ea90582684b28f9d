# SPDX-License-Identifier: Apache-2.0
"""Cameras of pictures in the files that other tools read: nerfstudio and gsplat, COLMAP.

nerfstudio's transforms.json: world_from_camera in OpenGL axes (x right, y up, z backwards).
COLMAP's text model: camera_from_world as quaternion w x y z and translation, optical axes. Both
put the middle of the first pixel at (0.5, 0.5), half a pixel from ours.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from inspatio_ros.geometry import rigid
from inspatio_ros.geometry.camera import PinholeCamera

Array = npt.NDArray[np.float64]
_OPENGL = np.diag([1.0, -1.0, -1.0, 1.0])


@dataclass(frozen=True)
class Shot:
    """A picture file, relative to the scene's folder, with its camera.

    imagined: share of its pixels that were not seen, [0, 1].
    """

    file: str
    camera: PinholeCamera
    world_from_camera: Array
    imagined: float = 0.0


def write_transforms(path: Path, shots: Sequence[Shot], cloud: str = "") -> None:
    """nerfstudio's transforms.json, intrinsics per frame. cloud: PLY to start splats from."""
    frames = []
    for shot in shots:
        camera = shot.camera
        frames.append({
            "file_path": shot.file, "w": camera.width, "h": camera.height, "fl_x": camera.fx,
            "fl_y": camera.fy, "cx": camera.cx + 0.5, "cy": camera.cy + 0.5,
            "transform_matrix": (shot.world_from_camera @ _OPENGL).tolist(),
            "imagined": round(shot.imagined, 4)})
    content: dict[str, object] = {"camera_model": "PINHOLE", "frames": frames}
    if cloud:
        content["ply_file_path"] = cloud
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def read_transforms(path: Path) -> list[Shot]:
    """What `write_transforms` wrote."""
    content = json.loads(path.read_text(encoding="utf-8"))
    return [Shot(f["file_path"], PinholeCamera(f["w"], f["h"], f["fl_x"], f["fl_y"],
                                               f["cx"] - 0.5, f["cy"] - 0.5),
                 np.array(f["transform_matrix"]) @ _OPENGL, f["imagined"])
            for f in content["frames"]]


def write_colmap(folder: Path, shots: Sequence[Shot], points: Array,
                 colors: npt.NDArray[np.uint8]) -> None:
    """COLMAP's cameras.txt, images.txt and points3D.txt; points [P, 3] m, colors uint8 [P, 3]."""
    folder.mkdir(parents=True, exist_ok=True)
    cameras: dict[PinholeCamera, int] = {}
    images = []
    for number, shot in enumerate(shots, 1):
        camera = cameras.setdefault(shot.camera, len(cameras) + 1)
        view = rigid.invert(shot.world_from_camera)
        x, y, z, w = rigid.to_quaternion(view)
        numbers = " ".join(f"{v:.9g}" for v in (w, x, y, z, *view[:3, 3]))
        # The second line of an image lists its points: none are tracked here.
        images.append(f"{number} {numbers} {camera} {shot.file}\n\n")
    rows = [f"{number} PINHOLE {c.width} {c.height} {c.fx:.9g} {c.fy:.9g} {c.cx + 0.5:.9g} "
            f"{c.cy + 0.5:.9g}\n" for c, number in cameras.items()]
    (folder / "cameras.txt").write_text("".join(rows), encoding="ascii")
    (folder / "images.txt").write_text("".join(images), encoding="utf-8")
    with (folder / "points3D.txt").open("w", encoding="ascii") as file:
        for number, (p, c) in enumerate(zip(points, colors, strict=True), 1):
            file.write(f"{number} {p[0]:.6g} {p[1]:.6g} {p[2]:.6g} {c[0]} {c[1]} {c[2]} 0\n")
