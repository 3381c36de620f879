"""Kafka through confluent-kafka: client settings, the topic table, reading committed records, and the error map."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

from aiokafka.partitioner import murmur2
from confluent_kafka import (
    OFFSET_BEGINNING,
    Consumer,
    KafkaError,
    KafkaException,
    Message,
    Producer,
    TopicCollection,
    TopicPartition,
)
from confluent_kafka.admin import (
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    NewPartitions,
    NewTopic,
    ResourceType,
)

from auditgap.config import KafkaSettings, Settings
from auditgap.core.inputs import key_of
from auditgap.errors import BrokerError, UsageError

Log = Callable[[str], None]

TIMEOUT: Final = 15.0
"""Seconds that one request to the cluster may take before it is called a failure."""

PARTITIONER: Final = "murmur2_random"
"""Java's default: librdkafka's own default (CRC32) would put an organization on another partition."""


def client_config(settings: KafkaSettings) -> dict[str, Any]:
    """Translate the settings for librdkafka."""
    config: dict[str, Any] = {
        "bootstrap.servers": settings.bootstrap_servers,
        "security.protocol": settings.security_protocol,
        "client.id": "auditgap",
        # Its own log lines go nowhere a person looks; what matters arrives as errors.
        "log_level": 2,
    }
    if settings.sasl_mechanism:
        config["sasl.mechanism"] = settings.sasl_mechanism
    if settings.sasl_username and settings.sasl_password:
        config["sasl.username"] = settings.sasl_username
        config["sasl.password"] = settings.sasl_password.get_secret_value()
    for name in ("ssl_ca_location", "ssl_certificate_location", "ssl_key_location"):
        if (path := getattr(settings, name)) is not None:
            config[name.replace("_", ".")] = str(path)
    if settings.ssl_key_password:
        config["ssl.key.password"] = settings.ssl_key_password.get_secret_value()
    return config


# --- errors -----------------------------------------------------------------------------------------------------------

_NEEDED: Final = ": docs/security.md lists what is needed"

_ADVICE: Final = {
    KafkaError._ALL_BROKERS_DOWN: "no broker answers",
    KafkaError._TRANSPORT: "no broker answers",
    KafkaError._TIMED_OUT: "no broker answers in time",
    KafkaError._AUTHENTICATION: "the broker refuses the credentials (AUDITGAP_KAFKA__SASL_…)",
    KafkaError._SSL: "TLS fails: look at AUDITGAP_KAFKA__SSL_… and at the broker's certificate",
    KafkaError._RESOLVE: "the host name is not known",
    KafkaError._UNKNOWN_TOPIC: "the topic does not exist: run `auditgap topics apply`",
    KafkaError.UNKNOWN_TOPIC_OR_PART: "the topic does not exist: run `auditgap topics apply`",
    KafkaError.TOPIC_AUTHORIZATION_FAILED: f"the broker's ACLs refuse the topic{_NEEDED}",
    KafkaError.GROUP_AUTHORIZATION_FAILED: f"the broker's ACLs refuse the consumer group{_NEEDED}",
    KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED: f"the broker's ACLs refuse the transactional id{_NEEDED}",
    KafkaError.CLUSTER_AUTHORIZATION_FAILED: f"the broker's ACLs refuse it{_NEEDED}",
}


AWAY: Final = frozenset(
    {KafkaError._ALL_BROKERS_DOWN, KafkaError._TRANSPORT, KafkaError._TIMED_OUT, KafkaError._RESOLVE}
)
"""The broker is away: librdkafka goes on trying by itself, though it does not call these retriable."""


def explain(error: KafkaError) -> str:
    """Say in a clause what a Kafka error means, and what to do where that is known."""
    advice = _ADVICE.get(error.code())
    return f"{advice} ({error.name()})" if advice else f"{error.str()} ({error.name()})"


@contextmanager
def translated(doing: str, settings: KafkaSettings) -> Iterator[None]:
    """Turn confluent-kafka's exceptions into BrokerError, in one place."""
    try:
        yield
    except (KafkaException, TimeoutError) as exception:
        # A TimeoutError is of waiting for an answer, where librdkafka's own time limit is no shorter.
        error = exception.args[0] if isinstance(exception, KafkaException) else None
        why = explain(error) if error is not None else "no broker answers in time"
        if error is None or error.code() in AWAY:
            why = _refusal(settings) or why
        raise BrokerError(f"Kafka at {settings.bootstrap_servers}: {doing}: {why}") from None


_LISTEN_SECONDS: Final = 5.0
_CLOSED: Final = "the broker closes the connection: look at AUDITGAP_KAFKA__SECURITY_PROTOCOL"


def _refusal(settings: KafkaSettings) -> str | None:
    """Ask a broker that seems to be away once more, and listen: a request itself is never told that it was refused.

    Give what there is to say beyond that it is away. A listener of another protocol closes the connection: librdkafka
    calls the broker down then, but does not say that it could not connect, or it speaks of the handshake.
    """
    heard: list[KafkaError] = []
    client = Producer({**client_config(settings), "error_cb": heard.append})
    deadline = time.monotonic() + _LISTEN_SECONDS
    while time.monotonic() < deadline:
        with suppress(KafkaException):
            client.list_topics(timeout=0.5)
            return None
        client.poll(0)
        for error in heard:
            if error.code() in (KafkaError._AUTHENTICATION, KafkaError._SSL):
                return explain(error)
        if any(error.code() == KafkaError._ALL_BROKERS_DOWN for error in heard):
            others = [error for error in heard if error.code() != KafkaError._ALL_BROKERS_DOWN]
            connected = all("SSL_HANDSHAKE" in error.str() for error in others)
            return _CLOSED if connected else None
    return None


# --- topics -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class TopicSpec:
    """A topic as it has to be. `config` is what is set beyond the broker's defaults."""

    name: str
    what: str
    config: Mapping[str, str]


_COMPACTED: Final = {"cleanup.policy": "compact", "min.cleanable.dirty.ratio": "0.1", "segment.ms": "3600000"}
_FOREVER: Final = {"cleanup.policy": "delete", "retention.ms": "-1", "retention.bytes": "-1"}
_RECORD_BYTES: Final = {"max.message.bytes": "2097152"}

_SIX_YEARS: Final = {"min.compaction.lag.ms": str(6 * 365 * 86_400_000)}
"""As long as the vendor keeps activities: an opening is judged by the version of its time, and a version that a
stranger wrote does not take the place of the one before."""


def topic_table(settings: Settings) -> list[TopicSpec]:
    """List every topic: all with the same partitions, all keyed so that one organization is on one partition.

    Topics stamp records with the broker's clock (LogAppendTime): admission rests on it.
    """
    topics = settings.topics
    stamped = {"message.timestamp.type": "LogAppendTime"}
    kept = {"cleanup.policy": "delete", "retention.ms": str(int(topics.retention_days * 86_400_000))}
    # A dead letter is the record and its reason: it must fit wherever the record did.
    dead = {**_FOREVER, **stamped, "max.message.bytes": "4194304"}
    mailbox = settings.worker.mailbox
    return [
        TopicSpec(topics.activity, "the feed: one record per activity", {**kept, **stamped, **_RECORD_BYTES}),
        TopicSpec(topics.activity_dlq, "activities that could not be used, with the reason", dead),
        TopicSpec(topics.observation, "what collectors saw for themselves", {**kept, **stamped, **_RECORD_BYTES}),
        TopicSpec(topics.observation_dlq, "observations that could not be used, with the reason", dead),
        TopicSpec(topics.alert, "alerts, every revision", {**kept, **stamped}),
        TopicSpec(topics.gap, "latest revision of each gap", {**_COMPACTED, **stamped}),
        TopicSpec(topics.gap_history, "every revision of each gap, chained by digest", {**_FOREVER, **stamped}),
        TopicSpec(topics.status, "whether each organization is audited now", {**_COMPACTED, **stamped}),
        TopicSpec(
            topics.finding, "each revision of each gap as an OCSF Detection Finding, in JSON", {**kept, **stamped}
        ),
        TopicSpec(
            topics.policy,
            "versions of each organization's policy, chained by digest; key * for the defaults",
            {**_COMPACTED, **_SIX_YEARS, **stamped, **_RECORD_BYTES},
        ),
        TopicSpec(topics.policy_dlq, "versions of a policy that were refused, with the reason", dead),
        TopicSpec(
            topics.topology,
            "versions of what each parent, feed and organization is linked to, chained by digest",
            {**_COMPACTED, **_SIX_YEARS, **stamped, **_RECORD_BYTES},
        ),
        TopicSpec(topics.topology_dlq, "versions of the topology that were refused, with the reason", dead),
        TopicSpec(topics.notification_dlq, "alerts that nobody could be told of, with the reason", dead),
        TopicSpec(
            mailbox,
            "what partitions tell each other, and ticks",
            {**kept, **stamped, **_RECORD_BYTES},
        ),
        TopicSpec(settings.worker.mailbox_dlq, "what was in the mailbox and could not be used", dead),
        TopicSpec(settings.worker.changelog, "the worker's state", {**_COMPACTED, **stamped, **_RECORD_BYTES}),
    ]


def input_topics(settings: Settings) -> dict[str, str]:
    """Name the topics that the worker reads, by what they are: the activities, then the others.

    Of records that were appended at the same time those of an earlier topic count first.
    """
    topics = settings.topics
    return {
        "activity": topics.activity,
        "policy": topics.policy,
        "topology": topics.topology,
        "observation": topics.observation,
        "mailbox": settings.worker.mailbox,
    }


def dead_letters_of(settings: Settings) -> dict[str, str]:
    """Name the topic for the dead letters of each input topic."""
    topics, worker = settings.topics, settings.worker
    return {
        topics.activity: topics.activity_dlq,
        topics.policy: topics.policy_dlq,
        topics.topology: topics.topology_dlq,
        topics.observation: topics.observation_dlq,
        worker.mailbox: worker.mailbox_dlq,
    }


def apply_topics(settings: Settings, log: Log) -> bool:
    """Create what is missing and set what differs; True if anything was changed. Partitions are never reduced."""
    with translated("cannot apply the topics", settings.kafka):
        admin = AdminClient(client_config(settings.kafka))
        existing = admin.list_topics(timeout=TIMEOUT).topics
        changed = False
        for spec in topic_table(settings):
            if spec.name not in existing:
                _create(admin, spec, settings)
                log(f"created {spec.name}: {spec.what}")
                changed = True
                continue
            have = len(existing[spec.name].partitions)
            want = settings.topics.partitions
            if have > want:
                raise UsageError(
                    f"topic {spec.name} has {have} partitions, the setting says {want}: partitions cannot be taken "
                    f"away; set AUDITGAP_TOPICS__PARTITIONS={have}"
                )
            if have < want:
                admin.create_partitions([NewPartitions(spec.name, want)])[spec.name].result(TIMEOUT)
                log(f"widened {spec.name} from {have} to {want} partitions")
                changed = True
            changed |= _configure(admin, spec, log)
        return changed


def create_topic(settings: Settings, name: str, partitions: int) -> bool:
    """Create a topic that is none of the worker's, unless it is there; True if it was created. Raises BrokerError."""
    with translated(f"cannot create the topic {name}", settings.kafka):
        admin = AdminClient(client_config(settings.kafka))
        return _created(admin, NewTopic(name, partitions, settings.topics.replication))


def _create(admin: AdminClient, spec: TopicSpec, settings: Settings) -> None:
    topics = settings.topics
    new = NewTopic(
        spec.name, num_partitions=topics.partitions, replication_factor=topics.replication, config=dict(spec.config)
    )
    _created(admin, new)


def _created(admin: AdminClient, new: NewTopic) -> bool:
    try:
        admin.create_topics([new])[new.topic].result(TIMEOUT)
    except KafkaException as exception:
        if exception.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
            raise
        return False
    return True


def _configure(admin: AdminClient, spec: TopicSpec, log: Log) -> bool:

    resource = ConfigResource(ResourceType.TOPIC, spec.name)
    current = admin.describe_configs([resource])[resource].result(TIMEOUT)
    differing = {name: value for name, value in spec.config.items() if current[name].value != value}
    if not differing:
        return False
    entries = [
        ConfigEntry(name, value, incremental_operation=AlterConfigOpType.SET) for name, value in differing.items()
    ]
    change = ConfigResource(ResourceType.TOPIC, spec.name, incremental_configs=entries)
    admin.incremental_alter_configs([change])[change].result(TIMEOUT)
    log(f"set on {spec.name}: {', '.join(f'{name}={value}' for name, value in differing.items())}")
    return True


@dataclass(frozen=True, slots=True)
class TopicIdentity:
    """What makes a topic this very topic: a topic that was deleted and made again has another id."""

    topic_id: str
    partitions: int
    cluster_id: str


def identify(admin: AdminClient, topics: list[str], settings: KafkaSettings) -> dict[str, TopicIdentity]:
    """Ask the cluster who these topics are; one that does not exist is left out. Raises BrokerError."""
    with translated("cannot describe the topics", settings):
        cluster = admin.describe_cluster(request_timeout=TIMEOUT).result(TIMEOUT)
        futures = admin.describe_topics(TopicCollection(topics), request_timeout=TIMEOUT)
        found = {}
        for name, future in futures.items():
            try:
                described = future.result(TIMEOUT)
            except KafkaException as exception:
                if exception.args[0].code() == KafkaError.UNKNOWN_TOPIC_OR_PART:
                    continue
                raise
            found[name] = TopicIdentity(str(described.topic_id), len(described.partitions), cluster.cluster_id)
        return found


def stamps_append_time(admin: AdminClient, topic: str, settings: KafkaSettings) -> bool:
    """Whether the broker stamps the topic's records with its own clock."""
    resource = ConfigResource(ResourceType.TOPIC, topic)
    with translated(f"cannot describe {topic}", settings):
        described = admin.describe_configs([resource])[resource].result(TIMEOUT)
    return bool(described["message.timestamp.type"].value == "LogAppendTime")


# --- reading ----------------------------------------------------------------------------------------------------------


def committed_reader(settings: Settings, group: str = "auditgap-reader", *, follow: bool = False) -> Consumer:
    """Make a consumer of committed records that is told where a partition ends, and commits nothing."""
    return Consumer(
        {
            **client_config(settings.kafka),
            "group.id": group,
            "enable.auto.commit": False,
            "isolation.level": "read_committed",
            "enable.partition.eof": True,
            "auto.offset.reset": "error",
            "fetch.queue.backoff.ms": 10,
            # The end is told of by the answer to a fetch, which the broker otherwise holds back for half a second.
            "fetch.wait.max.ms": 500 if follow else 20,
        }
    )


def read_committed(settings: Settings, topic: str, *, follow: bool = False) -> Iterator[Message]:
    """Give every committed record of a topic, oldest first per partition; ends at its end unless it follows.

    Needs no consumer group. Raises BrokerError.
    """
    with translated(f"cannot read {topic}", settings.kafka):
        consumer = committed_reader(settings, follow=follow)
        try:
            metadata = consumer.list_topics(topic, timeout=TIMEOUT).topics[topic]
            if metadata.error is not None:
                raise KafkaException(metadata.error)
            parts = [TopicPartition(topic, number, OFFSET_BEGINNING) for number in metadata.partitions]
            consumer.assign(parts)
            open_parts = set(metadata.partitions)
            while open_parts or follow:
                # It waits for all thousand or the time, so a long time would hold back every record that comes alone.
                for message in consumer.consume(1000, 0.05):
                    error = message.error()
                    if error is None:
                        yield message
                    elif error.code() == KafkaError._PARTITION_EOF:
                        open_parts.discard(message.partition())
                    elif stops_reading(error) and not (follow and error.code() in AWAY):
                        raise KafkaException(error)
        finally:
            consumer.close()


def stops_reading(error: KafkaError) -> bool:
    """Whether an error of a `committed_reader` is one: librdkafka looks for its group, which is not used, unasked."""
    return not error.retriable() and error.code() != KafkaError.GROUP_AUTHORIZATION_FAILED


@lru_cache(65_536)
def partition_of(subject: str, partitions: int) -> int:
    """Name the partition a subject belongs to: what Java's partitioner makes of its key."""
    return int((murmur2(key_of(subject).encode("utf-8", "surrogatepass")) & 0x7FFFFFFF) % partitions)


def is_home(number: int, partitions: int, subject: str) -> bool:
    """Say whether a subject belongs to a partition of so many."""
    return partition_of(subject, partitions) == number
