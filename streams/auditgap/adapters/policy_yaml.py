"""The policy file: YAML to rules, or every fault with its line."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated, Any, Final

from pydantic import AfterValidator, BeforeValidator, model_validator

from auditgap.adapters import yaml_file
from auditgap.adapters.yaml_file import Document, Id, Path, Shape, Text, Time, checked, is_organization, no_secret
from auditgap.core import policy
from auditgap.core.inputs import shown


@dataclass(frozen=True, slots=True)
class PolicyFile:
    """What a policy file says: the rules of each organization, the defaults filled in."""

    author: str | None
    valid_from: int | None
    defaults: policy.Rules
    organizations: Mapping[str, policy.Rules]


def read(name: str, content: bytes) -> PolicyFile | list[str]:
    """Read a policy file; where it is wrong, give all that is wrong as lines for a person."""
    return yaml_file.read(name, content, "policy", "defaults, organizations or both", _understand)


# --- the shape --------------------------------------------------------------------------------------------------------

_DURATION: Final = re.compile(r"(\d{1,6})([smhd])")
_SIZES: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_LONGEST: Final = 366 * 86_400


def _duration(value: object) -> object:
    found = _DURATION.fullmatch(value) if isinstance(value, str) else None
    if not found or not 0 < (seconds := int(found[1]) * _SIZES[found[2]]) <= _LONGEST:
        raise ValueError(f"{shown(value)} is no length of time up to a year: write it as 90s, 15m, 4h or 2d")
    return seconds


def _boolean(value: object) -> object:
    if value not in ("true", "false"):
        raise ValueError(f"{shown(value)} is neither true nor false")
    return value == "true"


def _email(value: str) -> str:
    no_secret(value)
    if not (_EMAIL.fullmatch(value) and value.isprintable()):
        raise ValueError(f"{shown(value)} is no e-mail address of one person: write it as name@example.com")
    return value


_EMAIL: Final = re.compile(r"[^@\s*]{1,200}@[^@\s*]{1,200}")


def _key(value: str) -> str:
    no_secret(value)
    if not _KEY.fullmatch(value):
        raise ValueError(f"{shown(value)} is no full id of a key: it begins with {' or '.join(policy.KEY_PREFIXES)}")
    return value


_KEY: Final = re.compile(rf"(?:{'|'.join(policy.KEY_PREFIXES)})[A-Za-z0-9_-]{{1,200}}")


def _gap_id(value: str) -> str:
    if not _GAP_ID.fullmatch(value):
        raise ValueError(f"{shown(value)} is no id of a gap: `auditgap gaps` shows them (gap_ and 24 digits)")
    return value


_GAP_ID: Final = re.compile(r"gap_[0-9a-f]{24}")

_Email = Annotated[str, AfterValidator(_email)]
_Key = Annotated[str, AfterValidator(_key)]
_Duration = Annotated[int, BeforeValidator(_duration)]
_Boolean = Annotated[bool, BeforeValidator(_boolean)]


class _Actors(Shape):
    users: tuple[Id, ...] = ()
    emails: tuple[_Email, ...] = ()
    keys: tuple[_Key, ...] = ()
    service_accounts: tuple[Id, ...] = ()

    def value(self) -> policy.Actors:
        return policy.Actors(**{name: tuple(values) for name, values in self})


class _Window(Shape):
    id: Text
    reason: Text
    actors: _Actors
    registered_at: Time
    start: Time
    end: Time

    @model_validator(mode="after")
    def _possible(self) -> "_Window":
        self.value()
        return self

    def value(self) -> policy.ChangeWindow:
        return policy.ChangeWindow(**{**dict(self), "actors": self.actors.value()})


class _Acknowledgement(Shape):
    gap: Annotated[str, AfterValidator(_gap_id)]
    until: Time
    reason: Text


def _rising(value: list[int]) -> list[int]:
    if not value or any(later <= sooner for sooner, later in pairwise(value)):
        raise ValueError("has to be one length of time or more, each longer than the one before")
    return value


class _Rules(Shape):
    """Rules of the defaults. What is None is not said."""

    owners: _Actors | None = None
    authorised: _Actors | None = None
    watcher_keys: tuple[_Key, ...] = ()
    proof_limit: _Duration | None = None
    settle: _Duration | None = None
    gap_still_open: Annotated[list[_Duration], AfterValidator(_rising)] | None = None

    def filled(self, below: policy.Rules) -> dict[str, Any]:
        """Give the fields of Rules: what is said takes the place of the default, but watcher keys are added."""
        return {
            "owners": self.owners.value() if self.owners else below.owners,
            "authorised": self.authorised.value() if self.authorised else below.authorised,
            "watcher_keys": (*below.watcher_keys, *self.watcher_keys),
            "proof_limit_seconds": self.proof_limit or below.proof_limit_seconds,
            "settle_seconds": self.settle or below.settle_seconds,
            "gap_still_open_seconds": tuple(self.gap_still_open or below.gap_still_open_seconds),
        }


class _Organization(_Rules):
    decommissioned: _Boolean = False
    acknowledged: tuple[_Acknowledgement, ...] = ()
    change_windows: tuple[_Window, ...] = ()

    def filled(self, below: policy.Rules) -> dict[str, Any]:
        """Add what only an organization has."""
        return {
            **super().filled(below),
            "decommissioned": self.decommissioned,
            "acknowledged": tuple(
                policy.Acknowledgement(gap_id=each.gap, until=each.until, reason=each.reason)
                for each in self.acknowledged
            ),
            "change_windows": tuple(each.value() for each in self.change_windows),
        }


class _File(Shape):
    author: Text | None = None
    valid_from: Time | None = None
    defaults: dict[str, Any] | None = None
    organizations: dict[str, Any] | None = None


# --- from shape to rules ----------------------------------------------------------------------------------------------


def _understand(data: dict[str, Any], document: Document) -> PolicyFile | None:
    """Make the rules. Each part is looked at by itself, so that a fault in one hides none in another."""
    head = checked(_File, data, (), document)
    base = checked(_Rules, data.get("defaults", {}), ("defaults",), document)
    organizations = data.get("organizations")
    if not isinstance(organizations, dict):
        organizations = {}
    below = policy.Rules(**base.filled(policy.BEGINNING)) if base else policy.BEGINNING
    _refuse_authorised_watchers(below, ("defaults",), document)
    made = {}
    for name, given in organizations.items():
        path: Path = ("organizations", name)
        if not is_organization(name):
            document.fault(path, "is no id of an organization: give organization_id as the records of the feed have it")
        found = checked(_Organization, given, path, document)
        if found is not None and not _repeats(found, path, document):
            made[name] = policy.Rules(**found.filled(below))
            _refuse_authorised_watchers(made[name], path, document)
    if head is None or document.faults:
        return None
    return PolicyFile(head.author, head.valid_from, below, made)


def _repeats(found: _Organization, path: Path, document: Document) -> bool:
    """Refuse a gap or a change window that is named twice."""
    ok = True
    for what, ids in (
        ("acknowledged", [each.gap for each in found.acknowledged]),
        ("change_windows", [each.id for each in found.change_windows]),
    ):
        for number, each in enumerate(ids):
            if each in ids[:number]:
                document.fault((*path, what, number), f"{shown(each)} is there twice: keep one of them")
                ok = False
    return not ok


def _refuse_authorised_watchers(rules: policy.Rules, path: Path, document: Document) -> None:
    """Refuse a feed's own key among those who may change the settings."""
    watchers = {policy.key_suffix(each) for each in rules.watcher_keys}
    allowed = [rules.owners, rules.authorised, *(window.actors for window in rules.change_windows)]
    for suffix in {policy.key_suffix(key) for actors in allowed for key in actors.keys} & watchers:
        here = [
            place
            for place, text in document.texts.items()
            if place[: len(path)] == path and policy.key_suffix(text) == suffix
        ]
        # Where both stand in the defaults it is told there.
        if here:
            place = min(here, key=lambda each: "watcher_keys" in each)
            text = document.texts[place]
            document.fault(place, f"{text} is a watcher key, and the feed's own key is never authorised: take one out")
