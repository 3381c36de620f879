"""Each kind of alert of the table has an example in which it fires, and one, close by, in which it is silent."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

import pytest
from tests.support.golden import assert_golden, shown
from tests.support.shards import Shards
from tests.unit.core.making import Run, act, alerts, at, canary, caught_up, saw, setting

from auditgap.core.alerts import ATTACK_IDS, KINDS
from auditgap.core.inputs import Activity, Rejection
from auditgap.core.intake import ledger_of, observe, take
from auditgap.core.ledger import ALERT_OF_REASON, Ledger
from auditgap.core.observations import Observation
from auditgap.core.policy import Actors, ChangeWindow, Rules, successor
from auditgap.core.records import Emission, Severity
from auditgap.core.shard import Shard

OFF, ON = setting("off", 1, logging=False), setting("on", 5, logging=True)


@dataclass(frozen=True)
class Examples:
    """Two runs: one that raises the alert, one that does not."""

    fires: Callable[[], Iterable[Emission]]
    silent: Callable[[], Iterable[Emission]]


BY_KEY = setting(
    "off", 1, logging=False, actor={"type": "admin_api_key_actor", "admin_api_key_id": "admin_api_key_watch"}
)


def governed(run: Run, watcher_key: str) -> Run:
    """Begin with a policy that names a feed's own key."""
    rules = Rules(watcher_keys=(watcher_key,))
    ledger_of(run.ledgers, "org_1").govern((successor(None, "org_1", rules, "owner@example.com", at(0), None),))
    return run


def triaged(*activities: Activity) -> list[Emission]:
    """Let a shard take activities in, and all mail that follows."""
    return Shards().take(*activities).finish().out


def operator(result: str) -> Observation:
    """Make an operator's statement."""
    about: dict[str, Any] = {"organization_id": "org_1", "effective_at": at(0), "author": "jane@example.com"}
    return Observation(id="said", kind="operator", result=result, observed_at=at(1), sent_at=at(1), message="", **about)


def refused(reason: str) -> list[Emission]:
    """Refuse a record that nobody could decode."""
    return Ledger("org_1").rejected(Rejection(reason, "why"), None, "compliance.activity/0/17", at(1), at(2))


DENIED = saw("denied", "feed_answer", "unauthorized", 60)
MINUTE = 60.0
HOUR = 3600.0
DAY = 24 * HOUR


def ran(*steps: Callable[[Run], Iterable[Emission]]) -> list[Emission]:
    """Take steps one after the other; give what the last one led to."""
    run = Run()
    out: list[Emission] = []
    for step in steps:
        out = list(step(run))
    return out


def everyday(run: Run, *, every: float, until: float) -> Iterable[Emission]:
    """Record an activity again and again."""
    out = run.take(*(act(f"act_{n}", n * every) for n in range(int(until / every) + 1)))
    return [*out, *run.settle()]


def excused(run: Run, *, until: float) -> Run:
    """Begin with a policy that lists the actor and has a change window from the second 0, registered before."""
    window = ChangeWindow(
        id="CHG-1",
        reason="migration",
        registered_at=at(-DAY),
        start=at(0),
        end=at(until),
        actors=Actors(users=("user_owner",)),
    )
    rules = Rules(owners=Actors(users=("user_owner",)), change_windows=(window,))
    version = successor(None, "org_1", rules, "owner@example.com", at(-DAY), None)
    ledger_of(run.ledgers, "org_1").govern((version,))
    return run


def published(decommissioned: bool) -> list[Emission]:
    """Publish a second version of the policy, through the shard."""
    shard = Shard()
    shard.activity(act("act", 0), at(1), at(1))
    first = successor(None, "org_1", Rules(), "owner@example.com", at(2), None)
    second = successor(first, "org_1", Rules(decommissioned=decommissioned), "owner@example.com", at(3), None)
    shard.policy(first, at(2))
    return list(shard.policy(second if decommissioned else first, at(3)).emissions)


EXAMPLES = {
    "feed_suspected_off": Examples(
        lambda: Run().observe(canary("c", "missing", 60)),
        lambda: Run().observe(canary("c", "delayed", 60), saw("f", "feed_answer", "server_error", 300)),
    ),
    "gap_refined": Examples(
        lambda: ran(
            lambda run: run.take(act("act", 0)),
            lambda run: run.observe(saw("poll", "settings_poll", "disabled", 900)),
            lambda run: run.take(setting("off", 300, api=False), append=1000),
        ),
        lambda: ran(
            lambda run: run.take(setting("off", 300, api=False)),
            lambda run: run.observe(saw("poll", "settings_poll", "disabled", 900)),
        ),
    ),
    "gap_withdrawn": Examples(
        lambda: ran(
            lambda run: everyday(run, every=60, until=60),
            lambda run: run.observe(DENIED, saw("ok", "feed_answer", "ok", 1200)),
            lambda run: everyday(run, every=60, until=1800),
            lambda run: run.observe(caught_up("done", 1900, 1800)),
        ),
        lambda: ran(
            lambda run: everyday(run, every=60, until=60),
            lambda run: run.observe(DENIED, saw("ok", "feed_answer", "ok", 1200)),
            lambda run: everyday(run, every=60, until=1800),
            lambda run: run.observe(caught_up("done", 1900, 1100)),
        ),
    ),
    "gap_still_open": Examples(
        lambda: ran(lambda run: run.take(OFF), lambda run: run.tick(1 + 15 * MINUTE)),
        lambda: ran(lambda run: run.take(OFF), lambda run: run.tick(15 * MINUTE)),
    ),
    "evidence_conflict": Examples(
        lambda: ran(lambda run: run.take(OFF, act("act", 62)), lambda run: run.settle()),
        lambda: ran(lambda run: run.take(OFF, act("act", 61)), lambda run: run.settle()),
    ),
    "change_window_overrun": Examples(
        lambda: excused(Run(), until=HOUR).take(OFF, setting("on", HOUR + 1, logging=True)),
        lambda: excused(Run(), until=HOUR).take(OFF, setting("on", HOUR, logging=True)),
    ),
    "policy_changed": Examples(lambda: published(decommissioned=True), lambda: published(decommissioned=False)),
    "flapping": Examples(
        lambda: Run().take(*(setting(f"s{n:02d}", n, logging=n % 2 == 0) for n in range(51))),
        lambda: Run().take(*(setting(f"s{n:02d}", n, logging=n % 2 == 0) for n in range(50))),
    ),
    "feed_stalled": Examples(
        lambda: ran(
            lambda run: run.observe(saw("up", "collector", "started", 0), append=0),
            lambda run: run.tick(10 * MINUTE),
        ),
        lambda: ran(
            lambda run: run.observe(saw("up", "collector", "started", 0), append=0),
            lambda run: run.tick(10 * MINUTE - 1),
        ),
    ),
    "feed_delayed": Examples(
        lambda: Run().observe(canary("c", "delayed", 60)),
        lambda: Run().observe(canary("c", "seen", 60)),
    ),
    "logging_disabled": Examples(
        lambda: Run().take(setting("off", 1, api=False)),
        lambda: Run().take(setting("on", 1, api=True, logging=None)),
    ),
    "disabled_by_watcher_key": Examples(
        lambda: governed(Run(), "admin_api_key_watch").take(BY_KEY),
        lambda: governed(Run(), "admin_api_key_other").take(BY_KEY),
    ),
    "logging_restored": Examples(
        lambda: Run().take(OFF, ON),
        lambda: Run().take(setting("off", 1, api=False), ON),
    ),
    "actor_compromise_indicators": Examples(
        lambda: triaged(act("role", -60, kind="rbac_role_assigned"), OFF),
        lambda: triaged(act("role", -60, kind="rbac_role_assigned"), ON),
    ),
    "post_gap_review": Examples(
        lambda: triaged(OFF, ON, act("export", 60, kind="org_data_export_started")),
        lambda: triaged(OFF, ON, act("chat", 60, kind="claude_chat_created")),
    ),
    "settings_change_unreadable": Examples(
        lambda: Run().take(setting("odd", 1, logging="off")),
        lambda: Run().take(setting("odd", 1, logging=None)),
    ),
    "clock_anomaly": Examples(
        lambda: Run().take(act("act", 301), append=0),
        lambda: Run().take(act("act", 300), append=0),
    ),
    "conflicting_record": Examples(
        lambda: Run().take(OFF, setting("off", 1, logging=True)),
        lambda: Run().take(OFF, replace(OFF, feed_id="feed_2"), act("of", 1)),
    ),
    "signature_invalid": Examples(
        lambda: observe({}, operator("on"), at(2), at(3), trusted=False, fault="it is not of this record").emissions,
        lambda: observe({}, operator("on"), at(2), at(3), trusted=False).emissions,
    ),
    "unsigned_settings_change": Examples(
        lambda: take({}, ON, at(6), at(7), trusted=False).emissions,
        lambda: (*take({}, ON, at(6), at(7)).emissions, *take({}, OFF, at(6), at(7), trusted=False).emissions),
    ),
    "header_mismatch": Examples(
        lambda: Ledger("org_1").alert("header_mismatch", "compliance.activity/0/17", "headers differ", at(1), at(2)),
        lambda: refused("not_avro"),
    ),
    "record_quarantined": Examples(
        lambda: refused("quarantined"),
        lambda: refused("not_json"),
    ),
}


SEVERITIES = {
    **dict.fromkeys(("logging_restored", "gap_refined", "gap_withdrawn"), Severity.INFORMATIONAL),
    **dict.fromkeys(("gap_still_open", "feed_stalled", "feed_delayed"), Severity.MEDIUM),
    **dict.fromkeys(
        ("post_gap_review", "feed_suspected_off", "evidence_conflict", "policy_changed", "flapping"), Severity.HIGH
    ),
    "unsigned_settings_change": Severity.HIGH,
}
"""All others are critical."""


def test_every_kind_has_examples() -> None:
    """A kind without both examples, or an example without a kind, fails here."""
    assert EXAMPLES.keys() == KINDS.keys()


@pytest.mark.parametrize("kind", EXAMPLES)
def test_fires(kind: str) -> None:
    """The alert is raised once, with what its row of the table says."""
    (alert,) = {each.alert_id: each for each in alerts(EXAMPLES[kind].fires(), kind)}.values()
    row = KINDS[kind]
    assert (alert.kind, alert.severity, alert.triage, alert.attack_ids) == (
        row.name,
        row.severity,
        row.triage,
        row.attack_ids,
    )
    assert alert.summary.startswith("organization org_1: ")
    assert all(alert.evidence)
    assert alert.dedup_key.startswith(f"{kind}:")


@pytest.mark.parametrize("kind", EXAMPLES)
def test_what_is_published(kind: str) -> None:
    """All that is published with the alert, and where it has no reason: every field, and every sentence."""
    examples = EXAMPLES[kind]
    assert_golden(f"alerts/{kind}", shown([*examples.fires(), *examples.silent()]))


@pytest.mark.parametrize("kind", EXAMPLES)
def test_silent(kind: str) -> None:
    """The alert is not raised where it has no reason."""
    assert alerts(EXAMPLES[kind].silent(), kind) == []


@pytest.mark.parametrize("row", KINDS.values(), ids=KINDS.keys())
def test_rows(row: object) -> None:
    """A row is complete: its name, when it is raised, and what to do about it; its severity is that of the rules."""
    assert row in KINDS.values()
    kind = next(each for each in KINDS.values() if each is row)
    assert KINDS[kind.name] is kind
    assert kind.when
    assert all(kind.triage)
    assert kind.triage
    assert kind.severity == SEVERITIES.get(kind.name, Severity.CRITICAL)


def test_attack_ids() -> None:
    """Kinds about logs being impaired carry the current ATT&CK ids before the former ones."""
    assert ATTACK_IDS == ("TA0112", "T1685.002", "TA0005", "T1562", "T1562.008")
    assert KINDS["logging_disabled"].attack_ids == ATTACK_IDS


def test_reasons_that_alert() -> None:
    """A refusal that is worth an alert names a kind of the table."""
    assert set(ALERT_OF_REASON.values()) <= KINDS.keys()


def test_a_kind_that_is_not_in_the_table() -> None:
    """A kind that is not in the table cannot be raised."""
    with pytest.raises(KeyError):
        Ledger("org_1").alert("mood", "x", "because", at(1), at(2))
