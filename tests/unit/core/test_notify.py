"""Which revisions people are told of, and why."""

import random
from dataclasses import replace
from typing import Any

import pytest
from tests.unit.core.making import at, setting

from auditgap.core import notify
from auditgap.core.notify import Notice, NoticeBook, Rule
from auditgap.core.policy import Actors, Policy, Rules, successor
from auditgap.core.records import Alert, Severity
from auditgap.core.shard import Shard

BASE = Alert(
    alert_id="alert_1",
    revision=1,
    status="FIRING",
    kind="logging_disabled",
    severity=Severity.HIGH,
    organization_id="org_1",
    feed_id=None,
    occurred_at=None,
    detected_at=at(0),
    summary="off by who; not listed in the policy; not audited since then",
    dedup_key="logging_disabled:inc_1",
)
LISTED = BASE.summary.replace("not listed", "listed")


def told(*changes: dict[str, Any]) -> list[str | None]:
    """Take in revisions that differ from BASE so; gives the reasons."""
    book = NoticeBook()
    found = [book.take(replace(BASE, revision=number, **each)) for number, each in enumerate(changes, 1)]
    return [None if each is None else each.reason for each in found]


@pytest.mark.parametrize(
    ("changes", "reasons"),
    [
        ([{}, {"summary": BASE.summary + "; more"}], ["new", None]),
        ([{}, {"severity": Severity.CRITICAL}], ["new", "severity_raised"]),
        # Down and up to where it was is no rise.
        ([{}, {"severity": Severity.MEDIUM}, {}], ["new", None, None]),
        ([{}, {"status": "RESOLVED"}, {}], ["new", "resolved", "firing_again"]),
        ([{}, {"status": "WITHDRAWN"}, {"status": "RESOLVED"}], ["new", "withdrawn", None]),
        ([{"status": "RESOLVED"}, {"status": "WITHDRAWN"}], ["new", None]),
        ([{"status": "WITHDRAWN"}, {}], [None, "firing_again"]),
        ([{"summary": LISTED}, {}], ["new", "authorisation_changed"]),
        ([{}, {"summary": LISTED}], ["new", "authorisation_changed"]),
        ([{"historical": True}, {"severity": Severity.CRITICAL, "historical": True}], [None, None]),
        ([{"organization_id": "auditgap-canary"}], [None]),
        ([{"organization_id": "auditgap-canary-2"}], [None]),
        ([{"organization_id": "org_auditgap-canary"}], ["new"]),
        ([{"gap_id": "gap_1"}, {"gap_id": "gap_2"}], ["new", None]),
        # After it fires again the worst counts anew.
        (
            [{"severity": Severity.CRITICAL}, {"status": "RESOLVED"}, {}, {"severity": Severity.CRITICAL}],
            ["new", "resolved", "firing_again", "severity_raised"],
        ),
    ],
)
def test_reasons(changes: list[dict[str, Any]], reasons: list[str | None]) -> None:
    """What is told again, and what is not."""
    assert told(*changes) == reasons
    assert {each for each in reasons if each} <= notify.REASONS.keys()


def test_repeats_are_none() -> None:
    """A revision that was taken in, or an older one, gives nothing."""
    book = NoticeBook()
    assert book.take(replace(BASE, revision=2)) is not None
    assert book.take(replace(BASE, revision=2)) is None
    assert book.take(BASE) is None


def test_made_again_from_any_point() -> None:
    """A book made again from what came before tells the same of what comes after: nothing has to be stored."""
    chance = random.Random(3)
    revisions: dict[str, int] = {}
    sequence = []
    for _ in range(300):
        name = f"alert_{chance.randrange(5)}"
        revisions[name] = revisions.get(name, 0) + 1
        sequence.append(
            replace(
                BASE,
                alert_id=name,
                revision=revisions[name],
                status=chance.choice(["FIRING", "FIRING", "RESOLVED", "WITHDRAWN"]),
                severity=chance.choice(list(Severity)),
                summary=chance.choice([BASE.summary, LISTED]),
            )
        )
    straight = NoticeBook()
    wanted = [straight.take(each) for each in sequence]
    assert sum(each is not None for each in wanted) > 50
    for cut in range(0, 300, 23):
        book = NoticeBook()
        for each in sequence[:cut]:
            book.take(each)
        assert [book.take(each) for each in sequence[cut:]] == wanted[cut:]


def test_still_firing() -> None:
    """A new subscriber is told of the latest revision of what is not over."""
    over = replace(BASE, alert_id="alert_2")
    raised = replace(BASE, revision=2, severity=Severity.CRITICAL)
    alerts = [BASE, over, replace(over, revision=2, status="RESOLVED"), raised, BASE]
    assert notify.still_firing(alerts) == [raised]


def test_rules() -> None:
    """A route takes what is bad enough and of its subjects; an end follows the worst that was told."""
    book = NoticeBook()
    first = book.take(replace(BASE, severity=Severity.CRITICAL))
    end = book.take(replace(BASE, revision=2, status="RESOLVED"))
    assert first is not None
    assert end is not None
    assert end.alert.severity < Severity.CRITICAL
    for notice in (first, end):
        assert Rule(Severity.CRITICAL).matches(notice)
        assert Rule(Severity.LOW, frozenset({"org_1", "org_2"})).matches(notice)
        assert not Rule(Severity.LOW, frozenset({"org_2"})).matches(notice)
    assert not Rule(Severity.CRITICAL).matches(Notice(BASE, "new", BASE.severity))
    feed = replace(BASE, organization_id=None, feed_id="feed_1")
    assert Rule(Severity.HIGH, frozenset({feed.subject})).matches(Notice(feed, "new", Severity.HIGH))


def test_texts() -> None:
    """The title says how bad, what and about whom; the text what to do, and the keys."""
    notice = Notice(replace(BASE, triage=("Do this.", "Then that."), gap_id="gap_1"), "severity_raised", Severity.HIGH)
    assert notify.title_of(notice) == "[HIGH] logging_disabled firing (severity raised): org_1"
    assert notify.text_of(notice).splitlines() == [
        BASE.summary,
        "",
        "1. Do this.",
        "2. Then that.",
        "",
        "gap: gap_1",
        "dedup key: logging_disabled:inc_1",
        "id: alert_1/1",
    ]


def test_authority_is_what_the_core_writes() -> None:
    """The sentence of a real alert is understood: unknown, not listed, listed."""

    def authority(owner: str | None) -> str:
        shard = Shard()
        if owner is not None:
            version: Policy = successor(None, "org_1", Rules(owners=Actors(emails=(owner,))), "jane", at(-60), None)
            shard.policy(replace(version, append_time=at(-60)), at(-60))
        alerts = [
            each
            for each in shard.activity(setting("off", 0, api=False), at(1), at(1)).emissions
            if isinstance(each, Alert) and each.kind == "logging_disabled"
        ]
        return notify.authority_of(alerts[0])

    assert authority(None) == ""
    assert authority("else@example.com") == "not listed in the policy"
    assert authority("owner@example.com") == "listed in the policy"
    planned = replace(BASE, summary="off; listed in the policy; in change window CHG-1; not audited since then")
    assert notify.authority_of(planned) == "listed in the policy; in change window CHG-1"


def test_heartbeats_leave_nothing() -> None:
    """Each off of a synthetic organization gives one alert at once, and thousands leave no state behind."""
    shard = Shard()
    kept: dict[str, bytes | None] = {}
    for number in range(2000):
        off = setting(f"off_{number}", number * 60, api=False, organization_id="auditgap-canary")
        on = setting(f"on_{number}", number * 60 + 0.001, api=True, organization_id="auditgap-canary")
        (alert,) = shard.activity(off, at(number * 60), at(number * 60)).emissions
        assert isinstance(alert, Alert)
        assert (alert.kind, alert.revision, alert.occurred_at) == ("logging_disabled", 1, off.created_at)
        assert not shard.activity(on, at(number * 60), at(number * 60)).emissions
        assert not list(shard.settle(at(number * 60)))
        kept.update(shard.changes())
    assert shard.sizes() == (0, 0, 0)
    assert not kept
    assert not shard.ledgers


def test_only_plain_heartbeats_are_special() -> None:
    """An organization that exists, or a record that is not understood, goes the usual way."""
    shard = Shard()
    shard.activity(setting("off", 0, api=False), at(0), at(0))
    assert shard.sizes().gaps == 1
    broken = setting("broken", 0, api="no", organization_id="auditgap-canary")
    kinds = [each.kind for each in shard.activity(broken, at(0), at(0)).emissions if isinstance(each, Alert)]
    assert kinds == ["settings_change_unreadable"]
    forged = setting("forged", 0, api=True, organization_id="auditgap-canary")
    found = shard.activity(forged, at(0), at(0), trusted=False, fault="signature_invalid").emissions
    assert "signature_invalid" in [each.kind for each in found if isinstance(each, Alert)]
