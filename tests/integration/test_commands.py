"""The commands against a real Kafka, as processes of their own where that is what a user runs."""

import gzip
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Message, Producer
from confluent_kafka.admin import AdminClient

from auditgap.adapters import avro
from auditgap.adapters.kafka import PARTITIONER, read_committed, topic_table
from auditgap.config import Settings
from auditgap.core.inputs import SETTINGS_TYPE, Activity
from auditgap.core.records import Alert, Emission, Gap, Severity
from auditgap.core.times import SECOND, text_of

IDS = avro.SchemaIds.bundled()
NOW = time.time_ns() // 1000


def run(environment: dict[str, str], *arguments: str, stdin: bytes = b"") -> subprocess.CompletedProcess[str]:
    """Run a command to its end; it never shows a traceback."""
    command = [sys.executable, "-m", "auditgap", *arguments]
    ran = subprocess.run(command, env=environment, input=stdin, capture_output=True, timeout=60, check=False)
    result = subprocess.CompletedProcess(command, ran.returncode, ran.stdout.decode(), ran.stderr.decode())
    assert "Traceback" not in result.stderr, result.stderr
    return result


def activity(number: int, organization: str | None = "org_1", **fields: object) -> dict[str, Any]:
    """Make a record of the feed."""
    return {
        "id": f"activity_{number}",
        "type": "claude_chat_created",
        "created_at": text_of(NOW - 3600 * SECOND + number * SECOND),
        "organization_id": organization,
        **fields,
    }


def ndjson(*records: dict[str, Any]) -> bytes:
    """Write records a line each."""
    return b"".join(json.dumps(record).encode() + b"\n" for record in records)


def stored(settings: Settings) -> list[tuple[Message, Activity]]:
    """Read what is on the activity topic."""
    found = []
    for message in read_committed(settings, settings.topics.activity):
        read = avro.decode_activity(IDS, message.value())
        assert isinstance(read, Activity)
        found.append((message, read))
    return found


def free_port() -> int:
    """Find a port nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


# --- topics apply -----------------------------------------------------------------------------------------------------


def test_topics_apply_is_idempotent_and_mends(settings: Settings, environment: dict[str, str]) -> None:
    """Applied topics need nothing; more partitions are added, fewer refused as wrong use."""
    result = run(environment, "topics", "apply")
    assert (result.returncode, result.stdout) == (0, "")
    assert result.stderr == "all topics are as they should be\n"
    result = run(environment | {"AUDITGAP_TOPICS__PARTITIONS": "6"}, "topics", "apply")
    assert result.returncode == 0
    assert result.stderr.count("from 4 to 6 partitions") == len(topic_table(settings))
    result = run(environment, "topics", "apply")
    assert result.returncode == 2
    assert "AUDITGAP_TOPICS__PARTITIONS=6" in result.stderr


# --- publish ----------------------------------------------------------------------------------------------------------


def test_publish_writes_whole_records(settings: Settings, environment: dict[str, str]) -> None:
    """Every record arrives once: by Avro with its text as it came, under its key, with the headers of CloudEvents."""
    actor = {"type": "user_actor", "user_id": "user_1", "email_address": "a@example.com", "ip_address": "192.0.2.1"}
    records = [
        activity(1, organization_uuid="u-1", actor=actor, new={"field": [1.10, None]}),
        activity(2, None, type="user_signed_in"),
        activity(3, type=SETTINGS_TYPE, compliance_api_enabled=None, compliance_api_logging_enabled=False),
    ]
    result = run(environment, "publish", "-", "--feed", "feed 1", stdin=ndjson(*records))
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "published 3\n")
    found = {read.id: (message, read) for message, read in stored(settings)}
    assert [json.loads(found[record["id"]][1].raw) for record in records] == records
    message, read = found["activity_1"]
    assert (message.key(), read.actor.email, read.organization_uuid) == (b"org_1", "a@example.com", "u-1")
    assert dict(message.headers() or []) == {
        "ce_specversion": b"1.0",
        "ce_id": b"activity_1",
        "ce_source": b"/feeds/feed%201",
        "ce_type": b"com.anthropic.compliance.activity.claude_chat_created",
        "ce_subject": b"org_1",
        "ce_time": records[0]["created_at"].encode(),
        "content-type": b"application/avro",
    }
    assert found["activity_2"][0].key() == b"feed 1"
    assert dict(found["activity_2"][0].headers() or [])["ce_subject"] == b"feed/feed 1"
    flags = found["activity_3"][1]
    assert (flags.api_enabled, flags.logging_enabled) == (None, False)


def test_publish_partitions_as_java_does(settings: Settings, environment: dict[str, str]) -> None:
    """A key goes to the partition where Java's clients, and Faust's, would look for it."""
    records = [activity(number, f"org_{number}") for number in range(50)]
    assert run(environment, "publish", "-", stdin=ndjson(*records)).returncode == 0
    expected: dict[bytes | None, int | None] = {}
    producer = Producer({"bootstrap.servers": settings.kafka.bootstrap_servers, "partitioner": "murmur2"})
    for number in range(50):
        producer.produce(
            settings.topics.activity_dlq,
            b"",
            f"org_{number}",
            on_delivery=lambda _, message: expected.update({message.key(): message.partition()}),
        )
    assert producer.flush(30) == 0
    found = {message.key(): message.partition() for message, _ in stored(settings)}
    assert found == expected
    assert len(set(found.values())) == settings.topics.partitions
    assert PARTITIONER.startswith("murmur2")


def test_publish_takes_every_form(settings: Settings, environment: dict[str, str], tmp_path: Path) -> None:
    """NDJSON, arrays, pages and gzip of them are published together, files and standard input alike."""
    (tmp_path / "lines").write_bytes(ndjson(activity(1), activity(2)))
    (tmp_path / "array").write_text(json.dumps([activity(3), activity(4)], indent=2))
    (tmp_path / "pages").write_bytes(ndjson({"data": [activity(5)], "has_more": True}, {"data": [], "has_more": False}))
    (tmp_path / "packed").write_bytes(gzip.compress(ndjson(activity(6))))
    files = [str(tmp_path / name) for name in ("lines", "array", "pages", "packed")]
    result = run(environment, "publish", *files, "-", stdin=gzip.compress(ndjson(activity(7))))
    assert (result.returncode, result.stderr) == (0, "published 7\n")
    assert {read.id for _, read in stored(settings)} == {f"activity_{number}" for number in range(1, 8)}


def test_publish_reports_by_line_and_goes_on(settings: Settings, environment: dict[str, str]) -> None:
    """What cannot be read, and a record that is too large, is named by line; the rest goes through; status 1."""
    large = activity(5, text="x" * 2_200_000)
    broken = [b"{broken\n", ndjson(activity(2, id=None)), ndjson(activity(3, created_at="noon"))]
    result = run(
        environment, "publish", "-", stdin=b"".join([ndjson(activity(1)), *broken, ndjson(large, activity(6))])
    )
    assert result.returncode == 1
    *lines, counts = result.stderr.splitlines()
    assert [line.split(": ")[1] for line in lines] == ["line 2", "line 3", "line 4", "line 5"]
    assert "too large" in lines[-1]
    assert counts == "published 2 · refused 4"
    assert {read.id for _, read in stored(settings)} == {"activity_1", "activity_6"}


def test_publish_takes_a_record_of_a_megabyte(settings: Settings, environment: dict[str, str]) -> None:
    """A record of the size the API may give goes through whole."""
    record = activity(1, text="".join(chr(33 + number % 90) for number in range(1_000_000)))
    assert run(environment, "publish", "-", stdin=ndjson(record)).returncode == 0
    ((_, read),) = stored(settings)
    assert json.loads(read.raw) == record


def test_publish_hands_on_settings_events_it_cannot_understand(settings: Settings, environment: dict[str, str]) -> None:
    """A settings event without a time, an id or a boolean is warned of by line and published all the same; status 1."""
    bad = [
        activity(1, type=SETTINGS_TYPE, compliance_api_enabled="false"),
        activity(2, type=SETTINGS_TYPE, created_at=None),
        activity(3, type=SETTINGS_TYPE, id=None),
        activity(4, 17, type=SETTINGS_TYPE),  # type: ignore[arg-type]  # that is what is wrong with it
    ]
    result = run(environment, "publish", "-", stdin=ndjson(*bad))
    assert result.returncode == 1
    assert result.stderr.count("cannot be understood (") == 4
    assert result.stderr.endswith("published 4 · settings events that cannot be understood 4 (published)\n")
    assert [json.loads(read.raw) in bad for _, read in stored(settings)] == [True] * 4


def test_publish_keeps_text_that_is_no_unicode(settings: Settings, environment: dict[str, str]) -> None:
    """Half of a surrogate pair in a record stops nothing, and the original text keeps it."""
    line = ndjson(activity(1, "org_\ud800", actor={"type": "user_actor", "user_agent": "\udc00"}))
    assert run(environment, "publish", "-", stdin=line).returncode == 0
    ((message, read),) = stored(settings)
    assert read.raw == line.decode().strip()
    assert message.key() == (read.organization_id or "").encode()


def test_publish_many_loses_none(settings: Settings, environment: dict[str, str]) -> None:
    """Thirty thousand records arrive, each once."""
    content = ndjson(*(activity(number, f"org_{number % 100}", pad="x" * 500) for number in range(30_000)))
    result = run(environment, "publish", "-", stdin=content)
    assert (result.returncode, result.stderr) == (0, "published 30,000\n")
    assert Counter(read.id for _, read in stored(settings)) == {f"activity_{number}": 1 for number in range(30_000)}


def test_publish_without_its_topic_says_what_to_do(environment: dict[str, str], settings: Settings) -> None:
    """A missing topic is one line that names `auditgap topics apply`, and is not made by asking for it."""
    missing = f"{settings.topics.activity}.missing"
    result = run(environment | {"AUDITGAP_TOPICS__ACTIVITY": missing}, "publish", "-", stdin=ndjson(activity(1)))
    assert result.returncode == 1
    assert result.stderr.count("\n") == 1
    assert "`auditgap topics apply`" in result.stderr
    admin = AdminClient({"bootstrap.servers": settings.kafka.bootstrap_servers})
    assert missing not in admin.list_topics(timeout=10).topics


def test_an_unreachable_broker_is_one_line() -> None:
    """Where no broker answers, every command ends within seconds with status 1 and one line that names the address."""
    address = f"127.0.0.1:{free_port()}"
    environment = os.environ | {"AUDITGAP_KAFKA__BOOTSTRAP_SERVERS": address}
    begun = time.monotonic()
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "auditgap", *command.split()],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for command in ("publish -", "gaps", "alerts", "topics apply")
    ]
    for process in processes:
        out, err = process.communicate(timeout=30)
        assert (process.returncode, out) == (1, "")
        assert err.count("\n") == 1
        assert address in err
    assert time.monotonic() - begun < 25


# --- gaps and alerts --------------------------------------------------------------------------------------------------


def gap(number: int, revision: int, organization: str = "org_1", **fields: Any) -> Gap:
    """Make a revision of a gap that opened `number` seconds after `NOW`."""
    shape: dict[str, Any] = {
        "gap_id": f"gap_{number}",
        "incident_id": f"inc_{number}",
        "organization_id": organization,
        "feed_id": None,
        "first_evidence_at": NOW,
        "produced_at": NOW + revision,
        "state": "OPEN",
        "confidence": "CONFIRMED",
        "cause": "API_DISABLED",
        "opened_at": NOW + number * SECOND,
        "opened_at_latest": NOW + number * SECOND,
        "opened_by_kind": "settings_event",
        "opened_by_id": "activity_9",
    }
    return Gap(**shape | fields, revision=revision)


def alert(number: int, revision: int = 1) -> Alert:
    """Make a revision of an alert."""
    return Alert(
        alert_id=f"alert_{number}",
        revision=revision,
        status="FIRING",
        kind="logging_disabled",
        severity=Severity.CRITICAL,
        organization_id="org_1",
        feed_id=None,
        occurred_at=NOW + number * SECOND,
        detected_at=NOW,
        produced_at=NOW + number,
        summary="organization org_1: switched off",
        dedup_key="logging_disabled:inc_1",
    )


class Output:
    """Writes the output topics as a worker does: in transactions."""

    def __init__(self, settings: Settings) -> None:
        self._topics = settings.topics
        self._encoder = avro.Encoder(IDS)
        self._producer = Producer(
            {"bootstrap.servers": settings.kafka.bootstrap_servers, "transactional.id": settings.worker.group}
        )
        self._producer.init_transactions(30)

    def write(self, *records: Emission | bytes, commit: bool = True) -> None:
        """Write in one transaction; bytes go to all three topics as they are."""
        topics = self._topics
        self._producer.begin_transaction()
        for record in records:
            if isinstance(record, bytes):
                for topic in (topics.alert, topics.gap, topics.gap_history):
                    self._producer.produce(topic, record, b"org_1")
            elif isinstance(record, Gap):
                for topic in (topics.gap, topics.gap_history):
                    self._producer.produce(topic, self._encoder.emission(record), record.gap_id.encode())
            else:
                self._producer.produce(topics.alert, self._encoder.emission(record), b"org_1")
        if commit:
            self._producer.commit_transaction(30)
        else:
            self._producer.flush(30)
            self._producer.abort_transaction(30)


@pytest.fixture
def output(settings: Settings) -> Output:
    """A writer of the output topics."""
    return Output(settings)


def lines(result: subprocess.CompletedProcess[str]) -> list[dict[str, Any]]:
    """Read a command's JSON lines."""
    return [json.loads(line) for line in result.stdout.splitlines()]


def test_gaps_are_the_latest_revisions(environment: dict[str, str], output: Output) -> None:
    """`gaps` gives the highest revision of each gap by opening, `--history` all, `--organization` those of one."""
    output.write(gap(2, 1), gap(2, 2, state="CLOSED", closed_at=NOW + 9 * SECOND), gap(1, 1, "org_2"))
    output.write(gap(1, 2, "org_2"))
    output.write(gap(3, 1), commit=False)
    result = run(environment, "gaps", "--json")
    assert [(found["gap_id"], found["revision"]) for found in lines(result)] == [("gap_1", 2), ("gap_2", 2)]
    assert result.returncode == 0
    assert lines(result)[1]["closed_at"] == text_of(NOW + 9 * SECOND)
    assert lines(result)[0].keys() == set(Gap.__dataclass_fields__)
    history = lines(run(environment, "gaps", "--json", "--history"))
    assert Counter(found["gap_id"] for found in history) == {"gap_1": 2, "gap_2": 2}
    only = lines(run(environment, "gaps", "--json", "--organization", "org_2"))
    assert [found["gap_id"] for found in only] == ["gap_1"]
    assert len(lines(run(environment, "gaps", "--json", "--history", "--organization", "org_2"))) == 2


def test_gaps_for_a_person(environment: dict[str, str], output: Output) -> None:
    """Without `--json` a gap is a block of lines with whole ids, none of them over 100 wide."""
    last = "activity_01" + "A" * 22
    known = {"last_activity_id": last, "last_activity_at": NOW, "opened_actor_email": "owner@example.com"}
    output.write(gap(1, 1, "org_01" + "B" * 22, **known))
    text = run(environment, "gaps").stdout
    assert text.startswith("OPEN    organization org_01BBBBBBBBBBBBBBBBBBBBBB  API_DISABLED, confirmed\n")
    assert f"last id before   {last} at " in text
    assert max(map(len, text.splitlines())) <= 100


def test_no_gaps_is_no_failure(environment: dict[str, str]) -> None:
    """Nothing known is nothing on stdout, a word on stderr, and status 0."""
    result = run(environment, "gaps")
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "no gap is known\n")
    result = run(environment, "alerts", "--json")
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


@pytest.mark.parametrize("command", ["gaps", "gaps --history", "alerts"])
def test_what_cannot_be_decoded_is_a_warning(command: str, environment: dict[str, str], output: Output) -> None:
    """A record that is no gap or alert is named on stderr with its place, the others are listed; status 1."""
    output.write(b"\0\0\0\0\x63garbage", gap(1, 1), alert(1))
    result = run(environment, *command.split(), "--json")
    assert result.returncode == 1
    assert len(lines(result)) == 1
    assert result.stderr.count("\n") == 1
    assert re.search(r"partition \d, offset 0", result.stderr)


def test_alerts_come_in_the_order_in_which_they_were_made(environment: dict[str, str], output: Output) -> None:
    """`alerts` gives every committed revision, oldest first, with the schema's fields; aborted ones are not seen."""
    output.write(alert(1), alert(3))
    output.write(alert(9), commit=False)
    output.write(alert(2), alert(4, 2))
    found = lines(run(environment, "alerts", "--json"))
    assert [each["alert_id"] for each in found] == ["alert_1", "alert_2", "alert_3", "alert_4"]
    assert found[0].keys() == set(Alert.__dataclass_fields__)
    assert (found[0]["severity"], found[0]["detected_at"]) == ("CRITICAL", text_of(NOW))
    text = run(environment, "alerts").stdout
    assert "logging_disabled  org_1  (firing, revision 2)" in text


def test_alerts_follow_gives_each_at_once(environment: dict[str, str], output: Output) -> None:
    """`alerts --follow` gives what is there and then what comes, a line at once, until Ctrl-C ends it with 130."""
    output.write(alert(1))
    command = [sys.executable, "-m", "auditgap", "alerts", "--follow", "--json"]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout
        assert process.stderr
        assert json.loads(process.stdout.readline())["alert_id"] == "alert_1"
        begun = time.monotonic()
        output.write(alert(2))
        assert json.loads(process.stdout.readline())["alert_id"] == "alert_2"
        assert time.monotonic() - begun < 5
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == 130
        assert process.stderr.read().strip() == b""


# --- broker and demo --------------------------------------------------------------------------------------------------


def descendants(pid: int) -> set[int]:
    """List the processes below one, by the system's own table."""
    table = subprocess.run(["ps", "-eo", "pid=,ppid="], capture_output=True, text=True, check=True).stdout
    pairs = [tuple(map(int, line.split())) for line in table.splitlines()]
    found = {pid}
    while more := {child for child, parent in pairs if parent in found} - found:
        found |= more
    return found - {pid}


def alive(pids: set[int]) -> set[int]:
    """Say which of these processes still run."""
    table = subprocess.run(["ps", "-eo", "pid=,stat="], capture_output=True, text=True, check=True).stdout
    running = {int(line.split()[0]) for line in table.splitlines() if not line.split()[1].startswith("Z")}
    return pids & running


@pytest.fixture
def scratch(tmp_path: Path) -> Iterator[dict[str, str]]:
    """An environment whose temporary files go to a directory of the test's own, in which nothing is left behind."""
    yield os.environ | {"TMPDIR": str(tmp_path)}
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_broker_serves_until_a_signal(number: signal.Signals, status: int, scratch: dict[str, str]) -> None:
    """`broker` says its address on stdout once it answers there, and leaves nothing behind when a signal ends it."""
    port = free_port()
    command = [sys.executable, "-m", "auditgap", "broker", "--port", str(port)]
    with subprocess.Popen(command, env=scratch, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout
        assert process.stdout.readline() == f"bootstrap_servers=127.0.0.1:{port}\n"
        AdminClient({"bootstrap.servers": f"127.0.0.1:{port}"}).list_topics(timeout=5)
        below = descendants(process.pid)
        assert below
        process.send_signal(number)
        assert process.wait(20) == status
        assert process.stdout.read() == ""
    assert not alive(below)


def test_broker_that_dies_is_a_failure(scratch: dict[str, str], tmp_path: Path) -> None:
    """When the broker itself ends, so does the command, with one line and status 1."""
    command = [sys.executable, "-m", "auditgap", "broker"]
    with subprocess.Popen(command, env=scratch, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout
        assert process.stderr
        assert process.stdout.readline()
        for pid in descendants(process.pid):
            os.kill(pid, signal.SIGKILL)
        assert process.wait(20) == 1
        assert "auditgap: the embedded broker ended" in process.stderr.read()
    assert tmp_path.exists()


def test_demo_shows_a_closed_window_an_open_one_and_their_alerts(scratch: dict[str, str], tmp_path: Path) -> None:
    """`demo` ends by itself with 0: a closed window with both ids, an open one, the alerts; nothing is left."""
    elsewhere = scratch | {"AUDITGAP_KAFKA__BOOTSTRAP_SERVERS": "127.0.0.1:1", "AUDITGAP_TOPICS__GAP": "not.mine"}
    begun = time.monotonic()
    command = [sys.executable, "-m", "auditgap", "demo"]
    with subprocess.Popen(
        command, cwd=tmp_path, env=elsewhere, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout
        seen = process.stdout.readline()
        below = descendants(process.pid)
        out, err = process.communicate(timeout=90)
    out = seen + out
    assert process.returncode == 0, err
    assert time.monotonic() - begun < 45
    assert len(below) >= 3
    assert not alive(below)
    blocks = {block.split()[2]: block for block in out.split("\n\n")[1:]}
    assert blocks.keys() == {"org_demo_closed", "org_demo_open"}
    closed, still_open = blocks["org_demo_closed"], blocks["org_demo_open"]
    assert closed.startswith("CLOSED")
    assert re.search(r"last id before +activity_demo_\d{4} at ", closed)
    assert re.search(r"first id after +activity_demo_\d{4} at ", closed)
    assert "not audited      12 min\n" in closed
    assert still_open.startswith("OPEN")
    assert "API_DISABLED" in still_open
    assert "back on" not in still_open
    alerts = out.split("\n\n")[0]
    for kind, organization in (
        ("logging_disabled", "org_demo_closed"),
        ("logging_restored", "org_demo_closed"),
        ("logging_disabled", "org_demo_open"),
    ):
        assert re.search(rf"{kind}  {organization}  \(", alerts)
    assert "org_demo_clean" not in out
    assert "historical" not in out


def test_demo_keeps_up_until_a_signal(scratch: dict[str, str], tmp_path: Path) -> None:
    """`demo --keep` names its broker, which answers to other commands, and leaves nothing behind after Ctrl-C."""
    command = [sys.executable, "-m", "auditgap", "demo", "--keep"]
    with subprocess.Popen(
        command, cwd=tmp_path, env=scratch, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        assert process.stdout
        address = next(line for line in process.stdout if line.startswith("bootstrap_servers=")).strip()
        servers = address.partition("=")[2]
        result = run(os.environ | {"AUDITGAP_KAFKA__BOOTSTRAP_SERVERS": servers}, "gaps", "--json")
        assert {found["state"] for found in lines(result)} == {"OPEN", "CLOSED"}
        below = descendants(process.pid)
        process.send_signal(signal.SIGINT)
        assert process.wait(40) == 130
    assert not alive(below)


def test_demo_ends_with_its_worker(scratch: dict[str, str], tmp_path: Path) -> None:
    """When the worker dies, the demo says so in one line and ends with 1, and leaves nothing behind."""
    command = [sys.executable, "-m", "auditgap", "demo"]
    with subprocess.Popen(
        command, cwd=tmp_path, env=scratch, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr
        next(line for line in process.stderr if line.startswith("4/5"))
        below = descendants(process.pid)
        table = subprocess.run(["ps", "-eo", "pid=,args="], capture_output=True, text=True, check=True).stdout
        worker = next(
            pid
            for line in table.splitlines()
            if (pid := int(line.split()[0])) in below and line.endswith("auditgap worker")
        )
        os.kill(worker, signal.SIGKILL)
        assert process.wait(40) == 1
        last = process.stderr.read().splitlines()[-1]
    assert last.startswith("auditgap: the worker ended with status -9")
    assert not alive(below)
