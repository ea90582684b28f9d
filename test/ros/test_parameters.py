# SPDX-License-Identifier: Apache-2.0
"""Typed parameters on real nodes: declaration, refusal of what is wrong, changes while running."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml
from rcl_interfaces.srv import DescribeParameters
from rclpy.node import Node
from rclpy.parameter import Parameter

from inspatio_ros.ros.imagination_parameters import PRESETS
from inspatio_ros.ros.interface import NODES
from inspatio_ros.ros.parameters import (
    ParameterError,
    Parameters,
    build,
    describe,
    group,
    param,
)
from support.ros import ROOT, Graph


@dataclass(frozen=True)
class Limits:
    low: float = param(1.0, "Lower end", unit="m", minimum=0.0, maximum=10.0, dynamic=True)
    high: float = param(2.0, "Upper end", unit="m", minimum=0.0, maximum=10.0, dynamic=True)
    steps: tuple[int, ...] = param((3, 2, 1), "Steps", minimum=0, maximum=9)

    def check(self) -> None:
        if self.low > self.high:
            raise ValueError(f"limits.low {self.low} is above limits.high {self.high}")


@dataclass(frozen=True)
class Root:
    enabled: bool = param(True, "Whether")
    mode: str = param("slow", "How", choices=("slow", "fast"), dynamic=True)
    limits: Limits = group(Limits)


@pytest.fixture(scope="module")
def graph() -> Iterator[Graph]:
    made = Graph("parameter_test")
    yield made
    made.close()


@pytest.fixture
def make(graph: Graph) -> Iterator[Any]:
    nodes: list[Node] = []

    def made(**overrides: Any) -> tuple[Node, Parameters[Root]]:
        node = Node(f"n{len(nodes)}", context=graph.context, parameter_overrides=[
            Parameter(name.replace("__", "."), value=value) for name, value in overrides.items()])
        nodes.append(node)
        return node, Parameters(node, Root)

    yield made
    for node in nodes:
        node.destroy_node()


def test_defaults_and_overrides(make: Any) -> None:
    _, parameters = make(limits__high=5.0, limits__steps=[4, 4], mode="fast")
    assert parameters.values == Root(mode="fast", limits=Limits(high=5.0, steps=(4, 4)))


@pytest.mark.parametrize(("overrides", "words"), [
    ({"limits__hihg": 5.0}, "no parameter 'limits.hihg': did you mean 'limits.high'"),
    ({"high": 5.0}, "no parameter 'high': did you mean 'limits.high'"),
    ({"nonsense_entirely": 1}, "no parameter 'nonsense_entirely': see docs/interface.md"),
    ({"limits__high": 50.0}, "limits.high: 50.0 is outside 0 .. 10 m"),
    ({"limits__high": 5}, "limits.high: expected double"),
    ({"limits__high": float("nan")}, "limits.high: nan is outside"),
    ({"mode": "fats"}, "mode: 'fats' is not one of slow, fast; did you mean 'fast'"),
    ({"limits__steps": [3, 77]}, "limits.steps: 77 is outside 0 .. 9"),
    ({"limits__low": 3.0}, "limits.low 3.0 is above limits.high 2.0"),
])
def test_what_is_wrong_is_fatal_and_says_why(make: Any, overrides: dict[str, Any],
                                             words: str) -> None:
    with pytest.raises(ParameterError, match=words):
        make(**overrides)


def test_built_in_and_qos_overrides_are_no_strangers(make: Any) -> None:
    make(**{"use_sim_time": False, "qos_overrides./x.publisher.depth": 3})


def test_changes_while_running(make: Any) -> None:
    node, parameters = make()
    seen: list[Root] = []
    parameters.on_change = seen.append
    assert node.set_parameters([Parameter("limits.high", value=4.0)])[0].successful
    assert parameters.values.limits.high == 4.0
    assert seen == [parameters.values]


@pytest.mark.parametrize(("name", "value", "words"), [
    ("limits.high", 40.0, "out of range"), ("limits.low", 3.0, "above limits.high"),
    ("enabled", False, "read-only"), ("mode", "quick", "not one of slow, fast")])
def test_refused_changes_change_nothing(make: Any, name: str, value: Any, words: str) -> None:
    node, parameters = make()
    result = node.set_parameters([Parameter(name, value=value)])[0]
    assert not result.successful
    assert words in result.reason
    assert parameters.values == Root()


def test_two_that_only_fit_together(make: Any) -> None:
    node, parameters = make()
    both = [Parameter("limits.low", value=6.0), Parameter("limits.high", value=7.0)]
    assert node.set_parameters_atomically(both).successful
    assert (parameters.values.limits.low, parameters.values.limits.high) == (6.0, 7.0)


def test_descriptors_reach_ros_tools(graph: Graph, make: Any) -> None:
    node, _ = make()
    graph.add(node)
    try:
        answer = graph.call(DescribeParameters, f"{node.get_name()}/describe_parameters",
                            DescribeParameters.Request(names=["limits.low", "enabled", "mode"]))
    finally:
        graph.executor.remove_node(node)
    low, enabled, mode = answer.descriptors
    assert low.description == "Lower end [m]"
    assert low.floating_point_range[0].to_value == 10.0
    assert not low.read_only
    assert enabled.read_only
    assert mode.additional_constraints == "slow, fast"


def flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested YAML as parameter names."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        found.update(flat(value, f"{prefix}{key}.") if isinstance(value, dict)
                     else {f"{prefix}{key}": value})
    return found


def read(path: Path) -> dict[str, Any]:
    loaded = yaml.safe_load(path.read_text())
    assert list(loaded) == ["/**"]
    return flat(loaded["/**"]["ros__parameters"])


@pytest.mark.parametrize("name", sorted(NODES))
def test_shipped_yaml_holds_every_parameter_with_its_default(name: str) -> None:
    infos = describe(NODES[name].parameters_type())
    shipped = read(ROOT / "config" / f"{name}.yaml")
    expected = {i.name: list(i.default) if isinstance(i.default, tuple) else i.default
                for i in infos}
    assert shipped == expected
    for info in infos:
        assert type(shipped[info.name]) is type(expected[info.name]), info.name


@pytest.mark.parametrize("path", sorted((ROOT / "config/overlays").glob("*.yaml")),
                         ids=lambda path: path.stem)
def test_overlays_hold_only_differences_of_one_node(path: Path) -> None:
    values = read(path)
    fitting = []
    for node in NODES.values():
        infos = {i.name: i for i in describe(node.parameters_type())}
        if set(values) <= set(infos):
            fitting.append(infos)
            build(node.parameters_type(), values)
            assert all(infos[n].problem(v) is None for n, v in values.items())
            assert all(infos[n].default != v for n, v in values.items())
    assert fitting, f"{path.name} names parameters that no node has"


@pytest.mark.parametrize("name", sorted(NODES))
def test_every_default_is_allowed_and_described(name: str) -> None:
    root = NODES[name].parameters_type()
    build(root, {})
    for info in describe(root):
        assert info.problem(info.default) is None, info.name
        assert info.description[0].isupper(), info.name
        assert not info.description.endswith("."), info.name


def test_presets_are_the_backends_of_the_core() -> None:
    from inspatio_ros.imagination.backends import BACKENDS, PUBLIC

    assert sorted(PRESETS) == sorted(BACKENDS)
    assert PUBLIC == "inspatio_world_1_3b"  # whose pictures live.py shows as they are


def interface_tool() -> ModuleType:
    spec = importlib.util.spec_from_file_location("interface_tool", ROOT / "tools/interface.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_documents_are_as_the_code_says() -> None:
    for path, text in interface_tool().pages().items():
        assert path.read_text() == text, f"{path.name} differs: run tools/interface.py"
    assert "<!-- interface: begin -->" in (ROOT / "README.md").read_text()
