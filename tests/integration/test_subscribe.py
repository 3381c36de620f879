"""The consumer that the package ships, on a real Kafka: nothing missed, nothing again that was checkpointed."""

import asyncio
import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from tests.support.feed import Publisher, Wire, ago
from tests.support.site import Site
from tests.support.workers import environment

from auditgap import subscribe
from auditgap.adapters import avro
from auditgap.core.records import Alert, Severity
from auditgap.errors import BrokerError

COUNT = 3500
ENCODER = avro.Encoder(avro.SchemaIds.bundled())

PROGRAM = """
import json, os, signal, sys
from auditgap import subscribe
with open(sys.argv[1], "a", buffering=1) as log, subscribe.alerts("readers", instance_id="one") as feed:
    for number, alert in enumerate(feed, 1):
        log.write(json.dumps(["given", alert.alert_id]) + "\\n")
        if number % 7 == 0:
            feed.checkpoint()
            log.write(json.dumps(["kept", alert.alert_id]) + "\\n")
        if number == int(sys.argv[2]):
            os.kill(os.getpid(), signal.SIGKILL)
"""


def alert(number: int) -> Alert:
    """Make an alert."""
    return Alert(
        alert_id=f"alert_{number}",
        revision=1,
        produced_at=ago(0),
        status="FIRING",
        kind="logging_disabled",
        severity=Severity.CRITICAL,
        gap_id=None,
        incident_id=None,
        organization_id=f"org_{number % 10}",
        feed_id=None,
        occurred_at=None,
        detected_at=ago(0),
        evidence=(),
        summary="off",
        triage=(),
        attack_ids=(),
        dedup_key="key",
    )


def wires(*numbers: int) -> list[Wire]:
    """Put alerts on the wire."""
    return [Wire(b"org_%d" % (number % 10), ENCODER.emission(alert(number)), None) for number in numbers]


def test_killed_again_and_again(site: Site, tmp_path: Path) -> None:
    """A subscriber that is killed and started 20 times misses nothing, and sees nothing again that it had kept."""
    chance = random.Random(5)
    publisher = Publisher(site.kafka)
    publisher.send(site.settings.topics.alert, wires(*range(COUNT)))
    publisher.flush()
    log = tmp_path / "log"
    log.touch()
    env = environment(site.settings) | {"PYTHONPATH": os.pathsep.join(sys.path)}

    def killed_after(count: int) -> None:
        ended = subprocess.run([sys.executable, "-c", PROGRAM, str(log), str(count)], env=env, timeout=60, check=False)
        assert ended.returncode == -signal.SIGKILL

    def read() -> tuple[list[str], set[str]]:
        """Everything given, and what of it was kept; nothing is given that was kept before."""
        given: list[str] = []
        kept: set[str] = set()
        for said, name in map(json.loads, log.read_text().splitlines()):
            if said == "given":
                assert name not in kept
                given.append(name)
            else:
                kept.update(given)
        return given, kept

    for _ in range(20):
        killed_after(chance.randrange(10, COUNT // 25))
    killed_after(COUNT - len(read()[1]))
    given, _ = read()
    assert set(given) == {f"alert_{number}" for number in range(COUNT)}
    assert len(given) > COUNT  # some were given, not kept, and given again


def test_async_and_what_cannot_be_read(site: Site) -> None:
    """It is an async iterator too; a record that is none is an error of its own, and the next one follows."""
    publisher = Publisher(site.kafka)
    place = 2
    for value in (wires(1)[0].value, b"nonsense", wires(2)[0].value):
        publisher.send(site.settings.topics.alert, [Wire(b"org_1", value, None, place)])
    publisher.flush()

    async def read() -> list[str]:
        found = []
        with subscribe.alerts("async", site.settings, instance_id="me") as feed:
            found.append((await anext(feed)).alert_id)
            with pytest.raises(subscribe.UnreadableError, match="partition 2, offset 1 is no alert"):
                await anext(feed)
            async for each in feed:
                found.append(each.alert_id)
                feed.checkpoint()
                break
        return found

    assert asyncio.run(read()) == ["alert_1", "alert_2"]
    with subscribe.alerts("async", site.settings, instance_id="me") as again:
        assert again.poll(5) is None
    with subscribe.alerts("late", site.settings, new_only=True) as late:
        assert late.poll(5) is None


def test_no_topic(site: Site) -> None:
    """A topic that is not there is told at once, with what to do."""
    topics = site.settings.topics.model_copy(update={"status": "nowhere"})
    with pytest.raises(BrokerError, match="has no topic nowhere: run `auditgap topics apply`"):
        subscribe.statuses("x", site.settings.model_copy(update={"topics": topics}))
