"""YAML files that people write: as plain data, or every fault with its line.

PyYAML gives the nodes with their places; every scalar is taken as the text that stands there, so that `no` is an id and
not a boolean. pydantic knows the shape; the place of each of its errors is looked up by path.
"""

import difflib
import re
from collections.abc import Callable
from typing import Annotated, Any, Final, TypeVar, cast, get_args

import yaml
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, ValidationError
from pydantic_core import ErrorDetails

from auditgap.core import times
from auditgap.core.inputs import organization_of, shown

Path = tuple[str | int, ...]
"""Where in the file: keys, and numbers in lists."""

MOST_BYTES: Final = 1_048_576
"""A larger file would not fit into records, and is none that a person has written."""


Made = TypeVar("Made")


def read(
    name: str, content: bytes, what: str, needs: str, understand: Callable[[dict[str, Any], "Document"], Made | None]
) -> Made | list[str]:
    """Read a file; where it is wrong, give all that is wrong as lines for a person.

    `understand` makes of the data what it means, or None after it has noted the faults. `what` names what the file
    holds, `needs` what has to be in it.
    """
    document = Document(what, needs)
    try:
        found = understand(document.load(content), document)
    except Unreadable as fault:
        return [f"{name}:{fault.line}: {fault}"]
    return found or [f"{name}:{line}: {text}" for line, text in sorted(set(document.faults))]


# --- the text ---------------------------------------------------------------------------------------------------------


class Unreadable(Exception):  # noqa: N818 - it never leaves `read`
    """A text that cannot be read any further, in a line."""

    def __init__(self, line: int, text: str) -> None:
        super().__init__(text)
        self.line = line


class Document:
    """The file as plain data, the line of each thing in it by path, and the faults found so far."""

    def __init__(self, what: str, needs: str) -> None:
        self._what = what
        self._needs = needs
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
        """Read the text. Raises Unreadable where there is no going on."""
        if len(content) > MOST_BYTES:
            raise Unreadable(1, f"the file is larger than {MOST_BYTES:,} bytes, which no {self._what} needs")
        try:
            text = content.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise Unreadable(content[: error.start].count(b"\n") + 1, "this is not UTF-8: save it as UTF-8") from None
        try:
            for event in yaml.parse(text, yaml.SafeLoader):
                if isinstance(event, yaml.AliasEvent):
                    line = event.start_mark.line + 1 if event.start_mark else 1
                    raise Unreadable(line, f"*{event.anchor} is an alias: write it out")
            node = yaml.compose(text, yaml.SafeLoader)
            data = None if node is None else self._plain(node, ())
        except yaml.reader.ReaderError as error:
            line = text[: error.position].count("\n") + 1
            raise Unreadable(line, "a character that YAML does not allow: take it out") from None
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            problem = " ".join(filter(None, (error.problem, error.context)))
            raise Unreadable(mark.line + 1 if mark else 1, f"this is not YAML: {problem}") from None
        except RecursionError:
            raise Unreadable(1, f"it is nested too deep for a {self._what}") from None
        if not isinstance(data, dict):
            raise Unreadable(1, f"there is no {self._what} in it: it needs {self._needs}")
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


def _time(value: object) -> object:
    found = times.parse(value) if isinstance(value, str) else None
    if found is None:
        raise ValueError(f"{shown(value)} is no time with a zone: write it as 2026-12-01T22:00:00Z")
    return found


def _text(value: str) -> str:
    if not value.isprintable() or value != value.strip() or not 0 < len(value) <= 500:
        raise ValueError(f"{shown(value)} has to be 1 to 500 printable characters, without spaces around them")
    return value


def _identifier(value: str) -> str:
    no_secret(value)
    if not _IDENTIFIER.fullmatch(value):
        raise ValueError(f"{shown(value)} is no whole id: give it as the records of the feed have it")
    return value


_IDENTIFIER: Final = re.compile(r"[A-Za-z0-9_:/.@-]{1,255}(?<!\.\.)")


def no_secret(value: str) -> None:
    """Refuse the secret of a key: it has no place in a file. Raises ValueError."""
    if value.startswith("sk-"):
        raise ValueError("this is the secret of a key, not its id: revoke the key, it was written down in the open")


def is_organization(name: str) -> bool:
    """Whether a name can be the id of an organization, as the records of the feed have it."""
    return bool(_ORGANIZATION.fullmatch(name)) and organization_of(name) is not None


_ORGANIZATION: Final = re.compile(r"[A-Za-z0-9_.:-]{1,255}")

Text = Annotated[str, AfterValidator(_text)]
Id = Annotated[str, AfterValidator(_identifier)]
Time = Annotated[int, BeforeValidator(_time)]


class Shape(BaseModel):
    """What every part of a file has in common: nothing in it that is not known."""

    model_config = ConfigDict(extra="forbid", frozen=True)


Given = TypeVar("Given", bound=Shape)


def checked(model: type[Given], value: object, path: Path, document: Document) -> Given | None:
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


def _said(error: ErrorDetails, model: type[Shape]) -> str:
    """Say what is wrong with a value, and what would be right."""
    match error["type"]:
        case "extra_forbidden":
            known = list(_model_at(model, error["loc"][:-1]).model_fields)
            near = difflib.get_close_matches(str(error["loc"][-1]), known, 1)
            return "is not known here: " + (f"did you mean {near[0]}?" if near else f"there are {', '.join(known)}")
        case "missing":
            return "is missing"
        case "list_type" | "tuple_type":
            return "has to be a list: `- ` lines, or [one, two]"
        case "model_type" | "dict_type":
            return "has to hold `key: value` lines"
        case "string_type":
            return "has to be text"
    return error["msg"].removeprefix("Value error, ")


def _model_at(model: type[Shape], path: Path) -> type[Shape]:
    """Find the model of a place inside a model."""
    kind: Any = model
    for part in path:
        kind = kind.model_fields[part].annotation if isinstance(part, str) else get_args(kind)[0]
        if type(None) in get_args(kind):
            kind = get_args(kind)[0]
    return cast("type[Shape]", kind)
