"""The one door into the core: what happens to an activity. The worker, the backtest and the tests all call `take`.

| input | what becomes of it |
|---|---|
| settings event that cannot be understood | refused, critical `settings_change_unreadable` |
| time more than five minutes after the append time | refused, critical `clock_anomaly`; an "off" counts from then |
| time before any feed existed | refused |
| settings event, id and content seen before | repeat |
| settings event | asserted exactly at its time, and the subject folded anew |
| Access Transparency record | applied: it proves nothing, and is no part of a bracket |
| any other activity | applied: indexed, and brackets of gaps improved |
"""

from collections.abc import MutableMapping
from dataclasses import dataclass, replace
from typing import Any, Final, NamedTuple

from auditgap.core.inputs import (
    ACCESS_TRANSPARENCY_TYPES,
    Activity,
    Rejection,
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
    organization_id: str | None = None,
) -> Outcome:
    """Take in one activity, appended at `append_time`; revisions that follow are stamped `produced_at`.

    Both times are microseconds. `organization_id` is given for one that names its organization by uuid only. What has
    to be published is in the outcome, alerts first.
    """
    ledger = ledger_of(ledgers, organization_id or activity.subject)
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
        emissions = ledger.settings_event(activity, append_time, produced_at)
        return REPEAT if emissions is None else Outcome(tuple(emissions))
    if activity.type not in ACCESS_TRANSPARENCY_TYPES:
        ledger.activity(entry_of(activity.created_at or 0, activity.id))
    return APPLIED


def observe(ledgers: MutableMapping[str, Ledger], seen: Observation, append_time: int, produced_at: int) -> Outcome:
    """Take in one observation, as `take` does an activity."""
    ledger = ledger_of(ledgers, seen.subject)
    refusal = refused_time(seen, append_time)
    if refusal is not None:
        return Outcome(tuple(ledger.rejected(refusal, None, seen.id, append_time, produced_at)), refusal)
    emissions = ledger.observation(seen, append_time, produced_at)
    return REPEAT if emissions is None else Outcome(tuple(emissions))


def refused_time(seen: Observation, append_time: int) -> Rejection | None:
    """Refuse an observation of which a time cannot be."""
    moments = (seen.observed_at, seen.sent_at, seen.called_at, seen.complete_through)
    return next(filter(None, (admit(moment, append_time) for moment in moments if moment is not None)), None)


def _refused(ledger: Ledger, refusal: Rejection, activity: Activity, append_time: int, produced_at: int) -> Outcome:
    record_id = activity.id or f"without an id, sha256:{activity.digest}"
    return Outcome(tuple(ledger.rejected(refusal, activity, record_id, append_time, produced_at)), refusal)
