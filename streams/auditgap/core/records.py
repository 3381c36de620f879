"""What leaves the core: gaps and alerts, one revision each. Field names are the interface (schemas/*.avsc).

Times are microseconds since the epoch, UTC. A field that is None is not known, or does not apply.
"""

import hashlib
from dataclasses import dataclass, fields
from enum import IntEnum
from operator import attrgetter
from typing import Any, Final

from auditgap.core import times
from auditgap.core.inputs import canonical, subject_of

TIME_FIELDS: Final = frozenset(
    {
        "first_evidence_at",
        "produced_at",
        "opened_at",
        "opened_at_latest",
        "closed_at",
        "closed_at_earliest",
        "last_activity_at",
        "first_activity_at",
        "occurred_at",
        "detected_at",
        "since",
        "last_proof_at",
        "last_observation_at",
    }
)
"""Fields that hold a time."""


class Severity(IntEnum):
    """How bad it is; ordered, so that `max` is the worst. UNKNOWN is only read: a newer writer has further ones."""

    UNKNOWN = 0
    INFORMATIONAL = 1
    LOW = 2
    MEDIUM = 3
    HIGH = 4
    CRITICAL = 5


GAP_STATES: Final = {
    "OPEN": "off now; a suspected one: not seen, or not caught up yet",
    "CLOSED": "it is over; a suspected one: seen again, but not proven to have been recorded throughout",
    "SUPERSEDED": "another gap knows more of it: `superseded_by`; none where it is explained otherwise",
    "RETRACTED": "a suspicion that came to nothing: recording is proven throughout",
}
"""What each state of a gap means."""

GAP_CHANGES: Final = {
    (None, "OPEN"): "an off, or a suspicion, is heard of",
    (None, "CLOSED"): "both its ends are heard of at once",
    ("OPEN", "CLOSED"): "on again; a suspicion: all up to its end is on the topic",
    ("OPEN", "SUPERSEDED"): "better or earlier evidence opens it, or explains it",
    ("OPEN", "RETRACTED"): "a suspicion: recording is proven throughout",
    ("CLOSED", "OPEN"): "what closed it was late, and an off came after it",
    ("CLOSED", "SUPERSEDED"): "better or earlier evidence opens it, or explains it",
    ("CLOSED", "RETRACTED"): "a suspicion: late records prove recording throughout",
    ("SUPERSEDED", "OPEN"): "what explained it is itself explained by later evidence",
    ("SUPERSEDED", "CLOSED"): "what explained it is itself explained by later evidence",
    ("SUPERSEDED", "RETRACTED"): "what explained it went, and recording is proven throughout",
    ("RETRACTED", "SUPERSEDED"): "late evidence of an off in it",
    ("RETRACTED", "OPEN"): "a suspicion: late evidence makes it longer than what is complete",
    ("RETRACTED", "CLOSED"): "a suspicion: late evidence makes it longer than what is proven",
}
"""How a gap's state may change from one revision to the next, and why; None before the first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Gap:
    """One revision of one window that nobody recorded. See schemas/gap.avsc for each field."""

    gap_id: str
    incident_id: str
    revision: int = 0
    organization_id: str | None
    feed_id: str | None
    parent_id: str | None = None
    inherited_from: str | None = None
    superseded_by: str | None = None
    first_evidence_at: int
    produced_at: int = 0
    state: str
    confidence: str
    cause: str
    opened_at: int | None
    opened_at_latest: int | None
    closed_at: int | None = None
    closed_at_earliest: int | None = None
    duration_seconds: float | None = None
    opened_by_kind: str | None
    opened_by_id: str | None
    closed_by_kind: str | None = None
    closed_by_id: str | None = None
    opened_actor_type: str | None = None
    opened_actor_id: str | None = None
    opened_actor_email: str | None = None
    opened_actor_ip: str | None = None
    opened_actor_user_agent: str | None = None
    closed_actor_type: str | None = None
    closed_actor_id: str | None = None
    closed_actor_email: str | None = None
    closed_actor_ip: str | None = None
    closed_actor_user_agent: str | None = None
    last_activity_id: str | None = None
    last_activity_at: int | None = None
    first_activity_id: str | None = None
    first_activity_at: int | None = None
    bracket_exact: bool = True
    activity_inside_count: int = 0
    activity_inside_first_id: str | None = None
    activity_inside_last_id: str | None = None
    access_inside_count: int | None = None
    access_inside_first_id: str | None = None
    access_inside_last_id: str | None = None
    authorised_at_open: str = "UNKNOWN"
    authorised_now: str = "UNKNOWN"
    change_window_id: str | None = None
    change_window_reason: str | None = None
    policy_version: int | None = None
    history_sequence: int = 0
    previous_digest: str | None = None

    @property
    def subject(self) -> str:
        """What it is about, as the input's records name it."""
        return subject_of(self.organization_id, self.feed_id, self.parent_id)


@dataclass(frozen=True, slots=True, kw_only=True)
class Alert:
    """One revision of one alert. See schemas/alert.avsc for each field."""

    alert_id: str
    revision: int = 0
    status: str
    kind: str
    severity: Severity
    gap_id: str | None = None
    incident_id: str | None = None
    organization_id: str | None
    feed_id: str | None
    parent_id: str | None = None
    occurred_at: int | None
    detected_at: int
    produced_at: int = 0
    historical: bool = False
    actor_type: str | None = None
    actor_id: str | None = None
    actor_email: str | None = None
    actor_ip: str | None = None
    actor_user_agent: str | None = None
    evidence: tuple[str, ...] = ()
    summary: str
    triage: tuple[str, ...] = ()
    attack_ids: tuple[str, ...] = ()
    dedup_key: str

    @property
    def subject(self) -> str:
        """What it is about, as the input's records name it."""
        return subject_of(self.organization_id, self.feed_id, self.parent_id)


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """What is known of a subject now. See schemas/status.avsc for each field."""

    organization_id: str | None
    feed_id: str | None
    parent_id: str | None = None
    revision: int = 0
    produced_at: int = 0
    audited: str
    reason: str
    since: int | None = None
    evidence_id: str | None = None
    last_proof_at: int | None = None
    last_observation_at: int | None = None
    open_gap_id: str | None = None

    @property
    def subject(self) -> str:
        """What it is about, as the input's records name it."""
        return subject_of(self.organization_id, self.feed_id, self.parent_id)


Emission = Gap | Alert | Status

_FIELDS: Final = {kind: tuple(field.name for field in fields(kind)) for kind in (Gap, Alert, Status)}
_VALUES: Final = {kind: attrgetter(*names) for kind, names in _FIELDS.items()}


def as_dict(record: Emission) -> dict[str, Any]:
    """Give the record by field name, times in microseconds, severity by name: the shape of its Avro schema."""
    shape: dict[str, Any] = dict(zip(_FIELDS[type(record)], _VALUES[type(record)](record), strict=True))
    if isinstance(record, Alert):
        shape["severity"] = record.severity.name
        for name in ("evidence", "triage", "attack_ids"):
            shape[name] = list(shape[name])
    return shape


def as_json(record: dict[str, Any]) -> dict[str, Any]:
    """Give an `as_dict` shape for people and JSON: times as ISO 8601 UTC with microseconds."""
    return {
        name: times.text_of(value) if name in TIME_FIELDS and isinstance(value, int) else value
        for name, value in record.items()
    }


def gap_from_dict(shape: dict[str, Any]) -> Gap:
    """Undo `as_dict` for a gap; fields it does not know are left out (a newer schema added them)."""
    return Gap(**{name: shape[name] for name in _FIELDS[Gap] if name in shape})


def alert_from_dict(shape: dict[str, Any]) -> Alert:
    """Undo `as_dict` for an alert; fields it does not know are left out (a newer schema added them)."""
    known = {name: shape[name] for name in _FIELDS[Alert] if name in shape}
    known["severity"] = Severity[known["severity"]]
    for name in ("evidence", "triage", "attack_ids"):
        known[name] = tuple(known.get(name, ()))
    return Alert(**known)


def status_from_dict(shape: dict[str, Any]) -> Status:
    """Undo `as_dict` for a status; fields it does not know are left out (a newer schema added them)."""
    return Status(**{name: shape[name] for name in _FIELDS[Status] if name in shape})


def digest(shape: dict[str, Any]) -> str:
    """Digest a revision for the history chain: SHA-256 over canonical JSON of the fields that are not None.

    Fields that are None are left out, so that a field added to the schema later changes no digest. Times go in as
    microseconds.
    """
    known = {name: value for name, value in shape.items() if value is not None}
    return hashlib.sha256(canonical(known).encode()).hexdigest()


def identifier(prefix: str, *parts: str) -> str:
    """Make a deterministic id: the prefix and 96 bits of a SHA-256 over the parts."""
    return f"{prefix}_{hashlib.sha256(chr(0).join(parts).encode('utf-8', 'surrogatepass')).hexdigest()[:24]}"
