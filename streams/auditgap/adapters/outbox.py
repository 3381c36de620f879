"""Everything that leaves the worker: one transactional producer, fenced by the group's generation."""

import logging
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from confluent_kafka import KafkaError, KafkaException, Message, Producer, TopicPartition

from auditgap.adapters.cloudevents import Headers
from auditgap.adapters.kafka import PARTITIONER, client_config, explain
from auditgap.config import Settings
from auditgap.errors import WorkerStop

MAX_RECORD: Final = 4_194_304
"""Bytes: a dead letter is its record and the reason, so it may be larger than what the input topic takes."""

_RETRIES: Final = 5

_FATAL_SECONDS: Final = 10.0

_UNHEARD: Final = logging.getLogger(f"{__name__}.librdkafka")
"""Where librdkafka tells what it also raises; by itself it would write that to stderr, whatever `log_level` says."""
_UNHEARD.addHandler(logging.NullHandler())
_UNHEARD.propagate = False

_FENCED: Final = frozenset(
    {
        KafkaError._FENCED,
        KafkaError.PRODUCER_FENCED,
        KafkaError.INVALID_PRODUCER_EPOCH,
        KafkaError.ILLEGAL_GENERATION,
        KafkaError.FENCED_INSTANCE_ID,
        KafkaError.UNKNOWN_MEMBER_ID,
    }
)

_THROWN_AWAY: Final = frozenset({KafkaError._PURGE_QUEUE, KafkaError._PURGE_INFLIGHT})


class Outbox:
    """Records are produced into an open transaction; `commit` ends it together with the input's offsets.

    `open` tells whether anything was sent since the last commit.
    """

    def __init__(self, settings: Settings, instance_id: str) -> None:
        worker = settings.worker
        self._instance_id = instance_id
        self.open = False
        self._refusal: str | None = None
        self._timeout = worker.transaction_timeout_seconds
        self._producer = Producer(
            {
                **client_config(settings.kafka),
                "transactional.id": f"{worker.group}-{instance_id}",
                "transaction.timeout.ms": int(worker.transaction_timeout_seconds * 1000),
                "partitioner": PARTITIONER,
                "linger.ms": 5,
                # The coordinator turns the next transaction away while it ends the last one: ask again soon.
                "retry.backoff.ms": 5,
                "retry.backoff.max.ms": 500,
                "compression.type": "lz4",
                "message.max.bytes": MAX_RECORD,
                "queue.buffering.max.messages": 500_000,
                "queue.buffering.max.kbytes": 65_536,
                "logger": _UNHEARD,
                "delivery.report.only.error": True,
                "on_delivery": self._refused,
            }
        )

    def start(self) -> None:
        """Fence every earlier holder of this instance id. Blocks. Raises WorkerStop."""
        self._do("cannot begin as a transactional producer", lambda: self._producer.init_transactions(30))

    def send(
        self, topic: str, key: bytes | None, value: bytes | None, headers: Headers | None = None, partition: int = -1
    ) -> None:
        """Put one record into the open transaction. Blocks while the queue is full: it is waited for, not dropped."""
        self._begin()
        while True:
            try:
                self._producer.produce(topic, value, key, partition, headers=headers)  # type: ignore[arg-type]
            except BufferError:
                self._serve(0.05)
            except KafkaException as exception:
                raise self._stop(f"cannot write to {topic}", exception) from None
            else:
                return

    def commit(self, offsets: list[TopicPartition], metadata: bytes) -> None:
        """Commit what was sent and the offsets, or nothing. Blocks. Raises WorkerStop."""
        self._begin()
        if offsets:
            self._do(
                "cannot commit the input's offsets",
                lambda: self._producer.send_offsets_to_transaction(offsets, metadata, 10),
            )
        self._do("cannot commit", lambda: self._producer.commit_transaction(self._timeout + 5))
        self.open = False

    def abort(self) -> None:
        """Throw away what was sent since the last commit. Blocks. Raises WorkerStop."""
        if self.open:
            # The broker does not know of a transaction before its first record, and refuses to abort it.
            self._producer.flush(1)
            self._do("cannot abort", lambda: self._producer.abort_transaction(self._timeout))
            self.open = False

    def _begin(self) -> None:
        if not self.open:
            self._do("cannot begin a transaction", self._producer.begin_transaction)
            self.open = True

    def _do(self, doing: str, step: Callable[[], object]) -> None:
        for attempt in range(_RETRIES):
            try:
                step()
            except KafkaException as exception:
                error = exception.args[0]
                # librdkafka resumes these calls where they stood; anything else has decided the transaction.
                if not error.retriable() or attempt == _RETRIES - 1:
                    raise self._stop(doing, exception) from None
            else:
                return

    def _serve(self, seconds: float) -> None:
        # Polling raises what is fatal, whatever it was: the next step says it too, and knows what it was about.
        with suppress(KafkaException):
            self._producer.poll(seconds)

    def _refused(self, error: KafkaError, message: Message) -> None:
        # The first one is the cause; what is thrown away is so because of it.
        if error.code() not in _THROWN_AWAY:
            self._refusal = self._refusal or f"topic {message.topic()} does not take a record ({explain(error)})"

    def _stop(self, doing: str, exception: KafkaException) -> WorkerStop:
        error = exception.args[0]
        self._serve(0)
        if error.code() == KafkaError._FATAL:
            try:
                # What was fatal is what any next step says, at once; with no time at all it says that there was none.
                self._producer.commit_transaction(_FATAL_SECONDS)
            except KafkaException as cause:
                error = cause.args[0]
        if error.code() in _FENCED:
            return WorkerStop(
                f"another worker has started under the instance id {self._instance_id!r}, or took these partitions "
                f"over while this one stood still ({error.name()}): it goes on there. Give each worker an instance id "
                "of its own (AUDITGAP_WORKER__INSTANCE_ID)"
            )
        why = self._refusal or explain(error)
        return WorkerStop(f"{doing}: {why}; nothing of it was committed: start the worker again")
