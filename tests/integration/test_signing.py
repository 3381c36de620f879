"""Signatures and operators' statements on a real Kafka: what is forged closes nothing, what is signed does."""

import json
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import pytest
from confluent_kafka import Message
from tests.support.awaiting import until
from tests.support.feed import Record, Wire, ago, settings, wire
from tests.support.site import Site, headers
from tests.support.workers import Worker, Workers, environment

from auditgap.adapters import avro, signing
from auditgap.adapters.cloudevents import Headers
from auditgap.adapters.kafka import partition_of
from auditgap.adapters.signing import Signed, Signer, Unsigned, Verifier
from auditgap.config import Settings, SigningSettings
from auditgap.core import times
from auditgap.core.observations import Observation
from auditgap.core.records import Gap

ORGANIZATION: Final = "org_1"


@dataclass
class Signing:
    """A site, a collector's key that its workers trust, and one that nobody trusts."""

    site: Site
    folder: Path
    workers: Workers
    signer: Signer = field(init=False)
    stranger: Signer = field(init=False)

    def __post_init__(self) -> None:
        public = signing.generate(self._key)
        signing.generate(self.folder / "strange.pem")
        self._trusted.write_text(f"# who may\n{signing.trusted_line(public, 'collector')}\n")
        self.signer = Signer.from_file(self._key)
        self.stranger = Signer.from_file(self.folder / "strange.pem")

    @property
    def _key(self) -> Path:
        return self.folder / "key.pem"

    @property
    def _trusted(self) -> Path:
        return self.folder / "trusted"

    def _with(self, **values: object) -> Settings:
        return self.site.settings.model_copy(update={"signing": SigningSettings.model_validate(values)})

    def worker(self, *, required: bool) -> Worker:
        """Start a worker that knows the collector's key."""
        self.site.settings = self._with(trusted_keys_file=self._trusted, require_signatures=required)
        return self.workers.start(self.site).await_ready()

    def run(self, *arguments: str, stdin: str = "", signed: bool = True) -> str:
        """Run a command with the collector's key, or none; give what it tells."""
        ran = subprocess.run(
            [sys.executable, "-m", "auditgap", *arguments],
            env=environment(self._with(key_file=self._key) if signed else self._with()),
            input=stdin,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert (ran.returncode, ran.stdout) == (0, ""), ran.stderr
        return ran.stderr

    def publish(self, *records: Record, signed: bool = True) -> None:
        """Publish records with the command."""
        lines = "".join(json.dumps(each) + "\n" for each in records)
        self.run("publish", "-", "--feed", "feed_1", stdin=lines, signed=signed)

    def gap(self) -> Gap:
        """Give the only gap as it stands."""
        (gap,) = self.site.gaps().values()
        return gap

    def kinds(self) -> Counter[str]:
        """Count the alerts by kind, but for those of triage, which come later, by mail."""
        kinds = {each.alert_id: each.kind for each in self.site.alerts()}.values()
        return Counter(kind for kind in kinds if kind not in ("actor_compromise_indicators", "post_gap_review"))


@pytest.fixture
def made(site: Site, workers: Workers, tmp_path: Path) -> Signing:
    """A site with keys."""
    return Signing(site, tmp_path, workers)


def switched(identifier: str, seconds_ago: float, *, logging: bool) -> Record:
    """Make a settings event."""
    return settings(identifier, ORGANIZATION, ago(seconds_ago), logging=logging)


def signed_by(signer: Signer, record: Record, partition: int = -1) -> Wire:
    """Put a record on the wire with a signature."""
    bare = wire(record, partition=partition)
    assert bare.value is not None
    own: Headers = [*(bare.headers or []), *signer.headers(ORGANIZATION, bare.value, signing.ACTIVITY)]
    return bare._replace(headers=own)


def test_forged(made: Signing) -> None:
    """A forged "on" right after the "off" closes nothing and is told; the signed one closes the gap, wherever it is."""
    worker = made.worker(required=True)
    made.publish(switched("off", 600, logging=False))
    on = switched("on", 300, logging=True)
    borrowed = signed_by(made.signer, switched("off", 600, logging=False)).headers
    forged = switched("forged", 590, logging=True)
    made.site.produce(
        [
            wire(on),
            wire(forged),
            signed_by(made.stranger, switched("strange", 580, logging=True)),
            wire(switched("tampered", 570, logging=True))._replace(headers=borrowed),
        ]
    )
    made.workers.finish(made.site, worker)
    assert (made.gap().state, made.gap().opened_by_id) == ("OPEN", "off")
    # The borrowed headers belong to another record: besides the signature they lie about the body.
    assert made.kinds() == Counter(
        logging_disabled=1, unsigned_settings_change=2, signature_invalid=2, header_mismatch=1
    )
    reasons = {each.evidence: each.summary for each in made.site.alerts() if each.kind == "signature_invalid"}
    assert "none of the trusted ones" in reasons["strange",]
    assert "is not what key" in reasons["tampered",]
    assert {each.evidence for each in made.site.alerts() if each.kind == "unsigned_settings_change"} == {
        ("on",),
        ("forged",),
    }

    # The same record once more, signed, and on a partition that is not its own.
    elsewhere = (partition_of(ORGANIZATION, 4) + 1) % 4
    made.site.produce([signed_by(made.signer, on, elsewhere)])
    made.workers.finish(made.site, worker)
    assert (made.gap().state, made.gap().closed_by_id) == ("CLOSED", "on")
    assert made.kinds()["unsigned_settings_change"] == 2
    assert worker.stop() == 0
    assert made.site.dead_letters() == []


def test_not_required(made: Signing) -> None:
    """Where no signature is required an unsigned "on" counts, and a wrong signature is told all the same."""
    worker = made.worker(required=False)
    made.publish(switched("off", 600, logging=False), signed=False)
    made.site.produce([signed_by(made.stranger, switched("strange", 580, logging=True))])
    made.workers.finish(made.site, worker)
    assert made.gap().state == "OPEN"
    made.publish(switched("on", 300, logging=True), signed=False)
    made.workers.finish(made.site, worker)
    assert (made.gap().state, made.gap().closed_by_id) == ("CLOSED", "on")
    assert made.kinds() == Counter(logging_disabled=1, signature_invalid=1, logging_restored=1)
    assert worker.stop() == 0


def stated(made: Signing) -> list[tuple[Message, Observation]]:
    """Read what is on the observation topic."""
    found = []
    for message in made.site.read(made.site.settings.topics.observation):
        seen = avro.decode_observation(avro.SchemaIds.bundled(), message.value())
        assert isinstance(seen, Observation), seen
        found.append((message, seen))
    return found


STATE: Final = ("--author", "jane@example.com", "--reason", "read in the console")


def test_assert(made: Signing) -> None:
    """A statement is on the topic as it was made, signed where there is a key; a copy under another subject is not."""
    since = times.text_of(ago(600))
    said = made.run("assert", "off", "--organization", ORGANIZATION, "--at", since, *STATE, "--logging")
    assert f"{ORGANIZATION} off since " in said
    assert "by jane@example.com (signed)" in said
    said = made.run("assert", "on", "--feed", "feed_9", "--at", since, *STATE, signed=False)
    assert "(not signed: AUDITGAP_SIGNING__KEY_FILE is not set)" in said
    found = {seen.subject: (message, seen) for message, seen in stated(made)}
    assert found.keys() == {ORGANIZATION, "feed/feed_9"}
    message, seen = found[ORGANIZATION]
    assert (seen.kind, seen.result, seen.api, seen.logging) == ("operator", "off", None, False)
    assert (seen.author, seen.message, seen.effective_at) == (STATE[1], STATE[3], times.parse(since))
    assert (message.key(), message.partition()) == (ORGANIZATION.encode(), partition_of(ORGANIZATION, 4))
    trusted = Verifier.of(SigningSettings(trusted_keys_file=made.folder / "trusted"))
    value = message.value() or b""
    assert trusted.check(headers(message), seen.subject, value, signing.OBSERVATION) == Signed(made.signer.key_id)
    assert trusted.check(headers(message), seen.subject, value, signing.ACTIVITY) != Signed(made.signer.key_id)
    message, seen = found["feed/feed_9"]
    assert (seen.result, seen.api, seen.logging) == ("on", True, True)
    assert trusted.check(headers(message), seen.subject, message.value() or b"", signing.OBSERVATION) == Unsigned()


def test_statements_through_the_worker(made: Signing) -> None:
    """Anyone's "off" opens a gap and is an alert with his name; an "on" closes it only where it is signed."""
    worker = made.worker(required=True)
    opened, closed = times.text_of(ago(600)), times.text_of(ago(300))
    organization = ("--organization", ORGANIZATION)
    made.run("assert", "off", *organization, "--at", opened, *STATE, signed=False)
    made.run("assert", "on", *organization, "--at", closed, *STATE, signed=False)
    until(lambda: worker._alive() and made.kinds()["unsigned_settings_change"], "no alert of the unsigned statement")
    assert (made.gap().state, made.gap().opened_by_kind) == ("OPEN", "operator")
    (alert,) = {each.alert_id: each for each in made.site.alerts() if each.kind == "logging_disabled"}.values()
    assert (alert.actor_type, alert.actor_id) == ("operator", STATE[1])
    assert f"by the word of operator {STATE[1]} ({STATE[3]})" in alert.summary

    made.run("assert", "on", *organization, "--at", closed, *STATE)
    until(lambda: worker._alive() and made.gap().state == "CLOSED", "the signed statement does not close the gap")
    gap = made.gap()
    assert (gap.closed_by_kind, gap.closed_actor_id) == ("operator", STATE[1])
    assert (gap.opened_at, gap.closed_at) == (times.parse(opened), times.parse(closed))
    assert worker.stop() == 0


def test_a_worker_whose_keys_are_wrong(made: Signing) -> None:
    """A wrong line in the file of trusted keys is wrong use, named with its line."""
    (made.folder / "wrong").write_text("# who may\n0123456789abcdef nonsense\n")
    made.site.settings = made.site.settings.model_copy(
        update={"signing": SigningSettings(trusted_keys_file=made.folder / "wrong")}
    )
    made.workers.start(made.site).assert_refuses(2, f"{made.folder / 'wrong'}: line 2: not a key id")
