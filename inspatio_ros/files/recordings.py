# SPDX-License-Identifier: Apache-2.0
"""One way to open whatever holds posed pictures with depth: a bag or a sequence folder."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from inspatio_ros.depth.estimator import EstimatorError
from inspatio_ros.depth.estimators import choose
from inspatio_ros.depth.from_motion import (
    ESTIMATE,
    MONOCULAR,
    PosedPicture,
    monocular_depth,
    observations_from_motion,
    scaling_estimator,
)
from inspatio_ros.files.bag_observations import BagObservations, BagOptions, BagTopics
from inspatio_ros.files.bags import BagReader
from inspatio_ros.files.sequences import Sequence, SequenceError, SequenceOptions
from inspatio_ros.sensing.observation import Observation

log = logging.getLogger(__name__)


@contextmanager
def open_recording(
    path: str | Path, topics: BagTopics | None = None, options: BagOptions | None = None, *,
    keep_all: bool = False,
) -> Iterator[Iterator[Observation]]:
    """The observations of a bag or of a folder with frames.csv, in time order.

    Depth comes from what `options.depth` names, by default the first of depth pictures, a right
    camera and the camera's own motion that there is. keep_all: a folder's frames whose depth
    cannot be told come too, with depth NaN. Raises BagError or SequenceError, naming what is
    missing, before the first observation.
    """
    folder = Path(path)
    if (folder / "frames.csv").is_file():
        with _open_sequence(folder, options or BagOptions(), keep_all) as observations:
            yield observations
        return
    with BagReader(folder) as bag:
        yield iter(BagObservations(bag, topics, options))


@contextmanager
def _open_sequence(folder: Path, options: BagOptions,
                   keep_all: bool) -> Iterator[Iterator[Observation]]:
    sequence = Sequence(folder, SequenceOptions(
        options.min_depth, options.max_depth, options.flying_pixel_jump, options.stereo_scale))
    kind = depth_source(sequence, options.depth)
    if kind not in MONOCULAR:
        yield iter(sequence)
        return
    try:
        estimator = scaling_estimator(options.depth_model) if kind == ESTIMATE else None
    except EstimatorError as error:
        raise SequenceError(f"{folder}: depth 'estimate': {error}") from error
    try:
        pictures = (
            PosedPicture(frame.stamp_ns, sequence.image(index), sequence.camera,
                         frame.world_from_camera)
            for index, frame in enumerate(sequence.frames))
        yield _with_depth(folder, keep_all, observations_from_motion(
            pictures, lambda: monocular_depth(estimator, options.min_depth, options.max_depth,
                                              options.flying_pixel_jump)))
    finally:
        if estimator is not None:
            estimator.close()


def depth_source(sequence: Sequence, asked: str) -> str:
    """Where the depth of a folder of frames comes from: sensor, stereo, motion or estimate.

    asked: one of these, or auto. Raises SequenceError when the folder does not have it.
    """
    there = {"sensor": bool(sequence.depth_kind), "stereo": sequence.has_right}
    if asked == "auto":
        return choose(sensor=there["sensor"], right_camera=there["stereo"], poses=True).name
    if not there.get(asked, asked in MONOCULAR):
        raise SequenceError(f"{sequence.folder}: no depth '{asked}': frames.csv has no column "
                            + ("right" if asked == "stereo" else "depth or lidar_depth")
                            + " (motion needs none)")
    if asked == "stereo" and there["sensor"]:
        raise SequenceError(f"{sequence.folder}: has depth pictures, which come before its right "
                            "camera; take depth 'sensor'")
    return asked


def _with_depth(folder: Path, keep_all: bool,
                observations: Iterator[Observation]) -> Iterator[Observation]:
    """Those with depth, as of bags. Raises SequenceError at the end when there was none."""
    kept = unknown = 0
    for observation in observations:
        known = bool((observation.depth > 0).any())
        kept += known
        unknown += not known
        if known or keep_all:
            yield observation
    if not kept:
        raise SequenceError(
            f"{folder}: no frame's depth can be told from the camera's motion: does the camera "
            "move, is there texture, and are the poses those of this camera?")
    if unknown:
        log.warning("%s: %d of %d frames %s: it cannot be told from the camera's motion", folder,
                    unknown, kept + unknown, "have no depth" if keep_all else
                    "are left out for want of depth")


def recording_name(path: str | Path) -> str:
    """A short name for tables: the folder's, or its parent's when it is just called bag."""
    folder = Path(path).resolve()
    return folder.parent.name if folder.stem == "bag" else folder.stem
