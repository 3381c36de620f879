"""The worker's changelog: what it holds, and how it is read back.

A compacted topic, co-partitioned with the input. Its keys are those of core.shard.Shard.changes, and `@input`,
`@start` and `@attempt` for the partition's own:

- `@input`: which topics the state and the positions belong to (TopicIdentity);
- `@start`: the positions the last worker started from, gone again where it left in order, and until where to go
  carefully (takeover);
- `@attempt`: the record the last worker died on, and how often.
"""

import json
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any, Final

from confluent_kafka import OFFSET_BEGINNING, IsolationLevel, KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec

from auditgap.adapters.kafka import TIMEOUT, TopicIdentity, client_config, committed_reader, is_home, translated
from auditgap.config import Settings
from auditgap.core.shard import Shard
from auditgap.errors import BrokerError, WorkerStop

FORMAT: Final = 3
"""Version of everything in the changelog; another one is refused."""

_GRACE_SECONDS: Final = 30.0
"""The broker looks for transactions past their time every ten seconds."""

INPUT_KEY: Final = b"@input"
START_KEY: Final = b"@start"
ATTEMPT_KEY: Final = b"@attempt"


def dumps(shape: dict[str, Any]) -> bytes:
    """Write one of the partition's own records."""
    return json.dumps(shape, separators=(",", ":")).encode()


def input_value(topics: Mapping[str, str], identities: Mapping[str, TopicIdentity]) -> bytes:
    """Write which topics the state belongs to: `topics` by what they are, `identities` by topic."""
    inputs = {name: {"topic": topic, **asdict(identities[topic])} for name, topic in topics.items()}
    return dumps({"format": FORMAT, "inputs": inputs})


@dataclass(slots=True)
class Restored:
    """What the changelog says about one partition; `inputs` is as `input_value` wrote it, empty where nothing did."""

    shard: Shard
    inputs: dict[str, Any] = field(default_factory=dict)
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
    with translated(f"cannot read the state in {topic}", settings.kafka):
        consumer = committed_reader(settings, settings.worker.group)
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
    with translated(f"cannot find the end of {topic}", settings.kafka):
        latest = OffsetSpec.latest()  # type: ignore[no-untyped-call]  # it has no types
        wanted = {TopicPartition(topic, number): latest for number in partitions}
        if not wanted:
            return {}
        admin = AdminClient(client_config(settings.kafka))
        found = admin.list_offsets(wanted, isolation_level=IsolationLevel.READ_UNCOMMITTED, request_timeout=TIMEOUT)
        return {part.partition: future.result(TIMEOUT).offset for part, future in found.items()}


def restore(settings: Settings, numbers: Iterable[int], partitions: int) -> dict[int, Restored]:
    """Read back the state of some of so many partitions.

    Raises BrokerError, and WorkerStop where another version wrote it.
    """
    restored: dict[int, Restored] = {}
    for number, records in raw_changelog(settings, numbers).items():
        own = {key: json.loads(records.pop(key)) for key in (INPUT_KEY, START_KEY, ATTEMPT_KEY) if key in records}
        written = own[INPUT_KEY]["format"] if INPUT_KEY in own else FORMAT
        if written > FORMAT:
            raise WorkerStop(
                f"the state in {settings.worker.changelog} was written by a newer version (format {written}, this one "
                f"knows {FORMAT}): start that version"
            )
        if written < FORMAT:
            raise WorkerStop(
                f"the state in {settings.worker.changelog} was written by an older version (format {written}, this one "
                f"needs {FORMAT}): go on with `auditgap worker --reset-input earliest`"
            )
        texts = {key.decode("utf-8", "surrogatepass"): value for key, value in records.items()}
        shard = Shard.restore(texts, partial(is_home, number, partitions))
        inputs = own[INPUT_KEY]["inputs"] if INPUT_KEY in own else {}
        restored[number] = Restored(shard, inputs, own.get(START_KEY, {}), own.get(ATTEMPT_KEY, {}))
    return restored
