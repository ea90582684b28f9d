# SPDX-License-Identifier: Apache-2.0
"""Many recordings: one task each, on one process, several, or a Ray cluster; resumed, none twice.

Only the caller's process writes: a task's outcome comes back whole or not at all, and becomes one
JSON file by one rename. Whatever is killed at any moment, the next run does what is missing.
"""

from __future__ import annotations

import csv
import fcntl
import glob
import hashlib
import io
import json
import logging
import multiprocessing
import os
import signal
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import chain
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from inspatio_ros.files.bag_storage import SUFFIXES

AUTO, SERIAL, PROCESSES, RAY = "auto", "serial", "processes", "ray"
ENGINES = (AUTO, SERIAL, PROCESSES, RAY)
INSTALL_RAY = "Ray is not installed (pip install 'inspatio_ros[ray]')"

RESULTS = "recordings"
_CHUNK = 1 << 20
_GLOB = frozenset("*?[")


@dataclass(frozen=True)
class Job:
    """One recording to do: a name of its own, where it is, and what the work is to know."""

    name: str
    path: Path
    settings: Any


@dataclass(frozen=True)
class Outcome:
    """What became of a job: a report of plain JSON values, or an error in one sentence.

    picture: an encoded JPEG to keep beside the report; may be empty.
    """

    report: dict[str, Any] | None = None
    error: str = ""
    picture: bytes = b""


Work = Callable[[Job], Outcome]


class ManyError(ValueError):
    """Recordings that cannot be found, or an output folder that another run writes to."""


def find_recordings(patterns: Iterable[str | Path]) -> list[Path]:
    """The recordings that paths and patterns name, each once, those of a pattern sorted.

    `**` goes through all folders. What a pattern finds beside recordings is left out; a plain path
    is taken as it is, so that a mistyped one is reported. Raises ManyError when a pattern finds
    none.
    """
    found: dict[Path, Path] = {}
    for pattern in map(str, patterns):
        if not _GLOB & set(pattern) or Path(pattern).exists():
            matches = [Path(pattern)]
        else:
            matches = _outermost(Path(p) for p in glob.glob(pattern, recursive=True))
            if not matches:
                raise ManyError(f"{pattern}: no recording there (looked for rosbag2 folders, "
                                ".mcap and .db3 files, and folders with frames.csv)")
        for path in matches:
            found.setdefault(path.resolve(), path)
    return list(found.values())


def _outermost(paths: Iterable[Path]) -> list[Path]:
    """The recordings among paths, sorted; not the files of a folder that is one itself."""
    kept: list[Path] = []
    for path in sorted(filter(_is_recording, paths)):
        if not any(folder in path.parents for folder in kept):
            kept.append(path)
    return kept


def _is_recording(path: Path) -> bool:
    if not path.is_dir():
        return path.suffix in SUFFIXES and path.is_file()
    if (path / "frames.csv").is_file() or (path / "metadata.yaml").is_file():
        return True
    # Without its metadata a folder with one file is a recording that was cut off; with several it
    # is a folder of recordings.
    return sum(child.suffix in SUFFIXES for child in path.iterdir()) == 1 and not any(
        child.is_dir() for child in path.iterdir())


def make_jobs(paths: Sequence[Path], settings: Any) -> list[Job]:
    """A job for each recording, named shortly; equal names get their folders' names before them.

    Raises ManyError when a name cannot be made a file's.
    """
    # Late: it loads all that reads recordings, a second for each worker that may not need it.
    from inspatio_ros.files.recordings import recording_name

    parts = [path.resolve().parts for path in paths]
    depth = [0] * len(paths)
    names = [recording_name(path) for path in paths]
    for _ in range(max(map(len, parts), default=0)):
        often = Counter(names)
        for index, name in enumerate(names):
            if often[name] > 1:
                depth[index] += 1
                folders = parts[index][:-1]
                names[index] = "_".join(
                    [*folders[max(1, len(folders) - depth[index]):], Path(parts[index][-1]).stem])
        if len(set(names)) == len(names):
            break
    if len(set(names)) < len(names):
        raise ManyError("recordings cannot be told apart by their folders: "
                        f"{[n for n, k in Counter(names).items() if k > 1][0]}")
    return [Job(name, path, settings) for name, path in zip(names, paths, strict=True)]


def fingerprint(path: Path, options: Mapping[str, Any]) -> str:
    """SHA-256 of what a recording holds and of plain options. Raises OSError."""
    total = hashlib.sha256(json.dumps(options, sort_keys=True, default=str).encode())
    files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file())
    for file in files:
        relative = "" if file == path else file.relative_to(path).as_posix()
        total.update(f"\0{relative}\0{file.stat().st_size}\0".encode())
        with file.open("rb") as stream:
            while chunk := stream.read(_CHUNK):
                total.update(chunk)
    return total.hexdigest()


@dataclass(frozen=True)
class Engine:
    """How jobs are spread. workers: at once, 0 for one a processor core. attempts: of a job whose
    worker dies. ray_address: of a running cluster; empty: one of this machine, for this run.
    """

    kind: str = AUTO
    workers: int = 0
    attempts: int = 3
    ray_address: str = ""

    def __post_init__(self) -> None:
        if self.kind not in ENGINES:
            raise ValueError(f"engine '{self.kind}' is not one of {', '.join(ENGINES)}")
        if self.workers < 0 or self.attempts < 1:
            raise ValueError("workers must not be negative, attempts at least 1")

    def run(self, jobs: Sequence[Job], work: Work,
            say: Callable[[str], object] = lambda _: None) -> Iterator[tuple[Job, Outcome]]:
        """Each job once with its outcome, as they are done. say: hears what is not as asked."""
        kind = self.kind
        if not jobs:
            return
        if kind == RAY and not _has_ray():
            say(f"{INSTALL_RAY}: the recordings are done in processes of this machine")
            kind = PROCESSES
        workers = min(self.workers or os.cpu_count() or 1, len(jobs))
        if kind == SERIAL or (kind == AUTO and workers <= 1):
            for job in jobs:
                yield job, _guarded(work, job)
        elif kind == RAY:
            yield from _on_ray(jobs, work, self, say)
        else:
            yield from _in_processes(jobs, work, workers, self.attempts, say)


def _guarded(work: Work, job: Job) -> Outcome:
    """The outcome of a job; whatever a recording provokes is its error and nobody else's."""
    try:
        return work(job)
    except (ValueError, OSError) as error:
        return Outcome(error=str(error))
    except Exception as error:  # noqa: BLE001 - a broken recording must not end the others
        return Outcome(error=f"{type(error).__name__}: {error}")


# Processes of this machine: a new one for each job, so that nothing of a bad one is left.


@dataclass
class _Child:
    job: Job
    attempt: int
    process: Any


def _in_processes(jobs: Sequence[Job], work: Work, workers: int, attempts: int,
                  say: Callable[[str], object]) -> Iterator[tuple[Job, Outcome]]:
    # Not fork: torch's threads do not survive it.
    context = multiprocessing.get_context("spawn")
    waiting = deque((job, 1) for job in jobs)
    running: dict[Connection, _Child] = {}
    # Ends when this process ends, however it ends: the children notice.
    life, life_end = context.Pipe(duplex=False)
    try:
        while waiting or running:
            while waiting and len(running) < workers:
                job, attempt = waiting.popleft()
                receiver, sender = context.Pipe(duplex=False)
                process = context.Process(
                    target=_child, args=(work, job, sender, life), daemon=True)
                process.start()
                sender.close()
                running[receiver] = _Child(job, attempt, process)
            for ready in wait(list(running)):
                assert isinstance(ready, Connection)
                child = running.pop(ready)
                outcome = _received(ready)
                child.process.join()
                if outcome is not None:
                    yield child.job, outcome
                    continue
                death = f"its worker died ({_death(child.process.exitcode)})"
                if child.attempt < attempts:
                    say(f"{child.job.name}: {death}; tried again")
                    waiting.append((child.job, child.attempt + 1))
                else:
                    yield child.job, Outcome(error=f"{death}, {attempts} times")
    finally:
        life_end.close()
        for child in running.values():
            child.process.kill()
            child.process.join()


def _received(receiver: Connection) -> Outcome | None:
    """What a child sent; None when it died before it had sent all of it."""
    try:
        outcome = receiver.recv()
    except (EOFError, OSError):
        return None
    finally:
        receiver.close()
    assert isinstance(outcome, Outcome)
    return outcome


def _child(work: Work, job: Job, sender: Connection, life: Connection) -> None:
    # Ctrl-C goes to the whole group; it is the parent that ends its children.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with, args=(life,), daemon=True).start()
    sender.send(_guarded(work, job))
    sender.close()


def _end_with(life: Connection) -> None:
    try:
        life.recv()
    except (EOFError, OSError):
        os._exit(1)


def _death(exit_code: int | None) -> str:
    if exit_code is not None and exit_code < 0:
        name = signal.Signals(-exit_code).name
        return name + (", perhaps for want of memory" if -exit_code == signal.SIGKILL else "")
    return f"exit status {exit_code}"


# A Ray cluster.


def _has_ray() -> bool:
    try:
        import ray  # noqa: F401
    except ImportError:
        return False
    return True


def _on_ray(jobs: Sequence[Job], work: Work, engine: Engine,
            say: Callable[[str], object]) -> Iterator[tuple[Job, Outcome]]:
    """Ray starts a task anew whose worker or machine died; a task's value comes back once."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    import ray

    own = not ray.is_initialized()
    if own and engine.ray_address:
        ray.init(address=engine.ray_address, log_to_driver=False, logging_level=logging.ERROR)
    elif own:
        ray.init(num_cpus=engine.workers or os.cpu_count() or 1, include_dashboard=False,
                 log_to_driver=False, logging_level=logging.ERROR, _node_ip_address="127.0.0.1")
    try:
        task = ray.remote(num_cpus=1, max_retries=engine.attempts - 1)(_guarded)
        pending = {task.remote(work, job): job for job in jobs}
        while pending:
            done, _ = ray.wait(list(pending), num_returns=1)
            for reference in done:
                job = pending.pop(reference)
                try:
                    yield job, ray.get(reference)
                except ray.exceptions.RayError as error:
                    reason = str(error).splitlines()[0]
                    yield job, Outcome(
                        error=f"its worker died, {engine.attempts} times: {reason}")
    finally:
        if own:
            ray.shutdown()


# Results in a folder.


@dataclass
class Merged:
    """All that a run has: reports in the order of the jobs, errors by name, and what was not done
    again because its result was there.
    """

    reports: list[dict[str, Any]] = field(default_factory=list)
    errors: dict[str, str] = field(default_factory=dict)
    resumed: int = 0


def evaluate_many(jobs: Sequence[Job], work: Work, engine: Engine, options: Mapping[str, Any],
                  out: Path | None = None, *,
                  on_done: Callable[[Job, Outcome], object] = lambda job, outcome: None,
                  say: Callable[[str], object] = lambda _: None) -> Merged:
    """Do every job whose result is not in `out` yet, and merge all results, in the jobs' order.

    options: plain values on which results depend, for their fingerprints and the report.
    on_done sees each new outcome. With `out` each result is one JSON file below it, and
    report.json and report.csv hold all. A bad recording is in `errors`, and tried again by the
    next run. Raises ManyError when another run writes to `out`, OSError when it cannot be written.
    """
    if out is None:
        return _merge(jobs, {}, engine.run(jobs, work, say), on_done, None, {})
    with _alone(out):
        errors: dict[str, Outcome] = {}
        keys: dict[str, str] = {}
        done: dict[str, dict[str, Any]] = {}
        for job in jobs:
            try:
                keys[job.name] = fingerprint(job.path, options)
            except OSError as error:
                errors[job.name] = Outcome(error=str(error))
                continue
            held = _read(_result_path(out, job), keys[job.name])
            if held is not None:
                done[job.name] = held
        left = [job for job in jobs if job.name in keys and job.name not in done]
        unreadable = [(job, errors[job.name]) for job in jobs if job.name in errors]
        merged = _merge(jobs, done, chain(unreadable, engine.run(left, work, say)), on_done, out,
                        keys)
        _write_atomically(out / "report.json", _json({
            "options": options, "reports": merged.reports,
            "failed": [{"recording": n, "error": e} for n, e in merged.errors.items()]}))
        _write_atomically(out / "report.csv", _table(merged.reports).encode())
        return merged


def _merge(jobs: Sequence[Job], done: dict[str, dict[str, Any]],
           outcomes: Iterable[tuple[Job, Outcome]], on_done: Callable[[Job, Outcome], object],
           out: Path | None, keys: Mapping[str, str]) -> Merged:
    merged = Merged(resumed=len(done))
    errors: dict[str, str] = {}
    for job, outcome in outcomes:
        if outcome.report is None:
            errors[job.name] = outcome.error
        else:
            report = json.loads(_json(outcome.report))
            if out is not None:
                if outcome.picture:
                    _write_atomically(out / f"{job.name}.jpg", outcome.picture)
                _write_atomically(_result_path(out, job), _json(
                    {"fingerprint": keys[job.name], "report": report}))
            done[job.name] = report
        on_done(job, outcome)
    merged.reports = [done[job.name] for job in jobs if job.name in done]
    merged.errors = {job.name: errors[job.name] for job in jobs if job.name in errors}
    return merged


def _result_path(out: Path, job: Job) -> Path:
    return out / RESULTS / f"{job.name}.json"


def _read(path: Path, key: str) -> dict[str, Any] | None:
    """The finished report at `path`, if it is of this recording and these options."""
    try:
        held = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None
    if not isinstance(held, dict) or held.get("fingerprint") != key:
        return None
    report = held.get("report")
    return report if isinstance(report, dict) else None


def _json(content: Any) -> bytes:
    return (json.dumps(content, indent=1, default=str) + "\n").encode()


def _table(reports: Sequence[Mapping[str, Any]]) -> str:
    """One line of CSV for each recording, horizon and method."""
    rows = [{"recording": report["recording"], **row}
            for report in reports for row in report.get("results", ())]
    columns = list(dict.fromkeys(key for row in rows for key in row))
    stream = io.StringIO()
    writer = csv.DictWriter(stream, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return stream.getvalue()


def _write_atomically(path: Path, content: bytes) -> None:
    """The whole file or none. Raises OSError, with nothing left of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    try:
        with part.open("wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(part, path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


@contextmanager
def _alone(out: Path) -> Iterator[None]:
    """Keep other runs away from a folder; what a killed one left half written is removed."""
    out.mkdir(parents=True, exist_ok=True)
    with (out / ".lock").open("w") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ManyError(f"{out}: another run is writing there") from None
        for leftover in (*out.glob("*.part"), *(out / RESULTS).glob("*.part")):
            leftover.unlink(missing_ok=True)
        yield
