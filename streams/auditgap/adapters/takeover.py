"""How partitions are taken over: topic, position and state have to belong together, or the worker stops.

Nothing is skipped in silence: a topic that was deleted and made again, another cluster, a changed partition count, a
position that is gone and state that is gone are all InputChanged, with the way out.
"""

from dataclasses import dataclass, field
from typing import Final

from confluent_kafka import Consumer, TopicPartition
from confluent_kafka.admin import AdminClient

from auditgap.adapters import state
from auditgap.adapters.kafka import (
    TIMEOUT,
    TopicIdentity,
    client_config,
    explain,
    identify,
    stamps_append_time,
    translated,
)
from auditgap.config import Settings
from auditgap.core.ledger import Ledger
from auditgap.core.shard import Shard
from auditgap.errors import InputChanged, WorkerStop

DEATHS: Final = 2
"""How often a worker may die on one record before it is put aside."""

CAREFUL: Final = 500_000
"""For how many records each batch is committed by itself, after a worker died: more than are ever taken in between two
commits. If a record killed it, the next one gets to the batch with that record, and the one after that nowhere."""

STEPS: Final = (1000, 30, 1)
"""Records of such a batch at the most. A worker that died in its first batch makes the next one take that batch in the
next smaller steps; of single records it is written down which is tried, so that the one that kills is known."""


@dataclass(slots=True)
class Part:
    """One owned partition.

    `known` holds the ledgers of subjects that belong here, by their bytes in `ce_subject`. `attempt` says on which
    record the last worker died, and how many did. Before `careful_until` each batch of at most `step` records is
    committed by itself. `handed` is the offset after the last record that was fetched, `end` where the
    partition ended then.
    """

    number: int
    position: int
    shard: Shard
    attempt: dict[str, int]
    step: int = 0
    careful_until: int = 0
    committed: int = -1
    known: dict[bytes, Ledger] = field(default_factory=dict)
    oldest_uncommitted: int | None = None
    handed: int = -1
    end: int = -1
    batches: int = 0


def check_topics(settings: Settings) -> TopicIdentity:
    """Look whether every topic is there and as it has to be; gives who the input is. Raises WorkerStop, BrokerError."""
    topics, changelog, servers = settings.topics, settings.worker.changelog, settings.kafka.bootstrap_servers
    admin = AdminClient(client_config(settings.kafka))
    outputs = [
        topics.activity_dlq,
        topics.alert,
        topics.gap,
        topics.gap_history,
        topics.status,
        topics.finding,
        changelog,
    ]
    found = identify(admin, [topics.activity, *outputs], servers)
    missing = [name for name in (topics.activity, *outputs) if name not in found]
    if missing:
        raise WorkerStop(f"Kafka at {servers} has no topic {', '.join(missing)}: run `auditgap topics apply`")
    source = found[topics.activity]
    for name in outputs:
        if found[name].partitions != source.partitions:
            raise WorkerStop(
                f"topic {name} has {found[name].partitions} partitions, {topics.activity} has {source.partitions}: "
                f"set AUDITGAP_TOPICS__PARTITIONS={source.partitions} and run `auditgap topics apply`"
            )
    if not stamps_append_time(admin, topics.activity, servers):
        raise WorkerStop(
            f"topic {topics.activity} does not stamp records with the broker's clock "
            "(message.timestamp.type=LogAppendTime), so times cannot be checked: run `auditgap topics apply`"
        )
    return source


def check_input(settings: Settings, identity: TopicIdentity) -> None:
    """Look whether the input topic is still this one. Raises InputChanged, and BrokerError where nobody answers."""
    topic = settings.topics.activity
    found = identify(AdminClient(client_config(settings.kafka)), [topic], settings.kafka.bootstrap_servers).get(topic)
    if found is None:
        raise changed(f"topic {topic} was deleted")
    if found != identity:
        raise changed(_difference(topic, identity, found))


def take_over(settings: Settings, reader: Consumer, identity: TopicIdentity, numbers: list[int]) -> list[Part]:
    """Restore these partitions and find their positions. Raises InputChanged, WorkerStop and BrokerError."""
    topic = settings.topics.activity
    with translated(f"cannot find the position in {topic}", settings.kafka.bootstrap_servers):
        positions = reader.committed([TopicPartition(topic, number) for number in numbers], timeout=TIMEOUT)
    # After the positions, which are given once no commit is under way: what was committed with them is then there.
    restored = state.restore(settings, numbers, identity.partitions)
    parts = []
    for position in positions:
        if position.error is not None:
            raise WorkerStop(f"cannot find the position in {topic}: {explain(position.error)}")
        with translated(f"cannot find the bounds of {topic}", settings.kafka.bootstrap_servers):
            bounds = reader.get_watermark_offsets(TopicPartition(topic, position.partition), timeout=TIMEOUT)
        parts.append(_part(settings, identity, position, bounds, restored[position.partition]))
    return parts


def _part(
    settings: Settings,
    identity: TopicIdentity,
    position: TopicPartition,
    bounds: tuple[int, int],
    restored: state.Restored,
) -> Part:
    topic, group, changelog = settings.topics.activity, settings.worker.group, settings.worker.changelog
    number, offset = position.partition, position.offset
    low, high = bounds
    if restored.input is not None:
        before = TopicIdentity(*(restored.input[name] for name in ("topic_id", "partitions", "cluster_id")))
        if restored.input["topic"] != topic:
            raise changed(f"the state in {changelog} belongs to topic {restored.input['topic']}, not {topic}")
        if before != identity:
            raise changed(_difference(topic, before, identity))
        if offset < 0:
            raise changed(f"group {group} has state, but has lost its position in partition {number} of {topic}")
    elif offset >= 0:
        raise changed(
            f"group {group} stands at offset {offset} of partition {number} of {topic}, but {changelog} "
            "holds no state for it"
        )
    if offset < 0:
        offset = low  # never read before: everything the topic holds
    if not low <= offset <= high:
        raise changed(f"offset {offset} of partition {number} of {topic} is no longer there (it holds {low} to {high})")
    part = Part(number, offset, restored.shard, restored.attempt, committed=position.offset, handed=offset)
    part.known = {subject.encode("utf-8", "surrogatepass"): each for subject, each in part.shard.ledgers.items()}
    part.step, part.careful_until = _care(restored.start, offset, high)
    return part


def _care(start: dict[str, int], offset: int, high: int) -> tuple[int, int]:
    """Say in which steps to go on, and until where, after how the worker before this one started and ended.

    It died if its start has a position still (`left` takes it away): here, or on the way here from there.
    """
    step, until = start.get("step", 0), start.get("careful_until", 0)
    if "position" not in start:
        return step, until
    if offset >= until:
        # What killed it was there then, so what comes later need not be feared.
        return STEPS[0], min(offset + CAREFUL, high)
    if offset > start["position"] or step == STEPS[-1]:
        return step, until
    return STEPS[STEPS.index(step) + 1], min(offset + step, high)


def started(part: Part) -> bytes:
    """Write that a worker starts here."""
    return state.dumps({"position": part.position, **_marks(part)})


def left(part: Part) -> bytes:
    """Write that a worker that started here did not die of a record."""
    return state.dumps(_marks(part))


def _marks(part: Part) -> dict[str, int]:
    return {"step": part.step, "careful_until": part.careful_until}


def _difference(topic: str, before: TopicIdentity, now: TopicIdentity) -> str:
    if before.cluster_id != now.cluster_id:
        return f"topic {topic} is now on another cluster ({now.cluster_id}, before {before.cluster_id})"
    if before.topic_id != now.topic_id:
        return f"topic {topic} was deleted and made again (id {now.topic_id}, before {before.topic_id})"
    return f"topic {topic} now has {now.partitions} partitions, before {before.partitions}"


def changed(what: str) -> InputChanged:
    """Make the error that says what changed, and the way out."""
    return InputChanged(
        f"{what}; nothing is skipped in silence. Find out what happened, then go on with `auditgap worker "
        "--reset-input earliest` (all that the topic holds; what is known already is recognised) or `--reset-input "
        "latest` (new records only; what lies between stays unseen)"
    )
