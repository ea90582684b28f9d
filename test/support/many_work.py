# SPDX-License-Identifier: Apache-2.0
"""Work for tests of many recordings; importable, because other processes must find it."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

from inspatio_ros.evaluation.many import Engine, Job, Outcome, evaluate_many, make_jobs


def told(job: Job) -> Outcome:
    """A report of what the file says; each doing leaves one line in the folder of settings."""
    folder = Path(job.settings)
    with (folder / f"{job.name}.done").open("a") as stream:
        stream.write(f"{os.getpid()}\n")
    text = job.path.read_text()
    if text == "bad":
        raise ValueError(f"{job.path}: it says bad")
    if text == "broken":
        raise KeyError("no such key")
    return Outcome({"recording": job.name, "results": [
        {"method": "copy", "horizon_s": 0.5, "psnr_all": float(len(text)), "text": text},
        {"method": "other", "horizon_s": 0.5, "psnr_all": 1.0 / 3.0}]}, picture=text.encode())


def killed_once(job: Job) -> Outcome:
    """`told`, but the first worker of each recording 'kill' is killed as by the kernel."""
    marker = Path(job.settings) / f"{job.name}.killed"
    if job.path.read_text() == "kill" and not marker.exists():
        marker.write_text(str(os.getpid()))
        os.kill(os.getpid(), signal.SIGKILL)
    return told(job)


def always_killed(job: Job) -> Outcome:
    """Every worker of a recording 'kill' is killed."""
    if job.path.read_text() == "kill":
        with (Path(job.settings) / "attempts").open("a") as stream:
            stream.write("x")
        os.kill(os.getpid(), signal.SIGKILL)
    return told(job)


def waiting(job: Job) -> Outcome:
    """`told`, but a recording 'wait' takes until the file `gate` is there."""
    if job.path.read_text() == "wait":
        (Path(job.settings) / "waiting").write_text(str(os.getpid()))
        while not (Path(job.settings) / "gate").exists():
            time.sleep(0.02)
    return told(job)


if __name__ == "__main__":
    notes, out, kind, *paths = sys.argv[1:]
    evaluate_many(make_jobs([Path(p) for p in paths], notes), waiting, Engine(kind, 2), {},
                  Path(out))
