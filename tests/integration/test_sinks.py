"""The sinks on real components, all started here: Kafka, registry, Connect, PostgreSQL and an S3 endpoint.

The connectors are the shipped files, put there by `auditgap connect apply`; topics have their default names. Connect
and `connect apply` come to Kafka over SASL_SSL and may do what docs/security.md lists, no more.
"""

import json
import logging
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from enum import Enum
from pathlib import Path
from typing import Any, Final

import psycopg
import pytest
import requests
from confluent_kafka import Producer
from confluent_kafka.schema_registry import SchemaRegistryClient
from moto.moto_server.threaded_moto_server import ThreadedMotoServer
from psycopg.rows import dict_row
from pyiceberg.catalog.sql import SqlCatalog
from tests.support import access, connect, postgres, secured
from tests.support.awaiting import until
from tests.support.connect import ConnectWorker
from tests.support.postgres import Postgres
from tests.support.registry import confluent_url
from tests.support.workers import Worker, environment

from auditgap import resources
from auditgap.adapters import kafka
from auditgap.adapters.avro import Encoder
from auditgap.adapters.embedded_kafka import _free_port
from auditgap.bootstrap import schema_ids
from auditgap.config import Settings, load
from auditgap.core.records import Gap
from auditgap.entrypoints.demo import CLOSED, OPEN, sample
from auditgap.entrypoints.read import Reader

GARBAGE: Final = b"this is not Avro"
PATIENCE: Final = 90.0

SINKS: Final = [
    "compliance.alert.iceberg",
    "compliance.alert.postgresql",
    "compliance.gap.history.iceberg",
    "compliance.gap.postgresql",
    "compliance.status.postgresql",
]


@dataclass
class Stack:
    """All components, running; `settings` are the administrator's, `applier` those of `connect apply`."""

    settings: Settings
    applier: Settings
    connect: ConnectWorker
    postgres: Postgres
    s3: str
    directory: Path

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run one of our commands."""
        return subprocess.run(
            [sys.executable, "-m", "auditgap", *arguments],
            env=environment(self.applier if arguments[:2] == ("connect", "apply") else self.settings),
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    def apply(self) -> subprocess.CompletedProcess[str]:
        """Put the shipped connectors on the cluster."""
        return self.run(
            *("connect", "apply"),
            *(str(resources.path("connectors", each)) for each in ("postgresql", "iceberg")),
        )

    def rows(self, query: str) -> list[dict[str, Any]]:
        """Ask PostgreSQL."""
        with self.postgres.connect() as connection, connection.cursor(row_factory=dict_row) as cursor:
            return cursor.execute(query).fetchall()

    def iceberg(self, table: str) -> list[dict[str, Any]]:
        """Read an Iceberg table, as an analyst does; empty while there is none."""
        catalog = SqlCatalog(
            "auditgap",
            **{
                "uri": self.postgres.sqlalchemy_url,
                "init_catalog_tables": "false",
                "py-io-impl": "pyiceberg.io.pyarrow.PyArrowFileIO",
                "s3.endpoint": self.s3,
                "s3.region": "us-east-1",
                "s3.access-key-id": "example",
                "s3.secret-access-key": "example",
            },
        )
        try:
            if not catalog.table_exists(table):
                return []
            rows: list[dict[str, Any]] = catalog.load_table(table).scan().to_arrow().to_pylist()
            return rows
        finally:
            catalog.engine.dispose()

    def reader(self) -> Reader:
        """Read the topics as a subscriber does."""
        return Reader(self.settings, lambda _: None)

    def publish(self, records: list[dict[str, Any]]) -> None:
        """Publish API records by our command."""
        file = self.directory / "feed.ndjson"
        file.write_text("\n".join(map(json.dumps, records)))
        done = self.run("publish", str(file))
        assert done.returncode == 0, done.stderr


def _close_in_the_end(running: ExitStack) -> None:
    """See to the connections to the registry: our commands leave them open until the process ends."""

    def opening(config: dict[str, object]) -> SchemaRegistryClient:
        client = SchemaRegistryClient(config)
        running.callback(client.close)
        return client

    patch = running.enter_context(pytest.MonkeyPatch.context())
    patch.setattr("auditgap.adapters.registry.SchemaRegistryClient", opening)


@pytest.fixture(scope="module")
def stack(registry: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """Start everything; the topics, schemas, tables and connectors are in place."""
    directory = tmp_path_factory.mktemp("sinks")
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    with ExitStack() as running:
        _close_in_the_end(running)
        server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
        server.start()
        running.callback(server.stop)
        s3 = "http://{}:{}".format(*server.get_host_and_port())
        requests.put(f"{s3}/auditgap", timeout=10).raise_for_status()
        database = running.enter_context(postgres.running(directory))
        broker = running.enter_context(secured.running(directory))
        parts = access.parts(Settings())
        for part in ("Kafka Connect", "auditgap connect apply"):
            broker.user(part)
            broker.allow(part, parts[part])
        user = broker.user("Kafka Connect")
        assert user.sasl_password is not None
        worker = running.enter_context(
            connect.running(
                directory,
                {
                    "SINK_KAFKA": broker.servers,
                    "SINK_KAFKA_PROTOCOL": "SASL_SSL",
                    "SINK_KAFKA_MECHANISM": secured.MECHANISM,
                    "SINK_KAFKA_CA": str(broker.authority),
                    "SINK_REGISTRY_URL": f"{registry}/apis/registry/v2",
                    "SINK_POSTGRESQL_URL": database.jdbc_url,
                    "SINK_POSTGRESQL_USER": "auditgap",
                    "SINK_S3_ENDPOINT": s3,
                    "SINK_S3_REGION": "us-east-1",
                    "SINK_S3_ACCESS_KEY": "example",
                    "SINK_S3_WAREHOUSE": "s3://auditgap/warehouse",
                    "SINK_ICEBERG_COMMIT_MS": "2000",
                },
                {
                    "sink_kafka_jaas": "org.apache.kafka.common.security.scram.ScramLoginModule required "
                    f'username="{user.sasl_username}" password="{user.sasl_password.get_secret_value()}";',
                    "sink_postgresql_password": postgres.PASSWORD,
                    "sink_s3_secret_key": "example",
                },
            )
        )
        settings = load(
            kafka={"bootstrap_servers": broker.administrator},
            registry={"url": confluent_url(registry)},
            connect={"url": worker.url},
            worker={"http_port": _free_port(), "instance_id": "sinks"},
        )
        applier = settings.model_copy(update={"kafka": broker.user("auditgap connect apply")})
        made = Stack(settings, applier, worker, database, s3, directory)
        for arguments in (("topics", "apply"), ("schemas", "register")):
            done = made.run(*arguments)
            assert done.returncode == 0, done.stderr
        with database.connect() as connection:
            for _ in range(2):  # safe to repeat
                connection.execute(resources.path("connectors", "postgresql", "schema.sql").read_text())
                connection.execute(resources.path("connectors", "iceberg", "catalog.sql").read_text())
        yield made


@pytest.mark.timeout(400)
def test_sinks_hold_what_the_topics_hold(stack: Stack) -> None:
    """Through a killed Connect, an aborted transaction and records that are no Avro, nothing is lost or wrong."""
    done = stack.apply()
    assert done.returncode == 0, done.stdout + done.stderr
    assert sorted(_heads(done.stdout)) == [f"{name}: created" for name in SINKS]

    records = list(sample(time.time_ns() // 1000))
    back = next(number for number, each in enumerate(records) if _brings_back(each))
    worker = Worker(stack.settings, stack.directory / "worker.log")
    try:
        worker.await_ready()
        stack.publish(records[:back])
        opened = until(lambda: _gap_row(stack, CLOSED, "OPEN"), lambda: stack.connect.text[-5000:], PATIENCE)
        assert opened["closed_at"] is None

        stack.connect.kill()
        _put_garbage(stack)
        _put_aborted(stack, stack.reader().latest()[0])
        stack.publish(records[back:])
        stack.connect.start()
        closed = until(
            lambda: _gap_row(stack, CLOSED, "CLOSED"),
            lambda: stack.connect.text[-5000:],
            PATIENCE,
        )
        assert closed["gap_id"] == opened["gap_id"]
        assert worker.stop() == 0  # what it still has to say is on the topics then
    finally:
        worker.kill()

    gaps = {gap.gap_id: gap for gap in stack.reader().latest()}
    until(
        lambda: _in_postgres(stack) == _on_topics(stack),
        lambda: f"{_in_postgres(stack)} {_on_topics(stack)}",
        PATIENCE,
    )
    rows = {row["gap_id"]: row for row in stack.rows("SELECT * FROM compliance_gap")}
    assert rows.keys() == gaps.keys()
    for gap_id, gap in gaps.items():
        _same(rows[gap_id], asdict(gap))
    alerts = {alert.alert_id: alert for alert in stack.reader().alerts()}
    for row in stack.rows("SELECT * FROM compliance_alert"):
        _same(row, asdict(alerts[row["alert_id"]]))
    statuses = {status.subject: status for status in stack.reader().statuses()}
    for row in stack.rows("SELECT * FROM compliance_status"):
        _same(row, asdict(statuses[row["subject"]]))

    history = sorted((gap.gap_id, gap.revision) for gap in stack.reader().revisions())
    until(
        lambda: _revisions(stack) == history,
        lambda: f"{_revisions(stack)} is not {history}: {stack.connect.text[-3000:]}",
        PATIENCE,
    )
    _assert_latest(stack, gaps)

    _assert_dead_letters(stack)
    _assert_views(stack)

    done = stack.apply()
    assert done.returncode == 0, done.stdout + done.stderr
    assert sorted(_heads(done.stdout)) == [f"{name}: as it was" for name in SINKS]


@pytest.mark.timeout(400)
def test_a_connector_that_connect_refuses_is_named_by_field(stack: Stack, tmp_path: Path) -> None:
    """A configuration that Connect does not take changes nothing, and its fields are named."""
    shape = json.loads(resources.path("connectors", "postgresql", "gap.json").read_text())
    shape["config"] |= {"errors.tolerance": "some", "tasks.max": "many"}
    (tmp_path / "gap.json").write_text(json.dumps(shape))
    done = stack.run("connect", "apply", str(tmp_path))
    assert done.returncode == 1
    *faults, last = done.stderr.splitlines()
    assert {line.split(": ")[1] for line in faults} == {"errors.tolerance", "tasks.max"}
    assert last == "auditgap: 1 connector refused by Kafka Connect: nothing was changed"


@pytest.mark.timeout(400)
def test_coverage_counts_each_instant_once(stack: Stack) -> None:
    """Windows that overlap count once, suspected ones are doubtful only, superseded ones nothing; months are cut."""
    with stack.postgres.connect() as connection, connection.transaction(force_rollback=True):
        for number, (state, confidence, begin, end) in enumerate(
            [
                ("CLOSED", "CONFIRMED", "2026-01-31T23:00:00+00", "2026-02-01T01:00:00+00"),
                ("CLOSED", "CONFIRMED", "2026-02-01T00:30:00+00", "2026-02-01T02:00:00+00"),
                ("CLOSED", "SUSPECTED", "2026-02-01T01:30:00+00", "2026-02-01T03:00:00+00"),
                ("SUPERSEDED", "CONFIRMED", "2026-02-10T00:00:00+00", "2026-02-11T00:00:00+00"),
                ("RETRACTED", "SUSPECTED", "2026-02-10T00:00:00+00", "2026-02-11T00:00:00+00"),
            ]
        ):
            _insert(connection, number, state, confidence, begin, end)
        found = connection.execute(
            "SELECT month::text, seconds, certainly_off_seconds, possibly_off_seconds, coverage_at_most "
            "FROM compliance_coverage_monthly WHERE organization_id = 'org_view' ORDER BY month LIMIT 3"
        ).fetchall()
    months = {month: tuple(map(float, numbers)) for month, *numbers in found}
    january, february = 31 * 86400, 28 * 86400
    assert months == {
        "2026-01-01": (january, 3600, 3600, pytest.approx(1 - 3600 / january)),
        "2026-02-01": (february, 7200, 10800, pytest.approx(1 - 7200 / february)),
        "2026-03-01": (january, 0, 0, 1),
    }


@pytest.mark.timeout(400)
def test_a_row_never_goes_back(stack: Stack) -> None:
    """An older revision that a sink writes once more changes nothing; the same and a newer one do."""
    with stack.postgres.connect() as connection, connection.transaction(force_rollback=True):
        _insert(connection, 1, "CLOSED", "CONFIRMED", "2026-01-01T00:00:00+00", "2026-01-02T00:00:00+00")
        states = []
        for revision, state in ((1, "OPEN"), (2, "CLOSED"), (3, "RETRACTED")):
            connection.execute(
                "UPDATE compliance_gap SET revision = %s, state = %s WHERE gap_id = 'gap_view_1'", (revision, state)
            )
            row = connection.execute("SELECT state FROM compliance_gap WHERE gap_id = 'gap_view_1'").fetchone()
            states.append(row and row[0])
    assert states == ["CLOSED", "CLOSED", "RETRACTED"]


@pytest.mark.timeout(400)
def test_connect_of_a_broker_without_authentication(stack: Stack, tmp_path: Path) -> None:
    """With nothing said of authentication a Connect worker does without: it becomes a member of the group."""
    with connect.running(tmp_path, {"SINK_KAFKA": stack.settings.kafka.bootstrap_servers}, {}) as second:
        listed = requests.get(f"{second.url}/connectors", timeout=10).json()
    assert set(listed) >= set(SINKS)


# --- what is put there ------------------------------------------------------------------------------------------------


def _put_garbage(stack: Stack) -> None:
    producer = Producer({"bootstrap.servers": stack.settings.kafka.bootstrap_servers, "log_level": 0})
    for topic in ("compliance.gap", "compliance.gap.history"):
        for partition in range(stack.settings.topics.partitions):
            producer.produce(topic, GARBAGE, b"garbage", partition)
    assert producer.flush(30) == 0


def _put_aborted(stack: Stack, gap: Gap) -> None:
    """Write what a worker that died had written: a record of a transaction that was never committed."""
    producer = Producer(
        {
            "bootstrap.servers": stack.settings.kafka.bootstrap_servers,
            "transactional.id": "died",
            "log_level": 0,
        }
    )
    value = Encoder(schema_ids(stack.settings)).emission(replace(gap, gap_id="gap_aborted"))
    producer.init_transactions(30)
    producer.begin_transaction()
    for topic in ("compliance.gap", "compliance.gap.history"):
        producer.produce(topic, value, b"gap_aborted", 0)
    producer.flush(30)
    producer.abort_transaction(30)


def _insert(
    connection: psycopg.Connection[Any], number: int, state: str, confidence: str, begin: str, end: str
) -> None:
    micros = [int(datetime.fromisoformat(each).timestamp()) * 1_000_000 for each in (begin, end)]
    connection.execute(
        "INSERT INTO compliance_gap (gap_id, incident_id, revision, organization_id, first_evidence_at_us, "
        "produced_at_us, state, confidence, cause, opened_at_us, opened_at_latest_us, closed_at_us, "
        "closed_at_earliest_us, bracket_exact, activity_inside_count, authorised_at_open, authorised_now, "
        "history_sequence) VALUES (%s, 'i', 2, 'org_view', %s, %s, %s, %s, 'API_DISABLED', %s, %s, %s, %s, true, 0, "
        "'UNKNOWN', 'UNKNOWN', 1)",
        (f"gap_view_{number}", micros[0], micros[1], state, confidence, micros[0], micros[0], micros[1], micros[1]),
    )


# --- what is found there ----------------------------------------------------------------------------------------------


def _brings_back(record: dict[str, Any]) -> bool:
    return record["organization_id"] == CLOSED and record.get("compliance_api_logging_enabled") is True


def _heads(text: str) -> list[str]:
    """The lines about connectors, without those about their tasks."""
    return [line for line in text.splitlines() if not line.startswith(" ")]


def _gap_row(stack: Stack, organization: str, state: str) -> dict[str, Any]:
    """Find an organization's gap in a state; empty while there is none."""
    rows = stack.rows(f"SELECT * FROM compliance_gap WHERE organization_id = '{organization}'")  # noqa: S608
    return rows[0] if rows and rows[0]["state"] == state else {}


def _in_postgres(stack: Stack) -> dict[str, int]:
    """The revision of every row."""
    found: dict[str, int] = {}
    for table, key in (("gap", "gap_id"), ("alert", "alert_id"), ("status", "subject")):
        query = f"SELECT {key} AS key, revision FROM compliance_{table}"  # noqa: S608
        found |= {row["key"]: row["revision"] for row in stack.rows(query)}
    return found


def _on_topics(stack: Stack) -> dict[str, int]:
    """The highest revision of every record."""
    reader = stack.reader()
    found: dict[str, int] = {gap.gap_id: gap.revision for gap in reader.latest()}
    for alert in reader.alerts():
        found[alert.alert_id] = max(alert.revision, found.get(alert.alert_id, 0))
    return found | {status.subject: status.revision for status in reader.statuses()}


def _revisions(stack: Stack) -> list[tuple[str, int]]:
    return sorted((row["gap_id"], row["revision"]) for row in stack.iceberg("compliance.gap_history"))


def _same(row: dict[str, Any], record: dict[str, Any]) -> None:
    """Every field of a record stands in its row, each time to the microsecond and with its zone."""
    for name, value in record.items():
        if f"{name}_us" in row:
            assert row[f"{name}_us"] == value, name
            stored = row[name]
            expected = (
                None
                if value is None
                else datetime.fromtimestamp(value // 1_000_000, UTC).replace(microsecond=value % 1_000_000)
            )
            assert stored == expected, name
        else:
            plain = value.name if isinstance(value, Enum) else list(value) if isinstance(value, tuple) else value
            assert row[name] == plain, name


def _assert_latest(stack: Stack, gaps: dict[str, Gap]) -> None:
    """The query that is shipped gives the latest revision of each gap; it is plain SQL, so PostgreSQL can run it."""
    rows = stack.iceberg("compliance.gap_history")
    query = resources.path("connectors", "iceberg", "latest.sql").read_text()
    with stack.postgres.connect() as connection, connection.transaction(force_rollback=True):
        connection.execute("CREATE SCHEMA compliance")
        columns = "gap_id text, revision integer, state text, opened_at bigint"
        connection.execute(f"CREATE TABLE compliance.gap_history ({columns})")
        for row in [*rows, *rows]:  # each twice, as after a crash at the wrong moment
            connection.execute(
                "INSERT INTO compliance.gap_history VALUES (%s, %s, %s, %s)",
                (row["gap_id"], row["revision"], row["state"], row["opened_at"]),
            )
        found = connection.execute(query).fetchall()
    assert sorted(each[:4] for each in found) == sorted(
        (gap.gap_id, gap.revision, gap.state, gap.opened_at) for gap in gaps.values()
    )


def _assert_dead_letters(stack: Stack) -> None:
    """What is no Avro is in the sink's dead letters, with the reason, and nothing else is."""
    for topic, sink in (("compliance.gap", "postgresql"), ("compliance.gap.history", "iceberg")):
        letters = list(kafka.read_committed(stack.settings, f"{topic}.{sink}.dlq"))
        partitions = stack.settings.topics.partitions
        assert [letter.value() for letter in letters] == [GARBAGE] * partitions
        headers = dict(letters[0].headers() or [])
        assert headers["__connect.errors.topic"] == topic.encode()
        assert headers["__connect.errors.stage"] == b"VALUE_CONVERTER"
    assert not list(kafka.read_committed(stack.settings, "compliance.status.postgresql.dlq"))


def _assert_views(stack: Stack) -> None:
    """The views show the sample feed."""
    assert [row["organization_id"] for row in stack.rows("SELECT * FROM compliance_gap_open")] == [OPEN]
    unauthorised = stack.rows("SELECT * FROM compliance_gap_unauthorised")
    assert {row["organization_id"] for row in unauthorised} == {OPEN, CLOSED}  # no policy: nobody is listed
    query = "SELECT organization_id, sum(certainly_off_seconds) AS off FROM compliance_coverage_monthly GROUP BY 1"
    off = {row["organization_id"]: float(row["off"]) for row in stack.rows(query)}
    assert off[CLOSED] == 720.0
