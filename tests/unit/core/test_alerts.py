"""Each kind of alert of the table has an example in which it fires, and one, close by, in which it is silent."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

import pytest
from tests.unit.core.making import Run, act, alerts, at, setting

from auditgap.core.alerts import ATTACK_IDS, KINDS
from auditgap.core.inputs import Rejection
from auditgap.core.intake import ledger_of, observe, take
from auditgap.core.ledger import ALERT_OF_REASON, Ledger
from auditgap.core.observations import Observation
from auditgap.core.policy import Rules, successor
from auditgap.core.records import Emission, Severity

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


def operator(result: str) -> Observation:
    """Make an operator's statement."""
    about: dict[str, Any] = {"organization_id": "org_1", "effective_at": at(0), "author": "jane@example.com"}
    return Observation(id="said", kind="operator", result=result, observed_at=at(1), sent_at=at(1), message="", **about)


def refused(reason: str) -> list[Emission]:
    """Refuse a record that nobody could decode."""
    return Ledger("org_1").rejected(Rejection(reason, "why"), None, "compliance.activity/0/17", at(1), at(2))


EXAMPLES = {
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
    others = {"logging_restored": Severity.INFORMATIONAL, "unsigned_settings_change": Severity.HIGH}
    assert kind.severity == others.get(kind.name, Severity.CRITICAL)


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
