"""The topics and the group of one test, on a broker that other tests use as well."""

import json
import uuid
from collections.abc import Iterable, Sequence
from typing import Any

from confluent_kafka import Consumer, IsolationLevel, KafkaError, KafkaException, Message, TopicPartition
from confluent_kafka.admin import AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource, OffsetSpec, ResourceType
from tests.support.awaiting import until
from tests.support.feed import Publisher, Wire

from auditgap.adapters import avro, kafka
from auditgap.adapters.cloudevents import Headers
from auditgap.config import KafkaSettings, Settings, TopicSettings, WorkerSettings
from auditgap.core.inputs import Rejection
from auditgap.core.records import Alert, Emission, Gap, Status

WAIT = 15.0
"""Seconds that one request to the broker may take."""


class Site:
    """Unique topics and a unique group, made at once; what is on the topics, and where the group stands."""

    def __init__(self, bootstrap_servers: str, partitions: int = 4, **worker: Any) -> None:
        name = f"t{uuid.uuid4().hex[:12]}"
        self.kafka = bootstrap_servers
        self.settings = Settings(
            kafka=KafkaSettings(bootstrap_servers=bootstrap_servers),
            topics=TopicSettings(
                activity=f"{name}.activity",
                observation=f"{name}.observation",
                alert=f"{name}.alert",
                gap=f"{name}.gap",
                policy=f"{name}.policy",
                status=f"{name}.status",
                topology=f"{name}.topology",
                finding=f"{name}.finding",
                notification_dlq=f"{name}.notification.dlq",
                partitions=partitions,
            ),
            worker=WorkerSettings(
                **{
                    "group": name,
                    "instance_id": f"{name}-0",
                    "http_port": 0,
                    "session_timeout_seconds": 2,
                    "transaction_timeout_seconds": 5,
                    **worker,
                }
            ),
        )
        self.admin = AdminClient({"bootstrap.servers": bootstrap_servers, "log_level": 0})
        self._asked: Consumer | None = None
        self._publishers: dict[str, Publisher] = {}
        self.apply_topics()

    @property
    def activity(self) -> str:
        """Name of the input topic."""
        return self.settings.topics.activity

    @property
    def group(self) -> str:
        """Name of the worker's group."""
        return self.settings.worker.group

    @property
    def topics(self) -> list[str]:
        """Names of all topics."""
        return [spec.name for spec in kafka.topic_table(self.settings)]

    def _forget(self) -> None:
        """Let go of clients that know the topics as they were."""
        if self._asked is not None:
            self._asked.close()
        self._asked = None
        self._publishers.clear()

    def close(self) -> None:
        """Delete the topics: a broker that serves a whole suite should not carry them all."""
        self._forget()
        for future in self.admin.delete_topics(self.topics).values():
            try:
                future.result(WAIT)
            except KafkaException:
                continue  # the test deleted it

    # --- topics -------------------------------------------------------------------------------------------------------

    def apply_topics(self, partitions: int | None = None) -> None:
        """Create what is missing; with `partitions`, widen."""
        if partitions is not None:
            topics = self.settings.topics.model_copy(update={"partitions": partitions})
            self.settings = self.settings.model_copy(update={"topics": topics})
        kafka.apply_topics(self.settings, lambda _: None)
        self._forget()

        def known() -> bool:
            found = self.admin.list_topics(timeout=WAIT).topics
            return all(
                name in found and len(found[name].partitions) == self.settings.topics.partitions for name in self.topics
            )

        until(known, "the broker does not know the topics")

    def delete_topic(self, name: str) -> None:
        """Delete one topic, and see that it is gone."""
        self.admin.delete_topics([name])[name].result(WAIT)
        until(lambda: name not in self.admin.list_topics(timeout=WAIT).topics, f"{name} is still there")

    def configure(self, topic: str, **config: str | None) -> None:
        """Set a topic's configuration (dots as two underscores), or take a setting back with None."""
        entries = [
            ConfigEntry(
                name.replace("__", "."),
                value or "",
                incremental_operation=AlterConfigOpType.DELETE if value is None else AlterConfigOpType.SET,
            )
            for name, value in config.items()
        ]
        resource = ConfigResource(ResourceType.TOPIC, topic, incremental_configs=entries)
        self.admin.incremental_alter_configs([resource])[resource].result(WAIT)

    # --- records in ---------------------------------------------------------------------------------------------------

    def produce(self, wires: Iterable[Wire], partitioner: str = "murmur2_random", topic: str | None = None) -> None:
        """Publish records, activities if no topic is named; all are delivered on return."""
        if partitioner not in self._publishers:
            self._publishers[partitioner] = Publisher(self.kafka, partitioner)
        publisher = self._publishers[partitioner]
        publisher.send(topic or self.activity, wires)
        publisher.flush()

    # --- where the group stands ---------------------------------------------------------------------------------------

    def positions(self, topic: str | None = None) -> dict[int, int]:
        """Give the group's position in a topic (the activities) by partition; -1001 where it has none."""
        name = topic or self.activity
        parts = [TopicPartition(name, number) for number in range(self.settings.topics.partitions)]

        found: list[TopicPartition] = []

        def asked() -> bool:
            # Not by an AdminClient: librdkafka 2.16.0 crashes on an answer that a transaction is still open.
            try:
                found[:] = self._asking().committed(parts, timeout=WAIT)
            except KafkaException as exception:
                # A broker that has just begun is not yet the coordinator of every group.
                if exception.args[0].code() != KafkaError.NOT_COORDINATOR:
                    raise
            return bool(found)

        until(asked, "no broker is the group's coordinator")
        return {part.partition: part.offset for part in found}

    def _asking(self) -> Consumer:
        if self._asked is None:
            self._asked = Consumer({"bootstrap.servers": self.kafka, "group.id": self.group, "log_level": 0})
        return self._asked

    def ends(self, topic: str | None = None) -> dict[int, int]:
        """Give the end of a topic (the activities) by partition."""
        return {
            number: self._asking().get_watermark_offsets(TopicPartition(topic or self.activity, number), timeout=WAIT)[
                1
            ]
            for number in range(self.settings.topics.partitions)
        }

    def members(self) -> int:
        """Count the group's members; one that ended counts until its session times out."""
        return len(self.admin.describe_consumer_groups([self.group])[self.group].result(WAIT).members)

    def lag(self) -> int:
        """Count the offsets between the group's positions and the ends of its inputs, but for the ticks' mailbox."""
        topics = self.settings.topics
        return sum(
            end - max(positions.get(number, 0), 0)
            for topic in (topics.activity, topics.observation, topics.policy, topics.topology)
            for positions in (self.positions(topic),)
            for number, end in self.ends(topic).items()
        )

    def finished(self) -> bool:
        """Whether the group stands at the end of every partition."""
        return self.lag() == 0

    def mail_taken(self) -> bool:
        """Whether the group has taken in its whole mailbox but for ticks, which have no key, and never end."""
        box = self.settings.worker.mailbox
        positions = self.positions(box)
        return all(
            (message.offset() or 0) < positions[message.partition() or 0]
            for message in self.read(box)
            if message.key() is not None
        )

    # --- records out --------------------------------------------------------------------------------------------------

    def settled(self, topic: str) -> bool:
        """Whether no transaction is open on a topic: it would hide all that comes after its beginning."""
        parts = [TopicPartition(topic, number) for number in range(self.settings.topics.partitions)]
        ends = []
        for level in (IsolationLevel.READ_UNCOMMITTED, IsolationLevel.READ_COMMITTED):
            wanted = {part: OffsetSpec.latest() for part in parts}  # type: ignore[no-untyped-call]
            found = self.admin.list_offsets(wanted, isolation_level=level, request_timeout=WAIT)
            ends.append([found[part].result(WAIT).offset for part in parts])
        return ends[0] == ends[1]

    def read(self, topic: str) -> list[Message]:
        """Read every committed record of a topic."""
        until(lambda: self.settled(topic), f"a transaction stays open on {topic}")
        return list(kafka.read_committed(self.settings, topic))

    def alerts(self) -> list[Alert]:
        """Read every revision of every alert, oldest first in each partition."""
        found = [self._decoded(message, "alert") for message in self.read(self.settings.topics.alert)]
        return [each for each in found if isinstance(each, Alert)]

    def history(self) -> list[Gap]:
        """Read every revision of every gap, oldest first in each partition."""
        found = [self._decoded(message, "gap") for message in self.read(self.settings.topics.gap_history)]
        return [each for each in found if isinstance(each, Gap)]

    def gaps(self) -> dict[str, Gap]:
        """Read the compacted topic as a subscriber does: the last record of each key."""
        latest: dict[str, Gap] = {}
        for message in self.read(self.settings.topics.gap):
            gap = self._decoded(message, "gap")
            assert isinstance(gap, Gap)
            assert message.key() == gap.gap_id.encode()
            latest[gap.gap_id] = gap
        return latest

    def statuses(self) -> dict[str, Status]:
        """Read the latest status of each organization and feed."""
        found = [self._decoded(message, "status") for message in self.read(self.settings.topics.status)]
        return {each.subject: each for each in found if isinstance(each, Status)}

    def dead_letters(self, topic: str | None = None) -> list[Message]:
        """Read the dead letters of an input topic, the activities' if none is named."""
        return self.read(kafka.dead_letters_of(self.settings)[topic or self.activity])

    def _decoded(self, message: Message, name: str) -> Emission:
        found = avro.decode_emission(avro.SchemaIds.bundled(), message.value() or b"", name)
        assert not isinstance(found, Rejection), found
        return found


def headers(message: Message) -> Headers:
    """Give a record's headers, in their order."""
    return list(message.headers() or [])  # type: ignore[arg-type]  # its stub allows more forms than it returns


def reason(message: Message) -> str:
    """Give the reason a dead letter states."""
    return dict(headers(message))["auditgap_dlq_reason"].decode()


def shown(found: Sequence[Any]) -> str:
    """Write found records for a failure's message."""
    return json.dumps(found, indent=1, default=str)
