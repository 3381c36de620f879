"""`auditgap schemas check` and `auditgap schemas register`: no version of a schema breaks a reader of another one."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import click
from avro.schema import Schema

from auditgap import resources
from auditgap.adapters import avro, compatibility
from auditgap.config import Settings
from auditgap.entrypoints import show
from auditgap.errors import UsageError

Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Comparison:
    """The next version of a schema beside an earlier one; `broken` has a line for each thing that breaks."""

    name: str
    earlier: str
    """Which version: `v1`, or `compliance.gap-value version 1` in the registry."""
    broken: list[str]


def check(settings: Settings, directory: Path | None) -> int:
    """Show for each schema whether it goes together with every earlier version; exit status 1 where one does not.

    Raises UsageError for a file that cannot be read or is no schema, BrokerError where the registry does not answer.
    """
    directory = directory or resources.path("schemas")
    found = list(against_released(directory))
    if settings.registry.url is not None:
        found += _against_registry(settings, directory)
    names = {each.name for each in found}
    for path in sorted(directory.glob("*.avsc")):
        if path.stem not in names:
            _parsed(path.read_text(errors="replace"), str(path))
            click.echo(show.clean(f"{path.stem}: no earlier version"))
    return _told(found)


def against_released(directory: Path) -> Iterator[Comparison]:
    """Compare each schema of a folder with its released versions. Raises UsageError for what cannot be read."""
    names = sorted({path.name for path in (directory / "released").glob("*") if path.is_dir()})
    if not names and not list(directory.glob("*.avsc")):
        raise UsageError(f"{directory} has no schemas: neither NAME.avsc nor released/NAME/vN.avsc")
    for name in names:
        earlier = {f"v{number}": text for number, text in _released(directory, name).items()}
        yield from _compared(directory, name, earlier)


def register(settings: Settings, tell: Tell) -> int:
    """Register what is not registered yet, and set the compatibility of each subject.

    Exit status 1, and nothing is registered, where anything is incompatible. Raises UsageError where no registry is
    set, BrokerError where it refuses or does not answer.
    """
    from auditgap.adapters import registry

    if settings.registry.url is None:
        raise UsageError("no registry is set: say where it is with AUDITGAP_REGISTRY__URL")
    directory = resources.path("schemas")
    if broken := [each for each in _against_registry(settings, directory) if each.broken]:
        return _told(broken)
    live, done = registry.Registry(settings.registry), 0
    for subject, name in registry.subjects(settings.topics).items():
        text = avro.schema_text(name)
        if live.id_of(subject, text) is None:
            number = live.register(subject, text)
            tell(f"registered schemas/{name}.avsc under {subject}: id {number}")
            done += 1
        # After the first version: a registry need not know a subject that has none.
        if not live.guarded(subject):
            live.guard(subject)
            tell(f"set the compatibility of {subject} to {compatibility.LEVEL}")
            done += 1
    if not done:
        tell(f"nothing to do: the registry at {live.url} has all schemas")
    return 0


def _against_registry(settings: Settings, directory: Path) -> list[Comparison]:
    from auditgap.adapters import registry

    live = registry.Registry(settings.registry)
    found: list[Comparison] = []
    for subject, name in registry.subjects(settings.topics).items():
        versions = {f"{subject} version {number}": text for number, text in live.versions(subject).items()}
        found += _compared(directory, name, versions)
    return found


def _compared(directory: Path, name: str, earlier: Mapping[str, str]) -> Iterator[Comparison]:
    path = directory / f"{name}.avsc"
    try:
        text = path.read_text()
    except FileNotFoundError:
        text = None
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} cannot be read: {error}") from None
    new = None if text is None else _parsed(text, str(path))
    for version, old in earlier.items():
        before = _parsed(old, f"{name} {version}")
        broken = [f"{path.name} is gone"] if new is None else compatibility.differences(new, before)
        yield Comparison(name, version, broken)


def _released(directory: Path, name: str) -> dict[int, str]:
    try:
        found = avro.released(directory, name)
    except (OSError, ValueError) as error:
        raise UsageError(f"{directory / 'released' / name} cannot be read: {error}") from None
    if list(found) != list(range(1, len(found) + 1)):
        raise UsageError(f"{directory / 'released' / name} does not have every version from v1.avsc on")
    return found


def _parsed(text: str, what: str) -> Schema:
    try:
        return compatibility.parse(text)
    except ValueError as error:
        raise UsageError(f"{what} is no Avro schema: {error}") from None


def _told(found: list[Comparison]) -> int:
    for each in found:
        click.echo(show.clean(f"{each.name}: {'incompatible' if each.broken else 'compatible'} with {each.earlier}"))
        for line in each.broken:
            click.echo(show.clean(f"  {line}"))
    return 1 if any(each.broken for each in found) else 0
