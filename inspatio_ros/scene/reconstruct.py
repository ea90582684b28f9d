# SPDX-License-Identifier: Apache-2.0
"""From views with depth to a fused cloud and a mesh (Open3D), seen and imagined told apart.

Truncated signed distances (Curless and Levoy 1996) on a hashed grid, Open3D's `VoxelBlockGrid`
(its older `ScalableTSDFVolume` gives nothing in Open3D 0.20). Imagined surface is added only where
no real view contradicts it.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.spatial import cKDTree

from inspatio_ros.geometry import rigid
from inspatio_ros.memory.surfaces import close_gaps, nearest_and_edges
from inspatio_ros.sensing.observation import Observation, Provenance

Array = npt.NDArray[np.float64]
Float = npt.NDArray[np.float32]
Image = npt.NDArray[np.uint8]

# Truncation in voxels, voxels along a block, blocks to begin with (more come as needed), and the
# weight of a voxel that one view has seen, less rounding.
_TRUNCATION, _BLOCK, _BLOCKS, _SEEN_ONCE = 3.0, 16, 4000, 0.5
# Relative depth by which an imagined point may lie before or behind what a view measured.
_CONTRADICTS = 0.03
# Imagined pixels trusted less than this are no surface.
MIN_TRUST = 0.2


class ReconstructionError(RuntimeError):
    """Why no surface can be made."""


@dataclass(frozen=True)
class FusedMesh:
    """vertices [V, 3] m, triangles int [T, 3], colors uint8 [V, 3], provenance uint8 [V] of
    `Provenance`: OBSERVED where real views alone give the surface, else IMAGINED."""

    vertices: Array
    triangles: npt.NDArray[np.int64]
    colors: Image
    provenance: npt.NDArray[np.uint8]

    def area(self, label: Provenance | None = None) -> float:
        """Square metres, of the triangles all of whose corners carry `label`."""
        a, b, c = (self.vertices[self.triangles[:, i]] for i in range(3))
        areas = np.linalg.norm(np.cross(b - a, c - a), axis=1) / 2
        if label is not None:
            areas = areas[(self.provenance[self.triangles] == label).all(1)]
        return float(areas.sum())

    def sampled(self, spacing: float, seed: int = 0,
                label: Provenance | None = None) -> Array:
        """Points [P, 3] spread over the surface, one a square of `spacing` m on average."""
        a, b, c = (self.vertices[self.triangles[:, i]] for i in range(3))
        areas = np.linalg.norm(np.cross(b - a, c - a), axis=1) / 2
        if label is not None:
            areas = np.where((self.provenance[self.triangles] == label).all(1), areas, 0.0)
        total = float(areas.sum())
        if total <= 0:
            return np.zeros((0, 3))
        rng = np.random.default_rng(seed)
        count = max(1, int(total / spacing**2))
        chosen = rng.choice(len(areas), count, p=areas / total)
        u, v = rng.random((2, count, 1))
        u, v = np.where(u + v > 1, 1 - u, u), np.where(u + v > 1, 1 - v, v)
        return np.asarray(a[chosen] + u * (b - a)[chosen] + v * (c - a)[chosen])


def open3d() -> Any:
    """Open3D. Raises ReconstructionError saying how to install what is missing.

    Its library needs libusb-1.0, which a machine without a desktop may lack; the wheel
    `libusb-package` brings it along.
    """
    try:
        import open3d as module
    except ImportError as first:
        if "libusb" not in str(first):
            raise ReconstructionError(
                "scenes are fused with Open3D: pip install 'inspatio_ros[scene]'") from first
        try:
            import libusb_package

            ctypes.CDLL(str(libusb_package.get_library_path()), ctypes.RTLD_GLOBAL)
            import open3d as module
        except (ImportError, OSError):
            raise ReconstructionError(
                f"Open3D does not start: {first}; install it (apt-get install libusb-1.0-0, or "
                "pip install libusb-package)") from first
    return module


def fuse(views: Iterable[Observation], voxel_size: float, max_depth: float = 20.0) -> FusedMesh:
    """The surface of views with depth; all of it counts as observed.

    voxel_size: m. max_depth: m, farther depths are left out. Raises ReconstructionError when no
    view has a depth or Open3D is not there.
    """
    o3d = open3d()
    kind = o3d.core.float32
    grid = o3d.t.geometry.VoxelBlockGrid(
        ("tsdf", "weight", "color"), (kind, kind, kind), ((1,), (1,), (3,)), voxel_size, _BLOCK,
        _BLOCKS, o3d.core.Device("CPU:0"))
    any_depth = False
    for view in views:
        depth = surface_depth(view.depth, max_depth)
        if not (depth > 0).any():
            continue
        any_depth = True
        image = o3d.t.geometry.Image(o3d.core.Tensor(view.image.astype(np.float32)))
        picture = o3d.t.geometry.Image(o3d.core.Tensor(depth))
        # It finds a voxel's pixel by cutting off the fraction, so its pixel middles are at .5:
        # without the shift surfaces lie half a pixel aside, centimetres on a floor.
        shifted = replace(view.camera, cx=view.camera.cx + 0.5, cy=view.camera.cy + 0.5)
        matrix = o3d.core.Tensor(shifted.matrix)
        camera_from_world = o3d.core.Tensor(
            np.ascontiguousarray(rigid.invert(view.world_from_camera)))
        try:
            blocks = grid.compute_unique_block_coordinates(
                picture, matrix, camera_from_world, 1.0, max_depth, _TRUNCATION)
        except RuntimeError as error:
            # It looks at every fourth pixel only: a few scattered ones may not be among them.
            if "No block is touched" in str(error):
                continue
            raise
        grid.integrate(blocks, picture, image, matrix, matrix, camera_from_world, 1.0, max_depth,
                       _TRUNCATION)
    if not any_depth:
        raise ReconstructionError("no view has a depth: nothing to fuse")
    mesh = grid.extract_triangle_mesh(_SEEN_ONCE)
    vertices, colors, triangles = in_order(
        mesh.vertex.positions.numpy().astype(np.float64),
        np.rint(mesh.vertex.colors.numpy()).clip(0, 255).astype(np.uint8),
        mesh.triangle.indices.numpy().astype(np.int64))
    return FusedMesh(vertices, triangles, colors,
                     np.full(len(vertices), Provenance.OBSERVED, np.uint8))


def in_order(vertices: Array, colors: npt.NDArray[np.uint8], triangles: npt.NDArray[np.int64]
             ) -> tuple[Array, npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """The same mesh in an order that follows from its content: vertices [N, 3], colors [N, 3],
    triangles [M, 3].

    Open3D's threads leave theirs in the order in which they happen to come. Equal vertices become
    one; every triangle begins with its first vertex, its side kept.
    """
    rows, place = np.unique(np.hstack([vertices, colors]), axis=0, return_inverse=True)
    moved = place.reshape(-1)[triangles]
    first = np.argmin(moved, axis=1)
    turned = np.take_along_axis(moved, (first[:, None] + np.arange(3)) % 3, axis=1)
    ordered = turned[np.lexsort(turned.T[::-1])]
    return rows[:, :3].copy(), rows[:, 3:].astype(np.uint8), ordered.astype(np.int64)


def surface_depth(depth: Float, max_depth: float) -> Float:
    """Depth with 0 where unknown, too far, or at an edge where pixels mix two surfaces."""
    closed = close_gaps(depth)
    _, edges = nearest_and_edges(closed)
    good = (closed > 0) & (closed <= max_depth) & ~edges
    return np.where(good, closed, np.float32(0)).astype(np.float32)


def fuse_scene(real: Sequence[Observation], imagined: Sequence[Observation], voxel_size: float,
               max_depth: float = 20.0, min_trust: float = MIN_TRUST) -> tuple[FusedMesh,
                                                                              FusedMesh]:
    """(observed, whole): the surface of the real views, and with the imagined ones' added.

    imagined: depth of imagined pixels only, `confidence` their trust. What a real view contradicts
    is left out: what lies before something it measured, and what doubles it. Raises
    ReconstructionError.
    """
    observed = fuse(real, voxel_size, max_depth)
    check = RealViews(real)
    added = [replace(view, depth=check.uncontradicted(view, min_trust)) for view in imagined]
    added = [view for view in added if (view.depth > 0).any()]
    if not added:
        return observed, observed
    whole = fuse([*real, *added], voxel_size, max_depth)
    near = np.zeros(len(whole.vertices), np.bool_)
    if len(observed.vertices):
        distance, _ = cKDTree(observed.vertices).query(whole.vertices)
        near = distance < 1.5 * voxel_size
    labels = np.where(near, np.uint8(Provenance.OBSERVED), np.uint8(Provenance.IMAGINED))
    return observed, replace(whole, provenance=labels.astype(np.uint8))


class RealViews:
    """What real views say of imagined points."""

    def __init__(self, views: Sequence[Observation], most: int = 48) -> None:
        step = max(1, -(-len(views) // most))
        self._views = []
        for view in views[::step]:
            self._views.append(
                (view, close_gaps(view.depth), rigid.invert(view.world_from_camera)))

    def uncontradicted(self, imagined: Observation, min_trust: float) -> Float:
        """The depth of imagined pixels, NaN where trust is low or a real view knows better."""
        good = imagined.depth > 0
        if imagined.confidence is not None:
            good &= imagined.confidence >= min_trust
        points = rigid.transform_points(
            imagined.world_from_camera, imagined.camera.unproject(imagined.depth)[good])
        wrong = np.zeros(len(points), np.bool_)
        for view, depth, camera_from_world in self._views:
            pixels, z = view.camera.project(rigid.transform_points(camera_from_world, points))
            with np.errstate(invalid="ignore"):
                inside = ((z > 0) & (pixels >= -0.5).all(-1)
                          & (pixels < np.array(view.camera.size) - 0.5).all(-1))
            at = np.rint(pixels[inside]).astype(np.int64).clip(
                0, np.array(view.camera.size) - 1)
            measured = depth[at[:, 1], at[:, 0]]
            # Before what was measured there is air; on it, the real surface itself.
            wrong[np.flatnonzero(inside)[z[inside] < measured * (1 + _CONTRADICTS)]] = True
        kept = np.full(imagined.depth.shape, np.nan, np.float32)
        places = np.flatnonzero(good)[~wrong]
        kept.reshape(-1)[places] = imagined.depth.reshape(-1)[places]
        return kept


def f_score(points: Array, truth: Array, distance: float) -> dict[str, float]:
    """precision, recall and F of points [P, 3] against true ones [Q, 3] at `distance` m.

    Knapitsch et al., Tanks and Temples, 2017. Zero where either is empty.
    """
    if len(points) == 0 or len(truth) == 0:
        return {"precision": 0.0, "recall": 0.0, "f": 0.0}
    precision = float((cKDTree(truth).query(points)[0] <= distance).mean())
    recall = float((cKDTree(points).query(truth)[0] <= distance).mean())
    total = precision + recall
    return {"precision": precision, "recall": recall,
            "f": 2 * precision * recall / total if total > 0 else 0.0}


def write_mesh(path: Path, mesh: FusedMesh) -> None:
    """A binary PLY with colours and, per vertex, provenance. Raises OSError."""
    rows = _vertex_rows(mesh.vertices, mesh.colors, mesh.provenance)
    faces = np.empty(len(mesh.triangles), [("n", "u1"), ("i", "<i4", (3,))])
    faces["n"], faces["i"] = 3, mesh.triangles
    header = [*_vertex_header(len(rows)), f"element face {len(faces)}",
              "property list uchar int vertex_indices", "end_header", ""]
    path.write_bytes("\n".join(header).encode("ascii") + rows.tobytes() + faces.tobytes())


def write_cloud(path: Path, points: Array, colors: Image,
                provenance: npt.NDArray[np.uint8]) -> None:
    """A binary PLY of points [P, 3] with colours and provenance. Raises OSError."""
    header = [*_vertex_header(len(points)), "end_header", ""]
    path.write_bytes("\n".join(header).encode("ascii")
                     + _vertex_rows(points, colors, provenance).tobytes())


def _vertex_rows(points: Array, colors: Image, provenance: npt.NDArray[np.uint8]) -> Any:
    fields = [*((n, "<f4") for n in "xyz"),
              *((n, "u1") for n in ("red", "green", "blue", "provenance"))]
    rows = np.empty(len(points), fields)
    for axis, name in enumerate("xyz"):
        rows[name] = points[:, axis]
    for channel, name in enumerate(("red", "green", "blue")):
        rows[name] = colors[:, channel]
    rows["provenance"] = provenance
    return rows


def _vertex_header(count: int) -> list[str]:
    return ["ply", "format binary_little_endian 1.0",
            "comment provenance: 255 observed, 170 memory, 85 imagined",
            f"element vertex {count}", *(f"property float {n}" for n in "xyz"),
            *(f"property uchar {n}" for n in ("red", "green", "blue", "provenance"))]
