"""A real schema registry, Apicurio, as a process of its own: Confluent's API at `/apis/ccompat/v7`, on loopback.

The fixture `registry` gives its base address; put it into AUDITGAP_REGISTRY__URL with `confluent_url(base)`. It keeps
its schemas in memory, so each one begins empty; tests that share one use subjects of their own.
"""

import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pytest
import requests
from tests.support import maven
from tests.support.awaiting import until

from auditgap.adapters import embedded_kafka, kafka_jars

_APP: Final = "io.apicurio:apicurio-registry-app:3.3.3:tar.gz:all"
_SHA256: Final = "8bc6751c76d963734224b01d5e7f84ccb3cb61c87d3bd77c36c35f10a5cbed63"

_READY_SECONDS: Final = 90.0
_STOP_SECONDS: Final = 10.0

_ENVIRONMENT: Final = {
    "APICURIO_STORAGE_KIND": "sql",  # with no database named: H2, in memory
    "QUARKUS_HTTP_HOST": "127.0.0.1",
    "QUARKUS_HTTP_PORT": "0",  # one that is free; its log says which
    "QUARKUS_MANAGEMENT_HOST": "127.0.0.1",
    "QUARKUS_MANAGEMENT_PORT": "0",
}
_JVM: Final = ("-Xmx384m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-XX:+ExitOnOutOfMemoryError")


def confluent_url(registry: str) -> str:
    """Give the address that a client of Confluent's registry takes."""
    return f"{registry}/apis/ccompat/v7"


@pytest.fixture(scope="session")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Base address of a registry, `http://127.0.0.1:PORT`."""
    with running(tmp_path_factory.mktemp("registry")) as base:
        yield base


@contextmanager
def running(directory: Path) -> Iterator[str]:
    """Run a registry, its log in the directory; gives its base address. It is gone when the context ends."""
    log = directory / "registry.log"
    unwanted = {"CLASSPATH", "JAVA_TOOL_OPTIONS", "JDK_JAVA_OPTIONS", "_JAVA_OPTIONS"}
    environment = {name: value for name, value in os.environ.items() if name not in unwanted} | _ENVIRONMENT
    jvm = [str(kafka_jars.java()), *_JVM, "-jar", str(_unpacked() / "quarkus-run.jar")]
    if sys.platform == "linux":
        # It dies with the tests, however they die.
        jvm = [sys.executable, "-I", "-S", "-c", embedded_kafka._EXEC, str(os.getpid()), "-1", "-1", *jvm]
    with log.open("wb") as out:
        process = subprocess.Popen(
            jvm, cwd=directory, env=environment, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT
        )

    def base() -> str:
        text = log.read_text(errors="replace")
        assert process.poll() is None, f"the registry ended with {process.returncode}:\n{text}"
        found = re.search(r"Listening on: (http://127\.0\.0\.1:\d+)", text)
        return found[1] if found else ""

    def answers(address: str) -> bool:
        try:
            return requests.get(f"{confluent_url(address)}/subjects", timeout=10).ok
        except requests.RequestException:
            return False

    try:
        address = until(base, lambda: f"the registry does not start:\n{log.read_text()}", _READY_SECONDS)
        until(lambda: answers(address), lambda: f"the registry does not answer:\n{log.read_text()}", _READY_SECONDS)
        yield address
    finally:
        process.terminate()
        try:
            process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _unpacked() -> Path:
    """Have the registry on disk; unpacked once for each archive, and put in place whole."""
    archive = maven.fetched(_APP, _SHA256)
    place = maven.cache() / f"apicurio-registry-{_SHA256[:12]}"
    if not place.exists():
        with tempfile.TemporaryDirectory(dir=maven.cache(), prefix=".unpack-") as temporary:
            whole = Path(temporary) / "registry"
            with tarfile.open(archive) as packed:
                packed.extractall(whole, filter="data")
            try:
                whole.rename(place)
            except OSError:
                if not place.exists():  # else another process was quicker
                    raise
            shutil.rmtree(whole, ignore_errors=True)
    return place
