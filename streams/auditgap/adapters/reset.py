"""`auditgap worker --reset-input`: accept the input topic as it is now, keep the state, set the position anew."""

import time
from typing import Final

from confluent_kafka import Consumer, ConsumerGroupState, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient

from auditgap.adapters import state
from auditgap.adapters.kafka import TIMEOUT, Log, client_config, identify, partition_of, translated
from auditgap.adapters.outbox import Outbox
from auditgap.config import Settings
from auditgap.core.shard import split_key
from auditgap.errors import BrokerError, UsageError

_GRACE_SECONDS: Final = 2.0


def reset_input(settings: Settings, where: str, log: Log) -> None:
    """Set the group's position to the beginning ("earliest") or the end ("latest") of the input topic as it is now.

    The state is kept, and moved where a changed partition count wants it. Everything happens in one transaction.
    Raises UsageError while workers of the group are running, and BrokerError.
    """
    topic, servers = settings.topics.activity, settings.kafka.bootstrap_servers
    admin = AdminClient(client_config(settings.kafka))
    _await_empty_group(admin, settings, log)
    found = identify(admin, [topic, settings.worker.changelog], servers)
    for name in (topic, settings.worker.changelog):
        if name not in found:
            raise BrokerError(f"Kafka at {servers} has no topic {name}: run `auditgap topics apply`")
    identity, count = found[topic], found[topic].partitions
    if found[settings.worker.changelog].partitions != count:
        raise UsageError(
            f"topic {topic} has {count} partitions, {settings.worker.changelog} has "
            f"{found[settings.worker.changelog].partitions}: set AUDITGAP_TOPICS__PARTITIONS={count} and run "
            "`auditgap topics apply`"
        )
    changelog = state.raw_changelog(settings, range(count))
    member = Consumer({**client_config(settings.kafka), "group.id": settings.worker.group, "enable.auto.commit": False})
    outbox = Outbox(settings, f"{settings.worker.instance_id}-reset")
    try:
        outbox.start()
        moved = set()
        for number, records in changelog.items():
            for key, value in records.items():
                if key.startswith(b"@"):
                    continue
                subject, _ = split_key(key.decode("utf-8", "surrogatepass"))
                if (home := partition_of(subject, count)) != number:
                    outbox.send(settings.worker.changelog, key, value, None, home)
                    outbox.send(settings.worker.changelog, key, None, None, number)
                    moved.add(subject)
            outbox.send(settings.worker.changelog, state.INPUT_KEY, state.input_value(identity, topic), None, number)
            outbox.send(settings.worker.changelog, state.START_KEY, state.dumps({}), None, number)
            outbox.send(settings.worker.changelog, state.ATTEMPT_KEY, state.dumps({}), None, number)
        offsets = []
        with translated(f"cannot find the bounds of {topic}", servers):
            for number in range(count):
                low, high = member.get_watermark_offsets(TopicPartition(topic, number), timeout=TIMEOUT)
                offsets.append(TopicPartition(topic, number, low if where == "earliest" else high))
        outbox.commit(offsets, member.consumer_group_metadata())
    finally:
        member.close()
    positions = ", ".join(f"{each.partition}: {each.offset}" for each in offsets)
    log(f"the input is {topic} as it is now ({count} partitions, id {identity.topic_id}); positions {positions}")
    if moved:
        log(f"state of {len(moved)} organizations and feeds moved to their new partitions")


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
    with translated(f"cannot look at group {group}", settings.kafka.bootstrap_servers):
        try:
            described = admin.describe_consumer_groups([group])[group].result(TIMEOUT)
        except KafkaException as exception:
            if exception.args[0].name() != "GROUP_ID_NOT_FOUND":
                raise
            return 0
    return 0 if described.state == ConsumerGroupState.DEAD else len(described.members)
