"""Files from the Maven repository, each pinned by its SHA-256 and kept beside the embedded broker's jars."""

import hashlib
import os
import tempfile
from pathlib import Path
from typing import Final

import requests
from jgo.config import GlobalSettings
from jgo.maven import MavenContext

_ATTEMPTS: Final = 3
_SECONDS: Final = 60


def cache() -> Path:
    """Give the directory that outlives test runs."""
    found = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache").absolute() / "auditgap" / "tests"
    found.mkdir(parents=True, exist_ok=True)
    return found


def fetched(coordinate: str, sha256: str) -> Path:
    """Have a file of the repository on disk: `group:artifact:version`, or that with `:packaging:classifier`.

    Its sum is checked every time. Fails where it cannot be had, or is another file.
    """
    group, artifact, version, *rest = coordinate.split(":")
    packaging, classifier = rest or ("jar", "")
    name = f"{artifact}-{version}{'-' if classifier else ''}{classifier}.{packaging}"
    path = cache() / name
    if not path.exists():
        _download(f"{group.replace('.', '/')}/{artifact}/{version}/{name}", path)
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    assert found == sha256, f"{path} has the SHA-256 {found}, not {sha256}: delete it"
    return path


def _download(where: str, path: Path) -> None:
    """Fetch into place, whole; other processes may do the same at the same time."""
    context = MavenContext()
    # A company's mirror goes before the public repository.
    repositories = {**GlobalSettings.load().repositories, **context.remote_repos}
    reason: object = "no repository"
    for repository in [*repositories.values()] * _ATTEMPTS:
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=".download-") as directory:
            whole = Path(directory) / path.name
            try:
                with (
                    requests.get(f"{repository}/{where}", stream=True, timeout=_SECONDS) as answer,
                    whole.open("wb") as file,
                ):
                    answer.raise_for_status()
                    for piece in answer.iter_content(1 << 20):
                        file.write(piece)
            except requests.RequestException as error:
                reason = error
                continue
            whole.replace(path)
            return
    raise AssertionError(f"{where} cannot be downloaded: {reason}")
