"""`auditgap publish`: feed files onto the activity topic, observations onto theirs, by an idempotent producer."""

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from types import TracebackType
from typing import Any, Final, Self

from confluent_kafka import KafkaError, KafkaException, Message, Producer
from confluent_kafka.admin import AdminClient

from auditgap import feedfiles
from auditgap.adapters import cloudevents, kafka, signing
from auditgap.adapters.avro import Encoder
from auditgap.bootstrap import schema_ids, signer
from auditgap.config import Settings
from auditgap.core.inputs import SETTINGS_TYPE, Activity, Rejection, key_of, read_activity, read_settings
from auditgap.core.observations import Observation, read_observation
from auditgap.errors import BrokerError

Tell = Callable[[str], None]

_ANSWER_SECONDS: Final = 10.0
"""How long the cluster has to say what the topic is, before anything is read."""

_DELIVERY_SECONDS: Final = 120.0
"""How long a record may wait for a broker that went away, before it counts as not delivered."""

_RECORD_BYTES: Final = 2_097_152
"""The topic's `max.message.bytes`: what is larger is refused here, with its line."""

_LARGE: Final = 512 * 1024
"""From here on a record's line is kept until it is delivered, as the broker may still find it too large."""


@dataclass(slots=True)
class Counts:
    """What became of the records."""

    published: int = 0
    refused: int = 0
    unreadable_settings: int = 0
    undelivered: int = 0
    reasons: Counter[str] = field(default_factory=Counter)

    @property
    def exit_status(self) -> int:
        """0 if everything was understood and delivered."""
        return int(bool(self.refused or self.unreadable_settings or self.undelivered))

    def __str__(self) -> str:
        parts = [f"published {self.published:,}"]
        if self.refused:
            parts.append(f"refused {self.refused:,}")
        if self.unreadable_settings:
            parts.append(f"settings events that cannot be understood {self.unreadable_settings:,} (published)")
        if self.undelivered:
            parts.append(f"not delivered {self.undelivered:,}")
        return " · ".join(parts)


class Publisher:
    """Publishes `activities`, `observations` or both; leaving the context waits for delivery.

    Raises BrokerError at construction where a topic is not there, UsageError for a wrong key file. With a key, settings
    events and observations are signed: of ordinary records a worker never looks at more than the headers.

    One delivery report in a thousand matters, so only failures are reported (`delivery.report.only.error`).
    """

    def __init__(self, settings: Settings, tell: Tell, *, activities: bool = True, observations: bool = False) -> None:
        self.counts = Counts()
        self._tell = tell
        self._told_down = False
        self._topic = settings.topics.activity
        self._observation_topic = settings.topics.observation
        self._settings, self._servers = settings, settings.kafka.bootstrap_servers
        config = kafka.client_config(settings.kafka)
        self._signer = signer(settings)
        self._find_topics(
            config,
            {"ACTIVITY": self._topic} if activities else {},
            {"OBSERVATION": self._observation_topic} if observations else {},
        )
        self._encoder = Encoder(schema_ids(settings))
        self._producer = Producer(
            {
                **config,
                "enable.idempotence": True,
                "partitioner": kafka.PARTITIONER,
                "linger.ms": 20,
                "batch.size": 1_000_000,
                "compression.type": "lz4",
                "message.max.bytes": _RECORD_BYTES,
                "queue.buffering.max.messages": 200_000,
                "queue.buffering.max.kbytes": 131_072,
                "delivery.timeout.ms": int(_DELIVERY_SECONDS * 1000),
                "delivery.report.only.error": True,
                "on_delivery": self._failed,
                "error_cb": self._trouble,
            }
        )
        self._produce = self._producer.produce

    def _find_topics(self, config: dict[str, Any], *wanted: dict[str, str]) -> None:
        topics = {name: topic for each in wanted for name, topic in each.items()}
        with kafka.translated(f"cannot publish to {' and '.join(topics.values())}", self._settings.kafka):
            known = AdminClient(config).list_topics(timeout=_ANSWER_SECONDS).topics
        for name, topic in topics.items():
            if topic not in known:
                secured = self._settings.kafka.security_protocol.startswith("SASL")
                hidden = "; or the broker's ACLs hide it: docs/security.md lists what is needed" if secured else ""
                raise BrokerError(
                    f"Kafka at {self._servers} has no topic {topic}: run `auditgap topics apply` "
                    f"(or set AUDITGAP_TOPICS__{name}){hidden}"
                )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None) -> None:
        if kind is None:
            self.flush()
        else:
            self._producer.purge()

    def file(self, name: str, source: feedfiles.Source, feed_id: str | None) -> None:
        """Publish everything in a feed file; what cannot be read is told by line."""
        self.found(name, feedfiles.read(source), feed_id)

    def found(self, name: str, found: Iterable[feedfiles.Found], feed_id: str | None) -> None:
        """Publish what was found in a file. This loop decides how fast publishing is."""
        poll, send = self._producer.poll, self.send
        for number, (line, item, raw, record) in enumerate(found):
            if not number & 1023:
                poll(0)
            activity = record if isinstance(record, Rejection) else read_activity(record, raw, feed_id)
            if isinstance(activity, Rejection):
                self._refuse(f"{name}: {feedfiles.where(line, item)}: {activity.detail}", activity.reason)
                continue
            if activity.type == SETTINGS_TYPE and isinstance(fault := read_settings(activity), Rejection):
                self.counts.unreadable_settings += 1
                self._tell(
                    f"{name}: {feedfiles.where(line, item)}: a settings event that cannot be understood "
                    f"({fault.detail}): published, the worker raises the alarm"
                )
            try:
                send(activity, (name, line, item) if len(raw) > _LARGE else None)
            except KafkaException as exception:
                self._not_taken(exception, f"{name}: {feedfiles.where(line, item)}", len(raw))

    def observed(self, name: str, source: feedfiles.Source) -> None:
        """Publish every observation in a file; what cannot be read is told by line."""
        for line, item, raw, record in feedfiles.read(source):
            seen = record if isinstance(record, Rejection) else read_observation(record)
            if isinstance(seen, Rejection):
                self._refuse(f"{name}: {feedfiles.where(line, item)}: {seen.detail}", seen.reason)
                continue
            try:
                self.observe(seen, (name, line, item) if len(raw) > _LARGE else None)
            except KafkaException as exception:
                self._not_taken(exception, f"{name}: {feedfiles.where(line, item)}", len(raw))

    def _not_taken(self, exception: KafkaException, where: str, length: int) -> None:
        if exception.args[0].code() != KafkaError.MSG_SIZE_TOO_LARGE:
            raise BrokerError(f"Kafka at {self._servers}: cannot publish: {kafka.explain(exception.args[0])}") from None
        size = f"{length:,} characters, the topic takes {_RECORD_BYTES:,} bytes"
        self._refuse(f"{where}: the record is too large ({size})", "too_large")

    def send(self, activity: Activity, place: tuple[str, int, int] | None = None) -> None:
        """Hand one activity to the producer. Raises KafkaException where the producer refuses it."""
        subject, value, headers = activity.subject, self._encoder.activity(activity), cloudevents.of_activity(activity)
        if self._signer is not None and activity.type == SETTINGS_TYPE:
            headers += self._signer.headers(subject, value, signing.ACTIVITY)
        self._put(self._topic, value, key_of(subject).encode(), headers, place)

    def observe(self, seen: Observation, place: tuple[str, int, int] | None = None) -> None:
        """Hand one observation to the producer. Raises KafkaException where the producer refuses it."""
        subject, value, headers = seen.subject, self._encoder.observation(seen), cloudevents.of_observation(seen)
        if self._signer is not None:
            headers += self._signer.headers(subject, value, signing.OBSERVATION)
        self._put(self._observation_topic, value, key_of(subject).encode(), headers, place)

    def _put(
        self, topic: str, value: bytes, key: bytes, headers: cloudevents.Headers, place: tuple[str, int, int] | None
    ) -> None:
        report = None if place is None else partial(self._failed_at, place)
        while True:
            try:
                self._produce(topic, value, key, headers=headers, on_delivery=report)  # type: ignore[arg-type]
            except BufferError:
                self._producer.poll(0.1)
            else:
                self.counts.published += 1
                return

    def flush(self) -> None:
        """Wait until all is delivered, or given up."""
        while self._producer.flush(1.0):
            pass

    def _refuse(self, message: str, reason: str) -> None:
        self.counts.refused += 1
        self.counts.reasons[reason] += 1
        self._tell(message)

    def _failed_at(self, place: tuple[str, int, int], error: KafkaError | None, message: Message) -> None:
        if error is not None:
            name, line, item = place
            self._undelivered(f"{name}: {feedfiles.where(line, item)}: not delivered: {kafka.explain(error)}")
        del message

    def _failed(self, error: KafkaError | None, message: Message) -> None:
        if error is not None:
            self._undelivered(f"not delivered: a record of {(message.key() or b'').decode()!r}: {kafka.explain(error)}")

    def _trouble(self, error: KafkaError) -> None:
        if error.code() == KafkaError._ALL_BROKERS_DOWN and not self._told_down:  # noqa: SLF001 - a name of librdkafka
            self._told_down = True
            self._tell(
                f"auditgap: Kafka at {self._servers} does not answer any more; what is not delivered within "
                f"{_DELIVERY_SECONDS:.0f} s is given up"
            )

    def _undelivered(self, text: str) -> None:
        self.counts.published -= 1
        self.counts.undelivered += 1
        # A broker that is gone fails them all: one line says so, the count says how many.
        if self.counts.undelivered <= _TOLD:
            self._tell(text)


_TOLD: Final = 10
