"""A year of observations, one a minute, leaves a state that is bounded by what really changed."""

from tests.unit.core.making import SECOND, keep_changes, saw

from auditgap.core.fold import KEPT, Window
from auditgap.core.intake import observe
from auditgap.core.ledger import Ledger

MINUTE = 60
DAYS = 365


def bounds_of(window: Window) -> tuple[int | None, ...]:
    """Give what a window's gap says of time."""
    return window.opened_at, window.opened_at_latest, window.closed_at, window.closed_at_earliest


def test_observations_of_every_minute() -> None:
    """A poll every minute, an hour of it off each week, leaves no more than its changes and the newest ones."""
    ledgers: dict[str, Ledger] = {}
    store: dict[str, bytes] = {}
    weeks = DAYS // 7
    most = 0
    for number in range(DAYS * 24 * 60):
        week, minute = divmod(number, 7 * 24 * 60)
        off = week < weeks and 1000 <= minute < 1060
        seen = saw(f"poll_{number}", "settings_poll", "disabled" if off else "enabled", number * MINUTE)
        observe(ledgers, seen, seen.observed_at + SECOND, seen.observed_at + SECOND)
        if number % 60 == 0:
            keep_changes(store, ledgers["org_1"])
            most = max(most, len(ledgers["org_1"].timeline.assertions))
    ledger = ledgers["org_1"]
    keep_changes(store, ledger)
    standing = [gap for gap in ledger.gaps.values() if gap.state == "CLOSED"]
    assert len(standing) == weeks
    assert all(0 <= (gap.duration_seconds or 0) - 60 * MINUTE <= 4 * MINUTE for gap in standing)
    # Each week has four that bound its window and its "on"; the newest are kept whatever they say.
    assert most <= KEPT + 8 * (weeks + 1)
    assert sum(len(key) + len(value) for key, value in store.items()) <= 40_000 + 20_000 * weeks
    again = Ledger.restore("org_1", store)
    assert again.gaps == ledger.gaps
    assert [bounds_of(each) for each in again.timeline.windows] == [bounds_of(each) for each in ledger.timeline.windows]
