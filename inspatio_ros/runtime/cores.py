# SPDX-License-Identifier: Apache-2.0
"""How many cores each of several threads computes on."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def shared_cores(threads: int) -> Iterator[None]:
    """Inside, what the calling thread computes with torch and numba takes its share of the cores.

    threads: that compute at the same time. Threads that wait for each other's helpers burn the
    cores that the others need. Nothing is shared out where the caller has fewer threads already.
    """
    import numba
    import torch

    share = max(1, len(os.sched_getaffinity(0)) // threads)
    before = torch.get_num_threads(), numba.get_num_threads()
    torch.set_num_threads(min(before[0], share))
    numba.set_num_threads(min(before[1], share))
    try:
        yield
    finally:
        torch.set_num_threads(before[0])
        numba.set_num_threads(before[1])
