#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Counterfactual views and labels against the truth of real recordings.

    python benchmarks/counterfactual.py [--data DIR] [--stride 5] [--limit 0] [--width 0]
        [--only labels,rig,lane] [--table]

Prints one JSON object. 'labels': recordings are shifted and written; the future path of every
frame is read back, brought to the world by the new recording's own tf, and compared with the old
one's tf. 'rig': the right camera of stereo pairs imagined from the left one with `inspatio
counterfactual`'s own means, against the real right picture. 'lane': views of holo_office at the
pose of a later frame that lies beside the present one (15 to 80 cm aside, less than half as far
ahead or up, turned by less than 15 degrees). Rivals: the newest frame as it is, and that frame
forward-warped by its depth (`single_warp`). PSNR in dB pooled over pixels: of all; of those that
the warp reaches (`*_warp`); after one gain and offset a picture (`*_gain`), because two cameras
differ in exposure. Coverage: share of pixels that geometry backs. The pairs' depth is stereo's, of
the very pair ("stereo"), or the left camera's motion's ("motion"), which never saw the right
picture.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from inspatio_ros.evaluation.baselines import depth_of, forward_warp, picture_of
from inspatio_ros.evaluation.metrics import SquaredError
from inspatio_ros.files.bag_observations import BagOptions
from inspatio_ros.files.bags import BagReader
from inspatio_ros.files.recordings import open_recording
from inspatio_ros.files.sequences import Sequence
from inspatio_ros.geometry import rigid
from inspatio_ros.geometry.camera import PinholeCamera
from inspatio_ros.imagination.engine import ImaginationEngine
from inspatio_ros.imagination.filler import GeometricFiller
from inspatio_ros.imagination.request import ImaginedFrame
from inspatio_ros.memory.world_memory import MemoryOptions, WorldMemory
from inspatio_ros.messages.poses import pose_to_matrix, to_ns
from inspatio_ros.messages.transforms import TransformTree
from inspatio_ros.planning.counterfactual import CounterfactualOptions, imagined_views
from inspatio_ros.planning.counterfactual_bags import FUTURE, write_counterfactual
from inspatio_ros.planning.mounting import Mount
from inspatio_ros.planning.recorded_frames import RecordedFrames
from inspatio_ros.sensing.observation import Observation

ROOT = Path(__file__).resolve().parents[1]
Image = npt.NDArray[np.uint8]
Array = npt.NDArray[np.float64]

LABEL_BAGS = ("holo_office_bag/bag", "kitti_residential_bag/bag")
PAIRS = ("kitti_stereo_06", "kitti_stereo_ramp")
SHIFT = CounterfactualOptions(lateral=1.0, yaw=math.radians(10.0), height=0.3, min_coverage=0.0,
                              rate=2.0)


def main(arguments: list[str] | None = None) -> int:
    """Measure what is asked for and print it."""
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared/data",
                        help="folder of the recordings (docs/evaluation.md)")
    parser.add_argument("--stride", type=int, default=5, help="every which frame is judged")
    parser.add_argument("--limit", type=int, default=0, help="frames read at most; 0: all")
    parser.add_argument("--width", type=int, default=0,
                        help="of the views, pixels; 0: as recorded")
    parser.add_argument("--only", default="labels,rig,lane", help="parts, with commas")
    parser.add_argument("--table", action="store_true", help="as Markdown")
    args = parser.parse_args(arguments)
    parts = args.only.split(",")
    result: dict[str, Any] = {}
    if "labels" in parts:
        result["labels"] = [label_errors(path, args.width or 160) for path in (
            ROOT / "samples/office", *(args.data / name for name in LABEL_BAGS)) if path.exists()]
    if "rig" in parts:
        result["rig"] = [rig_pair(args.data / name, depth, args.stride, args.limit, args.width)
                         for name in PAIRS if (args.data / name).exists()
                         for depth in ("stereo", "motion")]
    if "lane" in parts and (args.data / "holo_office").exists():
        result["lane"] = [lane_shifts(args.data / "holo_office", args.stride, args.limit,
                                      args.width)]
    print(table(result) if args.table else json.dumps(result, indent=1))
    return 0


def label_errors(recording: Path, width: int) -> dict[str, Any]:
    """The largest error of any pose of any label, m and degrees."""
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "bag"
        content = write_counterfactual(recording, target, SHIFT,
                                       ImaginationEngine(GeometricFiller()), width=width)
        with BagReader(recording) as old:
            way = RecordedFrames(old, "odom", "base_link").way
        meters, radians = [], []
        with BagReader(target) as new:
            tree = TransformTree()
            for topic, static in (("/tf_static", True), ("/tf", False)):
                for stored in new.messages([topic]):
                    for transform in new.deserialize(stored).transforms:
                        tree.add(transform, static=static)
            for stored in new.messages([FUTURE]):
                path = new.deserialize(stored)
                world_from_ego = tree.lookup("odom", "base_link", to_ns(path.header.stamp))
                truth = way.at([to_ns(p.header.stamp) for p in path.poses])
                told = np.stack([pose_to_matrix(p.pose) for p in path.poses])
                error = rigid.invert(truth) @ world_from_ego @ told
                meters += np.linalg.norm(error[:, :3, 3], axis=1).tolist()
                radians += rigid.rotation_angle(error).tolist()
    return {"recording": recording.parent.name if recording.name == "bag" else recording.name,
            "poses": len(meters), "frames": content["frames"]["kept"],
            "largest_error_mm": max(meters) * 1e3,
            "largest_error_deg": math.degrees(max(radians))}


class Score:
    """Pooled errors of one way of making views, by mask."""

    def __init__(self) -> None:
        self.errors = {name: SquaredError() for name in ("all", "warp", "backed", "gain")}

    def add(self, image: Image, truth: Image, masks: dict[str, npt.NDArray[np.bool_]]) -> None:
        """Take in one view."""
        self.errors["all"].add(image, truth)
        for name, mask in masks.items():
            self.errors[name].add(image, truth, mask)
        self.errors["gain"].add(matched(image, truth, masks["warp"]), truth, masks["warp"])

    def figures(self, name: str) -> dict[str, float]:
        """PSNR by mask."""
        return {f"{name}_{mask}": round(error.psnr, 2) for mask, error in self.errors.items()
                if error.count}


def matched(image: Image, truth: Image, mask: npt.NDArray[np.bool_]) -> Image:
    """`image` after the one gain and offset that bring it nearest to the truth."""
    x, y = (picture[mask].astype(np.float64).ravel() for picture in (image, truth))
    gain = float(np.cov(x, y)[0, 1] / max(x.var(), 1e-9))
    shifted = image * gain + (y.mean() - gain * x.mean())
    return np.asarray(np.clip(np.rint(shifted), 0, 255), np.uint8)


class Comparison:
    """Views of one kind against their truth and against the two rivals."""

    def __init__(self) -> None:
        self._scores = {name: Score() for name in ("imagined", "single_warp", "last_frame")}
        self._coverage: list[float] = []
        self._reached: list[float] = []

    def add(self, seen: Observation, frame: ImaginedFrame, truth: Image) -> None:
        """Take in one view and its truth uint8 [H, W, 3], both of the frame's camera."""
        camera = frame.camera
        picture, depth = picture_of(seen, camera), depth_of(seen, camera)
        step = rigid.invert(frame.world_from_camera) @ seen.world_from_camera
        warped, reached = forward_warp(picture, depth, camera, step)
        warped[~reached] = np.rint(warped[reached].mean(axis=0)).astype(np.uint8)
        masks = {"warp": reached, "backed": np.isfinite(frame.guide.depth)}
        for name, image in (("imagined", frame.image), ("single_warp", warped),
                            ("last_frame", picture)):
            self._scores[name].add(image, truth, masks)
        self._coverage.append(frame.guide.coverage)
        self._reached.append(float(reached.mean()))

    def figures(self) -> dict[str, Any]:
        """All of it as plain numbers."""
        found: dict[str, Any] = {
            "views": len(self._coverage), "coverage": round(float(np.mean(self._coverage)), 3),
            "warp_coverage": round(float(np.mean(self._reached)), 3)}
        for name, score in self._scores.items():
            found.update(score.figures(name))
        return found


def rig_pair(folder: Path, depth: str, stride: int, limit: int, width: int) -> dict[str, Any]:
    """The right camera of a stereo recording, imagined from the left one."""
    sequence = Sequence(folder)
    calibration = json.loads((folder / "calib.json").read_text())
    baseline = float(calibration["cameras"]["right"]["x_in_left_m"])
    options = CounterfactualOptions(mount=Mount(position=(0.0, -baseline, 0.0)))
    rows = {frame.stamp_ns: frame for frame in sequence.frames}
    camera = options.camera(sequence.camera, width)
    step = rigid.BODY_FROM_OPTICAL
    comparison = Comparison()
    with open_recording(folder, options=BagOptions(depth=depth)) as observations:
        for seen, frame in views(limited(observations, limit), camera, lambda o: np.asarray(
                o.world_from_camera @ rigid.invert(step) @ options.base_from_camera(step)),
                stride):
            file = rows[seen.stamp_ns].files["right"]
            comparison.add(seen, frame, truth_of(file, camera))
    return {"pair": folder.name, "depth": depth, **comparison.figures()}


def lane_shifts(folder: Path, stride: int, limit: int, width: int) -> dict[str, Any]:
    """Views beside the present one, at poses where the camera came later."""
    with open_recording(folder) as source:
        held = list(limited(source, limit))
    partners: dict[int, Observation] = {}
    for number, seen in enumerate(held):
        later = held[number + 1:number + 60]
        beside = [other for other in later if lies_beside(seen, other)]
        if beside:
            partners[seen.stamp_ns] = max(beside, key=lambda o: float(np.linalg.norm(
                o.world_from_camera[:3, 3] - seen.world_from_camera[:3, 3])))
    camera = CounterfactualOptions().camera(held[0].camera, width)
    comparison, distances = Comparison(), []
    chosen = [o for o in held if o.stamp_ns in partners][::stride]
    wanted = {o.stamp_ns for o in chosen}
    for seen, frame in views(iter(held), camera, lambda o: partners[o.stamp_ns].world_from_camera,
                             1, wanted):
        truth = partners[seen.stamp_ns]
        distances.append(float(np.linalg.norm(
            truth.world_from_camera[:3, 3] - seen.world_from_camera[:3, 3])))
        comparison.add(seen, frame, picture_of(truth, camera))
    return {"pair": f"{folder.name} aside", "depth": "sensor",
            "mean_shift_m": round(float(np.mean(distances)), 3), **comparison.figures()}


def lies_beside(seen: Observation, other: Observation) -> bool:
    """Whether the other camera is aside of this one and looks the same way."""
    step = rigid.invert(seen.world_from_camera) @ other.world_from_camera
    x, y, z = np.abs(step[:3, 3])
    return bool(0.15 <= x <= 0.8 and max(y, z) < x / 2
                and rigid.rotation_angle(step) < math.radians(15.0))


def views(observations: Iterator[Observation], camera: PinholeCamera, pose: Any, stride: int,
          wanted: set[int] | None = None) -> Iterator[tuple[Observation, ImaginedFrame]]:
    """Views as `inspatio counterfactual` makes them, of every `stride`-th or the wanted frames."""
    count = iter(range(1 << 30))

    def chosen(observation: Observation) -> bool:
        if wanted is not None:
            return observation.stamp_ns in wanted
        return next(count) % stride == stride - 1

    memory = WorldMemory(MemoryOptions(max_radius=60.0, voxel_size=0.03))
    return imagined_views(ImaginationEngine(GeometricFiller()), memory, observations, pose,
                          camera, wanted=chosen)


def limited(observations: Iterator[Observation], limit: int) -> Iterator[Observation]:
    """The first `limit` (0: all)."""
    for number, observation in enumerate(observations):
        if limit and number >= limit:
            return
        yield observation


def truth_of(file: Path, camera: PinholeCamera) -> Image:
    """A picture of a folder at the size of `camera`."""
    picture = cv2.cvtColor(cv2.imread(str(file), cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)
    if (picture.shape[1], picture.shape[0]) != camera.size:
        picture = cv2.resize(picture, camera.size, interpolation=cv2.INTER_AREA)
    return np.asarray(picture, np.uint8)


def table(result: dict[str, Any]) -> str:
    """The figures as Markdown."""
    lines = []
    if "labels" in result:
        lines += ["| recording | frames | poses | largest error, mm | degrees |",
                  "|---|---|---|---|---|"]
        lines += [f"| {r['recording']} | {r['frames']} | {r['poses']} | "
                  f"{r['largest_error_mm']:.4f} | {r['largest_error_deg']:.6f} |"
                  for r in result["labels"]]
    rows = result.get("rig", []) + result.get("lane", [])
    if rows:
        lines += ["", "| pair | depth | views | coverage | warp reaches | imagined all | "
                  "warp all | last frame all | imagined, warp's pixels | warp, its pixels | "
                  "the same after gain: imagined | warp |", "|" + "---|" * 12]
        lines += ["| " + " | ".join(str(r[key]) for key in (
            "pair", "depth", "views", "coverage", "warp_coverage", "imagined_all",
            "single_warp_all", "last_frame_all", "imagined_warp", "single_warp_warp",
            "imagined_gain", "single_warp_gain")) + " |" for r in rows]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
