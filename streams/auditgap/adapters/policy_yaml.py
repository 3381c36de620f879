"""The policy file: YAML to rules, or every fault with its line.

PyYAML gives the nodes with their places; every scalar is taken as the text that stands there, so that `no` is an id and
not a boolean. pydantic knows the shape; the place of each of its errors is looked up by path.
"""

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated, Any, Final, TypeVar, cast, get_args

import yaml
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, ValidationError, model_validator
from pydantic_core import ErrorDetails

from auditgap.core import policy, times
from auditgap.core.inputs import FEED_SUBJECT_PREFIX, shown

Path = tuple[str | int, ...]
"""Where in the file: keys, and numbers in lists."""

MOST_BYTES: Final = 1_048_576
"""A larger file would not fit into records, and is none that a person has written."""


@dataclass(frozen=True, slots=True)
class PolicyFile:
    """What a policy file says: the rules of each organization, the defaults filled in."""

    author: str | None
    valid_from: int | None
    defaults: policy.Rules
    organizations: Mapping[str, policy.Rules]


def read(name: str, content: bytes) -> PolicyFile | list[str]:
    """Read a policy file; where it is wrong, give all that is wrong as lines for a person."""
    document = _Document()
    try:
        found = _understand(document.load(content), document)
    except _Unreadable as fault:
        return [f"{name}:{fault.line}: {fault}"]
    return found or [f"{name}:{line}: {text}" for line, text in sorted(set(document.faults))]


# --- the text ---------------------------------------------------------------------------------------------------------


class _Unreadable(Exception):  # noqa: N818 - it never leaves this module
    def __init__(self, line: int, text: str) -> None:
        super().__init__(text)
        self.line = line


class _Document:
    """The file as plain data, the line of each thing in it by path, and the faults found so far."""

    def __init__(self) -> None:
        self.faults: list[tuple[int, str]] = []
        self.lines: dict[Path, int] = {(): 1}
        self.texts: dict[Path, str] = {}
        self._told: set[Path] = set()

    def fault(self, path: Path, text: str) -> None:
        """Note what is wrong at a path; the first fault there says enough."""
        if path not in self._told:
            self._told.add(path)
            self.faults.append((self.line_of(path), f"{_shown_path(path)}: {text}"))

    def line_of(self, path: Path) -> int:
        """Find the line of a path, or of what it would stand in."""
        while path not in self.lines:
            path = path[:-1]
        return self.lines[path]

    def load(self, content: bytes) -> Any:
        """Read the text. Raises _Unreadable where there is no going on."""
        if len(content) > MOST_BYTES:
            raise _Unreadable(1, f"the file is larger than {MOST_BYTES:,} bytes, which no policy needs")
        try:
            text = content.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise _Unreadable(content[: error.start].count(b"\n") + 1, "this is not UTF-8: save it as UTF-8") from None
        try:
            for event in yaml.parse(text, yaml.SafeLoader):
                if isinstance(event, yaml.AliasEvent):
                    line = event.start_mark.line + 1 if event.start_mark else 1
                    raise _Unreadable(line, f"*{event.anchor} is an alias: write it out, or use defaults")
            node = yaml.compose(text, yaml.SafeLoader)
            data = None if node is None else self._plain(node, ())
        except yaml.reader.ReaderError as error:
            line = text[: error.position].count("\n") + 1
            raise _Unreadable(line, "a character that YAML does not allow: take it out") from None
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            problem = " ".join(filter(None, (error.problem, error.context)))
            raise _Unreadable(mark.line + 1 if mark else 1, f"this is not YAML: {problem}") from None
        except RecursionError:
            raise _Unreadable(1, "it is nested too deep: a policy has six levels") from None
        if not isinstance(data, dict):
            raise _Unreadable(1, "there is no policy in it: it needs defaults, organizations or both")
        return data

    def _plain(self, node: yaml.Node, path: Path) -> Any:
        self.lines.setdefault(path, node.start_mark.line + 1)
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, path)
        if isinstance(node, yaml.SequenceNode):
            return [self._plain(each, (*path, number)) for number, each in enumerate(node.value)]
        if node.tag not in _TAGS:
            self.fault(path, f"the tag {node.tag} is not used here: write plain text")
        self.texts[path] = str(node.value)
        return str(node.value)

    def _mapping(self, node: yaml.MappingNode, path: Path) -> dict[str, Any]:
        data: dict[str, Any] = {}
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                self.faults.append((key.start_mark.line + 1, f"{_shown_path(path)}: a key has to be plain text"))
                continue
            inner = (*path, str(key.value))
            if inner in self.lines:
                line = key.start_mark.line + 1
                self.faults.append((line, f"{_shown_path(inner)} is there twice, first in line {self.lines[inner]}"))
                continue
            self.lines[inner] = key.start_mark.line + 1
            if value.tag == _NULL:
                self.fault(inner, "is empty: give it a value (nothing of it: {} or []), or leave it out")
            else:
                data[str(key.value)] = self._plain(value, inner)
        return data


_NULL: Final = "tag:yaml.org,2002:null"
_TAGS: Final = {
    f"tag:yaml.org,2002:{name}" for name in ("str", "bool", "int", "float", "timestamp", "value", "merge", "null")
}
"""What a plain scalar may look like to YAML; it is text here."""


def _shown_path(path: Path) -> str:
    return ".".join(part if part.isprintable() else shown(part) for part in path if isinstance(part, str)) or "the file"


# --- the shape --------------------------------------------------------------------------------------------------------

_DURATION: Final = re.compile(r"(\d{1,6})([smhd])")
_SIZES: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_LONGEST: Final = 366 * 86_400


def _duration(value: object) -> object:
    found = _DURATION.fullmatch(value) if isinstance(value, str) else None
    if not found or not 0 < (seconds := int(found[1]) * _SIZES[found[2]]) <= _LONGEST:
        raise ValueError(f"{shown(value)} is no length of time up to a year: write it as 90s, 15m, 4h or 2d")
    return seconds


def _time(value: object) -> object:
    found = times.parse(value) if isinstance(value, str) else None
    if found is None:
        raise ValueError(f"{shown(value)} is no time with a zone: write it as 2026-12-01T22:00:00Z")
    return found


def _boolean(value: object) -> object:
    if value not in ("true", "false"):
        raise ValueError(f"{shown(value)} is neither true nor false")
    return value == "true"


def _text(value: str) -> str:
    if not value.isprintable() or value != value.strip() or not 0 < len(value) <= 500:
        raise ValueError(f"{shown(value)} has to be 1 to 500 printable characters, without spaces around them")
    return value


def _identifier(value: str) -> str:
    _no_secret(value)
    if not _IDENTIFIER.fullmatch(value):
        raise ValueError(f"{shown(value)} is no whole id: give it as the records of the feed have it")
    return value


_IDENTIFIER: Final = re.compile(r"[A-Za-z0-9_:/.@-]{1,255}(?<!\.\.)")


def _email(value: str) -> str:
    _no_secret(value)
    if not (_EMAIL.fullmatch(value) and value.isprintable()):
        raise ValueError(f"{shown(value)} is no e-mail address of one person: write it as name@example.com")
    return value


_EMAIL: Final = re.compile(r"[^@\s*]{1,200}@[^@\s*]{1,200}")


def _key(value: str) -> str:
    _no_secret(value)
    if not _KEY.fullmatch(value):
        raise ValueError(f"{shown(value)} is no full id of a key: it begins with {' or '.join(policy.KEY_PREFIXES)}")
    return value


_KEY: Final = re.compile(rf"(?:{'|'.join(policy.KEY_PREFIXES)})[A-Za-z0-9_-]{{1,200}}")


def _no_secret(value: str) -> None:
    if value.startswith("sk-"):
        raise ValueError("this is the secret of a key, not its id: revoke the key, it was written down in the open")


def _gap_id(value: str) -> str:
    if not _GAP_ID.fullmatch(value):
        raise ValueError(f"{shown(value)} is no id of a gap: `auditgap gaps` shows them (gap_ and 24 digits)")
    return value


_GAP_ID: Final = re.compile(r"gap_[0-9a-f]{24}")

_Text = Annotated[str, AfterValidator(_text)]
_Id = Annotated[str, AfterValidator(_identifier)]
_Email = Annotated[str, AfterValidator(_email)]
_Key = Annotated[str, AfterValidator(_key)]
_Time = Annotated[int, BeforeValidator(_time)]
_Duration = Annotated[int, BeforeValidator(_duration)]
_Boolean = Annotated[bool, BeforeValidator(_boolean)]


class _Shape(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


_Given = TypeVar("_Given", bound=_Shape)


class _Actors(_Shape):
    users: list[_Id] = []
    emails: list[_Email] = []
    keys: list[_Key] = []
    service_accounts: list[_Id] = []

    def value(self) -> policy.Actors:
        return policy.Actors(**{name: tuple(values) for name, values in self})


class _Window(_Shape):
    id: _Text
    reason: _Text
    actors: _Actors
    registered_at: _Time
    start: _Time
    end: _Time

    @model_validator(mode="after")
    def _possible(self) -> "_Window":
        self.value()
        return self

    def value(self) -> policy.ChangeWindow:
        return policy.ChangeWindow(**{**dict(self), "actors": self.actors.value()})


class _Acknowledgement(_Shape):
    gap: Annotated[str, AfterValidator(_gap_id)]
    until: _Time
    reason: _Text


def _rising(value: list[int]) -> list[int]:
    if not value or any(later <= sooner for sooner, later in pairwise(value)):
        raise ValueError("has to be one length of time or more, each longer than the one before")
    return value


class _Rules(_Shape):
    """Rules of the defaults. What is None is not said."""

    owners: _Actors | None = None
    authorised: _Actors | None = None
    watcher_keys: list[_Key] = []
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
    acknowledged: list[_Acknowledgement] = []
    change_windows: list[_Window] = []

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


class _File(_Shape):
    author: _Text | None = None
    valid_from: _Time | None = None
    defaults: dict[str, Any] = {}
    organizations: dict[str, Any] = {}


# --- from shape to rules ----------------------------------------------------------------------------------------------


def _understand(data: dict[str, Any], document: _Document) -> PolicyFile | None:
    """Make the rules. Each part is looked at by itself, so that a fault in one hides none in another."""
    head = _checked(_File, data, (), document)
    base = _checked(_Rules, data.get("defaults", {}), ("defaults",), document)
    organizations = data.get("organizations")
    if not isinstance(organizations, dict):
        organizations = {}
    below = policy.Rules(**base.filled(policy.Rules())) if base else policy.Rules()
    _refuse_authorised_watchers(below, ("defaults",), document)
    made = {}
    for name, given in organizations.items():
        path: Path = ("organizations", name)
        if not _ORGANIZATION.fullmatch(name) or name.startswith(FEED_SUBJECT_PREFIX):
            document.fault(path, "is no id of an organization: give organization_id as the records of the feed have it")
        found = _checked(_Organization, given, path, document)
        if found is not None and not _repeats(found, path, document):
            made[name] = policy.Rules(**found.filled(below))
            _refuse_authorised_watchers(made[name], path, document)
    if head is None or document.faults:
        return None
    return PolicyFile(head.author, head.valid_from, below, made)


_ORGANIZATION: Final = re.compile(r"[A-Za-z0-9_.:-]{1,255}")


def _repeats(found: _Organization, path: Path, document: _Document) -> bool:
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


def _refuse_authorised_watchers(rules: policy.Rules, path: Path, document: _Document) -> None:
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


def _checked(model: type[_Given], value: object, path: Path, document: _Document) -> _Given | None:
    """Look whether a part has the shape of its model; what is wrong goes to the document's faults."""
    if not isinstance(value, dict):
        document.fault(path, "has to hold `key: value` lines")
        return None
    try:
        return model.model_validate(value)
    except ValidationError as error:
        for each in error.errors():
            document.fault((*path, *each["loc"]), _said(each, model))
    return None


def _said(error: ErrorDetails, model: type[_Shape]) -> str:
    """Say what is wrong with a value, and what would be right."""
    match error["type"]:
        case "extra_forbidden":
            known = list(_model_at(model, error["loc"][:-1]).model_fields)
            near = difflib.get_close_matches(str(error["loc"][-1]), known, 1)
            return "is not known here: " + (f"did you mean {near[0]}?" if near else f"there are {', '.join(known)}")
        case "missing":
            return "is missing"
        case "list_type":
            return "has to be a list: `- ` lines, or [one, two]"
        case "model_type" | "dict_type":
            return "has to hold `key: value` lines"
        case "string_type":
            return "has to be text"
    return error["msg"].removeprefix("Value error, ")


def _model_at(model: type[_Shape], path: Path) -> type[_Shape]:
    """Find the model of a place inside a model."""
    kind: Any = model
    for part in path:
        kind = kind.model_fields[part].annotation if isinstance(part, str) else get_args(kind)[0]
        if type(None) in get_args(kind):
            kind = get_args(kind)[0]
    return cast("type[_Shape]", kind)
