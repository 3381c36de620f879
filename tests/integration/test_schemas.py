"""The contract on a real registry: registering, and readers that share nothing with auditgap read every topic."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import pytest
import requests
from confluent_kafka import Message
from confluent_kafka.schema_registry import SchemaRegistryClient
from confluent_kafka.schema_registry.avro import AvroDeserializer
from confluent_kafka.serialization import MessageField, SerializationContext
from tests.support import maven
from tests.support.feed import Wire, ago, record, settings
from tests.support.registry import confluent_url
from tests.support.site import Site, headers
from tests.support.workers import Workers, environment

from auditgap.adapters import avro, kafka_jars
from auditgap.adapters.registry import subjects
from auditgap.config import RegistrySettings, TopicSettings
from auditgap.core import times

EXAMPLES: Final = Path(__file__).parents[2] / "docs" / "examples"

AVRO_JAR: Final = (
    "org.apache.avro:avro:1.12.1",
    "72600f057bfbe2efe35fa55433e7756d45667dc938934be38a6e2be368aca237",
)
COMPILER_JAR: Final = (
    "org.eclipse.jdt:ecj:3.46.0",
    "d0d43f8e2d7003e5efed612e2cbb5f01870043397d8f1bbe536fd9128f4fcbf7",
)

POLICY: Final = "author: jane.doe@example.com\ndefaults:\n  owners:\n    emails: [who@example.com]\n"
TOPOLOGY: Final = "author: jane.doe@example.com\nfeeds: [feed_main]\norganizations:\n  org_1: {feeds: [feed_main]}\n"


@pytest.fixture
def site(site: Site, registry: str) -> Site:
    """Topics of the test's own, with a registry."""
    with_registry = RegistrySettings(url=confluent_url(registry))
    site.settings = site.settings.model_copy(update={"registry": with_registry})
    return site


def run(site: Site, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a command to its end; it never shows a traceback."""
    command = [sys.executable, "-m", "auditgap", *arguments]
    env = environment(site.settings)
    ran = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60, check=False)
    assert "Traceback" not in ran.stderr, ran.stderr
    return ran


def fine(site: Site, *arguments: str) -> str:
    """Run a command that succeeds; gives its messages."""
    ran = run(site, *arguments)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stderr


def client_of(site: Site) -> SchemaRegistryClient:
    """Make a plain client of the registry; close it."""
    return SchemaRegistryClient({"url": site.settings.registry.url, "timeout": 15.0})


# --- registering ------------------------------------------------------------------------------------------------------


def test_register_is_idempotent_and_guards(site: Site) -> None:
    """All subjects are registered and guarded by the registry itself; a second run does nothing, a check passes."""
    named = subjects(site.settings.topics)
    said = fine(site, "schemas", "register").splitlines()
    assert len(said) == 2 * len(named)
    for subject, name in named.items():
        assert any(line.startswith(f"registered schemas/{name}.avsc under {subject}: id ") for line in said)
        assert f"set the compatibility of {subject} to FULL_TRANSITIVE" in said
    with client_of(site) as client:
        assert {subject: client.get_versions(subject) for subject in named} == {subject: [1] for subject in named}
        assert {client.get_compatibility(subject) for subject in named} == {"FULL_TRANSITIVE"}

        assert fine(site, "schemas", "register").startswith("nothing to do: ")
        assert {subject: client.get_versions(subject) for subject in named} == {subject: [1] for subject in named}
    checked = run(site, "schemas", "check")
    assert checked.returncode == 0
    assert [line for line in checked.stdout.splitlines() if "incompatible" in line] == []
    assert f"gap: compatible with {site.settings.topics.gap_history}-value version 1\n" in checked.stdout


def test_incompatible_version_is_refused(site: Site) -> None:
    """Where the registry holds what this version would break, nothing is registered, and it is said what breaks."""
    subject = f"{site.settings.topics.alert}-value"
    shape = json.loads(avro.schema_text("alert"))
    shape["fields"].append({"name": "ticket", "type": "string"})
    register_as_anybody(site, subject, shape)
    for command in ("register", "check"):
        ran = run(site, "schemas", command)
        assert ran.returncode == 1
        assert (
            f"alert: incompatible with {subject} version 1\n"
            "  ticket: is missing on the other side and has no default, so readers of the old version cannot read new"
        ) in ran.stdout
    with client_of(site) as client:
        assert [each for each in subjects(site.settings.topics) if each in client.get_subjects()] == [subject]


def test_registry_refuses_a_stranger(site: Site) -> None:
    """Once registered, the registry itself refuses a version that breaks readers, whoever brings it."""
    fine(site, "schemas", "register")
    subject = f"{site.settings.topics.gap}-value"
    shape = json.loads(avro.schema_text("gap"))
    shape["fields"] = [each for each in shape["fields"] if each["name"] != "gap_id"]
    url = f"{site.settings.registry.url}/subjects/{subject}/versions"
    answer = requests.post(url, json={"schema": json.dumps(shape)}, timeout=15)
    assert answer.status_code == 409, answer.text


def test_worker_without_registered_schemas_says_so(site: Site, workers: Workers) -> None:
    """The worker never registers: it ends, and says which command does."""
    workers.start(site).assert_refuses(1, "does not know the schema of", "auditgap schemas register")


def register_as_anybody(site: Site, subject: str, shape: dict[str, Any]) -> None:
    """Register a schema without auditgap."""
    url = f"{site.settings.registry.url}/subjects/{subject}/versions"
    requests.post(url, json={"schema": json.dumps(shape)}, timeout=15).raise_for_status()


# --- reading ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Filled:
    """A site whose worker took in a feed with one window, and ended."""

    site: Site
    records: dict[str, list[Message]]
    """What is on each topic that has a contract, by name; the dead letters as well."""

    @property
    def avro(self) -> dict[str, list[Message]]:
        """The topics whose values are Avro."""
        named = subjects(self.site.settings.topics)
        return {name: found for name, found in self.records.items() if f"{name}-value" in named}


@pytest.fixture
def filled(site: Site, workers: Workers, tmp_path: Path) -> Filled:
    """Fill every topic, each command and the worker with the ids of the registry."""
    fine(site, "schemas", "register")
    (tmp_path / "policy.yaml").write_text(POLICY)
    fine(site, "policy", "apply", str(tmp_path / "policy.yaml"))
    (tmp_path / "topology.yaml").write_text(TOPOLOGY)
    fine(site, "topology", "apply", str(tmp_path / "topology.yaml"))
    worker = workers.start(site).await_ready()
    feed = [
        record("act_last", "org_1", ago(600)),
        settings("act_off", "org_1", ago(590), logging=False),
        record("act_inside", "org_1", ago(580)),
        settings("act_on", "org_1", ago(570), logging=True),
        record("act_first", "org_1", ago(560)),
    ]
    seen = {
        "kind": "settings_poll",
        "result": "enabled",
        "observed_at": times.text_of(ago(550)),
        "organization_id": "org_1",
        "feed_id": "feed_main",
    }
    (tmp_path / "feed.ndjson").write_text("\n".join(map(json.dumps, feed)))
    (tmp_path / "seen.ndjson").write_text(json.dumps(seen))
    fine(site, "publish", str(tmp_path / "feed.ndjson"), "--feed", "feed_main")
    fine(site, "publish", "--observations", str(tmp_path / "seen.ndjson"))
    site.produce([Wire(b"org_1", b"not Avro", None)])
    workers.finish(site, worker)
    assert worker.stop() == 0
    topics = site.settings.topics
    names = [subject.removesuffix("-value") for subject in subjects(topics)] + [topics.finding, topics.activity_dlq]
    return Filled(site, {name: site.read(name) for name in names})


def plain(value: Any) -> Any:
    """Give times as the schema has them: microseconds."""
    match value:
        case datetime():
            return times.of(value)
        case dict():
            return {name: plain(each) for name, each in value.items()}
        case list():
            return [plain(each) for each in value]
    return value


def by_registry(filled: Filled) -> dict[str, list[dict[str, Any]]]:
    """Decode every Avro topic by a plain client of the registry, with nothing of auditgap's."""
    decoded = {}
    with client_of(filled.site) as client:
        read = AvroDeserializer(client)
        for topic, messages in filled.avro.items():
            context = SerializationContext(topic, MessageField.VALUE)
            good = [each for each in messages if each.value() != b"not Avro"]
            decoded[topic] = [plain(read(each.value(), context)) for each in good]
    return decoded


def test_plain_clients_read_every_topic(filled: Filled) -> None:
    """A confluent-kafka deserializer and Apache Avro's Java classes read every Avro topic, and read the same."""
    topics = filled.site.settings.topics
    found = by_registry(filled)
    (gap,) = {each["gap_id"] for each in found[topics.gap]}
    latest = max((each for each in found[topics.gap] if each["gap_id"] == gap), key=lambda each: each["revision"])
    assert (latest["state"], latest["opened_by_id"], latest["closed_by_id"]) == ("CLOSED", "act_off", "act_on")
    assert (latest["last_activity_id"], latest["first_activity_id"]) == ("act_last", "act_first")
    assert {each["id"] for each in found[topics.activity]} == {
        "act_last",
        "act_off",
        "act_inside",
        "act_on",
        "act_first",
    }
    assert {"logging_disabled", "logging_restored"} <= {each["kind"] for each in found[topics.alert]}
    assert [each["kind"] for each in found[topics.observation]] == ["settings_poll"]
    assert {each["version"] for each in found[topics.policy]} == {1}
    assert {each["subject"] for each in found[topics.topology]} == {"feed/feed_main", "org_1"}
    assert "org_1" in {each["organization_id"] for each in found[topics.status]}
    for subject, name in subjects(topics).items():
        fields = [each["name"] for each in json.loads(avro.schema_text(name))["fields"]]
        assert all(list(each) == fields for each in found[subject.removesuffix("-value")]), subject

    count = sum(map(len, found.values()))
    by_java: dict[str, list[Any]] = {topic: [] for topic in found}
    # The Java example stops at a value in another format, as it should; so it reads from the other topics.
    wanted = {topic: records for topic, records in found.items() if topic != topics.activity}
    assert count > len(found[topics.activity]) > 0
    for line in java_lines(filled.site, list(wanted), sum(map(len, wanted.values()))):
        topic, _, text = line.partition("\t")
        by_java[topic].append(json.loads(text))
    for topic, records in wanted.items():
        assert sorted(by_java[topic], key=json.dumps) == sorted(records, key=json.dumps), topic


# --- examples ---------------------------------------------------------------------------------------------------------


def test_examples_are_what_is_on_the_topics(filled: Filled) -> None:
    """docs/examples/records.json has a record of every topic, with the key, headers and fields that it has there.

    `AUDITGAP_TEST_GOLDEN=write` writes it anew; `make docs` then takes it into the pages.
    """
    path = EXAMPLES / "records.json"
    found = examples(filled)
    if os.environ.get("AUDITGAP_TEST_GOLDEN") == "write":
        path.write_text(json.dumps(found, indent=2, ensure_ascii=False) + "\n")
    kept = json.loads(path.read_text())
    assert {topic: form(each) for topic, each in kept.items()} == {topic: form(each) for topic, each in found.items()}


def examples(filled: Filled) -> dict[str, Any]:
    """Choose a record of each topic, under the topic's usual name, for people: times as text."""
    topics, usual, found = filled.site.settings.topics, TopicSettings(), by_registry(filled)
    chosen: dict[str, Callable[[dict[str, Any]], Any]] = {
        "activity": lambda value: value["id"] == "act_off",
        "alert": lambda value: value["kind"] == "logging_disabled",
        "gap": lambda value: value["state"] == "CLOSED" and value["first_activity_id"],
        "gap_history": lambda value: value["state"] == "OPEN",
        "status": lambda value: value["organization_id"] == "org_1",
        "topology": lambda value: value["subject"] == "org_1",
        "observation": lambda _: True,
        "policy": lambda _: True,
    }
    made = {}
    for name, wanted in chosen.items():
        topic = getattr(topics, name)
        messages = [each for each in filled.records[topic] if each.value() != b"not Avro"]
        pairs = [(each, value) for each, value in zip(messages, found[topic], strict=True) if wanted(value)]
        message, value = max(pairs, key=lambda pair: pair[1].get("revision", 0) * (name != "gap_history"))
        made[getattr(usual, name)] = example(topics, message, readable(value))
    finding = filled.records[topics.finding][-1]
    made[usual.finding] = example(topics, finding, json.loads(finding.value() or b""))
    (dead,) = filled.records[topics.activity_dlq]
    made[usual.activity_dlq] = example(topics, dead, (dead.value() or b"").decode())
    return made


def example(topics: TopicSettings, message: Message, value: Any) -> dict[str, Any]:
    """Write a record for people."""
    named = {name: text.decode().replace(topics.activity, TopicSettings().activity) for name, text in headers(message)}
    return {"key": (message.key() or b"").decode(), "headers": named, "value": value}


def readable(value: Any, name: str = "") -> Any:
    """Give times, by the ends of their names, as ISO 8601."""
    match value:
        case dict():
            return {each: readable(inner, each) for each, inner in value.items()}
        case list():
            return [readable(each) for each in value]
        case int() if name.endswith(("_at", "valid_from", "valid_until")):
            return times.text_of(value)
    return value


def form(value: Any) -> Any:
    """Give what two records of one kind have in common: names, and what kind of value each has."""
    match value:
        case dict():
            return {name: form(each) for name, each in value.items()}
        case list():
            return [form(each) for each in value[:1]]
    return type(value).__name__


# --- Java -------------------------------------------------------------------------------------------------------------


def java_lines(site: Site, topics: list[str], count: int) -> list[str]:
    """Compile and run the Java example until it has printed so many lines, and kill it."""
    java, jars = str(kafka_jars.java()), kafka_jars.class_path(lambda _: None)
    path = os.pathsep.join([jars, str(maven.fetched(*AVRO_JAR))])
    classes = maven.cache() / "classes"
    compiler = [java, "-jar", str(maven.fetched(*COMPILER_JAR)), "-17", "-nowarn", "-cp", path, "-d", str(classes)]
    compiled = subprocess.run(
        [*compiler, str(EXAMPLES / "ReadTopics.java")], capture_output=True, text=True, timeout=120, check=False
    )
    assert compiled.returncode == 0, compiled.stdout + compiled.stderr
    url = site.settings.registry.url or ""
    command = [java, "-Xmx256m", "-XX:TieredStopAtLevel=1", "-cp", os.pathsep.join([str(classes), path]), "ReadTopics"]
    process = subprocess.Popen(
        [*command, site.kafka, url, f"{site.group}-java", *topics],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        lines = [process.stdout.readline().rstrip("\n") for _ in range(count)]
    finally:
        process.kill()
        _, error = process.communicate()
    assert all(lines), error
    return lines
