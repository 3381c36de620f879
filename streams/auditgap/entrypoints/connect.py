"""`auditgap connect apply` and `auditgap connect plugins`: the sinks on a Kafka Connect cluster."""

import json
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import click

from auditgap.adapters.connect import ConnectCluster, Part
from auditgap.config import Settings
from auditgap.entrypoints import show
from auditgap.errors import FailureError, UsageError

Tell = Callable[[str], None]

_POLL_SECONDS: Final = 0.2

_FAILED_SECONDS: Final = 3.0
"""So long a part has to be failed to be believed: right after a change Connect still shows what was before."""

_CONTROL_TOPIC: Final = "iceberg.control.topic"


@dataclass(frozen=True)
class Connector:
    """A connector as its file says it."""

    file: Path
    name: str
    config: dict[str, str]


def apply(settings: Settings, directories: Iterable[Path], wait_seconds: float, tell: Tell) -> int:
    """Put the connectors of some directories on the cluster, and wait until they run.

    Exit status 2 if a file is wrong, 1 if the cluster refuses a connector or one does not run in time. Raises
    BrokerError and UsageError.
    """
    connectors = read(directories, tell)
    if connectors is None:
        return UsageError.exit_status
    cluster = ConnectCluster(settings.connect)
    cluster.version()
    # All are checked before the first is put there: a wrong one does not leave half of them behind.
    if refused := [_checked(cluster, each, tell) for each in connectors].count(False):
        raise FailureError(f"{show.counted(refused, 'connector')} refused by Kafka Connect: nothing was changed")
    _create_control_topics(settings, connectors, tell)
    did = {each.name: _put(cluster, each) for each in connectors}
    reports = _await(cluster, list(did), wait_seconds)
    failed = []
    for name, parts in reports.items():
        click.echo(f"{show.clean(name)}: {did[name]}")
        for part in parts:
            why = f": {show.clean(part.why)}" if part.why else ""
            click.echo(f"  {part.name}: {part.state} on {part.worker}{why}")
        if not _runs(parts):
            failed.append(f"{name} ({_trouble(parts, wait_seconds)})")
    if failed:
        raise FailureError(f"not running: {', '.join(failed)}")
    return 0


def plugins(directory: Path, tell: Tell) -> int:
    """Put Connect's plugins into a directory. Raises BrokerError and UsageError."""
    from auditgap.adapters import connect_plugins

    connect_plugins.install(directory, tell)
    return 0


def read(directories: Iterable[Path], tell: Tell) -> list[Connector] | None:
    """Read every `*.json` of some directories; None where one is wrong, after each fault was told with its place.

    Raises UsageError where a directory holds none.
    """
    found: dict[str, Connector] = {}
    faults = 0
    for directory in directories:
        files = sorted(directory.glob("*.json"))
        if not files:
            raise UsageError(f"{directory} holds no connector: no file there ends in .json")
        for file in files:
            try:
                connector = _read(file)
            except json.JSONDecodeError as error:
                tell(f"{file}:{error.lineno}: this is no JSON: {error.msg}")
                faults += 1
            except (OSError, ValueError) as error:
                tell(f"{file}: {show.clean(str(error))}")
                faults += 1
            else:
                if connector.name in found:
                    tell(f"{file}: {found[connector.name].file} has the name {show.clean(connector.name)} too")
                    faults += 1
                found[connector.name] = connector
    return None if faults else list(found.values())


def _read(file: Path) -> Connector:
    shape = json.loads(file.read_text(encoding="utf-8"))
    if not isinstance(shape, dict) or shape.keys() != {"name", "config"}:
        raise ValueError('a connector is an object of "name" and "config"')
    name, config = shape["name"], shape["config"]
    if not isinstance(name, str) or not name:
        raise ValueError("name must be a text that is not empty")
    if not isinstance(config, dict) or not all(isinstance(value, str) for value in config.values()):
        raise ValueError("config must be an object whose values are all texts")
    if not config.get("connector.class"):
        raise ValueError("config has no connector.class")
    if config.get("name", name) != name:
        raise ValueError(f"config has another name: {config['name']}")
    return Connector(file, name, {**config, "name": name})


def _checked(cluster: ConnectCluster, connector: Connector, tell: Tell) -> bool:
    faults = cluster.faults(connector.config)
    for field, why in faults:
        tell(f"{connector.file}: {show.clean(field)}: {show.clean(why)}")
    return not faults


def _create_control_topics(settings: Settings, connectors: list[Connector], tell: Tell) -> None:
    """Create the topics by which Iceberg's sinks agree on a commit: neither they nor the broker do it."""
    topics = {each.config[_CONTROL_TOPIC] for each in connectors if _CONTROL_TOPIC in each.config}
    if topics:
        from auditgap.adapters.kafka import create_topic

        for topic in sorted(topics):
            if create_topic(settings, topic, partitions=1):
                tell(f"topic {topic}: created")


def _put(cluster: ConnectCluster, connector: Connector) -> str:
    """Have the cluster as the file says; gives what that took."""
    before = cluster.config(connector.name)
    if before != connector.config:
        cluster.put(connector.name, connector.config)
        return "created" if before is None else "changed"
    if any(part.state == "FAILED" for part in cluster.parts(connector.name)):
        cluster.restart_failed(connector.name)
        return "had failed, started again"
    return "as it was"


def _await(cluster: ConnectCluster, names: list[str], seconds: float) -> dict[str, list[Part]]:
    """Report each connector as soon as all run, or as they are when the time is over or what does not run failed."""
    deadline = time.monotonic() + seconds
    failed_since: dict[str, float] = {}
    while True:
        reports = {name: cluster.parts(name) for name in names}
        now = time.monotonic()
        for name, parts in reports.items():
            if any(part.state == "FAILED" for part in parts):
                failed_since.setdefault(name, now)
            else:
                failed_since.pop(name, None)
        settled = [
            _runs(parts) or now - failed_since.get(name, now) >= _FAILED_SECONDS for name, parts in reports.items()
        ]
        if all(settled) or now > deadline:
            return reports
        time.sleep(_POLL_SECONDS)


def _runs(parts: list[Part]) -> bool:
    """Whether a connector runs: itself, at least one task, and none that does not."""
    return len(parts) > 1 and all(part.state == "RUNNING" for part in parts)


def _trouble(parts: list[Part], seconds: float) -> str:
    failed = [part for part in parts if part.state == "FAILED"]
    if failed:
        return f"{failed[0].name} failed: {show.clean(failed[0].why)}"
    return f"{'no task' if len(parts) < 2 else 'not all tasks'} after {seconds:g} s"
