"""`auditgap policy apply` against a real Kafka, as a process of its own."""

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
from auditgap.adapters.policy_topic import PolicyTopic
from auditgap.bootstrap import schema_ids
from auditgap.core.policy import Actors, Policy, Rules, extended, latest_of, successor
from auditgap.core.times import text_of
from auditgap.errors import BrokerError

FILE = """
author: jane@example.com
defaults:
  owners: {emails: [jane@example.com]}
organizations:
  org_1: {}
  org_2: {settle: 30s}
"""

ENCODER = avro.Encoder(avro.SchemaIds.bundled())


class Applying:
    """Applies policy files to the topic of a site, and reads what is there."""

    def __init__(self, site: Site, folder: Path) -> None:
        self.site = site
        self.topic = site.settings.topics.policy
        self._file = folder / "policy.yaml"

    def apply(self, text: str, *options: str) -> list[str]:
        """Apply a file; give what is said."""
        self._file.write_text(text)
        topics = self.site.settings.topics
        ran = subprocess.run(
            [sys.executable, "-m", "auditgap", "policy", "apply", str(self._file), *options],
            env=os.environ
            | {"AUDITGAP_KAFKA__BOOTSTRAP_SERVERS": self.site.kafka, "AUDITGAP_TOPICS__POLICY": topics.policy},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert (ran.returncode, ran.stdout) == (0, ""), ran.stderr
        return ran.stderr.splitlines()

    def stored(self) -> list[tuple[Message, Policy]]:
        """Read what is on the topic, oldest first in each partition."""
        found = []
        for message in self.site.read(self.topic):
            version = avro.decode_policy(avro.SchemaIds.bundled(), message.value(), message.timestamp()[1] * 1000)
            assert isinstance(version, Policy), version
            found.append((message, version))
        return found

    def versions(self, organization: str | None) -> list[Policy]:
        """Read the versions of one chain, each once, and see that they follow each other."""
        found = {each.version: each for _, each in self.stored() if each.organization_id == organization}
        policies: tuple[Policy, ...] = ()
        for each in sorted(found.values(), key=lambda each: each.version):
            taken = extended(policies, each)
            assert isinstance(taken, tuple), taken
            policies = taken
        return list(policies)

    def write(self, version: Policy, key: bytes, partition: int) -> None:
        """Write a version past the command."""
        publisher = Publisher(self.site.kafka)
        publisher.send(self.topic, [Wire(key, ENCODER.policy(version), None, partition)])
        publisher.flush()


@pytest.fixture
def applying(site: Site, tmp_path: Path) -> Applying:
    """A topic of the test's own to apply policies to."""
    return Applying(site, tmp_path)


def test_apply_publishes_what_changed(applying: Applying) -> None:
    """Each organization and the defaults get a version where something changed, chained, where it is looked for."""
    said = applying.apply(FILE)
    assert [line.partition(":")[0] for line in said] == ["defaults", "org_1", "org_2"]
    assert said[2] == "org_2: version 1: owner added: e-mail jane@example.com; settle time 30s instead of 1m"
    stored = applying.stored()
    places = {(message.key(), message.partition()) for message, _ in stored}
    count = applying.site.settings.topics.partitions
    assert places == {
        *((b"*", number) for number in range(count)),
        *((each.encode(), partition_of(each, count)) for each in ("org_1", "org_2")),
    }
    message, version = next(each for each in stored if each[1].organization_id == "org_1")
    assert (version.author, version.rules) == ("jane@example.com", Rules(owners=Actors(emails=("jane@example.com",))))
    assert version.counts_from == message.timestamp()[1] * 1000
    assert dict(headers(message)) == {
        "ce_specversion": b"1.0",
        "ce_id": b"org_1/1",
        "ce_source": b"/auditgap",
        "ce_type": b"io.auditgap.compliance.policy",
        "ce_time": text_of(version.produced_at).encode(),
        "ce_subject": b"org_1",
        "content-type": b"application/avro",
    }

    assert applying.apply(FILE) == ["nothing to do: the topic says what the file says"]
    assert len(applying.stored()) == len(stored)

    # One organization changes, another leaves the file.
    said = applying.apply(FILE.replace("  org_1: {}\n", "").replace("30s", "45s"), "--author", "john@example.com")
    assert said == ["org_2: version 2: settle time 45s instead of 30s"]
    said = applying.apply(FILE.replace("  org_2: {settle: 30s}\n", ""))
    assert said[0].startswith("org_2: version 3: it is not in the file any more, so the defaults count; settle time 1m")
    assert [each.author for each in applying.versions("org_2")][1] == "john@example.com"
    assert len(applying.versions("org_2")) == 3
    assert len(applying.versions("org_1")) == len(applying.versions(None)) == 1


def test_apply_goes_on_after_a_stranger(applying: Applying) -> None:
    """A version that is refused is told, and the next one follows the last that was accepted."""
    applying.apply(FILE)
    (latest,) = applying.versions("org_1")
    home = partition_of("org_1", applying.site.settings.topics.partitions)
    stranger = successor(latest, "org_1", Rules(owners=Actors(users=("user_eve",))), "eve", 1, None)
    for wrong in ({"version": 2**63 - 1}, {"previous_digest": "0" * 64}):
        applying.write(
            Policy(**{**{f: getattr(stranger, f) for f in Policy.__dataclass_fields__}, **wrong}), b"org_1", home
        )
    refused_high, refused_digest, said = applying.apply(FILE)
    assert "version 9223372036854775807 of organization org_1 is not the next" in refused_high
    assert "previous_digest has to be" in refused_digest
    assert said == "org_1: version 2: the rules stay as they were"
    # It is the last record of its key now, so nothing more is to do.
    assert applying.apply(FILE)[2:] == ["nothing to do: the topic says what the file says"]


def test_apply_follows_more_partitions(applying: Applying) -> None:
    """After the topic got more partitions, every reader finds the policy on its own again."""
    applying.apply(FILE)
    applying.site.apply_topics(partitions=6)
    said = applying.apply(FILE)
    assert said[0] == "defaults: version 2: the rules stay as they were"
    for number in range(6):
        assert {each.version for message, each in applying.stored() if message.partition() == number} >= {2}
    for organization in ("org_1", "org_2"):
        last = [message.partition() for message, each in applying.stored() if each.organization_id == organization]
        assert partition_of(organization, 6) in last
    assert applying.apply(FILE) == ["nothing to do: the topic says what the file says"]


def test_one_publisher_at_a_time(applying: Applying) -> None:
    """A second `policy apply` that begins later wins; the first one publishes nothing, and says so."""
    settings = applying.site.settings
    first = PolicyTopic(settings, schema_ids(settings), lambda _: None)
    with first:
        applying.apply(FILE)
        late = successor(None, "org_1", Rules(), "late", 1, None)
        with pytest.raises(BrokerError, match="another `auditgap policy apply`"):
            first.publish([late])
    assert [each.author for each in applying.versions("org_1")] == ["jane@example.com"]
    assert latest_of([each for _, each in applying.stored()], None) is not None
