# SPDX-License-Identifier: Apache-2.0
"""What tools/environment.py decides: which ROS, which packages; what it says if it cannot."""

from __future__ import annotations

import importlib.util
import io
import subprocess
import sys
import urllib.error
from pathlib import Path
from types import ModuleType

import pytest

from support.data import ROOT


@pytest.fixture
def tool(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The program as a module, in an environment where no ROS is sourced."""
    for variable in ("ROS_DISTRO", "AMENT_PREFIX_PATH", "_ROS_WHEELS_BOOTSTRAP_COMPLETE"):
        monkeypatch.delenv(variable, raising=False)
    path = ROOT / "tools/environment.py"
    spec = importlib.util.spec_from_file_location("environment_tool", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_jazzy_is_the_default_and_kilted_can_be_asked_for(
    tool: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert tool.sourced_distribution() is None
    assert tool.wheel_distribution() == "jazzy"
    monkeypatch.setenv("ROS_DISTRO", "kilted")
    assert tool.wheel_distribution() == "kilted"


def test_a_distribution_without_wheels_is_refused(
    tool: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ROS_DISTRO", "humble")
    with pytest.raises(tool.EnvironmentFailure, match="humble: there are wheels of jazzy and"):
        tool.wheel_distribution()


def test_a_sourced_ros_that_this_python_cannot_import_is_named(
    tool: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("ROS_DISTRO", "jazzy")
    monkeypatch.setenv("AMENT_PREFIX_PATH", str(tmp_path))
    monkeypatch.setattr(tool.sys, "executable", "/bin/false")
    with pytest.raises(tool.EnvironmentFailure, match="/bin/false .* cannot import its rclpy"):
        tool.sourced_distribution()


def test_the_environment_itself_does_not_pass_for_a_sourced_ros(
    tool: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ROS_DISTRO", "jazzy")
    monkeypatch.setenv("AMENT_PREFIX_PATH", str(ROOT / ".venv"))
    assert tool.sourced_distribution() is None


def test_each_distribution_gets_wheels_of_its_own_only(tool: ModuleType) -> None:
    jazzy, kilted = tool.ros_wheels("jazzy"), tool.ros_wheels("kilted")
    assert "ros-jazzy-rclpy" in jazzy
    assert "ros-kilted-rclpy" in kilted
    assert not [name for name in jazzy if not name.startswith("ros-jazzy-")]
    assert not [name for name in kilted if "jazzy" in name]


def test_torch_is_left_to_its_own_step(tool: ModuleType) -> None:
    requirements = tool.python_requirements(["dev"])
    assert any(entry.startswith("pytest") for entry in requirements)
    assert not [entry for entry in requirements if entry.startswith("torch")]
    with pytest.raises(tool.EnvironmentFailure, match="no extra named nonsense"):
        tool.python_requirements(["nonsense"])


@pytest.mark.parametrize("answers", [True, False])
def test_the_index_of_cpu_builds_is_used_only_when_it_answers(
    tool: ModuleType, monkeypatch: pytest.MonkeyPatch, answers: bool
) -> None:
    asked: list[float] = []

    def open_url(url: str, timeout: float) -> io.BytesIO:
        asked.append(timeout)
        if not answers:
            raise urllib.error.URLError("unreachable")
        return io.BytesIO()

    monkeypatch.setattr(tool.urllib.request, "urlopen", open_url)
    monkeypatch.setattr(tool.shutil, "which", lambda name: None)  # no nvidia-smi
    monkeypatch.setattr(tool.Path, "exists", lambda path: False)  # no driver
    options = tool.torch_source()
    assert options == (["--extra-index-url", tool.TORCH_CPU_INDEX] if answers else [])
    assert asked
    assert max(asked) <= 10.0


def test_missing_system_packages_end_in_one_command(
    tool: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = {"apt-get": "/usr/bin/apt-get"}
    monkeypatch.setattr(tool.shutil, "which", known.get)  # no cmake, no g++, no make, no sudo
    monkeypatch.setattr(tool.os, "geteuid", lambda: 1000)
    with pytest.raises(tool.EnvironmentFailure) as failure:
        tool.install_system_packages()
    commands = [line for line in str(failure.value).splitlines() if "apt-get" in line]
    assert len(commands) == 1
    assert "cmake g++ make" in commands[0]


def test_a_failing_step_shows_its_command_and_output(tool: ModuleType) -> None:
    command = [sys.executable, "-c", "print('the reason'); raise SystemExit(3)"]
    with pytest.raises(tool.EnvironmentFailure, match=r"(?s)Trying failed.*the reason"):
        tool.run(command, "Trying")


def test_a_file_is_rewritten_only_when_it_differs(tool: ModuleType, tmp_path: Path) -> None:
    path = tmp_path / "wrapper"
    tool.write_if_changed(path, "#!/bin/sh\necho one\n", mode=0o755)
    before = path.stat()
    tool.write_if_changed(path, "#!/bin/sh\necho one\n", mode=0o755)
    assert path.stat().st_ino == before.st_ino
    tool.write_if_changed(path, "#!/bin/sh\necho two\n", mode=0o755)
    assert subprocess.run([path], capture_output=True, text=True, check=True).stdout == "two\n"
