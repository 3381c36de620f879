"""`auditgap topology check` and `auditgap topology apply`: the file that says what belongs to which parent and feed."""

from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import click

from auditgap import clock
from auditgap.adapters import topology_yaml
from auditgap.adapters.topology_yaml import TopologyFile
from auditgap.config import Settings
from auditgap.core import times, topology
from auditgap.core.inputs import organization_of
from auditgap.core.topology import Link, Says
from auditgap.entrypoints import show, version_file
from auditgap.errors import UsageError

Tell = Callable[[str], None]


def read(path: Path, tell: Tell, now: int) -> TopologyFile | None:
    """Read a topology file at a time; None where it is wrong, after each fault was told with its line."""
    return version_file.read(path, tell, partial(topology_yaml.read, now=now))


def check(path: Path, tell: Tell, *, as_json: bool) -> int:
    """Show what a topology file means. Exit status 2 if it is wrong."""
    file = read(path, tell, clock.now())
    if file is None:
        return UsageError.exit_status
    subjects = sorted(file.subjects.items(), key=lambda each: (organization_of(each[0]) is not None, each[0]))
    if as_json:
        for subject, says in subjects:
            click.echo(show.json_of({"subject": subject, **_readable(says)}))
        return 0
    count = sum(organization_of(subject) is not None for subject in file.subjects)
    click.echo(f"{show.counted(count, 'organization')}, by {file.author or 'nobody yet'}")
    for subject, says in subjects:
        click.echo("\n".join(["", *lines(subject, says)]))
    return 0


def apply(settings: Settings, path: Path, author: str | None, tell: Tell) -> int:
    """Publish what a topology file changes. Exit status 2 if it is wrong. Raises BrokerError."""
    from auditgap.adapters.topology_topic import TopologyTopic
    from auditgap.bootstrap import schema_ids

    file = read(path, tell, clock.now())
    if file is None:
        return UsageError.exit_status
    author = version_file.author_of(path, author, file.author)
    with TopologyTopic(settings, schema_ids(settings), tell) as topic:
        changes = []
        now = clock.now()
        for subject in sorted(topic.chains.keys() | file.subjects.keys()):
            says, chain = file.subjects.get(subject, Says()), topic.chains.get(subject, ())
            latest = chain[-1] if chain else None
            if latest and topic.in_place(latest) and latest.says == says:
                continue
            changes.append((latest, topology.successor(latest, subject, says, author, now)))
        if changes:
            topic.publish(version for _, version in changes)
    for latest, version in changes:
        said = "; ".join(topology.difference(latest, version))
        tell(show.clean(f"{version.subject}: version {version.version}: {said}"))
    if not changes:
        tell("nothing to do: the topic says what the file says")
    return 0


def lines(subject: str, says: Says) -> list[str]:
    """Show what is said of a subject as a block of lines."""
    kind, _, name = subject.rpartition("/")
    rows = [("uuid", alias.organization_uuid) for alias in says.aliases if alias.organization_id == subject]
    rows += [("belongs to", _linked(link)) for link in says.belongs_to]
    rows += [("switches" if kind != "feed" else "sees", _linked(link)) for link in says.members]
    if organization_of(subject) is None and not says.members:
        rows.append(("members", "none"))
    head = click.style(show.clean(f"{kind or 'organization'} {name}"), bold=True)
    return [head, *(f"  {name:<12}{show.clean(text)}" for name, text in rows)]


def _linked(link: Link) -> str:
    since = "" if link.valid_from is None else f" from {show.moment(link.valid_from)}"
    until = "" if link.valid_until is None else f" until {show.moment(link.valid_until)}"
    return f"{link.subject.replace('/', ' ', 1)}{since}{until}"


def _readable(says: Says) -> dict[str, Any]:
    """Write it as JSON has it, times as ISO 8601."""

    def text(moment: int | None) -> str | None:
        return None if moment is None else times.text_of(moment)

    def links(found: Iterable[Link]) -> list[dict[str, str | None]]:
        return [
            {"subject": each.subject, "valid_from": text(each.valid_from), "valid_until": text(each.valid_until)}
            for each in found
        ]

    uuids = {each.organization_uuid: each.organization_id for each in says.aliases}
    return {"aliases": uuids, "members": links(says.members), "belongs_to": links(says.belongs_to)}
