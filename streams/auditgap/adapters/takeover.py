"""How partitions are taken over: topics, positions and state have to belong together, or the worker stops.

Nothing is skipped in silence: a topic that was deleted and made again, another cluster, a changed partition count, a
position that is gone and state that is gone are all InputChanged, with the way out.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from confluent_kafka import Consumer, Message, TopicPartition
from confluent_kafka.admin import AdminClient

from auditgap.adapters import mailbox, state
from auditgap.adapters.kafka import (
    TIMEOUT,
    TopicIdentity,
    client_config,
    dead_letters_of,
    explain,
    identify,
    input_topics,
    stamps_append_time,
    translated,
)
from auditgap.adapters.merge import Merge
from auditgap.config import Settings
from auditgap.core.inputs import organization_of
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
class Place:
    """Where a partition stands in one of its topics.

    Before `careful_until` each batch of at most `step` records is committed by itself. `fetched` is the offset after
    the last record that was fetched, `end` where the topic ended when that was last seen (-1: not since the start).
    """

    topic: str
    position: int
    step: int = 0
    careful_until: int = 0
    committed: int = -1
    fetched: int = -1
    end: int = -1


@dataclass(slots=True)
class Part:
    """One owned partition; `places` is by topic.

    `known` holds the ledgers of organizations that belong here, by their bytes in `ce_subject`; not those of feeds, as
    only the body says whose an activity is that names its organization by uuid. `attempt` says on which
    record the last worker died, and how many did. `awaits_tick`: one is in the mailbox, and not read back yet.
    """

    number: int
    shard: Shard
    places: dict[str, Place]
    attempt: dict[str, Any]
    merge: Merge[Message]
    known: dict[bytes, Ledger] = field(default_factory=dict)
    oldest_uncommitted: int | None = None
    batches: int = 0
    awaits_tick: bool = False

    @property
    def activity(self) -> Place:
        """Where it stands in the topic of activities."""
        return next(iter(self.places.values()))


def check_topics(settings: Settings) -> dict[str, TopicIdentity]:
    """Look whether every topic is there and as it has to be; gives who the inputs are, by topic.

    Raises WorkerStop, BrokerError.
    """
    topics, changelog, servers = settings.topics, settings.worker.changelog, settings.kafka.bootstrap_servers
    admin = AdminClient(client_config(settings.kafka))
    inputs = list(input_topics(settings).values())
    outputs = [*dead_letters_of(settings).values(), topics.alert, topics.gap, topics.gap_history]
    outputs += [topics.status, topics.finding, changelog]
    found = identify(admin, [*inputs, *outputs], settings.kafka)
    missing = [name for name in (*inputs, *outputs) if name not in found]
    if missing:
        raise WorkerStop(f"Kafka at {servers} has no topic {', '.join(missing)}: run `auditgap topics apply`")
    count = found[topics.activity].partitions
    for name in (*inputs, *outputs):
        if found[name].partitions != count:
            raise WorkerStop(
                f"topic {name} has {found[name].partitions} partitions, {topics.activity} has {count}: "
                f"set AUDITGAP_TOPICS__PARTITIONS={count} and run `auditgap topics apply`"
            )
    for name in inputs:
        if not stamps_append_time(admin, name, settings.kafka):
            raise WorkerStop(
                f"topic {name} does not stamp records with the broker's clock "
                "(message.timestamp.type=LogAppendTime), so times cannot be checked: run `auditgap topics apply`"
            )
    return {name: found[name] for name in inputs}


def check_input(settings: Settings, identities: Mapping[str, TopicIdentity]) -> None:
    """Look whether the input topics are still these. Raises InputChanged, and BrokerError where nobody answers."""
    found = identify(AdminClient(client_config(settings.kafka)), [*identities], settings.kafka)
    for topic, identity in identities.items():
        if topic not in found:
            raise changed(f"topic {topic} was deleted")
        if found[topic] != identity:
            raise changed(_difference(topic, identity, found[topic]))


def take_over(
    settings: Settings, reader: Consumer, identities: Mapping[str, TopicIdentity], numbers: list[int]
) -> list[Part]:
    """Restore these partitions and find their positions. Raises InputChanged, WorkerStop and BrokerError."""
    topics = input_topics(settings)
    wanted = [TopicPartition(topic, number) for topic in topics.values() for number in numbers]
    with translated(f"cannot find the position in {topics['activity']}", settings.kafka):
        positions = reader.committed(wanted, timeout=TIMEOUT)
    # After the positions, which are given once no commit is under way: what was committed with them is then there.
    restored = state.restore(settings, numbers, identities[topics["activity"]].partitions)
    places: dict[int, dict[str, Place]] = {number: {} for number in numbers}
    for position in positions:
        topic, number = position.topic, position.partition
        if position.error is not None:
            raise WorkerStop(f"cannot find the position in {topic}: {explain(position.error)}")
        with translated(f"cannot find the bounds of {topic}", settings.kafka):
            bounds = reader.get_watermark_offsets(TopicPartition(topic, number), timeout=TIMEOUT)
        name = next(name for name, each in topics.items() if each == topic)
        place = _place(settings, name, identities[topic], position, bounds, restored[number])
        if place.position == bounds[1]:
            place.end = bounds[1]
        places[number][topic] = place
    parts = []
    for number in numbers:
        found, mine = restored[number], places[number]
        merge = _merge(settings, {topic: place.position for topic, place in mine.items()})
        for topic, place in mine.items():
            if place.end == place.position:
                merge.ended(topic)
        part = Part(number, found.shard, mine, found.attempt, merge)
        part.known = {
            subject.encode("utf-8", "surrogatepass"): each
            for subject, each in part.shard.ledgers.items()
            if organization_of(subject) is not None
        }
        parts.append(part)
    return parts


def _merge(settings: Settings, positions: Mapping[str, int]) -> Merge[Message]:
    box = settings.worker.mailbox
    return Merge(
        positions,
        time.monotonic(),
        time=lambda message: message.timestamp()[1],
        offset=lambda message: message.offset() or 0,
        named=lambda message: mailbox.named_in(message.value()) if message.topic() == box else {},
    )


def _place(
    settings: Settings,
    name: str,
    identity: TopicIdentity,
    position: TopicPartition,
    bounds: tuple[int, int],
    restored: state.Restored,
) -> Place:
    group, changelog = settings.worker.group, settings.worker.changelog
    topic, number, offset = position.topic, position.partition, position.offset
    low, high = bounds
    if known := restored.inputs.get(name):
        before = TopicIdentity(*(known[each] for each in ("topic_id", "partitions", "cluster_id")))
        if known["topic"] != topic:
            raise changed(f"the state in {changelog} belongs to topic {known['topic']}, not {topic}")
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
    step, careful_until = _care(restored.start.get(topic, {}), offset, high)
    return Place(topic, offset, step, careful_until, committed=position.offset, fetched=offset)


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
    return state.dumps({topic: {"position": place.position, **_marks(place)} for topic, place in part.places.items()})


def left(part: Part) -> bytes:
    """Write that a worker that started here did not die of a record."""
    return state.dumps({topic: _marks(place) for topic, place in part.places.items()})


def _marks(place: Place) -> dict[str, int]:
    return {"step": place.step, "careful_until": place.careful_until}


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
