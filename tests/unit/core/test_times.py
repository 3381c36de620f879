from datetime import UTC, datetime, timedelta, timezone

import pytest

from auditgap.core import times

MOMENTS = {
    "the epoch": 0,
    "before the epoch": -1,
    "one microsecond": 1,
    "now": 1_795_453_200_123_456,
    "year 1": times.of(datetime(1, 1, 1, tzinfo=UTC)),
    "year 9999": times.of(datetime(9999, 12, 31, 23, 59, 59, 999_999, UTC)),
}


@pytest.mark.parametrize("moment", MOMENTS.values(), ids=MOMENTS.keys())
def test_text_and_back(moment: int) -> None:
    """A time survives being written and read, in text of one fixed width."""
    text = times.text_of(moment)
    assert len(text) == times.TEXT_LENGTH
    assert times.parse(text) == moment


def test_texts_sort_as_times() -> None:
    """Texts sort as their times do."""
    moments = sorted([*MOMENTS.values(), 999_999, 1_000_000, 1_795_453_200_000_000, 1_795_453_199_999_999])
    assert sorted(map(times.text_of, moments)) == [times.text_of(moment) for moment in moments]


def test_canonical_text() -> None:
    """The canonical text is ISO 8601 in UTC with six digits and a Z."""
    assert times.text_of(MOMENTS["now"]) == "2026-11-23T17:00:00.123456Z"


READABLE = {
    "2026-11-23T17:00:00Z": 1_795_453_200_000_000,
    "2026-11-23T17:00:00.5Z": 1_795_453_200_500_000,
    "2026-11-23T18:00:00+01:00": 1_795_453_200_000_000,
    "2026-11-23T17:00:00.123456789Z": 1_795_453_200_123_456,
    "2026-11-23 17:00:00+00:00": 1_795_453_200_000_000,
}


@pytest.mark.parametrize(("text", "moment"), READABLE.items(), ids=READABLE.keys())
def test_what_is_a_time(text: str, moment: int) -> None:
    """Any ISO 8601 time with a zone is read, to the microsecond."""
    assert times.parse(text) == moment


@pytest.mark.parametrize(
    "text",
    [
        "",
        "yesterday",
        "2026-11-23",
        "2026-11-23T17:00:00",
        "2026-13-01T00:00:00Z",
        "2026-11-23T17:00:61Z",
        "1795453200",
        "0001-01-01T00:00:00+14:00",
        "9999-12-31T23:59:59-12:00",
    ],
)
def test_what_is_no_time(text: str) -> None:
    """A text without a zone, or outside the years that can be written, is no time."""
    assert times.parse(text) is None


def test_of_is_exact() -> None:
    """A datetime in any zone becomes its microseconds exactly, where floats would not."""
    moment = datetime(2026, 11, 23, 17, 0, 0, 123_457, timezone(timedelta(hours=5, minutes=30)))
    assert times.of(moment) == 1_795_453_200_123_457 - 19_800 * times.SECOND
    assert times.of(datetime(9000, 1, 1, 0, 0, 0, 1, UTC)) % times.SECOND == 1


def test_of_a_naive_time() -> None:
    """A datetime without a zone is an error, not a guess."""
    with pytest.raises(TypeError):
        times.of(datetime(2026, 11, 23, 17))  # noqa: DTZ001 - that it is naive is the case


@pytest.mark.parametrize("moment", [10**20, -(10**20)])
def test_a_time_that_cannot_be_written(moment: int) -> None:
    """A time outside the years 1 to 9999 raises OverflowError."""
    with pytest.raises(OverflowError):
        times.text_of(moment)
