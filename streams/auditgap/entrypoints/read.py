"""`auditgap gaps`, `auditgap alerts` and `auditgap status`: the output topics, read as any subscriber would."""

from collections.abc import Callable, Iterator

from auditgap.adapters import avro, kafka
from auditgap.bootstrap import schema_ids
from auditgap.config import Settings
from auditgap.core.inputs import Rejection
from auditgap.core.records import Alert, Emission, Gap, Status
from auditgap.entrypoints.show import by_opening

Tell = Callable[[str], None]


class Reader:
    """Reads gaps, alerts and statuses; `unreadable` counts what is none, each told on a line of its own."""

    def __init__(self, settings: Settings, tell: Tell) -> None:
        self.unreadable = 0
        self._settings = settings
        self._tell = tell
        self._ids = schema_ids(settings)

    def revisions(self, organization: str | None = None) -> list[Gap]:
        """Give every revision of every gap, in the order in which they were made. Raises BrokerError."""
        history = self._settings.topics.gap_history
        gaps = [gap for gap in self._gaps(history) if organization in (None, gap.organization_id)]
        return sorted(gaps, key=lambda gap: (gap.produced_at, gap.organization_id or "", gap.history_sequence))

    def latest(self, organization: str | None = None) -> list[Gap]:
        """Give the latest revision of each gap, by opening. Raises BrokerError."""
        latest: dict[str, Gap] = {}
        for gap in self._gaps(self._settings.topics.gap):
            known = latest.get(gap.gap_id)
            if organization in (None, gap.organization_id) and (known is None or gap.revision >= known.revision):
                latest[gap.gap_id] = gap
        return sorted(latest.values(), key=by_opening)

    def alerts(self) -> list[Alert]:
        """Give every revision of every alert, in the order in which they were made. Raises BrokerError."""
        return sorted(self._alerts(follow=False), key=lambda alert: (alert.produced_at, alert.alert_id, alert.revision))

    def follow_alerts(self) -> Iterator[Alert]:
        """Give the alerts there are, then those to come, for ever. Raises BrokerError."""
        return self._alerts(follow=True)

    def statuses(self, organization: str | None = None) -> list[Status]:
        """Give the latest status of each organization and feed, NO first, YES last. Raises BrokerError."""
        latest: dict[str, Status] = {}
        for status in self._records(self._settings.topics.status, "status", follow=False):
            if isinstance(status, Status) and organization in (None, status.organization_id):
                known = latest.get(status.subject)
                if known is None or status.revision >= known.revision:
                    latest[status.subject] = status
        return sorted(latest.values(), key=lambda each: (each.audited, each.subject))

    def _gaps(self, topic: str) -> Iterator[Gap]:
        for gap in self._records(topic, "gap", follow=False):
            if isinstance(gap, Gap):
                yield gap

    def _alerts(self, *, follow: bool) -> Iterator[Alert]:
        for alert in self._records(self._settings.topics.alert, "alert", follow=follow):
            if isinstance(alert, Alert):
                yield alert

    def _records(self, topic: str, name: str, *, follow: bool) -> Iterator[Emission]:
        for message in kafka.read_committed(self._settings, topic, follow=follow):
            try:
                record = avro.decode_emission(self._ids, message.value() or b"", name)
            except (KeyError, TypeError, ValueError) as error:
                # It is Avro, but of a newer version in which a field means more.
                record = Rejection("not_avro", f"{type(error).__name__}: {error}")
            if isinstance(record, Rejection):
                self.unreadable += 1
                place = f"{topic}, partition {message.partition()}, offset {message.offset()}"
                self._tell(f"auditgap: {place} is no {name} and was left out: {record.detail}")
            else:
                yield record
