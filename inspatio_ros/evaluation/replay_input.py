# SPDX-License-Identifier: Apache-2.0
"""A recording as an experiment wants to see it, and the measured depth to judge it by."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from inspatio_ros.depth.estimator import EstimatorError
from inspatio_ros.depth.estimators import ESTIMATORS, available_estimators
from inspatio_ros.evaluation.experiment import DepthChoice, Experiment, ExperimentError
from inspatio_ros.evaluation.hindsight import TrueDepth, measured_depth
from inspatio_ros.files.bag_observations import BagOptions, BagTopics, find_topics
from inspatio_ros.files.bags import BagReader
from inspatio_ros.files.recordings import open_recording
from inspatio_ros.files.sequences import Sequence, SequenceError
from inspatio_ros.sensing.observation import Observation

Depth = npt.NDArray[np.float32]

# What the readers of recordings call a provider.
_SOURCES = {"motion_stereo": "motion", **dict.fromkeys(ESTIMATORS, "estimate")}


@dataclass(frozen=True)
class ReplayInput:
    """observations: posed pictures with the depth that was asked for. depth: where it comes from.
    true_depth: measured at the same instants, None where the recording has none; truth: sensor,
    stereo or ''."""

    observations: Iterator[Observation]
    depth: str
    true_depth: TrueDepth | None
    truth: str


@contextmanager
def open_replay(path: str | Path, experiment: Experiment) -> Iterator[ReplayInput]:
    """The recording at `path`, a bag or a folder of frames, with the experiment's depth.

    Raises ExperimentError, BagError or SequenceError, naming what is missing.
    """
    folder, choice = Path(path), experiment.depth
    measured = measured_source(folder, experiment.topics)
    provider = choice.provider
    if provider == "auto":
        provider = measured or "motion_stereo"
    if provider in ESTIMATORS:
        _require_estimator(provider, choice.model)
    options = BagOptions(
        depth=_SOURCES.get(provider, provider), min_depth=choice.min, max_depth=choice.max,
        stereo_scale=choice.stereo_scale, world_frame=experiment.world_frame,
        time_offset=experiment.time_offset, depth_model=choice.model)
    with ExitStack() as stack:
        if provider == "file":
            observations = _with_files(folder, choice)
        else:
            observations = stack.enter_context(open_recording(folder, experiment.topics, options))
        if provider in ("sensor", "stereo"):
            yield ReplayInput(observations, provider, measured_depth, provider)
        elif not measured:
            yield ReplayInput(observations, provider, None, "")
        else:
            again = stack.enter_context(open_recording(
                folder, experiment.topics, replace(options, depth=measured, depth_model="")))
            window = DepthWindow(again, max(experiment.horizons) + 1.0)
            yield ReplayInput(observations, provider, window, measured)


def measured_source(path: Path, topics: BagTopics | None = None) -> str:
    """What measures depth in a recording: sensor, stereo, or '' for nothing.

    Raises BagError or SequenceError when it cannot be read.
    """
    if (path / "frames.csv").is_file():
        sequence = Sequence(path)
        return "sensor" if sequence.depth_kind else "stereo" if sequence.has_depth else ""
    with BagReader(path) as bag:
        found = find_topics(bag, topics, need_depth=False)
    if found.depth and found.depth_info:
        return "sensor"
    return "stereo" if found.right and found.right_info else ""


def _require_estimator(name: str, model: str) -> None:
    try:
        registry, missing = available_estimators(model or None)
    except EstimatorError as error:
        raise ExperimentError(f"depth: provider {name}: {error}") from error
    if name not in registry.names:
        raise ExperimentError(f"depth: provider {name} cannot be used: "
                              f"{missing.get(name, 'the model folder is of another kind')}")
    if name == "fastdepth" and model:
        raise ExperimentError("depth: provider fastdepth is shipped and takes no model")


def _with_files(folder: Path, choice: DepthChoice) -> Iterator[Observation]:
    """A folder of frames with depth pictures of another folder, by the order of their names."""
    if not (folder / "frames.csv").is_file():
        raise ExperimentError(f"{folder}: depth provider file needs a folder of frames "
                              "(frames.csv): pictures of a bag have no numbers to match files by")
    sequence = Sequence(folder)
    files = sorted(p for p in Path(choice.folder).glob("*") if p.suffix in (".png", ".npy"))
    if len(files) != len(sequence):
        raise ExperimentError(f"{choice.folder}: {len(files)} depth pictures (.png, .npy) for the "
                              f"{len(sequence)} frames of {folder}")
    return (Observation(frame.stamp_ns, sequence.image(index), _read_depth(file, sequence, choice),
                        sequence.camera, frame.world_from_camera)
            for index, (frame, file) in enumerate(zip(sequence.frames, files, strict=True)))


def _read_depth(file: Path, sequence: Sequence, choice: DepthChoice) -> Depth:
    if file.suffix == ".npy":
        try:
            stored = np.load(file, allow_pickle=False)
        except (OSError, ValueError) as error:
            raise SequenceError(f"{file}: not an array: {error}") from error
        depth = np.asarray(stored, np.float32)
    else:
        counts = cv2.imread(str(file), cv2.IMREAD_UNCHANGED)
        if counts is None or counts.dtype != np.uint16 or counts.ndim != 2:
            raise SequenceError(f"{file}: not a 16 bit grey picture")
        depth = counts.astype(np.float32) * np.float32(choice.unit)
    size = (sequence.camera.height, sequence.camera.width)
    if depth.shape != size:
        raise SequenceError(f"{file}: {depth.shape} for pictures of {size}")
    with np.errstate(invalid="ignore"):
        inside = (depth >= choice.min) & (depth <= choice.max)
    return np.where(inside, depth, np.float32(np.nan))


class DepthWindow:
    """Measured depth by the stamp of an observation; holds no more than `reach` seconds."""

    def __init__(self, observations: Iterator[Observation], reach: float) -> None:
        self._observations = observations
        self._reach_ns = round(reach * 1e9)
        self._held: deque[tuple[int, Depth]] = deque()
        self._newest_ns: int | None = None

    def __call__(self, observation: Observation) -> Depth | None:
        """What was measured at the observation's instant; None when nothing was."""
        wanted = observation.stamp_ns
        while self._newest_ns is None or self._newest_ns < wanted:
            seen = next(self._observations, None)
            if seen is None:
                break
            self._held.append((seen.stamp_ns, seen.depth))
            self._newest_ns = seen.stamp_ns
            while self._held[0][0] < seen.stamp_ns - self._reach_ns:
                self._held.popleft()
        return next((depth for stamp, depth in self._held if stamp == wanted), None)
