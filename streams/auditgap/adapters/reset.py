"""`auditgap worker --reset-input`: accept the input topics as they are now, keep the state, set positions anew."""

import json
import time
from collections.abc import Mapping, Sequence
from typing import Final

from confluent_kafka import Consumer, ConsumerGroupState, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient

from auditgap.adapters import state
from auditgap.adapters.kafka import (
    TIMEOUT,
    Log,
    TopicIdentity,
    client_config,
    identify,
    input_topics,
    partition_of,
    translated,
)
from auditgap.adapters.outbox import Outbox
from auditgap.config import Settings
from auditgap.core.shard import split_key, split_policy_key, split_topology_key
from auditgap.errors import BrokerError, UsageError

_GRACE_SECONDS: Final = 2.0


def reset_input(settings: Settings, where: str, log: Log) -> None:
    """Set the group's positions to the beginning ("earliest") or the end ("latest") of the inputs as they are now.

    Policies and topologies are read from the beginning in either case, and mail goes on where it was. The state is
    kept, and moved where a changed partition count wants it; what cannot be kept is said. Everything happens in one
    transaction. Raises UsageError while workers of the group are running, and BrokerError.
    """
    inputs, changelog, servers = input_topics(settings), settings.worker.changelog, settings.kafka.bootstrap_servers
    topic = inputs["activity"]
    admin = AdminClient(client_config(settings.kafka))
    _await_empty_group(admin, settings, log)
    found = identify(admin, [*inputs.values(), changelog], settings.kafka)
    for name in (*inputs.values(), changelog):
        if name not in found:
            raise BrokerError(f"Kafka at {servers} has no topic {name}: run `auditgap topics apply`")
    identity, count = found[topic], found[topic].partitions
    for name in (*inputs.values(), changelog):
        if found[name].partitions != count:
            raise UsageError(
                f"topic {topic} has {count} partitions, {name} has {found[name].partitions}: set "
                f"AUDITGAP_TOPICS__PARTITIONS={count} and run `auditgap topics apply`"
            )
    member = Consumer({**client_config(settings.kafka), "group.id": settings.worker.group, "enable.auto.commit": False})
    outbox = Outbox(settings, f"{settings.worker.instance_id}-reset")
    try:
        outbox.start()
        kept = _Kept(settings, found, outbox)
        kept.move()
        for number in range(count):
            outbox.send(changelog, state.INPUT_KEY, state.input_value(inputs, found), None, number)
            outbox.send(changelog, state.START_KEY, state.dumps({}), None, number)
            outbox.send(changelog, state.ATTEMPT_KEY, state.dumps({}), None, number)
        offsets = []
        with translated(f"cannot find the bounds of {topic}", settings.kafka):
            for name, each in inputs.items():
                parts = [TopicPartition(each, number) for number in range(count)]
                for part in member.committed(parts, timeout=TIMEOUT):
                    low, high = member.get_watermark_offsets(TopicPartition(each, part.partition), timeout=TIMEOUT)
                    offset = high if where == "latest" else low
                    if name in ("policy", "topology"):
                        offset = low
                    elif name == "mailbox":
                        offset = part.offset if kept.knows(name) and low <= part.offset <= high else low
                    offsets.append(TopicPartition(each, part.partition, offset))
        outbox.commit(offsets, member.consumer_group_metadata())
    finally:
        member.close()
    positions = ", ".join(f"{each.partition}: {each.offset}" for each in offsets if each.topic == topic)
    log(f"the input is {topic} as it is now ({count} partitions, id {identity.topic_id}); positions {positions}")
    kept.tell(log)


class _Kept:
    """The state as it is, and what is written of it into a transaction: each key where it belongs now."""

    def __init__(self, settings: Settings, found: Mapping[str, TopicIdentity], outbox: Outbox) -> None:
        self._topics, self._changelog = input_topics(settings), settings.worker.changelog
        self._found, self._outbox = found, outbox
        self._count = found[self._changelog].partitions
        self._records = state.raw_changelog(settings, range(self._count))
        self._written = [
            json.loads(records[state.INPUT_KEY]) for records in self._records.values() if state.INPUT_KEY in records
        ]
        self._formats = {written["format"] for written in self._written}
        self._moved: set[str] = set()
        # Versions of another topic would stand in the way of those of this one: its chains begin anew.
        self._same = {name: self.knows(name) for name in ("policy", "topology")}
        self._forgotten: set[str] = set()

    def knows(self, name: str) -> bool:
        """Whether the state belongs to this very topic, by what it is."""
        topic = self._topics[name]
        now = self._found[topic]
        before = [written["inputs"].get(name) for written in self._written if written["format"] == state.FORMAT]
        return bool(before) and all(
            known is not None
            and (known["topic"], known["topic_id"], known["cluster_id"]) == (topic, now.topic_id, now.cluster_id)
            for known in before
        )

    def move(self) -> None:
        """Write each key that is not where it belongs, and take away what cannot be kept."""
        readable = self._formats <= {state.FORMAT}
        for number, records in self._records.items():
            for key, value in records.items():
                if key in (state.INPUT_KEY, state.START_KEY, state.ATTEMPT_KEY):
                    continue
                text = key.decode("utf-8", "surrogatepass")
                homes = self._homes_of(text, number) if readable else ()
                for home in homes:
                    if home != number and not (split_policy_key(text) and key in self._records[home]):
                        self._outbox.send(self._changelog, key, value, None, home)
                if number not in homes:
                    self._outbox.send(self._changelog, key, None, None, number)

    def _homes_of(self, key: str, number: int) -> Sequence[int]:
        """Name the partitions that a key of partition `number` belongs to now: none where it cannot be kept."""
        if policy := split_policy_key(key):
            if self._same["policy"]:
                return self._homes(policy[0])
            self._forgotten.add("policies")
            return ()
        if topology := split_topology_key(key):
            if self._same["topology"]:
                return self._homes(topology[0])
            self._forgotten.add("topologies")
            return ()
        if key.startswith("@"):
            return (number,)
        subject, _ = split_key(key)
        homes = self._homes(subject)
        if number not in homes:
            self._moved.add(subject)
        return homes

    def _homes(self, subject: str | None) -> Sequence[int]:
        return range(self._count) if subject is None else (partition_of(subject, self._count),)

    def tell(self, log: Log) -> None:
        """Say what became of it."""
        if other := sorted(self._formats - {state.FORMAT}):
            log(f"the state was of format {other[0]}, this version knows {state.FORMAT}: it was dropped")
        if self._moved:
            log(f"state of {len(self._moved)} organizations and feeds moved to their new partitions")
        for name, what in (("policy", "policies"), ("topology", "topologies")):
            if what in self._forgotten:
                log(f"{self._topics[name]} was made again: its {what} are read anew")


def _await_empty_group(admin: AdminClient, settings: Settings, log: Log) -> None:
    """Wait until the group's members are forgotten: one that ended counts until its session times out."""
    group, session = settings.worker.group, settings.worker.session_timeout_seconds
    deadline = time.monotonic() + session + _GRACE_SECONDS
    waiting = False
    while count := _members(admin, settings):
        if time.monotonic() > deadline:
            raise UsageError(f"group {group} has {count} running members: stop every worker, then reset")
        if not waiting:
            log(f"group {group} has {count} members: waiting for their session timeout ({session:g} s)")
            waiting = True
        time.sleep(0.1)


def _members(admin: AdminClient, settings: Settings) -> int:
    group = settings.worker.group
    with translated(f"cannot look at group {group}", settings.kafka):
        try:
            described = admin.describe_consumer_groups([group])[group].result(TIMEOUT)
        except KafkaException as exception:
            if exception.args[0].name() != "GROUP_ID_NOT_FOUND":
                raise
            return 0
    return 0 if described.state == ConsumerGroupState.DEAD else len(described.members)
