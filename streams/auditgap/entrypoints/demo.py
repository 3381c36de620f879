"""`auditgap demo` and `auditgap broker`: everything on this machine, from an embedded Kafka up."""

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event, Thread
from typing import IO, Any, Final

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from auditgap import clock
from auditgap.adapters import kafka
from auditgap.adapters.embedded_kafka import EmbeddedKafka
from auditgap.config import Settings, load
from auditgap.core import times
from auditgap.core.inputs import SETTINGS_TYPE
from auditgap.core.records import Alert, Gap, alert_from_dict
from auditgap.entrypoints import show
from auditgap.entrypoints.publish import Publisher
from auditgap.entrypoints.read import Reader
from auditgap.errors import BrokerError, FailureError, WorkerStop

_READY_SECONDS: Final = 60.0
_SEEN_SECONDS: Final = 30.0
_STOP_SECONDS: Final = 15.0
_PUBLISH_SECONDS: Final = 12.0

CLOSED: Final = "org_demo_closed"
OPEN: Final = "org_demo_open"
CLEAN: Final = "org_demo_clean"


# --- the broker -------------------------------------------------------------------------------------------------------


def run_broker(port: int | None, data_dir: Path | None) -> int:
    """Run the embedded broker until a signal ends it."""
    with _terminable(), EmbeddedKafka(data_dir, port, _say) as broker:
        click.echo(f"bootstrap_servers={broker.bootstrap_servers}")
        _say("Ctrl-C stops it")
        while broker.poll() is None:
            time.sleep(0.2)
        raise BrokerError(f"the embedded broker ended by itself, with status {broker.poll()}")


@contextmanager
def _terminable() -> Iterator[None]:
    """Have SIGTERM and a closed terminal end the command in order, as Ctrl-C does."""

    def end(number: int, _: object) -> None:
        raise SystemExit(128 + number)

    before = {number: signal.signal(number, end) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _say(line: str) -> None:
    click.echo(line, err=True)


# --- the sample feed --------------------------------------------------------------------------------------------------


def sample(now: int) -> Iterator[dict[str, Any]]:
    """Make the feed of three organizations over the 40 minutes before `now`, oldest first.

    The first is off for twelve minutes. The second has only its API switched off, and later only its recording
    switched on, which does not bring it back. The third is quiet and clean.
    """
    rows: list[tuple[float, str, str, dict[str, Any]]] = []
    for organization, first, every, off in ((CLOSED, 0.0, 12, (15.0, 27.0)), (OPEN, 4.0, 15, (22.0, 99.0))):
        for step in range(2400 // every):
            minute = (first + step * every) / 60
            if not off[0] <= minute < off[1] + 0.1:
                kind = ("claude_chat_created", "claude_file_uploaded", "claude_project_viewed")[step % 3]
                rows.append((minute, organization, kind, {}))
    rows += [(minute, CLEAN, "claude_chat_created", {}) for minute in (3.0, 19.5, 38.0)]
    rows += [
        (15.0, CLOSED, SETTINGS_TYPE, {"compliance_api_enabled": None, "compliance_api_logging_enabled": False}),
        (27.0, CLOSED, SETTINGS_TYPE, {"compliance_api_enabled": True, "compliance_api_logging_enabled": True}),
        (22.0, OPEN, SETTINGS_TYPE, {"compliance_api_enabled": False}),
        (34.0, OPEN, SETTINGS_TYPE, {"compliance_api_logging_enabled": True}),
    ]
    addresses = {CLOSED: "192.0.2.10", OPEN: "198.51.100.20", CLEAN: "203.0.113.30"}
    for number, (minute, organization, kind, fields) in enumerate(sorted(rows, key=lambda row: row[0])):
        switches = kind == SETTINGS_TYPE
        role = "member" if not switches else "admin" if False in fields.values() else "owner"
        yield {
            "id": f"activity_demo_{number:04d}",
            "type": kind,
            "created_at": times.text_of(now - int((41.0 - minute) * 60 * times.SECOND)),
            "organization_id": organization,
            "actor": {
                "type": "user_actor",
                "user_id": f"user_demo_{role}",
                "email_address": f"{role}@{organization.rpartition('_')[2]}.example.com",
                "ip_address": addresses[organization],
                "user_agent": "auditgap-demo",
            },
            **fields,
        }


# --- the demo ---------------------------------------------------------------------------------------------------------


def run(*, keep: bool) -> int:
    """Run the demo; gives the exit status. Raises BrokerError, WorkerStop and FailureError."""
    # The demo is about its own broker: settings for another one must not reach into it.
    for variable in [name for name in os.environ if name.startswith("AUDITGAP_")]:
        del os.environ[variable]
    screen = _Screen()
    with _terminable(), tempfile.TemporaryDirectory(prefix="auditgap-demo-") as directory:
        screen.say("1/5  starting an embedded Apache Kafka …")
        with EmbeddedKafka(on_message=screen.say) as broker:
            settings = load(kafka={"bootstrap_servers": broker.bootstrap_servers})
            screen.say(f"2/5  creating the topics on {broker.bootstrap_servers} …")
            kafka.apply_topics(settings, lambda _: None)
            screen.say("3/5  starting a worker …")
            with _worker(settings, Path(directory)) as worker, _alerts(settings, Path(directory), screen) as seen:
                worker.await_ready()
                screen.say("4/5  publishing the feed of three organizations; alerts as they arrive:")
                _publish(settings, screen, worker, seen)
                gaps = _await_end(settings, screen, worker, seen)
                screen.say("5/5  the gaps:")
                _show(gaps, screen)
                if keep:
                    _keep(broker, worker, settings, screen)
    return 0


class _Screen:
    """Alerts and gaps on stdout, all else on stderr, both past the progress bar where they share a terminal."""

    def __init__(self) -> None:
        self._messages = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)
        self.progress = Progress(
            TextColumn("     {task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            console=self._messages,
            transient=True,
            redirect_stdout=False,
            disable=not self._messages.is_terminal,
        )

    @property
    def live(self) -> bool:
        """Whether there is a terminal for a bar to move on."""
        return self._messages.is_terminal

    def say(self, line: str) -> None:
        if self.live:
            self._messages.print(line)
        else:
            _say(line)

    def data(self, lines: list[str]) -> None:
        if self.live and sys.stdout.isatty():
            from rich.text import Text

            for line in lines:
                self._messages.print(Text.from_ansi(line))
        else:
            click.echo("\n".join(lines))


@dataclass
class _Child:
    """A process of ours, whose words are in a file until they are wanted."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path
    ready_url: str = ""

    def check(self) -> None:
        """Raise WorkerStop with its own words if it ended."""
        status = self.process.poll()
        if status is None:
            return
        lines = [line for line in self.log.read_text(errors="replace").splitlines() if line.strip()]
        words = next((line for line in reversed(lines) if line.startswith("auditgap: ")), lines[-1] if lines else "")
        raise WorkerStop(
            f"the {self.name} ended with status {status}: {words.removeprefix('auditgap: ') or 'without a word'}"
        )

    def await_ready(self) -> None:
        """Wait until it has its partitions and their state."""
        reason = "no answer"
        deadline = time.monotonic() + _READY_SECONDS
        while time.monotonic() < deadline:
            self.check()
            try:
                with urllib.request.urlopen(self.ready_url, timeout=1):  # noqa: S310 - an address of ours
                    return
            except urllib.error.HTTPError as error:
                reason = error.read().decode(errors="replace").strip()
            except OSError:
                pass
            time.sleep(0.05)
        raise FailureError(f"the {self.name} was not ready within {_READY_SECONDS:.0f} s: {reason}")

    def stop(self) -> None:
        """End it in order, or by SIGKILL."""
        self.process.terminate()
        try:
            self.process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


@contextmanager
def _child(
    name: str, arguments: list[str], settings: Settings, log: Path, more: Mapping[str, str], *, piped: bool = False
) -> Iterator[_Child]:
    """Run one of our own commands. Its output goes to `log`; `piped`: its stdout goes to us."""
    environment = os.environ | {"AUDITGAP_KAFKA__BOOTSTRAP_SERVERS": settings.kafka.bootstrap_servers} | dict(more)
    with log.open("wb") as words:
        process = subprocess.Popen(  # noqa: S603 - ourselves
            [sys.executable, "-m", "auditgap", *arguments],
            cwd=log.parent,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE if piped else words,
            stderr=words,
        )
    child = _Child(name, process, log)
    try:
        yield child
    finally:
        child.stop()


@contextmanager
def _worker(settings: Settings, directory: Path) -> Iterator[_Child]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    own = {"AUDITGAP_WORKER__HTTP_PORT": str(port), "AUDITGAP_WORKER__INSTANCE_ID": "demo"}
    with _child("worker", ["worker"], settings, directory / "worker.log", own) as child:
        child.ready_url = f"http://127.0.0.1:{port}/readyz"
        yield child


@dataclass
class _Seen:
    """The alerts that a subscriber saw, latest revision of each."""

    child: _Child
    alerts: dict[str, Alert] = field(default_factory=dict)
    changed: Event = field(default_factory=Event)
    fault: OSError | None = None

    def check(self) -> None:
        """Raise what ended the listening."""
        if self.fault is not None:
            raise self.fault
        self.child.check()

    def has(self, organization: str, kind: str) -> bool:
        return any(alert.organization_id == organization and alert.kind == kind for alert in list(self.alerts.values()))


@contextmanager
def _alerts(settings: Settings, directory: Path, screen: _Screen) -> Iterator[_Seen]:
    """Follow the alerts by our own command, and show each."""
    arguments = ["alerts", "--follow", "--json"]
    with _child("subscriber", arguments, settings, directory / "alerts.log", {}, piped=True) as child:
        seen = _Seen(child)
        if child.process.stdout is None:
            raise FailureError("the subscriber has no output")
        reader = Thread(target=_listen, args=(child.process.stdout, seen, screen), daemon=True)
        reader.start()
        try:
            yield seen
        finally:
            child.stop()
            reader.join(_STOP_SECONDS)
            child.process.stdout.close()


def _listen(lines: IO[bytes], seen: _Seen, screen: _Screen) -> None:
    for line in lines:
        shape = json.loads(line)
        for name in ("occurred_at", "detected_at", "produced_at"):
            shape[name] = None if shape[name] is None else times.parse(shape[name])
        alert = alert_from_dict(shape)
        try:
            screen.data(show.alert_lines(alert))
        except OSError as error:
            # Nobody reads our output any more; the main thread ends the demo.
            seen.fault = error
            return
        seen.alerts[alert.alert_id] = alert
        seen.changed.set()


def _publish(settings: Settings, screen: _Screen, worker: _Child, seen: _Seen) -> None:
    """Publish the sample feed at a pace that can be watched."""
    records = [json.dumps(record) for record in sample(clock.now() // times.SECOND * times.SECOND)]
    begun = time.monotonic()
    with screen.progress as progress, Publisher(settings, screen.say) as publisher:
        task = progress.add_task("activities", total=len(records))
        for number, raw in enumerate(records, start=1):
            publisher.found("sample", [(number, 0, raw, json.loads(raw))], "demo")
            progress.update(task, completed=number)
            if number * 4 % len(records) < 4 and not screen.live:
                screen.say(f"     {number} of {len(records)} activities")
            worker.check()
            seen.check()
            time.sleep(max(0.0, begun + number * _PUBLISH_SECONDS / len(records) - time.monotonic()))
        publisher.flush()
    if publisher.counts.exit_status:
        raise FailureError(f"the sample feed was not published whole: {publisher.counts}")


def _await_end(settings: Settings, screen: _Screen, worker: _Child, seen: _Seen) -> list[Gap]:
    """Wait until the alerts arrived and the gaps say what they have to."""
    reader = Reader(settings, screen.say)
    wanted = ((CLOSED, "logging_disabled"), (CLOSED, "logging_restored"), (OPEN, "logging_disabled"))
    deadline = time.monotonic() + _SEEN_SECONDS
    while time.monotonic() < deadline:
        worker.check()
        seen.check()
        if all(seen.has(*each) for each in wanted) and _complete(gaps := reader.latest()):
            return gaps
        seen.changed.wait(0.2)
        seen.changed.clear()
    raise FailureError(f"the worker did not find the gaps of the sample feed within {_SEEN_SECONDS:.0f} s")


def _complete(gaps: list[Gap]) -> bool:
    """Whether the first organization's gap has both ids and the second's is open."""
    by_organization = {gap.organization_id: gap for gap in gaps}
    closed, still_open = by_organization.get(CLOSED), by_organization.get(OPEN)
    return bool(
        closed
        and still_open
        and closed.state == "CLOSED"
        and closed.last_activity_id
        and closed.first_activity_id
        and still_open.state == "OPEN"
        and still_open.activity_inside_count == 0
    )


_NOTES: Final = {
    CLOSED: "Compare these two ids with other logs: what happened between them was not recorded.",
    OPEN: "Its recording was switched on again, but not the API: nothing is to be had of it still.",
}


def _show(gaps: list[Gap], screen: _Screen) -> None:
    now = clock.now()
    for gap in gaps:
        note = _NOTES.get(gap.organization_id or "")
        screen.data(["", *show.gap_lines(gap, now)])
        if note:
            screen.say(f"  → {note}")
    screen.say("")
    screen.say(f"{CLEAN} was published too, and has no gap.")


def _keep(broker: EmbeddedKafka, worker: _Child, settings: Settings, screen: _Screen) -> None:
    """Stay up until a signal, and say what to try."""
    command = Path(sys.argv[0]).name if Path(sys.argv[0]).name == "auditgap" else "python -m auditgap"
    screen.say("")
    screen.data([f"bootstrap_servers={settings.kafka.bootstrap_servers}"])
    screen.say("Try, in another terminal:")
    screen.say(f"  export AUDITGAP_KAFKA__BOOTSTRAP_SERVERS={settings.kafka.bootstrap_servers}")
    for arguments in ("gaps --history", "alerts --follow", "publish FILE", "gaps --json"):
        screen.say(f"  {command} {arguments}")
    screen.say("Ctrl-C stops everything.")
    try:
        while True:
            worker.check()
            if broker.poll() is not None:
                raise BrokerError(f"the embedded broker ended with status {broker.poll()}")
            time.sleep(0.2)
    except KeyboardInterrupt:
        screen.say("stopping …")
        raise
