# SPDX-License-Identifier: Apache-2.0
"""Latest-wins slot, worker, stage times."""

from __future__ import annotations

import os
import threading

import numba
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from inspatio_ros.runtime.cores import shared_cores
from inspatio_ros.runtime.latest import LatestSlot
from inspatio_ros.runtime.stages import StageTimer
from inspatio_ros.runtime.worker import Worker

DEADLINE = 10.0


@given(st.lists(st.booleans(), max_size=50))
def test_slot_holds_the_newest_and_counts_the_rest(puts: list[bool]) -> None:
    slot: LatestSlot[int] = LatestSlot()
    taken, offered = 0, 0
    for put in puts:
        if put:
            slot.put(offered)
            offered += 1
        else:
            item = slot.take()
            assert item is None or item == offered - 1
            taken += item is not None
    assert offered == taken + slot.dropped + slot.full


def test_slot_wakes_a_waiting_taker_and_close_releases_it() -> None:
    slot: LatestSlot[str] = LatestSlot()
    results: list[str | None] = []
    thread = threading.Thread(target=lambda: results.extend([slot.take(DEADLINE),
                                                             slot.take(DEADLINE)]))
    thread.start()
    slot.put("first")
    while slot.full and thread.is_alive():
        pass
    slot.close()
    thread.join(DEADLINE)
    assert results == ["first", None]
    slot.put("ignored")
    assert slot.take() is None


def test_worker_goes_on_after_an_error_and_stops() -> None:
    errors: list[BaseException] = []
    steps: list[int] = []
    done = threading.Event()

    def step() -> bool:
        steps.append(len(steps))
        if len(steps) == 1:
            raise ValueError("one bad input")
        if len(steps) >= 3:
            done.set()
            return False
        return True

    worker = Worker(step, errors.append, idle_timeout=60.0)
    worker.start()
    worker.wake()
    assert done.wait(DEADLINE)
    assert worker.stop(DEADLINE)
    assert not worker.alive
    assert worker.stopping
    assert [str(e) for e in errors] == ["one bad input"]


def test_stopping_a_worker_that_never_started() -> None:
    assert Worker(lambda: False, lambda _: None).stop(DEADLINE)


def test_stage_times_keep_a_window() -> None:
    timer = StageTimer(window=4)
    for seconds in (9.0, 1.0, 2.0, 3.0, 4.0):
        timer.add("guide", seconds)
    with timer.stage("fill"):
        pass
    summary = timer.summary()
    assert summary["guide"]["median"] == 2.5
    assert summary["guide"]["count"] == 4
    assert summary["fill"]["count"] == 1
    timer.reset()
    assert timer.summary() == {}


def test_a_share_of_the_cores_is_for_the_block_and_its_thread_alone() -> None:
    def counts() -> tuple[int, int]:
        return torch.get_num_threads(), numba.get_num_threads()

    def hold() -> None:
        with shared_cores(1 << 20):
            seen.append(counts())
            inside.set()
            assert leave.wait(DEADLINE)
        seen.append(counts())

    before, seen = counts(), []
    inside, leave = threading.Event(), threading.Event()
    thread = threading.Thread(target=hold)
    thread.start()
    assert inside.wait(DEADLINE)
    assert counts() == before
    leave.set()
    thread.join(DEADLINE)
    assert seen[0] == (1, 1)

    def fail() -> None:
        with shared_cores(len(os.sched_getaffinity(0))):
            seen.append(counts())
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert seen[-1] == (1, 1)
    assert counts() == before
    with shared_cores(1):
        assert counts() == before
