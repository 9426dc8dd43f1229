"""Waiting for a condition, never for a time."""

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

# Seconds for what must hang, each tried until one was long enough for what it does before: short where all is well.
DEADLINES = (0.5, 2.0, 8.0, 32.0)


def wait_until(condition: Callable[[], T | None], what: str | Callable[[], str] = "", seconds: float = 60.0) -> T:
    """The condition's first true answer. Fails with ``what`` (as it is then) when there is none in time."""
    deadline = time.monotonic() + seconds
    while True:
        found = condition()
        if found:
            return found
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds:g} s: {(what() if callable(what) else what) or condition}")
        time.sleep(0.02)
