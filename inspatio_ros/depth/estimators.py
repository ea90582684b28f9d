# SPDX-License-Identifier: Apache-2.0
"""Which depth estimators this machine can run, and which source of depth to use."""

from __future__ import annotations

import importlib.util
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from inspatio_ros.depth.depth_anything import DepthAnything3
from inspatio_ros.depth.estimator import EstimatorError, EstimatorRegistry
from inspatio_ros.depth.fastdepth import FOLDER, FastDepth, installed_runtime
from inspatio_ros.depth.transformers_depth import TransformersDepth
from inspatio_ros.share import share_folder

log = logging.getLogger(__name__)

# Best first. Motion stereo needs poses; FastDepth is for rooms only, so it comes last.
ORDER = ("sensor", "file", "stereo", "depth_anything_3", "transformers", "motion", "fastdepth")
ESTIMATORS = ("depth_anything_3", "transformers", "fastdepth")


@dataclass(frozen=True)
class Choice:
    """A source of depth by its name in `ORDER`, and one sentence on why."""

    name: str
    reason: str


def available_estimators(folder: str | Path | None = None) -> tuple[EstimatorRegistry,
                                                                   dict[str, str]]:
    """The estimators that can be made here, and for the others what is missing.

    folder: a local model in transformers' layout or of Depth Anything 3, told apart by its
    config.json.
    """
    registry, missing = EstimatorRegistry(), {}
    kind = _kind_of(Path(folder)) if folder else ""
    if kind == "depth_anything_3" and importlib.util.find_spec("depth_anything_3"):
        registry.register(kind, lambda: DepthAnything3(str(folder)))
    else:
        missing["depth_anything_3"] = (
            "its package is not installed" if kind == "depth_anything_3"
            else "no folder with its weights is given")
    if kind == "transformers" and importlib.util.find_spec("transformers"):
        registry.register(kind, lambda: TransformersDepth(str(folder)))
    else:
        missing["transformers"] = ("transformers is not installed" if kind == "transformers"
                                   else "no folder with a depth-estimation model is given")
    if not installed_runtime():
        missing["fastdepth"] = "LiteRT is not installed (pip install 'inspatio_ros[depth]')"
    elif not _is_shipped():
        missing["fastdepth"] = f"the folder weights/{FOLDER} is not installed"
    else:
        registry.register("fastdepth", FastDepth)
    return registry, missing


def _is_shipped() -> bool:
    try:
        return (share_folder("weights") / FOLDER).is_dir()
    except FileNotFoundError:
        return False


def _kind_of(folder: Path) -> str:
    """Which package a model folder is for. Raises EstimatorError when it has no config.json."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise EstimatorError(f"{folder}: no config.json: not a depth model") from None
    except ValueError as error:
        raise EstimatorError(f"{folder}/config.json: not JSON: {error}") from error
    name = config.get("model_name", "") if isinstance(config, dict) else ""
    return "depth_anything_3" if str(name).startswith("da3") else "transformers"


def choose(*, sensor: bool = False, file: bool = False, right_camera: bool = False,
           poses: bool = False, estimators: Sequence[str] = ()) -> Choice:
    """The best source of depth by what is there, logged with its reason.

    Learned relative depth gets its metres from motion where there are poses. Raises ValueError
    naming what would help when there is nothing.
    """
    reasons = {
        "sensor": (sensor, "there is measured depth"),
        "file": (file, "depth was made before"),
        "stereo": (right_camera, "there is a right camera"),
        "motion": (poses, "there are poses of the camera and no depth model"),
    }
    scaled = "; its scale comes from the camera's motion" if poses else "; its scale is not metric"
    for name in ESTIMATORS:
        only_rooms = " (rooms only)" if name == "fastdepth" else ""
        reasons[name] = (name in estimators, f"its model is there{only_rooms}{scaled}")
    for name in ORDER:
        there, reason = reasons[name]
        if there:
            log.info("depth from %s: %s", name, reason)
            return Choice(name, reason)
    raise ValueError("no depth: neither measured depth, a right camera, poses of a moving camera "
                     "nor a depth model; install 'inspatio_ros[depth]' or name a model's folder")
