# SPDX-License-Identifier: Apache-2.0
"""The steps of a run on several GPUs: one process a GPU, clips dealt out in turn."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class GpuLists:
    """GPUs of each step, by number. Raises ValueError on a list that is none."""

    steps: tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]

    @staticmethod
    def of(step1: str, step2: str, step3: str, processes: int) -> GpuLists:
        """From comma lists as the release takes them; `processes` of step 3, 0 for one a GPU."""
        first, second, third = (_numbers(text) for text in (step1, step2, step3))
        if processes > 0:
            if third and processes > len(third):
                raise ValueError(f"step3_nproc {processes} is more than the {len(third)} GPUs of "
                                 "step3_gpus")
            third = third[:processes] or tuple(range(processes))
        return GpuLists((first, second, third))

    @property
    def many(self) -> bool:
        """Whether any step has more than one."""
        return any(len(gpus) > 1 for gpus in self.steps)


def _numbers(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(word) for word in text.split(",") if word.strip())
    except ValueError:
        raise ValueError(f"'{text}' is not a list of GPU numbers like 0,1") from None


def run_on_gpus(gpus: GpuLists, arguments: Sequence[str], skipped: Sequence[int]) -> int:
    """Run each step with its GPUs, `arguments` being those of the program; the worst status."""
    worst = 0
    for step, numbers in enumerate(gpus.steps, 1):
        if step in skipped and step != 3:
            continue
        devices = numbers or (0,)
        children = [subprocess.Popen(
            [sys.executable, "-m", "inspatio_ros.cli.main", *arguments, "--only_step", str(step),
             "--share", f"{rank}/{len(devices)}"],
            env={**os.environ, "CUDA_VISIBLE_DEVICES": str(device)})
            for rank, device in enumerate(devices)]
        worst = max([worst, *(abs(child.wait()) for child in children)])
    return min(worst, 1)
