"""The alerts of one subject: the latest revision of each, and how a new one comes about.

An alert has an id made of its kind, its subject and what it is about. Said again and unchanged it is no news; else it
is the next revision.
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import Final

from auditgap.core import times
from auditgap.core.alerts import KINDS
from auditgap.core.inputs import Actor, feed_of, name_of, organization_of, parent_of
from auditgap.core.records import Alert, Gap, Severity, identifier

HISTORICAL_AFTER: Final = 7 * 24 * 3600 * times.SECOND
"""An "off" or "on" heard of later than this is history being imported, nothing to page for: outages are shorter.

Age alone decides. A window that is already closed when it is first heard of is news all the same: while the API is
off the "off" itself may be readable only after it is on again, and which of the two is read first is chance.
"""


class AlertBook:
    """See the module. `alerts` is by id; `touched` names those that were recorded since they were last persisted."""

    __slots__ = ("alerts", "subject", "touched")

    def __init__(self, subject: str) -> None:
        self.subject = subject
        self.alerts: dict[str, Alert] = {}
        self.touched: set[str] = set()

    @property
    def name(self) -> str:
        """The subject in a sentence."""
        return name_of(self.subject)

    def id_of(self, kind: str, *identity: str) -> str:
        """Name the alert of a kind that is about that."""
        return identifier("alert", kind, self.subject, *identity)

    def write(  # noqa: PLR0913 - they are the fields of an alert
        self,
        kind: str,
        identity: tuple[str, ...],
        detected_at: int,
        *,
        occurred_at: int | None,
        actor: Actor,
        feed_id: str | None,
        evidence: tuple[str, ...],
        summary: str,
        gap: Gap | None = None,
        resolved: bool = False,
        severity: Severity | None = None,
    ) -> Alert:
        """Write an alert with the stamps of its latest revision, if it has one: unchanged, the two are equal."""
        row = KINDS[kind]
        alert_id = self.id_of(kind, *identity)
        before = self.alerts.get(alert_id)
        happened = gap.opened_at_latest if gap is not None and occurred_at is None else occurred_at
        late = gap is not None and happened is not None and detected_at - happened > HISTORICAL_AFTER
        return Alert(
            alert_id=alert_id,
            revision=before.revision if before else 0,
            status="RESOLVED" if resolved else "FIRING",
            kind=kind,
            severity=row.severity if severity is None else severity,
            gap_id=gap.gap_id if gap else None,
            incident_id=gap.incident_id if gap else None,
            organization_id=organization_of(self.subject),
            feed_id=feed_id or feed_of(self.subject),
            parent_id=parent_of(self.subject),
            occurred_at=occurred_at,
            detected_at=detected_at,
            produced_at=before.produced_at if before else 0,
            # What was current when first computed stays so: it was paged for.
            historical=before.historical if before else late,
            actor_type=actor.type,
            actor_id=actor.id,
            actor_email=actor.email,
            actor_ip=actor.ip,
            actor_user_agent=actor.user_agent,
            evidence=evidence,
            summary=summary,
            triage=row.triage,
            attack_ids=row.attack_ids,
            dedup_key=f"{kind}:{gap.incident_id if gap else self.subject}",
        )

    def derive(  # noqa: PLR0913 - they are the fields of an alert
        self,
        kind: str,
        identity: tuple[str, ...],
        produced_at: int,
        *,
        gap: Gap,
        detected_at: int,
        occurred_at: int | None,
        actor: Actor,
        evidence: tuple[str, ...],
        sentence: str,
        severity: Severity | None = None,
        resolved: bool = False,
    ) -> list[Alert]:
        """Publish an alert about a gap that follows from more than the gap, if it is new or says something else.

        `severity` is given where it is not that of its kind. Raises KeyError for a kind that is not in the table.
        """
        alert = self.write(
            kind,
            identity,
            detected_at,
            occurred_at=occurred_at,
            actor=actor,
            feed_id=gap.feed_id,
            evidence=evidence,
            gap=gap,
            severity=severity,
            resolved=resolved,
            summary=f"{self.name}: {sentence}",
        )
        return list(self.tell(alert, produced_at))

    def tell(self, alert: Alert, produced_at: int) -> Iterator[Alert]:
        """Publish an alert if it is new or says something else than before."""
        if alert != self.alerts.get(alert.alert_id):
            yield self.record(alert, produced_at)

    def tell_once(self, alert: Alert, produced_at: int) -> list[Alert]:
        """Publish an alert if it is new."""
        return [] if alert.alert_id in self.alerts else [self.record(alert, produced_at)]

    def standing(self, kind: str, *identity: str) -> Alert | None:
        """Find the latest revision of an alert; None where it was never published, or was taken back."""
        alert = self.alerts.get(self.id_of(kind, *identity))
        return None if alert is None or alert.status == "WITHDRAWN" else alert

    def withdraw(self, kind: str, *identity: str, produced_at: int) -> list[Alert]:
        """Take back an alert, where it stands."""
        standing = self.standing(kind, *identity)
        return [] if standing is None else [self.record(replace(standing, status="WITHDRAWN"), produced_at)]

    def resolve(self, alert_id: str, produced_at: int) -> list[Alert]:
        """Say that what an alert told is over, if it was told."""
        known = self.alerts.get(alert_id)
        if known is None or known.status != "FIRING":
            return []
        return [self.record(replace(known, status="RESOLVED"), produced_at)]

    def told_at(self, now: int, kind: str, *identity: str) -> int:
        """Give when an alert was first raised: now, if it was not yet."""
        before = self.alerts.get(self.id_of(kind, *identity))
        return now if before is None else before.detected_at

    def record(self, alert: Alert, produced_at: int) -> Alert:
        """Number the revision of an alert, `alert.revision` being the one before it."""
        alert = replace(alert, revision=alert.revision + 1, produced_at=produced_at)
        self.alerts[alert.alert_id] = alert
        self.touched.add(alert.alert_id)
        return alert
