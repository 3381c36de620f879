"""Times as whole microseconds since the epoch, UTC, and their one canonical text.

The text has a fixed width (27 characters, `2026-11-23T17:00:00.000000Z`), so texts sort as their times do: the
worker's fast path compares headers without parsing them.
"""

from datetime import UTC, datetime, timedelta

SECOND = 1_000_000
"""One second in the unit of this module."""

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
TEXT_LENGTH = 27


def text_of(micros: int) -> str:
    """Write a time in its canonical form. Raises OverflowError outside the years 1 to 9999."""
    return (EPOCH + timedelta(microseconds=micros)).strftime("%Y-%m-%dT%H:%M:%S.%f").rjust(26, "0") + "Z"


def parse(text: str) -> int | None:
    """Read an ISO 8601 time that names its zone; None where it is not one (a time without a zone is a guess)."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    return None if moment.tzinfo is None else of(moment)


def of(moment: datetime) -> int:
    """Turn an aware datetime into microseconds, exactly."""
    return (moment - EPOCH) // timedelta(microseconds=1)
