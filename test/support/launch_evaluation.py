# SPDX-License-Identifier: Apache-2.0
"""Evaluate a launch file without starting it, with the real `launch` or with the stand-in."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import yaml

from support import launch_standin

USES_STANDIN = launch_standin.install()
LAUNCH_FOLDER = Path(__file__).resolve().parents[2] / "launch"


@dataclass(frozen=True)
class LaunchedNode:
    """One node process of a launch file: its command line, and what that says."""

    package: str
    executable: str
    command: tuple[str, ...]
    environment: Mapping[str, str] = field(repr=False)

    @property
    def remappings(self) -> dict[str, str]:
        """Return every `-r from:=to`, `__node` and `__ns` included."""
        rules = [text for flag, text in zip(self.command, self.command[1:], strict=False)
                 if flag == "-r"]
        return dict(rule.split(":=", 1) for rule in rules)

    @property
    def name(self) -> str:
        return self.remappings["__node"]

    @property
    def namespace(self) -> str:
        return self.remappings["__ns"]

    @property
    def full_name(self) -> str:
        return f"{self.namespace.rstrip('/')}/{self.name}"

    @property
    def parameter_files(self) -> list[Path]:
        return [Path(text) for flag, text in zip(self.command, self.command[1:], strict=False)
                if flag == "--params-file"]

    @property
    def parameters(self) -> dict[str, Any]:
        """Return the parameters of all files, flattened to dotted names, later files first."""
        values: dict[str, Any] = {}
        for path in self.parameter_files:
            for section in yaml.safe_load(path.read_text()).values():
                values.update(flattened(section["ros__parameters"]))
        return values


@dataclass(frozen=True)
class LaunchedDescription:
    """What a launch file would do: node processes, environment variables set, its arguments."""

    nodes: tuple[LaunchedNode, ...]
    environment: dict[str, str]
    arguments: dict[str, Any]


def flattened(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield (dotted name, value) of nested parameters."""
    for name, value in tree.items():
        if isinstance(value, Mapping):
            yield from flattened(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def evaluate(launch_file: str, **arguments: str) -> LaunchedDescription:
    """Return what `ros2 launch inspatio_ros LAUNCH_FILE name:=value…` would start.

    Raises what launch raises: RuntimeError for a value outside an argument's choices, LookupError
    for an unknown package.
    """
    from launch import LaunchContext
    from launch.launch_description_sources import PythonLaunchDescriptionSource

    with mock.patch.dict(os.environ):
        before = dict(os.environ)
        context = LaunchContext()
        context.launch_configurations.update(arguments)
        source = PythonLaunchDescriptionSource(str(LAUNCH_FOLDER / launch_file))
        description = source.get_launch_description(context)
        declared: dict[str, Any] = {}
        nodes = tuple(_visit(description, context, declared))
        changed = {name: value for name, value in os.environ.items()
                   if before.get(name) != value}
    return LaunchedDescription(nodes, changed, declared)


def _visit(entity: Any, context: Any, declared: dict[str, Any]) -> Iterator[LaunchedNode]:
    """Walk a launch description in launch's order: nodes are taken, all else is executed."""
    from launch.actions import DeclareLaunchArgument
    from launch_ros.actions import Node

    if isinstance(entity, Node):
        if entity.condition is None or entity.condition.evaluate(context):
            yield _node(entity, context)
        return
    if isinstance(entity, DeclareLaunchArgument):
        declared.setdefault(entity.name, entity)
    for child in entity.visit(context) or ():
        yield from _visit(child, context, declared)


def _node(node: Any, context: Any) -> LaunchedNode:
    from launch.utilities import perform_substitutions

    if USES_STANDIN:
        command = node.command(context)
    else:
        node._perform_substitutions(context)
        namespace = node.expanded_node_namespace
        context.extend_locals({"ros_specific_arguments": {
            "name": f"__node:={node.node_name.rsplit('/', 1)[-1]}", "ns": f"__ns:={namespace}"}})
        command = [perform_substitutions(context, part) for part in node.cmd[1:]]
        command.insert(0, str(node.node_executable))
    return LaunchedNode(str(node.node_package), Path(command[0]).name, tuple(command),
                        dict(os.environ))
