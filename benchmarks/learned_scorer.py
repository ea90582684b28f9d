#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""A small scorer learnt on counterfactual recordings: a worked example, and what it gains.

    python benchmarks/learned_scorer.py [--train BAG... --held-out BAG...] [--candidates 15]

Prints one JSON object. Recordings with the topics of `inspatio counterfactual` are gone through;
at each moment a fan of arcs is judged, views are imagined along all of them (geometric filler),
and their features (`planning.features`) are taken. The target is how far each arc lies from the
recovery path that the recording is labelled with (mean distance over 4 s, m). Ridge regression
from features to that distance is the learnt scorer; it picks the arc of the least. Without
recordings of yours, robots drive through analytic rooms, are shifted aside by `inspatio
counterfactual`'s own means, and other rooms are held out.

Reported on the held-out recordings: mean distance to the label of what is picked by chance, by
the scorer's own score, by a scorer learnt on the terms, on terms and poses, and on those with the
embedding of the views; and the best that the fan holds.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from inspatio_ros.files.bag_messages import MessageMaker
from inspatio_ros.files.bags import BagReader, BagWriter
from inspatio_ros.geometry import rigid
from inspatio_ros.geometry.camera import PinholeCamera
from inspatio_ros.imagination.engine import ImaginationEngine
from inspatio_ros.imagination.filler import GeometricFiller
from inspatio_ros.memory.world_memory import MemoryOptions
from inspatio_ros.messages.poses import pose_to_matrix, to_ns
from inspatio_ros.planning.candidates import fan
from inspatio_ros.planning.counterfactual import CounterfactualOptions
from inspatio_ros.planning.counterfactual_bags import RECOVERY, write_counterfactual
from inspatio_ros.planning.features import CandidateFeatures, candidate_features
from inspatio_ros.planning.footprint import Footprint
from inspatio_ros.planning.ground_map import GroundOptions
from inspatio_ros.planning.imagining import CandidateViews
from inspatio_ros.planning.recorded_situation import RecordedOptions, recorded_situations
from inspatio_ros.planning.scores import CandidateScorer, ScoreOptions
from inspatio_ros.worlds.room import room

ROOT = Path(__file__).resolve().parents[1]
Array = npt.NDArray[np.float64]

CAMERA = PinholeCamera(96, 64, 57.0, 57.0, 47.5, 31.5)
BASE_FROM_CAMERA = rigid.from_rotation(rigid.BODY_FROM_OPTICAL[:3, :3], (0.1, 0.0, 0.9))
SPEED = 0.5
SHIFTS = ((0.25, 10.0), (-0.25, -10.0), (0.25, -8.0), (-0.25, 8.0))
STRENGTHS = (0.1, 1.0, 10.0, 100.0, 1000.0)


@dataclass(frozen=True, eq=False)
class Moment:
    """Features of a fan, and m of each of its arcs from the label."""

    features: CandidateFeatures
    distances: Array


def write_drive(path: Path, seed: int, seconds: float) -> Path:
    """A recording of a robot that drives through the room of a seed."""
    world = room(seed, moving=False)
    with BagWriter(path) as bag:
        make = MessageMaker(bag)
        for name, kind in {
                "/camera/image_rect": "sensor_msgs/msg/Image", "/tf": "tf2_msgs/msg/TFMessage",
                "/camera/camera_info": "sensor_msgs/msg/CameraInfo",
                "/depth/image_rect": "sensor_msgs/msg/Image",
                "/depth/camera_info": "sensor_msgs/msg/CameraInfo"}.items():
            bag.add_topic(name, kind)
        bag.add_topic("/tf_static", "tf2_msgs/msg/TFMessage", latched=True)
        start = 10**12
        bag.write("/tf_static", start, bag.serialize(make.transforms(
            start, "base_link", "camera_optical", BASE_FROM_CAMERA)))
        for step in range(int(seconds * 20) + 1):
            stamp, pose = start + step * 50_000_000, world.drive(SPEED, [step / 20])[0]
            bag.write("/tf", stamp, bag.serialize(
                make.transforms(stamp, "odom", "base_link", pose)))
            if step % 5:
                continue
            view = world.render(CAMERA, pose @ BASE_FROM_CAMERA)
            header = make.header(stamp, "camera_optical")
            info = make.camera_info(header, CAMERA)
            for topic, message in {
                    "/camera/image_rect": make.image(header, "rgb8", view.image),
                    "/camera/camera_info": info, "/depth/camera_info": info,
                    "/depth/image_rect": make.image(header, "32FC1", view.depth)}.items():
                bag.write(topic, stamp, bag.serialize(message))
    return path


def made_recordings(folder: Path, seeds: Sequence[int], seconds: float) -> list[Path]:
    """Counterfactual recordings of rooms, shifted aside and turned."""
    engine = ImaginationEngine(GeometricFiller())
    made = []
    for seed in seeds:
        drive = write_drive(folder / f"drive_{seed}", seed, seconds)
        lateral, yaw = SHIFTS[seed % len(SHIFTS)]
        target = folder / f"shifted_{seed}"
        write_counterfactual(drive, target, CounterfactualOptions(
            lateral=lateral, yaw=float(np.radians(yaw)), min_coverage=0.3), engine)
        made.append(target)
    return made


def labels(path: Path) -> dict[int, Array]:
    """Recovery paths [n, 2] m in the ego frame, with their times [n] s, by stamp: [n, 3]."""
    found = {}
    with BagReader(path) as bag:
        for stored in bag.messages([RECOVERY]):
            message = bag.deserialize(stored)
            stamp = to_ns(message.header.stamp)
            rows = [((to_ns(p.header.stamp) - stamp) * 1e-9, *pose_to_matrix(p.pose)[:2, 3])
                    for p in message.poses]
            found[stamp] = np.array(rows, np.float64).reshape(-1, 3)
    return found


def moments(path: Path, count: int, every: int, codec: Any) -> Iterator[Moment]:
    """Every so manyth labelled moment of a recording."""
    known = labels(path)
    scorer = CandidateScorer(
        Footprint(0.2, 0.2, 0.15, 0.15, 1.0), ScoreOptions(
            target_speed=SPEED, ground=GroundOptions(radius=5.0)),
        CandidateViews(ImaginationEngine(GeometricFiller()), 4))
    views: dict[str, Any] = {}
    scorer.on_views = lambda made: views.update({made.candidate.id: made.frames})
    options = RecordedOptions(width=96, memory=MemoryOptions(capacity=200_000))
    with recorded_situations(path, options) as recorded:
        for number, moment in enumerate(recorded):
            label = known.get(moment.observation.stamp_ns)
            if number % every or label is None or label[-1, 0] < 2.0:
                continue
            situation = moment.situation
            candidates = fan(situation.world_from_base, count, SPEED)
            views.clear()
            # All of them, also those that seem bad: what is learnt is which are.
            for made in scorer.views.along(candidates, situation, lambda: float("inf")) \
                    if scorer.views is not None else ():
                if made is not None:
                    views[made.candidate.id] = made.frames
            ranking = scorer.rank(candidates, situation)
            ego_from_world = rigid.invert(situation.world_from_base)
            distances = []
            for candidate in candidates:
                way = rigid.transform_points(ego_from_world, candidate.at(label[:, 0])[:, :3, 3])
                distances.append(float(np.linalg.norm(way[:, :2] - label[:, 1:], axis=1).mean()))
            yield Moment(candidate_features(candidates, ranking, views, codec),
                         np.array(distances))


def inputs(features: CandidateFeatures, kind: str) -> Array:
    """Rows of the regression: terms; and poses; and embedding."""
    columns = [features.terms, features.unknown_ratio[:, None], features.uncertainty[:, None]]
    if kind != "terms":
        columns.append(features.poses.reshape(len(features.ids), -1))
    if kind == "terms_poses_views":
        # Against the mean of the fan: what this way would show, not where it is.
        columns.append(features.embedding - np.nanmean(features.embedding, 0, keepdims=True))
        heading = features.poses[:, -1, 2:]
        columns.append(columns[-1] * heading)
    return np.nan_to_num(np.concatenate(columns, axis=1).astype(np.float64), nan=0.0)


def fitted(train: Sequence[Moment], kind: str) -> Any:
    """A ridge regression of distances; its strength is chosen on every fifth moment."""
    def solve(chosen: Sequence[Moment], strength: float) -> tuple[Array, Array, Array]:
        x = np.concatenate([inputs(m.features, kind) for m in chosen])
        y = np.concatenate([m.distances - m.distances.mean() for m in chosen])
        mean, scale = x.mean(0), x.std(0) + 1e-6
        z = (x - mean) / scale
        weights = np.linalg.solve(z.T @ z + strength * np.eye(z.shape[1]), z.T @ y)
        return mean, scale, weights

    inner = [m for k, m in enumerate(train) if k % 5]
    check = [m for k, m in enumerate(train) if not k % 5]
    strength = min(STRENGTHS, key=lambda s: picked(check, kind, solve(inner, s)))
    return solve(train, strength)


def picked(judged: Sequence[Moment], kind: str, model: tuple[Array, Array, Array]) -> float:
    """Mean m from the label of what the model picks."""
    mean, scale, weights = model
    return float(np.mean([m.distances[np.argmin(
        (inputs(m.features, kind) - mean) / scale @ weights)] for m in judged]))


def main(arguments: Sequence[str] | None = None) -> int:
    """Fit, judge, print."""
    from inspatio_ros.model.weights import load_small_codec

    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--train", type=Path, nargs="+", default=[], metavar="BAG")
    parser.add_argument("--held-out", type=Path, nargs="+", default=[], metavar="BAG")
    parser.add_argument("--rooms", type=int, default=8, help="for training, when no bag is given")
    parser.add_argument("--held-out-rooms", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=12.0, help="of each drive")
    parser.add_argument("--every", type=int, default=4, help="every which frame is a moment")
    parser.add_argument("--candidates", type=int, default=15)
    parser.add_argument("--features", type=Path, metavar="DIR",
                        help="write the features of each moment as npz")
    options = parser.parse_args(arguments)
    if bool(options.train) != bool(options.held_out):
        parser.error("--train and --held-out belong together")
    codec = load_small_codec(ROOT / "weights" / "inspatio_tiny" / "codec.safetensors").eval()
    with tempfile.TemporaryDirectory() as name:
        train, held = options.train, options.held_out
        if not train:
            seeds = range(options.rooms + options.held_out_rooms)
            made = made_recordings(Path(name), seeds, options.seconds)
            train, held = made[:options.rooms], made[options.rooms:]
        sets = [[m for path in paths
                 for m in moments(path, options.candidates, options.every, codec)]
                for paths in (train, held)]
    if options.features is not None:
        options.features.mkdir(parents=True, exist_ok=True)
        for part, found in zip(("train", "held_out"), sets, strict=True):
            for number, moment in enumerate(found):
                moment.features.write(options.features / f"{part}_{number:04d}.npz")
    learn, judged = sets
    if not learn or not judged:
        print("no labelled moment", file=sys.stderr)
        return 1
    figures = {
        "chance": float(np.mean([m.distances.mean() for m in judged])),
        "own_score": float(np.mean([m.distances[np.argmax(m.features.score)] for m in judged])),
        "best_of_fan": float(np.mean([m.distances.min() for m in judged]))}
    for kind in ("terms", "terms_poses", "terms_poses_views"):
        figures[f"learnt_{kind}"] = picked(judged, kind, fitted(learn, kind))
    print(json.dumps({
        "recordings": {"train": len(train), "held_out": len(held)},
        "moments": {"train": len(learn), "held_out": len(judged)},
        "candidates": options.candidates,
        "mean_distance_to_label_m": {k: round(v, 4) for k, v in figures.items()},
        "gain_of_views_m": round(figures["learnt_terms_poses"]
                                 - figures["learnt_terms_poses_views"], 4)}, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
