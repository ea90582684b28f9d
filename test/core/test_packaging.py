# SPDX-License-Identifier: Apache-2.0
"""The files of the package agree: versions, interfaces, dependencies, executables."""

from __future__ import annotations

import ast
import re
import tomllib
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

import inspatio_ros
from support.data import ROOT

SOURCE_FOLDERS = ("inspatio_ros", "test", "tools", "launch", "benchmarks", "scripts")
# Programs on the package index that bear the name of a ROS package, or that are ROS 1.
ROS_NAMES = re.compile(
    r"^(ros-|rclpy|launch|cv[-_]bridge|tf2|tf[-_]transformations|sensor[-_]msgs|.*[-_]msgs$)"
)


def project() -> dict[str, object]:
    table: dict[str, object] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return table


def declared_dependencies() -> list[str]:
    table = project()
    extras = table["optional-dependencies"]
    assert isinstance(extras, dict)
    groups = [table["dependencies"], *extras.values()]
    return [re.split(r"[\s<>=!~\[;]", entry)[0] for group in groups for entry in group]


def test_package_xml_and_python_name_one_version() -> None:
    manifest = ElementTree.parse(ROOT / "package.xml").getroot()
    assert manifest.findtext("version") == inspatio_ros.__version__
    assert manifest.findtext("name") == project()["name"]


def test_cmake_builds_every_interface_file() -> None:
    listed = set(
        re.findall(r'"((?:msg|srv|action)/\w+\.\w+)"', (ROOT / "CMakeLists.txt").read_text())
    )
    present = {
        path.relative_to(ROOT).as_posix()
        for folder in ("msg", "srv", "action")
        for path in (ROOT / folder).iterdir()
    }
    assert listed == present


def test_pip_is_never_asked_for_a_ros_package() -> None:
    names = declared_dependencies()
    assert "numpy" in names
    assert [name for name in names if ROS_NAMES.match(name.lower())] == []


def test_the_build_imports_ros_packages_that_package_xml_names() -> None:
    manifest = ElementTree.parse(ROOT / "package.xml").getroot()
    declared = {element.text for element in manifest if element.tag.endswith("depend")}
    used = set()
    for path in (ROOT / "inspatio_ros/ros").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
                used.add(node.module.split(".")[0])
            elif isinstance(node, ast.Import):
                used |= {alias.name.split(".")[0] for alias in node.names}
    ros = {n for n in used if n.endswith(("_msgs", "_srvs", "_interfaces")) or n == "rclpy"}
    assert "rclpy" in ros
    assert ros <= declared


@pytest.mark.parametrize("path", sorted((ROOT / "scripts").iterdir()), ids=lambda p: p.name)
def test_an_executable_calls_the_main_of_a_module_that_exists(path: Path) -> None:
    assert path.stat().st_mode & 0o111, "not executable: ros2 run would not find it"
    found = re.search(r"^from (inspatio_ros[\w.]*) import main$", path.read_text(), re.M)
    assert found, "a wrapper imports main and calls it"
    module = ROOT / (found.group(1).replace(".", "/") + ".py")
    body = ast.parse(module.read_text()).body
    functions = {node.name for node in body if isinstance(node, ast.FunctionDef)}
    assert "main" in functions


def test_every_source_file_names_its_licence() -> None:
    paths = [
        path
        for folder in SOURCE_FOLDERS
        for path in (ROOT / folder).rglob("*")
        if path.suffix == ".py" or (path.parent.name == "scripts" and path.is_file())
    ]
    assert len(paths) > 20
    unnamed = [
        str(path.relative_to(ROOT))
        for path in paths
        if "SPDX-License-Identifier: Apache-2.0" not in path.read_text()[:200]
    ]
    assert unnamed == []
