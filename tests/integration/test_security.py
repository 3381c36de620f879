"""Every part over SASL_SSL, as a user of its own who may do what docs/security.md lists, and no more."""

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Final

import pytest
from pydantic import SecretStr
from tests.support import access, secured
from tests.support.access import Rule
from tests.support.awaiting import until
from tests.support.receiver import Receiver
from tests.support.secured import Certificates, Secured
from tests.support.site import Site
from tests.support.workers import COMMAND, Worker, environment

from auditgap import subscribe
from auditgap.config import KafkaSettings, Settings
from auditgap.core import times
from auditgap.core.records import Alert
from auditgap.entrypoints.demo import CLOSED, sample

POLICY: Final = "author: jane.doe@example.com\ndefaults:\n  owners:\n    emails: [who@example.com]\n"
PERIOD: Final = ("--from", "2026-01-01T00:00:00Z", "--to", "2026-01-02T00:00:00Z")
TOPOLOGY: Final = "author: jane.doe@example.com\nfeeds: [feed_main]\norganizations:\n  org_1: {feeds: [feed_main]}\n"
NOTIFY: Final = """
routes: [{{name: all, webhook: '{url}/all', secret_env: HOOK_SECRET}}]
fallback: {{webhook: '{url}/fallback', secret_env: HOOK_SECRET}}
retry_seconds: 1
heartbeat: {{url: '{url}/ping', period_seconds: 2}}
"""


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    """A broker that asks everybody who they are."""
    with secured.running(tmp_path_factory.mktemp("secured")) as running:
        yield running


class Company:
    """Topics of the test's own, made by the administrator, and the parts, each with its user."""

    def __init__(self, broker: Secured, directory: Path) -> None:
        self.broker, self.directory = broker, directory
        self.site = Site(broker.administrator)
        notify = self.site.settings.notify.model_copy(update={"group": f"{self.site.group}.notify"})
        self.site.settings = self.site.settings.model_copy(update={"notify": notify})
        self.rules = access.parts(self.site.settings)
        self.processes: list[subprocess.Popen[bytes]] = []
        self._files = 0

    def user(self, part: str) -> str:
        """Name the user of a part in this company."""
        return f"{self.site.group}.{part.replace(' ', '-')}"

    def hire(self, part: str, rules: list[Rule] | None = None) -> Settings:
        """Let the user of a part do what the table says, or other things; gives the settings of that user."""
        self.broker.allow(self.user(part), self.rules[part] if rules is None else rules)
        return self.settings(part)

    def settings(self, part: str) -> Settings:
        """Give the settings of the user of a part."""
        return self.site.settings.model_copy(update={"kafka": self.broker.user(self.user(part))})

    def file(self, text: str) -> str:
        """Write a file."""
        self._files += 1
        path = self.directory / f"file{self._files}"
        path.write_text(text)
        return str(path)

    def feed(self) -> str:
        """Write the sample feed."""
        return self.file("\n".join(map(json.dumps, sample(time.time_ns() // 1000))))

    def run(self, settings: Settings, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a command to its end; it never shows a traceback."""
        command = [sys.executable, "-m", "auditgap", *arguments]
        env = environment(settings)
        ran = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60, check=False)
        assert "Traceback" not in ran.stderr, ran.stderr
        return ran

    def fine(self, part: str, *arguments: str) -> str:
        """Have a part run a command that succeeds; gives what it printed."""
        ran = self.run(self.hire(part), *arguments)
        assert ran.returncode == 0, ran.stdout + ran.stderr
        return ran.stdout + ran.stderr

    def worker(self, settings: Settings, *arguments: str) -> Worker:
        """Start a worker."""
        worker = Worker(settings, self.directory / f"worker{len(self.processes)}.log", (*COMMAND, *arguments))
        self.processes.append(worker.process)
        return worker

    def end_last(self) -> None:
        """End what was started last."""
        process = self.processes.pop()
        process.kill()
        process.wait()

    def close(self) -> None:
        """End what runs."""
        while self.processes:
            self.end_last()
        self.site.close()


@pytest.fixture
def company(broker: Secured, tmp_path: Path) -> Iterator[Company]:
    """A company of the test's own."""
    made = Company(broker, tmp_path)
    yield made
    made.close()


def test_everything_with_just_these(company: Company, tmp_path: Path) -> None:
    """From making topics to a page and a report, each part does its work with what the table gives it."""
    site = company.site
    site.delete_topic(site.settings.topics.finding)
    site.configure(site.settings.topics.alert, retention__ms="1000000")
    wider = site.settings.topics.model_copy(update={"partitions": 6})
    site.settings = site.settings.model_copy(update={"topics": wider})
    said = company.fine("auditgap topics apply", "topics", "apply")
    assert all(word in said for word in ("created ", "widened ", "set on "))
    site.apply_topics()

    assert "1" in company.fine("auditgap policy apply", "policy", "apply", company.file(POLICY))
    company.fine("auditgap topology apply", "topology", "apply", company.file(TOPOLOGY))
    worker = company.worker(company.hire("auditgap worker")).await_ready()
    receiver = Receiver()
    try:
        notifier = company.hire("auditgap notify")
        log = tmp_path / "notify.log"
        with log.open("wb") as out:
            company.processes.append(
                subprocess.Popen(
                    [sys.executable, "-m", "auditgap", "notify", company.file(NOTIFY.format(url=receiver.url))],
                    env=environment(notifier) | {"HOOK_SECRET": "0123456789abcdef-secret"},
                    stdin=subprocess.DEVNULL,
                    stdout=out,
                    stderr=subprocess.STDOUT,
                )
            )
        # Refused, so that a dead letter has to be written.
        receiver.refusing = {"/all", "/fallback"}
        company.fine("auditgap publish", "publish", company.feed())
        polled = {
            "kind": "settings_poll",
            "feed_id": "feed_main",
            "organization_id": "org_1",
            "observed_at": times.text_of(time.time_ns() // 1000),
            "result": "enabled",
        }
        company.fine("auditgap publish", "publish", "--observations", company.file(json.dumps(polled)))
        since = times.text_of(time.time_ns() // 1000 - 60 * times.SECOND)
        stated = ("--organization", "org_1", "--at", since, "--reason", "a test", "--author", "jane.doe@example.com")
        company.fine("auditgap assert", "assert", "off", *stated)
        until(lambda: worker._alive() and site.finished(), lambda: worker.text)
        until(lambda: site.read(site.settings.topics.notification_dlq), log.read_text)
        until(lambda: any(path == "/ping" for path, _, _ in receiver.got), log.read_text)
    finally:
        receiver.close()

    assert CLOSED in company.fine("auditgap gaps", "gaps")
    assert CLOSED in company.fine("auditgap gaps", "gaps", "--history")
    assert CLOSED in company.fine("auditgap alerts", "alerts")
    assert "org_1" in company.fine("auditgap status", "status")
    with subscribe.alerts("my-pager", company.hire("a subscriber")) as feed:
        assert isinstance(until(lambda: feed.poll(1), "no alert"), Alert)
        feed.checkpoint()
    company.end_last()  # the notifier: its heartbeat would go on
    assert worker.stop() == 0
    until(lambda: site.members() == 0, "the group still has members")
    period = ("--from", since, "--to", times.text_of(time.time_ns() // 1000))
    report = company.fine("auditgap report", "report", "--all", *period, "--json")
    company.fine("auditgap report", "report", "verify", company.file(report))
    reset = company.worker(company.settings("auditgap worker"), "--reset-input", "earliest")
    assert reset.await_ready().stop() == 0


def less(company: Company, part: str, kind: str, name: str, operation: str) -> Settings:
    """Give the settings of a part's user who may not do one of the things that the table allows."""
    settings = company.hire(part)
    (rule,) = [each for each in company.rules[part] if each.kind == kind and name in each.names]
    company.broker.forbid(company.user(part), [replace(rule, names=(name,), operations=(operation,))])
    return settings


@pytest.mark.parametrize(
    ("kind", "which", "operation", "words"),
    [
        ("TOPIC", "activity", "READ", "refuse the topic"),
        ("TOPIC", "alert", "WRITE", "cannot describe"),
        ("TOPIC", "changelog", "READ", "cannot read the state"),
        ("TOPIC", "changelog", "WRITE", "cannot commit"),
        ("GROUP", "group", "READ", "authorized"),
        ("TRANSACTIONAL_ID", "transactions", "WRITE", "transactional id"),
    ],
)
def test_worker_with_less(company: Company, kind: str, which: str, operation: str, words: str) -> None:
    """Without one of them a worker ends with one line that says what is refused."""
    topics, own = company.site.settings.topics, company.site.settings.worker
    names = {
        "activity": topics.activity,
        "alert": topics.alert,
        "changelog": own.changelog,
        "group": own.group,
        "transactions": f"{own.group}-",
    }
    worker = company.worker(less(company, "auditgap worker", kind, names[which], operation))
    worker.assert_refuses(1, words)


def test_commands_with_less(company: Company) -> None:
    """Without one of them a command ends with one line that names the page that lists them."""
    topics = company.site.settings.topics
    cases = [
        ("auditgap publish", "TOPIC", topics.activity, "WRITE", ("publish", company.feed())),
        ("auditgap gaps", "TOPIC", topics.gap, "READ", ("gaps",)),
        ("auditgap policy apply", "TRANSACTIONAL_ID", f"{topics.policy}.apply", "WRITE", ("policy", "apply", "FILE")),
        ("auditgap topics apply", "TOPIC", topics.finding, "ALTER_CONFIGS", ("topics", "apply")),
        ("auditgap report", "GROUP", company.site.group, "DESCRIBE", ("report", "--all", *PERIOD)),
    ]
    for part, kind, name, operation, arguments in cases:
        settings = less(company, part, kind, name, operation)
        written = [company.file(POLICY) if each == "FILE" else each for each in arguments]
        ran = company.run(settings, *written)
        assert ran.returncode == 1, (part, ran.stdout, ran.stderr)
        assert [line for line in ran.stderr.splitlines() if "docs/security.md" in line], (part, ran.stderr)


def test_wrong_credentials(company: Company, tmp_path: Path) -> None:
    """A wrong password, a wrong authority and a wrong protocol are told apart from a broker that is away."""
    good = company.hire("auditgap worker").kafka
    other = Certificates(tmp_path, "other").authority
    guess = SecretStr("a guess")
    closed = "closes the connection: look at AUDITGAP_KAFKA__SECURITY_PROTOCOL"
    tls = {"security_protocol": "SSL", "ssl_ca_location": good.ssl_ca_location}
    wrong = [
        (
            "refuses the credentials (AUDITGAP_KAFKA__SASL_",
            good.model_copy(update={"sasl_password": guess}),
        ),
        ("TLS fails: look at AUDITGAP_KAFKA__SSL_", good.model_copy(update={"ssl_ca_location": other})),
        (closed, KafkaSettings(bootstrap_servers=good.bootstrap_servers)),
        (closed, KafkaSettings(bootstrap_servers=company.broker.administrator, **tls)),
        ("no broker answers", KafkaSettings(bootstrap_servers="127.0.0.1:1")),
    ]
    commands = (("worker",), ("gaps",), ("publish", company.feed()))
    running = []
    for words, kafka in wrong:
        env = environment(company.site.settings.model_copy(update={"kafka": kafka}))
        for arguments in commands:
            process = subprocess.Popen(
                [sys.executable, "-m", "auditgap", *arguments],
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            running.append((words, process))
    for words, process in running:
        said, _ = process.communicate(timeout=90)
        assert process.returncode == 1, said
        assert len(said.splitlines()) == 1, said
        assert words in said, (words, process.args, said)
