"""A gap as an OCSF Detection Finding, for SIEMs that read the Open Cybersecurity Schema Framework.

| gap | activity | status |
|---|---|---|
| OPEN, first revision | 1 Create | 1 New |
| OPEN, later revision | 2 Update | 1 New |
| CLOSED | 3 Close | 4 Resolved |
| RETRACTED | 3 Close | 3 Suppressed: it turned out to be no gap |
| SUPERSEDED | 2 Update (3 Close where no gap took its place) | 99 Other |

Create, update and close carry one `finding_info.uid`, the incident. Class, attributes and numbers are those of
schema.ocsf.io/1.6.0/classes/detection_finding; nothing used here was renamed or removed up to 1.8.0. An attribute that
is not known is left out: the schema has no nulls.
"""

import re
from collections.abc import Iterable
from ipaddress import ip_address
from typing import Any, Final

from auditgap.core.alerts import ATTACK_IDS
from auditgap.core.records import Gap, Severity, as_dict, as_json

VERSION: Final = "1.6.0"
"""The schema version that is written: the oldest that readers in use ask for has all that is needed."""

CLASS_UID: Final = 2004
PROFILES: Final[tuple[str, ...]] = ()
"""Optional parts of the schema that are used: none."""

_ACTIVITIES: Final = {1: "Create", 2: "Update", 3: "Close"}
_STATUSES: Final = {1: "New", 3: "Suppressed", 4: "Resolved"}
_OTHER: Final = 99

_SEVERITIES: Final = {
    Severity.UNKNOWN: (0, "Unknown"),
    Severity.INFORMATIONAL: (1, "Informational"),
    Severity.LOW: (2, "Low"),
    Severity.MEDIUM: (3, "Medium"),
    Severity.HIGH: (4, "High"),
    Severity.CRITICAL: (5, "Critical"),
}

_CAUSES: Final = {
    "LOGGING_DISABLED": "recording of activities switched off",
    "API_DISABLED": "Compliance API switched off",
    "BOTH_DISABLED": "Compliance API and recording of activities switched off",
    "FEED_BLOCKED": "feed blocked",
    "CANARY_MISSING": "calls are answered but not recorded",
}

_USER_TYPES: Final = {
    "user_actor": (1, "User"),
    "unauthenticated_user_actor": (1, "User"),
    "anthropic_actor": (3, "System"),
    "system_actor": (3, "System"),
    "scim_directory_sync_actor": (3, "System"),
    "api_actor": (4, "Service"),
    "admin_api_key_actor": (4, "Service"),
    "service_account_actor": (4, "Service"),
    "federated_actor": (4, "Service"),
    "federated_identity_actor": (4, "Service"),
}

_EMAIL: Final = re.compile(r"[a-zA-Z0-9!#$%&'*+\-/=?^_`{|}~.]+@[a-zA-Z0-9-]+\.[a-zA-Z0-9.-]+")
"""What the schema takes for an e-mail address."""

_MAPPED: Final = frozenset(
    {
        "incident_id",
        "produced_at",
        "first_evidence_at",
        "opened_by_kind",
        "opened_by_id",
        "closed_by_kind",
        "closed_by_id",
        "last_activity_id",
        "last_activity_at",
        "first_activity_id",
        "first_activity_at",
        *(
            f"{side}_actor_{name}"
            for side in ("opened", "closed")
            for name in ("type", "id", "email", "ip", "user_agent")
        ),
    }
)
"""Fields of a gap that are whole in an attribute of the schema; the others go under `unmapped`."""


def finding_of(gap: Gap, product_version: str | None = None) -> dict[str, Any]:
    """Write one revision of a gap as a Detection Finding, ready for JSON. Times are milliseconds."""
    activity_id = _activity_of(gap)
    status_id, status = _status_of(gap)
    severity_id, severity = _SEVERITIES[_severity_of(gap)]
    unmapped = {name: value for name, value in as_dict(gap).items() if value is not None and name not in _MAPPED}
    subject = gap.organization_id or gap.parent_id or gap.feed_id or "default"
    what = _CAUSES.get(gap.cause, gap.cause)
    title = f"Audit feed off: {what}"
    return _known(
        activity_id=activity_id,
        activity_name=_ACTIVITIES[activity_id],
        category_uid=2,
        category_name="Findings",
        class_uid=CLASS_UID,
        class_name="Detection Finding",
        type_uid=CLASS_UID * 100 + activity_id,
        type_name=f"Detection Finding: {_ACTIVITIES[activity_id]}",
        time=_start(gap.produced_at),
        start_time=_start(gap.opened_at),
        end_time=_end(gap.closed_at),
        duration=None if gap.duration_seconds is None else round(gap.duration_seconds * 1000),
        severity_id=severity_id,
        severity=severity,
        confidence_id=3 if gap.confidence == "CONFIRMED" else 2,
        confidence="High" if gap.confidence == "CONFIRMED" else "Medium",
        status_id=status_id,
        status=status,
        status_detail=gap.state if gap.superseded_by is None else f"{gap.state} by {gap.superseded_by}",
        # That of the parent or feed speaks for all its members.
        is_alert=gap.state in {"OPEN", "CLOSED"} and gap.inherited_from is None,
        message=f"{title}; {subject}, {gap.state.lower()}",
        finding_info=_known(
            uid=gap.incident_id,
            title=title,
            types=[gap.cause],
            created_time=_start(gap.first_evidence_at),
            modified_time=_start(gap.produced_at),
            data_sources=["Anthropic Compliance API activity feed"],
            analytic={"type_id": 1, "type": "Rule", "name": "audit feed off", "uid": "auditgap"},
            attacks=_ATTACKS,
        ),
        metadata=_known(
            version=VERSION,
            profiles=list(PROFILES),
            product=_known(name="auditgap", vendor_name="auditgap", version=product_version),
            uid=f"{gap.gap_id}:{gap.revision}",
            correlation_uid=gap.incident_id,
            log_name="compliance.gap",
            tenant_uid=gap.organization_id,
        ),
        resources=[{"uid": subject, "type": "organization" if gap.organization_id is not None else "feed"}],
        evidences=_evidences(gap) or None,
        unmapped=as_json(unmapped),
    )


def attacks_of(ids: Iterable[str]) -> list[dict[str, Any]]:
    """Write ATT&CK ids, each tactic before its techniques, as attacks; a technique whose part is named is not apart."""
    attacks: list[dict[str, Any]] = []
    names = list(ids)
    tactic = None
    for name in names:
        if name.startswith("TA"):
            tactic = {"uid": name}
        elif not any(other.startswith(f"{name}.") for other in names):
            technique, dot, _ = name.partition(".")
            attack = _known(tactic=tactic, technique={"uid": technique}, sub_technique={"uid": name} if dot else None)
            attacks.append(attack)
    return attacks


def _activity_of(gap: Gap) -> int:
    if gap.state in {"CLOSED", "RETRACTED"} or (gap.state == "SUPERSEDED" and gap.superseded_by is None):
        return 3
    return 1 if gap.revision <= 1 and gap.state == "OPEN" else 2


def _status_of(gap: Gap) -> tuple[int, str]:
    status_id = {"OPEN": 1, "CLOSED": 4, "RETRACTED": 3}.get(gap.state, _OTHER)
    return status_id, _STATUSES.get(status_id, gap.state.capitalize())


def _severity_of(gap: Gap) -> Severity:
    if gap.state in {"RETRACTED", "SUPERSEDED"}:
        return Severity.INFORMATIONAL
    planned = gap.authorised_at_open == "LISTED" and gap.change_window_id is not None
    return Severity.HIGH if planned or gap.confidence != "CONFIRMED" else Severity.CRITICAL


def _evidences(gap: Gap) -> list[dict[str, Any]]:
    evidences = []
    for side in ("opened", "closed"):
        kind, uid = getattr(gap, f"{side}_by_kind"), getattr(gap, f"{side}_by_id")
        actor_type, actor_id, email, ip, user_agent = (
            getattr(gap, f"{side}_actor_{name}") for name in ("type", "id", "email", "ip", "user_agent")
        )
        if kind is None and uid is None:
            continue
        evidences.append(
            _known(
                name=f"{side} by",
                uid=uid,
                data=_known(kind=kind, id=uid, actor_type=actor_type, actor_email=email, actor_ip=ip),
                actor=_actor(actor_type, actor_id, email),
                src_endpoint=_endpoint(ip),
                http_request=None if user_agent is None else {"user_agent": user_agent},
            )
        )
    for name, uid, at in (
        ("last activity before", gap.last_activity_id, gap.last_activity_at),
        ("first activity after", gap.first_activity_id, gap.first_activity_at),
    ):
        if uid is not None:
            evidences.append({"name": name, "uid": uid, "data": _known(id=uid, time=_start(at))})
    return evidences


def _actor(actor_type: str | None, actor_id: str | None, email: str | None) -> dict[str, Any] | None:
    name = email if email is not None else actor_id
    if name is None:
        return None if actor_type is None else {"app_name": actor_type}
    type_id, type_name = _USER_TYPES.get(actor_type or "", (0 if actor_type is None else _OTHER, actor_type))
    known_email = email if email is not None and _EMAIL.fullmatch(email) else None
    return {"user": _known(uid=actor_id, name=name, email_addr=known_email, type_id=type_id, type=type_name)}


def _endpoint(ip: str | None) -> dict[str, Any] | None:
    """Write an address; None where the text is not one, which then stands in the evidence's data only."""
    try:
        return None if ip is None or "%" in ip else {"ip": str(ip_address(ip))}
    except ValueError:
        return None


def _start(micros: int | None) -> int | None:
    return None if micros is None else micros // 1000


def _end(micros: int | None) -> int | None:
    """Round up, so that the window stays inside its bounds."""
    return None if micros is None else -(-micros // 1000)


def _known(**values: Any) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


_ATTACKS: Final = attacks_of(ATTACK_IDS)
