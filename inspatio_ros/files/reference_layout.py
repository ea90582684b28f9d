# SPDX-License-Identifier: Apache-2.0
"""The public release's folders, so that either program can continue the other's work.

Beside the videos of an input folder lie `new.json` (captions) and `new_vggt/`, in which each video
has two folders (inspatio/inspatio-world, its caption, depth and render steps):

    <name>_da3_tmp/  frames/%04d.jpg, depth/%04d.png, frames_pcd/%04d.ply, point_cloud.ply,
                     frame_bboxes.txt, intrinsic.txt, extrinsic.txt, perhaps ground_mask_<i>.png
    <name>/          depth/000000.png, metadata.txt, intrinsics.txt, extrinsics.txt,
                     render/render_offline.mp4, render/mask_offline.mp4

depth/%04d.png holds float32 z-depth in metres as the four bytes of an RGBA pixel, little endian;
0 is unknown. point_cloud.ply is the first frame's cloud, frame_bboxes.txt has the least and
greatest x, y, z of each frame's. The release also writes depth_half/ and images/, which nothing
reads; we do not. Text files hold camera matrices of the depth pictures, three rows a frame, and
camera_from_world, three rows of four a frame.
"""

from __future__ import annotations

import json
import os
from array import array
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from inspatio_ros.geometry import rigid
from inspatio_ros.geometry.camera import PinholeCamera
from inspatio_ros.sensing.observation import Observation

Array = npt.NDArray[np.float64]
Depth = npt.NDArray[np.float32]
Picture = npt.NDArray[np.uint8]

CAPTIONS = "new.json"
GEOMETRY = "new_vggt"
# Visually lossless, and what the release's own frames are kept as.
_JPEG = (cv2.IMWRITE_JPEG_QUALITY, 97)
# Float bytes hardly compress: more effort costs time and saves nothing.
_PNG = (cv2.IMWRITE_PNG_COMPRESSION, 1)


class LayoutError(ValueError):
    """A folder or file of the release's layout that cannot be read; names it and the value."""


def depth_to_rgba(depth: Depth) -> Picture:
    """The bytes of z-depth float32 [H, W] as a picture uint8 RGBA [H, W, 4], bit by bit."""
    little = np.ascontiguousarray(depth, dtype="<f4")
    return little.view(np.uint8).reshape(*depth.shape, 4)


def rgba_to_depth(rgba: Picture) -> Depth:
    """z-depth float32 [H, W] of the picture that `depth_to_rgba` made."""
    return np.ascontiguousarray(rgba).view("<f4")[..., 0].astype(np.float32)


def write_depth_png(path: str | Path, depth: Depth) -> None:
    """Write z-depth float32 [H, W] m, NaN unknown (0 in the file). Raises OSError."""
    rgba = depth_to_rgba(np.where(depth > 0, depth, np.float32(0)))
    _write_picture(Path(path), cv2.cvtColor(rgba, cv2.COLOR_RGBA2BGRA), _PNG)


def read_depth_png(path: str | Path) -> Depth:
    """z-depth float32 [H, W] m, NaN where the file has no positive finite value.

    Raises LayoutError when the file is no such picture.
    """
    rgba = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    if rgba is None or rgba.dtype != np.uint8 or rgba.ndim != 3 or rgba.shape[2] != 4:
        raise LayoutError(f"{path}: not an RGBA picture of float bytes")
    depth = rgba_to_depth(np.asarray(cv2.cvtColor(rgba, cv2.COLOR_BGRA2RGBA), np.uint8))
    return np.where(np.isfinite(depth) & (depth > 0), depth, np.float32(np.nan))


def write_ply(path: str | Path, points: npt.NDArray[np.floating], colors: Picture) -> None:
    """Write a cloud [P, 3] m with RGB uint8 [P, 3], normals zero, as the release's renderer reads.

    Raises OSError.
    """
    fields = [(n, "<f4") for n in ("x", "y", "z", "nx", "ny", "nz")]
    fields += [(n, "u1") for n in ("red", "green", "blue")]
    rows = np.zeros(len(points), np.dtype(fields))
    for axis, name in enumerate("xyz"):
        rows[name] = points[:, axis]
    for channel, name in enumerate(("red", "green", "blue")):
        rows[name] = colors[:, channel]
    kinds = {"<f4": "float", "u1": "uchar"}
    header = ["ply", "format binary_little_endian 1.0", f"element vertex {len(points)}",
              *(f"property {kinds[kind]} {name}" for name, kind in fields), "end_header", ""]
    Path(path).write_bytes("\n".join(header).encode("ascii") + rows.tobytes())


def read_ply(path: str | Path) -> tuple[npt.NDArray[np.float32], Picture]:
    """Points [P, 3] and RGB uint8 [P, 3] of a cloud as `write_ply` and the release write it.

    Raises LayoutError when the file is none.
    """
    content = Path(path).read_bytes()
    head, mark, body = content.partition(b"end_header\n")
    lines = head.decode("ascii", "replace").split("\n")
    kinds = {"float": "<f4", "uchar": "u1", "double": "<f8"}
    try:
        count = int(next(line.split()[2] for line in lines if line.startswith("element vertex")))
        fields = [(words[2], kinds[words[1]]) for words in map(str.split, lines)
                  if words[:1] == ["property"]]
        if not mark or "format binary_little_endian 1.0" not in lines:
            raise ValueError("not a binary little endian cloud")
        rows = np.frombuffer(body, np.dtype(fields), count)
        points = np.stack([rows[name] for name in "xyz"], axis=1).astype(np.float32)
        colors = np.stack([rows[name] for name in ("red", "green", "blue")], axis=1)
    except (StopIteration, IndexError, KeyError, ValueError) as error:
        raise LayoutError(f"{path}: not a cloud of points with colours: {error}") from error
    return points, colors.astype(np.uint8)


def ground_mask_of(folder: str | Path) -> tuple[int, Path] | None:
    """The frame and the file of a `ground_mask_<i>.png`, white where the ground is, if any."""
    for path in sorted(Path(folder).glob("ground_mask_*.png")):
        number = path.stem.rsplit("_", 1)[-1]
        if not number.isdigit():
            raise LayoutError(f"{path}: '{number}' is not the number of a frame")
        return int(number), path
    return None


class GeometryWriter:
    """Writes a `_da3_tmp` folder frame by frame; call `close` to end it.

    point_clouds: also write each frame's cloud in the world. Raises OSError.
    """

    def __init__(self, folder: str | Path, *, point_clouds: bool = False) -> None:
        self.folder = Path(folder)
        self.frames = 0
        names = ("frames", "depth", *(("frames_pcd",) if point_clouds else ()))
        for name in names:
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        self._clouds = point_clouds
        self._intrinsics = (self.folder / "intrinsic.txt").open("w", encoding="ascii")
        self._extrinsics = (self.folder / "extrinsic.txt").open("w", encoding="ascii")

    def write(self, observation: Observation) -> None:
        """Add a frame."""
        number = f"{self.frames:04d}"
        bgr = cv2.cvtColor(observation.image, cv2.COLOR_RGB2BGR)
        _write_picture(self.folder / "frames" / f"{number}.jpg", bgr, _JPEG)
        write_depth_png(self.folder / "depth" / f"{number}.png", observation.depth)
        camera_from_world = rigid.invert(observation.world_from_camera)
        self._intrinsics.write(_rows(observation.camera.matrix))
        self._extrinsics.write(_rows(camera_from_world[:3]))
        if self._clouds:
            known = observation.depth > 0
            points = observation.camera.unproject(observation.depth)[known]
            write_ply(self.folder / "frames_pcd" / f"{number}.ply",
                      rigid.transform_points(observation.world_from_camera, points),
                      observation.image[known])
        self.frames += 1

    def finish_clouds(self, aligned_from_world: Array) -> None:
        """Write point_cloud.ply and frame_bboxes.txt, and turn the frames' clouds."""
        if not self._clouds:
            return
        turned = not np.array_equal(aligned_from_world, np.eye(4))
        lines = []
        for number in range(self.frames):
            path = self.folder / "frames_pcd" / f"{number:04d}.ply"
            points, colors = read_ply(path)
            if number == 0:
                write_ply(self.folder / "point_cloud.ply", points, colors)
            if turned:
                points = rigid.transform_points(aligned_from_world, points).astype(np.float32)
                write_ply(path, points, colors)
            box = (np.concatenate([points.min(axis=0), points.max(axis=0)]) if len(points)
                   else np.zeros(6))
            lines.append(" ".join(f"{value:.6g}" for value in box))
        _replace(self.folder / "frame_bboxes.txt", "\n".join(lines) + "\n")

    def close(self) -> None:
        """Finish the text files."""
        self._intrinsics.close()
        self._extrinsics.close()


class GeometryFolder:
    """A `_da3_tmp` folder, ours or the release's: frames with depth and cameras, by number.

    camera: of the depth pictures of frame 0. world_from_camera: [T, 4, 4]. Raises LayoutError
    naming what is missing or does not fit.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        if not self.folder.is_dir():
            raise LayoutError(f"{self.folder}: no such folder; run the depth step first")
        self.depths = _numbered(self.folder / "depth", ".png")
        self.pictures = _numbered(self.folder / "frames", ".jpg")
        matrices = _read_rows(self.folder / "intrinsic.txt", 3)
        views = _read_rows(self.folder / "extrinsic.txt", 4)
        counts = {"depth": len(self.depths), "frames": len(self.pictures),
                  "intrinsic.txt": len(matrices), "extrinsic.txt": len(views)}
        if not self.depths or len(set(counts.values())) != 1:
            listed = ", ".join(f"{name} {count}" for name, count in counts.items())
            raise LayoutError(f"{self.folder}: not as many frames everywhere: {listed}")
        self._matrices = matrices
        bottom = np.tile([0.0, 0.0, 0.0, 1.0], (len(views), 1, 1))
        camera_from_world = np.concatenate([views, bottom], axis=1)
        self.world_from_camera: Array = rigid.invert(
            rigid.require_rigid(camera_from_world, f"{self.folder / 'extrinsic.txt'}"))
        height, width = self.depth(0).shape
        self.camera = PinholeCamera.from_matrix(matrices[0], width, height)

    def __len__(self) -> int:
        return len(self.depths)

    def depth(self, number: int) -> Depth:
        """z-depth float32 [h, w] m as stored, NaN unknown."""
        return read_depth_png(self.folder / "depth" / self.depths[number])

    def image(self, number: int) -> Picture:
        """The picture uint8 RGB [H, W, 3] as stored, which may be larger than the depth."""
        path = self.folder / "frames" / self.pictures[number]
        bgr = cv2.imread(str(path), cv2.IMREAD_COLOR)
        if bgr is None:
            raise LayoutError(f"{path}: no picture that can be read")
        return np.asarray(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB), np.uint8)

    def cloud(self, number: int) -> tuple[npt.NDArray[np.float32], Picture]:
        """The frame's own cloud: points [P, 3] in the world and RGB uint8. Raises LayoutError."""
        path = self.folder / "frames_pcd" / f"{number:04d}.ply"
        if not path.is_file():
            raise LayoutError(f"{path}: missing; run the depth step with --render_backend ply")
        return read_ply(path)

    def observation(self, number: int, size: tuple[int, int], stamp_ns: int = 0) -> Observation:
        """Frame `number` at size (width, height), depth to the nearest stored value."""
        depth, image = self.depth(number), self.image(number)
        camera = PinholeCamera.from_matrix(
            self._matrices[number], depth.shape[1], depth.shape[0]).resized(*size)
        if (depth.shape[1], depth.shape[0]) != size:
            depth = np.asarray(cv2.resize(depth, size, interpolation=cv2.INTER_NEAREST))
        if (image.shape[1], image.shape[0]) != size:
            image = np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)
        return Observation(stamp_ns, image, depth, camera, self.world_from_camera[number])


def write_extrinsics(folder: str | Path, world_from_camera: Array) -> None:
    """Write extrinsic.txt of a `_da3_tmp` folder anew from poses [T, 4, 4]."""
    rows = "".join(_rows(view[:3]) for view in rigid.invert(world_from_camera))
    _replace(Path(folder) / "extrinsic.txt", rows)


def write_scene(folder: str | Path, geometry: GeometryFolder) -> None:
    """Write the `<name>` folder that the release's last step reads, but for its videos.

    The first depth picture as 16 bit between its extremes, metadata.txt with those, and the
    cameras. Raises OSError.
    """
    root = Path(folder)
    (root / "depth").mkdir(parents=True, exist_ok=True)
    (root / "render").mkdir(exist_ok=True)
    depth = geometry.depth(0)
    low, high = ((float(np.nanmin(depth)), float(np.nanmax(depth)))
                 if np.isfinite(depth).any() else (0.0, 1.0))
    share = (np.nan_to_num(depth, nan=low) - low) / max(high - low, 1e-6)
    _write_picture(root / "depth" / "000000.png", np.rint(share * 65535).astype(np.uint16), _PNG)
    views = rigid.invert(geometry.world_from_camera)[:, :3]
    lines = [json.dumps(np.round(view, 8).tolist()) for view in views]
    _replace(root / "metadata.txt", f"{low:.8g} {high:.8g}\n")
    _replace(root / "extrinsics.txt", "\n".join(lines) + "\n")
    _replace(root / "intrinsics.txt", _rows(geometry.camera.matrix))


def read_caption_entries(path: str | Path) -> list[tuple[Path, str]]:
    """Video and caption of each entry of a `new.json`.

    Raises LayoutError when the file is not the list that the caption step writes.
    """
    try:
        entries = json.loads(Path(path).read_text(encoding="utf-8"))
        return [(Path(entry["video_path"]), str(entry.get("text", ""))) for entry in entries]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise LayoutError(f"{path}: not a list of video_path and text: {error!r}") from error


def read_captions(path: str | Path) -> dict[str, str]:
    """Caption by file name of the video, from a `new.json`. Raises LayoutError."""
    return {video.name: text for video, text in read_caption_entries(path)}


def write_captions(path: str | Path, captions: Sequence[tuple[Path, str]]) -> None:
    """Write `new.json` for videos with their captions, sorted by path, whole or not at all."""
    file = Path(path)
    entries: list[dict[str, Any]] = []
    for video, text in sorted(captions):
        scene = file.parent / GEOMETRY / video.stem
        entries.append({"video_path": str(video), "vggt_depth_path": str(scene),
                        "vggt_extrinsics_path": str(scene / "extrinsics.txt"),
                        "radius_ratio": 1, "text": text})
    _replace(file, json.dumps(entries, indent=2, ensure_ascii=False) + "\n")


def _replace(path: Path, text: str) -> None:
    partial = path.with_name(path.name + ".part")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, path)


def _write_picture(path: Path, picture: npt.NDArray[Any], options: tuple[int, int]) -> None:
    # imwrite hides why it fails; encoding first lets a full disk speak.
    done, encoded = cv2.imencode(path.suffix, picture, list(options))
    if not done:
        raise OSError(f"{path}: cannot encode a picture {list(picture.shape)}")
    path.write_bytes(encoded.tobytes())


def _rows(matrix: Array) -> str:
    return "".join(" ".join(f"{value:.10g}" for value in row) + "\n" for row in matrix)


def _read_rows(path: Path, columns: int) -> Array:
    """[T, 3, columns] of a file with three rows a frame."""
    if not path.is_file():
        raise LayoutError(f"{path}: missing; run the depth step first")
    values = array("d")
    with path.open(encoding="utf-8") as stream:
        _append_rows(values, stream, columns, path)
    if len(values) % (3 * columns) or not values:
        raise LayoutError(f"{path}: {len(values) // columns} rows are not three for each frame")
    return np.frombuffer(values).reshape(-1, 3, columns)


def _append_rows(values: array[float], lines: Iterable[str], columns: int, path: Path) -> None:
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = [float(word) for word in line.split()]
        except ValueError as error:
            raise LayoutError(f"{path}, line {number}: {error}") from error
        if len(row) != columns or not np.isfinite(row).all():
            raise LayoutError(f"{path}, line {number}: expected {columns} finite numbers, got "
                              f"'{line.strip()[:60]}'")
        values.extend(row)


def _numbered(folder: Path, suffix: str) -> list[str]:
    """Names of the numbered files, in their order; short, since a clip has many."""
    if not folder.is_dir():
        raise LayoutError(f"{folder}: missing; run the depth step first")
    names = [name for name in os.listdir(folder)
             if name.endswith(suffix) and name[:-len(suffix)].isdigit()]
    return sorted(names, key=lambda name: int(name[:-len(suffix)]))
