# SPDX-License-Identifier: Apache-2.0
"""The program: its table of commands is complete, lazy, and turns user errors into one line."""

from __future__ import annotations

import subprocess
import sys

import pytest

from inspatio_ros.cli import main as cli


@pytest.mark.parametrize("name", sorted(cli.COMMANDS))
def test_every_command_explains_itself(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        cli.main([name, "--help"])
    assert stopped.value.code == 0
    assert f"inspatio {name}" in capsys.readouterr().out


def test_an_unknown_command_is_refused_with_the_known_ones(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as stopped:
        cli.main(["dream"])
    assert stopped.value.code == 2
    error = capsys.readouterr().err
    assert all(name in error for name in cli.COMMANDS)


def test_the_help_imports_no_heavy_package() -> None:
    program = (
        "import sys\n"
        "from inspatio_ros.cli.main import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit:\n    pass\n"
        "print([name for name in ('torch', 'cv2', 'rclpy', 'numba') if name in sys.modules])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "[]"


def test_a_user_error_is_one_line_and_status_1(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import types

    def fail(args: object) -> int:
        raise ValueError("no recording at /nowhere")

    module = types.ModuleType("inspatio_ros.cli.failing")
    module.__dict__.update(add_arguments=lambda parser: None, run=fail)
    monkeypatch.setitem(sys.modules, "inspatio_ros.cli.failing", module)
    monkeypatch.setitem(cli.COMMANDS, "failing", cli.Command("failing", "fails"))
    assert cli.main(["failing"]) == 1
    assert capsys.readouterr().err == "inspatio failing: no recording at /nowhere\n"
