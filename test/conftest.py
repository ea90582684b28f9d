# SPDX-License-Identifier: Apache-2.0
"""Fixtures that all tests share; ROS is imported only by the fixtures that need it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

# The same examples in every run, so that a change is judged by what it changes;
# --hypothesis-profile=explore draws new ones.
settings.register_profile("repeatable", derandomize=True)
settings.register_profile("explore", max_examples=500)
settings.load_profile("repeatable")

if TYPE_CHECKING:
    from support.ros import Graph


@pytest.fixture
def ros() -> Iterator[Graph]:
    """A ROS graph of the test's own: context, node and executor; see support.ros.Graph."""
    from support.ros import graph

    with graph() as made:
        yield made
