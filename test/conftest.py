# SPDX-License-Identifier: Apache-2.0
"""Fixtures that all tests share; ROS is imported only by the fixtures that need it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from support.ros import Graph


@pytest.fixture
def ros() -> Iterator[Graph]:
    """A ROS graph of the test's own: context, node and executor; see support.ros.Graph."""
    from support.ros import graph

    with graph() as made:
        yield made
