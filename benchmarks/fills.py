#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The holes of real recordings: a model beside classical fills of the very same guides.

    INSPATIO_DATA=FOLDER .venv/bin/python benchmarks/fills.py [--preset tiny] [--weights DIR]
        [--only NAME ...] [--features FILE] [--stride 5]

The recordings and settings of tools/evaluation_table.py on which the shipped model was not
trained: hindsight along the path really taken, composite mode. Prints JSON: PSNR in holes and of
all pixels (dB, pooled), coverage, gradient spectrum distance in holes and, with --features, the
cosine distance of EfficientNet-Lite0's features, by recording, horizon and method.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tools")]

from evaluation_table import ENTRIES  # noqa: E402

from inspatio_ros.evaluation.baselines import GUIDE_FILLS  # noqa: E402
from inspatio_ros.evaluation.experiment import load_experiment  # noqa: E402
from inspatio_ros.evaluation.hindsight import View, evaluate  # noqa: E402
from inspatio_ros.evaluation.perceptual import (  # noqa: E402
    FeatureNetwork,
    gradient_spectrum_distance,
)
from inspatio_ros.evaluation.replay_input import open_replay  # noqa: E402
from inspatio_ros.imagination.backends import BackendOptions, make_backend  # noqa: E402
from inspatio_ros.imagination.engine import ImaginationEngine  # noqa: E402
from inspatio_ros.sensing.observation import Provenance  # noqa: E402

HELD_OUT = ("holo_office, last 80", "kitti_stereo_06", "kitti_stereo_ramp", "kitti_city_lidar",
            "kitti_residential_bag")
HORIZONS = (0.5, 1.0, 2.0, 4.0)


def main() -> None:
    """Compare on every recording that is there."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--data", type=Path, default=os.environ.get("INSPATIO_DATA"))
    parser.add_argument("--preset", default="tiny")
    parser.add_argument("--weights", default="")
    parser.add_argument("--steps", type=int, default=0, help="denoising steps; 0: the model's own")
    parser.add_argument("--only", nargs="+", default=list(HELD_OUT), choices=HELD_OUT)
    parser.add_argument("--stride", type=int, default=5, help="frames from start to start")
    parser.add_argument("--features", type=Path)
    args = parser.parse_args()
    if args.data is None:
        parser.error("name the folder of the recordings with --data or in INSPATIO_DATA")
    network = None if args.features is None else FeatureNetwork(args.features)
    engines = [ImaginationEngine(make_backend(BackendOptions(name, weights, "", (), steps)))
               for name, weights, steps in (("geometric", "", 0),
                                            (args.preset, args.weights, args.steps))]
    results = []
    for entry in ENTRIES:
        if entry.name in args.only and (args.data / entry.path).exists():
            results += compare(entry, args, engines, network)
            print(f"{entry.name}: done", file=sys.stderr, flush=True)
    print(json.dumps({"preset": args.preset, "weights": args.weights, "stride": args.stride,
                      "results": results}, indent=1))


def compare(entry: Any, args: argparse.Namespace, engines: list[ImaginationEngine],
            network: FeatureNetwork | None) -> list[dict[str, Any]]:
    """Rows of one recording."""
    experiment = load_experiment(ROOT / f"samples/experiments/{entry.experiment}.yaml")
    options = replace(
        experiment.hindsight, horizons=HORIZONS, methods=GUIDE_FILLS, thorough=False, offsets=(),
        skip=entry.skip, stride=args.stride)
    extra: dict[tuple[float, str], list[tuple[float, float]]] = defaultdict(list)

    def look(view: View) -> None:
        holes = view.frame.provenance < Provenance.MEMORY
        # The baselines come with the first engine's views, and again with the second's.
        names = [*GUIDE_FILLS, view.method] if view.method == "geometric" else [view.method]
        for name in names:
            picture = view.pictures[name]
            feature = np.nan
            if network is not None:
                a, b = network.features([picture, view.truth]).astype(np.float64)
                feature = float(1 - a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))
            extra[view.horizon, name].append(
                (gradient_spectrum_distance(picture, view.truth, holes), feature))

    with open_replay(args.data / entry.path, experiment) as source:
        report = evaluate(entry.name, source.observations, engines, options,
                          memory=experiment.memory, true_depth=source.true_depth, on_view=look)
    rows = []
    for result in report.results:
        pairs = np.array(extra[result.horizon_s, result.method]).reshape(-1, 2)
        known = np.isfinite(pairs)
        means = [round(float(pairs[known[:, i], i].mean()), 4) if known[:, i].any() else None
                 for i in (0, 1)]
        rows.append({
            "recording": entry.name, "horizon_s": result.horizon_s, "method": result.method,
            "frames": result.frames, "coverage": round(result.coverage, 4),
            "psnr_all": round(result.psnr_all, 3), "psnr_holes": round(result.psnr_holes, 3),
            "gradient_holes": means[0], "feature_distance": means[1]})
    return rows


if __name__ == "__main__":
    main()
