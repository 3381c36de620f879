"""Conditions are awaited, never slept for."""

import time
from collections.abc import Callable
from typing import Final, TypeVar

Found = TypeVar("Found")

PATIENCE: Final = 45.0
"""Seconds after which a condition will not come true any more, on a machine that does other work besides."""


def until(condition: Callable[[], Found], what: str | Callable[[], str], seconds: float = PATIENCE) -> Found:
    """Wait until the condition gives something true, and give that. Fails with what was waited for."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        if time.monotonic() > deadline:
            raise AssertionError(f"after {seconds:g} s: {what if isinstance(what, str) else what()}")
        time.sleep(0.02)
    return found
