"""What each part of auditgap may do on the cluster, as ACLs: the table behind docs/security.md and the tests of it."""

import json
from dataclasses import dataclass

from confluent_kafka.admin import AclBinding, AclOperation, AclPermissionType, ResourcePatternType, ResourceType

from auditgap import resources
from auditgap.adapters.kafka import dead_letters_of, input_topics, topic_table
from auditgap.config import Settings


@dataclass(frozen=True)
class Rule:
    """Operations on resources of one kind; with `prefix` the names are beginnings of names."""

    kind: str
    names: tuple[str, ...]
    operations: tuple[str, ...]
    prefix: bool = False

    def bindings(self, user: str) -> list[AclBinding]:
        """Write it for a user as Kafka takes it."""
        pattern = ResourcePatternType.PREFIXED if self.prefix else ResourcePatternType.LITERAL
        return [
            AclBinding(
                ResourceType[self.kind],
                name,
                pattern,
                f"User:{user}",
                "*",
                AclOperation[operation],
                AclPermissionType.ALLOW,
            )
            for name in self.names
            for operation in self.operations
        ]


def parts(settings: Settings) -> dict[str, list[Rule]]:
    """Say what each part needs; READ, WRITE and ALTER imply DESCRIBE, ALTER_CONFIGS DESCRIBE_CONFIGS."""
    topics, worker = settings.topics, settings.worker
    everything = tuple(spec.name for spec in topic_table(settings))
    inputs = tuple(input_topics(settings).values())
    outputs = (topics.alert, topics.gap, topics.gap_history, topics.status, topics.finding)

    def topic(*names: str, may: tuple[str, ...]) -> Rule:
        return Rule("TOPIC", names, may)

    def versions(name: str) -> list[Rule]:
        return [
            topic(name, may=("READ", "WRITE", "DESCRIBE_CONFIGS")),
            Rule("TRANSACTIONAL_ID", (f"{name}.apply",), ("WRITE",)),
        ]

    return {
        "auditgap worker": [
            topic(*inputs, may=("READ", "WRITE", "DESCRIBE_CONFIGS")),
            topic(*outputs, *dead_letters_of(settings).values(), may=("WRITE",)),
            topic(worker.changelog, may=("READ", "WRITE")),
            Rule("GROUP", (worker.group,), ("READ",)),
            Rule("TRANSACTIONAL_ID", (f"{worker.group}-",), ("WRITE",), prefix=True),
        ],
        **_sinks(),
        "auditgap publish": [topic(topics.activity, topics.observation, may=("WRITE",))],
        "auditgap assert": [topic(topics.observation, may=("WRITE",))],
        "auditgap policy apply": versions(topics.policy),
        "auditgap topology apply": versions(topics.topology),
        "auditgap topics apply": [
            topic(*everything, may=("CREATE", "ALTER", "ALTER_CONFIGS")),
        ],
        "auditgap gaps": [topic(topics.gap, topics.gap_history, may=("READ",))],
        "auditgap alerts": [topic(topics.alert, may=("READ",))],
        "auditgap status": [topic(topics.status, may=("READ",))],
        "auditgap report": [
            topic(*inputs, topics.gap, topics.gap_history, may=("READ", "DESCRIBE_CONFIGS")),
            Rule("GROUP", (worker.group,), ("DESCRIBE",)),
        ],
        "auditgap notify": [
            topic(topics.alert, may=("READ",)),
            Rule("GROUP", (settings.notify.group,), ("READ",)),
            topic(topics.notification_dlq, may=("WRITE",)),
            topic(topics.activity, topics.observation, may=("WRITE",)),
        ],
        "a subscriber": [
            topic(topics.alert, may=("READ",)),
            Rule("GROUP", ("my-pager",), ("READ",)),
        ],
    }


def _sinks() -> dict[str, list[Rule]]:
    """Say what Kafka Connect needs, and `connect apply`, by the shipped files."""
    files = sorted(resources.path("connectors").glob("*/*.json"))
    configs = [json.loads(file.read_text())["config"] for file in files]

    def named(field: str) -> tuple[str, ...]:
        return tuple(sorted({config[field] for config in configs if field in config}))

    control = named("iceberg.control.topic")
    own = tuple(f"auditgap.connect.{what}" for what in ("config", "offset", "status"))
    return {
        "Kafka Connect": [
            Rule("TOPIC", own, ("CREATE", "READ", "WRITE", "DESCRIBE_CONFIGS")),
            Rule("TOPIC", named("topics"), ("READ",)),
            Rule("TOPIC", named("errors.deadletterqueue.topic.name"), ("CREATE", "WRITE")),
            Rule("TOPIC", control, ("READ", "WRITE")),
            Rule("GROUP", ("auditgap-connect",), ("READ",)),
            Rule("GROUP", ("connect-compliance.", *named("iceberg.control.group-id-prefix")), ("READ",), prefix=True),
            Rule("TRANSACTIONAL_ID", named("iceberg.coordinator.transactional.prefix"), ("WRITE",), prefix=True),
        ],
        "auditgap connect apply": [Rule("TOPIC", control, ("CREATE",))],
    }
