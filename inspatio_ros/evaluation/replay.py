# SPDX-License-Identifier: Apache-2.0
"""A replay experiment: hindsight on one recording, and all that is written of it.

`report.json` and everything else but its `timings` are byte for byte the same for the same
recording, experiment and machine.
"""

from __future__ import annotations

import csv
import json
import logging
import math
import shutil
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from inspatio_ros.evaluation.experiment import Experiment, ExperimentError, NetworkFiles
from inspatio_ros.evaluation.hindsight import HindsightReport, View, as_json, evaluate
from inspatio_ros.evaluation.metrics import psnr
from inspatio_ros.evaluation.perceptual import (
    FEATURES_VARIABLE,
    FeatureNetwork,
    Lpips,
    ScriptedNetwork,
    WeightsMissing,
    default_feature_network,
)
from inspatio_ros.evaluation.replay_input import ReplayInput, open_replay
from inspatio_ros.evaluation.replay_page import Example, page
from inspatio_ros.evaluation.report import error_picture, markdown_table, provenance_picture
from inspatio_ros.evaluation.scores import Networks, Result
from inspatio_ros.files.imagined_bags import ImaginedBagWriter
from inspatio_ros.files.recordings import recording_name
from inspatio_ros.imagination.backends import BackendOptions, choose_backend, make_backend
from inspatio_ros.imagination.engine import ImaginationEngine

log = logging.getLogger(__name__)
Image = npt.NDArray[np.uint8]

REPORT, TABLE, PAGE, BAG = "report.json", "results.csv", "report.html", "imagined"
# Examples of the best and of the worst views on the page, and their width in pixels.
_EXAMPLES = 4
_EXAMPLE_WIDTH = 300
_JPEG_QUALITY = 85


def replay(path: str | Path, experiment: Experiment, out: str | Path, *,
           on_start: Callable[[int], None] | None = None) -> dict[str, Any]:
    """Run the experiment on a recording and write report.json, results.csv, report.html and a bag.

    Returns the content of report.json. An earlier experiment in `out` is replaced, anything else
    there is not. Raises ExperimentError, BagError, SequenceError, WeightsError or WeightsMissing.
    """
    folder, began = Path(out), time.monotonic()
    _require_own(folder)
    networks, missing = load_networks(experiment.networks)
    presets = [choose_backend(BackendOptions(name, experiment.weights))[0]
               for name in experiment.engines]
    name = recording_name(path)
    gallery = _Gallery(presets[-1])
    engines = [_engine(preset, experiment) for preset in dict.fromkeys(presets)]
    loaded = time.monotonic()
    try:
        with ExitStack() as stack:
            source = stack.enter_context(open_replay(path, experiment))
            _prepare(folder)
            bag = None
            if experiment.frames_in_bag != "none":
                bag = stack.enter_context(ImaginedBagWriter(folder / BAG, experiment.world_frame))
            shown = _Shown(gallery, bag, presets[-1], experiment)
            report = evaluate(
                name, source.observations, engines, experiment.hindsight,
                memory=experiment.memory, true_depth=source.true_depth, networks=networks,
                on_start=on_start, on_view=shown.view,
                on_frames=shown.frames if experiment.frames_in_bag == "all" else None)
    finally:
        for engine in engines:
            engine.close()
    content = _content(experiment, source, report, missing)
    content["timings"] = {"load_s": loaded - began, "replay_s": time.monotonic() - loaded}
    _write(folder, content, report, gallery)
    return content


def _require_own(folder: Path) -> None:
    if folder.exists() and not folder.is_dir():
        raise ExperimentError(f"{folder} is a file; name a folder for the report")
    if folder.is_dir() and any(folder.iterdir()) and not (folder / REPORT).exists() and not (
            folder / BAG).is_dir():
        raise ExperimentError(f"{folder} holds other things than an experiment; choose another "
                              "folder")


def _prepare(folder: Path) -> None:
    for name in (REPORT, TABLE, PAGE):
        (folder / name).unlink(missing_ok=True)
    if (folder / BAG).is_dir():
        shutil.rmtree(folder / BAG)
    folder.mkdir(parents=True, exist_ok=True)


def _engine(preset: str, experiment: Experiment) -> ImaginationEngine:
    import torch

    steps = experiment.steps
    if experiment.device.startswith("cuda") and not torch.cuda.is_available():
        raise ExperimentError(f"device: {experiment.device}, but torch finds no CUDA device here; "
                              "leave the key out to take what there is")
    single = len(steps) == 1
    return ImaginationEngine(make_backend(BackendOptions(
        preset, experiment.weights, experiment.device, () if single else steps,
        steps[0] if single else 0)))


def load_networks(files: NetworkFiles) -> tuple[Networks, dict[str, str]]:
    """The networks whose weights are named, and for every other why its figure is missing.

    Raises WeightsMissing when a file that is named is not there or of another network.
    """
    missing: dict[str, str] = {}
    features = lpips = None
    if files.features:
        features = FeatureNetwork(files.features)
    else:
        try:
            features = default_feature_network()
        except WeightsMissing as error:
            missing["feature_distance"] = str(error)
            log.debug("%s unset", FEATURES_VARIABLE)
    if files.lpips_backbone:
        lpips = Lpips(files.lpips_backbone, files.lpips_heads)
    else:
        missing["lpips_all"] = ("no weights: networks.lpips_backbone names torchvision's "
                                "alexnet-owt-7be5be79.pth, networks.lpips_heads the package "
                                "lpips' v0.1/alex.pth")
    scripted: dict[str, ScriptedNetwork | None] = {"fid": None, "fvd": None}
    for name, what in (("fid", "an Inception v3"), ("fvd", "an I3D")):
        if path := getattr(files, name):
            scripted[name] = ScriptedNetwork(path)
        else:
            missing[name] = f"no weights: networks.{name} names {what} as TorchScript"
    return Networks(features, lpips, scripted["fid"], scripted["fvd"]), missing


class _Shown:
    """Hands views to the gallery and frames to the bag."""

    def __init__(self, gallery: _Gallery, bag: ImaginedBagWriter | None, method: str,
                 experiment: Experiment) -> None:
        self._gallery, self._bag, self._method = gallery, bag, method
        self._seed = experiment.seeds[0]
        self._compared = experiment.frames_in_bag == "compared"

    def view(self, view: View) -> None:
        self._gallery.add(view)
        if self._bag is not None and self._compared and view.method == self._method and (
                view.seed == self._seed):
            self._bag.write(replace(view.frame, expected_error=view.expected_error))

    def frames(self, method: str, seed: int, frames: Sequence[Any]) -> None:
        if self._bag is not None and method == self._method and seed == self._seed:
            for frame in frames:
                self._bag.write(frame)


@dataclass(frozen=True)
class _Kept:
    psnr: float
    number: int
    example: Example


class _Gallery:
    """The best and the worst views of one method, by PSNR of the whole picture."""

    def __init__(self, method: str) -> None:
        self._method = method
        self._count = 0
        self._best: list[_Kept] = []
        self._worst: list[_Kept] = []

    def add(self, view: View) -> None:
        if view.method != self._method:
            return
        self._count += 1
        quality = psnr(view.frame.image, view.truth)
        if not math.isfinite(quality):
            return
        full = len(self._best) >= _EXAMPLES
        if full and self._worst[-1].psnr <= quality <= self._best[-1].psnr:
            return
        kept = _Kept(quality, self._count, _example(view, quality))
        self._best = sorted([*self._best, kept], key=lambda k: (-k.psnr, k.number))[:_EXAMPLES]
        self._worst = sorted([*self._worst, kept], key=lambda k: (k.psnr, k.number))[:_EXAMPLES]

    @property
    def best(self) -> list[Example]:
        return [kept.example for kept in self._best]

    @property
    def worst(self) -> list[Example]:
        """Without those that are among the best, of a short recording."""
        best = {kept.number for kept in self._best}
        return [kept.example for kept in self._worst if kept.number not in best]


def _example(view: View, quality: float) -> Example:
    frame = view.frame
    pictures = {
        "newest frame": view.pictures.get("last_frame", view.truth),
        "guide": frame.guide.image, f"imagined ({view.method})": frame.image,
        "really seen": view.truth, "provenance": provenance_picture(frame.provenance, frame.image),
        "error": error_picture(frame.image, view.truth)}
    if "last_frame" not in view.pictures:
        del pictures["newest frame"]
    title = (f"{frame.source_stamp_ns * 1e-9:.2f} s + {view.horizon:g} s: {quality:.2f} dB, "
             f"coverage {frame.support:.2f}")
    return Example(title, {name: _jpeg(picture) for name, picture in pictures.items()})


def _jpeg(image: Image) -> bytes:
    height = max(1, round(_EXAMPLE_WIDTH * image.shape[0] / image.shape[1]))
    small = cv2.resize(image, (_EXAMPLE_WIDTH, height), interpolation=cv2.INTER_AREA)
    _, data = cv2.imencode(".jpg", cv2.cvtColor(small, cv2.COLOR_RGB2BGR),
                           [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])
    return bytes(data)


def _content(experiment: Experiment, source: ReplayInput, report: HindsightReport,
             missing: dict[str, str]) -> dict[str, Any]:
    content: dict[str, Any] = {"format": 1, **as_json(report)}
    content["depth"] = {"provider": source.depth, "truth": source.truth or None}
    content["experiment"] = experiment.to_dict()
    if not source.truth:
        missing["depth_abs_rel"] = ("nothing measured depth in this recording; causes of holes "
                                    f"and flicker rest on depth from {source.depth}")
    if not any(result.revisit_frames for result in report.results):
        missing["psnr_revisit"] = ("no view of a place that was seen 5 s or more before its start "
                                   "and not since")
    content["missing"] = dict(sorted(missing.items()))
    return content


def _write(folder: Path, content: dict[str, Any], report: HindsightReport,
           gallery: _Gallery) -> None:
    names = [item.name for item in fields(Result)]
    with (folder / TABLE).open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(names)
        for result in report.results:
            values = asdict(result)
            writer.writerow(["" if isinstance(values[name], float) and not math.isfinite(
                values[name]) else values[name] for name in names])
    (folder / PAGE).write_text(page(content, gallery.best, gallery.worst), encoding="utf-8")
    # Last: who finds it finds the rest.
    (folder / REPORT).write_text(json.dumps(content, indent=1, allow_nan=False) + "\n",
                                 encoding="utf-8")


def results_table(reports: Sequence[dict[str, Any]]) -> str:
    """Reports (report.json) in one Markdown table: a row a recording and horizon.

    PSNR over all pixels by method, the best in bold, then over the covered pixels and the holes
    for the last method, and its SSIM.
    """
    methods = list(dict.fromkeys(r["method"] for report in reports for r in report["results"]))
    head = ["recording", "s", "frames", "coverage", *methods, "covered", "holes", "SSIM",
            "flicker", "camera"]
    rows = []
    for report in reports:
        for horizon in dict.fromkeys(r["horizon_s"] for r in report["results"]):
            by = {r["method"]: r for r in report["results"] if r["horizon_s"] == horizon}
            last = by[next(m for m in reversed(methods) if m in by)]
            known = [m for m in methods if m in by and by[m]["psnr_all"] is not None]
            best = max(known, key=lambda m: float(by[m]["psnr_all"]), default="")
            cells = [_cell(by[m]["psnr_all"] if m in by else None) for m in methods]
            rows.append([
                report["recording"], f"{horizon:g}", str(last["frames"]),
                _cell(last["coverage"]),
                *(f"**{c}**" if m == best else c for m, c in zip(methods, cells, strict=True)),
                _cell(last["psnr_covered"]), _cell(last["psnr_holes"]),
                _cell(last["ssim_all"], 3), _cell(last["flicker"], 1),
                _cell(last["camera_score"], 0)])
    return markdown_table(head, rows)


def _cell(value: float | None, digits: int = 2) -> str:
    return "-" if value is None else f"{value:.{digits}f}"
