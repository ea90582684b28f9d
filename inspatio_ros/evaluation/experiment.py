# SPDX-License-Identifier: Apache-2.0
"""What a replay experiment is: a YAML file in which every key may be left out.

Unknown keys, wrong types and impossible values are refused with file, line and the nearest key.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import yaml

from inspatio_ros.depth.estimators import ESTIMATORS
from inspatio_ros.evaluation.baselines import BASELINES
from inspatio_ros.evaluation.hindsight import HindsightOptions, Offset
from inspatio_ros.files.bag_observations import BagTopics
from inspatio_ros.imagination.backends import BACKENDS, GEOMETRIC
from inspatio_ros.memory.moving import MovingOptions
from inspatio_ros.memory.world_memory import MemoryOptions

PROVIDERS = ("auto", "sensor", "stereo", "file", "motion_stereo", *ESTIMATORS)
BAG_FRAMES = ("compared", "all", "none")


class ExperimentError(ValueError):
    """An experiment that cannot be run; names file, line, key and value."""


@dataclass(frozen=True)
class DepthChoice:
    """Where depth comes from.

    provider: one of PROVIDERS; auto is the first of sensor, stereo and motion_stereo that there
    is. model: folder of the estimator's model. folder: of the pictures for `file`, 16 bit PNG or
    float32 .npy, one a frame in the order of their names; unit: metres of one count of theirs.
    min, max: m. stereo_scale: size at which pairs are matched, (0, 1].
    """

    provider: str = "auto"
    model: str = ""
    folder: str = ""
    unit: float = 0.001
    min: float = 0.1
    max: float = 80.0
    stereo_scale: float = 0.5


@dataclass(frozen=True)
class NetworkFiles:
    """Weights of the networks that some distances need; empty: that distance is left out.

    features: EfficientNet-Lite0. lpips_backbone, lpips_heads: AlexNet and LPIPS' linear layers.
    fid, fvd: TorchScript Inception and I3D. See `evaluation.perceptual`.
    """

    features: str = ""
    lpips_backbone: str = ""
    lpips_heads: str = ""
    fid: str = ""
    fvd: str = ""


@dataclass(frozen=True)
class Experiment:
    """Everything that a replay depends on but the recording.

    preset: what imagines, beside the geometric filler, which always does. steps: denoising steps
    of it, a number or the listed times; none: the model's own. methods: baselines. frames_in_bag:
    which imagined frames are written. Others: see HindsightOptions, BagOptions, MemoryOptions.
    """

    topics: BagTopics = BagTopics()
    depth: DepthChoice = DepthChoice()
    preset: tuple[str, ...] = (GEOMETRIC,)
    weights: str = ""
    device: str = ""
    steps: tuple[int, ...] = ()
    horizons: tuple[float, ...] = (0.5, 1.0, 2.0, 4.0)
    offsets: tuple[Offset, ...] = ()
    seeds: tuple[int, ...] = (0,)
    stride: int = 5
    warm_up: int = 5
    width: int = 416
    skip: int = 0
    limit: int = 0
    methods: tuple[str, ...] = BASELINES
    memory: MemoryOptions = MemoryOptions(capacity=2_000_000)
    world_frame: str = "odom"
    time_offset: float = 0.0
    networks: NetworkFiles = field(default_factory=NetworkFiles)
    frames_in_bag: str = "compared"
    mode: str = "composite"

    @property
    def hindsight(self) -> HindsightOptions:
        """The same as options of `hindsight.evaluate`."""
        return HindsightOptions(
            self.horizons, self.stride, self.warm_up, self.width, self.skip, self.limit,
            seed=self.seeds[0], more_seeds=self.seeds[1:], methods=self.methods, thorough=True,
            offsets=self.offsets, mode=self.mode)

    @property
    def engines(self) -> tuple[str, ...]:
        """Presets that imagine: the geometric filler first."""
        return (GEOMETRIC, *(name for name in self.preset if name != GEOMETRIC))

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for the report."""
        def plain(value: Any) -> Any:
            if isinstance(value, dict):
                return {key: plain(item) for key, item in value.items()}
            if isinstance(value, tuple | list):
                return [plain(item) for item in value]
            return None if isinstance(value, float) and not math.isfinite(value) else value

        return dict(plain(asdict(self)))


def load_experiment(path: str | Path) -> Experiment:
    """The experiment in a YAML file; paths in it are relative to its folder.

    Raises ExperimentError naming file, line and the nearest known key.
    """
    file = Path(path)
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ExperimentError(f"{file}: cannot be read: {error}") from error
    loader = yaml.SafeLoader(text)
    try:
        node = loader.get_single_node()
    except yaml.YAMLError as error:
        raise ExperimentError(f"{file}: not YAML: {' '.join(str(error).split())}") from error
    if node is None:
        return Experiment()
    return _Reader(file, loader).experiment(node)


def checked(experiment: Experiment) -> Experiment:
    """The experiment, once all its values make sense together. Raises ExperimentError."""
    try:
        _ = experiment.hindsight
        _check_words("preset", experiment.preset, BACKENDS)
        _check_words("depth provider", (experiment.depth.provider,), PROVIDERS)
        _check_words("frames_in_bag", (experiment.frames_in_bag,), BAG_FRAMES)
        if not experiment.seeds or len(set(experiment.seeds)) < len(experiment.seeds):
            raise ValueError(f"seeds must be different, at least one, got {experiment.seeds}")
        depth = experiment.depth
        if not 0 < depth.min < depth.max:
            raise ValueError(f"depth from {depth.min:g} m to {depth.max:g} m is empty")
        if not 0 < depth.stereo_scale <= 1 or not depth.unit > 0:
            raise ValueError("depth: stereo_scale must be in (0, 1] and unit positive, got "
                             f"{depth.stereo_scale:g} and {depth.unit:g}")
        if depth.folder and depth.provider != "file":
            raise ValueError("depth: folder is for provider file, not " + depth.provider)
        if depth.provider == "file" and not depth.folder:
            raise ValueError("depth: provider file needs folder, that of the depth pictures")
        if depth.provider in ("depth_anything_3", "transformers") and not depth.model:
            raise ValueError(f"depth: provider {depth.provider} needs model, the folder of its "
                             "weights")
        if experiment.memory.capacity < 1 or not experiment.memory.voxel_size > 0:
            raise ValueError("memory: capacity and voxel_size must be positive")
    except ValueError as error:
        raise ExperimentError(str(error)) from error
    return experiment


def _check_words(name: str, words: tuple[str, ...], known: tuple[str, ...]) -> None:
    for word in words:
        if word not in known:
            raise ValueError(f"{name}: '{word}' {_nearest(word, known)}")


def _nearest(word: str, known: tuple[str, ...]) -> str:
    close = difflib.get_close_matches(word, known, 1)
    return f"is not known: did you mean '{close[0]}'?" if close else (
        f"is not one of {', '.join(known)}")


Convert = Callable[["_Reader", str, yaml.Node], Any]


class _Reader:
    """Turns nodes into values, each error with its line."""

    def __init__(self, file: Path, loader: yaml.SafeLoader) -> None:
        self._file, self._loader = file, loader

    def experiment(self, node: yaml.Node) -> Experiment:
        values = self.table("", node, _EXPERIMENT)
        try:
            return checked(replace(Experiment(), **values))
        except ExperimentError as error:
            raise self.wrong(self._node_of(node, str(error)), str(error)) from error

    def wrong(self, node: yaml.Node, sentence: str) -> ExperimentError:
        return ExperimentError(f"{self._file}, line {node.start_mark.line + 1}: {sentence}")

    @staticmethod
    def _node_of(node: yaml.Node, sentence: str) -> yaml.Node:
        """The value that a sentence is about, by its first word."""
        if isinstance(node, yaml.MappingNode):
            for key, value in node.value:
                if sentence.replace(":", " ").split()[0] == key.value:
                    return value if isinstance(value, yaml.Node) else node
        return node

    def table(self, where: str, node: yaml.Node, known: Mapping[str, Convert]) -> dict[str, Any]:
        """Values by key of a mapping; `where` it stands, '' at the top."""
        if not isinstance(node, yaml.MappingNode):
            raise self.wrong(node, f"{where or 'an experiment'} must be a table of keys, got "
                             f"{self.value(node)!r}")
        values: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key = str(key_node.value)
            if key not in known:
                name = f"{where}.{key}" if where else key
                raise self.wrong(key_node, f"key '{name}' {_nearest(key, tuple(known))}")
            if key in values:
                raise self.wrong(key_node, f"key '{key}' stands twice")
            values[key] = known[key](self, f"{where}.{key}" if where else key, value_node)
        return values

    def value(self, node: yaml.Node) -> Any:
        try:
            return self._loader.construct_object(node, deep=True)
        except yaml.YAMLError as error:
            raise self.wrong(node, " ".join(str(error).split())) from error

    def items(self, node: yaml.Node) -> list[yaml.Node]:
        """A list's nodes; a single value counts as a list of one."""
        return list(node.value) if isinstance(node, yaml.SequenceNode) else [node]

    def path(self, text: str) -> str:
        return str(self._file.parent / Path(text).expanduser()) if text else ""


def _number(reader: _Reader, name: str, node: yaml.Node) -> float:
    value = reader.value(node)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise reader.wrong(node, f"{name} must be a number, got {value!r}")
    return float(value)


def _integer(reader: _Reader, name: str, node: yaml.Node) -> int:
    value = reader.value(node)
    if isinstance(value, bool) or not isinstance(value, int):
        raise reader.wrong(node, f"{name} must be a whole number, got {value!r}")
    return value


def _text(reader: _Reader, name: str, node: yaml.Node) -> str:
    value = reader.value(node)
    if not isinstance(value, str):
        raise reader.wrong(node, f"{name} must be text, got {value!r}")
    return value


def _path(reader: _Reader, name: str, node: yaml.Node) -> str:
    return reader.path(_text(reader, name, node))


def _many(convert: Convert) -> Convert:
    def read(reader: _Reader, name: str, node: yaml.Node) -> tuple[Any, ...]:
        return tuple(convert(reader, name, item) for item in reader.items(node))
    return read


def _part(default: Any, known: Mapping[str, Convert], short: str = "") -> Convert:
    """A nested table; plain text, where it is allowed, is the key `short`."""
    def read(reader: _Reader, name: str, node: yaml.Node) -> Any:
        if short and isinstance(node, yaml.ScalarNode):
            return replace(default, **{short: _text(reader, name, node)})
        return replace(default, **reader.table(name, node, known))
    return read


def _offset(reader: _Reader, name: str, node: yaml.Node) -> Offset:
    values = reader.table(name, node, {"lateral_m": _number, "yaw_deg": _number})
    return Offset(values.get("lateral_m", 0.0), math.radians(values.get("yaw_deg", 0.0)))


def _moving(reader: _Reader, name: str, node: yaml.Node) -> MovingOptions | None:
    value = reader.value(node)
    if not isinstance(value, bool):
        raise reader.wrong(node, f"{name} must be true or false, got {value!r}")
    return MovingOptions() if value else None


_EXPERIMENT: dict[str, Convert] = {
    "topics": _part(BagTopics(), {item.name: _text for item in fields(BagTopics)}),
    "depth": _part(DepthChoice(), {
        "provider": _text, "model": _path, "folder": _path, "unit": _number, "min": _number,
        "max": _number, "stereo_scale": _number}, short="provider"),
    "preset": _many(_text), "weights": _path, "device": _text, "steps": _many(_integer),
    "horizons": _many(_number), "offsets": _many(_offset), "seeds": _many(_integer),
    "stride": _integer, "warm_up": _integer, "width": _integer, "skip": _integer,
    "limit": _integer, "methods": _many(_text),
    "memory": _part(MemoryOptions(capacity=2_000_000), {
        "capacity": _integer, "max_age": _number, "max_radius": _number, "voxel_size": _number,
        "max_depth": _number, "moving": _moving}),
    "world_frame": _text, "time_offset": _number,
    "networks": _part(NetworkFiles(), {item.name: _path for item in fields(NetworkFiles)}),
    "frames_in_bag": _text, "mode": _text,
}
