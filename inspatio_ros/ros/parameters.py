# SPDX-License-Identifier: Apache-2.0
"""Typed ROS parameters: one frozen dataclass per group is their only description.

A node's parameters are a frozen dataclass whose fields are made with `param` (a parameter) or
`group` (a nested dataclass, the prefix of its parameters' names). From it come the declaration
with descriptors, the check of overrides, the shipped YAML files and the tables of the docs.
"""

from __future__ import annotations

import dataclasses
import difflib
import threading
from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

from rcl_interfaces.msg import (
    FloatingPointRange,
    IntegerRange,
    ParameterDescriptor,
    SetParametersResult,
)
from rclpy.exceptions import InvalidParameterTypeException, InvalidParameterValueException
from rclpy.node import Node
from rclpy.parameter import Parameter

T = TypeVar("T")

# Parameters that rclpy itself declares on every node.
BUILT_IN = ("use_sim_time", "start_type_description_service")
BUILT_IN_PREFIXES = ("qos_overrides.",)


class ParameterError(ValueError):
    """A parameter that does not exist, has the wrong type, or a value that is not allowed."""


def param(
    default: Any, description: str, *, unit: str = "", minimum: float | None = None,
    maximum: float | None = None, choices: Sequence[str] = (), dynamic: bool = False,
) -> Any:
    """A dataclass field that is one ROS parameter.

    dynamic: may be set while the node runs; else read-only after the start. A tuple default makes
    an array parameter, whose every element must lie in [minimum, maximum].
    """
    return dataclasses.field(default=default, metadata={
        "description": description, "unit": unit, "minimum": minimum, "maximum": maximum,
        "choices": tuple(choices), "dynamic": dynamic})


def group(dataclass_type: type) -> Any:
    """A dataclass field that is a group of parameters."""
    return dataclasses.field(default_factory=dataclass_type, metadata={"group": dataclass_type})


@dataclasses.dataclass(frozen=True)
class ParameterInfo:
    """One parameter as declared: everything the docs and the descriptor say."""

    name: str
    default: Any
    description: str
    unit: str
    minimum: float | None
    maximum: float | None
    choices: tuple[str, ...]
    dynamic: bool

    @property
    def type_name(self) -> str:
        """bool, int, double, string or an array of them."""
        value = self.default[0] if isinstance(self.default, tuple) else self.default
        names = {bool: "bool", int: "int", float: "double", str: "string"}
        return names[type(value)] + ("[]" if isinstance(self.default, tuple) else "")

    @property
    def allowed(self) -> str:
        """The allowed values in words, empty when all are."""
        if self.choices:
            return ", ".join(choice or '""' for choice in self.choices)
        if self.minimum is None and self.maximum is None:
            return ""
        low = "" if self.minimum is None else f"{self.minimum:g}"
        high = "" if self.maximum is None else f"{self.maximum:g}"
        return f"{low} .. {high}"

    def problem(self, value: Any) -> str | None:
        """What is wrong with a value of the right type, or None."""
        values = list(value) if isinstance(self.default, tuple) else [value]
        if isinstance(self.default, tuple) and not values:
            return f"{self.name}: an empty array, needs at least one value"
        for item in values:
            if self.choices and item not in self.choices:
                close = difflib.get_close_matches(str(item), self.choices, 1)
                hint = f"; did you mean '{close[0]}'?" if close else ""
                return f"{self.name}: '{item}' is not one of {self.allowed}{hint}"
            if isinstance(item, (int, float)) and not isinstance(item, bool):
                low = -float("inf") if self.minimum is None else self.minimum
                high = float("inf") if self.maximum is None else self.maximum
                if not low <= item <= high:
                    return f"{self.name}: {item} is outside {self.allowed} {self.unit}".rstrip()
        return None

    def descriptor(self) -> ParameterDescriptor:
        """What ROS tools show, and what rclpy enforces (range of scalars, read-only)."""
        unit = f" [{self.unit}]" if self.unit else ""
        descriptor = ParameterDescriptor(
            description=self.description + unit, read_only=not self.dynamic,
            additional_constraints=self.allowed)
        bounded = self.minimum is not None or self.maximum is not None
        if bounded and isinstance(self.default, float):
            descriptor.floating_point_range = [FloatingPointRange(
                from_value=float(-1e308 if self.minimum is None else self.minimum),
                to_value=float(1e308 if self.maximum is None else self.maximum))]
        elif bounded and isinstance(self.default, int) and not isinstance(self.default, bool):
            descriptor.integer_range = [IntegerRange(
                from_value=int(-2**63 if self.minimum is None else self.minimum),
                to_value=int(2**63 - 1 if self.maximum is None else self.maximum))]
        return descriptor


def describe(root: type, prefix: str = "") -> list[ParameterInfo]:
    """Every parameter of a parameters dataclass, in declaration order."""
    found: list[ParameterInfo] = []
    for field in dataclasses.fields(root):
        nested = field.metadata.get("group")
        if nested is not None:
            found += describe(nested, f"{prefix}{field.name}.")
        else:
            meta = field.metadata
            found.append(ParameterInfo(
                f"{prefix}{field.name}", field.default, meta["description"], meta["unit"],
                meta["minimum"], meta["maximum"], meta["choices"], meta["dynamic"]))
    return found


def build(root: type[T], values: dict[str, Any], prefix: str = "") -> T:
    """The dataclass filled from {name: value}; names not given keep their default.

    Raises ValueError when the dataclass' own `check` method objects.
    """
    arguments: dict[str, Any] = {}
    for field in dataclasses.fields(root):  # type: ignore[arg-type]
        nested = field.metadata.get("group")
        name = f"{prefix}{field.name}"
        if nested is not None:
            arguments[field.name] = build(nested, values, f"{name}.")
        elif name in values:
            value = values[name]
            arguments[field.name] = tuple(value) if isinstance(field.default, tuple) else value
    instance = root(**arguments)
    check = getattr(instance, "check", None)
    if check is not None:
        check()
    return instance


def unknown_name_error(name: str, known: Sequence[str], node_name: str) -> str:
    """The sentence for a parameter that the node does not have, with the nearest that it has."""
    close = difflib.get_close_matches(name, known, 1, 0.6)
    if not close:
        # A right leaf under a wrong group is the common YAML nesting mistake.
        leaf = name.rsplit(".", 1)[-1]
        close = [other for other in known if other.rsplit(".", 1)[-1] == leaf][:1]
    hint = f"did you mean '{close[0]}'?" if close else "see docs/interface.md for what it has"
    return f"node '{node_name}' has no parameter '{name}': {hint}"


class Parameters(Generic[T]):
    """A node's parameters: declared with descriptors, checked, always one consistent instance.

    `values` is replaced as a whole when dynamic parameters are set, so any thread may read it.
    `on_change(values)` is called on the executor's thread after that.
    Raises ParameterError on unknown overrides, wrong types and values that are not allowed.
    """

    def __init__(self, node: Node, root: type[T],
                 on_change: Callable[[T], None] | None = None) -> None:
        self._root = root
        self._node = node
        self._infos = {info.name: info for info in describe(root)}
        self._lock = threading.Lock()
        self.on_change = on_change
        self._refuse_unknown_overrides()
        declared = {name: self._declare(info) for name, info in self._infos.items()}
        problems = [p for name, value in declared.items()
                    if (p := self._infos[name].problem(value)) is not None]
        if problems:
            raise ParameterError("; ".join(problems))
        self._current = declared
        self._values = self._build(declared)
        node.add_on_set_parameters_callback(self._on_set)
        node.add_post_set_parameters_callback(self._on_post_set)

    @property
    def values(self) -> T:
        """The current values, as one frozen instance."""
        with self._lock:
            return self._values

    def _build(self, values: dict[str, Any]) -> T:
        try:
            return build(self._root, values)
        except ValueError as error:
            raise ParameterError(str(error)) from error

    def _refuse_unknown_overrides(self) -> None:
        # rclpy keeps overrides that nobody declares without a word and has no public list of them.
        overrides = self._node._parameter_overrides
        known = [*self._infos, *BUILT_IN]
        unknown = [name for name in overrides
                   if name not in known and not name.startswith(BUILT_IN_PREFIXES)]
        if unknown:
            raise ParameterError("; ".join(
                unknown_name_error(name, known, self._node.get_name()) for name in unknown))

    def _declare(self, info: ParameterInfo) -> Any:
        default = list(info.default) if isinstance(info.default, tuple) else info.default
        try:
            return self._node.declare_parameter(info.name, default, info.descriptor()).value
        except InvalidParameterTypeException as error:
            raise ParameterError(
                f"{info.name}: expected {info.type_name}, like {default!r} "
                f"(a double is written with a point): {error}") from error
        except InvalidParameterValueException as error:
            override = self._node._parameter_overrides.get(info.name)
            value = None if override is None else override.value
            raise ParameterError(info.problem(value) or str(error)) from error

    def _changed(self, parameters: list[Parameter]) -> dict[str, Any]:
        return {p.name: p.value for p in parameters if p.name in self._infos}

    def _on_set(self, parameters: list[Parameter]) -> SetParametersResult:
        changed = self._changed(parameters)
        for name, value in changed.items():
            problem = self._infos[name].problem(value)
            if problem is not None:
                return SetParametersResult(successful=False, reason=problem)
        try:
            self._build({**self._current, **changed})
        except ParameterError as error:
            return SetParametersResult(successful=False, reason=str(error))
        return SetParametersResult(successful=True)

    def _on_post_set(self, parameters: list[Parameter]) -> None:
        changed = self._changed(parameters)
        if not changed:
            return
        self._current = {**self._current, **changed}
        values = self._build(self._current)
        with self._lock:
            self._values = values
        if self.on_change is not None:
            self.on_change(values)
