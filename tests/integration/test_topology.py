"""`auditgap topology apply` against a real Kafka, as a process of its own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from confluent_kafka import Message
from tests.support.feed import Publisher, Wire
from tests.support.site import Site, headers

from auditgap.adapters import avro
from auditgap.adapters.kafka import partition_of
from auditgap.adapters.topology_topic import TopologyTopic
from auditgap.bootstrap import schema_ids
from auditgap.core.times import text_of
from auditgap.core.topology import Alias, Link, Says, Topology, extended, successor
from auditgap.errors import BrokerError

FILE = """
author: jane@example.com
feeds: [org_1]
parents:
  p: {}
organizations:
  org_1: {uuid: u-1, parents: [p], feeds: [org_1]}
  org_2: {parents: [p]}
"""
SUBJECTS = ["feed/org_1", "org_1", "org_2", "parent/p"]
ALIAS = Alias(organization_uuid="u-1", organization_id="org_1")


class Applying:
    """Applies topology files to the topic of a site, and reads what is there."""

    def __init__(self, site: Site, folder: Path) -> None:
        self.site = site
        self.topic = site.settings.topics.topology
        self._file = folder / "topology.yaml"

    def apply(self, text: str) -> list[str]:
        """Apply a file; give what is said."""
        self._file.write_text(text)
        ran = subprocess.run(
            [sys.executable, "-m", "auditgap", "topology", "apply", str(self._file)],
            env=os.environ
            | {"AUDITGAP_KAFKA__BOOTSTRAP_SERVERS": self.site.kafka, "AUDITGAP_TOPICS__TOPOLOGY": self.topic},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert (ran.returncode, ran.stdout) == (0, ""), ran.stderr
        return ran.stderr.splitlines()

    def stored(self) -> list[tuple[Message, Topology]]:
        """Read what is on the topic, oldest first in each partition."""
        found = []
        for message in self.site.read(self.topic):
            version = avro.decode_topology(avro.SchemaIds.bundled(), message.value(), message.timestamp()[1] * 1000)
            assert isinstance(version, Topology), version
            found.append((message, version))
        return found

    def versions(self, subject: str) -> list[Topology]:
        """Read the versions of one subject, each once, and see that they follow each other."""
        found = {each.version: each for _, each in self.stored() if each.subject == subject}
        chain: tuple[Topology, ...] = ()
        for each in sorted(found.values(), key=lambda each: each.version):
            taken = extended(chain, each)
            assert isinstance(taken, tuple), taken
            chain = taken
        return list(chain)

    def write(self, version: Topology, partition: int) -> None:
        """Write a version past the command."""
        publisher = Publisher(self.site.kafka)
        value = avro.Encoder(avro.SchemaIds.bundled()).topology(version)
        publisher.send(self.topic, [Wire(version.subject.encode(), value, None, partition)])
        publisher.flush()


@pytest.fixture
def applying(site: Site, tmp_path: Path) -> Applying:
    """A topic of the test's own to apply topologies to."""
    return Applying(site, tmp_path)


def test_apply_publishes_what_differs(applying: Applying) -> None:
    """Each parent, feed and organization gets a version in its own partition, and another one only where it changes."""
    said = applying.apply(FILE)
    assert [line.partition(": ")[0] for line in said] == SUBJECTS
    assert said[0] == "feed/org_1: version 1: member added: org_1; uuid added: u-1 is org_1"
    count = applying.site.settings.topics.partitions
    stored = applying.stored()
    places = {(message.key(), message.partition()) for message, _ in stored}
    assert places == {(each.encode(), partition_of(each, count)) for each in SUBJECTS}
    message, feed = next(each for each in stored if each[1].subject == "feed/org_1")
    assert (feed.author, feed.says) == ("jane@example.com", Says((ALIAS,), (Link(subject="org_1"),)))
    assert feed.append_time == message.timestamp()[1] * 1000
    assert dict(headers(message)) == {
        "ce_specversion": b"1.0",
        "ce_id": b"feed/org_1/1",
        "ce_source": b"/auditgap",
        "ce_type": b"io.auditgap.compliance.topology",
        "ce_time": text_of(feed.produced_at).encode(),
        "ce_subject": b"feed/org_1",
        "content-type": b"application/avro",
    }

    assert applying.apply(FILE) == ["nothing to do: the topic says what the file says"]
    assert len(applying.stored()) == len(stored)

    # One link ends, and one organization leaves the file.
    said = applying.apply(FILE.replace(", feeds: [org_1]}", "}").replace("  org_2: {parents: [p]}\n", ""))
    assert [line.partition(":")[0] for line in said] == SUBJECTS
    assert said[2] == "org_2: version 2: belongs to removed: parent/p"
    assert said[3] == "parent/p: version 2: member removed: org_2"
    assert [each.version for each in applying.versions("parent/p")] == [1, 2]


def test_apply_goes_on_after_a_stranger_and_more_partitions(applying: Applying) -> None:
    """A version that is refused is told; the next follows the last accepted one, and stands where it is looked for."""
    applying.apply(FILE)
    (latest,) = applying.versions("parent/p")
    stranger = successor(latest, "parent/p", Says(), "eve", 1)
    wrong = Topology(**{**{name: getattr(stranger, name) for name in Topology.__slots__}, "version": 7})
    applying.write(wrong, partition_of("parent/p", applying.site.settings.topics.partitions))
    refused, said = applying.apply(FILE)
    assert "is no version of the topology and was left out: version 7 of parent/p is not the next" in refused
    assert said == "parent/p: version 2: it says what it said"
    applying.site.apply_topics(partitions=6)
    applying.apply(FILE)
    for subject in SUBJECTS:
        last = [message.partition() for message, each in applying.stored() if each.subject == subject]
        assert partition_of(subject, 6) in last
    assert applying.apply(FILE)[1:] == ["nothing to do: the topic says what the file says"]


def test_one_publisher_at_a_time(applying: Applying) -> None:
    """A second `topology apply` that begins later wins; the first one publishes nothing, and says so."""
    settings = applying.site.settings
    first = TopologyTopic(settings, schema_ids(settings), lambda _: None)
    with first:
        applying.apply(FILE)
        late = successor(None, "parent/late", Says(), "late", 1)
        with pytest.raises(BrokerError, match="another `auditgap topology apply`"):
            first.publish([late])
    assert applying.versions("parent/late") == []
