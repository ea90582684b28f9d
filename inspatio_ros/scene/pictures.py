# SPDX-License-Identifier: Apache-2.0
"""Pictures of a reconstructed scene, by casting rays at its mesh; no display and no GPU needed."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from inspatio_ros.geometry import rigid
from inspatio_ros.geometry.camera import PinholeCamera
from inspatio_ros.scene.reconstruct import FusedMesh, open3d
from inspatio_ros.sensing.observation import Provenance

Array = npt.NDArray[np.float64]
Image = npt.NDArray[np.uint8]

_BACKGROUND = (24, 24, 28)
# Share of the imagined surface's tint; colour-blind safe orange (Okabe and Ito 2008).
_TINT, _IMAGINED = 0.45, (230, 159, 0)


def draw_mesh(mesh: FusedMesh, camera: PinholeCamera, world_from_camera: Array, *,
              tinted: bool = False, behind: bool = True) -> Image:
    """The mesh from a camera, uint8 RGB [H, W, 3]; tinted: imagined surface in orange.

    behind: draw back faces too; without them one looks into rooms from outside.
    """
    o3d = open3d()
    scene = o3d.t.geometry.RaycastingScene()
    image = np.empty((camera.height, camera.width, 3), np.uint8)
    image[:] = _BACKGROUND
    if len(mesh.triangles) == 0:
        return image
    triangles = mesh.triangles
    rays = camera.rays() @ world_from_camera[:3, :3].T
    origin = np.broadcast_to(world_from_camera[:3, 3], rays.shape)
    if not behind:
        a, b, c = (mesh.vertices[triangles[:, i]] for i in range(3))
        normals = np.cross(b - a, c - a)
        triangles = triangles[np.einsum("ij,ij->i", normals, world_from_camera[:3, 3] - a) > 0]
        if len(triangles) == 0:
            return image
    scene.add_triangles(o3d.core.Tensor(mesh.vertices.astype(np.float32)),
                        o3d.core.Tensor(triangles.astype(np.uint32)))
    cast = scene.cast_rays(o3d.core.Tensor(
        np.concatenate([origin, rays], axis=-1).astype(np.float32)))
    hit = np.isfinite(cast["t_hit"].numpy())
    corners = triangles[cast["primitive_ids"].numpy()[hit]]
    u, v = np.moveaxis(cast["primitive_uvs"].numpy()[hit], -1, 0)
    weights = np.stack([1 - u - v, u, v], axis=-1)
    colors = (mesh.colors[corners] * weights[..., None]).sum(1)
    if tinted:
        imagined = (mesh.provenance[corners] != Provenance.OBSERVED).any(1)
        colors[imagined] += _TINT * (np.array(_IMAGINED) - colors[imagined])
    image[hit] = np.clip(np.rint(colors), 0, 255)
    return image


def from_above(mesh: FusedMesh, up: Array, forward: Array, width: int = 720,
               pitch: float = math.radians(50.0)) -> tuple[PinholeCamera, Array]:
    """A camera that sees the whole mesh from above and behind: (camera, world_from_camera)."""
    low, high = np.percentile(mesh.vertices, [2, 98], axis=0)
    middle, size = (low + high) / 2, float(np.linalg.norm(high - low))
    level = forward - up * float(forward @ up)
    level /= max(float(np.linalg.norm(level)), 1e-9)
    look = math.cos(pitch) * level - math.sin(pitch) * up
    right = np.cross(look, up)
    right /= np.linalg.norm(right)
    axes = np.stack([right, np.cross(look, right), look], axis=1)
    camera = PinholeCamera(width, width * 2 // 3, width, width, (width - 1) / 2,
                           (width * 2 // 3 - 1) / 2)
    return camera, rigid.from_rotation(axes, middle - look * size * 1.15)
