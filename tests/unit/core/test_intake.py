from dataclasses import replace
from typing import Any

import pytest
from tests.unit.core.making import Run, act, alerts, at, gaps, read, record, setting

from auditgap.core.inputs import ACCESS_TRANSPARENCY_TYPES, Activity, Actor
from auditgap.core.ledger import ACCESSES
from auditgap.core.records import Gap
from auditgap.core.times import text_of

UNREADABLE = setting("bad", 0, logging="false")


@pytest.mark.parametrize(
    ("activity", "append", "reason", "kinds"),
    [
        (UNREADABLE, 1, "settings_unreadable", ["settings_change_unreadable"]),
        (setting("old", -(10**9), logging=False), 1, "settings_unreadable", ["settings_change_unreadable"]),
        (replace(setting("lie", 0, logging=False), type="file_viewed"), 1, "settings_unreadable", [
            "settings_change_unreadable"
        ]),
        (setting("on", 301, logging=True), 0, "time_in_future", ["clock_anomaly"]),
        (setting("off", 301, logging=False), 0, "time_in_future", ["clock_anomaly", "logging_disabled"]),
        (act("act", 301), 0, "time_in_future", ["clock_anomaly"]),
        (act("act", -(10**9)), 0, "time_implausible", []),
        (replace(act("act", 0), created_at=None), 0, "unreadable", []),
    ],
    ids=[
        "unreadable settings",
        "settings before any feed",
        "settings that pose as something else",
        "misdated on",
        "misdated off",
        "misdated activity",
        "activity before any feed",
        "activity without a time",
    ],
)  # fmt: skip
def test_refused(activity: Activity, append: float, reason: str, kinds: list[str]) -> None:
    """What cannot be used is refused with its reason, and what a person has to hear of is an alert besides."""
    run = Run()
    out = run.take(activity, append=append)
    rejection = run.outcomes[0].rejection
    assert rejection is not None
    assert (rejection.reason, run.outcomes[0].repeat) == (reason, False)
    assert [alert.kind for alert in alerts(out)] == kinds


def test_refused_again() -> None:
    """A refused record that comes again is refused again, and alerts once."""
    for activity in (UNREADABLE, setting("off", 301, logging=False), act("act", 301)):
        run = Run()
        assert run.take(activity, append=0)
        assert run.take(activity, append=0) == []
        assert [outcome.rejection is not None for outcome in run.outcomes] == [True, True]


def test_two_unreadable_records_of_one_id() -> None:
    """An unreadable settings event does not hide behind an earlier one of the same id."""
    run = Run()
    run.take(UNREADABLE)
    assert alerts(run.take(setting("bad", 0, logging="true")), "settings_change_unreadable")


def test_an_unreadable_change_is_never_history() -> None:
    """A settings event whose time cannot be trusted is not put aside as long past."""
    (alert,) = alerts(Run().take(setting("old", -(10**9), logging=False), append=1))
    assert (alert.historical, alert.occurred_at) == (False, None)


def test_settings_before_the_skew_are_taken() -> None:
    """A settings event dated ahead of its append time by less than the skew counts at its own time."""
    run = Run()
    run.take(setting("off", 300, logging=False), append=0)
    assert (run.gap.opened_at, run.gap.first_evidence_at) == (at(300), at(0))


def test_whom_it_blames() -> None:
    """Who switched it off is read from the original record, not from the typed copy."""
    run = Run()
    run.take(replace(setting("off", 1, logging=False), actor=Actor("user_actor", "user_scapegoat")))
    assert run.gap.opened_actor_id == "user_owner"


def test_a_repeat() -> None:
    """A settings event whose id and content were seen is a repeat and gives nothing, also from another feed."""
    run = Run()
    off = setting("off", 1, logging=False)
    assert run.take(off)
    for again in (off, replace(off, feed_id="feed_2"), replace(off, raw=off.raw.replace(",", " , "))):
        assert run.take(again, append=10) == []
    assert [outcome.repeat for outcome in run.outcomes] == [False, True, True, True]


def test_an_activity_is_applied() -> None:
    """An ordinary activity gives nothing at once, and is known for brackets."""
    run = Run()
    assert run.take(act("a", 0)) == []
    run.take(setting("off", 1, logging=False))
    assert run.gap.last_activity_id == "a"


@pytest.mark.parametrize("kind", sorted(ACCESS_TRANSPARENCY_TYPES))
def test_access_transparency(kind: str) -> None:
    """An Access Transparency record is applied, and is no part of a bracket nor inside a window."""
    run = Run()
    run.take(act("a", 0, kind=kind), setting("off", 1, logging=False), act("b", 2, kind=kind))
    run.take(setting("on", 3, logging=True), act("c", 4, kind=kind))
    run.settle()
    assert (run.gap.last_activity_id, run.gap.first_activity_id, run.gap.activity_inside_count) == (None, None, 0)
    assert not any(outcome.rejection or outcome.repeat for outcome in run.outcomes)


def accesses(gap: Gap) -> tuple[int | None, str | None, str | None]:
    """What a gap says of Anthropic's own access."""
    return gap.access_inside_count, gap.access_inside_first_id, gap.access_inside_last_id


def test_access_transparency_inside() -> None:
    """It is counted apart, by when the access was, whenever its record comes, and once."""
    run = Run()
    of: dict[str, Any] = {"kind": "anthropic_access"}
    before = act("before", 20, accessed_at=text_of(at(1)), **of)
    first, last = act("first", 900, accessed_at=text_of(at(11)), **of), act("last", 30, **of)
    run.take(setting("off", 10, logging=False), before, last)
    run.settle()
    assert accesses(run.gap) == (1, "last", "last")
    run.restart()
    run.take(setting("on", 100, logging=True), first, first, act("unsaid", 40, accessed_at="yesterday", **of))
    run.settle()
    assert accesses(run.gap) == (3, "first", "unsaid")
    run.restart()
    assert run.settle() == []
    run.take(setting("sooner", 35, logging=True))
    assert accesses(run.gap) == (2, "first", "last")
    run.take(act("after", 50, accessed_at=text_of(at(35)), **of), setting("never", 500, api=False))
    run.settle()
    assert [accesses(gap) for gap in run.standing] == [(2, "first", "last"), (None, None, None)]


def test_accesses_are_bounded() -> None:
    """Of a flood the newest are remembered."""
    run = Run()
    run.take(setting("off", 1, logging=False))
    run.take(*(act(f"a{second}", second, kind="cmek_preserve") for second in range(2, ACCESSES + 12)))
    run.settle()
    assert accesses(run.gap) == (ACCESSES, "a12", f"a{ACCESSES + 11}")
    assert len(run.ledger.accesses) == ACCESSES


def test_settings_events_are_no_activity() -> None:
    """Settings events are no part of a bracket, and not inside a window."""
    run = Run()
    run.take(setting("x", 0, api=None), setting("off", 1, logging=False), setting("y", 2, api=None))
    run.take(setting("on", 3, logging=True), setting("z", 4, api=None))
    assert (run.gap.last_activity_id, run.gap.first_activity_id, run.gap.activity_inside_count) == (None, None, 0)


def test_no_organization() -> None:
    """A settings event without an organization opens a gap of its feed, which names no organization."""
    run = Run()
    out = run.take(setting("off", 1, logging=False, organization_id=None))
    (gap,) = gaps(out)
    assert (gap.organization_id, gap.feed_id, list(run.ledgers)) == (None, "feed_1", ["feed/feed_1"])
    (alert,) = alerts(out)
    assert (alert.organization_id, alert.feed_id) == (None, "feed_1")
    assert alert.summary.startswith("feed feed_1: ")


def test_subjects_are_apart() -> None:
    """What is said of one organization touches no other, nor a feed."""
    run = Run()
    run.take(setting("off", 1, logging=False), setting("off", 1, logging=False, organization_id="org_2"))
    run.take(setting("on", 2, logging=True, organization_id="org_2"), read(record("a", 3, organization_id=None)))
    assert [(gap.organization_id, gap.state) for gap in run.standing] == [("org_1", "OPEN"), ("org_2", "CLOSED")]
    assert len({gap.gap_id for gap in run.standing}) == 2
    assert run.settle() == []


def test_alerts_come_first() -> None:
    """What a person is waiting for is published before what follows from it."""
    run = Run()
    kinds = [type(each).__name__ for each in run.take(setting("off", 1, logging=False))]
    assert kinds == ["Alert", "Gap"]


def test_stamps() -> None:
    """Revisions carry the time they were made at, which is given, and evidence the append time."""
    run = Run()
    out = run.take(setting("off", 1, logging=False), append=7)
    assert {each.produced_at for each in out} == {at(8)}
    assert (gaps(out)[0].first_evidence_at, alerts(out)[0].detected_at) == (at(7), at(7))
