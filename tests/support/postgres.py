"""A real PostgreSQL as processes of its own, on loopback: Debian's package, installed where it is missing.

PostgreSQL refuses to run as root: there it runs as the user that its package made.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psycopg

from auditgap.adapters.embedded_kafka import _free_port

_INSTALL_SECONDS: Final = 300
_START_SECONDS: Final = 60
_SETTINGS: Final = "-c listen_addresses=127.0.0.1 -c fsync=off -c shared_buffers=32MB -c max_connections=50"

PASSWORD: Final = "an-example"  # noqa: S105 - of a server that ends with the tests


@dataclass(frozen=True)
class Postgres:
    """A running server, its user and its database `auditgap`."""

    port: int

    @property
    def jdbc_url(self) -> str:
        """Its address for Java."""
        return f"jdbc:postgresql://127.0.0.1:{self.port}/auditgap"

    @property
    def sqlalchemy_url(self) -> str:
        """Its address for SQLAlchemy, with the password."""
        return f"postgresql+psycopg://auditgap:{PASSWORD}@127.0.0.1:{self.port}/auditgap"

    def connect(self) -> psycopg.Connection[psycopg.rows.TupleRow]:
        """Open a connection that commits each statement."""
        return psycopg.connect(
            host="127.0.0.1", port=self.port, user="auditgap", password=PASSWORD, dbname="auditgap", autocommit=True
        )


@contextmanager
def running(directory: Path) -> Iterator[Postgres]:
    """Run a server with its data below the directory. It is gone when the context ends."""
    programs = _programs()
    directory = directory.resolve()
    as_user: dict[str, str] = {}
    if os.geteuid() == 0:
        as_user = {"user": "postgres", "group": "postgres"}
        # The directories above are pytest's, for their owner only: a link of the kernel's own lets it in.
        directory = Path(subprocess.check_output(["mktemp", "-d", "/tmp/auditgap-postgres-XXXXXX"], text=True).strip())  # noqa: S108
        shutil.chown(directory, "postgres", "postgres")
    data, secret = directory / "data", directory / "password"
    secret.write_text(PASSWORD)
    secret.chmod(0o644)
    port = _free_port()

    def run(*command: str) -> None:
        log = directory / "commands.log"
        with log.open("ab") as out:
            done = subprocess.run(
                command,
                cwd=directory,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                timeout=_START_SECONDS,
                check=False,
                **as_user,  # type: ignore[call-overload]
            )
        server = directory / "server.log"
        assert done.returncode == 0, log.read_text() + (server.read_text() if server.exists() else "")

    try:
        run(
            *(str(programs / "initdb"), "-D", str(data), "-U", "auditgap", f"--pwfile={secret}"),
            *("-A", "scram-sha-256", "-E", "UTF8", "--locale=C", "--no-sync"),
        )
        control = (str(programs / "pg_ctl"), "-D", str(data), "-w", "-t", str(_START_SECONDS))
        run(*control, "-l", str(directory / "server.log"), "-o", f"{_SETTINGS} -p {port} -k {directory}", "start")
        try:
            server = Postgres(port)
            with psycopg.connect(
                host="127.0.0.1", port=port, user="auditgap", password=PASSWORD, dbname="postgres", autocommit=True
            ) as connection:
                connection.execute("CREATE DATABASE auditgap")
            yield server
        finally:
            run(*control, "-m", "immediate", "stop")
    finally:
        if as_user:
            shutil.rmtree(directory, ignore_errors=True)


def _programs() -> Path:
    """Find the server's programs, installing them where they are missing."""
    found = _installed()
    if found is None:
        assert sys.platform == "linux", "install PostgreSQL: its programs are not in /usr/lib/postgresql"
        subprocess.run(["apt-get", "update", "-q"], timeout=_INSTALL_SECONDS, check=True)
        subprocess.run(
            ["apt-get", "install", "-y", "-q", "--no-install-recommends", "postgresql"],
            env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"},
            timeout=_INSTALL_SECONDS,
            check=True,
        )
        found = _installed()
    assert found is not None, "PostgreSQL was installed, but initdb is not in /usr/lib/postgresql"
    return found


def _installed() -> Path | None:
    places = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda each: int(each.parts[-3]))
    if places:
        return places[-1].parent
    other = shutil.which("initdb")
    return Path(other).resolve().parent if other else None
