"""Which revisions of alerts people are told of, and by which route. Pure: what was told follows from the alerts before.

A book of what was told is therefore never stored: it is made again from the alert topic.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from auditgap.core.alertbook import AlertBook
from auditgap.core.inputs import Activity, Rejection, is_settings, read_settings
from auditgap.core.records import Alert, Severity

CANARY_PREFIX: Final = "auditgap-canary"
"""Organizations whose id begins so are synthetic: nobody is ever paged for them."""

NEW: Final = "new"
FIRING_AGAIN: Final = "firing_again"
SEVERITY_RAISED: Final = "severity_raised"
AUTHORISATION_CHANGED: Final = "authorisation_changed"
RESOLVED: Final = "resolved"
WITHDRAWN: Final = "withdrawn"

REASONS: Final = {
    NEW: "the first revision of an alert that people are told of",
    FIRING_AGAIN: "it was resolved or withdrawn, and fires again",
    SEVERITY_RAISED: "it is worse than it was at any time since it began to fire",
    AUTHORISATION_CHANGED: "who did it is listed in the policy now, or is not any more, or a change window covers it",
    RESOLVED: "it fired, and is over",
    WITHDRAWN: "it fired, and did not happen",
}
"""Why people are told of a revision. Every other revision changes details only: records have them."""

_FIRING: Final = "FIRING"
_OVER: Final = {"RESOLVED": RESOLVED, "WITHDRAWN": WITHDRAWN}


@dataclass(frozen=True, slots=True)
class Told:
    """What people know of an alert: its latest state, and the worst it was since it began to fire."""

    revision: int
    status: str
    worst: Severity
    authority: str


@dataclass(frozen=True, slots=True)
class Notice:
    """One thing to tell. `severity` is what routes look at: the worst of what was told, so that an end follows."""

    alert: Alert
    reason: str
    severity: Severity

    @property
    def id(self) -> str:
        """Its id: the same whenever this is delivered again."""
        return f"{self.alert.alert_id}/{self.alert.revision}"


class NoticeBook:
    """What was told of each alert of a partition."""

    def __init__(self) -> None:
        self._told: dict[str, Told] = {}

    def take(self, alert: Alert) -> Notice | None:
        """Take in the next revision; gives what to tell of it, None where there is nothing. A repeat gives None."""
        if alert.historical or is_synthetic(alert):
            return None
        before = self._told.get(alert.alert_id)
        if before is not None and alert.revision <= before.revision:
            return None
        reason = _reason(before, alert)
        again = before is None or reason in (NEW, FIRING_AGAIN)
        worst = alert.severity if again or before is None else max(before.worst, alert.severity)
        self._told[alert.alert_id] = Told(alert.revision, alert.status, worst, authority_of(alert))
        return None if reason is None else Notice(alert, reason, worst)


def still_firing(alerts: Iterable[Alert]) -> list[Alert]:
    """Give the latest revision of those alerts that are not over, in their order: what a new subscriber has to know."""
    latest: dict[str, Alert] = {}
    for alert in alerts:
        before = latest.get(alert.alert_id)
        if before is None or alert.revision > before.revision:
            latest.pop(alert.alert_id, None)
            latest[alert.alert_id] = alert
    return [alert for alert in latest.values() if alert.status == _FIRING]


def is_synthetic(alert: Alert) -> bool:
    """Whether an alert is about an organization that does not exist."""
    return (alert.organization_id or "").startswith(CANARY_PREFIX)


def heartbeat(activity: Activity, subject: str, append_time: int, produced_at: int) -> tuple[Alert, ...] | None:
    """Give what follows from a switch of a synthetic organization, None where the record is none.

    An off gives an alert, an on nothing. Nothing of it is kept: beats never end, and what is kept of a switch is kept
    for good. A repeat therefore gives the same revision again.
    """
    if not subject.startswith(CANARY_PREFIX) or not is_settings(activity) or not activity.id:
        return None
    if activity.created_at is None or isinstance(read_settings(activity), Rejection):
        return None
    if False not in (activity.api_enabled, activity.logging_enabled):
        return ()
    book = AlertBook(subject)
    alert = book.write(
        "logging_disabled",
        (activity.id,),
        append_time,
        occurred_at=activity.created_at,
        actor=activity.actor,
        feed_id=activity.feed_id,
        evidence=(activity.id,),
        resolved=True,
        severity=Severity.INFORMATIONAL,
        summary=f"{book.name}: a heartbeat; this organization does not exist",
    )
    return (book.record(alert, produced_at),)


def authority_of(alert: Alert) -> str:
    """Read what an alert's sentence says of the policy; empty where it says nothing. See gap_alerts."""
    return "; ".join(_AUTHORITY.findall(alert.summary))


_AUTHORITY: Final = re.compile(r"(?<=; )(?:not listed in the policy|listed in the policy|in change window [^;]+)(?=; )")


def _reason(before: Told | None, alert: Alert) -> str | None:
    """Say why people are told of a revision; None where they need not be."""
    if before is None:
        return None if alert.status == "WITHDRAWN" else NEW
    if alert.status != before.status:
        return _OVER.get(alert.status, FIRING_AGAIN) if _FIRING in (alert.status, before.status) else None
    if alert.severity > before.worst:
        return SEVERITY_RAISED
    if authority_of(alert) != before.authority:
        return AUTHORISATION_CHANGED
    return None


@dataclass(frozen=True, slots=True)
class Rule:
    """Which notices take a route: from a severity on, of some subjects only, or of all (None)."""

    severity: Severity
    subjects: frozenset[str] | None = None

    def matches(self, notice: Notice) -> bool:
        """Whether a notice takes the route."""
        return notice.severity >= self.severity and (self.subjects is None or notice.alert.subject in self.subjects)


def title_of(notice: Notice) -> str:
    """Write what a pager shows first."""
    alert = notice.alert
    what = "" if notice.reason == NEW else f" ({notice.reason.replace('_', ' ')})"
    return f"[{alert.severity.name}] {alert.kind} {alert.status.lower()}{what}: {alert.subject}"


def text_of(notice: Notice) -> str:
    """Write what happened, what to do, and the keys by which it is recognised."""
    alert = notice.alert
    steps = [f"{number}. {step}" for number, step in enumerate(alert.triage, 1)]
    keys = [("gap", alert.gap_id), ("incident", alert.incident_id), ("dedup key", alert.dedup_key), ("id", notice.id)]
    return "\n".join([alert.summary, "", *steps, *([""] if steps else []), *(f"{k}: {v}" for k, v in keys if v)])
