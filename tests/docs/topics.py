"""Writes docs/topics.md and docs/asyncapi.yaml from the topic table, the schemas and the examples: `make docs`.

What a topic is called and how it is set is in the code (`topic_table`), what its records hold in schemas/, and each
example was read from a real topic (tests/integration/test_schemas.py). Here is only who writes and who reads it.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml

import auditgap
from auditgap import resources
from auditgap.adapters import registry
from auditgap.adapters.kafka import TopicSpec, topic_table
from auditgap.config import Settings
from auditgap.core import times

DOCS: Final = Path(__file__).parents[2] / "docs"
PAGE: Final = DOCS / "topics.md"
DOCUMENT: Final = DOCS / "asyncapi.yaml"

_SETTINGS: Final = Settings.model_construct()
_TOPICS: Final = _SETTINGS.topics
_EXAMPLES: Final[dict[str, Any]] = json.loads((DOCS / "examples" / "records.json").read_text())

_SUBJECT: Final = "the organization's id, or the id of the feed or parent that it is about"


@dataclass(frozen=True)
class Contract:
    """What the topic table does not say of a topic. `ce_type` may end in `*`."""

    key: str
    writers: tuple[str, ...]
    readers: tuple[str, ...]
    ce_type: str = ""
    worker_reads: bool = False


_ANYBODY: Final = "subscribers"

CONTRACTS: Final = {
    _TOPICS.activity: Contract(
        "the organization's id, or the feed's where a record has none",
        ("the collector", "`auditgap publish`"),
        ("`auditgap worker`", "`auditgap report`", _ANYBODY),
        "com.anthropic.compliance.activity.*",
        worker_reads=True,
    ),
    _TOPICS.observation: Contract(
        _SUBJECT,
        ("the collector", "`auditgap publish --observations`", "`auditgap assert`"),
        ("`auditgap worker`", "`auditgap report`"),
        "io.auditgap.compliance.observation",
        worker_reads=True,
    ),
    _TOPICS.policy: Contract(
        "the organization's id; `*` for the defaults, which stand on every partition",
        ("`auditgap policy apply`",),
        ("`auditgap worker`", "`auditgap report`"),
        "io.auditgap.compliance.policy",
        worker_reads=True,
    ),
    _TOPICS.topology: Contract(
        "the subject: an organization's id, or that of a parent or feed",
        ("`auditgap topology apply`",),
        ("`auditgap worker`", "`auditgap report`"),
        "io.auditgap.compliance.topology",
        worker_reads=True,
    ),
    _TOPICS.alert: Contract(
        _SUBJECT,
        ("`auditgap worker`",),
        ("`auditgap alerts`", "`auditgap notify`", _ANYBODY),
        "io.auditgap.compliance.alert.*",
    ),
    _TOPICS.gap: Contract(
        "gap_id (the partition is that of the organization)",
        ("`auditgap worker`",),
        ("`auditgap gaps`", "sinks", _ANYBODY),
        "io.auditgap.compliance.gap",
    ),
    _TOPICS.gap_history: Contract(
        _SUBJECT,
        ("`auditgap worker`",),
        ("`auditgap gaps --history`", "`auditgap report`", "sinks", _ANYBODY),
        "io.auditgap.compliance.gap",
    ),
    _TOPICS.status: Contract(
        _SUBJECT,
        ("`auditgap worker`",),
        ("`auditgap status`", "sinks", _ANYBODY),
        "io.auditgap.compliance.status",
    ),
    _TOPICS.finding: Contract(_SUBJECT, ("`auditgap worker`",), ("a SIEM", _ANYBODY), "io.auditgap.compliance.finding"),
    **{
        name: Contract("that of the record", ("`auditgap worker`",), ("people who look after it",))
        for name in (_TOPICS.activity_dlq, _TOPICS.observation_dlq, _TOPICS.policy_dlq, _TOPICS.topology_dlq)
    },
    _TOPICS.notification_dlq: Contract("that of the alert", ("`auditgap notify`",), ("people who look after it",)),
}
"""Every topic with a contract. The others are the worker's own: their form may change with any version."""

_HEADERS: Final = {
    "ce_specversion": "1.0",
    "ce_id": "Tells records apart: of what is revised it names the revision.",
    "ce_source": "`/feeds/FEED` for what comes from a feed, `/auditgap` for what auditgap says.",
    "ce_type": "What the record is.",
    "ce_time": "When it happened or was produced; absent where the record has no readable time.",
    "ce_subject": "The organization, feed or parent that it is about.",
    "content-type": "The form of the value.",
}
_SIGNATURE: Final = {
    "auditgap_signature_key": "Id of the key that signed the record, if it is signed.",
    "auditgap_signature": "Ed25519 signature, 64 bytes.",
}
_DEAD: Final = {
    "auditgap_dlq_reason": "Why it cannot be used; the reference lists the reasons.",
    "auditgap_dlq_detail": "More of that, for a person.",
    "auditgap_dlq_topic": "The topic it was on.",
    "auditgap_dlq_partition": "Its partition.",
    "auditgap_dlq_offset": "Its offset.",
    "auditgap_dlq_append_time": "When the broker had appended it.",
}


def schema_of(topic: str) -> str | None:
    """Name the schema of a topic's values; None where they are not Avro."""
    return registry.subjects(_TOPICS).get(f"{topic}-value")


def is_dead(topic: str) -> bool:
    """Whether a topic holds dead letters."""
    return topic.endswith(".dlq")


def _schema(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(resources.path("schemas", f"{name}.avsc").read_text())
    return found


def _headers(topic: str) -> dict[str, str]:
    if is_dead(topic):
        return _DEAD
    signed = {_TOPICS.activity, _TOPICS.observation}
    return _HEADERS | (_SIGNATURE if topic in signed else {})


# --- docs/topics.md ---------------------------------------------------------------------------------------------------


def page() -> str:
    """Give the page of all topics."""
    specs = topic_table(_SETTINGS)
    own = [spec for spec in specs if spec.name not in CONTRACTS]
    parts = [
        "# Topics",
        "Generated by `make docs`; do not edit. The same for machines: [asyncapi.yaml](asyncapi.yaml). How to read "
        "them: [subscribing.md](subscribing.md).",
        "Values are Avro in the Confluent wire format (a zero byte, the schema id as four bytes, the record) unless "
        "said otherwise. Headers are CloudEvents 1.0 in binary mode: a consumer can route without decoding. Keys are "
        "text, and choose the partition as Java's default partitioner does. All topics have the same number of "
        "partitions, so all of one organization is on one partition, in order. Records that the worker wrote are "
        "committed in transactions: read with `isolation.level=read_committed`.",
        "\n".join(f"- [`{spec.name}`](#{_anchor(spec.name)}): {spec.what}" for spec in specs if spec not in own),
        *(_section(spec) for spec in specs if spec not in own),
        "## Topics of the worker itself",
        "\n".join(f"- `{spec.name}`: {spec.what}" for spec in own)
        + "\n\nTheir form may change with any version: do not read them.",
    ]
    return "\n\n".join(parts) + "\n"


def _anchor(topic: str) -> str:
    return topic.replace(".", "")


def _section(spec: TopicSpec) -> str:
    contract, name = CONTRACTS[spec.name], schema_of(spec.name)
    facts = [
        ("key", contract.key),
        ("value", _value_of(spec.name, name)),
        ("`ce_type`", f"`{contract.ce_type}`" if contract.ce_type else "that of the record"),
        ("kept", _kept(spec)),
        ("written by", ", ".join(contract.writers)),
        ("read by", ", ".join(contract.readers)),
    ]
    parts = [f"## {spec.name}", f"{spec.what[0].upper()}{spec.what[1:]}.", _table(("", ""), facts)]
    if name is not None:
        shape = _schema(name)
        parts += [shape["doc"], _table(("field", "type", "what"), _fields(shape))]
    if is_dead(spec.name):
        parts.append(_table(("header", "what"), [(f"`{each}`", text) for each, text in _DEAD.items()]))
    if spec.name in _EXAMPLES:
        shown = json.dumps(_EXAMPLES[spec.name], indent=2, ensure_ascii=False)
        parts.append(f"A record, its times as text:\n\n```json\n{shown}\n```")
    elif is_dead(spec.name):
        parts.append(f"An example is with [`{_TOPICS.activity_dlq}`](#{_anchor(_TOPICS.activity_dlq)}).")
    return "\n\n".join(parts)


def _value_of(topic: str, name: str | None) -> str:
    if name is not None:
        return f"Avro, [`{name}.avsc`](../schemas/{name}.avsc), subject `{topic}-value`"
    return "the record's own bytes" if is_dead(topic) else "JSON: OCSF Detection Finding (class 2004)"


def _kept(spec: TopicSpec) -> str:
    if spec.config["cleanup.policy"] == "compact":
        lag = int(spec.config.get("min.compaction.lag.ms", 0)) // 86_400_000
        return "compacted: the latest record of each key" + (f"; all for {lag // 365} years" if lag else "")
    days = int(spec.config["retention.ms"]) // 86_400_000
    return f"{days} days (a setting)" if days > 0 else "for good"


def _fields(shape: dict[str, Any]) -> list[tuple[str, str, str]]:
    return [(f"`{each['name']}`", _type(each["type"]), each.get("doc", "")) for each in shape["fields"]]


def _type(kind: Any) -> str:
    match kind:
        case list():
            return f"{', '.join(_type(each) for each in kind if each != 'null')}{', null' if 'null' in kind else ''}"
        case {"logicalType": "timestamp-micros"}:
            return "time"
        case {"type": "enum"}:
            return " ".join(f"`{each}`" for each in kind["symbols"])
        case {"type": "array"}:
            return f"list of {_type(kind['items'])}"
        case {"type": "record"}:
            return f"{kind['name']} ({', '.join(each['name'] for each in kind['fields'])})"
    return str(kind).rpartition(".")[2]


def _table(head: tuple[str, ...], rows: list[Any]) -> str:
    lines = [head, tuple("---" for _ in head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


# --- docs/asyncapi.yaml -----------------------------------------------------------------------------------------------


def document() -> str:
    """Give the AsyncAPI document."""
    specs = [spec for spec in topic_table(_SETTINGS) if spec.name in CONTRACTS]
    shape = {
        "asyncapi": "3.0.0",
        "info": {
            "title": "auditgap",
            "version": auditgap.__version__,
            "description": "When an Anthropic organization's Compliance API audit feed was switched off, by whom, and "
            "the exact window that nobody recorded. Read committed records only: the worker writes in transactions.",
        },
        "defaultContentType": "application/avro",
        "servers": {
            "kafka": {
                "host": _SETTINGS.kafka.bootstrap_servers,
                "protocol": "kafka",
                "description": "The cluster of AUDITGAP_KAFKA__BOOTSTRAP_SERVERS.",
            }
        },
        "channels": {_id(spec.name): _channel(spec) for spec in specs},
        "operations": {name: each for spec in specs for name, each in _operations(spec.name)},
        "components": {
            "schemas": {
                name: {"schemaFormat": "application/vnd.apache.avro+json;version=1.9.0", "schema": _schema(name)}
                for name in sorted(set(registry.subjects(_TOPICS).values()))
            },
        },
    }
    text = yaml.dump(shape, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)
    return "# Generated by `make docs`; do not edit.\n" + text


class _Dumper(yaml.SafeDumper):
    """Writes out what occurs twice: references of YAML's own are hard to read."""

    def ignore_aliases(self, _data: Any) -> bool:
        return True


def _id(topic: str) -> str:
    return topic.replace(".", "_")


def _channel(spec: TopicSpec) -> dict[str, Any]:
    settings: dict[str, Any] = {
        name: int(value) if value.lstrip("-").isdigit() else value for name, value in spec.config.items()
    }
    settings["cleanup.policy"] = [spec.config["cleanup.policy"]]
    return {
        "address": spec.name,
        "description": f"{spec.what[0].upper()}{spec.what[1:]}. Kept: {_kept(spec)}.",
        "messages": {"record": _message(spec.name)},
        "bindings": {
            "kafka": {
                "topic": spec.name,
                "partitions": _TOPICS.partitions,
                "replicas": _TOPICS.replication,
                "topicConfiguration": settings,
                "bindingVersion": "0.5.0",
            }
        },
    }


def _message(topic: str) -> dict[str, Any]:
    contract, name, sample = CONTRACTS[topic], schema_of(topic), _EXAMPLES.get(topic)
    required = ["ce_specversion", "ce_id", "ce_source", "ce_type", "ce_subject", "content-type"]
    kafka: dict[str, Any] = {"key": {"type": "string", "description": contract.key}, "bindingVersion": "0.5.0"}
    made: dict[str, Any] = {"name": _id(topic)}
    if name is not None:
        made |= {"title": _schema(name)["name"], "contentType": "application/avro"}
        payload: dict[str, Any] = {"$ref": f"#/components/schemas/{name}"}
        kafka |= {
            "schemaIdLocation": "payload",
            "schemaIdPayloadEncoding": "confluent",
            "schemaLookupStrategy": "TopicNameStrategy",
        }
    elif is_dead(topic):
        made |= {"title": "Dead letter", "contentType": "application/octet-stream"}
        payload = {"description": "The record's own bytes."}
        required = list(_DEAD)
    else:
        made |= {"title": "OCSF Detection Finding", "contentType": "application/json"}
        payload = {"type": "object", "description": "OCSF class 2004, as schema.ocsf.io has it."}
    headers = {each: {"type": "string", "description": text} for each, text in _headers(topic).items()}
    if contract.ce_type and not contract.ce_type.endswith("*"):
        headers["ce_type"]["const"] = contract.ce_type
    elif contract.ce_type:
        headers["ce_type"]["pattern"] = "^" + contract.ce_type.replace(".", "\\.").replace("*", ".+$")
    made["headers"] = {"type": "object", "required": required, "properties": headers}
    made["payload"] = payload
    made["bindings"] = {"kafka": kafka}
    if sample is not None:
        value = sample["value"] if isinstance(sample["value"], dict) else {"bytes": sample["value"]}
        payload = value if name is None else _in_avro(value)
        made["examples"] = [{"headers": sample["headers"], "payload": payload}]
    return made


def _in_avro(value: Any, name: str = "") -> Any:
    """Give times, which the examples hold as text, as the schemas have them."""
    match value:
        case dict():
            return {each: _in_avro(inner, each) for each, inner in value.items()}
        case list():
            return [_in_avro(each) for each in value]
        case str() if name.endswith(("_at", "valid_from", "valid_until")):
            return times.parse(value)
    return value


def _operations(topic: str) -> list[tuple[str, dict[str, Any]]]:
    """Say what auditgap does with a topic: it sends to it, or the worker receives from it."""
    contract = CONTRACTS[topic]
    channel = {"channel": {"$ref": f"#/channels/{_id(topic)}"}}
    who = {"summary": f"Written by {', '.join(contract.writers)}. Read by {', '.join(contract.readers)}."}
    made = [(f"send_{_id(topic)}", {"action": "send", **channel, **who})]
    if contract.worker_reads:
        made.append((f"receive_{_id(topic)}", {"action": "receive", **channel, **who}))
    return made


if __name__ == "__main__":
    PAGE.write_text(page())
    DOCUMENT.write_text(document())
