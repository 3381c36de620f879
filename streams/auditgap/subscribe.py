"""For subscribers: alerts, gaps and statuses as typed records, committed ones only, each group with a place of its own.

    from auditgap import subscribe

    with subscribe.alerts("my-pager") as feed:
        for alert in feed:
            page(alert)          # whatever it takes
            feed.checkpoint()    # never given to this group again

Kafka's address and all else are settings in the environment (`AUDITGAP_KAFKA__BOOTSTRAP_SERVERS`, …), or those given.
`async for` works the same way. What was given but not checkpointed when a program ended is given again: at least once,
and by `alert_id`, `gap_id` or subject with `revision` it is recognised. The members of a group share the partitions.
"""

import asyncio
from collections.abc import AsyncIterator, Iterator
from types import TracebackType
from typing import Final, Generic, Self, TypeVar, cast

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from auditgap import bootstrap, config
from auditgap.adapters import avro, kafka
from auditgap.config import Settings
from auditgap.core.inputs import Rejection
from auditgap.core.records import Alert, Emission, Gap, Status
from auditgap.errors import BrokerError

__all__ = ["Alert", "Gap", "Status", "Subscription", "UnreadableError", "alerts", "gaps", "history", "statuses"]

Record = TypeVar("Record", Alert, Gap, Status)

_POLL_SECONDS: Final = 0.5


class UnreadableError(ValueError):
    """A record that this version cannot read. Asking for the next one goes on behind it; so does a checkpoint."""


class Subscription(Generic[Record]):
    """An endless, ordered sequence of records of one topic: per organization in the order in which they were made.

    Iterating raises BrokerError where Kafka refuses (not where it is merely away: then it waits), and UnreadableError
    for one record. Not for use by several threads at once.

    `latest` is the message of the record that was given last, or that could not be read; `taken_away` counts how often
    partitions were.
    """

    def __init__(
        self, topic: str, name: str, group: str, settings: Settings, *, instance_id: str | None, new_only: bool
    ) -> None:
        self._topic, self._name, self._settings = topic, name, settings
        self._ids = bootstrap.schema_ids(settings)
        self._given: dict[int, int] = {}
        self.latest: Message | None = None
        self.taken_away = 0
        with kafka.translated(f"cannot subscribe to {topic}", settings.kafka):
            self._consumer = Consumer(
                {
                    **kafka.client_config(settings.kafka),
                    "group.id": group,
                    **({} if instance_id is None else {"group.instance.id": instance_id}),
                    "enable.auto.commit": False,
                    "isolation.level": "read_committed",
                    "auto.offset.reset": "latest" if new_only else "earliest",
                }
            )
            if self._consumer.list_topics(topic, timeout=kafka.TIMEOUT).topics[topic].error is not None:
                raise BrokerError(
                    f"Kafka at {settings.kafka.bootstrap_servers} has no topic {topic}: run `auditgap topics apply`"
                )
            self._consumer.subscribe([topic], on_revoke=self._left, on_lost=self._left)

    def poll(self, seconds: float) -> Record | None:
        """Give the next record, None where none comes within so many seconds. Raises as iterating does."""
        message = self._consumer.poll(seconds)
        if message is None:
            return None
        error = message.error()
        if error is not None:
            if not error.retriable() and error.code() not in kafka.AWAY:
                raise BrokerError(f"cannot read {self._topic}: {kafka.explain(error)}")
            return None
        self._given[message.partition() or 0] = (message.offset() or 0) + 1
        self.latest = message
        return self._read(message)

    def checkpoint(self) -> None:
        """Keep that everything given so far was dealt with: this group is never given it again. Raises BrokerError.

        Where another member took a partition over meanwhile, that one gives again what was not checkpointed before.
        """
        places = [TopicPartition(self._topic, number, offset) for number, offset in self._given.items()]
        if not places:
            return
        try:
            self._consumer.commit(offsets=places, asynchronous=False)
        except KafkaException as exception:
            if exception.args[0].code() not in TAKEN_OVER:
                servers = self._settings.kafka.bootstrap_servers
                raise BrokerError(
                    f"Kafka at {servers}: cannot keep the place in {self._topic}: {kafka.explain(exception.args[0])}"
                ) from None
        self._given.clear()

    def close(self) -> None:
        """Leave the group. Keeps no place: that is `checkpoint`'s."""
        self._consumer.close()

    def __iter__(self) -> Iterator[Record]:
        return self

    def __next__(self) -> Record:
        while (record := self.poll(_POLL_SECONDS)) is None:
            pass
        return record

    def __aiter__(self) -> AsyncIterator[Record]:
        return self

    async def __anext__(self) -> Record:
        while (record := await asyncio.to_thread(self.poll, _POLL_SECONDS)) is None:
            pass
        return record

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None) -> None:
        self.close()

    def _read(self, message: Message) -> Record:
        try:
            record: Emission | Rejection = avro.decode_emission(self._ids, message.value() or b"", self._name)
        except (KeyError, TypeError, ValueError) as error:
            # It is Avro, but of a newer version in which a field means more.
            record = Rejection("not_avro", f"{type(error).__name__}: {error}")
        if isinstance(record, Rejection):
            place = f"{self._topic}, partition {message.partition()}, offset {message.offset()}"
            raise UnreadableError(f"{place} is no {self._name}: {record.detail}")
        return cast("Record", record)

    def _left(self, _: Consumer, partitions: list[TopicPartition]) -> None:
        """Forget the places in partitions that another member has now."""
        self.taken_away += 1
        for each in partitions:
            self._given.pop(each.partition, None)


TAKEN_OVER: Final = frozenset(
    {KafkaError.ILLEGAL_GENERATION, KafkaError.UNKNOWN_MEMBER_ID, KafkaError.REBALANCE_IN_PROGRESS}
)
"""Answers to keeping a place that is somebody else's now."""


def alerts(
    group: str, settings: Settings | None = None, *, instance_id: str | None = None, new_only: bool = False
) -> Subscription[Alert]:
    """Subscribe to alerts: page on `dedup_key`, leave out those with `historical`.

    A group that has no place yet begins with the oldest record, with `new_only` with those to come. With an
    `instance_id` of its own a member that ends and comes back goes on at once; else the group waits until its session
    times out. Raises BrokerError, and UsageError for wrong settings.
    """
    found = settings or config.load()
    return Subscription(found.topics.alert, "alert", group, found, instance_id=instance_id, new_only=new_only)


def gaps(
    group: str, settings: Settings | None = None, *, instance_id: str | None = None, new_only: bool = False
) -> Subscription[Gap]:
    """Subscribe to gaps, as `alerts` does: of each `gap_id` the highest `revision` counts; older ones may be gone."""
    found = settings or config.load()
    return Subscription(found.topics.gap, "gap", group, found, instance_id=instance_id, new_only=new_only)


def history(
    group: str, settings: Settings | None = None, *, instance_id: str | None = None, new_only: bool = False
) -> Subscription[Gap]:
    """Subscribe to every revision of every gap, as `alerts` does; `previous_digest` chains those of one subject."""
    found = settings or config.load()
    return Subscription(found.topics.gap_history, "gap", group, found, instance_id=instance_id, new_only=new_only)


def statuses(
    group: str, settings: Settings | None = None, *, instance_id: str | None = None, new_only: bool = False
) -> Subscription[Status]:
    """Subscribe to what is known of each organization, as `alerts` does: of each the highest `revision` counts."""
    found = settings or config.load()
    return Subscription(found.topics.status, "status", group, found, instance_id=instance_id, new_only=new_only)
