"""What a record counts for that nobody signed, and what an operator's word does: the same in any order."""

from dataclasses import dataclass, replace
from itertools import permutations
from typing import Any, Final

import pytest
from tests.unit.core.making import T0, act, alerts, at, gaps, setting

from auditgap.core import times
from auditgap.core.fold import of_observation, of_settings_event
from auditgap.core.inputs import Activity, Actor
from auditgap.core.ledger import Ledger
from auditgap.core.observations import Observation, read_observation
from auditgap.core.policy import UNKNOWN, Actors, Rules, successor
from auditgap.core.records import Emission, Gap, as_dict
from auditgap.core.shard import Shard

FREE: Final = {"incident_id", "revision", "produced_at", "history_sequence", "previous_digest"}
"""Fields of a gap that may depend on the order of arrival."""


@dataclass(frozen=True)
class Input:
    """One record as the worker hands it to a shard."""

    record: Activity | Observation
    append: float
    trusted: bool = True
    fault: str | None = None

    def into(self, shard: Shard) -> tuple[Emission, ...]:
        """Take it in; give what is published."""
        taken = (at(self.append), at(self.append + 1))
        doubt: dict[str, Any] = {"trusted": self.trusted, "fault": self.fault}
        if isinstance(self.record, Activity):
            return shard.activity(self.record, *taken, **doubt).emissions
        return shard.observation(self.record, *taken, **doubt).emissions


def operator(result: str, seconds: float, **fields: object) -> Observation:
    """Make a statement, stated a minute after the time it is about."""
    shape = {
        "kind": "operator",
        "result": result,
        "observed_at": times.text_of(at(seconds + 60)),
        "effective_at": times.text_of(at(seconds)),
        "organization_id": "org_1",
        "author": "jane@example.com",
        "message": "read in the console",
        **fields,
    }
    seen = read_observation({name: value for name, value in shape.items() if value is not ...})
    assert isinstance(seen, Observation), seen
    return seen


def run(*inputs: Input) -> tuple[Shard, list[Emission]]:
    """Take inputs in, writing the state and reading it back after each."""
    shard = Shard()
    out: list[Emission] = []
    store: dict[str, bytes] = {}
    for each in inputs:
        out += each.into(shard)
        out += shard.settle(at(5000))
        store.update({key: value for key, value in shard.changes() if value is not None})
        shard = Shard.restore(store)
    return shard, out


def standing(shard: Shard) -> list[dict[str, Any]]:
    """Give the gaps that stand in the end, without what may depend on order."""
    found = [gap for ledger in shard.ledgers.values() for gap in ledger.gaps.values()]
    shapes = [as_dict(gap) for gap in found if gap.state not in {"SUPERSEDED", "RETRACTED"}]
    kept = [{name: value for name, value in shape.items() if name not in FREE} for shape in shapes]
    return sorted(kept, key=lambda shape: str(shape["gap_id"]))


def raised(shard: Shard) -> set[tuple[object, ...]]:
    """Give what the alerts that stand say in the end."""
    return {
        (each.kind, each.status, each.occurred_at, each.evidence, each.actor_id, each.summary)
        for ledger in shard.ledgers.values()
        for each in ledger.alerts.values()
        if each.kind != "gap_refined"
        if each.status != "WITHDRAWN"
    }


def gap_of(shard: Shard) -> Gap:
    """Give the only gap."""
    (gap,) = shard.ledgers["org_1"].gaps.values()
    return gap


OFF: Final = setting("off", 10, logging=False)
ON: Final = setting("on", 20, logging=True)
MIXED: Final = setting("mixed", 15, api=False, logging=True)
API_ON: Final = setting("api", 25, api=True)


# --- signatures -------------------------------------------------------------------------------------------------------


def test_on_without_proof() -> None:
    """An "on" that is not trusted closes nothing and raises a high alert, once."""
    shard, out = run(Input(OFF, 11), Input(ON, 21, trusted=False), Input(ON, 22, trusted=False))
    assert (gap_of(shard).state, gap_of(shard).closed_at) == ("OPEN", None)
    (alert,) = alerts(out, "unsigned_settings_change")
    assert (alert.evidence, alert.occurred_at, alert.actor_id) == (("on",), at(20), "user_owner")
    assert not alerts(out, "logging_restored", "signature_invalid")


def test_a_copy_without_proof_is_a_repeat() -> None:
    """A further copy that nobody signed is recognised, before the signed one and after it."""
    shard = Shard()
    for trusted, repeat in ((False, False), (False, True), (True, False), (True, True), (False, True)):
        assert shard.activity(ON, at(21), at(22), trusted=trusted).repeat is repeat


def test_off_is_believed_from_anyone() -> None:
    """An "off" that is not trusted opens a gap like any other, and is no alert of that kind."""
    shard, out = run(Input(OFF, 11, trusted=False))
    assert shard.ledgers["org_1"].gaps.keys() == run(Input(OFF, 11))[0].ledgers["org_1"].gaps.keys()
    assert [each.kind for each in alerts(out)] == ["logging_disabled"]


def test_half_of_an_event_counts() -> None:
    """Of an event that says both, only the "off" counts without proof."""
    assertion = of_settings_event(MIXED, at(16), trusted=False)
    assert (assertion.api, assertion.logging, assertion.whole) == (False, None, False)
    assertion = of_settings_event(OFF, at(16), trusted=False)
    assert (assertion.api, assertion.logging, assertion.whole) == (None, False, True)


def test_a_wrong_signature() -> None:
    """A wrong signature is one critical alert and no other; what was written before it stands."""
    shard, out = run(Input(OFF, 11), Input(ON, 21, trusted=False, fault="it is not of this record"))
    assert gap_of(shard).state == "OPEN"
    (alert,) = alerts(out, "signature_invalid", "unsigned_settings_change")
    assert (alert.kind, alert.evidence) == ("signature_invalid", ("on",))
    assert "it is not of this record" in alert.summary


@pytest.mark.parametrize(
    "record",
    [setting("bad", 20, logging="no"), setting("late", 2000, logging=True), OFF],
    ids=["unreadable", "misdated", "off"],
)
def test_a_wrong_signature_of_what_says_no_on(record: Activity) -> None:
    """A wrong signature is told whatever the record says, and whether or not it is refused."""
    _, out = run(Input(record, 21, trusted=False, fault="why"))
    assert [each.kind for each in alerts(out)].count("signature_invalid") == 1
    assert not alerts(out, "unsigned_settings_change")


DELIVERIES: Final = {
    "on": [Input(OFF, 11), Input(ON, 21, trusted=False), Input(ON, 31), Input(ON, 41, trusted=False)],
    "both flags": [
        Input(OFF, 11, trusted=False),
        Input(MIXED, 16, trusted=False),
        Input(MIXED, 46),
        Input(API_ON, 26),
        Input(API_ON, 27, trusted=False, fault="why"),
    ],
    "another feed": [
        Input(OFF, 11),
        Input(replace(MIXED, feed_id="feed_2"), 16, trusted=False),
        Input(MIXED, 16),
        Input(MIXED, 18),
        Input(API_ON, 26),
    ],
    "operator": [
        Input(OFF, 11),
        Input(operator("on", 12), 90, trusted=False),
        Input(operator("on", 12), 91),
        Input(operator("off", 14, api=False), 92),
        Input(act("act", 30), 31),
    ],
}


@pytest.mark.parametrize("inputs", DELIVERIES.values(), ids=DELIVERIES.keys())
def test_order(inputs: list[Input]) -> None:
    """A signed copy counts in full, whether it comes before or after the ones without proof: the end is the same."""
    expected = run(*inputs)[0]
    assert standing(expected)
    for order in permutations(inputs):
        shard, _ = run(*order)
        assert standing(shard) == standing(expected)
        assert raised(shard) == raised(expected)


@pytest.mark.parametrize("first", [False, True])
def test_a_signed_copy_counts_in_full(first: bool) -> None:
    """With the signed copy the gap is what it would be without the others, whichever comes first."""
    copies = [Input(ON, 21, trusted=False), Input(ON, 21)]
    shard, _ = run(Input(OFF, 11), *(reversed(copies) if first else copies))
    assert standing(shard) == standing(run(Input(OFF, 11), Input(ON, 21))[0])


def test_the_off_was_known_from_the_first_copy() -> None:
    """What the first copy told without proof was told then, though the signed one says more."""
    copies = [Input(MIXED, 16, trusted=False), Input(MIXED, 46)]
    for order in permutations(copies):
        shard, _ = run(*order)
        assert gap_of(shard).first_evidence_at == at(16)


# --- observations and operators ---------------------------------------------------------------------------------------


def observed(kind: str, result: str, **fields: object) -> Observation:
    """Make an observation."""
    seen = read_observation(
        {"kind": kind, "result": result, "observed_at": times.text_of(at(100)), "organization_id": "org_1", **fields}
    )
    assert isinstance(seen, Observation), seen
    return seen


@pytest.mark.parametrize(
    ("seen", "counts"),
    [
        (observed("settings_poll", "enabled"), False),
        (observed("settings_poll", "disabled"), True),
        (observed("feed_answer", "ok"), False),
        (observed("feed_answer", "not_enabled"), True),
        (observed("canary", "seen", called_at=times.text_of(at(50))), False),
        (operator("on", 10), False),
        (operator("off", 10), True),
    ],
    ids=lambda each: f"{each.kind} {each.result}" if isinstance(each, Observation) else "",
)
def test_observations_without_proof(seen: Observation, counts: bool) -> None:
    """Of observations too only "off" counts without proof; trusted, each of these counts."""
    ledger = Ledger("org_1")
    ledger.observation(seen, at(101), at(101), trusted=False)
    assert bool(ledger.known.assertions) is counts
    assert of_observation(seen, at(101)) is not None


def test_only_an_operators_on_is_an_alert() -> None:
    """A collector without a key does not alert every minute, an operator does."""
    poll = Input(observed("settings_poll", "enabled"), 101, trusted=False)
    assert alerts(run(poll)[1]) == []
    (alert,) = alerts(run(Input(operator("on", 10), 71, trusted=False))[1])
    assert alert.kind == "unsigned_settings_change"


def test_a_wrong_signature_of_an_observation() -> None:
    """A wrong signature of an observation is told once."""
    poll = Input(observed("settings_poll", "enabled"), 101, trusted=False, fault="why")
    (alert,) = alerts(run(poll, poll)[1])
    assert alert.kind == "signature_invalid"


def test_an_operator_opens_and_closes() -> None:
    """An operator's word is exact: it opens a gap and closes one, and names him with his reason."""
    shard, out = run(Input(operator("off", 10), 70), Input(operator("on", 200, message="mended"), 260))
    gap = gap_of(shard)
    assert (gap.state, gap.cause, gap.opened_at, gap.opened_at_latest) == ("CLOSED", "BOTH_DISABLED", at(10), at(10))
    assert (gap.closed_at, gap.closed_at_earliest) == (at(200), at(200))
    assert (gap.opened_by_kind, gap.closed_by_kind) == ("operator", "operator")
    assert (gap.opened_actor_type, gap.opened_actor_id) == ("operator", "jane@example.com")
    (opened,) = {each.alert_id: each for each in alerts(out, "logging_disabled")}.values()
    assert (opened.actor_type, opened.actor_id, opened.occurred_at) == ("operator", "jane@example.com", at(10))
    assert "off by the word of operator jane@example.com (read in the console)" in opened.summary
    (closed,) = alerts(out, "logging_restored")
    assert "on by the word of operator jane@example.com (mended)" in closed.summary


def test_an_operator_closes_an_exact_window() -> None:
    """An "on" by an operator ends what a settings event began, which an ordinary activity does not."""
    shard, _ = run(Input(OFF, 11), Input(act("act", 100), 101))
    assert gap_of(shard).state == "OPEN"
    shard, _ = run(Input(OFF, 11), Input(act("act", 100), 101), Input(operator("on", 50), 110))
    assert (gap_of(shard).state, gap_of(shard).closed_at, gap_of(shard).closed_by_kind) == (
        "CLOSED",
        at(50),
        "operator",
    )


def test_an_operator_speaks_of_one_flag() -> None:
    """A statement about one flag leaves the other as it was."""
    shard, _ = run(Input(OFF, 11), Input(operator("on", 50, api=True), 110))
    assert gap_of(shard).state == "OPEN"
    shard, _ = run(Input(OFF, 11), Input(operator("on", 50, logging=True), 110))
    assert gap_of(shard).state == "CLOSED"
    shard, _ = run(Input(operator("off", 50, api=False), 110))
    assert gap_of(shard).cause == "API_DISABLED"


def test_an_operator_of_a_feed() -> None:
    """A statement about a feed is folded under that feed."""
    shard, out = run(Input(operator("off", 10, organization_id=..., feed_id="feed_9"), 70))
    (gap,) = gaps(out)
    assert (gap.organization_id, gap.feed_id) == (None, "feed_9")
    assert list(shard.ledgers) == ["feed/feed_9"]


def test_an_operator_is_nobody_who_was_allowed_to() -> None:
    """Who states that it was off did not switch it: whether that was allowed is not known."""
    rules = Rules(owners=Actors(emails=("owner@example.com",)))
    shard = Shard()
    shard.policy(successor(None, "org_1", rules, "owner@example.com", T0, None), T0)
    shard.observation(operator("off", 10), at(70), at(71))
    assert gap_of(shard).authorised_at_open == UNKNOWN


def test_an_operator_in_the_future() -> None:
    """A statement about a time that is still to come is refused, as any input is."""
    outcome = Shard().observation(operator("off", 500), at(100), at(101))
    assert outcome.rejection is not None
    assert outcome.rejection.reason == "time_in_future"


def test_what_an_operator_says_is_read() -> None:
    """Every field of a statement comes through, and its actor is the author."""
    seen = operator("on", 10, logging=True)
    assert (seen.author, seen.message, seen.effective_at) == ("jane@example.com", "read in the console", at(10))
    assert (seen.api, seen.logging) == (None, True)
    assertion = of_observation(seen, at(80))
    assert assertion is not None
    assert (assertion.actor, assertion.reason) == (
        Actor(type="operator", id="jane@example.com"),
        "read in the console",
    )
    assert (assertion.exact, assertion.api, assertion.logging) == (True, None, True)


@pytest.mark.parametrize(
    ("fields", "fault"),
    [
        ({"effective_at": ...}, "needs effective_at"),
        ({"effective_at": "2026-11-01"}, "effective_at is not a time with a zone"),
        ({"author": ...}, "needs author"),
        ({"author": ""}, "needs author"),
        ({"message": ...}, "needs message"),
        ({"api": False}, "api says something else than result"),
        ({"logging": 1}, "logging says something else than result"),
        ({"result": "enabled"}, "result of a operator is none of on, off"),
    ],
    ids=str,
)
def test_statements_that_are_refused(fields: dict[str, object], fault: str) -> None:
    """What a statement lacks is said."""
    with pytest.raises(AssertionError, match=fault):
        operator(**{"result": "on", "seconds": 10, **fields})  # type: ignore[arg-type]


def test_ordinary_records_need_no_proof() -> None:
    """Only settings events and observations are signed: an ordinary record counts as before."""
    shard, _ = run(Input(act("last", 5), 6, trusted=False), Input(OFF, 11))
    assert gap_of(shard).last_activity_id == "last"
