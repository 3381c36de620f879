"""Times as whole microseconds since the epoch, UTC, and their one canonical text.

The text has a fixed width (27 characters, `2026-11-23T17:00:00.000000Z`), so texts sort as their times do: the
worker's fast path compares headers without parsing them.
"""

from datetime import UTC, datetime, timedelta

SECOND = 1_000_000
"""One second in the unit of this module."""

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_NAIVE_EPOCH = EPOCH.replace(tzinfo=None)
_FIRST = -62_135_596_800 * SECOND
_LAST = 253_402_300_800 * SECOND - 1
TEXT_LENGTH = 27


def text_of(micros: int) -> str:
    """Write a time in its canonical form. Raises OverflowError outside the years 1 to 9999."""
    # `isoformat` pads years to four digits and takes a third of the time of `strftime`: this runs for every record.
    return (_NAIVE_EPOCH + timedelta(0, 0, micros)).isoformat("T", "microseconds") + "Z"


def parse(text: str) -> int | None:
    """Read an ISO 8601 time that names its zone; None where it is not one (a time without a zone is a guess).

    Nor is it one where it lies outside the years 1 to 9999 UTC, as it may by its zone: it could not be written again.
    """
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    if moment.tzinfo is None:
        return None
    micros = of(moment)
    return micros if _FIRST <= micros <= _LAST else None


def of(moment: datetime) -> int:
    """Turn an aware datetime into microseconds, exactly."""
    since = moment - EPOCH
    return (since.days * 86_400 + since.seconds) * SECOND + since.microseconds
