"""The one place where the system clock is read."""

import time


def now() -> int:
    """Tell the time in microseconds since the epoch, UTC."""
    return time.time_ns() // 1000
