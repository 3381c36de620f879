"""Reading exact ranges of several topics again, as if for the first time: merged by the broker's append times."""

import heapq
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from confluent_kafka import Consumer, IsolationLevel, KafkaError, KafkaException, Message, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec

from auditgap.adapters.kafka import (
    TIMEOUT,
    client_config,
    committed_reader,
    identify,
    input_topics,
    stamps_append_time,
    stops_reading,
    translated,
)
from auditgap.config import Settings
from auditgap.errors import BrokerError

_HELD: Final = 200_000
"""Records that may wait in memory, over all partitions, for one of another partition that is older."""

_STEADY_TRIES: Final = 50

_POSITIONS: Final = "cannot read the positions of the worker's group (ACL: DESCRIBE on it, docs/security.md)"
"""A group that is hidden by ACLs looks like a broker that does not answer: librdkafka goes on looking for it."""


@dataclass(frozen=True, slots=True, order=True)
class Range:
    """Committed records of one partition, from `begin` to before `end`."""

    topic: str
    partition: int
    begin: int
    end: int

    @property
    def place(self) -> tuple[str, int]:
        """Which partition it is of."""
        return self.topic, self.partition


class Topics:
    """Topics as they are now: who they are, what is on them, and where the worker's group stands."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._servers = settings.kafka.bootstrap_servers
        self._admin = AdminClient(client_config(settings.kafka))

    def identified(self, needed: Sequence[str], optional: Sequence[str]) -> dict[str, str]:
        """Give the ids of the topics that exist. Raises BrokerError where one that is needed does not."""
        found = identify(self._admin, list(dict.fromkeys((*needed, *optional))), self._settings.kafka)
        for name in needed:
            if name not in found:
                raise BrokerError(f"Kafka at {self._servers} has no topic {name}: run `auditgap topics apply`")
        for name in found:
            if not stamps_append_time(self._admin, name, self._settings.kafka):
                raise BrokerError(
                    f"topic {name} does not stamp records with the broker's clock (message.timestamp.type="
                    "LogAppendTime), so nobody knows when they were appended: run `auditgap topics apply`"
                )
        return {name: each.topic_id for name, each in found.items()}

    def ranges(self, topics: Iterable[str]) -> list[Range]:
        """Give all that is committed on these topics at this moment. Raises BrokerError."""
        with translated("cannot read the ends of the topics", self._settings.kafka):
            described = self._admin.list_topics(timeout=TIMEOUT).topics
            parts = [TopicPartition(name, number) for name in topics for number in described[name].partitions]
            offsets = []
            for spec in (OffsetSpec.earliest(), OffsetSpec.latest()):  # type: ignore[no-untyped-call]
                asked = self._admin.list_offsets(
                    dict.fromkeys(parts, spec), isolation_level=IsolationLevel.READ_COMMITTED, request_timeout=TIMEOUT
                )
                offsets.append({(p.topic, p.partition): each.result(TIMEOUT).offset for p, each in asked.items()})
        first, last = offsets
        return sorted(Range(topic, number, first[topic, number], last[topic, number]) for topic, number in first)

    def steady(
        self, inputs: Iterable[str], outputs: Iterable[str]
    ) -> tuple[list[Range], list[Range], dict[tuple[str, int], int]]:
        """Give the ranges of both, and the worker group's positions in the inputs, which led to just these outputs.

        A partition in which the group has no position is left out. Outputs and positions change together; they are
        asked for until the positions were the same before and after.
        """
        inputs, outputs = list(inputs), list(outputs)
        consumer = Consumer(
            {
                **client_config(self._settings.kafka),
                "group.id": self._settings.worker.group,
                "enable.auto.commit": False,
            }
        )
        try:
            parts = [TopicPartition(each.topic, each.partition) for each in self.ranges(inputs)]
            before = self._positions(consumer, parts)
            for _ in range(_STEADY_TRIES):
                written = self.ranges(outputs)
                after = self._positions(consumer, parts)
                if after == before:
                    break
                before = after
            else:
                raise BrokerError("the worker commits too often for its positions and outputs to be read together")
        finally:
            consumer.close()
        return self.ranges(inputs), written, after

    def _positions(self, consumer: Consumer, parts: list[TopicPartition]) -> dict[tuple[str, int], int]:
        with translated(_POSITIONS, self._settings.kafka):
            while True:
                try:
                    found = consumer.committed(parts, timeout=TIMEOUT)
                    break
                except KafkaException as exception:
                    # A broker that has just begun is not yet the coordinator of every group.
                    if exception.args[0].code() not in _NOT_YET:
                        raise
            for each in found:
                if each.error is not None:
                    raise KafkaException(each.error)
        return {(each.topic, each.partition): each.offset for each in found if each.offset >= 0}


_NOT_YET: Final = frozenset({KafkaError.NOT_COORDINATOR, KafkaError.COORDINATOR_LOAD_IN_PROGRESS})


def records(settings: Settings, ranges: Iterable[Range]) -> Iterator[Message]:
    """Give the committed records of these ranges, the oldest append time first, each partition in its order.

    Of those that were appended at the same time the worker's first topic comes first, as with the worker: ticks last.
    Raises BrokerError, also where a range begins before the first record that is still there.
    """
    wanted = {each.place: each for each in ranges if each.begin < each.end}
    if not wanted:
        return
    with translated("cannot read the inputs again", settings.kafka):
        consumer = committed_reader(settings)
        try:
            consumer.assign([TopicPartition(each.topic, each.partition, each.begin) for each in wanted.values()])
            yield from _Merge(consumer, wanted, list(input_topics(settings).values())).records()
        finally:
            consumer.close()


class _Merge:
    """Holds what was fetched back until nothing older can come from another partition."""

    def __init__(self, consumer: Consumer, wanted: dict[tuple[str, int], Range], order: list[str]) -> None:
        self._consumer = consumer
        self._rank = {topic: number for number, topic in enumerate(order)}
        self._ends = {place: each.end for place, each in wanted.items()}
        self._most = max(1000, _HELD // len(wanted))
        self._held: dict[tuple[str, int], deque[Message]] = {place: deque() for place in wanted}
        self._unread = set(wanted)
        self._paused: set[tuple[str, int]] = set()

    def records(self) -> Iterator[Message]:
        """Give them all."""
        heap: list[tuple[int, int, str, int]] = []
        empty = set(self._held)
        while True:
            while any(place in self._unread for place in empty):
                self._fetch()
                empty = {place for place in empty if not self._enter(place, heap)}
            if not heap:
                return
            _, _, topic, number = heapq.heappop(heap)
            place = topic, number
            yield self._held[place].popleft()
            if not self._enter(place, heap):
                empty.add(place)

    def _enter(self, place: tuple[str, int], heap: list[tuple[int, int, str, int]]) -> bool:
        """Put the next record of a partition to the choice; False if none is held."""
        held = self._held[place]
        if place in self._paused and len(held) * 2 < self._most:
            self._paused.discard(place)
            self._consumer.resume([TopicPartition(*place)])
        if held:
            heapq.heappush(heap, (held[0].timestamp()[1], self._rank.get(place[0], 0), *place))
        return bool(held)

    def _fetch(self) -> None:
        for message in self._consumer.consume(1000, 0.05):
            error = message.error()
            if error is not None and error.code() != KafkaError._PARTITION_EOF:
                if not stops_reading(error):
                    continue
                raise KafkaException(error)
            place = message.topic() or "", message.partition() or 0
            offset = message.offset() or 0
            # The end of a partition is told by its offset, and so is a record beyond the range.
            if error is None and offset < self._ends[place]:
                self._held[place].append(message)
                if len(self._held[place]) >= self._most and place not in self._paused:
                    self._paused.add(place)
                    self._consumer.pause([TopicPartition(*place)])
                offset += 1
            if offset >= self._ends[place] and place in self._unread:
                self._unread.discard(place)
                self._paused.discard(place)
                self._consumer.pause([TopicPartition(*place)])
