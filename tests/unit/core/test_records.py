import json
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
from tests.unit.core.making import Run, act, alerts, at, setting

from auditgap.core import track
from auditgap.core.alerts import KINDS
from auditgap.core.records import (
    TIME_FIELDS,
    Alert,
    Emission,
    Gap,
    Severity,
    Status,
    alert_from_dict,
    as_dict,
    as_json,
    digest,
    gap_from_dict,
    identifier,
    status_from_dict,
)

SCHEMAS = Path(__file__).parents[3] / "schemas"


def published() -> list[Emission]:
    """A closed gap, its alerts, and what came before."""
    run = Run()
    run.take(act("a", 0), setting("off", 1, logging=False), setting("on", 2.5, logging=True), act("b", 3))
    run.settle()
    run.tick(60)
    return run.out


def schema_of(kind: type[Emission]) -> dict[str, Any]:
    """Read the schema of a gap or an alert: types by field name."""
    shape = json.loads((SCHEMAS / f"{kind.__name__.lower()}.avsc").read_text())
    return {field["name"]: field["type"] for field in shape["fields"]}


def fits(value: object, kind: Any, known: dict[str, Any]) -> bool:
    """Whether a value is of an Avro type."""
    match kind:
        case list():
            return any(fits(value, each, known) for each in kind)
        case {"type": "enum", "symbols": symbols}:
            known[f"io.auditgap.compliance.{kind['name']}"] = kind
            return value in symbols
        case {"type": "array", "items": items}:
            return isinstance(value, list) and all(fits(each, items, known) for each in value)
        case {"type": inner}:
            return fits(value, inner, known)
        case "null":
            return value is None
        case "string":
            return isinstance(value, str)
        case "boolean":
            return isinstance(value, bool)
        case "int" | "long":
            return isinstance(value, int) and not isinstance(value, bool)
        case "double":
            return isinstance(value, float)
    return fits(value, known[kind], known)


@pytest.mark.parametrize("kind", [Gap, Alert])
def test_the_schema_s_fields(kind: type[Emission]) -> None:
    """A record has exactly the fields of its schema, in the schema's order."""
    assert [field.name for field in fields(kind)] == list(schema_of(kind))
    for each in published():
        assert list(as_dict(each)) == list(schema_of(type(each)))


@pytest.mark.parametrize("record", published(), ids=lambda record: type(record).__name__)
def test_the_schema_s_types(record: Emission) -> None:
    """Each value of a published record is of its field's type in the schema."""
    known: dict[str, Any] = {}
    shape = as_dict(record)
    assert [name for name, kind in schema_of(type(record)).items() if not fits(shape[name], kind, known)] == []


def test_words_of_the_schema() -> None:
    """Every cause, severity and state that the core can write is a symbol of the schema."""
    gap, alert = schema_of(Gap), schema_of(Alert)
    assert set(track.CAUSES.values()) <= set(gap["cause"]["symbols"])
    assert {"OPEN", "CLOSED", "SUPERSEDED", "RETRACTED"} <= set(gap["state"]["symbols"])
    assert {severity.name for severity in Severity} <= set(alert["severity"]["symbols"])
    assert {"FIRING", "RESOLVED", "WITHDRAWN"} <= set(alert["status"]["symbols"])
    assert {row.severity for row in KINDS.values()} <= set(Severity)


def test_time_fields() -> None:
    """The fields that are written as times are those that the schemas call timestamps."""
    times = {
        name for kind in (Gap, Alert, Status) for name, type_ in schema_of(kind).items() if "timestamp" in str(type_)
    }
    assert times == TIME_FIELDS


@pytest.mark.parametrize("record", published(), ids=lambda record: type(record).__name__)
def test_back_from_a_dict(record: Emission) -> None:
    """A record comes back from its dictionary whole, also through JSON, and with fields of a newer schema in it."""
    shape = json.loads(json.dumps(as_dict(record))) | {"field_of_next_year": 1}
    back = {Gap: gap_from_dict, Alert: alert_from_dict, Status: status_from_dict}[type(record)](shape)
    assert back == record


def test_for_people() -> None:
    """For people times are ISO 8601 and all else is as it was; an unknown time stays null."""
    gap = [each for each in published() if isinstance(each, Gap)][-1]
    shape = as_json(as_dict(gap))
    assert (shape["opened_at"], shape["closed_at"]) == ("2026-11-01T12:00:01.000000Z", "2026-11-01T12:00:02.500000Z")
    assert (shape["duration_seconds"], shape["revision"]) == (1.5, gap.revision)
    assert as_json(as_dict(replace(gap, closed_at=None)))["closed_at"] is None


def test_a_digest_of_what_is_known() -> None:
    """Fields that are None do not count in a digest, so that a field added later changes none; all others do."""
    gap = [each for each in published() if isinstance(each, Gap)][-1]
    shape = as_dict(gap)
    assert digest(shape | {"field_of_next_year": None}) == digest(shape)
    assert digest({name: value for name, value in shape.items() if value is not None}) == digest(shape)
    assert digest(dict(reversed(shape.items()))) == digest(shape)
    for name, value in shape.items():
        if value is not None:
            assert digest(shape | {name: "x"}) != digest(shape)


def test_a_digest_anyone_can_compute() -> None:
    """The digest is SHA-256 over JSON with sorted keys, no spaces, and times in microseconds."""
    # printf '{"a":"\\u00fc","opened_at":1}' | sha256sum
    expected = "525bea5f"
    assert digest({"opened_at": 1, "a": "ü", "b": None})[:8] == expected


def test_severities_are_ordered() -> None:
    """The worst of several severities is their maximum."""
    assert max(Severity.LOW, Severity.HIGH, Severity.CRITICAL) is Severity.CRITICAL
    assert alerts(published())[0].severity is Severity.CRITICAL


def test_identifiers() -> None:
    """An id is made from its parts and the borders between them, and from nothing else."""
    assert identifier("gap", "a", "b") == identifier("gap", "a", "b")
    assert len({identifier("gap", *parts) for parts in (("a", "b"), ("ab",), ("b", "a"), ("", "ab"))}) == 4
    assert identifier("gap", "\ud800").startswith("gap_")
    assert at(0) > 0
