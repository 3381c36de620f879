"""`auditgap connect apply` against a cluster that answers as Kafka Connect does."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from auditgap.config import Settings, load
from auditgap.entrypoints import connect
from auditgap.errors import BrokerError, FailureError, UsageError

CONFIG = {"connector.class": "example.Sink", "topics": "compliance.gap"}


class Cluster:
    """What the cluster holds and was asked for; `state` is that of every task, `faults` what it finds in a config."""

    def __init__(self) -> None:
        self.connectors: dict[str, dict[str, str]] = {}
        self.changes: list[str] = []
        self.state = "RUNNING"
        self.trace = ""
        self.faults: dict[str, list[str]] = {}
        self.rebalances = 0

    def answer(self, method: str, path: str, body: Any) -> tuple[int, Any]:
        """Give status and body."""
        if path == "/":
            return 200, {"version": "4.3.1", "kafka_cluster_id": "x"}
        if path.endswith("/validate"):
            values = [{"value": {"name": name, "errors": errors}} for name, errors in self.faults.items()]
            return 200, {"configs": values}
        name = path.split("/")[2]
        if method == "GET" and path.endswith("/config"):
            known = self.connectors.get(name)
            return (404, {"message": "not found"}) if known is None else (200, known)
        if method == "PUT":
            if self.rebalances:
                self.rebalances -= 1
                return 409, {"message": "a rebalance is expected"}
            self.connectors[name] = body
            self.changes.append(f"put {name}")
            return 200, {}
        if method == "POST":
            self.changes.append(f"restart {name}")
            self.state = "RUNNING"
            return 202, {}
        task = {"id": 0, "state": self.state, "worker_id": "w:1", "trace": self.trace}
        return 200, {"connector": {"state": "RUNNING", "worker_id": "w:1"}, "tasks": [task]}


@pytest.fixture
def cluster() -> Iterator[tuple[Cluster, Settings]]:
    """A cluster, and the settings that reach it."""
    held = Cluster()

    class Handler(BaseHTTPRequestHandler):
        def _serve(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            body = json.loads(self.rfile.read(length)) if length else None
            status, answer = held.answer(self.command, self.path, body)
            self.send_response(status)
            self.end_headers()
            self.wfile.write(json.dumps(answer).encode())

        do_GET = do_PUT = do_POST = _serve  # noqa: N815 - the base class looks for these names

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield held, load(connect={"url": f"http://127.0.0.1:{server.server_port}/"})
    server.shutdown()
    thread.join()
    server.server_close()


def _files(directory: Path, **texts: str) -> Path:
    for name, text in texts.items():
        (directory / f"{name}.json").write_text(text)
    return directory


def _sink(name: str = "sink") -> str:
    return json.dumps({"name": name, "config": CONFIG})


def test_a_second_run_changes_nothing(
    cluster: tuple[Cluster, Settings], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Connectors are created once, and only put again when their file changes."""
    held, settings = cluster
    held.rebalances = 2
    _files(tmp_path, a=_sink("a"), b=_sink("b"))
    for expected in ("created", "as it was"):
        assert connect.apply(settings, [tmp_path], 10, print) == 0
        heads = [line for line in capsys.readouterr().out.splitlines() if not line.startswith(" ")]
        assert heads == [f"a: {expected}", f"b: {expected}"]
    assert held.changes == ["put a", "put b"]
    _files(tmp_path, b=json.dumps({"name": "b", "config": {**CONFIG, "tasks.max": "2"}}))
    assert connect.apply(settings, [tmp_path], 10, print) == 0
    assert held.changes == ["put a", "put b", "put b"]
    assert "b: changed\n  connector: RUNNING on w:1\n  task 0: RUNNING on w:1\n" in capsys.readouterr().out


def test_a_failed_task_is_named_with_its_cause_and_started_again_by_the_next_run(
    cluster: tuple[Cluster, Settings], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A task that failed is a failure, told in one line; applied again, it is started again."""
    held, settings = cluster
    monkeypatch.setattr(connect, "_FAILED_SECONDS", 0.0)
    held.state, held.trace = (
        "FAILED",
        "java.lang.Exception: stopped\n\tat x\nCaused by: java.io.IOException: disk full\n",
    )
    _files(tmp_path, sink=_sink())
    with pytest.raises(FailureError, match=r"^not running: sink \(task 0 failed: .*stopped \| .*disk full\)$"):
        connect.apply(settings, [tmp_path], 10, print)
    assert connect.apply(settings, [tmp_path], 10, print) == 0
    assert held.changes == ["put sink", "restart sink"]


def test_what_does_not_run_in_time_is_a_failure(cluster: tuple[Cluster, Settings], tmp_path: Path) -> None:
    """Waiting is bounded."""
    held, settings = cluster
    held.state = "UNASSIGNED"
    with pytest.raises(FailureError, match=r"^not running: sink \(not all tasks after 0 s\)$"):
        connect.apply(settings, [_files(tmp_path, sink=_sink())], 0, print)


def test_a_refused_configuration_is_told_by_field_and_nothing_is_put(
    cluster: tuple[Cluster, Settings], tmp_path: Path
) -> None:
    """What Connect finds wrong is told field by field, before anything is changed."""
    held, settings = cluster
    held.faults = {"topics": [], "tasks.max": ["must be a\nnumber"], "key": ["missing"]}
    told: list[str] = []
    with pytest.raises(FailureError, match="1 connector refused"):
        connect.apply(settings, [_files(tmp_path, sink=_sink())], 1, told.append)
    file = tmp_path / "sink.json"
    assert told == [f"{file}: tasks.max: must be a number", f"{file}: key: missing"]
    assert held.changes == []


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ('{"name": "a",\n "config": {,}}', "sink.json:2: this is no JSON"),
        ("[]", 'sink.json: a connector is an object of "name" and "config"'),
        ('{"name": "", "config": {}}', "sink.json: name must be a text that is not empty"),
        ('{"name": "a", "config": {"tasks.max": 1}}', "sink.json: config must be an object whose values are all texts"),
        ('{"name": "a", "config": {"topics": "t"}}', "sink.json: config has no connector.class"),
        ('{"name": "a", "config": {"connector.class": "C", "name": "b"}}', "sink.json: config has another name: b"),
        (_sink("other"), "sink.json: {}/other.json has the name other too"),
    ],
)
def test_a_wrong_file_is_told_with_its_place(tmp_path: Path, text: str, fault: str) -> None:
    """A file that is no connector ends the command with status 2, before the cluster is asked."""
    told: list[str] = []
    _files(tmp_path, other=_sink("other"), sink=text)
    nowhere = load(connect={"url": "http://127.0.0.1:1"})
    assert connect.apply(nowhere, [tmp_path], 1, told.append) == 2
    assert len(told) == 1
    assert told[0].startswith(f"{tmp_path}/{fault.format(tmp_path)}")


def test_a_directory_without_connectors_is_wrong_use(tmp_path: Path) -> None:
    """An empty directory is most likely the wrong one."""
    with pytest.raises(UsageError, match=r"holds no connector"):
        connect.read([tmp_path], print)


def test_no_cluster_is_one_line(tmp_path: Path) -> None:
    """Where nobody answers, the line says where and why."""
    with pytest.raises(BrokerError, match=r"^no Kafka Connect answers at http://127\.0\.0\.1:1: .*refused"):
        connect.apply(load(connect={"url": "http://127.0.0.1:1"}), [_files(tmp_path, sink=_sink())], 1, print)


def test_shipped_connectors_read_committed_records_and_have_dead_letters() -> None:
    """Every shipped connector reads committed records only, and puts what it cannot use on a topic of its own."""
    from auditgap import resources

    told: list[str] = []
    found = connect.read([resources.path("connectors", each) for each in ("postgresql", "iceberg")], told.append)
    assert not told
    assert found
    for connector in found:
        config = connector.config
        assert config["consumer.override.isolation.level"] == "read_committed"
        assert config["errors.tolerance"] == "all"
        assert config["errors.deadletterqueue.topic.name"] == f"{connector.name}.dlq"
        assert config["errors.deadletterqueue.context.headers.enable"] == "true"


def test_the_tables_have_every_field_of_the_topics() -> None:
    """PostgreSQL's tables and the sinks' list of times have all that the schemas have: none is forgotten there."""
    from auditgap import resources

    sql = resources.path("connectors", "postgresql", "schema.sql").read_text()
    for name in ("gap", "alert", "status"):
        table = sql.partition(f"compliance_{name} (\n")[2].partition("\n);")[0]
        columns = {line.split()[0] for line in table.splitlines()}
        fields = json.loads(resources.path("schemas", f"{name}.avsc").read_text())["fields"]
        times = {field["name"] for field in fields if "timestamp-micros" in json.dumps(field["type"])}
        own = {"subject"} if name == "status" else set()
        assert columns == {field["name"] for field in fields} | {f"{time}_us" for time in times} | own
        config = json.loads(resources.path("connectors", "postgresql", f"{name}.json").read_text())["config"]
        renamed = set(config["transforms.times.renames"].split(","))
        assert renamed == {f"{time}:{time}_us" for time in times}
