"""`auditgap policy check` and `auditgap policy apply`: the file that says who may change the settings."""

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import click

from auditgap import clock
from auditgap.adapters import policy_yaml
from auditgap.adapters.policy_yaml import PolicyFile
from auditgap.config import Settings
from auditgap.core import policy, times
from auditgap.core.policy import Actors, Policy, Rules
from auditgap.entrypoints import show, version_file
from auditgap.errors import UsageError

Tell = Callable[[str], None]

_TIMES: Final = frozenset({"registered_at", "start", "end", "until"})


def read(path: Path, tell: Tell) -> PolicyFile | None:
    """Read a policy file; None where it is wrong, after each fault was told with its line."""
    return version_file.read(path, tell, policy_yaml.read)


def check(path: Path, tell: Tell, *, as_json: bool) -> int:
    """Show what a policy file means. Exit status 2 if it is wrong."""
    file = read(path, tell)
    if file is None:
        return UsageError.exit_status
    rules = [(None, file.defaults), *sorted(file.organizations.items())]
    if as_json:
        for organization, each in rules:
            click.echo(show.json_of({"organization_id": organization, **_readable(asdict(each))}))
        return 0
    since = "from when it is applied" if file.valid_from is None else f"from {show.moment(file.valid_from)}"
    click.echo(
        f"{show.counted(len(file.organizations), 'organization')}, valid {since}, by {file.author or 'nobody yet'}"
    )
    for organization, each in rules:
        click.echo("\n".join(["", *rules_lines(organization, each)]))
    return 0


def apply(settings: Settings, path: Path, author: str | None, tell: Tell) -> int:
    """Publish what a policy file changes. Exit status 2 if it is wrong. Raises BrokerError."""
    from auditgap.adapters.policy_topic import PolicyTopic
    from auditgap.bootstrap import schema_ids

    file = read(path, tell)
    if file is None:
        return UsageError.exit_status
    author = version_file.author_of(path, author, file.author)
    with PolicyTopic(settings, schema_ids(settings), tell) as topic:
        changes = []
        now = clock.now()
        known = {each.organization_id for each in topic.policies if each.organization_id}
        for organization in (None, *sorted(known | file.organizations.keys())):
            rules = file.defaults if organization is None else file.organizations.get(organization, file.defaults)
            latest = policy.latest_of(topic.policies, organization)
            if latest and topic.in_place(latest) and policy.says_already(latest, rules, now, file.valid_from):
                continue
            changes.append((latest, policy.successor(latest, organization, rules, author, now, file.valid_from)))
        if changes:
            topic.publish(version for _, version in changes)
    for latest, version in changes:
        tell(show.clean(_told(latest, version, file)))
    if not changes:
        tell("nothing to do: the topic says what the file says")
    return 0


def _told(latest: Policy | None, version: Policy, file: PolicyFile) -> str:
    said = policy.difference(latest, version)
    if version.organization_id is not None and version.organization_id not in file.organizations:
        said = ("it is not in the file any more, so the defaults count", *said)
    return f"{version.organization_id or 'defaults'}: version {version.version}: {'; '.join(said)}"


def rules_lines(organization: str | None, rules: Rules) -> list[str]:
    """Show rules as a block of lines."""
    rows = [
        ("owners", _names(rules.owners)),
        ("authorised", _names(rules.authorised)),
        ("watcher keys", ", ".join(rules.watcher_keys) or "none"),
        ("proof limit", policy.length(rules.proof_limit_seconds)),
        ("settle", policy.length(rules.settle_seconds)),
        ("gap still open", policy.steps(rules)),
    ]
    rows += [
        ("acknowledged", f"{each.gap_id} until {show.moment(each.until)} ({each.reason})")
        for each in rules.acknowledged
    ]
    for window in rules.change_windows:
        when = f"{show.moment(window.start)} to {show.moment(window.end)}"
        rows.append(("change window", f"{window.id} ({window.reason}), {when}, by {_names(window.actors)}"))
    head = f"organization {organization}" if organization else "defaults, for every organization that says nothing else"
    if rules.decommissioned:
        head += " (decommissioned)"
    return [click.style(show.clean(head), bold=True), *(f"  {name:<17}{show.clean(text)}" for name, text in rows)]


def _names(actors: Actors) -> str:
    return ", ".join(policy.names(actors)) or "nobody"


def _readable(value: Any) -> Any:
    """Write times as ISO 8601."""
    if isinstance(value, dict):
        return {name: times.text_of(each) if name in _TIMES else _readable(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_readable(each) for each in value]
    return value
