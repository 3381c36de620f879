"""The worker's changelog: what it holds, and how it is read back.

A compacted topic, co-partitioned with the input. Keys: `<length of subject>:<subject><ledger key>` for a ledger's
records (core.ledger.Ledger.changes), `@input`, `@start` and `@attempt` for the partition's own:

- `@input`: which topic the state and the position belong to (InputIdentity);
- `@start`: the position the last worker started from, gone again where it left in order, and until where to go
  carefully (takeover);
- `@attempt`: the record the last worker died on, and how often.
"""

import json
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from confluent_kafka import OFFSET_BEGINNING, Consumer, IsolationLevel, KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec

from auditgap.adapters.kafka import TIMEOUT, TopicIdentity, client_config, translated
from auditgap.config import Settings
from auditgap.core.ledger import Ledger
from auditgap.errors import BrokerError, WorkerStop

FORMAT: Final = 1
"""Version of everything in the changelog; a newer one is refused."""

_GRACE_SECONDS: Final = 30.0
"""The broker looks for transactions past their time every ten seconds."""

INPUT_KEY: Final = b"@input"
START_KEY: Final = b"@start"
ATTEMPT_KEY: Final = b"@attempt"


def key_of(subject: str, ledger_key: str) -> bytes:
    """Name a ledger's record in the changelog."""
    return f"{len(subject)}:{subject}{ledger_key}".encode("utf-8", "surrogatepass")


def split_key(key: bytes) -> tuple[str, str]:
    """Undo `key_of`."""
    text = key.decode("utf-8", "surrogatepass")
    length, _, rest = text.partition(":")
    return rest[: int(length)], rest[int(length) :]


def dumps(shape: dict[str, Any]) -> bytes:
    """Write one of the partition's own records."""
    return json.dumps(shape, separators=(",", ":")).encode()


def input_value(identity: TopicIdentity, topic: str) -> bytes:
    """Write which topic the state belongs to."""
    return dumps({"format": FORMAT, "topic": topic, **asdict(identity)})


@dataclass(slots=True)
class Restored:
    """What the changelog says about one partition."""

    ledgers: dict[str, Ledger] = field(default_factory=dict)
    input: dict[str, Any] | None = None
    start: dict[str, Any] = field(default_factory=dict)
    attempt: dict[str, Any] = field(default_factory=dict)


def raw_changelog(settings: Settings, partitions: Iterable[int]) -> dict[int, dict[bytes, bytes]]:
    """Read the latest value of each key, read committed, to the end of each partition. Raises BrokerError.

    The end is that of all records, committed or not yet. A reader of committed records is shown none that comes after
    the beginning of a transaction that is still open; that of a worker which was killed, or the last one of a worker
    whose marks are still being written, would hide the newest state, and this worker would go on with an older one.
    """
    topic = settings.worker.changelog
    latest: dict[int, dict[bytes, bytes]] = {number: {} for number in partitions}
    ends = _ends(settings, topic, latest)
    deadline = time.monotonic() + settings.worker.transaction_timeout_seconds + _GRACE_SECONDS
    with translated(f"cannot read the state in {topic}", settings.kafka.bootstrap_servers):
        consumer = Consumer(
            {
                **client_config(settings.kafka),
                "group.id": settings.worker.group,
                "enable.auto.commit": False,
                "isolation.level": "read_committed",
                "enable.partition.eof": True,
                "auto.offset.reset": "error",
                "fetch.queue.backoff.ms": 10,
                # The end is told of by the answer to a fetch, which the broker otherwise holds back for half a second.
                "fetch.wait.max.ms": 20,
            }
        )
        try:
            consumer.list_topics(topic, timeout=15)
            consumer.assign([TopicPartition(topic, number, OFFSET_BEGINNING) for number in latest])
            left = set(latest)
            while left:
                if time.monotonic() > deadline:
                    raise BrokerError(
                        f"a transaction on {topic} that hides the newest state is still open after its time: find the "
                        "producer that writes there, or abort it (kafka-transactions.sh), and start the worker again"
                    )
                # It waits for all thousand or the time, so a long time would be spent at the end of every restore.
                for message in consumer.consume(1000, 0.05):
                    error = message.error()
                    if error is None:
                        records, key, value = latest[message.partition() or 0], message.key() or b"", message.value()
                        if value is None:
                            records.pop(key, None)
                        else:
                            records[key] = value
                        deadline = max(deadline, time.monotonic() + _GRACE_SECONDS)
                    elif error.code() == KafkaError._PARTITION_EOF:
                        if (message.offset() or 0) >= ends[message.partition() or 0]:
                            left.discard(message.partition())
                    elif not error.retriable():
                        raise KafkaException(error)
        finally:
            consumer.close()
    return latest


def _ends(settings: Settings, topic: str, partitions: Iterable[int]) -> dict[int, int]:
    """Find where the partitions end, whatever is committed."""
    with translated(f"cannot find the end of {topic}", settings.kafka.bootstrap_servers):
        latest = OffsetSpec.latest()  # type: ignore[no-untyped-call]  # it has no types
        wanted = {TopicPartition(topic, number): latest for number in partitions}
        if not wanted:
            return {}
        admin = AdminClient(client_config(settings.kafka))
        found = admin.list_offsets(wanted, isolation_level=IsolationLevel.READ_UNCOMMITTED, request_timeout=TIMEOUT)
        return {part.partition: future.result(TIMEOUT).offset for part, future in found.items()}


def restore(settings: Settings, partitions: Iterable[int]) -> dict[int, Restored]:
    """Read back the state of some partitions. Raises BrokerError, and WorkerStop where a newer version wrote it."""
    restored: dict[int, Restored] = {}
    for number, records in raw_changelog(settings, partitions).items():
        state = restored[number] = Restored()
        own = {key: json.loads(records.pop(key)) for key in (INPUT_KEY, START_KEY, ATTEMPT_KEY) if key in records}
        state.input = own.get(INPUT_KEY)
        state.start, state.attempt = own.get(START_KEY, {}), own.get(ATTEMPT_KEY, {})
        if state.input is not None and state.input["format"] > FORMAT:
            raise WorkerStop(
                f"the state in {settings.worker.changelog} was written by a newer version (format "
                f"{state.input['format']}, this one knows {FORMAT}): start that version"
            )
        by_subject: dict[str, dict[str, bytes]] = {}
        for key, value in records.items():
            subject, ledger_key = split_key(key)
            by_subject.setdefault(subject, {})[ledger_key] = value
        state.ledgers = {subject: Ledger.restore(subject, values) for subject, values in by_subject.items()}
    return restored
