"""The state of one organization is bounded by what really changed, not by how often it was looked at or said."""

import pytest
from tests.unit.core.making import at, keep_changes, saw, setting

from auditgap.core.fold import Timeline
from auditgap.core.intake import observe, take
from auditgap.core.ledger import Ledger
from auditgap.core.records import Emission, Gap
from auditgap.core.shard import Shard, Sizes


def size_of(store: dict[str, bytes]) -> int:
    """Count the bytes of a persisted state."""
    return sum(len(key) + len(value) for key, value in store.items())


def assert_as_of_one(ledger: Ledger) -> None:
    """The windows are those of all assertions folded at once."""
    assert ledger.timeline.windows == Timeline(ledger.timeline.assertions).windows


def test_a_flag_flipped_every_second_for_an_hour() -> None:
    """Each window is exact, all events are kept once, their state grows by as much for each, and it is told once."""
    ledgers: dict[str, Ledger] = {}
    store: dict[str, bytes] = {}
    out: list[Emission] = []
    sizes: list[int] = []
    for second in range(3600):
        flip = setting(f"flip_{second}", second, api=bool(second % 2))
        out += take(ledgers, flip, at(second + 1), at(second + 1)).emissions
        keep_changes(store, ledgers["org_1"])
        if second % 900 == 899:
            sizes.append(size_of(store))
    ledger = ledgers["org_1"]
    found = sorted((gap.opened_at, gap.closed_at) for gap in ledger.gaps.values())
    assert found == [(at(second), at(second + 1)) for second in range(0, 3600, 2)]
    assert len(ledger.timeline.assertions) == 3600
    (flapping,) = [each for each in ledger.alerts.values() if each.kind == "flapping"]
    assert "more than 3,200 changes" in flapping.summary
    # Each quarter of an hour costs what the first one did, and a gap has the two revisions of its two events.
    assert sizes[3] <= 4.2 * sizes[0]
    assert sizes[3] <= 3600 * 4000
    assert sum(isinstance(each, Gap) for each in out) == 3600
    assert_as_of_one(ledger)


@pytest.mark.parametrize(
    "flags",
    [
        [{"api": False}],
        [{"api": False}, {"logging": False}],
        [{"api": False, "logging": False}, {"logging": False}],
        [{"api": True, "logging": True}],
        [{"api": False}, {"api": True}],
    ],
    ids=["off", "off of either", "off of both and one", "on", "in turn"],
)
@pytest.mark.parametrize("poll", [None, "enabled", "disabled"])
def test_events_that_say_the_same_again(flags: list[dict[str, bool]], poll: str | None) -> None:
    """Said again, with polls between or none, what is known is the same as if it were read at once, and each alerts."""
    ledgers: dict[str, Ledger] = {}
    store: dict[str, bytes] = {}
    for number in range(40):
        second = number * 45
        event = setting(f"event_{number:03}", second, api=flags[number % len(flags)].get("api", ...),
                        logging=flags[number % len(flags)].get("logging", ...))  # fmt: skip
        take(ledgers, event, at(second + 1), at(second + 1))
        if poll is not None and number % 9 == 4:
            seen = saw(f"poll_{number}", "settings_poll", poll, second + 30)
            observe(ledgers, seen, at(second + 31), at(second + 31))
        assert_as_of_one(ledgers["org_1"])
    ledger = ledgers["org_1"]
    keep_changes(store, ledger)
    again = Ledger.restore("org_1", store)
    assert again.timeline.windows == ledger.timeline.windows
    offs = sum(False in flags[number % len(flags)].values() for number in range(40))
    told = {each.evidence for each in ledger.alerts.values() if each.kind == "logging_disabled"}
    assert len([each for each in told if each[0].startswith("event_")]) == offs


def test_sizes() -> None:
    """A shard says how much it holds, all subjects together."""
    shard = Shard()
    assert shard.sizes() == Sizes(0, 0, 0)
    shard.activity(setting("off", 0, api=False), at(1), at(1))
    shard.activity(setting("off", 0, api=False), at(2), at(2))
    shard.activity(setting("other", 0, api=False, organization_id="org_2"), at(1), at(1))
    assert shard.sizes() == Sizes(2, 2, 2)
    shard.observation(saw("denied", "feed_answer", "unauthorized", 5), at(6), at(6))
    assert shard.sizes().assertions == 3
