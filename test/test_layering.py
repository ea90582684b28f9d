# SPDX-License-Identifier: Apache-2.0
"""The layers of the package: which folder may import which, checked on every import statement."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from support.data import ROOT

PACKAGE = "inspatio_ros"

# What each layer may import of the package, besides itself.
CORE = (
    "geometry", "runtime", "sensing", "worlds", "depth", "messages", "memory", "model",
    "imagination", "files",
    "evaluation", "planning", "scene", "viewer", "pipeline",
)
ALLOWED: dict[str, frozenset[str]] = {
    "geometry": frozenset(),
    "runtime": frozenset(),
    "sensing": frozenset({"geometry"}),
    "worlds": frozenset({"geometry"}),
    "depth": frozenset({"geometry", "sensing"}),
    "messages": frozenset({"geometry", "sensing", "depth"}),
    "memory": frozenset({"geometry", "sensing"}),
    "model": frozenset(),
    "imagination": frozenset({"geometry", "sensing", "memory", "model", "runtime"}),
    "files": frozenset({"geometry", "sensing", "depth", "messages", "imagination.request"}),
    "training": frozenset({
        "geometry", "sensing", "memory", "model", "imagination", "files", "worlds",
        "evaluation.perceptual", "depth.stereo",
    }),
    "evaluation": frozenset({
        "geometry", "sensing", "depth", "messages", "memory", "imagination", "files", "worlds",
    }),
    "planning": frozenset({
        "geometry", "sensing", "messages", "memory", "model", "imagination", "files", "worlds",
    }),
    "scene": frozenset({
        "geometry", "sensing", "depth", "memory", "model", "imagination", "files", "viewer",
        "pipeline",
    }),
    "viewer": frozenset({"files"}),
    "pipeline": frozenset({
        "geometry", "sensing", "depth", "memory", "model", "imagination", "files", "viewer",
        "captioning",
    }),
    "captioning": frozenset(),
    "cli": frozenset({*CORE, "training", "ros", "captioning", "msg", "srv", "action"}),
    "ros": frozenset({*CORE, "captioning", "msg", "srv", "action"}),
}
# Modules of the package itself that belong to no layer; every layer may import them.
COMMON = frozenset({"share"})

# Torch at module level: these and no others; the rest of memory and the runtime import it late.
TORCH_AT_MODULE_LEVEL = ("model", "imagination", "memory.splatting_", "training")
TORCH_NEVER = ("geometry", "sensing", "files")
TORCH_TOPS = frozenset({"torch", "torchvision", "triton"})
# Optional kernels and adapters, only inside functions.
LATE_ONLY = frozenset({"triton", "open3d", "transformers", "depth_anything_3", "ray"})
# Geometry is the ground of everything.
GEOMETRY_THIRD_PARTY = frozenset({"numpy", "scipy"})

ROS_TOPS = frozenset({
    "rclpy", "rcl_interfaces", "ament_index_python", "cv_bridge", "launch", "launch_ros",
    "message_filters", "rosgraph_msgs", "rosidl_runtime_py", "sensor_msgs_py", "std_srvs",
    "tf2_ros", "tf2_py", "tf_transformations", "builtin_interfaces",
})


class Import(NamedTuple):
    """One imported dotted name, where it stands and whether it runs at import time."""

    name: str
    line: int
    at_module_level: bool


def module_name(path: Path, root: Path) -> str:
    """The dotted name of a source file below `root`."""
    parts = list(path.relative_to(root).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(source: str, module: str, is_package: bool) -> Iterator[Import]:
    """Every import of a module, relative ones resolved; those for type checkers are left out."""
    tree = ast.parse(source)

    def walk(node: ast.AST, at_module_level: bool) -> Iterator[Import]:
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            for child in node.orelse:
                yield from walk(child, at_module_level)
            return
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(alias.name, node.lineno, at_module_level)
        elif isinstance(node, ast.ImportFrom):
            base = module.split(".")[: len(module.split(".")) - node.level + is_package]
            start = ".".join(base) if node.level else ""
            target = ".".join(part for part in (start, node.module) if part)
            for alias in node.names:
                yield Import(f"{target}.{alias.name}", node.lineno, at_module_level)
        inside = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        for child in ast.iter_child_nodes(node):
            yield from walk(child, at_module_level and not inside)

    yield from walk(tree, True)


def below(name: str, prefix: str) -> bool:
    """Whether dotted `name` is `prefix` or lies in it; a prefix ending in `_` is a beginning."""
    return name == prefix or name.startswith(prefix if prefix.endswith("_") else prefix + ".")


def violations(path: Path, root: Path) -> list[str]:
    """One sentence for each import of the file at `path` that the layers forbid."""
    module = module_name(path, root)
    inner = module.removeprefix(PACKAGE).lstrip(".")  # below the package
    layer = inner.split(".")[0]
    found: list[str] = []
    if layer and layer not in ALLOWED and layer not in COMMON:
        return [f"{module}: `{layer}` is no known layer"]
    for item in imports(path.read_text(), module, path.name == "__init__.py"):
        top = item.name.split(".")[0]
        problem: str | None = None
        if top == PACKAGE:
            target = item.name.removeprefix(PACKAGE).lstrip(".")
            wanted = target.split(".")[0]
            allowed = ALLOWED.get(layer, frozenset())
            known = wanted in ALLOWED or wanted in ("msg", "srv", "action")
            if known and wanted != layer and not any(below(target, a) for a in allowed):
                problem = f"layer `{layer}` must not import `{wanted}`"
        elif (top in ROS_TOPS or top.endswith("_msgs")) and layer != "ros":
            problem = "only `ros` may import ROS"
        elif layer == "geometry" and top in ("torch", "cv2", "numba", "PIL", "av", "rosbags"):
            problem = "`geometry` stands on numpy and scipy alone"
        elif top in TORCH_TOPS and layer in TORCH_NEVER:
            problem = f"`{layer}` never imports {top}"
        elif item.at_module_level and top in LATE_ONLY:
            problem = f"{top} is optional: import it inside the function that needs it"
        elif item.at_module_level and top in TORCH_TOPS and not any(
            below(inner, prefix) for prefix in TORCH_AT_MODULE_LEVEL
        ):
            problem = f"`{layer}` must import {top} inside functions"
        if problem:
            found.append(f"{path}:{item.line}: import of {item.name}: {problem}")
    return found


def test_every_import_keeps_to_the_layers() -> None:
    paths = sorted((ROOT / PACKAGE).rglob("*.py"))
    assert len(paths) > 10, "the sources were not found"
    found = [problem for path in paths for problem in violations(path, ROOT)]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("place", "statement", "reason"),
    [
        (
            "geometry/a.py",
            "from inspatio_ros.sensing import observation",
            "must not import `sensing`",
        ),
        (
            "geometry/a.py",
            "from ..sensing.observation import Observation",
            "must not import `sensing`",
        ),
        ("geometry/__init__.py", "from ..memory import guide", "must not import `memory`"),
        ("geometry/a.py", "import torch", "numpy and scipy alone"),
        ("geometry/a.py", "def f():\n    import cv2", "numpy and scipy alone"),
        ("sensing/a.py", "def f():\n    import torch", "never imports torch"),
        ("files/a.py", "import torch.nn as nn", "never imports torch"),
        (
            "files/a.py",
            "from inspatio_ros.imagination.engine import X",
            "must not import `imagination`",
        ),
        ("memory/rolling.py", "import torch", "inside functions"),
        ("runtime/a.py", "import torch", "inside functions"),
        ("memory/splatting_triton.py", "import triton", "optional"),
        ("depth/a.py", "from transformers import pipeline", "optional"),
        ("model/a.py", "from inspatio_ros.geometry import camera", "must not import `geometry`"),
        ("imagination/a.py", "def f():\n    import rclpy", "only `ros` may import ROS"),
        ("imagination/a.py", "from sensor_msgs.msg import Image", "only `ros` may import ROS"),
        (
            "imagination/a.py",
            "from inspatio_ros.msg import ImaginedFrame",
            "must not import `msg`",
        ),
        ("cli/a.py", "import rclpy", "only `ros` may import ROS"),
        ("memory/a.py", "from inspatio_ros.ros.qos import X", "must not import `ros`"),
        ("memory/a.py", "from inspatio_ros import cli", "must not import `cli`"),
        ("ros/a.py", "from inspatio_ros.training import trainer", "must not import `training`"),
        ("ros/a.py", "from inspatio_ros.cli.main import main", "must not import `cli`"),
        ("if_else/a.py", "import os", "no known layer"),
        (
            "memory/a.py",
            "try:\n    import open3d\nexcept ImportError:\n    open3d = None",
            "optional",
        ),
    ],
)
def test_a_violation_is_found(tmp_path: Path, place: str, statement: str, reason: str) -> None:
    path = tmp_path / PACKAGE / place
    path.parent.mkdir(parents=True)
    path.write_text(statement + "\n")
    found = violations(path, tmp_path)
    assert len(found) == 1
    assert reason in found[0]


@pytest.mark.parametrize(
    ("place", "statement"),
    [
        ("geometry/a.py", "import numpy as np\nfrom scipy.spatial.transform import Slerp"),
        (
            "geometry/a.py",
            "from inspatio_ros.geometry import rigid\nfrom . import rigid\nfrom .rigid import x",
        ),
        ("files/a.py", "from inspatio_ros.imagination.request import ImaginationRequest"),
        ("files/a.py", "from inspatio_ros.imagination import request"),
        ("memory/splatting_torch.py", "import torch"),
        ("memory/rolling.py", "def f():\n    import torch"),
        ("imagination/a.py", "import torch\nfrom inspatio_ros.memory.guide import Guide"),
        ("runtime/a.py", "def f():\n    import torch"),
        ("depth/a.py", "def f():\n    from transformers import pipeline"),
        (
            "ros/a.py",
            "import rclpy\nfrom inspatio_ros.msg import ImaginedFrame\nfrom . import qos",
        ),
        ("memory/a.py", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import torch"),
    ],
)
def test_what_the_layers_allow_is_not_reported(tmp_path: Path, place: str, statement: str) -> None:
    path = tmp_path / PACKAGE / place
    path.parent.mkdir(parents=True)
    path.write_text(statement + "\n")
    assert violations(path, tmp_path) == []
