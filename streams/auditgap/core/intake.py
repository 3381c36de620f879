"""The one door into the core: what happens to an activity. The worker, the backtest and the tests all call `take`.

| input | what becomes of it |
|---|---|
| settings event that cannot be understood | refused, critical `settings_change_unreadable` |
| time more than five minutes after the append time | refused, critical `clock_anomaly`; an "off" counts from then |
| time before any feed existed | refused |
| settings event, id and content seen before | repeat |
| settings event | asserted exactly at its time, and the subject folded anew |
| Access Transparency record | applied: it proves nothing; a window counts it apart, by when the access was |
| any other activity | applied: indexed, and brackets of gaps improved |

A settings event or observation that is not trusted (no valid signature where one is required) says only "off": its "on"
counts for nothing, until a signed copy comes. A signature that is wrong is an alert of its own.
"""

from collections.abc import MutableMapping
from dataclasses import dataclass, replace
from typing import Any, Final, NamedTuple

from auditgap.core.inputs import (
    ACCESS_TRANSPARENCY_TYPES,
    OPERATOR,
    Activity,
    Rejection,
    accessed_at,
    admit,
    is_settings,
    read_settings,
)
from auditgap.core.ledger import Ledger
from auditgap.core.observations import Observation
from auditgap.core.recent import entry_of
from auditgap.core.records import Emission


class Mail(NamedTuple):
    """A message from one shard to the one that `key` belongs to: what kind it is, and JSON."""

    key: str
    kind: str
    body: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of an input: refused with a reason, a repeat, or applied; what to publish, and whom to tell of it."""

    emissions: tuple[Emission, ...] = ()
    rejection: Rejection | None = None
    repeat: bool = False
    mail: tuple[Mail, ...] = ()


APPLIED: Final = Outcome()
REPEAT: Final = Outcome(repeat=True)


def ledger_of(ledgers: MutableMapping[str, Ledger], subject: str) -> Ledger:
    """Find a subject's ledger, or begin it."""
    ledger = ledgers.get(subject)
    if ledger is None:
        ledger = ledgers[subject] = Ledger(subject)
    return ledger


def take(
    ledgers: MutableMapping[str, Ledger],
    activity: Activity,
    append_time: int,
    produced_at: int,
    *,
    trusted: bool = True,
    fault: str | None = None,
    organization_id: str | None = None,
) -> Outcome:
    """Take in one activity, appended at `append_time`; revisions that follow are stamped `produced_at`.

    Both times are microseconds. What has to be published is in the outcome, alerts first. The "on" of a settings event
    that is not `trusted` counts for nothing; `fault` is what is wrong with its signature, None where it has none.
    `organization_id` is given for one that names its organization by uuid only.
    """
    ledger = ledger_of(ledgers, organization_id or activity.subject)
    outcome = _taken(ledger, activity, append_time, produced_at, trusted=trusted)
    if fault is None and (trusted or outcome.rejection or True not in (activity.api_enabled, activity.logging_enabled)):
        return outcome
    identity = f"{activity.id} sha256:{activity.digest}"
    raised = _doubted(ledger, activity.id, identity, fault, append_time, produced_at, activity)
    return replace(outcome, emissions=(*raised, *outcome.emissions))


def _doubted(
    ledger: Ledger,
    record_id: str,
    identity: str,
    fault: str | None,
    append_time: int,
    produced_at: int,
    activity: Activity | None = None,
) -> list[Emission]:
    """Say that a record's signature is wrong (`fault`), or that it says "on" and has none."""
    kind, sentence = "signature_invalid", f"the signature of record {record_id} is wrong: {fault}"
    if fault is None:
        kind = "unsigned_settings_change"
        sentence = f"record {record_id} says on and is not signed: nothing counts as switched on by it"
    return ledger.alert(
        kind, identity, sentence, append_time, produced_at, activity=activity, record_id=record_id or None
    )


def _taken(ledger: Ledger, activity: Activity, append_time: int, produced_at: int, *, trusted: bool) -> Outcome:
    settings = is_settings(activity)
    refusal: Rejection | None
    if settings:
        original = read_settings(activity)
        if isinstance(original, Rejection):
            return _refused(ledger, original, activity, append_time, produced_at)
        activity = original
    if activity.created_at is None:
        refusal = Rejection("unreadable", "created_at is missing")
    else:
        refusal = admit(activity.created_at, append_time)
        if refusal is not None and settings and refusal.reason == "time_implausible":
            refusal = replace(refusal, reason="settings_unreadable")
    if refusal is not None:
        return _refused(ledger, refusal, activity, append_time, produced_at)
    if settings:
        emissions = ledger.settings_event(activity, append_time, produced_at, trusted=trusted)
        return REPEAT if emissions is None else Outcome(tuple(emissions))
    if activity.type in ACCESS_TRANSPARENCY_TYPES:
        ledger.access(entry_of(accessed_at(activity), activity.id))
    else:
        ledger.activity(entry_of(activity.created_at or 0, activity.id))
    return APPLIED


def observe(
    ledgers: MutableMapping[str, Ledger],
    seen: Observation,
    append_time: int,
    produced_at: int,
    *,
    trusted: bool = True,
    fault: str | None = None,
) -> Outcome:
    """Take in one observation, as `take` does an activity.

    A collector that has no key says "on" every minute: only of an operator's is there an alert.
    """
    ledger = ledger_of(ledgers, seen.subject)
    refusal = refused_time(seen, append_time)
    if refusal is not None:
        outcome = Outcome(tuple(ledger.rejected(refusal, None, seen.id, append_time, produced_at)), refusal)
    else:
        emissions = ledger.observation(seen, append_time, produced_at, trusted=trusted)
        outcome = REPEAT if emissions is None else Outcome(tuple(emissions))
    if fault is None and (trusted or refusal or (seen.kind, seen.result) != (OPERATOR, "on")):
        return outcome
    raised = _doubted(ledger, seen.id, f"{seen.id} {seen.digest}", fault, append_time, produced_at)
    return replace(outcome, emissions=(*raised, *outcome.emissions))


def refused_time(seen: Observation, append_time: int) -> Rejection | None:
    """Refuse an observation of which a time cannot be."""
    moments = (seen.observed_at, seen.sent_at, seen.called_at, seen.complete_through, seen.effective_at)
    return next(filter(None, (admit(moment, append_time) for moment in moments if moment is not None)), None)


def _refused(ledger: Ledger, refusal: Rejection, activity: Activity, append_time: int, produced_at: int) -> Outcome:
    record_id = activity.id or f"without an id, sha256:{activity.digest}"
    return Outcome(tuple(ledger.rejected(refusal, activity, record_id, append_time, produced_at)), refusal)
