"""Baseline: a loop written by hand on confluent-kafka, as fast as plain Python gets. No Faust.

It does the same work in the same promptness: headers are looked at before Avro; the last id of every organization is
kept and persisted; state goes to a compacted changelog, once per changed organization and commit; a commit twice a
second, and within a tenth of one when an alert waits and the loop is not behind. Exactly once by one transaction for
outputs, state and offsets; with `BENCH_LOOP=at-least-once` flushed outputs and state, then offsets.
"""

import gc
import json
import os
import signal
import time
from typing import Any

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, Message, Producer, TopicPartition

import stopwatch
from plain_job import CE_SETTINGS_TYPE, Organization, Outputs, decode, encode

TRANSACTIONS = os.environ.get("BENCH_LOOP") != "at-least-once"
COMMIT_SECONDS = 0.5
ALERT_SECONDS = 0.1
BATCH = 1000


class Loop:
    """The whole program: `run` until a signal."""

    def __init__(self, task: stopwatch.Task) -> None:
        self.task, self.watch = task, stopwatch.Stopwatch(task.records)
        self.organizations: dict[bytes, Organization] = {}
        self.dirty: dict[bytes, int] = {}
        self.positions: dict[int, int] = {}
        self.committed: dict[int, int] = {}
        self.urgent = self.open = self.stopping = False
        common: dict[str, Any] = {"bootstrap.servers": task.servers, "log_level": 2}
        reading = {"group.id": task.group, "enable.auto.commit": False, "isolation.level": "read_committed"}
        self.restorer = {**common, **reading, "enable.partition.eof": True}
        self.consumer = Consumer(
            {**common, **reading, "auto.offset.reset": "earliest", "queued.min.messages": 20_000}
            | {"queued.max.messages.kbytes": 32_768, "fetch.queue.backoff.ms": 10}
        )
        writing = {"transactional.id": task.group} if TRANSACTIONS else {"enable.idempotence": True}
        self.producer = Producer(
            {**common, **writing, "partitioner": "murmur2_random", "linger.ms": 5, "compression.type": "lz4"}
            | {"queue.buffering.max.messages": 500_000, "retry.backoff.ms": 5}
        )

    def run(self) -> None:
        """Consume until a signal comes."""
        signal.signal(signal.SIGTERM, self._stop)
        if TRANSACTIONS:
            self.producer.init_transactions(30)
        self.consumer.subscribe([self.task.activity], on_assign=self._assigned, on_revoke=self._revoked)
        last = time.monotonic()
        while not self.stopping:
            messages = self.consumer.consume(BATCH, 0.05)
            if messages:
                self.watch.took(len(messages))
                self.take(messages)
            prompt = self.urgent and len(messages) < BATCH  # while it is behind, no alert is made late by this
            if time.monotonic() >= last + (ALERT_SECONDS if prompt else COMMIT_SECONDS):
                self.commit()
                last = time.monotonic()
        self.commit()
        self.consumer.close()

    def take(self, messages: list[Message]) -> None:
        """Take in some records, of any partition."""
        organizations, dirty, positions = self.organizations, self.dirty, self.positions
        for message in messages:
            if (error := message.error()) is not None:
                raise KafkaException(error)
            number = message.partition()
            positions[number] = message.offset() + 1  # type: ignore[index,operator]
            key = message.key() or b""
            organization = organizations.get(key)
            if organization is None:
                organization = organizations[key] = Organization(key.decode())
            dirty[key] = number  # type: ignore[assignment]
            named: dict[str, bytes] = dict(message.headers() or ())  # type: ignore[arg-type]
            if named["ce_type"] == CE_SETTINGS_TYPE:
                event = decode(message.value() or b"")
                self.publish(organization, message, organization.settings(event, message.timestamp()[1] * 1000))
            elif organization.closed:
                self.publish(organization, message, organization.activity(named["ce_id"], named["ce_time"]))
            else:
                organization.last = named["ce_id"], named["ce_time"]

    def publish(self, organization: Organization, message: Message, outputs: Outputs) -> None:
        """Send alerts and gaps, on the partition of the organization."""
        for name, record in outputs:
            value, key, number = encode(name, record), organization.id, message.partition()
            if name == "alert":
                self.urgent = True
                self.send(self.task.alert, key, value, number)
            else:
                self.send(self.task.gap, record["gap_id"], value, number)
                self.send(self.task.history, key, value, number)

    def send(self, topic: str, key: str | bytes, value: bytes, number: int | None) -> None:
        """Produce one record, in the open transaction."""
        if TRANSACTIONS and not self.open:
            self.producer.begin_transaction()
            self.open = True
        self.producer.produce(topic, value, key, number or 0)

    def commit(self) -> None:
        """Commit outputs, state and positions."""
        if not self.positions:
            return
        if not TRANSACTIONS:
            self.producer.flush()
        for key, number in self.dirty.items():
            value = json.dumps(self.organizations[key].dump(), separators=(",", ":")).encode()
            self.send(self.task.state, key, value, number)
        offsets = [TopicPartition(self.task.activity, number, offset) for number, offset in self.positions.items()]
        if TRANSACTIONS:
            if not self.open:
                self.producer.begin_transaction()
            self.producer.send_offsets_to_transaction(offsets, self.consumer.consumer_group_metadata())
            self.producer.commit_transaction()
        else:
            self.producer.flush()
            self.consumer.commit(offsets=offsets, asynchronous=False)
        self.committed |= self.positions
        self.positions.clear()
        self.dirty.clear()
        self.urgent = self.open = False
        self.watch.committed(sum(self.committed.values()))

    def _stop(self, *_: object) -> None:
        self.stopping = True

    def _revoked(self, *_: object) -> None:
        self.commit()
        self.organizations.clear()

    def _assigned(self, _: Consumer, partitions: list[TopicPartition]) -> None:
        """Read the state back."""
        numbers = {partition.partition for partition in partitions}
        restorer = Consumer(self.restorer)
        restorer.assign([TopicPartition(self.task.state, number, OFFSET_BEGINNING) for number in numbers])
        while numbers:
            for message in restorer.consume(1000, 0.1):
                if (error := message.error()) is None:
                    self.organizations[message.key() or b""] = Organization.load(json.loads(message.value() or b""))
                elif error.code() == KafkaError._PARTITION_EOF:  # noqa: SLF001 - librdkafka's name
                    numbers.discard(message.partition() or 0)
        restorer.close()
        self.watch.fetching()


if __name__ == "__main__":
    gc.set_threshold(100_000, 50, 1000)  # as auditgap does: batches are many containers, none of them in a cycle
    Loop(stopwatch.Task.given()).run()
