"""Fixtures of all suites: a real Kafka, and settings of which each test has its own.

`AUDITGAP_TEST_KAFKA=HOST:PORT` takes a running cluster. Without it apache/kafka is started in a container where a
container engine answers, else the embedded broker; the tests are the same.
"""

import gc
import os
import signal
import socket
import time
import uuid
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from auditgap.adapters import embedded_kafka
from auditgap.adapters.kafka import apply_topics, client_config, topic_table
from auditgap.config import Settings, load

_IMAGE = "apache/kafka:4.3.1"
_READY_SECONDS = 90.0

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # What a shell starts in the background ignores Ctrl-C, and so would all commands that tests start and end by it.
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True, scope="session")
def _no_settings_from_outside() -> Iterator[None]:
    """Settings of the developer's shell do not reach into the tests."""
    with pytest.MonkeyPatch.context() as patch:
        for variable in list(os.environ):
            if variable.startswith("AUDITGAP_") and not variable.startswith("AUDITGAP_TEST_"):
                patch.delenv(variable)
        yield


@pytest.fixture(scope="session")
def kafka() -> Iterator[str]:
    """Bootstrap servers of a real Apache Kafka."""
    if given := os.environ.get("AUDITGAP_TEST_KAFKA"):
        yield given
    elif _container_engine_answers():
        with _container() as servers:
            yield servers
    else:
        with embedded_kafka.EmbeddedKafka() as broker:
            yield broker.bootstrap_servers


@pytest.fixture
def settings(kafka: str) -> Iterator[Settings]:
    """Settings with topics, group and instance of this test's own; the topics exist, with 4 partitions."""
    own = f"test-{uuid.uuid4().hex[:12]}"
    made = load(
        kafka={"bootstrap_servers": kafka},
        topics={
            name: f"{own}.{name}"
            for name in (
                "activity",
                "observation",
                "alert",
                "gap",
                "policy",
                "status",
                "finding",
                "topology",
                "notification_dlq",
            )
        },
        worker={"group": own, "instance_id": own, "http_port": 0},
    )
    apply_topics(made, lambda _: None)
    yield made
    admin = AdminClient({**client_config(made.kafka), "log_level": 0})
    for deleted in admin.delete_topics([spec.name for spec in topic_table(made)]).values():
        deleted.exception(30)


@pytest.fixture
def environment(settings: Settings) -> dict[str, str]:
    """What a process of ours needs in its environment to run with `settings`."""
    topics, worker = settings.topics, settings.worker
    return os.environ | {
        "AUDITGAP_KAFKA__BOOTSTRAP_SERVERS": settings.kafka.bootstrap_servers,
        "AUDITGAP_TOPICS__ACTIVITY": topics.activity,
        "AUDITGAP_TOPICS__OBSERVATION": topics.observation,
        "AUDITGAP_TOPICS__ALERT": topics.alert,
        "AUDITGAP_TOPICS__GAP": topics.gap,
        "AUDITGAP_TOPICS__POLICY": topics.policy,
        "AUDITGAP_TOPICS__TOPOLOGY": topics.topology,
        "AUDITGAP_TOPICS__STATUS": topics.status,
        "AUDITGAP_TOPICS__FINDING": topics.finding,
        "AUDITGAP_TOPICS__NOTIFICATION_DLQ": topics.notification_dlq,
        "AUDITGAP_WORKER__GROUP": worker.group,
        "AUDITGAP_WORKER__INSTANCE_ID": worker.instance_id,
        "AUDITGAP_WORKER__HTTP_PORT": str(worker.http_port),
    }


def _container_engine_answers() -> bool:
    from docker.errors import DockerException  # type: ignore[import-untyped]  # it publishes no type information
    from testcontainers.core.docker_client import DockerClient

    with warnings.catch_warnings():
        # Where no engine answers, its client leaves a socket open; that is seen when it is collected.
        warnings.simplefilter("ignore", ResourceWarning)
        try:
            DockerClient().client.ping()
        except DockerException:
            answers = False
        else:
            answers = True
        gc.collect()
    return answers


@contextmanager
def _container() -> Iterator[str]:
    """Run apache/kafka with the same server settings as the embedded broker."""
    from testcontainers.core.container import DockerContainer

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    container = DockerContainer(_IMAGE).with_bind_ports(9092, port)
    servers = f"{container.get_container_host_ip()}:{port}"
    config = embedded_kafka._DEFAULTS | {
        "advertised.listeners": f"PLAINTEXT://{servers}",
        "controller.listener.names": "CONTROLLER",
        "controller.quorum.voters": "1@localhost:9093",
        "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
        "listeners": "PLAINTEXT://:9092,CONTROLLER://:9093",
        "node.id": "1",
        "process.roles": "broker,controller",
    }
    for name, value in config.items():
        container.with_env("KAFKA_" + name.upper().replace(".", "_"), value)
    with container:
        admin = AdminClient({"bootstrap.servers": servers, "log_level": 0})
        deadline = time.monotonic() + _READY_SECONDS
        while True:
            try:
                admin.list_topics(timeout=2)
            except KafkaException:
                if time.monotonic() > deadline:
                    raise
            else:
                break
        yield servers
