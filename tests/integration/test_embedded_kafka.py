"""The embedded broker on the real thing: every test that needs a running broker runs Apache Kafka."""

import fcntl
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from confluent_kafka import Consumer, Message, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from auditgap.adapters import embedded_kafka
from auditgap.adapters.embedded_kafka import EmbeddedKafka
from auditgap.errors import BrokerError

_QUIET = {"log_level": 0}
"""Clients that outlive their broker say so on stderr."""


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A path that a properties file, a list of directories and a plain locale would each get wrong."""
    return tmp_path_factory.mktemp("a, b=ü") / "kafka"


@pytest.fixture(scope="module")
def broker(data_dir: Path) -> Iterator[EmbeddedKafka]:
    """One broker, started by a thread that has ended since."""
    started = EmbeddedKafka(data_dir)
    starter = threading.Thread(target=started.start)
    starter.start()
    starter.join()
    yield started
    started.stop()


def _create(bootstrap_servers: str, topic: str, **config: str) -> None:
    admin = AdminClient({"bootstrap.servers": bootstrap_servers, **_QUIET})
    for created in admin.create_topics([NewTopic(topic, 1, 1, config=config)]).values():
        created.result()


def _produce(bootstrap_servers: str, topic: str, *values: bytes) -> None:
    producer = Producer({"bootstrap.servers": bootstrap_servers, **_QUIET, "message.max.bytes": 8 << 20})
    for value in values:
        producer.produce(topic, value)
    assert producer.flush(30) == 0


def _read(bootstrap_servers: str, topic: str, count: int) -> list[bytes | None]:
    """Read `count` committed records and see that no further one is there."""
    consumer = Consumer(
        {
            "bootstrap.servers": bootstrap_servers,
            "group.id": "reader",
            "isolation.level": "read_committed",
            "enable.partition.eof": True,
            **_QUIET,
        }
    )
    try:
        consumer.assign([TopicPartition(topic, 0, 0)])
        records: list[Message] = []
        while (record := consumer.poll(30)) is not None and record.error() is None:
            records.append(record)
        assert record is not None, f"{len(records)} records, then nothing for 30 s"
        assert len(records) == count
        return [record.value() for record in records]
    finally:
        consumer.close()


def test_transactions(broker: EmbeddedKafka) -> None:
    """Of two transactions, the committed one is read and the aborted one is not."""
    _create(broker.bootstrap_servers, "transactions")
    producer = Producer({"bootstrap.servers": broker.bootstrap_servers, "transactional.id": "t", **_QUIET})
    producer.init_transactions(30)
    for value, end in ((b"aborted", producer.abort_transaction), (b"committed", producer.commit_transaction)):
        producer.begin_transaction()
        producer.produce("transactions", value)
        producer.flush(30)
        end(30)
    assert _read(broker.bootstrap_servers, "transactions", 1) == [b"committed"]


@pytest.mark.parametrize("codec", ["gzip", "lz4", "snappy", "zstd"])
def test_compression(broker: EmbeddedKafka, codec: str) -> None:
    """Each codec works in the broker itself, with a record of seven megabytes."""
    _create(broker.bootstrap_servers, codec, **{"compression.type": codec})
    value = os.urandom(7 << 20)
    _produce(broker.bootstrap_servers, codec, value)
    assert _read(broker.bootstrap_servers, codec, 1) == [value]


def test_starter(broker: EmbeddedKafka) -> None:
    """The broker outlives the thread that started it, and is in another session than the terminal's."""
    assert broker.poll() is None
    assert os.getsid(broker.pid) == broker.pid != os.getsid(0)


def test_same_directory_twice(broker: EmbeddedKafka, data_dir: Path) -> None:
    """A second broker on the same directory is refused with one line that names the first."""
    assert broker.poll() is None
    with pytest.raises(BrokerError, match=rf"is in use by the embedded broker of process {os.getpid()}: .+") as refused:
        EmbeddedKafka(data_dir).start()
    assert "\n" not in str(refused.value)


def test_started_twice(broker: EmbeddedKafka) -> None:
    """Starting a running broker again is refused and leaves it running."""
    with pytest.raises(BrokerError, match="runs already"):
        broker.start()
    assert broker.poll() is None


def test_records_are_kept(tmp_path: Path) -> None:
    """A data directory keeps its records over an orderly stop and over a SIGKILL of the broker, on the same port."""
    with EmbeddedKafka(tmp_path) as first:
        _create(first.bootstrap_servers, "kept")
        _produce(first.bootstrap_servers, "kept", b"1")
        port = int(first.bootstrap_servers.rpartition(":")[2])
    with EmbeddedKafka(tmp_path, port) as second:
        _produce(second.bootstrap_servers, "kept", b"2")
        os.kill(second.pid, signal.SIGKILL)
        while second.poll() is None:
            os.sched_yield()
        assert second.poll() == -signal.SIGKILL
        second.start()
        assert second.bootstrap_servers == f"127.0.0.1:{port}"
        assert _read(second.bootstrap_servers, "kept", 2) == [b"1", b"2"]


def test_taken_port(tmp_path: Path) -> None:
    """A given port that is taken is refused with one line that names it, and the directory is free again."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        broker = EmbeddedKafka(tmp_path, port)
        for _ in range(2):
            with pytest.raises(BrokerError, match=rf"^port {port} on 127\.0\.0\.1 is taken: .+$"):
                broker.start()


@pytest.mark.parametrize("lost", ["broker", "controller"])
def test_lost_port(lost: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A chosen port that another program takes before the broker binds to it is replaced by another one."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = other.getsockname()[1]
        free = [embedded_kafka._free_port() for _ in range(5)]
        choices = iter([taken, *free] if lost == "broker" else [free[0], taken, *free[1:]])
        monkeypatch.setattr(embedded_kafka, "_free_port", lambda: next(choices))
        with EmbeddedKafka() as broker:
            assert broker.bootstrap_servers == f"127.0.0.1:{free[2]}"


def test_failing_start(tmp_path: Path) -> None:
    """A broker that ends while it starts is reported at once, in one line with its own last words."""
    broker = EmbeddedKafka(tmp_path, config={"authorizer.class.name": "no.such.Authorizer"})
    with pytest.raises(BrokerError, match=r"ended with status 1 .*no\.such\.Authorizer.*broker\.log$") as failed:
        broker.start()
    assert "\n" not in str(failed.value)
    assert broker.poll() is None


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ({"num.io.threads": "many"}, "cannot be formatted: .*num.io.threads"),
        ({"log.dirs": "x"}, "sets log.dirs itself"),
    ],
    ids=["invalid value", "not to be set"],
)
def test_wrong_setting(tmp_path: Path, config: dict[str, str], reason: str) -> None:
    """A setting that Kafka or the embedded broker does not take is named in one line."""
    with pytest.raises(BrokerError, match=f"^.*{reason}.*$"):
        EmbeddedKafka(tmp_path, config=config).start()


def test_unusable_directory(tmp_path: Path) -> None:
    """A data directory that is a file is refused with one line that names it."""
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(BrokerError, match=rf"cannot use {file}: File exists; .+$"):
        EmbeddedKafka(file).start()


def test_stop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A broker that does not react to SIGTERM is killed after the grace period, and no file is left behind."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(embedded_kafka, "_STOP_SECONDS", 0.5)
    broker = EmbeddedKafka()
    broker.start()
    assert list(tmp_path.iterdir())
    os.kill(broker.pid, signal.SIGSTOP)
    began = time.monotonic()
    broker.stop()
    assert time.monotonic() - began < 5
    assert not list(tmp_path.iterdir())
    broker.stop()


@pytest.mark.parametrize("by_kernel", [True, False], ids=["kernel", "pipe"])
def test_killed_parent(tmp_path: Path, by_kernel: bool) -> None:
    """A broker started with no Java, Maven or container on the PATH dies when the process that started it is killed."""
    if by_kernel and sys.platform != "linux":
        pytest.skip("only Linux kills on the parent's death")
    program = (
        "import signal, sys\n"
        "from pathlib import Path\n"
        "from auditgap.adapters import embedded_kafka\n"
        f"embedded_kafka._PARENT_DEATH_SIGNAL = {by_kernel}\n"
        "with embedded_kafka.EmbeddedKafka(Path(sys.argv[1])) as broker:\n"
        "    print(broker.bootstrap_servers, flush=True)\n"
        "    signal.pause()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path)],
        env={**os.environ, "PATH": "/nonexistent"},
        stdout=subprocess.PIPE,
        text=True,
    ) as parent:
        assert parent.stdout is not None
        host, _, port = parent.stdout.readline().strip().rpartition(":")
        socket.create_connection((host, int(port))).close()
        parent.kill()
    with (tmp_path / "lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # the JVM inherited the lock: got when the JVM is gone
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((host, int(port)))


@pytest.fixture
def copied_cache(broker: EmbeddedKafka, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A jar cache of the test's own, as full as the real one; gives the directory with the jars."""
    assert broker.poll() is None  # so that the real one is there
    real = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "auditgap" / "kafka"
    copy = tmp_path / "auditgap" / "kafka"
    shutil.copytree(real, copy, copy_function=os.symlink)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return copy


def test_tampered_jar(copied_cache: Path) -> None:
    """A jar that is not byte for byte the locked one is never run, even with the same size and time."""
    jar = copied_cache / "kafka-raft-4.3.1.jar"
    found, content = jar.stat(), bytearray(jar.read_bytes())
    content[-1] ^= 1
    jar.unlink()
    jar.write_bytes(content)
    os.utime(jar, ns=(found.st_atime_ns, found.st_mtime_ns))
    with pytest.raises(BrokerError, match=rf"^{jar} is not the file .+ delete it"):
        EmbeddedKafka().start()


def test_no_network(copied_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a jar cannot be downloaded, one line says which and what to check, and nothing half is kept."""
    (copied_cache / "kafka-raft-4.3.1.jar").unlink()
    before = sorted(copied_cache.iterdir())
    mirror = tmp_path / "jgo.conf"
    mirror.write_text(f"[repositories]\ncentral = http://127.0.0.1:{embedded_kafka._free_port()}\n")
    monkeypatch.setenv("JGO_CONFIG_FILE", str(mirror))
    lines: list[str] = []
    with pytest.raises(BrokerError, match=r"^kafka-raft-4\.3\.1\.jar .+ Connection refused; check the network .+$"):
        EmbeddedKafka(on_message=lines.append).start()
    assert lines[0].startswith("downloading Apache Kafka 4.3.1 (")
    assert sorted(copied_cache.iterdir()) == before
