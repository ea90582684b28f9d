# SPDX-License-Identifier: Apache-2.0
"""A stand-in for the classes of `launch` and `launch_ros` that our launch files use.

The two packages are on no Python package index, so a machine without an apt ROS lacks them.
`install()` puts the stand-in into `sys.modules` when, and only when, the real ones cannot be
imported. It evaluates a launch description as `ros2 launch` does: arguments with defaults and
choices, conditions, substitutions, includes, environment variables, and for each node the command
line that launch_ros would run. It starts nothing. Packages are looked up in `PACKAGE_SHARES`,
which holds this source tree. The tests run unchanged against the real packages where they are
installed, which keeps the stand-in honest.
"""

from __future__ import annotations

import importlib.util
import os
import sys
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, get_origin

import yaml

REPOSITORY = Path(__file__).resolve().parents[3]
PACKAGE_SHARES = {"inspatio_ros": REPOSITORY}
EXECUTABLES = {"inspatio_ros": REPOSITORY / "scripts"}


class LaunchContext:
    """The values of launch configurations while a description is evaluated."""

    def __init__(self) -> None:
        self.launch_configurations: dict[str, str] = {}
        self.environment = os.environ


class Substitution:
    """A text known only when the launch file runs."""

    def perform(self, context: LaunchContext) -> str:
        raise TypeError(f"{type(self).__name__} defines no perform()")


def perform_substitutions(context: LaunchContext, value: Any) -> str:
    """Return the text of a str, a Substitution, or a sequence of both, concatenated."""
    if isinstance(value, Substitution):
        return value.perform(context)
    if isinstance(value, str | os.PathLike):
        return os.fspath(value)
    return "".join(perform_substitutions(context, part) for part in value)


class LaunchConfiguration(Substitution):
    def __init__(self, variable_name: str, *, default: Any = None) -> None:
        self.variable_name, self.default = variable_name, default

    def perform(self, context: LaunchContext) -> str:
        if self.variable_name in context.launch_configurations:
            return context.launch_configurations[self.variable_name]
        if self.default is None:
            raise RuntimeError(f"launch configuration '{self.variable_name}' does not exist")
        return perform_substitutions(context, self.default)


class EnvironmentVariable(Substitution):
    def __init__(self, name: Any, *, default_value: Any = None) -> None:
        self.name, self.default_value = name, default_value

    def perform(self, context: LaunchContext) -> str:
        name = perform_substitutions(context, self.name)
        if name in context.environment:
            return context.environment[name]
        if self.default_value is None:
            raise RuntimeError(f"environment variable '{name}' does not exist")
        return perform_substitutions(context, self.default_value)


class PathJoinSubstitution(Substitution):
    def __init__(self, substitutions: Iterable[Any]) -> None:
        self.parts = list(substitutions)

    def perform(self, context: LaunchContext) -> str:
        return os.path.join(*(perform_substitutions(context, part) for part in self.parts))


class FindPackageShare(Substitution):
    def __init__(self, package: Any) -> None:
        self.package = package

    def perform(self, context: LaunchContext) -> str:
        package = perform_substitutions(context, self.package)
        if package not in PACKAGE_SHARES:
            raise LookupError(f"package '{package}' not found, searching: {list(PACKAGE_SHARES)}")
        return str(PACKAGE_SHARES[package])


class IfCondition:
    """True for 'true' and '1', false for 'false' and '0', in any case; nothing else is valid."""

    def __init__(self, predicate_expression: Any) -> None:
        self.expression = predicate_expression

    def evaluate(self, context: LaunchContext) -> bool:
        text = perform_substitutions(context, self.expression).strip().lower()
        if text not in ("true", "1", "false", "0"):
            raise ValueError(f"condition is neither true nor false: '{text}'")
        return text in ("true", "1")


class UnlessCondition(IfCondition):
    def evaluate(self, context: LaunchContext) -> bool:
        return not super().evaluate(context)


class Action:
    def __init__(self, *, condition: IfCondition | None = None) -> None:
        self.condition = condition

    def visit(self, context: LaunchContext) -> Sequence[Any] | None:
        """Execute the action when its condition holds; return the entities to visit next."""
        if self.condition is None or self.condition.evaluate(context):
            return self.execute(context)
        return None

    def execute(self, context: LaunchContext) -> Sequence[Any] | None:
        raise TypeError(f"{type(self).__name__} defines no execute()")


class DeclareLaunchArgument(Action):
    def __init__(self, name: str, *, default_value: Any = None, description: str | None = None,
                 choices: Sequence[str] | None = None,
                 condition: IfCondition | None = None) -> None:
        super().__init__(condition=condition)
        self.name, self.default_value = name, default_value
        self.description, self.choices = description, choices

    def execute(self, context: LaunchContext) -> None:
        if self.name not in context.launch_configurations:
            if self.default_value is None:
                raise RuntimeError(f'Required launch argument "{self.name}" was not provided.')
            context.launch_configurations[self.name] = perform_substitutions(
                context, self.default_value)
        value = context.launch_configurations[self.name]
        if self.choices is not None and value not in self.choices:
            raise RuntimeError(f'Argument "{self.name}" provided value "{value}" is not valid. '
                               f'Valid options are: {self.choices}')


class SetLaunchConfiguration(Action):
    def __init__(self, name: str, value: Any, *, condition: IfCondition | None = None) -> None:
        super().__init__(condition=condition)
        self.name, self.value = name, value

    def execute(self, context: LaunchContext) -> None:
        context.launch_configurations[self.name] = perform_substitutions(context, self.value)


class SetEnvironmentVariable(Action):
    def __init__(self, name: Any, value: Any, *, condition: IfCondition | None = None) -> None:
        super().__init__(condition=condition)
        self.name, self.value = name, value

    def execute(self, context: LaunchContext) -> None:
        context.environment[perform_substitutions(context, self.name)] = perform_substitutions(
            context, self.value)


class LaunchDescription:
    def __init__(self, entities: Iterable[Any] | None = None) -> None:
        self.entities = list(entities or [])

    def visit(self, context: LaunchContext) -> Sequence[Any]:
        return self.entities

    def get_launch_arguments(self) -> list[DeclareLaunchArgument]:
        """Return the arguments that this description declares itself, not those it includes."""
        return [entity for entity in self.entities if isinstance(entity, DeclareLaunchArgument)]


class PythonLaunchDescriptionSource:
    def __init__(self, launch_file_path: Any) -> None:
        self.launch_file_path = launch_file_path

    def get_launch_description(self, context: LaunchContext) -> LaunchDescription:
        path = Path(perform_substitutions(context, self.launch_file_path))
        specification = importlib.util.spec_from_loader(path.name, loader=None)
        assert specification is not None
        module = importlib.util.module_from_spec(specification)
        exec(compile(path.read_text(), str(path), "exec"), module.__dict__)
        description: LaunchDescription = module.__dict__["generate_launch_description"]()
        return description


class IncludeLaunchDescription(Action):
    def __init__(self, launch_description_source: PythonLaunchDescriptionSource, *,
                 launch_arguments: Iterable[tuple[str, Any]] = (),
                 condition: IfCondition | None = None) -> None:
        super().__init__(condition=condition)
        self.source, self.launch_arguments = launch_description_source, list(launch_arguments)

    def execute(self, context: LaunchContext) -> Sequence[Any]:
        description = self.source.get_launch_description(context)
        given = {name for name, _ in self.launch_arguments}
        for argument in description.get_launch_arguments():
            if argument.default_value is None and argument.name not in given:
                raise RuntimeError("Included launch description missing required argument "
                                   f"'{argument.name}', given: {sorted(given)}")
        return [*(SetLaunchConfiguration(*pair) for pair in self.launch_arguments), description]


class ParameterValue:
    def __init__(self, value: Any, *, value_type: type | None = None) -> None:
        self.value, self.value_type = value, value_type

    def evaluate(self, context: LaunchContext) -> Any:
        text = perform_substitutions(context, self.value)
        value = text if self.value_type is str else yaml.safe_load(text)
        if self.value_type is float and type(value) is int:
            value = float(value)
        expected = get_origin(self.value_type) or self.value_type
        if expected is not None and type(value) is not expected:
            raise ValueError(f"'{text}' is not a {expected.__name__}")
        return value


class Node(Action):
    """A process to run; `command()` is what launch_ros would execute."""

    def __init__(self, *, package: str, executable: str, name: str, namespace: Any = "",
                 parameters: Sequence[Any] = (), remappings: Sequence[tuple[Any, Any]] = (),
                 arguments: Sequence[Any] = (), ros_arguments: Sequence[Any] = (),
                 output: str = "log", sigterm_timeout: str = "5",
                 condition: IfCondition | None = None) -> None:
        super().__init__(condition=condition)
        self.node_package, self.node_executable, self.name = package, executable, name
        self.namespace, self.parameters, self.remappings = namespace, parameters, remappings
        self.arguments, self.ros_arguments = arguments, ros_arguments

    def execute(self, context: LaunchContext) -> None:
        raise RuntimeError("the stand-in starts no process: ask for command(context) instead")

    def command(self, context: LaunchContext) -> list[str]:
        """Return executable and arguments in launch_ros' order."""
        folder = EXECUTABLES.get(self.node_package, Path("lib") / self.node_package)
        command = [str(folder / self.node_executable)]
        command += [perform_substitutions(context, argument) for argument in self.arguments]
        if self.ros_arguments:
            command += ["--ros-args"]
        command += [perform_substitutions(context, argument) for argument in self.ros_arguments]
        namespace = perform_substitutions(context, self.namespace).strip("/")
        command += ["--ros-args", "-r", f"__node:={self.name}", "-r", f"__ns:=/{namespace}"]
        for parameters in self.parameters:
            command += ["--params-file", self._parameter_file(context, parameters)]
        for source, target in self.remappings:
            command += ["-r", f"{perform_substitutions(context, source)}:="
                        f"{perform_substitutions(context, target)}"]
        return command

    def _parameter_file(self, context: LaunchContext, parameters: Any) -> str:
        if not isinstance(parameters, dict):
            return perform_substitutions(context, parameters)
        values = {name: value.evaluate(context) if isinstance(value, ParameterValue) else
                  ParameterValue(value).evaluate(context) if isinstance(value, Substitution) else
                  value for name, value in parameters.items()}
        with tempfile.NamedTemporaryFile("w", prefix="launch_params_", suffix=".yaml",
                                         delete=False) as file:
            yaml.safe_dump({"/**": {"ros__parameters": values}}, file)
        return file.name


MODULES = {
    "launch": (LaunchContext, LaunchDescription, Substitution),
    "launch.actions": (DeclareLaunchArgument, IncludeLaunchDescription, SetEnvironmentVariable,
                       SetLaunchConfiguration),
    "launch.conditions": (IfCondition, UnlessCondition),
    "launch.launch_description_sources": (PythonLaunchDescriptionSource,),
    "launch.substitutions": (EnvironmentVariable, LaunchConfiguration, PathJoinSubstitution),
    "launch.utilities": (perform_substitutions,),
    "launch_ros": (),
    "launch_ros.actions": (Node,),
    "launch_ros.parameter_descriptions": (ParameterValue,),
    "launch_ros.substitutions": (FindPackageShare,),
}


def install() -> bool:
    """Put the stand-in into `sys.modules` unless the real packages are there; whether it did."""
    if "launch" in sys.modules:
        return getattr(sys.modules["launch"], "IS_STANDIN", False)
    if importlib.util.find_spec("launch") and importlib.util.find_spec("launch_ros"):
        return False
    for name, members in MODULES.items():
        module = ModuleType(name)
        module.__dict__.update({member.__name__: member for member in members})
        sys.modules[name] = module
        parent, _, child = name.rpartition(".")
        if parent:
            setattr(sys.modules[parent], child, module)
    sys.modules["launch"].__dict__["IS_STANDIN"] = True
    return True
