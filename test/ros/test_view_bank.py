# SPDX-License-Identifier: Apache-2.0
"""The imagination node with its bank of views."""

from __future__ import annotations

from std_srvs.srv import Trigger

from support.imagination import Bench


def test_the_bank_is_filled_reported_and_cleared() -> None:
    bench = Bench(output__width=160, output__height=120, bank__enabled=True, bank__capacity=5,
                  memory__max_age=0.5)
    try:
        bench.until_imagining()
        assert bench.node.memory.stereo is not None
        assert bench.node.memory.stereo.bank.options.capacity == 5
        bench.robot.drive_until(lambda: float(bench.value("geometry", "bank_views") or 0) >= 1,
                                20, "a view in the bank")
        assert bench.graph.call(Trigger, "imagination/clear_memory", Trigger.Request()).success
        bench.robot.drive_until(lambda: float(bench.value("geometry", "bank_reset") or 0) >= 1,
                                20, "the bank cleared")
    finally:
        bench.close()
