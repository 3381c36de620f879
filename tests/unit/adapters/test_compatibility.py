"""Which changes of a schema break a reader, and that each is named with its place."""

import copy
import json
from collections.abc import Callable
from typing import Any, Final

import pytest

from auditgap.adapters.compatibility import differences, parse

Shape = dict[str, Any]
Change = Callable[[Shape], None]

RELEASED: Final[Shape] = {
    "type": "record",
    "name": "Thing",
    "namespace": "com.example",
    "fields": [
        {"name": "id", "type": "string"},
        {"name": "count", "type": "int"},
        {"name": "at", "type": {"type": "long", "logicalType": "timestamp-micros"}},
        {"name": "note", "type": ["null", "string"], "default": None},
        {"name": "tags", "type": {"type": "array", "items": "string"}, "default": []},
        {
            "name": "state",
            "type": {"type": "enum", "name": "State", "symbols": ["ON", "OFF", "UNKNOWN"], "default": "UNKNOWN"},
        },
        {"name": "colour", "type": {"type": "enum", "name": "Colour", "symbols": ["RED", "BLUE"]}},
        {
            "name": "owner",
            "type": {
                "type": "record",
                "name": "Owner",
                "fields": [{"name": "name", "type": "string"}, {"name": "mail", "type": "string", "default": ""}],
            },
        },
        {"name": "limits", "type": {"type": "map", "values": "long"}, "default": {}},
        {"name": "sum", "type": {"type": "fixed", "name": "Sum", "size": 16}},
    ],
}


def field(shape: Shape, name: str) -> Shape:
    """Find a field of a record."""
    found: Shape = next(each for each in shape["fields"] if each["name"] == name)
    return found


def retyped(name: str, kind: object) -> Change:
    """Give a field another type."""
    return lambda shape: field(shape, name).update(type=kind)


def added(new: Shape, place: Callable[[Shape], Shape] = lambda shape: shape) -> Change:
    """Add a field to a record, at its end."""
    return lambda shape: place(shape)["fields"].append(new)


def removed(name: str, place: Callable[[Shape], Shape] = lambda shape: shape) -> Change:
    """Take a field away."""
    return lambda shape: place(shape)["fields"].remove(field(place(shape), name))


def owner(shape: Shape) -> Shape:
    """Find the inner record."""
    found: Shape = field(shape, "owner")["type"]
    return found


MILLIS: Final = {"type": "long", "logicalType": "timestamp-millis"}

BREAKING: Final[dict[str, tuple[Change, str]]] = {
    "a required field is added": (added({"name": "more", "type": "string"}), "more: is missing"),
    "a required field is removed": (removed("id"), "id: is missing"),
    "a field is renamed": (lambda shape: field(shape, "id").update(name="identifier"), "identifier: is missing"),
    "another type": (retyped("id", "long"), "id: long does not take string"),
    "a wider number": (retyped("count", "long"), "count: int does not take long"),
    "null is allowed": (retyped("id", ["null", "string"]), "id: string does not take null"),
    "null is no longer allowed": (retyped("note", "string"), "note: string does not take null"),
    "a union gets a branch": (retyped("note", ["null", "string", "long"]), "note: a union of null, string does not"),
    "an enum without a default gets a symbol": (
        lambda shape: field(shape, "colour")["type"]["symbols"].append("GREEN"),
        "colour: the enum knows no GREEN",
    ),
    "an enum without a default loses a symbol": (
        lambda shape: field(shape, "colour")["type"]["symbols"].remove("BLUE"),
        "colour: the enum knows no BLUE",
    ),
    "an enum loses its default": (
        lambda shape: field(shape, "state")["type"].pop("default"),
        "state: the default of the enum is taken away",
    ),
    "items of another type": (retyped("tags", {"type": "array", "items": "long"}), "tags[]: long does not take string"),
    "values of another type": (
        retyped("limits", {"type": "map", "values": "string"}),
        "limits{}: string does not take long",
    ),
    "a required field inside": (added({"name": "phone", "type": "string"}, owner), "owner.phone: is missing"),
    "another logical type": (retyped("at", MILLIS), "at: its logical type changes from timestamp-micros"),
    "no logical type": (retyped("at", "long"), "at: its logical type changes from timestamp-micros to none"),
    "another length": (retyped("sum", {"type": "fixed", "name": "Sum", "size": 20}), "sum: "),
    "another name of the record": (lambda shape: shape.update(name="Other"), "com.example.Other: it is called Other"),
    "another namespace": (lambda shape: shape.update(namespace="org.example"), "the schema: Thing moves"),
}

COMPATIBLE: Final[dict[str, Change]] = {
    "nothing": lambda _: None,
    "a field that may be null is added": added({"name": "more", "type": ["null", "string"], "default": None}),
    "a field with a default is added": added({"name": "more", "type": "long", "default": 0}),
    "a list with a default is added": added(
        {"name": "more", "type": {"type": "array", "items": "string"}, "default": []}
    ),
    "a field with a default is removed": removed("note"),
    "a field gets a default": lambda shape: field(shape, "id").update(default=""),
    "another default": lambda shape: field(shape, "tags").update(default=["none"]),
    "another order": lambda shape: shape["fields"].reverse(),
    "an explanation": lambda shape: field(shape, "id").update(doc="What it is."),
    "an alias": lambda shape: field(shape, "id").update(aliases=["identifier"]),
    "an enum with a default gets a symbol": lambda shape: field(shape, "state")["type"]["symbols"].append("BROKEN"),
    "an enum gets a default": lambda shape: field(shape, "colour")["type"].update(default="RED"),
    "a field with a default inside": added({"name": "phone", "type": "string", "default": ""}, owner),
    "a field with a default inside is removed": removed("mail", owner),
    "a property of somebody else's": lambda shape: field(shape, "id").update({"com.example.pii": True}),
}


def compared(change: Change) -> list[str]:
    """Change the released schema, and say what breaks."""
    shape = copy.deepcopy(RELEASED)
    change(shape)
    return differences(parse(json.dumps(shape)), parse(json.dumps(RELEASED)))


@pytest.mark.parametrize("kind", BREAKING)
def test_breaking_change_is_named(kind: str) -> None:
    """A change that breaks old or new readers is found, with the path of the field and what it is."""
    change, words = BREAKING[kind]
    found = compared(change)
    assert len(found) >= 1
    assert any(line.startswith(words) for line in found), found


@pytest.mark.parametrize("kind", COMPATIBLE)
def test_compatible_change_passes(kind: str) -> None:
    """A change that every reader understands is not refused."""
    assert compared(COMPATIBLE[kind]) == []


@pytest.mark.parametrize("text", ["{", "{}", '{"type": "record", "name": "X"}', '"strin"', "[]x", '{"type": "enum"}'])
def test_no_schema(text: str) -> None:
    """What is no schema is a ValueError with a reason in one line."""
    with pytest.raises(ValueError, match=r"^[^\n]+$"):
        parse(text)


def test_both_directions_are_said() -> None:
    """It is said whether the new version or readers of the old one fail."""
    assert compared(BREAKING["a required field is added"][0]) == [
        "more: is missing on the other side and has no default, so the new version cannot read old records"
    ]
    assert compared(BREAKING["a required field is removed"][0]) == [
        "id: is missing on the other side and has no default, so readers of the old version cannot read new ones"
    ]
