#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The holes of real recordings and held-out worlds: a model beside classical fills.

    INSPATIO_DATA=FOLDER .venv/bin/python benchmarks/fills.py [--preset tiny] [--weights DIR]
        [--only NAME ...] [--worlds FIRST:LAST] [--features FILE] [--stride 5] [--model-mode]
        [--table FILE]

The recordings and settings of tools/evaluation_table.py on which the shipped model was not
trained: hindsight along the path really taken, composite mode. --worlds: also 5 s of a robot's way
through each analytic world of these seeds (clutter, room, street; a camera of 416x240 pixels,
pictures every 0.2 s). All methods keep what geometry backs, so only the holes differ.

warp_*: classical fills of what geometry backs. guide_*: the same of the whole guide, hints
(colours seen at a guessed depth) included. Prints JSON by recording, horizon and method: PSNR in
holes and of all pixels (dB, pooled), coverage, gradient spectrum distance in holes and, with
--features, the cosine distance of EfficientNet-Lite0's features of the whole picture and of the
holes, that is of a picture that is true everywhere else; by recording and method the flicker
(grey values) where nothing was seen: of each view and the one before it, brought to one pose by
the true depth; by recording, cause of holes and method the PSNR of all horizons. --model-mode:
also the own pictures of the preset, known pixels included (a pass more).
With --table also in Markdown, with the gains on the mean of the horizons (dB, per cent nearer).
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tools")]

from evaluation_table import ENTRIES  # noqa: E402

from inspatio_ros.evaluation.baselines import GUIDE_FILLS, classical_fills  # noqa: E402
from inspatio_ros.evaluation.experiment import Experiment, load_experiment  # noqa: E402
from inspatio_ros.evaluation.hindsight import View, evaluate, measured_depth  # noqa: E402
from inspatio_ros.evaluation.perceptual import (  # noqa: E402
    FeatureNetwork,
    cosine_distance,
    gradient_spectrum_distance,
)
from inspatio_ros.evaluation.replay_input import open_replay  # noqa: E402
from inspatio_ros.evaluation.view_checks import HoleCause, flicker  # noqa: E402
from inspatio_ros.geometry.camera import PinholeCamera  # noqa: E402
from inspatio_ros.imagination.backends import BackendOptions, make_backend  # noqa: E402
from inspatio_ros.imagination.engine import ImaginationEngine  # noqa: E402
from inspatio_ros.imagination.request import ImaginedFrame  # noqa: E402
from inspatio_ros.sensing.observation import Observation, Provenance  # noqa: E402
from inspatio_ros.training.sources import WORLDS, drive_poses  # noqa: E402

HELD_OUT = ("holo_office, last 80", "kitti_stereo_06", "kitti_stereo_ramp", "kitti_city_lidar",
            "kitti_residential_bag")
HORIZONS = (0.5, 1.0, 2.0, 4.0)
CAMERA = PinholeCamera(416, 240, 300.0, 300.0, 207.5, 119.5)
PERIOD, FRAMES = 0.2, 30  # of a way through a world: s, pictures
GEOMETRIC = "geometric"
MODEL = ", model mode"
FIGURES = ("holes", "all", "gradients", "features", "hole_features")


class Squares:
    """Squared errors of pixels, pooled."""

    def __init__(self) -> None:
        self.pixels = 0
        self._sum = 0.0

    def add(self, error: Any, mask: Any) -> None:
        """Take in squared errors [H, W, 3] where mask [H, W] holds."""
        self._sum += float(error[mask].sum())
        self.pixels += int(np.count_nonzero(mask))

    @property
    def psnr(self) -> float | None:
        """dB; None without an error."""
        if self._sum <= 0:
            return None
        return round(float(10 * np.log10(255.0**2 * 3 * self.pixels / self._sum)), 3)


class Sums:
    """What one method gave at one horizon of one recording."""

    def __init__(self) -> None:
        self.views = 0
        self.coverage = 0.0
        self.errors = {"holes": Squares(), "all": Squares()}
        self.means: dict[str, list[float]] = defaultdict(list)

    def row(self) -> dict[str, Any]:
        """The figures: PSNR in dB, distances."""
        found: dict[str, Any] = {"views": self.views,
                                 "coverage": round(self.coverage / self.views, 4)}
        found.update({part: squares.psnr for part, squares in self.errors.items()})
        for name, values in self.means.items():
            known = [value for value in values if np.isfinite(value)]
            found[name] = round(float(np.mean(known)), 4) if known else None
        return found


class Comparison:
    """All methods on one recording or domain."""

    def __init__(self, name: str, network: FeatureNetwork | None) -> None:
        self.name = name
        self._network = network
        self._sums: dict[tuple[float, str], Sums] = defaultdict(Sums)
        self._flicker: dict[str, list[float]] = defaultdict(list)
        self._causes: dict[tuple[HoleCause, str], Squares] = defaultdict(Squares)

    def steadiness(self) -> dict[str, float]:
        """Mean flicker, grey values, by method."""
        return {name: round(float(np.nanmean(values)), 2)
                for name, values in self._flicker.items() if np.isfinite(values).any()}

    def look(self, view: View) -> None:
        """Take in a view of either engine; the fills come with the first one's."""
        holes = view.frame.provenance < Provenance.MEMORY
        pictures = drawn(view.method, view.frame)
        match = view.match()
        if view.before is not None and match is not None:
            unseen = match.seen & (view.frame.guide.provenance == Provenance.UNKNOWN)
            match = replace(match, seen=unseen)
            for name, picture in drawn(view.method, view.before).items():
                self._flicker[name].append(flicker(picture, pictures[name], match))
        for name, picture in pictures.items():
            sums = self._sums[view.horizon, name]
            sums.views += 1
            sums.coverage += 1.0 - float(holes.mean())
            error = np.square(picture.astype(np.float64) - view.truth)
            sums.errors["holes"].add(error, holes)
            sums.errors["all"].add(error, np.ones_like(holes))
            for cause in HoleCause:
                if cause != HoleCause.COVERED:
                    self._causes[cause, name].add(error, view.causes == cause)
            sums.means["gradients"].append(
                gradient_spectrum_distance(picture, view.truth, holes))
            if self._network is not None:
                alone = np.where(holes[..., None], picture, view.truth).astype(np.uint8)
                whole, part, true = self._network.features([picture, alone, view.truth])
                sums.means["features"].append(float(cosine_distance(whole, true)))
                sums.means["hole_features"].append(float(cosine_distance(part, true)))

    def look_at_model(self, view: View) -> None:
        """Take in a view in `model` mode."""
        holes = view.frame.provenance < Provenance.MEMORY
        sums = self._sums[view.horizon, view.method + MODEL]
        sums.views += 1
        sums.coverage += 1.0 - float(holes.mean())
        error = np.square(view.frame.image.astype(np.float64) - view.truth)
        sums.errors["holes"].add(error, holes)
        sums.errors["all"].add(error, np.ones_like(holes))

    def by_cause(self) -> dict[str, dict[str, Any]]:
        """By cause: its share of the holes, PSNR of all horizons by method (dB)."""
        whole = sum(s.pixels for (_, name), s in self._causes.items() if name == GEOMETRIC)
        found: dict[str, dict[str, Any]] = {}
        for (cause, name), squares in self._causes.items():
            if squares.pixels:
                row = found.setdefault(cause.name.lower(), {
                    "share": round(squares.pixels / whole, 4)})
                row[name] = squares.psnr
        return found

    def rows(self) -> list[dict[str, Any]]:
        """Figures by horizon and method."""
        return [{"recording": self.name, "horizon_s": horizon, "method": method, **sums.row()}
                for (horizon, method), sums in sorted(self._sums.items())]


def drawn(method: str, frame: ImaginedFrame) -> dict[str, Any]:
    """What a method shows in a frame; with the geometric filler's frame also the fills'."""
    pictures = {method: frame.image}
    if method == GEOMETRIC:
        guide = frame.guide
        hinted = classical_fills(guide.image, guide.provenance != Provenance.UNKNOWN)
        bare = classical_fills(guide.image, guide.settled)
        for name in GUIDE_FILLS:
            pictures[name] = hinted[name]
            pictures[name.replace("guide", "warp")] = np.where(
                guide.settled[..., None], frame.image, bare[name])
    return pictures


def main() -> None:
    """Compare on every recording that is there."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--data", type=Path, default=os.environ.get("INSPATIO_DATA"))
    parser.add_argument("--preset", default="tiny")
    parser.add_argument("--weights", default="")
    parser.add_argument("--steps", type=int, default=0, help="denoising steps; 0: the model's own")
    parser.add_argument("--only", nargs="*", default=list(HELD_OUT), choices=HELD_OUT)
    parser.add_argument("--worlds", default="", metavar="FIRST:LAST", help="seeds, the last out")
    parser.add_argument("--domains", nargs="+", default=["clutter", "room", "street"],
                        choices=sorted(WORLDS))
    parser.add_argument("--stride", type=int, default=5, help="frames from start to start")
    parser.add_argument("--features", type=Path)
    parser.add_argument("--model-mode", action="store_true", help="its own pictures too")
    parser.add_argument("--table", type=Path, metavar="FILE", help="also in Markdown")
    args = parser.parse_args()
    if args.data is None and args.only:
        parser.error("name the folder of the recordings with --data or in INSPATIO_DATA")
    network = None if args.features is None else FeatureNetwork(args.features)
    engines = [ImaginationEngine(make_backend(BackendOptions(name, weights, "", (), steps)))
               for name, weights, steps in ((GEOMETRIC, "", 0),
                                            (args.preset, args.weights, args.steps))]
    results: list[dict[str, Any]] = []
    flickers: dict[str, dict[str, float]] = {}
    causes: dict[str, dict[str, dict[str, Any]]] = {}
    for name, seen in comparisons(args, engines, network):
        results += seen.rows()
        flickers[name], causes[name] = seen.steadiness(), seen.by_cause()
        print(f"{name}: done", file=sys.stderr, flush=True)
    if args.table:
        lines = [*table(results, args.preset), "", *calm(flickers, results, args.preset), "",
                 *caused(causes, args.preset)]
        args.table.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(json.dumps({"preset": args.preset, "weights": args.weights, "stride": args.stride,
                      "flicker": flickers, "causes": causes, "results": results}, indent=1))


def comparisons(args: argparse.Namespace, engines: list[ImaginationEngine],
                network: FeatureNetwork | None) -> Iterator[tuple[str, Comparison]]:
    """All methods on each recording, then on each kind of world over all seeds."""
    for entry in ENTRIES:
        if entry.name in args.only and (args.data / entry.path).exists():
            experiment = load_experiment(
                ROOT / f"samples/experiments/{entry.experiment}.yaml")
            seen = Comparison(entry.name, network)
            for mode in modes(args):
                with open_replay(args.data / entry.path, experiment) as source:
                    walk(seen, mode, experiment, source.observations, source.true_depth, engines,
                         args.stride, entry.skip)
            yield entry.name, seen
    if args.worlds:
        first, last = map(int, args.worlds.split(":"))
        for domain in args.domains:
            experiment = load_experiment(ROOT / "samples/experiments" / (
                "street.yaml" if domain == "street" else "indoor.yaml"))
            seen = Comparison(f"worlds, {domain}", network)
            for seed in range(first, last):
                for mode in modes(args):
                    walk(seen, mode, experiment, drive(domain, seed), measured_depth, engines,
                         args.stride)
            yield seen.name, seen


def modes(args: argparse.Namespace) -> tuple[str, ...]:
    """What is compared: `composite` always."""
    return ("composite", "model") if args.model_mode else ("composite",)


def walk(comparison: Comparison, mode: str, experiment: Experiment,
         observations: Iterator[Observation], true_depth: Any, engines: list[ImaginationEngine],
         stride: int, skip: int = 0) -> None:
    """Imagine from every `stride`-th observation."""
    options = replace(experiment.hindsight, horizons=HORIZONS, methods=(), thorough=False,
                      offsets=(), skip=skip, stride=stride, mode=mode)
    look = comparison.look if mode == "composite" else comparison.look_at_model
    evaluate(comparison.name, observations, engines if mode == "composite" else engines[1:],
             options, memory=experiment.memory, true_depth=true_depth, on_view=look)


def drive(domain: str, seed: int) -> Iterator[Observation]:
    """What a robot sees that drives through a world and looks about, things moving in it."""
    rng = np.random.default_rng([seed, sorted(WORLDS).index(domain)])
    world = WORLDS[domain](seed)
    times = float(rng.uniform(0, 60)) + PERIOD * np.arange(FRAMES)
    for time, pose in zip(times, drive_poses(world, domain, times, rng), strict=True):
        view = world.render(CAMERA, pose, float(time))
        yield Observation(round(float(time) * 1e9), view.image, view.depth, CAMERA, pose)


def table(rows: list[dict[str, Any]], preset: str) -> list[str]:
    """Markdown: every row, then the model against the fills on the mean of the horizons.

    Of the classical fills the best is picked for each figure and row, which favours them.
    """
    found = {(r["recording"], r["horizon_s"], r["method"]): r for r in rows}
    names = list(dict.fromkeys(r["recording"] for r in rows))
    methods = ("warp fills", "guide fills", GEOMETRIC, preset)
    digits = {"holes": 2, "all": 2, "gradients": 2, "features": 3, "hole_features": 3}
    titles = [f"{figure.replace('_', ' ')}: {methods[0]} | " + " | ".join(methods[1:])
              for figure in FIGURES]
    lines = ["| recording | s | views | coverage | all: model mode | " + " | ".join(titles) + " |",
             "| --- " * (5 + len(methods) * len(FIGURES)) + "|"]
    gains: dict[str, dict[str, list[float]]] = {name: defaultdict(list) for name in names}
    for name, horizon in sorted({key[:2] for key in found}, key=lambda k: (names.index(k[0]), k)):
        row = found[name, horizon, preset]
        own = found.get((name, horizon, preset + MODEL), {"all": None})["all"]
        cells = [name, f"{horizon:g}", str(row["views"]), f"{row['coverage']:.2f}",
                 "" if own is None else f"{own:.2f}"]
        for figure in FIGURES:
            values = {}
            for kind in ("warp", "guide"):
                each = [found[name, horizon, m.replace("guide", kind)].get(figure)
                        for m in GUIDE_FILLS]
                known = [v for v in each if v is not None]
                best = max if figure in ("holes", "all") else min
                values[f"{kind} fills"] = best(known[:-1]) if known else None
                values[f"{kind} mean"] = known[-1] if known else None
            values |= {m: found[name, horizon, m].get(figure) for m in (GEOMETRIC, preset)}
            cells += ["" if values[m] is None else f"{values[m]:.{digits[figure]}f}"
                      for m in methods]
            for other, value in values.items():
                if other != preset and value is not None and values[preset] is not None:
                    gains[name][f"{figure}, {other}"].append(
                        values[preset] - value if figure in ("holes", "all")
                        else 100.0 * (1.0 - values[preset] / value))
        lines.append("| " + " | ".join(cells) + " |")
    wanted = [f"{figure}, {other}" for figure in ("holes", "all", "gradients", "hole_features")
              for other in ("warp fills", "warp mean", "guide fills", "guide mean", GEOMETRIC)
              if figure in ("holes", "all") or other.endswith("fills")]
    lines += ["", f"| {preset} against | " + " | ".join(wanted).replace("_", " ") + " |",
              "| --- " * (1 + len(wanted)) + "|"]
    for name in names:
        parts = [float(np.mean(gains[name][key])) if gains[name][key] else np.nan
                 for key in wanted]
        lines.append(f"| {name} | " + " | ".join(
            f"{part:+.2f}" if key.startswith(("holes", "all")) else f"{part:+.0f} %"
            for key, part in zip(wanted, parts, strict=True)) + " |")
    return lines


def calm(flickers: dict[str, dict[str, float]], rows: list[dict[str, Any]], preset: str
         ) -> list[str]:
    """Markdown: grey values of flicker; of the four fills that with the best PSNR in the holes on
    the mean of the horizons, and those that flicker least and most."""
    lines = ["| flicker | " + preset + " | geometric | best of the warp fills | least | most | "
             "best of the guide fills | least | most |", "| --- " * 9 + "|"]
    for name, found in flickers.items():
        cells = [found[preset], found[GEOMETRIC]]
        for kind in ("warp", "guide"):
            methods = [m.replace("guide", kind) for m in GUIDE_FILLS[:-1]]
            each = [found[m] for m in methods]
            quality = [float(np.mean([r["holes"] for r in rows if r["recording"] == name
                                      and r["method"] == m])) for m in methods]
            cells += [each[int(np.argmax(quality))], min(each), max(each)]
        lines.append(f"| {name} | " + " | ".join(f"{cell:.1f}" for cell in cells) + " |")
    return lines


def caused(causes: dict[str, dict[str, dict[str, Any]]], preset: str) -> list[str]:
    """Markdown: PSNR in the holes of each cause, all horizons; of the fills the best."""
    lines = ["| recording | holes | share | warp fills | guide fills | geometric | " + preset
             + " |", "| --- " * 7 + "|"]
    for name, found in causes.items():
        for cause, row in found.items():
            cells = [max(row[m.replace("guide", kind)] for m in GUIDE_FILLS[:-1])
                     for kind in ("warp", "guide")]
            cells += [row[GEOMETRIC], row[preset]]
            lines.append(f"| {name} | {cause.replace('_', ' ')} | {row['share']:.2f} | "
                         + " | ".join(f"{cell:.2f}" for cell in cells) + " |")
    return lines


if __name__ == "__main__":
    main()
