"""What both baselines compute, written plainly for feeds that arrive in order: one organization's windows.

No late or repeated input, no dead letters, no chain of digests: what a good engineer writes in an afternoon. Nothing
of auditgap is used but its schemas, so that the outputs are the same Avro.
"""

import hashlib
import io
import json
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import fastavro

SETTINGS_TYPE: Final = "org_compliance_api_settings_updated"
CE_SETTINGS_TYPE: Final = f"com.anthropic.compliance.activity.{SETTINGS_TYPE}".encode()

_SCHEMAS: Final = Path(__file__).parents[1] / "schemas"
_IDS: Final[dict[str, str]] = {
    number: title.partition("/")[0] for number, title in json.loads((_SCHEMAS / "ids.json").read_text()).items()
}
_PREFIX: Final = {name: b"\0" + int(number).to_bytes(4, "big") for number, name in _IDS.items()}
_SCHEMA: Final = {
    name: fastavro.parse_schema(json.loads((_SCHEMAS / f"{name}.avsc").read_text())) for name in _IDS.values()
}

Outputs = list[tuple[str, dict[str, Any]]]
"""Records to publish: ("alert" or "gap", the record by field name)."""


def decode(value: bytes) -> dict[str, Any]:
    """Read an activity."""
    body = io.BytesIO(value)
    body.seek(5)
    activity = fastavro.schemaless_reader(body, _SCHEMA["activity"], None)
    assert isinstance(activity, dict)
    return activity


def encode(name: str, record: dict[str, Any]) -> bytes:
    """Write an alert or a gap."""
    body = io.BytesIO()
    body.write(_PREFIX[name])
    fastavro.schemaless_writer(body, _SCHEMA[name], record)
    return body.getvalue()


@dataclass(slots=True)
class Organization:
    """What is known of one organization; `last` is id and time of the last activity, as its headers say them."""

    id: str
    api: bool | None = None
    logging: bool | None = None
    last: tuple[bytes, bytes] | None = None
    gap: dict[str, Any] | None = None
    alerts: list[dict[str, Any]] = field(default_factory=list)
    closed: list[tuple[dict[str, Any], dict[str, Any]]] = field(default_factory=list)
    """Gaps whose first activity after is not known yet, with their alert."""
    sequence: int = 0

    def activity(self, identifier: bytes, moment: bytes) -> Outputs:
        """Take in an ordinary activity."""
        self.last = identifier, moment
        out: Outputs = []
        for gap, restored in self.closed:
            gap |= {"first_activity_id": identifier.decode(), "first_activity_at": _micros_of(moment)}
            restored["evidence"].append(identifier.decode())
            out += [self._revise("alert", restored), self._revise("gap", gap)]
        self.closed.clear()
        return out

    def settings(self, event: dict[str, Any], appended_at: int) -> Outputs:
        """Take in a settings event."""
        api, logging = event["compliance_api_enabled"], event["compliance_api_logging_enabled"]
        self.api = self.api if api is None else api
        self.logging = self.logging if logging is None else logging
        off = self.api is False or self.logging is False
        if self.gap is None and not off:
            return []
        out: Outputs = []
        changed = self.gap is None
        if self.gap is None:
            self.gap = self._opened(event, appended_at)
        cause = self._cause(self.gap["cause"])
        if cause != self.gap["cause"]:
            self.gap["cause"], changed = cause, True
        if api is False or logging is False:
            alert = self._alert("logging_disabled", event, self.gap, appended_at, [event["id"]])
            self.alerts.append(alert)
            out.append(self._revise("alert", alert))
        if off:
            return [*out, self._revise("gap", self.gap)] if changed else out
        gap, self.gap = self.gap, None
        _close(gap, event)
        evidence = [gap["opened_by_id"], event["id"], *([gap["last_activity_id"]] if gap["last_activity_id"] else [])]
        restored = self._alert("logging_restored", event, gap, appended_at, evidence)
        for alert in [*self.alerts, restored]:
            alert["status"] = "RESOLVED"
            out.append(self._revise("alert", alert))
        self.alerts = []
        self.closed.append((gap, restored))
        return [*out, self._revise("gap", gap)]

    def dump(self) -> dict[str, Any]:
        """Give all of it in a form that JSON can hold."""
        shape = {name: getattr(self, name) for name in ("id", "api", "logging", "gap", "alerts", "closed", "sequence")}
        return {**shape, "last": self.last and [each.decode() for each in self.last]}

    @classmethod
    def load(cls, shape: dict[str, Any]) -> "Organization":
        """Undo `dump`."""
        last = shape["last"]
        return cls(**{**shape, "last": last and (last[0].encode(), last[1].encode())})

    def _cause(self, before: str | None) -> str:
        off = {name for name, value in (("API", self.api), ("LOGGING", self.logging)) if value is False}
        if before == "BOTH_DISABLED" or len(off) == 2 or (before and off and not before.startswith(next(iter(off)))):
            return "BOTH_DISABLED"
        return before or f"{off.pop()}_DISABLED"

    def _revise(self, name: str, record: dict[str, Any]) -> tuple[str, dict[str, Any]]:
        """Stamp the next revision of a record. It is published as it is now, whatever is changed in it later."""
        record["revision"] = record.get("revision", 0) + 1
        record["produced_at"] = time.time_ns() // 1000
        if name == "gap":
            self.sequence += 1
            record["history_sequence"] = self.sequence
        return name, {**record, "evidence": [*record["evidence"]]} if name == "alert" else {**record}

    def _opened(self, event: dict[str, Any], appended_at: int) -> dict[str, Any]:
        moment = micros(event["created_at"])
        gap_id = f"gap_{hashlib.sha256(event['id'].encode()).hexdigest()[:24]}"
        return {
            "gap_id": gap_id,
            "incident_id": f"inc_{gap_id}",
            "organization_id": self.id,
            "first_evidence_at": appended_at,
            "state": "OPEN",
            "confidence": "CONFIRMED",
            "cause": self._cause(None),
            "opened_at": moment,
            "opened_at_latest": moment,
            "opened_by_kind": "settings_event",
            "opened_by_id": event["id"],
            **{f"opened_{name}": event[name] for name in _ACTOR},
            "last_activity_id": self.last and self.last[0].decode(),
            "last_activity_at": self.last and _micros_of(self.last[1]),
            "bracket_exact": True,
        }

    def _alert(
        self, kind: str, event: dict[str, Any], gap: dict[str, Any], appended_at: int, evidence: list[str]
    ) -> dict[str, Any]:
        return {
            "alert_id": f"alert_{hashlib.sha256((kind + event['id']).encode()).hexdigest()[:24]}",
            "status": "FIRING",
            "kind": kind,
            "severity": "CRITICAL" if kind == "logging_disabled" else "INFORMATIONAL",
            "gap_id": gap["gap_id"],
            "incident_id": gap["incident_id"],
            "organization_id": self.id,
            "occurred_at": micros(event["created_at"]),
            "detected_at": appended_at,
            **{name: event[name] for name in _ACTOR},
            "evidence": evidence,
            "summary": f"organization {self.id}: {kind} by {event['actor_email']} at {event['created_at']}",
            "triage": _TRIAGE,
            "attack_ids": ["TA0112", "T1685.002"],
            "dedup_key": f"{kind}:{gap['incident_id']}",
        }


_ACTOR: Final = ("actor_type", "actor_id", "actor_email", "actor_ip", "actor_user_agent")
_TRIAGE: Final = ["Confirm who did it, and that it was meant.", "If not: switch it on again, and review the window."]


def _close(gap: dict[str, Any], event: dict[str, Any]) -> None:
    moment = micros(event["created_at"])
    gap |= {
        "state": "CLOSED",
        "closed_at": moment,
        "closed_at_earliest": moment,
        "duration_seconds": (moment - gap["opened_at"]) / 1_000_000,
        "closed_by_kind": "settings_event",
        "closed_by_id": event["id"],
        **{f"closed_{name}": event[name] for name in _ACTOR},
    }


def micros(when: datetime) -> int:
    """Turn a time into microseconds since the epoch."""
    return (when - _EPOCH) // _MICROSECOND


def _micros_of(header: bytes) -> int:
    return micros(datetime.fromisoformat(header.decode()))


_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)
