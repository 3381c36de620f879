"""The file that says who is told: YAML to routes, or every fault with its line. It names only where secrets are."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator

from auditgap.adapters import yaml_file
from auditgap.adapters.yaml_file import Document, Shape, checked, is_organization
from auditgap.core.inputs import FEED_SUBJECT_PREFIX, PARENT_SUBJECT_PREFIX, shown
from auditgap.core.notify import CANARY_PREFIX, Rule
from auditgap.core.records import Severity


@dataclass(frozen=True, slots=True)
class Secret:
    """Where a secret is: in a file or in a variable of the environment."""

    file: Path | None
    variable: str | None


@dataclass(frozen=True, slots=True)
class Target:
    """Where notices go: to a webhook (an URL, and the secret that signs), or to Apprise (its URLs are the secret)."""

    name: str
    webhook: str | None
    secret: Secret


@dataclass(frozen=True, slots=True)
class Route:
    """A target, and which notices go there."""

    target: Target
    rule: Rule


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """A dead man's switch: what is pinged, how often, and the organization that does not exist."""

    url: str
    period_seconds: float
    organization: str


@dataclass(frozen=True, slots=True)
class NotifyFile:
    """What the file says."""

    routes: tuple[Route, ...]
    fallback: Target
    retry_seconds: float
    heartbeat: Heartbeat | None


def read(name: str, content: bytes) -> NotifyFile | list[str]:
    """Read a file; where it is wrong, give all that is wrong as lines for a person."""
    return yaml_file.read(name, content, "notification routing", "routes and fallback", _understand)


# --- the shape --------------------------------------------------------------------------------------------------------


def _name(value: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_.-]{1,60}", value):
        raise ValueError(f"{shown(value)} is no name: letters, digits and _ . - are")
    return value


def _severity(value: object) -> object:
    known = [each.name.lower() for each in Severity if each]
    if value not in known:
        raise ValueError(f"{shown(value)} is no severity: there are {', '.join(known)}")
    return Severity[str(value).upper()]


def _url(value: str) -> str:
    try:
        parts = urlsplit(value)
        right = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        right = False
    if not right or not value.isprintable() or " " in value:
        raise ValueError("has to be a URL that begins with http:// or https://")
    if parts.username is not None or parts.password is not None:
        raise ValueError("has a password in it: it has no place in the file")
    return value


def _variable(value: str) -> str:
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", value) or value.startswith("AUDITGAP_"):
        raise ValueError(f"{shown(value)} is no name of a variable (and those of AUDITGAP_… are settings)")
    return value


def _seconds(least: float, most: float) -> BeforeValidator:
    def understood(value: object) -> object:
        try:
            number = float(str(value))
        except ValueError:
            number = 0.0
        if not least <= number <= most:
            raise ValueError(f"{shown(value)} is no number of seconds from {least:g} to {most:g}")
        return number

    return BeforeValidator(understood)


def _subject(value: str) -> str:
    prefix = next((each for each in (FEED_SUBJECT_PREFIX, PARENT_SUBJECT_PREFIX) if value.startswith(each)), "")
    if not (len(value) > len(prefix) if prefix else is_organization(value)):
        raise ValueError(f"{shown(value)} is no id of an organization, nor feed/ID, nor parent/ID")
    return value


def _synthetic(value: str) -> str:
    if not value.startswith(CANARY_PREFIX) or not is_organization(value):
        raise ValueError(f"has to begin with {CANARY_PREFIX}: nobody is paged for such an organization")
    return value


_Url = Annotated[str, AfterValidator(_url)]
_Variable = Annotated[str, AfterValidator(_variable)]


class _Target(Shape):
    webhook: _Url | None = None
    secret_file: str | None = None
    secret_env: _Variable | None = None
    apprise_file: str | None = None
    apprise_env: _Variable | None = None


class _Route(_Target):
    name: Annotated[str, AfterValidator(_name)]
    severity: Annotated[Severity, BeforeValidator(_severity)] = Severity.HIGH
    organizations: tuple[Annotated[str, AfterValidator(_subject)], ...] | None = None


class _Heartbeat(Shape):
    url: _Url
    period_seconds: Annotated[float, _seconds(1, 86_400)] = 300.0
    organization: Annotated[str, AfterValidator(_synthetic)] = CANARY_PREFIX


class _File(Shape):
    routes: list[dict[str, Any]]
    fallback: dict[str, Any]
    retry_seconds: Annotated[float, _seconds(0, 120)] = 60.0
    heartbeat: dict[str, Any] | None = None


FALLBACK: Final = "fallback"
"""The name of the second route."""


def _understand(data: dict[str, Any], document: Document) -> NotifyFile | None:
    """Make what the file says. Each part is looked at by itself, so that a fault in one hides none in another."""
    head = checked(_File, data, (), document)
    routes, names = [], {FALLBACK}
    given = data.get("routes")
    for number, each in enumerate(given if isinstance(given, list) else ()):
        path: yaml_file.Path = ("routes", number)
        if (route := checked(_Route, each, path, document)) is None:
            continue
        if route.name in names:
            document.fault((*path, "name"), f"{route.name} is taken: each route has a name of its own")
        names.add(route.name)
        if route.organizations == ():
            document.fault((*path, "organizations"), "names none: leave it out for all")
        subjects = None if route.organizations is None else frozenset(route.organizations)
        if (target := _target(route.name, route, path, document)) is not None:
            routes.append(Route(target, Rule(route.severity, subjects)))
    if given == []:
        document.fault(("routes",), "names none: nobody would be told")
    fallback = heartbeat = None
    if "fallback" in data and (second := checked(_Target, data["fallback"], ("fallback",), document)) is not None:
        fallback = _target(FALLBACK, second, ("fallback",), document)
    if "heartbeat" in data and (beat := checked(_Heartbeat, data["heartbeat"], ("heartbeat",), document)) is not None:
        heartbeat = Heartbeat(beat.url, beat.period_seconds, beat.organization)
    if head is None or fallback is None or document.faults:
        return None
    return NotifyFile(tuple(routes), fallback, head.retry_seconds, heartbeat)


def _target(name: str, given: _Target, path: yaml_file.Path, document: Document) -> Target | None:
    """Make a target; None after its fault was noted."""
    places: Mapping[str, str | None] = given.model_dump(include=_TARGET_FIELDS)
    present = {each for each, value in places.items() if value is not None}
    if given.webhook is not None:
        file, variable, wrong = given.secret_file, given.secret_env, present & {"apprise_file", "apprise_env"}
        needs = "a webhook needs one of secret_file and secret_env"
    else:
        file, variable, wrong = given.apprise_file, given.apprise_env, present & {"secret_file", "secret_env"}
        needs = "needs a webhook, or one of apprise_file and apprise_env"
    if wrong:
        document.fault((*path, min(wrong)), "does not go with this: a webhook has a secret, Apprise has URLs")
        return None
    if (file is None) == (variable is None):
        document.fault(path, needs)
        return None
    return Target(name, given.webhook, Secret(None if file is None else Path(file), variable))


_TARGET_FIELDS: Final = set(_Target.model_fields)
