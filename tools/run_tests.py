#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Run the tests: those without ROS in one process, each file of test/ros in one of its own.

    python tools/run_tests.py [PATH or pytest option]...

A process that has made and ended hundreds of ROS contexts no longer finds new nodes in time (DDS
keeps something of each), and a robot's process never does that; so no test process does either.
A file of test/ros that fails is run once more, in a new process, and named at the end: DDS, timers
and deadlines share the machine with whatever else it does, and a shared one can stand still for
seconds. What fails twice has failed. The exit status is the first one that is not 0.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
ROS = ROOT / "test" / "ros"
NO_TESTS = 5  # pytest's exit status


def groups(paths: list[Path]) -> list[list[Path]]:
    """Paths that share a process: everything outside test/ros, then each file of it."""
    together: list[Path] = []
    alone: list[Path] = []
    for path in paths:
        if path == ROOT / "test":
            together += [p for p in sorted(path.iterdir()) if _holds_tests(p) and p != ROS]
            alone += sorted(ROS.glob("test_*.py"))
        elif path == ROS:
            alone += sorted(ROS.glob("test_*.py"))
        else:
            (alone if ROS in path.parents else together).append(path)
    return ([together] if together else []) + [[path] for path in alone]


def _holds_tests(path: Path) -> bool:
    if path.is_dir():
        return any(path.glob("test_*.py"))
    return path.name.startswith("test_") and path.suffix == ".py"


def _pytest(words: list[str]) -> int:
    return subprocess.run([sys.executable, "-m", "pytest", *words], cwd=ROOT,
                          check=False).returncode


def main() -> int:
    """Run each group; say at the end which failed."""
    options: list[str] = []
    paths: list[Path] = []
    for word in sys.argv[1:]:
        if Path(word.split("::")[0]).exists():
            paths.append(Path(word).resolve())
        else:
            options.append(word)
    wanted = groups(paths or [ROOT / "test"])
    failed: list[str] = []
    again: list[str] = []
    status, empty = 0, 0
    for group in wanted:
        names = [str(path.relative_to(ROOT)) for path in group]
        code = _pytest([*options, *names])
        if code not in (0, NO_TESTS) and ROS in group[0].parents:
            print(f"once more: {names[0]}", flush=True)
            again += names
            code = _pytest([*options, *names])
        if code == NO_TESTS:  # a selection may leave nothing of a file
            empty += 1
        elif code != 0:
            failed += names if len(names) == 1 else ["the tests without ROS"]
            status = status or code
    passed = [name for name in again if name not in failed]
    if passed:
        print(f"failed at first, passed when run again: {', '.join(passed)}")
    if failed:
        print(f"failed: {', '.join(failed)}")
    return NO_TESTS if empty == len(wanted) else status


if __name__ == "__main__":
    sys.exit(main())
