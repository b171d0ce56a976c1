"""Waiting for what another thread or process does."""

import time
from collections.abc import Callable

import pytest

TIMEOUT_S = 30.0


def wait_until(condition: Callable[[], bool]) -> None:
    """Returns as soon as the condition holds; fails the test after `TIMEOUT_S`."""
    deadline = time.monotonic() + TIMEOUT_S
    while not condition():
        if time.monotonic() > deadline:
            pytest.fail(f"the condition did not hold within {TIMEOUT_S:g} s")
        time.sleep(0.02)
