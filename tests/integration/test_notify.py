"""`auditgap notify` on a real Kafka, with a receiver on loopback: no page is lost, and repeats are recognised."""

import hashlib
import hmac
import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.support.awaiting import until
from tests.support.feed import Wire, ago
from tests.support.receiver import Receiver
from tests.support.site import Site, headers, reason
from tests.support.workers import Workers, environment

from auditgap.adapters import avro
from auditgap.core.records import Alert, Severity

ENCODER = avro.Encoder(avro.SchemaIds.bundled())
SECRET = "0123456789abcdef-secret"  # noqa: S105 - of the tests
COUNT = 60


class Notifiers:
    """Runs `auditgap notify` with a file."""

    def __init__(self, site: Site, directory: Path) -> None:
        self._env = environment(site.settings) | {"HOOK_SECRET": SECRET}
        self._env |= {"AUDITGAP_NOTIFY__GROUP": f"{site.group}.notify", "AUDITGAP_NOTIFY__INSTANCE_ID": "one"}
        self._directory = directory
        self.started: list[subprocess.Popen[bytes]] = []

    def start(self, text: str, **env: str) -> subprocess.Popen[bytes]:
        """Start one."""
        file = self._directory / "notify.yaml"
        file.write_text(text)
        with (self._directory / "log").open("ab") as out:
            process = subprocess.Popen(
                [sys.executable, "-m", "auditgap", "notify", str(file)],
                env=self._env | env,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
            )
        self.started.append(process)
        return process

    @property
    def log(self) -> str:
        """What they said."""
        return (self._directory / "log").read_text()

    def await_ready(self, times: int = 1) -> None:
        """Wait until one reads."""
        until(lambda: self.log.count("telling of alerts") >= times, lambda: self.log)


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    """A receiver of webhooks."""
    made = Receiver()
    yield made
    made.close()


@pytest.fixture
def notifiers(site: Site, tmp_path: Path) -> Iterator[Notifiers]:
    """Starts notifiers, and kills what is left of them."""
    made = Notifiers(site, tmp_path)
    yield made
    for process in made.started:
        if process.poll() is None:
            process.kill()
        process.wait()


def alert(number: int, **fields: Any) -> Alert:
    """Make an alert."""
    made = Alert(
        alert_id=f"alert_{number}",
        revision=1,
        produced_at=ago(0),
        status="FIRING",
        kind="logging_disabled",
        severity=Severity.CRITICAL,
        organization_id=f"org_{number % 10}",
        feed_id=None,
        occurred_at=None,
        detected_at=ago(0),
        summary="off",
        dedup_key=f"key_{number}",
    )
    return replace(made, **fields)


def send(site: Site, *alerts: Alert) -> None:
    """Publish alerts as a worker does."""
    wires = [Wire(each.subject.encode(), ENCODER.emission(each), None) for each in alerts]
    site.produce(wires, topic=site.settings.topics.alert)


def hook(receiver: Receiver, name: str, more: str = "") -> str:
    """Write a route."""
    return f"  - {{name: {name}, webhook: '{receiver.url}/{name}', secret_env: HOOK_SECRET{more}}}\n"


def routing(receiver: Receiver, *routes: str, retry: float = 20, more: str = "") -> str:
    """Write a file."""
    second = f"fallback: {{webhook: '{receiver.url}/fallback', secret_env: HOOK_SECRET}}\n"
    return f"routes:\n{''.join(routes)}{second}retry_seconds: {retry}\n{more}"


def test_killed_again_and_again(site: Site, receiver: Receiver, notifiers: Notifiers) -> None:
    """Killed 20 times, in the middle of a delivery or right after it: no page is lost, and repeats have the same id."""
    text = routing(receiver, hook(receiver, "all"))
    running: list[subprocess.Popen[bytes]] = []
    aim = [0]

    def strike() -> None:
        if aim[0] and len(receiver.got) >= aim[0]:
            aim[0] = 0
            running[-1].kill()  # the answer never arrives
            if len(running) % 2:
                receiver.got.pop()  # nor did the request

    # From now on the group has a place: what comes later is news, however it begins.
    first = notifiers.start(text)
    notifiers.await_ready()
    first.terminate()
    assert first.wait(20) == 0, notifiers.log
    receiver.hook = strike
    send(site, *(alert(number) for number in range(COUNT)))
    for turn in range(20):
        aim[0] = len(receiver.got) + 1 + turn % 3
        running.append(notifiers.start(text))
        until(lambda: running[-1].poll() is not None, lambda: f"it lives\n{notifiers.log}")
        assert running[-1].returncode == -signal.SIGKILL, notifiers.log
        if turn == 10:
            send(site, *(alert(number) for number in range(COUNT, 2 * COUNT)))
    aim[0] = 0
    notifiers.start(text)
    wanted = {f"alert_{number}" for number in range(2 * COUNT)}
    until(lambda: wanted <= set(receiver.ids("/all")), lambda: f"{len(set(receiver.ids('/all')))}\n{notifiers.log}")
    keys: dict[str, set[tuple[str, str]]] = {}
    for each in receiver.notices("/all"):
        keys.setdefault(each["alert"]["alert_id"], set()).add((each["dedup_key"], each["id"]))
    assert keys == {f"alert_{n}": {(f"key_{n}", f"alert_{n}/1")} for n in range(2 * COUNT)}
    assert len(receiver.got) > 2 * COUNT, "the kills hit no delivery"


def test_who_is_told_of_what(site: Site, receiver: Receiver, notifiers: Notifiers, tmp_path: Path) -> None:
    """Routes by severity and organization, by webhook and Apprise; rises and ends again, details and history never."""
    (tmp_path / "urls").write_text(f"# chat\njson://127.0.0.1:{receiver.url.rpartition(':')[2]}/chat\n")
    text = routing(
        receiver,
        hook(receiver, "all", ", severity: informational"),
        hook(receiver, "one", ", organizations: [org_1]"),
        f"  - {{name: chat, severity: critical, apprise_file: {tmp_path / 'urls'}}}\n",
    )
    low = {"severity": Severity.MEDIUM}
    # What fires when it is started for the first time is told of, what is over is not.
    send(site, alert(91), alert(92), alert(92, revision=2, status="RESOLVED"))
    process = notifiers.start(text)
    notifiers.await_ready()
    send(
        site,
        alert(1, **low),
        alert(1, **low),
        alert(1, revision=2, summary="off; details", **low),
        alert(1, revision=3, severity=Severity.CRITICAL),
        alert(1, revision=4, status="RESOLVED", severity=Severity.HIGH),
        alert(2, historical=True),
        alert(3, organization_id="auditgap-canary"),
        alert(4),
    )
    send(site, alert(99, organization_id="org_1", **low))  # behind alert 1, on its partition
    until(lambda: {"alert_4", "alert_99"} <= set(receiver.ids("/all")), lambda: notifiers.log)
    assert [each["id"] for each in receiver.notices("/one") if "alert_1/" in each["id"]] == ["alert_1/3", "alert_1/4"]
    told = [(each["id"], each["reason"]) for each in receiver.notices("/all")]
    assert [each for each in told if each[0].startswith("alert_1/")] == [
        ("alert_1/1", "new"),
        ("alert_1/3", "severity_raised"),
        ("alert_1/4", "resolved"),
    ]
    assert {name.partition("/")[0] for name, _ in told} == {"alert_91", "alert_1", "alert_4", "alert_99"}
    chat = [each["title"] for each in receiver.notices("/chat")]
    assert sorted(chat) == [
        "[CRITICAL] logging_disabled firing (severity raised): org_1",
        "[CRITICAL] logging_disabled firing: org_1",
        "[CRITICAL] logging_disabled firing: org_4",
        "[HIGH] logging_disabled resolved (resolved): org_1",
    ]
    # Started again it knows what was told.
    process.terminate()
    assert process.wait(20) == 0, notifiers.log
    count = len(receiver.got)
    notifiers.start(text)
    send(site, alert(4, revision=2), alert(4, revision=3, status="RESOLVED"))
    until(lambda: "alert_4/3" in [each["id"] for each in receiver.notices("/all")], lambda: notifiers.log)
    until(lambda: len(receiver.got) >= count + 2, lambda: notifiers.log)
    assert len(receiver.got) == count + 2
    assert SECRET not in notifiers.log

    # Any receiver can verify it with these lines; docs/notifications.md has them.
    path, sent, body = next(each for each in receiver.got if each[0] == "/all")
    stamp, claimed = sent["Auditgap-Timestamp"], sent["Auditgap-Signature"]
    right = "v1=" + hmac.new(SECRET.encode(), stamp.encode() + b"." + body, hashlib.sha256).hexdigest()
    assert hmac.compare_digest(right, claimed)
    assert abs(time.time() - int(stamp)) < 300
    assert (path, sent["Auditgap-Dedup-Key"]) == ("/all", json.loads(body)["dedup_key"])


def test_receiver_down(site: Site, receiver: Receiver, notifiers: Notifiers) -> None:
    """What is not taken is tried again; in the end it goes by the second route, and to the dead letters."""
    receiver.refusing = {"/all"}
    notifiers.start(routing(receiver, hook(receiver, "all"), retry=3))
    notifiers.await_ready()
    send(site, alert(1))
    until(lambda: receiver.ids("/fallback") == ["alert_1"], lambda: notifiers.log)
    assert len(receiver.refused) >= 3
    assert not receiver.notices("/all")
    receiver.refusing = {"/all", "/fallback"}
    send(site, alert(2))
    topic = site.settings.topics.notification_dlq
    until(lambda: len(site.read(topic)) == 2, lambda: notifiers.log)
    first, second = sorted(site.read(topic), key=lambda each: each.timestamp())
    for message, words in ((first, "the fallback took it"), (second, "fallback: 127.0.0.1")):
        assert reason(message) == "not_delivered"
        detail = dict(headers(message))["auditgap_dlq_detail"].decode()
        assert "answers 503" in detail
        assert words in detail
    assert avro.decode_emission(avro.SchemaIds.bundled(), second.value() or b"", "alert").alert_id == "alert_2"  # type: ignore[union-attr]
    receiver.refusing = set()
    site.produce([Wire(b"org_1", b"nonsense", None)], topic=site.settings.topics.alert)
    send(site, alert(3))
    until(lambda: receiver.ids("/all") == ["alert_3"], lambda: notifiers.log)
    until(lambda: len(site.read(topic)) == 3, lambda: notifiers.log)
    assert sorted(reason(each) for each in site.read(topic)) == ["not_delivered", "not_delivered", "unreadable"]


def test_dead_mans_switch(site: Site, receiver: Receiver, notifiers: Notifiers, workers: Workers) -> None:
    """The address is pinged as long as the worker lives, and again when it is back; nobody is told of it."""

    def pings() -> int:
        return [path for path, _, _ in receiver.got].count("/ping")

    period = 2
    worker = workers.start(site).await_ready()
    beat = f"heartbeat: {{url: '{receiver.url}/ping', period_seconds: {period}}}\n"
    notifiers.start(routing(receiver, hook(receiver, "all", ", severity: informational"), more=beat))
    until(lambda: pings() >= 2, lambda: notifiers.log)
    worker.kill()
    # One that was on its way may still arrive.
    quiet_from = time.monotonic() + period
    until(lambda: time.monotonic() > quiet_from, "time stands still")
    before = pings()
    until(lambda: time.monotonic() > quiet_from + 2 * period, "time stands still")
    assert pings() == before
    workers.start(site).await_ready()
    until(lambda: pings() >= before + 2, lambda: notifiers.log)
    assert {path for path, _, _ in receiver.got} == {"/ping"}
