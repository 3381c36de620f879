from collections.abc import Callable
from dataclasses import replace

import pytest
from tests.unit.core.making import ACTOR, SECOND, Run, act, alerts, at, gaps, record, setting

from auditgap.core import fold
from auditgap.core.alertbook import HISTORICAL_AFTER
from auditgap.core.inputs import Activity, Rejection, read_activity
from auditgap.core.ledger import Ledger
from auditgap.core.recent import ALL, CHUNK, CHUNKS, MONTH, NONE, entry_of
from auditgap.core.records import Alert, Gap, as_dict, digest

OFF, ON = setting("off", 10, logging=False), setting("on", 20, logging=True)
DAY = 24 * 3600


def run_of(*activities: Activity) -> Run:
    """Take inputs in and settle."""
    run = Run()
    run.take(*activities)
    run.settle()
    return run


def disabled(run: Run) -> dict[str, Alert]:
    """The latest revision of each alert of an "off", by the id of its event."""
    return {alert.evidence[0]: alert for alert in alerts(run.out, "logging_disabled")}


# --- the first alert ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flags", "cause", "words"),
    [
        ({"logging": False}, "LOGGING_DISABLED", "the recording of activities switched off"),
        ({"api": False}, "API_DISABLED", "the Compliance API switched off"),
        ({"api": False, "logging": None}, "API_DISABLED", "the Compliance API switched off"),
        ({"api": False, "logging": False}, "BOTH_DISABLED", "the Compliance API and the recording of activities"),
        ({"api": True, "logging": False}, "LOGGING_DISABLED", "the recording of activities switched off"),
    ],
    ids=["logging", "api", "api, logging null", "both", "api on, logging off"],
)
def test_first_evidence_alerts_at_once(flags: dict[str, bool | None], cause: str, words: str) -> None:
    """The first "off" of either flag gives a critical alert and an open gap at once, with the actor and the flags."""
    out = Run().take(setting("off", 10, **flags))
    (alert,), (gap,) = alerts(out), gaps(out)
    assert (alert.kind, alert.status, alert.severity.name) == ("logging_disabled", "FIRING", "CRITICAL")
    assert (alert.actor_id, alert.actor_email, alert.actor_ip) == ("user_owner", "owner@example.com", "203.0.113.7")
    assert (alert.gap_id, alert.incident_id, alert.evidence) == (gap.gap_id, gap.incident_id, ("off",))
    assert words in alert.summary
    assert (gap.state, gap.confidence, gap.cause, gap.revision) == ("OPEN", "CONFIRMED", cause, 1)
    assert (gap.opened_at, gap.opened_at_latest, gap.closed_at) == (at(10), at(10), None)
    assert (gap.opened_by_kind, gap.opened_by_id, gap.opened_actor_id) == ("settings_event", "off", "user_owner")


def test_nothing_to_say() -> None:
    """An "on", or an event that mentions no flag, raises nothing where no window stands."""
    assert Run().take(ON, setting("null", 1, api=None, logging=None)) == []


def test_a_short_window_alerts() -> None:
    """However short a window, its "off" alerts."""
    run = run_of(setting("off", 10, logging=False), setting("on", 10.000_001, logging=True))
    assert disabled(run).keys() == {"off"}
    assert run.gap.duration_seconds == 0.000_001


def test_every_off_of_a_window_alerts() -> None:
    """A further "off" within a window alerts too, under the same incident, and changes nothing else of the gap."""
    run = run_of(OFF)
    out = run.take(setting("off_2", 11, logging=False))
    (alert,) = alerts(out)
    assert (alert.kind, alert.dedup_key) == ("logging_disabled", disabled(run)["off"].dedup_key)
    assert gaps(out) == []


def test_an_unknown_actor() -> None:
    """An "off" by an actor of a type nobody knows, or by none at all, alerts all the same."""
    unknown = run_of(setting("off", 1, logging=False, actor={"type": "oracle_actor", "oracle_id": "o"}))
    assert "by oracle actor o" in disabled(unknown)["off"].summary
    nobody = run_of(setting("off", 1, logging=False, actor=None))
    assert "by an actor of unknown type" in disabled(nobody)["off"].summary


# --- the window closes ----------------------------------------------------------------------------------------------


def test_logging_restored() -> None:
    """A close gives the whole window and both ids of its bracket, and resolves the alert of the "off"."""
    run = run_of(act("a", 9), OFF, ON, act("b", 21))
    gap = run.gap
    assert (gap.state, gap.closed_at, gap.closed_at_earliest, gap.duration_seconds) == ("CLOSED", at(20), at(20), 10.0)
    assert (gap.closed_by_kind, gap.closed_by_id, gap.closed_actor_email) == (
        "settings_event",
        "on",
        "owner@example.com",
    )
    alert = alerts(run.out, "logging_restored")[-1]
    assert (alert.status, alert.severity.name, alert.gap_id) == ("RESOLVED", "INFORMATIONAL", gap.gap_id)
    assert alert.evidence == ("off", "on", "a", "b")
    assert "last id before: a, first id after: b" in alert.summary
    assert "not audited from 2026-11-01T12:00:10.000000Z to 2026-11-01T12:00:20.000000Z (10 s)" in alert.summary
    assert disabled(run)["off"].status == "RESOLVED"


def test_logging_restored_before_the_bracket_is_known() -> None:
    """A close is told at once, and once more when the first id after it is known."""
    run = run_of(act("a", 9), OFF, ON)
    assert "first id after: none known yet" in alerts(run.out, "logging_restored")[-1].summary
    run.take(act("b", 21))
    out = run.settle()
    assert [alert.revision for alert in alerts(out)] == [2]
    assert [gap.revision for gap in gaps(out)] == [3]


def test_a_close_that_was_none() -> None:
    """A late "off" of the other flag keeps a closed window open, and takes the word of its end back."""
    run = run_of(OFF, ON)
    out = run.take(setting("late", 15, api=False))
    assert (run.gap.state, run.gap.cause, run.gap.closed_by_id) == ("OPEN", "BOTH_DISABLED", None)
    (withdrawn,) = alerts(out, "logging_restored")
    assert (withdrawn.status, withdrawn.revision) == ("WITHDRAWN", 2)
    assert {alert.status for alert in disabled(run).values()} == {"FIRING"}
    again = run.take(setting("api", 30, api=True))
    assert [(alert.status, alert.revision) for alert in alerts(again, "logging_restored")] == [("RESOLVED", 3)]


# --- repeats and late input -----------------------------------------------------------------------------------------


def test_a_repeat_gives_nothing() -> None:
    """Whatever comes again changes nothing, and nothing is published because of it."""
    inputs = [act("a", 9), OFF, setting("off_2", 11, api=False), ON, act("b", 21), setting("api", 22, api=True)]
    run = run_of(*inputs)
    before = len(run.out)
    run.take(*inputs, *reversed(inputs), append=99)
    run.settle()
    assert len(run.out) == before


def test_a_late_earlier_off() -> None:
    """A late, earlier "off" supersedes the gap under the same incident: no new page, the old alert moves over."""
    run = run_of(OFF, ON)
    old = run.gap
    out = run.take(setting("first", 5, logging=False))
    superseded, new = sorted(gaps(out), key=lambda gap: gap.state, reverse=True)
    assert (superseded.gap_id, superseded.state, superseded.superseded_by) == (old.gap_id, "SUPERSEDED", new.gap_id)
    assert superseded.revision == old.revision + 1
    assert (new.opened_at, new.closed_at, new.incident_id, new.revision) == (at(5), at(20), old.incident_id, 1)
    assert new.gap_id != old.gap_id
    alerted = disabled(run)
    assert alerted.keys() == {"first", "off"}
    assert {(alert.gap_id, alert.dedup_key) for alert in alerted.values()} == {
        (new.gap_id, f"logging_disabled:{old.incident_id}")
    }
    assert {alert.status for alert in alerts(out, "logging_restored")} == {"WITHDRAWN", "RESOLVED"}


def test_a_late_on_splits() -> None:
    """A late "on" between two "off" makes two gaps of one; the second has an incident of its own."""
    run = run_of(OFF, setting("off_2", 14, logging=False), ON)
    one = run.gap
    run.take(setting("between", 12, logging=True))
    first, second = run.standing
    assert (first.gap_id, first.incident_id, first.closed_at) == (one.gap_id, one.incident_id, at(12))
    assert (second.opened_by_id, second.opened_at, second.closed_at) == ("off_2", at(14), at(20))
    assert second.incident_id != one.incident_id
    assert disabled(run)["off_2"].gap_id == second.gap_id
    assert len({alert.gap_id for alert in alerts(run.out, "logging_restored")}) == 2


def test_a_superseded_gap_comes_back() -> None:
    """A gap that was superseded and then split off again stands again, under an incident that no other gap has."""
    run = run_of(OFF, ON)
    old = run.gap
    run.take(setting("first", 5, logging=False))
    run.take(setting("between", 7, logging=True))
    first, second = run.standing
    assert (second.gap_id, second.state, second.superseded_by) == (old.gap_id, "CLOSED", None)
    assert (second.revision, first.incident_id) == (old.revision + 2, old.incident_id)
    assert second.incident_id != old.incident_id
    assert disabled(run)["off"].incident_id == second.incident_id


def test_two_gaps_become_one() -> None:
    """A late "off" of the other flag that bridges two gaps supersedes the second by the first."""
    run = run_of(OFF, ON, setting("off_2", 30, logging=False), setting("on_2", 40, logging=True))
    first, second = run.standing
    run.take(setting("bridge", 15, api=False), setting("api", 35, api=True))
    assert (run.gap.gap_id, run.gap.closed_at, run.gap.cause) == (first.gap_id, at(40), "BOTH_DISABLED")
    assert run.latest[second.gap_id].superseded_by == first.gap_id
    assert {alert.gap_id for alert in disabled(run).values()} == {first.gap_id}


def test_the_first_copy_is_the_evidence() -> None:
    """Of two copies the one appended first is the evidence, whichever is read first; at a tie the feed decides."""
    off = setting("off", 10, logging=False)
    copies = [(off, 30.0), (replace(off, feed_id="feed_2"), 20.0), (replace(off, feed_id="feed_0"), 20.0)]
    for order in (copies, copies[::-1]):
        run = Run()
        for activity, append in order:
            run.take(activity, append=append)
        assert (run.gap.first_evidence_at, run.gap.feed_id) == (at(20), "feed_0")


# --- conflicts ------------------------------------------------------------------------------------------------------


def test_conflicting_records() -> None:
    """Two settings events of one id and different content both count, and raise an alert that names both."""
    run = run_of(OFF)
    other = setting("off", 12, logging=True)
    (alert,) = alerts(run.take(other), "conflicting_record")
    assert sorted(alert.evidence) == sorted(f"off sha256:{each.digest}" for each in (OFF, other))
    assert (alert.severity.name, alert.historical) == ("CRITICAL", False)
    assert run.gap.closed_at == at(12)
    (again,) = alerts(run.take(setting("off", 13, api=False)), "conflicting_record")
    assert (again.alert_id, again.revision, len(again.evidence)) == (alert.alert_id, 2, 3)
    assert [gap.opened_at for gap in run.standing] == [at(10), at(13)]


def test_a_conflict_about_the_past_is_news() -> None:
    """A second content for an old event is not put aside as long past."""
    run = run_of(OFF)
    (alert,) = alerts(run.take(setting("off", 10, logging=True), append=90 * DAY), "conflicting_record")
    assert not alert.historical


@pytest.mark.parametrize("event", [OFF, ON], ids=["off", "on"])
def test_an_id_that_an_activity_has(event: Activity) -> None:
    """A settings event whose id an ordinary activity had before raises a conflict, and counts."""
    run = run_of(act(event.id, 3), act("other", 4))
    out = run.take(event)
    (alert,) = alerts(out, "conflicting_record")
    assert (alert.evidence, alert.status) == ((event.id,), "FIRING")
    assert len(run.standing) == (event is OFF)
    assert run.take(event) == []


def test_an_id_that_an_activity_of_another_subject_has() -> None:
    """Ids are compared within one subject only."""
    run = run_of(act("off", 3, organization_id="org_2"))
    assert not alerts(run.take(OFF), "conflicting_record")


def test_a_conflict_with_both() -> None:
    """Two contents of one id, and an activity that has it, are two alerts of one kind."""
    run = run_of(act("off", 3), OFF, setting("off", 12, logging=True))
    assert len({alert.alert_id for alert in alerts(run.out, "conflicting_record")}) == 2


def test_a_misdated_copy_is_no_conflict() -> None:
    """A record read too early to be believed, and again when its time had come, is one record: both readings count."""
    run = Run()
    event = setting("off", 400, api=False, logging=True)
    run.take(event, append=10)
    assert (run.gap.opened_at, run.gap.opened_at_latest, run.gap.cause) == (None, at(10), "API_DISABLED")
    out = run.take(event, append=399)
    assert not alerts(out, "conflicting_record")
    assert [alert.evidence for alert in alerts(out, "logging_disabled")] == [("off",)]
    assert run.gap.opened_at_latest == at(10)
    assert [outcome.rejection is None for outcome in run.outcomes] == [False, True]


def test_a_record_that_was_misdated_still_switches_on() -> None:
    """What a record says besides "off" is not lost because an early copy of it was misdated."""
    run = run_of(setting("api", 1, logging=False))
    event = setting("swap", 400, api=False, logging=True)
    run.take(event, append=10)
    run.take(event, append=399)
    run.take(setting("end", 500, api=True))
    assert run.gap.closed_by_id == "end"


# --- misdated -------------------------------------------------------------------------------------------------------


def test_a_misdated_off() -> None:
    """An "off" dated into the future counts from its append time, opens at an uncertain time, and alerts twice."""
    run = run_of(setting("before", 3, logging=True))
    out = run.take(setting("off", 9999, logging=False), append=10)
    assert (run.gap.opened_at, run.gap.opened_at_latest, run.gap.state) == (at(3), at(10), "OPEN")
    assert [alert.kind for alert in alerts(out)] == ["clock_anomaly", "logging_disabled"]
    anomaly, alert = alerts(out)
    assert (anomaly.occurred_at, alert.occurred_at, alert.historical) == (None, None, False)
    assert "by 2026-11-01T12:00:10" in alert.summary


def test_a_misdated_off_without_a_word_before() -> None:
    """Where nothing was said before, a misdated "off" opens at an unknown time, and so the length is unknown."""
    run = Run()
    run.take(setting("off", 9999, logging=False), append=10)
    run.take(ON)
    assert (run.gap.opened_at, run.gap.closed_at, run.gap.duration_seconds) == (None, at(20), None)
    assert "not audited from an unknown time to" in alerts(run.out, "logging_restored")[-1].summary


def test_a_misdated_off_read_again_earlier() -> None:
    """Of two copies of a misdated "off" the one appended first counts, whichever is read first."""
    off = setting("off", 9999, logging=False)
    for order in ((10, 5), (5, 10)):
        run = Run()
        for append in order:
            run.take(off, append=append)
        assert (run.gap.opened_at_latest, run.gap.first_evidence_at) == (at(5), at(5))


def test_a_misdated_activity_is_no_off() -> None:
    """An ordinary activity dated into the future asserts nothing, even with a flag in it."""
    run = Run()
    out = run.take(act("odd", 9999, compliance_api_enabled=False), append=10)
    assert [alert.kind for alert in alerts(out)] == ["clock_anomaly"]
    assert run.standing == []


def test_a_flood_of_broken_clocks() -> None:
    """Ordinary records with a broken clock give one alert per subject and hour of append time."""
    run = Run()
    for n in range(50):
        run.take(act(f"act_{n}", 99999), append=n * 120)
    assert len(alerts(run.out, "clock_anomaly")) == 2


# --- brackets -------------------------------------------------------------------------------------------------------


def bracket(gap: Gap) -> tuple[str | None, str | None, bool]:
    """The ids before and after, and whether they are certain."""
    return gap.last_activity_id, gap.first_activity_id, gap.bracket_exact


def test_a_bracket() -> None:
    """The bracket is the last activity before the opening and the first after the close, with their times."""
    gap = run_of(act("a", 1), act("b", 9), act("c", 21), act("d", 22), OFF, ON).gap
    assert bracket(gap) == ("b", "c", True)
    assert (gap.last_activity_at, gap.first_activity_at) == (at(9), at(21))


def test_no_bracket() -> None:
    """Where nothing was recorded before or after, the ids are null, and that is certain."""
    assert bracket(run_of(OFF, ON).gap) == (None, None, True)


ARRIVALS: dict[str, Callable[[list[Activity]], list[Activity]]] = {
    "activities first": lambda inputs: sorted(inputs, key=lambda each: each.id in {"off", "on"}),
    "settings first": lambda inputs: sorted(inputs, key=lambda each: each.id not in {"off", "on"}),
    "reversed": lambda inputs: inputs[::-1],
}


@pytest.mark.parametrize("arrange", ARRIVALS.values(), ids=ARRIVALS.keys())
def test_a_bracket_of_ties(arrange: Callable[[list[Activity]], list[Activity]]) -> None:
    """At the very microsecond of the opening an activity is before it, at that of the close after; ids break ties."""
    inputs = [
        act("x", 9),
        *(act(f"open_{n}", 10) for n in "bac"),
        OFF,
        act("in_1", 10.000_001),
        act("in_2", 19.999_999),
        ON,
        *(act(f"close_{n}", 20) for n in "bac"),
        act("y", 21),
    ]
    gap = run_of(*arrange(inputs)).gap
    assert bracket(gap) == ("open_c", "close_a", True)
    assert (gap.activity_inside_count, gap.activity_inside_first_id, gap.activity_inside_last_id) == (2, "in_1", "in_2")


@pytest.mark.parametrize("arrange", ARRIVALS.values(), ids=ARRIVALS.keys())
def test_a_window_of_no_length(arrange: Callable[[list[Activity]], list[Activity]]) -> None:
    """An activity at the very time of a misdated "off" that an "on" ends at once is both before and after it."""
    run = Run()
    off, on = setting("off", 9999, logging=False), setting("on", 10, logging=True)
    for activity in arrange([act("a", 10), off, on]):
        run.take(activity, append=10)
    run.settle()
    assert (run.gap.opened_at_latest, run.gap.closed_at) == (at(10), at(10))
    assert (*bracket(run.gap), run.gap.activity_inside_count) == ("a", "a", True, 0)


def test_late_activities_improve_the_bracket() -> None:
    """Late activities that are nearer to the window come out as a revision; those that are not give none."""
    run = run_of(act("a", 5), OFF, ON, act("b", 30))
    run.take(act("nearer", 9), act("sooner", 21))
    (gap,) = gaps(run.settle())
    assert bracket(gap) == ("nearer", "sooner", True)
    assert gap.revision == run.latest[gap.gap_id].revision
    run.take(act("farther", 6), act("later", 29))
    assert run.settle() == []


def test_an_activity_that_alerts_do_not_quote() -> None:
    """A revision of a gap that changes nothing an alert says gives no revision of an alert."""
    run = run_of(OFF, ON, act("b", 21))
    run.take(act("in", 15))
    (gap,) = run.settle()
    assert isinstance(gap, Gap)
    assert gap.activity_inside_count == 1


def test_activities_of_many_windows() -> None:
    """An activity can be the last before one window and the first after another, and inside none."""
    run = run_of(OFF, ON, setting("off_2", 30, logging=False), setting("on_2", 40, logging=True))
    run.take(act("between", 25), act("after", 45), act("before", 5))
    run.settle()
    assert [bracket(gap) for gap in run.standing] == [("before", "between", True), ("between", "after", True)]
    assert {gap.activity_inside_count for gap in run.standing} == {0}


def test_inside() -> None:
    """Activities inside a window are counted each once, repeats and all, and close nothing."""
    run = run_of(OFF, act("in_2", 12), act("in_1", 11), act("in_2", 12), act("in_3", 13), act("in_1", 11))
    gap = run.gap
    assert (gap.activity_inside_count, gap.activity_inside_first_id, gap.activity_inside_last_id) == (3, "in_1", "in_3")
    assert gap.state == "OPEN"


def flood(run: Run, first: float, count: int, name: str) -> None:
    """Take in more activities, a millisecond apart."""
    run.take(*(act(f"{name}_{n:04d}", first + n / 1000) for n in range(count)))


def test_inside_more_than_the_index_holds() -> None:
    """A count outlives the index: it stays when the window closes, less what came after a late "on"."""
    inside = [act(f"inside_{number:03d}", 10 + number / 100) for number in range(1, 900)]
    run = run_of(OFF, *inside, setting("on", 19.5, logging=True))
    (gap,) = run.standing
    assert (gap.activity_inside_count, gap.activity_inside_first_id) == (899, "inside_001")
    assert gap.activity_inside_last_id == "inside_899"
    run = run_of(OFF, *inside, setting("on", 18.005, logging=True))
    (gap,) = run.standing
    assert (gap.activity_inside_count, gap.activity_inside_last_id) == (800, "inside_800")
    assert gap.first_activity_id == "inside_801"


def test_a_bracket_out_of_reach() -> None:
    """A window before all that the index still knows has no ids, and says so."""
    run = run_of(act("a", 9), act("b", 21))
    flood(run, 50, CHUNK * CHUNKS + 1, "act")
    run.take(OFF, ON)
    assert bracket(run.gap) == (None, None, False)
    assert "last id before: no longer known, first id after: no longer known" in alerts(run.out)[-1].summary


def test_a_bracket_that_is_known_stays() -> None:
    """What was known of a bracket stays known when the index has moved on."""
    run = run_of(act("a", 9), OFF, ON, act("b", 21))
    flood(run, 50, 1000, "act")
    run.settle()
    assert bracket(run.gap) == ("a", "b", True)


def test_a_bracket_is_handed_on() -> None:
    """A gap that takes another's place long after keeps of its bracket what still holds."""
    run = run_of(act("a", 1), act("b", 7), OFF, act("in", 15), ON, act("c", 21))
    flood(run, 50, 1000, "act")
    run.take(setting("first", 8, logging=False))
    assert bracket(run.gap) == ("b", "c", True)
    assert (run.gap.activity_inside_count, run.gap.activity_inside_first_id) == (1, "in")


def test_a_bracket_that_no_longer_holds() -> None:
    """A gap whose opening or close moves past what was known of it, long after, has null there, never a wrong id."""
    run = run_of(act("a", 1), act("b", 7), OFF, act("in", 15), ON, act("c", 21), act("d", 25))
    flood(run, 50, 1000, "act")
    run.take(setting("first", 5, logging=False))
    assert bracket(run.gap) == (None, "c", False)
    run.take(setting("sooner", 14, logging=True))
    assert bracket(run.gap) == (None, None, False)
    assert run.gap.activity_inside_last_id != "in"


def test_a_bracket_that_is_outgrown() -> None:
    """A gap whose close moves past the first activity after it, long after, has null there, not what was first."""
    run = run_of(act("b", 7), OFF, ON, act("c", 21), setting("api", 30, api=True))
    flood(run, 50, 1000, "act")
    run.take(setting("late", 15, api=False))
    assert (run.gap.closed_at, *bracket(run.gap)) == (at(30), "b", None, False)


def test_the_floor_s_own_microsecond() -> None:
    """At the very time of the floor the last before is certain, the first after is not: a lesser id may be gone."""
    run = Run()
    run.take(*(act(f"act_{n:04d}", 20) for n in range(CHUNK * CHUNKS)))
    run.take(setting("off", 20, logging=False), setting("on", 20.000_001, logging=True))
    assert run.gap.last_activity_id == f"act_{CHUNK * CHUNKS - 1:04d}"
    late = Run()
    late.take(*(act(f"act_{n:04d}", 20) for n in range(CHUNK * CHUNKS)))
    late.take(setting("off", 10, logging=False), setting("on", 20, logging=True))
    assert bracket(late.gap) == (None, None, False)


def test_the_watermark() -> None:
    """An activity above the watermark changes nothing; while a window is open, or its end has no id yet, none is."""
    run = run_of(act("a", 1))
    assert run.ledger.watermark == NONE
    run.take(OFF)
    assert run.ledger.watermark == ALL
    run.take(ON)
    assert run.ledger.watermark == ALL
    run.take(act("b", 21))
    run.settle()
    assert run.ledger.watermark == entry_of(at(21), "b")
    run.take(act("c", 22))
    assert not run.ledger.stale


# --- history --------------------------------------------------------------------------------------------------------


def busy() -> list[Activity]:
    """Give inputs in which much is late."""
    return [
        act("a", 9),
        OFF,
        act("in", 15),
        setting("off_2", 16, api=False),
        setting("null", 17, api=None),
        ON,
        act("b", 21),
        setting("api", 22, api=True),
        setting("first", 5, logging=False),
        act("nearer", 4),
        setting("between", 7, logging=True),
        setting("off", 11, logging=True),
        act("c", 23),
    ]


def test_history_is_chained() -> None:
    """Positions have no hole, each revision carries the digest of the one before, and revisions count up per gap."""
    run = run_of(*busy())
    before = None
    revisions: dict[str, int] = {}
    for position, gap in enumerate(gaps(run.out), 1):
        assert (gap.history_sequence, gap.previous_digest) == (position, before)
        assert gap.revision == revisions.get(gap.gap_id, 0) + 1
        revisions[gap.gap_id] = gap.revision
        before = digest(as_dict(gap))
    assert len(revisions) > 1


def test_revisions_of_alerts() -> None:
    """Revisions of an alert count up from 1 without a hole, and each says something else than the one before."""
    latest: dict[str, Alert] = {}
    for alert in alerts(run_of(*busy()).out):
        before = latest.get(alert.alert_id)
        assert alert.revision == (before.revision + 1 if before else 1)
        assert before is None or replace(before, revision=alert.revision, produced_at=alert.produced_at) != alert
        latest[alert.alert_id] = alert


def test_ids_are_deterministic() -> None:
    """The same inputs give the same records, to the last field."""
    assert run_of(*busy()).out == run_of(*busy()).out


# --- historical -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("late", "historical"), [(HISTORICAL_AFTER, False), (HISTORICAL_AFTER + 1, True)])
def test_history_is_not_paged_for(late: int, historical: bool) -> None:
    """An "off" heard of more than a week late is history; the alert says so and is there all the same."""
    run = Run()
    run.take(OFF, append=10 + late / SECOND)
    (alert,) = alerts(run.out)
    assert (alert.historical, alert.status) == (historical, "FIRING")


@pytest.mark.parametrize("order", [(OFF, ON), (ON, OFF)], ids=["off first", "on first"])
def test_a_closed_window_is_news(order: tuple[Activity, ...]) -> None:
    """A window first heard of after its end is paged for, whichever of its two events is read first."""
    run = Run()
    run.take(*order, append=3600)
    alert = disabled(run)["off"]
    assert (alert.historical, alert.status) == (False, "RESOLVED")


def test_what_was_news_stays_news() -> None:
    """What was current when first computed does not become history by a later revision, nor the other way round."""
    run = run_of(OFF, ON)
    run.take(setting("sooner", 15, logging=True), append=90 * DAY)
    restored = alerts(run.out, "logging_restored")
    assert [(alert.evidence[1], alert.historical) for alert in restored] == [("on", False), ("sooner", False)]
    old = run_of(OFF)
    old.take(ON, append=90 * DAY)
    assert [alert.historical for alert in alerts(old.out)] == [False, False, True]


# --- refusals -------------------------------------------------------------------------------------------------------


def test_a_refusal_without_a_record() -> None:
    """A record that could not be decoded is alerted by its place, once."""
    ledger = Ledger("org_1")
    refusal = Rejection("settings_unreadable", "garbage")
    (alert,) = alerts(ledger.rejected(refusal, None, "compliance.activity/0/17", at(1), at(2)))
    assert (alert.kind, alert.evidence) == ("settings_change_unreadable", ("compliance.activity/0/17",))
    assert (alert.actor_id, alert.occurred_at, alert.detected_at) == (None, None, at(1))
    assert ledger.rejected(refusal, None, "compliance.activity/0/17", at(1), at(2)) == []
    assert ledger.rejected(refusal, None, "compliance.activity/0/18", at(1), at(2)) != []


def test_a_refusal_that_is_no_alert() -> None:
    """A dead letter that can hide no settings event gives no alert."""
    assert Ledger("org_1").rejected(Rejection("bad_magic", "0x7b"), None, "x", at(1), at(2)) == []


# --- persisting -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("settle", [True, False], ids=["settled", "not settled"])
@pytest.mark.parametrize("cut", range(len(busy()) + 1))
def test_a_restored_ledger_goes_on(cut: int, settle: bool) -> None:
    """A ledger that was written and read back anywhere publishes what one that never stopped publishes."""
    stopped, never = Run(), Run()
    for run in (stopped, never):
        run.take(*busy()[:cut])
        if settle:
            run.settle()
    stopped.restart()
    for run in (stopped, never):
        run.take(*busy()[cut:])
        run.settle()
    assert stopped.out == never.out


def test_restarting_all_the_time() -> None:
    """Stopping after every single input changes nothing of what is published."""
    stopped, never = Run(), Run()
    for activity in busy():
        for run in (stopped, never):
            run.take(activity)
        stopped.restart()
        for run in (stopped, never):
            run.settle()
        stopped.restart()
    assert stopped.out == never.out


def test_changes_are_small() -> None:
    """Only what changed since the last time is written again."""
    run = run_of(*busy())
    assert len(dict(run.ledger.changes())) > 10
    run.take(act("z", 99))
    assert [key for key, _ in run.ledger.changes()] == ["r0"]


def test_many_activities_between_two_changes() -> None:
    """A batch larger than the index is written as far as it is still known."""
    run = run_of(OFF)
    run.restart()
    flood(run, 50, 2000, "act")
    written = [key for key, _ in run.ledger.changes()]
    assert sorted(written) == [f"g{run.gap.gap_id}", f"p{at(0) // MONTH}", *(f"r{n}" for n in range(CHUNKS))]


def test_awkward_ids_survive() -> None:
    """Subjects, events and activities with line breaks and other alphabets in their ids survive a restart."""
    names = ["two\nlines", "日本", 'quo"te']
    inputs = [act(f"{name}1", 9, organization_id=name) for name in names]
    inputs += [setting(f"{name}off", 10, logging=False, organization_id=name) for name in names]
    run = run_of(*inputs)
    run.restart()
    run.take(*(setting(f"{name}on", 20, logging=True, organization_id=name) for name in names))
    assert [gap.last_activity_id for gap in run.standing] == [f"{gap.organization_id}1" for gap in run.standing]
    assert {gap.state for gap in run.standing} == {"CLOSED"}
    assert len(run.standing) == len(names)


def test_state_of_a_newer_version() -> None:
    """A state record of an unknown kind is an error: going on without it would forget something."""
    with pytest.raises(ValueError, match="newer version"):
        Ledger.restore("org_1", {"zebra": b"{}"})


# --- what a ledger knows --------------------------------------------------------------------------------------------


def test_windows_are_those_of_the_fold() -> None:
    """After any input the ledger's windows are what folding all its assertions at once gives."""
    run = Run()
    for activity in busy():
        run.take(activity)
        assertions = [each for copies in run.ledger.known.assertions.values() for each in copies.values()]
        windows = fold.Timeline(assertions).windows
        assert run.ledger.timeline.windows == windows
        assert sorted(run.ledger.windows) == sorted(run.ledger.brackets)
        assert len(run.ledger.windows) == len(windows)


def test_no_nul_is_published() -> None:
    """What anybody can put into a user agent or an id, and what no database takes, is replaced."""
    run = Run()
    actor = {**ACTOR, "user_agent": "evil\0agent"}
    run.take(act("be\0fore", 0), setting("o\0ff", 1, logging=False, actor=actor), act("in\0side", 2))
    run.take(setting("on", 3, logging=True), act("af\0ter", 4))
    run.settle()
    assert (run.gap.opened_by_id, run.gap.opened_actor_user_agent) == ("o\ufffdff", "evil\ufffdagent")
    assert (run.gap.last_activity_id, run.gap.first_activity_id) == ("be\ufffdfore", "af\ufffdter")
    assert "\0" not in "".join(repr(as_dict(each)).replace("\\x00", "\0") for each in run.out)
    refused = read_activity(record("x", 5, organization_id="org\0"), "{}", None)
    assert isinstance(refused, Rejection)
