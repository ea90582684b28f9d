# SPDX-License-Identifier: Apache-2.0
"""Many recordings: found, named, spread, resumed; killed workers and programs; bad ones."""

from __future__ import annotations

import contextlib
import csv
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from inspatio_ros.cli.main import main
from inspatio_ros.evaluation import many
from inspatio_ros.evaluation.many import (
    AUTO,
    PROCESSES,
    RAY,
    SERIAL,
    Engine,
    ManyError,
    Merged,
    evaluate_many,
    find_recordings,
    fingerprint,
    make_jobs,
)
from inspatio_ros.share import share_folder
from support.data import ROOT
from support.many_work import always_killed, killed_once, told, waiting

needs_ray = pytest.mark.skipif(importlib.util.find_spec("ray") is None,
                               reason="ray is not installed (pip install 'inspatio_ros[ray]')")
SPREAD = [SERIAL, PROCESSES, pytest.param(RAY, marks=needs_ray)]


@pytest.fixture(autouse=True)
def work_is_importable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray's workers have the path of the environment, not of this process."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT / "test"))


def recordings(folder: Path, **texts: str) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    made = []
    for name, text in texts.items():
        made.append(folder / f"{name}.mcap")
        made[-1].write_text(text)
    return made


def evaluated(paths: list[Path], tmp_path: Path, kind: str, *, work: many.Work = told,
              out: str = "out", options: dict[str, object] | None = None,
              said: list[str] | None = None) -> Merged:
    notes = tmp_path / "notes"
    notes.mkdir(exist_ok=True)
    return evaluate_many(make_jobs(paths, str(notes)), work, Engine(kind, 2), options or {},
                         tmp_path / out, say=(said if said is not None else []).append)


def times_done(tmp_path: Path, name: str) -> int:
    path = tmp_path / "notes" / f"{name}.done"
    return len(path.read_text().split()) if path.exists() else 0


def contents(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*"))
            if p.is_file() and p.name != ".lock"}


@pytest.mark.parametrize("kind", SPREAD)
def test_all_are_done_once_and_merged_in_order(kind: str, tmp_path: Path) -> None:
    paths = recordings(tmp_path / "bags", c="one", a="three", b="twelve")
    merged = evaluated(paths, tmp_path, kind)
    assert [r["recording"] for r in merged.reports] == ["c", "a", "b"]
    assert all(times_done(tmp_path, name) == 1 for name in "abc")
    assert not merged.errors
    content = json.loads((tmp_path / "out/report.json").read_text())
    assert content["reports"] == merged.reports
    assert content["failed"] == []
    rows = list(csv.DictReader((tmp_path / "out/report.csv").open()))
    assert [(r["recording"], r["method"]) for r in rows] == [
        (name, method) for name in "cab" for method in ("copy", "other")]
    assert rows[1] == {"recording": "c", "method": "other", "horizon_s": "0.5",
                       "psnr_all": repr(1 / 3), "text": ""}
    assert (tmp_path / "out/a.jpg").read_bytes() == b"three"


def test_every_engine_gives_the_same_bytes(tmp_path: Path) -> None:
    paths = recordings(tmp_path / "bags", a="1", b="bad", c="333", d="broken")
    for kind in (SERIAL, AUTO):  # of several recordings: processes
        evaluated(paths, tmp_path, kind, out=kind)
    assert (tmp_path / "notes/a.done").read_text().count(f"{os.getpid()}\n") == 1
    assert contents(tmp_path / SERIAL) == contents(tmp_path / AUTO)


@pytest.mark.parametrize("kind", SPREAD)
def test_bad_recordings_are_reported_and_the_others_go_on(kind: str, tmp_path: Path) -> None:
    paths = recordings(tmp_path / "bags", a="x", b="bad", c="broken", d="y")
    merged = evaluated(paths, tmp_path, kind)
    assert [r["recording"] for r in merged.reports] == ["a", "d"]
    assert merged.errors == {"b": f"{paths[1]}: it says bad", "c": "KeyError: 'no such key'"}
    failed = json.loads((tmp_path / "out/report.json").read_text())["failed"]
    assert [f["recording"] for f in failed] == ["b", "c"]
    # What was mended is done by the next run; what was done is not done again.
    paths[1].write_text("good")
    again = evaluated(paths, tmp_path, kind)
    assert [r["recording"] for r in again.reports] == ["a", "b", "d"]
    assert again.resumed == 2
    assert times_done(tmp_path, "a") == 1


def test_a_result_is_done_again_when_the_recording_or_the_options_change(tmp_path: Path) -> None:
    paths = recordings(tmp_path / "bags", a="x", b="y")
    evaluated(paths, tmp_path, SERIAL)
    assert evaluated(paths, tmp_path, SERIAL).resumed == 2
    paths[0].write_text("z")
    merged = evaluated(paths, tmp_path, SERIAL)
    assert merged.resumed == 1
    assert merged.reports[0]["results"][0]["text"] == "z"
    assert evaluated(paths, tmp_path, SERIAL, options={"stride": 2}).resumed == 0
    # A file that was cut off, or is not ours, is no result.
    result = tmp_path / "out" / many.RESULTS / "a.json"
    result.write_bytes(result.read_bytes()[:30])
    assert evaluated(paths, tmp_path, SERIAL, options={"stride": 2}).resumed == 1
    result.write_text("[]")
    assert evaluated(paths, tmp_path, SERIAL, options={"stride": 2}).resumed == 1


@pytest.mark.parametrize("kind", [PROCESSES, pytest.param(RAY, marks=needs_ray)])
def test_a_killed_worker_loses_and_doubles_nothing(kind: str, tmp_path: Path) -> None:
    paths = recordings(tmp_path / "bags", a="x", b="kill", c="y", d="kill")
    said: list[str] = []
    merged = evaluated(paths, tmp_path, kind, work=killed_once, said=said)
    assert [r["recording"] for r in merged.reports] == ["a", "b", "c", "d"]
    assert not merged.errors
    assert {p.name for p in (tmp_path / "notes").glob("*.killed")} == {"b.killed", "d.killed"}
    assert all(times_done(tmp_path, name) == 1 for name in "abcd")
    if kind == PROCESSES:
        assert len(said) == 2
        assert all("SIGKILL" in line for line in said)
    evaluated(paths, tmp_path, SERIAL, out="undisturbed")
    assert contents(tmp_path / "out") == contents(tmp_path / "undisturbed")


@pytest.mark.parametrize("kind", [PROCESSES, pytest.param(RAY, marks=needs_ray)])
def test_what_kills_every_worker_is_given_up(kind: str, tmp_path: Path) -> None:
    paths = recordings(tmp_path / "bags", a="kill", b="y")
    merged = evaluated(paths, tmp_path, kind, work=always_killed)
    assert [r["recording"] for r in merged.reports] == ["b"]
    assert "its worker died" in merged.errors["a"]
    assert "3 times" in merged.errors["a"]
    assert (tmp_path / "notes/attempts").read_text() == "xxx"


def wait_for(condition: Callable[[], object], what: str, timeout: float = 60.0) -> None:
    deadline = time.monotonic() + timeout
    tick = threading.Event()
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        tick.wait(0.02)


def running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.parametrize("kind", [SERIAL, PROCESSES, pytest.param(RAY, marks=needs_ray)])
def test_the_program_is_killed_and_resumed(kind: str, tmp_path: Path) -> None:
    paths = recordings(tmp_path / "bags", a="x", b="wait", c="y")
    notes = tmp_path / "notes"
    notes.mkdir()
    program = subprocess.Popen(
        [sys.executable, "-m", "support.many_work", str(notes), str(tmp_path / "out"), kind,
         *map(str, paths)], cwd=ROOT / "test", start_new_session=True)
    results = tmp_path / "out" / many.RESULTS
    first = {"a.json"} if kind == SERIAL else {"a.json", "c.json"}
    try:
        wait_for(lambda: (notes / "waiting").exists() and (notes / "waiting").read_text()
                 and first <= {p.name for p in results.glob("*.json")}, "the first results")
        worker = int((notes / "waiting").read_text())
        os.kill(program.pid, signal.SIGKILL)
        program.wait(20)
        # No worker is left behind that goes on for nobody.
        wait_for(lambda: not running(worker), "the worker's end")
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(program.pid, signal.SIGKILL)
    assert not (tmp_path / "out/report.json").exists()
    (notes / "gate").touch()
    merged = evaluated(paths, tmp_path, kind, work=waiting)
    assert merged.resumed == len(first)
    assert all(times_done(tmp_path, name) == 1 for name in "abc")
    evaluated(paths, tmp_path, SERIAL, work=waiting, out="undisturbed")
    assert contents(tmp_path / "out") == contents(tmp_path / "undisturbed")


def test_without_ray_it_says_so_and_runs_in_processes(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)  # an import of it fails
    paths = recordings(tmp_path / "bags", a="x", b="y")
    said: list[str] = []
    merged = evaluated(paths, tmp_path, RAY, said=said)
    assert len(merged.reports) == 2
    assert len(said) == 1
    assert "pip install 'inspatio_ros[ray]'" in said[0]
    assert "processes" in said[0]
    assert (tmp_path / "notes/a.done").read_text() != f"{os.getpid()}\n"


def test_two_runs_do_not_write_to_one_folder(tmp_path: Path) -> None:
    paths = recordings(tmp_path / "bags", a="x")

    def again(job: many.Job) -> many.Outcome:
        evaluated(paths, tmp_path, SERIAL)
        return told(job)

    merged = evaluated(paths, tmp_path, SERIAL, work=again)
    assert "another run is writing there" in merged.errors["a"]


def test_what_a_killed_run_left_half_written_goes(tmp_path: Path) -> None:
    (tmp_path / "out" / many.RESULTS).mkdir(parents=True)
    (tmp_path / "out" / many.RESULTS / "a.json.part").write_text("{")
    evaluated(recordings(tmp_path / "bags", a="x"), tmp_path, SERIAL)
    assert not list((tmp_path / "out").rglob("*.part"))


def test_patterns_find_recordings_and_nothing_inside_them(tmp_path: Path) -> None:
    top = tmp_path / "bags"
    recordings(top, loose="x", z="x")
    for name in ("day/run1", "day/run2", "other/run1"):
        folder = top / name
        recordings(folder, run1_0="x", run1_1="x")
        (folder / "metadata.yaml").write_text("rosbag2_bagfile_information:\n")
    (top / "walk").mkdir()
    (top / "walk/frames.csv").write_text("stamp_ns\n")
    (top / "day/notes.txt").write_text("x")
    found = find_recordings([f"{top}/**"])
    assert [p.relative_to(top).as_posix() for p in found] == [
        "day/run1", "day/run2", "loose.mcap", "other/run1", "walk", "z.mcap"]
    jobs = make_jobs(found, None)
    assert [job.name for job in jobs] == [
        "day_run1", "run2", "loose", "other_run1", "walk", "z"]
    # Twice named is once done; the order is that in which they were named.
    twice = find_recordings([top / "other/run1", f"{top}/*/run*", top / "day/../day/run2"])
    assert [p.relative_to(top).as_posix() for p in twice] == [
        "other/run1", "day/run1", "day/run2"]
    assert find_recordings([top / "mistyped"]) == [top / "mistyped"]  # reported when it is opened


def test_an_empty_pattern_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ManyError, match="no recording there"):
        find_recordings([f"{tmp_path}/**"])
    assert main(["evaluate", f"{tmp_path}/none/**", "--out", str(tmp_path / "out")]) == 1
    assert "no recording there" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_equal_names_stay_apart(tmp_path: Path) -> None:
    paths = [recordings(tmp_path / day / "robot", run=day)[0] for day in ("monday", "tuesday")]
    merged = evaluated(paths, tmp_path, SERIAL)
    assert [r["recording"] for r in merged.reports] == ["monday_robot_run", "tuesday_robot_run"]
    assert len(list((tmp_path / "out" / many.RESULTS).iterdir())) == 2
    assert [r["results"][0]["text"] for r in merged.reports] == ["monday", "tuesday"]
    bags = [tmp_path / day / "bag" for day in ("monday", "tuesday")]
    assert [job.name for job in make_jobs(bags, None)] == ["monday", "tuesday"]


def test_fingerprints(tmp_path: Path) -> None:
    folder = tmp_path / "bag"
    recordings(folder, a="x", b="y")
    key = fingerprint(folder, {})
    moved = shutil.copytree(folder, tmp_path / "elsewhere")
    assert fingerprint(moved, {}) == key
    assert fingerprint(folder, {"stride": 1}) != key
    (moved / "a.mcap").write_text("xy")
    (moved / "b.mcap").write_text("")
    assert fingerprint(moved, {}) != key
    (folder / "b.mcap").rename(folder / "c.mcap")
    assert fingerprint(folder, {}) != key


@pytest.mark.parametrize("wrong", [{"kind": "cloud"}, {"workers": -1}, {"attempts": 0}])
def test_engines_that_make_no_sense_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="engine|workers"):
        Engine(**wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", [PROCESSES, pytest.param(RAY, marks=needs_ray)])
def test_the_program_on_real_recordings(kind: str, tmp_path: Path,
                                        capsys: pytest.CaptureFixture[str]) -> None:
    """Two copies of one recording under one name, and one that is none."""
    office = share_folder("samples") / "office"
    for day in ("a", "b"):
        shutil.copytree(office, tmp_path / "bags" / day / "walk")
    recordings(tmp_path / "bags", torn="no recording at all")
    arguments = ["evaluate", f"{tmp_path}/bags/**", "--preset", "geometric", "--horizons", "0.4",
                 "--limit", "9", "--width", "96", "--engine", kind, "--workers", "2", "--out",
                 str(tmp_path / "out")]
    assert main(arguments) == 1
    printed = capsys.readouterr()
    assert "a_walk: 1 starts" in printed.out
    assert "b_walk: 1 starts" in printed.out
    assert "1 of 3 recordings could not be evaluated: torn" in printed.err
    content = json.loads((tmp_path / "out/report.json").read_text())
    first, second = content["reports"]
    assert first["digest"] == second["digest"]
    assert (tmp_path / "out/a_walk.jpg").stat().st_size > 3000
    assert "| b_walk | 0.4 |" in (tmp_path / "out/report.md").read_text()
    before = contents(tmp_path / "out")
    assert main(arguments) == 1
    assert "2 of 3 recordings were done before" in capsys.readouterr().err
    assert contents(tmp_path / "out") == before
