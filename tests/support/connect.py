"""A real Kafka Connect worker in distributed mode, as a process of its own, its jars by their sums.

It is configured as users do it: by the shipped `worker.properties`, by SINK_* variables, and by secrets in files.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import requests
from tests.support.awaiting import until

from auditgap import resources
from auditgap.adapters import connect_plugins, embedded_kafka, jars, kafka_jars

_LOCK: Final = Path(__file__).with_name("connect_lock.json")
_READY_SECONDS: Final = 120.0
_JVM: Final = (
    *("-Xmx1g", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-XX:+ExitOnOutOfMemoryError", "-XX:-UsePerfData"),
    "-Dorg.slf4j.simpleLogger.showDateTime=true",
    "-Dorg.slf4j.simpleLogger.log.org.apache.kafka.common.config.AbstractConfig=warn",
)


class ConnectWorker:
    """One worker: `start`, `kill` (SIGKILL) and `start` again; `url` is its REST interface."""

    def __init__(self, directory: Path, variables: dict[str, str], secrets: dict[str, str]) -> None:
        self._directory = directory
        connect_plugins.install(directory / "plugins", lambda _: None)
        (directory / "secrets").mkdir()
        for name, secret in secrets.items():
            (directory / "secrets" / name).write_text(secret)
        locked = jars.read(json.loads(_LOCK.read_text())["jars"])
        self._class_path = os.pathsep.join(map(str, jars.fetched(locked, "connect", "Kafka Connect", lambda _: None)))
        self.url = f"http://127.0.0.1:{embedded_kafka._free_port()}"
        self._variables = {
            "SINK_LISTENER": self.url,
            "SINK_REPLICATION": "1",
            "SECRETS_DIR": str(directory / "secrets"),
            **variables,
        }
        self._starts = 0
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it; returns once it answers."""
        self._starts += 1
        unwanted = {"CLASSPATH", "JAVA_TOOL_OPTIONS", "JDK_JAVA_OPTIONS", "_JAVA_OPTIONS"}
        command = [
            *("/bin/sh", str(resources.path("connectors", "entrypoint.sh"))),
            *(str(kafka_jars.java()), *_JVM, "-cp", self._class_path),
            "org.apache.kafka.connect.cli.ConnectDistributed",
            str(resources.path("connectors", "worker.properties")),
        ]
        if sys.platform == "linux":
            # It dies with the tests, however they die.
            command = [sys.executable, "-I", "-S", "-c", embedded_kafka._EXEC, str(os.getpid()), "-1", "-1", *command]
        with self.log.open("wb") as out:
            self._process = subprocess.Popen(
                command,
                cwd=self._directory,
                env={name: value for name, value in os.environ.items() if name not in unwanted} | self._variables,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
            )
        until(self._answers, lambda: f"Connect does not answer:\n{self.text[-5000:]}", _READY_SECONDS)

    @property
    def log(self) -> Path:
        """What it said since its last start."""
        return self._directory / f"connect.{self._starts}.log"

    @property
    def text(self) -> str:
        """What it said since its last start."""
        return self.log.read_text(errors="replace")

    def kill(self) -> None:
        """End it without a warning (SIGKILL)."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def _answers(self) -> bool:
        assert self._process is not None
        status = self._process.poll()
        assert status is None, f"Connect ended with {status}:\n{self.text[-5000:]}"
        try:
            # It answers before it is a member of its group; this asks the group.
            return requests.get(f"{self.url}/connectors", timeout=10).ok
        except requests.RequestException:
            return False


@contextmanager
def running(directory: Path, variables: dict[str, str], secrets: dict[str, str]) -> Iterator[ConnectWorker]:
    """Run a worker; `variables` are SINK_* ones, SINK_KAFKA among them, and `secrets` others of them as files.

    It is gone when the context ends.
    """
    worker = ConnectWorker(directory, variables, secrets)
    try:
        worker.start()
        yield worker
    finally:
        worker.kill()
        shutil.rmtree(directory / "plugins", ignore_errors=True)
