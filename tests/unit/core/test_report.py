"""The coverage report: what it says of a period, of what was published, and of whom it speaks."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import pytest
from tests.support.golden import assert_golden
from tests.unit.core.making import Run, act, at, gaps, saw, setting

from auditgap.core.coverage import INFERRED, OFF, PROVEN, UNKNOWN, Span
from auditgap.core.inputs import Activity
from auditgap.core.policy import Actors, ChangeWindow, Rules, successor
from auditgap.core.recent import PROOF_LIMIT
from auditgap.core.records import Emission, Gap, as_dict, digest
from auditgap.core.report import (
    OUTSIDE,
    Coverage,
    Evidence,
    Scope,
    apart,
    build,
    chain_faults,
    latest_of,
    measure,
    overlaid,
    percent,
    standing,
    together,
    within,
)
from auditgap.core.shard import Shard
from auditgap.core.times import SECOND, text_of
from auditgap.core.topology import Link, Says
from auditgap.core.topology import successor as successor_of

HOUR = 3600
ALL = Scope("all")


def spans(*edges: tuple[float, str], until: float) -> list[Span]:
    """Make spans that join, each from its second on."""
    ends = [begin for begin, _ in edges[1:]] + [until]
    return [Span(at(begin), at(end), state) for (begin, state), end in zip(edges, ends, strict=True)]


def taken(*activities: Activity) -> Run:
    """Take activities in, in their order, and publish all that follows."""
    run = Run()
    run.take(*activities)
    run.settle()
    return run


def window(organization: str = "org_1", prefix: str = "") -> list[Activity]:
    """Records every ten minutes for four hours, off from an hour to two hours."""
    own: dict[str, Any] = {"organization_id": organization}
    ordinary = [
        act(f"{prefix}a{minute}", minute * 60, **own) for minute in range(0, 241, 10) if not 60 <= minute <= 120
    ]
    return sorted(
        [
            *ordinary,
            setting(f"{prefix}off", HOUR, logging=False, **own),
            setting(f"{prefix}on", 2 * HOUR, logging=True, **own),
        ],
        key=lambda each: each.created_at or 0,
    )


def evidence(run: Run, as_of: float = 4 * HOUR, **fields: Any) -> Evidence:
    """Say that the worker published just what a run did; `fields` say what is otherwise."""
    found: dict[str, Any] = {
        "ledgers": run.ledgers,
        "feeds": dict.fromkeys(run.ledgers, frozenset({"feed_1"})),
        "named": frozenset(),
        "as_of": at(as_of),
        "compared": {gap.gap_id: gap for gap in run.standing},
        "history": gaps(run.out),
        "kept_since": {},
    }
    return Evidence(**(found | fields))


def report(run: Run, begin: float, end: float, scope: Scope = ALL, **fields: Any) -> dict[str, Any]:
    """Build a report; times are seconds after T0."""
    return build(scope, at(begin), at(end), evidence(run, **fields))


def states(member: dict[str, Any]) -> list[tuple[str, str]]:
    """Give the states of a member, each with where it begins."""
    return [(span["state"], span["begin"]) for span in member["spans"]]


# --- how much ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("part", "whole", "down", "up"),
    [
        (0, 7, "0.0000", "0.0000"),
        (7, 7, "100.0000", "100.0000"),
        (1, 3, "33.3333", "33.3334"),
        (2, 3, "66.6666", "66.6667"),
        (10**15 - 1, 10**15, "99.9999", "100.0000"),
        (1, 10**15, "0.0000", "0.0001"),
        (1, 20, "5.0000", "5.0000"),
        (0, 0, "0.0000", "0.0000"),
    ],
)
def test_percent(part: int, whole: int, down: str, up: str) -> None:
    """A share is rounded the way that is asked for, and not at all where it is exact."""
    assert (percent(part, whole), percent(part, whole, up=True)) == (down, up)


def test_measure() -> None:
    """Lengths add up; the longest unproven stretch goes over states; the resolution is the longest time to hide in."""
    found = measure(
        spans((0, PROVEN), (100, INFERRED), (7100, PROVEN), (9000, UNKNOWN), (9010, OFF), (9500, UNKNOWN), until=9600)
    )
    assert (found.proven, found.inferred) == (2000 * SECOND, 7000 * SECOND)
    assert (found.unknown, found.off) == (110 * SECOND, 490 * SECOND)
    assert (found.lower, found.upper, found.period) == (9000 * SECOND, 9110 * SECOND, 9600 * SECOND)
    assert found.longest_unproven == (at(100), at(7100))
    assert found.resolution == 7000 * SECOND
    joined = measure(spans((0, INFERRED), (60, OFF), (90, UNKNOWN), (95, INFERRED), (99, PROVEN), until=100))
    assert joined.longest_unproven == (at(0), at(99))
    assert joined.resolution == 60 * SECOND


def test_resolution_of_proven() -> None:
    """Where all is proven a window may still hide that is shorter than the proof limit, but not than the stretch."""
    assert measure(spans((0, PROVEN), until=5 * HOUR)).resolution == PROOF_LIMIT
    assert measure(spans((0, PROVEN), until=100)).resolution == 100 * SECOND
    assert measure(spans((0, UNKNOWN), (50, OFF), until=100)).resolution is None
    assert measure(spans((0, PROVEN), until=100)).longest_unproven is None


def test_together() -> None:
    """Several subjects are their sums, with the longest stretch and the coarsest resolution of any."""
    one = Coverage(proven=5, inferred=4, unknown=3, off=2, longest_unproven=(1, 10), resolution=4)
    two = Coverage(proven=1, off=1, longest_unproven=(30, 50), resolution=1)
    assert together([one, two, Coverage()]) == Coverage(
        proven=6, inferred=4, unknown=3, off=3, longest_unproven=(30, 50), resolution=4
    )
    assert together([]) == Coverage()


def test_within() -> None:
    """A period is cut out half-open; what no span speaks of is UNKNOWN."""
    known = spans((100, PROVEN), (200, OFF), until=300)
    assert within(known, at(150), at(250)) == spans((150, PROVEN), (200, OFF), until=250)
    assert within(known, at(0), at(400)) == spans((0, UNKNOWN), (100, PROVEN), (200, OFF), (300, UNKNOWN), until=400)
    assert within(known, at(200), at(201)) == spans((200, OFF), until=201)
    assert within(known, at(300), at(301)) == within([], at(300), at(301)) == spans((300, UNKNOWN), until=301)


# --- what a report says -----------------------------------------------------------------------------------------------


def test_a_window() -> None:
    """The answer, the window with its bracket, its stamps, its bounds and alerts, and the states around it."""
    run = taken(*window())
    found = report(run, 0, 4 * HOUR)
    assert (found["from"], found["to"], found["as_of"]) == (
        text_of(at(0)),
        text_of(at(4 * HOUR)),
        text_of(at(4 * HOUR)),
    )
    coverage = found["coverage"]
    assert (coverage["of"], coverage["members"]) == ("organizations", 1)
    assert coverage["off_microseconds"] == HOUR * SECOND
    assert coverage["unknown_microseconds"] == 0
    assert coverage["lower_percent"] == coverage["upper_percent"] == "75.0000"
    assert coverage["longest_unproven"] == {
        "begin": text_of(at(3000)),
        "end": text_of(at(7800)),
        "microseconds": 4800 * SECOND,
        "organization_id": "org_1",
        "feed_id": None,
        "parent_id": None,
    }
    assert coverage["resolution_microseconds"] == PROOF_LIMIT
    (told,) = found["windows"]
    (last,) = latest_of(gaps(run.out)).values()
    assert [told[name] for name in ("last_activity_id", "opened_by_id", "closed_by_id", "first_activity_id")] == [
        "a50",
        "off",
        "on",
        "a130",
    ]
    assert (told["opening"], told["closing"], told["recomputed"]) == ("EXACT", "EXACT", True)
    assert told["in_period_microseconds"] == HOUR * SECOND
    assert [each["kind"] for each in told["alerts"]] == ["logging_disabled", "logging_restored"]
    assert told["published"]["revision"] == last.revision
    assert told["published"]["digest"] == digest(as_dict(last))
    assert "revision" not in told
    assert (found["differences"], found["history"]["faults"], found["outside"], found["others"]) == ([], [], [], 0)


def test_nothing_is_audited_beyond_the_proofs() -> None:
    """Before the first record and after the last one all is UNKNOWN; after the last input even an open window is."""
    run = taken(act("first", 100), act("second", 200), setting("off", 300, api=False))
    (member,) = report(run, 0, 1000, as_of=500)["members"]
    assert states(member) == [
        (UNKNOWN, text_of(at(0))),
        (PROVEN, text_of(at(100))),
        (UNKNOWN, text_of(at(200))),
        (OFF, text_of(at(300))),
        (UNKNOWN, text_of(at(500))),
    ]


def test_a_proof_after_the_period_counts() -> None:
    """What was recorded after the period proves what lay before it."""
    run = taken(act("first", 0), act("second", 2 * HOUR))
    (member,) = report(run, HOUR, 1.5 * HOUR)["members"]
    assert states(member) == [(INFERRED, text_of(at(HOUR)))]
    assert member["coverage"]["resolution_microseconds"] == HOUR * SECOND / 2


@pytest.mark.parametrize(
    ("begin", "end", "there"),
    [(0, HOUR, False), (0, HOUR + 1, True), (2 * HOUR - 1, 3 * HOUR, True), (2 * HOUR, 3 * HOUR, False)],
)
def test_a_window_belongs_to_the_periods_it_touches(begin: float, end: float, there: bool) -> None:
    """Periods and windows are half-open; a window that only adjoins is not listed."""
    found = report(taken(*window()), begin, end)
    assert bool(found["windows"]) is there
    assert bool(found["coverage"]["off_microseconds"]) is there
    if there:
        assert found["windows"][0]["in_period_microseconds"] == SECOND


def test_minutes_excused() -> None:
    """What lies in a change window is excused to its end, and is not audited all the same."""
    planned = ChangeWindow(
        id="CHG-1",
        reason="upgrade",
        actors=Actors(emails=("owner@example.com",)),
        registered_at=at(-100),
        start=at(HOUR - 60),
        end=at(HOUR + 600),
    )
    rules = Rules(owners=planned.actors, change_windows=(planned,))
    run = taken(act("first", 0))
    run.ledger.govern((successor(None, None, rules, "jane@example.com", at(-50), None),))
    run.take(*window())
    run.settle()
    found = report(run, HOUR + 60, 3 * HOUR)
    (told,) = found["windows"]
    assert (told["change_window_id"], told["excused_microseconds"]) == ("CHG-1", 540 * SECOND)
    assert found["coverage"]["excused_microseconds"] == 540 * SECOND
    assert found["coverage"]["off_microseconds"] == 3540 * SECOND
    assert [(each["organization_id"], each["version"]) for each in found["policy"]] == [(None, 1)]
    assert found["members"][0]["policy_version"] == 1


def test_population() -> None:
    """Who was seen is in it, also without proof; who came later, or is only named, is outside; feeds stand apart."""
    run = taken(
        *window(),
        act("silent", 0, organization_id="org_silent"),
        act("late", 3 * HOUR, organization_id="org_late"),
        act("sign in", 0, organization_id=None),
    )
    found = report(run, 600, 2.5 * HOUR, named=frozenset({"org_1", "org_never"}))
    assert [each["organization_id"] or each["feed_id"] for each in found["members"]] == [
        "org_1",
        "org_silent",
        "feed_1",
    ]
    assert {each["organization_id"] or each["feed_id"]: each["why"] for each in found["outside"]} == {
        "org_late": "first_seen_later",
        "org_never": "never_seen",
        "org_silent": "no_proof_in_period",
        "feed_1": "no_proof_in_period",
    }
    assert {each["why"] for each in found["outside"]} == set(OUTSIDE)
    # Two organizations, of which one was silent: that is not audited.
    assert (found["coverage"]["of"], found["coverage"]["members"]) == ("organizations", 2)
    assert found["coverage"]["unknown_microseconds"] == (2.5 * HOUR - 600) * SECOND


def test_scopes() -> None:
    """A report of one organization or feed speaks of nobody else, and says how many others there are."""
    run = taken(*window(), *window("org_2", "b"), act("sign in", 0, organization_id=None))
    feeds = {"org_1": frozenset({"feed_1"}), "org_2": frozenset({"feed_2"}), "feed/feed_1": frozenset({"feed_1"})}
    one = report(run, 0, 4 * HOUR, Scope("organization", "org_2"), feeds=feeds)
    assert [each["organization_id"] for each in (*one["members"], *one["windows"])] == ["org_2", "org_2"]
    own = [gap for gap in gaps(run.out) if gap.organization_id == "org_2"]
    assert (one["others"], one["history"]["revisions"]) == (2, len(own))
    of_feed = report(run, 0, 4 * HOUR, Scope("feed", "feed_1"), feeds=feeds)
    assert [each["organization_id"] for each in of_feed["members"]] == ["org_1", None]
    alone = {"feed/feed_1": run.ledgers["feed/feed_1"]}
    only_feed = report(run, 0, 4 * HOUR, Scope("feed", "feed_1"), ledgers=alone, compared={}, history=[])
    assert only_feed["coverage"]["of"] == "feeds"


def test_what_a_feed_switches() -> None:
    """A member's window names its feed's and has its alerts; whom mail waits for is not compared, but told as late."""
    shard = Shard()
    links = Says(members=(Link(subject="org_1"), Link(subject="org_2")))
    shard.topology(successor_of(None, "feed/feed_1", links, "jane", at(0)), at(0))
    emissions: list[Emission] = []
    for activity in (
        setting("off", HOUR, api=False, organization_id=None),
        act("own", 2 * HOUR, organization_id="org_1"),
    ):
        outcome = shard.activity(activity, activity.created_at or 0, at(4 * HOUR))
        emissions += shard.deliver(outcome, at(4 * HOUR), at(4 * HOUR)).emissions
    emissions += shard.settle(at(4 * HOUR))
    run = Run(shard.ledgers, out=emissions)
    found = report(run, 0, 4 * HOUR)
    leader, *heirs = found["windows"]
    assert (leader["feed_id"], sorted(each["organization_id"] for each in heirs)) == ("feed_1", ["org_1", "org_2"])
    assert "logging_disabled" in {each["kind"] for each in leader["alerts"]}
    for each in heirs:
        assert (each["inherited_from"], each["alerts"]) == (leader["gap_id"], leader["alerts"])
    assert (found["coverage"]["of"], found["coverage"]["members"], found["differences"]) == ("organizations", 2, [])

    late = [gap for gap in gaps(emissions) if gap.organization_id != "org_2"]
    (told,) = report(run, 0, 4 * HOUR, history=late)["differences"]
    assert "not published, or as superseded" in told["what"]
    (told,) = report(run, 0, 4 * HOUR, history=late, awaited=frozenset({"org_2"}))["differences"]
    assert (told["organization_id"], told["what"]) == (
        "org_2",
        "it is not published: the worker has not come that far",
    )


def test_a_parent_is_no_organization() -> None:
    """The share is that of the organizations; a parent is named as one, and counts only where nobody else is."""
    run = Run()
    polls = [("enabled", 0), ("disabled", HOUR)]
    run.observe(
        *(saw(result, "settings_poll", result, when, organization_id=None, parent_id="p") for result, when in polls)
    )
    alone = report(run, 0, 4 * HOUR)
    assert (alone["coverage"]["of"], alone["coverage"]["members"]) == ("parents", 1)
    run.take(*window())
    run.settle()
    found = report(run, 0, 4 * HOUR)
    assert (found["coverage"]["of"], found["coverage"]["members"]) == ("organizations", 1)
    assert [(each["organization_id"], each["parent_id"]) for each in found["members"]] == [("org_1", None), (None, "p")]


def test_an_empty_period_is_refused() -> None:
    """A period that ends where it begins is none."""
    with pytest.raises(ValueError, match="empty"):
        report(taken(*window()), 5, 5)


def excused() -> Run:
    """An organization whose change window covers the beginning of its gap."""
    planned = ChangeWindow(
        id="CHG-1",
        reason="upgrade",
        actors=Actors(emails=("owner@example.com",)),
        registered_at=at(-100),
        start=at(HOUR - 60),
        end=at(HOUR + 600),
    )
    run = taken(act("first", 0))
    rules = Rules(owners=planned.actors, change_windows=(planned,))
    run.ledger.govern((successor(None, None, rules, "jane@example.com", at(-50), None),))
    run.take(*window())
    run.observe(
        saw("poll", "settings_poll", "disabled", 3 * HOUR), saw("denied", "feed_answer", "forbidden", 3.5 * HOUR)
    )
    run.settle()
    return run


def test_every_field() -> None:
    """A report is, field by field, what it was."""
    run, two = excused(), taken(*window(), *window("org_2", "b"), act("sign in", 0, organization_id=None))
    feeds = {"org_1": frozenset({"feed_1"}), "org_2": frozenset({"feed_2"}), "feed/feed_1": frozenset({"feed_1"})}
    changed = edited(gaps(run.out), closed_by_id="forged", closed_at=at(5000))
    strange = replace(run.standing[0], gap_id="gap_strange", opened_at=at(10_000), opened_at_latest=at(10_000))
    gone = taken(*(each for each in window() if (each.created_at or 0) > at(1.5 * HOUR)))
    kept = {"org_1": at(1.5 * HOUR)}
    reports = {
        "a part": report(run, HOUR + 60, 3 * HOUR),
        "all": report(run, -HOUR, 4 * HOUR, named=frozenset({"org_1", "org_never"})),
        "changed": report(run, 0, 4 * HOUR, history=changed),
        "strange": report(run, 0, 4 * HOUR, history=[*gaps(run.out), strange]),
        "not published": report(run, 0, 4 * HOUR, history=[]),
        "behind": report(run, 0, 4 * HOUR, history=[], compared={}),
        "gone": report(gone, 0, 4 * HOUR, history=gaps(run.out), kept_since=kept),
        "one of two": report(two, 0, 4 * HOUR, Scope("organization", "org_2"), feeds=feeds),
        "a feed": report(two, 0, 4 * HOUR, Scope("feed", "feed_1"), feeds=feeds),
        "nobody": report(Run(), 0, 4 * HOUR),
    }
    for name, found in reports.items():
        assert_golden(f"reports/{name.replace(' ', '-')}", found)


# --- what was published -----------------------------------------------------------------------------------------------


def history(count: int = 4) -> list[Gap]:
    """A whole chain of one subject."""
    run = Run()
    for number in range(count):
        run.take(setting(f"event{number}", 100 * number, api=bool(number % 2)))
    found = gaps(run.out)
    assert [gap.history_sequence for gap in found] == list(range(1, count + 1))
    return found


def test_a_whole_chain() -> None:
    """A chain that is whole has no fault, in whatever order it is read."""
    assert chain_faults(history()) == chain_faults(reversed(history())) == chain_faults([]) == []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        pytest.param(lambda chain: [*chain[:1], *chain[2:]], ["sequence 2 missing"], id="one removed"),
        pytest.param(lambda chain: chain[2:], ["sequences 1 to 2 missing"], id="the first ones removed"),
        pytest.param(lambda chain: [*chain, chain[1]], ["sequence 2 is there 2 times"], id="one repeated"),
        pytest.param(
            lambda chain: [chain[0], replace(chain[1], cause="BOTH_DISABLED"), *chain[2:]],
            ["sequence 3", "does not name the digest"],
            id="one edited",
        ),
        pytest.param(
            lambda chain: [*chain, replace(chain[-1], history_sequence=5, revision=9)],
            ["sequence 5", "does not name the digest"],
            id="one forged at the end",
        ),
        pytest.param(
            lambda chain: [replace(chain[0], previous_digest="00"), *chain[1:]],
            ["sequence 1", "does not name the digest"],
            id="a beginning that names one before",
        ),
    ],
)
def test_a_broken_chain(change: Any, words: Sequence[str]) -> None:
    """Whatever was removed, repeated, edited or forged shows, with its place."""
    faults = chain_faults(change(history()))
    assert faults
    for word in words:
        assert any(word in fault for fault in faults), faults


def edited(revisions: Iterable[Gap], **fields: Any) -> list[Gap]:
    """Change fields of published revisions."""
    return [replace(gap, **fields) for gap in revisions]


def test_published_otherwise() -> None:
    """A published gap that says something else than the inputs is told with the field; its stamps may be others."""
    run = taken(*window())
    found = report(run, 0, 4 * HOUR, history=edited(gaps(run.out), closed_by_id="forged", closed_at=at(5000)))
    (told,) = found["differences"]
    assert told["organization_id"] == "org_1"
    assert "closed_by_id is forged, the replay gives on" in told["what"]
    assert text_of(at(5000)) in told["what"]
    stamps = edited(gaps(run.out), incident_id="inc_other", produced_at=5)
    assert report(run, 0, 4 * HOUR, history=stamps)["differences"] == []
    assert apart(run.gap, run.gap) == []


def test_published_too_much_or_too_little() -> None:
    """A gap that was not published is told, and so is one that no input explains; that one is believed to be off."""
    run = taken(*window())
    (told,) = report(run, 0, 4 * HOUR, history=[])["differences"]
    assert "not published" in told["what"]
    assert report(run, 0, 4 * HOUR, history=[])["windows"][0]["published"] is None
    (behind,) = report(run, 0, 4 * HOUR, history=[], compared={})["differences"]
    assert "has not come that far" in behind["what"]
    strange = replace(run.gap, gap_id="gap_strange", opened_at=at(10_000), opened_at_latest=at(10_000), closed_at=None)
    strange = replace(strange, closed_at_earliest=None, state="OPEN", duration_seconds=None)
    found = report(run, 0, 4 * HOUR, history=[*gaps(run.out), strange])
    (told,) = found["differences"]
    assert "the replay does not find it" in told["what"]
    assert [each["recomputed"] for each in found["windows"]] == [True, False]
    assert found["coverage"]["off_microseconds"] == (HOUR + 4 * HOUR - 10_000) * SECOND
    superseded = [*gaps(run.out), replace(strange, state="SUPERSEDED")]
    assert report(run, 0, 4 * HOUR, history=superseded)["differences"] == []


def test_the_history_speaks_where_inputs_are_gone() -> None:
    """A window whose inputs were deleted by retention is off all the same, and no difference."""
    whole = taken(*window())
    kept = taken(*(each for each in window() if (each.created_at or 0) > at(1.5 * HOUR)))
    assert kept.standing == []
    assert kept.ledger.coverage(at(4 * HOUR))[0].state in (PROVEN, INFERRED)
    told = report(kept, 0, 4 * HOUR, history=gaps(whole.out), kept_since={"org_1": at(1.5 * HOUR)})
    assert told["differences"] == []
    (found,) = told["windows"]
    assert (found["recomputed"], found["opened_by_id"]) == (False, "off")
    assert states(told["members"][0])[:2] == [(UNKNOWN, text_of(at(0))), (OFF, text_of(at(HOUR)))]
    assert told["coverage"]["off_microseconds"] == HOUR * SECOND
    # Nobody left but the history.
    alone = report(Run(), 0, 4 * HOUR, history=gaps(whole.out), kept_since={"org_1": at(9 * HOUR)})
    assert [each["organization_id"] for each in alone["members"]] == ["org_1"]


def test_overlaid() -> None:
    """A published gap is OFF in its certain part and UNKNOWN around it, whatever the inputs that are left prove."""
    gap = replace(
        taken(*window()).gap, opened_at=at(10), opened_at_latest=at(20), closed_at_earliest=at(30), closed_at=at(40)
    )
    proven = spans((0, PROVEN), until=50)

    def laid(gap: Gap) -> list[Span]:
        return within(overlaid(proven, gap, at(45)), at(0), at(50))

    around = spans((0, PROVEN), (10, UNKNOWN), (20, OFF), (30, UNKNOWN), (40, PROVEN), until=50)
    assert laid(gap) == around
    assert laid(replace(gap, confidence="SUSPECTED")) == spans((0, PROVEN), (10, UNKNOWN), (40, PROVEN), until=50)
    assert laid(replace(gap, closed_at_earliest=None, closed_at=None)) == spans(
        (0, PROVEN), (10, UNKNOWN), (20, OFF), (45, PROVEN), until=50
    )
    assert laid(replace(gap, opened_at=None))[0] == Span(at(0), at(20), UNKNOWN)
    assert within(overlaid(spans((0, OFF), until=50), gap, at(45)), at(0), at(50)) == spans((0, OFF), until=50)


def test_standing_and_latest() -> None:
    """The latest revision of each gap counts, and of these only those that stand."""
    first, second = replace(history(1)[0], gap_id="gap_a"), replace(history(1)[0], gap_id="gap_a", revision=2)
    assert latest_of([second, first]) == {"gap_a": second}
    assert standing([replace(first, state="RETRACTED"), replace(second, state="SUPERSEDED")]) == {}
