"""Triage in a shard: who switched it off, what was done after it came back, and what is kept of both."""

from dataclasses import replace
from typing import Any

import pytest
from tests.support.shards import PRODUCED, Shards
from tests.unit.core.making import ACTOR, SECOND, act, at, setting

from auditgap.core.desk import INDICATORS, INQUIRIES, MEMORY, REVIEW, REVIEWS
from auditgap.core.inputs import Activity
from auditgap.core.intake import APPLIED, Mail, Outcome
from auditgap.core.observations import Observation
from auditgap.core.records import Alert, Severity
from auditgap.core.shard import TICK_LIMIT, Shard
from auditgap.core.triage import KEPT, KEPT_FOR, LISTED, key_of

HOUR = 3600
DAY = 24 * HOUR
OTHER = {"type": "user_actor", "user_id": "user_other", "email_address": "other@example.com"}
OFF, ON = setting("off", 0, logging=False), setting("on", 60, logging=True)
LONG_AGO = act("long_ago", -40 * DAY)


def failed(identifier: str = "failed", seconds: float = -60, **fields: Any) -> Activity:
    """A sign-in that was refused: it names no organization, and comes in under its feed."""
    return act(identifier, seconds, **{"kind": "sso_login_failed", "organization_id": None, **fields})


def export(identifier: str = "export", seconds: float = 120, **fields: Any) -> Activity:
    """The begin of an export of an organization's data."""
    return act(identifier, seconds, kind="org_data_export_started", **fields)


def run(*inputs: Activity | Observation) -> Shards:
    """Take inputs in by three shards, and deliver all mail."""
    return Shards(3).take(*inputs).finish()


def revisions(shards: Shards, kind: str) -> list[Alert]:
    """All that was ever published of a kind."""
    return [each for each in shards.out if isinstance(each, Alert) and each.kind == kind]


# --- who switched it off ----------------------------------------------------------------------------------------------


def test_found() -> None:
    """A refused sign-in of the actor, on another shard, makes the alert critical; it names the record and the gap."""
    shards = run(LONG_AGO, failed(), OFF)
    alert, (gap,) = shards.alert(INDICATORS), shards.gaps
    assert (alert.severity, alert.status, alert.evidence) == (Severity.CRITICAL, "FIRING", ("off", "failed"))
    assert (alert.gap_id, alert.incident_id, alert.actor_id) == (gap.gap_id, gap.incident_id, "user_owner")
    assert (alert.occurred_at, alert.detected_at, alert.historical) == (at(0), at(1), False)
    assert alert.summary == (
        "organization org_1: owner@example.com, who switched it off at 2026-11-01T12:00:00.000000Z: found about the "
        "actor: sign-in failures or oddities: 1"
    )


def test_nothing_in_the_record() -> None:
    """Nothing found in a record that reaches far enough back is informational, and there is nothing left to do."""
    alert = run(LONG_AGO, OFF).alert(INDICATORS)
    assert (alert.severity, alert.status, alert.evidence) == (Severity.INFORMATIONAL, "RESOLVED", ("off",))
    assert alert.summary.endswith("nothing in the record speaks against the actor")


@pytest.mark.parametrize(
    ("inputs", "why"),
    [
        ((OFF,), "it is not known from when on the record is there"),
        ((act("a", -DAY), OFF), "the record begins too late for role changes"),
        ((LONG_AGO, setting("o", -HOUR, api=False, actor=OTHER), setting("x", -60, api=True), OFF), "for sign-in"),
        ((LONG_AGO, replace(OFF, raw=OFF.raw.replace("user_actor", "api_actor").replace("user_", "k_"))), "created"),
    ],
    ids=["no record", "a short one", "one with a hole", "a key of nobody"],
)
def test_not_checked(inputs: tuple[Activity, ...], why: str) -> None:
    """Where the record does not reach far enough, silence proves nothing: informational, and still to be looked at."""
    if inputs[-1] is not OFF and inputs[-1].id == "off":
        inputs = (*inputs[:-1], setting("off", 0, logging=False, actor={"type": "api_actor", "api_key_id": "apikey_1"}))
    alert = next(each for each in run(*inputs).alerts(INDICATORS) if each.evidence[0] == "off")
    assert (alert.severity, alert.status) == (Severity.INFORMATIONAL, "FIRING")
    assert "could not be checked" in alert.summary
    assert why in alert.summary


def test_an_older_record_comes_in_late() -> None:
    """What a record covers is told anew when its beginning turns out to be earlier."""
    shards = run(act("a", -60), OFF)
    shards.take(act("b", -120)).finish()
    shards.take(LONG_AGO).finish()
    assert [each.status for each in revisions(shards, INDICATORS)] == ["FIRING", "RESOLVED"]


def test_the_first_alert_does_not_wait() -> None:
    """That it is off is told at once and stays as it is, whatever the trails answer later, if ever."""
    shard = Shard()
    outcome = shard.activity(OFF, at(1), PRODUCED)
    assert [each.kind for each in outcome.emissions if isinstance(each, Alert)] == ["logging_disabled"]
    assert {mail.kind for mail in outcome.mail} == {"query"}
    shards = run(LONG_AGO, OFF, failed())
    (disabled,) = revisions(shards, "logging_disabled")
    assert replace(disabled, dedup_key="") == replace(next(iter(_alerts(outcome))), dedup_key="")


def _alerts(outcome: Outcome) -> list[Alert]:
    return [each for each in outcome.emissions if isinstance(each, Alert)]


def test_no_flood() -> None:
    """Nothing is told before all have answered but that something was found, once; then what has changed."""
    shards = run(LONG_AGO, OFF)
    assert len(revisions(shards, INDICATORS)) == 1
    signs = [failed(f"f{n}", -n - 1, actor={**ACTOR, "ip_address": "203.0.113.7"}) for n in range(5)]
    shards = run(LONG_AGO, *signs)
    shards.take(OFF).finish()
    first, *others = revisions(shards, INDICATORS)
    assert (first.severity, [each.severity for each in others]) == (
        Severity.CRITICAL,
        [Severity.CRITICAL] * len(others),
    )
    assert len(others) <= 1


def test_a_flood_of_evidence() -> None:
    """Of more than an answer lists, the alert names the first: the rest, going on, makes no further revisions."""
    shards = run(LONG_AGO, OFF)
    for n in range(2 * LISTED):
        shards.take(failed(f"f{n:03}", n)).finish()
    told = revisions(shards, INDICATORS)
    assert told[-1].evidence == ("off", "f000")
    assert told[-1].summary.endswith(f"{LISTED} or more")
    assert len(told) == LISTED + 2


def test_more_arrives() -> None:
    """What comes in later, under whatever name of the actor, is a revision of the same alert."""
    shards = run(LONG_AGO, OFF)
    shards.take(export("data", 30), export("data", 30)).finish()
    shards.take(failed(actor={"type": "unauthenticated_user_actor", "email_address": "owner@example.com"})).finish()
    told = revisions(shards, INDICATORS)
    assert [each.evidence for each in told] == [("off",), ("off", "data"), ("off", "failed", "data")]
    assert len({each.alert_id for each in told}) == 1


def test_one_alert_per_actor() -> None:
    """An actor who switches off twice in one window is one alert, of their first; another actor is another."""
    again, other = setting("again", 10, api=False), setting("other", 20, api=False, actor=OTHER)
    assert [each.evidence[0] for each in run(OFF, again).alerts(INDICATORS)] == ["off"]
    assert {each.evidence[0] for each in run(again, OFF, other).alerts(INDICATORS)} == {"off", "other"}
    nobody = setting("off", 0, logging=False, actor=None)
    assert run(nobody).alerts(INDICATORS) == []
    assert len(run(nobody).alerts("logging_disabled")) == 1


def test_an_earlier_event_comes_late() -> None:
    """The alert of what is no longer an actor's first is taken back, and comes again when it is."""
    shards = run(LONG_AGO, OFF)
    shards.take(setting("earlier", -10, logging=False)).finish()
    assert shards.alert(INDICATORS).evidence[0] == "earlier"
    assert [each.status for each in revisions(shards, INDICATORS) if each.evidence[0] == "off"][-1] == "WITHDRAWN"
    shards.take(setting("between", -5, logging=True)).finish()
    assert {each.evidence[0] for each in shards.alerts(INDICATORS)} == {"earlier", "off"}


def test_it_follows_its_gap() -> None:
    """When another gap takes the place of the one it was about, the alert names that one."""
    shards = run(LONG_AGO, OFF)
    (before,) = shards.gaps
    shards.take(setting("earlier", -10, logging=False, actor=OTHER)).finish()
    (after,) = shards.gaps
    assert before.gap_id != after.gap_id
    alert = next(each for each in shards.alerts(INDICATORS) if each.evidence[0] == "off")
    assert (alert.gap_id, alert.incident_id) == (after.gap_id, before.incident_id)


def test_the_feed_of_the_first_copy() -> None:
    """Sign-ins are those of the feed whose copy of the event was appended first, in whatever order they are read."""
    early, late = replace(OFF, feed_id="feed_2"), OFF
    seen = failed()
    for copies in (((early, 1), (late, 2)), ((late, 2), (early, 1))):
        shard = Shard()
        for each in (LONG_AGO, seen, replace(seen, id="second", feed_id="feed_2")):
            shard.deliver(shard.activity(each, at(1), PRODUCED), at(1), PRODUCED)
        for copy, appended in copies:
            shard.deliver(shard.activity(copy, at(appended), PRODUCED), at(1), PRODUCED)
        said = [each for each in shard.settle(PRODUCED) if isinstance(each, Alert) and each.kind == INDICATORS]
        assert [each.evidence for each in said] == [("off", "second")]


def test_a_misdated_event() -> None:
    """An "off" dated into the future counts from its append time, and so does the look-back."""
    shard = Shard()
    for each in (LONG_AGO, failed(seconds=HOUR)):
        shard.deliver(shard.activity(each, at(2 * HOUR), PRODUCED), at(0), PRODUCED)
    outcome = shard.activity(setting("off", 5 * DAY, logging=False), at(2 * HOUR), PRODUCED)
    assert outcome.rejection is not None
    shard.deliver(outcome, at(0), PRODUCED)
    (said,) = (each for each in shard.settle(PRODUCED) if isinstance(each, Alert) and each.kind == INDICATORS)
    assert (said.evidence, said.occurred_at) == (("off", "failed"), None)
    assert " by 2026-11-01T14:00:00.000000Z: " in said.summary


def test_what_is_refused_is_no_evidence() -> None:
    """A record that became a dead letter tells no trail and no review."""
    shard = Shard()
    outcome = shard.activity(export(seconds=DAY), at(0), PRODUCED)
    assert outcome.rejection is not None
    assert outcome.mail == ()
    assert list(shard.desk.changes()) == []


# --- what was done after it came back ---------------------------------------------------------------------------------


def test_review() -> None:
    """What was done within a day after a close is one alert, by whomever, with a revision for what follows."""
    shards = run(OFF, ON, export())
    alert, (gap,) = shards.alert(REVIEW), shards.gaps
    assert (alert.severity, alert.gap_id, alert.incident_id) == (Severity.HIGH, gap.gap_id, gap.incident_id)
    assert (alert.occurred_at, alert.evidence, alert.historical) == (at(60), ("export",), False)
    assert alert.summary == ("organization org_1: in the 24 hours after the close: exports: 1; by user:user_owner")
    shards.take(export(), act("join", 200, kind="org_user_invite_accepted", actor=OTHER), act("chat", 300)).finish()
    shards.take(export("late", DAY + 61), export("elsewhere", 70, organization_id="org_2")).finish()
    assert [each.evidence for each in revisions(shards, REVIEW)] == [("export",), ("export", "join")]
    assert run(OFF, ON, act("chat", 120)).alerts(REVIEW) == []
    assert run(OFF, export()).alerts(REVIEW) == []


def test_a_close_that_is_heard_of_late() -> None:
    """What came in before the close was known counts as well."""
    shards = run(OFF, export(), export("before", 30))
    shards.take(ON).finish()
    assert shards.alert(REVIEW).evidence == ("export",)


def test_a_close_that_moves() -> None:
    """The review is about the close as it is now: an earlier one, a later one, none."""
    shards = run(setting("off", 0, logging=False), export("first", 40), ON, export())
    assert shards.alert(REVIEW).evidence == ("export",)
    shards.take(setting("sooner", 30, logging=True)).finish()
    assert shards.alert(REVIEW).evidence == ("first", "export")
    shards.take(setting("off_too", 20, api=False)).finish()
    assert shards.alerts(REVIEW) == []
    assert revisions(shards, REVIEW)[-1].status == "WITHDRAWN"
    shards.take(setting("later", 100, api=True)).finish()
    alert = shards.alert(REVIEW)
    assert (alert.evidence, alert.occurred_at) == (("export",), at(100))


def test_a_gap_that_takes_anothers_place() -> None:
    """The review of a gap that was superseded is taken back, and goes on with the one that took its place."""
    shards = run(OFF, ON, *(export(f"x{n:03}", 100 + n) for n in range(KEPT)))
    old = shards.alert(REVIEW)
    # So many that the memory has nothing of the day after the close any more.
    shards.take(*(export(f"y{n:03}", 2 * DAY + n) for n in range(MEMORY + 1))).finish()
    shards.take(setting("earlier", -10, logging=False)).finish()
    new = shards.alert(REVIEW)
    assert new.alert_id != old.alert_id
    assert new.summary == old.summary
    assert revisions(shards, REVIEW)[-1].status != "WITHDRAWN" or revisions(shards, REVIEW)[-2].alert_id == new.alert_id


@pytest.mark.parametrize(
    ("count", "said"), [(MEMORY, "exports: 64 or more"), (MEMORY + 1, "exports: 64 or more")], ids=["all", "not all"]
)
def test_more_than_is_remembered(count: int, said: str) -> None:
    """Of a close that is heard of late more may have been done than is still remembered: it says so."""
    shards = run(OFF, *(export(f"x{n:03}", 100 + n) for n in range(count)))
    shards.take(ON).finish()
    assert said in shards.alert(REVIEW).summary


def test_some_is_forgotten() -> None:
    """What was dropped before the close was known makes the count a lower bound, and a wholly forgotten day none."""
    chats = [act(f"s{n:03}", DAY + n, kind="claude_chat_snapshot_created") for n in range(MEMORY - 1)]
    shards = run(OFF, export("a", 100), export("b", 101), export("c", 102), *chats)
    shards.take(ON).finish()
    assert "exports: 2 or more" in shards.alert(REVIEW).summary
    far = [act(f"s{n:03}", 2 * DAY + n, kind="claude_chat_snapshot_created") for n in range(MEMORY + 1)]
    shards = run(OFF, export("a", 100), *far)
    shards.take(ON).finish()
    assert shards.alerts(REVIEW) == []


def test_an_observation_closes() -> None:
    """A close that is seen, not told, has a review as well, and one that activities prove."""
    polls = [
        Observation(
            id=result, kind="settings_poll", result=result, observed_at=at(s), sent_at=at(s), organization_id="org_1"
        )
        for s, result in ((0, "disabled"), (300, "enabled"))
    ]
    shards = run(act("a", -600), polls[0], export("proof", 1000))
    assert shards.alert(REVIEW).evidence == ("proof",)
    shards = run(setting("off", 0, api=False), export("x", 310))
    assert shards.alerts(REVIEW) == []
    shards.take(polls[1]).finish()
    assert shards.alert(REVIEW).evidence == ("x",)


# --- what is kept -----------------------------------------------------------------------------------------------------


def test_state_is_bounded() -> None:
    """However often it is switched and whatever is done, what is kept has an end, and what is dropped is written."""
    shards = Shards()
    for n in range(INQUIRIES + 6):
        shards.take(setting(f"off{n}", 100 * n, logging=False), setting(f"on{n}", 100 * n + 50, logging=True))
        shards.take(*(export(f"x{n}_{m}", 100 * n + 60 + m) for m in range(3))).finish()
    (part,) = shards.parts
    names = [key[: key.index("[")] for key in part.store if key.startswith("@") and "[" in key]
    assert names.count("@inquiry") == INQUIRIES
    assert names.count("@review") == REVIEWS
    assert names.count("@memory") == 1
    assert max(len(value) for key, value in part.store.items() if key.startswith("@")) < 40_000
    folder = Shard.restore(part.store).desk._folders["org_1"]
    assert (len(folder.inquiries), len(folder.reviews), len(folder.memory.entries)) == (INQUIRIES, REVIEWS, MEMORY)
    assert "off0" not in {key[0] for key in folder.inquiries}
    # What was said of those that are no longer listened for stays.
    assert len(shards.alerts(INDICATORS)) == INQUIRIES + 6
    assert len(shards.alerts(REVIEW)) == INQUIRIES + 6
    shards.take(act("inside", 10)).finish()
    assert len(shards.alerts(REVIEW)) == INQUIRIES + 6


def test_trails_are_forgotten() -> None:
    """A trail that cannot matter any more goes, also from the state; what asks for that time later is told so."""
    shards = Shards().take(LONG_AGO, failed(seconds=-60)).finish()
    (part,) = shards.parts
    key = key_of("feed_1", "user:user_owner")
    assert f"@trail{key}" in part.store
    part.shard.tick(at(0) + KEPT_FOR - DAY * SECOND, PRODUCED)
    for _ in range(3 * 24):
        part.shard.tick(part.shard.clock + TICK_LIMIT, PRODUCED)
    shards.finish()
    assert not any(each.startswith("@trail") for each in part.store)
    part.crash()
    shards.take(OFF).finish()
    assert "not all is kept of user:user_owner: sign-in failures" in shards.alert(INDICATORS).summary


def test_restoring() -> None:
    """A desk that was written and read goes on as if nothing had been, to the last key."""
    shards = run(LONG_AGO, failed(), OFF, ON, export())
    for part in shards.parts:
        part.crash()
        again = Shard.restore(part.store)
        assert again.desk.trails.keys() == part.shard.desk.trails.keys()
        assert again.desk._folders.keys() == part.shard.desk._folders.keys()
    before = len(shards.out)
    for part in shards.parts:
        for ledger in part.shard.ledgers.values():
            part.shard.touched.add(ledger)
    shards.finish()
    assert len(shards.out) == before
    shards.take(export("more", 130), failed("again", -30)).finish()
    assert shards.alert(REVIEW).evidence == ("export", "more")
    assert shards.alert(INDICATORS).evidence[:3] == ("off", "failed", "again")


def test_mail() -> None:
    """Mail of an unknown kind is an error, an answer that nobody waits for is none; both change nothing."""
    shard = Shard()
    with pytest.raises(ValueError, match="newer version"):
        shard.post(Mail("org_1", "postcard", {}), at(0), PRODUCED)
    letters = shard.activity(OFF, at(1), PRODUCED).mail
    (answer,) = Shard().post(letters[0], at(1), PRODUCED).mail
    assert (answer.kind, answer.key) == ("answer", "org_1")
    assert Shard().post(answer, at(1), PRODUCED) == APPLIED


def test_delivering() -> None:
    """A shard that is alone delivers its own mail, and what follows from it; without mail an outcome stays as it is."""
    shard = Shard()
    shard.deliver(shard.activity(failed(), at(1), PRODUCED), at(1), PRODUCED)
    outcome = shard.activity(OFF, at(1), PRODUCED)
    delivered = shard.deliver(outcome, at(1), PRODUCED)
    assert delivered.mail == ()
    assert delivered.emissions == outcome.emissions
    (alert,) = shard.settle(PRODUCED)
    assert isinstance(alert, Alert)
    assert alert.evidence == ("off", "failed")
    assert list(shard.settle(PRODUCED)) == []
    plain = shard.activity(act("a", 0), at(1), PRODUCED)
    assert shard.deliver(plain, at(1), PRODUCED) is plain
