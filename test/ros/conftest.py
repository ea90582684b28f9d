# SPDX-License-Identifier: Apache-2.0
"""Keeps the tests of a process from crowding each other out of their domain."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest


@pytest.fixture(scope="session", autouse=True)
def frozen_past() -> None:
    """What was made before the first ROS test is not searched for garbage again and again."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def participants_leave(frozen_past: None) -> Iterator[None]:
    """A context leaves its domain when it is freed, and Python frees a cycle when it likes.

    On one machine Fast DDS finds the first 32 participants of a domain: with more contexts left
    over from earlier tests, new programs would not find each other.
    """
    yield
    gc.collect()
